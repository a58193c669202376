"""Pages that compute: packs, the explorer's HTML, and the page of one's own network, opened in Chromium."""

import base64
import fnmatch
import gzip
import io
import json
import re
import struct
import tomllib

import numpy as np
import pytest
import torch
import torchvision
from browser import (
    DROP,
    Reader,
    assert_sheets_alike,
    choose,
    copied,
    decoded,
    drawn,
    drop,
    fits_a_phone_and_breaks_no_rule,
    panels,
    paste,
    saved_picture,
    stops_on_a_phone,
    waiting,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import CARD, LAYERS, PICTURES, grain, small, sound
from torch import nn
from typer.testing import CliRunner

from zfcore import assets, figures, markup, page
from zfcore.cli import app
from zfcore.data import photographs, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.view import Viewer, colour_map, contact_sheet

ROOT = assets.WEB.parents[1]


@pytest.fixture(scope="module")
def viewer():
    return Viewer(small(), CARD, LAYERS)


# ------------------------------------------------------------------------------ packs
def unpacked(scripts):
    """What a page makes of the scripts of an asset."""
    pieces = [re.fullmatch(r'zfcore\.parts\[".*"\]="([\w+/=]*)";\n', text)[1] for text in scripts.values()]
    blob = gzip.decompress(b"".join(map(base64.b64decode, pieces)))
    (length,) = struct.unpack("<I", blob[:4])
    body = blob[4 + length :]
    return {
        name: np.frombuffer(body[at : at + size], np.uint8).reshape(planes, -1).T.tobytes()
        for name, at, size, planes in json.loads(blob[4 : 4 + length])
    }


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.dictionaries(st.sampled_from(["a", "weights.bin", "ü"]), st.binary(max_size=40)))
def test_what_is_packed_comes_out_again_and_the_same_files_give_the_same_bytes(files):
    packed = assets.pack(files)
    assert unpacked(assets.asset("x", packed)) == files
    assert assets.pack(files) == packed


def test_an_asset_comes_in_pieces_that_the_listing_names(monkeypatch):
    monkeypatch.setattr(assets, "PIECE", 30)
    files = {"a": bytes(range(200))}
    scripts = assets.asset("x", assets.pack(files))
    assert len(scripts) > 3
    assert unpacked(scripts) == files
    listing = json.loads(re.search(r"assets, (\{.*\})\);", assets.assets_script({"x": scripts}))[1])
    assert listing["x"]["files"] == list(scripts)
    assert listing["x"]["bytes"] == sum(map(len, scripts.values()))


def test_a_networks_pack_holds_its_graphs_card_and_mean(viewer):
    packed, rounding = assets.network_pack(viewer)
    files = unpacked(assets.asset("x", packed))
    assert rounding == 0  # the weights are half precision already
    assert {"forward.onnx", "project_5.onnx", "project_logits.onnx", "weights.bin"} < set(files)
    assert json.loads(files["card.json"]) == {key: CARD[key] for key in CARD if key != "mean"}
    mean = np.frombuffer(files["mean"], np.float32).reshape(3, 28, 28)
    assert (mean == np.float32([118, 117, 116])[:, None, None]).all()


def test_half_precision_is_told_by_what_it_changes():
    model = small()
    model[0].weight.data[0] = 1 + 2**-12
    model[0].weight.data[1:] /= 100
    before = model[0].weight.clone()
    packed, rounding = assets.network_pack(Viewer(model, CARD))
    assert rounding == pytest.approx(2**-12, rel=1e-2)
    assert torch.equal(model[0].weight, before), "the caller's network was changed"
    assert assets.network_pack(Viewer(model, CARD))[0] == packed
    model[0].weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"'0\.weight' has a weight of 1e\+06"):
        assets.network_pack(Viewer(model, CARD))


def test_without_its_set_up_the_runtime_is_told_how_to_get(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "WEB", tmp_path)
    assets.runtime_pack.cache_clear()
    with pytest.raises(FileNotFoundError, match="npm ci"):
        assets.runtime_pack()
    assets.runtime_pack.cache_clear()


# ------------------------------------------------------------------------------ the explorer's HTML
@pytest.fixture(scope="module")
def frame(viewer):
    return viewer.frame(viewer.look("chelsea", PICTURES["chelsea"]), "layer 2", 4, (3, 11))


@pytest.fixture(scope="module")
def html(viewer, frame):
    return page.explorer_html(viewer, PICTURES, frame, page.snippet(None))


def test_before_the_script_runs_controls_are_disabled_and_the_first_frame_shows(html, frame):
    tags = sound(html).tags
    controls = [a for tag, a in tags if tag in ("button", "input") and a.get("value") not in ("take", "")]
    assert all("disabled" in a for a in controls)
    assert not any("data-on" in a for _, a in tags)
    for name, pixels in frame.panels().items():
        shown = re.search(rf'data-panel="{name}".*?<img src="([^"]+)" alt="([^"]+)"', html)
        assert shown[2].strip()
        assert abs(decoded(shown[1]).astype(int) - pixels).mean() < (3 if name == "photograph" else 1e-9)


def test_the_explorer_asks_for_nothing_has_no_ids_and_labels_every_control(html):
    sound(html)


