"""Browsers for the tests: found, started with a fresh profile, or skipped for a named reason."""

import base64
import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor
from playwright.sync_api import sync_playwright

from zfcore import assets
from zfcore.view import FRAME

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE = 120_000  # ms; a busy machine starts a network in half a minute


def need(found, reason):
    """Give back what was found; without it skip, or fail where ``ZFCORE_REQUIRE_BROWSER`` is 1."""
    if not found:
        (pytest.fail if os.environ.get("ZFCORE_REQUIRE_BROWSER") == "1" else pytest.skip)(reason)
    return found


@contextlib.contextmanager
def open_browser():
    """Start the Chromium of this machine."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    need(found, "no Chromium on this machine: the pages were not opened (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Reader:
    """Opens pages in fresh profiles that reach nothing but files (and ``host``), and notes every trouble."""

    def __init__(self, browser, host="file:"):
        self.troubles, self.asked = [], []
        self._browser, self._contexts, self._host = browser, [], host

    def __call__(self, path, **options):
        context = self._browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        self._contexts.append(context)
        if self._host == "file:":
            context.set_offline(True)
        context.route("**/*", self._watch)
        page = context.new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.troubles.append(f"raises {error}"))
        page.goto(path if isinstance(path, str) else path.as_uri(), wait_until="load")
        return page

    def _watch(self, route):
        url = route.request.url
        self.asked.append(url)
        if url.startswith((self._host, "data:", "blob:")):
            return route.continue_()
        self.troubles.append(f"asks for {url}")
        return route.abort()

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.troubles.append(f"logs {message.text}")

    def close(self):
        for context in self._contexts:
            context.close()
        assert not self.troubles


def written(file, body, scripts=None):
    """Write a page that holds no more than this and its scripts (those of all explorers); give its path."""
    scripts = f"<script>{assets.script()}</script>" if scripts is None else scripts
    file.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><style>:root {color-scheme: light dark}</style>'
        f"<title>{file.stem}</title><main><h1>{file.stem}</h1>{body}</main>{scripts}",
        encoding="utf-8",
    )
    return file


def waiting(file, body, fault=""):
    """Write a page whose network has yet to come; ``fault`` is a script that runs before the explorers."""
    listing = assets.assets_script({assets.RUNTIME: {"runtime.0.js": "x" * 5_000_000}})
    scripts = f"<script>{listing}</script><script>{fault}</script><script>{assets.script()}</script>"
    return written(file, body, scripts)


def drawn(explorer):
    """Wait until an explorer shows a choice with its projections."""
    explorer.page.wait_for_function(
        "root => root.getAttribute('aria-busy') === 'false'", arg=explorer.element_handle()
    )


def choose(explorer, photograph=None, cell=None, **choices):
    """Click a photograph and the first small map of a layer, set controls by their name, and wait."""
    if photograph:
        explorer.locator(f'[data-photograph="{photograph}"]').click()
        explorer.locator(f'[data-photograph="{photograph}"][aria-pressed="true"]').wait_for()
        drawn(explorer)
    if cell:
        explorer.locator(f'[data-path="{cell}"]').first.click()
    for name, value in choices.items():
        control = explorer.locator(f'[data-choice="{name}"]')
        if control.evaluate("control => control instanceof HTMLSelectElement"):
            control.select_option(str(value))
        else:
            control.fill(str(value))
    drawn(explorer)


def decoded(url):
    """The picture of a data URL: (h, w, 3) uint8."""
    blob = base64.b64decode(url.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


def panels(explorer):
    """The pictures of an explorer by panel, decoded: (h, w, 3) uint8."""
    sources = explorer.evaluate(
        "root => [...root.querySelectorAll('[data-panel]')].map("
        "panel => [panel.dataset.panel, panel.querySelector('img').src])"
    )
    return {name: decoded(source) for name, source in sources}


def saved_picture(explorer):
    """What "Save the picture" saves: the name of the file, and (h, w, 3) uint8."""
    with explorer.page.expect_download() as saving:
        explorer.get_by_role("button", name="Save the picture").click()
    return saving.value.suggested_filename, np.asarray(Image.open(saving.value.path()).convert("RGB"))


def assert_sheets_alike(saved, wanted, smooth=(), side=448, gap=16):
    """Cell by cell, and frames to the pixel; the browser resamples the ``smooth`` cells in its own way."""
    assert saved.shape == wanted.shape
    difference = abs(saved.astype(int) - wanted)
    for n, left in enumerate(range(0, wanted.shape[1], side + gap)):
        assert difference[:, left : left + side].mean() <= (4 if n in smooth else 1), f"cell {n}"
    assert difference[(wanted == ImageColor.getrgb(FRAME)).all(-1)].max(initial=0) <= 2


def copied(explorer, button):
    """What a button of an explorer copies, pasted as a reader would."""
    page = explorer.page
    explorer.get_by_role("button", name=button).click()
    explorer.locator(".zf-status", has_text="Copied").wait_for()
    page.evaluate("document.body.append(document.createElement('textarea'))")
    area = page.locator("body > textarea")
    area.focus()
    page.keyboard.press("Control+V")
    text = area.input_value()
    area.evaluate("area => area.remove()")
    return text


def broken_rules(page):
    """What axe-core finds on a page: impact, rule and the first elements."""
    need(AXE.exists(), "no axe-core: accessibility was not checked (`npm ci --ignore-scripts` brings it)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    return page.evaluate(
        # a page from disk may not read its style sheets again, and no rule of ours needs them
        "async () => (await axe.run({preload: false})).violations.map("
        "rule => [rule.impact, rule.id, rule.nodes.slice(0, 5).map(node => node.html.slice(0, 99))])"
    )


def fits_a_phone_and_breaks_no_rule(page, scheme):
    """Insist that a page is no wider than a phone, and that axe-core finds nothing."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not broken_rules(page)
    page.set_viewport_size({"width": 1000, "height": 1200})


