"""Features of any layer, and heads on them that are the ones scikit-learn would find."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import nn
from tqdm import tqdm

from zfcore import transfer
from zfcore.model import build
from zfcore.trace import trace
from zfcore.transfer import (
    STRENGTHS,
    WEAKER,
    Head,
    Span,
    end_of_layer,
    extract_features,
    fit_softmax,
    fit_svm,
)

pytestmark = pytest.mark.usefixtures("one_thread")
HEADS = {"softmax": fit_softmax, "svm": fit_svm}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build("zfnet-64", num_classes=7, width=0.1)


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(70, 3, 56, 56, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------ features
ENDS = {1: "norm1", 2: "norm2", 3: "relu3", 4: "relu4", 5: "pool5", 6: "relu6", 7: "relu7"}


@pytest.mark.parametrize(("number", "role"), ENDS.items())
def test_a_layer_ends_after_its_pooling_and_norm(network, number, role):
    assert end_of_layer(network, f"layer {number}") == network.architecture.named_layers()[role]


def test_where_the_norm_comes_first_the_pooling_ends_the_layer():
    alexnet = build("alexnet-64", width=0.1)
    assert end_of_layer(alexnet, "layer 1") == alexnet.architecture.named_layers()["pool1"]


def test_a_layer_that_is_not_there_is_told_with_those_there_are(network):
    with pytest.raises(ValueError, match="has 1, 2, 3, 4, 5, 6, 7"):
        end_of_layer(network, "layer 9")
    with pytest.raises(ValueError, match=r"networks of zfcore\.model; Sequential has: 0, 1"):
        extract_features(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()), [torch.zeros(1, 3, 8, 8)], "layer 1")
    own = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    own.architecture = "mine"
    with pytest.raises(ValueError, match=r"networks of zfcore\.model; Sequential has: 0, 1"):
        end_of_layer(own, "layer 1")
    with pytest.raises(ValueError, match=r"no layer 'features\.99'"):
        extract_features(network, [torch.zeros(1, 3, 56, 56)], "features.99")


@settings(deadline=None, max_examples=8, derandomize=True)
@given(size=st.integers(1, 70))
def test_features_do_not_depend_on_the_loaders_batches(network, pictures, size):
    whole = extract_features(network, [pictures], "layer 5")
    assert torch.equal(extract_features(network, pictures.split(size), "layer 5"), whole)


def test_features_are_the_activations_flattened(network, pictures):
    names = ["layer 2", "classifier.1"]
    found = extract_features(network, [(pictures[:5], "labels are not looked at")], names, batch_size=5)
    paths = ["features.7", "classifier.1"]
    plain = trace(network).activations(pictures[:5], paths)
    for name, path in zip(names, paths, strict=True):
        torch.testing.assert_close(found[name], plain[path].detach().flatten(1))


@pytest.mark.parametrize("batches", [1, 7])
def test_large_features_are_the_same_from_the_disk(network, pictures, tmp_path, monkeypatch, batches):
    opened, unnamed = [], transfer.tempfile.TemporaryFile
    monkeypatch.setattr(transfer.tempfile, "TemporaryFile", lambda: opened.append(unnamed()) or opened[-1])
    loader = pictures.split(-(-70 // batches))
    here = extract_features(network, loader, ["layer 1", "layer 7"], batch_size=8)
    assert not opened
    spilled = extract_features(network, loader, ["layer 1", "layer 7"], batch_size=8, memory=1000)
    assert len(opened) == 2
    stored = extract_features(network, loader, ["layer 1", "layer 7"], batch_size=8, folder=tmp_path)
    for name, features in here.items():
        assert torch.equal(features, spilled[name])
        assert torch.equal(features, stored[name])
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), features.numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer 1.npy", "layer 7.npy"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_nothing_is_left_of_features_that_did_not_come_to_an_end(
    network, pictures, tmp_path, monkeypatch, stop
):
    bars = []
    monkeypatch.setattr(transfer, "tqdm", lambda **options: bars.append(tqdm(**options)) or bars[-1])

    def loader():
        yield pictures[:16]
        assert list(tmp_path.iterdir()), "the first rows are on the disk"
        raise stop

    with pytest.raises(stop):
        extract_features(
            network, loader(), ["layer 1", "layer 7"], batch_size=8, folder=tmp_path, progress=True
        )
    assert list(tmp_path.iterdir()) == []
    assert bars[0].disable, "a bar that is closed draws no more"


def test_features_are_for_all_to_read_whom_the_user_lets(network, pictures, tmp_path):
    extract_features(network, [pictures[:1]], "layer 7", folder=tmp_path, batch_size=1)
    (tmp_path / "plain").touch()
    assert (tmp_path / "layer 7.npy").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux tells which files are open")
def test_features_take_their_name_when_they_are_whole_on_the_disk(network, pictures, tmp_path, monkeypatch):
    seen, synced = {}, []

    def replace(source, target):
        still_open = {os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")}
        seen[target.name] = np.load(source), str(source) in still_open, len(synced)
        os.rename(source, target)

    monkeypatch.setattr(transfer.os, "fsync", synced.append)
    monkeypatch.setattr(transfer.os, "replace", replace)
    features = extract_features(network, [pictures[:2]], "layer 7", folder=tmp_path, batch_size=2)
    [(name, (whole, still_open, syncs))] = seen.items()
    assert (name, still_open, syncs) == ("layer 7.npy", False, 1)
    assert np.array_equal(whole, features.numpy())


def test_features_of_nothing_are_refused(network):
    with pytest.raises(ValueError, match="no picture"):
        extract_features(network, [], "layer 1")


# ------------------------------------------------------------------------------ the span
@pytest.mark.parametrize(("n", "d"), [(30, 200), (200, 30), (40, 40)])
def test_a_span_keeps_every_inner_product(n, d):
    x = np.random.default_rng(0).normal(2, 1, (n, d))
    x[1] = x[0]  # a duplicate costs a dimension and nothing else
    span = Span(x)
    centred = x - x.mean(0)
    np.testing.assert_allclose(span.z @ span.z.T, centred @ centred.T, atol=1e-9)
    np.testing.assert_allclose(span.z.T @ span.z, np.diag(span.moments), atol=1e-8)
    assert span.z.shape[1] == np.linalg.matrix_rank(centred)
    weights = np.random.default_rng(1).normal(size=(span.z.shape[1], 3))
    np.testing.assert_allclose(centred @ span.lift(weights), span.z @ weights, atol=1e-9)


# ------------------------------------------------------------------------------ heads
def blobs(n=150, d=20, classes=4, seed=0, spread=1.5):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    centres = draw.normal(size=(classes, d))
    return centres[labels] + spread * draw.normal(size=(n, d)) + 3, labels


def by_scikit(kind, x, y, strength):
    c = 1 / (len(x) * strength * ((x - x.mean(0)) ** 2).sum(1).mean())
    if kind == "softmax":
        return LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x, y)
    centred = x - x.mean(0)  # liblinear shrinks the intercept too, the less the larger its scale
    return LinearSVC(C=c, tol=1e-10, max_iter=100_000, dual=False, intercept_scaling=1000).fit(centred, y)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("strength", [1e-1, 1e-3])
@pytest.mark.parametrize("shape", [(150, 20), (60, 300)])
def test_a_head_is_the_one_scikit_learn_finds(kind, strength, shape):
    x, y = blobs(*shape)
    mine = HEADS[kind](x, y, strengths=[strength]).decision(x)
    theirs = by_scikit(kind, x, y, strength)
    theirs = theirs.decision_function(x if kind == "softmax" else x - x.mean(0))
    if kind == "softmax":  # a constant added to all classes changes no probability
        mine, theirs = (scores - scores.mean(1, keepdims=True) for scores in (mine, theirs))
    np.testing.assert_allclose(mine, theirs, atol=2e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("strength", [1e-1, 1e-2])
@pytest.mark.parametrize("shape", [(150, 20), (60, 300)])
def test_a_machine_in_single_precision_is_near_the_one_in_double(strength, shape):
    x, y = blobs(*shape)
    single, double = (fit_svm(z, y, strengths=[strength]).decision(z) for z in (x.astype(np.float32), x))
    np.testing.assert_allclose(single, double, atol=4e-3 * np.abs(double).max())


def test_a_head_that_does_not_converge_says_so(monkeypatch):
    def short(*arguments, options, **others):
        return minimize(*arguments, options=options | {"maxiter": 2}, **others)

    monkeypatch.setattr(transfer, "minimize", short)
    with pytest.warns(UserWarning, match="a head of strength 0.001 has not converged"):
        fit_softmax(*blobs(), strengths=[1e-3])


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_hands_back_what_it_was_given(kind):
    x, y = blobs()
    names = np.array([10, -3, 7, 90])[y]
    arrays, tensors = HEADS[kind](x, names), HEADS[kind](torch.from_numpy(x), torch.from_numpy(names))
    assert isinstance(arrays.predict(x), np.ndarray)
    assert isinstance(tensors.predict(torch.from_numpy(x)), torch.Tensor)
    assert set(arrays.predict(x).tolist()) <= {10, -3, 7, 90}
    np.testing.assert_allclose(arrays.decision(x), tensors.decision(torch.from_numpy(x)).numpy(), atol=1e-12)
    assert arrays.decision(x.astype(np.float32)).dtype == np.float32
    assert (arrays.predict(x) == names).mean() > 0.8


class Elsewhere(torch.Tensor):
    """Stands for a tensor on a GPU: numpy cannot have it, nor what goes to its device, before ``cpu()``."""

    device = torch.device("meta")

    def __array__(self, *options):
        raise TypeError("use Tensor.cpu() first")

    numpy = __array__

    def cpu(self):
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(torch.Tensor)


MOVES = {
    "in a graph": lambda x: x.double().requires_grad_(),
    "elsewhere": lambda x: x.as_subclass(Elsewhere),
    "cuda": torch.Tensor.cuda,
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("where", MOVES)
def test_a_head_takes_tensors_from_wherever_they_are_and_answers_there(kind, where):
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    (x, y), groups = blobs(), np.arange(150)
    features, labels, pictures = (MOVES[where](torch.from_numpy(part)) for part in (x, y, groups))
    plain, head = HEADS[kind](x, y, groups=groups), HEADS[kind](features, labels, groups=pictures)
    np.testing.assert_array_equal(head.weights.numpy(), plain.weights)
    moved = Head(kind, *map(MOVES[where], (head.weights, head.bias, head.classes)), head.strength, {})
    found = moved.predict(features)
    assert (found.shape, found.device) == ((150,), features.device)
    if where != "elsewhere":
        assert found.tolist() == plain.predict(x).tolist()


def test_features_in_half_precision_are_learned_from_as_float32():
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    y = (x[:, 0] > 0).long()
    head, exact = fit_softmax(x, y), fit_softmax(x.float(), y)
    assert torch.equal(head.decision(x), exact.decision(x.float()))


def test_heads_on_one_span_are_those_on_its_features():
    x, y = blobs(60, 300)
    span = Span(x)
    for fit in HEADS.values():
        np.testing.assert_array_equal(fit(span, y).decision(x), fit(x, y).decision(x))


@pytest.mark.parametrize("kind", HEADS)
def test_the_strength_is_chosen_by_pictures_that_were_held_out(kind):
    x, y = blobs(400, 60, spread=4)
    strengths = (1e-1, 1e-2, 1e-3)
    head, held = HEADS[kind](x, y, strengths=strengths), transfer._held_out(y, None, seed=0)
    assert [held[y == c].sum() for c in range(4)] == [(y == c).sum() // 5 for c in range(4)]
    scale = ((x - x.mean(0)) ** 2).sum(1).mean() / ((x[~held] - x[~held].mean(0)) ** 2).sum(1).mean()
    right = {}
    for strength in strengths:
        centre = x[~held].mean(0) if kind == "svm" else 0
        theirs = by_scikit(kind, x[~held], y[~held], strength * scale)
        right[strength] = (theirs.predict(x[held] - centre) == y[held]).mean()
    assert len(set(right.values())) > 1
    assert head.tried == pytest.approx(right)
    assert head.strength == max(right, key=lambda s: (right[s], s))


def test_other_pictures_are_held_out_with_another_seed():
    x, y = blobs(400, 60, spread=4)
    head = fit_softmax(x, y)
    assert set(STRENGTHS) <= set(head.tried) <= set(STRENGTHS + WEAKER)
    assert fit_softmax(x, y, seed=1).tried != head.tried


def faint(n=400):
    """Two classes that differ in the second of two numbers, a thousandth of the first in size."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    return np.stack([rng.normal(0, 100, n), 0.2 * (y - 0.5) + rng.normal(0, 0.06, n)], 1), y


