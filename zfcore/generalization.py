"""Tables 3 to 6 and Fig. 7, run: features of one network on other pictures, judged and recorded.

Splits and measures are those of :mod:`zfcore.protocols`. **Pretrained** rows are heads on the features of a
trained network. **From scratch** is the same network, all its layers learned from the target's training
pictures alone, for 100 epochs of them. **Random** is the control that the paper lacks: the same head on the
features of a network nobody trained.

A run records what the ledger lacks and skips what it has, as long as weights and pictures are the same.

Source: Zeiler & Fergus, §5.2, §5.3, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.generalization import Transfer, reproduce
    reproduce("fig7", Transfer("patches", out="runs", results="results"), splits=(0, 1))
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zfcore.data import VOC_CLASSES, LabelledPictures, caltech, centre_crop, patches, voc
from zfcore.evaluate import probabilities
from zfcore.ledger import RESULTS, code_of, code_version, find, insist_on_place, provenance, record
from zfcore.model import ARCHITECTURES, load, network_of, save, untrained
from zfcore.protocols import (
    Split,
    average_precision,
    draw_split,
    mean_average_precision,
    per_class_accuracy,
    write_submission,
)
from zfcore.train import SMALL, Recipe, train
from zfcore.transfer import Head, Span, extract_features, fit_softmax, fit_svm

BACKGROUND = {"caltech101": "BACKGROUND_Google", "caltech256": "257.clutter"}
SIZES = {"caltech256": (15, 30, 45, 60)}  # of the tables; 15 and 30 elsewhere
CURVE = (1, 2, 3, 5, 6, 7, 10, 15, 20, 25, 30, 45, 60)
LAYERS = (1, 2, 3, 4, 5, 7)
TARGETS = ("table3", "table4", "table5", "table6", "fig7")


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
        folder = Path(self.out) / "features" / f"{self.data}-{sha256[:12]}-{key}-{_code_of_features()}"
        names = {n: f"layer {n}" for n in layers}
        if missing := [name for name in names.values() if not (folder / f"{name}.npy").exists()]:
            extract_features(
                self.network(kind), self.inputs(pixels), missing, folder=folder, progress=self.progress
            )
        return {
            n: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for n, name in names.items()
        }

    @cached_property
    def dropped(self) -> list[str]:
        """The files of the target's pictures that the source has seen in its training; none if kept."""
        if self.duplicates == "kept":
            return []
        seen = self.source[1].get("data", "tiny-imagenet")  # what the network learned from, by its card
        command = f"`zfcore duplicates {seen} {self.data} --record`"
        entries = find("duplicates", self.results, row=seen, data=self.data)
        if not entries:
            raise FileNotFoundError(
                f"the ledger duplicates has nothing of {seen} and {self.data}; run {command}"
            )
        if len(entries) > 1:
            several = "; ".join(entry["command"] for entry in entries)
            raise ValueError(
                f"the ledger duplicates has several searches of {seen} and {self.data}, and one must say "
                f"which pictures are dropped: {several}; leave one, or give another folder of the ledger "
                "(--results)"
            )
        named = {pair[1] for pair in entries[0]["values"]["pairs"]}
        if lost := sorted(named.difference(self.pictures.files)):
            raise ValueError(
                f"the ledger duplicates names {len(lost)} pictures that {self.data} has not ({lost[0]}, …); "
                f"run {command} again"
            )
        return sorted(named)

    @cached_property
    def left_out(self) -> Tensor | None:
        """These, bool (N,); None where they are kept."""
        if self.duplicates == "kept":
            return None
        dropped = set(self.dropped)
        return torch.tensor([file in dropped for file in self.pictures.files])

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
        labels, most = self.labels(background), self.sizes[-1]
        return draw_split(labels, number, most, leave_out=self.left_out, names=self.pictures.classes)

    def command(self, target: str, row: str, split: int | None) -> str:
        """The command that makes this entry again."""
        words = ["zfcore reproduce", target, f"--data {self.data}", f"--row {json.dumps(row)}"]
        words += [f"--weights {Path(self.weights).name}"] if self.weights != "zfnet-64" else []
        words += [f"--seeds {split}"] if split is not None else []
        words += ["--drop-duplicates"] if self.duplicates == "dropped" else []
        words += [f"--epochs {self.epochs} --recipe {self.recipe.name}"] if row == "scratch" else []
        return " ".join(words)


