"""Leases for which trash of the account is evicted before a session is refused any space.

Lives here: choosing what is purged, and trying again. Lives elsewhere: removing it (discarding.py),
the quota store itself (ledger.py), freeing disk space over all accounts (the server's housekeeping,
which `QuotaStore.free_disk_space` asks for it).

What becomes free is reserved for this session in the same transaction that settles it, so no other
session gets it. Operations that contain only versions are purged first, then the others; the oldest
first, and no more than is needed. With very many items a little more is purged; otherwise each
small file would cost reading all of them. What cannot fit even without trash is refused at once.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TypeVar

from ftpserver.storage.home_staging import StagingHome
from ftpserver.storage.quota import Lease, LeaseStore, QuotaStore, Resumable, Settled
from ftpserver.storage.trash.directory import open_trash
from ftpserver.storage.trash.discarding import MOST_AT_ONCE, Settling, purge
from ftpserver.storage.trash.eviction_lock import eviction_lock
from ftpserver.storage.trash.glance import Glance, by_worth, glances
from ftpserver.storage.trash.measuring import OnMeasured, measure
from ftpwire.errors import Busy, DiskFull, Expired, QuotaExceeded

_PLENTY = 16 * 1024 * 1024
"""Bytes. A disk with this much free space isn't considered full."""
_MANY = 1000
"""Files. A disk that can take this many more isn't considered full, either."""
_SHARE = 64
"""One part in this many of the trash is purged beyond what is needed, up to `_PLENTY` bytes.
Reading a trash of 100,000 items takes a second, which must not be spent for each small file."""
_PATIENCE = 1.0
"""Seconds to wait for an operation that the server holds while it measures it."""
OTHERS = 30.0
"""Seconds to wait for other sessions that purge: they may be removing large trees."""
_A_FILE = 256 * 1024
"""Bytes to free for a file when the error doesn't say how many are needed."""
_A_LITTLE = 64 * 1024
"""Bytes that directories and indexes need."""
_T = TypeVar("_T")


