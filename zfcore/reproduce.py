"""Every row of Tables 1 and 2, the networks of Fig. 5 and the run of Fig. 4: train, judge, record.

A row is one network of the paper's, in its words and with its numbers. To reproduce it is to train it
(all rows of a table by the same recipe, on the same pictures, for as many epochs, at the same width), to
judge it on the validation pictures, one crop and ten, and on the centre crops of the training pictures,
and to write what came out into the ledger. Whatever ends a run, the same command goes on: a training
from its checkpoint, a table from the first row that the ledger lacks. Two tables that share a network
share its training.

On small pictures the networks are the ``-64`` family, whose layers correspond one by one to the
paper's; ``patches``, of the photographs, is there to rehearse it all in seconds.

Source: Zeiler & Fergus, Tables 1 and 2, Figs. 4 and 5, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.reproduce import Experiment, reproduce
    experiment = Experiment("patches", width=0.1, epochs=1, shard="0of8", out="runs", results="results")
    reproduce("table2", experiment, rows=["alexnet", "zfnet"], seeds=(0, 1))
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zfcore.data import DATA_SETS, Pictures, data_set
from zfcore.evaluate import judge, outcomes, percent
from zfcore.evolution import EPOCHS, Evolution
from zfcore.fetch import DATASETS
from zfcore.ledger import RESULTS, code_version, find, pack_outcomes, provenance, record
from zfcore.model import ARCHITECTURES, build, load, save, until, write_atomically
from zfcore.train import (
    BRIEF,
    PAPER,
    SMALL,
    CheckpointError,
    DivergedError,
    Recipe,
    epochs_done,
    precision_of,
    train,
)


# ------------------------------------------------------------------------------ the rows
@dataclass(frozen=True)
class Row:
    """One row: its name here, the paper's words, and the paper's numbers in the order of the columns.

    ``large`` and ``small`` are its architectures for ImageNet and for small pictures. An ensemble has
    ``members`` instead: rows of which all seeds take part, or (with False) the first one only.
    ``recipe`` takes the place of the experiment's; of a row that is ``alone`` only the first seed is run.
    """

    name: str
    words: str
    paper: tuple[float | None, ...] = ()
    large: str = ""
    small: str = ""
    members: tuple[tuple[str, bool], ...] = ()
    recipe: Recipe | None = None
    alone: bool = False


#: What the paper's numbers of a row are, errors in %.
COLUMNS = {
    "table1": ("val top1", "val top5", "test top5"),
    "table2": ("train top1", "val top1", "val top5"),
}


def _network(name: str, words: str, *paper: float | None, **options: Any) -> Row:
    """A row of the tables: one network, which has the same name in the ``-64`` family."""
    small = {"zfnet": "zfnet-64-coarse"}.get(name, f"{name}-64")
    return Row(name, words, paper, name, small, **options)


def _ensemble(name: str, words: str, *paper: float | None, **members: bool) -> Row:
    return Row(
        name, words, paper, members=tuple((row.replace("_", "-"), all_) for row, all_ in members.items())
    )


TABLE1 = (
    _network("alexnet", "Our replication of Krizhevsky et al., 1 convnet", 40.5, 18.1, None),
    _network("zfnet", "1 convnet as per Fig. 3", 38.4, 16.5, None),
    _ensemble("zfnet-ensemble", "5 convnets as per Fig. 3 (a)", 36.7, 15.3, 15.3, zfnet=True),
    _network(
        "zfnet-wide", "1 convnet as per Fig. 3 but with layers 3, 4, 5: 512, 1024, 512 maps (b)",
        37.5, 16.0, 16.1, alone=True,
    ),
    _ensemble(
        "zfnet-and-wide-ensemble", "6 convnets, (a) & (b) combined", 36.0, 14.7, 14.8,
        zfnet=True, zfnet_wide=False,
    ),
)  # fmt: skip

#: The other rows of Table 1, citations, which nobody here can run.
TABLE1_CITED = (
    Row("krizhevsky-1", "Krizhevsky et al., 1 convnet", (40.7, 18.2, None)),
    Row("krizhevsky-5", "Krizhevsky et al., 5 convnets", (38.1, 16.4, 16.4)),
    Row("krizhevsky-2011-1", "Krizhevsky et al., 1 convnet, with ImageNet 2011", (39.0, 16.6, None)),
    Row("krizhevsky-2011-7", "Krizhevsky et al., 7 convnets, with ImageNet 2011", (36.7, 15.4, 15.3)),
    Row("gunji", "Gunji et al.", (None, None, 26.2)),
    Row("decaf", "DeCAF", (None, None, 19.2)),
    Row("howard", "Howard", (None, None, 13.5)),
    Row("clarifai", "Clarifai", (None, None, 11.7)),
)

TABLE2 = (
    _network("alexnet", "Our replication of Krizhevsky et al., 1 convnet", 35.1, 40.5, 18.1),
    _network("alexnet-no34", "Removed layers 3, 4", 41.8, 45.4, 22.1),
    _network("alexnet-no7", "Removed layer 7", 27.4, 40.0, 18.4),
    _network("alexnet-no67", "Removed layers 6, 7", 27.4, 44.8, 22.4),
    _network("alexnet-no3467", "Removed layers 3, 4, 6, 7", 71.1, 71.3, 50.1),
    _network("alexnet-fc2048", "Adjusted layers 6, 7: 2048 units", 40.3, 41.7, 18.8),
    _network("alexnet-fc8192", "Adjusted layers 6, 7: 8192 units", 26.8, 40.0, 18.1),
    _network("zfnet", "Our model, as per Fig. 3", 33.1, 38.4, 16.5),
    _network("zfnet-fc2048", "Adjusted layers 6, 7: 2048 units", 38.2, 40.2, 17.6),
    _network("zfnet-fc8192", "Adjusted layers 6, 7: 8192 units", 22.0, 38.8, 17.0),
    _network("zfnet-wide", "Adjusted layers 3, 4, 5: 512, 1024, 512 maps", 18.8, 37.5, 16.0),
    _network(
        "zfnet-wide-fc8192", "Adjusted layers 6, 7: 8192 units and layers 3, 4, 5: 512, 1024, 512 maps",
        10.0, 38.3, 16.9,
    ),
)  # fmt: skip

# Fig. 5 is about what a first layer learns, so it must not begin with as much as it will ever hold: from He's
# weights the filters of a short run are still their own noise. It starts from the paper's 0.01 here, and the
# larger rate makes good for that.
_FROM_LITTLE = replace(
    BRIEF, name="brief, first layer from little", initialization="paper, then he", rate=0.015, epochs=5
)
# Without a bound on its filters, §3 trains into the picture of Fig. 5 (a); with it, into (c). Inputs,
# momentum and decay are the paper's. The rate is its 0.01 for 128 pictures, for batches a quarter as large,
# and stays where it is: at 0.01 maps so few and narrow learn next to nothing in an epoch.
_HELD = replace(
    PAPER, name="paper, batches of 32", batch_size=32, rate=2.5e-3, patience=PAPER.epochs,
    initialization="paper, then he", dropout=0.0, epochs=10,
)  # fmt: skip
_FREE = replace(_HELD, name="paper, batches of 32, filters free", radius=None)
FIG5 = (
    Row("fig5-7x7-1", "7×7 filters, stride 1", small="fig5-7x7-1", recipe=_FROM_LITTLE),
    Row("fig5-7x7-2", "7×7 filters, stride 2", small="fig5-7x7-2", recipe=_FROM_LITTLE),
    Row("fig5-11x11-1", "11×11 filters, stride 1", small="fig5-11x11-1", recipe=_FROM_LITTLE),
    Row("fig5-11x11-2", "11×11 filters, stride 2", small="fig5-11x11-2", recipe=_FROM_LITTLE),
    Row(
        "renormalized", "§3, filters held to a radius", large="zfnet", small="fig5-7x7-2", recipe=_HELD,
    ),
    Row("free", "§3, filters left free", large="zfnet", small="fig5-7x7-2", recipe=_FREE),
)  # fmt: skip

# Fig. 4 is about when features settle, so the rate must not decide it: it stays where it is until the
# validation error stops falling (§3), and the weights shown are those of that very epoch, not a mean.
STEADY = replace(SMALL, name="small, steady", schedule="plateau", average=None, epochs=max(EPOCHS))
FIG4 = (Row("zfnet", "Our model, as per Fig. 3", large="zfnet", small="zfnet-64", recipe=STEADY),)

TARGETS = {"table1": TABLE1, "table2": TABLE2, "fig5": FIG5, "fig4": FIG4}


def rows_of(target: str, names: Sequence[str] | None = None) -> list[Row]:
    """The rows of a target, all or those named, in the order of the paper.

    Raises ``ValueError`` for an unknown target or row; the message lists the known ones.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    known = {row.name: row for row in TARGETS[target]}
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"{target} has no row {', '.join(unknown)}; it has: {', '.join(known)}")
    return [row for row in TARGETS[target] if not names or row.name in names]


