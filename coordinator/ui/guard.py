"""Who may ask the page for something, and how much: a layer around the application.

The page runs beside the user's browser, in which any site may try to reach it. What protects it: a name of this machine
in ``Host`` (a foreign site's name that was made to point here is another), no request that another site has caused, a
token where others than this machine's users could get in, limits on what is read, and time limits for who is slow.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException

from millstream.coordinator.ui.address import is_loopback

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE: Final = "millstream_token"
BODY_BYTES: Final = 64 * 1024
PATH_BYTES: Final = 2_048
HEADER_BYTES: Final = 16 * 1024
SLOW_S: Final = 10.0
"""How long a client may take for its next piece of a request, or for reading a piece of an answer."""

_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


_CLOSE: Final = {"connection": "close"}
"""Of the rest of a request that was refused in its middle nobody wants to hear."""


class Refused(HTTPException):
    """A request that is not answered: a status of HTTP, and a sentence for who asked."""


class Guard:
    """Args:
    host: the address that the server listens at.
    token: what a request must show; None: nothing.
    """

    def __init__(self, app: App, host: str, token: str | None) -> None:
        self.app = app
        self.host = host
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            headers = _headers(scope)
            self._check_host(headers)
            _check_site(scope, headers)
            _check_size(scope, headers)
            given = self._check_token(scope, headers)
        except Refused as refused:
            await _answer(send, refused.status_code, refused.detail)
            return
        if given is not None:
            await _remember(send, given)
            return
        await self.app(scope, _limited(receive), _guarded(send))

    def _check_host(self, headers: dict[str, str]) -> None:
        # With a token a site elsewhere gains nothing from a name that points here.
        if self.token is None and not is_loopback(_host_of(headers.get("host", ""))):
            raise Refused(421, "this page is served on loopback; ask for it as 127.0.0.1 or localhost")

    def _check_token(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Returns the token where it was in the address, from which it is to go into a cookie.

        Raises:
            Refused: there is none, or a wrong one.
        """
        if self.token is None:
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20).get("token", [""])[0]
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        for shown in (bearer, _cookie(headers), asked):
            if shown and hmac.compare_digest(shown.encode(), self.token.encode()):
                return shown if shown == asked and scope["path"] == "/" else None
        raise Refused(401, "a token is needed: open the address that `millstream run` printed, which has it")


def _headers(scope: Scope) -> dict[str, str]:
    """By name; where one comes twice, the request is ambiguous."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "origin", "authorization", "content-length"):
            raise Refused(400, f"{key} comes twice")
        headers[key] = value.decode("latin-1")
    return headers


def _host_of(host: str) -> str:
    return host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _check_site(scope: Scope, headers: dict[str, str]) -> None:
    """Refuse what another site has made a browser ask for. A link to the page may be followed from anywhere."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        raise Refused(403, "requests from other sites are not answered")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        followed_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if not (followed_link and scope["path"] == "/"):
            raise Refused(403, "requests from other sites are not answered")
    if (
        scope["method"] not in ("GET", "HEAD")
        and headers.get("content-type", "").partition(";")[0] != "application/json"
    ):
        raise Refused(415, "send application/json")


def _check_size(scope: Scope, headers: dict[str, str]) -> None:
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > PATH_BYTES:
        raise Refused(414, f"an address has at most {PATH_BYTES} bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:
        raise Refused(431, f"the headers of a request have at most {HEADER_BYTES} bytes")
    length = headers.get("content-length", "0")
    if not length.isdigit():
        raise Refused(400, "content-length is no number")
    if int(length) > BODY_BYTES:
        raise Refused(413, f"a request has at most {BODY_BYTES} bytes")


def _cookie(headers: dict[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _limited(receive: Receive) -> Receive:
    """A body of bounded size from a client that goes on sending; once it is whole, its end is waited for in peace."""
    size, whole = 0, False

    async def received() -> Event:
        nonlocal size, whole
        if whole:
            return await receive()
        try:
            event = await asyncio.wait_for(receive(), SLOW_S)
        except TimeoutError:
            raise Refused(408, "the request did not come to its end", _CLOSE) from None
        size += len(event.get("body", b""))
        whole = not event.get("more_body", False)
        if size > BODY_BYTES:
            raise Refused(413, f"a request has at most {BODY_BYTES} bytes", _CLOSE)
        return event

    return received


def _guarded(send: Send) -> Send:
    async def sent(event: Event) -> None:
        if event["type"] == "http.response.start":
            event = {**event, "headers": [*event.get("headers", ()), *_HEADERS]}
        await send(event)

    return sent


async def _remember(send: Send, token: str) -> None:
    """Put the token into a cookie, and take it out of the address, where it would be seen and kept."""
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
    headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"cache-control", b"no-store"), *_HEADERS]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, status: int, reason: str) -> None:
    body = (reason + "\n").encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"), *_HEADERS,
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
