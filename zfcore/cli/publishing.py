"""The commands that write pages: the book, and one of a reader's own network."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zfcore.cli.options import pictures_in

if TYPE_CHECKING:
    from torch import nn


def book(
    scale: Annotated[str, typer.Option(help="Size of the evidence: embedded, tiny, imagenet.")] = "embedded",
    device: Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Whatever the chapters draw at random follows from it.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the chapters' figures and numbers.", file_okay=False, writable=True),
    ] = None,
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
    try:
        import yaml

        from zfcore.publish import BookError, publish
    except ModuleNotFoundError as error:
        raise SystemExit(f"zfcore: {error.name} is not installed; pip install 'zfcore[book]'") from error

    parameters = {"scale": scale, "device": device, "seed": seed}
    for item in parameter or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise typer.BadParameter(f"{item!r} is not name=value", param_hint="--parameter")
        try:
            parameters[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{item!r} is no YAML: {error}", param_hint="--parameter") from None
    try:
        index = publish(".", parameters, out=out, jobs=jobs)
    except BookError as error:
        typer.echo(f"\n{error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"open {index}")


def page(
    network: Annotated[
        str,
        typer.Argument(help="`MODEL.py:factory`, a function that gives it, or the name of shipped weights."),
    ],
    pictures: Annotated[Path, typer.Option(help="Folder with the pictures to begin with.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.", dir_okay=False, writable=True)],
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

    found = pictures_in(pictures)
    model, described = _network(network, weights)
    described = _card(card) if card else described
    typer.echo(save_page(model, found, out, layer, described, features_only=features_only))


def _card(path: Path) -> dict:
    try:
        card = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(card, dict):
        raise ValueError(
            f'{path} holds no card; give {{"input_size": 224, "resize": 256, "mean": …, "scale": …}}'
        )
    return card


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
    if not hasattr(model, "load_state_dict"):
        raise ValueError(f"{spec} gives {type(model).__name__}, and no network; return an nn.Module")
    if weights:
        try:
            model.load_state_dict(_state(weights))
        except RuntimeError as error:
            raise ValueError(f"{weights} does not fit {spec}: {error}") from error
    return model.eval(), None


def _state(weights: Path) -> dict:
    """A network's tensors by name, read without running what a pickle would."""
    import torch
    from safetensors.torch import load_file

    try:
        if weights.suffix == ".safetensors":
            return load_file(weights)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file of another kind breaks the reader wherever it happens to
        state = error
    if not isinstance(state, dict):
        raise ValueError(
            f"{weights} holds no state_dict ({type(state).__name__}); write one with "
            "torch.save(network.state_dict(), FILE) or safetensors.torch.save_file"
        )
    return state
