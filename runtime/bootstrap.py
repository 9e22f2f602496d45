"""What a child process is told when it starts: through an inherited pipe, and nowhere else.

The pipe stays open: when it closes, the parent is gone, and the child ends. The plan in it is the one
thing that is unpickled in a run; the user's functions inside stay opaque until a worker loads them.
"""

from __future__ import annotations

import os
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import CheckpointStore
from millstream.plan import PhysicalPlan

JOURNALS: Final = "journal"
"""In the state directory: what sources gave that give everything once."""


@dataclass(frozen=True)
class Bootstrap:
    """Attributes:
    directory: the private directory of the run's sockets.
    attempt: the number of this life of the run.
    plan: the pickled plan.
    state: the state directory; None: nothing is kept.
    import_paths: where the user's modules are.
    hosted: the source partitions that another process reads.
    stdin: an inherited descriptor of the user's standard input; -1: none.
    hang_timeout_s: how long a process may give no sign of life.
    checkpoint_us: from one checkpoint to the next, in microseconds; None: there are none.
    epoch: the checkpoint to go on from; None: the run starts anew.
    """

    directory: Path
    attempt: int
    plan: bytes
    state: Path | None
    import_paths: tuple[str, ...] = ()
    hosted: tuple[int, ...] = ()
    stdin: int = -1
    hang_timeout_s: float = 60.0
    checkpoint_us: int | None = None
    epoch: int | None = None

    def load_plan(self) -> PhysicalPlan:
        return cast(PhysicalPlan, pickle.loads(self.plan))

    def checkpoint_store(self) -> CheckpointStore:
        assert self.state is not None
        return CheckpointStore(DirectoryDisk(self.state / "checkpoints"))

    def recovery(self) -> Recovery | None:
        """The checkpoint to go on from.

        Raises:
            CheckpointError: it is gone, or damaged.
        """
        if self.epoch is None:
            return None
        store = self.checkpoint_store()
        return Recovery(store.manifest(self.epoch), store)

    @property
    def journals(self) -> Path | None:
        return None if self.state is None else self.state / JOURNALS

    def dead_letter_path(self, process: str) -> Path | None:
        return None if self.state is None else self.state / "dead-letters" / f"{process}.jsonl"


def write_bootstrap(descriptor: int, bootstrap: Bootstrap) -> None:
    payload = pickle.dumps(bootstrap)
    view = memoryview(struct.pack("<Q", len(payload)) + payload)
    while view:
        view = view[os.write(descriptor, view) :]


def read_bootstrap(descriptor: int) -> Bootstrap:
    (size,) = struct.unpack("<Q", _read(descriptor, 8))
    return cast(Bootstrap, pickle.loads(_read(descriptor, size)))


def _read(descriptor: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise SystemExit("the parent process ended before it said what to do")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
