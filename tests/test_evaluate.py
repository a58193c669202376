"""Errors against a loop that takes one picture and one crop at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torch import nn

from zfcore.data import LabelledPictures, PackedPictures
from zfcore.evaluate import (
    confusion,
    errors,
    judge,
    most_confused,
    outcomes,
    percent,
    probabilities,
    wrong,
)

PROPERTY = settings(deadline=None, max_examples=25, derandomize=True)

CARD = {"resize": 12, "input_size": 8, "scale": 64.0, "mean": torch.full((3, 12, 12), 120.0)}


def pictures(n=23, classes=7, seed=0):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, 12, 12), generator=draw, dtype=torch.uint8)
    names = tuple("abcdefg"[:classes])
    return LabelledPictures(pixels, torch.randint(classes, (n,), generator=draw), names, names, ("",) * n)


def network(classes=7):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.9), nn.Flatten(), nn.Linear(8 * 36, classes)
    )


def probabilities_naively(model, data, crops):
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)] if crops == 10 else [(2, 2)]
    result = []
    for picture in data.pixels:
        x = (picture.float() - CARD["mean"]) / CARD["scale"]
        total = 0
        for top, left in corners:
            crop = x[:, top : top + 8, left : left + 8]
            for view in (crop, crop.flip(2)) if crops == 10 else (crop,):
                total = total + model(view[None])[0].softmax(0) / crops
        result.append(total)
    return torch.stack(result)


@pytest.mark.parametrize("crops", [1, 10])
@torch.no_grad()
def test_probabilities_are_those_of_a_loop_over_crops(crops):
    model, data = network().eval(), pictures()
    expected = probabilities_naively(model, data, crops)
    torch.testing.assert_close(probabilities(model, data, CARD, crops, batch_size=7), expected)
    torch.testing.assert_close(expected.sum(1), torch.ones(23))


@pytest.mark.parametrize("crops", [1, 10])
@torch.no_grad()
def test_errors_are_those_of_a_loop_over_pictures(crops):
    model, data = network().eval(), pictures()
    wrong = {"top1": 0, "top5": 0}
    for row, label in zip(probabilities_naively(model, data, crops), data.labels.tolist(), strict=True):
        ranking = sorted(range(7), key=lambda c: -row[c])
        wrong["top1"] += ranking[0] != label
        wrong["top5"] += label not in ranking[:5]
    assert errors(model, data, CARD, crops) == pytest.approx({k: 100 * v / 23 for k, v in wrong.items()})


def test_with_five_classes_or_fewer_the_top_5_error_is_zero():
    assert errors(network(3), pictures(classes=3), CARD)["top5"] == 0


def test_dropout_is_off_and_the_mode_comes_back():
    model = network().train()
    torch.testing.assert_close(*(probabilities(model, pictures(), CARD) for _ in range(2)), rtol=0, atol=0)
    assert model.training


def test_a_norm_that_is_frozen_inside_a_training_network_stays_frozen():
    model = nn.Sequential(nn.BatchNorm2d(3), *network(), nn.BatchNorm1d(7)).train()
    model[0].eval()
    probabilities(model, pictures(), CARD)
    assert [module.training for module in model] == [False, *[True] * (len(model) - 1)]


def test_another_number_of_crops_is_refused():
    with pytest.raises(ValueError, match="crops is 5; accepted are 1"):
        errors(network(), pictures(), CARD, crops=5)


def test_pictures_that_do_not_fit_the_mean_are_refused():
    with pytest.raises(ValueError, match=r"the pictures are \(3, 12, 12\), the card's mean is \(3, 64, 64\)"):
        errors(network(), pictures(), CARD | {"mean": torch.zeros(3, 64, 64)})


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_outcomes_are_those_of_the_probabilities_whatever_the_batches(batch_size):
    model, data = network(), pictures()
    ranked = probabilities(model, data, CARD)
    found = outcomes(model, data, CARD, batch_size=batch_size)
    for name, k in (("top1", 1), ("top5", 5)):
        assert torch.equal(found[name], wrong(ranked, data.labels, k))
        assert errors(model, data, CARD)[name] == percent(found[name])


class FromDisk(PackedPictures):
    """Pictures that are had by their positions only."""

    def __init__(self, data):
        for name in ("labels", "classes", "names", "files"):
            object.__setattr__(self, name, getattr(data, name))
        object.__setattr__(self, "average", data.mean())
        object.__setattr__(self, "data", data)

    def __getitem__(self, chosen):
        return self.data[chosen]


def test_what_is_read_from_a_disk_is_judged_like_what_is_in_memory():
    model, data = network(), pictures()
    expected = probabilities(model, data, CARD, 10)
    assert torch.equal(probabilities(model, FromDisk(data), CARD, 10, workers=1), expected)


def test_low_precision_is_near():
    model, data = network(), pictures()
    exact, fast = (probabilities(model, data, CARD, low_precision=low) for low in (False, True))
    assert fast.dtype == torch.float32
    assert not torch.equal(exact, fast)
    torch.testing.assert_close(exact, fast, rtol=0.1, atol=0.02)


def test_the_mode_comes_back_after_an_error():
    model = nn.Sequential(nn.Conv2d(5, 1, 1)).train()
    with pytest.raises(RuntimeError):
        probabilities(model, pictures(), CARD)
    assert model.training


# ------------------------------------------------------------------------------ probabilities
@PROPERTY
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 1000))
def test_the_rank_of_the_true_class_decides_and_equals_come_in_order(classes, k, seed):
    draw = torch.Generator().manual_seed(seed)
    p = torch.randint(3, (8, classes), generator=draw).double()  # many ties
    labels = torch.randint(classes, (8,), generator=draw)
    expected = []
    for row, label in zip(p.tolist(), labels.tolist(), strict=True):
        ranking = sorted(range(classes), key=lambda c: (-row[c], c))
        expected.append(label not in ranking[:k])
    assert wrong(p, labels, k).tolist() == expected


def test_a_network_that_has_diverged_is_not_right():
    with pytest.raises(ValueError, match="not numbers"):
        wrong(torch.full((2, 3), math.nan), torch.zeros(2, dtype=torch.int64))


def test_confusion_counts_as_scikit_learn_does():
    draw = torch.Generator().manual_seed(0)
    p, labels = torch.rand(200, 6, generator=draw), torch.randint(5, (200,), generator=draw)  # class 5 never
    counts = confusion(p, labels)
    assert counts.dtype == torch.int64
    assert (counts.numpy() == confusion_matrix(labels, p.argmax(1), labels=range(6))).all()
    assert confusion(torch.ones(1, 3), torch.tensor([2])).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_the_most_confused_pairs_come_first_and_right_answers_never():
    counts = torch.tensor([[50, 2, 0], [7, 50, 2], [0, 1, 50]])
    assert most_confused(counts, 4) == [(1, 0, 7), (0, 1, 2), (1, 2, 2), (2, 1, 1)]
    assert most_confused(counts, 100) == most_confused(counts, 4)


def test_a_network_of_other_classes_is_not_judged_on_these_pictures():
    card = CARD | {"classes": ("other", *"bcdefg")}
    with pytest.raises(ValueError, match=r"mine knows other classes than these .*judge it on its own data"):
        judge({"mine": (network(), card)}, pictures())


def test_networks_are_judged_on_their_own_classes_and_together():
    data, models = pictures(), {name: network() for name in "ab"}
    with torch.no_grad():
        models["b"][4].weight *= -1
    verdicts = judge({name: (model, CARD) for name, model in models.items()}, data, [1], together=True)
    each = [probabilities(model, data, CARD).double() for model in models.values()]
    assert torch.equal(
        verdicts["ensemble"].outcomes["one crop top1"], wrong((sum(each) / 2).float(), data.labels)
    )
    for card in ({"classes": tuple("abcdefh")}, {"num_classes": 8}):
        with pytest.raises(ValueError, match="mine knows other classes than these pictures"):
            judge({"mine": (network(), CARD | card)}, data)
