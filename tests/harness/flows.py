"""Flows for histories: every kind of stage, exchange and state, small enough for thousands of seeds."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pyarrow as pa

import millstream as ms
from millstream.connectors.stdin import StdinSource
from millstream.expr import col

from .history import MakeFlow
from .ledger import Ledger, LogSink, PartsSink
from .sources import ColumnSource, TextSource, fields

SCHEMA = fields(id=pa.int64(), t=pa.int64(), k=pa.string(), n=pa.int64(), list=pa.list_(pa.int64()))


_CHANGE = re.compile(r"\{'change': '([+-])', ")
_WHEN = re.compile(r"'pane': \d+, |'timing': '\w+', ")
"""Which results lie between the first and the last of a window is not promised."""


def span(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


def source(seed: int, most: int = 3) -> ColumnSource | TextSource:
    """Events in so many source partitions at most, some of them far behind the others, some empty, some with many of one time."""
    dice = random.Random(seed)
    partitions: list[list[dict[str, Any]]] = []
    for partition in range(dice.randint(1, most)):
        jitter, step = dice.choice([0, 5, 60]), dice.choice([1, 1, 25])
        partitions.append(
            [
                {
                    "id": 1000 * partition + row,
                    "t": (4 * row + dice.randint(-jitter, jitter)) // step * step,
                    "k": dice.choice(["a", "b", "c", "d", None]),
                    "n": dice.randrange(10),
                    "list": [row] * dice.randrange(3),
                }
                for row in range(dice.choice([0, 1, 15, 30]))
            ]
        )
    return ColumnSource(partitions, SCHEMA) if dice.random() < 0.5 else TextSource(partitions, SCHEMA)


def timed(flow: ms.Flow, seed: int, most: int = 3) -> ms.Stream:
    return flow.source(source(seed, most)).event_time("t", unit="ms", out_of_orderness=span(10))


def put(stream: ms.Stream, ledger: Ledger, name: str) -> None:
    """Every row counts: none may be missing, none may come twice. Half of the sinks are logs, half in parts."""
    sink = LogSink if sum(name.encode()) % 2 else PartsSink
    stream.sink(sink(ledger, name), name=name)


# --- without state ---


def stateless(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Sinks in the stage that decodes, and behind exchanges; one block leaves as several messages."""
    stream = timed(flow, seed)
    few, many = stream.split(col("n") < 3)
    put(few, ledger, "few")
    put(many.explode("list"), ledger, "many")
    put(few.union(many.with_columns(id=col("id") + 5_000)), ledger, "both")
    put(stream.filter(col("n") > 5), ledger, "logged")


