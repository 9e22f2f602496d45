"""What is wrong with a call on a stream is said by that call, with its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream import col
from millstream.errors import FlowError, SchemaError
from millstream.keyed import KeyedStream
from millstream.streams import BY_KEY, Stream

ROWS = [{"at": f"2024-05-01T10:0{n}:00Z", "user": "ab"[n % 2], "n": n} for n in range(6)]


def events() -> Stream:
    return ms.Flow("misuse").read_iterable(ROWS).event_time("at")


def keyed() -> KeyedStream:
    return events().key_by("user")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keyed().window("1m"), "expected windows such as ms.tumbling('1m'), found '1m'"),
        (lambda: keyed().window(ms.tumbling("1m"), early="10s"), "early= takes a trigger such as ms.every('10s')"),
        (lambda: keyed().window(ms.tumbling("1m"), panes="all"), "panes='all'; there are 'accumulating', 'discard"),
        (lambda: keyed().window(ms.tumbling("1m"), emit="finaly"), "emit='finaly' is neither 'updates' nor 'final'"),
        (lambda: keyed().match("a"), "expected a pattern made by ms.pattern"),
        (lambda: events().split(lambda e: True), "split: expected an expression"),
        (lambda: events().map(lambda e: e, on_error="ignore"), "on_error='ignore' is none of 'fail',"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_where_it_is_given(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(FlowError, match=r"^test_keyed\.py:\d+ ") as error:
        call()
    assert message in str(error.value)


def test_an_operator_by_key_on_a_stream_without_key_asks_for_one() -> None:
    with pytest.raises(FlowError, match=r"test_keyed\.py:\d+ agg: works by key; say which with \.key_by"):
        events().agg(n=ms.count())  # type: ignore[attr-defined]


def test_what_a_keyed_stream_cannot_do_is_said_with_the_way_out() -> None:
    with pytest.raises(FlowError, match=r"test_keyed\.py:\d+ filter: not on a keyed stream"):
        keyed().filter(col("n") > 1)  # type: ignore[attr-defined]


def test_every_operator_by_key_is_known_to_streams_without_key() -> None:
    methods = {name for name, value in vars(KeyedStream).items() if callable(value) and not name.startswith("_")}
    assert methods == BY_KEY


def test_other_attributes_are_missing_as_in_any_object() -> None:
    assert not hasattr(events(), "nothing")
    assert not hasattr(keyed(), "nothing")


def test_a_gap_that_turns_out_to_be_text_is_refused_by_its_type(tmp_path: Any) -> None:
    flow = ms.Flow("gaps")
    stream = flow.read_iterable(ROWS).event_time("at").key_by("user")
    stream.window(ms.session(col("user"))).agg(n=ms.count()).collect("out")
    with pytest.raises(SchemaError, match=r'agg \(test_keyed\.py:\d+\): the gap col\("user"\) is string'):
        flow.run_here(state=tmp_path)


def test_a_broadcast_join_on_a_field_that_turns_out_to_be_missing_names_those_that_are_there(tmp_path: Any) -> None:
    flow = ms.Flow("broadcast")
    small = flow.read_arrow(pa.table({"k": [1]}))
    flow.read_iterable(ROWS).key_by("user").join_broadcast(small, on={"number": "k"}).collect("out")
    said = r"join_broadcast \(test_keyed\.py:\d+\): the left side: no field 'number'; did you mean"
    with pytest.raises(SchemaError, match=said):
        flow.run_here(state=tmp_path)


def test_a_timer_without_on_timer_says_which_method_is_missing(tmp_path: Any) -> None:
    class Silent(ms.Process):
        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            ctx.set_timer(ctx.time)

    flow = ms.Flow("silent")
    flow.read_iterable(ROWS).event_time("at").key_by("user").process(Silent).collect("out")
    with pytest.raises(FlowError, match=r"Silent sets timers and has no on_timer"):
        flow.run_here(state=tmp_path)
