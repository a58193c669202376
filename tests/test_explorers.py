"""The explorers in a page from disk, beside Python's answers; one network for all."""

import base64
import io
import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from browser import DROP, Reader, copied, drawn, fits_a_phone_and_breaks_no_rule, panels
from PIL import Image
from test_page import CARD, PICTURES, Elements, small
from test_widgets import CARRIERS, CURVES

from zfcore import assets, markup
from zfcore.gallery import Crops, Gallery
from zfcore.view import Viewer, beside, colour_map, label_map
from zfcore.widgets import (
    ClassExplorer,
    FeatureExplorer,
    InvarianceExplorer,
    OcclusionExplorer,
    PhotoExplorer,
)

pytestmark = pytest.mark.skipif(
    not all((assets.WEB / name).exists() for name in assets.RUNTIME_FILES),
    reason="the page's runtime is not set up: npm ci --ignore-scripts && npm run runtime",
)
ROOT = assets.WEB.parents[1]
LAYERS = {"layer 1": "1", "layer 2": "5", "layer 3": "8"}


@pytest.fixture(scope="module", autouse=True)
def no_server():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JPY_SESSION_NAME", raising=False)
        yield


@pytest.fixture(scope="module")
def viewer():
    return Viewer(small(), CARD, LAYERS)


def pieces_of(pictures, size=90):
    """Squares of photographs, by name: pictures to find hits among."""
    return {
        f"{name} {top} {left}": photograph.pixels[top : top + size, left : left + size]
        for name, photograph in pictures.items()
        for top in (0, 90, 180)
        for left in (0, 90, 180, 270)
    }


@pytest.fixture(scope="module")
def gallery(viewer):
    return Gallery.of(viewer, pieces_of(PICTURES))


@pytest.fixture(scope="module")
def crops(viewer):
    return Gallery.of(viewer, Crops(PICTURES, (1.0, 0.4)))


@pytest.fixture(scope="module")
def twins(gallery, crops):
    """The explorers' page forms, by kind."""
    occlusion = OcclusionExplorer(small(), CARD, PICTURES, LAYERS)
    features = FeatureExplorer(small(), CARD, gallery, PICTURES, crops=crops, layer="layer 2", feature=4)
    invariance = InvarianceExplorer(small(), CARD, PICTURES, LAYERS)
    photo = PhotoExplorer(small(), CARD, PICTURES, LAYERS, gallery=gallery)
    made = {"occlusion": occlusion, "feature": features, "invariance": invariance, "photo": photo}
    return {kind: explorer.to_html() for kind, explorer in made.items()}


KINDS = ("occlusion", "feature", "invariance", "photo")


# ------------------------------------------------------------------------------ their HTML
@pytest.mark.parametrize("kind", KINDS)
def test_an_explorer_asks_for_nothing_has_no_ids_and_labels_every_control(twins, kind):
    elements = Elements(twins[kind])
    assert not elements.restored
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", twins[kind])
    assert not any(
        a.get("src", "data:") for _, a in elements.tags if not a.get("src", "data:").startswith("data:")
    )
    assert not any("id" in a for _, a in elements.tags)
    assert not elements.unlabelled
    controls = [a for tag, a in elements.tags if tag in ("button", "input", "select")]
    assert all("disabled" in a for a in controls if a.get("value") not in ("take", ""))


def test_before_the_script_runs_the_maps_of_the_whole_scan_show(viewer, twins):
    covered = viewer.cover(viewer.look("chelsea", PICTURES["chelsea"]))
    maps = viewer.scan(covered, 1)
    for name, wanted in markup.occlusion_panels(maps).items():
        shown = re.search(rf'data-panel="{name}".*?<img src="([^"]+)"', twins["occlusion"])[1]
        np.testing.assert_array_equal(decoded(shown), wanted)
    assert escape(markup.WORDS["covered"].format(**covered.words(viewer))) in twins["occlusion"]


def test_a_bar_ends_where_its_scale_does(viewer):
    moved = viewer.move(viewer.look("chelsea", PICTURES["chelsea"]), 3)
    (name, path, _), deepest = moved.distances
    html = markup.moved_html(viewer, replace(moved, distances=((name, path, 2.0), deepest)))
    assert 'data-meter="near"' in html
    assert max(float(share) for share in re.findall(r"inline-size:([\d.]+)%", html)) == 100


def test_small_maps_have_one_tab_stop_also_where_the_shown_feature_is_none_of_them(viewer, gallery):
    seen = viewer.look("chelsea", PICTURES["chelsea"])
    for shown in (3, 9):
        html = markup.features_html(markup.Nine.of(gallery, "5", shown), None, seen, [1, 2, 3], "")
        assert html.count('tabindex="0"') == 1


