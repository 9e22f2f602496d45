"""Events from and to other programs over ZeroMQ.

The source pulls (or subscribes), the sink pushes (or publishes). Their high-water marks are finite, so what
is in flight is bounded on both sides: a source that is not read makes its pushers wait, and a receiver
that is away or slow makes the sink wait, up to a deadline. A publisher without subscribers drops, as ZeroMQ
defines; one with slow subscribers waits for them.

ZeroMQ acknowledges nothing. A process that dies takes up to a high-water mark of messages with it. And over ipc,
libzmq 4.3.5 drops messages when a pusher closes its socket while the receiver is at its mark: 350 to 500 of 600,000 in
five of seven runs with a pusher faster than the source, and none in six runs over tcp. A pusher that ends should use
tcp, or stay until it knows that its last messages came.

Over tcp, beyond the machine itself, both ends have keys (curve.py). A peer without the right one, or that speaks another
version, is refused; a message that is too long ends its connection; one that cannot be decoded is a dead letter.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

import pyarrow as pa
import zmq

from millstream.connectors import curve
from millstream.connectors.base import Block, Decoder, Offset, Placement, Reader, Sink, Source, Writer
from millstream.connectors.journal import Journal
from millstream.connectors.messages import FRAME_BYTES, Payload, Per, join_messages, message_decoder, message_encoder
from millstream.errors import FlowError, SinkError, SourceError
from millstream.times import Duration, duration_us

LINGER_S = 0.005
HIGH_WATER_MARK = 1_000
MESSAGE_BYTES: Final = 64 << 20
"""Longer messages are not taken: their sender loses its connection."""

_LEAST_PAUSE_S: Final = 0.001
_PILE: Final = 4
"""While a block is gathered, no more than about one in so many of the high-water mark piles up in the socket."""


class ZeroMQSource(Source):
    """Messages that other programs push or publish. Of a message with several parts, the last one counts."""

    live = True
    journaled = True
    taken_once = True

    def __init__(
        self,
        endpoint: str,
        *,
        payload: Payload = "json",
        schema: pa.Schema | None = None,
        bind: bool = True,
        kind: Literal["pull", "sub"] = "pull",
        topics: Sequence[str] = ("",),
        keys: str | os.PathLike[str] | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
    ) -> None:
        """
        Args:
            endpoint: "tcp://*:5555", "ipc:///tmp/events".
            payload: how events are encoded.
            schema: the fields; None: those of the first block.
            bind: wait for pushers to connect, instead of connecting to one.
            kind: "pull" (every message reaches one receiver) or "sub" (every subscriber).
            topics: what a "sub" wants: messages that start with one of these.
            keys: a folder that ``millstream keys`` has made: only peers whose keys are in it are let in. Over tcp it is
                asked for, unless the address is of this machine alone.
            high_water_mark: how many messages a pusher may be ahead, besides its own mark.
        """
        _check(f"read_zeromq({endpoint!r})", endpoint, kind, ("pull", "sub"), payload, high_water_mark, keys)
        self.keys = None if keys is None else os.fspath(keys)
        self.endpoint, self.payload, self.declared = endpoint, payload, schema
        self.bind, self.kind, self.topics, self.high_water_mark = bind, kind, tuple(topics), high_water_mark

    def label(self) -> str:
        return f"read_zeromq({self.endpoint!r})"

    def schema(self) -> pa.Schema | None:
        return self.declared

    def partitions(self) -> Sequence[str]:
        return [self.endpoint]

    def open(self, partition: str) -> ZeroMQReader:
        return self._open(None, 0)

    def open_journaled(self, partition: str, journal: Journal, offset: Offset | None) -> ZeroMQReader:
        return self._open(journal, journal.begin if offset is None else offset["position"])

    def _open(self, journal: Journal | None, position: int) -> ZeroMQReader:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.PULL if self.kind == "pull" else zmq.SUB)
        socket.rcvhwm = self.high_water_mark
        socket.maxmsgsize = MESSAGE_BYTES
        socket.linger = 0
        if self.kind == "sub":
            for topic in self.topics:
                socket.subscribe(topic)
        try:
            guard = _attach(socket, context, self.endpoint, self.bind, self.keys, self.label())
        except zmq.ZMQError as error:
            raise SourceError(_unreachable(self.endpoint, self.bind, error)) from error
        return ZeroMQReader(context, socket, guard, self.endpoint, self.high_water_mark, journal, position)

    def as_block(self, record: bytes) -> bytes:
        return join_messages([record])

    def decoder(self, fields: Sequence[str] | None) -> Decoder:
        return message_decoder(self.payload, self.declared, fields, self.label())


class ZeroMQReader(Reader):
    """Gathers messages into a block until there are enough, or 5 ms after the block before left.

    Counted from the block before, not from the first message of this one, what waits in the socket while that block is
    worked on does not wait again; and after a silence the first message leaves at once. No more
    than 200 blocks a second leave either way, unless they are full. A message is never cut: a list of events may
    make a block longer than was asked for.

    With a journal, the blocks that it holds come first, as they were.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        socket: zmq.Socket[bytes],
        guard: curve.Guard | None,
        endpoint: str,
        high_water_mark: int,
        journal: Journal | None = None,
        position: int = 0,
    ) -> None:
        self._context, self._socket, self._guard = context, socket, guard
        self._endpoint, self._high_water_mark = endpoint, high_water_mark
        self._journal = journal
        self._kept: Iterator[bytes] = iter(()) if journal is None else journal.go_on_from(position)
        self._messages: list[bytes] = []
        self._nbytes = 0
        self._offset = position
        self._leave_s = 0.0  # when the next block may leave that is not full
        self._looked_s = 0.0  # when the socket was last found empty
        self._pause_s = _LEAST_PAUSE_S

    @property
    def address(self) -> str:
        """Where it is bound, with the port that "tcp://*:*" was given."""
        return self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        if (kept := next(self._kept, None)) is not None:
            return self._block(kept)
        if self._full:
            return None
        full = self._gather(max_rows, max_bytes)
        now_s = time.monotonic()
        if not self._messages or not (full or now_s >= self._leave_s):
            return None
        self._leave_s = now_s + LINGER_S
        return self._block(self._joined())

    def _joined(self) -> bytes:
        """What was gathered as the payload of a block, and in the journal, if there is one."""
        payload = join_messages(self._messages)
        if self._journal is not None:
            self._journal.append(payload)
        self._messages, self._nbytes = [], 0  # not before: where they cannot be kept now, they may be at the close
        return payload

    def _block(self, payload: bytes) -> Block:
        block = Block(payload, self._offset, 0, self._endpoint)
        self._offset += len(payload)
        return block

    @property
    def _full(self) -> bool:
        return self._journal is not None and self._journal.full

    def offset(self) -> Offset | None:
        return None if self._journal is None else {"position": self._offset}

    def due_s(self) -> float | None:
        return min(self._leave_s, self._looked_s + self._pause_s) if self._messages else None

    def wait_on(self) -> zmq.Socket[bytes] | None:
        # While messages are gathered, waking up for each of them would cost more than they do.
        return None if self._messages or self._full else self._socket

    def close(self) -> None:
        """Let go of the socket; what lies in it goes into the journal, for the next life of the run."""
        self.ended = True
        if self._journal is not None and not self._full:
            with contextlib.suppress(SourceError):  # whatever ended the run is the reason to tell
                self._gather(self._high_water_mark, MESSAGE_BYTES)
                if self._messages:
                    self._joined()
        if self._guard is not None:
            self._guard.close()
        self._context.destroy(linger=0)

    def _gather(self, max_rows: int, max_bytes: int) -> bool:
        """Take what is there; whether that fills a block."""
        receive, before = self._socket.recv, len(self._messages)
        while len(self._messages) < max_rows and self._nbytes < max_bytes:
            try:
                # A frame knows whether more parts follow; asking the socket costs five times as much as receiving.
                part = receive(zmq.NOBLOCK, copy=False)
                message = self._socket.recv_multipart()[-1] if part.more else part.bytes
            except zmq.Again:
                self._look_again(len(self._messages) - before)
                return False
            except zmq.ZMQError as error:
                raise SourceError(f"{self._endpoint}: cannot be read any further: {error}") from error
            self._messages.append(message)
            self._nbytes += len(message) + FRAME_BYTES
        return True

    def _look_again(self, taken: int) -> None:
        """The socket is empty: settle when to look again."""
        now_s = time.monotonic()
        self._pause_s = pause_s(now_s - self._looked_s, taken, self._high_water_mark)
        self._looked_s = now_s
        if self._guard is not None:
            self._guard.look()