def entries_of_rows(target: str, results: str | os.PathLike = RESULTS, **wanted: Any) -> list[dict[str, Any]]:
    """The ledger's entries of a target's rows, as :func:`zfcore.ledger.find` finds them.

    What another command has written into the same ledger is passed over.
    """
    names = {row.name for row in rows_of(target)}
    found = find(target, results, **wanted)
    return [entry for entry in found if entry["row"] in names and "recipe" in entry["config"]]


# ------------------------------------------------------------------------------ one experiment
@dataclass(frozen=True)
class Experiment:
    """What all rows share: pictures, recipe, epochs, width; and where they run and leave their files.

    Parameters
    ----------
    data, shard
        One of :data:`zfcore.data.DATA_SETS`; the shard is of the training pictures, validation is whole.
    recipe, epochs
        ``epochs`` overrides the recipe's.
    width
        Multiplies maps and hidden units (see :func:`zfcore.model.build`).
    device, workers
        Where it runs; processes that decode a pack.
    low_precision
        Whether networks are judged in bfloat16. They are trained as :func:`zfcore.train.train` finds best.
    out, results
        Folders of the runs and of the ledger.

    Raises
    ------
    ValueError
        The data are none of the sets that have a name, by which runs and networks are told apart.
    """

    data: str = "tiny-imagenet"
    recipe: Recipe = SMALL
    epochs: int | None = None
    width: float = 1.0
    shard: str | None = None
    device: str = "cpu"
    workers: int = 0
    low_precision: bool = False
    out: str | os.PathLike = "runs"
    results: str | os.PathLike = RESULTS
    progress: bool = True

    def __post_init__(self) -> None:
        if self.data not in DATA_SETS:
            raise ValueError(f"no row is trained on {self.data!r}; known: {', '.join(DATA_SETS)}")

    @cached_property
    def pictures(self) -> tuple[Pictures, Pictures]:
        """Training and validation pictures; read when first asked for."""
        return data_set(self.data, "train", self.shard), data_set(self.data, "val")

    @cached_property
    def data_sha256(self) -> str:
        """The hash of both together."""
        return hashlib.sha256("".join(part.sha256 for part in self.pictures).encode()).hexdigest()

    def of(self, row: Row) -> Experiment:
        """The same with the row's own recipe, where it has one."""
        recipe = row.recipe or self.recipe
        epochs = recipe.epochs if self.epochs is None else self.epochs
        return replace(self, recipe=recipe, epochs=epochs)

    def architecture(self, row: Row) -> str:
        """The architecture of a row at the size of these pictures.

        Raises ``ValueError`` where there is none, as for the 2 × 2 of Fig. 5 at ImageNet's size.
        """
        architecture = row.large if self.data == "imagenet" else row.small
        if not (architecture or row.members):
            raise ValueError(f"{row.name} has no network for {self.data}; take --row with others")
        return architecture

    def config(self, row: Row) -> dict[str, Any]:
        """What tells this entry from others of the same row and seed."""
        own = self.of(row)
        return {
            "architecture": own.architecture(row),
            "width": own.width,
            "alpha": own.recipe.alpha,
            "shard": own.shard,
            "epochs": own.epochs,
            "recipe": asdict(own.recipe),
            "judged in": "bfloat16" if own.low_precision else "float32",
        }

    def folder(self, row: Row, seed: int) -> Path:
        """Where this training lies; rows of one architecture and recipe share it."""
        own = self.of(row)
        name = f"{self.data}-{self.shard}" if self.shard else self.data
        recipe = own.recipe.name.replace(", ", "-").replace(" ", "-")
        run = f"{own.architecture(row)}-width{own.width:g}-{recipe}-epochs{own.epochs}-seed{seed}"
        return Path(self.out) / name / run

    def command(self, target: str, row: Row, seeds: Sequence[int]) -> str:
        """The command that makes this row again, without folders and devices of this machine."""
        words = ["zfcore reproduce", target, f"--row {row.name}", f"--seeds {','.join(map(str, seeds))}"]
        words += [f"--data {self.data}"]
        words += [f"--recipe {self.recipe.name}"] if row.recipe is None else []
        words += [f"--width {self.width:g}"]
        words += [f"--epochs {self.epochs}"] if self.epochs is not None else []
        words += [f"--shard {self.shard}"] if self.shard else []
        words += ["--low-precision"] if self.low_precision else []
        return " ".join(words)


