"""Keeping the trash of all accounts within its limits while a server runs.

Lives here: the thread for that, its times, and choosing operations over all accounts.
Lives elsewhere: purging an operation (storage/trash/discarding.py), measuring one
(storage/trash/measuring.py), versions of a path (storage/trash/thinning.py), the policy of an
account's trash (accounts/trash_policy.py), homes in doubt (housekeeping.py).

Once per hour, it purges what is too old, surplus versions, and the oldest operations of accounts
with too much trash. Once per minute, it purges the oldest operations of all accounts on each disk
that has less free than `trash-reserve`. It works at once when a session finds the disk full, when
trees were moved to the trash that have no size yet, and when there are very many operations. It
never holds a home's lock while it walks a tree, and pauses after each 50 ms of removing.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ftpserver.accounts.account import Account
from ftpserver.accounts.trash_policy import policy_of
from ftpserver.admin.trash import count_operations, opened
from ftpserver.audit.context import evicted
from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.migration import SHARE_WITHOUT_QUOTA
from ftpserver.storage.home import Home
from ftpserver.storage.trash.directory import names_in
from ftpserver.storage.trash.index import Item
from ftpserver.storage.trash.measuring import measure
from ftpserver.storage.trash.policy import Policy
from ftpserver.storage.trash.thinning import Thinning
from ftpserver.storage.walk import Usage
from ftpwire.errors import CommandError

if TYPE_CHECKING:
    from ftpserver.serving.service import Service
    from ftpserver.settings.table import Settings

logger = logging.getLogger("ftpd.trash")

EVERY = 3600.0
"""Seconds between two checks of ages and limits."""
LOOK_AT_DISKS = 60.0
"""Seconds between two checks of the free space on the disks."""
DISK_PATIENCE = 30.0
"""Seconds that a session waits for space on a full disk."""
WORK_SECONDS = 0.05
"""Seconds of removing before the thread pauses for others."""
_MEASURE_SHARE = 20
"""How many times as long as measuring an account's trash took, the next measuring is put off. If an
account has very many operations, it would otherwise cost that with each removal."""
_SELDOM = 600.0
"""Seconds until the next check of a disk where nothing could be purged, or of a home that could not
be locked."""
_LOCK_PATIENCE = 30.0
"""Seconds to wait for a home's lock, which a recount may hold for that long."""
_REST_SECONDS = 0.01
"""Seconds of such a pause."""


def log_trash_policy(settings: Settings) -> None:
    """Log that removals, which were final before this start, now go to the trash."""
    if settings.trash_days == 0:
        return
    logger.warning(
        "from now on, files that users remove or replace are kept for %d days in .ftpd-trash in "
        "their homes, or until their space is needed; for accounts without a quota, the trash may "
        "take at most %d %% of the disk (ftpd user set NAME --trash-max)",
        settings.trash_days,
        SHARE_WITHOUT_QUOTA,
    )
    logger.warning(
        "to turn the trash off: trash-days = 0 in the settings, or ftpd user set NAME "
        "--trash-days 0; what it contains then is purged at once"
    )


class OwnAccounts(Protocol):
    """A function that returns the accounts whose homes may be touched."""

    def __call__(self, ids: Collection[int] | None = None, /) -> Iterable[Account]:
        """Return those with these ids; None for all."""


@dataclass
class _SpaceRequest:
    """A session's request for space on its disk."""

    account_id: int
    size: int
    done: threading.Event = field(default_factory=threading.Event)
    made: bool = False
    is_over: bool = False
    """True if the session no longer waits."""


