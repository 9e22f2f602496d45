"""What is said when a join or a lookup cannot be, and where."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from harness.running import run
from harness.sources import ColumnSource, fields

from millstream import aggregates as ms
from millstream.errors import FlowError, SchemaError, SourceError, UnboundedStateWarning
from millstream.flow import Flow
from millstream.keyed import KeyedStream
from millstream.planner import make_plan
from millstream.streams import Stream
from millstream.windows import global_window


def stream(flow: Flow, timed: bool = True, **kinds: pa.DataType) -> Stream:
    source = flow.source(ColumnSource([[]], fields(t=pa.int64(), k=pa.string(), **kinds)))
    return source.event_time("t", unit="s") if timed else source


def keyed(flow: Flow, **kinds: pa.DataType) -> KeyedStream:
    return stream(flow, **kinds).key_by("k")


def plan(result: Stream) -> Any:
    result.collect("out")
    return make_plan(result.flow, workers=1)


def test_both_sides_must_be_keyed_and_of_one_flow() -> None:
    flow = Flow("one")
    with pytest.raises(FlowError, match=r"test_joins.py:\d+ join: the right side must be keyed, too: other.key_by"):
        keyed(flow).join(stream(flow))  # type: ignore[arg-type]
    with pytest.raises(FlowError, match=r"different flows \(one, two\)"):
        keyed(flow).join(keyed(Flow("two")))
    with pytest.raises(FlowError, match="give the stream without key_by"):
        keyed(flow).join_broadcast(keyed(flow), "k")  # type: ignore[arg-type]


def test_what_is_misspelled_is_listed() -> None:
    flow = Flow("words")
    with pytest.raises(FlowError, match="how='outer'; there are 'inner', 'left', 'right', 'full', 'semi', 'anti'"):
        keyed(flow).join(keyed(flow), "outer")  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="closed='open'; use 'both', 'left', 'right' or 'none'"):
        keyed(flow).join(keyed(flow), within=("0s", "1s"), closed="open")  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="'5 parsecs' is not a duration"):
        keyed(flow).join(keyed(flow), within=("-1s", "5 parsecs"))
    with pytest.raises(FlowError, match="within= takes the earliest and the latest"):
        keyed(flow).join(keyed(flow), within="5m")  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="nothing is at or after the first"):
        keyed(flow).join(keyed(flow), within=("5m", "-5m"))
    with pytest.raises(FlowError, match="leave ttl= out"):
        keyed(flow).join(keyed(flow), within=("0s", "1s"), ttl="1h")
    with pytest.raises(FlowError, match="use 'inner' or 'left'"):
        keyed(flow).join_as_of(keyed(flow), "full")  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="each worker, which has them all"):
        keyed(flow).join_broadcast(stream(flow), "k", "full")  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="windows of this kind cannot be joined"):
        keyed(flow).window(global_window()).join(keyed(flow))


def test_keys_that_could_never_be_equal_are_refused() -> None:
    flow = Flow("types")
    numbers = stream(flow, n=pa.int64()).key_by("n")
    with pytest.raises(SchemaError, match="the key 'k' of the left side is string and 'n' of the right side is int64"):
        plan(keyed(flow).join(numbers, ttl="1h"))
    flow = Flow("counts")
    with pytest.raises(FlowError, match="keyed by k and the right by k, n; both need as many key fields"):
        plan(keyed(flow).join(stream(flow, n=pa.int64()).key_by("k", "n"), ttl="1h"))
    flow = Flow("names")
    with pytest.raises(SchemaError, match="the right side: no field 'l'; did you mean 'k'|there are"):
        plan(keyed(flow).join_broadcast(stream(flow), {"k": "l"}, ttl="1h"))


def test_two_fields_of_one_name_are_refused() -> None:
    flow = Flow("suffix")
    left = keyed(flow, x_right=pa.int64(), x=pa.int64())
    with pytest.raises(FlowError, match="two fields would be named 'x_right'; use another suffix="):
        plan(left.join(keyed(flow, x=pa.int64()), ttl="1h"))


def test_joins_by_time_need_times_on_both_sides() -> None:
    flow = Flow("times")
    with pytest.raises(FlowError, match=r"the right side has no event time; call event_time\(\) before key_by"):
        plan(keyed(flow).join(stream(flow, timed=False).key_by("k"), within=("0s", "1s")))


def test_a_side_that_revises_what_it_said_is_refused_where_it_cannot_be_understood() -> None:
    flow = Flow("revised")
    totals = keyed(flow).agg(n=ms.count()).key_by("k")
    with pytest.raises(FlowError, match="revises what it has put out"):
        plan(totals.join(keyed(flow), within=("0s", "1s")))


def test_fields_to_be_filled_up_must_be_known() -> None:
    flow = Flow("unknown")
    right = stream(flow).map(lambda e: e).key_by("k")
    with pytest.raises(FlowError, match="fills up the fields of the right side with nulls.*say schema="):
        plan(keyed(flow).join(right, "left", ttl="1h"))


def test_a_join_that_never_forgets_is_warned_of_where_the_flow_never_ends() -> None:
    flow = Flow("live")
    source = flow.read_zeromq("ipc:///tmp/nobody-binds-this", schema=fields(t=pa.int64(), k=pa.string()))
    live = source.event_time("t", unit="s").key_by("k")
    live.join(keyed(flow)).collect("out")
    with pytest.warns(UnboundedStateWarning, match="join: it keeps every row of both sides for ever; say ttl="):
        make_plan(flow, workers=1)
    bounded = Flow("bounded")
    source = bounded.read_zeromq("ipc:///tmp/nobody-binds-this", schema=fields(t=pa.int64(), k=pa.string()))
    source.event_time("t", unit="s").key_by("k").join(keyed(bounded), ttl="1h").collect("out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_plan(bounded, workers=1)


# --- lookups ---


def test_a_table_must_have_the_fields_that_are_asked_for() -> None:
    flow = Flow("table")
    table = pa.table({"k": ["a"], "name": ["x"]})
    with pytest.raises(SchemaError, match="lookup: the table: no field 'nam'; did you mean 'name'"):
        stream(flow).lookup(table, "k", columns=["nam"])
    with pytest.raises(SchemaError, match="the key 't' of the left side is int64 and 'k' of the table is string"):
        plan(stream(Flow("types")).lookup(table, {"t": "k"}))
    with pytest.raises(FlowError, match="has a field named 't', too; rename it, or leave it out by columns="):
        plan(stream(Flow("names")).lookup(pa.table({"k": ["a"], "t": [1]}), "k"))
    with pytest.raises(FlowError, match="what is in it is told by its ending"):
        stream(flow).lookup("table.xls", "k")
    with pytest.raises(SourceError, match="no-such-table.csv"):
        stream(flow).lookup("no-such-table.csv", "k")


def test_a_key_that_is_in_the_table_twice_is_named() -> None:
    flow = Flow("twice")
    stream(flow).lookup(pa.table({"k": ["a", None, "b", "a", None], "x": range(5)}), "k").collect("out")
    with pytest.raises(SchemaError, match="the table has k=a twice, in rows 0 and 3"):
        run(flow)


def test_a_bad_record_in_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"k": "a", "x": 1}\n{"k": "b", "x": \n')
    flow = Flow("bad")
    stream(flow).lookup(path, "k").collect("out")
    with pytest.raises(SourceError, match=r"lookup \(test_joins.py:\d+\): .*table.jsonl, line 2"):
        run(flow)


def test_a_final_join_refuses_inputs_that_take_back() -> None:
    flow = Flow("final")
    first = keyed(flow).join(keyed(flow, w=pa.int64()), "left", ttl="1m").select("k", "w")
    with pytest.raises(FlowError, match=r"emit='final' takes nothing back, .*; use emit='final' there, too"):
        plan(first.key_by("k").join(keyed(flow), "left", ttl="1m", emit="final"))
    flow = Flow("word")
    with pytest.raises(FlowError, match=r"emit='last' is neither 'updates' nor 'final'"):
        keyed(flow).join(keyed(flow), emit="last")  # type: ignore[arg-type]