# ------------------------------------------------------------------------------ train
def trained(
    experiment: Experiment, row: Row, seed: int, on_epoch: Callable | None = None
) -> tuple[nn.Module, dict]:
    """The network of a row, trained now, trained on, or loaded; with its card, as ``load`` gives them.

    The weights are stored in half precision, so it is the stored ones that come back.

    Raises
    ------
    zfcore.train.CheckpointError, zfcore.train.DivergedError
        As training does.
    """
    own, folder = experiment.of(row), experiment.folder(row, seed)
    path = folder / "weights.safetensors"
    if not (path.exists() and path.with_suffix(".json").exists()):
        pictures, validation = experiment.pictures
        network = build(own.architecture(row), len(pictures.classes), width=own.width, alpha=own.recipe.alpha)
        size = network.architecture.input_size
        run = train(
            network, pictures, validation, own.recipe, input_size=size, epochs=own.epochs, seed=seed,
            device=own.device, workers=own.workers, folder=folder, progress=own.progress, on_epoch=on_epoch,
        )  # fmt: skip
        card = {
            "architecture": own.architecture(row),
            "width": own.width,
            "alpha": own.recipe.alpha,
            "num_classes": len(pictures.classes),
            "input_size": size,
            "resize": pictures.side,
            "scale": own.recipe.scale,
            "classes": pictures.classes,
            "labels": pictures.names,
            "data": own.data,
            "data_sha256": experiment.data_sha256,
            "shard": own.shard,
            "recipe": own.recipe.name,
            "settings": asdict(own.recipe),
            "seed": seed,
            "epochs": own.epochs,
            "command": experiment.command(_target_of(row), row, [seed]),
            "precision": precision_of("auto", own.device),
            "seconds": sum(epoch["seconds"] for epoch in run.history),
            "history": {
                what: [round(epoch[what], 4) for epoch in run.history]
                for what in ("rate", "loss", "top1", "top5")
            },
            "terms": DATASETS[own.data].terms if own.data in DATASETS else None,
        }
        save(path, run.model, run.mean, card)
    network, card = load(path)
    if (card["settings"], card["data_sha256"]) != (asdict(own.recipe), experiment.data_sha256):
        raise CheckpointError(f"{path} is of another recipe or of other pictures; move {folder} away")
    return network, card


