"""The supervisor's part in commands: what was asked of the run goes to the coordinator, and the answer comes back.

One `Steering` lasts for all lives of a run: a pause and a stop outlast a recovery, and what a lost coordinator did not
answer is asked again of the next one.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from millstream import commands
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.store import CheckpointStore
from millstream.commands import Answer
from millstream.coordinator.control import Request, Requests
from millstream.coordinator.questions import Questions
from millstream.coordinator.replaying import Replaying
from millstream.errors import CheckpointError
from millstream.wire import Answered, Ask, Stop

SAVEPOINTS: Final = "savepoints"
_WAITING: Final = 64


@dataclass(frozen=True)
class _Asked:
    request: Request
    ask: Ask
    since_s: float


class Steering:
    """Args:
    state: the state directory of the flow.

    Attributes:
        questions: what was asked about state.
        replaying: what dead letters are to be replayed.
        stopping: how the run was told to end; None: it was not.
    """

    def __init__(self, requests: Requests, state: Path, store: CheckpointStore) -> None:
        self.questions = Questions()
        self.replaying = Replaying(state, store)
        self._requests = requests
        self._state = state
        self._store = store
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._paused = False
        self._scale: Request | None = None
        self._scale_handed_on = False
        self._stop: Request | None = None
        self._stop_handed_on = False
        self.stopping: Stop | None = None
        self._released: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._copying: list[threading.Thread] = []

    # --- while a life goes on ---

    def begin_life(self) -> Iterator[Ask | Stop]:
        """What a new coordinator has to be told."""
        self.questions.begin_life()
        if self._paused:
            yield Ask(next(self._numbers), Ask.PAUSE)
        for asked in self._asked.values():
            yield asked.ask
        if self.stopping is not None:
            yield self.stopping

    def due(self) -> Iterator[Ask]:
        """What the coordinator is to be asked now."""
        while not self._released.empty():
            yield Ask(next(self._numbers), Ask.RELEASE, self._released.get())
        for request in self._requests.take():
            match request.command:
                case commands.Replay(dry=True):
                    self.replaying.begin(request, None)
                case commands.Checkpoint() | commands.Savepoint() | commands.Replay() if len(self._asked) >= _WAITING:
                    request.refuse(f"{_WAITING} commands wait already; ask again when the next checkpoint exists")
                case commands.Checkpoint():
                    yield self._remember(request, Ask.CHECKPOINT)
                case commands.Replay():
                    yield self._remember(request, Ask.REPLAY)
                case commands.Savepoint(to=to):
                    if self._is_free(request, to):
                        yield self._remember(request, Ask.SAVEPOINT)
                case commands.Pause():
                    self._paused = True
                    yield self._remember(request, Ask.PAUSE)
                case commands.Resume():
                    self._paused = False
                    yield self._remember(request, Ask.RESUME)
                case commands.Query():
                    self.questions.ask(request)
                case commands.Scale():
                    if self._scale is not None:
                        request.refuse("the run is being rescaled already; ask again when that is done")
                    else:
                        self._scale = request
                case commands.Stop(to=to):
                    if self._stop is not None:
                        request.refuse("the run is being stopped already")
                    elif self._is_free(request, to):
                        self._stop = request

    def scale_due(self) -> int | None:
        """The number of workers that is asked for, once."""
        if self._scale is None or self._scale_handed_on:
            return None
        self._scale_handed_on = True
        assert isinstance(self._scale.command, commands.Scale)
        return self._scale.command.workers

    def scaled(self, said: str, *, error: bool = False, took_s: float | None = None) -> None:
        """What came of it."""
        if self._scale is not None:
            self._scale.answer(Answer(said, error=error, seconds=took_s))
        self._scale, self._scale_handed_on = None, False

    def stop_due(self) -> commands.Stop | None:
        """The command to stop, once."""
        if self._stop is None or self._stop_handed_on:
            return None
        self._stop_handed_on = True
        assert isinstance(self._stop.command, commands.Stop)
        return self._stop.command

    def answered(self, message: Answered) -> None:
        asked = self._asked.pop(message.number, None)
        if asked is None:
            return
        if message.failure:
            asked.request.refuse(f"{asked.ask.what}: {message.failure}")
            return
        match asked.ask.what:
            case Ask.CHECKPOINT:
                took_s = time.monotonic() - asked.since_s
                said = f"checkpoint {message.epoch}, after {took_s:.1f} s"
                asked.request.answer(Answer(said, epoch=message.epoch, seconds=took_s))
            case Ask.SAVEPOINT:
                copying = threading.Thread(target=self._copy, args=(asked, message.epoch), name="savepoint")
                self._copying = [*filter(threading.Thread.is_alive, self._copying), copying]
                copying.start()
            case Ask.REPLAY:
                self.replaying.begin(asked.request, message.epoch)
            case Ask.PAUSE:
                asked.request.answer(Answer("paused: nothing is read until it is resumed"))
            case Ask.RESUME:
                asked.request.answer(Answer("resumed"))

    def _remember(self, request: Request, what: str) -> Ask:
        ask = Ask(next(self._numbers), what)
        self._asked[ask.number] = _Asked(request, ask, time.monotonic())
        return ask

    # --- savepoints ---

    def _is_free(self, request: Request, to: str) -> bool:
        """Whether a savepoint can be put there; else the request is refused, before anything is done."""
        try:
            taken = bool(to) and Path(to).exists() and (not Path(to).is_dir() or any(Path(to).iterdir()))
        except OSError as error:
            request.refuse(f"{to}: a savepoint cannot be put there: {error.strerror}")
            return False
        if taken:
            request.refuse(f"{to}: is there already, and not empty; name another directory")
        return not taken

    def _copy(self, asked: _Asked, epoch: int) -> None:
        assert isinstance(asked.request.command, commands.Savepoint)
        self._save(asked.request, epoch, asked.request.command.to, asked.since_s)
        self._released.put(epoch)

    def _save(self, request: Request, epoch: int, to: str, since_s: float) -> None:
        try:
            manifest = self._store.manifest(epoch)
            path = Path(to) if to else self._state / SAVEPOINTS / _named(manifest)
            self._store.copy_to(CheckpointStore(DirectoryDisk(path)), manifest)
        except (CheckpointError, OSError, ValueError) as error:  # ValueError: the path is none
            request.refuse(f"checkpoint {epoch} was made, and could not be copied: {error}")
            return
        took_s = time.monotonic() - since_s
        said = f"savepoint {path}, after {took_s:.1f} s; go on from there with: millstream run FLOW --from {path}"
        request.answer(Answer(said, epoch=epoch, path=str(path), seconds=took_s))

    # --- the end ---

    def end(self, stopped_at: int | None) -> None:
        """The run has ended well: whoever waits for that is told.

        Args:
            stopped_at: the checkpoint at which it was stopped; None: its input has ended, or it was drained.
        """
        if self._stop is None:
            return
        command = self._stop.command
        assert isinstance(command, commands.Stop)
        if stopped_at is None:
            self._stop.answer(Answer("the run has come to its end: all its output is finished"))
        elif command.savepoint:
            self._save(self._stop, stopped_at, command.to, time.monotonic())
        else:
            self._stop.answer(Answer(f"stopped at checkpoint {stopped_at}", epoch=stopped_at))

    def close(self) -> None:
        """The run is over: savepoints that are being copied are finished, and whoever still waits is told."""
        self.questions.close()
        self.replaying.close()
        for copying in self._copying:
            copying.join()
        for request in [*(a.request for a in self._asked.values()), *filter(None, (self._scale, self._stop))]:
            request.refuse("the run ended before it could do that")


def _named(manifest: Manifest) -> str:
    made = datetime.fromtimestamp(manifest.created_us / 1e6, UTC)
    return f"{made:%Y%m%d-%H%M%S}-{manifest.epoch:08d}"
