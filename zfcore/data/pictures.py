"""Sets of pictures in memory and in packs, and the batches they come in."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zfcore.data.decoding import decode
from zfcore.data.preprocessing import mean_picture


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
