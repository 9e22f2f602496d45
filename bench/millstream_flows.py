"""Millstream's own answer to each workload: the flows a user would write.

The time of a run is that of its summary, from the first read of a source to the end; starting the processes
is reported as start-up, apart from it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import millstream as ms
from bench import checksum, data
from bench.checksum import Checksum, Pane
from bench.job import Job, Outcome, Span, serve
from millstream import col
from millstream.result import RunResult


def panes(events: ms.Stream, unit: str | None = None) -> ms.Stream:
    return (
        events.event_time("ts", unit=unit, out_of_orderness="2s")
        .key_by("key")
        .window(ms.tumbling("10s"))
        .agg(count=ms.count(), total=ms.sum("value"), mean=ms.mean("value"), top=ms.max("value"))
    )


def w1(flow: ms.Flow, job: Job) -> ms.Stream:
    return panes(flow.read_arrow(data.arrow_files("zipf", job.events)))


def w1u(flow: ms.Flow, job: Job) -> ms.Stream:
    return panes(flow.read_arrow(data.arrow_files("uuid", job.events)))


def w8(flow: ms.Flow, job: Job, stream: str = "uuid") -> ms.Stream:
    events = flow.read_arrow(data.arrow_files(stream, job.events)).event_time("ts", out_of_orderness="2s")
    held = events.key_by("key").window(ms.tumbling("1d"))
    return held.agg(count=ms.count(), total=ms.sum("value"), top=ms.max("value"))


def w8few(flow: ms.Flow, job: Job) -> ms.Stream:
    return w8(flow, job, "zipf")


def w3(flow: ms.Flow, job: Job) -> ms.Stream:
    words = flow.read_text(data.text_file(job.events)).select(word=col("line").str.split(" ")).explode("word")
    return words.key_by("word").agg(count=ms.count())


def w3f(flow: ms.Flow, job: Job) -> ms.Stream:
    words = flow.read_text(data.text_file(job.events)).flat_map(lambda e: [{"word": word} for word in e.line.split()])
    return words.key_by("word").agg(count=ms.count())


def w4(flow: ms.Flow, job: Job) -> ms.Stream:
    def watch(state: tuple[int, float, float], event: Any) -> tuple[tuple[int, float, float], dict[str, Any] | None]:
        n, mean, squares = state
        value = event.net
        alert = None
        if n >= 2:
            deviation = sqrt(squares / n)
            if value > mean + 3 * deviation:
                alert = {"ts": event.ts, "key": event.key, "net": value, "mean": mean, "deviation": deviation}
        off = value - mean
        after = mean + off / (n + 1)
        return (n + 1, after, squares + off * (value - after)), alert

    events = flow.read_arrow(data.arrow_files("zipf", job.events))
    return events.map(lambda e: e.with_(net=e.value * 0.875)).key_by("key").scan((0, 0.0, 0.0), watch)


def w5(flow: ms.Flow, job: Job) -> ms.Stream:
    events = flow.read_arrow(data.arrow_files("zipf", job.events)).event_time("ts", out_of_orderness="2s")
    return events.key_by("key").window(ms.session("5s")).agg(count=ms.count(), total=ms.sum("value"))


def w6(flow: ms.Flow, job: Job) -> ms.Stream:
    events = flow.read_arrow(data.arrow_files("zipf", job.events)).event_time("ts", out_of_orderness="2s")
    return events.key_by("key").window(ms.hopping("60s", every="10s")).agg(count=ms.count())


def w7(flow: ms.Flow, job: Job) -> ms.Stream:
    left, right = (
        flow.read_arrow(data.arrow_files(stream, job.events // 2)).event_time("ts", out_of_orderness="2s").key_by("key")
        for stream in ("left", "right")
    )
    return left.join(right, within=("-10s", "10s"))


def panes_checksum(table: pa.Table) -> Checksum:
    panes = zip(_millis(table["window_start"]), *_lists(table, "key", "count", "total", "mean", "top"), strict=True)
    return checksum.of_panes(panes)


def held_checksum(table: pa.Table) -> Checksum:
    starts, columns = _millis(table["window_start"]), _lists(table, "key", "count", "total", "top")
    return checksum.of_panes(
        (at, k, n, total, total / n, top) for at, k, n, total, top in zip(starts, *columns, strict=True)
    )


def words_checksum(table: pa.Table) -> Checksum:
    """The changelog's last row of each word: counts only grow."""
    last = table.group_by("word").aggregate([("count", "max")])
    return checksum.of_words(zip(*_lists(last, "word", "count_max"), strict=True))


