"""Columns that grow at the end: state to which rows are appended, and from which any of them are taken.

Appending costs a copy of what is appended (memory doubles when it is full, so a row is moved once or twice
in all), and taking rows is one Arrow kernel over one piece of memory, however many batches the rows came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, BoolArray, as_numpy, index_array
from millstream.errors import SchemaError

_Number = TypeVar("_Number", bound=np.generic)

RowNumbers = npt.NDArray[np.int64]

PIECE_BYTES: Final = 1 << 30
"""The most text that a slice of a column should have."""


class GrowingArray(Generic[_Number]):
    """A NumPy array with room at its end."""

    def __init__(self, dtype: type[_Number]) -> None:
        self._room: npt.NDArray[_Number] = np.empty(0, dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> npt.NDArray[_Number]:
        """What there is; writing to it changes the column."""
        return self._room[: self._count]

    def extend(self, values: npt.NDArray[_Number]) -> None:
        needed = self._count + len(values)
        if needed > len(self._room):
            room = np.empty(max(needed, 2 * len(self._room), 1_024), self._room.dtype)
            room[: self._count] = self.values
            self._room = room
        self._room[self._count : needed] = values
        self._count = needed

    def fill(self, count: int, value: Any) -> None:
        """Append ``count`` times the same value."""
        self.extend(np.full(count, value, self._room.dtype))

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        """Only these entries, in this order; the memory of the others returns."""
        self._room = self.values[rows]
        self._count = len(rows)

    @property
    def nbytes(self) -> int:
        return self._room.nbytes


class RareArray:
    """int64 values that are mostly missing: there is an array from the first that is not."""

    def __init__(self, missing: int) -> None:
        self._missing = missing
        self._values: GrowingArray[np.int64] | None = None
        self._count = 0

    def extend(self, values: npt.NDArray[np.int64] | None, count: int) -> None:
        """Append values; None: ``count`` that are missing."""
        if values is not None and self._values is None:
            self._values = GrowingArray(np.int64)
            self._values.fill(self._count, self._missing)
        if self._values is not None:
            self._values.extend(np.full(count, self._missing) if values is None else values)
        self._count += count

    def take(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64] | None:
        return None if self._values is None else self._values.values[rows]

    def slice(self, start: int, stop: int) -> npt.NDArray[np.int64] | None:
        return None if self._values is None else self._values.values[start:stop]

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        self._count = len(rows)
        if self._values is not None:
            self._values.keep(rows)

    @property
    def nbytes(self) -> int:
        return 0 if self._values is None else self._values.nbytes


class GrowingColumn:
    """An Arrow column of one type to which values are appended.

    Args:
        kind: the type of what is taken from it; dictionaries are decoded before they come here.
    """

    def __init__(self, kind: pa.DataType) -> None:
        self.kind = kind
        self._values = _values_of(kind)
        self._count = 0
        self._valid: GrowingArray[np.bool_] | None = None  # from the first null on

    def extend(self, array: Array) -> None:
        """Append values of the column's type."""
        if array.null_count and self._valid is None:
            self._valid = GrowingArray(np.bool_)
            self._valid.fill(self._count, True)
        if self._valid is not None:
            self._valid.extend(pc.is_valid(array).to_numpy(zero_copy_only=False))
        self._values.extend(array)
        self._count += len(array)

    def take(self, rows: npt.NDArray[np.integer]) -> Array:
        """The values in these rows."""
        taken = self._values.take(rows)
        if self._valid is not None:
            valid: BoolArray = self._valid.values[rows]
            if not valid.all():
                taken = pc.if_else(pa.array(valid), taken, pa.scalar(None, taken.type))
        return taken

    def slice(self, start: int, stop: int) -> Array:
        """The values of the rows from ``start`` to ``stop``, which stay as they are whatever is appended or forgotten.

        They are not copied, but for truth values, nested ones, and columns with nulls.
        """
        values = self._values.slice(start, stop)
        if self._valid is not None:
            valid: BoolArray = self._valid.values[start:stop]
            if not valid.all():
                values = pc.if_else(pa.array(valid), values, pa.scalar(None, values.type))
        return values

    def text_bytes(self, start: int, stop: int) -> int:
        """How long the text in these rows is; 0 where the column is none."""
        return self._values.text_bytes(start, stop) if isinstance(self._values, _Text) else 0

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        self._values.keep(rows)
        self._count = len(rows)
        if self._valid is not None:
            self._valid.keep(rows)

    def widened(self, kind: pa.DataType) -> GrowingColumn:
        """The same values as another type."""
        wider = GrowingColumn(kind)
        wider.extend(self.take(np.arange(self._count)).cast(kind))
        return wider

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + (0 if self._valid is None else self._valid.nbytes)


