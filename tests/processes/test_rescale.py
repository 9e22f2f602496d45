"""Another number of workers while the run goes on: what comes out is what an undisturbed run writes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from millstream.control import RunningFlow
from millstream.errors import CommandError

from .conftest import Run, Start

pytestmark = pytest.mark.slow

ROWS = 240_000

FLOW = f"""
import millstream as ms
from millstream.connectors import Counter
from millstream.connectors.generate import EventTime
flow = ms.Flow("moved")
events = flow.generate(dict(n=Counter(), key=(0, 500), at=EventTime(rate=1_000)), rate=24_000, count={ROWS}).event_time("at")
events.key_by("key").window(ms.tumbling("10s")).agg(n=ms.count(), s=ms.sum("n")).write_jsonl("panes/")
counted = events.key_by("key").scan(0, lambda seen, row: (seen + 1, dict(key=row.key, n=row.n, seen=seen + 1)))
counted.write_jsonl("seen.jsonl")
counted.key_by("seen").agg(n=ms.count()).write_jsonl("totals/")
"""


def written(folder: Path) -> dict[str, Counter[str]]:
    """What must be the same; of running totals by key the highest."""

    def parts(name: str) -> list[str]:
        return [line for part in (folder / name).glob("*.jsonl") for line in part.read_text().splitlines()]

    return {
        "panes": Counter(parts("panes")),
        "seen": Counter((folder / "seen.jsonl").read_text().splitlines()),
        "totals": Counter(line for line in parts("totals") if '"n": 500' in line or '"n":500' in line),
    }


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[str]]:
    """What an undisturbed run writes."""
    folder = tmp_path_factory.mktemp("calm")
    (folder / "flow.py").write_text(FLOW.replace("rate=24_000", "rate=None"))
    millstream = Path(sys.executable).parent / "millstream"
    subprocess.run([millstream, "run", "flow.py", "--plain", "--workers", "1"], cwd=folder, check=True, timeout=100)
    return written(folder)


def begun(start: Start, tmp_path: Path, workers: int, *options: str) -> tuple[Run, RunningFlow]:
    run = start(FLOW, "--workers", str(workers), "--checkpoint-interval", "1s", *options)
    run.wait_for(lambda: (tmp_path / "seen.jsonl").exists() and (tmp_path / "seen.jsonl").stat().st_size > 0, "output")
    return run, RunningFlow(tmp_path / ".millstream" / "moved", timeout_s=60)


def workers_of(run: Run) -> dict[str, int]:
    return {name: process.pid for name, process in run.roles.items() if name.startswith("worker-")}


def test_from_one_worker_to_three_to_two(start: Start, tmp_path: Path, calm: dict[str, Counter[str]]) -> None:
    run, running = begun(start, tmp_path, 1)
    first = workers_of(run)
    assert "3 workers; nothing was read for" in running.scale(3).said
    three = workers_of(run)
    assert sorted(three) == ["worker-0", "worker-1", "worker-2"] and three["worker-0"] == first["worker-0"]
    assert "2 workers; nothing was read for" in running.scale(2).said
    run.wait_for(lambda: len(workers_of(run)) == 2, "the third to leave")
    assert workers_of(run).items() <= three.items()
    status, _, errors = run.finish()
    assert status == 0, errors
    assert "240,000 events in" in errors
    assert written(tmp_path) == calm


def test_who_dies_while_the_run_is_rescaled_costs_no_row(
    start: Start, tmp_path: Path, calm: dict[str, Counter[str]]
) -> None:
    run, running = begun(start, tmp_path, 2)
    victim = run.roles["worker-1"].pid
    os.kill(victim, signal.SIGSTOP)  # the barrier does not get through
    answers: list[str] = []

    def scale() -> None:
        try:
            answers.append(running.scale(3).said)
        except CommandError as error:
            answers.append(str(error))

    asking = threading.Thread(target=scale)
    asking.start()
    run.wait_for(lambda: "worker-2" in run.roles, "the new worker")
    os.kill(victim, signal.SIGKILL)
    asking.join()
    assert "with 3 workers" in answers[0] and "killed by SIGKILL" in answers[0]
    run.wait_for(lambda: len(workers_of(run)) == 3, "three workers")
    status, _, errors = run.finish()
    assert status == 0, errors
    assert written(tmp_path) == calm


def test_where_no_process_can_be_started_the_run_goes_on_with_those_it_has(
    start: Start, tmp_path: Path, calm: dict[str, Counter[str]]
) -> None:
    run, running = begun(start, tmp_path, 1)
    supervisor = run.process.pid
    before = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{supervisor}/fd"))
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (highest + 8, before[1]))
    with pytest.raises(
        CommandError, match="a process cannot be started: Too many open files.*goes on with 1 as before"
    ):
        running.scale(9)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, before)
    run.wait_for(lambda: len(workers_of(run)) == 1, "those that were started to leave")
    assert "2 workers; nothing was read for" in running.scale(2).said
    status, _, errors = run.finish()
    assert status == 0, errors
    assert written(tmp_path) == calm


def test_a_new_worker_that_hangs_before_it_says_hello_is_given_up(
    start: Start, tmp_path: Path, calm: dict[str, Counter[str]]
) -> None:
    run, running = begun(start, tmp_path, 1, "--hang-timeout", "3s")
    answers: list[str] = []

    def scale() -> None:
        try:
            answers.append(running.scale(2).said)
        except CommandError as error:
            answers.append(str(error))

    asking = threading.Thread(target=scale)
    asking.start()
    run.wait_for(lambda: "worker-1" in run.roles, "the new worker")
    os.kill(run.roles["worker-1"].pid, signal.SIGSTOP)
    asking.join()
    assert "worker-1 did not start within 3 s; the run goes on with 1 as before" in answers[0]
    status, _, errors = run.finish()
    assert status == 0, errors
    assert written(tmp_path) == calm


HOSTED = """
import itertools, threading
import millstream as ms
from millstream.control import RunningFlow

reading, rescaled = threading.Event(), threading.Event()
total = 0

def numbers():
    global total
    for n in itertools.count():
        if n == 5_000:
            reading.set()
        if rescaled.is_set():
            break
        total = n + 1
        rescaled.wait(0.0005)
        yield {"n": n, "key": n % 97}

flow = ms.Flow("hosted")
counted = flow.read_iterable(numbers()).key_by("key").scan(0, lambda seen, row: (seen + 1, {"n": row.n, "seen": seen + 1}))
counted.collect("rows")

def rescale():
    reading.wait()
    running = RunningFlow(".millstream/hosted")
    try:
        print(running.scale(3).said, running.scale(1).said, flush=True)
    finally:
        rescaled.set()

asking = threading.Thread(target=rescale)
asking.start()
rows = flow.run(workers=2, checkpoint_interval="1s").tables["rows"].to_pylist()
asking.join()
assert sorted((r["n"], r["seen"]) for r in rows) == [(n, n // 97 + 1) for n in range(total)], len(rows)
print("all there")
"""


def test_a_source_that_lives_in_the_calling_process_goes_on_as_do_collected_rows(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(HOSTED)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "3 workers; " in done.stdout and "1 worker; " in done.stdout and "all there" in done.stdout, done.stderr
