"""A remote file for reading: seekable, and read ahead.

Lives here: the position, how much to fetch at once, detecting that the file has changed.
Lives elsewhere: fetching (transfer/ranges.py), writing (writer.py), opening (client.py).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable

from ftpclient.errors import FtpError, public
from ftpclient.transfer.ranges import Piece
from ftpwire import digests, paths
from ftpwire.errors import SourceChanged, VerificationFailed
from ftpwire.paths import RemotePath

FIRST = 64 * 1024
"""Bytes to fetch first at a new position."""
MOST = 4 * 1024 * 1024
"""Most bytes to fetch at once from a file that is read from its start to its end."""
BUFFER = 64 * 1024
"""Size of the buffer for small reads, in bytes."""

Fetch = Callable[[int, int], Piece]
"""Fetches bytes: an offset and a number of bytes to a piece."""


class RawReader(io.RawIOBase):
    """A remote file, to be wrapped in an `io.BufferedReader`.

    While the file is read sequentially, the number of bytes that are fetched at once doubles, up to
    `MOST`, which is also the memory that this takes. Nothing is sent to the server between two
    reads. All bytes are those of the file as it was when it was opened; a file that is read from
    its start to its end is verified.

    Args:
        fetch: Function that fetches each part. It is called for the first one at once.
        path: The path, for errors.
        name: The name that it was opened by.
        ask_digest: Function that asks the server for the digest, if it sent none with the bytes. It
            returns None if none is needed.
        check: Function that compares the server's digest with that of the bytes. Raises
            VerificationFailed.

    Raises:
        NotFound, IsADirectory, Forbidden, ConnectionLost: Here, and while reading.
        SourceChanged: While reading: the file on the server has changed.
        VerificationFailed: At the end of reading: the bytes do not match the digest.
    """

    def __init__(
        self,
        fetch: Fetch,
        path: RemotePath,
        name: str | bytes,
        *,
        ask_digest: Callable[[], bytes | None],
        check: Callable[[RemotePath, bytes | None, bytes], None],
    ) -> None:
        self.name = name
        self.mode = "rb"
        self._fetch = fetch
        self._path = path
        self._ask_digest = ask_digest
        self._check = check
        self._position = 0
        self._window = FIRST
        self._hasher = digests.new()
        self._hashed = 0
        self._damaged: FtpError | None = None
        first = fetch(0, FIRST)
        self._info = first.info
        self._keep(first, 0)

    @property
    def size(self) -> int:
        """The file's size in bytes when it was opened."""
        return self._info.size

    @property
    def mtime_ns(self) -> int:
        """The time of its last change, in nanoseconds since 1970."""
        return self._info.mtime_ns

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, which may be beyond the end. Sends nothing to the server."""
        self._check_open()
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self.size
        elif whence != os.SEEK_SET:
            raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        if offset < 0:
            raise ValueError(f"a negative position: {offset}")
        self._position = offset
        return offset

    def tell(self) -> int:
        self._check_open()
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._check_open()
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if not view or self._position >= self.size:
                return 0
            if self._damaged is not None:
                raise self._damaged
            at = self._position - self._start
            if not 0 <= at < len(self._data):
                self._load(len(view))
                at = 0
            count = min(len(view), len(self._data) - at)
            with memoryview(self._data) as data:
                view[:count] = data[at : at + count]
        self._position += count
        return count

    def readall(self) -> bytes:
        """Return the rest of the file."""
        self._check_open()
        found = bytearray(max(0, self.size - self._position))
        done = 0
        with memoryview(found) as view:
            while done < len(view):
                done += self.readinto(view[done:])
        return bytes(found)

    def close(self) -> None:
        if not self.closed:
            self._data = bytearray()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")

    def _load(self, wanted: int) -> None:
        """Fetch the part that begins at the current position."""
        goes_on = self._position == self._start + len(self._data)
        self._window = min(MOST, self._window * 2) if goes_on else FIRST
        self._data = bytearray()  # so that there are never two buffers at the same time
        length = min(max(self._window, wanted), MOST, self.size - self._position)
        piece = self._fetch(self._position, length)
        now, before = piece.info, self._info
        if (now.size, now.mtime_ns) != (before.size, before.mtime_ns):
            raise self._changed("changed since it was opened")
        if len(piece.data) != length:
            raise self._changed("became shorter while it was read")
        self._keep(piece, self._position)

    def _changed(self, text: str) -> FtpError:
        return public(SourceChanged(f"{paths.show(self._path)}: {text}"), self._path)

    def _keep(self, piece: Piece, start: int) -> None:
        self._data, self._start = piece.data, start
        if start <= self._hashed < start + len(piece.data):
            with memoryview(piece.data) as view:
                self._hasher.update(view[self._hashed - start :])
            self._hashed = start + len(piece.data)
            if self._hashed == self.size:
                self._verify(piece.digest)

    def _verify(self, kept: bytes | None) -> None:
        """Compare the digests, after the whole file was read sequentially."""
        digest = self._hasher.digest()
        try:
            self._check(self._path, self._ask_digest() if kept is None else kept, digest)
        except VerificationFailed as error:
            now = self._fetch(0, 1).info if kept is None else self._info
            if (now.size, now.mtime_ns) != (self._info.size, self._info.mtime_ns):
                raise self._changed("changed since it was opened") from None
            self._damaged = public(error, self._path)
            raise self._damaged from None


class Reader(io.BufferedReader):
    """A remote file for reading, like a local one that was opened with ``"rb"``.

    Attributes:
        size: The file's size in bytes when it was opened.
    """

    raw: RawReader

    def __init__(self, raw: RawReader) -> None:
        super().__init__(raw, BUFFER)

    @property
    def size(self) -> int:
        return self.raw.size
