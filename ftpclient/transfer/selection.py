"""What of a tree is meant: put -r, get -r and sync, and commands that look through trees.

Lives here: the patterns that hold in a directory and in those below it, its .ftpignore file when
it is here; walking along with a listing.
Lives elsewhere: what a pattern matches (patterns.py), lists of paths (path_list.py), reading the
trees (upload.py, tree_download.py, sync/).

Memory is that of the way down from the root: nothing is kept of what was seen.
"""

from __future__ import annotations

import copy
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ftpclient.transfer.path_list import PathList
from ftpclient.transfer.patterns import (
    IGNORE_FILE,
    MAX_IGNORE_FILE,
    Rules,
    bounded,
    file_rules,
    option_rules,
)
from ftpwire import beneath, paths
from ftpwire.messages import Entry


class Limits(msgspec.Struct, frozen=True):
    """What regular files have to be like. Links and directories are not looked at.

    Attributes:
        max_size: The most bytes.
        oldest_ns, newest_ns: Between which mtimes, both included.
    """

    max_size: int | None = None
    oldest_ns: int | None = None
    newest_ns: int | None = None

    def leave_out(self, size: int, mtime_ns: int) -> bool:
        """Whether a file is left out."""
        return (
            (self.max_size is not None and size > self.max_size)
            or (self.oldest_ns is not None and mtime_ns < self.oldest_ns)
            or (self.newest_ns is not None and mtime_ns > self.newest_ns)
        )


class Selection(msgspec.Struct, frozen=True):
    """What of a tree is meant.

    Attributes:
        patterns: What is left out (True) or not (False), in order; the last that matches decides.
        ignore_files: The .ftpignore files of the tree hold as well.
        limits: What files have to be like.
        only: Nothing else is meant. It has to be asked which of these are there.
    """

    patterns: tuple[tuple[bool, str], ...] = ()
    ignore_files: bool = False
    limits: Limits | None = None
    only: PathList | None = None

    def filter(self, check: Callable[[], None] = lambda: None) -> Filter:
        """What is left out of the root; ``check`` raises what ends the work."""
        return Filter(option_rules(self.patterns), check, self.limits, self.only)


EVERYTHING = Selection()