# ------------------------------------------------------------------------------ the rows
@cache
def _code_of_features() -> str:
    """A hash of the rooms that features come from, so that none outlive the code that made them."""
    return code_of(("data", "model", "trace", "transfer"))[:8]


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
    transfer
        Data, source network and recipe of the rows, and where they leave their files.
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
    code_version()  # what is read from here on
    chosen = rows_of(target, rows)
    foreign = {"table3": "caltech256", "table4": "caltech101"}.get(target) == transfer.data
    if foreign or (transfer.data in ("voc2007", "voc2012")) != (target == "table5"):
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
    span: dict[tuple, Span] = {}  # the last one: heads on the same pictures follow each other
    chosen.sort(key=lambda row: 0 if row == "scratch" else _parts(row)[2])
    for number in splits:
        for row in chosen:
            if row == "scratch":
                _from_scratch(transfer, target, number, say)
            else:
                _heads(transfer, target, row, number, together, span, say)


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
    if transfer.duplicates == "dropped":
        shared["dropped"] = hashlib.sha256("\n".join(transfer.dropped).encode()).hexdigest()[:12]
    return {**shared, "duplicates": transfer.duplicates, **more}


class _Place(NamedTuple):
    """Where an entry lies in the ledger, and of which pictures and weights (None: of any) it is."""

    target: str
    row: str
    seed: int | None
    sha256: str
    weights: str | None


def _is_recorded(transfer: Transfer, place: _Place, config: dict) -> bool:
    return any(
        entry["data_sha256"] == place.sha256 and place.weights in (None, entry["weights_sha256"])
        for entry in find(place.target, transfer.results, place.row, place.seed, transfer.data, **config)
    )


def _insist_on_place(transfer: Transfer, place: _Place, config: dict) -> None:
    """Ask the ledger before the work whether it will take the entry; see :func:`zfcore.ledger.record`."""
    key = {"row": place.row, "seed": place.seed, "data": transfer.data, "config": config}
    insist_on_place(place.target, key | {"weights_sha256": place.weights}, transfer.results)


def _record(transfer: Transfer, place: _Place, config: dict, values: dict, n: int, seconds: float) -> None:
    target, row, seed, sha256, weights = place
    entry = {"row": row, "seed": seed, "values": values, "n": n, "data": transfer.data, "data_sha256": sha256}
    made = provenance(transfer.device, seconds, transfer.command(target, row, seed))
    record(target, entry | {"config": config, "weights_sha256": weights} | made, transfer.results)


def _heads(
    transfer: Transfer,
    target: str,
    row: str,
    number: int,
    together: Mapping[str, Sequence[int]],
    last: dict[tuple, Span],
    say: Callable[[str], None],
) -> None:
    """One row of one split: fit the head at every size, judge it, record it.

    ``together`` are the layers of each network that are extracted in one pass; ``last`` keeps one span.
    """
    kind, head, layer = _parts(row)
    weights = transfer.source[1]["sha256"] if kind == "pretrained" else None
    sizes = [k for k in CURVE if k <= transfer.sizes[-1]] if target == "fig7" else transfer.sizes
    sizes = sizes[-1:] if target == "table6" else sizes
    lines = (False, True) if transfer.data in BACKGROUND and target in ("table3", "table4") else (False,)
    for background in lines:
        shared = _config(transfer, head=head, layer=layer, background=background)
        if target == "fig7":
            shared["sizes"] = sizes
        configs = [shared] if target == "fig7" else [shared | {"per class": k} for k in sizes]
        pictures = transfer.pictures
        place = _Place(target, row, number, pictures.sha256, weights)
        if all(_is_recorded(transfer, place, config) for config in configs):
            say(f"{target}, {row}, split {number}{', with background' * background}: is in the ledger")
            continue
        for config in configs:
            _insist_on_place(transfer, place, config)
        split = transfer.split(number, background)
        x = transfer.features(kind, together[kind], pictures.pixels, pictures.sha256)[layer]
        labels, tests = pictures.labels, (x[split.test], pictures.labels[split.test])
        curve, begin = {}, time.monotonic()
        for k in sizes:
            start, mine = time.monotonic(), split.train[split.rank < k]
            which = kind, layer, number, background, k
            if which not in last:
                last.clear()
                last[which] = Span(x[mine])
            fit = {"softmax": fit_softmax, "svm": fit_svm}[head]
            fitted = fit(last[which], labels[mine], seed=number)
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
            config, seconds = shared | {"per class": k}, time.monotonic() - start
            _record(transfer, place, config, found, len(tests[1]), seconds)
        if target == "fig7":
            keys = ("accuracy", "strength", "each")
            values = {"per class": list(curve)}
            values |= {key: [found[key] for found in curve.values()] for key in keys}
            values["classes"] = [pictures.classes[c] for c in tests[1].unique().tolist()]
            _record(transfer, place, shared, values, len(tests[1]), time.monotonic() - begin)


