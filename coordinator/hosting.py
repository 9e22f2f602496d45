"""The source host: where the user's own sources run, away from the coordinator.

Each hosted partition is read by a thread of its own, because the user's code may block for as long as it
likes; one loop sends the blocks to the coordinator within their credit. A host is either a process
(``flow.source``) or a thread of the calling process (``read_iterable``, which cannot leave it).
"""

from __future__ import annotations

import queue
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from millstream.bootstrap import begin_child
from millstream.checkpoints.recovery import Recovery
from millstream.connectors.base import Block, Reader
from millstream.coordinator.hosted_blocks import HostedBlocks
from millstream.coordinator.source_partitions import BLOCK_BYTES
from millstream.errors import MillstreamError, described
from millstream.functions import user_error
from millstream.plan import PhysicalPlan
from millstream.topology import CALLER_HOST, SOURCE_HOST, SOURCES
from millstream.transport import LAST_WORDS_MS, Link
from millstream.waker import Waker
from millstream.wire import Credit, Failed, Stop

_Item = tuple[int, Block | None, bool] | BaseException
_QUEUED_BLOCKS: Final = 2


class SourceHost:
    """Reads these partitions and sends them to the coordinator.

    Args:
        recovery: the checkpoint to go on from; None: from the start.
        over: is set when this life of the run has ended, however that was; None: the process ends with it.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        partitions: Sequence[int],
        link: Link,
        recovery: Recovery | None = None,
        over: threading.Event | None = None,
    ) -> None:
        self._plan = plan
        self._recovery = recovery
        self._link = link
        self._blocks = HostedBlocks(link.me, partitions)
        self._queues: dict[int, queue.Queue[_Item]] = {p: queue.Queue(_QUEUED_BLOCKS) for p in partitions}
        self._waker = Waker(link.poller)
        self._stopping = threading.Event() if over is None else over

    def run(self) -> bool:
        """Serve until the coordinator says stop or the life is over, or, for True, every partition has ended and was sent."""
        for partition in self._queues:
            threading.Thread(target=self._read, args=(partition,), name=f"source {partition}", daemon=True).start()
        try:
            while not self._blocks.done and not self._stopping.is_set():
                for message in self._link.received():
                    if isinstance(message, Credit):
                        self._blocks.on_credit(message)
                    elif isinstance(message, Stop):
                        self._stopping.set()
                if not self._send():
                    self._link.wait(100)
                    self._waker.woken()
        finally:
            self._stopping.set()
            for items in self._queues.values():  # who waits for room in one gets it, and sees that nothing more is read
                with suppress(queue.Empty):
                    while True:
                        items.get_nowait()
            self._waker.close()
        return self._blocks.done

    def _send(self) -> bool:
        for partition in self._blocks.wanted:
            with suppress(queue.Empty):
                item = self._queues[partition].get_nowait()
                if isinstance(item, BaseException):
                    raise item
                self._blocks.put(*item)
        ready = self._blocks.take()
        for data in ready:
            self._link.send(SOURCES, data)
        return bool(ready)

    def _read(self, partition: int) -> None:
        items = self._queues[partition]
        source = self._plan.source_of(partition)
        try:
            reader = open_hosted(self._plan, partition, self._recovery)
            while not reader.ended and not self._stopping.is_set():
                block = reader.read(self._plan.batch_rows, BLOCK_BYTES)
                if block is not None or reader.ended:
                    items.put((partition, block, reader.ended))
                    self._waker.wake()
                else:
                    self._stopping.wait(0.005)
            reader.close()
        except MillstreamError as error:
            items.put(error)
        except Exception as error:
            items.put(user_error(source.label(), f"reading partition {self._plan.partitions[partition][1]!r}", error))
        self._waker.wake()


def open_hosted(plan: PhysicalPlan, partition: int, recovery: Recovery | None) -> Reader:
    """The reader of a hosted partition, where the checkpoint says that it is to go on.

    Args:
        recovery: None: from the start.
    """
    node, name = plan.partitions[partition]
    source = plan.source_of(partition)
    known = None if recovery is None else recovery.partition(plan.nodes[node].name, name)
    if known is None or known.offset is None:
        return source.open(name)
    return source.open_at(name, known.offset)


def host_in_thread(
    plan: PhysicalPlan, partitions: Sequence[int], link: Link, recovery: Recovery | None, over: threading.Event
) -> threading.Thread:
    """Host partitions in a thread of this process; its failures reach the coordinator as any other's.

    Args:
        over: to be set when this life of the run has ended: then nothing more is read for it, or sent.
    """

    def serve() -> None:
        somebody_waits = True
        try:
            somebody_waits = SourceHost(plan, partitions, link, recovery, over).run()
        except Exception as error:
            link.send(SOURCES, Failed(link.me, described(error, traceback.format_exc())))
        finally:
            link.close(linger_ms=LAST_WORDS_MS if somebody_waits else 0)

    thread = threading.Thread(target=serve, name=CALLER_HOST, daemon=True)
    thread.start()
    return thread


def main(descriptor: int) -> int:
    bootstrap, _ = begin_child(descriptor)
    link = Link(bootstrap.directory, SOURCE_HOST, bootstrap.attempt)
    try:
        SourceHost(bootstrap.load_plan(), bootstrap.hosted, link, bootstrap.recovery()).run()
        return 0
    except Exception as error:
        link.send(SOURCES, Failed(SOURCE_HOST, described(error, traceback.format_exc())))
        return 1
    finally:
        link.close(linger_ms=LAST_WORDS_MS)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
