"""The deconvnet against an explicit inverse in slow loops, and against back-propagation with other ReLUs."""

import copy
import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from zfcore.deconvnet import RULES, Deconvnet, filter_transposed, pool_with_switches, rectify, unpool
from zfcore.model import ContrastNorm, build, initialize_, untrained

steady = settings(deadline=None, derandomize=True, max_examples=40)
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------ first twin: slow loops
def naive_pool(x, pool):
    """Pooled values and the (row, column) each came from; window by window, cell by cell."""
    k, s, p, d = pool.kernel_size, pool.stride, pool.padding, pool.dilation
    height, width = F.max_pool2d(x, k, s, p, d, pool.ceil_mode).shape[2:]  # only its size
    pooled, places = x.new_zeros(*x.shape[:2], height, width), {}
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i in range(height):
                for j in range(width):
                    best = None
                    for a in range(k):
                        for b in range(k):
                            y, z = i * s - p + a * d, j * s - p + b * d
                            inside = 0 <= y < x.shape[2] and 0 <= z < x.shape[3]
                            if inside and (best is None or x[n, c, y, z] > x[n, c, best[0], best[1]]):
                                best = y, z
                    places[n, c, i, j] = best
                    pooled[n, c, i, j] = x[n, c, best[0], best[1]]
    return pooled, places


def naive_unpool(r, places, like):
    back = torch.zeros_like(like)
    for (n, c, i, j), (y, z) in places.items():
        back[n, c, y, z] += r[n, c, i, j]
    return back


def naive_transpose(r, conv, like):
    """Every output cell lays its filter, times its value, over the cells it had looked at."""
    back = torch.zeros_like(like)
    per_group = (conv.in_channels // conv.groups, conv.out_channels // conv.groups)
    (sy, sx), (py, px), (dy, dx) = conv.stride, conv.padding, conv.dilation
    for o in range(conv.out_channels):
        first = o // per_group[1] * per_group[0]
        for i in range(r.shape[2]):
            for j in range(r.shape[3]):
                for a in range(conv.kernel_size[0]):
                    for b in range(conv.kernel_size[1]):
                        y, z = i * sy - py + a * dy, j * sx - px + b * dx
                        if 0 <= y < like.shape[2] and 0 <= z < like.shape[3]:
                            w = conv.weight[o, :, a, b]
                            back[:, first : first + per_group[0], y, z] += r[:, o, i, j, None] * w
    return back


@torch.no_grad()
def naive_project(modules, images, channel, position):
    """§2.1 for a plain sequence of modules: the last one's unit (or map), rule by rule, no shortcut."""
    inputs, places, x = [], [], images
    for module in modules:
        inputs.append(x)
        if isinstance(module, nn.MaxPool2d):
            x, place = naive_pool(x, module)
            places.append(place)
        else:
            x = module(x)
    r = torch.zeros_like(x)
    for n in range(len(x)):
        if position == "map":
            r[n, channel] = x[n, channel]
            continue
        y, z = position or divmod(
            int(x[n, channel].flatten().tolist().index(x[n, channel].max())), x.shape[3]
        )
        r[n, channel, y, z] = x[n, channel, y, z]
    for module, x in zip(modules[::-1], inputs[::-1], strict=True):
        if isinstance(module, nn.Conv2d):
            r = naive_transpose(r, module, x)
        elif isinstance(module, nn.MaxPool2d):
            r = naive_unpool(r, places.pop(), x)
        elif isinstance(module, nn.ReLU):
            r = torch.where(r > 0, r, 0)
    return r


# ------------------------------------------------------------------------------ second twin: autograd
class _TwinReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rule):
        ctx.save_for_backward(x)
        ctx.rule = rule
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        forward, backward = (x > 0).to(g), (g > 0).to(g)
        return {"deconvnet": g * backward, "gradient": g * forward, "guided": g * forward * backward}[
            ctx.rule
        ], None


class _TwinIdentity(torch.autograd.Function):
    """The contrast norm forward, nothing backward."""

    @staticmethod
    def forward(ctx, x, norm):
        return norm(x)

    @staticmethod
    def backward(ctx, g):
        return g, None


class Twin(nn.Module):
    """A network's copy whose ReLUs and norms propagate by a rule."""

    def __init__(self, rule, norm):
        super().__init__()
        self.rule, self.keeps_norm = rule, rule == "deconvnet" and norm == "identity"

    def relu(self, x):
        return _TwinReLU.apply(x, self.rule)

    def norm(self, module, x):
        return _TwinIdentity.apply(x, module) if self.keeps_norm else module(x)

    def sequence(self, modules, x):
        for module in modules:
            if isinstance(module, nn.ReLU):
                x = self.relu(x)
            elif isinstance(module, nn.LocalResponseNorm):
                x = self.norm(module, x)
            else:
                x = module(x)
        return x


