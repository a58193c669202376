"""How often a network is wrong: errors, ensembles, confusion.

**Errors.** Top-1 and top-5, on the centre crop or on the ten crops of §3: the class probabilities
(not the logits) are averaged over the four corners, the centre and their mirror images before the
classes are ranked; an ensemble averages those of its members once more. For the first column of
Table 2, the training error, we take centre crops without augmentation: the paper does not say.

Source: Zeiler & Fergus, §3 and §5.1, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import tiny_imagenet
    from zfcore.evaluate import errors
    from zfcore.model import load
    network, card = load("zfnet-64")
    errors(network, tiny_imagenet("val"), card, crops=10)      # {"top1": …, "top5": …} in %
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.data import Pictures, batches, centre_crop, ten_crops
from zfcore.trace import evaluating


# ------------------------------------------------------------------------------ errors
def probabilities(
    model: nn.Module,
    pictures: Pictures,
    card: dict,
    crops: int = 1,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
    workers: int = 0,
    low_precision: bool = False,
) -> Tensor:
    """Class probabilities of every picture, averaged over its crops.

    Parameters
    ----------
    model
        (N, 3, S, S) → (N, classes) logits; moved to ``device``, used in eval mode and put back
        into the mode it was in.
    pictures
        In memory or packed, R × R pixels, R = ``card["resize"]``: the squares of §3.
    card
        ``input_size`` = S, ``scale`` and the tensor ``mean`` (3, R, R).
    crops
        1 (the centre) or 10.
    batch_size
        Crops in one forward pass. Default: 100 on a CPU, elsewhere 2000 of 56 px, or as many pixels.
    device
        Where the network runs; a copy of pictures in memory stays there.
    progress
        Whether a bar shows the batches done.
    workers
        Processes that decode a pack (see :func:`zfcore.data.batches`).
    low_precision
        Whether the network runs in bfloat16, faster where the device has it.

    Returns
    -------
    Tensor
        (N, classes) float32 on the CPU; every row sums to 1.

    Raises
    ------
    ValueError
        Another number of crops, or pictures of another size than the card's mean.
    """
    options = batch_size, device, progress, workers, low_precision
    return torch.cat([part.cpu() for part in _in_batches(model, pictures, card, crops, *options)])


@torch.no_grad()
def _in_batches(
    model,
    pictures,
    card,
    crops,
    batch_size=None,
    device="cpu",
    progress=False,
    workers=0,
    low_precision=False,
) -> Iterator[Tensor]:
    """The rows of :func:`probabilities` a few at a time, on ``device``."""
    if crops not in (1, 10):
        raise ValueError(f"crops is {crops}; accepted are 1 (the centre) and 10 (corners, centre, mirrored)")
    device, size = torch.device(device), card["input_size"]
    batch_size = batch_size or (100 if device.type == "cpu" else 2000 * 56**2 // size**2)
    square, mean = (3, pictures.side, pictures.side), card["mean"].to(device)
    if mean.shape != square:
        raise ValueError(
            f"the pictures are {square}, the card's mean is {tuple(mean.shape)}; "
            "resize the smaller side and take the centre square first"
        )

    def cut(squares: Tensor) -> Tensor:
        return ten_crops(squares, size) if crops == 10 else centre_crop(squares, size)[None]

    order = torch.arange(len(pictures)).split(max(1, batch_size // crops))
    precision = torch.autocast(device.type, torch.bfloat16) if low_precision else nullcontext()
    with evaluating(model.to(device)):
        for pixels in tqdm(
            batches(pictures, order, device, workers),
            "judging",
            len(order),
            leave=False,
            disable=not progress,
        ):
            x = (cut(pixels).float() - cut(mean[None])) / card["scale"]  # (crops, B, 3, S, S)
            x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            with precision:
                logits = model(x)
            yield logits.float().softmax(1).unflatten(0, (crops, -1)).mean(0)


def wrong(probabilities: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Where the true class is not among the ``k`` most probable ones; of equals, the lowest class leads.

    (N, classes) and (N,) → (N,) bool. Raises ``ValueError`` for a probability that is not a number.
    """
    if not probabilities.isfinite().all():
        raise ValueError("there are probabilities that are not numbers; the network has diverged")
    true = probabilities.gather(1, labels[:, None])  # (N, 1)
    classes = torch.arange(probabilities.shape[1], device=labels.device)
    before = (probabilities > true) | ((probabilities == true) & (classes < labels[:, None]))
    return before.sum(1) >= k


