"""The operations of the expression language, on Arrow columns: one kernel for each name in `KERNELS`.

What an operation means, where engines differ:

- Null in, null out. ``&`` and ``|`` are Kleene's: false & null is false. A null condition is not true.
- Computed integers are int64 (uint64 among unsigned ones), computed floats double; integers and floats
  mix to double. Integer overflow is an error, never a wrapped number. Decimals stay exact in + - *.
- ``/`` is true division in double: x / 0 is inf or nan. ``//`` and ``%`` round down as in Python, and are
  null where the divisor is zero.
- Times without a zone are UTC; a date among times is its midnight, UTC.

Every kernel gets at least one array; all other arguments may be arrays or scalars. Literals stay scalars,
so that they can take the type of the column beside them. A kernel that does not take values of the types
it got raises `Refused`; an error of Arrow's is a fault of some value, see `millstream.evaluate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial, reduce
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, as_numpy
from millstream.errors import unknown_field
from millstream.expr import TIMESTAMP
from millstream.times import duration_us

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


# --- types: what family a value is of, and how two of them meet

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
_FAMILY: Final = {dtype.id: family for family, dtypes in _KINDS.items() for dtype in dtypes}
_NUMERIC: Final = frozenset(("integer", "float", "decimal"))
_MOMENT: Final = frozenset(("timestamp", "date"))
_COMPARABLE: Final = _NUMERIC | _MOMENT | {"bool", "string", "binary", "time", "duration", "null"}
_UNIT_NS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_UTC_ZONES: Final = frozenset((None, "UTC", "Etc/UTC", "GMT", "Z", "+00:00"))


def _family(value: Value) -> str:
    return _FAMILY.get(value.type.id, "other")


def decoded(value: Value) -> Value:
    """The same values without dictionary, view, run-end or extension encoding, which few kernels take."""
    dtype: Any = value.type
    if dtype.id in _FAMILY:
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


def _to(value: Value, dtype: pa.DataType, safe: bool = True) -> Any:
    return value if value.type == dtype else value.cast(dtype, safe=safe)


@lru_cache(maxsize=1024)
def _literal_as(literal: pa.Scalar[Any], dtype: pa.DataType) -> pa.Scalar[Any] | None:
    """A literal integer as a number of the column's type, or None if it would not stay itself."""
    if _family(literal) != "integer" or _FAMILY.get(dtype.id) not in _NUMERIC:
        return None
    try:
        return literal.cast(dtype)  # cached, for it takes longer than to compare a small batch
    except pa.ArrowInvalid:
        return None


def _fits(value: Value, dtype: pa.DataType) -> bool:
    return isinstance(value, pa.Scalar) and _literal_as(value, dtype) is not None


def _numbers(a: Value, b: Value) -> tuple[Any, Any]:
    """Two numbers of any types as the pair of types they are computed in."""
    if a.type == b.type and a.type in (INT64, FLOAT64):
        return a, b
    families = {_family(a), _family(b)}
    if "float" in families:
        # Unchecked: beyond 2**53 the nearest double is what everyone expects of a mixed computation.
        return _to(a, FLOAT64, safe=False), _to(b, FLOAT64, safe=False)
    if "decimal" in families:
        return a, b
    unsigned = UINT64 in (a.type, b.type) and all(v.type == UINT64 or _fits(v, UINT64) for v in (a, b))
    dtype = UINT64 if unsigned else INT64
    return _to(a, dtype), _to(b, dtype)


def _moments(a: Value, b: Value) -> tuple[Any, Any]:
    """Two times or dates as times with a zone, where they are not alike already."""
    return _instant(a), _instant(b)


def _instant(value: Value) -> Any:
    if _family(value) == "date":
        return value.cast(TIMESTAMP)
    dtype: Any = value.type
    return value if dtype.tz else value.cast(pa.timestamp(dtype.unit, "UTC"))


