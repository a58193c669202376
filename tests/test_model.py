"""The architectures against the paper's numbers, the contrast norm against a loop, weights on disk."""

import json
import math
import os

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zfcore import model as room
from zfcore.model import (
    ARCHITECTURES,
    ContrastNorm,
    build,
    initialize_,
    load,
    renormalize_filters_,
    save,
    until,
    write_atomically,
)

TABLE_2 = (
    *("zfnet", "zfnet-fc2048", "zfnet-fc8192", "zfnet-wide", "zfnet-wide-fc8192"),
    *("alexnet", "alexnet-no34", "alexnet-no7", "alexnet-no67", "alexnet-no3467"),
    *("alexnet-fc2048", "alexnet-fc8192"),
)


def on_paper(name, **options):
    """The network without memory for its weights: shapes and counts only."""
    with torch.device("meta"):
        return build(name, **options)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def sides_and_maps(model, size):
    """(maps, side) of every module's output, under the paper's names."""
    shapes = {}
    labels = {path: label for label, path in model.architecture.named_layers().items()}
    for path, module in model.named_modules():
        if path in labels:
            module.register_forward_hook(
                lambda m, i, o, label=labels[path]: shapes.update({label: o.shape[1:]})
            )
    with torch.device("meta"):
        model(torch.empty(1, 3, size, size))
    return shapes


# ------------------------------------------------------------------------------ architectures
def test_fig_3_has_the_papers_sizes():
    shapes = sides_and_maps(on_paper("zfnet"), 224)
    layers = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
    assert [shapes[layer][1] for layer in layers] == [110, 55, 26, 13, 13, 13, 13, 6]
    assert [shapes[layer][0] for layer in layers] == [96, 96, 256, 256, 384, 384, 256, 256]
    assert [tuple(shapes[layer]) for layer in ("flatten", "fc6", "fc7", "fc8")] == [
        (9216,),
        (4096,),
        (4096,),
        (1000,),
    ]


def test_fig_3_has_the_papers_parameters():
    model = on_paper("zfnet")
    assert parameters(model) == 62_357_608
    assert sum(parameters(model.classifier[i]) for i in (0, 3)) / parameters(model) == pytest.approx(
        0.875, abs=5e-4
    )


def test_krizhevskys_network_has_its_parameters():
    model = on_paper("alexnet")
    assert parameters(model) == 60_965_224
    shapes = sides_and_maps(model, 224)
    assert [shapes[layer][1] for layer in ["conv1", "pool1", "conv2", "pool2", "conv5", "pool5"]] == [
        55,
        27,
        27,
        13,
        13,
        6,
    ]


def test_fig_3_pools_before_the_norm_and_krizhevsky_after_it():
    order = {name: list(ARCHITECTURES[name].named_layers()) for name in ("zfnet", "alexnet")}
    assert order["zfnet"][:5] == ["conv1", "relu1", "pool1", "norm1", "conv2"]
    assert order["alexnet"][:5] == ["conv1", "relu1", "norm1", "pool1", "conv2"]


def test_one_group_joins_krizhevskys_two():
    two, one = on_paper("alexnet"), on_paper("alexnet", groups=1)
    groups = [[m.groups for m in model.modules() if isinstance(m, nn.Conv2d)] for model in (two, one)]
    assert groups == [[1, 2, 1, 2, 2], [1, 1, 1, 1, 1]]
    assert parameters(one) - parameters(two) == 48 * 25 * 256 + 192 * 9 * 384 + 192 * 9 * 256


@pytest.mark.parametrize("name", TABLE_2)
def test_every_trained_row_of_table_2_is_there_in_both_families(name):
    small = (
        f"{name}-64"
        if name not in ("zfnet", "alexnet")
        else f"{name}-64".replace("zfnet-64", "zfnet-64-coarse")
    )
    assert [c.layer for c in ARCHITECTURES[small].convs] == [c.layer for c in ARCHITECTURES[name].convs]
    assert len(ARCHITECTURES[small].hidden) == len(ARCHITECTURES[name].hidden)