class GrowingColumns:
    """Several columns of the same length, by name; types widen where a later batch asks for it."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._columns: dict[str, GrowingColumn] = {}
        self.count = 0

    def extend(self, names: Sequence[str], arrays: Sequence[Array], count: int) -> list[Array]:
        """Append rows.

        Returns:
            The arrays in the types that the columns have now.
        Raises:
            SchemaError: a field has a type that does not go with the one it had before.
        """
        fitted: list[Array] = []
        for name, array in zip(names, arrays, strict=True):
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = GrowingColumn(array.type)
                if self.count:
                    column.extend(pa.nulls(self.count, array.type))
            if array.type != column.kind:
                kind = _wider(column.kind, array.type, f"{self._where}: field {name!r}")
                if kind != column.kind:
                    column = self._columns[name] = column.widened(kind)
                array = array.cast(kind)
            column.extend(array)
            fitted.append(array)
        self.count += count
        return fitted

    def take(self, name: str, rows: npt.NDArray[np.integer]) -> Array:
        return self._columns[name].take(rows)

    def slice(self, name: str, start: int, stop: int) -> Array:
        return self._columns[name].slice(start, stop)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """All rows as spans (start, stop) that can be sliced: text of one array has 32-bit offsets."""
        stop = self.count if stop is None else stop
        longest = max((c.text_bytes(start, stop) for c in self._columns.values()), default=0)
        if longest > PIECE_BYTES and stop - start > 1:
            middle = (start + stop) // 2
            yield from self.pieces(start, middle)
            yield from self.pieces(middle, stop)
        elif stop > start:
            yield start, stop

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        for column in self._columns.values():
            column.keep(rows)
        self.count = len(rows)

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    @property
    def nbytes(self) -> int:
        return sum(c.nbytes for c in self._columns.values())


def plain(array: Array) -> Array:
    """An array without a dictionary: state outlives the batch whose dictionary it was."""
    return array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array


def _wider(before: pa.DataType, now: pa.DataType, where: str) -> pa.DataType:
    try:
        parts = [pa.schema([("x", kind)]) for kind in (before, now)]
        wider: pa.DataType = pa.unify_schemas(parts, promote_options="permissive").field(0).type
        return wider
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise SchemaError(
            f"{where} was {before} and is now {now}; say schema= where the field is made, or cast it"
        ) from error


# --- values, whether null or not ---


def _buffer(values: Any) -> pa.Buffer:
    """An array as a buffer, without a copy."""
    return pa.py_buffer(values)


class _FixedWidth:
    """Values that are all as many bytes wide."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._width = kind.bit_width // 8
        self._bytes = GrowingArray(np.uint8)

    def extend(self, array: Array) -> None:
        start, stop = array.offset * self._width, (array.offset + len(array)) * self._width
        buffer = array.buffers()[1]
        if buffer is None:
            self._bytes.fill(stop - start, 0)
        else:
            self._bytes.extend(as_numpy(buffer, np.uint8, stop - start, start))

    def take(self, rows: npt.NDArray[np.integer]) -> Array:
        return self._all().take(index_array(rows))

    def slice(self, start: int, stop: int) -> Array:
        return self._all().slice(start, stop - start)

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        kept = self.take(rows)
        self._bytes = GrowingArray(np.uint8)
        self.extend(kept)

    def _all(self) -> Array:
        count = len(self._bytes) // self._width if self._width else 0
        array: Array = pa.Array.from_buffers(self._kind, count, [None, _buffer(self._bytes.values)])
        return array

    @property
    def nbytes(self) -> int:
        return self._bytes.nbytes


