"""The directories of a local tree in which something has changed.

Lives here: finding out from the kernel (inotify), or else by walking the tree; what is left out.
Lives elsewhere: waiting until a tree is quiet (quiet.py), comparing these directories (partial.py).

Neither may miss a change: whatever is doubtful counts as changed. So a new directory is read after
its watch was added, and if the kernel has dropped events, everything counts.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import msgspec

from ftpclient.connection.interrupt import Interrupt, wait_for
from ftpclient.sync.directories import is_within, join, parts_of
from ftpclient.sync.local_reader import LocalReader
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.patterns import IGNORE_FILE, file_rules
from ftpclient.transfer.selection import Filter, local_rules
from ftpwire import beneath
from ftpwire.errors import CommandError

WALK_SECONDS = 5.0
"""Seconds between two walks through the tree, where there is no inotify."""
_GATHER_SECONDS = 0.02
"""Seconds between the first event and reading the events: a program that writes makes many."""
_ROOT_SECONDS = 5.0
"""Seconds between two looks at which directory the root is: its removal need not be reported."""
_DESCRIPTORS = b"/proc/self/fd"
_NO_MORE = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of inotify if one of its limits is reached."""
_HASH_BITS = (1 << 64) - 1


class Unavailable(Exception):
    """Changes cannot be found out from the kernel; the text says why."""


class Changes(msgspec.Struct):
    """The changes of a tree.

    Attributes:
        directories: Paths of directories, relative to the root, in which something has changed.
        everything: True if anything may have changed. Then `TreeChanges.renew` must be called.
    """

    directories: set[bytes] = msgspec.field(default_factory=set)
    everything: bool = False

    def __bool__(self) -> bool:
        return self.everything or bool(self.directories)

    def add(self, other: Changes) -> None:
        self.directories |= other.directories
        self.everything |= other.everything


class TreeChanges(ABC):
    """Finds out what changes in a local tree from now on. Close it after use.

    Args:
        root: The root of the tree. If it is replaced by another directory, that one counts.
        rules: The filter of the options; what it leaves out is not watched.
        interrupt: Ends each wait.

    Raises:
        OSError: The root cannot be read.
    """

    @abstractmethod
    def wait(self, seconds: float | None) -> Changes:
        """Wait for changes, at most this long; without a limit if None. It may return earlier.

        Raises:
            Interrupted: The user wants to stop.
            Unavailable: It cannot be found out any longer.
        """

    @abstractmethod
    def renew(self) -> None:
        """Begin again with the directory that the root is now.

        Raises:
            OSError: The root cannot be read.
            Unavailable
        """

    @abstractmethod
    def close(self) -> None:
        """Release its descriptors."""


def _rules_of(fd: int, rules: Filter) -> Filter:
    """Return the filter of a directory, with its .ftpignore file."""
    try:
        return rules.with_rules(file_rules(local_rules(fd)))
    except (OSError, CommandError):
        return rules  # the sync reports it, and leaves out the directory


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _ignore(path: bytes, error: OSError) -> None:
    """Pass over what cannot be read: the sync reports it."""


