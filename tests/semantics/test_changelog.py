"""Changelogs: whoever follows one holds, at the end, what the whole input amounts to, for any cut and any workers.

The oracle knows nothing of changes. It works the answer out from all events at once; what comes out of a run is
folded: a "+" adds a row, a "-" takes away one that is there, or, where rows are upserts, the last of each key stays.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from harness.oracle import Event
from harness.running import Rows, Way, run
from harness.sources import ColumnSource, TextSource, fields
from hypothesis import example, given
from hypothesis import strategies as st

import millstream as ms
from millstream.expr import col
from millstream.flow import Flow
from millstream.streams import Stream

SCHEMA = fields(p=pa.int64(), i=pa.int64(), t=pa.int64(), k=pa.string(), v=pa.int64(), x=pa.float64())

Partitions = list[list[Event]]
Row = tuple[Any, ...]
Item = TypeVar("Item")


@st.composite
def partitions(draw: st.DrawFn) -> Partitions:
    return [
        [
            {
                "p": partition, "i": row, "t": draw(st.integers(0, 30)), "k": draw(st.sampled_from(["a", "b", "c", None])),
                "v": draw(st.one_of(st.none(), st.integers(-2, 3))), "x": draw(st.sampled_from([None, 0.5, -1.0, 2.0])),
            }
            for row in range(draw(st.integers(0, 20)))
        ]
        for partition in range(draw(st.integers(1, 3)))
    ]  # fmt: skip


def ways() -> st.SearchStrategy[Way]:
    return st.builds(
        Way,
        workers=st.sampled_from([1, 3]),
        batch_rows=st.integers(1, 25),
        ingest=st.sampled_from(["coordinator", "workers"]),
        two_phase=st.sampled_from(["always", "auto", "never"]),
    )


def read(flow: Flow, rows: Partitions, text: bool = False) -> Stream:
    return flow.source((TextSource if text else ColumnSource)(rows, SCHEMA))


def outcome(build: Callable[[Stream], Stream], rows: Partitions, way: Way) -> Rows:
    flow = Flow("changelog")
    build(read(flow, rows, text=way.ingest == "workers")).collect("out")
    return run(flow, way).rows["out"]


def folded(rows: Rows) -> Counter[Row]:
    """What stands in the end of rows that are added and taken back; none is taken back that is not there."""
    standing: Counter[Row] = Counter()
    for row in rows:
        what = tuple(v for name, v in row.items() if name != "change")
        standing[what] += 1 if row["change"] == "+" else -1
        assert standing[what] >= 0, f"{what} is taken back, and was not there"
    return +standing


def upserted(rows: Rows, key: str) -> list[Row]:
    """The last row of each key."""
    return list({row[key]: tuple(row.values()) for row in rows}.values())


def every(rows: Partitions) -> list[Event]:
    return [e for partition in rows for e in partition]


def grouped(events: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    groups: dict[Any, list[Item]] = defaultdict(list)
    for event in events:
        groups[key(event)].append(event)
    return groups


def total(values: Sequence[Any]) -> Any:
    there = [v for v in values if v is not None]
    return sum(there) if there else None


def counts(events: Iterable[Event]) -> dict[Any, int]:
    return {k: len(g) for k, g in grouped(events, lambda e: e["k"]).items()}


# --- aggregates ---


@given(partitions(), ways())
def test_an_aggregate_of_an_aggregate_is_that_of_what_stands(rows: Partitions, way: Way) -> None:
    """How many keys have so many events, and what they sum up to."""

    def build(events: Stream) -> Stream:
        sums = events.key_by("k").agg(n=ms.count(), s=ms.sum("v"), x=ms.sum("x"))
        return sums.key_by("n").agg(
            keys=ms.count(), s=ms.sum("s"), most=ms.max("s"), least=ms.min("k"), mean=ms.mean("x"),
            different=ms.count_distinct("s"),
        )  # fmt: skip

    per_key = [
        {"k": k, "n": len(g), "s": total([e["v"] for e in g]), "x": total([e["x"] for e in g])}
        for k, g in grouped(every(rows), lambda e: e["k"]).items()
    ]
    expected = Counter[Row]()
    for n, group in grouped(per_key, lambda r: r["n"]).items():
        sums = [r["s"] for r in group if r["s"] is not None]
        means = [r["x"] for r in group if r["x"] is not None]
        expected[
            n, len(group), total(sums), max(sums, default=None),
            min((r["k"] for r in group if r["k"] is not None), default=None),
            sum(means) / len(means) if means else None, len(set(sums)),
        ] += 1  # fmt: skip
    assert folded(outcome(build, rows, way)) == expected


@given(partitions(), ways())
def test_an_aggregate_of_the_third_order_is_right_as_well(rows: Partitions, way: Way) -> None:
    def build(events: Stream) -> Stream:
        first = events.key_by("k", "v").agg(n=ms.count())
        return first.key_by("k").agg(m=ms.count(), n=ms.max("n")).key_by("n").agg(keys=ms.count(), m=ms.sum("m"))

    pairs = {pair: len(g) for pair, g in grouped(every(rows), lambda e: (e["k"], e["v"])).items()}
    second = [
        (len(g), max(pairs[pair] for pair in g)) for g in grouped(pairs, lambda pair: pair[0]).values()
    ]  # (values, most events)
    expected = Counter((n, len(g), sum(m for m, _ in g)) for n, g in grouped(second, lambda r: r[1]).items())
    assert folded(outcome(build, rows, way)) == expected


@given(partitions(), ways())
@example([[{"p": 0, "i": i, "t": 0, "k": "a", "v": 1, "x": None} for i in range(3)]], Way(1, 1))
def test_stateless_operators_pass_on_what_is_taken_back(rows: Partitions, way: Way) -> None:
    def build(events: Stream) -> Stream:
        stream = events.key_by("k").agg(n=ms.count()).filter(col("n") % 2 == 1)
        stream = stream.map(
            lambda r: {"name": r.k, "n": r.n, "twice": [r.n, r.n]}, schema={"name": str, "n": int, "twice": list[int]}
        )
        return stream.explode("twice").flat_map(lambda r: [r, r]).with_columns(m=col("twice") + 1).drop("n")

    odd = {k: n for k, n in counts(every(rows)).items() if n % 2}
    assert folded(outcome(build, rows, way)) == Counter({(k, n, n + 1): 4 for k, n in odd.items()})


@given(partitions(), ways())
def test_a_union_of_changelogs_adds_up(rows: Partitions, way: Way) -> None:
    def build(events: Stream) -> Stream:
        one = events.key_by("k").agg(n=ms.count())
        other = events.filter(col("v") > 0).key_by("k").agg(n=ms.count())
        return one.union(other).key_by("n").agg(rows=ms.count())

    numbers = [*counts(every(rows)).values(), *counts(e for e in every(rows) if (e["v"] or 0) > 0).values()]
    assert folded(outcome(build, rows, way)) == Counter(Counter(numbers).items())


@given(partitions(), ways())
def test_upserts_leave_the_last_row_of_each_key(rows: Partitions, way: Way) -> None:
    out = outcome(lambda events: events.key_by("k").agg(n=ms.count()), rows, way)
    assert sorted(upserted(out, "k"), key=repr) == sorted(counts(every(rows)).items(), key=repr)


@given(partitions(), ways())
def test_a_final_aggregate_is_one_row_for_each_key_and_may_be_aggregated_again(rows: Partitions, way: Way) -> None:
    out = outcome(lambda events: events.key_by("k").agg(n=ms.count(), emit="final"), rows, way)
    assert Counter(tuple(r.values()) for r in out) == Counter(counts(every(rows)).items())
    again = outcome(
        lambda events: events.key_by("k").agg(n=ms.count(), emit="final").key_by("n").agg(all=ms.collect("k"), emit="final"),
        rows, way,
    )  # fmt: skip
    assert Counter((r["n"], len(r["all"])) for r in again) == Counter(Counter(counts(every(rows)).values()).items())


@given(partitions(), ways())
def test_a_final_aggregate_of_a_changelog_is_of_what_stands(rows: Partitions, way: Way) -> None:
    out = outcome(
        lambda events: events.key_by("k").agg(n=ms.count()).key_by("n").agg(keys=ms.count(), emit="final"), rows, way
    )
    assert Counter(tuple(r.values()) for r in out) == Counter(Counter(counts(every(rows)).values()).items())


# --- ttl ---


def lives(events: list[Event], ttl: int) -> list[tuple[Any, int, Any]]:
    """(key, events, last values) of each stretch of a key's events without a gap of the ttl."""
    result = []
    for key, group in grouped(events, lambda e: e["k"]).items():
        group = sorted(group, key=lambda e: (e["t"], e["p"], e["i"]))
        piece: list[Event] = []
        for event in group:
            if piece and event["t"] - piece[-1]["t"] >= ttl:
                result.append((key, len(piece), piece[-1]["v"]))
                piece = []
            piece.append(event)
        result.append((key, len(piece), piece[-1]["v"]))
    return result


