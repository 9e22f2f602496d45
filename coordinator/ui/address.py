"""Where the page listens, and what it takes to get in.

On loopback everybody on this machine may look; elsewhere a token is needed. The address is also left in the state
directory, readable for its owner alone, where ``millstream top`` finds it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from millstream.errors import FlowError

DEFAULT_PORT: Final = 7373
FILE: Final = "page.json"
TOKEN_VARIABLE: Final = "MILLSTREAM_TOKEN"
_BACKLOG: Final = 64
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~-]{16,200}")


@dataclass(frozen=True)
class Address:
    """Attributes:
    host, port: port 0: any that is free; None: the usual one, or any that is free where that is taken.
    """

    host: str = "127.0.0.1"
    port: int | None = None


@dataclass(frozen=True)
class Door:
    """A socket that listens.

    Attributes:
        token: what a reader must show; None: nothing.
    """

    socket: socket.socket
    host: str
    port: int
    token: str | None

    @property
    def url(self) -> str:
        """Without the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    @property
    def link(self) -> str:
        """What to open in a browser."""
        named = replace(self, host=socket.gethostname()) if self.host in ("0.0.0.0", "::") else self
        return named.url if self.token is None else f"{named.url}?token={self.token}"


def parse_address(text: str) -> Address | None:
    """``--ui``: "on", "off" (None), "HOST:PORT", "HOST" or ":PORT".

    Raises:
        FlowError: it is none of these.
    """
    if text == "off":
        return None
    if text == "on":
        return Address()
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    host = host.strip("[]") or "127.0.0.1"
    if port and not (port.isdigit() and int(port) < 2**16):
        raise FlowError(f"--ui {text}: {port!r} is not a port; use on, off, HOST:PORT or :PORT")
    return Address(host, int(port) if port else None)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_door(address: Address) -> Door:
    """Listen; whoever comes waits until somebody answers.

    Raises:
        FlowError: the address cannot be used.
    """
    token = None
    if not is_loopback(address.host) or TOKEN_VARIABLE in os.environ:
        token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
        if not _TOKEN.fullmatch(token):
            raise FlowError(f"{TOKEN_VARIABLE}: a token has 16 to 200 letters, digits, '-', '_', '.' or '~'")
    ports = [DEFAULT_PORT, 0] if address.port is None else [address.port]
    for port in ports:
        try:
            listening = _listen(address.host, port)
        except OSError as error:
            if port == ports[-1]:
                raise FlowError(
                    f"--ui {address.host}:{port}: cannot listen there: {error.strerror or error}; "
                    "choose another address, or --ui off"
                ) from error
        else:
            return Door(listening, address.host, listening.getsockname()[1], token)
    raise AssertionError("the last port either opened or raised")


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def leave_address(directory: Path, door: Door) -> None:
    """Say in the state directory where the page is; a directory that cannot be written is found out by the run."""
    with suppress(OSError):
        path = directory / FILE
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            json.dump({"url": door.url, "token": door.token, "process": os.getpid()}, file)


def take_address_away(directory: Path) -> None:
    """Forget the address that this process has left; that of another stays."""
    with suppress(OSError, ValueError, KeyError):
        if json.loads((directory / FILE).read_text())["process"] == os.getpid():
            (directory / FILE).unlink()


def left_address(directory: Path) -> tuple[str, str | None] | None:
    """The URL and token of the run that goes on in a state directory; None: none does, or it has no page."""
    try:
        told = json.loads((directory / FILE).read_text())
        os.kill(int(told["process"]), 0)
        return str(told["url"]), told["token"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
