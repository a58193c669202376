"""Pictures that two sets share: they are decoded here, and compared in :mod:`zfcore.duplicates`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from zfcore.data.decoding import Picture, decode
from zfcore.data.machine import cores
from zfcore.duplicates import SIDE as THUMBNAIL
from zfcore.duplicates import Thumbnails, matches


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
