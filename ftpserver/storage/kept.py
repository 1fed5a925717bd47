"""Kept uploads: what an account's interrupted uploads have left in staging, seen and dropped.

Lives here: which there are, whose target each is, giving one up. Lives elsewhere: how they come to
be kept and are gone on with (resumable.py, batch.py), their room (ledger.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftpserver.clock import RUN
from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Action
from ftpserver.storage.quota import QuotaStore
from ftpserver.storage.resumable import Kept, drop_kept, kept_names, look_at, target_prefixes
from ftpwire import paths
from ftpwire.errors import BadRequest, Busy, NotFound
from ftpwire.messages import KeptDropped, KeptUpload


@dataclass
class KeptStaging:
    """Those of one account."""

    home: Home
    ledger: QuotaStore
    account_id: int

    def uploads(self) -> Iterator[KeptUpload]:
        """All that no session writes to now.

        The target is left out where it isn't known, as of an earlier version, and where the
        account may not list what is there. On a read-only disk staging isn't opened.
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
        # its name in staging is made of the target: what a damaged file says doesn't count
        mine = staging.startswith(target_prefixes(self.account_id, parts))
        return mine and self.home.permits(Action.LIST, parts)

    def drop(
        self, path: bytes | None, size: int | None = None, mtime_ns: int | None = None
    ) -> KeptDropped:
        """Drop those for a path, or all; their room is free then.

        Args:
            size: With ``mtime_ns``: only the one of a source of this size and time.

        Raises:
            BadRequest: Only one of these two is given, or they are without a path.
            NotFound: None is kept for the path.
            Busy: A session writes to the one for the path.
            Forbidden: The home can't be changed: its disk is read-only.
        """
        prefixes: tuple[bytes, ...] = (b"",)
        if (size is None) != (mtime_ns is None) or (path is None and size is not None):
            raise BadRequest("drop-kept: size and mtime_ns go together, and with upload")
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
        with self.home.shared():  # a clean-up takes what no lease owns, holding it alone
            return drop_kept(self.home, self.ledger, self.account_id, staging)
