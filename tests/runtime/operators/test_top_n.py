"""The operator of rankings by itself: what it keeps, what it lets go of, and what it is told wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millstream.batch import Batch, Keys
from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.tables import StateTable
from millstream.errors import InternalError, SchemaError
from millstream.expr import col
from millstream.operators.base import Context
from millstream.operators.top_n import TopN
from millstream.specs.ranking import SortKey, TopNSpec

Row = tuple[str, Any, Any]  # key, value, payload


def make(n: int = 2, *, signed: bool = False, descending: bool = True, rank: str | None = None) -> TopN:
    spec = TopNSpec(n, (SortKey(col("v"), descending),), rank=rank, signed=signed)
    return TopN(spec, Context("top_n", 0, 1, lambda: 0, lambda letter: None))


def batch(
    rows: Sequence[Row], kind: pa.DataType | None = None, sign: Sequence[int] | None = None, at: int = 0
) -> Batch:
    names = sorted({k for k, _, _ in rows})
    codes = np.array([names.index(k) for k, _, _ in rows], np.int32)
    columns = pa.RecordBatch.from_arrays(
        [pa.array([v for _, v, _ in rows], kind or pa.int64()), pa.array([p for _, _, p in rows])], names=["v", "p"]
    )
    return Batch(
        columns, np.arange(at, at + len(rows)), position=np.arange(at, at + len(rows)),
        keys=Keys(pa.RecordBatch.from_arrays([pa.array(names)], names=["k"]), codes),
        sign=None if sign is None else np.array(sign, np.int8),
    )  # fmt: skip


def follow(operator: TopN, batches: Sequence[Batch]) -> Counter[Any]:
    """What stands after these batches."""
    standing: Counter[Any] = Counter()
    for one in batches:
        for output in operator.on_batch(one, 0):
            assert isinstance(output, tuple) and output[1].sign is not None
            for row, sign in zip(output[1].columns.to_pylist(), output[1].sign.tolist(), strict=True):
                standing[tuple(repr(v) if isinstance(v, list) else v for v in row.values())] += sign
    assert all(count >= 0 for count in standing.values())
    return +standing


def test_a_row_behind_the_worst_is_put_aside_also_when_the_type_widens() -> None:
    first, second = batch([("a", 5, 0), ("a", 7, 1)]), batch([("a", 4, 2)], at=5)
    third = batch([("a", 5.5, 3), ("a", 1.0, 4)], pa.float64(), at=7)
    assert set(follow(make(), [first, second])) == {("a", 5, 0), ("a", 7, 1)}
    assert set(follow(make(), [first, second, third])) == {("a", 5.5, 3), ("a", 7, 1)}


def test_what_was_pushed_out_is_forgotten() -> None:
    operator = make(n=3)
    starts = range(0, 400_000, 4_000)
    out = follow(operator, [batch([("a", s + i, f"row {s + i}") for i in range(4_000)], at=s) for s in starts])
    assert {row[1] for row in out} == {399_997, 399_998, 399_999}
    assert operator.figures()["rows"] == 3
    assert operator.figures()["state_bytes"] < 1_000_000


def test_a_key_without_rows_is_forgotten() -> None:
    operator = make(signed=True)
    for number in range(100):
        rows = [(f"key-{number}-{i}", i, "x" * 50) for i in range(50)]
        assert len(follow(operator, [batch(rows, sign=[1] * 50)])) == 50
        follow_minus = list(operator.on_batch(batch(rows, sign=[-1] * 50), 0))
        assert isinstance(follow_minus[0], tuple) and follow_minus[0][1].num_rows == 50
    assert operator.figures()["keys"] == operator.figures()["rows"] == 0
    assert operator.figures()["state_bytes"] < 1_000_000


def test_of_equal_rows_as_many_go_as_are_taken_back() -> None:
    operator = make(n=5, signed=True)
    same: list[Row] = [("a", 1, [1, None])] * 3
    out = follow(operator, [batch(same, sign=[1] * 3), batch([same[0], same[0]], sign=[-1, -1], at=9)])
    assert out == Counter({("a", 1, "[1, None]"): 1})


def test_a_row_that_is_taken_back_lets_the_next_one_in() -> None:
    operator = make(n=1, signed=True, rank="r")
    out = follow(operator, [
        batch([("a", 3, "x"), ("a", 2, "y"), ("b", 1, "z")], sign=[1, 1, 1]),
        batch([("a", 3, "x")], sign=[-1], at=7),
    ])  # fmt: skip
    assert set(out) == {("a", 2, "y", 1), ("b", 1, "z", 1)}


def test_taking_back_what_never_came_is_a_bug_and_said_to_be_one() -> None:
    with pytest.raises(InternalError, match="a row was taken back that never came"):
        follow(make(signed=True), [batch([("a", 1, "x")], sign=[-1])])


def test_fields_that_change_are_refused_with_a_way_out() -> None:
    operator = make()
    follow(operator, [batch([("a", 1, "x")])])
    other = batch([("a", 1, "x")])
    with pytest.raises(SchemaError, match="rows had the fields v, p and now have v, q; say schema="):
        follow(operator, [other.with_columns(other.columns.rename_columns(["v", "q"]))])


def checkpoint(operator: TopN) -> int:
    """Let a checkpoint be complete; returns how many rows were written for it."""
    rows = 0
    for part in operator.snapshot():
        if isinstance(part, StateTable):
            rows += part.num_rows
            part.saved.written(TableFile("top_n", part.name, 0, 1, "", part.num_rows, 0, "", change=part.change), 0)
    return rows


def test_a_checkpoint_has_the_rows_of_keys_that_changed_however_many_each_has() -> None:
    operator = make(n=10)
    list(operator.on_batch(batch([(f"key-{k}", v, "") for k in range(1_000) for v in range(10)]), 0))
    assert checkpoint(operator) == 10_000
    list(operator.on_batch(batch([("key-1", 99, ""), ("key-2", 99, "")], at=10_000), 0))
    assert checkpoint(operator) == 20
