"""scan: Python state for each key, and a function from (state, event) to (state, output).

The events of a key come in the order of their source partition. A key's state is looked up once for each
batch, not for each event.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import compress, islice
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch
from millstream.errors import SchemaError
from millstream.functions import user_error
from millstream.operators.base import SLICE_ROWS, Context, Operator, Output
from millstream.plan import MAIN, OnError, ScanSpec
from millstream.rows import Row, columns_of, rows_of

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
        self.init = init if callable(init) else lambda: init
        self.states: dict[Any, Any] = {}

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
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
            yield MAIN, Batch(result, rows_kept.time_us, None, rows_kept.position)

    def _step(self, rows: list[Row], codes: list[int], held: list[Any], outputs: list[Any]) -> None:
        function, append = self.function, outputs.append
        first, at = len(outputs), 0
        while at < len(rows):
            try:
                for row, code in zip(islice(rows, at, None), islice(codes, at, None), strict=True):
                    held[code], output = function(held[code], row)
                    append(output)
                return
            except Exception as error:
                at = len(outputs) - first
                self._failed(rows[at], error)
                append(None)
                at += 1

    def _failed(self, row: Row, error: Exception) -> None:
        if isinstance(error, TypeError | ValueError) and "unpack" in str(error):
            raise SchemaError(
                f"{self.context.name}: the function must return (state, output); on {row!r} it did not: {error}"
            ) from error
        if self.spec.on_error is OnError.FAIL:
            raise user_error(self.context.name, row, error) from error
        self.context.reject(f"the function raised {type(error).__name__}: {error}", repr(row))

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "keys": len(self.states)}
