"""Expressions: what the user says about fields, kept as data.

``col("price") * 0.9`` computes nothing. It builds a small tree of `Column`, `Literal`, `Call` and `Alias`
nodes, which `millstream.evaluate` type-checks and runs on Arrow columns, ``str()`` writes back as source
text for errors and ``explain``, and other planners translate. A tree holds no functions, so it pickles.

Names and meanings are those of Polars where it has them. What can be checked without data is refused while
the expression is built, where the user's own line is still in the traceback: literals, regular
expressions, durations, names of types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NoReturn, TypeAlias
from typing import Literal as OneOf

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import FlowError, SchemaError
from millstream.times import Duration, duration_us

TIMESTAMP: Final = pa.timestamp("us", "UTC")
"""The type of every time that an expression makes: event time's own unit."""

EpochUnit: TypeAlias = OneOf["s", "ms", "us"]
EPOCH_UNITS: Final = ("s", "ms", "us")

# Expr has the properties .str, .list and .struct, which hide the types of these names inside the class.
Text: TypeAlias = str

# Python's own order of precedence, so that text pasted back into Python means the same.
_INFIX: Final = {
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), 1),
    "|": 2, "^": 3, "&": 4, "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6,
}  # fmt: skip
_PREFIX: Final = {"neg": "-", "not": "~"}
_UNARY, _ATOM = 7, 8
_FUNCTIONS: Final = {"coalesce", "min_horizontal", "max_horizontal", "from_epoch", "abs"}


