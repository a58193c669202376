"""How transferred features are judged: splits of a data set, accuracy by class, average precision (§5.2).

**Caltech.** Of every category some pictures are drawn to train on (15 or 30; 15 to 60 of Caltech-256), and
up to 50 others to test; accuracy is the mean of the categories' own. Five splits are drawn. Here a split is
one order of each category's pictures: training sets of fewer pictures are parts of the larger ones, and all
sizes, layers and heads of a split are judged on the same test pictures, those after the largest training set,
so that whatever is compared is compared split by split (:func:`paired`). The 101 categories are without the
background, which a second line takes in as the 102nd.

**PASCAL VOC.** One prediction per picture over 20 classes, as the paper says, though a picture may show
several: a training picture counts once for every class it shows (difficult objects apart), and the softmax's
probability of a class is what test pictures are ranked by. :func:`average_precision` follows the devkit.

Sources: Zeiler & Fergus, §5.2, doi:10.1007/978-3-319-10590-1_53; Everingham et al. 2010,
doi:10.1007/s11263-009-0275-4; Nadeau & Bengio 2003, doi:10.1023/A:1024068626366.

Example::

    import torch
    from zfcore.protocols import draw_split, per_class_accuracy
    labels = torch.arange(3).repeat_interleave(40)
    split = draw_split(labels, number=0, most=15)
    per_class_accuracy(labels[split.test], labels[split.test])    # 100 % each
"""

from __future__ import annotations

import math
import os
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from zfcore.data import VOC_CLASSES
from zfcore.model import write_atomically
from zfcore.transfer import fit_softmax


@dataclass(frozen=True)
class Split:
    """One draw: ``train`` (T,) with each picture's ``rank`` (T,) in its class from 0, and ``test`` (M,).

    The training set of k pictures per class is ``train[rank < k]``; positions are int64.
    """

    train: Tensor
    rank: Tensor
    test: Tensor


