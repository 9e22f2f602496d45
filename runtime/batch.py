"""The batch: the unit of everything that moves and of everything that operators take and give.

A batch is a set of Arrow columns with what the runtime knows of each row beside them, as NumPy arrays
of the same length: event time, the watermark before the row, the position in the source, the key, and the sign.
Columns are read only: they may be views of a message or of a mapped file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.errors import MillstreamError

IntArray = npt.NDArray[np.int64]
CodeArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
SignArray = npt.NDArray[np.int8]
Array: TypeAlias = "pa.Array[Any]"

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a batch's rows, each distinct key once.

    Attributes:
        distinct: one row for each distinct key, one column for each key field; may hold keys of no row.
        codes: int32[n], the row of ``distinct`` that is each row's key.
    """

    distinct: pa.RecordBatch
    codes: CodeArray

    def take(self, rows: npt.NDArray[np.integer]) -> Keys:
        return Keys(self.distinct, self.codes[rows])

    @property
    def one_each(self) -> bool:
        """Whether the rows are of keys that follow one another."""
        first, count = int(self.codes[0]) if len(self.codes) else 0, len(self.codes)
        return bool((self.codes == np.arange(first, first + count, dtype=np.int32)).all())

    def used(self) -> pa.RecordBatch:
        """The keys that have rows, each once."""
        if self.one_each:
            return self.distinct.slice(int(self.codes[0]) if len(self.codes) else 0, len(self.codes))
        return self.distinct.take(index_array(np.unique(self.codes)))

    def columns(self) -> list[Array]:
        """The key fields row by row, decoded."""
        index = index_array(self.codes)
        return [column.take(index) for column in self.distinct.columns]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows on their way through the flow.

    Attributes:
        columns: the fields that the rest of the flow reads.
        time_us: int64[n], event time; None before ``event_time()`` and on processing time.
        before_us: int64[n], the watermark of the row's own source partition just before the row; None
            when no row of the batch is at or behind it, which is the common case.
        position: int64[n], grows along each source partition, breaks ties of equal times; None unless
            an operator of the flow depends on order.
        keys: each row's key, behind an exchange by key.
        sign: int8[n], +1 for a row that counts, -1 for one that takes an earlier row back; None when all count.
    """

    columns: pa.RecordBatch
    time_us: IntArray | None = None
    before_us: IntArray | None = None
    position: IntArray | None = None
    keys: Keys | None = None
    sign: SignArray | None = None

    @property
    def num_rows(self) -> int:
        # Arrow forgets the length of a batch without columns: a keyed count may need none.
        if self.keys is not None:
            return len(self.keys.codes)
        if self.time_us is not None:
            return len(self.time_us)
        return int(self.columns.num_rows)

    @property
    def nbytes(self) -> int:
        size = int(self.columns.nbytes)
        for beside in (self.time_us, self.before_us, self.position, self.sign):
            size += 0 if beside is None else beside.nbytes
        if self.keys is not None:
            size += self.keys.codes.nbytes + int(self.keys.distinct.nbytes)
        return size

    def take(self, rows: npt.NDArray[np.integer]) -> Batch:
        """The rows at these indices, in this order."""
        index = index_array(rows)
        return Batch(
            take_columns(self.columns, index),
            None if self.time_us is None else self.time_us[rows],
            None if self.before_us is None else self.before_us[rows],
            None if self.position is None else self.position[rows],
            None if self.keys is None else self.keys.take(rows),
            None if self.sign is None else self.sign[rows],
        )

    def where(self, mask: BoolArray) -> Batch:
        """The rows for which ``mask`` is true."""
        if mask.all():
            return self
        return self.take(np.flatnonzero(mask))

    def slice(self, start: int, length: int) -> Batch:
        part = slice(start, start + length)
        return Batch(
            self.columns.slice(start, length),
            None if self.time_us is None else self.time_us[part],
            None if self.before_us is None else self.before_us[part],
            None if self.position is None else self.position[part],
            None if self.keys is None else Keys(self.keys.distinct, self.keys.codes[part]),
            None if self.sign is None else self.sign[part],
        )

    def with_columns(self, columns: pa.RecordBatch) -> Batch:
        """The same rows with other columns."""
        return replace(self, columns=columns)

    def all_columns(self) -> pa.RecordBatch:
        """The columns with the key fields in front, for whoever wants whole rows."""
        if self.keys is None:
            return self.columns
        names = self.keys.distinct.schema.names
        rest = [n for n in self.columns.schema.names if n not in names]
        return make_columns([*names, *rest], [*self.keys.columns(), *(self.columns.column(n) for n in rest)])


def index_array(rows: npt.NDArray[np.integer], mask: BoolArray | None = None) -> Array:
    """Row numbers for Arrow's ``take``; a masked one takes null."""
    index: Array = pa.array(rows, mask=mask)
    return index


def as_numpy(
    buffer: pa.Buffer | bytes | memoryview | None,
    dtype: type[_Number] | np.dtype[_Number],
    count: int = -1,
    offset: int = 0,
) -> npt.NDArray[_Number]:
    """``count`` numbers of a buffer from byte ``offset`` on, without a copy."""
    data: Any = buffer  # Arrow's buffers are buffers, though its stubs do not say so
    return np.frombuffer(data, dtype, count=count, offset=offset)


def make_columns(names: Sequence[str], arrays: Sequence[Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(arrays), names=list(names))


def struct_fields(column: Array) -> list[Array]:
    """The fields of a struct column that holds no null."""
    fields: Any = column
    return list(fields.flatten())


EMPTY_COLUMNS = make_columns([], [])


def take_columns(columns: pa.RecordBatch, index: Array) -> pa.RecordBatch:
    return columns.take(index) if columns.num_columns else columns


def concat_columns(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of several, in order; types may widen from one part to the next (int64 to double).

    Raises:
        MillstreamError: the text of one column is longer than one array can hold.
    """
    if len(parts) == 1:
        return parts[0]
    table = pa.concat_tables([pa.Table.from_batches([p]) for p in parts], promote_options="permissive").combine_chunks()
    batches = table.to_batches()
    if len(batches) > 1:  # Arrow leaves apart what it cannot put together
        raise MillstreamError(
            f"{len(parts)} batches with {table.nbytes:,} bytes have more than 2 GiB of text in one column, which is "
            "more than one batch can hold; use more workers, or keep less text"
        )
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def concat(parts: Sequence[Batch]) -> Batch:
    """One batch of several that are alike (all with times or none, no keys)."""
    if len(parts) == 1:
        return parts[0]

    def beside(name: str) -> IntArray | None:
        arrays = [getattr(p, name) for p in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    before: IntArray | None = None
    if any(p.before_us is not None for p in parts):
        from_us = [np.full(p.num_rows, np.iinfo(np.int64).min) if p.before_us is None else p.before_us for p in parts]
        before = np.concatenate(from_us)
    sign: SignArray | None = None
    if any(p.sign is not None for p in parts):
        sign = np.concatenate([np.ones(p.num_rows, np.int8) if p.sign is None else p.sign for p in parts])
    columns = concat_columns([p.columns for p in parts])
    return Batch(columns, beside("time_us"), before, beside("position"), sign=sign)
