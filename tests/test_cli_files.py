"""The shell on files: what is given reaches the command or is refused, what is written can be read again."""

import csv
import dataclasses
import json
import os
import re
from collections import Counter

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from zfcore import data, evaluate, generalization, model, page, publish, train
from zfcore import reproduce as reproducing
from zfcore.cli import app, training
from zfcore.data import patches
from zfcore.export import export_onnx
from zfcore.gallery import Gallery
from zfcore.maximization import REGULARISED, maximize
from zfcore.occlusion import occlusion_maps
from zfcore.train import precision_of

pytestmark = pytest.mark.usefixtures("one_thread")


def shell(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def told(result):
    """What a refusal says, on one line: the shell breaks and frames it."""
    return " ".join(result.output.replace("│", " ").split())


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


# ------------------------------------------------------------------------------ options that would be idle
@pytest.mark.parametrize(
    ("target", "option"),
    [
        *(("table3", option) for option in (("--list",), ("--width", 2), ("--shard", "0of4"))),
        *(("table3", option) for option in (("--workers", 0), ("--low-precision",))),
        *(("table2", option) for option in (("--weights", "zfnet"), ("--drop-duplicates",))),
        *((f"fig{n}", ("--recipe", "small")) for n in (4, 5, 7)),
        *((f"table{n}", option) for n in (5, 6) for option in (("--recipe", "brief"), ("--epochs", 3))),
    ],
)
def test_an_option_that_a_target_would_not_heed_is_refused(target, option, monkeypatch):
    for room in (generalization, reproducing):
        monkeypatch.setattr(room, "reproduce", lambda *_, **__: pytest.fail("it ran"))
    result = shell("reproduce", target, "--data", "caltech101", *option)
    assert result.exit_code == 2
    said = told(result)
    assert f"{target} does not take {option[0]}; it takes --data, --row," in said


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("sensitivity", "occlusion"), "--draws"),
        *((("sensitivity", "correspondence"), option) for option in ("--pictures", "--size", "--stride")),
        *((("measure", "fig2"), option) for option in ("--pictures", "--classes")),
        (("measure", "invariance"), "--classes"),
        *((("measure", "maximization"), option) for option in ("--data", "--pictures")),
        (("reproduce", "table5", "--data", "voc2012"), "--seeds"),
    ],
)
def test_an_option_that_an_analysis_would_not_heed_is_refused(command, option):
    result = shell(*command, option, 20)
    assert result.exit_code == 2
    assert f"{command[1]} does not take {option}; it takes --" in told(result)


