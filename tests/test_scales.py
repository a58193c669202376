"""Chapters at the scale ``imagenet``, on a network of random weights as large as the public one."""

from pathlib import Path

import papermill
import pytest
import torch

from zfcore.model import save
from zfcore.public import network, weights_file

BOOK = Path(__file__).parent.parent / "book"
CHAPTERS = sorted(page.stem for page in BOOK.glob("*.ipynb"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data root that holds weights as `zfcore weights get zfnet` leaves them."""
    root = tmp_path_factory.mktemp("root")
    model, card = network("zfnet")
    mean = card.pop("mean")
    card |= {"data": "imagenet", "error": {"one crop": {"top1": 99.9, "top5": 99.5}}}
    save(weights_file("zfnet", root), model, mean, card, dtype=torch.float32)
    return root


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_with_public_weights(home, tmp_path, monkeypatch, chapter):
    monkeypatch.setenv("ZFCORE_DATA", str(home))
    monkeypatch.setenv("ZFCORE_CACHE", str(home / "cache"))
    papermill.execute_notebook(
        BOOK / f"{chapter}.ipynb",
        tmp_path / "out.ipynb",
        {"scale": "imagenet"},
        cwd=BOOK,
        progress_bar=False,
    )
