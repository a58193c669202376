"""Warped pictures against SciPy's, curves against a loop, and answers that are known beforehand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zfcore.invariance import (
    TRANSFORMS,
    amounts,
    feature_scales,
    invariance_curves,
    rotational_symmetry,
    warp,
)
from zfcore.trace import trace

steady = settings(deadline=None, derandomize=True, max_examples=40)
LAYERS = ["1", "2", "5"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(216, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5),
    ).double()  # fmt: skip


def pictures(n=7, side=12):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1)).double()


def rings(side):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return torch.from_numpy(np.cos(np.hypot(y, x) / 2))[None, None].expand(1, 3, side, side)


# ------------------------------------------------------------------------------ the naive twins
def lanczos(distance):
    return np.sinc(distance) * np.sinc(distance / 5) if abs(distance) < 5 else 0.0


def plain_warp(image, transform, value):
    """The same warp, one pixel at a time: where does it come from, and what stands around there?"""
    planes, height, width = image.shape
    warped = np.zeros(image.shape)
    angle = math.radians(value)
    for row in range(height):
        for column in range(width):
            y, x = row - (height - 1) / 2, column - (width - 1) / 2
            y, x = {
                "translate": (y - value, x),
                "scale": (y / (value or 1), x / (value or 1)),
                "rotate": (
                    math.cos(angle) * y + math.sin(angle) * x,
                    math.cos(angle) * x - math.sin(angle) * y,
                ),
            }[transform]
            y, x = y + (height - 1) / 2, x + (width - 1) / 2
            inside = 1.0
            for place, extent in ((y, height), (x, width)):
                inside *= min(1.0, max(0.0, place + 1), max(0.0, extent - place))
            total = np.zeros(planes)
            weights = 0.0
            for i in range(math.floor(y) - 4, math.floor(y) + 6):
                for j in range(math.floor(x) - 4, math.floor(x) + 6):
                    weight = lanczos(i - y) * lanczos(j - x)
                    total += weight * image[:, min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
                    weights += weight
            warped[:, row, column] = inside * total / weights
    return warped


def loop(model, images, transform, values, layers):
    """One picture, one amount at a time."""
    followed, model = trace(model), model.eval()
    distances = {layer: torch.zeros(len(images), len(values)).double() for layer in layers}
    probabilities = torch.zeros(len(images), len(values), 5).double()
    for n, image in enumerate(images):
        before = followed.activations(image[None], layers)
        for v, value in enumerate(values):
            moved = torch.from_numpy(plain_warp(image.numpy(), transform, value))[None]
            after = followed.activations(moved, layers)
            for layer in layers:
                distances[layer][n, v] = (after[layer] - before[layer]).square().sum().sqrt()
            probabilities[n, v] = model(moved)[0].softmax(0)
    return distances, probabilities


@steady
@given(
    st.sampled_from(TRANSFORMS),
    st.floats(-400, 400),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_a_picture_is_warped_as_pixel_by_pixel(transform, value, size):
    value = {"translate": value / 40, "scale": 0.3 + abs(value) / 100, "rotate": value}[transform]
    image = torch.randn(2, *size, generator=torch.Generator().manual_seed(0)).double()
    found = warp(image[None], transform, value)[0]
    np.testing.assert_allclose(found, plain_warp(image.numpy(), transform, value), atol=1e-9)


@pytest.mark.parametrize(
    ("transform", "values"), [("translate", [-3, 0, 1.5]), ("scale", [1.0, 1.4]), ("rotate", [90, 33])]
)
@torch.no_grad()
def test_curves_are_those_of_a_loop_over_pictures_and_amounts(transform, values):
    model, images = network(), pictures()
    distances, probabilities = invariance_curves(model, images, transform, values, LAYERS, batch_size=3)
    expected, said = loop(network(), images, transform, values, LAYERS)
    for layer in LAYERS:
        torch.testing.assert_close(distances[layer], expected[layer], atol=1e-8, rtol=1e-7)
    torch.testing.assert_close(probabilities, said, atol=1e-8, rtol=1e-7)
    assert model.training


@torch.no_grad()
def test_the_spread_is_the_mean_over_all_pairs_of_pictures():
    model, images = network(), pictures()
    features = trace(model).activations(images, LAYERS)
    scales = feature_scales(model, images, LAYERS, batch_size=3)
    for layer in LAYERS:
        f = features[layer].flatten(1)
        pairs = [(f[i] - f[j]).square().sum() for i in range(7) for j in range(7) if i != j]
        assert scales[layer].spread == pytest.approx(float(torch.stack(pairs).mean().sqrt()), rel=1e-9)
        torch.testing.assert_close(scales[layer].norms, f.norm(dim=1))


def test_a_network_that_ends_in_a_softmax_is_asked_for_its_logits():
    model = nn.Sequential(network(), nn.Softmax(1))
    with pytest.raises(ValueError, match="ends in a softmax"):
        invariance_curves(model, pictures(), "translate", [1], [])


# ------------------------------------------------------------------------------ known answers
@pytest.mark.parametrize(("transform", "nothing"), [("translate", 0), ("scale", 1), ("rotate", 0)])
def test_a_transformation_by_nothing_moves_nothing(transform, nothing):
    images = pictures().float()
    assert torch.equal(warp(images, transform, nothing), images)
    distances, _ = invariance_curves(network().float(), images, transform, [nothing], LAYERS)
    assert not any(distances[layer].any() for layer in LAYERS)


def test_a_full_turn_comes_back():
    images = pictures()
    torch.testing.assert_close(warp(images, "rotate", 360), images)
    distances, _ = invariance_curves(network(), images, "rotate", [360], LAYERS)
    assert all(distances[layer].max() < 1e-9 for layer in LAYERS)


def test_a_quarter_turn_is_counter_clockwise():
    images = pictures()
    torch.testing.assert_close(warp(images, "rotate", 90), torch.rot90(images, 1, (2, 3)))


def test_a_shift_by_whole_pixels_is_exact_and_downward():
    images = pictures().float()
    shifted = warp(images, "translate", 3)
    assert torch.equal(shifted[:, :, 3:], images[:, :, :-3])
    assert shifted[:, :, :3].abs().max() < 1e-12


@pytest.mark.parametrize(("transform", "value"), [("translate", 2.5), ("scale", 1.3), ("rotate", 33)])
def test_a_wave_is_moved_as_its_formula_says(transform, value):
    # Four pixels a wave, far from the border: linear interpolation loses a third of it between pixels.
    def wave(y, x):
        return torch.sin(2 * math.pi / 3 * 0.8 * y) + torch.cos(2 * math.pi / 3 * 0.7 * x)

    y, x = torch.meshgrid(*[torch.arange(61.0).double() - 30] * 2, indexing="ij")
    cosine, sine = math.cos(math.radians(value)), math.sin(math.radians(value))
    expected = {
        "translate": wave(y - value, x),
        "scale": wave(y / value, x / value),
        "rotate": wave(cosine * y + sine * x, cosine * x - sine * y),
    }[transform]
    found = warp(wave(y, x)[None, None], transform, value)[0, 0]
    middle = slice(20, 41)
    assert (found - expected)[middle, middle].abs().max() < 0.06


def test_the_border_is_filled_with_the_mean():
    shrunk = warp(torch.ones(1, 1, 8, 8), "scale", 0.25)[0, 0]
    assert not shrunk[0].any()
    assert not shrunk[:, -1].any()
    assert shrunk[3, 3] == 1


def test_enlarging_shows_the_middle_larger():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    assert warp(image, "scale", 2).sum() > 2 * warp(image, "scale", 1).sum() == 2


def test_rings_are_symmetric_and_stripes_are_not():
    stripes = torch.sin(torch.arange(31.0)).expand(1, 3, 31, 31).double()
    scores = rotational_symmetry(torch.cat([rings(31), stripes, torch.ones(1, 3, 31, 31)]))
    assert scores[0] > 0.95
    assert abs(scores[1]) < 0.3
    assert scores[2] == 0


def test_a_cast_of_colour_is_no_symmetry():
    noise = torch.randn(1, 3, 31, 31, generator=torch.Generator().manual_seed(0)).double()
    cast = torch.tensor([3.0, 0.0, -3.0])[:, None, None]
    scores = rotational_symmetry(torch.cat([noise, noise + cast, cast.double().expand(1, 3, 31, 31)]))
    assert scores[1] == pytest.approx(scores[0].item())
    assert abs(scores[2]) < 1e-9


def test_symmetry_is_the_mean_correlation_over_the_disc():
    images = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).double()
    found = rotational_symmetry(images, (10, 90, 200))
    disc = np.array([[math.hypot(y - 4, x - 5) <= 4 for x in range(11)] for y in range(9)])
    for image, score in zip(images.numpy(), found.tolist(), strict=True):
        turned = [plain_warp(image, "rotate", angle) for angle in (10, 90, 200)]
        patterns = [p[:, disc] - p[:, disc].mean(1, keepdims=True) for p in (image, *turned)]
        alike = [np.corrcoef(patterns[0].ravel(), other.ravel())[0, 1] for other in patterns[1:]]
        assert score == pytest.approx(np.mean(alike))


def test_the_features_of_rings_hardly_turn():
    y, x = np.mgrid[:31, :31] - 15
    fading = torch.from_numpy(np.exp(-(y**2 + x**2) / 50))  # so that no corner leaves the picture
    noise = torch.randn(1, 3, 31, 31, generator=torch.Generator().manual_seed(0)).double()
    both = torch.cat([rings(31), noise]) * fading
    model = nn.Sequential(nn.AvgPool2d(3), nn.Flatten()).double()
    distances, _ = invariance_curves(model, both, "rotate", [30, 200], ["1"])
    relative = distances["1"] / feature_scales(model, both, ["1"])["1"].norms[:, None]
    assert (relative[0] < 0.1).all()
    assert (relative[1] > 0.5).all()


def test_what_depends_on_sums_alone_does_not_notice_a_shift():
    image = torch.zeros(1, 3, 12, 12).double()
    image[:, :, 5:7, 5:7] = pictures(1)[:, :, :2, :2]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    distances, _ = invariance_curves(model, image, "translate", range(-4, 5), ["1"])
    assert distances["1"].max() < 1e-9


def test_the_papers_ranges_are_scaled_to_the_picture():
    assert amounts("translate", 224) == list(range(-60, 61, 10))
    assert amounts("translate", 56) == [-15, -12, -10, -8, -5, -2, 0, 2, 5, 8, 10, 12, 15]
    assert amounts("scale", 56)[-1] == 1.8
    assert amounts("rotate", 56)[-1] == 350


class WithMaps(nn.Module):
    """Logits, and beside them what comes after them in the graph: with ``both``, both are returned."""

    def __init__(self, both):
        super().__init__()
        self.network, self.both = network(), both

    def forward(self, x):
        logits = self.network(x)
        aside = logits.exp()
        return (logits, aside) if self.both else logits


def test_the_probabilities_are_those_of_what_the_network_returns():
    found = invariance_curves(WithMaps(False), pictures(2), "scale", [1, 1.4], [])[1]
    torch.testing.assert_close(found, invariance_curves(network(), pictures(2), "scale", [1, 1.4], [])[1])
    with pytest.raises(ValueError, match="wrap it in a module that returns its logits alone"):
        invariance_curves(WithMaps(True), pictures(2), "scale", [1, 1.4], [])


# ------------------------------------------------------------------------------ what is refused
def test_distances_of_half_precision_do_not_overflow():
    loud = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    x = 500 * torch.randn(1, 3, 24, 24)
    loud(x)
    exact, _ = invariance_curves(loud, x, "translate", [3], ["0"])
    found, probabilities = invariance_curves(loud.half(), x.half(), "translate", [3], ["0"])
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(found["0"], exact["0"], rtol=0.01, atol=0)


def test_unknown_names_are_told_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown transformation 'shear'; known: translate, scale, rotate"):
        invariance_curves(network(), pictures(), "shear", [1], LAYERS)
    with pytest.raises(ValueError, match="no layer 'top'; this network has: 0, 1"):
        invariance_curves(network(), pictures(), "scale", [1], ["top"])
    with pytest.raises(ValueError, match="the scale is 0; a factor above 0"):
        warp(pictures(), "scale", 0)
    with pytest.raises(ValueError, match="give floats"):
        warp(pictures().to(torch.uint8), "scale", 1)
    with pytest.raises(ValueError, match="there are no pictures"):
        invariance_curves(network(), pictures()[:0], "scale", [1], LAYERS)
    with pytest.raises(ValueError, match="needs two of them; got 1"):
        feature_scales(network(), pictures(1), LAYERS)
