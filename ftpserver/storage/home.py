"""Home: one user's confined directory tree.

Lives here: looking at, listing, making, moving and removing what is in a home, its lock, and
its staging directory.
Lives elsewhere: bytes on their way in (batch.py), confinement itself (ftpwire/beneath.py), quotas
(ledger.py: what a removal freed is returned to the caller), what each request needs of the
account's permissions (serving/commands/__init__.py). Here only what shows on the way is checked by
these: whether something is replaced, where links lead, what a listing may tell.

The lock: whoever puts something into a directory holds it shared; whoever moves, swaps or
removes directories holds it alone, because a handle into a discarded tree would swallow an
acknowledged upload. It is a flock, so it holds between processes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from msgspec import structs

from ftpserver.storage.permissions import UNLIMITED, Action, Permissions
from ftpserver.storage.walk import Usage, open_closed, stored
from ftpwire import beneath, digests, paths
from ftpwire.beneath import OPEN_ANY, OPEN_DIRECTORY, Tree
from ftpwire.digests import StoredDigest
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    DiskFull,
    Forbidden,
    InvalidPath,
    IsADirectory,
    NotFound,
    from_oserror,
)
from ftpwire.messages import Entry, FileType, Problem

MODE_BITS = 0o777
"""Of a mode, what is kept: setuid, setgid and sticky are lost."""

LOCK_NAME = b"lock"
"""In staging: the home's lock."""
_MAX_WALK_DEPTH = 512
_LOCK_AGAIN = 0.02
"""Seconds after which a lock is tried again that others hold."""

Parts = tuple[bytes, ...]
Settle = Callable[[int, int], object]
"""Told the bytes and the files (with directories and links) that became free, before the home's
lock is let go of: a recount, which holds it alone, finds the ledger and the disk either both
before a change or both after it."""
Item = tuple[bytes, Entry | Problem | None]
"""A directory of a listing and something in it; None says that the directory is complete."""


@dataclass
class Tally:
    """What a walk or a removal met."""

    files: int = 0
    directories: int = 0
    size: int = 0


