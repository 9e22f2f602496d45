"""Does a sink 20 times slower than its source cost memory? The largest growth of any process, and the lag shown.

    scripts/bench backpressure --seconds 60 --json out/backpressure.json

A generator makes events as fast as they are taken; a sink in the workers takes a twentieth of what the
same flow moves with a sink that does nothing. Every process is measured every 0.2 s; its idle size is the
one it has when it has started and moved its first events. At the end the run is drained: nothing may be lost.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

import millstream as ms
from bench import measure
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


class Watch:
    """Measures this process's children until it is told to stop."""

    def __init__(self) -> None:
        self.idle: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        began_s = time.monotonic()
        while not self._stop.wait(EVERY_S):
            for name, rss in sizes().items():
                self.peak[name] = max(self.peak.get(name, 0.0), rss)
                if time.monotonic() - began_s < IDLE_S:
                    self.idle[name] = rss

    def growth(self) -> list[Growth]:
        return [Growth(n, self.idle.get(n, 0.0), p) for n, p in sorted(self.peak.items())]


def sizes() -> dict[str, float]:
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            command = process.cmdline()
            module = next((c for c in command if c.startswith("millstream.")), None)
            if module is not None:
                name = module.removeprefix("millstream.")
                number = command[command.index(module) + 1] if name == "workers" else ""
                found[f"{name} {number}".strip()] = process.memory_info().rss / 1e6
        except (psutil.Error, IndexError):
            continue
    return found


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
    with Watch() as watch:
        slow = moved(events, workers, workers * 1_000 * (1 / slow_rate - 1 / rate), state)
    table = Table(
        title=f"{events:,} events; the sink takes {slow.events_in / slow.seconds:,.0f} of {rate:,.0f} events/s"
    )
    for heading in ("process", "idle MB", "peak MB", "grown MB"):
        table.add_column(heading, justify="right" if "MB" in heading else "left")
    for line in watch.growth():
        table.add_row(line.process, f"{line.idle_mb:,.0f}", f"{line.peak_mb:,.0f}", f"{line.grown_mb:,.0f}")
    console.print(table)
    console.print(f"written {slow.rows_out:,} of {events:,}: {'nothing lost' if slow.rows_out == events else 'LOST'}")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        about = measure.machine()
        result = {"events": events, "rows_out": slow.rows_out, "seconds": slow.seconds, "fast_events_per_s": rate}
        json_path.write_text(
            json.dumps({**result, "processes": [asdict(g) for g in watch.growth()], "machine": about}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
