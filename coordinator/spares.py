"""Processes that are kept ready: started beside a run, they have imported everything when one of its own is lost."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from millstream.coordinator.children import Child
from millstream.coordinator.view import View
from millstream.errors import ProcessError

_MOST: Final = 3
"""More would not pay: each holds memory, and where there are more processes, there are cores on which they start at once."""

_AFTER_S: Final = 5.0
"""How long a run has gone on before the first is started, and how much later each of the others: to start one takes a
second of a core, which a run that begins has better use for, and a short one does not have."""


class Spares:
    def __init__(self, view: View) -> None:
        self._view = view
        self._ready: list[Child] = []
        self._next_s: float | None = None

    def keep(self, processes: int, now_s: float) -> None:
        """To be called every now and then while the run goes on.

        Args:
            processes: how many of the run a spare could replace.
            now_s: a reading of `time.monotonic`.
        """
        if self._next_s is None:
            self._next_s = now_s + _AFTER_S
        for spare in [s for s in self._ready if s.process.poll() is not None]:
            self._ready.remove(spare)
            spare.end(0.0)
        if now_s < self._next_s or len(self._ready) >= min(processes, _MOST):
            return
        self._next_s = now_s + _AFTER_S
        with suppress(ProcessError):  # there is no room for one more, and the run does without
            self._ready.append(Child("millstream.coordinator.spare", [], self._view))

    def take(self) -> Child | None:
        """One that is there, if any. Others take its place when the run has gone on for a while."""
        self._next_s = None
        while self._ready:
            spare = self._ready.pop(0)
            if spare.process.poll() is None:
                return spare
            spare.end(0.0)
        return None

    def close(self) -> None:
        for spare in self._ready:
            spare.process.kill()
            spare.end(5.0)
        self._ready.clear()
