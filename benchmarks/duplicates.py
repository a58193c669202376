"""Duplicates: 100,000 × 9,000 thumbnails, with copies planted among them; time, memory, precision, recall.

    python benchmarks/duplicates.py [pictures of a] [pictures of b]

The thumbnails are drawn with the spectrum of photographs, 1/f², which correlate by chance as photographs do.
Of 500 pictures of the first set the second holds copies, cropped by up to 5 % at every edge and with noise,
half of them mirrored.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcore.duplicates import SIDE, Thumbnails, matches

SECONDS, RECALL, PRECISION = 120, 0.95, 0.99


def photographs(n: int, side: int, draw: torch.Generator) -> Tensor:
    """Grey pictures (n, side, side) float in [0, 255] with amplitudes that fall as 1 over the frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    fall = torch.from_numpy(1 / frequency).float()
    parts = []
    for part in torch.arange(n).split(5000):
        spectrum = torch.fft.rfft2(torch.randn(len(part), side, side, generator=draw)) * fall
        parts.append(torch.fft.irfft2(spectrum, s=(side, side)))
    x = torch.cat(parts)
    return (128 + 45 * (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True)).clamp(0, 255)


def main() -> int:
    m, n = (int(word) for word in sys.argv[1:3]) if sys.argv[1:] else (100_000, 9_000)
    planted = min(500, n // 2)
    draw = torch.Generator().manual_seed(0)
    large = photographs(planted, 2 * SIDE, draw)
    a = torch.cat([F.avg_pool2d(large[:, None], 2)[:, 0], photographs(m - planted, SIDE, draw)])
    copies = []
    for k, image in enumerate(large):
        top, left, bottom, right = (torch.rand(4, generator=draw) * 0.05 * 2 * SIDE).round().int().tolist()
        cut = image[None, None, top : 2 * SIDE - bottom, left : 2 * SIDE - right]
        cut = F.interpolate(cut, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[0, 0]
        copies.append(cut.flip(-1) if k % 2 else cut)
    copies = torch.stack(copies) + 3 * torch.randn(planted, SIDE, SIDE, generator=draw)
    b = torch.cat([copies, photographs(n - planted, SIDE, draw)])
    sets = [Thumbnails(x.round().clamp(0, 255).byte(), torch.arange(len(x))) for x in (a, b)]
    wall, start = time.monotonic(), time.process_time()
    found = matches(*sets)
    spent, wall = time.process_time() - start, time.monotonic() - wall
    right = sum(i == j and i < planted for i, j, _ in found)
    recall, precision = right / planted, right / max(1, len(found))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{m:,} × {n:,} thumbnails: {spent:.0f} s of processors, {wall:.0f} s of time")
    print(f"recall {recall:.1%}, precision {precision:.1%}; at most {peak:.1f} GiB in memory")
    missed = [
        words
        for words, met in (
            (f"more than {SECONDS} s on two cores", spent / 2 <= SECONDS),
            (f"recall below {RECALL:.0%}", recall >= RECALL),
            (f"precision below {PRECISION:.0%}", precision >= PRECISION),
        )
        if not met
    ]
    if missed:
        print("below the bar:", ", ".join(missed))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
