"""match: events of a key that follow one another as a pattern says.

The conditions are evaluated by columns; only events that meet one of them take a step in Python, through the
`Automaton` of their key. Events are kept as columns, by number, as long as a match under way refers to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count, islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, Batch, IntArray, Keys, concat, index_array, make_columns, struct_fields
from millstream.checkpoints.tables import Part, StateTable, in_memory
from millstream.errors import MillstreamError, SchemaError
from millstream.functions import UserFunction, user_error
from millstream.operators.automaton import Automaton, KeyState, Match, Partial, rows_of_partials
from millstream.operators.base import SLICE_ROWS, Context, Output
from millstream.operators.columnar import evaluate_all
from millstream.operators.ordering import OrderedOperator
from millstream.operators.scan import key_values, keys_from, widened
from millstream.queries import Question, beside
from millstream.rows import Row, python_values, rows_of
from millstream.specs.base import MAIN
from millstream.specs.patterns import MATCH_FIELDS, MatchSpec
from millstream.state.pieces import ChangedKeys
from millstream.times import STAMP

_MATCHES: Final = "matches"
_MATCH_COLUMNS: Final = ("step", "first_us", "last_us", "numbers", "events")
_KEPT_LEAST: Final = 1 << 14
_TOLD_AT_ONCE: Final = 1_024


class MatchPattern(OrderedOperator):
    keeps_to_groups = True

    def __init__(self, spec: MatchSpec, context: Context) -> None:
        super().__init__(spec, context)
        self.pattern = spec.pattern
        conditions = spec.pattern.conditions
        self._asked = {i: w.load() for i, (_, w) in enumerate(conditions) if isinstance(w, UserFunction)}
        self._columnar = {i: (n, w) for i, (n, w) in enumerate(conditions) if not isinstance(w, UserFunction)}
        self.automaton = Automaton(spec.pattern, spec.overlapping, frozenset(self._asked), self._ask)
        self._all_count = any(s.strict for s in spec.pattern.steps)
        self.states: dict[Any, KeyState] = {}
        self.kept = _Kept(with_rows=bool(self._asked))
        self._pieces: ChangedKeys[KeyState] = ChangedKeys()
        self._key_schema: pa.Schema | None = None
        self._due: list[tuple[int, int, Any]] = []
        self._tie = count()

    # --- input ---

    def on_rows(self, rows: Batch) -> Iterator[Output]:
        matches: list[Match] = []
        yield from self._step(rows, matches)
        yield from self._put_out(matches)

    def on_time(self, watermark_us: int) -> Iterator[Output]:
        if not self.by_event_time:
            return
        matches: list[Match] = []
        while self._due and self._due[0][0] < watermark_us:
            _, _, key = heappop(self._due)
            state = self.states.get(key)
            if state is not None:
                state.due_us = None
                matches += self.automaton.on_time(state, watermark_us)
                self._settle(key, state)
        yield from self._put_out(matches)

    def _step(self, batch: Batch, matches: list[Match]) -> Iterator[Output]:
        """Every event that meets a condition takes its step; the complete matches are added to the list."""
        batch, met = self._conditions(batch)
        candidates = np.arange(batch.num_rows) if self._all_count else np.flatnonzero(met)
        if len(candidates) == 0:
            return
        batch, met = batch.take(candidates), met[candidates]
        assert batch.keys is not None
        keys = key_values(batch.keys.distinct)
        self._key_schema = widened(self._key_schema, batch.keys.distinct.schema)
        first = self.kept.add(batch)
        times = np.zeros(batch.num_rows, np.int64) if batch.time_us is None else batch.time_us
        begins = self.automaton.steps[0].bit
        states, automaton = self.states, self.automaton
        steps = zip(batch.keys.codes.tolist(), times.tolist(), met.tolist(), strict=True)
        touched: dict[int, KeyState] = {}
        for row, (code, time_us, bits) in enumerate(steps, first):
            state = touched.get(code)
            if state is None:
                state = states.get(keys[code])
                if state is None:
                    if not bits & begins:
                        continue
                    state = states[keys[code]] = automaton.new_key()
                touched[code] = state
            matches += automaton.on_event(state, time_us, row, bits)
            if (row - first) % SLICE_ROWS == SLICE_ROWS - 1:
                yield None
        for code, state in touched.items():
            self._settle(keys[code], state)

    def _conditions(self, batch: Batch) -> tuple[Batch, IntArray]:
        """Which conditions each row meets, as bits; a row on which one cannot be evaluated is a dead letter."""
        rows = replace(batch, columns=batch.all_columns())
        masks, rows = evaluate_all(tuple(self._columnar.values()), rows, self.context)
        met = np.full(rows.num_rows, sum(1 << i for i in self._asked), np.int64)
        for place, mask in zip(self._columnar, masks, strict=True):
            if not pa.types.is_boolean(mask.type):
                name, condition = self._columnar[place]
                raise SchemaError(f"{self.context.name}: {name}: {condition} is {mask.type}, not a condition")
            holds = mask.fill_null(False) if mask.null_count else mask
            met |= holds.to_numpy(zero_copy_only=False).astype(np.int64) << place
        return rows, met

    def _settle(self, key: Any, state: KeyState) -> None:
        """Forget a key without matches under way; note when the next thing is due for any other."""
        self._pieces.changed((key,))
        if state.empty:
            del self.states[key]
            return
        due_us = self.automaton.deadline_us(state)
        if due_us is not None and (state.due_us is None or due_us < state.due_us):
            state.due_us = due_us
            heappush(self._due, (due_us, next(self._tie), key))

    # --- output ---

    def _put_out(self, matches: list[Match]) -> Iterator[Output]:
        if matches:
            yield MAIN, self._columns(matches)
        self.kept.clean(self.states)

    def _columns(self, matches: list[Match]) -> Batch:
        last = self.kept.position(np.array([m.rows[-1] for m in matches]))
        begun = self.kept.position(np.array([m.rows[0] for m in matches]))
        end_us, start_us = (np.array([getattr(m, n) for m in matches], np.int64) for n in ("end_us", "start_us"))
        order = np.lexsort((begun, last, end_us))
        matches = [matches[i] for i in order]
        rows = np.array([m.rows for m in matches])
        first = self.kept.take(rows[:, 0])
        keys = self.kept.key_names
        names = [*keys, *MATCH_FIELDS]
        arrays: list[Array] = [first.column(k) for k in keys]
        timed = self.by_event_time
        for moments in (start_us[order], end_us[order]):
            arrays.append(pa.array(moments).view(STAMP) if timed else pa.nulls(len(matches), STAMP))
        for name in self.pattern.names:
            places = [i for i, s in enumerate(self.pattern.steps) if s.name == name]
            names.append(name)
            events = self.kept.take(rows[:, places].ravel())
            column: Array = pa.StructArray.from_arrays(events.columns, fields=list(self.kept.schema))
            if name in self.pattern.repeated:
                offsets = index_array(np.arange(len(matches) + 1, dtype=np.int32) * len(places))
                column = pa.ListArray.from_arrays(offsets, column)  # type: ignore[call-overload]  # the stubs miss it
            arrays.append(column)
        return Batch(make_columns(names, arrays), end_us[order] if timed else None, position=last[order])

    # --- questions ---

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """The matches under way, as they would come out now, and what each of them waits for."""
        if self._key_schema is None:
            return
        wanted = question.of(self._key_schema)
        asked = self.states if wanted is None else dict.fromkeys(key_values(wanted))
        under_way = (
            (key, step, partial)
            for key in asked
            if key in self.states
            for step, waiting in enumerate(self.states[key].waiting)
            for partial in waiting
        )
        while some := list(islice(under_way, _TOLD_AT_ONCE)):
            yield self._under_way(some, self._key_schema)

    def _under_way(self, partials: list[tuple[Any, int, Partial]], key_schema: pa.Schema) -> pa.RecordBatch:
        keys = keys_from([key for key, _, _ in partials], key_schema)
        told: dict[str, Array] = dict(zip(key_schema.names, keys.columns(), strict=True))
        for name, us in zip(MATCH_FIELDS, ("first_us", "last_us"), strict=True):
            moments = pa.array([getattr(p, us) for _, _, p in partials], pa.int64()).view(STAMP)
            told[name] = moments if self.by_event_time else pa.nulls(len(partials), STAMP)
        nothing = "no " + " or ".join(name for name, _ in self.pattern.absent)  # behind the last step, for a while
        steps = [*(step.name for step in self.pattern.steps), nothing]
        awaited = [steps[number] for _, number, _ in partials]
        told[beside([*told, *self.pattern.names], "waits_for")] = pa.array(awaited, pa.string())
        for name in self.pattern.names:
            places = [i for i, s in enumerate(self.pattern.steps) if s.name == name]
            found = [[p.rows[i] for i in places if i < len(p.rows)] for _, _, p in partials]
            counts = np.array([len(rows) for rows in found])
            events = self.kept.take(np.array([n for rows in found for n in rows], np.int64))
            column: Array = pa.StructArray.from_arrays(events.columns, fields=list(self.kept.schema))
            if name in self.pattern.repeated:
                offsets = index_array(np.cumsum([0, *counts]).astype(np.int32))
                column = pa.ListArray.from_arrays(offsets, column)  # type: ignore[call-overload]  # the stubs miss it
            else:
                column = column.take(index_array(np.cumsum(counts) - 1, counts == 0))
            told[name] = column
        return make_columns(list(told), list(told.values()))

    # --- conditions in Python ---

    def _ask(self, condition: int, matched: tuple[int, ...], row: int) -> bool:
        event = self.kept.rows[row]
        so_far: dict[str, Any] = {}
        for step, number in zip(self.pattern.steps, matched, strict=False):
            if step.name in self.pattern.repeated:
                so_far.setdefault(step.name, []).append(self.kept.rows[number])
            else:
                so_far[step.name] = self.kept.rows[number]
        try:
            return bool(self._asked[condition](event, so_far))
        except MillstreamError:
            raise
        except (Exception, SystemExit) as error:
            raise user_error(self.context.name, event, error) from error

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "keys": len(self.states), "state_bytes": self.kept.nbytes + self.order.nbytes}

    # --- checkpoints ---

    def snapshot(self) -> Sequence[Part]:
        """Each match under way by itself, with its events: what refers to them by number means nothing elsewhere."""
        waiting = super().snapshot()
        schema = self._key_schema
        if schema is None:
            return waiting
        matches = self._pieces.snapshot_at_once(
            _MATCHES, self.states, lambda keys: keys_from(keys, schema), self._matches_of
        )
        return [*waiting, *matches]

    def _matches_of(self, keys: list[Any]) -> tuple[Keys, pa.RecordBatch]:
        assert self._key_schema is not None
        codes, steps, partials = zip(
            *(
                (code, step, partial)
                for code, key in enumerate(keys)
                for step, waiting in enumerate(self.states[key].waiting)
                for partial in waiting
            ),
            strict=True,
        )
        offsets = index_array(np.cumsum([0, *(len(p.rows) for p in partials)]).astype(np.int32))
        numbers = np.concatenate([p.rows for p in partials]).astype(np.int64)
        columns: list[Array] = [
            pa.array(steps, pa.int64()),
            pa.array([p.first_us for p in partials], pa.int64()),
            pa.array([p.last_us for p in partials], pa.int64()),
            pa.ListArray.from_arrays(offsets, pa.array(numbers)),  # type: ignore[call-overload]  # the stubs miss it
            pa.ListArray.from_arrays(offsets, self.kept.events(numbers)),  # type: ignore[call-overload]
        ]
        distinct = keys_from(keys, self._key_schema).distinct
        return Keys(distinct, np.array(codes, np.int32)), make_columns(_MATCH_COLUMNS, columns)

    def hand_over(self) -> Sequence[StateTable] | None:
        self._pieces.forget()
        return in_memory(self.snapshot())

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        for table in tables:
            if table.name == _MATCHES:
                self._restore_matches(table)

    def _restore_matches(self, table: StateTable) -> None:
        assert table.keys is not None
        self._key_schema = widened(self._key_schema, table.keys.distinct.schema)
        steps, first_us, last_us = (python_values(c) for c in table.columns.columns[:3])
        numbers: Any
        events: Any
        numbers, events = table.columns.columns[3:]
        lengths = pc.list_value_length(numbers).to_numpy(zero_copy_only=False)
        codes = np.repeat(table.keys.codes, lengths)
        # An event that several matches share was written with each of them; it is kept once again, in its old order.
        old = np.stack([codes, numbers.flatten().to_numpy(zero_copy_only=False)])
        _, first, place = np.unique(old[::-1], axis=1, return_index=True, return_inverse=True)
        base = self.kept.put_back(events.flatten().take(index_array(first)), self._key_schema.names)
        rows = iter((base + place).tolist())
        keys = key_values(table.keys.distinct)
        for code, length, step, begun_us, reached_us in zip(
            table.keys.codes.tolist(), lengths.tolist(), steps, first_us, last_us, strict=True
        ):
            state = self.states.setdefault(keys[code], self.automaton.new_key())
            state.waiting[step].append(Partial(tuple(islice(rows, length)), begun_us, reached_us))
        for code in np.unique(table.keys.codes).tolist():
            self._settle(keys[code], self.states[keys[code]])


class _Kept:
    """The events that matches under way refer to, by number, as columns.

    Attributes:
        rows: the same as rows for conditions in Python, where there are any.
    """

    def __init__(self, with_rows: bool) -> None:
        self.key_names: list[str] = []
        self.rows: dict[int, Row] = {}
        self._with_rows = with_rows
        self._parts: list[Batch] = []
        self._numbers: list[IntArray] = []
        self._next = 0
        self._count = 0
        self._clean_at = _KEPT_LEAST

    def add(self, batch: Batch) -> int:
        """Keep these events; returns the number of the first, the others follow it."""
        assert batch.keys is not None
        first, self._next = self._next, self._next + batch.num_rows
        self.key_names = batch.keys.distinct.schema.names
        if self._with_rows:
            self.rows.update(enumerate(rows_of(batch.columns), first))
        self._parts.append(replace(batch, keys=None, before_us=None))
        self._numbers.append(np.arange(first, self._next))
        self._count += batch.num_rows
        return first

    def events(self, numbers: IntArray) -> Array:
        """Events as they are written: a struct of time, position and row."""
        part = self._whole().take(np.searchsorted(self._numbers[0], numbers))
        rows = pa.StructArray.from_arrays(part.columns.columns, fields=list(part.columns.schema))
        beside = [
            pa.nulls(len(numbers), pa.int64()) if a is None else pa.array(a) for a in (part.time_us, part.position)
        ]
        return pa.StructArray.from_arrays([*beside, rows], names=["time_us", "position", "row"])

    def put_back(self, events: Array, key_names: list[str]) -> int:
        """Keep events that `events` had given, numbered in this order; returns the number of the first."""
        time_us, position, rows = struct_fields(events)
        columns = make_columns(rows.type.names, struct_fields(rows))
        first, self._next = self._next, self._next + len(events)
        self.key_names = key_names
        if self._with_rows:
            self.rows.update(enumerate(rows_of(columns), first))
        beside = [None if a.null_count else a.to_numpy() for a in (time_us, position)]
        self._parts.append(Batch(columns, beside[0], position=beside[1]))
        self._numbers.append(np.arange(first, self._next))
        self._count += len(events)
        return first

    @property
    def schema(self) -> pa.Schema:
        return self._whole().columns.schema

    def take(self, numbers: IntArray) -> pa.RecordBatch:
        whole = self._whole()
        return whole.columns.take(index_array(np.searchsorted(self._numbers[0], numbers)))

    def position(self, numbers: IntArray) -> IntArray:
        """What breaks ties between events of one time; in the order of arrival there are none."""
        position = self._whole().position
        return numbers if position is None else position[np.searchsorted(self._numbers[0], numbers)]

    def clean(self, states: dict[Any, KeyState]) -> None:
        """Let go of events that no match refers to; only when they have become many."""
        if self._count < self._clean_at:
            return
        used = np.unique(np.fromiter(rows_of_partials(states.values()), np.int64))
        whole = self._whole()
        self._parts = [whole.take(np.searchsorted(self._numbers[0], used))]
        self._numbers = [used]
        self._count = len(used)
        self._clean_at = max(_KEPT_LEAST, 2 * self._count)
        if self._with_rows:
            self.rows = {n: self.rows[n] for n in used.tolist()}

    def _whole(self) -> Batch:
        """Everything that is kept as one batch; put together only when it is looked at."""
        if len(self._parts) > 1:
            self._parts, self._numbers = [concat(self._parts)], [np.concatenate(self._numbers)]
        return self._parts[0]

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self._parts) + sum(n.nbytes for n in self._numbers)
