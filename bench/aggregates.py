"""What does a row cost in each accumulator? One thread; a batch of 65,536 rows in 20,000 groups, seed 7.

    python bench/aggregates.py [repeat]

Prints nanoseconds per row: best and median of ``partial`` (rows to groups) and of ``combine`` (two such runs
into one), and beside them what one pass of polars over the same rows takes where it has the aggregate.
Every result is checked against polars first.

glibc gives freed arrays back to the kernel and pays for their pages again in the next batch, which costs
more than most of these kernels; so the benchmark, like a worker, runs with a higher threshold.
"""

from __future__ import annotations

import operator
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from millstream import aggregates as ms
from millstream.accumulators import AccumulatorSet, Groups, RowOrder, concat, distinct_inputs, nbytes
from millstream.aggregates import Aggregate
from millstream.batch import Array
from millstream.grouping import factorize, group_codes

ROWS, GROUPS, SEED = 65_536, 20_000, 7
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}

X, I, T, D, N = map(pl.col, ("x", "i", "text", "dec", "nulls"))  # noqa: E741
USER_SUM = ms.aggregate(init=float, add=operator.add, merge=operator.add, result=float, on="x")
CASES: list[tuple[str, Mapping[str, Aggregate], list[pl.Expr]]] = [
    ("count()", {"a": ms.count()}, [pl.len().cast(pl.Int64)]),
    ("sum(double)", {"a": ms.sum("x")}, [X.sum()]),
    ("sum(int64)", {"a": ms.sum("i")}, [I.sum()]),
    ("sum(int64, wide)", {"a": ms.sum("wide")}, [pl.col("wide").sum()]),
    ("sum(decimal)", {"a": ms.sum("dec")}, [D.sum()]),
    ("sum(double, 10 % null)", {"a": ms.sum("nulls")}, [pl.when(N.count() > 0).then(N.sum())]),
    ("mean(double)", {"a": ms.mean("x")}, [X.mean()]),
    ("max(double)", {"a": ms.max("x")}, [X.max()]),
    ("min(int64)", {"a": ms.min("i")}, [I.min()]),
    ("max(double, 1 % NaN)", {"a": ms.max("nan")}, [pl.col("nan").max()]),
    ("max(string)", {"a": ms.max("text")}, [T.max()]),
    ("count, sum, mean, max", {"n": ms.count(), "a": ms.sum("x"), "b": ms.mean("x"), "c": ms.max("x")},
     [pl.len().cast(pl.Int64), X.sum(), X.mean().alias("mean"), X.max().alias("max")]),
    ("variance(double)", {"a": ms.variance("x")}, [X.var()]),
    ("first(double)", {"a": ms.first("x")}, [X.sort_by("time", "row").first()]),
    ("last(string)", {"a": ms.last("text")}, [T.sort_by("time", "row").last()]),
    ("arg_max(string, double)", {"a": ms.arg_max("text", "x")}, [T.sort_by("x").last()]),
    ("count_distinct(int64)", {"a": ms.count_distinct("i")}, [I.n_unique().cast(pl.Int64)]),
    ("count_distinct(string)", {"a": ms.count_distinct("text")}, [T.n_unique().cast(pl.Int64)]),
    ("collect(int64)", {"a": ms.collect("i")}, [I.sort_by("time", "row").implode()]),
    ("aggregate(user's sum)", {"a": USER_SUM}, [X.sum()]),
]  # fmt: skip


def rows() -> pl.DataFrame:
    rng = np.random.default_rng(SEED)
    x = rng.random(ROWS)
    frame = pl.DataFrame(
        {
            "group": np.concatenate([np.arange(GROUPS), rng.integers(0, GROUPS, ROWS - GROUPS)]),
            "x": x,
            "i": rng.integers(0, 1_000, ROWS),
            "wide": rng.integers(-(2**58), 2**58, ROWS),
            "nan": np.where(rng.random(ROWS) < 0.01, np.nan, x),
            "text": [f"user-{k}" for k in rng.integers(0, 6_000, ROWS)],
            "time": rng.integers(0, 10_000_000, ROWS),
            "row": np.arange(ROWS),
        }
    )
    empty = pl.Series(rng.random(ROWS) < 0.1)
    return frame.with_columns(nulls=pl.when(~empty).then(X), dec=pl.col("i").cast(pl.Decimal(18, 2)))


