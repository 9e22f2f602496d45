"""What becomes of state when a flow changes: a function of what the checkpoint says and of what the flow says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.checkpoints.evolution import Fate, Verdict, check_losses, fates, reduced, with_sinks_found
from millstream.checkpoints.manifest import Manifest, PartitionState, SinkState, TableFile
from millstream.checkpoints.shape import Shape
from millstream.errors import CheckpointError

SOURCE = Shape({"operator": "read_jsonl", "source": "yes"}, {})
SINK = Shape({"operator": "write_jsonl('out/')", "sink": "yes"}, {})
AGG = Shape(
    {"operator": "running aggregate", "aggregate total": "sum(n)", "key": "k"},
    {"key field k": "string", "field n": "int64"},
)
PROCESS = Shape(
    {
        "operator": "process",
        "state count": "value",
        "version of count": "1",
        "state recent": "list",
        "version of recent": "1",
        "key": "k",
    },
    {"key field k": "string"},
)
LATE = Shape({"operator": "write_jsonl('agg/')", "belongs to": "agg", "sink": "yes"}, {})
FLOW = {"read": SOURCE, "agg": AGG, "alerts": PROCESS, "out": SINK}
PARTITIONS = {("read", "a"), ("read", "b")}


def table(operator: str, rows: int = 10) -> TableFile:
    return TableFile(operator, "states", 0, 1, f"data/{operator}.arrow", rows, 512, "")


def partition(name: str, *, ended: bool = False) -> PartitionState:
    return PartitionState("read", name, 7, 3, {}, ended)


MANIFEST = Manifest(
    "flow", 4, 1, 1, 0, dict.fromkeys(FLOW, ""), (table("agg"), table("alerts")), (partition("a"), partition("b")),
    {"out": [SinkState({"part": 2}, [])]}, shapes=FLOW,
)  # fmt: skip


def changed(shape: Shape, **aspects: str) -> Shape:
    return replace(shape, aspects={**shape.aspects, **{a.replace("_", " "): v for a, v in aspects.items()}})


def news(flow: dict[str, Shape], manifest: Manifest = MANIFEST) -> dict[str, Fate]:
    return {f.name: f for f in fates(manifest, flow, PARTITIONS) if f.is_news}


def test_a_flow_that_is_as_it_was_keeps_everything() -> None:
    found = fates(MANIFEST, FLOW, PARTITIONS)
    assert {f.name: f.verdict for f in found} == dict.fromkeys(FLOW, Verdict.KEPT)
    assert not any(f.is_news for f in found)
    check_losses(MANIFEST, found)
    assert reduced(MANIFEST, found) is MANIFEST


def test_what_is_new_starts_empty_and_a_new_source_at_its_beginning() -> None:
    found = news({**FLOW, "more": AGG, "second": SOURCE})
    assert {f.name: (f.verdict, f.remarks) for f in found.values()} == {
        "more": (Verdict.NEW, ("starts empty",)),
        "second": (Verdict.NEW, ("is read from its beginning",)),
    }
    check_losses(MANIFEST, list(found.values()))


def test_state_that_has_no_place_any_more_is_lost_only_where_that_is_said() -> None:
    flow = {name: shape for name, shape in FLOW.items() if name != "agg"}
    found = fates(MANIFEST, flow, PARTITIONS)
    (agg,) = [f for f in found if f.is_news]
    assert (agg.name, agg.verdict, agg.rows, agg.size_bytes, agg.loses) == ("agg", Verdict.DROPPED, 10, 512, True)
    with pytest.raises(
        CheckpointError, match=r"agg \(running aggregate\): is not in the flow any more.*--drop-state agg,"
    ):
        check_losses(MANIFEST, found)
    check_losses(MANIFEST, found, ["agg"])
    rest = reduced(MANIFEST, found)
    assert [t.operator for t in rest.tables] == ["alerts"]
    assert not news(flow, rest)


def test_an_operator_that_holds_nothing_yet_may_go() -> None:
    manifest = replace(MANIFEST, tables=(table("agg", rows=0), table("alerts")))
    found = fates(manifest, {name: shape for name, shape in FLOW.items() if name != "agg"}, PARTITIONS)
    check_losses(manifest, found)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (changed(AGG, aggregate_total="max(n)"), "aggregate total: sum(n) then, max(n) now"),
        (changed(AGG, aggregate_rows="count()"), "aggregate rows: none then, count() now"),
        (changed(AGG, key="k=upper(k)"), "key: k then, k=upper(k) now"),
        (replace(AGG, types={"key field k": "int64", "field n": "int64"}), "key field k: string then, int64 now"),
        (replace(AGG, types={"key field k": "string", "field n": "double"}), "field n: int64 then, double now"),
        (SINK, "running aggregate then, write_jsonl('out/') now"),
    ],
)
def test_state_that_would_mean_something_else_is_incompatible_and_it_is_said_why(now: Shape, why: str) -> None:
    found = fates(MANIFEST, {**FLOW, "agg": now}, PARTITIONS)
    (agg,) = [f for f in found if f.is_news]
    assert (agg.verdict, agg.remarks) == (Verdict.INCOMPATIBLE, (why,))
    with pytest.raises(CheckpointError, match="--drop-state agg"):
        check_losses(MANIFEST, found)
    assert news({**FLOW, "agg": now}, reduced(MANIFEST, found))["agg"].verdict is Verdict.NEW


def test_types_that_only_rows_show_are_not_compared() -> None:
    assert not news({**FLOW, "agg": replace(AGG, types=None)})
    then = replace(MANIFEST, shapes={**FLOW, "agg": replace(AGG, types=None)})
    assert not news(FLOW, then)


def test_a_source_that_was_not_read_to_its_end_is_not_given_up_unasked() -> None:
    found = fates(MANIFEST, FLOW, {("read", "a")})
    with pytest.raises(CheckpointError, match=r"read \(partition 'b'\): was not read to its end.*--drop-state read,"):
        check_losses(MANIFEST, found)
    check_losses(MANIFEST, found, ["read"])
    assert [p.partition for p in reduced(MANIFEST, found).partitions] == ["a"]
    ended = replace(MANIFEST, partitions=(partition("a"), partition("b", ended=True)))
    assert not [f for f in fates(ended, FLOW, {("read", "a")}) if f.is_news]


def test_one_state_of_a_process_comes_or_goes_without_the_others() -> None:
    aspects = {a: v for a, v in PROCESS.aspects.items() if "recent" not in a}
    flow = {**FLOW, "alerts": Shape({**aspects, "state sums": "map", "version of sums": "1"}, PROCESS.types)}
    found = news(flow)
    assert {f.name: f.verdict for f in found.values()} == {
        "alerts.sums": Verdict.NEW,
        "alerts.recent": Verdict.DROPPED,
    }
    with pytest.raises(CheckpointError, match=r"alerts.recent \(list\): .*--drop-state alerts.recent,"):
        check_losses(MANIFEST, list(found.values()))
    everything = fates(MANIFEST, flow, PARTITIONS)
    check_losses(MANIFEST, everything, ["alerts.recent"])
    rest = reduced(MANIFEST, everything)
    assert rest.tables == MANIFEST.tables
    assert "alerts.recent" not in news(flow, rest)


def test_a_newer_version_of_a_state_needs_a_migration_and_an_older_one_is_refused() -> None:
    second = changed(PROCESS, version_of_count="2")
    assert news({**FLOW, "alerts": second})["alerts"].remarks == (
        "state count: version 1 then, 2 now, and no migrate= brings it there",
    )
    found = news({**FLOW, "alerts": replace(second, migrations=["count"])})["alerts"]
    assert (found.verdict, found.loses) == (Verdict.KEPT, False)
    assert found.remarks == ("state count: version 1 is brought to 2 by migrate=",)
    back = replace(MANIFEST, shapes={**FLOW, "alerts": second})
    assert news(FLOW, back)["alerts"].remarks == ("state count: version 2 then, 1 now: a newer flow has written it",)


def test_a_place_for_late_events_that_nobody_asked_for_goes_with_its_operator() -> None:
    manifest = replace(
        MANIFEST,
        shapes={**FLOW, "late_of_agg": LATE},
        sinks={**MANIFEST.sinks, "late_of_agg": [SinkState({"part": 1}, [])]},
    )
    found = fates(manifest, {name: shape for name, shape in FLOW.items() if name != "agg"}, PARTITIONS)
    with pytest.raises(CheckpointError, match=r"give this state up with --drop-state agg, or"):
        check_losses(manifest, found)
    check_losses(manifest, found, ["agg"])


def test_a_name_that_nothing_has_may_not_be_dropped() -> None:
    with pytest.raises(
        CheckpointError, match=r"--drop-state ag: neither the checkpoint nor the flow .* did you mean 'agg'"
    ):
        check_losses(MANIFEST, fates(MANIFEST, FLOW, PARTITIONS), ["ag"])


def test_sinks_are_found_by_where_they_write_when_another_has_shifted_their_names() -> None:
    other = Shape({"operator": "write_jsonl('other/')", "sink": "yes"}, {})
    then = replace(
        MANIFEST, shapes={"w": SINK, "w_2": other}, sinks={"w": [SinkState({"part": 1}, [])], "w_2": [SinkState({"part": 2}, [])]},
        operators={}, tables=(), partitions=(),
    )  # fmt: skip
    before = with_sinks_found(then, {"w": changed(SINK, operator="write_csv('new/')"), "w_2": SINK, "w_3": other})
    assert {name: states[0].state["part"] for name, states in before.sinks.items()} == {"w_2": 1, "w_3": 2}
    swapped = with_sinks_found(then, {"w": other, "w_2": SINK})
    assert {name: states[0].state["part"] for name, states in swapped.sinks.items()} == {"w_2": 1, "w": 2}
    first_gone = with_sinks_found(then, {"w": other})
    assert {name: states[0].state["part"] for name, states in first_gone.sinks.items()} == {"w (then)": 1, "w": 2}
    with pytest.raises(CheckpointError, match=r"w \(then\) .*is not in the flow any more"):
        check_losses(first_gone, fates(first_gone, {"w": other}, ()))
    assert with_sinks_found(then, {"w": SINK, "w_2": changed(SINK, operator="elsewhere")}) is then
