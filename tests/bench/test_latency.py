"""The load generator and the receiver, against each other."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import zmq

from bench.job import BenchError
from bench.latency import Latencies, Receiver
from bench.loadgen import Load, Payload, Sent, send


@pytest.mark.parametrize(
    ("payload", "per_message"), [("msgpack", 1), ("msgpack", 7), ("json", 1), ("json", 7), ("arrow", 50)]
)
def test_every_event_arrives_with_the_time_it_was_due(payload: Payload, per_message: int) -> None:
    receiver, sent = Receiver("tcp://127.0.0.1:*", payload), list[Sent]()
    load = Load(rate=5_000, events=2_000, per_message=per_message, payload=payload)
    sender = threading.Thread(target=lambda: sent.append(send(load, receiver.endpoint)))
    sender.start()
    due_us, got_us = receiver.receive(load.events, alive=lambda: True)
    sender.join()
    receiver.close()
    assert len(due_us) == load.events
    assert np.all(got_us >= due_us)
    scheduled = np.repeat(load.due_s(), per_message)[: load.events] * 1e6
    assert np.abs(np.sort(due_us) - due_us.min() - (scheduled - scheduled[0])).max() <= 1
    assert sent[0].first_due_us == due_us.min()


def test_events_held_up_by_the_receiver_count_from_when_they_were_due() -> None:
    endpoint, load = "inproc-is-no-use", Load(rate=2_000, events=2_000, payload="msgpack")
    with zmq.Context() as context, context.socket(zmq.PULL) as slow:
        slow.set(zmq.RCVHWM, 1)
        slow.set(zmq.RCVBUF, 4_096)
        port = slow.bind_to_random_port("tcp://127.0.0.1")
        endpoint = f"tcp://127.0.0.1:{port}"
        sender = threading.Thread(target=send, args=(load, endpoint))
        sender.start()
        time.sleep(1.3)  # the whole schedule passes while nobody receives
        import msgpack

        waited_us = []
        for _ in range(load.events):
            due_us = msgpack.unpackb(slow.recv())["due_us"]
            waited_us.append(time.time_ns() // 1_000 - due_us)
        sender.join()
    assert max(waited_us) > 1_200_000  # the first, due at once
    assert np.median(waited_us) > 600_000  # not the microseconds since it was last sent


def test_percentiles_are_latencies_that_happened_and_leave_out_the_warm_up() -> None:
    due_us = np.arange(0, 2_000_000, 1_000)
    got_us = due_us + np.where(due_us < 1_000_000, 500_000, 2_000)
    got_us[-1] += 7_000
    latencies = Latencies.of(due_us, got_us, warm_up_s=1.0)
    assert (latencies.received, latencies.counted) == (2_000, 1_000)
    assert latencies.percentiles_ms == {"p50": 2.0, "p90": 2.0, "p99": 2.0, "p99.9": 9.0}
    assert latencies.max_ms == 9.0


def test_a_run_that_received_nothing_is_an_error() -> None:
    with pytest.raises(BenchError, match="received 0 events"):
        Latencies.of(np.empty(0, np.int64), np.empty(0, np.int64), 1.0)


def test_random_gaps_have_the_rate_that_was_asked_for() -> None:
    due_s = Load(rate=10_000, events=50_000, per_message=5, poisson=True).due_s()
    assert len(due_s) == 10_000
    assert due_s[-1] == pytest.approx(5.0, rel=0.05)
    assert np.all(np.diff(due_s) >= 0)
