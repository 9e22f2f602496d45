"""When a process of a run dies or hangs, the run goes on, or ends and says who and why; nothing is left behind."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from contextlib import closing

import psutil
import pytest

from millstream.coordinator.ui.history import HistoryReader
from tests.processes.conftest import Run, Start

pytestmark = pytest.mark.slow

ENDLESS = """
import millstream as ms
from millstream.connectors import Counter

flow = ms.Flow("endless")
events = flow.generate({"key": list("abcdefgh"), "n": Counter()}, rate=20_000)
events.key_by("key").agg(events=ms.count()).write_jsonl("out.jsonl")
"""

BOUNDED = """
import sys
import millstream as ms

flow = ms.Flow("bounded")
rows = flow.read_jsonl("in.jsonl")
rows.key_by("key").agg(total=ms.sum("n")).write_jsonl("out.jsonl")
"""


@pytest.mark.parametrize("victim", ["worker-0", "worker-1", "coordinator"])
def test_killing_a_process_of_a_run_without_checkpoints_ends_it_and_names_it(start: Start, victim: str) -> None:
    run = start(ENDLESS, "--workers", "2", "--checkpoint-interval", "off")
    run.wait_until_working(2)
    run.roles[victim].kill()
    status, _, errors = run.finish()
    assert status == 1
    assert f"{victim} (process" in errors
    assert "SIGKILL" in errors
    assert "Traceback" not in errors
    assert run.survivors() == []
    assert list((run.directory / "sockets").iterdir()) == []


def test_killing_the_supervisor_takes_every_process_with_it(start: Start) -> None:
    run = start(ENDLESS, "--workers", "2")
    run.wait_until_working(2)
    assert {"coordinator", "worker-0", "worker-1"} <= run.roles.keys()
    run.process.kill()
    run.process.wait()
    assert run.survivors() == []


def test_ctrl_c_with_drain_ends_the_sources_and_finishes_the_sinks(start: Start) -> None:
    run = start(ENDLESS, "--workers", "2", "--drain")
    run.wait_until_working(2)
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status == 130
    assert "stopping" in errors
    lines = (run.directory / "out.jsonl").read_text().splitlines()
    assert all(json.loads(line)["events"] > 0 for line in lines)
    assert run.survivors() == []


SLOW = """
import time
import millstream as ms
from millstream.connectors import Counter

def slowly(count, event):
    time.sleep(0.0005)  # some seconds for what a worker has in hand
    return count + 1, {"n": event.n}

