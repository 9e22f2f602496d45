"""Specs of windows without a raster: one that lasts for ever, and those that a function of the user's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from millstream.errors import FlowError
from millstream.functions import UserFunction
from millstream.specs.base import Fields, Time
from millstream.specs.windows import Windows


@dataclass(frozen=True)
class GlobalWindows(Windows):
    """One window for ever: to the operator a very long one, whose start and end nobody sees."""

    timed: ClassVar[bool] = False
    size_us: int = 2**62
    slide_us: int = 2**62
    offset_us: int = -(2**61)

    def result_time(self, where: str, time: Time) -> Time:
        return Time.NONE

    def describe(self) -> str:
        return "global_window()"


@dataclass(frozen=True)
class CustomWindows(Windows):
    """Windows that a function names for each event.

    To the operator they are windows of a microsecond, numbered by their last: what fires, and when, goes by the end.
    Two of one end and different starts are told apart by their keys.
    """

    calls_python: ClassVar[bool] = True
    size_us: int = 1
    slide_us: int = 1
    function: UserFunction = UserFunction(None)  # noqa: RUF009  (stands for "not given")

    @property
    def inputs(self) -> Fields:
        return None

    def result_time(self, where: str, time: Time) -> Time:
        if time is not Time.EVENT:
            raise FlowError(
                f"{where}: {self.describe()} names windows of event time, and these events have none; "
                "say .event_time(...) before .key_by(...)"
            )
        return time

    def describe(self) -> str:
        return f"custom_windows({self.function})"
