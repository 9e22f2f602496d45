"""``on_error="skip"``: events on which a function raises are left out and counted, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.batch import make_columns
from millstream.streams import Stream


def third(value: int) -> int:
    if value % 3 == 0:
        raise ValueError("of three")
    return value


def batch(rows: pa.RecordBatch) -> pa.RecordBatch:
    return make_columns(["v"], [pa.array([third(v) for v in rows.column("v").to_pylist()], pa.int64())])


class Thirds(ms.Process):
    def on_event(self, event: Any, ctx: Any) -> None:
        ctx.emit({"v": third(event.v)})


WAYS: list[Callable[[Stream], Stream]] = [
    lambda s: s.map(lambda e: {"v": third(e.v)}, on_error="skip"),
    lambda s: s.flat_map(lambda e: [{"v": third(e.v)}], on_error="skip"),
    lambda s: s.filter(lambda e: third(e.v) > 0, on_error="skip"),
    lambda s: s.map_batches(batch, on_error="skip"),
    lambda s: s.key_by("k").scan(0, lambda n, e: (n + 1, {"v": third(e.v)}), on_error="skip"),
    lambda s: s.key_by("k").process(Thirds, on_error="skip"),
]


@pytest.mark.parametrize("way", WAYS, ids=["map", "flat_map", "filter", "map_batches", "scan", "process"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_what_a_function_raises_on_is_left_out_and_counted(way: Callable[[Stream], Stream], batch_size: int) -> None:
    flow = ms.Flow("skipping")
    way(flow.read_arrow(pa.table({"k": ["a", "b"] * 10, "v": range(20)}))).collect("out")
    result = flow.run_here(batch_size=batch_size)
    assert sorted(result.tables["out"].column("v").to_pylist()) == [v for v in range(20) if v % 3]
    assert (result.skipped, result.dead_letters) == (7, 0)