class Home:
    """The directory tree of one user, as one session sees it. For one thread.

    Args:
        directory: The home; its staging directory is made when missing.
        durable: Sync directories before a change is called done.
        incarnation: Starts the names in staging, so that what an earlier run of the server
            left there is told from what is in use.
        changing: Without, it can be looked at only, and nothing is made in it.

    Attributes:
        permissions: What may be done in it; set by ``obey``.

    Raises:
        OSError: It can't be opened.
    """

    permissions: Permissions = UNLIMITED

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        incarnation: str = "offline",
        changing: bool = True,
    ) -> None:
        self.durable = durable
        self._incarnation = incarnation
        self._redirected: tuple[Parts, bytes] | None = None
        self._shared = False
        self.fd = os.open(directory, OPEN_DIRECTORY)
        try:
            self.tree = Tree(self.fd, follow=True)
            self.staging_fd = self._lock_fd = -1
            if not changing:
                return
            self.staging_fd = self._open_staging()
            try:
                self._lock_fd = self._open_lock()
            except BaseException:
                os.close(self.staging_fd)
                raise
        except BaseException:
            os.close(self.fd)
            raise

    def _open_staging(self) -> int:
        made = True
        try:
            os.mkdir(paths.STAGING, 0o700, dir_fd=self.fd)
        except FileExistsError:
            made = False
        fd = os.open(paths.STAGING, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)
        if made:
            self._give_to_owner(fd)
        return fd

    def _open_lock(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                return os.open(LOCK_NAME, flags, dir_fd=self.staging_fd)
            except FileNotFoundError:
                pass
            try:
                fd = os.open(
                    LOCK_NAME, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.staging_fd
                )
            except FileExistsError:
                continue  # somebody else was quicker
            self._give_to_owner(fd)
            return fd

    def _give_to_owner(self, fd: int) -> None:
        """What root makes in somebody's home is that user's, whose sessions need it."""
        if os.geteuid() != 0:
            return
        owner = os.fstat(self.fd)
        if owner.st_uid:
            os.fchown(fd, owner.st_uid, owner.st_gid)

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self._lock_fd, self.staging_fd, self.fd):
            if fd >= 0:
                os.close(fd)

    def disk_free(self) -> int | None:
        """Bytes that the disk has room for; None where the file system doesn't say."""
        disk = os.fstatvfs(self.fd)
        # who doesn't say has no blocks
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else None

    def redirect(self, target: Parts | None, staged: bytes) -> None:
        """Have changes at or below ``target`` go to a directory in staging; None ends that."""
        self._redirected = None if target is None else (target, staged)

    def obey(self, permissions: Permissions) -> None:
        """Keep to these permissions from here on. Those without limits cost nothing."""
        self.permissions = permissions
        self.tree.on_link = None if permissions.unlimited else self._check_link

    def _check_link(self, parts: Sequence[bytes], resolved: Sequence[bytes]) -> None:
        if paths.STAGING in (*parts[:1], *resolved[:1]):
            raise Forbidden("links in a tree that is on its way are not followed")
        self.permissions.check_link(tuple(parts), tuple(resolved))

    def require(self, action: Action, parts: Parts, *, whole: bool = False) -> None:
        """Raise Forbidden unless `permits`."""
        if not self.permits(action, parts, whole=whole):
            self.permissions.require(action, self._shown_place(parts), whole=whole)

    def permits(self, action: Action, parts: Parts, *, whole: bool = False) -> bool:
        """Whether the permissions let something be done there, and to ``whole`` of what is below.

        For a tree on its way to its place, its place decides; what was put into it meanwhile is
        nobody's yet, and can be replaced.
        """
        if self.permissions.unlimited:
            return True
        if parts[:1] == (paths.STAGING,) and action is not Action.CREATE:
            return True
        parts = self._shown_place(parts)
        below = self.permissions.rules_below(parts) if whole else ()
        return self.permissions.allows(action, parts) and all(
            action in rule.rights.actions for rule in below
        )

    def _shown_place(self, parts: Parts) -> Parts:
        """The place that ``place_of`` leads away from."""
        if parts[:1] == (paths.STAGING,) and self._redirected is not None:
            return (*self._redirected[0], *parts[2:])
        return parts

    def place_of(self, parts: Parts) -> Parts:
        """Where a change at ``parts`` goes: there, unless a tree is on its way to that place."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts[: len(target)] == target:
                return (paths.STAGING, staged, *parts[len(target) :])
        return parts

    # the lock ----------------------------------------------------------------------------

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the home's lock together with others. Can be held once more inside."""
        if self._shared:
            yield
            return
        fcntl.flock(self._lock_fd, fcntl.LOCK_SH)
        self._shared = True
        try:
            yield
        finally:
            self._shared = False
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    @contextmanager
    def alone(self, patience: float | None = None) -> Iterator[None]:
        """Hold the home's lock alone.

        Args:
            patience: Seconds to wait for it; None for as long as it takes. The session of somebody
                hostile, in a process of its own, may never let go of it.

        Raises:
            TimeoutError: Others hold it all the time.
        """
        if patience is None:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        else:
            self._lock_within(patience)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _lock_within(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "the home is locked by others") from None
                time.sleep(_LOCK_AGAIN)  # flock can't wait with a limit

    @contextmanager
    def settled(self, tally: Tally, settle: Settle) -> Iterator[None]:
        """Hold the lock shared while something is removed, and settle what became free of it."""
        with self.shared():
            try:
                yield
            finally:
                settle(tally.size, tally.files + tally.directories)

    def check_disk(self, size: int) -> None:
        """Raise DiskFull when the disk has no room for so many bytes: they need not be sent first.

        Nothing is held: others may be quicker, and then writing fails.
        """
        free = self.disk_free()
        if free is not None and size > free:
            raise DiskFull(f"the disk is full: {size} bytes needed, {free} free")

    # looking -----------------------------------------------------------------------------

    def stat(self, parts: Parts, *, follow: bool) -> os.stat_result:
        """The state of what the path names, or of what it links to. Raises OSError."""
        fd = self.tree.open(parts, OPEN_ANY | (0 if follow else os.O_NOFOLLOW))
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def entry(self, path: bytes, *, follow: bool, digest: bool) -> Entry:
        """What is told about one path."""
        parts = paths.split(path)
        if not parts:
            return make_entry(path, os.fstat(self.fd))
        directory, name = self.tree.parent(parts)
        try:
            return self._entry_in(directory, name, path, parts, follow, digest)
        finally:
            os.close(directory)

    def _entry_in(
        self, directory: int, name: bytes, path: bytes, parts: Parts, follow: bool, digest: bool
    ) -> Entry:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            if follow:
                resolved = self.stat(parts, follow=True)
                stored = None
                if digest and stat.S_ISREG(resolved.st_mode):
                    fd, resolved = self.tree.open_file(parts)
                    try:
                        stored = fresh_digest(fd, resolved)
                    finally:
                        os.close(fd)
                return make_entry(path, resolved, digest=stored)
            return make_entry(path, info, target=os.readlink(name, dir_fd=directory))
        stored = None
        if digest and stat.S_ISREG(info.st_mode):
            stored = digest_by_name(directory, name, info)
        return make_entry(path, info, digest=stored)

    def is_inside(self, parts: Parts, directory: Parts) -> bool:
        """Whether a path, of which the end may be missing, leads to a directory or below it.

        Links are resolved: a tree that is copied into itself would grow while it is copied.
        """
        wanted = self.stat(directory, follow=True)
        for count in range(len(parts), -1, -1):
            try:
                fd = self.tree.open_dir(parts[:count])
                break
            except (FileNotFoundError, NotADirectoryError):
                continue
        try:
            top, here, below = _identity(self.fd), _identity(fd), None
            while here != (wanted.st_dev, wanted.st_ino):
                if here in (top, below):  # the home's top, or that of the system
                    return False
                above = os.open(b"..", OPEN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = above
                here, below = _identity(fd), here
            return True
        finally:
            os.close(fd)

    def list(self, path: bytes, *, recursive: bool, follow: bool, digest: bool) -> Iterator[Item]:
        """List a directory, or the tree below it: each directory whole, then those in it.

        Memory and descriptors are bounded by the depth and the directories that are side by
        side. What can't be read is a `Problem`.

        Raises:
            OSError, CommandError: ``path`` itself can't be listed.
        """
        parts = paths.split(path)
        try:
            info = self.stat(parts, follow=True) if parts else os.fstat(self.fd)
        except FileNotFoundError:
            info = self.stat(parts, follow=False)  # a link that leads nowhere is there, too
        if not stat.S_ISDIR(info.st_mode):
            entry = self.entry(path, follow=follow, digest=digest)
            yield b"", structs.replace(entry, path=b"")
            yield b"", None
            return
        walk = _Walk(self, recursive=recursive, follow=follow, digest=digest)
        yield from walk.run(self.tree.open_dir(parts), parts)

    # changing ----------------------------------------------------------------------------

    def remove(
        self,
        path: bytes,
        *,
        recursive: bool,
        tick: Callable[[], None],
        settle: Settle = lambda freed, files: None,
    ) -> Tally:
        """Remove a file, a link, an empty directory or a tree; returns what became free.

        Args:
            tick: Called now and then on the way.
        """
        tally = Tally()
        parts = paths.split(path)
        if not parts:
            raise InvalidPath("/: the home itself can't be removed")
        directory, name = self.tree.parent(parts)
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                with self.alone():  # only for the moment in which it goes
                    staged = self._take_directory(directory, name, recursive)
                with self.settled(tally, settle):
                    if staged is None:
                        tally.directories += 1
                    else:
                        self.discard_tree(staged, tally, tick)
                return tally
            with self.settled(tally, settle):
                tally.size += self.discard(directory, name)
                tally.files += 1
                self.sync_dir(directory)
            return tally
        finally:
            os.close(directory)

    def _take_directory(self, directory: int, name: bytes, recursive: bool) -> bytes | None:
        """Remove an empty directory, or move a tree into staging; its name there."""
        staged = None
        if recursive:
            staged = self.new_name()
            _rename_for_removal(directory, name, self.staging_fd, staged)
        else:
            os.rmdir(name, dir_fd=directory)
        self.sync_dir(directory)
        return staged

    def discard(self, directory: int, name: bytes) -> int:
        """Remove a file or link; returns the bytes that became free.

        It is moved away first, then measured: what was measured is what is removed.
        """
        staged = self.new_name()
        os.rename(name, staged, src_dir_fd=directory, dst_dir_fd=self.staging_fd)
        info = os.stat(staged, dir_fd=self.staging_fd, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):  # somebody put a directory there just now: give it back
            beneath.rename_new(self.staging_fd, staged, directory, name)
            raise IsADirectory("a directory is there")
        return self.drop_staged(staged)

    def drop_staged(self, staged: bytes) -> int:
        """Remove a file or link from staging; returns the bytes of a regular file."""
        info = os.stat(staged, dir_fd=self.staging_fd, follow_symlinks=False)
        os.unlink(staged, dir_fd=self.staging_fd)
        return info.st_size if stat.S_ISREG(info.st_mode) else 0

    def discard_tree(self, staged: bytes, tally: Tally, tick: Callable[[], None]) -> None:
        """Remove a directory in staging with all its contents, however deep, adding to ``tally``.

        Directories are moved up into staging when met, so that no path and no stack grows.
        """
        todo = [staged]
        while todo:
            top = todo.pop()
            try:
                fd = os.open(top, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.staging_fd)
            except PermissionError:
                fd, _ = open_closed(self.staging_fd, top)
            try:
                if os.fstat(fd).st_mode & 0o700 != 0o700:
                    os.chmod(fd, 0o700)
                with os.scandir(fd) as entries:
                    for entry in entries:
                        name = os.fsencode(entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            moved = self.new_name()
                            _rename_for_removal(fd, name, self.staging_fd, moved)
                            todo.append(moved)
                            continue
                        info = entry.stat(follow_symlinks=False)
                        os.unlink(name, dir_fd=fd)
                        tally.files += 1
                        if stat.S_ISREG(info.st_mode):
                            tally.size += info.st_size
                        if tally.files % 256 == 0:
                            tick()
            finally:
                os.close(fd)
            os.rmdir(top, dir_fd=self.staging_fd)
            tally.directories += 1

    def move(
        self,
        source: bytes,
        target: bytes,
        *,
        replace: bool,
        settle: Settle = lambda freed, files: None,
    ) -> Tally:
        """Rename; returns what was replaced.

        Raises:
            AlreadyExists, IsADirectory, OSError
        """
        source_parts, target_parts = _movable(source, target)
        with self.alone():
            source_dir, source_name = self.tree.parent(source_parts)
            try:
                with _about(target):
                    target_dir, _ = self.tree.parent(target_parts)
                try:
                    freed = self._move(source_dir, source_name, target_dir, target_parts, replace)
                    try:
                        self.sync_dir(target_dir)
                        self.sync_dir(source_dir)
                    finally:
                        settle(freed.size, freed.files)
                    return freed
                finally:
                    os.close(target_dir)
            finally:
                os.close(source_dir)

    def _move(
        self, source_dir: int, source: bytes, target_dir: int, path: Parts, replace: bool
    ) -> Tally:
        target = path[-1]
        info = os.stat(source, dir_fd=source_dir, follow_symlinks=False)
        try:
            beneath.rename_new(source_dir, source, target_dir, target)
            return Tally()
        except FileExistsError:
            there = os.stat(target, dir_fd=target_dir, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (info.st_dev, info.st_ino):
                return Tally()  # the same file under both names, as rename(2) has it
        self._check_replacing(info, there, path, replace)
        size = self._move_over(source_dir, source, target_dir, target, there)
        return Tally(files=1, size=size)

    def _check_replacing(
        self, info: os.stat_result, there: os.stat_result, path: Parts, replace: bool
    ) -> None:
        """Raise what forbids to move something in state ``info`` over what is there."""
        if not replace:
            raise AlreadyExists(f"{paths.show(path[-1])}: exists")
        if stat.S_ISDIR(there.st_mode):
            raise IsADirectory("a directory is there, and it is not replaced")
        if stat.S_ISDIR(info.st_mode):
            raise AlreadyExists("a file is there, and a directory doesn't replace it")
        self.require(Action.REPLACE, path)

    def check_move(self, source: bytes, target: bytes, *, replace: bool) -> None:
        """Raise what `move` would, as things are now; nothing is changed."""
        source_parts, target_parts = _movable(source, target)
        info = self.stat(source_parts, follow=False)
        with _about(target):
            os.close(self.tree.open_dir(target_parts[:-1]))
        try:
            there = self.stat(target_parts, follow=False)
        except FileNotFoundError:
            return
        if (there.st_dev, there.st_ino) != (info.st_dev, info.st_ino):
            self._check_replacing(info, there, target_parts, replace)

    def _move_over(
        self,
        source_dir: int,
        source: bytes,
        target_dir: int,
        target: bytes,
        there: os.stat_result,
    ) -> int:
        """Replace a file at once; returns its bytes, measured after it was replaced.

        Exchanging the two and removing what came out would be two steps: a crash between them
        would leave both names, swapped.
        """
        replaced = self.new_name()
        try:
            os.link(
                target,
                replaced,
                src_dir_fd=target_dir,
                dst_dir_fd=self.staging_fd,
                follow_symlinks=False,
            )
        except OSError:  # there are no hard links: the lock keeps others of ours from it
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
            return there.st_size if stat.S_ISREG(there.st_mode) else 0
        try:
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        except BaseException:
            os.unlink(replaced, dir_fd=self.staging_fd)
            raise
        return self.drop_staged(replaced)

    # counting ----------------------------------------------------------------------------

    def count(self) -> Usage:
        """What is stored, in the quota's sense. Call it while holding ``alone``."""
        return stored(self.fd)

    def staged(self) -> set[bytes]:
        """The names in staging."""
        return {os.fsencode(name) for name in os.listdir(self.staging_fd)} - {LOCK_NAME}

    def clean_staging(self, in_use: Callable[[bytes], bool]) -> None:
        """Remove from staging what nobody uses. Call it while holding ``alone``.

        Args:
            in_use: Whether a name in staging belongs to somebody.
        """
        for staged in self.staged():
            if in_use(staged):
                continue
            info = os.stat(staged, dir_fd=self.staging_fd, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self.discard_tree(staged, Tally(), lambda: None)
            else:
                os.unlink(staged, dir_fd=self.staging_fd)

    # names and syncing -------------------------------------------------------------------

    def new_name(self) -> bytes:
        """A new name in staging."""
        return f"{self._incarnation}-{secrets.token_hex(8)}".encode()

    def sync_dir(self, fd: int) -> None:
        """Make the names in a directory durable."""
        if self.durable:
            os.fsync(fd)


def _movable(source: bytes, target: bytes) -> tuple[Parts, Parts]:
    parts = paths.split(source), paths.split(target)
    if not all(parts):
        raise InvalidPath("/: the home itself can't be moved or replaced")
    return parts


@contextmanager
def _about(path: bytes) -> Iterator[None]:
    """Have file-system errors name this path, not the first one of the request."""
    try:
        yield
    except OSError as error:
        raise from_oserror(error, paths.show(path)) from None


class _Walk:
    """One listing: a stack of open directories, nothing else.

    What the permissions hide is left out, and not gone into.
    """

    def __init__(self, home: Home, *, recursive: bool, follow: bool, digest: bool) -> None:
        self._home = home
        self._recursive = recursive
        self._follow = follow
        self._digest = digest

    def run(self, fd: int, parts: Parts) -> Iterator[Item]:
        """List from an open directory on; ``fd`` is closed at the end."""
        stack = [_Level(fd, b"", parts)]
        try:
            yield from self._entries(stack[-1])
            while stack:
                level = stack[-1]
                if not level.below:
                    os.close(stack.pop().fd)
                    continue
                name = level.below.popleft()
                path = level.path + b"/" + name if level.path else name
                try:
                    child = self._open_below(stack, name, path)
                except FileNotFoundError:
                    continue  # removed since the directory was read
                except (OSError, CommandError) as error:
                    yield path, _problem(b"", error)
                    yield path, None
                    continue
                stack.append(_Level(child, path, (*level.parts, name)))
                yield from self._entries(stack[-1])
        finally:
            for level in stack:
                os.close(level.fd)

    def _entries(self, level: _Level) -> Iterator[Item]:
        """What is in one directory; those below are noted."""
        permissions = self._home.permissions
        guarded = bool(permissions.rules_below(level.parts))
        with os.scandir(level.fd) as entries:
            for found in entries:
                name = os.fsencode(found.name)
                if name == paths.STAGING:
                    continue
                if guarded and not permissions.shows((*level.parts, name)):
                    continue
                try:
                    info = found.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        entry = self._file(level.fd, name, info)
                    else:
                        entry = self._look(level.fd, name, info, (*level.parts, name))
                except FileNotFoundError:
                    continue  # removed since the directory was read
                except (OSError, CommandError) as error:
                    yield level.path, _problem(name, error)
                    continue
                yield level.path, entry
                if self._recursive and entry.type == "dir":
                    if guarded and not permissions.allows(Action.LIST, (*level.parts, name)):
                        continue
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
                    return make_entry(name, self._home.stat(parts, follow=True))
                except FileNotFoundError:
                    # the link is there: left out without a word, a copy would look complete
                    raise NotFound("the link leads nowhere") from None
            return make_entry(name, info, target=os.readlink(name, dir_fd=fd))
        return make_entry(name, info)

    def _open_below(self, stack: list[_Level], name: bytes, path: bytes) -> int:
        if len(stack) > _MAX_WALK_DEPTH:
            raise InvalidPath(f"more than {_MAX_WALK_DEPTH} directories deep")
        if len(path) > paths.MAX_PATH:
            raise InvalidPath(f"longer than {paths.MAX_PATH} bytes")
        level = stack[-1]
        if self._follow:
            child = self._home.tree.open_dir((*level.parts, name))
        else:
            child = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=level.fd)
        identity = _identity(child)
        if any(identity == above.identity for above in stack):
            os.close(child)
            raise InvalidPath("the link leads into its own parents")
        return child


class _Level:
    """A directory of a listing, on the way down."""

    __slots__ = ("below", "fd", "identity", "parts", "path")

    def __init__(self, fd: int, path: bytes, parts: Parts) -> None:
        self.fd = fd
        self.path = path
        self.parts = parts
        self.identity = _identity(fd)
        self.below: deque[bytes] = deque()


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _problem(path: bytes, error: CommandError | OSError) -> Problem:
    if isinstance(error, OSError):
        error = from_oserror(error, "")
    return Problem(path, error.code, str(error))


def make_entry(
    path: bytes, info: os.stat_result, *, target: bytes | None = None, digest: bytes | None = None
) -> Entry:
    """What is told about a file in state ``info``."""
    mode = info.st_mode
    kind = cast(FileType, beneath.entry_type(mode))
    return Entry(path, kind, info.st_size, mode & 0o7777, told_time(info), target, digest)


def told_time(info: os.stat_result) -> int:
    """A file's mtime, or the nearest that a message can carry: some file systems go further."""
    return min(max(info.st_mtime_ns, -(2**63)), 2**63 - 1)


def digest_by_name(directory: int, name: bytes, info: os.stat_result) -> bytes | None:
    """The digest kept beside a file that isn't open, if it is still true."""
    try:
        value = beneath.attribute_at(directory, name, digests.ATTRIBUTE)
    except OSError:
        return None  # none is kept, or the file system keeps none
    return _still_true(value, info)


def fresh_digest(fd: int, info: os.stat_result) -> bytes | None:
    """The digest kept beside an open file in state ``info``, if it is still true."""
    try:
        value = os.getxattr(fd, digests.ATTRIBUTE)
    except OSError:
        return None
    return _still_true(value, info)


def _still_true(value: bytes, info: os.stat_result) -> bytes | None:
    stored = StoredDigest.unpack(value)
    if stored is None or (stored.size, stored.mtime_ns) != (info.st_size, info.st_mtime_ns):
        return None
    return stored.digest


def keep_digest(fd: int, stored: StoredDigest) -> bool:
    """Keep a digest beside an open file, where the file system can; whether it is kept."""
    if not -(2**63) <= stored.mtime_ns < 2**63:
        return False  # a time beyond 2262, which the attribute can't hold
    try:
        os.setxattr(fd, digests.ATTRIBUTE, stored.pack())
    except OSError as error:
        if error.errno not in (
            errno.ENOTSUP,
            errno.EACCES,
            errno.EPERM,
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
        ):
            raise
        return False  # without it, the digest is computed when it is asked for
    return True


def _rename_for_removal(source_dir: int, name: bytes, target_dir: int, target: bytes) -> None:
    """Move a directory, also one without write permission for its owner.

    Moving a directory rewrites its ``..``, which needs write permission in itself.
    """
    try:
        os.rename(name, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
    except PermissionError:
        fd, _ = open_closed(source_dir, name)
        os.close(fd)
        os.rename(name, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
