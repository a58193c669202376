"""The commands that train networks and judge them."""

from __future__ import annotations

import csv
import datetime
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zfcore.cli.options import (
    DeviceOption,
    ResultsOption,
    WorkersOption,
    as_csv,
    as_typed,
    device_or_best,
    insist_on_folder_of,
    workers_or_all,
)

#: Which command writes which ledger of measurements.
MEASURED = {
    **{name: f"measure {name}" for name in ("fig2", "invariance", "maximization")},
    **{name: f"sensitivity {name}" for name in ("occlusion", "correspondence")},
    "duplicates": "duplicates A B --record",
}

if TYPE_CHECKING:
    from zfcore.data import Pictures


def _number_or_none(text: str) -> float | str:
    return text if text == "none" else float(text)


def _shard(text: str) -> tuple[int, int]:
    k, _, n = text.partition("of")
    return int(k), int(n)


def _epochs(text: str) -> set[int]:
    return {int(n) for n in text.split(",")}


def _recipe_option(why: str, *names: str, **options) -> typer.models.OptionInfo:
    """An option that overrides the recipe; ``why`` tells what the recipes do and for what reason."""
    return typer.Option(*names, help=why, rich_help_panel="The recipe, value by value", **options)


def _or_none(why: str) -> typer.models.OptionInfo:
    return _recipe_option(why, parser=_number_or_none, metavar="NUMBER|none")


