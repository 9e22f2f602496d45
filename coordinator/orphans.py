"""Nobody of an earlier run may write any more when a new one begins.

A supervisor that is killed cannot end its children. They end by themselves when the pipe from it closes; but one
that is stopped, or busy, may do so late, with rows on its way into a file that the next run has cut back by then. So
every child holds a shared lock on one file for as long as it lives (`millstream.process.exit_with_parent`), and who
follows waits until it can have that lock alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import psutil

from millstream.errors import ProcessError

_PATIENCE_S: Final = 2.0
_AFTER_KILL_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.02


def await_orphans(roll: Path) -> None:
    """Wait until no process of an earlier run is left; those that do not end are killed.

    Raises:
        ProcessError: one cannot be ended.
    """
    with roll.open("a+") as file:
        if not _alone(file, _PATIENCE_S):
            file.seek(0)
            for orphan in _orphans(file.read().split()):
                with suppress(psutil.Error):
                    orphan.kill()
            if not _alone(file, _AFTER_KILL_S):
                raise ProcessError(
                    f"processes of an earlier run are still there, and hold {roll}; end them, and try again"
                )
        file.truncate(0)


def _alone(file: IO[str], patience_s: float) -> bool:
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_LOOK_AGAIN_S)  # a lock cannot be waited for with a limit
        else:
            return True


def _orphans(numbers: list[str]) -> Iterator[psutil.Process]:
    """Those on the roll that are what it says: a number may have gone to a stranger since."""
    for number in numbers:
        with suppress(psutil.Error, ValueError):
            process = psutil.Process(int(number))
            if process.pid != os.getpid() and any(part.startswith("millstream.") for part in process.cmdline()):
                yield process