class Filter:
    """What is left out of one directory.

    Attributes:
        active: Whether anything could be.
        limits: What files have to be like; None: nothing.

    Args:
        rules: Of the options: they come before those of .ftpignore files.
        check: Called while patterns are compared; it raises what ends the work.
        chosen: What else is left out, as it is not in a list.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        check: Callable[[], None] = lambda: None,
        limits: Limits | None = None,
        chosen: PathList | None = None,
    ) -> None:
        self._check = check
        self._levels: tuple[tuple[Rules, str], ...] = ((rules, ""),) if rules else ()
        self._options = len(self._levels)
        self._path = b""
        self._chosen = chosen
        self.limits = limits
        self.active = bool(rules) or limits is not None or chosen is not None

    def with_rules(self, rules: Rules) -> Filter:
        """The same directory, after its .ftpignore file was read."""
        if not rules:
            return self
        new = self._copy()
        options = self._options
        new._levels = (*self._levels[:options], (rules, ""), *self._levels[options:])
        new.active = True
        return new

    def below(self, name: bytes) -> Filter:
        """That of a directory in this one, before its own .ftpignore file was read."""
        if not self.active:
            return self
        text = _text(name) + "/"
        new = self._copy()
        new._levels = tuple((rules, prefix + text) for rules, prefix in self._levels)
        if self._chosen is not None:
            new._path = self._path + b"/" + name if self._path else name
            if self._chosen.is_named(new._path):  # with all that is in it
                new._chosen = None
        return new

    def _copy(self) -> Filter:
        return copy.copy(self)

    def excludes(self, name: bytes, *, is_directory: bool) -> bool:
        """Whether something in this directory is left out, whatever its size and time are."""
        chosen = self._chosen
        if chosen is not None:
            path = self._path + b"/" + name if self._path else name
            if not chosen.is_named(path) and not (is_directory and chosen.is_above(path)):
                return True
        text = _text(name)
        for rules, prefix in self._levels:
            decided = rules.decide(prefix + text, text, is_directory, self._check)
            if decided is not None:
                return decided
        return False

    def leaves_out(self, entry: Entry) -> bool:
        """Whether something in this directory is left out."""
        if not self.active:
            return False
        if entry.type == "file" and self.limits is not None:
            if self.limits.leave_out(entry.size, entry.mtime_ns):
                return True
        return self.excludes(entry.path, is_directory=entry.type == "dir")

    def leaves_out_local(self, name: bytes, info: os.stat_result) -> bool:
        """The same of something that is here."""
        if not self.active:
            return False
        if self.limits is not None and stat.S_ISREG(info.st_mode):
            if self.limits.leave_out(info.st_size, info.st_mtime_ns):
                return True
        return self.excludes(name, is_directory=stat.S_ISDIR(info.st_mode))


_OPEN_RULES = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def local_rules(fd: int) -> bytes:
    """The .ftpignore file of a local directory; nothing where there is none.

    Raises:
        OSError, CommandError: It can't be read, or is too large.
    """
    try:
        file = os.open(IGNORE_FILE, _OPEN_RULES, dir_fd=fd)
    except FileNotFoundError:
        return b""
    except OSError as error:
        if error.errno == errno.ELOOP:
            return b""  # as in git: links are not followed
        raise
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            return b""
        return bounded(opened.read(MAX_IGNORE_FILE + 1))


def with_ignore_file(rules: Filter, directory: bytes) -> Filter:
    """The filter of a local directory, given that of its place, once its .ftpignore file was read.

    Raises:
        OSError, CommandError: See `local_rules`.
    """
    fd = os.open(directory, beneath.OPEN_DIRECTORY)
    try:
        return rules.with_rules(file_rules(local_rules(fd)))
    finally:
        os.close(fd)


def _text(name: bytes) -> str:
    """A name to be matched. A newline becomes NUL, which no name has: ``.`` and ``$`` of regular
    expressions take it for nothing special."""
    return paths.to_text(name).replace("\n", "\0")


def is_within(path: bytes, directory: bytes) -> bool:
    """Whether a path is below a directory, and not the directory itself. Both are relative."""
    return path.startswith(directory + b"/") if directory else bool(path)


class Walk:
    """What is selected of a tree that comes one directory after another, each before those in it,
    and all below one before the next beside it: as the server lists it.

    Args:
        root: What is left out of the root.
    """

    def __init__(self, root: Filter) -> None:
        self._root = root
        self._stack: list[tuple[bytes, Filter | None]] = [(b"", root)]

    def enter(self, directory: bytes) -> Filter | None:
        """The filter of a directory, given by its path from the root; None where it is left out,
        or one above it."""
        stack = self._stack
        while stack[-1][0] != directory and not is_within(directory, stack[-1][0]):
            stack.pop()
        path, here = stack[-1]
        below = directory[len(path) + 1 :] if path else directory
        for name in below.split(b"/") if below else ():
            if here is not None and here.active:
                out = here.excludes(name, is_directory=True)
                here = None if out else here.below(name)
            path = path + b"/" + name if path else name
            stack.append((path, here))
        return here

    def selected(self, directory: bytes, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Those of a directory's entries that are not left out. The root itself never is."""
        here = self.enter(directory)
        if here is not None:
            yield from (entry for entry in entries if not (entry.path and here.leaves_out(entry)))

    def through(
        self, blocks: Iterable[tuple[bytes, list[Entry]]]
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        """What is selected of directories that come as from `Client.walk`."""
        for directory, entries in blocks:
            if self.enter(directory) is not None:
                yield directory, list(self.selected(directory, entries))

    def leaves_out(self, path: bytes) -> bool:
        """Whether something of which no more is known is left out; it is taken for a directory."""
        above, _, name = path.rpartition(b"/")
        here = self.enter(above)
        if here is None:
            return True
        return bool(name) and here.active and here.excludes(name, is_directory=True)
