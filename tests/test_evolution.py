"""Snapshots of a training against a loop over pictures; none is lost or there twice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from zfcore.data import LabelledPictures, patches
from zfcore.deconvnet import Deconvnet
from zfcore.evolution import EPOCHS, Evolution, convergence, jumps
from zfcore.ledger import RESULTS
from zfcore.train import Recipe, train

SIZE, SIDE = 16, 18
LAYERS = {"layer 1": "0.1", "layer 2": "1.1"}


def pictures(n=30):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    names = ("a", "b")
    return LabelledPictures(pixels, torch.arange(n) % 2, names, names, tuple(map(str, range(n))))


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).eval()


def run(model=None, epoch=1, data=None):
    data = data or pictures()
    return SimpleNamespace(model=model or network(), mean=data.mean(), history=[{}] * epoch)


def evolution(folder, data=None, layers=None, **options):
    options = {"size": SIZE, "scale": 64.0, "maps": 3, "fixed": 7, "progress": False} | options
    return Evolution(folder, data or pictures(), layers or LAYERS, **options)


@pytest.mark.parametrize("batch_size", [4, 100])
@torch.no_grad()
def test_a_snapshot_is_what_a_loop_over_the_pictures_finds(tmp_path, batch_size):
    data, model = pictures(), network()
    seen = evolution(tmp_path, data, batch_size=batch_size)
    arrays = seen.snapshot(run(model))
    net = Deconvnet(model)
    every = ((data.pixels.float() - data.mean()) / 64)[:, :, 1:17, 1:17]
    for name, path in LAYERS.items():
        channels = arrays[f"{name} channels"]
        assert len(set(channels)) == 3
        field = min(SIZE, net.geometry[path].receptive_field)
        for m, channel in enumerate(channels.tolist()):
            best = (0.0, -1, None)
            answers = []
            for n, x in enumerate(every):
                feature_map = net.activations(x[None], [path])[path][0, channel]
                answers.append(float(feature_map.max()))
                if float(feature_map.max()) > best[0]:
                    best = (
                        float(feature_map.max()),
                        n,
                        divmod(int(feature_map.argmax()), feature_map.shape[1]),
                    )
            value, image, place = best
            assert arrays[f"{name} images"][m] == image
            assert arrays[f"{name} values"][m] == pytest.approx(value, rel=1e-5)
            expected = np.array(answers)[seen.fixed]
            np.testing.assert_allclose(arrays[f"{name} answers"][m], expected, rtol=1e-3, atol=1e-4)
            if image < 0:
                continue
            top, left, bottom, right = net.geometry[path].box(*place)
            assert arrays[f"{name} corners"][m].tolist() == [top, left]
            whole = net.project(every[image][None], path, channel, place)[0]
            field_only = torch.zeros(3, field, field)
            inside = whole[:, max(0, top) : bottom, max(0, left) : right]
            y, x = max(0, -top), max(0, -left)
            field_only[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
            found = arrays[f"{name} projections"][m] * arrays[f"{name} scales"][m]
            np.testing.assert_allclose(found, field_only, atol=float(whole.abs().max()) / 250)


def test_a_map_that_answers_to_nothing_has_no_picture(tmp_path):
    model = network()
    with torch.no_grad():
        model[0][0].bias.fill_(-1e6)
    arrays = evolution(tmp_path).snapshot(run(model))
    assert (arrays["layer 1 images"] == -1).all()
    assert not arrays["layer 1 values"].any()
    assert not arrays["layer 1 projections"].any()
    assert not arrays["layer 1 scales"].any()


def test_of_equal_pictures_the_first_is_taken(tmp_path):
    one = pictures(1)
    same = LabelledPictures(
        one.pixels.expand(9, -1, -1, -1), torch.zeros(9).long(), ("a",), ("a",), ("",) * 9
    )
    arrays = evolution(tmp_path, same, batch_size=2).snapshot(run(data=pictures()))
    assert set(arrays["layer 1 images"].tolist()) - {-1} == {0}  # -1 where a map is silent


def test_a_field_larger_than_the_picture_is_the_picture(tmp_path):
    data = pictures()
    seen = evolution(tmp_path, data, {"layer 2": "1.1"}, size=12)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 5, 7, 1, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(5, 4, 11, 1, 5), nn.ReLU()),
    )
    arrays = seen.snapshot(run(model))
    assert arrays["layer 2 projections"].shape == (3, 3, 12, 12)
    assert not arrays["layer 2 corners"].any()


def test_the_same_maps_and_pictures_are_followed_in_every_epoch(tmp_path):
    first, second = (evolution(tmp_path).snapshot(run(network(seed))) for seed in (1, 2))
    for name in LAYERS:
        assert first[f"{name} channels"].tolist() == second[f"{name} channels"].tolist()
    others = [evolution(tmp_path, seed=seed, maps=2).channels(50, 0).tolist() for seed in range(5)]
    assert len(set(map(tuple, others))) > 1


def test_only_the_epochs_asked_for_are_written(tmp_path):
    seen = evolution(tmp_path, epochs=(4, 1))
    for epoch in range(1, 6):
        seen(run(epoch=epoch))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-001.npz", "epoch-004.npz"]
    arrays = seen.collect(tmp_path / "all.npz")
    assert arrays["epochs"].tolist() == [1, 4]
    assert arrays["layer 1 projections"].shape[:3] == (2, 3, 3)
    with np.load(tmp_path / "all.npz") as stored:
        assert set(stored.files) == set(arrays)
        assert stored["fixed"].tolist() == seen.fixed.tolist()


def test_a_missing_snapshot_is_named(tmp_path):
    seen = evolution(tmp_path, epochs=(1, 2, 5))
    seen(run(epoch=2))
    with pytest.raises(FileNotFoundError, match=r"lacks the snapshots of epochs \[1, 5\]; train on"):
        seen.collect(tmp_path / "all.npz")


def test_a_training_killed_after_a_snapshot_writes_the_same_one_again(tmp_path):
    data = patches("val", 32).shard(0, 20)
    recipe = Recipe(epochs=2, scale=64.0, initialization="he", rate=0.01, radius=None)

    def trained(folder, look):
        model = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.MaxPool2d(2)), nn.Flatten(), nn.Linear(144, 10)
        )
        options = {"input_size": 28, "folder": folder, "progress": False}
        return train(model, data, data, recipe, on_epoch=look, **options)

    def seen(folder):
        return evolution(folder, data, {"layer 1": "0.1"}, size=28, epochs=(1, 2))

    trained(tmp_path / "a", seen(tmp_path / "a/snapshots"))
    look = seen(tmp_path / "b/snapshots")

    def killed(run):
        look(run)
        if len(run.history) == 2:
            raise KeyboardInterrupt  # before the checkpoint of this epoch

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", killed)
    assert len(list((tmp_path / "b/snapshots").iterdir())) == 2
    trained(tmp_path / "b", look)
    for name in ("epoch-001.npz", "epoch-002.npz"):
        assert (tmp_path / "a/snapshots" / name).read_bytes() == (
            tmp_path / "b/snapshots" / name
        ).read_bytes()


def test_the_epochs_are_those_of_the_figure():
    assert EPOCHS == (1, 2, 5, 10, 20, 30, 40, 64)


def record(answers, images=((0, 0),), projections=None):
    """What `collect` gives of one layer: answers (E, M, F), images (E, M), projections (E, M, 3, R, R)."""
    return {
        "layers": np.array(["layer 1"]),
        "layer 1 answers": np.array(answers, np.float16),
        "layer 1 images": np.array(images),
        "layer 1 projections": np.zeros((1, 1, 3, 2, 2), np.int8) if projections is None else projections,
    }


def test_convergence_is_the_correlation_with_the_last_answers():
    draw = np.random.default_rng(0)
    answers = draw.normal(size=(4, 3, 20)).astype(np.float16)
    found = convergence(record(answers))["layer 1"]
    for epoch in range(4):
        for m in range(3):
            expected = np.corrcoef(answers[epoch, m].astype(float), answers[-1, m].astype(float))[0, 1]
            assert found[epoch, m] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(found[-1], 1)


def test_a_map_that_answers_all_alike_has_no_convergence():
    found = convergence(record([[[0, 0, 0], [1, 2, 3]], [[1, 2, 4], [3, 2, 1]]]))["layer 1"]
    np.testing.assert_array_equal(np.isnan(found), [[True, False], [False, False]])
    assert found[0, 1] == pytest.approx(-1)


def test_a_jump_is_another_picture_or_another_projection():
    same, other, faint = np.zeros((3, 3, 2, 2), np.int8)
    same[0], other[1], faint[0] = 100, 50, 20
    projections = np.array([[same, same], [faint, other], [faint, np.zeros_like(same)]])
    changed, likeness = jumps(record([[[0]]], [[4, 7], [4, 8], [5, -1]], projections))["layer 1"]
    np.testing.assert_array_equal(changed, [[False, True], [True, True]])
    np.testing.assert_allclose(likeness, [[1, 0], [1, np.nan]])  # as bright or not, it is the same picture


def test_the_books_evolution_is_small_and_follows_sixteen_maps_of_each_layer():
    path = RESULTS / "fig4.npz"
    assert path.stat().st_size <= 2e6
    with np.load(path) as arrays:
        assert arrays["layers"].tolist() == [f"layer {n}" for n in range(1, 6)]
        assert all(arrays[f"layer {n} images"].shape[1] == 16 for n in range(1, 6))
