"""Packs a data set of photographs into what training reads: centre squares of 256 px in tar shards.

§3 resizes the smaller side of every picture to 256 and takes the centre square; ImageNet's 1.28
million large JPEG files become squares once, so that an epoch need not decode and resize them again,
and about sixty files instead of a million. An epoch takes them in a fresh order over all shards, each picture
by one seek, which is for solid-state disks and for what the machine keeps in memory.

A shard is a plain tar in the layout of webdataset (``0000012.jpg``, ``0000012.cls``), which other
readers take as it is; picture i of the sorted list lies in shard i mod S, so that every shard has all
classes. Beside the shards lies the index that :class:`zfcore.data.PackedPictures` reads.

The squares are stored as JPEG of quality 95 without colour subsampling. On ten photographs that
changes a pixel by 2.0 grey levels of 255 (root mean square; 3.1 with subsampling, 2.9 at quality 90)
and takes 35 kB a picture, where lossless PNG takes about 100; inputs range over [-128, 128].

Source: Zeiler & Fergus, §3, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import PackedPictures
    from zfcore.pack import pack
    pack("imagenet", "imagenet-256", "val")           # imagenet/val/<wnid>/*.JPEG -> imagenet-256/val.npz
    pictures = PackedPictures.open("imagenet-256", "val")
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from mimetypes import guess_type
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from zfcore.data import PackedPictures, cores, decode, squares
from zfcore.fetch import DATASETS
from zfcore.model import alone_in, write_atomically
from zfcore.public import imagenet_classes, imagenet_words

PACKABLE = ("imagenet", "imagenette")  # data sets in the layout that this room reads
QUALITY = 95
BYTES = 50_000  # of disk per picture: 35 kB measured, a tar's blocks, and some to spare
TOGETHER = 32  # pictures that one thread takes at a time


class PackError(ValueError):
    """Pictures cannot be packed; the message names every one of them."""


def pack(
    source: str | os.PathLike,
    out: str | os.PathLike,
    split: str = "train",
    *,
    side: int = 256,
    per_shard: int = 20_000,
    workers: int | None = None,
    skip_corrupt: bool = False,
    progress: bool = True,
) -> PackedPictures:
    """Pack ``<source>/<split>/<class>/*.JPEG`` into ``<out>/<split>.npz`` and its shards.

    A shard appears under its name only when it is whole; a run that was killed goes on with the next
    one, whatever ended it. Where a picture that was left out can be decoded now, its shard is packed
    again. The per-pixel mean is that of the pictures as they are read back, summed in whole numbers.

    Parameters
    ----------
    source
        ImageNet-2012 as torchvision unpacks it: ``train/<wnid>/``, ``val/<wnid>/``. The classes are
        those of ``train`` where it is there, sorted; the position is the label.
    out
        Folder of the pack; made if it is missing.
    split
        ``"train"`` or ``"val"``.
    side
        Side of the squares in pixels.
    per_shard
        Pictures in a shard, at most; 20,000 are about 0.7 GB.
    workers
        Threads; by default one per core.
    skip_corrupt
        Leave pictures out that cannot be decoded, instead of refusing the pack.
    progress
        Whether a bar shows the pictures packed.

    Raises
    ------
    FileNotFoundError
        ``source`` has no pictures in that layout.
    PackError
        Pictures cannot be decoded (all are looked at, and all such are named), or ``out`` holds a
        pack, or a part of one, of other pictures.
    OSError
        The disk has no room; nothing is written then. Or another process works in ``out``.
    """
    with alone_in(out):
        return _packed(Path(source), Path(out), split, side, per_shard, workers, skip_corrupt, progress)


def _packed(
    source: Path,
    out: Path,
    split: str,
    side: int,
    per_shard: int,
    workers: int | None,
    skip_corrupt: bool,
    progress: bool,
) -> PackedPictures:
    files, labels, classes = _listed(source, split)
    shards = math.ceil(len(files) / per_shard)
    names = [f"{split}-{shard:06d}.tar" for shard in range(shards)]
    plan = hashlib.sha256("\n".join([f"{side} {QUALITY} {per_shard}", *classes, *files]).encode()).hexdigest()
    index = out / f"{split}.npz"
    if index.exists():
        packed = PackedPictures.open(out, split)
        if np.load(io.BytesIO(index.read_bytes()))["plan"].item() != plan:
            raise PackError(f"{index} is a pack of other pictures; give another folder, or move it away")
        if not _any_decodes(source / split, set(files) - set(packed.files), side):
            return packed
    out.mkdir(parents=True, exist_ok=True)
    done = [_finished(out / name, plan) for name in names]
    for shard, note in enumerate(done):
        left_out = set(range(shard, len(files), shards)) - set(note["positions"].tolist()) if note else ()
        if _any_decodes(source / split, (files[i] for i in left_out), side):
            done[shard] = None
    missing = sum(len(range(shard, len(files), shards)) for shard in range(shards) if done[shard] is None)
    free = shutil.disk_usage(out).free
    if free < missing * BYTES:
        raise OSError(
            f"{out} has {free / 1e9:.1f} GB left, but {missing:,} pictures need "
            f"{missing * BYTES / 1e9:.1f} GB; make room, or give a folder on a larger disk"
        )
    faults = []
    if not skip_corrupt:  # what finished shards have left out, when it was asked for, is no whole pack
        kept = {i for note in done if note for i in note["positions"].tolist()}
        finished = (i for shard in range(shards) if done[shard] for i in range(shard, len(files), shards))
        faults = [f"{files[i]}: left out when {out} was begun" for i in finished if i not in kept]
    with (
        ThreadPoolExecutor(workers or cores()) as pool,
        tqdm(
            total=len(files),
            desc=f"packing {split}",
            initial=len(files) - missing,
            unit="picture",
            disable=not progress,
        ) as bar,
    ):
        for shard, name in enumerate(names):
            if done[shard] is None:
                positions = range(shard, len(files), shards)
                encoded = _encoded(pool, [source / split / files[i] for i in positions], side, bar)
                note, corrupt = _write_shard(out / name, encoded, positions, labels, side)
                faults += corrupt
                for fault in corrupt:
                    bar.write(fault)
                if corrupt and not skip_corrupt:
                    _part(out / name).unlink()
                else:
                    done[shard] = note | {"plan": np.array(plan)}
                    index.unlink(missing_ok=True)  # that of the shards as they were
                    _finish(out / name, done[shard])
    if faults and not skip_corrupt:
        raise PackError(
            f"{len(faults)} pictures cannot be packed:\n  " + "\n  ".join(faults) + "\nBring them again, or "
            "leave them out with --skip-corrupt (skip_corrupt=True); what is whole is kept"
        )
    _write_index(index, done, names, files, labels, classes)
    return PackedPictures.open(out, split)


def _listed(source: Path, split: str) -> tuple[list[str], list[int], list[str]]:
    """Files relative to ``source/split`` in sorted order, their labels, and the classes."""
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; known: train, val")
    items, _ = DATASETS["imagenet"].layout(source)
    found = {
        part: {item.path.parent.name for item in items if item.split == part} for part in ("train", "val")
    }
    files = sorted(item.path.relative_to(source / split).as_posix() for item in items if item.split == split)
    if not files:
        raise FileNotFoundError(
            f"no pictures at {source / split}/<class>/; give the folder that holds train/ and val/, each "
            "with a folder per class (`zfcore data get imagenet` tells how to make that of the archives)"
        )
    known = {source / split / file for file in files}
    others = (path for path in (source / split).glob("[!.]*/[!.]*") if path not in known)
    strange = [path for path in others if str(guess_type(path.name)[0]).startswith("image/")]
    if strange:
        raise PackError(
            f"{len(strange)} pictures are no JPEG files ({strange[0]}, …); convert them, or move them away"
        )
    classes = sorted(found["train"] or found[split])
    if foreign := sorted(found[split] - set(classes)):
        raise PackError(f"{source / split} has classes that train has not: {', '.join(foreign)}")
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    return files, [label_of[file.partition("/")[0]] for file in files], classes


