"""The rows that a `Process` puts out: Python objects, then columns with the time and place of what caused them.

A row is emitted for an event of the batch at hand, whose time and place it gets; or for a `Cause`, a timer or a
control event, which is in no batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, IntArray
from millstream.keys import hash_keys
from millstream.operators.base import Output
from millstream.operators.process_state import KeyRecord
from millstream.rows import columns_of, joined
from millstream.times import MIN_US


class Cause(NamedTuple):
    """What a row was emitted for, where it was no event: a timer of a key, or a control event.

    Attributes:
        record: of the key; None while there is none.
        time_us: the event time that its rows get.
        before_us: the watermark before it, for one that was late.
    """

    record: KeyRecord | None
    time_us: int
    before_us: int


class Emissions:
    """The rows put out on one port: Python objects for as long as a slice takes, then columns.

    Attributes:
        at: for each row the number of its event in the batch; or, from -1 downwards, of its `Cause`.
        size: how many rows have become columns.
    """

    __slots__ = ("_parts", "_parts_at", "at", "rows", "schema", "size", "wanted")

    def __init__(self, schema: pa.Schema | None, wanted: bool) -> None:
        self.schema = schema
        self.wanted = wanted
        self.rows: list[Any] = []
        self.at: list[int] = []
        self.size = 0
        self._parts: list[pa.RecordBatch] = []
        self._parts_at: list[IntArray] = []

    def convert(self, where: str) -> None:
        if self.rows:
            self._parts.append(columns_of(self.rows, self.schema, where))
            self._parts_at.append(np.array(self.at))
            self.size += len(self.rows)
            self.rows.clear()
            self.at.clear()

    def take(self, where: str) -> tuple[pa.RecordBatch, IntArray]:
        """All that has become columns, and what each row was emitted for."""
        columns, at = joined(self._parts, where), np.concatenate(self._parts_at)
        self._parts, self._parts_at, self.size = [], [], 0
        return columns, at

    def take_back(self, at: int) -> None:
        """Forget what was put out last for one event."""
        while self.at and self.at[-1] == at:
            self.at.pop()
            self.rows.pop()


class Outputs:
    """All ports of a process.

    Args:
        timed: whether rows have event time.
        with_position: whether something behind depends on order.
    Attributes:
        origins: what rows were emitted for since the last `flush`, beside events.
        key_schema: the key fields, once an event has shown them.
    """

    def __init__(self, ports: Mapping[str, Emissions], where: str, timed: bool, with_position: bool) -> None:
        self.ports = ports
        self.origins: list[Cause] = []
        self.key_schema: pa.Schema | None = None
        self._where = where
        self._timed = timed
        self._with_position = with_position

    def begin(self, origin: Cause) -> int:
        """From here on rows are emitted for a timer or a control event; returns its number."""
        self.origins.append(origin)
        return -len(self.origins)

    def end(self, at: int) -> None:
        """Forget the origin that was begun last, if nothing was emitted for it."""
        if not any(e.at and e.at[-1] == at for e in self.ports.values()):
            self.origins.pop()

    def take_back(self, at: int) -> None:
        """Forget what was emitted last for one event or origin."""
        for emissions in self.ports.values():
            emissions.take_back(at)

    @property
    def size(self) -> int:
        return sum(e.size for e in self.ports.values())

    def convert(self) -> None:
        """Make columns of what there is."""
        for emissions in self.ports.values():
            emissions.convert(self._where)

    def flush(self, batch: Batch | None) -> Iterator[Output]:
        """Put out what was emitted for events of a batch and for origins."""
        self.convert()
        for name, emissions in self.ports.items():
            if emissions.size:
                columns, at = emissions.take(self._where)
                yield name, self._placed(columns, at, batch)
        self.origins = []

    def _placed(self, columns: pa.RecordBatch, at: IntArray, batch: Batch | None) -> Batch:
        """Rows with the time and place of what they were emitted for: an event of the batch, or one of `origins`."""
        of_events = at >= 0
        if batch is not None and of_events.all():
            time_us, before_us, position = (
                None if b is None else b[at] for b in (batch.time_us, batch.before_us, batch.position)
            )
            return Batch(columns, time_us, before_us, position)
        times = np.array([o.time_us for o in self.origins])
        befores = np.array([o.before_us for o in self.origins])
        rows = 0
        if batch is not None:
            # Events first and the origins behind them.
            rows = batch.num_rows
            times = np.concatenate([np.zeros(rows, np.int64) if batch.time_us is None else batch.time_us, times])
            here = np.full(rows, MIN_US) if batch.before_us is None else batch.before_us
            befores = np.concatenate([here, befores])
        row = np.where(of_events, at, rows - 1 - at)
        late = bool((befores > MIN_US).any())
        return Batch(
            columns,
            times[row] if self._timed else None,
            befores[row] if late else None,
            self._positions(batch)[row] if self._with_position else None,
        )

    def _positions(self, batch: Batch | None) -> IntArray:
        """The places of events, and for each origin one that is the same in every run: by key, as for panes."""
        assert self.key_schema is not None
        keys = [o.record.key for o in self.origins if o.record is not None]
        parts = list(zip(*keys, strict=True)) if len(self.key_schema) > 1 else [keys]
        arrays = [pa.array(v, f.type) for v, f in zip(parts, self.key_schema, strict=True)]
        of_origins = (hash_keys(arrays) >> np.uint64(1)).view(np.int64)
        if batch is None:
            return of_origins
        assert batch.position is not None
        return np.concatenate([batch.position, of_origins])
