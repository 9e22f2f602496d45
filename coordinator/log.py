"""The log of a run: JSON lines, each with the run, the attempt, the process and the operator that it is about.

What goes there is what the terminal shows beside figures: what children print, notices, what happens to the run. A log
that cannot be written any more is told of once; the run goes on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from millstream.coordinator.view import View
from millstream.errors import FlowError


class RunLog:
    """Appends to a file; any thread may write.

    Raises:
        FlowError: the file cannot be opened.
    """

    def __init__(self, path: Path, flow: str, say: Callable[[str], None]) -> None:
        self.path = path
        self.flow = flow
        self.run = f"{flow}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self.attempt = 0
        self._say = say
        self._lock = threading.Lock()
        self._failed = False
        try:
            self._file: IO[str] = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise FlowError(f"--log {path}: cannot be written: {error.strerror}; choose another file") from error

    def write(self, kind: str, text: str, *, process: str = "supervisor", operator: str = "", detail: str = "") -> None:
        """Args:
        kind: "output" of a process, "notice", or what happened, as in `millstream.coordinator.ui.history.Happening`.
        """
        fields: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="microseconds"), "run": self.run, "flow": self.flow,
            "attempt": self.attempt, "process": process, "operator": operator or None, "kind": kind, "text": text,
        }  # fmt: skip
        if detail:
            fields["detail"] = detail
        with self._lock:
            if self._failed:
                return
            try:
                self._file.write(json.dumps(fields, ensure_ascii=False) + "\n")
            except (OSError, ValueError) as error:
                self._failed = True
                self._say(f"the log {self.path} cannot be written any more: {error}")

    def close(self) -> None:
        with self._lock:
            self._failed = True
            self._file.close()


class LoggedView:
    """A view, beside which the log gets each line that it shows."""

    def __init__(self, view: View, log: RunLog) -> None:
        self._view = view
        self._log = log

    def update(self, figures: Mapping[str, Any]) -> None:
        self._view.update(figures)

    def line(self, text: str) -> None:
        self._log.write("notice", text)
        self._view.line(text)

    def said(self, process: str, operator: str, text: str) -> None:
        self._log.write("output", text, process=process, operator=operator)
        self._view.said(process, operator, text)

    def close(self) -> None:
        self._view.close()
