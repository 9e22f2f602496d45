"""Which library should turn text into columns and back? One thread, blocks of 1 MiB, every library that is installed.

    scripts/bench formats [--events events.jsonl.gz] [--flights flights.csv.gz] [--strict]

Decoding goes from a block in memory to Arrow columns of a given schema; encoding from 65,536 rows of seven
columns to bytes. Figures are the best of seven. The bid events are Nexmark's (nested, 300 bytes, four fields
read), the flights are New York's of 2013. ``--strict`` shows instead what each decoder makes of a doubtful
record between two good ones.
"""

from __future__ import annotations

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # read when Polars is imported

import argparse
import gzip
import importlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json

from millstream.connectors.csv import CsvDecoder, encode_csv
from millstream.connectors.infer import csv_header, split_header
from millstream.connectors.json_columns import ColumnDecoder
from millstream.connectors.json_rows import RowDecoder
from millstream.connectors.jsonl import JsonDecoder, encode_jsonl

BLOCK_BYTES = 1 << 20
ROWS = 65_536
REPEAT = 7

SMALL = pa.schema({"key": pa.string(), "ts": pa.int64(), "value": pa.float64()})  # type: ignore[arg-type]
BID = pa.struct([("auction", pa.int64()), ("price", pa.int64())])
BIDS = pa.schema({"event_type": pa.int64(), "ts": pa.int64(), "bid": BID})
FLIGHTS = pa.schema(
    {  # type: ignore[arg-type]
        "scheduled": pa.timestamp("us", "UTC"),
        "departed": pa.timestamp("us", "UTC"),
        "carrier": pa.string(),
        "dep_delay": pa.int64(),
        "arr_delay": pa.float64(),
    }
)

Decode = Callable[[bytes], Any]
Encode = Callable[[], Any]


class Block(NamedTuple):
    data: bytes
    rows: int


def small_block() -> Block:
    random = np.random.default_rng(7)
    line = '{"key":"user-%d","ts":%d,"value":%s}\n'
    rows = BLOCK_BYTES // 53
    keys, values = random.integers(0, 1000, rows).tolist(), np.round(random.random(rows) * 100, 3).tolist()
    text = "".join(
        line % (key, 1_700_000_000_000 + i, value) for i, (key, value) in enumerate(zip(keys, values, strict=True))
    )
    return Block(text.encode(), rows)


def first_block(path: str) -> Block:
    with gzip.open(path) as file:
        data = file.read(BLOCK_BYTES)
    data = data[: data.rfind(b"\n") + 1]
    return Block(data, data.count(b"\n"))


