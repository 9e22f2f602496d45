"""How long does a run stand still when a worker is killed?

    scripts/bench recovery --megabytes 100,1000

A flow counts and adds up by a key that is new with every event, with a checkpoint every second. When it has gone on for
so long that processes are kept ready beside it, and a checkpoint of so many megabytes is complete, a worker is killed
with signal 9. Told is the time from then until the first row that the new processes write: until the loss is noticed,
others are in the place of the processes that were there, state is read, output is cut back to the checkpoint, and rows
flow again. Below it is told what of that the run itself says that it was for; the rest is from the kill until it is
noticed, and from the moment in which all work until the first row.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import psutil
from rich.console import Console
from rich.table import Table

import millstream as ms
from millstream import col
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.store import CheckpointStore
from millstream.connectors import Counter
from millstream.errors import CheckpointError

_LOOK_S = 0.002
_PATIENCE_S = 300.0
_GOES_ON_S = 20.0
_BYTES_PER_KEY = 50
_PHASE = re.compile(r"([a-z][a-z ]+) (\d+\.\d+) s")


def growing_state(out: Path, rate: float | None = None) -> ms.Flow:
    """A flow of which every event is a new key; few rows of it are written."""
    flow = ms.Flow("recovery")
    sums = flow.generate({"k": Counter(), "n": Counter()}, rate=rate).key_by("k").agg(
        events=ms.count(), total=ms.sum("n"), least=ms.min("n"), most=ms.max("n")
    )  # fmt: skip
    sums.filter(col("k") % 100 == 0).write_jsonl(out)
    return flow


@dataclass
class Loss:
    """What became of one kill.

    Attributes:
        state_bytes: of the checkpoint that was the newest then.
        stood_still_s: from the kill to the first new row; 0: there was none in time.
        phases: what the run says that it was for, in seconds.
    """

    state_bytes: int = 0
    stood_still_s: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def all_phases(self) -> dict[str, float]:
        return {**self.phases, "noticing it, and the first row": self.stood_still_s - sum(self.phases.values())}


class Killer(threading.Thread):
    """Waits for a checkpoint that is large enough, kills a worker, waits for output, and stops the run."""

    def __init__(self, state: Path, out: Path, log: Path, wanted_bytes: int) -> None:
        super().__init__(daemon=True)
        self.loss = Loss()
        self._store = CheckpointStore(DirectoryDisk(state / "recovery" / "checkpoints"))
        self._out, self._log, self._wanted_bytes = out, log, wanted_bytes

    def run(self) -> None:
        try:
            self._until(lambda: self._out.exists() and self._out.stat().st_size > 0, 0.02)
            time.sleep(_GOES_ON_S)
            self.loss.state_bytes = self._large_enough()
            workers = [c for c in psutil.Process().children() if c.name().startswith("worker-")]
            written = self._out.stat().st_size
            killed_s = time.monotonic()
            workers[-1].kill()
            # The output is cut back to what the checkpoint counts: what is there then is of the new life.
            if self._until(lambda: self._out.stat().st_size < written):
                cut = self._out.stat().st_size
                if self._until(lambda: self._out.stat().st_size > cut):
                    self.loss.stood_still_s = time.monotonic() - killed_s
                    self._until(lambda: bool(told_phases(self._log)), 0.1)
                    self.loss.phases = told_phases(self._log)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def _large_enough(self) -> int:
        size = 0

        def there() -> bool:
            nonlocal size
            epochs = self._store.epochs()
            try:
                size = self._store.manifest(epochs[-1]).size_bytes if epochs else 0
            except CheckpointError:
                return False  # it has just been removed: there is a newer one
            return size >= self._wanted_bytes

        if not self._until(there, 0.02):
            raise click.ClickException(f"no checkpoint of {self._wanted_bytes:,} bytes within {_PATIENCE_S:.0f} s")
        time.sleep(0.2)  # some rows that are in no checkpoint yet
        return size

    @staticmethod
    def _until(condition: Callable[[], bool], look_s: float = _LOOK_S) -> bool:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(look_s)
        return True


def lose_a_worker(megabytes: int, workers: int) -> Loss:
    with TemporaryDirectory() as folder:
        out, state, log = Path(folder, "out.jsonl"), Path(folder, "state"), Path(folder, "log.jsonl")
        killer = Killer(state, out, log, megabytes * 1_000_000)
        killer.start()
        growing_state(out, megabytes * 1e6 / _BYTES_PER_KEY / _GOES_ON_S).run(
            workers=workers, state=state, checkpoint_interval="1s", log=log
        )
        killer.join()
        return killer.loss


def told_phases(log: Path) -> dict[str, float]:
    """How long each phase of the standstill took, as the run has told."""
    told = [line["text"] for line in map(json.loads, log.read_text().splitlines()) if line["kind"] == "recovered"]
    return {phase: float(took_s) for phase, took_s in _PHASE.findall(told[0].partition(": ")[2])} if told else {}


@click.command(help=__doc__)
@click.option("--megabytes", default="100", show_default=True, help="Sizes of the state, separated by commas.")
@click.option("--workers", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(megabytes: str, workers: int, repeats: int) -> None:
    console, table = Console(), Table(box=None)
    for column in ("state", "stands still for (median)", "from", "to"):
        table.add_column(column, justify="right")
    for size in map(int, megabytes.split(",")):
        losses = [lose_a_worker(size, workers) for _ in range(repeats)]
        seconds = [loss.stood_still_s for loss in losses]
        for loss in losses:
            phases = ", ".join(f"{phase} {took_s:.2f} s" for phase, took_s in loss.all_phases.items())
            console.print(f"{loss.state_bytes / 1e6:,.0f} MB, {loss.stood_still_s:.2f} s: {phases}", soft_wrap=True)
        state = statistics.median(loss.state_bytes for loss in losses) / 1e6
        table.add_row(
            f"{state:,.0f} MB", f"{statistics.median(seconds):.2f} s", f"{min(seconds):.2f} s", f"{max(seconds):.2f} s"
        )
    console.print(table)


if __name__ == "__main__":
    main()