def test_what_is_shown_is_also_told_in_words(html, frame):
    assert f'<p class="zf-says" aria-live="polite">{frame.says()}</p>' in html
    assert (
        "Chelsea the cat, layer 2, feature 4: the unit at row 3, column 11 of the 14×14 map" in frame.says()
    )


def test_what_the_network_knows_is_listed(html):
    assert "The 4 things this network knows" in html
    assert re.findall(r"<li>([^<]*)</li>", html) == ["hat", "plate", "rocket", "tabby &lt;cat&gt;"]


def test_words_from_outside_cannot_become_markup(viewer):
    evil = "</script><script>alert(1)</script>"
    pictures = {evil: np.zeros((40, 40, 3), np.uint8)}
    start = viewer.first(viewer.look(evil, pictures[evil]))
    text = page.explorer_html(viewer, pictures, start, page.snippet(None))
    assert "<script>alert" not in text
    assert "tabby <cat>" not in text


def test_a_script_for_the_page_leaves_no_name_outside():
    text = assets.script()
    assert text.startswith("(() => {")
    assert "</" not in text
    assert text.count("@ts-check") == len(assets.SCRIPTS)


def test_a_page_without_its_network_wants_no_pictures_and_says_why(browser, viewer, frame, tmp_path):
    html = page.explorer_html(viewer, PICTURES, frame, page.snippet(None), assets.ABSENT)
    file = written(tmp_path / "absent.html", html)
    reader = Reader(browser)
    explorer = reader(file).locator(".zf-explorer[data-on]")
    assert explorer.locator(".zf-status").inner_text() == ""
    drop(explorer, "a.png", OWN["dot.png"])
    explorer.locator(".zf-problem", has_text=markup.WORDS["absent"]).wait_for()
    assert not explorer.get_by_role("button", name="Start the network").is_visible()
    reader.close()


# ------------------------------------------------------------------------------ a page of one's own network
@pytest.fixture(scope="module")
def report(runtime, tmp_path_factory):
    """Two pictures, one network, one file."""
    return page.save_page(
        small(), PICTURES, tmp_path_factory.mktemp("report") / "new" / "report.html",
        layers=LAYERS, card=CARD,
    )  # fmt: skip


def test_what_cannot_become_a_page_is_told_by_name(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Sigmoid(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 2, 3), nn.Sigmoid(), nn.Conv2d(2, 2, 3), nn.ReLU())

    path, grey = tmp_path / "r.html", [np.full((40, 40, 3), 9, np.uint8)]
    with pytest.raises(ValueError, match="no pictures"):
        page.save_page(small(), [], path, card=CARD)
    with pytest.raises(IsADirectoryError, match=r"report\.html"):
        page.save_page(small(), grey, tmp_path, card=CARD)
    with pytest.raises(ValueError, match="cannot be decoded"):
        page.save_page(small(), [io.BytesIO(b"text")], path, card=CARD)
    with pytest.raises(ValueError, match="trace"):
        page.save_page(Branching().eval(), grey, path, card=CARD)
    with pytest.raises(ValueError, match="'1'"):
        page.save_page(Sigmoid().eval(), grey, path, card=CARD)
    with pytest.raises(ValueError, match="4 classes, but 1 labels"):
        page.save_page(small(), grey, path, card=CARD, labels=["one"])
    assert not path.exists()


@pytest.mark.usefixtures("runtime")
def test_pictures_that_share_a_name_are_numbered(tmp_path):
    files = [tmp_path / folder / "1.png" for folder in ("cats", "dogs", "hats")]
    for n, file in enumerate(files):
        file.parent.mkdir()
        Image.new("RGB", (40, 40), (90 * n, 0, 0)).save(file)
    html = page.save_page(small(), files, tmp_path / "r.html", card=CARD).read_text(encoding="utf-8")
    (state,) = assets.states(html)
    assert [photograph["name"] for photograph in state["photographs"]] == ["1.png", "1.png (2)", "1.png (3)"]
    assert len({photograph["square"] for photograph in state["photographs"]}) == 3


