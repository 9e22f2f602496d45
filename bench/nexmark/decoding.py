"""The limit of queries that only look at rows: our decoder alone, on the fields that the query reads.

As many processes as the query has workers read a file each, block by block as a source does, and drop the columns. They
are started as those of a run are, and stay for all repeats.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench.job import Job, Outcome, Stopwatch, serve
from bench.nexmark.data import event_file
from bench.nexmark.events import SCHEMA
from bench.nexmark.measured import flow_of
from bench.nexmark.queries import ROW_BY_ROW
from millstream.connectors import JsonLinesSource
from millstream.coordinator.children import ENVIRONMENT
from millstream.planner import make_plan

BLOCK_ROWS, BLOCK_BYTES = 65_536, 1 << 20


def decode(path: Path, fields: tuple[str, ...]) -> int:
    """Decode a file; how many rows it has."""
    source = JsonLinesSource(str(path), schema=SCHEMA)
    decoder, reader, rows = source.decoder(fields), source.open(source.partitions()[0]), 0
    while not reader.ended:
        block = reader.read(BLOCK_ROWS, BLOCK_BYTES)
        if block is not None:
            rows += decoder.decode(block.payload).columns.num_rows  # type: ignore[arg-type]
    reader.close()
    return rows


def run(job: Job) -> Outcome:
    (fields,) = make_plan(flow_of(job.workload, job.events), workers=1).reads.values()
    assert fields is not None
    parts = event_file(job.events, job.parallelism)
    paths = [parts] if parts.is_file() else sorted(parts.iterdir())
    watch = Stopwatch()
    os.environ.update(ENVIRONMENT)
    with ProcessPoolExecutor(job.parallelism, get_context("spawn")) as processes:
        list(processes.map(decode, [event_file(1_000)] * job.parallelism, [fields] * job.parallelism))
        for _ in range(job.repeats):
            with watch.running():
                rows = sum(processes.map(decode, paths, [fields] * len(paths)))
    return Outcome(rows, watch.spans)


if __name__ == "__main__":
    serve(dict.fromkeys(ROW_BY_ROW, run))
