"""Keyed state and timers: what a process sees and does, for any cut and any number of workers.

The oracle below is written from docs/state.md: one key at a time, one event at a time, state as lists of
(value, until when), timers as a set that is searched for the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from harness.running import Rows, Way, run
from harness.sources import ColumnSource, fields
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms

SCHEMA = fields(p=pa.int64(), i=pa.int64(), k=pa.string(), t=pa.int64(), op=pa.string(), x=pa.int64(), name=pa.string())
OPS = ["set", "cancel", "cancel_at", "add", "push", "put", "mark", "clear", "look", "chain"]
LATENESS = 2
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Event = dict[str, Any]
Partitions = list[list[Event]]


@st.composite
def partitions(draw: st.DrawFn, most: int = 3) -> Partitions:
    return [
        [
            {
                "p": partition, "i": row, "k": draw(st.sampled_from(["a", "b", "c"])),
                "t": max(0, row // 2 + draw(st.integers(-4, 6))), "op": draw(st.sampled_from(OPS)),
                "x": draw(st.integers(-3, 6)), "name": draw(st.sampled_from(["", "n"])),
            }
            for row in range(draw(st.integers(0, 25)))
        ]
        for partition in range(draw(st.integers(1, most)))
    ]  # fmt: skip


def ways() -> st.SearchStrategy[Way]:
    return st.builds(
        Way,
        workers=st.sampled_from([1, 3]),
        batch_rows=st.integers(1, 30),
        ingest=st.sampled_from(["coordinator", "workers"]),
    )


def seconds(moment: datetime | None) -> int | None:
    return None if moment is None else round((moment - EPOCH).total_seconds())


# --- the process under test, and the same in the plainest words ---


class Everything(ms.Process):
    count = ms.value_state(0)
    mark = ms.value_state(None, ttl="5s")
    recent = ms.list_state(ttl="4s")
    seen = ms.map_state(ttl="3s")
    kept = ms.list_state()

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        match event.op:
            case "set":
                ctx.set_timer(timedelta(seconds=event.x), name=event.name)
            case "chain":
                ctx.set_timer(EPOCH + timedelta(seconds=event.t + event.x), name="chain")
            case "cancel":
                ctx.cancel_timer(name=event.name)
            case "cancel_at":
                ctx.cancel_timer((event.t + event.x) * 1_000_000, name=event.name)
            case "add":
                self.count.value += event.x
            case "push":
                self.recent.append(event.x)
                self.kept.append(event.x)
            case "put":
                self.seen[event.x % 3] = event.t
            case "mark":
                self.mark.value = event.i
            case "clear":
                self.count.clear()
                self.kept.clear()
        ctx.emit({"p": event.p, "i": event.i, "k": ctx.key, **self.seen_state()})

    def on_timer(self, timer: ms.Timer, ctx: ms.ProcessContext) -> None:
        now = seconds(ctx.time)
        ctx.emit(
            {"k": ctx.key, "for": seconds(timer.time), "name": timer.name, "at": ctx.time, **self.seen_state()},
            to="timers",
        )
        assert now is not None
        if timer.name == "chain":
            ctx.set_timer(timedelta(seconds=2), name="chain")
        elif timer.name == "n" and now % 2:
            self.recent.append(100 + now)
            self.mark.value = -now

    def seen_state(self) -> dict[str, Any]:
        seen = sorted(self.seen.items())
        return {
            "count": self.count.value, "mark": self.mark.value, "recent": list(self.recent), "kept": list(self.kept),
            "seen": str(seen), "sizes": len(self.seen) + 10 * len(self.recent),
        }  # fmt: skip


@dataclass
class Model:
    """What one key has. Times in microseconds."""

    key: str
    count: int = 0
    kept: list[int] = field(default_factory=list)
    mark: tuple[Any, int] = (None, 0)
    recent: list[tuple[int, int]] = field(default_factory=list)
    seen: dict[int, tuple[int, int]] = field(default_factory=dict)
    timers: dict[tuple[int, str], int] = field(default_factory=dict)
    out: Rows = field(default_factory=list)
    fired: Rows = field(default_factory=list)
    ending: bool = False

    def forget(self, now: int) -> None:
        if self.mark[1] <= now:
            self.mark = (None, 0)
        self.recent = [(v, until) for v, until in self.recent if until > now]
        self.seen = {k: (v, until) for k, (v, until) in self.seen.items() if until > now}

    def shown(self) -> dict[str, Any]:
        return {
            "count": self.count, "mark": self.mark[0], "recent": [v for v, _ in self.recent], "kept": list(self.kept),
            "seen": str(sorted((k, v) for k, (v, _) in self.seen.items())),
            "sizes": len(self.seen) + 10 * len(self.recent),
        }  # fmt: skip

    def set_timer(self, time: int, name: str, now: int) -> None:
        if not self.ending:
            self.timers.setdefault((time, name), max(time, now + 1))

    def fire_until(self, now: int) -> None:
        while due := sorted((due, *timer) for timer, due in self.timers.items() if due <= now):
            at, time, name = due[0]
            del self.timers[time, name]
            self.forget(at)
            shown = {"k": self.key, "for": time // 1_000_000, "name": name, "at": at, **self.shown()}
            self.fired.append(shown)
            whole = round(at / 1_000_000)
            if name == "chain":
                self.set_timer(at + 2_000_000, "chain", at)
            elif name == "n" and whole % 2:
                self.recent.append((100 + whole, at + 4_000_000))
                self.mark = (-whole, at + 5_000_000)

    def event(self, e: Event, now: int, timer_now: int) -> None:
        self.forget(now)
        time = e["t"] * 1_000_000
        match e["op"]:
            case "set":
                self.set_timer(time + e["x"] * 1_000_000, e["name"], timer_now)
            case "chain":
                self.set_timer(time + e["x"] * 1_000_000, "chain", timer_now)
            case "cancel":
                self.timers = {t: due for t, due in self.timers.items() if t[1] != e["name"]}
            case "cancel_at":
                self.timers.pop((time + e["x"] * 1_000_000, e["name"]), None)
            case "add":
                self.count += e["x"]
            case "push":
                self.recent.append((e["x"], now + 4_000_000))
                self.kept.append(e["x"])
            case "put":
                until = max(now + 3_000_000, self.seen.get(e["x"] % 3, (0, 0))[1])
                self.seen[e["x"] % 3] = (e["t"], until)
            case "mark":
                self.mark = (e["i"], max(now + 5_000_000, self.mark[1]))
            case "clear":
                self.count, self.kept = 0, []
        self.out.append({"p": e["p"], "i": e["i"], "k": self.key, **self.shown()})


def places(rows: Partitions) -> list[tuple[int, Event]]:
    """Each event with where it stands: at its time, or at the watermark of its partition that it missed."""
    result: list[tuple[int, Event]] = []
    for events in rows:
        largest: int | None = None
        for e in events:
            place = e["t"] if largest is None else max(e["t"], largest - LATENESS)
            result.append((place * 1_000_000, e))
            largest = e["t"] if largest is None else max(largest, e["t"])
    return result


def in_order(placed: list[tuple[int, Event]]) -> list[tuple[int, Event]]:
    return sorted(placed, key=lambda pe: (pe[0], pe[1]["t"], pe[1]["p"], pe[1]["i"]))


def expected(rows: Partitions) -> dict[str, Model]:
    models: dict[str, Model] = {}
    for place, e in in_order(places(rows)):
        model = models.setdefault(e["k"], Model(e["k"]))
        model.fire_until(place)
        model.event(e, place, place)
    for model in models.values():
        model.ending = True
        model.fire_until(2**62)
    return models


def read(flow: ms.Flow, rows: Partitions) -> ms.Stream:
    return flow.source(ColumnSource(rows, SCHEMA)).event_time("t", unit="s", out_of_orderness=f"{LATENESS}s")


def by_key(rows: Rows, key: str) -> Rows:
    return [r for r in rows if r["k"] == key]


OUT = fields(
    p=pa.int64(), i=pa.int64(), k=pa.string(), count=pa.int64(), mark=pa.int64(), recent=pa.list_(pa.int64()),
    kept=pa.list_(pa.int64()), seen=pa.string(), sizes=pa.int64(),
)  # fmt: skip
FIRED = pa.schema(
    [("k", pa.string()), ("for", pa.int64()), ("name", pa.string()), ("at", pa.timestamp("us", "UTC")), *list(OUT)[3:]]
)


@given(partitions(), ways())
def test_events_and_timers_of_a_key_go_along_one_line_of_time(rows: Partitions, way: Way) -> None:
    flow = ms.Flow("line")
    keyed = read(flow, rows).key_by("k")
    result = keyed.process(Everything, schema=OUT, outputs={"timers": FIRED}, order="event_time")
    result.collect("out")
    result.output("timers").collect("timers")
    outcome = run(flow, way)
    for key, model in expected(rows).items():
        assert by_key(outcome.rows["out"], key) == model.out
        # A timer that sets another: how far that goes behind a key's last event is up to the watermark.
        last_us = max(place for place, e in places(rows) if e["k"] == key)
        found = [{**r, "at": round((r["at"] - EPOCH) / timedelta(microseconds=1))} for r in outcome.rows["timers"]]

        def settled(r: dict[str, Any], last_us: int = last_us) -> bool:
            return r["name"] != "chain" or r["at"] <= last_us

        assert list(filter(settled, by_key(found, key))) == list(filter(settled, model.fired))
    assert len(outcome.rows["out"]) == sum(map(len, rows))


@given(partitions(most=1), ways())
def test_in_order_of_arrival_state_and_its_lifetime_depend_on_a_keys_own_events_alone(
    rows: Partitions, way: Way
) -> None:
    rows = [[e for e in events if e["op"] not in ("set", "chain", "cancel", "cancel_at")] for events in rows]
    flow = ms.Flow("arrival")
    read(flow, rows).key_by("k").process(Everything, schema=OUT).collect("out")
    outcome = run(flow, way)
    models: dict[str, Model] = {}
    for place, e in places(rows):
        models.setdefault(e["k"], Model(e["k"])).event(e, place, place)
    for key, model in models.items():
        assert by_key(outcome.rows["out"], key) == model.out


# --- arrival, with timers: what is promised whatever the cut ---


class Alarm(ms.Process):
    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        ctx.set_timer(EPOCH + timedelta(seconds=event.t + event.x), name=event.name)

    def on_timer(self, timer: ms.Timer, ctx: ms.ProcessContext) -> None:
        ctx.emit({"k": ctx.key, "for": seconds(timer.time), "name": timer.name})


@given(partitions(), ways(), st.sampled_from(["arrival", "event_time"]))
def test_a_timer_that_is_set_fires_once_for_each_key_name_and_time_whatever_the_order(
    rows: Partitions, way: Way, order: Any
) -> None:
    flow = ms.Flow("once")
    # In the future of every event, so that none can have fired when it is set again.
    rows = [[{**e, "x": 40 + e["x"]} for e in events] for events in rows]
    read(flow, rows).key_by("k").process(Alarm, order=order).collect("out")
    out = run(flow, way).rows["out"]
    expected_timers = {(e["k"], e["t"] + e["x"], e["name"]) for events in rows for e in events}
    assert sorted((r["k"], r["for"], r["name"]) for r in out) == sorted(expected_timers)
    for key in "abc":
        mine = [(r["for"], r["name"]) for r in by_key(out, key)]
        assert mine == sorted(mine)


# --- control ---


class Controlled(ms.Process):
    total = ms.value_state(0)
    factor = ms.value_state(1, shared=True)

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.total.value += event.x * self.factor.value
        ctx.emit({"p": event.p, "i": event.i, "k": event.k, "total": self.total.value})

    def on_control(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.factor.value = event.x

        def reset(key: Any) -> None:
            ctx.emit({"p": -1, "i": event.i, "k": key, "total": self.total.value})
            self.total.clear()

        if event.op in ("clear", "cancel"):
            ctx.for_each_key(reset)


@given(partitions(), partitions(most=1), ways())
def test_control_events_come_before_the_events_of_their_time_in_every_worker(
    rows: Partitions, control: Partitions, way: Way
) -> None:
    flow = ms.Flow("control")
    stream = read(flow, control)
    read(flow, rows).key_by("k").process(Controlled, control=stream, order="event_time").collect("out")
    out = run(flow, way).rows["out"]
    line = [(place, 1, e) for place, e in in_order(places(rows))]
    line += [(place, 0, e) for place, e in in_order(places(control))]
    factor, totals, expected_rows = 1, dict[str, int](), Rows()
    for _, is_event, e in sorted(line, key=lambda x: x[:2]):
        if is_event:
            totals[e["k"]] = totals.get(e["k"], 0) + e["x"] * factor
            expected_rows.append({"p": e["p"], "i": e["i"], "k": e["k"], "total": totals[e["k"]]})
        else:
            factor = e["x"]
            if e["op"] in ("clear", "cancel"):
                expected_rows += [{"p": -1, "i": e["i"], "k": k, "total": t} for k, t in totals.items() if t]
                totals = {}
    for key in "abc":
        assert by_key(out, key) == by_key(expected_rows, key)


# --- scan ---


def count_on(state: int, event: Any) -> tuple[int, dict[str, Any]]:
    return state + 1, {"p": event.p, "i": event.i, "k": event.k, "n": state}


@given(partitions(), ways())
def test_scan_by_event_time_forgets_a_key_without_events_for_its_ttl(rows: Partitions, way: Way) -> None:
    flow = ms.Flow("scan")
    read(flow, rows).key_by("k").scan(0, count_on, ttl="2s", order="event_time").collect("out")
    out = run(flow, way).rows["out"]
    last: dict[str, tuple[int, int]] = {}
    expected_rows: Rows = []
    for place, e in in_order(places(rows)):
        until, n = last.get(e["k"], (0, 0))
        n = 0 if place >= until else n
        expected_rows.append({"p": e["p"], "i": e["i"], "k": e["k"], "n": n})
        last[e["k"]] = (place + 2_000_000, n + 1)
    for key in "abc":
        assert by_key(out, key) == by_key(expected_rows, key)


@given(partitions(most=1), ways())
def test_scan_in_order_of_arrival_forgets_a_key_by_the_times_of_its_events(rows: Partitions, way: Way) -> None:
    flow = ms.Flow("scan")
    read(flow, rows).key_by("k").scan(0, count_on, ttl="2s").collect("out")
    out = run(flow, way).rows["out"]
    last: dict[str, tuple[int, int]] = {}
    expected_rows: Rows = []
    for place, e in places(rows):
        until, n = last.get(e["k"], (-1, 0))
        n = 0 if place >= until else n
        expected_rows.append({"p": e["p"], "i": e["i"], "k": e["k"], "n": n})
        last[e["k"]] = (max(until, place + 2_000_000), n + 1)
    for key in "abc":
        assert by_key(out, key) == by_key(expected_rows, key)
