"""The columns that accumulators keep, and how rows of them are taken, joined and read.

A column is a NumPy array where every group has a value, the common case, and an Arrow array where some
have none or where the values have no NumPy type. A user's own accumulators are a NumPy array of objects.
Columns of one accumulator may differ in this, and in width (int64, later double), from batch to batch:
whatever reads them goes through `Input`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, SignArray, index_array
from millstream.grouping import BoolArray, Groups, raw_values, valid_mask

Values: TypeAlias = npt.NDArray[Any]
Column: TypeAlias = "Values | Array"


@dataclass(frozen=True, slots=True)
class RowOrder:
    """What breaks ties between rows.

    Attributes:
        time_us: int64[n], event time.
        position: int64[n], grows along each source partition.
    """

    time_us: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


class Input:
    """A column next to the groups of its rows, split into what has a value; each view made at most once.

    Args:
        sign: int8[n], -1 for rows that are taken back; None: all count.
    """

    def __init__(self, column: Column, groups: Groups, sign: SignArray | None = None) -> None:
        self.column = column
        self._groups = groups
        self._sign = sign

    @cached_property
    def mask(self) -> BoolArray | None:
        """Which rows have a value; None when all do."""
        return None if isinstance(self.column, np.ndarray) else valid_mask(self.column)

    @cached_property
    def groups(self) -> Groups:
        """The groups of the rows that have a value."""
        return self._groups if self.mask is None else self._groups.where(self.mask)

    @cached_property
    def sign(self) -> SignArray | None:
        """The signs of the rows that have a value."""
        return self._sign if self._sign is None or self.mask is None else self._sign[self.mask]

    @cached_property
    def array(self) -> Array:
        """The values as an Arrow array, without nulls."""
        array = to_arrow(self.column)
        return array if self.mask is None else array.drop_null()

    @cached_property
    def values(self) -> Values:
        """The values as NumPy sees their memory."""
        if isinstance(self.column, np.ndarray):
            return self.column
        if pa.types.is_null(self.column.type):
            return np.zeros(0, np.int64)
        values = raw_values(self.column)
        return values if self.mask is None else values[self.mask]

    @cached_property
    def doubles(self) -> npt.NDArray[np.float64]:
        """The values as float64, whatever number they are."""
        if isinstance(self.column, np.ndarray) or not pa.types.is_decimal(self.column.type):
            return self.values.astype(np.float64, copy=False)
        doubles: npt.NDArray[np.float64] = self.array.cast(pa.float64()).to_numpy()
        return doubles


def nullable(values: Values, groups: Groups) -> Column:
    """A column of one value for each group, null for groups without rows."""
    return pa.array(values, mask=groups.sizes == 0) if groups.has_empty else values


def take(column: Column, rows: npt.NDArray[np.integer]) -> Column:
    """The rows at these indices, in this order."""
    return column[rows] if isinstance(column, np.ndarray) else column.take(index_array(rows))


def concat(columns: Sequence[Column]) -> Column:
    """One column of several, in order; types widen as needed (int64 to double)."""
    if len(columns) == 1:
        return columns[0]
    if all(isinstance(c, np.ndarray) for c in columns):
        return np.concatenate(columns)
    arrays = [to_arrow(c) for c in columns]
    # A column of nulls alone was made before its type was known.
    typed = [a.type for a in arrays if a.null_count < len(a)] or [arrays[0].type]
    target = typed[0]
    for kind in typed[1:]:
        target = _common_type(target, kind)
    return pa.concat_arrays([retype(a, target) for a in arrays])


def nbytes(column: Column) -> int:
    """The memory that the column holds; of a user's accumulators only their own, not what they refer to."""
    if isinstance(column, np.ndarray) and column.dtype == object:
        return column.nbytes + sum(sys.getsizeof(value) for value in column)
    return int(column.nbytes)


def to_arrow(column: Column) -> Array:
    """The column as an Arrow array, without a copy where there can be none."""
    return pa.array(column) if isinstance(column, np.ndarray) else column


def as_column(array: Array) -> Column:
    """The way back, for what works on numbers in place: NumPy where every row has one, without a copy; else the array."""
    numbers = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    return array.to_numpy() if numbers and not array.null_count else array


def retype(array: Array, target: pa.DataType) -> Array:
    """The array with another type; nulls alone fit any."""
    if array.type == target:
        return array
    if array.null_count == len(array):
        nothing: Array = pa.nulls(len(array), target)  # type: ignore[call-overload]
        return nothing
    if pa.types.is_run_end_encoded(array.type):
        return retype(pc.run_end_decode(array), target)  # type: ignore[attr-defined]
    # An int64 beyond 2^53 rounds when its column turns to doubles, which Arrow calls unsafe.
    return array.cast(target, safe=not pa.types.is_floating(target))


def _common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    if a == b:
        return a
    schemas = [pa.schema([("", a)]), pa.schema([("", b)])]
    common: pa.DataType = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    return common
