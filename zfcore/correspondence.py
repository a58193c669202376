r"""Correspondence analysis (arXiv version): does hiding the same part do the same in every picture?

A network is told nothing of eyes and noses. If a layer knows them all the same, then hiding the left eye
should change its features in one way, whoever's eye it is. With :math:`x_i` the features of picture i at the
layer, and :math:`\tilde x_i` those with the part covered, :math:`\epsilon_i = x_i - \tilde x_i` is what the
covering takes away. Pictures are compared by its signs,

.. math:: \Delta = \frac{1}{N (N - 1)} \sum_{i \ne j} \frac{1}{D_{ij}}
          \mathcal{H}\bigl(\operatorname{sign} \epsilon_i, \operatorname{sign} \epsilon_j\bigr),

:math:`\mathcal H` being the Hamming distance, the number of units at which the two differ. Low is consistent.
The paper prints the bare sum, which could not come to its 0.07; we take the mean over ordered pairs of
pictures and over units. sign 0 is 0, a third value, as different from 1 as -1 is.

After a ReLU most units are silent with and without the square, and a square that changes more leaves more to
disagree on. So Δ is given over three kinds of units, :math:`D_{ij}` being the number of

- ``every`` unit of the layer, as in the paper;
- those ``active`` in either picture: not zero in one of :math:`x_i, \tilde x_i, x_j, \tilde x_j` at least;
- those ``changed`` in either picture: not zero in :math:`\epsilon_i` or in :math:`\epsilon_j`.

A change that is mere rounding (at most 32 ε of the layer's largest value on the picture) counts as none.

Low compared to what? Three answers, all by squares of the same sizes:

- ``random``: every picture's square at a random place of its own, on the object as in the paper where its
  outline is given (``within``), else anywhere: a square beside the object changes little and agrees on
  little, so that a rival which may leave the object is another one;
- ``shared``: at a random place that is the same in all pictures, within the mean of their outlines. Where
  faces lie alike, so do their left eyes, and a layer that keeps places (layer 5 does) gives a low Δ for
  that alone;
- ``mixed``: on the parts, but with their names exchanged at random within each picture.

Source: the arXiv version of Zeiler & Fergus, arXiv:1311.2901; the printed one,
doi:10.1007/978-3-319-10590-1_53, leaves the analysis out.

Example::

    import torch
    from zfcore.correspondence import correspondence
    from zfcore.model import build
    parts = {"nose": torch.tensor([[100, 90, 30, 30], [96, 100, 30, 30]])}      # top, left, height, width
    found = correspondence(build("zfnet"), torch.randn(2, 3, 224, 224), parts, ["features.13"], draws=5)
    found["features.13"].active.delta["nose"]         # against found["features.13"].active.random["nose"]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.trace import Trace, listed, trace

#: The squares of the comparisons lie at a place of each picture's own, or at one for all.
PLACES = ("random", "shared")


@dataclass(frozen=True)
class Comparison:
    """Δ of every part at one layer, and what it is to be compared with.

    ``delta`` {part: Δ in [0, 1]}; ``random`` and ``shared`` {part: (draws,) the Δ of each draw}; ``mixed``
    (permutations,) the mean Δ over the parts, their names exchanged. ``without`` {part: (N,)} is Δ with one
    picture left out, ``random_without`` and ``shared_without`` the mean over the draws, for
    :func:`jackknife`. All float64, on the CPU.
    """

    delta: dict[str, float]
    random: dict[str, Tensor]
    shared: dict[str, Tensor]
    mixed: Tensor
    without: dict[str, Tensor]
    random_without: dict[str, Tensor]
    shared_without: dict[str, Tensor]

    def p_value(self, against: str, part: str | None = None) -> float:
        """The chance of a Δ as low as the parts' if the part made no difference, (1 + lower) / (1 + all).

        ``against`` is ``"random"`` or ``"shared"`` (of one ``part``), or ``"mixed"`` (of the parts' mean).
        """
        if against == "mixed":
            others, own = self.mixed, math.fsum(self.delta.values()) / len(self.delta)
        else:
            others, own = getattr(self, against)[part], self.delta[part]
        return (1 + int((others <= own + 1e-12).sum())) / (1 + len(others))

    def gain(self, against: str) -> tuple[float, Tensor]:
        """How much more alike the parts are than random places: mean over parts of 1 − Δ / Δ(random).

        0: no more than anywhere; 1: the parts agree wholly. Also (N,) with one picture left out each time.
        """
        everywhere, left_out = getattr(self, against), getattr(self, f"{against}_without")
        deltas = _values(self.delta.values())  # (P,)
        gains = 1 - _ratio(deltas, torch.stack([everywhere[part].mean() for part in self.delta]))
        without = [1 - _ratio(self.without[part], left_out[part]) for part in self.delta]
        return float(gains.mean()), torch.stack(without).mean(0)


class Correspondence(NamedTuple):
    """Of one layer: a :class:`Comparison` over each kind of units."""

    every: Comparison
    active: Comparison
    changed: Comparison


@torch.no_grad()
def correspondence(
    model: nn.Module,
    images: Tensor,
    parts: Mapping[str, Tensor],
    layers: Iterable[str],
    *,
    fill: float = 0.0,
    within: Tensor | None = None,
    draws: int = 100,
    permutations: int = 999,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Correspondence]:
    """Cover each part in every picture, and compare what that does to the layers.

    Parameters
    ----------
    model
        Any network that :func:`zfcore.trace.trace` follows; asked as in evaluation mode.
    images
        (N, C, H, W), N ≥ 2, of the network's dtype and on its device.
    parts
        {name: int64 (N, 4)}: top, left, height and width in pixels of the square on each picture.
    layers
        Names out of ``trace(model).layers``.
    fill
        What stands in the square, in units of the input.
    within
        Int64 (N, 4) like a part: on each picture the box in which a ``random`` place lies; a ``shared`` one
        lies in the mean of these boxes. None: the picture.
    draws
        Of random places: squares of a part's own size, wholly inside. Parts that have the same sizes on every
        picture have the same draws.
    permutations
        Exchanges of the parts' names.
    seed
        Of places and exchanges.
    batch_size
        Pictures in one forward pass.
    progress
        Whether a bar shows the random places done.

    Returns
    -------
    dict
        {layer: :class:`Correspondence`}.

    Raises
    ------
    ValueError
        Fewer than two pictures, no part, no layer, no draw, boxes of another shape or not inside the picture,
        squares larger than their box ``within`` or the mean of these, unknown layers, activations that are
        not numbers.
    """
    if draws < 1:
        raise ValueError(f"squares are drawn at least once; got draws={draws}")
    network, layers = trace(model), listed(layers)
    if not layers:
        raise ValueError(f"no layer is given; there are: {', '.join(network.layers)}")
    network.check_images(images)
    boxes = _checked(images, parts)
    whole = torch.tensor([[0, 0, *images.shape[2:]]]).expand(len(images), 4)
    rooms = {"random": whole if within is None else _checked(images, {"within": within})["within"]}
    rooms["shared"] = rooms["random"].double().mean(0).round().long().expand(len(images), 4)
    for name, box in boxes.items():
        for where in PLACES:
            if (box[:, 2:] > rooms[where][:, 2:]).any():
                kind = "the mean of the boxes `within`" if where == "shared" else "its box `within`"
                raise ValueError(f"a square of {name!r} is larger than {kind}; widen the boxes")
    generator = torch.Generator().manual_seed(seed)
    signs = _Signs(network, images, layers, fill, batch_size)
    on_parts = {name: signs.of(box) for name, box in boxes.items()}
    # One drawing serves all parts of the same sizes: {sizes: one of their boxes}.
    sizes = {tuple(box[:, 2:].flatten().tolist()): box[:, 2:] for box in boxes.values()}
    drawn = {layer: {(where, key): [] for where in PLACES for key in sizes} for layer in layers}
    for where, key in tqdm([*drawn[layers[0]]] * draws, "random places", disable=not progress):
        elsewhere = _place(sizes[key], rooms[where], 1 if where == "shared" else len(images), generator)
        for layer, features in signs.of(elsewhere).items():
            drawn[layer][where, key].append(_distances(*features))
    of_part = {name: tuple(box[:, 2:].flatten().tolist()) for name, box in boxes.items()}
    return {
        layer: _compared(
            {name: features[layer] for name, features in on_parts.items()},
            {where: {name: drawn[layer][where, key] for name, key in of_part.items()} for where in PLACES},
            _exchanges(len(boxes), len(images), permutations, generator),
        )
        for layer in layers
    }


def jackknife(without: Tensor) -> float:
    """The standard error of a statistic of N pictures, from its values (N,) with one left out each time."""
    n = len(without)
    return math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))


# ------------------------------------------------------------------------------ places
def _checked(images: Tensor, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if len(images) < 2 or not parts:
        raise ValueError(
            f"{len(images)} pictures and {len(parts)} parts; give two pictures and one part at least"
        )
    boxes = {name: torch.as_tensor(box).cpu() for name, box in parts.items()}
    height, width = images.shape[2:]
    for name, box in boxes.items():
        if box.shape != (len(images), 4) or box.is_floating_point():
            raise ValueError(
                f"the boxes of {name!r} are {box.dtype} {tuple(box.shape)}; give integers, "
                f"({len(images)}, 4): top, left, height, width"
            )
        ends = box[:, :2] + box[:, 2:]
        wrong = (
            (box[:, :2] < 0).any(1) | (box[:, 2:] < 1).any(1) | (ends > torch.tensor([height, width])).any(1)
        )
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise ValueError(
                f"the box of {name!r} on picture {first}, {box[first].tolist()}, is not inside its "
                f"{height}×{width} pixels; (top, left, height, width) with positive sizes is accepted"
            )
    return boxes


def _place(sizes: Tensor, rooms: Tensor, different: int, generator: torch.Generator) -> Tensor:
    """Boxes (N, 4) of those sizes (N, 2) somewhere in the rooms (N, 4), each corner as likely as any other.

    N ``different`` places, or 1, at the same share of every room.
    """
    corners = rooms[:, 2:] - sizes + 1  # how many keep the square inside
    share = torch.rand(different, 2, generator=generator, dtype=torch.float64)
    return torch.cat((rooms[:, :2] + (share * corners).long(), sizes), 1)


# ------------------------------------------------------------------------------ signs
class _Signs:
    """What covering does to the layers: signs of the change, and which units are active."""

    def __init__(self, network: Trace, images: Tensor, layers: list[str], fill: float, batch_size: int):
        self.network, self.images, self.layers = network, images, layers
        self.fill, self.batch_size = fill, batch_size
        self.whole = self._features(images)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        parts = [self.network.activations(batch, self.layers) for batch in images.split(self.batch_size)]
        features = {layer: torch.cat([part[layer].flatten(1) for part in parts]) for layer in self.layers}
        for layer, x in features.items():
            if not x.isfinite().all():
                raise ValueError(f"layer {layer!r} has activations that are not numbers; check the weights")
        return features

    def of(self, boxes: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """{layer: (signs (N, D) of -1, 0, 1; active (N, D) of 0, 1)}, float32, with the boxes covered."""
        covered = self.images.clone()
        for picture, (top, left, height, width) in zip(covered, boxes.tolist(), strict=True):
            picture[:, top : top + height, left : left + width] = self.fill
        found = {}
        for layer, x in self._features(covered).items():
            whole = self.whole[layer]
            change = whole - x
            rounding = 32 * torch.finfo(x.dtype).eps * whole.abs().amax(1, keepdim=True)
            signs = change.sign() * (change.abs() > rounding)
            found[layer] = signs.float(), ((whole != 0) | (x != 0)).float()
        return found


def _distances(signs: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, N) each: the share of units at which two pictures' signs differ, of every, active, changed ones.

    Counts come from products of 0 and 1 in single precision, exact up to 2²⁴ units.
    """
    agree = sum(one @ one.t() for one in ((signs == value).float() for value in (-1, 0, 1)))
    differ = (signs.shape[1] - agree).cpu().double()
    units = [torch.full_like(differ, signs.shape[1]), _in_either(active), _in_either(signs.abs())]
    return tuple(differ / count.clamp(min=1) for count in units)  # of no unit, none differ


def _in_either(ones: Tensor) -> Tensor:
    """(N, N): at how many units one or the other of two pictures has a 1."""
    each = ones.sum(1)
    return (each[:, None] + each - ones @ ones.t()).cpu().double()


def _delta(distances: Tensor) -> float:
    """The mean over ordered pairs of different pictures; the diagonal of (N, N) is zero."""
    n = len(distances)
    return float(distances.sum() / (n * (n - 1)))


def _without(distances: Tensor) -> Tensor:
    """(N,): the same with each picture left out in turn."""
    n = len(distances)
    if n < 3:
        return torch.full((n,), float("nan"), dtype=torch.float64)
    return (distances.sum() - 2 * distances.sum(1)) / ((n - 1) * (n - 2))


def _ratio(own: Tensor, everywhere: Tensor) -> Tensor:
    """own / everywhere; 1 where both are zero, as they are alike."""
    return torch.where((own == 0) & (everywhere == 0), 1.0, own / everywhere)


def _values(numbers: Iterable[float]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.float64)


# ------------------------------------------------------------------------------ comparing
def _compared(parts: dict, elsewhere: dict, order: Tensor) -> Correspondence:
    """Of one layer: ``parts`` {part: signs, active}, ``elsewhere`` {where: {part: [distances of a draw]}}."""
    together = _distances(*(torch.cat(kind) for kind in zip(*parts.values(), strict=True)))  # (P · N, P · N)
    own = {part: _distances(*features) for part, features in parts.items()}
    comparisons = []
    for units in range(len(Correspondence._fields)):
        drawn = {
            where: {part: torch.stack([draw[units] for draw in draws]) for part, draws in of_parts.items()}
            for where, of_parts in elsewhere.items()
        }
        comparisons.append(
            Comparison(
                {part: _delta(distances[units]) for part, distances in own.items()},
                *({part: _values(map(_delta, d)) for part, d in drawn[where].items()} for where in PLACES),
                _values(_mixed(together[units], exchange) for exchange in order),
                {part: _without(distances[units]) for part, distances in own.items()},
                *({part: _without(d.mean(0)) for part, d in drawn[where].items()} for where in PLACES),
            )
        )
    return Correspondence(*comparisons)


def _exchanges(parts: int, pictures: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, parts, pictures): which row of the P · N features plays part p on picture i."""
    names = torch.rand(count, pictures, parts, generator=generator).argsort(2).transpose(1, 2)
    return names * pictures + torch.arange(pictures)


def _mixed(distances: Tensor, exchange: Tensor) -> float:
    """The mean Δ over the parts once their names are exchanged."""
    return math.fsum(_delta(distances[rows][:, rows]) for rows in exchange) / len(exchange)
