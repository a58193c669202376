"""The trainer: it learns, it can be killed at any step, and it refuses what it cannot trust."""

import copy
import csv
import functools
import itertools
import json
import math
import operator
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from zfcore import train as room
from zfcore.data import LabelledPictures, batches, patches
from zfcore.model import ContrastNorm, alone_in, build
from zfcore.pack import pack
from zfcore.train import (
    BRIEF,
    PAPER,
    RECIPES,
    SMALL,
    CheckpointError,
    DivergedError,
    augment,
    learning_rate,
    precision_of,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 4  # 22 pictures in batches of 6: the last one has 4
RECIPE = replace(SMALL, name="test", batch_size=6, warmup_steps=2, epochs=3)


def pictures(n=22, seed=0):
    """Three classes that differ in colour, with noise."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pixels = torch.randint(160, (n, 3, 12, 12), generator=draw)
    pixels[torch.arange(n), labels] += 80
    return LabelledPictures(pixels.to(torch.uint8), labels, ("a", "b", "c"), ("a", "b", "c"), ("",) * n)


def network(width=4):
    """A net with all that makes training hard to repeat: dropout, a norm, a pool."""
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3), nn.ReLU(), nn.MaxPool2d(2), ContrastNorm(), nn.Flatten()),
        *(nn.Linear(width * 9, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)),
    )


def run(recipe=RECIPE, **options):
    options = {"input_size": 8, "progress": False} | options
    return train(options.pop("model", None) or network(), pictures(), pictures(9, seed=1), recipe, **options)


def assert_same(a, b):
    """The same weights to the last bit, and the same history but for the seconds."""
    for (name, p), q in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    assert [{**row, "seconds": 0} for row in a.history] == [{**row, "seconds": 0} for row in b.history]


@pytest.fixture(scope="module")
def uninterrupted():
    return run()


@pytest.fixture
def at_step(monkeypatch):
    """Call something when a step begins (counted from 0 in this process)."""

    def arrange(number, action):
        calls = iter(range(10**6))

        def watched(*arguments):
            if next(calls) == number:
                action()
            return augment(*arguments)

        monkeypatch.setattr(room, "augment", watched)

    yield arrange
    monkeypatch.undo()


class Killed(BaseException):
    """Stands for the power cut: nothing in the trainer may catch it."""


def kill():
    raise Killed


# ------------------------------------------------------------------------------ learning
def test_it_learns_which_photograph_a_patch_is_from():
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.MaxPool2d(2), ContrastNorm(alpha=1e-2), nn.Flatten()),
        *(nn.Dropout(0.5), nn.Linear(16 * 36, 10)),
    )
    data = patches("train", size=32), patches("val", size=32)
    first, last = train(
        model, *data, replace(SMALL, batch_size=64), input_size=28, epochs=2, progress=False
    ).history
    assert last["loss"] < first["loss"] < math.log(10)
    assert last["top1"] < 60  # chance: 90 %


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nesterov": False, "clip": None},
        {"clip": 0.3, "radius": 0.15, "weight_decay": 0.1},
        {"average": 0.5, "batch_size": 2},
    ],
)
def test_a_training_is_gradient_descent_written_out(monkeypatch, changes):
    recipe, fed = replace(RECIPE, **{"dropout": 0.0, "average": None} | changes), []

    def watched(*given):
        fed.append((given[2].tolist(), augment(*given)))
        return fed[-1][1]

    monkeypatch.setattr(room, "augment", watched)
    found, slow, labels = run(recipe, model=network().double()), network().double().eval(), pictures().labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        room.initialize_(slow, recipe.initialization)
    weights = dict(slow.named_parameters())
    speed = {name: torch.zeros_like(w) for name, w in weights.items()}
    kept, losses = {name: w.detach().clone() for name, w in weights.items()}, []
    for step, (chosen, x) in enumerate(fed):
        each = [-slow(one[None]).log_softmax(1)[0, labels[n]] for n, one in zip(chosen, x, strict=True)]
        losses.append(float(sum(each).detach()))
        gradients = torch.autograd.grad(sum(each) / len(each), list(weights.values()))
        length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        rate = learning_rate(recipe, step, len(fed), [])
        with torch.no_grad():
            for (name, w), g in zip(weights.items(), gradients, strict=True):
                g = g * min(1.0, (recipe.clip or math.inf) / length)
                g = g + (recipe.weight_decay * w if w.ndim > 1 else 0)
                speed[name] = recipe.momentum * speed[name] + g
                w -= rate * (g + recipe.momentum * speed[name] if recipe.nesterov else speed[name])
                if w.ndim == 4 and recipe.radius:
                    for one in w:
                        one *= min(1.0, recipe.radius / float(one.square().mean().sqrt()))
                if recipe.average is None:
                    kept[name] = w
                elif (done := (step + 1) / 10).is_integer():
                    share = min(recipe.average, done / (done + 9))
                    kept[name] = share * kept[name] + (1 - share) * w
    for name, w in found.model.named_parameters():
        torch.testing.assert_close(w, kept[name], rtol=0, atol=1e-6)
    wanted = [sum(losses[n : n + len(fed) // 3]) / 22 for n in range(0, len(fed), len(fed) // 3)]
    assert [row["loss"] for row in found.history] == pytest.approx(wanted)


def test_the_bar_tells_pictures_a_second_and_goes_on_where_the_run_stood(tmp_path, at_step, capsys):
    at_step(6, kill)
    with pytest.raises(Killed):
        run(folder=tmp_path, checkpoint_seconds=0, progress=True)
    at_step(-1, kill)
    capsys.readouterr()
    run(folder=tmp_path, progress=True)
    said = capsys.readouterr().err
    assert "img/s" in said
    assert "epoch 3, loss" in said
    assert "34.0/66.0" in said.split("\r")[1]  # one epoch of 22 pictures and two batches of 6
    assert "66.0/66.0" in said


def test_a_history_that_lags_behind_its_checkpoint_catches_up(tmp_path):
    run(folder=tmp_path)
    whole = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    run(folder=tmp_path)
    assert (tmp_path / "history.csv").read_text() == whole


def test_the_papers_recipe_runs_too():
    assert all(math.isfinite(row["loss"]) for row in run(replace(PAPER, batch_size=6), epochs=2).history)


def test_the_network_comes_back_in_eval_mode_with_its_history(uninterrupted):
    assert not uninterrupted.model.training
    assert [row["epoch"] for row in uninterrupted.history] == [1, 2, 3]
    assert list(uninterrupted.history[0]) == ["epoch", "rate", "loss", "top1", "top5", "seconds"]
    torch.testing.assert_close(uninterrupted.mean, pictures().pixels.float().mean(0))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(uninterrupted):
    assert_same(run(), uninterrupted)
    assert not torch.equal(run(seed=1).model[0].weight, uninterrupted.model[0].weight)


def test_the_callers_random_numbers_are_left_as_they_were():
    model, state = network(), torch.get_rng_state()
    run(epochs=1, model=model)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_picture_is_seen_once_per_epoch_in_another_order(monkeypatch):
    seen = []
    monkeypatch.setattr(room, "augment", lambda *a: seen.append(a[2].tolist()) or augment(*a))
    run(epochs=2)
    first, second = (functools.reduce(operator.iadd, seen[e * STEPS : (e + 1) * STEPS], []) for e in range(2))
    assert sorted(first) == sorted(second) == list(range(22))
    assert first != second


def test_the_validation_error_is_counted_on_the_network_that_is_kept():
    runs = []
    result = run(epochs=1, on_epoch=runs.append)
    (looked,) = runs
    data = pictures(9, seed=1)
    with torch.no_grad():
        logits = looked.model(((data.pixels.float() - looked.mean) / RECIPE.scale)[..., 2:10, 2:10])
    assert looked.history == result.history
    assert result.history[0]["top1"] == pytest.approx(
        100 * (logits.argmax(1) != data.labels).double().mean().item()
    )
    assert result.history[0]["top5"] == 0  # of three classes


def test_filters_stay_within_the_radius_of_the_papers_recipe():
    model = run(replace(PAPER, batch_size=6, rate=1.0, clip=1.0, radius=0.05), epochs=2).model
    rms = model[0].weight.square().mean((1, 2, 3)).sqrt()
    assert rms.max() <= 0.05 * (1 + 1e-6)
    assert rms.max() > 0.049


def test_biases_do_not_decay():
    state = room._State(network(), RECIPE, {})
    for group in state.optimizer.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_pictures_smaller_than_the_crop_are_refused():
    with pytest.raises(ValueError, match="the pictures are 12 px but the network wants 13 px"):
        run(input_size=13)


@pytest.mark.parametrize(
    ("classes", "fault"),
    [(("a", "b", "d"), "only one of them has c, d"), (("b", "a", "c"), "their order differs")],
)
def test_validation_pictures_of_other_classes_are_refused(classes, fault):
    other = replace(pictures(9, seed=1), classes=classes)
    with pytest.raises(ValueError, match=f"validation pictures have other classes: {fault}"):
        train(network(), pictures(), other, RECIPE, input_size=8, epochs=1, progress=False)


# ------------------------------------------------------------------------------ the running mean
@pytest.mark.parametrize("decay", [0.98, 0.2])
def test_the_kept_weights_are_a_running_mean_over_every_tenth_step(monkeypatch, decay):
    weights, update = [], room._State.update

    def noted(state, *arguments):
        update(state, *arguments)
        weights.append(state.parameters[0].detach().clone())

    monkeypatch.setattr(room._State, "update", noted)
    kept = run(replace(RECIPE, average=decay), epochs=13).model[0].weight
    mean = None
    for n, w in enumerate(weights[9::10]):
        d = min(decay, (1 + n) / (10 + n))
        mean = (1 - d) * w + d * (mean if n else room_start())
    torch.testing.assert_close(kept, mean)


def room_start():
    """The weights that a run with seed 0 starts from."""
    model = network()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        room.initialize_(model, RECIPE.initialization)
    return model[0].weight.detach()


def test_without_a_running_mean_the_last_weights_are_kept(monkeypatch):
    last, update = [], room._State.update

    def noted(state, *arguments):
        update(state, *arguments)
        last[:] = [state.parameters[0].detach().clone()]

    monkeypatch.setattr(room._State, "update", noted)
    assert torch.equal(run(replace(RECIPE, average=None), epochs=3).model[0].weight, last[0])


# ------------------------------------------------------------------------------ augmentation
def test_augmentation_equals_a_loop_and_knows_neither_batch_nor_order():
    data = pictures()
    mean = torch.rand(3, 12, 12) * 255
    chosen = torch.tensor([7, 3, 20, 7])
    x = augment(data.pixels[chosen], mean, chosen, seed=3, epoch=5, size=8, scale=64.0)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    for n, index in enumerate(chosen.tolist()):
        one = torch.tensor([index])
        top, left, side = (int(room._hash(one, 3, 5, stream)) for stream in range(3))
        top, left = top % 5, left % 5
        crop = (data.pixels[index].float() - mean)[:, top : top + 8, left : left + 8] / 64
        torch.testing.assert_close(x[n], crop.flip(2) if side % 2 else crop)
        assert torch.equal(augment(data.pixels[one], mean, one, 3, 5, 8, 64.0)[0], x[n])
    assert torch.equal(x[0], x[3])


def test_the_draws_are_even_and_differ_by_seed_and_epoch():
    index = torch.arange(90_000)
    seen = {}
    for seed, epoch, stream in ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (1, 0, 0)):
        draw = room._hash(index, seed, epoch, stream)
        assert draw.min() >= 0
        counts = (draw % 9).bincount(minlength=9)
        assert (counts - 10_000).abs().max() < 500  # five standard deviations
        seen[seed, epoch, stream] = draw % 9
    for a in seen:
        for b in seen:
            agreement = (seen[a] == seen[b]).double().mean().item()
            assert a == b or agreement == pytest.approx(1 / 9, abs=0.006)
    assert (seen[0, 0, 0][:-1] == seen[0, 0, 0][1:]).double().mean().item() == pytest.approx(1 / 9, abs=0.006)


# ------------------------------------------------------------------------------ dropout
def masks(chosen, shape, p=0.5, seed=0, epoch=0, calls=1):
    draw = room._Masks()
    draw.begin(room._hash(torch.as_tensor(chosen), seed, epoch, 3))
    return [draw.keep(torch.Size((len(chosen), *shape)), p) for _ in range(calls)]


def test_a_dropout_mask_equals_a_loop_and_knows_neither_batch_nor_order():
    chosen = [7, 3, 20]
    (first, second) = masks(chosen, (4, 2), p=0.3, seed=5, epoch=2, calls=2)
    for n, index in enumerate(chosen):
        alone = masks([index], (4, 2), p=0.3, seed=5, epoch=2, calls=2)
        assert torch.equal(alone[0][0], first[n])
        assert torch.equal(alone[1][0], second[n])
        picture = int(room._hash(torch.tensor([index]), 5, 2, 3))
        for unit in range(8):
            draw = int(room._hash(torch.tensor([picture * 2**31 + unit]), 1, 0, 0))
            assert second[n].flatten()[unit].item() == (draw / 2**31 >= 0.3)


def test_masks_are_even_and_differ_by_picture_call_seed_and_epoch():
    pictures, units = 50, 2000
    first, second = masks(range(pictures), (units,), p=0.3, calls=2)
    others = [masks(range(pictures), (units,), p=0.3, **other)[0] for other in ({"seed": 1}, {"epoch": 1})]
    for mask in (first, second, *others):
        assert mask.double().mean().item() == pytest.approx(0.7, abs=0.007)  # five standard deviations
        assert (mask.double().mean(0) - 0.7).abs().max() < 5 * (0.21 / pictures) ** 0.5
        assert (mask.double().mean(1) - 0.7).abs().max() < 5 * (0.21 / units) ** 0.5
    for a, b in [(first, other) for other in (second, *others)] + [(first[1:], first[:-1])]:
        assert (a == b).double().mean().item() == pytest.approx(0.7**2 + 0.3**2, abs=0.008)


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    x = torch.ones(100, 1000)
    with room._dropout_by_picture(model, 0.2) as draw:
        draw.begin(torch.arange(100))
        y = model(x)
        assert {round(v, 4) for v in y.unique().tolist()} == {0, 1.5625}  # 1 / 0.8²
        assert y.mean().item() == pytest.approx(1, abs=0.02)
        assert torch.equal(model.eval()(x), x)


def test_dropout_is_as_it_was_afterwards_whatever_happened(at_step, tmp_path):
    model = network()
    at_step(2, kill)
    with pytest.raises(Killed):
        run(replace(RECIPE, dropout=0.1), model=model)
    dropout = model[7]
    assert type(dropout) is nn.Dropout
    assert dropout.p == 0.5
    assert vars(dropout).keys() == vars(nn.Dropout()).keys()


def test_the_recipe_sets_the_share_that_is_dropped():
    without = run(replace(RECIPE, dropout=0.0))
    built = network()
    built[7].p = 0.0
    assert_same(run(model=built), without)
    half = run(replace(RECIPE, dropout=0.5))
    assert_same(run(), half)
    assert not torch.equal(half.model[0].weight, without.model[0].weight)


@pytest.mark.parametrize("kind", [nn.Dropout2d, nn.AlphaDropout])
def test_dropout_of_another_kind_is_refused_by_name(kind):
    model = nn.Sequential(nn.Conv2d(3, 3, 8), kind(), nn.Flatten())
    with pytest.raises(ValueError, match=f"1 is {kind.__name__}, .*use nn.Dropout"):
        run(model=model)


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_a_share_that_cannot_be_dropped_is_refused(share):
    with pytest.raises(ValueError, match=rf"a dropout of {share}; accepted is 0 ≤ p < 1"):
        run(replace(RECIPE, dropout=share))


# ------------------------------------------------------------------------------ a warm restart
KEEP = replace(RECIPE, initialization="keep", warmup_steps=0)


def test_a_warm_restart_begins_with_the_weights_as_they_come():
    start = network()
    weights = start[0].weight.detach().clone()
    assert torch.equal(run(replace(KEEP, rate=0.0), epochs=1, model=start).model[0].weight, weights)


def test_a_warm_restart_that_was_killed_goes_on_exactly(tmp_path, at_step):
    start = network()
    expected = run(KEEP, model=copy.deepcopy(start))
    at_step(6, kill)
    with pytest.raises(Killed):
        run(KEEP, model=copy.deepcopy(start), folder=tmp_path, checkpoint_seconds=0)
    at_step(-1, kill)
    assert_same(run(KEEP, model=start, folder=tmp_path), expected)


def test_a_warm_restart_from_other_weights_is_refused(tmp_path):
    run(KEEP, epochs=1, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"belongs to another run \(it differs in start\)"):
        run(KEEP, epochs=1, folder=tmp_path)


# ------------------------------------------------------------------------------ precision, compilation
def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="unknown precision 'fp8'; known: auto, bf16, float32"):
        run(precision="fp8")


def test_a_float64_module_trains_in_float64():
    seen = []
    model = network().double()
    model[0].register_forward_hook(lambda module, x, y: seen.append((x[0].dtype, y.dtype)))
    result = run(model=model, epochs=1)
    assert set(seen) == {(torch.float64, torch.float64)}
    assert {p.dtype for p in result.model.parameters()} == {torch.float64}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_precision_is_that_of_the_products_and_not_of_the_weights(precision, dtype):
    seen = []
    model = network()
    model[0].register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    result = run(model=model, epochs=1, precision=precision)
    assert set(seen) == {dtype}
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_a_compiled_module_trains_as_the_plain_one_and_its_checkpoint_is_the_same(tmp_path):
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    plain = run(model=network().double())
    compiled = run(model=network().double(), compile=True, folder=tmp_path)
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], weight, rtol=0, atol=1e-9)
    assert_same(run(model=network().double(), folder=tmp_path), compiled)


# ------------------------------------------------------------------------------ learning rate
def test_the_cosine_rises_for_the_warm_up_and_then_falls_to_nothing():
    recipe = replace(SMALL, rate=1.0, warmup_steps=100)
    rates = [learning_rate(recipe, step, 1000, []) for step in range(1000)]
    assert rates[:100] == pytest.approx([(n + 1) / 100 for n in range(100)])
    assert all(a > b for a, b in itertools.pairwise(rates[100:]))
    assert rates[550] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-5


def test_a_short_run_warms_up_for_a_fifth_of_it():
    rates = [learning_rate(replace(SMALL, rate=1.0), step, 50, []) for step in range(50)]
    assert max(rates) == rates[9] == 1


@pytest.mark.parametrize(
    ("errors", "drops"),
    [
        ([], 0),
        ([90, 80, 70, 60], 0),
        ([90, 80, 81, 82], 1),
        ([90, 80, 80, 80], 1),  # no better is no better
        ([90, 80, 81, 79, 79, 78], 0),
        ([90, 80, 81, 82, 83, 84], 2),
        ([90, 80, 81, 82, 70, 71, 72], 2),
        ([90, 90, 91, 89.5, 90, 90, 90], 0),  # it has not begun to learn
        ([90, 90, 91, 88, 89, 90], 1),
    ],
)
def test_the_plateau_rate_falls_tenfold_after_patience_epochs_without_a_better_error(errors, drops):
    recipe = replace(PAPER, patience=2)
    history = [{"top1": error} for error in errors]
    assert learning_rate(recipe, 10**6, 10**7, history) == pytest.approx(1e-2 * 0.1**drops)


@pytest.mark.parametrize(
    ("errors", "drops"),
    [
        ([60, 60.5, 61], 1),  # it began with weights that knew much already
        ([40, 39.8, 39.9, 40], 1),  # an easy set
        ([89.5, 90, 89.2, 90], 0),  # by a point it is not better than guessing
        ([89.5, 88.8, 89, 89], 0),  # nor, by a point, than it was
    ],
)
def test_a_network_that_begins_below_chance_has_its_plateaus_counted_at_once(errors, drops):
    recipe = replace(PAPER, patience=2)
    history = [{"top1": error} for error in errors]
    assert learning_rate(recipe, 10**6, 10**7, history, chance=90) == pytest.approx(1e-2 * 0.1**drops)


def test_a_warm_start_meets_its_plateau():
    # Next to nothing changes at such a rate, so that every epoch after the first brings no better error.
    recipe = replace(KEEP, schedule="plateau", patience=2, rate=1e-12, average=None)
    learned = run(replace(RECIPE, average=None), epochs=30).model
    assert run(recipe, model=learned, epochs=4).history[-1]["rate"] == pytest.approx(1e-13, abs=0)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="unknown schedule 'steps'; known: cosine, plateau"):
        run(replace(RECIPE, schedule="steps"))


@pytest.mark.parametrize("given", [{"patience": 0}, {"epochs": -3}])
def test_a_recipe_has_an_epoch_at_least_and_waits_for_one(given):
    with pytest.raises(ValueError, match="is 1 or more; got"):
        replace(RECIPE, **given)


def test_recipes_are_known_by_their_name():
    assert {"paper": PAPER, "small": SMALL, "brief": BRIEF} == RECIPES
    assert (PAPER.batch_size, PAPER.rate, PAPER.momentum, PAPER.radius, PAPER.epochs) == (
        128,
        1e-2,
        0.9,
        0.1,
        70,
    )


# ------------------------------------------------------------------------------ kill and resume
@pytest.mark.parametrize("step", [1, 3, 4, 5, 8, 11])
def test_a_run_killed_at_any_step_ends_as_if_it_had_not_been(tmp_path, at_step, uninterrupted, step):
    at_step(step, kill)
    with pytest.raises(Killed):
        run(folder=tmp_path, checkpoint_seconds=0)
    at_step(-1, kill)
    assert_same(run(folder=tmp_path, model=network()), uninterrupted)


def test_a_run_killed_between_checkpoints_goes_back_to_the_last(
    tmp_path, at_step, uninterrupted, monkeypatch
):
    at_step(7, kill)  # in the second of three epochs
    with pytest.raises(Killed):
        run(folder=tmp_path)
    steps = []
    monkeypatch.setattr(room, "augment", lambda *given: steps.append(given) or augment(*given))
    assert_same(run(folder=tmp_path), uninterrupted)
    assert len(steps) == 2 * STEPS


def test_an_epoch_has_the_seconds_of_all_runs_that_had_a_part_in_it(tmp_path, monkeypatch):
    now = [0.0]

    def slow(*given):
        now[0] += 10
        if now[0] == 70:  # in the seventh step, the third of the second epoch
            raise Killed
        return augment(*given)

    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(room, "augment", slow)
    with pytest.raises(Killed):
        run(folder=tmp_path, checkpoint_seconds=0)
    now[0] += 1000  # in which nothing ran
    found = run(folder=tmp_path, checkpoint_seconds=0)
    assert [row["seconds"] for row in found.history] == [10 * STEPS] * 3


def test_a_run_killed_while_its_epoch_is_looked_at_repeats_the_epoch(tmp_path, uninterrupted):
    def look(so_far):
        looked.append(len(so_far.history))
        if looked == [1, 2]:
            kill()

    looked = []
    with pytest.raises(Killed):
        run(folder=tmp_path, on_epoch=look)
    assert_same(run(folder=tmp_path, on_epoch=look), uninterrupted)
    assert looked == [1, 2, 2, 3]


def test_a_finished_run_is_not_trained_again(tmp_path, at_step, uninterrupted):
    run(folder=tmp_path)
    at_step(0, kill)
    assert_same(run(folder=tmp_path), uninterrupted)


def test_the_history_is_a_table_beside_the_checkpoint(tmp_path):
    result = run(folder=tmp_path)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == result.history
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoint.safetensors", "history.csv", "tensorboard")
    }


def points(folder):
    """What TensorBoard would show: {name: [(epoch, value), …]}."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_every_epoch_once_though_the_run_was_killed(tmp_path):
    def look(so_far):
        if len(so_far.history) == 2:
            kill()  # epoch 2 is logged, but its checkpoint is not written

    with pytest.raises(Killed):
        run(folder=tmp_path, on_epoch=look)
    assert [epoch for epoch, _ in points(tmp_path)["loss"]] == [1, 2]
    time.sleep(1.1)  # TensorBoard sorts the files by the second in their names
    result = run(folder=tmp_path)
    shown = points(tmp_path)
    assert set(shown) == {"rate", "loss", "top1", "top5", "seconds", "images per second"}
    for name in ("rate", "loss", "top1", "top5"):
        assert shown[name] == [(row["epoch"], pytest.approx(row[name])) for row in result.history]


def test_a_run_that_goes_on_reads_no_picture_that_it_has_seen(tmp_path, at_step, monkeypatch):
    at_step(6, kill)
    with pytest.raises(Killed):
        run(folder=tmp_path, checkpoint_seconds=0)
    at_step(-1, kill)
    read = []

    def watched(pictures, order, *options):
        order = list(order)
        read.append([len(chosen) for chosen in order])
        return batches(pictures, order, *options)

    monkeypatch.setattr(room, "batches", watched)
    run(folder=tmp_path)
    assert read == [[6, 4], [9], [6, 6, 6, 4], [9]]  # the rest of epoch 2, validation, epoch 3, validation


def test_packed_pictures_train_as_those_in_memory(tmp_path):
    packed = []
    for split, data in (("train", pictures()), ("val", pictures(9, seed=1))):
        for n, (pixels, label) in enumerate(zip(data.pixels, data.labels, strict=True)):
            file = tmp_path / split / "abc"[label] / f"{n:03d}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
        packed.append(pack(tmp_path, tmp_path / "packed", split, side=12, progress=False))
    decoded = [p[torch.arange(len(p))] for p in packed]
    resident = [
        LabelledPictures(pixels, p.labels, p.classes, p.names, p.files)
        for p, pixels in zip(packed, decoded, strict=True)
    ]
    options = {"input_size": 8, "epochs": 2, "progress": False}
    expected = train(network(), *resident, RECIPE, **options)
    for workers in (0, 2):
        assert_same(train(network(), *packed, RECIPE, workers=workers, **options), expected)


SCRIPT = """
import sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_train import augment, room, run
room.augment = lambda *given: time.sleep(0.03) or augment(*given)  # the signal shall meet it at work
run(epochs=15, folder=sys.argv[2], checkpoint_seconds=0)
"""


@pytest.fixture(scope="module")
def longer():
    return run(epochs=15)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("name", "least"), [("SIGKILL", 1), ("SIGKILL", 4 * STEPS + 1), ("SIGTERM", 2)])
