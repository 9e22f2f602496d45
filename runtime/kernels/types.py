"""What family a value is of, how two of them meet, and what literals do among columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array
from millstream.expr import TIMESTAMP

Value: TypeAlias = "pa.Array[Any] | pa.Scalar[Any]"
Kernel: TypeAlias = Callable[..., Any]

INT64: Final = pa.int64()
UINT64: Final = pa.uint64()
FLOAT64: Final = pa.float64()
STRING: Final = pa.string()
BOOL: Final = pa.bool_()
NULL: Final[Any] = pa.scalar(None)  # type: ignore[call-overload]


class Refused(Exception):
    """A kernel does not take values of these types; says why, and the caller adds which expression."""


_KINDS: Final[dict[str, list[pa.DataType]]] = {
    "integer": [pa.int8(), pa.int16(), pa.int32(), INT64, pa.uint8(), pa.uint16(), pa.uint32(), UINT64],
    "float": [pa.float16(), pa.float32(), FLOAT64],
    "decimal": [pa.decimal32(5, 0), pa.decimal64(5, 0), pa.decimal128(5), pa.decimal256(5)],
    "bool": [BOOL],
    "string": [STRING, pa.large_string()],
    "binary": [pa.binary(), pa.large_binary()],
    "timestamp": [pa.timestamp("us")],
    "date": [pa.date32(), pa.date64()],
    "time": [pa.time32("s"), pa.time64("us")],
    "duration": [pa.duration("us")],
    "list": [pa.list_(INT64), pa.large_list(INT64), pa.list_(INT64, 1)],
    "struct": [pa.struct([])],
    "null": [pa.null()],
}
FAMILIES: Final = {dtype.id: family for family, dtypes in _KINDS.items() for dtype in dtypes}
NUMERIC: Final = frozenset(("integer", "float", "decimal"))
MOMENT: Final = frozenset(("timestamp", "date"))
COMPARABLE: Final = NUMERIC | MOMENT | {"bool", "string", "binary", "time", "duration", "null"}
UNIT_NS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
UTC_ZONES: Final = frozenset((None, "UTC", "Etc/UTC", "GMT", "Z", "+00:00"))


def family_of(value: Value) -> str:
    return FAMILIES.get(value.type.id, "other")


def decoded(value: Value) -> Value:
    """The same values without dictionary, view, run-end or extension encoding, which few kernels take."""
    dtype: Any = value.type
    if dtype.id in FAMILIES:
        return value
    if isinstance(value, pa.Scalar):
        return decoded(repeated(value, 1))[0]  # type: ignore[index,no-any-return]
    if pa.types.is_dictionary(dtype):
        return decoded(value.cast(dtype.value_type))
    if pa.types.is_run_end_encoded(dtype):
        return decoded(pc.call_function("run_end_decode", [value]))
    if isinstance(value, pa.ExtensionArray):
        return decoded(value.storage)
    plain = {pa.string_view(): STRING, pa.binary_view(): pa.binary()}.get(dtype)
    return value if plain is None else value.cast(plain)


def repeated(value: Value, length: int) -> Array:
    # Arrow cannot repeat a list no times.
    scalar: Any = value
    array: Array = pa.repeat(scalar, length) if length else pa.array([], scalar.type)
    return array


def as_type(value: Value, dtype: pa.DataType, safe: bool = True) -> Any:
    return value if value.type == dtype else value.cast(dtype, safe=safe)


@lru_cache(maxsize=1024)
def _literal_as(literal: pa.Scalar[Any], dtype: pa.DataType) -> pa.Scalar[Any] | None:
    """A literal integer as a number of the column's type, or None if it would not stay itself."""
    if family_of(literal) != "integer" or FAMILIES.get(dtype.id) not in NUMERIC:
        return None
    try:
        return literal.cast(dtype)  # cached, for it takes longer than to compare a small batch
    except pa.ArrowInvalid:
        return None


def _fits(value: Value, dtype: pa.DataType) -> bool:
    return isinstance(value, pa.Scalar) and _literal_as(value, dtype) is not None


def number_pair(a: Value, b: Value) -> tuple[Any, Any]:
    """Two numbers of any types as the pair of types they are computed in."""
    if a.type == b.type and a.type in (INT64, FLOAT64):
        return a, b
    families = {family_of(a), family_of(b)}
    if "float" in families:
        # Unchecked: beyond 2**53 the nearest double is what everyone expects of a mixed computation.
        return as_type(a, FLOAT64, safe=False), as_type(b, FLOAT64, safe=False)
    if "decimal" in families:
        return a, b
    unsigned = UINT64 in (a.type, b.type) and all(v.type == UINT64 or _fits(v, UINT64) for v in (a, b))
    dtype = UINT64 if unsigned else INT64
    return as_type(a, dtype), as_type(b, dtype)


def _moments(a: Value, b: Value) -> tuple[Any, Any]:
    """Two times or dates as times with a zone, where they are not alike already."""
    return instant(a), instant(b)


def instant(value: Value) -> Any:
    if family_of(value) == "date":
        return value.cast(TIMESTAMP)
    dtype: Any = value.type
    return value if dtype.tz else value.cast(pa.timestamp(dtype.unit, "UTC"))


