"""What a window or a running aggregation computes, as data: `ms.count()`, `ms.mean("delay")` and so on.

An aggregate here says which inputs it reads and of which type its result is; `millstream.accumulators`
holds the columns that compute it. All of them can be computed in parts that are merged in any way.

Null and NaN:

- Nulls are skipped, as in SQL: the sum, mean, min, max, first or last of only nulls is null, their count
  is 0. `arg_min` and `arg_max` skip rows whose ``by`` is null, and give the value of the row they find
  even when that is null. `collect` keeps nulls, as ARRAY_AGG does, so that two lists stay in step.
- NaN makes a sum, mean, variance and stddev NaN. min, max, arg_min and arg_max pass over it unless there
  is nothing else, and for count_distinct every NaN is the same value: as in Polars.

Types: integers and booleans sum to int64, exactly or with an error; decimals to 38 digits of the same
scale, exactly or with an error; floats of any width to double. mean, variance and stddev are doubles.
"""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import pyarrow as pa

from millstream.errors import FlowError, MillstreamError, SchemaError
from millstream.expr import Expr, WholeRow, field_expr
from millstream.schema import plain_type


class AggregateOverflowError(MillstreamError, OverflowError):
    """The exact sum of a group does not fit the type of the result."""


@dataclass(frozen=True, eq=False)
class Aggregate(ABC):
    """One aggregate of an ``agg(...)``: the base of all below.

    Attributes:
        inputs: the expressions it reads, evaluated on each batch.
        needs_order: whether ties are broken by event time, then source position.
        user_defined: whether it runs the user's functions, and so only where users' code may run.
        retractable: whether rows can be taken back from it.
    """

    inputs: tuple[Expr, ...]
    name: ClassVar[str]
    needs_order: ClassVar[bool] = False
    user_defined: ClassVar[bool] = False
    retractable: ClassVar[bool] = False

    @abstractmethod
    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        """The type of the result.

        Args:
            input_types: the type of each of ``inputs``.
            where: the operator, as the user wrote it, for the message of the error.
        Raises:
            SchemaError: an input has a type that this aggregate does not take.
        """

    def __str__(self) -> str:
        return f"{self.name}({', '.join(_spell(e) for e in self.inputs)})"

    def refuse(self, kind: pa.DataType, where: str, hint: str) -> SchemaError:
        return SchemaError(f"{where}: {self}: cannot {self.name} {kind}; {hint}")


class Count(Aggregate):
    name = "count"
    retractable = True

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        return pa.int64()


class Sum(Aggregate):
    name = "sum"
    retractable = True

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        kind = plain_type(input_types[0])
        if pa.types.is_null(kind):
            return kind
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return pa.int64()
        if pa.types.is_floating(kind):
            return pa.float64()
        if pa.types.is_decimal256(kind):
            return pa.decimal256(76, kind.scale)
        if pa.types.is_decimal(kind):
            return pa.decimal128(38, kind.scale)
        raise self.refuse(kind, where, "cast it to a number first, or count() it")


class _Moment(Aggregate):
    """An aggregate of numbers whose result is a double."""

    retractable = True

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        kind = plain_type(input_types[0])
        if not (_is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            raise self.refuse(kind, where, "cast it to a number first")
        return pa.float64()


class Mean(_Moment):
    name = "mean"


@dataclass(frozen=True, eq=False)
class Variance(_Moment):
    """Attributes:
    ddof: the divisor is n - ddof; the result is null for n <= ddof.
    """

    name = "variance"
    ddof: int = 1


class Stddev(Variance):
    name = "stddev"


class _Extreme(Aggregate):
    retractable = True

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        kind = plain_type(input_types[0])
        if not is_ordered(kind):
            raise self.refuse(kind, where, "take a field of it that has an order")
        return kind


class Min(_Extreme):
    name = "min"


class Max(_Extreme):
    name = "max"


class _Pick(Aggregate):
    """An aggregate that gives a value as it was, of any type."""

    needs_order = True

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        return plain_type(input_types[0])


class First(_Pick):
    name = "first"


class Last(_Pick):
    name = "last"


class _ArgExtreme(_Pick):
    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        value, by = map(plain_type, input_types)
        if not is_ordered(by):
            raise self.refuse(by, where, f"{_spell(self.inputs[1])} needs an order: take a field of it")
        return value


class ArgMin(_ArgExtreme):
    name = "arg_min"


class ArgMax(_ArgExtreme):
    name = "arg_max"


class CountDistinct(Aggregate):
    name = "count_distinct"
    retractable = True

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        kind = plain_type(input_types[0])
        if not is_ordered(kind):
            raise self.refuse(kind, where, "take a field of it, or cast it to a plain type")
        return pa.int64()


class Collect(Aggregate):
    name = "collect"
    needs_order = True

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        return pa.list_(plain_type(input_types[0]))


@dataclass(frozen=True, eq=False)
class TopRows(Aggregate):
    """The best whole rows with their ranks, for `WindowedStream.top_n`: a list of structs (event, rank).

    The first input is the whole row, the others are what rows are ordered by.
    """

    name = "top_n"
    needs_order = True
    n: int
    descending: tuple[bool, ...]
    all_ties: bool

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        for expr, kind in zip(self.inputs[1:], input_types[1:], strict=True):
            if not is_ordered(plain_type(kind)):
                raise SchemaError(f"{where}: {_spell(expr)} is {kind}, which has no order; take a field of it")
        return pa.list_(pa.struct([("event", input_types[0]), ("rank", pa.int64())]))

    def __str__(self) -> str:
        by = [f"desc({_spell(e)})" if d else _spell(e) for e, d in zip(self.inputs[1:], self.descending, strict=True)]
        return f"top_n({self.n}, by=[{', '.join(by)}])"


@dataclass(frozen=True, eq=False)
class UserAggregate(Aggregate):
    """An aggregate made of the user's functions; see `aggregate`."""

    name = "aggregate"
    user_defined = True
    init: Callable[[], Any]
    add: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any]
    result: Callable[[Any], Any]
    type: pa.DataType | None = None

    def output_type(self, input_types: Sequence[pa.DataType], where: str) -> pa.DataType:
        """The declared type; null, which widens to any, when results have to show it."""
        return pa.null() if self.type is None else self.type


