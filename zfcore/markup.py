r"""What an explorer looks like: its pictures, numbers and words as HTML, with nothing alive in it.

Lab, the page and print share this markup; ``web/explorer.css`` is its style. Each explorer has one function
for what it shows and one for the controls that its page form has below or beside the pictures; in Lab,
widgets are the controls. The scripts in ``web/`` find every part by its ``data-`` attributes.

Source: Zeiler & Fergus, Figs. 2 and 6, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import photographs
    from zfcore.markup import picture_html, style_html
    from zfcore.model import load
    from zfcore.view import Viewer
    viewer = Viewer(*load("zfnet-64"))
    frame = viewer.first(viewer.look("chelsea", photographs()["chelsea"]))
    style_html() + picture_html(viewer, frame)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from zfcore import view
from zfcore.assets import WEB
from zfcore.gallery import Gallery, Hit
from zfcore.occlusion import OcclusionMaps
from zfcore.view import (
    CRISP_BELOW,
    FILLS,
    Covered,
    Field,
    Frame,
    Moved,
    Seen,
    Subject,
    Viewer,
    as_webp,
    colour_map,
    data_url,
    label_map,
    percent,
)

NAMES = {
    "photo": "Photograph explorer",
    "occlusion": "Occlusion explorer",
    "feature": "Feature explorer",
    "invariance": "Invariance explorer",
    "class": "Class explorer",
    "maximization": "Maximisation explorer",
}  # of the explorers, for readers who hear them
LONG_NAME = 12  # characters of a layer's name that fit beside its maps in the usual size
STRONGEST = 8  # small maps of each layer
FARTHEST = 1.5  # of a distance, as a share of the features' length, that a bar shows
NAMED = 5  # features that are named by what they look for

WORDS = view.WORDS | {
    "hint": "Drop or paste a picture of your own anywhere here. It never leaves this computer.",
    "begin": "The network can run right here, on these photographs and on your own. The first click loads "
    "it: {size}.",
    "absent": "This page came without its network: only its first picture can be shown.",
    "loading": "Loading the network …",
    "starting": "Starting the network …",
    "reading": "Reading your picture …",
    "cell": "{layer}, feature {feature}, answers {value}",
    "guesses": "what the network takes it for",
    "unjudged": "The network is here without its classifier, so it names nothing.",
    "right": "(right)",
    "yours": "your picture {name}",
    "private": "Your own picture; it stays on this computer.",
    "nofile": "What was dropped is no file; drop a picture file, or save the picture first.",
    "nocamera": "The camera is not available: {problem}",
    "movedPicture": "what the network sees now",
    "looks": "what feature {feature} looks for: its nine strongest of {n} pictures, projected",
    "strongestHere": "The strongest features of this layer here, by what they look for",
    "named": "{feature}: {labels}",
    "unnamed": "{feature}",
    "nineProjections": "its nine strongest pictures, projected",
    "ninePatches": "the same places of the pictures",
    "nineCrops": "where the photographs of this page excite it most",
    "nineCropProjections": "and what did it there",
    "told": "which they are",
    "answers": "Strongest features of this layer for the chosen photograph",
    "hit": "{rank}. {label} ({picture}), {value}",
    "unlabelled": "{rank}. {picture}, {value}",
    "crop": "{rank}. {title}, {value}",
    "times": "{count} × {label}",
    "features": "{layer}, feature {feature}: of {n} pictures these nine excite it most, up to {value}: "
    "{labels}.",
    "dead": "{layer}, feature {feature}: none of the pictures excites it.",
    "nearest": "{layer} shows {count} features here, and {wanted} is none of them; the nearest is {feature}.",
    "climb": "Climb",
    "pause": "Pause",
    "otherNoise": "Other noise",
    "fromPhotograph": "From the photograph",
    "startPicture": "where it starts",
    "climbedPicture": "where it is now",
    "ascent": "what it answers, from the start to now",
    "ofWholeMap": "{layer}, feature {feature}, its whole map",
    "ofUnit": "{layer}, feature {feature}, its middle unit",
    "ofLogit": "{label}, the logit of the class",
    "answer": "answers {value} after {steps} steps; {first} at the start",
    "climbed": "{goal}: the answer went from {first} to {value} in {steps} steps, each along the gradient.",
    "guessesLeft": "what the network takes the rest for",
    "scan": "Scan the whole picture",
    "stop": "Stop",
    "scanned": "Scanned {places} places; point at a map to put the square there.",
    "python_grey": "0.0",
    "python_black": 'to_input([np.zeros((64, 64, 3), "uint8")], card)[0]',
    "python_white": 'to_input([np.full((64, 64, 3), 255, "uint8")], card)[0]',
    "python_blur": '"blur"',
    "python_noise": '"noise"',
    "python_photograph": "to_input([{pixels}], card)[0]",
    "lesson": "{name}, class {place} of {count}: after {most} training pictures of each class, {right} % of "
    "its test pictures are recognised ({row}); after {least}, {early} %. Of {layer}, the SVM’s decision for "
    "it rests most on {carriers}.",
    "ofLesson": "Accuracy on {name}. {curves}",
    "curve": "{row}: {points}.",
    "curvePoint": "{mean} % after {pictures}",
    "carrier": "feature {feature}",
    "carrierWall": "feature {feature}, {part}",
    "trainingPictures": "training pictures of each class",
    "accuracyAxis": "accuracy, %",
    "saved": "Saved as {file}.",
    "copied": "Copied.",
}


# ------------------------------------------------------------------------------ a frame as HTML
def picture_html(
    viewer: Viewer, frame: Frame, controls: str | None = None, gallery: Gallery | None = None
) -> str:
    """A frame with its captions, the network's guesses, every layer's strongest maps, and the line in words.

    The same markup serves Lab, the page before its script is alive, and print. ``controls`` go below the map;
    None (in Lab, where widgets are the controls) also makes the small maps mere pictures. With a
    ``gallery`` come the nine pictures that the feature looks for, and the names of the strongest features.
    """
    live = controls is not None
    panels, captions = frame.panels(), frame.captions()
    figures = {name: _figure_html(name, panels[name], captions[name], frame, live) for name in panels}
    closeups = "".join(html for name, html in figures.items() if name not in ("photograph", "map"))
    rows = "".join(
        _layer_html(
            frame.seen, name, path, frame.seen.strongest(path, STRONGEST),
            frame.feature if path == frame.path else None, live,
        )
        for name, path in viewer.layers.items()
    )  # fmt: skip
    role = "radiogroup" if live else "group"
    return (
        f'<div class="zf-picture"><div class="zf-board"><div>{figures["photograph"]}{figures["map"]}</div>'
        f'<div><div class="zf-guesses"><p>{WORDS["guesses" if viewer.classifier else "unjudged"]}</p>'
        f"<ol>{_guesses_html(frame.seen.guesses)}</ol></div>"
        f'<div class="zf-layers" role="{role}" aria-label="The strongest features of each layer">{rows}</div>'
        f'<div class="zf-unit">{controls or ""}</div>'
        f'<div class="zf-words"><p class="zf-says" aria-live="polite">{escape(frame.says())}</p>'
        f'<p class="zf-credit">{escape(frame.seen.subject.credit)}</p></div></div></div>'
        f'<div class="zf-closeups">{closeups}</div>{_looks_html(gallery, frame, live)}</div>'
    )


def _looks_html(gallery: Gallery | None, frame: Frame, live: bool) -> str:
    """What the chosen feature looks for anywhere, and what the strongest features here are called."""
    if gallery is None:
        return ""
    features = gallery.wall(frame.path).features
    shown = frame.feature if frame.feature in features else features[0]
    nine = Nine.of(gallery, frame.path, shown)
    title = WORDS["looks"].format(feature=frame.feature, n=nine.number)
    wall = _nine_html("looks", title, nine.projections, nine.words(), nine.names())
    items = []
    for feature in frame.seen.strongest(frame.path, NAMED):
        name = ", ".join(Nine.of(gallery, frame.path, feature).labels(2)) if feature in features else ""
        words = WORDS["named" if name else "unnamed"].format(feature=feature, labels=name)
        if live:
            words = (
                f'<button type="button" data-do="cell" data-path="{escape(frame.path)}" '
                f'data-feature="{feature}" disabled>{escape(words)}</button>'
            )
        else:
            words = escape(words)
        items.append(f"<li>{words}</li>")
    hidden = "" if shown == frame.feature else " hidden"
    return (
        f'<div class="zf-crops zf-looks"{hidden}>{wall}</div><div class="zf-told zf-named">'
        f"<p>{WORDS['strongestHere']}</p><ol>{''.join(items)}</ol></div>"
    )


def _figure_html(name: str, pixels: np.ndarray, caption: str, frame: Frame, live: bool) -> str:
    height, width = pixels.shape[:2]
    if name == "photograph":
        box = (frame.field.left, frame.field.top, *_extent(frame.field))
        return _photograph_html(frame.seen, _mark_html(frame.seen.square.shape[0], box))
    if name == "map":
        longest, (y, x) = max(height, width), frame.unit
        mark = _mark_html(longest, (x + (longest - width) / 2, y + (longest - height) / 2, 1, 1))
        small = f" <small>{escape(frame.path if frame.path != frame.layer else '')}</small>"
        words = "Choose a unit of the map: click, or use the arrow keys"
        return _panel_html(name, pixels, caption, mark, small, ("unit", words) if live else None)
    return _panel_html(name, pixels, caption)


def _extent(field: Field) -> tuple[int, int]:
    return field.right - field.left, field.bottom - field.top


def _photograph_html(seen: Seen, over: str = "", act: tuple[str, str] | None = None) -> str:
    source, subject = data_url(as_webp(seen.view, 80)), seen.subject
    image = f'<img src="{source}" alt="{escape(subject.alt)}" class="{_pixels_class(seen.view)}">'
    return _stage_html("photograph", image + over, f"<span>{escape(subject.title)}</span>", act)


def _panel_html(
    name: str,
    pixels: np.ndarray,
    caption: str,
    over: str = "",
    small: str = "",
    act: tuple[str, str] | None = None,
) -> str:
    """A picture with its caption; ``act``, what it does and how, makes it a control."""
    source = data_url(as_webp(pixels))
    image = f'<img src="{source}" alt="{escape(caption)}" class="{_pixels_class(pixels)}">'
    return _stage_html(name, image + over, f"<span>{escape(caption)}</span>{small}", act)


def _stage_html(name: str, stage: str, caption: str, act: tuple[str, str] | None) -> str:
    if act:
        do, words = act
        stage = (
            f'<button type="button" class="zf-stage" data-do="{do}" title="{words}" disabled>{stage}</button>'
        )
    else:
        stage = f'<span class="zf-stage">{stage}</span>'
    return f'<figure class="zf-panel" data-panel="{name}">{stage}<figcaption>{caption}</figcaption></figure>'


def _pixels_class(pixels: np.ndarray) -> str:
    return "zf-pixels zf-crisp" if max(pixels.shape[:2]) < CRISP_BELOW else "zf-pixels"


def _mark_html(side: int, box: tuple[float, float, float, float]) -> str:
    """A frame around ``box`` = (x, y, width, height) over a picture, in lines that do not grow with it."""
    shape = " ".join(
        f'{key}="{value}"' for key, value in zip(("x", "y", "width", "height"), box, strict=True)
    )
    return (
        f'<svg viewBox="0 0 {side} {side}" aria-hidden="true">'
        f'<rect class="zf-casing" {shape}/><rect class="zf-line" {shape}/></svg>'
    )


def _layer_html(
    seen: Seen, name: str, path: str, features: Sequence[int], chosen: int | None, live: bool
) -> str:
    """Maps of one layer as small pictures, the chosen feature's marked; it, else the first, is a tab stop."""
    stop = chosen if chosen is None or chosen in features else features[0]
    cells = []
    for feature in features:
        activation = seen.maps[path][feature]
        words = WORDS["cell"].format(layer=name, feature=feature, value=f"{activation.max():.3g}")
        pixels = colour_map(activation)
        image = (
            f'<img src="{data_url(as_webp(pixels))}" alt="{escape(words)}" class="{_pixels_class(pixels)}">'
        )
        here = feature == chosen
        if live:
            cells.append(
                f'<button type="button" class="zf-cell" data-do="cell" role="radio" '
                f'aria-checked="{str(here).lower()}" tabindex="{0 if feature == stop else -1}" '
                f'data-path="{escape(path)}" data-feature="{feature}" '
                f"disabled>{image}</button>"
            )
        else:
            cells.append(f'<span class="zf-cell{" zf-chosen" if here else ""}">{image}</span>')
    long = ' class="zf-long"' if len(name) > LONG_NAME else ""
    return f'<div class="zf-layer"><span{long}>{escape(name)}</span>{"".join(cells)}</div>'


