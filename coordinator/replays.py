"""Dead letters that are to be replayed, as the coordinator reads them: blocks of a log, for one of a source's partitions.

Each source has a log of its own, to which whoever asks for a replay appends letters (replaying.py). The letters of a block go
on under the next number of a source partition that is open, as if they stood at this place of the source: to its decoder, or to the
operators that had refused them. How far a log was read is in the manifest, so a replay is counted when its effect is, and the
other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from millstream.connectors.base import Block

REPLAYS: Final = "replays"
"""The folder of the logs in the state directory."""
ASKED: Final = "replays-asked"
"""The file with what was asked of a flow while it did not run."""
ORIGIN: Final = "dead letters"
_MOST_LETTERS: Final = 65_536
_FIRST_BYTES: Final = 65_536

ReadLog = Callable[[str, int, int], bytes]
"""From a source's name, an offset and a number of bytes to at most so many bytes of its log."""


class Replays:
    """Args:
    read: reads the logs, which only grow while the run goes on.
    begun: by source, up to where its log was worked on in earlier lives.
    """

    def __init__(self, read: ReadLog, begun: Mapping[str, int]) -> None:
        self._read = read
        self._offsets = dict(begun)
        self._pending: set[str] = set()

    def offsets(self) -> Mapping[str, int]:
        return self._offsets

    def look(self, sources: Iterable[str]) -> None:
        """Find out for which sources there are new letters."""
        self._pending.update(s for s in sources if self._read(s, self._offsets.get(s, 0), 1))

    def is_pending(self, source: str) -> bool:
        return source in self._pending

    def take(self, source: str, max_rows: int, max_bytes: int) -> Block | None:
        """The next letters that go through a source, in so many bytes, or one larger one; None: there are none."""
        if source not in self._pending:
            return None
        offset = self._offsets.get(source, 0)
        lines = self._lines(source, offset, min(max_rows, _MOST_LETTERS), max_bytes)
        if not lines:
            self._pending.discard(source)
            return None
        self._offsets[source] = offset + len(lines)
        return Block(lines, offset, 0, ORIGIN, replayed=True)

    def _lines(self, source: str, offset: int, most: int, max_bytes: int) -> bytes:
        """Whole lines: what comes behind the last newline is being written."""
        size = max_bytes
        data = self._read(source, offset, size)
        while len(data) == size and b"\n" not in data:
            size = max(2 * size, _FIRST_BYTES)
            data = self._read(source, offset, size)
        end = data.find(b"\n") if size > max_bytes else data.rfind(b"\n")
        return b"".join(data[: end + 1].splitlines(keepends=True)[:most])


def log_path(state: Path, source: str) -> Path:
    return state / REPLAYS / f"{quote(source, safe='')}.jsonl"


def logs_in(state: Path) -> ReadLog:
    """The logs of a state directory."""

    def read(source: str, offset: int, size: int) -> bytes:
        try:
            with log_path(state, source).open("rb") as log:
                log.seek(offset)
                return log.read(size)
        except FileNotFoundError:
            return b""

    return read
