"""Pictures: decoding, the preprocessing of §3, and the data sets the book stands on.

Every picture enters as 8-bit RGB. §3 resizes the smaller side, takes the centre square, subtracts
the per-pixel mean over the training pictures, and cuts ten crops (four corners and the centre,
each with its mirror image); training may instead cut at random, as Krizhevsky did.

The embedded scale stands on :func:`photographs`, ten real pictures that ship inside the wheels of
scikit-image, scikit-learn and matplotlib, so that nothing has to be downloaded.

Source: Zeiler & Fergus, §3, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import photographs, to_input
    from zfcore.model import load
    network, card = load("zfnet-64")
    x = to_input([photographs()["chelsea"], "my-cat.jpg"], card)      # (2, 3, 56, 56)
    network(x).softmax(1)                                             # (2, 200)

What trains and is judged comes in batches, from memory or from a pack on the disk alike::

    from zfcore.data import batches, data_set
    pictures = data_set("patches", "train", shard="0of4")             # every fourth of 4,000 patches
    for pixels in batches(pictures, torch.arange(len(pictures)).split(128)):
        ...                                                           # (128, 3, 64, 64) uint8
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np
import platformdirs
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from zfcore.duplicates import SIDE as THUMBNAIL
from zfcore.duplicates import Thumbnails, matches


class Pictures:
    """What :class:`LabelledPictures` and :class:`PackedPictures` have in common.

    ``labels`` int64 (N,); ``classes`` are the sorted ids whose position is the label, ``names`` their
    words; ``files`` names each picture; every picture has ``side`` × ``side`` pixels. ``pictures[i]``
    with an int64 tensor i of B positions gives them as uint8 (B, 3, side, side).
    """

    labels: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor) -> Pictures:
        """Those at the positions ``chosen``, int64 (M,), in that order, as a set of its own."""
        raise NotImplementedError

    def shard(self, k: int, n: int) -> Pictures:
        """Shard ``k`` of ``n``: pictures k, k + n, k + 2n, …; as even in its classes as the whole."""
        if not 0 <= k < n:
            raise ValueError(f"there is no shard {k} of {n}; they are counted from 0 to {n - 1}")
        if n > len(self):
            raise ValueError(f"{len(self):,} pictures are too few for {n:,} shards")
        return self.take(torch.arange(k, len(self), n))

    def _hash(self, content: bytes | memoryview) -> str:
        """SHA-256 over the files' names, the labels, and ``content``, which stands for the pixels."""
        digest = hashlib.sha256("\n".join(self.files).encode())
        digest.update(self.labels.numpy())
        digest.update(content)
        return digest.hexdigest()


@dataclass(frozen=True)
class LabelledPictures(Pictures):
    """A data set in memory: ``pixels`` uint8 (N, 3, H, W), ``labels`` int64 (N,), and their meaning.

    ``classes`` are the sorted ids whose position is the label, ``names`` their words;
    ``files`` names each picture.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def side(self) -> int:
        """The smaller side of the pictures in pixels."""
        return min(self.pixels.shape[-2:])

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return self.pixels[chosen]

    def take(self, chosen: Tensor) -> LabelledPictures:
        """Those at the positions ``chosen``, int64 (M,), in that order, as a set of its own."""
        files = tuple(self.files[i] for i in chosen.tolist())
        return LabelledPictures(self.pixels[chosen], self.labels[chosen], self.classes, self.names, files)

    def mean(self) -> Tensor:
        """The per-pixel mean of §3, (3, H, W) float32 in [0, 255]."""
        return mean_picture(self.pixels)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over names, labels and pixels, in their order."""
        return self._hash(self.pixels.contiguous().numpy())

    def on(self, device: str | torch.device) -> Tensor:
        """The pixels on ``device``; they move there once, and are kept there as long as the set is."""
        device = torch.empty(0, device=device).device  # "cuda" as "cuda:0"
        if device not in self._copies:
            self._copies[device] = self.pixels.to(device)
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, Tensor]:
        return {}


