"""Planning: what is refused and with which words, what is read and carried, where stages are cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from harness.sources import ColumnSource, TextSource, fields

from millstream import aggregates as ms
from millstream.connectors.base import Source
from millstream.errors import FlowError, SchemaError, UnboundedStateWarning
from millstream.expr import Expr, col
from millstream.flow import Flow
from millstream.plan import ExchangeKind, PhysicalPlan, Place, StageKind
from millstream.planner import Ingest, make_plan
from millstream.specs.columns import FilterSpec
from millstream.specs.ends import ReadSpec
from millstream.streams import Stream
from millstream.windowed import WindowResult
from millstream.windows import hopping, tumbling

SCHEMA = fields(
    carrier=pa.string(),
    scheduled=pa.timestamp("us", "UTC"),
    delay=pa.int64(),
    unread=pa.string(),
    legs=pa.list_(pa.int64()),
)


def read(flow: Flow, *, text: bool = False, partitions: int = 1) -> Stream:
    return flow.source((TextSource if text else ColumnSource)([[]] * partitions, SCHEMA), name="read")


def delays(stream: Stream, **options: Any) -> WindowResult:
    return stream.event_time("scheduled").key_by("carrier").window(tumbling("1h"), **options).agg(worst=ms.max("delay"))


def plan(flow: Flow, workers: int = 2, ingest: Ingest = "auto") -> PhysicalPlan:
    return make_plan(flow, workers=workers, ingest=ingest)


def is_read(made: PhysicalPlan) -> list[tuple[str, ...] | None]:
    return [made.reads[n.id] for n in made.nodes.values() if isinstance(n.spec, ReadSpec)]


def carried(made: PhysicalPlan, kind: ExchangeKind) -> list[tuple[str, ...] | None]:
    return [e.fields for e in made.exchanges if e.kind is kind]


# --- what is read ---


def test_only_the_fields_that_somebody_reads_are_read_and_carried() -> None:
    flow = Flow("f")
    delays(read(flow).filter(col("delay") > 0)).collect("out")
    made = plan(flow)
    assert is_read(made) == [("carrier", "scheduled", "delay")]
    assert carried(made, ExchangeKind.KEY) == [("delay",)]


def test_what_leads_to_no_sink_is_left_out(tmp_path: Path) -> None:
    flow = Flow("f")
    events = read(flow)
    delays(events)  # its late events are nobody's either
    events.select(more=col("legs").list.len() + 1)
    events.select("carrier").collect("out")
    made = make_plan(flow, workers=2, late_directory=tmp_path)
    assert is_read(made) == [("carrier",)]
    assert [n.name for n in made.nodes.values()] == ["read", "select_2", "collect"]


def test_a_late_output_needs_every_field_of_the_event() -> None:
    flow = Flow("f")
    panes = delays(read(flow))
    panes.collect("out")
    panes.late.collect("late")
    made = plan(flow)
    assert is_read(made) == [tuple(SCHEMA.names)]
    assert carried(made, ExchangeKind.KEY) == [("delay", "legs", "scheduled", "unread")]


def test_a_late_output_that_is_narrowed_needs_only_what_is_left() -> None:
    flow = Flow("f")
    panes = delays(read(flow))
    panes.collect("out")
    panes.late.select("carrier", "legs").collect("late")
    assert is_read(plan(flow)) == [("carrier", "scheduled", "delay", "legs")]


def test_a_count_alone_reads_the_time_and_the_key_and_carries_nothing() -> None:
    flow = Flow("f")
    read(flow).event_time("scheduled").key_by("carrier").window(tumbling("1h")).agg(n=ms.count()).collect("out")
    made = plan(flow)
    assert is_read(made) == [("carrier", "scheduled")]
    assert carried(made, ExchangeKind.KEY) == [()]


def test_computed_and_renamed_fields_are_traced_to_what_they_are_made_of() -> None:
    flow = Flow("f")
    stream = read(flow).rename({"delay": "late_by"}).with_columns(twice=col("late_by") * 2, unused=col("unread") + "x")
    stream.event_time("scheduled").key_by(k=col("carrier").str.to_uppercase()).agg(s=ms.sum("twice")).collect("out")
    assert is_read(plan(flow)) == [("carrier", "scheduled", "delay")]


def test_a_python_function_reads_every_field() -> None:
    flow = Flow("f")
    delays(read(flow).map(lambda e: e)).collect("out")
    assert is_read(plan(flow)) == [tuple(SCHEMA.names)]


def test_at_least_one_field_is_read_where_rows_are_counted() -> None:
    flow = Flow("f")
    read(flow).key_by(all=col("delay") * 0).agg(n=ms.count()).collect("out")
    assert len(is_read(plan(flow))[0] or ()) == 1


@pytest.mark.parametrize(
    ("read_behind", "kept"),
    [(col("carrier"), {"carrier"}), (col("delay"), {"delay"}), (None, {"carrier", "delay", "scheduled"})],
)
def test_a_filter_keeps_only_what_is_read_behind_it(read_behind: Expr | None, kept: set[str]) -> None:
    flow = Flow("f")
    long = read(flow).select("carrier", "delay", "scheduled").filter(col("delay") > 0)
    (long if read_behind is None else long.select(out=read_behind)).collect("out")
    filters = [node.spec for node in plan(flow).nodes.values() if isinstance(node.spec, FilterSpec)]
    assert [spec.fields for spec in filters] == [kept]


# --- what is refused ---


def refused(build: Any, error: type[Exception], match: str) -> None:
    flow = Flow("refused")
    with pytest.raises(error, match=match):
        build(flow)
        plan(flow)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda s: s.filter(col("dealy") > 0), "filter .*no field 'dealy'; did you mean 'delay'"),
        (lambda s: s.event_time("schedule"), "event_time .*no field 'schedule'; did you mean 'scheduled'"),
        (lambda s: s.key_by("carier").agg(n=ms.count()), "key_by .*no field 'carier'; did you mean 'carrier'"),
        (lambda s: s.key_by("carrier").agg(n=ms.sum("dilay")), "agg .*no field 'dilay'; did you mean 'delay'"),
        (lambda s: s.drop("zzz"), "drop .*no field 'zzz'; there are 'carrier', 'scheduled'"),
        (lambda s: s.rename({"zzz": "a"}), "rename .*no field 'zzz'"),
        (lambda s: s.explode("leg"), "explode .*no field 'leg'; did you mean 'legs'"),
        (lambda s: s.on("a", print, field="kind"), "on .*no field 'kind'"),
        (lambda s: s.filter(col("delay")), "is int64, not a condition"),
        (lambda s: s.event_time("delay"), r"the time is a number \(int64\); say what it counts"),
        (lambda s: s.event_time("legs"), "is not a time"),
        (lambda s: s.explode("delay"), "field 'delay' is int64, not a list"),
        (lambda s: s.rename({"delay": "carrier"}), "two fields would be named 'carrier'"),
        (lambda s: s.key_by("carrier").agg(n=ms.sum("carrier")), "cannot sum string"),
        (lambda s: s.union(s.drop("delay")), "the streams differ in the fields delay"),
        (lambda s: s.union(s.with_columns(delay=col("carrier"))), "fields of one name and different types"),
    ],
)  # fmt: skip
def test_a_mistake_with_fields_names_the_operator_and_what_is_near(build: Any, match: str) -> None:
    refused(lambda flow: build(read(flow)).collect("out"), SchemaError, match)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda s: delays(s).event_time("window_start"), "event time cannot be assigned behind agg"),
        (lambda s: s.key_by("carrier").agg(n=ms.count()).key_by("n").agg(m=ms.first("carrier")), "which revises what it has put out.*emit='final'"),
        (lambda s: delays(s, allowed_lateness="1m").key_by("worst").agg(m=ms.first("carrier")), "which revises what it has put out"),
        (lambda s: delays(s, allowed_lateness=None).key_by("worst").agg(m=ms.first("carrier")), "which revises what it has put out"),
        (lambda s: s.union(s.event_time("scheduled")), "one stream has event time and another has not"),
        (lambda s: s.key_by("carrier").agg(carrier=ms.count()), "an aggregate cannot be named 'carrier'"),
        (lambda s: s.event_time("scheduled").key_by("carrier").window(tumbling("1h")).agg(pane=ms.count()), "an aggregate cannot be named 'pane'"),
        (lambda s: s.key_by(pane="carrier").window(tumbling("1h")).agg(n=ms.count()), "a key cannot be named window_start, window_end, pane or timing"),
        (lambda s: delays(s, allowed_lateness=None, emit="final"), "never happens with infinite lateness"),
        (lambda s: s.key_by("carrier").window(hopping("1s", "2s")).agg(n=ms.count()), "events in between would be in no window"),
        (lambda s: s.key_by("carrier").window(tumbling("0s")).agg(n=ms.count()), "holds nothing"),
        (lambda s: s.key_by(), "name at least one field"),
    ],
)  # fmt: skip
def test_a_flow_that_cannot_run_is_refused_before_it_starts(build: Any, match: str) -> None:
    refused(lambda flow: build(read(flow)).collect("out"), FlowError, match)


def test_panes_that_are_final_may_be_aggregated_again() -> None:
    for options in ({}, {"allowed_lateness": "1m", "emit": "final"}):
        flow = Flow("f")
        delays(read(flow), **options).key_by("worst").agg(n=ms.count()).collect("out")
        plan(flow)


def test_a_flow_without_a_sink_is_refused() -> None:
    refused(lambda flow: delays(read(flow)), FlowError, "'refused' has no sink")


def test_streams_of_two_flows_cannot_be_put_together() -> None:
    with pytest.raises(FlowError, match="belong to different flows"):
        read(Flow("one")).union(read(Flow("other")))


def test_more_source_partitions_than_can_be_numbered_are_refused() -> None:
    for count in (1_000, 1_001):
        flow = Flow("refused")
        delays(read(flow, partitions=count)).collect("out")
        if count == 1_000:
            assert len(plan(flow).partitions) == count
        else:
            with pytest.raises(FlowError, match="1001 source partitions, at most 1000"):
                plan(flow)


def test_errors_point_to_the_users_line() -> None:
    flow = Flow("f")
    read(flow).drop("zzz").collect("out")
    with pytest.raises(SchemaError, match=r"drop \(test_planner\.py:\d+\)"):
        plan(flow)


# --- stages ---


def stages(made: PhysicalPlan) -> list[tuple[StageKind, Place, list[str]]]:
    return [(s.kind, s.place, [made.nodes[n].name for n in s.nodes]) for s in made.stages]


def test_what_works_on_columns_is_fused_in_front_of_the_exchange() -> None:
    flow = Flow("f")
    delays(read(flow).filter(col("delay") > 0)).collect("out")
    assert stages(plan(flow, ingest="coordinator")) == [
        (StageKind.BLOCKS, Place.COORDINATOR, ["read", "filter", "event_time"]),
        (StageKind.KEYED, Place.WORKERS, ["agg"]),
        (StageKind.KEYED, Place.CALLER, ["collect"]),
    ]


def test_a_users_function_never_runs_in_the_coordinator() -> None:
    flow = Flow("f")
    delays(read(flow).map(lambda e: e).filter(col("delay") > 0)).collect("out")
    made = plan(flow, ingest="coordinator")
    kinds = {(k, p): names for k, p, names in stages(made)}
    assert kinds[StageKind.BLOCKS, Place.COORDINATOR] == ["read"]
    assert kinds[StageKind.BLOCKS, Place.WORKERS] == ["map", "filter", "event_time"]
    user = [n.id for n in made.nodes.values() if not n.spec.columnar]
    assert not any(s.place is Place.COORDINATOR and set(s.nodes) & set(user) for s in made.stages)


def test_text_is_decoded_by_several_workers_and_columns_are_read_by_the_coordinator() -> None:
    for text, workers, where in [(True, 2, "workers"), (True, 1, "coordinator"), (False, 2, "coordinator")]:
        flow = Flow("f")
        delays(read(flow, text=text)).collect("out")
        assert plan(flow, workers).ingest == where


def test_position_is_carried_only_where_order_matters() -> None:
    for aggregate, needed in [
        (ms.count(), False),
        (ms.max("delay"), False),
        (ms.last("delay"), True),
        (ms.collect("delay"), True),
    ]:
        flow = Flow("f")
        read(flow).key_by("carrier").agg(x=aggregate).collect("out")
        assert plan(flow).needs_position == needed


# --- state without a bound ---


class LiveSource(ColumnSource):
    live = True

    def with_fields(self, fields: Sequence[str]) -> Source:
        return self


UNBOUNDED: dict[str, Any] = {
    "agg": lambda keyed: keyed.agg(n=ms.count()),
    "top_n": lambda keyed: keyed.top_n(3, "delay"),
    "dedupe": lambda keyed: keyed.dedupe(),
    "first": lambda keyed: keyed.dedupe(emit="final"),
}
BOUNDED: dict[str, Any] = {
    "agg": lambda keyed: keyed.agg(n=ms.count(), ttl="1h"),
    "top_n": lambda keyed: keyed.window(tumbling("1h")).top_n(3, "delay"),
    "dedupe": lambda keyed: keyed.dedupe(within="1h"),
}


def keyed(source: ColumnSource) -> tuple[Flow, Any]:
    flow = Flow("f")
    return flow, flow.source(source).event_time("scheduled").key_by("carrier")


@pytest.mark.parametrize("name", UNBOUNDED)
def test_state_without_a_bound_is_warned_of_where_a_source_has_no_end(name: str) -> None:
    flow, stream = keyed(LiveSource([[]], SCHEMA))
    UNBOUNDED[name](stream).collect("out")
    with pytest.warns(UnboundedStateWarning, match="kept for ever; use") as warned:
        plan(flow)
    assert [Path(w.filename).name for w in warned] == ["test_planner.py"]


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_flow_that_ends_is_not_warned_of(name: str, recwarn: pytest.WarningsRecorder) -> None:
    flow, stream = keyed(ColumnSource([[]], SCHEMA))
    UNBOUNDED[name](stream).collect("out")
    plan(flow)
    assert not recwarn.list


@pytest.mark.parametrize("name", BOUNDED)
def test_state_with_a_bound_is_not_warned_of(name: str, recwarn: pytest.WarningsRecorder) -> None:
    flow, stream = keyed(LiveSource([[]], SCHEMA))
    BOUNDED[name](stream).collect("out")
    plan(flow)
    assert not recwarn.list


# --- changelogs ---


def changelogs(build: Any) -> dict[str, bool | None]:
    """What each stateful operator is told to make."""
    flow = Flow("f")
    build(read(flow).event_time("scheduled")).collect("out")
    made = plan(flow)
    return {n.name: getattr(n.spec, "retracts", None) for n in made.nodes.values() if n.spec.keyed}


def test_an_aggregate_is_upserts_unless_somebody_behind_it_must_take_back() -> None:
    def counts(stream: Stream) -> Stream:
        return stream.key_by("carrier").agg(n=ms.count(), name="counts")

    assert changelogs(counts) == {"counts": False}
    assert changelogs(lambda s: counts(s).filter(col("carrier") == "UA")) == {"counts": False}
    assert changelogs(lambda s: counts(s).select("n")) == {"counts": False}
    assert changelogs(lambda s: counts(s).filter(col("n") > 1)) == {"counts": True}
    assert changelogs(lambda s: counts(s).map(lambda r: r)) == {"counts": True}
    assert changelogs(lambda s: counts(s).key_by("n").agg(m=ms.count(), name="of")) == {"counts": True, "of": True}
    assert changelogs(lambda s: counts(s).key_by("n").agg(m=ms.count(), emit="final", name="of"))["counts"] is True
    assert changelogs(lambda s: counts(s).key_by("n").top_n(3, "n", name="top")) == {"counts": True, "top": None}


def test_a_field_named_change_is_refused_where_rows_are_taken_back() -> None:
    def build(flow: Flow) -> None:
        read(flow).rename({"unread": "change"}).key_by("carrier").top_n(1, "delay").collect("out")

    refused(build, FlowError, r"a field 'change', and there is one of that name; rename\(\) it")


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda s: s.key_by("carrier").top_n(0, "delay"), "n=0: say how many rows"),
        (lambda s: s.key_by("carrier").top_n(1, []), "by= names at least one field"),
        (lambda s: s.key_by("carrier").top_n(1, 3), "not iterable|found 3"),
        (lambda s: s.key_by("carrier").top_n(1, "legs"), "which has no order"),
        (lambda s: s.key_by("carrier").top_n(1, "dely"), "did you mean 'delay'"),
        (lambda s: s.key_by("carrier").top_n(1, "delay", rank="unread"), "there is a field of that name already"),
        (lambda s: s.key_by("carrier").top_n(1, "delay", ties="some"), "neither 'first' nor 'all'"),
        (lambda s: s.key_by("carrier").top_n(1, "delay", emit="never"), "neither 'updates' nor 'final'"),
        (lambda s: s.key_by("carrier").agg(n=ms.count(), ttl="0s"), "use a duration above zero"),
        (lambda s: s.key_by("carrier").agg(n=ms.count(), ttl="1s"), "ttl= goes by event time, and there is none"),
        (lambda s: s.key_by("carrier").dedupe(within="1s"), "within= goes by event time, and there is none"),
        (lambda s: s.key_by("carrier").dedupe("last", within="1s"), "within= goes with keep='first'"),
        (lambda s: s.key_by("carrier").dedupe().late, "none is late"),
        (lambda s: s.key_by("carrier").agg(n=ms.count()).key_by("n").dedupe(), r"use top_n\(1, by=...\)"),
        (lambda s: s.rename({"unread": "pane"}).key_by("carrier").window(tumbling("1h")).top_n(1, "delay"), "one of the window's"),
    ],
)  # fmt: skip
def test_a_mistake_with_what_is_revised_says_what_to_do(build: Any, match: str) -> None:
    refused(lambda flow: build(read(flow)).collect("out"), FlowError, match)


def test_an_operator_that_waits_for_the_end_holds_nobody_else_back() -> None:
    flow = Flow("f")
    stream = read(flow).event_time("scheduled").key_by("carrier")
    panes = stream.window(tumbling("1h")).agg(worst=ms.max("delay"))
    for emit in ("updates", "final"):
        stream.agg(n=ms.count(), emit=emit, name=emit).collect(emit)
    panes.collect("panes")
    made = plan(flow)
    stages = {made.nodes[n].name: s.id for s in made.stages for n in s.nodes if made.nodes[n].spec.keyed}
    assert stages["agg"] == stages["updates"] != stages["final"]
