"""What several test files share: where the real data sets are, if they are here at all."""

import os
import tarfile
from pathlib import Path

import pytest
import torch
from browser import open_browser

ARCHIVES = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def tiny_imagenet_root(tmp_path_factory) -> Path:
    """A folder that holds tiny-imagenet-200/ (its validation pictures at least), or a skip that says why."""
    root = os.environ.get("ZFCORE_DATA")
    if root and (Path(root) / "tiny-imagenet-200" / "wnids.txt").exists():
        return Path(root)
    archive = ARCHIVES / "tiny-imagenet-200-val.tar.gz"
    if not archive.exists():
        pytest.skip("Tiny-ImageNet is not on this machine; set ZFCORE_DATA to the folder that holds it")
    root = tmp_path_factory.mktemp("data")
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    return root


@pytest.fixture(autouse=True)
def seeded():
    """A test draws the same numbers in every run, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """Nets of this size are slower on several threads, far slower where other work keeps the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items):
    """Tests with a browser come last: while it is open its event loop counts as running, and no other may."""
    items.sort(key=lambda item: "browser" in item.fixturenames)


@pytest.fixture(scope="session")
def browser():
    """The one Chromium of all tests: a second one beside it would want an event loop of its own."""
    with open_browser() as running:
        yield running
