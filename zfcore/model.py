r"""The networks of Zeiler & Fergus (2013) as frozen values, and the modules they are made of.

Figure 3 of the paper is ``ARCHITECTURES["zfnet"]``; its comparison, the authors' replication of
Krizhevsky et al. (2012), is ``ARCHITECTURES["alexnet"]``; the other entries are the rows of
Tables 1 and 2 and adaptations to small pictures (suffix ``-64``, never the paper's network).
The contrast normalisation across feature maps is Krizhevsky's,

.. math:: y_c = x_c \Big/ \Big(k + \alpha \sum_{j=c-n/2}^{c+n/2} x_j^2\Big)^{\beta},

with :math:`\alpha` *not* divided by :math:`n` (PyTorch's ``LocalResponseNorm`` divides it).

Sources: Zeiler & Fergus, §2, §3 and Fig. 3, doi:10.1007/978-3-319-10590-1_53;
Krizhevsky, Sutskever & Hinton, §3.3 and §3.5, doi:10.1145/3065386.

Example::

    from zfcore.model import build, load
    zfnet = build("zfnet")                 # Fig. 3, random weights, (N, 3, 224, 224) -> (N, 1000)
    network, card = load("zfnet-64")       # trained weights that ship with the package
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
PATIENCE = 10.0  # seconds that a lock is waited for: those whom a killed process had started hold it so long


# ------------------------------------------------------------------------------ architectures
@dataclass(frozen=True)
class Pool:
    """A max pooling: window and stride in cells, padding in cells on each side.

    With ``ceil_mode`` a last window may stick out beyond the end, so that no cell is left unseen.
    """

    size: int = 3
    stride: int = 2
    padding: int = 0
    ceil_mode: bool = False

    def cells(self, side: int) -> int:
        """How many cells come out where a side of ``side`` cells goes in."""
        span = side + 2 * self.padding - self.size
        if not self.ceil_mode:
            return span // self.stride + 1
        cells = -(-span // self.stride) + 1
        return cells - ((cells - 1) * self.stride >= side + self.padding)  # a window starts on the map


@dataclass(frozen=True)
class Conv:
    """One convolutional layer: its number in the paper, filters, and what follows its ReLU."""

    layer: int
    maps: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    pool: Pool | None = None
    norm: bool = False


@dataclass(frozen=True)
class Architecture:
    """A network as a value: convolutional layers, fully connected widths, and its usual input.

    ``hidden`` holds the widths of layers 6, 7, …; ``norm_first`` tells Krizhevsky's order
    (ReLU, norm, pool) from Fig. 3's (ReLU, pool, norm); ``alpha`` belongs to the contrast norm.
    """

    name: str
    convs: tuple[Conv, ...]
    hidden: tuple[int, ...] = (4096, 4096)
    norm_first: bool = False
    alpha: float = 1e-4
    num_classes: int = 1000
    input_size: int = 224

    def named_layers(self) -> dict[str, str]:
        """Map the paper's names to module paths: ``{"conv1": "features.0", …, "fc8": "classifier.6"}``.

        ``relu3`` is the output of the ReLU of layer 3, which the book calls layer 3 in pictures.
        """
        names, count = {}, {"features": 0, "classifier": 0}
        for label, _ in _stages(self):
            if label == "flatten":
                names[label] = label
                continue
            part = (
                "features"
                if label[:-1] in ("conv", "relu", "pool", "norm") and label[-1] < "6"
                else "classifier"
            )
            names[label] = f"{part}.{count[part]}"
            count[part] += 1
        return names

    def ends(self) -> dict[int, str]:
        """The last module of each layer, by its number: after ReLU, pooling and contrast norm."""
        paths = self.named_layers()
        return {int(role[-1]): paths[role] for role in paths if role[:-1] in ("relu", "pool", "norm")}

    def widened(self, width: float) -> Architecture:
        """The same network with every number of maps and hidden units multiplied by ``width``.

        Numbers of maps stay even, so that Krizhevsky's two groups divide them.
        """
        convs = tuple(replace(c, maps=max(2, 2 * round(c.maps * width / 2))) for c in self.convs)
        return replace(self, convs=convs, hidden=tuple(max(1, round(h * width)) for h in self.hidden))


def _conv_layers(maps, first, second, pool, last_pool, groups=(1, 1, 1, 1, 1)) -> tuple[Conv, ...]:
    """Five layers; ``first`` and ``second`` are the (kernel, stride, padding) of layers 1 and 2."""
    return (
        Conv(1, maps[0], *first, groups=groups[0], pool=pool, norm=True),
        Conv(2, maps[1], *second, groups=groups[1], pool=pool, norm=True),
        Conv(3, maps[2], 3, 1, 1, groups=groups[2]),
        Conv(4, maps[3], 3, 1, 1, groups=groups[3]),
        Conv(5, maps[4], 3, 1, 1, groups=groups[4], pool=last_pool),
    )


def _without(architecture: Architecture, *layers: int) -> Architecture:
    """Remove layers by their numbers in the paper; 6 and 7 are the fully connected ones."""
    convs = tuple(c for c in architecture.convs if c.layer not in layers)
    hidden = tuple(h for n, h in enumerate(architecture.hidden, 6) if n not in layers)
    return replace(architecture, convs=convs, hidden=hidden)


def _wide(architecture: Architecture) -> Architecture:
    """Layers 3, 4, 5 with 512, 1024, 512 maps where Fig. 3 has 384, 384, 256."""
    more = {3: (512, 384), 4: (1024, 384), 5: (512, 256)}
    convs = tuple(
        replace(c, maps=c.maps * more[c.layer][0] // more[c.layer][1]) if c.layer in more else c
        for c in architecture.convs
    )
    return replace(architecture, convs=convs)


def _table_rows(zfnet: Architecture, alexnet: Architecture, suffix: str = "") -> Iterator[Architecture]:
    """The rows of Tables 1 and 2 that the paper trained; 2048 and 8192 are half and twice the width."""
    half, twice = (tuple(int(h * f) for h in zfnet.hidden) for f in (0.5, 2))
    variants = {
        "zfnet-fc2048": replace(zfnet, hidden=half),
        "zfnet-fc8192": replace(zfnet, hidden=twice),
        "zfnet-wide": _wide(zfnet),
        "zfnet-wide-fc8192": replace(_wide(zfnet), hidden=twice),
        "alexnet-no34": _without(alexnet, 3, 4),
        "alexnet-no7": _without(alexnet, 7),
        "alexnet-no67": _without(alexnet, 6, 7),
        "alexnet-no3467": _without(alexnet, 3, 4, 6, 7),
        "alexnet-fc2048": replace(alexnet, hidden=half),
        "alexnet-fc8192": replace(alexnet, hidden=twice),
    }
    for name, architecture in variants.items():
        yield replace(architecture, name=name + suffix)


def _catalogue() -> dict[str, Architecture]:
    padded, flush = Pool(padding=1), Pool()
    zfnet = Architecture("zfnet", _conv_layers((96, 256, 384, 384, 256), (7, 2, 1), (5, 2, 0), padded, flush))
    alexnet = Architecture(
        "alexnet",
        _conv_layers((96, 256, 384, 384, 256), (11, 4, 2), (5, 1, 2), flush, flush, groups=(1, 2, 1, 2, 2)),
        norm_first=True,
    )

    def small(
        name: str, first: tuple[int, int, int], second: tuple[int, int, int], **options
    ) -> Architecture:
        groups = options.pop("groups", (1, 1, 1, 1, 1))
        convs = _conv_layers((48, 128, 192, 192, 128), first, second, padded, flush, groups)
        # Inputs are divided by 64 here, so Krizhevsky's alpha of 1e-4 would do nothing.
        return Architecture(name, convs, (1024, 1024), alpha=1e-2, num_classes=200, input_size=56, **options)

    # What pytorchcv trained on ImageNet: Fig. 3's sizes by pools that stick out instead of padding,
    # Krizhevsky's order of norm and pool, and an α that its authors let PyTorch divide by 5.
    public = replace(
        zfnet,
        name="zfnet-public",
        convs=tuple(replace(c, pool=c.pool and Pool(ceil_mode=True)) for c in zfnet.convs),
        norm_first=True,
        alpha=1e-4 / 5,
    )

    zfnet_64 = small("zfnet-64", (7, 1, 3), (5, 1, 2))
    coarse = small("zfnet-64-coarse", (7, 1, 3), (5, 2, 2))
    alexnet_64 = small("alexnet-64", (11, 2, 5), (5, 1, 2), groups=(1, 2, 1, 2, 2), norm_first=True)
    # Fig. 5 asks whether filter size or stride makes layer 1 better: nothing else differs here.
    fig5 = (
        small("fig5-7x7-1", (7, 1, 3), (5, 2, 2)),
        small("fig5-7x7-2", (7, 2, 3), (5, 1, 2)),
        small("fig5-11x11-1", (11, 1, 5), (5, 2, 2)),
        small("fig5-11x11-2", (11, 2, 5), (5, 1, 2)),
    )
    every = [
        zfnet, alexnet, *_table_rows(zfnet, alexnet),
        public, replace(_wide(public), name="zfnet-wide-public"),
        zfnet_64, coarse, alexnet_64, *_table_rows(coarse, alexnet_64, "-64"), *fig5,
    ]  # fmt: skip
    return {architecture.name: architecture for architecture in every}


#: The paper's networks, the rows of its tables and the adaptations to small pictures, by name.
ARCHITECTURES: dict[str, Architecture] = _catalogue()


# ------------------------------------------------------------------------------ modules
class _ContrastNormFunction(torch.autograd.Function):
    """The norm as shifted slices, with its gradient by hand: g·t − 2αβ·x·Σ(g·x·t/s), t = s^−β."""

    @staticmethod
    def forward(ctx, x, size, alpha, beta, k):
        y, saved = torch.empty_like(x), []
        for x_, y_ in _few_at_a_time(x, y):
            wide = x_.float() if x_.dtype == torch.float16 else x_  # which has no squares beyond 256
            s = _channel_window_sum(wide * wide, size).mul_(alpha).add_(k)
            t = _negative_power(s, beta)
            torch.mul(x_, t, out=y_)
            if ctx.needs_input_grad[0]:
                saved += [s, t]
        ctx.save_for_backward(x, *saved)
        ctx.constants = size, alpha, beta, k
        return y

    @staticmethod
    def backward(ctx, g):
        x, *saved = ctx.saved_tensors
        size, alpha, beta, k = ctx.constants
        if torch.is_grad_enabled():  # a second derivative is wanted: the slow road keeps the graph
            y = F.local_response_norm(x, size, size * alpha, beta, k)
            return *torch.autograd.grad(y, x, g, create_graph=True), None, None, None, None
        gradient = torch.empty_like(x)
        for (x_, g_, gradient_), s, t in zip(
            _few_at_a_time(x, g, gradient), saved[::2], saved[1::2], strict=True
        ):
            gt = torch.mul(g_, t, out=gradient_)
            spread = _channel_window_sum((gt * x_).div_(s), size)
            gt.addcmul_(x_, spread, value=-2 * alpha * beta)
        return gradient, None, None, None, None


def _few_at_a_time(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few pictures of (N, …) tensors in turn: on a CPU, temporaries of 4 MB stay near it."""
    x = tensors[0]
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return iter([tensors])
    pictures = max(1, 2**20 // max(1, x.shape[1:].numel()))
    return zip(*(t.split(pictures) for t in tensors), strict=True)


def _channel_window_sum(x: Tensor, size: int) -> Tensor:
    """Sum over ``size`` neighbouring maps of (N, C, …), cut off at the first and the last map."""
    if x.dtype == torch.bfloat16:  # by a matrix with a band of ones: rounded once, and twice as fast
        band = x.new_ones(x.shape[1], x.shape[1]).tril_(size // 2).triu_(-(size // 2))
        return (x.movedim(1, -1) @ band).movedim(-1, 1)
    total = x.clone()
    for shift in range(1, min(size // 2, x.shape[1] - 1) + 1):
        total[:, shift:] += x[:, :-shift]
        total[:, :-shift] += x[:, shift:]
    return total


def _negative_power(s: Tensor, beta: float) -> Tensor:
    """``s ** -beta``; for Krizhevsky's 0.75 by two roots, which are several times faster than pow."""
    return (s * s.sqrt()).rsqrt_() if beta == 0.75 else s.pow(-beta)


class ContrastNorm(nn.LocalResponseNorm):
    r"""Krizhevsky's local response normalisation across feature maps, (N, C, …) → (N, C, …).

    :math:`y_c = x_c (k + \alpha \sum_j x_j^2)^{-\beta}` over ``size`` neighbouring maps. Unlike
    its base class, ``alpha`` is not divided by ``size``: ``ContrastNorm(n, α)`` equals
    ``nn.LocalResponseNorm(n, n·α)``.

    Raises
    ------
    ValueError
        If ``size`` is even or not positive: the window would have no middle map.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0):
        if size < 1 or size % 2 == 0:
            raise ValueError(
                f"the window spans {size} maps; it needs an odd number, so that it has a middle map"
            )
        super().__init__(size, alpha, beta, k)

    @property
    def alpha_per_map(self) -> float:
        """What one map's square is multiplied by; for the base class it would be ``alpha / size``."""
        return self.alpha

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (N, C, …); any float dtype, same shape and dtype out."""
        return _ContrastNormFunction.apply(x, self.size, self.alpha, self.beta, self.k)


class ConvNet(nn.Sequential):
    """``features`` (convolutional), ``flatten``, ``classifier`` (fully connected); logits out.

    ``architecture`` is the value it was built from. Every submodule is called exactly once.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture = architecture
        self.features = nn.Sequential()
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential()
        paths = architecture.named_layers()
        for label, make in _stages(architecture):
            if label != "flatten":
                part, index = paths[label].split(".")
                getattr(self, part).add_module(index, make())


def _stages(a: Architecture) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """How to make every module, in order, under the paper's name (``conv1``, ``relu1``, …)."""
    channels, side = 3, a.input_size
    for c in a.convs:
        convolution = partial(nn.Conv2d, channels, c.maps, c.kernel, c.stride, c.padding, groups=c.groups)
        yield f"conv{c.layer}", convolution
        yield f"relu{c.layer}", nn.ReLU
        channels, side = c.maps, (side + 2 * c.padding - c.kernel) // c.stride + 1
        after = []
        if c.pool:
            p = c.pool
            pooling = partial(nn.MaxPool2d, p.size, p.stride, p.padding, ceil_mode=p.ceil_mode)
            after.append((f"pool{c.layer}", pooling))
            side = p.cells(side)
        if c.norm:
            after.append((f"norm{c.layer}", partial(ContrastNorm, alpha=a.alpha)))
        if side < 1:
            raise ValueError(
                f"{a.name} has no map left after layer {c.layer} for an input of {a.input_size} px; "
                f"give a larger input_size (usual: {ARCHITECTURES[a.name].input_size})"
            )
        yield from reversed(after) if a.norm_first else after
    yield "flatten", nn.Flatten
    features = channels * side * side
    for number, width in enumerate(a.hidden, 6):
        yield f"fc{number}", partial(nn.Linear, features, width)
        yield f"relu{number}", nn.ReLU
        yield f"drop{number}", partial(nn.Dropout, 0.5)
        features = width
    yield "fc8", partial(nn.Linear, features, a.num_classes)


def build(
    name: str,
    num_classes: int | None = None,
    input_size: int | None = None,
    *,
    groups: int | None = None,
    width: float = 1.0,
    alpha: float | None = None,
) -> ConvNet:
    """Build a network of :data:`ARCHITECTURES` with the paper's initialisation.

    Weights are drawn from N(0, 0.01²) with PyTorch's global generator, biases are 0 (§3).

    Parameters
    ----------
    name
        A key of :data:`ARCHITECTURES`.
    num_classes, input_size
        Number of logits; side of the square input in pixels. Default: the architecture's own
        (1000 and 224, or 200 and 56 for the ``-64`` family).
    groups
        ``1`` joins Krizhevsky's two groups of layers 2, 4 and 5, the variant many people use.
    width
        Multiplies maps and hidden units; ``2`` gives the ``-64`` family the paper's maps.
    alpha
        α of the contrast norm, where another than the architecture's is wanted.

    Returns
    -------
    ConvNet
        (N, 3, S, S) float → (N, num_classes) logits.

    Raises
    ------
    ValueError
        Unknown name (the message lists the known ones), a width that is no number above 0, or an input too
        small for the network.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    if not 0 < width < math.inf:
        raise ValueError(f"width multiplies the numbers of maps and is above 0; got {width}")
    a = ARCHITECTURES[name]
    a = replace(
        a,
        num_classes=a.num_classes if num_classes is None else num_classes,
        input_size=a.input_size if input_size is None else input_size,
        alpha=a.alpha if alpha is None else alpha,
    )
    if groups is not None:
        a = replace(a, convs=tuple(replace(c, groups=groups if c.groups > 1 else 1) for c in a.convs))
    model = ConvNet(a.widened(width) if width != 1 else a)
    initialize_(model, "paper")
    return model


@torch.no_grad()
def initialize_(model: nn.Module, scheme: str = "paper") -> None:
    """Draw weights in place with the global generator; every bias becomes 0.

    ``"paper"``: N(0, 0.01²) everywhere (§3). ``"he"``: N(0, 2/fan_in), the last linear layer
    N(0, 0.01²), for inputs of unit scale (He et al. 2015, doi:10.1109/ICCV.2015.123). ``"paper, then he"``:
    the first layer as the paper's, so small that what its filters hold was learned, the others as by
    ``"he"``, for layers so narrow that weights of 0.01 would let the signal die. Batch norms, which the
    paper's networks lack and others have, become the identity.

    Raises
    ------
    ValueError
        Unknown scheme.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    last = len(layers) - 1
    schemes = {"paper": range(0), "he": range(last), "paper, then he": range(1, last)}  # those by fan-in
    if scheme not in schemes:
        raise ValueError(f"unknown initialisation {scheme!r}; known: {'; '.join(schemes)}")
    for place, layer in enumerate(layers):
        if place in schemes[scheme]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()


@torch.no_grad()
def renormalize_filters_(model: nn.Module, radius: float = 0.1) -> None:
    """Rescale every convolution filter whose RMS exceeds ``radius`` to that radius, in place (§3).

    The RMS runs over one filter's weights (input maps × height × width). Filters inside the
    radius keep their bits. No value leaves the device, so a training step may call it freely.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            w = module.weight
            rms = w.square().mean((1, 2, 3), keepdim=True).sqrt_()  # (C_out, 1, 1, 1)
            w.mul_(torch.where(rms > radius, radius / rms, 1.0))


# ------------------------------------------------------------------------------ weights
def load(name: str | os.PathLike) -> tuple[nn.Module, dict]:
    """Load a trained network and its card.

    A card's architecture is one of :data:`ARCHITECTURES` (then the network is a :class:`ConvNet`), or
    ``"torchvision.<name>"`` for a network of torchvision's.

    Parameters
    ----------
    name
        The name of weights that ship with the package, or a path to a ``.safetensors`` file
        with its ``.json`` card beside it.

    Returns
    -------
    model, card
        The network in eval mode, float32; the card as written by training, with the per-pixel
        mean as the tensor ``card["mean"]`` of shape (3, resize, resize), pixels in [0, 255].

    Raises
    ------
    FileNotFoundError
        No such weights; the message lists those that ship.
    ValueError
        The file is truncated, is not safetensors, or is not the one its card describes.
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        path = WEIGHTS / f"{name}.safetensors"
    card_path = path.with_suffix(".json")
    if not (path.exists() and card_path.exists()):
        shipped = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))) or "none"
        missing = path if not path.exists() else card_path
        raise FileNotFoundError(
            f"no weights {str(name)!r} ({missing} is missing); shipped with zfcore: {shipped}. Of others "
            "give the path of the .safetensors file that has its card, a .json, beside it"
        )
    blob = path.read_bytes()
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        digest, architecture, *_ = (
            card[key] for key in ("sha256", "architecture", "num_classes", "input_size")
        )
    except (ValueError, KeyError, TypeError) as error:
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{card_path} is not a weights card: {lacks}") from error
    if hashlib.sha256(blob).hexdigest() != digest:
        raise ValueError(
            f"{path} is not the file that {card_path.name} describes (sha256 differs); fetch both again"
        )
    try:
        tensors = {k: v.float() for k, v in safetensors.torch.load(blob).items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if "mean" not in tensors:
        raise ValueError(f"{path} has no per-pixel mean; write weights with zfcore.model.save")
    card["mean"] = tensors.pop("mean")
    model = network_of(card)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {architecture}: {error}") from error
    return model.eval(), card


def network_of(card: dict, started: bool = False) -> nn.Module:
    """The network that a card describes, without its weights: ``architecture`` as :func:`load` tells.

    A card with ``until`` describes its first layers only (:func:`until`). Weights of torchvision's networks
    are memory that nobody has set, unless they are ``started`` as their library does, by chance.
    """
    library, _, name = card["architecture"].rpartition(".")
    if library == "torchvision":
        from torchvision.models import get_model  # takes a second that most readers need not wait

        with torch.device("cpu" if started else "meta"):  # no number is drawn for weights about to come
            model = get_model(name, num_classes=card["num_classes"])
        return model if started else model.to_empty(device="cpu")
    options = {key: card[key] for key in ("groups", "width", "alpha") if key in card}
    network = build(card["architecture"], card["num_classes"], card["input_size"], **options)
    return until(network, card["until"]) if "until" in card else network


def untrained(card: dict, seed: int = 0) -> nn.Module:
    """The network that a card describes with He's random weights, in eval mode.

    What is neither convolution, linear layer nor batch norm is as the architecture starts it. The global
    generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
        network = network_of(card, started=True)
        initialize_(network, "he")
    return network.eval()


def ships(sha256: object) -> bool:
    """Whether weights of this hash come with the package."""
    cards = (json.loads(card.read_text(encoding="utf-8")) for card in WEIGHTS.glob("*.json"))
    return sha256 in [card["sha256"] for card in cards]


def until(network: ConvNet, layer: str) -> nn.Module:
    """The first layers of a network, up to ``layer`` of its ``named_layers()`` (``"relu2"``), nothing copied.

    The module's ``features`` are the network's, under the same names; its output are that layer's maps.
    Raises ``ValueError`` for a layer that is not one of these, or has no maps.
    """
    maps = {
        name: int(path.removeprefix("features."))
        for name, path in network.architecture.named_layers().items()
        if path.startswith("features.")
    }
    if layer not in maps:
        raise ValueError(f"there are no maps {layer!r}; there are: {', '.join(maps)}")
    last = maps[layer]
    return nn.Sequential(OrderedDict(features=network.features[: last + 1]))


def save(
    path: str | os.PathLike, model: nn.Module, mean: Tensor, card: dict, dtype: torch.dtype = torch.float16
) -> None:
    """Write weights as ``dtype`` (the mean in float32) with their card beside, each atomically.

    ``path`` is given the suffix ``.safetensors`` where it lacks it. ``mean`` has shape (3, resize, resize),
    pixels in [0, 255]. The card gets the file's sha256.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path.with_name(f"{path.name}.safetensors")
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
    blob = safetensors.torch.save({**tensors, "mean": mean.detach().to("cpu", torch.float32).contiguous()})
    card = {k: v for k, v in card.items() if k != "mean"} | {"sha256": hashlib.sha256(blob).hexdigest()}
    write_atomically(path, blob)
    write_atomically(
        path.with_suffix(".json"), (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()
    )


def write_atomically(path: str | os.PathLike, blob: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    A file that is there keeps its permissions, and a link leads where it led.
    Raises ``OSError`` (a full disk, say) and leaves the old file as it was.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:  # tempfile's would be for the user's eyes alone
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_partial(path: str | os.PathLike) -> None:
    """Remove what is left of writes of this file whose process was killed; no other may be writing it."""
    path = Path(path).resolve()
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if re.fullmatch(r"[0-9a-f]{16}", left.suffix[1:]):
            left.unlink()


@contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """Work in a folder that no other process works in, by a lock beside it, ``.<name>.lock``.

    Raises ``OSError`` where another process holds the lock, which ends with its process.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise BlockingIOError(
            f"another process works in {folder}; wait until it is done, or give another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