@pytest.fixture
def own_network(tmp_path):
    """A reader's file with a function that makes a network, its weights, and a folder of pictures."""
    (tmp_path / "parts.py").write_text("from torch import nn\n\ndef conv(n, m): return nn.Conv2d(n, m, 3)\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom parts import conv\n\n"
        "def make(): return nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5), nn.ReLU())\n"
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
    torch.save(network.state_dict(), tmp_path / "net.pt")
    (tmp_path / "card.json").write_text(
        json.dumps({key: CARD[key] for key in CARD if key not in ("labels", "classes")})
    )
    (tmp_path / "pictures").mkdir()
    Image.fromarray(PICTURES["coffee"].pixels[:90, :120]).save(tmp_path / "pictures" / "cup.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path


def shell(folder, network="net.py:make", pictures="pictures", out="report.html", **options):
    arguments = [
        "page",
        str(folder / network),
        "--pictures",
        str(folder / pictures),
        "--out",
        str(folder / out),
    ]
    for name, value in options.items():
        arguments += [f"--{name}", str(folder / value)]
    return CliRunner().invoke(app, arguments)


@pytest.mark.usefixtures("runtime")
def test_the_shell_makes_a_page_of_a_file_s_network(own_network):
    result = shell(own_network, weights="net.pt", card="card.json")
    assert result.exit_code == 0, result.output
    (state,) = assets.states((own_network / "report.html").read_text(encoding="utf-8"))
    assert [photograph["name"] for photograph in state["photographs"]] == ["cup.png"]
    assert [layer["path"] for layer in state["layers"]] == ["1", "3"]


def test_the_shell_tells_what_is_wrong(own_network):
    (own_network / "none").mkdir()
    for wrong, words in (
        ({"network": "net.py:mak"}, "no function 'mak'; it has: conv, make"),
        ({"pictures": "none"}, "has no pictures"),
        ({"network": "gone.py:make"}, "No such file"),
    ):
        error = shell(own_network, card="card.json", **wrong).exception
        assert words in str(error)
        assert isinstance(error, ValueError | OSError)


def test_a_folder_is_no_place_for_a_page(own_network):
    refused = shell(own_network, out="pictures", card="card.json")
    assert refused.exit_code == 2
    assert "is a directory" in " ".join(refused.output.replace("│", " ").split())
    assert sorted(file.name for file in (own_network / "pictures").iterdir()) == ["cup.png", "notes.txt"]


@pytest.mark.usefixtures("runtime")
def test_the_wheel_brings_what_a_page_is_made_of():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "zfcore"
    ]
    for name in (
        *assets.SCRIPTS,
        *assets.RUNTIME_FILES,
        "explorer.css",
        "report.html",
        "runtime-licence.txt",
    ):
        assert (assets.WEB / name).exists(), name
        assert any(fnmatch.fnmatch(f"web/{name}", pattern) for pattern in patterns), name


@pytest.fixture(scope="module")
def opened(browser, report):
    """The report from disk, with the network cut; opened once, since it starts a network."""
    reader = Reader(browser)
    tab = reader(report, viewport={"width": 1000, "height": 1200})
    drawn(tab.locator(".zf-explorer"))
    tab.evaluate("""async () => {
        const state = JSON.parse(document.querySelector('.zf-state').text);
        window.network = await zfcore.Network.load(state.network);
    }""")
    yield tab
    reader.close()


@pytest.fixture
def explorer(opened):
    return opened.locator(".zf-explorer")


def python_panels(picture, path, feature, unit):
    viewer = Viewer(small(), CARD, ["1", "5", "8"])
    frame = viewer.frame(viewer.look("x", picture), path, feature, unit)
    return frame, frame.panels()


def assert_alike(shown, wanted):
    """Mean difference of at most a grey level, as the eye cannot tell."""
    assert list(shown) == list(wanted)
    for name in wanted:
        assert shown[name].shape == wanted[name].shape, name
        if name != "photograph":
            assert abs(shown[name].astype(int) - wanted[name]).mean() <= 1, name


@pytest.mark.parametrize(("photograph", "path", "feature", "unit"), [
    ("coffee", "5", 7, (2, 9)), ("chelsea", "1", 3, (0, 27)), ("chelsea", "8", 9, (5, 0)),
])  # fmt: skip
def test_a_choice_in_the_page_shows_the_pixels_of_python(explorer, photograph, path, feature, unit):
    choose(explorer, photograph, path, feature=feature, row=unit[0], column=unit[1])
    frame, wanted = python_panels(PICTURES[photograph], path, feature, unit)
    assert_alike(panels(explorer), wanted)
    box = explorer.locator('[data-panel="photograph"] rect').first
    assert (box.get_attribute("x"), box.get_attribute("y")) == (str(frame.field.left), str(frame.field.top))
    labels = explorer.locator(".zf-guesses li span").all_inner_texts()
    assert [label.removesuffix(" (right)") for label in labels] == [
        words for words, _, _ in frame.seen.guesses
    ]


def test_a_click_on_the_map_chooses_the_unit_there(explorer):
    choose(explorer, "chelsea", "5")
    stage = explorer.locator('[data-do="unit"]')
    box = stage.bounding_box()
    stage.click(position={"x": box["width"] * 4.5 / 14, "y": box["height"] * 10.5 / 14})
    drawn(explorer)
    assert [explorer.locator(f'[data-choice="{n}"]').input_value() for n in ("row", "column")] == ["10", "4"]


def test_the_keyboard_alone_chooses_layer_feature_and_unit(opened, explorer):
    choose(explorer, "chelsea", "5")
    explorer.locator('[aria-checked="true"]').focus()
    opened.keyboard.press("ArrowUp")
    assert explorer.locator('[aria-checked="true"]').get_attribute("data-path") == "1"
    opened.keyboard.press("ArrowRight")
    cells = explorer.locator('[data-path="1"]')
    assert cells.nth(1).get_attribute("aria-checked") == "true"
    opened.keyboard.press("Tab")
    assert (
        opened.evaluate("document.activeElement.dataset.choice") == "feature"
    )  # one stop for all small maps
    explorer.locator('[data-do="unit"]').focus()
    before = int(explorer.locator('[data-choice="row"]').input_value())
    opened.keyboard.press("ArrowUp" if before else "ArrowDown")
    drawn(explorer)
    assert abs(int(explorer.locator('[data-choice="row"]').input_value()) - before) == 1
    explorer.get_by_role("button", name="Strongest unit").press("Enter")
    drawn(explorer)
    assert int(explorer.locator('[data-choice="row"]').input_value()) == before


def encoded(picture, form, **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def turned():
    """A JPEG that only its EXIF turns upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(
        Image.fromarray(PICTURES["coffee"].pixels[:200, :300]), "JPEG", exif=exif.tobytes(), quality=95
    )


COLOUR = Image.fromarray(np.asarray(PICTURES["coffee"].pixels)[100:260, 120:350])
OWN = {
    "photo.png": encoded(COLOUR, "PNG"),
    "turned.jpg": turned(),
    "grey.png": encoded(COLOUR.convert("L"), "PNG"),
    "cmyk.jpg": encoded(COLOUR.convert("CMYK"), "JPEG", quality=95),
    "transparent.png": encoded(Image.merge("RGBA", [*COLOUR.split(), COLOUR.convert("L")]), "PNG"),
    "dot.png": encoded(Image.new("RGB", (1, 1), (200, 30, 10)), "PNG"),
    "wide.png": encoded(COLOUR.resize((70_000, 30)), "PNG"),  # wider than a canvas can be
    "long.png": encoded(grain(900, 30).convert("RGB"), "PNG"),
}


@pytest.mark.parametrize("name", OWN)
def test_a_dropped_picture_is_seen_as_python_sees_it(explorer, name):
    drop(explorer, name, OWN[name])
    explorer.locator(f'[data-photograph="{name}"][aria-pressed="true"]').wait_for()
    drawn(explorer)
    choose(explorer, cell="5", feature=2, row=6, column=6)
    _, wanted = python_panels(io.BytesIO(OWN[name]), "5", 2, (6, 6))
    shown = panels(explorer)
    # JPEG decoders differ by a level or two, and CMYK has no one formula.
    assert abs(shown["patch"].astype(int) - wanted["patch"]).mean() <= (12 if name == "cmyk.jpg" else 1.5)
    if name.endswith(".png"):
        assert_alike(shown, wanted)
    assert f"{name}, layer 2, feature 2" in explorer.locator(".zf-says").inner_text()
    assert "stays on this computer" in explorer.locator(".zf-credit").inner_text()
    assert explorer.locator(f'[data-photograph="{name}"]').get_attribute("title") == name


@pytest.mark.parametrize(
    "blob", [b"no picture at all", b"", OWN["photo.png"][:500]], ids=["text", "empty", "cut"]
)
def test_a_file_that_is_no_picture_is_told_in_words_and_the_picture_stays(explorer, blob):
    choose(explorer, "chelsea")
    drop(explorer, "<b>holiday.jpg", blob)
    explorer.locator(".zf-problem", has_text="“<b>holiday.jpg” cannot be read as a picture").wait_for()
    assert explorer.locator('[data-photograph="chelsea"]').get_attribute("aria-pressed") == "true"
    choose(explorer, feature=1)
    assert "leaves this computer" in explorer.locator(".zf-status").inner_text()


@pytest.mark.parametrize(("name", "told"), [
    ("holiday.HEIC", "“holiday.HEIC” is a HEIC photograph, which this browser cannot read; save it as JPEG"),
    ("drawing.svg", "“drawing.svg” is an SVG drawing, which has no pixels of its own; save it as PNG"),
])  # fmt: skip
def test_pictures_that_no_browser_reads_are_called_by_their_kind(explorer, name, told):
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    explorer.evaluate(DROP, [name, base64.b64encode(drawing).decode()])
    explorer.locator(".zf-problem", has_text=told).wait_for()


def test_files_of_one_name_are_numbered(explorer):
    for name in ("same.png", "same.png (2)", "same.png (3)"):
        explorer.evaluate(DROP, ["same.png", base64.b64encode(OWN["photo.png"]).decode()])
        explorer.locator(f'[data-photograph="{name}"][aria-pressed="true"]').wait_for()
    drawn(explorer)
    assert explorer.locator('[data-photograph^="same"]').count() == 3


PASTE = """(element, [content, text]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(content), l => l.charCodeAt(0))], 'stray.png'));
    if (text) transfer.setData('text/plain', text);
    element.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}));
}"""


def test_what_is_pasted_into_a_text_or_as_a_text_is_left_alone(opened, explorer):
    blob = base64.b64encode(OWN["photo.png"]).decode()
    area = opened.evaluate_handle("document.body.appendChild(document.createElement('textarea'))")
    area.evaluate(PASTE, [blob, ""])
    opened.locator("body").evaluate(PASTE, [blob, "a table"])
    opened.wait_for_timeout(500)
    assert explorer.locator('[data-photograph="stray.png"]').count() == 0
    area.evaluate("area => area.remove()")


def test_a_file_is_chosen_and_a_picture_pasted(opened, explorer):
    explorer.locator('input[type="file"]').set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": OWN["photo.png"]}
    )
    explorer.locator('[data-photograph="a.png"][aria-pressed="true"]').wait_for()
    paste(opened, "b.png", OWN["grey.png"])
    explorer.locator('[data-photograph="b.png"][aria-pressed="true"]').wait_for()
    drawn(explorer)


def test_what_is_dropped_without_a_file_is_told_and_the_picture_stays(explorer):
    choose(explorer, "chelsea")
    explorer.evaluate("""root => {
        const dataTransfer = new DataTransfer();
        dataTransfer.setData('text/plain', 'a word');
        root.dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}));
    }""")
    assert explorer.locator(".zf-problem").inner_text() == markup.WORDS["nofile"]
    assert explorer.locator('[data-photograph="chelsea"]').get_attribute("aria-pressed") == "true"
    choose(explorer, feature=1)


def test_a_unit_that_is_silent_is_told(explorer, viewer):
    choose(explorer, "coffee", "5")
    seen = viewer.look("coffee", PICTURES["coffee"])
    activation = viewer.net.activations(seen.input, ["5"])["5"][0]
    feature, row, column = (activation <= 0).nonzero()[0].tolist()
    choose(explorer, feature=feature, row=row, column=column)
    frame = viewer.frame(seen, "5", feature, (row, column))
    assert explorer.locator(".zf-says").inner_text() == frame.says()
    assert "is silent" in frame.says()


def test_an_answer_below_zero_is_no_silence(browser, explorers_scripts, tmp_path):
    viewer = Viewer(small(), CARD, {"before the ReLU": "4"})
    seen = viewer.look("chelsea", PICTURES["chelsea"])
    unit = np.unravel_index(seen.maps["4"][0].argmin(), seen.maps["4"][0].shape)
    frame = viewer.frame(seen, "4", 0, tuple(map(int, unit)))
    assert frame.value < 0
    html = page.explorer_html(viewer, PICTURES, frame, page.snippet(None))
    reader = Reader(browser)
    explorer = reader(written(tmp_path / "below.html", html, explorers_scripts)).locator(".zf-explorer")
    drawn(explorer)
    assert explorer.locator(".zf-says").inner_text() == frame.says()
    reader.close()


def test_a_photograph_that_is_clicked_while_another_is_read_stays(explorer):
    click = "root.querySelector('[data-photograph=coffee]').click()"
    explorer.evaluate(
        f"(root, given) => {{ ({DROP})(root, given); {click}; }}",
        ["slow.png", base64.b64encode(OWN["photo.png"]).decode()],
    )
    explorer.locator('[data-photograph="slow.png"]').wait_for()  # here it is shown at once, or never
    drawn(explorer)
    assert explorer.locator('[data-photograph="coffee"]').get_attribute("aria-pressed") == "true"
    assert "leaves this computer" in explorer.locator(".zf-status").inner_text()


def test_a_picture_that_waits_for_its_turn_is_not_pressed(explorer):
    choose(explorer, "chelsea")
    click = "root.querySelector('[data-photograph=chelsea]').click()"
    given = ["later.png", base64.b64encode(OWN["photo.png"]).decode()]
    explorer.evaluate(f"(root, given) => {{ ({DROP})(root, given); {click}; }}", given)
    explorer.locator('[data-photograph="later.png"]').wait_for()
    drawn(explorer)
    assert explorer.locator('[data-photograph][aria-pressed="true"]').count() == 1


def test_on_a_phone_the_small_maps_have_a_tab_stop_in_sight(opened, explorer):
    choose(explorer, "chelsea")
    explorer.locator('.zf-cell[data-path="5"]').last.click()
    drawn(explorer)
    assert stops_on_a_phone(opened, explorer) == [True]


#: Count how often the page can do something else from the picture's decoding to its thumbnail.
TICK = """root => {
    const decode = createImageBitmap;
    window.createImageBitmap = async (...given) => {
        window.createImageBitmap = decode;
        const bitmap = await decode(...given);
        window.ticks = 0;
        const clock = setInterval(() => window.ticks++);
        new MutationObserver((_, observer) => {
            clearInterval(clock);
            observer.disconnect();
        }).observe(root.querySelector('.zf-own-picture').parentElement, {childList: true});
        return bitmap;
    };
}"""


def test_a_picture_of_48_megapixels_is_read_while_the_page_answers(opened, explorer):
    large = encoded(
        Image.fromarray(np.tile(np.asarray(COLOUR.resize((400, 300))), (20, 20, 1))), "JPEG", quality=30
    )
    explorer.evaluate(TICK)
    drop(explorer, "large.jpg", large)
    explorer.locator('[data-photograph="large.jpg"][aria-pressed="true"]').wait_for()
    drawn(explorer)
    assert opened.evaluate("window.ticks") >= 10  # of 6000 rows / 128


CAMERA = """canvas => {
    const draw = canvas.getContext('2d');
    draw.fillRect(0, 0, 90, 60);
    const stream = canvas.captureStream();
    window.clock = setInterval(() => draw.fillRect(0, 0, 90, 60), 20);
    window.tracks = stream.getTracks();
    window.asked = 0;
    const getUserMedia = async () => {
        window.asked++;
        return stream;
    };
    Object.defineProperty(navigator, 'mediaDevices', {configurable: true, value: {getUserMedia}});
}"""


@pytest.fixture
def camera(opened):
    """A canvas in the place of the reader's camera; the button, and whether the camera is still on."""
    canvas = opened.evaluate_handle(
        "Object.assign(document.createElement('canvas'), {width: 90, height: 60})"
    )
    canvas.evaluate(CAMERA)
    on = "window.tracks.some(track => track.readyState === 'live')"
    yield opened.locator('[data-do="camera"]'), lambda: opened.evaluate(on)
    opened.evaluate("() => { clearInterval(window.clock); delete navigator.mediaDevices; }")