def _guesses_html(guesses: Sequence[tuple[str, float, bool]]) -> str:
    return "".join(
        f"<li{' class=zf-own' if own else ''}>"
        f"<span>{escape(words)}{' ' + WORDS['right'] if own else ''}</span>"
        f' <b>{percent(probability)}</b><i style="inline-size:{100 * probability:.1f}%"></i></li>'
        for words, probability, own in guesses
    )


def unit_controls(frame: Frame) -> str:
    """The numbers of feature, row and column, and the way back to the strongest unit."""
    features, rows, columns = frame.seen.maps[frame.path].shape
    numbers = (
        ("feature", "Feature", frame.feature, features),
        ("row", "Row", frame.unit[0], rows),
        ("column", "Column", frame.unit[1], columns),
    )
    inputs = "".join(
        f'<label>{label}<input type="number" inputmode="numeric" data-choice="{name}" min="0" '
        f'max="{count - 1}" value="{value}" disabled autocomplete="off"></label>'
        for name, label, value, count in numbers
    )
    return f'{inputs}<button type="button" data-do="strongest" disabled>Strongest unit</button>'


# ------------------------------------------------------------------------------ a hidden square as HTML
def covered_html(
    viewer: Viewer, covered: Covered, maps: OcclusionMaps | None, stride: int, controls: str | None = None
) -> str:
    """A photograph with its square, the network's answers, and the maps of a scan with that ``stride``.

    As :func:`picture_html`, for the occlusion explorer.
    """
    live, side, given = controls is not None, viewer.side, covered.words(viewer)
    box = (covered.left, covered.top, covered.size, covered.size)
    edges = (covered.top, side - covered.square.right, side - covered.square.bottom, covered.left)
    inset = " ".join(f"{100 * edge / side:.4g}%" for edge in edges)
    over = (
        f'<img src="{data_url(as_webp(covered.filling))}" alt="" class="zf-pixels zf-cover" '
        f'style="clip-path:inset({inset})">{_mark_html(side, box)}'
    )
    words = "Move the square: drag it, or use the arrow keys"
    photograph = _photograph_html(covered.seen, over, ("square", words) if live else None)
    guesses = viewer.named(covered.now[0], covered.seen.subject.wnid)
    (before, strength), (after, left) = covered.whole, covered.now
    meters = _meter_html("probability", after[covered.target], before[covered.target], 1, "ofClass", given)
    most = max(1.25 * strength, left) or 1
    meters += _meter_html("activation", left, strength, most, "ofMap", given)
    return (
        f'<div class="zf-picture"><div class="zf-board"><div>{photograph}</div>'
        f'<div>{controls or ""}<div class="zf-meters">{meters}</div>'
        f'<div class="zf-guesses"><p>{WORDS["guessesLeft"]}</p><ol>{_guesses_html(guesses)}</ol></div>'
        f'<div class="zf-words"><p class="zf-says" aria-live="polite">'
        f"{escape(WORDS['covered'].format(**given))}</p>"
        f'<p class="zf-credit">{escape(covered.seen.subject.credit)}</p></div></div></div>'
        f"{_maps_html(viewer, covered, maps, stride, given, live)}</div>"
    )


