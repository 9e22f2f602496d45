"""Real processes, killed at random moments; ``scripts/chaos --kills N`` does more of it."""

from __future__ import annotations

import pytest
from harness.kills import Kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_committed_output_after_real_kills_is_that_of_an_undisturbed_run() -> None:
    said: list[str] = []
    kills = Kills(wanted=4, seed=1, say=said.append, rows=40_000)
    assert kills.run(), "\n".join(said)
    assert kills.kills >= 4
