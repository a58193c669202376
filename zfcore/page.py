r"""Networks that live in a page without a kernel: a network and photographs → HTML that computes.

The explorer in Lab and the one in the page have the same markup, made here by :func:`picture_html`. The
page's opens with one frame as plain pictures, for print, for readers without scripts and while it loads;
from the first click on the scripts in ``web/`` run the exported network (:mod:`zfcore.export`) by ONNX
Runtime Web. A page opened from disk may not fetch files, so network and runtime travel as scripts that
hold gzip in base64 (:func:`asset`): beside the book's pages, or inside the one file of :func:`save_page`.

Source: Zeiler & Fergus, §2.1 and Fig. 2, doi:10.1007/978-3-319-10590-1_53.

Example::

    from torchvision.models import squeezenet1_1
    from zfcore.data import photographs
    from zfcore.page import save_page
    save_page(squeezenet1_1().eval(), photographs(), "report.html")    # open it, send it to a colleague
"""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template

import numpy as np
import torch
from torch import Tensor, nn

from zfcore import model as models
from zfcore import view
from zfcore.data import Picture, centre_crop, decode, squares
from zfcore.export import WEIGHTS, export_onnx
from zfcore.figures import FRAME
from zfcore.view import CRISP_BELOW, MID_GREY, RULES, Frame, Subject, Viewer, as_webp, colour_map, data_url

WEB = Path(__file__).parent / "web"
SCRIPTS = ("picture.js", "draw.js", "load.js", "worker.js", "network.js", "explorer.js")
RUNTIME_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
RUNTIME = "runtime"  # the name of its asset, here and in load.js
PIECE = 3 << 19  # bytes of gzip in one script: the reader sees the progress at each
LONG_NAME = 12  # characters of a layer's name that fit beside its maps in the usual size
STRONGEST = 8  # small maps of each layer
LARGEST = 7_500_000  # weights of a network that a page takes whole: 20 MB, and 5 for the runtime

#: How torchvision's ImageNet networks want their pictures; :func:`save_page` assumes it without a card.
IMAGENET_CARD = {
    "input_size": 224,
    "resize": 256,
    "mean": [255 * m for m in (0.485, 0.456, 0.406)],
    "scale": [255 * s for s in (0.229, 0.224, 0.225)],
}

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
    "saved": "Saved as {file}.",
    "copied": "Copied.",
}


# ------------------------------------------------------------------------------ a frame as HTML
def picture_html(viewer: Viewer, frame: Frame, controls: str | None = None) -> str:
    """A frame with its captions, the network's guesses, every layer's strongest maps, and the line in words.

    The same markup serves Lab, the page before its script is alive, and print. ``controls`` go below the map;
    None (in Lab, where widgets are the controls) also makes the small maps mere pictures.
    """
    live = controls is not None
    panels, captions = frame.panels(), frame.captions()
    figures = {name: _figure_html(name, panels[name], captions[name], frame, live) for name in panels}
    closeups = "".join(html for name, html in figures.items() if name not in ("photograph", "map"))
    rows = "".join(_layer_html(frame, name, path, live) for name, path in viewer.layers.items())
    role = "radiogroup" if live else "group"
    return (
        f'<div class="zf-picture"><div class="zf-board"><div>{figures["photograph"]}{figures["map"]}</div>'
        f'<div><div class="zf-guesses"><p>{WORDS["guesses" if viewer.classifier else "unjudged"]}</p>'
        f"<ol>{_guesses_html(frame.seen.guesses)}</ol></div>"
        f'<div class="zf-layers" role="{role}" aria-label="The strongest features of each layer">{rows}</div>'
        f'<div class="zf-unit">{controls or ""}</div>'
        f'<div class="zf-words"><p class="zf-says" aria-live="polite">{escape(frame.says())}</p>'
        f'<p class="zf-credit">{escape(frame.seen.subject.credit)}</p></div></div></div>'
        f'<div class="zf-closeups">{closeups}</div></div>'
    )


