"""Telling a running flow what to do: checkpoint, savepoint, pause, resume, stop, scale; and asking what it holds.

    from millstream.control import RunningFlow

    run = RunningFlow(".millstream/delays")
    saved = run.savepoint(to="/backup/delays")

It is found by its state directory, where the supervisor listens on a socket that only the same user can open; commands.py
says what goes over it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import pyarrow as pa

from millstream.commands import (
    ANSWER_BYTES,
    Answer,
    AskedKey,
    Checkpoint,
    Command,
    Pause,
    Query,
    Replay,
    Resume,
    Savepoint,
    Scale,
    Stop,
    decode_answer,
    encode_command,
)
from millstream.errors import CommandError
from millstream.times import moment_us

Value = str | int | float | bool | datetime | date | Decimal | None
Key = Value | tuple[Value, ...]

SOCKET: Final = "control.sock"
ANSWER_TIMEOUT_S: Final = 600.0


class RunningFlow:
    """A flow that runs now, in whatever process.

    Args:
        state: its state directory, ``.millstream/<flow>``.
        timeout_s: how long to wait for an answer, in seconds.

    Every method waits until what it asks for is done, and raises `CommandError` when there is no such run, it is over,
    it says no, or it does not answer in time.
    """

    def __init__(self, state: str | os.PathLike[str], *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.state = Path(state)
        self.timeout_s = timeout_s

    def checkpoint(self) -> Answer:
        """Make a checkpoint now; the answer has its ``epoch``."""
        return self.ask(Checkpoint())

    def savepoint(self, to: str | os.PathLike[str] | None = None) -> Answer:
        """Make a checkpoint now and copy it whole; the answer has its ``path``.

        Args:
            to: a directory that is not there yet, or empty; None: one below ``savepoints`` in the state directory.
        """
        return self.ask(Savepoint("" if to is None else str(Path(to).absolute())))

    def pause(self) -> Answer:
        """Read nothing more until `resume`; what was read is worked on, and checkpoints are made."""
        return self.ask(Pause())

    def resume(self) -> Answer:
        """Read again."""
        return self.ask(Resume())

    def scale(self, workers: int) -> Answer:
        """Go on with another number of workers, 1 to 256; the answer says how long nothing was read (``seconds``)."""
        if not 1 <= workers <= 256:
            raise CommandError(f"scale({workers}): a run has 1 to 256 workers")
        return self.ask(Scale(workers))

    def query(
        self,
        operator: str,
        keys: Sequence[Key] | None = None,
        *,
        at: datetime | str | None = None,
        most: int = 1_000,
    ) -> pa.Table:
        """What an operator holds now, a row for each key, or for each key and window.

        Args:
            operator: its name, as the page and `millstream explain` show it.
            keys: the keys, 100 at most: a value for each, or a tuple of values where there are several key fields; None: all.
            at: only windows that hold this moment; a naive one is UTC. None: all windows that are open.
            most: how many rows there may be, 100,000 at most.
        Returns:
            Named columns, the key fields among them; without rows where nothing is held of these keys.
        Raises:
            QueryError: ``at`` is no moment.
            CommandError: the run has no answer: there is no such operator, or a key does not fit.
        """
        named: list[AskedKey] | None = None if keys is None else [_plain_key(key) for key in keys]
        answer = self.ask(Query(operator, named, None if at is None else moment_us(at), most))
        return pa.ipc.open_stream(answer.table or b"").read_all()

    def replay(
        self,
        operator: str | None = None,
        *,
        reason: str | None = None,
        letters: Sequence[str] | None = None,
        dry: bool = False,
    ) -> Answer:
        """Give dead letters again to the operators that had refused them; the answer has how many they are (``letters``).

        Args:
            operator: only those of this one, by its name.
            reason: only those with this in their reason.
            letters: only these, by their ids, 100 at most.
            dry: only say how many they would be.
        """
        return self.ask(Replay(operator, reason, None if letters is None else list(letters), dry))

    def stop(self, *, drain: bool = False, savepoint: bool = False, to: str | os.PathLike[str] | None = None) -> Answer:
        """End the run at a last checkpoint, from which it can go on.

        Args:
            drain: let open windows fire and finish the output instead.
            savepoint: make a savepoint of that checkpoint, at ``to``.
        """
        return self.ask(Stop(drain, savepoint or to is not None, "" if to is None else str(Path(to).absolute())))

    def ask(self, command: Command) -> Answer:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self.timeout_s)
            self._connect(connection)
            line = self._exchange(connection, encode_command(command))
        if not line:
            raise CommandError(f"{self.state}: the run ended before it answered")
        answer = decode_answer(line)
        if answer.error:
            raise CommandError(answer.said)
        return answer

    def _connect(self, connection: socket.socket) -> None:
        try:
            with short_path(self.state) as path:
                connection.connect(str(path))
        except (FileNotFoundError, NotADirectoryError):
            raise CommandError(f"{self.state}: no flow runs with this state directory") from None
        except ConnectionRefusedError:
            raise CommandError(
                f"{self.state}: the run is over: it was killed; run the flow again, and it goes on from its checkpoint"
            ) from None
        except OSError as error:
            raise CommandError(f"{self.state}: the run cannot be reached: {error.strerror or error}") from error

    def _exchange(self, connection: socket.socket, request: bytes) -> bytes:
        try:
            connection.sendall(request)
            with connection.makefile("rb") as answers:
                return answers.readline(ANSWER_BYTES)
        except TimeoutError:
            raise CommandError(
                f"{self.state}: the run did not answer within {self.timeout_s:g} s; it may still do what it was asked"
            ) from None
        except OSError:
            return b""


def _plain_key(key: Key) -> AskedKey:
    values = key if isinstance(key, tuple) else (key,)
    return [v if isinstance(v, str | int | float | bool | None) else _text_of(v) for v in values]


def _text_of(value: datetime | date | Decimal) -> str:
    return str(value) if isinstance(value, Decimal) else value.isoformat()


@contextmanager
def short_path(directory: Path) -> Iterator[Path]:
    """The socket's path in few bytes, however long that of its directory: a Unix socket's has 108 at most.

    Raises:
        OSError: there is no such directory.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}/{SOCKET}")
    finally:
        os.close(descriptor)
