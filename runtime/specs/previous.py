"""Specs of what stands next to an event: values of earlier and later events of its key, and differences to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from millstream.errors import FlowError
from millstream.evaluate import output_type
from millstream.expr import Expr
from millstream.specs.base import Bound, Fields, Time, refuse_changelog
from millstream.specs.ordering import OrderedSpec, whole_rows
from millstream.times import MAX_US, format_duration


class Look(Enum):
    """What is made of the neighbour's value."""

    LAG = "lag"
    LEAD = "lead"
    DELTA = "delta"  # the event's own value less the earlier one
    RATE = "rate"  # that, by the time between the two


@dataclass(frozen=True, eq=False)
class Neighbour:
    """One field of `with_previous`.

    Attributes:
        value: the expression whose value is looked at, in both events.
        rows: how many events away, from 1.
        within_us: how long after an event a later one is waited for; `MAX_US`: until it comes.
        per_us: the unit of time of a rate.
    """

    look: Look
    value: Expr
    rows: int = 1
    within_us: int = MAX_US
    per_us: int = 1

    @property
    def ahead(self) -> int:
        """How many later events it needs."""
        return self.rows if self.look is Look.LEAD else 0

    @property
    def behind(self) -> int:
        """How many earlier events it needs."""
        return 0 if self.look is Look.LEAD else self.rows

    def output_type(self, schema: pa.Schema, where: str) -> pa.DataType:
        kind = output_type(self.value, schema, where)
        if self.look is Look.RATE:
            output_type(self.value.cast("double"), schema, where)
            return pa.float64()
        return output_type(self.value - self.value, schema, where) if self.look is Look.DELTA else kind

    def __str__(self) -> str:
        more = f", {self.rows}" if self.rows != 1 else ""
        if self.look is Look.LEAD and self.within_us != MAX_US:
            more += f", within={format_duration(self.within_us)}"
        if self.look is Look.RATE:
            more += f", per={format_duration(self.per_us)}"
        return f"{self.look.value}({self.value}{more})"


@dataclass(frozen=True)
class WithPreviousSpec(OrderedSpec):
    fields: tuple[tuple[str, Neighbour], ...]

    def describe(self) -> str:
        return f"with_previous({', '.join(f'{name}={look}' for name, look in self.fields)})"

    def notes(self) -> Iterator[str]:
        yield from super().notes()
        if self.ahead:
            wait = "until it comes" if self.within_us == MAX_US else f"for {format_duration(self.within_us)} at most"
            yield f"an event waits for the one behind it, {wait}; so long the watermark is held back"

    @property
    def unbounded_state(self) -> str | None:
        return "the last events of every key are kept for ever; use keys of which there is a limited number"

    @property
    def ahead(self) -> int:
        return max(look.ahead for _, look in self.fields)

    @property
    def behind(self) -> int:
        return max(look.behind for _, look in self.fields)

    @property
    def within_us(self) -> int:
        """How long an event waits for those behind it."""
        return max((look.within_us for _, look in self.fields if look.ahead), default=0)

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_changelog(where, upstream)
        if upstream.time is not Time.EVENT:
            for name, look in self.fields:
                if look.look is Look.RATE or (look.ahead and look.within_us != MAX_US):
                    raise FlowError(
                        f"{where}: {name}={look} goes by event time, and these events have none; "
                        "say .event_time(...) before .key_by(...)"
                    )
        schema = None
        if upstream.schema is not None:
            for name, _ in self.fields:
                if name in upstream.schema.names:
                    raise FlowError(
                        f"{where}: {name!r} is a field of the events already; give the new one another name"
                    )
            added = [(name, look.output_type(upstream.schema, f"{where}: {name}")) for name, look in self.fields]
            schema = pa.schema([*whole_rows(upstream.schema, upstream.keys), *added])
        return Bound(schema, upstream.time, where)

    def inputs_read(self, out: Fields) -> Fields:
        read = frozenset(f for _, look in self.fields for f in look.value.fields())
        return None if out is None else read | (out - {name for name, _ in self.fields})
