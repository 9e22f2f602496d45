"""The whole history of a run from one seed: its lives, what ended each of them, and what must be there in the end.

A seed chooses the flow's input, the sizes and delays of every life, and what goes wrong: processes are killed
between any two steps or in the middle of writing, hang, or are asked to stop; the disk fails or is full; checkpoints
rot; the clock jumps. After each life everyone returns to the newest checkpoint, perhaps with another number of
workers and another way of ingest. However it went, the committed output must be that of an undisturbed run.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import Recovery, repeat_commits
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.core import State
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.coordinator.replays import Replays
from millstream.errors import CheckpointError, MillstreamError
from millstream.flow import Flow
from millstream.operators.base import DeadLetter
from millstream.plan import PhysicalPlan
from millstream.planner import make_plan
from millstream.result import operator_totals
from millstream.specs.ends import ReadSpec
from millstream.topology import CALLER, COORDINATOR, SOURCE_HOST, worker_name

from .calls import calls_by
from .faults import Killed, SimulatedDisk, Trouble, was_injected
from .ledger import Ledger
from .simulator import Conditions, Queued, Simulation, Stuck

MakeFlow = Callable[[Flow, Ledger, int], None]
"""Builds a flow for a seed; what it writes goes into the ledger, by `harness.ledger`'s sinks."""

EVERYONE = "everyone"


class Wrong(AssertionError):
    """The committed output is not that of an undisturbed run."""


@dataclass
class Story:
    """What happened on the way.

    Attributes:
        lives: how many there were; endings: how each of them ended.
        recoveries: how many went on from a checkpoint; completed: how many checkpoints there were.
        rescaled: how often one went on with other workers.
        refused: how many damaged checkpoints were passed over.
        anew: how often there was none but damaged ones.
    """

    lives: int = 0
    turns: int = 0
    recoveries: int = 0
    rescaled: int = 0
    completed: int = 0
    refused: int = 0
    anew: int = 0
    endings: list[str] = field(default_factory=list)
    last: deque[str] = field(default_factory=deque)

    def __str__(self) -> str:
        return (
            f"{self.lives} lives ({', '.join(self.endings)}), {self.turns} turns, {self.completed} checkpoints, "
            f"{self.recoveries} recoveries, {self.rescaled} times other workers, {self.refused} damaged checkpoints, "
            f"{self.anew} times anew"
        )


