"""The text of values, a column at a time: how JSON and CSV write times, numbers and binary, and read them back.

Times are ISO 8601 in UTC ("2024-05-14T18:58:20Z"), with six more digits only where they are not zero; read
back, a time without a zone is UTC and digits beyond the microsecond are cut off. Where a field carries the
metadata ``{b"unit": b"ms"}`` (or s, us, ns) its times are integers since 1970 instead. Binary is base64.

Arrow formats about a million times a second. Here days and times of day come out of tables of ready
text, which is thirty times as fast.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.connectors.float_text import float_text
from millstream.errors import SchemaError
from millstream.times import MAX_US

Times = Literal["iso", "s", "ms", "us"]

# The stubs tie each function to exact value types; code that takes any column cannot be written in them.
Array = Any
Field = Any

UTC_US = pa.timestamp("us", "UTC")
_US_PER = {"s": 1_000_000, "ms": 1_000, "us": 1}
_DAY_S = 86_400
_ZONED = r"[T ][0-9][0-9].*(Z|[+-][0-9][0-9](:?[0-9][0-9])?)$"

MISFIT = (ValueError, ArithmeticError, TypeError)
"""What a conversion of this module, or Arrow's, raises when a value does not fit its type."""


# ---------------------------------------------------------------- text to columns


def epoch_unit(field: Field) -> str | None:
    """The unit of a time field that is written as a number, or None where it is ISO 8601."""
    unit: bytes | None = (field.metadata or {}).get(b"unit")
    if unit is None or not pa.types.is_timestamp(field.type):
        return None
    if unit not in (b"s", b"ms", b"us", b"ns"):
        raise SchemaError(f"field {field.name!r}: unit {unit.decode(errors='replace')!r} is not one of s, ms, us, ns")
    return unit.decode()


def times_from_epoch(numbers: Array, unit: Any, type_: Any) -> Array:
    """Integers since 1970 as times. Raises one of `MISFIT` when one of them does not fit 64 bits as microseconds."""
    numbers = numbers.cast(pa.int64())
    if unit in ("s", "ms"):
        most = MAX_US // _US_PER[unit]
        lowest, highest = pc.min_max(numbers).values()
        if lowest.is_valid and not -most <= lowest.as_py() <= highest.as_py() <= most:
            raise ValueError("beyond the range of times")
    if type_.unit == unit and unit != "ns":
        return numbers.cast(type_)
    return numbers.cast(pa.timestamp(unit, "UTC")).cast(UTC_US, safe=False).cast(type_)


def times_from_text(text: Array, type_: pa.DataType) -> Array:
    """ISO 8601 as times. Raises one of `MISFIT` when any of them is not."""
    try:
        return text.cast(UTC_US).cast(type_)
    except MISFIT:
        # Some have no zone, or nanoseconds. One at a time the answer must be the same, so both kinds are split.
        text = pc.replace_substring_regex(text, r"(\.[0-9]{6})[0-9]+", r"\1")
        zoned = pc.match_substring_regex(text, _ZONED)
        null = pa.scalar(None, pa.string())
        with_zone = pc.if_else(zoned, text, null).cast(UTC_US)
        without = pc.if_else(zoned, null, text).cast(pa.timestamp("us")).cast(UTC_US)
        return pc.coalesce(with_zone, without).cast(type_)


def binary_from_text(text: Array, type_: pa.DataType) -> Array:
    """Base64 as binary."""
    decoded = [None if value is None else base64.b64decode(value, validate=True) for value in text.to_pylist()]
    return pa.array(decoded, type_)


def reader_of_text(field: Field) -> Callable[[Array], Array]:
    """The function that turns a string column into the column of ``field``; it raises one of `MISFIT`."""
    type_, unit = field.type, epoch_unit(field)
    if unit is not None:
        return lambda text: times_from_epoch(text.cast(pa.int64()), unit, type_)
    if pa.types.is_timestamp(type_):
        return lambda text: times_from_text(text, type_)
    if is_binary(type_):
        return lambda text: binary_from_text(text, type_)
    if pa.types.is_dictionary(type_):
        inner = reader_of_text(pa.field(field.name, type_.value_type))
        return lambda text: inner(text).cast(type_)
    return lambda text: text.cast(type_)


def misfits(values: Any, convert: Callable[[Any], object]) -> list[int]:
    """The positions in ``values`` that ``convert`` refuses, found by halving: cheap while they are few."""
    found: list[int] = []
    parts = [(0, len(values))]
    while parts:
        start, stop = parts.pop()
        try:
            convert(values[start:stop])
        except MISFIT:
            if stop - start == 1:
                found.append(start)
            else:
                middle = (start + stop) // 2
                parts += [(middle, stop), (start, middle)]
    return found


# ---------------------------------------------------------------- columns to text


def is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def is_binary(type_: pa.DataType) -> bool:
    return (
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
        or pa.types.is_binary_view(type_)
    )


def is_plain_number(type_: pa.DataType) -> bool:
    """Whether the text of a value stands for itself in JSON: numbers and booleans."""
    return (
        pa.types.is_integer(type_)
        or pa.types.is_floating(type_)
        or pa.types.is_decimal(type_)
        or pa.types.is_boolean(type_)
        or pa.types.is_duration(type_)
    )


