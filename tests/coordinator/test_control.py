"""The control channel: who is found by a state directory, and what comes back."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millstream.commands import LINE_BYTES, Answer, Checkpoint, Command, Stop, decode_answer, decode_command
from millstream.control import SOCKET, RunningFlow, short_path
from millstream.coordinator.control import Requests, served
from millstream.errors import CommandError


@contextmanager
def answering(state: Path, answer: Callable[[Command], Answer]) -> Iterator[Requests]:
    """A supervisor that answers every command in this way."""
    requests = Requests()
    over = threading.Event()

    def serve() -> None:
        while not over.wait(0.002):
            for request in requests.take():
                request.answer(answer(request.command))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with served(state, requests, print):
            yield requests
    finally:
        over.set()
        thread.join()


def said(state: Path, line: bytes) -> Answer:
    """What comes back for a line that no client of ours would send."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, short_path(state) as path:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        return decode_answer(connection.makefile("rb").readline())


def test_a_command_reaches_the_run_and_its_answer_comes_back(tmp_path: Path) -> None:
    with answering(tmp_path, lambda command: Answer(f"did {command}", epoch=7)):
        answer = RunningFlow(tmp_path).stop(to="there")
    assert answer == Answer(f"did {Stop(savepoint=True, to=str(Path('there').absolute()))}", epoch=7)


def test_a_state_directory_with_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    state = tmp_path / ("long" * 50)
    state.mkdir()
    with answering(state, lambda command: Answer("ok")):
        assert RunningFlow(state).checkpoint().said == "ok"


def test_only_the_same_user_may_open_the_socket_which_is_gone_after_the_run(tmp_path: Path) -> None:
    with answering(tmp_path, lambda command: Answer("ok")):
        assert stat.S_IMODE(os.stat(tmp_path / SOCKET).st_mode) == 0o600
    assert not (tmp_path / SOCKET).exists()


def test_what_the_run_refuses_is_raised(tmp_path: Path) -> None:
    with (
        answering(tmp_path, lambda command: Answer("not now", error=True)),
        pytest.raises(CommandError, match="^not now$"),
    ):
        RunningFlow(tmp_path).pause()


def test_a_run_that_never_was_and_one_that_was_killed_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no flow runs with this state directory"):
        RunningFlow(tmp_path).pause()
    with pytest.raises(CommandError, match="no flow runs with this state directory"):
        RunningFlow(tmp_path / "nowhere").pause()
    with socket.socket(socket.AF_UNIX) as left_behind, short_path(tmp_path) as path:
        left_behind.bind(str(path))
    with pytest.raises(CommandError, match="the run is over: it was killed"):
        RunningFlow(tmp_path).pause()
    with answering(tmp_path, lambda command: Answer("a new run takes its place")):
        assert "new run" in RunningFlow(tmp_path).pause().said


def test_whoever_waits_when_the_run_ends_is_told(tmp_path: Path) -> None:
    requests = Requests()
    with served(tmp_path, requests, print):
        raised: list[str] = []

        def ask() -> None:
            try:
                RunningFlow(tmp_path).checkpoint()
            except CommandError as error:
                raised.append(str(error))

        asking = threading.Thread(target=ask)
        asking.start()
        while requests._waiting.empty():
            pass
    asking.join()
    assert raised == ["the run ended before it could do that"]
    assert requests.submit(Checkpoint()).future.result().said == "the run is over"


def test_an_answer_that_does_not_come_in_time_is_said_so(tmp_path: Path) -> None:
    requests = Requests()
    with served(tmp_path, requests, print), pytest.raises(CommandError, match=r"did not answer within 0\.05 s"):
        RunningFlow(tmp_path, timeout_s=0.05).pause()


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"nonsense\n", "not a command"),
        (b'{"version": 2, "command": {"do": "fly"}}\n', "version 2 of the control channel"),
        (b'{"version": 1, "command": {"do": "fly"}}\n', "not a command"),
        (b'{"version": 1, "command": {"do": "stop", "drain": "yes"}}\n', r"not a command.*\$\.drain"),
        (b'{"version": 1, "command": {"do": "pause", "for": 3}}\n', "not a command.*unknown field"),
        (b"x" * LINE_BYTES, "no line of less than"),
        (b"", "no line of less than"),
    ],
)
def test_what_is_no_command_is_refused_and_harms_nobody(tmp_path: Path, line: bytes, reason: str) -> None:
    with answering(tmp_path, lambda command: Answer("ok")):
        with pytest.raises(AssertionError, match=reason):
            answer = said(tmp_path, line)
            assert not answer.error, answer.said
        assert RunningFlow(tmp_path).pause().said == "ok"


def test_more_commands_than_can_wait_are_refused() -> None:
    requests = Requests()
    asked = [requests.submit(Checkpoint()) for _ in range(100)]
    refused = [a for a in asked if a.future.done()]
    assert len(refused) == 36 and "wait already" in refused[0].future.result().said


def test_commands_read_as_they_are_documented() -> None:
    assert decode_command(b'{"version": 1, "command": {"do": "checkpoint"}}\n') == Checkpoint()
