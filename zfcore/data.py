"""Pictures: decoding, the preprocessing of §3, and the data sets the book stands on.

Every picture enters as 8-bit RGB. §3 resizes the smaller side, takes the centre square, subtracts
the per-pixel mean over the training pictures, and cuts ten crops (four corners and the centre,
each with its mirror image); training may instead cut at random, as Krizhevsky did.

Source: Zeiler & Fergus, §3, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import photographs, to_input
    from zfcore.model import load
    network, card = load("zfnet-64")
    x = to_input([photographs()["chelsea"].pixels], card)      # (1, 3, 56, 56)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class LabelledPictures:
    """A data set in memory: ``pixels`` uint8 (N, 3, H, W), ``labels`` int64 (N,), and their meaning.

    ``classes`` are the sorted ids whose position is the label, ``names`` their words;
    ``files`` names each picture.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def data_root() -> Path:
    """The folder that holds the data sets: ``ZFCORE_DATA``, or the user's data folder."""
    return Path(os.environ.get("ZFCORE_DATA") or platformdirs.user_data_dir("zfcore"))


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
    base = Path(root or data_root()) / "tiny-imagenet-200"
    if not (base / "wnids.txt").exists():
        raise FileNotFoundError(
            f"Tiny-ImageNet is not at {base}; run `zfcore data get tiny-imagenet`, "
            "or set ZFCORE_DATA to the folder that holds tiny-imagenet-200/"
        )
    classes = tuple(sorted((base / "wnids.txt").read_text().split()))
    words = dict(line.split("\t", 1) for line in (base / "words.txt").read_text().splitlines())
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    if split == "train":
        files = [path for wnid in classes for path in sorted((base / "train" / wnid / "images").glob("*.JPEG"))]
        labels = [label_of[path.parent.parent.name] for path in files]
    else:
        rows = [line.split("\t") for line in (base / "val" / "val_annotations.txt").read_text().splitlines()]
        files = [base / "val" / "images" / row[0] for row in rows]
        labels = [label_of[row[1]] for row in rows]
    pixels = torch.empty((len(files), 3, 64, 64), dtype=torch.uint8)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        decoded = pool.map(decode, files)
        for n, picture in enumerate(tqdm(decoded, f"reading {split}", len(files), unit="picture", leave=False)):
            pixels[n] = torch.from_numpy(picture).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    return LabelledPictures(
        pixels,
        torch.tensor(labels),
        classes,
        tuple(words[wnid].split(",")[0] for wnid in classes),
        tuple(path.name for path in files),
    )


def decode(source: str | os.PathLike | Image.Image | np.ndarray) -> np.ndarray:
    """Decode one picture to 8-bit RGB, (H, W, 3) uint8."""
    with Image.open(source) as image:
        return np.asarray(image.convert("RGB"))


def crop_flip(pixels: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Cut one ``size``×``size`` square out of each picture, mirrored where asked, all in one gather.

    Parameters
    ----------
    pixels
        (N, C, H, W), or (1, C, H, W) shared by all.
    tops, lefts, mirrored
        (N,) int64 corners in pixels and (N,) bool.

    Returns
    -------
    Tensor
        (N, C, size, size) of the same dtype.
    """
    n, c = len(tops), pixels.shape[1]
    steps = torch.arange(size, device=pixels.device)
    rows = tops[:, None] + steps  # (N, size)
    columns = lefts[:, None] + torch.where(mirrored[:, None], size - 1 - steps, steps)
    pictures = torch.arange(n, device=pixels.device) if len(pixels) == n else torch.zeros(n, dtype=torch.int64)
    channels = torch.arange(c, device=pixels.device)
    return pixels[
        pictures.to(pixels.device)[:, None, None, None],
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


def as_batch(pictures: Sequence[np.ndarray]) -> Tensor:
    """Stack pictures of one size, each (H, W, 3) uint8, into (N, 3, H, W) uint8."""
    return torch.stack([torch.from_numpy(np.ascontiguousarray(p)).permute(2, 0, 1) for p in pictures])
