"""Selecting parts of a tree: for put -r, get -r and sync, and commands that search trees.

Lives here: the patterns that apply to a directory and those below it, reading the .ftpignore file
of a local directory; applying a selection to a listing.
Lives elsewhere: what a pattern matches (patterns.py), lists of paths (path_list.py), reading the
trees (upload.py, tree_download.py, sync/).

Memory is needed only for the directories above the current one.
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
    """Limits on the size and mtime of regular files. Links and directories are not affected.

    Attributes:
        max_size: The maximum size in bytes.
        oldest_ns, newest_ns: The range of mtimes, both ends included.
    """

    max_size: int | None = None
    oldest_ns: int | None = None
    newest_ns: int | None = None

    def leave_out(self, size: int, mtime_ns: int) -> bool:
        """Return whether a file is left out."""
        return (
            (self.max_size is not None and size > self.max_size)
            or (self.oldest_ns is not None and mtime_ns < self.oldest_ns)
            or (self.newest_ns is not None and mtime_ns > self.newest_ns)
        )


class Selection(msgspec.Struct, frozen=True):
    """Which parts of a tree to transfer.

    Attributes:
        patterns: Patterns to leave out (True) or include (False); the last match decides.
        ignore_files: True to apply the .ftpignore files of the tree as well.
        limits: Limits on regular files.
        only: A list to which the tree is limited. Call its ``choose`` before use.
    """

    patterns: tuple[tuple[bool, str], ...] = ()
    ignore_files: bool = False
    limits: Limits | None = None
    only: PathList | None = None

    def filter(self, check: Callable[[], None] = lambda: None) -> Filter:
        """Return the filter of the root. ``check`` is called regularly, and may raise."""
        return Filter(option_rules(self.patterns), check, self.limits, self.only)


EVERYTHING = Selection()


class Filter:
    """Decides what is left out of one directory.

    Attributes:
        active: False if nothing is left out.
        limits: Limits on regular files, if any.

    Args:
        rules: The rules of the options, which take precedence over .ftpignore files.
        check: Called while patterns are compared; may raise to end the work.
        chosen: A list to which the tree is limited, if any.
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
        """Return the filter of the same directory with the rules of its .ftpignore file."""
        if not rules:
            return self
        new = self._copy()
        options = self._options
        new._levels = (*self._levels[:options], (rules, ""), *self._levels[options:])
        new.active = True
        return new

    def below(self, name: bytes) -> Filter:
        """Return the filter of a subdirectory, without the rules of its own .ftpignore file."""
        if not self.active:
            return self
        text = _text(name) + "/"
        new = self._copy()
        new._levels = tuple((rules, prefix + text) for rules, prefix in self._levels)
        if self._chosen is not None:
            new._path = self._path + b"/" + name if self._path else name
            if self._chosen.is_named(new._path):  # chosen with everything in it
                new._chosen = None
        return new

    def _copy(self) -> Filter:
        return copy.copy(self)

    def excludes(self, name: bytes, *, is_directory: bool) -> bool:
        """Return whether an entry is left out because of its name, whatever its size and time."""
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
        """Return whether a remote entry is left out."""
        if not self.active:
            return False
        if entry.type == "file" and self.limits is not None:
            if self.limits.leave_out(entry.size, entry.mtime_ns):
                return True
        return self.excludes(entry.path, is_directory=entry.type == "dir")

    def leaves_out_local(self, name: bytes, info: os.stat_result) -> bool:
        """Return whether a local entry is left out."""
        if not self.active:
            return False
        if self.limits is not None and stat.S_ISREG(info.st_mode):
            if self.limits.leave_out(info.st_size, info.st_mtime_ns):
                return True
        return self.excludes(name, is_directory=stat.S_ISDIR(info.st_mode))


_OPEN_RULES = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def local_rules(fd: int) -> bytes:
    """Return the contents of a local directory's .ftpignore file; empty if there is none.

    Raises:
        OSError, CommandError: It cannot be read, or is too large.
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
    """Return the filter of a local directory, with its .ftpignore file added to ``rules``.

    Raises:
        OSError, CommandError: See `local_rules`.
    """
    fd = os.open(directory, beneath.OPEN_DIRECTORY)
    try:
        return rules.with_rules(file_rules(local_rules(fd)))
    finally:
        os.close(fd)


def _text(name: bytes) -> str:
    """Return a name as text for matching.

    A newline becomes NUL, which no name contains: regular expressions treat a newline specially in
    ``.`` and ``$``.
    """
    return paths.to_text(name).replace("\n", "\0")


def is_within(path: bytes, directory: bytes) -> bool:
    """Return whether a relative path is below a directory, and not the directory itself."""
    return path.startswith(directory + b"/") if directory else bool(path)


class Walk:
    """Applies a selection to a tree, one directory after another.

    They have to come in the order of the server's listing: each directory before those in it, and
    everything below it before the next one.

    Args:
        root: The filter of the root.
    """

    def __init__(self, root: Filter) -> None:
        self._root = root
        self._stack: list[tuple[bytes, Filter | None]] = [(b"", root)]

    def enter(self, directory: bytes) -> Filter | None:
        """Return the filter of a directory, given by its path from the root.

        None if it, or a directory above it, is left out.
        """
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
        """Iterate over a directory's entries that are not left out. The root itself never is."""
        here = self.enter(directory)
        if here is not None:
            yield from (entry for entry in entries if not (entry.path and here.leaves_out(entry)))

    def through(
        self, blocks: Iterable[tuple[bytes, list[Entry]]]
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        """Iterate over the selected parts of directories, as yielded by `Client.walk`."""
        for directory, entries in blocks:
            if self.enter(directory) is not None:
                yield directory, list(self.selected(directory, entries))

    def leaves_out(self, path: bytes) -> bool:
        """Return whether a path of unknown type is left out, assuming it is a directory."""
        above, _, name = path.rpartition(b"/")
        here = self.enter(above)
        if here is None:
            return True
        return bool(name) and here.active and here.excludes(name, is_directory=True)