def test_the_camera_is_off_again_once_a_picture_is_taken(opened, explorer, camera):
    button, on = camera
    button.evaluate("button => { button.click(); button.click(); }")
    opened.get_by_role("dialog", name="Camera").get_by_role("button", name="Take the picture").click()
    explorer.locator('[data-photograph="camera.png"][aria-pressed="true"]').wait_for()
    drawn(explorer)
    assert not on()
    assert opened.evaluate("window.asked") == 1


def test_the_camera_is_off_while_its_picture_waits_for_the_network(opened, explorer, camera):
    button, on = camera
    opened.evaluate("""() => { network.forward = (...given) => new Promise(answer => {
        window.goOn = () => { delete network.forward; answer(network.forward(...given)); };
    }); }""")
    button.click()
    opened.get_by_role("dialog", name="Camera").get_by_role("button", name="Take the picture").click()
    opened.wait_for_function("() => window.goOn")
    assert not on()
    opened.evaluate("window.goOn()")
    explorer.locator('[data-photograph^="camera.png"][aria-pressed="true"]').wait_for()
    drawn(explorer)


def test_the_camera_is_off_again_where_its_picture_cannot_be_shown(opened, explorer, camera):
    button, on = camera
    assert on()
    video = explorer.locator("video")
    video.evaluate("video => { video.play = () => Promise.reject(new Error('this cannot be played')); }")
    button.dispatch_event("click")
    explorer.locator(".zf-problem", has_text="this cannot be played").wait_for()
    assert not on()
    assert video.evaluate("video => { delete video.play; return video.srcObject; }") is None


