r"""Tables 3 to 6 and Fig. 7: the protocols that judge transferred features, run and recorded (§5.2, §5.3).

**Caltech.** Of every category some pictures are drawn to train on (15 or 30; 15 to 60 of Caltech-256), and
up to 50 others to test; accuracy is the mean of the categories' own. Five splits are drawn. Here a split is
one order of each category's pictures: training sets of fewer pictures are parts of the larger ones, and all
sizes, layers and heads of a split are judged on the same test pictures, those after the largest training set,
so that whatever is compared is compared split by split (:func:`paired`). The 101 categories are without the
background, which a second line takes in as the 102nd.

**PASCAL VOC.** One prediction per picture over 20 classes, as the paper says, though a picture may show
several: a training picture counts once for every class it shows (difficult objects apart), and the softmax's
probability of a class is what test pictures are ranked by. :func:`average_precision` follows the devkit.

**From scratch** is the same network, all its layers learned from the target's training pictures alone, for
100 epochs of them. **Random** is the control that the paper lacks: the same head on the features of a network
nobody trained.

A run records what the ledger lacks and skips what it has, as long as weights and pictures are the same.

Sources: Zeiler & Fergus, §5.2, §5.3, doi:10.1007/978-3-319-10590-1_53; Everingham et al. 2010,
doi:10.1007/s11263-009-0275-4; Nadeau & Bengio 2003, doi:10.1023/A:1024068626366.

Example::

    from zfcore.generalization import Transfer, reproduce
    reproduce("fig7", Transfer("patches", out="runs", results="results"), splits=(0, 1))
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from zfcore.data import VOC_CLASSES, LabelledPictures, caltech, centre_crop, patches, voc
from zfcore.evaluate import probabilities
from zfcore.ledger import RESULTS, find, provenance, record
from zfcore.model import load, network_of, save, untrained, write_atomically
from zfcore.train import SMALL, Recipe, train
from zfcore.transfer import Head, Span, extract_features, fit_softmax, fit_svm

# ------------------------------------------------------------------------------ the paper's numbers
#: The accuracies of Table 3 in %, on Caltech-101 at 15 and 30 training pictures per class, as printed.
TABLE3 = {
    "Bo et al.": ("–", "81.4 ± 0.33"),
    "Yang et al.": ("73.2", "84.3"),
    "scratch": ("22.8 ± 1.5", "46.5 ± 1.7"),
    "pretrained": ("83.8 ± 0.5", "86.5 ± 0.5"),
}
#: The accuracies of Table 4 in %, on Caltech-256 at 15, 30, 45 and 60 per class.
TABLE4 = {
    "Sohn et al.": ("35.1", "42.1", "45.7", "47.9"),
    "Bo et al.": ("40.5 ± 0.4", "48.0 ± 0.2", "51.9 ± 0.2", "55.2 ± 0.3"),
    "scratch": ("9.0 ± 1.4", "22.5 ± 0.7", "31.2 ± 0.5", "38.8 ± 1.4"),
    "pretrained": ("65.7 ± 0.2", "70.6 ± 0.2", "72.7 ± 0.4", "74.2 ± 0.3"),
}
#: The average precisions of Table 5 in %, on PASCAL VOC 2012 test, of [22], [27], Oquab et al. and the paper;
#: then the means and the numbers of classes won, as printed. † repeats a neighbour's value in our source: the
#: columns' means do not come out from these.
TABLE5 = {
    "aeroplane": ("92.0", "97.3", "94.6", "96.0"),
    "bicycle": ("74.2", "84.2", "82.9", "77.1"),
    "bird": ("73.0", "80.8", "88.2", "88.4"),
    "boat": ("77.5", "85.3", "60.3†", "85.5"),
    "bottle": ("54.3", "60.8", "60.3", "55.8"),
    "bus": ("85.2", "89.9", "89.0", "85.8"),
    "car": ("81.9", "86.8", "84.4", "78.6"),
    "cat": ("76.4", "89.3", "90.7", "91.2"),
    "chair": ("65.2", "75.4", "72.1", "65.0"),
    "cow": ("63.2", "77.8", "86.8", "74.4"),
    "diningtable": ("63.2†", "77.8†", "69.0", "67.7"),
    "dog": ("68.9", "83.0", "92.1", "87.8"),
    "horse": ("78.2", "87.5", "93.4", "86.0"),
    "motorbike": ("81.0", "90.1", "88.6", "85.1"),
    "person": ("91.6", "95.0", "96.1", "90.9"),
    "pottedplant": ("55.9", "57.8", "64.3", "52.2"),
    "sheep": ("69.4", "79.2", "86.6", "83.6"),
    "sofa": ("65.4", "73.4", "62.3", "61.1"),
    "train": ("86.7", "94.5", "91.1", "91.8"),
    "tvmonitor": ("77.4", "80.7", "79.8", "76.1"),
    "mean": ("74.3", "82.2", "82.8", "79.0"),
    "won": ("0", "11", "6", "3"),
}
#: The accuracies of Table 6 in %, on Caltech-101 at 30 per class and Caltech-256 at 60.
TABLE6 = {
    "svm(1)": ("44.8 ± 0.7", "24.6 ± 0.4"),
    "svm(2)": ("66.2 ± 0.5", "39.6 ± 0.3"),
    "svm(3)": ("72.3 ± 0.4", "46.0 ± 0.3"),
    "svm(4)": ("76.6 ± 0.4", "51.3 ± 0.1"),
    "svm(5)": ("86.2 ± 0.8", "65.6 ± 0.3"),
    "svm(7)": ("85.5 ± 0.4", "71.7 ± 0.2"),
    "softmax(5)": ("82.9 ± 0.4", "65.7 ± 0.5"),
    "softmax(7)": ("85.4 ± 0.4", "72.6 ± 0.1"),
}
#: The points of Fig. 7 on Caltech-256 that Table 4 states, training pictures per class and accuracy. Of six
#: per class the text says only that they beat 55.2.
FIG7 = {15: 65.7, 30: 70.6, 45: 72.7, 60: 74.2}

CATEGORIES = {"caltech101": 101, "caltech256": 256}
BACKGROUND = {"caltech101": "BACKGROUND_Google", "caltech256": "257.clutter"}
SIZES = {"caltech256": (15, 30, 45, 60)}  # of the tables; 15 and 30 elsewhere
CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 45, 60)
LAYERS = (1, 2, 3, 4, 5, 7)
TARGETS = ("table3", "table4", "table5", "table6", "fig7")


# ------------------------------------------------------------------------------ judging
@dataclass(frozen=True)
class Split:
    """One draw: ``train`` (T,) with each picture's ``rank`` (T,) in its class from 0, and ``test`` (M,).

    The training set of k pictures per class is ``train[rank < k]``; positions are int64.
    """

    train: Tensor
    rank: Tensor
    test: Tensor


def draw_split(
    labels: Tensor, number: int, most: int = 30, tests: int = 50, leave_out: Tensor | None = None
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
            raise ValueError(
                f"class {c} has {len(rows)} pictures: with {most} to train on none is left to test"
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


def paired(a: Sequence[float], b: Sequence[float], ratio: float) -> Paired:
    """a minus b, split by split.

    Splits draw from the same pictures, so their spread alone would make the interval far too short. It is
    widened as Nadeau and Bengio found: the variance of the mean of J splits is taken as
    s² (1/J + ``ratio``), the ratio being that of test to training pictures (:func:`tests_per_training`).

    Raises ``ValueError`` for other than two or more pairs.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"{len(a)} and {len(b)} splits; give the same ones, two at least")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    half = float(stats.t.ppf(0.975, len(a) - 1)) * deviation * math.sqrt(1 / len(a) + ratio)
    return Paired(mean, deviation, (mean - half, mean + half))


