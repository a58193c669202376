"""One unit's projection in ZFNet at 224 px: ours, captum's NeuronDeconvolution, a plain full-image loop.

    OMP_NUM_THREADS=1 python benchmarks/deconvnet.py

Layers 1–5 are the outputs of the ReLUs; one image, one unit at a given position, the forward pass
included; one thread. captum back-propagates through the contrast norm, so that it is compared with
``norm="derivative"``, started from the unit's value; the plain loop carries whole maps with the same
rules as ours, one operation after the other. Both agree with ours to rounding. captum runs twice: on
the network as PyTorch's own modules make it (``nn.LocalResponseNorm``, the same function), which is
what its users have and what the bar is held against, and on ours with its faster norm.
"""

from __future__ import annotations

import copy
import sys
import warnings

import torch
import torch.nn.functional as F
from captum.attr import NeuronDeconvolution
from timing import interleaved, table
from torch import nn

from zfcore.deconvnet import Deconvnet
from zfcore.model import ARCHITECTURES, build, initialize_

BARS = {3: 12.0, 4: 8.0, 5: 4.5}


def plain_loop(model: nn.Module, layer: str, image: torch.Tensor, channel: int, position: tuple[int, int]):
    """Forward over whole maps, then back over whole maps, in the words of §2.1 (norm as its derivative)."""
    number = int(layer.split(".")[1])
    inputs, switches, x = [], [], image
    with torch.no_grad():
        for operation in model.features[: number + 1]:
            inputs.append(x)
            if isinstance(operation, nn.MaxPool2d):
                x, places = F.max_pool2d(
                    x, operation.kernel_size, operation.stride, operation.padding, return_indices=True
                )
                switches.append(places)
            else:
                x = operation(x)
        r = torch.zeros_like(x)
        r[:, channel, *position] = x[:, channel, *position]
        for operation, x in zip(reversed(model.features[: number + 1]), reversed(inputs), strict=True):
            if isinstance(operation, nn.ReLU):
                r = r.clamp(min=0)
            elif isinstance(operation, nn.MaxPool2d):
                r = (
                    torch.zeros_like(x)
                    .flatten(2)
                    .scatter_add_(2, switches.pop().flatten(2), r.flatten(2))
                    .view_as(x)
                )
            elif isinstance(operation, nn.Conv2d):
                reached = [
                    (n - 1) * s - 2 * p + k
                    for n, s, p, k in zip(
                        r.shape[2:], operation.stride, operation.padding, operation.kernel_size, strict=True
                    )
                ]
                rest = [h - n for h, n in zip(x.shape[2:], reached, strict=True)]
                r = F.conv_transpose2d(r, operation.weight, None, operation.stride, operation.padding, rest)
            else:
                with torch.enable_grad():
                    leaf = x.requires_grad_()
                    (r,) = torch.autograd.grad(operation(leaf), leaf, r)
    return r


def main(rounds: int = 9) -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build("zfnet").eval()
    initialize_(model, "he")
    stock = copy.deepcopy(model)
    for index, module in enumerate(stock.features):
        if isinstance(module, nn.LocalResponseNorm):
            alpha = module.alpha * module.size  # PyTorch divides it by the window
            stock.features[index] = nn.LocalResponseNorm(module.size, alpha, module.beta, module.k)
    image = torch.randn(1, 3, 224, 224)
    ours = {norm: Deconvnet(model, norm=norm) for norm in ("identity", "derivative")}
    named = ARCHITECTURES["zfnet"].named_layers()
    warnings.filterwarnings(
        "ignore", message="Setting .*hooks on ReLU|Input Tensor 0 did not already require"
    )
    rows, missed = [], []
    for number in range(1, 6):
        layer = named[f"relu{number}"]
        maps = ours["identity"].activations(image, [layer])[layer][0]
        position = tuple(n // 2 for n in maps.shape[1:])  # a middle unit: its whole field lies in the picture
        channel = int(maps[:, *position].argmax())
        value = maps[channel, *position]
        captum, captum_fast = (NeuronDeconvolution(m, m.get_submodule(layer)) for m in (stock, model))
        rivals = {
            "ours": lambda: ours["identity"].project(image, layer, channel, position),  # noqa: B023
            "ours, derivative": lambda: ours["derivative"].project(image, layer, channel, position),  # noqa: B023
            "captum": lambda: captum.attribute(image.clone(), (channel, *position)),  # noqa: B023
            "captum, our norm": lambda: captum_fast.attribute(image.clone(), (channel, *position)),  # noqa: B023
            "plain": lambda: plain_loop(model, layer, image, channel, position),  # noqa: B023
        }
        results = {name: run() for name, run in rivals.items()}
        reference = results["captum"].detach() * value
        error = max(
            ((results[name] - reference).abs().max() / reference.abs().max()).item()
            for name in ("ours, derivative", "plain")
        )
        spent = interleaved(rivals, rounds)
        ratio = spent["captum"] / spent["ours"]
        if ratio < BARS.get(number, 0) or error > 1e-4:
            missed.append(number)
        rows.append(
            [
                f"layer {number}",
                *(f"{1e3 * spent[name]:.1f}" for name in rivals),
                f"{ratio:.1f}×",
                f"{BARS[number]:.1f}×" if number in BARS else "–",
                f"{spent['captum, our norm'] / spent['ours, derivative']:.1f}×",
                f"{spent['plain'] / spent['ours, derivative']:.1f}×",
                f"{error:.0e}",
            ]
        )
    print(
        f"ZFNet, 224 px, one unit, one thread, torch {torch.__version__}; medians of {rounds} turns, CPU ms"
    )
    header = ["", *rivals, "captum/ours", "bar", "captum, our norm/derivative", "plain/derivative", "error"]
    print(table(header, rows))
    if missed:
        print(f"below the bar: layers {missed}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
