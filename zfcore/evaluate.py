r"""How often a network is wrong, and whether another one is wrong less often.

**Errors.** Top-1 and top-5, on the centre crop or on the ten crops of §3: the class probabilities
(not the logits) are averaged over the four corners, the centre and their mirror images before the
classes are ranked; an ensemble averages those of its members once more. For the first column of
Table 2, the training error, we take centre crops without augmentation: the paper does not say.

**Differences.** Two networks see the same pictures, so they are compared picture by picture. With
:math:`d_i` the difference of their outcomes on picture i of N (1 wrong, 0 right), the difference of
the errors is :math:`D = \bar d` and its standard error :math:`\sqrt{s^2(d)/N}`; most pictures, being
wrong or right for both, add nothing to it. Where a recipe was run with several seeds, its outcomes are
averaged over them, and the spread between seeds enters: in the two-way model
:math:`y_{si} = \mu + \alpha_s + \beta_i + \gamma_{si}` of seed s and picture i,

.. math:: \operatorname{Var} D = \frac{s^2(\bar d_{\cdot i})}{N}
          + \sum_{m \in \{a, b\}} \max\Big(0, \frac{s^2(\bar y^m_{s\cdot})}{S_m}
          - \frac{\mathrm{MS}^m_\gamma}{N S_m}\Big),

the last term being the part of the spread between seeds that the first one has counted already (for N
pictures no seed shows its own error exactly). Where seeds do not differ, the maximum makes the standard
error too large, by a fifth at most in our simulations. One seed tells nothing of others: its bracket is
0, and the interval is then one for these very weights. Degrees of freedom are Satterthwaite's. Sums of more
than two errors are compared in the same way, each bracket by the square of its weight.

Sources: Zeiler & Fergus, §3 and §5.1, doi:10.1007/978-3-319-10590-1_53; Satterthwaite 1946,
doi:10.2307/3002019; Kendall 1938, doi:10.1093/biomet/30.1-2.81; percentile intervals: Efron & Tibshirani
(1993).

Example::

    from zfcore.data import tiny_imagenet
    from zfcore.evaluate import errors
    from zfcore.model import load
    network, card = load("zfnet-64")
    errors(network, tiny_imagenet("val"), card, crops=10)      # {"top1": …, "top5": …} in %
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.data import Pictures, batches, centre_crop, ten_crops
from zfcore.trace import evaluating


# ------------------------------------------------------------------------------ errors
def probabilities(
    model: nn.Module,
    pictures: Pictures,
    card: dict,
    crops: int = 1,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
    workers: int = 0,
    low_precision: bool = False,
) -> Tensor:
    """Class probabilities of every picture, averaged over its crops.

    Parameters
    ----------
    model
        (N, 3, S, S) → (N, classes) logits; moved to ``device``, used in eval mode and put back
        into the mode it was in.
    pictures
        In memory or packed, R × R pixels, R = ``card["resize"]``: the squares of §3.
    card
        ``input_size`` = S, ``scale`` and the tensor ``mean`` (3, R, R).
    crops
        1 (the centre) or 10.
    batch_size
        Crops in one forward pass. Default: 100 on a CPU, elsewhere 2000 of 56 px, or as many pixels.
    workers
        Processes that decode a pack (see :func:`zfcore.data.batches`).
    low_precision
        Whether the network runs in bfloat16, faster where the device has it.

    Returns
    -------
    Tensor
        (N, classes) float32 on the CPU; every row sums to 1.

    Raises
    ------
    ValueError
        Another number of crops, or pictures of another size than the card's mean.
    """
    options = batch_size, device, progress, workers, low_precision
    return torch.cat([part.cpu() for part in _in_batches(model, pictures, card, crops, *options)])


@torch.no_grad()
def _in_batches(
    model,
    pictures,
    card,
    crops,
    batch_size=None,
    device="cpu",
    progress=False,
    workers=0,
    low_precision=False,
) -> Iterator[Tensor]:
    """The rows of :func:`probabilities` a few at a time, on ``device``."""
    if crops not in (1, 10):
        raise ValueError(f"crops is {crops}; accepted are 1 (the centre) and 10 (corners, centre, mirrored)")
    device, size = torch.device(device), card["input_size"]
    batch_size = batch_size or (100 if device.type == "cpu" else 2000 * 56**2 // size**2)
    square, mean = (3, pictures.side, pictures.side), card["mean"].to(device)
    if mean.shape != square:
        raise ValueError(
            f"the pictures are {square}, the card's mean is {tuple(mean.shape)}; "
            "resize the smaller side and take the centre square first"
        )

    def cut(squares: Tensor) -> Tensor:
        return ten_crops(squares, size) if crops == 10 else centre_crop(squares, size)[None]

    order = torch.arange(len(pictures)).split(max(1, batch_size // crops))
    precision = torch.autocast(device.type, torch.bfloat16) if low_precision else nullcontext()
    with evaluating(model.to(device)):
        for pixels in tqdm(
            batches(pictures, order, device, workers),
            "judging",
            len(order),
            leave=False,
            disable=not progress,
        ):
            x = (cut(pixels).float() - cut(mean[None])) / card["scale"]  # (crops, B, 3, S, S)
            x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            with precision:
                logits = model(x)
            yield logits.float().softmax(1).unflatten(0, (crops, -1)).mean(0)


def ensemble(members: Iterable[Tensor]) -> Tensor:
    """The mean of the members' class probabilities, (N, classes) float32; any number of members.

    Raises ``ValueError`` when there is none.
    """
    total, count = 0, 0
    for member in members:
        total, count = total + member.double(), count + 1
    if not count:
        raise ValueError("an ensemble of no network has no probabilities")
    return (total / count).float()


def wrong(probabilities: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Where the true class is not among the ``k`` most probable ones; of equals, the lowest class leads.

    (N, classes) and (N,) → (N,) bool. Raises ``ValueError`` for a probability that is not a number.
    """
    if not probabilities.isfinite().all():
        raise ValueError("there are probabilities that are not numbers; the network has diverged")
    true = probabilities.gather(1, labels[:, None])  # (N, 1)
    classes = torch.arange(probabilities.shape[1], device=labels.device)
    before = (probabilities > true) | ((probabilities == true) & (classes < labels[:, None]))
    return before.sum(1) >= k