def result_batch() -> pa.RecordBatch:
    """Panes as a window writes them: two times, a key, two counts, two floats of which one has all its digits."""
    random = np.random.default_rng(7)
    start = 1_700_000_000_000_000 + random.integers(0, 86_400, ROWS) * 1_000_000
    columns: dict[str, Any] = {
        "window_start": pa.array(start, pa.timestamp("us", "UTC")),
        "window_end": pa.array(start + 3_600_000_000, pa.timestamp("us", "UTC")),
        "key": pa.array([f"user-{i}" for i in random.integers(0, 1000, ROWS)]),
        "count": pa.array(random.integers(0, 1000, ROWS)),
        "total": pa.array(random.integers(0, 10**9, ROWS)),
        "mean": pa.array(np.round(random.random(ROWS) * 100, 3)),
        "deviation": pa.array(random.random(ROWS)),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


# ---------------------------------------------------------------- contestants


def json_decoders(schema: pa.Schema) -> Iterator[tuple[str, Decode]]:
    yield "millstream", JsonDecoder(schema).decode
    rows = RowDecoder(schema)
    columns = ColumnDecoder.for_schema(schema, rows)
    assert columns is not None
    yield "millstream, by layout", columns.decode
    yield "millstream, each line parsed (msgspec)", rows.decode
    yield "pyarrow", lambda data: _arrow_json(data, schema)
    if pl := _installed("polars"):
        types = {field.name: _polars_type(pl, field.type) for field in schema}
        yield "polars", lambda data: pl.read_ndjson(data, schema=types).to_arrow()
    if orjson := _installed("orjson"):
        yield "orjson", lambda data: pa.RecordBatch.from_pylist([orjson.loads(x) for x in data.splitlines()], schema)
    if simdjson := _installed("simdjson"):
        parse = simdjson.Parser().parse
        yield "pysimdjson (parsing alone)", lambda data: [None for line in data.splitlines() if parse(line) is None]
    if duckdb := _installed("duckdb"):
        yield "duckdb", _duckdb_reader(duckdb, "read_json", "format='newline_delimited'", schema, schema.names)


def csv_decoders(names: list[str], schema: pa.Schema) -> Iterator[tuple[str, Decode]]:
    yield "millstream (pyarrow, text and casts)", CsvDecoder(names, schema).decode
    yield "pyarrow, typed", lambda data: _arrow_csv(data, names, schema)
    if pl := _installed("polars"):
        types = dict.fromkeys(names, pl.String)
        types |= {field.name: _polars_type(pl, field.type) for field in schema if not pa.types.is_timestamp(field.type)}
        indices = [names.index(name) for name in schema.names]

        def read_polars(data: bytes) -> Any:
            frame = pl.read_csv(data, has_header=False, schema=types, columns=indices)
            times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
            return frame.with_columns(pl.col(times).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")).to_arrow()

        yield "polars", read_polars
    if duckdb := _installed("duckdb"):
        options = "header=false, auto_detect=false, delim=',', quote='\"'"
        yield "duckdb", _duckdb_reader(duckdb, "read_csv", options, schema, names)


def json_encoders(batch: pa.RecordBatch) -> Iterator[tuple[str, Encode]]:
    yield "millstream (pyarrow compute)", lambda: encode_jsonl(batch)
    if pl := _installed("polars"):
        yield "polars", lambda: pl.from_arrow(batch).write_ndjson(io.BytesIO())
    if duckdb := _installed("duckdb"):
        yield "duckdb", _duckdb_writer(duckdb, batch, "json")
    if msgspec := _installed("msgspec"):
        row = msgspec.defstruct("Row", batch.schema.names, gc=False)
        encoder = msgspec.json.Encoder()
        yield "msgspec", lambda: encoder.encode_lines(list(map(row, *(column.to_pylist() for column in batch.columns))))
    if orjson := _installed("orjson"):
        yield "orjson", lambda: b"\n".join(map(orjson.dumps, batch.to_pylist()))


def csv_encoders(batch: pa.RecordBatch) -> Iterator[tuple[str, Encode]]:
    yield "millstream (pyarrow compute)", lambda: encode_csv(batch, header=False)
    yield "pyarrow", lambda: arrow_csv.write_csv(batch, pa.BufferOutputStream())
    if pl := _installed("polars"):
        yield "polars", lambda: pl.from_arrow(batch).write_csv(io.BytesIO())
    if duckdb := _installed("duckdb"):
        yield "duckdb", _duckdb_writer(duckdb, batch, "csv")


def _arrow_json(data: bytes, schema: pa.Schema) -> pa.Table:
    source: Any = pa.BufferReader(data)
    read = arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
    parse = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return arrow_json.read_json(source, read_options=read, parse_options=parse)


def _arrow_csv(data: bytes, names: list[str], schema: pa.Schema) -> pa.Table:
    source: Any = pa.BufferReader(data)
    read = arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names)
    convert = arrow_csv.ConvertOptions(column_types=schema, include_columns=schema.names)
    return arrow_csv.read_csv(source, read_options=read, convert_options=convert)


def _duckdb_reader(duckdb: Any, function: str, options: str, schema: pa.Schema, names: list[str]) -> Decode:
    """DuckDB reads files only; memory-backed ones, so that no disk is in the figure."""
    connection = duckdb.connect(config={"threads": 1})
    types = {field.name: _sql_type(field.type) for field in schema}
    columns = ", ".join(f"'{name}': '{types.get(name, 'VARCHAR')}'" for name in names)
    descriptor = os.memfd_create("block")
    path = f"/proc/self/fd/{descriptor}"
    query = f"select {', '.join(schema.names)} from {function}('{path}', columns={{{columns}}}, {options})"

    def read(data: bytes) -> Any:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        return connection.sql(query).to_arrow_table()

    return read


def _duckdb_writer(duckdb: Any, batch: pa.RecordBatch, format_: str) -> Encode:
    connection = duckdb.connect(config={"threads": 1})
    connection.register("panes", pa.Table.from_batches([batch]))
    path = f"/proc/self/fd/{os.memfd_create('rows')}"
    return lambda: connection.execute(f"copy panes to '{path}' (format {format_}, use_tmp_file false)")


def _sql_type(type_: Any) -> str:
    if pa.types.is_struct(type_):
        return f"STRUCT({', '.join(f'{field.name} {_sql_type(field.type)}' for field in type_)})"
    if pa.types.is_timestamp(type_):
        return "TIMESTAMPTZ"
    return {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}[type_]


def _polars_type(pl: Any, type_: Any) -> Any:
    if pa.types.is_struct(type_):
        return pl.Struct({field.name: _polars_type(pl, field.type) for field in type_})
    return {pa.string(): pl.String, pa.int64(): pl.Int64, pa.float64(): pl.Float64}[type_]


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# ---------------------------------------------------------------- strictness

DOUBTFUL = {
    "float in an int field": b'{"ts":1.5}',
    "string in an int field": b'{"ts":"1"}',
    "int in a string field": b'{"key":5}',
    "int in a float field": b'{"value":1}',
    "int beyond int64": b'{"ts":9223372036854775808}',
    "float beyond double": b'{"value":1e400}',
    "NaN": b'{"value":NaN}',
    "null for a record": b"null",
    "field twice": b'{"ts":1,"ts":2}',
    "two records on a line": b'{"ts":1} {"ts":2}',
    "record over two lines": b'{"ts":\n1}',
    "garbage after the record": b'{"ts":1}x',
    "trailing comma": b'{"ts":1,}',
    "invalid UTF-8": b'{"key":"\xff"}',
    "invalid UTF-8, field not read": b'{"other":"\xff"}',
    "control character": b'{"other":"\x01"}',
    "half a surrogate pair": b'{"key":"\\ud83d"}',
    "malformed number, not read": b'{"other":01}',
    "byte order mark": b'\xef\xbb\xbf{"ts":1}',
    "CRLF": b'{"ts":1}\r',
    "blank line": b"",
}


def strictness() -> None:
    good = b'{"key":"good"}\n'
    for title, line in DOUBTFUL.items():
        print(title)
        for name, decode in json_decoders(SMALL):
            if "alone" not in name:
                outcome = _outcome(decode, good + line + b"\n" + good)
                print(f"    {name:22s}{outcome}")


def _outcome(decode: Decode, data: bytes) -> str:
    try:
        decoded = decode(data)
        if isinstance(decoded, tuple) and decoded[1]:
            return f"bad: {decoded[1][0].reason}"
        columns = decoded[0] if isinstance(decoded, tuple) else decoded
        return str([{k: v for k, v in row.items() if v is not None} for row in columns.to_pylist()[1:-1]])
    except Exception as error:
        return "refused: " + str(error).splitlines()[0][:90]


# ---------------------------------------------------------------- figures


def best_s(run: Callable[[], Any]) -> float:
    for _ in range(4):  # Millstream tries both ways of decoding JSON before it settles
        run()
    times = []
    for _ in range(REPEAT):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def report(title: str, rows: int, runs: Iterator[tuple[str, Callable[[], Any]]]) -> None:
    print(f"{title}: {rows} rows")
    for name, run in runs:
        try:
            print(f"    {name:38s}{rows / best_s(run) / 1e6:6.2f} M rows/s")
        except Exception as error:
            print(f"    {name:38s}failed: {str(error).splitlines()[0][:100]}")


def on(data: bytes, decoders: Iterator[tuple[str, Decode]]) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name, decode in decoders:
        yield name, lambda decode=decode: decode(data)  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", help="Nexmark events as JSON lines, gzipped")
    parser.add_argument("--flights", help="flights as CSV with a header, gzipped")
    parser.add_argument("--strict", action="store_true", help="show what is accepted instead of how fast")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    if arguments.strict:
        strictness()
        return
    small = small_block()
    report("decode small JSON records", small.rows, on(small.data, json_decoders(SMALL)))
    if arguments.events:
        events = first_block(arguments.events)
        report("decode nested JSON events, 4 fields", events.rows, on(events.data, json_decoders(BIDS)))
    if arguments.flights:
        header, records = split_header(first_block(arguments.flights).data)
        names = csv_header(header)
        report("decode CSV flights, 5 of 11 fields", records.count(b"\n"), on(records, csv_decoders(names, FLIGHTS)))
    batch = result_batch()
    report("encode JSON lines, 7 columns", ROWS, json_encoders(batch))
    report("encode CSV, 7 columns", ROWS, csv_encoders(batch))


if __name__ == "__main__":
    main()
