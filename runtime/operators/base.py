"""What an operator is, and what it may ask of the process that runs it.

An operator sees batches, watermarks and clock readings of one range of key groups, and gives batches. It
knows of no socket, worker or file. Its methods are generators: whoever runs it takes the next output
only when there is room for it, and gives the operator no further input until the generator has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from millstream.batch import Batch, IntArray
from millstream.breaker import Breaker
from millstream.checkpoints.tables import Part, StateTable
from millstream.errors import FlowError, InternalError, QueryError, SchemaError
from millstream.functions import user_error
from millstream.late import LateEvents
from millstream.queries import Question
from millstream.specs.base import MAIN
from millstream.specs.on_error import ErrorPolicy, OnError
from millstream.times import saturating_add


@dataclass(frozen=True, slots=True)
class Wait:
    """An operator has nothing to do before this moment of processing time; its process has the rest to do meanwhile."""

    until_us: int


Output = tuple[str, Batch] | Wait | None
"""A batch for a port, or a wait, or None: "I have worked for a while, serve your sockets"."""

SLICE_ROWS = 4_096
"""How many rows a Python operator takes between two such pauses: about 10 ms at 2 microseconds a row."""


class DeadLetter(NamedTuple):
    """A record that could not be processed, and why.

    Attributes:
        operator: which operator refused it.
        origin: the file, endpoint or source it came from, where that is still known.
        line: its line in the file, from 1; 0 where unknown.
        offset: its first byte in the file; -1 where unknown.
        reason: a sentence: what was expected, what was found.
        record: the raw bytes, or the row as text.
        after: the newest checkpoint when it was refused; one that goes on from there refuses it again.
        row: what the operator was given, by which it can be given it again (`millstream.letter_rows`); b"": it cannot.
        header: what decoding the record takes beside it; b"": nothing.
        replayed: how often the operator had been given it again before.
    """

    operator: str
    origin: str
    line: int
    offset: int
    reason: str
    record: bytes | str
    after: int = 0
    row: bytes = b""
    header: bytes = b""
    replayed: int = 0


@dataclass(slots=True)
class Passed:
    """The newest barrier that has passed a stage: its epoch."""

    epoch: int = 0


@dataclass(slots=True)
class Counters:
    """What an operator has done: the figures that the live view, the summary and the metrics show."""

    rows_in: int = 0
    rows_out: int = 0
    late: int = 0
    dead_letters: int = 0
    unmatched: int = 0
    skipped: int = 0
    retried: int = 0
    panes: int = 0

    @property
    def failed(self) -> int:
        return self.dead_letters + self.skipped

    def figures(self) -> dict[str, int]:
        return {name: value for name in self.__slots__ if (value := getattr(self, name))}

    def add(self, figures: Mapping[str, int]) -> None:
        """Go on from what `figures` had said."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + figures.get(name, 0))


