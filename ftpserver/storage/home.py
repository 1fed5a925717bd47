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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from ftpserver.storage import file_systems
from ftpserver.storage.digest_xattr import digest_by_name, fresh_digest
from ftpserver.storage.file_systems import Nature
from ftpserver.storage.listing import Item, Walk, make_entry
from ftpserver.storage.permissions import UNLIMITED, Action, Permissions
from ftpserver.storage.walk import Usage, counted_size, open_closed, stored
from ftpwire import beneath, paths
from ftpwire.beneath import OPEN_ANY, OPEN_DIRECTORY, Tree, identity_of
from ftpwire.errors import (
    AlreadyExists,
    DiskFull,
    Forbidden,
    InvalidPath,
    IsADirectory,
    from_oserror,
)
from ftpwire.messages import Entry
from ftpwire.paths import Parts

MODE_BITS = 0o777
"""Of a mode, what is set. Directories keep the setgid and sticky bits that they have."""

LOCK_NAME = b"lock"
"""In staging: the home's lock."""
OWNER_NAME = b"owner"
"""In staging: which server's it is (ownership.py)."""
NOT_STAGED = frozenset({LOCK_NAME, OWNER_NAME})
"""What lies in staging and is on its way to nowhere."""
_CAN_BE_READ = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT})
"""What keeps staging from being made, and not a home from being looked at."""
_LOCK_AGAIN = 0.02
"""Seconds after which a lock is tried again that others hold."""

Settle = Callable[[int, int], object]
"""Told the bytes and the files (with directories and links) that became free, before the home's
lock is let go of: a recount, which holds it alone, finds the ledger and the disk either both
before a change or both after it."""


@dataclass
class Tally:
    """What a walk or a removal met.

    Attributes:
        staged: Bytes below the reserved name in some directory: leases hold these.
    """

    files: int = 0
    directories: int = 0
    size: int = 0
    staged: int = 0


def open_staging(home: int) -> int:
    """A handle of an open home's staging, which is made when missing. Raises OSError."""
    made = True
    try:
        os.mkdir(paths.STAGING, 0o700, dir_fd=home)
    except FileExistsError:
        made = False
    fd = os.open(paths.STAGING, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=home)
    if made:
        give_to_owner(home, fd)
    return fd


