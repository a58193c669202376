"""A table of the paper beside what the ledger holds of it: the same rows, the same pictures, paired.

The ledger may hold a table at several scales. Only rows that share data, shard, recipe, epochs, width and
the precision in which they were judged may be compared, so a :class:`Table` is made of one such set: the
one with most rows, of these the one with most seeds, of these the one that was trained longest. A row that
nobody has run yet stays in it and says so.

Sources: Zeiler & Fergus, Tables 1 and 2, doi:10.1007/978-3-319-10590-1_53; what a difference is worth is
told by :func:`zfcore.comparison.paired_difference`.

Example::

    from zfcore.tables import read_table
    table = read_table("table2")
    table.error("zfnet", "train top1"), table.difference("alexnet-no7", "alexnet"), table.missing
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from zfcore.comparison import Agreement, Difference, paired_difference, rank_agreement
from zfcore.ledger import RESULTS, LedgerError, outcomes
from zfcore.reproduce import COLUMNS, Row, entries_of_rows, rows_of


@dataclass(frozen=True)
class Table:
    """Rows of the paper with the entries of one experiment; made by :func:`read_table`.

    ``shared`` is what all entries have in common: ``data`` and ``data_sha256``, ``n``, ``shard``, ``epochs``,
    ``width``, ``recipe`` (its name), ``settings`` (all of it) and ``judged in``; empty where the ledger has
    none. ``entries`` holds a list for every row,
    one entry per seed; of an ensemble that with most members.
    """

    target: str
    rows: tuple[Row, ...]
    shared: dict[str, Any]
    entries: dict[str, list[dict[str, Any]]]

    @property
    def missing(self) -> list[str]:
        """The names of the rows that have not been run in this experiment."""
        return [row.name for row in self.rows if not self.entries[row.name]]

    def has(self, *rows: str) -> bool:
        """Whether all these rows have been run."""
        return not set(rows) & set(self.missing)

    def paper(self, row: str, column: str) -> float | None:
        """The paper's error in %: ``"train top1"``, ``"val top1"``, ``"val top5"`` or ``"test top5"``.

        None where the paper has none; ``ValueError`` for a row that the table has not.
        """
        papers = {each.name: each.paper for each in self.rows}
        if row not in papers:
            raise ValueError(f"{self.target} has no row {row!r}; it has {', '.join(papers)}")
        return dict(zip(COLUMNS[self.target], papers[row], strict=True)).get(column)

    def error(self, row: str, name: str = "one crop top1") -> float | None:
        """Our error in %, the mean over the seeds; None where the row has not been run.

        ``name`` is that of a value in the ledger: ``"train top1"``, ``"ten crops top5"``, ….
        """
        entries = self.entries[row]
        return mean(entry["values"][name] for entry in entries) if entries else None

    def outcomes(self, row: str, name: str = "one crop top1") -> Tensor:
        """Which validation pictures it got wrong, bool (seeds, N)."""
        return torch.stack([outcomes(entry, name) for entry in self.entries[row]])

    def difference(self, row: str, base: str, name: str = "one crop top1") -> Difference | None:
        """The error of ``row`` minus that of ``base`` over the same pictures; None where one is missing."""
        if not self.has(row, base):
            return None
        return paired_difference(self.outcomes(row, name), self.outcomes(base, name))

    def agreement(
        self, rows: Sequence[str] | None = None, column: str = "val top1", name: str = "one crop top1"
    ) -> Agreement | None:
        """Do our rows rank as the paper's? Kendall's τ over the rows (all) that both have.

        None for fewer than three rows, which any ranking is likely to match.
        """
        rows = [
            row.name
            for row in self.rows
            if (rows is None or row.name in rows)
            and self.has(row.name)
            and self.paper(row.name, column) is not None
        ]
        if len(rows) < 3:
            return None
        wrong = torch.stack([self.outcomes(row, name).double().mean(0) for row in rows])
        return rank_agreement([self.paper(row, column) for row in rows], wrong)


def read_table(target: str, results: str | os.PathLike = RESULTS, **config: Any) -> Table:
    """What the ledger holds of ``"table1"`` or ``"table2"``, of the experiment with most rows.

    Parameters
    ----------
    target
        One of these two tables.
    results
        Folder of the ledger.
    config
        Narrows the choice to entries with this ``data`` or ``seed``, or whose config has these values, as
        ``epochs=30``.

    Raises
    ------
    ValueError
        Another target.
    zfcore.ledger.LedgerError
        The ledger is not in order.
    """
    if target not in COLUMNS:
        raise ValueError(f"unknown table {target!r}; known: {', '.join(COLUMNS)}")
    rows = tuple(rows_of(target))
    experiments: dict[str, list[dict[str, Any]]] = {}
    for entry in entries_of_rows(target, results, **config):
        experiments.setdefault(json.dumps(_shared(entry), sort_keys=True), []).append(entry)
    longest = sorted(experiments.items(), key=lambda item: _extent(*item), reverse=True)[:1]
    shared, found = (json.loads(longest[0][0]), longest[0][1]) if longest else ({}, [])
    entries = {row.name: [entry for entry in found if entry["row"] == row.name] for row in rows}
    members: dict[str, Any] = {}
    for row in rows:
        if row.members:  # ensembles of more and fewer are not seeds of one; the next holds the one before it
            same = [e for e in entries[row.name] if members.items() <= e["config"]["members"].items()]
            entries[row.name] = sorted(same, key=lambda e: e["values"]["members"])[-1:]
            members = entries[row.name][0]["config"]["members"] if entries[row.name] else members
    return Table(target, rows, shared, entries)


def share_of(shard: str | None) -> str:
    """What part of the training pictures a shard is, in words: ``"0of4"`` is ``"25 %"``, None ``"all"``."""
    return "all" if shard is None else f"{100 / int(shard.partition('of')[2]):.3g} %"


def _shared(entry: dict[str, Any]) -> dict[str, Any]:
    """Of an entry, what must be the same in all rows that are compared."""
    config = entry["config"]
    try:
        return {
            "data": entry["data"],
            "data_sha256": entry["data_sha256"],
            "n": entry["n"],
            "recipe": config["recipe"]["name"],
            "settings": config["recipe"],
            **{key: config[key] for key in ("shard", "epochs", "width", "judged in")},
        }
    except KeyError as error:
        raise LedgerError(f"the entry of row {entry['row']!r} has no {error} in its config") from error


def _extent(shared: str, entries: list[dict[str, Any]]) -> tuple[int, int, int, float]:
    """How much evidence an experiment is: rows, seeds, epochs, hours."""
    rows = len({entry["row"] for entry in entries})
    return rows, len(entries), json.loads(shared)["epochs"], sum(entry["seconds"] for entry in entries)
