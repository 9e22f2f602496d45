"""What does a run cost? Runs a contestant's process and samples its whole tree: CPU seconds and resident memory.

The contestant says when its timed spans began and ended, by the system-wide monotonic clock; the samples between
those moments are the span's cost. So loading and start-up before the clock starts are not charged, and no
contestant has to measure itself.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.job import BenchError, Outcome, Span

SAMPLE_S = 0.1
ROOT = Path(__file__).parent.parent
MEGABYTE = 1_000_000


class TreeSampler(threading.Thread):
    """Samples a process and its descendants until it is stopped or they are gone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._stopped = threading.Event()
        self._cpu: dict[tuple[int, float], float] = {}  # by pid and start: a process that ended keeps what it used
        self.times: list[float] = []
        self.cpu_s: list[float] = []
        self.rss: list[int] = []

    def run(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            self._sample()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _sample(self) -> None:
        rss = 0
        try:
            tree = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in tree:
            try:
                with process.oneshot():
                    used = process.cpu_times()
                    self._cpu[process.pid, process.create_time()] = used.user + used.system
                    rss += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self.times.append(time.monotonic())
        self.cpu_s.append(sum(self._cpu.values()))
        self.rss.append(rss)

    def cores(self, spans: Sequence[Span]) -> float:
        """CPU seconds a second during the spans."""
        cpu_s = wall_s = 0.0
        for span in spans:
            # A process may be gone before the sample after its span: then what is sampled counts, over its time.
            began, ended = max(span.began, self.times[0]), min(span.ended, self.times[-1])
            at = np.interp([began, ended], self.times, self.cpu_s)
            cpu_s += float(at[1] - at[0])
            wall_s += ended - began
        return cpu_s / wall_s if wall_s > 0 else 0.0

    def peak_rss(self, spans: Sequence[Span]) -> int:
        """The most memory the processes held together during the spans; pages they share count for each."""
        within = [
            rss
            for at, rss in zip(self.times, self.rss, strict=True)
            if any(span.began <= at <= span.ended + SAMPLE_S for span in spans)
        ]
        return max(within, default=max(self.rss, default=0))


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant's process, as seen from outside."""

    outcome: Outcome
    startup_s: float
    """From the start of the process to the first timed span."""
    cores: float
    peak_rss: int


def run(command: Sequence[str], timeout_s: float) -> Run:
    """Run a contestant to its end.

    Raises:
        BenchError: it failed, hung, or printed no outcome.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=ROOT, start_new_session=True)
        sampler = TreeSampler(process.pid)
        sampler.start()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{' '.join(command)}: not done after {timeout_s:g} s") from error
        finally:
            sampler.stop()
            _end(process)
        lines, complaints = _text(stdout).splitlines(), _text(stderr)
    if process.returncode or not lines or not lines[-1].startswith("{"):
        raise BenchError(f"{' '.join(command)}: exit code {process.returncode}\n{complaints[-2000:]}")
    outcome = Outcome.from_json(lines[-1])
    if not outcome.spans or not sampler.times:
        return Run(outcome, 0.0, 0.0, sampler.peak_rss([]))
    startup_s = outcome.spans[0].began - started
    return Run(outcome, startup_s, sampler.cores(outcome.spans), sampler.peak_rss(outcome.spans))


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind of a contestant that did not come to its end."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of some repeats."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(float(np.median(values)), min(values), max(values))


def read_through(paths: Iterable[object]) -> None:
    """Read files once: whether the system still had them in memory is not the question, and differs by luck."""
    for path in paths:
        if isinstance(path, str | Path) and Path(path).is_file():
            with Path(path).open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def machine() -> dict[str, Any]:
    """What the figures were measured on; the load says whether anything else was running."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "load_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit of this checkout, marked where files differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return f"{head}{'+' if _git('status', '--porcelain') else ''}" if head else "none"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
