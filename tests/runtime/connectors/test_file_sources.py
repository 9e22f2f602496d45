"""Sources of files: schemas, headers, projection, and what is said about files that do not fit."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millstream.connectors.base import Source
from millstream.connectors.file_sources import ArrowSource, CsvSource, JsonLinesSource, ParquetSource, TextSource
from millstream.errors import SchemaError, SourceError
from millstream.schema import to_schema


def rows_of(source: Source, fields: list[str] | None = None, max_rows: int = 65_536) -> list[dict[str, Any]]:
    source = pickle.loads(pickle.dumps(source))
    decoder = source.decoder(fields)
    rows: list[dict[str, Any]] = []
    for partition in source.partitions():
        reader = source.open(partition)
        while (block := reader.read(max_rows, 1 << 20)) is not None:
            payload = block.payload
            rows += (payload if isinstance(payload, pa.RecordBatch) else decoder.decode(payload).columns).to_pylist()  # type: ignore[union-attr]
        assert reader.ended
        reader.close()
    return rows


def test_json_lines_are_read_by_the_schema_of_the_first_file_that_holds_anything(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("")
    (tmp_path / "2").write_text('{"a":1,"b":"x"}\n{"a":2.5}\n')
    source = JsonLinesSource(f"{tmp_path}/*")
    assert source.schema() == to_schema({"a": pa.float64(), "b": pa.string()})
    assert rows_of(source) == [{"a": 1.0, "b": "x"}, {"a": 2.5, "b": None}]
    assert rows_of(source, ["b"]) == [{"b": "x"}, {"b": None}]


def test_an_empty_file_has_no_fields_and_no_rows(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("\n")
    for source in (JsonLinesSource(tmp_path / "x"), CsvSource(tmp_path / "x")):
        assert source.schema() == pa.schema([])
        assert rows_of(source) == []


def test_a_declared_schema_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"t":"2025-01-01T00:00:00Z","n":1}\n')
    schema = to_schema({"t": pa.timestamp("us", "UTC")})
    assert rows_of(JsonLinesSource(tmp_path / "x", schema=schema)) == [{"t": datetime(2025, 1, 1, tzinfo=UTC)}]


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello\n")
    with pytest.raises(SourceError, match=r"/x: no JSON object"):
        JsonLinesSource(tmp_path / "x").schema()


@pytest.mark.parametrize("source", [JsonLinesSource, CsvSource, TextSource, ParquetSource, ArrowSource])
def test_what_is_missing_is_said_while_planning(tmp_path: Path, source: Any) -> None:
    with pytest.raises(SourceError, match="there is no such file"):
        source(tmp_path / "none").partitions()
    if source is not TextSource:
        with pytest.raises(SourceError, match="there is no such file"):
            source(tmp_path / "none").schema()


def test_columns_of_csv_files_may_stand_in_another_order(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,x\n2,y\n")
    (tmp_path / "2.csv").write_text("\ufeffb,a\r\nz,3\r\nw,oops\r\n")
    source = CsvSource(f"{tmp_path}/*.csv")
    assert rows_of(source) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]
    assert rows_of(source, ["b"], max_rows=1) == [{"b": "x"}, {"b": "y"}, {"b": "z"}, {"b": "w"}]
    reader, decoder = source.open(source.partitions()[0]), source.decoder(None)
    reader.read(10, 100)
    block = reader.read(10, 100)
    assert block is not None
    assert (block.line, block.offset) == (2, 8)
    (bad,) = decoder.decode(block.payload).bad  # type: ignore[arg-type]
    assert (bad.offset, bad.line, bad.raw) == (5, 1, b"w,oops")


def test_csv_files_with_other_fields_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / "2.csv").write_text("a,c\n1,x\n")
    with pytest.raises(SourceError, match=r"2\.csv: the header is a, c, but that of .*1\.csv is a, b"):
        CsvSource(f"{tmp_path}/*.csv").partitions()


def test_a_declared_field_that_the_header_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("apple,b\n1,x\n")
    with pytest.raises(SchemaError, match=r"1\.csv: no field 'aple'; did you mean 'apple'"):
        CsvSource(tmp_path / "1.csv", schema=to_schema({"aple": pa.int64()})).schema()


def test_lines_of_text_keep_everything_but_their_ends(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes("a\r\n\nb\u00e9 \n c".encode() + b"\n\xff\nd\re")
    source = TextSource(tmp_path / "x")
    assert [r["line"] for r in rows_of(source)] == ["a", "", "b\u00e9 ", " c", "d\re"]
    block = source.open("").read(100, 1000)
    assert block is not None
    (bad,) = source.decoder(None).decode(block.payload).bad  # type: ignore[arg-type]
    assert (bad.line, bad.raw, bad.reason) == (4, b"\xff", "not valid UTF-8")
    assert bytes(block.payload)[bad.offset :].startswith(b"\xff")  # type: ignore[arg-type]


TABLE = pa.table(
    {
        "n": pa.array(range(10), pa.int32()),
        "s": pa.array([str(i) for i in range(10)]).dictionary_encode(),
        "t": pa.array([datetime(2025, 1, 1)] * 10, pa.timestamp("ms")),
    }
)


def write_table(path: Path, kind: str) -> Source:
    if kind == "parquet":
        pq.write_table(TABLE, path, row_group_size=4)
        return ParquetSource(path)
    with pa.OSFile(str(path), "wb") as file:
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with make(file, TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=4)
    return ArrowSource(path)


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_files_of_columns_give_plain_columns_in_blocks_of_any_size(tmp_path: Path, kind: str) -> None:
    source = write_table(tmp_path / "x", kind)
    assert source.schema() == to_schema({"n": pa.int32(), "s": pa.string(), "t": pa.timestamp("ms")})
    expected = TABLE.to_pylist()
    for max_rows in (1, 3, 100):
        assert rows_of(source, max_rows=max_rows) == expected
    reader = source.open("")
    offsets = []
    while (block := reader.read(3, 1 << 20)) is not None:
        assert isinstance(block.payload, pa.RecordBatch)
        offsets.append((block.offset, block.payload.num_rows))
    assert [n for n, _ in offsets] == [sum(rows for _, rows in offsets[:i]) for i in range(len(offsets))]
    assert sum(rows for _, rows in offsets) == 10


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_only_the_fields_that_are_read_are_decoded(tmp_path: Path, kind: str) -> None:
    source = write_table(tmp_path / "x", kind)
    narrowed = source.with_fields(["s"])
    assert narrowed.schema() == to_schema({"s": pa.string()})
    assert rows_of(narrowed) == [{"s": str(i)} for i in range(10)]
    block = source.with_fields([]).open("").read(100, 1 << 20)
    assert block is not None
    assert isinstance(block.payload, pa.RecordBatch)
    assert block.payload.num_rows > 0
    with pytest.raises(SchemaError, match="no field 'x'"):
        source.with_fields(["x"]).schema()


@pytest.mark.parametrize("fields", [["n"], ["n", "m"]])
@pytest.mark.parametrize("make", [pa.ipc.new_file, pa.ipc.new_stream])
def test_columns_of_an_arrow_file_are_views_of_the_mapped_file(tmp_path: Path, make: Any, fields: list[str]) -> None:
    table = pa.table({"n": range(1_000_000), "m": range(1_000_000)})
    with make(str(tmp_path / "x"), table.schema) as writer:
        writer.write_table(table)
    before = pa.total_allocated_bytes()
    reader = ArrowSource(tmp_path / "x").with_fields(fields).open("")
    held = []
    while (block := reader.read(65_536, 1 << 30)) is not None:
        assert isinstance(block.payload, pa.RecordBatch)
        held.append(block.payload)
    assert sum(columns.num_rows for columns in held) == 1_000_000
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_compressed_arrow_files_are_read_by_field(tmp_path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(tmp_path / "x"), TABLE.schema, options=options) as writer:
        writer.write_table(TABLE)
    assert rows_of(ArrowSource(tmp_path / "x").with_fields(["s"])) == [{"s": str(i)} for i in range(10)]


def test_parquet_files_must_have_the_fields_of_the_first(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "1")
    pq.write_table(pa.table({"a": [1.5], "b": [2]}), tmp_path / "2")
    source = ParquetSource(f"{tmp_path}/*")
    assert rows_of(source.with_fields(["b"])) == [{"b": 2}, {"b": 2}]
    with pytest.raises(SourceError, match=r"/2: field 'a': expected int64, found double"):
        rows_of(source)


def test_a_file_that_is_no_parquet_or_arrow_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello, this is not what you think it is")
    for source in (ParquetSource(tmp_path / "x"), ArrowSource(tmp_path / "x")):
        with pytest.raises(SourceError, match="/x: "):
            source.schema()


@pytest.mark.parametrize("kind", ["parquet", "file"])
def test_a_limit_cuts_columns_exactly(tmp_path: Path, kind: str) -> None:
    write_table(tmp_path / "x", kind)
    source = (ParquetSource if kind == "parquet" else ArrowSource)(tmp_path / "x", limit=5)
    assert [r["n"] for r in rows_of(source)] == [0, 1, 2, 3, 4]
