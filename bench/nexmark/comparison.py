"""How fast the queries run on Millstream, beside Flink SQL and beside decoding alone: one table for all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import measure
from bench.contestants import Contestant, own_python, peers_python
from bench.job import BenchError, Job
from bench.nexmark.data import event_file
from bench.nexmark.queries import ROW_BY_ROW
from bench.report import Result

TIMEOUT_S: Final = 900.0
NOT_ON_FLINK: Final = ("q6",)

MILLSTREAM = Contestant("millstream", "this checkout", "bench.nexmark.measured", own_python)
FLINK = Contestant("flink", "Apache Flink SQL, in a warm JVM", "bench.nexmark.flink_sql", peers_python, True)
DECODING = Contestant("decoding", "our JSON decoder alone", "bench.nexmark.decoding", own_python, True)


@dataclass(frozen=True, slots=True)
class Row:
    """One query at one parallelism; None: not asked, or it does not run there."""

    query: str
    parallelism: int
    millstream: Result
    flink: Result | None
    decoding: Result | None

    def over(self, other: Result | None) -> float | None:
        """Millstream's events/s as a multiple of another's."""
        if other is None or not other.runs or not self.millstream.runs:
            return None
        return self.millstream.rate.median / other.rate.median

    def over_per_core(self, other: Result | None) -> float | None:
        """The same for events per second of CPU: what a machine that does other work as well changes less."""
        ratio = self.over(other)
        return None if ratio is None or other is None else ratio * other.cores / self.millstream.cores

    def as_json(self) -> dict[str, Any]:
        results = [result for result in (self.millstream, self.flink, self.decoding) if result]
        return {
            "query": self.query,
            "over_flink": self.over(self.flink),
            "over_flink_per_core": self.over_per_core(self.flink),
            "of_decoding": self.over(self.decoding),
            "results": [result.as_json() for result in results],
        }


def compare(
    queries: Sequence[str], events: int, parallelism: Sequence[int], repeats: int, with_flink: bool, path: Path | None
) -> None:
    """Measure the queries one after the other and print the table; each one's figures are kept as they come."""
    console, about, rows = Console(width=None if Console().is_terminal else 130), measure.machine(), []
    for query in queries:
        for workers in parallelism:
            job = Job(query, events, workers, repeats=repeats)
            event_file(events, workers)
            rows.append(
                Row(
                    query,
                    workers,
                    _result(MILLSTREAM, job, console),
                    _result(FLINK, job, console) if with_flink and query not in NOT_ON_FLINK else None,
                    _result(DECODING, job, console) if query in ROW_BY_ROW else None,
                )
            )
            console.print(_sentence(rows[-1]), highlight=False)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(_as_json(rows, about), indent=2) + "\n")
    for workers in parallelism:
        console.print(_table([row for row in rows if row.parallelism == workers], workers, events))
    console.print(f"  {about['cpu']}, {about['cores']} cores, load before {about['load_before']}", highlight=False)


def _result(contestant: Contestant, job: Job, console: Console) -> Result:
    """What a contestant needs for a query; one that fails says so and stops nobody else."""
    console.print(f"{job.workload}: {contestant.name} at {job.parallelism}", style="dim", highlight=False)
    try:
        once = contestant.jobs_in_one_process
        commands = [contestant.command(job)] * (1 if once else job.repeats)
        return Result(contestant.name, job, [measure.run(command, TIMEOUT_S) for command in commands])
    except BenchError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return Result(contestant.name, job, [], failure=str(error))


def _sentence(row: Row) -> str:
    """What is known of a query as soon as it was measured: all of them take half an hour."""
    ratios = ((row.over(row.flink), "times Flink"), (row.over(row.decoding), "of decoding"))
    said = [f"{ratio:.2f} {what}" for ratio, what in ratios if ratio is not None]
    rate = f"{row.millstream.rate.median:,.0f} events/s" if row.millstream.runs else "failed"
    return f"{row.query} at {row.parallelism}: {', '.join([rate, *said])}"


def _table(rows: Sequence[Row], workers: int, events: int) -> Table:
    table = Table(title=f"Nexmark, {events:,} events, parallelism {workers}", title_justify="left")
    titles = (
        "query", "millstream ev/s", "cores", "RSS MB", "flink ev/s", "cores", "x flink", "per core", "of decoding", "rows",
    )  # fmt: skip
    for title in titles:
        table.add_column(title, justify="left" if title == "query" else "right")
    for row in rows:
        table.add_row(row.query, *_figures(row.millstream), *_figures(row.flink)[:2], *_ratios(row))
    ratios = ([row.over(row.flink), row.over_per_core(row.flink), row.over(row.decoding)] for row in rows)
    known = [[ratio for ratio in column if ratio is not None] for column in zip(*ratios, strict=True)]
    table.add_section()
    table.add_row(
        "median", *[""] * 5, *(f"{median(column):.2f}" if column else "" for column in known), "", style="bold"
    )
    return table


def _figures(result: Result | None) -> list[str]:
    if result is None or not result.runs:
        return ["failed" if result else "", "", ""]
    return [f"{result.rate.median:,.0f}", f"{result.cores:.2f}", f"{result.peak_rss / measure.MEGABYTE:,.0f}"]


def _ratios(row: Row) -> list[str]:
    rows = row.millstream.runs[-1].outcome.rows if row.millstream.runs else None
    found = (row.over(row.flink), row.over_per_core(row.flink), row.over(row.decoding))
    ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in found]
    return [*ratios, "" if rows is None else f"{rows:,}"]


def _as_json(rows: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": measure.commit(),
        "machine": about,
        "queries": [row.as_json() for row in rows],
    }
