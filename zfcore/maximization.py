r"""Activation maximisation: the picture that a unit, a feature map or a class answers to most.

Where the deconvnet of §2.1 starts from a photograph, this starts from noise :math:`x_0` and climbs: with
:math:`a(x)` the answer of what was chosen and :math:`g = \partial a / \partial x`,

.. math:: x \leftarrow x + \eta \Bigl( \frac{P g}{\operatorname{rms}(P g) + \varepsilon}
          - \lambda x - \tau \nabla \mathrm{TV}(x) \Bigr)

until the pattern is stable. :data:`PLAIN` is the algorithm alone (:math:`P = 1`, :math:`\lambda = \tau = 0`;
with ``epsilon=None`` the gradient is not even divided by its size). What a :class:`Recipe` may add:

- *L2*, :math:`\lambda`: the gradient of :math:`\lambda \lVert x \rVert^2 / 2` keeps the picture small;
- *total variation*, :math:`\tau`, of :math:`\mathrm{TV}(x) = \sum \sqrt{d_y^2 + d_x^2 + \delta^2}` over the
  differences of neighbouring pixels: keeps it in patches;
- *jitter, scale and rotation*: each step climbs with the picture moved by chance, so that what is left
  works in more than one place;
- *frequency space*: :math:`P = F^{-1} f^{-p} F` divides every frequency f by its p-th power, which is the
  ascent on Fourier coefficients that are weighted by :math:`f^{-p/2}`; with p = 1 the noise at the start has
  the spectrum of photographs.

Since the gradient is brought to a size of 1, the weights mean the same for every unit of every layer:
:math:`\lambda = 1` holds a pixel of size 1 back as strongly as the gradient pulls.

Sources: Erhan, Bengio, Courville & Vincent (2009), technical report 1341, Université de Montréal; for classes
and with L2: Simonyan, Vedaldi & Zisserman, arXiv:1312.6034; regularised, for any unit: Yosinski et al.,
arXiv:1506.06579; jitter: Mordvintsev, Olah & Tyka, "Inceptionism" (2015); the division by the gradient's
root mean square: Chollet's example for VGG16 (2016); total variation: Mahendran & Vedaldi,
doi:10.1007/s11263-016-0911-8; frequency space: Olah, Mordvintsev & Schubert, doi:10.23915/distill.00007.

Example::

    from zfcore.maximization import PLAIN, maximize
    from zfcore.model import load
    network, card = load("zfnet-64")
    r = maximize(network, "features.13", [7, 29], size=56)     # two maps of layer 5
    r.image.shape, r.history[0][-1]                            # (2, 3, 56, 56), and what map 7 reached
    maximize(network, "classifier.6", 0, size=56, recipe=PLAIN)            # a class, by its logit
    maximize(network, "features.12", 7, size=45, position="middle", jitter=0)    # one unit
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.trace import Trace, trace

OBJECTIVES = ("logit", "probability")
#: Differences of neighbouring pixels that are small beside this count less in the total variation.
DELTA = 0.01
#: Steps whose mean is compared with that of as many before them, to see whether the ascent is stable.
WINDOW = 10


@dataclass(frozen=True)
class Recipe:
    """How to climb. Sizes are in the network's units, as its input is."""

    step: float = 0.05  # the root mean square that a step adds to the picture
    iterations: int = 128
    tolerance: float = 0.0  # stop when ten steps bring a smaller share of the value than this; 0: never
    epsilon: float | None = 1e-5  # added to the gradient's root mean square before dividing; None: undivided
    contrast: float = 0.1  # standard deviation of the noise at the start
    wake: bool = False  # a silent ReLU has no gradient: follow its input until it answers
    l2: float = 0.0
    tv: float = 0.0
    jitter: int = 0  # largest shift in pixels, along y and x; what leaves on one side enters on the other
    scale: float = 1.0  # largest factor, up or down
    rotation: float = 0.0  # largest turn in degrees, to either side
    frequency: float = 0.0  # p: start and gradient are divided by this power of the frequency

    def __post_init__(self):
        least = {
            "step": 0, "iterations": 1, "tolerance": 0, "contrast": 0, "l2": 0, "tv": 0, "jitter": 0,
            "scale": 1, "rotation": 0, "frequency": 0,
        }  # fmt: skip
        for name, low in least.items():
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= low):
                raise ValueError(f"{name} is {getattr(self, name)}; a number of at least {low} is accepted")
        if self.epsilon is not None and not self.epsilon >= 0:
            raise ValueError(f"epsilon is {self.epsilon}; None, or a number of at least 0 is accepted")


