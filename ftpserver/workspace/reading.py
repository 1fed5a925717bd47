"""A file that is open to be read: its bytes, its kept digest, and whether it is still the same.

Lives here: reading, and telling a file that only grew from one that changed. Lives elsewhere:
sending it (serving/commands/transfers.py), the digest attribute (storage/digest_xattr.py).
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
    """A file of a home, as it was when it was opened. A context manager, which closes it.

    Args:
        path: As it was asked for; for messages.

    Attributes:
        fd: Its descriptor, to read from.
        info: Its state when it was opened.
        size: Its bytes at that time.
    """

    __slots__ = ("_done", "_observer", "_tell", "fd", "info", "path", "size")

    def __init__(self, fd: int, info: os.stat_result, path: bytes, observer: Observer) -> None:
        self.fd = fd
        self.info = info
        self.size = info.st_size
        self.path = path
        self._observer = observer
        self._tell: Callable[[int], None] | None = None
        """Tells how many bytes were read again for a digest; made with the first of them."""
        self._done = 0

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.fd)

    @property
    def may_have_holes(self) -> bool:
        """Whether it is worth looking for them."""
        return holes.may_have(self.info)

    def kept_digest(self) -> bytes | None:
        """The digest that is kept beside it, while it still claims to be that of the file."""
        return fresh_digest(self.fd, self.info)

    def read(self, offset: int, count: int) -> bytes:
        """Bytes from an offset: fewer at the end of the file. Raises OSError."""
        return os.pread(self.fd, count, offset)

    def is_as_before(self) -> bool:
        """Whether it has the size and the time that it had when it was opened."""
        return growing.is_as_before(self.fd, self.info)

    def is_larger(self) -> bool:
        """Whether it has more bytes than it had."""
        return os.fstat(self.fd).st_size > self.size

    def changed(self) -> SourceChanged:
        """The error to raise when it isn't as it was."""
        return SourceChanged(f"{paths.show(self.path)}: changed while it was read")

    def has_grown(self, digest: bytes | None) -> bool:
        """Whether it only grew while it was read; False: it is as before. See `growing.has_grown`.

        Args:
            digest: Of the bytes that it had when it was opened.

        Raises:
            SourceChanged: It changed in any other way.
        """
        self._tell = None
        try:
            return growing.has_grown(self.fd, self.info, digest, self._tick)
        except SourceChanged as error:
            raise SourceChanged(f"{paths.show(self.path)}: {error}") from None

    def confirmed(self, digest: bytes | None, kept: bytes | None) -> bytes | None:
        """The digest to tell: what was read has to have the kept one.

        Args:
            digest: Of what was read; None: it was not hashed.

        Raises:
            StoredFileDamaged: The disk has lost bytes.
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
        """Where to go on for somebody who has the bytes before ``offset``, and what hashed these.

        They count only if the file still begins with them.

        Args:
            prefix: Their digest; None: it is compared later, by whoever has them.

        Returns:
            The offset; and the hasher, None where nothing was hashed.
        """
        offset = min(offset, self.size)
        if not offset or prefix is None:
            return offset, None if offset else digests.new()
        hasher = digests.new()
        self._read_all(ReadAhead(self.fd, offset, hasher=hasher, sparse=self.may_have_holes))
        return (offset, hasher) if hasher.digest() == prefix else (0, digests.new())

    def hash(self) -> Hashed:
        """Its digest: the kept one while it is true, else computed, and kept.

        Raises:
            SourceChanged: It changed while it was read, in another way than by growing.
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
        self._tell = None
        with source as pieces:
            for piece in pieces:
                self._tick(len(piece))

    def _tick(self, count: int) -> None:
        """So many bytes more were read for a digest."""
        if self._tell is None:
            self._tell, self._done = self._observer.tell_progress(self.size), 0
        self._done += count
        self._observer.progressed(count)
        self._tell(self._done)
