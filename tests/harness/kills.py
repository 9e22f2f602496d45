"""Real runs, hurt at random moments: what they commit must be what an undisturbed run writes.

Processes are killed (-9) one by one or all at once, stopped until somebody finds that they hang, or held up for a
while; where a file system may be mounted, state and output lie on a small one that is now and then full. A run that
ends is started again, as its user would; when it has come to its end, its output is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import psutil
import pyarrow.parquet as pq

from .roles import role_of

ROWS = 100_000
_DISK_BYTES = 64 << 20
_LONGEST_LIFE_S = 120.0

FLOW = '''
import sys
from datetime import timedelta

import millstream as ms
from millstream import col


class Quiet(ms.Process):
    """Says when a key was quiet for a while, and what had come."""

    total = ms.value_state(0)

    def on_event(self, event, ctx):
        self.total.value += event.n
        ctx.cancel_timer(name="quiet")
        ctx.set_timer(timedelta(milliseconds=500), name="quiet")

    def on_timer(self, timer, ctx):
        ctx.emit({"k": ctx.key, "at": timer.time, "n": self.total.value})


def add_up(state, event):
    return state + event.n, {"id": event.id, "sum": state + event.n}


flow = ms.Flow("chaos")
events = flow.read_jsonl(f"{sys.argv[1]}/in-*.jsonl", partitions="files").event_time(
    "at", unit="ms", out_of_orderness="1s"
)
keyed = events.key_by("k")
panes = keyed.window(ms.tumbling("5s")).agg(n=ms.count(), total=ms.sum("n"))
panes.write_jsonl("out/panes/")
panes.late.write_jsonl("out/late/")
panes.key_by("n").window(ms.tumbling("20s")).agg(panes=ms.count()).write_csv("out/again.csv")
keyed.window(ms.session("40ms")).agg(count=ms.count()).write_parquet("out/sessions/")
keyed.scan(0, add_up, order="event_time", schema={"id": int, "sum": int}).write_jsonl("out/sums.jsonl")
keyed.process(Quiet, order="event_time").write_jsonl("out/quiet/")
few = events.filter(col("n") < 5).select("at", "k", m="n").key_by("k")
keyed.join(few, within=("-30ms", "30ms")).write_csv("out/pairs/")
totals = keyed.agg(events=ms.count(), total=ms.sum("n"))
totals.write_sqlite("out/results.sqlite", "rows")
totals.key_by("events").agg(keys=ms.count()).write_sqlite("out/results.sqlite", "counts", key="events")
panes.write_duckdb("out/panes.duckdb", "rows", mode="append")
'''


def write_input(folder: Path, rows: int = ROWS) -> None:
    """Two source partitions that go side by side, out of order by less than the flow allows, and a few late events."""
    dice = random.Random(1)
    for part in range(2):
        lines = []
        for row in range(rows // 2):
            late = 20_000 if row % 1_000 == 999 else dice.randrange(900)
            event = {
                "id": 2 * row + part,
                "at": max(0, 2 * row - late),
                "k": f"k{dice.randrange(200)}",
                "n": dice.randrange(100),
            }
            lines.append(json.dumps(event))
        (folder / f"in-{part}.jsonl").write_text("\n".join(lines) + "\n")


def rows_in(folder: Path) -> dict[str, Counter[str]]:
    """What a reader finds, by the name of the output; the order of rows is not promised."""
    found: dict[str, Counter[str]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".sqlite", ".duckdb"):
            found[path.name] = _rows_of_tables(path)
        if path.suffix in (".sqlite", ".duckdb", ".sqlite-wal", ".sqlite-shm", ".wal"):
            continue
        files = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else [path]
        rows: Counter[str] = Counter()
        for file in files:
            if file.suffix == ".parquet":
                rows.update(map(repr, pq.read_table(file).to_pylist()))
            else:
                lines = file.read_text().splitlines()
                rows.update(lines[1:] if file.suffix == ".csv" else lines)
        found[path.name] = rows
    return found


def _rows_of_tables(path: Path) -> Counter[str]:
    if path.suffix == ".duckdb":
        with duckdb.connect(str(path)) as database:  # as text: times as Python values want a library of time zones
            return Counter(row for (row,) in database.execute("SELECT rows::VARCHAR FROM rows").fetchall())
    with contextlib.closing(sqlite3.connect(path)) as tables:
        both = [(name, row) for name in ("rows", "counts") for row in tables.execute(f"SELECT * FROM {name}")]
        return Counter(map(repr, both))


class Kills:
    """Args:
    wanted: how many kills there are to be.
    seed: chooses victims and moments; what they hit in the processes is up to the machine.
    say: takes a line for people at a time.
    rows: how many events a run has to work on.
    """

    def __init__(self, wanted: int, seed: int, say: Callable[[str], None], rows: int = ROWS) -> None:
        self.wanted = wanted
        self._rows = rows
        self.done: Counter[str] = Counter()
        self._dice = random.Random(seed)
        self._say = say
        self._wrong = 0
        self._mounted = False

    @property
    def kills(self) -> int:
        return sum(times for what, times in self.done.items() if what.startswith("kill"))

    def run(self) -> bool:
        """Whether all output was right."""
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chaos-") as name:
            folder = Path(name)
            write_input(folder, self._rows)
            (folder / "flow.py").write_text(FLOW)
            calm = folder / "calm"
            calm.mkdir()
            undisturbed = self._start(folder, calm, checkpoints=False)
            _, said = undisturbed.communicate(timeout=_LONGEST_LIFE_S)
            if undisturbed.returncode:
                raise SystemExit(f"the undisturbed run failed:\n{said}")
            expected = rows_in(calm / "out")
            self._say(
                f"undisturbed: {sum(map(Counter.total, expected.values())):,} rows in {time.monotonic() - started_s:.1f} s"
            )
            rounds = 0
            while self.kills < self.wanted:
                rounds += 1
                with self._small_disk(folder / f"round-{rounds}") as disk:
                    lives = self._hurt_until_it_ends(folder, disk)
                    self._compare(rounds, lives, expected, rows_in(disk / "out"))
        what = ", ".join(f"{times} x {what}" for what, times in self.done.most_common())
        full = "" if self._mounted else "; no file system could be mounted, so none was full"
        self._say(
            f"{self.kills} kills in {rounds} runs, {self._wrong} of them wrong ({what}){full}; "
            f"{time.monotonic() - started_s:.0f} s"
        )
        return not self._wrong

    def _compare(
        self, number: int, lives: int, expected: dict[str, Counter[str]], found: dict[str, Counter[str]]
    ) -> None:
        wrong = [n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n)]
        self._say(f"run {number}: {lives} starts, {self.kills} kills so far: {'wrong' if wrong else 'right'}")
        for name in wrong:
            missing, doubled = expected[name] - found.get(name, Counter()), found.get(name, Counter()) - expected[name]
            self._say(f"  {name}: {missing.total()} rows missing, {doubled.total()} too many")
            for what, rows in (("missing", missing), ("too many", doubled)):
                for row, times in list(rows.items())[:3]:
                    self._say(f"    {what} ({times}): {row[:200]}")
        self._wrong += bool(wrong)

    # --- one run, however often it has to be started ---

    def _hurt_until_it_ends(self, folder: Path, disk: Path) -> int:
        lives = 0
        while True:
            lives += 1
            process = self._start(folder, disk, checkpoints=True)
            deadline_s = time.monotonic() + _LONGEST_LIFE_S
            before = self.done.total()
            try:
                while True:
                    if self.kills < self.wanted:
                        self._hurt(process, disk)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(self._dice.uniform(0.2, 4.0))
                        break
                    if time.monotonic() > deadline_s:
                        raise AssertionError(f"a run does not come to its end:\n{_states(process.pid)}")
            finally:
                if process.poll() is None:
                    _kill([process.pid, *_children(process.pid).values()])
            said = process.communicate()[1]
            if "Traceback" in said or "bug in Millstream" in said or process.returncode == 2:
                raise AssertionError(f"a run ended with:\n{said}")
            if process.returncode == 0:
                return lives
            if self.done.total() == before:
                raise AssertionError(f"a run that nobody hurt ended with:\n{said}")

    def _start(self, folder: Path, where: Path, *, checkpoints: bool) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).parent / "millstream"), "run", str(folder / "flow.py"), "--plain"]
        command += ["--workers", str(self._dice.randint(1, 3)), "--hang-timeout", "6s", "--batch-size", "5000"]
        command += ["--checkpoint-interval", "1s" if checkpoints else "off"]
        return subprocess.Popen(
            [*command, "--", str(folder)], cwd=where, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _hurt(self, process: subprocess.Popen[str], disk: Path) -> None:
        dice = self._dice
        children = _children(process.pid)
        workers = sorted(name for name in children if name.startswith("worker"))
        match dice.choices(
            ["worker", "coordinator", "supervisor", "all", "stop", "pause", "fill"], [6, 3, 3, 3, 1, 1, 1]
        )[0]:
            case "worker" if workers:
                self.done["kill of a worker"] += _kill([children[dice.choice(workers)]])
            case "coordinator" if "coordinator" in children:
                self.done["kill of the coordinator"] += _kill([children["coordinator"]])
            case "supervisor" if children:
                self.done["kill of the supervisor"] += _kill([process.pid])
            case "all" if children:
                self.done["kill of all at once"] += _kill([process.pid, *children.values()])
            case "stop" if workers:
                self.done["stop for good"] += _signal(children[dice.choice(workers)], signal.SIGSTOP)
            case "pause" if children:
                victim = dice.choice([process.pid, *children.values()])
                self.done["pause"] += _signal(victim, signal.SIGSTOP)
                time.sleep(dice.uniform(0.1, 1.0))
                _signal(victim, signal.SIGCONT)
            case "fill" if self._mounted:
                self.done["full disk"] += 1
                _fill(disk, dice.uniform(0.2, 2.0))

    @contextlib.contextmanager
    def _small_disk(self, path: Path) -> Iterator[Path]:
        path.mkdir()
        mount = shutil.which("mount")
        options = ["-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(path)]
        mounted = mount is not None and subprocess.run([mount, *options], capture_output=True).returncode == 0
        self._mounted |= mounted
        try:
            yield path
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", str(path)], check=True)


def _children(supervisor: int) -> dict[str, int]:
    """The processes of a run by their names."""
    found: dict[str, int] = {}
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(supervisor).children():
            with contextlib.suppress(psutil.Error):
                role = role_of(child)
                if role is not None:
                    found[role] = child.pid
    return found


def _signal(process: int, number: int) -> bool:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


def _kill(processes: list[int]) -> bool:
    return sum(_signal(process, signal.SIGKILL) for process in processes) > 0


def _fill(folder: Path, for_s: float) -> None:
    """Leave no space on a small disk for a while."""
    filler = folder / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        time.sleep(for_s)
    finally:
        filler.unlink(missing_ok=True)


def _states(supervisor: int) -> str:
    return "\n".join(
        f"{name}: process {pid}, {psutil.Process(pid).status()}" for name, pid in _children(supervisor).items()
    )
