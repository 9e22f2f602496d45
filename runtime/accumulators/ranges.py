"""Accumulators of many ranges of the same rows at once: what sliding windows ask for.

Nothing is ever subtracted but whole numbers, so that floats do not drift and infinities stay where they are. Ranges
are put together from blocks of 1, 2, 4, ... rows (a sparse table, of which only the current level is in memory): each
range from one block for every bit of its length, from its first row on. So the sum of a range is made in an order that
its own rows alone decide, and comes out the same, to the last bit, whatever rows lie around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.accumulators import collections, distinct, numeric
from millstream.accumulators.columns import Column, Input, RowOrder, Values, concat, retype, take
from millstream.accumulators.part import GroupedRows, Part
from millstream.accumulators.planner import AccumulatorSet
from millstream.batch import Array, index_array
from millstream.errors import InternalError
from millstream.grouping import Groups, IndexArray, factorize
from millstream.ranges import ranges

_SAFE: Final = 2**62
_FEW: Final = 4
"""Ranges that hold a row so many times on average are added up row by row."""


def range_columns(
    accumulators: AccumulatorSet,
    inputs: Sequence[Array],
    first: IndexArray,
    after: IndexArray,
    order: RowOrder | None = None,
) -> list[Column]:
    """Accumulator columns, one row for each range.

    Args:
        inputs: those of ``accumulators.inputs``, evaluated; n rows.
        first: where each range starts.
        after: where it ends; a range has at least one row.
        order: event time and position of the n rows, where the aggregates need order.
    """
    if (after <= first).any():
        raise InternalError("accumulators: a range without rows")
    count = len(inputs[0]) if inputs else int(after.max(initial=0))
    each = Groups(np.arange(count), count)
    rows = accumulators.rows(inputs, each, order)
    columns: list[Column] = []
    for part in accumulators.parts:
        columns += _of_part(part, accumulators, inputs, rows, first, after, order)
    return columns


def _of_part(
    part: Part,
    accumulators: AccumulatorSet,
    inputs: Sequence[Array],
    rows: GroupedRows,
    first: IndexArray,
    after: IndexArray,
    order: RowOrder | None,
) -> list[Column]:
    match part:
        case numeric.Count(at=None):
            return [(after - first).astype(np.int64)]
        case numeric.Count(at=at):
            assert at is not None
            return [_present(rows.inputs[at], len(rows.groups), first, after)]
        case numeric.IntegerSum(at=at):
            sums = _integer_sums(rows.inputs[at], len(rows.groups), first, after)
            if sums is not None:
                return [sums]
        case numeric.FloatSum(at=at):
            given = rows.inputs[at]
            values = _filled(given, given.doubles, len(rows.groups), 0.0)
            return [_nullable(_by_blocks(np.add, values, first, after), given, len(rows.groups), first, after)]
        case numeric.Extreme(at=at, dtype=dtype, largest=largest):
            return [_extremes(rows.inputs[at], np.dtype(dtype), largest, len(rows.groups), first, after)]
        case distinct.DistinctCount(at=at, type=kind):
            return [_different(rows.inputs[at], kind, len(rows.groups), first, after)]
    if isinstance(part, collections.Collected) or int((after - first).sum()) <= _FEW * len(rows.groups):
        return _row_by_row(part, accumulators, inputs, first, after, order)
    return _merged_blocks(part, part.partial(rows), first, after)


# --- numbers ---


def _present(given: Input, count: int, first: IndexArray, after: IndexArray) -> npt.NDArray[np.int64]:
    """How many rows of each range have a value."""
    if given.mask is None:
        return (after - first).astype(np.int64) if len(given.values) else np.zeros(len(first), np.int64)
    before = np.zeros(count + 1, np.int64)
    np.cumsum(given.mask, out=before[1:])
    return before[after] - before[first]


def _integer_sums(given: Input, count: int, first: IndexArray, after: IndexArray) -> Column | None:
    """By differences of running sums, which are exact however often those wrap; None where a sum might not fit."""
    values = given.values
    longest = int((after - first).max(initial=0))
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iub":
        return None
    most = max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0))))
    if most * longest >= _SAFE:
        return None
    before = np.zeros(count + 1, np.int64)
    np.cumsum(_filled(given, values.astype(np.int64, copy=False), count, 0), out=before[1:])
    return _nullable(before[after] - before[first], given, count, first, after)


def _extremes(
    given: Input, dtype: np.dtype[Any], largest: bool, count: int, first: IndexArray, after: IndexArray
) -> Column:
    values = given.values.astype(dtype, copy=False)
    pick: np.ufunc = np.maximum if largest else np.minimum
    least: Any
    if dtype.kind != "f":
        least = np.iinfo(dtype).min if largest else np.iinfo(dtype).max
    elif given.mask is not None or np.isnan(values).any():
        # NaN counts only where there is nothing else, which is how fmax and fmin have it.
        least, pick = np.nan, np.fmax if largest else np.fmin
    else:
        least = -np.inf if largest else np.inf
    best = _by_blocks(pick, _filled(given, values, count, least), first, after)
    return _nullable(best, given, count, first, after)


def _filled(given: Input, values: Values, count: int, fill: Any) -> Values:
    """A value for every row: ``fill`` where there is none."""
    if given.mask is None and len(values) == count:
        return values
    every = np.full(count, fill, values.dtype)
    if given.mask is not None:
        every[given.mask] = values
    return every


def _nullable(results: Values, given: Input, count: int, first: IndexArray, after: IndexArray) -> Column:
    if given.mask is None and len(given.values) == count:
        return results
    present = _present(given, count, first, after)
    return results if present.all() else pa.array(results, mask=present == 0)


def _by_blocks(merge: np.ufunc, values: Values, first: IndexArray, after: IndexArray) -> Values:
    """``merge`` over each range."""
    result = values[first]  # the block of one row that every range has is taken first, so nothing starts from a zero
    at, left = first + 1, after - first - 1
    block, level = values, 1
    while True:
        now = (left & level) != 0
        if now.any():
            result[now] = merge(result[now], block[at[now]])
            at = np.where(now, at + level, at)
        left = left & ~level
        if not left.any():
            return result
        block = merge(block[:-level], block[level:])
        level *= 2


# --- different values ---


def _different(
    given: Input, kind: pa.DataType, count: int, first: IndexArray, after: IndexArray
) -> npt.NDArray[np.int64]:
    """How many different values each range has: its rows, less those whose value is in it further to the front, too.

    Ranges climb: none that starts later ends earlier. So each row is such a repetition for some ranges that follow
    one another, from the first that reaches it to the last that reaches back to the row before it of the same value.
    """
    codes, _ = factorize([retype(given.array, kind)])
    if len(codes) < count:
        before = np.zeros(count + 1, np.intp)
        np.cumsum(np.zeros(count, np.bool_) if given.mask is None else given.mask, out=before[1:])
        first, after = before[first], before[after]
    turn = np.lexsort((after, first))
    starts, ends = first[turn], after[turn]
    if (ends[1:] < ends[:-1]).any():
        raise InternalError("accumulators: different values are counted in ranges that climb")
    rows = np.argsort(codes, kind="stable")
    again = np.flatnonzero(codes[rows[1:]] == codes[rows[:-1]])
    reached = np.searchsorted(ends, rows[again + 1], side="right")
    passed = np.searchsorted(starts, rows[again], side="right")
    some = passed > reached
    change = np.bincount(reached[some], minlength=len(turn) + 1) - np.bincount(passed[some], minlength=len(turn) + 1)
    result = np.empty(len(turn), np.int64)
    result[turn] = ends - starts - np.cumsum(change)[:-1]
    return result


# --- all others ---


def _row_by_row(
    part: Part,
    accumulators: AccumulatorSet,
    inputs: Sequence[Array],
    first: IndexArray,
    after: IndexArray,
    order: RowOrder | None,
) -> list[Column]:
    """Each range's rows as a group of their own: for lists, which are as long as that anyway, and for short ranges."""
    counts = after - first
    taken = ranges(first, counts)
    groups = Groups(np.repeat(np.arange(len(first)), counts), len(first))
    some = [array.take(index_array(taken)) for array in inputs]
    ordered = None if order is None else RowOrder(order.time_us[taken], order.position[taken])
    return part.partial(accumulators.rows(some, groups, ordered))


def _merged_blocks(part: Part, columns: list[Column], first: IndexArray, after: IndexArray) -> list[Column]:
    """As `_by_blocks`, for accumulators of any kind."""
    at, left = first, after - first
    block, level = columns, 1
    found: list[list[Column]] = []
    whose: list[IndexArray] = []
    while True:
        now = np.flatnonzero(left & level)
        if len(now):
            found.append([take(c, at[now]) for c in block])
            whose.append(now)
            at = at.copy()
            at[now] += level
        left = left & ~level
        if not left.any():
            break
        block = _doubled(part, block, level)
        level *= 2
    groups = Groups(np.concatenate(whose), len(first))
    return part.combine([concat(c) for c in zip(*found, strict=True)], groups)


def _doubled(part: Part, block: list[Column], level: int) -> list[Column]:
    """From the accumulators of all blocks of ``level`` rows to those of twice as many."""
    count = len(block[0]) - level
    low, high = np.arange(count), np.arange(level, level + count)
    pairs = Groups(np.concatenate([low, low]), count)
    return part.combine([concat([take(c, low), take(c, high)]) for c in block], pairs)