def ns_per_row(run: Callable[[], object], repeat: int, count: int = ROWS) -> tuple[float, float]:
    run()
    taken = []
    for _ in range(repeat):
        start = time.perf_counter_ns()
        run()
        taken.append((time.perf_counter_ns() - start) / count)
    return min(taken), statistics.median(taken)


def main(repeat: int) -> None:
    frame = rows()
    codes = frame["group"].to_numpy()
    order = RowOrder(frame["time"].to_numpy(), frame["row"].to_numpy())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}, "
          f"pyarrow {pa.__version__}, polars {pl.__version__}; ns per row, best and median of {repeat}")  # fmt: skip
    print(f"{'':26}{'partial':>16}{'combine':>16}{'polars':>16}{'bytes/group':>13}")
    for name, aggregates, expected in CASES:
        fields = list(dict.fromkeys(f for a in aggregates.values() for e in a.inputs for f in sorted(e.fields())))
        inputs = [column(frame[f]) for f in [next(iter(e.fields())) for e in distinct_inputs(aggregates.values())]]
        planned = AccumulatorSet(aggregates, [i.type for i in inputs])
        columns = planned.partial(inputs, Groups(codes, GROUPS), order)
        grouped = frame.select("group", "time", "row", *[f for f in fields if f not in ("time", "row")]).group_by(
            "group"
        )
        check(planned.results(columns), grouped.agg(expected).sort("group"), name)
        doubled = [concat([c, c]) for c in columns]
        again = np.tile(np.arange(GROUPS), 2)
        timed = [
            ns_per_row(lambda p=planned, i=inputs: p.partial(i, Groups(codes, GROUPS), order), repeat),  # type: ignore[misc]
            ns_per_row(lambda p=planned, d=doubled, a=again: p.combine(d, Groups(a, GROUPS)), repeat, 2 * GROUPS),  # type: ignore[misc]
            ns_per_row(lambda g=grouped, e=expected: g.agg(e), max(repeat // 4, 3)),  # type: ignore[misc]
        ]
        size = sum(nbytes(c) for c in columns) / GROUPS
        print(f"{name:26}" + "".join(f"{best:8.2f}{median:8.2f}" for best, median in timed) + f"{size:13.1f}")
    grouping(repeat)


def grouping(repeat: int) -> None:
    rng = np.random.default_rng(SEED)
    window, key = rng.integers(0, 7, ROWS).astype(np.int32), rng.integers(0, 6_000, ROWS).astype(np.int32)
    strings, numbers = pa.array([f"user-{k}" for k in key]), pa.array(key.astype(np.int64) * 1_000_003)
    for name, run in [
        ("group 7 x 6,000 codes", lambda: group_codes([(window, 7), (key, 6_000)])),
        ("group 7 x 600,000 codes", lambda: group_codes([(window, 7), (key * 100, 600_000)])),
        ("factorize int64, dense", lambda: factorize([pa.array(key)])),
        ("factorize int64, sparse", lambda: factorize([numbers])),
        ("factorize string", lambda: factorize([strings])),
        ("factorize string, int64", lambda: factorize([strings, numbers])),
        ("order of 20,000 groups", lambda: Groups(key, GROUPS).order),
    ]:
        best, median = ns_per_row(run, repeat)
        print(f"{name:26}{best:8.2f}{median:8.2f}")


def column(series: pl.Series) -> Array:
    chunked = series.to_arrow()
    array = chunked.combine_chunks() if isinstance(chunked, pa.ChunkedArray) else chunked
    return array.cast(pa.string()) if pa.types.is_large_string(array.type) else array


def check(found: list[Array], expected: pl.DataFrame, name: str) -> None:
    for array, wanted in zip(found, expected.drop("group").iter_columns(), strict=True):
        mine = array.to_pylist()
        for a, b in zip(mine, wanted.to_list(), strict=True):
            same = a == b or (isinstance(a, float) and (abs(a - b) <= 1e-9 * abs(b) or (a != a and b != b)))
            if not same:
                raise SystemExit(f"{name}: found {a!r}, polars has {b!r}")


if __name__ == "__main__":
    if not os.environ.keys() >= KEEP_MEMORY.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY, "POLARS_MAX_THREADS": "1"})
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
