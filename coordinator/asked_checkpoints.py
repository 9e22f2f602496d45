"""Checkpoints and savepoints that somebody asked for: who waits for which, and which stay until they are released."""

from __future__ import annotations

from collections import deque

from millstream.topology import CALLER
from millstream.wire import Answered, Ask, Message


class AskedCheckpoints:
    """Args:
    outbox: messages to other processes, with their names.

    Attributes:
        pinned: the epochs of checkpoints of which nothing is to be removed.
    """

    def __init__(self, outbox: deque[tuple[str, Message]]) -> None:
        self._outbox = outbox
        self._wanted: list[Ask] = []
        """Those that have not begun."""
        self._promised: list[Ask] = []
        """Those that the checkpoint under way answers."""
        self.pinned: set[int] = set()

    @property
    def any_wanted(self) -> bool:
        return bool(self._wanted)

    def ask(self, ask: Ask) -> None:
        self._wanted.append(ask)

    def begun(self, epoch: int) -> None:
        """A checkpoint has begun: it is for all who have asked by now."""
        self._promised, self._wanted = self._wanted, []
        self.pinned.update(epoch for ask in self._promised if ask.what == Ask.SAVEPOINT)

    def completed(self, epoch: int) -> None:
        self._answer(epoch, "")

    def given_up(self, epoch: int, reason: str) -> None:
        self.pinned.discard(epoch)
        self._answer(epoch, reason)

    def release(self, epoch: int) -> None:
        """The savepoint has been copied away."""
        self.pinned.discard(epoch)

    def _answer(self, epoch: int, failure: str) -> None:
        self._outbox.extend((CALLER, Answered(ask.number, epoch, failure)) for ask in self._promised)
        self._promised.clear()
