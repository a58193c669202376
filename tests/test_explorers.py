"""The explorers in a page from disk, beside Python's answers; one network for all."""

import base64
import io
import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from browser import (
    PATIENCE,
    Reader,
    assert_sheets_alike,
    choose,
    copied,
    decoded,
    drawn,
    drop,
    fits_a_phone_and_breaks_no_rule,
    panels,
    saved_picture,
    stops_on_a_phone,
    waiting,
    written,
)
from PIL import Image
from samples import CARD, CARRIERS, CURVES, LAYERS, PICTURES, small, sound

from zfcore import assets, markup
from zfcore.gallery import Crops, Gallery
from zfcore.view import CRISP_BELOW, Viewer, beside, colour_map, label_map, percent
from zfcore.widgets import (
    ClassExplorer,
    FeatureExplorer,
    InvarianceExplorer,
    OcclusionExplorer,
    PhotoExplorer,
)


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
    controls = [a for tag, a in sound(twins[kind]).tags if tag in ("button", "input", "select")]
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
def file(twins, explorers_scripts, tmp_path_factory):
    return written(
        tmp_path_factory.mktemp("explorers") / "all.html", "".join(twins.values()), explorers_scripts
    )


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
    choose(explorer, "chelsea", size=8, fill="grey", target=0)
    stage = explorer.locator('[data-do="square"]')
    side = stage.bounding_box()["width"]
    stage.click(position={"x": side / 2, "y": side / 2})
    drawn(explorer)
    assert square_of(explorer) == (10, 10, 8)
    return explorer


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
    choose(occlusion, fill=fill)
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


def test_a_finger_scrolls_the_page_over_a_square_that_no_script_moves(occlusion):
    touch = """stage => [false, true].map(disabled => {
        stage.disabled = disabled;
        return getComputedStyle(stage).touchAction;
    })"""
    stage = occlusion.locator('[data-do="square"]')
    assert stage.evaluate(touch) == ["pinch-zoom", "auto"]
    stage.evaluate("stage => { stage.disabled = false; }")


def test_the_arrow_keys_move_the_square(opened, occlusion, viewer):
    occlusion.locator('[data-do="square"]').focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):
        opened.keyboard.press(key)
    drawn(occlusion)
    assert square_of(occlusion) == (8, 9, 8)
    assert_says_what_python_says(occlusion, viewer, PICTURES["chelsea"])


#: Note every text that an element has had since.
HEAR = """element => {
    window.heard = [];
    const hear = () => window.heard.push(element.textContent);
    new MutationObserver(hear).observe(element, {childList: true, characterData: true, subtree: true});
}"""