def _aligned(a: Value, b: Value) -> tuple[Any, Any]:
    """Two values as types that Arrow compares.

    Raises:
        Refused: there is no such pair of types.
    """
    if a.type == b.type:
        if _family(a) in _COMPARABLE:
            return a, b
        raise Refused(f"cannot compare values of type {a.type}")
    families = (_family(a), _family(b))
    if families[1] == "null" and families[0] in _COMPARABLE:
        return a, b.cast(a.type)
    if families[0] == "null" and families[1] in _COMPARABLE:
        return a.cast(b.type), b
    if _NUMERIC.issuperset(families):
        if "float" in families or "decimal" in families:
            return _numbers(a, b)
        # A literal takes the column's type: casting the column to int64 costs more than comparing it.
        if isinstance(b, pa.Scalar) and (literal := _literal_as(b, a.type)):
            return a, literal
        if isinstance(a, pa.Scalar) and (literal := _literal_as(a, b.type)):
            return literal, b
        if UINT64 in (a.type, b.type):
            # Neither 64-bit type holds both; compared as decimals, no value is out of range.
            return a.cast(pa.decimal128(20)), b.cast(pa.decimal128(20))
        return _numbers(a, b)
    if _MOMENT.issuperset(families):
        return _moments(a, b)
    if families[0] == families[1] and families[0] in _COMPARABLE:
        return a, b
    raise Refused(f"cannot compare {a.type} with {b.type}; {_advice(*families)}")


def _advice(*families: str) -> str:
    if "string" in families and _MOMENT.intersection(families):
        return "use .str.to_datetime()"
    if _NUMERIC.intersection(families) and _MOMENT.intersection(families):
        return "use from_epoch(...) or .dt.epoch()"
    return "use .cast(...)"


def unified(*values: Value) -> list[Any]:
    """The values as one type that holds them all, for choices among them; literals adapt to columns."""
    dtype: pa.DataType = pa.null()
    # Columns come first: what they agree on is what literals have to fit.
    for value in sorted(values, key=lambda value: isinstance(value, pa.Scalar)):
        if not _fits(value, dtype):
            dtype = _common(dtype, value.type)
    return [_to(value, dtype, safe=_FAMILY.get(dtype.id) != "float") for value in values]


def _common(a: Any, b: Any) -> pa.DataType:
    """The narrowest type for values of both types.

    Raises:
        Refused: there is none.
    """
    if a == b or pa.types.is_null(b):
        return a  # type: ignore[no-any-return]
    if pa.types.is_null(a):
        return b  # type: ignore[no-any-return]
    families = (_FAMILY.get(a.id, "other"), _FAMILY.get(b.id, "other"))
    if _NUMERIC.issuperset(families):
        if "float" in families:
            return FLOAT64
        if "decimal" in families:
            digits = [(t.precision, t.scale) if _FAMILY[t.id] == "decimal" else (20, 0) for t in (a, b)]
            scale = max(s for _, s in digits)
            precision = scale + max(p - s for p, s in digits)
            return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
        return UINT64 if pa.types.is_unsigned_integer(a) and pa.types.is_unsigned_integer(b) else INT64
    if _MOMENT.issuperset(families):
        units = [t.unit for t in (a, b) if pa.types.is_timestamp(t)] or ["us"]
        zones = {t.tz for t in (a, b) if pa.types.is_timestamp(t)}
        return pa.timestamp(min(units, key=_UNIT_NS.__getitem__), zones.pop() if len(zones) == 1 else "UTC")
    if families[0] == families[1]:
        try:
            merged = pa.unify_schemas([pa.schema([("", a)]), pa.schema([("", b)])], promote_options="permissive")
            dtype: pa.DataType = merged.field(0).type
            return dtype
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            pass
    raise Refused(f"{a} and {b} have no type in common; {_advice(*families)}")


# --- arithmetic

_SUMS: Final = {
    ("timestamp", "duration"), ("date", "duration"), ("duration", "timestamp"), ("duration", "date"),
    ("duration", "duration"),
}  # fmt: skip
_DIFFERENCES: Final = {
    ("timestamp", "duration"), ("date", "duration"), ("duration", "duration"), ("timestamp", "timestamp"),
    ("timestamp", "date"), ("date", "timestamp"), ("date", "date"),
}  # fmt: skip
_PRODUCTS: Final = {("duration", "integer"), ("integer", "duration")}


