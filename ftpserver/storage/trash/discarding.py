"""Giving up what is in the trash, for good.

Lives here: taking an operation, or single items of one, out of the trash, and removing them.
Lives elsewhere: who decides that (making_room.py, thinning.py, workspace/trashing.py).

The order: the operation is held alone → what goes is renamed into staging, and isn't trash any
more, under the home's lock → it is removed there, a part at a time, each settled by what was
measured at the unlink. A crash before the rename changes nothing; after it, the clean-up of the
next start removes the rest and has the home counted.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack

from ftpserver.storage.home_staging import StagingHome, Tally, rename_closed
from ftpserver.storage.open_home import give_to_owner
from ftpserver.storage.quota import NOT_NOW, QuotaStore
from ftpserver.storage.trash.directory import PATIENCE, Opened, alone
from ftpserver.storage.trash.evicting import giving_up
from ftpserver.storage.trash.glance import counted_of, is_a_stranger, is_of, things_in
from ftpserver.storage.trash.index import Begin, Contents, Gone
from ftpserver.storage.trash.names import INDEX_NAME
from ftpserver.storage.walk import TRASH_SUFFIX
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import Expired

logger = logging.getLogger("ftpd.trash")

_OTHERS = 1.0
"""Seconds: so long those are waited for who need room and give up trash alone."""
_PART_SECONDS = 0.05
"""So long is the home's lock held at a time: others wait for no longer."""

MOST_AT_ONCE = 1000
"""Items that are taken out of an operation at a time."""

Settling = Callable[[], AbstractContextManager[Callable[[int, int], None]]]
"""Begins a part of a removal: what it yields is told the bytes and files that became free."""


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
    for_room: bool = False,
    is_left: bool = False,
    seen: Collection[str] | None = None,
) -> Tally:
    """Give up an operation, or items of it; returns what became free.

    Args:
        trash: The home's trash, open.
        items: Their names; what isn't there is passed over. None: the whole operation.
        tick: Called now and then on the way, while no lock is held. What it raises leaves the rest
            to the clean-up of the next start.
        patience: Seconds that others are waited for who hold the operation.
        settling: Settles what became free, for who gives up trash alone (evicting.py); None: it is
            free for everybody.
        for_room: It is given up for want of room, which is told who asks for it.
        is_left: It is of an account that is gone, and the whole of it goes: to the one that has the
            home now it is no trash, and takes room all the same.
        seen: What lay in the operation when it was chosen as a whole: what came since stays.

    Raises:
        Expired: It isn't in the trash of this account, or not any more.
        Busy: Others hold it.
        OSError: It can't be renamed or removed.
    """
    with ExitStack() as taking_part:
        if settling is None:  # else whoever gives it up does it alone
            taking_part.enter_context(giving_up(home, alone=False, patience=_OTHERS))
        staged: list[bytes] = []
        failed: OSError | None = None
        with alone(home, trash, name, patience=patience) as held:
            contents, things = held.contents(), things_in(held.fd)
            is_own = is_of(contents, account_id)
            if not (is_own or is_left) or is_a_stranger(contents, things):
                raise Expired(f"{name}: this operation isn't in the trash any more")
            if items is None and seen is not None and not things.issubset(seen):
                items = tuple(seen)
            if items is None:
                own = contents if is_own else Contents()
                staged.append(_claim(home, quota_store, account_id, trash, held, own))
            else:
                going = [one for one in dict.fromkeys(items) if one in things]
                try:
                    for at in range(0, len(going), MOST_AT_ONCE):
                        some = going[at : at + MOST_AT_ONCE]
                        staged.append(
                            _claim_items(home, quota_store, account_id, held, contents, some)
                        )
                except OSError as error:  # what was taken out by then goes all the same
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
            said = _said(contents.begin) if for_room else ()
            quota_store.forget_operation(
                account_id, name, discarded.size if for_room else None, *said
            )
        except NOT_NOW as error:  # its row is dropped after a day all the same
            logger.warning("%s: is gone, which can't be written down: %s", name, error)
    return discarded


def _said(begin: Begin | None) -> tuple[str, bytes | None]:
    """What its client has said of an operation: the words, and its own id."""
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
) -> bytes:
    """Take a whole operation out of the trash; returns its name in staging.

    Args:
        contents: What counts in the account's trash of it.
    """
    staged = home.new_name() + TRASH_SUFFIX
    counted = counted_of(held.fd, contents, contents.items)
    with quota_store.freeing(account_id) as settle, home.shared():
        rename_closed(trash, held.name.encode(), home.staging_fd, staged)
        try:
            # first, or a power cut could find it in neither, and nobody would count the home
            home.sync_dir(home.staging_fd)
            home.sync_dir(trash)
        finally:
            settle(0, 0, -counted.size, -counted.files)
    return staged


def _claim_items(
    home: StagingHome,
    quota_store: QuotaStore,
    account_id: int,
    held: Opened,
    contents: Contents,
    going: Sequence[str],
) -> bytes:
    """Take items out of an operation, into a directory in staging; returns the name of that."""
    staged = home.new_name() + TRASH_SUFFIX
    os.mkdir(staged, 0o700, dir_fd=home.staging_fd)
    fd = os.open(staged, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=home.staging_fd)
    gone: set[str] = set()
    try:
        give_to_owner(home.staging_fd, fd)
        with quota_store.freeing(account_id) as settle, home.shared():
            try:
                for name in going:
                    raw = os.fsencode(name)
                    try:
                        rename_closed(held.fd, raw, fd, raw, new=True)
                    except FileNotFoundError:
                        continue  # somebody who isn't ours has taken it just now
                    gone.add(name)
                held.append([Gone(name, "purged") for name in going if name in gone])
                for directory in (fd, home.staging_fd, held.fd):  # as above
                    home.sync_dir(directory)
            finally:
                counted = counted_of(
                    fd, contents, (one for one in contents.items if one.name in gone)
                )
                settle(0, 0, -counted.size, -counted.files)
    finally:
        os.close(fd)
    return staged


class _Discarding:
    """Removes what was claimed, holding the home's lock for a part at a time: a recount in between
    counts what is left of it."""

    def __init__(self, home: StagingHome, settling: Settling, tick: Callable[[], None]) -> None:
        self._home = home
        self._settling = settling
        self._tick = tick
        self._tally = Tally()
        self._settled = 0, 0

    def run(self, staged: bytes) -> Tally:
        """Remove a directory in staging, and what is in it; returns what became free."""
        fd = os.open(staged, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._home.staging_fd)
        try:
            self._begin()
            try:
                for name in sorted(things_in(fd)):
                    self._discard(fd, os.fsencode(name))
                    self._pause()
                try:
                    os.unlink(INDEX_NAME, dir_fd=fd)
                except FileNotFoundError:
                    pass  # single items have none
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
        """Settle what has gone since the part began, and let go of the lock."""
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
