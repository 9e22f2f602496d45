"""The flights example on real departures, against an independent computation by DuckDB.

January ships with the example and runs in every configuration; the whole year, where it is there
(``MILLSTREAM_FLIGHTS=flights-2013.csv.gz``), in those that differ in how the work is spread.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import duckdb
import pytest
from harness.resuming import run_resumed

import millstream as ms
from millstream import col

_JANUARY = Path(__file__).parent.parent / "examples" / "data" / "flights-january.csv.gz"
_BESIDE = Path(__file__).parent.parent.parent / "shared" / "data" / "flights-2013.csv.gz"
_YEAR = Path(os.environ.get("MILLSTREAM_FLIGHTS", _BESIDE))

Ingest = Literal["coordinator", "workers"]
Pane = tuple[int, float, float]

_EXPECTED = """
    with rows as (
        select *, row_number() over () as n from read_csv('{path}', all_varchar = true)
    ), events as (
        select *, scheduled::timestamp as t, date_trunc('hour', scheduled::timestamp) as w
        from rows where departed is not null and departed <> ''
    ), judged as (
        select *, coalesce(
            w + interval 90 minute <= max(t) over (order by n rows between unbounded preceding and 1 preceding) - interval 2 hour, false
        ) as late
        from events
    )
"""


@dataclass
class Expected:
    panes: dict[tuple[str, str], Pane]
    late: list[tuple[str, ...]]


def expected(path: Path) -> Expected:
    base = _EXPECTED.format(path=path)
    panes = duckdb.sql(
        base
        + "select strftime(w, '%Y-%m-%dT%H:%M:%SZ'), carrier, count(*), avg(dep_delay::double), max(dep_delay::double)"
        " from judged where not late group by 1, 2"
    ).fetchall()
    late = duckdb.sql(
        base + "select scheduled, departed, carrier, flight, coalesce(tailnum, '') from judged where late"
    ).fetchall()
    return Expected({(w, c): (n, mean, worst) for w, c, n, mean, worst in panes}, sorted(late))


def build(path: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("flights")
    delays = (
        flow.read_csv(path)
        .filter(col("departed").is_not_null())
        .event_time("scheduled", out_of_orderness="2h")
        .key_by("carrier")
        .window(ms.tumbling("1h"), allowed_lateness="30m")
        .agg(flights=ms.count(), mean_delay=ms.mean("dep_delay"), worst=ms.max("dep_delay"))
    )
    delays.write_jsonl(out / "delays.jsonl")
    delays.late.write_jsonl(out / "late.jsonl")
    return flow


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(out: Path, want: Expected) -> None:
    last: dict[tuple[str, str], dict[str, Any]] = {}
    numbers: dict[tuple[str, str], list[int]] = {}
    for row in lines(out / "delays.jsonl"):
        key = (row["window_start"], row["carrier"])
        numbers.setdefault(key, []).append(row["pane"])
        if key not in last or row["pane"] > last[key]["pane"]:
            last[key] = row
    assert last.keys() == want.panes.keys()
    for key, (count, mean, worst) in want.panes.items():
        row = last[key]
        assert (row["flights"], row["worst"]) == (count, worst), key
        assert math.isclose(row["mean_delay"], mean, rel_tol=1e-9), key
        assert sorted(numbers[key]) == list(range(len(numbers[key]))), key
    fields = ("scheduled", "departed", "carrier", "flight", "tailnum")
    late = sorted(tuple("" if row[f] is None else str(row[f]) for f in fields) for row in lines(out / "late.jsonl"))
    assert late == want.late


@pytest.fixture(scope="module")
def january() -> Expected:
    return expected(_JANUARY)


@pytest.fixture(scope="module")
def first_days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    """The beginning of January, with its late departures: for processes to which every event is a batch of its own."""
    path = tmp_path_factory.mktemp("flights") / "first-days.csv"
    with gzip.open(_JANUARY, "rt") as file:
        path.write_text("".join(islice(file, 4_001)))
    want = expected(path)
    assert len(want.panes) > 500 and len(want.late) > 10
    return path, want


@pytest.fixture(scope="module")
def year() -> Expected:
    if not _YEAR.exists():
        pytest.skip("the whole year is not here: set MILLSTREAM_FLIGHTS to flights-2013.csv.gz")
    return expected(_YEAR)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ingest", ["coordinator", "workers"])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 100, 65_536])
def test_january_is_the_same_however_it_is_run(
    tmp_path: Path,
    january: Expected,
    first_days: tuple[Path, Expected],
    workers: int,
    batch_size: int,
    ingest: Ingest,
) -> None:
    path, want = first_days if batch_size == 1 else (_JANUARY, january)
    result = build(path, tmp_path).run(workers=workers, batch_size=batch_size, ingest=ingest, state=tmp_path / "state")
    check(tmp_path, want)
    assert result.late == len(want.late)
    assert result.dead_letters == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("batch_size", [1, 100, 65_536])
def test_january_is_the_same_in_one_process(tmp_path: Path, january: Expected, batch_size: int) -> None:
    build(_JANUARY, tmp_path).run_here(batch_size=batch_size)
    check(tmp_path, january)


@pytest.mark.parametrize("ingests", [("coordinator", "workers"), ("workers", "coordinator")])
def test_january_is_the_same_when_it_goes_on_from_a_checkpoint_with_another_worker(
    tmp_path: Path, january: Expected, ingests: tuple[Ingest, Ingest]
) -> None:
    letters: list[object] = []
    run_resumed(
        lambda: build(_JANUARY, tmp_path), tmp_path / "state", letters.append, blocks=1, batch_rows=500, ingests=ingests
    )
    check(tmp_path, january)
    assert letters == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ingest", ["coordinator", "workers"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_year_is_the_same_however_it_is_run(tmp_path: Path, year: Expected, workers: int, ingest: Ingest) -> None:
    result = build(_YEAR, tmp_path).run(workers=workers, ingest=ingest, state=tmp_path / "state")
    check(tmp_path, year)
    assert result.events_in == 336_776
    assert len(year.late) == result.late == 3_376


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("batch_size", [100, 65_536])
def test_the_year_is_the_same_in_one_process(tmp_path: Path, year: Expected, batch_size: int) -> None:
    build(_YEAR, tmp_path).run_here(batch_size=batch_size)
    check(tmp_path, year)