def decoded(url):
    blob = base64.b64decode(url.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


# ------------------------------------------------------------------------------ galleries as assets
def test_a_gallery_that_the_book_stores_is_referred_to_and_found_again(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "GALLERIES", tmp_path)
    state, packs = assets.gallery_state(gallery, "net")
    assert state["source"] is None
    assert len(packs) == 3
    about = {"data_sha256": "0" * 64, "weights_sha256": "1" * 64, "command": "zfcore features"}
    gallery.save(tmp_path, "net", data="pieces", **about)
    stored = Gallery.load(tmp_path, "net", "1" * 64)
    state, packs = assets.gallery_state(stored, "net")
    assert packs == {}
    assert state["source"]["name"] == "net"
    found = assets.stored_gallery(state["source"])
    assert list(found) == [layer["asset"] for layer in state["layers"]]
    assert [layer["features"] for layer in state["layers"]] == [list(range(n)) for n in (8, 12, 10)]
    gallery.save(tmp_path, "net", data="others", **about)
    assert assets.gallery_state(stored, "net")[0]["source"] is None
    with pytest.raises(ValueError, match=r"another net\.json .* build the book again"):
        assets.stored_gallery(state["source"])


def test_of_any_other_gallery_some_features_of_each_layer_come_along(gallery, monkeypatch):
    monkeypatch.setattr(assets, "KEPT", 3)
    state, _ = assets.gallery_state(gallery, None)
    assert [layer["features"] for layer in state["layers"]] == [[0, 4, 7], [0, 6, 11], [0, 4, 9]]
    assert all(layer["patches"] for layer in state["layers"])


def test_what_are_no_crops_of_the_photographs_is_told(gallery, crops):
    with pytest.raises(ValueError, match=r"'chelsea 90 180' is no crop|'coffee .*' is no crop"):
        assets.crops_pack(gallery, PICTURES)
    with pytest.raises(ValueError, match="chelsea, which are not among"):
        assets.crops_pack(crops, {"coffee": PICTURES["coffee"]})


# ------------------------------------------------------------------------------ in the browser
@pytest.fixture(scope="module")
def file(twins, tmp_path_factory):
    runtime = assets.scripts_html({assets.RUNTIME: assets.asset(assets.RUNTIME, assets.runtime_pack())})
    path = tmp_path_factory.mktemp("explorers") / "all.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>explorers</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><style>:root {{color-scheme: light dark}}</style>'
        f"<main><h1>Explorers</h1>{''.join(twins.values())}</main>{runtime}<script>{assets.script()}</script>",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def opened(browser, file):
    """The page from disk, with the network cut; opened once, since it starts a network."""
    reader = Reader(browser)
    tab = reader(file, viewport={"width": 1000, "height": 1200})
    for kind in KINDS:
        drawn(tab.locator(f'[data-explorer="{kind}"]'))
    yield tab
    reader.close()


@pytest.fixture
def occlusion(opened):
    """The occlusion explorer with an 8-px grey square in the middle of the cat."""
    explorer = opened.locator('[data-explorer="occlusion"]')
    explorer.locator('[data-photograph="chelsea"]').click()
    explorer.locator('[data-photograph="chelsea"][aria-pressed="true"]').wait_for()
    set_square(explorer, size=8, fill="grey", target=0)
    return explorer


def set_square(explorer, fill=None, size=None, target=None):
    if fill is not None:
        explorer.locator('[data-choice="fill"]').select_option(fill)
    if size is not None:
        explorer.locator('[data-choice="size"]').fill(str(size))
    if target is not None:
        explorer.locator('[data-choice="target"]').select_option(str(target))
    drawn(explorer)


def square_of(explorer):
    box = explorer.locator('[data-panel="photograph"] rect').first
    return tuple(int(box.get_attribute(key)) for key in ("y", "x", "width"))


def assert_says_what_python_says(explorer, viewer, picture, fill="grey", target=0, name="x"):
    """The whole sentence: place, probabilities, label, and what is left of the map."""
    top, left, size = square_of(explorer)
    covered = viewer.cover(viewer.look(name, picture), (top, left), size, fill, target)
    assert explorer.locator(".zf-says").inner_text() == markup.WORDS["covered"].format(
        **covered.words(viewer)
    )
    guesses = viewer.named(covered.now[0], None)
    shown = explorer.locator(".zf-guesses li span").all_inner_texts()
    assert [words.removesuffix(" (right)") for words in shown] == [words for words, _, _ in guesses]


@pytest.mark.parametrize("fill", ["grey", "black", "white", "blur"])
def test_the_answer_to_a_hidden_square_is_pythons(occlusion, viewer, fill):
    set_square(occlusion, fill=fill)
    assert_says_what_python_says(occlusion, viewer, PICTURES["chelsea"], fill)


def test_the_square_is_dragged_and_stays_inside(opened, occlusion, viewer):
    stage = occlusion.locator('[data-do="square"]')
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    cell = box["width"] / 28
    opened.mouse.move(box["x"] + 14 * cell, box["y"] + 14 * cell)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 20 * cell, box["y"] + 9 * cell, steps=4)
    drawn(occlusion)
    assert square_of(occlusion) == (5, 16, 8)
    opened.mouse.move(box["x"] + 27.9 * cell, box["y"] - 40)
    opened.mouse.up()
    drawn(occlusion)
    assert square_of(occlusion) == (0, 20, 8)
    opened.mouse.move(box["x"] + 3 * cell, box["y"] + 3 * cell)  # no button is down
    assert square_of(occlusion) == (0, 20, 8)
    assert_says_what_python_says(occlusion, viewer, PICTURES["chelsea"])


