"""The spec of `Flow.dead_letters`: the records that operators could not process, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import pyarrow as pa

from millstream.specs.base import Bound, Spec
from millstream.times import STAMP

_FIELDS: Final[dict[str, pa.DataType]] = {
    "operator": pa.string(),
    "reason": pa.string(),
    "origin": pa.string(),
    "line": pa.int64(),
    "offset": pa.int64(),
    "record": pa.string(),
    "time": STAMP,
}
LETTER_FIELDS: Final = pa.schema(_FIELDS)


@dataclass(frozen=True)
class DeadLettersSpec(Spec):
    """It has no inputs in the graph: the cutter leads the refused records of all operators here that are not behind it."""

    columnar: ClassVar[bool] = False

    def describe(self) -> str:
        return "dead_letters"

    def notes(self) -> Iterator[str]:
        yield "what any operator refuses that is not behind this one, whose own dead letters are in the files alone"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        # They come from all processes, in no order: like what comes from an operator with state.
        return Bound(LETTER_FIELDS, stateful=where)
