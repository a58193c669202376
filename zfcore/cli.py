"""The shell: ``zfcore train``, ``zfcore book`` and the rest, each with ``--help`` and an example."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import runpy
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zfcore.data import Pictures
    from zfcore.gallery import Album
    from zfcore.view import Viewer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.callback()
def zfcore() -> None:
    """Visualizing and Understanding Convolutional Networks (Zeiler & Fergus 2013), executable.

    `zfcore COMMAND --help` explains a command and shows an example.

    Example, which needs nothing but a photograph: `zfcore occlude cat.jpg --out occlusion`
    """


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


#: Of the commands that work for long.
DeviceOption = Annotated[
    str | None,
    typer.Option(help="cuda, cuda:1, cpu. Default: cuda if there is one, else cpu (mps has no float64)."),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the ledger. Default: book/results, outside a checkout ./results."),
]


@app.command()
def train(
    architecture: Annotated[str, typer.Argument(help="A name of `zfcore.model.ARCHITECTURES`.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, history, weights; a run goes on there.")],
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
        _or_none("Largest RMS of a filter. paper: 0.1 (§3); small: none, for few filters would reach it."),
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
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode packed pictures. Default: a core each.", min=0)
    ] = None,
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
    from zfcore.data import cores, data_set
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
    _check_ledger(record)
    if bool(start) != (given["initialization"] == "keep"):
        raise typer.BadParameter("--start WEIGHTS and --initialization keep need each other")
    changes = {
        f.name: given[f.name] for f in fields(Recipe) if f.name != "name" and given[f.name] is not None
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

    device = _device(device)
    begun, origin = models.load(start) if start else (None, {})
    pictures, validation = (
        data_set(data, "train", "{}of{}".format(*shard) if shard else None),
        data_set(data, "val"),
    )
    card = {
        "architecture": architecture,
        "width": width,
        "data": Path(data).name,
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
            entries = ledger.find(record, folder, settings=there["settings"])
            if there["sha256"] not in [entry["weights_sha256"] for entry in entries]:
                ledger.record(record, _entry_of_training(weights, validation), folder)
        return
    _insist_on_snapshots(out, snapshots or set())
    alpha = origin.get("alpha") if start else how.alpha
    network = models.build(architecture, len(pictures.classes), width=width, alpha=alpha)
    if start:
        try:
            network.load_state_dict(begun.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{start} does not fit {architecture} of width {width:g}: {error}") from error
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if workers is None:
        workers = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    card |= {
        "num_classes": len(pictures.classes),
        "alpha": network.architecture.alpha,
        "input_size": network.architecture.input_size,
        "resize": pictures.side,
        "classes": pictures.classes,
        "labels": pictures.names,
        "pictures": len(pictures),
        "terms": DATASETS[data].terms if data in DATASETS else None,
        "command": _command(),
        "made_on": f"{processes} × {device}, torch {torch.__version__}",
        "code": ledger.provenance()["code"],
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
        if record:
            ledger.record(record, _entry_of_training(weights, validation), folder)


def _check_ledger(record: str | None) -> None:
    """Refuse the ledger of a table or figure, whose entries only ``reproduce`` writes."""
    from zfcore import generalization, reproduce

    if record in (*reproduce.TARGETS, *generalization.TARGETS):
        raise typer.BadParameter(
            f"the ledger {record!r} is what `zfcore reproduce {record}` writes; give --record another name"
        )


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


def _command() -> str:
    """What was typed, with absolute paths as seen from the working directory, or cut to their last name."""
    words = ["zfcore"]
    if "LOCAL_WORLD_SIZE" in os.environ:
        words = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], "-m", "zfcore"]
        if (machines := os.environ.get("GROUP_WORLD_SIZE", "1")) != "1":
            words[1:1] = ["--nnodes", machines]
    for word in sys.argv[1:]:
        option, equals, value = word.rpartition("=")
        path = Path(value)
        if path.is_absolute():
            here = path.is_relative_to(Path.cwd())
            value = str(path.relative_to(Path.cwd()) if here else path.name)
        words.append(option + equals + value)
    return shlex.join(words)


def _device(given: str | None) -> str:
    """The device that was asked for, or the fastest that is here."""
    import torch

    if given is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(given)
    except RuntimeError as error:
        raise typer.BadParameter(f"{given!r} is no device; known: cuda, cuda:1, cpu, …") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter(f"there is no {given}: this machine has no GPU that PyTorch can use")
    return given


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


@app.command()
def book(
    scale: Annotated[str, typer.Option(help="Size of the evidence: embedded, tiny, imagenet.")] = "embedded",
    device: Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Whatever the chapters draw at random follows from it.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the chapters' figures and numbers.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", help="Another parameter of the chapters, name=value."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Chapters executed at the same time.", min=1)] = 2,
) -> None:
    """Execute the chapters and build the pages, `_build/html/index.html`; run it in the repository's folder.

    Chapters that nothing has changed for are not executed again.

    Example: `zfcore book --scale tiny --device cuda --out results`
    """
    import yaml

    from zfcore.publish import BookError, publish

    parameters = {"scale": scale, "device": device, "seed": seed}
    for item in parameter or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise typer.BadParameter(f"{item!r} is not name=value", param_hint="--parameter")
        parameters[name] = yaml.safe_load(value)
    try:
        index = publish(".", parameters, out=out, jobs=jobs)
    except BookError as error:
        typer.echo(f"\n{error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"open {index}")


@app.command()
def page(
    network: Annotated[
        str,
        typer.Argument(help="`MODEL.py:factory`, a function that gives it, or the name of shipped weights."),
    ],
    pictures: Annotated[Path, typer.Option(help="Folder with the pictures to begin with.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    weights: Annotated[
        Path | None, typer.Option(help="The network's state_dict, .safetensors or what torch.save wrote.")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            help="JSON with input_size, resize, mean, scale (pixels from 0 to 255; one number or three), and "
            "perhaps labels. Default: as torchvision's ImageNet networks want it."
        ),
    ] = None,
    layer: Annotated[list[str] | None, typer.Option(help="A layer to show; may be given again.")] = None,
    features_only: Annotated[bool, typer.Option("--features-only", help="Leave the classifier out.")] = False,
) -> None:
    """Write one HTML file in which anyone explores a network of yours: no Python, no connection.

    Example: `zfcore page my_net.py:make --weights my_net.pt --pictures photographs/ --out report.html`
    """
    from zfcore.page import save_page

    found = _pictures_in(pictures)
    model, described = _network(network, weights)
    described = json.loads(card.read_text("utf-8")) if card else described
    typer.echo(save_page(model, found, out, layer, described, features_only=features_only))


def _pictures_in(folder: Path) -> list[Path]:
    """The picture files that lie in a folder."""
    if found := sorted(filter(_is_picture, folder.iterdir())):
        return found
    raise ValueError(f"{folder} has no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")


PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def _network(spec: str, weights: Path | None) -> tuple[nn.Module, dict | None]:
    """The network that a file's function gives, or that ships here; in eval mode, with its card."""
    file, colon, factory = spec.rpartition(":")
    if not (colon and factory.isidentifier()):  # the colon of C:\\… is none of these
        from zfcore.model import load

        if weights:
            raise typer.BadParameter(
                f"--weights belongs to MODEL.py:factory, a function that gives the network; {spec!r} names "
                "weights that ship: leave --weights out"
            )
        return load(spec)
    sys.path.insert(0, str(Path(file).resolve().parent))  # the file may import its neighbours
    names = runpy.run_path(file)
    if not callable(names.get(factory)):
        known = ", ".join(sorted(name for name in names if callable(names[name]) and name[0] != "_"))
        raise ValueError(f"{file} has no function {factory!r}; it has: {known or 'none'}")
    model = names[factory]()
    if weights:
        import safetensors.torch
        import torch

        if weights.suffix == ".safetensors":
            state = safetensors.torch.load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{weights} does not fit {spec}: {error}") from error
    return model.eval(), None


