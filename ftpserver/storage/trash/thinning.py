"""Purging what exceeds the policy of an account's trash: too old, too many versions, too large.

Lives here: choosing these operations and items, for one account. Lives elsewhere: when that is done
(daemon/trash_keeping.py), removing them (discarding.py), the policy (policy.py).

There is no waiting for other sessions: an operation that is in use is checked again the next time.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from ftpserver.storage.digest_xattr import digest_by_name
from ftpserver.storage.home_staging import StagingHome, Tally
from ftpserver.storage.quota import QuotaStore
from ftpserver.storage.trash.directory import names_in, open_trash
from ftpserver.storage.trash.discarding import purge
from ftpserver.storage.trash.glance import Glance, by_worth, glance, glances
from ftpserver.storage.trash.index import Item
from ftpserver.storage.trash.names import time_of
from ftpserver.storage.trash.policy import DAY
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import Busy, Expired

SECOND = 10**9
HOUR = 3600
_OFTEN = 60
"""Most versions within an hour that are all worth keeping. Of a file that is replaced more often,
one version in this many is kept."""
Tick = Callable[[], None]


class Thinning:
    """Purges what exceeds an account's policy. For one thread.

    Args:
        tick: A function that is called after each 50 ms of removing, while no lock is held.

    Attributes:
        purged: What became free.
        operations: The operations that were purged, at least in part.
    """

    def __init__(
        self, home: StagingHome, quota_store: QuotaStore, account_id: int, tick: Tick = lambda: None
    ) -> None:
        self.purged = Tally()
        self.operations: list[str] = []
        self._home = home
        self._quota_store = quota_store
        self._account_id = account_id
        self._tick = tick

    def expire(self, seconds: int, now_ns: int) -> None:
        """Purge operations that began at least ``seconds`` ago."""
        with self._trash() as trash:
            for found in self._glances(trash):
                if time_of(found.name) + seconds * SECOND <= now_ns:
                    self._purge_whole(trash, found)

    def expire_left(self, accounts: Collection[int], seconds: int, now_ns: int) -> None:
        """Purge such operations of accounts that no longer exist: the home is this account's now.

        Args:
            accounts: The ids of all existing accounts.
            seconds: The age at which operations expire.
            now_ns: The current time, in nanoseconds since 1970.
        """
        with self._trash() as trash:
            for name in () if trash is None else names_in(trash):
                if time_of(name) + seconds * SECOND > now_ns:
                    break  # names sort by age: all others are younger
                assert trash is not None
                found = glance(trash, name)
                begin = None if found is None else found.contents.begin
                if found is not None and begin is not None and begin.account not in accounts:
                    self._purge_whole(trash, found, is_left=True)

    def thin(self, versions: int, now_ns: int) -> None:
        """Purge versions of each path. Of the last 24 hours, all are kept; of older ones, one per
        day; of a file that is replaced more than 60 times in an hour, one in 60. At most
        ``versions`` are kept of one path.

        Removed files are not versions. A version that equals the file that replaced it is purged,
        too: noticing this at the write would cost reading the old file's digest.
        """
        with self._trash() as trash:
            found = {one.name: one for one in self._glances(trash)}
            going: dict[str, list[str]] = defaultdict(list)
            of_path: dict[bytes, list[tuple[int, str, Item]]] = defaultdict(list)
            for one in found.values():
                for item in one.kept:
                    if item.what != "replaced":
                        continue
                    if _is_what_replaced_it(one, item):
                        going[one.name].append(item.name)
                    else:
                        of_path[item.path.value].append((item.time, one.name, item))
            for found_versions in of_path.values():
                found_versions.sort(key=lambda one: (-one[0], one[1]))
                kept = kept_versions([one[0] for one in found_versions], versions, now_ns)
                for number, (_, operation, item) in enumerate(found_versions):
                    if number not in kept:
                        going[operation].append(item.name)
            for operation, names in going.items():
                self._purge_items(trash, found[operation], names)

    def trim(self, items: int, size: int | None) -> None:
        """Purge operations until the trash is within both limits: first those that contain only
        versions, the oldest first. If the last one left is above a limit by itself, its oldest
        items are purged.

        Args:
            items: The most lines that all indexes together may have.
            size: The most bytes that the trash may have; None for no limit.
        """
        with self._trash() as trash:
            found = sorted(self._glances(trash), key=by_worth)
            lines = sum(len(one.contents.items) for one in found)
            sizes = {one.name: one.counted().size for one in found}
            taken = sum(sizes.values())
            for left, one in zip(range(len(found), 0, -1), found, strict=True):
                over = 0 if size is None else max(0, taken - size)
                more = max(0, lines - items)
                if not over and not more:
                    return
                if left == 1 and over < sizes[one.name] and more < len(one.contents.items):
                    self._purge_items(trash, one, _oldest(one, over, len(one.kept) - items))
                    return
                if self._purge_whole(trash, one):
                    lines -= len(one.contents.items)
                    taken -= sizes[one.name]

    def evict_oldest(self) -> bool:
        """Purge the account's operation that is worth least. Return False if none can be purged."""
        with self._trash() as trash:
            found = [one for one in self._glances(trash) if one.names]
            return any(
                self._purge_whole(trash, one, for_space=True) for one in sorted(found, key=by_worth)
            )

    def evict(self, name: str) -> bool:
        """Purge one operation to free space. Return False if it doesn't belong to the account, is
        empty, or is in use."""
        with self._trash() as trash:
            found = None if trash is None else glance(trash, name)
            if found is None or not found.names:
                return False
            return self._purge_whole(trash, found, for_space=True)

    # removing ----------------------------------------------------------------------------

    @contextmanager
    def _trash(self) -> Iterator[int | None]:
        trash = open_trash(self._home)
        try:
            yield trash
        finally:
            if trash is not None:
                os.close(trash)

    def _glances(self, trash: int | None) -> Iterable[Glance]:
        return () if trash is None else glances(trash, self._account_id)

    def _purge_whole(
        self,
        trash: int | None,
        found: Glance,
        *,
        for_space: bool = False,
        is_left: bool = False,
    ) -> bool:
        """Purge an operation. Return False if it couldn't be."""
        return self._purge(trash, found, None, for_space, is_left)

    def _purge_items(self, trash: int | None, found: Glance, names: list[str]) -> None:
        # an operation that has moved something can be undone although its directory is empty, so it
        # stays
        nothing_else = all(item.name for item in found.contents.items)
        if nothing_else and len(names) >= len(found.names):
            self._purge_whole(trash, found)
            return
        self._purge(trash, found, names, False)

    def _purge(
        self,
        trash: int | None,
        found: Glance,
        names: list[str] | None,
        for_space: bool,
        is_left: bool = False,
    ) -> bool:
        assert trash is not None, "it was seen there"
        try:
            gone = purge(
                self._home,
                self._quota_store,
                self._account_id,
                trash,
                found.name,
                names,
                self._tick,
                patience=0.0,
                for_space=for_space,
                is_left=is_left,
                seen=found.names,
            )
        except (Busy, Expired):
            return False
        if found.name not in self.operations[-1:]:
            self.operations.append(found.name)
        self.purged.size += gone.size
        self.purged.files += gone.files
        self.purged.directories += gone.directories
        return True


