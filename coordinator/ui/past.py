"""The past of a flow, as the application asks for it: pictures made of the reports that the history has kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from millstream.coordinator.ui.graph import Graph
from millstream.coordinator.ui.history import CheckpointMade, Happening, HistoryReader, RunRecord
from millstream.coordinator.ui.picture import picture

MOST_POINTS: Final = 500
_LINES: Final = (
    "time_us", "attempt", "state", "span_s", "events_per_s", "rows_per_s", "latency_p50_us", "latency_p99_us", "lag_us",
    "watermark_us", "state_bytes", "keys", "late", "dead_letters", "events_in",
)  # fmt: skip
_PROCESS_LINES: Final = ("cpu", "rss_bytes", "busy")


class Past:
    """Args:
    directory: the state directory of the flow.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._history = HistoryReader(directory)
        self._graphs: dict[int, Graph] = {}

    def runs(self) -> list[RunRecord]:
        return self._history.runs()

    def newest(self) -> int:
        runs = self.runs()
        return runs[-1].id if runs else 0

    def at(self, run: int, time_us: int) -> dict[str, Any] | None:
        """The run as it was at a moment; None: nothing is known of it."""
        reports = self._history.pair_at(run, time_us)
        graph = self._graph(run)
        if graph is None or not reports:
            return None
        return picture(graph, reports[0] if len(reports) == 2 else None, reports[-1])

    def timeline(self, run: int, from_us: int, until_us: int, points: int) -> dict[str, Any]:
        """The figures that are drawn over time, each point for the time since the one before it."""
        graph = self._graph(run)
        if graph is None:
            return {"span_us": None, "points": [], "happenings": [], "checkpoints": []}
        reports = self._history.reports(run, from_us, until_us, max(2, min(points, MOST_POINTS)))
        pairs = zip([None, *reports], reports, strict=False)
        return {
            "span_us": self._history.span_us(run),
            "points": [_point(picture(graph, before, after)) for before, after in pairs],
            "happenings": [vars(h) for h in self.happenings(run)],
            "checkpoints": [
                {"epoch": c.epoch, "begun_us": c.begun_us, "duration_us": c.duration_us,
                 "bytes": sum(size for _, size, *_ in c.operators.values())}
                for c in self.checkpoints(run, MOST_POINTS)
            ],
        }  # fmt: skip

    def happenings(self, run: int) -> list[Happening]:
        return self._history.happenings(run)

    def checkpoints(self, run: int, most: int) -> list[CheckpointMade]:
        return self._history.checkpoints(run, most)

    def _graph(self, run: int) -> Graph | None:
        if run not in self._graphs:
            self._graphs.update({r.id: r.graph for r in self.runs()})
        return self._graphs.get(run)


def _point(drawn: dict[str, Any]) -> dict[str, Any]:
    processes = {n: {line: p[line] for line in _PROCESS_LINES} for n, p in drawn["processes"].items()}
    limit = drawn["limit"]
    return {
        **{line: drawn[line] for line in _LINES},
        "processes": processes,
        "limit": None if limit is None else limit["operator"],
    }
