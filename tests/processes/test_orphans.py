"""Who follows a run that was killed waits until nobody of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.coordinator.orphans import await_orphans
from millstream.process import ROLL
from tests.processes.conftest import Start

pytestmark = pytest.mark.slow

CHILD = """
import sys, time
from pathlib import Path
from millstream.process import exit_with_parent
print("begins", flush=True)
exit_with_parent(0, Path(sys.argv[1]))
print("signed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), "millstream.workers"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_child_that_ends_with_its_parent_is_waited_for(child: subprocess.Popen[str], tmp_path: Path) -> None:
    assert [read(child), read(child)] == ["begins", "signed"]
    assert (tmp_path / ROLL).read_text() == f"{child.pid}\n"
    assert child.stdin is not None
    child.stdin.close()
    await_orphans(tmp_path / ROLL)
    assert child.wait(5) == 3
    assert (tmp_path / ROLL).read_text() == ""


def test_one_that_is_stopped_is_killed(child: subprocess.Popen[str], tmp_path: Path) -> None:
    assert [read(child), read(child)] == ["begins", "signed"]
    os.kill(child.pid, signal.SIGSTOP)
    await_orphans(tmp_path / ROLL)
    assert child.wait(5) == -signal.SIGKILL


def test_one_that_signs_after_its_parent_has_gone_does_not_begin(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(10) == 3
    assert child.stdout is not None
    assert child.stdout.read().split() == ["begins"]


def test_a_run_goes_on_where_a_worker_of_the_one_before_was_stopped_for_ever(start: Start) -> None:
    flow = """
import millstream as ms
flow = ms.Flow("endless")
rows = flow.generate({"n": ms.connectors.Counter()}, rate=20_000)
rows.write_jsonl("out.jsonl")
"""
    run = start(flow, "--workers", "2", "--checkpoint-interval", "1s")
    run.wait_until_working(2)
    stopped = run.roles["worker-1"]
    stopped.suspend()
    run.process.kill()
    run.process.wait()
    again = start(flow, "--workers", "2", "--checkpoint-interval", "1s")
    deadline_s = time.monotonic() + 20
    while stopped.is_running() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not stopped.is_running()
    again.wait_until_working(2)
    again.process.send_signal(signal.SIGINT)
    assert again.finish()[0] == 130