def _figure_html(name: str, pixels: np.ndarray, caption: str, frame: Frame, live: bool) -> str:
    height, width = pixels.shape[:2]
    mark, small, alt = "", "", caption
    image = data_url(as_webp(pixels))
    if name == "photograph":
        image, alt = data_url(as_webp(pixels, 80)), frame.seen.subject.alt
        field = frame.field
        box = (field.left, field.top, field.right - field.left, field.bottom - field.top)
        mark = _mark_html(frame.seen.square.shape[0], box)
    elif name == "map":
        longest, (y, x) = max(height, width), frame.unit
        mark = _mark_html(longest, (x + (longest - width) / 2, y + (longest - height) / 2, 1, 1))
        small = f" <small>{escape(frame.path if frame.path != frame.layer else '')}</small>"
    stage = f'<img src="{image}" alt="{escape(alt)}" class="{_pixels_class(pixels)}">{mark}'
    if name == "map" and live:
        words = "Choose a unit of the map: click, or use the arrow keys"
        stage = (
            f'<button type="button" class="zf-stage" data-do="unit" title="{words}" disabled>{stage}</button>'
        )
    else:
        stage = f'<span class="zf-stage">{stage}</span>'
    return (
        f'<figure class="zf-panel" data-panel="{name}">{stage}'
        f"<figcaption><span>{escape(caption)}</span>{small}</figcaption></figure>"
    )


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


def _layer_html(frame: Frame, name: str, path: str, live: bool) -> str:
    """The strongest maps of one layer as small pictures, the chosen one marked."""
    cells = []
    for feature in frame.seen.strongest(path, STRONGEST):
        activation = frame.seen.maps[path][feature]
        words = WORDS["cell"].format(layer=name, feature=feature, value=f"{activation.max():.3g}")
        pixels = colour_map(activation)
        image = (
            f'<img src="{data_url(as_webp(pixels))}" alt="{escape(words)}" class="{_pixels_class(pixels)}">'
        )
        chosen = (path, feature) == (frame.path, frame.feature)
        if live:
            cells.append(
                f'<button type="button" class="zf-cell" role="radio" aria-checked="{str(chosen).lower()}" '
                f'tabindex="{0 if chosen else -1}" data-path="{escape(path)}" data-feature="{feature}" '
                f"disabled>{image}</button>"
            )
        else:
            cells.append(f'<span class="zf-cell{" zf-chosen" if chosen else ""}">{image}</span>')
    long = ' class="zf-long"' if len(name) > LONG_NAME else ""
    return f'<div class="zf-layer"><span{long}>{escape(name)}</span>{"".join(cells)}</div>'


def _guesses_html(guesses: Sequence[tuple[str, float, bool]]) -> str:
    return "".join(
        f"<li{' class=zf-own' if own else ''}>"
        f"<span>{escape(words)}{' ' + WORDS['right'] if own else ''}</span>"
        f' <b>{_percent(probability)}</b><i style="inline-size:{100 * probability:.1f}%"></i></li>'
        for words, probability, own in guesses
    )


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability >= 0.005 else "< 1 %"


def style_html() -> str:
    """The explorer's style sheet (``web/explorer.css``) as an element."""
    return f"<style>{(WEB / 'explorer.css').read_text(encoding='utf-8')}</style>"


def script() -> str:
    """The explorers' scripts (``web/*.js``) as one, with no name left outside."""
    sources = "\n".join((WEB / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{sources}}})();\n'


