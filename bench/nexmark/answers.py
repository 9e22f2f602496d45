"""The answers to the queries as text that can be compared: one JSON line a row, sorted.

A query that revises its answers is asked for those that stand at the end.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import millstream as ms
from bench.nexmark.events import AuctionHouse, Emit
from bench.nexmark.queries import QUERIES
from millstream.connectors import JsonLinesSink


def answering(data: Path, out: Path, queries: Sequence[str], emit: Emit = "final") -> ms.Flow:
    """One flow that reads the events once and answers all of these queries, each into a file of its own."""
    flow = ms.Flow("nexmark")
    house = AuctionHouse(flow, data, emit=emit)
    for name in queries:
        stream = QUERIES[name](house)
        stream.sink(JsonLinesSink(out / f"{name}.jsonl", times="ms"), name=name)
    return flow


def write_answers(data: Path, out: Path, queries: Sequence[str], *, workers: int = 1, batch_size: int = 65_536) -> None:
    """Write ``out/q0.jsonl`` and so on."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        unsorted = Path(directory)
        flow = answering(data, unsorted, queries)
        flow.run(workers=workers, batch_size=batch_size, state=unsorted / "state")
        for name in queries:
            (out / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in canonical(unsorted / f"{name}.jsonl")))


_DECIMAL = re.compile(r'("price":\d+\.\d+?)0*(?=[,}])')


def canonical(path: Path) -> list[str]:
    """The rows of a file of JSON lines in the order of their text, without zeros at the end of decimals."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted(_DECIMAL.sub(r"\1", line) for line in lines)
