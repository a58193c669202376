"""Purity, likeness and decoding: against loops over sets and pairs, and where the answer is known."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold

from zfcore import selectivity as room
from zfcore.data import patches, to_input
from zfcore.gallery import Gallery
from zfcore.model import build, initialize_
from zfcore.selectivity import (
    PENALTIES,
    correlations,
    decoded,
    decoding,
    diversity,
    fig2_entries,
    interval,
    layer_ends,
    purity,
    purity_by_chance,
    purity_of,
    put_at,
    rise,
    untrained,
)
from zfcore.view import Viewer

steady = settings(deadline=None, derandomize=True, max_examples=40)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def viewer():
    torch.manual_seed(7)  # the control's is 0
    model = build("zfnet-64", 10, width=0.1)
    initialize_(model, "he")
    card = {"architecture": "zfnet-64", "num_classes": 10, "width": 0.1, "sha256": "0" * 64}
    card |= {"input_size": 56, "resize": 64, "scale": 64.0, "mean": torch.full((3, 64, 64), 118.0)}
    return Viewer(model.eval(), card)


# ------------------------------------------------------------------------------ purity
@steady
@given(st.lists(st.lists(st.integers(0, 4), min_size=9, max_size=9), min_size=1, max_size=4))
def test_purity_is_what_a_count_of_the_labels_gives(sets):
    shares, entropies = purity(torch.tensor(sets))
    for labels, share, entropy in zip(sets, shares, entropies, strict=True):
        counts = np.array(list(Counter(labels).values()))
        assert share == pytest.approx(counts.max() / 9)
        assert entropy == pytest.approx(stats.entropy(counts, base=2), abs=1e-12)


def test_chance_is_what_random_sets_without_repeats_give():
    labels = torch.arange(40) % 4
    found = purity_by_chance(labels, maps=20, k=9, draws=300)
    draw = np.random.default_rng(1)
    sets = [labels[draw.choice(40, 9, replace=False)] for _ in range(6000)]
    shares, entropies = purity(torch.stack(sets))
    assert found["share"]["mean"] == pytest.approx(float(shares.mean()), abs=0.01)
    assert found["entropy"]["mean"] == pytest.approx(float(entropies.mean()), abs=0.02)
    width = 2 * 1.96 * float(shares.std()) / math.sqrt(20)
    assert found["share"]["high"] - found["share"]["low"] == pytest.approx(width, rel=0.25)


def test_a_set_of_all_pictures_has_no_repeats():
    found = purity_by_chance(torch.arange(9), maps=2, draws=20)
    assert list(found["share"].values()) == pytest.approx([1 / 9] * 3)


def test_an_interval_holds_the_mean_of_most_samples():
    draw, held = np.random.default_rng(0), 0
    for _ in range(60):
        found = interval(draw.normal(3, 1, 40))
        held += found["low"] <= 3 <= found["high"]
    assert held >= 52
    assert interval(np.array([2.0])) == {"mean": 2.0, "low": 2.0, "high": 2.0}


def test_a_rise_is_the_slope_of_the_means():
    draw = np.random.default_rng(0)
    layers = [draw.normal(0.1 * depth, 0.05, 60) for depth in range(5)]
    found = rise(layers)
    assert found["mean"] == pytest.approx(np.polyfit(range(5), [v.mean() for v in layers], 1)[0])
    assert 0 < found["low"] < 0.1 < found["high"]
    flat = rise([draw.normal(0, 1, 60) for _ in range(5)])
    assert flat["low"] < 0 < flat["high"]


def test_silent_maps_are_counted_apart(viewer):
    some = patches("val").take(torch.arange(0, 1000, 10))
    gallery = Gallery.of(viewer, some)
    wall = gallery.layers["layer 4"]
    wall.hits[0] = (*wall.hits[0][:8], None)
    found = purity_of(gallery, some)["layer 4"]
    whole = [hits for hits in wall.hits.values() if all(hits)]
    assert found["silent"] >= 1
    assert found["maps"] == len(whole) == len(wall.hits) - found["silent"]
    commonest = [Counter(hit.label for hit in hits).most_common(1)[0][1] / 9 for hits in whole]
    assert found["share"]["mean"] == pytest.approx(np.mean(commonest))


# ------------------------------------------------------------------------------ diversity
@steady
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 4))
def test_likeness_is_the_correlation_over_common_pixels(seed, m, n):
    draw = np.random.default_rng(seed)
    a, b = (draw.integers(0, 256, (k, 5, 5, 3), np.uint8) for k in (m, n))
    in_a, in_b = (draw.random((k, 5, 5)) < 0.8 for k in (m, n))
    found = correlations(a, b, in_a, in_b)
    for i in range(m):
        for j in range(n):
            common = in_a[i] & in_b[j]
            expected = np.corrcoef(a[i][common].ravel(), b[j][common].ravel())[0, 1] if common.any() else 0
            assert found[i, j] == pytest.approx(expected, abs=1e-9)


def test_pictures_without_contrast_are_like_nothing():
    flat, inside = np.full((1, 4, 4, 3), 128, np.uint8), np.ones((1, 4, 4), bool)
    assert correlations(flat, flat, inside, inside) == 0
    assert correlations(flat, flat, inside, ~inside) == 0


def alike(one, other, common):
    """The correlation of two pictures over some pixels; 0 where one of them has no contrast there."""
    x, y = one[common].ravel().astype(float), other[common].ravel().astype(float)
    return np.corrcoef(x, y)[0, 1] if len(x) and x.std() > 0 and y.std() > 0 else 0.0


def test_diversity_is_the_mean_over_the_pairs_of_a_map(viewer):
    gallery = Gallery.of(viewer, patches("val").take(torch.arange(0, 1000, 10)))
    found = diversity(gallery)
    wall, parts = gallery.layers["layer 2"], found["layer 2"]
    whole = [f for f in wall.features if all(wall.hits[f])]
    assert parts["maps"] == len(whole) > 2
    expected = {}
    for kind, cells in (("patches", gallery.patches), ("projections", gallery.projections)):
        within, between = [], []
        for feature, other in zip(whole, whole[1:] + whole[:1], strict=True):
            (own, there), (others, beside) = ((cells("layer 2", f), wall.inside(f)) for f in (feature, other))
            both = [(own[i], own[j], there[i] & there[j]) for i in range(9) for j in range(i)]
            within.append(np.mean([alike(*pair) for pair in both]))
            both = [(own[i], others[j], there[i] & beside[j]) for i in range(9) for j in range(9)]
            between.append(np.mean([alike(*pair) for pair in both]))
        expected |= {kind: np.array(within), f"{kind}, other maps": np.array(between)}
    expected["difference"] = expected["patches"] - expected["projections"]
    beyond = {kind: expected[kind] - expected[f"{kind}, other maps"] for kind in ("patches", "projections")}
    expected["difference beyond other maps"] = beyond["patches"] - beyond["projections"]
    assert set(parts) == {"maps", *expected}
    for what, values in expected.items():
        assert parts[what] == pytest.approx(interval(values)), what


# ------------------------------------------------------------------------------ decoding
def test_what_is_linear_is_decoded_and_noise_is_not():
    draw = np.random.default_rng(0)
    features, noise = draw.normal(size=(200, 30)), draw.normal(size=(200, 2))
    linear = features @ draw.normal(size=(30, 2)) + 5
    assert np.corrcoef(decoded(features, linear)[:, 0], linear[:, 0])[0, 1] > 0.99
    assert decoded(features, linear).mean() == pytest.approx(linear.mean(), abs=0.2)
    assert ((decoded(features, noise) - noise) ** 2).mean() > 0.9 * noise.var()


def decoded_slowly(features, targets, seed=0):
    """Ridge regression on the features themselves, fold by fold, its penalty chosen inside each fold."""
    features, centre = features.astype(np.float64) - features.mean(0, dtype=np.float64), targets.mean(0)
    features /= np.sqrt((features**2).sum(1).mean())
    said = np.empty(targets.shape)
    for learned, told in KFold(5, shuffle=True, random_state=seed).split(features):
        ridge = GridSearchCV(Ridge(fit_intercept=False), {"alpha": PENALTIES}, cv=3)
        said[told] = ridge.fit(features[learned], targets[learned] - centre).predict(features[told]) + centre
    return said


@pytest.mark.parametrize("noise", [0.1, 10.0])  # of which one wants a small penalty, the other a large one
def test_decoded_is_ridge_regression_on_the_features_themselves(noise):
    draw = np.random.default_rng(0)
    features = 3 * draw.normal(size=(61, 20)) + 5
    targets = features @ draw.normal(size=(20, 2)) + noise * draw.normal(size=(61, 2))
    np.testing.assert_allclose(decoded(features, targets, 3), decoded_slowly(features, targets, 3), atol=1e-8)


def test_pictures_are_put_where_they_shall_be():
    x = torch.rand(3, 3, 10, 10) + 1
    places = torch.tensor([[0, 0], [4, 2], [4, 4]])
    found = put_at(x, places, 6)
    small = F.interpolate(x, size=(6, 6), mode="bilinear", antialias=True)
    for picture, reduced, (top, left) in zip(found, small, places.tolist(), strict=True):
        torch.testing.assert_close(picture[:, top : top + 6, left : left + 6], reduced)
        assert (picture != 0).sum() == 3 * 36


def test_the_end_of_a_layer_is_after_pooling_and_norm(viewer):
    ends = layer_ends(viewer.model)
    paths = viewer.model.architecture.named_layers()
    expected = ["norm1", "norm2", "relu3", "relu4", "pool5", "relu6", "relu7"]
    assert list(ends.values()) == [paths[label] for label in expected]
    assert list(ends) == [f"layer {n}" for n in range(1, 8)]


def test_place_is_decoded_from_random_features_of_layer_1(viewer):
    some = patches("val").take(torch.arange(0, 1000, 5))
    found = decoding(viewer, some, {"layer 1": layer_ends(viewer.model)["layer 1"]})["layer 1"]
    assert found["place"]["mean"] > 0.4
    assert found["label"]["mean"] > 0.15  # of ten photographs
    assert found["features"] == 28 * 28 * viewer.model.features[0].out_channels


@torch.no_grad()
def test_decoding_is_what_a_loop_over_the_pictures_gives(viewer):
    some, side = patches("val").take(torch.arange(0, 1000, 20)), round(0.64 * 56)
    layers = {name: layer_ends(viewer.model)[name] for name in ("layer 1", "layer 5", "layer 6")}
    found = decoding(viewer, some, layers, seed=2)
    places = torch.randint(56 - side + 1, (50, 2), generator=torch.Generator().manual_seed(2))
    features = {name: [] for name in layers}
    for pixels, (top, left) in zip(some.pixels, places.tolist(), strict=True):
        x = to_input(pixels.permute(1, 2, 0)[None], viewer.card)
        small = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        grey = torch.zeros(1, 3, 56, 56)
        grey[..., top : top + side, left : left + side] = small
        answers = viewer.net.activations(grey, layers.values())
        for name, path in layers.items():
            features[name].append(answers[path][0].flatten())
    classes, labels = np.unique(some.labels.numpy(), return_inverse=True)
    where = places.double().numpy()
    for name, rows in features.items():
        rows = torch.stack(rows).numpy()
        right = decoded(rows, np.eye(len(classes))[labels], 2).argmax(1) == labels
        missed = ((decoded(rows, where, 2) - where) ** 2).sum(1)
        assert found[name]["features"] == rows.shape[1]
        assert found[name]["label"] == interval(right.astype(float))
        assert found[name]["place"] == pytest.approx(interval(1 - missed / where.var(0).sum()), abs=1e-3)


def test_the_untrained_network_is_the_same_for_a_seed_and_leaves_the_generator_alone(viewer):
    state = torch.random.get_rng_state()
    one, same, other = (untrained(viewer, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert one.card["sha256"] == same.card["sha256"] != other.card["sha256"]
    assert one.layers == viewer.layers


# ------------------------------------------------------------------------------ the ledger
def test_every_row_of_fig2_is_measured(viewer, monkeypatch, tmp_path):
    monkeypatch.setattr(room, "CLASSES", 4)
    some = patches("val").take(torch.arange(0, 1000, 8))
    entries = list(fig2_entries(viewer, some, lambda seen, album: tmp_path / f"{seen.card['sha256']}"))
    measured = ["purity", "diversity", "decoding"]
    rows = measured + [f"{row}, random weights" for row in measured]
    assert [entry["row"] for entry in entries] == rows
    assert len(list(tmp_path.iterdir())) == 2
    for entry in entries:
        assert entry["values"]["layer 5"]
    assert entries[0]["weights_sha256"] != entries[3]["weights_sha256"]
    assert entries[2]["n"] < entries[0]["n"] == len(some)
    assert entries[2]["config"]["classes"] == 4