def comparable_pair(a: Value, b: Value) -> tuple[Any, Any]:
    """Two values as types that Arrow compares.

    Raises:
        Refused: there is no such pair of types.
    """
    if a.type == b.type:
        if family_of(a) in COMPARABLE:
            return a, b
        raise Refused(f"cannot compare values of type {a.type}")
    families = (family_of(a), family_of(b))
    if families[1] == "null" and families[0] in COMPARABLE:
        return a, b.cast(a.type)
    if families[0] == "null" and families[1] in COMPARABLE:
        return a.cast(b.type), b
    if NUMERIC.issuperset(families):
        if "float" in families or "decimal" in families:
            return number_pair(a, b)
        # A literal takes the column's type: casting the column to int64 costs more than comparing it.
        if isinstance(b, pa.Scalar) and (literal := _literal_as(b, a.type)):
            return a, literal
        if isinstance(a, pa.Scalar) and (literal := _literal_as(a, b.type)):
            return literal, b
        if UINT64 in (a.type, b.type):
            # Neither 64-bit type holds both; compared as decimals, no value is out of range.
            return a.cast(pa.decimal128(20)), b.cast(pa.decimal128(20))
        return number_pair(a, b)
    if MOMENT.issuperset(families):
        return _moments(a, b)
    if families[0] == families[1] and families[0] in COMPARABLE:
        return a, b
    raise Refused(f"cannot compare {a.type} with {b.type}; {advice(*families)}")


def advice(*families: str) -> str:
    if "string" in families and MOMENT.intersection(families):
        return "use .str.to_datetime()"
    if NUMERIC.intersection(families) and MOMENT.intersection(families):
        return "use from_epoch(...) or .dt.epoch()"
    return "use .cast(...)"


def unified(*values: Value) -> list[Any]:
    """The values as one type that holds them all, for choices among them; literals adapt to columns."""
    dtype: pa.DataType = pa.null()
    # Columns come first: what they agree on is what literals have to fit.
    for value in sorted(values, key=lambda value: isinstance(value, pa.Scalar)):
        if not _fits(value, dtype):
            dtype = _common(dtype, value.type)
    return [as_type(value, dtype, safe=FAMILIES.get(dtype.id) != "float") for value in values]


def _common(a: Any, b: Any) -> pa.DataType:
    """The narrowest type for values of both types.

    Raises:
        Refused: there is none.
    """
    if a == b or pa.types.is_null(b):
        return a  # type: ignore[no-any-return]
    if pa.types.is_null(a):
        return b  # type: ignore[no-any-return]
    families = (FAMILIES.get(a.id, "other"), FAMILIES.get(b.id, "other"))
    if NUMERIC.issuperset(families):
        if "float" in families:
            return FLOAT64
        if "decimal" in families:
            digits = [(t.precision, t.scale) if FAMILIES[t.id] == "decimal" else (20, 0) for t in (a, b)]
            scale = max(s for _, s in digits)
            precision = scale + max(p - s for p, s in digits)
            return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
        return UINT64 if pa.types.is_unsigned_integer(a) and pa.types.is_unsigned_integer(b) else INT64
    if MOMENT.issuperset(families):
        units = [t.unit for t in (a, b) if pa.types.is_timestamp(t)] or ["us"]
        zones = {t.tz for t in (a, b) if pa.types.is_timestamp(t)}
        return pa.timestamp(min(units, key=UNIT_NS.__getitem__), zones.pop() if len(zones) == 1 else "UTC")
    if families[0] == families[1]:
        try:
            merged = pa.unify_schemas([pa.schema([("", a)]), pa.schema([("", b)])], promote_options="permissive")
            dtype: pa.DataType = merged.field(0).type
            return dtype
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            pass
    raise Refused(f"{a} and {b} have no type in common; {advice(*families)}")


def number_or_duration(value: Value) -> Any:
    if family_of(value) == "null":
        return value.cast(INT64)
    if family_of(value) in NUMERIC or family_of(value) == "duration":
        return value
    raise Refused(f"expected a number, found {value.type}; use .cast(...)")


def as_number(value: Value) -> Any:
    if family_of(value) == "null":
        return value.cast(INT64)
    if family_of(value) in NUMERIC:
        return value
    raise Refused(f"expected a number, found {value.type}; use .cast(...)")


def logical(value: Value) -> Any:
    if family_of(value) == "bool":
        return value
    if family_of(value) == "null":
        return value.cast(BOOL)
    hint = "put comparisons in parentheses, (a > 1) & (b < 2), or compare with a value"
    raise Refused(f"expected bool, found {value.type}; {hint}")


def as_text(value: Value) -> Any:
    if family_of(value) == "string":
        return value
    if family_of(value) == "null":
        return value.cast(STRING)
    raise Refused(f'expected string, found {value.type}; use .cast("string")')


def as_moment(value: Value) -> Any:
    """A time or date, as a time with a zone."""
    family = family_of(value)
    if family in MOMENT:
        return instant(value)
    if family == "null":
        return value.cast(TIMESTAMP)
    raise Refused(f"expected a time, found {value.type}; {advice(family, 'timestamp')}")
