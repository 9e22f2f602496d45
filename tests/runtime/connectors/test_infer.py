"""Schemas from samples: nothing is guessed that could lose data."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.connectors.csv import CsvDecoder
from millstream.connectors.infer import csv_header, infer_csv, infer_json, split_header
from millstream.connectors.jsonl import JsonDecoder
from millstream.errors import SourceError


def test_json_integers_widen_to_floats_and_strings_stay_strings() -> None:
    sample = b'{"n":1,"x":1,"s":"2024-05-14","b":true}\n{"x":2.5,"z":null}\n{"big":9223372036854775808}\n'
    assert infer_json(sample) == pa.schema(
        [  # type: ignore[arg-type]
            ("n", pa.int64()),
            ("x", pa.float64()),
            ("s", pa.string()),
            ("b", pa.bool_()),
            ("z", pa.string()),
            ("big", pa.float64()),
        ]
    )


def test_json_objects_and_arrays_nest_and_merge() -> None:
    sample = b'{"bid":{"price":1},"tags":[]}\n{"bid":{"price":1.5,"at":{"x":null}},"tags":[{"a":1},{"b":"c"}]}\n'
    assert infer_json(sample) == pa.schema(
        [
            ("bid", pa.struct([("price", pa.float64()), ("at", pa.struct([("x", pa.string())]))])),
            ("tags", pa.list_(pa.struct([("a", pa.int64()), ("b", pa.string())]))),
        ]
    )


def test_the_torn_end_of_a_sample_and_bad_lines_do_not_count() -> None:
    assert infer_json(b'\xef\xbb\xbf{"n":1}\nrubbish\n\xff\n{"n":1.5') == pa.schema([("n", pa.int64())])
    assert infer_json(b'{"n":1}') == pa.schema([("n", pa.int64())])
    with pytest.raises(SourceError, match="no JSON object"):
        infer_json(b"a,b\n1,2\n")


def test_of_several_kinds_the_most_frequent_is_chosen() -> None:
    schema = infer_json(b'{"f":1}\n{"f":"a"}\n{"f":"b"}\n')
    assert schema == pa.schema([("f", pa.string())])
    assert len(JsonDecoder(schema).decode(b'{"f":1}\n{"f":"a"}\n').bad) == 1


def test_csv_columns_take_the_narrowest_type_that_loses_nothing() -> None:
    sample = (
        b"id,n,x,b,zip,at,none,big\r\n"
        b"a,1,1,true,01234,2024-05-14,,99999999999999999999\n"
        b"b,-2,2.5,False,9,2024-05-15,,1\n"
    )
    names, schema = infer_csv(sample)
    assert names == ["id", "n", "x", "b", "zip", "at", "none", "big"]
    types = [pa.string(), pa.int64(), pa.float64(), pa.bool_(), *[pa.string()] * 4]
    assert schema == pa.schema(list(zip(names, types, strict=True)))  # type: ignore[arg-type]


def test_what_was_inferred_decodes_the_sample() -> None:
    names, schema = infer_csv(b'\xef\xbb\xbf"a b",c\n1,"x\ny"\n2.5,z\n3,"torn\n')
    assert schema == pa.schema([("a b", pa.float64()), ("c", pa.string())])  # type: ignore[arg-type]
    decoded = CsvDecoder(names, schema).decode(b'1,"x\ny"\n2.5,z\n')
    assert decoded.columns.to_pylist() == [{"a b": 1.0, "c": "x\ny"}, {"a b": 2.5, "c": "z"}]


def test_a_header_may_be_all_there_is() -> None:
    assert infer_csv(b"a;a;\n", delimiter=";") == (
        ["a", "a", ""],
        pa.schema([(n, pa.string()) for n in ("a", "a", "")]),
    )
    with pytest.raises(SourceError, match="empty"):
        infer_csv(b"\n\n")
    assert split_header(b'\na,"b\nc"\n1,2\n') == (b'\na,"b\nc"\n', b"1,2\n")
    assert csv_header(b'\na,"b\nc"\n') == ["a", "b\nc"]
