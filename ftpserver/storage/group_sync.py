"""Syncs that the sessions of a process share: who waits for the disk waits together.

Lives here: which files and directories are synced in one round, who of those that wait does it,
who is told of an error. Lives elsewhere: what has to be synced when (batch.py, commit.py,
ledger.py), the system calls (ftpwire/beneath.py).

A sync costs a journal commit, whatever is in it. So while one is under way, those who come wait,
and the next one is for all of them: a round. Who comes alone syncs at once, in his own thread, and
nobody waits for a timer. Each disk has rounds of its own, so that nobody waits for another one.

What must hold, and where:

- **A round begins after all that it is for was written.** It is for those who waited when it
  began (`_Disk.begin`). Who comes while it runs is in the next one: the disk may have passed over
  his bytes already.
- **An error is everybody's** who was in the round, and nothing of it is synced again: the kernel
  has forgotten the pages that it could not write.
- **Nobody waits for somebody who isn't there any more.** Whoever leads a round hands the disk on,
  however that ends; an exception that is no answer of the disk ends him alone.
- **Nobody holds up others by a lock.** Who leads does system calls only. So whoever waits here may
  hold a home's lock, if he holds it shared. The turn of his process, where several have the same
  disk (sync_turns.py), he waits for no longer than is said.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Sequence

from ftpserver.storage.sync_costs import SyncCosts
from ftpserver.storage.sync_turns import SyncTurns
from ftpwire import beneath

SYNC_EACH = 8
"""Up to so many files and directories may be synced one by one; more of them are by their file
system (docs/decisions/0012)."""
_SLOW = 0.0002
"""Seconds. Where a round lately took longer, other threads needn't wait for who leads one."""
_LATELY = 8
_DIRECTORY = -1
"""In the place of a descriptor."""


class _Waiting:
    """Somebody who waits for a round. All but ``turn`` is guarded by the lock of `Syncs`.

    Attributes:
        turn: Released once there is something to see: it is his to lead, or it is over.
        is_told: That was done.
        leads: Whether he leads the next round.
        error: What the round has ended with.
    """

    __slots__ = ("error", "fds", "is_told", "leads", "turn")

    def __init__(self, fds: Sequence[int]) -> None:
        self.fds = fds
        self.is_told = self.leads = False
        self.error: OSError | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class _Disk:
    """One file system. Guarded by the lock of `Syncs`.

    Attributes:
        is_led: Somebody leads a round, or has been told to.
        waiting: Those that are in no round yet, in the order in which they came.
        seconds: What a round takes, lately.
        costs: What the ways to sync a few things take. For who leads.
    """

    __slots__ = ("costs", "device", "is_led", "seconds", "waiting")

    def __init__(self, device: int) -> None:
        self.device = device
        self.is_led = False
        self.waiting: list[_Waiting] = []
        self.seconds = 0.0
        self.costs = SyncCosts()

    def took(self, seconds: float) -> None:
        """A round is over. A quick one shows that the disk is; one that took long may have waited
        for the interpreter."""
        longer = max(0.0, seconds - self.seconds) / _LATELY
        self.seconds = min(seconds, self.seconds) + longer

    def begin(self) -> list[_Waiting]:
        """Those that the round is for which begins now, beside him who leads it."""
        members, self.waiting = self.waiting, []
        return members

    def hand_on(self) -> _Waiting | None:
        """Who leads the next round; None: nobody waits."""
        if not self.waiting:
            self.is_led = False
            return None
        following = self.waiting.pop(0)
        following.leads = True
        return following


