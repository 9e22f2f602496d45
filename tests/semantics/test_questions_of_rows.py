"""What operators that keep rows say that they hold, against all rows that they were given: joins, patterns, looks back."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness.sources import ColumnSource

import millstream as ms
from millstream.batch import Batch
from millstream.expr import col
from millstream.flow import Flow
from millstream.operators.base import Operator, Wait
from millstream.streams import Stream
from millstream.times import MAX_US, datetime_us

from .test_questions import KEYS, answer, batch_of, keyed, operator_of

Row = tuple[int, int, str, int]
"""Which side it is of, its time in milliseconds, its key, its value; no two rows of one value."""

SPAN = timedelta(milliseconds=20)


def join_of(kind: str) -> Operator:
    flow = Flow("asked")
    left, right = keyed(flow), keyed(flow)
    match kind:
        case "interval":
            joined = left.join(right, "full", within=(-SPAN, SPAN), name="join")
        case "updating":
            joined = left.join(right, "full", name="join")
        case "expiring":
            joined = left.join(right, "full", ttl=SPAN, name="join")
        case "window":
            windows = left.window(ms.hopping(timedelta(milliseconds=20), timedelta(milliseconds=10)))
            joined = windows.join(right, "full", name="join")
        case "session":
            joined = left.window(ms.session(timedelta(milliseconds=5))).join(right, "full", name="join")
        case _:
            joined = left.join_as_of(right, name="join")
    joined.collect("out")
    return operator_of(flow, "join")


def rounds(seed: int) -> Iterator[tuple[int, list[Row], int]]:
    """Batches of one side, none of whose rows is late, and the watermark behind each, in milliseconds."""
    dice = random.Random(seed)
    watermark_ms = number = 0
    for _ in range(40):
        port = dice.randrange(2)
        rows: list[Row] = []
        for _ in range(dice.choice([1, 4, 20])):
            rows.append((port, watermark_ms + dice.randrange(40), dice.choice(KEYS[:3]), number))
            number += 1
        watermark_ms += dice.choice([0, 0, 3, 15])
        yield port, rows, watermark_ms


def given(rows: list[Row]) -> Batch:
    batch = batch_of([row[1:] for row in rows])
    return replace(batch, position=np.array([value for _, _, _, value in rows]))


def told(row: dict[str, Any]) -> Row:
    side = int(row["side"] == "right")
    behind = "_right" if side else ""
    return side, row[f"t{behind}"], row["k"], row[f"n{behind}"]


Window = tuple[int, int]


def sessions(rows: list[Row]) -> Iterator[tuple[Window, list[Row]]]:
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r[1]):
        by_key[row[2]].append(row)
    for of_key in by_key.values():
        open_: list[Row] = []
        for row in of_key:
            if open_ and row[1] > open_[-1][1] + 5:
                yield (open_[0][1], open_[-1][1] + 5), open_
                open_ = []
            open_.append(row)
        yield (open_[0][1], open_[-1][1] + 5), open_


def in_windows(kind: str, rows: list[Row], now_ms: int) -> Counter[tuple[Window, Row]]:
    """Each row in each of its windows that has not come out."""
    if kind == "session":
        return Counter((w, row) for w, members in sessions(rows) for row in members if w[1] > now_ms)
    of = ((start, row) for row in rows for start in (row[1] // 10 * 10 - 10, row[1] // 10 * 10))
    return Counter(((start, start + 20), row) for start, row in of if start + 20 > now_ms)


def held_by(kind: str, rows: list[Row], now_ms: int) -> Counter[Row]:
    """The rows that may still be matched."""
    match kind:
        case "interval":
            return Counter(r for r in rows if r[1] >= now_ms - 20)
        case "updating":
            return Counter(rows)
        case "expiring":
            return Counter(r for r in rows if r[1] >= now_ms - 2 * 20)
        case _:
            waiting = [r for r in rows if r[1] >= now_ms]
            past = sorted((r for r in rows if r[0] and r[1] < now_ms), key=lambda r: (r[1], r[3]))
            return Counter([*waiting, *{r[2]: r for r in past}.values()])


@pytest.mark.parametrize("kind", ["interval", "updating", "expiring", "as of"])
@pytest.mark.parametrize("seed", range(4))
def test_a_join_tells_the_rows_of_both_sides_that_may_still_be_matched(kind: str, seed: int) -> None:
    operator = join_of(kind)
    assert answer(operator) == []
    rows: list[Row] = []
    for port, new, now_ms in rounds(seed):
        list(operator.on_batch(given(new), port))
        list(operator.on_watermark(now_ms * 1_000))
        rows += new
        held = held_by(kind, rows, now_ms)
        assert Counter(map(told, answer(operator))) == held
        assert Counter(map(told, answer(operator, ["b"]))) == Counter({r: n for r, n in held.items() if r[2] == "b"})
        assert Counter(map(told, answer(operator, ["c", "nobody", "a"]))) == Counter(
            {r: n for r, n in held.items() if r[2] != "b"}
        )
        assert all(datetime_us(r["event_time"]) == 1_000 * told(r)[1] for r in answer(operator))
    assert answer(operator, ["nobody"]) == []


@pytest.mark.parametrize("kind", ["window", "session"])
@pytest.mark.parametrize("seed", range(4))
def test_a_join_in_windows_tells_each_row_in_each_window_that_has_not_come_out(kind: str, seed: int) -> None:
    operator = join_of(kind)
    rows: list[Row] = []

    def answered(keys: list[str] | None = None, at_ms: int | None = None) -> Counter[tuple[Window, Row]]:
        found = answer(operator, keys, at_ms)
        bounds = ((datetime_us(r["window_start"]) // 1_000, datetime_us(r["window_end"]) // 1_000) for r in found)
        return Counter(zip(bounds, map(told, found), strict=True))

    for port, new, now_ms in rounds(seed):
        list(operator.on_batch(given(new), port))
        list(operator.on_watermark(now_ms * 1_000))
        rows += new
        held = in_windows(kind, rows, now_ms)
        rows = list({row: None for _, row in held})  # what has expired meets nothing that comes
        assert answered() == held
        assert answered(["b"]) == Counter({w: n for w, n in held.items() if w[1][2] == "b"})
        at_ms = now_ms + 7
        assert answered(None, at_ms) == Counter({w: n for w, n in held.items() if w[0][0] <= at_ms < w[0][1]})


def test_what_comes_out_alone_at_the_end_is_what_was_told_before() -> None:
    operator = join_of("interval")
    list(operator.on_batch(given([(0, 1, "a", 1), (0, 2, "b", 2)]), 0))
    list(operator.on_batch(given([(1, 3, "c", 3)]), 1))
    before = [{n: v for n, v in row.items() if n not in ("side", "event_time")} for row in answer(operator)]
    alone = [row for _, batch in outputs(operator.on_watermark(MAX_US)) for row in batch.columns.to_pylist()]
    assert [{n: v for n, v in row.items() if v is not None} for row in alone] == before


def test_a_row_that_is_taken_back_is_told_no_more() -> None:
    flow = Flow("asked")
    counted = keyed(flow).agg(rows=ms.count()).key_by("k")
    counted.join(keyed(flow), name="join").collect("out")
    operator = operator_of(flow, "join")
    changes = replace(batch_of([(0, "a", 0)] * 3), columns=pa.record_batch({"rows": [1, 1, 2]}), time_us=None)
    list(operator.on_batch(replace(changes, sign=np.array([1, -1, 1], np.int8)), 0))
    assert [(r["k"], r["side"], r["rows"]) for r in answer(operator, ["a"])] == [("a", "left", 2)]


def test_of_a_join_with_a_small_stream_one_worker_tells_the_small_one() -> None:
    flow = Flow("asked")
    small = flow.source(ColumnSource([[]], pa.schema([("n", pa.int64()), ("what", pa.string())])))
    keyed(flow).join_broadcast(small, "n", name="join").collect("out")
    operator = operator_of(flow, "join")
    list(operator.on_batch(batch_of([(1, "a", 7), (2, "b", 7), (3, "c", 8)]), 0))
    list(operator.on_batch(Batch(pa.record_batch({"n": [7], "what": ["seven"]})), 1))
    found = [
        {"n": 7, "side": "left", "k": "a", "t": 1}, {"n": 7, "side": "left", "k": "b", "t": 2},
        {"n": 7, "side": "right", "what": "seven"},
    ]  # fmt: skip
    assert answer(operator, [[7]]) == found
    operator.context.worker = 1
    assert answer(operator, ["7"]) == found[:2]


def test_fields_of_the_users_keep_their_names_beside_what_is_told_of_them() -> None:
    flow = Flow("asked")
    sides = [
        flow.source(ColumnSource([[]], pa.schema([("k", pa.string()), ("side", pa.string())]))).key_by("k")
        for _ in range(2)
    ]
    sides[0].join(sides[1], name="join").collect("out")
    operator = operator_of(flow, "join")
    orders = replace(batch_of([(0, "a", 0)]), columns=pa.record_batch({"side": ["buy"]}), time_us=None)
    list(operator.on_batch(orders, 1))
    assert answer(operator) == [{"k": "a", "side_": "right", "side_right": "buy"}]


# --- operators that take rows in order ---


class Echo(ms.Process):
    k = ms.value_state(0)
    timers = ms.value_state("none")

    def on_event(self, event: Any, ctx: Any) -> None:
        self.k.value += event.n


def test_states_by_the_name_of_the_key_or_of_timers_are_told_under_names_of_their_own() -> None:
    flow = Flow("asked")
    keyed(flow).process(Echo).collect("out")
    operator = operator_of(flow, "process")
    list(operator.on_batch(batch_of([(1, "a", 5)]), 0))
    list(operator.on_watermark(5_000))
    assert answer(operator) == [{"k": "a", "k_": "5", "timers": '"none"', "timers_": "[]"}]


def fed(build: Callable[[Any], Stream], name: str, rows: list[tuple[int, str, int]], until_ms: int) -> Operator:
    flow = Flow("asked")
    build(keyed(flow)).collect("out")
    operator = operator_of(flow, name)
    list(operator.on_batch(batch_of(rows), 0))
    list(operator.on_watermark(until_ms * 1_000))
    return operator


ROWS = [(1, "a", 5), (2, "b", 6), (3, "a", 7), (4, "a", 9), (4, "b", 1), (9, "a", 100)]
"""The last has not been taken when the watermark is at 5 ms."""


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Moments as milliseconds, of rows within rows, too."""
    if isinstance(row, list):
        return [plain(r) for r in row]  # type: ignore[return-value]
    if isinstance(row, dict):
        return {n: plain(v) for n, v in row.items()}
    return datetime_us(row) // 1_000 if hasattr(row, "tzinfo") else row


