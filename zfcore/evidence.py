r"""What a verdict rests on: numbers of the ledger with their intervals, and where a claim wants them.

A :class:`Number` has a 95 % interval and a side on which the claim wants it; :func:`judge` makes a verdict of
several, always by the same rule:

- *reproduced*: every interval lies where the claim wants it, clear of the null or within a margin around it;
- *contradicted*: an interval lies clear on the other side, or beyond the margin;
- *not testable at this scale*: neither. An interval includes the null (a tie), or what decides is not in the
  data, and then the test says so (:class:`UntestableError`);
- *not run yet*: the ledger lacks an entry (:class:`NotRunError`, which names the command).

Differences of two means that have intervals of their own get one by MOVER (Zou & Donner 2008,
doi:10.1002/sim.3095), means of samples by Welch's t with Satterthwaite's degrees of freedom (Welch 1947,
doi:10.1093/biomet/34.1-2.28), other statistics by a percentile bootstrap.

Source of the claims: Zeiler & Fergus, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.evidence import Evidence, judge
    purity = Evidence().entry("fig2", "purity", "zfcore measure fig2")
    judge([purity.number("", "rise of share per layer", wanted=1)])
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from zfcore.ledger import RESULTS, LedgerError, find, is_control
from zfcore.model import ships

REPRODUCED, CONTRADICTED = "reproduced", "contradicted"
UNTESTABLE, NOT_RUN = "not testable at this scale", "not run yet"
#: The verdicts, in the order in which they are counted.
VERDICTS = (REPRODUCED, CONTRADICTED, UNTESTABLE, NOT_RUN)

#: What the ledgers are judged on, Tiny-ImageNet elsewhere; entries of other pictures are rehearsals.
DATA = {
    "table3": "caltech101",
    "table6": "caltech101",
    "fig7": "caltech101",
    "correspondence": "caltech101",
    "maximization": None,  # climbs from noise
}
#: Ledgers of networks trained for them. All others measure the one that ships, where a row says no other.
TRAININGS = {"table1", "table2", "fig4", "fig5"}
#: The network that they measure, and whose layers the controls with random weights have.
NETWORK = {"architecture": "zfnet-64", "width": 1.0}
#: How many times a sample is drawn again, so often that no verdict hangs on the generator's seed.
DRAWS = 20_000


# ------------------------------------------------------------------------------ numbers and the rule
@dataclass(frozen=True)
class Number:
    """A measured number with its 95 % interval, and where the claim wants it.

    ``wanted`` is 1 or −1 for above or below ``null``, 0 for within ``margin`` of it, None where the number
    only stands beside the others. Means are nan where there is no value. ``sizes`` are those of the samples
    that it was computed from here, if it was.
    """

    label: str
    mean: float
    low: float
    high: float
    wanted: int | None = None
    null: float = 0.0
    margin: float = 0.0
    text: str = ""
    sizes: tuple[int, ...] = ()

    @property
    def stands(self) -> int | None:
        """Whether the interval lies where it is wanted (1), clear on the other side (−1), or neither (0)."""
        if self.wanted is None:
            return None
        low, high = self.low - self.null, self.high - self.null
        if self.wanted:
            low, high = sorted((self.wanted * low, self.wanted * high))
            return 1 if low > 0 else -1 if high < 0 else 0
        if -self.margin <= low and high <= self.margin:
            return 1
        return -1 if low > self.margin or high < -self.margin else 0


def judge(numbers: Sequence[Number]) -> tuple[str, str]:
    """The verdict over a claim's numbers, and why: the rule above.

    Raises ``ValueError`` where no number is asked for anything.
    """
    sides: dict[int, list[Number]] = {-1: [], 0: [], 1: []}
    for number in numbers:
        if number.stands is not None:
            sides[number.stands].append(number)
    against, ties, clear = sides.values()
    if not (against or ties or clear):
        raise ValueError("no number is asked for anything; give one a wanted side")
    rest = f". In favour: {_named(clear)}" if clear else ""
    if against:
        first = against[0]
        where = f"on the other side of {first.null:g}" if first.wanted else f"beyond ±{first.margin:g}"
        return CONTRADICTED, f"the interval lies {where}{_of(against)}{rest}"
    if ties:
        first = ties[0]
        over = f"includes {first.null:g}" if first.wanted else f"reaches over ±{first.margin:g}"
        return UNTESTABLE, f"a tie: the interval {over}{_of(ties)}{rest}"
    return REPRODUCED, f"{'every' if len(clear) > 1 else 'the'} interval lies where the claim wants it"


def _named(numbers: Sequence[Number]) -> str:
    return "; ".join(number.label for number in numbers)


def _of(numbers: Sequence[Number]) -> str:
    return f" ({_named(numbers)})" if numbers[0].label else ""


# ------------------------------------------------------------------------------ the ledger
class NotRunError(Exception):
    """The ledger lacks an entry: ``what`` it is, and the ``command`` that makes it."""

    def __init__(self, what: str, command: str):
        super().__init__(what)
        self.what, self.command = what, command


class UntestableError(Exception):
    """No entry at this scale can decide: ``key`` of the reason in the claim's words, and its ``values``."""

    def __init__(self, key: str, **values: Any):
        super().__init__(key)
        self.key, self.values = key, values