def test_a_finger_moves_the_square(occlusion):
    occlusion.locator('[data-do="square"]').evaluate("""stage => {
        const box = stage.getBoundingClientRect();
        stage.setPointerCapture = () => {};
        stage.hasPointerCapture = () => true;
        const at = {pointerId: 9, pointerType: 'touch', isPrimary: true, bubbles: true};
        const place = {clientX: box.left + box.width / 4, clientY: box.top + box.height / 2};
        stage.dispatchEvent(new PointerEvent('pointerdown', {...at, ...place}));
        delete stage.setPointerCapture;
        delete stage.hasPointerCapture;
    }""")
    drawn(occlusion)
    assert square_of(occlusion) == (10, 3, 8)


def test_the_arrow_keys_move_the_square(opened, occlusion, viewer):
    occlusion.locator('[data-do="square"]').focus()
    top, left, _ = square_of(occlusion)
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):
        opened.keyboard.press(key)
    drawn(occlusion)
    assert square_of(occlusion) == (top - 2, left - 1, 8)
    assert_says_what_python_says(occlusion, viewer, PICTURES["chelsea"])


#: Note every text that an element has had since.
HEAR = """element => {
    window.heard = [];
    const hear = () => window.heard.push(element.textContent);
    new MutationObserver(hear).observe(element, {childList: true, characterData: true, subtree: true});
}"""


def test_the_scan_gives_the_maps_of_python_and_any_place_can_be_gone_back_to(opened, occlusion, viewer):
    set_square(occlusion, size=14, fill="blur")
    occlusion.locator(".zf-maps").evaluate(HEAR)
    occlusion.get_by_role("button", name="Scan the whole picture").click()
    occlusion.locator(".zf-status", has_text="Scanned 225 places").wait_for()
    heard = opened.evaluate("window.heard")
    assert len(heard) > 9
    assert not any("NaN" in words for words in heard)
    seen = viewer.look("chelsea", PICTURES["chelsea"])
    for target in (0, 2):  # another class takes no new scan
        set_square(occlusion, target=target)
        maps = viewer.scan(viewer.cover(seen, (0, 0), 14, "blur", target), 1)
        shown = panels(occlusion)
        for name, values in (("probability", maps.probability), ("activation", maps.activation)):
            assert shown[name].shape == (15, 15, 3)
            assert abs(shown[name].astype(int) - colour_map(values)).mean() <= 1, name
        np.testing.assert_array_equal(shown["label"], label_map(maps.label)[0])
    legend = occlusion.locator(".zf-legend li").all_inner_texts()
    frequent = [viewer.label(n) for n, _, _ in label_map(maps.label)[1]]
    assert [words.rpartition(" ")[0].rpartition(" ")[0] for words in legend] == frequent
    stage = occlusion.locator('[data-panel="label"] [data-do="place"]')
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    opened.mouse.move(box["x"] + box["width"] * 4.5 / 15, box["y"] + box["width"] * 9.5 / 15)
    drawn(occlusion)
    assert square_of(occlusion) == (9, 4, 14)
    assert_says_what_python_says(occlusion, viewer, PICTURES["chelsea"], "blur", 2)
    stage.focus()
    opened.keyboard.press("ArrowDown")
    assert square_of(occlusion) == (10, 4, 14)


LATE = """async ([name]) => {
    const network = await zfcore.Network.load(name);
    network.occlude = (given, wish) => wish.lane ? new Promise(answer => {
        window.late = () => answer({logits: Float32Array.of(9, 0, 0, 0), sums: Float32Array.of(0)});
    }) : zfcore.Network.prototype.occlude.call(network, given, wish);
    window.mend = () => delete network.occlude;
}"""


def test_an_answer_that_comes_late_is_not_shown_at_another_place(opened, occlusion, viewer):
    set_square(occlusion, size=14)
    stage = occlusion.locator('[data-do="square"]')
    opened.evaluate(LATE, sorted({state["network"] for state in assets.states(opened.content())}))
    stage.press("ArrowUp")  # asks, and waits
    occlusion.get_by_role("button", name="Scan the whole picture").click()
    occlusion.locator(".zf-status", has_text="Scanned 225 places").wait_for()
    stage.press("ArrowDown")  # to a place that the scan has visited
    opened.evaluate("() => { late(); mend(); }")
    opened.wait_for_timeout(200)
    assert_says_what_python_says(occlusion, viewer, PICTURES["chelsea"])