def test_a_process_ended_by_a_real_signal_goes_on_exactly(tmp_path, longer, name, least):
    number, checkpoint = getattr(signal, name), tmp_path / "checkpoint.safetensors"
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (checkpoint.exists() and progress(checkpoint)["step"] >= least):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait() == -number
    assert least <= progress(checkpoint)["step"] < 15 * STEPS
    assert_same(run(epochs=15, folder=tmp_path), longer)


@pytest.mark.parametrize("step", [5, 7])  # within an epoch, and in its last step
def test_ctrl_c_waits_for_the_step_and_leaves_a_checkpoint(tmp_path, at_step, uninterrupted, step):
    at_step(step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path)
    at_step(-1, kill)
    assert progress(tmp_path / "checkpoint.safetensors")["step"] == step + 1
    assert_same(run(folder=tmp_path), uninterrupted)


def test_ctrl_c_without_a_folder_stops_and_writes_nothing(tmp_path, at_step, monkeypatch):
    monkeypatch.chdir(tmp_path)
    at_step(5, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not list(tmp_path.iterdir())


def test_the_callers_handlers_are_put_back_and_asked(tmp_path, at_step):
    asked, interrupt = [], signal.getsignal(signal.SIGINT)  # a shell in the background ignores it
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        handler = signal.getsignal(signal.SIGTERM)
        at_step(1, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            run(folder=tmp_path)
        assert asked == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------ checkpoints
def progress(checkpoint):
    with safe_open(checkpoint, "pt") as file:
        return json.loads(file.metadata()["state"])


@pytest.fixture
def checkpoint(tmp_path):
    run(epochs=1, folder=tmp_path)
    return tmp_path / "checkpoint.safetensors"


def flipped(blob):
    blob = bytearray(blob)
    blob[len(blob) // 2] ^= 1
    return bytes(blob)


def another_step(blob):
    return blob.replace(rb"\"step\": 4", rb"\"step\": 3", 1)


def renamed(blob):
    """Two tensors of one shape change places."""
    names = b"weight/0.weight", b"average/0.weight"
    return blob.replace(names[0], b"?", 1).replace(names[1], names[0], 1).replace(b"?", names[1], 1)


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        another_step,
        renamed,
        lambda blob: blob[:-1],
        lambda blob: blob[:40],
        lambda blob: b"",
        lambda blob: b"not a checkpoint",
    ],
    ids=[
        "a flipped bit",
        "another step",
        "tensors exchanged",
        "a byte short",
        "the head only",
        "empty",
        "text",
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(checkpoint, damage):
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.safetensors is not a whole checkpoint .*move it away"
    ):
        run(epochs=1, folder=checkpoint.parent)


@pytest.mark.parametrize("metadata", [None, {"state": "{}"}, {"state": "[]"}, {"state": "?"}])
def test_a_foreign_file_is_refused_by_name(checkpoint, metadata):
    checkpoint.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}, metadata=metadata))
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        run(epochs=1, folder=checkpoint.parent)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"seed": 1}, "seed"),
        ({"epochs": 2}, "epochs"),
        ({"recipe": replace(RECIPE, rate=0.1)}, "recipe"),
        ({"precision": "float32" if precision_of("auto", "cpu") == "bf16" else "bf16"}, "precision"),
        ({"input_size": 9, "model": nn.Sequential(nn.Flatten(), nn.Linear(243, 3))}, "size, network"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_with_the_difference(checkpoint, options, difference):
    with pytest.raises(CheckpointError, match=rf"belongs to another run \(it differs in {difference}\)"):
        run(**{"epochs": 1, "folder": checkpoint.parent} | options)


def test_a_checkpoint_of_other_pictures_is_refused(checkpoint):
    other = replace(pictures(), labels=pictures().labels.flip(0))
    options = {"input_size": 8, "epochs": 1, "progress": False, "folder": checkpoint.parent}
    with pytest.raises(CheckpointError, match="it differs in pictures"):
        train(network(), other, pictures(9, seed=1), RECIPE, **options)
    with pytest.raises(CheckpointError, match="it differs in validation"):
        train(network(), pictures(), pictures(9, seed=2), RECIPE, **options)


def test_a_running_mean_that_is_not_kept_is_not_in_the_checkpoint(tmp_path, at_step):
    recipe = replace(RECIPE, average=None)
    expected = run(recipe)
    at_step(6, kill)
    with pytest.raises(Killed):
        run(recipe, folder=tmp_path, checkpoint_seconds=0)
    at_step(-1, kill)
    tensors = safetensors.torch.load_file(tmp_path / "checkpoint.safetensors")
    assert not any(name.startswith("average/") for name in tensors)
    assert_same(run(recipe, folder=tmp_path), expected)


def test_what_a_killed_write_left_is_removed(checkpoint):
    left = checkpoint.with_name(f".{checkpoint.name}.0123456789abcdef")
    mine = checkpoint.with_name(f".{checkpoint.name}.backup")
    for path in (left, mine):
        path.write_bytes(b"half a checkpoint")
    run(epochs=1, folder=checkpoint.parent)
    assert not left.exists()
    assert mine.exists()


def test_a_folder_in_which_another_process_trains_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("zfcore.model.PATIENCE", 0)
    with alone_in(tmp_path / "run"), pytest.raises(OSError, match="another process works in"):
        run(epochs=1, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def strided(network):
    """The same weights, other places: no shape tells."""
    network[0].stride, network[0].padding = (2, 2), (3, 3)
    return network


def other_norm(network):
    network[3].alpha *= 2
    return network


@pytest.mark.parametrize(
    "model",
    [
        network(width=5),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
        strided(network()),
        other_norm(network()),
    ],
    ids=["wider", "another", "of the same shapes", "of another norm"],
)
def test_a_checkpoint_of_another_network_is_refused(checkpoint, model):
    with pytest.raises(CheckpointError, match=r"belongs to another run \(it differs in network\)"):
        run(epochs=1, folder=checkpoint.parent, model=model)


def test_a_checkpoint_of_another_network_is_refused_even_if_its_words_are_the_same(checkpoint, monkeypatch):
    monkeypatch.setattr(nn.Sequential, "__repr__", lambda module: "a network")
    run(epochs=1, folder=checkpoint.parent / "new")
    with pytest.raises(CheckpointError, match="belongs to another network"):
        run(epochs=1, folder=checkpoint.parent / "new", model=network(width=5))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, uninterrupted):
    calls, fsync = iter(range(10**6)), os.fsync

    def full(descriptor):
        if next(calls) == 5:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(folder=tmp_path, checkpoint_seconds=0)
    assert progress(tmp_path / "checkpoint.safetensors")["step"] > 0
    assert_same(run(folder=tmp_path), uninterrupted)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
sys.path.insert(0, sys.argv[1])
from test_train import run
run(folder=sys.argv[2], checkpoint_seconds=0)
"""


def test_a_write_that_the_system_cuts_short_leaves_the_checkpoint_before(tmp_path, at_step, uninterrupted):
    pytest.importorskip("resource")  # a limit on the size of files, which Windows has not
    at_step(5, kill)
    with pytest.raises(Killed):
        run(folder=tmp_path, checkpoint_seconds=0)
    at_step(-1, kill)
    checkpoint = tmp_path / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    command = [sys.executable, "-c", LIMITED, os.path.dirname(__file__), str(tmp_path)]
    ended = subprocess.run([*command, str(len(before) // 2)], stderr=subprocess.PIPE, text=True)
    assert "OSError: [Errno 27]" in ended.stderr
    assert checkpoint.read_bytes() == before
    assert not list(tmp_path.glob(".checkpoint.*"))
    assert_same(run(folder=tmp_path), uninterrupted)


# ------------------------------------------------------------------------------ divergence
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path):
    wild, step = replace(RECIPE, rate=1e30, clip=None), 2  # the first one still has the weights of the start
    rate = learning_rate(wild, step - 1, 3 * STEPS, [])
    told = f"at step {step}, at a rate of {rate:.2g}; there is no checkpoint yet; try a lower"
    with pytest.raises(DivergedError, match=re.escape(told)):
        run(wild, folder=tmp_path)


def test_a_divergence_is_told_with_its_own_step_though_looked_for_seldom(at_step):
    model = network()

    def spoil():
        with torch.no_grad():
            model[0].weight.fill_(math.nan)

    at_step(63, spoil)
    few = replace(RECIPE, batch_size=1, epochs=10)
    rate = learning_rate(few, 63, 220, [])
    with pytest.raises(DivergedError, match=rf"the loss is not finite at step 64, at a rate of {rate:.2g}; "):
        run(few, model=model)


def test_a_weight_that_is_not_finite_is_told_before_a_loss_shows_it(at_step, monkeypatch):
    model, update = network(), room._State.update

    def spoil(state, *arguments):
        update(state, *arguments)
        if state.step == STEPS:
            with torch.no_grad():
                model[0].weight.fill_(math.inf)

    monkeypatch.setattr(room._State, "update", spoil)
    with pytest.raises(DivergedError, match=rf"a weight is not finite by step {STEPS}, at a rate of "):
        run(model=model)


def test_the_checkpoint_before_a_divergence_is_a_good_one(tmp_path, at_step, monkeypatch):
    model = network()

    def spoil():
        with torch.no_grad():
            model[0].weight[0, 0, 0, 0] = math.nan

    at_step(6, spoil)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(DivergedError, match=rf"at step 7.*the last good checkpoint is {checkpoint}"):
        run(folder=tmp_path, checkpoint_seconds=0, model=model)
    assert progress(checkpoint)["step"] == 6
    assert all(tensor.isfinite().all() for tensor in safetensors.torch.load_file(checkpoint).values())


# ------------------------------------------------------------------------------ a GPU, pretended
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_step_on_a_gpu_mixes_no_devices_and_waits_for_nothing(monkeypatch, recipe):
    # Tensors that have a device and a shape and no numbers; what asks for a number, or adds a GPU's to a
    # CPU's, fails. They know neither a backward pass nor the fused SGD.
    sgd, gpu = torch.optim.SGD, torch.device("cuda")
    monkeypatch.setattr(torch.optim, "SGD", lambda *given, fused, **options: sgd(*given, **options))
    with FakeTensorMode(allow_non_fake_inputs=False):
        with gpu:
            model = build("zfnet-64", width=0.1)
        state = room._State(model, RECIPES[recipe], {})
        with gpu:
            state.average = [torch.zeros_like(p) for p in state.parameters]  # a copy has a mode of its own
            mean, labels = torch.zeros(3, 64, 64), torch.zeros(100, dtype=torch.int64)
            everything = torch.zeros(100, 3, 64, 64, dtype=torch.uint8)

        def backward(loss):
            for p in state.parameters:
                p.grad = torch.zeros_like(p)

        monkeypatch.setattr(torch.Tensor, "backward", backward)
        with room._dropout_by_picture(model.train(), RECIPES[recipe].dropout) as masks:
            for n in range(10):  # of which the last one averages
                chosen = torch.arange(8).to(gpu, non_blocking=True)
                x = augment(everything[chosen], mean, chosen, 0, n, 56, RECIPES[recipe].scale)
                masks.begin(room._hash(chosen, 0, n, 3))
                loss = nn.functional.cross_entropy(model(x), labels[chosen], reduction="sum")
                state.update(loss, 0.01, 8)
        assert state.epoch_loss.device == state.diverged_at.device == torch.device("cuda:0")
        with pytest.raises(DataDependentOutputException):
            float(state.epoch_loss)
        with pytest.raises(RuntimeError, match="devices"):
            mean + torch.zeros(3, 64, 64)