def _encoded(
    pool: ThreadPoolExecutor, paths: list[Path], side: int, bar: tqdm
) -> Iterator[tuple[list[bytes | str], np.ndarray]]:
    """For a few pictures at a time: their JPEG files (or what is wrong with them), and their sum."""
    parts = [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]
    for start in range(0, len(parts), 128):  # a future for each would hold a whole shard in memory
        for blobs, total in pool.map(partial(_encode, side=side), parts[start : start + 128]):
            bar.update(len(blobs))
            yield blobs, total


def _encode(paths: list[Path], side: int) -> tuple[list[bytes | str], np.ndarray]:
    blobs, total = [], np.zeros((side, side, 3), np.int64)
    for path in paths:
        try:
            [square] = squares([path], {"resize": side, "input_size": side})
        except (OSError, ValueError) as error:
            blobs.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        file = io.BytesIO()
        Image.fromarray(square).save(file, "JPEG", quality=QUALITY, subsampling=0)
        blobs.append(file.getvalue())
        total += decode(file)
    return blobs, total


def _any_decodes(folder: Path, files: Iterable[str], side: int) -> bool:
    """Whether one of these pictures can be packed."""
    return any(isinstance(blob, bytes) for file in files for blob in _encode([folder / file], side)[0])


def _write_shard(
    path: Path,
    encoded: Iterator[tuple[list[bytes | str], np.ndarray]],
    positions: range,
    labels: list[int],
    side: int,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Write one tar beside its place; what it holds, and what is wrong with the pictures it lacks."""
    kept, places, faults = [], [], []
    content, total = hashlib.sha256(), np.zeros((side, side, 3), np.int64)
    where = iter(positions)
    with tarfile.open(_part(path), "w", format=tarfile.USTAR_FORMAT) as tar:
        for blobs, subtotal in encoded:
            total += subtotal
            for blob, position in zip(blobs, where, strict=False):  # no position is drawn in vain
                if isinstance(blob, str):
                    faults.append(blob)
                    continue
                kept.append(position)
                places.append((_member(tar, f"{position:07d}.jpg", blob), len(blob)))
                _member(tar, f"{position:07d}.cls", str(labels[position]).encode())
                content.update(blob)
    note = {
        "size": np.array(_part(path).stat().st_size),
        "positions": np.array(kept, np.int64),
        "places": np.array(places, np.int64).reshape(-1, 2),
        "total": total,
        "content": np.array(content.hexdigest()),
    }
    return note, faults


def _member(tar: tarfile.TarFile, name: str, blob: bytes) -> int:
    """Append one file; where its first byte lies."""
    info = tarfile.TarInfo(name)  # no date and no owner: the same pictures give the same shard
    info.size = len(blob)
    first = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(info, io.BytesIO(blob))
    return first


def _finish(shard: Path, note: dict[str, np.ndarray]) -> None:
    with _part(shard).open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(_part(shard), shard)
    _save(_note(shard), note)  # last: a shard is whole when its note is there


def _part(shard: Path) -> Path:
    return shard.with_name(f".{shard.name}.part")


def _note(shard: Path) -> Path:
    return shard.with_suffix(".npz")


def _finished(shard: Path, plan: str) -> dict[str, np.ndarray] | None:
    """The note of a whole shard that an earlier run left."""
    try:
        file = np.load(io.BytesIO(_note(shard).read_bytes()))
        note = {name: file[name] for name in file.files}
        size, of = note["size"].item(), note["plan"].item()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if of != plan:
        raise PackError(f"{shard} belongs to a pack of other pictures; give another folder, or move it away")
    return note if shard.exists() and shard.stat().st_size == size else None


def _write_index(
    path: Path,
    notes: list[dict[str, np.ndarray]],
    names: list[str],
    files: list[str],
    labels: list[int],
    classes: list[str],
) -> None:
    positions = np.concatenate([note["positions"] for note in notes])
    if not len(positions):
        raise PackError("no picture is left: all of them are corrupt")
    shard = np.repeat(np.arange(len(notes)), [len(note["positions"]) for note in notes])
    places = np.column_stack([shard, np.concatenate([note["places"] for note in notes])])
    order = positions.argsort()
    kept = positions[order]
    words = dict(zip(imagenet_classes(), imagenet_words(), strict=True))
    mean = sum(note["total"] for note in notes) / len(kept)  # (R, R, 3) float64
    content = hashlib.sha256("".join(note["content"].item() for note in notes).encode()).hexdigest()
    _save(
        path,
        {
            "plan": notes[0]["plan"],
            "files": np.array(files)[kept],
            "labels": np.array(labels, np.int64)[kept],
            "classes": np.array(classes),
            "names": np.array([words.get(c, c) for c in classes]),
            "places": places[order],
            "shards": np.array(names),
            "sizes": np.array([note["size"] for note in notes], np.int64),
            "mean": mean.transpose(2, 0, 1).astype(np.float32),
            "content": np.array(content),
        },
    )


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    file = io.BytesIO()
    np.savez(file, **arrays)
    write_atomically(path, file.getvalue())
