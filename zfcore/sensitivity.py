r"""What the sliding square says over many pictures: the claims of §4.2 as numbers with intervals.

Four photographs can be chosen; hundreds cannot. Here every picture of a set that meets a stated rule is
scanned (:func:`scan`), each question becomes one number per picture (:func:`measures`), and a bootstrap
over the pictures tells how sure their mean is (:func:`over_pictures`):

- *Pointing game*: is the centre of the square that hurts the class most inside the object's box? Against a
  random position, the middle one, and the box of another picture.
- *Drop*: how much probability the class loses, squares inside the box against those outside.
- *Rank correlation* (Spearman, over the positions of the square) of the loss of the class, or of the
  strongest map, with what a square covers of some picture: the map's projection, three saliencies of the
  class, the gradient times the input (what hiding takes away, to first order), the map itself laid on the
  picture (which knows where it is active and no structure), and the picture's own contrast, which knows no
  network.
- How often the label changes, and how often hiding something raises the class.

Squares in the middle hurt more than those at the rim, whatever is there. So each measure is also taken
between picture i and what belongs to picture i + 1, which has nothing in common with it but that.

:func:`occlusion_entries` does this for Tiny-ImageNet's validation pictures, and gives entries of the ledger.

Sources: Zeiler & Fergus, §4.2 and Fig. 6, doi:10.1007/978-3-319-10590-1_53; the pointing game: Zhang et al.
(2018), doi:10.1007/s11263-017-1059-x; percentile intervals: Efron & Tibshirani (1993).

Example::

    from zfcore.data import photographs, to_input
    from zfcore.model import load
    from zfcore.sensitivity import rank_correlation, scan
    network, card = load("zfnet-64")
    images = to_input([photographs()["coffee"]], card)
    scans = scan(network, images, [193], layer="features.13", size=14, stride=4)
    rank_correlation(scans.fall, scans.covered["projection"])             # (1,)
"""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.comparison import interval
from zfcore.data import LabelledPictures, Picture, folder_of, squares, tiny_imagenet, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.evaluate import outcomes
from zfcore.ledger import provenance
from zfcore.model import load, untrained
from zfcore.occlusion import occlusion_maps
from zfcore.trace import evaluating

#: Saliencies of the class, of which :func:`scan` says how much each square covers.
METHODS = ("gradient", "guided", "deconvnet", "gradient × input")


# ------------------------------------------------------------------------------ scans
@dataclass(frozen=True)
class Scans:
    """Occlusion scans of N pictures, one class and one feature map of each; R × C positions of the square.

    ``target``, ``channel``, ``label`` and ``runner_up`` (N,) int64: the class, the map strongest on the whole
    picture, the most and second most probable class there. ``before`` (N,) is the probability of the class
    with nothing hidden. ``drop`` and ``fall`` (N, R, C) are what the class's probability and the map's sum
    lose at each position (negative: they gain), ``labels`` (N, R, C) the most probable class.
    ``covered`` {name: (N, R, C)} is how much of something each square covers; see :func:`scan`.
    """

    target: Tensor
    channel: Tensor
    label: Tensor
    runner_up: Tensor
    before: Tensor
    drop: Tensor
    fall: Tensor
    labels: Tensor
    covered: dict[str, Tensor]


