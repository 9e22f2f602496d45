"""What the page and other programs may ask for: ``/api/v1/...`` as JSON, live pictures as server-sent events, ``/metrics``.

Nothing is computed for nobody: a picture is made when somebody asks, and once for all who ask for the same.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import resources
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import millstream
from millstream.commands import decode_command, encode_answer
from millstream.coordinator.ui.letters import late_in_files, newest_letters
from millstream.coordinator.ui.metrics import CONTENT_TYPE, exposition
from millstream.coordinator.ui.past import Past
from millstream.coordinator.ui.present import Present
from millstream.errors import CommandError

LIVE_EVERY_S: Final = 0.5
MOST_WATCHERS: Final = 32
_HEARTBEAT_S: Final = 10.0
_COMMANDS_AT_ONCE: Final = 4
_NO_STORE: Final = {"cache-control": "no-store"}
_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Application:
    """Args:
    present: the run that goes on; None: only the past is there to see.
    past: the history of the flow.
    """

    def __init__(self, present: Present | None, past: Past) -> None:
        self.present = present
        self.past = past
        self.closing = threading.Event()
        self._watchers = 0
        self._obeying = ThreadPoolExecutor(_COMMANDS_AT_ONCE, "commands")
        self._files = _page_files()
        self._drawn: tuple[int, bytes] = (-1, b"null")
        answers: dict[str, Callable[[Request], Any]] = {
            "run": self.run, "now": self.now, "timeline": self.timeline, "at": self.at, "happenings": self.happenings,
            "checkpoints": self.checkpoints, "dead-letters": self.dead_letters, "late": self.late,
            "operators/{name}/rows": self.rows,
        }  # fmt: skip
        self.starlette = Starlette(
            routes=[
                Route("/", self.page),
                Route("/page/{file}", self.page),
                *(Route(f"/api/v1/{path}", _as_json(answer)) for path, answer in answers.items()),
                Route("/api/v1/events", self.events),
                Route("/api/v1/commands", self.command, methods=["POST"]),
                Route("/metrics", self.metrics),
            ],
            exception_handlers={HTTPException: _told},
        )

    # --- the page ---

    async def page(self, request: Request) -> Response:
        name = request.path_params.get("file", "index.html")
        content = self._files.get(name)
        if content is None:
            raise HTTPException(404, f"there is no {name!r}")
        kind = _TYPES[name.rpartition(".")[2]]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    # --- what there is to know ---

    def run(self, request: Request) -> dict[str, Any]:
        """The flow as a graph, and the runs that the history has."""
        runs = self.past.runs()
        current = None if self.present is None else self.present.run
        graph = self.present.graph if self.present is not None else runs[-1].graph if runs else None
        return {
            "version": millstream.__version__,
            "live": self.present is not None,
            "run": current if current is not None else runs[-1].id if runs else None,
            "graph": None if graph is None else graph.as_json(),
            "runs": [{"id": r.id, "started_us": r.started_us} for r in runs],
            "commands": [] if self.present is None else self.present.commands,
        }

    def now(self, request: Request) -> Any:
        return None if self.present is None else self.present.picture()

    def at(self, request: Request) -> Any:
        return self.past.at(self._run(request), _number(request, "time_us", None))

    def timeline(self, request: Request) -> Any:
        return self.past.timeline(
            self._run(request), _number(request, "from_us", 0), _number(request, "until_us", 2**62),
            _number(request, "points", 240),
        )  # fmt: skip

    def happenings(self, request: Request) -> Any:
        return [asdict(h) for h in self.past.happenings(self._run(request))]

    def checkpoints(self, request: Request) -> Any:
        return [asdict(c) for c in self.past.checkpoints(self._run(request), min(1_000, _number(request, "most", 100)))]

    def dead_letters(self, request: Request) -> Any:
        return newest_letters(self.past.directory / "dead-letters", min(500, _number(request, "most", 50)))

    def late(self, request: Request) -> Any:
        """The last late events, as the run that goes on has seen them; of a run that is over, and of operators of which
        it has seen none, what their files hold."""
        most = min(500, _number(request, "most", 50))
        seen = [] if self.present is None else self.present.late_events(most)
        known = {event["operator"] for event in seen}
        return [*seen, *(e for e in late_in_files(self.past.directory / "late", most) if e["operator"] not in known)][
            :most
        ]

    def rows(self, request: Request) -> Any:
        """The last rows that left an operator; the first request asks for them, and later ones get them."""
        if self.present is None:
            raise HTTPException(409, "the run is over: there are no rows to see")
        name = request.path_params["name"]
        if name not in {o.name for o in self.present.graph.operators}:
            raise HTTPException(404, f"there is no operator {name!r}")
        return self.present.rows(name)

    def _run(self, request: Request) -> int:
        current = self.present.run if self.present is not None else None
        run = _number(request, "run", current if current is not None else self.past.newest())
        return run

    # --- live ---

    async def events(self, request: Request) -> Response:
        """Pictures as they come, a few times a second: ``event: picture``. The last is ``event: end``, with all that
        happened."""
        if self.present is None:
            raise HTTPException(409, "the run is over")
        if self._watchers >= MOST_WATCHERS:
            raise HTTPException(503, f"{MOST_WATCHERS} others are watching already")
        return StreamingResponse(self._pictures(self.present), media_type="text/event-stream", headers=_NO_STORE)

    async def _pictures(self, present: Present) -> AsyncIterator[bytes]:
        self._watchers += 1
        try:
            seen, silent_s = -1, 0.0
            while not self.closing.is_set():
                version = present.version
                if version != seen:
                    seen, silent_s = version, 0.0
                    yield b"event: picture\ndata: " + self._picture_text(present, version) + b"\n\n"
                elif silent_s >= _HEARTBEAT_S:
                    silent_s = 0.0
                    yield b": still here\n\n"
                await asyncio.sleep(LIVE_EVERY_S)
                silent_s += LIVE_EVERY_S
            yield b"event: picture\ndata: " + self._picture_text(present, present.version) + b"\n\n"
            # Afterwards nobody answers any more: why it has ended is told now.
            happened = [] if present.run is None else [asdict(h) for h in self.past.happenings(present.run)]
            yield b"event: end\ndata: " + json.dumps(happened).encode() + b"\n\n"
        finally:
            self._watchers -= 1

    def _picture_text(self, present: Present, version: int) -> bytes:
        if self._drawn[0] != version:
            self._drawn = (version, json.dumps(present.picture(), separators=(",", ":")).encode())
        return self._drawn[1]

    # --- steering ---

    async def command(self, request: Request) -> Response:
        """A line of the control channel, as `millstream.commands` has it, and the answer to it."""
        try:
            command = decode_command(await request.body())
        except CommandError as error:
            raise HTTPException(400, str(error)) from None
        if self.present is None:
            raise HTTPException(409, "the run is over")
        # A command may take as long as a checkpoint does. Threads are few, so who waits for many waits in line.
        answer = await asyncio.get_running_loop().run_in_executor(self._obeying, self.present.obey, command)
        status = 409 if answer.error else 200
        return Response(encode_answer(answer), status, _NO_STORE, "application/json")

    # --- other programs ---

    def metrics(self, request: Request) -> Response:
        if self.present is None:
            raise HTTPException(409, "the run is over")
        return Response(exposition(self.present), headers={**_NO_STORE, "content-type": CONTENT_TYPE})


def _page_files() -> dict[str, bytes]:
    """All that is served beside the API, by name: no path of a request ever reaches the disk."""
    folder = resources.files("millstream.coordinator.ui") / "page"
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name.rpartition(".")[2] in _TYPES}


def _as_json(answer: Callable[[Request], Any]) -> Callable[[Request], Response]:
    def respond(request: Request) -> Response:
        return JSONResponse(answer(request), headers=_NO_STORE)

    return respond


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers={**_NO_STORE, **(error.headers or {})})


def _number(request: Request, name: str, default: int | None) -> int:
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    try:
        value = int(text or "")
    except ValueError:
        raise HTTPException(400, f"{name}: expected a whole number, found {text!r}") from None
    if not 0 <= value <= 2**62:
        raise HTTPException(400, f"{name}: {value} is out of range")
    return value
