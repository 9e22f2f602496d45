"""How long does an event take from the moment it is due until its result is received? At a fixed rate, end to end.

    python -m bench.latency --rate 50000 --seconds 20 --json out/latency.json
    python -m bench.latency --direct          generator to receiver without Millstream: what the measuring itself costs

Three processes: the load generator (bench.loadgen) pushes events to the flow's ZeroMQ source, the flow pushes what
comes out to a receiver here, which subtracts each event's due time from the clock. Generator and receiver
share one machine's clock. The first seconds warm up and are left out; so is nothing else: the slowest event counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zmq
from rich.console import Console
from rich.table import Table

from bench import measure
from bench.job import BenchError
from bench.loadgen import Payload

Per = Literal["row", "batch"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
SILENCE_S = 20.0
"""The receiver gives up after so long without a message."""


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
    def of(cls, due_us: npt.NDArray[np.int64], got_us: npt.NDArray[np.int64], warm_up_s: float) -> Latencies:
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


def due_times(payload: str) -> Callable[[bytes], list[int] | npt.NDArray[np.int64]]:
    """A decoder from a message to the due times of its events; a message holds one event or a list of them."""

    def arrow(frame: bytes) -> npt.NDArray[np.int64]:
        with pa.ipc.open_stream(frame) as reader:
            found: npt.NDArray[np.int64] = reader.read_all()["due_us"].to_numpy()
            return found

    def listed(decode: Callable[[bytes], Any]) -> Callable[[bytes], list[int]]:
        def due(frame: bytes) -> list[int]:
            found = decode(frame)
            return [event["due_us"] for event in found] if isinstance(found, list) else [found["due_us"]]

        return due

    decoders: dict[str, Callable[[bytes], list[int] | npt.NDArray[np.int64]]] = {
        "json": listed(json.loads),
        "msgpack": listed(msgpack.unpackb),
        "arrow": arrow,
    }
    return decoders[payload]


class Receiver:
    """Receives on a PULL socket until all expected events are there, or nothing comes any more."""

    def __init__(self, endpoint: str, payload: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.set(zmq.RCVHWM, 0)  # what is slow here must not slow down what is measured
        self._due_times = due_times(payload)
        self._socket.bind(endpoint)
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)

    def receive(self, expected: int, alive: Callable[[], bool]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Due and receipt times (microseconds since 1970) of each event; asks ``alive`` while nothing comes."""
        frames: list[bytes] = []
        times: list[int] = []
        due: list[npt.NDArray[np.int64]] = []
        got: list[npt.NDArray[np.int64]] = []
        received, quiet_since = 0, time.monotonic()
        while received < expected:
            if self._socket.poll(500):
                frames, times = self._drain()
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > SILENCE_S or not alive():
                break
            else:
                continue
            for frame, at in zip(frames, times, strict=True):
                found = np.asarray(self._due_times(frame), np.int64)
                due.append(found)
                got.append(np.full(len(found), at))
                received += len(found)
        return (np.concatenate(due), np.concatenate(got)) if due else (np.empty(0, np.int64), np.empty(0, np.int64))

    def _drain(self) -> tuple[list[bytes], list[int]]:
        """All messages that are there, each with the time it was taken: decoding comes after, and delays none."""
        frames: list[bytes] = []
        times: list[int] = []
        while len(frames) < 1_000:
            try:
                frames.append(self._socket.recv(zmq.DONTWAIT))
            except zmq.Again:
                break
            times.append(time.time_ns() // 1_000)
        return frames, times

    def close(self) -> None:
        self._context.destroy(linger=0)


def free_endpoint() -> str:
    """A TCP endpoint of this machine that nobody listens on."""
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
    return f"tcp://127.0.0.1:{port}"


def run_flow(source: str, sink: str, payload: Payload, per: Per, workers: int) -> None:
    """The flow that is measured: a key, and an operator with state on every event's way."""
    import millstream as ms

    flow = ms.Flow("bench-latency")
    events = flow.read_zeromq(source, payload=payload)
    # A scan keeps each event (the count of its key so far with it), so every one can be timed.
    counted = events.key_by("key").scan(0, lambda n, e: (n + 1, {"id": e.id, "due_us": e.due_us, "count": n + 1}))
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
@click.option("--workers", default=2, show_default=True)
@click.option("--poisson", is_flag=True, help="Random gaps instead of equal ones.")
@click.option("--direct", is_flag=True, help="Without Millstream: the generator sends to the receiver.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the result to this file.")
@click.option("--flow", nargs=2, hidden=True, help="Internal: run the flow between these endpoints.")
def main(
    rate: float, seconds: float, warm_up: float, per_message: int, payload: Payload, per: Per, workers: int,
    poisson: bool, direct: bool, json_path: Path | None, flow: tuple[str, str] | None,
) -> None:  # fmt: skip
    if flow:
        run_flow(*flow, payload, per, workers)
        return
    about, receiver = measure.machine(), Receiver("tcp://127.0.0.1:*", payload)
    source = receiver.endpoint if direct else free_endpoint()
    load = [
        "--rate",
        f"{rate}",
        "--seconds",
        f"{seconds}",
        "--warm-up",
        f"{warm_up}",
        "--per-message",
        f"{per_message}",
        "--payload",
        payload,
    ]
    command = [sys.executable, "-m", "bench.loadgen", source, *load, *(["--poisson"] if poisson else [])]
    between: subprocess.Popen[bytes] | None = None
    if not direct:
        options = ["--payload", payload, "--per", per, "--workers", f"{workers}"]
        between = subprocess.Popen(
            [sys.executable, "-m", "bench.latency", "--flow", source, receiver.endpoint, *options], cwd=measure.ROOT
        )
    generator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=measure.ROOT)
    try:
        alive = (lambda: True) if between is None else (lambda: between.poll() is None)
        due_us, got_us = receiver.receive(round(rate * seconds), alive)
        sent = json.loads(generator.communicate(timeout=SILENCE_S)[0].splitlines()[-1])
        latencies = Latencies.of(due_us, got_us, warm_up)
    except (BenchError, subprocess.TimeoutExpired, IndexError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        receiver.close()
        for process in (generator, between):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait()
    result = {
        "what": "generator to receiver" if direct else f"read_zeromq, key_by, scan, write_zeromq; {workers} workers",
        "rate": rate, "per_message": per_message, "payload": payload, "poisson": poisson,
        "generator": sent, **asdict(latencies), "lost": sent["events"] - latencies.received,
        "machine": about, "commit": measure.commit(),
    }  # fmt: skip
    show(result)
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=2) + "\n")


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
