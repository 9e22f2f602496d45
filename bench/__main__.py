"""Runs benchmarks: first everyone's answers on a small input are compared, then each contestant is timed.

scripts/bench W1 --against duckdb,flink --json out/w1.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from bench import measure
from bench.contestants import CONTESTANTS, Contestant, contestant
from bench.job import BenchError, Job
from bench.report import Report, Result
from bench.workloads import WORKLOADS, Workload, workload

CHECKED_EVENTS = 50_000
TIMEOUT_S = 1_800.0
CHECK_TIMEOUT_S = 180.0


def check(work: Workload, entrant: Contestant, parallelism: int) -> measure.Run:
    """Run on few events and keep the checksum of the results."""
    work.prepare(CHECKED_EVENTS, entrant.name)
    return measure.run(entrant.command(Job(work.name, CHECKED_EVENTS, parallelism, check=True)), CHECK_TIMEOUT_S)


def timed(entrant: Contestant, job: Job, repeats: int) -> list[measure.Run]:
    if entrant.jobs_in_one_process:
        warm = Job(job.workload, job.events, job.parallelism, repeats=repeats)
        return [measure.run(entrant.command(warm), TIMEOUT_S)]
    return [measure.run(entrant.command(job), TIMEOUT_S) for _ in range(repeats)]


def answer(work: Workload, entrant: Contestant, job: Job, repeats: int, checked: bool, console: Console) -> Result:
    """One contestant's result; one that fails says so in its row and stops nobody else."""
    console.print(
        f"{work.name}: {entrant.name} at {job.parallelism}, {job.events:,} events", style="dim", highlight=False
    )
    try:
        small = check(work, entrant, job.parallelism) if checked else None
        prepared = work.prepare(job.events, entrant.name)
        measure.read_through(prepared if isinstance(prepared, list | tuple) else [prepared])
        runs = timed(entrant, job, repeats) if repeats else []
        result = Result(entrant.name, job, runs, small)
        if work.keys and runs:
            base = (work.few_keys, job.events) if work.few_keys else ("W1", CHECKED_EVENTS)
            few = measure.run(entrant.command(Job(*base, job.parallelism)), TIMEOUT_S)
            result.keys, result.base_rss = work.keys(job.events), few.peak_rss
        return result
    except BenchError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return Result(entrant.name, job, [], failure=str(error))


def compare(results: Sequence[Result]) -> None:
    """Mark who gives the rows that most contestants give; between equals, those of the limit count."""
    checked = [(result, found) for result in results if result.check and (found := result.check.outcome.checksum)]
    if len(checked) < 2:
        return
    sums = [found for _, found in checked]
    limit = [found for result, found in checked if result.contestant == "duckdb"]
    right = max(sums, key=lambda found: (sums.count(found), found in limit))
    for result, found in checked:
        result.agrees = found == right


def entrants_of(work: Workload, against: str, alone: bool) -> list[Contestant]:
    named = list(CONTESTANTS)[1:] if against == "all" else [name for name in against.split(",") if name]
    chosen = [contestant(name) for name in ([] if alone else ["millstream"]) + named]
    return [entrant for entrant in chosen if entrant.name in work.events]


def print_list(console: Console) -> None:
    for work in WORKLOADS.values():
        console.print(f"[bold]{work.name:4}[/bold] {work.question}", highlight=False)
        console.print("     " + ", ".join(f"{name} {events:,}" for name, events in work.events.items()), style="dim")
    for entrant in CONTESTANTS.values():
        console.print(f"{entrant.name:11}{entrant.what}", highlight=False)


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[WORKLOAD]...")
@click.option("--list", "listing", is_flag=True, help="Say what workloads and contestants there are.")
@click.option("--against", default="", metavar="NAMES", help="Peers to run beside Millstream, or 'all'.")
@click.option("--without-millstream", is_flag=True, help="Run the peers alone.")
@click.option("--parallelism", default="1", show_default=True, metavar="N[,N]", help="Workers, threads or subtasks.")
@click.option("--repeat", default=3, show_default=True, help="Timed runs; 0 compares answers only.")
@click.option("--events", type=int, help="Events of a timed run, instead of each contestant's own number.")
@click.option(
    "--check/--no-check", default=True, show_default=True, help=f"Compare the answers on {CHECKED_EVENTS:,} events."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the results to this file.")
def main(
    names: tuple[str, ...], listing: bool, against: str, without_millstream: bool, parallelism: str, repeat: int,
    events: int | None, check: bool, json_path: Path | None,
) -> None:  # fmt: skip
    console = Console(width=None if Console().is_terminal else 160)
    if listing or not names:
        print_list(console)
        return
    reports = []
    try:
        for work in [workload(name) for name in names]:
            about, results = measure.machine(), []
            for entrant in entrants_of(work, against, without_millstream):
                for workers in map(int, parallelism.split(",")):
                    job = Job(work.name, events or work.events_for(entrant.name), workers)
                    results.append(answer(work, entrant, job, repeat, check, console))
            compare(results)
            reports.append(Report(work, results, about))
            reports[-1].print(console)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    finally:
        if json_path and reports:
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.write_text(json.dumps([report.as_json() for report in reports], indent=2) + "\n")


if __name__ == "__main__":
    main()
