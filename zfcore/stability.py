r"""What the paper claims of invariance, as numbers over many pictures.

For pictures of a data set, chosen by a stated rule, :mod:`zfcore.invariance` gives the distance that features
move under vertical shift, scale and rotation, over the paper's ranges. A layer's distances are divided by its
spread, the root mean square of the distance between two different pictures: 0 is no change, 1 as far
as another picture. Then, each with an interval over the pictures (bootstrap, percentiles, 95 %):

- *Depth*: the relative distance of each layer at a small and at a large amount; the difference between the
  first layer and the last, and each step between, paired by picture; the rank correlation of distance and
  depth. Invariance that grows with depth means a positive difference and a negative correlation.
- *Linearity*: R² of the distance against the amount of the shift or the scale, over the whole range, for a
  line through the origin. Quasi-linear means close to 1. A curve that bends may come near it; the exponent b
  of the power of the amount that fits best tells a line (1) from a square root (0.5).
- *Rotation*: the probability of the true class, averaged over the turn and divided by that of the upright
  picture; for the most symmetric tenth of the pictures the network knows, and for the others.

Source: Zeiler & Fergus, arXiv:1311.2901v3, §4 "Feature Invariance" and its Fig. 5; not in the
published version, doi:10.1007/978-3-319-10590-1_53.

Example::

    import torch
    from zfcore.stability import linearity
    amount = torch.arange(5.0)
    linearity(torch.stack([2 * amount, amount.clamp(max=1)]), amount)      # tensor([1.0000, 0.1667])
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from zfcore.comparison import interval
from zfcore.data import Pictures
from zfcore.gallery import Album, inputs
from zfcore.invariance import (
    TRANSFORMS,
    amounts,
    feature_scales,
    invariance_curves,
    rotational_symmetry,
)
from zfcore.ledger import provenance
from zfcore.selectivity import layer_ends, untrained
from zfcore.view import Viewer

#: What nothing is, for each transformation.
NOTHING = {"translate": 0.0, "scale": 1.0, "rotate": 0.0}
#: A small and a large amount of each, as positions in the range that ``amounts`` gives; these are shifts of
#: 10 and 60 of 224 pixels, scales of 1.1 and 1.8, turns by 10 and 90 degrees.
STATED = {"translate": (7, 12), "scale": (1, 8), "rotate": (1, 9)}
#: How many of the pictures the network knows count as symmetric.
SYMMETRIC = 0.1


def linearity(distances: Tensor, amount: Tensor) -> Tensor:
    """R² of the line through the origin that fits distances (N, V) against amounts (V,) best, (N,).

    1 where every distance is on the line; below 0 where their mean says more than any such line.
    """
    slope = (distances @ amount) / amount.square().sum()
    left_over = (distances - slope[:, None] * amount).square().sum(1)
    return 1 - left_over / (distances - distances.mean(1, keepdim=True)).square().sum(1).clamp_min(1e-30)


def exponent(distances: Tensor, amount: Tensor) -> Tensor:
    """The b of the power ∝ amount^b that fits distances (N, V) best, by least squares of logarithms, (N,).

    Amounts (V,) of 0 say nothing of it and are left out. 1 is a line through the origin.
    """
    moved = amount > 0
    x, y = amount[moved].log(), distances[:, moved].clamp_min(1e-30).log()
    x = x - x.mean()
    return (y - y.mean(1, keepdim=True)) @ x / x.square().sum()


def one_side(transform: str, values: list[float]) -> tuple[list[int], Tensor]:
    """Which of the values are nothing or more, on one side of a range; and how far from nothing they are."""
    away = torch.tensor(values, dtype=torch.float64) - NOTHING[transform]
    kept = [n for n, amount in enumerate(away.tolist()) if amount >= 0]
    return kept, away[kept]


def summary(relative: Mapping[str, Tensor], transform: str, values: list[float]) -> dict[str, Any]:
    """The curves and claims of one transformation from relative distances {layer: (N, V)}, in order."""
    small, large = STATED[transform]
    kept, away = one_side(transform, values)
    found: dict[str, Any] = {"amounts": values, "curves": {}}
    for layer, distances in relative.items():
        every = [interval(column) for column in distances.T.numpy()]
        found["curves"][layer] = {part: [one[part] for one in every] for part in ("mean", "low", "high")}
    for words, column in (("small", small), ("large", large)):
        at = torch.stack([distances[:, column] for distances in relative.values()])  # (L, N)
        depth = torch.arange(len(at), dtype=torch.float64)
        ranks = torch.from_numpy(stats.rankdata(at.numpy(), axis=0))
        found[words] = {
            "amount": values[column],
            "layers": dict(zip(relative, map(interval, at.numpy()), strict=True)),
            "first minus last": interval((at[0] - at[-1]).numpy()),
            "steps": [interval(step) for step in at.diff(dim=0).numpy()],
            "rank correlation with depth": interval(_correlation(ranks.T, depth).numpy()),
        }
    if transform != "rotate":
        fits = torch.stack([linearity(distances[:, kept], away) for distances in relative.values()])
        found["linearity"] = {
            "layers": dict(zip(relative, map(interval, fits.numpy()), strict=True)),
            "last minus first": interval((fits[-1] - fits[0]).numpy()),
            "exponents": {
                layer: interval(exponent(distances[:, kept], away).numpy())
                for layer, distances in relative.items()
            },
        }
    return found


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of (N, L) with (L,)."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean()
    return (a @ b) / (a.norm(dim=1) * b.norm()).clamp_min(1e-30)


def turned(true: Tensor, symmetry: Tensor, known: Tensor) -> dict[str, Any]:
    """What rotation leaves of the true class: for symmetric pictures, and for the others.

    Parameters
    ----------
    true
        (N, V): probability of the true class at each angle, the upright picture first.
    symmetry
        (N,): scores of :func:`zfcore.invariance.rotational_symmetry`.
    known
        (N,) bool: whether the network names the upright picture rightly; the others are left out.

    Returns
    -------
    dict
        ``kept``, the mean probability over all other angles divided by the upright one, for
        ``symmetric`` and ``ordinary`` pictures, the number of each, the rank correlation of ``kept`` with the
        score, its p-value, and the p-value of the difference (Mann-Whitney, one-sided).
    """
    if not known.any():
        return {"symmetric": {"pictures": 0}, "ordinary": {"pictures": 0}}
    kept = (true[known, 1:].mean(1) / true[known, 0]).numpy()
    score = symmetry[known]
    count = max(1, round(SYMMETRIC * len(kept)))
    order = score.argsort(descending=True).numpy()
    symmetric, ordinary = kept[order[:count]], kept[order[count:]]
    found = {
        name: {"pictures": len(some)} | ({"kept": interval(some)} if len(some) else {})
        for name, some in (("symmetric", symmetric), ("ordinary", ordinary))
    }
    if len(kept) > 2:
        correlation = stats.spearmanr(score.numpy(), kept)
        found["rank correlation"] = {"rho": float(correlation.statistic), "p": float(correlation.pvalue)}
        test = stats.mannwhitneyu(symmetric, ordinary, alternative="greater")
        found["symmetric above ordinary"] = {"p": float(test.pvalue)}
    return found


def five(symmetry: Tensor, sure: Tensor, seed: int = 0) -> list[int]:
    """The pictures of the figure: of those that are ``sure`` (N,) the most symmetric, then four drawn."""
    candidates = sure.nonzero()[:, 0]
    if not len(candidates):
        return []
    first = candidates[symmetry[candidates].argmax()]
    others = candidates[candidates != first]
    drawn = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:4]
    return [int(first), *others[drawn].tolist()]


def invariance_entries(
    viewer: Viewer,
    pictures: Pictures,
    many: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """The entries of the ledger ``invariance``, but for what the shell knows: data and command.

    ``many`` pictures are drawn with ``seed``, a fifth of them for the network with random weights.

    Yields
    ------
    dict
        Rows ``many`` (curves and claims by transformation, see :func:`summary` and :func:`turned`; the
        ``scales`` of the layers), ``five`` (the curves of five of these pictures, the first the most
        symmetric, all with their true class at a probability of at least 0.5), and ``many, random weights``.
    """
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(len(pictures), generator=draw)[:many].sort().values
    networks = {"": (viewer, numbers), ", random weights": (untrained(viewer, seed), numbers[::5])}
    for words, (seen, chosen) in networks.items():
        some, started = pictures.take(chosen), time.perf_counter()
        layers, device = layer_ends(seen.model), next(seen.model.parameters()).device
        x = torch.cat(list(inputs(seen, Album(some), range(len(some)))))
        scales = feature_scales(seen.model, x, layers.values())
        symmetry = rotational_symmetry(x).cpu()
        values: dict[str, Any] = {
            "scales": {
                name: {"spread": scales[path].spread, "norm": interval(scales[path].norms.numpy())}
                for name, path in layers.items()
            }
        }
        curves, of_true = {}, {}
        for transform in TRANSFORMS:
            asked = amounts(transform, seen.side)
            distances, probabilities = invariance_curves(
                seen.model, x, transform, asked, layers.values(), progress=progress
            )
            curves[transform] = {
                name: distances[path].double() / scales[path].spread for name, path in layers.items()
            }
            index = some.labels[:, None, None].expand(-1, len(asked), 1)
            of_true[transform] = probabilities.gather(2, index)[..., 0].double()
            values[transform] = summary(curves[transform], transform, asked)
            every = [interval(column) for column in of_true[transform].T.numpy()]
            values[transform]["true class"] = {
                part: [one[part] for one in every] for part in ("mean", "low", "high")
            }
            if transform == "rotate":
                known = probabilities[:, 0].argmax(1) == some.labels
        if not words:
            values["rotate"] |= turned(of_true["rotate"], symmetry, known)
        config = {"architecture": viewer.card["architecture"], "split": "val", "layers": layers}
        common = {"seed": seed, "config": config, "weights_sha256": seen.card["sha256"]}
        common |= provenance(device, time.perf_counter() - started)
        yield {"row": f"many{words}", "values": values, "n": len(some)} | common
        if words:
            continue
        shown = five(symmetry, of_true["rotate"][:, 0] >= 0.5, seed)
        singles = {
            some.files[n]: {
                "label": some.names[some.labels[n]],
                "symmetry": float(symmetry[n]),
                "relative distance": {
                    transform: {name: curve[n].tolist() for name, curve in curves[transform].items()}
                    for transform in TRANSFORMS
                },
                "true class": {transform: of_true[transform][n].tolist() for transform in TRANSFORMS},
            }
            for n in shown
        }
        spans = {transform: amounts(transform, seen.side) for transform in TRANSFORMS}
        yield {"row": "five", "values": {"amounts": spans, "pictures": singles}, "n": len(shown)} | common
