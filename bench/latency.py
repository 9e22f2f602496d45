"""How long does an event take from the moment it is due until a result that counts it is received? At a fixed rate.

    scripts/bench latency --rate 50000 --seconds 20 --json out/latency.json
    scripts/bench latency --direct          generator to receiver without Millstream: what the measuring itself costs

Three processes: the load generator (bench.loadgen) pushes events to the flow's ZeroMQ source, the flow pushes what
comes out to a receiver here. Generator and receiver share one machine's clock.

The flow keeps a running aggregate by key, which puts out a row for each key that a batch changed. A row with a count
of n says that the first n events of its key are in, so it ends the wait of all those that no earlier row had
counted; the generator's schedule says when each of them was due. The first seconds warm up and are left out, and
nothing else: the slowest event counts. While events arrive the receiver only notes the time and keeps the bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import msgpack
import numpy as np
import pyarrow as pa
import zmq
from rich.console import Console
from rich.table import Table

from bench import measure
from bench.job import BenchError
from bench.loadgen import Integers, Load, Payload, key_name

Per = Literal["row", "batch"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
SILENCE_S = 20.0
"""The receiver gives up after so long without a message."""
IDLE_MS = 50
"""With nothing for so long, the receiver looks at what it has."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """What the receiver saw: milliseconds from due to received."""

    received: int
    counted: int
    """Without those due during the warm-up."""
    seconds: float
    """From the first due time that is counted to the last receipt."""
    percentiles_ms: dict[str, float]
    max_ms: float

    @classmethod
    def of(cls, due_us: Integers, got_us: Integers, warm_up_s: float) -> Latencies:
        """Latencies of the events that were due after the warm-up.

        Raises:
            BenchError: there were none.
        """
        from_us = int(due_us.min(initial=np.iinfo(np.int64).max)) + round(warm_up_s * 1e6) if len(due_us) else 0
        counted = due_us >= from_us
        if not counted.any():
            raise BenchError(f"received {len(due_us)} events, none of them due after the warm-up of {warm_up_s:g} s")
        waited_ms = (got_us[counted] - due_us[counted]) / 1_000
        # "higher" names a latency that an event really had, never one between two.
        found = np.percentile(waited_ms, PERCENTILES, method="higher")
        named = {f"p{p:g}": float(value) for p, value in zip(PERCENTILES, found, strict=True)}
        seconds = (int(got_us[counted].max()) - int(due_us[counted].min())) / 1e6
        return cls(len(due_us), int(counted.sum()), seconds, named, float(waited_ms.max()))


Row = dict[str, Any]


def rows_decoder(payload: Payload) -> Callable[[bytes], list[Row]]:
    """From a message to its rows; a message holds one or a list of them."""

    def arrow(frame: bytes) -> list[Row]:
        with pa.ipc.open_stream(frame) as reader:
            return reader.read_all().to_pylist()

    def listed(decode: Callable[[bytes], Any]) -> Callable[[bytes], list[Row]]:
        def rows(frame: bytes) -> list[Row]:
            found = decode(frame)
            return found if isinstance(found, list) else [found]

        return rows

    return {"json": listed(json.loads), "msgpack": listed(msgpack.unpackb), "arrow": arrow}[payload]


class Results(ABC):
    """The rows that came, and which events of the load they stand for."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.received = 0
        self._rows_of = rows_decoder(load.payload)
        self._rows: list[Row] = []
        self._got_us: list[int] = []

    def take(self, frames: Sequence[bytes], times_us: Sequence[int]) -> None:
        """Decode messages; each came at the time beside it."""
        for frame, time_us in zip(frames, times_us, strict=True):
            rows = self._rows_of(frame)
            self._rows += rows
            self._got_us += [time_us] * len(rows)
            for row in rows:
                self.received += self._events_in(row)

    @property
    def complete(self) -> bool:
        return self.received >= self.load.events

    def due_and_got_us(self, start_us: int) -> tuple[Integers, Integers]:
        """When each event that was received was due and when it came, for a load that started at ``start_us``.

        Raises:
            BenchError: the rows are not those of this load.
        """
        if not self._rows:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        due_us = self.load.due_us(start_us)
        events, last, got_us = self._events(np.array(self._got_us))
        if (due_us[last] != [row["due_us"] for row in self._rows]).any():
            raise BenchError("a row came back with another due time than its event was sent with")
        return due_us[events], got_us

    @abstractmethod
    def _events_in(self, row: Row) -> int:
        """How many events the row is the first to tell of."""

    @abstractmethod
    def _events(self, row_got_us: Integers) -> tuple[Integers, Integers, Integers]:
        """The number of each event, of each row's last event, and the time at which each event's row came."""


