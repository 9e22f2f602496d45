"""Floats as the shortest text that reads back as the same float, as Arrow writes them.

Finding that text for any float is work: 80 to 140 ns for each with Arrow. But most floats that people keep were decimals
with a few digits once, prices and temperatures, and are so still after a sum or two was rounded. Where x * 1000
or x * 1000000 is as good as a whole number n of at most 15 digits, and n divided again gives x to the bit, the
digits of n are the text: two decimals of up to 15 digits are never the same float, so none is shorter. These digits come
out of a table, three at a time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Array = Any

_MAX = 1e9  # with six decimals, 15 digits
_SAMPLE = 64
_WORTH = 0.9
"""The share of values that must be such decimals: for the others both ways are gone."""


def float_text(column: Array) -> Array:
    """The text of a column of floats; null stays null.

    Args:
        column: of any float type; finite.
    """
    if column.type != pa.float64() or not len(column):
        return column.cast(pa.string())
    values = column.fill_null(0.0).to_numpy() if column.null_count else column.to_numpy()
    size = np.abs(values)
    groups = _groups_of_decimals(size)
    if groups is None:
        return column.cast(pa.string())
    scale = 1000**groups
    whole = np.rint(size * scale)
    exact = (whole / scale == size) & (size < _MAX)
    if (all_exact := exact.all()) or np.count_nonzero(exact) >= _WORTH * len(exact):
        if not all_exact:
            whole[~exact] = 0
        missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
        text = _decimal_text(whole.astype(np.int64), np.signbit(values), groups, missing)
        if all_exact:
            return text
        other: Array = pa.array(~exact)
        return pc.replace_with_mask(text, other, column.filter(other).cast(pa.string()))
    return column.cast(pa.string())


def _groups_of_decimals(size: NDArray[np.float64]) -> int | None:
    """How many groups of three decimals most values have, by a sample; None: more than two."""
    sample = size[:: len(size) // _SAMPLE + 1]
    sample = sample[sample < _MAX]
    for groups in (0, 1, 2):
        if np.count_nonzero(np.rint(sample * 1000**groups) / 1000**groups == sample) > _WORTH * len(sample):
            return groups
    return None


def _decimal_text(
    number: NDArray[np.int64], minus: NDArray[np.bool_], decimal_groups: int, missing: NDArray[np.bool_] | None
) -> Array:
    """The text of number / 1000 ** decimal_groups, without zeros at its ends.

    Each row is written in the same width, with zeros on both sides, and its text cut out of that.
    """
    rows = len(number)
    high = int(number.max()) // 1000**decimal_groups
    whole_groups = 1 + (high >= 1000) + (high >= 1_000_000)
    groups = whole_groups + decimal_groups
    point = 1 + 3 * whole_groups  # a sign's place comes first
    places = [1 + 3 * i + (i >= whole_groups) for i in range(groups)]
    row: Any = {"names": ["point", *map(str, places)], "formats": ["S1"] + ["S3"] * groups, "offsets": [point, *places]}
    row["itemsize"] = 1 + point + 3 * decimal_groups
    digits = np.zeros(rows, row)
    digits["point"] = b"."

    start, end = np.full(rows, point - 1), np.full(rows, point)
    for i in reversed(range(groups)):
        rest = number // 1000
        group = number - 1000 * rest if i else number
        number = rest
        digits[str(places[i])] = _digits().take(group)
        if i < whole_groups:
            np.minimum(start, _first_places(places[i]).take(group), out=start)
        else:
            np.maximum(end, _last_places(places[i]).take(group), out=end)

    base = np.arange(rows) * digits.dtype.itemsize
    start += base
    end += base
    if minus.any():
        start -= minus
        digits.view(np.uint8)[start[minus]] = ord("-")
    offsets = np.empty(2 * rows + 1, np.int32)
    offsets[:-1:2], offsets[1::2], offsets[-1] = start, end, end[-1]
    strings: Array = pa.StringArray.from_buffers(2 * rows, _buffer(offsets), _buffer(digits))
    return strings.take(pa.array(np.arange(0, 2 * rows, 2, dtype=np.int32), mask=missing))


@cache
def _digits() -> NDArray[Any]:
    """bytes[1000]: three digits each."""
    return np.array([b"%03d" % n for n in range(1000)])


@cache
def _first_places(place: int) -> NDArray[np.int64]:
    """int64[1000]: where a number starts that has these three digits at a place; far to the right if all are zeros."""
    return np.array([place + 3 - len(str(n)) if n else 1 << 20 for n in range(1000)])


@cache
def _last_places(place: int) -> NDArray[np.int64]:
    """int64[1000]: where a number ends that has these three decimals at a place; 0 if all are zeros."""
    return np.array([place + len((b"%03d" % n).rstrip(b"0")) if n else 0 for n in range(1000)])


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(array)  # type: ignore[arg-type]
