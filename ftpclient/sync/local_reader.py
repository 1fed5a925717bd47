"""Reading the local tree during the comparison of a sync.

Lives here: opening and reading directories, .ftpignore files, digests.
Lives elsewhere: confinement (transfer/local_tree.py), processing what is found (diff.py, policy.py,
deletions.py).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpclient.sync.directories import join, parts_of
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.selection import Filter
from ftpwire import beneath, holes, paths
from ftpwire.errors import CommandError, InvalidPath
from ftpwire.messages import Entry
from ftpwire.streams import ReadAhead

_PARTIAL_SECONDS = 24 * 3600.0
"""How long a partial file of an interrupted download is kept for resuming, in seconds."""


class LocalReader:
    """Reads the local tree.

    Args:
        tree: The tree; None if a download is going to make it: then nothing is read.
        poll: Called regularly, to receive what the server has sent. Raises Interrupted.
        trouble: Called with what cannot be read.
        follow: The root's path, if links below it are followed.
    """

    def __init__(
        self,
        tree: LocalTree | None,
        poll: Callable[[], None],
        trouble: Callable[[bytes, OSError], None],
        follow: bytes | None = None,
    ) -> None:
        self._followed = follow
        self._tree = tree
        self._poll = poll
        self._trouble = trouble

    @contextmanager
    def open(self, path: bytes) -> Iterator[int]:
        """Open a directory. Raises OSError."""
        assert self._tree is not None
        if self._followed is None:
            fd = self._tree.open_dir(parts_of(path))
        else:
            fd = _open_followed(self._followed, path)
        try:
            yield fd
        finally:
            os.close(fd)

    def entries(self, fd: int, path: bytes, rules: Filter) -> Iterator[Entry]:
        """Iterate over the selected entries of a directory that only exists here."""
        self._poll()
        with os.scandir(fd) as found:
            for item in found:
                name = os.fsencode(item.name)
                try:
                    info = item.stat(follow_symlinks=self.follows)
                    local = local_entry(fd, name, info)
                except OSError as error:
                    if self.is_gone(item, error):
                        continue
                    if not (rules.active and rules.excludes(name, is_directory=False)):
                        self._trouble(join(path, name), error)
                    continue
                if not rules.leaves_out(local):
                    yield local

    @property
    def follows(self) -> bool:
        """True if links are followed."""
        return self._followed is not None

    def is_gone(self, item: os.DirEntry[str], error: OSError) -> bool:
        """Return whether an entry was removed since its directory was read.

        A link that is to be followed and whose target does not exist still exists itself.
        """
        return isinstance(error, FileNotFoundError) and not (self.follows and item.is_symlink())

    def digest(self, path: bytes) -> bytes | None:
        """Return a file's digest; None if it cannot be read, or is not a file."""
        try:
            return self.hash(path)
        except (OSError, CommandError):
            return None  # the transfer reports the error

    def hash(self, path: bytes) -> bytes:
        """Return a file's digest. Raises OSError, CommandError."""
        with self._reading(path) as fd:
            size = os.fstat(fd).st_size
            with ReadAhead(fd, size, sparse=holes.are_in(fd, size)) as pieces:
                for _ in pieces:
                    self._poll()
                return pieces.digest()

    @contextmanager
    def _reading(self, path: bytes) -> Iterator[int]:
        if self._followed is None:
            assert self._tree is not None
            with self._tree.reading(parts_of(path)) as fd:
                yield fd
            return
        fd = os.open(paths.child(self._followed, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            beneath.regular(fd)
            yield fd
        finally:
            os.close(fd)


def _open_followed(root: bytes, path: bytes) -> int:
    """Open a directory below a root, following links.

    Raises:
        OSError: ``ELOOP`` if it is one of the directories above it.
    """
    fd = os.open(paths.child(root, path) if path else root, beneath.OPEN_DIRECTORY)
    try:
        here, parts = os.fstat(fd), parts_of(path)
        for count in range(len(parts)):
            above = os.stat(paths.child(root, b"/".join(parts[:count])))
            if os.path.samestat(above, here):
                raise OSError(errno.ELOOP, "a link to a directory above it")
    except BaseException:
        os.close(fd)
        raise
    return fd


def local_entry(fd: int, name: bytes, info: os.stat_result) -> Entry:
    """Return an entry of the local directory ``fd``, in the server's form. Raises OSError."""
    kind = beneath.entry_type(info.st_mode)
    target = os.readlink(name, dir_fd=fd) if kind == "link" else None
    mode = stat.S_IMODE(info.st_mode)
    return Entry(name, kind, info.st_size, mode, beneath.clamped_mtime_ns(info), target)


def local_root(tree: LocalTree) -> Entry:
    """Return the entry of a local tree's root."""
    return local_entry(tree.directory(()), b"", os.fstat(tree.directory(())))


def is_partial(local: Entry) -> bool:
    """Return whether a file is a partial file of an interrupted download."""
    name = local.path
    return name.startswith(paths.PARTIAL_PREFIX) and name.endswith(paths.PARTIAL_SUFFIX)


def is_recent(local: Entry) -> bool:
    """Return whether the download that left a partial file may still be resumed."""
    return time.time_ns() - local.mtime_ns < _PARTIAL_SECONDS * 1e9


def check_depth(path: bytes) -> None:
    """Raise InvalidPath for a directory deeper than servers accept."""
    if path.count(b"/") >= paths.MAX_DEPTH:
        raise InvalidPath(f"{paths.show(path[:40])}…: more than {paths.MAX_DEPTH} directories deep")