def outcomes(
    model: nn.Module, pictures: Pictures, card: dict, crops: int = 1, **options
) -> dict[str, Tensor]:
    """For every picture whether the network is wrong: ``{"top1": (N,) bool, "top5": (N,) bool}``, on the CPU.

    Parameters and options as in :func:`probabilities`; these are not kept, so that N may be a million.
    """
    found, start = {"top1": [], "top5": []}, 0
    for part in _in_batches(model, pictures, card, crops, **options):
        labels = pictures.labels[start : start + len(part)].to(part.device)
        for name, k in (("top1", 1), ("top5", 5)):
            found[name].append(wrong(part, labels, k).cpu())
        start += len(part)
    return {name: torch.cat(parts) for name, parts in found.items()}


def errors(model: nn.Module, pictures: Pictures, card: dict, crops: int = 1, **options) -> dict[str, float]:
    """Top-1 and top-5 error in %, ``{"top1": …, "top5": …}``; options as in :func:`probabilities`.

    The top-5 error counts the pictures whose class is not among the five most probable ones.
    """
    return {name: percent(found) for name, found in outcomes(model, pictures, card, crops, **options).items()}


def percent(wrong: Tensor) -> float:
    """The share of the outcomes that are wrong, in %."""
    return 100 * float(wrong.double().mean())


