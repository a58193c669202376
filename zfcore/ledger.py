"""The results ledger: every number that was not computed on the page, with all that makes it again.

``book/results/<name>.json`` holds the entries of one table or figure. An entry says what was found
(``values``, over ``n`` pictures), on what (``data``, its hash, ``config``, ``seed``, the weights' hash),
by what (``code``, ``torch``, ``device``, ``seconds``) and the ``command`` that does it again; an entry that
lacks one of these is refused, when it is written and when it is read. ``outcomes`` keeps for every picture
whether the network was wrong, one bit each, so that paired differences can be computed from the ledger
alone.

The schema is JSON Schema, draft 2020-12; the paper's claims that the entries stand for are those of
Zeiler & Fergus, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.ledger import find, outcomes, provenance, record
    entry = {"row": "zfnet", "seed": 0, "values": {"val top1": 53.6}, "n": 10_000, "data": "tiny-imagenet",
             "data_sha256": pictures.sha256, "config": {"epochs": 20}, "weights_sha256": card["sha256"],
             **provenance("cpu", seconds=6060.0)}
    record("table2", entry)
    [entry] = find("table2", row="zfnet", seed=0, epochs=20)
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jsonschema import Draft202012Validator
from torch import Tensor

import zfcore
from zfcore.model import ships, write_atomically


def _results(package: Path) -> Path:
    """``book/results`` of the checkout that a package lies in; where there is none, ``results`` here."""
    book = package.parent / "book"
    return book / "results" if book.is_dir() else Path("results")


#: Where the ledger lies, in a checkout whatever the working directory, and outside one in that.
RESULTS = _results(Path(zfcore.__file__).parent)

_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TEXT = {"type": "string", "minLength": 1}
_ENTRY = {
    "type": "object",
    "properties": {
        "row": _TEXT,
        "seed": {"type": ["integer", "null"]},  # null: made from several seeds, or from none
        "values": {"type": "object", "minProperties": 1},
        "n": {"type": "integer", "minimum": 0},
        "data": {"type": ["string", "null"]},  # null, also below: there was none
        "data_sha256": {"anyOf": [_SHA256, {"type": "null"}]},
        "config": {"type": "object"},
        "weights_sha256": {"anyOf": [_SHA256, {"type": "array", "items": _SHA256}, {"type": "null"}]},
        "code": _TEXT,
        "torch": _TEXT,
        "device": _TEXT,
        "seconds": {"type": "number", "minimum": 0},
        "command": _TEXT,
        "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
    },
    "additionalProperties": False,
}
_ENTRY["required"] = list(_ENTRY["properties"])
_ENTRY["properties"] |= {
    "outcomes": {
        "type": "object",
        "additionalProperties": {"type": "string", "contentEncoding": "base64"},
    },
    "note": _TEXT,
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"name": _TEXT, "entries": {"type": "array", "items": _ENTRY}},
    "required": ["name", "entries"],
    "additionalProperties": False,
}
_WHOLE, _ONE = Draft202012Validator(SCHEMA), Draft202012Validator(_ENTRY)


class LedgerError(ValueError):
    """A ledger or an entry is not as it should be; the message names file, row and fault."""


def read(name: str, folder: str | os.PathLike = RESULTS) -> dict[str, Any]:
    """Read the ledger ``name``: ``{"name": …, "entries": […]}``.

    Raises
    ------
    FileNotFoundError
        There is no such ledger; the message lists those there are.
    LedgerError
        It is no JSON, or not in order: every fault is named with its entry.
    """
    path = _path(name, folder)
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there is no ledger {path}; there are: {there}")
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LedgerError(f"{path} is no JSON: {error}") from error
    _insist(_WHOLE, ledger, str(path))
    if ledger["name"] != name:
        raise LedgerError(f"{path} is the ledger {ledger['name']!r} under another name")
    return ledger


def record(name: str, entry: Mapping[str, Any], folder: str | os.PathLike = RESULTS) -> None:
    """Write an entry, in the place of the one of equal row, seed, data and config, if there is one.

    Other entries stay. Writers at the same time wait for each other; a reader sees the ledger before or
    after, never a part.

    Raises
    ------
    LedgerError
        The entry lacks something, its command for one, or holds what JSON does not have; or the ledger that
        is there is not in order, or its entry is of weights that ship with the package and the new one of
        weights that do not, or its is over more of the same pictures.
    """
    path = _path(name, folder)
    try:
        entry = json.loads(json.dumps(entry, allow_nan=False))  # as it will be read: tuples are lists
    except (TypeError, ValueError) as error:
        raise LedgerError(
            f"{path}: {_words(entry)} cannot be written: {error}; look at {_unwritable(entry)}"
        ) from error
    _insist(_ONE, entry, f"an entry for {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        entries = read(name, folder)["entries"] if path.exists() else []
        _insist_on_place(path, entry, entries)
        entries = [other for other in entries if _key(other) != _key(entry)] + [entry]
        entries.sort(key=lambda other: (other["row"], other["seed"] is not None, other["seed"] or 0))
        text = json.dumps({"name": name, "entries": entries}, indent=1, ensure_ascii=False)
        write_atomically(path, (text + "\n").encode())


def insist_on_place(name: str, entry: Mapping[str, Any], folder: str | os.PathLike = RESULTS) -> None:
    """Ask, before an entry is worked for, whether :func:`record` would let it take its place.

    Of ``entry`` row, seed, data, config and weights_sha256 are needed; n and data_sha256, where they are
    known. Raises ``LedgerError`` where its place is that of weights that ship with the package, and its own
    do not, or that of an entry over more of the same pictures.
    """
    _insist_on_place(_path(name, folder), json.loads(json.dumps(entry)), find(name, folder))


def _insist_on_place(path: Path, entry: Mapping[str, Any], entries: list[dict[str, Any]]) -> None:
    likes = [other for other in entries if _key(other) == _key(entry)]
    if any(ships(like["weights_sha256"]) for like in likes) and not ships(entry["weights_sha256"]):
        raise LedgerError(
            f"{path}: {_words(entry)} is of the weights that ship with zfcore, and weights "
            "that do not cannot take their place; give another folder of the ledger (--results)"
        )
    for like in likes:
        same = entry.get("data_sha256") == like["data_sha256"]
        if same and entry.get("n", math.inf) < like["n"]:
            raise LedgerError(
                f"{path}: {_words(entry)} is over {entry['n']}, and the one that is there over {like['n']}; "
                "a rehearsal goes to another folder of the ledger (--results)"
            )


def find(
    name: str,
    folder: str | os.PathLike = RESULTS,
    row: str | None = None,
    seed: int | None = None,
    data: str | None = None,
    **config: Any,
) -> list[dict[str, Any]]:
    """The entries of a ledger of that row, seed and data (None: any) whose config has these values.

    A ledger that does not exist has no entries.
    """
    if not _path(name, folder).exists():
        return []
    wanted = {
        key: value for key, value in (("row", row), ("seed", seed), ("data", data)) if value is not None
    }
    config = json.loads(json.dumps(config))
    return [
        entry
        for entry in read(name, folder)["entries"]
        if wanted.items() <= {key: entry[key] for key in wanted}.items()
        and all(key in entry["config"] and entry["config"][key] == value for key, value in config.items())
    ]


def is_control(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is what others are compared with: of random weights, or of a training from scratch."""
    return re.search("random|scratch", entry["row"]) is not None


