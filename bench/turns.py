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
        costs: for each of these the same with the CPU seconds of all processes for a million events.
    """

    bounds: list[tuple[float, float, bool]] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    rates: list[tuple[bool, float]] = field(default_factory=list)
    costs: list[tuple[bool, float]] = field(default_factory=list)


def _ratios(found: list[tuple[bool, float]]) -> list[float]:
    """For each two turns next to one another, the one with checkpoints, of the one without."""
    return [
        one / other if checkpoints else other / one
        for (checkpoints, one), (then, other) in pairwise(found)
        if checkpoints != then
    ]


def _median(found: list[tuple[bool, float]], *, checkpoints: bool) -> float:
    return median(value for had, value in found if had == checkpoints)


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
        inside = [of_all for of_all in told if began_s <= of_all[0] <= end_s]
        if len(inside) > 1:
            took_s, rows, cpu_s = (last - first for first, last in zip(inside[0], inside[-1], strict=True))
            turns.rates.append((checkpoints, rows / took_s))
            turns.costs.append((checkpoints, cpu_s / rows * 1e6))
    return turns


def _told(reports: list[dict[str, Any]], operator: str) -> list[tuple[float, int, float]]:
    """When, by the clock that nobody sets; how many rows an operator had taken; the CPU seconds of all processes."""
    found: dict[float, tuple[int, float]] = {}
    for processes in (report["processes"] for report in reports):
        worker = processes.get(WORKER, {})
        if "measured_s" in worker:
            cpu_s = sum(p.get("cpu_s", 0.0) for p in processes.values())
            found[worker["measured_s"]] = worker["operators"].get(operator, {}).get("rows_in", 0), cpu_s
    return [(at_s, *of_all) for at_s, of_all in sorted(found.items())]


def turns_table(found: dict[str, Turns], interval_s: float, turn_s: float) -> Table:
    title = f"turns of {turn_s:g} s with a checkpoint every {interval_s:g} s and without, in one run"
    table = Table(title=title)
    headings = (
        "flow",
        "turns",
        "events/s with",
        "without",
        "ratio",
        "CPU s a million with",
        "without",
        "ratio",
        "checkpoint, s",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "flow" else "right")
    for name, turns in found.items():
        rates, costs = turns.rates, turns.costs
        table.add_row(
            name, str(len(rates)),
            *(f"{_median(rates, checkpoints=c):,.0f}" for c in (True, False)), _spread(_ratios(rates)),
            *(f"{_median(costs, checkpoints=c):.3f}" for c in (True, False)), _spread(_ratios(costs)),
            f"{median(turns.took_s):.2f}",
        )  # fmt: skip
    return table


def _spread(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
