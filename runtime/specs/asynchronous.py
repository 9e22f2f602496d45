"""The spec of asynchronous enrichment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa

from millstream.errors import FlowError
from millstream.functions import UserFunction
from millstream.specs.base import Bound, Spec
from millstream.specs.on_error import ErrorPolicy
from millstream.times import format_duration


@dataclass(frozen=True)
class MapAsyncSpec(Spec):
    """Attributes:
    capacity: how many calls may be under way at once, in each worker.
    timeout_us: how long one call may take, each attempt anew.
    ordered: results leave in the order of their events.
    """

    columnar: ClassVar[bool] = False
    holds_rows: ClassVar[bool] = True
    function: UserFunction
    capacity: int
    timeout_us: int
    ordered: bool
    schema: pa.Schema | None
    on_error: ErrorPolicy

    @property
    def way(self) -> str:
        return "Python"

    def describe(self) -> str:
        order = "" if self.ordered else ", ordered=False"
        return (
            f"map_async({self.function}, capacity={self.capacity}, timeout={format_duration(self.timeout_us)}, "
            f"retries={self.on_error.retries}{order})"
        )

    def notes(self) -> Iterator[str]:
        order = "in the order of their events" if self.ordered else "as they come, but never behind their watermark"
        yield f"up to {self.capacity} calls at once in each worker; results leave {order}"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        if upstream.changelog:
            raise FlowError(
                f"{where}: its input comes from {upstream.changelog.by}, which revises what it has put out; "
                "an outside answer may differ between a row and the one that takes it back. Use emit='final' there"
            )
        # Several workers call at once: behind it, order is restored by event time, as behind an operator with state.
        return replace(upstream, schema=self.schema, keys=(), stateful=upstream.stateful or where)

    @property
    def shows_fields(self) -> bool:
        return self.schema is None
