"""Going on in the middle: whatever block was the last, the records behind it are read, each once, and none before it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.connectors import (
    ArrowSource,
    CsvSource,
    GeneratorSource,
    JsonLinesSource,
    ParquetSource,
    TableSource,
    TextSource,
)
from millstream.connectors.base import Block, Reader, Source
from millstream.errors import SourceError

COLUMNS = pa.table({"n": list(range(100)), "text": [f'"{n}",\n{n}' if n % 7 == 0 else f"t{n}" for n in range(100)]})


def csv_text(table: pa.Table, names: list[str]) -> str:
    def cell(value: object) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    lines = [",".join(names), *(",".join(cell(row[n]) for n in names) for row in table.to_pylist())]
    return "\n".join(lines) + "\n"


def make_csv(folder: Path) -> Source:
    (folder / "a-1.csv").write_text(csv_text(COLUMNS.slice(0, 40), ["n", "text"]))
    (folder / "a-2.csv").write_text(csv_text(COLUMNS.slice(40, 0), ["n", "text"]))
    (folder / "a-3.csv").write_text("\ufeff" + csv_text(COLUMNS.slice(40), ["text", "n"]))
    return CsvSource(folder / "a-*.csv")


def make_jsonl(folder: Path) -> Source:
    lines = [json.dumps(row) + "\n" for row in COLUMNS.to_pylist()]
    (folder / "a.jsonl.gz").write_bytes(gzip.compress("".join(lines[:45]).encode()))
    (folder / "b.jsonl").write_text("".join(lines[45:]))
    return JsonLinesSource([folder / "a.jsonl.gz", folder / "b.jsonl"])


def make_text(folder: Path) -> Source:
    (folder / "a.txt").write_text("\n".join(f"line {n}" for n in range(100)))
    return TextSource(folder / "a.txt", limit=80)


def make_parquet(folder: Path) -> Source:
    pq.write_table(COLUMNS.slice(0, 30), folder / "a.parquet", row_group_size=7)
    pq.write_table(COLUMNS.slice(30), folder / "b.parquet", row_group_size=50)
    return ParquetSource(folder / "*.parquet")


def make_arrow(folder: Path) -> Source:
    for name, part in (("a", COLUMNS.slice(0, 30)), ("b", COLUMNS.slice(30))):
        with pa.ipc.new_file(str(folder / f"{name}.arrow"), part.schema) as writer:
            writer.write_table(part, max_chunksize=11)
    return ArrowSource([folder / "a.arrow", folder / "b.arrow"], limit=90)


def make_table(folder: Path) -> Source:
    return TableSource(COLUMNS)


def make_generator(folder: Path) -> Source:
    return GeneratorSource({"n": (0, 1_000), "kind": ["a", "b"]}, count=70_000, seed=3)


MAKERS = (make_csv, make_jsonl, make_text, make_parquet, make_arrow, make_table, make_generator)


def records(source: Source, block: Block) -> list[Any]:
    decoder = source.decoder(None)
    if decoder is None:
        assert isinstance(block.payload, pa.RecordBatch)
        return block.payload.to_pylist()
    decoded = decoder.decode(bytes(block.payload))  # type: ignore[arg-type]
    assert not decoded.bad
    return decoded.columns.to_pylist()


def drained(source: Source, reader: Reader, sizes: Callable[[], tuple[int, int]]) -> list[Any]:
    rows: list[Any] = []
    while not reader.ended:
        block = reader.read(*sizes())
        if block is not None:
            rows += records(source, block)
    return rows


@pytest.mark.parametrize("make", MAKERS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_reading_goes_on_where_it_was(make: Callable[[Path], Source], tmp_path: Path, data: st.DataObject) -> None:
    source = make(tmp_path)
    (partition,) = source.partitions()
    whole = drained(source, source.open(partition), lambda: (1_000_000, 1 << 20))
    large = len(whole) > 1_000

    def sizes() -> tuple[int, int]:
        rows = data.draw(st.integers(1, 30_000 if large else 30), label="rows")
        return rows, data.draw(st.sampled_from([100, 1 << 20]) if not large else st.just(1 << 20), label="bytes")

    reader = source.open(partition)
    rows: list[Any] = []
    for _ in range(data.draw(st.integers(0, 6), label="blocks")):
        block = reader.read(*sizes())
        rows += [] if block is None else records(source, block)
    offset = json.loads(json.dumps(reader.offset()))
    reader.close()
    resumed = make(tmp_path)
    again = resumed.open_at(partition, offset)
    following = again.read(*sizes())
    if following is not None:
        rows += records(resumed, following)
        offset = json.loads(json.dumps(again.offset()))  # and once more
        resumed = make(tmp_path)
        again = resumed.open_at(partition, offset)
    rows += drained(resumed, again, lambda: (1_000_000, 1 << 20))
    assert rows == whole


def test_a_block_behind_the_middle_knows_its_line_and_byte(tmp_path: Path) -> None:
    source = make_text(tmp_path)
    reader = source.open(source.partitions()[0])
    reader.read(10, 1 << 20)
    offset = reader.offset()
    expected = reader.read(10, 1 << 20)
    assert offset is not None
    assert source.open_at(source.partitions()[0], offset).read(10, 1 << 20) == expected


# --- files that change ---


def followed(path: Path) -> TextSource:
    return TextSource(path, follow=True)


def lines(reader: Reader) -> list[str]:
    found: list[str] = []
    while (block := reader.read(1_000, 1 << 20)) is not None:
        found += bytes(block.payload).decode().splitlines()  # type: ignore[arg-type]
    return found


def test_a_followed_file_goes_on_behind_what_was_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("one\ntwo\nthr")
    reader = followed(path).open(str(path))
    assert lines(reader) == ["one", "two"]
    offset = reader.offset()
    with path.open("a") as file:
        file.write("ee\nfour\n")
    assert offset is not None
    assert lines(followed(path).open_at(str(path), offset)) == ["three", "four"]


def test_a_followed_file_that_was_rotated_meanwhile_is_read_to_its_end_and_then_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("one\ntwo\n")
    reader = followed(path).open(str(path))
    assert lines(reader) == ["one", "two"]
    offset = reader.offset()
    with path.open("a") as file:
        file.write("three\n")
    path.rename(tmp_path / "app.log.1")
    path.write_text("four\n")
    assert offset is not None
    assert lines(followed(path).open_at(str(path), offset)) == ["three", "four"]


@pytest.mark.parametrize("content", ["", "one\n", "other lines\nof the same or greater length\n"])
def test_a_file_that_is_another_one_now_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "events.txt"
    path.write_text("one\ntwo\nthree\n")
    reader = TextSource(path).open(str(path))
    reader.read(2, 1 << 20)
    offset = reader.offset()
    path.write_text(content)
    assert offset is not None
    with pytest.raises(SourceError, match=r"events\.txt: is not the file any more of which 8 bytes had been read"):
        TextSource(path).open_at(str(path), offset)


def test_a_column_file_that_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    source = make_parquet(tmp_path)
    reader = source.open(source.partitions()[0])
    reader.read(5, 1 << 20)
    offset = reader.offset()
    (tmp_path / "a.parquet").unlink()
    assert offset is not None
    with pytest.raises(SourceError, match=r"a\.parquet: was being read, and is not among the files any more"):
        ParquetSource(tmp_path / "*.parquet").open_at(str(tmp_path / "*.parquet"), offset)
