"""What ``millstream query`` writes: the answer of a run as a table for people, as JSON lines, or as an Arrow stream."""

from __future__ import annotations

import sys

import msgspec
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from millstream.commands import Answer
from millstream.errors import QueryError


def write_answer(answer: Answer, form: str, console: Console) -> bool:
    """Write it to standard output; returns whether there was anything to write.

    Raises:
        QueryError: an Arrow stream is not for a terminal.
    """
    if form == "json":
        for record in answer.records or ():
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
        return bool(answer.records)
    data = answer.table or b""
    table = pa.ipc.open_stream(data).read_all()
    if form == "arrow":
        if sys.stdout.isatty():
            raise QueryError("--format arrow: the answer is not text; send it to a file or to another program")
        sys.stdout.buffer.write(data)
    elif table.num_rows:
        console.print(shown(table), highlight=False)
    return bool(table.num_rows)


def shown(table: pa.Table) -> Table:
    """Rows for people."""
    rows = Table(box=None, pad_edge=False, header_style="dim")
    for field in table.schema:
        is_number = (
            pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        )
        rows.add_column(field.name, justify="right" if is_number else "left", overflow="fold")
    for row in zip(*(c.to_pylist() for c in table.columns), strict=True):
        rows.add_row(*(Text("null", "dim") if v is None else Text(str(v)) for v in row))
    return rows
