"""Questions at any moment change nothing of what comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.running import Way, run
from harness.simulator import Simulation

from millstream.coordinator.questions import askable
from millstream.flow import Flow
from millstream.topology import CALLER
from millstream.wire import Found, Message, Query

from .test_any_order import FIRST_SEED, FLOWS, SEEDS, answer, build, simulate, windows

EVERY = 10  # more often, and messages of questions keep all others from arriving


def asking(simulation: Simulation, answers: list[Found]) -> None:
    """Let somebody ask, now and then, all workers for one key, for a window, or for everything."""
    turn, receive, names = simulation.turn, simulation.caller.receive, askable(simulation.plan)

    def turn_and_ask() -> None:
        turn()
        if names and simulation.turns % EVERY == 0 and not simulation.done:
            number = simulation.turns // EVERY
            keys = [None, [["a"]], [[None]], ["b", "nobody"]][number % 4]
            query = Query(number, names[number % len(names)], keys, [None, 60_000][number // 4 % 2], 3)
            for worker in simulation.workers:
                simulation._send(CALLER, worker, query)

    def receive_and_keep(message: Message) -> None:
        if isinstance(message, Found):
            answers.append(message)
        receive(message)

    simulation.turn = turn_and_ask  # type: ignore[method-assign]
    simulation.caller.receive = receive_and_keep  # type: ignore[method-assign]


@pytest.mark.parametrize("make", FLOWS, ids=lambda f: f.__name__)
def test_questions_at_any_moment_change_nothing(make: Callable[[Flow, int], None]) -> None:
    answers: list[Found] = []
    for seed in range(FIRST_SEED, FIRST_SEED + max(3, SEEDS // 4)):
        simulation = simulate(make, seed)
        asking(simulation, answers)
        plain = run(build(make, seed), Way())
        assert answer(simulation.run()) == answer(plain.rows), f"seed {seed}"
        assert simulation.late == plain.late, f"seed {seed}"
    assert answers
    assert not any("could not be made" in found.failure for found in answers)
    assert not any("cannot be asked" in found.failure for found in answers)


def test_questions_at_any_moment_find_what_is_there() -> None:
    answers: list[Found] = []
    for seed in range(40):
        simulation = simulate(windows, seed)
        asking(simulation, answers)
        simulation.run()
        if any(found.rows is not None and found.more for found in answers):
            return
    raise AssertionError("of 40 runs none held anything when it was asked")