#: Drop a file on an explorer as a reader does; see :func:`drop`.
DROP = """(root, [name, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    root.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def stops_on_a_phone(page, explorer):
    """Of each small map that Tab stops at on a phone, whether it is in sight; leaves the page wide again."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(200)
    stops = explorer.evaluate(
        "root => [...root.querySelectorAll('.zf-cell')]"
        ".flatMap(cell => cell.tabIndex === 0 ? [cell.offsetParent !== null] : [])"
    )
    page.set_viewport_size({"width": 1000, "height": 1200})
    return stops


def drop(explorer, name, content):
    """Drop a file of this name and these bytes on an explorer."""
    explorer.evaluate(DROP, [name, base64.b64encode(content).decode()])


def paste(page, name, content):
    """Paste a file of this name and these bytes into a page."""
    page.evaluate(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer}));
        }""",
        [name, base64.b64encode(content).decode()],
    )


@contextlib.contextmanager
def firefox():
    """Start Firefox and give a function that opens a page and runs a script in it.

    No driver is needed: Firefox speaks Marionette, JSON behind its length, on a port that it chooses itself
    and writes into its profile.
    """
    found = shutil.which("firefox-esr") or shutil.which("firefox")
    need(found, "no Firefox on this machine (Debian: apt-get install firefox-esr)")
    with tempfile.TemporaryDirectory() as profile:
        with open(f"{profile}/user.js", "w") as preferences:
            preferences.write('user_pref("marionette.port", 0);\n')
        command = [found, "--headless", "--marionette", "--profile", profile, "--no-remote"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            connection = _marionette(Path(profile, "MarionetteActivePort"), process)
            with connection, connection.makefile("rb") as answers:
                ask = _conversation(connection, answers)
                ask("WebDriver:NewSession", {})
                ask("WebDriver:SetTimeouts", {"script": PATIENCE, "pageLoad": PATIENCE})

                def run(path, script):
                    ask("WebDriver:Navigate", {"url": path.as_uri()})
                    body = f"(async () => {{ {script} }})().then(arguments[0])"
                    return ask("WebDriver:ExecuteAsyncScript", {"script": body, "args": []})["value"]

                yield run
        finally:
            process.terminate()
            process.wait(30)


def _marionette(port, process):
    until = time.monotonic() + PATIENCE / 1000
    while not (port.exists() and port.read_text()):
        assert process.poll() is None, "Firefox does not start"
        assert time.monotonic() < until, "Firefox opens no Marionette port"
        time.sleep(0.1)
    return socket.create_connection(("127.0.0.1", int(port.read_text())), timeout=PATIENCE / 1000)


def _conversation(connection, answers):
    def message():
        length = b""
        while (digit := answers.read(1)) != b":":
            length += digit
        return json.loads(answers.read(int(length)))

    message()  # its greeting
    numbers = iter(range(1, 1000))

    def ask(command, parameters):
        text = json.dumps([0, next(numbers), command, parameters]).encode()
        connection.sendall(f"{len(text)}:".encode() + text)
        _, _, problem, result = message()
        assert problem is None, problem
        return result

    return ask