@dataclass(frozen=True)
class PackedPictures(Pictures):
    """A data set too large for memory: square JPEG files in tar shards, found by an index.

    :func:`zfcore.pack.pack` writes it, :meth:`open` opens it. A shard is a plain tar in the layout of
    webdataset: ``0000012.jpg``, then ``0000012.cls`` with the label in digits, the number being the
    picture's position in the sorted list. Because the index knows where each picture lies, pictures
    come in any order whatever, and none twice.

    ``places`` int64 (N, 3) holds each picture's shard, first byte and length in bytes; ``shards`` are
    the tar files; ``average`` float32 (3, side, side) is the mean over the whole pack and ``content``
    the hash of its pixels.
    """

    labels: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[str, ...]
    places: Tensor
    shards: tuple[Path, ...]
    average: Tensor
    content: str

    @classmethod
    def open(cls, folder: str | os.PathLike, split: str) -> PackedPictures:
        """Open the pack ``<folder>/<split>.npz`` with its shards ``<split>-000000.tar`` and on.

        Raises
        ------
        FileNotFoundError
            There is no such index.
        ValueError
            The index is damaged, or a shard is missing or truncated: every such shard is named.
        """
        path = Path(folder) / f"{split}.npz"
        try:
            index = np.load(io.BytesIO(path.read_bytes()))  # numpy leaves a damaged file open
            values = {name: index[name] for name in index.files}
            shards = tuple(path.parent / name for name in values["shards"].tolist())
            sizes = values["sizes"].tolist()
            pictures = cls(
                torch.from_numpy(values["labels"]),
                tuple(values["classes"].tolist()),
                tuple(values["names"].tolist()),
                tuple(values["files"].tolist()),
                torch.from_numpy(values["places"]),
                shards,
                torch.from_numpy(values["mean"]),
                values["content"].item(),
            )
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no pack {path}; `zfcore data pack` writes one") from None
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a whole index of a pack ({error}); pack again") from error
        found = [shard.stat().st_size if shard.exists() else None for shard in shards]
        faults = [
            f"{shard} is missing" if have is None else f"{shard} has {have:,} bytes, not {size:,}"
            for shard, have, size in zip(shards, found, sizes, strict=True)
            if have != size
        ]
        if faults:
            raise ValueError(f"{'; '.join(faults)}; remove {path} and pack again: whole shards are kept")
        return pictures

    @property
    def side(self) -> int:
        """The side of the pictures in pixels."""
        return self.average.shape[-1]

    def __getitem__(self, chosen: Tensor) -> Tensor:
        pixels = torch.empty((len(chosen), 3, self.side, self.side), dtype=torch.uint8)
        for n, position in enumerate(chosen.tolist()):
            pixels[n] = torch.from_numpy(self._read(position)).permute(2, 0, 1)  # (R, R, 3) -> (3, R, R)
        return pixels

    def _read(self, position: int) -> np.ndarray:
        if not 0 <= position < len(self):
            raise IndexError(f"there is no picture {position}; the pack has {len(self):,}, counted from 0")
        shard, first, length = self.places[position].tolist()
        with self.shards[shard].open("rb", buffering=0) as file:
            file.seek(first)
            blob = file.read(length)
        try:
            pixels = decode(io.BytesIO(blob))
            if len(blob) < length or pixels.shape != (self.side, self.side, 3):
                raise ValueError(f"{len(blob)} of {length} bytes, {pixels.shape[1]} × {pixels.shape[0]} px")
        except ValueError as error:
            raise ValueError(
                f"picture {position} ({self.files[position]}) cannot be read from byte {first} of "
                f"{self.shards[shard]}: {error}; pack again"
            ) from error
        return pixels

    def take(self, chosen: Tensor) -> PackedPictures:
        """Those at the positions ``chosen``, int64 (M,), in that order; the mean stays the pack's."""
        files = tuple(self.files[i] for i in chosen.tolist())
        return replace(self, labels=self.labels[chosen], files=files, places=self.places[chosen])

    def mean(self) -> Tensor:
        """The per-pixel mean of §3 over the whole pack, (3, side, side) float32 in [0, 255]."""
        return self.average

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over names, labels and the pack's pixels, in their order."""
        return self._hash(self.content.encode())


def batches(
    pictures: Pictures, order: Iterable[Tensor], device: str | torch.device = "cpu", workers: int = 0
) -> Iterator[Tensor]:
    """The pictures of each index tensor of ``order``, in that order.

    Parameters
    ----------
    pictures
        In memory (then all of them move to ``device`` once, and stay) or packed.
    order
        Yields int64 tensors (B,) of positions; B may be 0 and may change.
    device
        Where the batches are wanted.
    workers
        Processes that decode a pack ahead of its use; 0 decodes here. Not used for what is in memory.

    Yields
    ------
    Tensor
        (B, 3, side, side) uint8 on ``device``, one for each tensor of ``order``.

    Raises
    ------
    IndexError
        A position that is not there.
    ValueError
        A picture of a pack that cannot be read: it is named with its shard.
    """
    device = torch.device(device)
    if isinstance(pictures, LabelledPictures):
        pixels = pictures.on(device)
        for chosen in order:
            yield pixels[chosen.to(device, non_blocking=True)]
        return
    # The loader draws a seed for its workers: from a generator of its own, to leave the caller's alone.
    loader = DataLoader(
        pictures,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_caller,
    )
    iterator = iter(loader)
    try:
        for pixels in iterator:
            yield pixels.to(device, non_blocking=True)
    finally:
        # At once, not when an error lets go of its traceback: the exit of a process waits for its workers,
        # and these end for nobody else.
        if workers:
            iterator._shutdown_workers()


