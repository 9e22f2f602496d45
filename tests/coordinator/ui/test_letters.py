"""The newest dead letters and late events, from the files in which a run keeps them."""

from __future__ import annotations

import json
from pathlib import Path

from millstream.coordinator.ui.letters import late_in_files, newest_letters


def test_late_events_keep_fields_that_are_named_like_those_of_dead_letters(tmp_path: Path) -> None:
    (tmp_path / "agg").mkdir()
    event = {"row": 7, "header": "a", "late_reason": "the watermark had passed it"}
    (tmp_path / "agg" / "part-0.jsonl").write_text(json.dumps(event) + "\n")
    [late] = late_in_files(tmp_path, 5)
    assert (late["operator"], late["row"], late["event_time_us"]) == ("agg", event, None)


def test_of_a_dead_letter_what_only_its_operator_can_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "worker-0.jsonl").write_text(json.dumps({"reason": "no number", "row": "AAAA"}) + "\n")
    assert newest_letters(tmp_path, 5) == [{"file": "worker-0.jsonl", "fields": {"reason": "no number"}}]
