"""What rows of an epoch come to, for a sink that keeps one row of each key.

Rows of a stream that takes rows back add up: what was put out and taken back again has not been. Only what is left is
applied, first what goes and then what comes, so it does not matter in which order the rows of several workers arrived.
Without signs the last row of each key counts; rows of one key come from one worker, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.connectors.json_text import json_text

CHANGE: Final = "change"
"""The first field of rows behind a stream that takes rows back: "+" or "-"."""

FOLD_ROWS: Final = 262_144
_WEIGHT: Final = "weight"
_PLACE: Final = "place"


class Changes(NamedTuple):
    """Rows to take out, which are there as they are, and rows to put in, in place of those with their keys."""

    gone: pa.Table
    put: pa.Table


def changes_of(batches: Iterable[pa.RecordBatch], keys: Sequence[str], *, signed: bool) -> Iterator[Changes]:
    """What a table by key has to be changed by, for rows in the order in which they came.

    Args:
        keys: the fields that say which row replaces which.
        signed: the rows begin with `CHANGE`. What they come to is then known behind the last of them only; memory
            is for the rows that are left, and for `FOLD_ROWS` more.
    """
    gathered = _gathered(batches)
    if not signed:
        for rows in gathered:
            put = rows.take(_last_of_each(rows, keys))
            yield Changes(put.slice(0, 0), put)
        return
    left: pa.Table | None = None
    for rows in gathered:
        plus = pc.equal(rows[CHANGE], pa.scalar("+")).to_numpy()
        weighed = rows.drop_columns([CHANGE]).append_column(_WEIGHT, pa.array(np.where(plus, 1, -1)))
        left = _added_up(weighed if left is None else pa.concat_tables([left, weighed]))
    if left is not None:
        weights = left[_WEIGHT].to_numpy()
        rows = left.drop_columns([_WEIGHT])
        put = rows.filter(pa.array(weights > 0))
        yield Changes(rows.filter(pa.array(weights < 0)), put.take(_last_of_each(put, keys)))


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Enough rows at a time for the price of a grouping."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= FOLD_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _last_of_each(rows: pa.Table, keys: Sequence[str]) -> Any:
    """The numbers of the rows that are the last ones with their keys, in order."""
    grouped = _groupable(rows, keys).append_column(_PLACE, pa.array(np.arange(rows.num_rows)))
    last = grouped.group_by(_places(len(keys)), use_threads=False).aggregate([(_PLACE, "max")])
    return pa.array(np.sort(last[f"{_PLACE}_max"].to_numpy()))


def _added_up(rows: pa.Table) -> pa.Table:
    """Each row that is left once, with how often it counts; not those that come to nothing."""
    names = [n for n in rows.column_names if n != _WEIGHT]
    grouped = _groupable(rows, names).append_column(_PLACE, pa.array(np.arange(rows.num_rows)))
    grouped = grouped.append_column(_WEIGHT, rows[_WEIGHT])
    sums = grouped.group_by(_places(len(names)), use_threads=False).aggregate([(_PLACE, "max"), (_WEIGHT, "sum")])
    sums = sums.filter(pa.array(sums[f"{_WEIGHT}_sum"].to_numpy() != 0)).sort_by(f"{_PLACE}_max")
    left = rows.select(names).take(sums[f"{_PLACE}_max"])
    return left.append_column(_WEIGHT, sums[f"{_WEIGHT}_sum"])


def _groupable(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns under plain names; nested ones, which Arrow does not group by, as text."""
    columns: list[Any] = []
    for name in names:
        column = rows[name].combine_chunks()
        columns.append(json_text(column, "us") if pa.types.is_nested(column.type) else column)
    return pa.table(columns, names=_places(len(names)))


def _places(count: int) -> list[str]:
    return [f"f{number}" for number in range(count)]
