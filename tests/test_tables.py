"""A table is one experiment of the ledger: what may be compared, what is missing, what differs."""

import dataclasses
import json

import pytest
import torch

from zfcore.comparison import paired_difference
from zfcore.evaluate import percent
from zfcore.ledger import LedgerError, find, pack_outcomes, provenance, record
from zfcore.tables import read_table, share_of
from zfcore.train import SMALL

N = 400


@pytest.fixture
def write(tmp_path):
    """Record a row whose network is wrong on a given share of the pictures; gives its outcomes."""

    def write(row, share, seed=0, epochs=15, train_top1=10.0):
        draw = torch.Generator().manual_seed(1000 * seed + len(row))
        bits = torch.rand(N, generator=draw) < share
        config = {"recipe": dataclasses.asdict(SMALL), "shard": "0of4", "epochs": epochs, "width": 1.0}
        entry = {
            "row": row,
            "seed": seed,
            "values": {"one crop top1": percent(bits), "train top1": train_top1},
            "n": N,
            "data": "tiny-imagenet",
            "data_sha256": "a" * 64,
            "config": config | {"architecture": row, "judged in": "float32"},
            "weights_sha256": "b" * 64,
            **provenance(seconds=1.0, command="zfcore reproduce table2"),
            "outcomes": pack_outcomes({"one crop top1": bits}),
        }
        record("table2", entry, tmp_path)
        return bits

    return write


def test_a_table_without_a_ledger_has_all_its_rows_missing(tmp_path):
    table = read_table("table2", tmp_path)
    assert table.missing == [row.name for row in table.rows]
    assert table.shared == {}
    assert table.error("zfnet") is None
    assert table.difference("zfnet", "alexnet") is None
    assert table.agreement() is None


def test_the_paper_stands_beside_every_row(tmp_path):
    table = read_table("table2", tmp_path)
    assert table.paper("zfnet", "train top1") == 33.1
    assert table.paper("zfnet", "val top5") == 16.5
    assert read_table("table1", tmp_path).paper("zfnet", "train top1") is None


def test_seeds_of_a_row_are_averaged_and_paired_by_picture(write, tmp_path):
    a = torch.stack([write("alexnet", 0.5, seed) for seed in (0, 1, 2)])
    b = torch.stack([write("alexnet-no7", 0.4, seed) for seed in (0, 1, 2)])
    table = read_table("table2", tmp_path)
    assert table.error("alexnet") == pytest.approx(percent(a))
    assert table.difference("alexnet-no7", "alexnet") == paired_difference(b, a)
    assert "alexnet-no7" not in table.missing


def test_only_rows_of_one_experiment_are_compared(write, tmp_path):
    write("zfnet", 0.1, epochs=30)
    for row in ("zfnet", "alexnet"):
        write(row, 0.5, epochs=15)
    table = read_table("table2", tmp_path)
    assert table.shared["epochs"] == 15  # the experiment with more rows
    assert table.error("zfnet") > 30
    longer = read_table("table2", tmp_path, epochs=30)
    assert longer.error("zfnet") < 30
    assert not longer.has("alexnet")


def test_of_experiments_with_equal_rows_the_longer_one_is_taken(write, tmp_path):
    for epochs in (15, 30):
        write("zfnet", 0.5, epochs=epochs)
    assert read_table("table2", tmp_path).shared["epochs"] == 30


def test_what_another_command_wrote_into_the_ledger_is_passed_over(write, tmp_path):
    write("alexnet", 0.5)
    [mine] = find("table2", tmp_path)
    record("table2", mine | {"row": "zfnet-64", "config": {"settings": {}, "epochs": 20}}, tmp_path)
    record("table2", mine | {"config": {"settings": {}, "epochs": 20}}, tmp_path)
    assert read_table("table2", tmp_path).entries["alexnet"] == [mine]


def test_rows_that_rank_as_the_paper_s_agree_wholly(write, tmp_path):
    order = ["alexnet-no3467", "alexnet-no34", "alexnet-no67", "alexnet-fc2048", "zfnet"]
    for share, row in zip((0.95, 0.75, 0.55, 0.35, 0.15), order, strict=True):
        write(row, share)
    table = read_table("table2", tmp_path)
    assert table.agreement().tau == pytest.approx(1)
    assert table.agreement(order[:2]) is None  # two rows agree by chance
    assert table.agreement(order[1:]).interval[0] > 0.5


@pytest.mark.parametrize("target", ["table9", "fig4"])
def test_what_is_no_table_of_errors_is_refused(tmp_path, target):
    with pytest.raises(ValueError, match=f"unknown table '{target}'; known: table1, table2"):
        read_table(target, tmp_path)


def test_outcomes_that_a_row_lacks_are_asked_for_by_name(write, tmp_path):
    write("zfnet", 0.5)
    with pytest.raises(LedgerError, match="ten crops top1"):
        read_table("table2", tmp_path).outcomes("zfnet", "ten crops top1")


def test_an_entry_whose_recipe_was_taken_out_is_told(write, tmp_path):
    write("zfnet", 0.5)
    ledger = json.loads((tmp_path / "table2.json").read_text("utf-8"))
    del ledger["entries"][0]["config"]["epochs"]
    (tmp_path / "table2.json").write_text(json.dumps(ledger), "utf-8")
    with pytest.raises(LedgerError, match="the entry of row 'zfnet' has no 'epochs' in its config"):
        read_table("table2", tmp_path)


def test_a_shard_in_words():
    assert [share_of(shard) for shard in (None, "0of4", "2of3")] == ["all", "25 %", "33.3 %"]
