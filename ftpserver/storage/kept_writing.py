"""Files that are written in any order, kept for the same account if they were not published.

Lives here: keeping such a file, and resuming it. Lives elsewhere: writing it (workspace/writer.py),
uploads that come from the first byte to the last (resumable.py), which are kept in a similar way.
"""

from __future__ import annotations

import os

from ftpserver.storage.commit import target_of
from ftpserver.storage.file_systems import unlink_if_there
from ftpserver.storage.home import Home
from ftpserver.storage.quota import Lease, LeaseStore
from ftpserver.storage.resumable import (
    Checkpoint,
    checkpoint_name,
    drop_kept,
    hash_range,
    is_at,
    kept_name,
    open_kept,
)
from ftpserver.storage.upload import Receiving
from ftpserver.storage.upload_locks import try_lock
from ftpwire import digests, paths
from ftpwire.errors import Busy, QuotaExceeded
from ftpwire.messages import Put


class KeptWriting:
    """The kept files of one account, in one home."""

    def __init__(self, home: Home, ledger: LeaseStore, account_id: int, *, durable: bool) -> None:
        self._home = home
        self._ledger = ledger
        self._account_id = account_id
        self._durable = durable

    def keep(self, receiving: Receiving, request: Put, size: int, digest: bytes) -> bool:
        """Keep what was written.

        The file gets its staging name before it gets its lease: after a crash in between, no lease
        owns it, and it is removed.

        Returns:
            False if it cannot be kept, as in an atomic upload, which ends with its session.
        """
        staging, home = receiving.staging, self._home
        target = home.redirected(target_of(request.path))
        if staging.staging_dir.above is not None or home.read_only or paths.STAGING in target:
            return False
        name = kept_name(self._account_id, target, None, None)
        with home.shared():
            if not drop_kept(home, self._ledger, self._account_id, name):
                return False
            if self._durable:
                os.fdatasync(staging.fd)
            try:
                self._mark(name, paths.join(*target), size, digest)
                os.rename(
                    staging.name, name, src_dir_fd=home.staging_fd, dst_dir_fd=home.staging_fd
                )
                staging.name = name  # from here on, discarding the upload removes this file
                if receiving.lease is not None:
                    self._ledger.release(receiving.lease)
                receiving.lease = self._ledger.reserve(self._account_id, size, name)
            except QuotaExceeded:
                self._unlink(checkpoint_name(name))
                return False
            except BaseException:
                self._unlink(checkpoint_name(name))
                raise
            staging.is_kept = True
        return True

    def _mark(self, name: bytes, path: bytes, size: int, digest: bytes) -> None:
        checkpoint = Checkpoint(self._home.staging_fd, checkpoint_name(name), path)
        try:
            checkpoint.write([(size, digest)])
        finally:
            checkpoint.close()

    def resume(self, request: Put, into: Receiving) -> int:
        """Take over what was kept, with its lease.

        Returns:
            Its bytes; 0 if nothing is kept.

        Raises:
            Busy: Another session is resuming it.
            OSError: It stays kept.
        """
        home = self._home
        target = home.redirected(target_of(request.path))
        name = kept_name(self._account_id, target, None, None)
        with home.shared():  # a clean-up, which removes what no lease owns, locks it alone
            try:
                fd = open_kept(home.staging_fd, name)
            except FileNotFoundError:
                return 0
            try:
                if not try_lock(fd) or not is_at(fd, home.staging_fd, name):
                    raise Busy("another session is resuming this file")
                lease = self._ledger.take_over(self._account_id, name)
            except BaseException:
                os.close(fd)
                raise
        return self._take(fd, name, lease, into)

    def _take(self, fd: int, name: bytes, lease: Lease | None, into: Receiving) -> int:
        """Rename it to the staging name of the file that continues it; own the descriptor."""
        staging = self._home.staging_fd
        try:
            size = 0 if lease is None else self._whole_up_to(fd, name)
            if size:
                os.ftruncate(fd, size)
                os.rename(name, into.staging.name, src_dir_fd=staging, dst_dir_fd=staging)
            else:
                self._unlink(name)
            self._unlink(checkpoint_name(name))
        except BaseException:
            os.close(fd)
            raise
        if lease is not None and size:
            into.take_over(lease, fd, size)
        else:
            os.close(fd)
            if lease is not None:
                self._ledger.release(lease)
        return size

    def _whole_up_to(self, fd: int, name: bytes) -> int:
        """Return how many bytes match the digest that was stored with their number."""
        checkpoint = Checkpoint(self._home.staging_fd, checkpoint_name(name))
        try:
            records = checkpoint.read(os.fstat(fd).st_size)
        finally:
            checkpoint.close()
        for size, digest in records:
            hasher = digests.new()
            hash_range(fd, 0, size, hasher)
            if hasher.digest() == digest:
                return size
        return 0

    def _unlink(self, name: bytes) -> None:
        unlink_if_there(self._home.staging_fd, name)