def kept_versions(times: list[int], most: int, now_ns: int) -> set[int]:
    """Choose the versions of one file that are kept.

    Args:
        times: When each was replaced, in nanoseconds since 1970; the newest first.
        most: The most versions to keep.
        now_ns: The current time, in nanoseconds since 1970.

    Returns:
        Their indices in ``times``.
    """
    in_hour: dict[int, int] = defaultdict(int)
    for time in times:
        in_hour[time // (HOUR * SECOND)] += 1
    seen: dict[int, int] = defaultdict(int)
    kept: set[int] = set()
    days: set[int] = set()
    for number, time in enumerate(times):
        if len(kept) >= most:
            break
        hour, day = time // (HOUR * SECOND), time // (DAY * SECOND)
        seen[hour] += 1
        if in_hour[hour] > _OFTEN and seen[hour] % _OFTEN != 1:
            continue
        if time <= now_ns - DAY * SECOND and day in days:
            continue
        if time <= now_ns - DAY * SECOND:
            days.add(day)
        kept.add(number)
    return kept


def _is_what_replaced_it(found: Glance, item: Item) -> bool:
    """Return whether a version is known to have the same content as what replaced it. Only files
    with stored digests are compared."""
    after = item.after
    if after is None or after.digest is None:
        return False
    try:
        directory = os.open(found.name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=found.trash)
    except FileNotFoundError:
        return False
    try:
        info = os.stat(item.name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode) or info.st_size != after.size:
            return False
        digest = digest_by_name(directory, item.name.encode(), info)
        return digest is not None and digest.hex() == after.digest
    except FileNotFoundError:
        return False
    finally:
        os.close(directory)


def _oldest(found: Glance, size: int, count: int) -> list[str]:
    """Return the oldest items of an operation that have at least ``size`` bytes together, and are
    at least ``count`` items."""
    going: list[str] = []
    for item in found.kept:
        if size <= 0 and count <= 0:
            break
        going.append(item.name)
        size -= found.counted([item]).size
        count -= 1
    return going
