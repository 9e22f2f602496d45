"""The processes of a run that this process has started, by their names, and a thread that looks at them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self

import psutil


def processes_of_run() -> dict[str, psutil.Process]:
    """Every process of Millstream below this one, as "coordinator" or "worker 0"."""
    found: dict[str, psutil.Process] = {}
    try:
        children = psutil.Process().children(recursive=True)
    except psutil.Error:  # one has just gone
        return found
    for process in children:
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        module = next((c for c in command if c.startswith("millstream.")), None)
        if module == "millstream.workers":
            found[f"worker {command[command.index(module) + 1]}"] = process
        elif module is not None and module != "millstream.coordinator.spare":
            found[module.removeprefix("millstream.")] = process
    return found


class Watch(ABC):
    """Looks at the processes of a run, in a thread, as long as its ``with`` block lasts."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @abstractmethod
    def look(self, name: str, process: psutil.Process) -> None:
        """Take note of one process.

        Raises:
            psutil.Error: it has gone.
        """

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            for name, process in processes_of_run().items():
                try:
                    self.look(name, process)
                except psutil.Error:
                    continue