@pytest.mark.parametrize(
    ("row", "convs", "hidden"),
    [
        ("alexnet-no34", [1, 2, 5], (4096, 4096)),
        ("alexnet-no7", [1, 2, 3, 4, 5], (4096,)),
        ("alexnet-no67", [1, 2, 3, 4, 5], ()),
        ("alexnet-no3467", [1, 2, 5], ()),
        ("alexnet-fc2048", [1, 2, 3, 4, 5], (2048, 2048)),
        ("zfnet-fc8192", [1, 2, 3, 4, 5], (8192, 8192)),
        ("alexnet-no3467-64", [1, 2, 5], ()),
        ("zfnet-fc2048-64", [1, 2, 3, 4, 5], (512, 512)),
    ],
)
def test_a_row_lacks_the_layers_or_has_the_widths_it_names(row, convs, hidden):
    assert [c.layer for c in ARCHITECTURES[row].convs] == convs
    assert ARCHITECTURES[row].hidden == hidden


@pytest.mark.parametrize(
    ("row", "maps"), [("zfnet-wide", (512, 1024, 512)), ("zfnet-wide-64", (256, 512, 256))]
)
def test_wide_has_the_papers_maps(row, maps):
    assert tuple(c.maps for c in ARCHITECTURES[row].convs[2:]) == maps


def test_double_width_gives_the_small_family_the_papers_maps():
    small, paper = on_paper("zfnet-64", width=2).architecture, ARCHITECTURES["zfnet"]
    assert [c.maps for c in small.convs] == [c.maps for c in paper.convs]
    assert small.hidden == (2048, 2048)


def test_fig_5_differs_in_filter_size_and_stride_alone():
    seen = {}
    for size, stride in ((7, 1), (7, 2), (11, 1), (11, 2)):
        model = on_paper(f"fig5-{size}x{size}-{stride}")
        first, *rest = model.architecture.convs
        assert (first.kernel, first.stride) == (size, stride)
        shapes = sides_and_maps(model, 56)
        seen[size, stride] = [shapes[layer] for layer in ("conv3", "conv5", "pool5")]
        assert [(c.kernel, c.maps) for c in rest] == [(5, 128), (3, 192), (3, 192), (3, 128)]
    assert len({str(shapes) for shapes in seen.values()}) == 1


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("zfnet-64", [56, 28, 14, 14, 14, 6]),
        ("zfnet-64-coarse", [56, 14, 7, 7, 7, 3]),
        ("alexnet-64", [28, 14, 7, 7, 7, 3]),
    ],
)
def test_the_networks_for_small_pictures_have_their_sizes(name, sides):
    shapes = sides_and_maps(on_paper(name), 56)
    assert [shapes[layer][1] for layer in ["conv1", "conv2", "conv3", "conv4", "conv5", "pool5"]] == sides


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_named_as_its_key_and_gives_logits(name):
    model = on_paper(name)
    assert model.architecture.name == name
    a = model.architecture
    shapes = sides_and_maps(model, a.input_size)
    assert tuple(shapes["fc8"]) == (a.num_classes,)
    assert list(shapes) == list(a.named_layers())  # every module is called once, in this order


