"""The explorer in Lab, moved by setting its widgets' values, beside the twin it writes for the page."""

import base64
import datetime
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from zfcore import figures, page
from zfcore.data import photographs, squares, to_input
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
        "architecture": "zfnet-64", "input_size": 56, "resize": 64, "scale": 64.0,
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
    return PhotoExplorer(*network, {name: photographs()[name] for name in NAMES}, page_features=2)


def decoded(url):
    blob = base64.b64decode(url.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


def live_panels(explorer):
    return [decoded(src) for src in re.findall(r'<img src="([^"]+)"', explorer.picture.value)]


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
        (explorer.rule, "gradient"),
    ):
        before = explorer.picture.value
        assert widget.value != value
        widget.value = value
        assert explorer.picture.value != before
    assert explorer.feature.value == 7
    assert "A cup of espresso, layer 4, feature 7" in explorer.picture.value


def test_it_shows_what_the_deconvnet_gives_for_the_strongest_unit(explorer, network):
    model, card = network
    explorer.layer.value = "layer 3"
    explorer.feature.value = 11
    picture = to_input([photographs()["chelsea"]], card)
    projection = Deconvnet(model).project(picture, "features.9", 11)[0]
    square, shown, *_, closeup = live_panels(explorer)
    np.testing.assert_array_equal(square, squares([photographs()["chelsea"]], card)[0])
    np.testing.assert_array_equal(shown, figures.stretch(projection))
    frame = explorer.frame("chelsea", "layer 3", 11)
    np.testing.assert_array_equal(closeup, frame.field.cut(shown))
    outside = projection.clone()
    outside[:, frame.field.top : frame.field.bottom, frame.field.left : frame.field.right] = 0
    assert not outside.any()


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
    explorer.feature.value = listed[2]
    assert explorer.strongest.value == listed[2]


def test_previous_and_next_go_round(explorer):
    explorer.layer.value = "layer 1"
    explorer.feature.value = 0
    explorer.previous.click()
    assert explorer.feature.value == 47
    explorer.next.click()
    assert explorer.feature.value == 0


def test_the_network_tells_its_five_best_labels_and_marks_the_true_one(explorer, network):
    model, card = network
    with torch.no_grad():
        p = model(to_input([photographs()["chelsea"]], card)).softmax(1)[0]
    guesses = explorer._look("chelsea").subject.guesses
    assert [words for words, _, _ in guesses] == [card["labels"][i] for i in p.topk(5).indices]
    assert guesses[0][1] == pytest.approx(p.max().item())
    own = [i == 0 for i in p.topk(5).indices.tolist()]
    assert [mine for *_, mine in guesses] == own
    assert explorer.picture.value.count("<li") == 5
    assert "word &lt;" in explorer.picture.value


def test_the_python_it_offers_makes_the_same_projection(explorer, network, monkeypatch):
    monkeypatch.setattr("zfcore.model.load", lambda name: network if name == "zfnet-64" else None)
    explorer.photograph.value, explorer.layer.value, explorer.rule.value = "coffee", "layer 4", "guided"
    lines = explorer.snippet().strip().splitlines()
    assert len(lines) == 6
    names = {}
    exec("\n".join(lines), names)
    np.testing.assert_array_equal(figures.stretch(names["projection"][0]), live_panels(explorer)[1])


# ------------------------------------------------------------------------------ the reader's own photograph
def test_a_photograph_of_the_readers_own_is_shown_to_the_network(explorer):
    mine = np.zeros((40, 90, 3), np.uint8)
    mine[:, 45:] = 200, 30, 10
    stream = io.BytesIO()
    Image.fromarray(mine).save(stream, "PNG")
    explorer.upload.value = uploaded("<b>mine.png", stream.getvalue())
    assert explorer.photograph.value == "<b>mine.png"
    square = live_panels(explorer)[0]
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
        assert (live_panels(explorer)[0] == value).all()
    assert [name for _, name in explorer.photograph.options].count("mine.png") == 1


