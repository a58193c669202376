"""The data sets by name: where they lie on this machine, and how they are read."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import platformdirs
import torch
from torch import Tensor
from tqdm import tqdm

from zfcore.data.decoding import decode
from zfcore.data.machine import cores
from zfcore.data.pictures import LabelledPictures, PackedPictures, Pictures
from zfcore.data.preprocessing import square
from zfcore.data.shipped import patches


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
        cut = pool.map(lambda file: square(file, side), files)
        for n, picture in enumerate(tqdm(cut, "reading", len(files), unit="picture", leave=False)):
            pixels[n] = torch.from_numpy(picture.copy()).permute(2, 0, 1)  # (S, S, 3) -> (3, S, S)
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


# ------------------------------------------------------------------------------ all of them
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
