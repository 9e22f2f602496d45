"""What a run promises, and which part of the flow it is limited by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.coordinator.beginning import DEFAULT_INTERVAL_US, interval_us
from millstream.coordinator.guarantee import end_to_end
from millstream.planner import make_plan

TABLE = pa.table({"k": [1], "n": [1]})
SCHEMA = {"k": int, "n": int}


def promise(build: Callable[[ms.Flow], Any], *, checkpoints: bool = True) -> str:
    flow = ms.Flow("promise")
    build(flow)
    return end_to_end(make_plan(flow, workers=2), checkpoints=checkpoints)


SINKS: dict[str, tuple[Callable[[ms.Stream, str], None], str]] = {
    "parts": (lambda s, p: s.write_jsonl(f"{p}/out/"), "exactly once"),
    "parts of parquet": (lambda s, p: s.write_parquet(f"{p}/out/"), "exactly once"),
    "sqlite": (lambda s, p: s.write_sqlite(f"{p}/x.db", "t"), "exactly once"),
    "duckdb": (lambda s, p: s.write_duckdb(f"{p}/x.duckdb", "t"), "exactly once"),
    "text": (
        lambda s, p: s.write_csv(f"{p}/x.csv"),
        "exactly once after a recovery: limited by write_csv('{p}/x.csv')",
    ),
    "parquet": (
        lambda s, p: s.write_parquet(f"{p}/x.parquet"),
        "exactly once after a recovery: limited by write_parquet('{p}/x.parquet')",
    ),
    "zeromq": (lambda s, p: s.write_zeromq("ipc://x"), "at least once: limited by write_zeromq('ipc://x')"),
    "print": (lambda s, p: s.print(), "at least once: limited by print()"),
    "for_each": (lambda s, p: s.for_each(print), "at least once: limited by for_each(print)"),
}


@pytest.mark.parametrize("kind", SINKS)
def test_each_sink_has_its_own(tmp_path: Path, kind: str) -> None:
    write, said = SINKS[kind]
    assert promise(lambda flow: write(flow.read_arrow(TABLE), str(tmp_path))) == said.replace("{p}", str(tmp_path))


def test_the_weakest_sink_limits_it_and_the_others_are_counted(tmp_path: Path) -> None:
    def build(flow: ms.Flow) -> None:
        rows = flow.read_arrow(TABLE)
        rows.write_jsonl(tmp_path / "x.jsonl")
        rows.print()
        rows.for_each(print)

    assert promise(build) == "at least once: limited by print() and 1 more"


def test_sources_that_give_everything_once_are_kept_in_a_journal_or_named(tmp_path: Path) -> None:
    def stdin(flow: ms.Flow) -> None:
        flow.read_stdin(schema=SCHEMA).write_sqlite(tmp_path / "x.db", "t")

    def zeromq(flow: ms.Flow) -> None:
        flow.read_zeromq("ipc://x", schema=SCHEMA).write_csv(tmp_path / "x.csv")

    def iterable(flow: ms.Flow) -> None:
        flow.read_iterable(iter([{"k": 1}])).write_jsonl(f"{tmp_path}/out/")

    def again(flow: ms.Flow) -> None:
        flow.read_iterable([{"k": 1}]).write_jsonl(f"{tmp_path}/out/")

    hands = "a coordinator that dies loses what lay in its hands"
    assert promise(stdin) == f"exactly once; of read_stdin(format='jsonl') {hands}"
    assert promise(zeromq) == (
        f"exactly once after a recovery: limited by write_csv('{tmp_path}/x.csv'); of read_zeromq('ipc://x') {hands}"
    )
    lost = "not kept through failures: what read_iterable() has read cannot be read again"
    assert promise(iterable) == f"{lost}, so events since the last checkpoint are lost with a process"
    assert promise(again) == "exactly once"
    for build in (stdin, zeromq):
        assert promise(build, checkpoints=False).startswith("not kept through failures: what read_")


def test_checkpoints_are_made_unasked_where_another_run_can_go_on() -> None:
    def interval(read: Callable[[ms.Flow], ms.Stream], wanted: Any = "auto") -> int | None:
        flow = ms.Flow("unasked")
        read(flow).print()
        return interval_us(make_plan(flow, workers=1), wanted)

    assert interval(lambda flow: flow.read_arrow(TABLE)) == DEFAULT_INTERVAL_US
    assert interval(lambda flow: flow.read_zeromq("ipc://x", schema=SCHEMA)) == DEFAULT_INTERVAL_US
    assert interval(lambda flow: flow.read_stdin(schema=SCHEMA)) is None
    assert interval(lambda flow: flow.read_stdin(schema=SCHEMA), 5) == 5
