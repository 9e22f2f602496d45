"""Expressions at work: type checking and evaluation on Arrow columns.

A type that an operation does not take is a `SchemaError` for the whole expression; a value that it cannot
take is an `EvaluationError`, a fault of its row. A result's type depends on the schema, never on values:
so an expression is type-checked by evaluating it on no rows.

``when`` evaluates a value that takes long (a regular expression, say) for the rows that take it, and others for
all rows at first; only if that fails, for those that take it. What the other operations mean is said in
`millstream.kernels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, index_array
from millstream.errors import InternalError, SchemaError, unknown_field
from millstream.expr import Alias, Call, Column, Expr, Literal, WholeRow
from millstream.kernels import KERNELS, NULL, Kernel, Refused, Value, decoded, logical, repeated, unified
from millstream.kernels.scan import Parts, is_one_byte


class EvaluationError(SchemaError):
    """A value that the operation cannot take: an overflow, text that is not a number. The types are right.

    Attributes:
        expression: the innermost expression that failed, as source text.
        reason: what is wrong with the value.
    """

    def __init__(self, expression: str, reason: str) -> None:
        super().__init__(expression, reason)
        self.expression = expression
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.expression}: {self.reason}"


def output_type(expr: Expr, schema: pa.Schema, where: str) -> pa.DataType:
    """The type of ``expr`` on columns of ``schema``, without any data.

    Args:
        where: the operator that asks, as the user wrote it; it begins the error's text.

    Raises:
        SchemaError: a field is not there, or an operation does not take the types it would get.
    """
    empty = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    evaluation = _Evaluation(empty, where)
    try:
        dtype: pa.DataType = evaluation.array(expr).type
        return dtype
    except SchemaError as error:
        if str(error).startswith(f"{where}: "):
            raise
        raise SchemaError(f"{where}: {error}") from error


def evaluate(expr: Expr, batch: pa.RecordBatch) -> Array:
    """The value of ``expr`` for each row of ``batch``.

    Raises:
        SchemaError: a field is missing or of a wrong type.
        EvaluationError: the value of some row cannot be computed.
    """
    return _Evaluation(batch, str(expr) if isinstance(expr, Column) else None).array(expr)


def evaluate_all(exprs: Sequence[Expr], batch: pa.RecordBatch) -> list[Array]:
    """Several expressions; a part that they share, as one object, is computed once."""
    evaluation = _Evaluation(batch)
    return [evaluation.array(expr) for expr in exprs]


def evaluate_rows(expr: Expr, batch: pa.RecordBatch) -> tuple[Array, list[tuple[int, str]]]:
    """Like `evaluate`, except that rows whose value cannot be computed are null and are reported.

    The whole batch is tried at once. If that fails it is halved until the failing rows stand alone: about
    2 log2(n) evaluations for one of them.

    Returns:
        The values, and (row, reason) for each row that failed, in order.

    Raises:
        SchemaError: types are wrong, or the expression fails without any row (a literal does not fit).
    """
    try:
        return evaluate(expr, batch), []
    except EvaluationError as error:
        failure = error
    fields = expr.fields()
    batch = batch.select([index for index, name in enumerate(batch.schema.names) if name in fields])
    null = pa.nulls(1, evaluate(expr, batch.slice(0, 0)).type)
    pieces: list[Array] = []
    failed: list[tuple[int, str]] = []

    def halve(start: int, stop: int, failure: EvaluationError) -> None:
        if stop - start == 1:
            pieces.append(null)
            failed.append((start, str(failure)))
            return
        middle = (start + stop) // 2
        for low, high in ((start, middle), (middle, stop)):
            try:
                pieces.append(evaluate(expr, batch.slice(low, high - low)))
            except EvaluationError as error:
                halve(low, high, error)

    halve(0, batch.num_rows, failure)
    return pa.concat_arrays(pieces), failed


class _Evaluation:
    """One or more expressions over one batch. Calls are remembered, so a shared part is computed once."""

    def __init__(self, batch: pa.RecordBatch, where: str | None = None) -> None:
        self.batch = batch
        self.where = where
        self.known: dict[int, Value] = {}
        self.splits: dict[int, Parts] = {}

    def array(self, expr: Expr) -> Array:
        value = self.value(expr)
        return value if isinstance(value, pa.Array) else repeated(value, self.batch.num_rows)

    def value(self, expr: Expr) -> Value:
        if isinstance(expr, Column):
            return self._column(expr.column)
        if isinstance(expr, Literal):
            return expr.scalar
        if isinstance(expr, Alias):
            return self.value(expr.operand)
        if isinstance(expr, WholeRow):
            return self.batch.to_struct_array()
        if not isinstance(expr, Call):
            raise InternalError(f"{expr!r} is no node of the expression language; this is a bug in Millstream")
        if (value := self.known.get(id(expr))) is None:
            value = self.known[id(expr)] = self._call(expr)
        return value

    def _column(self, name: str) -> Array:
        schema = self.batch.schema
        index = schema.get_field_index(name)
        if index < 0:
            where = self.where or f"col({name!r})"
            if name in schema.names:
                raise SchemaError(f"{where}: field {name!r} is there more than once; rename one of them")
            raise unknown_field(name, schema.names, where)
        return self.batch.column(index)

    def _call(self, call: Call) -> Value:
        kernel = KERNELS.get(call.operation)
        if kernel is None:
            raise InternalError(f"{call}: no kernel {call.operation!r}; this is a bug in Millstream")
        if call.operation == "list.get" and (parts := self._split(call.arguments[0])) is not None:
            part: Array = parts.get(call.options["index"])
            return part
        try:
            if call.operation == "when" and self.batch.num_rows and any(map(_takes_long, call.arguments)):
                arguments = self._when_arguments(call.arguments)
            else:
                arguments = [decoded(self.value(argument)) for argument in call.arguments]
        except EvaluationError:
            if call.operation != "when" or not self.batch.num_rows:
                raise
            return self._when_by_rows(call)
        return _run(kernel, arguments, call.options, call)

    def _split(self, expr: Expr) -> Parts | None:
        """Text split at a byte, for whoever wants some of its parts: the list of all of them need not be made."""
        if not isinstance(expr, Call) or expr.operation != "str.split" or not is_one_byte(expr.options["by"]):
            return None
        if (parts := self.splits.get(id(expr))) is None:
            text = decoded(self.value(expr.arguments[0]))
            if not isinstance(text, pa.Array) or not (
                pa.types.is_string(text.type) or pa.types.is_large_string(text.type)
            ):
                return None
            parts = self.splits[id(expr)] = Parts(text, expr.options["by"])
        return parts

    def _when_arguments(self, of: Sequence[Expr]) -> list[Value]:
        """Conditions and values of a ``when``; a value that takes long is null for the rows that do not take it."""
        arguments: list[Value] = []
        rest = np.ones(self.batch.num_rows, np.bool_)
        for number, argument in enumerate(of):
            if number % 2 == 0 and number + 1 < len(of):
                condition = decoded(self.value(argument))
                arguments.append(condition)
                if not pa.types.is_boolean(condition.type):
                    return [*arguments, *(decoded(self.value(a)) for a in of[number + 1 :])]  # to be refused, or null
                whole: Any = condition if isinstance(condition, pa.Array) else repeated(condition, len(rest))
                true = pc.fill_null(whole, False).to_numpy(zero_copy_only=False)
                taking, rest = rest & true, rest & ~true
            else:
                taking = taking if number % 2 else rest
                value = self._for_rows(argument, taking) if _takes_long(argument) else self.value(argument)
                arguments.append(decoded(value))
        return arguments

    def _for_rows(self, expr: Expr, taking: npt.NDArray[np.bool_]) -> Array:
        """The value of an expression where ``taking`` is true, null elsewhere."""
        names = [name for name in self.batch.schema.names if name in expr.fields()]
        if taking.all() or not names:
            return self.array(expr)
        some = self.batch.select(names).take(index_array(np.flatnonzero(taking)))
        numbers = np.cumsum(taking) - 1
        return _Evaluation(some, self.where).array(expr).take(index_array(numbers, ~taking))

    def _when_by_rows(self, call: Call) -> Array:
        """``when``, with each condition and value evaluated only for the rows that come to it."""
        conditions, values = call.arguments[0:-1:2], [*call.arguments[1::2]]
        rest = np.arange(self.batch.num_rows)

        def of(rows: npt.NDArray[np.int64]) -> _Evaluation:
            return _Evaluation(self.batch.take(index_array(rows)), self.where)

        taken: list[npt.NDArray[np.int64]] = []
        results: list[Value] = []
        for condition, value in zip(conditions, values, strict=True):
            chosen = of(rest).array(condition)
            true = pc.fill_null(logical(chosen), False).to_numpy(zero_copy_only=False)
            taken.append(rest[true])
            results.append(of(rest[true]).value(value))
            rest = rest[~true]
        taken.append(rest)
        if len(call.arguments) % 2:
            results.append(of(rest).value(call.arguments[-1]))
        else:
            results.append(NULL)
        alike = unified(*map(decoded, results))
        arrays = [v if isinstance(v, pa.Array) else repeated(v, len(r)) for v, r in zip(alike, taken, strict=True)]
        back = np.argsort(np.concatenate(taken))
        return pa.concat_arrays(arrays).take(index_array(back))


_LONG = frozenset(("str.extract", "str.replace", "str.replace_all", "str.to_datetime"))


def _takes_long(expr: Expr) -> bool:
    """Whether an expression costs far more than taking the rows that it is needed for."""
    if isinstance(expr, Call) and expr.operation in _LONG:
        return True
    return any(map(_takes_long, expr._children()))


def _run(kernel: Kernel, arguments: list[Value], options: Mapping[str, Any], call: Call) -> Value:
    """The kernel's result, or its failure told in terms of the expression."""
    try:
        if any(isinstance(argument, pa.Array) for argument in arguments):
            result = kernel(*arguments, **options)
        else:
            result = kernel(*(repeated(argument, 1) for argument in arguments), **options)[0]
        return result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result
    except Refused as refusal:
        raise SchemaError(f"{call}: {refusal}") from None
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError) as error:
        types = " and ".join(str(argument.type) for argument in arguments)
        raise SchemaError(f"{call}: cannot be computed for {types}; use .cast(...)") from error
    except (pa.ArrowInvalid, pa.ArrowIndexError, OverflowError) as error:
        reason = "integer overflow" if str(error) == "overflow" else str(error).split("\n", 1)[0]
        raise EvaluationError(str(call), reason) from error
