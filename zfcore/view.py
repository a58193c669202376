r"""What one unit of a network looks like on one picture: arrays → pixels.

A :class:`Viewer` holds a network and how it wants its pictures. It looks at a picture once (:class:`Seen`),
and shows any unit of any layer as a :class:`Frame`: the photograph with the unit's receptive field framed,
the feature's map, and inside the frame what the network sees there and the unit's projections by the three
rules (§2.1 and Fig. 2 of the paper). Projections are signed, so each is shown as the paper's are: around
mid-grey, stretched by a percentile of its own absolute values.

Source: Zeiler & Fergus, §2.1 and Fig. 2, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import photographs
    from zfcore.model import load
    from zfcore.view import Viewer, as_png, contact_sheet
    viewer = Viewer(*load("zfnet-64"))
    frame = viewer.first(viewer.look("chelsea", photographs()["chelsea"]))
    open(frame.file_name(), "wb").write(as_png(contact_sheet(frame)))
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from zfcore.data import Picture, decode, squares, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.figures import FRAME, MAPS, stretch
from zfcore.trace import Geometry

MID_GREY = 128  # what a projected zero looks like, and what lies behind every feature picture
CRISP_BELOW = 24  # pictures with fewer pixels a side are enlarged as squares: blurred, they lose their cells
SIDE = 384  # pixels a side of a photograph as it is shown
MOST_LAYERS = 6
RULES = {"deconvnet": "deconvnet", "gradient": "gradient", "guided": "guided backpropagation"}

WORDS = {
    "map": "{layer}, feature {feature}",
    "patch": "what the network sees inside the frame",
    "projection": "by {rule}",
    "says": "{title}, {layer}, feature {feature}: the unit at row {row}, column {column} of the "
    "{rows}×{columns} map answers {value}. The frame is its receptive field, {height}×{width} of the "
    "{side}×{side} pixels that the network sees; the projections show what inside the frame made it answer.",
    "silent": "{title}, {layer}, feature {feature}: the unit at row {row}, column {column} of the "
    "{rows}×{columns} map is silent on this picture, so there is nothing to project.",
}


# ------------------------------------------------------------------------------ arrays to pixels
def colour_map(activation) -> np.ndarray:
    """Colour one feature map, (H, W) and not negative, as (H, W, 3) uint8: dark is 0, yellow its maximum.

    The book's colours for maps: even steps in lightness, readable by colour-blind eyes and in grey.
    """
    values = _array(activation).astype(np.float64)
    peak = values.max(initial=0.0)
    shares = np.clip(values / peak, 0, 1) if peak > 0 else np.zeros_like(values)
    return map_colours()[np.rint(shares * 255).astype(np.intp)]


@cache
def map_colours() -> np.ndarray:
    """The colours of maps from 0 to the maximum, (256, 3) uint8."""
    return np.rint(matplotlib.colormaps[MAPS](np.arange(256))[:, :3] * 255).astype(np.uint8)


def _array(values) -> np.ndarray:
    """A tensor of any device and dtype, or an array, as an array."""
    return values.detach().cpu().float().numpy() if hasattr(values, "detach") else np.asarray(values)


def as_webp(pixels: np.ndarray, quality: int | None = None) -> bytes:
    """Encode (H, W, 3) uint8 as WebP, lossless (every pixel comes back as it was) unless given a quality."""
    if quality is not None:
        return _encode(pixels, "WEBP", quality=quality, method=4)
    # Lossless, quality is effort: 100 takes a thousand times as long for 2 % fewer bytes.
    return _encode(pixels, "WEBP", lossless=True, quality=50, method=4)


def as_png(pixels: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 as PNG, the form a reader saves."""
    return _encode(pixels, "PNG")


def _encode(pixels: np.ndarray, form: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, form, **options)
    return stream.getvalue()


def data_url(blob: bytes, kind: str = "image/webp") -> str:
    """Write bytes as a ``data:`` address, so that a page can show them without asking for a file."""
    return f"data:{kind};base64,{base64.b64encode(blob).decode('ascii')}"