def test_options_that_a_target_heeds_are_not_refused(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(generalization, "reproduce", lambda *arguments, **_: given.append(arguments))
    options = ("--weights", "zfnet", "--drop-duplicates", "--epochs", 3, "--seeds", "1", "--out", tmp_path)
    assert shell("reproduce", "table3", "--data", "caltech101", *options).exit_code == 0
    [(target, transfer, _, splits)] = given
    assert (target, splits) == ("table3", [1])
    assert (transfer.weights, transfer.duplicates, transfer.epochs) == ("zfnet", "dropped", 3)


def test_a_table_without_its_row_from_scratch_takes_nothing_of_trainings(monkeypatch):
    monkeypatch.setattr(generalization, "reproduce", lambda *_, **__: None)
    asked = ("reproduce", "table3", "--data", "caltech101", "--epochs", 3, "--row")
    refused = shell(*asked, "pretrained, layer 7")
    assert refused.exit_code == 2
    assert "table3 without its row scratch does not take --epochs; it takes" in told(refused)
    assert shell(*asked, "pretrained, layer 7", "--row", "scratch").exit_code == 0


def test_a_seed_that_is_given_twice_is_run_once(monkeypatch):
    given = []
    monkeypatch.setattr(reproducing, "reproduce", lambda *arguments, **_: given.append(arguments[3]))
    assert shell("reproduce", "table2", "--data", "patches", "--seeds", "2,0,0").exit_code == 0
    assert given == [[0, 2]]


def test_no_crop_is_no_way_to_judge(weights):
    refused = shell("evaluate", weights, "--crops", 0)
    assert "crops is 0; accepted are 1 (the centre) and 10" in str(refused.exception)


def test_weights_that_do_not_fit_a_network_of_ones_own_are_told(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(2, 3)\n")
    torch.save(nn.Linear(2, 4).state_dict(), tmp_path / "w.pt")
    folder = pictures(tmp_path, photos=1) / "photos"
    options = ("--weights", tmp_path / "w.pt", "--pictures", folder, "--out", tmp_path / "p.html")
    refused = shell("page", f"{tmp_path / 'net.py'}:make", *options)
    assert isinstance(refused.exception, ValueError)
    assert "w.pt does not fit" in str(refused.exception)


def test_a_page_of_shipped_weights_takes_no_others(tmp_path):
    folder = pictures(tmp_path, photos=1) / "photos"
    result = shell(
        "page", "zfnet-64", "--weights", "mine.pt", "--pictures", folder, "--out", tmp_path / "p.html"
    )
    assert result.exit_code == 2
    assert "--weights belongs to MODEL.py:factory" in result.output


def test_a_drive_letter_is_not_taken_for_a_file_of_networks(tmp_path):
    folder = pictures(tmp_path, photos=1) / "photos"
    result = shell("page", r"C:\runs\zfnet.safetensors", "--pictures", folder, "--out", tmp_path / "p.html")
    assert isinstance(result.exception, FileNotFoundError)
    assert "no weights 'C:" in str(result.exception)


def test_a_card_that_lacks_an_entry_is_told_with_those_it_has(tmp_path):
    folder, card = pictures(tmp_path, photos=1) / "photos", tmp_path / "card.json"
    card.write_text('{"input_size": 56, "mean": [0, 0, 0], "scale": 1}', encoding="utf-8")
    result = shell("page", "zfnet-64", "--card", card, "--pictures", folder, "--out", tmp_path / "p.html")
    assert isinstance(result.exception, ValueError)
    assert "the card has no 'resize'; it has input_size, mean, scale" in str(result.exception)


@pytest.mark.parametrize("position", ["3", "3,4,5", "top"])
def test_a_position_that_is_none_is_told_with_those_that_are(position, tmp_path):
    result = shell("maximize", "layer 1", 0, "--position", position, "--out", tmp_path)
    assert result.exit_code == 2
    assert f"a position is map, middle or Y,X, as 3,4; got '{position}'" in told(result)


def test_a_channel_that_is_no_number_is_told(tmp_path):
    result = shell("maximize", "layer 1", "goldfish", "--out", tmp_path)
    assert result.exit_code == 2
    assert "channels of layer 1 are numbers; got goldfish" in told(result)


# ------------------------------------------------------------------------------ classes of one's own
def test_a_fifth_of_every_class_is_held_out_be_it_small_or_large(tmp_path, weights):
    folder, out = pictures(tmp_path / "mine", many=20, some=10, few=2), tmp_path / "p.csv"
    result = shell("transfer", folder, "--weights", weights, "--out", out)
    assert result.exit_code == 0, result.exception
    assert "25 pictures to learn from, 7 to test" in result.output
    assert Counter(true for _, true, _ in rows(out)[1:]) == {"many": 4, "some": 2, "few": 1}


def test_an_unknown_head_lists_the_known_ones(tmp_path, weights):
    result = shell("transfer", pictures(tmp_path, cats=2, dogs=2), "--weights", weights, "--head", "knn")
    assert result.exit_code == 2
    assert "unknown head 'knn'; known: softmax, svm" in told(result)


def test_pictures_that_lie_in_no_folder_have_no_class(tmp_path, weights):
    result = shell("transfer", pictures(tmp_path, mine=2) / "mine", "--weights", weights)
    assert isinstance(result.exception, ValueError)
    assert "mine has no folders with pictures; put each class's pictures into one" in str(result.exception)


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
    assert rows(out)[0][2] == "correlation"
    assert sum(x == y for x, y, _ in rows(out)[1:]) == 10

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


# ------------------------------------------------------------------------------ networks and their pictures
def test_the_training_error_of_a_network_is_that_of_its_shard(weights, tmp_path):
    network, card = model.load(weights)
    own = tmp_path / "own.safetensors"
    model.save(own, network, card["mean"], card | {"shard": "1of20"})
    judged = shell("evaluate", own, "--split", "train", "--crops", 1)
    assert judged.exit_code == 0, judged.output
    assert f"{len(patches('train').shard(1, 20))} train pictures of patches" in judged.output
    judged = shell("evaluate", own, weights, "--split", "train", "--crops", 1)
    assert judged.exit_code == 2
    assert "trained on different shards" in told(judged)


def test_a_card_without_data_wants_them_said(weights, tmp_path):
    network, card = model.load(weights)
    own = tmp_path / "own.safetensors"
    model.save(own, network, card["mean"], {key: card[key] for key in card if key != "data"})
    judged = shell("evaluate", own, "--crops", 1)
    assert judged.exit_code == 2
    assert "names no data; say with --data" in told(judged)


def test_a_folder_does_not_hide_the_data_set_of_its_name(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patches").mkdir()
    assert len(data.data_set("patches", "val")) == len(patches("val"))
    with pytest.raises(FileNotFoundError, match="there is no pack"):
        data.data_set("./patches", "val")


def test_a_card_without_names_of_its_classes_has_them_by_number(weights, tmp_path):
    photo = pictures(tmp_path, photos=1) / "photos" / "0.png"
    asked = ("occlude", photo, "--weights", weights, "--size", 28, "--stride", 14, "--out", tmp_path)
    said = shell(*asked, "--target", 3)
    assert said.exit_code == 0, said.exception
    assert "class 3: " in said.output
    assert "no class 'cat'; give a label (say, class 0, " in str(shell(*asked, "--target", "cat").exception)


def test_weights_of_another_width_are_no_start(weights, tmp_path):
    asked = ("train", "zfnet-64", "--data", "patches", "--shard", "0of50", "--width", 0.2, "--out", tmp_path)
    refused = shell(*asked, "--start", weights)
    assert isinstance(refused.exception, ValueError)
    assert f"{weights} does not fit zfnet-64 of width 0.2: " in str(refused.exception)


@pytest.mark.parametrize("ledger", ["table2", "fig7"])
def test_the_ledger_of_a_table_is_written_by_reproduce_alone(weights, tmp_path, ledger):
    for command in (("train", "zfnet-64", "--out", tmp_path), ("evaluate", weights)):
        refused = shell(*command, "--record", ledger)
        assert refused.exit_code == 2
        assert f"what `zfcore reproduce {ledger}` writes; give --record another name" in told(refused)


@pytest.mark.parametrize("ledger", ["fig2", "invariance", "maximization", "occlusion", "correspondence"])
def test_the_ledger_of_a_measurement_is_written_by_its_command_alone(weights, ledger):
    refused = shell("evaluate", weights, "--record", ledger)
    assert refused.exit_code == 2
    assert re.search(rf"what `zfcore (measure|sensitivity) {ledger}` writes", told(refused))


def test_a_gallery_of_weights_that_do_not_ship_wants_a_folder(weights):
    refused = shell("features", weights, "--data", "photographs")
    assert refused.exit_code == 2
    assert "does not ship with zfcore" in told(refused)


def test_a_snapshot_of_an_epoch_that_is_not_run_is_refused(tmp_path):
    refused = shell("train", "zfnet-64", "--epochs", 2, "--snapshots", "0,1,7", "--out", tmp_path)
    assert refused.exit_code == 2
    assert "--snapshots of epoch 0, 7; this run has the epochs 1 to 2" in told(refused)


def test_a_snapshot_of_an_epoch_that_a_run_has_behind_it_is_refused(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,seconds\n1,5.0\n2,5.0\n")
    asked = ("train", "zfnet-64", "--data", "patches", "--epochs", 4, "--out", tmp_path)
    refused = shell(*asked, "--snapshots", "1,3")
    assert "no snapshot of epoch 1 was kept; train again in another folder" in str(refused.exception)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_training_is_judged_with_its_workers(tmp_path, monkeypatch):
    seen, real = [], evaluate.errors
    monkeypatch.setattr(evaluate, "errors", lambda *a, **o: seen.append(o["workers"]) or real(*a, **o))
    options = ("--data", "patches", "--shard", "0of200", "--width", 0.1, "--epochs", 1, "--workers", 3)
    assert shell("train", "zfnet-64", *options, "--out", tmp_path).exit_code == 0
    assert seen == [3, 3]
    _, card = model.load(tmp_path / "zfnet-64.safetensors")
    assert card["precision"] == precision_of("auto", "cpu")


@pytest.mark.parametrize(("given", "told_so"), [("tpu9", "is no device"), ("cuda", "has no GPU")])
def test_a_device_that_is_not_here_is_told(weights, monkeypatch, given, told_so):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = shell("evaluate", weights, "--device", given)
    assert refused.exit_code == 2
    assert told_so in told(refused)


def test_torchrun_gives_each_process_its_own_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(typer.BadParameter, match="takes the GPU of its own number, not cuda:1"):
        training._processes("cuda:1").__enter__()


def test_a_class_that_was_not_learned_cannot_be_tested(weights, tmp_path):
    learn, test = pictures(tmp_path / "learn", cat=4, dog=4), pictures(tmp_path / "test", cat=1, dgo=1)
    found = shell("transfer", learn, "--test", test, "--layer", "layer 5", "--weights", weights)
    assert found.exit_code == 1
    assert str(found.exception) == f"{test} has classes that {learn} has not: dgo"


def test_a_table_is_not_run_by_several_processes_at_once(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = shell("reproduce", "table2", "--data", "patches")
    assert refused.exit_code == 2
    assert "runs in one process" in told(refused)


@pytest.mark.parametrize(("recipe", "alpha"), [("paper", 1e-4), ("small", 1e-2)])
def test_the_contrast_norm_fits_the_recipes_inputs(recipe, alpha, tmp_path):
    options = ("--data", "patches", "--shard", "0of50", "--width", 0.1, "--epochs", 1, "--workers", 0)
    trained = shell("train", "zfnet-64", "--recipe", recipe, *options, "--out", tmp_path)
    assert trained.exit_code == 0, trained.output
    network, card = model.load(tmp_path / "zfnet-64.safetensors")
    norms = [module.alpha for module in network.modules() if isinstance(module, model.ContrastNorm)]
    assert {card["alpha"], *norms} == {alpha}


# ------------------------------------------------------------------------------ what is asked for is done
@pytest.mark.parametrize("fill", ["1.5", "noise"])
def test_the_square_is_filled_and_the_map_summed_as_asked(weights, tmp_path, fill):
    photo = pictures(tmp_path, photos=1) / "photos" / "0.png"
    asked = ("--target", 3, "--size", 28, "--stride", 14, "--channel", 2, "--fill", fill, "--seed", 5)
    result = shell("occlude", photo, "--weights", weights, *asked, "--out", tmp_path)
    assert result.exit_code == 0, result.exception
    said = json.loads((tmp_path / "occlusion.json").read_text("utf-8"))
    network, card = model.load(weights)
    [image] = data.to_input([photo], card)
    value = float(fill) if fill == "1.5" else fill
    maps = occlusion_maps(network, image, 3, 28, 14, said["layer"], value, 2, seed=5)
    assert (said["channel"], said["fill"], said["seed"]) == (2, value, 5)
    torch.testing.assert_close(torch.tensor(said["activation"]), maps.activation)
    torch.testing.assert_close(torch.tensor(said["probability"]), maps.probability)


def test_a_layer_to_sum_may_be_given_by_the_papers_number(weights, tmp_path):
    photo = pictures(tmp_path, photos=1) / "photos" / "0.png"
    asked = ("occlude", photo, "--weights", weights, "--size", 28, "--stride", 14, "--out", tmp_path)
    result = shell(*asked, "--layer", "layer 3")
    assert result.exit_code == 0, result.exception
    assert json.loads((tmp_path / "occlusion.json").read_text("utf-8"))["layer"] == "features.9"


@pytest.mark.parametrize(
    "command",
    [
        ("measure", "maximization"),
        ("sensitivity", "occlusion"),
        ("transfer", "."),
        ("top", "--data", "photographs", "--layer", "layer 1", "--feature", 0, "--out", "top"),
        ("maximize", "layer 1", 0, "--out", "x"),
    ],
    ids=lambda command: command[0],
)
def test_what_is_no_device_is_told_in_a_line(command):
    refused = shell(*command, "--device", "gpu")
    assert refused.exit_code == 2
    assert "'gpu' is no device" in refused.output


@pytest.mark.parametrize(
    "command",
    [("measure", "maximization"), ("measure", "invariance"), ("sensitivity", "occlusion")],
    ids=lambda command: command[1],
)
def test_weights_of_ones_own_are_not_measured_for_the_books_ledger(command, weights, monkeypatch):
    monkeypatch.setattr("zfcore.data.data_set", lambda *given: pytest.fail("work was begun"))
    refused = shell(*command, "--weights", weights)
    assert refused.exit_code == 2
    assert "--results" in refused.output


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("measure", "invariance", "--pictures", 20), "20 are fewer"),
        (("measure", "maximization", "--judge", "zfnet-64", "--classes", 2), "2 are fewer"),
        (("measure", "maximization"), "give --judge"),
        (("sensitivity", "occlusion", "--pictures", 20), "20 are fewer"),
    ],
    ids=lambda given: str(given[-1]),
)
def test_a_rehearsal_does_not_begin_in_the_books_ledger(command, words):
    refused = shell(*command)
    assert refused.exit_code == 2
    assert words in " ".join(refused.output.replace("│", " ").split())


def test_a_square_of_another_size_is_no_rehearsal(monkeypatch):
    monkeypatch.setattr("zfcore.sensitivity.occlusion_entries", lambda *given: [])
    assert shell("sensitivity", "occlusion", "--size", 28, "--pictures", 100).exit_code == 0
    assert shell("sensitivity", "occlusion", "--size", 14, "--pictures", 100).exit_code == 2


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("claims", "--verdict", "nonsense"), "no claim is so; verdicts: "),
        (("claims", "--results", "nowhere"), "no folder nowhere of a ledger"),
        (("reproduce", "table9", "--data", "patches"), "known: fig4, fig5, fig7, table1"),
        (("top", "--layer", "layer 1", "--feature", 0, "--out", "top", "--data", "nope"), "nor photographs"),
        (("project", "a.png", "--layer", "layer 1", "--feature", 0, "--out", "file"), "is a file"),
        (("transfer", ".", "--out", "."), "is a directory"),
        (
            ("train", "zfnet-64", "--data", "patches", "--out", "runs", "--rate", "nan"),
            "rate is 0 or a number above it",
        ),
        (("train", "zfnet-64", "--data", "patches", "--out", "runs", "--width", -1), "width multiplies"),
        (("train", "zfnet-64", "--data", "patches", "--out", "file"), "is a file"),
        (("occlude", "a.png", "--fill", "nan", "--out", "o"), "a finite number; got nan"),
    ],
    ids=lambda given: " ".join(map(str, given)) if isinstance(given, tuple) else "",
)
def test_what_cannot_be_done_is_told_before_the_work(command, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    refused = shell(*command)
    assert refused.exit_code != 0
    said = refused.output + str(refused.exception)
    assert words in " ".join(said.replace("│", " ").split())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.safetensors", b"", "a.safetensors holds no state_dict"),
        ("a.pt", b"text", "a.pt holds no state_dict"),
        ("card.json", b"", "card.json is no JSON"),
        ("card.json", b"[1]", "card.json holds no card"),
    ],
)
def test_a_page_of_damaged_files_names_them(name, content, words, tmp_path):
    pictures(tmp_path, photos=1)
    (tmp_path / name).write_bytes(content)
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Sequential()\n")
    option = "--card" if name == "card.json" else "--weights"
    asked = ("--pictures", tmp_path / "photos", "--out", tmp_path / "page.html")
    refused = shell("page", f"{tmp_path / 'net.py'}:make", *asked, option, tmp_path / name)
    assert isinstance(refused.exception, ValueError)
    assert words in str(refused.exception)


