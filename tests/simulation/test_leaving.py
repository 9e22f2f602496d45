"""A worker that is to leave and has not heard of it: what it counted stays with the run once, and its name is free."""

from __future__ import annotations

import random

from harness.faults import SimulatedDisk, Trouble
from harness.flows import lateness
from harness.history import counts
from harness.ledger import Ledger
from harness.simulator import Conditions, Simulation

from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.core import State
from millstream.coordinator.local import LocalCheckpoints
from millstream.flow import Flow
from millstream.plan import PhysicalPlan
from millstream.planner import make_plan

SEED = 10
FOR_EVER = 10**9


def plan_for(workers: int) -> PhysicalPlan:
    flow = Flow("left")
    lateness(flow, Ledger(Trouble(random.Random(0))), SEED)
    return make_plan(flow, workers=workers, batch_rows=1, ingest="workers")


def counted_calmly() -> dict[str, int]:
    plan = plan_for(1)
    calm = Simulation(plan, SEED, Conditions())
    calm.run()
    return counts(plan, calm.figures)


def rescaled_while_one_hangs() -> Simulation:
    """From two workers to one, after some rows, and the second does not get to hear of it."""
    store = CheckpointStore(SimulatedDisk(Trouble(random.Random(0))))
    checkpoints = LocalCheckpoints(store, CheckpointPolicy(5_000), 1, None)
    simulation = Simulation(plan_for(2), SEED, Conditions(), checkpoints)
    simulation.start()
    while simulation.workers["worker-1"].runner.figures()["operators"]["source"].get("rows_in", 0) < 3:
        simulation.turn()
    simulation.rescale(plan_for(1), 2)
    while not simulation.rescaled:
        simulation.turn()
    simulation.hang("worker-1", FOR_EVER)
    while simulation.rescaling:
        simulation.turn()
    assert simulation.coordinator.state is State.RUNNING and "worker-1" in simulation.processes
    return simulation


def test_what_a_worker_counted_that_has_not_left_yet_is_not_counted_twice() -> None:
    simulation = rescaled_while_one_hangs()
    while not simulation.done:
        simulation.turn()
    assert "worker-1" in simulation.processes
    assert counts(simulation.plan, simulation.figures) == counted_calmly()


def test_a_worker_that_has_not_left_yet_is_gone_before_another_takes_its_name() -> None:
    simulation = rescaled_while_one_hangs()
    simulation.rescale(plan_for(2), 3)
    assert "worker-1" not in simulation.processes
    simulation.go_on()
    assert simulation.rescaled == 2 and list(simulation.coordinator.members) == ["worker-0", "worker-1"]
    assert counts(simulation.plan, simulation.figures) == counted_calmly()
