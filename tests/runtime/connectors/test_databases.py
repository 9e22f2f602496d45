"""Tables of databases as sinks: whatever fails where, a reader sees each row once, and of each key the last."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import millstream as ms
from millstream.connectors import DuckDbSink, SqliteSink
from millstream.connectors.base import Guarantee, Prepared, Writer
from millstream.connectors.databases import DatabaseSink
from millstream.errors import FlowError, MillstreamError, SchemaError, SinkError

Ask = Callable[..., list[tuple[Any, ...]]]

KINDS = [SqliteSink, DuckDbSink]


@pytest.fixture(params=KINDS, ids=["sqlite", "duckdb"])
def kind(request: pytest.FixtureRequest) -> type[DatabaseSink]:
    return request.param


def ask(path: Path, query: str = "SELECT * FROM t ORDER BY ALL") -> list[tuple[Any, ...]]:
    if path.suffix == ".sqlite":
        connection: Any = sqlite3.connect(path)
        query = query.replace("ORDER BY ALL", "ORDER BY 1")
    else:
        connection = duckdb.connect(str(path))
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def there(kind: type[DatabaseSink], folder: Path) -> Path:
    return folder / f"results.{'sqlite' if kind is SqliteSink else 'duckdb'}"


def sink_for(kind: type[DatabaseSink], folder: Path, schema: pa.Schema, *, signed: bool = False, **options: Any) -> Any:
    made = kind(there(kind, folder), "t", **{"key": None, "mode": None, **options})
    return made.told("write", schema, None, signed=signed)


def rows(*values: Any, name: str = "n") -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values, pa.int64())})


def pairs(*values: tuple[Any, Any]) -> pa.RecordBatch:
    return pa.record_batch({"k": pa.array([k for k, _ in values], pa.int64()), "v": [v for _, v in values]})


def changes(*values: tuple[str, Any, Any]) -> pa.RecordBatch:
    plain = pairs(*((k, v) for _, k, v in values))
    return pa.record_batch({"change": [c for c, _, _ in values], "k": plain["k"], "v": plain["v"]})


def checkpoint(writer: Writer, *, last: bool = False) -> Prepared:
    """What comes back from the manifest."""
    return Prepared(*json.loads(json.dumps(writer.prepare(last=last))))


def commit(sink: DatabaseSink, prepared: Prepared) -> None:
    for _ in range(2):  # a restart repeats all of them
        for action in prepared.commits:
            sink.commit(action)


def test_a_run_that_fails_and_goes_on_leaves_each_row_once(kind: type[DatabaseSink], tmp_path: Path) -> None:
    sink = sink_for(kind, tmp_path, rows().schema)
    assert sink.guarantee is Guarantee.EXACTLY_ONCE
    writer = sink.open_staged(0, 1, None)
    writer.write(rows(1, 2))
    first = checkpoint(writer)
    commit(sink, first)
    writer.write(rows(3))  # lost with the process
    del writer

    writer = sink.open_staged(0, 1, [first.state])
    writer.write(rows(3, 4))
    second = checkpoint(writer)  # its manifest is written, its commits are not done
    del writer

    commit(sink, second)
    writer = sink.open_staged(0, 1, [second.state])
    writer.write(rows(5))
    third = checkpoint(writer)
    commit(sink, third)
    commit(sink, second)  # an old one changes nothing
    commit(sink, checkpoint(writer, last=True))
    assert ask(there(kind, tmp_path)) == [(1,), (2,), (3,), (4,), (5,)]
    assert [p.name for p in tmp_path.iterdir() if "piece" in p.name] == []


def test_rows_appear_with_the_checkpoint_that_counts_them_and_not_before(
    kind: type[DatabaseSink], tmp_path: Path
) -> None:
    sink = sink_for(kind, tmp_path, rows().schema)
    writer = sink.open_staged(0, 1, None)
    writer.write(rows(1))
    prepared = checkpoint(writer)
    assert not there(kind, tmp_path).exists()
    commit(sink, prepared)
    assert ask(there(kind, tmp_path)) == [(1,)]


def test_a_commit_that_dies_half_way_has_not_been(
    kind: type[DatabaseSink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_for(kind, tmp_path, rows().schema)
    writer = sink.open_staged(0, 1, None)
    commit(sink, checkpoint(writer))
    writer.write(rows(1, 2))
    prepared = checkpoint(writer)
    with monkeypatch.context() as patched:
        with sink.transaction() as database:
            connection = type(database)

        def dies(self: Any, table: str, last: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(connection, "record", dies)
        with pytest.raises(KeyboardInterrupt):
            sink.commit(prepared.commits[0])
    commit(sink, prepared)
    assert ask(there(kind, tmp_path)) == [(1,), (2,)]


def test_of_each_key_the_last_row_stands_and_null_is_a_key(kind: type[DatabaseSink], tmp_path: Path) -> None:
    sink = sink_for(kind, tmp_path, pairs().schema, key="k")
    writer = sink.open_staged(0, 1, None)
    writer.write(pairs((1, "a"), (2, "b"), (None, "c")))
    writer.write(pairs((1, "d"), (None, "e"), (1, "f")))
    commit(sink, checkpoint(writer))
    writer.write(pairs((2, None), (None, "g"), (3, "h")))
    commit(sink, checkpoint(writer))
    found = ask(there(kind, tmp_path))
    assert sorted(found, key=repr) == [(1, "f"), (2, None), (3, "h"), (None, "g")]


def test_rows_that_are_taken_back_are_deleted_in_whatever_order_workers_send_them(
    kind: type[DatabaseSink], tmp_path: Path
) -> None:
    sink = sink_for(kind, tmp_path, changes().schema, key="k", signed=True)
    writer = sink.open_staged(0, 1, None)
    writer.write(changes(("+", 1, "a"), ("+", 2, "b"), ("+", 3, None)))
    commit(sink, checkpoint(writer))
    writer.write(changes(("+", 1, "c"), ("-", 3, None)))
    writer.write(changes(("-", 1, "c"), ("-", 1, "a"), ("+", 1, "a"), ("-", 2, "b"), ("+", 2, "d")))
    commit(sink, checkpoint(writer))
    writer.write(changes(("+", 4, "x"), ("-", 4, "x")))
    commit(sink, checkpoint(writer))
    assert ask(there(kind, tmp_path)) == [(1, "a"), (2, "d")]


def test_every_type_finds_its_place(kind: type[DatabaseSink], tmp_path: Path) -> None:
    at = datetime(2024, 5, 14, 18, 58, 20, tzinfo=UTC)
    batch = pa.record_batch(
        {
            "i": pa.array([1, None], pa.uint8()),
            "f": [1.5, None],
            "b": [True, None],
            "s": ["x'\"", None],
            "y": [b"\0z", None],
            "at": pa.array([at, None], pa.timestamp("us", "UTC")),
            "day": [date(2024, 5, 14), None],
            "m": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
            "d": pa.array([timedelta(seconds=1), None], pa.duration("us")),
            "l": pa.array([[{"p": 1}], None]),
            "w": pa.array(["a", None]).dictionary_encode(),
        }
    )
    sink = sink_for(kind, tmp_path, batch.schema, key="i")
    writer = sink.open_staged(0, 1, None)
    writer.write(batch)
    commit(sink, checkpoint(writer))
    names = ", ".join(n for n in batch.schema.names if n != "at" or kind is SqliteSink)
    found = ask(there(kind, tmp_path), f"SELECT {names} FROM t WHERE i = 1")[0]
    if kind is SqliteSink:
        assert found == (
            1, 1.5, 1, "x'\"", b"\0z", "2024-05-14T18:58:20Z", "2024-05-14", "1.50", 1_000_000, '[{"p":1}]', "a",
        )  # fmt: skip
    else:
        expected = (1, 1.5, True, "x'\"", b"\0z", date(2024, 5, 14), Decimal("1.50"), timedelta(seconds=1))
        assert found == (*expected, [{"p": 1}], "a")
    nulls = ask(there(kind, tmp_path), f"SELECT {names} FROM t WHERE i IS NULL")[0]
    assert set(nulls) == {None}


def test_a_table_that_a_run_has_made_is_emptied_when_the_flow_starts_anew(
    kind: type[DatabaseSink], tmp_path: Path
) -> None:
    sink = sink_for(kind, tmp_path, rows().schema)
    for numbers in ((1, 2), (3,), ()):
        writer = sink.open_staged(0, 1, None)
        if numbers:
            writer.write(rows(*numbers))
        commit(sink, checkpoint(writer, last=True))
        assert ask(there(kind, tmp_path)) == [(n,) for n in numbers]


def test_rows_of_a_table_that_was_there_before_stay(kind: type[DatabaseSink], tmp_path: Path) -> None:
    ask(there(kind, tmp_path), "CREATE TABLE t (n BIGINT)")
    connection: Any = (sqlite3 if kind is SqliteSink else duckdb).connect(str(there(kind, tmp_path)))
    connection.execute("INSERT INTO t VALUES (7)")
    connection.commit()
    connection.close()
    sink = sink_for(kind, tmp_path, rows().schema)
    for number in (1, 2):
        writer = sink.open_staged(0, 1, None)
        writer.write(rows(number))
        commit(sink, checkpoint(writer))
    assert ask(there(kind, tmp_path)) == [(1,), (2,), (7,)]


def test_a_table_of_other_columns_is_refused_with_the_first_rows(kind: type[DatabaseSink], tmp_path: Path) -> None:
    ask(there(kind, tmp_path), "CREATE TABLE t (k BIGINT, w BIGINT)")
    sink = sink_for(kind, tmp_path, pairs().schema)
    with pytest.raises(SinkError, match=r"the table has no column 'v', it has k, w; add it, drop the table"):
        sink.open_staged(0, 1, None).write(pairs((1, "a")))


def test_a_database_that_was_replaced_meanwhile_is_refused(kind: type[DatabaseSink], tmp_path: Path) -> None:
    sink = sink_for(kind, tmp_path, rows().schema)
    writer = sink.open_staged(0, 1, None)
    writer.write(rows(1))
    prepared = checkpoint(writer)
    commit(sink, prepared)
    there(kind, tmp_path).unlink()
    with pytest.raises(SinkError, match=r"the table is not the one that the checkpoint goes on from"):
        sink.open_staged(0, 1, [prepared.state])


def test_two_runs_do_not_write_one_table(kind: type[DatabaseSink], tmp_path: Path) -> None:
    sink = sink_for(kind, tmp_path, rows().schema)
    one = sink.open_staged(0, 1, None)
    commit(sink, checkpoint(one))
    two = sink.open_staged(0, 1, None)
    commit(sink, checkpoint(two))
    one.write(rows(1))
    with pytest.raises(SinkError, match=r"was taken over by another run since"):
        sink.commit(checkpoint(one).commits[0])


def test_after_going_back_to_an_older_checkpoint_keys_come_to_the_same_and_added_rows_are_refused(
    kind: type[DatabaseSink], tmp_path: Path
) -> None:
    sink = sink_for(kind, tmp_path, pairs().schema, key="k")
    writer = sink.open_staged(0, 1, None)
    writer.write(pairs((1, "a")))
    old = checkpoint(writer)
    commit(sink, old)
    writer.write(pairs((1, "b"), (2, "b")))
    commit(sink, checkpoint(writer))  # its manifest is damaged later
    for _ in range(2):
        writer = sink.open_staged(0, 1, [old.state])
        writer.write(pairs((1, "b"), (2, "b"), (2, "c")))
        commit(sink, checkpoint(writer))
        assert ask(there(kind, tmp_path)) == [(1, "b"), (2, "c")]

    added = sink_for(kind, tmp_path, pairs().schema, mode="append")
    with pytest.raises(SinkError, match=r"rows of a newer checkpoint, which is damaged; they would be added again"):
        added.open_staged(0, 1, [old.state])


def test_a_value_that_the_table_does_not_take_is_the_sinks_error(tmp_path: Path) -> None:
    sink = sink_for(SqliteSink, tmp_path, rows().schema)
    writer = sink.open_staged(0, 1, None)
    writer.write(pa.record_batch({"n": pa.array([2**63], pa.uint64())}))
    with pytest.raises(SinkError, match=r"write_sqlite\(.*the database refuses: .*int too large"):
        commit(sink, checkpoint(writer))


def test_without_checkpoints_rows_appear_when_they_are_flushed(kind: type[DatabaseSink], tmp_path: Path) -> None:
    sink = sink_for(kind, tmp_path, rows().schema)
    for _ in range(2):
        writer = sink.open(0, 1)
        writer.write(rows(1))
        writer.flush()
        assert ask(there(kind, tmp_path)) == [(1,)]
        writer.write(rows(2))
        writer.close()
        assert ask(there(kind, tmp_path)) == [(1,), (2,)]


def test_a_database_that_another_program_holds_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.connectors.sqlite.LOCKED_S", 0.05)
    sink = sink_for(SqliteSink, tmp_path, rows().schema)
    other = sqlite3.connect(there(SqliteSink, tmp_path), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    writer = sink.open_staged(0, 1, None)
    with pytest.raises(SinkError, match="the database refuses: database is locked"):
        commit(sink, checkpoint(writer))
    other.close()


# ---------------------------------------------------------------- in flows


def purchases(flow: ms.Flow) -> ms.Stream:
    table = pa.table(
        {"at": list(range(60)), "who": [f"u{i % 6}" for i in range(60)], "paid": [i % 9 for i in range(60)]}
    )
    return flow.read_arrow(table).event_time("at", unit="s")


def test_the_key_is_that_by_which_the_stream_revises_its_rows(kind: type[DatabaseSink], tmp_path: Path) -> None:
    flow = ms.Flow("totals")
    totals = purchases(flow).key_by("who").agg(paid=ms.sum("paid"))
    totals.sink(kind(there(kind, tmp_path), "t", key=None, mode=None))
    flow.run_here(batch_size=7)
    expected = [(f"u{u}", sum(i % 9 for i in range(60) if i % 6 == u)) for u in range(6)]
    assert ask(there(kind, tmp_path)) == expected


def test_by_another_key_the_stream_says_which_rows_are_no_more(kind: type[DatabaseSink], tmp_path: Path) -> None:
    flow = ms.Flow("by-sum")
    totals = purchases(flow).key_by("who").agg(paid=ms.sum("paid"))
    totals.sink(kind(there(kind, tmp_path), "t", key="paid", mode=None))
    flow.run_here(batch_size=7)
    sums = {sum(i % 9 for i in range(60) if i % 6 == u) for u in range(6)}
    assert {paid for _, paid in ask(there(kind, tmp_path))} == sums


def test_appended_changes_say_what_they_are(kind: type[DatabaseSink], tmp_path: Path) -> None:
    flow = ms.Flow("ranks")
    best = purchases(flow).key_by("who").top_n(1, by=ms.desc("paid"))
    best.select("paid").sink(kind(there(kind, tmp_path), "t", key=None, mode="append"))
    flow.run_here(batch_size=7)
    found = ask(there(kind, tmp_path))
    assert {change for change, _ in found} == {"+", "-"}


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"key": "whom"}, SchemaError, r"no field 'whom'; did you mean 'who'\?"),
        ({"mode": "upsert"}, FlowError, r"mode='upsert' needs key=, the fields that say which row a row replaces"),
        ({"mode": "append", "key": "who"}, FlowError, r"mode='append' adds every row, so key= means nothing"),
        ({"mode": "replace"}, FlowError, r"mode='replace': there are 'upsert' and 'append'"),
    ],
)
def test_what_cannot_be_is_said_when_the_flow_is_planned(
    tmp_path: Path, options: dict[str, Any], error: type[MillstreamError], sentence: str
) -> None:
    flow = ms.Flow("wrong")
    with pytest.raises(error, match=sentence):
        purchases(flow).write_sqlite(tmp_path / "x.db", "t", **options)
        flow.run_here()


def test_names_that_differ_in_capital_letters_alone_are_refused(tmp_path: Path) -> None:
    flow = ms.Flow("wrong")
    purchases(flow).with_columns(AT=ms.col("at")).write_duckdb(tmp_path / "x.db", "t")
    with pytest.raises(SinkError, match=r"'at' and 'AT' are one name in a database; rename\(\) one of them"):
        flow.run_here()


def test_workers_that_come_to_a_new_database_at_once_wait_for_one_another(tmp_path: Path) -> None:
    # To turn write-ahead logging on takes a lock for which SQLite does not wait.
    path = tmp_path / "new.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE others (a)")
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            opened = pool.submit(lambda: list(entered(SqliteSink(path, "t", key=None, mode=None))))
            with pytest.raises(TimeoutError):
                opened.result(timeout=0.2)
            other.execute("COMMIT")
            assert len(opened.result(timeout=20)) == 1


def entered(sink: DatabaseSink) -> Iterator[Any]:
    with sink.transaction() as database:
        yield database
