"""The values of a column that grows, whether null or not: memory of their own for each kind of type."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import Array, as_numpy, index_array
from millstream.operators.joins.arrays import GrowingArray


def _buffer(values: Any) -> pa.Buffer:
    """An array as a buffer, without a copy."""
    return pa.py_buffer(values)


class FixedWidth:
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


class Booleans(FixedWidth):
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


class Text:
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


class Chunks:
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


def values_of(kind: pa.DataType) -> FixedWidth | Text | Chunks:
    types = pa.types
    if types.is_boolean(kind):
        return Booleans()
    if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        return Text(kind)
    if types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        return FixedWidth(kind)
    return Chunks(kind)
