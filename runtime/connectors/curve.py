"""Who may talk to a ZeroMQ source or sink over the network: CURVE, ZeroMQ's own encryption and authentication.

A folder of keys belongs to one end::

    keys/own.key          its public key, for the others
    keys/own.key_secret   its secret key, for nobody
    keys/peers/*.key      the public keys of those it talks to

The end that binds lets in whoever holds one of its peers' keys; the end that connects has one peer. `make_keys` (``millstream
keys``) makes such folders. Keys are read when a run starts, in the process that opens the socket; they are in no plan
and in no checkpoint. Replayed and altered frames do not pass: every connection has keys of its own, and every frame a number.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import zmq
import zmq.auth

from millstream.errors import FlowError

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

OWN: Final = "own"
PEERS: Final = "peers"
_DOMAIN: Final = "millstream"
_LOCAL: Final = frozenset(("localhost", "lo"))
_TELL_S: Final = 10.0
_MOST_EVENTS: Final = 1_000

REFUSED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_REASONS: Final = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "without a key that is known here",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "speaking another protocol or version, or without a key",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "that broke off",
}


def leaves_the_machine(endpoint: str) -> bool:
    """Whether others than this machine's own users can reach an endpoint, or are reached by it.

    Raises:
        FlowError: neither tcp nor ipc.
    """
    transport, _, address = endpoint.partition("://")
    if transport in ("ipc", "inproc"):
        return False
    if transport != "tcp":
        raise FlowError(f"{endpoint}: only 'tcp://' and 'ipc://' can be used")
    host = address.rpartition(";")[2].rpartition(":")[0].strip("[]")
    if host in _LOCAL:
        return False
    with suppress(ValueError):
        return not ipaddress.ip_address(host).is_loopback
    return True  # any interface, or a name that may mean any machine


def make_keys(folder: Path, peers: Sequence[str] = ()) -> list[str]:
    """Make the keys of one end, where it has none, and folders to hand to peers that it then lets in.

    Args:
        folder: of this end; made if it is not there, for its owner's eyes only.
        peers: names; the folder of each is ``folder/for-NAME``, and knows this end.
    Returns:
        What was made, in sentences.
    Raises:
        FlowError: a peer has a key already, a name cannot be that of a file, or a folder cannot be written.
    """
    said: list[str] = []
    before = os.umask(0o077)
    try:
        if not (folder / f"{OWN}.key_secret").exists():
            _make_pair(folder)
            said.append(f"{folder}: new keys; {folder / PEERS} is for the public keys of those who may talk to it")
        for name in peers:
            if not name or "/" in name or name.startswith("."):
                raise FlowError(f"--for {name!r}: a peer's name is that of its key's file")
            known, handed = folder / PEERS / f"{name}.key", folder / f"for-{name}"
            if known.exists() or handed.exists():
                raise FlowError(f"{known}: the peer has a key already; remove it and {handed} to make another one")
            _make_pair(handed)
            known.write_bytes((handed / f"{OWN}.key").read_bytes())
            (handed / PEERS / f"{folder.resolve().name}.key").write_bytes((folder / f"{OWN}.key").read_bytes())
            said.append(f"{handed}: the keys of {name}, who is now let in; move the folder to where {name} runs")
    except OSError as error:
        raise FlowError(f"{error.filename or folder}: keys cannot be written: {error.strerror}") from error
    finally:
        os.umask(before)
    return said


def _make_pair(folder: Path) -> None:
    (folder / PEERS).mkdir(parents=True, exist_ok=True)
    zmq.auth.create_certificates(folder, OWN)


class Keys:
    """What one end holds, read from its folder.

    Raises:
        FlowError: a key is missing or none, or others may read the secret one.
    """

    def __init__(self, folder: str | os.PathLike[str], where: str) -> None:
        self.folder = Path(folder)
        secret = self.folder / f"{OWN}.key_secret"
        try:
            mode = secret.stat().st_mode
        except OSError as error:
            raise FlowError(
                f"{where}: {secret}: {error.strerror}; `millstream keys {self.folder}` makes keys"
            ) from error
        if stat.S_IMODE(mode) & 0o077:
            raise FlowError(f"{where}: {secret} can be read by others; chmod 600 it, or make new keys")
        self.public, own_secret = _loaded(secret, where)
        if own_secret is None:
            raise FlowError(f"{where}: {secret} holds no secret key")
        self.secret = own_secret
        self.peers = {path.stem: _loaded(path, where)[0] for path in sorted((self.folder / PEERS).glob("*.key"))}

    def secure(self, socket: zmq.Socket[bytes], context: zmq.Context[Any], bind: bool, where: str) -> Guard:
        """Let only peers with the right keys talk by a socket; before it binds or connects."""
        socket.curve_secretkey, socket.curve_publickey = self.secret, self.public
        if not self.peers:
            raise FlowError(f"{where}: nobody could talk to it: {self.folder / PEERS} has no public key (NAME.key)")
        authenticator = None
        if bind:
            from zmq.auth.thread import ThreadAuthenticator  # takes asyncio with it, for which no other run should wait

            socket.curve_server = True
            socket.zap_domain = _DOMAIN.encode()
            authenticator = ThreadAuthenticator(context)
            authenticator.start()
            authenticator.configure_curve(domain=_DOMAIN, location=str(self.folder / PEERS))
        elif len(self.peers) != 1:
            names = ", ".join(self.peers)
            raise FlowError(
                f"{where}: connects to one peer, and {self.folder / PEERS} has {len(self.peers)} ({names}); "
                "leave the public key of that one there"
            )
        else:
            socket.curve_serverkey = next(iter(self.peers.values()))
        return Guard(socket, where, authenticator)


def _loaded(path: Path, where: str) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
        zmq.utils.z85.decode(public)
    except (OSError, ValueError, KeyError) as error:
        raise FlowError(f"{where}: {path} is no key of ZeroMQ: {error}") from error
    return public, secret


class Guard:
    """Notices who is refused at a socket and says so, at most once in ten seconds."""

    def __init__(self, socket: zmq.Socket[bytes], where: str, authenticator: ThreadAuthenticator | None) -> None:
        self._socket, self._where, self._authenticator = socket, where, authenticator
        self._events: zmq.Socket[bytes] | None = socket.get_monitor_socket(REFUSED)
        self._counts: dict[int, int] = {}
        self._told_s = -_TELL_S
        self.refused = 0

    def look(self) -> None:
        """Take note of those who were refused. Costs little; called whenever the socket is read or written."""
        assert self._events is not None
        for _ in range(_MOST_EVENTS):
            if not self._events.poll(0):
                break
            from zmq.utils.monitor import recv_monitor_message  # takes asyncio with it, too

            event = int(recv_monitor_message(self._events)["event"])
            self._counts[event] = self._counts.get(event, 0) + 1
            self.refused += 1
        now_s = time.monotonic()
        if self._counts and now_s - self._told_s >= _TELL_S:
            reasons = ", ".join(f"{count} {_REASONS[event]}" for event, count in sorted(self._counts.items()))
            print(f"{self._where}: connections refused: {reasons}", file=sys.stderr, flush=True)
            self._counts, self._told_s = {}, now_s

    def close(self) -> None:
        if self._events is not None:
            self._socket.disable_monitor()
            self._events.close(linger=0)
            self._events = None
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None
