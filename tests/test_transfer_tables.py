"""Tables 3 to 6 and Fig. 7: what is read from the ledger, and how rows are compared."""

import pytest

from zfcore.generalization import rows_of
from zfcore.model import load
from zfcore.protocols import paired
from zfcore.transfer_tables import (
    TABLE3,
    TABLE4,
    TABLE5,
    TABLE6,
    accuracies,
    at_size,
    changed,
    class_curves,
    compare,
    entries_of,
    in_words,
    spread,
)


def test_the_papers_tables_are_whole():
    assert len(TABLE5) == 22
    assert [len(next(iter(t.values()))) for t in (TABLE3, TABLE4, TABLE5, TABLE6)] == [2, 4, 4, 2]
    assert TABLE3["pretrained"] == ("83.8 ± 0.5", "86.5 ± 0.5")
    assert TABLE6["svm(5)"][0] == "86.2 ± 0.8"
    assert set(TABLE6) <= set(rows_of("table6"))


def test_rows_are_compared_over_the_splits_that_both_have():
    entries = [
        {
            "row": row,
            "seed": s,
            "values": {"accuracy": a},
            "config": {"per class": 30},
            "data": "caltech101",
            "n": 2945,
        }
        for row, found in (("a", [60, 62, 61]), ("b", [50, 51, 50, 90]))
        for s, a in enumerate(found)
    ]
    assert accuracies(entries, "a", **{"per class": 15}) == {}
    assert compare(entries, "a", "b").mean == pytest.approx(32 / 3)
    assert in_words(compare(entries, "a", "b"), "a", "b").startswith("a is above b by 10.7 points")
    assert in_words(compare(entries, "a", "c"), "a", "c") == "a against c: **not run yet**"
    assert "cannot be told apart" in in_words(paired({0: 1, 1: 3}, {0: 2, 1: 2}, 1), "a", "b")
    same = paired({0: 60, 1: 62, 2: 61}, {0: 50, 1: 51, 2: 50}, 2945 / 3030)
    assert compare(entries, "a", "b") == same
    with pytest.raises(ValueError, match="several entries of a split"):
        accuracies([*entries, {**entries[0], "values": {"accuracy": 1}}], "a")
    assert (spread([]), spread([5.0]), spread([5.0, 7.0])) == ("–", "5.0 (one split)", "6.0 ± 1.4")


def test_the_curves_of_a_class_are_means_and_deviations_over_the_splits():
    def entry(row, seed, each, **config):
        values = {"per class": [1, 5], "each": each, "classes": ["ant", "bee"]}
        return {"row": row, "seed": seed, "values": values, "config": config}

    entries = [
        entry("pretrained", 0, [[10.0, 20.0], [50.0, 60.0]]),
        entry("pretrained", 1, [[30.0, 20.0], [70.0, 90.0]]),
        entry("pretrained", 2, [[20.0, 20.0], [60.0, 30.0]]),
        entry("scratch", 0, [[1.0, 2.0], [3.0, 4.0]]),
        *(entry("pretrained", seed, [[0.0, 0.0]] * 2, architecture="another") for seed in (0, 1)),
    ]
    curves = class_curves(entries)
    assert list(curves) == ["ant", "bee"]
    assert list(curves["ant"]) == ["pretrained"]  # one split has no deviation
    assert curves["ant"]["pretrained"] == [(1.0, 20.0, 10.0), (5.0, 60.0, 10.0)]
    assert curves["bee"]["pretrained"] == [(1.0, 20.0, 0.0), (5.0, 60.0, pytest.approx(30.0))]
    assert class_curves([]) == {}


def test_of_several_experiments_the_one_with_most_splits_counts_then_the_longest():
    def entry(seed, epochs, recipe="small"):
        config = {"per class": 30, "epochs": epochs, "recipe": {"name": recipe}}
        return {"row": "scratch", "seed": seed, "values": {"accuracy": float(epochs)}, "config": config}

    entries = [entry(0, 20), entry(0, 100), entry(1, 100), entry(1, 20), entry(0, 300, "paper")]
    assert accuracies(entries, "scratch") == {0: 100.0, 1: 100.0}
    assert accuracies([*entries, entry(2, 20)], "scratch") == {0: 20.0, 1: 20.0, 2: 20.0}


def test_experiments_that_are_as_long_are_not_taken_for_each_other():
    def entry(seed, duplicates):
        config = {"per class": 30, "duplicates": duplicates}
        return {"row": "svm(5)", "seed": seed, "values": {"accuracy": 50.0}, "config": config}

    entries = [entry(seed, duplicates) for seed in (0, 1) for duplicates in ("kept", "dropped")]
    with pytest.raises(ValueError, match=r"svm\(5\) has several entries of a split"):
        accuracies(entries, "svm(5)")
    assert accuracies(entries, "svm(5)", duplicates="dropped") == {0: 50.0, 1: 50.0}


def test_a_row_without_duplicates_is_compared_with_itself_split_by_split():
    def entry(seed, accuracy):
        config = {"per class": 30}
        values = {"accuracy": accuracy}
        return {
            "row": "svm(5)",
            "seed": seed,
            "values": values,
            "config": config,
            "data": "caltech101",
            "n": 2945,
        }

    kept, less = ([entry(s, a) for s, a in enumerate(found)] for found in ([60, 62, 61], [61, 62.5]))
    assert changed(kept, less, "svm(5)") == paired({0: 61, 1: 62.5}, {0: 60, 1: 62}, 2945 / 3030)
    assert changed(kept, less[:1], "svm(5)") is None
    assert changed(kept, less, "svm(7)") is None


def test_a_size_of_a_curve_is_an_entry_of_its_own():
    values = {"per class": [1, 3], "accuracy": [20.0, 40.0], "strength": [0.1, 0.01]}
    curve = {"row": "pretrained", "seed": 0, "values": values, "config": {"sizes": [1, 3]}}
    [point] = at_size([curve], 3)
    assert (point["values"], point["config"]["per class"]) == ({"accuracy": 40.0}, 3)
    assert at_size([curve], 2) == []


def test_an_empty_ledger_has_no_entries():
    assert entries_of("no-such-table", "caltech101", "0") == []


def test_controls_stand_beside_weights_of_their_own_layers_only():
    sha256 = load("zfnet-64")[1]["sha256"]
    assert {e["row"] for e in entries_of("table3", "caltech101", sha256)} >= {"random, layer 7"}
    assert entries_of("table3", "caltech101", "0" * 64) == []