def test_the_window_of_a_count_that_is_not_full_is_told_as_it_comes_out_at_the_end() -> None:
    def counted(stream: Any) -> Stream:
        return stream.window(ms.count_window(2)).agg(rows=ms.count(), total=ms.sum("n"))

    operator = fed(counted, "agg", ROWS, 5)
    found = answer(operator)
    assert [r["k"] for r in found] == ["a"] and answer(operator, ["b"]) == [], "two events of b were a whole window"
    assert plain(found[0]) == {"window_start": 4, "window_end": 4, "k": "a", "rows": 1, "total": 9}
    assert answer(operator, None, 3) == [] and answer(operator, ["a"], 4) == found
    list(operator.on_watermark(9_000))
    before = answer(operator)
    [(_, last)] = outputs(operator.on_watermark(MAX_US))
    assert last.columns.select(["window_start", "window_end", "k"]).to_pylist()[0]["k"] == "a"
    assert before == found and last.columns["total"].to_pylist() == [109]


def test_overlapping_counts_tell_the_window_of_the_last_events() -> None:
    operator = fed(lambda s: s.window(ms.count_window(3, every=2)).agg(total=ms.sum("n")), "agg", ROWS, 5)
    assert [(r["k"], r["total"]) for r in answer(operator)] == [("a", 21), ("b", 7)]