def tests_per_training(entry: Mapping[str, Any], per_class: int) -> float:
    """How many test pictures an entry of Caltech has for each training picture, of so many per class."""
    classes = CATEGORIES[entry["data"]] + bool(entry["config"].get("background"))
    return entry["n"] / (classes * per_class)


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


def write_submission(
    folder: str | os.PathLike, files: Sequence[str], scores: Tensor, split: str
) -> list[Path]:
    """Write what the evaluation server wants: ``comp2_cls_<split>_<class>.txt``, a name and a score a line.

    comp2 is the competition that allows training on other pictures, which a pretrained network has seen.
    ``scores`` (N, 20) belong to ``files``. Returns the paths.
    """
    paths = []
    for c, name in enumerate(VOC_CLASSES):
        path = Path(folder) / f"comp2_cls_{split}_{name}.txt"
        lines = (f"{file} {score:.6f}\n" for file, score in zip(files, scores[:, c].tolist(), strict=True))
        write_atomically(path, "".join(lines).encode())
        paths.append(path)
    return paths


# ------------------------------------------------------------------------------ one experiment
@dataclass(frozen=True)
class Transfer:
    """What the rows of a table share: target, source network, and where things lie.

    Parameters
    ----------
    data
        ``"caltech101"``, ``"caltech256"``, ``"voc2007"``, ``"voc2012"``, or ``"patches"`` to rehearse.
    weights
        The source, as :func:`zfcore.model.load` takes it.
    duplicates
        ``"kept"``, or ``"dropped"``: target pictures that the ledger ``duplicates`` names take no part. The
        paper drops them from the pretraining set and trains again, which is another protocol.
    recipe, epochs
        Of the training from scratch.
    device, progress
        Where the networks run; whether bars are shown.
    out, results
        Folders of the features and trainings, and of the ledger.
    """

    data: str = "caltech101"
    weights: str = "zfnet-64"
    duplicates: str = "kept"
    recipe: Recipe = SMALL
    epochs: int = 100
    device: str = "cpu"
    out: str | os.PathLike = "runs"
    results: str | os.PathLike = RESULTS
    progress: bool = False

    @cached_property
    def source(self) -> tuple[nn.Module, dict]:
        """The pretrained network and its card."""
        network, card = load(self.weights)
        return network.to(self.device), card

    def network(self, kind: str) -> nn.Module:
        """``"pretrained"``, or ``"random"``: the same network as it starts, He's initialisation, seed 0."""
        network, card = self.source
        if kind == "pretrained":
            return network
        return untrained(card).to(self.device)

    @cached_property
    def pictures(self) -> LabelledPictures:
        """The target's pictures at the source's size, with the background; read when first asked for."""
        side = self.source[1]["resize"]
        return patches("train", side) if self.data == "patches" else caltech(self.data, side)

    def inputs(self, pixels: Tensor) -> Iterator[Tensor]:
        """Centre crops of (N, 3, R, R) uint8 as the source wants them, 256 at a time."""
        card = self.source[1]
        mean = centre_crop(card["mean"], card["input_size"])
        for part in pixels.split(256):
            yield (centre_crop(part, card["input_size"]).float() - mean) / card["scale"]

    def features(self, kind: str, layers: Sequence[int], pixels: Tensor, sha256: str) -> dict[int, Tensor]:
        """The features of all pictures at the ends of layers, (N, D) each; extracted once, kept."""
        key = self.source[1]["sha256"]
        key = key[:24] if kind == "pretrained" else f"{kind}-{key[:12]}"
        folder = Path(self.out) / "features" / f"{self.data}-{sha256[:12]}-{key}"
        names = {n: f"layer {n}" for n in layers}
        if missing := [name for name in names.values() if not (folder / f"{name}.npy").exists()]:
            extract_features(
                self.network(kind), self.inputs(pixels), missing, folder=folder, progress=self.progress
            )
        return {
            n: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for n, name in names.items()
        }

    @cached_property
    def left_out(self) -> Tensor | None:
        """The target's pictures that the source may have seen, bool (N,); None where they are kept."""
        if self.duplicates == "kept":
            return None
        entries = find("duplicates", self.results, data=self.data)
        if not entries:
            raise FileNotFoundError(
                f"the ledger duplicates has nothing of {self.data}; run `zfcore duplicates tiny-imagenet "
                f"{self.data} --record`"
            )
        named = {pair[1] for entry in entries for pair in entry["values"]["pairs"]}
        return torch.tensor([file in named for file in self.pictures.files])

    def labels(self, background: bool) -> Tensor:
        """The labels with −1 for the background, unless it is a class."""
        labels, name = self.pictures.labels, BACKGROUND.get(self.data)
        if background or name not in self.pictures.classes:
            return labels
        return labels.masked_fill(labels == self.pictures.classes.index(name), -1)

    def maps(self, layer: int) -> int:
        """The number of feature maps of a convolutional layer of the source."""
        conv = self.source[0].architecture.named_layers()[f"conv{layer}"]
        return self.source[0].get_submodule(conv).out_channels

    @property
    def sizes(self) -> tuple[int, ...]:
        """Training pictures per class in the tables, the largest last."""
        return SIZES.get(self.data, (15, 30))

    def split(self, number: int, background: bool = False) -> Split:
        """The split of that number."""
        return draw_split(self.labels(background), number, self.sizes[-1], leave_out=self.left_out)

    def command(self, target: str, row: str, split: int | None) -> str:
        """The command that makes this entry again."""
        words = ["zfcore reproduce", target, f"--data {self.data}", f"--row {json.dumps(row)}"]
        words += [f"--weights {Path(self.weights).name}"] if self.weights != "zfnet-64" else []
        words += [f"--seeds {split}"] if split is not None else []
        words += ["--drop-duplicates"] if self.duplicates == "dropped" else []
        words += [f"--epochs {self.epochs} --recipe {self.recipe.name}"] if row == "scratch" else []
        return " ".join(words)