def _add(a: Value, b: Value) -> Any:
    if "string" in (_family(a), _family(b)) and {_family(a), _family(b)} <= {"string", "null"}:
        return _concat_str(a, b)
    return _arithmetic("add_checked", "add", _SUMS, a, b)


def _arithmetic(function: str, verb: str, temporal: set[tuple[str, str]], a: Value, b: Value) -> Any:
    a, b = _typed_nulls(a, b)
    families = (_family(a), _family(b))
    if _NUMERIC.issuperset(families):
        return pc.call_function(function, list(_numbers(a, b)))
    if families not in temporal:
        raise Refused(f"cannot {verb} {a.type} and {b.type}; {_advice(*families)}")
    pair = [_instant(value) if _family(value) in _MOMENT else value for value in (a, b)]
    return pc.call_function(function, pair)


def _typed_nulls(a: Value, b: Value) -> tuple[Value, Value]:
    """A null of no type gets the type that makes sense beside the other value; two of them are numbers."""

    def beside(other: Value) -> pa.DataType:
        family = _family(other)
        return INT64 if family == "null" else pa.duration("us") if family in _MOMENT else other.type

    return _to(a, beside(b)) if _family(a) == "null" else a, _to(b, beside(a)) if _family(b) == "null" else b


def _divide(a: Value, b: Value) -> Any:
    a, b = _typed_nulls(a, b)
    families = (_family(a), _family(b))
    if families == ("duration", "duration"):
        unit = pa.duration("us")
        a, b = a.cast(unit).cast(INT64), b.cast(unit).cast(INT64)
    elif not _NUMERIC.issuperset(families):
        raise Refused(f"cannot divide {a.type} by {b.type}; {_advice(*families)}")
    return pc.divide(_to(a, FLOAT64, safe=False), _to(b, FLOAT64, safe=False))


def _round_down(ufunc: np.ufunc, a: Value, b: Value) -> Any:
    """``//`` or ``%``, which Arrow has only rounding towards zero, and NumPy has as Python has them."""
    a, b = _typed_nulls(a, b)
    families = {_family(a), _family(b)}
    if "decimal" in families or not families <= _NUMERIC:
        raise Refused(f"cannot divide {a.type} by {b.type} with a remainder; use .cast(...)")
    a, b = _numbers(a, b)
    if isinstance(b, pa.Scalar):
        return _round_down_by(ufunc, a, b)
    divisor = _numpy(b)
    zero = divisor == 0
    dividend = a.as_py() if isinstance(a, pa.Scalar) else _numpy(a)
    if dividend is None:
        return pa.nulls(len(b), b.type)
    with np.errstate(all="ignore"):
        result = ufunc(dividend, divisor, dtype=divisor.dtype)
    # Only the lowest integer has no negative; looked for where a divisor is -1, which is rare.
    if ufunc is np.floor_divide and b.type == INT64 and (divisor == -1).any():
        pc.divide_checked(a, pc.if_else(_compare("equal", b, pa.scalar(-1)), b, pa.scalar(1)))
    valid = [pc.is_valid(v) for v in (a, b) if isinstance(v, pa.Array) and v.null_count]
    return _array(result, b.type, *valid, *((pa.array(~zero),) if zero.any() else ()))


def _round_down_by(ufunc: np.ufunc, a: Any, b: pa.Scalar[Any]) -> Any:
    divisor: Any = b.as_py()
    if not divisor:
        return pa.nulls(len(a), a.type)
    values = _numpy(a)
    valid = (pc.is_valid(a),) if a.null_count else ()
    with np.errstate(all="ignore"):
        if a.type == FLOAT64:
            return _array(ufunc(values, divisor), FLOAT64, *valid)
        if divisor == -1:
            return pc.negate_checked(a) if ufunc is np.floor_divide else pc.multiply(a, 0)
        result = np.floor_divide(values, divisor)
        if ufunc is np.remainder:
            # NumPy divides by a constant with a multiplication, but has no such short cut for remainders.
            result *= divisor
            np.subtract(values, result, out=result)
        return _array(result, a.type, *valid)


def _negate(value: Value) -> Any:
    if _family(value) == "integer":
        value = _to(value, INT64)
    return pc.negate_checked(_number_or_duration(value))