#: The algorithm alone.
PLAIN = Recipe()
#: All regularisers together, as the book's pictures have them.
REGULARISED = Recipe(wake=True, l2=0.1, tv=0.05, jitter=2, scale=1.05, rotation=5.0, frequency=1.0)
RECIPES = {"plain": PLAIN, "regularised": REGULARISED}


class Maximum(NamedTuple):
    """What :func:`maximize` found.

    ``image``: (3, H, W), or (B, 3, H, W) for a list of channels, in the network's units. ``history``: the
    answer before the first step and after each one, a list of floats or B such lists; where the recipe moves
    the picture by chance, all but the last are of the picture so moved. The last is of ``image`` itself.
    """

    image: Tensor
    history: list[float] | list[list[float]]


class Step(NamedTuple):
    """A step of an ascent: the ``pictures`` (B, 3, H, W) after it, and the ``values`` (B,) before it.

    ``climbing`` (B,) tells which took it; the others are stable and stay.
    """

    pictures: Tensor
    values: Tensor
    climbing: Tensor


def maximize(
    model: nn.Module,
    layer: str,
    channel: int | Sequence[int],
    size: int | tuple[int, int] = 224,
    *,
    position: str | tuple[int, int] = "map",
    objective: str = "logit",
    recipe: Recipe = REGULARISED,
    seed: int | Sequence[int] = 0,
    start: Tensor | None = None,
    progress: bool = False,
    **changes: object,
) -> Maximum:
    """Climb from noise to a picture that a unit, a feature map or a class answers to strongly.

    Parameters
    ----------
    model
        Any ``nn.Module`` that :func:`zfcore.trace.trace` follows; asked as in evaluation mode, not changed.
    layer
        A name out of ``trace(model).layers``. A ReLU is silent where its input is negative; the layer before
        it always has a gradient.
    channel
        A feature map, or after a flattening a unit, such as a class of the last layer; a list climbs to
        several at once, each as if it were alone.
    size
        Side of the picture in pixels, or (height, width). A network with fully connected layers takes one
        size only, if ``layer`` is among them or behind them.
    position
        ``"map"``: the mean of the whole map; ``(y, x)``: one unit; ``"middle"``: the unit in the middle. Not
        used for fully connected layers.
    objective
        ``"logit"``: what the layer gives; ``"probability"``: its softmax over the layer's units.
    recipe, changes
        How to climb: :data:`REGULARISED`, :data:`PLAIN` or another :class:`Recipe`, with changes to it by
        name, as in ``recipe=PLAIN, iterations=40``.
    seed
        The noise and the moves by chance follow from it; one for all channels, or one for each.
    start
        (3, H, W) or (B, 3, H, W) to start from instead of noise; ``size`` is not used then.
    progress
        Show a progress bar.

    Returns
    -------
    Maximum
        ``image`` (3, H, W) and ``history``, a list of floats; with a list of channels (B, 3, H, W) and a list
        of lists. On the model's device, in its dtype.

    Raises
    ------
    ValueError
        Unknown layer, channel, position, objective or setting (the message says what there is); pictures of
        this size, or so many to start from, do not pass; the gradient is not finite.
    """
    channels, seeds = _listed(channel, "channel"), _listed(seed, "seed")
    known = [field.name for field in fields(Recipe)]
    for name in changes.keys() - set(known):
        raise ValueError(f"no setting {name!r}; a recipe has: {', '.join(known)}")
    recipe = replace(recipe, **changes)
    if len(seeds) not in (1, len(channels)):
        raise ValueError(f"{len(seeds)} seeds for {len(channels)} channels; give one, or one for each")
    seeds *= len(channels) if len(seeds) == 1 else 1
    answer = Answer(trace(model), layer, channels, position, objective, recipe.wake)
    if start is not None and (start.ndim, *start.shape[:-3]) not in ((3,), (4, 1), (4, len(channels))):
        raise ValueError(
            f"start is {tuple(start.shape)}; give (3, H, W), or (B, 3, H, W) with one for each of the "
            f"{len(channels)} channels"
        )
    if start is None:
        start = noise(size, seeds, recipe.contrast, recipe.frequency, channels=_colours(answer.network))
        weight = next(model.parameters(), start)
        start = start.to(weight.dtype).to(weight.device)
    pictures = start.expand(len(channels), -1, -1, -1)
    history: list[list[float]] = [[] for _ in channels]
    steps = ascend(answer, pictures, recipe, seeds)
    for step in tqdm(steps, layer, recipe.iterations, leave=False, disable=not progress):
        for line, value, climbs in zip(history, step.values.tolist(), step.climbing.tolist(), strict=True):
            line += [value] * climbs
        pictures = step.pictures
    with torch.no_grad():
        for line, value in zip(history, answer(pictures)[0].tolist(), strict=True):
            line.append(value)
    if isinstance(channel, Sequence) or getattr(channel, "ndim", 0):
        return Maximum(pictures, history)
    return Maximum(pictures[0], history[0])


