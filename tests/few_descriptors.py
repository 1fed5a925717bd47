"""Deep trees, and hardly any descriptors to walk them with.

Lives here: making a tree of any depth, and a low limit of descriptors. Lives elsewhere: the walks
(ftpwire/beneath.py, ftpserver/storage/, ftpclient/transfer/), what they are tried on (the tests).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

from ftpwire.beneath import OPEN_DIRECTORY


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """Let this process open only so many more descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in count() if number not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, more, None)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def mark_dead(top: Path, depth: int, name: bytes = b"d", file: bytes | None = b"f") -> None:
    """Make directories in each other, and beside each a second one and a file."""
    fd = os.open(top, OPEN_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
        os.mkdir(b"other", dir_fd=fd)
        if file is not None:
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
    os.close(fd)
