"""A whole occlusion scan, cold: ours, captum's Occlusion, and the best plain batched loop.

    OMP_NUM_THREADS=1 python benchmarks/occlusion.py          # all rows
    OMP_NUM_THREADS=1 python benchmarks/occlusion.py 3 50/8   # 3 turns, and only the rows of this name

Cold means that nothing is kept from one scan to the next: tracing, the unoccluded pass and the filters'
transforms are in our time. One thread, CPU seconds, the rivals in turns, medians. captum and the plain loop
do the same work at every position, so that they are timed over some positions spread over the scan and their
time is multiplied; ours runs whole. captum 0.9 runs on the network of PyTorch's own modules
(``nn.LocalResponseNorm``), as its users have it, at whichever of 1 and 8 positions at a time is faster; the
plain loop has our faster norm, channels last, and the best of several batch sizes.

The error is the largest difference of a logit from the plain loop's over the timed positions.
"""

from __future__ import annotations

import copy
import sys

import torch
import torchvision
from captum.attr import Occlusion
from timing import interleaved, table
from torch import nn

from zfcore.model import build, initialize_, load
from zfcore.occlusion import occlusion_maps

BARS = {"captum": 8.0, "plain": 5.0}
HELD = "zfnet 224, 50/8"
ERROR = 1e-4


def on_pytorchs_norm(model: nn.Module) -> nn.Module:
    """The same function from PyTorch's own modules alone."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LocalResponseNorm):
            alpha = module.alpha * module.size  # PyTorch divides it by the window
            model.set_submodule(name, nn.LocalResponseNorm(module.size, alpha, module.beta, module.k))
    return model


def plain_loop(model: nn.Module, image: torch.Tensor, corners: list, size: int, batch: int) -> torch.Tensor:
    """Logits (positions, classes): paste the square, ask the whole network."""
    logits = []
    with torch.no_grad():
        for first in range(0, len(corners), batch):
            some = corners[first : first + batch]
            pictures = image.repeat(len(some), 1, 1, 1)
            for picture, (top, left) in zip(pictures, some, strict=True):
                picture[:, top : top + size, left : left + size] = 0
            logits.append(model(pictures.contiguous(memory_format=torch.channels_last)))
    return torch.cat(logits)


def compare(name: str, model: nn.Module, side: int, size: int, stride: int, rounds: int) -> tuple[list, bool]:
    """One row of the table, and whether it meets the bars and the error."""
    image, target = torch.randn(3, side, side), 1
    steps = (side - size) // stride  # the scan has (steps + 1)² positions; 4 × 4 of them are timed
    some = [(stride * (steps * i // 3), stride * (steps * j // 3)) for i in range(4) for j in range(4)]
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    captum = Occlusion(on_pytorchs_norm(model))
    asked = (
        -(-side // size)
    ) ** 2 + 1  # by captum, whose stride is at most the square, and the whole picture
    rivals = {"ours": lambda: occlusion_maps(model, image, target, size, stride)}
    for at_once in (1, 8):
        rivals[f"captum, {at_once}"] = lambda at_once=at_once: captum.attribute(
            image[None], (3, size, size), (3, size, size), target=target, perturbations_per_eval=at_once
        )
    for batch in (1, 4, 8, 16):
        rivals[f"plain, {batch}"] = lambda batch=batch: plain_loop(channels_last, image, some, size, batch)

    *_, last = (path for path, module in model.named_modules() if isinstance(module, nn.Linear))
    logit = occlusion_maps(model, image, target, size, stride, layer=last, channel=target).activation
    exact = plain_loop(model, image, some, size, 4)[:, target]
    error = max(
        abs(float(logit[top // stride, left // stride] - value))
        for (top, left), value in zip(some, exact, strict=True)
    )
    spent = interleaved(rivals, rounds)
    positions = (steps + 1) ** 2
    ours = spent["ours"] / positions
    captums = min(t for n, t in spent.items() if n.startswith("captum")) / asked
    plain = min(t for n, t in spent.items() if n.startswith("plain")) / len(some)
    row = [name, positions, *(f"{1e3 * t:.2f}" for t in (ours, captums, plain))]
    row += [f"{spent['ours']:.2f}", f"{captums / ours:.1f}×", f"{plain / ours:.1f}×", f"{error:.0e}"]
    return row, captums / ours >= BARS["captum"] and plain / ours >= BARS["plain"] and error <= ERROR


def main(rounds: int = 5, chosen: str = "") -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    zfnet, alexnet = build("zfnet").eval(), build("alexnet").eval()
    for model in (zfnet, alexnet):
        initialize_(model, "he")
    networks = {
        "zfnet 224": (zfnet, 224, [(50, 8), (32, 8), (64, 8), (50, 4)]),
        "alexnet 224": (alexnet, 224, [(50, 8)]),
        "vgg16 224": (torchvision.models.vgg16().eval(), 224, [(50, 8)]),
        "zfnet-64 56": (load("zfnet-64")[0], 56, [(14, 2)]),
    }
    rows, held = [], False
    for name, (model, side, scans) in networks.items():
        for size, stride in scans:
            label = f"{name}, {size}/{stride}"
            if chosen in label:
                row, meets = compare(label, model, side, size, stride, rounds)
                rows.append(row)
                held |= label == HELD and not meets
    print(f"one thread, torch {torch.__version__}; medians of {rounds} turns, CPU ms per position")
    header = ["scan", "positions", "ours", "captum", "plain", "whole scan, s", "captum/ours", "plain/ours"]
    print(table([*header, "error"], rows))
    bars = f"{BARS['captum']:.0f}× captum, {BARS['plain']:.0f}× plain, logits within {ERROR:.0e}"
    print(f"{HELD}: {'below' if held else 'meets'} the bar, {bars}")
    return held


if __name__ == "__main__":
    sys.exit(main(*(kind(value) for kind, value in zip((int, str), sys.argv[1:], strict=False))))
