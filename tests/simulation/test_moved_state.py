"""At a rescale a worker keeps in memory what stays its own, and reads from the checkpoint what comes to it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pytest
from harness.faults import SimulatedDisk, Trouble
from harness.running import collected
from harness.simulator import Conditions, Simulation
from harness.sources import ColumnSource

import millstream as ms
from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import StateTable
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.local import LocalCheckpoints
from millstream.plan import PhysicalPlan
from millstream.planner import make_plan

EVENTS, KEYS, ROWS_A_BLOCK = 600, 200, 20


class CountingStore(CheckpointStore):
    """Counts the rows by key that are read, by the worker that had written them."""

    def __init__(self) -> None:
        super().__init__(SimulatedDisk(Trouble(random.Random(0))))
        self.read: Counter[int] = Counter()

    def load(self, file: TableFile) -> StateTable:
        table = super().load(file)
        if table.keys is not None:
            self.read[file.worker] += file.rows
        return table

    def has_keys(self, file: TableFile) -> bool:
        return super().load(file).keys is not None


KINDS: dict[str, Callable[[ms.KeyedStream], ms.Stream]] = {
    "windows": lambda keyed: keyed.window(ms.tumbling("1h")).agg(n=ms.count(), s=ms.sum("n")),
    "hopping": lambda keyed: keyed.window(ms.hopping("1h", "20m")).agg(n=ms.count()),
    "running": lambda keyed: keyed.agg(n=ms.count(), s=ms.sum("n"), emit="final"),
    "ranking": lambda keyed: keyed.top_n(2, ms.desc("n"), emit="final"),
    "lasts": lambda keyed: keyed.dedupe("last", emit="final"),
    "first in a while": lambda keyed: keyed.dedupe(within="1h"),
}


def plan_for(kind: str, workers: int) -> PhysicalPlan:
    rows = [{"t": n * 1_000_000, "k": n * 7 % KEYS, "n": n} for n in range(EVENTS)]
    schema = pa.schema([("t", pa.int64()), ("k", pa.int64()), ("n", pa.int64())])
    flow = ms.Flow("moved")
    keyed = flow.source(ColumnSource([rows], schema)).event_time("t", unit="us").key_by("k")
    KINDS[kind](keyed).collect("out")
    return make_plan(flow, workers=workers, batch_rows=ROWS_A_BLOCK, ingest="coordinator")


def out_of(simulation: Simulation) -> list[str]:
    return sorted(map(str, collected(simulation.plan, simulation.caller.runner)["out"]))


MOVES = {(2, 3): {0: 1, 1: 1}, (2, 1): {1: 1}, (3, 2): {1: 1, 2: 1}, (1, 2): {0: 1}}
"""From so many workers to so many others, who of the first is read from, and by how many."""


@pytest.mark.parametrize(("before", "after"), list(MOVES))
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_stays_is_not_read(kind: str, before: int, after: int) -> None:
    store = CountingStore()
    checkpoints = LocalCheckpoints(store, CheckpointPolicy(1_000), 1, None)  # some before the one of the rescale
    simulation = Simulation(plan_for(kind, before), 1, Conditions(), checkpoints)
    simulation.start()
    while simulation.coordinator.figures()["blocks"] * ROWS_A_BLOCK < EVENTS // 2:
        simulation.turn()
    simulation.rescale(plan_for(kind, after), 2)
    while not simulation.rescaled:
        simulation.turn()
    tables = store.manifest(store.epochs()[-1]).tables
    while simulation.rescaling:
        simulation.turn()

    written: Counter[int] = Counter()
    for file in tables:
        written[file.worker] += file.rows if store.has_keys(file) else 0
    assert store.read == {worker: times * written[worker] for worker, times in MOVES[before, after].items()}
    assert len(written) == before and all(written.values())

    simulation.go_on()
    calm = Simulation(plan_for(kind, 1), 1, Conditions())
    calm.run()
    assert out_of(simulation) == out_of(calm) != []
