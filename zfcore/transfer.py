r"""Features that transfer: what a layer says of each picture, and linear heads on top of it (§5.2, §5.3).

A network is kept as it was trained; its layer n turns every picture of another data set into a vector
(:func:`extract_features`), and a new linear classifier learns from these vectors alone: the paper's
softmax (:func:`fit_softmax`) or a linear support vector machine (:func:`fit_svm`). Both minimise

.. math:: \frac{1}{n} \sum_i \ell(W^\top x_i + b,\, y_i) + \frac{\lambda \sigma^2}{2} \lVert W \rVert^2,

where :math:`\sigma^2` is the mean square distance of the features from their mean, so that λ means the
same on every layer, and the loss is cross-entropy, or the squared hinge of every class against the rest.
These are the problems that scikit-learn's ``LogisticRegression`` and ``LinearSVC`` solve, with
:math:`C = 1/(n \lambda \sigma^2)` and an intercept that is not penalised (``LinearSVC`` shrinks its own a
little); the tests compare the answers. λ is chosen on a fifth of the training pictures, held out class by
class, and the head is fitted again on all.

**Why it is fast.** With the norm as the only penalty, the best W lies in the span of the n training
features. So they are written once in an orthonormal basis of that span (:class:`Span`), found from
their n × n Gram matrix where they have more numbers than there are pictures: every inner product stays
as it is, and a layer of 37,632 numbers becomes at most n. In the basis of the Gram matrix's eigenvectors
the second moment is diagonal, so that a scaling of each axis makes the problem round, and L-BFGS needs a
few dozen steps for all classes at once.

Sources: Zeiler & Fergus, §5.2 and §5.3, doi:10.1007/978-3-319-10590-1_53; Fan et al. 2008, LIBLINEAR,
https://jmlr.org/papers/v9/fan08a.html.

Example::

    from zfcore.data import patches, to_input
    from zfcore.model import load
    from zfcore.transfer import extract_features, fit_softmax
    network, card = load("zfnet-64")
    pictures = patches("val")
    x = to_input(pictures.pixels.permute(0, 2, 3, 1), card)
    features = extract_features(network, x.split(100), "layer 5")         # (1000, 4608)
    head = fit_softmax(features[::2], pictures.labels[::2])
    (head.predict(features[1::2]) == pictures.labels[1::2]).float().mean()
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.trace import trace

Array = np.ndarray | Tensor

#: The λ that are tried, from the strongest; each goes on from the weights of the one before.
STRENGTHS = tuple(float(f"{x:.2g}") for x in np.logspace(-1, -5, 9))
#: Those that follow where the weakest of them is the best, for as long as each is better than all before.
WEAKER = tuple(float(f"{x:.2g}") for x in np.logspace(-5.5, -8, 6))
#: What is taken where no class has a second picture to hold out.
DEFAULT_STRENGTH = 1e-3


# ------------------------------------------------------------------------------ features
def end_of_layer(model: nn.Module, layer: str) -> str:
    """The module at whose output ``"layer n"`` ends: after pooling and norm; from 6 on after the ReLU.

    Any other name is handed back as it is.

    Raises
    ------
    ValueError
        The network is none of :func:`zfcore.model.build`'s, or has no such layer.
    """
    word, _, number = layer.partition(" ")
    if word != "layer":
        return layer
    if not hasattr(getattr(model, "architecture", None), "named_layers"):
        raise ValueError(
            f"{layer!r} is a layer of the networks of zfcore.model; {type(model).__name__} has: "
            f"{', '.join(trace(model).layers)}"
        )
    ends = {str(known): path for known, path in model.architecture.ends().items()}
    if number not in ends:
        raise ValueError(f"there is no {layer!r} whose end is a feature; this network has {', '.join(ends)}")
    return ends[number]


@torch.no_grad()
def extract_features(
    model: nn.Module,
    loader: Iterable[Tensor | Sequence],
    layer: str | Sequence[str],
    *,
    folder: str | os.PathLike | None = None,
    memory: int = 2**30,
    batch_size: int = 64,
    progress: bool = False,
) -> Tensor | dict[str, Tensor]:
    """What a layer says of every picture, from one pass over them.

    The network always sees ``batch_size`` pictures at once, however the loader batches them (the last
    ones are repeated to make a batch whole): the features do not depend on the loader's batches, to
    the last bit.

    Parameters
    ----------
    model
        Any network that :func:`zfcore.trace.trace` follows; asked as in evaluation mode, not changed.
    loader
        Yields (B, 3, H, W), as the network takes them, or tuples whose first item is that.
    layer
        A name out of ``trace(model).layers``, or ``"layer n"`` (see :func:`end_of_layer`); or several, all
        from the same pass.
    folder
        Where the features are written, ``<layer>.npy`` each, a file whole or not there; they come back
        mapped from the disk.
    memory
        Without ``folder``: bytes of a layer beyond which it goes to an unnamed file and comes back mapped.
    batch_size
        Pictures in one forward pass.
    progress
        Whether a bar counts the pictures done.

    Returns
    -------
    Tensor or dict
        (N, D) float32 on the CPU, a picture's maps flattened in the order (C, H, W); for several layers
        a dict of them, by the names given.

    Raises
    ------
    ValueError
        An unknown layer (the message lists them), pictures the network does not take, or none at all.
    """
    names = [layer] if isinstance(layer, str) else list(layer)
    network = trace(model)
    ends = {name: end_of_layer(model, name) for name in names}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    paths = {name: None if folder is None else Path(folder) / f"{name}.npy" for name in names}
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(unit="picture", disable=not progress, leave=False))
        rows = {name: stack.enter_context(_Rows(path, memory)) for name, path in paths.items()}
        for pictures, count in _in_even_batches(loader, batch_size):
            pictures = pictures.to(device).contiguous(memory_format=torch.channels_last)
            found = network.activations(pictures, set(ends.values()))
            for name, end in ends.items():
                rows[name].add(found[end][:count].flatten(1).float().cpu().numpy())  # (B, C, H, W) -> (B, D)
            bar.update(count)
        features = {name: rows[name].done() for name in names}
    return features[layer] if isinstance(layer, str) else features


def _in_even_batches(loader: Iterable[Tensor | Sequence], size: int) -> Iterator[tuple[Tensor, int]]:
    """The loader's pictures, ``size`` at a time; the last batch is filled up. With the number that count."""
    rest: Tensor | None = None
    for item in loader:
        pictures = item if isinstance(item, Tensor) else item[0]
        rest = pictures if rest is None else torch.cat([rest, pictures])
        while len(rest) >= size:
            yield rest[:size], size
            rest = rest[size:]
    if rest is not None and len(rest):
        yield torch.cat([rest, rest[-1:].expand(size - len(rest), *rest.shape[1:])]), len(rest)