def timed(events: Stream) -> Stream:
    return events.event_time("t", unit="s", out_of_orderness="30s")


@given(partitions(), ways(), st.integers(1, 12))
def test_each_life_of_a_key_is_aggregated_by_itself(rows: Partitions, way: Way, ttl: int) -> None:
    rows = [[{**e, "v": e["i"]} for e in partition] for partition in rows]
    out = outcome(
        lambda events: timed(events).key_by("k").agg(n=ms.count(), v=ms.last("v"), ttl=f"{ttl}s", emit="final"),
        rows,
        way,
    )
    assert Counter(tuple(r.values()) for r in out) == Counter(lives(every(rows), ttl))


@given(partitions(), ways(), st.integers(1, 12))
def test_a_key_that_expires_is_taken_back(rows: Partitions, way: Way, ttl: int) -> None:
    out = outcome(lambda events: timed(events).key_by("k").agg(n=ms.count(), ttl=f"{ttl}s"), rows, way)
    assert folded(out) == Counter()
    last = {k: g[-1][1] for k, g in grouped(lives(every(rows), ttl), lambda life: life[0]).items()}
    taken = {r["k"]: r["n"] for r in out if r["change"] == "-"}
    assert taken == last
    behind = outcome(
        lambda events: timed(events).key_by("k").agg(n=ms.count(), ttl=f"{ttl}s").key_by("n").agg(keys=ms.count()),
        rows,
        way,
    )
    assert folded(behind) == Counter()


