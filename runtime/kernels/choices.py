"""Comparison, logic, nulls, and choices among values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from millstream.kernels.types import (
    BOOL,
    COMPARABLE,
    FAMILIES,
    FLOAT64,
    NULL,
    Refused,
    Value,
    as_number,
    as_type,
    comparable_pair,
    logical,
    repeated,
    unified,
)


def compare(function: str, a: Value, b: Value) -> Any:
    return pc.call_function(function, list(comparable_pair(a, b)))


def is_between(value: Value, low: Value, high: Value, closed: str = "both") -> Any:
    above = compare("greater_equal" if closed in ("both", "left") else "greater", value, low)
    below = compare("less_equal" if closed in ("both", "right") else "less", value, high)
    return pc.and_kleene(above, below)


def is_in(value: Any, listed: Any) -> Any:
    values: Any = listed.values if isinstance(listed, pa.ListScalar) else listed[0].values
    value, values = comparable_pair(value, values)
    if value.type != values.type:
        value, values = unified(value, values)
    found = pc.is_in(value, value_set=values)
    return pc.if_else(pc.is_valid(value), found, pa.scalar(None, BOOL)) if value.null_count else found


def logic(function: str, a: Value, b: Value) -> Any:
    return pc.call_function(function, [logical(a), logical(b)])


def is_nan(value: Value) -> Any:
    return pc.is_nan(as_type(as_number(value), FLOAT64, safe=False))


def coalesce(*values: Value) -> Any:
    return pc.coalesce(*unified(*values))


def extreme(function: str, *values: Value) -> Any:
    alike = unified(*values)
    dtype = alike[0].type
    if FAMILIES.get(dtype.id) not in COMPARABLE or dtype == BOOL:
        raise Refused(f"values of type {dtype} have no order")
    if pa.types.is_timestamp(dtype) and dtype.tz:
        # Arrow orders times only without a zone; the zone does not change the order.
        naive = pa.timestamp(dtype.unit)
        return pc.call_function(function, [value.cast(naive) for value in alike]).cast(dtype)
    return pc.call_function(function, alike)


def when(*arguments: Value) -> Any:
    rows = next(len(argument) for argument in arguments if isinstance(argument, pa.Array))
    pairs = len(arguments) // 2 * 2
    conditions = [
        value if isinstance(value, pa.Array) else repeated(value, rows) for value in map(logical, arguments[0:pairs:2])
    ]
    otherwise = arguments[pairs:] or (NULL,)
    values = unified(*arguments[1:pairs:2], *otherwise)
    return pc.case_when(pc.make_struct(*conditions), *values)