# ------------------------------------------------------------------------------ the rows
def rows_of(target: str, names: Sequence[str] | None = None) -> list[str]:
    """The rows of a target here, all or those named.

    Raises ``ValueError`` for an unknown target or row; the message lists the known ones.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    transferred = [f"{kind}, layer {n}" for kind in ("pretrained", "random") for n in (7, 5)]
    rows = {"table6": [f"{head}({n})" for n in LAYERS for head in ("svm", "softmax")]}.get(
        target, transferred
    )
    rows = [*rows, "scratch"] if target in ("table3", "table4") else rows
    if unknown := [name for name in names or () if name not in rows]:
        raise ValueError(f"{target} has no row {', '.join(unknown)}; it has: {'; '.join(rows)}")
    return [row for row in rows if not names or row in names]


def reproduce(
    target: str,
    transfer: Transfer,
    rows: Sequence[str] | None = None,
    splits: Sequence[int] = range(5),
    say: Callable[[str], None] = print,
) -> None:
    """Do what the ledger lacks of a target, split by split; a killed run goes on.

    Parameters
    ----------
    target, rows
        As in :func:`rows_of`.
    splits
        Their numbers; ``table5`` has none.
    say
        What to do with a line that tells how it goes.

    Raises
    ------
    ValueError
        The target is not of this data.
    FileNotFoundError
        The data are not on this machine; the message says how to get them.
    """
    chosen = rows_of(target, rows)
    foreign = {"table3": "caltech256", "table4": "caltech101"}.get(target) == transfer.data
    if foreign or transfer.data.startswith("voc") != (target == "table5"):
        raise ValueError(
            f"{target} is not of {transfer.data}; Table 3 is of caltech101, Table 4 of caltech256, "
            "Table 5 of voc2007 and voc2012, Table 6 and Fig. 7 of either Caltech"
        )
    if target == "table5" and transfer.duplicates == "dropped":
        raise ValueError("Table 5 is run with every picture; leave --drop-duplicates away")
    if target == "table5":
        for row in chosen:
            _voc_row(transfer, row, say)
        return
    parts = [_parts(row) for row in chosen if row != "scratch"]
    together = {kind: tuple({n for k, _, n in parts if k == kind}) for kind, _, _ in parts}
    for number in splits:
        for row in chosen:
            if row == "scratch":
                _from_scratch(transfer, target, number, say)
            else:
                _heads(transfer, target, row, number, together, say)


def _parts(row: str) -> tuple[str, str, int]:
    """Network, head and layer of a row: ``"svm(5)"``, ``"random, layer 7"``."""
    if "(" in row:
        head, _, number = row.rstrip(")").partition("(")
        return "pretrained", head, int(number)
    kind, _, number = row.partition(", layer ")
    return kind, "softmax", int(number)


def _config(transfer: Transfer, **more: Any) -> dict[str, Any]:
    card = transfer.source[1]
    shared = {"architecture": card["architecture"], "width": card.get("width", 1.0)}
    return {**shared, "duplicates": transfer.duplicates, **more}


def _is_recorded(
    transfer: Transfer, place: tuple[str, str, int | None], config: dict, weights: str | None, sha256: str
) -> bool:
    """Whether the ledger has target, row and seed of these pictures and weights (None: of any)."""
    target, row, seed = place
    return any(
        entry["data_sha256"] == sha256 and weights in (None, entry["weights_sha256"])
        for entry in find(target, transfer.results, row, seed, transfer.data, **config)
    )


def _record(
    transfer: Transfer,
    target: str,
    row: str,
    seed: int | None,
    config: dict,
    weights: str | None,
    values: dict,
    n: int,
    sha256: str,
    seconds: float,
) -> None:
    entry = {"row": row, "seed": seed, "values": values, "n": n, "data": transfer.data, "data_sha256": sha256}
    made = provenance(transfer.device, seconds, transfer.command(target, row, seed))
    record(target, entry | {"config": config, "weights_sha256": weights} | made, transfer.results)


def _heads(
    transfer: Transfer,
    target: str,
    row: str,
    number: int,
    together: Mapping[str, Sequence[int]],
    say: Callable[[str], None],
) -> None:
    """One row of one split: fit the head at every size, judge it, record it.

    ``together`` are the layers of each network that are extracted in one pass.
    """
    kind, head, layer = _parts(row)
    weights = transfer.source[1]["sha256"] if kind == "pretrained" else None
    sizes = [k for k in CURVE if k <= transfer.sizes[-1]] if target == "fig7" else transfer.sizes
    sizes = sizes[-1:] if target == "table6" else sizes
    lines = (False, True) if transfer.data in BACKGROUND and target in ("table3", "table4") else (False,)
    for background in lines:
        shared = _config(transfer, head=head, layer=layer, background=background)
        configs = [shared] if target == "fig7" else [shared | {"per class": k} for k in sizes]
        pictures = transfer.pictures
        of_these = weights, pictures.sha256
        if all(_is_recorded(transfer, (target, row, number), config, *of_these) for config in configs):
            say(f"{target}, {row}, split {number}{', with background' * background}: is in the ledger")
            continue
        split = transfer.split(number, background)
        x = transfer.features(kind, together[kind], pictures.pixels, pictures.sha256)[layer]
        labels, tests = pictures.labels, (x[split.test], pictures.labels[split.test])
        curve, begin = {}, time.monotonic()
        for k in sizes:
            start, mine = time.monotonic(), split.train[split.rank < k]
            span = Span(x[mine])
            fitted = {"softmax": fit_softmax, "svm": fit_svm}[head](span, labels[mine], seed=number)
            each = per_class_accuracy(fitted.predict(tests[0]), tests[1])
            found = {"accuracy": round(float(each.mean()), 3), "strength": fitted.strength}
            found |= {"each": [round(v, 1) for v in each.tolist()]}
            say(f"{target}, {row}, split {number}, {k} per class: {found['accuracy']:.1f} %")
            if target == "fig7":
                curve[k] = found
                continue
            if row == "svm(5)" and number == 0:
                found["strongest"] = strongest_maps(
                    fitted, x[mine], labels[mine], pictures.classes, transfer.maps(layer)
                )
            seconds = time.monotonic() - start
            sha = pictures.sha256
            _record(
                transfer,
                target,
                row,
                number,
                shared | {"per class": k},
                weights,
                found,
                len(tests[1]),
                sha,
                seconds,
            )
        if target == "fig7":
            values = {"per class": list(curve)}
            values |= {
                key: [found[key] for found in curve.values()] for key in ("accuracy", "strength", "each")
            }
            values["classes"] = [pictures.classes[c] for c in tests[1].unique().tolist()]
            seconds = time.monotonic() - begin
            _record(
                transfer,
                target,
                row,
                number,
                shared,
                weights,
                values,
                len(tests[1]),
                pictures.sha256,
                seconds,
            )


def strongest_maps(
    head: Head, features: Tensor, labels: Tensor, classes: Sequence[str], maps: int, k: int = 4
) -> dict[str, list[tuple[int, float]]]:
    """Which feature maps speak for a class: ``{class: [(map, points), …]}``, the k strongest.

    A head says of a class's pictures what it says on average plus the sum, over the features, of weight times
    how much more of the feature these pictures have than all. This sum, added up over the cells of a map, is
    the map's part, in units of the head's decision.

    Parameters
    ----------
    features, labels
        The (n, D) features of a convolutional layer, cells of a map together, and the labels of the pictures.
    classes
        The name of every label.
    """
    mean = features.mean(0)
    found = {}
    for column, c in enumerate(head.classes.tolist()):
        more = features[labels == c].mean(0) - mean  # (D,)
        parts = (head.weights[:, column] * more).view(maps, -1).sum(1)  # (D,) -> (maps, cells) -> (maps,)
        best = parts.topk(k)
        found[classes[c]] = [
            (m, round(v, 4)) for m, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    return found


def _from_scratch(transfer: Transfer, target: str, number: int, say: Callable[[str], None]) -> None:
    """The same network, all of it learned from the split's training pictures; one entry for each size.

    What is watched while it trains are training pictures too: no test picture may decide when a rate falls.
    """
    _, card = transfer.source
    for k in transfer.sizes:
        config = _config(transfer, recipe=transfer.recipe.name, epochs=transfer.epochs)
        config |= {"background": False, "per class": k}
        pictures = transfer.pictures
        if _is_recorded(transfer, (target, "scratch", number), config, None, pictures.sha256):
            say(f"{target}, scratch, split {number}, {k} per class: is in the ledger")
            continue
        split = transfer.split(number)
        labels = pictures.labels[split.test].unique()  # sorted; a network's outputs are their positions

        def part(
            rows: Tensor, labels: Tensor = labels, pictures: LabelledPictures = pictures
        ) -> LabelledPictures:
            taken, names = pictures.take(rows), tuple(pictures.classes[c] for c in labels.tolist())
            return replace(taken, labels=torch.searchsorted(labels, taken.labels), classes=names, names=names)

        mine, tests = part(split.train[split.rank < k]), part(split.test)
        of_source = ("architecture", "width", "groups", "alpha", "input_size", "resize")
        own = {key: card[key] for key in of_source if key in card}
        own |= {"num_classes": len(labels), "scale": transfer.recipe.scale}
        name = f"{transfer.data}-{transfer.duplicates}-{transfer.recipe.name}-epochs{transfer.epochs}"
        name += f"-{k}-split{number}-{card['sha256'][:12]}"
        folder = Path(transfer.out) / "scratch" / name
        say(f"{target}, scratch, split {number}, {k} per class: in {folder}")
        run = train(
            network_of(own), mine, mine.shard(0, min(10, len(mine))), transfer.recipe,
            input_size=card["input_size"], epochs=transfer.epochs, seed=number, device=transfer.device,
            folder=folder, progress=transfer.progress,
        )  # fmt: skip
        start = time.monotonic()
        save(folder / "weights.safetensors", run.model, run.mean, own)
        network, own = load(folder / "weights.safetensors")
        predicted = probabilities(network, tests, own, device=transfer.device).argmax(1)
        each = per_class_accuracy(predicted, tests.labels)
        found = {"accuracy": round(float(each.mean()), 3), "each": [round(v, 1) for v in each.tolist()]}
        found["loss"] = round(run.history[-1]["loss"], 4)
        say(f"{target}, scratch, split {number}, {k} per class: {found['accuracy']:.1f} %")
        seconds = sum(epoch["seconds"] for epoch in run.history) + time.monotonic() - start
        sha = pictures.sha256
        _record(transfer, target, "scratch", number, config, own["sha256"], found, len(tests), sha, seconds)


# ------------------------------------------------------------------------------ Table 5
def _voc_row(transfer: Transfer, row: str, say: Callable[[str], None]) -> None:
    """Average precision of a row: on the test pictures where their truth is public, else from train to val.

    Where the pictures of a closed test are here, the files for the evaluation server are written too.
    """
    kind, head, layer = _parts(row)
    year, side = int(transfer.data.removeprefix("voc")), transfer.source[1]["resize"]
    weights = transfer.source[1]["sha256"] if kind == "pretrained" else None
    rule = "11-point" if year < 2010 else "area"
    learn, judge = ("trainval", "test") if year == 2007 else ("train", "val")
    config = _config(transfer, head=head, layer=layer, rule=rule, train=learn, test=judge)
    start = time.monotonic()
    known, tests = voc(year, learn, side), voc(year, judge, side)
    sha = hashlib.sha256((known.sha256 + tests.sha256).encode()).hexdigest()
    if _is_recorded(transfer, ("table5", row, None), config, weights, sha):
        say(f"table5, {row}, {learn} to {judge}: is in the ledger")
    else:
        fitted, scores = _voc_scores(transfer, kind, layer, known, tests)
        precision = {
            name: round(100 * average_precision(scores[:, c], tests.truth[:, c], rule), 3)
            for c, name in enumerate(VOC_CLASSES)
        }
        values = {"mean": round(statistics.fmean(precision.values()), 3), "average precision": precision}
        values |= {"strength": fitted.strength, "trained on": len(known)}
        say(f"table5, {row}, {learn} to {judge}: mean average precision {values['mean']:.1f} %")
        seconds = time.monotonic() - start
        _record(transfer, "table5", row, None, config, weights, values, len(tests), sha, seconds)
    if year != 2007:
        try:
            closed = voc(year, "test", side)
        except FileNotFoundError as error:
            say(f"table5, {row}: no files for the evaluation server, for {error}")
            return
        _, scores = _voc_scores(transfer, kind, layer, voc(year, "trainval", side), closed)
        folder = (
            Path(transfer.out)
            / f"{transfer.data}-{row.replace(', layer ', '-')}"
            / "results"
            / f"VOC{year}"
            / "Main"
        )
        write_submission(folder, closed.files, scores, "test")
        say(f"table5, {row}: files for the evaluation server are in {folder}")


def _voc_scores(transfer: Transfer, kind: str, layer: int, known: Any, tests: Any) -> tuple[Head, Tensor]:
    """A softmax over the 20 classes, learned from ``known``, and its probabilities (N, 20) for ``tests``."""
    x, y = (transfer.features(kind, (layer,), part.pixels, part.sha256)[layer] for part in (known, tests))
    rows, labels = (known.truth == 1).nonzero(as_tuple=True)  # a picture once for every class it shows
    head = fit_softmax(x[rows], labels, groups=rows)
    scores = torch.zeros(len(tests), len(VOC_CLASSES))
    scores[:, head.classes] = head.decision(y).softmax(1)
    return head, scores


# ------------------------------------------------------------------------------ what the ledger tells
def spread(accuracies: Sequence[float]) -> str:
    """``"58.4 ± 0.9"``: mean and standard deviation over the splits, as the paper has it; "–" for none."""
    if not accuracies:
        return "–"
    if len(accuracies) == 1:
        return f"{accuracies[0]:.1f} (one split)"
    return f"{statistics.fmean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f}"


def accuracies(entries: Sequence[Mapping[str, Any]], row: str, **config: Any) -> dict[int, float]:
    """The accuracy of each split of a row with this config, ``{split: %}``, among the ledger's entries.

    Raises ``ValueError`` where the config does not tell two entries of a split apart.
    """
    found = _of_row(entries, row, config)
    each = {entry["seed"]: entry["values"]["accuracy"] for entry in found}
    if len(each) < len(found):
        raise ValueError(f"{row} has several entries of a split with {config}; say which")
    return each


def _of_row(
    entries: Sequence[Mapping[str, Any]], row: str, config: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    alike = (entry for entry in entries if entry["row"] == row)
    return [entry for entry in alike if all(entry["config"].get(key) == config[key] for key in config)]


def entries_of(target: str, data: str, weights_sha256: str, **config: Any) -> list[dict[str, Any]]:
    """The book's ledger entries of a target on that data, without features of other weights than these.

    ``config`` narrows them, as ``duplicates="kept"``.
    """
    return [
        entry
        for entry in find(target, data=data, **config)
        if "layer" not in entry["config"] or entry["weights_sha256"] in (None, weights_sha256)
    ]


def compare(entries: Sequence[Mapping[str, Any]], a: str, b: str, **config: Any) -> Paired | None:
    """Row a minus row b over the splits that both have, as :func:`paired`; None for fewer than two."""
    ours, theirs = (accuracies(entries, row, **config) for row in (a, b))
    both = sorted(ours.keys() & theirs.keys())
    if len(both) < 2:
        return None
    first = _of_row(entries, a, config)[0]
    ratio = tests_per_training(first, first["config"]["per class"])
    return paired([ours[n] for n in both], [theirs[n] for n in both], ratio)


def in_words(difference: Paired | None, a: str, b: str) -> str:
    """A difference as a sentence: which is above by how much, or no difference, or that it is not known."""
    if difference is None:
        return f"{a} against {b}: **not run yet**"
    low, high = difference.interval
    interval = (
        f"{abs(difference.mean):.1f} points (95 % interval of the difference {low:+.1f} to {high:+.1f})"
    )
    if low <= 0 <= high:
        return f"{a} and {b} cannot be told apart: {interval}"
    return f"{a} is {'above' if low > 0 else 'below'} {b} by {interval}"


def few_shot(
    features: Mapping[str, Tensor],
    labels: Tensor,
    sizes: Sequence[int] = (1, 2, 3, 5, 10, 20, 30),
    draws: int = 5,
) -> dict[str, list[tuple[float, float, float]]]:
    """Accuracy of a softmax by training pictures per class: ``{name: [(size, mean, deviation), …]}``.

    ``features`` are one (N, D) for each name, of the same pictures; all see the same ``draws`` splits.
    """
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


def mean_curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float, float]]]:
    """The ledger's curves of Fig. 7, as :func:`few_shot` gives them, rows with two splits at least."""
    curves = {}
    for row in sorted({entry["row"] for entry in entries}):
        mine = [entry["values"] for entry in entries if entry["row"] == row]
        if len(mine) > 1:
            columns = zip(mine[0]["per class"], *(values["accuracy"] for values in mine), strict=True)
            curves[row] = [(float(k), statistics.fmean(a), statistics.stdev(a)) for k, *a in columns]
    return curves