class EvictingLeaseStore(LeaseStore):
    """The leases of one session's uploads and removals. For the thread that has the home.

    Args:
        quota_store: The quota store that does the work.
        home: A function that returns the account's home.
        account_id: The account whose trash is purged.
        on_evicted: A function that is called each time that space was needed, with the bytes that
            became free and the operations that were purged.
        tick: A function that is called now and then while something is removed. It may raise, for
            example because the request was cancelled.
        on_measured: See `measuring.measure`.
        others: Seconds to wait for other sessions that purge trash of the account.
    """

    def __init__(
        self,
        quota_store: QuotaStore,
        home: Callable[[], StagingHome],
        account_id: int,
        on_evicted: Callable[[int, list[str]], None] = lambda freed, operations: None,
        tick: Callable[[], None] = lambda: None,
        on_measured: OnMeasured = lambda operation, item, usage: None,
        others: float = OTHERS,
    ) -> None:
        self.incarnation = quota_store.incarnation
        self._quota_store = quota_store
        self._home = home
        self._account_id = account_id
        self._on_evicted = on_evicted
        self._lately: dict[str, None] = {}
        """The operations that were purged since `_reporting` began, in order; the values are
        unused."""
        self._tick = tick
        self._on_measured = on_measured
        self._others = others

    # reserving ---------------------------------------------------------------------------

    def reserve(
        self,
        account_id: int,
        size: int,
        staging: bytes | None = None,
        *,
        files: int = 1,
        pieces: bytes | None = None,
    ) -> Lease:
        def begin(size: int, files: int) -> Lease:
            return self._quota_store.reserve(account_id, size, staging, files=files, pieces=pieces)

        return self._reserve(begin, begin, size, files)

    def reserve_step(self, account_id: int, size: int, files: int = 1) -> Lease:
        def begin(size: int, files: int) -> Lease:
            return self._quota_store.reserve(account_id, size, files=files)

        def step(size: int, files: int) -> Lease:
            return self._quota_store.reserve_step(account_id, size, files)

        return self._reserve(step, begin, size, files)

    def make_durable(self) -> None:
        self._quota_store.make_durable()

    def to_sync(self) -> Sequence[int]:
        return self._quota_store.to_sync()

    def extended(self, held: Lease, size: int, files: int = 0) -> Lease:
        def extend() -> Lease:
            return self._quota_store.extended(held, size, files)

        try:
            return self.until_on_disk(extend)
        except QuotaExceeded:
            pass
        with self._after_others():
            if not self._can_fit(size, files):
                return extend()  # raises the error with the current numbers
            with self._reporting() as freed_bytes:
                grown = self._grow(held, held.size + size, held.files + files, freed_bytes)
            if grown.size >= held.size + size and grown.files >= held.files + files:
                return grown
            # what became free is in the lease, so the lease object must say so before this raises
            held.size, held.files = grown.size, grown.files
            return extend()

    def _reserve(
        self,
        reserve: Callable[[int, int], Lease],
        begin: Callable[[int, int], Lease],
        size: int,
        files: int,
    ) -> Lease:
        """Reserve space, and purge trash until that works.

        Args:
            reserve: Makes the lease. Raises QuotaExceeded if it doesn't fit.
            begin: Makes an empty lease of the same kind, which takes up what becomes free.
        """
        try:
            return self.until_on_disk(lambda: reserve(size, files))
        except QuotaExceeded:
            pass
        with self._after_others():
            if not self._can_fit(size, files):
                return reserve(size, files)  # raises the error with the current numbers
            held = begin(0, 0)
            try:
                with self._reporting() as freed_bytes:
                    grown = self._grow(held, size, files, freed_bytes)
                held.size, held.files = grown.size, grown.files
            except BaseException:
                self._quota_store.release(held)
                raise
            if held.size >= size and held.files >= files:
                return held
            self._quota_store.release(held)
            return reserve(size, files)

    def _after_others(self) -> AbstractContextManager[None]:
        """Wait until no other session purges trash of the account. What another session frees and
        doesn't need itself, this session can use."""
        return eviction_lock(self._home(), alone=True, patience=self._others, tick=self._tick)

    def _can_fit(self, size: int, files: int) -> bool:
        """Return whether it would fit if all of the trash were purged.

        Trees without a size are measured first, so that nothing is purged in vain.
        """
        self.measure(self._tick)
        space = self._quota_store.space(self._account_id)
        if size and space.free is not None and size > space.free:
            return False
        if not files or space.total_files is None or space.used_files is None:
            return True
        return space.used_files + files <= space.total_files

    def _grow(self, held: Lease, size: int, files: int, freed_bytes: list[int]) -> Lease:
        """Purge trash until a lease has the given size, or nothing is left. Return the new lease.

        Args:
            size: The bytes that the lease is to have.
            files: The files that it is to have.
            freed_bytes: A list to which the bytes that became free are appended.
        """
        grown = replace(held)

        def turn(freed: int, freed_files: int) -> None:
            nonlocal grown
            more, more_files = max(0, size - grown.size), max(0, files - grown.files)
            grown = self._quota_store.reserve_freed(grown, freed, freed_files, more, more_files)
            freed_bytes.append(freed)

        @contextmanager
        def settling() -> Iterator[Callable[[int, int], None]]:
            # unlike `freeing`, this needs no lease of its own: after a crash, the lease `held` has
            # the home counted again
            yield turn

        def is_enough() -> bool:
            return grown.size >= size and grown.files >= files

        def choose(found: Glance) -> list[str] | None:
            space = self._quota_store.space(self._account_id)
            free = 0 if space.free is None else max(0, space.free - space.trash)
            free_files = 0
            if space.total_files is not None and space.used_files is not None:
                free_files = max(0, space.total_files - space.used_files - space.trash_files)
            spare = min(space.trash // _SHARE, _PLENTY), space.trash_files // _SHARE
            return _enough(found, size - grown.size - free, files - grown.files - free_files, spare)

        turn(0, 0)  # takes up what other sessions have released meanwhile
        self._evict(is_enough, choose, settling)
        return grown

    def measure(self, tick: Callable[[], None]) -> None:
        """Measure the trees of the account's trash that have no size yet."""
        measure(
            *(self._home(), self._quota_store, self._account_id, tick),
            patience=_PATIENCE,
            on_measured=self._on_measured,
        )

    # freeing disk space ------------------------------------------------------------------

    def until_on_disk(self, action: Callable[[], _T]) -> _T:
        """Run an action. While it raises DiskFull, purge trash of the account, then ask the server
        to purge that of other accounts, and run it again."""
        try:
            return action()
        except DiskFull as error:
            needed = error.needed or _A_FILE
            if not self._disk_can_fit(error, needed):
                raise
        done: list[_T] = []

        def is_done() -> bool:
            try:
                done.append(action())
            except DiskFull:
                return False
            return True

        with self._reporting() as freed_bytes:
            self._evict(is_done, lambda found: None, None, freed_bytes)
        if not done and not (
            self._quota_store.free_disk_space(self._account_id, needed) and is_done()
        ):
            return action()
        return done[0]

    def _disk_can_fit(self, error: DiskFull, needed: int) -> bool:
        if error.free is None:  # the database couldn't be written; it may be on another disk
            home = self._home()
            free, files = home.disk_free(), os.fstatvfs(home.fd)
            few = files.f_files > 0 and files.f_favail < _MANY
            return free is None or free < _PLENTY or few
        self.measure(self._tick)
        return needed <= error.free + self._quota_store.trash_of_all(self._account_id)

    def free_space(self) -> bool:
        """Purge one operation of the account, because something other than an upload needs a little
        disk space. If there is none, ask the server to purge those of other accounts. Return False
        if nothing could be purged."""
        with self._reporting() as freed_bytes:
            self._evict(lambda: bool(freed_bytes), lambda found: None, None, freed_bytes)
        # while this session holds the home's lock exclusively, the server would wait for it in vain
        if freed_bytes or self._home().is_held_alone:
            return bool(freed_bytes)
        return self._quota_store.free_disk_space(self._account_id, _A_LITTLE)

    # purging -----------------------------------------------------------------------------

    def _evict(
        self,
        is_enough: Callable[[], bool],
        choose: Callable[[Glance], list[str] | None],
        settling: Settling | None,
        freed_bytes: list[int] | None = None,
    ) -> None:
        """Purge one operation after another until it is enough. Operations that another session
        holds come last, and are waited for.

        Args:
            is_enough: Returns whether enough was freed.
            choose: Returns the items of an operation that suffice, or None for all of it.
            settling: See `purge`.
            freed_bytes: A list to which the bytes that became free are appended, if given.
        """
        if is_enough():
            return
        home = self._home()
        trash = open_trash(home)
        if trash is None:
            return
        try:
            began = time.monotonic()
            found = [one for one in glances(trash, self._account_id) if one.names]
            left, busy, patience = deque(sorted(found, key=by_worth)), deque[Glance](), 0.0
            # the surplus takes at most as long as reading the trash took
            more, until = _PLENTY, 2 * time.monotonic() - began
            spare = len(found) // _SHARE
            while left or busy:
                if not left:  # only the busy ones are left: wait for each a little
                    left, busy, patience = busy, deque(), _PATIENCE
                one = left[0]
                items = choose(one)
                if items is None:
                    left.popleft()
                else:
                    one.names -= set(items)
                try:
                    gone = purge(
                        home,
                        self._quota_store,
                        self._account_id,
                        trash,
                        one.name,
                        items,
                        self._tick,
                        patience=patience,
                        settling=settling,
                        for_space=True,
                        seen=one.names,
                    )
                except (Busy, Expired) as error:
                    if items is not None:
                        left.popleft()
                        one.names |= set(items)
                    if isinstance(error, Busy) and not patience:
                        busy.append(one)
                    continue
                self._lately[one.name] = None
                if freed_bytes is not None:
                    freed_bytes.append(gone.size)
                if not is_enough():
                    continue
                spare, more = spare - 1, more - gone.size
                if spare < 0 or more < 0 or busy or time.monotonic() >= until:
                    return
        finally:
            os.close(trash)

    @contextmanager
    def _reporting(self) -> Iterator[list[int]]:
        """Add up the bytes that became free, and report them at the end of the context."""
        freed_bytes: list[int] = []
        self._lately.clear()
        try:
            yield freed_bytes
        finally:
            if freed := sum(freed_bytes):
                self._on_evicted(freed, list(self._lately))

    # passed on unchanged -----------------------------------------------------------------

    def take_over(
        self, account_id: int, staging: bytes, pieces: bytes | None = None
    ) -> Lease | None:
        return self._quota_store.take_over(account_id, staging, pieces)

    def find_pieces(self, account_id: int, key: bytes) -> bytes | None:
        return self._quota_store.find_pieces(account_id, key)

    def keep(self, held: Lease) -> None:
        self._quota_store.keep(held)

    def drop_kept(self, account_id: int, staging: bytes) -> bool:
        return self._quota_store.drop_kept(account_id, staging)

    def resumable(self, account_id: int) -> list[Resumable]:
        return self._quota_store.resumable(account_id)

    def begin_commit(self, leases: Sequence[Lease]) -> None:
        self._quota_store.begin_commit(leases)

    def settle(
        self,
        leases: Sequence[Lease],
        change: int,
        files: int = 0,
        trash: int = 0,
        trash_files: int = 0,
    ) -> Settled:
        return self._quota_store.settle(leases, change, files, trash, trash_files)

    def settle_waiting(self) -> None:
        self._quota_store.settle_waiting()


def _enough(found: Glance, size: int, files: int, spare: tuple[int, int]) -> list[str] | None:
    """Choose the oldest items of an operation that together have a given size. Return None if all
    of it is needed.

    Args:
        size: The bytes that are needed.
        files: The files that are needed.
        spare: Bytes and files to purge beyond that, whichever is reached first.
    """
    items: list[str] = []
    spare_size, spare_files = spare
    for item in found.kept:
        enough = size <= 0 and files <= 0
        done = enough and (spare_size <= 0 or spare_files <= 0)
        if items and (done or len(items) >= MOST_AT_ONCE):
            break
        items.append(item.name)
        counted = found.counted([item])
        if enough:
            spare_size, spare_files = spare_size - counted.size, spare_files - counted.files
        else:
            size, files = size - counted.size, files - counted.files
    return items if items and len(items) < len(found.names) else None