def _meter_html(name: str, value: float, whole: float, most: float, words: str, given: Mapping) -> str:
    return (
        f'<p class="zf-meter" data-meter="{name}"><span>{escape(WORDS[words].format(**given))}</span>'
        f'<b><i style="inline-size:{100 * min(value, most) / most:.2f}%"></i>'
        f'<u style="inset-inline-start:{100 * whole / most:.2f}%"></u></b></p>'
    )


def occlusion_panels(maps: OcclusionMaps) -> dict[str, np.ndarray]:
    """The maps of a scan as pictures, (rows, columns, 3) uint8."""
    return {
        "probability": colour_map(maps.probability),
        "activation": colour_map(maps.activation),
        "label": label_map(maps.label.cpu())[0],
    }


def _maps_html(
    viewer: Viewer, covered: Covered, maps: OcclusionMaps | None, stride: int, given: Mapping, live: bool
) -> str:
    places = (viewer.side - covered.size) // stride + 1
    most, items = {}, ""
    if maps is None:
        pictures = dict.fromkeys(("probability", "activation", "label"), np.zeros((1, 1, 3), np.uint8))
    else:
        pictures = occlusion_panels(maps)
        most["probability"] = percent(maps.probability.max().item())
        most["activation"] = f"{maps.activation.max().item():.3g}"
        items = "".join(
            f'<li><i style="background:{colour}"></i>{escape(f"{viewer.label(n)} {percent(share)}")}</li>'
            for n, share, colour in label_map(maps.label.cpu())[1]
        )
    row, column = round(covered.top / stride), round(covered.left / stride)
    mark = _mark_html(places, (min(column, places - 1), min(row, places - 1), 1, 1))
    act = ("place", "Put the square there: point, or use the arrow keys") if live else None
    panels = "".join(
        _panel_html(name, shown, WORDS[f"{name}Map"].format(**given, most=most.get(name)), mark, "", act)
        for name, shown in pictures.items()
    )
    return (
        f'<div class="zf-maps"{" hidden" if maps is None else ""}>{panels}'
        f'<ul class="zf-legend" aria-label="{WORDS["labelMap"]}">{items}</ul></div>'
    )


