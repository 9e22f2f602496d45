"""Who is let in at a ZeroMQ source or sink, and that whoever is not does no harm."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zmq
from click.testing import CliRunner

from millstream.connectors import zeromq
from millstream.connectors.curve import Keys, leaves_the_machine, make_keys
from millstream.connectors.messages import split_messages
from millstream.connectors.zeromq import ZeroMQReader, ZeroMQSink, ZeroMQSource
from millstream.coordinator import cli
from millstream.errors import FlowError, SinkError
from millstream.schema import to_schema

SCHEMA = to_schema({"n": pa.int64()})


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["sensor"])
    return tmp_path / "keys"


@pytest.fixture
def reader(keys: Path) -> Iterator[ZeroMQReader]:
    reader = ZeroMQSource("tcp://127.0.0.1:*", keys=keys, schema=SCHEMA).open("")
    yield reader
    reader.close()


def read(reader: ZeroMQReader, timeout_s: float = 5.0) -> list[bytes]:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        block = reader.read(1_000, 1 << 20)
        if block is not None:
            return split_messages(bytes(block.payload)).data  # type: ignore[arg-type]
        time.sleep(0.001)
    return []


def refused(reader: ZeroMQReader) -> bool:
    """Whether somebody is refused, and nothing of his comes through."""
    guard = reader._guard
    assert guard is not None
    until_s, before = time.monotonic() + 5.0, guard.refused
    while guard.refused < before + 1 and time.monotonic() < until_s:
        assert reader.read(1_000, 1 << 20) is None
        time.sleep(0.001)
    return guard.refused >= before + 1


def send(keys: Path, address: str, *messages: bytes) -> None:
    writer = ZeroMQSink(address, keys=keys).open(0, 1)
    for message in messages:
        writer._socket.send(message)
    writer.close()


def still_works(reader: ZeroMQReader, keys: Path) -> None:
    send(keys / "for-sensor", reader.address, b'{"n":1}')
    assert read(reader) == [b'{"n":1}']


def test_peers_with_keys_talk_whoever_binds(keys: Path) -> None:
    theirs = keys / "for-sensor"
    for ours, other in ((keys, theirs), (theirs, keys)):
        binding = ZeroMQSource("tcp://127.0.0.1:*", keys=ours).open("")
        send(other, binding.address, b"one", b"two")
        assert read(binding) == [b"one", b"two"]
        binding.close()
        sink = ZeroMQSink("tcp://127.0.0.1:*", keys=ours, bind=True).open(0, 1)
        connecting = ZeroMQSource(sink.address, keys=other, bind=False).open("")
        sink.write(pa.record_batch({"n": [1]}))
        assert read(connecting) == [b'{"n":1}']
        connecting.close()
        sink.close()


def test_a_peer_with_another_key_or_none_is_refused_and_said_once(
    keys: Path, reader: ZeroMQReader, tmp_path: Path, context: zmq.Context[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make_keys(tmp_path / "strange")
    (tmp_path / "strange/peers/flow.key").write_bytes((keys / "own.key").read_bytes())
    strange = Keys(tmp_path / "strange", "here")
    with context.socket(zmq.PUSH) as peer:
        connect(peer, tmp_path / "strange", strange.peers["flow"], reader.address)
        peer.send(b'{"n":0}')
        assert refused(reader)
    with context.socket(zmq.PUSH) as peer:
        peer.linger = 0
        peer.connect(reader.address)
        peer.send(b'{"n":0}')
        assert refused(reader)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "connections refused: 1 without a key that is known here" in said[0]
    still_works(reader, keys)


def connect(peer: zmq.Socket[bytes], folder: Path, server: bytes, address: str) -> None:
    own = Keys(folder, "here")
    peer.linger = 0
    peer.curve_publickey, peer.curve_secretkey, peer.curve_serverkey = own.public, own.secret, server
    peer.connect(address)


def test_a_peer_that_looks_for_another_server_is_refused(
    keys: Path, reader: ZeroMQReader, tmp_path: Path, context: zmq.Context[Any]
) -> None:
    make_keys(tmp_path / "other", ["anybody"])
    with context.socket(zmq.PUSH) as peer:
        connect(peer, keys / "for-sensor", Keys(tmp_path / "other", "here").public, reader.address)
        peer.send(b'{"n":0}')
        assert refused(reader)
    still_works(reader, keys)


def port_of(reader: ZeroMQReader) -> int:
    return int(reader.address.rpartition(":")[2])


GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(1) + bytes(31)
NONSENSE = {
    "nothing like it": b"GET / HTTP/1.1\r\n\r\n" * 50,
    "an old version": b"\xff" + bytes(8) + b"\x7f" + b"\x01" + b"\x00\x00" + bytes(100),
    "no encryption": GREETING.replace(b"CURVE", b"NULL\0") + b"\x04\x26\x05READY" + bytes(32),
    "a command that is none": GREETING + b"\x04\x06\x05HELL0",
    "a hello of the wrong length": GREETING + b"\x04\x06\x05HELLO",
    "a hello of the wrong content": GREETING + b"\x04\xc8\x05HELLO\x01\x00" + bytes(192),
    "a frame of 2^63 bytes": GREETING + b"\x06" + b"\x7f" + b"\xff" * 7 + bytes(100),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_bytes_that_are_no_protocol_do_no_harm(what: str, keys: Path, reader: ZeroMQReader) -> None:
    peer = socket.create_connection(("127.0.0.1", port_of(reader)), timeout=5)
    with peer, contextlib.suppress(OSError):  # whoever sends nonsense is cut off in the middle of it
        peer.sendall(NONSENSE[what])
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(4096):
            pass
    assert reader.read(1_000, 1 << 20) is None
    still_works(reader, keys)


class Tap:
    """Passes a connection on, and keeps what the client has sent."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._to = port
        self.heard = bytearray()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            back = threading.Thread(target=self._pass, args=(server, client, bytearray()), daemon=True)
            back.start()
            self._pass(client, server, self.heard)
            server.shutdown(socket.SHUT_WR)
            back.join(5)

    def _pass(self, one: socket.socket, other: socket.socket, heard: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                heard += data
                other.sendall(data)

    def close(self) -> None:
        self._thread.join(5)
        self._listener.close()


def test_what_was_overheard_cannot_be_replayed_nor_altered(keys: Path, reader: ZeroMQReader) -> None:
    tap = Tap(port_of(reader))
    send(keys / "for-sensor", f"tcp://127.0.0.1:{tap.port}", b'{"n":7,"secret":"word"}')
    assert read(reader) == [b'{"n":7,"secret":"word"}']
    tap.close()
    assert b"secret" not in tap.heard
    altered = bytes(tap.heard[:-1]) + bytes([tap.heard[-1] ^ 1])
    for recorded in (bytes(tap.heard), altered):
        with socket.create_connection(("127.0.0.1", port_of(reader)), timeout=5) as peer:
            with contextlib.suppress(ConnectionError):
                peer.sendall(recorded)
            assert refused(reader)
    still_works(reader, keys)


def test_a_message_that_is_too_long_ends_its_connection(
    keys: Path, monkeypatch: pytest.MonkeyPatch, context: zmq.Context[Any]
) -> None:
    monkeypatch.setattr(zeromq, "MESSAGE_BYTES", 1_000)
    reader = ZeroMQSource("tcp://127.0.0.1:*", keys=keys).open("")
    with context.socket(zmq.PUSH) as peer:
        monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        connect(peer, keys / "for-sensor", Keys(keys, "here").public, reader.address)
        peer.send(b"x" * 10_000)
        assert monitor.poll(5_000)
        peer.disable_monitor()
    assert reader.read(1_000, 1 << 20) is None
    still_works(reader, keys)
    reader.close()


def test_a_sink_without_a_peer_of_the_right_key_says_so(keys: Path, reader: ZeroMQReader, tmp_path: Path) -> None:
    make_keys(tmp_path / "strange")
    (tmp_path / "strange/peers/flow.key").write_bytes((keys / "own.key").read_bytes())
    writer = ZeroMQSink(reader.address, keys=tmp_path / "strange", timeout="100ms").open(0, 1)
    with pytest.raises(SinkError, match=r"is it running, and fast enough, and does each end have the other's key\?"):
        writer.write(pa.record_batch({"n": [1]}))
    writer.abort()


# ---------------------------------------------------------------- addresses and folders


@pytest.mark.parametrize(
    ("endpoint", "leaves"),
    [
        ("ipc:///tmp/x", False), ("tcp://127.0.0.1:1", False), ("tcp://127.1.2.3:1", False), ("tcp://[::1]:1", False),
        ("tcp://localhost:1", False), ("tcp://lo:1", False), ("tcp://*:1", True), ("tcp://0.0.0.0:1", True),
        ("tcp://[::]:1", True), ("tcp://eth0:1", True), ("tcp://example.org:1", True), ("tcp://10.0.0.1:1", True),
        ("tcp://127.0.0.1:0;10.0.0.1:1", True),
    ],
)  # fmt: skip
def test_addresses_that_others_can_reach_need_keys(endpoint: str, leaves: bool) -> None:
    assert leaves_the_machine(endpoint) is leaves
    makers: list[Callable[..., Any]] = [ZeroMQSource, ZeroMQSink]
    for make in makers:
        make(endpoint, keys="keys")
        if leaves:
            with pytest.raises(
                FlowError, match="others can reach that address, so it needs keys: `millstream keys DIR`"
            ):
                make(endpoint)
        else:
            make(endpoint)


def test_other_transports_are_refused() -> None:
    for endpoint in ("ws://127.0.0.1:1", "pgm://eth0;239.0.0.1:1", "udp://127.0.0.1:1"):
        with pytest.raises(FlowError, match="only 'tcp://' and 'ipc://' can be used"):
            ZeroMQSource(endpoint)


def test_secret_keys_are_for_their_owner_alone(keys: Path) -> None:
    secrets = [p for p in keys.rglob("*") if p.name.endswith("_secret")]
    assert sorted(p.parent.name for p in secrets) == ["for-sensor", "keys"]
    for path in [*secrets, keys, keys / "for-sensor"]:
        assert path.stat().st_mode & 0o077 == 0, path
    os.chmod(keys / "own.key_secret", 0o644)
    with pytest.raises(FlowError, match=r"own.key_secret can be read by others; chmod 600 it"):
        Keys(keys, "here")


def test_folders_that_are_not_as_they_should_be_are_named(keys: Path, tmp_path: Path) -> None:
    def opened(**options: Any) -> None:
        ZeroMQSource("tcp://127.0.0.1:*", **options).open("")

    with pytest.raises(FlowError, match=r"none/own.key_secret: No such file.*; `millstream keys .*none` makes keys"):
        opened(keys=tmp_path / "none")
    make_keys(tmp_path / "alone")
    with pytest.raises(FlowError, match=r"nobody could talk to it: .*alone/peers has no public key"):
        opened(keys=tmp_path / "alone")
    make_keys(keys, ["other"])
    with pytest.raises(FlowError, match=r"connects to one peer, and .*peers has 2 \(other, sensor\)"):
        opened(keys=keys, bind=False)
    (keys / "peers/bad.key").write_text("nonsense")
    with pytest.raises(FlowError, match=r"bad.key is no key of ZeroMQ"):
        opened(keys=keys)


def test_the_command_makes_keys_and_says_what_to_do_with_them(tmp_path: Path) -> None:
    folder = str(tmp_path / "keys")
    made = CliRunner().invoke(cli.main, ["keys", folder, "--for", "sensor"])
    assert made.exit_code == 0
    assert "who is now let in; move the folder to where sensor runs" in made.output
    assert "has keys already" in CliRunner().invoke(cli.main, ["keys", folder]).output
    again = CliRunner().invoke(cli.main, ["keys", folder, "--for", "sensor"])
    assert again.exit_code == 2
    assert "the peer has a key already" in again.output
