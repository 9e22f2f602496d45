"""Arithmetic on numbers, times and durations."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.kernels.arrays import array_of, numpy_of
from millstream.kernels.choices import compare
from millstream.kernels.text import concat_str
from millstream.kernels.types import (
    FLOAT64,
    INT64,
    MOMENT,
    NUMERIC,
    Refused,
    Value,
    advice,
    as_number,
    as_type,
    family_of,
    instant,
    number_or_duration,
    number_pair,
)

SUMS: Final = {
    ("timestamp", "duration"), ("date", "duration"), ("duration", "timestamp"), ("duration", "date"),
    ("duration", "duration"),
}  # fmt: skip
DIFFERENCES: Final = {
    ("timestamp", "duration"), ("date", "duration"), ("duration", "duration"), ("timestamp", "timestamp"),
    ("timestamp", "date"), ("date", "timestamp"), ("date", "date"),
}  # fmt: skip
PRODUCTS: Final = {("duration", "integer"), ("integer", "duration")}


def add(a: Value, b: Value) -> Any:
    if "string" in (family_of(a), family_of(b)) and {family_of(a), family_of(b)} <= {"string", "null"}:
        return concat_str(a, b)
    return arithmetic("add_checked", "add", SUMS, a, b)


def arithmetic(function: str, verb: str, temporal: set[tuple[str, str]], a: Value, b: Value) -> Any:
    a, b = _typed_nulls(a, b)
    families = (family_of(a), family_of(b))
    if NUMERIC.issuperset(families):
        return pc.call_function(function, list(number_pair(a, b)))
    if families not in temporal:
        raise Refused(f"cannot {verb} {a.type} and {b.type}; {advice(*families)}")
    pair = [instant(value) if family_of(value) in MOMENT else value for value in (a, b)]
    return pc.call_function(function, pair)


def _typed_nulls(a: Value, b: Value) -> tuple[Value, Value]:
    """A null of no type gets the type that makes sense beside the other value; two of them are numbers."""

    def beside(other: Value) -> pa.DataType:
        family = family_of(other)
        return INT64 if family == "null" else pa.duration("us") if family in MOMENT else other.type

    return as_type(a, beside(b)) if family_of(a) == "null" else a, as_type(b, beside(a)) if family_of(
        b
    ) == "null" else b


def divide(a: Value, b: Value) -> Any:
    a, b = _typed_nulls(a, b)
    families = (family_of(a), family_of(b))
    if families == ("duration", "duration"):
        unit = pa.duration("us")
        a, b = a.cast(unit).cast(INT64), b.cast(unit).cast(INT64)
    elif not NUMERIC.issuperset(families):
        raise Refused(f"cannot divide {a.type} by {b.type}; {advice(*families)}")
    return pc.divide(as_type(a, FLOAT64, safe=False), as_type(b, FLOAT64, safe=False))


def round_down(ufunc: np.ufunc, a: Value, b: Value) -> Any:
    """``//`` or ``%``, which Arrow has only rounding towards zero, and NumPy has as Python has them."""
    a, b = _typed_nulls(a, b)
    families = {family_of(a), family_of(b)}
    if "decimal" in families or not families <= NUMERIC:
        raise Refused(f"cannot divide {a.type} by {b.type} with a remainder; use .cast(...)")
    a, b = number_pair(a, b)
    if isinstance(b, pa.Scalar):
        return _round_down_by(ufunc, a, b)
    divisor = numpy_of(b)
    zero = divisor == 0
    dividend = a.as_py() if isinstance(a, pa.Scalar) else numpy_of(a)
    if dividend is None:
        return pa.nulls(len(b), b.type)
    with np.errstate(all="ignore"):
        result = ufunc(dividend, divisor, dtype=divisor.dtype)
    # Only the lowest integer has no negative; looked for where a divisor is -1, which is rare.
    if ufunc is np.floor_divide and b.type == INT64 and (divisor == -1).any():
        pc.divide_checked(a, pc.if_else(compare("equal", b, pa.scalar(-1)), b, pa.scalar(1)))
    valid = [pc.is_valid(v) for v in (a, b) if isinstance(v, pa.Array) and v.null_count]
    return array_of(result, b.type, *valid, *((pa.array(~zero),) if zero.any() else ()))


def _round_down_by(ufunc: np.ufunc, a: Any, b: pa.Scalar[Any]) -> Any:
    divisor: Any = b.as_py()
    if not divisor:
        return pa.nulls(len(a), a.type)
    values = numpy_of(a)
    valid = (pc.is_valid(a),) if a.null_count else ()
    with np.errstate(all="ignore"):
        if a.type == FLOAT64:
            return array_of(ufunc(values, divisor), FLOAT64, *valid)
        if divisor == -1:
            return pc.negate_checked(a) if ufunc is np.floor_divide else pc.multiply(a, 0)
        result = np.floor_divide(values, divisor)
        if ufunc is np.remainder:
            # NumPy divides by a constant with a multiplication, but has no such short cut for remainders.
            result *= divisor
            np.subtract(values, result, out=result)
        return array_of(result, a.type, *valid)


def negate(value: Value) -> Any:
    if family_of(value) == "integer":
        value = as_type(value, INT64)
    return pc.negate_checked(number_or_duration(value))


def round_to(value: Value, decimals: int) -> Any:
    if family_of(value) == "integer" and decimals >= 0:
        return value
    return pc.round(as_number(value), decimals)