@given(
    side=st.integers(3, 40),
    size=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    ceil_mode=st.booleans(),
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_a_pool_knows_how_many_cells_come_out(side, size, stride, padding, ceil_mode):
    padding = min(padding, size // 2)
    if side + 2 * padding >= size:
        pooled = nn.MaxPool2d(size, stride, padding, ceil_mode=ceil_mode)(torch.zeros(1, side, side))
        assert room.Pool(size, stride, padding, ceil_mode).cells(side) == pooled.shape[1]


def test_the_public_variant_has_fig_3s_sizes_without_its_padding():
    shapes = sides_and_maps(on_paper("zfnet-public"), 224)
    layers = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
    assert [shapes[layer][1] for layer in layers] == [110, 55, 26, 13, 13, 13, 13, 6]


def test_a_small_network_runs_on_numbers():
    torch.manual_seed(0)
    logits = build("zfnet-64", num_classes=3, width=0.1)(torch.randn(2, 3, 56, 56))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()


def test_other_classes_and_another_input_size():
    model = on_paper("zfnet", num_classes=101, input_size=256)
    assert tuple(sides_and_maps(model, 256)["fc8"]) == (101,)


def test_describing_an_architecture_draws_no_numbers():
    state = torch.get_rng_state()
    ARCHITECTURES["zfnet"].named_layers()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("width", [0.01, 0.1, 0.3, 1.7])
def test_any_width_leaves_maps_that_two_groups_divide(width):
    assert all(c.maps % 2 == 0 and c.maps > 0 for c in on_paper("alexnet-64", width=width).architecture.convs)


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown architecture 'vgg'; known: zfnet, alexnet"):
        build("vgg")


def test_an_input_too_small_names_the_layer():
    with pytest.raises(ValueError, match="no map left after layer 5 for an input of 24 px"):
        on_paper("zfnet", input_size=24)


# ------------------------------------------------------------------------------ initialisation
def test_the_papers_initialisation_has_deviation_one_hundredth_and_no_bias():
    torch.manual_seed(0)
    for module in build("zfnet-64").modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            n = module.weight.numel()
            assert module.weight.std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * n))
            assert abs(module.weight.mean().item()) < 0.01 * 5 / math.sqrt(n)
            assert not module.bias.any()


def test_he_initialisation_keeps_the_scale_of_a_layer_and_a_small_last_one():
    torch.manual_seed(0)
    model = build("zfnet-64")
    initialize_(model, "he")
    *inner, last = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for weight in inner:
        assert weight.std().item() == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.05)
    assert last.std().item() == pytest.approx(0.01, rel=0.05)


def test_the_papers_first_layer_can_carry_upper_layers_that_keep_the_scale():
    torch.manual_seed(0)
    model = build("zfnet-64")
    initialize_(model, "paper, then he")
    first, *inner, last = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for weight in inner:
        assert weight.std().item() == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.05)
    for weight in (first, last):
        assert weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_batch_norms_that_were_never_trained_are_the_identity():
    network = room.untrained({"architecture": "torchvision.resnet18", "num_classes": 3})
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    x = torch.randn(2, 64, 3, 3)
    torch.testing.assert_close(norms[0](x), x, rtol=1e-4, atol=1e-4)
    for norm in norms:
        assert torch.equal(norm.running_var, torch.ones_like(norm.running_var))
        assert not norm.bias.any()


def test_what_has_no_he_initialisation_is_as_its_library_starts_it():
    network = room.untrained({"architecture": "torchvision.convnext_tiny", "num_classes": 3})
    scales = [value for name, value in network.named_parameters() if name.endswith("layer_scale")]
    assert all(torch.equal(scale, torch.full_like(scale, 1e-6)) for scale in scales)
    for norm in (module for module in network.modules() if isinstance(module, nn.LayerNorm)):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()


def test_a_batch_norm_of_vectors_becomes_the_identity_too():
    norm = nn.BatchNorm1d(3)
    nn.init.constant_(norm.weight, 5), norm.running_var.fill_(4)
    initialize_(norm)
    assert torch.equal(norm.weight, torch.ones(3))
    assert torch.equal(norm.running_var, torch.ones(3))


def test_the_same_seed_gives_the_same_weights():
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        weights.append(build("zfnet-64", width=0.1).features[0].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="known: paper; he; paper, then he"):
        initialize_(nn.Linear(2, 2), "xavier")


