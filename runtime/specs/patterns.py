"""The spec of pattern matching."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from millstream.errors import FlowError, SchemaError
from millstream.evaluate import output_type
from millstream.expr import Expr
from millstream.patterns import Pattern
from millstream.specs.base import Bound, Fields, Time, refuse_changelog
from millstream.specs.ordering import OrderedSpec
from millstream.times import STAMP, format_duration

MATCH_FIELDS: Final = ("match_start", "match_end")


@dataclass(frozen=True)
class MatchSpec(OrderedSpec):
    """Attributes:
    overlapping: every event that fits the first step begins a match; False: not while one is under way that will
        be completed.
    """

    pattern: Pattern
    overlapping: bool

    @property
    def way(self) -> str:
        return "columns and Python" if self.pattern.calls_python else "columns"

    def describe(self) -> str:
        return f"match({self.pattern})"

    def notes(self) -> Iterator[str]:
        yield from super().notes()
        if self.pattern.within_us is not None:
            yield f"within {format_duration(self.pattern.within_us)} from the first event to the last"

    @property
    def unbounded_state(self) -> str | None:
        pattern = self.pattern
        if pattern.within_us is not None or all(s.within_us is not None for s in pattern.steps[1:]):
            return None
        return "a match that is never completed is kept for ever; give the pattern .within(...)"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_changelog(where, upstream)
        timed = upstream.time is Time.EVENT
        limits = [self.pattern.within_us, self.pattern.absent_us, *(s.within_us for s in self.pattern.steps)]
        if not timed and any(limit is not None for limit in limits):
            raise FlowError(
                f"{where}: within= goes by event time, and none is assigned; call event_time() before key_by()"
            )
        if self.pattern.absent and self.pattern.absent_us is None:
            raise FlowError(f"{where}: a without() at the end of a pattern needs within=: for how long")
        taken = [*upstream.keys, *MATCH_FIELDS]
        for name in self.pattern.names:
            if name in taken:
                raise FlowError(f"{where}: a step cannot be named {name!r}, which is a field of the result already")
        return Bound(self._schema(where, upstream), upstream.time, where)

    def _schema(self, where: str, upstream: Bound) -> pa.Schema | None:
        schema = upstream.schema
        if schema is None:
            return None
        for name, condition in self.pattern.conditions:
            if isinstance(condition, Expr):
                kind = output_type(condition, schema, where)
                if not pa.types.is_boolean(kind):
                    raise SchemaError(f"{where}: {name}: {condition} is {kind}, not a condition")
        event = pa.struct(list(schema))
        steps = [(n, pa.list_(event) if n in self.pattern.repeated else event) for n in self.pattern.names]
        return pa.schema(
            [*((k, schema.field(k).type) for k in upstream.keys), *((n, STAMP) for n in MATCH_FIELDS), *steps]
        )

    def inputs_read(self, out: Fields) -> Fields:
        return None  # a match holds whole events

    @property
    def needs_position(self) -> bool:
        return True