class _Rows:
    """A float32 array that grows by rows: in memory at first, then in a file.

    With a ``path`` the file is beside it until it is whole; what is not whole is gone after the block.
    """

    header = 128  # bytes of a .npy file before its numbers, for any shape of two axes

    def __init__(self, path: Path | None, memory: int):
        self.path, self.memory, self.parts, self.count, self.width = path, memory, [], 0, 0
        # Named by the process: two that extract the same features must not write into one file.
        self.partial = path and path.with_name(f".{path.name}.{os.getpid()}.part")
        self.file: IO[bytes] | None = None

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self.file is not None:
                self.file.close()
        finally:
            if self.partial is not None:
                self.partial.unlink(missing_ok=True)

    def add(self, rows: np.ndarray) -> None:
        self.parts.append(rows)
        self.count, self.width = self.count + len(rows), rows.shape[1]
        if self.file is None and (self.path or 4 * self.count * self.width > self.memory):
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.partial.open("w+b") if self.path else tempfile.TemporaryFile()  # noqa: SIM115
            self.file.write(b" " * self.header)
        if self.file is not None:
            self.file.writelines(part.tobytes() for part in self.parts)
            self.parts.clear()

    def done(self) -> Tensor:
        if not self.count:
            raise ValueError("the loader gave no picture; features need one at least")
        if self.file is None:
            return torch.from_numpy(np.concatenate(self.parts))
        shape = (self.count, self.width)
        self.file.seek(0)
        described = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, described)
        self.file.flush()
        if self.path:
            os.fsync(self.file.fileno())
            self.file.close()  # Windows moves no open file
            os.replace(self.partial, self.path)
        # Copy on write: torch wants to be allowed to write, and the file stays as it is.
        return torch.from_numpy(np.memmap(self.path or self.file, np.float32, "c", self.header, shape))


