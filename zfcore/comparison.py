r"""Whether one network is wrong less often than another, and what a mean of measurements is worth.

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

Sources: Satterthwaite 1946, doi:10.2307/3002019; Kendall 1938, doi:10.1093/biomet/30.1-2.81; percentile
intervals: Efron & Tibshirani (1993).

Example::

    from zfcore.comparison import paired_difference
    from zfcore.ledger import find, outcomes
    a, b = (find("table2", row=row)[0] for row in ("alexnet", "zfnet"))
    print(paired_difference(outcomes(a, "one crop top1"), outcomes(b, "one crop top1")))
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import stats
from torch import Tensor


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

    The interval is a bootstrap's, widened to hold τ where that pulls it to one side: N pictures are drawn
    with replacement, the same for all rows, and the rows ranked again by their errors on them. It says
    whether more pictures would change the ranking, not whether so few rows can tell one ranking from another:
    that is the permutation test's ``chance``.

    Parameters
    ----------
    scores
        The paper's error of each of R rows; the scale does not matter.
    wrong
        Outcomes of our rows over the same pictures, bool (R, N), or their means over seeds, in [0, 1].
    draws
        How often pictures are drawn for the interval.
    seed
        Of these draws; with more than eight rows also of the random rankings for ``chance``.

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
