"""The history of a flow's runs, in SQLite in its state directory: reports, what happened, checkpoints.

Reports are kept whole, compressed, one a second at first. The older they are the fewer are left: what is thrown away
makes the past coarser but not wrong, since counts go on and a picture is made of two reports (see picture.py). So the
file stays small however long a run goes on.

Two kinds of readers and one writer share the file; SQLite sees to that. Whoever writes does so in one thread.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from millstream.coordinator.ui.graph import Graph

FILE: Final = "history.sqlite"
RUNS_KEPT: Final = 20
BYTES_KEPT: Final = 200 * 2**20
"""Of reports in all. With very many processes they are large: then fewer are kept."""
HAPPENINGS_KEPT: Final = 2_000
CHECKPOINTS_KEPT: Final = 10_000

_SECOND_US: Final = 1_000_000
_LEVELS: Final = ((900, 1), (3 * 3_600, 10), (2 * 86_400, 60), (30 * 86_400, 900), (10 * 365 * 86_400, 6 * 3_600))
"""Up to which age, in seconds, one report is kept for how many seconds: some 9,000 reports at most in the first ten
years."""

_SCHEMA: Final = """
create table if not exists runs (id integer primary key, started_us integer not null, graph text not null);
create table if not exists reports (
    run integer not null, time_us integer not null, report blob not null, primary key (run, time_us)) without rowid;
create table if not exists happenings (
    run integer not null, time_us integer not null, kind text not null, attempt integer not null, text text not null,
    detail text not null);
create index if not exists happenings_of on happenings (run, time_us);
create table if not exists checkpoints (
    run integer not null, epoch integer not null, begun_us integer not null, duration_us integer not null,
    operators text not null, primary key (run, epoch)) without rowid;
