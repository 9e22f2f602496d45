"""Aggregates against plain Python: however rows are cut into batches and merged, the answer is one."""

from __future__ import annotations

import math
import pickle
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Context, Decimal
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream import aggregates as ms
from millstream.accumulators import (
    AccumulatorSet,
    Column,
    Groups,
    RowOrder,
    concat,
    make_accumulator,
    nbytes,
    take,
    to_arrow,
)
from millstream.aggregates import Aggregate, AggregateOverflowError
from millstream.errors import FlowError, SchemaError, UserCodeError
from millstream.expr import col

NAN = float("nan")
INT64_MAX = 2**63 - 1

Run: TypeAlias = tuple[list[int], list[Column]]  # the groups, and a row of columns for each


@dataclass(frozen=True)
class Event:
    """A row as the oracle sees it; ``value`` is the aggregate's input and ``by`` its second one."""

    group: int
    time_us: int
    position: int
    value: Any
    by: Any = None


@dataclass(frozen=True)
class Plan:
    """How rows are cut into batches, and in which order their accumulators are merged."""

    cuts: tuple[int, ...]
    merges: tuple[int, ...]


plans = st.builds(
    Plan,
    st.lists(st.integers(0, 40), max_size=6).map(tuple),
    st.lists(st.integers(0, 1000), min_size=8, max_size=8).map(tuple),
)