def square_controls(viewer: Viewer, covered: Covered) -> str:
    """Class, fill and size of the hidden square, and the scan."""
    fills = "".join(
        f'<option value="{name}"{" selected" if name == covered.fill else ""}>{words}</option>'
        for name, words in FILLS.items()
    )
    return (
        f'<div class="zf-choices">{_class_control(viewer, covered.target, len(covered.now[0]))}'
        '<label>Square filled with<select data-choice="fill" disabled autocomplete="off">'
        f"{fills}</select></label>"
        f'<label><span>Size of the square, <output>{covered.size} px</output></span><input type="range" '
        f'data-choice="size" min="2" max="{viewer.side - 2}" step="2" value="{covered.size}" '
        f'disabled autocomplete="off"></label>'
        f'<button type="button" data-do="scan" disabled>{WORDS["scan"]}</button></div>'
    )


# ------------------------------------------------------------------------------ a moved photograph as HTML
SLIDERS = {  # name → words, least, most, step, unit; the shift is for pictures of 224 pixels
    "shift": ("Shift, downward", -60, 60, 4, "px"),
    "scale": ("Scale", 1, 1.8, 0.05, "times"),
    "rotation": ("Rotation, counter-clockwise", 0, 350, 5, "°"),
}


def sliders(side: int) -> dict[str, tuple[str, float, float, float, str]]:
    """The ranges that a photograph is moved in, as the paper's, for pictures of ``side`` pixels."""
    words, _, most, step, unit = SLIDERS["shift"]
    most, step = round(most * side / 224), max(1, round(step * side / 224))
    return SLIDERS | {"shift": (words, -most, most, step, unit)}


def moved_html(viewer: Viewer, moved: Moved, controls: str | None = None) -> str:
    """A photograph and what became of it, how far its features moved, and the network's guesses.

    As :func:`picture_html`, for the invariance explorer.
    """
    given = moved.words(viewer)
    photograph = _photograph_html(moved.seen)
    picture = _panel_html("moved", moved.picture, WORDS["movedPicture"])
    (_, _, near), (_, _, far) = moved.distances
    meters = _meter_html("near", near, 0, FARTHEST, "ofFirst", given)
    meters += _meter_html("far", far, 0, FARTHEST, "ofDeepest", given)
    probability, whole = moved.after[moved.target], moved.before[moved.target]
    meters += _meter_html("probability", probability, whole, 1, "ofTarget", given)
    guesses = viewer.named(moved.after, moved.seen.subject.wnid)
    return (
        f'<div class="zf-picture"><div class="zf-board"><div>{photograph}{picture}</div>'
        f'<div>{controls or ""}<div class="zf-meters">{meters}</div>'
        f'<div class="zf-guesses"><p>{WORDS["guesses"]}</p><ol>{_guesses_html(guesses)}</ol></div>'
        f'<div class="zf-words"><p class="zf-says" aria-live="polite">'
        f"{escape(WORDS['moved'].format(**given))}</p>"
        f'<p class="zf-credit">{escape(moved.seen.subject.credit)}</p></div></div></div></div>'
    )


