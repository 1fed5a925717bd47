"""Files that are written to while they are read.

Lives here: telling a file that only grew from one that changed. Lives elsewhere: reading it
(streams.py), what is stored and reported (ftpclient/transfer/, ftpserver/serving/commands/).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ftpwire import holes
from ftpwire.errors import SourceChanged
from ftpwire.streams import ReadAhead


def is_as_before(fd: int, before: os.stat_result) -> bool:
    """Whether an open file has the size and the time that it had in state ``before``."""
    now = os.fstat(fd)
    return (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def has_grown(
    fd: int, before: os.stat_result, digest: bytes | None, tick: Callable[[int], None]
) -> bool:
    """Whether a file that was read has grown since, as a log does; False: it is as before.

    Its first bytes are read once more: a database that grew may have been rewritten as well, and
    what was read would be a mixture.

    Args:
        before: Its state when it was opened. So many bytes were read.
        digest: Of these; None when it isn't known.
        tick: Called with the count of each step of reading.

    Raises:
        SourceChanged: It changed in any other way.
    """
    if is_as_before(fd, before):
        return False
    if digest is None or not begins_with(fd, before.st_size, digest, tick):
        raise SourceChanged("changed while it was read")
    return True


def begins_with(
    fd: int, size: int, digest: bytes, tick: Callable[[int], None] = lambda _: None
) -> bool:
    """Whether a file is larger than ``size``, and its first bytes have this digest."""
    if os.fstat(fd).st_size <= size:
        return False
    with ReadAhead(fd, size, sparse=holes.are_in(fd, size)) as pieces:
        for piece in pieces:
            tick(len(piece))
        return pieces.size == size and pieces.digest() == digest
