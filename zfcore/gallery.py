r"""What every feature map looks for: its nine strongest pictures and their projections (§4, Fig. 2).

A :class:`Gallery` answers, for any layer and feature, with nine hits: picture, label, value, place; with
the nine projections of those units by the deconvnet, cut to the receptive field and stretched each by its
own contrast; and with the nine patches of the pictures themselves. There are two kinds, which look the same:

- :meth:`Gallery.of` finds the hits of any network among any pictures, in one pass, and projects when asked;
- :meth:`Gallery.load` reads what ``zfcore features`` has stored: the projections as one WebP sprite per
  layer, row r being feature ``features[r]``, column c its hit c. The pictures of a data set are not
  stored; where the reader has them, :meth:`Gallery.beside` puts the patches back.

Cells are squares of ``side`` pixels: the receptive field, or the whole picture where the field is larger.
What of a field lies outside the picture is mid grey.

Source: Zeiler & Fergus, §4 and Fig. 2, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import photographs
    from zfcore.gallery import Crops, Gallery
    from zfcore.model import load
    from zfcore.view import Viewer
    gallery = Gallery.of(Viewer(*load("zfnet-64")), Crops(photographs()))
    gallery.hits("layer 3", 7)[0]           # Hit(picture='coffee (0, 100) + 144', label=…, value=…, …)
    gallery.projections("layer 3", 7)       # (9, 29, 29, 3) uint8
    gallery.patches("layer 3", 7)           # (9, 29, 29, 3) uint8
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from zfcore import model
from zfcore.data import Photograph, Picture, Pictures, decode, squares, title_of, to_input
from zfcore.figures import stretch
from zfcore.ledger import RESULTS, code_of
from zfcore.topk import TopActivations, merge, top_activations
from zfcore.trace import pair
from zfcore.view import MID_GREY, Viewer, as_webp

#: The tallest and widest picture that WebP can hold, in pixels.
LARGEST = 16383
#: Pictures between two savings of an interruptible pass.
PART = 1024
#: Sprites of cells smaller than this are stored without loss, for the lossy form works in blocks as large.
LOSSLESS_BELOW = 24

#: Where the stored galleries lie in a checkout.
GALLERIES = RESULTS / "top9"

#: The rooms whose code decides what a pass over pictures finds.
PASS_ROOMS = ("data", "gallery", "model", "topk", "trace")


class GalleryError(ValueError):
    """A stored gallery is not what it should be; the message says what to do."""


# ------------------------------------------------------------------------------ the pictures
class Album:
    """Pictures in an order, each with a name and a label in words: what a gallery is found among.

    ``pictures`` is a data set (:class:`zfcore.data.Pictures`) or a mapping of names to anything that
    :func:`zfcore.data.decode` takes.
    """

    def __init__(self, pictures: Pictures | Mapping[str, Picture]):
        self._pictures = pictures
        if isinstance(pictures, Pictures):
            self.names = list(pictures.files)
            self.labels = [pictures.names[label] for label in pictures.labels.tolist()]
            self._pixels = lambda i: pictures[torch.tensor([i])][0].permute(1, 2, 0).numpy()  # -> (H, W, 3)
        else:
            self.names = list(pictures)
            self.labels = [title_of(picture, "") for picture in pictures.values()]
            every = list(pictures.values())
            self._pixels = lambda i: decode(every[i])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> np.ndarray:
        """The pixels of one picture, (H, W, 3) uint8."""
        return self._pixels(number)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over names and pixels; a data set's is its own."""
        if isinstance(self._pictures, Pictures):
            return self._pictures.sha256
        digest = hashlib.sha256("\n".join(self.names).encode())
        for number in range(len(self)):
            digest.update(np.ascontiguousarray(self[number]))
        return digest.hexdigest()

    def overlapping(self) -> Tensor | None:
        """(N, N) bool, which pictures show a common place; None where each stands for itself."""
        return None