class Notifications(TreeChanges):
    """Changes that the kernel reports by inotify. See `TreeChanges`.

    Raises:
        Unavailable: The library is not installed, the system has no inotify, or a limit of it is
            reached.
    """

    def __init__(self, root: bytes, rules: Filter, interrupt: Interrupt) -> None:
        try:
            from inotify_simple import INotify, flags
        except ImportError:
            raise Unavailable("the package inotify-simple is not installed") from None
        if not os.path.isdir(_DESCRIPTORS):
            raise Unavailable("/proc is not mounted")
        self._flags = flags
        self._mask = (
            flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.MODIFY
            | flags.CLOSE_WRITE | flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF
            | flags.ONLYDIR
        )  # fmt: skip
        self._root = root
        self._rules = rules
        self._interrupt = interrupt
        self._filters: dict[bytes, Filter] = {}
        self._numbers: dict[bytes, int] = {}
        self._paths: dict[int, bytes] = {}
        self._is_replaced = False
        self._fd = os.open(root, beneath.OPEN_DIRECTORY)
        try:
            self._inotify = INotify()
        except (OSError, AttributeError) as error:  # libc without inotify
            os.close(self._fd)
            raise Unavailable(_reason(error)) from None
        try:
            self._add_tree(b"", rules)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._inotify.close()
        os.close(self._fd)

    def renew(self) -> None:
        fd = os.open(self._root, beneath.OPEN_DIRECTORY)
        os.close(self._fd)
        self._fd = fd
        self._is_replaced = False
        for number in self._paths:
            self._remove_watch(number)
        self._paths.clear()
        self._numbers.clear()
        self._filters.clear()
        self._add_tree(b"", self._rules)

    def wait(self, seconds: float | None) -> Changes:
        seconds = _ROOT_SECONDS if seconds is None else min(seconds, _ROOT_SECONDS)
        ready = select.select([self._inotify, self._interrupt], [], [], seconds)[0]
        self._interrupt.check()
        found = Changes()
        if self._inotify in ready:
            wait_for(_GATHER_SECONDS, self._interrupt)  # the kernel merges those that are the same
            for event in self._inotify.read(timeout=0):
                self._take(event.wd, event.mask, os.fsencode(event.name), found)
        if not self._is_replaced and not self._is_root():
            found.everything = self._is_replaced = True  # once, or it would never be quiet
        return found

    def _is_root(self) -> bool:
        """Return whether the watched directory is still the root.

        The kernel reports the removal of a directory only when it is no longer open, and this
        object has it open, as has each program that runs in it.
        """
        try:
            return os.path.samestat(os.stat(self._root), os.fstat(self._fd))
        except OSError:
            return False  # `renew` reports it if nothing takes its place

    def _take(self, number: int, mask: int, name: bytes, found: Changes) -> None:
        """Process an event."""
        flags = self._flags
        if mask & flags.Q_OVERFLOW:
            found.everything = True
            return
        path = self._paths.get(number)
        if path is None:
            return  # of a directory that was moved or removed, which was reported by another event
        if mask & (flags.IGNORED | flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT):
            if not path:
                found.everything = True  # another directory may be in its place soon
            elif mask & flags.IGNORED:
                self._forget(path)
            return
        if not name:
            if not path:
                found.directories.add(path)  # others are reported by the directory above
            return
        self._take_entry(path, name, mask, found)

    def _take_entry(self, path: bytes, name: bytes, mask: int, found: Changes) -> None:
        flags = self._flags
        below, is_directory = join(path, name), bool(mask & flags.ISDIR)
        if name == IGNORE_FILE:
            found.everything = True
            return
        if is_directory and mask & flags.MOVED_FROM:
            for moved in [one for one in self._numbers if one == below or is_within(one, below)]:
                self._remove_watch(self._forget(moved))
        rules = self._filters[path]
        if rules.active and rules.excludes(name, is_directory=is_directory):
            return
        found.directories.add(path)
        if not is_directory:
            return
        if mask & (flags.CREATE | flags.MOVED_TO) or (
            mask & flags.ATTRIB and below not in self._numbers  # it may have become readable
        ):
            found.directories.update(self._add_tree(below, rules.below(name)))

    def _add_tree(self, top: bytes, rules: Filter) -> list[bytes]:
        """Watch a directory and those in it; return the paths of all.

        Raises:
            OSError: The root cannot be read. Others are passed over.
            Unavailable: A limit is reached.
        """
        added = []
        tree = beneath.Tree(self._fd, follow=False)  # keeps no directory open that may be replaced
        todo = [(top, rules)]
        while todo:
            self._interrupt.check()
            path, rules = todo.pop()
            try:
                with _closing(tree.open_dir(parts_of(path))) as fd:
                    # before it is read, so that what is made meanwhile is either read or reported
                    self._watch(path, fd)
                    rules = self._filters[path] = _rules_of(fd, rules)
                    added.append(path)
                    todo.extend(_directories_in(fd, path, rules))
            except OSError:
                if not path:
                    raise
        return added

    def _watch(self, path: bytes, fd: int) -> None:
        try:
            number = self._inotify.add_watch(b"%s/%d" % (_DESCRIPTORS, fd), self._mask)
        except OSError as error:
            if error.errno in _NO_MORE:
                raise Unavailable(_reason(error)) from None
            raise
        before = self._paths.get(number)
        if before is not None and before != path:  # the same directory under its earlier name
            self._forget(before)
        if path in self._numbers:  # of a directory that was replaced by this one
            self._paths.pop(self._numbers[path], None)
        self._paths[number] = path
        self._numbers[path] = number

    def _forget(self, path: bytes) -> int:
        """Forget a directory; return the number of its watch."""
        self._filters.pop(path, None)
        number = self._numbers.pop(path)
        self._paths.pop(number, None)
        return number

    def _remove_watch(self, number: int) -> None:
        try:
            self._inotify.rm_watch(number)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the kernel has removed it already
                raise