def ascend(answer: Answer, start: Tensor, recipe: Recipe, seeds: Sequence[int]) -> Iterator[Step]:
    """The steps of an ascent, one after the other: what :func:`maximize` does, for those who watch.

    Parameters
    ----------
    answer
        What to climb, for B pictures.
    start
        (B, C, H, W).
    recipe, seeds
        How, and the B seeds of the moves by chance.

    Yields
    ------
    Step
        ``recipe.iterations`` of them, or fewer when all are stable.

    Raises
    ------
    ValueError
        The gradient is not finite; the message says where.
    """
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    pictures, past = start.detach().clone(), []
    climbing = torch.ones(len(start), dtype=torch.bool)
    for number in range(recipe.iterations):
        who = climbing.nonzero()[:, 0]
        moves = [Move.drawn(draws[n], recipe) for n in who]
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            x = pictures[who].requires_grad_()
            values, climbed = answer(moved(x, moves), who)
            (gradient,) = torch.autograd.grad(climbed.sum(), x)
        for n, one in zip(who.tolist(), gradient, strict=True):
            if not one.isfinite().all():
                raise ValueError(
                    f"the gradient of {answer.layer!r}, channel {answer.channels[n]}, is not finite at step "
                    f"{number}; take a smaller step than {recipe.step}, or see whether the weights are finite"
                )
        before = past[-1].clone() if past else values.new_zeros(len(start))
        before[who] = values.detach()
        past.append(before)
        pictures = pictures.clone()
        pictures[who] = x.detach() + recipe.step * direction(gradient, x.detach(), recipe)
        yield Step(pictures, before, climbing)
        if recipe.tolerance and len(past) >= 2 * WINDOW:
            then, now = (torch.stack(some).mean(0) for some in (past[-2 * WINDOW : -WINDOW], past[-WINDOW:]))
            climbing = climbing & (now - then > recipe.tolerance * now.abs()).cpu()
            if not climbing.any():
                return


