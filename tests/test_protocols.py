"""How transferred features are judged: the protocols of §5.2, by hand and against scikit-learn."""

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from test_transfer import by_scikit

from zfcore.protocols import (
    average_precision,
    draw_split,
    few_shot,
    mean_average_precision,
    paired,
    per_class_accuracy,
    write_submission,
)
from zfcore.transfer import fit_softmax


def test_a_split_holds_what_the_protocol_asks_for():
    labels = torch.arange(4).repeat_interleave(torch.tensor([31, 40, 100, 200]))
    split = draw_split(labels, 0)
    assert labels[split.train].bincount().tolist() == [30, 30, 30, 30]
    assert labels[split.test].bincount().tolist() == [1, 10, 50, 50]
    assert not set(split.train.tolist()) & set(split.test.tolist())
    for k in (1, 15, 30):
        assert labels[split.train[split.rank < k]].bincount().tolist() == [k] * 4


def test_a_class_draws_the_same_pictures_whatever_the_others_do():
    labels = torch.arange(3).repeat_interleave(60)
    whole, without = draw_split(labels, 1), draw_split(labels.masked_fill(labels == 1, -1), 1)
    assert set(without.train.tolist()) == {i for i in whole.train.tolist() if labels[i] != 1}
    assert draw_split(labels, 1).train.tolist() != draw_split(labels, 2).train.tolist()


def test_pictures_left_out_take_no_part():
    labels = torch.zeros(50, dtype=torch.int64)
    leave_out = torch.arange(50) < 10
    split = draw_split(labels, 0, leave_out=leave_out)
    assert min([*split.train.tolist(), *split.test.tolist()]) >= 10


def test_a_class_without_a_picture_to_test_is_named():
    with pytest.raises(ValueError, match="class 0 has 30 pictures: with 30 to train on none is left"):
        draw_split(torch.zeros(30, dtype=torch.int64), 0)


def test_accuracy_is_the_mean_over_classes_not_pictures():
    labels, predicted = torch.tensor([0] * 9 + [1]), torch.zeros(10, dtype=torch.int64)
    assert per_class_accuracy(predicted, labels).tolist() == [100, 0]


def numbered(*accuracies):
    return dict(enumerate(accuracies))


def test_a_paired_interval_is_wider_than_the_spread_of_independent_runs():
    found = paired(numbered(60, 61, 62, 63, 64), numbered(50, 50, 52, 52, 54), ratio=0.97)
    assert found.mean == pytest.approx(10.4)
    half = 2.7764 * found.deviation * (1 / 5 + 0.97) ** 0.5  # Nadeau & Bengio, eq. 5, with t of four degrees
    assert found.interval == pytest.approx((10.4 - half, 10.4 + half), abs=1e-3)
    assert paired(numbered(60, 61, 62, 63, 64, 0), numbered(50, 50, 52, 52, 54), 0.97) == found
    with pytest.raises(ValueError, match="1 of 2 and 2 splits are the same; two are needed"):
        paired({0: 1.0, 1: 2.0}, {1: 2.0, 2: 3.0}, 1)


HAND = [
    # The only two hits come first and third: precision 1, then 2/3.
    ([0.9, 0.8, 0.7, 0.6], [1, -1, 1, -1], (6 * 1 + 5 * 2 / 3) / 11, 0.5 * 1 + 0.5 * 2 / 3),
    # A hit that comes late is lifted by none after it; the one before it is lifted to 2/4.
    ([0.9, 0.8, 0.7, 0.6], [-1, -1, 1, 1], 0.5, 0.5),
    # What is difficult is as if it were not there.
    ([0.9, 0.85, 0.8, 0.7], [0, 1, -1, 1], (6 * 1 + 5 * 2 / 3) / 11, 0.5 * 1 + 0.5 * 2 / 3),
    ([0.3, 0.2, 0.1], [1, 1, -1], 1, 1),
    # Of equal scores the first counts as surer.
    ([0.5, 0.5], [-1, 1], 0.5, 0.5),
]


@pytest.mark.parametrize(("scores", "truth", "points", "area"), HAND)
def test_average_precision_of_cases_worked_out_by_hand(scores, truth, points, area):
    scores, truth = torch.tensor(scores), torch.tensor(truth)
    assert average_precision(scores, truth, "11-point") == pytest.approx(points)
    assert average_precision(scores, truth, "area") == pytest.approx(area)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any))
