"""The claims on invariance as numbers: known answers, and a whole run over a few patches."""

import numpy as np
import pytest
import torch
from scipy import stats

from zfcore.data import patches, to_input
from zfcore.invariance import amounts, feature_scales
from zfcore.model import build, initialize_
from zfcore.selectivity import layer_ends, untrained
from zfcore.stability import exponent, five, invariance_entries, linearity, one_side, summary, turned
from zfcore.view import Viewer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_line_through_the_origin_has_an_r_squared_of_1():
    amount = torch.arange(6.0).double()
    fits = linearity(torch.stack([3 * amount, amount.sqrt(), amount.clamp(max=1)]), amount)
    assert fits[0] == pytest.approx(1)
    assert 1 > fits[1] > fits[2]
    slope = float((amount.sqrt() @ amount) / (amount @ amount))
    left_over = (amount.sqrt() - slope * amount).square().sum()
    assert fits[1] == pytest.approx(float(1 - left_over / (6 * amount.sqrt().var(correction=0))))


def test_a_bend_that_a_line_nearly_fits_is_told_by_its_exponent():
    amount = torch.arange(6.0).double()
    found = exponent(torch.stack([3 * amount, 2 * amount.sqrt(), amount**1.5]), amount)
    assert found.tolist() == pytest.approx([1, 0.5, 1.5])


def test_one_side_of_a_range_begins_with_nothing():
    kept, away = one_side("translate", amounts("translate", 224))
    assert away.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert kept == [6, 7, 8, 9, 10, 11, 12]
    kept, away = one_side("scale", amounts("scale", 224))
    assert away.numpy() == pytest.approx([n / 10 for n in range(9)])
    assert kept[0] == 0


def curves(slopes, pictures=30):
    """Relative distances that grow with the amount one slope a layer, and vary with the picture."""
    values = amounts("scale", 56)
    factors = 1 + 0.1 * torch.rand(pictures, 1, generator=torch.Generator().manual_seed(0)).double()
    away = torch.tensor(values).double() - 1
    return {f"layer {n}": slope * away * factors for n, slope in enumerate(slopes, 1)}, values


def test_features_that_move_less_with_depth_are_told():
    relative, values = curves([4, 3, 2, 1])
    found = summary(relative, "scale", values)
    for words, amount in (("small", 1.1), ("large", 1.8)):
        assert found[words]["amount"] == pytest.approx(amount)
        assert found[words]["first minus last"]["low"] > 0
        assert found[words]["rank correlation with depth"]["mean"] == pytest.approx(-1)
        assert found[words]["layers"]["layer 2"]["mean"] == pytest.approx(3 * (amount - 1) * 1.05, rel=0.05)
    assert found["linearity"]["layers"]["layer 1"]["mean"] == pytest.approx(1)
    assert found["linearity"]["exponents"]["layer 4"]["mean"] == pytest.approx(1)
    assert [step["high"] < 0 for step in found["small"]["steps"]] == [True] * 3
    assert found["curves"]["layer 3"]["mean"][0] == 0
    assert len(found["curves"]["layer 3"]["low"]) == 9


def test_features_that_move_alike_show_no_growth():
    relative, values = curves([2, 2.001, 1.999, 2])
    found = summary(relative, "scale", values)["small"]["first minus last"]
    assert found["mean"] == pytest.approx(0, abs=1e-9)


def test_the_rank_correlation_is_the_mean_over_pictures():
    draw = torch.Generator().manual_seed(0)
    relative = {f"layer {n}": torch.rand(12, 9, generator=draw).double() for n in range(1, 6)}
    found = summary(relative, "scale", amounts("scale", 56))["small"]["rank correlation with depth"]
    expected = [stats.spearmanr(range(5), [d[n, 1] for d in relative.values()]).statistic for n in range(12)]
    assert found["mean"] == pytest.approx(np.mean(expected))


def test_rotation_leaves_symmetric_pictures_their_class():
    symmetry = torch.linspace(0, 1, 50)
    known = torch.ones(50, dtype=torch.bool)
    known[:10] = False
    upright = torch.full((50, 1), 0.8).double()
    true = torch.cat([upright, 0.8 * symmetry[:, None].double().expand(-1, 5)], 1)
    found = turned(true, symmetry, known)
    assert found["symmetric"]["pictures"] == 4
    assert found["ordinary"]["pictures"] == 36
    assert found["symmetric"]["kept"]["mean"] == pytest.approx(float(symmetry[-4:].mean()))
    assert found["rank correlation"]["rho"] == pytest.approx(1)
    assert found["symmetric above ordinary"]["p"] < 0.01


def test_a_network_that_knows_no_picture_keeps_none():
    found = turned(torch.rand(5, 3).double(), torch.rand(5), torch.zeros(5, dtype=torch.bool))
    assert found == {"symmetric": {"pictures": 0}, "ordinary": {"pictures": 0}}


def test_the_five_begin_with_the_most_symmetric_sure_one():
    symmetry = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.3, 0.4, 0.8])
    sure = torch.tensor([False, True, True, True, True, True, True])
    chosen = five(symmetry, sure)
    assert chosen[0] == 6
    assert len(set(chosen)) == 5
    assert 0 not in chosen
    assert five(symmetry, ~sure) == [0]
    assert five(symmetry, sure & ~sure) == []


def test_every_row_of_the_ledger_is_measured():
    torch.manual_seed(7)  # the control's is 0
    model = build("zfnet-64", 10, width=0.1)
    initialize_(model, "he")
    card = {"architecture": "zfnet-64", "num_classes": 10, "width": 0.1, "sha256": "0" * 64}
    card |= {"input_size": 56, "resize": 64, "scale": 64.0, "mean": torch.full((3, 64, 64), 118.0)}
    viewer = Viewer(model.eval(), card)
    entries = list(invariance_entries(viewer, patches("val"), many=20))
    assert [entry["row"] for entry in entries] == ["many", "five", "many, random weights"]
    assert [entry["n"] for entry in entries][::2] == [20, 4]
    values = entries[0]["values"]
    assert list(values["scales"]) == [f"layer {n}" for n in range(1, 8)]
    for transform in ("translate", "scale", "rotate"):
        nothing = values[transform]["amounts"].index(1.0 if transform == "scale" else 0.0)
        assert len(values[transform]["true class"]["mean"]) == len(values[transform]["amounts"])
        assert all(c["mean"][nothing] < 1e-6 for c in values[transform]["curves"].values())
    assert "linearity" not in values["rotate"]
    blank = untrained(viewer)
    numbers = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:20].sort().values[::5]
    x = to_input(patches("val").pixels[numbers].permute(0, 2, 3, 1), card)
    path = layer_ends(blank.model)["layer 3"]
    spread = feature_scales(blank.model, x, [path])[path].spread
    assert entries[2]["values"]["scales"]["layer 3"]["spread"] == pytest.approx(spread, rel=1e-4)