class Crops(Album):
    """Squares of photographs at several sizes, in steps of half their side.

    With few photographs, which may be shown and stored, they stand for a data set. A place is in many of
    them; a gallery shows no two that overlap for one feature.

    Parameters
    ----------
    photographs
        By name.
    scales
        Sides of the squares, as shares of the photograph's smaller side.
    """

    def __init__(
        self, photographs: Mapping[str, Photograph], scales: Sequence[float] = (1.0, 0.6, 0.36, 0.22)
    ):
        self._pictures = self.photographs = dict(photographs)
        self.boxes: list[tuple[str, int, int, int]] = []  # name, top, left, side
        for name, photograph in self.photographs.items():
            height, width = photograph.pixels.shape[:2]
            for side in (round(scale * min(height, width)) for scale in scales):
                rows, columns = (
                    np.linspace(0, n - side, round(2 * (n - side) / side) + 1).round().astype(int)
                    for n in (height, width)
                )
                self.boxes += [(name, top, left, side) for top in rows.tolist() for left in columns.tolist()]
        self.names = [f"{name} ({top}, {left}) + {side}" for name, top, left, side in self.boxes]
        self.labels = [self.photographs[name].title for name, *_ in self.boxes]

    def __getitem__(self, number: int) -> np.ndarray:
        name, top, left, side = self.boxes[number]
        return self.photographs[name].pixels[top : top + side, left : left + side]

    def overlapping(self) -> Tensor:
        """(N, N) bool: two squares of one photograph that have a pixel in common."""
        names = np.array([name for name, *_ in self.boxes])
        tops, lefts, sides = np.array([box for _, *box in self.boxes]).T
        apart = [first[:, None] + sides[:, None] <= first for first in (tops, lefts)]
        apart = apart[0] | apart[0].T | apart[1] | apart[1].T
        return torch.from_numpy((names[:, None] == names) & ~apart)


# ------------------------------------------------------------------------------ what is found
@dataclass(frozen=True)
class Hit:
    """One of the nine: ``picture`` and its ``label`` in words, the activation's ``value`` and ``position``.

    ``position`` is (y, x) in the map; ``box`` is (top, left, height, width) of its receptive field in
    pixels of the network's input, clipped to the picture.
    """

    picture: str
    label: str
    value: float
    position: tuple[int, int]
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Wall:
    """One layer of a gallery: its ``path`` in the network, the reader's ``name``, and what it shows.

    ``side`` is that of a cell in pixels; ``hits`` holds nine hits for each of its features, in order of their
    number, None where fewer pictures excite it.
    """

    path: str
    name: str
    side: int
    hits: dict[int, tuple[Hit | None, ...]]

    @property
    def features(self) -> list[int]:
        """The numbers of the features that are shown."""
        return list(self.hits)

    def place(self, hit: Hit) -> tuple[slice, slice]:
        """Where in its cell the part of a hit's field that lies inside the picture is shown.

        A clipped field touches the picture's first row, and then ends where the cell does, or its last.
        """
        (top, left), size = hit.box[:2], hit.box[2:]
        first = (self.side - n if edge == 0 else 0 for edge, n in zip((top, left), size, strict=True))
        return tuple(slice(start, start + n) for start, n in zip(first, size, strict=True))

    def inside(self, feature: int) -> np.ndarray:
        """Which pixels of a feature's cells lie inside their pictures, (k, side, side) bool."""
        hits = self.hits[feature]
        there = np.zeros((len(hits), self.side, self.side), bool)
        for cell, hit in zip(there, hits, strict=True):
            if hit:
                cell[self.place(hit)] = True
        return there


