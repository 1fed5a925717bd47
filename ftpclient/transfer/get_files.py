"""Downloads of many small files in one request.

Lives here: collecting files for a `GetFiles`, when it is sent, the frames of its reply, and giving
the files their final names.
Lives elsewhere: which files those are (file_download.py), files that are sent by themselves
(file_call.py), how many bytes to request at once (run_size.py), writing (whole_file.py,
partial_file.py).

The server sends no names: the files are identified by the order of the request. A file that the
server leaves out is requested again by itself, so that all its errors are handled in one module.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.transfer.calls import mismatch
from ftpclient.transfer.file_call import Contents, Item
from ftpclient.transfer.job import Transfer
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile, place_whole
from ftpclient.transfer.report import Result
from ftpclient.transfer.run_size import MOST_EACH, RunBudget, RunSize
from ftpclient.transfer.whole_file import WholeFiles
from ftpwire import digests
from ftpwire.errors import (
    AlreadyExists,
    BadMessage,
    Cancelled,
    CommandError,
    ConnectionLost,
)
from ftpwire.messages import (
    MANY_FILES,
    GetFiles,
    SendingFiles,
    Sent,
    SentFile,
    WantedFile,
    WantedFiles,
)
from ftpwire.paths import Parts

_MOST_REQUESTS = 64
_MOST_FILES = 4096
"""Maximum number of unanswered requests, and of files in them: enough for a long round trip, few
enough to limit memory in a tree of millions of files."""
_OVERHEAD = 16
"""Maximum size of a file or directory in a request in bytes, without its name or path."""


class Wanted(msgspec.Struct):
    """A file to be received.

    Attributes:
        size: Its size in the listing. If it has changed since, the file is requested by itself.
        replace: True to replace an existing file.
        contents: The directory to notify when the file has ended, if any.
        goes: True to remove the file from the server after it has arrived.
        new: True if its directory was made by this transfer, so that nothing is there yet.
    """

    item: Item
    size: int
    replace: bool
    contents: Contents | None
    goes: bool
    new: bool


class GetFilesCall(Call):
    """Many files being received, into memory.

    Attributes:
        files: The requested files.
        announced: The server's answers for the first of them; None: it is not sent in this run.
        data: The received bytes.
    """

    streams = True

    def __init__(
        self, files: list[Wanted], sent_at: float, ended: Callable[[GetFilesCall], None]
    ) -> None:
        super().__init__()
        self.files = files
        self.sent_at = sent_at
        self.announced: list[SentFile | None] = []
        self.data = bytearray()
        self._left = 0
        """Announced bytes that have not arrived yet."""
        self._ended = ended

    def on_reply(self, reply: SendingFiles) -> bool:
        count = len(self.announced)
        self.announced += reply.files
        if len(self.announced) > len(self.files):
            raise BadMessage("the server announced more files than were requested")
        for sent, wanted in zip(reply.files, self.files[count:], strict=False):
            if sent is not None:
                self._left += wanted.size
        return False

    def on_frame(self, size: int) -> None:
        if len(self.announced) < len(self.files):
            raise BadMessage("the server sent bytes of files before it had announced all of them")
        self._left -= size
        if self._left < 0:
            raise BadMessage("the server sent more bytes than it had announced")

    def on_data(self, data: memoryview) -> None:
        self.data += data

    def on_ending(self) -> None:
        assert isinstance(self.ending, Sent)
        if (
            len(self.announced) < len(self.files)
            or self._left
            or self.ending.size != len(self.data)
        ):
            raise BadMessage("the server ended files that it had not sent")

    def on_done(self) -> None:
        self._ended(self)


class GetFilesRuns:
    """Collects small files for one connection, requests them and writes them.

    Args:
        get_one: Requests a file by itself. Called where requests may be sent.
        fail: Called for a file that failed: the local disk did, or the digest doesn't match.
        arrived: Called for a file that has arrived and is to be removed from the server.

    Attributes:
        singly: Files that did not arrive, and are to be requested by themselves. Not from here,
            because they are added while replies are being processed.
    """

    def __init__(
        self,
        transfer: Transfer,
        connection: Connection,
        get_one: Callable[[Wanted], None],
        fail: Callable[[Wanted, OSError | CommandError], None],
        arrived: Callable[[Wanted, SentFile], None],
    ) -> None:
        self._transfer = transfer
        self._connection = connection
        self._get_one = get_one
        self._fail = fail
        self._arrived = arrived
        self.singly: list[Wanted] = []
        self._is_known = (
            MANY_FILES in connection.server.features and transfer.options.in_trash is None
        )
        self._size = RunSize(connection.channel.pace)
        self._budget = RunBudget(self._size, _OVERHEAD)
        self._whole = WholeFiles()
        self._under_way = 0
        """Number of requested files."""
        self._files: list[Wanted] = []
        self._directories: list[WantedFiles] = []
        self._directory: bytes | None = None
        """The directory of the last file."""
        self._in_directory: list[WantedFile] = []

    def takes(self, size: int) -> bool:
        """Return whether a file of this size is requested together with others."""
        return self._is_known and size <= MOST_EACH

    def add(self, wanted: Wanted) -> None:
        """Collect a file. It is requested soon, together with others."""
        source, size = wanted.item.source, wanted.size
        directory, _, name = source.rpartition(b"/")
        if not self._budget.fits(2, len(source), size):  # it may need its directory, too
            self.send()
        if directory != self._directory:
            self._directory = directory
            self._in_directory = []
            self._directories.append(WantedFiles(directory or b"/", self._in_directory))
            self._budget.add(len(directory))
        self._in_directory.append(WantedFile(name, size))
        self._files.append(wanted)
        self._budget.add(len(name), size)

    @property
    def has_some(self) -> bool:
        """True if files were collected and not requested yet."""
        return bool(self._files)

    def drop(self) -> None:
        """Discard the collected files."""
        self._files, self._directories, self._directory = [], [], None
        self._budget.clear()

    def send(self) -> None:
        """Request the collected files."""
        files, directories = self._files, self._directories
        if not files:
            return
        self.drop()
        if len(files) == 1:
            self._get_one(files[0])
            return
        connection = self._connection
        while connection.unanswered and (
            connection.unanswered >= _MOST_REQUESTS or self._under_way + len(files) > _MOST_FILES
        ):
            connection.pump()
        self._under_way += len(files)
        connection.submit(
            GetFilesCall(files, self._size.sent(), self._ended), GetFiles(directories)
        )
        connection.poll()  # send it now: the server works while the next ones are collected

    def _ended(self, call: GetFilesCall) -> None:
        """Write the files of a complete reply, or of one that was cut short.

        Of the latter, the files that arrived completely are written too: they need not be sent
        again.
        """
        self._under_way -= len(call.files)
        error = call.error
        if error is None:
            self._size.answered(call.sent_at, len(call.data))
        came = 0
        if error is None or isinstance(error, ConnectionLost):
            came = self._place_all(call)
        for wanted in call.files[came:]:
            if isinstance(error, CommandError) and not isinstance(error, Cancelled):
                self.singly.append(wanted)  # by itself it may succeed, or its own error shows
                continue
            assert error is not None
            item = wanted.item
            self._transfer.end(item.source, item.shown, wanted.size, error=error)
            if wanted.contents is not None:
                wanted.contents.ended()

    def _place_all(self, call: GetFilesCall) -> int:
        """Write the files that arrived. Return how many of the requested files are dealt with."""
        data = memoryview(call.data)
        results: list[Result] = []
        placed: list[tuple[Wanted, SentFile]] = []
        at = count = 0
        place = _Placing(self._transfer, self._connection, self._whole)
        for wanted, sent in zip(call.files, call.announced, strict=False):
            if sent is None:
                if call.error is not None:
                    break  # the following ones are added again
                self.singly.append(wanted)
                count += 1
                continue
            start, at = at, at + wanted.size
            if at > len(data):
                at = start
                break
            count += 1
            try:
                place.one(wanted, sent, data[start:at])
            except (OSError, CommandError) as error:
                place.forget()  # the callback may close or use the same tree
                self._fail(wanted, error)
                continue
            item = wanted.item
            results.append(Result(item.source, item.shown, wanted.size, "done", sent.digest))
            placed.append((wanted, sent))
        self._transfer.advanced(at)
        self._transfer.end_stored(results)
        for wanted, sent in placed:
            if wanted.goes:
                self._arrived(wanted, sent)
            if wanted.contents is not None:
                wanted.contents.ended()
        return count


class _Placing:
    """Writes the files of one reply under their final names.

    Consecutive files are mostly in the same directory, so its handle is kept.
    """

    def __init__(self, transfer: Transfer, connection: Connection, whole: WholeFiles) -> None:
        self._transfer = transfer
        self._connection = connection
        self._whole = whole
        self._directory: tuple[LocalTree, Parts] | None = None
        self._above = -1

    def forget(self) -> None:
        """Forget the directory's handle, which may be closed by now."""
        self._directory = None

    def one(self, wanted: Wanted, sent: SentFile, data: memoryview) -> None:
        """Verify a file and write it under its final name. Raises OSError, CommandError."""
        item = wanted.item
        if digests.digest(data) != sent.digest:
            raise mismatch(item.source, encrypted=self._connection.encrypted)
        _, _, tree, parts = item
        directory = tree, parts[:-1]
        if directory != self._directory:
            self._above = tree.directory(directory[1])
            self._directory = directory
            self._whole.turn_to()
        if (wanted.new or _is_free(item)) and self._whole.place(
            self._above, parts[-1], data, sent.mode, sent.mtime_ns, durable=tree.durable
        ):
            return
        try:
            place_whole(tree, parts, data, sent.mode, sent.mtime_ns, replace=wanted.replace)
        except AlreadyExists as error:
            raise item.taken(error, self._transfer.options.overwrite) from None


def _is_free(item: Item) -> bool:
    """Return whether a file's name is free, and no partial file of it exists.

    An existing partial file must be used or removed, or it would stay forever.
    """
    tree, parts = item.tree, item.parts
    return tree.stat(parts) is None and not PartialFile.has_part(tree, parts)
