"""What all joins of two streams do with their rows on the way in and out, and with their state in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, BoolArray, IntArray, Keys, SignArray, make_columns
from millstream.checkpoints.tables import Part, StateTable
from millstream.errors import unknown_field
from millstream.operators.base import Context, Operator
from millstream.operators.base import Output as Produced
from millstream.operators.joins.held import ROWS_AT_ONCE, HeldRows, asked_keys, rows_of_keys
from millstream.operators.joins.increments import StreamIncrements
from millstream.operators.joins.key_index import NO_KEY, KeyIndex
from millstream.operators.joins.output import Beside, Output, Picked, mixed
from millstream.operators.joins.rows import RowNumbers, SideRows, keyed_on, rows_of
from millstream.operators.joins.sides import Side
from millstream.operators.joins.sorted_rows import PAIRS_AT_ONCE
from millstream.operators.joins.tables import (
    compared_keys,
    few_columns,
    key_columns,
    of_one_worker,
    rows_in,
    state_columns,
    stream_keys,
)
from millstream.operators.lateness import with_reason
from millstream.queries import Question
from millstream.specs.base import MAIN
from millstream.specs.joins import (
    LATE_LEFT,
    LATE_RIGHT,
    FieldOrigin,
    JoinKind,
    JoinSpec,
    check_key_types,
    joined_fields,
)
from millstream.times import MIN_US

_CLOCK: Final = "clock"
_FIELDS: Final = "fields"
_SIDES: Final = ("left", "right")
_SPARE_KEYS: Final = 1_024


class JoinOperator(Operator):
    """The base of joins of two streams: input 0 is the left side, 1 the right.

    Args:
        with_position: whether something behind this operator depends on order.
    """

    def __init__(self, spec: JoinSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(context)
        self.how: JoinKind = spec.how
        self.with_position = with_position
        self.watermark_us = MIN_US
        self.index = KeyIndex(context.name)
        self.sides: tuple[Side, Side]
        self._spec = spec
        self._on = tuple([pair[side] for pair in spec.on] for side in (0, 1))
        self._names: list[list[str] | None] = [None, None]
        self._key_schemas: list[pa.Schema | None] = [None, None]
        self._payload: list[list[str]] = [[], []]
        self._stream_key: list[str] = []  # of the left side, where that is not what is compared
        self._output: Output | None = None
        if spec.fields is not None:
            self._use(spec)

    # --- fields ---

    def _use(self, spec: JoinSpec) -> None:
        assert spec.fields is not None
        for side, origin in enumerate((FieldOrigin.LEFT, FieldOrigin.RIGHT)):
            self._payload[side] = [f.source for f in spec.fields if f.origin is origin]
        self._output = Output(spec.fields, self._on[0], self.index)

    def _discover(self, batch: Batch, port: int) -> None:
        """Take the fields of a side from its first batch, where they were not known before."""
        if self._spec.fields is None and self._names[port] is None:
            self._learn(port, batch.all_columns().schema.names)
            assert batch.keys is not None
            self._check_keys(port, batch.keys.distinct.schema)

    def _check_keys(self, port: int, keys: pa.Schema) -> None:
        """Where the types of both sides' keys have been shown by now, they must be one."""
        self._key_schemas[port] = keys
        left, right = self._key_schemas
        if left is not None and right is not None:
            for a, b in zip(left, right, strict=True):
                if not pa.types.is_null(a.type) and not pa.types.is_null(b.type):
                    check_key_types(self.context.name, a.name, a.type, b.name, b.type)

    def _learn(self, port: int, names: list[str]) -> None:
        self._names[port] = names
        self._payload[port] = [n for n in names if n not in self._on[port]]
        left, right = self._names
        if left is not None and (right is not None or not self.how.pairs):
            spec, on = self._spec, self._spec.on
            front = spec._front()
            fields = joined_fields(self.context.name, left, right or [], on, self.how, spec.suffix, front)
            self._output = Output(fields, self._on[0], self.index)

    @property
    def output(self) -> Output:
        assert self._output is not None, "a result, though one of the sides has shown no row yet"
        return self._output

    # --- rows on their way in ---

    def _keyed(self, batch: Batch, port: int) -> Batch:
        """The batch with the key that is compared."""
        if not self._spec.timed:
            batch = replace(batch, time_us=None, before_us=None)
        if self._spec.broadcast is not None and port == 0:
            assert batch.keys is not None
            self._travel_by(batch.keys.distinct.schema.names)
        batch = keyed_on(batch, self._on[port] if self._spec.broadcast is not None else None, self.context.name)
        self._discover(batch, port)
        return batch

    def _travel_by(self, stream_key: list[str]) -> None:
        """The key of the left side's stream, where that is not what is compared."""
        if stream_key != self._stream_key:
            self._stream_key, kept = stream_key, self.sides[0].kept
            kept.increments = StreamIncrements(lambda rows: stream_keys(kept, stream_key, rows))

    def _rows(self, batch: Batch, port: int) -> SideRows:
        names = self._payload[port]
        if port == 0 and self._stream_key:
            names = list(dict.fromkeys([*names, *self._stream_key]))  # kept rows travel by it
        for name in names:
            if name not in batch.columns.schema.names:
                raise unknown_field(name, batch.columns.schema.names, self.context.name)
        return rows_of(batch, names, self.index)

    def _behind(self, batch: Batch) -> IntArray | None:
        """The watermark that each row is judged by, or None when no row is behind it.

        After idleness this operator may be ahead of the row's own partition; then its own watermark counts.
        """
        assert batch.time_us is not None
        if batch.before_us is not None:
            return np.maximum(batch.before_us, self.watermark_us)
        if batch.num_rows and int(batch.time_us.min()) < self.watermark_us:
            return np.full(batch.num_rows, self.watermark_us)
        return None

    def _late(
        self, batch: Batch, port: int, behind_us: IntArray, passed: str, limit_us: IntArray
    ) -> Iterator[Produced]:
        """Rows that came too late to be joined: alone, where their side is kept, else to the late output."""
        if port == 1 and self._spec.broadcast is not None and self.context.worker:
            return  # every worker has the row, and one says so
        self.context.too_late(batch, behind_us, limit_us)
        if self.how.keeps(port):
            yield from self._alone(replace(batch, before_us=behind_us), port)
        else:
            yield (
                (LATE_RIGHT if port else LATE_LEFT),
                with_reason(self._whole(batch, port), behind_us, passed, limit_us),
            )

    def _whole(self, batch: Batch, port: int) -> Batch:
        """A row as it came: the key that was made for the comparison is a field of it already."""
        return replace(batch, keys=None) if self._spec.broadcast is not None else batch

    # --- results ---

    def _alone(self, batch: Batch, port: int) -> Iterator[Produced]:
        """Rows of a keyed batch without a match."""
        if batch.num_rows == 0:
            return
        assert batch.keys is not None
        keys: list[Array] = batch.keys.columns()
        yield self._padded(keys, Picked(batch.columns, np.arange(batch.num_rows)), port, batch)

    def _kept_alone(self, side: int, rows: RowNumbers, sign: SignArray | None = None) -> Iterator[Produced]:
        """Rows that are kept, without a match."""
        kept = self.sides[side].kept
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            part = rows[start : start + PAIRS_AT_ONCE]
            beside = Beside(
                kept.time_us.values[part] if self._spec.timed else None,
                kept.before_us.take(part),
                kept.position.take(part),
                None if sign is None else sign[start : start + PAIRS_AT_ONCE],
            )
            keys = self.output.keys(kept.key.values[part])
            yield self._padded(keys, Picked(kept.columns, part), side, beside)

    def _padded(self, keys: Sequence[Array], rows: Picked, side: int, beside: Beside | Batch) -> tuple[str, Batch]:
        """Rows of one side; fields of the other, if there are any, are null."""
        position = beside.position if self.with_position else None
        if position is not None and self.how.pairs:
            nothing = np.zeros(len(position), np.int64)
            position = mixed(position, nothing) if side == 0 else mixed(nothing, position)
        left, right = (rows, None) if side == 0 else (None, rows)
        beside = Beside(beside.time_us, beside.before_us, position, beside.sign)
        return MAIN, self.output.batch(keys, left, right, beside)

    def _without_key(self, batch: Batch, rows: SideRows, port: int) -> tuple[SideRows, Batch | None]:
        """The rows that can match something; and those whose key is null, if they come out alone."""
        keyless = rows.key == NO_KEY
        if not keyless.any():
            return rows, None
        alone = batch.where(keyless) if self.how.keeps(port) else None
        return rows.where(~keyless), alone

    # --- questions ---

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """The rows of both sides that may still be matched."""
        if not len(self.index):
            return
        keys = asked_keys(question, self.index, self._on[0])
        for port in (0, 1):
            if port and self._spec.broadcast is not None and self.context.worker:
                return  # every worker has these rows, and one says so
            for rows in self._held(port, keys):
                for start in range(0, len(rows), ROWS_AT_ONCE):
                    yield from self._told(port, rows[start : start + ROWS_AT_ONCE], question)

    def _held(self, port: int, keys: IntArray | None) -> Iterator[RowNumbers]:
        """The rows of a side that may still be matched, of some keys or of all (None)."""
        kept, limit_us = self.sides[port].kept, self._limit_us(port)
        for rows in rows_of_keys(self.sides[port], keys):
            yield rows[~kept.gone.values[rows] & (kept.time_us.values[rows] >= limit_us)]

    def _told(self, port: int, rows: RowNumbers, question: Question) -> Iterator[pa.RecordBatch]:
        """Rows that are kept, as an answer."""
        kept = self.sides[port].kept
        time_us = kept.time_us.values[rows] if self._spec.timed else None
        keys = self.index.columns(kept.key.values[rows])
        yield self.held_rows.columns(port, keys, Picked(kept.columns, rows), time_us)

    @property
    def held_rows(self) -> HeldRows:
        """How rows are told."""
        return HeldRows(self._on[0], None if self._output is None else self._output.fields, self._payload)

    # --- state ---

    def _forget_keys(self) -> None:
        """Free the memory of keys that no row has any more."""
        rows = sum(map(len, self.sides))
        if len(self.index) <= 2 * rows + _SPARE_KEYS:
            return
        live = np.unique(np.concatenate([s.kept.key.values for s in self.sides]))
        numbers = np.full(len(self.index), NO_KEY, np.int64)
        numbers[live] = np.arange(len(live))
        gone = np.flatnonzero(numbers == NO_KEY)
        for side in self.sides:
            side.kept.increments.keep_keys(live, gone, self._key_fields)
        self.index.keep(live)
        for side in self.sides:
            side.kept.key.values[:] = numbers[side.kept.key.values]
            side.renumber(np.arange(len(side)), numbers)

    def _key_fields(self, numbers: IntArray) -> pa.RecordBatch:
        """The keys of these numbers, as they are in tables of state."""
        return make_columns(self._on[0], self.index.columns(numbers))

    def _limit_us(self, port: int) -> int:
        """Rows of a side with an earlier time can meet nothing any more."""
        return MIN_US

    def _past(self, port: int) -> BoolArray | None:
        """The rows of a side that are kept though no match can come any more; None: there are none."""
        limit_us = self._limit_us(port)
        if limit_us == MIN_US:
            return None
        past: BoolArray = self.sides[port].kept.time_us.values < limit_us
        return past

    def _take_up(self, port: int, rows: SideRows, state: pa.RecordBatch) -> None:
        """Keep rows again that were kept before; ``state`` has the columns that `Side.notes` gave for them."""
        raise NotImplementedError

    def snapshot(self) -> list[Part]:
        return [*self._known_tables(), *(t for port in (0, 1) for t in self._side_tables(port))]

    def _known_tables(self) -> list[StateTable]:
        """How far the operator has come, and what it knows of the fields of its sides."""
        tables = [StateTable(_CLOCK, None, make_columns([_CLOCK], [pa.array([self.watermark_us])]))]
        for port, names in enumerate(self._names):
            if names is not None:
                tables.append(StateTable(f"{_SIDES[port]}{_FIELDS}", None, make_columns([_FIELDS], [pa.array(names)])))
        return tables

    def _side_tables(self, port: int) -> list[Part]:
        side = self.sides[port]
        kept, past = side.kept, self._past(port)
        done: BoolArray = kept.gone.values if past is None else kept.gone.values | past
        if self._spec.broadcast is not None:
            return list(self._right_tables(done)) if port else self._left_tables(done)
        key, keys, increments = kept.key.values, len(self.index), kept.increments
        assert not isinstance(increments, StreamIncrements)

        def tables_of(rows: BoolArray) -> Iterator[tuple[Keys, pa.RecordBatch]]:
            for start, stop in kept.columns.pieces():
                count = np.count_nonzero(rows[start:stop])
                if 2 * count > stop - start:
                    yield self._table(key[start:stop], state_columns(kept, ~rows, side.notes(), start, stop))
                elif count:
                    asked = start + np.flatnonzero(rows[start:stop])
                    yield self._table(key[asked], few_columns(kept, asked, side.notes()))

        return increments.snapshot(_SIDES[port], key, keys, done, side.notes(), self._key_fields, tables_of)

    def _table(self, key: IntArray, columns: dict[str, Array]) -> tuple[Keys, pa.RecordBatch]:
        keys = compared_keys(key, self.index, self._on[0])
        return keys, make_columns(list(columns), list(columns.values()))

    def _left_tables(self, done: BoolArray) -> list[Part]:
        """The rows of a left side that travel by the key of their stream."""
        side = self.sides[0]
        kept, increments = side.kept, side.kept.increments
        if not isinstance(increments, StreamIncrements) or not kept.columns.names:
            return []  # no row has been kept yet

        def rows_of(rows: IntArray) -> pa.RecordBatch:
            columns = few_columns(kept, rows, side.notes())
            columns |= key_columns(self._compared(kept.key.values[rows]))
            return make_columns(list(columns), list(columns.values()))

        return increments.snapshot(_SIDES[0], done, side.notes(), rows_of)

    def _compared(self, key: IntArray) -> Keys:
        """The keys that are compared, of some rows, and no others."""
        numbers, codes = np.unique(key, return_inverse=True)
        return Keys(self._key_fields(numbers), codes.astype(np.int32))

    def _right_tables(self, done: BoolArray) -> Iterator[StateTable]:
        """All rows of a right side that is with every worker, whole each time: it is small, or would not be."""
        side, name = self.sides[1], f"{_SIDES[1]}.{self.context.worker}"
        for start, stop in side.kept.columns.pieces():
            columns = state_columns(side.kept, done, side.notes(), start, stop)
            columns |= key_columns(self._compared(side.kept.key.values[start:stop]))
            yield StateTable(name, None, make_columns(list(columns), list(columns.values())))

    def restore(self, tables: Sequence[StateTable]) -> None:
        clocks = [int(t.columns.column(0)[0].as_py()) for t in tables if t.name == _CLOCK]
        self.watermark_us = min(clocks, default=MIN_US)
        for port, name in enumerate(_SIDES):
            for known in of_one_worker(t for t in tables if t.name == f"{name}{_FIELDS}"):
                self._learn(port, [str(n) for n in known.columns.column(0)])
            kept = [t for t in tables if t.name == name]
            if self._spec.broadcast is not None and port:
                kept = of_one_worker(t for t in tables if t.name.startswith(f"{name}."))
            for table in kept:
                rows, state = rows_in(table, self.index)
                if self._spec.broadcast is not None and table.keys is not None:
                    self._travel_by(table.keys.distinct.schema.names)
                if len(rows):
                    self._take_up(port, rows, state)

    def figures(self) -> dict[str, Any]:
        left, right = self.sides
        return {
            **super().figures(),
            "left_rows": len(left),
            "right_rows": len(right),
            "keys": len(self.index),
            "state_bytes": left.nbytes + right.nbytes + self.index.nbytes,
        }
