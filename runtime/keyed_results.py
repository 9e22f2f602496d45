"""Streams that operators by key put out, with what else there is of each: late events, side outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from millstream.errors import FlowError
from millstream.plan import Port
from millstream.specs.base import LATE
from millstream.streams import Stream
from millstream.where import caller

if TYPE_CHECKING:
    from millstream.flow import Flow


class OrderedStream(Stream):
    """What an operator made of events in order; `late` has those that came when later ones had been taken."""

    @property
    def late(self) -> Stream:
        return Stream(self.flow, Port(self.port.node, LATE))


class ProcessResult(Stream):
    """The main output of a process; `output` gives the others."""

    def __init__(self, flow: Flow, port: Port, outputs: Mapping[str, Any]) -> None:
        super().__init__(flow, port)
        self._outputs = tuple(outputs)

    def output(self, name: str) -> Stream:
        """A side output: what the process emits ``to=name``.

        Raises:
            FlowError: ``process(outputs=...)`` declares none of that name.
        """
        if name not in self._outputs:
            known = ", ".join(map(repr, self._outputs)) or "none"
            raise FlowError(f"{caller()} output: no output {name!r}; process(outputs=...) declares {known}")
        return Stream(self.flow, Port(self.port.node, name))


class RunningResult(Stream):
    """What stands for each key, and how it changes."""

    def __init__(self, flow: Flow, port: Port, *, late: bool) -> None:
        super().__init__(flow, port)
        self._late = late

    @property
    def late(self) -> Stream:
        """Events that came when later ones had been taken.

        Raises:
            FlowError: events are taken as they come, so none is late.
        """
        if not self._late:
            raise FlowError(f"{caller()} late: this operator takes events as they come; none is late")
        return Stream(self.flow, Port(self.port.node, LATE))
