"""Structs and lists."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import unknown_field
from millstream.kernels.types import INT64, Refused, Value, family_of


def struct_field(value: Value, name: str) -> Any:
    if family_of(value) != "struct":
        raise Refused(f"expected a struct, found {value.type}")
    dtype: Any = value.type
    if dtype.get_field_index(name) < 0:
        raise unknown_field(name, [child.name for child in dtype], f".struct.field({name!r})")
    return pc.struct_field(value, name)


def as_list(value: Value) -> Any:
    if family_of(value) != "list":
        raise Refused(f"expected a list, found {value.type}; .str.split(...) makes one of a string")
    dtype: Any = value.type
    return value.cast(pa.list_(dtype.value_field)) if pa.types.is_fixed_size_list(dtype) else value


def list_len(value: Value) -> Any:
    return pc.list_value_length(as_list(value)).cast(INT64)


def list_get(value: Value, index: int) -> Any:
    lists = as_list(value)
    offsets = lists.offsets.to_numpy()
    starts, ends = offsets[:-1], offsets[1:]
    wanted = starts + index if index >= 0 else ends + index
    missing = (wanted < starts) | (wanted >= ends)
    if lists.null_count:
        missing |= pc.is_null(lists).to_numpy(zero_copy_only=False)
    return lists.values.take(pa.array(wanted, mask=missing) if missing.any() else pa.array(wanted))