# ------------------------------------------------------------------------------ what a network sees
@dataclass(frozen=True)
class Subject:
    """A photograph as a page tells of it: its names, its text alternative, its source, its true class.

    ``python`` is the expression that gives its pixels; ``wnid`` its class among the card's, if it has one.
    """

    name: str
    title: str
    alt: str
    credit: str
    python: str
    wnid: str | None = None

    @classmethod
    def of(cls, name: str, picture: Picture) -> Subject:
        """What is known of a picture: a :class:`zfcore.data.Photograph` brings its words along."""
        title = getattr(picture, "title", name)
        if hasattr(picture, "credit"):
            credit = f"{title}: {picture.credit}, {picture.licence}."
            return cls(name, title, picture.alt, credit, f'photographs()["{name}"]', picture.wnid)
        return cls(name, title, f"the picture {title}", "", repr(name))


@dataclass(frozen=True)
class Field:
    """A receptive field inside its picture, in pixels; ``bottom`` and ``right`` are the first beyond it."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, geometry: Geometry, unit: tuple[int, int], side: int) -> Field:
        """The field of ``unit`` = (y, x), clipped to a square picture of ``side`` pixels."""
        return cls(*(min(max(edge, 0), side) for edge in geometry.box(*unit)))

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """This part of (H, W, 3)."""
        return picture[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Seen:
    """A photograph after its forward pass.

    ``view`` is the photograph for the reader's eyes, (V, V, 3) uint8; ``square`` the same part of it as the
    network sees it, (S, S, 3) uint8; ``input`` the network's (1, 3, S, S); ``maps`` by module path (C, h, w);
    ``guesses`` the five best labels as (words, probability, is it the photograph's own).
    """

    subject: Subject
    view: np.ndarray
    square: np.ndarray
    input: Tensor
    maps: dict[str, np.ndarray]
    guesses: tuple[tuple[str, float, bool], ...]

    def strongest(self, path: str, k: int) -> list[int]:
        """The ``k`` features of a layer with the strongest units; the lower number first among equals."""
        return np.argsort(-self.maps[path].max((1, 2)), kind="stable")[:k].tolist()

    def strongest_unit(self, path: str, feature: int) -> tuple[int, int]:
        """(y, x) of a map's maximum: of equals the first in row-major order, as everywhere here."""
        activation = self.maps[path][feature]
        y, x = np.unravel_index(activation.argmax(), activation.shape)
        return int(y), int(x)


@dataclass(frozen=True)
class Frame:
    """One choice of photograph, layer, feature and unit, as pixels ready to show.

    ``layer`` is the reader's name, ``path`` the module's, ``unit`` (y, x) in the map; ``projections`` by
    rule are (S, S, 3) uint8.
    """

    seen: Seen
    layer: str
    path: str
    feature: int
    unit: tuple[int, int]
    field: Field
    projections: dict[str, np.ndarray]

    @property
    def value(self) -> float:
        """What the unit answers."""
        return float(self.seen.maps[self.path][self.feature][self.unit])

    def panels(self) -> dict[str, np.ndarray]:
        """The pictures of this frame in reading order, each (h, w, 3) uint8."""
        return {
            "photograph": self.seen.view,
            "map": colour_map(self.seen.maps[self.path][self.feature]),
            "patch": self.field.cut(self.seen.square),
            **{rule: self.field.cut(projection) for rule, projection in self.projections.items()},
        }

    def captions(self) -> dict[str, str]:
        """What each panel is called."""
        return {
            "photograph": self.seen.subject.title,
            "map": WORDS["map"].format(layer=self.layer, feature=self.feature),
            "patch": WORDS["patch"],
            **{rule: WORDS["projection"].format(rule=RULES[rule]) for rule in self.projections},
        }

    def says(self) -> str:
        """What the frame shows, in words: the line under the pictures."""
        rows, columns = self.seen.maps[self.path].shape[1:]
        return WORDS["says" if self.value > 0 else "silent"].format(
            title=self.seen.subject.title,
            layer=self.layer,
            feature=self.feature,
            value=f"{self.value:.3g}",
            row=self.unit[0],
            column=self.unit[1],
            rows=rows,
            columns=columns,
            height=self.field.bottom - self.field.top,
            width=self.field.right - self.field.left,
            side=self.seen.square.shape[0],
        )

    def file_name(self) -> str:
        """A name for this frame saved as a picture."""
        y, x = self.unit
        words = f"{self.seen.subject.name} {self.layer} feature {self.feature} unit {y} {x}"
        return "".join(c if c.isalnum() or c in ".-" else "-" for c in words) + ".png"


class Viewer:
    """A network with its card: what it sees of pictures, and any unit of it as a :class:`Frame`.

    Parameters
    ----------
    model
        Any network in eval mode that :class:`zfcore.deconvnet.Deconvnet` can undo, (N, 3, S, S) → logits.
    card
        How it wants its pictures: ``input_size`` S, ``resize``, ``mean`` (a tensor (3, resize, resize) or
        three numbers), ``scale`` (one number or three), pixels in [0, 255]; see
        :func:`zfcore.data.to_input`. ``labels`` and ``classes``, where it has them, name its logits.
    layers
        Module paths to choose from, or reader's name → path. Default: outputs of ReLUs that have feature
        maps, at most six, evenly spread; ``layer 1`` … for the networks of :mod:`zfcore.model`.
    classifier
        False leaves out what follows the layers; a network whose result is not (N, classes) has none anyway.

    Raises
    ------
    ValueError
        The model is in training mode, cannot be followed, or has no such layer; the card lacks an entry.
    """

    def __init__(
        self,
        model: nn.Module,
        card: Mapping,
        layers: Mapping[str, str] | Iterable[str] | None = None,
        classifier: bool = True,
    ):
        if model.training:
            raise ValueError(
                "the model is in training mode, where dropout is random; call model.eval() first"
            )
        self.model, self.card = model, _completed(card)
        self.net = Deconvnet(model)
        blank = next(model.parameters()).new_zeros(1, 3, self.side, self.side)
        with torch.no_grad():
            self.layers = self._named(layers, blank)
            self.classifier = classifier and getattr(model(blank), "ndim", 0) == 2

    @property
    def side(self) -> int:
        """S, the side of the network's pictures in pixels."""
        return self.card["input_size"]

    def look(self, name: str, picture: Picture) -> Seen:
        """One forward pass over a picture; its maps serve every choice of layer, feature and unit."""
        pixels = decode(picture)
        weight = next(self.model.parameters())
        x = to_input([pixels], self.card).to(weight.device, weight.dtype)
        with torch.no_grad():
            answers = self.net.activations(x, list(self.layers.values()))
        subject = Subject.of(name, picture)
        return Seen(
            subject,
            close_view(pixels, self.card),
            squares([pixels], self.card)[0],
            x,
            {path: _array(a[0]) for path, a in answers.items()},
            self._guesses(x, subject.wnid) if self.classifier else (),
        )

    def frame(self, seen: Seen, layer: str, feature: int, unit: tuple[int, int] | None = None) -> Frame:
        """The pictures of one choice: ``layer`` by either name, ``unit`` (y, x), None for the strongest."""
        names = {path: name for name, path in self.layers.items()}
        path = self.layers.get(layer, layer)
        if path not in names:
            raise ValueError(f"no layer {layer!r} here; there are: {', '.join(self.layers)}")
        features, rows, columns = seen.maps[path].shape
        if not 0 <= feature < features:
            raise ValueError(f"{layer} has the features 0 to {features - 1}, but {feature} was asked for")
        y, x = unit = seen.strongest_unit(path, feature) if unit is None else unit
        if not (0 <= y < rows and 0 <= x < columns):
            raise ValueError(f"the map has {rows}×{columns} units, but ({y}, {x}) was asked for")
        projections = {
            rule: stretch(self.net.project(seen.input, path, feature, position=unit, rule=rule)[0])
            for rule in RULES
        }
        field = Field.of(self.net.geometry[path], unit, self.side)
        return Frame(seen, names[path], path, feature, (y, x), field, projections)

    def first(self, seen: Seen) -> Frame:
        """What to open with: the strongest unit of the middle layer, more than edges and still local."""
        path = list(self.layers.values())[len(self.layers) // 2]
        return self.frame(seen, path, seen.strongest(path, 1)[0])

    def _named(self, layers: Mapping[str, str] | Iterable[str] | None, blank: Tensor) -> dict[str, str]:
        """Reader's name → module path of the layers to choose from, all of which have feature maps."""
        named = self._relus() if layers is None else layers
        named = dict(named) if isinstance(named, Mapping) else {path: path for path in named}
        answers = self.net.activations(blank, list(named.values()))
        flat = [path for path in named.values() if answers[path].ndim != 4]
        if flat and layers is not None:
            raise ValueError(f"these layers have no feature maps (N, C, H, W) to look at: {', '.join(flat)}")
        named = {name: path for name, path in named.items() if path not in flat}
        if not named:
            raise ValueError(f"no ReLU here has feature maps; give layers, of {', '.join(self.net.layers)}")
        if layers is None and len(named) > MOST_LAYERS:
            evenly = np.linspace(0, len(named) - 1, MOST_LAYERS).round().astype(int)
            named = dict(list(named.items())[n] for n in evenly)
        return named

    def _relus(self) -> dict[str, str]:
        """The output of every ReLU, by the paper's number where the model knows it, else its trace name."""
        if hasattr(self.model, "architecture"):
            paths = self.model.architecture.named_layers().items()
            return {f"layer {n[len('relu') :]}": path for n, path in paths if n.startswith("relu")}
        modules = dict(self.model.named_modules())
        return {n: n for n in self.net.layers if isinstance(modules.get(n), nn.ReLU) or n.startswith("relu")}

    def _guesses(self, x: Tensor, wnid: str | None) -> tuple[tuple[str, float, bool], ...]:
        with torch.no_grad():
            logits = self.model(x)
        words, classes = self.card.get("labels"), self.card.get("classes")
        if words and len(words) != logits.shape[1]:
            raise ValueError(f"the network has {logits.shape[1]} classes, but {len(words)} labels were given")
        best = logits[0].float().softmax(0).topk(min(5, logits.shape[1]))
        return tuple(
            (words[i] if words else f"class {i}", p, bool(wnid and classes and classes[i] == wnid))
            for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )


def _completed(card: Mapping) -> dict:
    """A card whose mean and scale may be three numbers as :func:`zfcore.data.to_input` takes it."""
    card = dict(card)
    if isinstance(card.get("mean"), Sequence):
        side = card["resize"]
        card["mean"] = torch.tensor(card["mean"], dtype=torch.float32)[:, None, None].expand(3, side, side)
    if isinstance(card.get("scale"), Sequence):
        card["scale"] = torch.tensor(card["scale"], dtype=torch.float32)[:, None, None]
    return card


def close_view(pixels: np.ndarray, card: Mapping) -> np.ndarray:
    """The part of a picture that the network sees, (SIDE, SIDE, 3) uint8, from its own pixels."""
    size, side = card["input_size"], card["resize"]
    short = min(pixels.shape[:2])
    corner = [
        ((2 * length * side + short) // (2 * short) - side) // 2 + (side - size) // 2
        for length in pixels.shape[:2]
    ]
    top, left = (edge * short / side for edge in corner)
    extent = size * short / side
    box = (left, top, min(left + extent, pixels.shape[1]), min(top + extent, pixels.shape[0]))
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))


# ------------------------------------------------------------------------------ a frame as one picture
def contact_sheet(frame: Frame, side: int = 448, gap: int = 16) -> np.ndarray:
    """The pictures of a frame beside one another, each ``side`` pixels, for saving.

    Small pictures keep their cells; the receptive field is framed. (side, …, 3) uint8 on white.
    """
    panels = frame.panels()
    sheet = Image.new("RGB", (len(panels) * (side + gap) - gap, side), "white")
    for n, (name, pixels) in enumerate(panels.items()):
        h, w = pixels.shape[:2]
        scale = side / max(h, w)
        size = (max(1, round(w * scale)), max(1, round(h * scale)))
        enlarged = Image.fromarray(np.ascontiguousarray(pixels)).resize(
            size, Image.Resampling.NEAREST if max(h, w) < CRISP_BELOW else Image.Resampling.BICUBIC
        )
        cell = Image.new("RGB", (side, side), (MID_GREY,) * 3)
        cell.paste(enlarged, ((side - size[0]) // 2, (side - size[1]) // 2))
        if name == "photograph":
            _outline(cell, [round(edge * side / frame.seen.square.shape[0]) for edge in _edges(frame.field)])
        sheet.paste(cell, (n * (side + gap), 0))
    return np.asarray(sheet)


def _edges(field: Field) -> tuple[int, int, int, int]:
    return field.left, field.top, field.right, field.bottom


def _outline(picture: Image.Image, edges: Sequence[int]) -> None:
    """The book's frame colour on a black casing: one of them shows on any photograph."""
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = edges
    draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=6)
    draw.rectangle((left + 2, top + 2, right - 3, bottom - 3), outline=FRAME, width=2)
