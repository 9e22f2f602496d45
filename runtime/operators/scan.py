"""scan: Python state for each key, and a function from (state, event) to (state, output).

The events of a key come in the order of their source partition; behind a keyed stage, whose rows come from
several workers, or where the user wants it, they are put in the order of event time first. A key's state is
looked up once for each batch, not for each event.

With a ttl the state of a key is forgotten so long after its last event, by the time of the events themselves
(processing time where they have none): an event that comes later finds the first state again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from itertools import compress, islice, repeat
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, IntArray, Keys, make_columns
from millstream.checkpoints.tables import Part, StateTable
from millstream.errors import SchemaError
from millstream.letter_rows import encode_row
from millstream.operators.base import SLICE_ROWS, Context, Operator, Output
from millstream.operators.line import Line, place_us
from millstream.operators.migration import Migrator
from millstream.operators.ttl import Deadlines
from millstream.queries import Question, as_text, beside
from millstream.rows import Row, columns_of, python_values, rows_of
from millstream.specs.base import MAIN
from millstream.specs.keyed import ScanSpec
from millstream.state.pieces import KeyPieces
from millstream.state_codec import StateCodec, StateError
from millstream.times import MAX_US, MIN_US

_MISSING = object()
_STATES: Final = "states"
_STATE_FIELDS: Final = ("state", "expires_us", "version")
_WAITING: Final = "waiting"

_Encoded = tuple[bytes, int | None]
"""A state, and when it expires."""


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


def widened(known: pa.Schema | None, seen: pa.Schema) -> pa.Schema:
    """Key fields of which all batches so far can be: where no schema is declared, one may have nothing but nulls."""
    if known is None or known.equals(seen):
        return seen
    return pa.unify_schemas([known, seen], promote_options="permissive")


def keys_from(values: Sequence[Any], schema: pa.Schema) -> Keys:
    """The way back from `key_values`: each key once, in this order."""
    parts: Sequence[Sequence[Any]] = [values] if len(schema) == 1 else list(zip(*values, strict=True))
    distinct = make_columns(schema.names, [pa.array(v, f.type) for v, f in zip(parts, schema, strict=True)])
    return Keys(distinct, np.arange(len(values), dtype=np.int32))


class Scan(Operator):
    restored_as_written = (_STATES,)

    def __init__(self, spec: ScanSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.function = spec.function.load()
        init = spec.init.load()
        self.init = init if callable(init) else lambda: deepcopy(init)  # keys must not share a list or a dict
        self.states: dict[Any, Any] = {}
        self.deadlines = None if spec.ttl_us is None else Deadlines(spec.ttl_us)
        self.codec = StateCodec(context.name, getattr(self.function, "__globals__", None), pickles=spec.pickle)
        self._pieces: KeyPieces[Any, _Encoded] = KeyPieces(self._encoder())
        self.migrated = Migrator(
            context.name, "state", spec.version, None if spec.migrate is None else spec.migrate.load()
        )
        self.line = Line()
        self.watermark_us = MIN_US
        self._key_schema: pa.Schema | None = None

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if self.spec.by_event_time:
            self.line.add(batch, self.watermark_us)
        else:
            yield from self._scan(batch, place_us(batch))

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        """Take what waits for its turn, as far as no earlier event is expected any more; forget what has expired."""
        self.watermark_us = watermark_us
        batch, at_us = self.line.due(watermark_us)
        if batch is not None:
            yield from self._scan(batch, at_us)
        if self.spec.timed and watermark_us != MAX_US:
            self._free(watermark_us)

    def on_clock(self, now_us: int) -> Iterator[Output]:
        self._free(now_us)
        return iter(())

    def due_us(self) -> int | None:
        if self.deadlines is None or self.spec.timed or self.watermark_us == MAX_US:
            return None
        return None if self.deadlines.next_us == MAX_US else self.deadlines.next_us

    def _scan(self, batch: Batch, at_us: IntArray | None) -> Iterator[Output]:
        assert batch.keys is not None
        self._key_schema = widened(self._key_schema, batch.keys.distinct.schema)
        used = np.unique(batch.keys.codes).tolist()
        keys = key_values(batch.keys.distinct)
        self._pieces.changing([keys[code] for code in used])
        held: list[Any] = [_MISSING] * len(keys)
        for code in used:
            state = self.states.get(keys[code], _MISSING)
            if state is _MISSING and self.deadlines is None:
                state = self.init()
            held[code] = state
        expires_us = self._expiries(keys, used)
        columns = batch.all_columns()
        outputs: list[Any] = []
        for start in range(0, batch.num_rows, SLICE_ROWS):
            rows = rows_of(columns.slice(start, SLICE_ROWS))
            codes = batch.keys.codes[start : start + SLICE_ROWS].tolist()
            events: Iterator[tuple[Row, int]] = zip(rows, codes, strict=True)
            if expires_us:
                times = self._times(at_us, start, len(rows))
                events = self._with_fresh_states(events, times, held, expires_us)
            self._step(events, held, outputs, batch)
            if start + SLICE_ROWS < batch.num_rows:
                yield None
        for code in used:
            state = self.states[keys[code]] = held[code]
            self._check(keys[code], state)
            if self.deadlines is not None:
                self.deadlines.set(keys[code], expires_us[code])
        made = [o is not None for o in outputs]
        if any(made):
            kept = outputs if all(made) else list(compress(outputs, made))
            rows_kept = batch if all(made) else batch.where(np.array(made))
            result = columns_of(kept, self.spec.schema, self.context.name)
            yield MAIN, Batch(result, rows_kept.time_us, rows_kept.before_us, rows_kept.position)

    def _step(self, events: Iterator[tuple[Row, int]], held: list[Any], outputs: list[Any], batch: Batch) -> None:
        function, append = self.function, outputs.append
        while True:
            try:
                for row, code in events:
                    held[code], output = function(held[code], row)
                    append(output)
                return
            except (Exception, SystemExit) as error:
                self._failed(row, error, batch, len(outputs))
                append(None)

    def _with_fresh_states(
        self, events: Iterator[tuple[Row, int]], times: Iterable[int], held: list[Any], expires_us: list[int]
    ) -> Iterator[tuple[Row, int]]:
        """The same events; a state that has expired by then is the first state again."""
        assert self.spec.ttl_us is not None
        ttl_us, init = self.spec.ttl_us, self.init
        for event, time_us in zip(events, times, strict=True):
            code = event[1]
            until_us = expires_us[code]
            if time_us >= until_us:
                held[code] = init()
            if time_us + ttl_us > until_us or until_us == MAX_US:
                expires_us[code] = time_us + ttl_us
            yield event

    def _failed(self, row: Row, error: BaseException, batch: Batch, at: int) -> None:
        if isinstance(error, TypeError | ValueError) and "unpack" in str(error):
            raise SchemaError(
                f"{self.context.name}: the function must return (state, output); on {row!r} it did not: {error}"
            ) from error
        self.context.give_up(self.spec.on_error, error, row, row=partial(encode_row, batch, at))

    def _check(self, key: Any, state: Any) -> None:
        if not self.spec.pickle:
            try:
                self.codec.check("state", state)
            except StateError as error:
                raise StateError(f"{error} (key {key!r})") from error

    def _expiries(self, keys: list[Any], used: list[int]) -> list[int]:
        """When the state of each key expires, a state that is not there at once; nothing where states do not expire."""
        if self.deadlines is None:
            return []
        known, result = self.deadlines.expires_us, [MIN_US] * len(keys)
        for code in used:
            # A state from before the flow had a ttl: it starts to count with the next event.
            unknown = MIN_US if keys[code] not in self.states else MAX_US
            result[code] = known.get(keys[code], unknown)
        return result

    def _times(self, at_us: IntArray | None, start: int, count: int) -> Iterable[int]:
        """Where events stand in the time that the ttl goes by."""
        if at_us is None:
            return repeat(self.context.now_us(), count)
        times: list[int] = at_us[start : start + count].tolist()
        return times

    def _free(self, now_us: int) -> None:
        if self.deadlines is not None:
            for key in self.deadlines.free(now_us):
                self._pieces.changing((key,))
                del self.states[key]

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """Each state as JSON, of values that have no such form what Python shows of them."""
        if self._key_schema is None:
            return
        wanted = question.of(self._key_schema)
        asked = islice(self.states, question.most + 1) if wanted is None else dict.fromkeys(key_values(wanted))
        keys = [k for k in asked if k in self.states]
        if keys:
            columns = keys_from(keys, self._key_schema).distinct
            yield columns.append_column(beside(columns.schema.names, "state"), as_text(self.states[k] for k in keys))

    # --- checkpoints ---

    def snapshot(self) -> list[Part]:
        waiting = self.line.snapshot(_WAITING)
        if self._key_schema is None:
            return [*waiting]
        schema = self._key_schema
        states = self._pieces.snapshot(_STATES, self.states, lambda keys: keys_from(keys, schema), self._rows_of)
        return [*waiting, *states]

    def _encoder(self) -> Callable[[Any, Any], _Encoded]:
        """What snapshots keep of the state of a key; called beside the operator."""
        codec, known = self.codec.beside(), {} if self.deadlines is None else self.deadlines.expires_us

        def encode(key: Any, state: Any) -> _Encoded:
            return self._encoded(codec, key, state), known.get(key)

        return encode

    def _rows_of(self, encoded: list[_Encoded]) -> pa.RecordBatch:
        states, expires_us = zip(*encoded, strict=True)
        version = pa.array([self.spec.version] * len(encoded), pa.int32())
        return make_columns(_STATE_FIELDS, [pa.array(states, pa.binary()), pa.array(expires_us, pa.int64()), version])

    def restore(self, tables: Sequence[StateTable]) -> None:
        for table in tables:
            assert table.keys is not None
            self._key_schema = widened(self._key_schema, table.keys.distinct.schema)
            if table.name == _WAITING:
                self.line.restore(table)
        versions = {self.spec.version}
        for keys, rows in self._pieces.restored([t for t in tables if t.name == _STATES], key_values):
            columns = (python_values(rows.column(name)) for name in _STATE_FIELDS)
            for key, state, expires_us, version in zip(keys, *columns, strict=True):
                self.states[key] = self._migrated(key, self.codec.decode(state), version)
                versions.add(version)
                if self.deadlines is not None and expires_us is not None:
                    self.deadlines.set(key, expires_us)
        if len(versions) > 1:
            self._pieces.forget()  # no later flow should meet what was brought to this version

    def _migrated(self, key: Any, state: Any, version: int) -> Any:
        migrated = self.migrated(state, version)
        if version != self.spec.version:
            self._check(key, migrated)
        return migrated

    def round_trip(self) -> None:
        """Let every state go through the codec, as a checkpoint would.

        Raises:
            StateError: one does not come back from it.
        """
        for key, state in self.states.items():
            self._check(key, state)
            self.states[key] = self.codec.decode(self._encoded(self.codec, key, state))

    def _encoded(self, codec: StateCodec, key: Any, state: Any) -> bytes:
        try:
            return codec.encode(codec.pickled(state) if self.spec.pickle else state)
        except StateError as error:
            raise StateError(f"{error} (key {key!r})") from error

    def figures(self) -> dict[str, Any]:
        expired = {} if self.deadlines is None else {"expired": self.deadlines.freed}
        return {**super().figures(), "keys": len(self.states), **expired}
