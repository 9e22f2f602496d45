"""Bytewax: the workloads as dataflows, one worker a process.

W1 and W4 take Python tuples from memory, made before the clock starts; W2 and W3 read lines of a file. At a
parallelism above one, that many processes form a cluster and the input is dealt to them in blocks of 1,000.

Bytewax's event clock is kept per key and moves on with the wall clock between events: an event nearly 2 s late is
dropped when the machine was slow, so W1's and W2's answers may differ from run to run.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from math import sqrt
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pyarrow as pa
from bytewax.connectors.files import FileSink, FileSource
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main

from bench import checksum, data
from bench.checksum import Alert, Checksum, Pane
from bench.job import Job, Outcome, Span, serve

BLOCK_ROWS = 1_000
WINDOW_MS = 10_000
DAY_MS = 86_400_000
ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)

Event = tuple[str, int, float]
"""Key, time (ms), value."""

Totals = tuple[int, float, float]
"""Count, sum and maximum of a window."""

Running = tuple[int, float, float]
"""Count, mean and sum of squared deviations of a key so far."""

Build = Callable[[Dataflow, Job, int, Path], Stream[Any]]
"""Adds a workload's source and operators for the process of this number; files go into the folder."""


class Blocks(StatefulSourcePartition[Any, None]):  # type: ignore[misc, unused-ignore]
    """What is in memory, in blocks."""

    def __init__(self, items: list[Any], block_rows: int) -> None:
        self._blocks = iter([items[i : i + block_rows] for i in range(0, len(items), block_rows)])

    def next_batch(self) -> list[Any]:
        return next(self._blocks)

    def snapshot(self) -> None:
        return None


class InMemory(FixedPartitionedSource[Any, None]):  # type: ignore[misc, unused-ignore]
    """One partition in each process: its share of the events."""

    def __init__(self, process: int, items: list[Any], block_rows: int = BLOCK_ROWS) -> None:
        self._name, self._items, self._block_rows = str(process), items, block_rows

    def list_parts(self) -> list[str]:
        return [self._name]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> Blocks:
        return Blocks(self._items, self._block_rows)


class Kept(StatelessSinkPartition[Any]):  # type: ignore[misc, unused-ignore]
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write_batch(self, items: list[Any]) -> None:
        self._sink.rows += len(items)
        if self._sink.keep:
            self._sink.items += items


class Sink(DynamicSink[Any]):  # type: ignore[misc, unused-ignore]
    """Drops what comes but counts it; keeps it where answers are compared."""

    def __init__(self, keep: bool) -> None:
        self.keep, self.rows, self.items = keep, 0, list[Any]()

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Kept:
        return Kept(self)


def events(stream: str, job: Job, process: int) -> list[Event]:
    """This process's share of the events as Python tuples."""
    share: list[Event] = []
    block = 0
    for path in data.arrow_files(stream, job.events):
        for key, ts, value in _rows(path):
            for start in range(0, len(key), BLOCK_ROWS):
                if block % job.parallelism == process:
                    rows = slice(start, start + BLOCK_ROWS)
                    share += zip(key[rows], ts[rows], value[rows], strict=True)
                block += 1
    return share


