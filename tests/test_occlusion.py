"""The sliding square against a dozen slow lines: paste it, ask the whole network, write the answer down."""

import copy
import json
import math
import re
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import Peak
from torch import nn
from typer.testing import CliRunner

from zfcore.cli import app
from zfcore.data import photographs, to_input
from zfcore.model import ContrastNorm, build, initialize_, load
from zfcore.occlusion import fill_picture, occlusion_maps
from zfcore.trace import CELLWISE_MODULES

steady = settings(deadline=None, derandomize=True, max_examples=60)


# ------------------------------------------------------------------------------ the naive twin
@torch.no_grad()
def naive_maps(model, image, target, size, stride, hidden, fill, channel):
    """Probability, label and activation per position; ``hidden`` gives the layer's value for a picture."""
    rows = range(0, image.shape[1] - size[0] + 1, stride)
    columns = range(0, image.shape[2] - size[1] + 1, stride)
    probability, activation = image.new_zeros(2, len(rows), len(columns))
    label = torch.zeros(len(rows), len(columns), dtype=torch.int64)
    for r, top in enumerate(rows):
        for c, left in enumerate(columns):
            square = slice(None), slice(top, top + size[0]), slice(left, left + size[1])
            picture = image.clone()
            picture[square] = fill[square]
            logits = model(picture[None])[0]
            probability[r, c], label[r, c] = logits.softmax(0)[target], logits.argmax()
            activation[r, c] = hidden(picture[None])[0, channel].sum()
    return probability, label, activation


def agree(maps, expected, **tolerance):
    probability, label, activation = expected
    torch.testing.assert_close(maps.probability, probability, **tolerance)
    torch.testing.assert_close(maps.label, label, rtol=0, atol=0)
    torch.testing.assert_close(maps.activation, activation, **tolerance)


exactly = {"rtol": 1e-9, "atol": 1e-10}


# ------------------------------------------------------------------------------ networks by chance
@st.composite
def convolutions(draw, channels):
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)) | st.integers(1, 4).map(lambda k: (k, k)))
    groups = draw(st.sampled_from([1, 1, 2]))
    stride = draw(st.sampled_from([1, 1, 1, 2, (1, 2), 3]))
    dilation = draw(st.sampled_from([1, 1, 1, 2]))
    padding = tuple(draw(st.integers(0, k)) for k in kernel)
    if stride == 1 and all(k % 2 for k in kernel) and draw(st.booleans()):  # PyTorch warns of even ones
        padding = "same"
    bias = draw(st.booleans())
    with_settings = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": bias,
    }
    return nn.Conv2d(channels, draw(st.sampled_from([2, 4])), kernel, **with_settings)


