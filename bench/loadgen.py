"""A load generator: its own process, pushing events at a fixed rate over ZeroMQ whether or not anyone keeps up.

    python -m bench.loadgen tcp://127.0.0.1:5001 --rate 50000 --per-message 10 --payload msgpack --seconds 20

The load is open: when event i is due is settled before the run, ``start + i / rate`` (events of one message are due
together, with its last one), and every event carries that due time, not the time of its sending. A receiver that
subtracts it from its own clock then counts the time an event waited because the system (or this generator) was
behind, which the usual closed loop leaves out ("coordinated omission"). The last line of output says what was sent and
how far behind its own schedule the generator fell: latencies of a run in which it fell behind are its fault.

What is due within the same millisecond leaves together, with the last of it: a generator that wakes up for each of 50,000
messages a second keeps a core busy with waking up, a core that the system under test is then missing. The
up to one millisecond that an event waits for the others counts as its latency like all the rest.

An event is ``{"id": int, "key": str, "due_us": int}``: ``due_us`` is wall-clock microseconds since 1970, so it can
serve as event time as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import click
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zmq

Payload = Literal["json", "msgpack", "arrow"]
Integers = npt.NDArray[np.int64]

SEED = 7
TICK_S = 0.001
BEHIND_S = 0.01
"""A message sent this much after it was due counts as sent late by the generator."""
SEND_TIMEOUT_MS = 60_000
SCHEMA = pa.schema({"id": pa.int64(), "key": pa.string(), "due_us": pa.int64()})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Load:
    """What to send: the same events whenever and wherever it is asked."""

    rate: float
    """Events a second."""
    events: int
    per_message: int = 1
    payload: Payload = "msgpack"
    keys: int = 1_000
    poisson: bool = False
    """Random gaps between messages, as independent senders make them, instead of equal ones."""

    def due_s(self) -> npt.NDArray[np.float64]:
        """When each message is due, in seconds after the start: when its last event is."""
        messages = -(-self.events // self.per_message)
        gap_s = self.per_message / self.rate
        if not self.poisson:
            return np.arange(1, messages + 1, dtype=np.float64) * gap_s
        return np.cumsum(np.random.default_rng(SEED).exponential(gap_s, messages))

    def due_us(self, start_us: int) -> Integers:
        """When each event is due, for a start at ``start_us`` (microseconds since 1970), int64[events]."""
        by_message = start_us + np.rint(self.due_s() * 1e6).astype(np.int64)
        return np.repeat(by_message, self.per_message)[: self.events]

    @cached_property
    def key_numbers(self) -> Integers:
        """The key of each event, int64[events]; key number 5 is called "user-5"."""
        return np.random.default_rng(SEED).integers(0, self.keys, self.events)


def key_name(number: int) -> str:
    return f"user-{number}"


@dataclass(slots=True)
class Sent:
    """What became of it, from the generator's side."""

    events: int
    messages: int
    seconds: float
    late_messages: int
    worst_behind_s: float
    blocked_s: float
    """How long sends waited because the receiver's buffers were full: backpressure that reached the generator."""
    start_us: int
    """When the schedule began, microseconds since 1970."""

    @property
    def fell_behind(self) -> bool:
        return self.late_messages > 0


class Event(msgspec.Struct):
    id: int
    key: str
    due_us: int


Encode = Callable[[Sequence[Event]], bytes]


def encoder(payload: Payload, per_message: int) -> Encode:
    """From the events of a message to its bytes: one event, or a list of them where a message holds several."""
    if payload == "arrow":
        return _arrow
    encode = msgspec.json.Encoder().encode if payload == "json" else msgspec.msgpack.Encoder().encode
    return encode if per_message > 1 else lambda events: encode(events[0])


