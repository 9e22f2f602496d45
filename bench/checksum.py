"""Do two engines give the same rows? One number for a multiset of result rows.

Each row is written as a canonical text, hashed with 8-byte BLAKE2b, and the hashes are added modulo 2^64: the order of
the rows does not matter, how often each one comes does. Floats are written to 0.001.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

Pane = tuple[int, str, int, float, float, float]
"""Window start (ms), key, count, sum, mean, max."""

Alert = tuple[int, str, float, float, float]
"""Time (ms), key, value, and the mean and deviation of the key's earlier values."""


class Checksum:
    """A running checksum of rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._total = 0

    def add(self, text: str) -> None:
        self.rows += 1
        self._total += int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")

    @property
    def value(self) -> str:
        return f"{self._total % 2**64:016x}"


def of_panes(panes: Iterable[Pane]) -> Checksum:
    """The checksum of W1's and W2's results."""
    checksum = Checksum()
    for start_ms, key, count, total, mean, top in panes:
        checksum.add(f"{start_ms}|{key}|{count}|{total:.3f}|{mean:.3f}|{top:.3f}")
    return checksum


def of_words(counts: Iterable[tuple[str, int]]) -> Checksum:
    """The checksum of W3's final counts, each word once."""
    checksum = Checksum()
    for word, count in counts:
        checksum.add(f"{word}|{count}")
    return checksum


def of_alerts(alerts: Iterable[Alert]) -> Checksum:
    """The checksum of W4's alerts."""
    checksum = Checksum()
    for ts_ms, key, value, mean, deviation in alerts:
        checksum.add(f"{ts_ms}|{key}|{value:.3f}|{mean:.3f}|{deviation:.3f}")
    return checksum


def of_sessions(sessions: Iterable[tuple[int, int, str, int, float]]) -> Checksum:
    """The checksum of W5's results: start and end (ms), key, count, sum."""
    checksum = Checksum()
    for start_ms, end_ms, key, count, total in sessions:
        checksum.add(f"{start_ms}|{end_ms}|{key}|{count}|{total:.3f}")
    return checksum


def of_counts(counts: Iterable[tuple[int, str, int]]) -> Checksum:
    """The checksum of W6's results: window start (ms), key, count."""
    checksum = Checksum()
    for start_ms, key, count in counts:
        checksum.add(f"{start_ms}|{key}|{count}")
    return checksum


def of_pairs(pairs: Iterable[tuple[str, int, int, float, float]]) -> Checksum:
    """The checksum of W7's results: key, and times (ms) and values of both sides."""
    checksum = Checksum()
    for key, left_ms, right_ms, left, right in pairs:
        checksum.add(f"{key}|{left_ms}|{right_ms}|{left:.3f}|{right:.3f}")
    return checksum
