"""The queries as they are timed: on Millstream, with their natural changelogs into a sink that drops them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import millstream as ms
from bench.job import FIXED_EVENTS, Job, Outcome, serve
from bench.millstream_flows import timed
from bench.nexmark.data import event_file
from bench.nexmark.events import AuctionHouse
from bench.nexmark.queries import QUERIES


def flow_of(query: str, events: int) -> ms.Flow:
    """The query over so many events."""
    flow = ms.Flow(f"nexmark-{query}")
    QUERIES[query](AuctionHouse(flow, event_file(events))).write_null()
    return flow


def run(job: Job) -> Outcome:
    """Time the query, and what any run of it takes: as for Flink, that is taken off."""
    with tempfile.TemporaryDirectory() as state:
        outcome = timed(flow_of(job.workload, job.events), job, Path(state, "all"))[1]
        outcome.fixed_s = timed(flow_of(job.workload, FIXED_EVENTS), job, Path(state, "few"))[0].seconds
        return outcome


if __name__ == "__main__":
    serve(dict.fromkeys(QUERIES, run))