def test_the_camera_is_off_again_where_the_reader_takes_no_picture(opened, explorer, camera):
    choose(explorer, "coffee")
    button, on = camera
    before = explorer.locator("[data-photograph]").count()
    button.click()
    dialog = opened.get_by_role("dialog", name="Camera")
    dialog.wait_for()
    opened.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    opened.wait_for_function("() => !document.querySelector('video').srcObject")
    assert not on()
    assert explorer.locator("[data-photograph]").count() == before
    assert explorer.locator('[data-photograph="coffee"]').get_attribute("aria-pressed") == "true"


def test_a_camera_that_has_sent_no_picture_yet_is_told_and_is_off_again(opened, explorer, camera):
    button, on = camera
    explorer.locator("video").evaluate(
        "video => Object.defineProperty(video, 'videoWidth', {configurable: true, value: 0})"
    )
    button.click()
    opened.get_by_role("dialog", name="Camera").get_by_role("button", name="Take the picture").click()
    told = markup.WORDS["nocamera"].format(problem="it has sent no picture yet")
    explorer.locator(".zf-problem", has_text=told).wait_for()
    assert not on()
    explorer.locator("video").evaluate("video => { delete video.videoWidth; }")


def test_a_camera_that_is_refused_is_told_and_can_be_asked_for_again(opened, explorer, camera):
    button, _ = camera
    opened.evaluate("""() => { navigator.mediaDevices.getUserMedia = async () => {
        throw new DOMException(`no ${++window.asked}`, 'NotAllowedError');
    }; }""")
    for n in (1, 2):
        button.click()
        told = markup.WORDS["nocamera"].format(problem=f"no {n}")
        explorer.locator(".zf-problem", has_text=told).wait_for()


