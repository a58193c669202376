"""What explorers run on, as scripts: a page opened from disk may not fetch files, but it may add scripts.

Runtime, networks and galleries are *assets*: each a gzip of some files (:func:`pack`), cut into pieces that
travel in base64 (:func:`asset`), beside the book's pages, or inside the one file of
:func:`zfcore.page.save_page`. ``web/load.js`` is the other end.

Example::

    from zfcore.assets import asset, network_pack
    from zfcore.model import load
    from zfcore.view import Viewer
    packed, rounding = network_pack(Viewer(*load("zfnet-64")))
    asset("zfnet-64", packed)                # {"zfnet-64.0.js": 'zfcore.parts["zfnet-64.0.js"]="H4s…";', …}
"""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zfcore import model as models
from zfcore.data import Picture, centre_crop, decode
from zfcore.export import WEIGHTS, export_onnx
from zfcore.gallery import GALLERIES, LOSSLESS_BELOW, Gallery, Hit
from zfcore.view import Viewer, as_webp

WEB = Path(__file__).parent / "web"
SCRIPTS = (
    "picture.js", "draw.js", "arithmetic.js", "load.js", "worker.js", "network.js", "explorer.js",
    "gallery.js", "photo.js", "occlusion.js", "features.js", "invariance.js", "maximization.js", "classes.js",
)  # fmt: skip
ALONE = ("claims.js", "approach.js")  # no explorer's: they travel by themselves (zfcore.board, .extension)
RUNTIME_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
RUNTIME = "runtime"  # the name of its asset, here and in load.js
PIECE = 3 << 19  # bytes of gzip in one script: the reader sees the progress at each
ABSENT = {"network": ""}  # the source of a network that is too large for a page
LARGEST = 7_500_000  # weights of a network that a page takes whole: 20 MB, and 5 for the runtime


def script() -> str:
    """The explorers' scripts (``web/*.js``) as one, with no name left outside."""
    sources = "\n".join((WEB / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{sources}}})();\n'


def inline_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


STATE = re.compile(r'<script type="application/json" class="zf-state">(.*?)</script>', re.DOTALL)


def states(html: str) -> list[dict]:
    """The constants of every explorer in a page."""
    return [json.loads(found) for found in STATE.findall(html)]


# ------------------------------------------------------------------------------ files as scripts
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
        f"Object.assign(globalThis.zfcore.assets, {inline_json(listing)});\n"
    )


LISTING = re.compile(r"Object\.assign\(globalThis\.zfcore\.assets, (\{.*\})\);")


def listed(html: str) -> set[str]:
    """The files of the assets that a page lists, as :func:`assets_script` writes it."""
    listings = map(json.loads, LISTING.findall(html))
    return {file for listing in listings for asset in listing.values() for file in asset["files"]}


def scripts_html(assets: Mapping[str, Mapping[str, str]]) -> str:
    """Assets inside a page: the listing, then every piece, each in an element of its own."""
    texts = [assets_script(assets), *(text for scripts in assets.values() for text in scripts.values())]
    return "".join(f"<script>{text}</script>\n" for text in texts)


# ------------------------------------------------------------------------------ networks
def fits(viewer: Viewer) -> bool:
    """Whether what a page takes of a network is small enough: with the runtime, 25 MB at most."""
    network = viewer.net.trace
    ends = [*viewer.layers.values(), viewer.deepest[1], *([network.result] if viewer.classifier else [])]
    weights = {}
    for step in network.needed(map(network.node, ends)):
        taken = network.operations[step]
        if isinstance(taken, nn.Module):
            weights |= {id(weight): weight.numel() for weight in taken.parameters()}
        elif step.op == "get_attr" and isinstance(weight := network.compute(step, {}), Tensor):
            weights[id(weight)] = weight.numel()
    return sum(weights.values()) <= LARGEST


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
    return found | {"network": f"{weights}-{hashlib.sha256(inline_json(found).encode()).hexdigest()[:12]}"}


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
        # What a ReLU rectifies goes along: an ascent to a silent feature starts there.
        layers = {*viewer.layers.values(), *map(viewer.before, viewer.layers.values()), viewer.deepest[1]}
        export_onnx(model, viewer.side, layers, folder, logits=viewer.classifier)
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


# ------------------------------------------------------------------------------ galleries
#: How many features of each layer a page takes along of a gallery that the book does not store.
KEPT = 12
CROP = re.compile(r"(.+) \((\d+), (\d+)\) \+ (\d+)")  # what zfcore.gallery.Crops calls a crop