def _leave_signals_to_the_caller(worker: int) -> None:
    """A Ctrl-C reaches every process of a terminal; the caller ends the workers when it is ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def data_set(name: str, split: str, shard: str | None = None) -> Pictures:
    """A data set by the name it has in the shell, whole or one shard of it.

    Parameters
    ----------
    name
        ``"tiny-imagenet"``, ``"imagenet"`` (packed), ``"patches"`` (of the photographs), or the folder of
        another packed set; a folder that has one of these names is written ``./imagenet``.
    split
        ``"train"`` or ``"val"``.
    shard
        ``"0of4"`` takes pictures 0, 4, 8, …

    Raises
    ------
    FileNotFoundError
        The data are not on this machine; the message says how to get them.
    ValueError
        Unknown name, split or shard.
    """
    if name in DATA_SETS:
        pictures = DATA_SETS[name](split)
    elif Path(name).is_dir():
        pictures = PackedPictures.open(name, split)
    else:
        known = ", ".join(DATA_SETS)
        raise ValueError(f"unknown data set {name!r}; known: {known}, or a folder that was packed")
    if shard is None:
        return pictures
    parts = re.fullmatch(r"(\d+)of(\d+)", shard)
    if not parts:
        raise ValueError(f"{shard!r} is not a shard; give k and n as in 0of4")
    return pictures.shard(int(parts[1]), int(parts[2]))


def cores() -> int:
    """How many processor cores this process may use: in a container perhaps fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices_here(name: str | torch.device) -> torch.device:
    """The device of that name. Raises ``ValueError`` where this machine has none, and lists what it has."""
    there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if "cuda:0" in there:
        there.append("cuda")
    if str(name) not in there:
        raise ValueError(f"no device {str(name)!r} on this machine; there is: {', '.join(there)}")
    return torch.device(name)


def data_root() -> Path:
    """The folder that holds the data sets: ``ZFCORE_DATA``, or the user's data folder."""
    return Path(os.environ.get("ZFCORE_DATA") or platformdirs.user_data_dir("zfcore")).expanduser()


_PLACES = {
    "tiny-imagenet": ("tiny-imagenet-200",),
    "caltech101": ("caltech101/101_ObjectCategories", "101_ObjectCategories"),
    "caltech256": ("caltech256/256_ObjectCategories", "256_ObjectCategories"),
    "voc2007": ("VOCdevkit/VOC2007",),
    "voc2012": ("VOCdevkit/VOC2012",),
}


def places_of(name: str) -> tuple[str, ...]:
    """Where a data set may lie under the data root, the first where ``zfcore data get`` puts it.

    Names as for :func:`folder_of`.
    """
    return _PLACES.get(name, (f"VOCdevkit/{name.upper()}",))  # VOC of other years


def folder_of(name: str, root: str | os.PathLike | None = None, part: str = "") -> Path:
    """The folder of a data set: the first of its places under ``root`` that is there.

    Parameters
    ----------
    name
        ``"tiny-imagenet"``, ``"caltech101"``, ``"caltech256"``, or ``"voc2012"`` and other years.
    root
        The folder that holds the data sets; default :func:`data_root`.
    part
        A file or folder of the data set that must be there.

    Raises
    ------
    FileNotFoundError
        It is in none of its places; the message says how to get it.
    """
    root, places = Path(root or data_root()), places_of(name)
    for place in places:
        if (root / place / part).exists():
            return root / place
    brought = f"run `zfcore data get {name}`, or " if name in _PLACES else ""
    raise FileNotFoundError(
        f"there is no {root / places[0] / part}; {brought}"
        f"set ZFCORE_DATA to the folder that holds {places[-1]}/"
    )


# ------------------------------------------------------------------------------ photographs
@dataclass(frozen=True)
class Photograph:
    """A real photograph that ships inside an installed package.

    ``title`` names what it shows, ``alt`` tells a reader who cannot see it, ``credit`` and
    ``licence`` say whose it is; ``wnid`` is its class in ImageNet, by its WordNet id, where it has one.
    """

    name: str
    title: str
    alt: str
    credit: str
    licence: str
    package: str
    file: str
    wnid: str | None = None

    @cached_property
    def pixels(self) -> np.ndarray:
        """The picture, (H, W, 3) uint8; decoded when first asked for, then kept, read-only."""
        spec = find_spec(self.package)
        path = Path(spec.origin).parent / self.file if spec else Path(self.file)
        if not path.exists():
            raise FileNotFoundError(
                f"the photograph {self.name!r} ships with the package {self.package}, "
                f"but {path} is missing; install the package again from its wheel"
            )
        pixels = decode(path)
        pixels.flags.writeable = False
        return pixels


