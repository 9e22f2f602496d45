"""What launch.py tells of a run to whoever watches it by the page; with the page off, nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millstream.coordinator.control import Requests
from millstream.coordinator.log import LoggedView, RunLog
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
        log: where it is written, too; None: nowhere.
    """

    def __init__(self, monitor: Monitor | None, log: RunLog | None = None) -> None:
        self._monitor = monitor
        self._log = log

    def begin(self, attempt: int, epoch: int | None) -> None:
        """A life begins, anew or at a checkpoint."""
        if self._monitor is not None:
            self._monitor.begin(attempt)
        if self._log is not None:
            self._log.attempt = attempt
        self._happened("attempt", f"attempt {attempt} begins {'anew' if epoch is None else f'from checkpoint {epoch}'}")

    def looked_at(self) -> list[str]:
        """The operators whose rows somebody wants to see, since this was last asked."""
        return [] if self._monitor is None else self._monitor.looked_at()

    def lost(self, error: MillstreamError) -> None:
        """A life has ended by the loss of a process."""
        self._happened("lost", str(error))

    def recovered(self, text: str) -> None:
        """The life after a loss works."""
        self._happened("recovered", text)

    def warned(self, text: str) -> None:
        """Something is not as it should be, and the run goes on."""
        self._happened("warning", text)

    def ended(self, result: RunResult) -> None:
        if result.stopped_at is not None:
            self._happened("ended", f"stopped at checkpoint {result.stopped_at}")
        else:
            self._happened("ended", "stopped early" if result.interrupted else "done: the input has ended")

    def failed(self, error: BaseException) -> None:
        if isinstance(error, UserCodeError):
            text = f"{error.operator}: the function raised on {error.event}"
            self._happened("failed", text, error.traceback, error.operator.partition(" (")[0])
        else:
            self._happened("failed", str(error) or type(error).__name__)
        if self._monitor is not None:
            self._monitor.failed()

    def _happened(self, kind: str, text: str, detail: str = "", operator: str = "") -> None:
        if self._monitor is not None:
            self._monitor.happened(kind, text, detail)
        if self._log is not None:
            self._log.write(kind, text, operator=operator, detail=detail)


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

    def said(self, process: str, operator: str, text: str) -> None:
        self._view.said(process, operator, text)

    def close(self) -> None:
        self._view.close()


@contextmanager
def watched(
    plan: PhysicalPlan,
    directory: Path,
    address: Address | None,
    log_path: Path | None,
    requests: Requests,
    view: View,
    *,
    say_where: bool,
) -> Iterator[tuple[View, Watch]]:
    """Serve the page for as long as a run goes on, keep its history, and write its log.

    Args:
        directory: the state directory, whose lock is held.
        address: where the page is; None: there is none, and no history.
        log_path: the file that the log is added to; None: there is none.
        requests: takes the commands of readers.
        say_where: whether a line tells of the page.
    Raises:
        FlowError: the address or the file cannot be used.
    """
    log = None if log_path is None else RunLog(log_path, plan.name, view.line)
    told = view if log is None else LoggedView(view, log)
    try:
        with _shown(plan, directory, address, log, requests, told, say_where=say_where) as shown:
            yield shown
    finally:
        if log is not None:
            log.close()


@contextmanager
def _shown(
    plan: PhysicalPlan, directory: Path, address: Address | None, log: RunLog | None, requests: Requests, view: View,
    *, say_where: bool,
) -> Iterator[tuple[View, Watch]]:  # fmt: skip
    if address is None:
        watch = Watch(None, log)
        try:
            yield view, watch
        except BaseException as error:
            watch.failed(error)
            raise
        return
    door = open_door(address)
    monitor = Monitor(graph_of(plan), directory, view.line)
    server = PageServer(door, Present(monitor, requests), Past(directory))
    watch = Watch(monitor, log)
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
