"""A network loses what it has learned, layer by layer; and projections are compared."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn.utils import prune

from zfcore.deconvnet import Deconvnet
from zfcore.randomization import (
    cascade,
    likeness,
    mixed,
    project_units,
    randomized,
    weighted,
    without_switches,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(5, 6, 3)).double().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


UNITS = {"layer": "5", "channels": [0, 3, 5], "positions": [(1, 2), (3, 3), (0, 4)]}


# ------------------------------------------------------------------------------ taking away
def same(a, b):
    """The names of the layers whose weights two models share."""
    return [n for n in weighted(a) if torch.equal(a.get_submodule(n).weight, b.get_submodule(n).weight)]


@pytest.mark.parametrize(
    ("order", "kept"), [("down", [["0", "3"], ["0"], []]), ("up", [["3", "5"], ["5"], []])]
)
def test_a_cascade_loses_one_layer_more_at_each_step(model, order, kept):
    steps = list(cascade(model, order))
    assert [name for name, _ in steps] == (["5", "3", "0"] if order == "down" else ["0", "3", "5"])
    assert [same(model, changed) for _, changed in steps] == kept


def test_a_cascade_may_spare_layers(model):
    steps = dict(cascade(model, "up", keep=["5"]))
    assert list(steps) == ["0", "3"]
    assert all("5" in same(model, changed) for changed in steps.values())


def test_a_layer_whose_weight_is_made_of_others_loses_it_as_well(model, images):
    plain = randomized(model, ["3"])
    torch.nn.utils.parametrizations.weight_norm(model[3])
    torch.testing.assert_close(randomized(model, ["3"])(images), plain(images))


def test_a_pruned_layer_is_asked_for_a_weight_of_its_own(model):
    prune.identity(model[3], "weight")
    with pytest.raises(ValueError, match="the weight of '3' is made of others"):
        randomized(model, ["3"])


def test_what_a_layer_becomes_follows_from_the_seed_alone(model):
    state = torch.get_rng_state()
    one, more = randomized(model, ["3"]), randomized(model, ["0", "3", "5"])
    assert torch.equal(one[3].weight, more[3].weight)
    assert not torch.equal(one[3].weight, randomized(model, ["3"], seed=1)[3].weight)
    assert torch.equal(state, torch.get_rng_state())
    assert not one[3].bias.any()
    assert one[3].weight.std().item() == pytest.approx((2 / 36) ** 0.5, rel=0.2)


def test_the_model_itself_keeps_its_weights(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    list(cascade(model))
    without_switches(model)
    project_units(model, torch.randn(3, 3, 20, 20).double(), **UNITS)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_wrong_names_and_orders_say_what_there_is(model):
    with pytest.raises(ValueError, match="there are: 0, 3, 5"):
        randomized(model, ["1"])
    with pytest.raises(ValueError, match="known: down, up"):
        next(cascade(model, "sideways"))
    with pytest.raises(ValueError, match="has no weights and bias"):
        project_units(model, torch.randn(1, 3, 20, 20).double(), "4", [0], [(0, 0)])


# ------------------------------------------------------------------------------ projections
@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
def test_a_unit_is_projected_as_the_deconvnet_does_it(model, images, rule):
    found = project_units(model, images, **UNITS, rule=rule)
    model[5].bias.data += 100  # now all units are active
    slow = Deconvnet(model).project(images, "5", UNITS["channels"], UNITS["positions"], rule)
    torch.testing.assert_close(found, slow / slow.abs().amax((1, 2, 3), keepdim=True))


def test_a_class_is_projected_whatever_its_logit(model, images):
    model = nn.Sequential(model, nn.Flatten(), nn.Linear(6 * 6 * 6, 4)).double()
    found = project_units(model, images, "2", [0, 1, 3])
    model[2].bias.data += 100
    slow = Deconvnet(model).project(images, "2", torch.tensor([0, 1, 3]))
    torch.testing.assert_close(found, slow / slow.abs().amax((1, 2, 3), keepdim=True))


def test_a_silent_unit_is_projected_as_an_active_one(model, images):
    found = project_units(model, images, **UNITS)
    model[5].bias.data -= 1000
    torch.testing.assert_close(project_units(model, images, **UNITS), found)
    assert found.abs().amax((1, 2, 3)).tolist() == [1, 1, 1]


def test_without_switches_the_deconvnet_does_not_look_at_the_picture(model, images):
    unit = {"layer": "5", "channels": [2] * 3, "positions": [(1, 1)] * 3}
    blind = project_units(without_switches(model), images, **unit)
    torch.testing.assert_close(blind[0], blind[1])
    torch.testing.assert_close(blind[0], blind[2])
    seeing = project_units(model, images, **unit)
    assert not torch.allclose(seeing[0], seeing[1])


def test_without_switches_a_network_keeps_its_mode(model):
    assert not any(module.training for module in without_switches(model.eval()).modules())


def test_a_pool_used_twice_loses_its_switches_in_both_places(images):
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    convs = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 1)]
    model = nn.Sequential(convs[0], relu, pool, convs[1], relu, pool, convs[2]).double()
    blind = project_units(without_switches(model), images, "6", [2] * 3, [(1, 1)] * 3)
    torch.testing.assert_close(blind[0], blind[1])


class PoolsByFunction(nn.Sequential):
    def forward(self, x):
        return nn.functional.max_pool2d(super().forward(x), 2)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.MaxPool2d(3, 1, dilation=2)), "'0': its windows have holes"),
        (PoolsByFunction(nn.Conv2d(3, 4, 3)), "'max_pool2d' pools by a function"),
    ],
)
def test_switches_that_cannot_be_taken_away_are_told(model, words):
    with pytest.raises(ValueError, match=words):
        without_switches(model)


def test_a_mixture_leaves_the_network_and_the_dice_as_they_were(model):
    model.train()
    state = torch.get_rng_state()
    mixture = mixed(model, 6)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert model[0].training
    assert {p.dtype for p in mixture.parameters()} == {torch.float64}


def test_a_mixture_is_the_weighted_sum_of_its_maps(model, images):
    mixture = mixed(model, 6, seed=3).double()
    maps = model(images)
    weights = mixture.mixture.weight[0, :, 0, 0]
    torch.testing.assert_close(mixture(images)[:, 0], (maps * weights[:, None, None]).sum(1))
    assert not torch.equal(weights, mixed(model, 6, seed=4).double().mixture.weight[0, :, 0, 0])


# ------------------------------------------------------------------------------ likeness
def test_likeness_is_one_for_the_same_and_near_zero_for_noise(images):
    other = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)).double()
    a, b = (x / x.abs().amax((1, 2, 3), keepdim=True) for x in (images, other))
    assert likeness(a, a) == pytest.approx(1)
    assert np.abs(likeness(a, b)).max() < 0.3


def test_likeness_of_a_box_is_that_of_the_pictures_within_it(images):
    a, b = images / images.abs().max(), images.flip(0) / images.abs().max()
    boxes = [(0, 0, 20, 20), (4, 6, 12, 13), (-3, 10, 9, 30)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2}
    for n, found in enumerate(likeness(a, b, boxes)):
        top, left, bottom, right = boxes[n]
        slow = []
        for x, y in zip(a[n].numpy(), b[n].numpy(), strict=True):  # colour by colour
            _, local = structural_similarity(x, y, full=True, **options)
            slow += [
                local[i, j]
                for i in range(max(0, top), min(20, bottom))
                for j in range(max(0, left), min(20, right))
            ]
        assert found == pytest.approx(np.mean(slow))