_PHOTOGRAPHS = (
    Photograph(
        "chelsea", "Chelsea the cat",
        "The face of a tabby cat, filling the picture and turned slightly to the right: two green eyes, "
        "a pink nose below the middle, white whiskers, a dark striped forehead; the background is blurred.",
        "Stéfan van der Walt, in scikit-image", "CC0", "skimage", "data/chelsea.png", "n02124075",
    ),
    Photograph(
        "coffee", "A cup of espresso",
        "A brown cup with a white inside, full of espresso with pale foam, on a reddish-brown saucer with a "
        "small metal spoon, seen from above on a wooden table.",
        "Rachel Michetti, courtesy of Pikolo Espresso Bar, in scikit-image", "CC0",
        "skimage", "data/coffee.png", "n07920052",
    ),
    Photograph(
        "rocket", "A rocket before its launch",
        "A slim white rocket stands upright on its pad in the middle of the picture at dusk, between four "
        "lattice towers; the sky is dark blue and a row of lamps shines along the ground.",
        "SpaceX, the DSCOVR launch, in scikit-image", "public domain",
        "skimage", "data/rocket.jpg", "n04008634",
    ),
    Photograph(
        "grace_hopper", "Grace Hopper in uniform",
        "Portrait of an elderly woman in a dark naval uniform with ribbons on her chest, glasses and an "
        "officer's white cap, in front of a flag of the United States and a blue wall.",
        "James S. Davis, US Navy, in matplotlib", "public domain",
        "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "n03763968",
    ),
    Photograph(
        "astronaut", "Eileen Collins",
        "A smiling woman with short fair hair in an orange space suit, her helmet at the lower right; behind "
        "her a flag of the United States at the left and a model of the space shuttle at the right.",
        "NASA, in scikit-image", "public domain", "skimage", "data/astronaut.png",
    ),
    Photograph(
        "china", "A pagoda above a lake",
        "An eight-sided Chinese tower of several storeys with curved tiled roofs stands left of the middle "
        "among trees, above a wide lake under a pale sky.",
        "Daniel Buechele, in scikit-learn", "CC BY 2.0", "sklearn", "datasets/images/china.jpg",
    ),
    Photograph(
        "flower", "A dahlia",
        "A round orange dahlia with many rows of small petals, in sharp focus against dark green leaves; a "
        "second one is cut off by the lower edge.",
        "vultilion, in scikit-learn", "CC BY 2.0", "sklearn", "datasets/images/flower.jpg",
    ),
    Photograph(
        "retina", "The back of an eye",
        "An orange-red disc on black, the inside of a human eye: thin dark blood vessels branch from a "
        "bright yellow spot at the left, and a darker spot lies in the middle.",
        "Mikael Häggström, in scikit-image", "CC0", "skimage", "data/retina.jpg",
    ),
    Photograph(
        "hubble", "Hubble's extreme deep field",
        "Hundreds of galaxies, small spots and spirals in white, yellow, orange and blue, scattered over a "
        "black sky.",
        "NASA, in scikit-image", "public domain", "skimage", "data/hubble_deep_field.jpg",
    ),
    Photograph(
        "tissue", "Glands under the microscope",
        "A stained section of colon: brown, folded glands with pale gaps between them and many small blue "
        "cell nuclei on a light ground.",
        "Center for Microscopy and Molecular Imaging, in scikit-image", "no known restrictions",
        "skimage", "data/ihc.png",
    ),
)  # fmt: skip


def photographs() -> dict[str, Photograph]:
    """The ten photographs by name; the first four show something that Tiny-ImageNet has a class for."""
    return {photograph.name: photograph for photograph in _PHOTOGRAPHS}


def patches(split: str, size: int = 64) -> LabelledPictures:
    """Patches of the photographs, labelled by the photograph they come from; 4,000 ``train``, 1,000 ``val``.

    It is a data set with which to exercise the machinery, and nothing else: no claim of the paper
    can be judged on it. ``val`` patches lie within the middle 30 % of a photograph's longer side,
    ``train`` patches within the rest, so that no pixel belongs to both. Photographs are taken at
    512 px of their smaller side at most; windows of 1, 1.5 and 2 times ``size`` (smaller ones
    where the region ends) are spread evenly over each region and resized to ``size``.

    Parameters
    ----------
    split
        ``"train"`` or ``"val"``.
    size
        Side of the patches in pixels.

    Raises
    ------
    ValueError
        Unknown split, or a ``size`` for which the regions have no room.
    """
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; known: train, val")
    every, labels, files = [], [], []
    names = sorted(photographs())
    for label, name in enumerate(names):
        pixels = photographs()[name].pixels
        image = Image.fromarray(_resized(pixels, min(512, *pixels.shape[:2])))
        for left, top, window in _windows(image.size, split, size):
            patch = image.crop((left, top, left + window, top + window))
            every.append(np.asarray(patch.resize((size, size), Image.Resampling.BILINEAR)))
            labels.append(label)
            files.append(f"{name} ({left}, {top}) + {window}")
    return LabelledPictures(
        torch.from_numpy(np.stack(every)).permute(0, 3, 1, 2).contiguous(),  # (N, S, S, 3) -> (N, 3, S, S)
        torch.tensor(labels),
        tuple(names),
        tuple(photographs()[name].title for name in names),
        tuple(files),
    )


def _windows(picture: tuple[int, int], split: str, size: int) -> list[tuple[int, int, int]]:
    """Square windows (left, top, side) within the regions of ``split`` in a (width, height) picture."""
    width, height = picture
    longer = max(picture)
    first, last = round(0.35 * longer), round(0.65 * longer)
    bands = [(first, last)] if split == "val" else [(0, first), (last, longer)]
    windows = []
    for n in range(100 if split == "val" else 400):
        start, stop = bands[n % len(bands)]
        side = min(round(size * (1, 1.5, 2)[n % 3]), stop - start, *picture)
        if side < size:
            raise ValueError(f"patches of {size} px do not fit; the narrowest region has {stop - start} px")
        # Multiples of the plastic number's inverse powers fill a rectangle evenly, with no random draw.
        along = start + int((n * 0.7548776662466927) % 1 * (stop - start - side + 1))
        across = int((n * 0.5698402909980532) % 1 * (min(picture) - side + 1))
        windows.append((along, across, side) if width >= height else (across, along, side))
    return windows