def train(
    architecture: Annotated[str, typer.Argument(help="A name of `zfcore.model.ARCHITECTURES`.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for checkpoint, history, weights; a run goes on there.",
            file_okay=False,
            writable=True,
        ),
    ],
    data: Annotated[
        str, typer.Option(help="tiny-imagenet, imagenet (packed), patches, or the folder of a pack.")
    ] = "tiny-imagenet",
    shard: Annotated[
        str | None,
        typer.Option(parser=_shard, metavar="KofN", help="0of4: training pictures 0, 4, 8, … when sorted."),
    ] = None,
    width: Annotated[
        float, typer.Option(help="Multiplies maps and hidden units; 2 gives the -64 family the paper's.")
    ] = 1.0,
    recipe: Annotated[
        str,
        typer.Option(help="`small` (unit inputs, He, cosine), `brief` (smaller batches) or `paper` (§3)."),
    ] = "small",
    epochs: Annotated[
        int | None, _recipe_option("paper: 70 (§3); small: 20, a few hours on two cores; brief: 15.", min=1)
    ] = None,
    batch_size: Annotated[
        int | None,
        _recipe_option(
            "Pictures a step, of all processes together. 128 (§3); brief: 32, for more steps.", min=1
        ),
    ] = None,
    rate: Annotated[
        float | None,
        _recipe_option("paper and brief: 0.01 (§3); small: 0.03, the largest that trained without a stall."),
    ] = None,
    momentum: Annotated[float | None, _recipe_option("0.9 (§3).")] = None,
    nesterov: Annotated[
        bool | None,
        _recipe_option("paper: no; small: yes, it costs nothing.", "--nesterov/--no-nesterov"),
    ] = None,
    weight_decay: Annotated[
        float | None,
        _recipe_option(
            "On weights, not biases. paper: 5e-4 (Krizhevsky's); small: 1e-3, for fewer pictures."
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        _recipe_option("paper: plateau, of the validation error (§3); small: cosine, which watches nothing."),
    ] = None,
    patience: Annotated[
        int | None,
        _recipe_option("plateau: epochs with no better error before the rate falls tenfold. 4.", min=1),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        _recipe_option(
            "paper: 0; small: 1000, in which a plain net hardly moves, or diverges; brief: 500.", min=0
        ),
    ] = None,
    scale: Annotated[
        float | None,
        _recipe_option("Inputs are (pixel - mean) / scale. paper: 1 (§3); small: 64, about unit scale."),
    ] = None,
    initialization: Annotated[
        str | None,
        _recipe_option(
            "paper: N(0, 0.01²) (§3); small: he, for unit inputs; `paper, then he`; keep (--start)."
        ),
    ] = None,
    dropout: Annotated[
        str | None,
        _or_none("Share of units that are dropped. none: as the network is built, 0.5 (§3); brief: 0."),
    ] = None,
    radius: Annotated[
        str | None,
        _or_none("Largest RMS of a filter. paper: 0.1 (§3); small: none, for no filter would reach it."),
    ] = None,
    clip: Annotated[
        str | None, _or_none("Largest norm of the gradient. paper: none; small: 5, against early jumps.")
    ] = None,
    average: Annotated[
        str | None,
        _or_none(
            "Decay of the mean of the weights, every 10 steps. paper: none; small: 0.98, 2 points better."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Go on from these weights: a name that ships, or a .safetensors file.")
    ] = None,
    snapshots: Annotated[
        str | None,
        typer.Option(
            parser=_epochs,
            metavar="N,N,…",
            help="Epochs whose weights are kept as epoch-NN. Default: none; Fig. 4 has 1,2,5,10,20,30,40,64.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Weights, order, crops, mirroring and dropout follow from it.")
    ] = 0,
    device: DeviceOption = None,
    precision: Annotated[
        str, typer.Option(help="bf16 (autocast), float32, or auto: bf16 where the device is fast at it.")
    ] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile; off, for it needs a compiler and a minute.")
    ] = False,
    workers: WorkersOption = None,
    record: Annotated[
        str | None, typer.Option(help="Write the errors and the history into this ledger.")
    ] = None,
    results: ResultsOption = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="A killed run loses so much at most.", min=0)
    ] = 300,
) -> None:
    """Train a network and write its weights with their card; a run that was killed goes on.

    Example: `zfcore train zfnet-64 --out runs/zfnet-64 --epochs 20`

    Several GPUs: `torchrun --nproc-per-node 4 -m zfcore train zfnet --data imagenet --out runs/zfnet`
    """
    given = locals()
    from dataclasses import asdict, fields, replace

    import torch

    from zfcore import ledger
    from zfcore import model as models
    from zfcore.data import data_set
    from zfcore.evaluate import errors
    from zfcore.fetch import DATASETS
    from zfcore.train import RECIPES, Recipe, Run, precision_of
    from zfcore.train import train as run_training

    if recipe not in RECIPES:
        raise typer.BadParameter(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    if architecture not in models.ARCHITECTURES:
        known = ", ".join(models.ARCHITECTURES)
        raise typer.BadParameter(f"unknown architecture {architecture!r}; known: {known}")
    if start:
        given["initialization"] = initialization or "keep"
    _check_ledger(record, results)
    if bool(start) != (given["initialization"] == "keep"):
        raise typer.BadParameter("--start WEIGHTS and --initialization keep need each other")
    changes = {
        f.name: given[f.name] for f in fields(Recipe) if f.name != "name" and given.get(f.name) is not None
    }
    changes = {name: None if value == "none" else value for name, value in changes.items()}
    how = replace(RECIPES[recipe], **changes)
    if changes.keys() - {"epochs"}:
        changed = ", ".join(f"{name} {value}" for name, value in changes.items() if name != "epochs")
        how = replace(how, name=f"{recipe} with {changed}")

    if strange := sorted(epoch for epoch in snapshots or () if not 0 < epoch <= how.epochs):
        raise typer.BadParameter(
            f"--snapshots of epoch {', '.join(map(str, strange))}; this run has the epochs 1 to {how.epochs}"
        )

    device = device_or_best(device)
    begun, origin = models.load(start) if start else (None, {})
    pictures, validation = (
        data_set(data, "train", "{}of{}".format(*shard) if shard else None),
        data_set(data, "val"),
    )
    card = {
        "architecture": architecture,
        "width": width,
        "data": data if data in DATASETS else Path(data).resolve().name,
        "data_sha256": pictures.sha256,
        "shard": "{}of{}".format(*shard) if shard else None,
        "start": f"{Path(start).stem}, sha256 {origin['sha256']}" if start else None,
        "recipe": how.name,
        "settings": asdict(how),
        "scale": how.scale,
        "seed": seed,
        "epochs": how.epochs,
        "precision": precision_of(precision, device),
    }

    weights, folder = out / f"{architecture}.safetensors", results or ledger.RESULTS
    if weights.with_suffix(".json").exists():
        there = _complete_card(weights, card)
        _insist_on_snapshots(out, snapshots or set())
        if record:
            if there.get("validation_sha256", validation.sha256) != validation.sha256:
                raise ValueError(f"{weights} was judged on other validation pictures than {data} has now")
            entries = ledger.find(record, folder, settings=there["settings"])
            if there["sha256"] not in [entry["weights_sha256"] for entry in entries]:
                ledger.record(record, _entry_of_training(weights, validation), folder)
        return
    _insist_on_snapshots(out, snapshots or set())
    alpha = origin.get("alpha") if start else how.alpha
    network = models.build(architecture, len(pictures.classes), width=width, alpha=alpha)
    if pictures.side > 2 * (size := network.architecture.input_size):
        raise typer.BadParameter(
            f"{architecture} sees {size} px, and the pictures have {pictures.side}: it would learn from "
            f"{100 * (size / pictures.side) ** 2:.0f} % of each; take a network for larger pictures"
        )
    if start:
        try:
            network.load_state_dict(begun.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{start} does not fit {architecture} of width {width:g}: {error}") from error
    processes = int(os.environ.get("WORLD_SIZE", 1))
    workers = workers_or_all(workers)
    card |= {
        "num_classes": len(pictures.classes),
        "alpha": network.architecture.alpha,
        "input_size": network.architecture.input_size,
        "resize": pictures.side,
        "classes": pictures.classes,
        "labels": pictures.names,
        "pictures": len(pictures),
        "validation": len(validation),
        "validation_sha256": validation.sha256,
        "terms": DATASETS[data].terms if data in DATASETS else None,
        "command": as_typed(),
        "made_on": f"{processes} × {device}, torch {torch.__version__}",
        "code": ledger.code_version(),
        "date": datetime.date.today().isoformat(),
    }

    def keep_snapshot(run: Run) -> None:
        epoch, error = len(run.history), {key: run.history[-1][key] for key in ("top1", "top5")}
        if snapshots and epoch in snapshots:
            now = card | {"epochs": epoch, "error": {"one crop": error}}
            models.save(out / f"epoch-{epoch:02d}", run.model, run.mean, now)

    with _processes(device) as (rank, here):
        run = run_training(
            network,
            pictures,
            validation,
            how,
            input_size=card["input_size"],
            seed=seed,
            device=here,
            precision=card["precision"],
            compile=compile,
            workers=workers,
            folder=out,
            checkpoint_seconds=checkpoint_seconds,
            on_epoch=keep_snapshot,
        )
    if rank == 0:
        network.half().float()  # the weights are stored in half precision, so it is these that are judged
        judged = (network, validation, card | {"mean": run.mean})
        card["error"] = {
            words: errors(*judged, crops=crops, device=here, workers=workers, progress=True)
            for words, crops in (("one crop", 1), ("ten crops", 10))
        }
        models.save(weights, network, run.mean, card)
        error = card["error"]["one crop"]["top1"]
        typer.echo(f"{weights}: {card['epochs']} epochs, {error:.2f} % top-1 error on one crop")
        if record:
            ledger.record(record, _entry_of_training(weights, validation), folder)


def _entry_of_training(weights: Path, validation: Pictures) -> dict[str, Any]:
    """The ledger's entry of a training: how it went, epoch by epoch, and what its weights reach.

    It is made of what the run left, card and history, so that it is the same whenever it is asked for.
    """
    card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    with open(weights.with_name("history.csv"), newline="", encoding="utf-8") as file:
        history = [
            {key: int(value) if key == "epoch" else float(value) for key, value in epoch.items()}
            for epoch in csv.DictReader(file)
        ]
    one, ten = card["error"]["one crop"], card["error"]["ten crops"]
    values = one | {f"ten crops {name}": error for name, error in ten.items()} | {"history": history}
    return {
        "row": card["architecture"],
        "seed": card["seed"],
        "values": values,
        "n": len(validation),
        "data": card["data"],
        "data_sha256": validation.sha256,
        "config": {
            key: card.get(key) for key in ("settings", "epochs", "width", "shard", "start", "precision")
        },
        "weights_sha256": card["sha256"],
        "code": card.get("code", "unknown"),  # of a card from before cards told it
        "torch": card["made_on"].rpartition("torch ")[2],
        "device": card["made_on"],
        "seconds": round(sum(epoch["seconds"] for epoch in history), 3),
        "command": card["command"],
        "date": card["date"],
    }


def _insist_on_snapshots(out: Path, wanted: Collection[int]) -> None:
    """Refuse snapshots of epochs that the run in ``out`` has behind it, and of which none was kept."""
    from zfcore.train import epochs_done

    done = epochs_done(out)
    lost = [n for n in sorted(wanted) if n <= done and not (out / f"epoch-{n:02d}.safetensors").exists()]
    if lost:
        raise ValueError(
            f"no snapshot of epoch {', '.join(map(str, lost))} was kept; train again in another folder"
        )


def _complete_card(weights: Path, card: dict[str, Any]) -> dict[str, Any]:
    """The card of ``weights`` that are there already, which is told; refused if it is not as ``card``."""
    from zfcore.model import load

    _, there = load(weights)
    told = there if there.get("precision", "auto") != "auto" else there | {"precision": card["precision"]}
    differing = ", ".join(key for key, value in card.items() if told.get(key) != value)
    if differing:
        raise ValueError(f"{weights} is of another run (it differs in {differing}); give another folder")
    error = there["error"]["one crop"]["top1"]
    typer.echo(f"{weights} is complete: {there['epochs']} epochs, {error:.2f} % top-1 error on one crop")
    return there


@contextmanager
def _processes(device: str) -> Iterator[tuple[int, str]]:
    """Meet the processes that torchrun started, if it did: this one's number, and the device it shall use."""
    if "LOCAL_RANK" not in os.environ:
        yield 0, device
        return
    import torch
    import torch.distributed as dist

    if device.startswith("cuda:"):
        raise typer.BadParameter(f"under torchrun each process takes the GPU of its own number, not {device}")
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", device_id=torch.device(device) if cuda else None)
    yield dist.get_rank(), device
    dist.destroy_process_group()


def evaluate(
    weights: Annotated[list[str], typer.Argument(help="Names that ship, or .safetensors files.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="tiny-imagenet, imagenet (packed), patches, or a packed folder. Default: the first card's."
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="train or val; train are the pictures of the card's shard, not augmented here."),
    ] = "val",
    crops: Annotated[int | None, typer.Option(help="1 or 10 (§3). Default: both.")] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Judge them all together, too.")] = False,
    confusion: Annotated[
        Path | None,
        typer.Option(
            help="CSV file for the counts of the last one: true class × taken class.",
            dir_okay=False,
            writable=True,
        ),
    ] = None,
    record: Annotated[str | None, typer.Option(help="Write the errors into this ledger.")] = None,
    results: ResultsOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    low_precision: Annotated[bool, typer.Option("--low-precision", help="Run in bfloat16.")] = False,
) -> None:
    """Print the errors of networks in %, and how each differs from the first over the same pictures.

    Example: `zfcore evaluate zfnet-64 runs/b/zfnet-64.safetensors --ensemble`
    """
    from zfcore import evaluate as judging
    from zfcore import ledger
    from zfcore.comparison import paired_difference
    from zfcore.data import data_set
    from zfcore.model import load, write_atomically

    _check_ledger(record, results)
    device, networks = device_or_best(device), {name: load(name) for name in weights}
    cards = [card for _, card in networks.values()]
    data = data or cards[0].get("data")
    if data is None:
        raise typer.BadParameter(
            f"the card of {weights[0]} names no data; say with --data what it was trained on"
        )
    shards = {card.get("shard") for card in cards} if split == "train" else {None}
    if len(shards) > 1:
        raise typer.BadParameter(
            f"{', '.join(weights)} were trained on different shards; judge one at a time"
        )
    pictures = data_set(data, split, *shards)
    options = {"device": device, "workers": workers_or_all(workers), "progress": True}
    options |= {"low_precision": low_precision}
    wanted = [1, 10] if crops is None else [crops]
    verdicts = judging.judge(networks, pictures, wanted, ensemble, **options)
    first = next(iter(verdicts.values()))
    typer.echo(f"{len(pictures):,} {split} pictures of {data}")
    for name, verdict in verdicts.items():
        for words, error in verdict.errors.items():
            line = f"{name:{max(map(len, verdicts))}}  {words:14}  {error:6.2f}"
            if verdict is not first:
                found = paired_difference(verdict.outcomes[words], first.outcomes[words])
                line += f"  {found.points:+.2f} ± {found.standard_error:.2f}{' (a tie)' * found.tie}"
            typer.echo(line)
    for true, taken, count in judging.most_confused(verdict.confusion):
        typer.echo(f"{count:6} × {pictures.names[true]} taken for {pictures.names[taken]}")
    if confusion:
        lines = [["", *pictures.classes]]
        lines += [[c, *row] for c, row in zip(pictures.classes, verdict.confusion.tolist(), strict=True)]
        write_atomically(confusion, as_csv(lines))
    for name, verdict in verdicts.items() if record else ():
        of = [networks[name][1]] if name in networks else cards
        entry = {
            "row": of[0]["architecture"] if name in networks else "ensemble",
            "seed": of[0].get("seed") if name in networks else None,
            "values": verdict.errors,
            "n": len(pictures),
            "data": data,
            "data_sha256": pictures.sha256,
            "config": {
                "split": split,
                "crops": wanted,
                "judged in": "bfloat16" if low_precision else "float32",
                "weights": [card["sha256"] for card in of],
            },
            "weights_sha256": [card["sha256"] for card in of],
            "outcomes": ledger.pack_outcomes(verdict.outcomes),
        }
        entry |= ledger.provenance(device, verdict.seconds, as_typed())
        ledger.record(record, entry, results or ledger.RESULTS)


def _check_ledger(record: str | None, folder: Path | None) -> None:
    """Refuse a damaged ledger, and one whose entries only the command of a table or measurement writes."""
    from zfcore import generalization, ledger, reproduce

    if record in MEASURED:
        raise typer.BadParameter(
            f"the ledger {record!r} is what `zfcore {MEASURED[record]}` writes; give --record another name"
        )
    if record in (*reproduce.TARGETS, *generalization.TARGETS):
        raise typer.BadParameter(
            f"the ledger {record!r} is what `zfcore reproduce {record}` writes; give --record another name"
        )
    if record:
        folder = folder or ledger.RESULTS
        insist_on_folder_of(folder / f"{record}.json")
        ledger.find(record, folder)