@app.command()
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
        Path | None, typer.Option(help="CSV file for the counts of the last one: true class × taken class.")
    ] = None,
    record: Annotated[str | None, typer.Option(help="Write the errors into this ledger.")] = None,
    results: ResultsOption = None,
    device: DeviceOption = None,
    workers: Annotated[int, typer.Option(help="Processes that decode packed pictures.", min=0)] = 0,
    low_precision: Annotated[bool, typer.Option("--low-precision", help="Run in bfloat16.")] = False,
) -> None:
    """Print the errors of networks in %, and how each differs from the first over the same pictures.

    Example: `zfcore evaluate zfnet-64 runs/b/zfnet-64.safetensors --ensemble`
    """
    from zfcore import evaluate as judging
    from zfcore import ledger
    from zfcore.data import data_set
    from zfcore.model import load, write_atomically

    _check_ledger(record)
    device, networks = _device(device), {name: load(name) for name in weights}
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
    options = {"device": device, "workers": workers, "low_precision": low_precision, "progress": True}
    wanted = [1, 10] if crops is None else [crops]
    verdicts = judging.judge(networks, pictures, wanted, ensemble, **options)
    first = next(iter(verdicts.values()))
    typer.echo(f"{len(pictures):,} {split} pictures of {data}")
    for name, verdict in verdicts.items():
        for words, error in verdict.errors.items():
            line = f"{name:{max(map(len, verdicts))}}  {words:14}  {error:6.2f}"
            if verdict is not first:
                found = judging.paired_difference(verdict.outcomes[words], first.outcomes[words])
                line += f"  {found.points:+.2f} ± {found.standard_error:.2f}{' (a tie)' * found.tie}"
            typer.echo(line)
    for true, taken, count in judging.most_confused(verdict.confusion):
        typer.echo(f"{count:6} × {pictures.names[true]} taken for {pictures.names[taken]}")
    if confusion:
        lines = [["", *pictures.classes]]
        lines += [[c, *row] for c, row in zip(pictures.classes, verdict.confusion.tolist(), strict=True)]
        write_atomically(confusion, _as_csv(lines))
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
        entry |= ledger.provenance(device, verdict.seconds, _command())
        ledger.record(record, entry, results or ledger.RESULTS)


def _as_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as the content of a CSV file; a field that holds a comma is quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