# ------------------------------------------------------------------------------ Tiny-ImageNet
def tiny_imagenet(split: str, root: str | os.PathLike | None = None) -> LabelledPictures:
    """Tiny-ImageNet-200 in its original layout: 100,000 ``train`` or 10,000 ``val`` pictures of 64×64.

    Classes are sorted by their WordNet id; the position is the label.

    Raises
    ------
    FileNotFoundError
        The data are not under ``root``; the message says how to get them.
    ValueError
        Unknown split, or a file that cannot be decoded (named).
    """
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; known: train, val")
    base = folder_of("tiny-imagenet", root, "wnids.txt")
    classes = tuple(sorted((base / "wnids.txt").read_text("utf-8").split()))
    lines = (base / "words.txt").read_text("utf-8").splitlines()
    words = {wnid: text for wnid, _, text in (line.partition("\t") for line in lines)}
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    if split == "train":
        files = [
            path for wnid in classes for path in sorted((base / "train" / wnid / "images").glob("*.JPEG"))
        ]
        labels = [label_of[path.parent.parent.name] for path in files]
        if files and (empty := sorted(set(range(len(classes))) - set(labels))):
            raise ValueError(
                f"{base / 'train' / classes[empty[0]]} has no pictures; see `zfcore data check tiny-imagenet`"
            )
    else:
        text = (base / "val" / "val_annotations.txt").read_text("utf-8")
        rows = [line.split("\t") for line in text.splitlines()]
        files = [base / "val" / "images" / row[0] for row in rows]
        if strange := [row for row in rows if len(row) < 2 or row[1] not in label_of]:
            raise ValueError(
                f"{base / 'val' / 'val_annotations.txt'} has a line {strange[0][:2]} of no class in "
                "wnids.txt; see `zfcore data check tiny-imagenet`"
            )
        labels = [label_of[row[1]] for row in rows]
    if not files:
        raise FileNotFoundError(f"{base} has no {split} pictures; run `zfcore data get tiny-imagenet`")
    pixels = torch.empty((len(files), 3, 64, 64), dtype=torch.uint8)
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        decoded = pool.map(decode, files)
        for n, picture in enumerate(
            tqdm(decoded, f"reading {split}", len(files), unit="picture", leave=False)
        ):
            if picture.shape != (64, 64, 3):
                raise ValueError(
                    f"{files[n]} is {picture.shape[1]} × {picture.shape[0]} px; Tiny-ImageNet has 64 × 64"
                )
            pixels[n] = torch.from_numpy(picture).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    return LabelledPictures(
        pixels,
        torch.tensor(labels),
        classes,
        tuple(words.get(wnid, wnid).split(",")[0] for wnid in classes),
        tuple(path.name for path in files),
    )


