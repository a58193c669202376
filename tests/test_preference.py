"""The trap of the probability and what regularisers buy, where the answers are known; and the commands."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from samples import CARD, Aside, small
from torch import nn
from typer.testing import CliRunner

from zfcore import preference
from zfcore.cli import app
from zfcore.ledger import read
from zfcore.maximization import PLAIN, maximize, noise
from zfcore.model import load
from zfcore.preference import STEPS, VARIANTS, maximization_entry, regularisers, trap
from zfcore.selectivity import interval
from zfcore.spectra import band_shares
from zfcore.view import Viewer

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = {"layer 1": "1", "layer 3": "8"}


@pytest.fixture
def viewer():
    return Viewer(small(), {**CARD, "architecture": "small", "sha256": "0" * 64}, LAYERS)


def test_the_trap_is_what_two_ascents_of_each_class_say(viewer):
    found = trap(viewer, classes=3, seed=2)
    drawn = torch.randperm(4, generator=torch.Generator().manual_seed(2))[:3].tolist()
    rises = {"logit": [], "probability": []}
    others = {"logit": [], "probability": []}
    rivals = {"logit": [], "probability": []}
    for objective in rises:
        for c in drawn:
            seed = 2 * 4 + c
            r = maximize(viewer.model, "10", c, 28, objective=objective, recipe=STEPS, seed=seed)
            with torch.no_grad():
                start = viewer.model(noise(28, [seed], STEPS.contrast).float())[0]
                end = viewer.model(r.image[None])[0]
            rises[objective].append((end - start)[c].item())
            rest = [k for k in range(4) if k != c]
            others[objective].append((end[rest].mean() - start[rest].mean()).item())
            rivals[objective].append((end[rest].max() - start[rest].max()).item())
    for objective in rises:
        assert found[objective]["target"] == pytest.approx(np.mean(rises[objective]), rel=1e-3)
        assert found[objective]["others"] == pytest.approx(np.mean(others[objective]), rel=1e-3)
        assert found[objective]["rival"] == pytest.approx(np.mean(rivals[objective]), rel=1e-3)
        assert 0 < found[objective]["probability"] <= 1
    paired = np.subtract(rises["logit"], rises["probability"])
    assert found["difference"]["mean"] == pytest.approx(paired.mean(), rel=1e-3)
    low, high = found["difference"]["interval"]
    assert low <= found["difference"]["mean"] <= high
    assert found["n"] == 3


def test_a_judge_says_what_another_network_makes_of_what_was_climbed_to(viewer):
    other = {**CARD, "mean": [90.0, 100.0, 110.0], "scale": 32.0, "architecture": "other", "sha256": "1" * 64}
    judge = Viewer(small(seed=1), other, LAYERS)
    found, rises, first = trap(viewer, classes=3, seed=2, judge=judge)["judge"], {}, {}
    mean, other_mean = (torch.tensor(card["mean"])[:, None, None] for card in (CARD, other))
    for objective in ("logit", "probability"):
        for c in torch.randperm(4, generator=torch.Generator().manual_seed(2))[:3].tolist():
            how = {"objective": objective, "recipe": STEPS, "seed": 2 * 4 + c}
            r = maximize(viewer.model, "10", c, 28, **how)
            logs = []
            for x in (noise(28, [2 * 4 + c], STEPS.contrast)[0].float(), r.image):
                taken = (x * 64 + mean - other_mean) / 32
                with torch.no_grad():
                    logs.append(judge.model(taken[None]).double().log_softmax(1)[0])
            rises.setdefault(objective, []).append((logs[1] - logs[0])[c].item())
            first.setdefault(objective, []).append(int(logs[1].argmax()) == c)
        assert found[objective]["rise"] == pytest.approx(np.mean(rises[objective]), rel=1e-3)
        assert found[objective]["first"] == pytest.approx(np.mean(first[objective]))
    paired = np.subtract(rises["logit"], rises["probability"])
    assert found["difference"]["mean"] == pytest.approx(paired.mean(), rel=1e-3)
    assert (found["architecture"], found["sha256"]) == ("other", "1" * 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["a", "b", "c", "x"]}, "knows the same classes in the same order"),
        ({"classes": None}, "by the names in its card"),
        ({"input_size": 32}, "takes pictures of 28 pixels; this one takes 32"),
        ({"sha256": "0" * 64}, "these are the same weights"),
    ],
)
def test_who_cannot_judge_is_refused(viewer, change, words):
    card = {**viewer.card, "sha256": "1" * 64, **change}
    of_any_size = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
    with pytest.raises(ValueError, match=words):
        trap(viewer, classes=2, judge=Viewer(nn.Sequential(*of_any_size).eval(), card))


def test_no_network_judges_where_no_classes_are_named(viewer):
    cards = [{**viewer.card, "classes": None, "sha256": sha} for sha in ("0" * 64, "1" * 64)]
    climbed, judge = (Viewer(small(), card, LAYERS) for card in cards)
    with pytest.raises(ValueError, match="by the names in its card"):
        trap(climbed, classes=2, judge=judge)


def test_a_net_whose_classes_pull_alike_shows_the_trap():
    """All logits share a part: the logit climbs it, the probability gains nothing by it and leaves it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)).eval()
    model[3].weight.data += 10 * torch.randn(1, 4 * 14 * 14)
    card = {"input_size": 16, "resize": 16, "mean": [0.0] * 3, "scale": 1.0}
    found = trap(Viewer(model, card), classes=3)
    assert found["difference"]["interval"][0] > 0
    assert found["logit"]["others"] > found["probability"]["others"]


