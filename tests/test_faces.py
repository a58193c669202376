"""Marked faces: what is cut out, where the squares lie, and what goes into the ledger."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zfcore import faces as marked
from zfcore.cli import app
from zfcore.correspondence import correspondence
from zfcore.data import photographs, to_input
from zfcore.faces import Faces, faces, summary
from zfcore.ledger import RESULTS, read
from zfcore.model import load

pytestmark = pytest.mark.usefixtures("one_thread")
MARKS = json.loads((RESULTS / "marks" / "faces.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------ the marks
def test_every_set_of_caltech_has_twenty_faces_at_least():
    assert all(len(MARKS["sets"][name]) >= 20 for name in marked.SETS)


@pytest.mark.parametrize("name", MARKS["sets"])
def test_marks_lie_as_they_do_on_a_face_seen_from_the_front(name):
    for file, ((lx, ly), (rx, ry), (nx, ny)) in MARKS["sets"][name].items():
        assert 0 < lx < rx < 1, file
        assert max(ly, ry) < ny < 1, file  # the nose is below the eyes
        distance = rx - lx
        assert lx - 0.7 * distance < nx < rx + 0.7 * distance, file


def test_no_picture_is_marked_twice():
    assert all(len(set(map(str, files.values()))) == len(files) for files in MARKS["sets"].values())


# ------------------------------------------------------------------------------ cutting
def test_a_face_is_cut_to_four_eye_distances_and_keeps_its_marks():
    picture = np.zeros((100, 200, 3), np.uint8)
    places = np.array([[90, 40], [110, 40], [100, 55]])  # x, y: eyes 20 px apart
    for x, y in places:
        picture[y, x] = 255
    square, centres, distance = marked._cut(picture, places / [200, 100])
    assert square.shape == (80, 80, 3)
    assert distance == pytest.approx(20 / 80)
    for y, x in np.rint(centres * 80).astype(int):
        assert square[y, x, 0] == 255


def test_a_face_at_the_edge_or_too_large_stays_inside_its_picture():
    picture = np.zeros((60, 90, 3), np.uint8)
    square, centres, _ = marked._cut(picture, np.array([[2, 10], [40, 10], [20, 20]]) / [90, 60])
    assert square.shape == (60, 60, 3)
    np.testing.assert_allclose(centres[0] * 60, [10, 2])


def test_squares_lie_on_the_parts_as_the_network_sees_them():
    card = {"resize": 64, "input_size": 56}
    centres = {"nose": np.array([[0.5, 0.5], [0.01, 0.99]])}
    few = Faces("x", [], centres, np.array([0.25, 0.01]), ("a", "b"), "")
    # 0.55 · 16 = 9 px around pixel 32 - 4; and 3 px at least, moved inward.
    assert few.boxes(card)["nose"].tolist() == [[24, 24, 9, 9], [0, 53, 3, 3]]


def test_the_photographs_faces_are_there_without_any_data():
    few = faces("photographs")
    assert few.files == ("chelsea", "astronaut", "grace_hopper")
    assert [p.shape[0] == p.shape[1] for p in few.pixels] == [True] * 3
    assert set(few.centres) == {"left eye", "right eye", "nose"}
    assert few.sha256 == faces("photographs").sha256


@pytest.fixture(params=["caltech101", "."])
def caltech(tmp_path, request):
    """Small pictures under the names that are marked, in either place where Caltech's may lie."""
    for name in marked.SETS:
        folder = tmp_path / request.param / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for n, file in enumerate(MARKS["sets"][name]):
            pixels = list(photographs().values())[n % 4].pixels
            Image.fromarray(pixels).resize((70, 70)).save(folder / file)
    return tmp_path


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="zfcore data get caltech101"):
        faces("dalmatian", tmp_path)
    with pytest.raises(ValueError, match="no marked faces 'dogs'; known: cougar_face"):
        faces("dogs", tmp_path)


