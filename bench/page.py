"""What does the page of a run cost? Without it; with it and nobody looking; with a reader who gets every picture.

    scripts/bench page --events 4000000 --repeat 5

Count, sum, mean and max of each key in tumbling windows of 10 s, from JSON lines. The three ways take turns, in another
order each time. On a machine that does other work as well compare CPU seconds: all processes of the run count, the
supervisor with its history and its server among them; the reader, which would be somewhere else, does not.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console
from rich.table import Table

import millstream as ms
from bench import data, measure
from millstream.connectors import NullSink
from millstream.coordinator import launch

WAYS = ("off", "on", "watched")
SEED = 7

_READER = """
import http.client, sys, time
port, deadline_s = int(sys.argv[1]), time.monotonic() + 600
while time.monotonic() < deadline_s:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/api/v1/events")
        answer = connection.getresponse()
        while answer.readline():
            pass
    except OSError:
        time.sleep(0.01)
"""


@dataclass
class Measured:
    way: str
    events: int
    seconds: float
    cpu_s: float

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_s_per_million(self) -> float:
        return self.cpu_s / self.events * 1e6


def measured(way: str, events: int, workers: int, port: int) -> Measured:
    flow = ms.Flow("page")
    keyed = (
        flow.read_jsonl(data.json_file("zipf", events)).event_time("ts", unit="ms", out_of_orderness="2s").key_by("key")
    )
    asked = {"count": ms.count(), "total": ms.sum("value"), "mean": ms.mean("value"), "top": ms.max("value")}
    keyed.window(ms.tumbling("10s")).agg(**asked).sink(NullSink())
    reader = None
    if way == "watched":
        reader = subprocess.Popen([sys.executable, "-c", _READER, str(port)])
    try:
        with TemporaryDirectory() as state:
            options = launch.RunOptions(
                workers=workers, ingest="workers", state=state, page="off" if way == "off" else f"127.0.0.1:{port}"
            )
            before = time.process_time(), _children_s()
            result = launch.run(flow, options)
            after = time.process_time(), _children_s()
    finally:
        if reader is not None:
            reader.kill()
            reader.wait()
    used = after[0] - before[0] + after[1] - before[1]
    return Measured(way, result.events_in, result.seconds, used)


def _children_s() -> float:
    """CPU seconds of the children that have ended: those of a run, since a reader ends after it was read."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def shown(runs: list[Measured]) -> Table:
    table = Table(title="What the page costs: medians, and what each is of the runs without it")
    for heading in ("page", "runs", "events/s", "of off", "CPU s for a million events", "of off"):
        table.add_column(heading, justify="left" if heading == "page" else "right")
    speeds = {w: statistics.median(r.events_per_s for r in runs if r.way == w) for w in WAYS}
    costs = {w: statistics.median(r.cpu_s_per_million for r in runs if r.way == w) for w in WAYS}
    for way in WAYS:
        table.add_row(
            way, str(sum(r.way == way for r in runs)), f"{speeds[way]:,.0f}", f"{speeds[way] / speeds['off']:.1%}",
            f"{costs[way]:.3f}", f"{costs[way] / costs['off']:.1%}",
        )  # fmt: skip
    return table


@click.command(help=__doc__)
@click.option("--events", default=4_000_000, show_default=True, help="Events of each run.")
@click.option("--workers", default=2, show_default=True)
@click.option("--repeat", default=5, show_default=True, help="Runs of each way.")
@click.option("--port", default=7391, show_default=True, help="Where the page is meanwhile.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the results to this file.")
def main(events: int, workers: int, repeat: int, port: int, json_path: Path | None) -> None:
    order = random.Random(SEED)
    runs: list[Measured] = []
    measured("off", events, workers, port)  # the first one warms files and memory, and does not count
    for _ in range(repeat):
        runs += [measured(way, events, workers, port) for way in order.sample(WAYS, len(WAYS))]
    Console(width=None if Console().is_terminal else 120).print(shown(runs))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(
            json.dumps({"machine": measure.machine(), "runs": [asdict(r) for r in runs]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
