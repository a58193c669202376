"""The ledger: nothing without its provenance, nothing lost, nothing twice."""

import json
import math
import re
import signal
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zfcore.ledger
from zfcore.ledger import (
    LedgerError,
    code_version,
    find,
    is_control,
    outcomes,
    pack_outcomes,
    provenance,
    read,
    record,
)
from zfcore.model import WEIGHTS
from zfcore.transfer_tables import accuracies, entries_of

SHA = "0123456789abcdef" * 4


def entry(row="zfnet", seed=0, top1=50.0, **changes):
    return {
        "row": row,
        "seed": seed,
        "values": {"val top1": top1},
        "n": 10,
        "data": "patches",
        "data_sha256": SHA,
        "config": {"epochs": 2, "recipe": {"rate": 0.1}},
        "weights_sha256": SHA,
        "code": "0.1.0",
        "torch": "2.15.0",
        "device": "cpu",
        "seconds": 1.5,
        "command": "zfcore reproduce table2",
        "date": "2026-01-31",
    } | changes


def test_what_is_recorded_is_read(tmp_path):
    record("table2", entry(), tmp_path)
    assert read("table2", tmp_path) == {"name": "table2", "entries": [entry()]}


def test_an_entry_takes_the_place_of_its_like_and_of_no_other(tmp_path):
    others = [
        entry(seed=1),
        entry("alexnet"),
        entry(config={"epochs": 3}),
        entry(data="tiny-imagenet"),
        entry(seed=None, weights_sha256=[SHA, SHA]),
    ]
    for one in [entry(), *others, entry(top1=40.0)]:
        record("table2", one, tmp_path)
    entries = read("table2", tmp_path)["entries"]
    assert len(entries) == 6
    assert all(one in entries for one in [*others, entry(top1=40.0)])


def test_weights_of_ones_own_do_not_take_the_place_of_those_that_ship(tmp_path):
    shipped = json.loads((WEIGHTS / "zfnet-64.json").read_text(encoding="utf-8"))["sha256"]
    record("fig2", entry(weights_sha256=shipped), tmp_path)
    with pytest.raises(LedgerError, match=r"row 'zfnet', seed 0, is of the weights that ship .*--results"):
        record("fig2", entry(top1=40.0), tmp_path)
    record("fig2", entry(top1=30.0, weights_sha256=shipped), tmp_path)
    record("fig2", entry(seed=1), tmp_path)
    assert [one["values"]["val top1"] for one in read("fig2", tmp_path)["entries"]] == [30.0, 50.0]


def test_a_rehearsal_does_not_take_the_place_of_more_pictures(tmp_path):
    record("occlusion", entry(n=500), tmp_path)
    with pytest.raises(
        LedgerError, match=r"seed 0, is over 20, and the one that is there over 500;.*--results"
    ):
        record("occlusion", entry(n=20), tmp_path)
    record("occlusion", entry(n=600), tmp_path)
    record("occlusion", entry(n=20, data_sha256="f" * 64), tmp_path)  # of other pictures there may be fewer
    assert [one["n"] for one in read("occlusion", tmp_path)["entries"]] == [20]


def test_entries_lie_in_an_order_that_does_not_depend_on_time(tmp_path):
    every = [entry(row, seed) for row in ("b", "a") for seed in (1, None, 0)]
    for one in every:
        record("x", one, tmp_path)
    rows = [(one["row"], one["seed"]) for one in read("x", tmp_path)["entries"]]
    assert rows == [("a", None), ("a", 0), ("a", 1), ("b", None), ("b", 0), ("b", 1)]


@pytest.mark.parametrize("lost", sorted(entry()))
def test_an_entry_that_lacks_anything_is_refused_by_its_name(tmp_path, lost):
    incomplete = {key: value for key, value in entry().items() if key != lost}
    with pytest.raises(LedgerError, match=f"'{lost}' is a required property"):
        record("table2", incomplete, tmp_path)
    assert not (tmp_path / "table2.json").exists()
    (tmp_path / "table2.json").write_text(json.dumps({"name": "table2", "entries": [entry("a"), incomplete]}))
    with pytest.raises(LedgerError, match=f"'{lost}' is a required property") as refused:
        read("table2", tmp_path)
    assert lost == "row" or "row 'zfnet'" in str(refused.value)
    assert "table2.json" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ""}, "command: '' should be non-empty"),
        ({"weights_sha256": "abc"}, "weights_sha256: 'abc' is not valid"),
        ({"date": "yesterday"}, "date: 'yesterday' does not match"),
        ({"seconds": -1}, "seconds: -1 is less than the minimum"),
        ({"values": {}}, r"values: \{\} should be non-empty"),
        ({"remark": "x"}, "'remark' was unexpected"),
    ],
)
def test_an_entry_with_something_odd_is_refused(tmp_path, changes, message):
    with pytest.raises(LedgerError, match=f"row 'zfnet', seed 0, .*{message}"):
        record("table2", entry(**changes), tmp_path)


