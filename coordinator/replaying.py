"""Asking for dead letters to be replayed: which are meant, which of them can be, and the logs by which the run gets them.

A letter goes again to the operator that had refused it. From which source's partitions its block comes is said by the plan
(`Entries`). Only letters that a complete checkpoint counts are replayed: those from after it are taken out when the run goes on from
there, and their records come again. Each is replayed once: a letter that is in a log is there for good.

A run that goes on writes the logs itself. For one that is not there, the command is kept (`ask_next_run`) and its next life takes it up.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.store import CheckpointStore
from millstream.commands import Answer, Replay, decode_command, encode_command
from millstream.connectors.text import RAW_BYTES
from millstream.control import SOCKET, RunningFlow
from millstream.coordinator.control import Request
from millstream.coordinator.replays import ASKED, REPLAYS, log_path
from millstream.coordinator.state_directory import locked
from millstream.deadletters import after, name_of, stored, stored_in
from millstream.errors import CheckpointError, CommandError, ProcessError
from millstream.plan import PhysicalPlan, StageKind
from millstream.specs.ends import ReadSpec
from millstream.topology import Topology

_MOST_ASKED_BYTES: Final = 1 << 20

Letter = Mapping[str, Any]


class Entries:
    """By which sources dead letters go back to operators of a plan."""

    def __init__(self, plan: PhysicalPlan) -> None:
        topology = Topology(plan)
        self._plan = plan
        self._nodes = {node.name: number for number, node in plan.nodes.items()}
        self._stages = {node: stage for stage in plan.stages for node in stage.nodes}
        self._sources = {
            node: sorted(plan.nodes[s].name for s in topology.sources_above(node, stage))
            for node, stage in self._stages.items()
            if stage.kind is StageKind.BLOCKS
        }
        for exchange in plan.exchanges:
            taker = topology.taker_of(exchange)
            if taker is not None:
                number, port = exchange.outputs[0]
                assert number is not None
                above = topology.sources_above(port.node, plan.stages[number])
                self._sources[taker] = sorted(plan.nodes[s].name for s in above)

    def source_of(self, operator: str, ended: frozenset[str] = frozenset()) -> str | None:
        """A source that is still read, by whose partitions letters of an operator go back to it; None: there is none."""
        number = self._nodes.get(operator)
        sources = [] if number is None else self._sources.get(number, [])
        return next((s for s in sources if s not in ended), None)

    def why_not(self, letter: Letter, ended: frozenset[str]) -> str:
        """Why a letter cannot be replayed, for a sentence about letters of its operator; "": it can."""
        operator = name_of(str(letter["operator"]))
        number = self._nodes.get(operator)
        if number is None:
            return "the flow has no operator of that name any more"
        if number not in self._sources:
            return "it is not the first behind an exchange by key, or others read what it reads"
        if "id" not in letter:
            return "they were written by an earlier release"
        if isinstance(self._plan.nodes[number].spec, ReadSpec):
            if len(str(letter.get("record", letter.get("record_base64")))) >= RAW_BYTES:
                return "of so long a record only the beginning is kept"
            if self._plan.schemas[number] is None:
                return "its fields are found out from what is read first; say schema="
        elif "row" not in letter:
            return "they do not hold the event whole"
        if self.source_of(operator, ended) is None:
            return "its input has been read to its end"
        return ""


@dataclass
class Outcome:
    """What came of a request.

    Attributes:
        chosen: by operator, how many letters are replayed.
        refused: by operator and reason, how many cannot be.
        before: how many had been before.
    """

    chosen: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    before: int = 0

    def __str__(self) -> str:
        total = self.chosen.total()
        of = ", ".join(f"{count:,} of {name}" for name, count in sorted(self.chosen.items()))
        goes = (
            "goes again to the operator that had refused it"
            if total == 1
            else "go again to the operators that had refused them"
        )
        said = [f"{_letters(total)} {goes}: {of}" if total else "no dead letter is replayed"]
        said += [
            f"{_letters(count)} of {name} cannot be replayed: {why}"
            for (name, why), count in sorted(self.refused.items())
        ]
        if self.before:
            said.append(f"{_letters(self.before)} had been replayed before")
        return "; ".join(said)


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


class Ids:
    """Ids of letters, of which there may be millions: by process and life, a byte for each number."""

    def __init__(self) -> None:
        self._by_writer: dict[str, bytearray] = {}

    def add(self, letter_id: str) -> None:
        writer, _, number = letter_id.rpartition("-")
        marks = self._by_writer.setdefault(writer, bytearray())
        place = int(number)
        if place >= len(marks):
            marks.extend(bytes(place + 1 - len(marks)))
        marks[place] = 1

    def __contains__(self, letter_id: str) -> bool:
        writer, _, number = letter_id.rpartition("-")
        marks = self._by_writer.get(writer, b"")
        return bool(marks) and int(number) < len(marks) and bool(marks[int(number)])


def asked_for(state: Path) -> Ids:
    """The letters that have been replayed, or are about to be."""
    known = Ids()
    for path in sorted((state / REPLAYS).glob("*.jsonl")):
        for letter in stored_in(path):
            known.add(letter["id"])
    return known


def replay(state: Path, command: Replay, entries: Entries, manifest: Manifest | None) -> Outcome:
    """Put the letters that a command means into the logs; or only count them, where it says so.

    Args:
        manifest: the newest checkpoint; None: the run makes none.
    Raises:
        OSError: a log cannot be written.
    """
    outcome = Outcome()
    ended = frozenset[str]() if manifest is None else _ended(manifest)
    known = asked_for(state)
    with ExitStack() as stack:
        logs: dict[str, IO[bytes]] = {}
        for letter in _meant(state, command):
            operator = name_of(str(letter["operator"]))
            if letter.get("id", "") in known:
                outcome.before += 1
                continue
            if manifest is not None and not command.dry and after(letter) >= manifest.epoch:
                continue  # it is not sure yet that it stays one
            why = entries.why_not(letter, ended)
            if why:
                outcome.refused[operator, why] += 1
                continue
            outcome.chosen[operator] += 1
            source = entries.source_of(operator, ended)
            if command.dry or source is None:
                continue
            if source not in logs:
                logs[source] = stack.enter_context(_opened(log_path(state, source)))
            logs[source].write(json.dumps(letter, ensure_ascii=False).encode() + b"\n")
        for log in logs.values():
            log.flush()
            os.fsync(log.fileno())
    return outcome


def _opened(path: Path) -> IO[bytes]:
    """A log, to go on behind its last whole line: whoever wrote to it may have been killed."""
    path.parent.mkdir(exist_ok=True)
    log = path.open("ab+")
    size = log.seek(0, os.SEEK_END)
    while size:
        start = max(0, size - (1 << 16))
        log.seek(start)
        newline = log.read(size - start).rfind(b"\n")
        if newline >= 0:
            size = start + newline + 1
            break
        size = start
    log.truncate(size)
    return log


def _ended(manifest: Manifest) -> frozenset[str]:
    """The sources that have been read to their end."""
    return frozenset(p.source for p in manifest.partitions) - {p.source for p in manifest.partitions if not p.ended}


def _meant(state: Path, command: Replay) -> Iterator[Letter]:
    wanted = None if command.letters is None else frozenset(command.letters)
    for letter in stored(state):
        if (
            (command.operator is None or name_of(str(letter.get("operator"))) == command.operator)
            and (command.reason is None or command.reason in str(letter.get("reason")))
            and (wanted is None or letter.get("id") in wanted)
        ):
            yield letter


class Replaying:
    """The replays that are asked of a run that goes on: threads of the supervisor look through the letters.

    Attributes:
        plan: the plan of the life that goes on.
    """

    def __init__(self, state: Path, store: CheckpointStore) -> None:
        self._state, self._store = state, store
        self._at_rest = threading.Lock()
        self._lives = 0
        self._threads: list[threading.Thread] = []
        self.plan: PhysicalPlan | None = None

    @contextmanager
    def between_lives(self) -> Iterator[None]:
        """Nothing is put into the logs while they are cut back to a checkpoint."""
        with self._at_rest:
            self._lives += 1
            yield

    def begin(self, request: Request, epoch: int | None) -> None:
        """Do what a `Replay` asks for; the request is answered.

        Args:
            epoch: the checkpoint that was made for it; 0: the run makes none; None: it is only to be said what would be done.
        """
        thread = threading.Thread(target=self._replay, args=(request, epoch, self._lives), name="replay")
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        thread.start()

    def _replay(self, request: Request, epoch: int | None, life: int) -> None:
        command = request.command
        assert isinstance(command, Replay) and self.plan is not None
        try:
            with self._at_rest:
                if life != self._lives:
                    request.refuse("replay: the run has gone back to a checkpoint meanwhile; ask again")
                    return
                epochs = self._store.epochs() if epoch is None else [epoch] if epoch else []
                manifest = self._store.manifest(epochs[-1]) if epochs else None
                outcome = replay(self._state, command, Entries(self.plan), manifest)
        except (CheckpointError, OSError) as error:
            request.refuse(f"replay: {error}")
            return
        request.answer(Answer(f"{outcome}", error=not outcome.chosen, letters=outcome.chosen.total()))

    def close(self) -> None:
        """Wait for what is being done."""
        for thread in self._threads:
            thread.join()


# --- a run that is not there ---


def ask(state: Path, command: Replay) -> str:
    """Have letters replayed by the run that goes on, or by the next one; returns what there is to tell.

    Raises:
        CommandError: there are none, or none can be replayed.
        ProcessError: the state directory cannot be used.
    """
    try:
        with locked(state) as directory:
            if not directory.unfinished:
                raise CommandError(
                    f"{state}: the flow does not run, and has no checkpoint to go on from: its next run begins anew, and "
                    "reads all of its input again, also these records"
                )
            outcome = ask_next_run(state, command)
    except ProcessError:
        if not (state / SOCKET).exists():
            raise
        return RunningFlow(state).ask(command).said
    if not outcome.chosen:
        raise CommandError(f"{state}: {outcome}" if outcome.before else f"{state}: there are no such dead letters")
    return f"the flow does not run; its next run is asked for this: {outcome}"


def ask_next_run(state: Path, command: Replay) -> Outcome:
    """Keep a command for the next life of the flow.

    Returns:
        What it will try to replay.
    Raises:
        CommandError: there is nothing to go on with; too many commands wait; or it cannot be written.
    """
    outcome, known = Outcome(), asked_for(state)
    for letter in _meant(state, command):
        if letter.get("id", "") in known:
            outcome.before += 1
        else:
            outcome.chosen[name_of(str(letter["operator"]))] += 1
    path = state / ASKED
    if command.dry or not outcome.chosen:
        return outcome
    try:
        waiting = path.read_bytes() if path.exists() else b""
        if len(waiting) > _MOST_ASKED_BYTES:
            raise CommandError(f"{path}: too many replays are asked for already; run the flow, which takes them up")
        DirectoryDisk(state).write(ASKED, [waiting + encode_command(command)])
    except OSError as error:
        raise CommandError(f"{path}: the replay cannot be asked for: {error.strerror}") from error
    return outcome


def take_up(state: Path, entries: Entries, manifest: Manifest) -> Iterator[str]:
    """At the beginning of a life: put into the logs what was asked for, and out of them what has no operator any more.

    Returns:
        What there is to tell.
    Raises:
        OSError: a log cannot be written.
    """
    for path in sorted((state / REPLAYS).glob("*.jsonl")):
        dropped = _drop_unknown(path, entries, manifest)
        if dropped:
            yield f"{_letters(dropped)} that waited to be replayed stay what they are: the flow has not their operators any more"
    asked = state / ASKED
    if not asked.exists():
        return
    for line in asked.read_bytes().splitlines():
        command = decode_command(line)
        assert isinstance(command, Replay)
        yield f"replay: {replay(state, command, entries, manifest)}"
    asked.unlink()


def _drop_unknown(path: Path, entries: Entries, manifest: Manifest) -> int:
    begun = next((end for source, end in manifest.replayed.items() if log_path(path.parent.parent, source) == path), 0)
    whole = path.with_suffix(".kept")
    at = dropped = 0
    with path.open("rb") as log, whole.open("wb") as out:
        for line in log:
            if at >= begun and entries.source_of(name_of(json.loads(line)["operator"])) is None:
                dropped += 1
            else:
                out.write(line)
            at += len(line)
    if dropped:
        whole.replace(path)
    else:
        whole.unlink()
    return dropped
