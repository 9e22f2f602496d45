"""Writing snapshots to disk beside the worker's loop, in a thread.

It touches columns that nobody changes, and state in Python through `millstream.state.frozen` alone. While it encodes that, it holds
Python's interpreter lock for two milliseconds, and then leaves it alone for one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

import zmq

from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.part import Snapshot, write_snapshot
from millstream.checkpoints.store import CheckpointStore
from millstream.runner import Runner
from millstream.state_codec import StateError
from millstream.waker import Waker

_AT_ONCE_S: Final = 0.002
"""For so long the loop may wait for the interpreter."""
_LONGEST_S: Final = 0.02


class Written(NamedTuple):
    """A snapshot that is on disk; or, with a failure, is not."""

    snapshot: Snapshot
    tables: list[TableFile]
    failure: str


class SnapshotWriter:
    """Args:
    poller: wakes the loop that waits on it when a snapshot has been written.
    """

    def __init__(self, runner: Runner, store: CheckpointStore, process: str, attempt: int, poller: zmq.Poller) -> None:
        self._runner, self._store, self._process, self._attempt = runner, store, process, attempt
        self._due: queue.SimpleQueue[Snapshot | None] = queue.SimpleQueue()  # one at most, see `submit`
        self._done: queue.SimpleQueue[Written | StateError] = queue.SimpleQueue()
        self._waker = Waker(poller)
        self._thread = threading.Thread(target=self._serve, name="snapshots", daemon=True)
        self._thread.start()

    def follow(self, runner: Runner, attempt: int) -> None:
        """Another life begins; nothing of the one before is left to be written."""
        self._runner, self._attempt = runner, attempt

    def submit(self, snapshot: Snapshot) -> None:
        """Have a snapshot written. One that waits still is of a checkpoint that was given up: there would be no later one."""
        with suppress(queue.Empty):
            self._due.get_nowait()
        self._due.put(snapshot)

    def finished(self) -> Iterator[Written]:
        """What has been written since the last look.

        Raises:
            StateError: a state cannot be kept, which no other checkpoint will change.
        """
        self._waker.woken()
        while not self._done.empty():
            done = self._done.get()
            if isinstance(done, StateError):
                raise done
            yield done

    def close(self) -> None:
        self._due.put(None)
        self._thread.join()
        self._waker.close()

    def _serve(self) -> None:
        while (snapshot := self._due.get()) is not None:
            self._done.put(self._written(snapshot))
            del snapshot  # or what is in it stays in memory until the next one comes
            self._waker.wake()

    def _written(self, snapshot: Snapshot) -> Written | StateError:
        try:
            pause = _Turns().pause
            tables = write_snapshot(snapshot, self._runner, self._store, self._process, self._attempt, pause)
            return Written(snapshot, tables, "")
        except StateError as error:
            return error
        except Exception as error:
            return Written(snapshot, [], f"{self._process}: {error}")


class _Turns:
    """Takes the interpreter for a moment, and then leaves it to others for half as long."""

    def __init__(self) -> None:
        self._since_s = time.perf_counter()

    def pause(self) -> None:
        took_s = time.perf_counter() - self._since_s
        if took_s >= _AT_ONCE_S:
            time.sleep(min(took_s, _LONGEST_S) / 2)  # writing to disk has taken longer, and kept nobody waiting
            self._since_s = time.perf_counter()
