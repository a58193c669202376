"""What following every feature map costs: a pass for the nine strongest pictures, against plain inference.

    OMP_NUM_THREADS=1 python benchmarks/topk.py               # all rows
    OMP_NUM_THREADS=1 python benchmarks/topk.py 3 zfnet-64    # 3 turns, and only the rows of this name

Plain inference runs the same layers over the same batches and keeps nothing. One thread, CPU seconds, the
two in turns, medians; in both memory formats, as a rival that is slow at inference would make the share look
small. A picture among the first enters the nine best of most maps, one of 10,000 hardly any: the fewer the
pictures, the larger the share, so these rows are an upper bound for a whole data set. The last column is
the memory of what is kept, which does not grow with the pictures.
"""

from __future__ import annotations

import sys

import torch
from timing import interleaved, table
from torch import nn

from zfcore.model import build, initialize_, load
from zfcore.topk import top_activations
from zfcore.trace import trace

BAR = 1.05
FORMATS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}


def compare(
    name: str, model: nn.Module, side: int, pictures: int, batch: int, rounds: int
) -> tuple[list, bool]:
    """One row of the table, and whether it meets the bar."""
    followed = trace(model)
    layers = [
        layer for layer in followed.geometry if isinstance(followed.operations[followed.node(layer)], nn.ReLU)
    ]
    form = FORMATS[name.rpartition(", ")[2]]
    model.to(memory_format=form)
    batches = torch.randn(pictures, 3, side, side).contiguous(memory_format=form).split(batch)
    found = {}

    def plain() -> None:
        with torch.no_grad():
            for images in batches:
                followed.activations(images, layers[-1:])

    def ours() -> None:
        found.update(top_activations(model, batches, layers))

    spent = interleaved({"plain": plain, "ours": ours}, rounds)
    maps = sum(len(top.values) for top in found.values())
    kept = sum(part.nbytes for top in found.values() for part in (top.values, top.images, top.positions))
    ratio = spent["ours"] / spent["plain"]
    row = [name, pictures, maps, *(f"{1e3 * spent[rival] / pictures:.2f}" for rival in ("plain", "ours"))]
    return [*row, f"{100 * (ratio - 1):+.1f} %", f"{kept / 1024:.0f} KiB"], ratio <= BAR


def main(rounds: int = 5, chosen: str = "") -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    zfnet = build("zfnet").eval()
    initialize_(zfnet, "he")
    networks = {"zfnet-64 56": (load("zfnet-64")[0], 56, 1024, 32), "zfnet 224": (zfnet, 224, 256, 16)}
    rows, missed = [], []
    for name, settings in networks.items():
        for form in FORMATS:
            label = f"{name}, {form}"
            if chosen in label:
                row, meets = compare(label, *settings, rounds)
                rows.append(row)
                missed += [] if meets else [label]
    print(f"one thread, torch {torch.__version__}; medians of {rounds} turns, CPU ms per picture")
    print(table(["network", "pictures", "maps", "plain", "top 9", "more", "kept"], rows))
    print(f"the bar, {100 * (BAR - 1):.0f} %: {'missed by ' + ', '.join(missed) if missed else 'met by all'}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(*(kind(value) for kind, value in zip((int, str), sys.argv[1:], strict=False))))
