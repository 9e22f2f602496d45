"""The schema of a file from its first bytes: once, before the run, where the user gave none.

Integers widen to floats, nothing else changes kind: strings stay strings, also where they look like times
or numbers with leading zeros, since guessing wrong would lose data. A field that is always null becomes a
string. A field that holds several kinds of values becomes the most frequent one, and the others are bad
records if the flow reads the field. The sample may end inside a record: the tail is ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from millstream.connectors.cells import Array, Field
from millstream.connectors.csv import CsvDecoder
from millstream.connectors.text import BOM, csv_records, cut_csv, cut_lines
from millstream.errors import SourceError

_INTEGER = r"^[+-]?(0|[1-9][0-9]*)$"
_NUMBER = r"^[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_BOOLEAN = r"^(true|false|True|False|TRUE|FALSE)$"


def infer_json(sample: bytes) -> pa.Schema:
    """The schema of JSON lines: fields in the order in which they first appear. Bad lines do not count.

    Raises:
        SourceError: there is not one good record in the sample.
    """
    whole = _whole_part(sample.removeprefix(BOM))
    decoder = msgspec.json.Decoder()
    records = []
    for line in whole.split(b"\n"):
        try:
            line.decode()
            value = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(value, dict):
            records.append(value)
    if not records:
        raise SourceError(
            "no JSON object found in the first lines: expected one on each line; is this a JSON lines file?"
        )
    return pa.schema(_fields(records))


def _whole_part(sample: bytes) -> bytes:
    """Without a torn last line; all of it where there is no newline at all."""
    return sample[: cut_lines(sample, at_end=False)] or sample


def _fields(objects: Iterable[dict[str, Any]]) -> list[Field]:
    values: dict[str, list[Any]] = {}
    for fields in objects:
        for name, value in fields.items():
            values.setdefault(name, []).append(value)
    return [pa.field(name, _type(found)) for name, found in values.items()]


def _type(values: list[Any]) -> pa.DataType:
    kinds = Counter(map(_kind, values))
    del kinds["null"]
    if not kinds:
        return pa.string()
    if {"integer", "float"} <= kinds.keys():
        kinds["float"] += kinds.pop("integer")
    kind = kinds.most_common(1)[0][0]
    if kind == "object":
        return pa.struct(_fields(value for value in values if isinstance(value, dict)))
    if kind == "array":
        return pa.list_(_type([item for value in values if isinstance(value, list) for item in value]))
    types: dict[str, pa.DataType] = {
        "boolean": pa.bool_(),
        "integer": pa.int64(),
        "float": pa.float64(),
        "string": pa.string(),
    }
    return types[kind]


def _kind(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return "float"
    return _KINDS[type(value)]


_KINDS = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "float",
    str: "string",
    dict: "object",
    list: "array",
}


def infer_csv(sample: bytes, *, delimiter: str = ",", quote: str = '"') -> tuple[list[str], pa.Schema]:
    """The header of a CSV file and the schema of its columns. An integer beyond 64 bits makes a string column.

    Raises:
        SourceError: there is no header, or a name in it is not UTF-8.
    """
    header, records = split_header(sample.removeprefix(BOM), delimiter=delimiter, quote=quote)
    names = csv_header(header, delimiter=delimiter, quote=quote)
    end = cut_csv(records, at_end=False, quote=quote.encode(), delimiter=delimiter.encode())
    # Decoded by position: a name may stand in a header twice, and only a flow that reads it should mind.
    columns = [str(i) for i in range(len(names))]
    strings = pa.schema([(column, pa.string()) for column in columns])
    decoded = CsvDecoder(columns, strings, delimiter=delimiter, quote=quote).decode(records[:end] or records)
    types = [_text_type(column) for column in decoded.columns.columns]
    return names, pa.schema(list(zip(names, types, strict=True)))


def split_header(sample: bytes, *, delimiter: str = ",", quote: str = '"') -> tuple[bytes, bytes]:
    """The first record that is not blank, with all before it, and the rest."""
    start = 0
    for end in csv_records(sample, at_end=True, quote=quote.encode(), delimiter=delimiter.encode()).ends.tolist():
        if sample[start:end].strip(b"\r\n"):
            return sample[:end], sample[end:]
        start = end
    raise SourceError("no header found: the file is empty; expected the names of the columns on its first line")


def csv_header(header: bytes, *, delimiter: str = ",", quote: str = '"') -> list[str]:
    """The names in a header."""
    pieces = header.strip(b"\r\n")
    width = 1
    while True:  # Arrow wants to know how many fields there are, and tells when it is wrong.
        columns = [str(i) for i in range(width)]
        decoder = CsvDecoder(columns, pa.schema([(c, pa.string()) for c in columns]), delimiter=delimiter, quote=quote)
        names, bad = decoder.decode(pieces)
        if not bad:
            return [column[0].as_py() or "" for column in names.columns]
        found = bad[0].reason.rpartition(" ")[2]
        if width > 1 or not found.isdigit():
            raise SourceError(f"the header cannot be read: {bad[0].reason}")
        width = int(found)


def _text_type(column: Array) -> pa.DataType:
    """The type of a column of text, by what all of its values look like."""
    values = column.drop_null()
    if not len(values):
        return pa.string()
    if _all_match(values, _INTEGER):
        try:
            values.cast(pa.int64())
        except ValueError:
            return pa.string()
        return pa.int64()
    if _all_match(values, _NUMBER):
        return pa.float64()
    return pa.bool_() if _all_match(values, _BOOLEAN) else pa.string()


def _all_match(values: Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(values, pattern)).as_py() is True