@pytest.mark.parametrize("workers", [1, 3])
def test_window_results_behind_a_final_aggregate_with_a_ttl_are_not_late(workers: int) -> None:
    rows: Partitions = [[{"p": 0, "i": i, "t": i, "k": "abc"[i % 3], "v": 1, "x": None} for i in range(300)]]
    out = outcome(
        lambda events: events.event_time("t", unit="s").filter(col("t") % 50 < 20).key_by("k")
        .agg(n=ms.count(), ttl="10s", emit="final").key_by("n").window(ms.tumbling("50s")).agg(lives=ms.count()),
        rows, Way(workers, 7),
    )  # fmt: skip
    assert sum(r["lives"] for r in out) == 18


# --- rankings ---


def better(field: str, *, descending: bool) -> Callable[[Event], Any]:
    """Sorts rows without a value last, whichever way the others go."""

    def key(event: Event) -> Any:
        value = event[field]
        return (value is None, 0 if value is None else -value if descending else value)

    return key


def placed(event: Event) -> Any:
    return event["t"], event["p"], event["i"]


def best(
    events: Iterable[Event], n: int, orders: Sequence[Callable[[Event], Any]], ties: str, tie: Callable[[Event], Any]
) -> list[tuple[Event, int]]:
    """The best events of each key with their ranks, by counting for each event those that are better."""
    result = []
    for group in grouped(events, lambda e: e["k"]).values():
        for event in group:
            mine = [o(event) for o in orders]
            if ties == "all":
                rank = sum([o(other) for o in orders] < mine for other in group)
            else:
                rank = sum(([o(other) for o in orders], tie(other)) < (mine, tie(event)) for other in group)
            if rank < n:
                result.append((event, rank + 1))
    return result


def whole(event: Event) -> Row:
    return event["k"], event["p"], event["i"], event["t"], event["v"], event["x"]


