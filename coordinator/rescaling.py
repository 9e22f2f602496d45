"""Another number of workers, as the coordinator leads the run there.

A pure state machine. The run goes on as before until the workers that join have said hello; then nothing more is read,
and a closing checkpoint is made, at which everyone switches to the next life. Until then the request may be
given up, and everyone goes on as before: also where one that joins does not come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from millstream.topology import CALLER, worker_name
from millstream.wire import Answered, Message, Rescale, Stop, Switch


class Rescaling:
    """Args:
    workers: the names of those that the run has now.
    outbox: messages to other processes, with their names.
    hang_timeout_s: how long one that joins may take to say hello.

    Attributes:
        asked: the request that the run is about to follow.
        closing_since_us: since when nothing has been read, for the closing checkpoint; None: it has not begun.
    """

    def __init__(self, workers: Iterable[str], outbox: deque[tuple[str, Message]], hang_timeout_s: float) -> None:
        self._workers, self._outbox = list(workers), outbox
        self._hang_timeout_us = int(hang_timeout_s * 1e6)
        self.asked: Rescale | None = None
        self._asked_us = 0
        self.closing_since_us: int | None = None
        self._early: set[str] = set()
        """Workers that said hello before it was known that they would join."""
        self._joining: set[str] = set()

    @property
    def is_closing(self) -> bool:
        return self.closing_since_us is not None

    @property
    def everyone(self) -> list[str]:
        """All workers, also those that are about to join."""
        return [*self._workers, *(self._joiners(self.asked) if self.asked is not None else ())]

    def _joiners(self, rescale: Rescale) -> list[str]:
        return [worker_name(i) for i in range(len(self._workers), rescale.workers)]

    def ask(self, rescale: Rescale, refusal: str, now_us: int) -> None:
        """Take a request.

        Args:
            refusal: why the run cannot follow any; empty: it can.
        """
        if not refusal and self.asked is not None:
            refusal = f"the run is about to go on with {self.asked.workers} workers already"
        if refusal:
            self._refuse(rescale, refusal)
            return
        self.asked, self._asked_us = rescale, now_us
        self._joining = set(self._joiners(rescale)) - self._early

    def on_hello(self, name: str) -> None:
        """A worker that the run does not have yet is there."""
        self._early.add(name)
        self._joining.discard(name)

    def overdue(self, now_us: int) -> str:
        """Why the run waits no longer for those who join; empty: there is time."""
        silent_us = now_us - self._asked_us
        if not self._joining or silent_us <= self._hang_timeout_us:
            return ""
        names = ", ".join(sorted(self._joining))
        return f"{names} did not start within {silent_us // 1_000_000} s; the run goes on with {len(self._workers)} as before"

    @property
    def ready(self) -> Rescale | None:
        """The request, when all who join are there."""
        return None if self._joining else self.asked

    def close(self, now_us: int) -> None:
        """Nothing more is read: the closing checkpoint begins."""
        self.closing_since_us = now_us

    def switch(self, rescale: Rescale, epoch: int) -> None:
        """The closing checkpoint exists, and all it counts is shown: the next life begins."""
        switch = Switch(epoch, rescale.workers, rescale.next_attempt)
        self._outbox.extend((name, switch) for name in (*self.everyone, CALLER))

    def give_up(self, reason: str) -> bool:
        """Do not follow the request, if there is one; returns whether the run stood still for it."""
        if self.asked is None:
            return False
        rescale, self.asked = self.asked, None
        self._joining.clear()
        self._refuse(rescale, reason)
        stood_still, self.closing_since_us = self.is_closing, None
        return stood_still

    def _refuse(self, rescale: Rescale, reason: str) -> None:
        self._outbox.append((CALLER, Answered(rescale.number, failure=reason)))
        for name in [n for n in self._joiners(rescale) if n not in self.everyone]:
            self._early.discard(name)
            self._outbox.append((name, Stop(False)))
