"""The explorer in Lab, moved by setting its widgets' values, beside the twin it writes for the page."""

import base64
import datetime
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from zfcore import figures, page, view
from zfcore import model as models
from zfcore.data import photographs, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.model import build, initialize_
from zfcore.widgets import PhotoExplorer

NAMES = ("chelsea", "coffee")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = build("zfnet-64").eval()
    initialize_(model, "he")
    card = {
        "architecture": "zfnet-64", "num_classes": 200, "input_size": 56, "resize": 64, "scale": 64.0,
        "mean": torch.full((3, 64, 64), 118.0),
        "classes": ["n02124075", *(f"n{i:08d}" for i in range(1, 200))],
        "labels": [f"word <{i}>" for i in range(200)],
    }  # fmt: skip
    return model, card


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)


@pytest.fixture
def explorer(network):
    return PhotoExplorer(*network, {name: photographs()[name] for name in NAMES})


def decoded(url):
    blob = base64.b64decode(url.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


def live_panels(explorer):
    """The pictures of the chosen unit as the widget shows them, by panel."""
    found = re.findall(r'data-panel="(\w+)".*?<img src="([^"]+)"', explorer.picture.value)
    return {name: decoded(src) for name, src in found}


def uploaded(name, blob):
    """What the browser sends when a reader picks a file."""
    when = datetime.datetime(2014, 9, 6, tzinfo=datetime.UTC)
    size, content = len(blob), memoryview(blob)
    return ({"name": name, "type": "image/png", "size": size, "content": content, "last_modified": when},)


def test_every_choice_changes_the_picture_and_its_words(explorer):
    explorer.layer.value = "layer 2"
    for widget, value in (
        (explorer.photograph, "coffee"),
        (explorer.layer, "layer 4"),
        (explorer.feature, 7),
        (explorer.row, 2),
        (explorer.column, 11),
    ):
        before = explorer.picture.value
        widget.value = (value + 1) if widget.value == value else value
        assert explorer.picture.value != before
    assert explorer.feature.value == 7
    assert "A cup of espresso, layer 4, feature 7: the unit at row 2, column 11" in explorer.picture.value


def test_it_opens_a_feature_at_its_strongest_unit_and_comes_back_there(explorer, network):
    model, card = network
    explorer.layer.value = "layer 3"
    explorer.feature.value = 11
    picture = to_input([photographs()["chelsea"]], card)
    projection = figures.stretch(Deconvnet(model).project(picture, "features.9", 11)[0])
    for _ in range(2):
        np.testing.assert_array_equal(explorer.frame.projections["deconvnet"], projection)
        explorer.row.value = (explorer.row.value + 5) % 14
        assert not np.array_equal(explorer.frame.projections["deconvnet"], projection)
        explorer.strongest_unit.click()
    panels = live_panels(explorer)
    assert list(panels) == list(explorer.frame.panels())
    for name, pixels in explorer.frame.panels().items():
        if name != "photograph":  # which is sent lossy
            np.testing.assert_array_equal(panels[name], pixels)


def test_the_list_holds_the_strongest_features_and_choosing_one_shows_it(explorer, network):
    model, card = network
    explorer.layer.value = "layer 5"
    with torch.no_grad():
        peaks = model.features[:14](to_input([photographs()["chelsea"]], card)).amax((2, 3))[0]
    best = [n for _, n in explorer.strongest.options]
    assert best == sorted(range(128), key=lambda n: (-peaks[n].item(), n))[:8]
    assert explorer.feature.value == best[0]
    explorer.strongest.value = best[3]
    assert explorer.feature.value == best[3]
    assert f"feature {best[3]}:" in explorer.picture.value


def test_a_feature_typed_in_that_is_not_listed_leaves_the_list_without_a_choice(explorer):
    listed = [n for _, n in explorer.strongest.options]
    other = next(n for n in range(100) if n not in listed)
    explorer.feature.value = other
    assert explorer.strongest.value is None
    assert explorer.frame.feature == other
    explorer.feature.value = listed[2]
    assert explorer.strongest.value == listed[2]


def test_the_five_best_labels_are_shown_and_the_true_one_marked(explorer, network):
    model, card = network
    with torch.no_grad():
        p = model(to_input([photographs()["chelsea"]], card)).softmax(1)[0]
    labels = re.findall(r"<li[^>]*><span>([^<]*)</span>", explorer.picture.value)
    own = p.argsort(descending=True).tolist().index(0)
    wanted = [f"word &lt;{i}&gt;{' (right)' if i == 0 else ''}" for i in p.topk(5).indices.tolist()]
    assert labels == wanted
    assert explorer.picture.value.count("zf-own") == (own < 5)


def test_the_python_it_offers_makes_the_same_projection(explorer, network, monkeypatch):
    monkeypatch.setattr("zfcore.model.load", lambda name: network if name == "zfnet-64" else None)
    explorer.photograph.value, explorer.layer.value, explorer.row.value = "coffee", "layer 4", 3
    names = {}
    exec(explorer.snippet(), names)
    shown = explorer.frame.projections["deconvnet"]
    np.testing.assert_array_equal(figures.stretch(names["projection"][0]), shown)


# ------------------------------------------------------------------------------ the reader's own photograph
def test_a_photograph_of_the_readers_own_is_shown_to_the_network(explorer):
    mine = np.zeros((40, 90, 3), np.uint8)
    mine[:, 45:] = 200, 30, 10
    stream = io.BytesIO()
    Image.fromarray(mine).save(stream, "PNG")
    explorer.upload.value = uploaded("<b>mine.png", stream.getvalue())
    assert explorer.photograph.value == "<b>mine.png"
    square = explorer.frame.seen.square
    assert square[28, 5].tolist() == [0, 0, 0]
    assert square[28, 50].tolist() == [200, 30, 10]
    assert "<b>mine" not in explorer.picture.value
    assert '"<b>mine.png"' in explorer.snippet() or "'<b>mine.png'" in explorer.snippet()
    assert explorer.message.value == ""


def cut_short():
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "JPEG")
    return stream.getvalue()[:900]


