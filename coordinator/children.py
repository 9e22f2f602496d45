"""The processes of a run as the supervisor holds them: started anew, told by a pipe, shown, ended and reaped."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Final

from millstream.bootstrap import Bootstrap, NextPlan
from millstream.coordinator.view import View
from millstream.errors import ProcessError
from millstream.marking import unmarked
from millstream.process import write_frame

ENVIRONMENT: Final = {
    "PYTHONUNBUFFERED": "1",
    # glibc gives freed arrays back to the system after every batch, and the page faults of getting them
    # again cost more than the work on them (grouping: 15 ns a row instead of 6). Keep up to 256 MiB.
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    # One process, one core: the workers are the parallelism.
    "OMP_NUM_THREADS": "1",
}
"""What every process of a run is started with."""


class Child:
    """A process of the run, and the thread that shows what it prints.

    Args:
        stdin: a descriptor that it inherits; -1: none.

    Attributes:
        name: which process it is; "spare" until it is told.

    Raises:
        ProcessError: the system has no room for it.
    """

    def __init__(self, module: str, arguments: list[str], view: View, stdin: int = -1) -> None:
        self.name = "spare"
        try:
            self.process, self._pipe = _started(module, arguments, stdin)
        except OSError as error:
            raise ProcessError(f"a process cannot be started: {error.strerror}; see ulimit -n and -u") from error
        self._writer: threading.Thread | None = None
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._show, args=(self.process.stdout, view), daemon=True)
        self._reader.start()

    def begin(self, bootstrap: Bootstrap) -> None:
        """Tell it which process it is."""
        self.name = bootstrap.name
        self._tell(bootstrap)

    def tell_plan(self, plan: NextPlan) -> None:
        """Send the plan with which the run may go on."""
        self._tell(plan)

    def _tell(self, told: Bootstrap | NextPlan) -> None:
        """Write beside the other work: what is told may be larger than the pipe, and the child busy."""
        before = self._writer

        def tell() -> None:
            if before is not None:
                before.join()
            with suppress(BrokenPipeError):  # it is gone already: the supervisor sees that, and says so
                write_frame(self._pipe, pickle.dumps(told))

        self._writer = threading.Thread(target=tell, daemon=True)
        self._writer.start()

    def _show(self, output: IO[bytes], view: View) -> None:
        for line in output:
            view.said(self.name, *unmarked(line.decode(errors="replace").rstrip()))

    def died(self) -> str | None:
        """How it ended, in words; None while it runs or when it ended well."""
        status = self.process.poll()
        if status is None or status == 0:
            return None
        if status < 0:
            name = signal.Signals(-status).name
            hint = "; the system may have run out of memory" if -status == signal.SIGKILL else ""
            return f"{self.name} (process {self.process.pid}) was killed by {name}{hint}"
        return f"{self.name} (process {self.process.pid}) ended with status {status}"

    def end(self, grace_s: float) -> None:
        """Make sure it is gone, and reaped, and its last output shown."""
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(1.0)
        if self._writer is not None:  # one that is spare was told nothing
            self._writer.join(
                1.0
            )  # it meets a broken pipe, but where a process that the user's code forked has the other end
            if self._writer.is_alive():
                return  # were the pipe closed, its number might be somebody else's by the time that this is written
        os.close(self._pipe)


def _started(module: str, arguments: list[str], stdin: int) -> tuple[subprocess.Popen[bytes], int]:
    """A new interpreter, and the pipe by which it is told.

    Raises:
        OSError: there may be no more processes, or open files.
    """
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(read_end)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=[read_end, *([stdin] if stdin >= 0 else [])], start_new_session=True,
            env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
    except OSError:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return process, write_end
