"""Pictures, sprites and the explorer's piece of HTML; the last part opens it in Chromium."""

import base64
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zfcore import figures, page

SIDE = 24


def decoded(url):
    blob = base64.b64decode(url.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


# ------------------------------------------------------------------------------ arrays to pixels
def test_a_silent_map_is_dark_and_the_peak_of_another_is_its_brightest():
    silent = page.colour_map(torch.zeros(4, 5))
    assert silent.shape == (4, 5, 3)
    assert len(np.unique(silent.reshape(-1, 3), axis=0)) == 1
    busy = page.colour_map(np.arange(20.0).reshape(4, 5)).astype(int).sum(2)
    assert busy.argmax() == 19
    assert (busy[0, 0] == silent[0, 0].astype(int).sum()).all()


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_webp_gives_every_pixel_back(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(page.data_url(page.as_webp(pixels))), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(page.as_png(pixels)))), pixels)


def test_a_sprite_holds_every_picture_in_the_corner_of_its_cell():
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in sizes]
            for sizes in ([(3, 4), (2, 2)], [(1, 5)])]  # fmt: skip
    sheet = page.sprite(rows)
    assert sheet.shape == (6, 10, 3)
    np.testing.assert_array_equal(sheet[:3, :4], rows[0][0])
    np.testing.assert_array_equal(sheet[:2, 5:7], rows[0][1])
    np.testing.assert_array_equal(sheet[3:4, :5], rows[1][0])
    assert (sheet[3:, 5:] == page.MID_GREY).all()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(-9, 4), st.integers(0, 7), st.integers(0, 7))
def test_a_field_holds_exactly_the_pixels_its_unit_sees(reach, stride, offset, y, x):
    geometry = SimpleNamespace(receptive_field=reach, stride=stride, offset=offset)
    field = page.Field.of(geometry, (y, x), SIDE)
    seen = {
        axis: [p for p in range(SIDE) if offset + u * stride <= p < offset + u * stride + reach]
        for axis, u in (("y", y), ("x", x))
    }
    assert list(range(field.top, field.bottom)) == seen["y"]
    assert list(range(field.left, field.right)) == seen["x"]


# ------------------------------------------------------------------------------ the explorer's HTML
def made_up(titles=("Cat", "Cup"), layers=("layer 1", "layer 2"), features=3):
    """Frames of random pixels; the last feature of the last layer is silent on the first photograph."""
    rng = np.random.default_rng(0)
    frames, subjects = {}, []
    for name in titles:
        square = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        guesses = (("tabby <cat>", 0.75, True), ("plate", 0.002, False))
        subjects.append(
            page.Subject(name, f"{name} & co", f"alt of {name}", "by us", f"p[{name!r}]", guesses)
        )
        for n, layer in enumerate(layers):
            units = [(int(rng.integers(0, 6)), int(rng.integers(0, 6))) for _ in range(features)]
            answers = rng.random((features, 6, 6))
            for rule in page.RULES:
                frames[name, layer, rule] = []
                for k, unit in enumerate(units):
                    last = name == titles[0] and layer == layers[-1] and k == features - 1
                    geometry = SimpleNamespace(receptive_field=5 + 8 * n, stride=4, offset=-2 - 4 * n)
                    field = page.Field.of(geometry, unit, SIDE)
                    projection = np.zeros((3, SIDE, SIDE))
                    if not last:
                        inside = projection[:, field.top : field.bottom, field.left : field.right]
                        inside[:] = rng.normal(size=inside.shape)
                    frames[name, layer, rule].append(
                        page.Frame(name, f"{name} & co", layer, f"features.{n}", 10 * k, rule,
                                   0.0 if last else 3.0 - k, unit, field, square,
                                   page.colour_map(answers[k]), figures.stretch(projection))
                    )  # fmt: skip
    return frames, subjects


SNIPPET = 'picture = {pixels}; project("{path}", {feature}, rule="{rule}")'


@pytest.fixture(scope="module")
def html():
    return page.photo_explorer_html(*made_up(), SNIPPET)


