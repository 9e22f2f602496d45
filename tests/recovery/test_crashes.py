"""Committed output after any crashes is that of an undisturbed run: nothing lost, nothing doubled."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from harness.crashing import run_through_crashes

import millstream as ms
from millstream.connectors.caller import CollectSink, CollectWriter
from millstream.errors import CheckpointError
from millstream.expr import col

SEEDS = range(4)


def events(folder: Path) -> Path:
    path = folder / "events.jsonl"
    lines = [{"i": i, "at": 1_000 * i - 700 * (i % 5), "k": f"k{i * i % 13}", "v": i % 101} for i in range(400)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(flow: ms.Flow, path: Path) -> ms.Stream:
    return flow.read_jsonl(path).event_time("at", unit="ms", out_of_orderness="1s")


def rows_in(path: Path) -> Counter[str]:
    if path.suffix in DATABASES:
        return rows_of_tables(path)
    files = [p for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else [path]
    return Counter(line for file in files for line in file.read_text().splitlines())


DATABASES = (".sqlite", ".duckdb")


def rows_of_tables(path: Path) -> Counter[str]:
    lite = path.suffix == ".sqlite"
    connection: Any = sqlite3.connect(path) if lite else duckdb.connect(str(path))
    tables = ("lines", "sums", "by_n") if lite else ("by_n",)
    rows = Counter(f"{t}: {row}" for t in tables for row in connection.execute(f"SELECT * FROM {t}").fetchall())
    connection.close()
    return rows


def stateless(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    kept = read(flow, source).filter(col("v") % 2 == 0).with_columns(w=col("v") * 2)
    kept.write_jsonl(f"{out}/parts/")
    kept.write_jsonl(f"{out}/one.jsonl")
    return flow


def windows(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    panes = read(flow, source).key_by("k").window(ms.hopping("20s", "5s")).agg(n=ms.count(), v=ms.sum("v"))
    panes.write_jsonl(f"{out}/panes/")
    panes.late.write_jsonl(f"{out}/late/")
    return flow


def sessions(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    panes = read(flow, source).key_by("k").window(ms.session("15s")).agg(n=ms.count(), last=ms.last("v"))
    panes.write_jsonl(f"{out}/panes/")
    return flow


def count_on(state: int, event: Any) -> tuple[int, dict[str, Any]]:
    return state + event.v, {"k": event.k, "i": event.i, "sum": state + event.v}


def scanned_twice(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    sums = read(flow, source).key_by("k").scan(0, count_on, schema={"k": str, "i": int, "sum": int})
    sums.write_jsonl(f"{out}/sums/")
    again = sums.with_columns(g=col("i") % 3, v=col("sum")).key_by("g")
    again.scan(0, lambda s, e: (s + e.v, {"g": e.g, "i": e.i, "sum": s + e.v})).write_jsonl(f"{out}/again/")
    return flow


def patterns(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    small_large = (
        ms.pattern("a", col("v") < 30).then("b", col("v") > 60, within="60s").without("c", col("v") < 5, within="20s")
    )
    read(flow, source).key_by("k").match(small_large).write_jsonl(f"{out}/matches/")
    return flow


async def doubled(event: Any) -> dict[str, Any]:
    return {"k": event.k, "i": event.i, "w": 2 * event.v}


def asked(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    answers = read(flow, source).map_async(doubled, schema={"k": str, "i": int, "w": int})
    answers.write_jsonl(f"{out}/answers/")
    answers.key_by("k").window(ms.tumbling("20s")).agg(w=ms.sum("w")).write_jsonl(f"{out}/panes/")
    return flow


def tables(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    rows = read(flow, source)
    rows.filter(col("v") < 20).write_sqlite(out / "results.sqlite", "lines")
    sums = rows.key_by("k").agg(n=ms.count(), v=ms.sum("v"))
    sums.write_sqlite(out / "results.sqlite", "sums")
    by_n = sums.key_by("n").agg(keys=ms.count(), most=ms.max("k"))
    by_n.write_sqlite(out / "results.sqlite", "by_n", key="n")
    by_n.write_duckdb(out / "results.duckdb", "by_n", key="n")
    return flow


def listed(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    rows = flow.read_iterable([json.loads(line) for line in source.read_text().splitlines()])
    rows.write_jsonl(f"{out}/rows/")
    return flow


MAKERS = (stateless, windows, sessions, scanned_twice, patterns, asked, tables, listed)
FLOWS: dict[str, Callable[[Path, Path], Any]] = {make.__name__: make for make in MAKERS}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("seed", SEEDS)
def test_crashes_leave_no_trace_in_what_was_committed(tmp_path: Path, name: str, seed: int) -> None:
    make, source = FLOWS[name], events(tmp_path)
    calm = tmp_path / "calm"
    make(source, calm).run_here()
    out = tmp_path / "out"
    story = run_through_crashes(lambda: make(source, out), tmp_path / "state", seed)
    for path in sorted(p.relative_to(calm) for p in calm.iterdir()):
        assert rows_in(out / path) == rows_in(calm / path), f"{path} after {story.lives} lives"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_collected_after_crashes_is_every_row_once(tmp_path: Path, seed: int) -> None:
    def make() -> ms.Flow:
        flow = ms.Flow("crash")
        rows = read(flow, source)
        rows.filter(col("v") % 3 == 0).collect("some")
        rows.key_by("k").window(ms.tumbling("20s")).agg(n=ms.count()).collect("panes")
        return flow

    source = events(tmp_path)
    calm = make().run_here().tables
    story = run_through_crashes(make, tmp_path / "state", seed)
    assert story.lives > 1
    for name, table in calm.items():
        found = Counter(map(str, story.tables[name].to_pylist()))
        assert found == Counter(map(str, table.to_pylist())), f"{name} after {story.lives} lives"


def test_collected_rows_that_are_damaged_are_refused_by_file_name(tmp_path: Path) -> None:
    sink = CollectSink("rows", tmp_path / "rows")
    writer = sink.open_staged(0, 1, None)
    writer.write(pa.RecordBatch.from_pydict({"n": [1, 2]}))
    state = writer.prepare(last=False).state
    assert writer.prepare(last=False).state == state  # nothing new: nothing is written again
    again = sink.open_staged(0, 1, [state])
    assert isinstance(again, CollectWriter)
    assert again.table().to_pydict() == {"n": [1, 2]}
    path = tmp_path / "rows" / "0.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"0\.arrow: damaged"):
        sink.open_staged(0, 1, [state])
    path.unlink()
    with pytest.raises(CheckpointError, match=r"0\.arrow: is missing, and the checkpoint counts on it"):
        sink.open_staged(0, 1, [state])
