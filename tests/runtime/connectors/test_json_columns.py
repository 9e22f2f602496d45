"""JSON lines by layout: always the columns, bad records and reasons of the decoder that parses each line."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.connectors.base import Decoded
from millstream.connectors.json_columns import ColumnDecoder
from millstream.connectors.json_rows import RowDecoder

FLAT = pa.schema(
    [  # type: ignore[arg-type]
        ("key", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
    ]
)
NESTED = pa.schema(
    [  # type: ignore[arg-type]
        ("n", pa.int32()),
        ("bid", pa.struct([("price", pa.float32()), ("deep", pa.struct([("name", pa.large_string())]))])),
        ("missing", pa.string()),
    ]
)
TYPED = pa.schema(
    [
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("n", pa.timestamp("us", "UTC"), metadata={"unit": "ms"}),
        pa.field("day", pa.date32()),
        pa.field("ok", pa.bool_()),
        pa.field("x", pa.uint64()),
        pa.field("gap", pa.duration("us")),
    ]
)
SCHEMAS = [FLAT, NESTED, TYPED, pa.schema([])]

NUMBERS = [
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "-1",
        "01",
        "-01",
        "+1",
        "1.",
        ".5",
        "-.5",
        "-",
        "",
        "1.5",
        "0.125",
        "00.5",
        "1e5",
        "1.e5",
    ),
    *("1E+5", "1e-5", "0e0", "1e400", "-1e400", "1e-400", "2147483648", "9223372036854775807", "9223372036854775808"),
    *("18446744073709551615", "123456789012345678901234567890", "0.1234567890123456789", "4.9e-324", "0x10", "1_0"),
    *("NaN", "nan", "inf", "Infinity", "null", "nul", "true", "false", "True", "tru", "1 2", "1,2", " 1", "1\t", "\r1"),
]
STRINGS = [
    *(
        "",
        "a",
        "user-1",
        "é",
        "\u2028",
        "😀",
        "null",
        "2024-05-14T18:58:20Z",
        "2024-05-14",
        "2024-05-14 25:00",
        "x" * 70,
    ),
    *(r"\n", r"\\", r"\"", r"\\\"", r"\\\\", r"a\/b", r"\u00e9", r"\u12", r"\ud83d\ude00", r"\ud83d", r"\q", "\\"),
    *("\t", "\x00", "\x7f", "}", '"', '","n":1', '":"', "\\" * 63, "\\" * 64, "\\" * 130),
]
VALUES = st.one_of(
    st.sampled_from(NUMBERS),
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.sampled_from(STRINGS).map('"{}"'.format),
    st.sampled_from(
        ["[]", "[1]", "[1, 2.5,null]", "[1,]", "[[1],[2]]", '["a","b"]', '[{"a":1},{"a":2}]', "{}", '{"name":1}']
    ),
)
NAMES = st.sampled_from(["key", "n", "x", "at", "day", "ok", "gap", "other", "é", r"\n", "bid", "price", "name"])


@st.composite
def templates(draw: st.DrawFn) -> str:
    """A line with {} where values go; keys may be there twice, objects may be nested, spaces anywhere."""
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", ":\t"), (",", " : ")]))
    members = [f'"{name}"{colon}{{}}' for name in draw(st.lists(NAMES, max_size=5, unique=draw(st.booleans())))]
    if draw(st.booleans()):
        deep = comma.join([f'"price"{colon}{{}}', f'"deep"{colon}{{{{"name"{colon}{{}}}}}}'])
        members.insert(draw(st.integers(0, len(members))), f'"bid"{colon}{{{{{deep}}}}}')
    return "{{" + comma.join(members) + draw(st.sampled_from(["", " "])) + "}}" + draw(st.sampled_from(["", " ", "\r"]))


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """Lines of a few layouts, with values that mostly stay what they are, and some bytes changed."""
    lines: list[bytes] = []
    for template in draw(st.lists(templates(), min_size=1, max_size=3)):
        slots = template.replace("{{", "").replace("}}", "").count("{}")
        usual = [draw(VALUES) for _ in range(slots)]
        for _ in range(draw(st.integers(1, 6))):
            values = [draw(VALUES) if draw(st.integers(0, 5)) == 0 else value for value in usual]
            lines.append(template.format(*values).encode(errors="surrogatepass"))
    lines = draw(st.permutations(lines))
    data = bytearray(b"\n".join(lines) + draw(st.sampled_from([b"", b"\n", b"\n\n", b"\r\n"])))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        new = draw(
            st.sampled_from(
                [b"", b"\n", b"\r", b'"', b"{", b"}", b"1", b"-", b" ", b"\\", b"\xff", b"\xc3", b",", b":"]
            )
        )
        data[at : at + draw(st.integers(0, 2))] = new
    return bytes(data)


def same(decoded: Decoded, expected: Decoded) -> bool:
    """Equal in all, also in the signs of zeros."""
    found, wanted = decoded.columns, expected.columns
    texts = [[column.to_string(window=found.num_rows) for column in batch.columns] for batch in (found, wanted)]
    return found.equals(wanted, check_metadata=True) and texts[0] == texts[1] and decoded.bad == expected.bad


def both(schema: pa.Schema, *given: bytes) -> None:
    """Assert that blocks, one after the other, give what they give when each line is parsed."""
    rows = RowDecoder(schema)
    columns = ColumnDecoder.for_schema(schema, rows, few=0)
    assert columns is not None
    for block in given:
        assert same(columns.decode(block), rows.decode(block))


@pytest.mark.parametrize("schema", SCHEMAS, ids=["flat", "nested", "typed", "nothing"])
@given(st.data())
def test_lines_by_layout_are_what_they_are_when_each_is_parsed(schema: pa.Schema, data: st.DataObject) -> None:
    both(schema, *(data.draw(blocks()) for _ in range(2)))


@pytest.mark.parametrize("schema", SCHEMAS, ids=["flat", "nested", "typed", "nothing"])
def test_any_value_among_good_ones_gets_the_verdict_of_the_parser(schema: pa.Schema) -> None:
    good = {
        "key": '"k"',
        "n": "7",
        "x": "1",
        "at": '"2024-05-14"',
        "day": '"2024-05-14"',
        "ok": "true",
        "gap": "5",
        "other": "1",
    }
    for name in good:
        for value in [*NUMBERS, *(f'"{text}"' for text in STRINGS), "[1,2]", "{}"]:
            lines = [
                "{" + ",".join(f'"{k}":{v}' for k, v in (good | {name: new}).items()) + "}"
                for new in (good[name], value)
            ]
            both(schema, "\n".join([lines[0], lines[0], lines[1], lines[0]]).encode())


def test_escapes_are_found_wherever_words_of_64_characters_end() -> None:
    for before in range(60, 70):
        for run in range(1, 9):
            line = '{"key":"' + "a" * before + "\\" * run + '","n":1}'
            both(FLAT, "\n".join([line, line.replace("\\", "\\\\"), line.replace("\\", '\\"')] * 2).encode())


def read_without_parsing(schema: pa.Schema, block: bytes) -> Any:
    """The columns of a block of which no line may be left to the parser."""

    class NoRows(RowDecoder):
        def decode(self, data: bytes) -> Decoded:
            raise AssertionError(f"left to the parser: {data!r}")

    columns = ColumnDecoder.for_schema(schema, NoRows(schema), few=0)
    assert columns is not None
    return columns.decode(block).columns.to_pylist()


def test_lines_that_differ_in_values_alone_need_no_parser() -> None:
    lines = [
        r'{"key": "a\n", "n": 1, "x": 0.5, "o": {"l": [1, 2], "t": true}}',
        r'{"key": "", "n": null, "x": -1e3, "o": {"l": [], "t": null}}',
    ]
    assert read_without_parsing(FLAT, "\n".join(lines).encode()) == [
        {"key": "a\n", "n": 1, "x": 0.5},
        {"key": "", "n": None, "x": -1000.0},
    ]
    nested = [
        b'{"n":1,"bid":{"price":2,"deep":{"name":"\\u00e9"}}}',
        b'{"n":2,"bid":{"price":3.5,"deep":null}}',
        b'{"n":3,"bid":null}',
    ]
    assert read_without_parsing(NESTED, b"\n".join(nested)) == [
        {"n": 1, "bid": {"price": 2.0, "deep": {"name": "é"}}, "missing": None},
        {"n": 2, "bid": {"price": 3.5, "deep": None}, "missing": None},
        {"n": 3, "bid": None, "missing": None},
    ]


def test_types_that_only_the_parser_reads_are_left_to_it() -> None:
    schema = pa.schema([("f", pa.list_(pa.int64()))])
    assert ColumnDecoder.for_schema(schema, RowDecoder(schema)) is None