@st.composite
def poolings(draw):
    size = draw(st.integers(1, 3))
    padding, stride = draw(st.integers(0, size // 2)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        dilation = draw(st.sampled_from([1, 1, 2]))
        return nn.MaxPool2d(size, stride, padding, dilation=dilation, ceil_mode=draw(st.booleans()))
    return nn.AvgPool2d(size, stride, padding)


@st.composite
def sequences(draw):
    """(network, its layers of maps, side lengths of a picture): no operation comes to an empty map."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    sides = draw(st.tuples(st.integers(5, 19), st.integers(5, 19)))
    layers, channels, x = nn.Sequential(), 2, torch.zeros(1, 2, *sides)
    others = st.sampled_from(
        ["relu", "relu", "contrast", "lrn", "batch", "dropout", "identity", "tanh", "prelu"]
    )
    for _ in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(["conv", "conv", "pool", "other"]))
        if kind == "conv":
            operation = draw(convolutions(channels))
        elif kind == "pool":
            operation = draw(poolings())
        else:
            operation = {
                "relu": nn.ReLU(inplace=draw(st.booleans())),
                "contrast": ContrastNorm(3, 0.1),
                "lrn": nn.LocalResponseNorm(2, 0.1),
                "batch": nn.BatchNorm2d(channels),
                "dropout": nn.Dropout(),
                "identity": nn.Identity(),
                "tanh": nn.Tanh(),
                "prelu": nn.PReLU(channels),
            }[draw(others)]
        try:
            with torch.no_grad():
                y = operation.eval()(x)
        except RuntimeError:
            continue  # larger than the map
        if y.isinf().any():
            continue  # a dilated pool with windows that see only padding
        assume(y.numel() < 4000)
        x = y
        channels = x.shape[1]
        layers.append(operation)
    for module in layers:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    assume(any(isinstance(module, nn.Conv2d) for module in layers))
    ends = draw(st.sampled_from([[], [nn.AdaptiveAvgPool2d((2, 3))], [nn.AdaptiveMaxPool2d(1)]]))
    head = nn.Sequential(*ends, nn.Flatten())
    features = head(x).shape[1]
    model = nn.Sequential(*layers, *head, nn.Linear(features, 5), nn.ReLU(True), nn.Linear(5, 4))
    return model.double(), len(layers), sides


@st.composite
def squares(draw, sides):
    return tuple(draw(st.integers(1, side)) for side in sides), draw(st.integers(1, 6))


@steady
@given(sequences(), st.data())
def test_any_sequence_gives_what_the_slow_lines_give(made, data):
    model, maps, sides = made
    size, stride = data.draw(squares(sides))
    image = torch.randn(2, *sides, dtype=torch.float64)
    fill = data.draw(st.sampled_from([0.0, -1.5, torch.randn_like(image)]))
    number = data.draw(st.integers(0, len(model) - 1))
    memory = data.draw(st.sampled_from([None, 1, 20_000]))
    channel = 1 if number < maps else 0
    hidden = copy.deepcopy(model[: number + 1])
    for module in hidden:
        if hasattr(module, "inplace"):
            module.inplace = False
    hidden.eval()
    found = occlusion_maps(model, image, 3, size, stride, str(number), fill, channel, memory=memory)
    assert found.method == "incremental"
    full = fill if isinstance(fill, torch.Tensor) else torch.full_like(image, fill)
    model.eval()
    agree(found, naive_maps(model, image, 3, size, stride, hidden, full, channel), **exactly)


class Twisted(nn.Module):
    """A sequence as people write it: functions, a reused ReLU, in place, and a view by the batch's size."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3)
        self.relu, self.last = nn.ReLU(inplace=True), nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.first(x)), 2)
        x = F.dropout(self.relu(self.second(x)).relu_(), training=self.training)
        return self.last(x.view(x.size(0), -1))


class Residual(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.stem, self.branch = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.join, self.last = join, nn.Linear(8 if join == "cat" else 4, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = self.branch(x)
        x = torch.cat((x, y), 1) if self.join == "cat" else x + y
        return self.last(x.mean((2, 3)))


def without_statistics():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 3))


def hooked():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 3))
    model[1].register_forward_hook(
        lambda module, inputs, output: output / output.amax((1, 2, 3), keepdim=True)
    )
    return model


