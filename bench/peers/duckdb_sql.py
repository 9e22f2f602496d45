"""The limit: DuckDB's answer over the whole input at once, in memory. No stream, no lateness, nothing to recover.

W1, W1u and W4 read a table that is loaded before the clock starts; W2 and W3 read their files while it runs.
Results go where a stream's would: read and dropped a batch at a time, but written to a file in W2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from bench import checksum, data
from bench.checksum import Checksum
from bench.job import Job, Outcome, Stopwatch, serve

LONG_S = 10.0

PANES = """
    select ts // 10000 * 10000 as window_start, key, count(*)::bigint as count, sum(value) as total,
           avg(value) as mean, max(value) as top
    from {source} group by all
"""

WORDS = """
    select word, count(*)::bigint as count
    from (select unnest(split(line, ' ')) as word
          from read_csv('{path}', columns = {{'line': 'varchar'}}, header = false,
                        delim = '\t', quote = '', escape = ''))
    group by word
"""

# Values are exact in binary and so are their sums: mean and deviation equal those of any other exact way.
ALERTS = """
    select ts, key, net, mean, deviation from (
        select ts, key, net, avg(net) over earlier as mean, count(*) over earlier as n,
               sqrt(greatest(sum(net * net) over earlier / n - mean * mean, 0)) as deviation
        from (select *, value * 0.875 as net from events)
        window earlier as (partition by key order by position rows between unbounded preceding and 1 preceding))
    where n >= 2 and net > mean + 3 * deviation
"""

# A gap of exactly the length still joins.
SESSIONS = """
    select min(ts) as started, max(ts) + 5000 as ended, key, count(*)::bigint as count, sum(value) as total from (
        select key, ts, value, sum(apart) over (partition by key order by ts) as session from (
            select key, ts, value, coalesce(ts - lag(ts) over (partition by key order by ts) > 5000, true)::int as apart from events))
    group by key, session
"""

HOPS = """
    select ts // 10000 * 10000 - 10000 * back as window_start, key, count(*)::bigint as count
    from events, range(6) as hops (back) group by all
"""

PAIRS = """
    select l.key, l.ts, r.ts, l.value, r.value from "left" l join "right" r
    on l.key = r.key and r.ts between l.ts - 10000 and l.ts + 10000
"""


def connect(job: Job) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    connection.execute(f"set threads = {job.parallelism}")
    connection.execute("set preserve_insertion_order = false")
    return connection


def load(connection: duckdb.DuckDBPyConnection, stream: str, events: int, table: str = "events") -> None:
    """Make a table: the columns of the stream and, to order by, each event's place in it."""
    connection.execute(f'create table "{table}" (key varchar, ts bigint, value double, position bigint)')
    position = 0
    for path in data.arrow_files(stream, events):
        with pa.memory_map(str(path)) as file:
            part = pa.ipc.open_file(file).read_all()
            place = pa.array(np.arange(position, position + len(part)))
            position += len(part)
            columns = part.append_column("position", place)  # noqa: F841  # DuckDB finds it by its name
            connection.execute(f'insert into "{table}" select key, epoch_ms(ts), value, position from columns')


def drain(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """Run a query, drop its rows as they come, and say how many there were."""
    return sum(batch.num_rows for batch in reader(connection, query))


def reader(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    return iter(connection.sql(query).to_arrow_reader(data.BATCH_ROWS))


def timed(connection: duckdb.DuckDBPyConnection, query: str, job: Job) -> Outcome:
    """Time the query so many times, and on until ten seconds have passed."""
    stopwatch, rows = Stopwatch(), 0
    while len(stopwatch.spans) < job.repeats or sum(span.seconds for span in stopwatch.spans) < LONG_S:
        with stopwatch.running():
            rows = drain(connection, query)
    return Outcome(rows, stopwatch.spans, note=f"the query ran {len(stopwatch.spans)} times")


def w1(job: Job, stream: str = "zipf") -> Outcome:
    connection = connect(job)
    load(connection, stream, job.events)
    query = PANES.format(source="events")
    if job.check:
        return Outcome.of_checksum(checksum.of_panes(connection.execute(query).fetchall()))
    return timed(connection, query, job)


def w1u(job: Job) -> Outcome:
    return w1(job, "uuid")


def w2(job: Job) -> Outcome:
    connection, path = connect(job), data.json_file("zipf", job.events)
    columns = "{'key': 'varchar', 'ts': 'bigint', 'value': 'double'}"
    query = PANES.format(source=f"read_json('{path}', format = 'newline_delimited', columns = {columns})")
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "panes.jsonl")
        for _ in range(job.repeats):
            with stopwatch.running():
                connection.execute(f"copy ({query}) to '{output}' (format json)")
        found = f"from read_json('{output}', format = 'newline_delimited')"
        if job.check:
            return Outcome.of_checksum(checksum.of_panes(connection.execute(found).fetchall()))
        return Outcome(connection.execute(f"select count(*) {found}").fetchall()[0][0], stopwatch.spans)


def w3(job: Job) -> Outcome:
    connection, query = connect(job), WORDS.format(path=data.text_file(job.events))
    if job.check:
        return Outcome.of_checksum(checksum.of_words(connection.execute(query).fetchall()))
    return timed(connection, query, job)


def w4(job: Job) -> Outcome:
    return over_table(ALERTS, checksum.of_alerts, job)


def over_table(query: str, checked: Callable[[Any], Checksum], job: Job) -> Outcome:
    connection = connect(job)
    load(connection, "zipf", job.events)
    if job.check:
        return Outcome.of_checksum(checked(connection.execute(query).fetchall()))
    return timed(connection, query, job)


def w5(job: Job) -> Outcome:
    return over_table(SESSIONS, checksum.of_sessions, job)


def w6(job: Job) -> Outcome:
    return over_table(HOPS, checksum.of_counts, job)


def w7(job: Job) -> Outcome:
    connection = connect(job)
    for stream in ("left", "right"):
        load(connection, stream, job.events // 2, stream)
    if job.check:
        return Outcome.of_checksum(checksum.of_pairs(connection.execute(PAIRS).fetchall()))
    return timed(connection, PAIRS, job)


if __name__ == "__main__":
    serve({"W1": w1, "W1u": w1u, "W2": w2, "W3": w3, "W4": w4, "W5": w5, "W6": w6, "W7": w7})