def move_controls(viewer: Viewer, moved: Moved) -> str:
    """The sliders that move a photograph, and the class."""
    inputs = "".join(
        f"<label><span>{words}, <output>{getattr(moved, name):g} {unit}</output></span>"
        f'<input type="range" data-choice="{name}" min="{least}" max="{most}" step="{step}" '
        f'value="{getattr(moved, name):g}" disabled autocomplete="off"></label>'
        for name, (words, least, most, step, unit) in sliders(viewer.side).items()
    )
    return (
        f'<div class="zf-choices">{inputs}{_class_control(viewer, moved.target, len(moved.after))}'
        '<button type="button" data-do="back" disabled>Back to the start</button></div>'
    )


def _class_control(viewer: Viewer, target: int, count: int) -> str:
    labels = sorted((viewer.label(n).casefold(), n) for n in range(count))
    classes = "".join(
        f'<option value="{n}"{" selected" if n == target else ""}>{escape(viewer.label(n))}</option>'
        for _, n in labels
    )
    return f'<label>Class<select data-choice="target" disabled autocomplete="off">{classes}</select></label>'


# ------------------------------------------------------------------------------ an ascent as HTML
POSITIONS = {"its whole map": "map", "its middle unit": "middle"}
SWITCHES = {  # of the regularisers → words
    "l2": "L2: not too large",
    "tv": "Total variation: in patches",
    "jitter": "Jitter: moved by chance",
    "turn": "Scaled and turned by chance",
    "frequency": "Frequency space",
}
#: What the classes are called among the layers.
CLASSES = "logits"


@dataclass(frozen=True)
class Climbed:
    """An ascent to a feature or a class, as far as it has come.

    ``path`` is a layer's, or :data:`CLASSES`; ``position`` is ``"map"`` or ``"middle"``. ``start`` and
    ``picture`` are (S, S, 3) uint8; ``history`` what was answered before each step; ``subject`` the
    photograph that it started from, or None: it was noise.
    """

    path: str
    channel: int
    position: str
    start: np.ndarray
    picture: np.ndarray
    history: tuple[float, ...]
    subject: Subject | None = None

    @property
    def credit(self) -> str:
        """What is due to the photograph that it started from."""
        return self.subject.credit if self.subject else ""

    def words(self, viewer: Viewer) -> dict[str, object]:
        """What the templates that tell of an ascent want to know."""
        names = {path: name for name, path in viewer.layers.items()}
        given = {"layer": names.get(self.path), "feature": self.channel}
        words = {"map": WORDS["ofWholeMap"], "middle": WORDS["ofUnit"]}[self.position]
        if self.path == CLASSES:
            words, given = WORDS["ofLogit"], {"label": viewer.label(self.channel)}
        first, value = (f"{self.history[n]:.3g}" if self.history else "" for n in (0, -1))
        return {"goal": words.format(**given), "first": first, "value": value, "steps": len(self.history)}


def climbed_html(viewer: Viewer, climbed: Climbed, controls: str | None = None) -> str:
    """Where an ascent started, where it is, and the curve of its answers.

    As :func:`picture_html`, for the maximisation explorer.
    """
    given = climbed.words(viewer)
    start, picture = (
        _panel_html(name, pixels, WORDS[f"{name}Picture"])
        for name, pixels in (("start", climbed.start), ("climbed", climbed.picture))
    )
    low, high = min([0.0, *climbed.history]), max([0.0, *climbed.history])
    last = max(1, len(climbed.history) - 1)
    points = " ".join(
        f"{100 * n / last:.2f},{40 - 40 * (value - low) / (high - low or 1):.2f}"
        for n, value in enumerate(climbed.history)
    )
    says = WORDS["climbed"].format(**given) if climbed.history else ""
    answer = WORDS["answer"].format(**given) if climbed.history else ""
    return (
        f'<div class="zf-picture"><div class="zf-climb">{start}{picture}</div>'
        f'<figure class="zf-curve"><svg viewBox="-1 -1 102 42" preserveAspectRatio="none" role="img" '
        f'aria-label="{WORDS["ascent"]}"><polyline points="{points}"/></svg>'
        f'<figcaption class="zf-answer">{escape(answer)}</figcaption></figure>{controls or ""}'
        f'<div class="zf-words"><p class="zf-says" aria-live="polite">{escape(says)}</p>'
        f'<p class="zf-credit">{escape(climbed.credit)}</p></div></div>'
    )


