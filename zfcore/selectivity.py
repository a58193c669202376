r"""What Fig. 2 claims, as numbers: do a map's strongest pictures belong together, and what varies in them?

Three questions, each one number per map or picture, with an interval over these (bootstrap, percentiles,
95 %):

- *Purity*: of a map's nine strongest pictures, the share that has the commonest label, and the entropy of
  their labels in bits (0: all alike; log2 9 = 3.17: all different). Beside it what sets of nine drawn at
  random have, and what an untrained network has.
- *Diversity*: the correlation of two of the nine patches, pixel by pixel, and of the two projections, over
  the pixels that both fields have inside their pictures; the mean over the 36 pairs is a map's
  similarity. Beside it pairs from two different maps of the layer, which have no reason to be alike.
- *Decoding*: pictures are made smaller (:data:`SHARE` of the side) and put on grey, each at a random place.
  From all features at the end of each layer, ridge regression (five folds, its penalty chosen inside each)
  tells the label, and the place: two curves over depth, from the same features of the same pictures.

Source: Zeiler & Fergus, §4 and Fig. 2, doi:10.1007/978-3-319-10590-1_53; percentile intervals: Efron &
Tibshirani (1993).

Example::

    import torch
    from zfcore.comparison import interval
    from zfcore.selectivity import purity
    share, entropy = purity(torch.tensor([[3, 3, 3, 3, 3, 3, 3, 8, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8]]))
    interval(share.numpy())                         # {'mean': 0.44, 'low': 0.11, 'high': 0.78}
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from torch import Tensor, nn
from tqdm import tqdm

from zfcore import model as networks
from zfcore.comparison import interval
from zfcore.data import Pictures
from zfcore.gallery import Album, Gallery, inputs
from zfcore.ledger import provenance
from zfcore.view import Viewer

#: Side of the pictures that are put at a random place, as a share of the network's input.
SHARE = 0.64
#: Classes that are told apart when labels are decoded, all their pictures.
CLASSES = 40
#: Penalties of the ridge regression, in units of the mean squared length of the (centred) features.
PENALTIES = (0.01, 0.1, 1.0, 10.0)


# ------------------------------------------------------------------------------ purity
def purity(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of the labels (…, k) of sets of k pictures the commonest one's share and the entropy in bits, (…,)."""
    same = (labels[..., :, None] == labels[..., None, :]).double().sum(-1)  # (…, k): how many share its label
    share = same / labels.shape[-1]
    # Each of the m pictures of a label adds -log2(m / k) / k: together what the label adds to the entropy.
    return share.amax(-1), -share.log2().mean(-1)


