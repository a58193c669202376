"""The shell: commands explain themselves, and what is given wrongly is told in a line."""

import csv
import dataclasses
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import typer
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from zfcore.cli import app, main
from zfcore.data import PackedPictures
from zfcore.evaluate import errors
from zfcore.fetch import FetchError
from zfcore.ledger import find
from zfcore.model import load
from zfcore.pack import pack
from zfcore.train import RECIPES, Recipe, precision_of


def shell(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from zfcore.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "", "COLUMNS": "100", **environment},
    )


def understood(line):
    """The command that a line for the shell calls, once the line has been read as the shell reads it."""
    words = shlex.split(line)
    command, words = typer.main.get_command(app), words[words.index("zfcore") + 1 :]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("zfcore", words)
    return command


def commands(group, *names):
    """Every command there is, with its name as a tuple."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield pytest.param((*names, name), command, id=" ".join((*names, name)))


@pytest.mark.parametrize(("names", "command"), list(commands(typer.main.get_command(app))))
def test_every_command_shows_examples_that_it_takes(names, command):
    result = CliRunner().invoke(app, [*names, "--help"])
    assert result.exit_code == 0
    assert f"zfcore {' '.join(names)}" in result.output
    examples = re.findall(r"`([^`]*zfcore[^`]*)`", command.help.split("Example", 1)[1])
    assert examples
    for example in examples:
        assert understood(example).callback.__name__ == command.callback.__name__


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ("zfcore COMMAND --help", "zfcore occlude")),
        (("data",), ("zfcore data get tiny-imagenet", "pack what is too large")),
        (("weights",), ("zfcore weights get zfnet",)),
        (("book",), ("draw at random",)),
    ],
)
def test_help_begins_with_an_example(command, words):
    told = " ".join(CliRunner().invoke(app, [*command, "--help"]).output.replace("│", " ").split())
    for word in words:
        assert word in told


def test_a_bug_keeps_its_traceback_and_a_fault_of_ones_own_has_none(monkeypatch):
    def raising(error):
        def broken():
            raise error

        monkeypatch.setattr("zfcore.cli.app", broken)

    for error in (FetchError("no server"), ValueError("no"), OSError("full")):
        raising(error)
        with pytest.raises(SystemExit, match=f"zfcore: {error}"):
            main()
    raising(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main()


def test_missing_data_are_named_with_what_to_do_next(tmp_path):
    result = shell("train", "zfnet-64", "--out", str(tmp_path / "run"), ZFCORE_DATA=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("zfcore: there is no ")
    assert "run `zfcore data get tiny-imagenet`, or set ZFCORE_DATA" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_network_for_small_pictures_is_not_trained_on_scraps_of_large_ones(tmp_path):
    draw = np.random.default_rng(0)
    for split, n in ((split, n) for split in ("train", "val") for n in range(2)):
        file = tmp_path / "source" / split / f"n{n}" / "a.JPEG"
        file.parent.mkdir(parents=True)
        Image.fromarray(draw.integers(0, 256, (128, 128, 3), np.uint8)).save(file)
    for split in ("train", "val"):
        pack(tmp_path / "source", tmp_path / "large", split, side=128, progress=False)
    given = ["train", "zfnet-64", "--data", str(tmp_path / "large"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert "sees 56 px" in result.output


def test_an_unknown_recipe_lists_the_known_ones(tmp_path):
    result = CliRunner().invoke(app, ["train", "zfnet-64", "--out", str(tmp_path), "--recipe", "mine"])
    assert result.exit_code == 2
    assert "paper, small" in result.output


# ------------------------------------------------------------------------------ train
@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
)
def test_every_value_of_a_recipe_is_an_option_with_its_reason(field):
    (option,) = (p for p in typer.main.get_command(app).commands["train"].params if p.name == field)
    assert option.opts[0] == "--" + field.replace("_", "-")
    assert option.default is None  # the recipe's
    assert len(option.help) > 5


def test_an_unknown_architecture_lists_the_known_ones(tmp_path):
    result = CliRunner().invoke(app, ["train", "resnet", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "unknown architecture 'resnet'" in result.output
    assert "zfnet-64-coarse" in result.output


def test_an_unknown_data_set_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["zfcore", "train", "zfnet-64", "--out", str(tmp_path), "--data", "cifar"]
    )
    with pytest.raises(SystemExit, match="zfcore: unknown data set 'cifar'; known: "):
        main()


@pytest.mark.parametrize("option", [("--dropout", "half"), ("--shard", "1/4"), ("--snapshots", "all")])
def test_an_option_that_cannot_be_read_is_refused(tmp_path, option):
    result = CliRunner().invoke(app, ["train", "zfnet-64", "--out", str(tmp_path), *option])
    assert result.exit_code == 2
    assert option[0] in result.output


def test_keeping_weights_wants_weights(tmp_path):
    result = CliRunner().invoke(
        app, ["train", "zfnet-64", "--out", str(tmp_path), "--initialization", "keep"]
    )
    assert result.exit_code == 2
    assert "--start" in result.output


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder with a pack of 40 pictures in two classes."""
    folder, draw = tmp_path_factory.mktemp("packed"), np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for n in range(count):
            file = folder / "source" / split / f"n{n % 2}" / f"{n:03d}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 120 + 130 * (n % 2), (64, 64, 3), np.uint8)).save(file)
        pack(folder / "source", folder / "tiny", split, side=64, progress=False)
    return folder


