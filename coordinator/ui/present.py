"""The run that goes on, as the application asks for it: its monitor, and what it can be told to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from millstream.commands import Answer, Command
from millstream.coordinator.control import Requests
from millstream.coordinator.ui.graph import Graph
from millstream.coordinator.ui.monitor import Monitor


class Present:
    """Args:
    requests: takes what a reader wants the run to do.
    """

    def __init__(self, monitor: Monitor, requests: Requests) -> None:
        self._monitor = monitor
        self._requests = requests

    @property
    def commands(self) -> list[str]:
        """What the run can be told to do, by the tags of `millstream.commands`."""
        return sorted(kind.__struct_config__.tag for kind in get_args(Command))

    def obey(self, command: Command) -> Answer:
        """Have the run do something; waits until it has."""
        return self._requests.submit(command).future.result()

    @property
    def graph(self) -> Graph:
        return self._monitor.graph

    @property
    def run(self) -> int | None:
        """Its number in the history; None: it is not there (yet)."""
        return self._monitor.run or None

    @property
    def version(self) -> int:
        return self._monitor.version

    def picture(self) -> dict[str, Any] | None:
        return self._monitor.picture()

    def report(self) -> Mapping[str, Any] | None:
        return self._monitor.newest()

    def late_events(self, most: int) -> list[dict[str, Any]]:
        return self._monitor.late_events(most)

    def rows(self, operator: str) -> dict[str, Any]:
        return self._monitor.rows(operator)
