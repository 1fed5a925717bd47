"""Files that are written while they are read.

Lives here: distinguishing a file that only grew from one that changed.
Lives elsewhere: reading it (streams.py), what is stored and reported (ftpclient/transfer/,
ftpserver/serving/commands/).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ftpwire import holes
from ftpwire.errors import SourceChanged
from ftpwire.streams import ReadAhead


def is_as_before(fd: int, before: os.stat_result) -> bool:
    """Return True if an open file still has the size and mtime of its earlier state ``before``."""
    now = os.fstat(fd)
    return (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def has_grown(
    fd: int, before: os.stat_result, digest: bytes | None, tick: Callable[[int], None]
) -> bool:
    """Return True if a file has grown since it was read, as a log does; False if it is unchanged.

    The bytes that were read are hashed again: a database that grew may have been rewritten as well,
    and the bytes would then be a mixture of old and new ones.

    Args:
        before: The file's state when it was opened. That many bytes were read.
        digest: Their digest; None if unknown.
        tick: Function to call with the number of bytes of each step of reading.

    Raises:
        SourceChanged: The file changed in any other way.
    """
    if is_as_before(fd, before):
        return False
    if digest is None or not begins_with(fd, before.st_size, digest, tick):
        raise SourceChanged("changed while it was read")
    return True


def begins_with(
    fd: int, size: int, digest: bytes, tick: Callable[[int], None] = lambda _: None
) -> bool:
    """Return True if a file is larger than ``size``, and its first bytes have this digest."""
    if os.fstat(fd).st_size <= size:
        return False
    with ReadAhead(fd, size, sparse=holes.are_in(fd, size)) as pieces:
        for piece in pieces:
            tick(len(piece))
        return pieces.size == size and pieces.digest() == digest
