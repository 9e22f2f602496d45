"""The user's functions over the rows of a window: `process_window` and `reduce`.

They stand behind windows that collect whole events, so windows of every kind, lateness and triggers work as they do for
any aggregate. A pane's events stay columns: a function that takes columns gets a slice of them without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, Batch, make_columns
from millstream.errors import MillstreamError, SchemaError
from millstream.functions import Text
from millstream.grouping import IndexArray
from millstream.operators.base import SLICE_ROWS, Context, Operator, Output
from millstream.rows import Row, columns_of, joined, rows_of
from millstream.specs.base import MAIN
from millstream.specs.window_functions import WINDOW_ROWS, Window, WindowFunctionSpec
from millstream.specs.windows import RESERVED


class WindowFunction(Operator):
    def __init__(self, spec: WindowFunctionSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.function: Callable[..., Any] = spec.function.load()

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        names = [*RESERVED, *self.spec.keys]
        heads = list(zip(*(c.to_pylist() for c in batch.columns.select(names).columns), strict=True))
        events, ends = _flattened(batch.columns.column(WINDOW_ROWS))
        made = _Results(self.spec.schema, self.context.name)
        start = rows = 0
        for pane, (head, end) in enumerate(zip(heads, ends, strict=True)):
            made.add(self._call(head, events.slice(start, end - start)), pane)
            rows += end - start + 1
            start = end
            if rows >= SLICE_ROWS:
                rows = 0
                yield None
        result = made.columns()
        if result is None:
            return
        columns, panes = result
        rows_of_panes = batch.take(panes)
        if self.spec.reduces:
            columns = _behind(rows_of_panes.columns.select(names), columns)
        yield MAIN, rows_of_panes.with_columns(columns)

    def _call(self, head: tuple[Any, ...], events: pa.RecordBatch) -> Any:
        key = head[len(RESERVED) :]
        window = Window(*head[: len(RESERVED)])
        try:
            if self.spec.reduces:
                return reduce(self.function, rows_of(events)) if events.num_rows else None
            return self.function(key[0] if len(key) == 1 else key, window, events)
        except MillstreamError:
            raise
        except Exception as error:
            about = f"key {key[0] if len(key) == 1 else key!r} of {window}"
            self.context.give_up(self.spec.on_error, error, Text(about))
            return None


class _Results:
    """What a function returned for one pane after another, on its way to columns."""

    def __init__(self, schema: pa.Schema | None, where: str) -> None:
        self._schema = schema
        self._where = where
        self._parts: list[pa.RecordBatch] = []
        self._panes: list[int] = []
        self._rows: list[Any] = []

    def add(self, made: Any, pane: int) -> None:
        """Take what the function returned: nothing, a row, a list of rows, or columns.

        Raises:
            SchemaError: it is none of these.
        """
        if made is None:
            return
        if isinstance(made, pa.Table | pa.RecordBatch):
            batches = made.to_batches() if isinstance(made, pa.Table) else [made]
            self._close_rows()
            self._parts += [self._typed(b) for b in batches if b.num_rows]
            self._panes += [pane] * made.num_rows
            return
        rows = made if isinstance(made, list) else [made]
        for row in rows:
            if not isinstance(row, Mapping | Row | tuple) and not hasattr(row, "__dataclass_fields__"):
                raise SchemaError(
                    f"{self._where}: the function returns None, a row (a dict, say), a list of rows or a record batch, "
                    f"found {type(row).__name__}"
                )
        self._rows += rows
        self._panes += [pane] * len(rows)

    def columns(self) -> tuple[pa.RecordBatch, IndexArray] | None:
        """All rows, and the pane of each; None: there are none."""
        self._close_rows()
        return (joined(self._parts, self._where), np.array(self._panes, np.intp)) if self._parts else None

    def _close_rows(self) -> None:
        if self._rows:
            rows, self._rows = self._rows, []
            self._parts.append(columns_of(rows, self._schema, self._where))

    def _typed(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        if self._schema is None:
            return columns
        try:
            return columns.select(self._schema.names).cast(self._schema)
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaError(
                f"{self._where}: the function returned columns that are not those of schema=: {error}"
            ) from error


def _flattened(lists: Array) -> tuple[pa.RecordBatch, list[int]]:
    """The events of all panes, and where each pane's end."""
    assert isinstance(lists, pa.ListArray)
    events = lists.flatten()
    assert isinstance(events, pa.StructArray)
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    return pa.RecordBatch.from_struct_array(events), np.cumsum(lengths).tolist()


def _behind(head: pa.RecordBatch, reduced: pa.RecordBatch) -> pa.RecordBatch:
    """The fields of a pane and its key, and those of the row that was made of its events."""
    rest = [n for n in reduced.schema.names if n not in head.schema.names]
    return make_columns([*head.schema.names, *rest], [*head.columns, *(reduced.column(n) for n in rest)])
