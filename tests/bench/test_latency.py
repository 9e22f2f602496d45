"""The load generator and the receiver, against each other."""

from __future__ import annotations

import threading
import time
from collections import Counter

import msgpack
import numpy as np
import pytest
import zmq

from bench.job import BenchError
from bench.latency import Counted, Echoed, Latencies, Receiver, Row
from bench.loadgen import Frames, Load, Payload, Sent, key_name, send

START_US = 1_700_000_000_000_000


@pytest.mark.parametrize(
    ("payload", "per_message"), [("msgpack", 1), ("msgpack", 7), ("json", 1), ("json", 7), ("arrow", 50)]
)
def test_every_event_arrives_with_the_time_it_was_due(payload: Payload, per_message: int) -> None:
    receiver, sent = Receiver("tcp://127.0.0.1:*"), list[Sent]()
    load = Load(rate=5_000, events=2_000, per_message=per_message, payload=payload)
    results = Echoed(load)
    sender = threading.Thread(target=lambda: sent.append(send(load, receiver.endpoint)))
    sender.start()
    receiver.receive(results, alive=lambda: True)
    sender.join()
    receiver.close()
    due_us, got_us = results.due_and_got_us(sent[0].start_us)  # compares the times that came back with the schedule
    assert len(due_us) == load.events
    assert np.all(got_us >= due_us)
    scheduled_us = np.repeat(load.due_s(), per_message)[: load.events] * 1e6
    assert np.abs(np.sort(due_us) - sent[0].start_us - scheduled_us).max() <= 1


def test_messages_that_are_due_within_a_millisecond_leave_with_the_last_of_them() -> None:
    load, left_s = Load(rate=4_000, events=400), list[float]()
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        sender = threading.Thread(target=send, args=(load, f"tcp://127.0.0.1:{port}"))
        sender.start()
        for _ in range(load.events):
            due_us = msgpack.unpackb(socket.recv())["due_us"]
            left_s.append(time.time() - due_us / 1e6)
        sender.join()
    assert min(left_s) > -0.0001, "nothing leaves before it is due"


# --- what a row of counts says ---


def rows_of_counts(load: Load, cuts: list[int]) -> list[list[Row]]:
    """What a running count by key puts out when the load is cut into batches there."""
    keys, due_us, counts = load.key_numbers.tolist(), load.due_us(START_US).tolist(), Counter[int]()
    batches = []
    for start, end in zip([0, *cuts], [*cuts, load.events], strict=True):
        changed: dict[int, int] = {}
        for event in range(start, end):
            counts[keys[event]] += 1
            changed[keys[event]] = due_us[event]
        batches.append([{"key": key_name(k), "count": counts[k], "due_us": due} for k, due in changed.items()])
    return batches


def counted(load: Load, batches: list[list[Row]]) -> Counted:
    results = Counted(load)
    for number, rows in enumerate(batches):
        results.take([msgpack.packb(rows)], [number])
    return results


@pytest.mark.parametrize("cuts", [[], [1], [250, 251, 700], list(range(1, 1_000))])
def test_an_event_was_received_with_the_first_row_that_counts_it(cuts: list[int]) -> None:
    load = Load(rate=1_000, events=1_000, keys=20)
    results = counted(load, rows_of_counts(load, cuts))
    assert results.complete
    due_us, batch = results.due_and_got_us(START_US)
    order = np.argsort(due_us)
    assert due_us[order].tolist() == load.due_us(START_US).tolist()
    assert batch[order].tolist() == np.searchsorted(cuts, np.arange(1_000), side="right").tolist()


def test_events_that_no_row_counts_are_missing_and_no_others() -> None:
    load = Load(rate=1_000, events=1_000, keys=20)
    batches = rows_of_counts(load, [250, 500, 750])
    results = counted(load, batches[:3])
    assert (results.complete, results.received) == (False, 750)
    due_us, _ = results.due_and_got_us(START_US)
    assert sorted(due_us.tolist()) == load.due_us(START_US).tolist()[:750]


def test_rows_that_are_not_those_of_the_load_are_refused() -> None:
    load = Load(rate=1_000, events=100, keys=3)
    (rows,) = rows_of_counts(load, [])
    with pytest.raises(BenchError, match="came after"):
        counted(load, [rows, rows])
    with pytest.raises(BenchError, match="more events were counted"):
        counted(load, [[{**row, "count": row["count"] + 1} for row in rows]]).due_and_got_us(START_US)
    with pytest.raises(BenchError, match="another due time"):
        counted(load, [[{**row, "due_us": row["due_us"] + 1} for row in rows]]).due_and_got_us(START_US)


def test_the_last_message_holds_what_is_left() -> None:
    frames = Frames(Load(rate=1_000, events=10, per_message=4)).of(0, 3, START_US)
    assert [[event["id"] for event in msgpack.unpackb(frame)] for frame in frames] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


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
