"""The preprocessing of §3: squares, the mean picture, crops.

Source: Zeiler & Fergus, §3, doi:10.1007/978-3-319-10590-1_53.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zfcore.data.decoding import Photograph, Picture, decode


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
    every = [_centre(square(picture, side), size) for picture in pictures]
    return np.stack(every) if every else np.empty((0, size, size, 3), np.uint8)


def of_card(card: Mapping[str, Any], key: str) -> Any:
    """An entry that a card must have; ``ValueError`` with those it has where it lacks it."""
    if key not in card:
        raise ValueError(
            f"the card has no {key!r}; it has {', '.join(card)}. Take it from `zfcore.model.load`"
        )
    return card[key]


def square(picture: Picture, side: int) -> np.ndarray:
    """The centre square of a picture whose smaller side is resized to ``side``: (side, side, 3) uint8."""
    name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else "a picture"
    return _centre(resized(decode(picture), side, name), side)


def resized(pixels: np.ndarray, side: int, name: str = "a picture") -> np.ndarray:
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