@pytest.mark.parametrize("kind", HEADS)
def test_weaker_penalties_are_tried_for_as_long_as_each_is_the_best(kind):
    x, y = faint()
    whole = HEADS[kind](x, y, strengths=STRENGTHS + WEAKER).tried
    expected = {strength: whole[strength] for strength in STRENGTHS}
    for strength in WEAKER:
        *others, last = expected.values()
        if last <= max(others):
            break
        expected[strength] = whole[strength]
    head = HEADS[kind](x, y)
    assert head.tried == expected
    assert len(expected) > len(STRENGTHS)
    assert head.strength == max(expected, key=lambda s: (expected[s], s))


@pytest.mark.parametrize("kind", HEADS)
def test_no_weaker_penalty_is_tried_where_the_weakest_is_not_the_best(kind):
    assert tuple(HEADS[kind](*blobs(400, 60, spread=4)).tried) == STRENGTHS


def test_one_picture_of_each_class_is_enough():
    head = fit_softmax(np.eye(3), np.arange(3))
    assert head.tried == {}
    assert head.predict(np.eye(3)).tolist() == [0, 1, 2]


def test_the_same_picture_under_two_labels_is_held_out_as_one():
    from zfcore.transfer import _held_out

    y, groups = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]), np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    held = _held_out(y, groups, 0)
    assert held.sum() < 10
    assert set(groups[held]).isdisjoint(groups[~held])


