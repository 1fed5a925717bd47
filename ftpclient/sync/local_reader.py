"""The local tree of a sync, as it is compared.

Lives here: opening and reading directories, .ftpignore files, digests.
Lives elsewhere: confinement (transfer/local_tree.py), what is found there (diff.py, policy.py,
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
"""How long what an interrupted download has left is spared, for it to be gone on with."""


class LocalReader:
    """Reads the local tree.

    Args:
        tree: Its root; None where a download is going to make it: then nothing is read.
        poll: Called now and then, to take what the server has sent. Raises Interrupted.
        trouble: Hears of what can't be read.
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
        """A handle of a directory. Raises OSError."""
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
        """What is in a directory that has no counterpart, and isn't left out."""
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
        """Whether links are followed."""
        return self._followed is not None

    def is_gone(self, item: os.DirEntry[str], error: OSError) -> bool:
        """Whether something can't be looked at because it was removed since its directory was read.
        A link that is to be followed, to nothing, is still there."""
        return isinstance(error, FileNotFoundError) and not (self.follows and item.is_symlink())

    def digest(self, path: bytes) -> bytes | None:
        """A file's digest; None when it can't be read, or is no file."""
        try:
            return self.hash(path)
        except (OSError, CommandError):
            return None  # whoever transfers it will say

    def hash(self, path: bytes) -> bytes:
        """A file's digest. Raises OSError, CommandError."""
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
    """Open a directory below a root, through links. Raises OSError; ELOOP where they lead to one
    that it is in."""
    fd = os.open(paths.child(root, path) if path else root, beneath.OPEN_DIRECTORY)
    try:
        here, parts = os.fstat(fd), parts_of(path)
        for count in range(len(parts)):
            above = os.stat(paths.child(root, b"/".join(parts[:count])))
            if os.path.samestat(above, here):
                raise OSError(errno.ELOOP, "the link leads into its own parents")
    except BaseException:
        os.close(fd)
        raise
    return fd


def local_entry(fd: int, name: bytes, info: os.stat_result) -> Entry:
    """Something in the local directory ``fd``, as the server would tell of it. Raises OSError."""
    kind = beneath.entry_type(info.st_mode)
    target = os.readlink(name, dir_fd=fd) if kind == "link" else None
    mode = stat.S_IMODE(info.st_mode)
    return Entry(name, kind, info.st_size, mode, beneath.told_time(info), target)


def local_root(tree: LocalTree) -> Entry:
    """The root of a local tree."""
    return local_entry(tree.directory(()), b"", os.fstat(tree.directory(())))


def is_partial(local: Entry) -> bool:
    """Whether it is what an interrupted download has left."""
    name = local.path
    return name.startswith(paths.PARTIAL_PREFIX) and name.endswith(paths.PARTIAL_SUFFIX)


def is_recent(local: Entry) -> bool:
    """Whether an interrupted download that left it may be gone on with."""
    return time.time_ns() - local.mtime_ns < _PARTIAL_SECONDS * 1e9


def check_depth(path: bytes) -> None:
    """Raises InvalidPath for a directory that is deeper than a server takes."""
    if path.count(b"/") >= paths.MAX_DEPTH:
        raise InvalidPath(f"{paths.show(path[:40])}…: more than {paths.MAX_DEPTH} directories deep")
