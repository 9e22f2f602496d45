"""A part of a file that a worker reads itself, instead of having it sent.

The coordinator cuts files into blocks and deals these to workers. A file without compression that nobody appends to is
there for all of them: from the page cache a worker has a block for one copy, and over a socket for four.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from millstream.connectors.files import cannot_read
from millstream.errors import SourceError

LEAST_BYTES: Final = 64 << 10
"""To send less than this costs less than to open the file."""

_REMEDY: Final = "leave files as they are while a run reads them, or read them with follow=True"


class FileRange(NamedTuple):
    """Attributes:
    path: the file's, absolute.
    device, inode: which file it is: another one may have its name by now.
    start: the first byte.
    nbytes: how many.
    """

    path: str
    device: int
    inode: int
    start: int
    nbytes: int

    def read(self) -> bytes:
        """
        Raises:
            SourceError: the file is not there any more, or another one, or too short.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) != (self.device, self.inode):
                    raise SourceError(f"{self.path}: was replaced by another file while it was read; {_REMEDY}")
                data = os.pread(descriptor, self.nbytes, self.start)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        if len(data) < self.nbytes:
            raise SourceError(f"{self.path}: was cut short while it was read; {_REMEDY}")
        return data