# ------------------------------------------------------------------------------ Caltech and PASCAL VOC
#: The twenty classes of PASCAL VOC, in the order of its development kit.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def caltech(name: str, side: int = 64, root: str | os.PathLike | None = None) -> LabelledPictures:
    """Caltech-101 or Caltech-256, all pictures, as the centre squares of §3.

    Every folder is a class, the background too (``BACKGROUND_Google``, ``257.clutter``): who does not want
    it leaves it out.

    Parameters
    ----------
    name
        ``"caltech101"`` (9,144 pictures, 102 folders) or ``"caltech256"`` (30,607 and 257).
    side
        The smaller side is resized to so many pixels, and the centre square taken.
    root
        The folder that holds the data sets; default :func:`data_root`.

    Raises
    ------
    FileNotFoundError
        The data are not under ``root``; the message says how to get them.
    ValueError
        Unknown name, or a file that cannot be decoded (named).
    """
    if name not in ("caltech101", "caltech256"):
        raise ValueError(f"unknown data set {name!r}; known: caltech101, caltech256")
    base = folder_of(name, root)
    files = sorted(path for path in base.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise FileNotFoundError(f"{base} has no pictures; run `zfcore data get {name}`")
    classes = tuple(sorted({path.parent.name for path in files}))
    return LabelledPictures(
        _squares_of_files(files, side),
        torch.tensor([classes.index(path.parent.name) for path in files]),
        classes,
        classes,
        tuple(f"{path.parent.name}/{path.name}" for path in files),
    )


@dataclass(frozen=True)
class VocPictures:
    """Pictures of PASCAL VOC and which of its 20 classes each shows.

    ``pixels`` uint8 (N, 3, S, S); ``truth`` int8 (N, 20), in the order of :data:`VOC_CLASSES`: 1 where an
    object of the class is seen, −1 where none is, 0 where all that are seen are marked difficult, which
    the rules of the challenge leave out of account. ``files`` are the pictures' names there.
    """

    pixels: Tensor
    truth: Tensor
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over names, truth and pixels, in their order."""
        digest = hashlib.sha256("\n".join(self.files).encode())
        digest.update(self.truth.numpy())
        digest.update(self.pixels.numpy())
        return digest.hexdigest()


def voc(year: int, split: str, side: int = 64, root: str | os.PathLike | None = None) -> VocPictures:
    """A part of PASCAL VOC, as the centre squares of §3.

    Where a picture has no annotation, as those that the evaluation server judges, its truth is all 0.

    Parameters
    ----------
    year
        2007 or 2012; any other whose folder lies beside.
    split
        A list of ``ImageSets/Main``: ``"train"``, ``"val"``, ``"trainval"``, ``"test"``.
    side, root
        As in :func:`caltech`.

    Raises
    ------
    FileNotFoundError
        The data, or this part of them, are not under ``root``; the message says how to get them.
    ValueError
        A picture or an annotation that cannot be read (named).
    """
    base = folder_of(f"voc{year}", root)
    listed = base / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.exists():
        known = ", ".join(sorted(path.stem for path in listed.parent.glob("*.txt") if "_" not in path.stem))
        raise FileNotFoundError(
            f"VOC {year} has no part {split!r} at {listed.parent}; it has: {known or 'none'}"
        )
    names = listed.read_text(encoding="utf-8").split()
    pixels = _squares_of_files([base / "JPEGImages" / f"{name}.jpg" for name in names], side)
    truth = torch.stack([_voc_truth(base / "Annotations" / f"{name}.xml") for name in names])
    return VocPictures(pixels, truth, tuple(names))


def _voc_truth(annotation: Path) -> Tensor:
    """The row of :class:`VocPictures`'s ``truth`` that an annotation stands for, int8 (20,)."""
    if not annotation.exists():
        return torch.zeros(len(VOC_CLASSES), dtype=torch.int8)
    truth = torch.full((len(VOC_CLASSES),), -1, dtype=torch.int8)
    try:
        for thing in ElementTree.parse(annotation).iterfind("object"):
            c = VOC_CLASSES.index(thing.findtext("name", ""))
            plain = thing.findtext("difficult", "0").strip() != "1"
            truth[c] = 1 if plain or truth[c] == 1 else 0
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{annotation} cannot be read ({error}); get the data again") from error
    return truth


def _squares_of_files(files: list[Path], side: int) -> Tensor:
    """The centre squares of files, the smaller side resized to ``side``: uint8 (N, 3, side, side)."""
    pixels = torch.empty((len(files), 3, side, side), dtype=torch.uint8)
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        cut = pool.map(lambda file: _square(file, side), files)
        for n, square in enumerate(tqdm(cut, "reading", len(files), unit="picture", leave=False)):
            pixels[n] = torch.from_numpy(square.copy()).permute(2, 0, 1)  # (S, S, 3) -> (3, S, S)
    return pixels


# ------------------------------------------------------------------------------ ImageNet
def imagenet(split: str, root: str | os.PathLike | None = None) -> PackedPictures:
    """ImageNet-2012 as ``zfcore data pack imagenet`` wrote it: centre squares of 256×256 px.

    Raises
    ------
    FileNotFoundError
        There is no pack under ``root``; the message says how to make one.
    ValueError
        Unknown split, or a damaged pack (see :meth:`PackedPictures.open`).
    """
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; known: train, val")
    folder = Path(root or data_root()) / "imagenet-256"
    if not (folder / f"{split}.npz").exists():
        raise FileNotFoundError(
            f"no packed ImageNet at {folder}; run `zfcore data pack imagenet --split {split}` (`zfcore data "
            "get imagenet` tells how to get the pictures), or set ZFCORE_DATA to the folder that holds it"
        )
    return PackedPictures.open(folder, split)


#: The labelled sets by the names they have in the shell.
DATA_SETS: dict[str, Callable[[str], Pictures]] = {
    "tiny-imagenet": tiny_imagenet,
    "imagenet": imagenet,
    "patches": patches,
}


# ------------------------------------------------------------------------------ decoding
Picture = str | os.PathLike | IO[bytes] | Image.Image | np.ndarray | Tensor | Photograph


def title_of(picture: Picture, otherwise: str) -> str:
    """What a picture is called: a photograph has a title, all others are called ``otherwise``."""
    title = getattr(picture, "title", None)
    return title if isinstance(title, str) else otherwise  # of a path as text, `title` is a method


def decode(source: Picture) -> np.ndarray:
    """Decode one picture to 8-bit RGB.

    Grey, palette, CMYK and other colour spaces become RGB by Pillow's plain formulas (no colour
    profile is applied); what is transparent is laid on white; 16-bit grey is scaled by 255/65535;
    the rotation in EXIF is carried out; of an animation the first frame is taken.

    Parameters
    ----------
    source
        A picture file (or an open binary one), a PIL image, a :class:`Photograph`, or an array
        (H, W, 3) uint8, which is handed back as it is.

    Returns
    -------
    ndarray
        (H, W, 3) uint8.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no picture, is truncated, is larger than ``PIL.Image.MAX_IMAGE_PIXELS``, has a pixel
        type without a fixed range (floats, 32-bit integers), or is an array of another shape or type.
    """
    if isinstance(source, Photograph):
        return source.pixels
    if isinstance(source, Tensor):
        source = source.cpu().numpy()
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or source.size == 0:
            raise ValueError(
                f"an array picture is (H, W, 3) uint8 in [0, 255], not {source.shape} {source.dtype}"
            )
        return source
    if isinstance(source, Image.Image):
        return _to_rgb(source, getattr(source, "filename", "") or "the PIL image")
    name = getattr(source, "name", "the open file") if hasattr(source, "read") else os.fspath(source)
    try:
        image = Image.open(source)
    except FileNotFoundError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} is too large: {error}; make it smaller first") from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them stumble over
        raise ValueError(_undecodable(name, error)) from error
    with image:
        return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """A PIL image of any mode as (H, W, 3) uint8."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise ValueError(
            f"{name} is too large: {image.width} × {image.height} px, and at most {limit:,} pixels "
            "are accepted (PIL.Image.MAX_IMAGE_PIXELS); make it smaller first"
        )
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = _from_deep_grey(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.array(image.convert("RGB"))
    except Exception as error:  # as above: pixels are parsed only here
        raise ValueError(_undecodable(name, error)) from error
    if pixels.size == 0:
        raise ValueError(_undecodable(name, "it has no pixels"))
    return pixels


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; 32-bit integers pass if they are 16-bit values in a wider type."""
    values = np.asarray(image)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; scale them to 8 bits first")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def _undecodable(name: str, error: object) -> str:
    return (
        f"{name} cannot be decoded ({error}); accepted are whole picture files that Pillow reads "
        "(JPEG, PNG, WebP, GIF, TIFF, BMP, …), PIL images, and uint8 arrays (H, W, 3)"
    )


