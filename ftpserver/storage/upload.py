"""One small or streamed upload while it is received, until it joins a batch.

Lives here: reserving quota, writing, finishing. Lives elsewhere: the batch (batch.py).
"""

from __future__ import annotations

from collections.abc import Callable

from ftpserver.storage.piece_table import Collector
from ftpserver.storage.quota import Lease, LeaseStore
from ftpserver.storage.resumable import ResumableStaging
from ftpserver.storage.staging import Staging
from ftpwire.errors import VerificationFailed
from ftpwire.messages import Put, Sent


class Receiving:
    """One upload that is received over time, as the handler of a `Put` uses it.

    Attributes:
        staging: The file for its bytes, which are written to ``staging.sink``.
        lease: Its own lease; None if it takes quota of the batch's lease.
        overwrite: What it may replace.
        keep_replaced: True to keep what it replaces, if the trash is used.
        verified: True once all bytes were received and verified.
    """

    def __init__(
        self,
        staging: Staging,
        request: Put,
        lease: Lease | None,
        ledger: LeaseStore,
    ) -> None:
        self.staging = staging
        self.lease = lease
        self.overwrite = request.overwrite
        self.keep_replaced = True
        self.verified = False
        self._collector: Collector | None = None
        self._came = 0
        self._request = request
        self._reserved = request.size or 0
        self._ledger = ledger

    def resume(self, progress: Callable[[int], None]) -> tuple[int, bytes | None]:
        """Return how many verified bytes an earlier attempt has left, and their digest."""
        if isinstance(self.staging, ResumableStaging) and self._request.resume:
            digest = self.staging.resume(progress)
            return self.staging.offset, digest
        return 0, None

    def take_pieces(self) -> bytes | None:
        """Receive the bytes in pieces from the account's other sessions, if requested and possible.

        Returns:
            The key that the other sessions need; None if no pieces are taken.
        """
        staging = self.staging
        if not isinstance(staging, ResumableStaging) or staging.key is None:
            return None
        self._collector = staging.take_pieces(self._reserved)
        return staging.key

    def came(self) -> bool:
        """Return whether pieces have brought bytes since the last call."""
        if self._collector is None:
            return False
        before, self._came = self._came, self._collector.received
        return self._came != before

    def look(self) -> None:
        """Raise TakenOver if another session has taken the upload over."""
        if isinstance(self.staging, ResumableStaging):
            self.staging.look()

    def expect(self, more: int) -> None:
        """Announce that ``more`` bytes come next.

        Raises:
            VerificationFailed: They exceed the announced size, or should come in pieces.
            QuotaExceeded: The size was not announced, and too little is free.
        """
        if more and self._collector is not None:
            raise VerificationFailed("bytes were received outside of the pieces")
        total = self.staging.total + more
        if total <= self._reserved:
            return
        if self._request.size is not None:
            raise VerificationFailed(
                f"more bytes were received than the {self._request.size} announced"
            )
        assert self.lease is not None
        before = self.lease.size
        self._ledger.extend(self.lease, total - self._reserved)
        self._reserved += self.lease.size - before

    def copy(self, source: int, size: int, digest: bytes, tick: Callable[[int], None]) -> bool:
        """Copy another file with its digest inside the kernel. False: that cannot be done."""
        self.verified = self.staging.copy(source, size, digest, tick)
        return self.verified

    def grow(self, size: int) -> None:
        """Reserve quota for a file written in any order, which is about to have this size.

        Raises:
            QuotaExceeded: Too little is free.
        """
        if size > self.staging.offset:
            self.expect(size - self.staging.offset)
            self.staging.offset = size

    def take_over(self, lease: Lease, fd: int, size: int) -> None:
        """Continue what an earlier session has written, with its lease.

        Args:
            fd: The descriptor of its file, already renamed to this upload's staging name.
        """
        held, self.lease = self.lease, lease
        self._reserved = lease.size
        self.staging.take_over(fd, size)
        if held is not None:
            self._ledger.release(held)

    def seal(self, size: int, digest: bytes) -> None:
        """Finish a file that was written in any order. Raises OSError."""
        self.staging.seal(size, digest)
        self.verified = True

    def finish(self, sent: Sent, progress: Callable[[int], None] | None = None) -> None:
        """Verify the file, once all bytes were received. Raises VerificationFailed, OSError."""
        self.staging.finish(sent, progress)
        self.verified = True
