"""A table rehearsed in seconds: every row trained, judged, recorded, once, whatever interrupts it."""

import json
import math
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import zfcore.reproduce
from zfcore.cli import app
from zfcore.data import patches
from zfcore.evaluate import percent, probabilities, wrong
from zfcore.ledger import find, outcomes, read, record
from zfcore.model import ARCHITECTURES, load
from zfcore.reproduce import (
    COLUMNS,
    FIG5,
    TABLE1,
    TABLE1_CITED,
    TABLE2,
    TARGETS,
    Experiment,
    first_layers,
    overview,
    reproduce,
    rows_of,
)
from zfcore.train import CheckpointError, DivergedError


@pytest.fixture(scope="module")
def sets():
    return {"train": patches("train").shard(3, 100), "val": patches("val").shard(1, 50)}


@pytest.fixture(autouse=True)
def few_pictures(sets, monkeypatch):
    """The patches, but a fiftieth of them: forty to train on, twenty to judge by."""

    def data_set(name, split, shard=None):
        assert name == "patches"
        return sets[split].shard(*map(int, shard.split("of"))) if shard else sets[split]

    monkeypatch.setattr(zfcore.reproduce, "data_set", data_set)
    monkeypatch.setattr("zfcore.data.data_set", data_set)


@pytest.fixture
def trainings(monkeypatch):
    """The folders in which a training was begun or continued, in order."""
    begun, real = [], zfcore.reproduce.train

    def train(*arguments, folder, **options):
        begun.append(folder.name)
        return real(*arguments, folder=folder, **options)

    monkeypatch.setattr(zfcore.reproduce, "train", train)
    return begun


def experiment(tmp_path, **options):
    options = {"width": 0.03, "epochs": 1, "progress": False} | options
    return Experiment("patches", out=tmp_path / "runs", results=tmp_path / "results", **options)


# ------------------------------------------------------------------------------ the rows
@pytest.mark.parametrize("target", TARGETS)
def test_every_row_has_its_networks(target):
    for row in rows_of(target):
        if row.members:
            assert {name for name, _ in row.members} <= {other.name for other in rows_of(target)}
            continue
        assert ARCHITECTURES[row.small].input_size == 56
        assert row.large in ARCHITECTURES or target == "fig5"


def test_the_rows_are_the_papers():
    assert len(TABLE2) == 12
    assert len(TABLE1) + len(TABLE1_CITED) == 13
    for table, rows in (("table1", TABLE1 + TABLE1_CITED), ("table2", TABLE2)):
        assert all(len(row.paper) == len(COLUMNS[table]) for row in rows)
    words = {row.name: row.paper for row in TABLE2}
    assert words["zfnet"] == (33.1, 38.4, 16.5)
    assert words["zfnet-wide-fc8192"] == (10.0, 38.3, 16.9)
    for row in TABLE1:  # validation errors of a network that stands in both tables
        assert row.name not in words or words[row.name][1:] == row.paper[:2]


def test_the_networks_of_fig5_differ_in_filter_and_stride_alone():
    firsts = {row.name: ARCHITECTURES[row.small].convs[0] for row in FIG5[:4]}
    assert {(conv.kernel, conv.stride) for conv in firsts.values()} == {(7, 1), (7, 2), (11, 1), (11, 2)}
    for name, conv in firsts.items():
        assert name == f"fig5-{conv.kernel}x{conv.kernel}-{conv.stride}"


def test_unknown_names_are_told_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="unknown target 'table9'; known: table1, table2, fig5, fig4"):
        rows_of("table9")
    with pytest.raises(ValueError, match="table1 has no row vgg; it has: alexnet, zfnet, zfnet-ensemble"):
        rows_of("table1", ["zfnet", "vgg"])


def test_data_without_a_name_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=f"no row is trained on '{tmp_path}'; known: tiny-imagenet, imagenet"
    ):
        Experiment(str(tmp_path))