def test_classes_are_those_of_the_layer_that_is_returned(viewer, monkeypatch):
    layers = {name: f"network.{path}" for name, path in LAYERS.items()}
    aside = Viewer(Aside(small()).eval(), viewer.card, layers)
    assert trap(aside, classes=2) == trap(viewer, classes=2)
    monkeypatch.setattr(preference, "VARIANTS", {"plain": replace(STEPS, iterations=2)})
    assert regularisers(aside, units=2) == regularisers(viewer, units=2)


def test_every_variant_is_measured_against_the_plain_ascent(viewer, monkeypatch):
    for name, recipe in VARIANTS.items():
        assert recipe.iterations == STEPS.iterations, name
        assert recipe.epsilon == STEPS.epsilon, name
    assert VARIANTS["plain"].step == PLAIN.step
    found = regularisers(viewer, units=2)
    assert list(found) == list(VARIANTS)
    assert found["plain"]["kept"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["frequency space"]["high"]["mean"] < found["plain"]["high"]["mean"]
    for of in found.values():
        assert set(of) == {"kept", "high", "agreement", "size"}
        assert -1 <= of["agreement"]["low"] <= of["agreement"]["high"] <= 1
    monkeypatch.setattr(preference, "VARIANTS", {"plain": STEPS})
    assert set(maximization_entry(viewer, classes=2, units=1)["values"]) == {"trap", "regularisers"}


def test_regularisers_are_what_single_ascents_of_every_unit_say(viewer, monkeypatch):
    few = replace(STEPS, iterations=4)
    recipes = {"plain": few, "L2": replace(few, l2=0.05), "jitter": replace(few, jitter=3)}
    monkeypatch.setattr(preference, "VARIANTS", recipes)
    found, draw = regularisers(viewer, units=2, seed=1), torch.Generator().manual_seed(1)
    expected = {name: {"kept": [], "high": [], "size": [], "agreement": []} for name in recipes}
    for layer in ("0", "7", "10"):  # of layers 1 and 3 what is before the ReLU, and the classes
        value = viewer.net.activations(torch.zeros(1, 3, 28, 28), [layer])[layer]
        rows = columns = slice(None)
        if value.ndim == 4:
            box = viewer.net.geometry[layer].box(value.shape[2] // 2, value.shape[3] // 2)
            top, left, bottom, right = (max(0, end) for end in box)
            rows, columns = slice(top, bottom), slice(left, right)
        for unit in torch.randperm(value.shape[1], generator=draw)[:2].tolist():
            plain = []
            for name, recipe in recipes.items():
                reached, seen = [], []
                for seed in (2, 3):
                    r = maximize(viewer.model, layer, unit, 28, position="middle", recipe=recipe, seed=seed)
                    reached.append(r.history[-1])
                    seen.append(r.image[:, rows, columns].double())
                plain = plain or reached
                measured = {
                    "kept": np.mean([a / b for a, b in zip(reached, plain, strict=True)]),
                    "high": np.mean([band_shares(picture[None])[0, 2].item() for picture in seen]),
                    "size": np.mean([math.sqrt((picture**2).mean()) for picture in seen]),
                    "agreement": np.corrcoef(*(picture.flatten() for picture in seen))[0, 1],
                }
                for what, value_of_unit in measured.items():
                    expected[name][what].append(value_of_unit)
    for name, of in expected.items():
        for what, values in of.items():
            assert found[name][what] == pytest.approx(interval(np.array(values), 1), rel=1e-3, abs=1e-4), what


def test_the_books_entry_has_every_variant():
    (entry,) = read("maximization")["entries"]
    assert entry["n"] == entry["values"]["trap"]["n"] >= 40
    assert set(entry["values"]["regularisers"]) == set(VARIANTS)


# ------------------------------------------------------------------------------ in the shell
def run(*words):
    return CliRunner().invoke(app, ["maximize", *words], catch_exceptions=True)


def test_the_command_writes_a_picture_and_what_made_it(tmp_path):
    out = run("layer 1", "3", "7", "--out", str(tmp_path / "am"), "--iterations", "4", "--recipe", "plain")
    assert out.exit_code == 0, out.output
    assert np.asarray(Image.open(tmp_path / "am" / "maximize.png")).shape == (448, 2 * 464 - 16, 3)
    said = json.loads((tmp_path / "am" / "maximize.json").read_text("utf-8"))
    network, _ = load("zfnet-64")
    r = maximize(network, "features.1", [3, 7], 56, recipe=PLAIN, iterations=4)
    assert said["channels"] == [3, 7]
    assert said["recipe"]["iterations"] == 4
    np.testing.assert_allclose(said["history"], r.history, rtol=1e-4)
    assert "layer 1, 3:" in out.output


def test_the_command_takes_a_class_by_its_label(tmp_path):
    out = run("logits", "goldfish", "--out", str(tmp_path), "--iterations", "2", "--objective", "probability")
    assert out.exit_code == 0, out.output
    said = json.loads((tmp_path / "maximize.json").read_text("utf-8"))
    assert said["labels"] == ["goldfish"]
    assert said["layer"] == "classifier.6"
    assert said["objective"] == "probability"


def test_what_the_command_cannot_climb_is_told(tmp_path):
    out = ["--out", str(tmp_path)]
    assert "no class 'goldfsh'" in str(run("logits", "goldfsh", *out).exception)
    assert "no layer 'layer 9'" in str(run("layer 9", "0", *out).exception)
    for words in (
        ["layer 1", "x"],
        ["layer 1", "1", "--position", "left"],
        ["layer 1", "1", "--recipe", "y"],
    ):
        assert run(*words, *out).exit_code == 2
    assert "Example" in run("--help").output
