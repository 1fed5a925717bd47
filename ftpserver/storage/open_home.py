"""An open home: its descriptors, its lock, and the disk that it is on.

Lives here: opening and closing a home and its staging directory, the lock, what its disk can do.
Lives elsewhere: what is in staging (home_staging.py), what may be done at which path
(home_rights.py), looking at files (home_reading.py), changing them (home.py).

The lock: whoever puts something into a directory holds it shared; whoever moves, swaps or
removes directories holds it alone, because a handle into a discarded tree would swallow an
acknowledged upload. It is a flock, so it holds between processes.
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
from ftpwire import beneath, paths
from ftpwire.beneath import OPEN_DIRECTORY, Tree
from ftpwire.errors import BYTES, DiskFull, Forbidden
from ftpwire.units import needed_and_free

LOCK_NAME = b"lock"
"""In staging: the home's lock."""
_CAN_BE_READ = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT})
"""What keeps staging from being made, and not a home from being looked at."""
TURN_FILES = 16
"""Files after which work on many of them calls `OpenHome.take_turn`."""
_LOCK_AGAIN = 0.02
"""Seconds after which a lock is tried again that others hold."""


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


def _alone() -> None:
    """No other thread is known of."""


def give_to_owner(home: int, fd: int) -> None:
    """What root makes in somebody's home is that user's, whose sessions need it."""
    if os.geteuid() != 0:
        return
    owner = os.fstat(home)
    if owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)


class OpenHome:
    """The descriptors of a home, and its lock.

    Args:
        directory: The home; its staging directory is made when missing.
        durable: Sync directories before a change is called done.
        incarnation: Starts the names in staging, so that what an earlier run of the server
            left there is told from what is in use.
        changing: Without, it can be looked at only, and nothing is made in it.
        patience: Seconds to wait for its lock; None for as long as it takes. The session of
            somebody hostile, in a process of its own, may never let go of it.

    Attributes:
        fd: The home.
        tree: Opens what is below it, and nothing else.
        staging_fd: Its staging directory; -1 where it can be looked at only.
        is_held_alone: Its lock is held alone, by whoever has this.
        read_only: It can be looked at only: its file system is read-only, or full when it is first
            used.
        take_turn: Called before the first of many small steps, and every `TURN_FILES` of them: of
            the threads that are at such steps, one at a time goes on.
        will_block: Called before something that may wait: other threads go on.

    Raises:
        OSError: It can't be opened.
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
        # drawn once: a random number for each of many small files would cost a tenth of the file
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
                continue  # somebody else was quicker
            give_to_owner(self.fd, fd)
            return fd

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self._lock_fd, self.staging_fd, self.fd):
            if fd >= 0:
                os.close(fd)

    # the disk ----------------------------------------------------------------------------

    def disk_free(self, fd: int | None = None) -> int | None:
        """Bytes that the home's disk, or that of ``fd``, has room for; None where the file system
        doesn't say."""
        disk = os.fstatvfs(self.fd if fd is None else fd)
        # who doesn't say has no blocks
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else None

    def check_disk(self, size: int, fd: int | None = None) -> None:
        """Raise DiskFull when the disk has no room for so many bytes: they need not be sent first.

        Nothing is held: others may be quicker, and then writing fails.

        Args:
            fd: Something on the file system that is meant; None: the home's.
        """
        free = self.disk_free(fd)
        if free is not None and size > free:
            many, few = needed_and_free(size, free)
            text = f"the disk is full: {many} needed, {few} free"
            raise DiskFull(text, needed=size, free=free, what=BYTES)

    def check_writable(self) -> None:
        """Raise Forbidden or DiskFull where nothing can be changed, whatever the account may do."""
        if self._is_full:
            raise DiskFull("the server's disk is full")
        if self.read_only:
            raise Forbidden("this home is on a read-only file system")

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
        """Whether two names can be exchanged at once: in staging, or in another directory.

        Not, until the next time, where the disk has no room to try it: what is done instead needs
        none.
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
        """It failed where it had worked: something else is mounted there by now."""
        beneath.cannot_exchange(staging)
        self._exchanges = None if staging != self.staging_fd else False

    @property
    def device(self) -> int:
        """The device of its staging."""
        return self._staging_state.st_dev

    def sync_dir(self, fd: int) -> None:
        """Make the names in a directory durable."""
        if self.durable:
            os.fsync(fd)

    def new_name(self) -> bytes:
        """A new name in staging: no other home that is open, in whatever process, makes the same.
        It begins with the incarnation."""
        return b"%b%x" % (self._name_prefix, next(self._name_count))

    # the lock ----------------------------------------------------------------------------

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the home's lock together with others. Can be held once more inside, and inside
        of ``alone``, where it stays held alone: flock lets others in between when it converts.

        Raises:
            TimeoutError: Others hold it alone all the time.
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
        """Hold the home's lock alone.

        Args:
            patience: Seconds to wait for it; None for as long as is said for the home.

        Raises:
            TimeoutError: Others hold it all the time.
        """
        self.check_writable()
        assert not self._held  # a conversion would let others in between
        self._lock(fcntl.LOCK_EX, self._patience if patience is None else patience)
        self._held = self.is_held_alone = True
        try:
            yield
        finally:
            self._held = self.is_held_alone = False
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _lock(self, how: int, patience: float | None) -> None:
        if self._try_lock(how):
            return
        # Who has it may wait for the turn: the thread that has the turn doesn't wait for the lock.
        self.will_block()
        if patience is None:
            fcntl.flock(self._lock_fd, how)
            return
        deadline = time.monotonic() + patience
        while not self._try_lock(how):
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the home is locked by others")
            time.sleep(_LOCK_AGAIN)  # flock can't wait with a limit

    def _try_lock(self, how: int) -> bool:
        try:
            fcntl.flock(self._lock_fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
