"""What operators say that they hold, against a look at every row that they were given."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness.sources import ColumnSource, fields

from millstream import aggregates as ms
from millstream.batch import Batch, Keys
from millstream.flow import Flow
from millstream.keyed import KeyedStream
from millstream.operators.base import Context, Operator
from millstream.operators.build import make_operator
from millstream.planner import make_plan
from millstream.processing import Process
from millstream.queries import Question
from millstream.ranking import desc
from millstream.state_handles import value_state
from millstream.times import datetime_us
from millstream.windows import custom_windows, global_window, hopping, session, tumbling

SCHEMA = fields(t=pa.int64(), k=pa.string(), n=pa.int64())
KEYS = ["a", "b", "c", "d"]


def keyed(flow: Flow) -> KeyedStream:
    source = flow.source(ColumnSource([[]], SCHEMA))
    return source.event_time("t", unit="ms", out_of_orderness=timedelta(milliseconds=10)).key_by("k")


def operator_of(flow: Flow, name: str) -> Operator:
    """An operator as a worker would have it."""
    plan = make_plan(flow, workers=1, two_phase="off")
    node = next(number for number, described in plan.nodes.items() if described.name == name)
    return make_operator(plan, node, Context(name, 0, 1, lambda: 0, lambda letter: pytest.fail(str(letter))))


def batch_of(rows: list[tuple[int, str, int]]) -> Batch:
    times_ms, keys, values = (list(column) for column in zip(*rows, strict=True))
    time_us = np.array(times_ms, np.int64) * 1_000
    codes = np.array([KEYS.index(k) for k in keys], np.int32)
    columns = pa.record_batch({"t": times_ms, "n": values})
    return Batch(columns, time_us, None, np.arange(len(rows)), Keys(pa.record_batch({"k": KEYS}), codes))


def answer(operator: Operator, keys: Iterable[Any] | None = None, at_ms: int | None = None) -> list[dict[str, Any]]:
    question = Question("op", None if keys is None else tuple(keys), None if at_ms is None else at_ms * 1_000, 1_000)
    return [row for batch in operator.lookup(question) for row in batch.to_pylist()]


def bounds(row: dict[str, Any]) -> tuple[int, int, str]:
    start_us, end_us = datetime_us(row["window_start"]), datetime_us(row["window_end"])
    return start_us // 1_000, end_us // 1_000, row["k"]


def rounds(seed: int) -> Iterable[tuple[list[tuple[int, str, int]], int]]:
    """Batches of rows (time, key, value), none of them late, and the watermark behind each."""
    dice = random.Random(seed)
    watermark_ms = 0
    for _ in range(30):
        count = dice.choice([1, 5, 40])
        rows = [(watermark_ms + dice.randrange(90), dice.choice(KEYS[:3]), dice.randrange(9)) for _ in range(count)]
        watermark_ms += dice.choice([0, 0, 7, 25])
        yield rows, watermark_ms


@pytest.mark.parametrize(("size_ms", "slide_ms"), [(20, 20), (40, 20), (50, 20), (30, 7)])
@pytest.mark.parametrize("lateness_ms", [0, 35])
@pytest.mark.parametrize("seed", range(3))
def test_windows_say_what_every_row_since_has_made_of_them(
    size_ms: int, slide_ms: int, lateness_ms: int, seed: int
) -> None:
    flow = Flow("asked")
    windows = (
        tumbling(timedelta(milliseconds=size_ms))
        if size_ms == slide_ms
        else hopping(timedelta(milliseconds=size_ms), timedelta(milliseconds=slide_ms))
    )
    panes = keyed(flow).window(windows, allowed_lateness=timedelta(milliseconds=lateness_ms))
    panes.agg(rows=ms.count(), total=ms.sum("n")).collect("panes")
    operator = operator_of(flow, "agg")
    held: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for rows, watermark_ms in rounds(seed):
        list(operator.on_batch(batch_of(rows), 0))
        for time_ms, key, value in rows:
            first = (time_ms - size_ms) // slide_ms + 1
            for number in range(first, time_ms // slide_ms + 1):
                held[number * slide_ms, number * slide_ms + size_ms, key].append(value)
        list(operator.on_watermark(watermark_ms * 1_000))
        held = defaultdict(list, {w: v for w, v in held.items() if w[1] + lateness_ms > watermark_ms})
        expected = {w: (len(values), sum(values)) for w, values in held.items()}
        assert {bounds(r): (r["rows"], r["total"]) for r in answer(operator)} == expected
        of_b = {w: v for w, v in expected.items() if w[2] == "b"}
        assert {bounds(r): (r["rows"], r["total"]) for r in answer(operator, ["b"])} == of_b
        at_ms = watermark_ms + 13
        there = {w: v for w, v in expected.items() if w[0] <= at_ms < w[1]}
        assert {bounds(r): (r["rows"], r["total"]) for r in answer(operator, None, at_ms)} == there
    assert answer(operator, ["nobody"]) == []


@pytest.mark.parametrize("seed", range(6))
def test_sessions_say_what_every_row_since_has_made_of_them(seed: int) -> None:
    gap_ms = 11
    flow = Flow("asked")
    keyed(flow).window(session(timedelta(milliseconds=gap_ms))).agg(rows=ms.count()).collect("sessions")
    operator = operator_of(flow, "agg")
    times: dict[str, list[int]] = defaultdict(list)
    for rows, watermark_ms in rounds(seed):
        list(operator.on_batch(batch_of(rows), 0))
        for time_ms, key, _ in rows:
            times[key].append(time_ms)
        list(operator.on_watermark(watermark_ms * 1_000))
        expected: dict[tuple[int, int, str], int] = {}
        for key, all_ms in times.items():
            sessions: list[list[int]] = []
            for time_ms in sorted(all_ms):
                if sessions and time_ms <= sessions[-1][-1] + gap_ms:
                    sessions[-1].append(time_ms)
                else:
                    sessions.append([time_ms])
            open_ = [s for s in sessions if s[-1] + gap_ms > watermark_ms]
            expected |= {(s[0], s[-1] + gap_ms, key): len(s) for s in open_}
            times[key] = [t for s in open_ for t in s]
        assert {bounds(r): r["rows"] for r in answer(operator)} == expected
        assert {bounds(r): r["rows"] for r in answer(operator, ["a"])} == {
            w: n for w, n in expected.items() if w[2] == "a"
        }


class Remembers(Process):
    seen = value_state(0)

    def on_event(self, event: Any, ctx: Any) -> None:
        self.seen.value += event.n
        ctx.set_timer(ctx.time + timedelta(hours=1), name="later")


def test_what_stands_for_a_key_is_told() -> None:
    flow = Flow("asked")
    stream = keyed(flow)
    stream.agg(rows=ms.count(), kinds=ms.count_distinct("n")).collect("agg")
    stream.agg(rows=ms.count(), ttl="1h", name="expiring").collect("expiring")
    stream.scan(list, lambda seen, row: ([*seen, row.n], None)).collect("scan")
    stream.process(Remembers).collect("process")
    stream.top_n(2, [desc("n")], rank="rank").collect("top_n")
    stream.dedupe(keep="last").collect("dedupe")
    rows = [(1, "a", 5), (2, "b", 6), (3, "a", 7), (4, "a", 7)]
    found = {}
    for name in ("agg", "expiring", "scan", "process", "top_n", "dedupe"):
        operator = operator_of(flow, name)
        assert answer(operator, ["a"]) == []
        list(operator.on_batch(batch_of(rows), 0))
        list(operator.on_watermark(5_000))
        assert answer(operator, ["nobody"]) == []
        assert {r["k"] for r in answer(operator)} == {"a", "b"}
        found[name] = answer(operator, ["a", "a"])
    assert found["agg"] == [{"k": "a", "rows": 3, "kinds": 2}]
    assert found["expiring"] == [{"k": "a", "rows": 3}]
    assert found["scan"] == [{"k": "a", "state": "[5, 7, 7]"}]
    assert [(r["seen"], len(json.loads(r["timers"]))) for r in found["process"]] == [("19", 3)]
    assert [(r["n"], r["rank"]) for r in found["top_n"]] == [(7, 1), (7, 2)]
    assert [r["k"] for r in found["dedupe"]] == ["a"]


def test_windows_without_a_raster_say_what_they_hold() -> None:
    rows = [(1, "a", 5), (12, "b", 6), (25, "a", 7), (26, "a", 7)]
    twenties = custom_windows(lambda e: [(e.t // 20 * 20_000, e.t // 20 * 20_000 + 20_000)])
    found = {}
    for name, windows in (("custom", twenties), ("global", global_window())):
        flow = Flow(name)
        keyed(flow).window(windows).agg(rows=ms.count()).collect("panes")
        operator = operator_of(flow, "agg")
        list(operator.on_batch(batch_of(rows), 0))
        found[name] = operator
    assert [(bounds(r), r["rows"]) for r in answer(found["custom"], ["a"])] == [((0, 20, "a"), 1), ((20, 40, "a"), 2)]
    assert [(bounds(r), r["rows"]) for r in answer(found["custom"], None, 25)] == [((20, 40, "a"), 2)]
    assert answer(found["global"], ["a"]) == [{"window_start": None, "window_end": None, "k": "a", "rows": 3}]