# ------------------------------------------------------------------------------ duplicates
def thumbnails(pictures: Sequence[Picture], progress: bool = False) -> Thumbnails:
    """Grey thumbnails of pictures, for :func:`find_duplicates`; of the pictures themselves few are in memory.

    A picture is squeezed into a square; one whose sides differ by more than 5 % has a second thumbnail, of
    its middle square. Pictures and errors as in :func:`decode`.
    """
    parts, owner = [], []
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        for start in tqdm(range(0, len(pictures), 512), "reading", leave=False, disable=not progress):
            chosen = range(start, min(start + 512, len(pictures)))
            for i, views in zip(chosen, pool.map(lambda i: _thumbnails(pictures[i]), chosen), strict=True):
                parts += views
                owner += [i] * len(views)
    pixels = np.stack(parts) if parts else np.empty((0, THUMBNAIL, THUMBNAIL), np.uint8)
    return Thumbnails(torch.from_numpy(pixels), torch.tensor(owner, dtype=torch.int64))


def _thumbnails(picture: Picture) -> list[np.ndarray]:
    image = Image.fromarray(decode(picture)).convert("L")
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    boxes = [(0, 0, width, height), (left, top, left + short, top + short)]
    size = (THUMBNAIL, THUMBNAIL)
    return [
        np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))
        for box in boxes[: 1 + (max(width, height) > 1.05 * short)]
    ]


def find_duplicates(
    a: Sequence[Picture], b: Sequence[Picture], threshold: float = 0.95, progress: bool = False
) -> list[tuple[int, int, float]]:
    """The pictures that two sets share, by normalised correlation (§5.2).

    Found also where one of the two was encoded again, resized, mirrored, made brighter, or cropped by up
    to 5 % at any edge; :mod:`zfcore.duplicates` says how.

    Parameters
    ----------
    a, b
        Sequences of pictures (see :func:`decode`); an item is asked for once, so they may be lazy.
    threshold
        Least correlation, in (0, 1].
    progress
        Whether a bar shows the reading of ``a``, then of ``b``.

    Returns
    -------
    list
        ``(i, j, correlation)``, positions in ``a`` and ``b``, the largest correlation first.

    Raises
    ------
    FileNotFoundError
        A file is not there.
    ValueError
        A picture cannot be decoded (it is named), or a threshold outside (0, 1].
    """
    return matches(thumbnails(a, progress), thumbnails(b, progress), threshold)


# ------------------------------------------------------------------------------ preprocessing, §3
def to_input(pictures: Iterable[Picture], card: dict) -> Tensor:
    """Pictures as the network of ``card`` wants them: (squares − mean) / scale.

    Parameters
    ----------
    pictures
        A list of pictures (files, PIL images, arrays (H, W, 3) uint8, photographs), or one array
        or tensor (N, H, W, 3) uint8.
    card
        The card that came with the weights: ``resize``, ``input_size``, ``scale`` and ``mean``.

    Returns
    -------
    Tensor
        (N, 3, S, S) float32, S = ``card["input_size"]``.

    Raises
    ------
    FileNotFoundError
        A file is not there.
    ValueError
        A picture cannot be decoded (it is named), or the card lacks an entry.
    TypeError
        One picture, or one open file, instead of a list.
    """
    x = torch.from_numpy(squares(pictures, card)).permute(0, 3, 1, 2).float()  # (N, S, S, 3) -> (N, 3, S, S)
    mean, scale = (of_card(card, key) for key in ("mean", "scale"))
    if not isinstance(mean, Tensor) or mean.shape != (3, card["resize"], card["resize"]):
        raise ValueError(
            f"card['mean'] is a tensor (3, {card['resize']}, {card['resize']}), the per-pixel mean over the "
            f"training pictures; `zfcore.model.load` puts it there, a card read as JSON has none"
        )
    return (x - centre_crop(mean, card["input_size"])) / scale


