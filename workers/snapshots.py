"""Writing snapshots to disk beside the worker's loop: a thread that touches nothing but columns nobody changes."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import zmq

from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.part import Snapshot, write_snapshot
from millstream.checkpoints.store import CheckpointStore
from millstream.runner import Runner


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
        self._due: queue.SimpleQueue[Snapshot | None] = queue.SimpleQueue()  # one checkpoint is under way at a time
        self._done: queue.SimpleQueue[Written] = queue.SimpleQueue()
        self._poller = poller
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        poller.register(self._wake_read, zmq.POLLIN)
        self._thread = threading.Thread(target=self._serve, name="snapshots", daemon=True)
        self._thread.start()

    def follow(self, runner: Runner, attempt: int) -> None:
        """Another life begins; nothing of the one before is left to be written."""
        self._runner, self._attempt = runner, attempt

    def submit(self, snapshot: Snapshot) -> None:
        self._due.put(snapshot)

    def finished(self) -> Iterator[Written]:
        """What has been written since the last look."""
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while not self._done.empty():
            yield self._done.get()

    def close(self) -> None:
        self._due.put(None)
        self._thread.join()
        self._poller.unregister(self._wake_read)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _serve(self) -> None:
        while (snapshot := self._due.get()) is not None:
            try:
                tables = write_snapshot(snapshot, self._runner, self._store, self._process, self._attempt)
                self._done.put(Written(snapshot, tables, ""))
            except Exception as error:
                self._done.put(Written(snapshot, [], f"{self._process}: {error}"))
            os.write(self._wake_write, b"x")
