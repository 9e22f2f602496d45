"""A worker's decisions: what becomes of an error after which it cannot go on."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms
from millstream.errors import InternalError, ProcessLost, restored
from millstream.planner import make_plan
from millstream.workers.task import Worker


def worker() -> Worker:
    flow = ms.Flow("numbers")
    flow.generate({"n": ms.connectors.Counter()}, count=5).collect("out")
    return Worker(make_plan(flow, workers=1), 0, now_us=lambda: 0, dead_letter=lambda letter: None)


@pytest.mark.parametrize("error", [MemoryError(), pa.ArrowMemoryError("malloc of size 64 failed")])
def test_a_worker_that_is_out_of_memory_says_so_and_may_be_replaced(error: MemoryError) -> None:
    found = restored(worker().failed(error, "Traceback ...").error)
    assert isinstance(found, ProcessLost)
    assert "worker-0 is out of memory" in str(found)
    assert str(error) in str(found)


def test_an_error_of_ours_keeps_its_traceback() -> None:
    found = restored(worker().failed(KeyError("x"), "Traceback ...").error)
    assert isinstance(found, InternalError)
    assert "Traceback ..." in str(found)
