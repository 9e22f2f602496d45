"""Tables that are looked up in, from memory and from every kind of file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from harness.running import Rows, Way, run
from harness.sources import ColumnSource, fields

from millstream import aggregates as ms
from millstream.flow import Flow

TABLE = pa.table({"id": [3, 1, 2], "name": ["c", "a", None], "weight": [0.5, 1.5, 2.5]})
EVENTS = [[{"t": 1, "k": 1}, {"t": 2, "k": None}, {"t": 3, "k": 3}, {"t": 4, "k": 9}, {"t": 5, "k": 1}]]
SCHEMA = fields(t=pa.int64(), k=pa.int64())


def stored(folder: Path, kind: str) -> Path:
    path = folder / f"table{kind}"
    lines = "".join(f'{{"id": {i}, "name": {"null" if n is None else chr(34) + n + chr(34)}, "weight": {w}}}\n' for i, n, w in zip(*TABLE.to_pydict().values(), strict=True))  # fmt: skip
    if kind == ".csv":
        csv.write_csv(TABLE, path)
    elif kind == ".parquet":
        pq.write_table(TABLE, path)
    elif kind == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, TABLE.schema) as writer:
            writer.write_table(TABLE)
    elif kind == ".jsonl":
        path.write_text(lines)
    else:
        path.write_bytes(gzip.compress(lines.encode()))
    return path


@pytest.mark.parametrize("kind", ["memory", ".csv", ".parquet", ".arrow", ".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("way", [Way(1, 2), Way(3, 1, "workers")])
def test_a_table_is_read_from_memory_and_from_files(tmp_path: Path, kind: str, way: Way) -> None:
    table = TABLE if kind == "memory" else stored(tmp_path, kind)
    flow = Flow("lookup")
    stream = flow.source(ColumnSource(EVENTS, SCHEMA))
    stream.lookup(table, {"k": "id"}, columns=["name"]).collect("inner")
    stream.lookup(table, {"k": "id"}, "left").collect("left")
    rows = run(flow, way).rows
    assert by_time(rows["inner"]) == [
        {"t": 1, "k": 1, "name": "a"}, {"t": 3, "k": 3, "name": "c"}, {"t": 5, "k": 1, "name": "a"},
    ]  # fmt: skip
    assert [(r["name"], r["weight"]) for r in by_time(rows["left"])] == [
        ("a", 1.5), (None, None), ("c", 0.5), (None, None), ("a", 1.5),
    ]  # fmt: skip


def test_a_lookup_keeps_event_time_and_goes_by_fields_of_the_key() -> None:
    flow = Flow("behind")
    named = flow.source(ColumnSource(EVENTS, SCHEMA)).event_time("t", unit="s").lookup(TABLE, {"k": "id"})
    named.key_by("name").agg(n=ms.count(), weight=ms.sum("weight")).lookup(
        pa.table({"name": ["a"], "long": ["anna"]}), "name", "left"
    ).collect("out")
    last = {r["name"]: r for r in run(flow, Way(2, 3)).rows["out"]}
    assert last == {
        "a": {"name": "a", "n": 2, "weight": 3.0, "long": "anna"},
        "c": {"name": "c", "n": 1, "weight": 0.5, "long": None},
    }


def by_time(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: row["t"])