def squares(pictures: Iterable[Picture], card: dict) -> np.ndarray:
    """What the network sees of each picture, before the mean is subtracted: for display beside its maps.

    The smaller side is resized to ``card["resize"]`` = R, the longer one to R·long/short, rounded;
    then the centre R×R, then the centre S×S of that, S = ``card["input_size"]`` (a side left over is
    cut off by one pixel more at the bottom or right).

    The resampling is Pillow's ``BILINEAR``, a triangle filter that widens when it shrinks. With
    s = old side / new side, output pixel i of a row takes the input pixels j with weights in
    proportion to ``max(0, 1 − |j + ½ − (i + ½)s| / max(s, 1))``, their sum being 1; first every row,
    rounded to 8 bits, then every column, rounded to 8 bits. A picture whose smaller side is
    already R is not resampled.

    Returns
    -------
    ndarray
        (N, S, S, 3) uint8. Parameters and errors as in :func:`to_input`.
    """
    if (
        isinstance(pictures, str | os.PathLike | Image.Image | Photograph)
        or hasattr(pictures, "read")
        or getattr(pictures, "ndim", 4) == 3
    ):
        raise TypeError(
            "expected a list of pictures or an array (N, H, W, 3), but got a single picture; put it in a list"
        )
    side, size = (of_card(card, key) for key in ("resize", "input_size"))
    if size > side:
        raise ValueError(
            f"the card asks for {size} px crops of {side} px pictures; input_size ≤ resize is accepted"
        )
    every = [_centre(_square(picture, side), size) for picture in pictures]
    return np.stack(every) if every else np.empty((0, size, size, 3), np.uint8)


def of_card(card: Mapping[str, Any], key: str) -> Any:
    """An entry that a card must have; ``ValueError`` with those it has where it lacks it."""
    if key not in card:
        raise ValueError(
            f"the card has no {key!r}; it has {', '.join(card)}. Take it from `zfcore.model.load`"
        )
    return card[key]


def _square(picture: Picture, side: int) -> np.ndarray:
    """The centre square of a picture whose smaller side is resized to ``side``: (side, side, 3) uint8."""
    name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else "a picture"
    return _centre(_resized(decode(picture), side, name), side)


def _resized(pixels: np.ndarray, side: int, name: str = "a picture") -> np.ndarray:
    """(H, W, 3) uint8 with its smaller side brought to ``side``; :func:`squares` says how."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short == side:
        return pixels
    height, width = (
        (2 * length * side + short) // (2 * short) for length in (height, width)
    )  # halves round up
    limit = Image.MAX_IMAGE_PIXELS
    if limit and height * width > limit:
        raise ValueError(
            f"{name} of {pixels.shape[1]} × {pixels.shape[0]} px is too long and narrow; crop it first"
        )
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _centre(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def crop_flip(pixels: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Cut one ``size``×``size`` square out of each picture, mirrored where asked, all in one gather.

    Parameters
    ----------
    pixels
        (N, C, H, W), or (1, C, H, W) shared by all.
    tops, lefts, mirrored
        (N,) int64 corners in pixels and (N,) bool.
    size
        Side of the squares in pixels.

    Returns
    -------
    Tensor
        (N, C, size, size) of the same dtype.
    """
    n, c = len(tops), pixels.shape[1]
    steps = torch.arange(size, device=pixels.device)
    rows = tops[:, None] + steps  # (N, size)
    columns = lefts[:, None] + torch.where(mirrored[:, None], size - 1 - steps, steps)
    pictures = torch.arange(n, device=pixels.device) % len(pixels)  # all 0 where one is shared
    channels = torch.arange(c, device=pixels.device)
    return pixels[
        pictures[:, None, None, None],
        channels[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def ten_crops(pixels: Tensor, size: int) -> Tensor:
    """The ten crops of §3: four corners and the centre, then their mirror images.

    (N, C, H, W) → (10, N, C, size, size), any dtype.
    """
    height, width = pixels.shape[-2:]
    bottom, right = height - size, width - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = torch.stack([pixels[..., y : y + size, x : x + size] for y, x in corners])
    return torch.cat([crops, crops.flip(-1)])


def centre_crop(pixels: Tensor, size: int) -> Tensor:
    """The centre square of (…, H, W) as (…, size, size)."""
    top, left = ((side - size) // 2 for side in pixels.shape[-2:])
    return pixels[..., top : top + size, left : left + size]


def mean_picture(pixels: Tensor, batch: int = 4096) -> Tensor:
    """The per-pixel mean of (N, 3, H, W) uint8 pictures as (3, H, W) float32 in [0, 255]."""
    total = sum(part.double().sum(0) for part in pixels.split(batch))
    return (total / len(pixels)).float()
