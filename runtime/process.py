"""What every child process of a run does: tells the time, watches its parent, measures itself."""

from __future__ import annotations

import fcntl
import gc
import os
import queue
import select
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

ROLL: Final = "processes"
"""The file in the state directory that all processes of a run hold a lock on."""


def now_us() -> int:
    """The wall clock, microseconds since the epoch."""
    return time.time_ns() // 1_000


def monotonic_us() -> int:
    """A clock that nobody sets, microseconds since some moment: for how long something took."""
    return time.monotonic_ns() // 1_000


def go_by(name: str) -> None:
    """Be shown by this name in ``ps`` and ``top``: the command line may say less than what the process is by now."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def spare_the_collector() -> None:
    """Let the garbage collector look at little: what was imported stays, and events make no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def exit_with_parent(descriptor: int, state: Path | None) -> queue.SimpleQueue[bytes]:
    """End this process when the pipe from its parent closes: no orphan outlives the supervisor.

    Args:
        state: the state directory, where this process is on the roll for as long as it lives, so that the next run
            can see that nobody of this one is left.
    Returns:
        What the parent sends by the pipe from now on.
    """
    if state is not None:
        _sign(state / ROLL)
        # Whoever was killed before this process signed may have been followed already: then it must not begin.
        gone = select.poll()  # not select(), which takes no descriptor above 1,023
        gone.register(descriptor, 0)
        if any(event & select.POLLHUP for _, event in gone.poll(0)):
            os._exit(3)
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def watch() -> None:
        while (frame := read_frame(descriptor)) is not None:
            frames.put(frame)
        os._exit(3)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
    return frames


def write_frame(descriptor: int, frame: bytes) -> None:
    """Send something down a pipe, whole.

    Raises:
        BrokenPipeError: nobody is there any more to read it.
    """
    view = memoryview(struct.pack("<Q", len(frame)) + frame)
    while view:
        view = view[os.write(descriptor, view) :]


def read_frame(descriptor: int) -> bytes | None:
    """What `write_frame` has sent; None: the other end is closed."""
    header = _read(descriptor, 8)
    return None if header is None else _read(descriptor, struct.unpack("<Q", header)[0])


def _read(descriptor: int, size: int) -> bytes | None:
    parts: list[bytes] = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _sign(roll: Path) -> None:
    """Hold a shared lock on a file; the system lets go of it when the process ends, however it ends."""
    descriptor = os.open(roll, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    with suppress(OSError):  # on a full disk the lock has to do
        os.write(descriptor, f"{os.getpid()}\n".encode())


class ProcessMeter:
    """This process's share of a core and its memory, since the last reading; and when that was, by a clock of its own."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._last = (time.monotonic(), time.process_time())

    def read(self) -> dict[str, float]:
        wall_s, cpu_s = time.monotonic(), time.process_time()
        before_wall_s, before_cpu_s = self._last
        self._last = (wall_s, cpu_s)
        share = (cpu_s - before_cpu_s) / max(wall_s - before_wall_s, 1e-6)
        rss_bytes = float(self._process.memory_info().rss)
        return {"cpu_share": share, "cpu_s": cpu_s, "rss_bytes": rss_bytes, "measured_s": wall_s}
