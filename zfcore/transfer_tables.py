"""Tables 3 to 6 and Fig. 7: the paper's numbers, and beside them what the ledger tells of ours.

The ledger has one entry for each split (see :mod:`zfcore.generalization`). Rows are compared over the splits
that both have, never by their means alone.

Source: Zeiler & Fergus, Tables 3 to 6, Fig. 7, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.model import load
    from zfcore.transfer_tables import TABLE6, compare, entries_of, in_words
    entries = entries_of("table6", "caltech101", load("zfnet-64")[1]["sha256"])
    TABLE6["svm(5)"], in_words(compare(entries, "svm(5)", "svm(7)"), "layer 5", "layer 7")
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zfcore.ledger import find, is_control
from zfcore.protocols import Paired, paired

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

CATEGORIES = {"caltech101": 101, "caltech256": 256}  # without the background


def spread(accuracies: Sequence[float]) -> str:
    """``"58.4 ± 0.9"``: mean and standard deviation over the splits, as the paper has it; "–" for none."""
    if not accuracies:
        return "–"
    if len(accuracies) == 1:
        return f"{accuracies[0]:.1f} (one split)"
    return f"{statistics.fmean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f}"


def accuracies(entries: Sequence[Mapping[str, Any]], row: str, **config: Any) -> dict[int, float]:
    """The accuracy of each split of a row with this config, ``{split: %}``; errors are :func:`of_row`'s."""
    return _by_split(of_row(entries, row, **config))


def _by_split(entries: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {entry["seed"]: entry["values"]["accuracy"] for entry in entries}


def of_row(entries: Sequence[Mapping[str, Any]], row: str, **config: Any) -> list[Mapping[str, Any]]:
    """The entries of a row with this config, of one experiment: that with most splits, then most epochs.

    Experiments differ in the network, in how it was trained from scratch, or in the pictures that they drop.

    Raises
    ------
    ValueError
        The config does not tell two entries of a split apart, or two experiments that are as long.
    """
    experiments: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["row"] == row and all(entry["config"].get(key) == config[key] for key in config):
            which = [entry["config"].get(key) for key in _EXPERIMENT]
            experiments.setdefault(json.dumps(which, sort_keys=True), []).append(entry)
    longest = max(map(_extent, experiments.values()), default=None)
    found = [entries for entries in experiments.values() if _extent(entries) == longest]
    if len(found) > 1 or (found and longest[0] < len(found[0])):
        raise ValueError(f"{row} has several entries of a split with {config}; say which")
    return found[0] if found else []


_EXPERIMENT = ("architecture", "width", "recipe", "epochs", "duplicates", "dropped", "sizes")


def _extent(entries: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    return len({entry["seed"] for entry in entries}), entries[0]["config"].get("epochs", 0)


def entries_of(target: str, data: str, weights_sha256: str, **config: Any) -> list[dict[str, Any]]:
    """The book's ledger entries of a target on that data: of these weights, and the controls beside them.

    Controls, features with random weights and trainings from scratch, are of a network with the same layers.
    ``config`` narrows them, as ``duplicates="kept"``.
    """
    found = find(target, data=data, **config)
    own = [_layers(entry) for entry in found if entry["weights_sha256"] == weights_sha256]
    return [
        entry
        for entry in found
        if entry["weights_sha256"] == weights_sha256 or (is_control(entry) and _layers(entry) in own)
    ]


def _layers(entry: Mapping[str, Any]) -> tuple[Any, Any]:
    return entry["config"]["architecture"], entry["config"]["width"]


def tests_per_training(entry: Mapping[str, Any], per_class: int) -> float:
    """How many test pictures an entry of Caltech has for each training picture, of so many per class."""
    classes = CATEGORIES[entry["data"]] + bool(entry["config"].get("background"))
    return entry["n"] / (classes * per_class)


def compare(entries: Sequence[Mapping[str, Any]], a: str, b: str, **config: Any) -> Paired | None:
    """Row a minus row b, as :func:`zfcore.protocols.paired`; None for fewer than two splits in common."""
    return _paired(of_row(entries, a, **config), of_row(entries, b, **config))


def changed(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], row: str, **config: Any
) -> Paired | None:
    """A row among other entries minus the same row before, as without duplicates and with; see above."""
    return _paired(of_row(after, row, **config), of_row(before, row, **config))


def _paired(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Paired | None:
    ours, theirs = _by_split(a), _by_split(b)
    if len(ours.keys() & theirs.keys()) < 2:
        return None
    return paired(ours, theirs, tests_per_training(a[0], a[0]["config"]["per class"]))


def at_size(entries: Sequence[Mapping[str, Any]], per_class: int) -> list[dict[str, Any]]:
    """The entries of Fig. 7 that have this size, as Table 3 has them: one accuracy, one ``per class``."""
    found = []
    for entry in entries:
        points = dict(zip(entry["values"]["per class"], entry["values"]["accuracy"], strict=True))
        if per_class in points:
            config = {**entry["config"], "per class": per_class}
            found.append({**entry, "values": {"accuracy": points[per_class]}, "config": config})
    return found


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


def mean_curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float, float]]]:
    """The ledger's curves of Fig. 7, as :func:`zfcore.protocols.few_shot` gives them; two splits at least."""
    curves = {}
    for row in sorted({entry["row"] for entry in entries}):
        mine = [entry["values"] for entry in of_row(entries, row)]
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
        mine = [entry["values"] for entry in of_row(entries, row)]
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
    mine = [entry["values"] for entry in of_row(entries, row)]
    if not mine:
        return {}
    means = np.mean([values["each"][-1] for values in mine], axis=0).tolist()
    return dict(sorted(zip(mine[0]["classes"], means, strict=True), key=lambda pair: -pair[1]))
