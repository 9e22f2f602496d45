"""Stateless operators that call the user's functions: map, flat_map, filter, map_batches, handlers.

Rows are made a slice at a time and the results become columns again at once, so that Python objects
live for a slice only. Between slices the operator pauses, for the loop to serve its sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.batch import Batch
from millstream.errors import SchemaError, unknown_field
from millstream.functions import Text
from millstream.letter_rows import encode_row
from millstream.operators.attempts import call_each, call_together
from millstream.operators.base import SLICE_ROWS, Context, Operator, Output
from millstream.rows import Row, columns_of, joined, rows_of
from millstream.specs.base import MAIN
from millstream.specs.functions import HandlersSpec, MapBatchesSpec, RowFunctionSpec, Shape
from millstream.specs.on_error import OnError


class RowFunction(Operator):
    """map, flat_map and filter with a Python function."""

    def __init__(self, spec: RowFunctionSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        function = spec.function.load()
        self.function = self._listing(function) if spec.shape is Shape.FLAT_MAP else function

    def _listing(self, function: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
        """A flat_map function whose result is taken to its end at once: a generator may raise half-way."""

        def listed(row: Any) -> list[Any]:
            made = function(row)
            if type(made) is list:
                return made
            if made is None:
                return []
            if not isinstance(made, Iterable) or isinstance(made, str | bytes | Mapping | Row):
                raise SchemaError(
                    f"{self.context.name}: a flat_map function returns a list (or another iterable) of events, "
                    f"found {type(made).__name__}"
                )
            return list(made)

        return listed

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        parts: list[pa.RecordBatch] = []
        sources: list[np.ndarray[Any, np.dtype[np.intp]]] = []
        for start in range(0, batch.num_rows, SLICE_ROWS):
            rows = rows_of(batch.columns.slice(start, SLICE_ROWS))
            row_of = partial(_row_at, batch, start)
            made, failed = yield from call_each(self.function, rows, self.context, self.spec.on_error, row_of=row_of)
            index = np.arange(start, start + len(rows))
            if failed:
                index = np.delete(index, failed)
            if self.spec.shape is Shape.FLAT_MAP:
                index = np.repeat(index, list(map(len, made)))
                made = list(chain.from_iterable(made))
            if self.spec.shape is Shape.FILTER:
                index = index[np.fromiter(map(bool, made), np.bool_, len(made))]
            elif made:
                parts.append(columns_of(made, self.spec.schema, self.context.name))
            sources.append(index)
            if start + SLICE_ROWS < batch.num_rows:
                yield None
        origin = np.concatenate(sources) if sources else np.zeros(0, np.intp)
        if self.spec.shape is Shape.FILTER:
            if len(origin):
                yield MAIN, batch.take(origin)
        elif parts:
            columns = joined(parts, self.context.name)
            unchanged = len(origin) == batch.num_rows and self.spec.shape is Shape.MAP
            yield MAIN, (batch if unchanged else batch.take(origin)).with_columns(columns)


class MapBatches(Operator):
    """A function over Arrow columns. A batch on which it goes on raising is split until the bad rows are found."""

    def __init__(self, spec: MapBatchesSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.function = spec.function.load()

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if batch.num_rows == 0:
            return
        result, error = yield from call_together(
            self.function, batch.columns, batch.num_rows, self.context, self.spec.on_error
        )
        if error is None:
            yield from self._checked(batch, result)
        else:
            yield from self._without_bad_rows(batch, error)

    def _without_bad_rows(self, batch: Batch, error: BaseException) -> Iterator[Output]:
        """What the function makes of the halves of a batch on which it raised, and of their halves."""
        policy = self.spec.on_error
        if policy.then is OnError.FAIL:
            self.context.give_up(policy, error, Text(f"a batch of {batch.num_rows} events"))
        if batch.num_rows == 1:
            self.context.give_up(policy, error, Text(batch.columns.to_pylist()[0]), row=partial(encode_row, batch, 0))
            return
        middle = batch.num_rows // 2
        for half in (batch.slice(0, middle), batch.slice(middle, batch.num_rows - middle)):
            result, error_of_half = yield from call_together(
                self.function, half.columns, half.num_rows, self.context, policy.without_retries
            )
            if error_of_half is None:
                yield from self._checked(half, result)
            else:
                yield from self._without_bad_rows(half, error_of_half)

    def _checked(self, batch: Batch, result: Any) -> Iterator[Output]:
        if isinstance(result, pa.Table):
            result = (
                result.combine_chunks().to_batches()[0]
                if result.num_rows
                else pa.RecordBatch.from_pylist([], schema=result.schema)
            )
        if not isinstance(result, pa.RecordBatch) or result.num_rows != batch.num_rows:
            found = f"{result.num_rows} rows" if isinstance(result, pa.RecordBatch) else type(result).__name__
            raise SchemaError(
                f"{self.context.name}: the function returns a record batch with as many rows as it got "
                f"({batch.num_rows}), found {found}"
            )
        if result.num_rows:
            yield MAIN, batch.with_columns(result)


class Handlers(Operator):
    """Event handlers by type: each event goes to the handlers of its type, in the order of subscription."""

    def __init__(self, spec: HandlersSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.handlers: dict[str, list[Callable[[Any], Any]]] = {}
        for kind, function in spec.handlers:
            self.handlers.setdefault(kind, []).append(function.load())

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        field = self.spec.type_field
        if field not in batch.columns.schema.names:
            raise unknown_field(field, batch.columns.schema.names, self.context.name)
        results: list[Any] = []
        sources: list[int] = []
        for start in range(0, batch.num_rows, SLICE_ROWS):
            calls = [
                (handler, row, number)
                for number, row in enumerate(rows_of(batch.columns.slice(start, SLICE_ROWS)), start)
                for handler in self._subscribed(row[field])
            ]
            made, failed = yield from call_each(
                _handle, calls, self.context, self.spec.on_error, what="the handler", event_of=itemgetter(1),
                row_of=partial(self._row_of, batch, calls),
            )  # fmt: skip
            gone = frozenset(failed)
            handled = (number for at, (_, _, number) in enumerate(calls) if at not in gone)
            for result, number in zip(made, handled, strict=True):
                if result is not None:
                    rows = result if isinstance(result, list) else [result]
                    results += rows
                    sources += [number] * len(rows)
            yield None
        if results:
            yield MAIN, batch.take(np.array(sources)).with_columns(columns_of(results, None, self.context.name))

    def _row_of(self, batch: Batch, calls: list[tuple[Callable[[Any], Any], Row, int]], at: int) -> bytes:
        """Nothing where the event has other handlers, too: those would handle it twice."""
        _, row, number = calls[at]
        alone = len(self.handlers[row[self.spec.type_field]]) == 1
        return encode_row(batch, number) if alone else b""

    def _subscribed(self, kind: Any) -> list[Callable[[Any], Any]]:
        found = self.handlers.get(kind)
        if found is None:
            self.context.counters.unmatched += 1
            return []
        return found


def _row_at(batch: Batch, start: int, at: int) -> bytes:
    return encode_row(batch, start + at)


def _handle(call: tuple[Callable[[Any], Any], Row, int]) -> Any:
    handler, row, _ = call
    return handler(row)