def _target_of(row: Row) -> str:
    """The target that a row is of."""
    return next(target for target, rows in TARGETS.items() if row in rows)


# ------------------------------------------------------------------------------ judge
def judged(experiment: Experiment, target: str, row: Row, seed: int) -> dict[str, Any]:
    """The ledger's entry of a network: errors in % on both sets, and each validation picture's outcome.

    Ten crops take longer than all else, and only the tables ask for them; a figure has one. ``history`` are
    the curves of the training, one number per epoch; its errors are of the weights before they were stored in
    half precision.
    """
    network, card = trained(experiment, row, seed)
    start, (pictures, validation) = time.monotonic(), experiment.pictures
    options = _judging(experiment)
    on_training = outcomes(network, pictures, card, **options)
    crops = (1, 10) if target in COLUMNS else (1,)
    verdict = judge({row.name: (network, card)}, validation, crops, **options)[row.name]
    values = {f"train {name}": percent(bits) for name, bits in on_training.items()} | verdict.errors
    values["history"] = card["history"]
    seconds = card["seconds"] + time.monotonic() - start
    entry = _entry(experiment, target, row, [seed], values, verdict.outcomes, seconds)
    return entry | {"seed": seed, "config": experiment.config(row), "weights_sha256": card["sha256"]}


def _entry(
    experiment: Experiment,
    target: str,
    row: Row,
    seeds: Sequence[int],
    values: dict[str, Any],
    bits: dict[str, Tensor],
    seconds: float,
) -> dict[str, Any]:
    """An entry but for its seed, its config and its weights."""
    return {
        "row": row.name,
        "values": values,
        "n": len(experiment.pictures[1]),
        "data": experiment.data,
        "data_sha256": experiment.data_sha256,
        **provenance(experiment.device, seconds, experiment.command(target, row, seeds)),
        "outcomes": pack_outcomes(bits),
    }


