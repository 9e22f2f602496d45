"""The command line: ``millstream run`` and ``explain``, and what is said to a run that goes on.

A mistake of the user's is told in a sentence or two on standard error: status 2 for a command or flow that
cannot be run as it stands, 1 for a run that failed, 130 for one that was stopped early. A traceback
appears only where it is the user's own, or where the fault is ours.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

import millstream
from millstream.checkpoints.evolution import check_losses, with_sinks_found
from millstream.checkpoints.recovery import fates_in
from millstream.commands import Answer, Query, Replay
from millstream.connectors.curve import make_keys
from millstream.control import RunningFlow
from millstream.coordinator import flowfile, inspection, launch, letters, replaying, stored_state
from millstream.coordinator.answers import shown, write_answer
from millstream.coordinator.beginning import Interval
from millstream.coordinator.evolution import changes
from millstream.coordinator.explain import explain as explained
from millstream.coordinator.summary import summary
from millstream.coordinator.ui.address import open_door, parse_address
from millstream.coordinator.ui.watching import serve_past
from millstream.errors import FlowError, InternalError, MillstreamError
from millstream.planner import Ingest, make_plan
from millstream.queries import MOST_ROWS, Question
from millstream.times import SECOND_US, duration_us, moment_us

Workers = int | Literal["auto"]

_MISUSE = 2
_FAILED = 1
_INTERRUPTED = 130
_PIPE_WIDTH = 240


class _WorkersType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.3 only
    name = "N|auto"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> Workers:
        if value == "auto":
            return "auto"
        try:
            return launch.worker_count(int(str(value)))
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'auto'", parameter, context)
        except FlowError:
            self.fail(f"{value} is not possible; a run has 1 to 256 workers", parameter, context)


class _DurationType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "duration"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> float:
        try:
            seconds = duration_us(str(value), "") / SECOND_US
        except FlowError:
            self.fail(f"{value!r} is not a duration; use text such as '30s' or '2m'", parameter, context)
        if seconds < 1:
            self.fail(
                f"{value} is too short; use '1s' or more, as processes give a sign of life every quarter of a second",
                parameter,
                context,
            )
        return seconds


class _IntervalType(_DurationType):
    """How often checkpoints are made, as `launch.RunOptions` takes it."""

    name = "duration|off"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value in ("auto", None):
            return value
        return None if value == "off" else int(super().convert(value, parameter, context) * SECOND_US)


_flow = click.argument("flow", metavar="FLOW.py[:NAME]")
_arguments = click.argument("arguments", metavar="[-- ARGS...]", nargs=-1, type=click.UNPROCESSED)
_workers = click.option(
    "--workers",
    metavar="N|auto",
    type=_WorkersType(),
    default="auto",
    show_default=True,
    help="Worker processes; auto: all cores but one.",
)
_batch_size = click.option(
    "--batch-size",
    metavar="ROWS",
    type=click.IntRange(1, 1_000_000),
    default=65_536,
    show_default=True,
    help="Rows in a batch, at most.",
)
_ingest = click.option(
    "--ingest", type=click.Choice(["auto", "coordinator", "workers"]), default="auto", show_default=True,
    help="Where input is decoded.",
)  # fmt: skip
_state = click.option(
    "--state", type=click.Path(file_okay=False, path_type=Path), default=Path(".millstream"), show_default=True,
    help="Where a run keeps checkpoints, dead letters and late events.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(millstream.__version__, prog_name="millstream", message="%(prog)s %(version)s")
def main() -> None:
    """Millstream: a stream processor for Python, on all cores of one machine."""


@main.command()
@_flow
@_arguments
@_workers
@_batch_size
@_ingest
@_state
@click.option(
    "--hang-timeout", "hang_timeout_s", metavar="DURATION", type=_DurationType(), default="60s", show_default=True,
    help="A process that gives no sign of life for so long is replaced; without checkpoints it ends the run.",
)  # fmt: skip
@click.option(
    "--checkpoint-interval", "checkpoint_us", metavar="DURATION|off", type=_IntervalType(), default="auto",
    help="Write the run's state to disk so often, and go on from there when a process is lost, or when the flow is run "
    "again after it was stopped.  [default: 10s, where all input can be read again]",
)  # fmt: skip
@click.option(
    "--fresh",
    is_flag=True,
    help="Start anew, also where an earlier run could be gone on with; its checkpoints are removed.",
)
@click.option(
    "--from", "savepoint", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None,
    help="Go on from a savepoint, with any number of workers.",
)  # fmt: skip
@click.option(
    "--drop-state", "drop_state", metavar="OPERATOR", multiple=True,
    help="Where the flow has changed so that state of this operator has no place any more, go on without it; may be "
    "said several times.",
)  # fmt: skip
@click.option(
    "--drain",
    is_flag=True,
    help="Ctrl-C lets open windows fire and finishes the output; the next run starts anew.",
)
@click.option(
    "--ui", "page", metavar="on|off|HOST:PORT", default="on", show_default=True,
    help="Where the page of the run is served; on: on this machine, at port 7373 or one that is free.",
)  # fmt: skip
@click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path),
    help="Add what happens, and what the flow prints, to a file: JSON lines with run, attempt, process and operator.",
)  # fmt: skip
@click.option("--plain", is_flag=True, help="No live view, only what the flow prints and the summary.")
def run(
    flow: str,
    arguments: tuple[str, ...],
    workers: Workers,
    batch_size: int,
    ingest: Ingest,
    state: Path,
    hang_timeout_s: float,
    checkpoint_us: Interval,
    fresh: bool,
    savepoint: Path | None,
    drop_state: tuple[str, ...],
    drain: bool,
    page: str,
    log: Path | None,
    plain: bool,
) -> None:
    """Run a flow until its input ends.

    A run that was stopped or killed goes on from its last checkpoint; one that had come to its end starts anew.
    Ctrl-C makes a last checkpoint and stops. Without checkpoints, or with --drain, it ends the sources, lets open
    windows fire and finishes what is written. A second one stops at once.
    What follows a -- is for the flow file, in sys.argv.
    """
    with _told():
        loaded, import_paths = flowfile.load(flow, arguments)
        options = launch.RunOptions(
            workers=workers,
            batch_size=batch_size,
            ingest=ingest,
            state=state,
            live_view=not plain,
            import_paths=import_paths,
            hang_timeout_s=hang_timeout_s,
            checkpoint_us=checkpoint_us,
            fresh=fresh,
            savepoint=savepoint,
            drop_state=drop_state,
            drain=drain,
            page=page,
            log=log,
        )
        result = launch.run(loaded, options)
    sys.stdout.flush()
    # Paths stay whole: a terminal may break lines where it likes, but they can be copied.
    Console(stderr=True).print(summary(loaded, result), highlight=False, soft_wrap=True)
    if result.interrupted:
        sys.exit(_INTERRUPTED)


@main.command()
@_flow
@_arguments
@_workers
@_batch_size
@_ingest
@_state
def explain(
    flow: str, arguments: tuple[str, ...], workers: Workers, batch_size: int, ingest: Ingest, state: Path
) -> None:
    """Show how a flow would run: stages, operators, exchanges, fields."""
    with _told():
        loaded, _ = flowfile.load(flow, arguments)
        count = launch.worker_count(workers)
        plan = make_plan(
            loaded, workers=count, batch_rows=batch_size, ingest=ingest, late_directory=state / loaded.name / "late"
        )
        tree = explained(plan, asked=ingest)
    _console().print(tree, highlight=False)


@main.group()
def checkpoints() -> None:
    """Look at the checkpoints of a flow, by its state directory: .millstream/FLOW."""


_state_directory = click.argument("state", metavar="DIR", type=click.Path(path_type=Path))


@checkpoints.command("list")
@_state_directory
def list_checkpoints(state: Path) -> None:
    """All checkpoints that are kept, the newest last, and the savepoints beside them."""
    with _told():
        _console().print(inspection.listed(state))


@checkpoints.command()
@_state_directory
@click.argument("epoch", metavar="[EPOCH]", type=int, required=False)
def show(state: Path, epoch: int | None) -> None:
    """What is in one checkpoint, the newest unless its number is given: where sources were, what operators held."""
    with _told():
        store = inspection.store_in(state)
        number = inspection.newest_epoch(store, state) if epoch is None else epoch
        _console().print(inspection.shown(store.manifest(number)), highlight=False)


@checkpoints.command()
@_state_directory
def verify(state: Path) -> None:
    """Read every checkpoint whole, and say which are sound."""
    with _told():
        unsound = 0
        for epoch, reason in inspection.verified(inspection.store_in(state)):
            click.echo(f"checkpoint {epoch}: {reason or 'sound'}")
            unsound += bool(reason)
    if unsound:
        sys.exit(_FAILED)


@checkpoints.command()
@_state_directory
@_flow
@_arguments
@click.option("--epoch", type=int, help="The number of the checkpoint.  [default: the newest]")
def diff(state: Path, flow: str, arguments: tuple[str, ...], epoch: int | None) -> None:
    """What becomes of the state in a checkpoint or savepoint when a flow, as it is now, goes on from it.

    Status 1 where something would be lost.
    """
    with _told():
        store = inspection.store_in(state)
        manifest = store.manifest(inspection.newest_epoch(store, state) if epoch is None else epoch)
        loaded, _ = flowfile.load(flow, arguments)
        plan = make_plan(loaded, workers=1, late_directory=state / "late")
        manifest = with_sinks_found(manifest, plan.shapes)
        found = fates_in(plan, manifest)
        _console().print(changes(found), highlight=False)
        check_losses(manifest, found)


@main.group("state")
def stored() -> None:
    """Look at what operators held at a checkpoint: DIR or DIR@EPOCH, a state directory (.millstream/FLOW) or a savepoint."""


_keys = click.option(
    "--key", "keys", metavar="KEY", multiple=True,
    help="Only of this key; may be repeated. Values of several key fields are divided by commas, or a JSON list.",
)  # fmt: skip
_checkpoint = click.argument("checkpoint", metavar="DIR[@EPOCH]")


@stored.command("list")
@_checkpoint
def list_state(checkpoint: str) -> None:
    """Operators with their keys, rows and bytes."""
    with _told():
        _console().print(stored_state.listed(stored_state.stored_at(checkpoint)), highlight=False)


@stored.command("show")
@_checkpoint
@click.argument("operator")
@_keys
@click.option("--most", metavar="ROWS", type=click.IntRange(1), default=100, show_default=True, help="Rows, at most.")
def show_state(checkpoint: str, operator: str, keys: tuple[str, ...], most: int) -> None:
    """What an operator held of a key, or of the first keys. Status 1 where that is nothing."""
    with _told():
        found = stored_state.rows_of(
            stored_state.stored_at(checkpoint), operator, Question(operator, keys or None, None, most)
        )
        for part, rows in found.items():
            if rows.num_rows:
                click.echo(
                    f"{part}, {rows.num_rows:,} rows" + (f", of which {most:,}:" if rows.num_rows > most else ":")
                )
                _console().print(shown(rows.slice(0, most)), highlight=False)
    if not any(rows.num_rows for rows in found.values()):
        click.echo(f"{operator!r} held nothing of that", err=True)
        sys.exit(_FAILED)


@stored.command("export")
@_checkpoint
@click.argument("operator")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="A directory; OPERATOR.PART.parquet go there.",
)
def export_state(checkpoint: str, operator: str, to: Path) -> None:
    """Write what an operator held as Parquet files."""
    with _told():
        for line in stored_state.export(stored_state.stored_at(checkpoint), operator, to):
            click.echo(line)


@stored.command("diff")
@click.argument("before", metavar="DIR[@EPOCH]")
@click.argument("after", metavar="DIR[@EPOCH]")
@click.option(
    "--most", metavar="KEYS", type=click.IntRange(0), default=20, show_default=True, help="Keys named, at most."
)
def diff_state(before: str, after: str, most: int) -> None:
    """Which keys are new, gone or changed from one checkpoint to another."""
    with _told():
        table, lines = stored_state.differences(stored_state.stored_at(before), stored_state.stored_at(after), most)
        _console().print(table, highlight=False)
        for line in lines:
            click.echo(line)


@main.group("dead-letters")
def dead_letters() -> None:
    """Look at the records that a flow could not process, by its state directory or its name."""


@dead_letters.command("list")
@click.argument("run", metavar="FLOW|DIR")
@_state
def list_letters(run: str, state: Path) -> None:
    """How many there are of each operator, by reason."""
    with _told():
        _console().print(letters.counted(inspection.state_of(run, state)), highlight=False)


@dead_letters.command("show")
@click.argument("run", metavar="FLOW|DIR")
@click.option("--operator", metavar="NAME", help="Only those of one operator.")
@click.option("--most", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="The last so many.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="json: an object a line, as it is stored.")  # fmt: skip
@_state
def show_letters(run: str, operator: str | None, most: int, form: str, state: Path) -> None:
    """The last dead letters of each process: where the record came from, the reason, and the record whole."""
    with _told():
        for letter in letters.last(inspection.state_of(run, state), operator, most):
            click.echo(letters.as_text(letter) if form == "text" else json.dumps(letter, ensure_ascii=False))


@dead_letters.command("replay")
@click.argument("run", metavar="FLOW|DIR")
@click.option("--operator", metavar="NAME", help="Only those of one operator.")
@click.option("--reason", metavar="TEXT", help="Only those with this in their reason.")
@click.option("--letter", "ids", metavar="ID", multiple=True, help="Only this one, by its id; several times: these.")
@click.option("--dry-run", "dry", is_flag=True, help="Only say how many there are.")
@_state
def replay_letters(
    run: str, operator: str | None, reason: str | None, ids: tuple[str, ...], dry: bool, state: Path
) -> None:
    """Give dead letters again to the operators that had refused them.

    Where the flow runs, it does so now. Where it was stopped, or has failed, its next run does, with the functions and
    schemas that it then has.
    """
    with _told():
        command = Replay(operator, reason, list(ids) or None, dry)
        click.echo(replaying.ask(inspection.state_of(run, state), command))


# --- a run that goes on ---

_running = click.argument("run", metavar="FLOW|DIR")
_answer_timeout = click.option(
    "--timeout", "timeout_s", metavar="DURATION", type=_DurationType(), default="10m", show_default=True,
    help="How long to wait for the run's answer.",
)  # fmt: skip
_to = click.option(
    "--to", type=click.Path(path_type=Path), help="Where the savepoint goes: a directory that is not there yet.  "
    "[default: savepoints/ in the state directory]",
)  # fmt: skip


def _ask(run: str, state: Path, timeout_s: float, ask: Callable[[RunningFlow], Answer]) -> None:
    with _told():
        click.echo(ask(RunningFlow(inspection.state_of(run, state), timeout_s=timeout_s)).said)


@main.command()
@_running
@_state
@_answer_timeout
def checkpoint(run: str, state: Path, timeout_s: float) -> None:
    """Make a checkpoint of a running flow now."""
    _ask(run, state, timeout_s, RunningFlow.checkpoint)


@main.command()
@_running
@_to
@_state
@_answer_timeout
def savepoint(run: str, to: Path | None, state: Path, timeout_s: float) -> None:
    """Make a checkpoint of a running flow now, and copy it whole.

    No later checkpoint takes its place; ``millstream run FLOW --from SAVEPOINT`` goes on from there.
    """
    _ask(run, state, timeout_s, lambda running: running.savepoint(to))


@main.command()
@_running
@_state
@_answer_timeout
def pause(run: str, state: Path, timeout_s: float) -> None:
    """Let a running flow read nothing more, until it is resumed."""
    _ask(run, state, timeout_s, RunningFlow.pause)


@main.command()
@_running
@_state
@_answer_timeout
def resume(run: str, state: Path, timeout_s: float) -> None:
    """Let a flow that was paused read again."""
    _ask(run, state, timeout_s, RunningFlow.resume)


@main.command()
@_running
@click.argument("workers", metavar="N", type=click.IntRange(1, 256))
@_state
@_answer_timeout
def scale(run: str, workers: int, state: Path, timeout_s: float) -> None:
    """Let a running flow go on with N workers."""
    _ask(run, state, timeout_s, lambda running: running.scale(workers))


@main.command()
@_running
@click.option("--savepoint", is_flag=True, help="Make a savepoint of the last checkpoint.")
@_to
@click.option(
    "--drain", is_flag=True, help="Let open windows fire and finish the output, instead of a last checkpoint."
)
@_state
@_answer_timeout
def stop(run: str, savepoint: bool, to: Path | None, drain: bool, state: Path, timeout_s: float) -> None:
    """End a running flow at a last checkpoint, from which it can go on."""
    _ask(run, state, timeout_s, lambda running: running.stop(drain=drain, savepoint=savepoint, to=to))


@main.command()
@_running
@click.argument("operator")
@_keys
@click.option(
    "--at", metavar="TIME", help="Only windows that hold this moment: 2026-01-31T12:00, in UTC, or with offset."
)
@click.option(
    "--most", metavar="ROWS", type=click.IntRange(1, MOST_ROWS), default=1_000, show_default=True, help="Rows, at most."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "arrow"]), default="table", show_default=True,
    help="json: an object a line; arrow: an IPC stream.",
)  # fmt: skip
@_state
@click.option(
    "--timeout", "timeout_s", metavar="DURATION", type=_DurationType(), default="30s", show_default=True,
    help="How long to wait for the answer.",
)  # fmt: skip
def query(
    run: str, operator: str, keys: tuple[str, ...], at: str | None, most: int, form: str, state: Path, timeout_s: float
) -> None:
    """Ask what an operator of a running flow holds: the values of keys, open windows. Status 1 where that is nothing."""
    with _told():
        command = Query(
            operator,
            list(keys) or None,
            None if at is None else moment_us(at),
            most,
            "json" if form == "json" else "arrow",
        )
        answer = RunningFlow(inspection.state_of(run, state), timeout_s=timeout_s).ask(command)
        found = write_answer(answer, form, _console())
    if not found or answer.more:
        click.echo(answer.said, err=True)
    if not found:
        sys.exit(_FAILED)


@main.command()
@_running
@_state
@click.option("--once", is_flag=True, help="Show one picture and end.")
def top(run: str, state: Path, once: bool) -> None:
    """Show a running flow in the terminal: what its operators and processes do, and what limits it."""
    from millstream.coordinator.ui.top import (  # HTTP takes a while to load, which `run` need not wait for
        PageClient,
        watch,
    )

    with _told():
        client = PageClient(inspection.state_of(run, state))
        console = Console()
        watch(client, console if console.is_terminal else Console(width=_PIPE_WIDTH), once=once)


@main.command()
@_running
@_state
@click.option("--ui", "page", metavar="on|HOST:PORT", default="on", show_default=True, help="Where the page is served.")
def history(run: str, state: Path, page: str) -> None:
    """Serve the page of a flow's earlier runs, until Ctrl-C: all that it showed, without what is live."""
    with _told():
        directory = inspection.state_of(run, state)
        address = parse_address(page)
        if address is None:
            raise FlowError("--ui off: there would be nothing to see; leave it out, or say HOST:PORT")
        door = open_door(address)
        click.echo(f"page: {door.link}", err=True)
        serve_past(directory, door)


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--for", "peers", metavar="NAME", multiple=True,
    help="Make keys for a peer, too, in DIR/for-NAME, and let it in; may be repeated.",
)  # fmt: skip
def keys(folder: Path, peers: tuple[str, ...]) -> None:
    """Make the keys with which a ZeroMQ source or sink and its peers know one another, for keys='DIR'."""
    with _told():
        for line in make_keys(folder, peers) or [f"{folder}: has keys already"]:
            click.echo(line)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


@contextmanager
def _told() -> Iterator[None]:
    """Turn errors into sentences and an exit status."""
    try:
        yield
    except InternalError:
        _bug()
    except FlowError as error:
        _fail(str(error), _MISUSE)
    except MillstreamError as error:
        _fail(str(error), _FAILED)
    except KeyboardInterrupt:
        _fail("stopped", _INTERRUPTED)
    except Exception:
        _bug()


def _fail(message: str, status: int) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    sys.exit(status)


def _bug() -> None:
    traceback.print_exc()
    _fail("this is a bug in Millstream, not in your flow; please report it with the lines above", _FAILED)
