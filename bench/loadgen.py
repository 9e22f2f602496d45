"""A load generator: its own process, pushing events at a fixed rate over ZeroMQ whether or not anyone keeps up.

    python -m bench.loadgen tcp://127.0.0.1:5001 --rate 50000 --per-message 10 --payload msgpack --seconds 20

The load is open: when event i is due is settled before the run, ``start + i / rate`` (events of one message are due
together, with its last one), and every event carries that due time, not the time of its sending. A receiver that
subtracts it from its own clock then counts the time an event waited because the system (or this generator) was
behind, which the usual closed loop leaves out ("coordinated omission"). The last line of output says what was sent and
how far behind its own schedule the generator fell: latencies of a run in which it fell behind are its fault.

An event is ``{"id": int, "key": str, "due_us": int}``: ``due_us`` is wall-clock microseconds since 1970, so it can
serve as event time as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import click
import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zmq

Payload = Literal["json", "msgpack", "arrow"]
Integers = npt.NDArray[np.int64]

SEED = 7
BEHIND_S = 0.01
"""A message sent this much after it was due counts as sent late by the generator."""
SEND_TIMEOUT_MS = 60_000
SCHEMA = pa.schema({"id": pa.int64(), "key": pa.string(), "due_us": pa.int64()})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Load:
    """What to send."""

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
    first_due_us: int

    @property
    def fell_behind(self) -> bool:
        return self.late_messages > 0


def encoder(load: Load) -> Callable[[int, int, Integers], bytes]:
    """A function from the first id, the due time and the key numbers of a message to its bytes."""
    names = [f"user-{i}" for i in range(load.keys)]

    def rows(first: int, due_us: int, keys: Integers) -> list[dict[str, object]]:
        return [{"id": first + i, "key": names[key], "due_us": due_us} for i, key in enumerate(keys.tolist())]

    def one_or_list(first: int, due_us: int, keys: Integers) -> object:
        found = rows(first, due_us, keys)
        return found[0] if load.per_message == 1 else found

    def arrow(first: int, due_us: int, keys: Integers) -> bytes:
        count = len(keys)
        columns = [
            pa.array(np.arange(first, first + count)),
            pa.array([names[key] for key in keys.tolist()], pa.string()),
            pa.array(np.full(count, due_us)),
        ]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        return sink.getvalue().to_pybytes()

    encoders: dict[str, Callable[[int, int, Integers], bytes]] = {
        "json": lambda first, due_us, keys: json.dumps(
            one_or_list(first, due_us, keys), separators=(",", ":")
        ).encode(),
        "msgpack": lambda first, due_us, keys: msgpack.packb(one_or_list(first, due_us, keys)),
        "arrow": arrow,
    }
    return encoders[load.payload]


def send(load: Load, endpoint: str, bind: bool = False, warm_up_s: float = 0.0) -> Sent:
    """Send it all on schedule; messages that are overdue go out at once, with the due time they had.

    What is late during the warm-up is not counted: the receiving side may still be starting.
    """
    encode, due_s = encoder(load), load.due_s()
    keys = np.random.default_rng(SEED).integers(0, load.keys, load.events)
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
        for message, due in enumerate(due_s.tolist()):
            first = message * load.per_message
            frame = encode(first, start_us + round(due * 1e6), keys[first : first + load.per_message])
            wait_s = start + due - time.monotonic()
            if wait_s > 0:
                _sleep(start + due)
            try:
                socket.send(frame, zmq.DONTWAIT)
            except zmq.Again:
                before = time.monotonic()
                socket.send(frame)
                blocked_s += time.monotonic() - before
            if due <= warm_up_s:
                blocked_s = 0.0
                continue
            behind_s = time.monotonic() - start - due
            worst_s = max(worst_s, behind_s)
            late += behind_s > BEHIND_S
        seconds = time.monotonic() - start
    return Sent(load.events, len(due_s), seconds, late, worst_s, blocked_s, start_us + round(due_s[0] * 1e6))


def _sleep(until: float) -> None:
    """Sleep to within a millisecond, and never spin: the core belongs to what is measured."""
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