def test_the_picture_is_saved_beside_the_notebook(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer.save.click()
    (saved,) = tmp_path.iterdir()
    assert saved.name in explorer.message.value
    frame = explorer.frame("chelsea", explorer.layer.value, explorer.feature.value)
    np.testing.assert_array_equal(np.asarray(Image.open(saved)), page.contact_sheet(frame))


def test_a_folder_that_cannot_be_written_is_told_in_words(explorer, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    explorer.save.click()
    assert "no space left" in explorer.message.value


# ------------------------------------------------------------------------------ its twin
def state_of(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1])


def test_the_twin_holds_the_pixels_the_live_one_shows(explorer):
    state = state_of(explorer.to_html())
    for p, photograph in enumerate(NAMES):
        explorer.photograph.value = photograph
        for layer in state["layers"]:
            explorer.layer.value = layer["name"]
            closeups, maps = decoded(layer["closeups"]), decoded(layer["maps"])
            (rows, columns), (high, wide) = layer["grid"], layer["cell"]
            numbers = layer["frames"][p]
            for r, (rule, _) in enumerate(state["rules"]):
                explorer.rule.value = rule
                for k, (feature, _, _, y, x, left, top, right, bottom, _) in enumerate(numbers):
                    explorer.feature.value = feature
                    _, projection, activation, _, closeup = live_panels(explorer)
                    across, down = (r * len(numbers) + k) * wide, p * high
                    cell = closeups[down : down + bottom - top, across : across + right - left]
                    np.testing.assert_array_equal(cell, closeup)
                    np.testing.assert_array_equal(cell, projection[top:bottom, left:right])
                    cell = maps[p * rows :, k * columns :][:rows, :columns]
                    np.testing.assert_array_equal(cell, activation)
                    assert activation[y, x].tolist() == page.colour_map(np.ones((1, 1)))[0, 0].tolist()


def test_the_twin_opens_with_what_the_widgets_show(explorer):
    explorer.photograph.value, explorer.layer.value = "coffee", "layer 2"
    strongest = explorer.feature.value
    explorer.feature.value = (strongest + 50) % 128
    html = explorer.to_html()
    assert explorer.picture.value in html
    features = [numbers[0] for numbers in state_of(html)["layers"][1]["frames"][1]]
    assert features[0] == strongest
    assert features[-1] == explorer.feature.value


def test_both_renderings_are_in_one_output_and_a_live_server_gets_no_twin(explorer, monkeypatch):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"].startswith('<div class="zf-explorer"')
    monkeypatch.setenv("JPY_SESSION_NAME", "book/index.ipynb")
    assert "text/html" not in explorer._repr_mimebundle_()


def test_six_photographs_stay_below_a_megabyte_and_a_half(network):
    explorer = PhotoExplorer(*network, photographs())
    html = explorer.to_html()
    assert len(state_of(html)["subjects"]) == 6
    assert len(html.encode()) <= 1_500_000


# ------------------------------------------------------------------------------ other people's networks
class Functional(nn.Module):
    """Two convolutions with functional ReLUs, and no classifier."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2)

    def forward(self, x):
        return torch.relu(self.two(torch.relu(self.one(x))))


def test_another_network_is_explored_by_its_trace_names(network):
    torch.manual_seed(1)
    card = {key: network[1][key] for key in ("input_size", "resize", "scale", "mean")}
    explorer = PhotoExplorer(Functional().eval(), card, {"mine": np.full((70, 80, 3), 90, np.uint8)})
    assert explorer.layer.options == ("relu", "relu_1")
    assert explorer.feature.max == 4
    assert explorer._look("mine").subject.guesses == ()
    assert "network, card" in explorer.snippet()
    assert 'class="zf-explorer"' in explorer.to_html()


def test_layers_are_chosen_by_path_or_by_a_name_of_ones_own(network):
    shipped = {"chelsea": photographs()["chelsea"]}
    assert PhotoExplorer(*network, shipped, ["features.4"]).layer.options == ("features.4",)
    explorer = PhotoExplorer(*network, shipped, {"early": "features.1", "late": "features.13"})
    assert explorer.layer.options == ("early", "late")
    assert explorer.frame("chelsea", "features.13", 3) is explorer.frame("chelsea", "late", 3)


def test_what_cannot_be_explored_is_an_error_that_says_what_to_do(network, explorer):
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
    with pytest.raises(ValueError, match="layer 5"):
        explorer.frame("chelsea", "layer 9", 0)
    with pytest.raises(ValueError, match="0 to 47"):
        explorer.frame("chelsea", "layer 1", 48)


def test_every_control_says_what_it_is(explorer):
    for control in (explorer.photograph, explorer.layer, explorer.strongest, explorer.feature, explorer.rule,
                    explorer.upload, explorer.previous, explorer.next, explorer.save):  # fmt: skip
        assert control.description
