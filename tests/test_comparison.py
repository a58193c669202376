"""Comparisons against simulation and scipy, and by hand."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from scipy import stats

from zfcore.comparison import interval, paired_contrast, paired_difference, rank_agreement


def test_two_networks_differ_by_the_pictures_on_which_they_differ():
    a, b = torch.zeros(1000, dtype=torch.bool), torch.zeros(1000, dtype=torch.bool)
    a[:300], b[260:320] = True, True  # a alone is wrong on 260, b alone on 20, both on 40
    found = paired_difference(a, b)
    variance = (260 + 20 - (260 - 20) ** 2 / 1000) / 999 / 1000  # of the mean of 260 ones and 20 minus-ones
    assert found.points == pytest.approx(24)
    assert found.standard_error == pytest.approx(100 * math.sqrt(variance))
    assert found.interval == pytest.approx((24 - 2 * found.standard_error, 24 + 2 * found.standard_error))
    assert not found.tie
    assert paired_difference(b, a).points == -found.points
    assert (found.sign, paired_difference(b, a).sign) == (1, -1)
    assert str(found) == "+24.0 points (+21.0 to +27.0)"
    assert str(paired_difference(b, a)) == "−24.0 points (−27.0 to −21.0)"


def test_a_tie_and_an_interval_that_holds_zero_are_the_same():
    for more in range(0, 120, 4):  # through 1.96 and 2 standard errors
        a, b = torch.zeros(2, 10_000, dtype=torch.bool)
        a[: 760 + more], b[760 + more : 1520 + more] = True, True
        found = paired_difference(a, b)
        low, high = found.interval
        assert found.tie == (low <= 0 <= high) == (abs(found.points) <= 2 * found.standard_error)


def test_a_picture_that_is_hard_for_both_tells_nothing():
    a, b = torch.rand(2, 500, generator=torch.Generator().manual_seed(0)) < 0.5
    alone = paired_difference(a, b)
    both = torch.ones(500, dtype=torch.bool)
    beside = paired_difference(torch.cat([a, both]), torch.cat([b, both]))
    assert beside.points == pytest.approx(alone.points / 2)
    assert beside.standard_error < 0.52 * alone.standard_error


def test_equal_outcomes_are_a_tie():
    a = torch.arange(50) % 3 == 0
    found = paired_difference(a, a)
    assert (found.points, found.standard_error, found.interval, found.tie) == (0, 0, (0, 0), True)
    assert found.sign == 0


def test_a_sum_of_several_errors_weighs_pictures_and_seeds():
    draw = np.random.default_rng(0)
    ease = draw.normal(0, 1, 500)
    a, b, c = (recipe(draw, ease, seeds, 0.3) for seeds in (3, 1, 2))
    found = paired_contrast((1.0, a), (0.5, b), (-1.5, c))
    means = [float(each.double().mean()) for each in (a, b, c)]
    assert found.points == pytest.approx(100 * (means[0] + means[1] / 2 - 1.5 * means[2]))
    twice = paired_contrast((2.0, a), (1.0, b), (-3.0, c))
    assert twice.interval == pytest.approx([2 * end for end in found.interval])
    once = paired_contrast((1.0, a.double().mean(0)), (0.5, b), (-1.5, c.double().mean(0)))
    assert found.standard_error > 1.5 * once.standard_error  # that knows of no seeds
    with pytest.raises(ValueError, match="500 and 500 and 9 pictures"):
        paired_contrast((1.0, a), (0.5, b), (1.0, c[:, :9]))


def test_an_interval_is_the_bootstrap_of_scipy():
    values = np.random.default_rng(1).normal(3, 1, 37)
    for draws in (1999, 2000):
        slow = stats.bootstrap(
            (values,), np.mean, n_resamples=draws, method="percentile", rng=np.random.default_rng(4)
        ).confidence_interval
        found = interval(values, 4, draws)
        assert (found["low"], found["high"]) == pytest.approx((slow.low, slow.high))


@pytest.mark.parametrize(("excess", "tie"), [(19, True), (21, False)])
def test_a_tie_ends_at_two_standard_errors(excess, tie):
    a, b = torch.zeros(2, 100_000, dtype=torch.bool)
    a[: 50 + excess // 2 + 1], b[1000 : 1050 - excess // 2] = True, True  # about 100 pictures differ
    found = paired_difference(a, b)
    assert (found.tie, found.sign) == (tie, 0 if tie else 1)


def recipe(draw, ease, seeds, spread, interaction=0.3):
    """Outcomes of a recipe: pictures of their own ease, seeds of their own skill, and chance."""
    skill = draw.normal(0, spread, (seeds, 1))
    chance = draw.normal(0, interaction, (seeds, len(ease)))
    return torch.from_numpy(ease + skill + chance > 0)


@pytest.mark.parametrize(("seeds", "spread"), [((3, 3), 0.0), ((3, 3), 0.15), ((5, 2), 0.08), ((4, 4), 0.02)])
def test_the_standard_error_is_the_spread_of_repeated_experiments(seeds, spread):
    draw = np.random.default_rng(1)
    found = []
    for _ in range(1000):
        ease = draw.normal(0, 1, 300)
        found.append(paired_difference(*(recipe(draw, ease, s, spread) for s in seeds)))
    true = np.std([d.points for d in found])
    assert np.sqrt(np.mean([d.standard_error**2 for d in found])) == pytest.approx(true, rel=0.2)
    assert np.mean([d.interval[0] <= 0 <= d.interval[1] for d in found]) > 0.92
    assert np.mean([d.tie for d in found]) > 0.92


def test_outcomes_over_other_pictures_are_refused():
    with pytest.raises(ValueError, match="outcomes over 5 and 6 pictures; give the same ones"):
        paired_difference(torch.ones(5) > 0, torch.ones(3, 6) > 0)


def rows(errors, n=2000, seed=0):
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.random((len(errors), n)) < np.array(errors)[:, None])


def test_the_same_ranking_agrees_wholly_and_the_opposite_not_at_all():
    clear = rows([0.2, 0.4, 0.6, 0.8])
    assert rank_agreement([10, 20, 30, 40], clear, 200).tau == 1
    assert rank_agreement([10, 20, 30, 40], clear, 200).interval == (1, 1)
    assert rank_agreement([40, 30, 20, 10], clear, 200).tau == -1
    assert rank_agreement([10, 20, 40, 30], clear, 200).tau == pytest.approx(2 / 3)


def test_rows_that_lie_close_leave_the_agreement_open():
    close = rank_agreement([10, 20, 30, 40], rows([0.5, 0.501, 0.502, 0.503], 200), 200)
    assert close.interval[1] - close.interval[0] > 0.6
    again = rank_agreement([10, 20, 30, 40], rows([0.5, 0.501, 0.502, 0.503], 200), 200)
    assert again == close, "the same seed gives the same interval"


def test_a_ranking_of_equals_agrees_with_nothing():
    found = rank_agreement([1, 2], torch.zeros(2, 10), 20)
    assert (found.tau, found.chance) == (0, 1)


def test_few_rows_agree_by_chance_however_many_pictures_they_answer():
    order = [10, 20, 30, 40, 50]
    found = rank_agreement(order, rows([0.1, 0.3, 0.2, 0.5, 0.7]), 200)  # one pair of ten is the other way
    assert found.interval == (found.tau, found.tau) == (pytest.approx(0.8),) * 2
    taus = [sum(a < b for a, b in combinations(p, 2)) * 2 - 10 for p in permutations(range(5))]
    assert found.rows == 5
    assert found.chance == pytest.approx(sum(abs(tau) >= 8 for tau in taus) / len(taus))


@pytest.mark.parametrize(
    ("paper", "ours"), [([10, 20, 20, 40, 50], [1, 3, 2, 5, 7]), ([1, 1, 2, 3], [5, 5, 5, 9])]
)
def test_chance_counts_every_pairing_where_values_are_equal(paper, ours):
    wrong = torch.arange(10) < torch.tensor(ours)[:, None]
    taus = [abs(stats.kendalltau(paper, pairing).statistic) for pairing in permutations(ours)]
    here = abs(stats.kendalltau(paper, ours).statistic)
    found = rank_agreement(paper, wrong, 20).chance
    assert found == pytest.approx(np.mean([tau >= here - 1e-9 for tau in taus]))


def test_chance_of_many_rows_is_drawn_and_the_same_every_time():
    paper, ours = list(range(10)), torch.arange(20) < torch.tensor([2, 0, 1, 4, 3, 6, 5, 9, 7, 7])[:, None]
    found = rank_agreement(paper, ours, 20).chance
    assert found == rank_agreement(paper, ours, 20).chance
    assert 0 < found < 0.005
    unlike = torch.arange(20) < torch.tensor([2, 9, 1, 7, 3, 3, 5, 0, 6, 4])[:, None]
    exact = stats.kendalltau(paper, [2, 9, 1, 7, 3.01, 3, 5, 0, 6, 4]).pvalue  # the tie broken
    assert rank_agreement(paper, unlike, 20).chance == pytest.approx(exact, abs=0.05)


def test_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="3 scores for 2 rows"):
        rank_agreement([1, 2, 3], torch.zeros(2, 10))
