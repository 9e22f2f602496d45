"""The sockets of one process: one it listens on, one to each process it talks to.

Transport is ZeroMQ over ipc:// in a private directory. Everything arrives on a ROUTER and leaves by
DEALERs, one a peer, which keep order and never drop: a ROUTER that sends would drop silently at its
high-water mark. All marks are off; credits are the only bound.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zmq

from millstream.process import monotonic_us
from millstream.wire import Frame, Message, decode

# Below this ZeroMQ hands out slices of a shared read buffer, which Arrow would find unaligned; and a copy costs little.
_COPY_BELOW_BYTES = 16_384

# What the last message of a process waits for a receiver that is still starting: on a busy machine, longer than a moment.
LAST_WORDS_MS: Final = 60_000


class Link:
    """The sockets of process ``me``.

    Args:
        directory: the run's private directory; every process has its socket there.
        attempt: messages of another attempt are dropped.

    Attributes:
        idle_us: for how long the process has waited in all, having nothing to do.
    """

    def __init__(self, directory: Path, me: str, attempt: int) -> None:
        self.directory = directory
        self.me = me
        self.attempt = attempt
        self._context = zmq.Context()
        self._inbound = self._socket(zmq.ROUTER)
        self._inbound.bind(self._endpoint(me))
        self._outbound: dict[str, zmq.Socket[bytes]] = {}
        self.idle_us = 0
        self.poller = zmq.Poller()
        self.poller.register(self._inbound, zmq.POLLIN)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.set_hwm(0)
        socket.linger = 0
        return socket

    def _endpoint(self, name: str) -> str:
        return f"ipc://{self.directory / name}.sock"

    def send(self, peer: str, message: Message) -> None:
        socket = self._outbound.get(peer)
        if socket is None:
            socket = self._outbound[peer] = self._socket(zmq.DEALER)
            socket.setsockopt(zmq.IDENTITY, self.me.encode())
            socket.connect(self._endpoint(peer))
        *first, last = message.encode(self.attempt)
        for frame in first:
            _send(socket, frame, zmq.SNDMORE)
        _send(socket, last, 0)

    @contextmanager
    def repeating(self, peer: str, message: Message, every_s: float) -> Iterator[None]:
        """Send a message again and again while the caller is at something that may take long, and sends nothing itself."""
        frames = message.encode(self.attempt)
        over = threading.Event()

        def repeat() -> None:
            if over.wait(every_s):
                return
            socket = self._socket(zmq.DEALER)  # by no other thread may those of the link be used
            socket.connect(self._endpoint(peer))
            socket.send_multipart(frames)
            while not over.wait(every_s):
                socket.send_multipart(frames)
            socket.close()

        thread = threading.Thread(target=repeat, name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def received(self) -> Iterator[Message]:
        """What has arrived, without waiting."""
        while True:
            try:
                frame = self._inbound.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            frames: list[Frame] = []  # without the first, which names the sender
            while frame.more:
                frame = self._inbound.recv(copy=False)
                frames.append(_aligned(frame))
            message = decode(frames, self.attempt)
            if message is not None:
                yield message

    def watch(self, other: Link) -> None:
        """Wake from `wait` also when something arrives on another link of this process."""
        self.poller.register(other._inbound, zmq.POLLIN)

    def begin(self, attempt: int, gone: Iterable[str] = ()) -> None:
        """Go on in another life of the run.

        Args:
            gone: peers that are not in it; others may take their names later.
        """
        self.attempt = attempt
        for peer in gone:
            if (socket := self._outbound.pop(peer, None)) is not None:
                socket.close(linger=LAST_WORDS_MS)

    def wait(self, timeout_ms: int) -> None:
        """Sleep until something arrives on this link or another registered socket."""
        started_us = monotonic_us()
        self.poller.poll(max(0, timeout_ms))
        self.idle_us += monotonic_us() - started_us

    def close(self, linger_ms: int = 0) -> None:
        for socket in self._outbound.values():
            socket.close(linger=linger_ms)
        self._inbound.close(linger=0)
        self._context.term()


def _send(socket: zmq.Socket[bytes], frame: Frame, flags: int) -> None:
    # Large ones are not copied: they are buffers of columns that nobody changes any more. For small ones ZeroMQ's own
    # note that such a buffer is free again costs more than a copy.
    socket.send(frame, flags, copy=memoryview(frame).nbytes < _COPY_BELOW_BYTES)


def _aligned(frame: zmq.Frame) -> Frame:
    return bytes(frame.bytes) if len(frame) < _COPY_BELOW_BYTES else frame.buffer
