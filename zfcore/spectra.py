r"""What is wrong with a first layer, in numbers: frequencies, dead filters, aliasing (§4.1, Fig. 5).

The paper looks at two sets of filters and at projections of layer 2, and says what it sees: filters of
extremely high and low frequencies with little between, filters that are dead, and artefacts of a stride
that is too large. Each has a measure here.

*Frequency.* A filter of k × k is padded with zeros to 64 × 64 and taken through the discrete Fourier
transform, each colour by itself; its energy at the radial frequency :math:`\rho = \sqrt{u^2 + v^2}`, in
cycles per pixel, falls into one of three bands: low (under 1/6), mid, high (over 1/3). A half is the
highest frequency that pixels can carry along an axis.

*Dead filters.* Flat beside the others: a root mean square below a tenth of the largest of the layer, as one
that is nearly grey where all are drawn with one contrast.

*Aliasing.* Maps that are computed at every s-th pixel only know the picture on a grid, and if their filters
do not blur it, the grid shows in what is projected back. :func:`grid_imprint` compares the energy of the
s × s phases of a projection, the pixels that have the same place within a cell of the grid: 0 where all have
the same, 1 where one has it all.

Source: Zeiler & Fergus, §4.1 and Fig. 5, doi:10.1007/978-3-319-10590-1_53; on the
grids that strided transposed convolutions leave: Odena, Dumoulin & Olah (2016), doi:10.23915/distill.00003.

Example::

    from zfcore.model import load
    from zfcore.spectra import band_shares, flat
    filters = load("zfnet-64")[0].features[0].weight.detach()       # (48, 3, 7, 7)
    band_shares(filters).mean(0), flat(filters).float().mean()
"""

from __future__ import annotations

import torch
from torch import Tensor

from zfcore.deconvnet import Deconvnet

#: Where low and mid frequencies end, thirds of what pixels can carry, in cycles per pixel.
BANDS = (1 / 6, 1 / 3)
#: The side of the padded filters, for bins of 1/64 of a cycle per pixel.
SIDE = 64
#: A filter with less than this share of the largest root mean square is flat.
FLAT = 0.1


def band_shares(filters: Tensor, edges: tuple[float, ...] = BANDS) -> Tensor:
    """How the energy of each filter is divided among bands of radial frequency.

    Parameters
    ----------
    filters
        (F, 3, k, k), k at most 64; any unit.
    edges
        Where one band ends and the next begins, in cycles per pixel, rising.

    Returns
    -------
    Tensor
        (F, len(edges) + 1) shares, which sum to 1; NaN for a filter of zeros.

    Raises
    ------
    ValueError
        A filter larger than 64 × 64.
    """
    if max(filters.shape[2:]) > SIDE:
        raise ValueError(f"filters are {tuple(filters.shape[2:])}; up to {SIDE} × {SIDE} is accepted")
    energy = torch.fft.fft2(filters.double(), s=(SIDE, SIDE)).abs().square().sum(1)  # (F, 64, 64)
    band = torch.bucketize(_radius(), torch.tensor(edges, dtype=torch.float64), right=True)
    within = torch.stack([energy[:, band == n].sum(1) for n in range(len(edges) + 1)], 1)
    return within / within.sum(1, keepdim=True)


def flat(filters: Tensor, share: float = FLAT) -> Tensor:
    """Which filters (F, C, k, k) are flat beside the strongest: (F,) bool."""
    size = filters.double().square().mean((1, 2, 3)).sqrt()
    return size < share * size.max()


def grid_imprint(projections: Tensor, period: int) -> Tensor:
    r"""How unevenly the energy of projections lies on a grid, (N,) in [0, 1].

    With :math:`E_p` the energy of phase p of ``period`` squared, it is the standard deviation of the
    :math:`E_p` over their mean, divided by the largest that this can be. Pixels of pure noise give about
    :math:`\sqrt{2 / n} / p` for n of them in each phase and period p.

    Parameters
    ----------
    projections
        (N, C, H, W), signed. Rows and columns beyond a multiple of the period are left out.
    period
        Pixels from one point of the grid to the next, 2 or more.

    Returns
    -------
    Tensor
        (N,) float64; NaN for a projection of zeros.

    Raises
    ------
    ValueError
        The period is below 2 or larger than the picture.
    """
    height, width = projections.shape[2:]
    if not 2 <= period <= min(height, width):
        raise ValueError(
            f"the period is {period}; from 2 to {min(height, width)}, the picture's side, is accepted"
        )
    seen = projections.double()[:, :, : height // period * period, : width // period * period]
    cells = seen.unflatten(3, (-1, period)).unflatten(
        2, (-1, period)
    )  # (N, C, rows, period, columns, period)
    energy = cells.square().sum((1, 2, 4)).flatten(1)  # (N, phases)
    spread = energy.std(1, correction=0) / energy.mean(1)
    return spread / (period**2 - 1) ** 0.5


def strongest_projections(net: Deconvnet, pictures: Tensor, layer: str) -> Tensor:
    """Each map of a layer projected as a whole, from the picture (N, C, H, W) that it answers to most.

    Returns
    -------
    Tensor
        (A, C, H, W), signed: of the A maps that answer to any of the pictures, in their order.

    Raises
    ------
    ValueError
        As :meth:`zfcore.deconvnet.Deconvnet.project` does.
    """
    answers = net.activations(pictures, [layer])[layer].amax((2, 3))  # (N, maps)
    alive = (answers.amax(0) > 0).nonzero()[:, 0]
    return net.project(pictures[answers.argmax(0)[alive]], layer, alive, "map")


def _radius() -> Tensor:
    """The radial frequency of each bin in cycles per pixel, (SIDE, SIDE)."""
    along = torch.fft.fftfreq(SIDE, dtype=torch.float64)
    return torch.hypot(along[:, None], along[None, :])
