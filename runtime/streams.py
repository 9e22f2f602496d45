"""Streams: what a user does with events before they are keyed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import pyarrow as pa

from millstream import connectors
from millstream.connectors.base import Sink
from millstream.errors import FlowError
from millstream.expr import Expr, field_expr, to_expr
from millstream.functions import UserFunction
from millstream.lookups import On, lookup_spec
from millstream.plan import Node, Port
from millstream.rows import declared_schema
from millstream.specs.asynchronous import MapAsyncSpec
from millstream.specs.base import Named, Spec
from millstream.specs.columns import (
    DropSpec,
    ExplodeSpec,
    FilterSpec,
    RenameSpec,
    SelectSpec,
    UnionSpec,
    WithColumnsSpec,
)
from millstream.specs.ends import EventTimeSpec, SinkSpec
from millstream.specs.functions import HandlersSpec, MapBatchesSpec, RowFunctionSpec, Shape
from millstream.specs.keyed import KeyBySpec
from millstream.specs.on_error import FAIL, ErrorPolicy, Errors, policy_of
from millstream.times import MAX_US, Duration, duration_us
from millstream.where import caller

if TYPE_CHECKING:
    from millstream.flow import Flow
    from millstream.keyed import KeyedStream

PathLike = str | Path

BY_KEY: Final = frozenset(
    ("window", "agg", "top_n", "dedupe", "join", "join_as_of", "join_broadcast", "match", "with_previous", "process",
     "scan")
)  # fmt: skip
"""What only keyed streams can do."""


class Stream:
    """Events on their way; every method returns a new stream.

    What takes a function of yours takes ``on_error=``: what happens when it raises. "fail" ends the run, "dead_letter" keeps the event
    there and goes on, "skip" counts it and goes on, `millstream.retry` tries again before; left out, it is as the flow says.
    """

    def __init__(self, flow: Flow, port: Port) -> None:
        self.flow = flow
        self.port = port

    if not TYPE_CHECKING:  # a type checker has to go on finding what is not there

        def __getattr__(self, name: str) -> NoReturn:
            if name in BY_KEY:
                raise FlowError(f"{caller()} {name}: works by key; say which with .key_by(...) in front of it")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _then(self, kind: str, spec: Spec, name: str | None = None) -> Stream:
        return Stream(self.flow, self.flow.add(kind, spec, [self.port], name))

    # --- columns ---

    def filter(self, predicate: Expr | Callable[[Any], bool], *, on_error: Errors | None = None) -> Stream:
        """Keep the events for which an expression (or a function of the row) is true; null counts as false."""
        if isinstance(predicate, Expr):
            return self._then("filter", FilterSpec(predicate))
        return self._row_function("filter", predicate, Shape.FILTER, None, on_error)

    def select(self, *columns: str | Expr, **named: Any) -> Stream:
        """Only these fields: names, expressions, or ``name=expression``."""
        return self._then("select", SelectSpec(_columns("select", columns, named)))

    def with_columns(self, *columns: Expr, **named: Any) -> Stream:
        """Add fields, or replace those of the same name."""
        return self._then("with_columns", WithColumnsSpec(_columns("with_columns", columns, named)))

    def drop(self, *names: str) -> Stream:
        """All fields but these."""
        return self._then("drop", DropSpec(names))

    def rename(self, names: Mapping[str, str]) -> Stream:
        """Fields under other names: ``{"old": "new"}``."""
        return self._then("rename", RenameSpec(tuple(names.items())))

    def explode(self, column: str) -> Stream:
        """One event for each element of a list field; an empty or null list gives none."""
        return self._then("explode", ExplodeSpec(column))

    # --- the user's functions ---

    def map(self, function: Callable[[Any], Any], *, schema: Any = None, on_error: Errors | None = None) -> Stream:
        """One event for each event: the function gets a row; it returns a dict, a dataclass, a named tuple or a row."""
        return self._row_function("map", function, Shape.MAP, schema, on_error)

    def flat_map(
        self, function: Callable[[Any], Iterable[Any]], *, schema: Any = None, on_error: Errors | None = None
    ) -> Stream:
        """Any number of events for each event."""
        return self._row_function("flat_map", function, Shape.FLAT_MAP, schema, on_error)

    def map_batches(
        self, function: Callable[[pa.RecordBatch], pa.RecordBatch], *, on_error: Errors | None = None
    ) -> Stream:
        """A function over Arrow columns: a record batch in, a record batch with as many rows out."""
        return self._then("map_batches", MapBatchesSpec(self.flow.policy(on_error), UserFunction(function)))

    def map_async(
        self,
        function: Callable[[Any], Any],
        *,
        capacity: int = 100,
        timeout: Duration = "10s",
        retries: int = 0,
        ordered: bool = True,
        schema: Any = None,
        on_error: Errors | None = None,
        name: str | None = None,
    ) -> Stream:
        """One event for each event, by calls to a database or service, many of them under way at once.

        Event time, if the flow has one, is assigned before. Behind it rows come from all workers: what depends
        on order restores it by event time, as behind an operator with state.

        Args:
            function: a coroutine function of the row (it is awaited), or a plain one (it runs in a thread). It
                returns what ``map`` takes, or None for no event.
            capacity: how many calls may be under way at once, in each worker.
            timeout: how long one call may take; each attempt has it anew.
            retries: how often a call that raised or took too long is made again, after 0.1 s and then
                twice as long each time, up to 10 s; ``on_error=ms.retry(...)`` says it with other pauses.
            ordered: results leave in the order of their events; False: as they come, though never behind
                the watermark of their event.
            on_error: "fail" ends the run when the last attempt failed; "dead_letter" keeps the event there; "skip" counts it.
        """
        where = f"{caller()} map_async"
        if not callable(function):
            raise FlowError(f"{where}: expected a function, found {function!r}")
        if capacity < 1 or retries < 0:
            raise FlowError(f"{where}: capacity={capacity}, retries={retries}: at least 1 and at least 0 are possible")
        timeout_us = duration_us(timeout, where)
        if timeout_us <= 0:
            raise FlowError(f"{where}: a timeout of {timeout!r} leaves no time for an answer")
        policy = self.flow.policy(on_error)
        if retries:
            policy = replace(policy, retries=retries)
        spec = MapAsyncSpec(UserFunction(function), capacity, timeout_us, ordered, declared_schema(schema), policy)
        return self._then("map_async", spec, name)

    def on(
        self, kind: str, handler: Callable[[Any], Any], *, field: str = "type", on_error: Errors | None = None
    ) -> HandledStream:
        """Subscribe a handler to the events whose ``field`` is ``kind``.

        Further ``.on(...)`` on the result add handlers to the same operator: those of one kind run in the
        order of subscription. What handlers return (a row, a list of rows, or None) goes on; events of
        a kind that nobody subscribed to are counted as unmatched.
        """
        return HandledStream(self, ((kind, UserFunction(handler)),), field, self.flow.policy(on_error))

    def _row_function(self, kind: str, function: Any, shape: Shape, schema: Any, on_error: Errors | None) -> Stream:
        if not callable(function):
            raise FlowError(f"{caller()} {kind}: expected a function or an expression, found {function!r}")
        policy = self.flow.policy(on_error)
        return self._then(kind, RowFunctionSpec(policy, UserFunction(function), shape, declared_schema(schema)))

    # --- time and keys ---

    def event_time(
        self,
        time: str | Expr,
        *,
        unit: Literal["s", "ms", "us"] | None = None,
        out_of_orderness: Duration = "0s",
        idle: Duration | None = None,
        quiet: Duration | None = None,
        max_ahead: Duration | None = "1d",
    ) -> Stream:
        """Say when events happened; windows and timers behind this follow that time.

        Args:
            time: a timestamp, ISO 8601 text, or a number since the epoch in ``unit``.
            out_of_orderness: how far behind the largest time seen an event may come without being late.
            idle: after so long without an event a source partition stops holding the others back.
            quiet: after so long without an event the watermark follows the wall clock, so that windows
                close although nothing comes. For live sources; None for replays.
            max_ahead: an event further ahead (of the wall clock for a live source, of the largest time
                seen for a replay) goes to the dead letters and moves nothing; None: any is accepted.
        """
        where = f"{caller()} event_time"
        spec = EventTimeSpec(
            field_expr(time),
            unit,
            duration_us(out_of_orderness, where),
            None if idle is None else duration_us(idle, where),
            None if quiet is None else duration_us(quiet, where),
            MAX_US if max_ahead is None else duration_us(max_ahead, where),
        )
        return self._then("event_time", spec)

    def key_by(self, *keys: str | Expr | Callable[[Any], Any], **named: Any) -> KeyedStream:
        """Partition by key: fields, expressions, ``name=expression``, or one function of the row (field ``key``)."""
        if not keys and not named:
            raise FlowError(f"{caller()} key_by: name at least one field")
        stream, columns = self, list(keys)
        for number, key in enumerate(columns):
            if not isinstance(key, str | Expr):
                if len(columns) > 1 or named:
                    raise FlowError(
                        f"{caller()} key_by: a function must be the only key; "
                        "let it return a tuple's worth of fields with .map"
                    )
                stream = self._row_function("key_function", _with_key(key), Shape.MAP, None, None)
                columns[number] = "key"
        from millstream.keyed import KeyedStream

        spec = KeyBySpec(_columns("key_by", columns, named))
        return KeyedStream(self.flow, self.flow.add("key_by", spec, [stream.port]))

    # --- tables ---

    def lookup(
        self,
        table: pa.Table | PathLike,
        on: On,
        how: Literal["inner", "left"] = "inner",
        *,
        columns: Sequence[str] | None = None,
        name: str | None = None,
    ) -> Stream:
        """Add the fields of the row of a table that has an event's key; each key is in the table once at most.

        Args:
            table: a table in memory, or a path: .csv, .jsonl, .parquet or .arrow. It does not change during the run.
            on: a field that both have, or ``{"field of the stream": "field of the table"}``, several for several.
            how: "inner" drops events that are not in the table, a null key among them; "left" keeps them, with nulls.
            columns: the fields to add; None: all of the table's but its key.
        Raises:
            FlowError, SchemaError: here or when the flow is planned: key types that differ, a field that both have.
        """
        return self._then("lookup", lookup_spec(table, on, how, columns), name)

    # --- several streams ---

    def union(self, *others: Stream) -> Stream:
        """The events of all of these streams; they have the same fields."""
        for other in others:
            if other.flow is not self.flow:
                raise FlowError(
                    f"{caller()} union: the streams belong to different flows ({self.flow.name}, {other.flow.name})"
                )
        return Stream(self.flow, self.flow.add("union", UnionSpec(), [self.port, *(o.port for o in others)]))

    def split(self, predicate: Expr) -> tuple[Stream, Stream]:
        """Two streams: the events for which the expression is true, and all others (null among them)."""
        if not isinstance(predicate, Expr):
            raise FlowError(f"{caller()} split: expected an expression such as col('x') > 0, found {predicate!r}")
        return self.filter(predicate), self.filter(~predicate.fill_null(False))

    # --- sinks ---

    def write_jsonl(self, path: PathLike) -> None:
        """JSON lines: a file, or with a trailing "/" a directory of parts."""
        self.sink(connectors.JsonLinesSink(str(path)), name="write_jsonl")

    def write_csv(self, path: PathLike, *, delimiter: str = ",") -> None:
        """CSV with a header line: a file, or with a trailing "/" a directory of parts."""
        self.sink(connectors.CsvSink(str(path), delimiter=delimiter), name="write_csv")

    def write_parquet(self, path: PathLike) -> None:
        """Parquet: a file, or with a trailing "/" a directory of parts."""
        self.sink(connectors.ParquetSink(str(path)), name="write_parquet")

    def write_sqlite(
        self,
        path: PathLike,
        table: str,
        *,
        key: str | Sequence[str] | None = None,
        mode: Literal["upsert", "append"] | None = None,
    ) -> None:
        """Rows of a table in an SQLite database, which is made if it is not there.

        The rows of a checkpoint appear in one transaction, each exactly once; without checkpoints, a second's worth in
        each. A table that a run has made is emptied when the flow starts anew; what else is in one stays.

        Args:
            key: the fields that say which row a row replaces. None: those by which the stream revises its rows.
            mode: "upsert": one row for each key, rows that are taken back are deleted; "append": every row is added. None:
                upsert where there is a key.
        """
        self.sink(connectors.SqliteSink(str(path), table, key=key, mode=mode), name="write_sqlite")

    def write_duckdb(
        self,
        path: PathLike,
        table: str,
        *,
        key: str | Sequence[str] | None = None,
        mode: Literal["upsert", "append"] | None = None,
    ) -> None:
        """Rows of a table in a DuckDB database, as `write_sqlite`; needs ``pip install 'millstream[duckdb]'``."""
        self.sink(connectors.DuckDbSink(str(path), table, key=key, mode=mode), name="write_duckdb")

    def write_zeromq(
        self,
        endpoint: str,
        *,
        payload: Literal["json", "msgpack", "arrow"] = "json",
        per: Literal["row", "batch"] = "row",
        bind: bool = False,
        kind: Literal["push", "pub"] = "push",
        keys: PathLike | None = None,
    ) -> None:
        """Send the events to a ZeroMQ endpoint.

        Args:
            keys: a folder that ``millstream keys`` has made; needed for tcp beyond this machine.
        """
        sink = connectors.ZeroMQSink(endpoint, payload=payload, per=per, bind=bind, kind=kind, keys=keys)
        self.sink(sink, name="write_zeromq")

    def write_null(self) -> None:
        """Take the events and do nothing with them: for benchmarks."""
        self.sink(connectors.NullSink(), name="write_null")

    def print(self, *, limit: int | None = None) -> None:
        """Show the events on the terminal of whoever runs the flow."""
        self.sink(connectors.PrintSink(limit), name="print")

    def collect(self, name: str | None = None) -> None:
        """Bring the events back to whoever runs the flow, as an Arrow table: ``result.tables[name]``."""
        self.sink(connectors.CollectSink(name or ""), name="collect")

    def for_each(self, function: Callable[[Any], None], *, on_error: Errors | None = None) -> None:
        """Call a function with every event, in the workers."""
        self.sink(connectors.ForEachSink(UserFunction(function)), name="for_each", on_error=on_error)

    def sink(self, sink: Any, *, name: str = "sink", on_error: Errors | None = None) -> None:
        """A sink of your own.

        Either a `millstream.Sink`, or an object with ``open(worker, workers)``, ``write(rows)`` and ``close()``.

        Args:
            on_error: what happens when ``write`` of such an object raises; what it was given is taken for not written.
                For a `millstream.Sink` there is no choice: the run ends.
        Raises:
            FlowError: ``on_error`` for a `millstream.Sink` that calls no function of yours.
        """
        if not isinstance(sink, Sink):
            sink = connectors.PythonSink(UserFunction(sink))
        if not sink.calls_python and on_error is not None:
            raise FlowError(
                f"{caller()} {name}: on_error is for sinks in Python; what {sink.label()} cannot write ends the run"
            )
        policy = self.flow.policy(on_error) if sink.calls_python else FAIL
        self.flow.add(name, SinkSpec(sink, on_error=policy), [self.port])


class HandledStream(Stream):
    """What the handlers of `Stream.on` return; takes further handlers."""

    def __init__(
        self, upstream: Stream, handlers: tuple[tuple[str, UserFunction], ...], field: str, on_error: ErrorPolicy
    ) -> None:
        super().__init__(
            upstream.flow, upstream.flow.add("on", HandlersSpec(on_error, handlers, field), [upstream.port])
        )
        self._handlers = handlers
        self._field = field
        self._on_error = on_error

    def on(
        self, kind: str, handler: Callable[[Any], Any], *, field: str = "type", on_error: Errors | None = None
    ) -> HandledStream:
        """One more handler, for events of another kind; see `Stream.on`.

        Raises:
            FlowError: ``field`` or ``on_error`` differ from those of the first handler.
        """
        if field not in ("type", self._field):
            raise FlowError(f"{caller()} on: these handlers go by field {self._field!r}, not {field!r}")
        if on_error is not None and policy_of(on_error) != self._on_error:
            raise FlowError(
                f"{caller()} on: say on_error={on_error!r} with the first handler; it holds for all of them"
            )
        # The same operator takes the further handler: its node is replaced, so that all see one order.
        self._handlers = (*self._handlers, (kind, UserFunction(handler)))
        old = self.flow.nodes[self.port.node]
        spec = HandlersSpec(self._on_error, self._handlers, self._field)
        self.flow.nodes[old.id] = Node(old.id, old.name, spec, old.inputs, old.where)
        return self


def _columns(where: str, columns: Sequence[Any], named: Mapping[str, Any]) -> Named:
    pairs: list[tuple[str, Expr]] = []
    for column in columns:
        if not isinstance(column, str | Expr):
            raise FlowError(f"{caller()} {where}: expected a field name or an expression, found {column!r}")
        expression = field_expr(column)
        pairs.append((expression.name(), expression))
    pairs += [(name, value if isinstance(value, Expr) else to_expr(value)) for name, value in named.items()]
    names = [n for n, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise FlowError(f"{caller()} {where}: the field {name!r} is there twice; name one of them with .alias(...)")
    return tuple(pairs)


def _with_key(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add_key(row: Any) -> Any:
        return row.with_(key=function(row))

    add_key.__qualname__ = getattr(function, "__qualname__", "key function")
    return add_key