class Syncs:
    """The syncs of the sessions of one process. For all threads.

    Args:
        sync: Does one: of open files and directories on one file system. Raises OSError.
        turns: What it shares with other processes that sync the same disks; None: nothing.

    Attributes:
        before_wait: Called by a thread that is going to wait for a disk that isn't quick: others
            may have its turn.
    """

    def __init__(
        self,
        sync: Callable[[Sequence[int]], None] | None = None,
        turns: SyncTurns | None = None,
    ) -> None:
        self._sync = sync
        self._turns = turns
        self.before_wait: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        """Held for moments only, never while anybody waits."""
        self._disks: dict[int, _Disk] = {}

    def sync(self, fds: Sequence[int]) -> None:
        """Have the disk keep what was written to open files, and the names in open directories;
        together with what others ask for meanwhile.

        Args:
            fds: Of few: whoever has many syncs their file system.

        Raises:
            OSError: Writing failed, of one of these or of what was synced with them. They are not
                to be synced again.
        """
        if not fds:
            return
        of_disks: dict[int, list[int]] = {}
        for fd in fds:
            of_disks.setdefault(os.fstat(fd).st_dev, []).append(fd)
        for device, those in of_disks.items():
            self._sync_on(device, those)

    def _sync_on(self, device: int, fds: Sequence[int]) -> None:
        mine = _Waiting(fds)
        with self._lock:
            disk = self._disks.get(device)
            if disk is None:
                disk = self._disks[device] = _Disk(device)
            leads = not disk.is_led
            if leads:
                disk.is_led = True
            else:
                disk.waiting.append(mine)
        if not leads and not self._wait(disk, mine):
            if mine.error is not None:
                raise OSError(mine.error.errno, mine.error.strerror) from mine.error
            return
        self._lead(disk, mine)

    def _wait(self, disk: _Disk, mine: _Waiting) -> bool:
        """Wait for a round; whether it is ours to lead it."""
        try:
            self.before_wait()
            mine.turn.acquire()
        except BaseException:  # this thread ends, in whatever way: nobody is left waiting for it
            with self._lock:
                is_told, waits = mine.is_told, mine in disk.waiting
                if waits:
                    disk.waiting.remove(mine)
            if not waits:
                if not is_told:
                    mine.turn.acquire()  # until then its descriptors are in use
                if mine.leads:
                    self._hand_on(disk, ())
            raise
        return mine.leads

    def _lead(self, disk: _Disk, mine: _Waiting) -> None:
        """Sync for all who wait now, and hand the disk on. Raises OSError."""
        members: Sequence[_Waiting] = ()
        error: OSError | None = None
        turns = self._turns if disk.seconds > _SLOW else None
        try:
            if disk.seconds > _SLOW:
                self.before_wait()
            if turns is not None:
                turns.take(disk.device)  # who comes meanwhile is in this round
            with self._lock:
                members = disk.begin()
            began = time.perf_counter()
            try:
                fds = [fd for one in (mine, *members) for fd in one.fds]
                if self._sync is None:
                    sync_all(fds, disk.costs)
                else:
                    self._sync(fds)
            except OSError as failed:
                error = failed
                for one in members:
                    one.error = failed
            disk.took(time.perf_counter() - began)
        except BaseException:  # no answer of the disk: the others go on without this thread
            with self._lock:
                disk.waiting[:0] = members
            members = ()
            raise
        finally:
            if turns is not None:  # before another thread here may take it
                turns.give_back(disk.device)
            self._hand_on(disk, members)
        if error is not None:
            raise error

    def _hand_on(self, disk: _Disk, done: Sequence[_Waiting]) -> None:
        """Have the next round begin, and those go on whose round is over."""
        with self._lock:
            following = disk.hand_on()
            told = [*done] if following is None else [following, *done]
            for one in told:
                one.is_told = True
        for one in told:  # who leads first: the disk is what all others wait for
            one.turn.release()


def sync_all(fds: Sequence[int], costs: SyncCosts | None = None) -> None:
    """Sync open files and directories of one file system: many together, few as it takes less time.

    Args:
        costs: What both ways took lately; None: few are synced one by one.

    Raises:
        OSError: Of the first that fails; the others may not have been tried.
    """
    things: dict[tuple[int, int], int] = {}
    for fd in dict.fromkeys(fds):  # the log of the books is everybody's
        info = os.fstat(fd)
        # a directory that several sessions have open is one thing. Of a file each descriptor hears
        # of errors by itself
        whose = _DIRECTORY if stat.S_ISDIR(info.st_mode) else fd
        things.setdefault((info.st_ino, whose), fd)
    count, began = len(things), time.perf_counter()
    if count > SYNC_EACH or (costs is not None and costs.is_better_together(count)):
        try:
            _sync_together(list(things.values()))
        except beneath.Unsupported:
            pass
        else:
            if costs is not None and count <= SYNC_EACH:
                costs.took_together(time.perf_counter() - began)
            return
    files = [fd for (_, whose), fd in things.items() if whose != _DIRECTORY]
    if len(files) > 1:
        _write_together(files)
    for fd in things.values():
        os.fsync(fd)
    if costs is not None:
        costs.took_each(count, time.perf_counter() - began)


def _write_together(files: Sequence[int]) -> None:
    """Have the bytes of several files on the disk before the first of them is synced.

    Where a new file's bytes lie is known when they are written. Were each written by its own sync,
    after that of the one before, that would be a journal commit for each. So all of it is in the
    first one's, and the others find nothing left to do. An error is told here as by the sync.
    """
    for fd in files:
        beneath.begin_writing(fd)
    for fd in files:
        beneath.wait_until_written(fd)


def _sync_together(fds: Sequence[int]) -> None:
    """Sync the file system that all of these are on.

    An error of one file may have been told to somebody else already, who has synced the file
    system before: so each descriptor is asked, which has heard of it if it was its own file.
    """
    beneath.sync_file_system(fds[0])
    for fd in fds:
        beneath.wait_until_written(fd)
