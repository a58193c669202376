"""What a chapter opens with, at small weights made here."""

import json
import xml.etree.ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from zfcore import book as room
from zfcore import model
from zfcore.book import SCALES, open_book
from zfcore.data import photographs, to_input
from zfcore.gallery import Gallery, GalleryError


@pytest.fixture(autouse=True)
def small_weights(tmp_path, monkeypatch):
    """Random weights of the right shape in place of the package's."""
    monkeypatch.setattr(model, "WEIGHTS", tmp_path / "weights")
    torch.manual_seed(0)
    network = model.build("zfnet-64", num_classes=3, width=0.1)
    card = {
        "architecture": "zfnet-64",
        "width": 0.1,
        "num_classes": 3,
        "input_size": 56,
        "resize": 64,
        "scale": 64.0,
        "classes": ["a", "b", "c"],
        "labels": ["cat", "cup", "rocket"],
        "data": "tiny-imagenet",
        "epochs": 2,
        "error": {"one crop": {"top1": 51.04, "top5": 26.96}},
    }
    model.save(tmp_path / "weights" / "zfnet-64.safetensors", network, torch.full((3, 64, 64), 118.0), card)


@pytest.fixture(autouse=True)
def plain_style():
    with mpl.rc_context():
        yield
    plt.close("all")