def explorer_html(
    viewer: Viewer,
    pictures: Mapping[str, Picture],
    start: Frame,
    snippet: str,
    source: Mapping | None = None,
) -> str:
    """The photograph explorer as one piece of HTML, alive where :func:`script` and its assets are at hand.

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
        Where the book's build finds the network (:func:`source`), which then lies beside the pages and is
        loaded by the first click; None: it goes into this very piece of HTML, and starts by itself.

    Returns
    -------
    str
        A ``<div class="zf-explorer">`` with its style and pictures inside; ``data-on`` is set on it when its
        controls live. It has no ids, so a page may hold any number of them.
    """
    labels = viewer.card.get("labels") if viewer.classifier else None
    network, inside = (source["network"], "") if source else _network_inside(viewer)
    state = {
        "network": network,
        "source": source,
        "begin": source is None,
        "layers": [{"name": name, "path": path} for name, path in viewer.layers.items()],
        "rules": RULES,
        "words": WORDS,
        "snippet": snippet,
        "colours": base64.b64encode(view.map_colours().tobytes()).decode("ascii"),
        "style": {"grey": MID_GREY, "crispBelow": CRISP_BELOW, "frame": FRAME},
        "photographs": [_photograph_state(name, picture, viewer) for name, picture in pictures.items()],
        "start": {
            "photograph": start.seen.subject.name,
            "path": start.path,
            "feature": start.feature,
            "unit": start.unit,
        },
    }
    thumbs = "".join(
        _thumb_html(Subject.of(name, picture), picture, viewer, name == start.seen.subject.name)
        for name, picture in pictures.items()
    )
    return (
        f'<div class="zf-explorer" role="group" aria-label="Photograph explorer">{style_html()}'
        '<div class="zf-begin"><p class="zf-size"></p>'
        '<button type="button" data-do="load" disabled>Start the network</button></div>'
        f'<div class="zf-photographs" role="group" aria-label="Photographs">{thumbs}'
        '<span class="zf-own-picture"><label class="zf-button">Your own<input type="file" accept="image/*" '
        'disabled></label><button type="button" data-do="camera" hidden disabled>Camera</button></span></div>'
        f'<p class="zf-status" role="status">{WORDS["hint"]}</p>'
        '<progress hidden aria-label="Loading"></progress>'
        f"{picture_html(viewer, start, _unit_controls(start))}"
        '<div class="zf-take"><button type="button" data-do="picture" disabled>Save the picture</button>'
        '<button type="button" data-do="python" disabled>Copy the Python that makes it</button></div>'
        f"{_known_html(labels)}"
        '<dialog><form method="dialog"><video muted playsinline></video><button value="take">Take the picture'
        '</button><button value="">Close</button></form></dialog>'
        f'{inside}<script type="application/json" class="zf-state">{_json(state)}</script></div>'
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


def _unit_controls(frame: Frame) -> str:
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


def _known_html(labels: Sequence[str] | None) -> str:
    if not labels:
        return ""
    items = "".join(f"<li>{escape(label)}</li>" for label in sorted(labels, key=str.casefold))
    return (
        f'<details class="zf-known"><summary>The {len(labels)} things this network knows</summary>'
        f"<ul>{items}</ul></details>"
    )


def _json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _network_inside(viewer: Viewer) -> tuple[str, str]:
    """The name of a network's asset, and the asset as HTML."""
    packed, rounding = network_pack(viewer)
    name = f"own-{hashlib.sha256(packed).hexdigest()[:12]}"
    note = f"The weights are rounded to half precision, by at most {rounding:.1g} of a tensor’s largest."
    told = f'<p class="zf-credit">{note}</p>' if rounding else ""
    return name, told + scripts_html({name: asset(name, packed)})


STATE = re.compile(r'<script type="application/json" class="zf-state">(.*?)</script>', re.DOTALL)


def states(html: str) -> list[dict]:
    """The constants of every explorer in a page."""
    return [json.loads(found) for found in STATE.findall(html)]


# ------------------------------------------------------------------------------ networks as scripts
def pack(files: Mapping[str, bytes]) -> bytes:
    """Files → gzip of: length of the index (uint32, little endian), index (JSON), the files end to end.

    The index holds ``[name, offset, length, planes]``. Weights are stored in 4 planes (every number's first
    byte, then every second byte, …), which gzip makes smaller; nothing is lost. The same files give the
    same bytes.
    """
    index, stored = [], []
    for name, blob in files.items():
        planes = 4 if name == WEIGHTS and len(blob) % 4 == 0 else 1
        index.append([name, sum(map(len, stored)), len(blob), planes])
        stored.append(np.frombuffer(blob, np.uint8).reshape(-1, planes).T.tobytes())
    head = json.dumps(index).encode()
    return gzip.compress(b"".join([len(head).to_bytes(4, "little"), head, *stored]), 6, mtime=0)


def asset(name: str, packed: bytes) -> dict[str, str]:
    """A pack as scripts, file name → text: the pieces first, each leaving its base64 where the page looks."""
    chunks = [packed[at : at + PIECE] for at in range(0, len(packed), PIECE)]
    return {
        f"{name}.{n}.js": f"zfcore.parts[{json.dumps(f'{name}.{n}.js')}]="
        f'"{base64.b64encode(chunk).decode("ascii")}";\n'
        for n, chunk in enumerate(chunks)
    }


def assets_script(assets: Mapping[str, Mapping[str, str]]) -> str:
    """The script that tells a page which assets there are, of which files, and how large."""
    listing = {
        name: {"bytes": sum(map(len, scripts.values())), "files": list(scripts)}
        for name, scripts in assets.items()
    }
    return (
        "globalThis.zfcore ??= {parts: {}, assets: {}};\n"
        f"Object.assign(globalThis.zfcore.assets, {_json(listing)});\n"
    )


def scripts_html(assets: Mapping[str, Mapping[str, str]]) -> str:
    """Assets inside a page: the listing, then every piece, each in an element of its own."""
    texts = [assets_script(assets), *(text for scripts in assets.values() for text in scripts.values())]
    return "".join(f"<script>{text}</script>\n" for text in texts)


def fits(model: nn.Module) -> bool:
    """Whether a network is small enough for a page: with the runtime, 25 MB at most."""
    return sum(parameter.numel() for parameter in model.parameters()) <= LARGEST


def source(viewer: Viewer, weights: str | None) -> dict | None:
    """Where the book's build finds a network and what to make of it, and the name of the asset made of it.

    ``weights`` is its name for :func:`zfcore.model.load`. None for a network that does not ship with the
    package.
    """
    card = models.WEIGHTS / f"{weights}.json"
    if not card.exists() or json.loads(card.read_text("utf-8"))["sha256"] != viewer.card.get("sha256"):
        return None
    found = {
        "weights": weights,
        "sha256": viewer.card["sha256"],
        "layers": viewer.layers,
        "classifier": viewer.classifier,
    }
    return found | {"network": f"{weights}-{hashlib.sha256(_json(found).encode()).hexdigest()[:12]}"}


@cache
def runtime_pack() -> bytes:
    """ONNX Runtime Web, as :func:`pack` gives it.

    Raises ``FileNotFoundError`` where the package was installed from source without its set-up.
    """
    absent = [name for name in RUNTIME_FILES if not (WEB / name).exists()]
    if absent:
        raise FileNotFoundError(
            f"{WEB} lacks {', '.join(absent)}: the page's runtime, which a wheel of zfcore brings along. In "
            "a checkout, `make book` or `npm ci --ignore-scripts && npm run runtime` puts it there"
        )
    return pack({name: (WEB / name).read_bytes() for name in RUNTIME_FILES})


def network_pack(viewer: Viewer) -> tuple[bytes, float]:
    """The exported network with its card, as :func:`pack` gives it, its weights in half precision.

    Also gives the largest change of a weight by half precision, as a share of its tensor's largest: 0 for
    weights that are half precision already, as those that ship with the package.
    """
    model, rounding = _halved(viewer.model)
    card = {
        key: viewer.card[key] for key in ("resize", "input_size", "labels", "classes") if key in viewer.card
    }
    scale = viewer.card["scale"]
    card["scale"] = scale.flatten().tolist() if isinstance(scale, Tensor) else scale
    mean = centre_crop(viewer.card["mean"], viewer.side).contiguous()
    with tempfile.TemporaryDirectory() as folder:
        # In float32, which the page computes in: a graph that casts its weights does so in every run.
        export_onnx(model, viewer.side, viewer.layers.values(), folder, logits=viewer.classifier)
        files = {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
    return pack({"card.json": json.dumps(card).encode(), "mean": mean.numpy().tobytes(), **files}), rounding


def _halved(model: nn.Module) -> tuple[nn.Module, float]:
    """A float32 copy on the CPU, its parameters rounded to half precision, and how far that took them."""
    model, rounding = copy.deepcopy(model).cpu().float(), 0.0
    for name, parameter in model.named_parameters():
        values = parameter.data
        largest = values.abs().max().item() if values.numel() else 0.0
        if not largest <= torch.finfo(torch.float16).max:
            raise ValueError(
                f"{name!r} has a weight of {largest:.3g}, beyond half precision; scale it down first"
            )
        parameter.data = values.half().float()
        if largest:
            rounding = max(rounding, (parameter.data - values).abs().max().item() / largest)
    return model, rounding


# ------------------------------------------------------------------------------ a page of one's own network
SNIPPET = """\
from zfcore.data import photographs, to_input
from zfcore.deconvnet import Deconvnet
{load}
picture = to_input([{{pixels}}], card)
net = Deconvnet(network)
projection = net.project(picture, "{{path}}", {{feature}}, ({{row}}, {{column}}))  # or rule="gradient"
"""
LOAD = 'from zfcore.model import load\nnetwork, card = load("{weights}")'
LOAD_YOURS = "from my_project import network, card  # your own network, and how it wants its pictures"


def snippet(weights: str | None) -> str:
    """Python that makes a projection again; ``weights`` is their name for :func:`zfcore.model.load`."""
    return SNIPPET.format(load=LOAD.format(weights=weights) if weights else LOAD_YOURS)


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
        pictures = {_picture_name(picture, n): picture for n, picture in enumerate(pictures, 1)}
    if not pictures:
        raise ValueError("there are no pictures to explore; give at least one")
    card = dict(IMAGENET_CARD if card is None else card) | ({"labels": list(labels)} if labels else {})
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