class Expr:
    """A value for each row of a batch, described. Immutable; every method returns a new expression.

    Operators take expressions and Python literals alike; a string is a literal, never a field name.
    """

    def fields(self) -> frozenset[Text]:
        """The root columns that the expression reads."""
        return frozenset().union(*(child.fields() for child in self._children()))

    def paths(self) -> frozenset[Text]:
        """What it reads of the root columns: ``bid.price`` where of a struct it reads one field only."""
        return frozenset().union(*(child.paths() for child in self._children()))

    def name(self) -> Text:
        """The name of the column it makes: its alias, or its leftmost root column or field of a struct.

        Raises:
            FlowError: it has neither.
        """
        name = self._name()
        if name is None:
            raise FlowError(f"{self}: no field to take a name from; name it with .alias(...)")
        return name

    def _children(self) -> tuple[Expr, ...]:
        return ()

    def _name(self) -> Text | None:
        return next((name for child in self._children() if (name := child._name()) is not None), None)

    def _text(self) -> tuple[Text, int]:
        """Source text, and how tightly its outermost operator binds."""
        raise NotImplementedError

    def __str__(self) -> Text:
        return self._text()[0]

    def __repr__(self) -> Text:
        return f"<Expr: {self}>"

    # --- arithmetic: numbers are computed as int64, double or decimal; see millstream.evaluate

    def __add__(self, other: object) -> Expr:
        return _binary("+", self, other)

    def __radd__(self, other: object) -> Expr:
        return _binary("+", other, self)

    def __sub__(self, other: object) -> Expr:
        return _binary("-", self, other)

    def __rsub__(self, other: object) -> Expr:
        return _binary("-", other, self)

    def __mul__(self, other: object) -> Expr:
        return _binary("*", self, other)

    def __rmul__(self, other: object) -> Expr:
        return _binary("*", other, self)

    def __truediv__(self, other: object) -> Expr:
        return _binary("/", self, other)

    def __rtruediv__(self, other: object) -> Expr:
        return _binary("/", other, self)

    def __floordiv__(self, other: object) -> Expr:
        return _binary("//", self, other)

    def __rfloordiv__(self, other: object) -> Expr:
        return _binary("//", other, self)

    def __mod__(self, other: object) -> Expr:
        return _binary("%", self, other)

    def __rmod__(self, other: object) -> Expr:
        return _binary("%", other, self)

    def __neg__(self) -> Expr:
        return Call("neg", (self,))

    def __abs__(self) -> Expr:
        return Call("abs", (self,))

    def abs(self) -> Expr:
        """Without its sign, in the same type; -2**63 as an integer has none, and its row is a dead letter."""
        return Call("abs", (self,))

    def round(self, decimals: int = 0) -> Expr:
        """To ``decimals`` places, halves to the even neighbour as in Python. Integers stay integers."""
        return Call("round", (self,), {"decimals": decimals})

    def __round__(self, decimals: int = 0) -> Expr:
        return self.round(decimals)

    def floor(self) -> Expr:
        """The next whole number below, in the same type: 1.5 gives 1.0."""
        return Call("floor", (self,))

    def ceil(self) -> Expr:
        """The next whole number above, in the same type: 1.5 gives 2.0."""
        return Call("ceil", (self,))

    # --- comparison and logic: null where a side is null, except where Kleene logic knows the answer

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return _binary("==", self, other)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return _binary("!=", self, other)

    def __lt__(self, other: object) -> Expr:
        return _binary("<", self, other)

    def __le__(self, other: object) -> Expr:
        return _binary("<=", self, other)

    def __gt__(self, other: object) -> Expr:
        return _binary(">", self, other)

    def __ge__(self, other: object) -> Expr:
        return _binary(">=", self, other)

    def __and__(self, other: object) -> Expr:
        return _binary("&", self, other)

    def __rand__(self, other: object) -> Expr:
        return _binary("&", other, self)

    def __or__(self, other: object) -> Expr:
        return _binary("|", self, other)

    def __ror__(self, other: object) -> Expr:
        return _binary("|", other, self)

    def __xor__(self, other: object) -> Expr:
        return _binary("^", self, other)

    def __rxor__(self, other: object) -> Expr:
        return _binary("^", other, self)

    def __invert__(self) -> Expr:
        return Call("not", (self,))

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> NoReturn:
        raise FlowError(
            f"{self}: an expression is not true or false by itself; use & | ~ instead of and, or, not, "
            "and .is_between(low, high) instead of low < x < high"
        )

    # NumPy scalars on the left would otherwise loop over the expression as if it were an array.
    __array_ufunc__ = None

    def is_between(self, low: object, high: object, closed: OneOf["both", "left", "right", "none"] = "both") -> Expr:
        """Whether it lies between two values; ``closed`` says which of them belong to it. Null where it is null.

        Raises:
            FlowError: ``closed`` is none of the four.
        """
        if closed not in ("both", "left", "right", "none"):
            raise FlowError(f"is_between: closed is {closed!r}; use 'both', 'left', 'right' or 'none'")
        options = {} if closed == "both" else {"closed": closed}
        return Call("is_between", (self, to_expr(low), to_expr(high)), options)

    def is_in(self, values: Iterable[object]) -> Expr:
        """Whether it equals one of ``values``; null stays null."""
        if isinstance(values, str | bytes | Expr):
            raise FlowError(f"{self}.is_in: takes a list of values, not {values!r}")
        listed = list(values)
        if any(value is None for value in listed):
            raise FlowError(f"{self}.is_in: None equals nothing; leave it out and use | {self}.is_null()")
        return Call("is_in", (self, lit(listed)))

    # --- nulls

    def is_null(self) -> Expr:
        """Whether there is no value: true or false, never null. NaN is a value."""
        return Call("is_null", (self,))

    def is_not_null(self) -> Expr:
        """Whether there is a value: true or false, never null."""
        return Call("is_not_null", (self,))

    def is_nan(self) -> Expr:
        """Whether a float is not a number; null stays null."""
        return Call("is_nan", (self,))

    def fill_null(self, value: object) -> Expr:
        """``value``, another expression or a constant, where there is none; the result has the type that holds both."""
        return Call("fill_null", (self, to_expr(value)))

    # --- type and name

    def cast(self, dtype: Text | type | pa.DataType) -> Expr:
        """To another type: "int64", "double", "string", "datetime", "date", a Python type or an Arrow type.

        A float becomes an integer by truncation, as ``int()`` does. A value that does not fit its new type
        is an error of its row, never another value.
        """
        return Call("cast", (self,), {"dtype": data_type(dtype)})

    def alias(self, name: Text) -> Expr:
        """The same under another name, in `select` and `with_columns`."""
        return Alias(self, name)

    @property
    def dt(self) -> TimeMethods:
        """Methods for times, dates and durations."""
        return TimeMethods(self)

    @property
    def struct(self) -> StructMethods:
        """Methods for structs."""
        return StructMethods(self)

    @property
    def list(self) -> ListMethods:
        """Methods for lists."""
        return ListMethods(self)

    @property
    def str(self) -> StringMethods:
        """Methods for strings."""
        return StringMethods(self)


