"""What the supervisor is told again and again is kept once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from millstream.coordinator.ui import monitor as monitor_module
from millstream.coordinator.ui.graph import Graph
from millstream.coordinator.ui.history import HistoryReader
from millstream.coordinator.ui.monitor import Monitor

GRAPH = Graph("clicks", 1, "workers", False, True, (), ())


def told(*checkpoints: tuple[int, int]) -> dict[str, Any]:
    """Figures of a run, with the newest checkpoints: their numbers, and when they began."""
    made = [{"epoch": e, "begun_us": b, "duration_us": 1, "operators": {}} for e, b in checkpoints]
    return {"state": "running", "seconds": 1.0, "watermark_us": 5, "processes": {}, "checkpoints": made}


def test_a_checkpoint_is_kept_once_and_the_one_of_another_life_takes_the_place_of_one_made_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        monitor_module, "_CLOSE_S", 60.0
    )  # a run waits for two seconds; what is written is the question here
    monitor = Monitor(GRAPH, tmp_path)
    monitor.begin(1)
    for report in (told((1, 10)), told((1, 10), (2, 20)), told((1, 10), (2, 20))):
        monitor.update(report)
    monitor.begin(2)  # the second was damaged, so this life goes on from the first
    for report in (told(), told((2, 30)), told((2, 30), (3, 40))):
        monitor.update(report)
    monitor.close()
    made = HistoryReader(tmp_path).checkpoints(monitor.run, 10)
    assert [(c.epoch, c.begun_us) for c in made] == [(1, 10), (2, 30), (3, 40)]


def late_by(process: str, *events: tuple[str, int]) -> dict[str, Any]:
    """Figures in which a process tells its last late events: their operators, and when each was seen."""
    by_operator: dict[str, list[dict[str, Any]]] = {}
    for operator, seen_us in events:
        by_operator.setdefault(operator, []).append({"seen_us": seen_us, "row": {"id": str(seen_us)}})
    return {**told(), "processes": {process: {"late_events": by_operator, "operators": {}}}}


def test_late_events_are_kept_when_their_process_tells_them_no_more(tmp_path: Path) -> None:
    monitor = Monitor(GRAPH, tmp_path)
    monitor.update(late_by("worker-0", ("agg", 2), ("agg", 1), ("join", 1)))
    monitor.update(late_by("worker-0", ("agg", 3), ("agg", 2)))
    monitor.begin(2)  # a process that has taken its place has seen none
    monitor.update(late_by("worker-1", ("agg", 4)))
    monitor.update(late_by("worker-0"))
    assert [(e["operator"], e["seen_us"]) for e in monitor.late_events(10)] == [
        ("agg", 4), ("agg", 3), ("agg", 2), ("agg", 1), ("join", 1),
    ]  # fmt: skip
    assert len(monitor.late_events(2)) == 2
    for seen_us in range(5, 5 + 2 * monitor_module.LATE_KEPT):
        monitor.update(late_by("worker-1", ("agg", seen_us)))
    assert len(monitor.late_events(1_000)) == monitor_module.LATE_KEPT + 1
    newest = monitor.newest()
    assert newest is not None and "late_events" not in newest["processes"]["worker-1"], "they are no figures over time"
    monitor.close()