def _arrow(events: Sequence[Event]) -> bytes:
    columns = [
        pa.array([e.id for e in events]),
        pa.array([e.key for e in events], pa.string()),
        pa.array([e.due_us for e in events]),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    return sink.getvalue().to_pybytes()


class Frames:
    """The messages of a load, made as they are asked for."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._due_us = load.due_us(0)
        self._keys = load.key_numbers
        self._names = [key_name(i) for i in range(load.keys)]
        self._encode = encoder(load.payload, load.per_message)

    def of(self, first: int, end: int, start_us: int) -> list[bytes]:
        """Messages ``first`` to ``end`` - 1 of a schedule that began at ``start_us``."""
        names, size = self._names, self._load.per_message
        rows = slice(first * size, min(end * size, self._load.events))
        keys, due_us = self._keys[rows].tolist(), (self._due_us[rows] + start_us).tolist()
        events = [Event(i, names[key], due) for i, (key, due) in enumerate(zip(keys, due_us, strict=True), rows.start)]
        return [self._encode(events[at : at + size]) for at in range(0, len(events), size)]


def send(load: Load, endpoint: str, bind: bool = False, warm_up_s: float = 0.0) -> Sent:
    """Send it all on schedule; messages that are overdue go out at once, with the due time they had.

    What is late during the warm-up is not counted: the receiving side may still be starting.
    """
    frames, due_s = Frames(load), load.due_s()
    ticks = np.ceil(due_s / TICK_S)
    cuts = [0, *(np.flatnonzero(np.diff(ticks)) + 1).tolist(), len(due_s)]
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        socket.set(zmq.LINGER, SEND_TIMEOUT_MS)
        if bind:
            socket.bind(endpoint)
        else:
            socket.connect(endpoint)
        # The first send waits for a receiver to be there, so the schedule starts only then.
        socket.poll(SEND_TIMEOUT_MS, zmq.POLLOUT)
        start, start_us = time.monotonic(), time.time_ns() // 1_000
        late, worst_s, blocked_s = 0, 0.0, 0.0
        for first, end in pairwise(cuts):
            due = float(due_s[end - 1])
            encoded = frames.of(first, end, start_us)
            _sleep(start + due)
            blocked_s += _send(socket, encoded)
            if due <= warm_up_s:
                blocked_s = 0.0
                continue
            behind_s = time.monotonic() - start - due
            worst_s = max(worst_s, behind_s)
            late += end - first if behind_s > BEHIND_S else 0
        seconds = time.monotonic() - start
    return Sent(load.events, len(due_s), seconds, late, worst_s, blocked_s, start_us)


def _send(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> float:
    """Send messages; returns for how many seconds there was no room for them."""
    blocked_s = 0.0
    for frame in frames:
        try:
            socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            before = time.monotonic()
            socket.send(frame)
            blocked_s += time.monotonic() - before
    return blocked_s


def _sleep(until: float) -> None:
    """Sleep, and never spin: the core belongs to what is measured."""
    while (left_s := until - time.monotonic()) > 0:
        time.sleep(left_s)


@click.command(help=__doc__)
@click.argument("endpoint")
@click.option("--rate", default=50_000.0, show_default=True, help="Events a second.")
@click.option("--seconds", default=20.0, show_default=True, help="How long to send.")
@click.option("--per-message", default=1, show_default=True, help="Events in a message.")
@click.option("--payload", type=click.Choice(["json", "msgpack", "arrow"]), default="msgpack", show_default=True)
@click.option("--warm-up", default=0.0, show_default=True, help="Seconds in which being late is not counted.")
@click.option("--keys", default=1_000, show_default=True, help="Distinct keys.")
@click.option("--poisson", is_flag=True, help="Random gaps instead of equal ones.")
@click.option("--bind", is_flag=True, help="Bind the endpoint instead of connecting to it.")
def main(
    endpoint: str,
    rate: float,
    seconds: float,
    per_message: int,
    payload: Payload,
    warm_up: float,
    keys: int,
    poisson: bool,
    bind: bool,
) -> None:
    load = Load(rate, round(rate * seconds), per_message, payload, keys, poisson)
    sent = send(load, endpoint, bind, warm_up)
    print(json.dumps({**asdict(sent), "fell_behind": sent.fell_behind}), flush=True)


if __name__ == "__main__":
    main()
