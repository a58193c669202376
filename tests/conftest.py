"""What several test files share: where the real data sets are, if they are here at all."""

import os
import random
import re
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import need, open_browser

from zfcore import assets, fetch

ARCHIVES = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def tiny_imagenet_root(tmp_path_factory) -> Path:
    """A folder that holds tiny-imagenet-200/ (its validation pictures at least), or a skip that says why."""
    root = os.environ.get("ZFCORE_DATA")
    if root and (Path(root) / "tiny-imagenet-200" / "wnids.txt").exists():
        return Path(root)
    archive = ARCHIVES / "tiny-imagenet-200-val.tar.gz"
    if not archive.exists():
        pytest.skip(f"Tiny-ImageNet is neither in the folder ZFCORE_DATA nor at {archive}")
    root = tmp_path_factory.mktemp("data")
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    return root


@pytest.fixture(autouse=True)
def seeded():
    """A test draws the same numbers in every run, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """No test asks another machine for anything."""
    connect = socket.socket.connect

    def connect_here(self, address):
        there = self.family in (socket.AF_INET, socket.AF_INET6)
        if there and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"a test asks {address[0]} for something")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture(scope="module")
def one_thread():
    """Nets of this size are slower on several threads, far slower where other work keeps the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def no_server():
    """As outside Lab: explorers come with their twins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JPY_SESSION_NAME", raising=False)
        yield


@pytest.fixture(scope="session")
def runtime():
    """The page's runtime: scripts by file."""
    files = [assets.WEB / name for name in assets.RUNTIME_FILES]
    need(
        all(file.exists() for file in files),
        "the page's runtime is not set up: npm ci --ignore-scripts && npm run runtime",
    )
    return assets.asset(assets.RUNTIME, assets.runtime_pack())


@pytest.fixture(scope="session")
def explorers_scripts(runtime):
    """All that a page's explorers run on, inside it."""
    return f"{assets.scripts_html({assets.RUNTIME: runtime})}<script>{assets.script()}</script>"


def pytest_collection_modifyitems(items):
    """Tests with a browser come last: while it is open its event loop counts as running, and no other may."""
    items.sort(key=lambda item: "browser" in item.fixturenames)


@pytest.fixture(scope="session")
def browser():
    """The one Chromium of all tests: a second one beside it would want an event loop of its own."""
    with open_browser() as running:
        yield running


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``, from the middle on too; may hang up early or know no ranges."""

    def do_GET(self):
        server, name = self.server, self.path.rpartition("/")[2]
        server.requests.append((name, self.headers.get("Range")))
        if name not in server.files:
            self.send_error(404)
            return
        blob, start = server.files[name], 0
        if server.ranges and self.headers.get("Range"):
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(blob):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(blob) - start))
        self.end_headers()
        self.wfile.write(blob[start : server.hang_up_at])

    def log_message(self, *arguments):
        """Say nothing on the terminal."""


@pytest.fixture
def server(monkeypatch):
    """A server on this machine that answers for every host, whatever its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.ranges, server.hang_up_at = {}, [], True, None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    here, ask = f"http://127.0.0.1:{server.server_port}/", fetch._request
    monkeypatch.setattr(fetch, "_request", lambda url, start=0: ask(here + url.rpartition("/")[2], start))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
