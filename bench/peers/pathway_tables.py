"""Pathway: the workloads in static mode, which computes once over the whole input.

There is then no watermark, no late data and no state to clean up, which flatters it. It reads JSON lines, its fastest
way in (in-memory tables were slower), and lines of text; at a parallelism above one it uses threads.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from math import sqrt
from pathlib import Path
from typing import Any

from bench import checksum, data
from bench.checksum import Checksum
from bench.job import Job, Outcome, Span, serve

WINDOW_MS = 10_000


def panes(pw: Any, stream: str, job: Job) -> Any:
    """W1's windows over a file of JSON lines."""

    class Event(pw.Schema):  # type: ignore[misc]
        key: str
        ts: int
        value: float

    events = pw.io.jsonlines.read(data.json_file(stream, job.events), schema=Event, mode="static")
    windows = events.windowby(
        pw.this.ts, window=pw.temporal.tumbling(duration=WINDOW_MS, origin=0), instance=pw.this.key
    )
    return windows.reduce(
        window_start=pw.this._pw_window_start,
        key=pw.this._pw_instance,
        count=pw.reducers.count(),
        total=pw.reducers.sum(pw.this.value),
        mean=pw.reducers.avg(pw.this.value),
        top=pw.reducers.max(pw.this.value),
    )


def words(pw: Any, job: Job) -> Any:
    """Counts of words, split by a Python function: Pathway has none of its own."""
    lines = pw.io.plaintext.read(data.text_file(job.events), mode="static")
    split = lines.select(word=pw.apply_with_type(str.split, list[str], pw.this.data)).flatten(pw.this.word)
    return split.groupby(pw.this.word).reduce(pw.this.word, count=pw.reducers.count())


def watched(pw: Any, job: Job) -> Any:
    """A map, then the state of each key with its alerts so far: a table of states, not a stream of alerts."""

    class Event(pw.Schema):  # type: ignore[misc]
        key: str
        ts: int
        value: float

    @pw.reducers.stateful_single  # type: ignore[untyped-decorator, unused-ignore]
    def watch(state: Any, at: int, value: float) -> Any:
        n, mean, squares, alerts = state or (0, 0.0, 0.0, 0)
        if n >= 2 and value > mean + 3 * sqrt(squares / n):
            alerts += 1
        off = value - mean
        after = mean + off / (n + 1)
        return n + 1, after, squares + off * (value - after), alerts

    events = pw.io.jsonlines.read(data.json_file("zipf", job.events), schema=Event, mode="static")
    net = events.select(
        pw.this.key, pw.this.ts, net=pw.apply_with_type(lambda value: value * 0.875, float, pw.this.value)
    )
    return net.groupby(pw.this.key).reduce(pw.this.key, state=watch(pw.this.ts, pw.this.net))


def run(build: Callable[[Any, Job], Any], checked: Callable[[Iterable[Any]], Checksum], job: Job) -> Outcome:
    pw = _pathway(job)
    table = build(pw, job)
    if job.check:
        return Outcome.of_checksum(checked(_rows(pw, table)))
    pw.io.null.write(table)
    return Outcome(None, [_run(pw)])


def w2(job: Job) -> Outcome:
    """From file to file, so nothing comes back to Python."""
    pw = _pathway(job)
    with tempfile.TemporaryDirectory() as name:
        output = Path(name, "panes.jsonl")
        pw.io.jsonlines.write(panes(pw, "zipf", job), output)
        span = _run(pw)
        with output.open() as lines:
            if not job.check:
                return Outcome(sum(1 for _ in lines), [span])
            fields = ("window_start", "key", "count", "total", "mean", "top")
            return Outcome.of_checksum(checksum.of_panes(tuple(map(json.loads(line).get, fields)) for line in lines))


def w4(job: Job) -> Outcome:
    pw = _pathway(job)
    table = watched(pw, job)
    if job.check:
        states = _rows(pw, table)
        return Outcome(sum(state[3] for _, state in states))
    pw.io.null.write(table)
    return Outcome(None, [_run(pw)], note="puts out a state a key, not its alerts, and does not keep a key's order")


def _pathway(job: Job) -> Any:
    os.environ["PATHWAY_THREADS"] = str(job.parallelism)  # read when Pathway is imported
    import pathway

    return pathway


def _rows(pw: Any, table: Any) -> list[tuple[Any, ...]]:
    """The result rows, through a Python callback; a static table's rows only ever get added."""
    rows: list[tuple[Any, ...]] = []
    pw.io.subscribe(table, on_change=lambda key, row, time, is_addition: rows.append(tuple(row.values())))
    _run(pw)
    return rows


def _run(pw: Any) -> Span:
    began = time.monotonic()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    return Span(began, time.monotonic())


if __name__ == "__main__":
    serve(
        {
            "W1": lambda job: run(lambda pw, job: panes(pw, "zipf", job), checksum.of_panes, job),
            "W1u": lambda job: run(lambda pw, job: panes(pw, "uuid", job), checksum.of_panes, job),
            "W2": w2,
            "W3": lambda job: run(words, checksum.of_words, job),
            "W3f": lambda job: run(words, checksum.of_words, job),
            "W4": w4,
        }
    )
