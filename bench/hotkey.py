"""What does a key that carries half of all events do to the workers, with and without grouping before the exchange?

    scripts/bench hotkey --workers 1,2

Count, sum, mean and max of each key in tumbling windows of 10 s (or running), from a file of JSON lines that the workers
decode. ``hot`` has one key in half of its events; in ``uuid`` nearly every key is new, so that grouping has
nothing to give and should cost nothing. Both ways of each run follow one another. On a machine that does other work
as well compare CPU seconds, not events/s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

import millstream as ms
from bench import data, measure
from bench.processes import Watch
from millstream.connectors import NullSink
from millstream.coordinator import launch
from millstream.planner import make_plan
from millstream.two_phase import TwoPhase

EVERY_S = 0.05
IDLE_S = 0.02
MODES: tuple[TwoPhase, ...] = ("never", "auto")


class Cpu(Watch):
    """The CPU seconds of each process of a run."""

    def __init__(self) -> None:
        super().__init__(EVERY_S)
        self._samples: dict[str, list[tuple[float, float]]] = {}

    def look(self, name: str, process: psutil.Process) -> None:
        used = process.cpu_times()
        self._samples.setdefault(name, []).append((time.monotonic(), used.user + used.system))

    def last(self, seconds: float) -> dict[str, float]:
        """What each process used in the last so many seconds in which it did anything: it may linger at the end."""
        found = {}
        for name, samples in sorted(self._samples.items()):
            at, used = np.array(samples).T
            done = at[np.argmax(used >= used[-1] - IDLE_S)]
            found[name] = float(used[-1] - np.interp(done - seconds, at, used))
        return found


@dataclass(frozen=True)
class Measured:
    """One run; CPU seconds by process."""

    stream: str
    workers: int
    two_phase: str
    events: int
    seconds: float
    cpu_s: dict[str, float]
    rows: int

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    @property
    def of_workers(self) -> list[float]:
        return [used for name, used in self.cpu_s.items() if name.startswith("worker")]


@contextmanager
def planned(mode: TwoPhase) -> Iterator[None]:
    with patch.object(launch, "make_plan", partial(make_plan, two_phase=mode)):
        yield


def measured(stream: str, events: int, workers: int, mode: TwoPhase, *, running: bool) -> Measured:
    flow = ms.Flow("hotkey")
    keyed = (
        flow.read_jsonl(data.json_file(stream, events)).event_time("ts", unit="ms", out_of_orderness="2s").key_by("key")
    )
    asked = {"count": ms.count(), "total": ms.sum("value"), "mean": ms.mean("value"), "top": ms.max("value")}
    results = keyed.agg(**asked) if running else keyed.window(ms.tumbling("10s")).agg(**asked)
    results.sink(NullSink())
    with planned(mode), Cpu() as cpu, TemporaryDirectory() as state:
        result = flow.run(workers=workers, ingest="workers", state=state)
    return Measured(stream, workers, mode, result.events_in, result.seconds, cpu.last(result.seconds), result.rows_out)


def shown(runs: list[Measured]) -> Table:
    table = Table(title="CPU seconds for a million events")
    for heading in ("stream", "workers", "grouped first", "events/s", "coordinator", "each worker", "busiest", "all"):
        table.add_column(heading, justify="left" if heading in ("stream", "each worker") else "right")
    for run in runs:
        millions, used = run.events / 1e6, run.of_workers
        table.add_row(
            run.stream, str(run.workers), run.two_phase, f"{run.events_per_s:,.0f}",
            f"{run.cpu_s.get('coordinator', 0.0) / millions:.2f}",
            ", ".join(f"{u / millions:.2f} ({u / run.seconds:.0%} busy)" for u in used),
            f"{max(used) / millions:.2f}", f"{sum(run.cpu_s.values()) / millions:.2f}",
        )  # fmt: skip
    return table


@click.command(help=__doc__)
@click.option("--events", default=4_000_000, show_default=True, help="Events of each run.")
@click.option("--workers", default="1,2", show_default=True, metavar="N[,N]")
@click.option("--streams", default="hot,uuid", show_default=True, metavar="NAME[,NAME]")
@click.option("--running", is_flag=True, help="Running aggregates instead of windows.")
@click.option("--repeat", default=1, show_default=True, help="Runs of each; the one that cost least is shown.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the results to this file.")
def main(events: int, workers: str, streams: str, running: bool, repeat: int, json_path: Path | None) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    machine, runs = measure.machine(), list[Measured]()
    for stream in streams.split(","):
        data.json_file(stream, events)
        for count in map(int, workers.split(",")):
            tries = [[measured(stream, events, count, mode, running=running) for mode in MODES] for _ in range(repeat)]
            runs += [min(of_mode, key=lambda run: sum(run.cpu_s.values())) for of_mode in zip(*tries, strict=True)]
    console.print(shown(runs))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps({"machine": machine, "runs": [asdict(r) for r in runs]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