def class_curves(
    entries: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """The ledger's curves of Fig. 7 for each class, ``{class: {row: [(size, mean, deviation), …]}}``.

    Over the splits, of the rows that have two at least; accuracies in percent.
    """
    curves: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for row in sorted({entry["row"] for entry in entries}):
        mine = [entry["values"] for entry in entries if entry["row"] == row]
        if len(mine) < 2:
            continue
        each = np.array([values["each"] for values in mine])  # (splits, sizes, classes)
        mean, deviation = each.mean(0), each.std(0, ddof=1)
        for column, name in enumerate(mine[0]["classes"]):
            points = zip(mine[0]["per class"], mean[:, column], deviation[:, column], strict=True)
            curves.setdefault(name, {})[row] = [(float(k), float(m), float(d)) for k, m, d in points]
    return curves


def by_class(entries: Sequence[Mapping[str, Any]], row: str) -> dict[str, float]:
    """Each class's accuracy at the right end of Fig. 7, mean over the splits, the best class first."""
    mine = [entry["values"] for entry in entries if entry["row"] == row]
    if not mine:
        return {}
    means = np.mean([values["each"][-1] for values in mine], axis=0).tolist()
    return dict(sorted(zip(mine[0]["classes"], means, strict=True), key=lambda pair: -pair[1]))
