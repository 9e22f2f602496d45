"""What a child process is told when it starts: through an inherited pipe, and nowhere else.

The pipe stays open: when it closes, the parent is gone, and the child ends. The plan in it is the one
thing that is unpickled in a run; the user's functions inside stay opaque until a worker loads them.
"""

from __future__ import annotations

import pickle
import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import CheckpointStore
from millstream.errors import InternalError
from millstream.plan import PhysicalPlan
from millstream.process import read_frame, write_frame

_PLAN_TIMEOUT_S: Final = 30.0

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
    joins: the process is a worker that waits until the run, which goes on, is rescaled.
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
    joins: bool = False

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
        return None if self.epoch is None else self.recovery_at(self.epoch)

    def recovery_at(self, epoch: int) -> Recovery:
        store = self.checkpoint_store()
        return Recovery(store.manifest(epoch), store)

    @property
    def journals(self) -> Path | None:
        return None if self.state is None else self.state / JOURNALS

    def dead_letter_path(self, process: str) -> Path | None:
        return None if self.state is None else self.state / "dead-letters" / f"{process}.jsonl"


def write_bootstrap(descriptor: int, bootstrap: Bootstrap) -> None:
    write_frame(descriptor, pickle.dumps(bootstrap))


def read_bootstrap(descriptor: int) -> Bootstrap:
    frame = read_frame(descriptor)
    if frame is None:
        raise SystemExit("the parent process ended before it said what to do")
    return cast(Bootstrap, pickle.loads(frame))


@dataclass(frozen=True)
class NextPlan:
    """The plan with which a run goes on when it is rescaled; it comes by the same pipe.

    Attributes:
        attempt: of the life that it is for.
        plan: pickled.
    """

    attempt: int
    plan: bytes


def next_plan(frames: queue.SimpleQueue[bytes], attempt: int) -> PhysicalPlan:
    """The plan for a life of the run; those for lives that it did not come to are passed over.

    Raises:
        InternalError: the parent has not sent it.
    """
    while True:
        try:
            sent = cast(NextPlan, pickle.loads(frames.get(timeout=_PLAN_TIMEOUT_S)))
        except queue.Empty:
            raise InternalError(f"the plan for attempt {attempt} did not come within {_PLAN_TIMEOUT_S:.0f} s") from None
        if sent.attempt == attempt:
            return cast(PhysicalPlan, pickle.loads(sent.plan))
