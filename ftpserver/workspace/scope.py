"""The scope of copying and moving: one account's home, uploads and quota."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from ftpserver.storage.atomic_tree import AtomicTree
from ftpserver.storage.batch import Uploads
from ftpserver.storage.home import Home
from ftpserver.storage.quota import Freed, LeaseStore
from ftpserver.workspace.observer import Observer


@dataclass(frozen=True)
class Scope:
    """The objects that one verb works with. For the duration of that verb."""

    home: Home
    uploads: Uploads
    lease_store: LeaseStore
    account_id: int
    observer: Observer

    def freeing(self) -> AbstractContextManager[Freed]:
        """See `LeaseStore.freeing`."""
        return self.lease_store.freeing(self.account_id)

    def tree(self, path: bytes, mode: int, *, elsewhere: bool = False) -> AtomicTree:
        """Begin a hidden tree that will appear at ``path``; see `AtomicTree`."""
        return AtomicTree(
            self.home, self.lease_store, self.account_id, path, mode=mode, elsewhere=elsewhere
        )