@torch.no_grad()
def scan(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[int],
    layer: str,
    size: int,
    stride: int,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Scans:
    """Slide a grey square over each picture, and note what else the square covers.

    ``covered`` holds, summed over the square and the colours: ``"projection"``, the absolute values of the
    deconvnet's projection of the strongest map of ``layer`` (all of it, as Fig. 6 (c)); ``"activity"``, that
    map itself, stretched over the picture; ``"gradient"``,
    ``"guided"`` and ``"deconvnet"``, those of the class's logit by the three rules; ``"gradient × input"``,
    signed; and ``"contrast"``, the differences between neighbouring pixels of the picture itself.

    Parameters
    ----------
    model
        From (N, C, H, W) to logits (N, classes), its last layer an ``nn.Linear``. Asked as in evaluation
        mode.
    images, targets
        (N, C, H, W) and N classes, indices of the logits.
    layer
        Of maps; the strongest one of each picture is taken.
    size, stride
        Of the square, in pixels, as in :func:`zfcore.occlusion.occlusion_maps`; it is filled with 0.
    batch_size
        Pictures in one pass for the labels and for what is covered; the square slides over one at a time.
    progress
        Whether a bar shows the pictures scanned.
    """
    targets = torch.as_tensor(targets)
    bar = tqdm(zip(images, targets.tolist(), strict=True), "scanning", len(images), disable=not progress)
    maps = [occlusion_maps(model, image, target, size, stride, layer) for image, target in bar]
    channel = torch.tensor([found.channel for found in maps])
    mass = {"contrast": _contrast(images)}
    with evaluating(model):
        best = torch.cat([model(batch).topk(2, dim=1).indices for batch in images.split(batch_size)]).cpu()
        parts = [
            _projected(model, *batch, layer)
            for batch in zip(*(x.split(batch_size) for x in (images, targets, channel)), strict=True)
        ]
    mass |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    before = torch.stack([found.unoccluded.probability for found in maps])
    whole = torch.stack([found.unoccluded.activation for found in maps])
    return Scans(
        target=targets,
        channel=channel,
        label=best[:, 0],
        runner_up=best[:, 1],
        before=before.cpu(),
        drop=(before[:, None, None] - torch.stack([found.probability for found in maps])).cpu(),
        fall=(whole[:, None, None] - torch.stack([found.activation for found in maps])).cpu(),
        labels=torch.stack([found.label for found in maps]).cpu(),
        covered={name: under_square(m, size, stride).cpu() for name, m in mass.items()},
    )


def _projected(model, images: Tensor, targets: Tensor, channels: Tensor, layer: str) -> dict[str, Tensor]:
    """{name: (N, H, W)}: what comes back to the pixels, from the map and from the class."""
    # Deconvnet and guided start from the logit, and a negative one would turn every sign on the way. The
    # softmax does not notice what is added to all logits, so all of them are lifted above zero.
    lifted = copy.deepcopy(model)
    *_, (last, head) = ((name, m) for name, m in lifted.named_modules() if isinstance(m, nn.Linear))
    if head.bias is None:
        head.bias = nn.Parameter(head.weight.new_zeros(head.out_features))
    head.bias += 1 - model(images).min().clamp(max=0)
    net = Deconvnet(lifted)
    from_class = {rule: net.project(images, last, targets, rule=rule) for rule in METHODS[:3]}
    found = {name: r.abs().sum(1) for name, r in from_class.items()}
    found[METHODS[3]] = (from_class["gradient"] * images).sum(1)
    found["projection"] = net.project(images, layer, channels, "map").abs().sum(1)
    own = net.activations(images, [layer])[layer][torch.arange(len(images)), channels]  # (N, h, w)
    found["activity"] = F.interpolate(own[:, None], images.shape[2:], mode="bilinear")[:, 0]
    return found


def _contrast(images: Tensor) -> Tensor:
    """(N, H, W): how much a pixel differs from the one below and the one to the right."""
    down = F.pad(images.diff(dim=2).abs(), (0, 0, 0, 1))
    across = F.pad(images.diff(dim=3).abs(), (0, 1))
    return (down + across).sum(1)


def under_square(mass: Tensor, size: int, stride: int) -> Tensor:
    """The sum of (N, H, W) under the square at each of its positions, (N, R, C)."""
    return F.avg_pool2d(mass[:, None].cpu().double(), size, stride)[:, 0] * size**2


def centres_inside(boxes: Tensor, side: int, size: int, stride: int) -> Tensor:
    """Whether the square's centre lies in the box, bool (N, R, C).

    ``boxes`` (N, 4) are top, left, bottom and right in pixels of the input, bottom and right not included;
    they may reach outside of it.
    """
    centres = torch.arange(0, side - size + 1, stride) + size / 2
    rows = (boxes[:, 0, None] <= centres) & (centres < boxes[:, 2, None])  # (N, R)
    columns = (boxes[:, 1, None] <= centres) & (centres < boxes[:, 3, None])
    return rows[:, :, None] & columns[:, None, :]


# ------------------------------------------------------------------------------ measures
def rank_correlation(a: Tensor, b: Tensor) -> np.ndarray:
    """Spearman's ρ of each picture's two maps, (N, …) and (N, …) → (N,); 0 where one of them is flat."""
    ranks = [stats.rankdata(m.flatten(1).double().numpy(), axis=1) for m in (a, b)]
    x, y = (r - r.mean(1, keepdims=True) for r in ranks)
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), scale, out=np.zeros(len(x)), where=scale > 0)