class Answer:
    """What is climbed: units, maps' means or classes of one layer, one for each picture.

    Called with pictures (B, C, H, W) it gives ``(values, climbed)``, both (B,): the answers, and what to
    differentiate instead of them, which differs only where a ReLU is silent and shall wake.

    Parameters and errors as of :func:`maximize`; ``network`` is a trace.
    """

    def __init__(
        self,
        network: Trace,
        layer: str,
        channels: Sequence[int],
        position: str | tuple[int, int] = "map",
        objective: str = "logit",
        wake: bool = False,
    ):
        if objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {objective!r}; known: {', '.join(OBJECTIVES)}")
        if isinstance(position, str) and position not in ("map", "middle"):
            raise ValueError(f"position is (y, x), 'map' or 'middle'; got {position!r}")
        self.network, self.layer, self.channels = network, layer, list(channels)
        self.position = position if isinstance(position, str) else tuple(map(int, position))
        self.objective = objective
        node = network.node(layer)
        self._before = None
        if wake and isinstance(network.operations[node], nn.ReLU):
            self._before = next((network.names.get(source) for source in network.sources(node)), None)

    def __call__(self, pictures: Tensor, who: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The answers to some of the pictures, ``who`` (n,) by their number; None: to all of them."""
        channels = torch.tensor(self.channels)[slice(None) if who is None else who]
        layers = [self.layer, self._before] if self._before else [self.layer]
        found = self.network.activations(pictures, layers)
        values = self._chosen(found[self.layer], channels)
        if self.objective == "probability":
            # p·∇ log p is ∇p, without the cancellation of a softmax that is nearly 1.
            logs = found[self.layer].log_softmax(1)[torch.arange(len(channels)), channels]
            values = logs.exp()
            return values, values.detach() * logs
        if not self._before:
            return values, values
        return values, torch.where(values > 0, values, self._chosen(found[self._before], channels))

    def _chosen(self, value: Tensor, channels: Tensor) -> Tensor:
        """(B,) of (B, C, h, w) or (B, D)."""
        if value.ndim not in (2, 4):
            shape = tuple(value.shape)
            raise ValueError(f"layer {self.layer!r} is {shape}, neither maps (N, C, H, W) nor units (N, D)")
        if self.objective == "probability" and value.ndim == 4:
            raise ValueError(f"layer {self.layer!r} has maps, and no probabilities; climb its 'logit'")
        for channel in channels.tolist():
            if not 0 <= channel < value.shape[1]:
                raise ValueError(
                    f"layer {self.layer!r} has channels 0 to {value.shape[1] - 1}; got {channel}"
                )
        rows = value[torch.arange(len(value)), channels]
        if value.ndim == 2:
            return rows
        if self.position == "map":
            return rows.mean((1, 2))
        height, width = rows.shape[1:]
        y, x = (height // 2, width // 2) if self.position == "middle" else self.position
        if not (0 <= y < height and 0 <= x < width):
            raise ValueError(
                f"layer {self.layer!r} has rows 0 to {height - 1} and columns 0 to {width - 1} here; "
                f"got position {(y, x)}"
            )
        return rows[:, y, x]


# ------------------------------------------------------------------------------ the parts of a step
def direction(gradient: Tensor, pictures: Tensor, recipe: Recipe) -> Tensor:
    """Where a step goes, before it is multiplied by its size: (B, C, H, W) from gradients and pictures."""
    g = natural(gradient, recipe.frequency) if recipe.frequency else gradient
    if recipe.epsilon is not None:
        wide = g.to(torch.promote_types(g.dtype, torch.float32))  # squares overflow in half precision
        rms = wide.square().mean((1, 2, 3), keepdim=True).sqrt()
        g = (wide / (rms + recipe.epsilon).clamp_min(torch.finfo(wide.dtype).tiny)).to(g.dtype)
    if recipe.l2:
        g = g - recipe.l2 * pictures
    return g - recipe.tv * total_variation_gradient(pictures) if recipe.tv else g


def total_variation_gradient(pictures: Tensor) -> Tensor:
    r"""The gradient of total variation, (B, C, H, W), which is :math:`\sum \sqrt{d_y^2 + d_x^2 + \delta^2}`.

    The sum is over pixels and colours, the differences are to the pixel below and to the right, 0 where
    there is none.
    """
    down, right = F.pad(pictures.diff(dim=2), (0, 0, 0, 1)), F.pad(pictures.diff(dim=3), (0, 1))
    length = (down.square() + right.square() + DELTA**2).sqrt()
    p, q = down / length, right / length
    return F.pad(p, (0, 0, 1, 0))[..., :-1, :] + F.pad(q, (1, 0))[..., :-1] - p - q


def natural(pictures: Tensor, power: float = 1.0) -> Tensor:
    """Divide every frequency f of (B, C, H, W) by f to a ``power``; the mean counts as the lowest.

    f is in cycles per pixel. A power of 1 turns white noise into noise with the spectrum of photographs.
    """
    height, width = pictures.shape[2:]
    # There are no Fourier transforms in half precision.
    exact = {"dtype": torch.promote_types(pictures.dtype, torch.float32), "device": pictures.device}
    f = torch.hypot(torch.fft.fftfreq(height, **exact)[:, None], torch.fft.rfftfreq(width, **exact)[None])
    spectrum = torch.fft.rfft2(pictures.to(f.dtype)) * f.clamp_min(1 / max(height, width)).pow(-power)
    return torch.fft.irfft2(spectrum, s=(height, width)).to(pictures.dtype)


def noise(
    size: int | tuple[int, int],
    seeds: Sequence[int],
    contrast: float = PLAIN.contrast,
    frequency: float = 0.0,
    channels: int = 3,
) -> Tensor:
    """Pictures to start from, (B, channels, H, W) float64, one for each seed, normally distributed.

    ``contrast`` is the standard deviation, ``size`` a side in pixels or (height, width), ``frequency`` the
    power by which :func:`natural` divides; ``ValueError`` for a size below 1.
    """
    height, width = (size, size) if isinstance(size, Integral) else size
    if min(height, width) < 1:
        raise ValueError(f"the size is {size}; a side of at least 1 pixel is accepted")
    shape, generator = (channels, height, width), torch.Generator()
    white = [torch.randn(shape, generator=generator.manual_seed(s), dtype=torch.float64) for s in seeds]
    drawn = torch.stack(white)
    if frequency:
        drawn = natural(drawn, frequency)
        drawn = drawn / drawn.square().mean((1, 2, 3), keepdim=True).sqrt()
    return contrast * drawn


class Move(NamedTuple):
    """How a picture is moved: ``down`` and ``right`` in pixels, a factor, and degrees counter-clockwise."""

    down: int = 0
    right: int = 0
    scale: float = 1.0
    rotation: float = 0.0

    @classmethod
    def drawn(cls, generator: torch.Generator, recipe: Recipe) -> Move:
        """By chance, as far as a recipe lets it: shifts and degrees evenly, the logarithm of factors, too."""
        a, b, c, d = (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1).tolist()
        reach = recipe.jitter + 0.5  # every whole shift gets the same share
        down, right = (round(max(-recipe.jitter, min(recipe.jitter, reach * u))) for u in (a, b))
        return cls(down, right, recipe.scale**c, recipe.rotation * d)


def moved(pictures: Tensor, moves: Sequence[Move]) -> Tensor:
    """Shift each picture (B, C, H, W) around its edges, then turn and scale it about its centre.

    Pixels are interpolated linearly between the four nearest; what comes from outside is 0. Gradients flow.
    """
    height, width = pictures.shape[2:]
    if any(move.down or move.right for move in moves):
        rolled = zip(pictures, moves, strict=True)
        pictures = torch.stack([one.roll((move.down, move.right), (1, 2)) for one, move in rolled])
    if all(move.scale == 1 and move.rotation == 0 for move in moves):
        return pictures
    back = []
    for move in moves:  # where in the picture each pixel comes from, in units of half a side
        cosine, sine = (f(math.radians(move.rotation)) / move.scale for f in (math.cos, math.sin))
        back.append([[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]])
    # In half precision places would be rounded by up to a pixel, and a CPU reads beyond the picture.
    wide = pictures.to(torch.promote_types(pictures.dtype, torch.float32))
    grid = F.affine_grid(wide.new_tensor(back), list(wide.shape), align_corners=False)
    return F.grid_sample(wide, grid, align_corners=False).to(pictures.dtype)


def _colours(network: Trace) -> int:
    """How many channels the pictures of a network have."""
    firsts = (network.operations.get(user) for user in network.input.users)
    return next((first.in_channels for first in firsts if isinstance(first, nn.Conv2d)), 3)


def _listed(value: int | Sequence[int] | Tensor, what: str) -> list[int]:
    given = value.tolist() if hasattr(value, "tolist") else value
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not listed or not all(isinstance(one, Integral) and not isinstance(one, bool) for one in listed):
        raise ValueError(f"{what} is an int, or a list of them; got {value!r}")
    return [int(one) for one in listed]