def test_the_embedded_scale_needs_nothing_but_the_installed_packages(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZFCORE_DATA", str(tmp_path / "nowhere"))
    book = open_book()
    assert not book.model.training
    assert book.model(torch.zeros(1, 3, 56, 56)).shape == (1, 3)
    assert book.photographs["chelsea"].pixels.dtype == np.uint8
    assert book.pictures is None


def test_layers_are_the_relus_after_the_convolutions():
    book = open_book()
    modules = dict(book.model.named_modules())
    assert list(book.layers) == [f"layer {n}" for n in range(1, 6)]
    assert all(isinstance(modules[path], torch.nn.ReLU) for path in book.layers.values())


def test_an_unknown_scale_lists_the_scales():
    with pytest.raises(ValueError, match=r"unknown scale 'huge'; known: embedded, tiny, imagenet"):
        open_book(scale="huge")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_an_unknown_device_lists_the_devices(device):
    with pytest.raises(ValueError, match=rf"no device '{device}' on this machine; there is: cpu"):
        open_book(device=device)


def test_missing_data_are_an_error_and_never_something_smaller(monkeypatch, tmp_path):
    monkeypatch.setenv("ZFCORE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="zfcore data get tiny-imagenet"):
        open_book(scale="tiny")


def test_missing_public_weights_are_an_error_that_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("ZFCORE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="zfcore weights get zfnet"):
        open_book(scale="imagenet")


@pytest.mark.parametrize("seed", ["abc", -1, 1.5])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="a seed is a whole number from 0"):
        open_book(seed=seed)


def test_layers_go_by_the_papers_number_or_by_their_path():
    book = open_book()
    assert book.layer("layer 5") == book.layer("features.13") == ("layer 5", "features.13")
    assert book.layer("features.12") == ("features.12", "features.12")
    with pytest.raises(ValueError, match=r"no layer 'layer 9'; there are layer 1, .*, or a module's path"):
        book.layer("layer 9")
    assert book.layer("layer 1", 3) == ("layer 1", book.layers["layer 1"])
    for number in (4, -1):
        with pytest.raises(ValueError, match=rf"layer 1 has the feature maps 0 to 3; got {number}"):
            book.layer("layer 1", number)


def test_a_photograph_has_the_class_it_shows_or_the_one_it_is_taken_for():
    book = open_book()
    book.card["classes"] = [book.photograph("coffee").wnid, "n0", "n1"][: len(book.card["labels"])]
    assert book.class_of("coffee") == 0
    x = to_input([book.photograph("astronaut")], book.card)
    assert book.class_of("astronaut") == book.model(x).softmax(1).argmax()


def test_a_file_is_no_folder_for_figures(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="out is a folder"):
        open_book(out=tmp_path / "file")


def test_the_seed_decides_what_follows():
    draws = [(open_book(seed=seed), torch.rand(1).item())[1] for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_the_face_says_what_made_the_page():
    book = open_book(seed=5)
    face = book.face().data
    facts = ["embedded", SCALES["embedded"].pictures, "zfnet-64", "51.0 %", "27.0 %", "cpu", "seed 5"]
    assert not [fact for fact in [*facts, book.card["sha256"][:12], torch.__version__] if fact not in face]


def test_the_face_of_a_chapter_with_other_networks_names_those():
    face = open_book().face("four, from the ledger").data
    assert "four, from the ledger" in face
    assert torch.__version__ in face
    assert "zfnet-64" not in face


def test_a_label_is_the_word_of_a_class():
    assert open_book().label(1) == "cup"


def test_prose_takes_its_numbers_from_values():
    said = open_book().say("It is **{error:.1f} %** of {{x}}.", error=51.04)
    assert said.data == "It is **51.0 %** of {x}."


@pytest.mark.parametrize("values", [{}, {"error": 1.0, "spare": 2.0}], ids=["missing", "unused"])
def test_prose_and_values_must_fit(values):
    with pytest.raises(ValueError, match="the text uses error, given are"):
        open_book().say("It is {error:.1f}.", **values)


def test_a_table_is_markdown_and_even():
    table = open_book().table(["", "here"], [("network", 1), ("error", "2 %")])
    assert table.data == "|  | here |\n| --- | --- |\n| network | 1 |\n| error | 2 % |"
    with pytest.raises(ValueError, match="the head has 1 cells, and a row has 2"):
        open_book().table(["a"], [(1, 2)])


def test_numbers_are_set_as_in_print_outside_of_code_and_formulas():
    book = open_book()
    said = book.say("{a:+.1f} (-0.5 to .3), {b:.0%} of `x -1 5%` and $2^{{-3}}$, zfnet-64", a=-2, b=0.5).data
    assert said == "−2.0 (−0.5 to .3), 50 % of `x -1 5%` and $2^{-3}$, zfnet-64"
    assert book.table(["a"], [("-1 to 2%",)]).data.endswith("| −1 to 2 % |")


def test_what_is_kept_can_be_read_again(tmp_path):
    book = open_book(out=tmp_path / "out")
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    book.keep("line", figure, error=0.25, maps=torch.ones(2, 2), best=np.float32(1.5), who="ä", none=np.nan)
    assert xml.etree.ElementTree.parse(tmp_path / "out" / "line.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "out" / "line.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((tmp_path / "out" / "line.json").read_text(encoding="utf-8"))
    assert kept == {"error": 0.25, "maps": [[1, 1], [1, 1]], "best": 1.5, "who": "ä", "none": None}


def test_the_same_drawing_gives_the_same_file(tmp_path):
    book = open_book(out=tmp_path)
    for name in ("a", "b"):
        figure, axes = plt.subplots()
        axes.fill_between([0, 1], [0, 1])  # clipped: its clip path has an id
        book.keep(name, figure)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_book().keep("line", error=1)
    assert not [path for path in tmp_path.iterdir() if path.name != "weights"]


def test_a_kept_name_stays_inside_the_folder(tmp_path):
    with pytest.raises(ValueError, match="cannot name a file"):
        open_book(out=tmp_path).keep("../line", error=1)


def test_the_ledger_is_read_by_row_and_says_what_it_has(monkeypatch):
    entries = [{"row": "a", "seed": 0}, {"row": "b", "seed": 1}]
    monkeypatch.setattr(
        room, "find", lambda name, **sought: [e for e in entries if sought.items() <= e.items()]
    )
    book = open_book()
    assert book.ledger("table1", row="b") == entries[1:]
    with pytest.raises(ValueError, match="'table1' has no entry with row='c'; it has: a, b"):
        book.ledger("table1", row="c")


# ------------------------------------------------------------------------------ Fig. 2
def test_the_crops_are_found_once(monkeypatch, tmp_path):
    monkeypatch.setenv("ZFCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room, "photographs", lambda: {"chelsea": photographs()["chelsea"]})
    found = open_book().crops()
    [file] = (tmp_path / "cache").iterdir()
    written = file.stat().st_mtime_ns
    again = open_book().crops()
    assert file.stat().st_mtime_ns == written
    for name, wall in found.layers.items():
        assert again.layers[name].hits == wall.hits
        assert all(hit.label == "Chelsea the cat" for hit in filter(None, wall.hits[0]))


def test_a_gallery_of_other_weights_is_not_shown(monkeypatch, tmp_path):
    book = open_book()
    gallery = Gallery.of(book.viewer(), {"chelsea": book.photographs["chelsea"]})
    monkeypatch.setattr(room, "GALLERIES", tmp_path / "top9")
    with pytest.raises(FileNotFoundError, match="Make it again with `zfcore features`"):
        book.gallery()
    gallery.save(tmp_path / "top9", "zfnet-64")
    assert list(book.gallery().layers) == list(book.layers)
    gallery.about["weights_sha256"] = "0" * 64
    gallery.save(tmp_path / "top9", "zfnet-64")
    with pytest.raises(GalleryError, match="shows the weights 000000000000"):
        book.gallery()


def test_the_chosen_photograph_comes_first_be_it_the_readers_own(tmp_path):
    book, mine = open_book(), tmp_path / "mine.png"
    Image.fromarray(np.full((9, 12, 3), 7, np.uint8)).save(mine)
    assert next(iter(book.beginning_with("rocket"))) == "rocket"
    assert sorted(book.beginning_with("rocket")) == sorted(book.photographs)
    own = book.beginning_with(str(mine))
    assert next(iter(own)) == "mine.png"
    assert own["mine.png"].shape == (9, 12, 3)
    assert len(own) == len(book.photographs) + 1
    assert np.array_equal(book.photograph(str(mine)), own["mine.png"])
    assert book.class_of(str(mine)) in range(len(book.card["labels"]))


def test_a_photograph_that_is_missing_or_damaged_is_told(tmp_path):
    book, cut = open_book(), tmp_path / "cut.png"
    with pytest.raises(
        FileNotFoundError, match=r"no photograph 'chelse': give a picture file, or one of .*chelsea"
    ):
        book.beginning_with("chelse")
    Image.fromarray(photographs()["chelsea"].pixels).save(cut)
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.png"):
        book.beginning_with(str(cut))
