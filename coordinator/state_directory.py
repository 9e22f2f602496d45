"""The state directory of a flow: locked against a second run; what is kept there from one run to the next."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from millstream.bootstrap import JOURNALS
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.orphans import await_orphans
from millstream.coordinator.replays import ASKED, REPLAYS
from millstream.deadletters import LETTERS, cut_back
from millstream.errors import ProcessError
from millstream.process import ROLL

COLLECTED: Final = "collected"
"""The folder of the rows that checkpoints count and that the caller collects."""

_ATTEMPT: Final = "attempt"
_ENDED: Final = "ended"
"""The last checkpoint of a run that came to its end."""


class StateDirectory:
    """Made by `locked`, and valid as long as the lock is held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._disk = DirectoryDisk(path)
        self.checkpoints = CheckpointStore(DirectoryDisk(path / "checkpoints"))

    def next_attempt(self) -> int:
        """The number of the next life of the flow; on disk before it is used, so that no two lives share one.

        Raises:
            ProcessError: it cannot be written.
        """
        last = self._number_in(_ATTEMPT)
        try:
            self._disk.write(_ATTEMPT, [str(last + 1).encode()])
        except OSError as error:
            raise ProcessError(
                f"the state directory {self.path} cannot be written: {error.strerror}; mend that, and run the flow again"
            ) from error
        return last + 1

    def start_anew(self, *, keep_journals: bool = False) -> None:
        """Clear what earlier runs left: checkpoints, journals, rows for the caller, dead letters and late events.

        Raises:
            ProcessError: it cannot be done.
        """
        for leftover in ("checkpoints", COLLECTED, LETTERS, REPLAYS, "late", *(() if keep_journals else (JOURNALS,))):
            shutil.rmtree(self.path / leftover, ignore_errors=True)
        self._disk.remove(ASKED)
        if self.checkpoints.epochs():
            raise ProcessError(f"the checkpoints in {self.path} cannot be removed; see who owns them")
        self._disk.remove(_ENDED)  # not before the checkpoints that it speaks of

    def cut_back_letters(self, epoch: int) -> None:
        """Take out dead letters from after a checkpoint, also of those that are to be replayed; with epoch 0 all of them.

        Raises:
            ProcessError: it cannot be done.
        """
        letters = self.path / LETTERS
        try:
            cut_back(letters, epoch)
            cut_back(self.path / REPLAYS, epoch)
        except OSError as error:
            raise ProcessError(
                f"the dead letters in {letters} cannot be written: {error.strerror}; mend that, and run the flow again"
            ) from error

    def note_end(self) -> None:
        """The run has come to its end, all that its newest checkpoint counts is shown: the next one starts anew."""
        with suppress(OSError):  # on a full disk the next run finds out by itself that nothing is left to do
            self._disk.write(_ENDED, [str(self.checkpoints.epochs()[-1]).encode()])

    @property
    def unfinished(self) -> bool:
        """Whether there are checkpoints of a run that did not come to its end."""
        epochs = self.checkpoints.epochs()
        return bool(epochs) and epochs[-1] > self._number_in(_ENDED)

    @property
    def unworked(self) -> bool:
        """Whether an earlier run was lost before its first checkpoint, and its journals hold what it had read."""
        return not self.checkpoints.epochs() and any((self.path / JOURNALS).glob("*/*"))

    def _number_in(self, name: str) -> int:
        try:
            return int(self._disk.read(name).to_pybytes())
        except (OSError, ValueError):
            return 0


@contextmanager
def locked(path: Path) -> Iterator[StateDirectory]:
    """Hold the state directory of a flow.

    Raises:
        ProcessError: another run holds it, or processes of one that was killed; or it cannot be made.
    """
    lock = _opened_lock(path)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise ProcessError(
                f"the flow runs already (process {owner}, state directory {path}); "
                "stop it, or choose another directory with --state"
            ) from None
        with suppress(OSError):  # on a full disk nobody is told who holds the lock, but it is held
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())  # not kept for later: closing would fail, too
        await_orphans(path / ROLL)
        yield StateDirectory(path)


def _opened_lock(path: Path) -> IO[str]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return (path / "lock").open("a+")
    except OSError as error:
        raise ProcessError(
            f"the state directory {path} cannot be used: {error.strerror}; choose another with --state"
        ) from error