# --- nodes


@dataclass(frozen=True, eq=False, repr=False)
class Column(Expr):
    """A field of the row."""

    column: str

    def fields(self) -> frozenset[Text]:
        return frozenset((self.column,))

    def paths(self) -> frozenset[Text]:
        return frozenset((self.column,))

    def _name(self) -> Text | None:
        return self.column

    def _text(self) -> tuple[Text, int]:
        return f"col({_quoted(self.column)})", _ATOM


@dataclass(frozen=True, eq=False, repr=False)
class WholeRow(Expr):
    """All fields of the row, as a struct. Which those are shows with the row, so `fields` does not name them."""

    def _text(self) -> tuple[Text, int]:
        return "the whole event", _ATOM


@dataclass(frozen=True, eq=False, repr=False)
class Literal(Expr):
    """The same value for every row: as the user wrote it, and as Arrow has it."""

    value: object
    scalar: pa.Scalar[Any]

    def _text(self) -> tuple[Text, int]:
        negative = isinstance(self.value, int | float) and self.value < 0
        return _literal_text(self.value), _UNARY if negative else _ATOM


@dataclass(frozen=True, eq=False, repr=False)
class Call(Expr):
    """An operation, by name, on the values of other expressions; its options are plain values.

    The names are the operators' symbols ("+", "&", "neg") and the methods' names ("fill_null",
    "str.contains"); `millstream.kernels.KERNELS` lists them all.
    """

    operation: Text
    arguments: tuple[Expr, ...]
    options: Mapping[Text, Any] = field(default_factory=dict)

    def _children(self) -> tuple[Expr, ...]:
        return self.arguments

    def paths(self) -> frozenset[Text]:
        path = _path(self)
        return super().paths() if path is None else frozenset((path,))

    def _name(self) -> Text | None:
        if self.operation == "struct.field":
            return self.options["name"]  # type: ignore[no-any-return]
        return super()._name()

    def _text(self) -> tuple[Text, int]:
        if level := _INFIX.get(self.operation):
            left, right = self.arguments
            # A comparison of a comparison needs parentheses on both sides: Python would chain them.
            return f"{_within(left, level + (level == 1))} {self.operation} {_within(right, level + 1)}", level
        if sign := _PREFIX.get(self.operation):
            return f"{sign}{_within(self.arguments[0], _UNARY)}", _UNARY
        options = [
            f"{name}=True" if value is True else _literal_text(value)
            for name, value in self.options.items()
            if value is not None and value is not False
        ]
        # A bare string would be read back as a field by these functions, hence lit("text").
        listed = [_within(a, _ATOM) if isinstance(a, Literal) else str(a) for a in self.arguments]
        if self.operation == "concat_str":
            return f"concat_str([{', '.join(listed)}], separator={options[0]})", _ATOM
        if self.operation in _FUNCTIONS:
            return f"{self.operation}({', '.join([*listed, *options])})", _ATOM
        first, *rest = self.arguments
        return f"{_within(first, _ATOM)}.{self.operation}({', '.join([*map(str, rest), *options])})", _ATOM