def _reason(error: OSError | AttributeError) -> str:
    if not isinstance(error, OSError):
        return "this system has no inotify"
    if error.errno == errno.ENOSPC:
        return "too many directories for fs.inotify.max_user_watches"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "fs.inotify.max_user_instances is reached"
    return f"inotify: {error.strerror}"


def _directories_in(
    fd: int, path: bytes, rules: Filter, *, follow: bool = False
) -> Iterator[tuple[bytes, Filter]]:
    """Yield the directories in an open one that are not excluded: their paths, and their rules."""
    with os.scandir(fd) as found:
        for item in found:
            if item.is_dir(follow_symlinks=follow):
                name = os.fsencode(item.name)
                if not (rules.active and rules.excludes(name, is_directory=True)):
                    yield join(path, name), rules.below(name)


class Walks(TreeChanges):
    """Changes found by walking the whole tree. See `TreeChanges`.

    A number stands for the entries of each directory, so memory use grows only with the number of
    directories.

    Args:
        follow: True to follow links.
        wait: Waits some seconds. Raises Interrupted.
    """

    def __init__(
        self,
        root: bytes,
        rules: Filter,
        interrupt: Interrupt,
        *,
        follow: bool = False,
        wait: Callable[[float, Interrupt | None], None] = wait_for,
    ) -> None:
        self._root = root
        self._rules = rules
        self._interrupt = interrupt
        self._follow = follow
        self._wait = wait
        self._seen = self._walk()

    def close(self) -> None:
        pass  # nothing is open between two walks

    def renew(self) -> None:
        self._seen = self._walk()

    def wait(self, seconds: float | None) -> Changes:
        self._wait(WALK_SECONDS if seconds is None else min(seconds, WALK_SECONDS), self._interrupt)
        before = self._seen
        try:
            self._seen = self._walk()
        except OSError:
            return Changes(everything=True)  # `renew` reports it if nothing takes its place
        found = Changes()
        for path, (entries, ignored) in self._seen.items():
            old = before.get(path)
            if old is None or old[0] != entries:
                found.directories.add(path)
            if old is not None and old[1] != ignored:
                found.everything = True
        return found

    def _walk(self) -> dict[bytes, tuple[int, int]]:
        """Return numbers for the entries and the .ftpignore file of each directory."""
        found: dict[bytes, tuple[int, int]] = {}
        with closing(LocalTree(self._root)) as tree:
            follow = self._root if self._follow else None
            reader = LocalReader(tree, self._interrupt.check, _ignore, follow)
            todo = [(b"", self._rules)]
            while todo:
                self._interrupt.check()
                path, rules = todo.pop()
                try:
                    with reader.open(path) as fd:
                        rules = _rules_of(fd, rules)
                        found[path] = self._read(fd, rules), _number_of_rules(fd)
                        todo.extend(_directories_in(fd, path, rules, follow=self._follow))
                except OSError:
                    if not path:
                        raise
        return found

    def _read(self, fd: int, rules: Filter) -> int:
        """Return a number for the entries of a directory, in whatever order they are."""
        number = 0
        with os.scandir(fd) as items:
            for item in items:
                name = os.fsencode(item.name)
                try:
                    info = item.stat(follow_symlinks=self._follow)
                except OSError:
                    continue  # removed since, or a link without a target
                if rules.active and rules.excludes(name, is_directory=stat.S_ISDIR(info.st_mode)):
                    continue
                state: tuple[object, ...] = (name, info.st_mode, info.st_ino)
                if not stat.S_ISDIR(info.st_mode):  # its own entries are read as well
                    state = (*state, info.st_size, info.st_mtime_ns)
                number += hash(state)
        return number & _HASH_BITS


def _number_of_rules(fd: int) -> int:
    try:
        return hash(local_rules(fd))
    except (OSError, CommandError) as error:
        return hash(str(error))


def watching(
    root: bytes, rules: Filter, interrupt: Interrupt, *, follow: bool, remark: Callable[[str], None]
) -> TreeChanges:
    """Return what finds the changes of a tree: inotify, or else walking, with a remark why.

    Args:
        follow: True to follow links, which inotify doesn't.

    Raises:
        OSError: The root cannot be read.
        Interrupted
    """
    try:
        if follow:
            raise Unavailable("links are followed")
        return Notifications(root, rules, interrupt)
    except Unavailable as why:
        remark(walking_instead(why))
        return Walks(root, rules, interrupt, follow=follow)


def walking_instead(why: Unavailable) -> str:
    """Return the remark that the tree is walked instead."""
    return f"{why}: looking for changes every {WALK_SECONDS:.0f} seconds"
