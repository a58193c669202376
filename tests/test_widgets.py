"""The explorers in Lab, moved by setting their widgets' values, beside the twins they write for the page."""

import asyncio
import datetime
import io
import re
from dataclasses import replace
from html import escape

import ipywidgets
import numpy as np
import pytest
import torch
from browser import decoded
from PIL import Image
from samples import CARRIERS, CURVES, grain
from torch import nn

from zfcore import assets, figures, markup, view, widgets
from zfcore import model as models
from zfcore.data import photographs, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.gallery import Crops, Gallery
from zfcore.invariance import warp
from zfcore.model import build, initialize_
from zfcore.occlusion import occlusion_maps
from zfcore.widgets import (
    ClassExplorer,
    FeatureExplorer,
    InvarianceExplorer,
    MaximizationExplorer,
    OcclusionExplorer,
    PhotoExplorer,
)

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


@pytest.fixture
def explorer(network):
    return PhotoExplorer(*network, {name: photographs()[name] for name in NAMES})


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
    grain(64, 64).save(stream, "JPEG")
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


def test_of_the_readers_own_photographs_the_last_one_is_kept(explorer):
    for name in ("mine.png", "yours.png", "chelsea"):
        stream = io.BytesIO()
        Image.new("RGB", (60, 60), (9, 9, 9)).save(stream, "PNG")
        explorer.upload.value = uploaded(name, stream.getvalue())
    assert explorer.photograph.value == "chelsea (2)"  # another photograph has that name
    assert [name for _, name in explorer.photograph.options] == [*NAMES, "chelsea (2)"]
    assert set(explorer._seen) <= set(explorer._pictures) == {*NAMES, "chelsea (2)"}


def test_the_maps_of_a_few_photographs_are_kept(network, monkeypatch):
    monkeypatch.setattr(widgets, "KEPT", 2)
    explorer = PhotoExplorer(*network, {str(n): np.full((60, 60, 3), n, np.uint8) for n in range(4)})
    for n in (1, 2, 3, 0, 3):
        explorer.photograph.value = str(n)
        assert (explorer.frame.seen.square == n).all()
    assert len(explorer._seen) == 2


def test_pictures_given_as_paths_are_called_by_their_names(network, tmp_path):
    Image.new("RGB", (60, 60)).save(tmp_path / "cup.png")
    explorer = PhotoExplorer(*network, {"cup": str(tmp_path / "cup.png")})
    assert explorer.photograph.options == (("cup", "cup"),)


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
    (state,) = assets.states(html)
    assert state["source"]["weights"] == "zfnet-64"
    assert state["source"]["sha256"] == shipped[1]["sha256"]
    assert state["network"].startswith("zfnet-64-")
    assert not state["begin"]
    assert "zfcore.parts" not in html


def test_the_twin_of_any_other_network_carries_it_inside():
    explorer = PhotoExplorer(small().eval(), CARD, {"mine": np.full((70, 80, 3), 90, np.uint8)})
    html = explorer.to_html()
    (state,) = assets.states(html)
    assert state["source"] is None
    assert state["begin"]
    assert f'zfcore.parts["{state["network"]}.0.js"]' in html


def test_the_twin_opens_with_what_the_widgets_show(shipped):
    explorer = PhotoExplorer(*shipped, {name: photographs()[name] for name in NAMES})
    explorer.photograph.value, explorer.layer.value = "coffee", "layer 2"
    explorer.feature.value, explorer.row.value = 90, 3
    html = explorer.to_html()
    (state,) = assets.states(html)
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
    (state,) = assets.states(explorer.to_html())
    assert [photograph["name"] for photograph in state["photographs"]] == ["chelsea"]
    assert state["start"]["photograph"] == "chelsea"


def test_a_network_too_large_for_a_page_goes_there_without_its_classifier(shipped, monkeypatch):
    monkeypatch.setattr(assets, "LARGEST", 1_000_000)
    html = PhotoExplorer(*shipped, {"chelsea": photographs()["chelsea"]}).to_html()
    assert assets.states(html)[0]["source"]["classifier"] is False
    assert markup.WORDS["unjudged"] in html


def test_a_network_too_large_for_a_page_without_its_classifier_as_well_stays_out(shipped, monkeypatch):
    monkeypatch.setattr(assets, "LARGEST", 100_000)
    (state,) = assets.states(PhotoExplorer(*shipped, {"chelsea": photographs()["chelsea"]}).to_html())
    assert state["network"] == ""