def outcomes(
    model: nn.Module, pictures: Pictures, card: dict, crops: int = 1, **options
) -> dict[str, Tensor]:
    """For every picture whether the network is wrong: ``{"top1": (N,) bool, "top5": (N,) bool}``, on the CPU.

    Parameters and options as in :func:`probabilities`; these are not kept, so that N may be a million.
    """
    found, start = {"top1": [], "top5": []}, 0
    for part in _in_batches(model, pictures, card, crops, **options):
        labels = pictures.labels[start : start + len(part)].to(part.device)
        for name, k in (("top1", 1), ("top5", 5)):
            found[name].append(wrong(part, labels, k).cpu())
        start += len(part)
    return {name: torch.cat(parts) for name, parts in found.items()}


def errors(model: nn.Module, pictures: Pictures, card: dict, crops: int = 1, **options) -> dict[str, float]:
    """Top-1 and top-5 error in %, ``{"top1": …, "top5": …}``; options as in :func:`probabilities`.

    The top-5 error counts the pictures whose class is not among the five most probable ones.
    """
    return {name: percent(found) for name, found in outcomes(model, pictures, card, crops, **options).items()}


def percent(wrong: Tensor) -> float:
    """The share of the outcomes that are wrong, in %."""
    return 100 * float(wrong.double().mean())


def confusion(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How often class i (row) was taken for class j (column): counts, int64 (C, C).

    (N, C) probabilities and (N,) labels; of equally probable classes the first is taken.
    """
    classes = probabilities.shape[1]
    taken = torch.from_numpy(probabilities.numpy().argmax(1))  # numpy promises the first of equals
    return torch.bincount(labels * classes + taken, minlength=classes**2).view(classes, classes)


def most_confused(counts: Tensor, k: int = 10) -> list[tuple[int, int, int]]:
    """The ``k`` most frequent mistakes of a (C, C) confusion as (true class, taken for, count).

    Equal counts come in the order of their classes; mistakes that never happened are left out.
    """
    mistakes = counts.clone().fill_diagonal_(0).flatten()
    ranked = mistakes.sort(descending=True, stable=True)
    return [
        (*divmod(place, len(counts)), count)
        for place, count in zip(ranked.indices[:k].tolist(), ranked.values[:k].tolist(), strict=True)
        if count
    ]


@dataclass(frozen=True)
class Verdict:
    """What :func:`judge` finds of one network or ensemble, over N pictures of C classes.

    ``errors`` in % and ``outcomes`` bool (N,) have the keys ``"one crop top1"``, ``"ten crops top5"``, …;
    ``confusion`` int64 (C, C) is that of the largest number of crops; ``seconds`` of wall time.
    """

    errors: dict[str, float]
    outcomes: dict[str, Tensor]
    confusion: Tensor
    seconds: float


def judge(
    networks: Mapping[str, tuple[nn.Module, dict]],
    pictures: Pictures,
    crops: Sequence[int] = (1, 10),
    together: bool = False,
    **options,
) -> dict[str, Verdict]:
    """Judge networks, and with ``together`` also the ensemble of them all, called ``"ensemble"``.

    Parameters
    ----------
    networks
        By any name, each with its card, as :func:`zfcore.model.load` gives them.
    pictures
        As in :func:`probabilities`; their labels are the truth.
    crops
        1, 10 or both.
    together
        Whether the mean of all networks' probabilities is judged too.
    options
        As in :func:`probabilities`.

    Raises
    ------
    ValueError
        A network knows other classes than the pictures have, or as :func:`probabilities`.
    """
    for name, (_, card) in networks.items():
        known, count = card.get("classes", pictures.classes), len(pictures.classes)
        if tuple(known) != tuple(pictures.classes) or card.get("num_classes", count) != count:
            raise ValueError(f"{name} knows other classes than these pictures have; judge it on its own data")
    verdicts, total = {}, dict.fromkeys(crops, 0)
    for name, (network, card) in networks.items():
        start = time.monotonic()
        found = {n: probabilities(network, pictures, card, n, **options) for n in sorted(crops)}
        verdicts[name] = _verdict(found, pictures.labels, start)
        if together:  # a sum, for the probabilities of a million pictures are gigabytes
            total = {n: total[n] + ranked.double() for n, ranked in found.items()}
    if together:
        start = time.monotonic()
        mean = {n: (summed / len(networks)).float() for n, summed in total.items()}
        verdicts["ensemble"] = _verdict(mean, pictures.labels, start)
    return verdicts


def _verdict(by_crops: dict[int, Tensor], labels: Tensor, start: float) -> Verdict:
    words = {1: "one crop", 10: "ten crops"}
    bits = {f"{words[n]} top{k}": wrong(ranked, labels, k) for n, ranked in by_crops.items() for k in (1, 5)}
    counts = confusion(by_crops[max(by_crops)], labels)
    return Verdict({name: percent(b) for name, b in bits.items()}, bits, counts, time.monotonic() - start)