def _number_or_duration(value: Value) -> Any:
    if _family(value) == "null":
        return value.cast(INT64)
    if _family(value) in _NUMERIC or _family(value) == "duration":
        return value
    raise Refused(f"expected a number, found {value.type}; use .cast(...)")


def _round(value: Value, decimals: int) -> Any:
    if _family(value) == "integer" and decimals >= 0:
        return value
    return pc.round(_number(value), decimals)


def _number(value: Value) -> Any:
    if _family(value) == "null":
        return value.cast(INT64)
    if _family(value) in _NUMERIC:
        return value
    raise Refused(f"expected a number, found {value.type}; use .cast(...)")


# --- comparison, logic, nulls


def _compare(function: str, a: Value, b: Value) -> Any:
    return pc.call_function(function, list(_aligned(a, b)))


def _is_between(value: Value, low: Value, high: Value, closed: str = "both") -> Any:
    above = _compare("greater_equal" if closed in ("both", "left") else "greater", value, low)
    below = _compare("less_equal" if closed in ("both", "right") else "less", value, high)
    return pc.and_kleene(above, below)


def _is_in(value: Any, listed: Any) -> Any:
    values: Any = listed.values if isinstance(listed, pa.ListScalar) else listed[0].values
    value, values = _aligned(value, values)
    if value.type != values.type:
        value, values = unified(value, values)
    found = pc.is_in(value, value_set=values)
    return pc.if_else(pc.is_valid(value), found, pa.scalar(None, BOOL)) if value.null_count else found


def logical(value: Value) -> Any:
    if _family(value) == "bool":
        return value
    if _family(value) == "null":
        return value.cast(BOOL)
    hint = "put comparisons in parentheses, (a > 1) & (b < 2), or compare with a value"
    raise Refused(f"expected bool, found {value.type}; {hint}")


def _logic(function: str, a: Value, b: Value) -> Any:
    return pc.call_function(function, [logical(a), logical(b)])


def _is_nan(value: Value) -> Any:
    return pc.is_nan(_to(_number(value), FLOAT64, safe=False))


def _coalesce(*values: Value) -> Any:
    return pc.coalesce(*unified(*values))


def _extreme(function: str, *values: Value) -> Any:
    alike = unified(*values)
    dtype = alike[0].type
    if _FAMILY.get(dtype.id) not in _COMPARABLE or dtype == BOOL:
        raise Refused(f"values of type {dtype} have no order")
    if pa.types.is_timestamp(dtype) and dtype.tz:
        # Arrow orders times only without a zone; the zone does not change the order.
        naive = pa.timestamp(dtype.unit)
        return pc.call_function(function, [value.cast(naive) for value in alike]).cast(dtype)
    return pc.call_function(function, alike)


def _when(*arguments: Value) -> Any:
    rows = next(len(argument) for argument in arguments if isinstance(argument, pa.Array))
    pairs = len(arguments) // 2 * 2
    conditions = [
        value if isinstance(value, pa.Array) else repeated(value, rows) for value in map(logical, arguments[0:pairs:2])
    ]
    otherwise = arguments[pairs:] or (NULL,)
    values = unified(*arguments[1:pairs:2], *otherwise)
    return pc.case_when(pc.make_struct(*conditions), *values)


# --- casts


def _cast(value: Any, dtype: Any) -> Any:
    family, target = _family(value), _FAMILY.get(dtype.id)
    if family == "string" and target == "timestamp":
        return _to_datetime(value).cast(dtype)
    if family == "float" and target == "integer":
        return pc.trunc(value).cast(dtype)
    if pa.types.is_dictionary(dtype):
        return value.cast(dtype.value_type).dictionary_encode().cast(dtype)
    try:
        return value.cast(dtype, safe=not (family == "integer" and target == "float"))
    except pa.ArrowNotImplementedError as error:
        raise Refused(f"cannot cast {value.type} to {dtype}") from error


# --- strings


def _text(value: Value) -> Any:
    if _family(value) == "string":
        return value
    if _family(value) == "null":
        return value.cast(STRING)
    raise Refused(f'expected string, found {value.type}; use .cast("string")')


