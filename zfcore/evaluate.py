"""How often a network is wrong: top-1 and top-5 error, on one crop or on the ten crops of §3.

With ten crops the class probabilities (not the logits) are averaged over the four corners, the
centre, and their mirror images before the classes are ranked.

Source: Zeiler & Fergus, §3 and §5.1, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import tiny_imagenet
    from zfcore.evaluate import errors
    from zfcore.model import load
    network, card = load("zfnet-64")
    errors(network, tiny_imagenet("val"), card, crops=10)      # {"top1": …, "top5": …} in %
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.data import LabelledPictures, centre_crop, ten_crops


@torch.no_grad()
def probabilities(
    model: nn.Module,
    pictures: LabelledPictures,
    card: dict,
    crops: int = 1,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Tensor:
    """Class probabilities of every picture, averaged over its crops.

    Parameters
    ----------
    model
        (N, 3, S, S) → (N, classes) logits; moved to ``device``, used in eval mode and put back
        into the mode it was in.
    pictures
        ``pixels`` (N, 3, R, R) uint8, R = ``card["resize"]``: the squares of §3.
    card
        ``input_size`` = S, ``scale`` and the tensor ``mean`` (3, R, R).
    crops
        1 (the centre) or 10.
    batch_size
        Crops in one forward pass.

    Returns
    -------
    Tensor
        (N, classes) float32 on the CPU; every row sums to 1.

    Raises
    ------
    ValueError
        Another number of crops, or pictures of another size than the card's mean.
    """
    if crops not in (1, 10):
        raise ValueError(f"crops is {crops}; accepted are 1 (the centre) and 10 (corners, centre, mirrored)")
    mean, size = card["mean"].to(device), card["input_size"]
    if pictures.pixels.shape[1:] != mean.shape:
        raise ValueError(
            f"the pictures are {tuple(pictures.pixels.shape[1:])}, the card's mean is {tuple(mean.shape)}; "
            "resize the smaller side and take the centre square first"
        )
    mode = model.training
    model.to(device).eval()
    every = []
    for pixels in tqdm(pictures.pixels.split(max(1, batch_size // crops)), disable=not progress):
        x = (pixels.to(device).float() - mean) / card["scale"]  # (B, 3, R, R)
        x = ten_crops(x, size) if crops == 10 else centre_crop(x, size)[None]  # (crops, B, 3, S, S)
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        every.append(model(x).float().softmax(1).unflatten(0, (crops, -1)).mean(0).cpu())
    model.train(mode)
    return torch.cat(every)


def errors(
    model: nn.Module,
    pictures: LabelledPictures,
    card: dict,
    crops: int = 1,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> dict[str, float]:
    """Top-1 and top-5 error in %, ``{"top1": …, "top5": …}``; parameters as in :func:`probabilities`.

    The top-5 error counts the pictures whose class is not among the five most probable ones.
    """
    ranked = probabilities(model, pictures, card, crops, batch_size, device, progress)
    ranked = ranked.topk(min(5, ranked.shape[1])).indices  # (N, 5)
    hits = ranked == pictures.labels[:, None]
    return {
        name: 100 * float((~hits[:, :k].any(1)).double().mean()) for name, k in (("top1", 1), ("top5", 5))
    }
