"""From one type to another, also from text to times."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from millstream.expr import TIMESTAMP
from millstream.kernels.types import FAMILIES, Refused, Value, as_text, family_of

_OFFSET: Final = r"[T ]\d\d.*(?:[Zz]|[+-]\d\d(?::?\d\d)?)$"
_NAIVE: Final = pa.timestamp("us")


def cast(value: Any, dtype: Any) -> Any:
    family, target = family_of(value), FAMILIES.get(dtype.id)
    if family == "string" and target == "timestamp":
        return to_datetime(value).cast(dtype)
    if family == "float" and target == "integer":
        return pc.trunc(value).cast(dtype)
    if pa.types.is_dictionary(dtype):
        return value.cast(dtype.value_type).dictionary_encode().cast(dtype)
    try:
        return value.cast(dtype, safe=not (family == "integer" and target == "float"))
    except pa.ArrowNotImplementedError as error:
        raise Refused(f"cannot cast {value.type} to {dtype}") from error


def to_datetime(value: Value, format: str | None = None) -> Any:
    text = as_text(value)
    if format is not None:
        return pc.strptime(text, format, "us").cast(TIMESTAMP)
    # Columns nearly always agree on offsets, and a parse of the other kind stops at its first row.
    for dtype in (TIMESTAMP, _NAIVE):
        try:
            return text.cast(dtype).cast(TIMESTAMP)
        except pa.ArrowInvalid:
            continue
    text = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
    zoned = pc.match_substring_regex(text, _OFFSET)
    null = pa.scalar(None, text.type)
    with_offset = pc.if_else(zoned, text, null).cast(TIMESTAMP)
    return pc.coalesce(with_offset, pc.if_else(zoned, null, text).cast(_NAIVE).cast(TIMESTAMP))
