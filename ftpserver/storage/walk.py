"""Walking a complete home, however deep, to count or check what is in it.

Lives here: the walk, with few descriptors and no recursion.
Lives elsewhere: listings for clients, which have another order (home_reading.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ftpserver.storage.trash.names import INDEX_NAME, is_name
from ftpwire import paths
from ftpwire.beneath import OPEN_ANY, OPEN_DIRECTORY, chmod_pinned, identity_of, open_above
from ftpwire.paths import Parts

_OPEN_BELOW = OPEN_DIRECTORY | os.O_NOFOLLOW

OnProblem = Callable[[bytes, OSError], None]


class Found(NamedTuple):
    """Something in a home: its path from there, its directory (open), its name and its entry."""

    path: bytes
    directory: int
    name: bytes
    entry: os.DirEntry[str]


class _Level:
    """A directory on the way down: its path and identity, and its unvisited subdirectories.

    Attributes:
        closed: The mode to restore; None if it wasn't changed.
    """

    __slots__ = ("below", "closed", "identity", "name", "path")

    def __init__(self, path: bytes, name: bytes, fd: int, closed: int | None = None) -> None:
        self.closed = closed
        self.path = path
        self.name = name
        self.identity = identity_of(fd)
        self.below: list[bytes] = []


def walk(
    home: int,
    on_problem: OnProblem | None = None,
    *,
    through_closed: bool = False,
    staging: bool = False,
    closed: Collection[Parts] = (),
) -> Iterator[Found]:
    """Yield everything below a home, without its staging and its trash; no link is followed.

    The name of staging in another directory is yielded, and not descended into.

    One directory is open at a time. Entries that are removed meanwhile may be missed. A directory
    that is moved is a problem if the way back to it isn't found and it has unvisited
    subdirectories.

    Args:
        home: The home's descriptor; it stays open.
        on_problem: Called with directories that cannot be read; without it, the error is raised.
        through_closed: True to open directories whose mode forbids it, by changing it meanwhile.
        staging: True to treat the reserved names like any other.
        closed: Paths to skip as if they didn't exist: the homes of other accounts.
    """
    shut = frozenset(b"/".join(parts) for parts in closed)
    fd = os.open(b".", OPEN_DIRECTORY, dir_fd=home)
    try:
        levels = [_Level(b"", b"", fd)]
        yield from _entries(levels[0], fd, on_problem, staging, shut)
        while levels:
            level = levels[-1]
            if level.below:
                name = level.below.pop()
                path = level.path + b"/" + name if level.path else name
                try:
                    child, had = _open_below(fd, name, through_closed)
                except OSError as error:
                    _report(on_problem, path, error)
                    continue
                os.close(fd)
                fd = child
                levels.append(_Level(path, name, fd, had))
                yield from _entries(levels[-1], fd, on_problem, staging, shut)
                continue
            levels.pop()
            if levels:
                try:
                    above = _up(home, fd, levels, on_problem)
                finally:
                    if level.closed is not None:
                        os.chmod(fd, level.closed)
                os.close(fd)
                fd = above
    finally:
        os.close(fd)


def _open_below(fd: int, name: bytes, through_closed: bool) -> tuple[int, int | None]:
    """Open a directory; return it, and its mode if that has to be restored."""
    if through_closed:
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        if mode & 0o500 != 0o500:
            return open_closed(fd, name)
    return os.open(name, _OPEN_BELOW, dir_fd=fd), None


def open_closed(directory: int, name: bytes) -> tuple[int, int]:
    """Open a directory whose own mode forbids it, by changing the mode, as its owner may.

    Returns:
        The descriptor, and the previous mode.
    """
    pinned = os.open(name, OPEN_ANY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        mode = stat.S_IMODE(os.fstat(pinned).st_mode)
        chmod_pinned(pinned, mode | 0o700)
        return os.open(b".", OPEN_DIRECTORY, dir_fd=pinned), mode
    finally:
        os.close(pinned)


def open_as_it_is(directory: int, name: bytes) -> int:
    """Open a directory, even if its own mode forbids it, and leave it with that mode."""
    try:
        return os.open(name, _OPEN_BELOW, dir_fd=directory)
    except PermissionError:
        fd, mode = open_closed(directory, name)
    try:
        os.chmod(fd, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def counted_size(info: os.stat_result) -> int:
    """Return the bytes that a quota counts: the size of a file, or of the path in a link."""
    return info.st_size if stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode) else 0


@dataclass(frozen=True)
class Usage:
    """The usage of a home: bytes of regular files and of links' targets; the number of files,
    directories and links."""

    size: int
    files: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.size + other.size, self.files + other.files)


STORED_SUFFIX = b".stored"
"""The suffix of a stored tree's name in staging. It counts until its removal is settled."""
_TICKS = 256
"""The number of files and directories counted between two ticks."""
TRASH_SUFFIX = b".trash"
"""The suffix of an evicted operation's name in staging. Its contents count until their removal is
settled; the operation itself and its index don't."""


def stored(
    home: int,
    on_problem: OnProblem | None = None,
    *,
    on_beside: Callable[[int], None] | None = None,
    closed: Collection[Parts] = (),
) -> Usage:
    """Count everything in a home, as the quota counts it. Hold its lock alone.

    In staging, the contents of atomic trees count; the trees themselves and single files are held
    by leases. A tree that is being removed counts as a directory, too. The contents of the trash
    count like what is stored; the directories of its operations and their indexes don't.

    Args:
        on_beside: Called with each open directory below the home that contains the reserved name,
            before the contents of that are counted. None: the name belongs to no one, and counts.
        closed: The homes of other accounts inside it, which aren't counted.
    """
    total = _stored_below(home, on_problem, on_beside, closed)
    return total + _stored_in_staging(home, on_problem) + _stored_in_trash(home, on_problem)


