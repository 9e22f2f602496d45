"""Measuring: checksums, costs of a process tree, and what a report makes of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import checksum, measure
from bench.job import BenchError, Job, Outcome, Span
from bench.report import Result

BUSY = """
import json, subprocess, sys, time
began = time.monotonic()
busy = "import time; e = time.monotonic() + 1.0\\nwhile time.monotonic() < e: pass"
subprocess.run([sys.executable, "-c", busy], check=True)
span = {"began": began, "ended": time.monotonic()}
print(json.dumps({"rows": 3, "spans": [span], "checksum": None, "fixed_s": 0.0, "note": ""}))
"""


def test_equal_rows_in_another_order_have_one_checksum_and_other_rows_another() -> None:
    rows = [(0, "a", 2, 3.5, 1.75, 2.0), (0, "b", 1, 1.0, 1.0, 1.0)]
    assert checksum.of_panes(rows).value == checksum.of_panes(rows[::-1]).value
    assert checksum.of_panes(rows).value != checksum.of_panes([*rows, rows[0]]).value


def test_sums_that_differ_by_less_than_a_thousandth_are_equal() -> None:
    assert (
        checksum.of_panes([(0, "a", 1, 0.30000000000000004, 0.1, 0.2)]).value
        == checksum.of_panes([(0, "a", 1, 0.3, 0.1, 0.2)]).value
    )


def test_an_outcome_survives_its_line_of_json() -> None:
    outcome = Outcome(5, [Span(1.0, 3.5)], fixed_s=0.5, note="as told")
    line = outcome.to_json(Job("W1", 100, 1))
    assert Outcome.from_json(line) == outcome
    assert json.loads(line)["seconds"] == 2.0


def test_the_cpu_of_child_processes_is_charged_to_the_run() -> None:
    run = measure.run([sys.executable, "-c", BUSY], timeout_s=30)
    assert run.outcome.rows == 3
    assert 0.3 < run.cores < 1.3  # one busy child; the machine may be shared
    assert run.peak_rss > 5_000_000


def test_a_contestant_that_fails_is_an_error_with_its_last_words() -> None:
    with pytest.raises(BenchError, match=r"exit code 1[\s\S]*no such luck"):
        measure.run([sys.executable, "-c", "raise SystemExit('no such luck')"], timeout_s=30)


def test_the_fixed_cost_of_a_job_is_taken_off() -> None:
    outcome = Outcome(1, [Span(0.0, 2.0), Span(2.0, 5.0)], fixed_s=1.0)
    result = Result("flink", Job("W1", 1_000, 1), [measure.Run(outcome, 0.0, 2.0, 0)])
    assert result.seconds == [1.0, 2.0]
    assert result.rate.max == 1_000
    assert result.as_json()["events_per_core_s"] == pytest.approx(result.rate.median / 2)


def test_the_command_line_lists_what_there_is() -> None:
    from click.testing import CliRunner

    from bench.__main__ import main

    printed = CliRunner().invoke(main, ["--list"]).output
    assert all(name in printed for name in ("W1u", "W3f", "duckdb", "flink", "bytewax", "pathway"))
    assert Path(measure.ROOT, "scripts", "bench").exists()