class Unpacked(nn.Module):
    """Asks the picture and its maps for their shapes, and goes on with what they say."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x):
        pictures, _, height, width = x.shape
        y = torch.relu(self.first(x))
        channels = y.size(1)
        y = torch.relu(self.last(y))
        y = y.view(pictures, channels * (height - 4) * (width - 4))
        return self.fc(y / x.dim())


def padded_by_reflection():
    conv = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 12 * 12, 3))


@pytest.mark.parametrize(
    ("make", "layer", "method"),
    [
        (Twisted, "second", "incremental"),
        (Twisted, "last", "incremental"),
        (lambda: Residual("sum"), "branch", "plain"),
        (lambda: Residual("cat"), "cat", "plain"),
        (without_statistics, "1", "plain"),
        (hooked, "1", "incremental"),
        (Unpacked, "last", "incremental"),
        (padded_by_reflection, "1", "plain"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(288, 3)), "1", "plain"),
    ],
)
def test_the_result_says_which_way_it_was_computed_and_both_are_exact(make, layer, method):
    torch.manual_seed(1)
    model, image = make().double(), torch.randn(2, 12, 12, dtype=torch.float64)
    seen = {}
    found = occlusion_maps(model, image, 1, (5, 4), 2, layer, channel=1)
    model.get_submodule(layer if layer != "cat" else "branch").register_forward_hook(
        lambda module, inputs, output: seen.update(value=output.clone())
    )

    def hidden(picture):
        model(picture)
        if layer == "cat":
            return torch.relu(model.stem(picture))  # its second map is the concatenation's second
        return seen["value"]

    assert found.method == method
    agree(found, naive_maps(model.eval(), image, 1, (5, 4), 2, hidden, torch.zeros_like(image), 1), **exactly)


class Certain(nn.Module):
    def forward(self, x):
        return F.softmax(x, 1)


@pytest.mark.parametrize("last", [nn.Softmax(1), Certain()])
def test_a_network_that_ends_in_a_softmax_is_asked_for_its_logits(last):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 10 * 10, 3), last)
    with pytest.raises(ValueError, match="ends in a softmax"):
        occlusion_maps(model, torch.randn(2, 12, 12), 1, 4, 3)


@pytest.mark.parametrize("cellwise", CELLWISE_MODULES)
def test_whatever_leaves_each_value_in_its_cell_goes_the_fast_way(cellwise):
    torch.manual_seed(0)
    settings = {nn.BatchNorm2d: (4,), nn.LocalResponseNorm: (3,)}.get(cellwise, ())
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), cellwise(*settings), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(3 * 8 * 8, 3)
    ).double()  # fmt: skip
    image = torch.randn(2, 12, 12, dtype=torch.float64)
    found = occlusion_maps(model, image, 1, 4, 3)
    assert found.method == "incremental"
    model.eval()
    for row, column in ((0, 0), (1, 2)):
        occluded = image.clone()
        occluded[:, 3 * row : 3 * row + 4, 3 * column : 3 * column + 4] = 0
        wanted = model(occluded[None]).softmax(1)[0, 1]
        torch.testing.assert_close(found.probability[row, column], wanted, **exactly)


@pytest.mark.parametrize("size", [1, 3, 1 << 40])
def test_plain_batches_of_any_size_give_the_same(size):
    torch.manual_seed(0)
    model, image = Residual("sum").double(), torch.randn(2, 9, 7, dtype=torch.float64)
    in_batches = occlusion_maps(model, image, 0, 3, 2, "branch", memory=size * 9 * 7 * 4 * 8 * 3)
    one_by_one = occlusion_maps(model, image, 0, 3, 2, "branch", memory=1)
    torch.testing.assert_close(in_batches.probability, one_by_one.probability, **exactly)
    torch.testing.assert_close(in_batches.activation, one_by_one.activation, **exactly)


def test_a_size_may_be_an_integer_of_numpys():
    model, image = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(105, 2)), torch.randn(2, 9, 7)
    found = occlusion_maps(model, image, 0, np.int64(3), 2)
    torch.testing.assert_close(found.probability, occlusion_maps(model, image, 0, 3, 2).probability)


# ------------------------------------------------------------------------------ by hand
def bright_corner():
    """Class 1's logit is the sum of the picture, class 0's is always 1; the picture has two bright pixels."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(30, 2))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[2].weight.copy_(torch.stack((torch.zeros(30), torch.ones(30))))
        model[2].bias.copy_(torch.tensor([1.0, 0.0]))
    image = torch.zeros(1, 5, 6)
    image[0, 0, 0], image[0, 4, 5] = 2.0, 1.0
    return model, image


def test_an_entry_belongs_to_the_square_with_its_corner_there():
    model, image = bright_corner()
    maps = occlusion_maps(model, image, 1, 2, 2, layer="0")
    # Rows of squares begin at 0 and 2, columns at 0, 2, 4; the last row of pixels is never covered.
    assert maps.activation.tolist() == [[1, 3, 3], [3, 3, 3]]
    torch.testing.assert_close(maps.probability, torch.sigmoid(maps.activation - 1))
    assert maps.unoccluded.activation == 3
    assert maps.unoccluded.label == 1
    torch.testing.assert_close(maps.unoccluded.probability, torch.sigmoid(torch.tensor(2.0)))


def test_of_equally_probable_classes_the_first_is_the_label():
    model, image = bright_corner()
    maps = occlusion_maps(model, image, 1, 2, 2)
    assert maps.label.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert maps.label.dtype == torch.int64


