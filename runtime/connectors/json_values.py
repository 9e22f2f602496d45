"""The text of JSON values to columns, as strict as a JSON parser and a column at a time.

Arrow parses numbers fast and exactly, but takes more than JSON allows: leading zeros, hexadecimal digits, "1.", "nan". What
it took is looked at again here. Text that is no value of the wanted kind is never an error to
report: whoever asks then reads the records in another way, which finds the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.connectors.cells import (
    MISFIT,
    Array,
    Field,
    epoch_unit,
    is_binary,
    is_text,
    reader_of_text,
    times_from_epoch,
)
from millstream.connectors.json_scan import escaped_positions

_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_SINGLE = f"({_NUMBER}|true|false|null)"
_ZERO, _NINE, _MINUS, _POINT, _E, _U = b"09-.eu"
_LOWER = 0x20  # makes capitals small

_MEANT = np.arange(256, dtype=np.uint8)
"""What a character after a backslash stands for."""
_MEANT[list(b"bfnrt")] = list(b"\b\f\n\r\t")

_decode_strings = msgspec.json.Decoder(list[str]).decode


class Unfit(ValueError):
    """Some of the values are none of the wanted kind."""


class ValueReader(NamedTuple):
    """How the values of one field become a column."""

    quoted: bool
    """Whether they are JSON strings."""
    read: Callable[[Array], Array]
    """From strings without nulls to a column; raises one of `MISFIT` when one of them does not fit."""


def value_reader(field: Field) -> ValueReader | None:
    """The reader for a field of single values; None for kinds that only `json_rows` reads."""
    type_ = field.type
    if (unit := epoch_unit(field)) is not None:
        return ValueReader(False, lambda text: times_from_epoch(integers(text), unit, type_))
    if is_text(type_):
        return ValueReader(True, lambda text: text.cast(type_))
    if pa.types.is_integer(type_):
        return ValueReader(False, lambda text: integers(text).cast(type_))
    if pa.types.is_floating(type_) and type_ != pa.float16():
        return ValueReader(False, lambda text: floats(text).cast(type_))
    if pa.types.is_boolean(type_):
        return ValueReader(False, booleans)
    if pa.types.is_duration(type_):
        return ValueReader(False, lambda text: integers(text).cast(pa.duration("us")).cast(type_))
    if pa.types.is_temporal(type_) or is_binary(type_):
        return ValueReader(True, reader_of_text(field))
    return None


def integers(text: Array) -> Array:
    """JSON integers as int64."""
    raw, start, end = _parts(text)
    # Arrow's error costs more than its parsing, and this kind of it can be foreseen.
    if _has(raw, b".eEn"):
        raise Unfit("not an integer")
    values = text.cast(pa.int64())
    first = raw[start]
    if (first <= _ZERO).any():  # a zero or a minus
        digit = start + (first == _MINUS)
        if ((raw[digit] == _ZERO) & (end - digit > 1)).any():
            raise Unfit("a leading zero")
    return values


def floats(text: Array) -> Array:
    """JSON numbers as float64, each the nearest one."""
    raw, start, end = _parts(text)
    if _has(raw, b",ntf"):
        raise Unfit("not a number")
    values = text.cast(pa.float64())
    first = raw[start]
    signed = (first == _MINUS).any()
    digit = start + (first == _MINUS) if signed else start
    first = raw[digit] if signed else first
    if not (_are_digits(first).all() and _are_digits(raw[end - 1]).all()):
        raise Unfit("infinity, or no digit before or after the point")
    if len(zeros := np.flatnonzero(first == _ZERO)):
        after = digit[zeros] + 1
        more = after < end[zeros]
        if _are_digits(raw[after[more]]).any():
            raise Unfit("a leading zero")
        if signed and (digit > start)[zeros[~more]].any():
            raise Unfit("-0, an integer, has no sign")
    # "1.e5" is a number for Arrow, and none for JSON.
    if _has(raw, b"eE") and ((raw[:-1] == _POINT) & ((raw[1:] | _LOWER) == _E)).any():
        raise Unfit("no digit after the point")
    if not np.isfinite(values.to_numpy()).all():
        raise Unfit("beyond the range of floats")
    return values


def booleans(text: Array) -> Array:
    """true and false."""
    true = equals(text, "true")
    if not _all(pc.or_(true, equals(text, "false"))):
        raise Unfit("neither true nor false")
    return true


def equals(text: Array, word: str) -> Array:
    """Which of the strings are a word."""
    return pc.equal(text, pa.scalar(word))


def read_present(text: Array, read: Callable[[Array], Array]) -> Array:
    """A column of values of which some may be the word null. Raises one of `MISFIT`."""
    if not _has(_parts(text)[0], b"n"):
        return read(text)
    null = equals(text, "null")
    values = read(text.filter(pc.invert(null)))
    missing = null.to_numpy(zero_copy_only=False)
    return values.take(pa.array(np.cumsum(~missing) - 1, mask=missing))


def reader_for(example: bytes) -> Callable[[Array], Array]:
    """The function that reads values like one without quotes."""
    if example in (b"true", b"false"):
        return booleans
    return integers if example.lstrip(b"-").isdigit() else floats


def are_values(text: Array, likely: Callable[[Array], Array]) -> NDArray[np.bool_]:
    """Which of the strings are JSON without quotes or brackets; faster if ``likely`` reads all that are not null."""
    try:
        read_present(text, likely)
    except MISFIT:
        return _matches(text, f"^{_SINGLE}$")
    return np.ones(len(text), np.bool_)


def are_lists(text: Array) -> NDArray[np.bool_]:
    """Which of the strings are such values with commas between them."""
    return _matches(text, f"^{_SINGLE}([ \\t]*,[ \\t]*{_SINGLE})*$")


def unescaped(text: Array) -> Array:
    """What is between the quotes of JSON strings, all of them well-formed, as the text that it stands for."""
    raw, start, _ = _parts(text)
    if not _has(raw, b"\\"):
        return text
    escaped = escaped_positions(raw)
    codes = raw[escaped]
    if (codes == _U).any():
        some: Array = pc.match_substring(text, "\\")
        plain = _decode_strings('["' + '","'.join(text.filter(some).to_pylist()) + '"]')
        return pc.replace_with_mask(text, some, pa.array(plain, pa.string()))
    kept = np.ones(len(raw), np.bool_)
    kept[escaped - 1] = False
    meant = raw.copy()
    meant[escaped] = _MEANT[codes]
    shift = np.zeros(len(raw) + 1, np.int32)
    np.cumsum(kept, out=shift[1:])
    offsets = np.append(shift[start], shift[-1])
    return pa.StringArray.from_buffers(len(text), _buffer(offsets), _buffer(meant[kept]))


def _parts(text: Array) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]:
    """The bytes of an array of strings that is no slice and has no nulls, and where in them each starts and ends."""
    _, offsets, data = text.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(text) + 1)
    raw = np.frombuffer(data, np.uint8, bounds[-1]) if data is not None else np.empty(0, np.uint8)
    return raw, bounds[:-1], bounds[1:]


def _matches(text: Array, pattern: str) -> NDArray[np.bool_]:
    matches: Array = pc.match_substring_regex(text, pattern)
    verdicts: NDArray[np.bool_] = matches.to_numpy(zero_copy_only=False)
    return verdicts


def _has(raw: NDArray[np.uint8], chars: bytes) -> bool:
    """Whether any of a few bytes occurs."""
    data = raw.tobytes()
    return any(char in data for char in chars)


def _are_digits(chars: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (chars >= _ZERO) & (chars <= _NINE)


def _all(verdicts: Any) -> bool:
    return pc.all(verdicts).as_py() is not False


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(array)  # type: ignore[arg-type]
