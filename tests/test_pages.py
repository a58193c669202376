"""The built pages in Chromium, from disk and with the network cut: what a reader of the zip sees."""

import functools
import http.server
import io
import re
import threading
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import Reader, broken_rules, choose, drawn, drop, firefox, panels
from PIL import Image

from zfcore.claims import count, read_claims
from zfcore.data import photographs
from zfcore.evidence import CONTRADICTED, NOT_RUN, REPRODUCED, UNTESTABLE
from zfcore.model import load
from zfcore.publish import pages, publish
from zfcore.view import Viewer
from zfcore.widgets import PhotoExplorer

ROOT = Path(__file__).parent.parent
NAMES = [page.stem for page in pages(ROOT)]
GENERATED = ["search", "genindex", "py-modindex"]  # Sphinx's own
PHONE = {"width": 390, "height": 844}
PHOTO = '.zf-explorer[data-explorer="photo"]'  # a page may hold explorers of several kinds


@pytest.fixture(scope="session")
def html():
    """The folder of the built book; nothing is built again where nothing has changed."""
    return publish(ROOT, {"scale": "embedded", "device": "cpu", "seed": 0}).parent


@pytest.fixture
def reader(browser):
    """Open pages in a fresh profile without a network; afterwards tell of every request and error."""
    reader = Reader(browser)
    yield reader
    reader.close()


def chapter(html, name):
    return html / f"{name}.html" if name in GENERATED else html / "book" / f"{name}.html"


def settled(page):
    """Have brought what waits for the reader, and the page laid out with it: formulas, pictures, fonts."""
    page.evaluate("dispatchEvent(new Event('scroll'))")
    page.wait_for_function(
        "() => !document.querySelector('script[data-brings]') || window.MathJax?.startup?.promise"
    )
    page.evaluate("""async () => {
        await window.MathJax?.startup?.promise;
        const come = image => new Promise(resolve => { image.onload = image.onerror = resolve; });
        for (const image of document.images) image.loading = "eager";
        await Promise.all([...document.images].filter(image => !image.complete).map(come));
        await document.fonts.ready;
        for (const _ of [1, 2]) await new Promise(requestAnimationFrame);
    }""")


# ------------------------------------------------------------------------------ every page
@pytest.mark.parametrize("name", NAMES)
def test_a_page_stands_alone(reader, html, name):
    page = reader(chapter(html, name))
    settled(page)
    formulas = page.locator(".math:not(:has(mjx-container))")
    assert [formula.inner_text() for formula in formulas.all()] == [], "formulas that are not typeset"
    assert page.locator("mjx-container mjx-merror, mjx-container [data-mjx-error]").count() == 0
    broken = page.evaluate("""() => [...document.images]
        .filter(image => image.complete && image.naturalWidth === 0).map(image => image.src.slice(0, 100))""")
    assert not broken, "pictures that do not load"
    silent = page.evaluate("""() => [...document.querySelectorAll('article img')]
        .filter(image => !image.alt.includes(' '))
        .filter(image => !(image.alt === '' && image.closest('button[title], [hidden]')))
        .map(image => image.src.slice(0, 100))""")
    assert not silent, "pictures without alt text"


# What sticks out of a window so wide (a phone's grows with what it shows), unless the reader can scroll to it
# inside something that fits.
OVERFLOW = """width => {
    const scrolls = element => ['auto', 'scroll'].includes(getComputedStyle(element).overflowX);
    const reachable = element => {
        for (let box = element.parentElement; box; box = box.parentElement) if (scrolls(box)) return true;
        return false;
    };
    const outside = [...document.querySelectorAll('article *, footer *')].filter(element => {
        const box = element.getBoundingClientRect();
        return box.width > 1 && (box.right > width + 1 || box.left < -1) && !reachable(element);
    });
    return [document.documentElement.scrollWidth, outside.slice(0, 8).map(e => e.outerHTML.slice(0, 150))];
}"""


def serious_faults(page):
    return [found for found in broken_rules(page) if found[0] in ("serious", "critical")]


@pytest.mark.parametrize("name", NAMES + GENERATED)
def test_a_page_fits_a_phone_and_is_accessible_there(reader, html, name):
    page = reader(chapter(html, name), viewport=PHONE, is_mobile=True, has_touch=True)
    settled(page)
    width, offenders = page.evaluate(OVERFLOW, PHONE["width"])
    assert not offenders
    assert width <= PHONE["width"]
    assert not serious_faults(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES + GENERATED)
def test_a_page_breaks_no_serious_rule_of_accessibility(reader, html, name, scheme):
    page = reader(chapter(html, name), color_scheme=scheme)
    settled(page)
    assert not serious_faults(page)