def test_the_climb_has_the_size_the_step_and_the_noise_that_are_asked_for(weights, tmp_path):
    asked = ("--size", 40, "--step", 0.3, "--seed", 7, "--iterations", 2)
    result = shell("maximize", "layer 1", 1, "--weights", weights, *asked, "--out", tmp_path)
    assert result.exit_code == 0, result.exception
    said = json.loads((tmp_path / "maximize.json").read_text("utf-8"))
    recipe = dataclasses.replace(REGULARISED, iterations=2, step=0.3)
    found = maximize(model.load(weights)[0], said["layer"], [1], 40, recipe=recipe, seed=7)
    assert (said["recipe"], said["seed"]) == (dataclasses.asdict(recipe), 7)
    np.testing.assert_allclose(said["history"], found.history, rtol=1e-4)


def test_a_climb_may_end_when_it_hardly_rises(weights, tmp_path):
    steps = []
    for tolerance in (0, 10):
        asked = ("--weights", weights, "--iterations", 30, "--tolerance", tolerance)
        assert shell("maximize", "layer 1", 1, *asked, "--out", tmp_path).exit_code == 0
        [history] = json.loads((tmp_path / "maximize.json").read_text("utf-8"))["history"]
        steps.append(len(history) - 1)
    assert steps == [30, 20]  # the means of two times ten steps are compared


