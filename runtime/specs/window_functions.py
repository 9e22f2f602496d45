"""Specs of the user's functions over the rows of a window: behind windows that collect whole events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

import pyarrow as pa

from millstream.functions import UserFunction
from millstream.specs.base import MAIN, Bound, Fields
from millstream.specs.functions import FunctionSpec

WINDOW_ROWS: Final = "events of the window"
"""The field of a pane that holds its events."""


@dataclass(frozen=True, slots=True)
class Window:
    """The pane that a function works on.

    Attributes:
        start, end: None for a window that is no interval of time.
        pane: its number in the window, from 0.
        timing: "early", "on_time" or "late".
    """

    start: datetime | None
    end: datetime | None
    pane: int
    timing: Literal["early", "on_time", "late"]


@dataclass(frozen=True)
class WindowFunctionSpec(FunctionSpec):
    """Attributes:
    reduces: the function makes one row of two; else it gets all rows of a pane at once.
    keys: the key fields.
    """

    function: UserFunction
    reduces: bool
    keys: tuple[str, ...]
    schema: pa.Schema | None

    def describe(self) -> str:
        return f"{'reduce' if self.reduces else 'process_window'}({self.function})"

    def notes(self) -> Iterator[str]:
        yield "the events of a window are kept until it fires, and come in the order of event time"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        bound = self._bound(inputs[0], None if self.reduces else self.schema)
        return replace(bound, changelog=inputs[0].changelog) if self.reduces else bound

    @property
    def shows_fields(self) -> bool:
        return self.reduces or self.schema is None

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        # A reduced row has the pane's window and key, by which it replaces the one before.
        return not self.reduces and super().needs_retractions(inputs)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return None
