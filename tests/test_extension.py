"""What the Sphinx extension makes of pages: their networks lie beside them, and what can wait does."""

import pytest
import torch
from browser import Reader, drawn, panels

from zfcore import extension
from zfcore import model as models
from zfcore.assets import asset, scripts_html, source
from zfcore.data import photographs
from zfcore.page import explorer_html
from zfcore.view import Viewer


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Write weights of a small network as if they shipped with the package; another seed, other weights."""
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")

    def write(seed):
        torch.manual_seed(seed)
        network = models.build("zfnet-64", num_classes=5, width=0.1)
        models.initialize_(network, "he")
        card = {"architecture": "zfnet-64", "width": 0.1, "num_classes": 5, "input_size": 56, "resize": 64}
        card["scale"] = 64.0
        models.save(
            tmp_path / "weights" / "zfnet-64.safetensors", network, torch.full((3, 64, 64), 118.0), card
        )
        return Viewer(*models.load("zfnet-64"))

    return write


def write_page(html, viewer):
    """A page as Sphinx writes one, with an explorer and its scripts."""
    pictures = {"chelsea": photographs()["chelsea"]}
    start = viewer.first(viewer.look("chelsea", pictures["chelsea"]))
    explorer = explorer_html(viewer, pictures, start, "", source(viewer, "zfnet-64"))
    names = ("assets", "explorer")
    scripts = "".join(f'<script defer src="../_static/zfcore/{name}.js"></script>' for name in names)
    (html / "book").mkdir(parents=True, exist_ok=True)
    (html / "book" / "page.html").write_text(
        f'<!doctype html><html lang="en" data-content_root="../"><meta charset="utf-8">{scripts}{explorer}'
    )
    return start


def test_a_changed_weights_file_changes_what_the_page_computes(weights, browser, tmp_path):
    html = tmp_path / "html"
    shown, networks = [], []
    for seed in (0, 1):
        start = write_page(html, weights(seed))
        extension.bring_networks(html)
        networks.append({file.name for file in (html / "_static" / "zfcore").glob("zfnet-64-*")})
        reader = Reader(browser)
        tab = reader(html / "book" / "page.html")
        tab.get_by_role("button", name="Start the network").click()
        explorer = tab.locator(".zf-explorer")
        drawn(explorer)
        shown.append(panels(explorer)["deconvnet"].astype(int))
        assert abs(shown[-1] - start.panels()["deconvnet"]).mean() <= 1
        reader.close()
    assert shown[0].shape != shown[1].shape or abs(shown[0] - shown[1]).mean() > 1
    assert networks[0].isdisjoint(networks[1])


def test_an_explorer_of_other_weights_than_those_here_fails_the_build(weights, tmp_path):
    html = tmp_path / "html"
    write_page(html, weights(0))
    weights(1)
    with pytest.raises(ValueError, match="made with weights 'zfnet-64' of sha256"):
        extension.bring_networks(html)


def test_a_book_without_explorers_brings_no_network(tmp_path):
    (tmp_path / "index.html").write_text("<p>Nothing here computes.</p>")
    extension.bring_networks(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


def test_what_an_explorer_brought_along_is_moved_beside_the_page(weights, tmp_path):
    write_page(tmp_path, weights(0))
    page = tmp_path / "book" / "page.html"
    page.write_text(page.read_text() + scripts_html({"own": asset("own", b"some gzip")}))
    extension.bring_networks(tmp_path)
    [(file, text)] = asset("own", b"some gzip").items()
    assert (tmp_path / "_static" / "zfcore" / file).read_text() == text
    assert text.strip() not in page.read_text()
    assert '"own":{"bytes"' in page.read_text()  # where to find it stays


def test_what_an_explorer_brought_along_stays_until_no_page_names_it_any_more(weights, tmp_path):
    write_page(tmp_path, weights(0))
    page = tmp_path / "book" / "page.html"
    alone = page.read_text()
    page.write_text(alone + scripts_html({"own": asset("own", b"some gzip")}))
    for _ in range(2):  # the second time Sphinx has not written the page again
        extension.bring_networks(tmp_path)
        assert (tmp_path / "_static" / "zfcore" / "own.0.js").exists()
    page.write_text(alone)
    extension.bring_networks(tmp_path)
    files = {file.name for file in (tmp_path / "_static" / "zfcore").iterdir()}
    assert "own.0.js" not in files
    assert {"assets.js", "explorer.js", "runtime.0.js", "runtime-licence.txt"} <= files
