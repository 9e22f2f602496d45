"""What goes wrong in a simulated run: a disk that fails, and processes that end in the middle of a step."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable

import pyarrow as pa

from millstream.checkpoints.disk import BytesLike


class Injected(OSError):
    """A failure that the simulator made up: whoever meets it must cope, or say so and end the run."""


class Killed(BaseException):
    """The process that was about to do something is gone."""


def was_injected(error: BaseException | None) -> bool:
    """Whether an error goes back to one that the simulator made up."""
    while error is not None:
        if isinstance(error, Injected):
            return True
        error = error.__cause__
    return False


class Trouble:
    """Chances for everything that is written, all from one source of randomness.

    Attributes:
        failing: how often a write fails, as on a full disk or with a failing fsync.
        killing: how often whoever writes is killed before, in the middle of, or after it.
    """

    def __init__(self, dice: random.Random, failing: float = 0.0, killing: float = 0.0) -> None:
        self._dice = dice
        self.failing = failing
        self.killing = killing
        self.full = False

    def before(self) -> None:
        """Something is about to be written: it may not come to that."""
        if self.full:
            raise Injected(errno.ENOSPC, "no space left on the simulated device")
        if self._dice.random() < self.failing:
            raise Injected(errno.EIO, "a simulated fsync failed")
        if self._dice.random() < self.killing:
            raise Killed

    def after(self) -> None:
        """Something was written, and nobody was told yet."""
        if self._dice.random() < self.failing / 2:
            raise Injected(errno.EIO, "a simulated fsync of a folder failed")
        if self._dice.random() < self.killing:
            raise Killed

    def torn(self) -> bool:
        return self._dice.random() < 0.5


class SimulatedDisk:
    """A `millstream.checkpoints.disk.Disk` in memory that keeps the promises of one, and nothing beyond them.

    A write that fails or is cut short leaves what was there before, and perhaps half a file under a name that
    `names` does not show; one that is killed, or fails, after the renaming leaves the new file. What is added may be
    there in half when that fails or is killed.
    """

    def __init__(self, trouble: Trouble) -> None:
        self.files: dict[str, bytes] = {}
        self._trouble = trouble

    def write(self, path: str, pieces: Iterable[BytesLike]) -> None:
        data = b"".join(bytes(memoryview(piece)) for piece in pieces)
        try:
            self._trouble.before()
        except Killed:
            if self._trouble.torn():
                folder, _, name = path.rpartition("/")
                self.files[f"{folder}/.{name}.1".lstrip("/")] = data[: len(data) // 2]
            raise
        self.files[path] = data
        self._trouble.after()

    def add(self, path: str, pieces: Iterable[BytesLike]) -> None:
        data = b"".join(bytes(memoryview(piece)) for piece in pieces)
        try:
            self._trouble.before()
        except BaseException:
            if self._trouble.torn():
                self.files[path] = data[: len(data) // 2]
            raise
        self.files[path] = data

    def sync(self, folder: str) -> None:
        self._trouble.after()

    def read(self, path: str) -> pa.Buffer:
        try:
            return pa.py_buffer(self.files[path])
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", path) from None

    def names(self, folder: str) -> list[str]:
        inside = (path.rpartition("/") for path in self.files)
        return sorted(name for where, _, name in inside if where == folder and not name.startswith("."))

    def remove(self, path: str) -> None:
        self.files.pop(path, None)

    def rename(self, path: str, to: str) -> None:
        self._trouble.before()
        self.files[to] = self.files.pop(path)
        self._trouble.after()

    def damage(self, path: str, dice: random.Random) -> None:
        """What a bad sector does: bytes that are not those that were written, or fewer of them."""
        data = bytearray(self.files[path])
        if data and dice.random() < 0.7:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        else:
            del data[len(data) // 2 :]
        self.files[path] = bytes(data)