def difference_inside(values: Tensor, inside: Tensor) -> np.ndarray:
    """The mean of (N, R, C) where ``inside`` is true less that where it is not, (N,); nan if one is empty."""
    v, i = values.flatten(1).double(), inside.flatten(1)
    return ((v * i).sum(1) / i.sum(1) - (v * ~i).sum(1) / (~i).sum(1)).numpy()


def most_covered(covered: Tensor, share: float = 0.25) -> Tensor:
    """The ``share`` of positions whose square covers most, bool as (N, R, C); of equals, the first."""
    flat = covered.flatten(1)
    chosen = flat.argsort(dim=1, descending=True, stable=True)[:, : round(share * flat.shape[1])]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(covered)


#: What is compared picture by picture, as question, measure and rival.
PAIRS = (
    ("pointing game", "deepest drop", "random position"),
    ("pointing game", "deepest drop", "middle position"),
    ("pointing game", "deepest drop", "another picture's box"),
    ("drop", "inside minus outside", "another picture's box"),
    ("map", "projection", "another picture's projection"),
    ("map", "projection", "activity"),
    ("map", "projection", "contrast"),
    ("class", "map", "another picture's map"),
    *(("class", name, f"another picture's {name}") for name in METHODS),
    ("projection's quarter", "drop there minus elsewhere", "another picture's projection"),
    ("projection's quarter", "drop there minus elsewhere", "contrast's quarter"),
)


