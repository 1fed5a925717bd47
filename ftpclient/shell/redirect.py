"""The output of a command in a local file: > and >>.

Lives here: what is opened for it, and how the file appears. Lives elsewhere: which links are
followed (transfer/named.py), files that appear whole (transfer/partial_file.py).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from ftpclient.cli.chmod_modes import umask
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.named import Named, look, place_of
from ftpclient.transfer.partial_file import PartialFile
from ftpwire import paths
from ftpwire.errors import NotRegular, SourceChanged

_NODE = os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC


class Output:
    """Where the output of one command goes.

    Attributes:
        fd: The descriptor to write to.
        whole: Its bytes appear at once, if ``keep`` is called; else they are there already.
    """

    def __init__(self, fd: int, partial: PartialFile | None = None, mode: int = 0) -> None:
        self.fd = fd
        self.whole = partial is not None
        self._partial = partial
        self._mode = mode

    def keep(self) -> None:
        """Let the file appear, in the place of the old one. Raises OSError, CommandError."""
        if self._partial is not None:
            os.fsync(self.fd)
            self._partial.place(self._mode, time.time_ns())


@contextmanager
def opened(path: bytes, *, append: bool) -> Iterator[Output]:
    """Open what a path names, for writing. What wasn't kept is gone in the end.

    A FIFO, a device and a descriptor (/dev/stdout) are written to directly.

    Raises:
        OSError, CommandError: It can't be written, or may not be.
    """
    named = _named(path)
    if append or (named is not None and named.is_node):
        fd = _direct(path, named)
        try:
            yield Output(fd)
        finally:
            os.close(fd)
        return
    above, name = os.path.split(path) if named is None or not named.is_link else place_of(named)
    with closing(LocalTree(above or b".")) as tree:
        if named is not None and not named.is_same(tree.stat((name,))):
            raise _replaced(path)
        tree.check_replaceable((name,))
        if named is None:
            mode = 0o666 & ~umask()
        else:
            mode = stat.S_IMODE(named.info.st_mode)
            if not os.access(path, os.W_OK, effective_ids=True):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        partial = PartialFile(tree, (name,))
        try:
            yield Output(partial.fd, partial, mode)
        finally:
            partial.drop()


def _named(path: bytes) -> Named | None:
    """What is there already. Raises as `opened`."""
    try:
        named = look(path)
    except FileNotFoundError:
        if path.endswith(b"/"):
            raise
        return None
    if named.is_socket:
        raise NotRegular(f"{paths.show(path)}: a socket: nothing can be written into it")
    if stat.S_ISDIR(named.info.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return named


def _direct(path: bytes, named: Named | None) -> int:
    """What is written to as it comes, open. Raises as `opened`."""
    if named is not None and named.descriptor is not None:
        return os.dup(named.descriptor)
    fd = os.open(path, _NODE if named is not None and named.is_node else _APPEND, 0o666)
    if named is not None and not named.is_same(os.fstat(fd)):
        os.close(fd)
        raise _replaced(path)
    return fd


def _replaced(path: bytes) -> SourceChanged:
    return SourceChanged(f"{paths.show(path)}: was replaced meanwhile")