def alerts_checksum(table: pa.Table) -> Checksum:
    alerts = zip(_millis(table["ts"]), *_lists(table, "key", "net", "mean", "deviation"), strict=True)
    return checksum.of_alerts(alerts)


def sessions_checksum(table: pa.Table) -> Checksum:
    bounds = (_millis(table[name]) for name in ("window_start", "window_end"))
    return checksum.of_sessions(zip(*bounds, *_lists(table, "key", "count", "total"), strict=True))


def counts_checksum(table: pa.Table) -> Checksum:
    return checksum.of_counts(zip(_millis(table["window_start"]), *_lists(table, "key", "count"), strict=True))


def pairs_checksum(table: pa.Table) -> Checksum:
    times = (_millis(table[name]) for name in ("ts", "ts_right"))
    keys, *values = _lists(table, "key", "value", "value_right")
    return checksum.of_pairs(zip(keys, *times, *values, strict=True))


def _lists(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def _millis(times: pa.ChunkedArray[Any]) -> list[int]:
    found = pc.cast(times, pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64())
    millis: list[int] = found.to_numpy().tolist()
    return millis


def run(build: Callable[[ms.Flow, Job], ms.Stream], checked: Callable[[pa.Table], Checksum], job: Job) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        flow = ms.Flow(f"bench-{job.workload}")
        stream = build(flow, job)
        if job.check:
            stream.collect("rows")
        else:
            stream.write_null()
        result, outcome = timed(flow, job, Path(directory))
        if job.check:
            return Outcome.of_checksum(checked(result.tables["rows"]))
        return outcome


def timed(flow: ms.Flow, job: Job, state: Path) -> tuple[RunResult, Outcome]:
    """Run a flow; the rest of the call's time, in which processes start and stop, is told apart."""
    called = time.monotonic()
    result = flow.run(workers=job.parallelism, state=state)
    ended = time.monotonic()
    rest_s = ended - called - result.seconds
    note = f"{rest_s:.2f} s more to start and stop the processes"
    return result, Outcome(result.rows_out, [Span(ended - result.seconds, ended)], note=note)


def w2(job: Job) -> Outcome:
    """From a file to a file, so answers are compared as they were written."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "panes.jsonl")
        flow = ms.Flow("bench-W2")
        panes(flow.read_jsonl(data.json_file("zipf", job.events)), unit="ms").write_jsonl(output)
        _, outcome = timed(flow, job, Path(directory, "state"))
        if job.check:
            return Outcome.of_checksum(checksum.of_panes(written_panes(output)))
        with output.open("rb") as lines:
            outcome.rows = sum(1 for _ in lines)
        return outcome


def written_panes(path: Path) -> Iterable[Pane]:
    with path.open() as lines:
        for line in lines:
            row = json.loads(line)
            start = datetime.fromisoformat(row["window_start"])
            start = start if start.tzinfo else start.replace(tzinfo=UTC)
            yield round(start.timestamp() * 1_000), row["key"], row["count"], row["total"], row["mean"], row["top"]


if __name__ == "__main__":
    serve(
        {
            "W1": lambda job: run(w1, panes_checksum, job),
            "W1u": lambda job: run(w1u, panes_checksum, job),
            "W8": lambda job: run(w8, held_checksum, job),
            "W8few": lambda job: run(w8few, held_checksum, job),
            "W2": w2,
            "W3": lambda job: run(w3, words_checksum, job),
            "W3f": lambda job: run(w3f, words_checksum, job),
            "W4": lambda job: run(w4, alerts_checksum, job),
            "W5": lambda job: run(w5, sessions_checksum, job),
            "W6": lambda job: run(w6, counts_checksum, job),
            "W7": lambda job: run(w7, pairs_checksum, job),
        }
    )
