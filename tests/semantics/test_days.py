"""Days of a time zone: events fall into the days that a calendar there says."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from harness.running import Way, run
from harness.sources import ColumnSource, fields
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms

SCHEMA = fields(at=pa.timestamp("us", "UTC"), k=pa.string())

moments = st.lists(
    st.datetimes(datetime(2018, 10, 1), datetime(2019, 4, 1), timezones=st.just(UTC)), min_size=1, max_size=25
)


def days(rows: list[datetime], zone: str, way: Way, **options: str) -> dict[datetime, tuple[datetime, int]]:
    """Count by day: the start of each to its end and the count."""
    flow = ms.Flow("days")
    source = ColumnSource([[{"at": at, "k": "a"} for at in rows]], SCHEMA)
    timed = flow.source(source).event_time("at", out_of_orderness=timedelta(days=400), max_ahead=None)
    windows = ms.tumbling("1d", tz=zone, offset=options.get("offset", "0s"))
    timed.key_by("k").window(windows).agg(n=ms.count()).collect("panes")
    return {r["window_start"]: (r["window_end"], r["n"]) for r in run(flow, way).rows["panes"]}


@given(moments, st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata"]), st.integers(1, 10))
def test_an_event_counts_on_the_date_that_its_clock_shows(rows: list[datetime], zone: str, batch_rows: int) -> None:
    expected: dict[date, int] = {}
    for at in rows:
        on = at.astimezone(ZoneInfo(zone)).date()
        expected[on] = expected.get(on, 0) + 1
    found = days(rows, zone, Way(1, batch_rows))
    assert {start.astimezone(ZoneInfo(zone)).date(): n for start, (_, n) in found.items()} == expected
    for start, (end, _) in found.items():
        assert end.astimezone(ZoneInfo(zone)).date() - start.astimezone(ZoneInfo(zone)).date() == timedelta(days=1)
        assert end - start in (timedelta(hours=23), timedelta(hours=24), timedelta(hours=25))


def test_days_that_start_at_six_do_so_whatever_the_clock_does_at_night() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    rows = [datetime(2024, 3, 31, h, tzinfo=berlin).astimezone(UTC) for h in (5, 6)]
    found = days(rows, "Europe/Berlin", Way(), offset="6h")
    assert [(s.astimezone(berlin).isoformat(), str(end - s)) for s, (end, _) in sorted(found.items())] == [
        ("2024-03-30T06:00:00+01:00", "23:00:00"),
        ("2024-03-31T06:00:00+02:00", "1 day, 0:00:00"),
    ]


def test_weeks_of_days_hop_with_the_days() -> None:
    flow = ms.Flow("weeks")
    berlin = ZoneInfo("Europe/Berlin")
    at = datetime(2024, 10, 27, 12, tzinfo=berlin)
    timed = flow.source(ColumnSource([[{"at": at, "k": "a"}]], SCHEMA)).event_time("at")
    timed.key_by("k").window(ms.hopping("7d", "1d", tz="Europe/Berlin")).agg(n=ms.count()).collect("panes")
    rows = run(flow).rows["panes"]
    starts = [r["window_start"].astimezone(berlin) for r in rows]
    assert [s.day for s in starts] == [21, 22, 23, 24, 25, 26, 27] and {s.hour for s in starts} == {0}
    assert {r["window_end"] - r["window_start"] for r in rows} == {timedelta(days=7, hours=1)}


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: ms.tumbling("1h", tz="Europe/Berlin"), "is for windows of whole days"),
        (lambda: ms.hopping("2d", "1h", tz="Europe/Berlin"), "is for windows of whole days"),
        (lambda: ms.tumbling("1d", tz="Mars/Olympus"), "is no time zone"),
    ],
)
def test_what_is_no_day_or_no_zone_is_refused(build: object, match: str) -> None:
    with pytest.raises(ms.FlowError, match=match):
        build()  # type: ignore[operator]