def pause_s(elapsed_s: float, taken: int, high_water_mark: int) -> float:
    """How long messages may pile up in a socket, if they come as fast as those taken in the time that has elapsed."""
    fill_s = elapsed_s * high_water_mark / (_PILE * max(taken, 1))
    return min(max(fill_s, _LEAST_PAUSE_S), LINGER_S)


class ZeroMQSink(Sink):
    """Messages to other programs. Connecting, every worker has a socket; binding, one worker has it."""

    def __init__(
        self,
        endpoint: str,
        *,
        payload: Payload = "json",
        per: Per = "row",
        bind: bool = False,
        kind: Literal["push", "pub"] = "push",
        timeout: Duration = "30s",
        keys: str | os.PathLike[str] | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
    ) -> None:
        """
        Args:
            endpoint: "tcp://host:5555", "ipc:///tmp/results".
            payload: how rows are encoded.
            per: a message for each row, or one for each batch.
            bind: wait for receivers to connect, instead of connecting to one.
            kind: "push" (every message reaches one receiver) or "pub" (every subscriber).
            timeout: how long to wait for a receiver that takes nothing before the run fails.
            keys: a folder that ``millstream keys`` has made; as for the source.
            high_water_mark: how many messages may wait for a receiver before the flow does.
        """
        _check(f"write_zeromq({endpoint!r})", endpoint, kind, ("push", "pub"), payload, high_water_mark, keys)
        self.keys = None if keys is None else os.fspath(keys)
        if per not in ("row", "batch"):
            raise FlowError(f"write_zeromq({endpoint!r}): per={per!r}: there are 'row' and 'batch'")
        self.endpoint, self.payload, self.per = endpoint, payload, per
        self.bind, self.kind, self.high_water_mark = bind, kind, high_water_mark
        self.timeout_s = duration_us(timeout, self.label()) / 1e6
        self.placement = Placement.GATHER if bind else Placement.PARALLEL

    def label(self) -> str:
        return f"write_zeromq({self.endpoint!r})"

    def open(self, worker: int, workers: int) -> ZeroMQWriter:
        # A context of its own: ending it is what waits until everything has left.
        context = zmq.Context()
        socket = context.socket(zmq.PUSH if self.kind == "push" else zmq.PUB)
        socket.sndhwm = self.high_water_mark
        # Only for receivers that are there: queues for one that never comes would hide that it is away.
        socket.immediate = 1
        if self.kind == "pub":
            socket.xpub_nodrop = 1
        try:
            guard = _attach(socket, context, self.endpoint, self.bind, self.keys, self.label())
        except zmq.ZMQError as error:
            raise SinkError(_unreachable(self.endpoint, self.bind, error)) from error
        encode = message_encoder(self.payload, self.per)
        return ZeroMQWriter(context, socket, guard, self.endpoint, encode, self.timeout_s)


