"""The rows of one side of a join: those of a batch on their way in, and those that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import (
    Array,
    Batch,
    BoolArray,
    IntArray,
    Keys,
    SignArray,
    index_array,
    make_columns,
    take_columns,
)
from millstream.errors import unknown_field
from millstream.grouping import factorize
from millstream.operators.joins.arrays import GrowingArray, RareArray
from millstream.operators.joins.growing import GrowingColumns, plain
from millstream.operators.joins.increments import Increments, StreamIncrements
from millstream.operators.joins.key_index import KeyIndex
from millstream.times import MIN_US

RowNumbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SideRows:
    """Rows of one side, as they come.

    Attributes:
        key: int64[n], the number of each row's key; `NO_KEY` where it can equal nothing.
        columns: the fields that come out of the join, key fields aside.
    """

    key: IntArray
    columns: pa.RecordBatch
    time_us: IntArray | None = None
    before_us: IntArray | None = None
    position: IntArray | None = None
    sign: SignArray | None = None

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: npt.NDArray[np.integer]) -> SideRows:
        return SideRows(
            self.key[rows],
            take_columns(self.columns, index_array(rows)),
            None if self.time_us is None else self.time_us[rows],
            None if self.before_us is None else self.before_us[rows],
            None if self.position is None else self.position[rows],
            None if self.sign is None else self.sign[rows],
        )

    def where(self, mask: BoolArray) -> SideRows:
        return self if mask.all() else self.take(np.flatnonzero(mask))


def keyed_on(batch: Batch, fields: Sequence[str] | None, where: str) -> Batch:
    """The batch with the key that the join compares: the one it is partitioned by, or these fields."""
    if fields is None:
        return batch
    arrays = [plain(field_of(batch, n, where)) for n in fields]
    codes, first = factorize(arrays)
    rows = index_array(first)
    distinct = make_columns(list(fields), [a.take(rows) for a in arrays])
    columns = batch.all_columns()
    return replace(batch, columns=columns, keys=Keys(distinct, codes.astype(np.int32, copy=False)))


def field_of(batch: Batch, name: str, where: str) -> Array:
    """A field of a batch, be it a column or a field of the key.

    Raises:
        SchemaError: there is none of that name, which shows here where fields are not known before the first row.
    """
    if batch.keys is not None and name in batch.keys.distinct.schema.names:
        return batch.keys.distinct.column(name).take(index_array(batch.keys.codes))
    if name not in batch.columns.schema.names:
        raise unknown_field(name, batch.all_columns().schema.names, where)
    return batch.columns.column(name)


def rows_of(batch: Batch, fields: Sequence[str], index: KeyIndex) -> SideRows:
    """The rows of a keyed batch, their keys numbered."""
    assert batch.keys is not None
    columns = make_columns(fields, [plain(batch.columns.column(n)) for n in fields])
    return SideRows(index.numbers(batch.keys), columns, batch.time_us, batch.before_us, batch.position, batch.sign)


class KeptRows:
    """Rows of one side that may still be matched, by their number: 0 is the first that is kept.

    Attributes:
        time_us: event times; of no meaning where rows have none.
        before_us: the watermark before each row, `MIN_US` where the row was not behind it.
        matches: how many rows of the other side each one has met, where that is counted.
        gone: rows that were taken back, or are done with.
        increments: what of them is in checkpoints.
        counts_matches: whether ``matches`` is there.
    """

    def __init__(self, where: str, *, counts_matches: bool) -> None:
        self.key = GrowingArray(np.int64)
        self.columns = GrowingColumns(where)
        self.time_us = GrowingArray(np.int64)
        self.position = RareArray(0)
        self.before_us = RareArray(MIN_US)
        self.matches = GrowingArray(np.int64)
        self.gone = GrowingArray(np.bool_)
        self.gone_count = 0
        self.counts_matches = counts_matches
        self.increments: Increments | StreamIncrements = Increments()

    def __len__(self) -> int:
        return len(self.key)

    def add(self, rows: SideRows) -> RowNumbers:
        """Keep rows; returns their numbers."""
        count, first = len(rows), len(self)
        self.key.extend(rows.key)
        self.columns.extend(rows.columns.schema.names, rows.columns.columns, count)
        self.time_us.extend(np.zeros(count, np.int64) if rows.time_us is None else rows.time_us)
        self.position.extend(rows.position, count)
        self.before_us.extend(rows.before_us, count)
        if self.counts_matches:
            self.matches.fill(count, 0)
        self.gone.fill(count, False)
        return np.arange(first, first + count)

    def remove(self, rows: RowNumbers) -> None:
        """Rows that were taken back."""
        self.gone.values[rows] = True
        self.gone_count += len(rows)

    def keep(self, rows: RowNumbers) -> IntArray:
        """Only these rows, in this order; returns the new number of each old one, -1 where it is gone."""
        numbers = np.full(len(self), -1, np.int64)
        numbers[rows] = np.arange(len(rows))
        self.increments.keep(rows, self.key.values)
        for array in (self.key, self.time_us, self.position, self.before_us):
            array.keep(rows)
        if self.counts_matches:
            self.matches.keep(rows)
        self.gone.keep(rows)
        self.gone_count = int(self.gone.values.sum())
        self.columns.keep(rows)
        return numbers

    @property
    def nbytes(self) -> int:
        beside = (self.key, self.time_us, self.position, self.before_us, self.matches, self.gone)
        return self.columns.nbytes + self.increments.nbytes + sum(a.nbytes for a in beside)
