"""Purging: deleting operations, or items of them, from the trash.

Lives here: taking an operation, or single items of one, out of the trash, and removing them.
Lives elsewhere: deciding what is purged (evicting_store.py, thinning.py, workspace/trashing.py).

The order: lock the operation exclusively → record durably why it goes, under the home's lock: an
eviction in the database, single items in the index → rename what is purged into staging, under the
same lock; from then on it isn't trash → remove it there, a part at a time, and settle each part by
what was measured at the unlink → complete the record of an eviction by what became free. A crash
before the rename changes nothing; after it, the clean-up of the next start removes the rest and has
the home counted again.

The record comes first: if it came after the rename, a crash between the two would leave files that
are gone without a reason that users can be shown. So after a crash a record may be about what is
still there, and the directory decides: what is in the trash was not purged, whatever is recorded,
and the recount drops the record of such an eviction. An operation that is purged for another reason
has no record: that reason is not shown later.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack

from ftpserver.storage.home_staging import StagingHome, Tally, rename_closed
from ftpserver.storage.open_home import give_to_owner
from ftpserver.storage.quota import NOT_NOW, QuotaStore
from ftpserver.storage.trash.directory import PATIENCE, Opened, alone, is_gone
from ftpserver.storage.trash.eviction_lock import eviction_lock
from ftpserver.storage.trash.glance import counted_of, entry_names, is_counted, is_foreign, is_of
from ftpserver.storage.trash.index import Begin, Contents, Gone
from ftpserver.storage.trash.names import INDEX_NAME
from ftpserver.storage.walk import TRASH_SUFFIX
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import DiskFull

logger = logging.getLogger("ftpd.trash")

_OTHERS = 1.0
"""Seconds to wait for a session that purges alone to free space (eviction_lock.py)."""
_PART_SECONDS = 0.05
"""Seconds that the home's lock is held at a time; others wait no longer than this."""

MOST_AT_ONCE = 1000
"""Most items that are taken out of an operation at a time."""

Settling = Callable[[], AbstractContextManager[Callable[[int, int], None]]]
"""Begins one part of a removal. The context yields a function that takes the bytes and files that
became free."""


def purge(
    home: StagingHome,
    quota_store: QuotaStore,
    account_id: int,
    trash: int,
    name: str,
    items: Sequence[str] | None = None,
    tick: Callable[[], None] = lambda: None,
    *,
    patience: float = PATIENCE,
    settling: Settling | None = None,
    for_space: bool = False,
    is_left: bool = False,
    seen: Collection[str] | None = None,
) -> Tally:
    """Purge an operation, or items of it. Return what became free.

    Args:
        trash: The descriptor of the home's trash.
        items: The names of the items; missing ones are ignored. None: the whole operation.
        tick: A function that is called now and then, while no lock is held. If it raises, the
            clean-up of the next start removes the rest.
        patience: Seconds to wait for other sessions that hold the operation.
        settling: Settles what became free, for a caller that purges alone (eviction_lock.py). None:
            any session may use what became free.
        for_space: True if it is purged to free space. This is recorded, so that `ListTrash` and
            later requests about the operation can report it.
        is_left: True if the operation belongs to an account that no longer exists; then it is
            purged as a whole. For the account that has the home now, it counts as used space, not
            as trash.
        seen: The names in the operation when it was chosen as a whole; items added since then stay.

    Raises:
        Expired: It isn't, or is no longer, in the trash of this account.
        Busy: Other sessions hold it.
        OSError: It cannot be renamed or removed.
    """
    with ExitStack() as taking_part:
        if settling is None:  # else the caller holds this lock exclusively
            taking_part.enter_context(eviction_lock(home, alone=False, patience=_OTHERS))
        staged: list[bytes] = []
        failed: OSError | None = None
        with alone(home, trash, name, patience=patience) as held:
            contents, names = held.contents(), entry_names(held.fd)
            is_own = is_of(contents, account_id)
            if not (is_own or is_left) or is_foreign(contents, names):
                raise is_gone(name)
            if items is None and seen is not None and not names.issubset(seen):
                items = tuple(seen)
            if items is None:
                own = contents if is_own else Contents()
                said = _said(contents.begin) if for_space else None
                staged.append(_claim(home, quota_store, account_id, trash, held, own, said))
            else:
                going = [one for one in dict.fromkeys(items) if one in names]
                try:
                    for at in range(0, len(going), MOST_AT_ONCE):
                        some = going[at : at + MOST_AT_ONCE]
                        staged.append(
                            _claim_items(home, quota_store, account_id, held, contents, some)
                        )
                except OSError as error:  # still remove what was taken out before this error
                    failed = error
        discarded = Tally()
        for one in staged:
            gone = _Discarding(home, settling or _freeing(quota_store, account_id), tick).run(one)
            discarded.size += gone.size
            discarded.files += gone.files
            discarded.directories += gone.directories
        if failed is not None:
            raise failed
    if items is None:
        try:
            if for_space:
                said = _said(contents.begin)
                quota_store.forget_operation(account_id, name, discarded.size, *said)
            else:
                quota_store.forget_operation(account_id, name)
        except NOT_NOW as error:  # its row is deleted after a day in any case
            logger.warning("%s: purged, but that cannot be recorded: %s", name, error)
    return discarded