class TrashKeeping:
    """Keeps the trash of a server's accounts within its limits. Its thread ends when the service
    stops.

    Args:
        service: The service with the accounts and settings.
        own_accounts: Returns the accounts whose homes may be touched.
        now: Returns the time in seconds since 1970.
        ticks: Returns the time in seconds of a monotonic clock.
    """

    def __init__(
        self,
        service: Service,
        own_accounts: OwnAccounts,
        *,
        now: Callable[[], float] = RUN.earliest,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._own_accounts = own_accounts
        self._now = now
        self._ticks = ticks
        self._next_look = self._next_disks = ticks()
        self._unmeasured: set[int] = set()
        self._locked_until: dict[int, float] = {}
        """For accounts whose homes could not be locked: when to try again, in ticks."""
        self._measure_at: dict[int, float] = {}
        """For each account: when it may be measured again, in ticks."""
        self._wanted: deque[_SpaceRequest] = deque()
        self._worked_since = ticks()
        self._serving = False
        self._disks: dict[int, Path] = {}
        """For each disk with trash, by its device number: a home on it."""
        self._thread = threading.Thread(target=self._run, name="trash")
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    # the thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until the thread has ended, which it does when the service stops. Can be called
        twice."""
        self._thread.join()
        self._refuse_waiting()

    def close(self) -> None:
        """Close the descriptors, after `stop`."""
        read, self._wake_read = self._wake_read, -1
        write, self._wake_write = self._wake_write, -1
        os.close(read)
        os.close(write)

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                self._next_look = self._next_disks = self._ticks() + LOOK_AT_DISKS
                logger.exception(
                    "keeping the trash within its limits failed; it will be tried again"
                )
            if not self._wait_for_work():
                break
        self._refuse_waiting()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do. Return False when the server stops."""
        stop_fd = self._service.stop_fd
        next_measure = min(map(self._may_measure_at, tuple(self._unmeasured)), default=math.inf)
        due = max(0.0, min(self._next_look, self._next_disks, next_measure) - self._ticks())
        readable, _, _ = select.select([stop_fd, self._wake_read], [], [], due)
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)
        return stop_fd not in readable

    def _wake(self) -> None:
        if self._wake_write >= 0:
            # BlockingIOError: the pipe is full, so the thread will wake up anyway
            with suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

    # called from other threads -----------------------------------------------------------

    def look_soon(self) -> None:
        """Check everything soon, without waiting for the usual time: settings have changed."""
        self._next_look = self._next_disks = self._ticks()
        self._wake()

    def measure_soon(self, account_id: int) -> None:
        """Measure new trees in an account's trash soon."""
        self._unmeasured.add(account_id)
        self._wake()

    def free_disk_space(self, account_id: int, size: int) -> bool:
        """Purge trash of any account until an account's disk has ``size`` bytes free. Wait for
        that, up to `DISK_PATIENCE`. Return False if there isn't enough space."""
        if not self._thread.is_alive():
            return False
        wanted = _SpaceRequest(account_id, size)
        self._wanted.append(wanted)
        self._wake()
        # without a lock: if the thread misses `is_over`, it purges for a session that has gone on,
        # which only frees space earlier than needed
        wanted.is_over = not wanted.done.wait(DISK_PATIENCE)
        return wanted.made

    def _refuse_waiting(self) -> None:
        while self._wanted:
            self._wanted.popleft().done.set()

    # the work ----------------------------------------------------------------------------

    def totals(self) -> tuple[int, int, int]:
        """Return the bytes in the trash of all accounts, as far as they are measured; the number of
        operations; and how many were purged to free space within the last day. Raises
        StateError."""
        accounts = list(self._service.accounts)
        count, _ = self._service.ledger.evicted_lately()
        size = sum(account.trash_bytes for account in accounts)
        return size, sum(map(_count_operations, accounts)), count

    def look(self) -> None:
        """Do everything that is due."""
        self._worked_since = self._ticks()
        try:
            self._serve_waiting()
            self._measure_wanted()
            if self._ticks() >= self._next_look:
                self._next_look = self._ticks() + EVERY
                self.tidy()
            if self._ticks() >= self._next_disks:
                self._next_disks = self._ticks() + LOOK_AT_DISKS
                self.keep_reserves()
        except _Stopping:
            logger.debug("the server stops: the rest of the trash is left for the next start")

    def _rest(self) -> None:
        """Pause, if `WORK_SECONDS` have passed since the last pause. Called after each small step.

        Raises:
            _Stopping: The server stops.
        """
        if self._ticks() - self._worked_since < WORK_SECONDS:
            return
        stopping, _, _ = select.select([self._service.stop_fd], [], [], _REST_SECONDS)
        if stopping:
            raise _Stopping
        self._serve_waiting()
        self._worked_since = self._ticks()

    def _in_home(self, account: Account, why: str, work: Callable[[Home], None]) -> None:
        """Do something in an account's home, if it has a trash. Errors are logged, so that the
        other homes have their turn.

        Args:
            account: The account.
            why: A participle for the log: what is done with the trash.
            work: A function that does it.
        """
        if self._locked_until.get(account.id, -math.inf) > self._ticks():
            return  # its lock was busy a short time ago: don't make the other homes wait again
        try:
            with opened(account.home) as there:
                if there is None:
                    return
            service = self._service
            home = Home(
                account.home,
                durable=service.settings.durable,
                incarnation=service.ledger.incarnation,
                patience=_LOCK_PATIENCE,
            )
            try:
                work(home)
            finally:
                home.close()
        except _Stopping:
            raise
        except (OSError, CommandError, StateError) as error:
            if isinstance(error, TimeoutError):
                self._locked_until[account.id] = self._ticks() + _SELDOM
            logger.error("%s: the trash cannot be %s: %s", account.name, why, error)
        except Exception:  # a bad home must not stop the work on the others
            logger.exception("%s: the trash cannot be %s", account.name, why)

    def _thinning(self, home: Home, account: Account) -> Thinning:
        return Thinning(home, self._service.ledger, account.id, self._rest)

    # ages and limits ---------------------------------------------------------------------

    def tidy(self) -> None:
        """Purge what is too old or exceeds the limits of its account, and measure what has no size
        yet."""
        disks: dict[int, Path] = {}
        there_are = {account.id for account in self._service.accounts}
        for account in self._own_accounts():

            def tidy(home: Home, account: Account = account) -> None:
                disks.setdefault(os.fstat(home.fd).st_dev, account.home)
                self._tidy(home, account, there_are)

            self._in_home(account, "kept within its limits", tidy)
        self._disks = disks

    def _tidy(self, home: Home, account: Account, there_are: Collection[int]) -> None:
        policy = policy_of(account, self._service.settings)
        now_ns = int(self._now() * 10**9)
        thinning = self._thinning(home, account)
        try:
            thinning.expire(policy.seconds, now_ns)
            thinning.expire_left(there_are, policy.seconds, now_ns)
            thinning.thin(policy.versions, now_ns)
            self._measure(account, home)
            thinning.trim(policy.items, _most(home, account, policy))
        finally:
            self._record(account, thinning, "age, or a limit of the account")

    def _record(self, account: Account, thinning: Thinning, why: str) -> None:
        """Write an audit record of what was purged, if anything was."""
        gone = thinning.purged
        if not (thinning.operations or gone.files or gone.directories):
            return
        logger.info(
            "%s: purged %d operations of the trash (or parts of them), %d bytes; reason: %s",
            *(account.name, len(thinning.operations), gone.size, why),
        )
        self._service.audit.record(
            "evict",
            user=account.name,
            size=gone.size,
            files=gone.files + gone.directories,
            details=evicted(thinning.operations, why),
        )

    # measuring ---------------------------------------------------------------------------

    def _measure_wanted(self) -> None:
        """Measure the trees that were moved to the trash since the last time."""
        now = self._ticks()
        wanted = {one for one in tuple(self._unmeasured) if self._may_measure_at(one) <= now}
        self._unmeasured -= wanted
        for account in self._own_accounts(wanted):
            began = self._ticks()
            self._in_home(account, "measured", partial(self._measure_wanted_of, account))
            ended = self._ticks()
            self._measure_at[account.id] = ended + (ended - began) * _MEASURE_SHARE

    def _measure_wanted_of(self, account: Account, home: Home) -> None:
        self._measure(account, home)
        policy = policy_of(account, self._service.settings)
        with opened(account.home) as trash:
            if trash is None or len(names_in(trash)) <= policy.items:
                return
        # don't wait for the hourly check: a client that keeps beginning operations would fill the
        # disk before it
        thinning = self._thinning(home, account)
        try:
            thinning.trim(policy.items, None)
        finally:
            self._record(account, thinning, "too many operations")

    def _may_measure_at(self, account_id: int) -> float:
        return self._measure_at.get(account_id, -math.inf)

    def _measure(self, account: Account, home: Home) -> None:
        def record(operation: str, item: Item, usage: Usage) -> None:
            self._service.audit.record(
                "measured",
                user=account.name,
                operation=operation,
                path=item.path.value,
                size=usage.size,
                files=usage.files,
            )

        ledger = self._service.ledger
        measure(home, ledger, account.id, self._rest, on_measured=record)

    # disks -------------------------------------------------------------------------------

    def _serve_waiting(self) -> None:
        """Free space for the sessions that wait for it. Does nothing when called from itself, by
        `_rest`."""
        if self._serving:
            return
        self._serving = True
        try:
            while self._wanted:
                wanted = self._wanted.popleft()
                if wanted.is_over:
                    continue
                try:
                    wanted.made = self._free_space(wanted.account_id, wanted.size)
                finally:
                    wanted.done.set()  # in any case: the session waits for this
        finally:
            self._serving = False

    def _free_space(self, account_id: int, size: int) -> bool:
        try:
            home = self._service.accounts.by_id(account_id).home
            device = os.stat(home).st_dev
            return self._evict_oldest(device, lambda: _free(home) >= size)
        except (OSError, CommandError, StateError) as error:
            logger.error("cannot free disk space for an upload: %s", error)
            return False

    def keep_reserves(self) -> None:
        """Purge the oldest operations on each disk that has less free than `trash-reserve`."""
        reserve = self._service.settings.trash_reserve
        root = self._service.settings.root
        for device, directory in ({os.stat(root).st_dev: root} | self._disks).items():
            try:
                is_enough = partial(_has_reserve, directory, reserve)
                if not self._evict_oldest(device, is_enough):
                    self._next_disks = self._ticks() + _SELDOM
            except OSError as error:
                logger.error("%s: the free disk space cannot be read: %s", directory, error)

    def _evict_oldest(self, device: int, is_enough: Callable[[], bool]) -> bool:
        """Purge operations of all accounts on a disk, the oldest first, until it is enough. Return
        False if it isn't."""
        if is_enough():
            return True
        for name, account in self._oldest_first(device):
            self._in_home(account, "purged", partial(self._evict, account, name))
            if is_enough():
                return True
        return False

    def _evict(self, account: Account, name: str, home: Home) -> None:
        thinning = self._thinning(home, account)
        try:
            thinning.evict(name)
        finally:
            self._record(account, thinning, "disk space")

    def _oldest_first(self, device: int) -> list[tuple[str, Account]]:
        found = []
        for account in self._own_accounts():
            try:
                if os.stat(account.home).st_dev != device:
                    continue
                with opened(account.home) as trash:
                    names = [] if trash is None else names_in(trash)
            except OSError as error:
                logger.error("%s: the trash cannot be purged: %s", account.name, error)
                continue
            found += [(name, account) for name in names]
        return sorted(found, key=lambda one: one[0])


class _Stopping(Exception):
    """The server stops."""


def _count_operations(account: Account) -> int:
    try:
        return count_operations(account)
    except OSError:
        return 0  # the thread logs this error when it works on this home


def _most(home: Home, account: Account, policy: Policy) -> int | None:
    """Return the most bytes that an account's trash may have; None for no limit."""
    if policy.share is None:
        return None
    if account.quota is not None:
        return account.quota * policy.share // 100
    disk = os.fstatvfs(home.fd)
    return disk.f_blocks * disk.f_frsize * policy.share // 100 if disk.f_blocks else None


def _free(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def _has_reserve(directory: Path, percent: int) -> bool:
    """Return whether ``percent`` of a disk are free, both of its bytes and of its inodes. A file
    system that doesn't report its size always has enough."""
    disk = os.statvfs(directory)
    bytes_left = disk.f_bavail * 100 >= disk.f_blocks * percent
    return bytes_left and disk.f_favail * 100 >= disk.f_files * percent