@pytest.mark.parametrize("windows", [ms.sliding("3ms"), ms.sliding(rows=3)])
def test_a_sliding_window_tells_what_the_next_event_adds_itself_to(windows: Any) -> None:
    operator = fed(lambda s: s.window(windows).agg(rows=ms.count(), total=ms.sum("n")), "agg", ROWS, 5)
    held = {r["k"]: r for r in answer(operator)}
    assert (held["a"]["rows"], held["a"]["total"]) == (2, 16) and plain(held["a"])["window_start"] == 3
    assert answer(operator, ["a"]) == [held["a"]] and answer(operator, ["nobody"]) == []
    list(operator.on_batch(batch_of([(5, "a", 1_000)]), 0))
    [(_, after)] = outputs(operator.on_watermark(6_000))
    assert after.columns.select(["rows", "total"]).to_pylist() == [{"rows": 3, "total": 1_016}]


def test_looks_back_tell_the_values_that_they_will_look_at() -> None:
    operator = fed(lambda s: s.with_previous(before=ms.lag("n", 2), by=ms.delta("n")), "with_previous", ROWS, 5)
    assert [plain(r) for r in answer(operator, ["a"])] == [
        {"k": "a", "event_time": 3, "n": 7}, {"k": "a", "event_time": 4, "n": 9},
    ]  # fmt: skip
    assert answer(operator, ["nobody"]) == []


