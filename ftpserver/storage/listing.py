"""Listings of a home: directory by directory, with bounded memory and few descriptors.

Lives here: the walk of one listing, the entry that describes a file. Lives elsewhere: starting a
listing (home_reading.py), walks that count (walk.py).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from ftpserver.storage.digest_xattr import digest_by_name
from ftpserver.storage.permissions import Action, Permissions
from ftpwire import beneath, paths
from ftpwire.beneath import OPEN_DIRECTORY, Descent, Tree, clamped_mtime_ns, identity_of
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
"""The errors of opening a directory again that was moved."""
_TOGETHER = 256
"""Entries of one directory that are read, and sent, together."""
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_FILE = stat.S_IFREG
_FIRST_TIME, _LAST_TIME = -(2**63), 2**63 - 1
"""The range of times in a message. A time outside is replaced by the nearest one."""
Item = tuple[bytes, Entry | Problem | None]
"""A directory of a listing and one of its entries; None after its last one."""


class Part(NamedTuple):
    """Some of the entries of one directory of a listing.

    Attributes:
        directory: Its path relative to the listed one.
        complete: True for the last part of a directory.
    """

    directory: bytes
    entries: list[Entry]
    problems: list[Problem]
    complete: bool = False

    def items(self) -> Iterator[Item]:
        """Yield everything in it, one by one."""
        for entry in self.entries:
            yield self.directory, entry
        for problem in self.problems:
            yield self.directory, problem
        if self.complete:
            yield self.directory, None


class Walk:
    """One listing: the directories on the way down, of which the lowest ones are open.

    Entries that the permissions hide are left out, and not descended into. A recursive listing
    reports everything that it leaves out as a problem, because a missing entry would look like a
    missing file. If a directory is moved while the listing is inside it, the subdirectories not yet
    listed are reported as problems.

    Args:
        prefix: List only the names in the first directory that begin with it, and what is below
            these. The others are only read: they cost no stat, and no memory.
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
        prefix: bytes,
    ) -> None:
        self._tree = tree
        self._permissions = permissions
        self._stat = stat_of
        self._recursive = recursive
        self._follow = follow
        self._digest = digest
        self._prefix = prefix

    def run(self, fd: int, parts: Parts) -> Iterator[Part]:
        """List the tree from an open directory on. Closes ``fd`` at the end."""
        way = Descent(fd)
        stack = [_Level(fd, b"", parts)]
        try:
            yield from self._entries(stack[-1], fd, self._prefix)
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
                    yield _unlisted(path, error)
                    continue
                way.go_down(child)
                stack.append(_Level(child, path, (*level.parts, name)))
                yield from self._entries(stack[-1], child)
        finally:
            way.close()
            os.close(fd)

    def _go_up(self, way: Descent, level: _Level) -> Iterator[Part]:
        """Go back to a directory. If it was moved, its unlisted subdirectories are problems."""
        try:
            way.go_up(lambda: self._tree.open_dir(level.parts))
        except (OSError, CommandError) as error:
            if isinstance(error, OSError) and error.errno in _ELSEWHERE:
                error = SourceChanged("its parent directory was moved meanwhile")
            for name in level.below:
                yield _unlisted(_join(level.path, name), error)
            level.below.clear()

    def _entries(self, level: _Level, fd: int, prefix: bytes = b"") -> Iterator[Part]:
        """List one directory, and remember its subdirectories."""
        guarded = bool(self._permissions.rules_below(level.parts))
        with os.scandir(fd) as entries:
            # A part also stands for names that don't match: the caller then checks for a CANCEL.
            while some := list(islice(entries, _TOGETHER)):
                if prefix:
                    some = [
                        one
                        for one in some
                        if one.name.encode(_ENCODING, _ERRORS).startswith(prefix)
                    ]
                yield self._part(level, fd, some, guarded)
        yield Part(level.path, [], [], complete=True)

    def _part(self, level: _Level, fd: int, some: list[os.DirEntry[str]], guarded: bool) -> Part:
        """List some entries of a directory."""
        # Most entries are files. Each step here is noticeable in the time of a large tree.
        entries: list[Entry] = []
        problems: list[Problem] = []
        add, digests, reserved = entries.append, self._digest, paths.RESERVED
        for found in some:
            name = found.name.encode(_ENCODING, _ERRORS)
            if name in reserved:
                continue
            if guarded and not self._permissions.shows((*level.parts, name)):
                if self._recursive:
                    problems.append(_problem(name, self._refusal((*level.parts, name))))
                continue
            try:
                info = found.stat(follow_symlinks=False)
                mode, mtime_ns = info.st_mode, info.st_mtime_ns
                if stat.S_IFMT(mode) == _FILE and _FIRST_TIME <= mtime_ns <= _LAST_TIME:
                    digest = digest_by_name(fd, name, info) if digests else None
                    add(Entry(name, "file", info.st_size, mode & 0o7777, mtime_ns, None, digest))
                    continue
                entry = self._look(fd, name, info, (*level.parts, name))
            except FileNotFoundError:
                continue  # removed since the directory was read
            except (OSError, CommandError) as error:
                problems.append(_problem(name, error))
                continue
            add(entry)
            if self._recursive and entry.type == "dir":
                level.below.append(name)
        return Part(level.path, entries, problems)

    def _look(self, fd: int, name: bytes, info: os.stat_result, parts: Parts) -> Entry:
        if stat.S_ISLNK(info.st_mode):
            if self._follow:
                try:
                    return make_entry(name, self._stat(parts, follow=True))
                except FileNotFoundError:
                    # not silently left out, or a copy would look complete
                    raise NotFound("the link leads nowhere") from None
            return make_entry(name, info, target=os.readlink(name, dir_fd=fd))
        digest = None
        if self._digest and stat.S_ISREG(info.st_mode):
            digest = digest_by_name(fd, name, info)
        return make_entry(name, info, digest=digest)

    def _refusal(self, parts: Parts) -> CommandError:
        """Return the reason why something isn't listed."""
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


def _unlisted(directory: bytes, error: CommandError | OSError) -> Part:
    """Return the part for a directory that cannot be listed."""
    return Part(directory, [], [_problem(b"", error)], complete=True)


def _problem(path: bytes, error: CommandError | OSError) -> Problem:
    if isinstance(error, OSError):
        error = from_oserror(error, "")
    return Problem(path, error.code, str(error))


def make_entry(
    path: bytes, info: os.stat_result, *, target: bytes | None = None, digest: bytes | None = None
) -> Entry:
    """Return the entry that describes a file in state ``info`` to a client."""
    mode = info.st_mode
    kind = beneath.entry_type(mode)
    return Entry(path, kind, info.st_size, mode & 0o7777, clamped_mtime_ns(info), target, digest)
