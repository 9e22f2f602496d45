"""Waking a loop that waits for its sockets, from another thread of the process."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import zmq


class Waker:
    """What other threads wake a loop by; it holds a file descriptor until it is closed.

    Args:
        poller: what the loop waits on, in its own thread.
    """

    def __init__(self, poller: zmq.Poller) -> None:
        self._poller = poller
        self._lock = threading.Lock()
        self._event: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        poller.register(self._event, zmq.POLLIN)

    def wake(self) -> None:
        """End the wait of the loop, or its next one. Any thread may call this, also of a loop that has ended."""
        with self._lock:  # once closed, the number of the descriptor may be somebody else's
            if self._event is not None:
                os.eventfd_write(self._event, 1)

    def woken(self) -> None:
        """The loop is about to look at what there is: waits from now on end by what comes from now on."""
        if self._event is not None:
            with suppress(BlockingIOError):
                os.eventfd_read(self._event)

    def close(self) -> None:
        """By the thread of the loop. Doing it twice is doing it once."""
        with self._lock:
            if self._event is not None:
                self._poller.unregister(self._event)
                os.close(self._event)
                self._event = None
