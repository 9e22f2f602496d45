"""What launch.py tells of a run to whoever watches it by the page; with the page off, nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millstream.coordinator.control import Requests
from millstream.coordinator.ui.address import Address, Door, leave_address, open_door, take_address_away
from millstream.coordinator.ui.graph import graph_of
from millstream.coordinator.ui.monitor import Monitor
from millstream.coordinator.ui.past import Past
from millstream.coordinator.ui.present import Present
from millstream.coordinator.ui.server import PageServer
from millstream.coordinator.view import View
from millstream.errors import MillstreamError, UserCodeError
from millstream.plan import PhysicalPlan
from millstream.result import RunResult


class Watch:
    """What happens to a run, life by life.

    Args:
        monitor: keeps and shows it; None: nobody does.
    """

    def __init__(self, monitor: Monitor | None) -> None:
        self._monitor = monitor

    def begin(self, attempt: int, epoch: int | None) -> None:
        """A life begins, anew or at a checkpoint."""
        if self._monitor is not None:
            where = "from its start" if epoch is None else f"from checkpoint {epoch}"
            self._monitor.begin(attempt, f"attempt {attempt} begins {where}")

    def looked_at(self) -> list[str]:
        """The operators whose rows somebody wants to see, since this was last asked."""
        return [] if self._monitor is None else self._monitor.looked_at()

    def lost(self, error: MillstreamError) -> None:
        """A life has ended by the loss of a process."""
        if self._monitor is not None:
            self._monitor.happened("lost", str(error))

    def ended(self, result: RunResult) -> None:
        if self._monitor is None:
            return
        if result.stopped_at is not None:
            self._monitor.happened("ended", f"stopped at checkpoint {result.stopped_at}")
        else:
            self._monitor.happened("ended", "stopped early" if result.interrupted else "done: the input has ended")

    def failed(self, error: BaseException) -> None:
        if self._monitor is None:
            return
        if isinstance(error, UserCodeError):
            self._monitor.failed(f"{error.operator}: the function raised on {error.event}", error.traceback)
        else:
            self._monitor.failed(str(error) or type(error).__name__, "")


class _Watched:
    """A view, beside which a monitor is told the same figures; says where the page is when the run has begun."""

    def __init__(self, view: View, monitor: Monitor, page: str | None) -> None:
        self._view = view
        self._monitor = monitor
        self._page = page

    def update(self, figures: Mapping[str, Any]) -> None:
        if self._page is not None and figures.get("state", "starting") != "starting":
            self._view.line(f"page: {self._page}")
            self._page = None
        self._monitor.update(figures)
        self._view.update(figures)

    def line(self, text: str) -> None:
        self._view.line(text)

    def close(self) -> None:
        self._view.close()


@contextmanager
def watched(
    plan: PhysicalPlan, directory: Path, address: Address | None, requests: Requests, view: View, *, say_where: bool
) -> Iterator[tuple[View, Watch]]:
    """Serve the page for as long as a run goes on, and keep its history.

    Args:
        directory: the state directory, whose lock is held.
        address: where the page is; None: there is none, and no history.
        requests: takes the commands of readers.
        say_where: whether a line tells of the page.
    Raises:
        FlowError: the address cannot be used.
    """
    if address is None:
        yield view, Watch(None)
        return
    door = open_door(address)
    monitor = Monitor(graph_of(plan), directory)
    server = PageServer(door, Present(monitor, requests), Past(directory))
    watch = Watch(monitor)
    leave_address(directory, door)
    try:
        yield _Watched(view, monitor, door.link if say_where else None), watch
    except BaseException as error:
        watch.failed(error)
        raise
    finally:
        take_address_away(directory)
        monitor.close()
        server.close()


def serve_past(directory: Path, door: Door) -> None:
    """Serve the page of the runs that a state directory has kept, until interrupted."""
    server = PageServer(door, None, Past(directory))
    try:
        while True:
            time.sleep(3_600)
    finally:
        server.close()
