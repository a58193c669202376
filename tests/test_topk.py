"""One pass over the pictures against a loop that looks at every unit of every picture."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zfcore.topk import TopActivations, merge, top_activations
from zfcore.trace import trace

steady = settings(deadline=None, derandomize=True, max_examples=40)


# ------------------------------------------------------------------------------ the naive twin
def naive(maps, k):
    """Of maps (N, C, H, W): every unit in turn; a larger one takes the place of its picture's."""
    every = []
    for of_channel in maps.transpose(0, 1).tolist():
        hits = []
        for image, rows in enumerate(of_channel):
            best = (0.0, None)
            for y, row in enumerate(rows):
                for x, value in enumerate(row):
                    if value > best[0]:
                        best = (value, (y, x))
            if best[1] is not None:
                hits.append((best[0], image, best[1]))
        hits = sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:k]  # position: the first of its picture
        every.append(hits + [(0.0, -1, (-1, -1))] * (k - len(hits)))
    values, images, positions = zip(*(zip(*hits, strict=True) for hits in every), strict=True)
    return TopActivations(
        torch.tensor(values, dtype=maps.dtype), torch.tensor(images), torch.tensor(positions)
    )


def same(found, expected):
    for part in ("values", "images", "positions"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), rtol=0, atol=0)


class Given(nn.Module):
    """Its maps are its pictures, so that a test can choose them."""

    def forward(self, x):
        return x * 1


@st.composite
def few_levels(draw):
    """Maps (N, C, H, W) of few different values, many of them equal, some of them not positive."""
    shape = [draw(st.integers(1, most)) for most in (9, 35, 3, 3)]  # 35: vectors of channels and a rest
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return torch.randint(-1, draw(st.integers(1, 4)), shape, generator=draws).double()


forms = st.sampled_from([torch.contiguous_format, torch.channels_last])
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


@steady
@given(few_levels(), st.integers(1, 12), st.integers(1, 5), forms, dtypes)
def test_one_pass_finds_what_a_loop_over_all_units_finds(maps, k, batch, form, dtype):
    maps = maps.to(dtype, memory_format=form)
    same(top_activations(Given(), maps.split(batch), ["mul"], k)["mul"], naive(maps, k))


@steady
@given(few_levels(), st.integers(1, 5), st.integers(1, 4))
def test_shards_merge_into_the_whole(maps, k, ranks):
    numbers = [range(rank, len(maps), ranks) for rank in range(min(ranks, len(maps)))]
    parts = [top_activations(Given(), maps[list(own)].split(2), ["mul"], k) for own in numbers]
    same(merge(parts, numbers)["mul"], naive(maps, k))


@steady
@given(few_levels(), st.integers(1, 5))
def test_parts_merge_in_any_order_and_one_after_another(maps, k):
    numbers = torch.arange(len(maps)).split(2)
    parts = [top_activations(Given(), [maps[own]], ["mul"], k) for own in numbers]
    total = merge([parts[-1]], [numbers[-1]])
    for part, own in zip(parts[-2::-1], numbers[-2::-1], strict=True):
        total = merge([total, part], [range(len(maps)), own])
    same(total["mul"], naive(maps, k))


def test_every_map_of_every_layer_is_followed_at_once():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 7, 3, 2, 1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(7, 5, 3), nn.ReLU(),
        nn.Flatten(), nn.Dropout(), nn.Linear(20, 6),
    ).double()  # fmt: skip
    images, layers = torch.randn(40, 3, 16, 16).double(), ["0", "1", "4", "7"]
    top = top_activations(model, images.split(7), layers, 3)
    values = trace(model).activations(images, layers)
    for layer in layers:
        maps = values[layer] if values[layer].ndim == 4 else values[layer][..., None, None]
        same(top[layer], naive(maps.detach(), 3))
    assert model.training


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_of_equal_units_the_first_row_is_taken_in_any_memory_format(form):
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 0, 1, 2] = maps[0, 0, 2, 0] = maps[0, 1, 0, 1] = maps[0, 1, 2, 1] = 5
    top = top_activations(Given(), [maps.contiguous(memory_format=form)], ["mul"], 1)["mul"]
    assert top.positions[:, 0].tolist() == [[1, 2], [0, 1]]