def _stored_in_trash(home: int, on_problem: OnProblem | None) -> Usage:
    try:
        trash = os.open(paths.TRASH, _OPEN_BELOW, dir_fd=home)
    except FileNotFoundError:
        return Usage(0, 0)
    except NotADirectoryError:  # a user's file from before servers had a trash
        info = os.stat(paths.TRASH, dir_fd=home, follow_symlinks=False)
        return Usage(counted_size(info), 1)
    try:
        return _stored_below(trash, on_problem, _leave_alone, counts=_counts_in_trash)
    finally:
        os.close(trash)


def _counts_in_trash(found: Found) -> bool:
    above, _, name = found.path.rpartition(b"/")
    if not above:
        return not (is_name(name) and found.entry.is_dir(follow_symlinks=False))
    return not (name == INDEX_NAME and is_name(above))


def _stored_in_staging(directory: int, on_problem: OnProblem | None) -> Usage:
    total = Usage(0, 0)
    try:
        staging = os.open(paths.STAGING, _OPEN_BELOW, dir_fd=directory)
    except FileNotFoundError:
        return total
    try:
        for name in os.listdir(staging):
            try:
                tree = os.open(name, _OPEN_BELOW, dir_fd=staging)
            except (NotADirectoryError, FileNotFoundError):
                continue  # a file; or it was removed, which sessions do without the lock
            try:
                raw = os.fsencode(name)
                if raw.endswith(TRASH_SUFFIX):
                    counts, beside = _counts_when_purged, _leave_alone
                else:
                    counts, beside = None, None
                total += _stored_below(tree, on_problem, beside, counts=counts)
                total += Usage(0, int(raw.endswith(STORED_SUFFIX)))
            finally:
                os.close(tree)
    finally:
        os.close(staging)
    return total


def _counts_when_purged(found: Found) -> bool:
    return found.path != INDEX_NAME


def _leave_alone(beside: int) -> None:
    """Leave the staging directory of a tree in the trash as it is: `discard_tree` doesn't count its
    contents either."""


def stored_in_tree(tree: int, tick: Callable[[], None]) -> Usage:
    """Count the contents of a tree in the trash, without the tree itself: the same number that its
    removal will report.

    Args:
        tree: The descriptor of the tree.
        tick: Called now and then during the walk.

    Raises:
        OSError: Some of it cannot be read, or was moved meanwhile.
    """
    left = [_TICKS]

    def counts(found: Found) -> bool:
        left[0] -= 1
        if not left[0]:
            left[0] = _TICKS
            tick()
        return True

    return _stored_below(tree, None, _leave_alone, counts=counts)


def _stored_below(
    directory: int,
    on_problem: OnProblem | None,
    on_beside: Callable[[int], None] | None,
    closed: Collection[Parts] = (),
    counts: Callable[[Found], bool] | None = None,
) -> Usage:
    """Count what is below a directory.

    Args:
        counts: Returns True if something counts; None: everything does.
    """
    size = files = 0
    below = Usage(0, 0)
    for found in walk(directory, on_problem, through_closed=True, closed=closed):
        try:
            if found.name == paths.STAGING:
                if on_beside is not None:
                    on_beside(found.directory)
                else:
                    files += 1
                below += _stored_in_staging(found.directory, on_problem)
                continue
            if counts is not None and not counts(found):
                continue
            info = found.entry.stat(follow_symlinks=False)
        except OSError as error:
            _report(on_problem, found.path, error)
            continue
        files += 1
        size += counted_size(info)
    return Usage(size, files) + below


def _entries(
    level: _Level, fd: int, on_problem: OnProblem | None, staging: bool, shut: frozenset[bytes]
) -> Iterator[Found]:
    prefix = level.path + b"/" if level.path else b""
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if not prefix and not staging and name in paths.RESERVED:
                    continue
                hidden = name == paths.STAGING and not staging
                if shut and prefix + name in shut:
                    continue
                if not hidden and entry.is_dir(follow_symlinks=False):
                    level.below.append(name)
                yield Found(prefix + name, fd, name, entry)
    except OSError as error:
        _report(on_problem, level.path, error)


def _report(on_problem: OnProblem | None, path: bytes, error: OSError) -> None:
    if isinstance(error, FileNotFoundError):
        return  # it was removed meanwhile
    if on_problem is None:
        raise error
    on_problem(path, error)


def _up(home: int, fd: int, levels: list[_Level], on_problem: OnProblem | None) -> int:
    """Open the directory of the last level, coming from one of its subdirectories.

    If it was moved meanwhile, it is looked for from the top. If it isn't found, it is skipped, and
    reported if subdirectories of it are unvisited.
    """
    found = open_above(fd, levels[-1].identity)
    if found is not None:
        return found
    above = os.open(b".", OPEN_DIRECTORY, dir_fd=home)
    for count, level in enumerate(levels[1:], 1):
        try:
            child = os.open(level.name, _OPEN_BELOW, dir_fd=above)
        except OSError:
            lost = levels[count:]
            break
        if identity_of(child) != level.identity:
            os.close(child)
            lost = levels[count:]
            break
        os.close(above)
        above = child
    else:
        return above
    del levels[len(levels) - len(lost) :]
    try:
        for level in lost:
            if level.below:
                moved = OSError(errno.ESTALE, "it was moved meanwhile")
                _report(on_problem, level.path, moved)
    except BaseException:
        os.close(above)
        raise
    return above