def mapped(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Blocks are dealt on to workers; rows also go to the caller, whose sinks count at least once."""
    stream = timed(flow, seed).map(lambda e: e.with_(n=e.n + 1))
    put(stream, ledger, "mapped")
    stream.collect("seen")


async def answered(event: Any) -> dict[str, Any] | None:
    if event.n == 3:
        raise ValueError("three")
    return None if event.n == 4 else {"id": event.id, "k": event.k, "n": event.n + 1}


def asked(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Answers from outside, in the order of their events or in any: some events get none, and some calls fail."""
    answers = timed(flow, seed).map_async(
        answered, capacity=3, ordered=seed % 2 == 0, on_error="dead_letter", schema={"id": int, "k": str, "n": int}
    )
    put(answers, ledger, "answers")
    put(answers.key_by("k").window(ms.tumbling(span(20))).agg(n=ms.count(), s=ms.sum("n")), ledger, "panes")


def kept_in_a_journal(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Lines that come once: what was read and no checkpoint counts is in a journal."""
    dice = random.Random(seed)
    lines = [
        {"id": i, "t": 4 * i + dice.randint(-9, 9), "k": dice.choice("abc"), "n": i % 7}
        for i in range(dice.choice([0, 1, 40]))
    ]
    data = "".join("no JSON\n" if line["n"] == 5 else f"{json.dumps(line)}\n" for line in lines)
    schema = fields(id=pa.int64(), t=pa.int64(), k=pa.string(), n=pa.int64())
    stream = flow.source(StdinSource(schema=schema, descriptor=ledger.comes_once("stdin", data.encode())))
    stream = stream.event_time("t", unit="ms", out_of_orderness=span(20))
    put(stream, ledger, "lines")
    put(stream.key_by("k").scan(0, counted, schema={"k": str, "id": int, "sum": int}), ledger, "sums")
    put(stream.key_by("k").window(ms.tumbling(span(20))).agg(n=ms.count()), ledger, "panes")


class Told:
    """A source in the user's Python, which is read in a process of its own."""

    replayable = True

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def partitions(self) -> list[str]:
        return ["a", "b"][: 1 + self.seed % 2]

    def read(self, partition: str) -> Iterator[dict[str, Any]]:
        dice = random.Random(f"{self.seed} {partition}")
        for row in range(dice.choice([0, 1, 15, 30])):
            yield {"id": f"{partition}{row}", "t": 4 * row + dice.randint(-9, 9), "k": dice.choice("abc"), "n": row % 7}


def told(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    stream = flow.source(Told(seed)).event_time("t", unit="ms", out_of_orderness=span(10))
    put(stream.map(lambda e: e, schema={"id": str, "t": int, "k": str, "n": int}), ledger, "rows")
    put(stream.key_by("k").window(ms.tumbling(span(20))).agg(n=ms.count(), s=ms.sum("n")), ledger, "panes")


# --- windows ---


def windows(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    panes = (
        timed(flow, seed)
        .key_by("k")
        .window(ms.hopping(span(30), span(20)))
        .agg(n=ms.count(), ids=ms.collect("id"), s=ms.sum("n"))
    )
    put(panes, ledger, "panes")
    put(panes.late, ledger, "late")


def lateness(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    panes = (
        timed(flow, seed).key_by("k").window(ms.tumbling(span(30)), allowed_lateness=span(15), emit="final")
        .agg(n=ms.count(), most=ms.max("n"), first=ms.first("id"))
    )  # fmt: skip
    put(panes, ledger, "panes")
    put(panes.late, ledger, "late")


def retracted(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Windows that say what they have so far, and take it back."""
    panes = (
        timed(flow, seed).key_by("k")
        .window(ms.tumbling(span(30)), allowed_lateness=span(15), early=ms.every_count(3), panes="retracting")
        .agg(n=ms.count(), s=ms.sum("n"))
    )  # fmt: skip
    put(panes, ledger, "changes")


def sessions(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    panes = timed(flow, seed).key_by("k").window(ms.session(span(9))).agg(n=ms.count(), ids=ms.collect("id"))
    put(panes, ledger, "sessions")
    put(panes.late, ledger, "late")


def late_sessions(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Sessions that say what they have so far, grow together, and are kept when they have been put out."""
    panes = (
        timed(flow, seed).key_by("k")
        .window(ms.session(span(7)), allowed_lateness=span(20), early=ms.every_count(2), panes="retracting")
        .agg(n=ms.count(), s=ms.sum("n"))
    )  # fmt: skip
    put(panes, ledger, "changes of sessions")


def two_windows(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Two keyed stages behind one source, one of which is far faster."""
    stream = timed(flow, seed)
    put(stream.key_by("k").window(ms.tumbling(span(40))).agg(n=ms.count()), ledger, "by k")
    put(stream.filter(col("n") > 7).key_by("n").window(ms.tumbling(span(8))).agg(count=ms.count()), ledger, "by n")


def windows_of_windows(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    first = timed(flow, seed).key_by("k", "n").window(ms.tumbling(span(20))).agg(events=ms.count())
    second = first.key_by("k").window(ms.hopping(span(40), span(20))).agg(events=ms.sum("events"), keys=ms.count())
    put(second, ledger, "panes")
    put(first, ledger, "inner")


def two_sources(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    one = timed(flow, seed)
    other = (
        flow.source(source(seed + 1)).map(lambda e: e.with_(id=-1 - e.id))
        .event_time("t", unit="ms", out_of_orderness=span(10))
    )  # fmt: skip
    both = one.union(other)
    put(both.key_by("k").window(ms.tumbling(span(20))).agg(n=ms.count(), ids=ms.collect("id")), ledger, "panes")


def united(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Two keyed stages of every worker feed one exchange: one may have passed a barrier that the other waits for."""
    stream, schema = timed(flow, seed, 2), {"id": int, "g": int}
    one = stream.key_by("k").scan(0, lambda state, e: (state + 1, {"id": e.id, "g": e.n}), schema=schema)
    other = stream.key_by("n").scan(0, lambda state, e: (state + 1, {"id": -e.id, "g": e.n}), schema=schema)
    both = one.union(other)
    put(both, ledger, "seen")
    put(both.key_by("g").window(ms.tumbling(span(30))).agg(n=ms.count(), s=ms.sum("id")), ledger, "panes")


def ends_early(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """A keyed stage whose input ends long before that of another: checkpoints go on without its barrier."""
    short = flow.source(source(seed, 1)).filter(col("id") < 3).event_time("t", unit="ms")
    put(short.key_by("k").window(ms.tumbling(span(5))).agg(n=ms.count()), ledger, "short")
    put(timed(flow, seed + 1).key_by("k").agg(n=ms.count()).filter(col("n") < 0), ledger, "nothing")
    put(timed(flow, seed + 2).key_by("k").window(ms.tumbling(span(50))).agg(n=ms.count()), ledger, "long")


def far_ahead(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    stream = flow.source(source(seed)).with_columns(t=col("t") + (col("id") % 7 == 3).cast(pa.int64()) * 10_000)
    timed_ = stream.event_time("t", unit="ms", out_of_orderness=span(10), max_ahead=span(300))
    put(timed_.key_by("k").window(ms.tumbling(span(25))).agg(n=ms.count()), ledger, "panes")


# --- state for each key ---


def counted(state: int, event: Any) -> tuple[int, dict[str, Any]]:
    return state + event.n + 1, {"k": event.k, "id": event.id, "sum": state + event.n + 1}


def scanned(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Each row shows the state before it: a lost or doubled event changes all that follow."""
    sums = timed(flow, seed, 1).key_by("k").scan(0, counted, schema={"k": str, "id": int, "sum": int})
    put(sums, ledger, "sums")
    again = sums.with_columns(g=col("id") % 3, n=col("sum")).key_by("g")
    put(again.scan(0, counted, schema={"k": str, "id": int, "sum": int}), ledger, "sums of sums")


class Quiet(ms.Process):
    """Says how long a key was quiet, and sums up what came before."""

    total = ms.value_state(0)
    seen = ms.list_state()

    def on_event(self, event: Any, ctx: Any) -> None:
        self.total.value += event.n
        self.seen.append(event.id)
        ctx.cancel_timer(name="quiet")
        ctx.set_timer(timedelta(milliseconds=12), name="quiet")

    def on_timer(self, timer: Any, ctx: Any) -> None:
        ctx.emit({"k": ctx.key, "at": str(timer.time), "total": self.total.value, "seen": list(self.seen)})
        self.seen.clear()


def timers(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    put(timed(flow, seed).key_by("k").process(Quiet, order="event_time"), ledger, "quiet")


def deduplicated(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    keyed = timed(flow, seed).key_by("k", "n")
    put(keyed.dedupe(emit="final"), ledger, "firsts")
    put(keyed.dedupe("last", emit="final"), ledger, "lasts")


def ranked(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    counts = timed(flow, seed).key_by("k", "n").agg(events=ms.count(), last=ms.last("id"))
    put(counts.key_by("k").top_n(2, [ms.desc("events"), ms.desc("n")], rank="rank"), ledger, "changes of a ranking")
    put(counts.key_by("events").agg(keys=ms.count(), most=ms.max("last")), ledger, "changes of counts")


def previous(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    put(timed(flow, seed).key_by("k").with_previous(before=ms.lag("n")), ledger, "neighbours")


def small_then_large(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    wanted = ms.pattern("a", col("n") < 3).then("b", col("n") > 6, within=span(30))
    put(timed(flow, seed).key_by("k").match(wanted), ledger, "matches")


def followed_or_not(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Matches that wait for several events, for one that a function wants, and for time in which there is none."""
    wanted = (
        ms.pattern("a", col("n") < 5)
        .then("b", lambda e, so_far: e.n > so_far["a"].n, within=span(60))
        .without("c", col("n") == 9, within=span(15))
    )
    put(timed(flow, seed).key_by("k").match(wanted, overlapping=False), ledger, "matches")


# --- joins ---


def sides(flow: ms.Flow, seed: int) -> tuple[ms.KeyedStream, ms.KeyedStream]:
    left = timed(flow, seed).select("id", "t", "k", "n").key_by("k")
    other = flow.source(source(seed + 1)).select("t", "k", m=col("n"), right=col("id"))
    return left, other.event_time("t", unit="ms", out_of_orderness=span(10)).key_by("k")


def joined_within(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    left, right = sides(flow, seed)
    pairs = left.join(right, "left", within=(span(-8), span(12)))
    put(pairs, ledger, "pairs")
    put(pairs.key_by("k").window(ms.tumbling(span(30))).agg(n=ms.count()), ledger, "panes of pairs")


def joined_in_windows(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    left, right = sides(flow, seed)
    put(left.window(ms.tumbling(span(20))).join(right, "full"), ledger, "pairs")


def joined_in_sessions(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    left, right = sides(flow, seed)
    put(left.window(ms.session(span(9)), allowed_lateness=span(5)).join(right, "full"), ledger, "pairs")


def joined_as_of(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    left, right = sides(flow, seed)
    put(left.join_as_of(right), ledger, "versions")


def joined_for_ever(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    left, right = sides(flow, seed)
    put(left.join(right), ledger, "pairs")


def joined_to_all(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    left, _ = sides(flow, seed)
    small = flow.source(source(seed + 2, 1)).filter(col("id") < 4).select("t", m=col("n"), right=col("id"))
    small_timed = small.event_time("t", unit="ms", out_of_orderness=span(10))
    put(left.join_broadcast(small_timed, on={"n": "m"}), ledger, "pairs")


def joined_to_itself(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """One input of the join comes straight from the source, the other by way of another keyed stage."""
    stream = timed(flow, seed).select("id", "t", "k", "n")
    counts = stream.key_by("k").window(ms.tumbling(span(20))).agg(events=ms.count())
    put(stream.key_by("k").join(counts.key_by("k"), within=(span(0), span(40))), ledger, "pairs")


def refusing(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Events that functions do not take, before an exchange and behind it, are dead letters."""

    def checked(event: Any) -> Any:
        if event.n == 3:
            raise ValueError("three")
        return event

    def add_up(state: int, event: Any) -> tuple[int, dict[str, Any]]:
        if event.n == 7:
            raise ValueError("seven")
        return state + event.n, {"id": event.id, "sum": state + event.n}

    rows = timed(flow, seed).map(checked, on_error="dead_letter")
    sums = rows.key_by("k").scan(0, add_up, order="event_time", on_error="dead_letter", schema={"id": int, "sum": int})
    put(sums, ledger, "sums")


def refused_as_rows(flow: ms.Flow, ledger: Ledger, seed: int) -> None:
    """Records that are refused before event time, by it, behind it and behind an exchange are rows of a stream, too."""

    def but(refused: int) -> Callable[[Any], Any]:
        def checked(event: Any) -> Any:
            if event.n == refused:
                raise ValueError(f"{refused}")
            return event

        return checked

    def add_up(state: int, event: Any) -> tuple[int, dict[str, Any]]:
        return state + event.n, {"id": but(7)(event).id, "sum": state + event.n}

    letters = flow.dead_letters.select("operator", "reason", "record")
    early = flow.source(source(seed)).map(but(1), on_error="dead_letter")
    late = early.event_time("t", unit="ms", out_of_orderness=span(10), max_ahead=span(50)).map(
        but(3), on_error="dead_letter"
    )
    sums = late.key_by("k").scan(0, add_up, order="event_time", on_error="dead_letter", schema={"id": int, "sum": int})
    put(sums, ledger, "sums")
    put(letters, ledger, "letters")
    put(letters.key_by("operator").agg(events=ms.count(), emit="final"), ledger, "counts")


FLOWS: list[MakeFlow] = [
    stateless, mapped, windows, lateness, retracted, sessions, two_windows, windows_of_windows, two_sources, united, ends_early, far_ahead,
    scanned, timers, deduplicated, ranked, previous, small_then_large,
    joined_within, joined_in_windows, joined_as_of, joined_for_ever, joined_to_all, joined_to_itself, refusing,
    refused_as_rows, late_sessions, followed_or_not, joined_in_sessions, asked, kept_in_a_journal,
    told,
]  # fmt: skip


def answer(name: str, rows: Counter[str]) -> object:
    """All rows; of changes, what is left when everything that was taken back is gone."""
    if not name.startswith("changes"):
        return rows
    left: Counter[str] = Counter()
    for text, times in rows.items():
        change = _CHANGE.match(text)
        assert change is not None, f"{name}: a row without a change: {text}"
        left[_WHEN.sub("", text[change.end() :])] += times if change[1] == "+" else -times
    assert all(count >= 0 for count in left.values()), f"{name}: rows are taken back that were not there: {-left}"
    return +left