flow = ms.Flow("slow")
flow.generate({"n": Counter()}, rate=20_000).key_by("n").scan(0, slowly).write_jsonl("out.jsonl")
"""


def test_ctrl_c_twice_does_not_wait_for_what_is_under_way(start: Start) -> None:
    run = start(SLOW, "--workers", "1")
    run.wait_until_working(1)
    run.process.send_signal(signal.SIGINT)
    assert "stopping" in (run.process.stderr.readline() if run.process.stderr else "")
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status != 0
    assert "stopped at once" in errors
    assert run.survivors() == []


def test_ctrl_c_stops_at_a_checkpoint_and_the_same_command_goes_on_from_it(start: Start) -> None:
    run = start(ENDLESS, "--workers", "2")
    run.wait_until_working(2)
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status == 130
    assert "stopped at checkpoint 1; run it again to go on from there" in errors
    events = sum(json.loads(line)["events"] for line in last_of_each_key(run))
    again = start(ENDLESS, "--workers", "1")
    out = again.directory / "out.jsonl"
    before = out.stat().st_size
    again.wait_for(lambda: out.stat().st_size > before, "output")
    again.process.send_signal(signal.SIGINT)
    status, _, errors = again.finish()
    assert status == 130
    assert "going on from checkpoint 1" in errors
    assert sum(json.loads(line)["events"] for line in last_of_each_key(run)) > events


def test_a_run_that_was_asked_to_stop_does_so_although_it_loses_a_worker_meanwhile(start: Start) -> None:
    run = start(ENDLESS, "--workers", "2", "--checkpoint-interval", "1s")
    run.wait_until_working(2)
    victim = run.roles["worker-1"]
    victim.suspend()  # the last checkpoint does not get through
    run.process.send_signal(signal.SIGINT)
    assert run.process.stderr is not None and any("stopping: " in line for line in run.process.stderr)
    victim.kill()
    status, _, errors = run.finish()
    assert status == 130
    assert "killed by SIGKILL" in errors and "stopped at checkpoint" in errors
    assert run.survivors() == []


def last_of_each_key(run: Run) -> list[str]:
    lines = (run.directory / "out.jsonl").read_text().splitlines()
    return list({json.loads(line)["key"]: line for line in lines}.values())


@pytest.mark.parametrize("victim", ["worker-1", "coordinator"])
def test_a_process_that_is_killed_is_replaced_and_the_run_goes_on(start: Start, victim: str) -> None:
    run = start(ENDLESS, "--workers", "2")
    run.wait_until_working(2)
    first = run.roles[victim]
    first.kill()
    run.wait_for(lambda: (now := run.roles.get(victim)) is not None and now.pid != first.pid, "another one")
    run.wait_until_working(2)
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status == 130
    assert f"{victim} (process {first.pid}) was killed by SIGKILL" in errors
    assert "the run goes on from its start" in errors
    assert run.survivors() == []


@pytest.mark.parametrize("victim", ["worker-1", "coordinator"])
def test_a_process_that_was_kept_ready_takes_the_place_of_a_lost_one(start: Start, victim: str) -> None:
    run = start(ENDLESS, "--workers", "2")
    run.wait_for(lambda: "spare" in run.roles, "a spare")
    spare, first = run.roles["spare"], run.roles[victim]
    first.kill()
    run.wait_for(lambda: any(p == spare for name, p in run.roles.items() if name != "spare"), "the spare to be used")
    before = (out := run.directory / "out.jsonl").stat().st_size
    run.wait_for(lambda: out.stat().st_size > before, "output")
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status == 130
    assert f"{victim} (process {first.pid}) was killed by SIGKILL" in errors
    assert run.survivors() == []


def test_a_process_that_was_kept_ready_ends_with_the_supervisor(start: Start) -> None:
    run = start(ENDLESS, "--workers", "1")
    run.wait_for(lambda: "spare" in run.roles, "a spare")
    run.process.kill()
    run.process.wait()
    assert run.survivors() == []


def test_a_worker_that_hangs_in_a_run_without_checkpoints_is_found_and_named(start: Start) -> None:
    run = start(ENDLESS, "--workers", "2", "--hang-timeout", "2s", "--checkpoint-interval", "off")
    run.wait_until_working(2)
    run.roles["worker-1"].suspend()
    status, _, errors = run.finish()
    assert status == 1
    assert "worker-1 gave no sign of life" in errors
    assert run.survivors() == []


def test_a_second_run_of_the_same_flow_is_refused_by_name(start: Start) -> None:
    first = start(ENDLESS, "--workers", "1")
    first.wait_until_working(1)
    second = start(ENDLESS, "--workers", "1")
    status, _, errors = second.finish()
    assert status == 1
    assert "runs already" in errors
    assert str(first.process.pid) in errors
    first.process.send_signal(signal.SIGTERM)
    assert first.finish()[0] == 130


def test_a_run_can_be_repeated_and_replaces_its_output(start: Start) -> None:
    for _ in range(2):
        run = start(BOUNDED, "--workers", "2")
        (run.directory / "in.jsonl").write_text("".join(f'{{"key":"k{i % 7}","n":{i}}}\n' for i in range(1_000)))
        status, _, errors = run.finish()
        assert status == 0, errors
        lines = [json.loads(line) for line in (run.directory / "out.jsonl").read_text().splitlines()]
        last = {line["key"]: line["total"] for line in lines}
        assert last == {f"k{k}": sum(range(k, 1_000, 7)) for k in range(7)}
        assert run.survivors() == []


@pytest.mark.parametrize("victim", ["worker-1", "coordinator"])
def test_a_process_that_hangs_is_replaced_and_the_run_goes_on(start: Start, victim: str) -> None:
    run = start(ENDLESS, "--workers", "2", "--hang-timeout", "2s", "--checkpoint-interval", "1s")
    run.wait_until_working(2)
    first = run.roles[victim]
    first.suspend()
    run.wait_for(lambda: (now := run.roles.get(victim)) is not None and now.pid != first.pid, "another one")
    history = HistoryReader(run.directory / ".millstream" / "endless")

    def recovered() -> list[str]:
        return [h.text for r in history.runs() for h in history.happenings(r.id) if h.kind == "recovered"]

    run.wait_for(lambda: len(recovered()) == 1, "the run to go on")
    out = run.directory / "out.jsonl"
    before = out.stat().st_size
    run.wait_for(lambda: out.stat().st_size > before, "output")
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status == 130
    assert f"{victim} gave no sign of life for" in errors
    assert "the run goes on" in errors
    assert "after the loss: the others end" in recovered()[0] and recovered()[0] in errors
    assert run.survivors() == []


def test_checkpoints_that_cannot_be_written_are_told_of_and_so_is_the_next_that_can(start: Start) -> None:
    run = start(ENDLESS, "--workers", "2", "--checkpoint-interval", "1s")
    state = run.directory / ".millstream" / "endless"
    run.wait_for(lambda: any(state.glob("checkpoints/manifest-*")), "a checkpoint")
    history = HistoryReader(state)

    def warnings() -> list[str]:
        return [h.text for r in history.runs() for h in history.happenings(r.id) if h.kind == "warning"]

    _, most = run.roles["coordinator"].rlimit(psutil.RLIMIT_FSIZE)
    run.roles["coordinator"].rlimit(psutil.RLIMIT_FSIZE, (1, most))  # it has the manifests to write, and nothing else
    run.wait_for(lambda: len(warnings()) == 1, "a warning")
    run.roles["coordinator"].rlimit(psutil.RLIMIT_FSIZE, (most, most))
    run.wait_for(lambda: len(warnings()) == 2, "another one")
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status == 130
    failing, well = warnings()
    assert "File too large" in failing and "goes back to checkpoint" in failing and failing in errors
    assert "checkpoints are written again" in well and well in errors


def test_what_cannot_be_removed_of_old_checkpoints_is_told_of_once(start: Start) -> None:
    run = start(ENDLESS, "--workers", "1", "--checkpoint-interval", "1s")
    state = run.directory / ".millstream" / "endless"

    def newest() -> int:
        return max((int(m.stem[-8:]) for m in state.glob("checkpoints/manifest-*")), default=0)

    run.wait_for(lambda: newest() >= 1, "a checkpoint")
    (state / "checkpoints" / "data" / "00000000-stray.arrow").mkdir()  # which is not removed as a file is
    before = newest()
    run.wait_for(lambda: newest() >= before + 5, "checkpoints that go on")
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status == 130
    assert errors.count("what old checkpoints need no more cannot all be removed") == 1
    assert len(list(state.glob("checkpoints/manifest-*"))) == 3


INTO_A_DATABASE = """
import millstream as ms
from millstream.connectors import Counter

