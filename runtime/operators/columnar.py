"""Stateless operators over columns: filter, select, with_columns, drop, rename, explode.

Rows for which an expression cannot be evaluated (a cast of text that is no number, an overflow) go to
the dead letters; the others of the batch go on.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, Batch, concat, index_array, make_columns
from millstream.errors import SchemaError, unknown_field
from millstream.evaluate import EvaluationError, evaluate_rows
from millstream.evaluate import evaluate_all as evaluate_together
from millstream.expr import Expr
from millstream.letter_rows import encode_row
from millstream.operators.base import Context, Operator, Output
from millstream.specs.base import MAIN, Named
from millstream.specs.columns import (
    DropSpec,
    ExplodeSpec,
    FilterSpec,
    RenameSpec,
    SelectSpec,
    UnionSpec,
    WithColumnsSpec,
)


def row_text(columns: pa.RecordBatch, row: int) -> str:
    """One row for people: ``{"carrier": "UA", "delay": 3}``."""
    return str(columns.slice(row, 1).to_pylist()[0])


def evaluate_all(expressions: Named, batch: Batch, context: Context) -> tuple[list[Array], Batch]:
    """Evaluate expressions on a batch; rows on which one fails become dead letters.

    Returns:
        The results, and the batch, both without those rows.
    """
    try:
        return evaluate_together([e for _, e in expressions], batch.columns), batch
    except EvaluationError:
        results: list[Array] = []
    failed: dict[int, str] = {}
    for _, expression in expressions:
        result, failures = evaluate_rows(expression, batch.columns)
        results.append(result)
        for row, reason in failures:
            failed.setdefault(row, reason)
    if not failed:
        return results, batch
    for row, reason in sorted(failed.items()):
        context.reject(reason, row_text(batch.columns, row), row=encode_row(batch, row))
    keep = np.ones(batch.num_rows, np.bool_)
    keep[list(failed)] = False
    rows = index_array(np.flatnonzero(keep))
    return [r.take(rows) for r in results], batch.where(keep)


class Filter(Operator):
    def __init__(self, spec: FilterSpec, context: Context) -> None:
        super().__init__(context)
        self.predicate: Expr = spec.predicate
        self.fields = spec.fields

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        (mask,), batch = evaluate_all((("", self.predicate),), batch, self.context)
        if not pa.types.is_boolean(mask.type):
            raise SchemaError(
                f"{self.context.name}: {self.predicate} is {mask.type}, not a condition; compare it with something"
            )
        keep = mask.fill_null(False) if mask.null_count else mask
        kept = self._narrowed(batch).where(keep.to_numpy(zero_copy_only=False))
        if kept.num_rows:
            yield MAIN, kept

    def _narrowed(self, batch: Batch) -> Batch:
        """Without what the predicate alone has read: rows are copied, and the rest of a wide one may be most of it."""
        if self.fields is None:
            return batch
        names = batch.columns.schema.names
        # Rows alone may be counted, and Arrow forgets the length of no columns: keep one.
        read = [n for n in names if n in self.fields] or names[:1]
        return batch if len(read) == len(names) else batch.with_columns(batch.columns.select(read))


class Select(Operator):
    def __init__(self, spec: SelectSpec, context: Context) -> None:
        super().__init__(context)
        self.columns = spec.columns
        self.names = [n for n, _ in spec.columns]

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        arrays, batch = evaluate_all(self.columns, batch, self.context)
        yield MAIN, batch.with_columns(make_columns(self.names, arrays))


class WithColumns(Operator):
    def __init__(self, spec: WithColumnsSpec, context: Context) -> None:
        super().__init__(context)
        self.columns = spec.columns

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        arrays, batch = evaluate_all(self.columns, batch, self.context)
        yield MAIN, batch.with_columns(with_arrays(batch.columns, [n for n, _ in self.columns], arrays))


def with_arrays(columns: pa.RecordBatch, names: list[str], arrays: list[Array]) -> pa.RecordBatch:
    merged = dict(zip(columns.schema.names, columns.columns, strict=True))
    merged.update(zip(names, arrays, strict=True))
    return make_columns(list(merged), list(merged.values()))


class Drop(Operator):
    def __init__(self, spec: DropSpec, context: Context) -> None:
        super().__init__(context)
        self.names = frozenset(spec.names)

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        keep = [n for n in batch.columns.schema.names if n not in self.names]
        yield MAIN, batch.with_columns(batch.columns.select(keep))


class Rename(Operator):
    def __init__(self, spec: RenameSpec, context: Context) -> None:
        super().__init__(context)
        self.names = dict(spec.names)

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        names = batch.columns.schema.names
        # A field that nobody reads was pruned, and is not here to be renamed.
        renamed = [self.names.get(n, n) for n in names]
        if len(set(renamed)) < len(renamed):
            raise SchemaError(f"{self.context.name}: two fields would have one name; there are {', '.join(names)}")
        yield MAIN, batch.with_columns(make_columns(renamed, batch.columns.columns))


class Explode(Operator):
    def __init__(self, spec: ExplodeSpec, context: Context) -> None:
        super().__init__(context)
        self.column = spec.column

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        names = batch.columns.schema.names
        if self.column not in names:
            raise unknown_field(self.column, names, self.context.name)
        lists = batch.columns.column(self.column)
        if not (
            pa.types.is_list(lists.type)
            or pa.types.is_large_list(lists.type)
            or pa.types.is_fixed_size_list(lists.type)
        ):
            raise SchemaError(f"{self.context.name}: field {self.column!r} is {lists.type}, not a list")
        parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
        elements = pc.list_flatten(lists)
        if len(parents) == 0:
            return
        rest = [n for n in names if n != self.column]
        # Without the list itself: repeating it for each of its elements would square its size.
        spread = batch.with_columns(batch.columns.select(rest)).take(parents)
        arrays = [elements if n == self.column else spread.columns.column(n) for n in names]
        yield MAIN, spread.with_columns(make_columns(names, arrays))


class Union(Operator):
    """Brings the fields of several streams to one order and to the types that hold them all.

    Args:
        schema: what the planner found; None where the fields of a stream are not known before its rows.
    """

    def __init__(self, spec: UnionSpec, context: Context, schema: pa.Schema | None) -> None:
        super().__init__(context)
        self.in_order = spec.in_order
        self.schema = schema
        self._held: list[Batch] = []

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        batch = self._unified(batch)
        if not self.in_order:
            yield MAIN, batch
        elif batch.num_rows:
            self._held.append(batch)

    def on_block_end(self) -> Iterator[Output]:
        """Branches of one source come one behind the other: put their rows back into the order of the source."""
        if not self._held:
            return
        held, self._held = self._held, []
        together = concat(held)
        assert together.position is not None
        yield MAIN, together if len(held) == 1 else together.take(np.argsort(together.position, kind="stable"))

    def _unified(self, batch: Batch) -> Batch:
        if self.schema is None:
            return batch
        columns = batch.columns
        fields = [f for f in self.schema if f.name in columns.schema.names]
        arrays = [columns.column(f.name).cast(f.type) for f in fields]
        return batch.with_columns(make_columns([f.name for f in fields], arrays))
