"""Measures of a first layer against waves, grids and a plain Fourier sum."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfcore.deconvnet import Deconvnet
from zfcore.model import build, initialize_
from zfcore.spectra import band_shares, flat, grid_imprint, strongest_projections


def wave(side, u, v, phase=0.3):
    """A cosine of u cycles per pixel downward and v across, (3, side, side)."""
    y, x = torch.meshgrid(*2 * [torch.arange(side, dtype=torch.float64)], indexing="ij")
    return torch.cos(2 * math.pi * (u * y + v * x) + phase).expand(3, -1, -1)


def bands_naively(w, edges):
    """The energy of one filter (3, k, k) by band, one frequency after another."""
    k, totals = w.shape[1], [0.0] * (len(edges) + 1)
    for m in range(64):
        for n in range(64):
            u, v = (f / 64 if f <= 32 else f / 64 - 1 for f in (m, n))
            band = sum(math.hypot(u, v) >= edge for edge in edges)
            for plane in w:
                value = sum(
                    complex(plane[y, x]) * complex(math.cos(a), math.sin(a))
                    for y in range(k)
                    for x in range(k)
                    for a in [-2 * math.pi * (u * y + v * x)]
                )
                totals[band] += abs(value) ** 2
    return torch.tensor(totals) / sum(totals)


def test_bands_are_those_of_a_sum_over_frequencies():
    w = torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = bands_naively(w[0], (1 / 6, 1 / 3))
    torch.testing.assert_close(band_shares(w)[0].float(), expected.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("u", "v", "band"), [(0.02, 0, 0), (0, 0.1, 0), (0.25, 0, 1), (0.15, 0.2, 1), (0.5, 0, 2)]
)
def test_a_wave_lies_in_the_band_of_its_frequency(u, v, band):
    shares = band_shares(wave(32, u, v)[None])[0]
    assert shares.argmax() == band
    assert shares[band] > 0.8
    assert shares.sum() == pytest.approx(1)


def test_strength_and_mean_do_not_change_the_measure_of_a_filter():
    w = torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(band_shares(w), band_shares(-5 * w))


def test_a_filter_of_zeros_has_no_bands():
    assert band_shares(torch.zeros(1, 3, 7, 7)).isnan().all()


def test_a_filter_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match=r"filters are \(65, 65\); up to 64 × 64"):
        band_shares(torch.zeros(1, 3, 65, 65))


def test_a_filter_is_flat_beside_the_strongest():
    w = torch.ones(3, 3, 7, 7) * torch.tensor([1.0, 0.05, 0.2])[:, None, None, None]
    assert flat(w).tolist() == [False, True, False]


def imprint_naively(projection, period):
    """Energy by phase, pixel after pixel."""
    _, height, width = projection.shape
    energy = [0.0] * period**2
    for y in range(height // period * period):
        for x in range(width // period * period):
            energy[y % period * period + x % period] += float(projection[:, y, x].square().sum())
    mean = sum(energy) / len(energy)
    deviation = math.sqrt(sum((e - mean) ** 2 for e in energy) / len(energy))
    return deviation / mean / math.sqrt(period**2 - 1)


@given(st.integers(0, 99), st.integers(2, 5), st.integers(5, 13), st.integers(5, 13))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_the_imprint_is_that_of_a_loop_over_pixels(seed, period, height, width):
    pictures = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    for picture, found in zip(pictures, grid_imprint(pictures, period).tolist(), strict=True):
        assert found == pytest.approx(imprint_naively(picture, period), rel=1e-6)


@pytest.mark.parametrize("period", [2, 4])
def test_only_a_grid_leaves_an_imprint(period):
    smooth = wave(56, 0.01, 0.02)[None]
    grid = torch.zeros(56, 56)
    grid[1::period, 1::period] = 1
    noise = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    assert grid_imprint(smooth * grid, period) == pytest.approx(1)
    assert grid_imprint(smooth, period) < 0.05
    assert grid_imprint(noise, period) < 0.05


def test_strength_leaves_the_imprint_as_it_is_and_zeros_have_none():
    noise = torch.randn(1, 3, 40, 44, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(grid_imprint(noise, 4), grid_imprint(-100 * noise, 4))
    assert grid_imprint(torch.zeros(1, 3, 40, 40), 2).isnan().all()


@pytest.mark.parametrize("period", [1, 9])
def test_a_period_that_does_not_fit_is_refused(period):
    with pytest.raises(ValueError, match="from 2 to 8"):
        grid_imprint(torch.zeros(1, 3, 8, 20), period)


# ------------------------------------------------------------------------------ projections of a layer
def test_every_map_that_answers_is_projected_from_the_picture_it_answers_to_most():
    torch.manual_seed(0)
    network = build("fig5-7x7-2", width=0.1).eval()
    initialize_(network, "he")
    torch.nn.init.constant_(network.features[4].bias, -1e9)  # layer 2 is silent, but for two maps
    network.features[4].bias.data[[3, 7]] = 0
    pictures, net = torch.randn(5, 3, 56, 56), Deconvnet(network)
    found = strongest_projections(net, pictures, "features.5")
    assert len(found) == 2
    for channel, projection in zip((3, 7), found, strict=True):
        maps = net.activations(pictures, ["features.5"])["features.5"][:, channel]
        best = max(range(5), key=lambda n: maps[n].max())
        expected = net.project(pictures[best : best + 1], "features.5", channel, "map")[0]
        torch.testing.assert_close(projection, expected)
