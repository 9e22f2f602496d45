"""What the supervisor still has to say to a process that is gone goes nowhere; one that was told nothing ends all the same."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import psutil
import pytest

from millstream.bootstrap import Bootstrap, NextPlan
from millstream.coordinator.children import Child
from millstream.coordinator.spares import _AFTER_S, Spares
from millstream.coordinator.view import QuietView
from millstream.errors import ProcessError


def test_a_plan_that_is_still_being_sent_is_sent_no_more_once_its_process_is_reaped(tmp_path: Path) -> None:
    # A descriptor is given out again as soon as it is closed: a plan must not land in the pipe of another process.
    ends_at_once = "keyword"
    child = Child(ends_at_once, [], QuietView(StringIO()))
    child.begin(Bootstrap("worker-1", tmp_path, 1, b"", None))
    child.process.wait()
    child.tell_plan(NextPlan(2, bytes(100_000_000)))
    child.end(5.0)
    assert child._writer is not None and not child._writer.is_alive()


def test_a_spare_that_was_not_needed_is_ended_with_the_run() -> None:
    spares = Spares(QuietView(StringIO()))
    spares.keep(2, 0.0)
    spares.keep(2, _AFTER_S)
    (spare,) = spares._ready
    spares.close()
    assert spare.process.returncode is not None
    assert spares.take() is None


@contextmanager
def no_more_files_than(free: int) -> Iterator[None]:
    """So many descriptors can still be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir("/proc/self/fd")))
    limit = next(n for n in range(soft) if sum(d not in taken for d in range(n)) == free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("free", [0, 3])
def test_where_no_process_can_be_started_that_is_said_and_nothing_left_open(free: int) -> None:
    before = psutil.Process().num_fds()
    with no_more_files_than(free), pytest.raises(ProcessError, match="cannot be started: Too many open files; see"):
        Child("keyword", [], QuietView(StringIO()))
    assert psutil.Process().num_fds() == before
    spares = Spares(QuietView(StringIO()))
    spares.keep(1, 0.0)
    with no_more_files_than(free):
        spares.keep(1, _AFTER_S)  # the run goes on
    assert spares.take() is None


def test_a_spare_that_has_died_is_not_taken() -> None:
    spares = Spares(QuietView(StringIO()))
    spares.keep(2, 0.0)
    spares.keep(2, _AFTER_S)
    spares._ready[0].process.kill()
    spares._ready[0].process.wait()
    assert spares.take() is None
    spares.close()
