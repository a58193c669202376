"""Activation maximisation, each part against something slower and more obvious, in float64."""

import asyncio
import io
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import (
    Reader,
    assert_sheets_alike,
    choose,
    copied,
    decoded,
    drawn,
    drop,
    fits_a_phone_and_breaks_no_rule,
    saved_picture,
    waiting,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import CARD, LAYERS, PICTURES, Aside, Elements, small
from scipy import ndimage
from torch import nn

from zfcore import assets, markup
from zfcore.maximization import (
    DELTA,
    PLAIN,
    REGULARISED,
    Answer,
    Move,
    Recipe,
    ascend,
    direction,
    maximize,
    moved,
    natural,
    noise,
    total_variation_gradient,
)
from zfcore.model import build, initialize_
from zfcore.trace import trace
from zfcore.view import Viewer, beside
from zfcore.widgets import MaximizationExplorer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def net():
    """Two convolutions with a pool between, and four classes, of pictures of 16 px; float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(5 * 8 * 8, 4),
    ).double().eval()  # fmt: skip


def pictures(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------ the algorithm
def seed_algorithm(value, x, step, iterations, epsilon=1e-5):
    """The four steps, word for word: an answer, its gradient by the input, a step along it, again."""
    history = []
    for _ in range(iterations):
        x = x.clone().requires_grad_()
        answer = value(x)
        history.append(answer.item())
        (gradient,) = torch.autograd.grad(answer, x)
        if epsilon is not None:
            gradient = gradient / (gradient.square().mean().sqrt() + epsilon)
        x = (x + step * gradient).detach()
    return x, [*history, value(x).item()]


@pytest.mark.parametrize("epsilon", [1e-5, None])
@pytest.mark.parametrize(
    ("layer", "position", "value"),
    [
        ("3", "map", lambda net, x: net[:4](x)[0, 2].mean()),
        ("1", (3, 5), lambda net, x: net[:2](x)[0, 2, 3, 5]),
        ("4", "middle", lambda net, x: net[:5](x)[0, 2, 4, 4]),
        ("6", "map", lambda net, x: net(x)[0, 2]),
    ],
)
def test_plain_is_the_four_steps_and_no_more(net, layer, position, value, epsilon):
    recipe = replace(PLAIN, epsilon=epsilon, step=0.1, iterations=12)
    found = maximize(net, layer, 2, 16, position=position, recipe=recipe, seed=3)
    start = noise(16, [3], PLAIN.contrast)
    x, history = seed_algorithm(lambda x: value(net, x), start, 0.1, 12, epsilon)
    torch.testing.assert_close(found.image, x[0])
    assert found.history == pytest.approx(history)


def test_the_best_picture_of_a_linear_net_is_its_weights():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).double()
    found = maximize(net, "1", [0, 1], 8, recipe=PLAIN, step=1.0, iterations=200, l2=0.5).image
    wanted = net[1].weight.detach().unflatten(1, (3, 8, 8))
    cosine = F.cosine_similarity(found.flatten(1), wanted.flatten(1))
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-6, rtol=0)
    # The pull g / rms(g), of size 1, and λ x hold each other where the picture's size is 1 / λ.
    torch.testing.assert_close(
        found.square().mean((1, 2, 3)).sqrt(), torch.full_like(cosine, 2), rtol=1e-3, atol=0
    )


def test_the_gradient_that_is_climbed_is_that_of_finite_differences(net):
    for layer, objective in (("3", "logit"), ("6", "logit"), ("6", "probability")):
        answer = Answer(trace(net), layer, [1], "map", objective)
        x = pictures(1, 3, 16, 16).requires_grad_()
        (gradient,) = torch.autograd.grad(answer(x)[1].sum(), x)
        along, h = pictures(1, 3, 16, 16, seed=1), 1e-5
        with torch.no_grad():
            slope = (answer(x + h * along)[0] - answer(x - h * along)[0]) / (2 * h)
        assert slope.item() == pytest.approx((gradient * along).sum().item(), rel=1e-6)


def test_the_probability_is_the_softmax_of_the_layer(net):
    x = pictures(2, 3, 16, 16)
    values, _ = Answer(trace(net), "6", [3, 0], "map", "probability")(x)
    torch.testing.assert_close(values, net(x).softmax(1)[[0, 1], [3, 0]])


@pytest.mark.parametrize("recipe", [PLAIN, replace(REGULARISED, iterations=9)])
def test_units_in_a_batch_are_as_if_alone(net, recipe):
    recipe = replace(recipe, iterations=9, tolerance=0.0)
    together = maximize(net, "4", [0, 3, 3], 16, recipe=recipe, seed=[5, 5, 6])
    for n, (channel, seed) in enumerate([(0, 5), (3, 5), (3, 6)]):
        alone = maximize(net, "4", channel, 16, recipe=recipe, seed=seed)
        torch.testing.assert_close(together.image[n], alone.image)
        assert together.history[n] == pytest.approx(alone.history)
    assert not torch.equal(together.image[1], together.image[2])


def test_one_seed_for_all_gives_all_the_same_noise(net):
    found = maximize(net, "4", [0, 1], 16, recipe=PLAIN, iterations=1, step=0.0, seed=4)
    assert torch.equal(found.image[0], found.image[1])


def test_channels_may_be_any_kind_of_whole_numbers(net):
    for some in ([1, 3], torch.tensor([1, 3]), np.array([1, 3]), range(1, 4, 2)):
        assert maximize(net, "4", some, 16, iterations=1).image.shape == (2, 3, 16, 16)
    for some in (3, np.int64(3), torch.tensor(3)):
        assert maximize(net, "4", some, 16, iterations=1).image.shape == (3, 16, 16)


def test_an_ascent_is_made_again_bit_by_bit(net):
    first, second = (maximize(net, "6", [1, 2], 16, seed=7, iterations=8) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert first.history == second.history


def test_it_stops_when_stable_each_unit_for_itself(net):
    recipe = replace(PLAIN, step=0.5, iterations=400, l2=1.0, tolerance=1e-4)
    together = maximize(net, "6", [0, 1], 16, recipe=recipe)
    lengths = [len(history) for history in together.history]
    assert max(lengths) < 401
    assert min(lengths) > 20
    for channel, length in enumerate(lengths):
        alone = maximize(net, "6", channel, 16, recipe=recipe)
        assert len(alone.history) == length
        torch.testing.assert_close(alone.image, together.image[channel])
        last, before = sum(alone.history[-11:-1]), sum(alone.history[-21:-11])
        assert last - before <= 1e-4 * last


def test_every_step_can_be_watched(net):
    answer = Answer(trace(net), "3", [1, 2])
    start = noise(16, [0, 0], 0.1)
    steps = list(ascend(answer, start, replace(PLAIN, iterations=5), [0, 0]))
    found = maximize(net, "3", [1, 2], 16, recipe=PLAIN, iterations=5)
    assert len(steps) == 5
    torch.testing.assert_close(steps[-1].pictures, found.image)
    assert [step.values[1].item() for step in steps] == pytest.approx(found.history[1][:-1])


def test_the_network_is_left_as_it_was(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    maximize(net, "6", 0, 16, iterations=2)
    assert net.training
    net.eval()
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


# ------------------------------------------------------------------------------ silence
def test_a_silent_map_stays_where_it_is_unless_it_shall_wake():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).double()
    nn.init.constant_(net[0].bias, -1.0)
    asleep = maximize(net, "1", 1, 12, recipe=PLAIN, contrast=0.01)
    assert asleep.history == [0.0] * (PLAIN.iterations + 1)
    torch.testing.assert_close(asleep.image, noise(12, [0], 0.01)[0])
    awake = maximize(net, "1", 1, 12, recipe=PLAIN, contrast=0.01, wake=True)
    assert awake.history[0] == 0
    assert awake.history[-1] > 1


# ------------------------------------------------------------------------------ regularisers
def test_the_pull_of_l2_and_total_variation_is_the_gradient_of_their_terms():
    x = pictures(2, 3, 7, 9).requires_grad_()
    variation = 0.0
    for plane in x.flatten(0, 1):
        for row in range(7):
            for column in range(9):
                down = plane[row + 1, column] - plane[row, column] if row < 6 else 0.0
                right = plane[row, column + 1] - plane[row, column] if column < 8 else 0.0
                variation = variation + (down**2 + right**2 + 0.01**2) ** 0.5
    (gradient,) = torch.autograd.grad(variation, x)
    torch.testing.assert_close(total_variation_gradient(x.detach()), gradient)


def test_a_step_holds_the_picture_back_as_the_weights_say(net):
    start = pictures(3, 16, 16)
    plain, held = (
        maximize(net, "6", 1, recipe=PLAIN, iterations=1, start=start, **weights).image
        for weights in ({}, {"l2": 0.7, "tv": 0.3})
    )
    back = 0.7 * start + 0.3 * total_variation_gradient(start[None])[0]
    torch.testing.assert_close(plain - held, PLAIN.step * back)


def test_the_ascent_in_frequency_space_is_one_on_weighted_coefficients():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh()).double()
    start, p, step = pictures(3, 12, 10), 1.0, 0.2
    f = torch.hypot(
        torch.fft.fftfreq(12, dtype=torch.float64)[:, None], torch.fft.fftfreq(10, dtype=torch.float64)[None]
    ).clamp_min(1 / 12)
    weights = f ** (-p / 2)
    coefficients = (torch.fft.fft2(start, norm="ortho") / weights).requires_grad_()
    answer = net(torch.fft.ifft2(weights * coefficients, norm="ortho").real[None])[0, 1].mean()
    (gradient,) = torch.autograd.grad(answer, coefficients)
    change = torch.fft.ifft2(weights * step * gradient, norm="ortho").real
    recipe = replace(PLAIN, iterations=1, frequency=p, epsilon=None, step=step)
    found = maximize(net, "1", 1, recipe=recipe, start=start).image
    torch.testing.assert_close(found - start, change)


def test_noise_of_frequency_space_has_the_spectrum_of_photographs_and_the_contrast_asked_for():
    flat, steep = (noise(64, range(8), 0.3, p) for p in (0.0, 1.0))
    for some in (flat, steep):
        assert some.std().item() == pytest.approx(0.3, rel=0.02)
    f = torch.fft.fftfreq(64).abs()
    low, high = f == f[4], f == f[32]
    for some, ratio in ((flat, 1), (steep, 8)):
        amplitude = torch.fft.fft2(some).abs()[..., 0, :].square().mean((0, 1)).sqrt()
        assert (amplitude[low].mean() / amplitude[high].mean()).item() == pytest.approx(ratio, rel=0.4)
    torch.testing.assert_close(natural(natural(flat, 1.0), -1.0), flat)


@given(st.integers(0, 2**31), st.integers(0, 4), st.floats(1, 1.5), st.floats(0, 30))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_moves_by_chance_stay_within_the_recipe(seed, jitter, scale, rotation):
    recipe = replace(PLAIN, jitter=jitter, scale=scale, rotation=rotation)
    move = Move.drawn(torch.Generator().manual_seed(seed), recipe)
    assert abs(move.down) <= jitter
    assert abs(move.right) <= jitter
    assert 1 / scale - 1e-9 <= move.scale <= scale + 1e-9
    assert abs(move.rotation) <= rotation


def scipys(images, matrix):
    """Linear interpolation by SciPy, plane by plane; the matrix says where each output pixel comes from."""
    centre = (np.array(images.shape[2:]) - 1) / 2
    planes = [
        ndimage.affine_transform(plane, matrix, centre - matrix @ centre, order=1, mode="grid-constant")
        for plane in images.flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).view_as(images)


def turn(degrees):
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def test_pictures_are_moved_as_scipy_moves_them():
    x = pictures(2, 3, 12, 15)
    turned = moved(x, [Move(rotation=20.0), Move(rotation=-50.0)])
    torch.testing.assert_close(turned[:1], scipys(x[:1], turn(20.0)))
    torch.testing.assert_close(turned[1:], scipys(x[1:], turn(-50.0)))
    torch.testing.assert_close(moved(x, [Move(scale=1.3)] * 2), scipys(x, np.eye(2) / 1.3))
    torch.testing.assert_close(moved(x, [Move(2, -3)] * 2), x.roll((2, -3), (2, 3)))
    assert moved(x, [Move()] * 2) is x


def test_each_regulariser_can_be_switched_on_alone_and_changes_the_picture(net):
    plain = maximize(net, "6", 1, 16, recipe=PLAIN, iterations=6).image
    changes = [
        {"l2": 0.5},
        {"tv": 0.3},
        {"jitter": 3},
        {"scale": 1.3},
        {"rotation": 20.0},
        {"frequency": 1.0},
    ]
    for change in changes:
        found = maximize(net, "6", 1, 16, recipe=PLAIN, iterations=6, **change)
        assert not torch.allclose(found.image, plain, atol=1e-3)
        assert found.history[-1] > found.history[0]


# ------------------------------------------------------------------------------ what goes wrong
@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        (("conv9", 0, 16), {}, r"no layer 'conv9'; this network has: 0, 1, 2"),
        (("3", 5, 16), {}, r"layer '3' has channels 0 to 4; got 5"),
        (("6", [0, -1], 16), {}, r"layer '6' has channels 0 to 3; got -1"),
        (("3", 1.5, 16), {}, r"channel is an int, or a list of them; got 1\.5"),
        (("3", [], 16), {}, r"channel is an int, or a list of them; got \[\]"),
        (("3", 0, 16), {"position": (8, 0)}, r"rows 0 to 7 and columns 0 to 7 here; got position \(8, 0\)"),
        (("3", 0, 16), {"position": "left"}, r"position is \(y, x\), 'map' or 'middle'; got 'left'"),
        (("3", 0, 16), {"objective": "probability"}, r"has maps, and no probabilities"),
        (("6", 0, 16), {"objective": "loss"}, r"unknown objective 'loss'; known: logit, probability"),
        (("6", 0, 20), {}, r"the images do not pass '6'"),
        (("6", 0, 0), {}, r"the size is 0; a side of at least 1 pixel"),
        (("6", [0, 1], 16), {"seed": [1, 2, 3]}, r"3 seeds for 2 channels; give one, or one for each"),
        (("6", 0, 16), {"iterations": 0}, r"iterations is 0; a number of at least 1 is accepted"),
        (("6", 0, 16), {"tv": math.nan}, r"tv is nan; a number of at least 0"),
        (("6", 0, 16), {"epsilon": -1.0}, r"epsilon is -1\.0; None, or a number of at least 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_climbed_is_told(net, arguments, changes, said):
    with pytest.raises(ValueError, match=said):
        maximize(net, *arguments, **{"recipe": PLAIN, **changes})


def test_as_many_pictures_start_as_there_are_channels(net):
    start = noise(16, [0, 1])
    assert maximize(net, "6", 0, start=start[0], iterations=1).image.shape == (3, 16, 16)
    assert maximize(net, "6", [0, 1], start=start, iterations=1).image.shape == (2, 3, 16, 16)
    for wrong in (start, start[0, 0]):
        with pytest.raises(ValueError, match=r"start is \(.*; give \(3, H, W\), or"):
            maximize(net, "6", [0, 1, 2], start=wrong, iterations=1)


def test_a_side_may_be_a_number_of_numpy(net):
    assert maximize(net, "6", 0, np.int64(16), iterations=1).image.shape == (3, 16, 16)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_whatever_mode_the_caller_is_in_it_is_climbed_alike(net, mode):
    wanted = maximize(net, "6", [0, 1], 16, iterations=3)
    with mode():
        found = maximize(net, "6", [0, 1], 16, iterations=3)
    torch.testing.assert_close(found.image, wanted.image)
    assert found.history == wanted.history


def test_weights_that_are_not_finite_are_told_with_the_step():
    net = nn.Sequential(nn.Conv2d(3, 2, 3)).double()
    with torch.no_grad():
        net[0].weight[1, 0, 0, 0] = math.nan
    with pytest.raises(
        ValueError, match=r"gradient of '0', channel 1, is not finite at step 0; take a smaller"
    ):
        maximize(net, "0", 1, 8)


def test_a_setting_that_no_recipe_has_is_an_error(net):
    with pytest.raises(ValueError, match=r"no setting 'blur'; a recipe has: step, iterations, .*frequency"):
        maximize(net, "6", 0, 16, blur=2)
    with pytest.raises(ValueError, match="scale is 0"):
        Recipe(scale=0.5)


def test_the_zfnet_is_climbed_at_any_layer_with_no_new_code():
    torch.manual_seed(0)
    network = build("zfnet-64", 10, width=0.1).eval()
    initialize_(network, "he")
    for layer in ("features.1", "features.7", "features.13", "classifier.1", "classifier.6"):
        found = maximize(network, layer, [0, 1], 56, iterations=4, recipe=PLAIN, wake=True)
        assert found.image.shape == (2, 3, 56, 56)
        assert found.image.dtype == torch.float32
        assert all(len(history) == 5 for history in found.history)
    assert maximize(network, "features.13", 0, (40, 64), iterations=1).image.shape == (3, 40, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_climbed_in_its_dtype(dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()).to(dtype).eval()
    found = maximize(network, "0", 1, 16, iterations=20)
    assert found.image.dtype == dtype
    assert found.history[-1] > found.history[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_picture_in_half_precision_is_moved_as_one_in_single(dtype):
    pictures = torch.rand(2, 3, 100, 100)
    moves = [Move(0, 0, 1.04, 4.0), Move(0, 0, 0.97, -3.0)]
    found = moved(pictures.to(dtype), moves)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), moved(pictures, moves), rtol=0, atol=0.005)


@pytest.mark.parametrize("size", [1e-5, 1e-4, 300.0])
def test_a_step_in_half_precision_is_as_long_as_in_single(size):
    gradient = size * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    half = direction(gradient.half(), torch.zeros(2, 3, 8, 8).half(), PLAIN).float()
    whole = direction(gradient, torch.zeros(2, 3, 8, 8), PLAIN)
    assert half.norm().item() == pytest.approx(whole.norm().item(), rel=0.02)


# ------------------------------------------------------------------------------ in Lab
@pytest.fixture
def explorer():
    return MaximizationExplorer(small(), CARD, PICTURES, LAYERS, layer="layer 3", channel=4)


def test_an_explorer_climbs_from_the_noise_of_its_seed(explorer):
    start = noise(28, [0], REGULARISED.contrast, REGULARISED.frequency).float()
    np.testing.assert_array_equal(explorer.climbed.start, Viewer(small(), CARD).shown(start[0]))
    explorer.run(12)
    assert len(explorer.climbed.history) == 12
    assert explorer.climbed.history[-1] > explorer.climbed.history[0]
    assert "layer 3, feature 4, its whole map: the answer went from" in explorer.picture.value
    for name in markup.SWITCHES:
        getattr(explorer, name).value = False
    before = explorer.climbed.picture
    explorer.run(1)
    assert len(explorer.climbed.history) == 13, "a switch must not start again"
    assert (explorer.climbed.picture != before).any()


def test_without_its_regularisers_an_explorer_takes_the_plain_steps(explorer):
    for name in markup.SWITCHES:
        getattr(explorer, name).value = False
    explorer.noise.click()
    explorer.run(6)
    wanted = maximize(small(), "8", 4, 28, recipe=PLAIN, wake=True, iterations=6, seed=1)
    assert list(explorer.climbed.history) == pytest.approx(wanted.history[:-1], rel=1e-4)


def test_another_choice_starts_again(explorer):
    explorer.run(3)
    explorer.layer.value = "class"
    assert explorer.climbed.history == ()
    assert explorer.feature.layout.display == "none"
    explorer.target.value = 2
    explorer.run(3)
    assert "rocket, the logit of the class" in explorer.picture.value
    explorer.layer.value = "layer 1"
    assert explorer.feature.max == 7
    explorer.position.value = "middle"
    explorer.photograph.value = "coffee"
    seen = Viewer(small(), CARD).look("coffee", PICTURES["coffee"])
    np.testing.assert_array_equal(explorer.climbed.start, seen.square)


def test_an_explorer_climbs_until_it_is_paused(explorer):
    async def watched():
        before = asyncio.all_tasks()
        explorer.climb.click()
        assert explorer.climb.description == "Pause"
        while len(explorer.climbed.history) < 3:
            await asyncio.sleep(0.01)
        explorer.climb.click()
        steps = len(explorer.climbed.history)
        await asyncio.gather(*asyncio.all_tasks() - before, return_exceptions=True)
        assert len(explorer.climbed.history) == steps
        assert explorer.climb.description == "Climb"

    asyncio.run(asyncio.wait_for(watched(), 60))


def test_the_python_of_an_explorer_climbs_as_far(explorer, monkeypatch):
    network = small()
    monkeypatch.setattr("zfcore.model.load", lambda name: (network, Viewer(network, CARD).card))
    explorer = MaximizationExplorer(network, CARD, PICTURES, LAYERS, layer="class", weights="net")
    for name in ("jitter", "turn"):
        getattr(explorer, name).value = False
    explorer.noise.click()
    explorer.run(5)
    names = {}
    exec(explorer.snippet(), names)
    assert names["r"].history[:-1] == pytest.approx(list(explorer.climbed.history), rel=1e-4)


def test_the_python_of_an_ascent_from_a_photograph_starts_there(monkeypatch):
    network = small()
    monkeypatch.setattr("zfcore.model.load", lambda name: (network, Viewer(network, CARD).card))
    explorer = MaximizationExplorer(network, CARD, PICTURES, LAYERS, weights="net")
    explorer.photograph.value = "coffee"
    explorer.run(4)
    names = {}
    exec(explorer.snippet(), names)
    assert names["r"].history[:-1] == pytest.approx(list(explorer.climbed.history), rel=1e-4)
    (state,) = assets.states(explorer.to_html())
    assert state["start"]["pixels"] == 'photographs()["coffee"]'
    explorer.noise.click()
    assert "start=None" in explorer.snippet()


def test_a_class_is_climbed_where_the_network_returns_it():
    layers = {name: f"network.{path}" for name, path in LAYERS.items()}
    aside = MaximizationExplorer(Aside(small()).eval(), CARD, PICTURES, layers, layer="class", steps=3)
    plain = MaximizationExplorer(small(), CARD, PICTURES, LAYERS, layer="class", steps=3)
    assert aside.climbed.history == plain.climbed.history
    assert '"network.10", 0' in aside.snippet()
    assert [state["result"] for state in assets.states(aside.to_html())] == ["network.10"]


def test_a_network_that_returns_no_logits_is_climbed_by_its_features():
    class Two(Aside):
        def forward(self, x):
            return self.network(x), x

    explorer = MaximizationExplorer(Two(small()).eval(), CARD, PICTURES, {"layer 3": "network.8"}, steps=1)
    assert len(explorer.climbed.history) == 1
    assert [state["result"] for state in assets.states(explorer.to_html())] == [None]


def test_the_twin_opens_with_the_photograph_that_is_chosen(explorer):
    explorer.photograph.value = "coffee"
    html = explorer.to_html()
    assert not Elements(html).restored
    assert [state["start"]["photograph"] for state in assets.states(html)] == ["coffee"]
    assert re.findall(r'data-photograph="(\w+)"[^>]* aria-pressed="true"', html) == ["coffee"]


def test_an_ascent_that_fails_says_so_and_can_be_begun_again(explorer, monkeypatch):
    async def watched():
        explorer.climb.click()
        while explorer.climb.description == "Pause":
            await asyncio.sleep(0)

    with monkeypatch.context() as patch:
        patch.setattr(explorer, "_step", lambda: maximize(small(), "8", 4, 28, step=math.nan))
        asyncio.run(asyncio.wait_for(watched(), 60))
    assert "ValueError: step is nan" in explorer.message.value
    assert explorer.climb.description == "Climb"
    explorer.most = 3
    asyncio.run(asyncio.wait_for(watched(), 60))
    assert len(explorer.climbed.history) == 3
    assert explorer.message.value == ""


def test_a_photograph_to_start_from_is_credited(explorer):
    assert explorer.climbed.credit == ""
    explorer.from_photograph.click()
    explorer.run(1)
    assert PICTURES["chelsea"].credit in explorer.picture.value
    explorer.noise.click()
    assert PICTURES["chelsea"].credit not in explorer.picture.value


def test_start_and_picture_are_saved(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer.run(1)
    explorer.save.click()
    (saved,) = tmp_path.iterdir()
    assert saved.name == "layer-3--feature-4--its-whole-map-maximised.png"
    assert np.asarray(Image.open(saved)).shape == (448, 2 * 464 - 16, 3)


def test_what_an_explorer_cannot_begin_with_is_told():
    with pytest.raises(
        ValueError, match="no layer 'layer 9' here; there are: layer 1, layer 2, layer 3, class"
    ):
        MaximizationExplorer(small(), CARD, PICTURES, LAYERS, layer="layer 9")
    with pytest.raises(ValueError, match="layer 1 has the features 0 to 7, but 8 was asked for"):
        MaximizationExplorer(small(), CARD, PICTURES, LAYERS, layer="layer 1", channel=8)


# ------------------------------------------------------------------------------ in the page
@pytest.fixture(scope="module")
def lab():
    return MaximizationExplorer(small(), CARD, PICTURES, LAYERS, layer="layer 3", channel=4, steps=8)


@pytest.fixture(scope="module")
def file(lab, explorers_scripts, tmp_path_factory):
    return written(tmp_path_factory.mktemp("maximization") / "ascent.html", lab.to_html(), explorers_scripts)


@pytest.fixture(scope="module")
def opened(browser, file):
    """A page from disk with one explorer, the network cut."""
    reader = Reader(browser)
    tab = reader(file, viewport={"width": 1000, "height": 1200})
    drawn(tab.locator(".zf-explorer"))
    yield tab
    reader.close()


@pytest.fixture(scope="module")
def still(browser, lab, tmp_path_factory):
    """The same explorer before its network is there."""
    reader = Reader(browser)
    yield reader(waiting(tmp_path_factory.mktemp("maximization") / "still.html", lab.to_html()))
    reader.close()


def test_what_the_page_opens_with_is_saved_and_its_python_is_labs(still, lab):
    explorer = still.locator(".zf-explorer")
    name, saved = saved_picture(explorer)
    assert name == "layer-3--feature-4--its-whole-map-maximised.png"
    wanted = beside([(lab.climbed.start, None), (lab.climbed.picture, None)])
    assert_sheets_alike(saved, wanted, smooth=[0, 1])
    python = copied(explorer, "Copy the Python")
    assert "iterations=8" in python
    assert python == lab.snippet().replace(".0,", ",")


NOISE = """([numbers, side, recipe]) => {
    let n = 0;
    return [...zfcore.noisePicture(() => numbers[n++], side, recipe)];
}"""


@pytest.mark.parametrize(("frequency", "ratio"), [(0, 1), (1, 8)])
def test_the_noise_of_the_page_is_pythons_of_the_same_numbers(still, frequency, ratio):
    radius, angle = np.moveaxis(np.random.default_rng(0).random((4, 3, 64, 64, 2)), -1, 0)
    numbers = np.stack([radius, angle], -1).reshape(4, -1).tolist()
    recipe = {"contrast": 0.3, "frequency": frequency}
    found = torch.tensor([still.evaluate(NOISE, [some, 64, recipe]) for some in numbers], dtype=torch.float64)
    found = found.view(4, 3, 64, 64)
    white = torch.tensor(np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * np.pi * angle))
    wanted = natural(white, frequency)
    wanted *= 0.3 / wanted.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    amplitude = torch.fft.fft2(found).abs()[..., 0, :].square().mean((0, 1)).sqrt()
    assert (amplitude[[4, -4]].mean() / amplitude[32]).item() == pytest.approx(ratio, rel=0.4)


STEP = """async ([name, picture, target, recipe, move]) => {
    const network = await zfcore.Network.load(name);
    const found = await zfcore.climbStep(network, Float32Array.from(picture), target, recipe, move);
    return {value: found.value, picture: [...found.picture]};
}"""


@pytest.mark.parametrize("path", ["8", "1", "logits"])
@pytest.mark.parametrize("position", ["map", "middle"])
@pytest.mark.parametrize("move", [Move(), Move(2, -3, 1.04, -5.0)])
def test_a_step_in_the_page_is_pythons(opened, path, position, move):
    model, recipe = small(), replace(REGULARISED, frequency=0.7)
    start = noise(28, [3], 1.0, 1.0).float()
    layer = "10" if path == "logits" else path
    answer = Answer(trace(model), layer, [2], "map" if path == "logits" else position, wake=True)
    x = start.clone().requires_grad_()
    value, climbed = answer(moved(x, [move]))
    (gradient,) = torch.autograd.grad(climbed.sum(), x)
    wanted = start + recipe.step * direction(gradient, start, recipe)
    before = {"8": "7", "1": "0"}.get(path, path)
    target = {"path": path, "before": before, "channel": 2, "position": position}
    (state,) = assets.states(opened.content())
    settings = asdict(recipe) | {"delta": DELTA}
    found = opened.evaluate(
        STEP, [state["network"], start.flatten().tolist(), target, settings, move._asdict()]
    )
    assert found["value"] == pytest.approx(value.item(), rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(np.reshape(found["picture"], start.shape), wanted, atol=2e-4)


TWO_PASSES = """async name => {
    const network = await zfcore.Network.load(name);
    const pictures = new Float32Array(3 * 28 * 28);
    for (const _ of [1, 2]) await network.forward({pictures, outputs: ['8']});
}"""


def history(opened):
    """The points of the curve: what was answered, from the bottom of the drawing."""
    points = opened.locator(".zf-curve polyline").get_attribute("points").split()
    return [40 - float(point.partition(",")[2]) for point in points]


def climb(opened, steps):
    """Press Climb, wait for so many steps, and pause."""
    button = opened.locator('[data-do="climb"]')
    button.click()
    said = "document.querySelector('.zf-answer').textContent"
    opened.wait_for_function(f"steps => Number(/after (\\d+) steps/.exec({said})?.[1]) >= steps", arg=steps)
    button.click()
    assert button.inner_text() == "Climb"


def pixels(opened):
    source = opened.locator('[data-panel="climbed"] img').get_attribute("src")
    return decoded(source)


@pytest.fixture
def ascent(opened):
    """The page with an ascent of layer 3, feature 4 from noise, paused."""
    explorer = opened.locator(".zf-explorer")
    choose(explorer, layer="8")
    choose(explorer, feature=4, position="map")
    opened.locator('[data-do="climb"]', has_text="Pause").wait_for()
    opened.locator('[data-do="climb"]').click()
    return opened


RECORD = """async name => {
    const network = await zfcore.Network.load(name);
    const { forward, project } = network;
    [window.shown, window.places] = [[], []];
    network.forward = (wish, lane) => {
        window.shown.push([...wish.pictures]);
        return forward.call(network, wish, lane);
    };
    network.project = (wish, lane) => {
        window.places.push([...wish.position]);
        return project.call(network, wish, lane);
    };
    window.forget = () => { delete network.forward; delete network.project; };
}"""


@pytest.fixture
def first_step(ascent):
    """Do what starts an ascent, and pause: the first picture that the network saw, and the climbed place."""
    (state,) = assets.states(ascent.content())
    ascent.evaluate(RECORD, state["network"])

    def first(start):
        ascent.evaluate("() => { shown.length = places.length = 0; }")
        start()
        ascent.wait_for_function("() => shown.length && places.length")
        ascent.locator('[data-do="climb"]', has_text="Pause").click()
        return np.reshape(ascent.evaluate("shown[0]"), (3, 28, 28)), ascent.evaluate("places[0]")

    yield first
    ascent.evaluate("window.forget()")


def test_a_picture_is_shaken_by_no_more_than_the_recipe_says(ascent, first_step):
    feature = ascent.locator('[data-choice="feature"]')
    for name in markup.SWITCHES:
        ascent.locator(f'[data-choice="{name}"]').set_checked(False)
    found = []
    for _ in range(3):
        ascent.locator('[data-choice="jitter"]').set_checked(False)
        start, _ = first_step(ascent.locator('[data-do="noise"]').click)
        ascent.locator('[data-choice="jitter"]').set_checked(True)
        shaken, _ = first_step(lambda: feature.fill("4"))  # from the same noise
        reach = range(-REGULARISED.jitter, REGULARISED.jitter + 1)
        moves = [(y, x) for y in reach for x in reach if (np.roll(start, (y, x), (1, 2)) == shaken).all()]
        assert len(moves) == 1
        found += moves
    assert len(set(found)) > 1


def test_the_middle_unit_is_climbed_where_it_is_chosen(ascent, first_step):
    position = ascent.locator('[data-choice="position"]')
    for part, place, told in (("middle", [3, 3], "its middle unit"), ("map", [-1, -1], "its whole map")):
        _, found = first_step(lambda part=part: position.select_option(part))
        assert found == place
        climb(ascent, 2)
        assert f"layer 3, feature 4, {told}: the answer went" in ascent.locator(".zf-says").inner_text()
        assert f'position="{part}"' in copied(ascent.locator(".zf-explorer"), "Copy the Python")


def test_it_climbs_and_pauses_and_climbs_on(ascent):
    opened = ascent
    opened.locator('[data-do="noise"]').click()
    opened.locator('[data-do="climb"]', has_text="Pause").wait_for()
    opened.locator('[data-do="climb"]').click()
    climb(opened, 25)
    values = history(opened)
    assert values[-1] > values[0]
    assert (
        "layer 3, feature 4, its whole map: the answer went from" in opened.locator(".zf-says").inner_text()
    )
    shown = pixels(opened)
    (state,) = assets.states(opened.content())
    opened.evaluate(TWO_PASSES, state["network"])  # a step takes two: what went on would have ended
    np.testing.assert_array_equal(pixels(opened), shown)
    climb(opened, len(values) + 3)
    assert len(history(opened)) > len(values)


def test_the_start_is_drawn_once_for_the_whole_ascent(ascent):
    opened = ascent
    climb(opened, len(history(opened)) + 1)
    opened.locator('[data-panel="start"] img').evaluate("""image => {
        window.drawings = 0;
        new MutationObserver(some => { window.drawings += some.length; }).observe(image, {attributes: true});
    }""")
    climb(opened, len(history(opened)) + 3)
    assert opened.evaluate("window.drawings") == 0


def test_regularisers_and_choices_change_the_picture_in_the_page(ascent):
    opened = ascent
    found = []
    for on in (True, False):
        for name in markup.SWITCHES:
            opened.locator(f'[data-choice="{name}"]').set_checked(on)
        opened.locator('[data-choice="feature"]').fill("5" if on else "6")
        opened.locator('[data-choice="feature"]').fill("4")
        opened.locator('[data-do="climb"]', has_text="Pause").wait_for()
        opened.locator('[data-do="climb"]').click()
        climb(opened, 20)
        found.append(pixels(opened).astype(float))
    roughness = [np.abs(np.diff(picture, axis=1)).mean() for picture in found]
    assert roughness[1] > 1.2 * roughness[0]
    opened.locator('[data-choice="layer"]').select_option("logits")
    opened.locator('[data-choice="target"]').select_option("2")
    opened.locator('[data-do="climb"]', has_text="Pause").wait_for()
    assert opened.locator(".zf-says").inner_text() == ""  # of the old ascent nothing is true of the new goal
    opened.locator('[data-do="climb"]').click()
    climb(opened, 5)
    assert "rocket, the logit of the class" in opened.locator(".zf-says").inner_text()
    assert not opened.locator('[data-choice="feature"]').is_visible()
    opened.locator('[data-photograph="coffee"]').click()
    opened.locator('[data-photograph="coffee"][aria-pressed="true"]').wait_for()
    opened.locator('[data-do="climb"]', has_text="Pause").wait_for()
    opened.locator('[data-do="climb"]').click()
    explorer = opened.locator(".zf-explorer")
    assert 'start=to_input([photographs()["coffee"]], card)[0],' in copied(explorer, "Copy the Python")
    opened.locator('[data-do="noise"]').click()
    opened.locator('[data-do="climb"]').click()
    assert "start=None" in copied(explorer, "Copy the Python")


def test_an_ascent_from_a_picture_of_ones_own_says_no_longer_that_it_is_read(opened):
    stream = io.BytesIO()
    Image.fromarray(PICTURES["coffee"].pixels[100:260, 120:350]).save(stream, "PNG")
    drop(opened.locator(".zf-explorer"), "mine.png", stream.getvalue())
    opened.locator('[data-photograph="mine.png"][aria-pressed="true"]').wait_for()
    opened.locator('[data-do="climb"]', has_text="Pause").wait_for()
    assert opened.locator(".zf-status").inner_text() == markup.WORDS["hint"]
    opened.locator('[data-do="climb"]').click()


def test_a_step_that_fails_ends_the_ascent_and_one_that_was_pushed_out_does_not(opened):
    (state,) = assets.states(opened.content())
    opened.evaluate(
        """async name => {
            window.network = await zfcore.Network.load(name);
            network.project = async () => { delete network.project; throw new Error("out of memory"); };
        }""",
        state["network"],
    )
    button = opened.locator('[data-do="climb"]')
    button.click()
    opened.locator(".zf-problem", has_text="out of memory").wait_for()
    assert button.inner_text() == "Climb"
    opened.evaluate("() => { network.forward = async () => { delete network.forward; return null; }; }")
    climb(opened, len(history(opened)) + 2)


def test_the_regularisers_are_not_printed(opened):
    opened.emulate_media(media="print")
    assert not opened.locator(".zf-switches").is_visible()
    opened.emulate_media(media="screen")


def test_an_ascent_works_by_keyboard(opened):
    opened.locator('[data-do="climb"]').focus()
    opened.keyboard.press("Enter")
    opened.locator('[data-do="climb"]', has_text="Pause").wait_for()
    opened.keyboard.press("Space")
    opened.locator('[data-do="climb"]', has_text="Climb").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_explorer_fits_a_phone_and_breaks_no_rule(opened, scheme):
    fits_a_phone_and_breaks_no_rule(opened, scheme)