def test_arrows_that_mean_something_to_the_browser_are_left_to_it(occlusion):
    before = square_of(occlusion)
    prevented = occlusion.evaluate("""root => ["altKey", "ctrlKey", "metaKey", "shiftKey"].map(key => {
        const pressed = {key: "ArrowUp", [key]: true, bubbles: true, cancelable: true};
        const event = new KeyboardEvent("keydown", pressed);
        root.querySelector('[data-do="square"]').dispatchEvent(event);
        return event.defaultPrevented;
    })""")
    assert prevented == [False] * 4
    assert square_of(occlusion) == before


def test_the_status_is_not_said_again_at_every_step(opened, occlusion):
    stage = occlusion.locator('[data-do="square"]')
    stage.press("ArrowUp")
    drawn(occlusion)
    occlusion.locator(".zf-status").evaluate(HEAR)
    for _ in range(3):
        stage.press("ArrowUp")
        drawn(occlusion)
    assert opened.evaluate("window.heard") == []


# Within the page, so that what is measured is its pace and not that of the test's messages.
MOVE_AND_STOP = """async root => {
    const button = root.querySelector('[data-do="scan"]');
    button.click();
    const moved = new KeyboardEvent("keydown", {key: "ArrowUp", bubbles: true, cancelable: true});
    root.querySelector('[data-do="square"]').dispatchEvent(moved);
    do await new Promise(go => setTimeout(go, 1)); while (root.getAttribute("aria-busy") !== "false");
    const scanning = root.dataset.scanning !== undefined;
    button.click();
    return [moved.defaultPrevented, scanning];
}"""


def test_a_scan_can_be_stopped_and_leaves_time_for_the_readers_hand(opened, occlusion):
    top, _, _ = square_of(occlusion)
    assert occlusion.evaluate(MOVE_AND_STOP) == [True, True]
    assert square_of(occlusion)[0] < top
    assert occlusion.get_by_role("button", name="Scan the whole picture").is_visible()
    opened.wait_for_timeout(300)
    assert "Scanned" not in occlusion.locator(".zf-status").inner_text()


FAIL = """async ([name, call]) => {
    const network = await zfcore.Network.load(name);
    network[call] = async () => { throw new Error("out of memory"); };
    window.mend = () => delete network[call];
}"""


def test_a_scan_that_fails_says_so_and_can_be_begun_again(opened, occlusion):
    (network, *_) = {state["network"] for state in assets.states(opened.content())}
    opened.evaluate(FAIL, [network, "occlude"])
    scan = occlusion.locator('[data-do="scan"]')
    scan.click()
    occlusion.locator(".zf-problem", has_text="out of memory").wait_for()
    assert scan.inner_text() == "Scan the whole picture"
    opened.evaluate("window.mend()")
    scan.click()
    occlusion.locator(".zf-status", has_text="Scanned 441 places").wait_for()


def test_pictures_of_ones_own_are_occluded_as_python_does(occlusion, viewer):
    set_square(occlusion, fill="blur")
    pixels = PICTURES["coffee"].pixels
    pictures = {"mine.png": pixels[100:260, 120:350], "mine.png (2)": pixels[:160, 200:400]}
    for name, picture in pictures.items():  # in files of one name
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        occlusion.locator(".zf-says").evaluate("says => { says.textContent = ''; }")
        occlusion.evaluate(DROP, ["mine.png", base64.b64encode(stream.getvalue()).decode()])
        occlusion.locator(".zf-says", has_text=f"{name} with a square of 8×8 pixels hidden").wait_for()
        drawn(occlusion)
        best = int(viewer.cover(viewer.look("x", stream)).whole[0].argmax())
        assert occlusion.locator('[data-choice="target"]').input_value() == str(best)
        assert_says_what_python_says(occlusion, viewer, stream, "blur", best, name)


def test_the_square_and_its_maps_are_saved(opened, occlusion, viewer):
    with opened.expect_download() as saving:
        occlusion.get_by_role("button", name="Save the picture").click()
    top, left, size = square_of(occlusion)
    assert saving.value.suggested_filename == f"chelsea-occluded-at-{top}-{left}-size-{size}.png"
    saved = np.asarray(Image.open(saving.value.path()).convert("RGB"), dtype=int)
    covered = viewer.cover(viewer.look("x", PICTURES["chelsea"]), (top, left), size)
    wanted = beside([(covered.view, (covered.square, 28))]).astype(int)
    assert saved.shape == wanted.shape
    assert abs(saved - wanted).mean() < 8