def test_the_picture_can_be_saved_and_its_python_copied(opened, explorer):
    choose(explorer, "coffee", "5", feature=7, row=2, column=9)
    name, saved = saved_picture(explorer)
    frame, _ = python_panels(PICTURES["coffee"], "5", 7, (2, 9))
    assert name == "coffee-layer-2-feature-7-unit-2-9.png"
    assert_sheets_alike(saved, contact_sheet(frame), smooth=[0])
    python = copied(explorer, "Copy the Python")
    opened.evaluate("() => { navigator.clipboard.writeText = async () => { throw new Error('not here'); }; }")
    explorer.get_by_role("button", name="Copy the Python").click()
    explorer.locator(".zf-status", has_text="Copied").wait_for()
    assert opened.evaluate("document.activeElement.dataset.do") == "python"
    assert copied(explorer, "Copy the Python") == python
    assert 'picture = to_input([photographs()["coffee"]], card)' in python
    assert 'net.project(picture, "5", 7, (2, 9))' in python
    opened.evaluate("() => { document.execCommand = () => false; }")
    explorer.get_by_role("button", name="Copy the Python").click()
    explorer.locator(".zf-problem", has_text="the browser refused to copy").wait_for()
    opened.evaluate("() => { delete document.execCommand; delete navigator.clipboard.writeText; }")