@dataclass(frozen=True, eq=False, repr=False)
class Alias(Expr):
    """Another name for the same values."""

    operand: Expr
    alias_name: str

    def _children(self) -> tuple[Expr, ...]:
        return (self.operand,)

    def _name(self) -> Text | None:
        return self.alias_name

    def _text(self) -> tuple[Text, int]:
        return f"{_within(self.operand, _ATOM)}.alias({_quoted(self.alias_name)})", _ATOM


class Then(Call):
    """``when(condition).then(value)``: null where no condition holds, until ``otherwise`` says what.

    Arguments: condition, value, condition, value, ... and, when their number is odd, the value otherwise.
    """

    def when(self, condition: object) -> When:
        if len(self.arguments) % 2:
            raise FlowError(f"{self}: .when() cannot follow .otherwise()")
        return When(self.arguments, to_expr(condition))

    def otherwise(self, value: object) -> Expr:
        if len(self.arguments) % 2:
            raise FlowError(f"{self}: .otherwise() is already given")
        return Then("when", (*self.arguments, to_expr(value)))

    def _name(self) -> Text | None:
        # Conditions do not name the result: it would overwrite the field that was only looked at.
        values = [*self.arguments[1::2], *(self.arguments[-1:] if len(self.arguments) % 2 else ())]
        return next((name for value in values if (name := value._name()) is not None), None)

    def _text(self) -> tuple[Text, int]:
        pairs = zip(self.arguments[0::2], self.arguments[1::2], strict=False)
        text = ".".join(f"when({condition}).then({value})" for condition, value in pairs)
        return text + (f".otherwise({self.arguments[-1]})" if len(self.arguments) % 2 else ""), _ATOM


@dataclass(frozen=True, eq=False)
class When:
    """A condition that waits for its value: the half of a ``when(...).then(...)``."""

    before: tuple[Expr, ...]
    condition: Expr

    def then(self, value: object) -> Then:
        return Then("when", (*self.before, self.condition, to_expr(value)))


# --- methods by kind of value


