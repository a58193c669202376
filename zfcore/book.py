"""What every chapter opens with: the style, the seed, and the network and pictures of its scale.

A chapter says on its face what made its pictures, and takes every number in its prose from a cell;
nothing is replaced by something smaller: what is missing is an error that says how to get it.

Example, the first two cells of a chapter::

    scale, device, seed, out = "embedded", "cpu", 0, None      # tagged `parameters`

    from zfcore.book import open_book
    book = open_book(scale=scale, device=device, seed=seed, out=out)
    book.face()
"""

from __future__ import annotations

import io
import json
import platform
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from torch import nn

import zfcore
from zfcore.comparison import as_in_print
from zfcore.data import LabelledPictures, Photograph, decode, devices_here, photographs, tiny_imagenet
from zfcore.gallery import GALLERIES, Crops, Gallery, pass_file
from zfcore.ledger import find
from zfcore.model import load, write_atomically
from zfcore.public import public
from zfcore.trace import trace
from zfcore.view import Viewer


@dataclass(frozen=True)
class Scale:
    """One size of evidence: the weights a chapter uses, and the pictures, in words."""

    weights: str
    pictures: str


#: The sizes of evidence by name.
SCALES = {
    "embedded": Scale("zfnet-64", "photographs that ship with the packages"),
    "tiny": Scale("zfnet-64", "the photographs and Tiny-ImageNet's 10,000 validation pictures"),
    "imagenet": Scale("zfnet", "photographs that ship with the packages"),
}

STYLE = {
    "figure.figsize": (7.2, 3.0),
    "figure.dpi": 144,
    "savefig.dpi": 144,
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "image.interpolation": "none",
    # Okabe & Ito's colours, told apart by colour-blind readers; no yellow, which white swallows.
    "axes.prop_cycle": mpl.cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]),
    # The same drawing shall give the same file: no random ids, no date (see below).
    "svg.hashsalt": "zfcore",
}
NO_DATE = {"Date": None}


