"""What Prometheus is told of a run, without a server."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from millstream.coordinator.control import Requests
from millstream.coordinator.ui.graph import Graph, GraphOperator
from millstream.coordinator.ui.metrics import exposition
from millstream.coordinator.ui.monitor import Monitor
from millstream.coordinator.ui.present import Present

MAP = GraphOperator("map", "map(f)", "flow.py:3", "operator", (), None, ("workers",), (), False)
COUNTED = {
    "rows_in": 7, "rows_out": 6, "late": 5, "dead_letters": 4, "unmatched": 3, "skipped": 2, "retried": 1,
}  # fmt: skip


def test_all_that_an_operator_counts_is_there(tmp_path: Path) -> None:
    monitor = Monitor(Graph("clicks", 1, "workers", False, True, (MAP,), ()), tmp_path)
    worker = {"operators": {"map": COUNTED}, "measured_s": 1.0}
    monitor.update({"state": "running", "seconds": 1.0, "watermark_us": 5, "processes": {"worker-0": worker}})
    text = exposition(Present(monitor, Requests())).decode()
    monitor.close()
    told = {
        sample.name.removeprefix("millstream_operator_").removesuffix("_total"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels == {"flow": "clicks", "operator": "map"}
    }
    assert told == COUNTED