def test_the_square_may_be_a_rectangle_as_large_as_the_picture():
    model, image = bright_corner()
    assert occlusion_maps(model, image, 1, (5, 6), 1, layer="0").activation.tolist() == [[0]]
    assert occlusion_maps(model, image, 1, (1, 6), 4, layer="0").activation.tolist() == [[1], [2]]


def test_the_strongest_map_is_the_one_with_the_largest_sum_and_of_equals_the_first():
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=True), nn.Flatten(), nn.Linear(4 * 16, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([5.0, 0, 0, -1]).view(4, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.0, 0.5, 0.5, 0]))
    image = torch.zeros(1, 4, 4)
    image[0, 1, 1] = 1  # map 0 has the largest value, 5; maps 1 and 2 the largest sum, 8
    assert occlusion_maps(model, image, 0, 2, 2, layer="0").channel == 1
    assert occlusion_maps(model, image, 0, 2, 2, layer="0", channel=3).channel == 3
    assert occlusion_maps(model, image, 0, 2, 2).channel is None
    assert occlusion_maps(model, image, 0, 2, 2).activation is None


def test_a_square_no_unit_looks_at_changes_nothing():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, stride=3), nn.Tanh(), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(8, 2)
    )
    image = torch.randn(1, 6, 6) + 4
    maps = occlusion_maps(model, image, 0, 1, 1, memory=1)  # one position at a time
    seen = torch.zeros(6, 6, dtype=torch.bool)
    seen[::3, ::3] = True
    assert maps.method == "incremental"
    torch.testing.assert_close(maps.probability[~seen], maps.unoccluded.probability.expand(32))
    assert (maps.probability[seen] != maps.unoccluded.probability).all()


def test_a_field_with_holes_may_hold_a_square_that_none_of_its_units_sees():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 2, 1, 2), nn.Conv2d(2, 3, (1, 2)), nn.Conv2d(3, 2, (3, 1)), nn.Tanh()
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 4)).double()
    image, size = torch.randn(2, 5, 5, dtype=torch.float64), (1, 1)
    maps = occlusion_maps(model, image, 0, size, 1, "3", channel=1, memory=1)
    assert maps.method == "incremental"
    agree(maps, naive_maps(model, image, 0, size, 1, model[:4], torch.zeros_like(image), 1), **exactly)


# ------------------------------------------------------------------------------ what stands in the square
def shown(fill, size=4, **options):
    """What a network sees in the square's first place."""
    torch.manual_seed(0)
    image = torch.randn(3, 20, 16) + torch.tensor([0.0, 5.0, -5.0])[:, None, None]
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 16, 2))
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    occlusion_maps(model, image, 0, size, 1, fill=fill, **options)
    before, after = image, seen[1][0]
    assert torch.equal(before[:, size:], after[:, size:])
    assert torch.equal(before[:, :, size:], after[:, :, size:])
    return image, after[:, :size, :size]


def test_a_mean_is_that_of_each_channel():
    image, square = shown("mean")
    torch.testing.assert_close(square, image.mean((1, 2))[:, None, None].expand(3, 4, 4))


def test_a_value_is_in_units_of_the_input():
    assert (shown(-1.5)[1] == -1.5).all()


def test_a_picture_shows_through_the_square():
    picture = torch.arange(960.0).view(3, 20, 16)
    assert torch.equal(shown(picture)[1], picture[:, :4, :4])


def test_noise_is_the_same_with_the_same_seed_and_as_bright_as_the_picture():
    first, again, other = (shown("noise", 15, seed=seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.mean((1, 2)), torch.tensor([0.0, 5.0, -5.0]), rtol=0, atol=0.3)
    torch.testing.assert_close(first.std((1, 2)), torch.ones(3), rtol=0, atol=0.2)


def test_a_blur_keeps_a_flat_picture_and_smooths_any_other():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(3 * 64, 2))
    flat = occlusion_maps(model, torch.full((3, 8, 8), 0.7), 0, 3, 1, fill="blur")
    torch.testing.assert_close(flat.probability, flat.unoccluded.probability.expand(6, 6))
    image, square = shown("blur")
    assert (square.std((1, 2)) < 0.5 * image[:, :4, :4].std((1, 2))).all()
    torch.testing.assert_close(square.mean((1, 2)), image.mean((1, 2)), rtol=0, atol=0.8)