def measures(scans: Scans, inside: Tensor) -> dict[str, dict[str, np.ndarray]]:
    """One number per picture for each question, {question: {measure: (N,)}}; nan where it does not arise.

    ``inside`` bool (N, R, C): the positions at which the square's centre lies on the object. What is called
    "another picture's" takes the scan of picture i and box, projection or scan of picture i + 1.
    """
    flat, at = scans.drop.flatten(1), inside.flatten(1)
    deepest = flat.argmax(1)  # of equals, the first
    middle = at.view(inside.shape)[:, inside.shape[1] // 2, inside.shape[2] // 2]
    known = scans.label == scans.target
    changed = (scans.labels != scans.label[:, None, None]).flatten(1)
    second = (scans.labels == scans.runner_up[:, None, None]).flatten(1) & changed
    rises = flat < 0
    projection, contrast = (most_covered(scans.covered[name]) for name in ("projection", "contrast"))
    found = {
        "pointing game": {
            "deepest drop": at.gather(1, deepest[:, None])[:, 0],
            "random position": at.double().mean(1),
            "middle position": middle,
            "another picture's box": at.roll(-1, 0).gather(1, deepest[:, None])[:, 0],
        },
        "drop": {
            "inside the box": (flat * at).sum(1) / at.sum(1),
            "outside": (flat * ~at).sum(1) / (~at).sum(1),
            "inside minus outside": difference_inside(scans.drop, inside),
            "another picture's box": difference_inside(scans.drop, inside.roll(-1, 0)),
        },
        "map": {
            "projection": rank_correlation(scans.fall, scans.covered["projection"]),
            "another picture's projection": rank_correlation(
                scans.fall, scans.covered["projection"].roll(-1, 0)
            ),
            **{name: rank_correlation(scans.fall, scans.covered[name]) for name in ("activity", "contrast")},
        },
        "class": {
            "map": rank_correlation(scans.drop, scans.fall),
            "another picture's map": rank_correlation(scans.drop, scans.fall.roll(-1, 0)),
            **{name: rank_correlation(scans.drop, scans.covered[name]) for name in scans.covered},
            **{
                f"another picture's {name}": rank_correlation(scans.drop, covered.roll(-1, 0))
                for name, covered in scans.covered.items()
            },
        },
        "projection's quarter": {
            "drop there minus elsewhere": difference_inside(scans.drop, projection),
            "another picture's projection": difference_inside(scans.drop, projection.roll(-1, 0)),
            "contrast's quarter": difference_inside(scans.drop, contrast),
        },
        "label": {
            "positions that change it": torch.where(known, changed.double().mean(1), torch.nan),
            "pictures where one changes it": torch.where(known, changed.any(1).double(), torch.nan),
            "changes to the second guess": torch.where(known, second.sum(1) / changed.sum(1), torch.nan),
        },
        "rise": {
            "positions that raise the class": rises.double().mean(1),
            "pictures where one raises it": rises.any(1),
            "pictures where one raises it by 0.1": (flat < -0.1).any(1),
        },
    }
    for question, own, rival in PAIRS:
        one, other = (torch.as_tensor(found[question][name]).double() for name in (own, rival))
        found[question][f"{own} minus {rival}"] = one - other
    return {
        question: {name: np.asarray(values, np.float64) for name, values in part.items()}
        for question, part in found.items()
    }


def over_pictures(values: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The mean over the pictures and its interval (:func:`zfcore.comparison.interval`): mean, low, high, n.

    Values that are nan are left out; n counts the others.
    """
    values = values[~np.isnan(values)]
    if len(values) < 2:
        raise ValueError(f"{len(values)} values have no interval; give two pictures at least")
    found = interval(values, seed, draws=1999)
    return {name: round(number, 5) for name, number in found.items()} | {"n": len(values)}


# ------------------------------------------------------------------------------ which pictures
def recognised(
    model: nn.Module,
    card: dict,
    pictures: Mapping[str, tuple[Picture, str]],
    device: str | torch.device = "cpu",
) -> dict[str, int]:
    """Which of some pictures the network knows: the class is among its five best over the ten crops of §3.

    ``pictures`` is {name: (picture, class id)}; ids the network has no class for are left out. Returns
    {name: class, an index of the logits} in the order given.
    """
    classes = {name: card["classes"].index(i) for name, (_, i) in pictures.items() if i in card["classes"]}
    if not classes:
        return {}
    pixels = squares([pictures[name][0] for name in classes], {**card, "input_size": card["resize"]})
    labelled = LabelledPictures(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),  # (N, R, R, 3) -> (N, 3, R, R)
        torch.tensor(list(classes.values())),
        tuple(card["classes"]),
        tuple(card["labels"]),
        tuple(classes),
    )
    wrong = outcomes(model, labelled, card, crops=10, device=device)["top5"].tolist()
    return {name: c for (name, c), missed in zip(classes.items(), wrong, strict=True) if not missed}


# ------------------------------------------------------------------------------ Tiny-ImageNet
def tiny_imagenet_boxes(root: str | os.PathLike | None = None) -> tuple[Tensor, str]:
    """The objects' boxes on the 10,000 validation pictures, in their order, and the SHA-256 of their file.

    int64 (10000, 4): top, left, bottom and right in pixels of the 64 × 64 picture, the last two not included.

    Raises ``FileNotFoundError`` where the data are not; the message says how to get them.
    """
    annotations = "val/val_annotations.txt"
    text = (folder_of("tiny-imagenet", root, annotations) / annotations).read_bytes()
    rows = [line.split("\t")[2:6] for line in text.decode().splitlines()]
    left, top, right, bottom = torch.tensor(
        [[int(n) for n in row] for row in rows]
    ).t()  # last pixels included
    return torch.stack((top, left, bottom + 1, right + 1), 1), hashlib.sha256(text).hexdigest()


def eligible(
    model: nn.Module, card: dict, pictures: LabelledPictures, inside: Tensor, wanted: int, **options
) -> Tensor:
    """The first ``wanted`` pictures that the rule takes, their positions int64; they may be fewer.

    The rule: the true class is among the network's five best over ten crops, and the square's centre lies
    on the object (``inside``, bool (N, R, C)) at one of its positions at least and at half of them at most.
    """
    share = inside.flatten(1).double().mean(1)
    candidates = ((share > 0) & (share <= 0.5)).nonzero()[:, 0]
    taken: list[int] = []
    for some in candidates.split(wanted):
        wrong = outcomes(model, pictures.take(some), card, crops=10, **options)["top5"]
        taken += some[~wrong].tolist()
        if len(taken) >= wanted:
            break
    return torch.tensor(taken[:wanted])


def occlusion_entries(
    weights: str = "zfnet-64",
    pictures: int = 500,
    size: int = 14,
    stride: int = 4,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> Iterator[dict[str, Any]]:
    """Scan Tiny-ImageNet's validation pictures with trained weights, then a fifth of them with random ones.

    Yields an entry of the ledger ``occlusion`` for each (:func:`zfcore.ledger.record` writes it): of every
    measure mean, interval and n (:func:`measures`, :func:`over_pictures`).

    Raises
    ------
    FileNotFoundError
        Weights or pictures are not on this machine.
    ValueError
        Fewer than 20 pictures meet the rule of :func:`eligible`.
    """
    network, card = load(weights)
    data, (boxes, annotations) = tiny_imagenet("val"), tiny_imagenet_boxes()
    layer, side = network.architecture.named_layers()["relu5"], card["input_size"]
    inside = centres_inside(boxes - (card["resize"] - side) // 2, side, size, stride)
    chosen = eligible(network, card, data, inside, pictures, device=device, progress=progress)
    if len(chosen) < 20:
        raise ValueError(f"only {len(chosen)} pictures meet the rule; ask for more, or look at the weights")
    rows = {card["architecture"]: (network, chosen)}
    rows[f"{card['architecture']}, random weights"] = (
        untrained(card, seed),
        chosen[: max(20, pictures // 5)],
    )
    command = (
        f"zfcore sensitivity occlusion --weights {Path(weights).name} --pictures {pictures} --size {size}"
    )
    for row, (model, some) in rows.items():
        start = time.monotonic()
        images = to_input(data.pixels[some].permute(0, 2, 3, 1), card).to(device)
        scans = scan(model.to(device), images, data.labels[some], layer, size, stride, progress=progress)
        found = measures(scans, inside[some])
        values: dict[str, Any] = {
            question: {
                name: over_pictures(numbers, seed)
                for name, numbers in part.items()
                if np.isfinite(numbers).sum() > 1  # an untrained network is right about no label
            }
            for question, part in found.items()
        }
        values["label"]["most frequent"] = [[card["labels"][c], n] for c, n in commonest_changes(scans)]
        yield {
            "row": row,
            "seed": seed,
            "values": values,
            "n": len(some),
            "data": "tiny-imagenet",
            "data_sha256": hashlib.sha256((data.sha256 + annotations).encode()).hexdigest(),
            "config": {"split": "val", "size": size, "stride": stride, "fill": 0, "layer": layer},
            "weights_sha256": card["sha256"] if model is network else None,
            **provenance(device, time.monotonic() - start, f"{command} --stride {stride} --seed {seed}"),
        }


def commonest_changes(scans: Scans, k: int = 8) -> list[tuple[int, int]]:
    """The labels that a square brings up in most pictures, of those labelled rightly: (class, pictures)."""
    known = (scans.label == scans.target).nonzero()[:, 0].tolist()
    counts = Counter(
        c for i in known for c in set(scans.labels[i].flatten().tolist()) - {int(scans.label[i])}
    )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:k]
