"""What the rows of an epoch come to does not depend on how the workers' rows are mixed."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.connectors import changes

Row = tuple[str, int | None, Any]


def batch(rows: list[Row]) -> pa.RecordBatch:
    values = pa.array([[v] if v is not None else None for _, _, v in rows], pa.list_(pa.float64()))
    return pa.record_batch(
        {
            "change": pa.array([c for c, _, _ in rows], pa.string()),
            "k": pa.array([k for _, k, _ in rows], pa.int64()),
            "v": values,
        }
    )


def applied(table: dict[Any, Any], batches: list[pa.RecordBatch], *, signed: bool) -> dict[Any, Any]:
    table = dict(table)
    for gone, put in changes.changes_of(batches, ["k"], signed=signed):
        for row in gone.to_pylist():
            if row["k"] in table and table[row["k"]] == row["v"]:
                del table[row["k"]]
        for row in put.to_pylist():
            table[row["k"]] = row["v"]
    return table


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Row]], dict[Any, Any], dict[Any, Any]]:
    """What workers send of keys that wander between them, and what stood before and stands after."""
    before: dict[Any, Any] = {k: [0.0] for k in range(draw(st.integers(0, 3)))}
    stands, workers = dict(before), list[list[Row]]([[] for _ in range(3)])
    owner: dict[Any, int] = dict.fromkeys(before, 0)
    for key, value, worker in draw(
        st.lists(st.tuples(st.sampled_from([0, 1, 2, None]), st.sampled_from([None, 0, 1, 2]), st.integers(0, 2)))
    ):
        if key in stands:
            old = stands.pop(key)
            workers[owner[key]].append(("-", key, old[0] if old else None))
        if value != 2:
            stands[key] = None if value is None else [float(value)]
            owner[key] = worker
            workers[worker].append(("+", key, None if value is None else float(value)))
    return workers, before, stands


@pytest.mark.parametrize("fold_rows", [1, 3, 1_000])
@given(history=histories(), dice=st.randoms(use_true_random=False))
def test_what_several_workers_take_back_and_put_adds_up(fold_rows: int, history: Any, dice: Any) -> None:
    workers, before, stands = history
    queues = [list(rows) for rows in workers if rows]
    mixed: list[Row] = []
    while queues:
        queue = dice.choice(queues)
        mixed.append(queue.pop(0))
        queues = [q for q in queues if q]
    cut = [mixed[i : i + 2] for i in range(0, len(mixed), 2)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(changes, "FOLD_ROWS", fold_rows)
        assert applied(before, [batch(rows) for rows in cut], signed=True) == stands


@given(rows=st.lists(st.tuples(st.just("+"), st.sampled_from([0, 1, None]), st.integers(0, 3))))
def test_without_signs_the_last_row_of_each_key_counts(rows: list[Row]) -> None:
    expected = {k: [float(v)] for _, k, v in rows}
    assert applied({}, [batch(rows)] if rows else [], signed=False) == expected