def _of_text(function: Kernel, value: Value, **options: Any) -> Any:
    return function(_text(value), **options)


def _count_of_text(function: Kernel, value: Value, **options: Any) -> Any:
    return function(_text(value), **options).cast(INT64)


def _concat_str(*values: Value, separator: str = "") -> Any:
    texts = [value if _family(value) == "string" else value.cast(STRING) for value in values]
    dtype = pa.large_string() if any(text.type == pa.large_string() for text in texts) else STRING
    return pc.binary_join_element_wise(*(_to(text, dtype) for text in texts), pa.scalar(separator, dtype))


def _contains(value: Value, pattern: str, literal: bool) -> Any:
    return (pc.match_substring if literal else pc.match_substring_regex)(_text(value), pattern)


def _count_matches(value: Value, pattern: str, literal: bool) -> Any:
    return (pc.count_substring if literal else pc.count_substring_regex)(_text(value), pattern).cast(INT64)


def _slice(value: Value, offset: int, length: int | None) -> Any:
    stop = None if length is None else offset + length
    if stop is not None and offset < 0 <= stop:
        stop = None  # from the end, to the end
    return pc.utf8_slice_codeunits(_text(value), offset, stop)


def _strip_chars(value: Value, characters: str | None) -> Any:
    return pc.utf8_trim_whitespace(_text(value)) if characters is None else pc.utf8_trim(_text(value), characters)


def _replace(most: int | None, column: Value, pattern: str, value: str, literal: bool) -> Any:
    function = pc.replace_substring if literal else pc.replace_substring_regex
    return function(_text(column), pattern, value, max_replacements=most)


def _extract(value: Value, pattern: str, group: int | str) -> Any:
    return pc.struct_field(pc.extract_regex(_text(value), _one_group(pattern, group)), "g")


_GROUP: Final = re.compile(
    r"\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]|(?P<named>\(\?P?<(?P<name>\w+)>)|(?P<plain>\((?!\?))",
    re.DOTALL,
)


@lru_cache(maxsize=256)
def _one_group(pattern: str, group: int | str) -> str:
    """The pattern with the wanted group named "g" and all others not capturing, as Arrow's extract needs it."""
    count, found = 0, group == 0

    def renamed(match: re.Match[str]) -> str:
        nonlocal count, found
        if not match["plain"] and not match["named"]:
            return match[0]  # an escape or a class of characters: its parenthesis opens no group
        count += 1
        wanted = group in (count, match["name"])
        found |= wanted
        return "(?P<g>" if wanted else "(?:"

    rewritten = _GROUP.sub(renamed, pattern)
    if not found:
        raise Refused(f"the pattern has no group {group!r}; there are {count}, and 0 is the whole match")
    return f"(?P<g>{rewritten})" if group == 0 else rewritten


_OFFSET: Final = r"[T ]\d\d.*(?:[Zz]|[+-]\d\d(?::?\d\d)?)$"
_NAIVE: Final = pa.timestamp("us")


def _to_datetime(value: Value, format: str | None = None) -> Any:
    text = _text(value)
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


# --- times


def _moment(value: Value) -> Any:
    """A time or date, as a time with a zone."""
    family = _family(value)
    if family in _MOMENT:
        return _instant(value)
    if family == "null":
        return value.cast(TIMESTAMP)
    raise Refused(f"expected a time, found {value.type}; {_advice(family, 'timestamp')}")


def _calendar(value: Value) -> Any:
    """A time that Arrow reads calendar fields from: in UTC without its zone, which is 13 times as fast."""
    if _family(value) == "time":
        return value
    moment = _moment(value)
    return moment.view(pa.timestamp(moment.type.unit)) if moment.type.tz in _UTC_ZONES else moment


def _part(function: Kernel, value: Value) -> Any:
    return function(_calendar(value))


def _microsecond(value: Value) -> Any:
    moment = _calendar(value)
    return pc.add(pc.multiply(pc.millisecond(moment), 1_000), pc.microsecond(moment))


def _weekday(value: Value) -> Any:
    return pc.day_of_week(_calendar(_moment(value)), count_from_zero=False, week_start=1)


