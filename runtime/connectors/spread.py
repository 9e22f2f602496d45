"""Columns of the rows that hold a record, spread over all rows of a block: null where the record is missing."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millstream.connectors.cells import Array


class Spread:
    """Where the rows of a shorter column belong.

    Arrow's `take` does this for any type, and copies all text. Nothing changes its order here, so text can stay where it
    is, and only the places where it begins and ends are spread.

    Args:
        there: which rows get a value, in their order.
    """

    def __init__(self, there: NDArray[np.bool_]) -> None:
        self._there = there
        self._before = np.zeros(len(there) + 1, np.int64)  # rows with a value before each row
        np.cumsum(there, out=self._before[1:])

    def column(self, values: Array) -> Array:
        """Args:
        values: as many as there are rows that get one.
        """
        if not len(values):
            return pa.nulls(len(self._there), values.type)
        if not values.null_count and not values.offset:
            if values.type in (pa.string(), pa.binary()):
                _, offsets, data = values.buffers()
                bounds = np.frombuffer(offsets, np.int32, len(values) + 1)[self._before]
                return self._array(values.type, _buffer(bounds), data)
            if values.type == pa.int64() or pa.types.is_timestamp(values.type):
                spread = np.zeros(len(self._there), np.int64)
                spread[self._there] = np.frombuffer(values.buffers()[1], np.int64, len(values))
                return self._array(values.type, _buffer(spread))
        return values.take(self._places)

    def _array(self, type_: pa.DataType, *buffers: pa.Buffer | None) -> Array:
        found: Any = pa.Array.from_buffers(type_, len(self._there), [self._validity, *buffers])
        return found

    @cached_property
    def _validity(self) -> pa.Buffer:
        return _buffer(np.packbits(self._there, bitorder="little"))

    @cached_property
    def _places(self) -> Array:
        places: Array = pa.array(self._before[:-1], mask=~self._there)
        return places


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(array)  # type: ignore[arg-type]
