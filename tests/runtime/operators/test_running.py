"""Running aggregates by themselves: how much they keep, and what they put out of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from harness.tables import as_file
from hypothesis import given
from hypothesis import strategies as st

from millstream import aggregates as ms
from millstream.batch import Batch, Keys
from millstream.checkpoints.tables import from_ipc
from millstream.operators.base import Context, Operator, Output
from millstream.operators.expiring import ExpiringAggregate
from millstream.operators.running import RunningAggregate
from millstream.specs.expiring import ExpiringAggregateSpec
from millstream.specs.keyed import RunningAggregateSpec

AGGREGATES = (("n", ms.count()), ("most", ms.max("x")))


def context() -> Context:
    return Context("agg", 0, 1, lambda: 0, lambda letter: None)


def batch(rows: Sequence[tuple[str, int, int]], sign: Sequence[int] | None = None, at: int = 0) -> Batch:
    """Rows of (key, value, time)."""
    names = sorted({k for k, _, _ in rows})
    return Batch(
        pa.RecordBatch.from_arrays([pa.array([x for _, x, _ in rows], pa.int64())], names=["x"]),
        np.array([t for _, _, t in rows], np.int64), position=np.arange(at, at + len(rows)),
        keys=Keys(
            pa.RecordBatch.from_arrays([pa.array(names)], names=["k"]),
            np.array([names.index(k) for k, _, _ in rows], np.int32),
        ),
        sign=None if sign is None else np.array(sign, np.int8),
    )  # fmt: skip


def said(outputs: Sequence[Output]) -> list[tuple[Any, ...]]:
    """(sign, time, values...) of every row."""
    rows: list[tuple[Any, ...]] = []
    for output in outputs:
        assert isinstance(output, tuple) and output[1].time_us is not None
        made = output[1]
        sign = [1] * made.num_rows if made.sign is None else made.sign.tolist()
        values = [tuple(r.values()) for r in made.columns.to_pylist()]
        rows += [(s, t, *v) for s, t, v in zip(sign, made.time_us.tolist(), values, strict=True)]
    return rows


def push(operator: Operator, *batches: Batch) -> list[tuple[Any, ...]]:
    return said([output for one in batches for output in operator.on_batch(one, 0)])


def test_a_batch_puts_out_one_row_for_each_key_it_changed() -> None:
    operator = RunningAggregate(RunningAggregateSpec(AGGREGATES), context())
    assert push(operator, batch([("a", 1, 5), ("b", 2, 6), ("a", 3, 4)])) == [(1, 5, "a", 2, 3), (1, 6, "b", 1, 2)]
    assert push(operator, batch([("a", 0, 2)])) == [(1, 5, "a", 3, 3)]


def test_what_is_taken_back_is_what_was_said_with_its_time() -> None:
    operator = RunningAggregate(RunningAggregateSpec(AGGREGATES, retracts=True), context())
    assert push(operator, batch([("a", 1, 5)])) == [(1, 5, "a", 1, 1)]
    assert push(operator, batch([("a", 9, 7), ("b", 0, 7)])) == [
        (-1, 5, "a", 1, 1), (1, 7, "a", 2, 9), (1, 7, "b", 1, 0),
    ]  # fmt: skip


def test_a_key_that_says_the_same_as_before_is_passed_over() -> None:
    operator = RunningAggregate(RunningAggregateSpec((("most", ms.max("x")),), retracts=True), context())
    push(operator, batch([("a", 9, 7), ("b", 1, 7)]))
    assert push(operator, batch([("a", 3, 6), ("b", 2, 3)])) == [(-1, 7, "b", 1), (1, 7, "b", 2)]


def test_a_key_whose_rows_are_all_taken_back_is_gone_with_its_memory() -> None:
    operator = RunningAggregate(RunningAggregateSpec(AGGREGATES, retracts=True, signed=True), context())
    for number in range(200):
        rows = [(f"key-{number}-{i}", i, 1) for i in range(50)]
        assert len(push(operator, batch(rows, [1] * 50))) == 50
        assert {row[0] for row in push(operator, batch(rows, [-1] * 50))} == {-1}
    assert operator.figures()["keys"] == 0
    assert operator.figures()["state_bytes"] < 500_000


def test_a_key_that_comes_and_goes_in_one_batch_was_never_there() -> None:
    operator = RunningAggregate(RunningAggregateSpec(AGGREGATES, retracts=True, signed=True), context())
    assert push(operator, batch([("a", 1, 1), ("a", 1, 1)], [1, -1])) == []
    assert operator.figures()["keys"] == 0


def test_a_key_is_freed_when_its_ttl_has_passed() -> None:
    operator = ExpiringAggregate(ExpiringAggregateSpec(aggregates=AGGREGATES, ttl_us=10), context())
    for second in range(0, 20_000, 100):
        push(operator, batch([(f"key-{second}-{i}", i, second + i) for i in range(100)], at=second))
        list(operator.on_watermark(second))
    assert operator.figures()["keys"] < 200
    assert operator.figures()["state_bytes"] < 500_000


def test_an_event_at_exactly_the_ttl_begins_a_new_life() -> None:
    for gap, lives in ((9, [2]), (10, [1, 1])):
        spec = ExpiringAggregateSpec(aggregates=(("n", ms.count()),), ttl_us=10, final=True)
        operator = ExpiringAggregate(spec, context())
        push(operator, batch([("a", 0, 0), ("a", 0, gap)]))
        out = said([*operator.on_watermark(gap + 1), *operator.on_watermark(gap + 10)])
        assert [row[3] for row in out] == lives


def test_a_life_ends_when_the_watermark_is_the_ttl_past_its_last_event() -> None:
    operator = ExpiringAggregate(ExpiringAggregateSpec(aggregates=(("n", ms.count()),), ttl_us=10), context())
    push(operator, batch([("a", 0, 0)]))
    assert said(list(operator.on_watermark(9))) == [(1, 0, "a", 1)]
    assert said(list(operator.on_watermark(10))) == [(-1, 0, "a", 1)]


# --- the values that count_distinct keeps ---

DISTINCT = (("different", ms.count_distinct("x")), ("n", ms.count()))


def test_the_same_value_counts_once_for_each_key_in_whatever_batch_it_comes() -> None:
    operator = RunningAggregate(RunningAggregateSpec(DISTINCT), context())
    assert push(operator, batch([("a", 1, 1), ("a", 1, 1), ("a", 2, 1), ("b", 1, 1)])) == [
        (1, 1, "a", 2, 3), (1, 1, "b", 1, 1),
    ]  # fmt: skip
    assert push(operator, batch([("b", 2, 1), ("a", 2, 1), ("a", 3, 1)])) == [(1, 1, "a", 3, 5), (1, 1, "b", 2, 2)]


def test_a_value_counts_until_the_last_of_its_rows_is_taken_back() -> None:
    operator = RunningAggregate(RunningAggregateSpec(DISTINCT, retracts=True, signed=True), context())
    push(operator, batch([("a", 1, 1), ("a", 1, 1), ("a", 2, 1)], [1, 1, 1]))
    assert push(operator, batch([("a", 1, 1)], [-1])) == [(-1, 1, "a", 2, 3), (1, 1, "a", 2, 2)]
    assert push(operator, batch([("a", 1, 1)], [-1])) == [(-1, 1, "a", 2, 2), (1, 1, "a", 1, 1)]
    assert push(operator, batch([("a", 2, 1)], [-1])) == [(-1, 1, "a", 1, 1)]
    assert push(operator, batch([("a", 2, 1)], [1])) == [(1, 1, "a", 1, 1)]


def test_values_that_were_kept_are_known_after_a_restore() -> None:
    for signed in (False, True):
        spec = RunningAggregateSpec(DISTINCT, retracts=signed, signed=signed)
        before, after = RunningAggregate(spec, context()), RunningAggregate(spec, context())
        push(before, batch([("a", 1, 1), ("a", 1, 1), ("b", 2, 1)]))
        after.restore([from_ipc(table.name, as_file(table)) for table in before.snapshot()])
        rows = batch([("a", 1, 1), ("a", 2, 1), ("b", 2, 1)])
        assert push(after, rows) == push(before, rows)


def test_values_that_a_wider_type_makes_one_count_once() -> None:
    operator = RunningAggregate(RunningAggregateSpec(DISTINCT), context())
    push(operator, batch([("a", 2**53, 1), ("a", 2**53 + 1, 1), ("b", 5, 1)]))
    wider = batch([("a", 7, 1), ("b", 5, 1)])
    wider = wider.with_columns(wider.columns.cast(pa.schema([("x", pa.float64())])))
    assert push(operator, wider) == [(1, 1, "a", 2, 3), (1, 1, "b", 1, 2)]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0, 1, 2, 2**60]), st.booleans()), max_size=60),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_any_cut_of_a_changelog_leaves_the_values_that_stand(
    events: list[tuple[str, int, bool]], sizes: list[int]
) -> None:
    operator = RunningAggregate(RunningAggregateSpec(DISTINCT, retracts=True, signed=True), context())
    standing, rows, signs = list[tuple[str, int]](), list[tuple[str, int, int]](), list[int]()
    for key, value, taken_back in events:
        if taken_back and (key, value) in standing:
            standing.remove((key, value))
        elif not taken_back:
            standing.append((key, value))
        else:
            continue
        rows.append((key, value, 0))
        signs.append(-1 if taken_back else 1)
    said_now: Counter[tuple[Any, ...]] = Counter()
    at = 0
    while at < len(rows):
        size = sizes[at % len(sizes)]
        for sign, _, *values in push(operator, batch(rows[at : at + size], signs[at : at + size])):
            said_now[tuple(values)] += sign
        at += size
    expected = {
        (k, len({v for key, v in standing if key == k}), sum(key == k for key, _ in standing)) for k, _ in standing
    }
    assert +said_now == Counter(expected)
