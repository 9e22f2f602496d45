"""Rows that wait for their turn: order, lateness, and what a watermark gives out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Batch, Keys, make_columns
from millstream.operators.lateness import time_text
from millstream.operators.ordering import InOrder, compacted, slices, together
from millstream.times import MAX_US, MIN_US


def batch_of(
    times: Sequence[int], *, first: int = 0, before: Sequence[int] | None = None, keys: str | None = None
) -> Batch:
    """Rows with these times, positions from ``first`` on, and their position as the field ``id``."""
    position = np.arange(first, first + len(times))
    keyed = None
    if keys is not None:
        distinct = sorted(set(keys), reverse=True)
        codes = np.array([distinct.index(k) for k in keys], np.int32)
        keyed = Keys(make_columns(["k"], [pa.array(distinct, pa.string())]), codes)
    before_us = None if before is None else np.array(before, np.int64)
    columns = make_columns(["id"], [pa.array(position)])
    return Batch(columns, np.array(times, np.int64), before_us, position, keyed)


def ids(batch: Batch | None) -> list[int]:
    return [] if batch is None else batch.columns.column("id").to_pylist()


def test_rows_come_out_by_time_and_then_position_as_far_as_the_watermark() -> None:
    order = InOrder()
    assert order.add(batch_of([30, 10, 20, 10])) is None
    assert order.add(batch_of([5, 20], first=10)) is None
    assert order.ready(20) == 3
    assert ids(order.due(20)) == [10, 1, 3]
    assert order.rows == 3
    assert ids(order.due(21)) == [2, 11]
    assert order.due(21) is None
    assert ids(order.due(MAX_US)) == [0]
    assert order.rows == order.nbytes == 0


def test_equal_rows_come_out_as_they_came() -> None:
    order = InOrder()
    exploded = batch_of([7, 7, 7])
    same = Batch(exploded.columns, exploded.time_us, position=np.zeros(3, np.int64))
    order.add(same)
    assert ids(order.due(8)) == [0, 1, 2]


@pytest.mark.parametrize(("time", "late"), [(9, True), (10, False), (11, False)])
def test_a_row_is_late_when_its_time_is_before_the_watermark_of_its_partition(time: int, late: bool) -> None:
    order = InOrder()
    rejected = order.add(batch_of([20, time], before=[MIN_US, 10], keys="ab"))
    assert (rejected is not None) == late
    if rejected is not None:
        assert rejected.with_reason().columns.to_pylist() == [
            {
                "k": "b", "id": 1,
                "late_reason": "the watermark 1970-01-01T00:00:00.000010Z had passed its time, 1970-01-01T00:00:00.000009Z",
            }
        ]  # fmt: skip
    assert order.rows == 2 - late


def test_after_idleness_rows_before_what_was_given_out_are_late() -> None:
    order = InOrder()
    order.due(100)
    rejected = order.add(batch_of([99, 100]))
    assert rejected is not None and ids(rejected.rows) == [0]
    assert ids(order.due(101)) == [1]


@given(st.lists(st.lists(st.integers(0, 50), max_size=8), max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_whatever_the_batches_and_watermarks_rows_come_out_sorted(
    batches: list[list[int]], watermarks: list[int]
) -> None:
    order, out = InOrder(), []
    ahead = sorted(watermarks)
    at = 0
    for number, times in enumerate(batches):
        late = order.add(batch_of(times, first=at, keys="xyz"[number % 3] * len(times)))
        assert sorted([] if late is None else ids(late.rows)) == [
            at + i for i, t in enumerate(times) if t < order.watermark_us
        ]
        at += len(times)
        if ahead and number % 7 == 6:
            due = order.due(ahead.pop(0))
            out += [] if due is None else list(zip(due.time_us, due.position, strict=True))  # type: ignore[arg-type]
    last = order.due(MAX_US)
    if last is not None:
        assert last.keys is not None and last.time_us is not None and last.position is not None
        out += list(zip(last.time_us, last.position, strict=True))
        whose = {i: "xyz"[n % 3] for n, i in enumerate_positions(batches)}
        assert last.keys.columns()[0].to_pylist() == [whose[i] for i in last.position.tolist()]
    assert out == sorted(out)


def enumerate_positions(batches: list[list[int]]) -> list[tuple[int, int]]:
    numbers = [n for n, times in enumerate(batches) for _ in times]
    return [(n, i) for i, n in enumerate(numbers)]


def test_keys_of_no_row_are_let_go_when_runs_are_put_together() -> None:
    order = InOrder()
    for number in range(200):
        order.add(batch_of([number, 10_000 + number], first=2 * number, keys=f"a{chr(1000 + number)}"))
        order.due(number + 1)
    held = [run.rows for run in order.runs]
    assert all(r.keys is not None and r.keys.distinct.num_rows <= 2 * r.num_rows for r in held)
    assert order.rows == 200


def test_unused_keys_are_dropped_and_codes_follow() -> None:
    batch = batch_of([1, 2, 3, 4, 5, 6], keys="abcdef")
    rest = compacted(batch.slice(1, 2))
    assert rest.keys is not None
    assert sorted(rest.keys.distinct.column(0).to_pylist()) == ["b", "c"]
    assert rest.keys.columns()[0].to_pylist() == ["b", "c"]


def test_batches_put_together_have_one_numbering_of_keys() -> None:
    both = together([batch_of([1, 2], keys="ab"), batch_of([3], first=2, keys="b")])
    assert both.keys is not None
    assert both.keys.columns()[0].to_pylist() == ["a", "b", "b"]


def test_slices_hold_whole_moments() -> None:
    rows = batch_of([1, 1, 2, 2, 2, 3, 4])
    assert [ids(part) for part in slices(rows, 3)] == [[0, 1, 2, 3, 4], [5, 6]]
    assert [ids(part) for part in slices(rows, 1)] == [[0, 1], [2, 3, 4], [5], [6]]


def test_times_of_any_size_are_told_as_text() -> None:
    texts = time_text(np.array([0, -1, MAX_US, 1_700_000_000_123_456], np.int64)).to_pylist()
    assert texts == [
        "1970-01-01T00:00:00.000000Z", "1969-12-31T23:59:59.999999Z", "the end of the input", "2023-11-14T22:13:20.123456Z",
    ]  # fmt: skip