def _judging(experiment: Experiment) -> dict[str, Any]:
    return {
        "device": experiment.device,
        "progress": experiment.progress,
        "workers": experiment.workers,
        "low_precision": experiment.low_precision,
    }


def judged_together(experiment: Experiment, target: str, row: Row, seeds: Sequence[int]) -> dict[str, Any]:
    """The ledger's entry of an ensemble; members whose weights are not at hand are trained (again).

    Raises as :func:`trained` does.
    """
    known = {other.name: other for other in TARGETS[target]}
    members = [(known[name], seed) for name, every in row.members for seed in (seeds if every else seeds[:1])]
    networks = {f"{member.name}, seed {seed}": trained(experiment, member, seed) for member, seed in members}
    start = time.monotonic()
    verdict = judge(networks, experiment.pictures[1], together=True, **_judging(experiment))["ensemble"]
    values, seconds = verdict.errors | {"members": len(members)}, time.monotonic() - start
    entry = _entry(experiment, target, row, seeds, values, verdict.outcomes, seconds)
    hashes = [card["sha256"] for _, card in networks.values()]
    return entry | {
        "seed": None,
        "config": _ensemble_config(experiment, row, seeds),
        "weights_sha256": hashes,
    }


def _ensemble_config(experiment: Experiment, row: Row, seeds: Sequence[int]) -> dict[str, Any]:
    members = {name: list(seeds if every else seeds[:1]) for name, every in row.members}
    config = experiment.config(row) | {"members": members}
    del config["architecture"]
    return config


# ------------------------------------------------------------------------------ Figs. 4 and 5
def keep_first_layers(experiment: Experiment, row: Row, entry: Mapping[str, Any]) -> Path:
    """Write layers 1 and 2 of a network of Fig. 5, up to the ReLU of layer 2, where the book finds them.

    The figure needs no more: filters and dead maps of layer 1, projections of layer 2. In half
    precision that is half a megabyte, where the whole network would have seven. ``entry`` is the ledger's of
    the whole network, whose weights, error and command the card names.
    """
    network, card = load(experiment.folder(row, entry["seed"]) / "weights.safetensors")
    path = _kept_file("fig5", row.name, experiment.results)
    whole = {
        "until": "relu2",
        "whole_sha256": entry["weights_sha256"],
        "error": {"one crop": {name: entry["values"][f"one crop {name}"] for name in ("top1", "top5")}},
        "command": entry["command"],
    }
    save(path, until(network, "relu2"), card["mean"], card | whole)
    return path


def first_layers(row: str, results: str | os.PathLike = RESULTS) -> tuple[nn.Module, dict]:
    """Layers 1 and 2 of a network of Fig. 5, as :func:`zfcore.model.load` gives whole ones.

    The module goes from (N, 3, S, S) to the maps of layer 2 after their ReLU; its ``features`` are the
    network's, under the same names.

    Raises
    ------
    FileNotFoundError
        They have not been made; the message says how to.
    ValueError
        The file is not the one that its card describes, or is of a network that the ledger has no entry of.
    """
    path = _kept_file("fig5", row, results)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; run `zfcore reproduce fig5 --row {row}`")
    network, card = load(path)
    if card.get("whole_sha256") not in (
        None,
        *(entry["weights_sha256"] for entry in find("fig5", results, row)),
    ):
        raise ValueError(f"{path} is of a network that the ledger of Fig. 5 has no entry of; make it again")
    return network, card


def _kept_file(target: str, row: str, results: str | os.PathLike) -> Path:
    """Where the book finds what a row of a figure leaves beside its entry."""
    return Path(results) / ("fig4.npz" if target == "fig4" else f"fig5/{row}.safetensors")