def test_the_area_is_scikit_learns_where_precision_only_falls(hits):
    truth = np.array([1 if hit else -1 for hit in hits])
    scores = -np.arange(len(hits)) / 100
    ours = average_precision(torch.from_numpy(scores), torch.from_numpy(truth), "area")
    plain = average_precision_score(truth == 1, scores)
    precision = (np.cumsum(truth == 1) / np.arange(1, len(truth) + 1))[truth == 1]
    if (np.diff(precision) <= 1e-12).all():
        assert ours == pytest.approx(plain)
    else:
        assert ours > plain - 1e-12


def test_the_interval_of_the_mean_precision_is_as_wide_as_other_pictures_would_make_it():
    draw = torch.Generator().manual_seed(3)

    def pictures(n, classes=4):
        truth = torch.where(torch.rand(n, classes, generator=draw) < 0.2, 1, -1)
        return torch.randn(n, classes, generator=draw, dtype=torch.float64) + 1.5 * (truth == 1), truth

    others = [
        statistics.fmean(
            100 * average_precision(s, t, "area") for s, t in zip(*map(torch.t, pictures(150)), strict=True)
        )
        for _ in range(200)
    ]
    widths = []
    for _ in range(5):
        mean, (low, high) = mean_average_precision(*pictures(150), "area", draws=200)
        assert low < mean < high
        widths.append(high - low)
    assert statistics.fmean(widths) == pytest.approx(2 * 1.96 * statistics.stdev(others), rel=0.2)


def test_a_ranking_without_a_fault_has_no_spread():
    truth = torch.tensor([[1, -1]] * 4 + [[-1, 1]] * 4)
    assert mean_average_precision(truth.double(), truth, "area", draws=50) == (100.0, (100.0, 100.0))


def test_average_precision_refuses_what_has_none():
    with pytest.raises(ValueError, match="no picture shows the class"):
        average_precision(torch.zeros(2), torch.tensor([0, -1]), "area")
    with pytest.raises(ValueError, match="known: 11-point"):
        average_precision(torch.zeros(2), torch.tensor([1, -1]), "mean")


def test_the_evaluation_server_gets_a_line_for_every_picture(tmp_path):
    paths = write_submission(tmp_path, ["2008_000001", "2008_000004"], torch.rand(2, 20), "test")
    assert len(paths) == 20
    assert paths[0].name == "comp2_cls_test_aeroplane.txt"
    names, scores = zip(*(line.split() for line in paths[3].read_text().splitlines()), strict=True)
    assert names == ("2008_000001", "2008_000004")
    assert all(0 <= float(score) <= 1 for score in scores)


def test_the_evaluation_server_gets_the_ranking_that_the_scores_have(tmp_path):
    scores = torch.tensor([1e-8, 3e-8, 0.9999999, 1.0])[:, None].expand(4, 20)
    path, *_ = write_submission(tmp_path, "abcd", scores, "test")
    told = [float(line.split()[1]) for line in path.read_text().splitlines()]
    assert torch.equal(torch.tensor(told), scores[:, 0])


def test_a_class_that_is_too_small_is_told_by_its_name():
    with pytest.raises(ValueError, match="class wombat has 30 pictures"):
        draw_split(torch.ones(30, dtype=torch.int64), 0, names=("ant", "wombat"))


def test_few_shot_curves_rise():
    labels = torch.arange(3).repeat_interleave(40)
    x = torch.randn(120, 10, generator=torch.Generator().manual_seed(0)) + 1.5 * torch.eye(10)[labels]
    curve = few_shot({"x": x}, labels, (1, 30), draws=3)["x"]
    assert curve[1][1] > curve[0][1] > 33


def test_a_few_shot_curve_is_the_mean_over_its_splits():
    labels = torch.arange(3).repeat_interleave(40)
    x = torch.randn(120, 10, generator=torch.Generator().manual_seed(0)).double() + torch.eye(10)[labels]
    found = few_shot({"x": x, "half": x[:, :2]}, labels, (2, 9), draws=4)
    assert list(found) == ["x", "half"]
    for (size, mean, deviation), k in zip(found["x"], (2, 9), strict=True):
        accuracies = []
        for number in range(4):
            split = draw_split(labels, number, most=9)
            rows = split.train[split.rank < k]
            assert len(rows) == 3 * k
            inputs, targets = x[rows].numpy(), labels[rows].numpy()
            strength = fit_softmax(x[rows], labels[rows]).strength
            head = by_scikit("softmax", inputs, targets, strength)
            right = head.predict(x[split.test].numpy()) == labels[split.test].numpy()
            of_class = [right[labels[split.test].numpy() == c].mean() for c in range(3)]
            accuracies.append(100 * np.mean(of_class))
        assert (size, mean) == (k, pytest.approx(np.mean(accuracies)))
        assert deviation == pytest.approx(np.std(accuracies, ddof=1))