@dataclass(frozen=True, eq=False)
class StringMethods:
    """``Expr.str``. A pattern is a regular expression (RE2's syntax) unless ``literal=True``."""

    _expr: Expr

    def to_uppercase(self) -> Expr:
        return Call("str.to_uppercase", (self._expr,))

    def to_lowercase(self) -> Expr:
        return Call("str.to_lowercase", (self._expr,))

    def contains(self, pattern: str, literal: bool = False) -> Expr:
        return self._matching("str.contains", pattern, literal)

    def count_matches(self, pattern: str, literal: bool = False) -> Expr:
        return self._matching("str.count_matches", pattern, literal)

    def starts_with(self, prefix: str) -> Expr:
        return Call("str.starts_with", (self._expr,), {"prefix": prefix})

    def ends_with(self, suffix: str) -> Expr:
        return Call("str.ends_with", (self._expr,), {"suffix": suffix})

    def len_chars(self) -> Expr:
        return Call("str.len_chars", (self._expr,))

    def len_bytes(self) -> Expr:
        return Call("str.len_bytes", (self._expr,))

    def slice(self, offset: int, length: int | None = None) -> Expr:
        """``length`` characters from ``offset``, which counts from the end when negative."""
        if length is not None and length < 0:
            raise FlowError(f"{self._expr}.str.slice: length is {length}, expected 0 or more")
        return Call("str.slice", (self._expr,), {"offset": offset, "length": length})

    def split(self, by: str) -> Expr:
        """A list of the parts between ``by``, which is taken as it stands."""
        if not by:
            raise FlowError(f"{self._expr}.str.split: the separator is empty")
        return Call("str.split", (self._expr,), {"by": by})

    def strip_chars(self, characters: str | None = None) -> Expr:
        """Without the given characters, or white space, at both ends."""
        return Call("str.strip_chars", (self._expr,), {"characters": characters})

    def replace(self, pattern: str, value: str, literal: bool = False) -> Expr:
        r"""With the first match replaced; ``\1`` in ``value`` is the first group, as in Python."""
        return self._replacing("str.replace", pattern, value, literal)

    def replace_all(self, pattern: str, value: str, literal: bool = False) -> Expr:
        r"""With every match replaced; ``\1`` in ``value`` is the first group, as in Python."""
        return self._replacing("str.replace_all", pattern, value, literal)

    def extract(self, pattern: str, group: int | str = 1) -> Expr:
        """What a group of the first match holds, by number or name; 0 is the whole match, no match is null."""
        regex = self._regex("str.extract", pattern, pc.match_substring_regex)
        return Call("str.extract", (self._expr,), {"pattern": regex, "group": group})

    def to_datetime(self, format: str | None = None) -> Expr:
        """ISO 8601 text, with or without an offset, or text in a ``strptime`` format, as a UTC time.

        Text without an offset is UTC. Digits behind the microseconds are cut off.
        """
        return Call("str.to_datetime", (self._expr,), {"format": format})

    def _matching(self, operation: str, pattern: str, literal: bool) -> Expr:
        if not literal:
            self._regex(operation, pattern, pc.match_substring_regex)
        return Call(operation, (self._expr,), {"pattern": pattern, "literal": literal})

    def _replacing(self, operation: str, pattern: str, value: str, literal: bool) -> Expr:
        if not literal:
            self._regex(operation, pattern, lambda s, p: pc.replace_substring_regex(s, p, value))
        return Call(operation, (self._expr,), {"pattern": pattern, "value": value, "literal": literal})

    def _regex(self, operation: str, pattern: str, check: Callable[[Any, str], object]) -> str:
        try:
            check(pa.array([""]), pattern)  # Arrow reads the pattern only when there is a row
        except (pa.ArrowException, TypeError) as error:
            raise FlowError(
                f"{self._expr}.{operation}: {error} in {pattern!r}; use literal=True for plain text"
            ) from error
        return pattern


@dataclass(frozen=True, eq=False)
class TimeMethods:
    """``Expr.dt``. Times without a zone and dates are UTC; parts of a time in another zone are local to it."""

    _expr: Expr

    def truncate(self, every: Duration) -> Expr:
        """The start of the span of length ``every`` that holds the time; spans are aligned to the epoch, UTC."""
        if duration_us(every, f"{self._expr}.dt.truncate") <= 0:
            raise FlowError(f"{self._expr}.dt.truncate: {every!r} is not a positive duration")
        return Call("dt.truncate", (self._expr,), {"every": every})

    def year(self) -> Expr:
        return Call("dt.year", (self._expr,))

    def month(self) -> Expr:
        return Call("dt.month", (self._expr,))

    def day(self) -> Expr:
        return Call("dt.day", (self._expr,))

    def hour(self) -> Expr:
        return Call("dt.hour", (self._expr,))

    def minute(self) -> Expr:
        return Call("dt.minute", (self._expr,))

    def second(self) -> Expr:
        return Call("dt.second", (self._expr,))

    def millisecond(self) -> Expr:
        """Milliseconds within the second."""
        return Call("dt.millisecond", (self._expr,))

    def microsecond(self) -> Expr:
        """Microseconds within the second, 0 to 999999."""
        return Call("dt.microsecond", (self._expr,))

    def weekday(self) -> Expr:
        """Monday is 1, Sunday is 7."""
        return Call("dt.weekday", (self._expr,))

    def date(self) -> Expr:
        return Call("dt.date", (self._expr,))

    def epoch(self, unit: EpochUnit = "us") -> Expr:
        """Whole units since 1970, UTC, rounded down."""
        return Call("dt.epoch", (self._expr,), {"unit": _epoch_unit(unit, f"{self._expr}.dt.epoch")})

    def strftime(self, format: str) -> Expr:
        """As text. ``%S`` is whole seconds; ``%S.%f`` adds the microseconds."""
        if "%f" in format.replace("%S.%f", ""):
            raise FlowError(f"{self._expr}.dt.strftime: %f is only understood in '%S.%f'; use .dt.microsecond()")
        return Call("dt.strftime", (self._expr,), {"format": format})

    def total_seconds(self) -> Expr:
        """A duration in whole seconds, rounded towards zero."""
        return Call("dt.total_seconds", (self._expr,))

    def total_milliseconds(self) -> Expr:
        """A duration in whole milliseconds, rounded towards zero."""
        return Call("dt.total_milliseconds", (self._expr,))

    def total_microseconds(self) -> Expr:
        """A duration in whole microseconds, rounded towards zero."""
        return Call("dt.total_microseconds", (self._expr,))


