"""What it takes to serve the page: uvicorn with our application, guarded, and patient with nobody."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from millstream.coordinator.ui.address import Door
from millstream.coordinator.ui.application import Application
from millstream.coordinator.ui.guard import HEADER_BYTES, SLOW_S, Guard
from millstream.coordinator.ui.past import Past
from millstream.coordinator.ui.present import Present


class _Impatient(H11Protocol):
    """Ends a connection on which no request has come to its end, or on which nobody reads the answer, within a while."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(SLOW_S, self._close_silent)
        self._until_read: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not closed: that would wait until what was written is read.
        self._until_read = self.loop.call_later(SLOW_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

    def _read(self) -> None:
        if self._until_read is not None:
            self._until_read.cancel()
            self._until_read = None

    def _close_silent(self) -> None:
        if self.cycle is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        self._read()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """Stops when it is told to by an event, and tells those who watch before."""

    def __init__(self, config: uvicorn.Config, application: Application, closing: threading.Event) -> None:
        super().__init__(config)
        self._application = application
        self._closing = closing

    async def on_tick(self, counter: int) -> bool:
        if self._closing.is_set():
            self._application.closing.set()
            return True
        return await super().on_tick(counter)


# What goes wrong is told to who asked, with a status; the terminal belongs to the run.
logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
logging.getLogger("uvicorn.error").propagate = False


def make_server(
    door: Door, present: Present | None, past: Past, closing: threading.Event, most_connections: int
) -> uvicorn.Server:
    application = Application(present, past)
    guarded: Any = Guard(application.starlette, door.host, door.token)
    config = uvicorn.Config(
        guarded, http=_Impatient, ws="none", lifespan="off", loop="asyncio", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=most_connections, timeout_keep_alive=5,
        timeout_graceful_shutdown=2, h11_max_incomplete_event_size=HEADER_BYTES, backlog=64,
    )  # fmt: skip
    return _Server(config, application, closing)
