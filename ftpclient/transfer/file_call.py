"""One file of a download on its way to its place.

Lives here: where the bytes go that come, resuming, what stays of a file that didn't come whole.
Lives elsewhere: which files are asked for (file_download.py), partial files (partial_file.py), the
frames (calls.py), files in pieces (fetch_pieces.py) and into descriptors (node.py).
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
    """One thing of a download.

    Attributes:
        source: Its path on the server.
        shown: Its path here, as people know it.
        tree, parts: Where that is.
    """

    source: RemotePath
    shown: bytes
    tree: LocalTree
    parts: Parts

    def taken(self, error: AlreadyExists, overwrite: Overwrite) -> AlreadyExists:
        """Why a file could not get its name."""
        return error if overwrite == "never" else in_the_way(error, self.source, self.shown)


class Contents(Protocol):
    """What is in a directory, which is finished after all of it.

    Attributes:
        open: How many things of it are on their way.
    """

    open: int

    def ended(self) -> None:
        """One that was on its way is there, or failed."""


class FileCall(GetCall):
    """One file of a download.

    Args:
        replace: Whether a file that is at its place is replaced.
        ended: Called when all of it is there, with its digest, or when it has failed.

    Attributes:
        contents: What it is one of, if that matters.
        again: It is asked for once more, because it changed meanwhile.
        goes: It is removed from the server once it is here.
        failure: What failed here.
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
        """A hole came after it was cancelled: from there on nothing is written."""

    def request(self, entry: Entry) -> Get:
        """What to ask for: of a large file, only what an earlier try has not brought."""
        item = self.item
        in_trash = self._transfer.options.in_trash
        holes = self._asks_for_holes(entry)
        if entry.size > RESUME_FROM and self._transfer.options.resume:
            if PartialFile.has_part(item.tree, item.parts):
                self._open(resume=True)
            if self._partial is not None and 0 < self._partial.offset <= entry.size:
                self._offset = self.asked_offset = self._partial.offset
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
        """If it never came to be asked for: what an earlier try has left stays as it was."""
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
        if self.is_cancelled:  # many may be on their way, and its end behind them
            self._passed_over = True
            self.sink = Discard()
            return
        if not isinstance(self.sink, _CountingSink):
            raise BadMessage("the server sent a hole that nobody asked for")
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
                self._transfer.connection.send_cancel(self)  # the rest need not come
        self.sink = Discard()

    def on_done(self) -> None:
        digest = None
        if self._passed_over and self.error is None:
            self.error = Cancelled("cancelled")  # too late for the server, which has sent all of it
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
        """Leave nothing behind, except what an interrupted download can go on with."""
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
    """A sink that tells of its progress, and leads to nowhere once the disk fails."""

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
        """So many zeros come next."""
        try:
            self._sink.hole(count)
        except OSError as error:
            self._give_up(error)
        self._transfer.advanced(count)