# ------------------------------------------------------------------------------ features
@pytest.fixture
def features(opened):
    explorer = opened.locator('[data-explorer="feature"]')
    choose(explorer, layer="5", feature=4)
    return explorer


def choose(explorer, layer=None, feature=None):
    if layer is not None:
        explorer.locator('[data-choice="layer"]').select_option(layer)
    if feature is not None:
        explorer.locator('[data-choice="feature"]').fill(str(feature))
    drawn(explorer)


def nine(explorer, name):
    sources = explorer.evaluate(
        "(root, name) => [...root.querySelectorAll(`[data-nine=${name}] li:not([hidden]) img`)]"
        ".map(image => image.src)",
        name,
    )
    return [decoded(source).astype(int) for source in sources]


def assert_nine_alike(shown, wanted, tolerance):
    assert len(shown) == len(wanted)
    for picture, python in zip(shown, wanted, strict=True):
        assert picture.shape == python.shape
        assert abs(picture - python).mean() <= tolerance


@pytest.mark.parametrize(("layer", "feature"), [("1", 3), ("5", 9), ("8", 0)])
def test_a_feature_shows_its_nine_hits_as_python_has_them(features, gallery, layer, feature):
    choose(features, layer, feature)
    hits = [hit for hit in gallery.hits(layer, feature) if hit]
    assert_nine_alike(nine(features, "projections"), gallery.projections(layer, feature)[: len(hits)], 0)
    assert_nine_alike(nine(features, "patches"), gallery.patches(layer, feature)[: len(hits)], 0)
    assert features.locator(".zf-says").inner_text() == markup.Nine.of(gallery, layer, feature).says()
    told = features.locator(".zf-hits li").all_inner_texts()
    assert [words.rpartition(", ")[0] for words in told] == [hit.picture for hit in hits]
    wanted = markup.Nine.of(gallery, layer, feature).words()
    assert told == [words.partition(". ")[2] for words in wanted if words]


def test_the_photographs_strongest_crops_are_cut_and_projected_in_the_page(features, crops):
    choose(features, "5", 9)
    features.locator('[data-nine="cropProjections"][aria-busy="false"]').wait_for()
    wanted = markup.Nine.of(crops, "5", 9)
    boxes = [hit.box[2:] for hit in wanted.hits if hit]
    shown, projected = (nine(features, name) for name in ("crops", "cropProjections"))
    assert [picture.shape[:2] for picture in shown] == [picture.shape[:2] for picture in projected] == boxes
    for n, (height, width) in enumerate(boxes):
        if (height, width) == wanted.patches[n].shape[:2]:  # others lie off the centre of their cells
            assert abs(shown[n] - wanted.patches[n]).mean() <= 4  # the photographs come along as lossy WebP
            assert abs(projected[n] - wanted.projections[n]).mean() <= 12


def test_crops_that_did_not_arrive_are_asked_for_again_by_the_next_click(browser, file, tmp_path):
    page, scripts = tmp_path / "damaged.html", "<script>(() => {"
    damage = """<script>
        const [crops] = Object.keys(zfcore.parts).filter(name => name.startsWith("crops-"));
        const whole = zfcore.parts[crops];
        zfcore.parts[crops] = "AAAA";
    </script>"""
    before, begins, after = file.read_text(encoding="utf-8").rpartition(scripts)
    page.write_text(before + damage + begins + after, encoding="utf-8")
    reader = Reader(browser)
    tab = reader(page)
    explorer = tab.locator('[data-explorer="feature"]')
    explorer.locator(".zf-problem").wait_for()
    explorer.get_by_role("button", name="Next").click()
    explorer.locator(".zf-says", has_text="layer 2, feature 5:").wait_for()
    explorer.locator(".zf-problem").wait_for()
    explorer.locator('[data-nine="cropProjections"][aria-busy="false"]').wait_for(state="attached")
    tab.evaluate("zfcore.parts[crops] = whole")
    explorer.get_by_role("button", name="Next").click()
    explorer.locator('[data-nine="cropProjections"][aria-busy="false"]').wait_for()
    assert nine(explorer, "crops")
    assert explorer.locator(".zf-problem").count() == 0
    reader.close()


def test_the_next_the_previous_any_and_the_nearest_feature_are_found(features):
    number = features.locator('[data-choice="feature"]')
    for name, wanted in (("Next", "5"), ("Previous", "4"), ("Previous", "3")):
        features.get_by_role("button", name=name).click()
        drawn(features)
        assert number.input_value() == wanted
    features.get_by_role("button", name="Any").click()
    drawn(features)
    assert 0 <= int(number.input_value()) < 12
    choose(features, feature=99)
    assert "layer 2 shows 12 features here, and 99 is none of them; the nearest is 11" in (
        features.locator(".zf-status").inner_text()
    )