@dataclass(slots=True)
class Context:
    """What the process gives an operator.

    Attributes:
        name: the operator's name and the user's line that made it, for errors.
        now_us: reads the processing-time clock (virtual in tests).
        dead_letter: takes a record that cannot be processed.
        wanted: the ports that somebody consumes; outputs for others need not be made.
        checkpoints: whether the run makes checkpoints: sinks then show nothing that could come again.
        passed: of the operator's stage.
        breaker: ends the run where too many events fail; None: any number may.
        late_events: the last of them, for whoever looks.
        letters: the dead letters that are to leave the stage as rows; None: nobody takes them.
        replayed: how often what the operator works on had been a dead letter of its before.
    """

    name: str
    worker: int
    workers: int
    now_us: Callable[[], int]
    dead_letter: Callable[[DeadLetter], None]
    wanted: frozenset[str] = frozenset((MAIN,))
    checkpoints: bool = False
    counters: Counters = field(default_factory=Counters)
    passed: Passed = field(default_factory=Passed)
    late_events: LateEvents = field(default_factory=LateEvents)
    breaker: Breaker | None = None
    letters: list[DeadLetter] | None = None
    replayed: int = 0

    def reject(
        self,
        reason: str,
        record: bytes | str,
        origin: str = "",
        line: int = 0,
        offset: int = -1,
        *,
        row: bytes = b"",
        header: bytes = b"",
    ) -> None:
        """Send a record to the dead letters, counted."""
        self.counters.dead_letters += 1
        if self.breaker is not None:
            self.breaker.note(reason)
        letter = DeadLetter(
            self.name, origin, line, offset, reason, record, self.passed.epoch, row, header, self.replayed
        )
        self.dead_letter(letter)
        if self.letters is not None:
            self.letters.append(letter)

    def too_late(self, rows: Batch, watermark_us: IntArray, limit_us: IntArray) -> None:
        """Count events that come too late, and keep the last to be looked at.

        Args:
            watermark_us: the watermark that made each of them late.
            limit_us: what it had passed: the event's time, or the last end of a window that would have held it.
        """
        self.counters.late += rows.num_rows
        self.late_events.note(rows, watermark_us, limit_us, self.now_us())

    def give_up(
        self,
        policy: ErrorPolicy,
        error: BaseException,
        event: object,
        what: str = "the function",
        row: Callable[[], bytes] = bytes,
    ) -> None:
        """The user's code has raised on an event for the last time: the run goes on without the event, or ends.

        Args:
            what: raised, for the reason.
            row: makes the `DeadLetter.row`.
        Raises:
            UserCodeError: the operator does not tolerate it.
        """
        if policy.then is OnError.FAIL:
            raise user_error(self.name, event, error) from error
        reason = f"{what} raised {type(error).__name__}: {error}{policy.attempts}"
        if policy.then is OnError.DEAD_LETTER:
            self.reject(reason, repr(event), row=row())
            return
        self.counters.skipped += 1
        if self.breaker is not None:
            self.breaker.note(reason)

    def begin_counting(self) -> None:
        """What was counted in an earlier life of the run says nothing about this one."""
        if self.breaker is not None:
            self.breaker.begin_at(self.counters.rows_in, self.counters.failed)

    def check_errors(self) -> None:
        """
        Raises:
            TooManyErrors: too large a share of the operator's recent events failed.
        """
        if self.breaker is not None:
            self.breaker.check(self.counters.rows_in, self.counters.failed)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Errors of what is done in it say that they are of this operator, or ``key_by``: its name and the user's line."""
    try:
        yield
    except FlowError as error:
        if where in str(error):
            raise
        kind = SchemaError if isinstance(error, SchemaError) else FlowError
        raise kind(f"{where}: {error}") from error
    except pa.ArrowException as error:
        reason = str(error).split("\n", 1)[0]
        raise SchemaError(f"{where}: its fields have not the types that it needs: {reason}") from error
    except Exception as error:
        error.add_note(f"in {where}")
        raise


class Operator:
    """The base of all operators: by default nothing happens on time and at the end.

    Attributes:
        keeps_to_groups: whether the rows by key that it holds are all of its worker's key groups; where they are not, their
            keys only say who gets them in another life.
        restored_as_written: names of tables that `restore` takes as snapshots wrote them, one after the other: later ones
            replace or remove rows of earlier ones. All others come put together.
    """

    keeps_to_groups: ClassVar[bool] = False
    restored_as_written: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: Context) -> None:
        self.context = context

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        """Take a batch from the input with this number; yield what comes out of it."""
        raise NotImplementedError

    def on_block_end(self) -> Iterator[Output]:
        """All of a source block, or of a batch that was dealt on, has come; asked of stateless operators only."""
        return iter(())

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        """No event with time < watermark_us is expected any more; `MAX_US`: the input has ended."""
        return iter(())

    def on_clock(self, now_us: int) -> Iterator[Output]:
        """Processing time is ``now_us``; called when `due_us` has passed."""
        return iter(())

    def due_us(self) -> int | None:
        """When `on_clock` is wanted next, in processing time; None: not at all."""
        return None

    def on_end(self) -> Iterator[Output]:
        """All inputs have ended, and the last watermark has been handled."""
        return iter(())

    def snapshot(self) -> Sequence[Part]:
        """Everything that the operator holds, as columns that nobody changes any more; what is on disk by its file.

        Called between batches; the tables are written while the operator goes on.
        """
        return []

    def restore(self, tables: Sequence[StateTable]) -> None:
        """Go on from what snapshots said, of all former workers: rows by key are this worker's own.

        Called once, before anything else.
        """
        if tables:
            raise InternalError(f"{self.context.name}: there is state for it, and it takes none")

    def hand_over(self) -> Sequence[StateTable] | None:
        """Everything that the operator holds, for the one that takes its place in this process beside other workers.

        Called last of all, at a checkpoint. None: its successor reads all of its state from there.
        """
        return None

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """What is held now of the keys that are asked for: rows of named columns, nothing for a key that is not there.

        Called between two steps; changes nothing.

        Raises:
            QueryError: a key does not fit, or what is kept cannot be asked for.
        """
        raise QueryError(f"{self.context.name}: what it keeps cannot be asked for by key yet")

    def on_abort(self) -> None:
        """The run has failed: let go of what is open without finishing it."""

    def held_back_us(self) -> int:
        """By how much outputs may be older than the watermark they follow."""
        return 0

    def passes_on_us(self, watermark_us: int) -> int:
        """The watermark that those behind may learn when the stage has reached this one."""
        return saturating_add(watermark_us, -self.held_back_us())

    def figures(self) -> dict[str, Any]:
        return dict(self.context.counters.figures())