def _rows(path: Path) -> Iterator[tuple[list[Any], list[Any], list[Any]]]:
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for i in range(reader.num_record_batches):
            key, ts, value = reader.get_batch(i).columns
            yield key.to_pylist(), (ts.cast(pa.int64()).to_numpy() // 1_000).tolist(), value.to_pylist()


def panes(keyed: Stream[tuple[str, Event]], window_ms: int = WINDOW_MS) -> Stream[Pane]:
    """Count, sum, mean and maximum per key in tumbling windows."""
    clock = win.EventClock(lambda event: ORIGIN + timedelta(milliseconds=event[1]), timedelta(seconds=2))
    windower = win.TumblingWindower(timedelta(milliseconds=window_ms), ORIGIN)

    def add(totals: Totals, event: Event) -> Totals:
        count, total, top = totals
        value = event[2]
        return count + 1, total + value, max(top, value)

    def merge(one: Totals, other: Totals) -> Totals:
        return one[0] + other[0], one[1] + other[1], max(one[2], other[2])

    def pane(item: tuple[str, tuple[int, Totals]]) -> Pane:
        key, (window, (count, total, top)) = item
        return window * window_ms, key, count, total, total / count, top

    folded = win.fold_window("fold", keyed, clock, windower, lambda: (0, 0.0, float("-inf")), add, merge, ordered=False)
    return op.map("pane", folded.down, pane)


def w1(flow: Dataflow, job: Job, process: int, _directory: Path, stream: str = "zipf") -> Stream[Pane]:
    return panes(_by_key(flow, InMemory(process, events(stream, job, process))))


def _by_key(flow: Dataflow, source: InMemory) -> Stream[tuple[str, Event]]:
    return op.map("key", op.input("in", flow, source), lambda event: (event[0], event))


def w1u(flow: Dataflow, job: Job, process: int, directory: Path) -> Stream[Pane]:
    return w1(flow, job, process, directory, "uuid")


def w8(flow: Dataflow, job: Job, process: int, _directory: Path, stream: str = "uuid") -> Stream[Pane]:
    """In one block: after each, Bytewax looks at all keys whose windows are open, for minutes where they are a million."""
    source = InMemory(process, events(stream, job, process), block_rows=max(job.events, 1))
    return panes(_by_key(flow, source), DAY_MS)


def w8few(flow: Dataflow, job: Job, process: int, directory: Path) -> Stream[Pane]:
    return w8(flow, job, process, directory, "zipf")


def w2(flow: Dataflow, job: Job, process: int, directory: Path) -> Stream[Pane]:
    def event(line: str) -> tuple[str, Event]:
        record = json.loads(line)
        return record["key"], (record["key"], record["ts"], record["value"])

    lines = op.input("in", flow, FileSource(_file_of(data.json_file("zipf", job.events), job, process)))
    found = panes(op.map("decode", lines, event))
    written = op.map("encode", found, lambda pane: (pane[1], _encoded(pane)))
    op.output("file", written, FileSink(directory / f"{process}.jsonl"))
    return found


def _encoded(pane: Pane) -> str:
    return json.dumps(dict(zip(("window_start", "key", "count", "total", "mean", "max"), pane, strict=True)))


def w3(flow: Dataflow, job: Job, process: int, _directory: Path) -> Stream[tuple[str, int]]:
    lines = op.input("in", flow, FileSource(_file_of(data.text_file(job.events), job, process)))
    return op.count_final("count", op.flat_map("split", lines, str.split), lambda word: word)


def w4(flow: Dataflow, job: Job, process: int, _directory: Path) -> Stream[Alert]:
    def net(event: Event) -> tuple[str, tuple[int, float]]:
        return event[0], (event[1], event[2] * 0.875)

    def watch(
        state: Running | None, event: tuple[int, float]
    ) -> tuple[Running, tuple[int, float, float, float] | None]:
        n, mean, squares = state or (0, 0.0, 0.0)
        at, value = event
        deviation = sqrt(squares / n) if n else 0.0
        alert = (at, value, mean, deviation) if n >= 2 and value > mean + 3 * deviation else None
        off = value - mean
        after = mean + off / (n + 1)
        return (n + 1, after, squares + off * (value - after)), alert

    def told(item: tuple[str, tuple[int, float, float, float] | None]) -> Alert | None:
        key, found = item
        return (found[0], key, *found[1:]) if found else None

    source = InMemory(process, events("zipf", job, process))
    keyed = op.map("net", op.input("in", flow, source), net)
    return op.filter_map("alerts", op.stateful_map("watch", keyed, watch), told)


def _file_of(path: Path, job: Job, process: int) -> Path:
    return path if job.parallelism == 1 else data.dealt(path, job.parallelism) / f"{process}{path.suffix}"


def run(build: Build, checked: Callable[[Iterable[Any]], Checksum], job: Job) -> Outcome:
    """Run a workload in as many processes as the job asks for."""
    with tempfile.TemporaryDirectory() as name:
        if job.parallelism == 1:
            shares = [run_process(build, job, 0, [], Path(name))]
        else:
            addresses = _free_addresses(job.parallelism)
            with multiprocessing.get_context("spawn").Pool(job.parallelism) as pool:
                work = [(build, job, process, addresses, Path(name)) for process in range(job.parallelism)]
                shares = pool.starmap(run_process, work, chunksize=1)
    if job.check:
        return Outcome.of_checksum(checked(item for _, _, items in shares for item in items))
    span = Span(min(span.began for span, _, _ in shares), max(span.ended for span, _, _ in shares))
    return Outcome(sum(rows for _, rows, _ in shares), [span])


def run_process(
    build: Build, job: Job, process: int, addresses: list[str], directory: Path
) -> tuple[Span, int, list[Any]]:
    """One process of a cluster: its span, how many rows it put out, and the rows where they are to be compared."""
    flow, sink = Dataflow("bench"), Sink(job.check)
    op.output("out", build(flow, job, process, directory), sink)
    began = time.monotonic()
    cluster_main(flow, addresses, process)
    return Span(began, time.monotonic()), sink.rows, sink.items


def _free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = ["{}:{}".format(*each.getsockname()) for each in sockets]
    for each in sockets:
        each.close()
    return addresses


WORKLOADS: dict[str, tuple[Build, Callable[[Iterable[Any]], Checksum]]] = {
    "W1": (w1, checksum.of_panes),
    "W1u": (w1u, checksum.of_panes),
    "W8": (w8, checksum.of_panes),
    "W8few": (w8few, checksum.of_panes),
    "W2": (w2, checksum.of_panes),
    "W3": (w3, checksum.of_words),
    "W3f": (w3, checksum.of_words),
    "W4": (w4, checksum.of_alerts),
}


def runner(name: str) -> Callable[[Job], Outcome]:
    build, checked = WORKLOADS[name]
    return lambda job: run(build, checked, job)


if __name__ == "__main__":
    serve({name: runner(name) for name in WORKLOADS})