def _said(begin: Begin | None) -> tuple[str, bytes | None]:
    """Return what the client said about an operation: its description, and the client's id."""
    if begin is None:
        return "", None
    return begin.words, None if begin.client is None else bytes.fromhex(begin.client)


def _freeing(quota_store: QuotaStore, account_id: int) -> Settling:
    return lambda: quota_store.freeing(account_id)


def _claim(
    home: StagingHome,
    quota_store: QuotaStore,
    account_id: int,
    trash: int,
    held: Opened,
    contents: Contents,
    said: tuple[str, bytes | None] | None,
) -> bytes:
    """Take a whole operation out of the trash. Return its name in staging.

    Args:
        contents: The part of it that counts in the account's trash.
        said: What the client said about it, if it is evicted; None if not.
    """
    staged = home.new_name() + TRASH_SUFFIX
    counted = counted_of(held.fd, contents, contents.items)
    # the lease of `freeing` has the home counted after a crash, which drops a record without a
    # rename. Meanwhile the lock keeps any other recount away
    with quota_store.freeing(account_id) as settle, home.shared():
        if said is not None:
            try:
                # after a crash, no one can tell how much of it was removed by then
                size = counted.size if _is_counted(held, contents) else None
                quota_store.begin_eviction(account_id, held.name, size, *said)
            except DiskFull as error:  # removing frees the disk, so it cannot wait for this
                logger.warning("%s: purged before that could be recorded: %s", held.name, error)
        rename_closed(trash, held.name.encode(), home.staging_fd, staged)
        try:
            # staging first: otherwise a power cut could leave it in neither directory, and nothing
            # would have the home counted again
            home.sync_dir(home.staging_fd)
            home.sync_dir(trash)
        finally:
            # it leaves the account's trash here, but counts as used until it is removed
            settle(0, 0, -counted.size, -counted.files)
    return staged


def _is_counted(held: Opened, contents: Contents) -> bool:
    """Return whether the sizes of all items that are in an operation are known."""
    there = entry_names(held.fd)
    counted = {item.name for item in contents.items if is_counted(contents, item)}
    return there <= counted


def _claim_items(
    home: StagingHome,
    quota_store: QuotaStore,
    account_id: int,
    held: Opened,
    contents: Contents,
    going: Sequence[str],
) -> bytes:
    """Take items out of an operation, into a directory in staging. Return that directory's name."""
    staged = home.new_name() + TRASH_SUFFIX
    os.mkdir(staged, 0o700, dir_fd=home.staging_fd)
    fd = os.open(staged, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=home.staging_fd)
    gone: set[str] = set()
    try:
        give_to_owner(home.staging_fd, fd)
        with quota_store.freeing(account_id) as settle, home.shared():
            # before the renames: or a crash could take an item, and leave no reason
            _append(held, [Gone(name, "purged") for name in going])
            try:
                for name in going:
                    raw = os.fsencode(name)
                    try:
                        rename_closed(held.fd, raw, fd, raw, new=True)
                    except FileNotFoundError:
                        continue  # another program has just taken it
                    gone.add(name)
                for directory in (fd, home.staging_fd, held.fd):  # in the order of _claim()
                    home.sync_dir(directory)
            finally:
                counted = counted_of(
                    fd, contents, (one for one in contents.items if one.name in gone)
                )
                settle(0, 0, -counted.size, -counted.files)
    finally:
        os.close(fd)
    return staged


def _append(held: Opened, lines: Sequence[Gone]) -> None:
    try:
        held.append(lines)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # removing frees the disk, so it cannot wait for this
        logger.warning("%s: purged items cannot be recorded: %s", held.name, error)


class _Discarding:
    """Removes what was claimed, a part at a time. The home's lock is held for each part only, so a
    recount in between counts what is left."""

    def __init__(self, home: StagingHome, settling: Settling, tick: Callable[[], None]) -> None:
        self._home = home
        self._settling = settling
        self._tick = tick
        self._tally = Tally()
        self._settled = 0, 0

    def run(self, staged: bytes) -> Tally:
        """Remove a directory in staging with its contents. Return what became free."""
        fd = os.open(staged, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._home.staging_fd)
        try:
            self._begin()
            try:
                for name in sorted(entry_names(fd)):
                    self._discard(fd, os.fsencode(name))
                    self._pause()
                try:
                    os.unlink(INDEX_NAME, dir_fd=fd)
                except FileNotFoundError:
                    pass  # items that were purged singly have no index
                os.rmdir(staged, dir_fd=self._home.staging_fd)
            finally:
                self._end()
        finally:
            os.close(fd)
        return self._tally

    def _discard(self, fd: int, name: bytes) -> None:
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            self._home.discard_tree(name, self._tally, self._pause, fd)
            return
        self._tally.size += self._home.drop_staged(name, fd)
        self._tally.files += 1

    def _begin(self) -> None:
        self._began = time.monotonic()
        with ExitStack() as stack:
            self._settle = stack.enter_context(self._settling())
            stack.enter_context(self._home.shared())
            self._part = stack.pop_all()

    def _end(self) -> None:
        """Settle what was removed since the part began, and release the lock."""
        now = self._tally.size, self._tally.files + self._tally.directories
        before, self._settled = self._settled, now
        part, self._part = self._part, ExitStack()
        with part:
            if now != before:
                self._settle(now[0] - before[0], now[1] - before[1])

    def _pause(self) -> None:
        if time.monotonic() - self._began < _PART_SECONDS:
            return
        self._end()
        self._tick()
        self._begin()
