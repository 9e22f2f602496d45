"""Aggregates from which rows are taken back: what is left counts, as if the others had never been."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream import aggregates as ms
from millstream.accumulators import AccumulatorSet, Column, Groups, concat
from millstream.accumulators.double_double import sum_groups
from millstream.aggregates import Aggregate
from millstream.errors import InternalError

GROUPS = 3
NAN = float("nan")

Row = tuple[int, Any, int]  # group, value, sign

floats = st.one_of(
    st.none(),
    st.floats(-1e6, 1e6),
    st.sampled_from([0.1, 1e20, -1e20, 1e300, 5e-324, NAN, math.inf, -math.inf, 1e9, 1e9 + 1]),
)
integers = st.one_of(st.none(), st.integers(-5, 5), st.sampled_from([2**62, -(2**63), 2**63 - 1]))


@st.composite
def histories(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> tuple[list[Row], list[int]]:
    """Rows of which some are taken back later, and where the batches are cut."""
    rows: list[Row] = []
    standing: list[tuple[int, Any]] = []
    for _ in range(draw(st.integers(0, 30))):
        if standing and draw(st.booleans()):
            group, value = standing.pop(draw(st.integers(0, len(standing) - 1)))
            rows.append((group, value, -1))
        else:
            group, value = draw(st.integers(0, GROUPS - 1)), draw(values)
            standing.append((group, value))
            rows.append((group, value, 1))
    return rows, draw(st.lists(st.integers(0, 30), max_size=5))


def left(rows: Sequence[Row]) -> list[list[Any]]:
    """The values that are left of each group; NaN is told apart by what it prints as."""
    result: list[list[Any]] = [[] for _ in range(GROUPS)]
    for group, value, sign in rows:
        if sign > 0:
            result[group].append(value)
        else:
            at = next(i for i, v in enumerate(result[group]) if repr(v) == repr(value))
            result[group].pop(at)
    return result


def compute(aggregate: Aggregate, kind: pa.DataType, rows: Sequence[Row], cuts: Sequence[int]) -> list[Any]:
    """The result of each group, None for one that is gone."""
    accumulators = AccumulatorSet({"out": aggregate}, [kind] * len(aggregate.inputs), "test", retractable=True)
    bounds = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    state: list[Column] | None = None
    for start, stop in pairwise(bounds) if len(rows) else [(0, 0)]:
        part = rows[start:stop]
        groups = Groups(np.array([g for g, _, _ in part], np.intp), GROUPS)
        inputs = [pa.array([v for _, v, _ in part], kind)] * len(aggregate.inputs)
        sign = np.array([s for _, _, s in part], np.int8)
        columns = accumulators.partial(inputs, groups, sign=sign)
        if state is not None:
            twice = Groups(np.tile(np.arange(GROUPS), 2), GROUPS)
            columns = accumulators.combine([concat([a, b]) for a, b in zip(state, columns, strict=True)], twice)
        state = columns
    assert state is not None
    (result,) = accumulators.results(state)
    there = accumulators.left(state)
    return [value if alive else "gone" for value, alive in zip(result.to_pylist(), there, strict=True)]


def expected(rows: Sequence[Row], answer: Callable[[list[Any]], Any]) -> list[Any]:
    return [answer([v for v in values if v is not None]) if values else "gone" for values in left(rows)]


def total(values: list[float]) -> float | None:
    if not values:
        return None
    if all(map(math.isfinite, values)):
        try:
            return float(sum(map(Fraction, values)))
        except OverflowError:
            return math.inf
    return sum(v for v in values if not math.isfinite(v))


def mean(values: list[float]) -> float | None:
    summed = total(values)
    return None if summed is None else summed / len(values)


def close(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        if isinstance(b, float):
            # Relative to the largest numbers that were ever there, 100 bits down.
            assert a == pytest.approx(b, rel=1e-12, abs=1e-9 if abs(b) < 1e-3 else 0, nan_ok=True), (found, wanted)
        else:
            assert a == b, (found, wanted)


@given(histories(st.one_of(st.none(), st.integers(-5, 5))))
def test_counts_are_of_what_is_left(history: tuple[list[Row], list[int]]) -> None:
    rows, cuts = history
    assert compute(ms.count("x"), pa.int64(), rows, cuts) == expected(rows, len)
    assert compute(ms.count(), pa.int64(), rows, cuts) == [len(v) if v else "gone" for v in left(rows)]
    assert compute(ms.count_distinct("x"), pa.int64(), rows, cuts) == expected(rows, lambda v: len(set(v)))


@given(histories(integers))
def test_sums_of_integers_are_exact_whatever_was_taken_back(history: tuple[list[Row], list[int]]) -> None:
    rows, cuts = history
    wanted = expected(rows, lambda v: sum(v) if v else None)
    if all(isinstance(w, str) or w is None or -(2**63) <= w < 2**63 for w in wanted):
        assert compute(ms.sum("x"), pa.int64(), rows, cuts) == wanted
    decimals = [(g, None if v is None else Decimal(v).scaleb(-2), s) for g, v, s in rows]
    assert compute(ms.sum("x"), pa.decimal128(21, 2), decimals, cuts) == expected(
        decimals, lambda v: sum(v) if v else None
    )


@given(histories(st.one_of(st.none(), st.integers(0, 2**64 - 1))))
def test_sums_of_unsigned_integers_are_exact(history: tuple[list[Row], list[int]]) -> None:
    rows, cuts = history
    rows = [(g, v if v is None else v % 7 + (2**63 if s < 0 or (g, v, -1) in rows else 0), s) for g, v, s in rows]
    wanted = expected(rows, lambda v: sum(v) if v else None)
    if all(isinstance(w, str) or w is None or w < 2**63 for w in wanted):
        assert compute(ms.sum("x"), pa.uint64(), rows, cuts) == wanted


@given(histories(floats))
@example(([(0, 1e20, 1), (0, 1.0, 1), (0, 1e20, -1)], [1, 2]))
@example(([(0, math.inf, 1), (0, 2.5, 1), (0, math.inf, -1)], [1, 2]))
@example(([(0, None, 1), (0, 5.0, 1), (0, 5.0, -1)], [1, 2]))
def test_sums_and_means_of_floats_forget_what_was_taken_back(history: tuple[list[Row], list[int]]) -> None:
    rows, cuts = history
    close(compute(ms.sum("x"), pa.float64(), rows, cuts), expected(rows, total))
    close(compute(ms.mean("x"), pa.float64(), rows, cuts), expected(rows, mean))


@given(histories(st.one_of(st.none(), st.integers(-100, 100).map(lambda v: 1e9 + v / 8))), st.integers(0, 2))
def test_variances_are_right_far_from_zero(history: tuple[list[Row], list[int]], ddof: int) -> None:
    rows, cuts = history

    def variance(values: list[float]) -> float | None:
        if len(values) <= ddof:
            return None
        exact = [Fraction(v) for v in values]
        middle = sum(exact) / len(exact)
        return float(sum((v - middle) ** 2 for v in exact) / (len(exact) - ddof))

    close(compute(ms.variance("x", ddof), pa.float64(), rows, cuts), expected(rows, variance))


@given(histories(st.one_of(st.none(), st.text("ab", max_size=2))))
def test_smallest_and_largest_are_those_that_are_left(history: tuple[list[Row], list[int]]) -> None:
    rows, cuts = history
    assert compute(ms.min("x"), pa.string(), rows, cuts) == expected(rows, lambda v: min(v, default=None))
    assert compute(ms.max("x"), pa.string(), rows, cuts) == expected(rows, lambda v: max(v, default=None))


@given(histories(st.one_of(st.none(), st.sampled_from([1.5, -2.0, NAN, math.inf, 0.0, -0.0]))))
def test_nan_is_passed_over_unless_there_is_nothing_else(history: tuple[list[Row], list[int]]) -> None:
    rows, cuts = history

    def largest(values: list[float]) -> float | None:
        return max((v for v in values if v == v), default=NAN if values else None)

    close(compute(ms.max("x"), pa.float64(), rows, cuts), expected(rows, largest))


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20), min_size=1, max_size=4))
def test_sums_of_groups_lose_nothing(groups: list[list[float]]) -> None:
    codes = np.array([g for g, values in enumerate(groups) for _ in values], np.intp)
    numbers = np.array([v for values in groups for v in values], np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        high, low = sum_groups(Groups(codes, len(groups)), numbers)
    for values, got in zip(groups, zip(high.tolist(), low.tolist(), strict=True), strict=True):
        exact = sum(map(Fraction, values), Fraction(0))
        largest = max((abs(Fraction(v)) for v in values), default=Fraction(0))
        if abs(exact) < Fraction(1.7e308):
            assert abs(Fraction(got[0]) + Fraction(got[1]) - exact) <= largest * Fraction(2) ** -90 + Fraction(5e-324)


def test_stddev_is_the_root_of_the_variance() -> None:
    rows = [(0, v, 1) for v in (1.0, 2.0, 4.0, 100.0)] + [(0, 100.0, -1)]
    assert compute(ms.stddev("x"), pa.float64(), rows, [2])[0] == pytest.approx(statistics.stdev([1.0, 2.0, 4.0]))


@pytest.mark.parametrize("aggregate", [ms.first("x"), ms.last("x"), ms.collect("x"), ms.arg_max("x", "x")])
def test_what_cannot_follow_says_so(aggregate: Aggregate) -> None:
    assert not aggregate.retractable
    with pytest.raises(InternalError):
        AccumulatorSet({"out": aggregate}, [pa.int64()], retractable=True)