def test_the_strongest_features_for_a_photograph_are_listed_to_click(features, viewer):
    features.locator('[data-photograph="coffee"]').click()
    features.locator('[data-photograph="coffee"][aria-pressed="true"]').wait_for()
    drawn(features)
    best = viewer.look("coffee", PICTURES["coffee"]).strongest("5", markup.STRONGEST)
    cells = features.locator(".zf-cell:visible")
    assert [int(cell.get_attribute("data-feature")) for cell in cells.all()] == best
    assert features.locator('[data-choice="feature"]').input_value() == str(best[0])
    cells.nth(2).click()
    drawn(features)
    assert features.locator('[data-choice="feature"]').input_value() == str(best[2])
    choose(features, feature=next(n for n in range(12) if n not in best))
    assert features.evaluate("root => [...root.querySelectorAll('.zf-cell')].map(cell => cell.tabIndex)") == (
        [0] + [-1] * (len(best) - 1)
    )


def test_a_link_leads_to_a_feature_and_survives_reload(browser, file):
    reader = Reader(browser)
    tab = reader(f"{file.as_uri()}#feature=layer-3/7")
    explorer = tab.locator('[data-explorer="feature"]')
    drawn(explorer)
    says = explorer.locator(".zf-says")
    assert says.inner_text().startswith("layer 3, feature 7:")
    explorer.get_by_role("button", name="Next").click()
    drawn(explorer)
    assert tab.url.endswith("#feature=layer-3/8")
    tab.reload()
    explorer.locator(".zf-says", has_text="layer 3, feature 8:").wait_for()
    tab.evaluate("location.hash = '#feature=layer-1/2'")
    explorer.locator(".zf-says", has_text="layer 1, feature 2:").wait_for()
    tab.evaluate("() => { history.replaceState = () => { throw new Error('too often'); }; }")
    explorer.get_by_role("button", name="Next").click()
    explorer.locator(".zf-says", has_text="layer 1, feature 3:").wait_for()
    assert copied(explorer, "Copy a link to it") == f"{file.as_uri()}#feature=layer-1/3"
    reader.close()


# ------------------------------------------------------------------------------ beside a photograph
def test_beside_what_a_feature_saw_stands_what_it_looks_for(opened, gallery, viewer):
    explorer = opened.locator('[data-explorer="photo"]')
    explorer.locator('.zf-cell[data-path="5"]').nth(1).click()
    drawn(explorer)
    seen = viewer.look("chelsea", PICTURES["chelsea"])
    best = seen.strongest("5", markup.NAMED)
    explorer.locator(".zf-looks p", has_text=f"what feature {best[1]} looks for").wait_for()
    assert_nine_alike(nine(explorer, "looks"), gallery.projections("5", best[1]), 0)
    names = explorer.locator(".zf-named button")
    wanted = [f"{n}: {', '.join(markup.Nine.of(gallery, '5', n).labels(2))}" for n in best]
    assert names.all_inner_texts() == wanted
    names.nth(3).click()
    drawn(explorer)
    assert explorer.locator('[data-choice="feature"]').input_value() == str(best[3])
    explorer.locator(".zf-looks p", has_text=f"what feature {best[3]} looks for").wait_for()


# ------------------------------------------------------------------------------ invariance
@pytest.mark.parametrize(("shift", "scale", "rotation"), [(3, 1, 0), (0, 1.35, 0), (-5, 1.2, 75)])
def test_a_moved_photograph_is_answered_as_by_python(opened, viewer, shift, scale, rotation):
    explorer = opened.locator('[data-explorer="invariance"]')
    for name, value in (("shift", shift), ("scale", scale), ("rotation", rotation)):
        explorer.locator(f'[data-choice="{name}"]').fill(str(value))
    drawn(explorer)
    moved = viewer.move(viewer.look("chelsea", PICTURES["chelsea"]), shift, scale, rotation)
    assert explorer.locator(".zf-says").inner_text() == markup.WORDS["moved"].format(**moved.words(viewer))
    assert abs(panels(explorer)["moved"].astype(int) - moved.picture).max() <= 1
    assert explorer.locator("output").first.inner_text() == f"{shift} px"


HURRY = """root => new Promise(done => {
    const slider = root.querySelector('[data-choice="shift"]');
    for (const shift of [3, -5]) {
        slider.value = shift;
        slider.dispatchEvent(new Event('input', {bubbles: true}));
    }
    const whenReady = () => root.getAttribute('aria-busy') === 'false' && done(window.heard);
    new MutationObserver(whenReady).observe(root, {attributeFilter: ['aria-busy']});
})"""


def test_each_answer_is_told_with_the_move_that_it_is_the_answer_to(opened, viewer):
    explorer = opened.locator('[data-explorer="invariance"]')
    explorer.get_by_role("button", name="Back to the start").click()
    drawn(explorer)
    explorer.locator(".zf-says").evaluate(HEAR)
    seen = viewer.look("chelsea", PICTURES["chelsea"])
    assert explorer.evaluate(HURRY) == [
        markup.WORDS["moved"].format(**viewer.move(seen, shift).words(viewer)) for shift in (3, -5)
    ]