def test_what_a_page_does_not_take_of_a_network_does_not_count(shipped, monkeypatch):
    model, card = shipped
    features = sum(weight.numel() for weight in model.features[:3].parameters())
    monkeypatch.setattr(assets, "LARGEST", features)
    viewer = view.Viewer(model, card, {"layer 1": "features.1"}, classifier=False)
    assert assets.fits(viewer)
    assert not assets.fits(view.Viewer(model, card, {"layer 2": "features.5"}, classifier=False))


def test_both_renderings_are_in_one_output_and_a_live_server_gets_no_twin(shipped, monkeypatch):
    explorer = PhotoExplorer(*shipped, {"chelsea": photographs()["chelsea"]})
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"].startswith('<div class="zf-explorer"')
    monkeypatch.setenv("JPY_SESSION_NAME", "book/index.ipynb")
    assert "text/html" not in explorer._repr_mimebundle_()


def test_ten_photographs_stay_below_a_megabyte(shipped):
    html = PhotoExplorer(*shipped, photographs()).to_html()
    assert len(assets.states(html)[0]["photographs"]) == 10
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


# ------------------------------------------------------------------------------ occlusion
SHIPPED = {name: photographs()[name] for name in NAMES}


@pytest.fixture(scope="module")
def narrow(network):
    """The same in a quarter of the width: a scan asks it hundreds of times."""
    torch.manual_seed(0)
    model = build("zfnet-64", width=0.25, num_classes=200).eval()
    initialize_(model, "he")
    return model, network[1]


@pytest.fixture
def occlusion(narrow):
    return OcclusionExplorer(*narrow, SHIPPED)


def test_the_square_is_moved_and_the_network_asked_again(occlusion, narrow):
    model, card = narrow
    occlusion.photograph.value = "coffee"
    occlusion.row.value, occlusion.column.value, occlusion.size.value = 5, 30, 12
    covered = occlusion.covered
    assert (covered.top, covered.left, covered.size) == (7, 32, 12)  # it shrinks around its centre
    x = to_input([SHIPPED["coffee"]], card)
    x[..., 7:19, 32:44] = 0
    with torch.no_grad():
        np.testing.assert_allclose(covered.now[0], model(x).softmax(1)[0], rtol=1e-4, atol=1e-7)
        assert covered.now[1] == pytest.approx(
            model.features[:14](x)[0, covered.channel].sum().item(), rel=1e-4
        )
    assert "hidden at row 7, column 32" in occlusion.picture.value


def test_the_class_is_the_photographs_own_until_another_is_chosen(occlusion):
    assert occlusion.target.value == 0  # chelsea's
    occlusion.target.value = 7
    assert occlusion.covered.target == 7
    assert "probability of word &lt;7&gt;" in occlusion.picture.value


def test_a_scan_ends_with_the_maps_of_python_and_another_square_forgets_them(occlusion, narrow):
    assert occlusion.maps is None
    occlusion.fill.value = "blur"
    occlusion.scan.click()
    x = to_input([SHIPPED["chelsea"]], narrow[1])[0]
    maps = occlusion_maps(narrow[0], x, 0, 16, 2, "features.13", "blur")
    torch.testing.assert_close(occlusion.maps.probability, maps.probability)
    assert torch.equal(occlusion.maps.label, maps.label)
    occlusion.column.value = 3
    assert occlusion.maps is not None
    occlusion.size.value = 20
    assert occlusion.maps is None


def test_a_scan_that_runs_beside_the_kernels_work_can_be_stopped(occlusion):
    async def impatient():
        occlusion.scan.click()
        while occlusion.maps is None:
            await asyncio.sleep(0)
        assert occlusion.scan.description == "Stop"
        occlusion.scan.click()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    asyncio.run(impatient())
    assert occlusion.scan.description == "Scan the whole picture"
    assert occlusion.maps.probability.shape == (6, 6)  # the coarsest of three


def test_a_scan_that_fails_says_so_and_can_be_begun_again(occlusion, monkeypatch):
    def short_of_memory(covered, stride):
        raise MemoryError("too <large>")

    async def watched():
        occlusion.scan.click()
        assert occlusion.scan.description == "Stop"
        while occlusion.scan.description == "Stop":
            await asyncio.sleep(0)

    with monkeypatch.context() as patch:
        patch.setattr(occlusion._viewer, "scan", short_of_memory)
        asyncio.run(asyncio.wait_for(watched(), 60))
    assert "MemoryError: too &lt;large&gt;" in occlusion.message.value
    assert occlusion.maps is None
    asyncio.run(asyncio.wait_for(watched(), 60))
    assert occlusion.maps.probability.shape == (21, 21)
    assert occlusion.message.value == ""