BROKEN = {
    "text": b"no picture at all",
    "empty": b"",
    "header": b"\x89PNG\r\n\x1a\n" + b"\0" * 60,
    "cut": cut_short(),
}


@pytest.mark.parametrize("blob", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_told_in_words_and_the_picture_stays(explorer, blob):
    before = explorer.picture.value
    explorer.upload.value = uploaded("<i>holiday.jpg", blob)
    assert "cannot be shown" in explorer.message.value
    assert "&lt;i&gt;holiday.jpg" in explorer.message.value
    assert "Traceback" not in explorer.message.value
    assert explorer.picture.value == before
    explorer.layer.value = "layer 1"
    assert explorer.message.value == ""


def test_the_same_name_again_is_another_picture(explorer):
    for value in (10, 240):
        stream = io.BytesIO()
        Image.new("RGB", (60, 60), (value,) * 3).save(stream, "PNG")
        explorer.upload.value = uploaded("mine.png", stream.getvalue())
        assert (explorer.frame.seen.square == value).all()
    assert [name for _, name in explorer.photograph.options].count("mine.png") == 1


def test_the_picture_is_saved_beside_the_notebook(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer.save.click()
    (saved,) = tmp_path.iterdir()
    assert saved.name in explorer.message.value
    np.testing.assert_array_equal(np.asarray(Image.open(saved)), view.contact_sheet(explorer.frame))


def test_a_folder_that_cannot_be_written_is_told_in_words(explorer, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    explorer.save.click()
    assert "no space left" in explorer.message.value


# ------------------------------------------------------------------------------ its twin
@pytest.fixture
def shipped(network, tmp_path, monkeypatch):
    """The network as one that ships with the package."""
    model, card = network
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    models.save(tmp_path / "zfnet-64.safetensors", model, card["mean"], card)
    return models.load("zfnet-64")


def test_the_twin_of_a_network_that_ships_refers_to_it_by_name_and_digest(shipped):
    explorer = PhotoExplorer(*shipped, {"chelsea": photographs()["chelsea"]})
    html = explorer.to_html()
    (state,) = page.states(html)
    assert state["source"]["weights"] == "zfnet-64"
    assert state["source"]["sha256"] == shipped[1]["sha256"]
    assert state["network"].startswith("zfnet-64-")
    assert not state["begin"]
    assert "zfcore.parts" not in html


def test_the_twin_of_any_other_network_carries_it_inside():
    explorer = PhotoExplorer(small().eval(), CARD, {"mine": np.full((70, 80, 3), 90, np.uint8)})
    html = explorer.to_html()
    (state,) = page.states(html)
    assert state["source"] is None
    assert state["begin"]
    assert f'zfcore.parts["{state["network"]}.0.js"]' in html


def test_the_twin_opens_with_what_the_widgets_show(shipped):
    explorer = PhotoExplorer(*shipped, {name: photographs()[name] for name in NAMES})
    explorer.photograph.value, explorer.layer.value = "coffee", "layer 2"
    explorer.feature.value, explorer.row.value = 90, 3
    html = explorer.to_html()
    (state,) = page.states(html)
    column = explorer.column.value
    assert state["start"] == {
        "photograph": "coffee",
        "path": "features.5",
        "feature": 90,
        "unit": [3, column],
    }
    assert explorer.frame.says() in html
    for name, pixels in explorer.frame.panels().items():
        if name != "photograph":
            assert view.data_url(view.as_webp(pixels)) in html


def test_the_readers_uploads_are_not_in_the_twin(shipped):
    explorer = PhotoExplorer(*shipped, {"chelsea": photographs()["chelsea"]})
    stream = io.BytesIO()
    Image.new("RGB", (60, 60)).save(stream, "PNG")
    explorer.upload.value = uploaded("mine.png", stream.getvalue())
    (state,) = page.states(explorer.to_html())
    assert [photograph["name"] for photograph in state["photographs"]] == ["chelsea"]
    assert state["start"]["photograph"] == "chelsea"


def test_a_network_too_large_for_a_page_goes_there_without_its_classifier(shipped, monkeypatch):
    monkeypatch.setattr(page, "LARGEST", 1_000_000)
    html = PhotoExplorer(*shipped, {"chelsea": photographs()["chelsea"]}).to_html()
    assert page.states(html)[0]["source"]["classifier"] is False
    assert page.WORDS["unjudged"] in html


def test_both_renderings_are_in_one_output_and_a_live_server_gets_no_twin(shipped, monkeypatch):
    explorer = PhotoExplorer(*shipped, {"chelsea": photographs()["chelsea"]})
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"].startswith('<div class="zf-explorer"')
    monkeypatch.setenv("JPY_SESSION_NAME", "book/index.ipynb")
    assert "text/html" not in explorer._repr_mimebundle_()


def test_ten_photographs_stay_below_a_megabyte(shipped):
    html = PhotoExplorer(*shipped, photographs()).to_html()
    assert len(page.states(html)[0]["photographs"]) == 10
    assert len(html.encode()) <= 1_000_000


# ------------------------------------------------------------------------------ other people's networks
CARD = {"input_size": 24, "resize": 28, "scale": 64.0, "mean": [118.0, 117.0, 116.0]}


def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU())


def test_another_network_is_explored_by_its_trace_names():
    explorer = PhotoExplorer(small().eval(), CARD, {"mine": np.full((70, 80, 3), 90, np.uint8)})
    assert explorer.layer.options == ("1", "3")
    assert explorer.feature.max == 4
    assert "<ol></ol>" in explorer.picture.value
    assert "network, card" in explorer.snippet()


def test_layers_are_chosen_by_path_or_by_a_name_of_ones_own(network):
    shipped = {"chelsea": photographs()["chelsea"]}
    assert PhotoExplorer(*network, shipped, ["features.4"]).layer.options == ("features.4",)
    explorer = PhotoExplorer(*network, shipped, {"early": "features.1", "late": "features.13"})
    assert explorer.layer.options == ("early", "late")


def test_what_cannot_be_explored_is_an_error_that_says_what_to_do(network):
    model, card = network
    shipped = {"chelsea": photographs()["chelsea"]}
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        PhotoExplorer(build("zfnet-64").train(), card, shipped)
    with pytest.raises(ValueError, match="no photographs"):
        PhotoExplorer(model, card, {})
    with pytest.raises(ValueError, match="feature maps"):
        PhotoExplorer(model, card, shipped, ["classifier.1"])
    with pytest.raises(ValueError, match=r"features\.1"):
        PhotoExplorer(model, card, shipped, ["features.99"])


def test_every_control_says_what_it_is(explorer):
    for control in (explorer.photograph, explorer.layer, explorer.strongest, explorer.feature, explorer.row,
                    explorer.column, explorer.strongest_unit, explorer.upload, explorer.save):  # fmt: skip
        assert control.description