def test_the_python_of_a_moved_photograph_is_that_of_lab(opened):
    explorer = opened.locator('[data-explorer="invariance"]')
    lab = InvarianceExplorer(small(), CARD, PICTURES, LAYERS)
    for name, value in (("shift", -5), ("scale", 1.2), ("rotation", 75)):
        explorer.locator(f'[data-choice="{name}"]').fill(str(value))
        getattr(lab, name).value = value
    assert copied(explorer, "Copy the Python") == lab.snippet()


def test_the_photograph_goes_back_to_the_start(opened):
    explorer = opened.locator('[data-explorer="invariance"]')
    explorer.locator('[data-choice="rotation"]').fill("90")
    explorer.locator('[data-choice="rotation"]').press("ArrowRight")
    assert explorer.locator('[data-choice="rotation"]').input_value() == "95"
    explorer.get_by_role("button", name="Back to the start").click()
    drawn(explorer)
    values = [
        explorer.locator(f'[data-choice="{name}"]').input_value() for name in ("shift", "scale", "rotation")
    ]
    assert values == ["0", "1", "0"]
    assert "moved by 0 % of their length" in explorer.locator('[data-meter="far"]').inner_text()


# ------------------------------------------------------------------------------ before the network is there
WISHES = """root => {
    for (const [name, value] of [["fill", "black"], ["size", 6]]) {
        const control = root.querySelector(`[data-choice="${name}"]`);
        control.value = value;
        control.dispatchEvent(new Event("input", {bubbles: true}));
    }
    root.querySelector('[data-do="scan"]').click();
}"""


def test_what_is_wished_before_the_network_is_there_comes_true_once_it_is(browser, twins, viewer, tmp_path):
    runtime = assets.asset(assets.RUNTIME, assets.runtime_pack())
    beside = tmp_path / "_static" / "zfcore"
    beside.mkdir(parents=True)
    for name, text in runtime.items():
        (beside / name).write_text(text)
    file = tmp_path / "waiting.html"
    file.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>waiting</title>'
        f"{''.join(twins.values())}<script>{assets.assets_script({assets.RUNTIME: runtime})}</script>"
        f"<script>{assets.script()}</script>",
        encoding="utf-8",
    )
    reader = Reader(browser)
    tab = reader(f"{file.as_uri()}#feature=%E4%A")  # cut off within a letter
    occlusion, features, photo = (
        tab.locator(f'[data-explorer="{kind}"][data-on]') for kind in ("occlusion", "feature", "photo")
    )
    occlusion.locator(".zf-status").evaluate(HEAR)
    occlusion.evaluate(WISHES)
    occlusion.locator(".zf-status", has_text="Scanned 529 places").wait_for()
    heard = tab.evaluate("window.heard")
    assert heard.index(markup.WORDS["loading"]) < heard.index(markup.WORDS["starting"])
    assert occlusion.locator('[data-choice="fill"]').input_value() == "black"
    assert square_of(occlusion)[2] == 6
    assert_says_what_python_says(occlusion, viewer, PICTURES["chelsea"], "black", name="chelsea")
    features.get_by_role("button", name="Next").click()
    features.locator('[data-nine="cropProjections"] li:visible').first.wait_for()
    stage = photo.locator('[data-do="unit"]')
    side = stage.bounding_box()["width"]
    stage.click(position={"x": side * 0.9, "y": side * 0.1})
    drawn(photo)
    unit = [int(photo.locator(f'[data-choice="{name}"]').input_value()) for name in ("row", "column")]
    rows = int(photo.locator('[data-choice="row"]').get_attribute("max")) + 1
    assert unit == [int(0.1 * rows), int(0.9 * rows)]
    reader.close()


def test_the_focus_goes_from_the_button_that_starts_the_network_to_what_it_has_started(
    browser, twins, tmp_path
):
    runtime = assets.asset(assets.RUNTIME, assets.runtime_pack())
    beside = tmp_path / "_static" / "zfcore"
    beside.mkdir(parents=True)
    for name, text in runtime.items():
        (beside / name).write_text(text)
    file = tmp_path / "waiting.html"
    file.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>waiting</title>'
        f"{twins['invariance']}<script>{assets.assets_script({assets.RUNTIME: runtime})}</script>"
        f"<script>{assets.script()}</script>",
        encoding="utf-8",
    )
    reader = Reader(browser)
    tab = reader(file)
    tab.locator('.zf-explorer[data-on] [data-do="load"]').press("Enter")
    drawn(tab.locator(".zf-explorer"))
    assert tab.evaluate("document.activeElement.dataset.photograph") == "chelsea"
    reader.close()


