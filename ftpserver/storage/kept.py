"""Kept uploads: listing and discarding what an account's interrupted uploads have left in staging.

Lives here: which uploads are kept, the target of each, discarding one. Lives elsewhere: keeping and
resuming uploads (resumable.py, batch.py), their quota (ledger.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftpserver.clock import RUN
from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Action
from ftpserver.storage.quota import LeaseStore
from ftpserver.storage.resumable import Kept, drop_kept, kept_names, look_at, target_prefixes
from ftpwire import paths
from ftpwire.errors import BadRequest, Busy, NotFound
from ftpwire.messages import KeptDropped, KeptUpload


@dataclass
class KeptStaging:
    """The kept uploads of one account."""

    home: Home
    ledger: LeaseStore
    account_id: int

    def uploads(self) -> Iterator[KeptUpload]:
        """Yield all uploads that no session is receiving now.

        The target is left out if it isn't known, as for uploads kept by an earlier version, and if
        the account may not list it. On a read-only disk staging cannot be opened.
        """
        for one in self.ledger.resumable(self.account_id):
            if not one.kept:
                continue
            found = (
                Kept(None, 0, 0)
                if self.home.read_only
                else look_at(self.home.staging_fd, one.staging)
            )
            target = found.target
            if target is not None and not self._may_be_shown(target, one.staging):
                target = None
            until = round(RUN.by_system(one.expires))
            yield KeptUpload(target, found.size, one.size, found.touched, until)

    def _may_be_shown(self, target: bytes, staging: bytes) -> bool:
        parts = paths.split(target)
        # The staging name is derived from the target. So a damaged one cannot claim another target.
        mine = staging.startswith(target_prefixes(self.account_id, parts))
        return mine and self.home.permits(Action.LIST, parts)

    def drop(
        self, path: bytes | None, size: int | None = None, mtime_ns: int | None = None
    ) -> KeptDropped:
        """Discard the uploads kept for a path, or all; return what became free.

        Args:
            path: The target; None for all kept uploads.
            size, mtime_ns: The source's size and time, to discard only its upload. Both or neither.

        Raises:
            BadRequest: Only one of these two is given, or they are given without a path.
            NotFound: No upload is kept for the path.
            Busy: A session is receiving the one for the path.
            Forbidden: The home cannot be changed, because its disk is read-only.
        """
        prefixes: tuple[bytes, ...] = (b"",)
        if (size is None) != (mtime_ns is None) or (path is None and size is not None):
            raise BadRequest("drop-kept: size and mtime_ns must be given together, with upload")
        if path is not None:
            parts = paths.split(path)
            prefixes = target_prefixes(self.account_id, parts)
            if size is not None and mtime_ns is not None:
                prefixes = kept_names(self.account_id, parts, size, mtime_ns)
        count = freed = busy = under_way = 0
        for one in self.ledger.resumable(self.account_id):
            if not one.staging.startswith(prefixes):
                continue
            if not one.kept:
                under_way += 1
            elif self._drop(one.staging):
                count += 1
                freed += one.size
            else:
                busy += 1
        if path is not None and not count:
            if not busy and not under_way:
                raise NotFound(f"{paths.show(path)}: no upload is kept for it")
            raise Busy(f"{paths.show(path)}: a session is uploading it")
        return KeptDropped(count, freed, busy, under_way)

    def _drop(self, staging: bytes) -> bool:
        with self.home.shared():  # a clean-up, which removes what no lease owns, locks it alone
            return drop_kept(self.home, self.ledger, self.account_id, staging)
