"""Real runs in real processes: started as a user starts them, and hurt."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from harness.roles import role_of

_DEADLINE_S = 30.0


@dataclass
class Run:
    """A ``millstream run`` of a flow file, under way.

    Attributes:
        roles: the coordinator, the workers and others by name.
    """

    process: subprocess.Popen[str]
    directory: Path

    @property
    def roles(self) -> dict[str, psutil.Process]:
        found: dict[str, psutil.Process] = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                role = role_of(child)
            except psutil.Error:
                continue
            if role is not None:
                found[role] = child
        return found

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + _DEADLINE_S
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"the run ended while waiting for {what}:\n{self.process.communicate()}")
            assert time.monotonic() < deadline_s, f"timed out waiting for {what}"
            time.sleep(0.02)

    def wait_until_working(self, workers: int) -> None:
        """Until rows have come out: every process is up, and in the middle of its work."""
        out = self.directory / "out.jsonl"
        self.wait_for(lambda: len(self.roles) > workers and out.exists() and out.stat().st_size > 0, "output")

    def finish(self, timeout_s: float = _DEADLINE_S) -> tuple[int, str, str]:
        output, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, output, errors

    def survivors(self) -> list[psutil.Process]:
        """The processes of the run that are still there, also orphans; a dying one is given a moment."""
        deadline_s = time.monotonic() + 5
        while True:
            left = [process for process in psutil.process_iter() if self._is_ours(process)]
            if not left or time.monotonic() > deadline_s:
                return left
            time.sleep(0.05)

    def _is_ours(self, process: psutil.Process) -> bool:
        """What every process of the run has from the one that started it."""
        try:
            return process.environ().get("TMPDIR") == str(self.directory / "sockets")
        except psutil.Error:  # it is gone, or somebody else's
            return False


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a flow file under ``millstream run``; whatever is left of it at the end is killed."""
    runs: list[Run] = []

    def begin(source: str, *arguments: str, name: str = "flow.py", stdin: int = subprocess.DEVNULL) -> Run:
        (tmp_path / name).write_text(source)
        (tmp_path / "sockets").mkdir(exist_ok=True)
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "millstream"), "run", name, "--plain", *arguments],
            cwd=tmp_path, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "sockets")},
        )  # fmt: skip
        runs.append(Run(process, tmp_path))
        return runs[-1]

    yield begin
    for run in runs:
        for child in run.roles.values() if run.process.poll() is None else ():
            child.kill()
        run.process.kill()
        run.process.wait()
