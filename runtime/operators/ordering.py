"""Putting rows in the order of their event time: they wait until the watermark says that no earlier one will come.

Several source partitions, and several workers before a second exchange, give rows in an order that depends
on who was faster. An operator whose answer depends on order takes its rows through `InOrder`:

    late = self.order.add(batch)            # those that are too late for their place, or None
    rows = self.order.due(watermark_us)     # by time, then position; or None

A row is late when its time is before the watermark of its own source partition just before it: rows up to
there are in order already. So neither the order nor what is late depends on how a stream was cut.

What waits is kept as in a log-structured merge tree: each batch sorted by itself, so that what falls due is
the beginning of each, and the small ones put together when there are many. A watermark never looks at rows that stay, and
a checkpoint does not write them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np

from millstream.batch import Batch, IntArray, concat
from millstream.checkpoints.tables import Part, Saved, StateTable
from millstream.operators.base import Context, Operator, Output
from millstream.operators.lateness import with_reason
from millstream.operators.row_tables import fields_in, numbered_rows
from millstream.runs import first_small, trimmed, unify_keys
from millstream.specs.base import LATE
from millstream.specs.ordering import OrderedSpec
from millstream.times import MAX_US, MIN_US

RUNS_KEPT: Final = 32
_SLICE_ROWS: Final = 65_536

_BESIDE: Final = ("time_us", "position")
_WAITING: Final = "waiting"
_GATHER_US: Final = 50_000


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """Rows that wait, sorted, of which the first leave first.

    Attributes:
        place_us: int64[n], ascending: when it is the turn of each.
        saved: where the run lies on disk, or that of which it is the end; first: where it begins in that.
        in_memory: how many rows there were when their memory was taken.
    """

    place_us: IntArray
    rows: Batch
    saved: Saved = field(default_factory=Saved, compare=False)
    first: int = 0
    in_memory: int = 0

    def __len__(self) -> int:
        return len(self.place_us)

    def split(self, until_us: int) -> tuple[WaitingRun | None, WaitingRun | None]:
        """The rows before a time, and the others; None: there are none."""
        at, count = int(np.searchsorted(self.place_us, until_us)), len(self)
        if at in (0, count):
            return (None, self) if at == 0 else (self, None)
        ready, left, place_us = self.rows.slice(0, at), self.rows.slice(at, count - at), self.place_us[at:]
        in_memory = max(self.in_memory, count)
        if 2 * (count - at) < in_memory:
            left, place_us, in_memory = compacted(left.take(np.arange(count - at))), place_us.copy(), count - at
        return (
            WaitingRun(self.place_us[:at], ready),
            WaitingRun(place_us, left, self.saved, self.first + at, in_memory),
        )


def take_before(runs: Sequence[WaitingRun], until_us: int) -> tuple[list[WaitingRun], list[WaitingRun]]:
    """The rows of runs before a time, and what is left."""
    parts = [run.split(until_us) for run in runs]
    return [ready for ready, _ in parts if ready is not None], [left for _, left in parts if left is not None]


class TooLate(NamedTuple):
    """Rows whose time is before the watermark that each is judged by."""

    rows: Batch
    watermark_us: IntArray

    def with_reason(self) -> Batch:
        """As they leave by the late output."""
        assert self.rows.time_us is not None
        return with_reason(self.rows, self.watermark_us, "its time", self.rows.time_us)


class InOrder:
    """Rows of one input of an operator, waiting for their turn. They have times and positions.

    Attributes:
        watermark_us: up to here rows have been given out.
        runs: what waits, each run by time and then position.
    """

    def __init__(self) -> None:
        self.watermark_us = MIN_US
        self.runs: list[WaitingRun] = []

    def add(self, batch: Batch) -> TooLate | None:
        """Take rows in any order; returns those that are too late for theirs, or None."""
        late_rows = None
        behind_us = self._behind(batch)
        if behind_us is not None:
            assert batch.time_us is not None
            late = batch.time_us < behind_us
            if late.any():
                late_rows = TooLate(batch.where(late), behind_us[late])
                batch = batch.where(~late)
        if batch.num_rows:
            self.runs.append(_run(in_order(replace(batch, before_us=None))))
            if len(self.runs) > RUNS_KEPT:
                small = first_small([len(run) for run in self.runs])
                merged = in_order(together([run.rows for run in self.runs[small:]]))
                self.runs[small:] = [_run(compacted(merged))]
        return late_rows

    def due(self, watermark_us: int) -> Batch | None:
        """Give out the rows with time < ``watermark_us``, by time and then position; equal ones as they came."""
        if watermark_us <= self.watermark_us:
            return None
        self.watermark_us = watermark_us
        ready, self.runs = take_before(self.runs, watermark_us)
        return in_order(together([run.rows for run in ready])) if ready else None

    def snapshot(self, name: str) -> list[StateTable]:
        """What waits, a table for each run."""
        return [_as_table(name, run) for run in self.runs]

    def restore(self, tables: Sequence[StateTable]) -> None:
        """Take what waited before. What has been given out is told by the watermarks of the rows to come."""
        for table in tables:
            if table.num_rows:
                waited = _from_table(table)
                rows = in_order(waited)
                run = _run(rows)
                self.runs.append(replace(run, saved=table.saved, first=table.first) if rows is waited else run)

    def ready(self, watermark_us: int) -> int:
        """How many rows `due` would give out."""
        return sum(int(np.searchsorted(run.place_us, watermark_us)) for run in self.runs)

    @property
    def rows(self) -> int:
        return sum(map(len, self.runs))

    @property
    def nbytes(self) -> int:
        return sum(run.rows.nbytes for run in self.runs)

    def _behind(self, batch: Batch) -> IntArray | None:
        """The watermark that each row is judged by, or None when no row is behind it.

        After idleness rows may have been given out beyond the watermark of the row's own partition; then that counts.
        """
        assert batch.time_us is not None and batch.position is not None
        if batch.before_us is not None:
            return np.maximum(batch.before_us, self.watermark_us)
        if batch.num_rows and int(batch.time_us.min()) < self.watermark_us:
            return np.full(batch.num_rows, self.watermark_us)
        return None


def _run(rows: Batch) -> WaitingRun:
    assert rows.time_us is not None
    return WaitingRun(rows.time_us, rows)


def _as_table(name: str, run: WaitingRun) -> StateTable:
    rows = run.rows
    assert rows.time_us is not None and rows.position is not None
    notes = dict(zip(_BESIDE, (rows.time_us, rows.position), strict=True))
    return StateTable(name, rows.keys, numbered_rows(notes, rows.columns), run.saved, run.first)


def _from_table(table: StateTable) -> Batch:
    time_us, position = (table.columns.column(n).to_numpy() for n in _BESIDE)
    return Batch(fields_in(table.columns), time_us, position=position, keys=table.keys)


def in_order(batch: Batch) -> Batch:
    """The rows by event time, then position; equal ones keep their order."""
    assert batch.time_us is not None and batch.position is not None
    time_us, position = batch.time_us, batch.position
    if _ascends(time_us, position):
        return batch
    # Rows mostly come in runs that are in order already, which a stable sort merges in linear time.
    order = np.argsort(time_us, kind="stable")
    if not _ascends(time_us[order], position[order]):
        order = np.lexsort((position, time_us))
    return batch.take(order)


def together(batches: Sequence[Batch]) -> Batch:
    """Batches as one, in the order given, their keys in one numbering."""
    if len(batches) == 1:
        return batches[0]
    keys = [b.keys for b in batches if b.keys is not None]
    rows = concat([replace(b, keys=None) for b in batches])
    return replace(rows, keys=unify_keys(keys)) if keys else rows


def compacted(batch: Batch) -> Batch:
    """The same rows without the keys that belong to none of them, where these are most."""
    return batch if batch.keys is None else replace(batch, keys=trimmed(batch.keys))


def _ascends(time_us: IntArray, position: IntArray) -> bool:
    later = time_us[1:] > time_us[:-1]
    return bool(later.all()) or bool((later | ((time_us[1:] == time_us[:-1]) & (position[1:] >= position[:-1]))).all())


class OrderedOperator(Operator):
    """The base of operators that take the rows of each key in order: by event time, or without one as they arrive."""

    def __init__(self, spec: OrderedSpec, context: Context) -> None:
        super().__init__(context)
        self.by_event_time = spec.by_event_time
        self.order = InOrder()
        self._watermark_us = MIN_US
        self._take_by_us: int | None = None

    def on_rows(self, rows: Batch) -> Iterator[Output]:
        """Take rows behind all that were taken before; rows of one event time come together."""
        raise NotImplementedError

    def on_time(self, watermark_us: int) -> Iterator[Output]:
        """All rows before this time have been taken; `MAX_US`: all there are."""
        return iter(())

    def worth_taking(self) -> int:
        """How many rows should be taken at once, where taking any costs a look at much that is remembered.

        Fewer wait for a moment of processing time, and the watermark behind this operator with them.
        """
        return 0

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if not self.by_event_time:
            yield from self.on_rows(batch)
            return
        late = self.order.add(batch)
        if late is not None:
            assert late.rows.time_us is not None
            self.context.too_late(late.rows, late.watermark_us, late.rows.time_us)
            yield LATE, late.with_reason()

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if watermark_us <= self._watermark_us:
            return
        self._watermark_us = watermark_us
        wanted = self.worth_taking() if self.by_event_time and watermark_us != MAX_US else 0
        if wanted and self.order.ready(watermark_us) < wanted:
            now_us = self.context.now_us()
            if self._take_by_us is None:
                self._take_by_us = now_us + _GATHER_US
            if now_us < self._take_by_us:
                return
        yield from self._take()

    def on_clock(self, now_us: int) -> Iterator[Output]:
        yield from self._take()

    def due_us(self) -> int | None:
        return self._take_by_us

    def held_back_us(self) -> int:
        return 0 if self._take_by_us is None else self._watermark_us - self.order.watermark_us

    def _take(self) -> Iterator[Output]:
        """Take all rows whose turn has come."""
        watermark_us, self._take_by_us = self._watermark_us, None
        rows = self.order.due(watermark_us) if self.by_event_time else None
        if rows is not None:
            for part in slices(rows, _SLICE_ROWS):
                yield from self.on_rows(part)
        yield from self.on_time(watermark_us)

    def snapshot(self) -> Sequence[Part]:
        return self.order.snapshot(_WAITING)

    def restore(self, tables: Sequence[StateTable]) -> None:
        self.order.restore([t for t in tables if t.name == _WAITING])

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "waiting": self.order.rows}


def slices(rows: Batch, least: int) -> Iterator[Batch]:
    """Rows in order, a slice at a time, of at least so many rows and of whole moments: equal times stay together."""
    start = 0
    while start < rows.num_rows:
        end = start + least
        if rows.time_us is not None and end < rows.num_rows:
            end = int(np.searchsorted(rows.time_us, rows.time_us[end - 1], "right"))
        end = min(end, rows.num_rows)
        yield rows.slice(start, end - start)
        start = end