@dataclass(frozen=True, eq=False)
class StructMethods:
    """``Expr.struct``."""

    _expr: Expr

    def field(self, name: str) -> Expr:
        return Call("struct.field", (self._expr,), {"name": name})


@dataclass(frozen=True, eq=False)
class ListMethods:
    """``Expr.list``."""

    _expr: Expr

    def len(self) -> Expr:
        return Call("list.len", (self._expr,))

    def get(self, index: int) -> Expr:
        """The element at ``index``, from the end when negative; null where the list is shorter."""
        return Call("list.get", (self._expr,), {"index": index})


# --- functions


def col(name: str) -> Expr:
    """The field ``name`` of each row."""
    if not isinstance(name, str):
        raise FlowError(f"col: a field name is a string, not {name!r}")
    return Column(name)


def lit(value: object, dtype: str | type | pa.DataType | None = None) -> Expr:
    """The same value for every row: a number, text, time, duration, list, dict or None."""
    try:
        scalar = _scalar(value)
        if dtype is not None:
            scalar = scalar.cast(data_type(dtype))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise SchemaError(f"lit({value!r}): not a value that a column can hold: {error}") from error
    return Literal(value, scalar)


def when(condition: object) -> When:
    """``when(c).then(x).when(d).then(y).otherwise(z)``: the value behind the first condition that is true."""
    return When((), to_expr(condition))


def coalesce(*values: str | Expr) -> Expr:
    """The first of the values that is not null. A string names a field; for a text write ``lit("text")``."""
    return _over_fields("coalesce", values)


def min_horizontal(*values: str | Expr) -> Expr:
    """The least of the values of a row, nulls aside. A string names a field."""
    return _over_fields("min_horizontal", values)


def max_horizontal(*values: str | Expr) -> Expr:
    """The greatest of the values of a row, nulls aside. A string names a field."""
    return _over_fields("max_horizontal", values)


def concat_str(values: Iterable[str | Expr], separator: str = "") -> Expr:
    """The values as text, joined; null where one is null. A string names a field."""
    joined = _over_fields("concat_str", (values,) if isinstance(values, str | Expr) else tuple(values))
    return Call("concat_str", joined.arguments, {"separator": separator})


def from_epoch(value: str | Expr, unit: EpochUnit = "s") -> Expr:
    """A UTC time from a number of seconds, milliseconds or microseconds since 1970; fractions count."""
    return Call("from_epoch", (field_expr(value),), {"unit": _epoch_unit(unit, "from_epoch")})


def to_expr(value: object) -> Expr:
    """An expression as it is, and anything else as a literal: a string is text, not a field."""
    return value if isinstance(value, Expr) else lit(value)


def field_expr(value: str | Expr) -> Expr:
    """An expression as it is, and a string as the field of that name."""
    return value if isinstance(value, Expr) else col(value)