# ------------------------------------------------------------------------------ for everyone
def test_where_the_reader_chose_the_colours_bars_and_the_pressed_photograph_still_show(opened):
    opened.emulate_media(forced_colors="active")
    style = """selector => {
        const {backgroundColor, outlineStyle} = getComputedStyle(document.querySelector(selector));
        return [backgroundColor, outlineStyle];
    }"""
    bars = {opened.evaluate(style, f"{bar} i")[0] for bar in (".zf-guesses", ".zf-meter")}
    pressed = [
        opened.evaluate(style, f'[data-photograph][aria-pressed="{on}"]')[1] for on in ("true", "false")
    ]
    opened.emulate_media(forced_colors="none")
    assert bars == {"rgb(76, 139, 208)"}
    assert pressed == ["solid", "none"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_they_fit_a_phone_and_break_no_rule_of_accessibility(opened, scheme):
    fits_a_phone_and_breaks_no_rule(opened, scheme)


def test_one_network_serves_all_of_them(opened):
    assert len(opened.workers) == 1


# ------------------------------------------------------------------------------ classes of another data set
@pytest.fixture
def classes(gallery):
    return ClassExplorer(gallery, CURVES, CARRIERS, "layer 3")


@pytest.fixture(scope="module")
def lessons(browser, gallery, tmp_path_factory):
    """A page with nothing but a class explorer: it runs no network, so nothing else need be there."""
    path = tmp_path_factory.mktemp("classes") / "classes.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>classes</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><style>:root {color-scheme: light dark}</style>'
        f"<main><h1>Classes</h1>{ClassExplorer(gallery, CURVES, CARRIERS, 'layer 3').to_html()}</main>"
        f"<script>{assets.script()}</script>",
        encoding="utf-8",
    )
    reader = Reader(browser)
    tab = reader(f"{path.as_uri()}#class=cat", viewport={"width": 1000, "height": 1200})
    drawn(tab.locator('[data-explorer="class"][data-on]'))
    yield tab
    reader.close()


def test_a_chosen_class_shows_in_the_page_what_it_shows_in_lab(lessons, classes, gallery):
    explorer = lessons.locator('[data-explorer="class"]')
    for place, name in enumerate(("b<e>e", "ant", "cat")):
        explorer.locator("select").select_option(str(place))
        drawn(explorer)
        classes.chosen.value = name
        lesson = classes.lesson
        assert explorer.locator(".zf-says").inner_text() == lesson.says()
        drawing = explorer.get_by_role("img", name=lesson.alt())
        for shape, wanted in (("polyline", lesson.lines()), ("polygon", lesson.bands())):
            found = [line.get_attribute("points") for line in drawing.locator(shape).all()]
            assert found == wanted
        walls = explorer.locator(".zf-wall:visible")
        shown = [f for f, _ in lesson.carriers if f in gallery.wall("layer 3").features]
        assert walls.count() == len(shown)
        for n, feature in enumerate(shown):
            assert walls.nth(n).locator("p").inner_text().startswith(f"feature {feature}, +")
            assert_nine_alike(nine_of(walls.nth(n)), gallery.projections("layer 3", feature), 4)


def test_the_class_explorer_asks_for_nothing_has_no_ids_and_labels_every_control(classes):
    html = classes.to_html()
    elements = Elements(html)
    assert not elements.restored
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)
    assert not any("id" in a for _, a in elements.tags)
    assert not elements.unlabelled
    controls = [a for tag, a in elements.tags if tag in ("button", "select")]
    assert len(controls) == 4
    assert all("disabled" in a for a in controls)


def nine_of(wall):
    urls = [image.get_attribute("src") for image in wall.locator("li:visible img").all()]
    return [decoded(url).astype(int) for url in urls]


def test_a_class_is_chosen_by_keyboard_and_its_link_survives_reload(lessons):
    explorer = lessons.locator('[data-explorer="class"]')
    explorer.locator("select").select_option("0")
    explorer.locator("select").focus()
    for key in ("Tab", "Tab"):  # Previous, Next
        lessons.keyboard.press(key)
    lessons.keyboard.press("Enter")
    drawn(explorer)
    assert explorer.locator(".zf-says").inner_text().startswith("ant, class 2 of 3")
    assert lessons.url.endswith("#class=ant")
    lessons.keyboard.press("Enter")
    lessons.keyboard.press("Enter")
    drawn(explorer)
    assert (
        explorer.locator(".zf-says").inner_text().startswith("b<e>e, class 1 of 3")
    )  # after the last the first
    lessons.reload()
    explorer.locator(".zf-says", has_text="b<e>e, class 1 of 3").wait_for()
    assert explorer.locator("select").input_value() == "0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_classes_fit_a_phone_and_break_no_rule_of_accessibility(lessons, scheme):
    fits_a_phone_and_breaks_no_rule(lessons, scheme)