TINY = ("train", "alexnet-64", "--data", "tiny", "--width", "0.05", "--batch-size", "6", "--workers", "0")


def start(folder, *options, command=(sys.executable, "-m", "zfcore")):
    given = [*command, *TINY, "--device", "cpu", *options]
    return subprocess.Popen(given, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def trained(packed):
    """A run with everything: half of the pictures, values of its own, snapshots."""
    options = ("--shard", "0of2", "--epochs", "2", "--clip", "none", "--dropout", "0.2", "--snapshots", "1,2")
    out = packed / "runs" / "all"
    finish(start(packed, "--out", str(out), "--record", "training", "--results", str(packed), *options))
    return out, options


def test_a_card_tells_all_that_made_the_weights(trained, packed):
    out, _ = trained
    network, card = load(out / "alexnet-64.safetensors")
    how = dataclasses.asdict(
        dataclasses.replace(RECIPES["small"], batch_size=6, epochs=2, clip=None, dropout=0.2)
    )
    assert card["settings"] == how | {"name": "small with batch_size 6, dropout 0.2, clip None"}
    assert card["recipe"] == card["settings"]["name"]
    assert (card["data"], card["shard"], card["pictures"]) == ("tiny", "0of2", 20)
    assert card["data_sha256"] == PackedPictures.open(packed / "tiny", "train").shard(0, 2).sha256
    assert (card["architecture"], card["width"], card["epochs"], card["seed"]) == ("alexnet-64", 0.05, 2, 0)
    assert card["command"].startswith("zfcore train alexnet-64 --data tiny ")
    assert f"--out {Path('runs', 'all')}" in card["command"]  # no path of this machine
    assert set(card["error"]) == {"one crop", "ten crops"}
    assert errors(network, PackedPictures.open(packed / "tiny", "val"), card) == card["error"]["one crop"]


def test_a_training_writes_its_errors_and_its_history_into_the_ledger(trained, packed):
    card = load(trained[0] / "alexnet-64.safetensors")[1]
    [entry] = find("training", packed, row="alexnet-64", seed=0, epochs=2)
    errors, history = entry["values"], entry["values"]["history"]
    assert {name: errors[name] for name in ("top1", "top5")} == card["error"]["one crop"]
    assert errors["ten crops top1"] == card["error"]["ten crops"]["top1"]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    assert (entry["weights_sha256"], entry["command"]) == (card["sha256"], card["command"])
    assert entry["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in history))


def test_a_snapshot_is_the_network_of_its_epoch(trained):
    out, _ = trained
    with open(out / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    for epoch in (1, 2):
        _, card = load(out / f"epoch-{epoch:02d}.safetensors")
        assert card["epochs"] == epoch
        assert card["error"]["one crop"]["top1"] == float(history[epoch - 1]["top1"])
    last, end = (
        load(out / name)[0].state_dict() for name in ("epoch-02.safetensors", "alexnet-64.safetensors")
    )
    assert all(torch.equal(last[name], end[name]) for name in end)


def test_a_complete_run_says_so_and_does_nothing(trained, packed):
    out, options = trained
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    said = finish(start(packed, "--out", str(out), *options))
    assert "is complete: 2 epochs" in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda blob, card: (blob[:-9], card), "is not the file that"),
        (
            lambda blob, card: (blob, card.replace('"data_sha256": "', '"data_sha256": "0')),
            "differs in data_sha256",
        ),
    ],
    ids=["truncated", "of other pictures"],
)
def test_a_run_is_not_complete_with_weights_that_are_not(
    trained, packed, tmp_path, monkeypatch, damage, fault
):
    out, options = trained
    monkeypatch.chdir(packed)
    shutil.copytree(out, tmp_path / "run")
    weights, card = tmp_path / "run" / "alexnet-64.safetensors", tmp_path / "run" / "alexnet-64.json"
    blob, text = damage(weights.read_bytes(), card.read_text())
    weights.write_bytes(blob)
    card.write_text(text)
    result = CliRunner().invoke(app, [*TINY, "--device", "cpu", "--out", str(tmp_path / "run"), *options])
    assert isinstance(result.exception, ValueError)
    assert fault in str(result.exception)