def events(values: st.SearchStrategy[Any], by: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[list[Event]]:
    """Rows of a few groups with times that collide, each with a position of its own."""
    rows = st.tuples(st.integers(0, 3), st.integers(0, 4), values, st.none() if by is None else by)
    return st.lists(rows, max_size=40).map(lambda rs: [Event(g, t, i, v, b) for i, (g, t, v, b) in enumerate(rs)])


def compute(aggregate: Aggregate, kinds: Sequence[pa.DataType], rows: Sequence[Event], plan: Plan) -> dict[int, Any]:
    """The results by group, computed in the batches and the tree of merges that the plan says."""
    accumulator = make_accumulator(aggregate, kinds, "out")
    bounds = sorted({0, len(rows), *(c for c in plan.cuts if c < len(rows))})
    batches = [rows[a:b] for a, b in pairwise(bounds)] or [[]]
    runs: list[Run] = []
    for batch in batches:
        ids = sorted({e.group for e in batch})
        groups = Groups(np.array([ids.index(e.group) for e in batch], np.int32), len(ids))
        inputs = [pa.array([getattr(e, f) for e in batch], k) for f, k in zip(("value", "by"), kinds, strict=False)]
        runs.append((ids, accumulator.partial(inputs, groups, row_order(batch))))
    for choice in plan.merges:
        if len(runs) == 1:
            break
        left = runs.pop(choice % len(runs))
        right = runs.pop(choice % len(runs))
        runs.append(merge(accumulator.combine, left, right))
    while len(runs) > 1:
        runs.append(merge(accumulator.combine, runs.pop(0), runs.pop(0)))
    ids, accumulated = runs[0]
    return dict(zip(ids, accumulator.result(accumulated).to_pylist(), strict=True))


def merge(combine: Callable[..., list[Column]], *runs: Run) -> Run:
    rows = [group for ids, _ in runs for group in ids]
    ids = sorted(set(rows))
    joined = [concat(parts) for parts in zip(*(columns for _, columns in runs), strict=True)]
    return ids, combine(joined, Groups(np.array([ids.index(g) for g in rows], np.int64), len(ids)))


def row_order(rows: Sequence[Event]) -> RowOrder:
    times, positions = [e.time_us for e in rows], [e.position for e in rows]
    return RowOrder(np.array(times, np.int64), np.array(positions, np.int64))


def naive(rows: Sequence[Event], result: Callable[[list[Event]], Any]) -> dict[int, Any]:
    groups: dict[int, list[Event]] = {}
    for event in sorted(rows, key=lambda e: (e.time_us, e.position)):
        groups.setdefault(event.group, []).append(event)
    return {group: result(groups[group]) for group in sorted(groups)}


def known(rows: Sequence[Event]) -> list[Any]:
    return [e.value for e in rows if e.value is not None]


def assert_close(found: Mapping[int, Any], expected: Mapping[int, Any], magnitude: float = 1.0) -> None:
    assert found.keys() == expected.keys()
    for group, value in expected.items():
        if value is None:
            assert found[group] is None
        elif math.isnan(value):
            assert math.isnan(found[group])
        else:
            assert found[group] == pytest.approx(value, rel=1e-9, abs=1e-9 * magnitude)


floats = st.none() | st.floats(-1e6, 1e6) | st.just(NAN) | st.sampled_from([0.0, -0.0, math.inf])
integers = st.none() | st.integers(-(2**62), 2**62)
texts = st.none() | st.text(max_size=3)
decimals = st.none() | st.decimals(-(10**34), 10**34, places=2, allow_nan=False, allow_infinity=False)
ORDERED = [
    (pa.int8(), st.none() | st.integers(-128, 127)),
    (pa.uint64(), st.none() | st.integers(0, 2**64 - 1)),
    (pa.int64(), integers),
    (pa.bool_(), st.none() | st.booleans()),
    (pa.string(), texts),
    (pa.string_view(), texts),
    (pa.binary(2), st.none() | st.binary(min_size=2, max_size=2)),
    (pa.dictionary(pa.int8(), pa.string()), st.none() | st.sampled_from(["a", "b", ""])),
    (pa.timestamp("us", "UTC"), st.none() | st.datetimes(datetime(1900, 1, 1), timezones=st.just(UTC))),
    (pa.date32(), st.none() | st.dates()),
    (pa.decimal128(38, 2), decimals),
]


@given(events(st.none() | st.integers()), plans)
@settings(max_examples=40, deadline=None)
def test_count_is_of_rows_or_of_values(rows: list[Event], plan: Plan) -> None:
    rows = [Event(e.group, e.time_us, e.position, None if e.value is None else 1) for e in rows]
    assert compute(ms.count(), [], rows, plan) == naive(rows, len)
    assert compute(ms.count("x"), [pa.int64()], rows, plan) == naive(rows, lambda es: len(known(es)))


@given(events(integers), plans)
@settings(max_examples=100, deadline=None)
def test_integer_sums_are_exact_and_fail_only_when_the_final_sum_does_not_fit(rows: list[Event], plan: Plan) -> None:
    expected = naive(rows, lambda es: sum(known(es)) if known(es) else None)
    if any(s is not None and not -(2**63) <= s <= INT64_MAX for s in expected.values()):
        with pytest.raises(AggregateOverflowError, match=r'out=sum\("x"\): the sum of a group does not fit int64'):
            compute(ms.sum("x"), [pa.int64()], rows, plan)
    else:
        assert compute(ms.sum("x"), [pa.int64()], rows, plan) == expected
    mean = naive(rows, lambda es: sum(known(es)) / len(known(es)) if known(es) else None)
    assert_close(compute(ms.mean("x"), [pa.int64()], rows, plan), mean)


@pytest.mark.parametrize("kind", [pa.uint64(), pa.uint8(), pa.int16(), pa.bool_()], ids=str)
def test_sums_of_other_integers_and_booleans_are_int64(kind: pa.DataType) -> None:
    one: Any = True if kind == pa.bool_() else 1
    rows = [Event(0, 0, 0, one), Event(0, 0, 1, one), Event(1, 0, 3, None)]
    assert compute(ms.sum("x"), [kind], rows, Plan((1,), ())) == {0: 2, 1: None}
    assert make_accumulator(ms.sum("x"), [kind], "out").output_type == pa.int64()


def test_sum_that_overflows_on_the_way_but_not_in_the_end_is_right() -> None:
    rows = [Event(0, 0, i, v) for i, v in enumerate([INT64_MAX, INT64_MAX, -INT64_MAX, -1, None])]
    for cut in range(5):
        assert compute(ms.sum("x"), [pa.int64()], rows, Plan((cut,), ())) == {0: INT64_MAX - 1}
    top = [Event(0, 0, 0, 2**64 - 1), Event(1, 0, 1, 5)]
    with pytest.raises(OverflowError):
        compute(ms.sum("x"), [pa.uint64()], top, Plan((), ()))


@given(events(floats), plans)
@settings(max_examples=100, deadline=None)
def test_float_sum_mean_and_variance(rows: list[Event], plan: Plan) -> None:
    def mean(es: list[Event]) -> Any:
        return sum(known(es)) / len(known(es)) if known(es) else None

    def variance(es: list[Event]) -> Any:
        values = known(es)
        if len(values) < 2:
            return None
        return statistics.variance(values) if all(map(math.isfinite, values)) else NAN

    kinds = [pa.float64()]
    assert_close(
        compute(ms.sum("x"), kinds, rows, plan), naive(rows, lambda es: sum(known(es)) if known(es) else None), 1e6
    )
    assert_close(compute(ms.mean("x"), kinds, rows, plan), naive(rows, mean), 1e6)
    assert_close(compute(ms.variance("x"), kinds, rows, plan), naive(rows, variance), 1e4)


@given(events(st.none() | st.integers(0, 10)), plans, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_variance_keeps_its_digits_far_from_zero_and_is_null_up_to_ddof(
    rows: list[Event], plan: Plan, ddof: int
) -> None:
    def spread(es: list[Event]) -> Any:
        n = len(known(es))
        return statistics.pvariance(known(es)) * n / (n - ddof) if n > ddof else None

    expected = naive(rows, spread)
    far = [Event(e.group, e.time_us, e.position, None if e.value is None else e.value + 10**9) for e in rows]
    assert_close(compute(ms.variance("x", ddof), [pa.int64()], far, plan), expected)
    roots = {g: None if v is None else math.sqrt(v) for g, v in expected.items()}
    assert_close(compute(ms.stddev("x", ddof), [pa.int64()], far, plan), roots)


@given(events(decimals), plans)
@settings(max_examples=50, deadline=None)
def test_decimal_sums_are_exact(rows: list[Event], plan: Plan) -> None:
    def cents(value: Decimal) -> int:
        return int(value.scaleb(2, Context(prec=60)))  # the default context would round to 28 digits

    expected = naive(rows, lambda es: sum(map(cents, known(es))) if known(es) else None)
    found = compute(ms.sum("x"), [pa.decimal128(38, 2)], rows, plan)
    assert {g: None if v is None else cents(v) for g, v in found.items()} == expected


def test_decimal_sum_beyond_38_digits_is_an_error_only_in_the_end() -> None:
    big = Decimal(9 * 10**37)
    rows = [Event(0, 0, 0, big), Event(0, 0, 1, big), Event(0, 0, 2, -big)]
    assert compute(ms.sum("x"), [pa.decimal128(38, 0)], rows, Plan((2,), ())) == {0: big}
    with pytest.raises(AggregateOverflowError, match="does not fit decimal128"):
        compute(ms.sum("x"), [pa.decimal128(38, 0)], rows[:2], Plan((), ()))
    assert compute(ms.mean("x"), [pa.decimal128(38, 0)], rows[:2], Plan((1,), ())) == {0: 9e37}


@pytest.mark.parametrize(("kind", "values"), ORDERED, ids=[str(k) for k, _ in ORDERED])
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_min_max_first_last_and_count_distinct_take_every_ordered_type(
    kind: pa.DataType, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    rows, plan = data.draw(events(values)), data.draw(plans)
    oracles: list[tuple[Aggregate, Callable[[list[Any]], Any]]] = [
        (ms.min("x"), lambda vs: min(vs, default=None)),
        (ms.max("x"), lambda vs: max(vs, default=None)),
        (ms.first("x"), lambda vs: vs[0] if vs else None),
        (ms.last("x"), lambda vs: vs[-1] if vs else None),
        (ms.count_distinct("x"), lambda vs: len(set(vs))),
    ]
    for aggregate, of in oracles:
        assert compute(aggregate, [kind], rows, plan) == {g: of(vs) for g, vs in naive(rows, known).items()}
    assert compute(ms.collect("x"), [kind], rows, plan) == naive(rows, lambda es: [e.value for e in es])


@given(events(floats), plans)
@settings(max_examples=60, deadline=None)
def test_min_and_max_pass_over_nan_and_count_distinct_knows_one(rows: list[Event], plan: Plan) -> None:
    def best(pick: Callable[[list[float]], float]) -> Callable[[list[Event]], Any]:
        def result(es: list[Event]) -> Any:
            numbers = [v for v in known(es) if not math.isnan(v)]
            return pick(numbers) if numbers else NAN if known(es) else None

        return result

    assert_close(compute(ms.min("x"), [pa.float64()], rows, plan), naive(rows, best(min)))
    assert_close(compute(ms.max("x"), [pa.float64()], rows, plan), naive(rows, best(max)))
    distinct = naive(rows, lambda es: len({"nan" if math.isnan(v) else v for v in known(es)}))
    assert compute(ms.count_distinct("x"), [pa.float64()], rows, plan) == distinct


@pytest.mark.parametrize(
    ("kind", "by"),
    [
        (pa.int64(), st.none() | st.integers(-2, 2)),
        (pa.float64(), st.none() | st.sampled_from([-7.0, -1.5, -0.0, 0.0, 2.5, NAN])),
        (pa.string(), texts),
        (pa.uint64(), st.sampled_from([0, 1, 2**63, 2**64 - 1])),
    ],
    ids=["int64", "double", "string", "uint64"],
)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_arg_min_and_arg_max_take_the_earliest_of_equals(
    kind: pa.DataType, by: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    drawn, plan = data.draw(events(st.booleans(), by)), data.draw(plans)
    # A value of its own for each row, so that taking another one shows; some are null.
    rows = [replace(e, value=f"row {e.position}" if e.value else None) for e in drawn]

    def best(pick: Callable[..., Any]) -> Callable[[list[Event]], Any]:
        def result(es: list[Event]) -> Any:
            given_by = [e for e in es if e.by is not None]
            numbers = [e for e in given_by if e.by == e.by] or given_by
            if not numbers or numbers[0].by != numbers[0].by:
                return numbers[0].value if numbers else None
            return pick(numbers, key=lambda e: e.by).value

        return result

    for aggregate, pick in ((ms.arg_min("x", "y"), min), (ms.arg_max("x", "y"), max)):
        assert compute(aggregate, [pa.string(), kind], rows, plan) == naive(rows, best(pick))


@given(events(st.none() | st.integers(0, 9)), plans)
@settings(max_examples=40, deadline=None)
def test_user_aggregate_may_change_its_accumulators_in_place(rows: list[Event], plan: Plan) -> None:
    def add(acc: list[int], value: int) -> list[int]:
        acc.append(value)
        return acc

    def merged(a: list[int] | None, b: list[int] | None) -> list[int] | None:
        if a is None or b is None:
            return b if a is None else a
        a.extend(b)
        return a

    lists = ms.aggregate(
        init=list, add=add, merge=lambda a, b: a.extend(b) or a, result=sorted, on="x", type=pa.list_(pa.int64())
    )
    assert compute(lists, [pa.int64()], rows, plan) == naive(rows, lambda es: sorted(known(es)))
    lazy = ms.aggregate(
        init=lambda: None, add=lambda a, v: add(a or [], v), merge=merged, result=lambda a: sorted(a or []), on="x"
    )
    assert compute(lazy, [pa.int64()], rows, plan) == naive(rows, lambda es: sorted(known(es)))


def test_merging_leaves_a_users_accumulators_as_they_were() -> None:
    keep = ms.aggregate(
        init=lambda: None,
        add=lambda a, v: (a or []) + [v],
        merge=lambda a, b: b if a is None else a.extend(b) or a,
        result=len,
        on="x",
    )
    accumulator = make_accumulator(keep, [pa.int64()], "out")
    column = accumulator.partial([pa.array([1, 2, 3])], Groups(np.arange(3), 3))
    for _ in range(2):  # hopping windows merge the same pane more than once
        assert accumulator.result(accumulator.combine(column, Groups(np.zeros(3, int), 1))).to_pylist() == [3]
    assert list(column[0]) == [[1], [2], [3]]


def test_error_in_a_users_function_names_aggregate_value_and_line() -> None:
    broken = ms.aggregate(init=int, add=lambda a, v: a / 0, merge=max, result=int, on="x")
    with pytest.raises(UserCodeError) as error:
        compute(broken, [pa.int64()], [Event(0, 0, 0, 7)], Plan((), ()))
    assert 'out=aggregate("x")' in str(error.value)
    assert "add of 7" in str(error.value)
    assert "ZeroDivisionError" in error.value.traceback


def test_shared_parts_are_computed_once() -> None:
    aggregates = {
        "n": ms.count(),
        "total": ms.sum("x"),
        "mean": ms.mean("x"),
        "top": ms.max("x"),
        "sd": ms.stddev("x"),
        "var": ms.variance("x"),
    }
    planned = AccumulatorSet(aggregates, [pa.float64()])
    assert [type(p).__name__ for p in planned.parts] == ["Count", "FloatSum", "Count", "Extreme", "Moments"]
    assert planned.schema.names == list(aggregates)
    columns = planned.partial([pa.array([1.0, 2.0, 4.0])], Groups(np.array([0, 1, 1]), 2))
    assert columns[0] is columns[2]  # without nulls, the number of values is the number of rows
    assert [r.to_pylist() for r in planned.results(columns)] == [
        [1, 2],
        [1, 6],
        [1, 3],
        [1, 4],
        [None, 2**0.5],
        [None, 2.0],
    ]


def test_inputs_are_told_apart_by_structure() -> None:
    aggregates = {
        "a": ms.sum(col("x") * 2),
        "b": ms.max(col("x") * 2),
        "c": ms.sum(col("x") * 2.0),
        "d": ms.arg_min("y", "x"),
    }
    planned = AccumulatorSet(aggregates, [pa.int64(), pa.float64(), pa.string(), pa.int64()])
    assert [str(e) for e in planned.inputs] == ['col("x") * 2', 'col("x") * 2.0', 'col("y")', 'col("x")']
    assert planned.needs_order


RETYPED: list[tuple[Aggregate, Any]] = [
    (ms.sum("x"), 5.5),
    (ms.mean("x"), 5.5 / 3),
    (ms.min("x"), 1.0),
    (ms.max("x"), 2.5),
    (ms.first("x"), 1.0),
    (ms.last("x"), 2.5),
    (ms.count_distinct("x"), 3),
    (ms.collect("x"), [1.0, 2.0, 2.5]),
    (ms.variance("x"), statistics.variance([1, 2, 2.5])),
]


@pytest.mark.parametrize(("aggregate", "expected"), RETYPED, ids=str)
@pytest.mark.parametrize("before", [pa.int32(), pa.int64()], ids=str)
def test_columns_of_integers_merge_with_columns_of_floats(
    aggregate: Aggregate, expected: Any, before: pa.DataType
) -> None:
    narrow, wide = (make_accumulator(aggregate, [kind], "out") for kind in (before, pa.float64()))
    one = Groups(np.zeros(2, int), 2)  # the second group has no rows
    old = narrow.partial([pa.array([1, 2], before)], one, RowOrder(np.array([0, 1]), np.array([0, 1])))
    new = wide.partial([pa.array([2.5])], Groups(np.zeros(1, int), 1), RowOrder(np.array([2]), np.array([2])))
    untyped = make_accumulator(aggregate, [pa.null()], "out")
    none = untyped.partial([pa.nulls(0)], Groups(np.zeros(0, int), 1), RowOrder(np.zeros(0, int), np.zeros(0, int)))
    columns = [concat([a, b, c]) for a, b, c in zip(old, new, none, strict=True)]
    merged = wide.combine(columns, Groups(np.array([0, 1, 0, 0]), 2))
    assert wide.result(merged)[0].as_py() == pytest.approx(expected)
    assert wide.result(merged).type == wide.output_type


@pytest.mark.parametrize(
    "aggregate",
    [ms.min("x"), ms.first("x"), ms.count_distinct("x"), ms.collect("x"), ms.max("x"), ms.arg_max("x", "x")],
    ids=str,
)
def test_nulls_before_the_type_is_known_merge_with_strings(aggregate: Aggregate) -> None:
    kinds = len(aggregate.inputs)
    untyped, typed = (make_accumulator(aggregate, [kind] * kinds, "out") for kind in (pa.null(), pa.string()))
    order, groups = RowOrder(np.zeros(1, int), np.zeros(1, int)), Groups(np.zeros(1, int), 1)
    old = untyped.partial([pa.nulls(1)] * kinds, groups, order)
    assert pa.types.is_null(untyped.result(old).type) or not pa.types.is_string(untyped.result(old).type)
    new = typed.partial([pa.array(["b"])] * kinds, groups, order)
    merged = typed.combine([concat(pair) for pair in zip(old, new, strict=True)], Groups(np.zeros(2, int), 1))
    assert typed.result(merged).to_pylist() in (["b"], [1], [[None, "b"]])


def test_columns_survive_a_turn_through_arrow() -> None:
    """A restored snapshot has Arrow columns only."""
    aggregates = {
        "n": ms.count(),
        "s": ms.sum("x"),
        "v": ms.variance("x"),
        "m": ms.max("x"),
        "f": ms.first("x"),
        "d": ms.count_distinct("x"),
    }
    planned = AccumulatorSet(aggregates, [pa.int64()])
    order = RowOrder(np.arange(3), np.arange(3))
    columns = planned.partial([pa.array([1, None, 3])], Groups(np.array([0, 1, 0]), 2), order)
    restored: list[Column] = [pa.array(c) if isinstance(c, np.ndarray) else c for c in columns]
    twice = [concat([a, b]) for a, b in zip(columns, restored, strict=True)]
    found = planned.results(planned.combine(twice, Groups(np.array([0, 1, 0, 1]), 2)))
    assert [r.to_pylist() for r in found] == [
        [4, 2],
        [8, None],
        [pytest.approx(4 / 3), None],
        [3, None],
        [1, None],
        [2, 0],
    ]


def test_take_concat_and_nbytes_of_columns() -> None:
    for column in (np.array([1, 2, 3]), pa.array([1, None, 3]), pa.array(["a", None, "c"])):
        taken = take(concat([column, column]), np.array([5, 0]))
        assert to_arrow(taken).to_pylist() == [to_arrow(column)[2].as_py(), to_arrow(column)[0].as_py()]
        assert nbytes(column) >= 3


@pytest.mark.parametrize(
    ("aggregate", "kinds", "message"),
    [
        (
            ms.sum("carrier"),
            [pa.string()],
            'agg: sum("carrier"): cannot sum string; cast it to a number first, or count() it',
        ),
        (ms.mean("at"), [pa.timestamp("us")], 'agg: mean("at"): cannot mean timestamp[us]; cast it to a number first'),
        (ms.max("tags"), [pa.list_(pa.int64())], 'agg: max("tags"): cannot max list'),
        (
            ms.arg_min("a", "b"),
            [pa.int64(), pa.struct([])],
            'agg: arg_min("a", "b"): cannot arg_min struct<>; "b" needs an order',
        ),
        (
            ms.count_distinct(col("a") + 1),
            [pa.struct([])],
            'agg: count_distinct(col("a") + 1): cannot count_distinct struct',
        ),
    ],
    ids=str,
)
def test_wrong_type_is_refused_with_the_name_of_the_aggregate(
    aggregate: Aggregate, kinds: list[pa.DataType], message: str
) -> None:
    with pytest.raises(SchemaError) as error:
        aggregate.output_type(kinds, "agg")
    assert message in str(error.value)


def test_wrong_arguments_are_refused_when_the_flow_is_built() -> None:
    with pytest.raises(FlowError, match="ddof=-1"):
        ms.variance("x", ddof=-1)
    with pytest.raises(FlowError, match="merge= takes a function"):
        ms.aggregate(init=int, add=max, merge=3, result=int, on="x")  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="neither an Arrow type nor"):
        ms.aggregate(init=int, add=max, merge=max, result=int, on="x", type=list)


def test_built_in_aggregates_pickle() -> None:
    for aggregate in (
        ms.count(),
        ms.sum(col("a") * col("b")),
        ms.variance("x", 0),
        ms.arg_max("a", "b"),
        ms.collect("x"),
    ):
        copied = pickle.loads(pickle.dumps(aggregate))
        assert (type(copied), str(copied), copied.needs_order) == (
            type(aggregate),
            str(aggregate),
            aggregate.needs_order,
        )
