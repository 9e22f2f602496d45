"""What a contestant's process is asked and what it answers: arguments in, one line of JSON out.

Every contestant (Millstream, a peer, a limit) is a module that maps workload names to functions and hands them to
`serve`. Standard library only: it runs in the peers' environment as well as in Millstream's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.checksum import Checksum

FIXED_EVENTS = 1_000
"""So few events that a job over them takes what any job takes."""


class BenchError(Exception):
    """A benchmark cannot be run: a missing tool, a contestant that failed, an unknown name."""


@dataclass(frozen=True, slots=True)
class Job:
    """One workload to be run by one contestant."""

    workload: str
    events: int
    parallelism: int
    check: bool = False
    """Keep the result rows and report their checksum; such a run is not timed."""
    repeats: int = 1
    """Timed runs in this process; only contestants that must warm up run more than one."""

    def arguments(self) -> list[str]:
        numbers = ["--events", str(self.events), "--parallelism", str(self.parallelism), "--repeats", str(self.repeats)]
        return [self.workload, *numbers, *(["--check"] if self.check else [])]


@dataclass(frozen=True, slots=True)
class Span:
    """When a timed run began and ended, by the system's monotonic clock, which all processes share."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(slots=True)
class Outcome:
    """What a contestant says about its runs."""

    rows: int | None
    """Result rows; None where the contestant's null sink does not say."""
    spans: list[Span] = field(default_factory=list)
    checksum: str | None = None
    fixed_s: float = 0.0
    """What a job over `FIXED_EVENTS` takes, which is taken off: nothing where it was not measured."""
    note: str = ""

    @classmethod
    def of_checksum(cls, checksum: Checksum) -> Outcome:
        return cls(rows=checksum.rows, checksum=checksum.value)

    @classmethod
    def from_json(cls, line: str) -> Outcome:
        known: dict[str, Any] = json.loads(line)
        spans = [Span(**span) for span in known.pop("spans")]
        return cls(spans=spans, **{name: known[name] for name in ("rows", "checksum", "fixed_s", "note")})

    def to_json(self, job: Job) -> str:
        timed = {"seconds": median(s.seconds for s in self.spans) - self.fixed_s} if self.spans else {}
        return json.dumps({"workload": job.workload, "events": job.events, **timed, **asdict(self)})


class Stopwatch:
    """Collects the spans of timed runs."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.spans.append(Span(began, time.monotonic()))


def serve(runners: Mapping[str, Callable[[Job], Outcome]]) -> None:
    """Run the job that the command line names and print its outcome as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=sorted(runners))
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    job = Job(**vars(parser.parse_args()))
    outcome = runners[job.workload](job)
    sys.stdout.flush()
    print(outcome.to_json(job), flush=True)
