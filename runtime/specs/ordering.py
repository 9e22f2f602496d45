"""What the specs of operators have in common whose answer depends on the order of a key's rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import pyarrow as pa

from millstream.specs.base import LATE, LATE_REASON, MAIN, Bound, Fields, Spec, Time, both
from millstream.specs.keyed import Aggregates


@dataclass(frozen=True)
class OrderedSpec(Spec):
    """The base of operators that take rows by event time, then source position; without event time as they arrive.

    Attributes:
        by_event_time: rows wait for the watermark, and those that it has passed go to the late output.
    """

    keyed: ClassVar[bool] = True
    by_event_time: bool = field(default=True, kw_only=True)

    def notes(self) -> Iterator[str]:
        order = "event time, as far as the watermark has come" if self.by_event_time else "their arrival"
        yield f"events of one key in the order of {order}"

    def bind_port(self, port: str, where: str, inputs: Sequence[Bound], main: Bound) -> Bound:
        if port != LATE:
            return super().bind_port(port, where, inputs, main)
        schema = inputs[0].schema
        if schema is not None:
            fields = [f for f in whole_rows(schema, inputs[0].keys) if f.name != LATE_REASON]
            schema = pa.schema([*fields, pa.field(LATE_REASON, pa.string())])
        return replace(inputs[0], schema=schema, keys=())

    @property
    def late_ports(self) -> tuple[str, ...]:
        return (LATE,)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        if port == LATE:
            return both(self.inputs_read(frozenset()), None if out is None else out - {LATE_REASON})
        return self.inputs_read(out)

    def inputs_read(self, out: Fields) -> Fields:
        """The fields of the input that are read, when ``out`` is read of the main output."""
        raise NotImplementedError

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        return replace(self, by_event_time=inputs[0].time is Time.EVENT)

    @property
    def needs_position(self) -> bool:
        return self.by_event_time


class RowWindows(ABC):
    """Windows that are no intervals of time: they go by the rows of each key."""

    @abstractmethod
    def describe(self) -> str:
        """As the user would write it."""

    @abstractmethod
    def aggregated(self, aggregates: Aggregates) -> Spec:
        """The spec of ``window(self).agg(...)``."""


def whole_rows(schema: pa.Schema, keys: Sequence[str]) -> pa.Schema:
    """The fields of rows behind an exchange by key: the key fields in front."""
    return pa.schema([*(schema.field(k) for k in keys), *(f for f in schema if f.name not in keys)])