def climb_controls(viewer: Viewer, climbed: Climbed, classes: int) -> str:
    """What to climb to, the regularisers, and the buttons; ``classes`` is how many there are."""
    paths = viewer.layers | ({"class": CLASSES} if classes else {})
    layers, places = _options(paths, climbed.path), _options(POSITIONS, climbed.position)
    of_class = climbed.path == CLASSES
    hidden = " hidden" * of_class
    feature = (
        f'<label{hidden}>Feature<input type="number" inputmode="numeric" data-choice="feature" '
        f'min="0" value="{0 if of_class else climbed.channel}" disabled autocomplete="off"></label>'
    )
    target = _class_control(viewer, climbed.channel if of_class else 0, classes) if classes else ""
    if not of_class:
        target = target.replace("<label>", "<label hidden>", 1)
    switches = "".join(
        f'<label class="zf-switch"><input type="checkbox" data-choice="{name}" checked disabled '
        f'autocomplete="off">{words}</label>'
        for name, words in SWITCHES.items()
    )
    buttons = "".join(
        f'<button type="button" data-do="{do}" disabled>{WORDS[words]}</button>'
        for do, words in (("climb", "climb"), ("noise", "otherNoise"), ("begin", "fromPhotograph"))
    )
    return (
        '<div class="zf-choices"><label>Layer<select data-choice="layer" disabled autocomplete="off">'
        f"{layers}</select></label>{feature}{target}<label{hidden}>Which part"
        f'<select data-choice="position" disabled autocomplete="off">{places}</select>'
        f'</label>{buttons}</div><fieldset class="zf-switches"><legend>What holds the picture back</legend>'
        f"{switches}</fieldset>"
    )


def _options(values: Mapping[str, str], chosen: str) -> str:
    return "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(words)}</option>'
        for words, value in values.items()
    )


# ------------------------------------------------------------------------------ nine hits as HTML
@dataclass(frozen=True)
class Nine:
    """What one feature of a gallery looks for.

    ``hits`` of :class:`zfcore.gallery.Hit`, None where there are no more; ``projections`` and, where the
    pictures are at hand, ``patches`` are (9, h, w, 3) uint8.
    """

    layer: str
    path: str
    feature: int
    hits: tuple[Hit | None, ...]
    projections: np.ndarray
    patches: np.ndarray | None
    pictures: int | None

    @classmethod
    def of(cls, gallery: Gallery, layer: str, feature: int) -> Nine:
        """Of a feature of the gallery, its layer by either name."""
        wall = gallery.wall(layer, feature)
        patches = gallery.patches(layer, feature) if gallery.has_patches else None
        projections = gallery.projections(layer, feature)
        number = gallery.about.get("n")
        return cls(wall.name, wall.path, feature, wall.hits[feature], projections, patches, number)

    def words(self) -> list[str]:
        """What each hit is, for those who do not see it."""
        told = enumerate(self.hits, 1)
        return [
            WORDS["hit" if hit.label else "unlabelled"].format(
                rank=n, label=hit.label, picture=hit.picture, value=f"{hit.value:.3g}"
            )
            if hit
            else ""
            for n, hit in told
        ]

    def names(self) -> list[str]:
        """What each hit is called: by its label, or without one by its picture."""
        return [(hit.label or hit.picture) if hit else "" for hit in self.hits]

    def labels(self, most: int | None = None) -> list[str]:
        """What the hits are called, with how often, the most frequent first."""
        counts = Counter(filter(None, self.names())).most_common(most)
        return [WORDS["times"].format(count=n, label=label) if n > 1 else label for label, n in counts]

    @property
    def number(self) -> str:
        """Of how many pictures these are the strongest."""
        return f"{self.pictures:,}" if self.pictures else ""

    def says(self) -> str:
        """The nine in words: the line under the pictures."""
        labels = self.labels()
        return WORDS["features" if labels else "dead"].format(
            layer=self.layer,
            feature=self.feature,
            labels=", ".join(labels),
            value=f"{self.hits[0].value:.3g}" if labels else "",
            n=self.number,
        )

    def sheet(self, side: int = 160, gap: int = 8) -> np.ndarray:
        """The projections in a row, over the patches where they are: (…, …, 3) uint8 on white."""
        rows = [self.projections] + ([] if self.patches is None else [self.patches])
        sheets = [view.beside([(cell, None) for cell in row], side, gap) for row in rows]
        between = np.full((gap, sheets[0].shape[1], 3), 255, np.uint8)
        return np.concatenate([part for sheet in sheets for part in (between, sheet)][1:])


def features_html(
    nine: Nine,
    crops: Nine | None,
    seen: Seen,
    strongest: Sequence[int],
    controls: str | None = None,
) -> str:
    """Nine hits of a feature, its nine strongest crops of photographs, and what answers most to a photograph.

    As :func:`picture_html`, for the feature explorer. ``strongest`` are the features of its layer to list
    for the photograph ``seen``.
    """
    live, told = controls is not None, nine.words()
    there = nine.patches is not None
    names = nine.names()
    walls = _nine_html("projections", WORDS["nineProjections"], nine.projections, told, names)
    if there:
        walls += _nine_html("patches", WORDS["ninePatches"], nine.patches, told, names)
    items = "".join(f"<li>{escape(words.partition('. ')[2])}</li>" for words in told if words)
    listed = f'<div class="zf-told"><p>{WORDS["told"]}</p><ol class="zf-hits">{items}</ol></div>'
    row = _layer_html(seen, nine.layer, nine.path, strongest, nine.feature, live)
    role = "radiogroup" if live else "group"
    below = ""
    if crops is not None:
        said = [
            hit and WORDS["crop"].format(rank=n, title=hit.label, value=f"{hit.value:.3g}")
            for n, hit in enumerate(crops.hits, 1)
        ]
        below = _nine_html("crops", WORDS["nineCrops"], crops.patches, said)
        below += _nine_html("cropProjections", WORDS["nineCropProjections"], crops.projections, said)
        below = f'<div class="zf-crops">{below}</div>'
    return (
        f'<div class="zf-picture">{controls or ""}<div class="zf-walls">{walls}{listed}</div>'
        f'<div class="zf-words"><p class="zf-says" aria-live="polite">{escape(nine.says())}</p></div>{below}'
        f'<div class="zf-answers"><p>{WORDS["answers"]}</p><div class="zf-layers" role="{role}" '
        f'aria-label="{WORDS["answers"]}">{row}</div>'
        f'<p class="zf-credit">{escape(seen.subject.credit)}</p></div></div>'
    )