"""


@dataclass(frozen=True)
class Happening:
    """Something of note in a run.

    Attributes:
        kind: "started", "attempt", "lost", "recovered", "failed", "ended", "warning".
        attempt: in which life of the run; 0: before the first.
        text: a sentence.
        detail: what does not fit into one: the user's traceback, for example.
    """

    time_us: int
    kind: str
    attempt: int
    text: str
    detail: str = ""


@dataclass(frozen=True)
class CheckpointMade:
    """Attributes:
    operators: by name, [rows, bytes] of its state, and how many of these bytes were written for this checkpoint, where
        that is known: the others are in files of earlier ones.
    """

    epoch: int
    begun_us: int
    duration_us: int
    operators: dict[str, list[int]]


@dataclass(frozen=True)
class RunRecord:
    """One run of the flow: the file tells several apart."""

    id: int
    started_us: int
    graph: Graph


class HistoryWriter:
    """Writes the history of one run; used by one thread.

    Raises:
        sqlite3.Error: the file cannot be written.
    """

    def __init__(self, directory: Path, graph: Graph, started_us: int) -> None:
        self.path = directory / FILE
        # Whatever thread made it, one alone uses it.
        self._db = sqlite3.connect(self.path, timeout=1.0, check_same_thread=False)
        # No fsync for what is only looked at: after a power cut the last seconds may be missing.
        self._db.executescript(f"pragma journal_mode = wal; pragma synchronous = off; {_SCHEMA}")
        graph_text = json.dumps(graph.as_json())
        with self._db:
            cursor = self._db.execute("insert into runs (started_us, graph) values (?, ?)", (started_us, graph_text))
            self.run = int(cursor.lastrowid or 0)
            self._drop_runs_until(self.run - RUNS_KEPT)
            self._keep_small()

    def _keep_small(self) -> None:
        """Where reports take more than they may, let the oldest run go; where there is none, every other older report."""
        while self._report_bytes() > BYTES_KEPT:
            (oldest,) = self._db.execute("select min(run) from reports").fetchone()
            if oldest < self.run:
                self._drop_runs_until(oldest)
                continue
            (newest_us,) = self._db.execute("select max(time_us) from reports where run = ?", (self.run,)).fetchone()
            self._db.execute(
                """delete from reports where run = ? and time_us in (
                       select time_us from (select time_us, row_number() over (order by time_us) as number
                       from reports where run = ? and time_us < ?) where number % 2 = 0)""",
                (self.run, self.run, newest_us - _LEVELS[0][0] * _SECOND_US),
            )
            return

    def _report_bytes(self) -> int:
        (size,) = self._db.execute("select coalesce(sum(length(report)), 0) from reports").fetchone()
        return int(size)

    def _drop_runs_until(self, oldest: int) -> None:
        self._db.execute("delete from runs where id <= ?", (oldest,))
        for table in ("reports", "happenings", "checkpoints"):
            self._db.execute(f"delete from {table} where run <= ?", (oldest,))

    def report(self, report: dict[str, Any]) -> None:
        with self._db:
            self._db.execute(
                "insert or replace into reports values (?, ?, ?)", (self.run, report["time_us"], packed(report))
            )

    def happened(self, happening: Happening) -> None:
        h = happening
        with self._db:
            self._db.execute(
                "insert into happenings values (?, ?, ?, ?, ?, ?)",
                (self.run, h.time_us, h.kind, h.attempt, h.text, h.detail),
            )

    def checkpoint(self, made: CheckpointMade) -> None:
        operators = json.dumps(made.operators)
        with self._db:
            self._db.execute(
                "insert or replace into checkpoints values (?, ?, ?, ?, ?)",
                (self.run, made.epoch, made.begun_us, made.duration_us, operators),
            )

    def thin_out(self, now_us: int) -> None:
        """Leave so many of the older reports as their age allows: the last of every interval."""
        with self._db:
            newer_s = 0
            for age_s, interval_s in _LEVELS:
                interval_us = interval_s * _SECOND_US
                self._db.execute(
                    """delete from reports where run = :run and time_us >= :from and time_us < :until and time_us not in (
                           select max(time_us) from reports where run = :run and time_us >= :from and time_us < :until
                           group by time_us / :interval)""",
                    {
                        "run": self.run, "interval": interval_us,
                        "from": now_us - age_s * _SECOND_US, "until": now_us - newer_s * _SECOND_US,
                    },
                )  # fmt: skip
                newer_s = age_s
            self._keep_small()
            for table, kept in (("happenings", HAPPENINGS_KEPT), ("checkpoints", CHECKPOINTS_KEPT)):
                order = "time_us" if table == "happenings" else "epoch"
                self._db.execute(
                    f"""delete from {table} where run = :run and {order} <=
                        (select {order} from {table} where run = :run order by {order} desc limit 1 offset :kept)""",
                    {"run": self.run, "kept": kept},
                )

    def close(self) -> None:
        self._db.close()


class HistoryReader:
    """Reads a history, also while it is written; each call opens the file, so any thread may use it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if not self.path.exists():
            return
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            yield from db.execute(query, values)

    def runs(self) -> list[RunRecord]:
        """All runs that are kept, the newest last."""
        found = self._rows("select id, started_us, graph from runs order by id")
        return [
            RunRecord(number, started_us, Graph.from_json(json.loads(graph))) for number, started_us, graph in found
        ]

    def span_us(self, run: int) -> tuple[int, int] | None:
        """From the first report of a run to the last; None: there is none."""
        for first, last in self._rows("select min(time_us), max(time_us) from reports where run = ?", (run,)):
            if first is not None:
                return first, last
        return None

    def reports(self, run: int, from_us: int, until_us: int, most: int) -> list[dict[str, Any]]:
        """Reports of a span of time, both ends included, evenly spread where there are more than ``most``."""
        times = [
            t
            for (t,) in self._rows(
                "select time_us from reports where run = ? and time_us between ? and ? order by time_us",
                (run, from_us, until_us),
            )
        ]
        if len(times) > most:
            last = len(times) - 1
            times = [times[round(i * last / (most - 1))] for i in range(most)]
        marks = ",".join("?" * len(times))
        rows = self._rows(
            f"select report from reports where run = ? and time_us in ({marks}) order by time_us", (run, *times)
        )
        return [unpacked(blob) for (blob,) in rows]

    def pair_at(self, run: int, time_us: int) -> list[dict[str, Any]]:
        """The last report at or before a moment, and the one before that; the first of all where there is none."""
        rows = list(
            self._rows(
                "select report from reports where run = ? and time_us <= ? order by time_us desc limit 2",
                (run, time_us),
            )
        ) or list(self._rows("select report from reports where run = ? order by time_us limit 1", (run,)))
        return [unpacked(blob) for (blob,) in reversed(rows)]

    def happenings(self, run: int) -> list[Happening]:
        rows = self._rows(
            "select time_us, kind, attempt, text, detail from happenings where run = ? order by time_us, rowid", (run,)
        )
        return [Happening(*row) for row in rows]

    def checkpoints(self, run: int, most: int) -> list[CheckpointMade]:
        """The newest checkpoints that the run has made, the newest last."""
        rows = self._rows(
            "select epoch, begun_us, duration_us, operators from checkpoints where run = ? order by epoch desc limit ?",
            (run, most),
        )
        return [CheckpointMade(e, b, d, json.loads(operators)) for e, b, d, operators in rows][::-1]


def packed(report: dict[str, Any]) -> bytes:
    return zlib.compress(json.dumps(report, separators=(",", ":")).encode(), 1)


def unpacked(blob: bytes) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(zlib.decompress(blob))
    return report