def draw_split(
    labels: Tensor,
    number: int,
    most: int = 30,
    tests: int = 50,
    leave_out: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> Split:
    """Draw the pictures of a split, class by class.

    Parameters
    ----------
    labels
        (N,) int64; a class with a negative label takes no part.
    number
        Of the split; a class's order follows from this number and its label alone.
    most, tests
        Training pictures per class, and the largest number of test pictures, drawn from those after them.
    leave_out
        (N,) bool: pictures that nobody may use; the others keep their order.
    names
        Of the classes, by their labels, for the error; without them it has the label.

    Raises
    ------
    ValueError
        A class has no picture left to test with; it is named.
    """
    train, rank, test = [], [], []
    for c in labels.unique().tolist():
        if c < 0:
            continue
        rows = np.flatnonzero(labels.numpy() == c)
        rows = rows[np.random.default_rng((number, c)).permutation(len(rows))]
        if leave_out is not None:
            rows = rows[~leave_out.numpy()[rows]]
        if len(rows) <= most:
            name = names[c] if names else c
            raise ValueError(
                f"class {name} has {len(rows)} pictures: with {most} to train on none is left to test"
            )
        train.append(rows[:most])
        rank.append(np.arange(most))
        test.append(rows[most : most + tests])
    return Split(*(torch.from_numpy(np.concatenate(parts)) for parts in (train, rank, test)))


def per_class_accuracy(predicted: Tensor, labels: Tensor) -> Tensor:
    """The accuracy on each class's own pictures in %, float64 (C,), classes sorted; the paper has means."""
    classes = labels.unique()
    right = (predicted == labels).double()
    return 100 * torch.stack([right[labels == c].mean() for c in classes])


@dataclass(frozen=True)
class Paired:
    """The difference of two methods in points over the same splits: mean, deviation, 95 % interval."""

    mean: float
    deviation: float
    interval: tuple[float, float]


def paired(a: Mapping[int, float], b: Mapping[int, float], ratio: float) -> Paired:
    """a minus b over the splits that both have, each ``{split: accuracy in %}``.

    Splits draw from the same pictures, so their spread alone would make the interval far too short. It is
    widened as Nadeau and Bengio found: the variance of the mean of J splits is taken as
    s² (1/J + ``ratio``), the ratio being that of test to training pictures.

    Raises ``ValueError`` for fewer than two splits in common.
    """
    differences = [a[split] - b[split] for split in sorted(a.keys() & b.keys())]
    if len(differences) < 2:
        raise ValueError(f"{len(differences)} of {len(a)} and {len(b)} splits are the same; two are needed")
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * deviation
    half *= math.sqrt(1 / len(differences) + ratio)
    return Paired(mean, deviation, (mean - half, mean + half))


def average_precision(scores: Tensor, truth: Tensor, rule: str) -> float:
    """Average precision of one class by the devkit's rule, in [0, 1].

    Parameters
    ----------
    scores
        (N,), the larger the surer; of equal ones the first is ranked first.
    truth
        (N,): 1 shows the class, −1 does not, 0 is left out of account (all its objects are difficult).
    rule
        ``"11-point"``, until 2009: the mean over recall 0, 0.1, …, 1 of the largest precision at that recall
        or a higher one. ``"area"``, from 2010: the area under the curve of that largest precision.

    Raises
    ------
    ValueError
        Another rule, or no picture of the class.
    """
    counted = truth != 0
    order = scores[counted].argsort(descending=True, stable=True)
    hits = (truth[counted][order] == 1).double()
    if not hits.any():
        raise ValueError("no picture shows the class; its precision is not defined")
    found = hits.cumsum(0)
    precision = found / torch.arange(1, len(hits) + 1)
    recall = found / found[-1]
    best = precision.flip(0).cummax(0).values.flip(0)  # the largest at that recall or a higher one
    if rule == "area":
        return float((hits * best).sum() / found[-1])  # recall rises at the hits, by equal steps
    if rule != "11-point":
        raise ValueError(f"unknown rule {rule!r}; known: 11-point (until 2009), area (from 2010)")
    levels = torch.arange(11, dtype=torch.float64) / 10
    return float(torch.stack([best[recall >= level - 1e-9][0] for level in levels]).mean())


def mean_average_precision(
    scores: Tensor, truth: Tensor, rule: str, draws: int = 1000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """The mean of the classes' average precisions in %, and its 95 % interval over pictures.

    The interval comes from drawing the test pictures again and again, corrected for bias and skewness (BCa):
    a picture that is drawn twice stands twice in the ranking, which alone moves the precision. Nothing is
    learned anew, so it knows nothing of other training pictures.

    Parameters
    ----------
    scores, truth
        (N, C), a column for each class, as for :func:`average_precision`.
    rule
        As for :func:`average_precision`.
    draws, seed
        How often the pictures are drawn, and with what.

    Raises
    ------
    ValueError
        As :func:`average_precision` does.
    """

    def mean(rows: np.ndarray) -> float:
        shown = truth[rows]
        kept = (shown == 1).any(0).nonzero()[:, 0].tolist()  # a class may be missing from what was drawn
        return 100 * statistics.fmean(average_precision(scores[rows, c], shown[:, c], rule) for c in kept)

    whole = 100 * statistics.fmean(map(average_precision, scores.T, truth.T, [rule] * len(truth.T)))
    rows, rng = np.arange(len(scores)), np.random.default_rng(seed)
    # Where no picture can change the mean there is no spread to correct, and scipy says so.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap((rows,), mean, vectorized=False, n_resamples=draws, method="BCa", rng=rng)
    low, high = map(float, found.confidence_interval)
    return whole, ((low, high) if math.isfinite(low) else (whole, whole))


def write_submission(
    folder: str | os.PathLike, files: Sequence[str], scores: Tensor, split: str
) -> list[Path]:
    """Write what the evaluation server wants: ``comp2_cls_<split>_<class>.txt``, a name and a score a line.

    comp2 is the competition that allows training on other pictures, which a pretrained network has seen.
    ``scores`` (N, 20) belong to ``files``; they have nine digits, so that float32 keeps its ranking. Returns
    the paths.
    """
    paths = []
    for c, name in enumerate(VOC_CLASSES):
        path = Path(folder) / f"comp2_cls_{split}_{name}.txt"
        lines = (f"{file} {score:.9g}\n" for file, score in zip(files, scores[:, c].tolist(), strict=True))
        write_atomically(path, "".join(lines).encode())
        paths.append(path)
    return paths


def few_shot(
    features: Mapping[str, Tensor],
    labels: Tensor,
    sizes: Sequence[int] = (1, 2, 3, 5, 10, 20, 30),
    draws: int = 5,
) -> dict[str, list[tuple[float, float, float]]]:
    """Accuracy of a softmax by training pictures per class: ``{name: [(size, mean, deviation), …]}``.

    ``features`` are one (N, D) for each name, of the same pictures; all see the same ``draws`` splits,
    two at least (``ValueError``).
    """
    if draws < 2:
        raise ValueError(f"a deviation wants two draws at least; got {draws}")
    curves = {}
    for name, x in features.items():
        found = [[] for _ in sizes]
        for number in range(draws):
            split = draw_split(labels, number, max(sizes))
            for column, k in zip(found, sizes, strict=True):
                mine = split.train[split.rank < k]
                predicted = fit_softmax(x[mine], labels[mine]).predict(x[split.test])
                column.append(float(per_class_accuracy(predicted, labels[split.test]).mean()))
        curves[name] = [
            (float(k), statistics.fmean(column), statistics.stdev(column))
            for k, column in zip(sizes, found, strict=True)
        ]
    return curves
