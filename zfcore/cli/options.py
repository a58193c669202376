"""What several commands share: options, and what becomes of what is given to them."""

from __future__ import annotations

import csv
import io
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zfcore.gallery import Album
    from zfcore.view import Viewer


DeviceOption = Annotated[
    str | None,
    typer.Option(help="cuda, cuda:1, cpu. Default: cuda if there is one, else cpu (mps has no float64)."),
]
WeightsOption = Annotated[str, typer.Option(help="Weights that ship, or a .safetensors file.")]
WorkersOption = Annotated[
    int | None, typer.Option(help="Processes that decode packed pictures. Default: a core each.", min=0)
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the ledger. Default: book/results, outside a checkout ./results."),
]
LayerName = Annotated[str, typer.Option(help="`layer 5`, or a module's path, `features.13`.")]
DataOption = Annotated[
    str,
    typer.Option(
        help="tiny-imagenet, imagenet (packed), photographs (crops of those that ship), or a folder, "
        "of pictures or of a pack."
    ),
]
PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def is_picture(file: Path) -> bool:
    """Whether it is a file that is named as pictures are, and not a hidden one."""
    return file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".") and file.is_file()


def within(folder: Path, pattern: str) -> list[Path]:
    """The pictures in a folder that fit a pattern, sorted, but for those in hidden folders."""
    found = (file for file in sorted(folder.glob(pattern)) if is_picture(file))
    return [file for file in found if not any(p.startswith(".") for p in file.relative_to(folder).parts)]


def insist_on_folder_of(file: Path | None) -> None:
    """Refuse a file whose folder cannot be one, before the work and not after it."""
    there = next((above for above in file.absolute().parents if above.exists()), None) if file else None
    if there and not there.is_dir():
        raise typer.BadParameter(f"{file} cannot be written: {there} is no folder")


def pictures_in(folder: Path) -> list[Path]:
    """The picture files that lie in a folder."""
    if found := sorted(filter(is_picture, folder.iterdir())):
        return found
    raise ValueError(f"{folder} has no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")


def as_typed() -> str:
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


def device_or_best(given: str | None) -> str:
    """The device that was asked for, or the fastest that is here."""
    import torch

    from zfcore.data import devices_here

    if given is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(given)
    except RuntimeError as error:
        raise typer.BadParameter(f"{given!r} is no device; known: cuda, cuda:1, cpu, …") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter(f"there is no {given}: this machine has no GPU that PyTorch can use")
    try:
        devices_here(given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return given


def workers_or_all(given: int | None) -> int:
    """So many processes as were asked for, or this process's share of the cores."""
    from zfcore.data import cores

    return cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if given is None else given


def as_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as the content of a CSV file; a field that holds a comma is quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def viewer_of(weights: str, device: str | None, layer: str | None = None) -> tuple[Viewer, str | None]:
    """A network to look at and the reader's name of ``layer``, which need not be one that it offers."""
    from zfcore.model import load
    from zfcore.trace import trace
    from zfcore.view import Viewer

    network, card = load(weights)
    try:
        viewer = Viewer(network.to(device_or_best(device)), card)
    except ValueError:  # a network without ReLUs offers no layer; but one may be named
        if layer is None or layer not in trace(network).layers:
            raise
        return Viewer(network, card, [layer]), layer
    if layer is None:
        return viewer, None
    for name, path in viewer.layers.items():
        if layer in (name, path):
            return viewer, name
    if layer not in viewer.net.layers:
        offered = ", ".join(f"{name} ({path})" for name, path in viewer.layers.items())
        raise ValueError(f"no layer {layer!r}; {offered}, or one of {', '.join(viewer.net.layers)}")
    return Viewer(viewer.model, card, [layer]), layer


def album_of(data: str, split: str) -> Album:
    """What ``--data`` names: a folder of pictures, crops of the photographs that ship, or a data set."""
    from zfcore.data import DATA_SETS, data_set, photographs
    from zfcore.gallery import Album, Crops

    if data == "photographs":
        return Crops(photographs())
    if not (data in DATA_SETS or Path(data).exists()):
        raise ValueError(
            f"{data!r} is neither a folder of pictures, nor photographs, nor one of {', '.join(DATA_SETS)}"
        )
    if data in DATA_SETS or not Path(data).is_dir() or (Path(data) / f"{split}.npz").exists():
        return Album(data_set(data, split))
    return Album({file.name: file for file in pictures_in(Path(data))})
