"""Whose output a line is: what a process prints while an operator works carries the operator's name to the supervisor.

The supervisor reads what its children print, line by line, from a pipe. A line that begins with a mark says which
operator was at work; the supervisor takes the mark off again. Only Python's own streams are marked.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Final, TextIO

_MARK: Final = "\x02"


class MarkedStream(io.TextIOBase):
    """Standard output or error of a worker.

    Args:
        at_work: the name of the operator that works now; "": none does.
    """

    def __init__(self, stream: TextIO, at_work: Callable[[], str]) -> None:
        self._stream = stream
        self._at_work = at_work
        self._begins = True

    def write(self, text: str) -> int:
        operator = self._at_work()
        if not operator or not text:
            marked = text
        else:
            mark = f"{_MARK}{operator}{_MARK}"
            ends = text.endswith("\n")
            body = text[:-1] if ends else text
            marked = (mark if self._begins else "") + body.replace("\n", f"\n{mark}") + ("\n" if ends else "")
        if text:
            self._begins = text.endswith("\n")
        self._stream.write(marked)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def mark_output(at_work: Callable[[], str]) -> None:
    """Mark what this process prints from here on."""
    sys.stdout = MarkedStream(sys.stdout, at_work)
    sys.stderr = MarkedStream(sys.stderr, at_work)


def unmarked(line: str) -> tuple[str, str]:
    """(operator, line without its mark); the operator is "" where there is no mark."""
    if line.startswith(_MARK):
        operator, mark, rest = line[1:].partition(_MARK)
        if mark:
            return operator, rest
    return "", line
