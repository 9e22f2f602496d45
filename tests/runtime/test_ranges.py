"""Aggregates of many ranges of rows at once, against the same rows in groups of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import aggregates as ms
from millstream.accumulators import AccumulatorSet, Groups, RowOrder
from millstream.accumulators.ranges import range_columns
from millstream.aggregates import Aggregate
from millstream.batch import Array
from millstream.errors import InternalError
from millstream.evaluate import evaluate_all
from millstream.operators.aggregation import input_types

AGGREGATES: dict[str, Aggregate] = {
    "n": ms.count(), "n_x": ms.count("x"), "i": ms.sum("i"), "x": ms.sum("x"), "d": ms.sum("d"), "b": ms.sum("b"),
    "mean": ms.mean("x"), "mean_i": ms.mean("i"), "least": ms.min("x"), "most": ms.max("i"), "text": ms.max("s"),
    "deviation": ms.stddev("x"), "first": ms.first("i"), "last": ms.last("s"), "at": ms.arg_min("i", by="x"),
    "different": ms.count_distinct("s"), "all": ms.collect("i"), "whole": ms.collect(), "no": ms.sum("z"),
    "user": ms.aggregate(init=lambda: 0, add=lambda a, v: a + v, merge=lambda a, b: a + b, result=lambda a: a, on="i"),
}  # fmt: skip


def table(count: int, seed: int) -> pa.RecordBatch:
    dice = np.random.default_rng(seed)

    def some(values: list[Any], kind: pa.DataType) -> Array:
        return pa.array([None if m else v for v, m in zip(values, dice.random(count) < 0.2, strict=True)], kind)

    columns = {
        "i": some(dice.integers(-5, 5, count).tolist(), pa.int32()),
        "x": some([[1.5, -2.0, math.nan, 0.25][n] for n in dice.integers(0, 4, count)], pa.float64()),
        "d": some(dice.integers(-5, 5, count).tolist(), pa.decimal128(10, 2)),
        "b": some((dice.random(count) < 0.5).tolist(), pa.bool_()),
        "s": some(["pqr"[n] for n in dice.integers(0, 3, count)], pa.string()),
        "z": pa.nulls(count),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


@given(st.integers(1, 80), st.integers(0, 5), st.data())
def test_a_range_is_aggregated_as_a_group_of_its_rows(count: int, seed: int, data: st.DataObject) -> None:
    rows = table(count, seed)
    bounds = data.draw(
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(1, count)).filter(lambda b: b[0] < b[1]), min_size=1)
    )
    first, after = (np.array(side, np.intp) for side in zip(*bounds, strict=True))
    accumulators = AccumulatorSet(AGGREGATES, input_types(AGGREGATES, rows.schema, "agg"), "agg")
    inputs = evaluate_all(accumulators.inputs, rows)
    order = RowOrder(np.arange(count) // 2, np.arange(count))
    found = accumulators.results(range_columns(accumulators, inputs, first, after, order))
    for row, (a, b) in enumerate(bounds):
        mine = [column.slice(a, b - a) for column in inputs]
        own = RowOrder(order.time_us[a:b], order.position[a:b])
        expected = accumulators.results(accumulators.partial(mine, Groups(np.zeros(b - a, np.intp), 1), own))
        for name, values, (value,) in zip(AGGREGATES, found, [e.to_pylist() for e in expected], strict=True):
            assert same(values[row].as_py(), value), (name, (a, b))


@given(st.integers(1, 80), st.integers(0, 5), st.data())
def test_different_values_of_ranges_that_climb_are_counted_without_making_lists(
    count: int, seed: int, data: st.DataObject
) -> None:
    rows = table(count, seed)
    aggregates: dict[str, Aggregate] = {n: ms.count_distinct(n) for n in ("i", "x", "d", "b", "s", "z")}
    bounds = data.draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(1, count)), min_size=1))
    starts, ends = (np.sort(np.array(side, np.intp)) for side in zip(*bounds, strict=True))
    turn = np.array(data.draw(st.permutations(range(len(starts)))))
    first, after = starts[turn], np.maximum(starts + 1, ends)[turn]
    apart, lists = (
        AccumulatorSet(aggregates, input_types(aggregates, rows.schema, "agg"), "agg", values_apart=values_apart)
        for values_apart in (True, False)
    )
    inputs = evaluate_all(apart.inputs, rows)
    found = apart.results(range_columns(apart, inputs, first, after))
    for row, (a, b) in enumerate(zip(first.tolist(), after.tolist(), strict=True)):
        mine = [column.slice(a, b - a) for column in inputs]
        expected = lists.results(lists.partial(mine, Groups(np.zeros(b - a, np.intp), 1), None))
        assert [column[row].as_py() for column in found] == [column[0].as_py() for column in expected]


def same(value: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(value, float):
        return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(value) and math.isnan(expected))
    return str(value) == str(expected)  # NaN in a list or a struct equals nothing


def test_long_ranges_of_whole_numbers_are_exact_beyond_64_bits_on_the_way() -> None:
    values = pa.array([2**62, 2**62, -(2**62), -(2**62), 1] * 20)
    accumulators = AccumulatorSet({"s": ms.sum("v")}, [values.type], "agg")
    first, after = np.array([0, 0, 2]), np.array([100, 4, 5])
    (sums,) = accumulators.results(range_columns(accumulators, [values], first, after))
    assert sums.to_pylist() == [20, 0, 1 - 2**63]


def test_a_range_without_rows_is_refused() -> None:
    accumulators = AccumulatorSet({"n": ms.count()}, [], "agg")
    with pytest.raises(InternalError, match="range without rows"):
        range_columns(accumulators, [], np.array([3]), np.array([3]))
