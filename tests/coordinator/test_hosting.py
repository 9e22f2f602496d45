"""The source host, where a user's source runs."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.coordinator.hosting import host_in_thread
from millstream.flow import Flow
from millstream.planner import make_plan
from millstream.topology import CALLER_HOST, SOURCES
from millstream.transport import Link
from millstream.watermarks import InputStatus
from millstream.wire import Data


@pytest.mark.slow
def test_what_a_host_has_sent_waits_for_a_coordinator_that_is_slow_to_start(tmp_path: Path) -> None:
    flow = Flow("hosting")
    flow.read_iterable([{"n": n} for n in range(3)]).collect("out")
    thread = host_in_thread(make_plan(flow, workers=1), [0], Link(tmp_path, CALLER_HOST, 1), None, threading.Event())
    time.sleep(3)  # an interpreter on a busy machine; the source has long ended
    coordinator = Link(tmp_path, SOURCES, 1)
    came: list[Data] = []
    while not came or came[-1].status is not InputStatus.ENDED:
        coordinator.wait(20_000)
        came += [message for message in coordinator.received() if isinstance(message, Data)]
        assert came, "nothing came: it was dropped before the coordinator was there"
    assert [message.sequence for message in came] == list(range(len(came)))
    thread.join(10)
    assert not thread.is_alive()
    coordinator.close()


def test_a_host_whose_life_is_over_reads_no_more_and_goes(tmp_path: Path) -> None:
    plenty, over = threading.Event(), threading.Event()

    class Endless:
        def __iter__(self) -> Iterator[dict[str, int]]:
            for n in itertools.count():
                if n == 1_000:
                    plenty.set()
                yield {"n": n}

    before = set(threading.enumerate())
    flow = Flow("hosting")
    flow.read_iterable(Endless()).collect("out")
    link = Link(tmp_path, CALLER_HOST, 1)
    host_in_thread(make_plan(flow, workers=1, batch_rows=100), [0], link, None, over)
    begun = set(threading.enumerate()) - before
    assert plenty.wait(20)
    over.set()  # nobody says stop: the coordinator was lost
    for thread in begun | set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive(), thread.name