def test_a_blur_is_a_mean_weighted_by_a_gaussian_of_half_the_squares_mean_side():
    image = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(0)).double()
    found = fill_picture(image, "blur", (4, 6))
    cells = list(product(range(9), range(7)))
    for y, x in cells:
        weights = [math.exp(-((y - i) ** 2 + (x - j) ** 2) / (2 * 2.5**2)) for i, j in cells]
        expected = sum(w * image[:, i, j] for w, (i, j) in zip(weights, cells, strict=True)) / sum(weights)
        torch.testing.assert_close(found[:, y, x], expected)


# ------------------------------------------------------------------------------ the caller's model
def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    model = Twisted().train()
    model.second.eval()
    model.last.weight.requires_grad_(False)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    before = copy.deepcopy(model)
    image = torch.randn(2, 12, 12, requires_grad=True)
    copied = image.detach().clone()
    maps = occlusion_maps(model, image, 0, 4, 4, "first")
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    for ours, theirs in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad == theirs.requires_grad
    assert [p.grad is not None for p in model.parameters()] == [True] + 5 * [False]
    assert torch.equal(image, copied)
    assert not maps.probability.requires_grad
    again = occlusion_maps(model.eval(), image, 0, 4, 4, "first")
    assert torch.equal(maps.probability, again.probability)  # dropout was off the first time as well


def fixed_bytes(model, image):
    """The unoccluded picture's own maps, twice, and the filters at up to 6 × 6 points instead of 3 × 3."""
    made = []
    hooks = [m.register_forward_hook(lambda m, i, o: made.append(o.nbytes)) for m in model]
    with torch.no_grad():
        model(image[None])
    for hook in hooks:
        hook.remove()
    return 2 * sum(made) + sum(5 * m.weight.nbytes for m in model if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("memory", [2**21, 2**23])
@pytest.mark.parametrize("method", ["incremental", "plain"])
def test_the_working_memory_stays_within_the_budget(memory, method):
    torch.manual_seed(0)
    first, second, third = nn.Conv2d(3, 16, 5, 2, 2), nn.Conv2d(16, 24, 3, 1, 1), nn.Conv2d(24, 24, 3, 1, 1)
    head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 64, 30)]
    model = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), third, nn.ReLU(), *head)
    image = torch.randn(3, 64, 64)
    if method == "plain":
        first.padding_mode = "reflect"
    with Peak() as peak:
        maps = occlusion_maps(model, image, 0, 16, 3, layer="3", memory=memory)
    assert maps.method == method
    assert peak.most <= memory + fixed_bytes(model, image)
    with Peak() as lavish:
        occlusion_maps(model, image, 0, 16, 3, layer="3", memory=2**34)
    assert lavish.most > peak.most  # so that it was the budget that held it


# ------------------------------------------------------------------------------ kinds of numbers
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_the_plain_way(dtype):
    torch.manual_seed(0)
    model, image = Twisted(), torch.randn(2, 12, 12)
    exact = occlusion_maps(model, image, 0, 4, 4, "second")
    half = occlusion_maps(model.to(dtype), image.to(dtype), 0, 4, 4, "second")
    assert (exact.method, half.method) == ("incremental", "plain")
    assert half.probability.dtype == torch.float32
    torch.testing.assert_close(half.probability, exact.probability, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ["zfnet-64", "zfnet-64-coarse", "alexnet-64", "zfnet-public"])