def test_a_stopped_scan_does_not_end_the_one_begun_after_it(occlusion):
    async def hasty():
        occlusion.scan.click()
        while occlusion.maps is None:
            await asyncio.sleep(0)
        for _ in range(2):
            occlusion.scan.click()  # stop, and begin again
        await asyncio.sleep(0)
        assert occlusion.scan.description == "Stop"
        while occlusion.scan.description == "Stop":
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(hasty(), 60))
    assert occlusion.maps.probability.shape == (21, 21)


def test_the_python_of_a_scan_gives_its_maps(occlusion, narrow, monkeypatch):
    monkeypatch.setattr("zfcore.model.load", lambda name: narrow)
    for fill in ("white", "blur"):
        occlusion.fill.value = fill
        names = {}
        exec(occlusion.snippet(), names)
        occlusion.scan.click()
        torch.testing.assert_close(names["maps"].activation, occlusion.maps.activation)


def test_square_and_maps_are_saved(occlusion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    occlusion.scan.click()
    occlusion.save.click()
    (saved,) = tmp_path.iterdir()
    assert saved.name == "chelsea-occluded-at-20-20-size-16.png"
    assert np.asarray(Image.open(saved)).shape == (448, 4 * 464 - 16, 3)


def test_the_twin_of_an_occlusion_explorer_brings_its_maps_along(shipped):
    html = OcclusionExplorer(*shipped, SHIPPED).to_html()
    (state,) = assets.states(html)
    assert state["explorer"] == "occlusion"
    assert state["start"] == {
        "photograph": "chelsea", "top": 20, "left": 20, "size": 16, "fill": "grey", "target": 0
    }  # fmt: skip
    assert html.count('data-do="place"') == 3


def test_the_twin_of_an_occlusion_explorer_shows_what_the_widgets_show(occlusion):
    occlusion.row.value, occlusion.column.value, occlusion.size.value = 5, 30, 12
    occlusion.fill.value, occlusion.target.value = "blur", 7
    wanted = {"top": 7, "left": 32, "size": 12, "fill": "blur", "target": 7}
    for coarse in (False, True):
        if coarse:  # as a scan leaves them that is stopped
            maps = occlusion._viewer.scan(occlusion.covered, 8)
            occlusion._maps = (maps, 8)
            occlusion._show()
        html = occlusion.to_html()
        (state,) = assets.states(html)
        assert state["start"] == {"photograph": "chelsea"} | wanted
        assert state["stride"] == 2
        assert escape(markup.WORDS["covered"].format(**occlusion.covered.words(occlusion._viewer))) in html
    shown = re.search(r'data-panel="activation".*?<img src="([^"]+)".*?viewBox="([^"]+)"', html)
    np.testing.assert_array_equal(decoded(shown[1]), markup.occlusion_panels(maps)["activation"])
    assert shown[2] == "0 0 6 6"  # of six places a side one is marked


def test_the_twin_of_an_invariance_explorer_asks_for_the_class_that_is_chosen(narrow):
    explorer = InvarianceExplorer(*narrow, SHIPPED)
    explorer.shift.value, explorer.target.value = 4, 7
    html = explorer.to_html()
    (state,) = assets.states(html)
    assert state["start"] == {"photograph": "chelsea", "shift": 4, "scale": 1, "rotation": 0, "target": 7}
    assert "probability of word &lt;7&gt;" in html


def test_without_a_classifier_nothing_is_occluded():
    for kind in (OcclusionExplorer, InvarianceExplorer):
        with pytest.raises(ValueError, match="names nothing"):
            kind(small().eval(), CARD, {"mine": np.full((70, 80, 3), 90, np.uint8)})


def test_a_network_too_large_for_a_page_stays_out_where_its_classifier_is_needed(shipped, monkeypatch):
    monkeypatch.setattr(assets, "LARGEST", 1_000_000)
    (state,) = assets.states(InvarianceExplorer(*shipped, SHIPPED).to_html())
    assert state["network"] == ""


# ------------------------------------------------------------------------------ invariance
def test_a_moved_photograph_is_asked_about_again(network):
    model, card = network
    explorer = InvarianceExplorer(model, card, SHIPPED)
    assert [far for *_, far in explorer.moved.distances] == [0, 0]
    explorer.rotation.value, explorer.scale.value, explorer.shift.value = 40, 1.2, -6
    x = to_input([SHIPPED["chelsea"]], card)
    moved = warp(warp(warp(x, "rotate", 40), "scale", 1.2), "translate", -6)
    tapped = Deconvnet(model)
    for _, path, far in explorer.moved.distances:
        before, after = (tapped.activations(pictures, [path])[path] for pictures in (x, moved))
        assert far == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-4)
    assert [name for name, *_ in explorer.moved.distances] == ["layer 1", "layer 7"]
    assert "turned by 40°, enlarged 1.2 times and shifted down by -6 pixels" in explorer.picture.value
    explorer.back.click()
    assert (explorer.moved.shift, explorer.moved.scale, explorer.moved.rotation) == (0, 1, 0)


