"""Krizhevsky's contrast norm: our shifted slices against ``F.local_response_norm``.

    OMP_NUM_THREADS=1 python benchmarks/norm.py

The maps are those of ZFNet's two norms at 224 px, 16 pictures; one thread; single precision. The
errors are relative, in the Euclidean norm, against the same formula in double precision.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from timing import interleaved, table

from zfcore.model import ContrastNorm

SHAPES = {"norm1": (16, 96, 55, 55), "norm2": (16, 256, 13, 13)}
BARS = {"forward": 4.0, "forward + backward": 6.0}
ERROR = 1e-6


def pytorchs(x: torch.Tensor) -> torch.Tensor:
    return F.local_response_norm(x, 5, alpha=5 * 1e-4, beta=0.75, k=2.0)  # it divides alpha by the window


def both_ways(norm, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().requires_grad_()
    y = norm(x)
    return y.detach(), torch.autograd.grad(y, x, g)[0]


def relative(a: torch.Tensor, exact: torch.Tensor) -> float:
    return float((a.double() - exact).norm() / exact.norm())


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours, missed, rows = ContrastNorm(5, 1e-4, 0.75, 2.0), [], []
    for name, shape in SHAPES.items():
        x, g = 30 * torch.randn(shape), torch.randn(shape)
        exact = both_ways(pytorchs, x.double(), g.double())
        error = max(relative(a, b) for a, b in zip(both_ways(ours, x, g), exact, strict=True))
        with torch.no_grad():
            forward = interleaved(
                {"pytorch": lambda x=x: pytorchs(x), "ours": lambda x=x: ours(x)}, rounds=25
            )
        whole = interleaved(
            {
                norm: lambda f=f, x=x, g=g: both_ways(f, x, g)
                for norm, f in (("pytorch", pytorchs), ("ours", ours))
            },
            rounds=25,
        )
        for what, times in (("forward", forward), ("forward + backward", whole)):
            ratio = times["pytorch"] / times["ours"]
            milliseconds = (f"{1e3 * times[who]:.1f}" for who in ("pytorch", "ours"))
            rows.append(
                [f"{name} {what}", *milliseconds, f"{ratio:.1f}", f"{BARS[what]:.0f}", f"{error:.1e}"]
            )
            if ratio < BARS[what] or error > ERROR:
                missed.append(f"{name} {what}")
    print(table(["", "PyTorch ms", "ours ms", "ratio", "bar", "error"], rows))
    if missed:
        print("below the bar:", ", ".join(missed))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