# ------------------------------------------------------------------------------ contrast norm
def norm_naively(x, size, alpha, beta, k):
    """Krizhevsky's formula, one map at a time."""
    y = torch.empty_like(x)
    for c in range(x.shape[1]):
        neighbours = range(max(0, c - size // 2), min(x.shape[1], c + size // 2 + 1))
        y[:, c] = x[:, c] / (k + alpha * sum(x[:, j] ** 2 for j in neighbours)) ** beta
    return y


def some(*shape, dtype=torch.float64, seed=0, scale=3.0):
    return (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        .mul(scale)
        .to(dtype)
    )


@given(
    maps=st.integers(1, 9),
    size=st.sampled_from([1, 3, 5, 7]),
    alpha=st.sampled_from([1e-4, 1e-2, 0.3]),
    beta=st.sampled_from([0.5, 0.75, 1.0]),
    k=st.sampled_from([1.0, 2.0]),
    space=st.sampled_from([(), (4,), (3, 2)]),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_the_norm_is_the_formula_map_by_map(maps, size, alpha, beta, k, space):
    x = some(2, maps, *space)
    torch.testing.assert_close(ContrastNorm(size, alpha, beta, k)(x), norm_naively(x, size, alpha, beta, k))


@pytest.mark.parametrize("maps", [1, 2, 3, 4, 5, 12])
def test_it_is_pytorchs_norm_with_alpha_times_n(maps):
    x = some(2, maps, 5, 4)
    torch.testing.assert_close(
        ContrastNorm(5, 0.02, 0.75, 2.0)(x), nn.LocalResponseNorm(5, 5 * 0.02, 0.75, 2.0)(x)
    )


def test_it_is_known_as_a_local_response_norm():
    assert isinstance(ContrastNorm(), nn.LocalResponseNorm)
    assert (ContrastNorm().size, ContrastNorm().alpha, ContrastNorm().beta, ContrastNorm().k) == (
        5,
        1e-4,
        0.75,
        2.0,
    )


@pytest.mark.parametrize("maps", [1, 2, 5, 7])
@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_its_gradient_is_the_derivative(maps, beta):
    x = some(2, maps, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(ContrastNorm(5, 0.1, beta, 2.0), (x,))


@pytest.mark.parametrize("maps", [1, 5, 7])
def test_its_second_derivative_is_the_derivative_of_the_first(maps):
    x = some(1, maps, 2, 2, scale=1.0).requires_grad_()
    assert torch.autograd.gradgradcheck(ContrastNorm(5, 0.1), (x,))


def test_its_gradient_is_that_of_the_formula():
    x = some(2, 8, 3, 3).requires_grad_()
    g = some(2, 8, 3, 3, seed=1)
    (ours,) = torch.autograd.grad(ContrastNorm(alpha=0.05)(x), x, g)
    (theirs,) = torch.autograd.grad(norm_naively(x, 5, 0.05, 0.75, 2.0), x, g)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", [1e-4, 1e-2])
def test_in_single_precision_it_errs_by_less_than_a_millionth(alpha):
    x = some(4, 96, 14, 14, scale=50.0)
    single = x.float().requires_grad_()
    double = single.detach().double().requires_grad_()
    y, exact = ContrastNorm(alpha=alpha)(single), nn.LocalResponseNorm(5, 5 * alpha, 0.75, 2.0)(double)
    g = some(4, 96, 14, 14, seed=1)
    y.backward(g.float())
    exact.backward(g.float().double())
    for ours, theirs in ((y, exact), (single.grad, double.grad)):
        assert (ours.double() - theirs).norm() / theirs.norm() <= 1e-6


def test_the_norm_of_strong_activations_in_half_precision_is_not_nothing():
    x = (400 * torch.randn(1, 8, 4, 4)).half()
    exact = ContrastNorm()(x.float())
    torch.testing.assert_close(ContrastNorm()(x).float(), exact, rtol=0.002, atol=0.01)


@pytest.mark.parametrize("layer", ["fc6", "relu9"])
def test_the_first_layers_end_with_maps(layer):
    with pytest.raises(ValueError, match=r"there are no maps .*; there are: conv1, relu1"):
        until(build("zfnet-64", width=0.1), layer)


def test_the_memory_layout_does_not_matter_and_is_kept():
    x = some(2, 6, 4, 4, dtype=torch.float32).requires_grad_()
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = ContrastNorm(alpha=0.1)
    y, z = norm(x), norm(last)
    assert z.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    torch.testing.assert_close(x.grad, last.grad)


@pytest.mark.parametrize("pictures", [0, 1, 3, 50])
def test_many_pictures_are_normalised_as_each_of_them(pictures):
    x = some(pictures, 96, 20, 20).requires_grad_()  # about 27 of them are taken at a time
    g = some(pictures, 96, 20, 20, seed=1)
    norm = ContrastNorm(alpha=0.05)
    y = norm(x)
    (gradient,) = torch.autograd.grad(y, x, g)
    assert y.shape == gradient.shape == x.shape
    for n in range(pictures):
        one = x[n : n + 1].detach().requires_grad_()
        assert torch.equal(norm(one), y[n : n + 1])
        assert torch.equal(torch.autograd.grad(norm(one), one, g[n : n + 1])[0], gradient[n : n + 1])


def test_bfloat16_stays_bfloat16_and_near():
    x = some(2, 16, 5, 5)
    y = ContrastNorm(alpha=1e-2)(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(
        y.double(), norm_naively(x.bfloat16().double(), 5, 1e-2, 0.75, 2.0), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_rounds_the_sum_over_a_window_once(layout):
    x = torch.ones(1, 5, 2, 3, dtype=torch.bfloat16)
    x[:, 2] = 16  # 256 + 1 is 256 in bfloat16, four times over; the sum is 260, which it can say
    y = ContrastNorm(5, alpha=1.0, beta=1.0, k=0.0)(x.contiguous(memory_format=layout))
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y[:, 2].float(), torch.full((1, 2, 3), 16 / 260), rtol=0.008, atol=0)


def test_the_gradient_of_the_norm_in_bfloat16_is_near():
    x, g = some(2, 16, 5, 5).bfloat16().requires_grad_(), some(2, 16, 5, 5, seed=1).bfloat16()
    single = x.detach().double().requires_grad_()
    norm = ContrastNorm(alpha=1e-2)
    (gradient,) = torch.autograd.grad(norm(x), x, g)
    (exact,) = torch.autograd.grad(norm(single), single, g.double())
    torch.testing.assert_close(gradient.double(), exact, rtol=0.02, atol=0.01)


def test_the_input_is_left_as_it_was():
    x = some(2, 6, 3, 3)
    before = x.clone()
    ContrastNorm(alpha=0.1)(x.requires_grad_()).sum().backward()
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", [0, 2, 4, -1])
def test_a_window_without_a_middle_map_is_refused(size):
    with pytest.raises(ValueError, match=f"the window spans {size} maps; it needs an odd number"):
        ContrastNorm(size)


# ------------------------------------------------------------------------------ renormalisation
def test_only_filters_beyond_the_radius_are_rescaled_to_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 5), nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.mul_(torch.linspace(0.01, 10, 16)[:, None, None, None])
        model[0].weight[3] = 0
        model[1].weight.fill_(5)
    storage, before = model[0].weight.data_ptr(), model[0].weight.detach().clone()
    renormalize_filters_(model, 0.1)
    after = model[0].weight.detach()
    rms = before.double().square().mean((1, 2, 3)).sqrt()
    outside = rms > 0.1
    assert 0 < outside.sum() < 16
    assert torch.equal(after[~outside], before[~outside])  # to the last bit, the zero filter included
    for new, old in zip(after[outside], before[outside], strict=True):
        assert new.double().square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-6)
        torch.testing.assert_close(new / new.norm(), old / old.norm())
    assert model[0].weight.data_ptr() == storage
    assert (model[1].weight == 5).all()  # §3 renormalises convolutions only


def test_a_second_renormalisation_changes_nothing_that_counts():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 8, 5)
    nn.init.normal_(model.weight)
    renormalize_filters_(model)
    once = model.weight.detach().clone()
    renormalize_filters_(model)
    torch.testing.assert_close(model.weight.detach(), once, rtol=2e-7, atol=0)


# ------------------------------------------------------------------------------ weights on disk
@pytest.fixture
def stored(tmp_path):
    """A small network, saved: (path, network, mean, card)."""
    torch.manual_seed(0)
    network = build("zfnet-64", num_classes=3, width=0.1)
    mean = torch.rand(3, 64, 64) * 255
    card = {
        "architecture": "zfnet-64",
        "num_classes": 3,
        "input_size": 56,
        "width": 0.1,
        "labels": ["à", "b", "c"],
    }
    save(tmp_path / "net.safetensors", network, mean, card)
    return tmp_path / "net.safetensors", network, mean, card


def test_what_was_saved_is_loaded(stored):
    path, network, mean, card = stored
    again, read = load(path)
    assert not again.training
    assert torch.equal(read["mean"], mean)
    assert {key: read[key] for key in card} == card
    for (name, p), q in zip(network.named_parameters(), again.parameters(), strict=True):
        assert q.dtype == torch.float32
        assert torch.equal(p.half().float(), q), name


def test_what_was_loaded_can_be_saved_again_to_the_same_bytes(stored, tmp_path):
    path, *_ = stored
    network, card = load(path)
    save(tmp_path / "copy", network, card["mean"], card)
    assert (tmp_path / "copy.safetensors").read_bytes() == path.read_bytes()
    assert (tmp_path / "copy.json").read_bytes() == path.with_suffix(".json").read_bytes()


def test_a_name_with_a_point_stays_whole(stored, tmp_path):
    network, card = load(stored[0])
    save(tmp_path / "zfnet-0.5", network, card["mean"], card)
    assert {path.name for path in tmp_path.iterdir()} >= {"zfnet-0.5.safetensors", "zfnet-0.5.json"}
    assert load(tmp_path / "zfnet-0.5.safetensors")[1]["sha256"] == card["sha256"]


def test_unknown_weights_list_what_ships():
    with pytest.raises(FileNotFoundError, match=r"no weights 'resnet'.*shipped with zfcore: "):
        load("resnet")


def test_weights_without_their_card_are_refused(stored):
    path, *_ = stored
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"net\.json is missing"):
        load(path)


@pytest.mark.parametrize("text", ["not json", "{}", "[]", '{"sha256": "0"}'])
def test_a_broken_card_is_refused_by_name(stored, text):
    path, *_ = stored
    path.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"net\.json is not a weights card"):
        load(path)


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_damaged_weights_are_refused_by_name(stored, damage):
    path, *_ = stored
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"net\.safetensors is not the file that net\.json describes"):
        load(path)