def twin_project(forward, images, channel, position, rule):
    """Vector–Jacobian product of ``forward``, which calls the twin's ReLUs, at the chosen unit."""
    images = images.clone().requires_grad_()
    value = forward(images)
    seed = torch.zeros_like(value)
    for n in range(len(value)):
        unit = (n, channel)
        if value.ndim == 4 and position != "map":
            flat = int(value[n, channel].detach().argmax())
            unit += tuple(position) if position else divmod(flat, value.shape[3])
        seed[unit] = 1.0 if rule == "gradient" else value[unit].detach()
    return torch.autograd.grad(value, images, seed)[0]


# ------------------------------------------------------------------------------ random sequences
class Styled(nn.Module):
    """A sequence whose ReLUs are written in one of the ways people write them."""

    def __init__(self, modules, style):
        super().__init__()
        self.parts = nn.ModuleList(m if not isinstance(m, nn.ReLU) else nn.Identity() for m in modules)
        self.is_relu = [isinstance(m, nn.ReLU) for m in modules]
        self.style = style
        self.relu = nn.ReLU(inplace=style == "in-place")

    def forward(self, x):
        for part, is_relu in zip(self.parts, self.is_relu, strict=True):
            if not is_relu:
                x = part(x)
            elif self.style in ("reused", "in-place"):
                x = self.relu(x)
            elif self.style == "functional":
                x = F.relu(x, inplace=True)
            elif self.style == "torch":
                x = torch.relu(x)
            elif self.style == "method":
                x = x.relu()
            else:
                x.relu_()
        return x


STYLES = ("module", "reused", "in-place", "functional", "torch", "method", "method in-place")


