"""Accumulators of numbers: count, sum, smallest and largest, mean and variance.

Null handling is the same everywhere: rows without a value are left out before anything is computed, and
a group that then has no rows is null in the column. So a column is itself input of the same kind, and
most parts merge columns by the very step that made them of rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.accumulators import wide
from millstream.accumulators.columns import Column, Input, nullable, retype
from millstream.accumulators.part import GroupedRows, Part
from millstream.aggregates import AggregateOverflowError
from millstream.batch import Array
from millstream.grouping import Groups

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Count(Part):
    """Rows, or those with a value in input ``at``."""

    at: int | None

    def partial(self, rows: GroupedRows) -> list[Column]:
        counted = rows if self.at is None else rows.inputs[self.at]
        if counted.sign is None:
            return [counted.groups.sizes]
        counts = np.zeros(counted.groups.count, np.int64)
        np.add.at(counts, counted.groups.codes, counted.sign)
        return [counts]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        counts = np.zeros(groups.count, np.int64)
        np.add.at(counts, groups.codes, Input(columns[0], groups).values)
        return [counts]


@dataclass(frozen=True)
class Reduction(Part):
    """One column that is reduced by the same step from rows and from itself."""

    at: int

    def partial(self, rows: GroupedRows) -> list[Column]:
        return [self.reduce(rows.inputs[self.at])]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        return [self.reduce(Input(columns[0], groups))]

    @abstractmethod
    def reduce(self, values: Input) -> Column: ...


@dataclass(frozen=True)
class FloatSum(Reduction):
    def reduce(self, values: Input) -> Column:
        groups = values.groups
        return nullable(_sums(groups, values.doubles), groups)


@dataclass(frozen=True)
class IntegerSum(Reduction):
    """int64, turned to decimal128 by a sum that does not fit.

    It fails only when the result is asked for: whether a sum overflows on its way depends on how the
    rows were cut into batches, whether it does in the end does not.
    """

    WIDE: ClassVar = pa.decimal128(38, 0)

    def reduce(self, values: Input) -> Column:
        groups, sign = values.groups, values.sign
        if isinstance(values.column, np.ndarray) or not pa.types.is_decimal(values.column.type):
            sums = wide.sum_int64(values.values, groups, sign)
            if sums is not None:
                return nullable(sums, groups)
            words = wide.words_of(values.values)
            if sign is not None:
                words = wide.negated(words, sign < 0)
        else:
            words = wide.words_of_decimals(values.array)
        total = wide.sum_words(words, groups, width=2)
        assert total is not None  # 2^31 rows of 64 bits each
        if wide.fits_int64(total):
            return nullable(total[:, 0].view(np.int64), groups)
        return wide.decimals_of(total, self.WIDE, groups.sizes > 0)


@dataclass(frozen=True)
class DecimalSum(Reduction):
    """decimal256, of whose 76 digits a result of 38 leaves enough for any number of rows."""

    scale: int
    label: str = field(compare=False)

    def reduce(self, values: Input) -> Column:
        groups = values.groups
        words = wide.words_of_decimals(self._scaled(values.array))
        if values.sign is not None:
            words = wide.negated(words, values.sign < 0)
        narrow = wide.sum_int64(words[:, 0].view(np.int64), groups) if wide.fits_int64(words) else None
        total = wide.sum_words(words, groups, width=4) if narrow is None else wide.words_of(narrow)
        if total is None:
            raise AggregateOverflowError(f"{self.label}: the sum of a group exceeds decimal256; round the values first")
        return wide.decimals_of(total, pa.decimal256(76, self.scale), groups.sizes > 0)

    def _scaled(self, array: Array) -> Array:
        kind = array.type
        same = pa.types.is_decimal(kind) and kind.scale == self.scale
        return array if same else retype(array, pa.decimal256(76, self.scale))


@dataclass(frozen=True)
class Extreme(Reduction):
    """The smallest or largest value of a type that NumPy knows, in its own width.

    NaN counts only where a group has nothing else. `ufunc.at` beats sorting and `reduceat` six to one.
    """

    dtype: str
    largest: bool

    def reduce(self, values: Input) -> Column:
        groups, dtype = values.groups, np.dtype(self.dtype)
        rows = values.values.astype(dtype, copy=False)
        least: object
        pick: np.ufunc = np.maximum if self.largest else np.minimum
        if dtype.kind != "f":
            least = np.iinfo(dtype).min if self.largest else np.iinfo(dtype).max
        elif np.isnan(rows).any():
            # fmax and fmin prefer anything to NaN, but take twice as long.
            least, pick = np.nan, np.fmax if self.largest else np.fmin
        else:
            least = -np.inf if self.largest else np.inf
        best = np.full(groups.count, least, dtype)
        pick.at(best, groups.codes, rows)
        return nullable(best, groups)


@dataclass(frozen=True)
class Moments(Part):
    """For the variance: count, some value of the group, the mean less that value, sum of squared differences.

    Merged as in Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances" (COMPSTAT 1982), for any number of parts at once; a row is a part of its own, with no spread.
    The mean is kept in two pieces because its rounding is as large as the spread of numbers that are far
    from zero (values near 1e9 that differ by 1 would be off by 1e-8, depending on how batches were cut).
    """

    at: int
    width = 4

    def partial(self, rows: GroupedRows) -> list[Column]:
        values = rows.inputs[self.at]
        return [values.groups.sizes, *_merge_rows(values.groups, values.doubles)]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        count, base, shift, spread = (Input(c, groups).doubles for c in columns)
        if not count.all():
            some = count > 0
            count, base, shift, spread = count[some], base[some], shift[some], spread[some]
            groups = groups.where(some)
        return list(_merge_moments(groups, count, base, shift, spread))


def _merge_rows(groups: Groups, values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    codes = groups.codes
    base = np.zeros(groups.count)
    base[codes] = values
    with np.errstate(invalid="ignore"):  # infinity less infinity: the variance is NaN, as it should be
        away = values - base[codes]
        shift = _sums(groups, away) / np.maximum(groups.sizes, 1)
        away -= shift[codes]
        away *= away
        return base, shift, _sums(groups, away)


def _merge_moments(
    groups: Groups, count: FloatArray, base: FloatArray, shift: FloatArray, spread: FloatArray
) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray, FloatArray]:
    codes = groups.codes
    total = _sums(groups, count)
    new_base = np.zeros(groups.count)
    new_base[codes] = base
    with np.errstate(invalid="ignore"):
        away = (base - new_base[codes]) + shift
        new_shift = _sums(groups, away * count) / np.maximum(total, 1)
        away -= new_shift[codes]
        merged = _sums(groups, away * away * count + spread)
    return total.astype(np.int64), new_base, new_shift, merged


def _sums(groups: Groups, values: FloatArray) -> FloatArray:
    """The sum of each group, float64[count]."""
    sums = np.bincount(groups.codes, weights=values, minlength=groups.count)
    return sums.astype(np.float64, copy=False)  # without rows, bincount counts in integers