def test_the_index_shows_how_many_claims_have_each_verdict(reader, html):
    counted = count(read_claims())
    text = " ".join(reader(chapter(html, "index")).locator("article").inner_text().split())
    assert f"Of {sum(counted.values())} claims" in text
    assert re.search(
        f"{counted[REPRODUCED]} are reproduced by this book.s results, {counted[CONTRADICTED]} are "
        f"contradicted, and {counted[UNTESTABLE]} cannot be tested at this scale",
        text,
    )
    assert (f"; {counted[NOT_RUN]} wait" in text) == (counted[NOT_RUN] > 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_weighs_at_most_3_megabytes_before_the_reader_stirs(browser, html, name):
    """Without MathJax, 2.1 MB, which comes at once where a page begins with a formula, and not elsewhere."""
    # A browser that takes itself to be offline brings every picture at once.
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, asked = context.new_page(), set()
    page.on("request", lambda request: asked.add(request.url.partition("?")[0]))
    page.goto(chapter(html, name).as_uri())
    page.wait_for_load_state("load")
    page.evaluate("() => new Promise(done => requestIdleCallback(() => setTimeout(done, 1000)))")
    files = [Path(url.removeprefix("file://")) for url in asked if url.startswith("file:")]
    assert chapter(html, name) in files, "what is asked for is seen at all"
    own = [file.stat().st_size for file in files if "mathjax" not in file.parts]
    assert sum(own) <= 3e6
    near = page.locator(".math").evaluate_all(
        "(all, limit) => all.some(one => one.getClientRects()[0]?.top < limit)", 1.2 * 900
    )
    assert near or all(file.name == "approach.js" for file in files if "mathjax" in file.parts)
    context.close()


# ------------------------------------------------------------------------------ explorers
def megabytes(html, asked):
    """What the explorers of a page have loaded."""
    files = {Path(url.removeprefix("file://").partition("?")[0]) for url in asked}
    return sum(file.stat().st_size for file in files if file.name not in ("assets.js", "explorer.js")) / 1e6


@pytest.fixture(scope="module")
def alive(browser, html):
    """The first page with its network started; opened once, since that takes seconds."""
    reader = Reader(browser)
    page = reader(chapter(html, "index"))
    explorer = page.locator(PHOTO).first
    before = [url for url in reader.asked if "/_static/zfcore/" in url]
    told = explorer.locator(".zf-size").inner_text()
    explorer.get_by_role("button", name="Start the network").click()
    drawn(explorer)
    page.loaded = megabytes(html, [url for url in reader.asked if "/_static/zfcore/" in url])
    page.loaded_before, page.told = megabytes(html, before), told
    yield page
    reader.close()


@pytest.fixture
def explorer(alive):
    return alive.locator(PHOTO).first


def test_nothing_is_loaded_before_the_first_click_and_at_most_25_megabytes_after(alive):
    assert alive.loaded_before == 0
    assert 1 < alive.loaded <= 25
    assert f"{round(alive.loaded)} MB" in alive.told
    assert alive.locator(".zf-begin").first.is_hidden()


def test_the_network_shows_what_the_page_showed_before_it_came(reader, html, alive, explorer):
    still = panels(reader(chapter(html, "index"), java_script_enabled=False).locator(PHOTO).first)
    start = explorer.locator('[data-photograph="chelsea"]')
    start.click()
    drawn(explorer)
    shown = panels(explorer)
    for name in still:
        if name != "photograph":
            assert shown[name].shape == still[name].shape, name
            assert abs(shown[name].astype(int) - still[name]).mean() <= 1, name


def picture_file():
    """A photograph of one's own, as PNG."""
    stream = io.BytesIO()
    Image.fromarray(photographs()["flower"].pixels[40:400, 100:500]).save(stream, "PNG")
    return stream.getvalue()


def test_a_dropped_picture_looks_in_the_page_as_in_lab(explorer):
    blob = picture_file()
    drop(explorer, "mine.png", blob)
    explorer.locator('[data-photograph="mine.png"][aria-pressed="true"]').wait_for()
    explorer.locator('[data-path="features.13"]').first.click()
    choose(explorer, feature=17, row=5, column=9)
    lab = PhotoExplorer(*load("zfnet-64"), {"mine.png": io.BytesIO(blob)})
    lab.layer.value, lab.feature.value, lab.row.value, lab.column.value = "layer 5", 17, 5, 9
    shown = panels(explorer)
    for name, pixels in lab.frame.panels().items():
        if name != "photograph":
            assert shown[name].shape == pixels.shape, name
            assert abs(shown[name].astype(int) - pixels).mean() <= 1, name
    assert explorer.locator(".zf-says").inner_text() == lab.frame.says()
    labels = explorer.locator(".zf-guesses li span").all_inner_texts()
    assert labels == [words for words, _, _ in lab.frame.seen.guesses]


def test_every_control_of_the_explorer_changes_the_picture(alive, explorer):
    state = "root => [...root.querySelectorAll('figure img')].map(image => image.src).join('|')"
    explorer.locator('[data-photograph="coffee"]').click()
    drawn(explorer)
    for control in (
        lambda: explorer.locator('[data-photograph="rocket"]').click(),
        lambda: explorer.locator('[data-path="features.5"]').nth(2).click(),
        lambda: explorer.locator('[data-choice="feature"]').fill("99"),
        lambda: explorer.locator('[data-choice="row"]').fill("3"),
        lambda: explorer.locator('[data-choice="column"]').fill("20"),
        lambda: explorer.get_by_role("button", name="Strongest unit").click(),
    ):
        before = explorer.evaluate(state)
        control()
        alive.wait_for_function(
            f"([root, before]) => ({state})(root) !== before", arg=[explorer.element_handle(), before]
        )


def test_the_page_answers_while_the_network_works(alive, explorer):
    answered = explorer.evaluate("""async root => {
        const network = await zfcore.Network.load(JSON.parse(root.querySelector('.zf-state').text).network);
        const picture = new Float32Array(3 * 56 * 56);
        let answered = false;
        setTimeout(() => { answered = true; });
        await network.occlude({picture, size: [16, 16], stride: 8, fill: 0});
        return answered;
    }""")
    assert answered


def test_the_book_opens_with_an_explorer(reader, html):
    page = reader(html / "index.html")
    page.wait_for_url("**/book/index.html")
    assert page.locator(".zf-explorer[data-on]").count() >= 1


def test_a_page_without_explorers_brings_none_of_their_scripts(reader, html):
    page = reader(chapter(html, "02_approach"))
    assert page.locator(".zf-explorer").count() == 0
    assert not [url for url in reader.asked if "/zfcore/" in url]


@pytest.mark.parametrize("name", NAMES)
def test_every_explorer_of_a_page_comes_alive_and_brings_nothing_before_a_click(reader, html, name):
    page = reader(chapter(html, name))
    explorers = page.locator(".zf-explorer")
    assert page.locator(".zf-explorer[data-on]").count() == explorers.count()
    if explorers.count():
        assert megabytes(html, [url for url in reader.asked if "/_static/zfcore/" in url]) == 0
        assert page.locator(".zf-explorer [data-do]:enabled").count() >= explorers.count()


def test_without_scripts_an_explorer_still_shows_its_first_picture(reader, html):
    page = reader(chapter(html, "index"), java_script_enabled=False)
    assert page.locator(".zf-explorer figure img").first.is_visible()
    assert page.locator(".zf-explorer [data-photograph]").first.is_disabled()
    assert not page.get_by_role("button", name="Start the network").is_visible()


def test_an_old_browser_is_told_so_and_shows_the_first_picture(browser, html):
    context = browser.new_context(offline=True)
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(chapter(html, "index").as_uri())
    explorer = page.locator(PHOTO).first
    assert (
        "too old to run the network: it lacks DecompressionStream"
        in explorer.locator(".zf-size").inner_text()
    )
    assert explorer.locator("figure img").first.is_visible()
    assert explorer.locator("[data-photograph]").first.is_disabled()
    context.close()


def test_what_does_not_arrive_is_told_and_can_be_tried_again(browser, html):
    context = browser.new_context(offline=True)
    context.set_default_timeout(120_000)
    context.route("**/runtime.1.js", lambda route: route.abort())
    page = context.new_page()
    page.goto(chapter(html, "index").as_uri())
    explorer = page.locator(PHOTO).first
    explorer.get_by_role("button", name="Start the network").click()
    explorer.locator(".zf-problem", has_text="runtime.1.js did not arrive").wait_for()
    context.unroute("**/runtime.1.js")
    explorer.get_by_role("button", name="Start the network").click()
    drawn(explorer)
    context.close()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(html):
    handler = functools.partial(Silent, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_it_works_from_a_server_too_on_a_phone_in_the_dark(browser, server):
    reader = Reader(browser, host=server)
    page = reader(f"{server}book/02_1_deconvnet.html", viewport=PHONE, color_scheme="dark")
    explorer = page.locator(PHOTO).first
    explorer.locator('[data-photograph="coffee"]').click()  # any control starts the network
    explorer.locator('[data-photograph="coffee"][aria-pressed="true"]').wait_for()
    drawn(explorer)
    frame = Viewer(*load("zfnet-64"))
    seen = frame.look("coffee", photographs()["coffee"])
    wanted = frame.frame(seen, "layer 3", seen.strongest("features.9", 1)[0]).panels()
    assert abs(panels(explorer)["deconvnet"].astype(int) - wanted["deconvnet"]).mean() <= 1
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    reader.close()


FIREFOX = """
const wait = async ready => { while (!ready()) await new Promise(resume => setTimeout(resume, 100)); };
await wait(() => document.querySelector('[data-explorer="photo"][data-on]'));
const root = document.querySelector('[data-explorer="photo"]');
const thumb = root.querySelector('[data-photograph="coffee"]');
thumb.click();
await wait(() => thumb.getAttribute('aria-pressed') === 'true' && root.getAttribute('aria-busy') === 'false');
const problem = root.querySelector('.zf-problem');
if (problem) throw new Error(problem.textContent);
const image = new Image(); // the one on the page may still show its former picture for a moment
image.src = root.querySelector('[data-panel="deconvnet"] img').src;
await image.decode();
const canvas = document.createElement('canvas');
[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
const context = canvas.getContext('2d');
context.drawImage(image, 0, 0);
const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
return [canvas.height, canvas.width, Array.from(data)];
"""


def test_firefox_computes_the_same_from_disk(html):
    with firefox() as run:
        height, width, data = run(chapter(html, "index"), FIREFOX)
    viewer = Viewer(*load("zfnet-64"))
    seen = viewer.look("coffee", photographs()["coffee"])
    wanted = viewer.frame(seen, "layer 3", seen.strongest("features.9", 1)[0]).panels()["deconvnet"]
    shown = np.reshape(data, (height, width, 4))[..., :3]
    assert abs(shown - wanted.astype(int)).mean() <= 1


# ------------------------------------------------------------------------------ the book as a whole
def test_search_finds_a_word(reader, html):
    page = reader(html / "search.html")
    page.goto((html / "search.html").as_uri() + "?q=deconvnet")
    # the results come one after the other
    page.locator('#search-results li a[href*="02_1_deconvnet"]').first.wait_for()


def test_dark_mode_darkens_the_page_and_not_the_pictures(reader, html):
    page = reader(chapter(html, "index"), color_scheme="dark")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background)[:3])) < 64
    filters = page.evaluate(
        "[...document.querySelectorAll('article img')].map(i => getComputedStyle(i).filter)"
    )
    assert set(filters) == {"none"}