def test_the_scan_gives_the_maps_of_python_and_any_place_can_be_gone_back_to(opened, occlusion, viewer):
    choose(occlusion, size=14, fill="blur")
    occlusion.locator(".zf-maps").evaluate(HEAR)
    occlusion.get_by_role("button", name="Scan the whole picture").click()
    occlusion.locator(".zf-status", has_text="Scanned 225 places").wait_for()
    heard = opened.evaluate("window.heard")
    assert len(heard) > 9
    assert not any("NaN" in words for words in heard)
    seen = viewer.look("chelsea", PICTURES["chelsea"])
    for target in (0, 2):  # another class takes no new scan
        choose(occlusion, target=target)
        maps = viewer.scan(viewer.cover(seen, (0, 0), 14, "blur", target), 1)
        shown = panels(occlusion)
        for name, values in (("probability", maps.probability), ("activation", maps.activation)):
            assert shown[name].shape == (15, 15, 3)
            assert abs(shown[name].astype(int) - colour_map(values)).mean() <= 1, name
        np.testing.assert_array_equal(shown["label"], label_map(maps.label)[0])
    legend = occlusion.locator(".zf-legend li").all_inner_texts()
    assert legend == [f"{viewer.label(n)} {percent(share)}" for n, share, _ in label_map(maps.label)[1]]
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
    choose(occlusion, size=14)
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
    const move = async () => {
        const key = new KeyboardEvent("keydown", {key: "ArrowUp", bubbles: true, cancelable: true});
        root.querySelector('[data-do="square"]').dispatchEvent(key);
        do await new Promise(go => setTimeout(go, 1)); while (root.getAttribute("aria-busy") !== "false");
        return key.defaultPrevented;
    };
    button.click();
    const moved = await move();
    const scanning = root.dataset.scanning !== undefined;
    button.click();
    const network = await zfcore.Network.load(JSON.parse(root.querySelector('.zf-state').text).network);
    const { occlude } = network;
    const places = [];
    network.occlude = (wish, lane) => {
        places.push(wish.corners.length);
        return occlude.call(network, wish, lane);
    };
    await move(); // it is answered after what the scan had asked before it was stopped
    delete network.occlude;
    return [moved, scanning, places];
}"""


def test_a_scan_can_be_stopped_and_leaves_time_for_the_readers_hand(occlusion):
    assert occlusion.evaluate(MOVE_AND_STOP) == [True, True, [1]]
    assert square_of(occlusion) == (8, 10, 8)
    assert occlusion.get_by_role("button", name="Scan the whole picture").is_visible()
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
    choose(occlusion, fill="blur")
    pixels = PICTURES["coffee"].pixels
    pictures = {"mine.png": pixels[100:260, 120:350], "mine.png (2)": pixels[:160, 200:400]}
    for name, picture in pictures.items():  # in files of one name
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        occlusion.locator(".zf-says").evaluate("says => { says.textContent = ''; }")
        drop(occlusion, "mine.png", stream.getvalue())
        occlusion.locator(".zf-says", has_text=f"{name} with a square of 8×8 pixels hidden").wait_for()
        drawn(occlusion)
        best = int(viewer.cover(viewer.look("x", stream)).whole[0].argmax())
        assert occlusion.locator('[data-choice="target"]').input_value() == str(best)
        assert_says_what_python_says(occlusion, viewer, stream, "blur", best, name)


def test_the_square_and_its_maps_are_saved(occlusion, viewer):
    name, saved = saved_picture(occlusion)
    assert name == "chelsea-occluded-at-10-10-size-8.png"
    covered = viewer.cover(viewer.look("x", PICTURES["chelsea"]), (10, 10), 8)
    cells = [(covered.view, (covered.square, 28))]
    wanted = beside(cells)
    assert_sheets_alike(saved, wanted, smooth=[0])
    square = np.s_[160:288, 160:288]  # 16 pixels of the sheet for each of the network's
    assert abs(saved[square].astype(int) - wanted[square]).mean() <= 2
    choose(occlusion, size=14)
    occlusion.get_by_role("button", name="Scan the whole picture").click()
    occlusion.locator(".zf-status", has_text="Scanned 225 places").wait_for()
    covered = viewer.cover(viewer.look("x", PICTURES["chelsea"]), (7, 7), 14)
    maps = markup.occlusion_panels(viewer.scan(covered, 1)).values()
    wanted = beside([(covered.view, (covered.square, 28)), *((pixels, None) for pixels in maps)])
    name, saved = saved_picture(occlusion)
    assert name == "chelsea-occluded-at-7-7-size-14.png"
    assert_sheets_alike(saved, wanted, smooth=[0])


def test_the_python_of_a_scan_is_that_of_lab(occlusion):
    lab = OcclusionExplorer(small(), CARD, PICTURES, LAYERS)
    choose(occlusion, fill="blur", size=12, target=2)
    lab.fill.value, lab.size.value, lab.target.value = "blur", 12, 2
    assert copied(occlusion, "Copy the Python") == lab.snippet()


# ------------------------------------------------------------------------------ features
@pytest.fixture
def features(opened):
    explorer = opened.locator('[data-explorer="feature"]')
    choose(explorer, layer="5", feature=4)
    return explorer


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
    choose(features, layer=layer, feature=feature)
    hits = [hit for hit in gallery.hits(layer, feature) if hit]
    assert_nine_alike(nine(features, "projections"), gallery.projections(layer, feature)[: len(hits)], 0)
    assert_nine_alike(nine(features, "patches"), gallery.patches(layer, feature)[: len(hits)], 0)
    assert features.locator(".zf-says").inner_text() == markup.Nine.of(gallery, layer, feature).says()
    told = features.locator(".zf-hits li").all_inner_texts()
    assert [words.rpartition(", ")[0] for words in told] == [hit.picture for hit in hits]
    wanted = markup.Nine.of(gallery, layer, feature).words()
    assert told == [words.partition(". ")[2] for words in wanted if words]


def test_the_photographs_strongest_crops_are_cut_and_projected_in_the_page(features, crops):
    choose(features, layer="5", feature=9)
    features.locator('[data-nine="cropProjections"][aria-busy="false"]').wait_for()
    wanted = markup.Nine.of(crops, "5", 9)
    places = [crops.wall("5").place(hit) for hit in wanted.hits if hit]  # Python's cells are padded
    patches, projections = (
        [cells[n][place] for n, place in enumerate(places)] for cells in (wanted.patches, wanted.projections)
    )
    assert places
    assert_nine_alike(nine(features, "crops"), patches, 2)  # the photographs come along as lossy WebP
    assert_nine_alike(nine(features, "cropProjections"), projections, 12)


def test_crops_that_did_not_arrive_are_asked_for_again_by_the_next_click(
    browser, twins, explorers_scripts, tmp_path
):
    damage = """<script>
        const [crops] = Object.keys(zfcore.parts).filter(name => name.startsWith("crops-"));
        const whole = zfcore.parts[crops];
        zfcore.parts[crops] = "AAAA";
    </script>"""
    reader = Reader(browser)
    tab = reader(written(tmp_path / "damaged.html", twins["feature"] + damage, explorers_scripts))
    explorer = tab.locator('[data-explorer="feature"]')
    damaged = explorer.locator(".zf-problem", has_text="what arrived is damaged; build the book again")
    damaged.wait_for()
    explorer.get_by_role("button", name="Next").click()
    explorer.locator(".zf-says", has_text="layer 2, feature 5:").wait_for()
    damaged.wait_for()
    explorer.locator('[data-nine="cropProjections"][aria-busy="false"]').wait_for(state="attached")
    tab.evaluate("zfcore.parts[crops] = whole")
    explorer.get_by_role("button", name="Next").click()
    explorer.locator('[data-nine="cropProjections"][aria-busy="false"]').wait_for()
    assert nine(explorer, "crops")
    assert explorer.locator(".zf-problem").count() == 0
    reader.close()


def test_a_feature_is_saved_and_its_python_is_that_of_lab(features, gallery, crops):
    name, saved = saved_picture(features)
    assert name == "layer-2-feature-4-nine-strongest.png"
    np.testing.assert_array_equal(saved, markup.Nine.of(gallery, "5", 4).sheet())
    lab = FeatureExplorer(small(), CARD, gallery, PICTURES, crops=crops, layer="layer 2", feature=4)
    assert copied(features, "Copy the Python") == lab.snippet()


def test_small_pictures_keep_their_cells_and_others_do_not(browser, twins, tmp_path):
    html = twins["feature"].replace(f'"crispBelow":{CRISP_BELOW}', '"crispBelow":12')
    reader = Reader(browser)
    explorer = reader(waiting(tmp_path / "crisp.html", html)).locator(".zf-explorer[data-on]")
    crisp = """root => ["projections", "patches", "crops"].map(name =>
        root.querySelector(`[data-nine=${name}] li:not([hidden]) img`).matches(".zf-crisp"))"""
    for layer, small_ones in (("8", False), ("1", True)):  # 23 and 5 pixels wide
        choose(explorer, layer=layer)
        explorer.locator('[data-nine="cropProjections"][aria-busy="false"]').wait_for(state="attached")
        assert explorer.evaluate(crisp) == [small_ones] * 3
    reader.close()


def test_a_feature_that_nothing_excites_is_told(browser, gallery, tmp_path):
    wall = gallery.wall("5")
    some = replace(wall, hits={3: wall.hits[3], 5: (None,) * 9})
    few = Gallery([some], gallery.about, gallery._projections, None)
    html = FeatureExplorer(small(), CARD, few, PICTURES, layer="layer 2", feature=3).to_html()
    reader = Reader(browser)
    explorer = reader(waiting(tmp_path / "silent.html", html)).locator(".zf-explorer")
    explorer.get_by_role("button", name="Next").click()
    explorer.locator(".zf-says", has_text=markup.Nine.of(few, "5", 5).says()).wait_for()
    assert explorer.locator(".zf-says").inner_text() == (
        markup.WORDS["dead"].format(layer="layer 2", feature=5)
    )
    assert nine(explorer, "projections") == []
    reader.close()


def test_the_next_the_previous_any_and_the_nearest_feature_are_found(opened, features):
    number = features.locator('[data-choice="feature"]')
    for name, wanted in (("Next", "5"), ("Previous", "4"), ("Previous", "3")):
        features.get_by_role("button", name=name).click()
        drawn(features)
        assert number.input_value() == wanted
    opened.evaluate("() => { window.chance = Math.random; Math.random = () => 0.999; }")
    features.get_by_role("button", name="Any").click()
    drawn(features)
    opened.evaluate("() => { Math.random = window.chance; }")
    assert number.input_value() == "11"
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


def test_on_a_phone_the_strongest_features_have_a_tab_stop_in_sight(opened, features):
    choose(features, "coffee")
    features.locator(".zf-cell:visible").last.click()
    drawn(features)
    assert stops_on_a_phone(opened, features) == [True]


def test_the_arrow_keys_go_from_one_strongest_feature_to_the_next(opened, features, viewer):
    choose(features, "coffee")
    best = viewer.look("coffee", PICTURES["coffee"]).strongest("5", markup.STRONGEST)
    features.locator('.zf-cell[aria-checked="true"]').focus()
    for key, place in (("Right", 1), ("Down", 2), ("Left", 1), ("Up", 0), ("Up", 0)):
        opened.keyboard.press(f"Arrow{key}")
        drawn(features)
        assert opened.evaluate("document.activeElement.dataset.feature") == str(best[place])
        assert features.locator('[data-choice="feature"]').input_value() == str(best[place])
        assert features.locator('[aria-checked="true"]').get_attribute("data-feature") == str(best[place])


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
    choose(explorer, "chelsea")
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


def test_features_that_the_page_does_not_show_are_called_by_their_numbers(
    browser, gallery, viewer, explorers_scripts, tmp_path, monkeypatch
):
    monkeypatch.setattr(assets, "KEPT", 3)  # of layer 2 the features 0, 6 and 11
    html = PhotoExplorer(small(), CARD, PICTURES, LAYERS, gallery=gallery).to_html()
    reader = Reader(browser)
    explorer = reader(written(tmp_path / "few.html", html, explorers_scripts)).locator(".zf-explorer")
    drawn(explorer)
    best = viewer.look("chelsea", PICTURES["chelsea"]).strongest("5", markup.NAMED)
    kept = [n for n in best if n in (0, 6, 11)]
    assert 0 < len(kept) < len(best)
    choose(explorer, cell="5", feature=next(n for n in best if n not in kept))
    names = [
        f"{n}: {', '.join(markup.Nine.of(gallery, '5', n).labels(2))}" if n in kept else f"{n}" for n in best
    ]
    for name, button in zip(names, explorer.locator(".zf-named button").all(), strict=True):
        assert button.inner_text() == name
    assert explorer.locator(".zf-looks").is_hidden()
    choose(explorer, feature=kept[0])
    explorer.locator(".zf-looks", has_text=f"what feature {kept[0]} looks for").wait_for()
    reader.close()


# ------------------------------------------------------------------------------ invariance
@pytest.fixture
def invariance(opened):
    """The invariance explorer with the cat as it was."""
    explorer = opened.locator('[data-explorer="invariance"]')
    choose(explorer, "chelsea", shift=0, scale=1, rotation=0)
    return explorer


def assert_answers_as_python(explorer, viewer, moved):
    assert explorer.locator(".zf-says").inner_text() == markup.WORDS["moved"].format(**moved.words(viewer))
    assert abs(panels(explorer)["moved"].astype(int) - moved.picture).max() <= 1


@pytest.mark.parametrize(("shift", "scale", "rotation"), [(3, 1, 0), (0, 1.35, 0), (-5, 1.2, 75)])
def test_a_moved_photograph_is_answered_as_by_python(invariance, viewer, shift, scale, rotation):
    choose(invariance, shift=shift, scale=scale, rotation=rotation)
    moved = viewer.move(viewer.look("chelsea", PICTURES["chelsea"]), shift, scale, rotation)
    assert_answers_as_python(invariance, viewer, moved)
    assert invariance.locator("output").first.inner_text() == f"{shift} px"


def test_another_photograph_is_moved_as_far_and_asked_for_its_own_class(invariance, viewer):
    choose(invariance, rotation=35)
    choose(invariance, "coffee")
    moved = viewer.move(viewer.look("coffee", PICTURES["coffee"]), rotation=35)
    assert_answers_as_python(invariance, viewer, moved)
    other = (moved.target + 1) % 4
    choose(invariance, target=other)
    seen = viewer.look("coffee", PICTURES["coffee"])
    assert_answers_as_python(invariance, viewer, viewer.move(seen, rotation=35, target=other))


def test_a_picture_of_ones_own_is_moved(invariance, viewer):
    stream = io.BytesIO()
    Image.fromarray(PICTURES["coffee"].pixels[100:260, 120:350]).save(stream, "PNG")
    choose(invariance, shift=3)
    drop(invariance, "mine.png", stream.getvalue())
    invariance.locator('[data-photograph="mine.png"][aria-pressed="true"]').wait_for()
    drawn(invariance)
    assert_answers_as_python(invariance, viewer, viewer.move(viewer.look("mine.png", stream), 3))


def test_a_moved_photograph_is_saved(invariance, viewer):
    choose(invariance, shift=3, scale=1.2, rotation=75)
    moved = viewer.move(viewer.look("chelsea", PICTURES["chelsea"]), 3, 1.2, 75)
    name, saved = saved_picture(invariance)
    assert name == "chelsea-shifted-3-scaled-1.2-turned-75.png"
    assert_sheets_alike(saved, beside([(moved.seen.view, None), (moved.picture, None)]), smooth=[0, 1])


HURRY = """root => new Promise(done => {
    const slider = root.querySelector('[data-choice="shift"]');
    for (const shift of [3, -5]) {
        slider.value = shift;
        slider.dispatchEvent(new Event('input', {bubbles: true}));
    }
    const whenReady = () => root.getAttribute('aria-busy') === 'false' && done(window.heard);
    new MutationObserver(whenReady).observe(root, {attributeFilter: ['aria-busy']});
})"""


def test_each_answer_is_told_with_the_move_that_it_is_the_answer_to(invariance, viewer):
    invariance.locator(".zf-says").evaluate(HEAR)
    seen = viewer.look("chelsea", PICTURES["chelsea"])
    assert invariance.evaluate(HURRY) == [
        markup.WORDS["moved"].format(**viewer.move(seen, shift).words(viewer)) for shift in (3, -5)
    ]


def test_the_python_of_a_moved_photograph_is_that_of_lab(invariance):
    lab = InvarianceExplorer(small(), CARD, PICTURES, LAYERS)
    for name, value in (("shift", -5), ("scale", 1.2), ("rotation", 75)):
        choose(invariance, **{name: value})
        getattr(lab, name).value = value
    assert copied(invariance, "Copy the Python") == lab.snippet()


def test_the_photograph_goes_back_to_the_start(invariance):
    choose(invariance, shift=3, scale=1.2, rotation=90)
    rotation = invariance.locator('[data-choice="rotation"]')
    rotation.press("ArrowRight")
    assert rotation.input_value() == "95"
    invariance.get_by_role("button", name="Back to the start").click()
    drawn(invariance)
    values = [
        invariance.locator(f'[data-choice="{name}"]').input_value() for name in ("shift", "scale", "rotation")
    ]
    assert values == ["0", "1", "0"]
    assert "moved by 0 % of their length" in invariance.locator('[data-meter="far"]').inner_text()


# ------------------------------------------------------------------------------ before the network is there
#: Replace every piece of what the page's explorer shows, or take it away.
PIECES = """
    const state = JSON.parse(document.querySelector('.zf-state').text);
    for (const file of state.gallery.layers.flatMap(({asset}) => zfcore.assets[asset].files)) {
"""
DEAF_WORKER = """
    zfcore.parts['runtime.0.js'] = 'AAAA';
    const broken = URL.createObjectURL(new Blob(['throw new Error("out of stack")']));
    window.Worker = class extends Worker { constructor() { super(broken); } };
"""
HIDDEN = "CanvasRenderingContext2D.prototype.getImageData = () => ({data: [255, 254, 255, 255]});"
NO_PICTURES = base64.b64encode(assets.pack({"hits.json": b"[]"})).decode()


@pytest.mark.parametrize(
    ("kind", "fault", "told"),
    [
        ("photo", DEAF_WORKER, "the network stopped: Uncaught Error: out of stack"),
        ("photo", "", "runtime.0.js is damaged; build the book again"),
        ("photo", HIDDEN, "this browser hides the pixels of pictures from pages (a privacy setting)"),
        ("feature", f"{PIECES} zfcore.parts[file] = '{NO_PICTURES}'; }}", "a picture is missing"),
        ("feature", HIDDEN, "this browser hides the pixels of pictures from pages (a privacy setting)"),
        ("class", f"{PIECES} delete zfcore.parts[file]; }}", ".js did not arrive; is the book's folder"),
        ("class", "delete globalThis.DecompressionStream;", "too old to run the network: it lacks Decomp"),
    ],
    ids=["worker", "piece", "pixels", "picture", "gallery's pixels", "sprites", "old"],
)  # fmt: skip
def test_what_fails_in_a_page_is_told(browser, twins, classes, tmp_path, kind, fault, told):
    (tmp_path / "_static" / "zfcore").mkdir(parents=True)
    (tmp_path / "_static" / "zfcore" / "runtime.0.js").write_text("// nothing of what it should bring")
    html = classes.to_html() if kind == "class" else twins[kind]
    context = browser.new_context(offline=True)  # no Reader: what does not arrive is logged as an error
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(waiting(tmp_path / f"{kind}.html", html, fault).as_uri())
    if kind == "photo":
        stream = io.BytesIO()
        Image.new("RGB", (40, 40)).save(stream, "PNG")
        drop(page.locator(".zf-explorer"), "mine.png", stream.getvalue())
    else:
        page.get_by_role("button", name="Next").click()
    page.locator(".zf-problem", has_text=told).wait_for()
    assert not page.locator(".zf-carriers .zf-wall").filter(visible=True).count()  # another class's
    context.close()


def waiting_beside(folder, runtime, html):
    """Write a page whose network is inside it and whose runtime lies beside it, until it is wanted."""
    beside = folder / "_static" / "zfcore"
    beside.mkdir(parents=True)
    for name, text in runtime.items():
        (beside / name).write_text(text)
    scripts = f"<script>{assets.assets_script({assets.RUNTIME: runtime})}{assets.script()}</script>"
    return written(folder / "waiting.html", html, scripts)


WISHES = """root => {
    for (const [name, value] of [["fill", "black"], ["size", 6]]) {
        const control = root.querySelector(`[data-choice="${name}"]`);
        control.value = value;
        control.dispatchEvent(new Event("input", {bubbles: true}));
    }
    root.querySelector('[data-do="scan"]').click();
}"""


def test_what_is_wished_before_the_network_is_there_comes_true_once_it_is(
    browser, twins, viewer, runtime, tmp_path
):
    file = waiting_beside(tmp_path, runtime, "".join(twins.values()))
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


#: Choose by controls' names, and "coffee" and a small map by a click, all before anything else happens.
HASTY = """(root, choices) => {
    for (const [name, value] of choices) {
        if (name === "click") root.querySelector(value).click();
        else {
            const control = root.querySelector(`[data-choice="${name}"]`);
            control.value = value;
            control.dispatchEvent(new Event("input", {bubbles: true}));
        }
    }
}"""


def test_what_is_chosen_while_the_network_loads_is_kept_in_its_order(
    browser, twins, viewer, runtime, tmp_path
):
    reader = Reader(browser)
    tab = reader(waiting_beside(tmp_path, runtime, "".join(twins.values())))
    photo, occlusion, invariance = (
        tab.locator(f'[data-explorer="{kind}"][data-on]') for kind in ("photo", "occlusion", "invariance")
    )
    coffee = ["click", '[data-photograph="coffee"]']
    photo.evaluate(HASTY, [coffee, ["click", '[data-path="8"]'], ["row", 4]])
    occlusion.evaluate(HASTY, [coffee, ["target", 2], ["size", 6]])
    invariance.evaluate(HASTY, [["target", 3], coffee, ["shift", 3], ["target", 2]])
    for explorer in (photo, occlusion, invariance):
        explorer.locator('[data-photograph="coffee"][aria-pressed="true"]').wait_for()
        drawn(explorer)
    seen = viewer.look("coffee", PICTURES["coffee"])
    feature = int(photo.locator('[data-choice="feature"]').input_value())
    assert feature == viewer.look("x", PICTURES["chelsea"]).strongest("8", 1)[0]  # what was clicked
    unit = (4, seen.strongest_unit("8", feature)[1])
    assert photo.locator(".zf-says").inner_text() == viewer.frame(seen, "8", feature, unit).says()
    assert square_of(occlusion)[2] == 6
    assert_says_what_python_says(occlusion, viewer, PICTURES["coffee"], target=2, name="coffee")
    assert_answers_as_python(invariance, viewer, viewer.move(seen, 3, target=2))
    for explorer in (occlusion, invariance):
        assert explorer.locator('[data-choice="target"]').input_value() == "2"
    reader.close()


#: Let no crop be cut before the page is told to.
HOLD = """() => {
    const cut = createImageBitmap;
    const told = new Promise(resolve => { window.goOn = resolve; });
    window.createImageBitmap = (...given) => told.then(() => cut(...given));
}"""


def test_the_strongest_features_follow_where_another_explorer_starts_the_network(
    browser, twins, viewer, runtime, tmp_path
):
    reader = Reader(browser)
    tab = reader(waiting_beside(tmp_path, runtime, twins["feature"] + twins["invariance"]))
    features, invariance = (
        tab.locator(f'[data-explorer="{kind}"][data-on]') for kind in ("feature", "invariance")
    )
    cells = features.locator(".zf-cell")
    cells.nth(3).click()
    drawn(features)
    marked = "cells => cells.map(cell => [cell.getAttribute('aria-checked'), cell.tabIndex])"
    wanted = [["true", 0] if n == 3 else ["false", -1] for n in range(markup.STRONGEST)]
    assert cells.evaluate_all(marked) == wanted
    choose(features, layer="1")
    assert cells.evaluate_all(marked) == [["false", 0], *[["false", -1]] * (markup.STRONGEST - 1)]
    tab.evaluate(HOLD)
    features.get_by_role("button", name="Next").click()
    invariance.get_by_role("button", name="Start the network").click()
    drawn(invariance)
    tab.evaluate("window.goOn()")  # of crops that were asked for without a network there are no projections
    features.locator('[data-nine="cropProjections"][aria-busy="false"]').wait_for(state="attached")
    assert features.locator(".zf-problem").count() == 0
    choose(features, feature=5)
    features.locator('.zf-cell[data-path="1"]').first.wait_for()
    seen = viewer.look("chelsea", PICTURES["chelsea"])
    best = seen.strongest("1", markup.STRONGEST)
    assert [int(cell.get_attribute("data-feature")) for cell in cells.all()] == best
    assert features.locator('[aria-checked="true"]').get_attribute("data-feature") == "5"
    choose(features, layer="8")  # in Lab, too, another layer begins with its strongest feature
    strongest = seen.strongest("8", 1)[0]
    features.locator(".zf-says", has_text=f"layer 3, feature {strongest}:").wait_for()
    reader.close()


def test_the_focus_goes_from_the_button_that_starts_the_network_to_what_it_has_started(
    browser, twins, runtime, tmp_path
):
    reader = Reader(browser)
    tab = reader(waiting_beside(tmp_path, runtime, twins["invariance"]))
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
    written(path, ClassExplorer(gallery, CURVES, CARRIERS, "layer 3").to_html())
    reader = Reader(browser)
    tab = reader(f"{path.as_uri()}#class=cat", viewport={"width": 1000, "height": 1200})
    tab.locator(".zf-says", has_text="cat, class 3 of 3").wait_for()
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
    controls = [a for tag, a in sound(classes.to_html()).tags if tag in ("button", "select")]
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


def test_a_link_to_a_class_is_copied_and_followed(lessons):
    explorer = lessons.locator('[data-explorer="class"]')
    explorer.locator("select").select_option("0")
    page = lessons.url.partition("#")[0]
    assert copied(explorer, "Copy a link to it") == f"{page}#class=b%3Ce%3Ee"
    lessons.evaluate("location.hash = '#class=ant'")
    explorer.locator(".zf-says", has_text="ant, class 2 of 3").wait_for()
    assert explorer.locator("select").input_value() == "1"
    lessons.evaluate("location.hash = '#class=dog'")  # no class of these: nothing changes
    lessons.evaluate("location.hash = '#class=b%3Ce%3Ee'")
    explorer.locator(".zf-says", has_text="b<e>e, class 1 of 3").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_classes_fit_a_phone_and_break_no_rule_of_accessibility(lessons, scheme):
    fits_a_phone_and_breaks_no_rule(lessons, scheme)