def test_fig5_has_no_network_at_imagenets_size():
    with pytest.raises(ValueError, match="fig5-7x7-1 has no network for imagenet"):
        Experiment("imagenet").architecture(FIG5[0])
    assert Experiment("imagenet").architecture(FIG5[4]) == "zfnet"


# ------------------------------------------------------------------------------ a table
def test_a_row_is_trained_judged_and_recorded(tmp_path, sets):
    reproduce("table2", experiment(tmp_path), ["zfnet"], (1,), say=lambda line: None)
    [entry] = read("table2", tmp_path / "results")["entries"]
    assert (entry["row"], entry["seed"], entry["n"]) == ("zfnet", 1, 20)
    assert entry["config"]["architecture"] == "zfnet-64-coarse"
    [path] = (tmp_path / "runs").rglob("weights.safetensors")
    network, card = load(path)
    assert entry["weights_sha256"] == card["sha256"]
    for words, crops in (("one crop", 1), ("ten crops", 10)):
        ranked = probabilities(network, sets["val"], card, crops)
        for name, k in (("top1", 1), ("top5", 5)):
            expected = wrong(ranked, sets["val"].labels, k)
            assert torch.equal(outcomes(entry, f"{words} {name}"), expected)
            assert entry["values"][f"{words} {name}"] == percent(expected)
    ranked = probabilities(network, sets["train"], card)
    assert entry["values"]["train top1"] == percent(wrong(ranked, sets["train"].labels))


def test_a_row_of_other_pictures_is_made_again(tmp_path):
    shared, results = experiment(tmp_path), tmp_path / "results"
    reproduce("table2", shared, ["zfnet"], say=lambda line: None)
    [entry] = read("table2", results)["entries"]
    record("table2", entry | {"data_sha256": "0" * 64}, results)
    assert overview("table2", shared, ["zfnet"])[0][2].startswith("top-1 error")
    reproduce("table2", shared, ["zfnet"], say=lambda line: None)
    [again] = read("table2", results)["entries"]
    assert again["data_sha256"] == entry["data_sha256"]
    record("table2", entry | {"data_sha256": "0" * 64}, results)
    reproduce("table1", shared, ["zfnet"], say=lambda line: None)
    assert read("table1", results)["entries"][0]["data_sha256"] == entry["data_sha256"]


def test_the_command_of_an_entry_makes_it_again(tmp_path):
    options = {"epochs": 2, "shard": "1of2", "low_precision": True}
    reproduce("table2", experiment(tmp_path, **options), ["alexnet-no67"], (2,), say=lambda line: None)
    [entry] = read("table2", tmp_path / "results")["entries"]
    command = shlex.split(entry["command"])[1:]
    folders = ["--out", str(tmp_path / "again"), "--results", str(tmp_path / "again")]
    result = CliRunner().invoke(app, [*command, *folders])
    assert result.exit_code == 0, result.output
    [again] = read("table2", tmp_path / "again")["entries"]
    same = set(entry) - {"seconds", "date"}
    assert {key: again[key] for key in same} == {key: entry[key] for key in same}


def test_rows_of_the_ledger_are_skipped_and_tables_share_their_trainings(tmp_path, trainings):
    said = []
    shared = experiment(tmp_path)
    reproduce("table2", shared, ["zfnet", "alexnet"], say=said.append)
    reproduce("table2", shared, ["zfnet", "alexnet"], say=said.append)
    reproduce("table1", shared, ["zfnet"], say=said.append)
    assert said.count("zfnet, seed 0: is in the ledger") == 1
    assert any("taken from the other table" in line for line in said)
    assert len(trainings) == 2
    [one], [other] = (find(table, tmp_path / "results", "zfnet") for table in ("table1", "table2"))
    assert one == other
    reproduce("table2", experiment(tmp_path, epochs=2), ["zfnet"], say=said.append)
    assert len(trainings) == 3, "other epochs are another entry"
    assert len(find("table2", tmp_path / "results", "zfnet")) == 2