def test_a_picture_that_is_saved_in_a_hurry_holds_what_its_name_says(opened, explorer):
    choose(explorer, "coffee", "5", feature=7, row=2, column=9)
    with opened.expect_download() as saving:
        explorer.evaluate("""async root => {
            root.querySelector('[data-do="picture"]').click();
            await new Promise(resume => setTimeout(resume)); // its projections are on their way
            const feature = root.querySelector('[data-choice="feature"]');
            feature.value = 3;
            feature.dispatchEvent(new Event('input', {bubbles: true}));
        }""")
    drawn(explorer)
    with opened.expect_download() as again:
        explorer.get_by_role("button", name="Save the picture").click()
    assert saving.value.suggested_filename.startswith("coffee-layer-2-feature-3-")
    assert saving.value.suggested_filename == again.value.suggested_filename
    assert saving.value.path().read_bytes() == again.value.path().read_bytes()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_breaks_no_rule_of_accessibility(opened, scheme):
    fits_a_phone_and_breaks_no_rule(opened, scheme)


# ------------------------------------------------------------------------------ the network behind it
ASK = """async ([call, argument]) => {
    for (const key of ['picture', 'fill'])
        if (Array.isArray(argument[key])) argument[key] = Float32Array.from(argument[key]);
    const plain = (_, value) => ArrayBuffer.isView(value) ? Array.from(value) : value;
    return JSON.parse(JSON.stringify(await network[call](argument), plain));
}"""


