"""From the aggregates of one ``agg(...)`` to the parts that compute them, each part once.

``agg(n=count(), total=sum("x"), mean=mean("x"), top=max("x"))`` needs four parts: the rows, the sum of x,
the number of x and the largest x; the mean is made of two of them when results are asked for.

Where rows can be taken back (signed.py) other parts compute the same, and the first is always the number of rows
left, which tells when a group is gone.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream import aggregates as spec
from millstream.accumulators import collections, distinct, numeric, ordered, ranked, signed, user
from millstream.accumulators.columns import Column, Input, RowOrder, Values, retype, to_arrow
from millstream.accumulators.part import GroupedRows, Part
from millstream.aggregates import Aggregate, AggregateOverflowError
from millstream.batch import Array, BoolArray, SignArray
from millstream.errors import InternalError
from millstream.expr import Expr
from millstream.grouping import Groups
from millstream.schema import plain_type

Finish = Callable[[Sequence[Column]], Array]

_MakeParts = Callable[
    [Aggregate, Sequence[pa.DataType], pa.DataType, str, Sequence[int]], "tuple[tuple[Part, ...], Finish]"
]


@dataclass(frozen=True)
class Accumulator:
    """One aggregate: its parts, and how their columns become the result.

    Attributes:
        input_types: the types that inputs are brought to.
        output_type: the type of the result.
        parts: they refer to inputs by position.
        finish: from the columns of all parts, in order, to one value for each row.
    """

    input_types: tuple[pa.DataType, ...]
    output_type: pa.DataType
    parts: tuple[Part, ...]
    finish: Finish

    def partial(self, inputs: Sequence[Array], groups: Groups, order: RowOrder | None = None) -> list[Column]:
        """Rows to accumulator columns: one row for each group.

        Args:
            inputs: the aggregate's inputs, evaluated; only read.
            groups: the group of each row.
            order: event time and position of each row, where the aggregate ``needs_order``.
        """
        return _partial_of(self.parts, _rows(self.input_types, inputs, groups, order))

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        """Accumulator columns to others: one row for each group of rows. The columns given stay as they are."""
        return _combine(self.parts, columns, groups)

    def result(self, columns: Sequence[Column]) -> Array:
        """The result of each row.

        Raises:
            AggregateOverflowError: an exact sum does not fit its type.
            UserCodeError: the user's function raised.
        """
        return _typed(self.finish(columns), self.output_type)


class AccumulatorSet:
    """All aggregates of one ``agg(...)``, over one flat list of columns.

    Attributes:
        inputs: the expressions to evaluate on each batch, each once.
        schema: the results, by the names the user gave them.
        parts: what is computed.
        width: the number of columns.
        needs_order: whether `partial` needs the order of rows.
        retractable: whether rows can be taken back.
        apart: by column, the parts whose values somebody else keeps.
    """

    def __init__(
        self,
        aggregates: Mapping[str, Aggregate],
        input_types: Sequence[pa.DataType],
        where: str = "agg",
        retractable: bool = False,
        values_apart: bool = False,
    ) -> None:
        """Args:
            aggregates: by name of their result.
            input_types: the types of ``distinct_inputs(aggregates.values())``, in that order.
            where: the operator, as the user wrote it, for errors.
            retractable: rows come with signs, which all aggregates can follow (`Aggregate.retractable`).
            values_apart: whoever uses these keeps the values of `count_distinct` and says what is new (distinct.py).
        Raises:
            SchemaError: an aggregate does not take the type of its input.
        """
        self.retractable = retractable
        self.apart: dict[int, distinct.DistinctCount] = {}
        self.inputs = distinct_inputs(aggregates.values())
        if len(self.inputs) != len(input_types):
            raise InternalError(f"{where}: {len(input_types)} input types for {len(self.inputs)} inputs")
        position = {_identity(expr): i for i, expr in enumerate(self.inputs)}
        self.needs_order = any(a.needs_order for a in aggregates.values())
        self.parts: list[Part] = []
        self._input_types = tuple(map(_computed_type, input_types))
        self._accumulators: list[tuple[Accumulator, list[int]]] = []
        columns_of: dict[Part, list[int]] = {}
        self.width = 0
        if retractable:
            rows = numeric.Count(None)
            self.parts, self.width, columns_of[rows] = [rows], 1, [0]
        for name, aggregate in aggregates.items():
            at = [position[_identity(expr)] for expr in aggregate.inputs]
            make = _make_parts(aggregate, retractable, values_apart)
            accumulator = _build(aggregate, [input_types[i] for i in at], f"{where}: {name}", at, make)
            for part in accumulator.parts:
                if part not in columns_of:
                    if isinstance(part, distinct.DistinctCount):
                        self.apart[self.width] = part
                    columns_of[part] = list(range(self.width, self.width + part.width))
                    self.parts.append(part)
                    self.width += part.width
            self._accumulators.append((accumulator, [c for part in accumulator.parts for c in columns_of[part]]))
        self.schema = pa.schema([(n, a.output_type) for n, (a, _) in zip(aggregates, self._accumulators, strict=True)])

    def partial(
        self, inputs: Sequence[Array], groups: Groups, order: RowOrder | None = None, sign: SignArray | None = None
    ) -> list[Column]:
        """Rows to accumulator columns; see `Accumulator.partial`. ``inputs`` are those of ``self.inputs``.

        Args:
            sign: of each row, where the set is ``retractable``; None: all rows count.
        """
        return self.partial_of(self.rows(inputs, groups, order, sign))

    def partial_of(self, rows: GroupedRows) -> list[Column]:
        """As `partial`, of what `rows` gave."""
        return _partial_of(self.parts, rows)

    def left(self, columns: Sequence[Column]) -> BoolArray:
        """Which groups of a ``retractable`` set have rows left; the others are as if they had never been."""
        return _numbers(columns[0]) > 0

    def rows(
        self, inputs: Sequence[Array], groups: Groups, order: RowOrder | None = None, sign: SignArray | None = None
    ) -> GroupedRows:
        """Rows as parts see them; see `partial`."""
        if sign is not None and not self.retractable:
            raise InternalError("accumulators: rows are taken back from aggregates that were not made for it")
        return _rows(self._input_types, inputs, groups, order, sign)

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        """Accumulator columns to others: one row for each group of rows. The columns given stay as they are."""
        return _combine(self.parts, columns, groups)

    def results(self, columns: Sequence[Column]) -> list[Array]:
        """The results of each row, in the order of ``schema``; see `Accumulator.result`."""
        return [accumulator.result([columns[c] for c in at]) for accumulator, at in self._accumulators]


def make_accumulator(
    aggregate: Aggregate, input_types: Sequence[pa.DataType], name: str, where: str = "agg"
) -> Accumulator:
    """The accumulator of one aggregate whose result is called ``name``.

    Raises:
        SchemaError: the aggregate does not take these types.
    """
    return _build(aggregate, input_types, f"{where}: {name}", range(len(aggregate.inputs)), _parts)


def distinct_inputs(aggregates: Iterable[Aggregate]) -> tuple[Expr, ...]:
    """The inputs of several aggregates, each once, in order of first use."""
    return tuple({_identity(expr): expr for aggregate in aggregates for expr in aggregate.inputs}.values())


def _identity(expr: Expr) -> bytes:
    # == builds an expression, and the text of a literal leaves out its type. What pickles alike is alike.
    return pickle.dumps(expr)


def _rows(
    input_types: Sequence[pa.DataType],
    inputs: Sequence[Array],
    groups: Groups,
    order: RowOrder | None,
    sign: SignArray | None = None,
) -> GroupedRows:
    return GroupedRows([retype(a, t) for a, t in zip(inputs, input_types, strict=True)], groups, order, sign)


def _partial_of(parts: Sequence[Part], rows: GroupedRows) -> list[Column]:
    return [column for part in parts for column in part.partial(rows)]


def _combine(parts: Sequence[Part], columns: Sequence[Column], groups: Groups) -> list[Column]:
    combined: list[Column] = []
    for part in parts:
        at = len(combined)
        combined += part.combine(columns[at : at + part.width], groups)
    return combined


def _build(
    aggregate: Aggregate, input_types: Sequence[pa.DataType], where: str, at: Sequence[int], make: _MakeParts
) -> Accumulator:
    output = aggregate.output_type(input_types, where)
    kinds = tuple(map(_computed_type, input_types))
    parts, finish = make(aggregate, kinds, output, f"{where}={aggregate}", at)
    return Accumulator(kinds, output, parts, finish)


def _make_parts(aggregate: Aggregate, retractable: bool, values_apart: bool) -> _MakeParts:
    if values_apart and isinstance(aggregate, spec.CountDistinct):
        return _parts_apart
    return _retractable_parts if retractable else _parts


def _parts_apart(
    aggregate: Aggregate, kinds: Sequence[pa.DataType], output: pa.DataType, label: str, at: Sequence[int]
) -> tuple[tuple[Part, ...], Finish]:
    return (distinct.DistinctCount(at[0], kinds[0]),), lambda columns: to_arrow(columns[0])


def _parts(
    aggregate: Aggregate, kinds: Sequence[pa.DataType], output: pa.DataType, label: str, at: Sequence[int]
) -> tuple[tuple[Part, ...], Finish]:
    match aggregate:
        case spec.Count():
            return (numeric.Count(at[0] if at else None),), lambda columns: to_arrow(columns[0])
        case spec.Sum():
            return (_sum_part(kinds[0], label, at[0]),), lambda columns: _exact(columns[0], output, label)
        case spec.Mean():
            return (_sum_part(kinds[0], label, at[0]), numeric.Count(at[0])), _divide
        case spec.Variance(ddof=ddof):
            root = isinstance(aggregate, spec.Stddev)
            return (numeric.Moments(at[0]),), lambda columns: _variance(columns, ddof, root)
        case spec.Min() | spec.Max():
            extreme = _extreme_part(kinds[0], at[0], isinstance(aggregate, spec.Max))
            return (extreme,), lambda columns: _stored(columns[0], output)
        case spec.First() | spec.Last():
            pick = ordered.Pick(at[0], kinds[0], isinstance(aggregate, spec.Last))
            return (pick,), lambda columns: to_arrow(columns[2])
        case spec.ArgMin() | spec.ArgMax():
            arg = ordered.ArgExtreme(at[0], at[1], kinds[0], kinds[1], isinstance(aggregate, spec.ArgMax))
            return (arg,), lambda columns: to_arrow(columns[2])
        case spec.CountDistinct():
            return (collections.Distinct(at[0], kinds[0]),), lambda columns: collections.list_lengths(columns[0])
        case spec.Collect():
            return (collections.Collected(at[0], kinds[0]),), lambda columns: collections.in_order(columns[0], kinds[0])
        case spec.TopRows(n=n, descending=descending, all_ties=all_ties):
            rows = ranked.Ranked(at[0], tuple(at[1:]), kinds[0], tuple(kinds[1:]), descending, n, all_ties)
            return (rows,), lambda columns: rows.result(columns[0], output)
        case spec.UserAggregate():
            part = user.UserPart(at[0], aggregate, label)
            return (part,), lambda columns: part.results(columns[0])
    raise InternalError(f"{label}: no accumulator for {type(aggregate).__name__}")


def _retractable_parts(
    aggregate: Aggregate, kinds: Sequence[pa.DataType], output: pa.DataType, label: str, at: Sequence[int]
) -> tuple[tuple[Part, ...], Finish]:
    match aggregate:
        case spec.Count():
            return _parts(aggregate, kinds, output, label, at)
        case spec.Sum():
            total, count = _signed_sum_part(kinds[0], label, at[0]), numeric.Count(at[0])
            if isinstance(total, signed.SignedFloatSum):
                return (total, count), lambda c: signed.null_where_empty(pa.array(signed.float_sums(c[:5])), c[5])
            return (total, count), lambda c: signed.null_where_empty(_exact(c[0], output, label), c[1])
        case spec.Mean():
            total, count = _signed_sum_part(kinds[0], label, at[0]), numeric.Count(at[0])
            if isinstance(total, signed.SignedFloatSum):
                return (total, count), lambda c: _divide([signed.float_sums(c[:5]), c[5]])
            return (total, count), _divide
        case spec.Variance(ddof=ddof):
            root = isinstance(aggregate, spec.Stddev)
            part, squares = signed.SignedFloatSum(at[0]), signed.SignedFloatSum(at[0], squares=True)
            return (part, squares, numeric.Count(at[0])), lambda c: _signed_variance(c, ddof, root)
        case spec.Min() | spec.Max():
            extreme = _extreme_part(kinds[0], at[0], isinstance(aggregate, spec.Max))
            values = signed.Multiset(at[0], kinds[0])
            return (values,), lambda c: _stored(signed.extremes(c, extreme), output)
        case spec.CountDistinct():
            return (signed.Multiset(at[0], kinds[0]),), signed.distinct_counts
    raise InternalError(f"{label}: no accumulator for {type(aggregate).__name__} from which rows can be taken back")


def _signed_sum_part(kind: pa.DataType, label: str, at: int) -> Part:
    return signed.SignedFloatSum(at) if pa.types.is_floating(kind) else _sum_part(kind, label, at)


def _sum_part(kind: pa.DataType, label: str, at: int) -> Part:
    if pa.types.is_floating(kind):
        return numeric.FloatSum(at)
    return numeric.DecimalSum(at, kind.scale, label) if pa.types.is_decimal(kind) else numeric.IntegerSum(at)


def _extreme_part(kind: pa.DataType, at: int, largest: bool) -> numeric.Reduction:
    if pa.types.is_boolean(kind):
        return numeric.Extreme(at, "u1", largest)
    if pa.types.is_null(kind):
        return numeric.Extreme(at, "i8", largest)
    if pa.types.is_temporal(kind):
        return numeric.Extreme(at, f"i{kind.bit_width // 8}", largest)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return numeric.Extreme(at, np.dtype(kind.to_pandas_dtype()).str[1:], largest)
    return ordered.RankedExtreme(at, kind, largest)


def _computed_type(kind: pa.DataType) -> pa.DataType:
    """The type that an input is brought to: that of its values, or one with the kernels that are needed."""
    kind = plain_type(kind)
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    return kind


def _typed(array: Array, output: pa.DataType) -> Array:
    # The type of nulls alone is not known yet, neither is that of a user's results.
    if pa.types.is_null(output) and array.null_count < len(array):
        return array
    return retype(array, output)


def _stored(column: Column, output: pa.DataType) -> Array:
    """Values that were computed as NumPy stores them, as what they are."""
    array = to_arrow(column)
    if pa.types.is_temporal(output):
        return array.view(output)
    return array.cast(output) if pa.types.is_boolean(output) else array


def _exact(column: Column, output: pa.DataType, label: str) -> Array:
    if pa.types.is_null(output):
        return pa.nulls(len(column))  # of a field that has shown nothing but null
    try:
        return to_arrow(column).cast(output)
    except pa.ArrowInvalid as error:
        hint = "double" if pa.types.is_decimal(output) else "a decimal or to double"
        raise AggregateOverflowError(
            f"{label}: the sum of a group does not fit {output}; cast the input to {hint} first"
        ) from error


def _divide(columns: Sequence[Column]) -> Array:
    count = _numbers(columns[1])
    present = count > 0
    total = retype(to_arrow(columns[0]), pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    return _where(total / np.maximum(count, 1), present)


def _variance(columns: Sequence[Column], ddof: int, root: bool) -> Array:
    count = _numbers(columns[0])
    value = _numbers(columns[3]) / np.maximum(count - ddof, 1)
    return _where(np.sqrt(value) if root else value, count > ddof)


def _signed_variance(columns: Sequence[Column], ddof: int, root: bool) -> Array:
    count = _numbers(columns[10])
    value = signed.variances(columns[:5], columns[5:10], count, ddof)
    return _where(np.sqrt(value) if root else value, count > ddof)


def _where(values: Values, present: Values) -> Array:
    return pa.array(values) if present.all() else pa.array(values, mask=~present)


def _numbers(column: Column) -> Values:
    return Input(column, Groups(np.zeros(0, np.intp), 0)).values
