"""The open readers of a process: who has something, who is to be asked again, and when.

A reader that had nothing says what to wait for: a descriptor, a socket, or a moment. Hosted partitions are
read in another process; their blocks arrive as messages and wait here, within their credit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pyarrow as pa
import zmq

from millstream.channel import Budget
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import KEPT
from millstream.connectors.base import Block, Offset, Reader
from millstream.connectors.journal import Journal
from millstream.coordinator.replays import Replays
from millstream.errors import SourceError
from millstream.plan import PhysicalPlan
from millstream.topology import COORDINATOR, SOURCE_STAGE
from millstream.watermarks import InputStatus
from millstream.wire import Credit, Data

HOSTED: Final = -2
"""Exchanges from this number downwards carry the blocks of hosted partitions: HOSTED - partition."""

HOSTED_BUDGET: Final = Budget(4 * 2**20, drain_us=None)
_ASK_AGAIN_S: Final = 0.05


def hosted_exchange(partition: int) -> int:
    return HOSTED - partition


class HostedReader(Reader):
    """The receiving end of a partition that another process reads.

    Args:
        row: where it begins; None: it cannot be read from the middle.
    """

    def __init__(self, row: int | None = None) -> None:
        self.ended = False
        self._row = row
        self._blocks: deque[Data] = deque()
        self._rest: Block | None = None
        self._last = False
        self.credits: list[tuple[str, Credit]] = []

    def put(self, data: Data) -> None:
        self._blocks.append(data)

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        block = self._rest or self._next()
        if block is None:
            return None
        self._rest = None
        columns = block.payload
        if isinstance(columns, pa.RecordBatch):
            fitting = max(1, min(max_rows, max_bytes * columns.num_rows // max(columns.nbytes, 1)))
            if fitting < columns.num_rows:
                self._rest = replace(block, payload=columns.slice(fitting), offset=block.offset + fitting)
                block = replace(block, payload=columns.slice(0, fitting))
            if self._row is not None:
                self._row = block.offset + min(fitting, columns.num_rows)
        self.ended = self._last and self._rest is None
        return block

    def _next(self) -> Block | None:
        if not self._blocks:
            return None
        data = self._blocks.popleft()
        if data.size_bytes:
            credit = Credit(data.exchange, SOURCE_STAGE, COORDINATOR, data.size_bytes, HOSTED_BUDGET.size_bytes)
            self.credits.append((data.sender, credit))
        self._last = data.status is InputStatus.ENDED
        assert data.payload is None or isinstance(data.payload, Block)
        if data.payload is None:
            self.ended = self._last
        return data.payload

    def offset(self) -> Offset | None:
        return None if self._row is None else {"row": self._row}

    def close(self) -> None:
        return None


class Readers:
    """The readers of the coordinator, by partition.

    Args:
        recovery: the checkpoint to go on from; None: from the start.
        journals: the folder of the journals of sources that give everything once; None: none are kept.
        replays: dead letters that are to go through sources again, before what these have themselves.
    Raises:
        SourceError: a source cannot be read from where the checkpoint is.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        hosted: Sequence[int],
        poller: zmq.Poller | None,
        recovery: Recovery | None = None,
        journals: Path | None = None,
        replays: Replays | None = None,
    ) -> None:
        self._replays = Replays(lambda source, offset, size: b"", {}) if replays is None else replays
        self._sources = [plan.nodes[node].name for node, _ in plan.partitions]
        self._journals: dict[int, Journal] = {}
        self._counted: dict[int, deque[int]] = {}
        self._readers: dict[int, Reader] = {}
        self._again_s: dict[int, float] = {}
        self._poller = poller
        for partition, (node, name) in enumerate(plan.partitions):
            known = None if recovery is None else recovery.partition(plan.nodes[node].name, name)
            if partition in hosted:
                replayable = plan.source_of(partition).replayable
                if known is not None and known.sequence and not known.ended and not replayable:
                    # Whoever hosts it begins at its beginning: what the checkpoint counts would come again.
                    raise SourceError(
                        f"{plan.source_of(partition).label()}: cannot go on from a checkpoint: it cannot be read from the "
                        "middle. Start anew with --fresh, or read from files"
                    )
                begun = 0 if known is None or known.offset is None else known.offset["row"]
                self._readers[partition] = HostedReader(begun if replayable else None)
            elif journals is not None and plan.source_of(partition).journaled:
                journal = Journal(journals / quote(f"{plan.nodes[node].name}.{name}", safe=""))
                self._journals[partition], self._counted[partition] = journal, deque(maxlen=KEPT)
                offset = None if known is None else known.offset
                self._readers[partition] = plan.source_of(partition).open_journaled(name, journal, offset)
            elif known is None or known.offset is None:
                self._readers[partition] = plan.source_of(partition).open(name)
            else:
                self._readers[partition] = plan.source_of(partition).open_at(name, known.offset)
        self.look_for_replays()

    def read(self, partition: int, max_rows: int, max_bytes: int) -> tuple[Block | None, bool]:
        """The next block of a partition, and whether it has ended; not before what is to be replayed was read."""
        source, reader = self._sources[partition], self._readers[partition]
        letters = self._letters(source, reader, max_rows, max_bytes)
        if letters is not None:
            return letters, False
        if reader.ended:
            return None, True
        block = reader.read(max_rows, max_bytes)
        if block is None and not reader.ended:
            self._sleep(partition, reader)
        if not reader.ended:
            return block, False
        if block is not None:
            self._replays.look((source,))
            return block, not self._replays.is_pending(source)
        letters = self._letters(source, reader, max_rows, max_bytes)
        return letters, letters is None

    def _letters(self, source: str, reader: Reader, max_rows: int, max_bytes: int) -> Block | None:
        if reader.ended:
            self._replays.look((source,))  # what was asked for by now counts
        return self._replays.take(source, max_rows, max_bytes)

    def offset(self, partition: int) -> Offset | None:
        """Where the reader of a partition is; None: what it has read cannot be read again."""
        return self._readers[partition].offset()

    def replayed(self) -> Mapping[str, int]:
        """By source, how much of its dead letters that are to be replayed was read."""
        return self._replays.offsets()

    def look_for_replays(self) -> None:
        """Find out whether somebody has asked for replays."""
        self._replays.look(set(self._sources))

    def counted(self, manifest: Manifest) -> None:
        """A checkpoint is complete: what comes before the oldest that is kept is not needed again."""
        for partition, journal in self._journals.items():
            offset, counted = manifest.partitions[partition].offset, self._counted[partition]
            if offset is not None:
                counted.append(offset["position"])
            if len(counted) == counted.maxlen:
                journal.trim(counted[0])

    def put(self, data: Data) -> None:
        """Take a hosted block."""
        partition = HOSTED - data.exchange
        reader = self._readers[partition]
        assert isinstance(reader, HostedReader)
        reader.put(data)
        if partition in self._again_s:
            self._again_s[partition] = 0.0

    def credits(self) -> list[tuple[str, Credit]]:
        """Credit to return to the processes that host partitions."""
        due: list[tuple[str, Credit]] = []
        for reader in self._readers.values():
            if isinstance(reader, HostedReader) and reader.credits:
                due += reader.credits
                reader.credits = []
        return due

    def _sleep(self, partition: int, reader: Reader) -> None:
        due_s = reader.due_s()
        ask_s = time.monotonic() + _ASK_AGAIN_S
        self._again_s[partition] = ask_s if due_s is None else min(ask_s, due_s)
        waits_on = reader.wait_on()
        if waits_on is not None and self._poller is not None:
            self._poller.register(waits_on, zmq.POLLIN)

    def awake(self) -> list[int]:
        """The partitions to ask again now."""
        if not self._again_s:
            return []
        now_s = time.monotonic()
        ready = [
            p
            for p, again_s in self._again_s.items()
            if again_s <= now_s or self._replays.is_pending(self._sources[p]) or self._readable(p)
        ]
        for partition in ready:
            del self._again_s[partition]
            waits_on = self._readers[partition].wait_on()
            if waits_on is not None and self._poller is not None and waits_on in self._poller:
                self._poller.unregister(waits_on)
        return ready

    def _readable(self, partition: int) -> bool:
        waits_on = self._readers[partition].wait_on()
        if isinstance(waits_on, zmq.Socket):
            return bool(int(waits_on.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
        if waits_on is None:
            return False
        poller = zmq.Poller()
        poller.register(waits_on, zmq.POLLIN)
        return bool(poller.poll(0))

    def wait_s(self) -> float | None:
        """How long nobody needs to be asked; None: as long as nothing arrives."""
        return None if not self._again_s else max(0.0, min(self._again_s.values()) - time.monotonic())

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        for journal in self._journals.values():
            journal.close()
