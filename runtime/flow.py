"""The flow API: what a user writes.

Every call adds a node to the flow's graph and returns the stream that comes out; nothing is read or
computed until `Flow.run`. A stream may be used any number of times. Fields and types are checked when
the flow is planned, before any process starts, wherever the types are known by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from millstream import connectors
from millstream.connectors.base import Source
from millstream.connectors.file_sources import Partitions
from millstream.connectors.files import Compression, Paths
from millstream.errors import FlowError
from millstream.functions import UserFunction
from millstream.plan import Node, Port
from millstream.rows import declared_schema
from millstream.specs.base import Spec
from millstream.specs.dead_letters import DeadLettersSpec
from millstream.specs.ends import ReadSpec
from millstream.specs.on_error import ErrorPolicy, Errors, policy_of
from millstream.streams import PathLike, Stream
from millstream.times import Duration, duration_us
from millstream.where import caller

if TYPE_CHECKING:
    from millstream.result import RunResult


class Flow:
    """A dataflow from sources to sinks.

    Args:
        name: names the run and its state directory; letters, digits, "-" and "_".
        on_error: what happens when a function of yours raises, for all operators that do not say so themselves: "fail" ends the
            run, "dead_letter" keeps the event there, "skip" counts it, and `millstream.retry` tries again before.
        most_errors: the share of an operator's events, of the last thousand at least, that may fail: when more do, as dead letters
            or skipped, the run ends and says why. None: any number may.
    """

    def __init__(self, name: str, *, on_error: Errors = "fail", most_errors: float | None = None) -> None:
        if not name or not all(c.isalnum() or c in "-_" for c in name):
            raise FlowError(f"Flow({name!r}): a name is made of letters, digits, '-' and '_'")
        self.name = name
        if most_errors is not None and not 0 <= most_errors < 1:
            raise FlowError(
                f"Flow({name!r}): most_errors={most_errors!r} is no share of events: from 0 up to, but not, 1"
            )
        self.on_error = policy_of(on_error)
        self.most_errors = most_errors
        self.nodes: list[Node] = []
        self._dead_letters: Port | None = None
        self._counts: dict[str, int] = {}

    # --- sources ---

    def read_csv(
        self,
        path: Paths,
        *,
        schema: Any = None,
        delimiter: str = ",",
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
    ) -> Stream:
        """CSV files with a header line: a path, several, or a glob ("data/*.csv.gz")."""
        return self.source(
            connectors.CsvSource(
                path, schema=declared_schema(schema), delimiter=delimiter,
                compression=compression, partitions=partitions, follow=follow,
            ),
            name="read_csv",
        )  # fmt: skip

    def read_jsonl(
        self,
        path: Paths,
        *,
        schema: Any = None,
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
    ) -> Stream:
        """JSON lines: one object a line."""
        return self.source(
            connectors.JsonLinesSource(
                path, schema=declared_schema(schema), compression=compression,
                partitions=partitions, follow=follow,
            ),
            name="read_jsonl",
        )  # fmt: skip

    def read_text(
        self,
        path: Paths,
        *,
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
    ) -> Stream:
        """Text files: every line, without its end, is an event with the one field ``line``."""
        return self.source(
            connectors.TextSource(path, compression=compression, partitions=partitions, follow=follow),
            name="read_text",
        )

    def read_parquet(self, path: Paths, *, partitions: Partitions = "one") -> Stream:
        """Parquet files."""
        return self.source(connectors.ParquetSource(path, partitions=partitions), name="read_parquet")

    def read_arrow(self, data: Paths | pa.Table | pa.RecordBatch, *, partitions: Partitions = "one") -> Stream:
        """Arrow IPC files (memory-mapped), or a table that is in memory."""
        if isinstance(data, pa.Table | pa.RecordBatch):
            table = data if isinstance(data, pa.Table) else pa.Table.from_batches([data])
            return self.source(connectors.TableSource(table), name="read_arrow")
        return self.source(connectors.ArrowSource(data, partitions=partitions), name="read_arrow")

    def read_iterable(self, rows: Iterable[Any], *, schema: Any = None) -> Stream:
        """Any Python iterable of dicts, dataclasses, named tuples or plain values; read in this process."""
        return self.source(connectors.IterableSource(rows, schema=declared_schema(schema)), name="read_iterable")

    def read_stdin(self, *, format: Literal["jsonl", "csv", "text"] = "jsonl", schema: Any = None) -> Stream:
        """Standard input, until it ends."""
        return self.source(connectors.StdinSource(format=format, schema=declared_schema(schema)), name="read_stdin")

    def read_zeromq(
        self,
        endpoint: str,
        *,
        payload: Literal["json", "msgpack", "arrow"] = "json",
        schema: Any = None,
        bind: bool = True,
        kind: Literal["pull", "sub"] = "pull",
        keys: PathLike | None = None,
    ) -> Stream:
        """Events that other programs push to a ZeroMQ endpoint: one a message, or a list of them.

        Args:
            keys: a folder that ``millstream keys`` has made; needed for tcp beyond this machine.
        """
        return self.source(
            connectors.ZeroMQSource(
                endpoint, payload=payload, schema=declared_schema(schema), bind=bind, kind=kind, keys=keys
            ),
            name="read_zeromq",
        )

    def generate(
        self, columns: Mapping[str, Any], *, rate: float | None = None, count: int | None = None, seed: int = 0
    ) -> Stream:
        """Made-up events, the same for the same seed: for load tests and first steps.

        Args:
            columns: what each field holds; see `millstream.connectors.GeneratorSource`.
            rate: events a second; None: as fast as they are taken.
            count: how many; None: without end.
        """
        return self.source(
            connectors.GeneratorSource(dict(columns), rate=rate, count=count, seed=seed), name="generate"
        )

    def source(self, source: Any, *, name: str = "source") -> Stream:
        """A source of your own: a `millstream.Source`, or an object with ``partitions()`` and ``read(partition)``.

        One with ``replayable = True`` gives the same rows in the same order whenever it is read: after a failure a
        run goes on in the middle of them.
        """
        if not isinstance(source, Source):
            source = connectors.PythonSource(UserFunction(source))
        return Stream(self, self.add(name, ReadSpec(source), ()))

    # --- what cannot be processed ---

    @property
    def dead_letters(self) -> Stream:
        """The records that operators could not process, as a stream: `docs/errors.md`.

        Fields: ``operator`` (with the user's line), ``reason``, ``origin`` (the file or source), ``line`` and ``offset`` in it, ``record`` as
        text, and ``time`` (processing time, UTC) when it was refused; null where that is not known. They are in the files of the
        run as well. Those of operators behind this stream are in the files alone.
        """
        if self._dead_letters is None:
            self._dead_letters = self.add("dead_letters", DeadLettersSpec(), ())
        return Stream(self, self._dead_letters)

    # --- running ---

    def run(
        self,
        *,
        workers: int | Literal["auto"] = "auto",
        batch_size: int = 65_536,
        ingest: Literal["auto", "coordinator", "workers"] = "auto",
        state: PathLike | None = None,
        live_view: bool = False,
        checkpoint_interval: Duration | Literal["auto", "off"] = "auto",
        fresh: bool = False,
        savepoint: PathLike | None = None,
        drop_state: Sequence[str] = (),
        ui: str = "off",
        log: PathLike | None = None,
    ) -> RunResult:
        """Run the flow in a coordinator and ``workers`` worker processes, until its input ends.

        Args:
            checkpoint_interval: how often the run's state is written to disk, so that it goes on from there when a
                process is lost, or when it is run again after it was stopped; "auto": every ten seconds, where all
                input can be read again; "off": never.
            fresh: start anew, also where an earlier run could be gone on with; its checkpoints are removed.
            savepoint: go on from this one, which ``millstream savepoint`` has made.
            drop_state: the names of operators whose state may be lost, where a flow that has changed has no place for it
                any more; without it the run is refused then, and says which they are.
            ui: where the page of the run is served (docs/operations.md): "off", "HOST:PORT", or "on": at port 7373 of
                127.0.0.1 or, where that is taken, where ``page.json`` in the state directory says.
            log: the file that what happens is added to, as JSON lines.
        Returns:
            What came of it: counts, the time it took, and the tables that were collected.
        Raises:
            MillstreamError: the run failed; no process of it is left.
        """
        from millstream.coordinator import launch  # the one place where the runtime reaches up: see docs/design.md

        interval: int | Literal["auto"] | None = "auto"
        if checkpoint_interval != "auto":
            interval = None if checkpoint_interval == "off" else duration_us(checkpoint_interval, "run")
        return launch.run(
            self,
            launch.RunOptions(
                workers=workers,
                batch_size=batch_size,
                ingest=ingest,
                state=state,
                live_view=live_view,
                checkpoint_us=interval,
                fresh=fresh,
                savepoint=savepoint,
                drop_state=(drop_state,) if isinstance(drop_state, str) else tuple(drop_state),
                page=ui,
                log=None if log is None else Path(log),
            ),
        )

    def run_here(self, *, batch_size: int = 65_536, state: PathLike | None = None) -> RunResult:
        """Run the flow in this process, without sockets and without waiting: for tests and notebooks."""
        from millstream.coordinator import launch

        return launch.run_here(self, batch_size=batch_size, state=state)

    # --- building ---

    def policy(self, on_error: Errors | None, *, retries: bool = True) -> ErrorPolicy:
        """What happens when a function raises: what its operator says, or the flow.

        Args:
            retries: whether the operator can call it again; one with state cannot, which may be half changed.
        Raises:
            FlowError: the operator says that it is called again, and it cannot be.
        """
        if on_error is None:
            return self.on_error if retries else self.on_error.without_retries
        policy = policy_of(on_error)
        if policy.retries and not retries:
            raise FlowError(
                f"{caller()} on_error: a function with state is not called again, as it may have changed the state before it "
                "raised; put the call that may fail into a .map(..., on_error=ms.retry(...)) in front of it"
            )
        return policy

    def add(self, kind: str, spec: Spec, inputs: Sequence[Port], name: str | None = None) -> Port:
        """Take up an operator: what the methods of streams do. Without ``name`` it is called after its kind.

        Raises:
            FlowError: there is another of that name.
        """
        if name is None:
            self._counts[kind] = number = self._counts.get(kind, 0) + 1
            name = kind if number == 1 else f"{kind}_{number}"
        if any(n.name == name for n in self.nodes):
            raise FlowError(f"{caller()}: there is another operator named {name!r}; names are unique in a flow")
        node = Node(len(self.nodes), name, spec, tuple(inputs), caller())
        self.nodes.append(node)
        return Port(node.id)