@dataclass(frozen=True)
class Book:
    """What a chapter works with; made by :func:`open_book`.

    ``model`` is in eval mode on ``device``, ``card`` describes it (see :func:`zfcore.model.load`);
    ``pictures`` is the labelled data set of the scale, ``None`` where the photographs are all there
    is; ``layers`` maps "layer 1" … "layer 5" to the ReLU after that convolution, as the book's
    pictures mean it.
    """

    scale: str
    device: torch.device
    seed: int
    out: Path | None
    model: nn.Module
    card: dict[str, Any]
    photographs: dict[str, Photograph]
    pictures: LabelledPictures | None
    layers: dict[str, str]

    def label(self, index: int) -> str:
        """The words of class ``index`` (a position among the network's outputs)."""
        return self.card["labels"][index]

    def face(self, networks: str | None = None) -> Markdown:
        """Which scale, network, error, data, weights, device and versions made this page.

        ``networks`` says what a chapter shows that has others than the book's own.
        """
        on_gpu = self.device.type == "cuda"
        machine = torch.cuda.get_device_name(self.device) if on_gpu else platform.machine()
        ran = (
            f"**Ran on** {self.device.type} ({machine}), seed {self.seed}; zfcore {zfcore.__version__}, "
            f"torch {torch.__version__}, Python {platform.python_version()}"
        )
        if networks is None:
            lines = [
                f"**Made at scale** `{self.scale}` with {SCALES[self.scale].pictures}",
                f"**Network** {self._own_network()}",
                ran,
            ]
            if "note" in self.card:
                lines.append(f"**Note** {self.card['note']}")
        else:
            lines = [f"**Networks** {networks}", ran]
        return Markdown("\n".join(f"> {line}  " for line in lines))

    def _own_network(self) -> str:
        one_crop = self.card.get("error", {}).get("one crop", {})
        error = (
            f"validation error with one crop {one_crop['top1']:.1f} % top-1, {one_crop['top5']:.1f} % top-5"
            if one_crop
            else "its error was not measured"
        )
        return (
            f"`{self.card['architecture']}`, trained on {self.card.get('data', 'unnamed data')}, "
            f"{self.card.get('epochs', '?')} epochs; {error}; weights `{self.card['sha256'][:12]}`"
        )

    def say(self, text: str, **values: Any) -> Markdown:
        """Prose with computed numbers: ``book.say("The error is **{error:.1f} %**.", error=error)``.

        ``text`` is Markdown in which ``{name:format}`` stands for a value; a brace of LaTeX is doubled.
        Numbers are set as in print, "−3" and "5 %", outside of code and formulas.

        Raises
        ------
        ValueError
            The text names a value that was not given, or a value is not used in it.
        """
        used = {re.split(r"[.\[]", field)[0] for _, field, _, _ in string.Formatter().parse(text) if field}
        if used != set(values):
            raise ValueError(f"the text uses {_listed(used)}, given are {_listed(values)}")
        return Markdown(as_in_print(text.format(**values)))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markdown:
        """A Markdown table; cells are text or anything that prints well.

        Raises
        ------
        ValueError
            A row has more or fewer cells than the head.
        """
        lines = [list(head), ["---"] * len(head), *map(list, rows)]
        for line in lines:
            if len(line) != len(head):
                raise ValueError(f"the head has {len(head)} cells, and a row has {len(line)}: {line}")
        return Markdown(as_in_print("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)))

    def ledger(self, name: str, **sought: Any) -> list[dict[str, Any]]:
        """The entries of a results ledger with that ``row``, ``seed`` and config; see :mod:`zfcore.ledger`.

        Raises
        ------
        ValueError
            There are none; the message lists the rows there are.
        """
        entries = find(name, **sought)
        if not entries:
            wanted = ", ".join(f"{key}={value!r}" for key, value in sought.items()) or "any row"
            rows = _listed({entry["row"] for entry in find(name)}) or "no rows"
            raise ValueError(f"the ledger {name!r} has no entry with {wanted}; it has: {rows}")
        return entries

    def gallery(self) -> Gallery:
        """Fig. 2 of this network: the stored projections of its nine strongest pictures, for every feature.

        At a scale that has their data set the patches of the pictures stand beside them. Public weights
        come without a gallery: theirs is that of the photographs, :meth:`crops`.

        Raises
        ------
        FileNotFoundError, zfcore.gallery.GalleryError
            None is stored for these weights; the message says how to make it.
        """
        if self.scale == "imagenet":
            return self.crops()
        gallery = Gallery.load(GALLERIES, SCALES[self.scale].weights, self.card["sha256"])
        return gallery if self.pictures is None else gallery.beside(self.viewer(), self.pictures)

    def crops(self) -> Gallery:
        """The nine strongest crops of the photographs for every feature, no two of them overlapping."""
        viewer, crops = self.viewer(), Crops(self.photographs)
        return Gallery.of(viewer, crops, file=pass_file(viewer, crops, 9))

    def photograph(self, name: str) -> Photograph | np.ndarray:
        """The photograph of that name, or the reader's own by its file: then (H, W, 3) uint8.

        Raises
        ------
        FileNotFoundError
            It is neither the name of a photograph (the message lists them) nor a file.
        ValueError
            The file is no picture, or is truncated.
        """
        if name in self.photographs:
            return self.photographs[name]
        if not Path(name).expanduser().is_file():
            there = _listed(self.photographs)
            raise FileNotFoundError(f"no photograph {name!r}: give a picture file, or one of {there}")
        return decode(Path(name).expanduser())

    def layer(self, given: str, feature: int | None = None) -> tuple[str, str]:
        """Name and module's path of a layer given by either, ``("layer 5", "features.13")``.

        A layer that the book has no name for goes by its path. ``ValueError`` where there is no such layer,
        or it has no feature map of that number.
        """
        net, path = trace(self.model), self.layers.get(given, given)
        if path not in net.layers:
            raise ValueError(f"no layer {given!r}; there are {_listed(self.layers)}, or a module's path")
        if feature is not None:
            blank = torch.zeros(1, 3, *2 * [self.card["input_size"]], device=self.device)
            maps = net.activations(blank, [path])[path].shape[1]
            if feature not in range(maps):
                raise ValueError(f"{given} has the feature maps 0 to {maps - 1}; got {feature!r}")
        return next((name for name, known in self.layers.items() if known == path), path), path

    def class_of(self, name: str) -> int:
        """The index of a photograph's class, or the network's first guess where it knows no such class."""
        viewer = self.viewer()
        seen = viewer.look(name, self.photograph(name))
        return viewer.target(seen, self.model(seen.input).softmax(1)[0].cpu().numpy())

    def beginning_with(self, photograph: str) -> dict[str, Photograph | np.ndarray]:
        """The photographs by name, the chosen one first; it and the errors are :meth:`photograph`'s."""
        first = {Path(photograph).name: self.photograph(photograph)}
        return first | {name: picture for name, picture in self.photographs.items() if name not in first}

    def viewer(self) -> Viewer:
        """The network with its card and this book's layers."""
        return Viewer(self.model, self.card, self.layers)

    def keep(self, name: str, figure: Figure | None = None, /, **numbers: Any) -> Figure | None:
        """Write a figure and its numbers into ``out``: ``name.svg``, ``name.png``, ``name.json``.

        Without ``out`` nothing is written. Numbers may be Python's, arrays or tensors of any shape.
        The figure comes back, so that the call can end the cell that shows it.

        Raises
        ------
        ValueError
            ``name`` has characters other than letters, digits, ``-`` and ``_``.
        """
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"{name!r} cannot name a file here; use letters, digits, - and _")
        if self.out is None:
            return figure
        self.out.mkdir(parents=True, exist_ok=True)
        if figure is not None:
            for suffix, metadata in (("svg", NO_DATE), ("png", None)):
                figure.savefig(drawn := io.BytesIO(), format=suffix, metadata=metadata)
                write_atomically(self.out / f"{name}.{suffix}", drawn.getvalue())
        if numbers:
            # What is not finite becomes null: JSON has no word for it, and a browser reads no other.
            plain = json.loads(
                json.dumps(numbers, default=lambda array: array.tolist()), parse_constant=lambda _: None
            )
            text = json.dumps(plain, indent=1, ensure_ascii=False)
            write_atomically(self.out / f"{name}.json", (text + "\n").encode())
        return figure


def open_book(
    scale: str = "embedded",
    device: str | torch.device = "cpu",
    seed: int = 0,
    out: str | Path | None = None,
) -> Book:
    """Open the book at a scale: set the style and the seed, load the network and the pictures.

    Parameters
    ----------
    scale
        A key of :data:`SCALES`: ``"embedded"``, ``"tiny"`` or ``"imagenet"``.
    device
        Where the network runs: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    seed
        For torch's global generator.
    out
        Folder that collects figures and numbers (:meth:`Book.keep`); relative to the working directory.

    Raises
    ------
    ValueError
        Unknown scale or device (the message lists what there is), a seed that is no whole number from 0, or a
        file in place of the folder ``out``.
    FileNotFoundError
        The weights or the data of the scale are not on this machine; the message says how to get them.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; known: {', '.join(SCALES)}")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"a seed is a whole number from 0 to 2³² − 1; got {seed!r}")
    if out is not None and Path(out).expanduser().is_file():
        raise ValueError(f"out is a folder; {str(out)!r} is a file")
    device = devices_here(device)
    model, card = (public if scale == "imagenet" else load)(SCALES[scale].weights)
    pictures = tiny_imagenet("val") if scale == "tiny" else None
    torch.manual_seed(seed)
    mpl.rcParams.update(STYLE)
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata=NO_DATE)
    layers = {
        f"layer {name.removeprefix('relu')}": path
        for name, path in model.architecture.named_layers().items()
        if name.startswith("relu") and path.startswith("features.")
    }
    folder = None if out is None else Path(out).expanduser().resolve()
    model = model.to(device).requires_grad_(False)  # chapters look at a network; none trains this one
    return Book(scale, device, seed, folder, model, card, photographs(), pictures, layers)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "no values"
