"""The built pages in Chromium, from disk and with the network cut: what a reader of the zip sees."""

import re
from pathlib import Path

import nbformat
import pytest
from browser import open_browser

from zfcore.publish import pages, publish

ROOT = Path(__file__).parent.parent
NAMES = [page.stem for page in pages(ROOT)]
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def html():
    """The folder of the built book; nothing is built again where nothing has changed."""
    return publish(ROOT, {"scale": "embedded", "device": "cpu", "seed": 0}).parent


@pytest.fixture(scope="session")
def browser(html):
    with open_browser() as browser:
        yield browser


@pytest.fixture
def reader(browser):
    """Open pages in a fresh profile without a network; afterwards tell of every request and error."""
    contexts, troubles = [], []

    def watch(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            return route.continue_()
        troubles.append(f"asks for {route.request.url}")
        return route.abort()

    def opened(path, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(120_000)
        contexts.append(context)
        context.set_offline(True)
        context.route("**/*", watch)
        page = context.new_page()
        page.on(
            "console", lambda m: troubles.append(f"logs {m.text}") if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: troubles.append(f"raises {error}"))
        page.goto(path.as_uri(), wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not troubles


def chapter(html, name):
    return html / "book" / f"{name}.html"


# ------------------------------------------------------------------------------ every page
@pytest.mark.parametrize("name", NAMES)
def test_a_page_stands_alone(reader, html, name):
    page = reader(chapter(html, name))
    page.wait_for_function("() => !window.MathJax || !MathJax.startup || MathJax.startup.promise")
    page.evaluate("window.MathJax && MathJax.startup && MathJax.startup.promise")
    formulas = page.locator(".math:not(:has(mjx-container))")
    assert [formula.inner_text() for formula in formulas.all()] == [], "formulas that are not typeset"
    assert page.locator("mjx-container mjx-merror, mjx-container [data-mjx-error]").count() == 0
    broken = page.evaluate("""() => [...document.images]
        .filter(image => image.complete && image.naturalWidth === 0).map(image => image.src.slice(0, 100))""")
    assert not broken, "pictures that do not load"
    silent = page.evaluate("""() => [...document.querySelectorAll('article img')]
        .filter(image => !image.alt.includes(' ')).map(image => image.src.slice(0, 100))""")
    assert not silent, "pictures without alt text"


# What sticks out of the window, unless the reader can scroll to it inside something that fits.
OVERFLOW = """() => {
    const scrolls = element => ['auto', 'scroll'].includes(getComputedStyle(element).overflowX);
    const reachable = element => {
        for (let box = element.parentElement; box; box = box.parentElement) if (scrolls(box)) return true;
        return false;
    };
    const outside = [...document.querySelectorAll('article *, footer *')].filter(element => {
        const box = element.getBoundingClientRect();
        return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1) && !reachable(element);
    });
    return [document.documentElement.scrollWidth, outside.slice(0, 8).map(e => e.outerHTML.slice(0, 150))];
}"""


@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_a_phone(reader, html, name):
    page = reader(chapter(html, name), viewport=PHONE, is_mobile=True, has_touch=True)
    page.wait_for_timeout(500)
    width, offenders = page.evaluate(OVERFLOW)
    assert not offenders
    assert width <= PHONE["width"]


# ------------------------------------------------------------------------------ explorers
STATE = """root => [...root.querySelectorAll('img, canvas')].map(picture =>
    picture.tagName === 'CANVAS' ? picture.toDataURL() : picture.src).join('|')"""


@pytest.mark.parametrize("name", NAMES)
def test_every_control_of_every_explorer_changes_the_picture(reader, html, name):
    page = reader(chapter(html, name))
    for root in page.locator(".zf-explorer").all():
        root.scroll_into_view_if_needed()
        page.wait_for_function(
            "root => root.querySelector('select:not([disabled])')", arg=root.element_handle()
        )
        for select in root.locator("select").all():
            before = root.evaluate(STATE)
            select.select_option(index=select.evaluate("s => (s.selectedIndex + 1) % s.options.length"))
            changed(page, root, before, select.get_attribute("data-choice"))
        for button in root.locator("button[data-step]").all():
            before = root.evaluate(STATE)
            button.click()
            changed(page, root, before, button.inner_text())


def changed(page, root, before, control):
    try:
        page.wait_for_function(
            f"([root, before]) => ({STATE})(root) !== before", arg=[root.element_handle(), before]
        )
    except Exception as error:
        raise AssertionError(f"{control}: the picture does not change") from error


def test_the_book_opens_with_an_explorer(reader, html):
    page = reader(html / "index.html")
    page.wait_for_url("**/book/index.html")
    assert page.locator(".zf-explorer[data-on]").count() >= 1


def test_without_scripts_an_explorer_still_shows_its_first_picture(reader, html):
    page = reader(chapter(html, "index"), java_script_enabled=False)
    picture = page.locator(".zf-explorer img").first
    assert picture.is_visible()
    assert page.locator(".zf-explorer select").first.is_disabled()


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
