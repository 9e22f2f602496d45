"""Who takes part in a benchmark, and the environment each one runs in.

Peers live in `.venv-peers`, made on first use: their dependencies are many, old, and none of ours.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.job import BenchError, Job
from bench.measure import ROOT

PEERS = ROOT / ".venv-peers"
REQUIREMENTS = ROOT / "bench" / "peers" / "requirements.txt"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One engine."""

    name: str
    what: str
    module: str
    python: Callable[[], Path]
    jobs_in_one_process: bool = False
    """Whether repeats share a process: an engine that compiles as it runs is measured warm."""

    def command(self, job: Job) -> list[str]:
        return [str(self.python()), "-m", self.module, *job.arguments()]


def peers_python() -> Path:
    """The interpreter of the peers' environment, which is made when it is not there or no longer what is asked for."""
    python, installed = PEERS / "bin" / "python", PEERS / "installed.txt"
    if not installed.exists() or installed.read_text() != REQUIREMENTS.read_text():
        print(f"installing the peers into {PEERS.name} (minutes, once)", file=sys.stderr)
        for command in (
            [sys.executable, "-m", "venv", str(PEERS)],
            [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)],
        ):
            if subprocess.run(command, check=False).returncode:
                raise BenchError(f"the peers' environment: {' '.join(command)} failed")
        installed.write_text(REQUIREMENTS.read_text())
    return python


def own_python() -> Path:
    return Path(sys.executable)


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("millstream", "this checkout", "bench.millstream_flows", own_python),
        Contestant(
            "duckdb", "the limit: a query over all events at once", "bench.peers.duckdb_sql", peers_python, True
        ),
        Contestant("flink", "Apache Flink SQL, in a warm JVM", "bench.peers.flink_sql", peers_python, True),
        Contestant("bytewax", "Bytewax", "bench.peers.bytewax_flows", peers_python),
        Contestant("pathway", "Pathway, static mode", "bench.peers.pathway_tables", peers_python),
    )
}


def contestant(name: str) -> Contestant:
    if name not in CONTESTANTS:
        raise BenchError(f"no contestant {name!r}; there are {', '.join(CONTESTANTS)}")
    return CONTESTANTS[name]