def test_the_strongest_pictures_are_sought_in_the_split_that_is_asked_for(weights, tmp_path, monkeypatch):
    splits = {name: patches("val").take(torch.arange(20)) for name in ("train", "val")}
    splits["train"] = dataclasses.replace(splits["train"], files=tuple(f"t{n}" for n in range(20)))
    monkeypatch.setattr(data, "data_set", lambda name, split: splits[split])
    monkeypatch.setenv("ZFCORE_CACHE", str(tmp_path / "cache"))
    asked = ("--data", "patches", "--layer", "layer 1", "--feature", 0, "--k", 3, "--weights", weights)
    for split in splits:
        assert shell("top", *asked, "--split", split, "--out", tmp_path).exit_code == 0
        hits = json.loads((tmp_path / "top.json").read_text("utf-8"))["hits"]
        assert {hit["picture"] for hit in hits} < set(splits[split].files)


def test_the_maps_of_a_gallery_are_drawn_with_the_seed(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("ZFCORE_CACHE", str(tmp_path / "cache"))
    folder, drawn = pictures(tmp_path, photos=2) / "photos", []
    sha256 = model.load(weights)[1]["sha256"]
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        asked = ("features", weights, "--data", folder, "--maps", 2, "--seed", seed)
        assert shell(*asked, "--out", tmp_path / place).exit_code == 0
        walls = Gallery.load(tmp_path / place, "zfnet-64", sha256).layers.values()
        drawn.append([wall.features for wall in walls])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_page_has_the_layers_that_are_asked_for_and_no_classifier(weights, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(page, "save_page", lambda *a, **options: given.append((a[3], options)) or "p.html")
    folder = pictures(tmp_path, photos=1) / "photos"
    asked = ("page", weights, "--pictures", folder, "--out", tmp_path / "p.html")
    assert shell(*asked, "--layer", "features.1", "--layer", "features.5", "--features-only").exit_code == 0
    assert given == [(["features.1", "features.5"], {"features_only": True})]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_training_is_compiled_where_that_is_asked_for(tmp_path, monkeypatch, compiled):
    class BegunError(Exception):
        pass

    def begin(*_, **options):
        raise BegunError(options["compile"])

    monkeypatch.setattr(train, "train", begin)
    asked = ("train", "zfnet-64", "--data", "patches", "--shard", "0of50", "--out", tmp_path)
    result = shell(*asked, *["--compile"] * compiled)
    assert (type(result.exception), result.exception.args) == (BegunError, (compiled,))


def test_a_pack_is_of_the_split_in_the_folder_and_without_the_pictures_that_are_asked_for(tmp_path):
    for name in ("n1", "n2"):
        (tmp_path / "source" / "val" / name).mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (30, 40)).save(tmp_path / "source" / "val" / name / f"{name}_{n}.JPEG")
    (tmp_path / "source" / "val" / "n1" / "n1_1.JPEG").write_bytes(b"no picture")
    asked = ("data", "pack", "imagenet", "--source", tmp_path / "source", "--split", "val", "--workers", 1)
    refused = shell(*asked, "--out", tmp_path / "out")
    assert "n1_1.JPEG" in str(refused.exception)
    packed = shell(*asked, "--out", tmp_path / "out", "--skip-corrupt")
    assert packed.exit_code == 0, packed.exception
    assert "val: 3 pictures of 2 classes in 1 shards" in packed.output
    files = data.PackedPictures.open(tmp_path / "out", "val").files
    assert sorted(file.rpartition("/")[2] for file in files) == ["n1_0.JPEG", "n2_0.JPEG", "n2_1.JPEG"]


def test_parameters_reach_the_chapters_as_what_they_are(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(publish, "publish", lambda *a, **options: given.append((a, options)) or "index.html")
    asked = ("book", "--seed", 3, "-p", "pictures=20", "--parameter", "words=a=b", "-p", "deep=true")
    result = shell(*asked, "--out", tmp_path, "--jobs", 1)
    assert (result.exit_code, result.output.strip()) == (0, "open index.html")
    parameters = {"scale": "embedded", "device": "cpu", "seed": 3, "pictures": 20, "words": "a=b"}
    assert given == [((".", parameters | {"deep": True}), {"out": tmp_path, "jobs": 1})]
    refused = shell("book", "-p", "pictures")
    assert refused.exit_code == 2
    assert "'pictures' is not name=value" in told(refused)


def test_hidden_files_and_folders_are_no_pictures(tmp_path, weights):
    folder = pictures(tmp_path / "mine", cats=3, dogs=3)
    some = next((folder / "cats").iterdir())
    (folder / ".checkpoints").mkdir()
    (folder / ".checkpoints" / some.name).write_bytes(some.read_bytes())
    (folder / "cats" / f"._{some.name}").write_bytes(b"of a Mac")
    (folder / "dogs" / "folder.jpg").mkdir()
    result = shell("transfer", folder, "--weights", weights)
    assert result.exit_code == 0, result.exception
    assert "checkpoints" not in result.output
    assert shell("duplicates", folder, folder).exit_code == 0


@pytest.mark.parametrize("command", ["transfer", "duplicates"])
def test_a_table_that_has_no_folder_is_refused_before_the_work(tmp_path, weights, command, monkeypatch):
    folder = pictures(tmp_path / "mine", cats=2, dogs=2)
    file = next((folder / "cats").iterdir())
    given = {"transfer": (folder, "--weights", weights), "duplicates": (folder, folder)}[command]
    result = shell(command, *given, "--out", file / "table.csv")
    assert result.exit_code == 2
    assert "is no folder" in result.output


def test_one_class_is_told_by_its_name(tmp_path, weights):
    result = shell("transfer", pictures(tmp_path / "mine", cats=3), "--weights", weights)
    assert "has one class, cats" in str(result.exception)


def test_a_damaged_ledger_is_told_before_the_judging(tmp_path, weights):
    (tmp_path / "mine.json").write_text("{")
    result = shell("evaluate", weights, "--record", "mine", "--results", tmp_path)
    assert "mine.json is no JSON" in str(result.exception)
    assert "top-1" not in result.output
    assert shell("evaluate", weights, "--record", "mine", "--results", tmp_path / "mine.json").exit_code == 2


def test_a_parameter_that_is_no_yaml_is_told():
    result = shell("book", "-p", "photograph=[cat")
    assert result.exit_code == 2
    assert "is no YAML" in result.output
