"""scan: Python state for each key, and a function from (state, event) to (state, output).

The events of a key come in the order of their source partition; behind a keyed stage, whose rows come from
several workers, they are put in the order of event time first. A key's state is looked up once for each
batch, not for each event.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import compress, islice
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, concat
from millstream.errors import SchemaError
from millstream.functions import user_error
from millstream.operators.base import SLICE_ROWS, Context, Operator, Output
from millstream.rows import Row, columns_of, rows_of
from millstream.runs import unify_keys
from millstream.specs.base import MAIN, OnError
from millstream.specs.keyed import ScanSpec

_MISSING = object()


def key_values(distinct: pa.RecordBatch) -> list[Any]:
    """Keys as Python values that work in a dict: plain values for one field, tuples for several."""
    columns = [_hashable(c) for c in distinct.columns]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _hashable(column: Array) -> list[Any]:
    values = column.to_pylist()
    if pa.types.is_floating(column.type):
        # A dict finds NaN by identity only: let every NaN be the same object.
        return [math.nan if v is not None and v != v else v for v in values]
    return values


class Scan(Operator):
    def __init__(self, spec: ScanSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.function = spec.function.load()
        init = spec.init.load()
        self.init = init if callable(init) else lambda: deepcopy(init)  # keys must not share a list or a dict
        self.states: dict[Any, Any] = {}
        self.waiting: list[Batch] = []

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if self.spec.by_event_time:
            self.waiting.append(batch)
        else:
            yield from self._scan(batch)

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        """Take what waits for its turn, as far as no earlier event is expected any more, by time and position."""
        if not self.waiting:
            return
        batch = _together(self.waiting)
        assert batch.time_us is not None and batch.position is not None
        due = batch.time_us < watermark_us
        self.waiting = [] if due.all() else [batch.where(~due)]
        batch = batch.where(due)
        assert batch.time_us is not None and batch.position is not None
        yield from self._scan(batch.take(np.lexsort((batch.position, batch.time_us))))

    def _scan(self, batch: Batch) -> Iterator[Output]:
        assert batch.keys is not None
        used = np.unique(batch.keys.codes)
        keys = key_values(batch.keys.distinct)
        held: list[Any] = [_MISSING] * len(keys)
        for code in used.tolist():
            state = self.states.get(keys[code], _MISSING)
            held[code] = self.init() if state is _MISSING else state
        columns = batch.all_columns()
        outputs: list[Any] = []
        for start in range(0, batch.num_rows, SLICE_ROWS):
            rows = rows_of(columns.slice(start, SLICE_ROWS))
            self._step(rows, batch.keys.codes[start : start + SLICE_ROWS].tolist(), held, outputs)
            if start + SLICE_ROWS < batch.num_rows:
                yield None
        for code in used.tolist():
            self.states[keys[code]] = held[code]
        made = [o is not None for o in outputs]
        if any(made):
            kept = outputs if all(made) else list(compress(outputs, made))
            rows_kept = batch if all(made) else batch.where(np.array(made))
            result = columns_of(kept, self.spec.schema, self.context.name)
            yield MAIN, Batch(result, rows_kept.time_us, rows_kept.before_us, rows_kept.position)

    def _step(self, rows: list[Row], codes: list[int], held: list[Any], outputs: list[Any]) -> None:
        function, append = self.function, outputs.append
        first, at = len(outputs), 0
        while at < len(rows):
            try:
                for row, code in zip(islice(rows, at, None), islice(codes, at, None), strict=True):
                    held[code], output = function(held[code], row)
                    append(output)
                return
            except (Exception, SystemExit) as error:
                at = len(outputs) - first
                self._failed(rows[at], error)
                append(None)
                at += 1

    def _failed(self, row: Row, error: BaseException) -> None:
        if isinstance(error, TypeError | ValueError) and "unpack" in str(error):
            raise SchemaError(
                f"{self.context.name}: the function must return (state, output); on {row!r} it did not: {error}"
            ) from error
        if self.spec.on_error is OnError.FAIL:
            raise user_error(self.context.name, row, error) from error
        self.context.reject(f"the function raised {type(error).__name__}: {error}", repr(row))

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "keys": len(self.states)}


def _together(batches: Sequence[Batch]) -> Batch:
    """Keyed batches as one, their keys in one numbering."""
    keys = unify_keys([b.keys for b in batches if b.keys is not None])
    return replace(concat([replace(b, keys=None) for b in batches]), keys=keys)