def with_true_hash(path, blob, **changes):
    path.write_bytes(blob)
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    card |= {"sha256": room.hashlib.sha256(blob).hexdigest()} | changes
    path.with_suffix(".json").write_text(json.dumps(card))


def test_a_file_that_is_not_safetensors_is_refused(stored):
    path, *_ = stored
    with_true_hash(path, b"PK\x03\x04 a zip, say")
    with pytest.raises(ValueError, match=r"net\.safetensors is not a readable safetensors file"):
        load(path)


def test_weights_of_another_network_are_refused(stored):
    path, *_ = stored
    with_true_hash(path, path.read_bytes(), architecture="alexnet-64")
    with pytest.raises(ValueError, match="does not fit alexnet-64"):
        load(path)


def test_weights_without_a_mean_are_refused(stored):
    path, network, *_ = stored
    with_true_hash(path, safetensors.torch.save(dict(network.state_dict())))
    with pytest.raises(ValueError, match="has no per-pixel mean"):
        load(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    write_atomically(path, b"old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new, but longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_a_write_keeps_permissions_and_links(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert (real.read_bytes(), real.stat().st_mode & 0o777) == (b"new", 0o640)


def test_a_new_file_is_for_those_to_read_whom_the_user_lets(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_write_makes_the_folder_it_needs(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file", b"content")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("path", sorted(room.WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_weights_that_ship_load_and_answer(path):
    network, card = load(path.stem)
    side = card["input_size"]
    assert card["mean"].shape == (3, card["resize"], card["resize"])
    assert len(card["classes"]) == len(card["labels"]) == card["num_classes"]
    assert list(card["classes"]) == sorted(card["classes"])
    with torch.no_grad():
        assert network(torch.zeros(1, 3, side, side)).isfinite().all()


def test_the_network_ends_in_logits_without_a_softmax():
    torch.manual_seed(0)
    logits = build("zfnet-64", num_classes=4, width=0.1)(torch.randn(2, 3, 56, 56))
    assert logits.sum(1).abs().max() < 0.1  # probabilities would add up to 1
