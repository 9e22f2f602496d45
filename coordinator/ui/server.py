"""The server: a thread of the supervisor, started by the first reader that comes.

A run that nobody looks at pays for a socket and nothing else: what it takes to serve is imported when somebody knocks.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Final

from millstream.coordinator.ui.address import Door
from millstream.coordinator.ui.past import Past
from millstream.coordinator.ui.present import Present

if TYPE_CHECKING:
    from uvicorn import Server

MOST_CONNECTIONS: Final = 128
_STOP_S: Final = 3.0


class PageServer:
    """Serves until it is closed."""

    def __init__(self, door: Door, present: Present | None, past: Past) -> None:
        self.door = door
        self._present = present
        self._past = past
        self._closing = threading.Event()
        self._server: Server | None = None
        self._knock, self._knocked = os.pipe()
        self._thread = threading.Thread(target=self._wait, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let readers have the end of what they read, and stop."""
        self._closing.set()
        os.write(self._knocked, b"x")
        self._thread.join(timeout=_STOP_S)
        self.door.socket.close()

    def _wait(self) -> None:
        waiting = select.poll()
        waiting.register(self.door.socket, select.POLLIN)
        waiting.register(self._knock, select.POLLIN)
        waiting.poll()
        if not self._closing.is_set():
            self._serve()

    def _serve(self) -> None:
        from millstream.coordinator.ui.serving import make_server

        server = make_server(self.door, self._present, self._past, self._closing, MOST_CONNECTIONS)
        server.run(sockets=[self.door.socket])