flow = ms.Flow("stored")
events = flow.generate({"key": list("abcdefgh"), "n": Counter()}, rate=2_000)
events.key_by("key").agg(events=ms.count()).write_sqlite("out.sqlite", "counts")
"""


def test_a_worker_whose_commit_takes_longer_than_a_hang_is_not_taken_for_one_that_hangs(start: Start) -> None:
    run = start(INTO_A_DATABASE, "--workers", "1", "--hang-timeout", "2s", "--checkpoint-interval", "1s")

    def newest() -> int:
        return max(
            (int(m.stem[-8:]) for m in run.directory.glob(".millstream/stored/checkpoints/manifest-*")), default=0
        )

    run.wait_for(lambda: newest() >= 2, "commits")
    worker = run.roles["worker-0"].pid
    with closing(sqlite3.connect(run.directory / "out.sqlite", timeout=20, isolation_level=None)) as other:
        other.execute("begin exclusive")
        until_s = time.monotonic() + 6
        run.wait_for(lambda: time.monotonic() > until_s, "a worker that waits for longer than it may be silent")
        before = newest()
        other.execute("rollback")
    run.wait_for(lambda: newest() >= before + 2, "checkpoints, and commits before them")
    assert run.roles["worker-0"].pid == worker
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert status == 130, errors
    assert "no sign of life" not in errors
    assert run.survivors() == []


CANNOT_BE_KEPT = """
import millstream as ms
from millstream.connectors import Counter

def hide(found, event):
    found.append(event.n if event.n < 5_000 else iter(()))
    return found[-3:], {"n": event.n}

flow = ms.Flow("hidden")
flow.generate({"k": ["a"], "n": Counter()}, rate=20_000).key_by("k").scan([], hide).write_jsonl("out.jsonl")
"""


def test_a_state_that_turns_out_not_to_be_kept_when_it_is_written_ends_the_run(start: Start) -> None:
    run = start(CANNOT_BE_KEPT, "--workers", "1", "--checkpoint-interval", "1s")
    status, _, errors = run.finish()
    assert status == 1
    assert "state cannot be kept: tuple_iterator is no type that checkpoints know" in errors
    assert "(key 'a')" in errors
    assert run.survivors() == []
