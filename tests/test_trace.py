"""Layer names, taps, and what a unit sees: proved by disturbing pixels."""

import runpy
import weakref
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from zfcore.model import ARCHITECTURES, ContrastNorm, build
from zfcore.trace import Geometry, trace

steady = settings(deadline=None, derandomize=True, max_examples=25)


class Reused(nn.Module):
    """One ReLU module three times, an in-place function, a method, a residual sum and a concatenation."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.first(x))
        y = self.relu(self.second(x))
        y = self.relu(y + x)
        y = torch.cat([F.relu(y, inplace=True), x.relu()], 1)
        return self.fc(y.mean((2, 3)))


# ------------------------------------------------------------------------------ names
def test_layers_are_module_paths_in_order():
    t = trace(build("zfnet-64"))
    assert t.layers[:5] == ["features.0", "features.1", "features.2", "features.3", "features.4"]
    assert t.layers == list(ARCHITECTURES["zfnet-64"].named_layers().values())


def test_a_module_called_again_is_counted_and_functions_have_the_tracers_names():
    assert trace(Reused()).layers == [
        "first", "relu", "second", "relu_1", "add", "relu_2", "relu_3", "relu_4", "cat", "mean", "fc",
    ]  # fmt: skip


def test_a_path_is_never_taken_by_a_count_or_a_function():
    class Awkward(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.relu_1, self.dim = nn.ReLU(), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.dim(self.relu_1(self.relu(F.relu(self.relu(x)))))

    t = trace(Awkward())
    assert len(t.layers) == len(set(t.layers)) == 5
    assert {"relu", "relu_1", "dim"} < set(t.layers)
    assert t.operations[t.node("relu_1")] is not t.operations[t.node("relu")]
    assert t.node("relu_1").target == "relu_1"


def test_blocks_of_a_file_that_was_run_are_followed_into(tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "class Block(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.relu = nn.Conv2d(3, 3, 3), nn.ReLU()\n"
        "    def forward(self, x):\n"
        "        return self.relu(self.conv(x))\n"
        "def make():\n"
        "    return nn.Sequential(Block(), Block())\n",
        encoding="utf-8",
    )
    made = runpy.run_path(str(tmp_path / "own.py"))["make"]()
    assert trace(made).layers == ["0.conv", "0.relu", "1.conv", "1.relu"]


def test_sizes_are_no_layers():
    class Flat(nn.Module):
        def forward(self, x):
            return x.view(x.size(0), -1, x.shape[2] * x.shape[3])

    assert trace(Flat()).layers == ["view"]


# ------------------------------------------------------------------------------ geometry
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("zfnet", (7, 27, 75, 107, 139)),
        ("zfnet-64", (7, 17, 29, 37, 45)),
        ("zfnet-64-coarse", (7, 17, 41, 57, 73)),
        ("alexnet-64", (11, 31, 55, 71, 87)),
    ],
)
def test_receptive_fields_of_the_networks_are_those_of_the_design(name, fields):
    model = build(name)
    layers = model.architecture.named_layers()
    geometry = trace(model).geometry
    assert tuple(geometry[layers[f"relu{n}"]].receptive_field for n in range(1, 6)) == fields


def test_the_box_of_a_unit_is_its_field_in_pixels():
    geometry = trace(build("zfnet")).geometry["features.1"]
    assert geometry == Geometry(receptive_field=7, stride=2, offset=-1)
    assert geometry.box(0, 0) == (-1, -1, 6, 6)
    assert geometry.box(10, 20) == (19, 39, 26, 46)


def test_where_branches_meet_the_field_holds_all_of_them():
    class Inception(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.five = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 5, padding=2)
            self.asymmetric = nn.Conv2d(3, 2, (1, 7), padding=(0, 3))

        def forward(self, x):
            return torch.cat([self.one(x), self.five(x), self.asymmetric(x)], 1)

    geometry = trace(Inception()).geometry
    assert geometry["one"] == Geometry(1, 1, 0)
    assert geometry["asymmetric"] == Geometry((1, 7), 1, (0, -3))
    assert geometry["cat"] == Geometry((5, 7), 1, (-2, -3))


def test_units_that_see_the_whole_picture_have_no_field():
    geometry = trace(Reused()).geometry
    assert "cat" in geometry
    assert "mean" not in geometry
    assert "fc" not in geometry
    assert "classifier.0" not in trace(build("zfnet-64")).geometry


def test_a_convolution_that_wraps_around_has_no_field():
    assert trace(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"))).geometry == {}


@st.composite
def convolutional(draw):
    """Random towers of windows, with a residual branch or a concatenation in places."""
    layers, channels = [], 3
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        kind = draw(st.sampled_from(["conv", "max", "average", "same", "norm"]))
        half = tuple(draw(st.integers(0, n // 2)) for n in size)
        if kind == "conv":
            dilation = draw(st.integers(1, 2))
            layers.append(nn.Conv2d(channels, 4, size, stride, half, dilation))
            channels = 4
        elif kind == "same":
            layers.append(nn.Conv2d(channels, 4, size, padding="same"))
            channels = 4
        elif kind == "norm":
            layers.append(ContrastNorm(3, alpha=0.1))
        else:
            pool = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
            layers.append(pool(size, stride, half, ceil_mode=draw(st.booleans())))
        layers.append(nn.Tanh())
    return nn.Sequential(*layers)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@steady
@given(convolutional(), st.randoms(use_true_random=False))
def test_a_pixel_outside_the_field_never_changes_the_unit(network, random):
    torch.manual_seed(random.randrange(2**32))
    network = network.double()
    for parameter in network.parameters():
        parameter.data = torch.rand_like(parameter) / parameter[0].numel()  # positive: no two paths cancel
    picture = torch.rand(1, 3, 26, 23, dtype=torch.float64, requires_grad=True)
    t = trace(network)
    layer = t.layers[-1]
    try:
        maps = t.activations(picture, [layer])[layer]
    except ValueError:  # the tower has used up the picture
        reject()
    y, x = random.randrange(maps.shape[2]), random.randrange(maps.shape[3])
    top, left, bottom, right = t.geometry[layer].box(y, x)
    inside = torch.zeros(26, 23, dtype=torch.bool)
    inside[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    disturbed = torch.where(inside, picture, 5 * torch.randn_like(picture))
    torch.testing.assert_close(
        t.activations(disturbed, [layer])[layer][..., y, x], maps[..., y, x], rtol=0, atol=1e-13
    )
    # and the field is no larger than it must be: without max pools each border pixel inside counts
    if (
        not any(isinstance(m, nn.MaxPool2d) for m in network)
        and top >= 0
        and left >= 0
        and bottom <= 26
        and right <= 23
    ):
        (slope,) = torch.autograd.grad(maps[..., y, x].sum(), picture)
        reached = slope.abs().sum((0, 1)).nonzero()
        assert reached.amin(0).tolist() == [top, left]
        assert (reached.amax(0) + 1).tolist() == [bottom, right]


# ------------------------------------------------------------------------------ taps
def test_activations_are_those_of_the_network_in_evaluation():
    torch.manual_seed(0)
    model = build("zfnet-64", width=0.25)
    pictures, t = torch.randn(2, 3, 56, 56), trace(model)
    assert model.training
    found = t.activations(pictures, ["features.4", "classifier.6"])
    model.eval()
    assert torch.equal(found["features.4"], model.features[:5](pictures))
    assert torch.equal(found["classifier.6"], model(pictures))


def test_a_tap_before_an_in_place_relu_shows_what_went_in():
    torch.manual_seed(0)
    model, pictures = Reused(), torch.randn(1, 3, 6, 6)
    t = trace(model)
    found = t.activations(pictures, t.layers)
    assert torch.equal(found["first"], model.first(pictures))
    assert found["first"].min() < 0
    assert torch.equal(found["relu"], found["first"].relu())
    assert torch.equal(found["fc"], model(pictures))


def test_a_later_reader_of_an_overwritten_tensor_sees_the_new_value():
    class Overwrites(nn.Module):
        def forward(self, x):
            x = 2 * x
            F.relu_(x)
            x.add_(1)
            return F.hardtanh(x, -3, 3, True) + x

    x = torch.randn(1, 1, 4, 4)
    t = trace(Overwrites())
    assert torch.equal(t.activations(x, ["add"])["add"], Overwrites()(x))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.flatten(1),
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.narrow(1, 0, 1),
        lambda x: x.select(1, 0),
        lambda x: x.movedim(1, 3),
        lambda x: x.unbind(1)[0],
        lambda x: x.data,
        lambda x: x.mT,
    ],
)
def test_overwriting_through_a_view_is_refused(view):
    class Through(nn.Module):
        def forward(self, x):
            x = 2 * x
            view(x).relu_()
            return x.sum(1)

    with pytest.raises(ValueError, match="'relu_' overwrites what 'sum_1' reads later"):
        trace(Through())


def test_a_tensor_given_by_keyword_is_overwritten_too():
    class ByKeyword(nn.Module):
        def forward(self, x):
            x = 2 * x
            F.hardtanh(input=x, min_val=-3, max_val=3, inplace=True)
            y = torch.relu(input=x)
            return torch.where(condition=x > 0, input=x, other=-y) + x

    x = torch.randn(1, 1, 4, 4)
    t = trace(ByKeyword())
    assert torch.equal(t.activations(x, ["add"])["add"], ByKeyword()(x))


@torch.no_grad()  # a graph would hold them
def test_a_stream_hands_out_each_layer_when_it_is_reached_and_holds_none_of_them():
    model, pictures = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4))), torch.randn(2, 3, 4, 4)
    t, handed = trace(model), {}
    together = t.activations(pictures, t.layers)
    for layer, value in t.stream(pictures, reversed(t.layers)):
        assert torch.equal(value, together[layer])
        handed[layer] = weakref.ref(value)
        alive = [name for name, reference in handed.items() if reference() is not None]
        assert alive[-1] == layer
        assert len(alive) <= 2  # it, and the one that it was computed from and that the loop held
    assert list(handed) == t.layers
    assert list(t.activations(pictures, reversed(t.layers))) == t.layers[::-1]


def test_the_pass_ends_at_the_last_wanted_layer():
    model = build("zfnet-64", width=0.25)
    other_size = torch.randn(1, 3, 70, 70)  # which the fully connected layers could not take
    assert trace(model).activations(other_size, ["features.14"])["features.14"].shape[-2:] == (8, 8)


def test_batch_norm_and_dropout_act_as_in_evaluation():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    before = model[0].running_mean.clone()
    found = trace(model).activations(torch.randn(4, 3, 5, 5), ["0", "1"])
    assert torch.equal(found["0"], found["1"])
    assert torch.equal(model[0].running_mean, before)
    assert model[0].num_batches_tracked == 0


def test_gradients_flow_through_taps():
    x = torch.randn(1, 3, 56, 56, requires_grad=True)
    trace(build("zfnet-64", width=0.25)).activations(x, ["features.1"])["features.1"].sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_trace_follows_the_training_of_its_model():
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    t, x = trace(model), torch.randn(1, 3, 4, 4)
    model.load_state_dict({"0.weight": torch.ones(2, 3, 1, 1), "0.bias": torch.zeros(2)})
    torch.testing.assert_close(t.activations(x, ["0"])["0"][:, 0], x.sum(1))
    model.double()
    torch.testing.assert_close(t.activations(x.double(), ["0"])["0"][:, 0], x.double().sum(1))


def test_the_callers_model_stays_as_it_was():
    model = Reused()
    model.second.eval()
    calls = []
    model.register_forward_hook(lambda *_: calls.append("model"))
    x = torch.randn(2, 3, 6, 6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [(m.training, getattr(m, "inplace", None), dict(m._forward_hooks)) for m in model.modules()]
    output = model(x)
    calls.clear()
    t = trace(model)
    t.activations(x, t.layers)
    assert not calls
    assert [
        (m.training, getattr(m, "inplace", None), dict(m._forward_hooks)) for m in model.modules()
    ] == flags
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(x), output)


def test_flags_are_restored_where_tracing_fails():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Conv2d(3, 3, 1), Branching())
    with pytest.raises(ValueError, match=r"Sequential cannot be traced.*\n.*model\.features"):
        trace(model)
    assert all(module.training for module in model.modules())


# ------------------------------------------------------------------------------ the result
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: nn.Sequential(nn.DataParallel(m), nn.ReLU())])
def test_a_network_that_is_wrapped_to_run_in_parallel_is_asked_for_bare(wrap):
    with pytest.raises(ValueError, match=r"give the network inside, model\.module"):
        trace(wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())))


class Returning(nn.Module):
    """Logits, and after them a layer that nobody needs; returned is what a function makes of both."""

    def __init__(self, returned):
        super().__init__()
        self.conv, self.head, self.aside = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.Linear(4, 7)
        self.returned = returned

    def forward(self, x):
        pooled = self.conv(x).mean((2, 3))
        return self.returned(x, self.head(pooled), self.aside(pooled))


def test_the_result_is_the_layer_that_is_returned_wherever_it_stands():
    t = trace(Returning(lambda x, logits, aside: logits))
    assert t.layers[-1] == "aside"
    assert t.result == "head"
    assert trace(build("zfnet-64")).result == "classifier.6"
    overwritten = trace(Returning(lambda x, logits, aside: (logits, F.relu(logits, inplace=True))[0]))
    assert overwritten.result == "relu"


@pytest.mark.parametrize(
    ("returned", "given"),
    [
        (lambda x, logits, aside: (logits, aside), r"\(head, aside\)"),
        (lambda x, logits, aside: {"logits": logits}, r"\{'logits': head\}"),
        (lambda x, logits, aside: x, "x"),
        (lambda x, logits, aside: x.shape[0], "getitem"),
    ],
)
def test_a_result_that_is_no_one_layer_is_told_with_what_to_wrap(returned, given):
    with pytest.raises(
        ValueError, match=f"Returning returns {given}; .*wrap it in a module that returns its"
    ):
        _ = trace(Returning(returned)).result


# ------------------------------------------------------------------------------ refusals
def test_an_unknown_layer_is_answered_with_the_list():
    with pytest.raises(ValueError, match="no layer 'conv9'; this network has: 0, 1"):
        trace(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())).activations(torch.randn(1, 3, 4, 4), ["conv9"])


def test_a_flag_is_what_its_default_says():
    class Flagged(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 2, 3), nn.Conv2d(2, 4, 1)

        def forward(self, x, features=False, scale=None):
            x = self.first(x)
            return x if features else self.second(x if scale is None else x * scale)

    network, x = Flagged().eval(), torch.randn(1, 3, 8, 8)
    assert trace(network).layers == ["first", "second"]
    torch.testing.assert_close(trace(network).activations(x, ["second"])["second"], network(x))


def test_a_compiled_network_is_traced_as_the_one_that_was_compiled():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval()
    assert trace(torch.compile(network)).layers == trace(network).layers


def test_one_name_is_one_layer_and_not_its_letters():
    network = nn.Sequential(OrderedDict(b=nn.Conv2d(3, 2, 1), n=nn.ReLU(), bn=nn.BatchNorm2d(2))).eval()
    assert list(trace(network).activations(torch.randn(1, 3, 4, 4), "bn")) == ["bn"]


def test_a_second_input_is_refused():
    class Two(nn.Module):
        def forward(self, x, mask):
            return x * mask

    with pytest.raises(ValueError, match="second input, 'mask'"):
        trace(Two())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 56, 56), r"\(N, C, H, W\); got torch.float32 \(3, 56, 56\)"),
        (torch.zeros(1, 3, 56, 56, dtype=torch.uint8), "got torch.uint8"),
        ([1], "got list"),
        (torch.zeros(1, 1, 56, 56), "1 channels.*'features.0' takes 3"),
        (
            torch.zeros(1, 3, 56, 56, dtype=torch.float64),
            "torch.float64 on cpu, the network is torch.float32",
        ),
        (torch.zeros(1, 3, 70, 70), "do not pass 'classifier.0'"),
        (torch.zeros(1, 3, 4, 4), "do not pass 'features"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        trace(build("zfnet-64", width=0.25)).activations(images, ["classifier.6"])


# ------------------------------------------------------------------------------ unusual networks
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "make", [lambda conv: prune.l1_unstructured(conv, "weight", 0.5), torch.nn.utils.weight_norm]
)
def test_weights_made_in_a_hook_follow_the_network_to_another_dtype(make):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    make(model[0])
    x = torch.randn(1, 3, 8, 8).double()
    torch.testing.assert_close(trace(model.double()).activations(x, ["1"])["1"], model(x))


def test_a_layer_of_ones_own_whose_weights_a_hook_makes_is_refused():
    class Own(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight, self.bias)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Own(4, 4, 1))
    prune.l1_unstructured(model[1], "weight", 0.5)
    with pytest.raises(ValueError, match=r"'1' has a forward of its own.*L1Unstructured.*prune\.remove"):
        trace(model)


def test_tensors_that_a_forward_makes_do_not_stay_on_the_network():
    class Scaled(nn.Module):
        def forward(self, x):
            return x * torch.tensor([2.0]) + torch.tensor([1.0])

    model, x = Scaled(), torch.randn(1, 3, 4, 4)
    before = set(vars(model))
    traces = [trace(model) for _ in range(2)]
    assert set(vars(model)) == before
    for one in traces:
        torch.testing.assert_close(one.activations(x, ["add"])["add"], x * 2 + 1)


def test_a_norm_of_the_batch_has_no_field():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 3)
    )
    assert list(trace(model).geometry) == ["0"]


class Gated(nn.Module):
    """Scales maps by what a window as large as the map says of them."""

    def __init__(self, window):
        super().__init__()
        self.pool, self.conv = nn.AvgPool2d(window, stride=1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return torch.sigmoid(self.conv(self.pool(x))) * x


def test_a_map_that_is_spread_over_another_has_no_field():
    assert "mul" not in trace(Gated(8)).geometry
    assert trace(Gated(1)).geometry["mul"] == Geometry(1, 1, 0)


def test_branches_that_lose_no_more_than_a_strides_rest_meet():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 1, 2)

        def forward(self, x):
            return torch.cat((self.a(x), self.b(x)), axis=1)

    assert trace(Two()).geometry["cat"] == Geometry(3, 2, -1)