class Evidence:
    """The ledger in a folder, as one claim's test reads it; ``entries`` are those that it has read."""

    def __init__(self, folder: str | os.PathLike = RESULTS):
        self.folder = Path(folder)
        self.entries: list[dict[str, Any]] = []

    def entry(self, ledger: str, row: str, command: str, **config: Any) -> Entry:
        """The entry of that row over most pictures, of the data that count, or :class:`NotRunError`."""
        found = self.find(ledger, row, **config)
        if not found:
            raise NotRunError(f"{ledger}, {row}", command)
        best = max(found, key=lambda entry: entry["n"])
        self.read(ledger, best)
        return Entry(ledger, best)

    def seeds(self, ledger: str, row: str, command: str, **config: Any) -> list[Entry]:
        """The same entry and those that differ from it by the seed alone: every training of that row."""
        best = self.entry(ledger, row, command, **config).entry
        same = [
            entry
            for entry in self.find(ledger, row, **config)
            if all(entry[key] == best[key] for key in ("n", "data_sha256", "config"))
        ]
        self.read(ledger, *same)
        return [Entry(ledger, entry) for entry in same]

    def find(
        self, ledger: str, row: str | None = None, data: str = "", **config: Any
    ) -> list[dict[str, Any]]:
        """The entries that may be judged: of the data that count, or of ``data``, and of no other weights
        than those that ship, where it is these that are measured."""
        data = data or DATA.get(ledger, "tiny-imagenet")
        return [e for e in find(ledger, self.folder, row, data=data, **config) if _of_the_network(ledger, e)]

    def read(self, ledger: str, *entries: dict[str, Any]) -> None:
        """Note that these were read."""
        for entry in entries:
            if (named := {"ledger": ledger, **entry}) not in self.entries:
                self.entries.append(named)


def _of_the_network(ledger: str, entry: dict[str, Any]) -> bool:
    """Whether an entry is of the network that its row is about."""
    if ledger in TRAININGS:
        return True
    if is_control(entry):  # its weights are its own; its layers must be the network's
        return all(entry["config"].get(key, value) == value for key, value in NETWORK.items())
    return entry["weights_sha256"] is None or ships(entry["weights_sha256"])


@dataclass(frozen=True)
class Entry:
    """One entry, whose values are asked for by their path; what is missing is an error that names it."""

    ledger: str
    entry: dict[str, Any]

    def at(self, *path: str) -> Any:
        """The value at that path. Raises :class:`zfcore.ledger.LedgerError`."""
        value = self.entry["values"]
        for depth, key in enumerate(path, 1):
            if not isinstance(value, dict) or key not in value:
                raise LedgerError(f"{self.ledger}, {self.entry['row']}, has no {' / '.join(path[:depth])}")
            value = value[key]
        return value

    def number(self, label: str, *path: str, times: float = 1.0, **asked: Any) -> Number:
        """The number there, ``{"mean", "low", "high"}`` or ``{"mean", "interval"}``, times a factor."""
        where = f"{self.ledger}, {self.entry['row']}, {' / '.join(path)}"
        value = self.at(*path)
        try:
            ends = value["interval"] if "interval" in value else (value["low"], value["high"])
            mean, low, high = (times * float(number) for number in (value["mean"], *ends))
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"{where}: {value!r} is no interval") from error
        return measured(label, mean, low, high, where=where, **asked)


def measured(label: str, mean: float, low: float, high: float, where: str = "", **asked: Any) -> Number:
    """A number that is one, finite and within its interval; else a ``LedgerError`` that says ``where``."""
    if not (-math.inf < low - 1e-4 <= mean <= high + 1e-4 < math.inf):  # ledgers round
        raise LedgerError(f"{where or label}: {mean} with the interval {low} to {high} is no measured number")
    return Number(label, mean, low, high, **asked)


def minus(label: str, a: Number, b: Number, **asked: Any) -> Number:
    """a − b for two means with intervals of their own (MOVER); too wide, if anything, where paired."""
    mean = a.mean - b.mean
    below = math.hypot(a.mean - a.low, b.high - b.mean)
    above = math.hypot(a.high - a.mean, b.mean - b.low)
    return measured(label, mean, mean - below, mean + above, **asked)


def contrast(
    label: str,
    samples: Sequence[np.ndarray],
    weights: Sequence[float] = (1.0, -1.0),
    times: float = 1.0,
    **asked: Any,
) -> Number:
    """The weighted sum of the means of independent samples, with Welch's interval.

    Each sample has two values at least; samples without any spread give an interval of one point.
    """
    mean = sum(w * float(x.mean()) for w, x in zip(weights, samples, strict=True))
    parts = [w**2 * float(x.var(ddof=1)) / len(x) for w, x in zip(weights, samples, strict=True)]
    variance, half = sum(parts), 0.0
    if variance:
        freedom = variance**2 / sum(v**2 / (len(x) - 1) for v, x in zip(parts, samples, strict=True))
        half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance)
    low, high = sorted((times * (mean - half), times * (mean + half)))
    return measured(label, times * mean, low, high, sizes=tuple(map(len, samples)), **asked)


def drawn(
    label: str,
    samples: Sequence[np.ndarray],
    statistic: Callable,
    times: float = 1.0,
    **asked: Any,
) -> Number:
    """``statistic(*samples, axis)`` with a percentile bootstrap of each sample by itself."""
    found = stats.bootstrap(
        samples, statistic, vectorized=True, n_resamples=DRAWS, batch=1000,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    mean = times * float(statistic(*samples, axis=-1))
    low, high = sorted((times * float(found.low), times * float(found.high)))
    sizes = tuple(map(len, samples))
    return measured(label, mean, min(low, mean), max(high, mean), sizes=sizes, **asked)
