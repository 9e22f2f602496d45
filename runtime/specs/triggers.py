"""Specs of triggers: when a window puts out panes before its end."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.times import format_duration


@dataclass(frozen=True)
class Early:
    """Panes before the end of a window: whichever of these comes first.

    Panes may coalesce: a batch that brings several of them together puts out one.

    Attributes:
        rows: so many rows of a key have come into the window since its last pane; None: not by rows.
        clock_us: processing time passes a multiple of one of these, and the window has changed since its last pane.
        event_us: the watermark does.
    """

    rows: int | None = None
    clock_us: tuple[int, ...] = ()
    event_us: tuple[int, ...] = ()

    def __or__(self, other: Early) -> Early:
        if not isinstance(other, Early):
            return NotImplemented
        counts = [r for r in (self.rows, other.rows) if r is not None]
        return Early(min(counts, default=None), self.clock_us + other.clock_us, self.event_us + other.event_us)

    def describe(self) -> str:
        parts = [f"every({format_duration(us)})" for us in self.clock_us]
        parts += [f"every({format_duration(us)}, clock='event')" for us in self.event_us]
        if self.rows is not None:
            parts.append("every_change()" if self.rows == 1 else f"every_count({self.rows})")
        return " | ".join(parts)


def next_tick_us(intervals_us: tuple[int, ...], time_us: int) -> int | None:
    """The first multiple of any of these that is behind ``time_us``; None where there are none."""
    return min(((time_us // us + 1) * us for us in intervals_us), default=None)