@app.command()
def occlude(
    photo: Annotated[Path, typer.Argument(help="A picture file.")],
    out: Annotated[Path, typer.Option(help="Folder for occlusion.png, .svg and .json.")],
    weights: Annotated[str, typer.Option(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    target: Annotated[
        str | None, typer.Option(help="Label, class id or index. Default: the most probable class.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the square in pixels of the input.", min=1)] = 14,
    stride: Annotated[int, typer.Option(help="Pixels from one position to the next.", min=1)] = 2,
    layer: Annotated[
        str | None, typer.Option(help="Whose strongest map is summed. Default: the last ReLU's of maps.")
    ] = None,
    channel: Annotated[int | None, typer.Option(help="Another map than the strongest.")] = None,
    fill: Annotated[str, typer.Option(help="A number in units of the input, mean, blur or noise.")] = "0",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Slide a square over a photograph: where does the network lose the class? (§4.2, Fig. 6)

    Example: `zfcore occlude cat.jpg --target "Egyptian cat" --size 14 --out occlusion`
    """
    from torch import nn

    from zfcore import figures
    from zfcore.data import squares, to_input
    from zfcore.model import load, write_atomically
    from zfcore.occlusion import occlusion_maps
    from zfcore.trace import trace

    network, card = load(weights)
    network.to(device)
    labels = _labels(card)
    image = to_input([photo], card)[0].to(device)
    chosen = int(network(image[None]).argmax()) if target is None else _class_index(target, card)
    if layer is None:
        followed = trace(network)
        relus = (n for n in followed.geometry if isinstance(followed.operations[followed.node(n)], nn.ReLU))
        *_, layer = relus
    with suppress(ValueError):  # a word, then, and occlusion_maps knows which there are
        fill = float(fill)
    options = {"layer": layer, "fill": fill, "channel": channel, "seed": seed}
    maps = occlusion_maps(network, image, chosen, size, stride, **options, progress=True)
    found = {part: getattr(maps, part).tolist() for part in ("probability", "label", "activation")}
    said = {
        "photograph": photo.name,
        "weights": {"architecture": card["architecture"], "sha256": card["sha256"]},
        "target": {"index": chosen, "label": labels[chosen]},
        "size": size,
        "stride": stride,
        **options,
        "channel": maps.channel,
        "method": maps.method,
        "unoccluded": {part: value.item() for part, value in maps.unoccluded._asdict().items()},
        **found,
        "labels": {n: labels[n] for n in sorted({n for row in found["label"] for n in row})},
        "command": _command(),
    }
    row = figures.OcclusionRow(
        squares([photo], card)[0], **{part: found[part] for part in ("activation", "probability")},
        labels=found["label"], names=said["labels"], target=chosen, feature=f"map {maps.channel} of {layer}",
    )  # fmt: skip
    drawing = figures.occlusion([row], size, stride)
    write_atomically(out / "occlusion.json", (json.dumps(said, ensure_ascii=False) + "\n").encode())
    for suffix in ("png", "svg"):
        drawing.savefig(blob := io.BytesIO(), format=suffix, dpi=200)
        write_atomically(out / f"occlusion.{suffix}", blob.getvalue())
    typer.echo(
        f"{labels[chosen]}: {maps.unoccluded.probability:.3f} on the whole photograph, "
        f"{maps.probability.min():.3f} to {maps.probability.max():.3f} with the square; {out}"
    )


def _class_index(given: str, card: dict) -> int:
    """The index of a class, from its label, its id or the index itself."""
    labels = _labels(card)
    for known in (labels, card.get("classes") or [], list(map(str, range(card["num_classes"])))):
        if given in known:
            return known.index(given)
    near = get_close_matches(given, labels, 3) or labels[:3]
    raise ValueError(
        f"no class {given!r}; give a label (say, {', '.join(near)}), an id, or 0 to {len(labels) - 1}"
    )


def _labels(card: dict) -> Sequence[str]:
    """What the classes of a network are called, ``class 0`` and on where its card does not say."""
    return card.get("labels") or [f"class {n}" for n in range(card["num_classes"])]


@app.command()
def sensitivity(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(help="occlusion (Tiny-ImageNet's boxes) or correspondence (faces of Caltech-101)."),
    ],
    weights: Annotated[str, typer.Option(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    pictures: Annotated[int, typer.Option(help="occlusion: how many that the network knows.", min=20)] = 500,
    size: Annotated[int, typer.Option(help="occlusion: side of the square in pixels.", min=1)] = 14,
    stride: Annotated[int, typer.Option(help="occlusion: pixels between its positions.", min=1)] = 4,
    draws: Annotated[int, typer.Option(help="correspondence: drawings of random places.", min=2)] = 50,
    seed: Annotated[int, typer.Option(help="Of places, resamplings, and of the untrained network.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    results: ResultsOption = None,
) -> None:
    """Test the claims of §4.2 over many pictures, and write what comes out into the ledger.

    Example: `ZFCORE_DATA=~/data zfcore sensitivity occlusion --pictures 500`
    """
    from zfcore import ledger
    from zfcore.faces import correspondence_entries
    from zfcore.sensitivity import occlusion_entries

    _refuse(context, what, IDLE.get(what, ()))
    if what == "occlusion":
        entries = occlusion_entries(weights, pictures, size, stride, seed, device)
    elif what == "correspondence":
        entries = correspondence_entries(weights, draws, seed, device)
    else:
        raise typer.BadParameter(f"unknown analysis {what!r}; known: occlusion, correspondence")
    for entry in entries:
        ledger.record(what, entry, results or ledger.RESULTS)
        typer.echo(f"{entry['row']}: {entry['n']} pictures in {entry['seconds']:.0f} s")


LayerName = Annotated[str, typer.Option(help="`layer 5`, or a module's path, `features.13`.")]


def _viewer(weights: str, device: str, layer: str | None = None) -> tuple[Viewer, str | None]:
    """A network to look at and the reader's name of ``layer``, which need not be one that it offers."""
    from zfcore.model import load
    from zfcore.view import Viewer

    network, card = load(weights)
    viewer = Viewer(network.to(device), card)
    if layer is None:
        return viewer, None
    for name, path in viewer.layers.items():
        if layer in (name, path):
            return viewer, name
    if layer not in viewer.net.layers:
        offered = ", ".join(f"{name} ({path})" for name, path in viewer.layers.items())
        raise ValueError(f"no layer {layer!r}; {offered}, or one of {', '.join(viewer.net.layers)}")
    return Viewer(viewer.model, card, [layer]), layer


@app.command()
def project(
    photo: Annotated[Path, typer.Argument(help="A picture file.")],
    layer: LayerName,
    feature: Annotated[int, typer.Option(help="Number of the feature map.", min=0)],
    out: Annotated[Path, typer.Option(help="Folder for projection.png, .webp, project.png and .json.")],
    rule: Annotated[str, typer.Option(help="deconvnet, gradient or guided.")] = "deconvnet",
    unit: Annotated[
        tuple[int, int] | None, typer.Option(metavar="Y X", help="Default: the map's strongest.")
    ] = None,
    weights: Annotated[str, typer.Option(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Project one unit of a feature map into a photograph: what made it answer? (§2.1, Fig. 2)

    Example: `zfcore project cat.jpg --layer "layer 5" --feature 17 --out projection`
    """
    from dataclasses import asdict, replace

    from zfcore.model import write_atomically
    from zfcore.view import RULES, as_png, as_webp, contact_sheet

    if rule not in RULES:
        raise typer.BadParameter(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    viewer, name = _viewer(weights, device, layer)
    frame = viewer.frame(viewer.look(photo.name, photo), name, feature, unit)
    frame = replace(frame, projections={rule: frame.projections[rule]})
    said = {
        "photograph": photo.name,
        "weights": {"architecture": viewer.card["architecture"], "sha256": viewer.card["sha256"]},
        "layer": name,
        "path": frame.path,
        "feature": feature,
        "unit": frame.unit,
        "value": frame.value,
        "field": asdict(frame.field),
        "rule": rule,
        "guesses": [{"label": label, "probability": p} for label, p, _ in frame.seen.guesses],
        "command": _command(),
    }
    pictures = {
        "projection.png": as_png(frame.projections[rule]),
        "projection.webp": as_webp(frame.projections[rule]),
        "project.png": as_png(contact_sheet(frame)),
        "project.json": (json.dumps(said, ensure_ascii=False, indent=1) + "\n").encode(),
    }
    for file, blob in pictures.items():
        write_atomically(out / file, blob)
    typer.echo(f"{frame.says()} {out}")


@app.command()
def maximize(
    layer: Annotated[str, typer.Argument(help="`layer 5`, a module's path (`features.12`), or `logits`.")],
    channel: Annotated[
        list[str], typer.Argument(help="Numbers of feature maps or units; of the last layer also labels.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for maximize.png and .json.")],
    recipe: Annotated[str, typer.Option(help="regularised, or plain: the algorithm alone.")] = "regularised",
    position: Annotated[
        str, typer.Option(metavar="map|middle|Y,X", help="The whole map's mean, or one unit.")
    ] = "map",
    objective: Annotated[str, typer.Option(help="logit, or probability, which is a trap.")] = "logit",
    size: Annotated[int | None, typer.Option(help="Pixels a side. Default: the network's.", min=1)] = None,
    iterations: Annotated[int | None, typer.Option(help="Steps. Default: the recipe's.", min=1)] = None,
    step: Annotated[float | None, typer.Option(help="Their size. Default: the recipe's.", min=0)] = None,
    seed: Annotated[int, typer.Option(help="Of the noise and of the moves by chance.")] = 0,
    weights: Annotated[str, typer.Option(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Climb from noise to the picture that a feature or a class answers to most (activation maximisation).

    Example: `zfcore maximize "layer 5" 7 29 --out climbed`

    A class: `zfcore maximize logits goldfish --out fish`
    """
    from dataclasses import asdict, replace

    from zfcore.figures import stretch
    from zfcore.maximization import RECIPES, maximize
    from zfcore.model import load, write_atomically
    from zfcore.view import Viewer, as_png, beside

    if recipe not in RECIPES:
        raise typer.BadParameter(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    place = position
    if position not in ("map", "middle"):
        y, _, x = position.partition(",")
        if not (y.isdecimal() and x.isdecimal()):
            raise typer.BadParameter(f"a position is map, middle or Y,X, as 3,4; got {position!r}")
        place = int(y), int(x)
    network, card = load(weights)
    viewer = Viewer(network.to(device), card)
    paths = viewer.layers | {"logits": viewer.net.trace.result}
    path = paths.get(layer, layer)
    of_classes = path == paths["logits"]
    if not of_classes and (strange := [c for c in channel if not c.isdecimal()]):
        raise typer.BadParameter(f"channels of {layer} are numbers; got {', '.join(strange)}")
    chosen = [_class_index(c, card) if of_classes else int(c) for c in channel]
    changes = {"iterations": iterations, "step": step}
    how = replace(RECIPES[recipe], **{name: value for name, value in changes.items() if value is not None})
    aim = {"position": place, "objective": objective, "recipe": how, "seed": seed}
    r = maximize(viewer.model, path, chosen, size or viewer.side, **aim, progress=True)
    said = {
        "weights": {"architecture": card["architecture"], "sha256": card["sha256"]},
        "layer": path,
        "channels": chosen,
        "labels": [_labels(card)[n] for n in chosen] if of_classes else None,
        "position": place,
        "objective": objective,
        "recipe": asdict(how),
        "seed": seed,
        "history": r.history,
        "command": _command(),
    }
    sheet = beside([(stretch(picture), None) for picture in r.image])
    write_atomically(out / "maximize.png", as_png(sheet))
    write_atomically(out / "maximize.json", (json.dumps(said, ensure_ascii=False) + "\n").encode())
    for n, history in zip(chosen, r.history, strict=True):
        typer.echo(
            f"{layer}, {n}: {history[0]:.3g} on noise, {history[-1]:.3g} after {len(history) - 1} steps"
        )
    typer.echo(out)


def _album(data: str, split: str) -> Album:
    """What ``--data`` names: a folder of pictures, crops of the photographs that ship, or a data set."""
    from zfcore.data import DATA_SETS, data_set, photographs
    from zfcore.gallery import Album, Crops

    if data == "photographs":
        return Crops(photographs())
    if data in DATA_SETS or not Path(data).is_dir():
        return Album(data_set(data, split))
    return Album({file.name: file for file in _pictures_in(Path(data))})


DataOption = Annotated[
    str,
    typer.Option(
        help="tiny-imagenet, imagenet (packed), photographs (crops of those that ship), or a folder."
    ),
]


@app.command()
def top(
    data: DataOption,
    layer: LayerName,
    feature: Annotated[int, typer.Option(help="Number of the feature map.", min=0)],
    out: Annotated[Path, typer.Option(help="Folder for top.json, projections and patches (.png, .webp).")],
    k: Annotated[int, typer.Option("--k", help="How many pictures.", min=1)] = 9,
    split: Annotated[str, typer.Option(help="Of a data set: train or val.")] = "val",
    weights: Annotated[str, typer.Option(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Find the pictures that excite a feature map most, and project what excites it (§4, Fig. 2).

    The pass over the pictures is kept: another feature is answered at once, an interrupted pass goes on.

    Example: `zfcore top --data photographs --layer "layer 3" --feature 7 --out top`
    """
    from dataclasses import asdict

    from zfcore.gallery import Gallery, pass_file, sheet
    from zfcore.model import write_atomically
    from zfcore.view import as_png, as_webp

    viewer, name = _viewer(weights, device, layer)
    album = _album(data, split)
    gallery = Gallery.of(viewer, album, k, file=pass_file(viewer, album, k), progress=True)
    hits = gallery.hits(name, feature)
    said = {
        "weights": {"architecture": viewer.card["architecture"], "sha256": viewer.card["sha256"]},
        "data": Path(data).name,
        "data_sha256": album.sha256,
        "n": len(album),
        "layer": name,
        "path": viewer.layers[name],
        "feature": feature,
        "hits": [hit and asdict(hit) for hit in hits],
        "command": _command(),
    }
    for kind, cells in (
        ("projections", gallery.projections(name, feature)),
        ("patches", gallery.patches(name, feature)),
    ):
        write_atomically(out / f"{kind}.png", as_png(sheet(cells)))
        write_atomically(out / f"{kind}.webp", as_webp(sheet(cells)))
    write_atomically(out / "top.json", (json.dumps(said, ensure_ascii=False, indent=1) + "\n").encode())
    for hit in filter(None, hits):
        typer.echo(f"{hit.value:9.3f}  {hit.picture}  {hit.label}")
    if not any(hits):
        typer.echo(f"nothing here excites feature {feature} of {name}")


@app.command()
def features(
    weights: Annotated[str, typer.Argument(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    data: DataOption = "tiny-imagenet",
    split: Annotated[str, typer.Option(help="Of a data set: train or val.")] = "val",
    maps: Annotated[
        int | None, typer.Option(help="At most so many maps of a layer, drawn with the seed.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the maps.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the galleries; default: book/results/top9.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Store Fig. 2 for every feature map: the projections of its nine strongest pictures, and their names.

    The pictures themselves are not stored. An interrupted run goes on.

    Example: `ZFCORE_DATA=~/data zfcore features zfnet-64 --data tiny-imagenet`
    """
    from zfcore.gallery import GALLERIES, Gallery, pass_file
    from zfcore.model import ships

    viewer, _ = _viewer(weights, device)
    if out is None and not ships(viewer.card["sha256"]):
        raise typer.BadParameter(
            f"{weights} does not ship with zfcore, and {GALLERIES} holds the galleries of what does; "
            "give --out FOLDER"
        )
    album = _album(data, split)
    gallery = Gallery.of(viewer, album, file=pass_file(viewer, album, 9), progress=True)
    about = {"data": Path(data).name, "split": split, "data_sha256": album.sha256, "command": _command()}
    path = gallery.save(out or GALLERIES, Path(weights).stem, maps=maps, seed=seed, progress=True, **about)
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}[-.]*"))
    typer.echo(f"{path}: {size / 1e6:.1f} MB with its sprites")


@app.command()
def measure(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="fig2, invariance, or maximization, which needs no data.")],
    weights: Annotated[str, typer.Option(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    data: Annotated[str, typer.Option(help="tiny-imagenet or imagenet (packed).")] = "tiny-imagenet",
    pictures: Annotated[int, typer.Option(help="invariance: how many are transformed.", min=20)] = 500,
    classes: Annotated[int, typer.Option(help="maximization: how many are climbed to.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Of pictures, places, noise, and the untrained network.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    results: ResultsOption = None,
) -> None:
    """Measure what is claimed of Fig. 2, invariance or activation maximisation, for the ledger.

    Example: `ZFCORE_DATA=~/data zfcore measure fig2`
    """
    from zfcore import ledger
    from zfcore.data import data_set
    from zfcore.gallery import pass_file
    from zfcore.preference import maximization_entry
    from zfcore.selectivity import fig2_entries
    from zfcore.stability import invariance_entries

    if target not in ("fig2", "invariance", "maximization"):
        raise typer.BadParameter(f"unknown target {target!r}; known: fig2, invariance, maximization")
    _refuse(context, target, IDLE[target])
    viewer, _ = _viewer(weights, device)
    if target == "maximization":
        entry = maximization_entry(viewer, classes, seed=seed, progress=True) | {"command": _command()}
        ledger.record(target, entry, results or ledger.RESULTS)
        typer.echo(f"{entry['row']}: {entry['n']} classes in {entry['seconds']:.0f} s")
        return
    shown = data_set(data, "val")
    if target == "fig2":
        entries = fig2_entries(viewer, shown, lambda *of: pass_file(*of, 9), seed, progress=True)
    else:
        entries = invariance_entries(viewer, shown, pictures, seed, progress=True)
    for entry in entries:
        entry |= {"data": data, "data_sha256": shown.sha256, "command": _command()}
        ledger.record(target, entry, results or ledger.RESULTS)
        typer.echo(f"{entry['row']}: {entry['n']:,} pictures in {entry['seconds']:.0f} s")


@app.command()
def claims(
    verdict: Annotated[
        str | None, typer.Option(help="Only those whose verdict begins so: reproduced, contradicted, not …")
    ] = None,
    section: Annotated[str | None, typer.Option(help="Only those of this section: §4.2, arXiv.")] = None,
    results: ResultsOption = None,
) -> None:
    """List the paper's claims with the verdict of the ledger on each, in a checkout of the book.

    Example: `zfcore claims --verdict contradicted`
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from zfcore import ledger
    from zfcore.claims import count, read_claims

    every = read_claims(results or ledger.RESULTS)
    shown = [
        claim
        for claim in every
        if claim.verdict.startswith(verdict or "") and section in (None, claim.section)
    ]
    table = Table("", "", "claim", "here", "verdict", box=box.SIMPLE, show_lines=True, pad_edge=False)
    for claim in shown:
        numbers = "\n".join(": ".join(filter(None, (n.label, n.text))) for n in claim.numbers)
        why = f"{claim.verdict}: {claim.why}" + f"\n{claim.command}" * bool(claim.command)
        table.add_row(str(claim.number), claim.section, claim.claim, numbers, why)
    Console(highlight=False, markup=False).print(table)
    counts = ", ".join(f"{n} {name}" for name, n in count(every).items())
    typer.echo(f"{len(shown)} of {len(every)} claims; in all {counts}")


#: The options of `reproduce` that have a meaning for targets of transfer alone, and for the others alone.
OF_TRANSFER = ("weights", "drop_duplicates")
OF_TRAININGS = ("shard", "width", "workers", "low_precision", "overview")
#: What else single targets, of whichever command, would leave idle.
IDLE = {
    "occlusion": ("draws",),
    "correspondence": ("pictures", "size", "stride"),
    "fig2": ("pictures", "classes"),
    "invariance": ("classes",),
    "maximization": ("data", "pictures"),
    "table5": ("seeds", "recipe", "epochs"),
    "table6": ("recipe", "epochs"),
    "fig7": ("recipe", "epochs"),
    "fig4": ("recipe",),  # its rows have their own
    "fig5": ("recipe",),
}


def _refuse(context: typer.Context, target: str, idle: Collection[str]) -> None:
    """Refuse the given ones of the options that ``target`` would leave idle, and say which it takes."""
    options = {p.name: p.opts[0] for p in context.command.params if p.opts[0].startswith("--")}
    given = [options[name] for name in idle if context.get_parameter_source(name).name == "COMMANDLINE"]
    if given:
        takes = ", ".join(option for name, option in options.items() if name not in idle)
        raise typer.BadParameter(f"{target} does not take {', '.join(given)}; it takes {takes}")


@app.command()
def reproduce(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(help="table1, table2, fig4, fig5; of transfer: table3 to table6, fig7."),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="tiny-imagenet, imagenet (packed), or patches, to rehearse; of transfer: caltech101, "
            "caltech256, voc2007, voc2012, patches."
        ),
    ],
    row: Annotated[list[str] | None, typer.Option(help="Only this row; more than once for more.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="One training of each row per seed, default 0; of transfer the splits, 0,1,2,3,4.",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="KofN", help="0of4: training pictures 0, 4, 8, … when sorted.")
    ] = None,
    width: Annotated[
        float, typer.Option(help="Multiplies maps and hidden units; 2 gives the -64 family the paper's.")
    ] = 1.0,
    epochs: Annotated[
        int | None, typer.Option(help="Default: the recipe's; of transfer 100, from scratch.", min=1)
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="`small` (unit inputs, He, cosine), `brief` (smaller batches) or `paper` (§3). Figs. 4, 5 "
            "have their own; of transfer only the row `scratch` is trained."
        ),
    ] = "small",
    device: DeviceOption = None,
    workers: Annotated[int, typer.Option(help="Processes that decode packed pictures.", min=0)] = 0,
    low_precision: Annotated[bool, typer.Option("--low-precision", help="Judge in bfloat16.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the trainings, which go on there.")] = Path("runs"),
    results: ResultsOption = None,
    overview: Annotated[bool, typer.Option("--list", help="Only say what is done and what remains.")] = False,
    weights: Annotated[
        str, typer.Option(help="Of transfer: the pretrained network, a name or a .safetensors file.")
    ] = "zfnet-64",
    drop_duplicates: Annotated[
        bool,
        typer.Option("--drop-duplicates", help="Of transfer: without what the ledger `duplicates` names."),
    ] = False,
) -> None:
    """Train and judge every row that the ledger lacks of a table or figure; a killed run goes on.

    Example: `zfcore reproduce table2 --data tiny-imagenet --seeds 0,1,2 --device cuda`

    Features on another data set: `zfcore reproduce table3 --data caltech101 --row "pretrained, layer 7"`
    """
    from zfcore import generalization, ledger
    from zfcore import reproduce as reproducing
    from zfcore.train import RECIPES

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise typer.BadParameter(
            "reproduce runs in one process; for several GPUs start one for each, with its own --device, "
            "--row and --results"
        )
    if recipe not in RECIPES:
        raise typer.BadParameter(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    device = _device(device)
    try:
        numbers = sorted({int(seed) for seed in seeds.split(",")}) if seeds else None
    except ValueError:
        raise typer.BadParameter(f"{seeds!r} is not a list of seeds like 0,1,2") from None
    of_transfer = target in generalization.TARGETS
    idle = (*(OF_TRAININGS if of_transfer else OF_TRANSFER), *IDLE.get(target, ()))
    _refuse(context, target, idle)
    if of_transfer and row and "scratch" not in row:
        _refuse(context, f"{target} without its row scratch", (*idle, "recipe", "epochs"))
    if of_transfer:
        kept = "dropped" if drop_duplicates else "kept"
        transferred = generalization.Transfer(
            data, weights, kept, RECIPES[recipe], epochs or 100, device, out, results or ledger.RESULTS, True
        )
        generalization.reproduce(target, transferred, row, numbers or range(5), say=typer.echo)
        return
    numbers = numbers or [0]
    experiment = reproducing.Experiment(
        data, RECIPES[recipe], epochs, width, shard, device, workers, low_precision, out,
        results or ledger.RESULTS,
    )  # fmt: skip
    if not overview:
        reproducing.reproduce(target, experiment, row, numbers, say=typer.echo)
        return
    states = reproducing.overview(target, experiment, row, numbers)
    for name, seed, state, seconds in states:
        estimate = f"about {seconds / 60:.0f} min" if seconds else ""
        typer.echo(f"{name:24} {'' if seed is None else f'seed {seed}':8} {state}  {estimate}")
    if all(seconds is not None for *_, seconds in states):
        typer.echo(f"about {sum(seconds for *_, seconds in states) / 3600:.1f} h remain")
    else:
        typer.echo("no estimate before one row is done on this device")


@app.command()
def transfer(
    train: Annotated[Path, typer.Argument(help="Folder with a folder of pictures for each class.")],
    test: Annotated[
        Path | None,
        typer.Option(help="The same of other pictures. Default: of each class a fifth, rounded up."),
    ] = None,
    weights: Annotated[str, typer.Option(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    layer: Annotated[str, typer.Option(help="`layer n`, or the name of a module.")] = "layer 5",
    head: Annotated[str, typer.Option(help="softmax or svm (§5.3).")] = "softmax",
    out: Annotated[Path | None, typer.Option(help="CSV file for the test pictures' predictions.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Learn classes of your own on the features of a network, and say how well (§5.2).

    Example: `zfcore transfer pictures/train --test pictures/test --layer "layer 5" --head svm`
    """
    import torch

    from zfcore.data import to_input
    from zfcore.model import load, write_atomically
    from zfcore.protocols import per_class_accuracy
    from zfcore.transfer import extract_features, fit_softmax, fit_svm

    heads = {"softmax": fit_softmax, "svm": fit_svm}
    if head not in heads:
        raise typer.BadParameter(f"unknown head {head!r}; known: {', '.join(heads)}")
    network, card = load(weights)
    network.to(device)
    parts = [_pictures_by_class(folder) for folder in (train, test) if folder]
    names = sorted({name for part in parts for _, name in part})
    files = [file for part in parts for file, _ in part]
    labels = torch.tensor([names.index(name) for part in parts for _, name in part])
    if test:
        unknown = sorted({name for _, name in parts[1]} - {name for _, name in parts[0]})
        if unknown:
            raise ValueError(f"{test} has classes that {train} has not: {', '.join(unknown)}")
        rows, tests = torch.arange(len(files)).split([len(part) for part in parts])
    else:
        rows, tests = _held_out(labels, names)
    inputs = (to_input(files[start : start + 64], card) for start in range(0, len(files), 64))
    features = extract_features(network, inputs, layer, progress=True)
    fitted = heads[head](features[rows], labels[rows])
    predicted = fitted.predict(features[tests])
    each = per_class_accuracy(predicted, labels[tests])
    for c, accuracy in zip(labels[tests].unique().tolist(), each.tolist(), strict=True):
        typer.echo(f"{accuracy:6.1f} %  {names[c]}")
    typer.echo(
        f"{each.mean():6.1f} %  mean of the classes; {len(rows)} pictures to learn from, {len(tests)} to test"
    )
    if out:
        lines = [
            (files[i], names[labels[i]], names[p])
            for i, p in zip(tests.tolist(), predicted.tolist(), strict=True)
        ]
        write_atomically(out, _as_csv([("picture", "class", "predicted"), *lines]))


def _held_out(labels: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The pictures to learn from, and of every class a fifth, rounded up, to test with."""
    import torch

    from zfcore.protocols import draw_split

    splits = []
    for c, count in enumerate(labels.bincount().tolist()):
        if count < 2:
            raise ValueError(f"{names[c]} has one picture, and none is left to test; add one, or give --test")
        splits.append(draw_split(labels.masked_fill(labels != c, -1), 0, most=count * 4 // 5, tests=count))
    return torch.cat([split.train for split in splits]), torch.cat([split.test for split in splits])


def _pictures_by_class(folder: Path) -> list[tuple[Path, str]]:
    """Every picture of the folders in ``folder``, with the name of its folder."""
    found = [(file, file.parent.name) for file in sorted(folder.glob("*/*")) if _is_picture(file)]
    if not found:
        raise ValueError(f"{folder} has no folders with pictures; put each class's pictures into one")
    return found


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES


@app.command()
def duplicates(
    a: Annotated[str, typer.Argument(help="A folder, searched with all its folders, or tiny-imagenet, …")],
    b: Annotated[str, typer.Argument(help="The same: caltech101, …")],
    threshold: Annotated[float, typer.Option(help="Least correlation, above 0 and at most 1.")] = 0.95,
    out: Annotated[Path | None, typer.Option(help="CSV file for the pairs.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write them into the ledger `duplicates`.")
    ] = False,
    results: ResultsOption = None,
) -> None:
    """Find the pictures that two sets share, mirrored or slightly cropped perhaps (§5.2).

    Example: `zfcore duplicates tiny-imagenet caltech101 --out pairs.csv`
    """
    import hashlib
    import time

    from zfcore import ledger
    from zfcore.data import thumbnails
    from zfcore.duplicates import matches
    from zfcore.model import write_atomically

    start = time.monotonic()
    (root_a, files_a), (root_b, files_b) = _files_of(a), _files_of(b)
    thumbs = [thumbnails(files, progress=True) for files in (files_a, files_b)]
    pairs = [
        (files_a[i].relative_to(root_a).as_posix(), files_b[j].relative_to(root_b).as_posix(), round(r, 4))
        for i, j, r in matches(*thumbs, threshold)
    ]
    for pair in pairs:
        typer.echo("{2:.4f}  {0}  {1}".format(*pair))
    counts = f"{len(files_a):,} and {len(files_b):,} pictures"
    typer.echo(
        f"{len(pairs)} pairs, {len({second for _, second, _ in pairs})} pictures of {b}, among {counts}"
    )
    if out:
        write_atomically(out, _as_csv(pairs))
    if record:
        digest = hashlib.sha256()
        for part in thumbs:
            digest.update(part.pixels.numpy())
        entry = {
            "row": Path(a).name,
            "seed": None,
            "values": {"pairs": pairs, "pictures": len({second for _, second, _ in pairs})},
            "n": len(files_b),
            "data": Path(b).name,
            "data_sha256": digest.hexdigest(),
            "config": {"threshold": threshold, "pictures": [len(files_a), len(files_b)]},
            "weights_sha256": None,
        }
        entry |= ledger.provenance("cpu", time.monotonic() - start, _command())
        ledger.record("duplicates", entry, results or ledger.RESULTS)


def _files_of(given: str) -> tuple[Path, list[Path]]:
    """The pictures of a folder, or of a data set (for Tiny-ImageNet and ImageNet those to train on)."""
    from zfcore.data import data_root
    from zfcore.fetch import DATASETS

    folder = Path(given)
    if given in DATASETS:
        folder = DATASETS[given].folder(data_root())
        if not folder.exists():
            raise FileNotFoundError(f"{given} is not at {folder}; run `zfcore data get {given}`")
        items, _ = DATASETS[given].layout(folder)
        return folder, [item.path for item in items if item.split in ("train", "trainval", "all")]
    files = sorted(filter(_is_picture, folder.rglob("*")))
    if not files:
        raise ValueError(f"{given} is neither a data set ({', '.join(DATASETS)}) nor a folder with pictures")
    return folder, files


data_app = typer.Typer(
    no_args_is_help=True,
    help="Data sets: bring them here, look whether they are whole, pack what is too large for memory.\n\n"
    "Example: `zfcore data get tiny-imagenet`, then `zfcore data check tiny-imagenet`",
)
weights_app = typer.Typer(
    no_args_is_help=True,
    help="Public ImageNet weights: list them, bring them here.\n\nExample: `zfcore weights get zfnet`",
)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
DataName = Annotated[
    str,
    typer.Argument(help="tiny-imagenet, caltech101, caltech256, voc2012, voc2007, imagenette or imagenet."),
]


@data_app.command("get")
def data_get(name: DataName) -> None:
    """Download and unpack a data set into `ZFCORE_DATA`; an interrupted download goes on.

    Example: `ZFCORE_DATA=~/data zfcore data get tiny-imagenet`
    """
    from zfcore.fetch import DATASETS, get_data

    typer.echo(f"{get_data(name)}\nTerms: {DATASETS[name].terms}.")


@data_app.command("check")
def data_check(
    name: DataName,
    classes: Annotated[bool, typer.Option("--classes", help="Print the count of every class too.")] = False,
) -> None:
    """Count a data set's pictures and decode each; faults are told by name and end in exit code 1.

    Example: `zfcore data check tiny-imagenet`
    """
    from zfcore.fetch import check

    report = check(name)
    if classes:
        for split, counts in report.counts.items():
            for label, count in sorted(counts.items()):
                typer.echo(f"{split}\t{label}\t{count}")
    typer.echo(report)
    if not report.whole:
        raise typer.Exit(1)


@data_app.command("pack")
def data_pack(
    name: Annotated[
        str, typer.Argument(help="imagenet: any set in the layout train/<class>/, val/<class>/.")
    ],
    source: Annotated[
        Path | None, typer.Option(help="Folder that holds train/ and val/; default: where the set lies.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the shards; default: <name>-256 in `ZFCORE_DATA`.")
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="train or val; default: both.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads; default: one per core.", min=1)] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out pictures that cannot be decoded.")
    ] = False,
) -> None:
    """Write the 256×256 centre squares of a data set into tar shards for training; a killed run goes on.

    Example: `zfcore data pack imagenet --source ~/imagenet --split val`
    """
    from zfcore.data import data_root
    from zfcore.fetch import DATASETS
    from zfcore.pack import PACKABLE, pack

    if name not in PACKABLE:
        raise typer.BadParameter(f"{name!r} is not packed; accepted: {', '.join(PACKABLE)}")
    source = source or DATASETS[name].folder(data_root())
    for part in split or ["train", "val"]:
        packed = pack(
            source, out or data_root() / f"{name}-256", part, workers=workers, skip_corrupt=skip_corrupt
        )
        counts = f"{len(packed):,} pictures of {len(packed.classes)} classes"
        typer.echo(f"{part}: {counts} in {len(packed.shards)} shards")


@weights_app.command("list")
def weights_list() -> None:
    """List the public weights, their published error, and which of them are here.

    Example: `zfcore weights list`
    """
    from zfcore.fetch import public_weights, weights_file

    for name, known in public_weights().items():
        here = weights_file(name) if weights_file(name).exists() else "not here"
        top1, top5 = known.errors
        typer.echo(f"{name}: {top1:.2f} % top-1, {top5:.2f} % top-5 error; {known.source}; {here}")


@weights_app.command("get")
def weights_get(
    name: Annotated[str, typer.Argument(help="zfnet, zfnetb, vgg16, alexnet, squeezenet or resnet18.")],
) -> None:
    """Download public ImageNet weights and write them as `zfcore.model.load` reads them.

    Example: `zfcore weights get zfnet`
    """
    from zfcore.fetch import get_weights

    typer.echo(get_weights(name))


def main() -> None:
    """Entry point of the ``zfcore`` command: what was given wrongly is told in a line, not a traceback."""
    try:
        app()
    except Exception as error:
        known = isinstance(error, ValueError | OSError) or type(error).__module__.startswith("zfcore.")
        if not known:  # a bug, whose traceback is wanted
            raise
        raise SystemExit(f"zfcore: {error}") from error
