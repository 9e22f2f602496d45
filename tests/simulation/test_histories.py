"""Whatever happens to a run, what it commits is what an undisturbed run writes.

``SIMULATION_SEEDS=5000 pytest tests/simulation`` tries more seeds, ``SIMULATION_FROM=123`` starts elsewhere;
``scripts/chaos --sim`` does the same on all cores.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from harness.chaos import history
from harness.faults import SimulatedDisk, Trouble
from harness.flows import FLOWS
from harness.history import History, Wrong

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "8"))
FIRST_SEED = int(os.environ.get("SIMULATION_FROM", "0"))


@pytest.mark.parametrize("flow", range(len(FLOWS)), ids=[make.__name__ for make in FLOWS])
def test_committed_output_is_that_of_an_undisturbed_run(flow: int) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        history(len(FLOWS) * seed + flow).run()


def test_all_that_can_happen_to_a_run_does() -> None:
    endings: Counter[str] = Counter()
    refused = recoveries = 0
    for seed in range(3 * len(FLOWS)):
        story = history(seed).run()
        endings.update(story.endings)
        refused += story.refused
        recoveries += story.recoveries
    assert recoveries > len(FLOWS) and refused
    assert {"everyone killed", "coordinator killed", "worker-0 killed", "caller killed", "stopped"} <= set(endings)
    assert {"a write failed", "ended"} <= set(endings)


_TELL = """
import sys
from harness.chaos import history
made = history(int(sys.argv[1]))
print(made.run(), sorted(made.disk.files), list(made.story.last))
"""


@pytest.mark.parametrize("seed", [1, 13, 20])
def test_a_seed_replays_one_history_exactly_also_in_another_process(seed: int) -> None:
    tests = Path(__file__).parents[1]
    told = [
        subprocess.run(
            [sys.executable, "-c", _TELL, str(seed)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(tests)},
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert told[0] == told[1] != ""


def test_a_lost_row_and_a_doubled_one_are_seen() -> None:
    for change in ("lost", "doubled"):
        made = history(0)
        while not made._life():
            pass
        rows = next(p.rows for parts in made.ledger.parts.values() for p in parts.values() if p.visible and p.rows)
        rows.append(rows[0]) if change == "doubled" else rows.pop()
        with pytest.raises(
            Wrong, match=r"missing {.+}, too many {}" if change == "lost" else r"missing {}, too many {.+}"
        ):
            made._compare()


def has_checkpoints(made: History, least: int) -> bool:
    """Live until there are so many; returns whether that was before the run had ended."""
    while len(made.store.epochs()) < least:
        if made._life():
            return False
    return True


def test_where_no_checkpoint_can_be_used_all_of_them_are_given_up_and_the_run_starts_anew() -> None:
    made = next(made for seed in range(1_000) if has_checkpoints(made := history(seed), 3))
    for epoch in made.store.epochs():
        made.disk.damage(f"manifest-{epoch:08d}.json", random.Random(epoch))
    made._damaged = True
    assert made._newest(made._plan()) is None
    assert made.store.epochs() == [], "the checkpoints that follow have lower numbers, and would be taken for old ones"
    made.run()
    assert made.story.anew == 1


def test_the_simulated_disk_keeps_what_was_there_when_a_write_fails() -> None:
    trouble = Trouble(random.Random(0))
    disk = SimulatedDisk(trouble)
    disk.write("data/x", [b"before"])
    trouble.full = True
    with pytest.raises(OSError, match="no space left"):
        disk.write("data/x", [b"after"])
    assert disk.read("data/x").to_pybytes() == b"before"
    assert disk.names("data") == ["x"]
