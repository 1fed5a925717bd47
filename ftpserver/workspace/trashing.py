"""The verbs of a workspace that concern the trash: listing, reading, restoring, purging.

Lives here: choosing the account and the operation, and checking current permissions.
Lives elsewhere: the contents of the trash and restoring them (storage/trash/), the operation that
keeps what is removed now (keeping.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import Tally
from ftpserver.storage.listing import Part
from ftpserver.storage.permissions import Action
from ftpserver.storage.quota import EvictedOperation, LeaseStore, QuotaStore
from ftpserver.storage.trash import discarding
from ftpserver.storage.trash.directory import (
    is_gone,
    looking,
    names_in,
    open_trash,
    operations_in,
)
from ftpserver.storage.trash.entries import TrashEntry, entries_of
from ftpserver.storage.trash.glance import is_of
from ftpserver.storage.trash.listing import pages
from ftpserver.storage.trash.names import time_of
from ftpserver.storage.trash.operation import Operation
from ftpserver.storage.trash.policy import Policy
from ftpserver.storage.trash.reading import opened_item
from ftpserver.storage.trash.restoring import Restoring
from ftpserver.workspace.keeping import Keeping
from ftpserver.workspace.observer import Observer, ticker, ticker_on
from ftpserver.workspace.reading import OpenFile
from ftpwire import paths
from ftpwire.errors import Busy, CommandError, Expired
from ftpwire.messages import (
    Entry,
    Get,
    Hash,
    InTrash,
    List,
    ListTrash,
    Purge,
    Removed,
    Restore,
    Restored,
    Stat,
    TrashPage,
)
from ftpwire.units import human

_SECOND = 10**9


@dataclass(frozen=True)
class Trash:
    """The trash of one account's home, for the duration of one verb.

    Attributes:
        quota_store: The account's quota store.
        evicting_store: The leases for restoring, which purge trash before space is refused.
    """

    home: Home
    quota_store: QuotaStore
    evicting_store: LeaseStore
    account_id: int
    observer: Observer

    # reading -----------------------------------------------------------------------------

    def pages(self, policy: Policy, request: ListTrash) -> Iterator[TrashPage]:
        """See `Workspace.list_trash`."""
        with self._explaining_eviction(request.operation):
            evicted = self.quota_store.evicted(self.account_id)
            yield from pages(self.home, self.account_id, policy, request, evicted)

    def stat(self, request: Stat, where: InTrash) -> Entry:
        """Describe a file or directory in the trash."""
        with (
            self._explaining_eviction(where[0]),
            opened_item(self.home, self.account_id, where) as item,
        ):
            path = item.path_of(request.path)
            self.home.require(Action.LIST, paths.split(path))
            entry = item.entry(path, follow=False, digest=request.digest)
            return replace(entry, path=request.path)

    def listing(self, request: List, where: InTrash) -> Iterator[Part]:
        """List a directory in the trash. Links are not followed."""
        with (
            self._explaining_eviction(where[0]),
            opened_item(self.home, self.account_id, where) as item,
        ):
            path = item.path_of(request.path)
            self.home.require(Action.LIST, paths.split(path))
            yield from item.list_parts(
                path,
                recursive=request.recursive,
                follow=False,
                digest=request.digest,
                prefix=request.prefix,
            )

    def open(self, request: Get | Hash, where: InTrash) -> OpenFile:
        """Open a file in the trash."""
        with (
            self._explaining_eviction(where[0]),
            opened_item(self.home, self.account_id, where) as item,
        ):
            parts = paths.split(item.path_of(request.path))
            self.home.require(Action.READ, parts)
            fd, info = item.tree.open_file(parts)
            return OpenFile(fd, info, request.path, self.observer)

    @contextmanager
    def _explaining_eviction(self, operation: str | None) -> Iterator[None]:
        """Add the reason to the error about an operation that is gone, if it is known."""
        try:
            yield
        except Expired as error:
            if operation is None or not self._was_evicted(operation):
                raise
            evicted = self._eviction_of(operation)
            lost = human(evicted.freed) if evicted is not None and evicted.freed else "it"
            text = f"{operation}: purged to free space; {lost} cannot be brought back"
            raise error.with_text(text) from None

    def _was_evicted(self, operation: str) -> bool:
        if not self.quota_store.was_evicted(self.account_id, operation):
            return False
        return operation not in operations_in(self.home)

    def _eviction_of(self, operation: str) -> EvictedOperation | None:
        """Return the record of an operation's eviction, if there was one lately."""
        evicted = self.quota_store.evicted(self.account_id)
        return next((one for one in evicted if one.name == operation), None)

    def _report_lost(self, operation: str) -> None:
        """Report what an operation in the trash has lost: if its command needed the space of what
        it had removed itself, the operation was evicted, and made again by the rest of it."""
        evicted = self._eviction_of(operation)
        if evicted is not None and evicted.lost:
            text = "of this operation were purged to free space and cannot be brought back"
            self.observer.remark(f"{human(evicted.lost)} {text}")

    # changing ----------------------------------------------------------------------------

    def restore(self, keeping: Keeping, request: Restore) -> Restored:
        """See `Workspace.restore`."""
        said = keeping.said
        command = keeping.command(undoes=request.operation)

        def name() -> str:
            found = self.quota_store.operation(self.account_id, said.id)
            if found == request.operation:  # nothing can be restored into itself
                return self.quota_store.operation(self.account_id, None)
            return found

        into = Operation(self.home, command, name)
        into.free_space = keeping.free_space
        tick = ticker(self.observer)

        def step() -> None:
            tick()
            self.observer.look_for_cancel()

        try:
            with self._explaining_eviction(request.operation):
                restoring = Restoring(
                    self.home,
                    self.quota_store,
                    self.evicting_store,
                    self.account_id,
                    request,
                    into,
                    tick=step,
                )
                restored = restoring.run()
            self._report_lost(request.operation)
            return restored
        finally:
            into.close()
            if keeping.name == request.operation:
                keeping.begin(said)  # nothing more is added to an operation that was undone

    def purge(self, request: Purge) -> Removed:
        """See `Workspace.purge`."""
        self.home.check_writable()
        total, busy = Tally(), None
        trash = open_trash(self.home)
        if trash is None:
            if request.operation is not None:
                with self._explaining_eviction(request.operation):
                    raise is_gone(request.operation)
            return Removed(0, 0, 0)
        tick = ticker(self.observer)
        try:
            for name in self._purged(trash, request):
                tick()
                self.observer.look_for_cancel()
                try:
                    with self._explaining_eviction(name):
                        tally = self._purge(trash, name, request)
                except Expired:
                    if request.operation is not None:
                        raise
                    continue
                except Busy as error:
                    busy = error
                    continue
                total.files += tally.files
                total.directories += tally.directories
                total.size += tally.size + tally.staged
            if busy is not None:
                raise busy
        except CommandError:
            self.observer.has_removed(total.files + total.directories, total.size)
            raise
        finally:
            os.close(trash)
        return Removed(total.files, total.directories, total.size)

    def _purged(self, trash: int, request: Purge) -> list[str]:
        """Return the names of the operations to purge."""
        names = names_in(trash) if request.operation is None else [request.operation]
        if request.before is None:
            return names
        return [name for name in names if time_of(name) < request.before * _SECOND]

    def _purge(self, trash: int, name: str, request: Purge) -> Tally:
        items = self._may_go(trash, name, request)
        if items is not None and not items:
            return Tally()
        return discarding.purge(
            self.home,
            self.quota_store,
            self.account_id,
            trash,
            name,
            items,
            ticker_on(self.observer),
        )

    def _may_go(self, trash: int, name: str, request: Purge) -> list[str] | None:
        """Return the items of an operation that the account may purge; None for all of it.

        Raises:
            Forbidden: This operation was requested, and the account may purge nothing of it.
        """
        with looking(trash, name) as opened:
            contents = opened.contents()
            if not is_of(contents, self.account_id):
                if request.operation is None:
                    return []
                raise is_gone(name)
            if self.home.permissions.unlimited:
                return request.items or None
            there = [entry for entry in entries_of(opened, contents) if entry.is_there]
        wanted = [one for one in there if not request.items or one.name in request.items]
        allowed = [one.name for one in wanted if self._may_delete(one)]
        if len(allowed) < len(wanted) and not allowed and request.operation is not None:
            self.home.require(Action.DELETE, wanted[0].path, whole=True)
        if len(allowed) == len(there) and not request.items:
            return None
        return allowed

    def _may_delete(self, entry: TrashEntry) -> bool:
        home = self.home
        return home.permits(Action.LIST, entry.path) and home.permits(
            Action.DELETE, entry.path, whole=True
        )
