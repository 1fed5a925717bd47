"""An open home: its descriptors, its lock, and the disk that it is on.

Lives here: opening and closing a home and its staging directory, the lock, what its disk supports.
Lives elsewhere: the contents of staging (home_staging.py), permissions on paths (home_rights.py),
reading files (home_reading.py), changing them (home.py).

The lock: a session that adds something to a directory holds it shared. A session that moves,
exchanges or removes directories holds it alone, because a file added through the handle of a
removed directory would be acknowledged and lost. It is a flock(2), so it works between processes.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ftpserver.storage import file_systems
from ftpserver.storage.file_systems import Nature
from ftpserver.storage.flock import flock_until, try_flock
from ftpwire import beneath, paths
from ftpwire.beneath import OPEN_DIRECTORY, Tree
from ftpwire.errors import BYTES, DiskFull, Forbidden
from ftpwire.units import needed_and_free

LOCK_NAME = b"lock"
"""A file in staging: the home's lock."""
_CAN_BE_READ = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT})
"""Errors of making staging that leave a home readable."""
TURN_FILES = 16
"""The number of files after which a loop over many of them calls `OpenHome.take_turn`."""


def open_staging(home: int) -> int:
    """Open the staging directory of an open home; make it if it is missing. Raises OSError."""
    made = True
    try:
        os.mkdir(paths.STAGING, 0o700, dir_fd=home)
    except FileExistsError:
        made = False
    fd = os.open(paths.STAGING, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=home)
    if made:
        give_to_owner(home, fd)
    return fd


def _alone() -> None:
    """Do nothing: there are no other threads to take turns with."""


def give_to_owner(home: int, fd: int) -> None:
    """Give a file that root has made in a home to the home's owner, whose sessions need it."""
    if os.geteuid() != 0:
        return
    owner = os.fstat(home)
    if owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)


