"""The supervisor's end of the control channel: a socket in the state directory, by which commands come.

Only the same user can open it. One connection carries one line there and one line back (commands.py). The web page,
which lives in the supervisor, uses the same `Requests` without a socket.
"""

from __future__ import annotations

import os
import queue
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from millstream.commands import LINE_BYTES, Answer, Command, decode_command, encode_answer
from millstream.control import SOCKET, short_path
from millstream.errors import CommandError

_LINE_TIMEOUT_S: Final = 5.0
_WAITING: Final = 64


@dataclass(frozen=True)
class Request:
    """A command that waits for its answer. Whoever takes it answers it, once."""

    command: Command
    future: Future[Answer] = field(default_factory=Future)

    def answer(self, answer: Answer) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def refuse(self, sentence: str) -> None:
        self.answer(Answer(sentence, error=True))


class Requests:
    """The commands that came and were not looked at yet. Any thread may submit; the supervisor takes."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Request] = queue.Queue(_WAITING)
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, command: Command) -> Request:
        """Hand a command to the run; its answer comes by ``future``."""
        request = Request(command)
        with self._lock:
            if self._closed:
                request.refuse("the run is over")
                return request
            try:
                self._waiting.put_nowait(request)
            except queue.Full:
                request.refuse(f"{_WAITING} commands wait already; the run does not get round to them")
        return request

    def take(self) -> Iterator[Request]:
        while True:
            try:
                yield self._waiting.get_nowait()
            except queue.Empty:
                return

    def close(self) -> None:
        """The run is over: whoever still waits is told."""
        with self._lock:
            self._closed = True
        for request in self.take():
            request.refuse("the run ended before it could do that")


class _Handler(socketserver.StreamRequestHandler):
    timeout = _LINE_TIMEOUT_S
    server: _Server

    def handle(self) -> None:
        try:
            line = self.rfile.readline(LINE_BYTES)
            if not line.endswith(b"\n"):
                raise CommandError(f"not a command: no line of less than {LINE_BYTES:,} bytes")
            answer = self.server.requests.submit(decode_command(line)).future.result()
        except TimeoutError:
            return
        except CommandError as error:
            answer = Answer(str(error), error=True)
        with suppress(OSError):  # who asked may have gone
            self.wfile.write(encode_answer(answer))


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = False  # at the end everyone gets an answer, and is waited for

    def __init__(self, directory: Path, requests: Requests) -> None:
        self.directory = directory
        self.requests = requests
        super().__init__(SOCKET, _Handler)

    def server_bind(self) -> None:
        os.fchmod(self.fileno(), 0o600)  # before it has a name, so that nobody else ever can open it
        with short_path(self.directory) as path:
            path.unlink(missing_ok=True)  # of a run that was killed: the lock on the directory is ours
            self.socket.bind(str(path))

    def verify_request(self, request: Any, client_address: Any) -> bool:
        _, user, _ = struct.unpack("3i", request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return user in (0, os.geteuid())

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None  # a peer that broke off is no affair of the run's


@contextmanager
def served(directory: Path, requests: Requests, say: Callable[[str], None]) -> Iterator[None]:
    """Listen in a state directory, whose lock is held, for as long as the run goes on.

    Args:
        say: is told when that is not possible; the run goes on without.
    """
    try:
        server = _Server(directory, requests)
    except OSError as error:
        say(f"the run takes no commands: {directory / SOCKET} cannot be made: {error.strerror or error}")
        yield
        return
    threading.Thread(target=server.serve_forever, args=(0.1,), name="control", daemon=True).start()
    try:
        yield
    finally:
        requests.close()
        server.shutdown()
        with suppress(OSError):
            (directory / SOCKET).unlink()
        server.server_close()
