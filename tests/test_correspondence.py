"""Δ against two loops over pictures and one over units, and against numbers worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zfcore.correspondence import Comparison, correspondence, jackknife
from zfcore.model import build, initialize_

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------ the naive twin
def sign(a, b, largest):
    """Of a - b, where rounding counts as no change."""
    if abs(a - b) <= 32 * torch.finfo(torch.float64).eps * largest:
        return 0
    return 1 if a > b else -1


def naive_delta(features, images, boxes, fill, units):
    """The mean over ordered pairs of the share of units whose signs differ; ``units`` says which count."""
    covered = images.clone()
    for n, (top, left, height, width) in enumerate(boxes):
        covered[n, :, top : top + height, left : left + width] = fill
    x, y = features(images).flatten(1).tolist(), features(covered).flatten(1).tolist()
    signs = [
        [sign(a, b, max(map(abs, p))) for a, b in zip(p, q, strict=True)] for p, q in zip(x, y, strict=True)
    ]
    total, n = 0.0, len(x)
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            differ = count = 0
            for d in range(len(x[0])):
                counts = {
                    "every": True,
                    "active": any(v != 0 for v in (x[i][d], y[i][d], x[j][d], y[j][d])),
                    "changed": signs[i][d] != 0 or signs[j][d] != 0,
                }[units]
                count += counts
                differ += counts and signs[i][d] != signs[j][d]
            total += differ / count if count else 0.0
    return total / (n * (n - 1))


@st.composite
def cases(draw):
    n, side = draw(st.integers(2, 4)), draw(st.integers(6, 9))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    boxes = []
    for _ in range(n):
        height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
        boxes.append([draw(st.integers(0, side - height)), draw(st.integers(0, side - width)), height, width])
    return torch.randn(n, 2, side, side).double(), boxes, draw(st.sampled_from([0.0, 1.5]))


@settings(deadline=None, derandomize=True, max_examples=15)
@given(cases())
def test_delta_is_what_the_loops_give(case):
    images, boxes, fill = case
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5), nn.ReLU())
    model = model.double().eval()
    model(images)  # the lazy layer learns its size
    found = correspondence(model, images, {"part": torch.tensor(boxes)}, ["1", "4"], fill=fill, draws=1)
    for layer, features in (("1", model[:2]), ("4", model)):
        for units, comparison in found[layer]._asdict().items():
            with torch.no_grad():
                expected = naive_delta(features, images, boxes, fill, units)
            assert comparison.delta["part"] == pytest.approx(expected, abs=1e-12), (layer, units)


# ------------------------------------------------------------------------------ by hand
def pictures(*rows):
    return torch.tensor(rows, dtype=torch.float64)[:, None, None]  # (N, 1, 1, W)


def test_a_case_worked_out_by_hand():
    # The layer is the picture itself, of four units; the square covers the first two with zero.
    images = pictures([1, 2, 0, 5], [3, -1, 0, 5], [0, 4, 0, 5])
    model = nn.Sequential(nn.Identity())
    part = {"part": torch.tensor([[0, 0, 1, 2]] * 3)}
    found = correspondence(model, images, part, ["0"], draws=1)["0"]
    # Signs of what is taken away: (1, 1, 0, 0), (1, -1, 0, 0), (0, 1, 0, 0). Pairs differ at 1, 1, 2 units.
    assert found.every.delta["part"] == pytest.approx((1 + 1 + 2) / 3 / 4)
    # Active is all but the third unit; changed are the first two in every pair.
    assert found.active.delta["part"] == pytest.approx((1 + 1 + 2) / 3 / 3)
    assert found.changed.delta["part"] == pytest.approx((1 + 1 + 2) / 3 / 2)
    # Without the first picture its pairs go: 2 differ of the other pair.
    assert found.every.without["part"].tolist() == pytest.approx([2 / 4, 1 / 4, 1 / 4])


def test_a_part_that_changes_nothing_agrees_wholly():
    images = pictures([0, 1], [0, 2])
    found = correspondence(
        nn.Sequential(nn.Identity()), images, {"p": torch.tensor([[0, 0, 1, 1]] * 2)}, ["0"]
    )
    assert [c.delta["p"] for c in found["0"]] == [0, 0, 0]


def test_rounding_is_no_change():
    class Tilted(nn.Module):  # one unit sees the square through a weight that only rounding notices
        def forward(self, x):
            return torch.cat([x.flatten(1)[:, 1:] + 1e-9 * x.flatten(1)[:, :1], x.flatten(1)[:, :1]], 1)

    images = pictures([1, 9], [-1, 9]).float()
    found = correspondence(Tilted(), images, {"p": torch.tensor([[0, 0, 1, 1]] * 2)}, ["cat"], draws=1)
    assert found["cat"].every.delta["p"] == pytest.approx(
        1 / 2
    )  # the second unit differs, the first does not


# ------------------------------------------------------------------------------ compared to what
def part_pictures(n, same):
    """n pictures of noise with a bright spot at a place of its own each (or the same), and its boxes."""
    torch.manual_seed(0)
    images = 0.1 * torch.randn(n, 1, 12, 12).double()
    corners = torch.tensor([[2, 6]] * n) if same else torch.randint(0, 9, (n, 2))
    for picture, (top, left) in zip(images, corners.tolist(), strict=True):
        picture[:, top : top + 3, left : left + 3] += 5
    return images, torch.cat((corners, torch.full((n, 2), 3)), 1)


def test_a_part_that_a_unit_knows_anywhere_is_more_consistent_than_random_places():
    # Units without a place: the sum over the map of what is bright. Noise changes it up or down.
    images, boxes = part_pictures(12, same=False)
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    found = correspondence(model, images, {"spot": boxes}, ["2"], draws=60)["2"].every
    assert found.delta["spot"] == 0
    assert found.p_value("random", "spot") == pytest.approx(1 / 61)
    gain, without = found.gain("random")
    assert gain == 1
    assert without.shape == (12,)


def test_random_places_stay_within_the_box_that_is_given():
    # Only the lower right quarter is bright: a square changes units there, and nothing elsewhere.
    images = torch.zeros(4, 1, 8, 8).double()
    images[:, :, 4:, 4:] = 1
    part = {"p": torch.tensor([[4, 4, 2, 2]] * 4)}
    model, quarter = nn.Sequential(nn.Identity()), torch.tensor([[4, 4, 4, 4]] * 4)
    options = {"draws": 40, "permutations": 1}
    inside, dark, anywhere = (
        correspondence(model, images, part, ["0"], within=within, **options)["0"].every.random["p"]
        for within in (quarter, torch.tensor([[0, 0, 4, 4]] * 4), None)
    )
    assert not dark.any()
    assert inside.min() > 0
    assert anywhere.mean() < inside.mean()
    exact = correspondence(model, images, part, ["0"], within=part["p"], **options)["0"].every
    assert not exact.random["p"].any()  # one place only, the part's own
    with pytest.raises(ValueError, match="a square of 'p' is larger than its box `within`; widen"):
        correspondence(model, images, part, ["0"], within=torch.tensor([[4, 4, 2, 1]] * 4))
    mixed = {"p": torch.tensor([[2, 2, 4, 4], [2, 2, 2, 2]])}
    with pytest.raises(ValueError, match="larger than the mean of the boxes `within`"):
        correspondence(model, images[:2], mixed, ["0"], within=mixed["p"])


def test_a_place_for_all_lies_in_the_mean_of_the_boxes():
    images = torch.zeros(2, 1, 8, 8).double()
    # Bright is the mean of the two boxes: wherever a square lies in it, all its units change.
    images[:, :, 2:6, 1:5] = 1
    within, part = torch.tensor([[1, 0, 4, 4], [3, 2, 4, 4]]), {"p": torch.tensor([[3, 2, 2, 2]] * 2)}
    model, options = nn.Sequential(nn.Identity()), {"draws": 20, "permutations": 1}
    images[1] *= -1  # two pictures that disagree on every unit which changes: 4 of 64
    found = correspondence(model, images, part, ["0"], within=within, **options)["0"].every
    assert found.shared["p"].tolist() == [4 / 64] * 20


def test_one_place_for_all_lies_at_the_same_share_of_the_room():
    # A layer that is the picture keeps places: at one place for all, the same units change everywhere.
    images = torch.rand(3, 1, 8, 8).double() + 1
    boxes = torch.tensor([[0, 0, 2, 2], [3, 3, 2, 2], [6, 6, 2, 2]])
    found = correspondence(nn.Sequential(nn.Identity()), images, {"p": boxes}, ["0"], draws=20)["0"].every
    assert found.shared["p"].tolist() == [0.0] * 20
    assert float(found.random["p"].max()) > 0
    assert found.p_value("shared", "p") == 1


def test_exchanged_names_are_worse_where_parts_differ_and_the_same_where_they_do_not():
    images = torch.rand(6, 1, 8, 8).double() + 1
    left, right = ([[3, x, 2, 2]] * 6 for x in (0, 6))
    parts = {"left": torch.tensor(left), "right": torch.tensor(right)}
    found = correspondence(nn.Sequential(nn.Identity()), images, parts, ["0"], draws=1, permutations=199)[
        "0"
    ].every
    assert found.delta == {"left": 0, "right": 0}
    assert found.p_value("mixed") <= 0.05
    same = {"a": torch.tensor(left), "b": torch.tensor(left)}
    found = correspondence(nn.Sequential(nn.Identity()), images, same, ["0"], draws=1, permutations=9)[
        "0"
    ].every
    assert found.p_value("mixed") == 1


def test_the_same_seed_gives_the_same_draws_and_another_one_others():
    model = build("zfnet-64", width=0.1)
    initialize_(model, "he")
    images = torch.randn(3, 3, 56, 56)
    parts = {"p": torch.tensor([[10, 10, 9, 9]] * 3)}
    one, again, other = (
        correspondence(model, images, parts, ["features.13"], draws=3, seed=seed)["features.13"].every.random[
            "p"
        ]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_parts_of_one_size_share_their_draws_and_others_do_not():
    images = torch.rand(3, 1, 8, 8).double()
    boxes = torch.tensor([[0, 0, 2, 2]] * 3)
    parts = {"a": boxes, "b": boxes + torch.tensor([1, 1, 0, 0]), "c": boxes + torch.tensor([0, 0, 1, 1])}
    found = correspondence(nn.Sequential(nn.Identity()), images, parts, ["0"], draws=5)["0"].every
    assert torch.equal(found.random["a"], found.random["b"])
    assert not torch.equal(found.random["a"], found.random["c"])


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = torch.randn(20, dtype=torch.float64)
    without = (x.sum() - x) / 19
    assert jackknife(without) == pytest.approx(float(x.std()) / 20**0.5)


def test_a_ratio_of_nothing_to_nothing_is_one():
    zeros = {"p": torch.zeros(3, dtype=torch.float64)}
    comparison = Comparison({"p": 0.0}, zeros, zeros, torch.zeros(1), zeros, zeros, zeros)
    assert comparison.gain("random")[0] == 0


# ------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 2, 2]], r"the boxes of 'p' are torch.int64 \(1, 4\); give integers, \(2, 4\)"),
        ([[0.0, 0, 2, 2]] * 2, "float32"),
        ([[0, 0, 2, 2], [7, 0, 2, 2]], r"on picture 1, \[7, 0, 2, 2\], is not inside its 8×8 pixels"),
        ([[0, 0, 0, 2]] * 2, "positive sizes"),
        ([[-1, 0, 2, 2]] * 2, "not inside"),
    ],
)
def test_a_box_that_does_not_fit_is_told(boxes, message):
    with pytest.raises(ValueError, match=message):
        correspondence(
            nn.Sequential(nn.Identity()), torch.rand(2, 1, 8, 8), {"p": torch.tensor(boxes)}, ["0"]
        )


def test_one_picture_corresponds_to_nothing():
    with pytest.raises(ValueError, match="1 pictures and 1 parts; give two"):
        correspondence(nn.Identity(), torch.rand(1, 1, 8, 8), {"p": torch.tensor([[0, 0, 1, 1]])}, ["0"])


def test_features_that_are_not_numbers_agree_on_nothing():
    boxes = {"p": torch.tensor([[0, 0, 2, 2]] * 2)}
    network = nn.Sequential(nn.Conv2d(1, 2, 1))
    with pytest.raises(ValueError, match="layer '0' has activations that are not numbers"):
        correspondence(network, torch.full((2, 1, 8, 8), torch.nan), boxes, ["0"])
    with pytest.raises(ValueError, match="no layer is given; there are: 0"):
        correspondence(network, torch.rand(2, 1, 8, 8), boxes, [])


def test_places_are_drawn_at_least_once():
    boxes = {"p": torch.tensor([[0, 0, 2, 2]]), "q": torch.tensor([[2, 2, 2, 2]])}
    with pytest.raises(ValueError, match="got draws=0"):
        correspondence(nn.Identity(), torch.rand(2, 1, 8, 8), boxes, ["0"], draws=0)
