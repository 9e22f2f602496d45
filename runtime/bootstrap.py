"""What a child process is told when it starts: through an inherited pipe, and nowhere else.

The pipe stays open: when it closes, the parent is gone, and the child ends. The plan in it is the one
thing that is unpickled in a run; the user's functions inside stay opaque until a worker loads them.
"""

from __future__ import annotations

import faulthandler
import pickle
import queue
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import CheckpointStore
from millstream.errors import InternalError
from millstream.plan import PhysicalPlan
from millstream.process import exit_with_parent, go_by, read_frame

_PLAN_TIMEOUT_S: Final = 30.0

JOURNALS: Final = "journal"
"""In the state directory: what sources gave that give everything once."""


@dataclass(frozen=True)
class Bootstrap:
    """Attributes:
    name: which process of the run this is.
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

    name: str
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


def begin_child(descriptor: int) -> tuple[Bootstrap, queue.SimpleQueue[bytes]]:
    """What every child does first: it waits to be told which process it is, and sees to it that it ends with its parent.

    Returns:
        What it was told, and what it will be told while it lives.
    Raises:
        SystemExit: the parent has ended before.
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    frame = read_frame(descriptor)
    if frame is None:
        raise SystemExit(3)
    bootstrap = cast(Bootstrap, pickle.loads(frame))
    go_by(bootstrap.name)
    frames = exit_with_parent(descriptor, bootstrap.state)
    sys.path[:0] = [p for p in bootstrap.import_paths if p not in sys.path]
    return bootstrap, frames


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
