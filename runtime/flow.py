"""The flow API: what a user writes.

Every call adds a node to the flow's graph and returns the stream that comes out; nothing is read or
computed until `Flow.run`. A stream may be used any number of times. Fields and types are checked when
the flow is planned, before any process starts, wherever the types are known by then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from millstream import connectors
from millstream.aggregates import Aggregate
from millstream.connectors.base import Sink, Source
from millstream.connectors.file_sources import Partitions
from millstream.connectors.files import Compression, Paths
from millstream.errors import FlowError
from millstream.expr import Expr, field_expr, to_expr
from millstream.functions import UserFunction
from millstream.operators.aggregation import shipped
from millstream.plan import (
    LATE,
    DropSpec,
    EventTimeSpec,
    ExplodeSpec,
    FilterSpec,
    HandlersSpec,
    KeyBySpec,
    MapBatchesSpec,
    Named,
    Node,
    OnError,
    Port,
    ReadSpec,
    RenameSpec,
    RowFunctionSpec,
    RunningAggregateSpec,
    ScanSpec,
    SelectSpec,
    Shape,
    SinkSpec,
    Spec,
    UnionSpec,
    WindowAggregateSpec,
    Windows,
    WithColumnsSpec,
)
from millstream.rows import declared_schema
from millstream.times import MAX_US, Duration, duration_us

if TYPE_CHECKING:
    from millstream.result import RunResult

Errors = Literal["fail", "dead_letter"]
PathLike = str | Path

_PACKAGE = str(Path(__file__).parent)


class Flow:
    """A dataflow from sources to sinks.

    Args:
        name: names the run and its state directory; letters, digits, "-" and "_".
    """

    def __init__(self, name: str) -> None:
        if not name or not all(c.isalnum() or c in "-_" for c in name):
            raise FlowError(f"Flow({name!r}): a name is made of letters, digits, '-' and '_'")
        self.name = name
        self.nodes: list[Node] = []
        self._counts: dict[str, int] = {}

    # --- sources ---

    def read_csv(
        self,
        path: Paths,
        *,
        schema: Any = None,
        delimiter: str = ",",
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
    ) -> Stream:
        """CSV files with a header line: a path, several, or a glob ("data/*.csv.gz")."""
        return self.source(
            connectors.CsvSource(
                path, schema=declared_schema(schema), delimiter=delimiter,
                compression=compression, partitions=partitions, follow=follow,
            ),
            name="read_csv",
        )  # fmt: skip

    def read_jsonl(
        self,
        path: Paths,
        *,
        schema: Any = None,
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
    ) -> Stream:
        """JSON lines: one object a line."""
        return self.source(
            connectors.JsonLinesSource(
                path, schema=declared_schema(schema), compression=compression,
                partitions=partitions, follow=follow,
            ),
            name="read_jsonl",
        )  # fmt: skip

    def read_text(
        self,
        path: Paths,
        *,
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
    ) -> Stream:
        """Text files: every line, without its end, is an event with the one field ``line``."""
        return self.source(
            connectors.TextSource(path, compression=compression, partitions=partitions, follow=follow),
            name="read_text",
        )

    def read_parquet(self, path: Paths, *, partitions: Partitions = "one") -> Stream:
        """Parquet files."""
        return self.source(connectors.ParquetSource(path, partitions=partitions), name="read_parquet")

    def read_arrow(self, data: Paths | pa.Table | pa.RecordBatch, *, partitions: Partitions = "one") -> Stream:
        """Arrow IPC files (memory-mapped), or a table that is in memory."""
        if isinstance(data, pa.Table | pa.RecordBatch):
            table = data if isinstance(data, pa.Table) else pa.Table.from_batches([data])
            return self.source(connectors.TableSource(table), name="read_arrow")
        return self.source(connectors.ArrowSource(data, partitions=partitions), name="read_arrow")

    def read_iterable(self, rows: Iterable[Any], *, schema: Any = None) -> Stream:
        """Any Python iterable of dicts, dataclasses, named tuples or plain values; read in this process."""
        return self.source(connectors.IterableSource(rows, schema=declared_schema(schema)), name="read_iterable")

    def read_stdin(self, *, format: Literal["jsonl", "csv", "text"] = "jsonl", schema: Any = None) -> Stream:
        """Standard input, until it ends."""
        return self.source(connectors.StdinSource(format=format, schema=declared_schema(schema)), name="read_stdin")

    def read_zeromq(
        self,
        endpoint: str,
        *,
        payload: Literal["json", "msgpack", "arrow"] = "json",
        schema: Any = None,
        bind: bool = True,
        kind: Literal["pull", "sub"] = "pull",
    ) -> Stream:
        """Events that other programs push to a ZeroMQ endpoint: one a message, or a list of them."""
        return self.source(
            connectors.ZeroMQSource(endpoint, payload=payload, schema=declared_schema(schema), bind=bind, kind=kind),
            name="read_zeromq",
        )

    def generate(
        self, columns: Mapping[str, Any], *, rate: float | None = None, count: int | None = None, seed: int = 0
    ) -> Stream:
        """Made-up events, the same for the same seed: for load tests and first steps.

        Args:
            columns: what each field holds; see `millstream.connectors.GeneratorSource`.
            rate: events a second; None: as fast as they are taken.
            count: how many; None: without end.
        """
        return self.source(
            connectors.GeneratorSource(dict(columns), rate=rate, count=count, seed=seed), name="generate"
        )

    def source(self, source: Any, *, name: str = "source") -> Stream:
        """A source of your own: a `millstream.Source`, or an object with ``partitions()`` and ``read(partition)``."""
        if not isinstance(source, Source):
            source = connectors.PythonSource(UserFunction(source))
        return Stream(self, self._add(name, ReadSpec(source), ()))

    # --- running ---

    def run(
        self,
        *,
        workers: int | Literal["auto"] = "auto",
        batch_size: int = 65_536,
        ingest: Literal["auto", "coordinator", "workers"] = "auto",
        state: PathLike | None = None,
        live_view: bool = False,
    ) -> RunResult:
        """Run the flow in a coordinator and ``workers`` worker processes, until its input ends.

        Returns:
            What came of it: counts, the time it took, and the tables that were collected.
        Raises:
            MillstreamError: the run failed; no process of it is left.
        """
        from millstream.coordinator import launch  # the one place where the runtime reaches up: see docs/design.md

        return launch.run(
            self,
            launch.RunOptions(workers=workers, batch_size=batch_size, ingest=ingest, state=state, live_view=live_view),
        )

    def run_here(self, *, batch_size: int = 65_536, state: PathLike | None = None) -> RunResult:
        """Run the flow in this process, without sockets and without waiting: for tests and notebooks."""
        from millstream.coordinator import launch

        return launch.run_here(self, batch_size=batch_size, state=state)

    # --- building ---

    def _add(self, kind: str, spec: Spec, inputs: Sequence[Port], name: str | None = None) -> Port:
        if name is None:
            self._counts[kind] = number = self._counts.get(kind, 0) + 1
            name = kind if number == 1 else f"{kind}_{number}"
        if any(n.name == name for n in self.nodes):
            raise FlowError(f"{_caller()}: there is another operator named {name!r}; names are unique in a flow")
        node = Node(len(self.nodes), name, spec, tuple(inputs), _caller())
        self.nodes.append(node)
        return Port(node.id)


class Stream:
    """Events on their way; every method returns a new stream."""

    def __init__(self, flow: Flow, port: Port) -> None:
        self.flow = flow
        self.port = port

    def _then(self, kind: str, spec: Spec, name: str | None = None) -> Stream:
        return Stream(self.flow, self.flow._add(kind, spec, [self.port], name))

    # --- columns ---

    def filter(self, predicate: Expr | Callable[[Any], bool], *, on_error: Errors = "fail") -> Stream:
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

    def map(self, function: Callable[[Any], Any], *, schema: Any = None, on_error: Errors = "fail") -> Stream:
        """One event for each event: the function gets a row; it returns a dict, a dataclass, a named tuple or a row."""
        return self._row_function("map", function, Shape.MAP, schema, on_error)

    def flat_map(
        self, function: Callable[[Any], Iterable[Any]], *, schema: Any = None, on_error: Errors = "fail"
    ) -> Stream:
        """Any number of events for each event."""
        return self._row_function("flat_map", function, Shape.FLAT_MAP, schema, on_error)

    def map_batches(self, function: Callable[[pa.RecordBatch], pa.RecordBatch], *, on_error: Errors = "fail") -> Stream:
        """A function over Arrow columns: a record batch in, a record batch with as many rows out."""
        return self._then("map_batches", MapBatchesSpec(UserFunction(function), OnError(on_error)))

    def on(
        self, kind: str, handler: Callable[[Any], Any], *, field: str = "type", on_error: Errors = "fail"
    ) -> HandledStream:
        """Subscribe a handler to the events whose ``field`` is ``kind``.

        Further ``.on(...)`` on the result add handlers to the same operator: those of one kind run in the
        order of subscription. What handlers return (a row, a list of rows, or None) goes on; events of
        a kind that nobody subscribed to are counted as unmatched.
        """
        return HandledStream(self, ((kind, UserFunction(handler)),), field, OnError(on_error))

    def _row_function(self, kind: str, function: Any, shape: Shape, schema: Any, on_error: Errors) -> Stream:
        if not callable(function):
            raise FlowError(f"{_caller()} {kind}: expected a function or an expression, found {function!r}")
        return self._then(
            kind, RowFunctionSpec(UserFunction(function), shape, declared_schema(schema), OnError(on_error))
        )

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
        where = f"{_caller()} event_time"
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
            raise FlowError(f"{_caller()} key_by: name at least one field")
        stream, columns = self, list(keys)
        for number, key in enumerate(columns):
            if not isinstance(key, str | Expr):
                if len(columns) > 1 or named:
                    raise FlowError(
                        f"{_caller()} key_by: a function must be the only key; "
                        "let it return a tuple's worth of fields with .map"
                    )
                stream = self._row_function("key_function", _with_key(key), Shape.MAP, None, "fail")
                columns[number] = "key"
        spec = KeyBySpec(_columns("key_by", columns, named))
        return KeyedStream(self.flow, self.flow._add("key_by", spec, [stream.port]))

    # --- several streams ---

    def union(self, *others: Stream) -> Stream:
        """The events of all of these streams; they have the same fields."""
        for other in others:
            if other.flow is not self.flow:
                raise FlowError(
                    f"{_caller()} union: the streams belong to different flows ({self.flow.name}, {other.flow.name})"
                )
        return Stream(self.flow, self.flow._add("union", UnionSpec(), [self.port, *(o.port for o in others)]))

    def split(self, predicate: Expr) -> tuple[Stream, Stream]:
        """Two streams: the events for which the expression is true, and all others (null among them)."""
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

    def write_zeromq(
        self,
        endpoint: str,
        *,
        payload: Literal["json", "msgpack", "arrow"] = "json",
        per: Literal["row", "batch"] = "row",
        bind: bool = False,
        kind: Literal["push", "pub"] = "push",
    ) -> None:
        """Send the events to a ZeroMQ endpoint."""
        self.sink(connectors.ZeroMQSink(endpoint, payload=payload, per=per, bind=bind, kind=kind), name="write_zeromq")

    def write_null(self) -> None:
        """Take the events and do nothing with them: for benchmarks."""
        self.sink(connectors.NullSink(), name="write_null")

    def print(self, *, limit: int | None = None) -> None:
        """Show the events on the terminal of whoever runs the flow."""
        self.sink(connectors.PrintSink(limit), name="print")

    def collect(self, name: str | None = None) -> None:
        """Bring the events back to whoever runs the flow, as an Arrow table: ``result.tables[name]``."""
        self.sink(connectors.CollectSink(name or ""), name="collect")

    def for_each(self, function: Callable[[Any], None]) -> None:
        """Call a function with every event, in the workers."""
        self.sink(connectors.ForEachSink(UserFunction(function)), name="for_each")

    def sink(self, sink: Any, *, name: str = "sink") -> None:
        """A sink of your own.

        Either a `millstream.Sink`, or an object with ``open(worker, workers)``, ``write(rows)`` and ``close()``.
        """
        if not isinstance(sink, Sink):
            sink = connectors.PythonSink(UserFunction(sink))
        self.flow._add(name, SinkSpec(sink), [self.port])


class HandledStream(Stream):
    """What the handlers of `Stream.on` return; takes further handlers."""

    def __init__(
        self, upstream: Stream, handlers: tuple[tuple[str, UserFunction], ...], field: str, on_error: OnError
    ) -> None:
        super().__init__(
            upstream.flow, upstream.flow._add("on", HandlersSpec(handlers, field, on_error), [upstream.port])
        )
        self._handlers = handlers
        self._field = field
        self._on_error = on_error

    def on(
        self, kind: str, handler: Callable[[Any], Any], *, field: str = "type", on_error: Errors = "fail"
    ) -> HandledStream:
        if field not in ("type", self._field):
            raise FlowError(f"{_caller()} on: these handlers go by field {self._field!r}, not {field!r}")
        if on_error not in ("fail", self._on_error.value):
            raise FlowError(
                f"{_caller()} on: say on_error={on_error!r} with the first handler; it holds for all of them"
            )
        # The same operator takes the further handler: its node is replaced, so that all see one order.
        self._handlers = (*self._handlers, (kind, UserFunction(handler)))
        old = self.flow.nodes[self.port.node]
        spec = HandlersSpec(self._handlers, self._field, self._on_error)
        self.flow.nodes[old.id] = Node(old.id, old.name, spec, old.inputs, old.where)
        return self


class KeyedStream:
    """Events partitioned by key: one worker sees all events of a key."""

    def __init__(self, flow: Flow, port: Port) -> None:
        self.flow = flow
        self.port = port

    def window(
        self,
        windows: Windows,
        *,
        allowed_lateness: Duration | None = "0s",
        emit: Literal["updates", "final"] = "updates",
    ) -> WindowedStream:
        """Group each key's events into windows of time.

        Args:
            windows: `tumbling(...)` or `hopping(...)`.
            allowed_lateness: how long after its end a window still takes events, firing again; None: for ever.
            emit: "updates" puts out a pane when the window ends and another for each late change;
                "final" waits until the window has expired and puts out one.
        """
        where = f"{_caller()} window"
        lateness = MAX_US if allowed_lateness is None else duration_us(allowed_lateness, where)
        if lateness == MAX_US and emit == "final":
            raise FlowError(
                f"{where}: emit='final' waits for the windows to expire, which never happens with infinite lateness"
            )
        return WindowedStream(self, windows, lateness, emit == "final")

    def agg(self, *, name: str | None = None, **aggregates: Aggregate) -> Stream:
        """Aggregates of each key since the start, put out with every change."""
        where = _caller()
        spec = RunningAggregateSpec(_checked_aggregates(where, aggregates))
        return Stream(self.flow, self.flow._add("agg", spec, [self.port], name))

    def scan(
        self,
        init: Any,
        function: Callable[[Any, Any], tuple[Any, Any]],
        *,
        schema: Any = None,
        on_error: Errors = "fail",
        name: str | None = None,
    ) -> Stream:
        """State for each key, in Python: ``function(state, row)`` returns the new state and an output.

        Args:
            init: the state of a key that has none: a value, or a function that makes one.
            function: returns ``(state, output)``; an output of None puts nothing out.
        """
        if not callable(function):
            raise FlowError(f"{_caller()} scan: expected a function(state, row), found {function!r}")
        spec = ScanSpec(UserFunction(init), UserFunction(function), declared_schema(schema), OnError(on_error))
        return Stream(self.flow, self.flow._add("scan", spec, [self.port], name))


class WindowedStream:
    """Windows of a keyed stream, to be aggregated."""

    def __init__(self, keyed: KeyedStream, windows: Windows, allowed_lateness_us: int, final_only: bool) -> None:
        self._keyed = keyed
        self._windows = windows
        self._allowed_lateness_us = allowed_lateness_us
        self._final_only = final_only

    def agg(self, *, name: str | None = None, **aggregates: Aggregate) -> WindowResult:
        """One pane for each key and window: ``window_start, window_end, pane``, the key, the aggregates."""
        checked = _checked_aggregates(_caller(), aggregates)
        spec = WindowAggregateSpec(self._windows, self._allowed_lateness_us, checked, self._final_only)
        flow = self._keyed.flow
        return WindowResult(flow, flow._add("agg", spec, [self._keyed.port], name))


class WindowResult(Stream):
    """The panes of a window; `late` has the events that came after their windows had expired."""

    @property
    def late(self) -> Stream:
        return Stream(self.flow, Port(self.port.node, LATE))


def tumbling(size: Duration, *, offset: Duration = "0s") -> Windows:
    """Windows of one size, end to end."""
    size_us = _positive("tumbling", size)
    return Windows(size_us, size_us, _offset("tumbling", offset))


def hopping(size: Duration, every: Duration, *, offset: Duration = "0s") -> Windows:
    """Windows of one size, a new one every so often: they overlap, and an event counts in each."""
    size_us, slide_us = _positive("hopping", size), _positive("hopping", every)
    if slide_us > size_us:
        raise FlowError(
            f"{_caller()} hopping: every={every!r} is longer than size={size!r}: "
            "events in between would be in no window"
        )
    return Windows(size_us, slide_us, _offset("hopping", offset))


def _positive(where: str, size: Duration) -> int:
    size_us = duration_us(size, f"{_caller()} {where}")
    if size_us <= 0:
        raise FlowError(f"{_caller()} {where}: a window of {size!r} holds nothing; use a duration above zero")
    return size_us


def _offset(where: str, offset: Duration) -> int:
    if isinstance(offset, str) and offset.startswith("-"):
        return -duration_us(offset[1:], f"{_caller()} {where}")
    return duration_us(offset, f"{_caller()} {where}")


def _columns(where: str, columns: Sequence[Any], named: Mapping[str, Any]) -> Named:
    pairs: list[tuple[str, Expr]] = []
    for column in columns:
        if not isinstance(column, str | Expr):
            raise FlowError(f"{_caller()} {where}: expected a field name or an expression, found {column!r}")
        expression = field_expr(column)
        pairs.append((expression.name(), expression))
    pairs += [(name, value if isinstance(value, Expr) else to_expr(value)) for name, value in named.items()]
    names = [n for n, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise FlowError(
                f"{_caller()} {where}: the field {name!r} is there twice; name one of them with .alias(...)"
            )
    return tuple(pairs)


def _checked_aggregates(where: str, aggregates: Mapping[str, Aggregate]) -> tuple[tuple[str, Aggregate], ...]:
    if not aggregates:
        raise FlowError(f"{where} agg: name at least one aggregate, as in agg(events=ms.count())")
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise FlowError(f"{where} agg: {name}= takes an aggregate such as ms.sum('x'), found {aggregate!r}")
    return tuple((name, shipped(aggregate)) for name, aggregate in aggregates.items())


def _with_key(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add_key(row: Any) -> Any:
        return row.with_(key=function(row))

    add_key.__qualname__ = getattr(function, "__qualname__", "key function")
    return add_key


def _caller() -> str:
    """The line of the user's that called: the first frame outside of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
