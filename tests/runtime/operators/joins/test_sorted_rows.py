"""Row numbers by key and time, against a look at every row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.operators.joins import sorted_rows
from millstream.operators.joins.sorted_rows import DueRows, SortedRows, make_segment, pairs_of

FAR = 1 << 61
TIMES = st.one_of(st.integers(-5, 5), st.sampled_from([-FAR, FAR, FAR - 1]))
ROWS = st.lists(st.lists(st.tuples(st.integers(0, 4), TIMES), min_size=1, max_size=6), max_size=12)
QUERIES = st.lists(st.tuples(st.integers(0, 6), TIMES, TIMES), max_size=8)


def as_array(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


@given(ROWS, QUERIES, st.integers(1, 5), st.booleans(), st.data())
def test_a_look_finds_the_rows_of_a_key_in_a_span_of_time(
    batches: list[list[tuple[int, int]]],
    queries: list[tuple[int, int, int]],
    at_once: int,
    timed: bool,
    data: st.DataObject,
) -> None:
    where, rows = SortedRows(), list[tuple[int, int]]()
    for batch in batches:
        numbers = np.arange(len(rows), len(rows) + len(batch))
        where.add(
            make_segment(as_array([k for k, _ in batch]), as_array([t for _, t in batch]) if timed else None, numbers)
        )
        rows += batch
    gone = data.draw(st.sets(st.sampled_from(range(len(rows))))) if rows else set[int]()
    left = [n for n in range(len(rows)) if n not in gone]
    renumbered = np.full(len(rows), -1, np.int64)
    renumbered[left] = np.arange(len(left))
    where.keep(renumbered, None)
    rows = [rows[n] for n in left]
    key, low, high = (as_array([q[i] for q in queries]) for i in range(3))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sorted_rows, "PAIRS_AT_ONCE", at_once)
        founds = list(where.find(key, low if timed else None, high if timed else None))
        found = [pair for f in founds for q, r in f.pairs() for pair in zip(q.tolist(), r.tolist(), strict=True)]
        assert all(len(q) <= at_once for f in founds for q, _ in f.pairs())
        together = [pair for q, r in pairs_of(founds) for pair in zip(q.tolist(), r.tolist(), strict=True)]
    assert sorted(found) == sorted(together) == sorted(
        (q, r)
        for q, (k, a, b) in enumerate(queries)
        for r, (key_of_row, time) in enumerate(rows)
        if k == key_of_row and (not timed or a <= time <= b)
    )  # fmt: skip


def test_segments_stay_few_however_many_batches_come() -> None:
    where = SortedRows()
    for batch in range(1_000):
        where.add(make_segment(np.arange(10), np.full(10, batch), np.arange(10)))
    assert len(where.segments) < 20
    assert sum(map(len, where.segments)) == 10_000


def test_segments_of_other_times_are_not_looked_at() -> None:
    where = SortedRows()
    where.add(make_segment(np.zeros(1, np.int64), as_array([10]), as_array([0])))
    assert not list(where.find(as_array([0]), as_array([11]), as_array([20])))
    assert not list(where.find(as_array([0]), as_array([0]), as_array([9])))
    assert len(list(where.find(as_array([0]), as_array([10]), as_array([10])))) == 1


@given(st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=40), st.lists(st.integers(-10, 10)))
def test_rows_fall_due_in_the_order_of_time(batches: list[list[int]], watermarks: list[int]) -> None:
    due, times = DueRows(), list[int]()
    for batch in batches:
        due.add(as_array(batch), np.arange(len(times), len(times) + len(batch)))
        times += batch
    waiting = set(range(len(times)))
    for limit in sorted(watermarks):
        taken = due.take_before(limit).tolist()
        assert [times[r] for r in taken] == sorted(times[r] for r in taken)
        assert set(taken) == {r for r in waiting if times[r] < limit}
        waiting -= set(taken)