def _nine_html(
    name: str,
    title: str,
    pictures: np.ndarray,
    told: Sequence[str | None],
    captions: Sequence[str] | None = None,
) -> str:
    items, quality = [], None if pictures.shape[1] < CRISP_BELOW else 90
    for n, (pixels, words) in enumerate(zip(pictures, told, strict=True)):
        caption = f"<span>{escape(captions[n])}</span>" if captions else ""
        image = (
            f'<img src="{data_url(as_webp(pixels, quality))}" alt="{escape(words or "")}" '
            f'title="{escape(words or "")}" class="{_pixels_class(pixels)}">'
        )
        items.append(f"<li{'' if words else ' hidden'}>{image}{caption}</li>")
    return (
        f'<div class="zf-wall"><p>{title}</p>'
        f'<ol class="zf-nine" data-nine="{name}">{"".join(items)}</ol></div>'
    )


def feature_controls(layers: Mapping[str, str], nine: Nine, features: Sequence[int]) -> str:
    """Layer and feature by number, in turn or by chance, and the link."""
    options = "".join(
        f'<option value="{escape(path)}"{" selected" if path == nine.path else ""}>{escape(name)}</option>'
        for name, path in layers.items()
    )
    steps = "".join(
        f'<button type="button" data-do="{do}" disabled>{words}</button>'
        for do, words in (("previous", "Previous"), ("next", "Next"), ("random", "Any"))
    )
    return (
        '<div class="zf-choices">'
        f'<label>Layer<select data-choice="layer" disabled autocomplete="off">{options}</select></label>'
        f'<label>Feature<input type="number" inputmode="numeric" data-choice="feature" min="0" '
        f'max="{features[-1]}" value="{nine.feature}" disabled autocomplete="off"></label>{steps}'
        '<button type="button" data-do="link" disabled>Copy a link to it</button></div>'
    )


# ------------------------------------------------------------------------------ another set's class as HTML
#: Accuracies by training pictures of each class, as (pictures, mean in percent, deviation in points).
Curve = Sequence[tuple[float, float, float]]
CARRIERS = 4  # features that are shown for a class
PLOT = (44, 12, 470, 190)  # left, top, right, bottom of the curves, in the units of a drawing 480 wide