def test_the_python_of_a_moved_photograph_measures_its_distances(network, monkeypatch):
    monkeypatch.setattr("zfcore.model.load", lambda name: network)
    explorer = InvarianceExplorer(*network, SHIPPED)
    explorer.rotation.value = 90
    *lines, measured = explorer.snippet().strip().splitlines()
    names = {}
    exec("\n".join(lines), names)
    found = eval(measured, names)
    assert [f.item() for f in found.values()] == pytest.approx([far for *_, far in explorer.moved.distances])


# ------------------------------------------------------------------------------ features
@pytest.fixture(scope="module")
def gallery(network):
    """Nine hits of every feature of two layers among a few dozen pieces of photographs."""
    viewer = view.Viewer(*network, {"layer 1": "features.1", "layer 5": "features.13"})
    return Gallery.of(viewer, Crops(SHIPPED, (1.0, 0.5)))


@pytest.fixture
def features(network, gallery):
    return FeatureExplorer(*network, gallery, SHIPPED, crops=gallery)


def test_a_feature_shows_its_nine_hits(features, gallery):
    features.layer.value = "layer 1"
    features.feature.value = 7
    assert features.nine.hits == gallery.hits("layer 1", 7)
    np.testing.assert_array_equal(features.nine.projections, gallery.projections("layer 1", 7))
    assert features.picture.value.count("<img") == 4 * 9 + markup.STRONGEST
    assert features.nine.says() in features.picture.value


def test_features_are_found_by_number_in_turn_at_random_and_by_a_photograph(features, monkeypatch):
    features.feature.value = 127
    features.following.click()
    assert features.feature.value == 0
    features.previous.click()
    assert features.feature.value == 127
    monkeypatch.setattr("random.choice", lambda some: some[-2])
    features.random.click()
    assert features.nine.feature == features.feature.value == 126
    features.photograph.value = "coffee"
    best = [n for _, n in features.strongest.options]
    assert features.feature.value == best[0]
    features.strongest.value = best[4]
    assert features.nine.feature == best[4]


def test_a_feature_that_is_not_shown_gives_way_to_the_nearest(network, gallery):
    walls = [replace(wall, hits={n: wall.hits[n] for n in (3, 11, 40)}) for wall in gallery.layers.values()]
    few = Gallery(walls, gallery.about, gallery._projections, None)
    features = FeatureExplorer(*network, few, SHIPPED, layer="layer 5", feature=11)
    assert features.nine.feature == 11
    features.feature.value = 30
    assert features.feature.value == 40
    assert (
        "layer 5 shows 3 features here, and 30 is none of them; the nearest is 40" in features.message.value
    )
    with pytest.raises(ValueError, match="shows no feature 12"):
        FeatureExplorer(*network, few, SHIPPED, layer="layer 5", feature=12)


def test_a_feature_is_saved_and_its_twin_opens_with_it(features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assets, "KEPT", 3)
    features.feature.value = 64
    features.save.click()
    assert [file.name for file in tmp_path.iterdir()] == ["layer-5-feature-64-nine-strongest.png"]
    (state,) = assets.states(features.to_html())
    assert state["start"]["path"] == "features.13"
    assert state["start"]["feature"] == 64
    assert [len(layer["features"]) for layer in state["gallery"]["layers"]] == [3, 3]
    assert "Gallery.of(" in features.snippet()


def test_beside_a_projection_stands_what_its_feature_looks_for(network, gallery):
    layers = {"layer 1": "features.1", "layer 5": "features.13"}
    explorer = PhotoExplorer(*network, SHIPPED, layers, gallery=gallery)
    explorer.layer.value = "layer 1"
    feature = explorer.feature.value
    assert f"what feature {feature} looks for" in explorer.picture.value
    shown = decoded(re.search(r'data-nine="looks".*?<img src="([^"]+)"', explorer.picture.value)[1])
    assert abs(shown.astype(int) - gallery.projections("layer 1", feature)[0]).max() == 0


