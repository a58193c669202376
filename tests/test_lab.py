"""A chapter in JupyterLab: Run All Cells, change a control, upload pictures, and see the live one change."""

import io
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import PATIENCE
from samples import grain

ROOT = Path(__file__).parent.parent
PICTURES = "[...document.querySelectorAll('.jp-OutputArea img')].map(i => i.src).join('|')"


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the chapters, with settings of its own; yields its address with the token."""
    shutil.copytree(ROOT / "book", tmp_path / "book")
    home = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    log = tmp_path / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += [
        f"--LabApp.{folder}={tmp_path / folder}" for folder in ("workspaces_dir", "user_settings_dir")
    ]
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=tmp_path / "book", env=os.environ | home, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield address(server, log)
    finally:
        server.terminate()
        server.wait(30)


def address(server, log):
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until:
        found = re.search(r"http://(?:127\.0\.0\.1|localhost):(\d+)/lab\?token=(\w+)", log.read_text())
        if found:
            return f"http://127.0.0.1:{found[1]}", found[2]
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab does not start: {log.read_text()}")


def upload(page, name, content):
    """Choose a file as a reader does: the widget's input is not in the page."""
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Your photograph").first.click()
    choosing.value.set_files({"name": name, "mimeType": "image/*", "buffer": content})


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def test_an_explorer_answers_in_jupyterlab(lab, page):
    url, token = lab
    page.goto(f"{url}/lab/tree/index.ipynb?reset&token={token}")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before that, Run All is lost
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    select = page.locator(".jp-OutputArea select").nth(1)
    select.wait_for()
    select.scroll_into_view_if_needed()
    before = page.evaluate(PICTURES)
    select.select_option(index=select.evaluate("s => (s.selectedIndex + 1) % s.options.length"))
    page.wait_for_function(f"before => {PICTURES} !== before", arg=before)
    upload(page, "holiday.jpg", b"no picture")
    page.locator(".zf-problem", has_text="holiday.jpg").wait_for()
    picture = io.BytesIO()
    grain(90, 70).convert("RGB").save(picture, "PNG")
    upload(page, "mine.png", picture.getvalue())
    page.locator(".zf-says", has_text="mine.png").wait_for()
    assert page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']").count() == 0
