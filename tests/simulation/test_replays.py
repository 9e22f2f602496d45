"""Dead letters that are replayed while processes are killed: each event is in the output once, or still a dead letter."""

from __future__ import annotations

import os

from harness.replaying import Replayed

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "8"))
FIRST_SEED = int(os.environ.get("SIMULATION_FROM", "0"))


def test_a_replayed_letter_is_neither_lost_nor_doubled_whoever_is_killed() -> None:
    replayed = 0
    for seed in range(FIRST_SEED, FIRST_SEED + 2 * SEEDS):
        history = Replayed(seed)
        history.run()
        replayed += history.replayed
    assert replayed