class Gallery:
    """Nine hits, projections and patches for every feature; made by :meth:`of` or :meth:`load`.

    ``layers`` maps the reader's names to :class:`Wall`; ``about`` says what it was made from. Methods
    take a layer by either of its names.
    """

    def __init__(
        self,
        layers: Sequence[Wall],
        about: Mapping[str, Any],
        projections: Callable[[Wall, int], np.ndarray],
        patches: Callable[[Wall, int], np.ndarray] | None,
    ):
        self.layers = {wall.name: wall for wall in layers}
        self.about = dict(about)
        self._projections, self._patches = projections, patches

    # -------------------------------------------------------------------------- what it shows
    def wall(self, layer: str, feature: int | None = None) -> Wall:
        """The layer of that name or path; ``ValueError`` where it, or the feature, is not shown."""
        found = [wall for wall in self.layers.values() if layer in (wall.name, wall.path)]
        if not found:
            raise ValueError(f"no layer {layer!r} in this gallery; it has: {', '.join(self.layers)}")
        if feature is not None and feature not in found[0].hits:
            raise ValueError(f"{layer} shows no feature {feature}; it shows {_ranges(found[0].features)}")
        return found[0]

    def hits(self, layer: str, feature: int) -> tuple[Hit | None, ...]:
        """The strongest pictures of a feature, the strongest first; None where there are no more."""
        return self.wall(layer, feature).hits[feature]

    def projections(self, layer: str, feature: int) -> np.ndarray:
        """What excited the feature in each of its hits: (9, side, side, 3) uint8 around mid grey."""
        return self._projections(self.wall(layer, feature), feature)

    def patches(self, layer: str, feature: int) -> np.ndarray:
        """The receptive field in each of the pictures themselves: (9, side, side, 3) uint8.

        Raises ``GalleryError`` where the pictures are not at hand; see :meth:`beside`.
        """
        if self._patches is None:
            data = self.about.get("data", "its data set")
            raise GalleryError(
                f"the pictures of {data} are not stored with this gallery; "
                f"get them (`zfcore data get {data}`) and give them to Gallery.beside"
            )
        return self._patches(self.wall(layer, feature), feature)

    @property
    def has_patches(self) -> bool:
        """Whether the pictures are at hand."""
        return self._patches is not None

    # -------------------------------------------------------------------------- found now
    @classmethod
    def of(
        cls,
        viewer: Viewer,
        pictures: Album | Pictures | Mapping[str, Picture],
        k: int = 9,
        *,
        file: str | os.PathLike | None = None,
        progress: bool = False,
    ) -> Gallery:
        """Find the hits of every feature of the viewer's layers among the pictures, in one pass.

        Projections and patches are made when they are asked for.

        Parameters
        ----------
        viewer
            The network, its card, and the layers by the reader's names.
        pictures
            An :class:`Album`, or what it takes.
        k
            How many hits each feature gets.
        file, progress
            As in :func:`strongest`.

        Raises
        ------
        ValueError
            There are no pictures.
        """
        album = pictures if isinstance(pictures, Album) else Album(pictures)
        if not len(album):
            raise ValueError("there are no pictures to look for the strongest in; give at least one")
        source = _Source(viewer, album, strongest(viewer, album, k, file=file, progress=progress))
        walls = [source.wall(name, path) for name, path in viewer.layers.items()]
        about = {"weights_sha256": viewer.card.get("sha256"), "n": len(album), "k": k}
        return cls(walls, about, lru_cache(256)(source.projections), source.patches)

    # -------------------------------------------------------------------------- stored
    @classmethod
    def load(cls, folder: str | os.PathLike, name: str, weights_sha256: str | None = None) -> Gallery:
        """Read the gallery ``<folder>/<name>.json`` and, layer by layer when asked for, its sprites.

        Parameters
        ----------
        folder
            Where ``zfcore features`` wrote it; the book's is ``book/results/top9``.
        name
            Of the weights.
        weights_sha256
            The weights it has to belong to. Default: those of that name that ship with the package, or any
            where none do.

        Raises
        ------
        FileNotFoundError
            There is no such gallery, or a sprite is missing.
        GalleryError
            It belongs to other weights, or is damaged.
        """
        path = Path(folder) / f"{name}.json"
        remake = "make it again with `zfcore features`"
        if not path.exists():
            there = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "none"
            raise FileNotFoundError(f"there is no gallery {path}; there are: {there}. {remake.capitalize()}")
        shipped = model.WEIGHTS / f"{name}.json"
        if weights_sha256 is None and shipped.exists():
            weights_sha256 = json.loads(shipped.read_text("utf-8"))["sha256"]
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            layers, about = stored.pop("layers"), stored
            walls = [
                Wall(entry["path"], entry["name"], entry["side"], dict(_stored_hits(entry)))
                for entry in layers
            ]
            sprites = {e["path"]: (path.parent / e["sprite"], e["sprite_sha256"]) for e in layers}
            made_from, k = about["weights_sha256"], about["k"]
        except (ValueError, KeyError, TypeError) as error:
            raise GalleryError(f"{path} is not a gallery: {error!r}; {remake}") from error
        if weights_sha256 is not None and made_from != weights_sha256:
            raise GalleryError(
                f"{path} shows the weights {str(made_from)[:12]}, not {name} {weights_sha256[:12]}; {remake}"
            )

        @lru_cache(len(walls))
        def sprite(of: str) -> np.ndarray:
            file, digest = sprites[of]
            blob = file.read_bytes()
            if hashlib.sha256(blob).hexdigest() != digest:
                raise GalleryError(f"{file} is not the sprite that {path.name} tells of; {remake}")
            return decode(io.BytesIO(blob))

        def projections(wall: Wall, feature: int) -> np.ndarray:
            row = wall.features.index(feature) * wall.side
            strip = sprite(wall.path)[row : row + wall.side]  # (side, k·side, 3)
            return strip.reshape(wall.side, k, wall.side, 3).swapaxes(0, 1)

        return cls(walls, about, projections, None)

    def beside(self, viewer: Viewer, pictures: Pictures) -> Gallery:
        """This gallery with the patches of the pictures it was found among.

        Raises ``GalleryError`` where they are other pictures than those.
        """
        if pictures.sha256 != self.about["data_sha256"]:
            raise GalleryError(
                f"the gallery was found among {self.about['data']} {self.about['data_sha256'][:12]}, "
                f"and these pictures are {pictures.sha256[:12]}"
            )
        album = Album(pictures)
        numbers = {name: number for number, name in enumerate(album.names)}

        def patches(wall: Wall, feature: int) -> np.ndarray:
            shown = [hit and album[numbers[hit.picture]] for hit in wall.hits[feature]]
            return _patches(viewer, wall, wall.hits[feature], shown)

        return Gallery(list(self.layers.values()), self.about, self._projections, patches)

    def save(
        self,
        folder: str | os.PathLike,
        name: str,
        *,
        maps: int | None = None,
        seed: int = 0,
        quality: int = 90,
        progress: bool = False,
        **about: Any,
    ) -> Path:
        """Write ``<folder>/<name>.json`` and a sprite per layer; returns the path of the former.

        Parameters
        ----------
        folder
            Of the files; a missing one is made.
        name
            Of the weights, as for :meth:`load`.
        maps, seed
            At most so many features of a layer, drawn with ``seed`` plus the layer's place. Default: all.
        quality
            Of the lossy WebP, 0 to 100. Cells smaller than ``LOSSLESS_BELOW`` pixels are stored exactly.
        progress
            Whether a bar shows the features done, layer by layer.
        about
            More to say of what it was made from: ``data``, ``data_sha256``, ``command``.

        Raises
        ------
        ValueError
            A layer's sprite would be larger than WebP can be; the message says how many maps fit, and
            nothing is written.
        """
        folder, entries, sprites = Path(folder), [], {}
        walls = [
            (wall, _drawn(wall.features, maps, seed + number))
            for number, wall in enumerate(self.layers.values())
        ]
        for wall, features in walls:
            if len(features) * wall.side > LARGEST:
                raise ValueError(
                    f"{len(features)} features of {wall.name}, {wall.side} px each, do not fit into one WebP "
                    f"of {LARGEST} px; store at most {LARGEST // wall.side} maps"
                )
        for wall, features in walls:
            rows = [
                np.hstack(self.projections(wall.name, feature))
                for feature in tqdm(features, wall.name, leave=False, disable=not progress)
            ]
            sprite = f"{name}-{wall.name.replace(' ', '-').replace('.', '-')}.webp"
            lossless = wall.side < LOSSLESS_BELOW
            blob = as_webp(np.vstack(rows), None if lossless else quality)
            sprites[sprite] = blob
            hits = [[hit and _rounded(hit) for hit in wall.hits[feature]] for feature in features]
            entries.append(
                {
                    "path": wall.path,
                    "name": wall.name,
                    "sprite": sprite,
                    "sprite_sha256": hashlib.sha256(blob).hexdigest(),
                    "side": wall.side,
                    "features": features,
                    "hits": hits,
                }
            )
        for sprite, blob in sprites.items():
            model.write_atomically(folder / sprite, blob)
        stored = self.about | about | {"layers": entries}
        text = json.dumps(stored, ensure_ascii=False, separators=(",", ":")).replace('{"path"', '\n{"path"')
        model.write_atomically(folder / f"{name}.json", (text + "\n").encode())
        return folder / f"{name}.json"