def confusion(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How often class i (row) was taken for class j (column): counts, int64 (C, C).

    (N, C) probabilities and (N,) labels; of equally probable classes the first is taken.
    """
    classes = probabilities.shape[1]
    taken = torch.from_numpy(probabilities.numpy().argmax(1))  # numpy promises the first of equals
    return torch.bincount(labels * classes + taken, minlength=classes**2).view(classes, classes)


def most_confused(counts: Tensor, k: int = 10) -> list[tuple[int, int, int]]:
    """The ``k`` most frequent mistakes of a (C, C) confusion as (true class, taken for, count).

    Equal counts come in the order of their classes; mistakes that never happened are left out.
    """
    mistakes = counts.clone().fill_diagonal_(0).flatten()
    ranked = mistakes.sort(descending=True, stable=True)
    return [
        (*divmod(place, len(counts)), count)
        for place, count in zip(ranked.indices[:k].tolist(), ranked.values[:k].tolist(), strict=True)
        if count
    ]


@dataclass(frozen=True)
class Verdict:
    """What :func:`judge` finds of one network or ensemble, over N pictures of C classes.

    ``errors`` in % and ``outcomes`` bool (N,) have the keys ``"one crop top1"``, ``"ten crops top5"``, …;
    ``confusion`` int64 (C, C) is that of the largest number of crops; ``seconds`` of wall time.
    """

    errors: dict[str, float]
    outcomes: dict[str, Tensor]
    confusion: Tensor
    seconds: float


def judge(
    networks: Mapping[str, tuple[nn.Module, dict]],
    pictures: Pictures,
    crops: Sequence[int] = (1, 10),
    together: bool = False,
    **options,
) -> dict[str, Verdict]:
    """Judge networks, and with ``together`` also the ensemble of them all, called ``"ensemble"``.

    Parameters
    ----------
    networks
        By any name, each with its card, as :func:`zfcore.model.load` gives them.
    crops
        1, 10 or both.
    options
        As in :func:`probabilities`.

    Raises
    ------
    ValueError
        A network knows other classes than the pictures have, or as :func:`probabilities`.
    """
    for name, (_, card) in networks.items():
        known, count = card.get("classes", pictures.classes), len(pictures.classes)
        if tuple(known) != tuple(pictures.classes) or card.get("num_classes", count) != count:
            raise ValueError(f"{name} knows other classes than these pictures have; judge it on its own data")
    verdicts, total = {}, dict.fromkeys(crops, 0)
    for name, (network, card) in networks.items():
        start = time.monotonic()
        found = {n: probabilities(network, pictures, card, n, **options) for n in sorted(crops)}
        verdicts[name] = _verdict(found, pictures.labels, start)
        if together:  # a sum, for the probabilities of a million pictures are gigabytes
            total = {n: total[n] + ranked.double() for n, ranked in found.items()}
    if together:
        start = time.monotonic()
        mean = {n: (summed / len(networks)).float() for n, summed in total.items()}
        verdicts["ensemble"] = _verdict(mean, pictures.labels, start)
    return verdicts


def _verdict(by_crops: dict[int, Tensor], labels: Tensor, start: float) -> Verdict:
    words = {1: "one crop", 10: "ten crops"}
    bits = {f"{words[n]} top{k}": wrong(ranked, labels, k) for n, ranked in by_crops.items() for k in (1, 5)}
    counts = confusion(by_crops[max(by_crops)], labels)
    return Verdict({name: percent(b) for name, b in bits.items()}, bits, counts, time.monotonic() - start)


# ------------------------------------------------------------------------------ comparisons
@dataclass(frozen=True)
class Difference:
    """The error of a minus the error of b, in points (hundredths), over the same pictures.

    ``standard_error`` and the ``interval`` are in points too: two standard errors to either side, which is a
    little more than 95 %, or 95 % where few seeds make that wider. It is a ``tie`` when the interval holds 0.
    """

    points: float
    standard_error: float
    interval: tuple[float, float]
    tie: bool

    @property
    def sign(self) -> int:
        """0 for a tie, else -1 where a errs less often than b, and 1 where it errs more often."""
        return 0 if self.tie else 1 if self.points > 0 else -1

    def __str__(self) -> str:
        low, high = self.interval
        return as_in_print(f"{self.points:+.1f} points ({low:+.1f} to {high:+.1f})")


def as_in_print(text: str) -> str:
    """Text, or Markdown outside of its code and formulas, with true minus signs and a space before ``%``."""
    parts = re.split(r"(`[^`]*`|\$[^$]*\$)", text)
    parts[::2] = (re.sub(r"(?<=\d)%", " %", re.sub(r"(?<!\w)-(?=[\d.])", "−", part)) for part in parts[::2])
    return "".join(parts)


def paired_difference(wrong_a: Tensor, wrong_b: Tensor) -> Difference:
    """Compare two networks, or two recipes of several seeds each, over the same pictures.

    Parameters
    ----------
    wrong_a, wrong_b
        Outcomes bool (N,), or (seeds, N) with any number of seeds; see the formula above.

    Raises
    ------
    ValueError
        Different pictures (another N), or fewer than two.
    """
    return paired_contrast((1.0, wrong_a), (-1.0, wrong_b))


def paired_contrast(*terms: tuple[float, Tensor]) -> Difference:
    """A weighted sum of the errors of several networks or recipes, as ``(weight, outcomes)`` each.

    As :func:`paired_difference`, which is the case of the weights 1 and -1; a term's spread between seeds
    counts by the square of its weight.

    Raises
    ------
    ValueError
        Different pictures (another N), or fewer than two.
    """
    terms = [(w, y[None].double() if y.ndim == 1 else y.double()) for w, y in terms]
    counts = [y.shape[1] for _, y in terms]
    n = counts[0]
    if set(counts) != {n} or n < 2:
        over = " and ".join(map(str, counts))
        raise ValueError(f"outcomes over {over} pictures; give the same ones, two at least")
    differences = sum(w * y.mean(0) for w, y in terms)  # (N,)
    variance = float(differences.var()) / n
    rest = variance**2 / (n - 1)  # what Satterthwaite divides by: squares over their degrees of freedom
    for w, y in terms:
        if len(y) > 1:
            between, counted = (w**2 * part for part in _spread_of_seeds(y))
            variance += max(0.0, between - counted)
            rest += between**2 / (len(y) - 1)
    freedom = variance**2 / rest if variance else math.inf
    points, error = 100 * float(differences.mean()), 100 * math.sqrt(variance)
    half = max(2.0, float(stats.t.ppf(0.975, freedom))) * error
    return Difference(points, error, (points - half, points + half), abs(points) <= half)


def _spread_of_seeds(y: Tensor) -> tuple[float, float]:
    """For (seeds, N) outcomes: s²(ȳ_s)/S, and MS_γ/(NS), the part of it that differs by the picture."""
    seeds, n = y.shape
    residual = y - y.mean(0) - y.mean(1, keepdim=True) + y.mean()
    interaction = float(residual.square().sum()) / ((seeds - 1) * (n - 1))
    return float(y.mean(1).var()) / seeds, interaction / (n * seeds)


def interval(values: np.ndarray, seed: int = 0, draws: int = 2000) -> dict[str, float]:
    """The mean of ``values`` (N,) and its 95 % interval by bootstrap (percentiles): ``mean, low, high``.

    Fewer than two values have no interval: low and high are the mean.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "low": mean, "high": mean}
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=draws, batch=200, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return {"mean": mean, "low": float(found.low), "high": float(found.high)}