def test_an_ensemble_is_the_mean_of_its_members_weights(tmp_path, sets):
    said = []
    rows = ["zfnet", "zfnet-wide", "zfnet-ensemble", "zfnet-and-wide-ensemble"]
    reproduce("table1", experiment(tmp_path), rows, (0, 1), say=said.append)
    entries = {(e["row"], e["seed"]): e for e in read("table1", tmp_path / "results")["entries"]}
    assert ("zfnet-wide", 1) not in entries, "the paper has one"
    for name, members in (("zfnet-ensemble", 2), ("zfnet-and-wide-ensemble", 3)):
        entry = entries[name, None]
        assert entry["values"]["members"] == len(entry["weights_sha256"]) == members
        loaded = [load(path) for path in (tmp_path / "runs").rglob("weights.safetensors")]
        loaded = [pair for pair in loaded if pair[1]["sha256"] in entry["weights_sha256"]]
        each = [probabilities(network, sets["val"], card, 10).double() for network, card in loaded]
        together = (sum(each) / members).float()
        assert torch.equal(outcomes(entry, "ten crops top1"), wrong(together, sets["val"].labels))


def test_the_command_of_an_ensemble_makes_it_from_nothing(tmp_path, trainings):
    reproduce("table1", experiment(tmp_path), ["zfnet"], say=lambda line: None)
    shutil.rmtree(tmp_path / "runs")  # a fresh checkout has the ledger and no weights
    reproduce("table1", experiment(tmp_path), ["zfnet-and-wide-ensemble"], say=lambda line: None)
    assert len(trainings) == 3
    [entry] = find("table1", tmp_path / "results", "zfnet-and-wide-ensemble")
    assert entry["values"]["members"] == 2


def test_weights_without_their_card_are_made_again(tmp_path, trainings):
    reproduce("table2", experiment(tmp_path), ["zfnet"], say=lambda line: None)
    [card] = (tmp_path / "runs").rglob("weights.json")
    card.unlink()  # killed between the two files
    shutil.rmtree(tmp_path / "results")
    reproduce("table2", experiment(tmp_path), ["zfnet"], say=lambda line: None)
    assert len(find("table2", tmp_path / "results", "zfnet")) == 1


