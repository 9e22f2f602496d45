"""The circuit breaker: where too large a share of an operator's recent events fails, going on is of no use.

A wrong format, a field that was renamed, a service that is gone: then nearly every event fails, and a run that sets
them all aside fills a disk and looks well. Counted are the events of one operator in one process, over the
last thousand to two thousand of them, or the last two batches where those are larger.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from millstream.errors import TooManyErrors

LEAST_EVENTS: Final = 1_000
"""Fewer say nothing: the first line of a file may well be bad."""
_KINDS_KEPT: Final = 100
_VARYING: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(\.\d+)?")


def kind_of(reason: str) -> str:
    """A reason without the values in it, so that reasons that differ only in those are one."""
    return _VARYING.sub("…", reason)


class Breaker:
    """Args:
    operator: its name and the user's line.
    most: the share of events that may fail, from 0 to 1.
    """

    def __init__(self, operator: str, most: float) -> None:
        self.operator, self.most = operator, most
        self._newer = self._older = (0, 0)
        self._reasons: Counter[str] = Counter()
        self._older_reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def begin_at(self, events: int, failed: int) -> None:
        """What was counted before does not count: a run that goes on from a checkpoint does so after a fix."""
        self._newer = self._older = (events, failed)

    def note(self, reason: str) -> None:
        """An event has failed."""
        kind = kind_of(reason)
        if kind in self._examples or len(self._examples) < _KINDS_KEPT:
            self._reasons[kind] += 1
            self._examples.setdefault(kind, reason)

    def check(self, events: int, failed: int) -> None:
        """
        Args:
            events: how many the operator has taken since it began to count.
            failed: how many of them have failed.
        Raises:
            TooManyErrors: more of the recent ones failed than may.
        """
        recent, recent_failed = events - self._older[0], failed - self._older[1]
        if recent >= LEAST_EVENTS and recent_failed > self.most * recent:
            raise TooManyErrors(self._sentence(recent, recent_failed))
        if events - self._newer[0] >= LEAST_EVENTS:
            self._older, self._newer = self._newer, (events, failed)
            self._older_reasons, self._reasons = self._reasons, Counter()
            self._examples = {kind: self._examples[kind] for kind in self._older_reasons}

    def _sentence(self, recent: int, failed: int) -> str:
        (kind, count), *_ = (self._reasons + self._older_reasons).most_common(1) or [("", 0)]
        often = f"; {count:,} times such as: {self._examples[kind]}" if count else ""
        return (
            f"{self.operator}: {failed:,} of its last {recent:,} events failed ({failed / recent:.0%}), more than "
            f"most_errors={self.most:g} of the flow allows{often}. Once that is mended, run the flow again: "
            "with checkpoints it goes on from the last one, and what failed since comes again"
        )
