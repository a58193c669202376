r"""How far the features of a picture move when the picture is shifted, scaled or turned.

The picture :math:`x` is transformed by a varying amount :math:`v`, and the features :math:`f_l` of every
layer are compared with those of the original by their Euclidean distance

.. math:: d_l(v) = \lVert f_l(T_v x) - f_l(x) \rVert .

Layers differ in size and units, so distances of two layers are compared after division by what that
layer makes of another picture altogether: its :class:`FeatureScale`.spread. A ratio of 1 then means that the
transformed picture is as far away as a different one.

What enters the picture from outside is 0, which is the mean picture where the mean has been subtracted.
How values between pixels are made matters: linear interpolation blurs, and a picture of 56 pixels shifted so
by half a pixel moves the top layer of ``zfnet-64`` three times as far as one shifted by a whole pixel.
:func:`warp` interpolates with a windowed sinc (Lanczos); half a pixel then moves it hardly farther than one.

Source: Zeiler & Fergus, arXiv:1311.2901v3, §4 "Feature Invariance" and its Fig. 5; the published version
(doi:10.1007/978-3-319-10590-1_53) leaves it out.

Example::

    import torch
    from zfcore.invariance import invariance_curves
    from zfcore.model import build
    images = torch.randn(5, 3, 56, 56)
    distances, probabilities = invariance_curves(
        build("zfnet-64"), images, "rotate", range(0, 360, 10), ["features.3", "classifier.4"]
    )
    distances["classifier.4"]           # (5, 36)
    probabilities[:, :, 185]            # (5, 36): of class 185
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.trace import listed, trace

TRANSFORMS = ("translate", "scale", "rotate")
#: How many lobes the windowed sinc has; each new pixel is made of twice as many rows and columns.
LOBES = 5


def amounts(transform: str, side: int) -> list[float]:
    """The paper's range of a transformation, for pictures of ``side`` pixels.

    ``"translate"``: −60 to 60 pixels in steps of 10 for pictures of 224, and in proportion for others, to the
    nearest whole pixel, where nothing needs to be interpolated;
    ``"scale"``: 1 to 1.8 in steps of 0.1; ``"rotate"``: 0 to 350 degrees in steps of 10.
    """
    _check(transform)
    return {
        "translate": [float(round(side * pixels / 224)) for pixels in range(-60, 61, 10)],
        "scale": [1 + tenths / 10 for tenths in range(9)],
        "rotate": [float(degrees) for degrees in range(0, 360, 10)],
    }[transform]


def warp(images: Tensor, transform: str, value: float) -> Tensor:
    """Shift, scale or turn pictures about their centre, keeping their size; what comes in is 0.

    Parameters
    ----------
    images
        (N, C, H, W), floating point.
    transform, value
        ``"translate"``: pixels downward; ``"scale"``: factor, larger than 1 enlarges; ``"rotate"``: degrees
        counter-clockwise.

    Returns
    -------
    Tensor
        (N, C, H, W). Each pixel is interpolated between the nearest ten rows and columns by Lanczos'
        kernel of :data:`LOBES` lobes, divided by its sum; beyond the border the outermost pixels are taken to
        go on, and what comes from there fades to 0 within one pixel. A shift by whole pixels, a scale of 1
        and quarter turns move pixels as they are. Reduced pictures are not smoothed beforehand.

    Source: Duchon (1979), Journal of Applied Meteorology 18, 1016 to 1022.

    Raises
    ------
    ValueError
        Unknown transformation, a scale that is not positive, or pictures that are not floats (N, C, H, W).
    """
    _check(transform)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"pictures are {images.dtype} {tuple(images.shape)}; give floats (N, C, H, W)")
    if transform == "scale" and not value > 0:
        raise ValueError(f"the scale is {value}; a factor above 0 is accepted")
    height, width = images.shape[2:]
    # Double precision: beside the grid by a hundredth of a pixel is not on it.
    exact = {"device": images.device, "dtype": torch.float32 if images.is_mps else torch.float64}
    y = torch.arange(height, **exact)[:, None] - (height - 1) / 2
    x = torch.arange(width, **exact)[None, :] - (width - 1) / 2
    match transform:  # where in the picture each pixel comes from, measured from its centre
        case "translate":
            y, x = torch.broadcast_tensors(y - value, x)
        case "scale":
            y, x = torch.broadcast_tensors(y / value, x / value)
        case "rotate":
            cosine, sine = math.cos(math.radians(value)), math.sin(math.radians(value))
            y, x = cosine * y + sine * x, cosine * x - sine * y
    rows, of_rows, inside_y = _taps(y + (height - 1) / 2, height)
    columns, of_columns, inside_x = _taps(x + (width - 1) / 2, width)
    source, warped = images.to(exact["dtype"]), torch.zeros_like(images, dtype=exact["dtype"])
    for row, of_row in zip(rows, of_rows, strict=True):
        for column, of_column in zip(columns, of_columns, strict=True):
            warped += of_row * of_column * source[:, :, row, column]
    return torch.empty_like(images).copy_(warped * inside_y * inside_x)  # in the images' memory format


def _taps(place: Tensor, extent: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of places (H, W) along an axis: the 2 LOBES pixels around each, their weights, and the share inside.

    Pixels and weights are (2 LOBES, H, W), the share (H, W); beyond the border the outermost pixel goes on.
    """
    near = place.floor() + torch.arange(1 - LOBES, LOBES + 1, device=place.device)[:, None, None]
    away = near - place
    weights = torch.sinc(away) * torch.sinc(away / LOBES)
    weights = torch.where(away == away.round(), (away == 0).to(weights), weights)  # on the grid, exactly
    inside = torch.minimum(place + 1, extent - place).clamp(0, 1)
    return near.long().clamp(0, extent - 1), weights / weights.sum(0), inside


