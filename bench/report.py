"""A benchmark's result, as a table to read and as JSON to keep.

The JSON has every timed run, so a spread can be computed anew; the table shows medians with least and most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import measure
from bench.job import Job
from bench.measure import MEGABYTE, Run, Spread
from bench.workloads import Workload

SHORT_S = 10.0
"""A timed run below this is marked: it may not be steady."""

BUSY_LOAD = 0.5
"""A load average above this before the first run means that something else was running."""


@dataclass(slots=True)
class Result:
    """One contestant's answer to one workload."""

    contestant: str
    job: Job
    runs: list[Run]
    check: Run | None = None
    agrees: bool | None = None
    keys: int | None = None
    base_rss: int = 0
    """Resident bytes of a run over hardly any keys, where memory per key is asked."""
    failure: str = ""
    seconds: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.seconds = [s.seconds - run.outcome.fixed_s for run in self.runs for s in run.outcome.spans]

    @property
    def rate(self) -> Spread:
        return Spread.of([self.job.events / seconds for seconds in self.seconds])

    @property
    def cores(self) -> float:
        return Spread.of([run.cores for run in self.runs]).median

    @property
    def peak_rss(self) -> int:
        return max(run.peak_rss for run in self.runs)

    @property
    def bytes_per_key(self) -> float | None:
        return (self.peak_rss - self.base_rss) / self.keys if self.keys else None

    def as_json(self) -> dict[str, Any]:
        checked = self.check.outcome if self.check else None
        known: dict[str, Any] = {
            "contestant": self.contestant,
            "parallelism": self.job.parallelism,
            "events": self.job.events,
            "checked": {"rows": checked.rows, "checksum": checked.checksum, "agrees": self.agrees} if checked else None,
        }
        if self.failure:
            known["failure"] = self.failure
        if self.runs:
            known |= {
                "rows": self.runs[-1].outcome.rows,
                "seconds": {**asdict(Spread.of(self.seconds)), "runs": self.seconds},
                "events_per_s": asdict(self.rate),
                "cores": self.cores,
                "events_per_core_s": self.rate.median / self.cores if self.cores else None,
                "peak_rss_bytes": self.peak_rss,
                "startup_s": Spread.of([run.startup_s for run in self.runs]).median,
                "fixed_s": self.runs[-1].outcome.fixed_s,
                "note": self.runs[-1].outcome.note,
            }
        if self.runs and self.keys:
            known |= {"keys": self.keys, "base_rss_bytes": self.base_rss, "bytes_per_key": self.bytes_per_key}
        return known


@dataclass(frozen=True, slots=True)
class Report:
    """What one invocation found for one workload."""

    workload: Workload
    results: Sequence[Result]
    machine: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "workload": self.workload.name,
            "question": self.workload.question,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": measure.commit(),
            "machine": self.machine,
            "results": [result.as_json() for result in self.results],
        }

    def print(self, console: Console) -> None:
        console.print(f"\n[bold]{self.workload.name}[/bold]  {self.workload.question}")
        with_keys = any(result.keys for result in self.results)
        table = Table("contestant", "par.", "events", "events/s", "least - most", "cores", "events/s/core")
        for title in ("RSS MB", *(["bytes/key"] if with_keys else []), "start s", "rows", "checked"):
            table.add_column(title)
        for column in table.columns[1:]:
            column.justify = "right"
        for result in self.results:
            table.add_row(*_cells(result, with_keys))
        console.print(table)
        for result in self.results:
            for remark in _remarks(result):
                console.print(
                    f"  {result.contestant} at {result.job.parallelism}: {remark}", highlight=False, markup=False
                )
        about = self.machine
        console.print(
            f"  {about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, load before {about['load_before']}; "
            f"commit {measure.commit()}; medians over the timed runs",
            highlight=False,
        )
        if about["load_before"] > BUSY_LOAD:
            console.print("  the machine was busy before: compare events/s/core rather than events/s", style="yellow")


def _cells(result: Result, with_keys: bool) -> list[str]:
    start = [result.contestant, str(result.job.parallelism), f"{result.job.events:,}"]
    checked = (result.check.outcome.checksum or "") if result.check else ""
    checked += {True: " =", False: " ≠", None: ""}[result.agrees]
    if not result.runs:
        return [*start, "failed" if result.failure else "", *[""] * (6 if with_keys else 5), "", checked]
    rate, cores = result.rate, result.cores
    return [
        *start,
        f"{rate.median:,.0f}",
        f"{rate.min:,.0f} - {rate.max:,.0f}",
        f"{cores:.2f}",
        f"{rate.median / cores:,.0f}" if cores else "",
        f"{result.peak_rss / MEGABYTE:,.0f}",
        *([f"{result.bytes_per_key:,.0f}" if result.bytes_per_key is not None else ""] if with_keys else []),
        f"{Spread.of([run.startup_s for run in result.runs]).median:.1f}",
        "" if (rows := result.runs[-1].outcome.rows) is None else f"{rows:,}",
        checked,
    ]


def _remarks(result: Result) -> list[str]:
    remarks = [f"failed: {result.failure.splitlines()[-1]}"] if result.failure else []
    if result.agrees is False and result.check:
        remarks += [f"its answer differs: {result.check.outcome.rows:,} rows on the small input"]
    if result.runs:
        outcome, shortest = result.runs[-1].outcome, min(result.seconds)
        remarks += [outcome.note] if outcome.note else []
        remarks += [f"{outcome.fixed_s:.2f} s of fixed cost a job taken off"] if outcome.fixed_s else []
        remarks += [f"short: a run took {shortest:.1f} s"] if shortest < SHORT_S else []
    return remarks
