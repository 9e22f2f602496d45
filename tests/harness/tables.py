"""Tables of state as files, in memory."""

from __future__ import annotations

import pyarrow as pa

from millstream.checkpoints.tables import StateTable, to_ipc


def as_file(table: StateTable) -> pa.Buffer:
    """What a disk would hold of a table."""
    return pa.py_buffer(b"".join(memoryview(piece) for piece in to_ipc(table)))
