"""What a flow must answer, worked out one event at a time in plain Python.

Written from the promises (docs/design.md, "Time") and not from the operators: no columns, no batches, no
workers. Times are integers of any one unit; a watermark of None is "before everything".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Timed:
    """An event with its time and its place: order is (time, partition, row).

    Attributes:
        before: the watermark of its source partition just before it; None: there was none yet.
    """

    event: Event
    time: int
    partition: int
    row: int
    before: int | None

    @property
    def order(self) -> tuple[int, int, int]:
        return self.time, self.partition, self.row


@dataclass
class Times:
    """What event time makes of the partitions: events with times, and those refused."""

    timed: list[Timed] = field(default_factory=list)
    dead: list[Event] = field(default_factory=list)


def assign_times(
    partitions: Iterable[Iterable[Event]],
    time_of: Callable[[Event], int | None],
    *,
    out_of_orderness: int,
    max_ahead: int | None = None,
) -> Times:
    """Give every event its time and the watermark before it; partitions are independent of each other."""
    result = Times()
    for partition, events in enumerate(partitions):
        largest: int | None = None
        for row, event in enumerate(events):
            time = time_of(event)
            if time is None or (max_ahead is not None and largest is not None and time > largest + max_ahead):
                result.dead.append(event)
                continue
            before = None if largest is None else largest - out_of_orderness
            result.timed.append(Timed(event, time, partition, row, before))
            largest = time if largest is None else max(largest, time)
    return result


@dataclass(frozen=True)
class WindowRule:
    """Windows [start, start + size) every ``slide`` from ``offset``; lateness None: infinite."""

    size: int
    slide: int
    offset: int = 0
    lateness: int | None = 0

    def starts(self, time: int) -> list[int]:
        """The start of every window that holds this time, found by looking at all candidates."""
        nearest = (time - self.offset) // self.slide * self.slide + self.offset
        candidates = range(nearest - (self.size // self.slide + 2) * self.slide, nearest + 2 * self.slide, self.slide)
        return [s for s in candidates if s <= time < s + self.size]

    def expired(self, start: int, watermark: int | None) -> bool:
        return watermark is not None and self.lateness is not None and start + self.size + self.lateness <= watermark


@dataclass
class Windowed:
    """Attributes:
    held: what each (window start, key) finally holds, in order.
    late: the events whose windows had all expired.
    """

    held: dict[tuple[int, Any], list[Timed]] = field(default_factory=dict)
    late: list[Timed] = field(default_factory=list)


def into_windows(timed: Iterable[Timed], rule: WindowRule, key_of: Callable[[Event], Hashable]) -> Windowed:
    result = Windowed()
    for event in timed:
        open_ = [s for s in rule.starts(event.time) if not rule.expired(s, event.before)]
        for start in open_:
            result.held.setdefault((start, key_of(event.event)), []).append(event)
        if not open_:
            result.late.append(event)
    for events in result.held.values():
        events.sort(key=lambda e: e.order)
    return result


# --- aggregates: functions of the values of one field, in order ---


def present(values: Sequence[Any]) -> list[Any]:
    return [v for v in values if v is not None]


def total(values: Sequence[Any]) -> Any:
    return sum(present(values)) if present(values) else None


def mean(values: Sequence[Any]) -> float | None:
    there = present(values)
    return sum(there) / len(there) if there else None


def variance(values: Sequence[Any], ddof: int = 1) -> float | None:
    there = present(values)
    if len(there) <= ddof:
        return None
    middle = sum(there) / len(there)
    return float(sum((v - middle) ** 2 for v in there) / (len(there) - ddof))


def smallest(values: Sequence[Any]) -> Any:
    return min(present(values), default=None)


def largest(values: Sequence[Any]) -> Any:
    return max(present(values), default=None)


def first(values: Sequence[Any]) -> Any:
    return next(iter(present(values)), None)


def last(values: Sequence[Any]) -> Any:
    return next(reversed(present(values)), None)


def arg_best(values: Sequence[Any], by: Sequence[Any], *, largest: bool) -> Any:
    """The value of the first row whose ``by`` is the best there is."""
    there = present(by)
    if not there:
        return None
    return values[list(by).index(max(there) if largest else min(there))]
