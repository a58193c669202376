r"""Networks that live in a page without a kernel: a network and photographs → HTML that computes.

An explorer in Lab and its twin in the page have the same markup (:mod:`zfcore.markup`). The page's opens
with plain pictures, for print, for readers without scripts and while it loads; from the first click on the
scripts in ``web/`` run the exported network (:mod:`zfcore.export`) by ONNX Runtime Web. What they run on
travels as scripts (:mod:`zfcore.assets`).

Source: Zeiler & Fergus, §2.1 and Fig. 2, doi:10.1007/978-3-319-10590-1_53.

Example::

    from torchvision.models import squeezenet1_1
    from zfcore.data import photographs
    from zfcore.page import save_page
    save_page(squeezenet1_1().eval(), photographs(), "report.html")    # open it, send it to a colleague
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from itertools import chain, count
from pathlib import Path
from string import Template

from torch import nn

from zfcore import model as models
from zfcore import view
from zfcore.assets import (
    RUNTIME,
    WEB,
    asset,
    crops_pack,
    gallery_state,
    inline_json,
    network_pack,
    runtime_pack,
    script,
    scripts_html,
)
from zfcore.data import Picture, decode, squares
from zfcore.figures import FRAME
from zfcore.gallery import Gallery
from zfcore.markup import (
    CLASSES,
    FARTHEST,
    NAMES,
    STRONGEST,
    WORDS,
    Climbed,
    Lesson,
    Nine,
    climb_controls,
    climbed_html,
    covered_html,
    feature_controls,
    features_html,
    lesson_controls,
    lesson_html,
    move_controls,
    moved_html,
    picture_html,
    square_controls,
    style_html,
    unit_controls,
)
from zfcore.maximization import DELTA, REGULARISED
from zfcore.occlusion import OcclusionMaps
from zfcore.view import (
    COLOURS,
    CRISP_BELOW,
    MID_GREY,
    RULES,
    Covered,
    Frame,
    Moved,
    Seen,
    Subject,
    Viewer,
    as_webp,
    data_url,
)

MOST_STEPS = 400  # of one ascent in a page, before it rests
#: How torchvision's ImageNet networks want their pictures; :func:`save_page` assumes it without a card.
IMAGENET_CARD = {
    "input_size": 224,
    "resize": 256,
    "mean": [255 * m for m in (0.485, 0.456, 0.406)],
    "scale": [255 * s for s in (0.229, 0.224, 0.225)],
}


# ------------------------------------------------------------------------------ explorers as HTML
def explorer_html(
    viewer: Viewer,
    pictures: Mapping[str, Picture],
    start: Frame,
    snippet: str,
    source: Mapping | None = None,
    gallery: Gallery | None = None,
    weights: str | None = None,
) -> str:
    """The photograph explorer as one piece of HTML, alive where its scripts and assets are at hand.

    Parameters
    ----------
    viewer
        The network.
    pictures
        Name → picture, in the order in which they are offered.
    start
        The frame that it opens with.
    snippet
        Python that makes a projection again, with fields to fill: ``{pixels}``, ``{path}``, ``{feature}``,
        ``{row}``, ``{column}``.
    source
        Where the book's build finds the network (:func:`zfcore.assets.source`), which then lies beside the
        pages and is loaded by the first click; None: it goes into this very piece of HTML, and starts by
        itself where the runtime is in the page too.
    gallery
        What the features look for, if that shall be shown too.
    weights
        The name under which the book stores the gallery, if it does; else some of its features come along.

    Returns
    -------
    str
        A ``<div class="zf-explorer">`` with its style and pictures inside; ``data-on`` is set on it when its
        controls live. It has no ids, so a page may hold any number of them.
    """
    choice = {"path": start.path, "feature": start.feature, "unit": start.unit}
    state = {"rules": RULES, "start": choice, "gallery": None}
    body = picture_html(viewer, start, unit_controls(start), gallery)
    if gallery is not None:
        state["gallery"], packs = gallery_state(gallery, weights)
        body += scripts_html({name: asset(name, packed) for name, packed in packs.items()})
    return _shell_html("photo", viewer, pictures, start.seen.subject.name, snippet, source, state, body)


def occlusion_html(
    viewer: Viewer,
    pictures: Mapping[str, Picture],
    start: Covered,
    scan: tuple[OcclusionMaps, int],
    stride: int,
    snippet: str,
    source: Mapping | None = None,
) -> str:
    """The occlusion explorer as one piece of HTML; parameters and result as of :func:`explorer_html`.

    It opens with the square of ``start`` and with a ``scan``, the maps and their stride; the page's own scans
    have ``stride``.
    """
    square = {
        "top": start.top, "left": start.left, "size": start.size, "fill": start.fill, "target": start.target,
    }  # fmt: skip
    state = {"path": start.path, "stride": stride, "palette": COLOURS, "start": square}
    body = covered_html(viewer, start, *scan, square_controls(viewer, start))
    name = start.seen.subject.name
    return _shell_html("occlusion", viewer, pictures, name, snippet, source, state, body)


def invariance_html(
    viewer: Viewer,
    pictures: Mapping[str, Picture],
    start: Moved,
    snippet: str,
    source: Mapping | None = None,
) -> str:
    """The invariance explorer as one piece of HTML; parameters and result as of :func:`explorer_html`."""
    (_, first, _), (name, deepest, _) = start.distances
    choice = {key: getattr(start, key) for key in ("shift", "scale", "rotation", "target")}
    state = {"paths": [first, deepest], "deepest": name, "farthest": FARTHEST, "start": choice}
    body = moved_html(viewer, start, move_controls(viewer, start))
    shown = start.seen.subject.name
    return _shell_html("invariance", viewer, pictures, shown, snippet, source, state, body)


def feature_html(
    viewer: Viewer,
    gallery: Gallery,
    pictures: Mapping[str, Picture],
    start: Nine,
    seen: Seen,
    crops: Gallery | None,
    snippet: str,
    source: Mapping | None = None,
    weights: str | None = None,
) -> str:
    """The feature explorer as one piece of HTML; parameters and result as of :func:`explorer_html`.

    It opens with the feature of ``start`` and with what answers most to ``seen``. A gallery that the book
    stores for the ``weights`` lies beside the pages; of any other some features come along
    (:func:`zfcore.assets.gallery_state`). ``crops`` is one among :class:`zfcore.gallery.Crops` of
    the pictures.
    """
    state, packs = gallery_state(gallery, weights)
    layer = next(layer for layer in state["layers"] if layer["path"] == start.path)
    if start.feature not in layer["features"]:
        nearest = min(layer["features"], key=lambda n: abs(n - start.feature))
        start = Nine.of(gallery, start.path, nearest)
    constants = {
        "gallery": state,
        "crops": None,
        "card": {key: viewer.card[key] for key in ("input_size", "resize")},
        "start": {"path": start.path, "feature": start.feature},
    }
    if crops is not None:
        packed = crops_pack(crops, pictures)
        constants["crops"] = f"crops-{hashlib.sha256(packed).hexdigest()[:12]}"
        packs[constants["crops"]] = packed
    body = features_html(
        start, crops and Nine.of(crops, start.path, start.feature), seen,
        seen.strongest_of(start.path, layer["features"], STRONGEST),
        feature_controls(viewer.layers, start, layer["features"]),
    )  # fmt: skip
    body += scripts_html({name: asset(name, packed) for name, packed in packs.items()})
    name = seen.subject.name
    return _shell_html("feature", viewer, pictures, name, snippet, source, constants, body)


def class_html(lessons: Sequence[Lesson], shown: int, gallery: Gallery, weights: str | None = None) -> str:
    """The class explorer as one piece of HTML; it runs no network.

    Parameters
    ----------
    lessons
        The classes, in the order in which they are offered.
    shown
        The number of the one to open with.
    gallery
        Where the projections of the features come from.
    weights
        The name under which the book stores it, if it does; else some of its features come along, and the
        others stay hidden.
    """
    wall = gallery.wall(lessons[shown].layer)
    state, packs = gallery_state(gallery, weights)
    state["layers"] = [layer for layer in state["layers"] if layer["path"] == wall.path]
    packs = {layer["asset"]: packs[layer["asset"]] for layer in state["layers"] if layer["asset"] in packs}
    constants = {
        "explorer": "class",
        "source": None,
        "gallery": state,
        "path": wall.path,
        "words": {name: WORDS[name] for name in ("copied", "hit", "unlabelled")},
        "style": {"crispBelow": CRISP_BELOW},
        "start": shown,
        "classes": [
            {
                "name": lesson.name,
                "says": lesson.says(),
                "alt": lesson.alt(),
                "lines": lesson.lines(),
                "bands": lesson.bands(),
                "carriers": list(
                    zip((feature for feature, _ in lesson.carriers), lesson.captions(), strict=True)
                ),
            }
            for lesson in lessons
        ],
    }
    body = lesson_html(lessons[shown], gallery, lesson_controls(lessons, shown))
    body += scripts_html({name: asset(name, packed) for name, packed in packs.items()})
    return (
        f'<div class="zf-explorer" data-explorer="class" role="group" aria-label="{NAMES["class"]}" '
        f'aria-busy="false">{style_html()}{body}<p class="zf-status" role="status"></p>'
        f'<script type="application/json" class="zf-state">{inline_json(constants)}</script></div>'
    )


def maximization_html(
    viewer: Viewer,
    pictures: Mapping[str, Picture],
    start: Climbed,
    shown: str,
    snippet: str,
    seed: int = 0,
    source: Mapping | None = None,
) -> str:
    """The maximisation explorer as one piece of HTML; parameters and result as of :func:`explorer_html`.

    It opens with the ascent ``start``; the next one starts from noise of ``seed``, or from a photograph, of
    which ``shown`` is the chosen one.
    """
    classes = len(viewer.card["labels"]) if viewer.classifier and viewer.card.get("labels") else 0
    of_class = start.path == CLASSES
    state = {
        "recipe": asdict(REGULARISED) | {"delta": DELTA},
        "befores": {path: viewer.before(path) for path in viewer.layers.values()},
        "result": viewer.net.trace.result if classes else None,
        "most": MOST_STEPS,
        "start": {
            "path": start.path,
            "feature": 0 if of_class else start.channel,
            "target": start.channel if of_class else 0,
            "position": start.position,
            "seed": seed,
            "pixels": start.subject and start.subject.python,
            "steps": len(start.history),
        },
    }
    body = climbed_html(viewer, start, climb_controls(viewer, start, classes))
    return _shell_html("maximization", viewer, pictures, shown, snippet, source, state, body)


def _shell_html(
    kind: str,
    viewer: Viewer,
    pictures: Mapping[str, Picture],
    shown: str,
    snippet: str,
    source: Mapping | None,
    state: Mapping,
    body: str,
) -> str:
    """What all explorers share around their ``body``: start, photographs, status, what to take along."""
    labels = viewer.card.get("labels") if viewer.classifier else None
    network, inside = (source["network"], "") if source else _network_inside(viewer)
    constants = {
        "explorer": kind,
        "network": network,
        "source": source,
        "begin": source is None,
        "layers": [{"name": name, "path": path} for name, path in viewer.layers.items()],
        "words": WORDS,
        "snippet": snippet,
        "colours": base64.b64encode(view.map_colours().tobytes()).decode("ascii"),
        "style": {"grey": MID_GREY, "crispBelow": CRISP_BELOW, "frame": FRAME},
        "photographs": [_photograph_state(name, picture, viewer) for name, picture in pictures.items()],
    }
    constants |= {**state, "start": {"photograph": shown, **state.get("start", {})}}
    thumbs = "".join(
        _thumb_html(Subject.of(name, picture), picture, viewer, name == shown)
        for name, picture in pictures.items()
    )
    return (
        f'<div class="zf-explorer" data-explorer="{kind}" role="group" aria-label="{NAMES[kind]}">'
        f"{style_html()}"
        '<div class="zf-begin"><p class="zf-size"></p>'
        '<button type="button" data-do="load" disabled>Start the network</button></div>'
        f'<div class="zf-photographs" role="group" aria-label="Photographs">{thumbs}'
        '<span class="zf-own-picture"><label class="zf-button">Your own<input type="file" accept="image/*" '
        'disabled></label><button type="button" data-do="camera" hidden disabled>Camera</button></span></div>'
        f'<p class="zf-status" role="status">{WORDS["hint"]}</p>'
        f'<progress hidden aria-label="Loading"></progress>{body}'
        '<div class="zf-take"><button type="button" data-do="picture" disabled>Save the picture</button>'
        '<button type="button" data-do="python" disabled>Copy the Python that makes it</button></div>'
        f"{_known_html(labels)}"
        '<dialog aria-label="Camera"><form method="dialog"><video muted playsinline></video>'
        '<button value="take">Take the picture</button><button value="">Close</button></form></dialog>'
        f'{inside}<script type="application/json" class="zf-state">{inline_json(constants)}</script></div>'
    )


def _photograph_state(name: str, picture: Picture, viewer: Viewer) -> dict:
    square = squares([picture], viewer.card)[0]
    return vars(Subject.of(name, picture)) | {"square": data_url(as_webp(square))}


def _thumb_html(subject: Subject, picture: Picture, viewer: Viewer, chosen: bool) -> str:
    small = data_url(as_webp(view.close_view(decode(picture), viewer.card), 80))
    return (
        f'<button type="button" data-photograph="{escape(subject.name)}" title="{escape(subject.title)}" '
        f'aria-pressed="{str(chosen).lower()}" disabled>'
        f'<img src="{small}" alt="{escape(subject.alt)}"></button>'
    )


def _known_html(labels: Sequence[str] | None) -> str:
    if not labels:
        return ""
    items = "".join(f"<li>{escape(label)}</li>" for label in sorted(labels, key=str.casefold))
    return (
        f'<details class="zf-known"><summary>The {len(labels)} things this network knows</summary>'
        f"<ul>{items}</ul></details>"
    )


def _network_inside(viewer: Viewer) -> tuple[str, str]:
    """The name of a network's asset, and the asset as HTML."""
    packed, rounding = network_pack(viewer)
    name = f"own-{hashlib.sha256(packed).hexdigest()[:12]}"
    note = f"Weights are rounded to half precision, by at most {rounding:.1g} of the largest in their tensor."
    told = f'<p class="zf-credit">{note}</p>' if rounding else ""
    return name, told + scripts_html({name: asset(name, packed)})


