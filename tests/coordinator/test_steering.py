"""What was asked of a run: how much may wait, and that everyone gets an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream import commands
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.store import CheckpointStore
from millstream.commands import Command
from millstream.coordinator.control import Request, Requests
from millstream.coordinator.steering import Steering
from millstream.wire import Answered, Ask, Stop


class Bench:
    """A run with one checkpoint, and a coordinator that answers when the test says so."""

    def __init__(self, state: Path) -> None:
        store = CheckpointStore(DirectoryDisk(state / "checkpoints"))
        store.complete(Manifest("steered", 1, 1, 1, 1_700_000_000_000_000, {}))
        self.requests = Requests()
        self.steering = Steering(self.requests, state, store)

    def submit(self, command: Command) -> tuple[Request, list[Ask]]:
        request = self.requests.submit(command)
        return request, list(self.steering.due())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def said(request: Request) -> str:
    return request.future.result(10).said


def test_no_more_checkpoints_can_be_asked_for_than_may_wait_and_the_run_can_still_be_stopped(bench: Bench) -> None:
    waiting = [bench.submit(commands.Checkpoint()) for _ in range(64)]
    refused, asks = bench.submit(commands.Savepoint())
    assert not asks and said(refused) == "64 commands wait already; ask again when the next checkpoint exists"
    bench.submit(commands.Stop())
    assert bench.steering.stop_due() == commands.Stop()
    for request, (ask,) in waiting:
        bench.steering.answered(Answered(ask.number, 1))
        assert said(request).startswith("checkpoint 1, after ")
    assert bench.submit(commands.Checkpoint())[1]


@pytest.mark.parametrize("name", ["no\0path", "way/" * 2_000])
def test_a_savepoint_whose_path_is_none_is_refused_and_its_checkpoint_released(bench: Bench, name: str) -> None:
    request, asks = bench.submit(commands.Savepoint(name))
    for ask in asks:  # where it could not be told before the checkpoint was made
        bench.steering.answered(Answered(ask.number, 1))
        assert "could not be copied" in said(request)
        bench.steering.close()
        assert [(a.what, a.epoch) for a in bench.steering.due()] == [(Ask.RELEASE, 1)]
    assert request.future.result(10).error


def test_a_run_that_stops_with_a_savepoint_whose_path_is_none_ends_well(bench: Bench) -> None:
    request, _ = bench.submit(commands.Stop(savepoint=True, to="no\0path"))
    bench.steering.end(stopped_at=1)
    assert request.future.result(10).error


def test_what_the_run_was_told_is_told_to_the_coordinator_of_each_life(bench: Bench) -> None:
    _, (pause,) = bench.submit(commands.Pause())
    bench.steering.answered(Answered(pause.number))
    _, (checkpoint,) = bench.submit(commands.Checkpoint())
    bench.steering.stopping = Stop(True)
    for _ in range(2):
        paused, *told = bench.steering.begin_life()
        assert isinstance(paused, Ask) and paused.what == Ask.PAUSE and told == [checkpoint, Stop(True)]