class History:
    """Args:
    answer: what of a sink's rows must be the same each time; None: all of them.
    troubled_lives: how many lives may end before their time; the one after them runs to its end.
    """

    def __init__(
        self,
        make: MakeFlow,
        seed: int,
        *,
        answer: Callable[[str, Counter[str]], object] | None = None,
        troubled_lives: int = 6,
    ) -> None:
        self._make = make
        self._seed = seed
        self._answer = answer or (lambda name, rows: rows)
        self._dice = random.Random(seed)
        self._troubled_lives = troubled_lives
        self._trouble = Trouble(self._dice)
        self.disk = SimulatedDisk(self._trouble)
        self.store = CheckpointStore(self.disk)
        self.ledger = Ledger(self._trouble)
        self.story = Story()
        self._late_messages: Queued = {}
        self._letters: list[DeadLetter] = []
        self._counted: dict[str, int] = {}
        self._damaged = False
        self._attempts = 0
        self._folder: TemporaryDirectory[str] | None = None

    def run(self) -> Story:
        """
        Raises:
            Wrong: rows are missing, or there are more than there should be.
            Stuck: a life does not come to its end.
        """
        try:
            while not self._life():
                pass
            self._compare()
        except Exception as error:
            error.add_note(f"seed {self._seed} of {self._make.__name__}: {self.story}")
            raise
        return self.story

    def build(self, ledger: Ledger) -> Flow:
        flow = Flow("history")
        self._make(flow, ledger, self._seed)
        return flow

    # --- one life ---

    def _life(self) -> bool:
        """Whether the run has ended with this life."""
        story, dice = self.story, self._dice
        story.lives += 1
        troubled = story.lives <= self._troubled_lives
        self._trouble.full = False
        self._trouble.failing = dice.choice([0.0, 0.0, 0.02, 0.2]) if troubled else 0.0
        self._trouble.killing = dice.choice([0.0, 0.0, 0.005, 0.05]) if troubled else 0.0
        plan = self._plan()
        try:
            manifest = self._newest(plan)
            recovery = None
            if manifest is not None:
                self.store.set_aside_after(manifest.epoch)
                repeat_commits(plan, manifest)
                recovery = Recovery(manifest, self.store)
                if manifest.finished and dice.random() < 0.5:
                    return self._ended("ended before", manifest)
                story.recoveries += 1
        except Killed:
            return self._ended("supervisor killed", None)
        except MillstreamError as error:
            if not was_injected(error):
                raise
            return self._ended("commits failed", None)
        epoch = 0 if manifest is None else manifest.epoch
        self._letters = [letter for letter in self._letters if letter.after < epoch]
        policy = CheckpointPolicy(interval_us=dice.choice([0, 0, 1_000, 5_000]))
        conditions = Conditions(
            dice.choice([1, 1, 600, 16 * 2**20]), dice.choice([1, 3, 50]), dice.choice([0.0, 0.3, 0.8]),
            hangs=dice.choice([0.0, 0.0, 0.01]), jumps=dice.choice([0.0, 0.01]),
        )  # fmt: skip
        checkpoints = LocalCheckpoints(self.store, policy, self._attempt(), recovery)
        simulation = Simulation(plan, dice, conditions, checkpoints, self._replays(manifest), self._journals(plan))
        story.last = simulation.trace
        here = simulation.processes
        simulation.queued.update({pair: q for pair, q in self._late_messages.items() if pair[1] in here})
        try:
            with calls_by(dice):
                ending = self._live(simulation, troubled)
        except MillstreamError as error:
            if not (was_injected(error) or self._reports_injected(error)):
                error.add_note(str(simulation))
                raise
            ending = "a write failed"
        except Exception as error:
            error.add_note(str(simulation))
            raise
        finally:
            simulation.readers.close()
            self._letters += simulation.letters
            self._counted = counts(plan, simulation.figures)
            story.turns += simulation.turns
            story.rescaled += simulation.rescaled
            checkpointing = simulation.coordinator.checkpointing
            assert checkpointing is not None
            story.completed += checkpointing.completed
        self._late_messages = {pair: queue for pair, queue in simulation.queued.items() if dice.random() < 0.1}
        return self._ended(ending, None)

    def _newest(self, plan: PhysicalPlan) -> Manifest | None:
        """The checkpoint to go on from; where none can be used, the user who is told so gives them up (``--fresh``)."""
        manifest = self.store.newest(plan.name, self._refused)
        if manifest is None and self.store.epochs():
            self.disk.files.clear()
            self.story.anew += 1
        return manifest

    @staticmethod
    def _reports_injected(error: MillstreamError) -> bool:
        """A run that could not write says so in its own words."""
        return isinstance(error, CheckpointError) and "simulated" in str(error)

    def _live(self, simulation: Simulation, troubled: bool) -> str:
        """Run until the end, or until something ends it; returns what that was."""
        dice = self._dice
        fate = self._fate() if troubled else ""
        if fate and simulation.host is not None and dice.random() < 0.3:
            fate = SOURCE_HOST
        at_turn = int(dice.expovariate(1 / dice.choice([20, 100, 400]))) + 1 if fate else -1
        full_at = int(dice.expovariate(1 / 300)) if troubled and dice.random() < 0.1 else -1
        simulation.start()
        dying = -1
        rescales = dice.choice([0.0, 0.0, 0.003, 0.03])
        while not simulation.done:
            if rescales and not simulation.rescaling and dice.random() < rescales:
                simulation.rescale(self._plan(), self._attempt())
            if simulation.turns == at_turn:
                if fate == "stop":
                    simulation.stop()
                elif fate == EVERYONE:
                    return "everyone killed"
                elif fate == SOURCE_HOST or fate in simulation.processes:
                    simulation.kill(fate)
            if full_at >= 0:
                self._trouble.full = full_at <= simulation.turns < full_at + 200
            if simulation.dead and dying < 0:
                # Until the supervisor has noticed, the others go on.
                dying = simulation.turns + dice.choice([0, 10, 100, 1_000])
            if simulation.turns == dying or CALLER in simulation.dead:
                return f"{', '.join(sorted(simulation.dead))} killed"
            try:
                self._ask(simulation)
                simulation.turn()
            except Stuck:
                if not simulation.dead:
                    raise
                return f"{', '.join(sorted(simulation.dead))} killed"
        if simulation.coordinator.state is not State.DONE:
            return "stopped"
        if not simulation.dead:
            simulation.settle()
        return "ended"

    def _journals(self, plan: PhysicalPlan) -> Path | None:
        """The folder of the journals, for flows that have some; it stays from one life to the next."""
        if self._folder is None and any(plan.source_of(p).journaled for p in range(len(plan.partitions))):
            self._folder = TemporaryDirectory()
        return None if self._folder is None else Path(self._folder.name)

    def _replays(self, manifest: Manifest | None) -> Replays | None:
        """The dead letters that are to be replayed in a life that goes on from a checkpoint."""
        return None

    def _ask(self, simulation: Simulation) -> None:
        """What somebody asks of the run before its next turn."""

    def _plan(self) -> PhysicalPlan:
        dice = self._dice
        return make_plan(
            self.build(self.ledger),
            workers=dice.randint(1, 4),
            batch_rows=dice.choice([1, 2, 7, 50]),
            ingest=dice.choice(["coordinator", "workers"]),
        )

    def _attempt(self) -> int:
        self._attempts += 1
        return self._attempts

    def _fate(self) -> str:
        dice = self._dice
        names = [worker_name(dice.randrange(4)), COORDINATOR, CALLER, EVERYONE, "stop", ""]
        return dice.choices(names, [5, 3, 1, 3, 2, 1])[0]

    def _ended(self, ending: str, manifest: Manifest | None) -> bool:
        self.story.endings.append(ending)
        if ending == "ended" or manifest is not None:
            return True
        self.ledger.crash(self._dice)
        self._rot()
        return False

    # --- damage ---

    def _rot(self) -> None:
        """Now and then the newest checkpoint is damaged, where there is another one."""
        if self._dice.random() > 0.1 or len(self.store.epochs()) < 2 or self._folder is not None:
            return  # where all of them are damaged, what comes once is lost with them
        try:
            newest = self.store.manifest(self.store.epochs()[-1])
        except CheckpointError:
            return  # it is damaged already
        tables = [table.path for table in newest.tables]
        path = self._dice.choice([f"manifest-{newest.epoch:08d}.json", *tables])
        self.disk.damage(path, self._dice)
        self._damaged = True

    def _refused(self, error: CheckpointError) -> None:
        if not self._damaged:
            raise error
        self.story.refused += 1

    # --- what must be there ---

    def _compare(self) -> None:
        calm, letters, counted = self._calm()
        for name in sorted(calm.names | self.ledger.names):
            expected, found = (self._answer(name, ledger.rows(name)) for ledger in (calm, self.ledger))
            if expected != found:
                raise Wrong(f"{name}: {_difference(expected, found)}")

        found_letters = Counter(letter.record for letter in self._letters)
        if found_letters != letters:
            raise Wrong(f"dead letters: {_difference(letters, found_letters)}")
        if self.story.endings[-1] == "ended" and self._counted != counted:
            raise Wrong(f"events in, late events, dead letters: expected {counted}, counted {self._counted}")

    def _calm(self) -> tuple[Ledger, Counter[bytes | str], dict[str, int]]:
        """What an undisturbed run writes, refuses and counts."""
        ledger = Ledger(Trouble(random.Random(0)))
        letters: list[DeadLetter] = []
        plan = make_plan(self.build(ledger), workers=1, batch_rows=50)
        run = LocalRun(plan, letters.append)
        run.run()
        figures = {**run.coordinator.figures()["processes"], CALLER: run.caller.figures()}
        return ledger, Counter(letter.record for letter in letters), counts(plan, figures)


def counts(plan: PhysicalPlan, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """What must be counted the same however a run went: events of each source, late events and dead letters."""
    totals = operator_totals(figures)
    sources = [node.name for node in plan.nodes.values() if isinstance(node.spec, ReadSpec)]
    found = {name: totals.get(name, {}).get("rows_in", 0) for name in sources}
    for what in ("late", "dead_letters"):
        found[what] = sum(counters.get(what, 0) for counters in totals.values())
    return found


def _difference(expected: object, found: object) -> str:
    if isinstance(expected, Counter) and isinstance(found, Counter):
        return f"missing {dict(expected - found)}, too many {dict(found - expected)}"
    return f"expected {expected}, found {found}"
