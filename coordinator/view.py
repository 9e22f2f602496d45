"""What a run looks like while it goes on: a live view in a terminal, plain lines elsewhere, or nothing.

Everything here goes to standard error, so that rows printed by the flow can be piped. A view never reads
a clock or waits: it is told the figures a few times a second, and text that is to stand above the live
part, by whichever thread has it.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol, TextIO, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from millstream.coordinator.progress import (
    Meter,
    OperatorProgress,
    ProcessProgress,
    Progress,
    bytes_text,
    count_text,
    rate_text,
    span_text,
    speed_text,
)
from millstream.plan import PhysicalPlan
from millstream.times import MAX_US, format_us

T = TypeVar("T")

_LINE_EVERY_S: Final = 2.0
_FLUSH_EVERY_S: Final = 0.1
_HELD_LINES: Final = 1_000
_WIDE: Final = 110
_BAR: Final = 10
_FIXED_LINES: Final = 9
_STATE_STYLES: Final = {"running": "bold green", "done": "bold green", "failed": "bold red"}
_STATE_NAMES: Final = {"ending": "input read, finishing"}


class View(Protocol):
    """What the supervisor tells of a run."""

    def update(self, figures: Mapping[str, Any]) -> None:
        """The newest figures, of all processes."""

    def line(self, text: str) -> None:
        """A notice. Any thread may call this."""

    def said(self, process: str, operator: str, text: str) -> None:
        """A line of a child's output, and the operator that was at work; "": none was. Any thread may call this."""

    def close(self) -> None:
        """The run is over: leave the last state on the screen."""


def make_view(plan: PhysicalPlan, *, live: bool) -> View:
    """The view for where standard error goes; without ``live``, one that shows only what children say."""
    if not live:
        return QuietView(sys.stderr)
    console = Console(stderr=True)
    return (
        LiveView(plan, console) if console.is_terminal and not console.is_dumb_terminal else PlainView(plan, sys.stderr)
    )


class QuietView:
    """Says nothing of its own."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def update(self, figures: Mapping[str, Any]) -> None:
        return None

    def said(self, process: str, operator: str, text: str) -> None:
        self.line(f"[{process}] {text}")

    def line(self, text: str) -> None:
        # One write, so that lines of several threads stay whole.
        self._out.write(text + "\n")
        self._out.flush()

    def close(self) -> None:
        return None


class PlainView(QuietView):
    """A line every two seconds, while there is something new: for logs and pipes."""

    def __init__(self, plan: PhysicalPlan, out: TextIO) -> None:
        super().__init__(out)
        self._meter = Meter(plan)
        self._said_s = 0.0
        self._said: tuple[object, ...] = ()

    def update(self, figures: Mapping[str, Any]) -> None:
        progress = self._meter.read(figures)
        news = (progress.events_in, progress.rows_out, progress.late, progress.dead_letters, progress.watermark_us)
        if not 0 <= progress.seconds - self._said_s < _LINE_EVERY_S and news != self._said:
            self._said_s, self._said = progress.seconds, news
            self.line(plain_line(progress))


class LiveView:
    """The state of the run, redrawn in place; what is printed meanwhile stands above it."""

    def __init__(self, plan: PhysicalPlan, console: Console) -> None:
        self._meter = Meter(plan)
        self._console = console
        self._lock = threading.Lock()
        self._held: list[str] = []
        self._flushed_s = 0.0
        # Redirecting is done here and not by rich, which would redraw the view for every printed row, and
        # would send rows to standard error even where standard output is a pipe.
        self._live = Live(
            self._render({}), console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._stdout = sys.stdout
        if sys.stdout.isatty():
            sys.stdout = _Above(self)
        self._live.start(refresh=True)

    def update(self, figures: Mapping[str, Any]) -> None:
        rendered = self._render(figures)
        with self._lock:
            self._flush()
            self._live.update(rendered, refresh=True)

    def line(self, text: str) -> None:
        self.write(text + "\n")

    def said(self, process: str, operator: str, text: str) -> None:
        self.line(f"[{process}] {text}")

    def write(self, text: str) -> None:
        """Text for above the view: shown at once when that is rare, with the next update when it pours."""
        with self._lock:
            self._held.append(text)
            if len(self._held) >= _HELD_LINES or time.monotonic() - self._flushed_s >= _FLUSH_EVERY_S:
                self._flush()

    def close(self) -> None:
        if isinstance(sys.stdout, _Above):
            sys.stdout = self._stdout
        with self._lock:
            self._flush(all_of_it=True)
            self._live.stop()

    def _flush(self, *, all_of_it: bool = False) -> None:
        self._flushed_s = time.monotonic()
        text = "".join(self._held)
        # The view begins on a line of its own: what has no end of line yet waits for it.
        whole = text if all_of_it else text[: text.rfind("\n") + 1]
        rest = text[len(whole) :]
        self._held = [rest] if rest else []
        if whole:
            self._console.out(whole.removesuffix("\n"), highlight=False)

    def _render(self, figures: Mapping[str, Any]) -> RenderableType:
        size = self._console.size
        return screen(self._meter.read(figures), width=size.width, height=size.height, now_us=time.time_ns() // 1_000)


class _Above(io.TextIOBase):
    """Standard output while the view is up."""

    def __init__(self, view: LiveView) -> None:
        self._view = view

    def write(self, text: str) -> int:
        self._view.write(text)
        return len(text)

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True


# --- plain ---


def plain_line(progress: Progress) -> str:
    parts = [
        f"{progress.flow} {progress.state} {span_text(progress.seconds)}:",
        f"{count_text(progress.events_in)} events in ({rate_text(progress.events_per_s)}),",
        f"{count_text(progress.rows_out)} rows out,",
        f"watermark {watermark_text(progress)}",
    ]
    for name, value in _troubles(progress):
        if value:
            parts.append(f"| {name} {count_text(value)}")
    return " ".join(parts)


def watermark_text(progress: Progress) -> str:
    if not progress.event_time:
        return "none: processing time"
    if progress.watermark_us is None:
        return "none yet"
    return "at the end of the input" if progress.watermark_us == MAX_US else format_us(progress.watermark_us)


def _troubles(progress: Progress) -> list[tuple[str, int]]:
    return [
        ("late", progress.late),
        ("dead letters", progress.dead_letters),
        ("unmatched", progress.unmatched),
        ("skipped", progress.skipped),
    ]


# --- live ---


def screen(progress: Progress, *, width: int, height: int, now_us: int) -> RenderableType:
    """One picture of the run that fits the terminal: what does not fit is counted, not scrolled."""
    room = max(2, height - _FIXED_LINES)
    processes_shown = min(len(progress.processes), max(room // 2, room - len(progress.operators)))
    operators_shown = min(len(progress.operators), room - processes_shown)
    parts: list[RenderableType] = [_headline(progress), _flow_line(progress), _time_line(progress, now_us), Text()]
    parts.append(_operators(progress.operators, operators_shown, wide=width >= _WIDE))
    if progress.processes:
        parts += [Text(), _processes(progress.processes, processes_shown)]
    return Group(*parts)


def _headline(progress: Progress) -> Text:
    state = _STATE_NAMES.get(progress.state, progress.state)
    text = Text.assemble((progress.flow, "bold"), "  ", (state, _STATE_STYLES.get(progress.state, "bold yellow")))
    text.append(f"  {span_text(progress.seconds)}")
    for name, value in _troubles(progress):
        if value or name not in ("unmatched", "skipped"):
            text.append(f"   {name} ", "dim").append(count_text(value), "bold yellow" if value else "dim")
    return _one_line(text)


def _flow_line(progress: Progress) -> Text:
    text = Text()
    text.append("in ", "dim").append(f"{rate_text(progress.events_per_s):>9}", "bold").append(
        f"  {count_text(progress.events_in)} events"
    )
    text.append("   out ", "dim").append(f"{rate_text(progress.rows_per_s):>9}", "bold").append(
        f"  {count_text(progress.rows_out)} rows"
    )
    return _one_line(text)


def _time_line(progress: Progress, now_us: int) -> Text:
    text = Text().append("watermark ", "dim").append(watermark_text(progress))
    if progress.watermark_us is not None and progress.watermark_us != MAX_US:
        if progress.live:
            text.append(f"  {span_text(max(0.0, (now_us - progress.watermark_us) / 1e6))} behind", "cyan")
        elif progress.event_time_speed is not None:
            text.append(f"  {speed_text(progress.event_time_speed)}", "cyan")
    return _one_line(text)


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _table(first: str, **columns: int) -> Table:
    """A table of names and numbers: columns have room from the start, so that nothing moves as numbers grow."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    table.add_column(first, min_width=12, no_wrap=True, overflow="ellipsis")
    for name, width in columns.items():
        table.add_column(name, justify="right", min_width=width, no_wrap=True, overflow="ellipsis")
    return table


