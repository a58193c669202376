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
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from zfcore.data import Picture, centre_crop, decode, of_card, squares, title_of, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.figures import FRAME, MAPS, stretch
from zfcore.invariance import warp
from zfcore.occlusion import OcclusionMaps, fill_picture, occlusion_maps
from zfcore.trace import Geometry

MID_GREY = 128  # what a projected zero looks like, and what lies behind every feature picture
CRISP_BELOW = 24  # pictures with fewer pixels a side are enlarged as squares: blurred, they lose their cells
SIDE = 384  # pixels a side of a photograph as it is shown
MOST_LAYERS = 6
#: Colours of the most frequent classes on a map, which colour-blind eyes can tell apart (Okabe & Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
#: What may stand in a hidden square, in words.
FILLS = {
    "grey": "grey, the mean picture",
    "black": "black",
    "white": "white",
    "blur": "the picture, blurred",
    "noise": "noise",
}
RULES = {"deconvnet": "deconvnet", "gradient": "gradient", "guided": "guided back-propagation"}

#: What explorers say, in Lab and in the page; the gaps are filled by what is shown.
WORDS = {
    "map": "{layer}, feature {feature}",
    "patch": "what the network sees inside the frame",
    "projection": "by {rule}",
    "says": "{title}, {layer}, feature {feature}: the unit at row {row}, column {column} of the "
    "{rows}×{columns} map answers {value}. The frame is its receptive field, {height}×{width} of the "
    "{side}×{side} pixels that the network sees; the projections show what inside the frame made it answer.",
    "silent": "{title}, {layer}, feature {feature}: the unit at row {row}, column {column} of the "
    "{rows}×{columns} map is silent on this picture, so there is nothing to project.",
    "covered": "{title} with a square of {size}×{size} pixels hidden at row {row}, column {column}: the "
    "probability of {target} is {probability}, and {whole} on the whole picture. The network takes what is "
    "left for {best}; {layer}, feature {feature}, answers with {share} % of what it does on the whole "
    "picture.",
    "ofClass": "probability of {target}: {probability} (whole picture: {whole})",
    "ofMap": "{layer}, feature {feature}, the strongest map here: {share} % of the whole picture’s",
    "moved": "{title} turned by {rotation}°, enlarged {scale} times and shifted down by {shift} pixels: the "
    "features of {first} have moved by {near} % of their length, those of {deepest} by {far} %. The "
    "probability of {target} is {probability}, and {whole} before; the network takes it for {best}.",
    "ofFirst": "{first}: features moved by {near} % of their length",
    "ofDeepest": "{deepest}: features moved by {far} % of their length",
    "ofTarget": "probability of {target}: {probability} (unmoved: {whole})",
    "probabilityMap": "probability of {target}, by the square’s place; bright is {most}",
    "activationMap": "{layer}, feature {feature}, summed; bright is {most}",
    "labelMap": "what the network takes the rest for",
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


def label_map(labels) -> tuple[np.ndarray, list[tuple[int, float, str]]]:
    """Colour a map of classes, (H, W) integers: (H, W, 3) uint8, and its legend.

    The legend is of the most frequent classes, as many as there are :data:`COLOURS`: (class, share, colour).
    Of equals the lower number comes first; the others are mid-grey.
    """
    values = np.asarray(labels)
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[: len(COLOURS)]
    pixels = np.full((*values.shape, 3), MID_GREY, np.uint8)
    legend = []
    for n, colour in zip(order.tolist(), COLOURS, strict=False):
        pixels[values == found[n]] = list(bytes.fromhex(colour[1:]))
        legend.append((int(found[n]), counts[n] / values.size, colour))
    return pixels, legend


@cache
def map_colours() -> np.ndarray:
    """The colours of maps from 0 to the maximum, (256, 3) uint8."""
    return np.rint(matplotlib.colormaps[MAPS](np.arange(256))[:, :3] * 255).astype(np.uint8)


def _array(values) -> np.ndarray:
    """A tensor of any device and dtype, or an array, as an array."""
    return values.detach().cpu().float().numpy() if hasattr(values, "detach") else np.asarray(values)


def percent(probability: float) -> str:
    """A probability or a share for readers; halves round up, as in a page."""
    return f"{math.floor(100 * probability + 0.5)} %" if probability >= 0.005 else "< 1 %"


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
        title = title_of(picture, name)
        if hasattr(picture, "credit"):
            credit = f"{title}: {picture.credit}, {picture.licence}."
            pixels = f"photographs()[{json.dumps(picture.name)}]"
            return cls(name, title, picture.alt, credit, pixels, picture.wnid)
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
        """The field of ``unit`` = (y, x), clipped to a square picture of ``side`` pixels.

        Of a unit that sees nothing but padding it is the nearest pixel.
        """
        top, left, bottom, right = geometry.box(*unit)
        top, left = (min(max(first, 0), side - 1) for first in (top, left))
        return cls(top, left, max(min(bottom, side), top + 1), max(min(right, side), left + 1))

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

    def strongest_of(self, path: str, features: Sequence[int], k: int) -> list[int]:
        """The ``k`` strongest of some features of a layer, in the same order."""
        among = set(features)
        return [n for n in self.strongest(path, len(self.maps[path])) if n in among][:k]

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
        return WORDS["silent" if self.value == 0 else "says"].format(
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
        return file_name(words)


@dataclass(frozen=True)
class Covered:
    """A photograph with a square of it hidden, and what the network makes of it.

    The square has its corner at (``top``, ``left``) and ``size`` pixels a side, of the S×S that the
    network sees; ``filling`` shows through it, (S, S, 3) uint8, made as ``fill`` (of :data:`FILLS`) says.
    ``target`` is the class whose probability is wanted. ``whole`` and ``now`` are the network's answers to
    the whole picture and to this one: the probability of every class, (classes,), and the sum of feature
    ``channel`` of the layer ``path``, the map strongest on the whole picture.
    """

    seen: Seen
    top: int
    left: int
    size: int
    fill: str
    filling: np.ndarray
    target: int
    layer: str
    path: str
    channel: int
    whole: tuple[np.ndarray, float]
    now: tuple[np.ndarray, float]

    @property
    def square(self) -> Field:
        """The hidden part."""
        return Field(self.top, self.left, self.top + self.size, self.left + self.size)

    def words(self, viewer: Viewer) -> dict[str, object]:
        """What the templates of :data:`WORDS` that tell of a square want to know."""
        (before, strength), (after, left) = self.whole, self.now
        return {
            "title": self.seen.subject.title,
            "size": self.size,
            "row": self.top,
            "column": self.left,
            "target": viewer.label(self.target),
            "probability": percent(after[self.target]),
            "whole": percent(before[self.target]),
            "best": viewer.label(int(after.argmax())),
            "layer": self.layer,
            "feature": self.channel,
            "share": round(100 * left / strength) if strength > 0 else 100,
        }

    @property
    def view(self) -> np.ndarray:
        """The photograph with the square in it, for the reader's eyes, (V, V, 3) uint8."""
        picture = self.seen.view.copy()
        scale = len(picture) / len(self.filling)
        edges = [round(edge * scale) for edge in (self.top, self.left, self.square.bottom, self.square.right)]
        shown = Field(*edges)
        size = (shown.right - shown.left, shown.bottom - shown.top)
        patch = Image.fromarray(self.square.cut(self.filling)).resize(size, Image.Resampling.NEAREST)
        picture[shown.top : shown.bottom, shown.left : shown.right] = patch
        return picture


@dataclass(frozen=True)
class Moved:
    """A photograph shifted, enlarged and turned, and what the network makes of it.

    ``shift`` in pixels downward, ``scale`` a factor, ``rotation`` in degrees counter-clockwise;
    ``picture`` is what the network sees then, (S, S, 3) uint8. ``distances`` are of the first and of the
    deepest layer, (name, path, distance from the unmoved photograph's features as a share of their
    length). ``target`` is the class whose probability is wanted; ``before`` and ``after`` the probability
    of every class.
    """

    seen: Seen
    shift: float
    scale: float
    rotation: float
    picture: np.ndarray
    target: int
    distances: tuple[tuple[str, str, float], tuple[str, str, float]]
    before: np.ndarray
    after: np.ndarray

    def words(self, viewer: Viewer) -> dict[str, object]:
        """What the templates of :data:`WORDS` that tell of a moved photograph want to know."""
        (first, _, near), (deepest, _, far) = self.distances
        return {
            "title": self.seen.subject.title,
            "shift": f"{self.shift:g}",
            "scale": f"{self.scale:g}",
            "rotation": f"{self.rotation:g}",
            "first": first,
            "deepest": deepest,
            "near": f"{100 * near:.0f}",
            "far": f"{100 * far:.0f}",
            "target": viewer.label(self.target),
            "probability": percent(self.after[self.target]),
            "whole": percent(self.before[self.target]),
            "best": viewer.label(int(self.after.argmax())),
        }


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
        The model or a part of it is in training mode, cannot be followed, has no such layer, or ends in a
        softmax; the card lacks an entry.
    """

    def __init__(
        self,
        model: nn.Module,
        card: Mapping,
        layers: Mapping[str, str] | Iterable[str] | None = None,
        classifier: bool = True,
    ):
        if any(module.training for module in model.modules()):
            raise ValueError(
                "the model or a part of it is in training mode, where dropout is random; "
                "call model.eval() first"
            )
        self.model, self.card = model, _completed(card)
        self.net = Deconvnet(model)
        blank = next(model.parameters()).new_zeros(1, 3, self.side, self.side)
        with torch.no_grad():
            self.layers = self._named(layers, blank)
            self.classifier = classifier and getattr(model(blank), "ndim", 0) == 2
        if self.classifier:
            self.net.trace.insist_on_logits()

    @property
    def side(self) -> int:
        """S, the side of the network's pictures in pixels."""
        return self.card["input_size"]

    @property
    def deepest(self) -> tuple[str, str]:
        """Name and path of the layer nearest to the logits, the last ReLU, or else the last of ``layers``."""
        names = {path: name for name, path in self.layers.items()}
        name, path = list(((self.classifier and self._relus()) or self.layers).items())[-1]
        return names.get(path, name), path

    def before(self, path: str) -> str:
        """The layer whose values a ReLU rectifies; of any other layer the layer itself."""
        network = self.net.trace
        node = network.node(path)
        if not isinstance(network.operations[node], nn.ReLU):
            return path
        return network.names.get(network.sources(node)[0], path)

    def move(
        self,
        seen: Seen,
        shift: float = 0.0,
        scale: float = 1.0,
        rotation: float = 0.0,
        target: int | None = None,
    ) -> Moved:
        """Turn, enlarge and shift a photograph, in this order, and ask again.

        ``shift`` in pixels of the network's picture, downward; ``scale`` a factor; ``rotation`` in degrees
        counter-clockwise; see :func:`zfcore.invariance.warp`. ``target`` as in :meth:`cover`. ``ValueError``
        for a network without a classifier.
        """
        if not self.classifier:
            raise ValueError("this network names nothing: give one with a classifier")
        x = seen.input
        for transform, value, unmoved in (
            ("rotate", rotation, 0),
            ("scale", scale, 1),
            ("translate", shift, 0),
        ):
            if value != unmoved:
                x = warp(x, transform, value)
        layers = [next(iter(self.layers.items())), self.deepest]
        with torch.no_grad():
            both = torch.cat([seen.input, x])
            before, after = _array(self.model(both).float().softmax(1))
            features = self.net.activations(both, [path for _, path in layers])
        distances = []
        for name, path in layers:
            original, moved = (_array(f).ravel() for f in features[path])
            length = np.linalg.norm(original)
            distances.append(
                (name, path, float(np.linalg.norm(moved - original) / length) if length else 0.0)
            )
        target = self.target(seen, before) if target is None else target
        shown = self.shown(x[0])
        return Moved(seen, shift, scale, rotation, shown, target, tuple(distances), before, after)

    def target(self, seen: Seen, probabilities: np.ndarray) -> int:
        """The photograph's own class, where the network knows it; else the one it takes it for."""
        classes = list(self.card.get("classes") or ())
        wnid = seen.subject.wnid
        return classes.index(wnid) if wnid in classes else int(probabilities.argmax())

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
        geometry = self.net.geometry.get(path)
        whole = Field(0, 0, self.side, self.side)  # where the field is unknown
        field = Field.of(geometry, unit, self.side) if geometry else whole
        return Frame(seen, names[path], path, feature, (y, x), field, projections)

    def first(self, seen: Seen) -> Frame:
        """What to open with: the strongest unit of the middle layer, more than edges and still local."""
        path = list(self.layers.values())[len(self.layers) // 2]
        return self.frame(seen, path, seen.strongest(path, 1)[0])

    def cover(
        self,
        seen: Seen,
        corner: tuple[int, int] | None = None,
        size: int | None = None,
        fill: str = "grey",
        target: int | None = None,
    ) -> Covered:
        """Hide a square of a photograph and ask again.

        ``corner`` is (top, left), default the middle; ``size`` in pixels, default two sevenths of the
        picture's side (64 of 224); ``fill`` of :data:`FILLS`; ``target`` a class, default the
        photograph's own, else the one that the network takes it for. ``ValueError`` for a square that
        does not fit, an unknown fill, or a network without a classifier.
        """
        if not self.classifier:
            raise ValueError("this network names nothing: occlusion needs one with a classifier")
        size = round(2 * self.side / 7) if size is None else size
        top, left = ((self.side - size) // 2,) * 2 if corner is None else corner
        if not (0 < size <= self.side and min(top, left) >= 0 and max(top, left) + size <= self.side):
            raise ValueError(
                f"a square of {size} px at ({top}, {left}) is not inside {self.side}×{self.side} px"
            )
        filling = self.filling(seen, fill, size)
        occluded = seen.input.clone()
        square = (..., slice(top, top + size), slice(left, left + size))
        occluded[square] = filling[square]
        layer, path = list(self.layers.items())[-1]
        with torch.no_grad():
            both = torch.cat([seen.input, occluded])
            probabilities = _array(self.model(both).float().softmax(1))
            sums = _array(self.net.activations(both, [path])[path].float().sum((2, 3)))
        channel = int(sums[0].argmax())
        target = self.target(seen, probabilities[0]) if target is None else target
        whole, now = ((p, float(s[channel])) for p, s in zip(probabilities, sums, strict=True))
        shown = self.shown(filling)
        return Covered(seen, top, left, size, fill, shown, target, layer, path, channel, whole, now)

    def filling(self, seen: Seen, fill: str, size: int) -> Tensor:
        """What shows through a square of ``size``, as ``fill`` says: (3, S, S) in the network's units."""
        if fill not in FILLS:
            raise ValueError(f"unknown fill {fill!r}; known: {', '.join(FILLS)}")
        if fill in ("black", "white"):
            plain = np.full((self.side, self.side, 3), 255 * (fill == "white"), np.uint8)
            return to_input([plain], self.card)[0].to(seen.input)
        return fill_picture(seen.input[0], 0.0 if fill == "grey" else fill, (size, size))

    def scan(self, covered: Covered, stride: int) -> OcclusionMaps:
        """Take the square of ``covered`` to every place; see :func:`zfcore.occlusion.occlusion_maps`."""
        seen, size = covered.seen, covered.size
        filling = self.filling(seen, covered.fill, size)
        picture, path, channel = seen.input[0], covered.path, covered.channel
        return occlusion_maps(self.model, picture, covered.target, size, stride, path, filling, channel)

    def label(self, number: int) -> str:
        """What a class is called."""
        words = self.card.get("labels")
        return words[number] if words else f"class {number}"

    def named(
        self, probabilities: np.ndarray, wnid: str | None, count: int = 5
    ) -> tuple[tuple[str, float, bool], ...]:
        """The best labels of (classes,) as (words, probability, is it class ``wnid``), the best first."""
        classes = self.card.get("classes")
        best = np.argsort(-probabilities, kind="stable")[:count].tolist()
        return tuple(
            (self.label(i), float(probabilities[i]), bool(wnid and classes and classes[i] == wnid))
            for i in best
        )

    def shown(self, x: Tensor) -> np.ndarray:
        """What the network takes, (3, S, S) in its units, as a picture for the eye: (S, S, 3) uint8."""
        return np.rint(np.clip(_array(self.pixels(x)), 0, 255)).astype(np.uint8).transpose(1, 2, 0)

    def pixels(self, x: Tensor) -> Tensor:
        """What the network takes, (…, 3, S, S) in its units, as pixels from 0 to 255, or beyond."""
        return x.cpu().float() * self.card["scale"] + centre_crop(self.card["mean"], self.side)

    def taken(self, pixels: Tensor) -> Tensor:
        """Pixels (…, 3, S, S) in the network's units; the reverse of :meth:`pixels`."""
        return (pixels - centre_crop(self.card["mean"], self.side)) / self.card["scale"]

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
        if hasattr(getattr(self.model, "architecture", None), "named_layers"):
            paths = self.model.architecture.named_layers().items()
            return {f"layer {n[len('relu') :]}": path for n, path in paths if n.startswith("relu")}
        network = self.net.trace
        return {n: n for n in network.layers if isinstance(network.operations[network.node(n)], nn.ReLU)}

    def _guesses(self, x: Tensor, wnid: str | None) -> tuple[tuple[str, float, bool], ...]:
        with torch.no_grad():
            logits = self.model(x)
        words = self.card.get("labels")
        if words and len(words) != logits.shape[1]:
            raise ValueError(f"the network has {logits.shape[1]} classes, but {len(words)} labels were given")
        return self.named(_array(logits[0].float().softmax(0)), wnid)


def _completed(card: Mapping) -> dict:
    """A card whose mean and scale may be three numbers (a list, an array, a tensor), as
    :func:`zfcore.data.to_input` takes it."""
    _, side, mean, scale = (of_card(card, key) for key in ("input_size", "resize", "mean", "scale"))
    card = dict(card)
    if np.shape(mean) == (3,):
        card["mean"] = torch.as_tensor(mean, dtype=torch.float32)[:, None, None].expand(3, side, side)
    if np.shape(scale) == (3,):
        card["scale"] = torch.as_tensor(scale, dtype=torch.float32)[:, None, None]
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


# ------------------------------------------------------------------------------ pictures to keep
def contact_sheet(frame: Frame, side: int = 448, gap: int = 16) -> np.ndarray:
    """The pictures of a frame beside one another, each ``side`` pixels, for saving.

    Small pictures keep their cells; the receptive field is framed. (side, …, 3) uint8 on white.
    """
    field = {"photograph": (frame.field, frame.seen.square.shape[0])}
    return beside([(pixels, field.get(name)) for name, pixels in frame.panels().items()], side, gap)


def beside(
    cells: Sequence[tuple[np.ndarray, tuple[Field, int] | None]], side: int = 448, gap: int = 16
) -> np.ndarray:
    """Pictures in a row, each enlarged to ``side`` pixels on mid-grey: (side, …, 3) uint8 on white.

    With a picture may come a part of it to frame, and the side that this part is measured in.
    """
    sheet = Image.new("RGB", (len(cells) * (side + gap) - gap, side), "white")
    for n, (pixels, framed) in enumerate(cells):
        h, w = pixels.shape[:2]
        scale = side / max(h, w)
        size = (max(1, round(w * scale)), max(1, round(h * scale)))
        enlarged = Image.fromarray(np.ascontiguousarray(pixels)).resize(
            size, Image.Resampling.NEAREST if max(h, w) < CRISP_BELOW else Image.Resampling.BICUBIC
        )
        cell = Image.new("RGB", (side, side), (MID_GREY,) * 3)
        cell.paste(enlarged, ((side - size[0]) // 2, (side - size[1]) // 2))
        if framed:
            field, of = framed
            _outline(cell, [round(edge * side / of) for edge in _edges(field)])
        sheet.paste(cell, (n * (side + gap), 0))
    return np.asarray(sheet)


def file_name(words: str) -> str:
    """A name for a picture that a reader saves."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in words) + ".png"


def _edges(field: Field) -> tuple[int, int, int, int]:
    return field.left, field.top, field.right, field.bottom


def _outline(picture: Image.Image, edges: Sequence[int]) -> None:
    """The book's frame colour on a black casing: one of them shows on any photograph."""
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = edges
    draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=6)
    inner = left + 2, top + 2, max(right - 3, left + 2), max(bottom - 3, top + 2)  # of a narrow one: a dot
    draw.rectangle(inner, outline=FRAME, width=2)
