"""What the supervisor knows of its run: the newest reports, what happened, and the thread that writes the history.

The supervisor hands over what it is told and goes on; nothing here waits for a reader or for the disk.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from millstream.coordinator.ui.graph import Graph
from millstream.coordinator.ui.history import CheckpointMade, Happening, HistoryWriter
from millstream.coordinator.ui.picture import picture
from millstream.coordinator.ui.telemetry import start_telemetry
from millstream.process import ProcessMeter
from millstream.topology import CALLER

RATES_OVER_S: Final = 2.0
LATENCY_OVER_S: Final = 10.0
_RECORD_EVERY_US: Final = 1_000_000
_THIN_OUT_EVERY: Final = 60
_CLOSE_S: Final = 2.0
LATE_KEPT: Final = 50
"""Of each operator."""
_ENDED: Final = ("done", "stopped", "failed")
_STANDING: Final = ("cpu_share", "cpu_s", "rss_bytes", "measured_s", "idle_us")
"""What a process says of itself only now and then: it stands until it says something else."""


class Monitor:
    """Takes in what a run tells, in the thread of the supervisor; gives pictures of it to any other thread.

    Args:
        directory: the state directory of the flow, where the history is kept.
        say: is told what is configured and cannot be done.
    """

    def __init__(self, graph: Graph, directory: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.graph = graph
        self.directory = directory
        self.started_us = time.time_ns() // 1_000
        self.attempt = 0
        self.version = 0
        """Goes up with every report."""
        self._lock = threading.Lock()
        self._meter = ProcessMeter()
        self._machine = _Machine()
        self._reports: deque[dict[str, Any]] = deque()
        self._processes: dict[str, dict[str, Any]] = {}
        self._moved: dict[tuple[str, str], tuple[int, int]] = {}
        self._late: dict[str, deque[dict[str, Any]]] = {}
        """By operator, its last late events."""
        self._late_seen_us: dict[tuple[str, str], int] = {}
        """By process and operator, when the newest of those that it told was seen."""
        self._epochs: set[int] = set()
        """The checkpoints of the last report. A life may make one of a number that one before it made in vain."""
        self._recorded_us = 0
        # What the writer has not yet written. It is bounded: a disk that hangs costs history, not memory.
        self._to_write: queue.Queue[Any] = queue.Queue(maxsize=1_000)
        self._looks: queue.Queue[str] = queue.Queue(maxsize=16)
        self.run = 0
        self._telemetry = start_telemetry(graph.flow, self.picture, say)
        self._writer = threading.Thread(target=self._write, name="history", daemon=True)
        self._writer.start()
        self.happened("started", f"{graph.flow} starts with {graph.workers} worker{'s' if graph.workers != 1 else ''}")

    # --- from the supervisor ---

    def begin(self, attempt: int) -> None:
        """Another life of the run begins."""
        self.attempt = attempt
        self._processes.clear()
        if self._telemetry is not None:
            self._telemetry.begin(attempt)

    def update(self, figures: Mapping[str, Any]) -> None:
        """The newest figures of all processes."""
        if "processes" not in figures:
            return
        time_us = time.time_ns() // 1_000
        report = {**figures, "time_us": time_us, "attempt": self.attempt, "processes": self._standing(figures)}
        report["machine_cpu"] = self._machine.cpu_share()
        report["partitions"] = [self._since(p, time_us) for p in figures.get("partitions", ())]
        made = [CheckpointMade(**m) for m in report.pop("checkpoints", ())]
        for checkpoint in made:
            if checkpoint.epoch not in self._epochs:
                self._put(checkpoint)
                if self._telemetry is not None:
                    self._telemetry.checkpoint(checkpoint)
        self._epochs = {checkpoint.epoch for checkpoint in made}
        if time_us - self._recorded_us >= _RECORD_EVERY_US or report["state"] in _ENDED:
            self._recorded_us = time_us
            self._put(report)
        with self._lock:
            self._reports.append(report)
            horizon_us = time_us - int(LATENCY_OVER_S * 1e6)
            while len(self._reports) > 2 and self._reports[1]["time_us"] <= horizon_us:
                self._reports.popleft()
            self.version += 1

    def happened(self, kind: str, text: str, detail: str = "") -> None:
        """Something of note: see `Happening`."""
        if self._telemetry is not None:
            self._telemetry.happened(kind, text, detail)
        self._put(Happening(time.time_ns() // 1_000, kind, self.attempt, text, detail))

    def failed(self) -> None:
        """The run has failed: nobody will report that it has."""
        newest = self.newest()
        if newest is not None:
            self.update({**newest, "state": "failed"})

    def looked_at(self) -> list[str]:
        """The operators whose rows were asked for since this was last called."""
        names: set[str] = set()
        with suppress(queue.Empty):
            while True:
                names.add(self._looks.get_nowait())
        return sorted(names)

    def close(self) -> None:
        """Write and export what there is; waits a moment for a slow disk or network, and no longer."""
        if self._telemetry is not None:
            self._telemetry.close()
        with suppress(queue.Full):
            self._to_write.put(None, timeout=_CLOSE_S)
        self._writer.join(timeout=_CLOSE_S)

    def _standing(self, figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        processes: dict[str, dict[str, Any]] = {}
        for name, told in figures["processes"].items():
            if name == CALLER:
                told = {**self._meter.read(), **told}
            known = self._processes.setdefault(name, {})
            known.update({k: told[k] for k in _STANDING if k in told})
            processes[name] = {n: v for n, v in {**known, **told}.items() if n != "late_events"}
            for operator, events in told.get("late_events", {}).items():
                self._take_late(name, operator, events)
        return processes

    def _take_late(self, process: str, operator: str, events: list[dict[str, Any]]) -> None:
        """Keep those late events of a process, the newest first, that it has not told before."""
        before_us = self._late_seen_us.get((process, operator), 0)
        new = [event for event in events if event["seen_us"] > before_us]
        if new:
            self._late_seen_us[process, operator] = max(event["seen_us"] for event in new)
            with self._lock:
                self._late.setdefault(operator, deque(maxlen=LATE_KEPT)).extend(reversed(new))

    def _since(self, partition: Mapping[str, Any], time_us: int) -> dict[str, Any]:
        """A source partition, with the moment at which its watermark last rose."""
        key, watermark_us = (partition["source"], partition["name"]), partition["watermark_us"]
        before = self._moved.get(key)
        if before is None or before[0] != watermark_us:
            self._moved[key] = (watermark_us, time_us)
        return {**partition, "since_us": self._moved[key][1]}

    # --- for readers ---

    def picture(self) -> dict[str, Any] | None:
        """The run as it is now; None: nothing is known yet."""
        with self._lock:
            reports = list(self._reports)
        if not reports:
            return None
        after = reports[-1]
        before = _older(reports, after["time_us"] - int(RATES_OVER_S * 1e6))
        return picture(self.graph, before, after, reports[0])

    def newest(self) -> Mapping[str, Any] | None:
        """The newest report; None: there is none."""
        with self._lock:
            return self._reports[-1] if self._reports else None

    def rows(self, operator: str) -> dict[str, Any]:
        """The last rows of an operator, as far as they are known; asks for newer ones."""
        known = next(o for o in self.graph.operators if o.name == operator)
        name = known.entrance if known.role == "sink" and known.entrance is not None else operator
        with suppress(queue.Full):
            self._looks.put_nowait(name)
        report = self.newest()
        for figures in ({} if report is None else report["processes"]).values():
            if name in figures.get("rows_seen", {}):
                columns, rows = figures["rows_seen"][name]
                return {"columns": columns, "rows": rows}
        return {"columns": [], "rows": []}

    def late_events(self, most: int) -> list[dict[str, Any]]:
        """The last late events of all operators, the newest first; each says whose it is."""
        with self._lock:
            told = [{"operator": operator, **event} for operator, events in self._late.items() for event in events]
        return sorted(told, key=lambda event: event["seen_us"], reverse=True)[:most]

    # --- the thread that writes ---

    def _put(self, item: Any) -> None:
        with suppress(queue.Full):  # the disk does not keep up: the history has a gap, and the run goes on
            self._to_write.put_nowait(item)

    def _write(self) -> None:
        try:
            history = HistoryWriter(self.directory, self.graph, self.started_us)
        except (sqlite3.Error, OSError):
            return  # the state directory cannot be written, which the run finds out for itself
        self.run = history.run
        written = 0
        while (item := self._to_write.get()) is not None:
            try:
                if isinstance(item, Happening):
                    history.happened(item)
                elif isinstance(item, CheckpointMade):
                    history.checkpoint(item)
                else:
                    history.report(item)
                    written += 1
                    if written % _THIN_OUT_EVERY == 0:
                        history.thin_out(item["time_us"])
            except sqlite3.Error:
                continue  # a full disk: what cannot be written is missing, and what can be written later is not
        history.close()


class _Machine:
    """The use of all cores of the machine, by whomever, looked at once a second."""

    def __init__(self) -> None:
        self._share: float | None = None
        self._looked_s = time.monotonic()
        psutil.cpu_percent()  # from here on

    def cpu_share(self) -> float | None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= 1.0:
            self._looked_s = now_s
            self._share = psutil.cpu_percent() / 100
        return self._share


def _older(reports: list[dict[str, Any]], time_us: int) -> dict[str, Any] | None:
    """The youngest report at least so old, else the oldest other than the newest."""
    older = [r for r in reports[:-1] if r["time_us"] <= time_us]
    return older[-1] if older else reports[0] if len(reports) > 1 else None