def test_where_groups_leave_nothing_to_learn_from_none_is_held_out():
    (x, y), strengths = blobs(), [0.1, 0.01]
    head = fit_softmax(x, y, groups=np.zeros(len(y)), strengths=strengths)
    assert head.tried == {}
    assert head.strength == 0.1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"strengths": [-1.0]}, "numbers of 0 or more"),
        ({"strengths": []}, "one at least"),
        ({"groups": [1]}, "1 groups for"),
    ],
)
def test_what_penalties_and_groups_cannot_be_is_told(given, told):
    with pytest.raises(ValueError, match=told):
        fit_softmax(*blobs(), **given)


FAULTS = [
    (np.zeros((3, 2, 2)), [0, 1, 1], r"features are \(N, D\)"),
    (np.zeros((0, 2)), [], "no features to learn from"),
    (np.full((3, 2), np.nan), [0, 1, 1], "not finite"),
    (np.eye(3), [0, 1], "labels of shape"),
    (np.eye(3), [1, 1, 1], "one class"),
]


@pytest.mark.parametrize(("features", "labels", "fault"), FAULTS)
def test_what_cannot_be_learned_from_is_refused(features, labels, fault):
    with pytest.raises(ValueError, match=fault):
        fit_softmax(features, labels)


def test_features_of_another_layer_are_refused():
    head = Head("svm", np.zeros((4, 2)), np.zeros(2), np.arange(2), 1.0, {})
    with pytest.raises(ValueError, match="features of 5 numbers for a head of 4"):
        head.decision(np.zeros((1, 5)))