@given(partitions(), ways(), st.integers(1, 4), st.booleans(), st.sampled_from(["first", "all"]), st.booleans())
def test_the_best_rows_of_each_key_are_ranked_by_value_time_and_place(
    rows: Partitions, way: Way, n: int, descending: bool, ties: Any, with_rank: bool
) -> None:
    by = [ms.desc("v") if descending else "v", "x"]
    expected = best(every(rows), n, [better("v", descending=descending), better("x", descending=False)], ties, placed)
    for emit in ("updates", "final"):

        def build(events: Stream, emit: Any = emit) -> Stream:
            return timed(events).key_by("k").top_n(n, by, rank="rank" if with_rank else None, ties=ties, emit=emit)

        out = outcome(build, rows, way)
        found = folded(out) if emit == "updates" else Counter(tuple(r.values()) for r in out)
        assert found == Counter((*whole(e), rank) if with_rank else whole(e) for e, rank in expected)


@given(partitions(), ways(), st.integers(1, 3), st.sampled_from(["first", "all"]))
def test_a_ranking_follows_what_is_revised(rows: Partitions, way: Way, n: int, ties: Any) -> None:
    """The values with the most events of each key: counts go up, and a value may lose its place."""

    def build(events: Stream) -> Stream:
        counted = timed(events).key_by("k", "v").agg(n=ms.count(), s=ms.sum("i"))
        return counted.key_by("k").top_n(n, [ms.desc("n"), ms.desc("s")], rank="rank", ties=ties)

    pairs = [
        {"k": k, "v": v, "n": len(g), "s": sum(e["i"] for e in g), "t": max(e["t"] for e in g)}
        for (k, v), g in grouped(every(rows), lambda e: (e["k"], e["v"])).items()
    ]
    out = folded(outcome(build, rows, way))
    if ties == "all":
        expected = best(pairs, n, [better("n", descending=True), better("s", descending=True)], ties, placed)
        assert out == Counter((r["k"], r["v"], r["n"], r["s"], rank) for r, rank in expected)
    else:  # ties of one time go by a hash of the key: all that is known is who may be tied
        ranks = best(pairs, 10**6, [better("n", descending=True), better("s", descending=True)], "all", placed)
        assert sorted((row[0] or "", row[2], row[3]) for row in out.elements()) == sorted(
            (k or "", r["n"], r["s"])
            for k, g in grouped([{**r, "rank": rank} for r, rank in ranks], lambda r: r["k"]).items()
            for r in sorted(g, key=lambda r: r["rank"])[:n]
        )
    assert outcome(build, rows, Way(1, 1000)) is not None
    assert out == folded(outcome(build, rows, Way(1, 7)))


@given(partitions(), ways())
def test_a_ranking_of_a_ranking_is_one_of_what_stands(rows: Partitions, way: Way) -> None:
    """The best of all keys' best: rows that are pushed out of the first ranking leave the second one as well."""

    def build(events: Stream) -> Stream:
        first = timed(events).key_by("k").top_n(2, ms.desc("v"))
        return (
            first.filter(col("v").is_not_null()).key_by(all=col("v") * 0).top_n(3, "v", rank="rank").select("v", "rank")
        )

    firsts = [e for e, _ in best(every(rows), 2, [better("v", descending=True)], "first", placed) if e["v"] is not None]
    expected = sorted(e["v"] for e in firsts)[:3]
    assert folded(outcome(build, rows, way)) == Counter((v, i + 1) for i, v in enumerate(expected))


@given(partitions(), ways())
def test_an_aggregate_of_a_ranking_is_of_what_stands(rows: Partitions, way: Way) -> None:
    def build(events: Stream) -> Stream:
        return (
            timed(events).key_by("k").top_n(2, ms.desc("x")).key_by("k").agg(n=ms.count(), x=ms.sum("x"), v=ms.min("v"))
        )

    top = [e for e, _ in best(every(rows), 2, [better("x", descending=True)], "first", placed)]
    expected = Counter[Row]()
    for key, group in grouped(top, lambda e: e["k"]).items():
        values = [e["v"] for e in group if e["v"] is not None]
        expected[key, len(group), total([e["x"] for e in group]), min(values, default=None)] += 1
    assert folded(outcome(build, rows, way)) == expected