def provenance(
    device: str | torch.device = "cpu", seconds: float = 0.0, command: str | None = None
) -> dict[str, Any]:
    """What an entry has to say about how it was made: code, torch, device, seconds, command, date.

    ``seconds`` of wall time; ``command`` is by default the one this process was started by. The code is that
    of this process's first :func:`code_version`, which long work asks for when it begins.
    """
    device = torch.device(device)
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "code": code_version(),
        "torch": torch.__version__,
        "device": machine,
        "seconds": round(seconds, 3),
        "command": command or shlex.join(["zfcore", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
    }


def code_of(rooms: Iterable[str]) -> str:
    """SHA-256 of the code of some rooms, each a file or a folder of the package."""
    package, digest = Path(zfcore.__file__).parent, hashlib.sha256()
    for room in sorted(rooms):
        for file in sorted((package / room).glob("*.py")) or [package / f"{room}.py"]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def code_version() -> str:
    """``0.1.0``, in a checkout ``0.1.0 (1a2b3c4d5e6f)``, with changes ``0.1.0 (1a2b3c4d5e6f+dirty)``.

    Asked once: a checkout may move on while a process works with the code that it has read.
    """
    package = Path(zfcore.__file__).parent

    def git(*arguments: str) -> str:
        run = ["git", "-C", str(package), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", "__init__.py"
        )  # an install inside a foreign checkout has no commit
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(package))
    except (OSError, subprocess.CalledProcessError):
        return zfcore.__version__
    return f"{zfcore.__version__} ({commit}{'+dirty' if changed else ''})"


