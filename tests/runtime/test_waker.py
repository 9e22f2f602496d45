"""A loop that waits for its sockets is woken by other threads."""

from __future__ import annotations

import os
import threading

import zmq

from millstream.waker import Waker


def test_a_loop_is_woken_once_by_all_that_called_before_it_looked() -> None:
    poller = zmq.Poller()
    waker = Waker(poller)
    threads = [threading.Thread(target=waker.wake) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert poller.poll(10_000)
    waker.woken()
    assert not poller.poll(0)
    waker.close()


def test_a_loop_that_has_ended_leaves_no_descriptor_and_may_still_be_woken() -> None:
    before = os.listdir("/proc/self/fd")
    poller = zmq.Poller()
    waker = Waker(poller)
    waker.close()
    waker.close()
    waker.wake()
    assert os.listdir("/proc/self/fd") == before and not poller.sockets