@pytest.mark.parametrize("descending", [False, True])
def test_text_nan_and_null_have_their_place_in_a_ranking(descending: bool) -> None:
    nan = float("nan")
    kinds = fields(k=pa.string(), x=pa.float64(), s=pa.string())
    events = [
        {"k": "a", "x": x, "s": s}
        for x, s in [
            (nan, "b"),
            (None, "a"),
            (1.0, None),
            (float("inf"), "c"),
            (-1.0, "b"),
            (float("-inf"), "aa"),
            (0.0, ""),
        ]
    ]
    for by, expected in (
        ("x", {False: [float("-inf"), -1.0, 0.0, 1.0, float("inf"), nan, None]}),
        ("s", {False: ["", "a", "aa", "b", "b", "c", None], True: ["c", "b", "b", "aa", "a", "", None]}),
    ):
        ascending = expected[False]
        wanted = expected.get(descending, [*reversed(ascending[:-2]), *ascending[-2:]])
        for batch_rows in (1, 3, 100):
            flow = Flow("ranking")
            key = ms.desc(by) if descending else by
            flow.source(ColumnSource([events], kinds)).key_by("k").top_n(7, key, rank="r", emit="final").collect("out")
            out = run(flow, Way(1, batch_rows)).rows["out"]
            assert [repr(r[by]) for r in sorted(out, key=lambda r: r["r"])] == [repr(w) for w in wanted]


# --- one event of each key ---


@given(partitions(), ways(), st.sampled_from(["first", "last"]), st.booleans())
def test_the_first_or_last_event_of_each_key_stands(rows: Partitions, way: Way, keep: Any, final: bool) -> None:
    pick = min if keep == "first" else max
    expected = Counter(whole(pick(g, key=placed)) for g in grouped(every(rows), lambda e: e["k"]).values())
    out = outcome(
        lambda events: timed(events).key_by("k").dedupe(keep, emit="final" if final else "updates"), rows, way
    )
    if final:
        assert Counter(tuple(r.values()) for r in out) == expected
    else:
        assert Counter(upserted(out, "k")) == expected


@given(partitions(), ways(), st.sampled_from(["first", "last"]))
def test_an_event_that_is_replaced_is_taken_back(rows: Partitions, way: Way, keep: Any) -> None:
    pick = min if keep == "first" else max
    events = [pick(g, key=placed) for g in grouped(every(rows), lambda e: e["k"]).values()]
    out = outcome(
        lambda events: timed(events).key_by("k").dedupe(keep).key_by("v").agg(n=ms.count(), x=ms.sum("x")), rows, way
    )
    expected = ((v, len(g), total([e["x"] for e in g])) for v, g in grouped(events, lambda e: e["v"]).items())
    assert folded(out) == Counter(expected)


@given(partitions(), ways(), st.integers(1, 12))
def test_an_event_long_enough_after_an_accepted_one_is_no_duplicate(rows: Partitions, way: Way, within: int) -> None:
    expected = Counter[Row]()
    for group in grouped(every(rows), lambda e: e["k"]).values():
        accepted: int | None = None
        for event in sorted(group, key=placed):
            if accepted is None or event["t"] - accepted >= within:
                accepted = event["t"]
                expected[whole(event)] += 1
    out = outcome(lambda events: timed(events).key_by("k").dedupe(within=f"{within}s"), rows, way)
    assert Counter(tuple(r.values()) for r in out) == expected


def test_a_duplicate_at_exactly_the_span_is_none() -> None:
    rows: Partitions = [
        [{"p": 0, "i": i, "t": t, "k": "a", "v": i, "x": None} for i, t in enumerate([0, 9, 10, 19, 20])]
    ]
    out = outcome(lambda events: timed(events).key_by("k").dedupe(within="10s"), rows, Way())
    assert [r["t"] for r in out] == [0, 10, 20]