def test_a_map_that_nothing_excites_has_no_hits():
    top = top_activations(Given(), [-torch.rand(4, 2, 3, 3)], ["mul"], 3)["mul"]
    assert not top.values.any()
    assert (top.images == -1).all()
    assert (top.positions == -1).all()


def test_a_loader_may_yield_labels_beside_the_pictures():
    images = torch.rand(6, 2, 3, 3)
    pairs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.arange(6)), 4)
    same(top_activations(Given(), pairs, ["mul"])["mul"], naive(images, 9))


def test_half_precision_stays_what_it_is():
    maps = torch.rand(6, 2, 3, 3).bfloat16()
    top = top_activations(Given(), maps.split(4), ["mul"], 2)["mul"]
    assert top.values.dtype == torch.bfloat16
    same(top, naive(maps, 2))


def test_what_is_kept_does_not_grow_with_the_pictures():
    few, many = (
        top_activations(Given(), (torch.rand(8, 3, 4, 4) for _ in range(n)), ["mul"])["mul"] for n in (1, 40)
    )
    assert few.values.shape == many.values.shape == (3, 9)
    assert few.positions.shape == many.positions.shape


@steady
@given(few_levels(), st.integers(1, 4), st.integers(0, 2**20))
def test_hits_apart_are_those_of_a_plain_search(maps, k, seed):
    close = torch.rand(len(maps), len(maps), generator=torch.Generator().manual_seed(seed)) < 0.3
    close = close | close.T | torch.eye(len(maps), dtype=torch.bool)
    top = top_activations(Given(), [maps], ["mul"], len(maps))["mul"]
    apart = top.apart(close, k)
    for channel in range(maps.shape[1]):
        expected = []
        for value, image in zip(top.values[channel].tolist(), top.images[channel].tolist(), strict=True):
            clear = not any(close[image, other] for _, other in expected)
            if image >= 0 and clear and len(expected) < k:
                expected.append((value, image))
        expected += [(0.0, -1)] * (k - len(expected))
        found = zip(apart.values[channel].tolist(), apart.images[channel].tolist(), strict=True)
        assert list(found) == expected
    assert ((apart.images < 0) == (apart.positions < 0).all(2)).all()


# ------------------------------------------------------------------------------ what is refused
def test_an_unknown_layer_lists_the_layers():
    with pytest.raises(ValueError, match="no layer 'relu9'; this network has: 0, 1"):
        top_activations(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), [torch.rand(1, 3, 4, 4)], ["relu9"])


@pytest.mark.parametrize(
    ("loader", "layers", "k", "message"),
    [
        ([], ["mul"], 9, "yields no pictures"),
        ([torch.rand(1, 2, 3, 3)], ["mul"], 0, "k is 0"),
        ([torch.full((1, 2, 3, 3), torch.nan)], ["mul"], 1, "'mul' has activations that are not numbers"),
        (
            [torch.full((1, 2, 3, 3), torch.nan).to(memory_format=torch.channels_last)],
            ["mul"],
            1,
            "'mul' has activations that are not numbers",
        ),
        ([torch.zeros(1, 2, 3, 3).byte()], ["mul"], 1, "must be a float tensor"),
    ],
)
def test_what_cannot_be_ranked_is_refused(loader, layers, k, message):
    with pytest.raises(ValueError, match=message):
        top_activations(Given(), loader, layers, k)


def test_tokens_are_neither_maps_nor_units():
    with pytest.raises(ValueError, match=r"'0' is \(1, 2, 9\), neither maps"):
        top_activations(nn.Sequential(nn.Flatten(2)), [torch.rand(1, 2, 3, 3)], ["0"])


def test_parts_of_different_layers_do_not_merge():
    part = top_activations(Given(), [torch.rand(1, 2, 3, 3)], ["mul"])
    with pytest.raises(ValueError, match="have the same layers"):
        merge([part, {}])
    few, many = (top_activations(Given(), [torch.rand(6, 2, 3, 3)], ["mul"], k) for k in (2, 5))
    with pytest.raises(ValueError, match="have the same k; got 2, 5"):
        merge([few, many])
    with pytest.raises(ValueError, match="2 parts need the numbers of their pictures, got 1"):
        merge([part, part], [range(1)])
