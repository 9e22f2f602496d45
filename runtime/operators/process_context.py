"""What a `Process` has in hand while it is called: the operator's `ProcessContext`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from millstream.batch import IntArray
from millstream.errors import FlowError
from millstream.operators.emissions import Cause, Emissions
from millstream.processing import ProcessContext, TimerClock
from millstream.times import MAX_US, MIN_US, SECOND_US, datetime_us

if TYPE_CHECKING:
    from millstream.operators.process import ProcessOperator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST_DELAY_US: Final = 1_000
"""How long a processing-time timer waits at least: one set for the past must not keep the process from its input."""


class Call(ProcessContext):
    """The context that a process is called with; there is one, and it stands where the operator stands.

    Attributes:
        at: what rows are emitted for; see `Emissions`. None: there is no key to emit for.
        in_timer: whether a timer is being handled.
        control: the control event that is being handled.
    """

    __slots__ = ("_at", "_main", "_moment", "_operator", "_rows", "_times", "at", "control", "in_timer")

    def __init__(self, operator: ProcessOperator, main: Emissions) -> None:
        self._operator = operator
        self._moment = operator.table.moments["event"]
        self._main = main
        self._rows, self._at = main.rows, main.at
        self._times: IntArray | None = None
        self.at: int | None = None
        self.in_timer = False
        self.control: Cause | None = None

    def of_batch(self, times: IntArray | None) -> None:
        """What is handled from now on is events of a batch with these times."""
        self._times = times

    # --- for the user ---

    @property
    def key(self) -> Any:
        record = self._moment.record
        if record is None:
            raise self._no_key("ctx.key")
        return record.key

    @property
    def time(self) -> datetime | None:
        if not self._operator.spec.timed:
            return None
        if self.at is None or self.at < 0:
            return _moment(self._moment.now_us if self.control is None else self.control.time_us)
        return None if self._times is None else _moment(int(self._times[self.at]))

    @property
    def watermark(self) -> datetime | None:
        return _moment(self._stand_us())

    @property
    def now(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self._operator.context.now_us())

    def emit(self, row: Any, to: str | None = None) -> None:
        at = self.at
        if row is None or at is None:
            raise self._cannot_emit(row)
        if to is None:
            if self._main.wanted:
                self._rows.append(row)
                self._at.append(at)
            return
        emissions = self._operator.outputs.ports.get(to)
        if emissions is None or emissions is self._main:
            raise self._no_output(to)
        if emissions.wanted:
            emissions.rows.append(row)
            emissions.at.append(at)

    def set_timer(self, at: datetime | timedelta | int, *, clock: TimerClock = "event", name: str = "") -> None:
        record = self._moment.record
        if record is None:
            raise self._no_key("timer")
        operator = self._operator
        now_us = self._clock_us(clock)
        if isinstance(at, timedelta):
            # From the event itself, also where that is late or has come early.
            of_event = self._times is not None and clock == "event" and self.at is not None and self.at >= 0
            from_us = int(self._times[self.at]) if of_event else now_us  # type: ignore[index]
            at = from_us + (at.days * 86_400 + at.seconds) * SECOND_US + at.microseconds
        time_us = self._time_us(at)
        if operator.ending:
            operator.timers_dropped += 1
            return
        if clock == "processing":
            now_us += _LEAST_DELAY_US - 1
        operator.table.timers[clock].set(record, time_us, name, now_us)

    def cancel_timer(self, at: datetime | int | None = None, *, clock: TimerClock = "event", name: str = "") -> None:
        record = self._moment.record
        if record is None:
            raise self._no_key("timer")
        self._clock_us(clock)
        operator = self._operator
        if operator.table.timers[clock].cancel(record, None if at is None else self._time_us(at), name):
            operator.table.may_be_blank(record)

    def for_each_key(self, function: Callable[[Any], None]) -> None:
        if self.control is None:
            raise FlowError(f"{self._operator.context.name}: ctx.for_each_key(...) is for on_control: "
                            "an event or a timer has one key")  # fmt: skip
        self._operator.for_each_key(function, self.control)

    # --- what they rest on ---

    def _no_key(self, what: str) -> FlowError:
        return FlowError(
            f"{self._operator.context.name}: there is no key here, and so no {what}: use ctx.for_each_key(...)"
        )

    def _stand_us(self) -> int:
        """Up to where event time has come for what is at hand."""
        if self._operator.ordered or self.in_timer:
            return self._moment.now_us
        return self._operator.watermark_us

    def _clock_us(self, clock: str) -> int:
        if clock == "processing":
            return self._operator.context.now_us()
        where = self._operator.context.name
        if clock != "event":
            raise FlowError(f"{where}: clock={clock!r}: a timer goes by 'event' or 'processing'")
        if not self._operator.spec.timed:
            raise FlowError(
                f"{where}: a timer by event time, and the stream has none; call event_time() before key_by(), "
                "or set it with clock='processing'"
            )
        return self._stand_us()

    def _time_us(self, at: datetime | int) -> int:
        if isinstance(at, datetime):
            return datetime_us(at)
        if isinstance(at, int) and not isinstance(at, bool):
            return max(MIN_US + 1, min(MAX_US - 1, at))
        raise FlowError(
            f"{self._operator.context.name}: a timer is set for a datetime, microseconds since the epoch, or a "
            f"timedelta from now; found {at!r}"
        )

    def _cannot_emit(self, row: Any) -> Exception:
        where = self._operator.context.name
        if row is None:
            return TypeError(f"{where}: emit(None): a row is a dict, a dataclass, a named tuple or an event")
        return FlowError(f"{where}: rows are emitted for a key: in on_control, use ctx.for_each_key(...)")

    def _no_output(self, name: str) -> FlowError:
        declared = ", ".join(map(repr, self._operator.spec.output_names)) or "none"
        return FlowError(f"{self._operator.context.name}: emit(to={name!r}): there is no such output; "
                         f"process(outputs=...) declares {declared}")  # fmt: skip


def _moment(time_us: int) -> datetime | None:
    try:
        return None if time_us == MIN_US else _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return None