def test_a_page_read_in_the_dark_is_printed_in_the_light(reader, html):
    page = reader(chapter(html, "index"), color_scheme="dark")
    theme = page.locator("html")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert theme.get_attribute("data-theme") == "light"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert theme.get_attribute("data-theme") == "dark"


def test_a_name_that_heads_its_row_stays_in_one_piece_on_a_phone(reader, html):
    page = reader(chapter(html, "03_training"), viewport=PHONE)
    heights = page.evaluate(
        "[...document.querySelectorAll('article td:first-child code')].map(c => c.offsetHeight)"
    )
    assert len(heights) > 10
    assert max(heights) < 30  # one line


def test_on_paper_solutions_have_their_answers_and_code_stays_folded(reader, html):
    page = reader(chapter(html, "05_1_imagenet"))
    answer = page.locator(".tag_hide-cell .cell_output").first
    code = page.locator(".cell:not(.tag_hide-cell) > details.hide .cell_input").first
    assert not answer.is_visible()
    page.emulate_media(media="print")
    assert answer.is_visible()
    assert not code.is_visible()


def test_every_chapter_can_be_reached_from_the_first_page(reader, html):
    page = reader(chapter(html, "index"))
    links = page.evaluate("[...document.querySelectorAll('nav a, article a')].map(link => link.href)")
    assert not [
        name for name in NAMES if name != "index" and not any(f"/{name}.html" in link for link in links)
    ]


@pytest.mark.parametrize("name", [page.stem for page in pages(ROOT) if page.suffix == ".ipynb"])
def test_every_picture_of_a_chapter_is_a_figure_shown_once(html, name):
    executed = nbformat.read(html / "_sources" / "book" / f"{name}.ipynb", as_version=4)
    faults = []
    for number, cell in enumerate(executed.cells, 1):
        outputs = [
            o for o in cell.get("outputs", []) if any(mime.startswith("image/") for mime in o.get("data", {}))
        ]
        named = "figure" in cell.metadata.get("mystnb", {})
        if len(outputs) != named:
            faults.append(
                f"{name}, cell {number}: {len(outputs)} pictures in a cell that names {int(named)} figures"
            )
    assert not faults, "\n".join(["", *faults])