def test_all_faults_are_told_at_once(tmp_path):
    with pytest.raises(LedgerError, match=r"command(?s:.)*date|date(?s:.)*command"):
        record("table2", entry(command="", date=""), tmp_path)


def test_a_value_that_is_no_number_is_refused(tmp_path):
    for values, place in (
        ({"top1": math.nan}, r"values\.top1 = nan"),
        ({"top1": {"layer 5": [1.0, math.inf]}}, r"values\.top1\.layer 5\.1 = inf"),
        ({"top1": {"a": 1, "b": np.float32(2)}}, r"values\.top1\.b = np\.float32"),
    ):
        with pytest.raises(LedgerError, match=f"table2.json: the entry of row 'zfnet', seed 0, .*{place}"):
            record("table2", entry(values=values), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is not of type 'object'"),
        ('{"name": "y", "entries": []}', "under another name"),
    ],
)
def test_a_damaged_ledger_is_refused_and_not_overwritten(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    for act in (lambda: read("x", tmp_path), lambda: record("x", entry(), tmp_path)):
        with pytest.raises(LedgerError, match=rf"x\.json.*{message}"):
            act()
    assert (tmp_path / "x.json").read_text() == text


def test_a_ledger_that_is_not_there_is_told_with_those_that_are(tmp_path):
    record("table2", entry(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no ledger .*table3\.json; there are: table2"):
        read("table3", tmp_path)
    assert find("table3", tmp_path) == []


def test_entries_are_found_by_row_seed_and_config(tmp_path):
    for one in (entry(), entry(seed=1), entry("alexnet"), entry(config={"epochs": 3, "width": 0.5})):
        record("x", one, tmp_path)
    assert len(find("x", tmp_path)) == 4
    assert find("x", tmp_path, "zfnet", 1) == [entry(seed=1)]
    assert find("x", tmp_path, epochs=3) == [entry(config={"epochs": 3, "width": 0.5})]
    assert find("x", tmp_path, recipe={"rate": 0.1}, row="alexnet") == [entry("alexnet")]
    assert find("x", tmp_path, colour=None) == []
    assert find("x", tmp_path, data="tiny-imagenet") == []
    assert find("x", tmp_path, "alexnet", data="patches") == [entry("alexnet")]


def writer(arguments):
    folder, row = arguments
    for seed in range(8):
        record("x", entry(row, seed), folder)


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(writer, [(tmp_path, row) for row in "abc"]))
    assert len(read("x", tmp_path)["entries"]) == 24


def test_a_writer_that_was_killed_leaves_no_lock(tmp_path):
    code = """if True:
        import json, os, signal, sys
        import zfcore.ledger as ledger
        ledger.write_atomically = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
        ledger.record('x', json.loads(sys.argv[1]), sys.argv[2])
    """
    command = [sys.executable, "-c", code, json.dumps(entry()), tmp_path]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    record("x", entry(), tmp_path)
    assert len(read("x", tmp_path)["entries"]) == 1


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_outcomes_come_back_bit_by_bit(bits):
    found = entry(n=len(bits), outcomes=pack_outcomes({"one crop top1": torch.tensor(bits)}))
    assert outcomes(json.loads(json.dumps(found)), "one crop top1").tolist() == bits


def test_ten_thousand_outcomes_take_less_than_two_kilobytes():
    assert len(pack_outcomes({"top1": torch.ones(10_000, dtype=torch.bool)})["top1"]) < 2000


def test_outcomes_that_are_not_there_or_too_few_are_refused():
    few = entry(n=100, outcomes=pack_outcomes({"one crop top1": torch.ones(10) > 0}))
    with pytest.raises(LedgerError, match="no outcomes 'ten crops top1'; it has: one crop top1"):
        outcomes(few, "ten crops top1")
    with pytest.raises(LedgerError, match="16 outcomes 'one crop top1' for 100 pictures"):
        outcomes(few, "one crop top1")


def test_provenance_completes_an_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/zfcore", "reproduce", "table2", "--row", "a b"])
    made = provenance("cpu", seconds=12.345)
    assert made["command"] == "zfcore reproduce table2 --row 'a b'"
    assert made["seconds"] == 12.345
    assert made["torch"] == torch.__version__
    bare = {key: value for key, value in entry().items() if key not in made}
    record("x", bare | made, tmp_path)


def test_the_code_is_told_by_version_and_commit(tmp_path, monkeypatch):
    assert re.fullmatch(r"\d+\.\d+\.\d+( \([0-9a-f]{12}(\+dirty)?\))?", provenance()["code"])
    package = tmp_path / "zfcore"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(zfcore, "__file__", str(package / "__init__.py"))

    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *name, *arguments], check=True, capture_output=True)

    def fresh():
        code_version.cache_clear()
        return provenance()["code"]

    try:
        assert fresh() == zfcore.__version__
        git("init")
        assert fresh() == zfcore.__version__, "not a file of this repository"
        git("add", ".")
        git("commit", "-m", "a")
        assert re.fullmatch(rf"{zfcore.__version__} \([0-9a-f]{{12}}\)", fresh())
        first = provenance()["code"]
        (package / "__init__.py").write_text("x = 1")
        assert provenance()["code"] == first, "this process has read what was there before"
        assert fresh().endswith("+dirty)")
    finally:
        code_version.cache_clear()


