"""What checkpoints cost while a run goes on: turns with one every so often and turns without, in one and the same run.

On a machine that does other work as well two runs differ by more than checkpoints cost. Turns of a few seconds next to one
another are alike but for what is measured, and nothing of how a run begins or ends is in them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

import millstream as ms
from millstream.control import RunningFlow
from millstream.coordinator import launch
from millstream.coordinator.launch import RunOptions
from millstream.coordinator.ui.history import HistoryReader
from millstream.errors import CommandError

WORKER = "worker-0"
_NEVER_US = 86_400_000_000
_LOOK_S = 0.05
_WARM_UP_S = 2.0


@dataclass
class Turns:
    """What one run did.

    Attributes:
        bounds: from when until when each turn went, by the clock that nobody sets, and whether it had checkpoints.
        took_s: how long each checkpoint took from being asked for until it was there.
        rates: for each turn in which enough was told, whether it had checkpoints, and its events/s.
    """

    bounds: list[tuple[float, float, bool]] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    rates: list[tuple[bool, float]] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """For each two turns next to one another, the events/s with checkpoints, of those without."""
        return [
            one / other if checkpoints else other / one
            for (checkpoints, one), (then, other) in pairwise(self.rates)
            if checkpoints != then
        ]

    def rate(self, *, checkpoints: bool) -> float:
        return median(rate for had, rate in self.rates if had == checkpoints)


class _Asker(threading.Thread):
    """Asks for checkpoints in every other turn until the run is over."""

    def __init__(self, run: RunningFlow, turns: Turns, interval_s: float, turn_s: float) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self._run, self._turns, self._interval_s, self._turn_s = run, turns, interval_s, turn_s

    def run(self) -> None:
        while not self._asked():  # until the run is there
            if self.over.wait(_LOOK_S):
                return
        began_s = time.monotonic() + _WARM_UP_S
        while not self.over.wait(began_s - time.monotonic()):
            end_s, checkpoints = began_s + self._turn_s, len(self._turns.bounds) % 2 == 1
            self._turns.bounds.append((began_s, end_s, checkpoints))
            due_s = began_s
            while checkpoints and due_s < end_s and not self.over.wait(due_s - time.monotonic()):
                asked_s = time.monotonic()
                if not self._asked():
                    return
                self._turns.took_s.append(time.monotonic() - asked_s)
                due_s = max(due_s + self._interval_s, time.monotonic())
            began_s = max(end_s, time.monotonic())

    def _asked(self) -> bool:
        try:
            self._run.checkpoint()
        except CommandError:
            return False
        return True


def measured_turns(flow: ms.Flow, operator: str, interval_s: float, turn_s: float) -> Turns:
    """Run a flow with one worker.

    Args:
        operator: whose rows are counted.
        interval_s: from one checkpoint to the next, in the turns that have any.
    """
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / flow.name
        asker = _Asker(RunningFlow(state), turns, interval_s, turn_s)
        asker.start()
        try:
            # With a page, for its history: what was told each second stays there.
            launch.run(flow, RunOptions(workers=1, state=folder, checkpoint_us=_NEVER_US, page="127.0.0.1:0"))
        finally:
            asker.over.set()
            asker.join()
        history = HistoryReader(state)
        (run,) = history.runs()
        told = _told(history.reports(run.id, 0, 2**62, 10_000), operator)
    for began_s, end_s, checkpoints in turns.bounds:
        inside = [(at_s, rows) for at_s, rows in told if began_s <= at_s <= end_s]
        if len(inside) > 1:
            (first_s, before), (last_s, after) = inside[0], inside[-1]
            turns.rates.append((checkpoints, (after - before) / (last_s - first_s)))
    return turns


def _told(reports: list[dict[str, Any]], operator: str) -> list[tuple[float, int]]:
    """How many rows an operator had taken, and when, by the clock that nobody sets."""
    workers = [r["processes"].get(WORKER, {}) for r in reports]
    found = {w["measured_s"]: w["operators"].get(operator, {}).get("rows_in", 0) for w in workers if "measured_s" in w}
    return sorted(found.items())


def turns_table(found: dict[str, Turns], interval_s: float, turn_s: float) -> Table:
    table = Table(
        title=f"events/s in turns of {turn_s:g} s with a checkpoint every {interval_s:g} s and without, in one run"
    )
    for heading in (
        "flow",
        "with",
        "without",
        "turns side by side",
        "median ratio",
        "least",
        "most",
        "a checkpoint takes, s",
    ):
        table.add_column(heading, justify="left" if heading == "flow" else "right")
    for name, turns in found.items():
        ratios = turns.ratios
        table.add_row(
            name, *(f"{turns.rate(checkpoints=c):,.0f}" for c in (True, False)), str(len(ratios)),
            f"{median(ratios):.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}", f"{median(turns.took_s):.2f}",
        )  # fmt: skip
    return table
