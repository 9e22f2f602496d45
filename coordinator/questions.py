"""Questions about state while a run goes on: each goes to all workers, and what they have found becomes one answer.

A worker knows the keys of its own key groups alone, so of all workers at most one finds a key. A question that a life of the
run has not answered is put again in the next one: an answer is never made of two lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

import pyarrow as pa

from millstream import commands
from millstream.commands import Answer
from millstream.coordinator.control import Request
from millstream.plan import PhysicalPlan, Place
from millstream.queries import MOST_BYTES
from millstream.topology import worker_name
from millstream.wire import Found, Query

_WAITING: Final = 64


@dataclass
class _Asked:
    """Attributes:
    awaited: the workers that have not answered yet; None: nobody was asked in this life.
    """

    request: Request
    since_s: float
    awaited: set[str] | None = None
    found: list[Found] = field(default_factory=list)


class Questions:
    """The questions that wait for an answer. A state machine: it sends nothing itself."""

    def __init__(self) -> None:
        self._asked: dict[int, _Asked] = {}
        self._number = 0

    def ask(self, request: Request) -> None:
        if len(self._asked) >= _WAITING:
            request.refuse(f"{_WAITING} questions wait already; ask again")
            return
        self._number += 1
        self._asked[self._number] = _Asked(request, time.monotonic())

    def begin_life(self) -> None:
        """Whoever was asked is not there any more."""
        for asked in self._asked.values():
            asked.awaited = None
            asked.found.clear()

    def due(self, plan: PhysicalPlan) -> Iterator[tuple[str, Query]]:
        """What is to be sent to whom."""
        for number, asked in list(self._asked.items()):
            if asked.awaited is not None:
                continue
            command = asked.request.command
            assert isinstance(command, commands.Query)
            wrong = _misnamed(plan, command.operator)
            if wrong:
                self._refuse(number, wrong)
                continue
            asked.awaited = {worker_name(i) for i in range(plan.workers)}
            query = Query(number, command.operator, command.keys, command.at_us, command.most)
            for name in sorted(asked.awaited):
                yield name, query

    def found(self, message: Found) -> None:
        """A worker has answered."""
        asked = self._asked.get(message.number)
        if asked is None or asked.awaited is None:
            return
        if message.failure:
            self._refuse(message.number, message.failure)
            return
        asked.found.append(message)
        asked.awaited.discard(message.process)
        if not asked.awaited:
            del self._asked[message.number]
            asked.request.answer(_answer(asked))

    def close(self) -> None:
        for number in list(self._asked):
            self._refuse(number, "the run ended before it could answer")

    def _refuse(self, number: int, sentence: str) -> None:
        self._asked.pop(number).request.refuse(sentence)


def askable(plan: PhysicalPlan) -> list[str]:
    """The operators that keep something by key."""
    in_workers = {n for s in plan.stages if s.place in (Place.WORKERS, Place.ONE_WORKER) for n in s.nodes}
    return sorted({plan.nodes[n].name for n in in_workers if plan.nodes[n].spec.keyed})


def _misnamed(plan: PhysicalPlan, operator: str) -> str:
    names = askable(plan)
    if operator in names:
        return ""
    if operator in {node.name for node in plan.nodes.values()}:
        what = f"{operator!r} keeps nothing by key"
    else:
        what = f"there is no operator {operator!r}"
    near = get_close_matches(operator, names, n=3, cutoff=0.5)
    if near:
        return f"{what}; did you mean {' or '.join(map(repr, near))}?"
    return f"{what}; " + (f"there are {', '.join(map(repr, names))}" if names else "nor does any other in this flow")


def _answer(asked: _Asked) -> Answer:
    """One answer of what all workers have found."""
    command = asked.request.command
    assert isinstance(command, commands.Query)
    parts = [
        pa.Table.from_batches([f.rows]) for f in sorted(asked.found, key=lambda f: f.process) if f.rows is not None
    ]
    try:
        table = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    except pa.ArrowException as error:
        return Answer(f"{command.operator}: its workers hold fields of different types: {error}", error=True)
    more = any(f.more for f in asked.found) or table.num_rows > command.most
    if table.num_rows > command.most:
        table = table.slice(0, command.most)
    while table.nbytes > MOST_BYTES:
        table, more = table.slice(0, table.num_rows // 2), True
    took_s = time.monotonic() - asked.since_s
    if not table.num_rows:
        said = f"{command.operator!r} holds nothing" + (
            "" if command.keys is None and command.at_us is None else " of that"
        )
    else:
        said = f"{table.num_rows:,} row{'s' if table.num_rows != 1 else ''} of {command.operator!r}" + (
            "; there are more" if more else ""
        )
    if command.format == "json":
        return Answer(said, seconds=took_s, records=table.to_pylist(), more=more)
    return Answer(said, seconds=took_s, table=_stream(table), more=more)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
