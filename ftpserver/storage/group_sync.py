"""Group syncs: the sessions of a process that wait for the same disk share one sync.

Lives here: which files and directories are synced in one round, which waiting thread leads the
round, who gets an error. Lives elsewhere: what has to be synced when (batch_commit.py, commit.py,
ledger.py), the system calls (ftpwire/beneath.py).

A sync costs a journal commit, however little is in it. So while one is running, other threads wait,
and the next one, called a round, serves all of them. A thread that comes alone syncs immediately
and by itself; there is no timer. Each disk has its own rounds, so that none waits for another disk.

Invariants, and where they are kept:

- **A round begins after everything that it serves was written.** It serves the threads that were
  waiting when it began (`_Disk.begin`). A thread that comes later is in the next round, because the
  disk may have passed over its bytes already.
- **An error belongs to every thread in the round**, and nothing of the round is synced again: the
  kernel has forgotten the pages that it could not write.
- **No thread waits for one that has ended.** The leader of a round hands the disk on, however the
  round ends. An exception that doesn't come from the disk ends the leader alone.
- **No thread delays others by a lock.** A leader makes system calls only. So a thread may wait here
  while it holds a home's lock, if it holds it shared. Where several processes use the same disk
  (sync_turns.py), a leader waits for the turn of its process only for a limited time.
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
"""Maximum files and directories that are synced one by one. More are synced by their file system
(docs/decisions/0012)."""
_SLOW = 0.0002
"""Seconds. A leader lets other threads run if recent rounds have taken longer."""
_LATELY = 8
_DIRECTORY = -1
"""Stands in the key of a directory for the descriptor, which only distinguishes files."""


class _Waiting:
    """A thread that waits for a round. The lock of `Syncs` guards all but ``turn``.

    Attributes:
        fds: The descriptors to sync.
        turn: A lock that is released once the thread has to lead, or its round is over.
        is_notified: True once ``turn`` is about to be released.
        leads: True if the thread leads the next round.
        error: The error that the round has ended with.
    """

    __slots__ = ("error", "fds", "is_notified", "leads", "turn")

    def __init__(self, fds: Sequence[int]) -> None:
        self.fds = fds
        self.is_notified = self.leads = False
        self.error: OSError | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class _Disk:
    """One file system. The lock of `Syncs` guards it.

    Attributes:
        is_led: True if a thread leads a round, or has been chosen to.
        waiting: The threads that are in no round yet, in the order of their arrival.
        seconds: How long a round takes, measured lately.
        costs: How long each way to sync a few files takes. Only the leader uses it.
    """

    __slots__ = ("costs", "device", "is_led", "seconds", "waiting")

    def __init__(self, device: int) -> None:
        self.device = device
        self.is_led = False
        self.waiting: list[_Waiting] = []
        self.seconds = 0.0
        self.costs = SyncCosts()

    def took(self, seconds: float) -> None:
        """Record how long a round has taken. A short time counts at once, because it shows that the
        disk is fast; a long one gradually, because it may be a wait for the interpreter."""
        longer = max(0.0, seconds - self.seconds) / _LATELY
        self.seconds = min(seconds, self.seconds) + longer

    def begin(self) -> list[_Waiting]:
        """Return the threads, except the leader, that a round beginning now serves."""
        members, self.waiting = self.waiting, []
        return members

    def hand_on(self) -> _Waiting | None:
        """Return the thread that leads the next round; None if none is waiting."""
        if not self.waiting:
            self.is_led = False
            return None
        following = self.waiting.pop(0)
        following.leads = True
        return following


class Syncs:
    """The syncs of all sessions of one process. For all threads.

    Args:
        sync: Syncs open files and directories on one file system. Raises OSError.
        turns: The turns shared with other processes that sync the same disks; None: there are none.

    Attributes:
        before_wait: Called by a thread that is about to wait for a disk that isn't fast, so that
            other threads may have its turn.
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
        """Never held while waiting or syncing."""
        self._disks: dict[int, _Disk] = {}

    def sync(self, fds: Sequence[int]) -> None:
        """Make the bytes of open files and the names in open directories durable, in a round with
        those of other threads.

        Args:
            fds: A few descriptors. A caller with many syncs their file system instead.

        Raises:
            OSError: Writing failed, for one of these or for something in the same round. They must
                not be synced again.
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
        """Wait for a round. Returns True if this thread has to lead it."""
        try:
            self.before_wait()
            mine.turn.acquire()
        # This thread ends, for whatever reason. If it was in no round yet, it leaves the queue; if
        # it was chosen to lead, it hands the disk on: the others must not wait for it.
        except BaseException:
            with self._lock:
                is_notified, waits = mine.is_notified, mine in disk.waiting
                if waits:
                    disk.waiting.remove(mine)
            if not waits:
                if not is_notified:
                    mine.turn.acquire()  # the round is using its descriptors until then
                if mine.leads:
                    self._hand_on(disk, ())
            raise
        return mine.leads

    def _lead(self, disk: _Disk, mine: _Waiting) -> None:
        """Sync for all threads that wait now, and hand the disk on. Raises OSError."""
        members: Sequence[_Waiting] = ()
        error: OSError | None = None
        turns = self._turns if disk.seconds > _SLOW else None
        try:
            if disk.seconds > _SLOW:
                self.before_wait()
            if turns is not None:
                turns.take(disk.device)  # threads that come while this waits are in the round
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
        except BaseException:  # not an error of the disk: the others go back to the queue
            with self._lock:
                disk.waiting[:0] = members
            members = ()
            raise
        finally:
            if turns is not None:  # before another thread of this process may take it
                turns.give_back(disk.device)
            self._hand_on(disk, members)
        if error is not None:
            raise error

    def _hand_on(self, disk: _Disk, done: Sequence[_Waiting]) -> None:
        """Choose the next leader, and wake the threads whose round is over."""
        with self._lock:
            following = disk.hand_on()
            woken = [*done] if following is None else [following, *done]
            for one in woken:
                one.is_notified = True
        for one in woken:  # the leader first: all the others wait for the disk
            one.turn.release()


def sync_all(fds: Sequence[int], costs: SyncCosts | None = None) -> None:
    """Sync open files and directories of one file system: many by their file system, few in the way
    that takes less time.

    Args:
        costs: How long both ways took lately; None: few are synced one by one.

    Raises:
        OSError: The first one that failed; the others may not have been tried.
    """
    unique: dict[tuple[int, int], int] = {}
    for fd in dict.fromkeys(fds):  # several sessions give the same log of the quota store
        info = os.fstat(fd)
        # A directory that several sessions have open is synced once. A file is synced through each
        # of its descriptors, because the kernel reports an error once per descriptor.
        which = _DIRECTORY if stat.S_ISDIR(info.st_mode) else fd
        unique.setdefault((info.st_ino, which), fd)
    count, began = len(unique), time.perf_counter()
    if count > SYNC_EACH or (costs is not None and costs.is_better_together(count)):
        try:
            _sync_together(list(unique.values()))
        except beneath.Unsupported:
            pass
        else:
            if costs is not None and count <= SYNC_EACH:
                costs.took_together(time.perf_counter() - began)
            return
    files = [fd for (_, which), fd in unique.items() if which != _DIRECTORY]
    if len(files) > 1:
        _write_together(files)
    for fd in unique.values():
        os.fsync(fd)
    if costs is not None:
        costs.took_each(count, time.perf_counter() - began)


def _write_together(files: Sequence[int]) -> None:
    """Write the bytes of several files to the disk before the first of them is synced.

    A new file's blocks are allocated when its bytes are written. If each file were written by its
    own sync, each would need a journal commit. This way the first sync commits all of them, and the
    others find nothing left to do. Errors are reported here as by the sync.
    """
    for fd in files:
        beneath.begin_writing(fd)
    for fd in files:
        beneath.wait_until_written(fd)


def _sync_together(fds: Sequence[int]) -> None:
    """Sync the file system that all of these are on.

    The kernel may have reported an error of a file already to another thread that synced the file
    system before. So each descriptor is checked, which gets the errors of its own file.
    """
    beneath.sync_file_system(fds[0])
    for fd in fds:
        beneath.wait_until_written(fd)
