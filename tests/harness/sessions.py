"""What session windows must answer, worked out one event at a time; see oracle.py."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from harness.oracle import Event, Timed


@dataclass
class Session:
    start: int
    end: int
    events: list[Timed]


@dataclass
class Sessioned:
    """Attributes:
    sessions: of each key, all that there finally are.
    late: the events that no session took.
    """

    sessions: dict[Hashable, list[Session]] = field(default_factory=dict)
    late: list[Timed] = field(default_factory=list)


def into_sessions(
    timed: Iterable[Timed],
    gap_of: Callable[[Event], int],
    lateness: int | None,
    key_of: Callable[[Event], Hashable],
) -> Sessioned:
    """Take events in the order of the watermark before them, which is that of their partition: then it does not
    matter which partition is faster. An event joins the sessions that it touches and that its watermark has not
    expired; if there are none, it is one by itself, unless that has expired.
    """
    result = Sessioned()
    for event in sorted(timed, key=lambda e: (e.before is not None, e.before or 0, e.partition, e.row)):

        def expired(end: int, before: int | None = event.before) -> bool:
            return before is not None and lateness is not None and end + lateness <= before

        alone = Session(event.time, event.time + gap_of(event.event), [event])
        there = result.sessions.setdefault(key_of(event.event), [])
        touched = [s for s in there if s.start <= alone.end and alone.start <= s.end and not expired(s.end)]
        if not touched and expired(alone.end):
            result.late.append(event)
            continue
        for session in touched:
            there.remove(session)
            alone.start, alone.end = min(alone.start, session.start), max(alone.end, session.end)
            alone.events += session.events
        there.append(alone)
    for sessions in result.sessions.values():
        for session in sessions:
            session.events.sort(key=lambda e: e.order)
    return result
