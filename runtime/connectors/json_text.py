"""Columns as JSON text: one string a row, made a column at a time.

Every column becomes text in one go, and one join puts objects together. No Python object is made for a row,
nor for a value, but for binary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.connectors.cells import (
    Array,
    Times,
    has_byte,
    is_plain_number,
    is_text,
    joined,
    string_bytes,
    text_of,
    whole_seconds,
)

_SHORT = {0x08: r"\b", 0x09: r"\t", 0x0A: r"\n", 0x0C: r"\f", 0x0D: r"\r"}


def json_text(column: Array, times: Times) -> Array:
    """The values of a column as JSON, one string each; null is "null"."""
    return _whole(_cell(column, times))


class _Cell(NamedTuple):
    """A column as text, and what goes before and after each value."""

    before: str
    values: Array
    after: str


def json_objects(names: Sequence[str], columns: Sequence[Array], times: Times, close: str) -> Array:
    """One JSON object for each row.

    Each part of a join costs. So literals between two columns are merged, and so are columns of one width, the times
    that windows start and end, with all that is around them.
    """
    parts: list[Any] = []
    fixed: list[NDArray[Any] | bytes] = []  # what comes before the literal, if that is of one width
    literal = "{"
    for name, column in zip(names, columns, strict=True):
        literal += msgspec.json.encode(name).decode() + ":"
        if times == "iso" and (pieces := whole_seconds(column)) is not None:
            fixed += [(literal + '"').encode(), *pieces]
            literal = '",'
            continue
        cell = _cell(column, times)
        parts += [_merged(len(column), fixed, literal + cell.before), cell.values]
        fixed, literal = [], cell.after + ","
    parts.append(_merged(len(columns[0]), fixed, literal[:-1] + close))
    return pc.binary_join_element_wise(*parts, "") if len(parts) > 1 else parts[0]


def _merged(rows: int, fixed: Sequence[NDArray[Any] | bytes], literal: str) -> Array | str:
    return joined(rows, *fixed, literal.encode()) if fixed else literal


def _cell(column: Array, times: Times) -> _Cell:
    """The values of a column as JSON. Where there are nulls the quotes are part of the value."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        return _Cell("", _nested(column, times), "")
    text = text_of(column, times)
    if is_plain_number(column.type) or (pa.types.is_timestamp(column.type) and times != "iso"):
        return _Cell("", text.fill_null("null") if text.null_count else text, "")
    if is_text(column.type):
        text = _escaped(text)
    if not text.null_count:
        return _Cell('"', text, '"')
    return _Cell("", pc.binary_join_element_wise('"', text, '"', "").fill_null("null"), "")


def _whole(cell: _Cell) -> Array:
    """A cell with its quotes, for where there is no literal to merge them into."""
    return pc.binary_join_element_wise(*cell, "") if cell.before else cell.values


def _nested(column: Array, times: Times) -> Array:
    type_: Any = column.type
    if pa.types.is_struct(type_):
        names = [field.name for field in type_]
        text = json_objects(names, column.flatten(), times, "}") if names else pa.array(["{}"] * len(column))
    elif pa.types.is_map(type_) and is_text(type_.key_type):
        # flatten() skips what null maps cover, as keys and items do not.
        entries = column.cast(pa.list_(pa.struct([("k", type_.key_type), ("v", type_.item_type)]))).flatten()
        keys, values = (_whole(_cell(child, times)) for child in entries.flatten())
        text = _bracketed(column, pc.binary_join_element_wise(keys, values, ":"), "{", "}")
    else:
        if not pa.types.is_list(type_):
            column = column.cast(pa.list_(type_.value_type))
        text = _bracketed(column, _whole(_cell(column.flatten(), times)), "[", "]")
    return text if not column.null_count else pc.if_else(column.is_valid(), text, "null")


def _bracketed(column: Array, items: Array, opening: str, closing: str) -> Array:
    """The items of each row with commas between and brackets around; a null row counts as empty."""
    if pa.types.is_map(column.type):
        column = column.cast(pa.list_(pa.struct([("k", column.type.key_type), ("v", column.type.item_type)])))
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    joined: Array = pc.binary_join(pa.ListArray.from_arrays(offsets, items), ",")
    return pc.binary_join_element_wise(opening, joined, closing, "")


def _escaped(text: Array) -> Array:
    """Strings with what JSON wants escaped. One look at all bytes finds that, nearly always, nothing is."""
    raw = string_bytes(text)
    if not ((raw < 0x20).any() or has_byte(raw, '"\\')):
        return text
    text = pc.replace_substring(text, "\\", "\\\\")
    text = pc.replace_substring(text, '"', '\\"')
    for code in np.unique(raw[raw < 0x20]).tolist():
        text = pc.replace_substring(text, chr(code), _SHORT.get(code, f"\\u{code:04x}"))
    return text
