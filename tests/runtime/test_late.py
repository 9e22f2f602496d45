"""Late events as they are shown: the last ones, with what made them late and by how much; as many are counted."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.batch import Batch
from millstream.coordinator.local import LocalRun
from millstream.flow import Flow
from millstream.late import EVENTS_SHOWN, LateEvents
from millstream.planner import make_plan
from millstream.times import MAX_US


def batch_of(times: list[int]) -> Batch:
    return Batch(pa.record_batch({"id": times}), np.array(times))


def test_the_last_late_events_are_kept_the_newest_first() -> None:
    late = LateEvents()
    for at in range(5):
        late.note(batch_of([10 * at, 10 * at + 1, 10 * at + 2]), np.full(3, 100), np.array([50, 60, 70]), seen_us=at)
    told = late.told()
    assert [event["row"]["id"] for event in told] == ["42", "41", "40", "32", "31", "30", "22", "21"]
    assert told[0] == {
        "seen_us": 4, "event_time_us": 42, "watermark_us": 100, "late_by_us": 30, "row": {"id": "42"},
    }  # fmt: skip
    late.note(batch_of(list(range(1_000))), np.full(1_000, 7), np.zeros(1_000, np.int64), seen_us=9)
    assert [event["row"]["id"] for event in late.told()] == [str(n) for n in range(999, 999 - EVENTS_SHOWN, -1)]


def test_behind_the_end_of_the_input_nothing_says_how_late_an_event_is() -> None:
    late = LateEvents()
    late.note(batch_of([1]), np.array([MAX_US]), np.array([5]), seen_us=2)
    assert (late.told()[0]["watermark_us"], late.told()[0]["late_by_us"]) == (None, None)


def seconds(at: float) -> timedelta:
    return timedelta(seconds=at)


ROWS = [{"t": t, "k": "a", "n": n} for n, t in enumerate([0, 20, 5, 21, 3, 22])]
"""Two of which come when the watermark, two seconds behind, is at 18 and 19 seconds."""

KINDS = {
    "window": lambda s, o: s.window(ms.tumbling("10s"), allowed_lateness="1s").agg(total=ms.sum("n")),
    "session": lambda s, o: s.window(ms.session("2s")).agg(total=ms.sum("n")),
    "sliding": lambda s, o: s.window(ms.sliding("2s")).agg(total=ms.sum("n")),
    "previous": lambda s, o: s.with_previous(before=ms.lag("n")),
    "match": lambda s, o: s.match(ms.pattern("a", ms.col("n") > 100)),
    "interval join": lambda s, o: s.join(o, within=("-1s", "1s")),
    "interval join that keeps": lambda s, o: s.join(o, "left", within=("-1s", "1s")),
    "window join": lambda s, o: s.window(ms.tumbling("10s"), allowed_lateness="1s").join(o),
    "window join that keeps": lambda s, o: s.window(ms.tumbling("10s"), allowed_lateness="1s").join(o, "left"),
    "session join": lambda s, o: s.window(ms.session("2s")).join(o),
    "session join that keeps": lambda s, o: s.window(ms.session("2s")).join(o, "left"),
    "as of": lambda s, o: s.join_as_of(o),
}
LIMITS_S = {"window": 11, "session": 7, "window join": 11, "session join": 7}
"""What the watermark had passed when the event of second 5 came, where that is not its time."""


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_comes_too_late_is_counted_and_shown_with_its_watermark(kind: str) -> None:
    flow = Flow("late")
    schema = pa.schema([("t", pa.int64()), ("k", pa.string()), ("n", pa.int64())])
    left, right = (
        flow.read_iterable(rows, schema=schema).event_time("t", unit="s", out_of_orderness="2s").key_by("k")
        for rows in (ROWS, [])
    )
    KINDS[kind](left, right).collect("out")
    plan = make_plan(flow, workers=1, batch_rows=1)
    local = LocalRun(plan, lambda letter: pytest.fail(str(letter)))
    local.run()
    [(operator, told)] = [
        (name, events) for w in local.workers.values() for name, events in w.figures()["late_events"].items()
    ]
    counted = sum(w.figures()["operators"].get(operator, {}).get("late", 0) for w in local.workers.values())
    assert counted == len(told) == 2
    limit_s = LIMITS_S.get(kind.removesuffix(" that keeps"), 5)
    assert told[1]["row"]["n"] == "2" and told[1]["row"]["k"] == "a"
    assert (told[1]["event_time_us"], told[1]["watermark_us"]) == (5_000_000, 18_000_000)
    assert told[1]["late_by_us"] == (18 - limit_s) * 1_000_000
    assert (told[0]["row"]["n"], told[0]["watermark_us"]) == ("4", 19_000_000)
