"""The rooms of zfcore, and whom each may call. Change the table when a better cut shows itself."""

import ast
import re
from pathlib import Path

import pytest

import zfcore

PACKAGE = Path(zfcore.__file__).parent
# A room is a file, or a folder with a file for each of its corners.
ROOMS = sorted(
    {file.stem for file in PACKAGE.glob("*.py") if file.stem != "__init__"}
    | {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
)

# A method room takes any nn.Module and tensors; it knows nothing of data sets, the book or files.
METHODS = {
    "maximization",
    "transfer",
    "duplicates",
    "correspondence",
    "deconvnet",
    "invariance",
    "occlusion",
    "topk",
}
MAY_IMPORT = {
    "model": set(),
    "data": {"duplicates"},
    "duplicates": set(),
    "transfer": {"trace"},
    "protocols": {"model", "data", "transfer"},
    "generalization": {"model", "data", "train", "evaluate", "ledger", "protocols", "transfer"},
    "transfer_tables": {"ledger", "protocols"},
    "train": {"model", "data"},
    "evaluate": {"model", "data", "trace"},
    "comparison": set(),
    "fetch": {"model", "data"},
    "public": {"model", "data", "fetch"},
    "pack": {"model", "data", "fetch", "public"},
    "ledger": {"model"},
    "evolution": {"model", "data", "train", "deconvnet"},
    "reproduce": {"model", "data", "train", "evaluate", "evolution", "fetch", "ledger"},
    "tables": {"comparison", "ledger", "reproduce"},
    "sensitivity": {"model", "comparison", "data", "evaluate", "ledger", "trace", "deconvnet", "occlusion"},
    "faces": {"model", "data", "ledger", "correspondence"},
    "randomization": {"deconvnet", "trace"},
    "evidence": {"ledger", "model"},
    "claims": {
        "data",
        "model",
        "deconvnet",
        "comparison",
        "evidence",
        "evolution",
        "generalization",
        "ledger",
        "protocols",
        "reproduce",
        "sensitivity",
        "spectra",
        "tables",
        "train",
        "transfer_tables",
    },
    "board": {"assets", "claims"},
    "trace": set(),
    "deconvnet": {"trace"},
    "occlusion": {"trace"},
    "correspondence": {"trace"},
    "topk": {"trace"},
    "maximization": {"trace"},
    "preference": {"comparison", "ledger", "maximization", "selectivity", "spectra", "view"},
    "invariance": {"trace"},
    "figures": set(),
    "spectra": {"deconvnet"},
    "export": {"model", "trace", "deconvnet"},
    "view": {"figures", "data", "trace", *METHODS},
    "assets": {"model", "data", "export", "view", "gallery"},
    "markup": {"assets", "view", "gallery", *METHODS},
    "page": {"model", "assets", "markup", "figures", "data", "view", "gallery", *METHODS},
    "widgets": {"page", "markup", "assets", "view", "gallery", "figures", "data", "trace", *METHODS},
    "book": {
        "model",
        "data",
        "public",
        "train",
        "comparison",
        "ledger",
        "trace",
        "figures",
        "export",
        "view",
        "gallery",
        "assets",
        "markup",
        "page",
        "widgets",
        *METHODS,
    },
    "gallery": {"model", "figures", "data", "ledger", "trace", "view", *METHODS},
    "selectivity": {"model", "comparison", "data", "gallery", "ledger", "view"},
    "stability": {"comparison", "data", "gallery", "invariance", "ledger", "selectivity", "view"},
    "publish": {"data"},
    "extension": {"model", "view", "assets"},
    "cli": set(ROOMS) - {"cli", "__main__"},
    "__main__": {"cli"},
}
# Packages that only the named rooms may know.
RESERVED = {"ipywidgets": {"widgets"}, "papermill": {"publish"}, "typer": {"cli"}}


def sources_of(room: str) -> list[str]:
    folder = PACKAGE / room
    files = sorted(folder.glob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]
    return [file.read_text(encoding="utf-8") for file in files]


def imported_modules(source: str) -> set[str]:
    """Every module that the code imports, wherever it does so; ``from a import b`` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ("zfcore." if node.level else "") + (node.module or "")
            found |= {module.rstrip("."), *(f"{module.rstrip('.')}.{alias.name}" for alias in node.names)}
    return found


def rooms_called(source: str) -> set[str]:
    parts = (module.split(".") for module in imported_modules(source))
    return {part[1] for part in parts if part[0] == "zfcore" and len(part) > 1} & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_calls_only_the_rooms_of_its_row(room):
    assert room in MAY_IMPORT, f"zfcore/{room}.py has no row in the table of rooms: say whom it may call"
    called = set().union(*map(rooms_called, sources_of(room))) - {room}
    assert called <= MAY_IMPORT[room], f"{room} calls {sorted(called - MAY_IMPORT[room])}"


def packages_known_to(room: str) -> set[str]:
    modules = set().union(*map(imported_modules, sources_of(room)))
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize(("package", "rooms"), RESERVED.items())
def test_a_heavy_package_is_known_to_one_room_only(package, rooms):
    assert {room for room in ROOMS if package in packages_known_to(room)} == rooms


def test_drawings_know_no_torch():
    assert "torch" not in packages_known_to("figures")


def test_every_way_of_importing_is_seen():
    source = """
import zfcore.model
from zfcore import data
from . import figures
from .book import open_book
if True:
    from zfcore.publish import publish
"""
    assert rooms_called(source) == {"model", "data", "figures", "book", "publish"}


def test_contributors_are_told_of_every_room_and_of_what_it_may_import():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)(?:\.py)?` \| .* \| (.*) \|$", text, re.MULTILINE))
    assert told.keys() == set(ROOMS)
    for room, words in told.items():
        if not words.startswith("all"):
            names = {"–": [], **{name: [name] for name in ROOMS}, "methods": METHODS}
            assert MAY_IMPORT[room] == {n for word in words.split(", ") for n in names[word]}, room
