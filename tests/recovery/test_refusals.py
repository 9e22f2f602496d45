"""What checkpoints cannot keep is refused, by name, before anything is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from harness.sources import ColumnSource, fields

import millstream as ms
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest, PartitionState
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.reading import Readers
from millstream.operators.base import Operator
from millstream.operators.scan import Scan
from millstream.planner import make_plan
from millstream.runner import Runner
from millstream.topology import worker_name


def test_an_operator_whose_state_would_be_lost_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scan, "snapshot", Operator.snapshot)
    flow = ms.Flow("refused")
    rows = flow.source(ColumnSource([[]], fields(k=pa.int64(), n=pa.int64())))
    rows.key_by("k").scan(0, lambda state, e: (state, e), name="totals").collect("out")
    plan = make_plan(flow, workers=1)

    def runner(*, checkpoints: bool) -> Runner:
        return Runner(plan, worker_name(0), now_us=lambda: 0, dead_letter=lambda letter: None, checkpoints=checkpoints)

    runner(checkpoints=False)
    with pytest.raises(ms.FlowError, match=r"totals \(.*\): its state cannot be put into checkpoints yet"):
        runner(checkpoints=True)


def test_a_source_that_would_begin_anew_is_not_gone_on_with(tmp_path: Path) -> None:
    def numbers() -> Iterator[dict[str, Any]]:
        yield {"n": 1}

    flow = ms.Flow("refused")
    flow.read_iterable(numbers(), schema={"n": int}).collect("out")
    plan = make_plan(flow, workers=1)
    source = plan.nodes[plan.partitions[0][0]].name
    read = PartitionState(source, "iterable", None, sequence=4, clocks={}, ended=False)
    manifest = Manifest("refused", 1, 1, 1, 0, {}, partitions=(read,))
    store = CheckpointStore(DirectoryDisk(tmp_path))
    with pytest.raises(ms.SourceError, match=r"read_iterable\(\): cannot go on from a checkpoint"):
        Readers(plan, (0,), None, Recovery(manifest, store))
    for harmless in (replace(read, sequence=0), replace(read, ended=True)):
        Readers(plan, (0,), None, Recovery(replace(manifest, partitions=(harmless,)), store)).close()
