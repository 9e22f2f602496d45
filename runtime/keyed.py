"""Keyed streams: what a user does with the events of each key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from millstream.aggregates import Aggregate
from millstream.arguments import all_ties, checked_aggregates, is_final, row_count, span_us
from millstream.errors import FlowError
from millstream.functions import UserFunction
from millstream.joins import Closed, How, JoinResult, join, join_as_of, join_broadcast
from millstream.keyed_results import OrderedStream, ProcessResult, RunningResult
from millstream.lookups import On
from millstream.patterns import Pattern
from millstream.plan import Port
from millstream.processing import Process, checked_process, declared_states
from millstream.ranking import By, sort_keys
from millstream.rows import declared_schema
from millstream.specs.base import DEAD_LETTERS, MAIN, Spec
from millstream.specs.expiring import ExpiringAggregateSpec
from millstream.specs.keyed import RunningAggregateSpec, ScanSpec
from millstream.specs.on_error import Errors
from millstream.specs.ordering import RowWindows
from millstream.specs.patterns import MatchSpec
from millstream.specs.previous import Neighbour, WithPreviousSpec
from millstream.specs.process import Order, ProcessSpec, checked_order
from millstream.specs.ranking import DedupeSpec, FirstSpec, TopNSpec
from millstream.specs.triggers import Early
from millstream.specs.windows import SessionWindows, Windows
from millstream.state_handles import Migration, check_version, lifetime_us
from millstream.streams import Stream
from millstream.times import Duration
from millstream.where import caller
from millstream.windowed import WindowedStream, windowed

if TYPE_CHECKING:
    from millstream.flow import Flow


class KeyedStream:
    """Events partitioned by key: one worker sees all events of a key."""

    def __init__(self, flow: Flow, port: Port) -> None:
        self.flow = flow
        self.port = port

    if not TYPE_CHECKING:  # a type checker has to go on finding what is not there

        def __getattr__(self, name: str) -> NoReturn:
            if not name.startswith("_") and hasattr(Stream, name):
                raise FlowError(
                    f"{caller()} {name}: not on a keyed stream; say it before key_by(), or behind what works by key, "
                    "such as window(...).agg(...)"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def window(
        self,
        windows: Windows | SessionWindows | RowWindows,
        *,
        allowed_lateness: Duration | None = "0s",
        early: Early | None = None,
        panes: Literal["accumulating", "discarding", "retracting"] = "accumulating",
        emit: Literal["updates", "final"] = "updates",
    ) -> WindowedStream:
        """Group each key's events into windows.

        A window of time puts out a pane at its end; ``early`` panes come before it, late ones when an event comes
        after it that is not too late. Each says so in its field ``timing``: "early", "on_time" or "late".
        Panes that fall due together are one.

        Args:
            windows: `tumbling(...)`, `hopping(...)`, `session(...)`, or windows of rows.
            allowed_lateness: how long after its end a window still takes events, firing again; None: for ever.
            early: `every("10s")`, `every_count(100)`, `every_change()`, or several of them joined by ``|``.
            panes: "accumulating": a pane holds everything that has come into the window so far. "discarding":
                what has come since the last pane, which may be nothing on time. "retracting": everything so far,
                and each pane first takes back the one before it: a sink then says in a field ``change`` which
                is which, "-" or "+". Operators behind it that would count a pane twice make an accumulating
                window retract by themselves.
            emit: "updates" puts out all these panes; "final" waits until the window has expired and puts out one.
        Raises:
            FlowError: settings that do not go together.
        """
        return windowed(f"{caller()} window", self, windows, allowed_lateness, early, panes, emit)

    def agg(
        self,
        *,
        emit: Literal["updates", "final"] = "updates",
        ttl: Duration | None = None,
        name: str | None = None,
        **aggregates: Aggregate,
    ) -> RunningResult:
        """Aggregates of each key since the start.

        Args:
            emit: "updates" puts out a row for each key that a batch changed: it replaces the key's earlier row.
                "final" puts out one row for each key, at the end of the input or when the key expires.
            ttl: a key without an event for so long, by event time, is freed and begins anew when it comes again.
                Its row is taken back then: rows have a first field ``change`` in sinks, "+" or "-". Events are
                taken in the order of event time, each when the watermark has passed it; one that comes too late
                for that leaves by ``late``. None: keys are kept for ever.
        """
        where = f"{caller()} agg"
        checked, final = checked_aggregates(caller(), aggregates), is_final(where, emit)
        spec: Spec
        if ttl is None:
            spec = RunningAggregateSpec(checked, final)
        else:
            spec = ExpiringAggregateSpec(aggregates=checked, ttl_us=span_us(where, "ttl", ttl), final=final)
        return RunningResult(self.flow, self.flow.add("agg", spec, [self.port], name), late=ttl is not None)

    def top_n(
        self,
        n: int,
        by: By,
        *,
        rank: str | None = None,
        ties: Literal["first", "all"] = "first",
        emit: Literal["updates", "final"] = "updates",
        name: str | None = None,
    ) -> Stream:
        """The ``n`` best rows of each key, as they change.

            bids.key_by("auction").top_n(10, by=ms.desc("price"), rank="rank")

        Rows that are no longer among the best, or of another rank, are taken back: in sinks rows have a first field
        ``change``, "+" or "-".

        Args:
            by: fields, expressions, or `millstream.desc` of them, the most significant first. Of equal rows the
                earlier is the better one: by event time, then by the position in its source. Rows without a value
                are the worst.
            rank: a field for the rank, from 1. It makes a row that enters push every row below it to another rank;
                None: rows only come and go.
            ties: "all" gives rows that are equal by ``by`` one rank, as RANK() does in SQL, and may keep more
                than ``n``.
            emit: "final" puts out what stands at the end of the input, and no changes.
        Raises:
            FlowError, SchemaError: here or when the flow is planned: a field that has no order, for one.
        """
        where = f"{caller()} top_n"
        spec = TopNSpec(row_count(where, n), sort_keys(where, by), rank, all_ties(where, ties), is_final(where, emit))
        return Stream(self.flow, self.flow.add("top_n", spec, [self.port], name))

    def dedupe(
        self,
        keep: Literal["first", "last"] = "first",
        *,
        within: Duration | None = None,
        emit: Literal["updates", "final"] = "updates",
        name: str | None = None,
    ) -> RunningResult:
        """One event of each key: the first by event time, or the last; ties go by the position in the source.

        Args:
            keep: "first" or "last". Without event time: the first or the last to arrive.
            within: with keep="first", an event is a duplicate only if it is less than so long after an event of its
                key that was put out; keys are freed when that has passed.
            emit: "updates" puts out an event at once; one that is earlier (or later) replaces it when it comes.
                "final" puts out what stands: the first event when the watermark has passed it, the last at the end
                of the input. ``within`` implies it. Events are taken in the order of event time then, and one that
                comes too late for that leaves by ``late``.
        """
        where = f"{caller()} dedupe"
        final = is_final(where, emit)
        if keep not in ("first", "last"):
            raise FlowError(f"{where}: keep={keep!r} is neither 'first' nor 'last'")
        if within is not None and keep == "last":
            raise FlowError(f"{where}: within= goes with keep='first'")
        spec: Spec
        if ordered := keep == "first" and (final or within is not None):
            spec = FirstSpec(within_us=None if within is None else span_us(where, "within", within))
        else:
            spec = DedupeSpec(keep == "last", final)
        return RunningResult(self.flow, self.flow.add("dedupe", spec, [self.port], name), late=ordered)

    def join(
        self,
        right: KeyedStream,
        how: How = "inner",
        *,
        within: tuple[Duration, Duration] | None = None,
        closed: Closed = "both",
        ttl: Duration | None = None,
        emit: Literal["updates", "final"] = "updates",
        suffix: str = "_right",
        name: str | None = None,
    ) -> JoinResult:
        """Join with another keyed stream: rows of equal keys, as in SQL; a null key equals nothing.

        The result has the fields of the left side and, key fields aside, those of the right.

        Args:
            how: "inner"; "left", "right", "full" for rows of that side (or both) without a match, too, the
                other's fields null; "semi" and "anti" for the left rows alone that have a match, or have none.
            within: rows match if right.time is in [left.time + within[0], left.time + within[1]], as in
                ``("-5m", "10m")``. Each side is kept as long as that takes; rows behind the watermark are late.
                Rows without a match come out when none can come any more. None: the join has no bound in time;
                a row without a match comes out at once and is taken back when a match comes.
            closed: which ends belong to the interval: "both", "left", "right" or "none".
            ttl: without ``within``: rows match if their event times are at most so far apart; a row that is
                older than the watermark by more is late, and none is kept for more than twice as long. None:
                every row is kept for ever.
            emit: without ``within``, for the kinds with rows that have no match: "updates" puts them out at once
                and takes them back when a match comes; "final" when none can come any more, which without ``ttl``
                is at the end of the input: nothing is taken back.
            suffix: what a right field's name gets where the left has a field of that name.
        Raises:
            FlowError, SchemaError: here or when the flow is planned: key types that differ, for one.
        """
        final = is_final(f"{caller()} join", emit)
        return join(self, right, how, within, closed, ttl, final, suffix, name)

    def join_as_of(
        self,
        right: KeyedStream,
        how: Literal["inner", "left"] = "left",
        *,
        tolerance: Duration | None = None,
        suffix: str = "_right",
        name: str | None = None,
    ) -> JoinResult:
        """Join each row with the latest version of the right side at its time: right.time <= left.time.

        Of two versions of one time the later in its source counts. A row waits until the watermark has passed
        its time, so that the answer is the same however late the versions came.

        Args:
            how: "left": a row that has no version comes out as well, the fields of the right null. "inner": it does not.
            tolerance: versions older than that by then do not count.
            suffix: what a right field's name gets where the left has a field of that name.
        """
        return join_as_of(self, right, how, tolerance, suffix, name)

    def join_broadcast(
        self,
        right: Stream,
        on: On,
        how: Literal["inner", "left", "semi", "anti"] = "inner",
        *,
        within: tuple[Duration, Duration] | None = None,
        closed: Closed = "both",
        ttl: Duration | None = None,
        emit: Literal["updates", "final"] = "updates",
        suffix: str = "_right",
        name: str | None = None,
    ) -> JoinResult:
        """Join on other fields than the key with a small stream: every worker gets all of it, and no row moves again.

        Args:
            on: a field that both have, or ``{"left field": "right field"}``.
            how, within, closed, ttl, emit, suffix: as for `join`.
        """
        final = is_final(f"{caller()} join_broadcast", emit)
        return join_broadcast(self, right, on, how, within, closed, ttl, final, suffix, name)

    def match(self, pattern: Pattern, *, overlapping: bool = True, name: str | None = None) -> OrderedStream:
        """Find events that follow one another; one row for each match.

        Its fields are the key, ``match_start`` and ``match_end``, and for each step of the pattern the whole event
        (or, for steps of one name, the list of events). Events are taken in the order of event time where there is
        one, each when the watermark has passed it; one that comes too late for that leaves by ``late``.

        Args:
            pattern: made by `millstream.pattern`.
            overlapping: every event that fits the first step begins a match; False: matches of one key share no
                span of time, the one that begins first counts.
        """
        if not isinstance(pattern, Pattern):
            raise FlowError(f"{caller()} match: expected a pattern made by ms.pattern(...), found {pattern!r}")
        spec = MatchSpec(pattern, overlapping)
        return OrderedStream(self.flow, self.flow.add("match", spec, [self.port], name))

    def with_previous(self, *, name: str | None = None, **fields: Neighbour) -> OrderedStream:
        """Each event with values of earlier and later events of its key.

            keyed.with_previous(before=ms.lag("price"), change=ms.delta("price"), next=ms.lead("price", within="1m"))

        Events are taken in the order of event time where there is one, each when the watermark has passed it; one
        that comes too late for that leaves by ``late``.

        Args:
            fields: the new fields: `millstream.lag`, `lead`, `delta` or `rate`.
        """
        where = f"{caller()} with_previous"
        if not fields:
            raise FlowError(f"{where}: name at least one field, as in with_previous(before=ms.lag('price'))")
        for field, look in fields.items():
            if not isinstance(look, Neighbour):
                raise FlowError(f"{where}: {field}= takes ms.lag, ms.lead, ms.delta or ms.rate, found {look!r}")
        spec = WithPreviousSpec(tuple(fields.items()))
        return OrderedStream(self.flow, self.flow.add("with_previous", spec, [self.port], name))

    def process(
        self,
        process: type[Process] | Process,
        *,
        schema: Any = None,
        outputs: Sequence[str] | Mapping[str, Any] = (),
        control: Stream | None = None,
        on_error: Errors | None = None,
        order: Order | None = None,
        name: str | None = None,
    ) -> ProcessResult:
        """Keyed state, timers and several outputs, in Python: see `millstream.Process` and docs/state.md.

        Args:
            process: a class derived from `millstream.Process`, or an object of one.
            schema: the fields of the main output, where they are not to be found out from its rows.
            outputs: the names of side outputs, for ``ctx.emit(row, to=name)``; or ``{name: schema}``.
            control: a stream whose events reach ``on_control`` in every worker.
            on_error: what happens when a method raises: "fail" ends the run, "dead_letter" goes on with the next event,
                "skip" does so and only counts it.
            order: "arrival", as events come from their source partition; or "event_time", where events and timers
                go along one line of time and events wait for the watermark. None: "arrival", and behind an
                operator with state "event_time", because its rows come in no particular order.
        Raises:
            FlowError: what was given is no process, or does not go with the stream.
        """
        where = f"{caller()} process"
        kind = checked_process(process, where)
        named = outputs.items() if isinstance(outputs, Mapping) else ((o, None) for o in outputs)
        ports = tuple((str(output), declared_schema(kept)) for output, kept in named)
        if {MAIN, DEAD_LETTERS} & set(dict(ports)) or len(dict(ports)) < len(ports):
            raise FlowError(
                f"{where}: outputs={outputs!r}: each has a name of its own, and {MAIN!r} and {DEAD_LETTERS!r} are taken"
            )
        if control is not None and control.flow is not self.flow:
            raise FlowError(f"{where}: the control stream belongs to another flow ({control.flow.name})")
        if control is not None and kind.on_control is Process.on_control:
            raise FlowError(f"{where}: {kind.__name__} has no on_control(self, event, ctx) to take control=")
        declared = declared_states(kind)
        spec = ProcessSpec(
            UserFunction(process),
            tuple((field, replace(state, default=None, migrate=None)) for field, state in declared.items()),
            declared_schema(schema),
            ports,
            self.flow.policy(on_error, retries=False),
            checked_order(order, where),
            tuple(field for field, state in declared.items() if state.migrate is not None),
        )
        inputs = [self.port] if control is None else [self.port, control.port]
        return ProcessResult(self.flow, self.flow.add("process", spec, inputs, name), dict(ports))

    def scan(
        self,
        init: Any,
        function: Callable[[Any, Any], tuple[Any, Any]],
        *,
        schema: Any = None,
        on_error: Errors | None = None,
        ttl: Duration | None = None,
        order: Order | None = None,
        pickle: bool = False,
        version: int = 1,
        migrate: Migration | None = None,
        name: str | None = None,
    ) -> Stream:
        """State for each key, in Python: ``function(state, row)`` returns the new state and an output.

        Args:
            init: the state of a key that has none: a value, or a function that makes one.
            function: returns ``(state, output)``; an output of None puts nothing out.
            schema: the fields of the outputs, where they are not to be found out from the first ones.
            on_error: what happens when the function raises: "fail" ends the run, "dead_letter" leaves the state
                as it was and goes on with the next event, "skip" does so and only counts the event.
            ttl: how long after its last event the state of a key is forgotten, as "1h" or a ``timedelta``: by
                event time, or processing time where the stream has none. None: it is kept for ever.
            order: "arrival" or "event_time"; see `process`.
            pickle: keep states of types that the state codec does not know, by pickling them.
            version: what the states look like, counted by you; they are kept with it.
            migrate: ``migrate(old, old_version)`` returns the state as this version has it, where a checkpoint has
                one of an older version.
        Raises:
            FlowError: there is no function, ``ttl`` is not a duration, or ``version`` no whole number from 1 on.
        """
        if not callable(function):
            raise FlowError(f"{caller()} scan: expected a function(state, row), found {function!r}")
        where = f"{caller()} scan"
        check_version(version, migrate, where)
        spec = ScanSpec(
            UserFunction(init), UserFunction(function), declared_schema(schema), self.flow.policy(on_error, retries=False),
            checked_order(order, where), None if ttl is None else lifetime_us(ttl, where), pickle,
            version, None if migrate is None else UserFunction(migrate),
        )  # fmt: skip
        return Stream(self.flow, self.flow.add("scan", spec, [self.port], name))
