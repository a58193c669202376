"""The shell: ``zfcore train``, ``zfcore book`` and the rest, each with ``--help`` and an example."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.callback()
def zfcore() -> None:
    """Visualizing and Understanding Convolutional Networks (Zeiler & Fergus 2013), executable."""


@app.command()
def train(
    architecture: Annotated[str, typer.Argument(help="A name of `zfcore.model.ARCHITECTURES`.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, history, weights; a run goes on there.")],
    data: Annotated[str, typer.Option(help="Data set: tiny-imagenet.")] = "tiny-imagenet",
    recipe: Annotated[str, typer.Option(help="`small` (unit inputs, He, cosine) or `paper` (§3).")] = "small",
    epochs: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    seed: int = 0,
    device: str = "cpu",
    width: Annotated[float, typer.Option(help="Multiplies maps and hidden units.")] = 1.0,
) -> None:
    """Train a network and write its weights with their card.

    Example: `zfcore train zfnet-64 --out runs/zfnet-64 --epochs 20`
    """
    from zfcore import data as datasets
    from zfcore import model as models
    from zfcore.evaluate import errors
    from zfcore.train import RECIPES
    from zfcore.train import train as run_training

    if recipe not in RECIPES:
        raise typer.BadParameter(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    if data != "tiny-imagenet":
        raise typer.BadParameter(f"unknown data set {data!r}; known: tiny-imagenet")
    pictures, validation = datasets.tiny_imagenet("train"), datasets.tiny_imagenet("val")
    network = models.build(architecture, num_classes=len(pictures.classes), width=width)
    size, chosen = network.architecture.input_size, RECIPES[recipe]
    options = {"input_size": size, "epochs": epochs, "seed": seed, "device": device, "folder": out}
    run = run_training(network, pictures, validation, chosen, **options)
    network.half().float()  # the weights are stored in half precision, so it is these that are judged
    card = {
        "architecture": architecture,
        "width": width,
        "num_classes": len(pictures.classes),
        "input_size": size,
        "resize": pictures.pixels.shape[-1],
        "scale": chosen.scale,
        "classes": pictures.classes,
        "labels": pictures.names,
        "data": data,
        "recipe": recipe,
        "seed": seed,
        "epochs": len(run.history),
        "command": " ".join(["zfcore", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
    }
    judged = (network, validation, card | {"mean": run.mean})
    card["error"] = {
        words: errors(*judged, crops=crops, device=device, progress=True)
        for words, crops in (("one crop", 1), ("ten crops", 10))
    }
    models.save(out / f"{architecture}.safetensors", network, run.mean, card)


@app.command()
def book(
    scale: Annotated[str, typer.Option(help="Size of the evidence: embedded, tiny, imagenet.")] = "embedded",
    device: Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: int = 0,
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


data_app = typer.Typer(no_args_is_help=True, help="Data sets: bring them here, look whether they are whole.")
weights_app = typer.Typer(no_args_is_help=True, help="Public ImageNet weights: list them, bring them here.")
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
    name: Annotated[str, typer.Argument(help="zfnet, zfnetb, vgg16, alexnet or squeezenet.")],
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
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"zfcore: {error}") from error
