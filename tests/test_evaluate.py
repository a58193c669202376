"""Top-1 and top-5 error against a loop that takes one picture and one crop at a time."""

import pytest
import torch
from torch import nn

from zfcore.data import LabelledPictures
from zfcore.evaluate import errors, probabilities

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


def test_another_number_of_crops_is_refused():
    with pytest.raises(ValueError, match="crops is 5; accepted are 1"):
        errors(network(), pictures(), CARD, crops=5)


def test_pictures_that_do_not_fit_the_mean_are_refused():
    with pytest.raises(ValueError, match=r"the pictures are \(3, 12, 12\), the card's mean is \(3, 64, 64\)"):
        errors(network(), pictures(), CARD | {"mean": torch.zeros(3, 64, 64)})