def test_looks_ahead_tell_the_events_that_wait() -> None:
    operator = fed(lambda s: s.with_previous(next=ms.lead("n")), "with_previous", ROWS, 5)
    assert [plain(r) for r in answer(operator)] == [
        {"k": "a", "event_time": 4, "t": 4, "n": 9}, {"k": "b", "event_time": 4, "t": 4, "n": 1},
    ]  # fmt: skip


def test_a_pattern_tells_its_matches_under_way_and_what_they_wait_for() -> None:
    rising = (
        ms.pattern("low", col("n") == 5).then("high", col("n") > 5).times(3).then("end", col("n") > 50)
        .without("low", col("n") == 5, within="10ms")
    )  # fmt: skip
    operator = fed(lambda s: s.match(rising), "match", ROWS, 5)
    assert answer(operator, ["b"]) == [] and answer(operator) == answer(operator, ["a"])
    [found] = answer(operator, ["a"])
    events = [{"k": "a", "t": t, "n": n} for t, n in ((1, 5), (3, 7), (4, 9))]
    assert plain(found) == {
        "k": "a", "match_start": 1, "match_end": 4, "waits_for": "high", "low": events[0], "high": events[1:],
        "end": None,
    }  # fmt: skip
    list(operator.on_batch(batch_of([(11, "a", 60), (12, "a", 70)]), 0))
    list(operator.on_watermark(13_000))
    waits = {r["waits_for"]: r for r in answer(operator, ["a"])}
    assert waits.keys() == {"no low"} and waits["no low"]["end"]["n"] == 60
    [(_, matches)] = outputs(operator.on_watermark(MAX_US))
    [whole] = matches.columns.to_pylist()
    assert {n: whole[n] for n in ("low", "high", "end")} == {n: waits["no low"][n] for n in ("low", "high", "end")}


# --- questions change nothing ---


def outputs(produced: Iterator[Any]) -> list[tuple[str, Batch]]:
    return [out for out in produced if out is not None and not isinstance(out, Wait) and out[1].num_rows]


def single(name: str, build: Callable[[Any], Stream]) -> Callable[[], Operator]:
    def make() -> Operator:
        flow = Flow("asked")
        build(keyed(flow)).collect("out")
        return operator_of(flow, name)

    return make


ASKED: dict[str, Callable[[], Operator]] = {
    **{kind: (lambda kind=kind: join_of(kind)) for kind in (  # type: ignore[misc]
        "interval", "updating", "expiring", "window", "session", "as of")},
    "sliding": single("agg", lambda s: s.window(ms.sliding("20ms")).agg(total=ms.sum("n"))),
    "sliding rows": single("agg", lambda s: s.window(ms.sliding(rows=3)).agg(total=ms.sum("n"))),
    "count": single("agg", lambda s: s.window(ms.count_window(3)).agg(total=ms.sum("n"))),
    "previous": single("with_previous", lambda s: s.with_previous(before=ms.lag("n"), next=ms.lead("n"))),
    "match": single("match", lambda s: s.match(ms.pattern("a", col("n") % 3 == 0).then("b", col("n") % 5 == 0))),
}  # fmt: skip


@pytest.mark.parametrize("kind", ASKED)
def test_whoever_asks_changes_nothing(kind: str) -> None:
    def run(asks: bool) -> list[Any]:
        operator, found, dice = ASKED[kind](), [], random.Random(1)
        one_input = kind not in ("interval", "updating", "expiring", "window", "session", "as of")
        for port, rows, now_ms in rounds(7):
            for step in (
                operator.on_batch(given(rows), 0 if one_input else port), operator.on_watermark(now_ms * 1_000),
            ):  # fmt: skip
                found += [(name, batch.columns.to_pylist(), batch.time_us) for name, batch in outputs(step)]
                if asks:
                    answer(operator, dice.choice([None, ["a"], ["b", "nobody"]]), dice.choice([None, now_ms]))
        found += [(n, b.columns.to_pylist(), b.time_us) for n, b in outputs(operator.on_watermark(MAX_US))]
        return [(n, rows, None if time_us is None else time_us.tolist()) for n, rows, time_us in found]

    assert run(asks=True) == run(asks=False) and run(asks=False)