def test_a_complete_run_from_before_cards_told_their_precision_is_complete(
    trained, packed, tmp_path, monkeypatch
):
    out, options = trained
    monkeypatch.chdir(packed)
    shutil.copytree(out, tmp_path / "run")
    card = tmp_path / "run" / "alexnet-64.json"
    told = json.loads(card.read_text())
    [entry] = find("training", packed, row="alexnet-64", seed=0)
    assert told["precision"] == entry["config"]["precision"] == precision_of("auto", "cpu")
    card.write_text(json.dumps(told | {"precision": "auto"}))
    result = CliRunner().invoke(app, [*TINY, "--device", "cpu", "--out", str(tmp_path / "run"), *options])
    assert "is complete: 2 epochs" in result.output


def test_a_complete_run_says_which_snapshots_it_has_not(trained, packed, monkeypatch):
    out, options = trained
    monkeypatch.chdir(packed)
    (out / "epoch-01.safetensors").rename(out / "aside")
    try:
        result = CliRunner().invoke(app, [*TINY, "--device", "cpu", "--out", str(out), *options])
    finally:
        (out / "aside").rename(out / "epoch-01.safetensors")
    assert "no snapshot of epoch 1 was kept" in str(result.exception)


def test_a_complete_run_that_no_ledger_has_is_recorded_as_it_would_have_been(
    trained, packed, tmp_path, monkeypatch
):
    out, options = trained
    given = [*TINY, "--device", "cpu", "--out", str(out), *options, "--results", str(tmp_path)]
    monkeypatch.chdir(packed)
    result = CliRunner().invoke(app, [*given, "--record", "training"])
    assert result.exit_code == 0, result.exception
    assert "is complete: 2 epochs" in result.output
    assert find("training", tmp_path) == find("training", packed)
    written = (tmp_path / "training.json").stat().st_mtime_ns
    assert CliRunner().invoke(app, [*given, "--record", "training"]).exit_code == 0
    assert (tmp_path / "training.json").stat().st_mtime_ns == written


def test_a_folder_with_the_weights_of_another_run_is_refused(trained, packed):
    out, options = trained
    process = start(packed, "--out", str(out), *options, "--seed", "1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "is of another run (it differs in seed); give another folder" in err


def test_a_warm_restart_names_the_weights_it_began_with(trained, packed):
    weights, out = trained[0] / "alexnet-64.safetensors", packed / "runs" / "warm"
    finish(start(packed, "--out", str(out), "--epochs", "1", "--rate", "0", "--start", str(weights)))
    (first, origin), (second, card) = load(weights), load(out / "alexnet-64.safetensors")
    assert card["start"] == f"alexnet-64, sha256 {origin['sha256']}"
    assert card["settings"]["initialization"] == "keep"
    assert "--start runs" in card["command"]
    assert all(torch.equal(w, second.state_dict()[name]) for name, w in first.state_dict().items())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_gives_the_same_bits(packed, kills):
    epochs, draw = 12 if kills == 2 else 6 * kills, random.Random(kills)
    options = ("--epochs", str(epochs), "--checkpoint-seconds", "0")
    out, whole = packed / "runs" / f"killed-{kills}", packed / "runs" / f"whole-{epochs}"
    finish(start(packed, "--out", str(whole), *options))
    hit = []  # the steps of the checkpoints beside which a kill left the run
    for _ in range(kills):
        process, checkpoint = start(packed, "--out", str(out), *options), out / "checkpoint.safetensors"
        began = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == began):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))  # somewhere in a step, in a checkpoint, between epochs
        process.kill()
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            with safe_open(checkpoint, "pt") as file:
                hit.append(json.loads(file.metadata()["state"])["step"])
    within = [step for step in hit if 0 < step < epochs * 7]  # an epoch has 7 batches
    assert len(within) >= kills // 2, f"only {len(within)} of {kills} kills met the run at work: {hit}"
    finish(start(packed, "--out", str(out), *options))
    for name in ("alexnet-64.safetensors", "checkpoint.safetensors"):
        expected = safetensors.torch.load_file(whole / name)
        for key, tensor in safetensors.torch.load_file(out / name).items():
            assert torch.equal(tensor, expected[key]), f"{name}: {key}"


def test_torchrun_trains_the_same_network_with_two_processes(packed):
    torchrun = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "zfcore",
    )
    options = ("--epochs", "2", "--precision", "float32", "--average", "none")
    alone, together = packed / "runs" / "alone", packed / "runs" / "together"
    finish(start(packed, "--out", str(alone), *options, "--snapshots", "1"))
    finish(start(packed, "--out", str(together), *options, command=torchrun))
    (one, _), (two, card) = (load(out / "alexnet-64.safetensors") for out in (alone, together))
    assert card["command"].startswith("torchrun --nproc-per-node 2 -m zfcore train alexnet-64 ")
    before = load(alone / "epoch-01.safetensors")[0].state_dict()
    assert max((w - before[name]).abs().max() for name, w in one.state_dict().items()) > 10 * 2e-3
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], weight, rtol=0, atol=2e-3)  # half precision
