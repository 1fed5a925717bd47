"""One file of a download while it is being received.

Lives here: where the received bytes go, resuming, what is kept of an incomplete file.
Lives elsewhere: which files are requested (file_download.py), partial files (partial_file.py),
the frames (calls.py), files in pieces (fetch_pieces.py) and into descriptors (node.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ftpclient.transfer.calls import Discard, GetCall, asks_for_holes, check_digest, mismatch
from ftpclient.transfer.folding import in_the_way
from ftpclient.transfer.job import RESUME_FROM, SMALL, Transfer
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile
from ftpwire import digests
from ftpwire.errors import (
    AlreadyExists,
    BadMessage,
    Cancelled,
    CommandError,
    ConnectionLost,
    FtpError,
)
from ftpwire.messages import Entry, Get, Overwrite, Sending, Sent
from ftpwire.paths import Parts, RemotePath
from ftpwire.streams import WriteBehind, write_all


class Item(NamedTuple):
    """One file or link of a download.

    Attributes:
        source: The remote path.
        shown: The local path, as shown to the user.
        tree, parts: The local directory tree, and the path below it.
    """

    source: RemotePath
    shown: bytes
    tree: LocalTree
    parts: Parts

    def taken(self, error: AlreadyExists, overwrite: Overwrite) -> AlreadyExists:
        """Return the error for a file whose name was already taken."""
        return error if overwrite == "never" else in_the_way(error, self.source, self.shown)


class Contents(Protocol):
    """A directory whose attributes are set after everything in it has arrived.

    Attributes:
        open: Number of its files that are being transferred.
    """

    open: int

    def ended(self) -> None:
        """Note that one of its files has arrived or failed."""


class FileCall(GetCall):
    """One file of a download.

    Args:
        replace: True to replace an existing file.
        ended: Called with the digest when the file is complete, or with None when it failed.

    Attributes:
        contents: The directory to notify when the file has ended, if any.
        again: True if this is the second try, because the file changed during the first.
        goes: True to remove the file from the server after it has arrived.
        failure: The local error, if any.
    """

    def __init__(
        self,
        transfer: Transfer,
        item: Item,
        replace: bool,
        ended: Callable[[FileCall, bytes | None], None],
        contents: Contents | None = None,
        *,
        again: bool = False,
        goes: bool = False,
    ) -> None:
        super().__init__()
        self.goes = goes
        self.item = item
        self.replace = replace
        self.contents = contents
        self.again = again
        self.failure: FtpError | None = None
        self._ended = ended
        self._transfer = transfer
        self._partial: PartialFile | None = None
        self._writer: WriteBehind | None = None
        self._hasher = digests.new()
        self._offset = 0
        self._passed_over = False
        """True if a hole arrived after the call was cancelled: nothing more is written."""

    def request(self, entry: Entry) -> Get:
        """Return the request: of a large file, only for what an earlier try did not receive."""
        item = self.item
        in_trash = self._transfer.options.in_trash
        holes = self._asks_for_holes(entry)
        if entry.size > RESUME_FROM and self._transfer.options.resume:
            if PartialFile.has_part(item.tree, item.parts):
                self._open(resume=True)
            if self._partial is not None and 0 < self._partial.offset <= entry.size:
                self._offset = self.requested_offset = self._partial.offset
                try:
                    self._transfer.hash_into(self._hasher, self._partial.fd, self._offset)
                except BaseException:
                    self.not_sent()
                    raise
                prefix = self._hasher.digest()
                return Get(item.source, self._offset, prefix, holes=holes, in_trash=in_trash)
        return Get(item.source, holes=holes, in_trash=in_trash)

    def _asks_for_holes(self, entry: Entry) -> bool:
        return asks_for_holes(self._transfer.connection, entry.size)

    def not_sent(self) -> None:
        """Leave the partial file of an earlier try as it was, if the request was not sent."""
        if not self.request_id and self._partial is not None:
            self._partial.leave()
            self._partial = None

    def begin(self, info: Sending) -> None:
        if info.size <= SMALL and not info.offset:
            return
        self._transfer.started(self.item.source, info.size)
        if self._partial is None:
            self._open()
        assert self._partial is not None
        if info.offset != self._offset:
            self._offset, self._hasher = 0, digests.new()
        self._partial.start_at(self._offset)
        self._transfer.advanced(self._offset)
        self._writer = WriteBehind(self._partial.fd, hasher=self._hasher)
        self.sink = _CountingSink(self._writer, self._transfer, self.fail)

    def on_hole(self, size: int) -> None:
        self.on_frame(size)
        if self.failure is not None or self._passed_over:
            return
        if self.is_cancelled:  # more holes may follow, and then the file's end
            self._passed_over = True
            self.sink = Discard()
            return
        if not isinstance(self.sink, _CountingSink):
            raise BadMessage("the server sent a hole that was not requested")
        assert self._partial is not None
        if not self._partial.is_gapless:
            self._partial.mark_gapless()
        self.sink.hole(size)

    def _open(self, *, resume: bool = False) -> None:
        tree, parts = self.item.tree, self.item.parts
        self._partial = PartialFile(tree, parts, replace=self.replace, resume=resume)

    def fail(self, error: OSError | CommandError) -> None:
        if isinstance(error, OSError):
            error = self.item.tree.failure(error, self.item.shown)
        if self.failure is None:
            self.failure = error
            if self.request_id and not self.done:
                self._transfer.connection.send_cancel(self)  # the rest is not needed
        self.sink = Discard()

    def on_done(self) -> None:
        digest = None
        if self._passed_over and self.error is None:
            self.error = Cancelled("cancelled")  # too late: the server had already sent everything
        try:
            if self.error is None and self.failure is None:
                digest = self._complete()
        except AlreadyExists as error:
            self.fail(self.item.taken(error, self._transfer.options.overwrite))
        except (OSError, CommandError) as error:
            self.fail(error)
        finally:
            self._give_up_rest()
        self._ended(self, digest)

    def _complete(self) -> bytes:
        assert self.info is not None and isinstance(self.ending, Sent)
        if self._writer is None:
            digest = digests.digest(self._small)
            self._verify(len(self._small), digest)
            if self._partial is None:
                self._open()
            assert self._partial is not None
            self._partial.start_at(0)
            write_all(self._partial.fd, self._small)
            self._transfer.advanced(len(self._small))
        else:
            digest = self._writer.finish()
            self._verify(self._offset + self._writer.size, digest)
        assert self._partial is not None
        self._partial.place(self.info.mode, self.info.mtime_ns)
        return digest

    def _verify(self, size: int, digest: bytes) -> None:
        assert self.info is not None and isinstance(self.ending, Sent)
        source, connection = self.item.source, self._transfer.connection
        if size != self.info.size:
            raise mismatch(source, encrypted=connection.encrypted)
        check_digest(source, self.ending.digest, digest, connection)

    def _give_up_rest(self) -> None:
        """Remove the partial file, unless an interrupted download can resume from it."""
        if self._partial is None:
            return
        interrupted = isinstance(self.error, (ConnectionLost, Cancelled))
        kept = False
        if self._writer is not None:
            with self._writer:
                if interrupted and self.failure is None:
                    kept = self._offset + self._writer.size >= RESUME_FROM and self._flushed()
        elif interrupted:
            kept = self._partial.offset >= RESUME_FROM
        if interrupted and self.info is not None:
            came = self.received if self._writer is None else self._writer.size
            self._transfer.reached(self.item.shown, self.info.offset + came)
        if kept:
            self._partial.leave()
        else:
            self._partial.drop()

    def _flushed(self) -> bool:
        assert self._writer is not None
        try:
            self._writer.finish()
        except OSError:
            return False
        return True


class _CountingSink:
    """A sink that reports progress, and ignores further bytes once the disk has failed."""

    def __init__(
        self, sink: WriteBehind, transfer: Transfer, failed: Callable[[OSError], None]
    ) -> None:
        self._sink: WriteBehind | Discard = sink
        self._transfer = transfer
        self._failed = failed

    def buffer(self) -> memoryview:
        try:
            return self._sink.buffer()
        except OSError as error:
            self._give_up(error)
            return self._sink.buffer()

    def _give_up(self, error: OSError) -> None:
        self._failed(error)
        self._sink = Discard()

    def filled(self, count: int) -> None:
        self._sink.filled(count)
        self._transfer.advanced(count)

    def write(self, data: memoryview) -> None:
        try:
            self._sink.write(data)
        except OSError as error:
            self._give_up(error)
        self._transfer.advanced(len(data))

    def hole(self, count: int) -> None:
        """Add this many zeros, as a hole where possible."""
        try:
            self._sink.hole(count)
        except OSError as error:
            self._give_up(error)
        self._transfer.advanced(count)
