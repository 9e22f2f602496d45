"""Parts of sessions, as columns: made from rows, and found to belong together by sorting.

A part is some rows of one key that are in one session: what a batch held of it, what earlier batches held, or
what a pane has shown of it. Sorted by key and start, a part begins a new session where it starts behind
everything before it has ended. No key is looked up one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from millstream.accumulators import AccumulatorSet, Column, concat, nbytes, take
from millstream.batch import BoolArray, IntArray, Keys
from millstream.grouping import Groups
from millstream.operators.windows.panes import TimingArray
from millstream.runs import unify_keys
from millstream.state.pieces import CHANGED, NEVER, PieceArray
from millstream.times import MAX_US

OPEN: Final = -1
"""See `SessionParts.tie`."""
_PACKED_LIMIT: Final = 2**62

Codes = npt.NDArray[np.signedinteger]


@dataclass(frozen=True, slots=True)
class SessionParts:
    """Parts of sessions; those of one key may overlap, and then belong together.

    Attributes:
        start_us, end_us: int64[n], from the first event to a gap after the last.
        tie: int64[n]. A session that ends exactly where this part starts is one with it, unless it had expired
            by the watermark of every row at the start: then the position of the first of them; else `OPEN`.
        pane: int64[n], the number of the pane that has shown the part, -1 for none.
        timing: int8[n], of that pane.
        columns: the accumulators.
        piece: int32[n], in which piece of checkpoints it lies (`RowPieces`).
    """

    keys: Keys
    start_us: IntArray
    end_us: IntArray
    tie: IntArray
    pane: IntArray
    timing: TimingArray
    columns: list[Column]
    piece: PieceArray

    def __len__(self) -> int:
        return len(self.start_us)

    def take(self, rows: npt.NDArray[np.integer]) -> SessionParts:
        return SessionParts(
            self.keys.take(rows), self.start_us[rows], self.end_us[rows], self.tie[rows], self.pane[rows],
            self.timing[rows], [take(c, rows) for c in self.columns], self.piece[rows],
        )  # fmt: skip

    def where(self, mask: BoolArray) -> SessionParts:
        return self if mask.all() else self.take(np.flatnonzero(mask))

    @property
    def nbytes(self) -> int:
        beside = (self.keys.codes, self.start_us, self.end_us, self.tie, self.pane, self.timing, self.piece)
        return int(self.keys.distinct.nbytes) + sum(a.nbytes for a in beside) + sum(map(nbytes, self.columns))


def unshown(keys: Keys, start_us: IntArray, end_us: IntArray, tie: IntArray, columns: list[Column]) -> SessionParts:
    """Parts that no pane has shown yet."""
    count = len(start_us)
    unseen, timing, piece = np.full(count, -1, np.int64), np.zeros(count, np.int8), np.full(count, NEVER, np.int32)
    return SessionParts(keys, start_us, end_us, tie, unseen, timing, columns, piece)


def concat_parts(parts: Sequence[SessionParts]) -> SessionParts:
    if len(parts) == 1:
        return parts[0]
    return SessionParts(
        unify_keys([p.keys for p in parts]), np.concatenate([p.start_us for p in parts]),
        np.concatenate([p.end_us for p in parts]), np.concatenate([p.tie for p in parts]),
        np.concatenate([p.pane for p in parts]), np.concatenate([p.timing for p in parts]),
        [concat(c) for c in zip(*(p.columns for p in parts), strict=True)], np.concatenate([p.piece for p in parts]),
    )  # fmt: skip


# --- what belongs together ---


class PackedTimes:
    """Keys and times as one number each, in the order of (key, time).

    Args:
        keys: how many keys there are.
        times_us: all times that will be asked for.
    """

    def __init__(self, keys: int, *times_us: IntArray) -> None:
        self._low = min((int(t.min()) for t in times_us if len(t)), default=0)
        self._span = max((int(t.max()) for t in times_us if len(t)), default=0) - self._low + 1
        self._ranks: IntArray | None = None
        if keys * self._span >= _PACKED_LIMIT:
            self._ranks = np.unique(np.concatenate(times_us))
            self._span = len(self._ranks)

    def place(self, codes: Codes, time_us: IntArray) -> IntArray:
        times = time_us - self._low if self._ranks is None else np.searchsorted(self._ranks, time_us)
        placed: IntArray = codes * np.int64(self._span) + times
        return placed


@dataclass(frozen=True, slots=True)
class Sessions:
    """Which session each of some parts is in. Sessions are numbered by key, then start.

    Attributes:
        of: int64[parts], the session of each.
        codes: the key of each session.
        start_us, end_us, tie: as of a part.
    """

    of: IntArray
    codes: Codes
    start_us: IntArray
    end_us: IntArray
    tie: IntArray

    def __len__(self) -> int:
        return len(self.start_us)


def connect(keys: int, codes: Codes, start_us: IntArray, end_us: IntArray, tie: IntArray | None) -> Sessions:
    """Find the sessions of parts: those that touch or overlap are one.

    Args:
        keys: how many keys there are.
        codes: the key of each part.
        tie: see `SessionParts.tie`; None: `OPEN` for all.
    """
    count = len(start_us)
    if count == 0:
        return Sessions(start_us, codes, start_us, end_us, start_us)
    line = PackedTimes(keys, start_us, end_us)
    starts = line.place(codes, start_us)
    order = np.argsort(starts)
    starts, until = starts[order], np.maximum.accumulate(line.place(codes, end_us)[order])
    begins = np.ones(count, np.bool_)
    begins[1:] = starts[1:] > until[:-1]
    ties = None
    if tie is not None and (tie != OPEN).any():
        ties = _ties(starts, tie[order])
        begins[1:] |= (starts[1:] == until[:-1]) & (ties[1:] != OPEN)
    first = np.flatnonzero(begins)
    session = np.empty(count, np.int64)
    session[order] = np.cumsum(begins) - 1
    at = order[first]
    ends = np.maximum.reduceat(end_us[order], first)
    return Sessions(
        session, codes[at], start_us[at], ends, np.full(len(first), OPEN, np.int64) if ties is None else ties[first]
    )


def _ties(starts: IntArray, tie: IntArray) -> IntArray:
    """The tie of all parts that start together: `OPEN` if one is, else the first position. Sorted by start."""
    first = np.flatnonzero(np.concatenate([[True], starts[1:] != starts[:-1]]))
    lowest = np.minimum.reduceat(tie, first)
    return np.repeat(lowest, np.diff(np.append(first, len(starts))))


def sessions_by_number(of: IntArray, codes: Codes, start_us: IntArray, end_us: IntArray, tie: IntArray) -> Sessions:
    """The same for parts whose sessions, from 0 without gaps, are known already."""
    count = int(of.max()) + 1 if len(of) else 0
    starts, ends = np.full(count, MAX_US), np.full(count, -MAX_US)
    np.minimum.at(starts, of, start_us)
    np.maximum.at(ends, of, end_us)
    ties = np.full(count, MAX_US)
    at_start = start_us == starts[of]
    np.minimum.at(ties, of[at_start], tie[at_start])
    session_codes = np.empty(count, codes.dtype)
    session_codes[of] = codes
    return Sessions(of, session_codes, starts, ends, ties)


# --- making parts of parts ---


def joined(
    parts: SessionParts, sessions: Sessions, which: BoolArray | None, accumulators: AccumulatorSet
) -> tuple[SessionParts, IntArray]:
    """One part for each session that has any among these, reaching over the whole of its session.

    Args:
        which: parts to take; None: all.
    Returns:
        The parts, not shown; and the session of each, ascending.
    """
    rows = np.arange(len(parts)) if which is None else np.flatnonzero(which)
    every = len(rows) == len(parts)
    of, columns = sessions.of, parts.columns
    if not every:
        of, columns = of[rows], [take(c, rows) for c in columns]
    present = np.zeros(len(sessions), np.bool_)
    present[of] = True
    numbers = np.flatnonzero(present)
    codes = of if len(numbers) == len(sessions) else (np.cumsum(present) - 1)[of]
    if len(numbers) == len(of):
        order = np.empty(len(of), np.int64)
        order[codes] = np.arange(len(of))
        columns = [take(c, order) for c in columns]
    else:
        columns = accumulators.combine(columns, Groups(codes, len(numbers)))
    keys = Keys(parts.keys.distinct, sessions.codes[numbers].astype(np.int32, copy=False))
    whole = unshown(keys, sessions.start_us[numbers], sessions.end_us[numbers], sessions.tie[numbers], columns)
    known = np.flatnonzero(parts.piece[rows] != NEVER)
    if len(known):
        whole = replace(whole, piece=_pieces_of(whole, codes, known, parts.take(rows[known])))
    return whole, numbers


def _pieces_of(whole: SessionParts, codes: Codes, known: npt.NDArray[np.integer], parts: SessionParts) -> PieceArray:
    """In which pieces that lies what was made of parts: what was made of a single one, and is the same, where that lies.

    Args:
        codes: what each part went into.
        known: which of them are the ``parts`` that are in pieces, or have been.
    """
    piece, into = whole.piece.copy(), codes[known]
    piece[into] = CHANGED
    same = np.bincount(codes, minlength=len(whole))[into] == 1
    for name in ("start_us", "end_us", "tie", "pane"):
        same &= getattr(parts, name) == getattr(whole, name)[into]
    piece[into[same]] = parts.piece[same]
    return piece
