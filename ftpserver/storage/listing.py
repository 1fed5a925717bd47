"""Listings of a home for clients: directory by directory, in flat memory, with few descriptors.

Lives here: the walk of one listing, what is told about a file. Lives elsewhere: where it starts
(home_reading.py), walks for whoever counts (walk.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator

from ftpserver.storage.digest_xattr import digest_by_name
from ftpserver.storage.permissions import Action, Permissions
from ftpwire import beneath, paths
from ftpwire.beneath import OPEN_DIRECTORY, Descent, Tree, identity_of, told_time
from ftpwire.errors import (
    CommandError,
    Forbidden,
    InvalidPath,
    NotFound,
    SourceChanged,
    from_oserror,
)
from ftpwire.messages import Entry, Problem
from ftpwire.paths import Parts

_MAX_WALK_DEPTH = 512
_ELSEWHERE = (errno.ESTALE, errno.ENOENT, errno.ENOTDIR)
"""Why a directory can't be opened again that was moved."""
Item = tuple[bytes, Entry | Problem | None]
"""A directory of a listing and something in it; None says that the directory is complete."""


class Walk:
    """One listing: directories on the way down, of which the lowest are open.

    What the permissions hide is left out, and not gone into. A recursive listing tells of all that
    it leaves out or doesn't go into, as a problem: what isn't known would look as if it were not
    there. Of a directory that was moved while the listing was in it, those below that were not
    listed yet are problems.
    """

    def __init__(
        self,
        tree: Tree,
        permissions: Permissions,
        stat_of: Callable[..., os.stat_result],
        *,
        recursive: bool,
        follow: bool,
        digest: bool,
    ) -> None:
        self._tree = tree
        self._permissions = permissions
        self._stat = stat_of
        self._recursive = recursive
        self._follow = follow
        self._digest = digest

    def run(self, fd: int, parts: Parts) -> Iterator[Item]:
        """List from an open directory on; ``fd`` is closed at the end."""
        way = Descent(fd)
        stack = [_Level(fd, b"", parts)]
        try:
            yield from self._entries(stack[-1], fd)
            while True:
                level = stack[-1]
                if not level.below:
                    stack.pop()
                    if not stack:
                        return
                    yield from self._go_up(way, stack[-1])
                    continue
                name = level.below.popleft()
                path = _join(level.path, name)
                try:
                    child = self._open_below(stack, way.fd, name, path)
                except FileNotFoundError:
                    continue  # removed since the directory was read
                except (OSError, CommandError) as error:
                    yield path, _problem(b"", error)
                    yield path, None
                    continue
                way.go_down(child)
                stack.append(_Level(child, path, (*level.parts, name)))
                yield from self._entries(stack[-1], child)
        finally:
            way.close()
            os.close(fd)

    def _go_up(self, way: Descent, level: _Level) -> Iterator[Item]:
        """Go back to a directory; if it was moved, what is left to list in it is a problem."""
        try:
            way.go_up(lambda: self._tree.open_dir(level.parts))
        except (OSError, CommandError) as error:
            if isinstance(error, OSError) and error.errno in _ELSEWHERE:
                error = SourceChanged("what it is in was moved meanwhile")
            for name in level.below:
                path = _join(level.path, name)
                yield path, _problem(b"", error)
                yield path, None
            level.below.clear()

    def _entries(self, level: _Level, fd: int) -> Iterator[Item]:
        """What is in one directory; those below are noted."""
        permissions = self._permissions
        guarded = bool(permissions.rules_below(level.parts))
        with os.scandir(fd) as entries:
            for found in entries:
                name = os.fsencode(found.name)
                if name in paths.RESERVED:
                    continue
                if guarded and not permissions.shows((*level.parts, name)):
                    if self._recursive:
                        yield level.path, _problem(name, self._refusal((*level.parts, name)))
                    continue
                try:
                    info = found.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        entry = self._file(fd, name, info)
                    else:
                        entry = self._look(fd, name, info, (*level.parts, name))
                except FileNotFoundError:
                    continue  # removed since the directory was read
                except (OSError, CommandError) as error:
                    yield level.path, _problem(name, error)
                    continue
                yield level.path, entry
                if self._recursive and entry.type == "dir":
                    level.below.append(name)
        yield level.path, None

    def _file(self, fd: int, name: bytes, info: os.stat_result) -> Entry:
        # most of what is listed: every step here shows in the time that a large tree takes
        digest = digest_by_name(fd, name, info) if self._digest else None
        mode, mtime_ns = info.st_mode & 0o7777, info.st_mtime_ns
        if not -(2**63) <= mtime_ns < 2**63:
            mtime_ns = told_time(info)
        return Entry(name, "file", info.st_size, mode, mtime_ns, None, digest)

    def _look(self, fd: int, name: bytes, info: os.stat_result, parts: Parts) -> Entry:
        if stat.S_ISLNK(info.st_mode):
            if self._follow:
                try:
                    return make_entry(name, self._stat(parts, follow=True))
                except FileNotFoundError:
                    # the link is there: left out without a word, a copy would look complete
                    raise NotFound("the link leads nowhere") from None
            return make_entry(name, info, target=os.readlink(name, dir_fd=fd))
        return make_entry(name, info)

    def _refusal(self, parts: Parts) -> CommandError:
        """Why something is not listed."""
        try:
            self._permissions.require(Action.LIST, parts)
        except Forbidden as error:
            return error
        raise AssertionError("it may be listed")

    def _open_below(self, stack: list[_Level], fd: int, name: bytes, path: bytes) -> int:
        if len(stack) > _MAX_WALK_DEPTH:
            raise InvalidPath(f"more than {_MAX_WALK_DEPTH} directories deep")
        if len(path) > paths.MAX_PATH:
            raise InvalidPath(f"longer than {paths.MAX_PATH} bytes")
        level = stack[-1]
        if not self._permissions.allows(Action.LIST, (*level.parts, name)):
            raise self._refusal((*level.parts, name))
        if self._follow:
            child = self._tree.open_dir((*level.parts, name))
        else:
            child = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        identity = identity_of(child)
        if any(identity == above.identity for above in stack):
            os.close(child)
            raise InvalidPath("the link leads into its own parents")
        return child


class _Level:
    """A directory of a listing, on the way down."""

    __slots__ = ("below", "identity", "parts", "path")

    def __init__(self, fd: int, path: bytes, parts: Parts) -> None:
        self.path = path
        self.parts = parts
        self.identity = identity_of(fd)
        self.below: deque[bytes] = deque()


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _problem(path: bytes, error: CommandError | OSError) -> Problem:
    if isinstance(error, OSError):
        error = from_oserror(error, "")
    return Problem(path, error.code, str(error))


def make_entry(
    path: bytes, info: os.stat_result, *, target: bytes | None = None, digest: bytes | None = None
) -> Entry:
    """What is told about a file in state ``info``."""
    mode = info.st_mode
    kind = beneath.entry_type(mode)
    return Entry(path, kind, info.st_size, mode & 0o7777, told_time(info), target, digest)
