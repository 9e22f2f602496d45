"""Does a sink 20 times slower than its source cost memory? The largest growth of any process, and the lag shown.

    scripts/bench backpressure --seconds 60 --json out/backpressure.json

A generator makes events as fast as they are taken; a sink in the workers takes a twentieth of what the
same flow moves with a sink that does nothing. Every process is measured every 0.2 s; its idle size is the
one it has when it has started and moved its first events. At the end the run is drained: nothing may be lost.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

import millstream as ms
from bench import measure
from bench.processes import Watch
from millstream.connectors import Counter

SLOWER = 20
IDLE_S = 3.0
EVERY_S = 0.2


@dataclass(frozen=True)
class Growth:
    """One process: megabytes when idle, and at the most."""

    process: str
    idle_mb: float
    peak_mb: float

    @property
    def grown_mb(self) -> float:
        return self.peak_mb - self.idle_mb


class Memory(Watch):
    """How large each process of a run is when idle, and at the most."""

    def __init__(self) -> None:
        super().__init__(EVERY_S)
        self._began_s = time.monotonic()
        self._idle: dict[str, float] = {}
        self._peak: dict[str, float] = {}

    def look(self, name: str, process: psutil.Process) -> None:
        rss_mb = process.memory_info().rss / 1e6
        self._peak[name] = max(self._peak.get(name, 0.0), rss_mb)
        if time.monotonic() - self._began_s < IDLE_S:
            self._idle[name] = rss_mb

    def growth(self) -> list[Growth]:
        return [Growth(n, self._idle.get(n, 0.0), p) for n, p in sorted(self._peak.items())]


def moved(events: int, workers: int, pause_s: float, state: str) -> ms.RunResult:
    """Move events through a flow whose sink takes ``pause_s`` for each batch of 1,000."""

    def take(row: ms.Row) -> None:
        if pause_s and row.n % 1_000 == 0:
            time.sleep(pause_s)

    flow = ms.Flow("backpressure")
    flow.generate({"n": Counter(), "text": "x" * 200}, count=events).for_each(take)
    return flow.run(workers=workers, state=state)


@click.command(help=__doc__)
@click.option("--seconds", default=60.0, show_default=True, help="About how long the slow run takes.")
@click.option("--workers", default=1, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the result to this file.")
def main(seconds: float, workers: int, json_path: Path | None) -> None:
    console = Console()
    state = f"out/backpressure-{os.getpid()}"
    fast = moved(500_000, workers, 0.0, state)
    rate = fast.events_in / fast.seconds
    slow_rate = rate / SLOWER
    events = int(slow_rate * seconds)
    with Memory() as memory:
        slow = moved(events, workers, workers * 1_000 * (1 / slow_rate - 1 / rate), state)
    table = Table(
        title=f"{events:,} events; the sink takes {slow.events_in / slow.seconds:,.0f} of {rate:,.0f} events/s"
    )
    for heading in ("process", "idle MB", "peak MB", "grown MB"):
        table.add_column(heading, justify="right" if "MB" in heading else "left")
    for line in memory.growth():
        table.add_row(line.process, f"{line.idle_mb:,.0f}", f"{line.peak_mb:,.0f}", f"{line.grown_mb:,.0f}")
    console.print(table)
    console.print(f"written {slow.rows_out:,} of {events:,}: {'nothing lost' if slow.rows_out == events else 'LOST'}")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        about = measure.machine()
        result = {"events": events, "rows_out": slow.rows_out, "seconds": slow.seconds, "fast_events_per_s": rate}
        json_path.write_text(
            json.dumps({**result, "processes": [asdict(g) for g in memory.growth()], "machine": about}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
