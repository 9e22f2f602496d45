"""Which sessions take rows that come after their watermark has passed them.

A row joins a session that its own watermark has not expired. While it is ahead of that watermark, less the allowed
lateness, it cannot touch one that has, so the order in which rows come does not matter. For a row behind it
(overdue), it does: it is taken when all rows with a lower watermark are here, in the order of (watermark, position).
That is the order of its partition, and one of all partitions that does not depend on which of them was faster.

Nearly always a look at all of them at once shows that each joins whatever it touches, or that it touches
nothing. The few for which it matters what had expired before are taken one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from millstream.batch import BoolArray, IntArray
from millstream.operators.windows.parts import OPEN, Codes, PackedTimes, Sessions, connect

LATE: Final = -1


@dataclass(frozen=True, slots=True)
class OverdueRows:
    """Rows in the order in which they are taken.

    Attributes:
        codes: the key of each, numbered as the sessions' are.
        time_us, end_us: the row alone, as a session.
        expired_us: sessions that end by then have expired by its watermark.
        position: its place in its source.
    """

    codes: Codes
    time_us: IntArray
    end_us: IntArray
    expired_us: IntArray
    position: IntArray

    def __len__(self) -> int:
        return len(self.time_us)


def assign(keys: int, sessions: Sessions, rows: OverdueRows) -> tuple[IntArray, IntArray]:
    """The session that each row joins, and what becomes of the sessions.

    Args:
        keys: how many keys there are.
    Returns:
        For each session the number of the one that it is part of now, and the same for each row or `LATE`.
        Numbers are from 0, with gaps.
    """
    count, number = len(sessions), len(rows)
    together = connect(
        keys, np.concatenate([sessions.codes, rows.codes]), np.concatenate([sessions.start_us, rows.time_us]),
        np.concatenate([sessions.end_us, rows.end_us]), None,
    )  # fmt: skip
    of_session, of_row = together.of[:count], together.of[count:]
    touched = np.zeros(len(together), np.bool_)
    touched[of_row] = True
    joins, lone = _all_join(keys, sessions, rows, of_session, of_row, len(together))
    session_number: IntArray = np.arange(count)
    row_number: IntArray = np.full(number, LATE, np.int64)
    # A group in which all join gets a number of its own, behind those of sessions and of new ones for each row.
    everything = joins & touched
    session_number[everything[of_session]] = count + number + of_session[everything[of_session]]
    row_number[everything[of_row]] = count + number + of_row[everything[of_row]]
    one_by_one = touched & ~joins & ~lone
    if one_by_one.any():
        _take_in_turn(sessions, rows, one_by_one, of_session, of_row, session_number, row_number)
    return session_number, row_number


def _all_join(
    keys: int, sessions: Sessions, rows: OverdueRows, of_session: IntArray, of_row: IntArray, groups: int
) -> tuple[BoolArray, BoolArray]:
    """The groups of sessions and rows that surely become one, and those whose rows surely are all late."""
    latest_us = np.full(groups, np.iinfo(np.int64).min)
    np.maximum.at(latest_us, of_row, rows.expired_us)
    first_end_us = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(first_end_us, of_session, sessions.end_us)
    row_end_us = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(row_end_us, of_row, rows.end_us)
    has_session, has_tie = np.zeros(groups, np.bool_), np.zeros(groups, np.bool_)
    has_session[of_session] = True
    has_tie[of_session[sessions.tie != OPEN]] = True
    all_touch, all_late = np.ones(groups, np.bool_), np.ones(groups, np.bool_)
    all_touch[of_row[~_touches(keys, sessions, rows)]] = False
    all_late[of_row[rows.end_us > rows.expired_us]] = False
    alive = first_end_us > latest_us
    joins = ~has_tie & alive & ((has_session & all_touch) | (row_end_us > latest_us))
    return joins, ~has_session & all_late


def _touches(keys: int, sessions: Sessions, rows: OverdueRows) -> BoolArray:
    """Whether each row touches some session."""
    if not len(sessions):
        return np.zeros(len(rows), np.bool_)
    line = PackedTimes(keys, sessions.start_us, sessions.end_us, rows.time_us, rows.end_us)
    ends = line.place(sessions.codes, sessions.end_us)
    at = np.searchsorted(ends, line.place(rows.codes, rows.time_us))
    inside = at < len(sessions)
    at = np.minimum(at, len(sessions) - 1)
    touches: BoolArray = inside & (sessions.codes[at] == rows.codes) & (sessions.start_us[at] <= rows.end_us)
    return touches


@dataclass(slots=True)
class _Session:
    start_us: int
    end_us: int
    tie: int
    numbers: list[int]


def _take_in_turn(
    sessions: Sessions,
    rows: OverdueRows,
    groups: BoolArray,
    of_session: IntArray,
    of_row: IntArray,
    session_number: IntArray,
    row_number: IntArray,
) -> None:
    """Take the rows of these groups one by one, writing what becomes of them and of the sessions."""
    held: dict[int, list[_Session]] = {}
    for at in np.flatnonzero(groups[of_session]).tolist():
        session = _Session(int(sessions.start_us[at]), int(sessions.end_us[at]), int(sessions.tie[at]), [at])
        held.setdefault(int(of_session[at]), []).append(session)
    count = len(sessions)
    for row in np.flatnonzero(groups[of_row]).tolist():
        here = held.setdefault(int(of_row[row]), [])
        start_us, end_us = int(rows.time_us[row]), int(rows.end_us[row])
        expired_us, position = int(rows.expired_us[row]), int(rows.position[row])
        joined = [s for s in here if _takes(s, start_us, end_us, expired_us, position)]
        if not joined and end_us <= expired_us:
            continue
        new = _Session(start_us, end_us, OPEN, [count + row])
        for session in joined:
            here.remove(session)
            if session.start_us <= new.start_us:
                new.start_us, new.tie = session.start_us, session.tie
            new.end_us = max(new.end_us, session.end_us)
            new.numbers += session.numbers
        here.append(new)
    for several in held.values():
        for session in several:
            number = min(session.numbers)
            for member in session.numbers:
                if member < count:
                    session_number[member] = number
                else:
                    row_number[member - count] = number


def _takes(session: _Session, start_us: int, end_us: int, expired_us: int, position: int) -> bool:
    """Whether a session takes a row, which alone would be the session [start, end)."""
    if session.start_us > end_us or session.end_us < start_us or session.end_us <= expired_us:
        return False
    if session.start_us < end_us or session.tie == OPEN:
        return True
    # They touch at one instant, where the session's first row had seen everything expire that ended there by then:
    # the row joins it only when it was there before.
    return (session.start_us, session.tie) < (expired_us, position)
