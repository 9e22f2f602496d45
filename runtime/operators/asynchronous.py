"""map_async: rows whose answer comes from outside, many under way at once.

Rows wait in batches, in the order in which they came, each batch with the watermark that the stage had
reached by then. Those behind learn of a later watermark only when the batch has left, so no answer is
late for being slow. What waits is state: rows without their answer, asked again after a recovery.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, Keys, make_columns, struct_fields
from millstream.checkpoints.tables import StateTable
from millstream.letter_rows import encode_row
from millstream.operators.base import Context, Operator, Output
from millstream.operators.calls import Calls, Outcome
from millstream.rows import Row, columns_of, rows_of
from millstream.specs.asynchronous import MapAsyncSpec
from millstream.specs.base import MAIN
from millstream.times import MIN_US

_ASKED: Final = "asked"
_LOOK_US: Final = 1_000
_WAIT_S: Final = 0.001
_GATHER_US: Final = 5_000
"""Answers are gathered for so long before they leave: a batch for every answer would cost more than the call."""


@dataclass(slots=True)
class _Waiting:
    """A batch whose rows were handed over.

    Attributes:
        watermark_us: the stage's when it came.
        answers: by row; rows that gave none (None, or a failure) are not in it.
        open: the rows without an outcome yet.
    """

    batch: Batch
    rows: list[Row]
    watermark_us: int
    answers: dict[int, Any] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)

    def take(self, ordered: bool) -> list[int]:
        """The rows whose answers may leave now."""
        if not ordered:
            return sorted(self.answers)
        first_open = min(self.open, default=self.batch.num_rows)
        return sorted(r for r in self.answers if r < first_open)


class MapAsync(Operator):
    def __init__(self, spec: MapAsyncSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.waiting: deque[_Waiting] = deque()
        self.watermark_us = MIN_US
        self._calls: Calls | None = None
        self._first = 0  # the number of the batch at the front
        self._under_way = 0
        self._gathering_since_us: int | None = None
        self._look_us: int | None = None
        self._recovered: list[Batch] = []

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if batch.num_rows == 0:
            return
        rows = rows_of(batch.all_columns())
        waiting = _Waiting(batch, rows, self.watermark_us, open=set(range(len(rows))))
        self.waiting.append(waiting)
        number = self._first + len(self.waiting) - 1
        at = 0
        while at < len(rows):
            room = self.spec.capacity - self._under_way
            if room > 0:
                until = min(at + room, len(rows))
                self._started().start([(number, r) for r in range(at, until)], rows[at:until])
                self._under_way += until - at
                self._look_us = self.context.now_us() + _LOOK_US
                at = until
            else:
                yield from self._collect(_WAIT_S)
                yield None

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        self.watermark_us = watermark_us
        return iter(())

    def passes_on_us(self, watermark_us: int) -> int:
        if self._recovered:
            return MIN_US
        return min(watermark_us, *(w.watermark_us for w in self.waiting)) if self.waiting else watermark_us

    def due_us(self) -> int | None:
        return MIN_US if self._recovered else self._look_us

    def on_clock(self, now_us: int) -> Iterator[Output]:
        yield from self._ask_again()
        yield from self._collect(_WAIT_S)

    def _ask_again(self) -> Iterator[Output]:
        while self._recovered:
            yield from self.on_batch(self._recovered.pop(), 0)

    def on_end(self) -> Iterator[Output]:
        yield from self._ask_again()
        while self.waiting:
            yield from self._collect(_WAIT_S)
            yield None
        self._close()

    def on_abort(self) -> None:
        self._close()

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "calls_under_way": self._under_way}

    # --- checkpoints ---

    def snapshot(self) -> list[StateTable]:
        """The rows without an answer, or whose answer has not left. They have no key: their numbers deal them out."""
        tables: list[StateTable] = [_as_table(batch) for batch in self._recovered]
        for waiting in self.waiting:
            rows = np.array(sorted({*waiting.open, *waiting.answers}), np.intp)
            tables.append(_as_table(waiting.batch.take(rows)))
        return tables

    def restore(self, tables: Sequence[StateTable]) -> None:
        self._recovered = [_from_table(table) for table in reversed(tables) if table.num_rows]

    # --- answers ---

    def _collect(self, wait_s: float) -> Iterator[Output]:
        """Take what has come back, and put out what may leave, a few milliseconds of it together."""
        for outcome in self._started().finished(wait_s):
            self._under_way -= 1
            self.context.counters.retried += outcome.retries
            self._note(outcome)
        now_us = self.context.now_us()
        self._look_us = now_us + _LOOK_US if self._under_way else None
        if self._gathering_since_us is None:
            self._gathering_since_us = now_us
        if self._under_way and now_us - self._gathering_since_us < _GATHER_US:
            return
        self._gathering_since_us = None
        for waiting in list(self.waiting):
            yield from self._put_out(waiting)
            if self.spec.ordered and waiting.open:
                break
        while self.waiting and not self.waiting[0].open and not self.waiting[0].answers:
            self.waiting.popleft()
            self._first += 1

    def _note(self, outcome: Outcome) -> None:
        number, row = outcome.token
        waiting = self.waiting[number - self._first]
        waiting.open.discard(row)
        if outcome.error is None:
            if outcome.value is not None:
                waiting.answers[row] = outcome.value
            return
        event = waiting.rows[row]
        whole = partial(encode_row, waiting.batch, row)
        self.context.give_up(self.spec.on_error, outcome.error, event, row=whole)

    def _put_out(self, waiting: _Waiting) -> Iterator[Output]:
        ready = waiting.take(self.spec.ordered)
        if not ready:
            return
        columns = columns_of([waiting.answers.pop(r) for r in ready], self.spec.schema, self.context.name)
        yield MAIN, waiting.batch.take(np.array(ready)).with_columns(columns)

    def _started(self) -> Calls:
        if self._calls is None:
            spec = self.spec
            self._calls = Calls(
                spec.function.load(), capacity=spec.capacity, timeout_s=spec.timeout_us / 1e6, policy=spec.on_error
            )
        return self._calls

    def _close(self) -> None:
        if self._calls is not None:
            self._calls.close()
            self._calls = None


def _as_table(batch: Batch) -> StateTable:
    columns = batch.all_columns()
    rows = pa.StructArray.from_arrays(columns.columns, fields=list(columns.schema))
    beside = [
        pa.nulls(batch.num_rows, pa.int64()) if array is None else pa.array(array)
        for array in (batch.time_us, batch.before_us, batch.position)
    ]
    numbers = np.arange(batch.num_rows, dtype=np.int32)
    keys = Keys(make_columns(["number"], [pa.array(numbers)]), numbers)
    return StateTable(_ASKED, keys, make_columns(["time_us", "before_us", "position", "row"], [*beside, rows]))


def _from_table(table: StateTable) -> Batch:
    *beside, rows = table.columns.columns
    time_us, before_us, position = (None if a.null_count else a.to_numpy() for a in beside)
    return Batch(make_columns(rows.type.names, struct_fields(rows)), time_us, before_us, position)
