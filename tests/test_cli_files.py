"""The shell on files: what is given reaches the command or is refused, what is written can be read again."""

import csv
import dataclasses
import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from zfcore import data, model
from zfcore.cli import app
from zfcore.data import patches
from zfcore.export import export_onnx

pytestmark = pytest.mark.usefixtures("one_thread")


def shell(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network that nobody trained."""
    path = tmp_path_factory.mktemp("weights") / "zfnet-64.safetensors"
    torch.manual_seed(0)
    network = model.build("zfnet-64", 10, width=0.1)
    card = {"architecture": "zfnet-64", "width": 0.1, "num_classes": 10, "input_size": 56, "resize": 64}
    card |= {"scale": 64.0, "data": "patches"}
    model.save(path, network, torch.full((3, 64, 64), 118.0), card)
    return path


def pictures(folder, **counts):
    """Folders of small pictures, so many of each class."""
    draw = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / name / f"{n}.png")
    return folder


# ------------------------------------------------------------------------------ classes of one's own
def test_a_fifth_of_every_class_is_held_out_be_it_small_or_large(tmp_path, weights):
    folder, out = pictures(tmp_path / "mine", many=20, some=10, few=2), tmp_path / "p.csv"
    result = shell("transfer", folder, "--weights", weights, "--out", out)
    assert result.exit_code == 0, result.exception
    assert "25 pictures to learn from, 7 to test" in result.output
    assert Counter(true for _, true, _ in rows(out)[1:]) == {"many": 4, "some": 2, "few": 1}


def test_a_class_of_one_picture_cannot_be_held_out(tmp_path, weights):
    result = shell("transfer", pictures(tmp_path, cats=5, dog=1), "--weights", weights)
    assert isinstance(result.exception, ValueError)
    assert "dog has one picture" in str(result.exception)


# ------------------------------------------------------------------------------ tables of commas
def test_a_comma_in_a_name_shifts_no_column(tmp_path, weights, monkeypatch):
    folder, out = pictures(tmp_path / "a, b", **{"cat, tabby": 5, 'dog "Rex"': 5}), tmp_path / "out.csv"
    assert shell("transfer", folder, "--weights", weights, "--out", out).exit_code == 0
    assert {len(row) for row in rows(out)} == {3}
    assert {true for _, true, _ in rows(out)[1:]} == {"cat, tabby", 'dog "Rex"'}

    assert shell("duplicates", folder, folder, "--threshold", 0.9, "--out", out).exit_code == 0
    assert sum(x == y for x, y, _ in rows(out)) == 10

    few = patches("val", 64).take(torch.arange(20))
    classes = tuple(f"{name}, and more" for name in few.classes)
    monkeypatch.setattr(data, "data_set", lambda *_: dataclasses.replace(few, classes=classes))
    result = shell("evaluate", weights, "--crops", 1, "--confusion", out)
    assert result.exit_code == 0, result.exception
    assert rows(out)[0] == ["", *classes]
    assert [row[0] for row in rows(out)[1:]] == list(classes)


@pytest.fixture
def full_disk(monkeypatch):
    """A disk on which no file can be put in the place of another."""

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)


@pytest.mark.parametrize("command", ["transfer", "duplicates"])
def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path, weights, full_disk, command):
    folder, out = pictures(tmp_path / "mine", cats=2, dogs=2), tmp_path / "out.csv"
    out.write_text("before")
    given = {"transfer": (folder, "--weights", weights), "duplicates": (folder, folder)}[command]
    result = shell(command, *given, "--out", out)
    assert "no space" in str(result.exception)
    assert out.read_text() == "before"


def test_graphs_have_a_manifest_when_all_of_it_is_written(tmp_path, full_disk):
    with pytest.raises(OSError, match="no space"):
        export_onnx(nn.Sequential(nn.Conv2d(3, 4, 1)), 8, ["0"], tmp_path, logits=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "forward.onnx", "project_0.onnx", "weights.bin"
    ]  # fmt: skip
