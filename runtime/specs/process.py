"""The spec of `KeyedStream.process`: keyed state, timers and several outputs in the user's Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, Self, cast

import pyarrow as pa

from millstream.checkpoints.shape import OPERATOR, STATE, VERSION
from millstream.errors import FlowError
from millstream.functions import UserFunction
from millstream.specs.base import MAIN, Bound, Spec, Time, refuse_changelog
from millstream.specs.keyed import lost_order
from millstream.specs.on_error import ErrorPolicy
from millstream.state_handles import StateDeclaration

EVENTS: Final = 0
CONTROL: Final = 1
"""The numbers of the inputs: events by key, and control events, which every worker gets."""

Order = Literal["event_time", "arrival"]


@dataclass(frozen=True)
class ProcessSpec(Spec):
    """Attributes:
    process: the class derived from `millstream.Process`, or an object of one.
    states: what it declares, by name, without what only the process itself knows: defaults and migrations.
    migrations: the states that have one.
    outputs: the side outputs, with the schemas of those that have one.
    order: as the user wants it; None: as events come from the source, by event time behind a keyed stage.
    timed: whether events have event time (known when it is bound).
    by_event_time: whether events and timers go along one line of time (known when it is bound).
    """

    keyed: ClassVar[bool] = True
    columnar: ClassVar[bool] = False
    keeps_fields: ClassVar[bool] = False
    process: UserFunction
    states: tuple[tuple[str, StateDeclaration], ...]
    schema: pa.Schema | None
    outputs: tuple[tuple[str, pa.Schema | None], ...]
    on_error: ErrorPolicy
    order: Order | None
    migrations: tuple[str, ...] = ()
    timed: bool = False
    by_event_time: bool = False

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.outputs)

    def schema_of(self, port: str) -> pa.Schema | None:
        return self.schema if port == MAIN else dict(self.outputs)[port]

    @property
    def way(self) -> str:
        return "Python"

    def describe(self) -> str:
        return f"process({self.process})"

    def state_aspects(self) -> dict[str, str]:
        held = {STATE + name: state.form for name, state in self.states}
        return {OPERATOR: "process", **held, **{VERSION + name: str(state.version) for name, state in self.states}}

    @property
    def state_migrations(self) -> list[str]:
        return list(self.migrations)

    def notes(self) -> Iterator[str]:
        if self.by_event_time:
            yield "events, timers and control events of one key in the order of event time"
        else:
            yield "events of one key in the order of their arrival; timers when the watermark reaches them"
        for name, state in self.states:
            yield f"state {name}: {state}"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        main = inputs[EVENTS]
        for upstream in inputs:
            refuse_changelog(where, upstream)
        if self.order == "event_time" and main.time is not Time.EVENT:
            raise FlowError(f"{where}: order='event_time', and the stream has none; call event_time() before key_by()")
        if len(inputs) > 1 and main.time is Time.EVENT and inputs[CONTROL].time is not Time.EVENT:
            raise FlowError(
                f"{where}: the control stream has no event time, so nothing would say how far it has come and no "
                "timer could fire before it ends; give it event_time(..., idle='1s')"
            )
        return Bound(self.schema, main.time, where)

    @property
    def shows_fields(self) -> bool:
        return any(schema is None for schema in (self.schema, *dict(self.outputs).values()))

    def bind_port(self, port: str, where: str, inputs: Sequence[Bound], main: Bound) -> Bound:
        if port not in self.output_names:
            return super().bind_port(port, where, inputs, main)
        return replace(main, schema=self.schema_of(port))

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        timed = inputs[EVENTS].time is Time.EVENT
        by_event_time = self.order == "event_time" if self.order is not None else lost_order(inputs[EVENTS])
        return replace(self, timed=timed, by_event_time=by_event_time)

    @property
    def needs_position(self) -> bool:
        return self.by_event_time


def checked_order(order: str | None, where: str) -> Order | None:
    """
    Raises:
        FlowError: it is no order.
    """
    if order in (None, "event_time", "arrival"):
        return cast("Order | None", order)
    raise FlowError(f"{where}: order={order!r}: expected 'event_time' or 'arrival'")
