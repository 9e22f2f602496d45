"""What the supervisor still has to say to a process that is gone goes nowhere."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from millstream.bootstrap import Bootstrap, NextPlan
from millstream.coordinator.children import Child
from millstream.coordinator.view import QuietView


def test_a_plan_that_is_still_being_sent_is_sent_no_more_once_its_process_is_reaped(tmp_path: Path) -> None:
    # A descriptor is given out again as soon as it is closed: a plan must not land in the pipe of another process.
    ends_at_once = "keyword"
    child = Child("worker-1", ends_at_once, [], Bootstrap(tmp_path, 1, b"", None), QuietView(StringIO()))
    child.process.wait()
    child.tell_plan(NextPlan(2, bytes(100_000_000)))
    child.end(5.0)
    assert not child._writer.is_alive()
