"""CSV: which records are good, which rows do not fit, and that strings survive the way there and back."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.connectors.csv import CsvDecoder, encode_csv
from millstream.connectors.text import RAW_BYTES, cut_csv
from millstream.errors import SchemaError

NAMES = ["key", "n", "x", "at"]
SCHEMA = pa.schema([("key", pa.string()), ("n", pa.int64()), ("x", pa.float64()), ("at", pa.timestamp("us", "UTC"))])  # type: ignore[arg-type]
GOOD = b'"a\nb",1,2.5,2024-05-14T18:58:20Z\n'
GOOD_ROW = {"key": "a\nb", "n": 1, "x": 2.5, "at": datetime(2024, 5, 14, 18, 58, 20, tzinfo=UTC)}


def test_records_become_rows() -> None:
    decoded = CsvDecoder(NAMES, SCHEMA).decode(GOOD + b"\n\r\n" + GOOD.replace(b"Z\n", b"Z\r\n"))
    assert decoded.columns.to_pylist() == [GOOD_ROW, GOOD_ROW]
    assert decoded.bad == []
    assert CsvDecoder(NAMES, SCHEMA).decode(b"\n\n").columns.num_rows == 0


def test_fields_are_read_by_name_in_the_schemas_order() -> None:
    schema = pa.schema([("x", pa.float32()), ("key", pa.string())])  # type: ignore[arg-type]
    assert CsvDecoder(NAMES, schema).decode(GOOD).columns.to_pylist() == [{"x": 2.5, "key": "a\nb"}]
    decoded = CsvDecoder(NAMES, pa.schema([])).decode(GOOD + b"1,2\n" + GOOD)
    assert (decoded.columns.num_rows, len(decoded.bad)) == (2, 1)


def test_an_empty_field_is_null_and_a_quoted_one_the_empty_string() -> None:
    rows = CsvDecoder(NAMES, SCHEMA).decode(b',,,\n"","","",""\n').columns.to_pylist()
    nothing = dict.fromkeys(NAMES)
    assert rows == [nothing, nothing | {"key": ""}]
    rows = CsvDecoder(NAMES, SCHEMA, null_values=["", "NA"]).decode(b'NA,NA,NA,NA\n"NA",1,2,\n').columns.to_pylist()
    assert [row["key"] for row in rows] == [None, "NA"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"a,1,2.5", "expected 4 fields, found 3"),
        (b"a,1,2.5,,", "expected 4 fields, found 5"),
        (b"a,1.5,2.5,", "field 'n': expected int64, found '1.5'"),
        (b"a,9223372036854775808,2.5,", "field 'n': expected int64, found '9223372036854775808'"),
        (b"a,1,x,", "field 'x': expected double, found 'x'"),
        (b"a,1,1,soon", "field 'at': expected timestamp[us, tz=UTC], found 'soon'"),
        (b"\xff,1,1,", "not valid UTF-8"),
        (b"a\rb,1,1,", "a carriage return outside quotes"),
    ],
)
def test_a_bad_record_is_named_and_its_neighbours_are_kept(record: bytes, reason: str) -> None:
    decoded = CsvDecoder(NAMES, SCHEMA).decode(b"\n" + GOOD + record + b"\r\n" + GOOD)
    assert decoded.columns.to_pylist() == [GOOD_ROW, GOOD_ROW]
    assert decoded.bad == [(1 + len(GOOD), 3, record, reason)]


def test_an_open_quote_costs_one_line() -> None:
    decoded = CsvDecoder(NAMES, SCHEMA).decode(b'x,1,2,\ny,"1,2,\nz,3,4,\n')
    assert [row["key"] for row in decoded.columns.to_pylist()] == ["x", "z"]
    assert decoded.bad == [(7, 1, b'y,"1,2,', "a quote is not closed")]


def test_a_long_bad_record_is_kept_in_part() -> None:
    (bad,) = CsvDecoder(NAMES, SCHEMA).decode(b"x" * (2 << 20)).bad
    assert len(bad.raw) == RAW_BYTES


def test_quotes_in_plain_fields_delimiters_and_spaces_around_numbers() -> None:
    decoder = CsvDecoder(NAMES, SCHEMA, delimiter=";")
    rows = decoder.decode(b'5" pipe, long; 7 ;\t1e3;2024-05-14 \n').columns.to_pylist()
    assert rows == [{"key": '5" pipe, long', "n": 7, "x": 1000.0, "at": datetime(2024, 5, 14, tzinfo=UTC)}]
    assert CsvDecoder(["a"], pa.schema([("a", pa.string())]), quote="").decode(b'"a\n').columns.to_pylist() == [
        {"a": '"a'}
    ]


def test_a_schema_that_the_file_does_not_have_is_refused() -> None:
    with pytest.raises(SchemaError, match="did you mean 'key'"):
        CsvDecoder(NAMES, pa.schema([("kex", pa.string())]))
    with pytest.raises(SchemaError, match="twice"):
        CsvDecoder(["a", "a"], pa.schema([("a", pa.string())]))
    with pytest.raises(SchemaError, match="list"):
        CsvDecoder(["a"], pa.schema([("a", pa.list_(pa.int64()))]))
    with pytest.raises(SchemaError, match="delimiter"):
        CsvDecoder(["a"], pa.schema([("a", pa.string())]), delimiter="ab")


# ---------------------------------------------------------------- properties

pieces = st.lists(
    st.sampled_from(
        [GOOD, b"a,1,2.5,\n", b'"', b",", b"\n", b"\r\n", b"\r", b"x", b"12", b'""', b" ", b"\xff", b"\xef\xbb\xbf"]
    ),
    max_size=14,
).map(b"".join)


@given(pieces, st.integers(0, 200))
def test_rows_do_not_depend_on_where_a_file_is_cut(data: bytes, torn: int) -> None:
    decoder = CsvDecoder(NAMES, SCHEMA)
    whole = decoder.decode(data)
    end = cut_csv(data[:torn], at_end=False)
    first, second = decoder.decode(data[:end]), decoder.decode(data[end:])
    assert pa.Table.from_batches([first.columns, second.columns]).equals(pa.Table.from_batches([whole.columns]))
    assert [bad.raw for bad in first.bad + second.bad] == [bad.raw for bad in whole.bad]
    assert [bad.offset + end for bad in second.bad] == [bad.offset for bad in whole.bad[len(first.bad) :]]


@given(pieces)
def test_a_record_decodes_alone_as_among_others(data: bytes) -> None:
    decoder = CsvDecoder(NAMES, SCHEMA)
    whole = decoder.decode(data)
    rows: list[dict[str, Any]] = []
    bad: list[tuple[bytes, str]] = []
    while data:
        end = next((i for i in range(1, len(data)) if cut_csv(data[:i], at_end=False)), len(data))
        # An open quote at the end shows only at the end: the rest is one step.
        alone = decoder.decode(data[:end])
        rows += alone.columns.to_pylist()
        bad += [(record.raw, record.reason) for record in alone.bad]
        data = data[end:]
    assert whole.columns.to_pylist() == rows
    assert [(record.raw, record.reason) for record in whole.bad] == bad


EVERYTHING = {
    pa.string(): st.text('ab",;.-\n\r\t\x00é\ufeff😀', max_size=6),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", "UTC"): st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(
        lambda t: t.replace(tzinfo=UTC)
    ),
    pa.date32(): st.dates(),
    pa.decimal128(20, 4): st.decimals(Decimal(-(10**15)), Decimal(10**15), places=4),
    pa.binary(): st.binary(min_size=1, max_size=5),
}


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    # Two at least: a lone null has no way to be written.
    types = draw(st.lists(st.sampled_from(list(EVERYTHING)), min_size=2, max_size=4))
    size = draw(st.integers(0, 5))
    columns = [draw(st.lists(st.none() | EVERYTHING[t], min_size=size, max_size=size)) for t in types]
    arrays = [pa.array(values, t) for values, t in zip(columns, types, strict=True)]
    names = [f"{i}{draw(EVERYTHING[pa.string()])}" for i in range(len(types))]
    return pa.RecordBatch.from_arrays(arrays, names=names).slice(draw(st.integers(0, size)))


@given(batches(), st.sampled_from([",", ";", "\t", "-", "."]))
def test_what_was_encoded_decodes_to_the_same(batch: pa.RecordBatch, delimiter: str) -> None:
    encoded = encode_csv(batch, header=False, delimiter=delimiter).to_pybytes()
    decoded = CsvDecoder(batch.schema.names, batch.schema, delimiter=delimiter).decode(encoded)
    assert decoded.bad == []
    assert decoded.columns.to_pylist() == batch.to_pylist()


@given(batches())
def test_the_csv_module_reads_as_many_records_as_were_written(batch: pa.RecordBatch) -> None:
    encoded = encode_csv(batch, header=True).to_pybytes().decode()
    header, *records = csv.reader(io.StringIO(encoded, newline=""))
    assert header == batch.schema.names
    assert [len(record) for record in records] == [batch.num_columns] * batch.num_rows