@dataclass(frozen=True)
class Agreement:
    """Kendall's τ of two rankings in [-1, 1], with its 95 % interval.

    ``rows`` were ranked; ``chance`` is the share of random rankings of so few whose τ lies as far from 0.
    """

    tau: float
    interval: tuple[float, float]
    rows: int
    chance: float


def rank_agreement(scores: Sequence[float], wrong: Tensor, draws: int = 1000, seed: int = 0) -> Agreement:
    """Do our rows rank as the paper's do? Kendall's τ (b) between its errors and ours.

    The interval is a bootstrap's: N pictures are drawn with replacement, the same for all rows, and the
    rows ranked again by their errors on them. It says whether more pictures would change the ranking, not
    whether so few rows can tell one ranking from another: that is the permutation test's ``chance``.

    Parameters
    ----------
    scores
        The paper's error of each of R rows; the scale does not matter.
    wrong
        Outcomes of our rows over the same pictures, bool (R, N), or their means over seeds, in [0, 1].

    Raises
    ------
    ValueError
        Fewer than two rows, or another number of rows.
    """
    ours = wrong.double().numpy()
    if len(scores) != len(ours) or len(ours) < 2:
        raise ValueError(
            f"{len(scores)} scores for {len(ours)} rows of outcomes; give one each, two at least"
        )
    draw, n = np.random.default_rng(seed), ours.shape[1]
    taus = [_tau(scores, ours @ np.bincount(draw.integers(n, size=n), minlength=n)) for _ in range(draws)]
    tau, chance = _tau(scores, ours.sum(1)), _chance(np.array(scores), ours.sum(1), draw)
    low, high = np.quantile(taus, [0.025, 0.975])  # drawing adds noise, which pulls τ towards 0
    return Agreement(tau, (min(tau, float(low)), max(tau, float(high))), len(ours), chance)


def _tau(a: Sequence[float], b: np.ndarray) -> float:
    """Kendall's τ; 0 where one side ranks nothing, all its values being equal."""
    return float(np.nan_to_num(stats.kendalltau(a, b).statistic))


def _chance(a: np.ndarray, b: np.ndarray, draw: np.random.Generator) -> float:
    """The share of pairings of a and b whose τ lies as far from 0: of all up to 8 rows, else of those drawn.

    Ties are the same in every pairing, so τ goes with the pairs that agree minus those that do not.
    """
    rows, drawn = len(b), 10_000
    i, j = np.triu_indices(rows, 1)
    if rows <= 8:
        orders = np.array(list(permutations(range(rows))))
    else:
        orders = draw.permuted(np.tile(np.arange(rows), (drawn, 1)), axis=1)
        orders[0] = np.arange(rows)  # the pairing that is there is one of them
    agreeing = np.sign(b[orders[:, i]] - b[orders[:, j]]) @ np.sign(a[i] - a[j])  # (orders,)
    here = np.sign(b[i] - b[j]) @ np.sign(a[i] - a[j])
    return float((abs(agreeing) >= abs(here)).mean())