def test_an_event_too_late_for_its_turn_leaves_by_the_late_output() -> None:
    flow = Flow("late")
    rows: Partitions = [[{"p": 0, "i": i, "t": t, "k": "a", "v": i, "x": None} for i, t in enumerate([5, 20, 1])]]
    first = read(flow, rows).event_time("t", unit="s").key_by("k").dedupe(emit="final")
    first.collect("out")
    first.late.collect("late")
    out = run(flow, Way(1, 1)).rows
    assert [r["t"] for r in out["out"]] == [5]
    assert [(r["t"], r["late_reason"][:13]) for r in out["late"]] == [(1, "the watermark")]


@given(partitions(), ways(), st.sampled_from(["first", "last"]))
def test_without_event_time_it_is_the_first_or_last_to_arrive(rows: Partitions, way: Way, keep: Any) -> None:
    rows = rows[:1]  # several partitions arrive in no order
    pick = min if keep == "first" else max
    out = outcome(lambda events: events.key_by("k").dedupe(keep), rows, way)
    assert "change" not in (out[0] if out else {})
    expected = Counter(
        (e["k"], *whole(e)[1:])
        for e in (pick(g, key=lambda e: e["i"]) for g in grouped(every(rows), lambda e: e["k"]).values())
    )
    if keep == "first":
        assert Counter(tuple(r.values()) for r in out) == expected
    else:
        assert Counter(upserted(out, "k")) == expected


# --- rankings of windows ---


@given(partitions(), ways(), st.integers(1, 3), st.sampled_from(["first", "all"]), st.sampled_from([10, 20]))
def test_each_window_has_a_ranking_of_its_own(rows: Partitions, way: Way, n: int, ties: Any, size: int) -> None:
    expected = Counter[Row]()
    for start in range(-10, 40, 10):
        inside = [e for e in every(rows) if start <= e["t"] < start + size]
        for event, rank in best(inside, n, [better("v", descending=True)], ties, placed):
            expected[start, *whole(event), rank] += 1

    def build(events: Stream) -> Stream:
        windows = timed(events).key_by("k").window(ms.hopping(f"{size}s", "10s"))
        return windows.top_n(n, ms.desc("v"), rank="rank", ties=ties)

    out = outcome(build, rows, way)
    assert {tuple(r)[:4] for r in out} <= {("window_start", "window_end", "pane", "timing")}
    assert Counter((r["window_start"].timestamp(), *list(r.values())[4:]) for r in out) == expected


@given(partitions(), ways())
def test_the_keys_with_the_most_events_of_each_window_ties_included(rows: Partitions, way: Way) -> None:
    """Nexmark's query 5."""

    def build(events: Stream) -> Stream:
        counted = timed(events).key_by("k").window(ms.tumbling("10s")).agg(n=ms.count()).select("k", "n")
        return counted.key_by(all=col("n") * 0).window(ms.tumbling("10s")).top_n(1, ms.desc("n"), ties="all")

    expected = Counter[Row]()
    for start in range(0, 40, 10):
        in_window = counts(e for e in every(rows) if start <= e["t"] < start + 10)
        most = max(in_window.values(), default=None)
        expected.update((start, k, n) for k, n in in_window.items() if n == most)
    out = outcome(build, rows, way)
    assert Counter((r["window_start"].timestamp(), r["k"], r["n"]) for r in out) == expected


def test_a_late_event_takes_a_row_out_of_its_windows_ranking() -> None:
    rows: Partitions = [
        [
            {"p": 0, "i": i, "t": t, "k": "a", "v": v, "x": None}
            for i, (t, v) in enumerate([(1, 5), (2, 4), (15, 1), (3, 9)])
        ]
    ]

    def build(events: Stream) -> Stream:
        windows = events.event_time("t", unit="s").key_by("k").window(ms.tumbling("10s"), allowed_lateness="1h")
        return windows.top_n(2, ms.desc("v"), rank="rank").select("window_start", "v", "rank")

    out = outcome(build, rows, Way(1, 1))
    assert {(r[0].timestamp(), *r[1:]) for r in folded(out)} == {(0, 9, 1), (0, 5, 2), (10, 1, 1)}
    assert [(r["change"], r["v"]) for r in out][:2] == [("+", 5), ("+", 4)]
