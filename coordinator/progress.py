"""From the figures of a run to what people read of it: totals, rates, the speed of event time.

The coordinator reports bare counters. A `Meter` keeps the last second or two of them, which is what it takes
to say how fast things go; a `Progress` is one reading, ready to be shown in whatever form.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from millstream.plan import Node, PhysicalPlan
from millstream.result import operator_totals
from millstream.specs.ends import EncodeSpec, EventTimeSpec, ReadSpec, SinkSpec
from millstream.times import MAX_US, MIN_US
from millstream.topology import CALLER

_RATE_WINDOW_S: Final = 1.0
_SPEED_WINDOW_S: Final = 2.0
_ENDED: Final = ("done", "failed")


@dataclass(frozen=True)
class OperatorProgress:
    """One operator, over all processes that run a part of it.

    Attributes:
        keys: how many keys or (key, window) groups it holds; None: it holds none.
    """

    name: str
    description: str
    rows_in: int
    rows_out: int
    keys: int | None
    state_bytes: int | None


@dataclass(frozen=True)
class ProcessProgress:
    """One process; None for what it has not said yet.

    Attributes:
        credit_used: the part of its credit that is in flight, 0 to 1.
        waiting: it has something to send and no credit for it.
    """

    name: str
    cpu_share: float | None
    rss_bytes: float | None
    credit_used: float | None
    waiting: bool


@dataclass(frozen=True)
class Progress:
    """Attributes:
    events_per_s, rows_per_s: over the last second; once the run has ended, over all of it.
    watermark_us: None before the first event; `MAX_US` at the end of the input.
    event_time_speed: microseconds of event time that pass in one of real time; None: not known (yet).
    event_time: whether the flow has any; without, windows go by processing time and there is no watermark.
    live: whether sources are live, so that the watermark is to be compared with the wall clock.
    """

    flow: str
    state: str
    seconds: float
    events_in: int
    rows_out: int
    events_per_s: float
    rows_per_s: float
    watermark_us: int | None
    event_time_speed: float | None
    event_time: bool
    live: bool
    late: int
    dead_letters: int
    unmatched: int
    skipped: int
    operators: tuple[OperatorProgress, ...]
    processes: tuple[ProcessProgress, ...]

    @property
    def ended(self) -> bool:
        return self.state in _ENDED


class _Sample(NamedTuple):
    seconds: float
    events: int
    rows: int
    watermark_us: int | None


class Meter:
    """Reads the figures of one run as they come."""

    def __init__(self, plan: PhysicalPlan) -> None:
        self.plan = plan
        specs = {n.name: n.spec for n in plan.nodes.values()}
        self._sources = [name for name, s in specs.items() if isinstance(s, ReadSpec)]
        # Late events that go to their default place are counted as late, not as results.
        self._sinks = [name for name, s in specs.items() if isinstance(s, SinkSpec) and not s.takes_what_is_there]
        self._live = all(s.source.live for s in specs.values() if isinstance(s, ReadSpec))
        self._event_time = any(isinstance(s, EventTimeSpec) for s in specs.values())
        self._shown = _shown_operators(plan)
        self._samples: deque[_Sample] = deque()
        self._processes: dict[str, dict[str, Any]] = {}

    def read(self, figures: Mapping[str, Any]) -> Progress:
        processes: Mapping[str, Mapping[str, Any]] = figures.get("processes", {})
        totals = operator_totals(processes)
        watermark_us = figures.get("watermark_us")
        sample = _Sample(
            figures.get("seconds", 0.0),
            _sum(totals, self._sources, "rows_in"),
            _sum(totals, self._sinks, "rows_out"),
            None if watermark_us == MIN_US else watermark_us,
        )
        self._remember(sample)
        state = str(figures.get("state", "starting"))
        before = _Sample(0.0, 0, 0, None) if state in _ENDED else self._sample_before(sample.seconds - _RATE_WINDOW_S)
        elapsed_s = sample.seconds - before.seconds
        return Progress(
            flow=self.plan.name,
            state=state,
            seconds=sample.seconds,
            events_in=sample.events,
            rows_out=sample.rows,
            events_per_s=(sample.events - before.events) / elapsed_s if elapsed_s > 0 else 0.0,
            rows_per_s=(sample.rows - before.rows) / elapsed_s if elapsed_s > 0 else 0.0,
            watermark_us=sample.watermark_us,
            event_time_speed=self._speed(),
            event_time=self._event_time,
            live=self._live,
            late=_sum(totals, totals, "late"),
            dead_letters=_sum(totals, totals, "dead_letters"),
            unmatched=_sum(totals, totals, "unmatched"),
            skipped=_sum(totals, totals, "skipped"),
            operators=tuple(_operator(node, totals) for node in self._shown),
            processes=tuple(self._process(name, f) for name, f in processes.items() if name != CALLER),
        )

    def _process(self, name: str, figures: Mapping[str, Any]) -> ProcessProgress:
        # A process measures itself only now and then: what it last said of cpu and memory stands until then.
        known = self._processes.setdefault(name, {})
        known.update(figures)
        window = known.get("window_bytes", 0)
        used = min(1.0, known.get("in_flight_bytes", 0) / window) if window else None
        return ProcessProgress(
            name, known.get("cpu_share"), known.get("rss_bytes"), used, bool(known.get("blocked", False))
        )

    def _remember(self, sample: _Sample) -> None:
        if self._samples and sample.seconds < self._samples[-1].seconds:
            self._samples.clear()  # the run has gone back to a checkpoint
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1].seconds <= sample.seconds - _SPEED_WINDOW_S:
            self._samples.popleft()

    def _sample_before(self, seconds: float) -> _Sample:
        """The youngest sample that is at least so old; the oldest where none is."""
        return next((s for s in reversed(self._samples) if s.seconds <= seconds), self._samples[0])

    def _speed(self) -> float | None:
        moved = [
            (s.seconds, s.watermark_us)
            for s in self._samples
            if s.watermark_us is not None and s.watermark_us != MAX_US
        ]
        if len(moved) < 2 or moved[-1][0] <= moved[0][0]:
            return None
        return (moved[-1][1] - moved[0][1]) / 1e6 / (moved[-1][0] - moved[0][0])


def _shown_operators(plan: PhysicalPlan) -> list[Node]:
    """In the order in which rows pass; the halves of sinks that the planner made are left out."""
    numbers = dict.fromkeys(n for stage in plan.stages for n in stage.nodes)
    return [plan.nodes[n] for n in numbers if not isinstance(plan.nodes[n].spec, EncodeSpec)]


def _operator(node: Node, totals: Mapping[str, Mapping[str, int]]) -> OperatorProgress:
    counters = totals.get(node.name, {})
    # Where workers encode for a sink, its own half sees pieces of files and no rows.
    takes = totals.get(f"encode_for_{node.name}", counters)
    keys = counters.get("keys", counters.get("groups"))
    return OperatorProgress(
        node.name,
        node.spec.describe(),
        takes.get("rows_in", 0),
        counters.get("rows_out", 0),
        keys,
        counters.get("state_bytes"),
    )


def _sum(totals: Mapping[str, Mapping[str, int]], names: Iterable[str], counter: str) -> int:
    return sum(totals[n].get(counter, 0) for n in names if n in totals)


# --- numbers for people ---


def count_text(value: float) -> str:
    return f"{value:,.0f}"


def rate_text(per_second: float) -> str:
    """Three digits are all that anyone reads of a rate: 1.21 M/s, 12.3 k/s, 950/s."""
    for limit, divisor, unit in ((1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if per_second >= limit:
            value = per_second / divisor
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}{unit}/s"
    return f"{per_second:,.0f}/s"


def bytes_text(size: float) -> str:
    for limit, divisor, unit in ((1e9, 1e9, "GB"), (1e6, 1e6, "MB"), (1e3, 1e3, "kB")):
        if size >= limit:
            return f"{size / divisor:.1f} {unit}" if size < 10 * divisor else f"{size / divisor:.0f} {unit}"
    return f"{size:.0f} B"


def span_text(seconds: float) -> str:
    """12.3 s, 4:05 min, 1:02:03 h."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def speed_text(speed: float) -> str:
    return f"{speed:,.0f} x real time" if speed >= 10 else f"{speed:.1f} x real time"