def test_the_papers_networks_are_incremental_and_exact(name):
    torch.manual_seed(0)
    model = build(name, 10, 56 if name != "zfnet-public" else 112, width=0.25).double().eval()
    initialize_(model, "he")
    size = model.architecture.input_size
    image, layer = torch.randn(3, size, size, dtype=torch.float64), model.architecture.named_layers()["relu5"]
    found = occlusion_maps(model, image, 2, size // 4, size // 6, layer)
    assert found.method == "incremental"
    hidden = model.features[: int(layer.split(".")[1]) + 1]
    none = torch.zeros_like(image)
    agree(
        found,
        naive_maps(model, image, 2, (size // 4,) * 2, size // 6, hidden, none, found.channel),
        **exactly,
    )


def test_the_shipped_network_in_single_precision_is_within_a_ten_thousandth():
    model, card = load("zfnet-64")
    torch.manual_seed(0)
    image = torch.randn(3, card["input_size"], card["input_size"])
    last = model.architecture.named_layers()["fc8"]
    logits = occlusion_maps(model, image, 5, 14, 7, last, channel=5)
    exact = occlusion_maps(model.double(), image.double(), 5, 14, 7, last, channel=5)
    assert (logits.activation - exact.activation).abs().max() < 1e-4
    assert (logits.probability - exact.probability).abs().max() < 1e-5


def test_progress_counts_positions(capsys):
    model, image = bright_corner()
    occlusion_maps(model, image, 0, 2, 2, progress=True)
    assert "6/6" in capsys.readouterr().err
    occlusion_maps(model, image, 0, 2, 2)
    assert not capsys.readouterr().err


# ------------------------------------------------------------------------------ what is given wrongly
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 7}, r"a square of 7×7 px is larger than the picture, 5×6; give a smaller size"),
        ({"size": (6, 2)}, r"6×2 px is larger than the picture, 5×6"),
        ({"size": 0}, r"size is \(0, 0\) and stride 1; give positive"),
        ({"size": (2, -1)}, r"size is \(2, -1\)"),
        ({"stride": 0}, r"stride 0; give positive"),
        ({"target": 2}, r"classes 0 to 1; got target 2"),
        ({"target": -1}, r"classes 0 to 1; got target -1"),
        ({"layer": "conv9"}, r"no layer 'conv9'; this network has: 0, 1, 2"),
        ({"layer": "0", "channel": 1}, r"layer '0' has channels 0 to 0; got 1"),
        ({"channel": 0}, r"channel 0 of which layer\? Give layer as well"),
        ({"fill": "grey"}, r"unknown fill 'grey'; known: mean, blur, noise, a number, or a picture"),
        ({"fill": torch.zeros(3, 5, 6)}, r"fill is \(3, 5, 6\), the picture \(1, 5, 6\)"),
        ({"memory": 0}, r"memory is 0; give a positive number of bytes"),
        ({"image": torch.zeros(2, 1, 5, 6)}, r"image is \(2, 1, 5, 6\); give one picture .*\(C, H, W\)"),
        ({"image": "cat.jpg"}, r"image is str; give one picture"),
        ({"image": torch.zeros(3, 5, 6)}, r"3 channels, .*takes 1"),
        ({"image": torch.zeros(1, 5, 6).double()}, r"torch.float64 .*torch.float32.*bring both to one"),
        ({"image": torch.zeros(1, 4, 6)}, r"do not pass '2'"),
    ],
)
def test_an_error_says_what_was_given_and_what_is_accepted(wrong, message):
    model, image = bright_corner()
    given = {"image": image, "target": 0, "size": 2, "stride": 1} | wrong
    with pytest.raises(ValueError, match=message):
        occlusion_maps(model, **given)