class Elements(HTMLParser):
    """Every start tag with its attributes, and which controls stand inside a label with words."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.unlabelled, self._label, self._words, self._button = [], [], 0, "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "label":
            self._label, self._words = self._label + 1, ""
        if tag in ("select", "input", "textarea") and not (self._label and self._words.strip()):
            self.unlabelled.append(tag)
        if tag == "button":
            self._button = ""

    def handle_endtag(self, tag):
        if tag == "label":
            self._label -= 1
        if tag == "button":
            if not self._button.strip():
                self.unlabelled.append(tag)
            self._button = None

    def handle_data(self, data):
        self._words += data if self._label else ""
        if self._button is not None:
            self._button += data


def test_the_page_asks_for_nothing(html):
    assert not re.search(
        r"https?://|//[a-z]+\.|@import|url\(|\bfetch\b|\bimport\(", html.replace("// @ts", "")
    )
    for tag, attributes in Elements(html).tags:
        assert tag not in ("link", "iframe", "object")
        assert attributes.get("src", "data:").startswith("data:")


def test_before_the_script_runs_controls_are_disabled_and_the_first_frame_shows(html):
    tags = Elements(html).tags
    assert all("disabled" in a for tag, a in tags if tag in ("select", "button"))
    assert not any("data-on" in a for _, a in tags)
    frames, _ = made_up()
    first = frames["Cat", "layer 1", "deconvnet"][0]
    shown = [a for tag, a in tags if tag == "img"]
    assert len(shown) == 5
    for image, pixels in zip(shown, first.panels().values(), strict=True):
        assert image["alt"]
        np.testing.assert_array_equal(decoded(image["src"]), pixels)


def test_every_control_has_a_label_in_words(html):
    elements = Elements(html)
    assert [tag for tag, _ in elements.tags].count("select") == 4
    assert not elements.unlabelled


def test_any_number_of_explorers_share_a_page_for_they_have_no_ids(html):
    assert not any("id" in a or "name" in a for _, a in Elements(html).tags)


def test_what_is_shown_is_also_told_in_words(html):
    says = re.search(r'<p class="zf-says" aria-live="polite">(.*?)</p>', html)[1]
    assert says.startswith("Cat &amp; co, layer 1, feature 0: its strongest unit answers 3 at row ")
    frames, _ = made_up()
    assert "silent" in frames["Cat", "layer 2", "deconvnet"][-1].says()


def test_words_from_outside_cannot_become_markup():
    evil = "</script><script>alert(1)</script>"
    text = page.photo_explorer_html(*made_up(titles=(evil, "b")), SNIPPET)
    assert "<script>alert" not in text
    assert "tabby <cat>" not in text


def test_it_opens_with_the_frame_it_is_told(html):
    frames, subjects = made_up()
    start = frames["Cup", "layer 2", "guided"][1]
    text = page.photo_explorer_html(frames, subjects, SNIPPET, start)
    selected = [a["value"] for tag, a in Elements(text).tags if tag == "option" and "selected" in a]
    assert selected == ["Cup", "layer 2", "guided", "10"]
    assert "Cup &amp; co, layer 2, feature 10" in text
    other, _ = made_up()
    with pytest.raises(ValueError, match="not among the frames"):
        page.photo_explorer_html(frames, subjects, SNIPPET, other["Cup", "layer 2", "guided"][1])


def test_a_photograph_without_frames_is_an_error_that_names_the_gap():
    frames, subjects = made_up()
    del frames["Cup", "layer 2", "guided"]
    with pytest.raises(ValueError, match=r"'Cup', 'layer 2', 'guided'"):
        page.photo_explorer_html(frames, subjects, SNIPPET)


def test_the_saved_sheet_has_five_squares_and_a_frame_where_the_field_is():
    frames, _ = made_up()
    frame = frames["Cat", "layer 1", "deconvnet"][0]
    sheet = page.contact_sheet(frame, side=96, gap=4)
    assert sheet.shape == (96, 5 * 96 + 4 * 4, 3)
    scale = 96 / SIDE
    corner = sheet[round(frame.field.top * scale), round(frame.field.left * scale)]
    assert corner.tolist() == [0, 0, 0]
    assert frame.file_name() == "Cat-layer-1-feature-0-deconvnet.png"


def test_nothing_in_the_web_folder_can_end_the_element_it_is_put_into():
    for file in page.WEB.iterdir():
        assert "</" not in file.read_text(encoding="utf-8"), file.name
    assert (page.WEB / "explorer.js").read_text(encoding="utf-8").startswith("// @ts-check")


# ------------------------------------------------------------------------------ alive, in Chromium
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists() and os.environ.get("ZFCORE_REQUIRE_BROWSER") != "1":
        pytest.skip(f"no browser: {CHROMIUM} is missing")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def opened(browser, html, tmp_path):
    """Two explorers on one page from disk, on a phone, with the network cut."""
    file = tmp_path / "page.html"
    file.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>two</title>{html}{html}</html>',
        encoding="utf-8",
    )
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    tab.troubles = []
    tab.on("console", lambda message: tab.troubles.append(message.text))
    tab.on("pageerror", lambda error: tab.troubles.append(str(error)))
    tab.goto(file.as_uri())
    yield tab
    assert not tab.troubles
    context.close()


def choose(explorer, says, **choices):
    for name, value in choices.items():
        explorer.locator(f'[data-choice="{name}"]').select_option(value)
    explorer.locator(".zf-says", has_text=says).wait_for()


def panels(explorer):
    images = explorer.locator("img").all()
    return [decoded(image.get_attribute("src")) for image in images]


def test_a_choice_in_the_page_shows_the_very_pixels_of_python(opened):
    frames, _ = made_up()
    explorer = opened.locator(".zf-explorer[data-on]").first
    for photograph, layer, rule, k in (
        ("Cup", "layer 2", "guided", 1),
        ("Cat", "layer 1", "gradient", 2),
        ("Cat", "layer 2", "deconvnet", 2),  # the silent one
    ):
        frame = frames[photograph, layer, rule][k]
        choose(
            explorer, frame.says(), photograph=photograph, layer=layer, rule=rule, feature=str(frame.feature)
        )
        for shown, pixels in zip(panels(explorer), frame.panels().values(), strict=True):
            np.testing.assert_array_equal(shown, pixels)
        assert explorer.locator("svg:visible").count() == (2 + 1 if frame.value > 0 else 0)
        left, top = frame.field.left, frame.field.top
        box = explorer.locator('[data-panel="projection"] rect').first
        assert (box.get_attribute("x"), box.get_attribute("y")) == (str(left), str(top))


def test_two_explorers_on_a_page_do_not_know_each_other(opened):
    first, second = opened.locator(".zf-explorer[data-on]").all()
    before = panels(second)
    choose(first, "Cup & co, layer 2", photograph="Cup", layer="layer 2")
    for a, b in zip(panels(second), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_keyboard_alone_walks_through_the_features(opened):
    explorer = opened.locator(".zf-explorer[data-on]").first
    opened.keyboard.press("Tab")
    focused = []
    for _ in range(8):
        focused.append(
            opened.evaluate("document.activeElement.dataset.choice ?? document.activeElement.textContent")
        )
        opened.keyboard.press("Tab")
    assert focused[:6] == ["photograph", "layer", "rule", "feature", "Previous", "Next"]
    explorer.get_by_role("button", name="Previous").focus()
    opened.keyboard.press("Enter")  # from the first feature, round to the last
    explorer.locator(".zf-says", has_text="feature 20").wait_for()
    opened.keyboard.press("Tab")
    opened.keyboard.press("Space")
    explorer.locator(".zf-says", has_text="feature 0:").wait_for()


def test_a_phone_needs_no_sideways_scrolling(opened):
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_picture_can_be_saved_and_its_python_copied(opened):
    frames, _ = made_up()
    frame = frames["Cup", "layer 2", "guided"][1]
    explorer = opened.locator(".zf-explorer[data-on]").first
    choose(explorer, frame.says(), photograph="Cup", layer="layer 2", rule="guided", feature="10")
    with opened.expect_download() as saving:
        explorer.get_by_role("button", name="Save the picture").click()
    assert saving.value.suggested_filename == frame.file_name()
    saved = np.asarray(Image.open(saving.value.path()).convert("RGB"), dtype=int)
    wanted = page.contact_sheet(frame).astype(int)
    assert saved.shape == wanted.shape
    assert abs(saved - wanted).mean() < 8  # the browser's smoothing is not Pillow's
    explorer.get_by_role("button", name="Copy the Python").click()
    explorer.locator(".zf-done", has_text="Copied").wait_for()
    opened.evaluate("document.body.append(document.createElement('textarea'))")
    opened.locator("textarea").focus()
    opened.keyboard.press("Control+V")
    assert opened.locator("textarea").input_value() == (
        'picture = p[\'Cup\']; project("features.1", 10, rule="guided")'
    )


def test_the_state_says_no_more_than_json_can(html):
    state = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1])
    assert [layer["name"] for layer in state["layers"]] == ["layer 1", "layer 2"]
    assert state["layers"][1]["frames"][0][-1][:3] == [20, "0", False]
