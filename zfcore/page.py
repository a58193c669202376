r"""Pictures that live in a page without a kernel: arrays → pixels → one self-contained piece of HTML.

What a reader sees of a unit is a :class:`Frame`: the photograph as the network sees it, with the
unit's receptive field framed; its projection to pixel space (§2.1 and Fig. 2 of the paper); the
feature's map; and close-ups of the frame. Projections are signed, so each is shown as the paper's
are: around mid-grey, stretched by a percentile of its own absolute values.

The explorer in Lab and its twin in the published page are made of the same frames by the same
functions, so both show the same pixels. The twin carries its frames as lossless WebP sprites in
base64 and a few lines of script (``web/explorer.js``); it asks nothing of the network and opens
from disk. Before the script is alive, on paper, or without JavaScript, it shows its first frame.

Source: Zeiler & Fergus, §2.1 and Fig. 2, doi:10.1007/978-3-319-10590-1_53.

Example::

    import numpy as np
    from zfcore.figures import stretch
    from zfcore.page import as_png
    projection = np.random.default_rng(0).normal(size=(3, 56, 56))     # signed, any unit
    open("projection.png", "wb").write(as_png(stretch(projection)))
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from zfcore.figures import FRAME, MAPS

WEB = Path(__file__).parent / "web"
MID_GREY = 128  # what a projected zero looks like, and what lies behind every feature picture
CRISP_BELOW = 24  # pictures with fewer pixels a side are enlarged as squares: blurred, they lose their cells
RULES = {"deconvnet": "deconvnet", "gradient": "gradient", "guided": "guided backpropagation"}

MENUS = {
    "photograph": "Photograph",
    "layer": "Layer",
    "rule": "Rule",
    "feature": "Feature, strongest here first",
}

SAYS = (
    "{title}, {layer}, feature {feature}: its strongest unit answers {value} at row {row}, column {column} "
    "of the {rows}×{columns} map. The frame is that unit’s receptive field, {height}×{width} of the "
    "picture’s {side}×{side} pixels; the projection shows what inside the frame made it answer ({rule})."
)
SAYS_SILENT = (
    "{title}, {layer}, feature {feature} is silent: no unit of its {rows}×{columns} map answers to this "
    "picture, so there is nothing to project."
)


# ------------------------------------------------------------------------------ arrays to pixels
def colour_map(activation) -> np.ndarray:
    """Colour one feature map, (H, W) and not negative, as (H, W, 3) uint8: dark is 0, yellow its maximum.

    The book's colours for maps: even steps in lightness, readable by colour-blind eyes and in grey.
    """
    values = _array(activation).astype(np.float64)
    peak = values.max(initial=0.0)
    shares = np.clip(values / peak, 0, 1) if peak > 0 else np.zeros_like(values)
    return _map_colours()[np.rint(shares * 255).astype(np.intp)]


@cache
def _map_colours() -> np.ndarray:
    return np.rint(matplotlib.colormaps[MAPS](np.arange(256))[:, :3] * 255).astype(np.uint8)  # (256, 3)


def _array(values) -> np.ndarray:
    """A tensor of any device and dtype, or an array, as an array."""
    return values.detach().cpu().float().numpy() if hasattr(values, "detach") else np.asarray(values)


def as_webp(pixels: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 as lossless WebP: every pixel comes back as it was."""
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


