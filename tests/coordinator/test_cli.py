"""The command line: what is printed, on which stream, and with which exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click.testing
import pytest

import millstream as ms
from millstream.coordinator import launch
from millstream.coordinator.cli import main
from millstream.coordinator.summary import summary
from millstream.errors import InternalError, ProcessError
from millstream.result import RunResult

EXAMPLES = Path(__file__).parents[2] / "examples"

FLOW = """
import sys
import millstream as ms

flow = ms.Flow("totals")
stream = flow.read_csv("in.csv")
stream.key_by("user").agg(total=ms.sum("amount")).write_jsonl("out.jsonl")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    (tmp_path / "in.csv").write_text("user,amount\nada,1\nben,2\nada,3\n")
    (tmp_path / "totals.py").write_text(FLOW)
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, list(arguments))


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    result = invoke("--version")
    assert result.stdout == f"millstream {ms.__version__}\n"
    assert ms.__version__ == version("millstream")


def test_explain_shows_the_plan_on_standard_output(folder: Path) -> None:
    result = invoke("explain", "totals.py", "--workers", "3")
    assert result.exit_code == 0
    assert result.stdout.startswith("totals: 3 workers")
    assert "by key user" in result.stdout
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nothing.py"], "nothing.py: there is no such file"),
        (["run", "in.csv"], "in.csv is not a Python file"),
        (["run", "totals.py:nope"], "there is no flow 'nope'; flows in the file: flow"),
        (["run", "totals.py", "--workers", "0"], "0 is not possible; a run has 1 to 256 workers"),
        (["run", "totals.py", "--workers", "257"], "257 is not possible; a run has 1 to 256 workers"),
        (["run", "totals.py", "--workers", "many"], "'many' is neither a number nor 'auto'"),
        (["run", "totals.py", "--batch-size", "0"], "0 is not in the range"),
        (["run", "totals.py", "--hang-timeout", "soon"], "'soon' is not a duration"),
        (["run", "totals.py", "--hang-timeout", "10ms"], "10ms is too short"),
        (["run", "totals.py", "--ingest", "nowhere"], "'nowhere' is not one of"),
        (["run", "totals.py", "--workrs", "2"], "Did you mean '--workers'?"),
        (["rum", "totals.py"], "'resume', 'run'?"),
        (["run"], "Missing argument 'FLOW.py[:NAME]'"),
        (["explain", "nothing.py"], "nothing.py: there is no such file"),
    ],
)
def test_misuse_is_told_in_a_sentence_with_status_2(folder: Path, arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_flow_with_an_unknown_field_is_told_the_line_and_the_nearest_name(folder: Path) -> None:
    (folder / "typo.py").write_text(FLOW.replace('"amount"', '"amuont"'))
    result = invoke("run", "typo.py")
    assert result.exit_code == 2
    assert "typo.py:7" in result.stderr and "did you mean 'amount'?" in result.stderr


def test_an_input_that_is_missing_is_a_failed_run(folder: Path) -> None:
    (folder / "in.csv").unlink()
    result = invoke("run", "totals.py")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and "in.csv" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_failed_run_is_told_without_a_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(flow: ms.Flow, options: launch.RunOptions) -> RunResult:
        raise ProcessError("worker-1 (process 7) was killed by SIGKILL")

    monkeypatch.setattr(launch, "run", fail)
    result = invoke("run", "totals.py")
    assert (result.exit_code, result.stderr) == (1, "error: worker-1 (process 7) was killed by SIGKILL\n")


@pytest.mark.parametrize("error", [InternalError("sequence 7 after 5"), KeyError("x")])
def test_a_fault_of_ours_keeps_its_traceback_and_is_called_a_bug(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(flow: ms.Flow, options: launch.RunOptions) -> RunResult:
        raise error

    monkeypatch.setattr(launch, "run", fail)
    result = invoke("run", "totals.py")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "this is a bug in Millstream" in result.stderr


def test_options_reach_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[launch.RunOptions] = []

    def run(flow: ms.Flow, options: launch.RunOptions) -> RunResult:
        seen.append(options)
        return RunResult(flow.name, 1.0, 3, 2, 0, 0, 0)

    monkeypatch.setattr(launch, "run", run)
    sizes = ["--workers", "3", "--batch-size", "10", "--hang-timeout", "2m"]
    result = invoke(
        "run", "totals.py", *sizes, "--ingest", "workers", "--state", "kept", "--plain", "--ui", "localhost:81"
    )
    assert result.exit_code == 0, result.output
    options = launch.RunOptions(3, 10, "workers", Path("kept"), False, (str(folder),), 120.0, page="localhost:81")
    assert seen == [options]


def test_what_follows_two_dashes_is_for_the_flow_file(folder: Path) -> None:
    (folder / "arguments.py").write_text(FLOW.replace('"totals"', "'-'.join(sys.argv[1:])"))
    assert invoke("explain", "arguments.py", "--workers", "1", "--", "a", "b").stdout.startswith("a-b: 1 worker")


def test_a_run_that_was_stopped_early_says_so_and_ends_with_130(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "run", lambda flow, options: RunResult(flow.name, 1.0, 3, 2, 0, 0, 0, interrupted=True))
    result = invoke("run", "totals.py")
    assert result.exit_code == 130
    assert "totals stopped early" in result.stderr


# --- the summary ---


def windowed_flow() -> ms.Flow:
    flow = ms.Flow("flights")
    panes = flow.read_csv("flights.csv").event_time("at").key_by("carrier").window(ms.tumbling("1h")).agg(n=ms.count())
    panes.write_jsonl("out/panes.jsonl")
    return flow


def test_the_summary_names_every_place_where_events_went() -> None:
    flow = windowed_flow()
    result = RunResult(
        "flights", 2.0, 1_000, 40, 7, 2, 3, operators={"write_jsonl": {"rows_out": 40}},
        dead_letter_path=Path(".millstream/flights/dead-letters"), late_path=Path(".millstream/flights/late"),
        guarantee="exactly once",
    )  # fmt: skip
    lines = summary(flow, result).plain.splitlines()
    assert lines[:5] == [
        "flights done in 2.0 s: 1,000 events in (500/s), 40 rows out",
        "  write_jsonl('out/panes.jsonl')  40 rows",
        "  7 late events: .millstream/flights/late",
        "  2 dead letters: .millstream/flights/dead-letters",
        "  3 unmatched events: of a type that no handler is subscribed to",
    ]
    assert lines[5] == "  exactly once"


def test_late_events_that_the_flow_consumes_are_shown_where_it_puts_them() -> None:
    flow = windowed_flow()
    panes = ms.WindowResult(flow, next(n.inputs[0] for n in flow.nodes if n.name == "write_jsonl"))
    panes.late.select("carrier").write_csv("out/late.csv")
    text = summary(flow, RunResult("flights", 2.0, 10, 4, 7, 0, 0)).plain
    assert "7 late events: write_csv('out/late.csv')" in text


def test_late_events_of_either_side_of_a_join_are_shown_where_the_flow_puts_them() -> None:
    flow = ms.Flow("orders")
    orders, paid = (flow.read_csv(f"{n}.csv").event_time("at").key_by("order") for n in ("orders", "paid"))
    pairs = orders.join(paid, within=("0s", "1h"))
    pairs.write_jsonl("out/pairs.jsonl")
    pairs.late_right.write_csv("out/late.csv")
    text = summary(flow, RunResult("orders", 2.0, 10, 4, 7, 0, 0)).plain
    assert "7 late events: write_csv('out/late.csv')" in text


def test_a_summary_without_troubles_mentions_none() -> None:
    text = summary(windowed_flow(), RunResult("flights", 0.0, 0, 0, 0, 0, 0)).plain
    assert not any(word in text for word in ("late", "dead", "unmatched"))


# --- real processes ---


def millstream(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from millstream.coordinator.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_a_run_writes_its_output_and_a_summary(folder: Path) -> None:
    done = millstream(folder, "run", "totals.py", "--workers", "2")
    assert done.returncode == 0, done.stderr
    rows = {r["user"]: r["total"] for r in map(json.loads, (folder / "out.jsonl").read_text().splitlines())}
    assert rows == {"ada": 4, "ben": 2}
    assert "totals done in" in done.stderr
    assert "write_jsonl('out.jsonl')  2 rows" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_a_function_that_raises_is_shown_with_its_event_and_the_users_lines(folder: Path) -> None:
    (folder / "boom.py").write_text(
        "import millstream as ms\nflow = ms.Flow('boom')\n\ndef ratio(e):\n    return {'r': 1 / (e.amount - 2)}\n\n"
        "flow.read_csv('in.csv').map(ratio).print()\n"
    )
    done = millstream(folder, "run", "boom.py", "--workers", "1", "--plain")
    assert done.returncode == 1
    assert "error: map (boom.py:7)" in done.stderr
    assert "amount=2" in done.stderr
    assert 'boom.py", line 5, in ratio' in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "bug in Millstream" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(p.name for p in EXAMPLES.glob("*.py")))
def test_every_example_runs(folder: Path, example: str) -> None:
    done = millstream(folder, "run", str(EXAMPLES / example), "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert " done in " in done.stderr
