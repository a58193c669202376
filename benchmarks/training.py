"""Training: our trainer against a textbook's loop on the same network, pictures a second.

    OMP_NUM_THREADS=1 python benchmarks/training.py

Three rivals take turns, one thread each. *Stock*: a plain loop with PyTorch's ``LocalResponseNorm``, in
float32 and NCHW: a loader with torchvision's random crop and flip, forward, backward, SGD with momentum.
*Exact*: :func:`zfcore.train.train` in float32, with our contrast norm and channels_last. *Ours*: the same
in bfloat16. What the trainer does beyond the plain loop (the weights' start, the mean picture, clipping,
the running mean of the weights, a validation) is in its time.

The results are compared, too: gradients with our norm against those with the stock one in float64 (in
float32 each of them differs from float64 by up to 0.3 %, where rounding decides which cell of a window is
the largest), and the loss of an epoch of real patches in bfloat16 against float32.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from timing import interleaved, table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from zfcore.data import LabelledPictures, patches
from zfcore.model import ContrastNorm, build, initialize_
from zfcore.train import SMALL, train

NETWORKS = {"zfnet-64": (64, 6), "zfnet-64-coarse": (64, 6), "alexnet-64": (64, 6), "zfnet": (64, 3)}
BAR = 2.0
GRADIENT_ERROR, LOSS_ERROR = 1e-12, 0.02  # relative


def stock(model: nn.Module) -> nn.Module:
    """The same weights with PyTorch's own norm, which divides alpha by the window."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ContrastNorm):
                own = nn.LocalResponseNorm(child.size, child.size * child.alpha, child.beta, child.k)
                setattr(parent, name, own)
    return model


def textbook(model: nn.Module, pictures: LabelledPictures, size: int, batch: int) -> None:
    """One epoch of the plain loop, in place."""
    transform = v2.Compose(
        [
            v2.RandomCrop(size),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    data = [(pictures.pixels[i], int(label)) for i, label in enumerate(pictures.labels)]
    loader = DataLoader(
        data,
        batch,
        shuffle=True,
        collate_fn=lambda pairs: (
            torch.stack([transform(pixels) for pixels, _ in pairs]),
            torch.tensor([label for _, label in pairs]),
        ),
    )
    optimizer = torch.optim.SGD(
        model.parameters(), SMALL.rate, momentum=0.9, nesterov=True, weight_decay=SMALL.weight_decay
    )
    model.train()
    for x, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()


def gradients(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """All gradients in float64, without dropout, in a row."""
    model = copy.deepcopy(model).double().eval()
    F.cross_entropy(model(x.double()), labels).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    every = patches("train")
    missed, rows = [], []
    for name, (batch, steps) in NETWORKS.items():
        model = build(name, num_classes=len(every.classes))
        initialize_(model, "he")
        size = model.architecture.input_size
        pictures = every.take(torch.randperm(len(every))[: batch * steps])
        if size > pictures.side:
            larger = F.interpolate(pictures.pixels.float(), (256, 256), mode="bilinear").round().byte()
            pictures = replace(pictures, pixels=larger)
        recipe = replace(SMALL, batch_size=batch)
        ours = partial(train, copy.deepcopy(model), pictures, pictures.take(torch.arange(1)), recipe)
        ours = partial(ours, input_size=size, epochs=1, progress=False)

        x, labels = (pictures.pixels[:batch, :, :size, :size].double() - 128) / 64, pictures.labels[:batch]
        exact, same = gradients(stock(model), x, labels), gradients(model, x, labels)
        error = float((same - exact).norm() / exact.norm())
        times = interleaved(
            {
                "stock": partial(textbook, stock(model), pictures, size, batch),
                "exact": partial(ours, precision="float32"),
                "ours": partial(ours, precision="bf16"),
            },
            rounds=3,
        )
        rates = {who: len(pictures) / seconds for who, seconds in times.items()}
        ratio = rates["ours"] / rates["stock"]
        gained = rates["exact"] / rates["stock"]
        speeds = (f"{rate:.0f}" for rate in rates.values())
        rows.append([name, *speeds, f"{gained:.1f}", f"{ratio:.1f}", f"{BAR:.0f}", f"{error:.0e}"])
        if ratio < BAR or error > GRADIENT_ERROR:
            missed.append(name)
    head = ["", "stock img/s", "exact img/s", "ours img/s", "exact/stock", "ours/stock", "bar", "error"]
    print(table(head, rows))

    network = build("zfnet-64-coarse", num_classes=len(every.classes), width=0.5)
    pictures, recipe = every.shard(0, 4), replace(SMALL, batch_size=32, warmup_steps=5)
    losses = {
        precision: train(
            copy.deepcopy(network), pictures, patches("val"), recipe,
            epochs=1, precision=precision, progress=False,
        ).history[0]["loss"]
        for precision in ("float32", "bf16")
    }  # fmt: skip
    print("loss of an epoch: " + ", ".join(f"{who} {loss:.4f}" for who, loss in losses.items()))
    if abs(losses["bf16"] / losses["float32"] - 1) > LOSS_ERROR:
        missed.append("the loss in bfloat16")
    if missed:
        print("below the bar:", ", ".join(missed))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