class _Booleans(_FixedWidth):
    def __init__(self) -> None:
        super().__init__(pa.uint8())

    def extend(self, array: Array) -> None:
        super().extend(array.cast(pa.uint8()))

    def take(self, rows: npt.NDArray[np.integer]) -> Array:
        return super().take(rows).cast(pa.bool_())

    def slice(self, start: int, stop: int) -> Array:
        return super().slice(start, stop).cast(pa.bool_())

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        kept = super().take(rows)
        self._bytes = GrowingArray(np.uint8)
        super().extend(kept)


class _Text:
    """Text and binary, with 64-bit offsets however wide those of the column are."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        self._large = pa.large_string() if text else pa.large_binary()
        self._clear()

    def _clear(self) -> None:
        self._offsets = GrowingArray(np.int64)
        self._offsets.fill(1, 0)
        self._data = GrowingArray(np.uint8)

    def extend(self, array: Array) -> None:
        count = len(array)
        if count == 0:
            return
        dtype = np.dtype(np.int64 if self._wide else np.int32)
        buffers = array.buffers()
        offsets = as_numpy(buffers[1], dtype, count + 1, array.offset * dtype.itemsize).astype(np.int64)
        first, last = int(offsets[0]), int(offsets[-1])
        self._offsets.extend(offsets[1:] + (len(self._data) - first))
        if last > first:
            self._data.extend(as_numpy(buffers[2], np.uint8, last - first, first))

    def take(self, rows: npt.NDArray[np.integer]) -> Array:
        buffers = [None, _buffer(self._offsets.values), _buffer(self._data.values)]
        everything: Array = pa.Array.from_buffers(self._large, len(self._offsets) - 1, buffers)
        return everything.take(index_array(rows)).cast(self._kind)

    def slice(self, start: int, stop: int) -> Array:
        offsets = self._offsets.values[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        offsets = (offsets - first).astype(np.int64 if self._wide else np.int32)
        buffers = [None, _buffer(offsets), _buffer(self._data.values[first:last])]
        array: Array = pa.Array.from_buffers(self._kind, stop - start, buffers)
        return array

    def text_bytes(self, start: int, stop: int) -> int:
        offsets = self._offsets.values
        return int(offsets[stop] - offsets[start])

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        kept = self.take(rows)
        self._clear()
        self.extend(kept)

    @property
    def nbytes(self) -> int:
        return self._offsets.nbytes + self._data.nbytes


class _Chunks:
    """Values of any other type (lists, structs, null): pieces, each at least twice as long as the next."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._chunks: list[Array] = []

    def extend(self, array: Array) -> None:
        if len(array):
            self._chunks.append(array)
        while len(self._chunks) > 1 and len(self._chunks[-2]) <= 2 * len(self._chunks[-1]):
            self._chunks[-2:] = [pa.concat_arrays(self._chunks[-2:])]

    def take(self, rows: npt.NDArray[np.integer]) -> Array:
        everything: Any = pa.chunked_array(self._chunks, self._kind)  # type: ignore[call-overload]
        taken: Any = everything.take(index_array(rows)).combine_chunks()
        return pa.concat_arrays(taken.chunks) if isinstance(taken, pa.ChunkedArray) else taken

    def slice(self, start: int, stop: int) -> Array:
        return self.take(np.arange(start, stop))

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        self._chunks = [self.take(rows)]

    @property
    def nbytes(self) -> int:
        return sum(int(c.nbytes) for c in self._chunks)


def _values_of(kind: pa.DataType) -> _FixedWidth | _Text | _Chunks:
    types = pa.types
    if types.is_boolean(kind):
        return _Booleans()
    if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        return _Text(kind)
    if types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        return _FixedWidth(kind)
    return _Chunks(kind)