def sprite(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Lay pictures of at most one cell's size on a grid, each in its cell's upper left corner.

    ``rows`` holds rows of (h, w, 3) uint8 pictures; the cell is as high as the highest and as wide
    as the widest. Empty parts are mid-grey. Returns (rows × cell height, columns × cell width, 3) uint8.
    """
    height, width = (max(p.shape[axis] for row in rows for p in row) for axis in (0, 1))
    sheet = np.full((len(rows) * height, max(map(len, rows)) * width, 3), MID_GREY, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            h, w = picture.shape[:2]
            sheet[r * height : r * height + h, c * width : c * width + w] = picture
    return sheet


# ------------------------------------------------------------------------------ what one choice shows
@dataclass(frozen=True)
class Field:
    """A receptive field inside its picture, in pixels; ``bottom`` and ``right`` are the first beyond it."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, geometry, unit: tuple[int, int], side: int) -> Field:
        """The field of ``unit`` = (y, x), clipped to a square picture of ``side`` pixels.

        ``geometry`` has ``receptive_field``, ``stride`` and ``offset`` in pixels (``zfcore.trace``).
        """
        corners = [geometry.offset + u * geometry.stride for u in unit]
        (top, left), (bottom, right) = (
            [min(max(c + reach, 0), side) for c in corners] for reach in (0, geometry.receptive_field)
        )
        return cls(top, left, bottom, right)

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """This part of (H, W, 3)."""
        return picture[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Frame:
    """One choice of photograph, layer, feature and rule, as pixels ready to show.

    ``photograph`` is the name it goes by, ``title`` what a reader calls it; ``layer`` the reader's
    name and ``path`` the module's. ``value`` is the strongest unit's activation, ``unit`` its (y, x)
    in the map. ``square`` and ``projection`` are (S, S, 3), ``map`` is (h, w, 3), all uint8.
    """

    photograph: str
    title: str
    layer: str
    path: str
    feature: int
    rule: str
    value: float
    unit: tuple[int, int]
    field: Field
    square: np.ndarray
    map: np.ndarray
    projection: np.ndarray

    def panels(self) -> dict[str, np.ndarray]:
        """The five pictures of this frame in reading order, each (h, w, 3) uint8."""
        return {
            "photograph": self.square,
            "projection": self.projection,
            "map": self.map,
            "patch": self.field.cut(self.square),
            "closeup": self.field.cut(self.projection),
        }

    def says(self) -> str:
        """What the frame shows, in words: the text alternative and the line under the pictures."""
        template = SAYS if self.value > 0 else SAYS_SILENT
        return template.format(
            title=self.title,
            layer=self.layer,
            feature=self.feature,
            value=f"{self.value:.3g}",
            row=self.unit[0],
            column=self.unit[1],
            rows=self.map.shape[0],
            columns=self.map.shape[1],
            height=self.field.bottom - self.field.top,
            width=self.field.right - self.field.left,
            side=self.square.shape[0],
            rule=RULES[self.rule],
        )

    def file_name(self) -> str:
        """A name for this frame saved as a picture."""
        words = f"{self.photograph} {self.layer} feature {self.feature} {self.rule}"
        return "".join(c if c.isalnum() or c in ".-" else "-" for c in words) + ".png"


def contact_sheet(frame: Frame, side: int = 448, gap: int = 16) -> np.ndarray:
    """The five pictures of a frame beside one another, each ``side`` pixels, for saving.

    Small pictures keep their cells; the receptive field is framed. (side, …, 3) uint8 on white.
    """
    sheet = Image.new("RGB", (5 * side + 4 * gap, side), "white")
    for n, (name, pixels) in enumerate(frame.panels().items()):
        h, w = pixels.shape[:2]
        scale = side / max(h, w)
        size = (max(1, round(w * scale)), max(1, round(h * scale)))
        enlarged = Image.fromarray(np.ascontiguousarray(pixels)).resize(
            size, Image.Resampling.NEAREST if max(h, w) < CRISP_BELOW else Image.Resampling.BICUBIC
        )
        cell = Image.new("RGB", (side, side), (MID_GREY,) * 3)
        cell.paste(enlarged, ((side - size[0]) // 2, (side - size[1]) // 2))
        if name in ("photograph", "projection"):
            _outline(cell, [round(edge * scale) for edge in _edges(frame.field)])
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


# ------------------------------------------------------------------------------ pixels to HTML
@dataclass(frozen=True)
class Subject:
    """A photograph as a page tells of it: its names, its text alternative, its source, what the network says.

    ``python`` is the expression that gives its pixels; ``guesses`` are the network's best labels as
    (words, probability, is it the photograph's own label).
    """

    name: str
    title: str
    alt: str
    credit: str
    python: str
    guesses: tuple[tuple[str, float, bool], ...] = ()


PANELS = {  # name -> caption; {feature} and {layer} are filled in
    "photograph": "what the network sees",
    "projection": "projection of one unit",
    "map": "map of feature {feature}",
    "patch": "inside the frame",
    "closeup": "its projection, enlarged",
}


def picture_html(frame: Frame, subject: Subject) -> str:
    """The pictures of one frame with their captions, the network's guesses and the line in words.

    The same markup serves the live explorer, the published page before its script is alive, and print.
    """
    figures = "".join(_figure_html(name, pixels, frame, subject) for name, pixels in frame.panels().items())
    return (
        '<div class="zf-picture"><div class="zf-panels">'
        f'{figures}<div class="zf-panel zf-guesses"><p>{_guesses_title(subject)}</p>'
        f"<ol>{_guesses_html(subject)}</ol></div></div>"
        f'<p class="zf-says" aria-live="polite">{escape(frame.says())}</p>'
        f'<p class="zf-credit">{escape(subject.credit)}</p></div>'
    )


def _figure_html(name: str, pixels: np.ndarray, frame: Frame, subject: Subject) -> str:
    height, width = pixels.shape[:2]
    if name in ("photograph", "projection"):
        left, top, right, bottom = _edges(frame.field)
        mark = _mark_html(width, height, (left, top, right - left, bottom - top), frame.value > 0)
    elif name == "map":
        mark = _mark_html(width, height, (frame.unit[1], frame.unit[0], 1, 1), frame.value > 0)
    else:
        mark = ""
    alt = subject.alt if name == "photograph" else _caption(name, frame)
    crisp = " zf-crisp" if max(height, width) < CRISP_BELOW else ""
    small = f" <small>{escape(frame.path)}</small>" if name == "map" else ""
    return (
        f'<figure class="zf-panel" data-panel="{name}"><span class="zf-stage">'
        f'<img src="{data_url(as_webp(pixels))}" alt="{escape(alt)}" class="zf-pixels{crisp}">{mark}</span>'
        f"<figcaption><span>{escape(_caption(name, frame))}</span>{small}</figcaption></figure>"
    )


def _mark_html(width: int, height: int, box: tuple[int, int, int, int], visible: bool) -> str:
    """A frame around ``box`` = (x, y, width, height) over a picture, in lines that do not grow with it."""
    shape = " ".join(
        f'{key}="{value}"' for key, value in zip(("x", "y", "width", "height"), box, strict=True)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true"{"" if visible else " hidden"}>'
        f'<rect class="zf-casing" {shape}/><rect class="zf-line" {shape}/></svg>'
    )


def _caption(name: str, frame: Frame) -> str:
    return PANELS[name].format(feature=frame.feature)


def _guesses_title(subject: Subject) -> str:
    return "what the network takes it for" if subject.guesses else ""


def _guesses_html(subject: Subject) -> str:
    return "".join(
        f"<li{' class=zf-own' if own else ''}><span>{escape(words)}{' (right)' if own else ''}</span>"
        f' <b>{_percent(probability)}</b><i style="inline-size:{100 * probability:.1f}%"></i></li>'
        for words, probability, own in subject.guesses
    )


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability >= 0.005 else "< 1 %"


def style_html() -> str:
    """The explorer's style sheet (``web/explorer.css``) as an element."""
    return f"<style>{_web('explorer.css')}</style>"


@cache
def _web(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def photo_explorer_html(
    frames: Mapping[tuple[str, str, str], Sequence[Frame]],
    subjects: Sequence[Subject],
    snippet: str,
    start: Frame | None = None,
) -> str:
    """The photograph explorer as one piece of HTML that needs no kernel and no network.

    Parameters
    ----------
    frames
        (photograph, layer, rule) → the frames of that choice, strongest feature first; every
        photograph has every layer and rule, and the features are the same under every rule.
    subjects
        The photographs, in the order in which they are offered.
    snippet
        Python that makes a picture again, with fields to fill: ``{pixels}``, ``{path}``, ``{feature}``,
        ``{rule}``.

    start
        The frame, one of ``frames``, that it opens with; default: the very first.

    Returns
    -------
    str
        A ``<div class="zf-explorer">`` with its style, pictures and script inside; ``data-on`` is
        set on it when its controls live. It has no ids, so a page may hold any number of them.

    Raises
    ------
    ValueError
        A photograph without frames for some layer and rule, or a ``start`` that is not among the frames.
    """
    layers = list(dict.fromkeys(layer for _, layer, _ in frames))
    rules = list(dict.fromkeys(rule for _, _, rule in frames))
    for choice in product([s.name for s in subjects], layers, rules):
        if not frames.get(choice):
            raise ValueError(f"no frames for {choice}; give every photograph every layer and rule")
    start = start or frames[subjects[0].name, layers[0], rules[0]][0]
    if not any(f is start for f in frames.get((start.photograph, start.layer, start.rule), ())):
        raise ValueError(f"the explorer cannot start with {start.file_name()}: it is not among the frames")
    squares = [frames[s.name, layers[0], rules[0]][0].square for s in subjects]
    state = {
        "side": start.square.shape[0],
        "grey": MID_GREY,
        "crispBelow": CRISP_BELOW,
        "says": [SAYS, SAYS_SILENT],
        "snippet": snippet,
        "captions": PANELS,
        "rules": [[rule, RULES[rule]] for rule in rules],
        "subjects": [
            {
                "name": s.name,
                "title": s.title,
                "alt": s.alt,
                "credit": s.credit,
                "python": s.python,
                "guesses": _guesses_html(s),
            }
            for s in subjects
        ],
        "photographs": data_url(as_webp(sprite([squares]))),
        "layers": [_layer_state(layer, frames, subjects, rules) for layer in layers],
    }
    here = frames[start.photograph, start.layer, start.rule]
    chosen = {
        "photograph": ([(s.name, s.title) for s in subjects], start.photograph),
        "layer": ([(layer, layer) for layer in layers], start.layer),
        "rule": ([(rule, RULES[rule]) for rule in rules], start.rule),
        "feature": ([(str(f.feature), feature_words(f.feature, f.value)) for f in here], str(start.feature)),
    }
    menus = {choice: _menu(choice, *options) for choice, options in chosen.items()}
    return (
        f'<div class="zf-explorer" role="group" aria-label="Photograph explorer">{style_html()}'
        f'<div class="zf-controls">{menus["photograph"]}{menus["layer"]}{menus["rule"]}</div>'
        f'<div class="zf-controls">{menus["feature"]}'
        '<button type="button" data-step="-1" disabled>Previous</button>'
        '<button type="button" data-step="1" disabled>Next</button></div>'
        f"{picture_html(start, next(s for s in subjects if s.name == start.photograph))}"
        '<div class="zf-take"><button type="button" data-take="picture" disabled>Save the picture</button>'
        '<button type="button" data-take="python" disabled>Copy the Python that makes it</button>'
        '<span class="zf-done" role="status"></span></div>'
        f'<script type="application/json">{_json(state)}</script>'
        f"<script>{_web('explorer.js')}</script></div>"
    )


def feature_words(feature: int, value: float) -> str:
    """How a list of features names one: its number and how strongly it answers."""
    return f"feature {feature}, answers {value:.3g}"


def _layer_state(layer: str, frames: Mapping, subjects: Sequence[Subject], rules: Sequence[str]) -> dict:
    """A layer as the page's script needs it: its sprites, and the numbers of each of its frames."""
    chosen = [frames[s.name, layer, rules[0]] for s in subjects]  # rows of frames under the first rule
    maps = sprite([[f.map for f in row] for row in chosen])
    columns = [[f for rule in rules for f in frames[s.name, layer, rule]] for s in subjects]
    closeups = sprite([[f.panels()["closeup"] for f in row] for row in columns])
    return {
        "name": layer,
        "path": chosen[0][0].path,
        "grid": list(chosen[0][0].map.shape[:2]),
        "cell": [closeups.shape[0] // len(columns), closeups.shape[1] // max(map(len, columns))],
        "maps": data_url(as_webp(maps)),
        "closeups": data_url(as_webp(closeups)),
        "frames": [[_numbers(f) for f in row] for row in chosen],
    }


def _numbers(frame: Frame) -> list:
    """One frame as the page's script reads it (``Numbers`` there)."""
    words = feature_words(frame.feature, frame.value)
    silent = frame.value <= 0
    return [frame.feature, f"{frame.value:.3g}", not silent, *frame.unit, *_edges(frame.field), words]


def _menu(choice: str, options: Sequence[tuple[str, str]], selected: str) -> str:
    """A labelled menu, disabled until the script is there to answer it."""
    items = "".join(
        f'<option value="{escape(value)}"{" selected" if value == selected else ""}>{escape(words)}</option>'
        for value, words in options
    )
    return (
        f'<label class="zf-{choice}">{MENUS[choice]}'
        f'<select data-choice="{choice}" disabled autocomplete="off">{items}</select></label>'
    )


def _json(state: dict) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(state, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