class ZeroMQWriter(Writer):
    """One socket to send by."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        socket: zmq.Socket[bytes],
        guard: curve.Guard | None,
        endpoint: str,
        encode: Callable[[pa.RecordBatch], list[bytes]],
        timeout_s: float,
    ) -> None:
        self._context, self._socket, self._guard, self._endpoint = context, socket, guard, endpoint
        self._encode, self._timeout_s = encode, timeout_s
        self._socket.sndtimeo = int(timeout_s * 1e3)

    @property
    def address(self) -> str:
        """Where it is bound, with the port that "tcp://*:*" was given."""
        return self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def write(self, columns: pa.RecordBatch) -> None:
        if not columns.num_rows:
            return
        for message in self._encode(columns):
            try:
                self._socket.send(message)
            except zmq.Again as error:
                self._look()
                waited = f"no receiver took a message for {self._timeout_s:g} s"
                keys = "" if self._guard is None else ", and does each end have the other's key"
                raise SinkError(f"{self._endpoint}: {waited}; is it running, and fast enough{keys}?") from error
            except zmq.ZMQError as error:
                raise SinkError(f"{self._endpoint}: cannot send: {error}") from error

    def flush(self) -> None:
        self._look()

    def close(self) -> None:
        """Wait, up to the deadline, until the receivers' sockets have everything."""
        self._look()
        if self._guard is not None:
            self._guard.close()
        self._socket.close(linger=int(self._timeout_s * 1e3))
        self._context.term()

    def abort(self) -> None:
        if self._guard is not None:
            self._guard.close()
        self._context.destroy(linger=0)

    def _look(self) -> None:
        if self._guard is not None:
            self._guard.look()


def _attach(
    socket: zmq.Socket[bytes],
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    bind: bool,
    keys: str | None,
    label: str,
) -> curve.Guard | None:
    """Bind or connect a socket; where it fails nothing is left."""
    guard: curve.Guard | None = None
    try:
        if keys is not None:
            guard = curve.Keys(keys, label).secure(socket, context, bind, label)
        if bind:
            socket.bind(endpoint)
        else:
            socket.connect(endpoint)
    except BaseException:
        if guard is not None:
            guard.close()
        context.destroy(linger=0)
        raise
    return guard


def _check(
    label: str,
    endpoint: str,
    kind: str,
    kinds: Sequence[str],
    payload: str,
    high_water_mark: int,
    keys: str | os.PathLike[str] | None,
) -> None:
    if "://" not in endpoint:
        raise FlowError(f"{label}: an endpoint looks like 'tcp://127.0.0.1:5555' or 'ipc:///tmp/events'")
    if curve.leaves_the_machine(endpoint) and keys is None:
        raise FlowError(
            f"{label}: others can reach that address, so it needs keys: `millstream keys DIR` makes them, and keys='DIR' "
            "says where they are. Without keys there is tcp://127.0.0.1:..."
        )
    if kind not in kinds:
        raise FlowError(f"{label}: kind={kind!r}: there are {' and '.join(map(repr, kinds))}")
    if payload not in ("json", "msgpack", "arrow"):
        raise FlowError(f"{label}: payload={payload!r}: there are 'json', 'msgpack' and 'arrow'")
    if high_water_mark < 1:
        raise FlowError(f"{label}: high_water_mark={high_water_mark}: expected at least 1, or nothing bounds memory")


def _unreachable(endpoint: str, bind: bool, error: zmq.ZMQError) -> str:
    doing = "bind" if bind else "connect to"
    hint = "; another program has it" if error.errno == zmq.EADDRINUSE else ""
    return f"{endpoint}: cannot {doing} it: {error.strerror}{hint}"