# ------------------------------------------------------------------------------ the span of the training set
class Span:
    """The span of some pictures' features, in an orthonormal basis that makes their second moment diagonal.

    It is all that a head learns from, so heads on the same pictures can share one: ``fit_softmax(span,
    labels)`` and ``fit_svm(span, labels)``.

    ``z`` is (n, r), the features minus their mean in that basis, the direction of the largest moment first:
    ``z @ z.T`` is their Gram matrix, to rounding. r is at most n − 1 and at most D. ``moments`` (r,) are the
    column sums of ``z**2``, ``mean`` (D,) is the features' mean.

    Parameters
    ----------
    features
        (n, D), numpy or torch, float32 or float64; the arithmetic of the basis is float64.

    Raises
    ------
    ValueError
        Not two axes, no rows, or values that are not finite.
    """

    def __init__(self, features: Array):
        self.is_tensor = isinstance(features, Tensor)
        x = _matrix(features)
        n, d = x.shape
        if not n:
            raise ValueError("there are no features to learn from; give one row per picture")
        self.mean = x.mean(0, dtype=np.float64)
        # The smaller of the two moment matrices, from blocks of columns or of rows.
        moment = np.zeros((min(n, d),) * 2)
        for part in _blocks(d if d > n else n):
            block = x[:, part] - self.mean[part] if d > n else (x[part] - self.mean).T  # float64
            moment += block @ block.T
        if not np.isfinite(moment).all():
            raise ValueError(
                "the features hold values that are not finite; look at the network and its input"
            )
        moments, vectors = eigh(moment, driver="evd", overwrite_a=True, check_finite=False)
        kept = moments > moments[-1] * len(moments) * np.finfo(np.float64).eps
        kept[-1] = True  # features that are all the same have no direction; one keeps the arithmetic whole
        self.moments, vectors = np.maximum(moments[kept][::-1], 1e-300), vectors[:, kept][:, ::-1]
        if d > n:
            self._x, self._basis = x, vectors / np.sqrt(self.moments)  # the basis is (x - mean).T @ _basis
            z = vectors * np.sqrt(self.moments)
        else:
            self._x, self._basis = None, vectors
            z = (x - self.mean) @ vectors
        self.z = z.astype(x.dtype)

    def __len__(self) -> int:
        return len(self.z)

    def lift(self, weights: np.ndarray) -> np.ndarray:
        """Weights (r, C) of the basis as weights (D, C) of the features, float64."""
        coefficients = self._basis @ weights
        if self._x is None:
            return coefficients
        lifted = -np.outer(self.mean, coefficients.sum(0))
        for part in _blocks(self._x.shape[1]):
            lifted[part] += self._x[:, part].T.astype(np.float64) @ coefficients
        return lifted