def sheet(cells: np.ndarray, columns: int = 3, side: int = 160, gap: int = 4) -> np.ndarray:
    """Cells (k, h, w, 3) uint8 enlarged to ``side`` pixels in rows of ``columns``, white between them."""
    rows = -(-len(cells) // columns)
    grid = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        form = Image.Resampling.NEAREST if len(cell) < LOSSLESS_BELOW else Image.Resampling.BICUBIC
        large = Image.fromarray(np.ascontiguousarray(cell)).resize((side, side), form)
        top, left = (place * (side + gap) for place in divmod(number, columns))
        grid[top : top + side, left : left + side] = np.asarray(large)
    return grid


# ------------------------------------------------------------------------------ how it is made
def strongest(
    viewer: Viewer,
    album: Album,
    k: int = 9,
    *,
    file: str | os.PathLike | None = None,
    progress: bool = False,
) -> dict[str, TopActivations]:
    """The ``k`` strongest pictures of an album for every feature of the viewer's layers, by module path.

    No two of them overlap where the album's pictures do (:meth:`Album.overlapping`).

    Parameters
    ----------
    viewer
        The network, its card, and the layers by the reader's names.
    album
        The pictures; a hit's image is a number in their order.
    k
        How many hits each feature gets.
    file
        A ``.safetensors`` file that keeps what was found, written every ``PART`` pictures: a pass that was
        interrupted goes on from there, one that is complete is read. It must belong to this very network,
        these pictures and this code: name it by their hashes.
    progress
        Whether a bar shows the pictures done.
    """
    paths, overlapping = list(viewer.layers.values()), album.overlapping()
    wanted = k if overlapping is None else len(album)
    seen, found = _kept(file, paths)
    with tqdm(total=len(album), initial=seen, desc="strongest activations", disable=not progress) as bar:
        while seen < len(album):
            part = range(seen, min(seen + PART, len(album)))
            new = top_activations(viewer.model, inputs(viewer, album, part), paths, wanted)
            found = merge([found, new], [range(len(album)), part]) if found else new
            seen = part.stop
            if seen == len(album) and overlapping is not None:
                found = {path: top.apart(overlapping, k) for path, top in found.items()}
            if file is not None:
                _keep(file, seen, found)
            bar.update(len(part))
    return found


_PARTS = ("values", "images", "positions")


def _kept(file: str | os.PathLike | None, paths: Sequence[str]) -> tuple[int, dict[str, TopActivations]]:
    """How many pictures an interrupted pass has seen, and what it found; a damaged file is none."""
    try:
        with safetensors.safe_open(file or "", "pt") as kept:
            seen = int(kept.metadata()["seen"])
            return seen, {
                path: TopActivations(*(kept.get_tensor(f"{path} {part}") for part in _PARTS))
                for path in paths
            }
    except (OSError, safetensors.SafetensorError):
        return 0, {}


def _keep(file: str | os.PathLike, seen: int, found: Mapping[str, TopActivations]) -> None:
    tensors = {
        f"{path} {part}": getattr(top, part).contiguous() for path, top in found.items() for part in _PARTS
    }
    model.write_atomically(file, safetensors.torch.save(tensors, {"seen": str(seen)}))


def cache(name: str, rooms: Iterable[str], **inputs: Any) -> Path:
    """Where a result is kept that follows from ``inputs`` and the code of some rooms alone.

    The file's name holds the hash of both, so that a result made from anything else is not found: weights
    and data are given by their hashes. The folder is ``ZFCORE_CACHE``, or the user's cache folder.
    """
    digest = hashlib.sha256((json.dumps(inputs, sort_keys=True) + code_of(rooms)).encode())
    folder = os.environ.get("ZFCORE_CACHE") or platformdirs.user_cache_dir("zfcore")
    return Path(folder) / f"{name}-{digest.hexdigest()[:32]}.safetensors"


def pass_file(viewer: Viewer, album: Album, k: int) -> Path:
    """Where the pass of :func:`strongest` over these pictures is kept."""
    weights = viewer.card["sha256"]
    return cache("top", PASS_ROOMS, weights=weights, data=album.sha256, layers=viewer.layers, k=k)


def inputs(viewer: Viewer, album: Album, numbers: Sequence[int], batch_size: int = 32) -> Iterator[Tensor]:
    """The pictures of an album as the viewer's network takes them, (B, 3, S, S) a batch."""
    weight = next(viewer.model.parameters())
    for first in range(0, len(numbers), batch_size):
        pictures = [album[number] for number in numbers[first : first + batch_size]]
        x = to_input(pictures, viewer.card).to(weight.device, weight.dtype)
        yield x.contiguous(memory_format=torch.channels_last)  # the faster format, also on a CPU


@dataclass(frozen=True)
class _Source:
    """The network and the pictures behind a gallery, for what is made when it is asked for."""

    viewer: Viewer
    album: Album
    found: Mapping[str, TopActivations]

    def wall(self, name: str, path: str) -> Wall:
        top, side = self.found[path], _side(self.viewer, path)
        rows = zip(top.images.tolist(), top.values.tolist(), top.positions.tolist(), strict=True)
        hits = {
            feature: tuple(
                self._hit(path, *hit) if hit[0] >= 0 else None for hit in zip(*of_feature, strict=True)
            )
            for feature, of_feature in enumerate(rows)
        }
        return Wall(path, name, side, hits)

    def _hit(self, path: str, image: int, value: float, position: list[int]) -> Hit:
        top, left, bottom, right = _box(self.viewer, path, position)
        size = self.viewer.side
        top, left, bottom, right = (min(max(edge, 0), size) for edge in (top, left, bottom, right))
        box = (top, left, bottom - top, right - left)
        return Hit(self.album.names[image], self.album.labels[image], value, tuple(position), box)

    def projections(self, wall: Wall, feature: int) -> np.ndarray:
        """Projected now: (k, side, side, 3) uint8."""
        hits = wall.hits[feature]
        there = [hit for hit in hits if hit]
        cells = np.full((len(hits), wall.side, wall.side, 3), MID_GREY, np.uint8)
        if there:
            images = self.found[wall.path].images[feature, : len(there)].tolist()
            [x] = inputs(self.viewer, self.album, images, len(images))
            positions = [hit.position for hit in there]
            projected = self.viewer.net.project(x, wall.path, feature, positions).cpu()
            for cell, projection, hit in zip(cells, projected, there, strict=False):
                top, left, height, width = hit.box
                # Stretched by the values in its field, all there are: outside it every value is 0.
                cell[wall.place(hit)] = stretch(projection)[top : top + height, left : left + width]
        return cells

    def patches(self, wall: Wall, feature: int) -> np.ndarray:
        """Cut now: (k, side, side, 3) uint8."""
        hits = wall.hits[feature]
        images = self.found[wall.path].images[feature].tolist()
        shown = [hit and self.album[image] for hit, image in zip(hits, images, strict=True)]
        return _patches(self.viewer, wall, hits, shown)


def _patches(viewer: Viewer, wall: Wall, hits: Sequence[Hit | None], pictures: Sequence) -> np.ndarray:
    """The fields of hits cut out of their pictures, (k, side, side, 3) uint8."""
    cells = np.full((len(hits), wall.side, wall.side, 3), MID_GREY, np.uint8)
    for cell, hit, picture in zip(cells, hits, pictures, strict=True):
        if hit:
            [seen] = squares([picture], viewer.card)
            top, left, height, width = hit.box
            cell[wall.place(hit)] = seen[top : top + height, left : left + width]
    return cells


def _side(viewer: Viewer, path: str) -> int:
    """The side of a cell: the field's, or the picture's where the field is larger or unknown."""
    geometry = viewer.net.geometry.get(path)
    return min(max(pair(geometry.receptive_field)), viewer.side) if geometry else viewer.side


def _box(viewer: Viewer, path: str, position: Sequence[int]) -> tuple[int, int, int, int]:
    """``(top, left, bottom, right)`` that a cell shows: the field, or the whole picture."""
    if _side(viewer, path) == viewer.side:
        return 0, 0, viewer.side, viewer.side
    return viewer.net.geometry[path].box(*position)


def _drawn(features: list[int], maps: int | None, seed: int) -> list[int]:
    if maps is None or maps >= len(features):
        return features
    return sorted(np.random.default_rng(seed).choice(features, maps, replace=False).tolist())


def _rounded(hit: Hit) -> dict[str, Any]:
    return asdict(replace(hit, value=float(f"{hit.value:.5g}")))


def _stored_hits(entry: Mapping) -> Iterator[tuple[int, tuple[Hit | None, ...]]]:
    for feature, hits in zip(entry["features"], entry["hits"], strict=True):
        places = [hit and {part: tuple(hit[part]) for part in ("position", "box")} for hit in hits]
        yield feature, tuple(hit and Hit(**hit | place) for hit, place in zip(hits, places, strict=True))


def _ranges(numbers: Sequence[int]) -> str:
    """``0 to 47``, or the first few of scattered numbers."""
    if list(numbers) == list(range(len(numbers))):
        return f"0 to {len(numbers) - 1}"
    return ", ".join(map(str, numbers[:12])) + (", …" if len(numbers) > 12 else "")
