"""Redirecting the output of a command to a local file: > and >>.

Lives here: opening the file and putting it in place. Lives elsewhere: which links are followed
(transfer/named.py), partial files (transfer/partial_file.py).
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
from ftpclient.transfer.named import Named, directory_and_name, look
from ftpclient.transfer.partial_file import PartialFile
from ftpwire import paths
from ftpwire.errors import NotRegular, SourceChanged

_NODE = os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC


class Output:
    """The file to which the output of a command goes.

    Attributes:
        fd: The descriptor to write to.
        whole: True if the file appears only when `keep` is called; False if bytes appear as they
            are written.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.whole = False

    def keep(self) -> None:
        """Put the file in place, replacing an old one. Raises OSError, CommandError."""


class _Whole(Output):
    """A new file, which appears under its name when it is complete.

    Args:
        path: The path as typed, for error messages.
        tree: The tree of its directory.
        name: Its name in that directory.
        named: The file that exists there before, if any.
    """

    def __init__(self, path: bytes, tree: LocalTree, name: bytes, named: Named | None) -> None:
        try:
            self._partial = PartialFile(tree, (name,))
        except OSError as error:  # its message would have the name of the partial file
            raise OSError(error.errno, error.strerror, path) from None
        super().__init__(self._partial.fd)
        self.whole = True
        self._path, self._tree, self._name = path, tree, name
        self._before = named.info if named is not None else None
        self._mode = stat.S_IMODE(named.info.st_mode) if named else 0o666 & ~umask()

    def keep(self) -> None:
        """Put the file in place, unless the old one changed meanwhile.

        So ``get x > x`` doesn't overwrite the file that it has downloaded.
        """
        if _state(self._tree.stat((self._name,))) != _state(self._before):
            raise _replaced(self._path)
        os.fsync(self.fd)
        self._partial.place(self._mode, time.time_ns())

    def drop(self) -> None:
        """Discard the partial file, unless it was kept."""
        self._partial.drop()


def _state(info: os.stat_result | None) -> tuple[int, ...] | None:
    return info and (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


@contextmanager
def opened(path: bytes, *, append: bool) -> Iterator[Output]:
    """Open a path for writing. At the end, a file that wasn't kept is discarded.

    A FIFO, a device and a descriptor (/dev/stdout) are written to directly.

    Raises:
        OSError, CommandError: The path cannot be written.
    """
    named = _named(path)
    if append or (named is not None and named.is_node):
        fd = _direct(path, named)
        try:
            yield Output(fd)
        finally:
            os.close(fd)
        return
    above, name = (
        os.path.split(path) if named is None or not named.is_link else directory_and_name(named)
    )
    with closing(LocalTree(above or b".")) as tree:
        if named is not None and not named.is_same(tree.stat((name,))):
            raise _replaced(path)
        tree.check_replaceable((name,))
        if named is not None and not os.access(path, os.W_OK, effective_ids=True):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        output = _Whole(path, tree, name, named)
        try:
            yield output
        finally:
            output.drop()


def _named(path: bytes) -> Named | None:
    """Return the file that exists at a path, if any. Raises as `opened`."""
    try:
        named = look(path)
    except FileNotFoundError:
        if path.endswith(b"/"):
            raise
        return None
    if named.is_socket:
        raise NotRegular(f"{paths.show(path)}: is a socket")
    if stat.S_ISDIR(named.info.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return named


def _direct(path: bytes, named: Named | None) -> int:
    """Open a file to which output is written directly. Raises as `opened`."""
    if named is not None and named.descriptor is not None:
        return os.dup(named.descriptor)
    fd = os.open(path, _NODE if named is not None and named.is_node else _APPEND, 0o666)
    if named is not None and not named.is_same(os.fstat(fd)):
        os.close(fd)
        raise _replaced(path)
    return fd


def _replaced(path: bytes) -> SourceChanged:
    return SourceChanged(f"{paths.show(path)}: was replaced meanwhile")