def _numpy(values: Array) -> np.ndarray:
    """Values as numpy has them, from whichever device; it has no bfloat16, which becomes float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _matrix(features: Array) -> np.ndarray:
    x = _numpy(features)
    if x.ndim != 2:
        raise ValueError(
            f"features are (N, D), one row per picture; given is {x.shape}; flatten the maps first"
        )
    return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)


def _blocks(length: int, size: int = 4096) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


# ------------------------------------------------------------------------------ heads
@dataclass(frozen=True)
class Head:
    """A linear classifier over features: W (D, C), b (C,), and the C labels it knows, sorted.

    ``kind`` is ``"softmax"`` or ``"svm"``; ``strength`` the λ it was fitted with, ``tried`` the share of the
    held-out pictures that each λ got right, empty where nothing was held out.
    """

    kind: str
    weights: Array
    bias: Array
    classes: Array
    strength: float
    tried: dict[float, float]

    def decision(self, features: Array) -> Array:
        """Scores (N, C) of features (N, D), ``classes`` in their order; numpy or torch as given.

        For a softmax head the logits, for an SVM the distances, in margins, from each class's plane.
        """
        return _like(features, self._scores(features))

    def predict(self, features: Array) -> Array:
        """The label (N,) of the largest score, of equals the first; numpy or torch as given."""
        return _like(features, _numpy(self.classes)[self._scores(features).argmax(1)])

    def _scores(self, features: Array) -> np.ndarray:
        x, weights, bias = _matrix(features), _numpy(self.weights), _numpy(self.bias)
        if x.shape[1] != len(weights):
            raise ValueError(
                f"features of {x.shape[1]} numbers for a head of {len(weights)}; take the same layer"
            )
        return x @ weights.astype(x.dtype) + bias.astype(x.dtype)


def _like(given: object, values: np.ndarray) -> Array:
    return torch.from_numpy(values).to(given.device) if isinstance(given, Tensor) else values


# Losses over scores (n, C) and the places of the labels (n,): (sum, gradient (n, C)).
def _cross_entropy(scores: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    rows = np.arange(len(y))
    log_sum = logsumexp(scores, 1)
    gradient = np.exp(scores - log_sum[:, None])
    gradient[rows, y] -= 1
    return float((log_sum - scores[rows, y]).sum(dtype=np.float64)), gradient


def _squared_hinge(scores: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    sign = np.full_like(scores, -1)
    sign[np.arange(len(y)), y] = 1
    short = np.maximum(0, 1 - sign * scores)
    return float(np.square(short).sum(dtype=np.float64)), -2 * sign * short


_LOSSES: dict[str, Callable] = {"softmax": _cross_entropy, "svm": _squared_hinge}


def fit_softmax(
    features: Array | Span,
    labels: Array,
    *,
    strengths: Sequence[float] | None = None,
    groups: Array | None = None,
    seed: int = 0,
) -> Head:
    """The paper's new softmax: multinomial logistic regression with an L2 penalty.

    Parameters
    ----------
    features
        (n, D), numpy or torch, float32 or float64, which is also the precision of the fit; or their
        :class:`Span`, where several heads share it.
    labels
        (n,), whole numbers of any values.
    strengths
        The λ to choose from; with one, nothing is held out. By default :data:`STRENGTHS`, and weaker ones
        for as long as the weakest is the best.
    groups
        (n,), rows that must not be held out apart: the same picture under several labels.
    seed
        Draws the pictures that are held out: of every class a fifth, at least one where it has two.

    Returns
    -------
    Head
        Its weights and ``predict`` are numpy or torch as the features are.

    Raises
    ------
    ValueError
        Another number of labels than of rows, fewer than two classes, features that are not finite.
    """
    return _fit("softmax", features, labels, strengths, groups, seed)


def fit_svm(
    features: Array | Span,
    labels: Array,
    *,
    strengths: Sequence[float] | None = None,
    groups: Array | None = None,
    seed: int = 0,
) -> Head:
    """A linear support vector machine: the squared hinge of each class against the rest, L2 penalty.

    What scikit-learn calls ``LinearSVC``; parameters, result and errors are those of :func:`fit_softmax`.
    """
    return _fit("svm", features, labels, strengths, groups, seed)


def _fit(
    kind: str,
    features: Array | Span,
    labels: Array,
    strengths: Sequence[float] | None,
    groups: Array | None,
    seed: int,
) -> Head:
    span = features if isinstance(features, Span) else Span(features)
    classes, y = np.unique(_numpy(labels), return_inverse=True)
    if np.shape(labels) != (len(span),):
        raise ValueError(
            f"labels of shape {np.shape(labels)} for {len(span)} rows of features; give one each"
        )
    if len(classes) < 2:
        raise ValueError(f"there is one class, {classes.tolist()}; a classifier needs two")
    grid = STRENGTHS + WEAKER if strengths is None else tuple(strengths)
    if not grid or not all(0 <= strength < math.inf for strength in grid):
        raise ValueError(f"strengths are numbers of 0 or more, one at least; got {grid}")
    if groups is not None and len(groups) != len(y):
        raise ValueError(f"{len(groups)} groups for {len(y)} rows of features; give one each")
    solver = _Solver(kind, span, y, len(classes))
    start, tried = np.zeros((span.z.shape[1] + 1, len(classes))), {}
    held = _held_out(y, groups, seed)
    if len(grid) > 1 and held.any():
        found, best = {}, None
        for strength in sorted(grid, reverse=True):
            if strengths is None and strength in WEAKER and best != min(tried):
                break
            start = found[strength] = solver.solve(~held, strength, start)
            right = (span.z[held] @ start[:-1] + start[-1]).argmax(1) == y[held]
            tried[strength] = float(right.mean())
            best = max(tried, key=lambda s: (tried[s], s))  # of equals the strongest
        strength, start = best, found[best]
    else:
        strength = max(grid) if strengths is not None else DEFAULT_STRENGTH
    solution = solver.solve(np.ones(len(y), bool), strength, start)
    weights = span.lift(solution[:-1])
    bias = solution[-1] - span.mean @ weights
    as_given = torch.from_numpy if span.is_tensor else np.asarray
    parts = (part.astype(span.z.dtype) for part in (weights, bias))
    return Head(kind, *map(as_given, parts), as_given(classes), strength, tried)


def _held_out(y: np.ndarray, groups: Array | None, seed: int) -> np.ndarray:
    """Which rows choose λ: a fifth of every class, at least one where it has two; bool (n,)."""
    held = np.zeros(len(y), bool)
    order = np.random.default_rng(seed).permutation(len(y))
    for c in range(y.max() + 1):
        rows = order[y[order] == c]
        held[rows[: max(len(rows) // 5, min(1, len(rows) - 1))]] = True
    if groups is not None:
        groups = _numpy(groups)
        held = np.isin(groups, groups[held])
        if held.all():  # one group, or groups that hold each other: then nothing is left to learn from
            held[:] = False
    return held


class _Solver:
    """Minimises one loss over the coordinates of a span, for any rows and any λ."""

    def __init__(self, kind: str, span: Span, y: np.ndarray, classes: int):
        self.loss, self.z, self.y, self.classes = _LOSSES[kind], span.z, y, classes
        self.square = float(span.moments.sum()) / len(span)  # σ²
        self.moments = span.moments / len(span)

    def solve(self, rows: np.ndarray, strength: float, start: np.ndarray) -> np.ndarray:
        """The best (r + 1, C), weights above the intercepts, from ``start``; float64."""
        z, y, n = self.z[rows], self.y[rows], int(rows.sum())
        penalty = strength * self.square
        # In the variables v = scale · w the curvature is about the same in every direction: a loss bends by
        # some 1 / classes along a score, be it a softmax's p (1 - p) or the share of hinges that are active.
        scale = np.sqrt(np.append(self.moments / self.classes + penalty, 1 / self.classes))[:, None]

        def objective(v: np.ndarray) -> tuple[float, np.ndarray]:
            w = v.reshape(-1, self.classes) / scale
            value, slope = self.loss(z @ w[:-1].astype(z.dtype) + w[-1].astype(z.dtype), y)
            gradient = np.vstack([z.T @ slope, slope.sum(0)]).astype(np.float64) / n
            gradient[:-1] += penalty * w[:-1]
            value = value / n + 0.5 * penalty * float(np.square(w[:-1]).sum())
            return value, (gradient / scale).ravel()

        # The weaker the penalty, the smaller the least value: what is left is measured by λ. The squared
        # hinge stays small where λ is large, and asks for more.
        measure = min(strength, 1e-3) if self.loss is _squared_hinge else strength
        close = measure * (1e-9 if z.dtype == np.float64 else 1e-2)
        options = {"maxiter": 1000, "maxfun": 2000, "ftol": close, "gtol": 0.1 * close}
        found = minimize(objective, (start * scale).ravel(), jac=True, method="L-BFGS-B", options=options)
        if found.status == 1:  # 2, a step that no longer helps, is where the precision ends
            warnings.warn(
                f"a head of strength {strength:g} has not converged: {found.message.lower()}", stacklevel=2
            )
        return found.x.reshape(-1, self.classes) / scale
