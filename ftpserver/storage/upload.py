"""One small or streamed upload as it comes in, until its batch takes it.

Lives here: reserving, writing, its end. Lives elsewhere: the batch that it joins (batch.py).
"""

from __future__ import annotations

from collections.abc import Callable

from ftpserver.storage.piece_table import Collector
from ftpserver.storage.quota import Lease, QuotaStore
from ftpserver.storage.resumable import ResumableStaging
from ftpserver.storage.staging import Staging
from ftpwire.errors import VerificationFailed
from ftpwire.messages import Put, Sent


class Receiving:
    """One upload that comes in pieces: what the handler of a Put works with.

    Attributes:
        staging: Where the bytes go: ``staging.sink``.
        overwrite: What it may replace.
    """

    def __init__(
        self,
        staging: Staging,
        request: Put,
        lease: Lease | None,
        ledger: QuotaStore,
    ) -> None:
        self.staging = staging
        self.lease = lease
        self.overwrite = request.overwrite
        self.keep_replaced = True
        """Keep what it replaces, if the trash is used."""
        self.verified = False
        self._collector: Collector | None = None
        self._came = 0
        self._request = request
        self._reserved = request.size or 0
        self._ledger = ledger

    def resume(self, progress: Callable[[int], None]) -> tuple[int, bytes | None]:
        """How many bytes are there from an earlier try, verified, and their digest."""
        if isinstance(self.staging, ResumableStaging) and self._request.resume:
            digest = self.staging.resume(progress)
            return self.staging.offset, digest
        return 0, None

    def take_pieces(self) -> bytes | None:
        """Have the bytes come in pieces from the account's other sessions, if it was asked for
        and can be; returns the key that they need."""
        staging = self.staging
        if not isinstance(staging, ResumableStaging) or staging.key is None:
            return None
        self._collector = staging.take_pieces(self._reserved)
        return staging.key

    def came(self) -> bool:
        """Whether bytes came in pieces since this was called last."""
        if self._collector is None:
            return False
        before, self._came = self._came, self._collector.received
        return self._came != before

    def look(self) -> None:
        """Find out whether another session has taken it over meanwhile. Raises TakenOver."""
        if isinstance(self.staging, ResumableStaging):
            self.staging.look()

    def expect(self, more: int) -> None:
        """Say that ``more`` bytes come next.

        Raises:
            VerificationFailed: More than was announced, or they were to come in pieces.
            QuotaExceeded: Its size is not known, and there is no more room.
        """
        if more and self._collector is not None:
            raise VerificationFailed("bytes came beside those that come in pieces")
        total = self.staging.total + more
        if total <= self._reserved:
            return
        if self._request.size is not None:
            raise VerificationFailed(
                f"more bytes came than the {self._request.size} that were announced"
            )
        assert self.lease is not None
        before = self.lease.size
        self._ledger.extend(self.lease, total - self._reserved)
        self._reserved += self.lease.size - before

    def copy(self, source: int, size: int, digest: bytes, tick: Callable[[int], None]) -> bool:
        """Take all bytes from another file, with its digest; False where that can't be done."""
        self.verified = self.staging.copy(source, size, digest, tick)
        return self.verified

    def grow(self, size: int) -> None:
        """Say that the file, which is written in any order, is going to have so many bytes.

        Raises:
            QuotaExceeded: There is no room.
        """
        if size > self.staging.offset:
            self.expect(size - self.staging.offset)
            self.staging.offset = size

    def take_over(self, lease: Lease, fd: int, size: int) -> None:
        """Go on with what an earlier session has written, and with its room.

        Args:
            fd: What was written, under the name of this one's own staging file by now.
        """
        held, self.lease = self.lease, lease
        self._reserved = lease.size
        self.staging.take_over(fd, size)
        if held is not None:
            self._ledger.release(held)

    def seal(self, size: int, digest: bytes) -> None:
        """All of it was written, in any order. Raises OSError."""
        self.staging.seal(size, digest)
        self.verified = True

    def finish(self, sent: Sent, progress: Callable[[int], None] | None = None) -> None:
        """All bytes came: verify them. Raises VerificationFailed, OSError."""
        self.staging.finish(sent, progress)
        self.verified = True