@dataclass(frozen=True)
class Lesson:
    """A class of another data set: its accuracies, and the features that carry it.

    ``place`` is its place among the ``count`` classes by accuracy, from 1; ``curves`` are by row, such as
    ``"pretrained, layer 5"``; ``carriers`` are (feature of ``layer``, its part in the decision).
    """

    name: str
    place: int
    count: int
    layer: str
    curves: Mapping[str, Curve]
    carriers: Sequence[tuple[int, float]]

    @classmethod
    def every(
        cls,
        layer: str,
        curves: Mapping[str, Mapping[str, Curve]],
        carriers: Mapping[str, Sequence[tuple[int, float]]],
    ) -> list[Lesson]:
        """Of classes by name, the best first: by the last point of the first row."""
        if not curves:
            raise ValueError("there are no curves to show; `zfcore reproduce fig7` records them")
        if missing := sorted(curves.keys() - carriers.keys()):
            raise ValueError(f"no features are given for {', '.join(missing)}")
        ranked = sorted(curves, key=lambda name: -next(iter(curves[name].values()))[-1][1])
        return [
            cls(name, place, len(ranked), layer, curves[name], carriers[name][:CARRIERS])
            for place, name in enumerate(ranked, 1)
        ]

    @property
    def title(self) -> str:
        """The class with its accuracy, as it is listed."""
        return f"{self.name}, {next(iter(self.curves.values()))[-1][1]:.0f} %"

    def says(self) -> str:
        """The class in words: the line under the curves."""
        row, points = next(iter(self.curves.items()))
        (least, early, _), (most, right, _) = points[0], points[-1]
        return WORDS["lesson"].format(
            name=self.name, place=self.place, count=self.count, row=row, layer=self.layer,
            most=f"{most:.0f}", right=f"{right:.0f}", least=f"{least:.0f}", early=f"{early:.0f}",
            carriers=", ".join(WORDS["carrier"].format(feature=feature) for feature, _ in self.carriers),
        )  # fmt: skip

    def alt(self) -> str:
        """The curves for those who do not see them: every row at its first, middle and last point."""
        told = []
        for row, points in self.curves.items():
            three = [points[n] for n in sorted({0, len(points) // 2, len(points) - 1})]
            given = [WORDS["curvePoint"].format(mean=f"{y:.0f}", pictures=f"{x:.0f}") for x, y, _ in three]
            told.append(WORDS["curve"].format(row=row, points=", ".join(given)))
        return WORDS["ofLesson"].format(name=self.name, curves=" ".join(told))

    def captions(self) -> list[str]:
        """What stands over each feature's nine pictures."""
        return [WORDS["carrierWall"].format(feature=f, part=f"{part:+.2f}") for f, part in self.carriers]

    def lines(self) -> list[str]:
        """The curves' points in the drawing, row by row."""
        return [_points((x, y) for x, y, _ in points) for points in self._scaled()]

    def bands(self) -> list[str]:
        """The outlines of one deviation to either side, row by row."""
        return [
            _points([*((x, y - d) for x, y, d in points), *((x, y + d) for x, y, d in points[::-1])])
            for points in self._scaled()
        ]

    def _scaled(self) -> list[list[tuple[float, float, float]]]:
        left, top, right, bottom = PLOT
        most = max(points[-1][0] for points in self.curves.values())
        across, down = (right - left) / most, (bottom - top) / 100
        return [
            [(left + across * x, bottom - down * y, down * d) for x, y, d in p] for p in self.curves.values()
        ]


def _points(places: Iterable[tuple[float, float]]) -> str:
    _, top, _, bottom = PLOT
    return " ".join(f"{x:.0f},{min(max(y, top), bottom):.1f}" for x, y in places)


def lesson_html(lesson: Lesson, gallery: Gallery, controls: str = "") -> str:
    """A class's curves and words, and for each feature that carries it the nine projections of the gallery.

    As :func:`picture_html`, for the class explorer. A feature that the gallery does not show stays hidden.
    """
    walls, features = "", gallery.wall(lesson.layer).features
    for (feature, _), caption in zip(lesson.carriers, lesson.captions(), strict=True):
        nine = Nine.of(gallery, lesson.layer, feature if feature in features else features[0])
        wall = _nine_html("carrier", caption, nine.projections, nine.words())
        walls += wall if feature in features else wall.replace("<div ", "<div hidden ", 1)
    return (
        f'<div class="zf-picture">{controls}{_curves_html(lesson)}'
        f'<div class="zf-words"><p class="zf-says" aria-live="polite">{escape(lesson.says())}</p></div>'
        f'<div class="zf-carriers">{walls}</div></div>'
    )


def _curves_html(lesson: Lesson) -> str:
    """The curves as a drawing with its axes and a key below; the scripts move the curves' points only."""
    left, top, right, bottom = PLOT
    middle, centre = (left + right) // 2, (top + bottom) // 2
    curves = list(lesson.curves.values())
    most = max(points[-1][0] for points in curves)
    parts = []
    for share in range(0, 101, 25):
        y = bottom - share * (bottom - top) / 100
        parts.append(f'<path class="zf-grid" d="M{left} {y:g}H{right}"/>')
        parts.append(_text_html(left - 6, y + 4, "end", f"{share}"))
    for x in sorted({points[n][0] for points in curves for n in (0, len(points) // 2, -1)}):
        parts.append(_text_html(left + x * (right - left) / most, bottom + 16, "middle", f"{x:g}"))
    parts.append(_text_html(middle, bottom + 33, "middle", WORDS["trainingPictures"]))
    turned = f' transform="rotate(-90 12 {centre})"'
    parts.append(_text_html(12, centre, "middle", WORDS["accuracyAxis"], turned))
    for n, (row, line, band) in enumerate(zip(lesson.curves, lesson.lines(), lesson.bands(), strict=True)):
        x, y = left + 10 + 220 * (n % 2), bottom + 52 + 17 * (n // 2)
        parts.append(f'<polygon data-row="{n}" points="{band}"/><polyline data-row="{n}" points="{line}"/>')
        parts.append(f'<path class="zf-key" data-row="{n}" d="M{x} {y - 4}h26"/>')
        parts.append(_text_html(x + 32, y, "start", escape(row)))
    height = bottom + 58 + 17 * ((len(curves) - 1) // 2)
    return (
        f'<svg class="zf-curves" viewBox="0 0 480 {height}" role="img" '
        f'aria-label="{escape(lesson.alt())}">{"".join(parts)}</svg>'
    )


def _text_html(x: float, y: float, anchor: str, words: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{more}>{words}</text>'


def lesson_controls(lessons: Sequence[Lesson], shown: int) -> str:
    """The classes by accuracy, in turn, and the link."""
    options = "".join(
        f'<option value="{n}"{" selected" if n == shown else ""}>{escape(lesson.title)}</option>'
        for n, lesson in enumerate(lessons)
    )
    steps = "".join(
        f'<button type="button" data-do="{do}" disabled>{words}</button>'
        for do, words in (("previous", "Previous"), ("next", "Next"), ("link", "Copy a link to it"))
    )
    return (
        '<div class="zf-choices"><label>Class, the best first'
        f'<select data-choice="class" disabled autocomplete="off">{options}</select></label>{steps}</div>'
    )


def style_html() -> str:
    """The explorer's style sheet (``web/explorer.css``) as an element."""
    return f"<style>{(WEB / 'explorer.css').read_text(encoding='utf-8')}</style>"
