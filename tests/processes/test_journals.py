"""Input that can be read only once survives kills of real processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.processes.conftest import Run, Start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FLOW = """
import millstream as ms

flow = ms.Flow("once")
rows = SOURCE
rows.write_jsonl("out.jsonl")
rows.key_by("k").agg(n=ms.count()).write_sqlite("counts.db", "counts")
"""
STDIN = FLOW.replace("SOURCE", 'flow.read_stdin(schema={"i": int, "k": int})')
ZEROMQ = FLOW.replace("SOURCE", 'flow.read_zeromq("ipc://events", schema={"i": int, "k": int})')


REPLAYABLE = """
import time


class Numbers:
    replayable = True

    def read(self, partition):
        for i in range(6_000):
            if i % 100 == 99:
                time.sleep(0.05)
            yield {"i": i, "k": i % 7}
""" + FLOW.replace("SOURCE", "flow.source(Numbers)")


def rows_in(path: Path) -> list[int]:
    return [json.loads(line)["i"] for line in path.read_text().splitlines()] if path.exists() else []


def come_out(run: Run, count: int) -> None:
    out = run.directory / "out.jsonl"
    run.wait_for(lambda: out.exists() and out.read_bytes().count(b"\n") >= count, f"{count} rows")


def kill_and_wait_for_the_next(run: Run, victim: str) -> None:
    before = run.roles["coordinator"].pid
    run.roles[victim].kill()
    run.wait_for(lambda: run.roles.get("coordinator", run.process).pid not in (before, run.process.pid), "another life")


def hurt(run: Run, send: Callable[[int, int], Any], first: int) -> int:
    """Send rows, and kill somebody when they have been seen, before and after checkpoints; returns how many were sent."""
    sent = first
    for victim in ("worker-1", "coordinator", "worker-0"):
        send(sent, sent + 700)
        sent += 700
        come_out(run, sent)
        kill_and_wait_for_the_next(run, victim)
    return sent


def test_nothing_of_standard_input_is_lost_or_doubled(start: Start) -> None:
    read, write = os.pipe()
    run = start(STDIN, "--workers", "2", "--checkpoint-interval", "1s", stdin=read)
    os.close(read)

    def send(begin: int, end: int) -> None:
        text = "".join(f'{{"i":{i},"k":{i % 7}}}\n' for i in range(begin, end))
        sent = f'{{"i":{begin},' if begin else ""  # half of the first row, behind those before
        os.write(write, (text.removeprefix(sent) + f'{{"i":{end},').encode())

    sent = hurt(run, send, 0)
    os.write(write, f'"k":{sent % 7}}}\n'.encode())
    os.close(write)
    status, _, errors = run.finish(60)
    assert status == 0, errors
    assert rows_in(run.directory / "out.jsonl") == list(range(sent + 1))
    assert "exactly once after a recovery: limited by write_jsonl" in errors


def test_a_source_of_ones_own_that_gives_the_same_again_is_gone_on_with(start: Start) -> None:
    run = start(REPLAYABLE, "--workers", "2", "--checkpoint-interval", "1s")
    for count, victim in ((500, "worker-0"), (2_500, "source-host"), (4_500, "coordinator")):
        come_out(run, count)
        kill_and_wait_for_the_next(run, victim)
    status, _, errors = run.finish(60)
    assert status == 0, errors
    assert rows_in(run.directory / "out.jsonl") == list(range(6_000))


def test_messages_that_a_run_has_read_are_worked_on_once_whoever_is_killed(start: Start, tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
        peer.linger = 0

        def send(begin: int, end: int) -> None:
            for i in range(begin, end):
                peer.send(json.dumps({"i": i, "k": i % 7}).encode())

        peer.connect(f"ipc://{tmp_path}/events")
        # Long: the first kills come before the first checkpoint, which the journal makes up for.
        run = start(ZEROMQ, "--workers", "2", "--checkpoint-interval", "3s")
        sent = hurt(run, send, 0)
        send(sent, sent + 10)
        come_out(run, sent + 10)
        run.process.kill()  # the whole run, and the next one goes on
        run.process.wait()
        assert run.survivors() == []
        run = start(ZEROMQ, "--workers", "3")
        run.wait_for(lambda: len(run.roles) > 3, "the processes")
        send(sent + 10, sent + 20)
        come_out(run, sent + 20)
        run.process.send_signal(signal.SIGINT)
        status, _, errors = run.finish()
        assert status == 130, errors
    assert rows_in(tmp_path / "out.jsonl") == list(range(sent + 20))