def gallery_state(gallery: Gallery, name: str | None) -> tuple[dict, dict[str, bytes]]:
    """What a page has to know of a gallery, and what it brings along of it.

    Of the gallery that the book stores under ``name`` (of the weights) it brings nothing: its assets lie
    beside the pages. Of any other the page takes :data:`KEPT` features of each layer, evenly spread.

    Returns
    -------
    tuple
        ``source`` (how :func:`stored_gallery` finds it, or None), ``about`` and ``layers``, each with
        ``name``, ``path``, ``asset``, ``features`` and ``patches`` (whether they are there); and packs by
        asset name.
    """
    source = gallery_source(gallery, name)
    about = {key: gallery.about.get(key) for key in ("data", "n")}
    if source:
        return {"source": source, "about": about, "layers": _stored_layers(source, gallery)}, {}
    layers, packs = [], {}
    for wall in gallery.layers.values():
        chosen = wall.features
        if len(chosen) > KEPT:
            chosen = [chosen[n] for n in np.linspace(0, len(chosen) - 1, KEPT).round().astype(int)]
        sprites = {"projections.webp": [np.hstack(gallery.projections(wall.path, n)) for n in chosen]}
        if gallery.has_patches:
            sprites["patches.webp"] = [np.hstack(gallery.patches(wall.path, n)) for n in chosen]
        quality = None if wall.side < LOSSLESS_BELOW else 90
        files = {file: as_webp(np.vstack(rows), quality) for file, rows in sprites.items()}
        hits = [[_brief(hit) for hit in wall.hits[n]] for n in chosen]
        packed = pack({"hits.json": json.dumps(hits).encode(), **files})
        asset_name = f"top9-{_slug(wall.name)}-{hashlib.sha256(packed).hexdigest()[:12]}"
        packs[asset_name] = packed
        layers.append(_layer_state(wall.name, wall.path, asset_name, chosen, gallery.has_patches))
    return {"source": None, "about": about, "layers": layers}, packs


def stored_gallery(source: Mapping) -> dict[str, bytes]:
    """The packs of a gallery that the book stores, by asset name: the other end of :func:`gallery_state`.

    Raises ``ValueError`` where the one that is stored now is another one.
    """
    path = GALLERIES / f"{source['name']}.json"
    blob = path.read_bytes()
    if hashlib.sha256(blob).hexdigest() != source["sha256"]:
        raise ValueError(
            f"an explorer was made with another {path.name} than there is now; build the book again"
        )
    packs = {}
    for layer in json.loads(blob)["layers"]:
        hits = [[_brief(hit and Hit(**hit)) for hit in hits] for hits in layer["hits"]]
        sprite = (GALLERIES / layer["sprite"]).read_bytes()
        files = {"hits.json": json.dumps(hits).encode(), "projections.webp": sprite}
        packs[_stored_asset(source, layer["name"])] = pack(files)
    return packs


def crops_pack(gallery: Gallery, photographs: Mapping[str, Picture]) -> bytes:
    """A gallery found among :class:`zfcore.gallery.Crops` of photographs, for a page that computes the rest.

    ``crops.json`` holds ``names`` of the photographs (``0.webp`` …), and ``hits`` by layer and feature:
    [photograph, top, left, side, y, x, value, the field's top, left, height, width].
    """
    names: list[str] = []
    hits = {
        wall.path: {n: [_crop(hit, names) for hit in found if hit] for n, found in wall.hits.items()}
        for wall in gallery.layers.values()
    }
    missing = [name for name in names if name not in photographs]
    if missing:
        raise ValueError(f"the crops are of {', '.join(missing)}, which are not among the photographs given")
    pictures = {f"{n}.webp": as_webp(decode(photographs[name]), 90) for n, name in enumerate(names)}
    return pack({"crops.json": json.dumps({"names": names, "hits": hits}).encode(), **pictures})


def _crop(hit: Hit, names: list[str]) -> list[float]:
    found = CROP.fullmatch(hit.picture)
    if not found:
        raise ValueError(
            f"{hit.picture!r} is no crop of a photograph; give a gallery among zfcore.gallery.Crops"
        )
    name, *square = found.groups()
    if name not in names:
        names.append(name)
    return [names.index(name), *map(int, square), *hit.position, float(f"{hit.value:.6g}"), *hit.box]


def _brief(hit: Hit | None) -> list | None:
    """What a page tells of a hit: label, picture, value."""
    return hit and [hit.label, hit.picture, float(f"{hit.value:.6g}")]


def gallery_source(gallery: Gallery, name: str | None) -> dict | None:
    """Where the book's build finds a gallery that the book stores under ``name``; None for any other."""
    path = GALLERIES / f"{name}.json"
    if not path.exists():
        return None
    blob = path.read_bytes()
    stored = json.loads(blob)
    stored.pop("layers")
    return {"name": name, "sha256": hashlib.sha256(blob).hexdigest()} if stored == gallery.about else None


def _stored_layers(source: Mapping, gallery: Gallery) -> list[dict]:
    return [
        _layer_state(wall.name, wall.path, _stored_asset(source, wall.name), wall.features, False)
        for wall in gallery.layers.values()
    ]


def _stored_asset(source: Mapping, layer: str) -> str:
    return f"top9-{source['name']}-{_slug(layer)}-{source['sha256'][:12]}"


def _layer_state(name: str, path: str, asset_name: str, features: list[int], patches: bool) -> dict:
    return {"name": name, "path": path, "asset": asset_name, "features": features, "patches": patches}


def _slug(layer: str) -> str:
    return re.sub(r"[^\w.]+", "-", layer).lower()
