"""process: keyed state, timers and several outputs in the user's Python (`millstream.Process`).

**Order.** With ``order="arrival"`` events are handled as they come, in the order of each source partition, and
timers fire when the watermark reaches them: after every event that is before them in time and not late, maybe
after some that are behind them. With ``order="event_time"`` events wait for the watermark and everything happens
along one line of time: at each moment first the timers, then the control events, then the events, so that nothing
depends on how the stream was cut or who was faster. A late event stands on that line where the watermark was that
it missed: it is handled, once and at a place that its own source partition determines.

**Keys.** One object of the user's class serves all keys. The handles of the key at hand are put into it under the
names of its states, which costs one assignment a state and is skipped where the key is the same as before.

**The end.** Event-time timers that are set when the input ends are called once more, in order. Those that they
set, and processing-time timers, are dropped and counted.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import EMPTY_COLUMNS, Batch, IntArray, make_columns
from millstream.checkpoints.tables import Part, StateTable
from millstream.errors import MillstreamError
from millstream.functions import Text, user_error
from millstream.letter_rows import encode_row
from millstream.operators.base import SLICE_ROWS, Context, Operator, Output
from millstream.operators.emissions import Cause, Emissions, Outputs
from millstream.operators.line import Line, place_us
from millstream.operators.process_context import Call
from millstream.operators.process_state import KeyRecord, NoKey, ProcessState
from millstream.operators.scan import key_values, keys_from, widened
from millstream.operators.timers import Due
from millstream.processing import Process, Timer, TimerClock, declared_states
from millstream.queries import Question, as_text, beside
from millstream.rows import Row, python_values, rows_of
from millstream.specs.base import MAIN
from millstream.specs.on_error import OnError
from millstream.specs.process import CONTROL, EVENTS, ProcessSpec
from millstream.state_codec import StateCodec
from millstream.times import MAX_US, MIN_US, format_us

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FLUSH_ROWS: Final = 65_536
_CLOCKS: Final[dict[str, TimerClock]] = {"event": "event", "processing": "processing"}
_RECORDS: Final = "records"
_LINE: Final = "line"
_LINE_FIELDS: Final = ("watermark_us", "largest_us", "shared")
_WAITING: Final = "waiting"
_CONTROL: Final = "control."


class ProcessOperator(Operator):
    """Runs a `Process` for one range of key groups.

    Args:
        with_position: whether something behind this operator depends on order.
    """

    restored_as_written = (_RECORDS,)

    def __init__(self, spec: ProcessSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(context)
        self.spec = spec
        self.ordered = spec.by_event_time
        given = spec.process.load()
        # In one process several workers may share what was given: each has an object of its own.
        self.process: Process = given() if isinstance(given, type) else copy.copy(given)
        declared = declared_states(type(self.process))
        pickles = any(state.pickle for state in declared.values())
        codec = StateCodec(context.name, _namespace(type(self.process)), pickles=pickles)
        self.table = ProcessState(declared, spec.timed, codec, context.name)
        ports = {n: Emissions(spec.schema_of(n), n in context.wanted) for n in (MAIN, *spec.output_names)}
        self.outputs = Outputs(ports, context.name, spec.timed, with_position)
        self.call = Call(self, ports[MAIN])
        self.lines = (Line(), Line())
        self.watermark_us = MIN_US
        self.largest_us = MIN_US
        self.ending = False
        self.timers_fired = 0
        self.timers_dropped = 0
        self._taken = Batch(EMPTY_COLUMNS)
        self._moment = self.table.moments["event"]
        self._clock_moment = self.table.moments["processing"]
        self._attributes = vars(self.process)
        self._no_key = {name: NoKey(name) for name in self.table.names}
        self._let_go()
        self._attributes.update(self.table.readable_shared())
        try:
            self.process.open()
        except Exception as error:
            raise user_error(context.name, "open()", error) from error

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        self._clock_moment.now_us = self.context.now_us()
        if self.ordered:
            self.lines[port].add(batch, self.watermark_us)
        elif port == CONTROL:
            yield from self._control(batch)
        else:
            yield from self._events(batch, place_us(batch))
        yield from self._step_done()

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        """Let time pass: what waits in order, the timers that are due, and what expires."""
        self._clock_moment.now_us = self.context.now_us()
        if self.ordered:
            yield from self._along_the_line(watermark_us)
        self.ending = watermark_us == MAX_US
        yield from self._fire_until(watermark_us)
        self.watermark_us = watermark_us
        if not self.ending:
            self._moment.now_us = max(self._moment.now_us, watermark_us)
            self.table.free("event", watermark_us)
        yield from self._step_done()

    def on_clock(self, now_us: int) -> Iterator[Output]:
        self._clock_moment.now_us = now_us
        timers = self.table.timers["processing"]
        while (due := timers.pop(now_us)) is not None:
            self._call_timer(due, "processing", self._stand_us())
            if len(self.outputs.origins) >= SLICE_ROWS:
                yield from self.outputs.flush(None)
                yield None
        self.table.free("processing", now_us)
        yield from self._step_done()

    def due_us(self) -> int | None:
        next_us = min(self.table.timers["processing"].next_us, self.table.expiries["processing"].next_us)
        return None if next_us == MAX_US or self.ending else next_us

    def on_end(self) -> Iterator[Output]:
        timers = self.table.timers["processing"]
        self.timers_dropped += timers.count
        for record in timers.clear():
            self.table.may_be_blank(record)
        self.table.sweep()
        return iter(())

    # --- along the line of time ---

    def _along_the_line(self, watermark_us: int) -> Iterator[Output]:
        """Events and control events that no earlier one can precede any more, with the timers between them."""
        events, at_us = self.lines[EVENTS].due(watermark_us)
        control, control_us = self.lines[CONTROL].due(watermark_us)
        done = 0
        if control is not None:
            before = np.searchsorted(at_us, control_us).tolist()
            for number, row in enumerate(rows_of(control.all_columns())):
                if events is not None and before[number] > done:
                    part = slice(done, before[number])
                    yield from self._events(events.slice(done, before[number] - done), at_us[part])
                    done = before[number]
                yield from self._fire_until(int(control_us[number]))
                self._call_control(row, control, number, int(control_us[number]))
        if events is not None:
            yield from self._events(events.slice(done, events.num_rows - done), at_us[done:])

    def _fire_until(self, until_us: int) -> Iterator[Output]:
        while not self._fire(until_us):
            yield from self.outputs.flush(None)
            yield None

    def _fire(self, until_us: int) -> bool:
        """Call the event-time timers that are due, for a while; returns whether that was all of them."""
        timers = self.table.timers["event"]
        for _ in range(SLICE_ROWS):
            due = timers.pop(until_us)
            if due is None:
                return True
            self._call_timer(due, "event", due[0])
        return timers.next_us > until_us

    # --- events ---

    def _events(self, batch: Batch, at_us: IntArray | None) -> Iterator[Output]:
        """Handle the events of a batch in its order, which stand at these times."""
        keys = batch.keys
        assert keys is not None
        if batch.num_rows == 0:
            return
        yield from self.outputs.flush(None)
        self.outputs.key_schema = widened(self.outputs.key_schema, keys.distinct.schema)
        if batch.time_us is not None:
            self.largest_us = max(self.largest_us, int(batch.time_us.max()))
        values = key_values(keys.distinct)
        held: list[Any] = [None] * len(values)
        used = np.unique(keys.codes).tolist()
        self.table.pieces.changing([values[code] for code in used])
        for code in used:
            held[code] = self.table.record(values[code])
        self.call.of_batch(batch.time_us)
        columns = batch.all_columns()
        self._taken = batch
        for start in range(0, batch.num_rows, SLICE_ROWS):
            part = slice(start, start + SLICE_ROWS)
            rows = rows_of(columns.slice(start, SLICE_ROWS))
            codes = keys.codes[part].tolist()
            times = [MIN_US] * len(rows) if at_us is None else at_us[part].tolist()
            done = 0
            while (done := self._slice(rows, codes, times, held, start, done)) < len(rows):
                yield from self.outputs.flush(batch)
                yield None
            if start + SLICE_ROWS < batch.num_rows:
                self.outputs.convert()
                if self.outputs.size >= _FLUSH_ROWS:
                    yield from self.outputs.flush(batch)
                yield None
        yield from self.outputs.flush(batch)
        self.call.of_batch(None)
        self.table.check([held[code] for code in used])

    def _slice(
        self, rows: list[Row], codes: list[int], times: list[int], held: list[Any], start: int, done: int
    ) -> int:
        """Handle a slice's events from number ``done`` on; returns how many are done when it stops for a while."""
        call, moment, clock_moment, timers = self.call, self._moment, self._clock_moment, self.table.timers["event"]
        on_event, attributes, names, ordered = self.process.on_event, self._attributes, self.table.names, self.ordered
        while done < len(rows):
            events = zip(range(start + done, start + len(rows)), islice(rows, done, None), islice(codes, done, None),
                         islice(times, done, None), strict=True)  # fmt: skip
            try:
                for at, row, code, time_us in events:
                    if ordered and time_us >= timers.next_us and not self._fire(time_us):
                        return at - start
                    call.at = at
                    moment.now_us = time_us
                    record = held[code]
                    if record is not moment.record:
                        moment.record = clock_moment.record = record
                        for name, handle in zip(names, record.handles, strict=True):
                            attributes[name] = handle
                    on_event(row, call)
                return len(rows)
            except MillstreamError:
                raise
            except (Exception, SystemExit) as error:
                done = at - start
                self._failed(row, "on_event", error, partial(encode_row, self._taken, at))
                done += 1
        return done

    # --- timers and control events ---

    def _call_timer(self, due: Due, clock: TimerClock, time_us: int) -> None:
        _, timer_us, name, _, record = due
        self.timers_fired += 1
        if record.timers is None:
            self.table.may_be_blank(record)
        self._moment.now_us = time_us
        self._take_up(record)
        timer = Timer(_EPOCH + timedelta(microseconds=timer_us), name, clock)
        self.call.in_timer = True
        at = self.call.at = self.outputs.begin(Cause(record, time_us, MIN_US))
        try:
            self.process.on_timer(timer, self.call)
        except MillstreamError:
            raise
        except (Exception, SystemExit) as error:
            what = f"timer {name!r}" if name else "timer"
            self._failed(Text(f"{what} at {format_us(timer_us)}"), "on_timer", error)
        self._emitted(at)
        self.call.in_timer = False

    def _control(self, batch: Batch) -> Iterator[Output]:
        times = place_us(batch)
        for number, row in enumerate(rows_of(batch.all_columns())):
            self._call_control(row, batch, number, self._stand_us() if times is None else int(times[number]))
            if number % SLICE_ROWS == SLICE_ROWS - 1:
                yield from self.outputs.flush(None)
                yield None

    def _call_control(self, row: Row, batch: Batch, number: int, time_us: int) -> None:
        self._let_go()
        self._moment.now_us = time_us
        own_us = time_us if batch.time_us is None else int(batch.time_us[number])
        before_us = MIN_US if batch.before_us is None else int(batch.before_us[number])
        self.call.at, self.call.control = None, Cause(None, own_us, before_us)
        self._attributes.update(self.table.shared)
        try:
            self.process.on_control(row, self.call)
        except MillstreamError:
            raise
        except (Exception, SystemExit) as error:
            self._failed(row, "on_control", error)
        self.call.control = None
        self._let_go()
        self._attributes.update(self.table.readable_shared())
        self.table.check_shared()

    def for_each_key(self, function: Callable[[Any], None], origin: Cause) -> None:
        """Call a function for every key that has something, each in its turn being the key at hand."""
        for record in list(self.table.records.values()):
            if not self.table.is_blank(record):
                self.table.changing(record)
                self.table.may_be_blank(record)
                self._take_up(record)
                at = self.call.at = self.outputs.begin(origin._replace(record=record))
                function(record.key)
                self._emitted(at)
                self.table.check((record,))
        self._let_go()

    # --- between calls ---

    def _take_up(self, record: KeyRecord) -> None:
        self._moment.record = self._clock_moment.record = record
        self._attributes.update(zip(self.table.names, record.handles, strict=True))

    def _let_go(self) -> None:
        self._moment.record = self._clock_moment.record = None
        self._attributes.update(self._no_key)

    def _emitted(self, at: int) -> None:
        self.call.at = None
        self.outputs.end(at)

    def _failed(self, what: object, method: str, error: BaseException, row: Callable[[], bytes] = bytes) -> None:
        """The user's method raised: end the run, or go on without what it put out for this event.

        Args:
            row: makes the `DeadLetter.row`.
        """
        record = self._moment.record
        if self.call.at is not None:
            self.outputs.take_back(self.call.at)
        text = Text(repr(what) if record is None else f"key {record.key!r}, {what!r}")
        if self.spec.on_error.then is OnError.FAIL:
            raise user_error(f"{self.context.name}.{method}", text, error) from error
        self.context.give_up(self.spec.on_error, error, text, method, row)

    def _stand_us(self) -> int:
        """Where event time stands for what happens by the clock: as far as anything is known to have come."""
        return max(self.largest_us, MIN_US if self.watermark_us == MAX_US else self.watermark_us)

    def _step_done(self) -> Iterator[Output]:
        yield from self.outputs.flush(None)
        self._let_go()
        self.table.sweep()

    # --- checkpoints and tests ---

    def round_trip(self) -> None:
        """Let everything that is kept go through the codec, as a checkpoint would.

        Raises:
            StateError: something does not come back from it.
        """
        for key, record in list(self.table.records.items()):
            self.table.check_all(record)
            self.table.restore(key, self.table.encode(record))
        self.table.restore_shared(self.table.encode_shared())
        self._attributes.update(self.table.readable_shared())

    def timers_of(self, key: Any) -> list[Timer]:
        """The timers that are set for a key."""
        record = self.table.records.get(key)
        timers = () if record is None or record.timers is None else tuple(record.timers)
        return [Timer(_EPOCH + timedelta(microseconds=t), name, _CLOCKS[clock]) for clock, t, name in timers]

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """Each state of a key as JSON, and its timers."""
        records, schema = self.table.records, self.outputs.key_schema
        if schema is None:
            return
        wanted = question.of(schema)
        asked = islice(records, question.most + 1) if wanted is None else dict.fromkeys(key_values(wanted))
        keys = [k for k in asked if k in records]
        if keys:
            columns = keys_from(keys, schema).distinct
            views = [self.table.view(k) or {} for k in keys]
            for name in self.table.names:
                named = beside(columns.schema.names, name)
                columns = columns.append_column(named, as_text(view[name] for view in views))
            timers = ([[t.time.isoformat(), t.name, t.clock] for t in self.timers_of(k)] for k in keys)
            yield columns.append_column(beside(columns.schema.names, "timers"), as_text(timers))

    def snapshot(self) -> list[Part]:
        tables: list[Part] = [
            *self.lines[EVENTS].snapshot(_WAITING),
            *self.lines[CONTROL].snapshot(f"{_CONTROL}{self.context.worker}"),
        ]
        schema = self.outputs.key_schema
        if schema is not None:
            tables += self.table.pieces.snapshot(
                _RECORDS,
                self.table.records,
                lambda keys: keys_from(keys, schema),
                lambda encoded: make_columns(["record"], [pa.array(encoded, pa.binary())]),
            )
        here = [self.watermark_us, self.largest_us, self.table.encode_shared()]
        tables.append(StateTable(_LINE, None, make_columns(_LINE_FIELDS, [pa.array([v]) for v in here])))
        return tables

    def restore(self, tables: Sequence[StateTable]) -> None:
        # Every former worker had the same control events and shared state: those of one of them are enough.
        lines = [t.columns.to_pylist()[0] for t in tables if t.name == _LINE]
        if lines:
            self.watermark_us = min(line["watermark_us"] for line in lines)
            self.largest_us = max(line["largest_us"] for line in lines)
            self.table.restore_shared(lines[0]["shared"])
        self._attributes.update(self.table.readable_shared())
        for table in tables:
            if table.keys is not None:
                self.outputs.key_schema = widened(self.outputs.key_schema, table.keys.distinct.schema)
            if table.name == _WAITING:
                self.lines[EVENTS].restore(table)
        for keys, rows in self.table.pieces.restored([t for t in tables if t.name == _RECORDS], key_values):
            for key, record in zip(keys, python_values(rows.column(0)), strict=True):
                self.table.restore(key, record)
        if self.table.restored_others:
            self.table.pieces.forget()  # no later flow should meet what was brought to what this one declares
        control = [t for t in tables if t.name.startswith(_CONTROL)]
        for table in control:
            if table.name == min(t.name for t in control):
                self.lines[CONTROL].restore(table)

    def figures(self) -> dict[str, Any]:
        waiting = sum(line.rows for line in self.lines)
        more = {"timers_fired": self.timers_fired, "timers_dropped": self.timers_dropped, "waiting": waiting}
        return {**super().figures(), **self.table.figures(), **{n: f for n, f in more.items() if f}}


def _namespace(kind: type[Process]) -> Mapping[str, Any]:
    """The names that the user's methods see, where the codec finds the classes of state that it reads."""
    module = sys.modules.get(kind.__module__)
    return {**(vars(module) if module is not None else {}), **getattr(kind.on_event, "__globals__", {})}