def text_of(column: Array, times: Times) -> Array:
    """The text of a column of single values, as strings without quotes. Null, NaN and infinity are null."""
    type_ = column.type
    if is_text(type_):
        return column.cast(pa.string())
    if pa.types.is_floating(type_):
        return float_text(_finite(column))
    if pa.types.is_timestamp(type_):
        in_us = column.view(pa.int64()) if type_.unit == "us" else column.cast(UTC_US, safe=False).cast(pa.int64())
        return iso_text(in_us) if times == "iso" else _divided(in_us, _US_PER[times]).cast(pa.string())
    if pa.types.is_duration(type_):
        return column.cast(pa.duration("us"), safe=False).cast(pa.int64()).cast(pa.string())
    if is_binary(type_):
        encoded = [None if value is None else binascii.b2a_base64(value, newline=False) for value in column.to_pylist()]
        return pa.array(encoded, pa.binary()).cast(pa.string())
    return column.cast(pa.string())


def iso_text(in_us: Array) -> Array:
    """int64 microseconds since 1970 as ISO 8601 in UTC; the fraction only where there is one."""
    us, days, in_day, micros = _split_time(in_us)
    day_text = _day_text(days)
    if day_text is None:
        text = pa.array(np.char.add(np.datetime_as_string(us.astype("M8[us]")), "Z"))
        return pc.if_else(in_us.is_valid(), text, None)
    whole = joined(len(us), day_text, b"T", _clock().take(in_day), b"Z")
    if micros.any():
        three = _three_digits()
        fine = joined(
            len(us),
            day_text,
            b"T",
            _clock().take(in_day),
            b".",
            three.take(micros // 1000),
            three.take(micros % 1000),
            b"Z",
        )
        whole = pc.if_else(pa.array(micros != 0), fine, whole)
    return whole if not in_us.null_count else pc.if_else(in_us.is_valid(), whole, None)


def whole_seconds(column: Array) -> list[NDArray[Any] | bytes] | None:
    """The ISO 8601 text of times as parts of one width, for `joined`. None if any is null or no whole second."""
    if not pa.types.is_timestamp(column.type) or column.type.unit != "us" or column.null_count:
        return None
    _, days, in_day, micros = _split_time(column.view(pa.int64()))
    if micros.any() or (day_text := _day_text(days)) is None:
        return None
    return [day_text, b"T", _clock().take(in_day), b"Z"]


def _split_time(in_us: Array) -> tuple[NDArray[Any], ...]:
    """Microseconds since 1970, and what they are in days, seconds of the day and microseconds of the second."""
    us = in_us.fill_null(0).to_numpy(zero_copy_only=False)
    seconds = us // 1_000_000  # remainders by multiplication: integer division is what this function spends its time on
    days = seconds // _DAY_S
    return us, days, seconds - days * _DAY_S, us - seconds * 1_000_000


def _day_text(days: NDArray[Any]) -> NDArray[Any] | None:
    """bytes[n]: the dates of days since 1970. None where a year has not four digits."""
    if not len(days):
        return np.empty(0, "S10")
    low, high = int(days.min()), int(days.max())
    if high - low <= len(days):
        table, index = np.arange(low, high + 1), days - low
    else:
        table, index = np.unique(days, return_inverse=True)
    dates = np.datetime_as_string(table.astype("M8[D]"))
    if (np.strings.str_len(dates) != len("2024-05-14")).any():
        return None
    text: NDArray[Any] = dates.astype("S10").take(index)
    return text


@cache
def _clock() -> NDArray[Any]:
    """bytes[86400]: the text of each second of a day."""
    return np.array([b"%02d:%02d:%02d" % (s // 3600, s // 60 % 60, s % 60) for s in range(86_400)])


@cache
def _three_digits() -> NDArray[Any]:
    return np.array([b"%03d" % n for n in range(1000)])


def joined(rows: int, *parts: NDArray[Any] | bytes) -> Array:
    """Strings of one width, side by side: one buffer and evenly spaced offsets."""
    widths = [len(part) if isinstance(part, bytes) else part.dtype.itemsize for part in parts]
    out = np.empty(rows, np.dtype([(f"f{i}", f"S{width}") for i, width in enumerate(widths)]))
    for i, part in enumerate(parts):
        out[f"f{i}"] = part
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(sum(widths))
    return pa.StringArray.from_buffers(rows, _buffer(offsets), _buffer(out))


def _divided(in_us: Array, unit: int) -> Array:
    """Whole units, rounded down as windows are."""
    if unit == 1:
        return in_us
    floored = pa.array(in_us.fill_null(0).to_numpy(zero_copy_only=False) // unit)
    return floored if not in_us.null_count else pc.if_else(in_us.is_valid(), floored, None)


def _finite(column: Array) -> Array:
    """Without NaN and infinity, which neither format can write."""
    finite = pc.is_finite(column)
    return column if pc.all(finite).as_py() is not False else pc.if_else(finite, column, None)


def string_bytes(column: Array) -> NDArray[Any]:
    """uint8[n]: the bytes of all strings of a string column, one after the other. A view."""
    if not len(column):
        return np.empty(0, np.uint8)
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]


def has_byte(raw: NDArray[np.uint8], chars: str) -> bool:
    """Whether any of a few ASCII characters occurs. One comparison each is far faster than a look-up table."""
    return any((raw == ord(char)).any() for char in chars)


def joined_bytes(rows: Array) -> pa.Buffer:
    """The strings of a column that has no nulls, one after the other. A view."""
    raw = string_bytes(rows)
    return _buffer(raw) if len(raw) else pa.py_buffer(b"")


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(array)  # type: ignore[arg-type]


def no_columns(rows: int) -> pa.RecordBatch:
    """So many rows of nothing, for a plan that reads no field. Made of no columns, a batch would have no rows."""
    empty: Any = pa.array([{}] * rows, pa.struct([]))
    return pa.RecordBatch.from_struct_array(empty)
