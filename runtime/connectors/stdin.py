"""Standard input as a source: JSON lines, CSV with a header, or lines of text.

What comes in cannot be looked at before the flow runs, so without ``schema=`` it is inferred from the first block.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa

from millstream.connectors.base import Block, Decoder, Offset, Reader, Source
from millstream.connectors.blocks import BlockCutter, csv_ends, line_ends
from millstream.connectors.decoders import LINE_SCHEMA, CsvFilesDecoder, LineDecoder, json_decoder
from millstream.connectors.infer import split_header
from millstream.connectors.journal import Journal
from millstream.errors import FlowError, SourceError

Format = Literal["jsonl", "csv", "text"]

_QUOTE, _DELIMITER = '"', ","


class StdinSource(Source):
    """Standard input until it ends.

    Attributes:
        descriptor: where to read it: the descriptor's number in the process that opens the source.
    """

    live = True
    journaled = True

    def __init__(self, *, format: Format = "jsonl", schema: pa.Schema | None = None, descriptor: int = 0) -> None:
        if format not in ("jsonl", "csv", "text"):
            raise FlowError(f"read_stdin: format={format!r}: there are 'jsonl', 'csv' and 'text'")
        self.format = format
        self.declared = LINE_SCHEMA if format == "text" else schema
        self.descriptor = descriptor

    def label(self) -> str:
        return f"read_stdin(format={self.format!r})"

    def schema(self) -> pa.Schema | None:
        return self.declared

    def partitions(self) -> Sequence[str]:
        return ["stdin"]

    def open(self, partition: str) -> Reader:
        return DescriptorReader(self.descriptor, self._cutter())

    def open_journaled(self, partition: str, journal: Journal, offset: Offset | None) -> Reader:
        cutter = self._cutter()
        if offset is not None:
            header = offset["header"]
            cutter.resume(offset["position"], offset["line"], None if header is None else header.encode("latin-1"))
        return DescriptorReader(self.descriptor, cutter, journal)

    def _cutter(self) -> BlockCutter:
        if self.format == "csv":
            return BlockCutter("stdin", csv_ends(_QUOTE, _DELIMITER), _bring_header)
        return BlockCutter("stdin", line_ends)

    def decoder(self, fields: Sequence[str] | None) -> Decoder:
        if self.format == "text":
            return LineDecoder()
        if self.format == "jsonl":
            return json_decoder(self.declared, fields, self.label())
        return CsvFilesDecoder(
            None, self.declared, fields, delimiter=_DELIMITER, quote=_QUOTE, null_values=("",), label=self.label()
        )


def _bring_header(path: str, records: bytes) -> tuple[int, bytes | None]:
    """The header goes with every block: whoever decodes one knows no other."""
    header, _ = split_header(records, delimiter=_DELIMITER, quote=_QUOTE)
    return len(header), header


class DescriptorReader(Reader):
    """A pipe, a terminal or a file by its descriptor, which stays open: it belongs to whoever passed it on.

    With a journal, what it holds is read first, from where the cutter is.
    """

    def __init__(self, descriptor: int, cutter: BlockCutter, journal: Journal | None = None) -> None:
        self._descriptor = descriptor
        self._cutter = cutter
        self._journal = journal
        self._kept: Iterator[bytes] = iter(()) if journal is None else journal.go_on_from(cutter.offset)
        # The descriptor's own non-blocking flag is shared with other programs on the same terminal: ask first instead.
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._finished = False

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        while not self.ended:
            block = self._cutter.take(max_rows, max_bytes)
            if block is not None:
                return block
            if self._finished:
                self.ended = True
            elif not self._refill(max_bytes):
                return None
        return None

    def offset(self) -> Offset | None:
        if self._journal is None:
            return None
        header = self._cutter.header
        named = None if header is None else header.decode("latin-1")
        return {"position": self._cutter.offset, "line": self._cutter.line, "header": named}

    def wait_on(self) -> int | None:
        return None if self._full else self._descriptor

    @property
    def _full(self) -> bool:
        return self._journal is not None and self._journal.full

    def close(self) -> None:
        self.ended = True

    def _refill(self, nbytes: int) -> bool:
        """Read what is there; whether there was anything, be it the end."""
        pieces = [self._cutter.rest()]
        wanted = max(nbytes, len(pieces[0]))
        while wanted > 0 and not self._finished and (piece := self._next(wanted)) is not None:
            pieces.append(piece)
            wanted -= len(piece)
            self._finished = not piece
        if len(pieces) == 1:
            return False
        self._cutter.refill(b"".join(pieces), at_end=self._finished)
        return True

    def _next(self, nbytes: int) -> bytes | None:
        """What was kept, then what is there; None: nothing now; empty: the end."""
        if (kept := next(self._kept, None)) is not None:
            return kept
        if self._full or not self._poll.poll(0):
            return None
        try:
            piece = os.read(self._descriptor, nbytes)
        except OSError as error:
            raise SourceError(f"stdin: cannot be read: {error.strerror}") from error
        if self._journal is not None and piece:
            self._journal.append(piece)
        return piece
