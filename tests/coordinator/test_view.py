"""What a run looks like: rates, the live screen at several sizes, plain lines, text above the view."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

import millstream as ms
from millstream.coordinator.progress import Meter, Progress, bytes_text, rate_text, span_text, speed_text
from millstream.coordinator.view import LiveView, PlainView, QuietView, make_view, plain_line, screen
from millstream.plan import PhysicalPlan
from millstream.planner import make_plan
from millstream.times import MAX_US, MIN_US

HOUR_US = 3_600_000_000
TABLE = pa.table({"at": pa.array([0], pa.timestamp("us", "UTC")), "user": ["ada"]})


@pytest.fixture
def plan() -> PhysicalPlan:
    flow = ms.Flow("clicks")
    stream = flow.read_arrow(TABLE).event_time("at").key_by("user")
    stream.window(ms.tumbling("1h")).agg(n=ms.count()).write_jsonl("out.jsonl")
    return make_plan(flow, workers=2)


def figures(
    seconds: float, events: int = 0, rows: int = 0, *, watermark_us: int | None = None, **more: Any
) -> dict[str, Any]:
    """Figures as the coordinator reports them: events are read in the coordinator, rows written by worker 0."""
    worker = {"operators": {"agg": {"late": more.pop("late", 0)}, "write_jsonl": {"rows_out": rows}}}
    return {
        "state": "running", "seconds": seconds, "watermark_us": watermark_us,
        "processes": {"coordinator": {"operators": {"read_arrow": {"rows_in": events}}}, "worker-0": worker, "caller": {"operators": {}}},
        **more,
    }  # fmt: skip


def drawn(progress: Progress, width: int = 80, height: int = 24, now_us: int = 0) -> list[str]:
    console = Console(width=width, height=height, no_color=True)
    with console.capture() as capture:
        console.print(screen(progress, width=width, height=height, now_us=now_us))
    return capture.get().splitlines()


# --- rates ---


def test_rates_are_those_of_the_last_second(plan: PhysicalPlan) -> None:
    meter = Meter(plan)
    for quarter in range(9):
        meter.read(figures(quarter / 4, events=quarter * 10))
    burst = meter.read(figures(2.25, events=1_080, rows=50))
    assert burst.events_per_s == pytest.approx((1_080 - 50) / 1.0)
    assert burst.rows_per_s == pytest.approx(50.0)


def test_the_first_figures_have_no_rate(plan: PhysicalPlan) -> None:
    assert Meter(plan).read(figures(0.0, events=7)).events_per_s == 0


def test_a_run_that_has_ended_shows_its_rate_over_all_of_it(plan: PhysicalPlan) -> None:
    meter = Meter(plan)
    meter.read(figures(1.0, events=0))
    assert meter.read(figures(4.0, events=400, state="done")).events_per_s == 100


def test_event_time_speed_is_how_fast_the_watermark_moves(plan: PhysicalPlan) -> None:
    meter = Meter(plan)
    assert meter.read(figures(0.0, watermark_us=MIN_US)).event_time_speed is None
    meter.read(figures(1.0, watermark_us=0))
    assert meter.read(figures(2.0, watermark_us=24 * HOUR_US)).event_time_speed == pytest.approx(86_400)


def test_the_end_of_the_input_is_no_moment_to_measure_speed_by(plan: PhysicalPlan) -> None:
    meter = Meter(plan)
    meter.read(figures(1.0, watermark_us=0))
    assert meter.read(figures(2.0, watermark_us=MAX_US)).event_time_speed is None


def test_a_process_keeps_what_it_last_said_of_cpu_and_memory(plan: PhysicalPlan) -> None:
    meter = Meter(plan)
    meter.read({**figures(1.0), "processes": {"worker-0": {"cpu_share": 0.5, "rss_bytes": 1e8}}})
    (process,) = meter.read({**figures(2.0), "processes": {"worker-0": {"operators": {}}}}).processes
    assert (process.cpu_share, process.rss_bytes) == (0.5, 1e8)


def test_a_sink_that_workers_encode_for_shows_rows_and_not_pieces(plan: PhysicalPlan) -> None:
    operators: Mapping[str, Any] = {
        "encode_for_write_jsonl": {"rows_in": 500},
        "write_jsonl": {"rows_in": 3, "rows_out": 500},
    }
    progress = Meter(plan).read({**figures(1.0), "processes": {"worker-0": {"operators": operators}}})
    sink = next(o for o in progress.operators if o.name == "write_jsonl")
    assert (sink.rows_in, sink.rows_out) == (500, 500)
    assert "encode_for_write_jsonl" not in [o.name for o in progress.operators]


# --- numbers ---


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (0, "0/s"),
        (950, "950/s"),
        (9_999, "9,999/s"),
        (12_345, "12.3 k/s"),
        (123_456, "123 k/s"),
        (1_234_567, "1.23 M/s"),
        (14e6, "14.0 M/s"),
    ],
)
def test_rates_have_three_digits(per_second: float, text: str) -> None:
    assert rate_text(per_second) == text


def test_spans_bytes_and_speeds_read_as_people_say_them() -> None:
    assert [span_text(s) for s in (0.04, 99.9, 125, 3_725)] == ["0.0 s", "99.9 s", "2:05 min", "1:02:05 h"]
    assert [bytes_text(b) for b in (12, 2_500, 123_000_000, 4_200_000_000)] == ["12 B", "2.5 kB", "123 MB", "4.2 GB"]
    assert [speed_text(s) for s in (0.5, 86_400)] == ["0.5 x real time", "86,400 x real time"]


# --- the screen ---


def test_the_screen_shows_totals_watermark_and_speed(plan: PhysicalPlan) -> None:
    meter = Meter(plan)
    meter.read(figures(1.0, watermark_us=0))
    text = "\n".join(drawn(meter.read(figures(2.0, 1_234_567, 89, watermark_us=HOUR_US, late=3))))
    assert "clicks  running  2.0 s" in text
    assert "1,234,567 events" in text
    assert "89 rows" in text
    assert "watermark 1970-01-01T01:00:00Z  3,600 x real time" in text
    assert "late 3" in text


def test_the_watermark_of_a_live_source_is_compared_with_the_wall_clock() -> None:
    flow = ms.Flow("live")
    flow.generate({"n": (0, 9)}, rate=10).with_columns(at=ms.lit("2026-01-01")).event_time("at").print()
    plan = make_plan(flow, workers=1)
    progress = Meter(plan).read(figures(1.0, watermark_us=HOUR_US))
    assert progress.live
    assert any("5.0 s behind" in line for line in drawn(progress, now_us=HOUR_US + 5_000_000))


def test_without_event_time_there_is_no_watermark_to_wait_for() -> None:
    flow = ms.Flow("plain")
    flow.read_arrow(TABLE).print()
    assert any("processing time" in line for line in drawn(Meter(make_plan(flow, workers=1)).read(figures(1.0))))


def test_a_process_that_waits_for_credit_says_so(plan: PhysicalPlan) -> None:
    busy = {
        "in_flight_bytes": 50,
        "window_bytes": 100,
        "blocked": True,
        "cpu_share": 0.42,
        "rss_bytes": 123e6,
        "operators": {},
    }
    lines = drawn(Meter(plan).read({**figures(1.0), "processes": {"coordinator": busy}}))
    (line,) = [x for x in lines if x.startswith("coordinator")]
    assert line.split() == ["coordinator", "42%", "123", "MB", "━━━━━━━━━━", "50%", "waiting", "for", "credit"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (60, 24), (200, 70)])
def test_the_screen_fits_whatever_runs(plan: PhysicalPlan, width: int, height: int) -> None:
    flow = ms.Flow("long")
    stream: ms.Stream = flow.read_arrow(TABLE)
    for _ in range(20):
        stream = stream.filter(ms.col("user") != "nobody, and this is a long description of nothing at all")
    stream.collect()
    processes = {f"worker-{n}": {"operators": {}, "in_flight_bytes": n, "window_bytes": 64} for n in range(32)}
    lines = drawn(Meter(make_plan(flow, workers=32)).read({**figures(1.0), "processes": processes}), width, height)
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)
    assert any(line.startswith("... ") and line.rstrip().endswith("more") for line in lines) == (height < 70)


def test_wide_terminals_also_show_what_operators_do(plan: PhysicalPlan) -> None:
    progress = Meter(plan).read(figures(1.0))
    assert any("window(tumbling(1h)).agg(n=count())" in line for line in drawn(progress, width=140))
    assert not any("window(" in line for line in drawn(progress, width=80))


# --- views ---


def test_plain_lines_come_every_two_seconds_and_only_with_news(plan: PhysicalPlan) -> None:
    out = io.StringIO()
    view = PlainView(plan, out)
    for quarter in range(1, 41):
        view.update(figures(quarter / 4, events=min(quarter, 20)))
    seconds = [line.split()[2] for line in out.getvalue().splitlines()]
    assert seconds == ["2.0", "4.0", "6.0"]


def test_a_plain_line_names_only_troubles_that_there_are(plan: PhysicalPlan) -> None:
    line = plain_line(Meter(plan).read(figures(3.0, 10, 2, watermark_us=MIN_US, late=1)))
    assert line == "clicks running 3.0 s: 10 events in (0/s), 2 rows out, watermark none yet | late 1"


def test_without_live_only_what_children_say_is_shown(plan: PhysicalPlan, capsys: pytest.CaptureFixture[str]) -> None:
    view = make_view(plan, live=False)
    assert isinstance(view, QuietView)
    view.update(figures(9.0, events=5))
    view.line("[worker-0] hello")
    view.close()
    assert capsys.readouterr().err == "[worker-0] hello\n"


def test_live_without_a_terminal_is_plain(plan: PhysicalPlan) -> None:
    assert isinstance(make_view(plan, live=True), PlainView)


def terminal() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(
        file=out, force_terminal=True, width=80, height=24, legacy_windows=False, _environ={"TERM": "xterm"}
    ), out


def test_lines_of_children_stand_above_the_live_view_whole_and_in_order(plan: PhysicalPlan) -> None:
    console, out = terminal()
    view = LiveView(plan, console)
    long = "x" * 200
    for text in ("first [not markup]", long, "last"):
        view.line(text)
    view.update(figures(1.0))
    view.close()
    text = out.getvalue()
    assert text.index("first [not markup]") < text.index(long) < text.index("last") < text.rindex("clicks")


def test_what_is_printed_while_the_view_is_up_goes_above_it(
    plan: PhysicalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, out = terminal()
    monkeypatch.setattr(sys, "stdout", terminal_stream := io.StringIO())
    monkeypatch.setattr(terminal_stream, "isatty", lambda: True, raising=False)
    view = LiveView(plan, console)
    print("a row", end="")
    view.update(figures(1.0))
    assert "a row" not in out.getvalue()  # the line is not whole yet
    view.close()
    assert "a row" in out.getvalue()
    assert sys.stdout is terminal_stream


def test_rows_that_are_piped_stay_out_of_the_view(plan: PhysicalPlan, capsys: pytest.CaptureFixture[str]) -> None:
    console, out = terminal()
    view = LiveView(plan, console)
    print("a row")
    view.close()
    assert capsys.readouterr().out == "a row\n"
    assert "a row" not in out.getvalue()


def test_printed_rows_do_not_redraw_the_view_one_by_one(plan: PhysicalPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    console, out = terminal()
    monkeypatch.setattr("millstream.coordinator.view.time.monotonic", lambda: 1.0)
    view = LiveView(plan, console)
    view.line("opens the gate")
    before = out.getvalue().count("clicks")
    for number in range(900):
        view.line(f"row {number}")
    assert out.getvalue().count("clicks") - before <= 1
    view.close()
    assert "row 899" in out.getvalue()