def strongest_maps(
    head: Head, features: Tensor, labels: Tensor, classes: Sequence[str], maps: int, k: int = 4
) -> dict[str, list[tuple[int, float]]]:
    """Which feature maps speak for a class: ``{class: [(map, points), …]}``, the k strongest.

    A head says of a class's pictures what it says on average plus the sum, over the features, of weight times
    how much more of the feature these pictures have than all. This sum, added up over the cells of a map, is
    the map's part, in units of the head's decision.

    Parameters
    ----------
    head
        Fitted to these features and labels.
    features, labels
        The (n, D) features of a convolutional layer, cells of a map together, and the labels of the pictures.
    classes
        The name of every label.
    maps
        Number of maps of the layer, each of D / ``maps`` cells.
    k
        How many maps are named for each class, ``maps`` at most.
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
        config = _config(transfer, recipe=asdict(transfer.recipe), epochs=transfer.epochs)
        config |= {"background": False, "per class": k}
        pictures = transfer.pictures
        place = _Place(target, "scratch", number, pictures.sha256, None)
        if _is_recorded(transfer, place, config):
            say(f"{target}, scratch, split {number}, {k} per class: is in the ledger")
            continue
        _insist_on_place(transfer, place, config)
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
        if own["architecture"] in ARCHITECTURES:  # α fits the inputs: the recipe's, not the source's
            own["alpha"] = transfer.recipe.alpha
        name = f"{transfer.data}-{transfer.duplicates}-{transfer.recipe.name}-epochs{transfer.epochs}"
        name += f"-{k}-split{number}-{card['sha256'][:12]}"
        folder = Path(transfer.out) / "scratch" / name
        say(f"{target}, scratch, split {number}, {k} per class: in {folder}")
        run = train(
            network_of(own, started=True), mine, mine.shard(0, min(10, len(mine))), transfer.recipe,
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
        place = place._replace(weights=own["sha256"])
        _record(transfer, place, config, found, len(tests), seconds)


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
    place = _Place("table5", row, None, sha, weights)
    if _is_recorded(transfer, place, config):
        say(f"table5, {row}, {learn} to {judge}: is in the ledger")
    else:
        _insist_on_place(transfer, place, config)
        fitted, scores = _voc_scores(transfer, kind, layer, known, tests)
        precision = {
            name: round(100 * average_precision(scores[:, c], tests.truth[:, c], rule), 3)
            for c, name in enumerate(VOC_CLASSES)
        }
        mean, interval = mean_average_precision(scores, tests.truth, rule)
        values = {"mean": round(mean, 3), "interval": [round(end, 3) for end in interval]}
        values |= {"average precision": precision}
        values |= {"strength": fitted.strength, "trained on": len(known)}
        say(f"table5, {row}, {learn} to {judge}: mean average precision {mean:.1f} %")
        _record(transfer, place, config, values, len(tests), time.monotonic() - start)
    if year != 2007:
        try:
            closed = voc(year, "test", side)
        except FileNotFoundError as error:
            say(f"table5, {row}: no files for the evaluation server, for {error}")
            return
        _, scores = _voc_scores(transfer, kind, layer, voc(year, "trainval", side), closed)
        name = f"{transfer.data}-{row.replace(', layer ', '-')}"
        folder = Path(transfer.out) / name / "results" / f"VOC{year}" / "Main"
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