# ------------------------------------------------------------------------------ a page of one's own network
SNIPPET = """\
from zfcore.data import photographs, to_input
from zfcore.deconvnet import Deconvnet
{load}
picture = to_input([{{pixels}}], card)
net = Deconvnet(network)
projection = net.project(picture, "{{path}}", {{feature}}, ({{row}}, {{column}}))  # or rule="gradient"
"""
OCCLUSION_SNIPPET = """\
import numpy as np
from zfcore.data import photographs, to_input
from zfcore.occlusion import occlusion_maps
{load}
picture = to_input([{{pixels}}], card)[0]
maps = occlusion_maps(network, picture, {{target}}, {{size}}, {{stride}}, "{{path}}", fill={{fill}})
maps.probability, maps.label, maps.activation  # by place of the square, (rows, columns)
"""
LOAD = 'from zfcore.model import load\nnetwork, card = load("{weights}")'
LOAD_YOURS = "from my_project import network, card  # your own network, and how it wants its pictures"


MAXIMIZATION_SNIPPET = """\
from zfcore.data import photographs, to_input
from zfcore.maximization import maximize
{load}
r = maximize(
    network, "{{path}}", {{channel}}, card["input_size"], position="{{position}}", seed={{seed}},
    start={{start}},
    iterations={{steps}}, l2={{l2}}, tv={{tv}}, jitter={{jitter}}, scale={{scale}}, rotation={{rotation}},
    frequency={{frequency}},
)
r.image, r.history  # (3, S, S) in the network's units; a page draws its noise from another generator
"""
INVARIANCE_SNIPPET = """\
from zfcore.data import photographs, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.invariance import warp
{load}
picture, layers = to_input([{{pixels}}], card), ["{{first}}", "{{deepest}}"]
moved = warp(warp(warp(picture, "rotate", {{rotation}}), "scale", {{scale}}), "translate", {{shift}})
before, after = (Deconvnet(network).activations(x, layers) for x in (picture, moved))
dict((layer, (after[layer] - f).norm() / f.norm()) for layer, f in before.items())
"""
STORED_SNIPPET = """\
from zfcore.gallery import Gallery
gallery = Gallery.load("book/results/top9", "{weights}")
gallery.hits("{{layer}}", {{feature}}), gallery.projections("{{layer}}", {{feature}})
"""
GALLERY_SNIPPET = """\
from zfcore.gallery import Gallery
from zfcore.view import Viewer
{load}
from my_project import pictures  # by name, or a data set of zfcore.data
gallery = Gallery.of(Viewer(network, card), pictures)
gallery.hits("{{layer}}", {{feature}}), gallery.projections("{{layer}}", {{feature}})
"""