def test_what_was_interrupted_goes_on(tmp_path, trainings, monkeypatch):
    judge = zfcore.reproduce.judge

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(zfcore.reproduce, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce("table2", experiment(tmp_path), ["zfnet"], say=lambda line: None)
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(zfcore.reproduce, "judge", judge)
    reproduce("table2", experiment(tmp_path), ["zfnet"], say=lambda line: None)
    assert len(trainings) == 1
    assert len(find("table2", tmp_path / "results")) == 1


KILLED = """
import os, signal, sys, torch
import zfcore.train
from zfcore.cli import main
step = zfcore.train._State.update
def update(state, *arguments):
    step(state, *arguments)
    if state.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
zfcore.train._State.update = update
main()
"""


@pytest.mark.slow
def test_a_killed_table_ends_as_if_it_had_not_been(tmp_path):
    common = ["reproduce", "table2", "--data", "patches", "--row", "zfnet", "--shard", "0of16"]
    common += ["--width", "0.03", "--epochs", "3"]

    def command(name):
        return [*common, "--out", str(tmp_path / name), "--results", str(tmp_path / name)]

    killed = subprocess.run([sys.executable, "-c", KILLED, *command("a")], check=False)
    assert killed.returncode == -signal.SIGKILL
    for name in "ab":
        subprocess.run([sys.executable, "-m", "zfcore", *command(name)], check=True)
    [one], [other] = (read("table2", tmp_path / name)["entries"] for name in "ab")
    assert one["weights_sha256"] == other["weights_sha256"]
    assert one["outcomes"] == other["outcomes"]


def test_a_training_that_diverges_does_not_stop_the_others(tmp_path, monkeypatch):
    real = zfcore.reproduce.train

    def train(network, *arguments, **options):
        if network.architecture.name == "alexnet-64":
            raise DivergedError("the loss is not finite by step 7")
        return real(network, *arguments, **options)

    monkeypatch.setattr(zfcore.reproduce, "train", train)
    with pytest.raises(DivergedError, match="1 trainings diverged: alexnet, seed 0: the loss is not finite"):
        reproduce("table2", experiment(tmp_path), ["alexnet", "zfnet"], say=lambda line: None)
    assert [entry["row"] for entry in read("table2", tmp_path / "results")["entries"]] == ["zfnet"]


def test_weights_of_another_recipe_are_refused(tmp_path):
    reproduce("table2", experiment(tmp_path), ["zfnet"], say=lambda line: None)
    [card] = (tmp_path / "runs").rglob("weights.json")
    card.write_text(card.read_text().replace('"nesterov": true', '"nesterov": false'))
    (tmp_path / "results" / "table2.json").unlink()
    with pytest.raises(CheckpointError, match="of another recipe or of other pictures; move"):
        reproduce("table2", experiment(tmp_path), ["zfnet"], say=lambda line: None)


def test_the_overview_says_what_is_done_and_what_remains(tmp_path):
    shared = experiment(tmp_path)
    assert {seconds for *_, seconds in overview("table2", shared)} == {None}, "no row, no estimate"
    reproduce("table2", shared, ["zfnet"], say=lambda line: None)
    states = {name: (state, seconds) for name, _, state, seconds in overview("table2", shared)}
    assert states["zfnet"][0].startswith("top-1 error one crop")
    assert states["zfnet"][1] == 0
    [(_, _, state, seconds)] = overview("table1", shared, ["zfnet"])
    assert (state, seconds) == (f"{states['zfnet'][0]}, in the other table", 0)
    assert states["alexnet-no3467"][0] == "not begun"
    assert 0 < states["zfnet-fc2048"][1] < states["zfnet-wide-fc8192"][1] < math.inf
    partly = experiment(tmp_path, epochs=4)
    folder = partly.folder(rows_of("table2", ["zfnet"])[0], 0)
    folder.mkdir()
    (folder / "history.csv").write_text("epoch,seconds\n1,5.0\n2,5.0\n")
    assert overview("table2", partly, ["zfnet"])[0][2] == "2 of 4 epochs"


# ------------------------------------------------------------------------------ Figs. 4 and 5
def test_the_overview_passes_over_what_another_command_wrote(tmp_path):
    reproduce("table2", experiment(tmp_path), ["zfnet"], say=lambda line: None)
    [mine] = find("table2", tmp_path / "results")
    record("table2", mine | {"row": "mine", "config": {"width": 0.03, "shard": None}}, tmp_path / "results")
    assert overview("table2", experiment(tmp_path), ["zfnet"])[0][3] == 0


def test_fig5_keeps_two_layers_of_each_network(tmp_path, trainings, sets):
    reproduce("fig5", experiment(tmp_path), ["fig5-7x7-1", "fig5-11x11-2"], say=lambda line: None)
    assert len(trainings) == 2
    network, card = first_layers("fig5-7x7-1", tmp_path / "results")
    [path] = (tmp_path / "runs").rglob("fig5-7x7-1*/weights.safetensors")
    whole, _ = load(path)
    x = torch.rand(2, 3, 56, 56)
    torch.testing.assert_close(network(x), whole.features[:6](x))
    assert network.features[5].__class__ is torch.nn.ReLU
    assert card["mean"].shape == (3, 64, 64)


def test_fig5_takes_more_seeds_one_by_one_and_shows_the_first(tmp_path, trainings, sets):
    said = []
    reproduce("fig5", experiment(tmp_path), ["fig5-7x7-2"], say=said.append)
    kept = (tmp_path / "results/fig5/fig5-7x7-2.safetensors").read_bytes()
    for _ in range(2):
        reproduce("fig5", experiment(tmp_path), ["fig5-7x7-2"], (1,), say=said.append)
    assert [entry["seed"] for entry in read("fig5", tmp_path / "results")["entries"]] == [0, 1]
    assert len(trainings) == 2
    assert said[-1] == "fig5-7x7-2, seed 1: is in the ledger"
    assert (tmp_path / "results/fig5/fig5-7x7-2.safetensors").read_bytes() == kept


def test_a_figure_is_judged_with_one_crop(tmp_path, sets):
    reproduce("fig5", experiment(tmp_path), ["fig5-7x7-2"], say=lambda line: None)
    [entry] = read("fig5", tmp_path / "results")["entries"]
    assert {name for name in entry["values"] if "crop" in name} == {"one crop top1", "one crop top5"}


def test_a_file_of_fig5_without_its_card_is_written_again(tmp_path, trainings, sets):
    reproduce("fig5", experiment(tmp_path), ["fig5-7x7-2"], say=lambda line: None)
    card = tmp_path / "results/fig5/fig5-7x7-2.json"
    before = card.read_bytes()
    card.unlink()  # something ended the run between the two
    reproduce("fig5", experiment(tmp_path), ["fig5-7x7-2"], say=lambda line: None)
    assert card.read_bytes() == before


def test_the_four_first_layers_of_fig5_learn_alike():
    recipes = {Experiment("tiny-imagenet").of(row).recipe for row in FIG5[:4]}
    assert len(recipes) == 1


def test_layers_that_are_missing_or_foreign_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `zfcore reproduce fig5 --row fig5-7x7-1`"):
        first_layers("fig5-7x7-1", tmp_path)
    (tmp_path / "fig5").mkdir()
    (tmp_path / "fig5/free.safetensors").write_bytes(b"x")
    (tmp_path / "fig5/free.json").write_text(
        json.dumps({"sha256": "y", "architecture": "zfnet-64-coarse", "num_classes": 200, "input_size": 56})
    )
    with pytest.raises(ValueError, match="is not the file that free"):
        first_layers("free", tmp_path)


def test_the_pair_of_fig5_a_differs_in_the_radius_alone():
    held, free = (row.recipe.__dict__ for row in FIG5[4:])
    assert {key for key in held if held[key] != free[key]} == {"name", "radius"}


def test_fig4_leaves_its_snapshots_and_an_entry(tmp_path, trainings):
    reproduce("fig4", experiment(tmp_path, epochs=2), say=lambda line: None)
    [entry] = read("fig4", tmp_path / "results")["entries"]
    assert entry["values"]["snapshots"] == [1, 2]
    assert entry["config"]["recipe"]["schedule"] == "plateau"
    assert (tmp_path / "results" / "fig4.npz").stat().st_size < 2e6
    reproduce("fig4", experiment(tmp_path, epochs=2), say=lambda line: None)
    assert len(trainings) == 1


def test_the_card_of_two_layers_names_the_whole_network(tmp_path):
    reproduce("fig5", experiment(tmp_path), ["fig5-7x7-1"], say=lambda line: None)
    [entry] = read("fig5", tmp_path / "results")["entries"]
    _, card = first_layers("fig5-7x7-1", tmp_path / "results")
    assert (card["whole_sha256"], card["command"]) == (entry["weights_sha256"], entry["command"])
    assert card["error"]["one crop"]["top5"] == entry["values"]["one crop top5"]
    [path] = (tmp_path / "runs").rglob("weights.safetensors")
    assert load(path)[1]["command"] == entry["command"]


def test_layers_of_a_network_without_an_entry_are_refused(tmp_path):
    reproduce("fig5", experiment(tmp_path), ["fig5-7x7-1"], say=lambda line: None)
    [entry] = read("fig5", tmp_path / "results")["entries"]
    record("fig5", entry | {"weights_sha256": "0" * 64}, tmp_path / "results")
    with pytest.raises(ValueError, match=r"of a network that the ledger of Fig\. 5 has no entry"):
        first_layers("fig5-7x7-1", tmp_path / "results")


@pytest.mark.parametrize(
    ("target", "row", "file"), [("fig4", "zfnet", "fig4.npz"), ("fig5", "free", "fig5/free.safetensors")]
)
def test_a_figures_file_stays_that_of_its_entry(tmp_path, trainings, target, row, file):
    reproduce(target, experiment(tmp_path), [row], say=lambda line: None)
    kept = (tmp_path / "results" / file).read_bytes()
    others = [(experiment(tmp_path, epochs=2), 0)] + [(experiment(tmp_path), 1)] * (target == "fig4")
    for other, seed in others:
        with pytest.raises(ValueError, match=r"belongs to another entry.*--results"):
            reproduce(target, other, [row], (seed,), say=lambda line: None)
    assert len(trainings) == 1
    assert (tmp_path / "results" / file).read_bytes() == kept


@pytest.mark.parametrize(
    ("target", "row", "file"), [("fig4", "zfnet", "fig4.npz"), ("fig5", "free", "fig5/free.safetensors")]
)
def test_a_figures_file_that_is_gone_is_made_again(tmp_path, trainings, target, row, file):
    reproduce(target, experiment(tmp_path), [row], say=lambda line: None)
    kept = (tmp_path / "results" / file).read_bytes()
    (tmp_path / "results" / file).unlink()
    shutil.rmtree(tmp_path / "runs")
    reproduce(target, experiment(tmp_path), [row], say=lambda line: None)
    assert len(trainings) == 2
    assert (tmp_path / "results" / file).read_bytes() == kept
    assert len(read(target, tmp_path / "results")["entries"]) == 1


@pytest.mark.parametrize("target", ["fig4", "fig5"])
def test_an_entry_that_cannot_be_written_leaves_no_file(tmp_path, monkeypatch, target):
    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(zfcore.reproduce, "record", full)
    with pytest.raises(OSError, match="no space left"):
        reproduce(target, experiment(tmp_path), ["zfnet" if target == "fig4" else "free"], say=lambda _: None)
    assert not (tmp_path / "results").exists()


# ------------------------------------------------------------------------------ the shell
def test_the_shell_lists_without_training(tmp_path, trainings):
    command = ["reproduce", "table1", "--data", "patches", "--seeds", "0,1", "--list"]
    result = CliRunner().invoke(app, [*command, "--results", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert len([line for line in result.output.splitlines() if "not begun" in line]) == 5
    assert "no estimate before one row is done" in result.output
    assert not trainings


@pytest.mark.parametrize(("option", "value"), [("--seeds", "a"), ("--recipe", "mine")])
def test_the_shell_refuses_what_it_does_not_know(option, value):
    result = CliRunner().invoke(app, ["reproduce", "table2", "--data", "patches", option, value])
    assert result.exit_code == 2


def test_the_shell_judges_together_and_records(tmp_path):
    reproduce("table2", experiment(tmp_path), ["zfnet", "alexnet"], say=lambda line: None)
    paths = sorted(map(str, (tmp_path / "runs").rglob("weights.safetensors")))
    options = ["--ensemble", "--confusion", str(tmp_path / "c.csv"), "--record", "mine"]
    result = CliRunner().invoke(app, ["evaluate", *paths, *options, "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "20 val pictures of patches" in result.output
    assert " ± " in result.output
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines[0].split(",")[1:] == [line.split(",")[0] for line in lines[1:]]
    assert sum(int(n) for line in lines[1:] for n in line.split(",")[1:]) == 20
    entries = read("mine", tmp_path)["entries"]
    assert [entry["row"] for entry in entries] == ["alexnet-64", "ensemble", "zfnet-64-coarse"]
    [stored] = find("table2", tmp_path / "results", "zfnet")
    assert entries[2]["outcomes"] == stored["outcomes"]
    assert stored["values"].items() >= entries[2]["values"].items()