def test_every_ledger_in_the_book_is_in_order():
    paths = list(zfcore.ledger.RESULTS.glob("*.json"))
    assert paths
    for path in paths:
        read(path.stem)


@pytest.mark.parametrize(
    ("ledger", "rows"),
    {
        "fig2": ["decoding", "diversity", "purity"],
        "invariance": ["five", "many"],
        "maximization": ["zfnet-64"],
        "occlusion": ["zfnet-64"],
        "correspondence": [f"zfnet-64, {name}" for name in ("Faces_easy", "cougar_face", "dalmatian")],
    }.items(),
)
def test_the_books_numbers_belong_to_the_weights_that_ship(ledger, rows):
    shipped = json.loads((WEIGHTS / "zfnet-64.json").read_text(encoding="utf-8"))["sha256"]
    entries = read(ledger)["entries"]
    assert [entry["row"] for entry in entries if entry["weights_sha256"] == shipped] == rows
    others = [entry["row"] for entry in entries if entry["weights_sha256"] != shipped]
    assert all("random weights" in row for row in others)


def test_the_readme_gives_the_numbers_of_card_and_ledger(pytestconfig):
    readme = (pytestconfig.rootpath / "README.md").read_text(encoding="utf-8")
    card = json.loads((WEIGHTS / "zfnet-64.json").read_text(encoding="utf-8"))
    error = card["error"]["one crop"]
    assert f"{error['top1']:.1f} / {error['top5']:.1f} % on Tiny-ImageNet" in readme
    entries = entries_of("table3", "caltech101", card["sha256"])
    cells = {"duplicates": "kept", "background": False, "per class": 30}
    rows = [f"{kind}, layer {n}" for kind in ("pretrained", "random") for n in (7, 5)]
    means = [statistics.fmean(accuracies(entries, row, **cells).values()) for row in rows]
    words = "{:.1f} % on layer 7, {:.1f} % on layer 5; untrained {:.1f} % and {:.1f} %".format(*means)
    scratch = accuracies(entries, "scratch", **cells)
    splits = "one split" if len(scratch) == 1 else f"{len(scratch)} splits"
    words += f"; {statistics.fmean(scratch.values()):.1f} % from scratch ({splits})"
    assert words in readme


def test_outside_a_checkout_the_ledger_lies_in_the_working_directory(tmp_path):
    (tmp_path / "checkout" / "book").mkdir(parents=True)
    assert zfcore.ledger._results(tmp_path / "checkout" / "zfcore") == tmp_path / "checkout/book/results"
    assert zfcore.ledger._results(tmp_path / "site-packages" / "zfcore") == Path("results")


@pytest.mark.parametrize("ledger", ["table3", "table5", "table6", "fig7"])
def test_what_was_transferred_are_the_weights_that_ship(ledger):
    shipped = json.loads((WEIGHTS / "zfnet-64.json").read_text(encoding="utf-8"))["sha256"]
    entries = read(ledger)["entries"]
    assert [e["row"] for e in entries if e["weights_sha256"] != shipped and not is_control(e)] == []
    assert any(e["weights_sha256"] == shipped for e in entries)


def test_the_training_of_the_weights_that_ship_is_in_the_ledger():
    shipped = json.loads((WEIGHTS / "zfnet-64.json").read_text(encoding="utf-8"))["sha256"]
    assert shipped in [e["weights_sha256"] for e in read("training")["entries"]]
