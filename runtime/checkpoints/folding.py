"""Tables of state of which later ones replace or remove rows of earlier ones, as what they amount to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from millstream.checkpoints.tables import StateTable
from millstream.runs import unify_keys


def folded(tables: Sequence[StateTable]) -> list[StateTable]:
    """The rows that count, in tables that only add.

    Args:
        tables: those of one worker in the order in which it wrote them; different workers have different keys.
    """
    by_name: dict[str, list[StateTable]] = {}
    for table in tables:
        by_name.setdefault(table.name, []).append(table)
    found: list[StateTable] = []
    for alike in by_name.values():
        found += alike if all(t.change == "adds" for t in alike) else _settled(alike)
    return found


def _settled(tables: Sequence[StateTable]) -> list[StateTable]:
    keys = unify_keys([t.keys for t in tables if t.keys is not None])
    codes = np.split(keys.codes, np.cumsum([t.num_rows for t in tables])[:-1])
    since = np.zeros(keys.distinct.num_rows, np.int64)  # by key, the first table that counts
    for number, (table, of_rows) in enumerate(zip(tables, codes, strict=True)):
        if table.change != "adds":
            since[of_rows] = number
    counting = [
        table.take(np.flatnonzero(since[of_rows] <= number))
        for number, (table, of_rows) in enumerate(zip(tables, codes, strict=True))
        if table.change != "removes"
    ]
    return [StateTable(t.name, t.keys, t.columns) for t in counting if t.num_rows]