def data_type(value: str | type | pa.DataType) -> pa.DataType:
    """The Arrow type that a user means by "int64", "datetime", "decimal(10, 2)", ``float`` or an Arrow type."""
    if isinstance(value, pa.DataType):
        return value
    if isinstance(value, type):
        if value in _PYTHON_TYPES:
            return _PYTHON_TYPES[value]
    elif isinstance(value, str):
        name = value.strip().lower()
        if name in _NAMED_TYPES:
            return _NAMED_TYPES[name]
        if decimal := re.fullmatch(r"decimal(?:128)?\(\s*(\d+)\s*,\s*(-?\d+)\s*\)", name):
            return pa.decimal128(int(decimal[1]), int(decimal[2]))
        if zoned := re.fullmatch(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?([\w/+:-]+)\]", value.strip()):
            return pa.timestamp(zoned[1], zoned[2])  # type: ignore[type-var]
        try:
            return pa.type_for_alias(name)  # type: ignore[call-overload,no-any-return]
        except ValueError:
            pass
    raise SchemaError(
        f"{value!r} is not a type; use one of {', '.join(map(repr, _NAMED_TYPES))}, "
        "'int32', 'timestamp[ms]', 'decimal(10, 2)' or a pyarrow type"
    )


_NAMED_TYPES: Final[dict[str, pa.DataType]] = {
    "int64": pa.int64(), "double": pa.float64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_(),
    "datetime": TIMESTAMP, "date": pa.date32(), "duration": pa.duration("us"), "binary": pa.binary(),
    "int": pa.int64(), "float": pa.float64(), "str": pa.string(),
}  # fmt: skip
_PYTHON_TYPES: Final[dict[type, pa.DataType]] = {
    int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_(), bytes: pa.binary(),
    datetime: TIMESTAMP, date: pa.date32(), timedelta: pa.duration("us"),
}  # fmt: skip


def _binary(operation: str, left: object, right: object) -> Expr:
    return Call(operation, (to_expr(left), to_expr(right)))


def _path(expr: Expr) -> str | None:
    """The path of a field in a struct, or of a column; None where something is computed.

    A name with a dot in it is no part of a path: the struct that holds it is read as a whole.
    """
    if isinstance(expr, Column):
        return expr.column
    if isinstance(expr, Call) and expr.operation == "struct.field":
        struct, name = expr.arguments[0], expr.options["name"]
        outer = _path(struct)
        if outer is None or "." in name or (isinstance(struct, Column) and "." in outer):
            return outer
        return f"{outer}.{name}"
    return None


def _over_fields(operation: str, values: tuple[str | Expr, ...]) -> Call:
    if not values:
        raise FlowError(f"{operation}: takes at least one field or expression")
    return Call(operation, tuple(map(field_expr, values)))


def _epoch_unit(unit: str, where: str) -> str:
    if unit not in EPOCH_UNITS:
        raise FlowError(f"{where}: unit is {unit!r}; use 's', 'ms' or 'us'")
    return unit


def _scalar(value: object) -> pa.Scalar[Any]:
    if isinstance(value, pa.Scalar):
        return value
    if isinstance(value, np.datetime64 | np.timedelta64):
        value = value.astype(f"{'datetime64' if isinstance(value, np.datetime64) else 'timedelta64'}[us]")
    value = _utc(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, list) and any(_is_unsigned(item) for item in value):
        return pa.scalar(value, pa.list_(pa.uint64()))
    return pa.scalar(value, pa.uint64() if _is_unsigned(value) else None)


def _is_unsigned(value: object) -> bool:
    return isinstance(value, int) and value >= 2**63


def _utc(value: object) -> object:
    """Times in UTC, also within lists: a column of times has one zone, and naive times are UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return [_utc(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value


def _within(expr: Expr, level: int) -> str:
    text, binding = expr._text()
    if isinstance(expr, Literal) and level == _ATOM:
        return f"lit({text})"
    return text if binding >= level else f"({text})"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # the same escapes as in Python, and always double quotes


def _literal_text(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, pa.DataType):
        return _quoted(str(value))
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        return f"[{', '.join(map(_literal_text, items[:5]))}{', ...' if len(items) > 5 else ''}]"
    if isinstance(value, np.generic):
        return _literal_text(value.item())
    return repr(value).replace("datetime.", "")