def test_a_network_that_returns_more_than_logits_is_told_what_to_do():
    class Two(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x

    with pytest.raises(ValueError, match="wrap it in a module that returns its logits alone"):
        occlusion_maps(Two(), torch.zeros(3, 5, 5), 0, 2, 2)
    with pytest.raises(
        ValueError, match=re.escape("returns (1, 3, 5, 5); occlusion needs logits (N, classes)")
    ):
        occlusion_maps(nn.Sequential(nn.ReLU()), torch.zeros(3, 5, 5), 0, 2, 2)


# ------------------------------------------------------------------------------ other people's networks
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "method"),
    [
        ("alexnet", 224, "incremental"),
        ("vgg16", 224, "incremental"),
        ("vgg11_bn", 96, "incremental"),
        ("resnet18", 96, "plain"),
        ("squeezenet1_1", 96, "plain"),
        ("googlenet", 96, "plain"),
    ],
)
def test_torchvisions_networks(name, side, method):
    from torchvision.models import get_model

    torch.manual_seed(0)
    options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    model, image = get_model(name, weights=None, **options), torch.randn(3, side, side)
    found = occlusion_maps(model.eval(), image, 3, side // 4, side // 4)
    assert found.method == method
    none = torch.zeros_like(image)
    probability, label, _ = naive_maps(
        model, image, 3, (side // 4,) * 2, side // 4, lambda x: torch.zeros(1, 1), none, 0
    )
    torch.testing.assert_close(found.probability, probability, rtol=1e-4, atol=1e-7)
    assert torch.equal(found.label, label)


# ------------------------------------------------------------------------------ the shell
@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    file = tmp_path_factory.mktemp("photographs") / "cat.png"
    Image.fromarray(photographs()["chelsea"].pixels).save(file)
    return file


def test_the_shell_writes_pictures_and_numbers(photograph, tmp_path):
    arguments = [
        str(photograph),
        "--target",
        "tabby",
        "--size",
        "20",
        "--stride",
        "9",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(app, ["occlude", *arguments])
    assert result.exit_code == 0, result.output
    assert "tabby: " in result.output
    said = json.loads((tmp_path / "occlusion.json").read_text(encoding="utf-8"))
    network, card = load("zfnet-64")
    image = to_input([photograph], card)[0]
    maps = occlusion_maps(network, image, card["labels"].index("tabby"), 20, 9, said["layer"])
    assert said["layer"] == network.architecture.named_layers()["relu5"]
    assert said["channel"] == maps.channel
    assert said["label"] == maps.label.tolist()
    torch.testing.assert_close(torch.tensor(said["probability"]), maps.probability)
    torch.testing.assert_close(torch.tensor(said["activation"]), maps.activation)
    assert {int(n) for n in said["labels"]} == set(maps.label.flatten().tolist())
    assert str(photograph.parent) not in json.dumps(said)  # no path of this machine
    with Image.open(tmp_path / "occlusion.png") as drawing:
        assert drawing.width > 1000
    assert (tmp_path / "occlusion.svg").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "tabbi"], "no class 'tabbi'; give a label (say, tabby"),
        (["--target", "200"], "an id, or 0 to 199"),
        (["--fill", "grey"], "unknown fill 'grey'; known: mean, blur, noise"),
        (["--layer", "conv9"], "no layer 'conv9'; layer 1 (features.1), "),
        (["--size", "57"], "larger than the picture, 56×56"),
    ],
)
def test_the_shell_tells_what_is_wrong_in_a_line(photograph, tmp_path, options, message):
    result = CliRunner().invoke(app, ["occlude", str(photograph), "--out", str(tmp_path), *options])
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)


def test_the_callers_autocast_changes_nothing():
    model, image = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)),
        torch.rand(3, 20, 20),
    )
    model(image[None])
    exact = occlusion_maps(model.eval(), image, 1, 6, 3, "1")
    with torch.autocast("cpu", torch.bfloat16):
        found = occlusion_maps(model, image, 1, 6, 3, "1")
    assert found.method == exact.method
    torch.testing.assert_close(found.probability, exact.probability)


@pytest.mark.parametrize("given", [{"stride": 4.0}, {"size": 8.0}, {"fill": (0.0, 0.0, 0.0)}, {"fill": None}])
def test_what_is_no_whole_number_or_no_fill_is_told(given):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)).eval()
    with pytest.raises(ValueError, match=r"whole numbers of pixels|or a finite number"):
        occlusion_maps(model, torch.rand(3, 16, 16), 0, **{"size": 8, "stride": 4} | given)


def test_sums_of_half_precision_do_not_overflow():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    model[0].weight.data = torch.tensor([1.0, 2.0])[:, None, None, None]
    model[0].bias.data.zero_()
    found = occlusion_maps(model.half(), torch.full((1, 64, 64), 30.0).half(), 0, 32, 32, "1")
    assert found.channel == 1
    assert found.unoccluded.activation == 60 * 64**2
    torch.testing.assert_close(found.activation, torch.full((2, 2), 60.0 * (64**2 - 32**2)))
