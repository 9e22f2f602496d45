"""Sums of doubles in twice their precision: what a sum needs from which rows are taken back.

1e20 + 1 - 1e20 is 0 in doubles, and 1 here. A number is the unevaluated sum of two doubles, the second at
most half a unit in the last place of the first, which makes 106 bits (Dekker, "A floating-point technique for
extending the available precision", Numerische Mathematik 18, 1971). A group's rows are added up as in Rump,
Ogita & Oishi, "Accurate floating-point summation, part I" (SIAM J. Sci. Comput. 31(1), 2008): the leading
bits of all rows are cut at one place and so add up without rounding, then the bits that are left.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from millstream.grouping import Groups

FloatArray = npt.NDArray[np.float64]

_SPLIT: Final = 134_217_729.0  # 2^27 + 1 halves the 53 bits of a double
_LARGE_EXPONENT: Final = 900
_SCALE: Final = 2.0**-128


class Double2(NamedTuple):
    """Numbers as high + low."""

    high: FloatArray
    low: FloatArray

    @property
    def value(self) -> FloatArray:
        return self.high + self.low


def sum_groups(groups: Groups, values: FloatArray) -> Double2:
    """The sum of each group's values, which must be finite; 0 for a group without any."""
    codes = groups.codes
    largest = np.zeros(groups.count)
    np.maximum.at(largest, codes, np.abs(values))
    exponent = np.frexp(largest)[1]
    # The cut lies above the sum of the group: beyond the range of a double for the largest of them.
    scale = np.where(exponent > _LARGE_EXPONENT, _SCALE, 1.0)
    if (scale != 1.0).any():
        values, exponent = values * scale[codes], np.frexp(largest * scale)[1]
    carry = np.frexp(groups.sizes + 2.0)[1]
    first, values = _cut(groups, values, exponent + carry)
    # What is left of each row is below the last bit that was kept.
    second, values = _cut(groups, values, exponent + 2 * carry - 53)
    total, error = two_sum(first, second)
    total, error = two_sum(total, error + _sums(groups, values))
    return Double2(total / scale, error / scale)


def square(values: FloatArray) -> Double2:
    """The exact squares."""
    return _two_product(values, values)


def difference(a: Double2, b: Double2) -> Double2:
    high, error = two_sum(a.high, -b.high)
    return Double2(*two_sum(high, error + (a.low - b.low)))


def squared(a: Double2) -> Double2:
    high, error = _two_product(a.high, a.high)
    return Double2(*two_sum(high, error + 2.0 * a.high * a.low))


def divided(a: Double2, by: FloatArray) -> Double2:
    high = a.high / by
    back = _two_product(high, by)
    return Double2(*two_sum(high, ((a.high - back.high) - back.low + a.low) / by))


def two_sum(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The rounded sum and what rounding it lost, exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: FloatArray, b: FloatArray) -> Double2:
    product = a * b
    a_high, b_high = _upper_half(a), _upper_half(b)
    a_low, b_low = a - a_high, b - b_high
    return Double2(product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low))


def _upper_half(values: FloatArray) -> FloatArray:
    shifted = values * _SPLIT
    half: FloatArray = shifted - (shifted - values)
    return half


def _cut(groups: Groups, values: FloatArray, exponent: npt.NDArray[np.int32]) -> tuple[FloatArray, FloatArray]:
    """The exact sum of what the values have above the last bit of 2^exponent, and what they have below."""
    anchor = np.ldexp(1.0, np.maximum(exponent, -1022))[groups.codes]
    above = (anchor + values) - anchor
    return _sums(groups, above), values - above


def _sums(groups: Groups, values: FloatArray) -> FloatArray:
    sums: FloatArray = np.bincount(groups.codes, weights=values, minlength=groups.count).astype(np.float64, copy=False)
    return sums