class Echoed(Results):
    """A row is an event: what the generator sends to the receiver itself."""

    def _events_in(self, row: Row) -> int:
        return 1

    def _events(self, row_got_us: Integers) -> tuple[Integers, Integers, Integers]:
        events = np.array([row["id"] for row in self._rows])
        return events, events, row_got_us


class Counted(Results):
    """A row says how many events of its key there have been."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._keys = {key_name(number): number for number in range(load.keys)}
        self._counts = [0] * load.keys

    def _events_in(self, row: Row) -> int:
        key, count = self._keys[row["key"]], int(row["count"])
        more, self._counts[key] = count - self._counts[key], count
        if more <= 0:
            raise BenchError(f"key {row['key']}: a count of {count} came after one of {count - more}")
        return more

    def _events(self, row_got_us: Integers) -> tuple[Integers, Integers, Integers]:
        by_key = np.argsort(self.load.key_numbers, kind="stable")  # the events of each key in the order they were sent
        sizes = np.bincount(self.load.key_numbers, minlength=self.load.keys)
        if (np.array(self._counts) > sizes).any():
            raise BenchError("more events were counted than were sent")
        keys = np.array([self._keys[row["key"]] for row in self._rows])
        order = np.argsort(keys, kind="stable")
        keys, until = keys[order], np.array([row["count"] for row in self._rows])[order]
        since = np.where(np.diff(keys, prepend=-1) == 0, np.roll(until, 1), 0)
        start, new = (np.cumsum(sizes) - sizes)[keys], until - since
        within = np.arange(new.sum()) - np.repeat(np.cumsum(new) - new, new)
        last = np.empty(len(order), np.int64)
        last[order] = by_key[start + until - 1]
        return by_key[np.repeat(start + since, new) + within], last, np.repeat(row_got_us[order], new)


class Receiver:
    """Receives on a PULL socket until all expected events are there, or nothing comes any more."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.set(zmq.RCVHWM, 0)  # what is slow here must not slow down what is measured
        self._socket.bind(endpoint)
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)

    def receive(self, results: Results, alive: Callable[[], bool]) -> None:
        """Fill ``results``; asks ``alive`` while nothing comes."""
        frames: list[bytes] = []
        times_us: list[int] = []
        quiet_since = time.monotonic()
        while not results.complete:
            if self._socket.poll(IDLE_MS):
                self._drain(frames, times_us)
                quiet_since = time.monotonic()
            elif frames:
                # Only now: decoding would take time from what is measured, and delay what comes meanwhile.
                results.take(frames, times_us)
                frames, times_us = [], []
            elif time.monotonic() - quiet_since > SILENCE_S or not alive():
                return

    def _drain(self, frames: list[bytes], times_us: list[int]) -> None:
        """Take all messages that are there, each with the time it was taken."""
        while True:
            try:
                frames.append(self._socket.recv(zmq.DONTWAIT))
            except zmq.Again:
                return
            times_us.append(time.time_ns() // 1_000)

    def close(self) -> None:
        self._context.destroy(linger=0)


def free_endpoint() -> str:
    """A TCP endpoint of this machine that nobody listens on."""
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
    return f"tcp://127.0.0.1:{port}"


def run_flow(source: str, sink: str, payload: Payload, per: Per, operator: str, workers: int) -> None:
    """The flow that is measured: a key, and an operator with state on every event's way."""
    import millstream as ms

    flow = ms.Flow("bench-latency")
    keyed = flow.read_zeromq(source, payload=payload).key_by("key")
    counted: ms.Stream
    if operator == "agg":
        counted = keyed.agg(count=ms.count(), due_us=ms.max("due_us"))
    else:
        counted = keyed.scan(0, lambda n, e: (n + 1, {"key": e.key, "count": n + 1, "due_us": e.due_us}))
    counted.write_zeromq(sink, payload=payload, per=per)
    flow.run(workers=workers)


@click.command(help=__doc__)
@click.option("--rate", default=50_000.0, show_default=True, help="Events a second.")
@click.option("--seconds", default=20.0, show_default=True, help="How long to send, warm-up included.")
@click.option("--warm-up", default=5.0, show_default=True, help="Seconds that are left out.")
@click.option("--per-message", default=1, show_default=True, help="Events in a message to the source.")
@click.option("--payload", type=click.Choice(["json", "msgpack", "arrow"]), default="msgpack", show_default=True)
@click.option(
    "--per", type=click.Choice(["row", "batch"]), default="batch", show_default=True, help="Events in a message back."
)
@click.option(
    "--operator",
    type=click.Choice(["agg", "scan"]),
    default="agg",
    show_default=True,
    help="A running aggregate by key, or Python state by key.",
)
@click.option("--workers", default=2, show_default=True)
@click.option("--poisson", is_flag=True, help="Random gaps instead of equal ones.")
@click.option("--direct", is_flag=True, help="Without Millstream: the generator sends to the receiver.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the result to this file.")
@click.option("--flow", nargs=2, hidden=True, help="Internal: run the flow between these endpoints.")
def main(
    rate: float, seconds: float, warm_up: float, per_message: int, payload: Payload, per: Per, operator: str,
    workers: int, poisson: bool, direct: bool, json_path: Path | None, flow: tuple[str, str] | None,
) -> None:  # fmt: skip
    if flow:
        run_flow(*flow, payload, per, operator, workers)
        return
    load = Load(rate, round(rate * seconds), per_message, payload, poisson=poisson)
    about, receiver = measure.machine(), Receiver("tcp://127.0.0.1:*")
    results = Echoed(load) if direct else Counted(load)
    source = receiver.endpoint if direct else free_endpoint()
    options: dict[str, object] = {
        "rate": rate,
        "seconds": seconds,
        "warm-up": warm_up,
        "per-message": per_message,
        "payload": payload,
    }
    command = [sys.executable, "-m", "bench.loadgen", source, *arguments(options), *(["--poisson"] if poisson else [])]
    between: subprocess.Popen[bytes] | None = None
    if not direct:
        options = {"payload": payload, "per": per, "operator": operator, "workers": workers}
        between = subprocess.Popen(
            [sys.executable, "-m", "bench.latency", "--flow", source, receiver.endpoint, *arguments(options)],
            cwd=measure.ROOT,
        )
    generator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=measure.ROOT)
    try:
        alive = (lambda: True) if between is None else (lambda: between.poll() is None)
        receiver.receive(results, alive)
        sent = json.loads(generator.communicate(timeout=SILENCE_S)[0].splitlines()[-1])
        latencies = Latencies.of(*results.due_and_got_us(sent["start_us"]), warm_up)
    except (BenchError, subprocess.TimeoutExpired, IndexError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        receiver.close()
        for process in (generator, between):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait()
    result = {
        "what": "generator to receiver" if direct else f"read_zeromq, key_by, {operator}, write_zeromq; {workers} workers",
        "rate": rate, "per_message": per_message, "payload": payload, "poisson": poisson,
        "generator": sent, **asdict(latencies), "lost": sent["events"] - latencies.received,
        "machine": about, "commit": measure.commit(),
    }  # fmt: skip
    show(result)
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=2) + "\n")


def arguments(options: Mapping[str, object]) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name}", f"{value}")]


def show(result: dict[str, Any]) -> None:
    """The result as a table, and in words whatever makes it doubtful."""
    console, sent = Console(), result["generator"]
    table = Table(*result["percentiles_ms"], "max", title=f"{result['what']}: ms from due to received")
    table.add_row(*(f"{ms:,.2f}" for ms in [*result["percentiles_ms"].values(), result["max_ms"]]))
    console.print(table)
    console.print(
        f"{result['payload']}, {result['per_message']} a message; asked for {result['rate']:,.0f} events/s, "
        f"sent {sent['events'] / sent['seconds']:,.0f}; {result['counted']:,} events counted, {result['lost']:,} lost",
        highlight=False,
    )
    if sent["fell_behind"]:
        console.print(
            f"the generator itself fell behind: {sent['late_messages']:,} of {sent['messages']:,} messages late, worst "
            f"{sent['worst_behind_s'] * 1_000:,.0f} ms, {sent['blocked_s']:.2f} s of it waiting for the receiver",
            style="yellow",
            highlight=False,
        )


if __name__ == "__main__":
    main()