def give_to_owner(home: int, fd: int) -> None:
    """What root makes in somebody's home is that user's, whose sessions need it."""
    if os.geteuid() != 0:
        return
    owner = os.fstat(home)
    if owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)


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
        read_only: It can be looked at only: its file system is read-only, or full when it is first
            used.

    Raises:
        OSError: It can't be opened.
    """

    permissions: Permissions = UNLIMITED
    read_only = False
    _is_full = False

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
        self._redirected: tuple[Parts, Parts] | None = None
        self._held = False
        self._exchanges: bool | None = None
        self._staging_is_here: bool | None = None
        self.fd = os.open(directory, OPEN_DIRECTORY)
        try:
            self.tree = Tree(self.fd, follow=True)
            self.staging_fd = self._lock_fd = -1
            if not changing:
                return
            try:
                self.staging_fd = open_staging(self.fd)
                self._lock_fd = self._open_lock()
                self._staging_state = os.fstat(self.staging_fd)
            except BaseException as error:
                if self.staging_fd >= 0:
                    os.close(self.staging_fd)
                    self.staging_fd = -1
                if not isinstance(error, OSError) or error.errno not in _CAN_BE_READ:
                    raise
                self.read_only = True
                self._is_full = error.errno != errno.EROFS
                self._staging_state = os.fstat(self.fd)
        except BaseException:
            os.close(self.fd)
            raise

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
            give_to_owner(self.fd, fd)
            return fd

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self._lock_fd, self.staging_fd, self.fd):
            if fd >= 0:
                os.close(fd)

    def disk_free(self, fd: int | None = None) -> int | None:
        """Bytes that the home's disk, or that of ``fd``, has room for; None where the file system
        doesn't say."""
        disk = os.fstatvfs(self.fd if fd is None else fd)
        # who doesn't say has no blocks
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else None

    def kept_times(self, times: Sequence[int]) -> list[int] | None:
        """The mtimes that the disk keeps when these are set; None when that can't be tried."""
        try:
            return beneath.kept_times(self.staging_fd, self.new_name(), times)
        except OSError:
            return None  # a full disk, as a rule: nobody is refused anything for that

    def nature_of(self, directory: int, *, here: bool = False) -> Nature:
        """What an open directory gives to what is made in it, compared with staging.

        Args:
            here: It is on the home's mount.
        """
        if here and self._staging_is_here is None:
            self._staging_is_here = file_systems.on_one_mount(self.staging_fd, self.fd)
        one_mount = here and self._staging_is_here
        return file_systems.nature_of(
            directory, self.staging_fd, self._staging_state, one_mount=bool(one_mount)
        )

    def can_exchange(self, staging: int | None = None) -> bool:
        """Whether two names can be exchanged at once: in staging, or in another directory."""
        if staging is not None:
            return beneath.can_exchange(staging, self.new_name(), self.new_name())
        if self._exchanges is None:
            self._exchanges = self.can_exchange(self.staging_fd)
        return self._exchanges

    def cannot_exchange(self, staging: int) -> None:
        """It failed where it had worked: something else is mounted there by now."""
        beneath.cannot_exchange(staging)
        self._exchanges = None if staging != self.staging_fd else False

    @property
    def device(self) -> int:
        """The device of its staging."""
        return self._staging_state.st_dev

    def redirect(self, target: Parts | None, staged: Parts = ()) -> None:
        """Have changes at or below ``target`` go to a directory in staging; None ends that."""
        self._redirected = None if target is None else (target, staged)

    def obey(self, permissions: Permissions) -> None:
        """Keep to these permissions from here on. Those without limits cost nothing."""
        self.permissions = permissions
        self.tree.on_link = None if permissions.unlimited else self._check_link

    def _check_link(self, parts: Sequence[bytes], resolved: Sequence[bytes]) -> None:
        if paths.STAGING in parts or paths.STAGING in resolved:
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
        if paths.STAGING in parts and action is not Action.CREATE:
            return True
        parts = self._shown_place(parts)
        below = self.permissions.rules_below(parts) if whole else ()
        return self.permissions.allows(action, parts) and all(
            action in rule.rights.actions for rule in below
        )

    def parent_of(self, parts: Parts) -> Parts:
        """The directory that something is in; of a tree on its way, that which it goes to."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts == staged:
                return target[:-1]
        return parts[:-1]

    def _shown_place(self, parts: Parts) -> Parts:
        """The place that ``place_of`` leads away from."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts[: len(staged)] == staged:
                return (*target, *parts[len(staged) :])
        return parts

    def place_of(self, parts: Parts) -> Parts:
        """Where a change at ``parts`` goes: there, unless a tree is on its way to that place."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts[: len(target)] == target:
                return (*staged, *parts[len(target) :])
        return parts

    # the lock ----------------------------------------------------------------------------

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the home's lock together with others. Can be held once more inside, and inside
        of ``alone``, where it stays held alone: flock lets others in between when it converts."""
        if self._held:
            yield
            return
        self.check_writable()
        fcntl.flock(self._lock_fd, fcntl.LOCK_SH)
        self._held = True
        try:
            yield
        finally:
            self._held = False
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
        self.check_writable()
        assert not self._held  # a conversion would let others in between
        if patience is None:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        else:
            self._lock_within(patience)
        self._held = True
        try:
            yield
        finally:
            self._held = False
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

    def check_writable(self) -> None:
        """Raise Forbidden or DiskFull where nothing can be changed, whatever the account may do."""
        if self._is_full:
            raise DiskFull("the server's disk is full")
        if self.read_only:
            raise Forbidden("this home is on a read-only file system")

    def check_disk(self, size: int, fd: int | None = None) -> None:
        """Raise DiskFull when the disk has no room for so many bytes: they need not be sent first.

        Nothing is held: others may be quicker, and then writing fails.

        Args:
            fd: Something on the file system that is meant; None: the home's.
        """
        free = self.disk_free(fd)
        if free is not None and size > free:
            text = f"the disk is full: {size} bytes needed, {free} free"
            raise DiskFull(text, needed=size, free=free)

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
            top, here, below = identity_of(self.fd), identity_of(fd), None
            while here != (wanted.st_dev, wanted.st_ino):
                if here in (top, below):  # the home's top, or that of the system
                    return False
                above = os.open(b"..", OPEN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = above
                here, below = identity_of(fd), here
            return True
        finally:
            os.close(fd)

    def list(self, path: bytes, *, recursive: bool, follow: bool, digest: bool) -> Iterator[Item]:
        """List a directory, or the tree below it: each directory whole, then those in it.

        Memory is bounded by the depth and the directories that are side by side, descriptors by
        a constant. What can't be read is a `Problem`.

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
        walk = Walk(
            self.tree,
            self.permissions,
            self.stat,
            recursive=recursive,
            follow=follow,
            digest=digest,
        )
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

        Raises:
            OSError: EXDEV: its file system can't move it to staging, and nothing was removed; it
                can be removed in place (in_place.py).
            InvalidPath: A file system is mounted there.
        """
        tally = Tally()
        parts = paths.split(path)
        if not parts:
            raise InvalidPath("/: the home itself can't be removed")
        directory, name = self.tree.parent(parts)
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                if recursive:
                    file_systems.refuse_mounts(directory, name, path)
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
            rename_closed(directory, name, self.staging_fd, staged)
        else:
            file_systems.remove_directory(directory, name)
        self.sync_dir(directory)
        return staged

    def discard(self, directory: int, name: bytes) -> int:
        """Remove a file or link; returns the bytes that became free.

        It is moved away first, then measured: what was measured is what is removed.
        """
        try:
            return self._discard_through(self.staging_fd, directory, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        beside = file_systems.Beside(directory)
        try:
            return beside.make(lambda fd: self._discard_through(fd, directory, name))
        finally:
            beside.close()

    def _discard_through(self, staging: int, directory: int, name: bytes) -> int:
        staged = self.new_name()
        os.rename(name, staged, src_dir_fd=directory, dst_dir_fd=staging)
        info = os.stat(staged, dir_fd=staging, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):  # somebody put a directory there just now: give it back
            beneath.rename_new(staging, staged, directory, name)
            raise IsADirectory("a directory is there")
        return self.drop_staged(staged, staging)

    def drop_staged(self, staged: bytes, staging: int | None = None) -> int:
        """Remove a file or link from staging; returns the bytes that became free.

        Args:
            staging: The directory that it is in; None: the home's own.
        """
        fd = self.staging_fd if staging is None else staging
        info = os.stat(staged, dir_fd=fd, follow_symlinks=False)
        os.unlink(staged, dir_fd=fd)
        return counted_size(info)

    def discard_tree(
        self,
        staged: bytes,
        tally: Tally,
        tick: Callable[[], None],
        staging: int | None = None,
    ) -> None:
        """Remove a directory in staging with all its contents, however deep, adding to ``tally``.

        Directories are moved up into staging when met, so that no path and no stack grows.
        """
        top_fd = self.staging_fd if staging is None else staging
        apart = Tally()
        todo = [(staged, tally)]
        while todo:
            top, counts = todo.pop()
            try:
                fd = os.open(top, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=top_fd)
            except PermissionError:
                fd, _ = open_closed(top_fd, top)
            try:
                if os.fstat(fd).st_mode & 0o700 != 0o700:
                    os.chmod(fd, 0o700)
                with os.scandir(fd) as entries:
                    for entry in entries:
                        name = os.fsencode(entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            moved = self.new_name()
                            rename_closed(fd, name, top_fd, moved)
                            # what is staged under the reserved name is held by leases
                            hidden = name == paths.STAGING
                            todo.append((moved, apart if hidden else counts))
                            continue
                        info = entry.stat(follow_symlinks=False)
                        os.unlink(name, dir_fd=fd)
                        counts.files += 1
                        counts.size += counted_size(info)
                        if counts.files % 256 == 0:
                            tick()
            finally:
                os.close(fd)
            os.rmdir(top, dir_fd=top_fd)
            counts.directories += 1
        tally.staged += apart.size

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
            AlreadyExists, IsADirectory, InvalidPath, OSError
        """
        source_parts, target_parts = _movable(source, target)
        with self.alone():
            source_dir, source_name = self.tree.parent(source_parts)
            try:
                with _about(target):
                    target_dir, _ = self.tree.parent(target_parts)
                try:
                    with _not_into_itself(source):
                        freed = self._move(
                            source_dir, source_name, target_dir, target_parts, replace
                        )
                    try:
                        self.sync_dir(target_dir)
                        self.sync_dir(source_dir)
                    finally:
                        settle(freed.size, freed.files)
                    return freed
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        file_systems.refuse_mounts(source_dir, source_name, source)
                    raise
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
                return self._move_to_itself(source_dir, source, target_dir, target)
        self._check_replacing(info, there, path, replace)
        size = self._move_over(source_dir, source, target_dir, target, there)
        return Tally(files=1, size=size)

    def _move_to_itself(
        self, source_dir: int, source: bytes, target_dir: int, target: bytes
    ) -> Tally:
        """Move something to a name that it has already: rename(2) does nothing then.

        A second link goes, as with mv(1). Without RENAME_NOREPLACE a move makes one, and a crash
        may leave it: the same command goes on. The same name in other letters, which some file
        systems take for it, is given to it.
        """
        if os.path.sameopenfile(source_dir, target_dir) and source == target:
            return Tally()
        info = os.stat(source, dir_fd=source_dir, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode) or info.st_nlink == 1:
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
            return Tally()
        os.unlink(source, dir_fd=source_dir)
        return Tally(files=1, size=counted_size(info))

    def _check_replacing(
        self, info: os.stat_result, there: os.stat_result, path: Parts, replace: bool
    ) -> None:
        """Raise what forbids to move something in state ``info`` over what is there."""
        target = paths.show(paths.join(*path))
        if not replace:
            raise AlreadyExists(f"{target}: exists")
        if stat.S_ISDIR(there.st_mode):
            raise IsADirectory(f"{target}: a directory is there, and it is not replaced")
        if stat.S_ISDIR(info.st_mode):
            raise AlreadyExists(f"{target}: a file is there, and a directory doesn't replace it")
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
            return counted_size(there)
        try:
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        except BaseException:
            os.unlink(replaced, dir_fd=self.staging_fd)
            raise
        return self.drop_staged(replaced)

    # counting ----------------------------------------------------------------------------

    def count(
        self,
        on_beside: Callable[[int], None] | None = None,
        closed: Collection[Parts] = (),
    ) -> Usage:
        """What is stored, in the quota's sense. Call it while holding ``alone``.

        Args:
            on_beside: Given each directory below the home that has the reserved name in it.
            closed: Where homes of other accounts lie in it, which don't count.
        """
        return stored(self.fd, on_beside=on_beside, closed=closed)

    def staged(self) -> set[bytes]:
        """The names in staging."""
        return {os.fsencode(name) for name in os.listdir(self.staging_fd)} - NOT_STAGED

    def clean_staging(self, in_use: Callable[[bytes], bool], staging: int | None = None) -> None:
        """Remove from staging what nobody uses. Call it while holding ``alone``.

        Args:
            in_use: Whether a name in staging belongs to somebody.
            staging: The directory to clean; None: the home's own.
        """
        fd = self.staging_fd if staging is None else staging
        for entry in os.listdir(fd):
            staged = os.fsencode(entry)
            if (staging is None and staged in NOT_STAGED) or in_use(staged):
                continue
            info = os.stat(staged, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self.discard_tree(staged, Tally(), lambda: None, fd)
            else:
                os.unlink(staged, dir_fd=fd)

    def clean_beside(self, directory: int, in_use: Callable[[bytes], bool]) -> None:
        """The same of the reserved name in another directory of the home, and remove that name.

        One with a lock is the staging of another home, which lies in this one: it is left alone.
        """
        fd = os.open(paths.STAGING, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            if is_of_a_home(fd):
                return
            self.clean_staging(in_use, fd)
        finally:
            os.close(fd)
        file_systems.leave_beside(directory)

    # names and syncing -------------------------------------------------------------------

    def new_name(self) -> bytes:
        """A new name in staging."""
        return f"{self._incarnation}-{secrets.token_hex(8)}".encode()

    def sync_dir(self, fd: int) -> None:
        """Make the names in a directory durable."""
        if self.durable:
            os.fsync(fd)


def is_of_a_home(staging: int) -> bool:
    """Whether a directory of the reserved name is the staging of a home, and not made beside files
    that are on their way to a directory."""
    return not NOT_STAGED.isdisjoint(map(os.fsencode, os.listdir(staging)))


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


@contextmanager
def _not_into_itself(source: bytes) -> Iterator[None]:
    """Say what rename(2) means by EINVAL: the target is below the directory that is to be moved."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise InvalidPath(f"{paths.show(source)}: can't be moved into itself") from None


def rename_closed(
    source_dir: int, name: bytes, target_dir: int, target: bytes, *, new: bool = False
) -> None:
    """Rename, also a directory without write permission for its owner.

    Moving a directory rewrites its ``..``, which needs write permission in itself.

    Args:
        new: Never over something. Raises FileExistsError.
    """
    try:
        _rename(source_dir, name, target_dir, target, new)
    except PermissionError:
        fd, _ = open_closed(source_dir, name)
        os.close(fd)
        _rename(source_dir, name, target_dir, target, new)


def _rename(source_dir: int, name: bytes, target_dir: int, target: bytes, new: bool) -> None:
    if new:
        beneath.rename_new(source_dir, name, target_dir, target)
    else:
        os.rename(name, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