@st.composite
def sequences(draw, norms=True, max_layers=3):
    """Convolutions, ReLUs, overlapping pools and norms; small integers, so that ties abound."""
    modules, channels = [], 2
    for _ in range(draw(st.integers(1, max_layers))):
        size, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        groups, dilation = draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 2]))
        modules.append(
            nn.Conv2d(channels, 4, size, stride, draw(st.integers(0, 2)), dilation, groups).double()
        )
        channels = 4
        modules.append(nn.ReLU())
        kind = draw(st.sampled_from(["pool", "none", "norm", "pool, norm"] if norms else ["pool", "none"]))
        if "pool" in kind:
            size = draw(st.integers(2, 3))
            modules.append(
                nn.MaxPool2d(
                    size, draw(st.integers(1, 3)), draw(st.integers(0, size // 2)),
                    draw(st.sampled_from([1, 1, 2])), ceil_mode=draw(st.booleans()),
                )
            )  # fmt: skip
        if "norm" in kind:
            modules.append(ContrastNorm(3, alpha=0.1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for module in modules:
        for parameter in module.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).double()
    images = torch.randint(
        -2, 3, (2, 2, draw(st.integers(9, 16)), draw(st.integers(9, 16))), generator=generator
    )
    return modules, images.double()


@st.composite
def projections(draw, **options):
    """A sequence, pictures, one of its layers, a channel, and a place in that layer (or None, or the map)."""
    modules, images = draw(sequences(**options))
    modules = modules[: draw(st.integers(1, len(modules)))]
    try:
        shape = nn.Sequential(*modules)(images).shape
    except RuntimeError:  # the picture is used up
        modules, shape = [nn.ReLU()], images.shape
    place = draw(st.tuples(st.sampled_from([0, shape[2] // 2, shape[2] - 1]), st.integers(0, shape[3] - 1)))
    return (
        modules,
        images,
        draw(st.integers(0, shape[1] - 1)),
        draw(st.sampled_from([place, place, None, "map"])),
    )


@steady
@given(projections(norms=False, max_layers=2))
def test_projection_is_the_explicit_inverse_network(case):
    modules, images, channel, position = case
    net = Deconvnet(nn.Sequential(*modules))
    close(
        net.project(images, net.layers[-1], channel, position),
        naive_project(modules, images, channel, position),
    )


@steady
@given(
    projections(),
    st.sampled_from(STYLES),
    st.sampled_from(RULES),
    st.sampled_from(["identity", "derivative"]),
)
def test_projection_is_backpropagation_with_other_relus(case, style, rule, norm):
    modules, images, channel, position = case
    net = Deconvnet(nn.Sequential(*modules) if style == "module" else Styled(modules, style), norm=norm)
    layers = [
        layer
        for layer in net.layers
        if not isinstance(net.trace.operations[net.trace.node(layer)], nn.Identity)
    ]
    forward = partial(Twin(rule, norm).sequence, modules)
    close(
        net.project(images, layers[-1], channel, position, rule),
        twin_project(forward, images, channel, position, rule),
    )


@steady
@given(projections(), st.sampled_from(RULES), st.sampled_from(["identity", "derivative"]))
def test_the_window_gives_what_the_whole_picture_gives(case, rule, norm):
    modules, images, channel, position = case
    net = Deconvnet(nn.Sequential(*modules), norm=norm)
    node = net.trace.node(net.layers[-1])
    whole = torch.no_grad()(net._project_whole)
    window = torch.no_grad()(net._project_window)
    if position == "map":
        position = None
    channels = torch.tensor([channel, 0])
    positions = None if position is None else torch.tensor([position, (0, 0)])
    close(
        window(images, net.layers[-1], net._chain(node), channels, positions, rule),
        whole(images, node, channels, positions, rule),
    )


@pytest.mark.parametrize("side", range(3, 9))
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_the_window_knows_the_size_of_every_map(side, ceil_mode):
    for size, stride, padding, dilation in itertools.product((1, 2, 3), (1, 2, 3, 4), (0, 1), (1, 2)):
        if padding > size // 2 or dilation * (size - 1) >= side:
            continue
        pool = nn.MaxPool2d(size, stride, padding, dilation, ceil_mode=ceil_mode)
        conv = nn.Conv2d(1, 1, size, stride, padding, dilation)
        images = torch.zeros(1, 1, side, side + 1)
        for module in (pool, conv):
            chain = Deconvnet(nn.Sequential(module))
            assert chain._chain(chain.trace.node("0")).map_sizes(images)[1] == module(images).shape[2:]


# ------------------------------------------------------------------------------ by hand
def test_a_value_that_several_windows_took_comes_back_as_their_sum():
    picture = torch.zeros(1, 1, 3, 3)
    picture[0, 0, 1, 1] = 5  # the maximum of all four 2×2 windows
    net = Deconvnet(nn.Sequential(nn.MaxPool2d(2, 1)))
    expected = torch.zeros(1, 1, 3, 3)
    expected[0, 0, 1, 1] = 20
    assert torch.equal(net.project(picture, "0", 0, "map"), expected)
    assert torch.equal(net.project(picture, "0", 0, (0, 1)), expected / 4)
    assert torch.equal(net.project(picture, "0", 0, "map", "gradient"), expected / 5)


def test_a_projection_is_signed_has_no_bias_and_starts_from_the_activation():
    conv = nn.Conv2d(1, 1, 2)
    conv.weight.data = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    conv.bias.data.fill_(7.0)
    net = Deconvnet(nn.Sequential(conv, nn.ReLU()))
    picture = torch.arange(9.0).view(1, 1, 3, 3)
    activation = 0 - 2 * 1 + 3 * 3 + 7
    expected = activation * torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for layer in ("0", "1"):
        assert torch.equal(net.project(picture, layer, 0, (0, 0))[0, 0], expected)
        assert torch.equal(net.project(picture, layer, 0, (0, 0), "gradient")[0, 0], expected / activation)


def test_the_three_rules_differ_at_the_relu():
    """One pixel, two hidden units of weights 1 and -1; the unit reads them with -3 and 2."""
    first, second = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1)
    first.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    second.weight.data = torch.tensor([-3.0, 2.0]).view(1, 2, 1, 1)
    second.bias.data.fill_(10.0)
    net = Deconvnet(nn.Sequential(first, nn.ReLU(), second))
    pixel = torch.ones(1, 1, 1, 1)  # hidden 1 and 0, unit 7
    assert net.project(pixel, "2", 0, (0, 0), "gradient").item() == -3  # the first unit alone was on
    assert (
        net.project(pixel, "2", 0, (0, 0), "deconvnet").item() == -14
    )  # 7 · 2 through the second, which was off
    assert net.project(pixel, "2", 0, (0, 0), "guided").item() == 0  # on and positive: neither


def test_a_convolution_is_taken_before_its_relu():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.data.fill_(-2.0)
    net = Deconvnet(nn.Sequential(conv, nn.ReLU(inplace=True)))
    pixel = torch.full((1, 1, 1, 1), 3.0)
    assert net.project(pixel, "0", 0).item() == -6 * -2
    assert net.project(pixel, "1", 0).item() == 0


# ------------------------------------------------------------------------------ the operations
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_tie_goes_to_the_first_cell(memory_format, dtype, dilation):
    torch.manual_seed(0)
    x = torch.randint(-2, 2, (2, 17, 14, 15)).to(dtype).contiguous(memory_format=memory_format)
    pool = nn.MaxPool2d(3, 2, 1, dilation, ceil_mode=True)
    pooled, switches = pool_with_switches(x, 3, 2, 1, True, dilation)
    expected, places = naive_pool(x, pool)
    assert torch.equal(pooled, expected)
    assert all(switches[where] == y * 15 + z for where, (y, z) in places.items())


@steady
@given(sequences(norms=False, max_layers=1), st.integers(0, 99))
def test_filtering_back_is_the_adjoint_of_filtering(case, seed):
    (conv, *_), x = case
    y = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    r = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    back = filter_transposed(r, conv, *x.shape[2:])
    close((back * x).sum(), (r * y).sum())
    close(back, naive_transpose(r, conv, x).detach())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("size", [2, 3, (4, 1)])
def test_padding_same_has_its_adjoint_too(size):
    conv, x = nn.Conv2d(2, 3, size, padding="same").double(), torch.randn(1, 2, 7, 8, dtype=torch.float64)
    net = Deconvnet(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(3, 2, 3).double()))
    for position in ((0, 0), (4, 5), "map"):
        twin = twin_project(
            partial(Twin("deconvnet", "").sequence, net.trace._model), x, 1, position, "deconvnet"
        )
        close(net.project(x, "2", 1, position), twin)


def test_a_convolution_padded_with_the_picture_has_no_transpose_here():
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="'reflect'"):
        filter_transposed(torch.zeros(1, 1, 4, 4), conv, 4, 4)
    with pytest.raises(ValueError, match="no way back through '0'"):
        Deconvnet(nn.Sequential(conv)).project(torch.zeros(1, 1, 4, 4), "0", 0)


def test_rectify_keeps_what_is_positive():
    assert torch.equal(rectify(torch.tensor([-1.0, 0.0, 2.0])), torch.tensor([0.0, 0.0, 2.0]))


def test_unpool_puts_values_where_they_came_from():
    pooled, switches = pool_with_switches(torch.tensor([[[[1.0, 4.0], [3.0, 2.0]]]]), 2, 2)
    assert (pooled.item(), switches.item()) == (4.0, 1)
    assert torch.equal(unpool(pooled, switches, 2, 2), torch.tensor([[[[0.0, 4.0], [0.0, 0.0]]]]))


# ------------------------------------------------------------------------------ the networks people use
class AlexLike(Twin):
    def __init__(self, rule="deconvnet", norm="identity"):
        super().__init__(rule, norm)
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.LocalResponseNorm(5, 1.0), nn.Conv2d(8, 12, 5, padding=2, groups=2), nn.ReLU(True),
            nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.average = nn.AdaptiveAvgPool2d((3, 2))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(72, 20), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(20, 5)
        )

    def twin(self, x):
        return self.sequence(self.classifier, torch.flatten(self.average(self.sequence(self.features, x)), 1))

    def forward(self, x):
        return self.classifier(torch.flatten(self.average(self.features(x)), 1))


class SqueezeLike(Twin):
    """Fire modules (concatenation), ceil_mode pools, a fully convolutional head."""

    def __init__(self, rule="deconvnet", norm="identity"):
        super().__init__(rule, norm)
        self.first, self.pool = nn.Conv2d(3, 6, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.squeeze, self.one, self.three = (
            nn.Conv2d(6, 4, 1),
            nn.Conv2d(4, 5, 1),
            nn.Conv2d(4, 5, 3, padding=1),
        )
        self.head, self.act = nn.Conv2d(10, 4, 1), nn.ReLU(inplace=True)

    def twin(self, x, relu=None):
        relu = relu or self.relu
        x = self.pool(relu(self.first(x)))
        x = relu(self.squeeze(x))
        x = torch.cat([relu(self.one(x)), relu(self.three(x))], 1)
        return torch.flatten(F.adaptive_avg_pool2d(relu(self.head(self.pool(x))), (1, 1)), 1)

    def forward(self, x):
        return self.twin(x, self.act)


class ResidualLike(Twin):
    """Batch norm, two blocks with one in-place ReLU reused, a strided shortcut, view(x.size(0), -1)."""

    def __init__(self, rule="deconvnet", norm="identity"):
        super().__init__(rule, norm)
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 7, 2, 3, bias=False), nn.BatchNorm2d(6)
        self.pool, self.act = nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True)
        self.a, self.a_norm, self.b = nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1)
        self.shortcut = nn.Sequential(nn.Conv2d(6, 8, 1, 2), nn.BatchNorm2d(8))
        self.c, self.d = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.average, self.fc = nn.AvgPool2d(2, ceil_mode=True), nn.Linear(32, 3)

    def twin(self, x, relu=None):
        relu = relu or self.relu
        x = self.pool(relu(self.stem_norm(self.stem(x))))
        out = self.b(relu(self.a_norm(self.a(x))))
        out += self.shortcut(x)
        x = relu(out)
        x = relu(self.d(relu(self.c(x))) + x)
        x = self.average(x)
        return self.fc(x.view(x.size(0), -1))

    def forward(self, x):
        return self.twin(x, self.act)


class InceptionLike(Twin):
    """Four branches from one map (one of them pools), F.relu, mean over the map, permutation, scaling."""

    def __init__(self, rule="deconvnet", norm="identity"):
        super().__init__(rule, norm)
        self.stem = nn.Conv2d(3, 6, 5, 3, 1)
        self.one, self.three = nn.Conv2d(6, 3, 1), nn.Conv2d(6, 3, 3, padding=1)
        self.five, self.after = nn.Conv2d(6, 3, 5, padding=2), nn.Conv2d(6, 3, 1)
        self.fc = nn.Linear(12, 4)
        self.register_buffer("gain", torch.rand(12, dtype=torch.float64))

    def twin(self, x, relu=None):
        relu = relu or self.relu
        x = relu(self.stem(x / 2))
        pooled = self.after(F.max_pool2d(x, 3, stride=1, padding=1))
        x = torch.cat((relu(self.one(x)), relu(self.three(x)), relu(self.five(x)), relu(pooled)), dim=1)
        x = x.permute(0, 2, 3, 1) * self.gain.rsqrt()
        return self.fc(F.dropout(x.mean((1, 2)), training=self.training))

    def forward(self, x):
        return self.twin(x, F.relu)


class VggLike(Twin):
    def __init__(self, rule="deconvnet", norm="identity"):
        super().__init__(rule, norm)
        layers, channels = [], 3
        for maps in (4, 4, "pool", 6, 6, "pool", 8):
            if maps == "pool":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [
                    nn.Conv2d(channels, maps, 3, padding=1),
                    nn.BatchNorm2d(maps),
                    nn.ReLU(inplace=True),
                ]
                channels = maps
        self.features = nn.Sequential(*layers)

    def twin(self, x):
        return self.sequence(self.features, x)

    def forward(self, x):
        return self.features(x)


def settled(network):
    """Float64, evaluation mode, batch norms with statistics of their own."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
    return network.double().eval()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", [AlexLike, SqueezeLike, ResidualLike, InceptionLike, VggLike])
def test_small_networks_with_the_operators_of_the_large_ones(kind, rule):
    torch.manual_seed(0)
    network = settled(kind(rule))
    images = torch.randn(2, 3, *((30, 30) if kind is ResidualLike else (61, 45)), dtype=torch.float64)
    net = Deconvnet(network)
    twins = [twin_project(network.twin, images, channel, None, rule) for channel in range(3)]
    for channel, twin in enumerate(twins):
        close(net.project(images, net.layers[-1], channel, None, rule), twin)
    assert any(twin.abs().sum() > 0 for twin in twins)


@pytest.mark.parametrize("name", ["zfnet-64", "zfnet-64-coarse", "alexnet-64", "zfnet"])
@pytest.mark.parametrize("rule", RULES)
def test_our_own_networks(name, rule):
    torch.manual_seed(0)
    model = build(name, width=0.25, num_classes=5, alpha=1e-2)
    initialize_(model, "he")
    model = model.double()
    layers = model.architecture.named_layers()
    size = model.architecture.input_size
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    for norm in ("identity", "derivative"):
        net = Deconvnet(model, norm=norm)
        for label, position in [
            ("relu2", None),
            ("conv3", (0, 0)),
            ("relu4", (3, 2)),
            ("norm1", "map"),
            ("fc8", None),
        ]:
            layer = layers[label]
            modules = [model.get_submodule(path) for path in layers.values()]
            modules = [m.eval() for m in modules[: list(layers.values()).index(layer) + 1]]
            twin = twin_project(partial(Twin(rule, norm).sequence, modules), images, 1, position, rule)
            close(net.project(images, layer, 1, position, rule), twin)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "vgg16", "squeezenet1_1", "resnet18", "googlenet"])
@pytest.mark.parametrize("rule", RULES)
def test_torchvisions_networks(name, rule, monkeypatch):
    import torchvision

    torch.manual_seed(0)
    options = {"init_weights": True} if name == "googlenet" else {}
    network = settled(getattr(torchvision.models, name)(weights=None, **options))
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    net = Deconvnet(network)
    wanted = [net.layers[len(net.layers) // 3], net.layers[-1]]
    mine = [net.project(images, layer, 3, None, rule) for layer in wanted]
    # Everything but the ReLU is autograd's here; all of torchvision's ReLUs go through F.relu.
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: _TwinReLU.apply(x, rule))
    for layer, found in zip(wanted, mine, strict=True):
        twin = twin_project(lambda x, layer=layer: net.activations(x, [layer])[layer], images, 3, None, rule)
        assert twin.abs().max() > 0
        torch.testing.assert_close(found / twin.abs().max(), twin / twin.abs().max(), rtol=0, atol=1e-10)


def hooked(network):
    """A twin without zfcore: PyTorch's own forward, and a backward in which a hook rectifies at every ReLU.

    The hook replaces what autograd would hand back through the ReLU by max(R, 0) of what reached it.
    """
    twin = copy.deepcopy(network)
    for module in twin.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
            module.register_full_backward_hook(lambda _, __, r: (r[0].clamp(min=0),))
    return twin


def hooked_projection(twin, images, layer, channel, unit):
    """One unit of a layer, (y, x) or () after a flattening, sent back from its value."""
    kept = []  # a clone, for what follows may overwrite the layer's output (ResNet's additions do)
    handle = twin.get_submodule(layer).register_forward_hook(
        lambda _, __, output: kept.append(output.clone())
    )
    x = images.clone().requires_grad_()
    twin(x)
    handle.remove()
    value = kept[0][(0, channel, *unit)]
    return torch.autograd.grad(value, x, value.detach())[0]


@pytest.mark.parametrize(
    ("name", "side", "layers"),
    [
        ("alexnet", 79, ["features.6", "features.10", "classifier.6"]),
        ("vgg16", 48, ["features.14", "features.28", "classifier.6"]),
        ("squeezenet1_1", 63, ["features.4.expand3x3", "features.12.squeeze", "classifier.1"]),
        ("resnet18", 63, ["layer1.1.bn2", "layer2.0.downsample.1", "layer4.1.conv2", "fc"]),
    ],
)
def test_torchvisions_four_networks_equal_back_propagation_with_hooked_relus(name, side, layers):
    network = settled(untrained({"architecture": f"torchvision.{name}", "num_classes": 5}))
    net, twin = Deconvnet(network), hooked(network)
    images = torch.randn(1, 3, side, side, dtype=torch.float64)
    for layer, value in net.activations(images, layers).items():
        channel = int(value[0].flatten(1).amax(1).argmax() if value.ndim == 4 else value[0].argmax())
        units = [()]
        if value.ndim == 4:  # the strongest, and one whose field reaches beyond the picture's corner
            units = [divmod(int(value[0, channel].argmax()), value.shape[3]), (0, 0)]
        for unit, position in zip(units, (None, (0, 0)), strict=False):
            wanted = hooked_projection(twin, images, layer, channel, unit)
            found = net.project(images, layer, channel, position)
            assert wanted.abs().max() > 0
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))


# ------------------------------------------------------------------------------ what is asked for
@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = build("zfnet-64", width=0.25, num_classes=7)
    initialize_(model, "he")
    return model, torch.randn(3, 3, 56, 56)


def test_none_is_each_images_strongest_unit(small):
    model, images = small
    net = Deconvnet(model)
    maps = net.activations(images, ["features.5"])["features.5"][:, 4]
    places = [divmod(int(m.flatten().argmax()), m.shape[1]) for m in maps]
    assert len(set(places)) > 1
    found = net.project(images, "features.5", 4)
    for image, place, projection in zip(images, places, found, strict=True):
        torch.testing.assert_close(net.project(image[None], "features.5", 4, place)[0], projection)


def test_of_equally_strong_units_the_first_is_projected():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.data.fill_(1.0)
    net = Deconvnet(nn.Sequential(conv, nn.ReLU()))
    flat = torch.ones(1, 1, 3, 4)
    assert net.project(flat, "1", 0).flatten().nonzero().flatten().tolist() == [0]
    assert torch.equal(net.project(flat, "1", 0), net.project(flat, "1", 0, (0, 0)))


@pytest.mark.parametrize("layer", ["features.1", "features.9", "features.14"])
def test_each_image_may_have_its_own_channel_and_position(small, layer):
    model, images = small
    net = Deconvnet(model)
    channels, positions = [3, 0, 5], [(0, 0), (5, 3), (2, 5)]
    found = net.project(images, layer, channels, positions)
    again = net.project(images, layer, torch.tensor(channels), torch.tensor(positions))
    assert torch.equal(found, again)
    for n in range(3):
        alone = net.project(images[n : n + 1], layer, channels[n], positions[n])
        torch.testing.assert_close(found[n : n + 1], alone)


def test_a_map_is_the_sum_of_its_units_where_nothing_is_rectified():
    net = Deconvnet(nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1).double()))
    images = torch.randn(1, 3, 7, 6, dtype=torch.float64)
    units = [net.project(images, "0", 1, (y, x)) for y in range(4) for x in range(3)]
    close(net.project(images, "0", 1, "map"), sum(units))


def test_the_gradient_is_autograds_through_any_norm(small):
    model, images = small
    for norm in ("identity", "derivative"):
        net = Deconvnet(model, norm=norm)
        x = images.clone().requires_grad_()
        net.activations(x, ["classifier.6"])["classifier.6"][:, 2].sum().backward()
        torch.testing.assert_close(net.project(images, "classifier.6", 2, rule="gradient"), x.grad)


def test_the_norm_matters_to_the_deconvnet_alone(small):
    model, images = small
    identity, derivative = Deconvnet(model), Deconvnet(model, norm="derivative")
    ask = partial(Deconvnet.project, images=images, layer="features.5", channel=1)
    assert not torch.allclose(ask(identity), ask(derivative))
    for rule in ("gradient", "guided"):
        assert torch.equal(ask(identity, rule=rule), ask(derivative, rule=rule))


def test_only_the_window_is_computed_where_the_network_is_a_sequence(small, monkeypatch):
    model, images = small
    net = Deconvnet(model)
    monkeypatch.setattr(net, "_project_whole", None)
    net.project(images, "features.5", 0, (4, 4))
    net.project(images, "features.5", 0)
    with pytest.raises(TypeError):
        net.project(images, "features.5", 0, "map")


def test_a_parametrized_convolution_projects_the_map_that_was_asked_for():
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3).double(), nn.Conv2d(4, 6, 3).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    plain = Deconvnet(nn.Sequential(first, nn.ReLU(), last)).project(images, "2", 3, (10, 9))
    torch.nn.utils.parametrizations.weight_norm(last)  # the same weights, as length times direction
    close(Deconvnet(nn.Sequential(first, nn.ReLU(), last)).project(images, "2", 3, (10, 9)), plain)


def test_layers_may_be_called_by_keyword():
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)

        def forward(self, x):
            x = F.relu(input=self.conv(input=x), inplace=True)
            return F.avg_pool2d(input=self.pool(input=x), kernel_size=2)

    torch.manual_seed(0)
    model = ByKeyword().double()
    images = torch.randn(1, 3, 14, 14, dtype=torch.float64)
    twin = Deconvnet(nn.Sequential(model.conv, nn.ReLU(), model.pool, nn.AvgPool2d(2)))
    net = Deconvnet(model)
    assert net.layers == ["conv", "relu", "pool", "avg_pool2d"]
    close(net.project(images, "avg_pool2d", 1, (0, 2)), twin.project(images, "3", 1, (0, 2)))


@pytest.mark.parametrize("where", ["0", "1", "2"])
@pytest.mark.parametrize("rule", ["deconvnet", "gradient", "guided"])
def test_through_what_a_hook_changes_there_is_no_way_back(where, rule):
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2))
    model[0].weight.data.fill_(3.0)
    images = torch.ones(1, 1, 4, 4)
    layer = model.get_submodule(where)
    for register, act in (
        (layer.register_forward_hook, lambda module, inputs, output: 2 * output),
        (layer.register_forward_pre_hook, lambda module, inputs: 2 * inputs[0]),
    ):
        hook = register(act)
        net = Deconvnet(model)
        assert net.activations(images, ["2"])["2"][0, 0, 0, 0] == 6  # which obeys it
        with pytest.raises(ValueError, match=f"no way back through '{where}': a hook changes"):
            net.project(images, "2", 0, (0, 1), rule)
        hook.remove()


def test_a_hook_that_looks_on_is_no_matter():
    seen = []
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2))
    model[0].weight.data.fill_(3.0)
    for layer in model:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net = Deconvnet(model)
    assert net.project(torch.ones(1, 1, 4, 4), "2", 0, (0, 1))[0, 0, 0, 2] == 3 * 3
    assert len(seen) == 3
    assert all(len(layer._forward_hooks) == 1 for layer in model)


def test_hooks_that_set_the_weights_are_no_matter():
    torch.manual_seed(0)
    conv, images = nn.Conv2d(3, 4, 3).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plain = Deconvnet(nn.Sequential(conv, nn.ReLU())).project(images, "1", 3, (1, 2))
    prune.identity(conv, "weight")
    assert conv._forward_pre_hooks
    close(Deconvnet(nn.Sequential(conv, nn.ReLU())).project(images, "1", 3, (1, 2)), plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_result_has_the_dtype_of_the_images(small, dtype):
    model, images = small
    model = build("zfnet-64", width=0.25, num_classes=7).to(dtype)
    for layer in ("features.5", "classifier.1"):
        found = Deconvnet(model).project(images.to(dtype), layer, 0)
        assert (found.dtype, found.shape) == (dtype, images.shape)
        assert not found.requires_grad


def test_the_callers_autocast_changes_nothing(small):
    model, images = small
    for layer in ("features.1", "features.13"):
        exact = Deconvnet(model).project(images, layer, 0)
        with torch.autocast("cpu", torch.bfloat16):
            found = Deconvnet(model).project(images, layer, 0)
        assert found.dtype == images.dtype
        torch.testing.assert_close(found, exact)


def test_inference_mode_changes_nothing(small):
    model, images = small
    expected = Deconvnet(model, norm="derivative").project(images, "features.9", 2)
    with torch.inference_mode():
        found = Deconvnet(model, norm="derivative").project(images.clone(), "features.9", 2)
    torch.testing.assert_close(found, expected)


def test_an_empty_batch_gives_an_empty_batch(small):
    model, images = small
    for position in (None, "map", (0, 0)):
        assert Deconvnet(model).project(images[:0], "features.5", 0, position).shape == (0, 3, 56, 56)


def test_the_callers_model_stays_as_it_was():
    network = ResidualLike().double().train()
    images = torch.randn(2, 3, 30, 30, dtype=torch.float64)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    flags = [(m.training, getattr(m, "inplace", None), len(m._forward_hooks)) for m in network.modules()]
    kept = images.clone()
    Deconvnet(network).project(images, "fc", 0)
    assert torch.equal(images, kept)
    assert [
        (m.training, getattr(m, "inplace", None), len(m._forward_hooks)) for m in network.modules()
    ] == flags
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


# ------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "conv9"}, "no layer 'conv9'; this network has: features.0, features.1"),
        ({"channel": 24}, "'features.1' has channels 0 to 11; got 24"),
        ({"channel": -1}, "channels 0 to 11; got -1"),
        ({"channel": [0, 1]}, "channel is an int, or one for each of the 3 images"),
        ({"channel": 1.0}, "channel is an int"),
        ({"position": (56, 0)}, r"rows 0 to 55 and columns 0 to 55; got position \(56, 0\)"),
        ({"position": (0, -1)}, r"got position \(0, -1\)"),
        ({"position": 3}, r"position is a pair \(y, x\), or one for each"),
        ({"position": "all"}, "None or 'map'; got 'all'"),
        ({"rule": "smooth"}, "unknown rule 'smooth'; known: deconvnet, gradient, guided"),
        ({"images": torch.zeros(3, 56, 56)}, r"\(N, C, H, W\)"),
        ({"images": torch.zeros(1, 4, 56, 56)}, "takes 3"),
        ({"layer": "classifier.0", "channel": 5000}, "channels 0 to 255; got 5000"),
        ({"layer": "classifier.6", "images": torch.zeros(1, 3, 80, 80)}, "do not pass 'classifier.0'"),
        ({"layer": "features.14", "images": torch.zeros(1, 3, 4, 4)}, "do not pass 'features.14'"),
        ({"position": (56, 0), "layer": "features.1", "channel": 0}, "rows 0 to 55"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(small, arguments, message):
    model, images = small
    with pytest.raises(ValueError, match=message):
        Deconvnet(model).project(**{"images": images, "layer": "features.1", "channel": 0, **arguments})


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="unknown norm 'none'; known: identity, derivative"):
        Deconvnet(nn.Sequential(nn.Conv2d(3, 2, 1)), norm="none")


class _Square(nn.Module):
    def forward(self, x):
        return x * x


class _Divided(nn.Module):
    def forward(self, x):
        return 1 / (x + 3)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (nn.ReLU6(), "1.*ReLU6"),
        (nn.LeakyReLU(), "1.*LeakyReLU"),
        (nn.Sigmoid(), "1.*Sigmoid"),
        (nn.BatchNorm2d(2, track_running_stats=False), "1.*BatchNorm2d"),
        (nn.AdaptiveMaxPool2d(2), "1.*AdaptiveMaxPool2d"),
        (_Square(), "mul.*mul"),
        (_Divided(), "truediv.*truediv"),
    ],
)
def test_an_operation_without_a_way_back_is_named(operation, name):
    net = Deconvnet(nn.Sequential(nn.Conv2d(3, 2, 1), operation))
    images = torch.randn(1, 3, 5, 5)
    net.project(images, "0", 0)  # what lies before it can be projected
    with pytest.raises(ValueError, match=f"no way back through '{name}"):
        net.project(images, net.layers[-1], 0)


# ------------------------------------------------------------------------------ memory formats
@pytest.mark.parametrize("rule", ["deconvnet", "gradient", "guided"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_batch_norm_on_the_way_does_not_depend_on_the_memory_format(rule, memory_format):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), norm, nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1)
    )
    model = model.double().eval()
    images = torch.randn(2, 3, 17, 15, dtype=torch.float64)
    net, value = Deconvnet(model), model(images)
    laid_out = images.to(memory_format=memory_format)
    for position in ((0, 0), (4, 3), (8, 7)):
        want = torch.zeros_like(value)
        want[:, 2, *position] = 1.0 if rule == "gradient" else value[:, 2, *position]
        want = torch.nn.functional.conv_transpose2d(want, model[3].weight, padding=1)
        gate = model[:2](images) > 0
        want = want if rule == "gradient" else want.clamp(min=0)
        want = want if rule == "deconvnet" else want * gate
        want = want * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
        want = torch.nn.functional.conv_transpose2d(
            want, model[0].weight, stride=2, padding=1, output_padding=0
        )
        assert (net.project(laid_out, "3", 2, position, rule) - want).abs().max() < 1e-12
        # two images whose channels differ take the way that computes every filter
        both = net.project(laid_out, "3", [2, 4], position, rule)
        assert (both[0] - want[0]).abs().max() < 1e-12


class Functional(nn.Module):
    """Layers as functions that have no twin among the modules."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(F.conv2d(x, self.conv.weight, self.conv.bias, padding=1))
        return F.linear(F.avg_pool2d(x, x.size()[2:]).flatten(1), self.fc.weight, self.fc.bias)


class Modular(Functional):
    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("rule", RULES)
def test_layers_as_functions_go_back_as_the_modules_do(rule):
    torch.manual_seed(0)
    one, other = Functional().double(), Modular().double()
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    found = Deconvnet(one).project(x, "linear", 3, rule=rule)
    torch.testing.assert_close(found, Deconvnet(other).project(x, "fc", 3, rule=rule))


def test_a_rounded_quotient_has_no_way_back():
    class Rounded(nn.Module):
        def forward(self, x):
            return torch.div(x, 2, rounding_mode="floor")

    with pytest.raises(ValueError, match="no way back through 'div'"):
        Deconvnet(Rounded()).project(torch.randn(1, 3, 4, 4), "div", 0)
