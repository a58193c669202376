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
    from zfcore.train import RECIPES
    from zfcore.train import train as run_training

    pictures, validation = datasets.tiny_imagenet("train"), datasets.tiny_imagenet("val")
    network = models.build(architecture, num_classes=len(pictures.classes), width=width)
    size, chosen = network.architecture.input_size, RECIPES[recipe]
    options = {"input_size": size, "epochs": epochs, "seed": seed, "device": device, "folder": out}
    run = run_training(network, pictures, validation, chosen, **options)
    last = run.history[-1]
    card = {
        "architecture": architecture,
        "width": width,
        "num_classes": len(pictures.classes),
        "input_size": size,
        "resize": pictures.pixels.shape[-1],
        "scale": chosen.scale,
        "classes": pictures.classes,
        "labels": pictures.names,
        "error": {"one crop": {"top1": last["top1"], "top5": last["top5"]}},
        "data": data,
        "recipe": recipe,
        "seed": seed,
        "epochs": last["epoch"],
        "command": " ".join(["zfcore", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
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


def main() -> None:
    """Entry point of the ``zfcore`` command."""
    app()