def count(field: str | Expr | None = None) -> Aggregate:
    """The number of rows, or of rows whose ``field`` is not null."""
    return Count(() if field is None else (field_expr(field),))


def sum(field: str | Expr) -> Aggregate:
    """The sum: exact for integers and decimals, where an overflow is an error."""
    return Sum((field_expr(field),))


def mean(field: str | Expr) -> Aggregate:
    """The arithmetic mean, a double; of integers and decimals exact until the division."""
    return Mean((field_expr(field),))


def min(field: str | Expr) -> Aggregate:
    """The smallest value of a field of any type that has an order."""
    return Min((field_expr(field),))


def max(field: str | Expr) -> Aggregate:
    """The largest value of a field of any type that has an order."""
    return Max((field_expr(field),))


def first(field: str | Expr) -> Aggregate:
    """The value with the lowest event time, and of those the one that came first from its source."""
    return First((field_expr(field),))


def last(field: str | Expr) -> Aggregate:
    """The value with the highest event time, and of those the one that came last from its source."""
    return Last((field_expr(field),))


def variance(field: str | Expr, ddof: int = 1) -> Aggregate:
    """The variance with the divisor n - ddof; null when n <= ddof."""
    return Variance((field_expr(field),), _checked_ddof("variance", ddof))


def stddev(field: str | Expr, ddof: int = 1) -> Aggregate:
    """The square root of `variance`."""
    return Stddev((field_expr(field),), _checked_ddof("stddev", ddof))


def count_distinct(field: str | Expr) -> Aggregate:
    """The exact number of different values; its state holds each of them."""
    return CountDistinct((field_expr(field),))


def arg_min(value: str | Expr, by: str | Expr) -> Aggregate:
    """``value`` of the row where ``by`` is smallest, the earliest such row."""
    return ArgMin((field_expr(value), field_expr(by)))


def arg_max(value: str | Expr, by: str | Expr) -> Aggregate:
    """``value`` of the row where ``by`` is largest, the earliest such row."""
    return ArgMax((field_expr(value), field_expr(by)))


def collect(field: str | Expr | None = None) -> Aggregate:
    """All values as a list, nulls included, in order of event time and then source position.

    Args:
        field: what is collected; None: whole events, as structs.
    """
    return Collect((WholeRow() if field is None else field_expr(field),))


def aggregate(
    *,
    init: Callable[[], Any],
    add: Callable[[Any, Any], Any],
    merge: Callable[[Any, Any], Any],
    result: Callable[[Any], Any],
    on: str | Expr,
    type: pa.DataType | type | None = None,
) -> Aggregate:
    """An aggregate of your own.

    Rows are added in no particular order, so the answer must not depend on it. Nulls are skipped.

    Args:
        init: () -> accumulator, of no values.
        add: (accumulator, value) -> accumulator; may change the one it is given and return it.
        merge: (a, b) -> accumulator of both; may change ``a`` but nothing of ``b``.
        result: accumulator -> value.
        on: the field or expression whose values are added.
        type: the Arrow or Python type of the result; found from the results when left out.
    """
    for name, function in (("init", init), ("add", add), ("merge", merge), ("result", result)):
        if not callable(function):
            raise FlowError(f"aggregate: {name}= takes a function, not {function!r}")
    return UserAggregate((field_expr(on),), init, add, merge, result, _arrow_type(type))


def is_ordered(kind: pa.DataType) -> bool:
    """Whether values of this type can be compared, which is also when they can be told apart by hash."""
    types = pa.types
    return bool(
        _is_number(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
        or (types.is_temporal(kind) and not types.is_interval(kind))
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


_PYTHON_TYPES: Final[dict[type, pa.DataType]] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    datetime.datetime: pa.timestamp("us", "UTC"),
    datetime.date: pa.date32(),
    datetime.timedelta: pa.duration("us"),
}


def _arrow_type(declared: pa.DataType | type | None) -> pa.DataType | None:
    if declared is None or isinstance(declared, pa.DataType):
        return declared
    if declared not in _PYTHON_TYPES:
        known = ", ".join(t.__name__ for t in _PYTHON_TYPES)
        raise FlowError(f"aggregate: type={declared!r} is neither an Arrow type nor one of {known}")
    return _PYTHON_TYPES[declared]


def _checked_ddof(name: str, ddof: int) -> int:
    if not isinstance(ddof, int) or ddof < 0:
        raise FlowError(f"{name}: ddof={ddof!r} must be an integer of at least 0")
    return ddof


def _spell(expr: Expr) -> str:
    """An input as the user wrote it: a bare field by its quoted name."""
    fields = expr.fields()
    if len(fields) == 1:
        (name,) = fields
        if repr(expr) == repr(field_expr(name)):
            return f'"{name}"'
    return str(expr)
