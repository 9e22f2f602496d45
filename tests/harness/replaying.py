"""Histories in which dead letters are replayed: what refused them is mended now and then, and breaks again.

Letters are asked for at any moment, as soon as a checkpoint counts them, and the log may end in the middle of a line. In the end each
event is in every output once, or is a dead letter that was not replayed.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

import pyarrow as pa

import millstream as ms
from millstream.checkpoints.manifest import Manifest
from millstream.connectors.base import BadRecord, Decoded, Decoder
from millstream.coordinator.replays import Replays
from millstream.deadletters import as_json, name_of
from millstream.expr import col
from millstream.operators.base import DeadLetter
from millstream.plan import PhysicalPlan

from .flows import SCHEMA, put, span
from .history import History, Wrong
from .ledger import Ledger
from .simulator import Simulation
from .sources import TextSource

SOURCE = "lines"
_ID = re.compile(r"\bid\W*[:=] ?(\d+)")
_MOST_REPLAYED = 100
_IDS = re.compile(r"\[([\d, ]*)\]")


class World:
    """Attributes:
    broken: what is refused now: by the decoder, before event time, and behind it.
    """

    broken = False

    def check(self, event: Any, refused: int) -> Any:
        if self.broken and event.n == refused:
            raise ValueError(f"{refused}")
        return event


class _Strict:
    """A decoder that takes some lines only when the world is whole."""

    def __init__(self, decoder: Decoder, world: World) -> None:
        self._decoder, self._world = decoder, world

    def decode(self, block: bytes | memoryview | pa.Buffer) -> Decoded:
        lines = bytes(memoryview(block)).splitlines()
        refused = [self._world.broken and json.loads(line)["n"] == 4 for line in lines]
        good = b"".join(line + b"\n" for line, bad in zip(lines, refused, strict=True) if not bad)
        bad = [BadRecord(0, n, line, "four") for n, line in enumerate(lines) if refused[n]]
        return Decoded(self._decoder.decode(good).columns, bad)


class _Lines(TextSource):
    world: World

    def decoder(self, fields: Any) -> Decoder:
        return _Strict(super().decoder(fields), self.world)


def _events(seed: int) -> list[list[dict[str, Any]]]:
    dice = random.Random(seed)
    return [
        [
            {"id": 1000 * p + row, "t": 4 * row + dice.randint(-20, 20), "k": dice.choice("abc"), "n": dice.randrange(8)}
            for row in range(dice.choice([1, 15, 40]))
        ]
        for p in range(dice.randint(1, 3))
    ]  # fmt: skip


class Replayed(History):
    def __init__(self, seed: int) -> None:
        self.world = World()
        self.log = b""
        self.asked: set[str] = set()
        self._numbered: dict[int, tuple[str, DeadLetter]] = {}
        self.replayed = 0
        super().__init__(self._flow, seed)
        self._early = self._dice.random() < 0.5

    def _flow(self, flow: ms.Flow, ledger: Ledger, seed: int) -> None:
        source = _Lines(_events(seed), SCHEMA)
        source.world = self.world
        world = self.world

        def third(event: Any) -> Any:
            return world.check(event, 3)

        def fifth(event: Any) -> Any:
            return world.check(event, 5)

        rows = flow.source(source, name=SOURCE).select("id", "t", "k", "n")
        if self._early:  # before event time, and so in the worker also where the coordinator decodes
            rows = rows.map(third, on_error="dead_letter")
        timed = rows.event_time("t", unit="ms", out_of_orderness=span(10)).map(fifth, on_error="dead_letter")
        put(timed, ledger, "rows")
        put(rows.filter(col("n") > 1), ledger, "others")
        panes = timed.key_by("k").window(ms.tumbling(span(30))).agg(ids=ms.collect("id"))
        put(panes, ledger, "panes")
        put(panes.late, ledger, "late")

        def sixth(state: int, event: Any) -> tuple[int, dict[str, Any]]:
            return state + 1, {"id": world.check(event, 6).id}

        steps = timed.key_by("k").scan(
            0, sixth, schema={"id": int}, order="arrival", on_error="dead_letter", name="scan"
        )
        put(steps, ledger, "steps")

    def _plan(self) -> PhysicalPlan:
        self.world.broken = self._dice.random() < 0.6
        return super()._plan()

    # --- what is asked ---

    def _replays(self, manifest: Manifest | None) -> Replays | None:
        epoch = 0 if manifest is None else manifest.epoch
        lines = [line for line in self.log.splitlines(keepends=True) if line.endswith(b"\n")]
        kept = [line for line in lines if json.loads(line).get("after_checkpoint", 0) < epoch]
        self.log = b"".join(kept)
        self.asked = {json.loads(line)["id"] for line in kept}
        begun = {} if manifest is None else manifest.replayed
        assert begun.get(SOURCE, 0) <= len(self.log)
        return Replays(lambda source, offset, size: self.log[offset : offset + size], begun)

    def _ask(self, simulation: Simulation) -> None:
        if self.log and not self.log.endswith(b"\n"):
            self.log = self.log[: self.log.rfind(b"\n") + 1]  # whoever wrote to it was killed, and somebody asks again
        checkpointing = simulation.coordinator.checkpointing
        assert checkpointing is not None
        if all(p.ended or p.had_ended for p in simulation.coordinator.partitions) or self._dice.random() > 0.2:
            return
        for letter in [*self._letters, *simulation.letters]:
            fields = as_json(letter)
            fields["id"] = self._id(letter)
            counts = letter.after < checkpointing.last_epoch and self.replayed < _MOST_REPLAYED
            if not counts or fields["id"] in self.asked or self._dice.random() < 0.3:
                continue
            line = json.dumps(fields).encode() + b"\n"
            if self._dice.random() < 0.1:
                self.log += line[: len(line) // 2]
                break
            self.asked.add(fields["id"])
            self.log += line
            self.replayed += 1
        simulation.readers.look_for_replays()

    def _id(self, letter: DeadLetter) -> str:
        """By which letters are told from one another that say the same."""
        return self._numbered.setdefault(id(letter), (f"letter-1-{len(self._numbered)}", letter))[0]

    # --- what must be there ---

    def _compare(self) -> None:
        everything = {e["id"]: e["n"] for partition in _events(self._seed) for e in partition}
        waiting = [letter for letter in self._letters if self._id(letter) not in self.asked]
        lost: dict[str, Counter[int]] = {"": Counter(), "map": Counter(), "scan": Counter()}
        for letter in waiting:
            found = _ID.search(
                letter.record if isinstance(letter.record, str) else letter.record.decode().replace('"', "")
            )
            assert found is not None
            operator = name_of(letter.operator)
            lost["" if operator == SOURCE else "scan" if operator == "scan" else "map"][int(found[1])] += 1
        ids = {name: _ids(self.ledger.rows(name)) for name in ("rows", "panes", "late", "others", "steps")}
        all_ids = Counter(dict.fromkeys(everything, 1))
        beside = {"rows": Counter(), "panes": ids["late"], "steps": lost["scan"]}
        for name, others in beside.items():
            found_ids = ids[name] + others + lost[""] + lost["map"]
            if found_ids != all_ids:
                raise Wrong(f"{name}: {_told(all_ids, found_ids)}")
        refused_after = Counter({i: c for i, c in lost["map"].items() if everything[i] == 5})
        expected = Counter({i: 1 for i, n in everything.items() if n > 1})
        expected -= Counter({i: c for i, c in (lost[""] + lost["map"] - refused_after).items() if everything[i] > 1})
        if ids["others"] != expected:
            raise Wrong(f"others: {_told(expected, ids['others'])}")


def _ids(rows: Counter[str]) -> Counter[int]:
    found: Counter[int] = Counter()
    for text, times in rows.items():
        for ids in _IDS.findall(text):
            found.update({int(i): times for i in ids.split(",")})
        if (one := _ID.search(text.replace("'", ""))) is not None:
            found[int(one[1])] += times
    return found


def _told(expected: Counter[int], found: Counter[int]) -> str:
    return f"missing {dict(expected - found)}, too many {dict(found - expected)}"