def _operators(operators: tuple[OperatorProgress, ...], shown: int, *, wide: bool) -> Table:
    table = _table("operator", **{"in": 11, "out": 11, "keys": 9, "state": 7})
    if wide:
        table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1, style="dim")
        table.expand = True
    for operator in _cut(operators, shown):
        cells = [
            operator.name,
            count_text(operator.rows_in) if operator.rows_in else "",
            count_text(operator.rows_out) if operator.rows_out else "",
            "" if operator.keys is None else count_text(operator.keys),
            "" if operator.state_bytes is None else bytes_text(operator.state_bytes),
        ]
        table.add_row(*cells, *([operator.description] if wide else []))
    _say_rest(table, len(operators), shown)
    return table


def _processes(processes: tuple[ProcessProgress, ...], shown: int) -> Table:
    table = _table("process", cpu=4, memory=7)
    table.add_column("credit in use", no_wrap=True)
    for process in _cut(processes, shown):
        table.add_row(
            process.name,
            "" if process.cpu_share is None else f"{process.cpu_share:.0%}",
            "" if process.rss_bytes is None else bytes_text(process.rss_bytes),
            _credit(process),
        )
    _say_rest(table, len(processes), shown)
    return table


def _credit(process: ProcessProgress) -> Text:
    text = Text(no_wrap=True)
    if process.credit_used is not None:
        filled = round(process.credit_used * _BAR)
        text.append("━" * filled, "yellow" if process.waiting else "green").append(
            "━" * (_BAR - filled), "bright_black"
        )
        text.append(f" {process.credit_used:4.0%}")
    if process.waiting:
        text.append("  waiting for credit", "yellow")
    return text


def _cut(rows: tuple[T, ...], shown: int) -> tuple[T, ...]:
    """So many rows; where some are left out, one line less, for saying so."""
    return rows if len(rows) <= shown else rows[: max(0, shown - 1)]


def _say_rest(table: Table, count: int, shown: int) -> None:
    if count > shown:
        table.add_row(Text(f"... {count - max(0, shown - 1)} more", "dim"))