def pack_outcomes(wrong: Mapping[str, Tensor]) -> dict[str, str]:
    """Outcomes bool (N,) by name, one bit for each picture, as base64 text for an entry."""
    return {
        name: base64.b64encode(np.packbits(bits.numpy()).tobytes()).decode() for name, bits in wrong.items()
    }


def outcomes(entry: Mapping[str, Any], name: str) -> Tensor:
    """The outcomes ``name`` of an entry, bool (n,): True where the network was wrong.

    Raises ``LedgerError`` where the entry has none of that name, or fewer than its ``n``.
    """
    if name not in entry.get("outcomes", {}):
        known = ", ".join(entry.get("outcomes", {})) or "none"
        raise LedgerError(f"{_words(entry)} has no outcomes {name!r}; it has: {known}")
    packed = np.frombuffer(base64.b64decode(entry["outcomes"][name]), np.uint8)
    if len(packed) != -(-entry["n"] // 8):
        raise LedgerError(
            f"{_words(entry)} has {8 * len(packed)} outcomes {name!r} for {entry['n']} pictures"
        )
    return torch.from_numpy(np.unpackbits(packed, count=entry["n"]).astype(bool))


def _path(name: str, folder: str | os.PathLike) -> Path:
    return Path(folder) / f"{name}.json"


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["row"], entry["seed"], entry["data"], entry["config"]


def _unwritable(value: Any, place: str = "") -> str:
    """Where in an entry the first value is that JSON does not have: ``values.scales.0 = nan``."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        found = (_unwritable(part, f"{place}.{key}".lstrip(".")) for key, part in parts)
        return next(filter(None, found), "")
    plain = (
        value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    )
    return "" if plain else f"{place} = {value!r}"


def _words(entry: Any) -> str:
    row, seed = (entry.get(key, "?") if isinstance(entry, Mapping) else "?" for key in ("row", "seed"))
    return f"the entry of row {row!r}, seed {seed},"


def _insist(validator: Draft202012Validator, value: Any, where: str) -> None:
    """Raise :class:`LedgerError` with every fault that the schema finds, and the entry it is in."""
    faults = []
    for error in validator.iter_errors(value):
        subject, place = "", list(error.absolute_path)
        if validator is _ONE:
            subject = _words(value) + " "
        elif place[:1] == ["entries"] and len(place) > 1:
            subject, place = _words(value["entries"][place[1]]) + " ", place[2:]
        inside = "".join(f"{key}: " for key in place)
        message = error.message if len(error.message) < 200 else f"{error.message[:200]}…"
        faults.append(f"{subject}{inside}{message}")
    if faults:
        raise LedgerError(f"{where} is refused: {'; '.join(faults)}")
