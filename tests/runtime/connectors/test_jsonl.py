"""JSON lines: what is a record, what fits a field, and both ways of decoding agreeing on it."""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.connectors.cells import no_columns
from millstream.connectors.json_rows import RowDecoder
from millstream.connectors.jsonl import JsonDecoder, _Contest, encode_jsonl
from millstream.connectors.text import RAW_BYTES, cut_lines
from millstream.errors import SchemaError

SCHEMA = pa.schema(
    [  # type: ignore[arg-type]
        ("key", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("at", pa.timestamp("us", "UTC")),
        ("bid", pa.struct([("price", pa.int32()), ("tags", pa.list_(pa.string()))])),
    ]
)
GOOD = b'{"key":"a","n":1,"x":2.5,"at":"2024-05-14T18:58:20Z","bid":{"price":3,"tags":["p",null]},"other":[{}]}'


def rows(schema: pa.Schema, *lines: bytes) -> list[dict[str, Any]]:
    decoded = JsonDecoder(schema).decode(b"\n".join(lines))
    assert decoded.bad == []
    return decoded.columns.to_pylist()


def reason(field_type: pa.DataType, value: str) -> str:
    bad = JsonDecoder(pa.schema([("f", field_type)])).decode(b'{"f":%b}\n' % value.encode()).bad
    return bad[0].reason if bad else ""


def test_a_line_becomes_a_row_of_the_schemas_fields() -> None:
    at = datetime(2024, 5, 14, 18, 58, 20, tzinfo=UTC)
    assert rows(SCHEMA, GOOD) == [
        {"key": "a", "n": 1, "x": 2.5, "at": at, "bid": {"price": 3, "tags": ["p", None]}},
    ]


def test_missing_and_null_fields_are_null() -> None:
    nothing = dict.fromkeys(SCHEMA.names)
    assert rows(SCHEMA, b"{}", b'{"key":null,"bid":null}') == [nothing, nothing]
    assert rows(SCHEMA, b'{"bid":{}}')[0]["bid"] == {"price": None, "tags": None}


def test_blank_lines_crlf_and_spaces_are_no_records_of_their_own() -> None:
    schema = pa.schema([("n", pa.int64())])
    assert rows(schema, b"", b'{"n":1}\r', b"\r", b"  ", b' {"n":2} ', b"") == [{"n": 1}, {"n": 2}]
    assert rows(schema, b"") == []


def test_without_fields_rows_are_still_counted() -> None:
    decoded = JsonDecoder(pa.schema([])).decode(b'{"a":1}\n{}\n5\n')
    assert decoded.columns.num_rows == 2
    assert len(decoded.bad) == 1


@pytest.mark.parametrize(
    ("field_type", "value", "expected"),
    [
        (pa.int64(), "1.5", "field 'f': expected int64, found 1.5"),
        (pa.int64(), "1.0", "field 'f': expected int64, found 1.0"),
        (pa.int64(), '"1"', "field 'f': expected int64, found \"1\""),
        (pa.int64(), "true", "field 'f': expected int64, found true"),
        (pa.int64(), "9223372036854775808", "field 'f': expected int64, found 9223372036854775808"),
        (pa.int8(), "300", "field 'f': expected int8, found 300"),
        (pa.uint16(), "-1", "field 'f': expected uint16, found -1"),
        (pa.string(), "5", "field 'f': expected string, found 5"),
        (pa.bool_(), "0", "field 'f': expected bool, found 0"),
        (pa.float64(), '"NaN"', "field 'f': expected double, found \"NaN\""),
        (pa.timestamp("us", "UTC"), '"soon"', "field 'f': expected timestamp[us, tz=UTC], found \"soon\""),
        (pa.timestamp("us", "UTC"), "17", "field 'f': expected timestamp[us, tz=UTC], found 17"),
        (pa.date32(), '"2024-02-30"', "field 'f': expected date32[day], found \"2024-02-30\""),
        (pa.list_(pa.int64()), '[1,"2"]', "field 'f[1]': expected int64, found \"2\""),
        (pa.list_(pa.int64()), "{}", "found an object"),
        (
            pa.struct([("g", pa.struct([("h", pa.int8())]))]),
            '{"g":{"h":200}}',
            "field 'f.g.h': expected int8, found 200",
        ),
        (pa.struct([("g", pa.int8())]), "[1]", "found an array of 1"),
        (pa.decimal128(5, 2), "1.234", "found 1.234"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_field(field_type: pa.DataType, value: str, expected: str) -> None:
    assert expected in reason(field_type, value)


@pytest.mark.parametrize(
    "line",
    [
        b'{"n":1',
        b'{"n":1}x',
        b'{"n":1} {"n":2}',
        b'{"n":1}{"n":2}',
        b'{"n":1,}',
        b"[1]",
        b"null",
        b'{"n":01}',
        b'{"n":NaN}',
        b'{"other":tru}',
        b'{"other":"\xff"}',
        b'{"other":"\x01"}',
        b'{"key":"\\ud800"}',
        b"\xef\xbb\xbf{}",
        b'{"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_not_one_well_formed_object_is_bad_and_its_neighbours_are_not(line: bytes) -> None:
    decoded = JsonDecoder(SCHEMA).decode(GOOD + b"\n" + line + b"\n" + GOOD)
    assert decoded.columns.num_rows == 2
    (bad,) = decoded.bad
    assert (bad.offset, bad.line, bad.raw) == (len(GOOD) + 1, 1, line[:RAW_BYTES])
    assert bad.reason


def test_a_record_over_two_lines_is_two_bad_records() -> None:
    # As many objects as lines, and yet not one a line.
    for block in (b'{"n":\n1}', b'{"n":1} {"n":\n2}\n', b'{"n":1}{"n":\n\n2}\n', b'{"n":1}\n{"n":2}{"n":\n3}'):
        decoded = JsonDecoder(SCHEMA).decode(block)
        assert decoded.columns.num_rows == block.count(b"1}\n")
        assert len(decoded.bad) == 2


def test_integers_fit_float_fields_and_the_last_of_a_field_given_twice_counts() -> None:
    assert rows(SCHEMA, b'{"x":1,"n":1,"n":2}')[0] | {"at": None} == dict.fromkeys(SCHEMA.names) | {"x": 1.0, "n": 2}


def test_times_without_a_zone_are_utc_and_nanoseconds_are_cut() -> None:
    schema = pa.schema([("t", pa.timestamp("us", "UTC"))])
    texts = ["2024-05-14", "2024-05-14 18:58", "2024-05-14T18:58:20.5+02:00", "2024-05-14T18:58:20.123456789Z"]
    found = [row["t"] for row in rows(schema, *(b'{"t":"%b"}' % text.encode() for text in texts))]
    assert found == [
        datetime(2024, 5, 14, tzinfo=UTC),
        datetime(2024, 5, 14, 18, 58, tzinfo=UTC),
        datetime(2024, 5, 14, 16, 58, 20, 500_000, tzinfo=UTC),
        datetime(2024, 5, 14, 18, 58, 20, 123_456, tzinfo=UTC),
    ]


@pytest.mark.parametrize(("unit", "number"), [("s", 1715713100), ("ms", 1715713100000), ("us", 1715713100000000)])
def test_a_field_with_a_unit_reads_integers_as_times(unit: str, number: int) -> None:
    field = pa.field("t", pa.timestamp("us", "UTC"), metadata={"unit": unit})
    expected = datetime(2024, 5, 14, 18, 58, 20, tzinfo=UTC)
    assert rows(pa.schema([field]), b'{"t":%d}' % number)[0]["t"] == expected
    assert JsonDecoder(pa.schema([field])).decode(b'{"t":"2024-05-14"}').bad[0].reason.startswith("field 't'")


@pytest.mark.parametrize("kind", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("number", [9_000_000_000_000_000_000, -9_000_000_000_000_000_000])
def test_an_integer_beyond_the_range_of_times_is_bad_whatever_the_type(kind: Any, number: int) -> None:
    field = pa.field("t", pa.timestamp(kind, "UTC"), metadata={"unit": "ms"})
    decoded = JsonDecoder(pa.schema([field])).decode(b'{"t":1715713100000}\n{"t":%d}' % number)
    assert decoded.columns["t"].to_pylist() == [datetime(2024, 5, 14, 18, 58, 20, tzinfo=UTC)]
    assert [record.line for record in decoded.bad] == [1]


@pytest.mark.parametrize("there", [0, 1, 3, 4])
def test_of_records_that_are_mostly_missing_each_row_gets_its_own(there: int) -> None:
    inner = pa.struct([("n", pa.int64()), ("s", pa.string()), ("deep", pa.struct([("x", pa.int32())]))])
    full: list[dict[str, Any]] = [{"n": n, "s": f"row {n}", "deep": {"x": n}} for n in range(there)]
    lines: list[dict[str, Any]] = [{"r": row} for row in full] + [
        {"r": None},
        {"r": {"n": None, "s": "no number", "deep": None}},
        {},
    ]
    data = b"\n".join(json.dumps(line).encode() for line in lines[::-1])
    found = JsonDecoder(pa.schema([("r", inner)])).decode(data).columns
    found.validate(full=True)
    assert found["r"].to_pylist() == [line.get("r") for line in lines[::-1]]


def test_decimals_dates_and_binary_are_read_to_the_digit() -> None:
    schema = pa.schema([("d", pa.decimal128(38, 9)), ("day", pa.date32()), ("b", pa.binary())])  # type: ignore[arg-type]
    line = b'{"d":12345678901234567890.123456789,"day":"2024-05-14","b":"AAH/"}'
    expected = {"d": Decimal("12345678901234567890.123456789"), "day": date(2024, 5, 14), "b": b"\x00\x01\xff"}
    assert rows(schema, line) == [expected]


def test_any_text_may_be_a_fields_name() -> None:
    names = ["class", "a b", "x.y", "f1", "é", ""]
    schema = pa.schema([(name, pa.int64()) for name in names])
    values = dict(zip(names, range(len(names)), strict=True))
    assert rows(schema, json.dumps(values).encode()) == [values]


def test_a_schema_that_json_cannot_fill_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"'f'.*month_day_nano"):
        JsonDecoder(pa.schema([("f", pa.struct([("g", pa.month_day_nano_interval())]))]))
    with pytest.raises(SchemaError, match="not supported"):
        JsonDecoder(pa.schema([('q"q', pa.int64())]))
    with pytest.raises(SchemaError, match="twice"):
        JsonDecoder(pa.schema([("f", pa.int64()), ("f", pa.int64())]))


# ---------------------------------------------------------------- properties


@st.composite
def mutated_lines(draw: st.DrawFn) -> bytes:
    """Lines that are nearly GOOD: bytes replaced, removed, put in; newlines among them."""
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        line = bytearray(GOOD)
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(line) - 1))
            new = draw(
                st.sampled_from(
                    [b"", b"\n", b"\r", b'"', b"{", b"}", b"1", b"-", b".", b" ", b"\xff", b"9" * 20, b"null"]
                )
            )
            line[at : at + draw(st.integers(0, 2))] = new
            line = line or bytearray(b"\n")
        lines.append(bytes(line))
    return b"\n".join(lines)


@given(mutated_lines())
def test_a_block_at_once_and_line_by_line_give_the_same(block: bytes) -> None:
    decoder = RowDecoder(SCHEMA)
    at_once, each = decoder.decode(block), decoder.decode_each(block)
    assert at_once.columns.equals(each.columns)
    assert at_once.bad == each.bad
    assert at_once.columns.num_rows + len(each.bad) == sum(bool(line.strip(b" \t\r")) for line in block.split(b"\n"))


def test_large_blocks_give_the_same_whichever_way_of_decoding_is_tried() -> None:
    good, bad = b'{"key":"a","n":%d,"x":0.5}\n', b'{"key":"a","n":1.5}\n'
    block = b"".join(good % i if i % 100 else bad for i in range(2_000))
    schema = pa.schema([SCHEMA.field(name) for name in ("key", "n", "x")])
    decoder, expected = JsonDecoder(schema), RowDecoder(schema).decode(block)
    for _ in range(40):
        decoded = decoder.decode(block)
        assert decoded.columns.equals(expected.columns)
        assert decoded.bad == expected.bad


def test_the_faster_way_of_decoding_is_taken_and_the_other_tried_ever_less_often() -> None:
    contest = _Contest()

    def ways(blocks: int, cost: list[float]) -> list[int]:
        taken = []
        for _ in range(blocks):
            taken.append(contest.next())
            contest.took(taken[-1], cost[taken[-1]])
        return taken

    assert ways(4, [1.0, 2.0]) == [1, 0, 1, 0]
    assert sum(ways(5_000, [1.0, 2.0])) == 8
    assert sum(ways(5_000, [2.0, 1.0])) > 3_000


@given(mutated_lines(), st.integers(0, 400))
def test_rows_do_not_depend_on_where_a_file_is_cut(data: bytes, torn: int) -> None:
    decoder = JsonDecoder(SCHEMA)
    whole = decoder.decode(data)
    end = cut_lines(data[:torn], at_end=False)
    first, second = decoder.decode(data[:end]), decoder.decode(data[end:])
    assert pa.Table.from_batches([first.columns, second.columns]).equals(pa.Table.from_batches([whole.columns]))
    assert [bad.raw for bad in first.bad + second.bad] == [bad.raw for bad in whole.bad]
    assert [bad.offset + end for bad in second.bad] == [bad.offset for bad in whole.bad[len(first.bad) :]]


int64s = st.integers(-(2**63), 2**63 - 1)
text = st.text('ab"\\/\n\r\t\x00\x1f\x7f,:{}é\u2028😀', max_size=8)
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda t: t.replace(tzinfo=UTC))
EVERYTHING = {
    pa.string(): text,
    pa.int64(): int64s,
    pa.uint8(): st.integers(0, 255),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", "UTC"): times,
    pa.date32(): st.dates(),
    pa.decimal128(20, 4): st.decimals(-(10**15), 10**15, places=4),
    pa.binary(): st.binary(max_size=5),
    pa.duration("us"): st.timedeltas(timedelta(days=-1000), timedelta(days=1000)),
    pa.list_(pa.string()): st.lists(st.none() | text, max_size=3),
    pa.list_(pa.list_(pa.int64())): st.lists(st.none() | st.lists(int64s, max_size=2), max_size=3),
    pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))]): st.fixed_dictionaries(
        {"a": st.none() | int64s, "b": st.none() | st.lists(st.floats(-1e9, 1e9), max_size=2)}
    ),
}


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    types = draw(st.lists(st.sampled_from(list(EVERYTHING)), min_size=1, max_size=4))
    size = draw(st.integers(0, 5))
    columns = [draw(st.lists(st.none() | EVERYTHING[t], min_size=size, max_size=size)) for t in types]
    arrays = [pa.array(values, t) for values, t in zip(columns, types, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, names=[f"{i} é.{i}" for i in range(len(types))])
    start = draw(st.integers(0, size))
    return batch.slice(start)


@given(batches())
def test_what_was_encoded_decodes_to_the_same(batch: pa.RecordBatch) -> None:
    encoded = encode_jsonl(batch).to_pybytes()
    assert len([json.loads(line) for line in encoded.split(b"\n")[:-1]]) == batch.num_rows
    decoded = JsonDecoder(batch.schema).decode(encoded)
    assert decoded.bad == []
    assert decoded.columns.to_pylist() == batch.to_pylist()


# ---------------------------------------------------------------- encoding


def encoded(values: list[Any], type_: pa.DataType, **options: Any) -> list[str]:
    batch = pa.RecordBatch.from_arrays([pa.array(values, type_)], names=["f"])
    lines = encode_jsonl(batch, **options).to_pybytes().decode().split("\n")[:-1]
    return [line.removeprefix('{"f":').removesuffix("}") for line in lines]


def test_times_are_iso_8601_in_utc_with_a_fraction_only_where_there_is_one() -> None:
    instants = [datetime(2024, 5, 14, 18, 58, 20), None, datetime(1969, 12, 31, 23, 59, 59, 20), datetime(1, 1, 1)]
    found = encoded(instants, pa.timestamp("us"))
    assert found == ['"2024-05-14T18:58:20Z"', "null", '"1969-12-31T23:59:59.000020Z"', '"0001-01-01T00:00:00Z"']
    assert encoded(instants[:3], pa.timestamp("us"), times="ms") == ["1715713100000", "null", "-1000"]
    assert encoded([datetime(9999, 12, 31), 2**38], pa.timestamp("s"))[1].startswith('"10680-')


@given(
    st.lists(st.tuples(times, times.map(lambda t: t.replace(microsecond=0))), max_size=4), st.booleans(), st.booleans()
)
def test_times_beside_one_another_are_written_as_each_alone(
    values: list[tuple[datetime, datetime]], swapped: bool, between: bool
) -> None:
    columns = [pa.array([row[i] for row in values], pa.timestamp("us", "UTC")) for i in ((1, 0) if swapped else (0, 1))]
    columns.insert(1 if between else 2, columns[1])
    names = ["a", 'b"é', "c"]
    alone = [
        encode_jsonl(pa.RecordBatch.from_arrays([c], names=[n])).to_pybytes()
        for n, c in zip(names, columns, strict=True)
    ]
    parts = zip(*([line[1:-1] for line in text.split(b"\n")[:-1]] for text in alone), strict=True)
    expected = b"".join(b"{" + b",".join(row) + b"}\n" for row in parts)
    assert encode_jsonl(pa.RecordBatch.from_arrays(columns, names=names)).to_pybytes() == expected


def test_nan_and_infinity_become_null() -> None:
    assert encoded([math.nan, math.inf, -math.inf, 0.1, None], pa.float64()) == ["null"] * 3 + ["0.1", "null"]


def test_strings_are_escaped() -> None:
    hard = ['a"b', "a\\b", "\n\r\t\b\f", "\x00\x1f", "é\u2028😀", '\\"', None]
    assert [json.loads(text) for text in encoded(hard, pa.string())] == hard


def test_maps_are_objects_and_binary_is_base64() -> None:
    maps = encoded([[("a", 1), ("b", None)], [], None], pa.map_(pa.string(), pa.int64()))
    assert maps == ['{"a":1,"b":null}', "{}", "null"]
    assert encoded([b"\x00\xff"], pa.binary()) == [json.dumps(base64.b64encode(b"\x00\xff").decode())]
    assert encoded(["x", "y", "x"], pa.dictionary(pa.int8(), pa.string())) == ['"x"', '"y"', '"x"']


def test_nothing_is_encoded_as_nothing_and_no_columns_as_empty_objects() -> None:
    assert encoded([], pa.int64()) == []
    assert encode_jsonl(no_columns(2)).to_pybytes() == b"{}\n{}\n"
