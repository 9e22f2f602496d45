"""Specs of where a flow begins and ends: sources, event time, sinks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

import pyarrow as pa

from millstream.checkpoints.shape import OPERATOR, SINK, SOURCE
from millstream.connectors.base import Sink, Source
from millstream.connectors.changes import CHANGE
from millstream.errors import FlowError, SchemaError
from millstream.evaluate import output_type
from millstream.expr import Expr
from millstream.specs.base import MAIN, Bound, Fields, Spec, Time, both
from millstream.specs.on_error import FAIL, ErrorPolicy
from millstream.times import MAX_US, format_duration

_FOLDERS: Final = re.compile(r"[^'\"]*/(?=[^'\"/]+/?['\"])")
"""The folders of a path in quotes: they may be written another way, or have moved."""


@dataclass(frozen=True)
class ReadSpec(Spec):
    source: Source

    @property
    def way(self) -> str:
        return "Python" if self.source.calls_python else "columns"

    def describe(self) -> str:
        return self.source.label()

    def state_aspects(self) -> dict[str, str]:
        # Its partitions are compared by themselves.
        return {OPERATOR: self.source.label().partition("(")[0], SOURCE: "yes"}

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        return Bound(self.source.schema())

    @property
    def shows_fields(self) -> bool:
        return self.source.schema() is None


@dataclass(frozen=True)
class EventTimeSpec(Spec):
    """Attributes: all durations in microseconds; None: off."""

    time: Expr
    unit: str | None
    out_of_orderness_us: int
    idle_us: int | None
    quiet_us: int | None
    max_ahead_us: int

    def describe(self) -> str:
        return f"event_time({self.time}, out_of_orderness={format_duration(self.out_of_orderness_us)})"

    def state_aspects(self) -> dict[str, str]:
        return {OPERATOR: "event_time"}

    def notes(self) -> Iterator[str]:
        if self.idle_us is not None:
            silent = format_duration(self.idle_us)
            yield f"a source partition that is silent for {silent} no longer holds the others back"
        if self.quiet_us is not None:
            yield f"after {format_duration(self.quiet_us)} of silence the watermark follows the wall clock"
        if self.max_ahead_us != MAX_US:
            yield f"events further ahead than {format_duration(self.max_ahead_us)} are dead letters"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        if upstream.stateful:
            raise FlowError(
                f"{where}: event time cannot be assigned behind {upstream.stateful}, which has a time of its own; "
                "call event_time() before key_by()"
            )
        if upstream.schema is not None:
            check_time_type(output_type(self.time, upstream.schema, where), self.unit, where)
        return replace(upstream, time=Time.EVENT)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return both(out, self.time.fields())


@dataclass(frozen=True)
class SinkSpec(Spec):
    """Attributes:
    takes_what_is_there: it reads no field for its own sake, but writes those that others read.
    signed: its input takes rows back: each row is written with a first field `CHANGE`.
    on_error: what happens when the user's Python raises, in a sink that calls it.
    """

    columnar: ClassVar[bool] = False  # sinks run in workers, the user's own among them
    sink: Sink
    takes_what_is_there: bool = False
    signed: bool = False
    on_error: ErrorPolicy = FAIL

    @property
    def way(self) -> str:
        return "Python" if self.sink.calls_python else "columns"

    def describe(self) -> str:
        return self.sink.label()

    def state_aspects(self) -> dict[str, str]:
        return {OPERATOR: _FOLDERS.sub("", self.sink.label()), SINK: "yes"}

    def notes(self) -> Iterator[str]:
        yield from self.on_error.notes()
        if self.signed:
            yield f'rows with {CHANGE}: "+" for one that counts, "-" for one that takes an earlier one back'

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        if _retracts(upstream) and upstream.schema is not None and CHANGE in upstream.schema.names:
            raise FlowError(
                f"{where}: its rows take earlier ones back, which is written as a field {CHANGE!r}, and there is "
                "one of that name; rename() it"
            )
        self._told(where, upstream)
        return upstream

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        return replace(self, sink=self._told(self.describe(), inputs[0]), signed=_retracts(inputs[0]))

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        changelog = inputs[0].changelog
        return changelog is not None and self.sink.needs_retractions(changelog.keys)

    def _told(self, where: str, upstream: Bound) -> Sink:
        keys = None if upstream.changelog is None else upstream.changelog.keys
        return self.sink.told(where, upstream.schema, keys, signed=_retracts(upstream))

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return frozenset() if self.takes_what_is_there else None


@dataclass(frozen=True)
class EncodeSpec(Spec):
    """The half of a gathered sink that runs in every worker: columns to bytes."""

    columnar: ClassVar[bool] = False
    sink: Sink
    signed: bool = False

    def describe(self) -> str:
        return f"encode for {self.sink.label()}"


def _retracts(upstream: Bound) -> bool:
    return upstream.changelog is not None and upstream.changelog.retracts


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def check_time_type(kind: pa.DataType, unit: str | None, where: str) -> None:
    """Refuse what cannot be a time.

    Raises:
        SchemaError: the type is no time, or a number without a unit.
    """
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or is_text(kind):
        return
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if unit is None:
            raise SchemaError(f"{where}: the time is a number ({kind}); say what it counts: unit='s', 'ms' or 'us'")
        return
    raise SchemaError(f"{where}: {kind} is not a time; expected a timestamp, ISO 8601 text, or a number with unit=")
