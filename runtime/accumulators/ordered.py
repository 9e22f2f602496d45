"""Accumulators that compare values of any type: smallest and largest, first and last, arg_min and arg_max.

Whatever is compared is first turned into int64 keys that sort the same way, so that finding a group's
best row is one `ufunc.at` per key, and ties of one key are looked at by the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.accumulators.columns import Column, Input, Values, retype, to_arrow
from millstream.accumulators.numeric import Reduction
from millstream.accumulators.part import GroupedRows, Part
from millstream.batch import Array, index_array
from millstream.grouping import Groups, IndexArray, raw_values

Int64Array = npt.NDArray[np.int64]

_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class RankedExtreme(Reduction):
    """The smallest or largest of values that NumPy has no type for: text, binary, decimals."""

    type: pa.DataType
    largest: bool

    def reduce(self, values: Input) -> Column:
        groups = values.groups
        ranks, distinct = _ranks(retype(values.array, self.type))
        best = _extremes(groups, ranks, self.largest)
        return distinct.take(index_array(best, groups.sizes == 0))


@dataclass(frozen=True)
class Pick(Part):
    """The value of one row of each group: the earliest or the latest.

    Columns: the row's event time and position, and its value; null for a group without such a row.
    """

    at: int
    type: pa.DataType
    latest: bool
    width = 3

    def partial(self, rows: GroupedRows) -> list[Column]:
        return self._pick(rows.order.time_us, rows.order.position, rows.inputs[self.at])

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        time_us, position = (Input(c, groups).values for c in columns[:2])
        return self._pick(time_us, position, Input(columns[2], groups))

    def _pick(self, time_us: Values, position: Values, values: Input) -> list[Column]:
        if values.mask is not None:
            time_us, position = time_us[values.mask], position[values.mask]
        row = choose(values.groups, [(time_us, self.latest), (position, self.latest)])
        picked = _take_or_null(retype(values.array, self.type), row)
        return [_take_or_zero(time_us, row), _take_or_zero(position, row), picked]


@dataclass(frozen=True)
class ArgExtreme(Part):
    """The value of the row of each group where another input is smallest or largest, the earliest such row.

    Columns: the row's event time and position, its value, and what it was chosen by, null for none.
    """

    at: int
    by: int
    type: pa.DataType
    by_type: pa.DataType
    largest: bool
    width = 4

    def partial(self, rows: GroupedRows) -> list[Column]:
        return self._pick(rows.order.time_us, rows.order.position, rows.inputs[self.at].column, rows.inputs[self.by])

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        time_us, position = (Input(c, groups).values for c in columns[:2])
        return self._pick(time_us, position, columns[2], Input(columns[3], groups))

    def _pick(self, time_us: Values, position: Values, column: Column, by: Input) -> list[Column]:
        values = to_arrow(column)
        if by.mask is not None:
            time_us, position, values = time_us[by.mask], position[by.mask], values.filter(pa.array(by.mask))
        by_values = retype(by.array, self.by_type)
        keys = [(sort_codes(by_values, self.largest), self.largest), (time_us, False), (position, False)]
        row = choose(by.groups, keys)
        return [
            _take_or_zero(time_us, row),
            _take_or_zero(position, row),
            _take_or_null(retype(values, self.type), row),
            _take_or_null(by_values, row),
        ]


def choose(groups: Groups, keys: Sequence[tuple[Values, bool]]) -> IndexArray:
    """The best row of each group, -1 where it has none, intp[count].

    Args:
        keys: int64[n] each, the most significant first, and whether the largest wins. Of rows with equal
            keys (the elements of one exploded event) the last is taken where the largest position wins,
            else the first.
    """
    rows: IndexArray | None = None
    for key, largest in keys:
        candidates = key if rows is None else key[rows]
        kept = candidates == _extremes(groups, candidates, largest)[groups.codes]
        rows = np.flatnonzero(kept) if rows is None else rows[kept]
        groups = groups.where(kept)
    assert rows is not None
    if keys[-1][1]:
        best = np.full(groups.count, -1, np.intp)
        np.maximum.at(best, groups.codes, rows)
        return best
    best = np.full(groups.count, _INT64.max, np.intp)
    np.minimum.at(best, groups.codes, rows)
    best[best == _INT64.max] = -1
    return best


def _extremes(groups: Groups, keys: Values, largest: bool) -> Int64Array:
    best = np.full(groups.count, _INT64.min if largest else _INT64.max)
    (np.maximum if largest else np.minimum).at(best, groups.codes, keys)
    return best


def sort_codes(array: Array, nan_lowest: bool) -> Int64Array:
    """int64 keys that sort as the values do; NaN on the side where it loses. The array has no nulls."""
    kind = array.type
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.int64)
    if pa.types.is_floating(kind):
        values = raw_values(array).astype(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
        bits = values.view(np.int64)
        # Negative floats sort backwards by their bits: flip all but the sign.
        keys: Int64Array = bits ^ ((bits >> 63) & _INT64.max)
        keys[np.isnan(values)] = _INT64.min if nan_lowest else _INT64.max
        return keys
    if pa.types.is_uint64(kind):
        flipped: Int64Array = raw_values(array).view(np.int64) ^ _INT64.min
        return flipped
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        return raw_values(array).astype(np.int64, copy=False)
    return _ranks(array)[0]


def _ranks(array: Array) -> tuple[Int64Array, Array]:
    """The rank of each value among the distinct ones, from 0, and the distinct ones in order."""
    encoded = array.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def _take_or_zero(values: Values, row: IndexArray) -> Values:
    if len(values) == 0:
        return np.zeros(len(row), np.int64)
    taken = values[row]
    taken[row < 0] = 0
    return taken


def _take_or_null(values: Array, row: IndexArray) -> Array:
    missing = row < 0
    return values.take(index_array(row, missing) if missing.any() else index_array(row))
