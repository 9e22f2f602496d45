"""What do checkpoints cost?

    scripts/bench checkpoints state --keys 10000000
    scripts/bench checkpoints turns
    scripts/bench checkpoints throughput --pairs 3

``state``: the state of one worker (count, sum and maximum of each of so many keys: in one open window, or in Python by `scan`
or `process`; or the rows of both sides of a join), without sockets. How long does the loop stand still for a checkpoint, how long does the thread write beside it and what does that
do to the loop, and how much is written after 1 % of the keys have changed? Snapshots go through the worker's own writer.

``turns``: one run of W1 (10,000 Zipf keys), and one of 1 million uniform keys in windows of an hour, in which turns with a
checkpoint each second and turns without any follow one another (turns.py).

``throughput``: whole runs of the same with a checkpoint each second and with none at all, some 15 s each. What comes with
checkpoints but once is in these: processes that are kept ready for a loss, a second of a core for each; and the last
checkpoint. On a machine that does other work as well compare CPU seconds, not events/s.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zmq
from rich.console import Console
from rich.table import Table

import millstream as ms
from bench import data, measure
from bench.turns import Turns, measured_turns, turns_table
from millstream.batch import Batch, Keys, make_columns
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest, TableFile
from millstream.checkpoints.part import Snapshot
from millstream.checkpoints.store import CheckpointStore
from millstream.connectors import NullSink
from millstream.operators.base import Operator
from millstream.operators.joins.base import JoinOperator
from millstream.planner import make_plan
from millstream.process import spare_the_collector
from millstream.wire import Completed
from millstream.workers.snapshots import SnapshotWriter
from millstream.workers.task import Worker

BATCH_ROWS = 65_536
MEGABYTE = 1_000_000
MILLION = 1_000_000
FLOW = "bench-checkpoints"

KeyNumbers = npt.NDArray[np.int64]


def totals(rows: ms.Stream, window: str) -> ms.Stream:
    windows = rows.event_time("ts", out_of_orderness="2s").key_by("key").window(ms.tumbling(window))
    return windows.agg(count=ms.count(), total=ms.sum("value"), top=ms.max("value"))


# --- state ---


def scanned(state: tuple[int, float, float], event: Any) -> tuple[tuple[int, float, float], None]:
    count, total, top = state
    return (count + 1, total + event.value, max(top, event.value)), None


class Totals(ms.Process):
    count = ms.value_state(0)
    total = ms.value_state(0.0)
    top = ms.value_state(0.0)

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.count.value += 1
        self.total.value += event.value
        self.top.value = max(self.top.value, event.value)


def keyed(rows: ms.Stream) -> ms.KeyedStream:
    return rows.event_time("ts", out_of_orderness="2s").key_by("key")


def sided(rows: ms.Stream) -> ms.KeyedStream:
    return rows.event_time("ts", out_of_orderness="2s").select("key", "value").key_by("key")


KINDS: dict[str, Callable[[Callable[[], ms.Stream]], ms.Stream]] = {
    "window": lambda read: totals(read(), "1d"),
    "scan": lambda read: keyed(read()).scan((0, 0.0, 0.0), scanned, schema={"nothing": int}),
    "process": lambda read: keyed(read()).process(Totals, schema={"nothing": int}),
    "join": lambda read: sided(read()).join(sided(read())),
}
OPERATORS = {"window": "agg", "scan": "scan", "process": "process", "join": "join"}


class WorkerState:
    """A worker with one operator that keeps state, which is fed by hand.

    Attributes:
        epoch: the last checkpoint; files: what it consists of.
        poller: wakes whoever waits for the checkpoint under way.
    """

    def __init__(self, kind: str, store: CheckpointStore) -> None:
        self._store = store
        flow = ms.Flow(FLOW)
        fields = {"key": pa.int64(), "ts": data.TIME, "value": pa.float64()}
        none = pa.table({name: pa.array([], kind) for name, kind in fields.items()})
        KINDS[kind](lambda: flow.read_arrow(none)).sink(NullSink())
        self._plan = make_plan(flow, workers=1)
        self._worker = Worker(
            self._plan, 0, now_us=lambda: time.time_ns() // 1_000, dead_letter=lambda letter: None, checkpoints=True
        )
        self._stage, self.operator = next(
            (stage, operator)
            for stage in self._worker.runner.stages.values()
            for node, operator in stage.operators.items()
            if self._plan.nodes[node].name == OPERATORS[kind]
        )
        self.poller = zmq.Poller()
        self.writer = SnapshotWriter(self._worker.runner, store, self._worker.name, 1, self.poller)
        self.epoch = 0
        self.files: list[TableFile] = []

    def snapshot(self) -> float:
        """Begin a checkpoint; returns the seconds for which the loop does nothing else."""
        self.epoch += 1
        began = time.perf_counter()
        self.writer.submit(Snapshot(self.epoch, False, [self._stage.snapshot(self.epoch)]))
        return time.perf_counter() - began

    def written(self) -> bool:
        """Whether the checkpoint under way has just been written; then it is complete."""
        for written in self.writer.finished():
            self._worker.written(*written)
            self._worker.receive(Completed(self.epoch))
            self.files = written.tables
            operators = {n.name: n.spec.describe() for n in self._plan.nodes.values()}
            self._store.complete(Manifest(FLOW, self.epoch, 1, 1, 0, operators, tuple(self.files)))
            self._store.clean()
            return True
        return False

    @property
    def written_bytes(self) -> int:
        """What the last checkpoint has written."""
        return sum(f.size_bytes for f in self.files if f.path.startswith(f"data/{self.epoch:08d}"))


def batch_of(keys: KeyNumbers, rng: np.random.Generator) -> Batch:
    """An event of each of these keys, as they come out of an exchange."""
    distinct, codes = np.unique(keys, return_inverse=True)
    columns = make_columns(["value"], [pa.array(rng.integers(0, 800, len(keys)) / 8)])
    time_us = data.START_MS * 1_000 + rng.integers(0, 1_000_000, len(keys))
    of_rows = Keys(make_columns(["key"], [pa.array(distinct)]), codes.astype(np.int32))
    return Batch(columns, time_us, position=np.arange(len(keys)), keys=of_rows)


def feed(operator: Operator, keys: KeyNumbers, rng: np.random.Generator) -> Iterator[float]:
    """Give an operator an event of each of these keys, a batch at a time; yields the seconds that each took."""
    for start in range(0, len(keys), BATCH_ROWS):
        batch = batch_of(keys[start : start + BATCH_ROWS], rng)
        began = time.perf_counter()
        for port in (0, 1) if isinstance(operator, JoinOperator) else (0,):
            for _ in operator.on_batch(batch, port):
                pass
        yield time.perf_counter() - began


def measured_state(kind: str, keys: int, share: float, rounds: int) -> list[dict[str, Any]]:
    """A full checkpoint, and others after so many of the keys have changed.

    While one is written the loop goes on with events of the next.
    """
    rng = np.random.default_rng(data.SEED)
    found: list[dict[str, Any]] = []
    spare_the_collector()  # as workers do
    with tempfile.TemporaryDirectory() as folder:
        state = WorkerState(kind, CheckpointStore(DirectoryDisk(Path(folder))))
        alone = list(feed(state.operator, rng.permutation(keys), rng))
        changed = keys
        for number in range(rounds + 1):
            stopped_s = state.snapshot()
            began = time.perf_counter()
            following = feed(state.operator, rng.integers(0, keys, int(share * keys)), rng)
            beside, done = list[float](), False
            while not done:
                done = state.written()
                took = next(following, None)
                if took is not None:
                    beside.append(took)
                elif not done:
                    state.poller.poll(100)
            wrote_s = time.perf_counter() - began
            found.append({
                "checkpoint": number, "changed": changed, "stopped_s": stopped_s, "wrote_s": wrote_s,
                "bytes": state.written_bytes, "files": len(state.files), "batch_s": beside,
            })  # fmt: skip
            beside += following
            changed = int(share * keys)
        state.writer.close()
    found[0]["alone_s"] = alone
    return found


def state_table(kind: str, found: list[dict[str, Any]]) -> Table:
    full, *others = found
    table = Table(
        title=f"{kind}: {full['changed']:,} keys; a batch of {BATCH_ROWS:,} events takes {1e3 * median(full['alone_s']):.1f} ms"
    )
    for heading in (
        "checkpoint",
        "changed keys",
        "loop stops, ms",
        "written beside it, s",
        "a batch meanwhile, ms",
        "MB written",
        "of a full one",
        "files",
    ):
        table.add_column(heading, justify="left" if heading == "checkpoint" else "right")

    def add(name: str, runs: list[dict[str, Any]], of: Callable[[list[float]], float]) -> None:
        size = of([r["bytes"] for r in runs])
        batches = [s for r in runs for s in r["batch_s"]]
        table.add_row(
            name, f"{runs[-1]['changed']:,}", f"{1e3 * of([r['stopped_s'] for r in runs]):.2f}",
            f"{of([r['wrote_s'] for r in runs]):.2f}", f"{1e3 * of(batches):.1f}" if batches else "",
            f"{size / MEGABYTE:,.1f}", f"{size / full['bytes']:.1%}", f"{of([r['files'] for r in runs]):.0f}",
        )  # fmt: skip

    add("full", [full], max)
    if others:
        add(f"median of {len(others)}", others, median)
        add("mean", others, mean)
        add("most", others, max)
    return table


# --- throughput ---

FLOWS: dict[str, tuple[str, str, int]] = {
    "W1": ("zipf", "10s", 200 * MILLION),
    "million": ("million", "1h", 48 * MILLION),
}
"""The stream of events, the window, and how many events."""


def flow_of(name: str, events: int) -> ms.Flow:
    stream, window, _ = FLOWS[name]
    flow = ms.Flow(FLOW)
    totals(flow.read_arrow(data.arrow_files(stream, events)), window).sink(NullSink())
    return flow


def run_once(name: str, events: int, workers: int, interval: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        flow = flow_of(name, events)
        before_s = _cpu_s()
        result = flow.run(workers=workers, state=folder, checkpoint_interval=interval)
        manifests = list(Path(folder).rglob("manifest-*.json"))
        epochs = max((json.loads(m.read_text())["epoch"] for m in manifests), default=0)
    return {
        "flow": name,
        "interval": interval,
        "seconds": result.seconds,
        "cpu_s": _cpu_s() - before_s,
        "events_per_s": events / result.seconds,
        "checkpoints": epochs,
    }


def _cpu_s() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def throughput_table(runs: list[dict[str, Any]], interval: str) -> Table:
    table = Table(title=f"events/s; checkpoints every {interval}, and none")
    for heading in ("flow", "with", "without", "ratios of the pairs", "median", "CPU seconds", "median", "checkpoints"):
        table.add_column(heading, justify="left" if heading == "flow" else "right")
    for name in dict.fromkeys(r["flow"] for r in runs):
        off, on = ([r for r in runs if r["flow"] == name and (r["interval"] == "off") == o] for o in (True, False))
        ratios = [a["events_per_s"] / b["events_per_s"] for a, b in zip(on, off, strict=True)]
        used = [a["cpu_s"] / b["cpu_s"] for a, b in zip(on, off, strict=True)]
        table.add_row(
            name, *(f"{median(r['events_per_s'] for r in of):,.0f}" for of in (on, off)),
            ", ".join(f"{r:.2f}" for r in ratios), f"{median(ratios):.2f}",
            ", ".join(f"{r:.2f}" for r in used), f"{median(used):.2f}", ", ".join(str(r["checkpoints"]) for r in on),
        )  # fmt: skip
    return table


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command(name="state")
@click.option("--kind", type=click.Choice(list(KINDS)), default="window", show_default=True)
@click.option("--keys", default=10 * MILLION, show_default=True)
@click.option("--share", default=0.01, show_default=True, help="Of the keys, how many change before each checkpoint.")
@click.option("--rounds", default=20, show_default=True, help="Checkpoints after the full one.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the results to this file.")
def state_command(kind: str, keys: int, share: float, rounds: int, json_path: Path | None) -> None:
    """How long the loop stops, and how much is written."""
    machine, found = measure.machine(), measured_state(kind, keys, share, rounds)
    _show(state_table(kind, found), {"machine": machine, "kind": kind, "checkpoints": found}, json_path)


@main.command(name="turns")
@click.option("--flows", default=",".join(FLOWS), show_default=True, metavar="NAME[,NAME]")
@click.option("--events", type=int, help="Of each run, instead of the flow's own number.")
@click.option("--interval", "interval_s", default=1.0, show_default=True, help="Between checkpoints, in seconds.")
@click.option("--turn", "turn_s", default=4.0, show_default=True, help="How long a turn is, in seconds.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the results to this file.")
def turns_command(flows: str, events: int | None, interval_s: float, turn_s: float, json_path: Path | None) -> None:
    """Turns with checkpoints beside turns without, in one run."""
    machine, found = measure.machine(), dict[str, Turns]()
    for name in flows.split(","):
        count = FLOWS[name][2] if events is None else events
        measure.read_through(data.arrow_files(FLOWS[name][0], count))
        found[name] = measured_turns(flow_of(name, count), OPERATORS["window"], interval_s, turn_s)
    results = {"machine": machine, "turns": {name: asdict(turns) for name, turns in found.items()}}
    _show(turns_table(found, interval_s, turn_s), results, json_path)


@main.command(name="throughput")
@click.option("--flows", default=",".join(FLOWS), show_default=True, metavar="NAME[,NAME]")
@click.option("--events", type=int, help="Of each run, instead of the flow's own number.")
@click.option("--workers", default=1, show_default=True)
@click.option("--interval", default="1s", show_default=True)
@click.option("--pairs", default=3, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the results to this file.")
def throughput_command(
    flows: str, events: int | None, workers: int, interval: str, pairs: int, json_path: Path | None
) -> None:
    """Runs with checkpoints beside runs without."""
    machine, runs = measure.machine(), list[dict[str, Any]]()
    for name in flows.split(","):
        count = FLOWS[name][2] if events is None else events
        measure.read_through(data.arrow_files(FLOWS[name][0], count))
        for _ in range(pairs):
            runs += [run_once(name, count, workers, how) for how in (interval, "off")]
    _show(throughput_table(runs, interval), {"machine": machine, "workers": workers, "runs": runs}, json_path)


def _show(table: Table, results: dict[str, Any], json_path: Path | None) -> None:
    Console(width=None if Console().is_terminal else 160).print(table)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