def purity_by_chance(
    labels: Tensor, maps: int, k: int = 9, draws: int = 1000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """The mean purity of ``maps`` random sets of ``k`` different pictures out of labels (N,), drawn again
    and again.

    Returns ``share`` and ``entropy``, each ``mean, low, high``: 95 % of the draws lie within. Raises
    ``ValueError`` where there are fewer labels than ``k``.
    """
    if len(labels) < k:
        raise ValueError(f"sets of {k} different pictures cannot be drawn from {len(labels)}")
    draw, found, in_one = torch.Generator().manual_seed(seed), [], len(labels) // k
    for _ in range(draws):
        shuffled = [torch.randperm(len(labels), generator=draw) for _ in range(-(-maps // in_one))]
        sets = torch.cat([order[: in_one * k].reshape(in_one, k) for order in shuffled])[:maps]
        found.append([part.mean() for part in purity(labels[sets])])
    shares, entropies = torch.tensor(found).T.numpy()
    return {"share": _band(shares), "entropy": _band(entropies)}


def _band(draws: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"mean": float(draws.mean()), "low": float(low), "high": float(high)}


def rise(layers: list[np.ndarray], draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """The slope, per layer, of the layers' means: ``mean, low, high`` by bootstrap inside each layer."""
    draw = np.random.default_rng(seed)
    means = np.stack([draw.choice(values, (draws, len(values))).mean(1) for values in layers], 1)
    depth = np.arange(len(layers)) - (len(layers) - 1) / 2
    slope = depth @ [values.mean() for values in layers] / (depth @ depth)
    return _band(means @ depth / (depth @ depth)) | {"mean": float(slope)}


def purity_of(gallery: Gallery, pictures: Pictures) -> dict[str, Any]:
    """Purity per layer with intervals over its maps, chance, and the rise with depth.

    Only maps with all their hits are counted; ``silent`` tells how many have not. ``pictures`` are those
    among which the gallery was found.
    """
    label_of = dict(zip(pictures.files, pictures.labels.tolist(), strict=True))
    values: dict[str, Any] = {}
    every: dict[str, list[np.ndarray]] = {"share": [], "entropy": []}
    for name, wall in gallery.layers.items():
        whole = [hits for hits in wall.hits.values() if all(hits)]
        values[name] = {"maps": len(whole), "silent": len(wall.hits) - len(whole)}
        if not whole:
            continue
        labels = torch.tensor([[label_of[hit.picture] for hit in hits] for hits in whole])  # (M, k)
        chance = purity_by_chance(pictures.labels, *labels.shape)
        for what, of_maps in zip(every, purity(labels), strict=True):
            values[name] |= {what: interval(of_maps.numpy()), f"{what} by chance": chance[what]}
            every[what].append(of_maps.numpy())
    return values | {
        f"rise of {what} per layer": rise(found) for what, found in every.items() if len(found) > 1
    }


# ------------------------------------------------------------------------------ diversity
def correlations(a: np.ndarray, b: np.ndarray, inside_a: np.ndarray, inside_b: np.ndarray) -> np.ndarray:
    """The correlation of every picture of ``a`` with every one of ``b``, over the pixels that both have.

    ``a`` (m, H, W, 3) and ``b`` (n, H, W, 3); ``inside_a`` (m, H, W) bool and ``inside_b`` say which
    pixels are there. (m, n) in [-1, 1]; 0 where one of the two has no contrast there.
    """

    def flat(pixels: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = np.repeat(inside[..., None], 3, -1).reshape(len(inside), -1).astype(float)
        return (pixels.reshape(len(pixels), -1) - 128.0) * there, there

    (x, in_x), (y, in_y) = flat(a, inside_a), flat(b, inside_b)
    count = np.maximum(in_x @ in_y.T, 1)
    mean_x, mean_y = (x @ in_y.T) / count, (in_x @ y.T) / count
    covariance = (x @ y.T) / count - mean_x * mean_y
    power = ((x**2) @ in_y.T / count - mean_x**2) * (in_x @ (y**2).T / count - mean_y**2)
    return covariance / np.sqrt(np.where(power > 1e-6, power, np.inf))


def diversity(gallery: Gallery, progress: bool = False) -> dict[str, Any]:
    """How alike the nine patches of a map are, and its nine projections, per layer with intervals over maps.

    Per layer: ``patches`` and ``projections``, the mean correlation of two of a map's nine; ``difference``,
    patches minus projections of the same maps (negative: patches vary more); and the same for two
    of different maps (``…, other maps``), of which map f + 1 stands for the other of f.
    """
    values = {}
    for name, wall in gallery.layers.items():
        whole = [feature for feature, hits in wall.hits.items() if all(hits)]
        cells = {"patches": gallery.patches, "projections": gallery.projections}
        shown = {
            feature: [make(name, feature) for make in cells.values()]
            for feature in tqdm(whole, f"{name}, diversity", disable=not progress, leave=False)
        }
        there = {feature: wall.inside(feature) for feature in whole}
        pairs = np.triu_indices(len(wall.hits[whole[0]]), 1) if whole else None
        alike: dict[str, list[float]] = {what: [] for kind in cells for what in (kind, f"{kind}, other maps")}
        for feature, other in zip(whole, whole[1:] + whole[:1], strict=True):
            for kind, own, others in zip(cells, shown[feature], shown[other], strict=True):
                within = correlations(own, own, there[feature], there[feature])[pairs]
                between = correlations(own, others, there[feature], there[other])
                alike[kind].append(within.mean())
                alike[f"{kind}, other maps"].append(between.mean())
        if not whole:
            values[name] = {"maps": 0}
            continue
        arrays = {what: np.array(found) for what, found in alike.items()}
        arrays["difference"] = arrays["patches"] - arrays["projections"]
        arrays["difference beyond other maps"] = arrays["difference"] - (
            arrays["patches, other maps"] - arrays["projections, other maps"]
        )
        values[name] = {"maps": len(whole)} | {what: interval(found) for what, found in arrays.items()}
    return values


# ------------------------------------------------------------------------------ decoding
def layer_ends(model: nn.Module) -> dict[str, str]:
    """The last module of layers 1 to 7 of a network of ours, by the layer's name."""
    return {f"layer {number}": path for number, path in model.architecture.ends().items()}


def put_at(x: Tensor, places: Tensor, side: int) -> Tensor:
    """Pictures (N, C, S, S) made ``side`` pixels large and put at ``places`` (N, 2) on grey, which is 0.

    A place is y, x of the first pixel, each from 0 to S - side.
    """
    small = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
    canvas = torch.zeros_like(x)
    for picture, reduced, (top, left) in zip(canvas, small, places.tolist(), strict=True):
        picture[:, top : top + side, left : left + side] = reduced
    return canvas


def decoded(features: np.ndarray, targets: np.ndarray, seed: int = 0) -> np.ndarray:
    """What linear ridge regression says of each picture when it has learned from others, in five folds.

    Parameters
    ----------
    features
        (N, D).
    targets
        (N, T), such as coordinates, or 1 for the label and 0 for all others.
    seed
        Draws the folds.

    Returns
    -------
    ndarray
        (N, T), every row told by a regression that has not seen its target. Features and targets are centred
        once over all N: of what is held out it knows no more than that mean.
    """
    features, centre = features - features.mean(0), targets.mean(0)
    kernel = (features @ features.T).astype(np.float64)  # N × N, for D is often larger
    kernel *= len(kernel) / np.trace(kernel)
    ridge = GridSearchCV(KernelRidge(kernel="precomputed"), {"alpha": PENALTIES}, cv=3)
    folds = KFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(ridge, kernel, targets - centre, cv=folds) + centre


@torch.no_grad()
def decoding(
    viewer: Viewer, pictures: Pictures, layers: Mapping[str, str], seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """How well label and place are told from each layer, with intervals over the pictures.

    ``label`` is the share of pictures whose label is told rightly; ``place`` the share of the variance of
    the coordinates that is explained (R²); ``features`` how many numbers they were told from.
    """
    side = round(SHARE * viewer.side)
    draw = torch.Generator().manual_seed(seed)
    places = torch.randint(viewer.side - side + 1, (len(pictures), 2), generator=draw)
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    batches = zip(inputs(viewer, Album(pictures), range(len(pictures))), places.split(32), strict=True)
    for x, some in tqdm(batches, "features", -(-len(pictures) // 32), disable=not progress, leave=False):
        answers = viewer.net.activations(put_at(x, some, side), layers.values())
        for name, path in layers.items():
            found[name].append(answers[path].flatten(1).float().cpu())
    where = places.double().numpy()
    classes, labels = np.unique(pictures.labels.numpy(), return_inverse=True)
    values = {}
    for name in tqdm(layers, "decoding", disable=not progress, leave=False):
        features = torch.cat(found.pop(name)).numpy()
        said = decoded(features, np.eye(len(classes))[labels], seed).argmax(1)
        errors = ((decoded(features, where, seed) - where) ** 2).sum(1)
        values[name] = {
            "label": interval((said == labels).astype(float)),
            "place": interval(1 - errors / where.var(0).sum()),
            "features": features.shape[1],
        }
    return values


# ------------------------------------------------------------------------------ the ledger
def untrained(viewer: Viewer, seed: int = 0) -> Viewer:
    """The same network with random weights (He's), which tells what the architecture does by itself."""
    card, model = viewer.card, networks.untrained(viewer.card, seed)
    weights = hashlib.sha256(safetensors.torch.save(model.state_dict())).hexdigest()
    device = next(viewer.model.parameters()).device
    return Viewer(model.to(device), card | {"sha256": weights}, viewer.layers)


def fig2_entries(
    viewer: Viewer,
    pictures: Pictures,
    kept_in: Callable[[Viewer, Album], str | os.PathLike | None] = lambda viewer, album: None,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """The entries of the ledger ``fig2``, one after another, but for what the shell knows: data and command.

    Parameters
    ----------
    viewer
        A network of :func:`zfcore.model.build`, its card, and the layers by the reader's names.
    pictures
        Those of a validation split, as the entries say.
    kept_in
        Gives the file that keeps a pass over the pictures (see :func:`zfcore.gallery.strongest`).
    seed
        Of the random weights, the classes and places drawn, and the folds.
    progress
        Whether bars are shown.

    Yields
    ------
    dict
        Rows ``purity``, ``diversity``, ``decoding`` (of :data:`CLASSES` classes, drawn), then the same of
        the network with random weights. Values are by layer; see :func:`purity_of`, :func:`diversity`,
        :func:`decoding`.
    """
    album = Album(pictures)
    for words, seen in (("", viewer), (", random weights", untrained(viewer, seed))):
        started = time.perf_counter()
        gallery = Gallery.of(seen, album, file=kept_in(seen, album), progress=progress)
        for row, values, n, config in _rows(gallery, seen, pictures, seed, progress):
            yield {
                "row": row + words,
                "seed": seed,
                "values": values,
                "n": n,
                "config": {"architecture": viewer.card["architecture"], "split": "val"} | config,
                "weights_sha256": seen.card["sha256"],
                **provenance(next(seen.model.parameters()).device, time.perf_counter() - started),
            }
            started = time.perf_counter()


def _rows(
    gallery: Gallery, viewer: Viewer, pictures: Pictures, seed: int, progress: bool
) -> Iterator[tuple[str, dict[str, Any], int, dict[str, Any]]]:
    """Row, values, number of pictures and configuration of every measure of one network."""
    shown = {"layers": viewer.layers, "k": gallery.about["k"]}
    yield "purity", purity_of(gallery, pictures), len(pictures), shown
    yield "diversity", diversity(gallery, progress), len(pictures), shown
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pictures.classes), generator=draw)[:CLASSES]
    few, ends = pictures.take(torch.isin(pictures.labels, chosen).nonzero()[:, 0]), layer_ends(viewer.model)
    protocol = {"layers": ends, "side": round(SHARE * viewer.side), "classes": len(chosen)}
    protocol |= {"folds": 5, "penalties": PENALTIES}
    yield "decoding", decoding(viewer, few, ends, seed, progress), len(few), protocol