def test_a_scan_gives_the_logits_and_the_sum_of_a_map_at_every_place(opened):
    model = small()
    x = to_input([PICTURES["chelsea"]], Viewer(model, CARD).card)
    scan = {"size": [7, 9], "stride": 6, "fill": 0.25, "layer": "5", "channel": 2, "batch": 5}
    found = opened.evaluate(ASK, ["occlude", {"picture": x.flatten().tolist(), **scan}])
    logits, sums = [], []
    for top in range(0, 28 - 7 + 1, 6):
        for left in range(0, 28 - 9 + 1, 6):
            occluded = x.clone()
            occluded[..., top : top + 7, left : left + 9] = 0.25
            with torch.no_grad():
                logits.append(model(occluded)[0])
                sums.append(model[:6](occluded)[0, 2].sum())
    assert (found["rows"], found["columns"]) == (4, 4)
    np.testing.assert_allclose(
        np.reshape(found["logits"], (16, 4)), torch.stack(logits), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(found["sums"], torch.stack(sums), rtol=1e-4)
    picture = torch.rand_like(x)
    scan |= {"size": [28, 28], "fill": picture.flatten().tolist()}
    found = opened.evaluate(ASK, ["occlude", {"picture": x.flatten().tolist(), **scan}])
    with torch.no_grad():
        np.testing.assert_allclose(found["logits"], model(picture)[0], rtol=1e-4, atol=1e-4)


def test_a_newer_wish_overtakes_the_older_ones_of_its_lane(opened):
    results = opened.evaluate("""async () => {
        const picture = new Float32Array(3 * 28 * 28).fill(0.5);
        const scan = (size, batch) =>
            network.occlude({picture, size, stride: 1, fill: 0, batch}, {lane: 'scan'});
        const wish = (channel, lane) =>
            network.project({layer: '8', picture, channel, position: [-1, -1], rule: 1}, {lane});
        const long = scan([2, 2], 4);
        await new Promise(resume => setTimeout(resume, 30));
        const all = [long, scan([28, 28], 1), wish(0, 'a'), wish(1, 'a'), wish(2, 'a'), wish(3, 'b')];
        return (await Promise.all(all)).map(result => result !== null);
    }""")
    assert results == [False, True, False, False, True, True]


def test_what_goes_wrong_in_the_network_is_told_and_it_goes_on(opened, explorer):
    with pytest.raises(Exception, match="an occluder of 99×1 px does not fit into 28×28"):
        opened.evaluate(
            ASK, ["occlude", {"picture": [0.0] * 3 * 784, "size": [99, 1], "stride": 1, "fill": 0}]
        )
    choose(explorer, "chelsea", "8")


def test_a_network_inside_a_page_waits_for_a_click_where_its_runtime_has_yet_to_come(browser, html, tmp_path):
    file = waiting(tmp_path / "waiting.html", html)
    reader = Reader(browser)
    tab = reader(file)
    explorer = tab.locator(".zf-explorer[data-on]")
    assert "The first click loads it: 5 MB" in explorer.locator(".zf-size").inner_text()
    assert explorer.get_by_role("button", name="Start the network").is_enabled()
    assert not tab.workers
    assert [url for url in reader.asked if not url.startswith("data:")] == [file.as_uri()]
    reader.close()


COUNT = """
    window.left = {workers: 0, addresses: 0};
    window.Worker = class extends Worker {
        constructor(program) { super(program); window.left.workers++; }
        terminate() { super.terminate(); window.left.workers--; }
    };
    const {createObjectURL, revokeObjectURL} = URL;
    URL.createObjectURL = blob => { window.left.addresses++; return createObjectURL(blob); };
    URL.revokeObjectURL = address => { window.left.addresses--; revokeObjectURL(address); };
"""


@pytest.mark.parametrize(
    ("found", "told"),
    [(None, "runtime.0.js did not arrive"), ("AAAA", "what arrived is damaged; build the book again")],
    ids=["none", "damaged"],
)
def test_a_network_that_does_not_start_leaves_nothing_behind(browser, html, tmp_path, found, told):
    piece = f'zfcore.parts["runtime.0.js"] = "{found}";' if found else ""
    file = waiting(tmp_path / "broken.html", html, COUNT + piece)
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.goto(file.as_uri())
    for _ in range(2):
        tab.get_by_role("button", name="Start the network").click()
        tab.locator(".zf-problem", has_text=told).wait_for()
        assert tab.evaluate("window.left") == {"workers": 0, "addresses": 0}
    context.close()


def test_a_network_that_stops_for_no_known_reason_says_that(browser, html, tmp_path):
    stopping = """window.Worker = class {
        postMessage() { setTimeout(() => this.onerror(new Event("error", {cancelable: true}))); }
        terminate() {}
    };"""
    reader = Reader(browser)
    tab = reader(waiting(tmp_path / "stopping.html", html, stopping))
    tab.evaluate("""zfcore.parts["runtime.0.js"] = "AAAA";""")
    tab.get_by_role("button", name="Start the network").click()
    tab.locator(".zf-problem", has_text="the network stopped").wait_for()
    assert "undefined" not in tab.locator(".zf-status").inner_text()
    reader.close()


def test_where_a_field_is_unknown_the_whole_picture_is_framed(browser, html, explorers_scripts, tmp_path):
    forget = """Promise.all([...document.querySelectorAll(".zf-state")].map(async state => {
        const network = await zfcore.Network.load(JSON.parse(state.text).network);
        for (const layer of network.manifest.layers) layer.geometry = null;
    }))"""
    reader = Reader(browser)
    tab = reader(written(tmp_path / "unknown.html", html, explorers_scripts))
    explorer = tab.locator(".zf-explorer")
    drawn(explorer)
    tab.evaluate(f"async () => {{ await {forget}; }}")
    choose(explorer, "coffee", "5")
    drawn(explorer)
    frame = explorer.locator('[data-panel="photograph"] rect').first
    assert [frame.get_attribute(key) for key in ("x", "y", "width", "height")] == ["0", "0", "28", "28"]
    assert explorer.locator(".zf-problem").count() == 0
    reader.close()


def test_two_explorers_on_a_page_share_one_network_and_nothing_else(
    browser, html, explorers_scripts, tmp_path
):
    reader = Reader(browser)
    tab = reader(written(tmp_path / "two.html", html + html, explorers_scripts))
    first, second = tab.locator(".zf-explorer[data-on]").all()
    drawn(first)
    drawn(second)
    assert len(tab.workers) == 1
    before = panels(second)
    choose(first, "coffee", "8")
    for name, pixels in panels(second).items():
        np.testing.assert_array_equal(pixels, before[name])
    second.locator('[data-choice="feature"]').focus()
    paste(tab, "a.png", OWN["grey.png"])
    second.locator('[data-photograph="a.png"][aria-pressed="true"]').wait_for()
    tab.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    paste(tab, "b.png", OWN["grey.png"])  # none is focused: the first in sight takes it
    first.locator('[data-photograph="b.png"][aria-pressed="true"]').wait_for()
    for some, others in ((first, "a.png"), (second, "b.png")):
        assert some.locator(f'[data-photograph="{others}"]').count() == 0
    reader.close()


# ------------------------------------------------------------------------------ torchvision's networks
def test_the_architecture_of_torchvisions_networks_is_no_name_that_could_be_loaded():
    assert 'load("zfnet-64")' in page.snippet("zfnet-64")
    assert "from my_project import network, card" in page.snippet("torchvision.squeezenet1_1")


def shown_alike(browser, model, file, path, **options):
    """Save a page, open it from disk, and compare its opening unit with PyTorch."""
    picture = photographs()["coffee"]
    saved = page.save_page(model, {"coffee": picture}, file, **options)
    reader = Reader(browser)
    tab = reader(saved)
    explorer = tab.locator(".zf-explorer")
    drawn(explorer)
    choose(explorer, cell=path)
    feature, row, column = (
        int(explorer.locator(f'[data-choice="{n}"]').input_value()) for n in ("feature", "row", "column")
    )
    viewer = Viewer(model.half().float(), page.IMAGENET_CARD)
    x = to_input([picture], viewer.card)
    shown = panels(explorer)
    projection = Deconvnet(model).project(x, path, feature, (row, column))[0]
    field = viewer.frame(viewer.look("coffee", picture), path, feature, (row, column)).field
    assert abs(shown["deconvnet"].astype(int) - field.cut(figures.stretch(projection))).mean() <= 1
    activation = viewer.net.activations(x, [path])[path][0, feature].detach()
    assert abs(shown["map"].astype(int) - colour_map(activation)).mean() <= 1
    words = tab.locator(".zf-guesses p").inner_text()
    reader.close()
    return words


@pytest.mark.slow
@pytest.mark.usefixtures("runtime")
def test_a_page_of_torchvisions_squeezenet(browser, tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=10).eval()
    path = Viewer(model, page.IMAGENET_CARD).layers
    assert len(path) == 6
    words = shown_alike(browser, model, tmp_path / "squeezenet.html", list(path)[3])
    assert words == markup.WORDS["guesses"]


@pytest.mark.slow
@pytest.mark.usefixtures("runtime")
def test_a_page_of_alexnets_features_says_that_it_names_nothing(browser, tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.alexnet().eval()
    file = tmp_path / "alexnet.html"
    words = shown_alike(browser, model, file, "features.7", features_only=True)
    assert words == markup.WORDS["unjudged"]
    assert file.stat().st_size < 20e6
