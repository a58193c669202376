r"""Pictures that two sets share, by normalised correlation (§5.2).

Before features are transferred, the target's pictures must not have been seen in the pretraining: the
paper found those of Caltech that also occur in ImageNet by normalised correlation. Here a picture is a
thumbnail of grey values x, minus its mean and of unit norm, and the correlation of two is :math:`x \cdot y`.

* **All pairs** of 16×16 thumbnails, as products of matrices in blocks: the second set as it is and
  mirrored, both sets whole and without 2.5 % at each edge, which is halfway to the largest crop that shall
  be found. What correlates by more than a low bar is a candidate.
* **Candidates**, few, at 32×32: either picture is cropped by 0, 2.5 or 5 % at each edge, in all
  combinations, and the best correlation counts. It must reach the threshold.
* **Detail.** Two photographs of a dark thing in front of a bright sky correlate by 0.97 and share nothing.
  So what is left of both thumbnails after a mean over 5×5 cells is taken away must correlate as well.

A picture that is not square is looked at twice, squeezed into a square and cut to its middle one, for sets
are made in either way. Pictures without contrast have no correlation, and match nothing.

Source: Zeiler & Fergus, §5.2, doi:10.1007/978-3-319-10590-1_53.

Example::

    from pathlib import Path
    from zfcore.data import find_duplicates
    a, b = (sorted(Path(folder).glob("*.jpg")) for folder in ("holiday", "backup"))
    for i, j, correlation in find_duplicates(a, b):
        print(a[i], b[j], correlation)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32
CANDIDATE = 0.1  # how far below the threshold a 16×16 correlation may lie: a crop costs so much
ALIGNED = 0.03  # how far, once the two are aligned
DETAIL = 0.25  # and how far the correlation of the details
MARGINS = (0.0, 0.025, 0.05)
WIDTH = 16  # a block of the second set in blocks of the first: what is made of it pays over many of these


@dataclass(frozen=True)
class Thumbnails:
    """Grey thumbnails uint8 (M, 32, 32), one or two of each picture; ``owner`` int64 (M,) says whose."""

    pixels: Tensor
    owner: Tensor


def matches(
    a: Thumbnails, b: Thumbnails, threshold: float = 0.95, block: int = 1024
) -> list[tuple[int, int, float]]:
    """The pairs of pictures of two sets that show the same, mirrored or slightly cropped perhaps.

    Parameters
    ----------
    a, b
        Thumbnails as :func:`zfcore.data.thumbnails` makes them.
    threshold
        Least correlation of the aligned thumbnails, in (0, 1].
    block
        Thumbnails of ``a`` that are compared with 16 times as many of ``b`` at once: memory for so many
        floats, however large the sets are.

    Returns
    -------
    list
        ``(i, j, correlation)``: positions in the sets, the best correlation of the two; the largest first,
        then by i and j.

    Raises
    ------
    ValueError
        A threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is {threshold}; accepted is above 0 and at most 1, such as 0.95")
    best: dict[tuple[int, int], float] = {}
    for first, theirs in _blocks(b.pixels, WIDTH * block):
        sides = [(pixels, *_whole_and_cropped(pixels)) for pixels in (theirs, theirs.flip(-1))]
        for start, mine in _blocks(a.pixels, block):
            whole, cropped = _whole_and_cropped(mine)
            for pixels, columns, fewer in sides:
                found = torch.maximum(whole @ columns.T, whole @ fewer.T)
                hits = (torch.maximum(found, cropped @ columns.T) > threshold - CANDIDATE).nonzero()
                for pairs in _likely(hits, mine, pixels, threshold):
                    found, detail = _aligned(mine[pairs[:, 0]].float(), pixels[pairs[:, 1]].float())
                    same = (found >= threshold - 1e-6) & (detail >= threshold - DETAIL)
                    for (row, column), r in zip(pairs[same].tolist(), found[same].tolist(), strict=True):
                        pair = int(a.owner[start + row]), int(b.owner[first + column])
                        best[pair] = max(best.get(pair, 0.0), min(1.0, r))
    return sorted(((i, j, r) for (i, j), r in best.items()), key=lambda hit: (-hit[2], *hit[:2]))


def _blocks(pixels: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    return ((start, pixels[start : start + size]) for start in range(0, len(pixels), size))


def _likely(hits: Tensor, a: Tensor, b: Tensor, threshold: float) -> Iterator[Tensor]:
    """Of the pairs (P, 2) those that correlate when they are aligned at 16×16, an eighth of the work."""
    for pairs in hits.split(128):  # 81 crops of 1024 numbers of each: 42 MB
        found, _ = _aligned(_coarse(a[pairs[:, 0]]), _coarse(b[pairs[:, 1]]))
        if len(kept := pairs[found > threshold - ALIGNED]):
            yield kept


def _whole_and_cropped(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(M, 32, 32) as unit rows (M, 256) of 16×16 cells: of the whole, and without 2.5 % at each edge."""
    coarse = _coarse(pixels)
    crop = _cropping(SIDE // 2)[len(MARGINS) + 1]
    return _unit(coarse), _unit(crop @ coarse @ crop.T)


def _coarse(pixels: Tensor) -> Tensor:
    return F.avg_pool2d(pixels[:, None].float(), 2)[:, 0]  # (M, 32, 32) -> (M, 16, 16)


def _unit(x: Tensor) -> Tensor:
    """(…, H, W) as (…, H·W) of mean 0 and norm 1; what has no contrast becomes 0."""
    x = x.flatten(-2)
    x = x - x.mean(-1, keepdim=True)
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > 1, x / norm.clamp_min(1e-9), 0.0)


def _detail(x: Tensor) -> Tensor:
    """(N, H, W) minus the mean over 5×5 cells."""
    return x - F.avg_pool2d(F.pad(x[:, None], (2, 2, 2, 2), mode="reflect"), 5, 1)[:, 0]


def _cropping(side: int) -> Tensor:
    """Matrices (9, side, side) that crop one axis by two of the margins and stretch it again."""
    matrices = []
    for low, high in itertools.product(MARGINS, MARGINS):
        places = low * side + (torch.arange(side) + 0.5) * (1 - low - high) - 0.5
        weights = (1 - (places[:, None] - torch.arange(side)).abs()).clamp_min(0)
        matrices.append(weights / weights.sum(1, keepdim=True))
    return torch.stack(matrices)


def _aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """For P pairs (P, S, S) the best correlation over all crops of either, and that of its details."""
    crop = _cropping(a.shape[-1])
    best, detail = a.new_full((len(a),), -1.0), a.new_full((len(a),), -1.0)
    for whole, cut in ((a, b), (b, a)):
        tall = torch.einsum("pkh,nhw->npkw", crop, cut)
        crops = torch.einsum("qlw,npkw->npqkl", crop, tall).flatten(1, 2)  # (P, 81, S, S)
        found, which = torch.einsum("nd,ncd->nc", _unit(whole), _unit(crops)).max(1)
        chosen = crops[torch.arange(len(a)), which]
        fine = (_unit(_detail(whole)) * _unit(_detail(chosen))).sum(1)
        detail = torch.where(found > best, fine, detail)
        best = torch.maximum(best, found)
    return best, detail