def _is_of(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether such a file is there, and was made with that entry."""
    if not path.exists():
        return False
    if path.suffix == ".npz":
        return hashlib.sha256(path.read_bytes()).hexdigest() == entry["values"].get(path.name)
    if not path.with_suffix(".json").exists():  # weights are written first, and then something ended the run
        return False
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    # A card from before they told the whole network's hash is taken at its word.
    return card.get("whole_sha256", entry["weights_sha256"]) == entry["weights_sha256"]


def _keep(experiment: Experiment, target: str, row: Row, entry: Mapping[str, Any]) -> Path:
    """Write what a row of a figure leaves beside its entry, once that is in the ledger."""
    if target == "fig5":
        return keep_first_layers(experiment, row, entry)
    path = _kept_file(target, row.name, experiment.results)
    write_atomically(path, (experiment.folder(row, entry["seed"]) / path.name).read_bytes())
    return path


def _insist_on_place(experiment: Experiment, target: str, row: Row, seed: int) -> None:
    """Raise ``ValueError`` where the file that this row would leave is there and another entry's."""
    path = _kept_file(target, row.name, experiment.results)
    own = json.loads(json.dumps(experiment.config(row)))
    for entry in find(target, experiment.results, row.name):
        of = {key: entry[key] for key in ("data", "seed", "config")}
        if of != {"data": experiment.data, "seed": seed, "config": own} and _is_of(path, entry):
            raise ValueError(
                f"{path} belongs to another entry, that of `{entry['command']}`; "
                "give another folder of the ledger (--results)"
            )


def _kept_of_another_seed(experiment: Experiment, row: Row, seed: int) -> bool:
    """Whether the first layers that lie in Fig. 5's folder are of the same training from another seed."""
    path = _kept_file("fig5", row.name, experiment.results)
    config = experiment.config(row)
    same = find("fig5", experiment.results, row.name, data=experiment.data, **config)
    return any(entry["seed"] != seed and _is_of(path, entry) for entry in same)


def _evolved(experiment: Experiment, row: Row, seed: int) -> dict[str, Any]:
    """Train with a look at every snapshot's epoch, leave ``fig4.npz`` there, and give the ledger's entry."""
    own, (pictures, _) = experiment.of(row), experiment.pictures
    architecture = ARCHITECTURES[own.architecture(row)]
    evolution = Evolution(
        experiment.folder(row, seed) / "snapshots",
        pictures,
        {f"layer {n}": architecture.named_layers()[f"relu{n}"] for n in range(1, 6)},
        size=architecture.input_size,
        scale=own.recipe.scale,
        epochs=tuple({epoch for epoch in EPOCHS if epoch < own.epochs} | {own.epochs}),
        seed=seed,
        device=own.device,
        workers=own.workers,
        progress=own.progress,
    )
    trained(experiment, row, seed, on_epoch=evolution)
    path = experiment.folder(row, seed) / "fig4.npz"
    evolution.collect(path)
    entry = judged(experiment, "fig4", row, seed)
    entry["values"] |= {
        "snapshots": list(evolution.epochs),
        "fig4.npz": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    return entry


# ------------------------------------------------------------------------------ all of it
def reproduce(
    target: str,
    experiment: Experiment,
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    say: Callable[[str], None] = print,
) -> None:
    """Do what the ledger lacks of a target, row by row and seed by seed; then its ensembles.

    A training that diverges is told and left, and the next row begun. An ensemble needs its members'
    weights, and trains those that are not there.

    Parameters
    ----------
    target, rows
        As in :func:`rows_of`.
    experiment
        Data, recipe and width of the rows, and where they run and leave their files.
    seeds
        One training each; a row that is ``alone`` has the first one only.
    say
        What to do with a line that tells how it goes.

    Raises
    ------
    DivergedError
        In the end, when trainings have diverged: it names them.
    ValueError
        Before a training of Fig. 4 or 5, when the file that it would leave is another entry's.
    """
    code_version()  # what is read from here on
    diverged = []
    for row, seed in _steps(target, rows, seeds):
        title = row.name if seed is None else f"{row.name}, seed {seed}"
        # A file beside the entry: of Fig. 5 the first seed's, and of one that was there before, that one's.
        keeps = target == "fig4" or (
            target == "fig5" and seed == seeds[0] and not _kept_of_another_seed(experiment, row, seed)
        )
        known = _recorded(experiment, target, row, seed, seeds, experiment.data_sha256)
        if known and (not keeps or _is_of(_kept_file(target, row.name, experiment.results), known)):
            say(f"{title}: is in the ledger")
            continue
        if keeps:
            _insist_on_place(experiment, target, row, seed)
        try:
            if seed is None:
                entry = judged_together(experiment, target, row, seeds)
            elif entry := _recorded_elsewhere(experiment, target, row, seed, experiment.data_sha256):
                say(f"{title}: taken from the other table, which shares this network")
            elif target == "fig4":
                entry = _evolved(experiment, row, seed)
            else:
                say(f"{title}: in {experiment.folder(row, seed)}")
                entry = judged(experiment, target, row, seed)
        except DivergedError as error:
            diverged.append(f"{title}: {error}")
            say(f"{title}: {error}")
            continue
        record(target, entry, experiment.results)
        if keeps:
            say(f"{title}: what the figure shows is in {_keep(experiment, target, row, entry)}")
        say(f"{title}: {_found(entry)}")
    if diverged:
        raise DivergedError(f"{len(diverged)} trainings diverged: {'; '.join(diverged)}")


def _steps(target: str, rows: Sequence[str] | None, seeds: Sequence[int]) -> Iterator[tuple[Row, int | None]]:
    """Rows with their seeds; last the ensembles, which have none."""
    chosen = rows_of(target, rows)
    for row in chosen:
        if not row.members:
            yield from ((row, seed) for seed in (seeds[:1] if row.alone else seeds))
    yield from ((row, None) for row in chosen if row.members)


def _recorded(
    experiment: Experiment,
    target: str,
    row: Row,
    seed: int | None,
    seeds: Sequence[int],
    sha256: str | None = None,
) -> dict[str, Any] | None:
    """The entry that the ledger has of this row, seed and configuration, and of pictures of this hash."""
    config = _ensemble_config(experiment, row, seeds) if row.members else experiment.config(row)
    found = find(target, experiment.results, row.name, seed, data=experiment.data, **config)
    return next((entry for entry in found if sha256 in (None, entry["data_sha256"])), None)


def _recorded_elsewhere(
    experiment: Experiment, target: str, row: Row, seed: int, sha256: str | None = None
) -> dict[str, Any] | None:
    """The entry that the other one of Tables 1 and 2 has of the same network, on pictures of this hash."""
    other = {"table1": "table2", "table2": "table1"}.get(target)
    return _recorded(experiment, other, row, seed, [seed], sha256) if other else None


def _found(entry: dict[str, Any]) -> str:
    values = entry["values"]
    judged = [crops for crops in ("one crop", "ten crops") if f"{crops} top1" in values]
    words = [f"{crops} {values[f'{crops} top1']:.1f} %" for crops in judged]
    return f"top-1 error {', '.join(words)} (top-5 {values[f'{judged[-1]} top5']:.1f} %)"


def overview(
    target: str, experiment: Experiment, rows: Sequence[str] | None = None, seeds: Sequence[int] = (0,)
) -> list[tuple[str, int | None, str, float | None]]:
    """For every row and seed: its name, the seed, how it stands, and how long it will still take.

    Seconds are estimated from those that rows of the same configuration took on this device, in
    proportion to the networks' multiplications; None as long as there is no such row.
    """
    rates, states, device = [], [], provenance(experiment.device)["device"]
    alike = {"data": experiment.data, "width": experiment.width, "shard": experiment.shard}
    for ledger in TARGETS:
        for entry in entries_of_rows(ledger, experiment.results, **alike):
            config = entry["config"]
            if entry["seed"] is not None and entry["device"] == device:
                work = config["epochs"] * _operations(config["architecture"], config["width"])
                rates.append(entry["seconds"] / work)
    for row, seed in _steps(target, rows, seeds):
        if entry := _recorded(experiment, target, row, seed, seeds):
            states.append((row.name, seed, _found(entry), 0.0))
        elif seed is not None and (entry := _recorded_elsewhere(experiment, target, row, seed)):
            states.append((row.name, seed, f"{_found(entry)}, in the other table", 0.0))
        elif seed is None:
            states.append((row.name, seed, "of its members, trained again where their weights are gone", 0.0))
        else:
            done, own = epochs_done(experiment.folder(row, seed)), experiment.of(row)
            work = (own.epochs - done) * _operations(own.architecture(row), own.width)
            state = f"{done} of {own.epochs} epochs" if done else "not begun"
            states.append((row.name, seed, state, statistics.median(rates) * work if rates else None))
    return states


@cache
def _operations(architecture: str, width: float) -> int:
    """Floating-point operations of one forward pass; nothing is computed for it."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(architecture, width=width)
        side = network.architecture.input_size
        network(torch.empty(1, 3, side, side))
    return counter.get_total_flops()