def test_the_box_around_a_face_holds_its_parts_and_little_more():
    _, card = load("zfnet-64")
    few = faces("photographs")
    around, size = few.around(card), card["input_size"]
    for box in few.boxes(card).values():
        assert (around[:, :2] <= box[:, :2]).all()
        assert (box[:, :2] + box[:, 2:] <= around[:, :2] + around[:, 2:]).all()
    assert (around[:, :2] + around[:, 2:] <= size).all()
    eyes = torch.from_numpy(few.eyes * card["resize"])
    assert (around[:, 3] <= 2 * eyes + 2).all()  # the eyes' distance and half of it on either side


def test_the_box_around_a_face_worked_out_by_hand():
    card = {"resize": 64, "input_size": 56}
    centres = {  # a usual face; one whose eyes are so near that its parts need more; one in a corner
        "left eye": np.array([[0.4, 0.35], [0.51, 0.49], [0.1, 0.8]]),
        "right eye": np.array([[0.4, 0.65], [0.51, 0.51], [0.1, 0.98]]),
        "nose": np.array([[0.6, 0.51], [0.53, 0.505], [0.2, 0.9]]),
    }
    few = Faces("x", [], centres, np.array([0.3, 0.02, 0.18]), ("a", "b", "c"), "")
    # top, left, height, width: the first from 64 · (0.4 - 0.15) - 4 to 64 · (0.6 + 0.15) - 4 down.
    assert few.around(card).tolist() == [[12, 9, 32, 38], [27, 26, 4, 4], [0, 41, 15, 15]]


# ------------------------------------------------------------------------------ the ledger
def test_a_summary_is_of_plain_numbers():
    network, card = load("zfnet-64")
    few = faces("photographs")
    paths = {"layer 5": "features.13", "layer 7": "classifier.4"}
    images, boxes = to_input(few.pixels, card), few.boxes(card)
    found = correspondence(network, images, boxes, list(paths.values()), draws=3, permutations=9)
    values = summary({title: found[path] for title, path in paths.items()})
    assert values == json.loads(json.dumps(values))
    five = values["layer 5"]["every"]
    assert five["delta"]["nose"][0] == pytest.approx(found["features.13"].every.delta["nose"], abs=1e-5)
    assert 0 < five["random"]["nose"][2] <= 1
    difference = five["gain"]["random"][0] - values["layer 7"]["every"]["gain"]["random"][0]
    assert values["layer 5 minus layer 7"]["every"]["random"][0] == pytest.approx(difference, abs=3e-5)


def test_the_shell_writes_an_entry_for_every_set_and_network(caltech, tmp_path, monkeypatch):
    monkeypatch.setenv("ZFCORE_DATA", str(caltech))
    few = {name: dict(list(files.items())[:3]) for name, files in MARKS["sets"].items()}
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "faces.json").write_text(json.dumps({**MARKS, "sets": few}))
    read_marks = marked.faces
    monkeypatch.setattr(marked, "faces", lambda name: read_marks(name, results=tmp_path))
    options = ["--draws", "2", "--results", str(tmp_path / "ledger")]
    result = CliRunner().invoke(app, ["sensitivity", "correspondence", *options])
    assert result.exit_code == 0, result.output
    entries = read("correspondence", tmp_path / "ledger")["entries"]
    rows = {f"{net}, {name}" for net in ("zfnet-64", "zfnet-64, random weights") for name in marked.SETS}
    assert {entry["row"] for entry in entries} == rows
    assert all(a["row"] < b["row"] for a, b in pairwise(entries))
    assert {entry["config"]["trained"]: entry["weights_sha256"] for entry in entries} == {
        True: load("zfnet-64")[1]["sha256"],
        False: None,
    }
    assert torch.tensor([entry["n"] for entry in entries]).unique().tolist() == [3]
    values = {entry["row"]: entry["values"] for entry in entries}
    for name in marked.SETS:
        assert values[f"zfnet-64, {name}"] != values[f"zfnet-64, random weights, {name}"]
