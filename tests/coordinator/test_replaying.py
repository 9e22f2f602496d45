"""What is asked of a flow that does not run: counted before its next run does it."""

from __future__ import annotations

import json
from pathlib import Path

from millstream.commands import Replay
from millstream.coordinator.replaying import ask_next_run
from millstream.coordinator.replays import log_path
from millstream.deadletters import LETTERS


def test_letters_that_were_replayed_before_are_not_counted_again(tmp_path: Path) -> None:
    letters = [{"id": f"worker-0-1-{n}", "operator": "map (shop.py:4)", "reason": "no price"} for n in range(3)]
    (tmp_path / LETTERS).mkdir()
    (tmp_path / LETTERS / "worker-0.jsonl").write_text("".join(json.dumps(letter) + "\n" for letter in letters))
    assert str(ask_next_run(tmp_path, Replay(dry=True))).endswith("refused them: 3 of map")
    log_path(tmp_path, "orders").parent.mkdir()
    log_path(tmp_path, "orders").write_text("".join(json.dumps(letter) + "\n" for letter in letters[:2]))
    outcome = ask_next_run(tmp_path, Replay(dry=True))
    assert (dict(outcome.chosen), outcome.before) == ({"map": 1}, 2)