def test_every_control_of_every_explorer_says_what_it_is(explorer, occlusion, features, classes, network):
    invariance = InvarianceExplorer(*network, SHIPPED)
    maximization = MaximizationExplorer(*network, SHIPPED, steps=1)
    for some, least in (
        (explorer, 9), (occlusion, 6), (features, 6), (invariance, 6), (maximization, 12), (classes, 3),
    ):  # fmt: skip
        rows = [row.children for row in some.children if isinstance(row, ipywidgets.Box)]
        controls = [control for row in rows for control in row if not isinstance(control, ipywidgets.HTML)]
        assert len(controls) >= least
        assert all(control.description for control in controls)


# ------------------------------------------------------------------------------ classes of another data set
@pytest.fixture
def classes(gallery):
    return ClassExplorer(gallery, CURVES, CARRIERS)


def test_a_class_shows_its_curves_its_words_and_its_features(classes, gallery):
    assert [name for _, name in classes.chosen.options] == ["b<e>e", "ant", "cat"]  # by accuracy
    classes.chosen.value = "ant"
    html = classes.picture.value
    assert (
        "ant, class 2 of 3: after 30 training pictures of each class, 62 % of its test pictures are "
        "recognised (pretrained); after 1, 10 %. Of layer 5, the SVM’s decision for it rests most on "
        "feature 3, feature 7."
    ) in html
    assert "pretrained: 10 % after 1, 40 % after 5, 62 % after 30." in html  # the drawing's text alternative
    assert "feature 3, +0.50" in html


def test_the_projections_of_a_classs_features_are_the_gallerys(gallery):
    explorer = ClassExplorer(gallery, CURVES, CARRIERS, "layer 1")  # small, so they travel without loss
    html = explorer.picture.value
    shown = re.findall(r'<ol class="zf-nine" data-nine="carrier">.*?<img src="([^"]+)"', html)
    for url, feature in zip(shown, (7, 3), strict=True):
        np.testing.assert_array_equal(decoded(url), gallery.projections("layer 1", feature)[0])


def test_the_points_of_a_curve_lie_where_its_accuracies_are(classes):
    _, top, right, bottom = markup.PLOT
    points = [[float(n) for n in place.split(",")] for place in classes.lesson.lines()[0].split()]
    assert points[-1][0] == right
    wanted = [bottom - (bottom - top) * share / 100 for share in (30, 80, 99)]
    assert [y for _, y in points] == pytest.approx(wanted, abs=0.06)
    band = [float(place.split(",")[1]) for place in classes.lesson.bands()[0].split()]
    assert len(band) == 2 * len(points)
    assert min(band) == top  # nothing is above 100 %


def test_the_next_class_is_the_next_worse_and_after_the_last_comes_the_first(classes):
    for name in ("ant", "cat", "b<e>e"):
        classes.following.click()
        assert classes.lesson.name == name
    classes.previous.click()
    assert classes.lesson.name == "cat"


def test_the_twin_of_a_class_explorer_says_the_same(classes):
    classes.chosen.value = "cat"
    html = classes.to_html()
    (state,) = assets.states(html)
    assert state["start"] == 2
    assert state["classes"][2]["says"] in html
    assert classes.lesson.says() == state["classes"][2]["says"]
    assert [lesson["name"] for lesson in state["classes"]] == ["b<e>e", "ant", "cat"]
    assert "b<e>e" not in html  # what a name holds is no markup
    assert [layer["name"] for layer in state["gallery"]["layers"]] == ["layer 5"]


def test_classes_without_curves_or_features_are_told(gallery):
    with pytest.raises(ValueError, match="no curves to show; `zfcore reproduce fig7`"):
        ClassExplorer(gallery, {}, {})
    with pytest.raises(ValueError, match="no features are given for ant, cat"):
        ClassExplorer(gallery, CURVES, {"b<e>e": [(1, 0.5)]})
    with pytest.raises(ValueError, match="no layer 'layer 9'"):
        ClassExplorer(gallery, CURVES, CARRIERS, "layer 9")


def test_a_feature_that_the_gallery_does_not_show_stays_hidden(gallery):
    wall = gallery.wall("layer 5")
    few = Gallery(
        [replace(wall, hits={n: wall.hits[n] for n in (3, 7)})], gallery.about, gallery._projections, None
    )
    explorer = ClassExplorer(few, CURVES, CARRIERS)
    assert "<div hidden" not in explorer.picture.value
    explorer.chosen.value = "cat"
    assert explorer.picture.value.count("<div hidden") == 1