class OpenHome:
    """The descriptors of a home, and its lock.

    Args:
        directory: The home. Its staging directory is made if it is missing.
        durable: True to sync directories before a change counts as done.
        incarnation: The prefix of names in staging, which distinguishes names in use from those
            that an earlier run of the server has left.
        changing: False to only read the home, and make nothing in it.
        patience: Seconds to wait for its lock; None for no limit. The session process of a hostile
            user may never release it.

    Attributes:
        fd: The home.
        tree: Opens paths below it, and nothing else.
        staging_fd: Its staging directory; -1 if it can only be read.
        is_held_alone: True while this object holds the lock alone.
        read_only: True if it can only be read: its file system is read-only, or was full when the
            home was first used.
        take_turn: Called before the first of many small steps, and every `TURN_FILES` steps. Of all
            threads in such steps, one at a time continues.
        will_block: Called before something that may wait, to let other threads continue.

    Raises:
        OSError: The home cannot be opened.
    """

    read_only = False
    _is_full = False

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        incarnation: str = "offline",
        changing: bool = True,
        patience: float | None = None,
    ) -> None:
        self.durable = durable
        self.take_turn: Callable[[], None] = _alone
        self.will_block: Callable[[], None] = _alone
        self._patience = patience
        # drawn once: a random number for each small file would take a tenth of the file's time
        self._name_prefix = f"{incarnation}-{secrets.token_hex(6)}-".encode()
        self._name_count = itertools.count()
        self._held = False
        self.is_held_alone = False
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
                continue  # another process was faster
            give_to_owner(self.fd, fd)
            return fd

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self._lock_fd, self.staging_fd, self.fd):
            if fd >= 0:
                os.close(fd)

    # the disk ----------------------------------------------------------------------------

    def disk_free(self, fd: int | None = None) -> int | None:
        """Return the bytes free on the home's disk, or on that of ``fd``; None if the file system
        doesn't say."""
        disk = os.fstatvfs(self.fd if fd is None else fd)
        # a file system that doesn't say has no blocks
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else None

    def check_disk(self, size: int, fd: int | None = None) -> None:
        """Raise DiskFull if the disk has less than ``size`` bytes free, before they are sent.

        Nothing is reserved. If others use the space first, writing fails.

        Args:
            fd: A file on the disk to check; None for the home's disk.
        """
        free = self.disk_free(fd)
        if free is not None and size > free:
            many, few = needed_and_free(size, free)
            text = f"the disk is full: {many} needed, {few} free"
            raise DiskFull(text, needed=size, free=free, what=BYTES)

    def check_writable(self) -> None:
        """Raise Forbidden or DiskFull if nothing in the home can be changed."""
        if self._is_full:
            raise DiskFull("the server's disk is full")
        if self.read_only:
            raise Forbidden("this home is on a read-only file system")

    def kept_times(self, times: Sequence[int]) -> list[int] | None:
        """Return the mtimes that the disk stores for the given ones; None if that cannot be tried.
        File systems differ in resolution and range."""
        try:
            return beneath.kept_times(self.staging_fd, self.new_name(), times)
        except OSError:
            return None  # usually a full disk: that must not fail the request

    def nature_of(self, directory: int, *, here: bool = False) -> Nature:
        """Return what new files in an open directory inherit, compared with staging.

        Args:
            here: True if the directory is on the home's mount.
        """
        if here and self._staging_is_here is None:
            self._staging_is_here = file_systems.on_one_mount(self.staging_fd, self.fd)
        one_mount = here and self._staging_is_here
        return file_systems.nature_of(
            directory, self.staging_fd, self._staging_state, one_mount=bool(one_mount)
        )

    def can_exchange(self, staging: int | None = None) -> bool:
        """Return whether two names can be exchanged in staging, or in another directory.

        False for the moment if the disk is too full to try: renaming needs no space.
        """
        if staging is None and self._exchanges is not None:
            return self._exchanges
        fd = self.staging_fd if staging is None else staging
        try:
            can = beneath.can_exchange(fd, self.new_name(), self.new_name())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        if staging is None:
            self._exchanges = can
        return can

    def cannot_exchange(self, staging: int) -> None:
        """Record that an exchange has failed where it had worked: another file system is mounted
        there by now."""
        beneath.cannot_exchange(staging)
        self._exchanges = None if staging != self.staging_fd else False

    @property
    def device(self) -> int:
        """The device number of its staging directory."""
        return self._staging_state.st_dev

    def sync_dir(self, fd: int) -> None:
        """Make the names in a directory durable."""
        if self.durable:
            os.fsync(fd)

    def new_name(self) -> bytes:
        """Return a new name for staging. No other open home makes the same, in any process.
        It begins with the incarnation."""
        return b"%b%x" % (self._name_prefix, next(self._name_count))

    # the lock ----------------------------------------------------------------------------

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the home's lock together with other sessions. A context manager.

        Can be nested in itself, and in ``alone``, where the lock stays held alone: converting a
        flock(2) would release it for a moment.

        Raises:
            TimeoutError: Other sessions have held it alone for too long.
        """
        if self._held:
            yield
            return
        self.check_writable()
        self._lock(fcntl.LOCK_SH, self._patience)
        self._held = True
        try:
            yield
        finally:
            self._held = False
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    @contextmanager
    def alone(self, patience: float | None = None) -> Iterator[None]:
        """Hold the home's lock alone. A context manager.

        Args:
            patience: Seconds to wait for it; None for the home's own limit.

        Raises:
            TimeoutError: Other sessions have held it for too long.
        """
        self.check_writable()
        assert not self._held  # converting the lock would let other sessions in
        self._lock(fcntl.LOCK_EX, self._patience if patience is None else patience)
        self._held = self.is_held_alone = True
        try:
            yield
        finally:
            self._held = self.is_held_alone = False
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _lock(self, how: int, patience: float | None) -> None:
        if try_flock(self._lock_fd, how):
            return
        # The holder of the lock may be waiting for the turn. A thread that has the turn must pass
        # it on before it waits for the lock, or neither continues.
        self.will_block()
        if patience is None:
            fcntl.flock(self._lock_fd, how)
            return
        if not flock_until(self._lock_fd, how, time.monotonic() + patience):
            raise TimeoutError(errno.ETIMEDOUT, "the home is locked by other sessions")