@torch.no_grad()
def invariance_curves(
    model: nn.Module,
    images: Tensor,
    transform: str,
    values: Iterable[float],
    layers: Iterable[str],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Transform pictures by varying amounts; measure how far the features move, and what the network says.

    Parameters
    ----------
    model
        From pictures to logits (N, classes); any network that :func:`zfcore.trace.trace` follows, asked as
        in evaluation mode.
    images
        (N, C, H, W), of the network's dtype and on its device, the mean subtracted.
    transform, values
        ``"translate"`` by pixels downward, ``"scale"`` by factors, ``"rotate"`` by degrees counter-clockwise.
    layers
        Names out of ``trace(model).layers``, maps or units.
    batch_size
        Pictures at a time; memory does not grow with N or the values beyond the results.
    progress
        Whether a bar shows the transformed pictures done.

    Returns
    -------
    distances, probabilities
        ``{layer: (N, len(values))}``, Euclidean distances in units of the layer; and (N, len(values),
        classes), the softmax of the logits. In single precision at least, on the CPU.

    Raises
    ------
    ValueError
        Unknown transformation or layer, no pictures or some that do not fit, or a network that returns
        anything but its logits; the message says what there is.
    """
    _check(transform)
    values, layers, followed = list(values), listed(layers), trace(model)
    logits = followed.result
    followed.insist_on_logits()
    if not len(images):
        raise ValueError("there are no pictures to transform; give one at least")
    wide = torch.promote_types(images.dtype, torch.float32)  # a distance can be too large for half precision
    distances = {layer: torch.empty(len(images), len(values), dtype=wide) for layer in layers}
    probabilities = []
    with tqdm(total=len(images) * len(values), desc=transform, disable=not progress, leave=False) as bar:
        for first in range(0, len(images), batch_size):
            some = images[first : first + batch_size]
            original = followed.activations(some, layers)
            of_some = []
            for column, value in enumerate(values):
                moved = followed.activations(warp(some, transform, value), {*layers, logits})
                if moved[logits].ndim != 2:
                    shape = tuple(moved[logits].shape)
                    raise ValueError(f"the network returns {shape}; logits (N, classes) are wanted")
                for layer in layers:
                    difference = (moved[layer] - original[layer]).to(wide)
                    away = torch.linalg.vector_norm(difference, dim=tuple(range(1, difference.ndim)))
                    distances[layer][first : first + batch_size, column] = away.cpu()
                of_some.append(moved[logits].softmax(1, wide).cpu())
                bar.update(len(some))
            probabilities.append(torch.stack(of_some, 1) if of_some else images.new_empty(len(some), 0, 0))
    return distances, torch.cat(probabilities)


@dataclass(frozen=True)
class FeatureScale:
    """What distances of a layer are measured by: its features' own length, and how far pictures are apart.

    ``norms`` (N,): the Euclidean norm of each picture's features. ``spread``: the root mean square of
    the distance between the features of two different pictures.
    """

    norms: Tensor
    spread: float


@torch.no_grad()
def feature_scales(
    model: nn.Module, images: Tensor, layers: Iterable[str], *, batch_size: int = 32
) -> dict[str, FeatureScale]:
    r"""The scales on which distances of different layers compare, over N ≥ 2 pictures.

    Of all pairs :math:`i \ne j` the mean of :math:`\lVert f_i - f_j \rVert^2` is
    :math:`\frac{2}{N-1} \sum_i \lVert f_i - \bar f \rVert^2`, so one pass is enough. Parameters and errors as
    in :func:`invariance_curves`; ``ValueError`` also for fewer than two pictures.
    """
    if len(images) < 2:
        raise ValueError(f"a distance between pictures needs two of them; got {len(images)}")
    followed, layers = trace(model), list(layers)
    squares: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    sums: dict[str, Tensor] = {}
    for some in images.split(batch_size):
        for layer, maps in followed.activations(some, layers).items():
            features = maps.flatten(1)
            features = features.cpu().double()  # not every device has doubles
            squares[layer].append(features.square().sum(1))
            sums[layer] = sums.get(layer, 0) + features.sum(0)
    scales = {}
    for layer in layers:
        of_each, n = torch.cat(squares[layer]), len(images)
        around_mean = of_each.sum() - sums[layer].square().sum() / n
        scales[layer] = FeatureScale(of_each.sqrt(), float(2 * around_mean.clamp_min(0) / (n - 1)) ** 0.5)
    return scales


@torch.no_grad()
def rotational_symmetry(images: Tensor, degrees: Sequence[float] = tuple(range(10, 360, 10))) -> Tensor:
    """How alike pictures are to themselves turned: the mean correlation over the angles, (N,) in [-1, 1].

    Only the disc that stays inside the picture is compared, each channel about its own mean over the disc: a
    cast of colour stays what it is in every turned picture, and is no pattern. 1 is a picture of rings; one
    that is of one colour throughout has no pattern to compare, and gets 0.

    Parameters
    ----------
    images
        (N, C, H, W), floating point.
    degrees
        Angles of the turns, counter-clockwise.
    """
    height, width = images.shape[2:]
    y = torch.arange(height)[:, None] - (height - 1) / 2
    x = torch.arange(width)[None, :] - (width - 1) / 2
    disc = y.square() + x.square() <= ((min(height, width) - 1) / 2) ** 2

    def pattern(pictures: Tensor) -> Tensor:
        inside = pictures.cpu().double()[:, :, disc]  # (N, C, cells of the disc)
        inside = (inside - inside.mean(2, keepdim=True)).flatten(1)
        return inside / inside.norm(dim=1, keepdim=True).clamp_min(1e-12)

    original = pattern(images)
    every = [(pattern(warp(images, "rotate", angle)) * original).sum(1) for angle in degrees]
    return torch.stack(every).mean(0).to(images.dtype).to(images.device)


def _check(transform: str) -> None:
    if transform not in TRANSFORMS:
        raise ValueError(f"unknown transformation {transform!r}; known: {', '.join(TRANSFORMS)}")