def _truncate(value: Value, every: Any) -> Any:
    moment = _moment(value)
    every_ns, unit_ns = duration_us(every, "dt.truncate") * 1_000, _UNIT_NS[moment.type.unit]
    if every_ns % unit_ns:
        moment = moment.cast(pa.timestamp("us", moment.type.tz))
        unit_ns = 1_000
    # Arrow's floor_temporal does the same, 50 times slower where there is a zone.
    step = every_ns // unit_ns
    floored = _numpy(moment.view(INT64)) // step * step
    return _array(floored, INT64, *_validity(moment)).view(moment.type)


def _date(value: Value) -> Any:
    return _calendar(_moment(value)).cast(pa.date32())


def _epoch(value: Value, unit: str) -> Any:
    moment = _moment(value)
    ticks, from_ns, to_ns = moment.view(INT64), _UNIT_NS[moment.type.unit], _UNIT_NS[unit]
    if from_ns >= to_ns:
        return pc.multiply_checked(ticks, from_ns // to_ns)
    return _array(_numpy(ticks) // (to_ns // from_ns), INT64, *_validity(moment))


def _from_epoch(value: Value, unit: str) -> Any:
    number = _number(value)
    factor = _UNIT_NS[unit] // 1_000
    if _family(number) == "float":
        number = pc.round(pc.multiply(number.cast(FLOAT64), float(factor))).cast(INT64)
    else:
        number = pc.multiply_checked(number.cast(INT64), factor)
    return number.view(TIMESTAMP)


def _strftime(value: Value, format: str) -> Any:
    moment = _moment(value)
    if "%S.%f" in format:
        return pc.strftime(moment.cast(pa.timestamp("us", moment.type.tz)), format=format.replace("%S.%f", "%S"))
    # Arrow's %S writes the fraction as well, to the unit of the time: whole seconds have none.
    seconds = _truncate(moment, "1s").cast(pa.timestamp("s", moment.type.tz))
    return pc.strftime(seconds, format=format)


def _total(unit: str, value: Any) -> Any:
    if _family(value) == "null":
        return value.cast(INT64)
    if _family(value) != "duration":
        raise Refused(f"expected a duration, found {value.type}; a difference of two times is one")
    from_ns, to_ns = _UNIT_NS[value.type.unit], _UNIT_NS[unit]
    ticks = value.cast(INT64)
    return pc.multiply_checked(ticks, from_ns // to_ns) if from_ns >= to_ns else pc.divide(ticks, to_ns // from_ns)


# --- structs and lists


def _struct_field(value: Value, name: str) -> Any:
    if _family(value) != "struct":
        raise Refused(f"expected a struct, found {value.type}")
    dtype: Any = value.type
    if dtype.get_field_index(name) < 0:
        raise unknown_field(name, [child.name for child in dtype], f".struct.field({name!r})")
    return pc.struct_field(value, name)


def _list(value: Value) -> Any:
    if _family(value) != "list":
        raise Refused(f"expected a list, found {value.type}; .str.split(...) makes one of a string")
    dtype: Any = value.type
    return value.cast(pa.list_(dtype.value_field)) if pa.types.is_fixed_size_list(dtype) else value


def _list_len(value: Value) -> Any:
    return pc.list_value_length(_list(value)).cast(INT64)


def _list_get(value: Value, index: int) -> Any:
    lists = _list(value)
    offsets = lists.offsets.to_numpy()
    starts, ends = offsets[:-1], offsets[1:]
    wanted = starts + index if index >= 0 else ends + index
    missing = (wanted < starts) | (wanted >= ends)
    if lists.null_count:
        missing |= pc.is_null(lists).to_numpy(zero_copy_only=False)
    return lists.values.take(pa.array(wanted, mask=missing) if missing.any() else pa.array(wanted))


# --- Arrow to NumPy and back


def _numpy(value: Any) -> npt.NDArray[Any]:
    """The values without a copy; what stands under a null is anything."""
    dtype = value.type.to_pandas_dtype()
    data = value.buffers()[1]
    if data is None:
        return np.zeros(len(value), dtype)
    return as_numpy(data, np.dtype(dtype), len(value), value.offset * np.dtype(dtype).itemsize)


def _array(values: npt.NDArray[Any], dtype: pa.DataType, *valid: Any) -> Any:
    """The values as Arrow, without a copy; null where one of the ``valid`` columns is false."""
    if not valid:
        return pa.array(values, dtype)
    mask = reduce(pc.and_, valid)
    if mask.offset:
        return pc.if_else(mask, pa.array(values, dtype), pa.scalar(None, dtype))
    data: Any = values  # a buffer, though the stubs do not know
    return pa.Array.from_buffers(dtype, len(values), [mask.buffers()[1], pa.py_buffer(data)])


def _validity(value: Any) -> tuple[Any, ...]:
    return (pc.is_valid(value),) if value.null_count else ()


KERNELS: Final[dict[str, Kernel]] = {
    "+": _add,
    "-": partial(_arithmetic, "subtract_checked", "subtract", _DIFFERENCES),
    "*": partial(_arithmetic, "multiply_checked", "multiply", _PRODUCTS),
    "/": _divide,
    "//": partial(_round_down, np.floor_divide),
    "%": partial(_round_down, np.remainder),
    "neg": _negate,
    "abs": lambda value: pc.abs_checked(_number_or_duration(value)),
    "round": _round,
    "floor": lambda value: value if _family(value) == "integer" else pc.floor(_number(value)),
    "ceil": lambda value: value if _family(value) == "integer" else pc.ceil(_number(value)),
    "==": partial(_compare, "equal"),
    "!=": partial(_compare, "not_equal"),
    "<": partial(_compare, "less"),
    "<=": partial(_compare, "less_equal"),
    ">": partial(_compare, "greater"),
    ">=": partial(_compare, "greater_equal"),
    "is_between": _is_between,
    "is_in": _is_in,
    "&": partial(_logic, "and_kleene"),
    "|": partial(_logic, "or_kleene"),
    "^": partial(_logic, "xor"),
    "not": lambda value: pc.invert(logical(value)),
    "is_null": pc.is_null,
    "is_not_null": pc.is_valid,
    "is_nan": _is_nan,
    "fill_null": _coalesce,
    "coalesce": _coalesce,
    "min_horizontal": partial(_extreme, "min_element_wise"),
    "max_horizontal": partial(_extreme, "max_element_wise"),
    "when": _when,
    "cast": _cast,
    "concat_str": _concat_str,
    "str.to_uppercase": partial(_of_text, pc.utf8_upper),
    "str.to_lowercase": partial(_of_text, pc.utf8_lower),
    "str.contains": _contains,
    "str.count_matches": _count_matches,
    "str.starts_with": lambda value, prefix: pc.starts_with(_text(value), prefix),
    "str.ends_with": lambda value, suffix: pc.ends_with(_text(value), suffix),
    "str.len_chars": partial(_count_of_text, pc.utf8_length),
    "str.len_bytes": partial(_count_of_text, pc.binary_length),
    "str.slice": _slice,
    "str.split": lambda value, by: pc.split_pattern(_text(value), by),
    "str.strip_chars": _strip_chars,
    "str.replace": partial(_replace, 1),
    "str.replace_all": partial(_replace, None),
    "str.extract": _extract,
    "str.to_datetime": _to_datetime,
    "dt.truncate": _truncate,
    "dt.year": partial(_part, pc.year),
    "dt.month": partial(_part, pc.month),
    "dt.day": partial(_part, pc.day),
    "dt.hour": partial(_part, pc.hour),
    "dt.minute": partial(_part, pc.minute),
    "dt.second": partial(_part, pc.second),
    "dt.millisecond": partial(_part, pc.millisecond),
    "dt.microsecond": _microsecond,
    "dt.weekday": _weekday,
    "dt.date": _date,
    "dt.epoch": _epoch,
    "dt.strftime": _strftime,
    "dt.total_seconds": partial(_total, "s"),
    "dt.total_milliseconds": partial(_total, "ms"),
    "dt.total_microseconds": partial(_total, "us"),
    "from_epoch": _from_epoch,
    "struct.field": _struct_field,
    "list.len": _list_len,
    "list.get": _list_get,
}
"""Every operation of the language, by the name that `millstream.expr.Call` gives it."""
