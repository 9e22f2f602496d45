"""Accumulators of which rows can be taken back: behind an operator that revises its results.

Counts and exact sums only need the sign of each row (numeric.py). Doubles are summed in twice their
precision, with what is not finite counted apart, for infinity less infinity would be NaN for ever. For the
smallest and the largest, and to count what is distinct, every value is kept with its number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.accumulators.collections import flatten, lists_of
from millstream.accumulators.columns import Column, Input, Values, retype, to_arrow
from millstream.accumulators.double_double import Double2, difference, divided, square, squared, sum_groups
from millstream.accumulators.numeric import Reduction
from millstream.accumulators.part import GroupedRows, Part
from millstream.batch import Array, index_array
from millstream.grouping import Groups, factorize, group_codes, raw_values

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SignedFloatSum(Part):
    """The sum of doubles, or of their squares.

    Columns: high and low half of the sum of what is finite; how many are NaN, infinity and minus infinity.
    """

    at: int
    squares: bool = False
    width: ClassVar[int] = 5

    def partial(self, rows: GroupedRows) -> list[Column]:
        values = rows.inputs[self.at]
        numbers, groups = values.doubles, values.groups
        sign = np.ones(len(numbers), np.int64) if values.sign is None else values.sign.astype(np.int64)
        if self.squares:
            numbers = np.where(np.isneginf(numbers), np.inf, numbers)
        odd = [np.isnan(numbers), np.isposinf(numbers), np.isneginf(numbers)]
        counts = [_counts(groups, np.where(mask, sign, 0)) for mask in odd]
        finite = np.where(np.isfinite(numbers), numbers, 0.0)
        if not self.squares:
            return [*sum_groups(groups, finite * sign), *counts]
        exact = square(finite)
        return [*sum_groups(_twice(groups), np.concatenate([exact.high * sign, exact.low * sign])), *counts]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        high, low = (Input(c, groups).doubles for c in columns[:2])
        total = sum_groups(_twice(groups), np.concatenate([high, low]))
        return [*total, *(_counts(groups, Input(c, groups).values) for c in columns[2:])]


def float_sums(columns: Sequence[Column]) -> FloatArray:
    """What the columns of a `SignedFloatSum` say."""
    high, low, nan, infinity, minus = map(_numbers, columns)
    total: FloatArray = high + low
    total = np.where(infinity > 0, np.inf, np.where(minus > 0, -np.inf, total))
    return np.where((nan > 0) | ((infinity > 0) & (minus > 0)), np.nan, total)


def variances(sums: Sequence[Column], squares: Sequence[Column], count: Values, ddof: int) -> FloatArray:
    """The variances, from a sum, a sum of squares and how many they are of; undefined where count <= ddof.

    (sum of squares - square of sum / n) cancels nearly all of its digits where numbers are far from zero: of 32
    digits enough are left.
    """
    with np.errstate(invalid="ignore"):
        exact = Double2(_numbers(sums[0]), _numbers(sums[1]))
        mean_part = divided(squared(exact), np.maximum(count, 1).astype(np.float64))
        spread = difference(Double2(_numbers(squares[0]), _numbers(squares[1])), mean_part).value
        value: FloatArray = np.maximum(spread, 0.0) / np.maximum(count - ddof, 1)
    return np.where(np.isfinite(float_sums(sums)), value, np.nan)


@dataclass(frozen=True)
class Multiset(Part):
    """Every different value of a group with its number of rows.

    Columns: a list of values, and a list of as many counts. A count is below zero where a row was taken
    back of which this column knows nothing: where columns are combined it meets that row.
    """

    at: int
    type: pa.DataType
    width: ClassVar[int] = 2

    def partial(self, rows: GroupedRows) -> list[Column]:
        values = rows.inputs[self.at]
        signs = np.ones(len(values.array), np.int64) if values.sign is None else values.sign.astype(np.int64)
        return self._counted(values.array, signs, values.groups)

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        values, rows = flatten(columns[0], groups)
        counts, _ = flatten(columns[1], groups)
        return self._counted(values, raw_values(counts), rows)

    def _counted(self, values: Array, counts: npt.NDArray[np.int64], groups: Groups) -> list[Column]:
        values = retype(values, self.type)
        codes, first = factorize([values])
        pairs, rows = group_codes([(groups.codes, groups.count), (codes, len(first))])
        totals = _counts(pairs, counts)
        left = totals != 0
        rows, totals = rows[left], totals[left]
        kept = Groups(groups.codes[rows], groups.count)
        return [lists_of(values.take(index_array(rows)), kept), lists_of(pa.array(totals), kept)]


def distinct_counts(columns: Sequence[Column]) -> Array:
    """How many values a `Multiset` holds."""
    _, groups = _held(columns)
    return pa.array(groups.sizes)


def extremes(columns: Sequence[Column], extreme: Reduction) -> Column:
    """The smallest or largest value that a `Multiset` holds; null where it holds none."""
    return extreme.reduce(Input(*_held(columns)))


def _held(columns: Sequence[Column]) -> tuple[Array, Groups]:
    lists = to_arrow(columns[0])
    each = Groups(np.arange(len(lists)), len(lists))
    values, groups = flatten(columns[0], each)
    counts, _ = flatten(columns[1], each)
    there = raw_values(counts) > 0
    return (values, groups) if there.all() else (values.filter(pa.array(there)), groups.where(there))


def null_where_empty(result: Array, count: Column) -> Array:
    """The results of groups that have values left."""
    left = _numbers(count) > 0
    return result if left.all() else pc.if_else(pa.array(left), result, pa.scalar(None, result.type))


def _counts(groups: Groups, numbers: Values) -> npt.NDArray[np.int64]:
    counts = np.zeros(groups.count, np.int64)
    np.add.at(counts, groups.codes, numbers)
    return counts


def _twice(groups: Groups) -> Groups:
    return Groups(np.concatenate([groups.codes, groups.codes]), groups.count)


def _numbers(column: Column) -> Values:
    return Input(column, Groups(np.zeros(0, np.intp), 0)).values