def snippet(weights: str | None, template: str = SNIPPET) -> str:
    """Python that makes what is shown again; ``weights`` is their name for :func:`zfcore.model.load`.

    The architecture that stands in the card of public weights is no such name.
    """
    loadable = weights and not weights.startswith("torchvision.") and not weights.endswith("-public")
    return template.format(load=LOAD.format(weights=weights) if loadable else LOAD_YOURS, weights=weights)


def save_page(
    model: nn.Module,
    pictures: Mapping[str, Picture] | Iterable[Picture],
    path: str | os.PathLike,
    layers: Mapping[str, str] | Iterable[str] | None = None,
    card: Mapping | None = None,
    labels: Sequence[str] | None = None,
    features_only: bool = False,
) -> Path:
    """Write one HTML file in which anyone explores this network: no Python, no installation, no connection.

    The file holds the network and its deconvnet (weights in half precision), the runtime, the pictures and
    the photograph explorer; readers may also drop pictures of their own.

    Parameters
    ----------
    model
        Any network in eval mode, (N, 3, S, S) → (N, classes), that :func:`zfcore.export.export_onnx` takes.
    pictures
        Name → picture, or pictures: files, PIL images, arrays (H, W, 3) uint8, photographs.
    path
        Of the file; a missing folder is made.
    layers, card
        As for :class:`zfcore.view.Viewer`. Without a card, :data:`IMAGENET_CARD`, which torchvision's
        networks want.
    labels
        What the classes are called, in the order of the logits. Default: the card's, else their numbers.
    features_only
        Leave out what follows the last of ``layers``: a classifier may be most of a network's weights.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        No pictures, or one that cannot be decoded; a network that cannot be traced, undone or written in
        ONNX (the message names the node); labels that do not fit.
    OSError
        The file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; give the name of a file, such as {path / 'report.html'}"
        )
    if not isinstance(pictures, Mapping):
        pictures = _by_name([pictures] if isinstance(pictures, str | os.PathLike) else pictures)
    if not pictures:
        raise ValueError("there are no pictures to explore; give at least one")
    card = dict(IMAGENET_CARD if card is None else card) | (
        {"labels": list(labels)} if labels is not None and len(labels) else {}
    )
    viewer = Viewer(model, card, layers, classifier=not features_only)
    start = viewer.first(viewer.look(*next(iter(pictures.items()))))
    name = getattr(getattr(model, "architecture", None), "name", type(model).__name__)
    text = Template((WEB / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"Inside {name}"),
        about=escape(_about(viewer)),
        explorer=explorer_html(viewer, pictures, start, snippet(None)),
        runtime=scripts_html({RUNTIME: asset(RUNTIME, runtime_pack())}),
        script=script(),
    )
    models.write_atomically(path, text.encode())
    return path


def _by_name(pictures: Iterable[Picture]) -> dict[str, Picture]:
    """Pictures by name; the later of those that share one, as files of two folders may, are numbered."""
    named = {}
    for number, picture in enumerate(pictures, 1):
        name = _picture_name(picture, number)
        others = (f"{name} ({n})" for n in count(2))
        named[next(each for each in chain([name], others) if each not in named)] = picture
    return named


def _picture_name(picture: Picture, number: int) -> str:
    if isinstance(picture, str | os.PathLike):
        return Path(picture).name
    return getattr(picture, "name", None) or f"picture {number}"


def _about(viewer: Viewer) -> str:
    weights = sum(parameter.numel() for parameter in viewer.model.parameters())
    lines = [
        f"A network of {weights:,} weights, run in this page on pictures of {viewer.side}×{viewer.side} "
        "pixels: choose a photograph or drop your own, then a feature and a unit; see what made it answer."
    ]
    if not viewer.classifier:
        lines.append("What follows its last shown layer is left out, so it names nothing.")
    return " ".join(lines)
