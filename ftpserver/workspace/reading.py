"""A file that is open for reading: its bytes, its stored digest, and whether it has changed.

Lives here: reading, and distinguishing a file that only grew from one that changed. Lives
elsewhere: sending it (serving/commands/transfers.py), the digest attribute
(storage/digest_xattr.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ftpserver.storage.digest_xattr import fresh_digest, keep_digest
from ftpserver.workspace.observer import Observer
from ftpwire import digests, growing, holes, paths
from ftpwire.errors import SourceChanged, StoredFileDamaged
from ftpwire.messages import Hashed
from ftpwire.streams import ReadAhead


class OpenFile:
    """A file of a home, with its state when it was opened. A context manager, which closes it.

    Args:
        path: The requested path, for messages.

    Attributes:
        fd: Its descriptor, for reading.
        info: Its state when it was opened.
        size: Its size in bytes at that time.
    """

    __slots__ = ("_done", "_observer", "_report", "fd", "info", "path", "size")

    def __init__(self, fd: int, info: os.stat_result, path: bytes, observer: Observer) -> None:
        self.fd = fd
        self.info = info
        self.size = info.st_size
        self.path = path
        self._observer = observer
        self._report: Callable[[int], None] | None = None
        """Reports how many bytes were read for a digest; made when the first of them are."""
        self._done = 0

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.fd)

    @property
    def may_have_holes(self) -> bool:
        """True if the file may have holes."""
        return holes.may_have(self.info)

    def kept_digest(self) -> bytes | None:
        """Return the stored digest, unless the file has changed since it was stored."""
        return fresh_digest(self.fd, self.info)

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes from an offset; fewer than ``count`` at the end. Raises OSError."""
        return os.pread(self.fd, count, offset)

    def is_as_before(self) -> bool:
        """Return whether it has the same size and time as when it was opened."""
        return growing.is_as_before(self.fd, self.info)

    def is_larger(self) -> bool:
        """Return whether it has more bytes than when it was opened."""
        return os.fstat(self.fd).st_size > self.size

    def changed(self) -> SourceChanged:
        """Return the error for a file that has changed."""
        return SourceChanged(f"{paths.show(self.path)}: changed while it was read")

    def has_grown(self, digest: bytes | None) -> bool:
        """Return True if it only grew while it was read, False if it is unchanged. See
        `growing.has_grown`.

        Args:
            digest: The digest of the bytes that it had when it was opened.

        Raises:
            SourceChanged: It changed in any other way.
        """
        self._report = None
        try:
            return growing.has_grown(self.fd, self.info, digest, self._tick)
        except SourceChanged as error:
            raise SourceChanged(f"{paths.show(self.path)}: {error}") from None

    def confirmed(self, digest: bytes | None, kept: bytes | None) -> bytes | None:
        """Return the digest to report, after comparing that of the bytes with the stored one.

        Args:
            digest: The digest of the bytes that were read; None if they were not hashed.
            kept: The stored digest, if there is one.

        Raises:
            StoredFileDamaged: They differ: the disk has damaged the file.
        """
        if digest is None:
            return kept
        if kept not in (None, digest):
            raise StoredFileDamaged(
                f"{paths.show(self.path)}: damaged on the server's disk: "
                "its bytes no longer have the digest they were stored with"
            )
        return digest

    def start(self, offset: int, prefix: bytes | None) -> tuple[int, digests.new | None]:
        """Find the offset at which to resume for a client that has the bytes before ``offset``.

        The offset is 0 if the file doesn't begin with these bytes.

        Args:
            prefix: The digest of these bytes; None if the client compares it later.

        Returns:
            The offset, and the hasher of the bytes before it; None if they were not hashed.
        """
        offset = min(offset, self.size)
        if not offset or prefix is None:
            return offset, None if offset else digests.new()
        hasher = digests.new()
        self._read_all(ReadAhead(self.fd, offset, hasher=hasher, sparse=self.may_have_holes))
        return (offset, hasher) if hasher.digest() == prefix else (0, digests.new())

    def hash(self) -> Hashed:
        """Return the digest: the stored one if it is current, else a new one, which is stored.

        Raises:
            SourceChanged: It changed while it was read, and not only by growing.
        """
        stored = self.kept_digest()
        if stored is None:
            source = ReadAhead(self.fd, self.size, sparse=self.may_have_holes)
            self._read_all(source)
            stored = source.digest()
            if not self.has_grown(stored):
                keep_digest(self.fd, stored, self.size, self.info.st_mtime_ns)
        return Hashed(stored, self.size)

    def _read_all(self, source: ReadAhead) -> None:
        self._report = None
        with source as pieces:
            for piece in pieces:
                self._tick(len(piece))

    def _tick(self, count: int) -> None:
        """Report that ``count`` more bytes were read for a digest."""
        if self._report is None:
            self._report, self._done = self._observer.progress_reporter(self.size), 0
        self._done += count
        self._observer.progressed(count)
        self._report(self._done)
