"""Many small files that are asked for, and come, in one request.

Lives here: what is collected for a `GetFiles`, when it is sent, the frames of its answer, and how
the files get to their places.
Lives elsewhere: which files those are (file_download.py), files that come by themselves
(file_call.py), how many bytes go at once (run_size.py), writing (whole_file.py, partial_file.py).

Files are placed by the order in which they were asked for: the server names none. One that it
doesn't send in this way is asked for by itself, so that there is one place for all that can be the
matter with a file.
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
from ftpclient.transfer.run_size import MOST_EACH, RunSize
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
    MOST_ITEMS,
    MOST_TOLD,
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
"""Requests, and files of them, that are unanswered at the same time: enough for a long line, and
not so many that a tree of millions of files takes memory."""
_TOLD_EACH = 16
"""Bytes that a file or directory takes in a request beside its name or path, at most."""


class Wanted(msgspec.Struct):
    """A file that is to come.

    Attributes:
        size: As it was listed. One that has another by now doesn't come in this way.
        replace: Whether a file that is at its place is replaced.
        contents: What it is one of, if that matters.
        goes: It is removed from the server once it is here.
        new: Its directory was made for it: nothing is expected there.
    """

    item: Item
    size: int
    replace: bool
    contents: Contents | None
    goes: bool
    new: bool


class GetFilesCall(Call):
    """Many files on their way, into memory.

    Attributes:
        files: What was asked for.
        told: What the server has said of the first of them.
        data: The bytes that came.
    """

    streams = True

    def __init__(
        self, files: list[Wanted], sent_at: float, ended: Callable[[GetFilesCall], None]
    ) -> None:
        super().__init__()
        self.files = files
        self.sent_at = sent_at
        self.told: list[SentFile | None] = []
        self.data = bytearray()
        self._left = 0
        """Bytes that are still to come of the files that were told."""
        self._ended = ended

    def on_reply(self, reply: SendingFiles) -> bool:
        count = len(self.told)
        self.told += reply.files
        if len(self.told) > len(self.files):
            raise BadMessage("the server sends more files than it was asked for")
        for sent, wanted in zip(reply.files, self.files[count:], strict=False):
            if sent is not None:
                self._left += wanted.size
        return False

    def on_frame(self, size: int) -> None:
        if len(self.told) < len(self.files):
            raise BadMessage("the server sent bytes of files before it had told of all")
        self._left -= size
        if self._left < 0:
            raise BadMessage("the server sent more bytes than it had announced")

    def on_data(self, data: memoryview) -> None:
        self.data += data

    def on_ending(self) -> None:
        assert isinstance(self.ending, Sent)
        if len(self.told) < len(self.files) or self._left or self.ending.size != len(self.data):
            raise BadMessage("the server ended files that it had not sent")

    def on_done(self) -> None:
        self._ended(self)


class GetFilesRuns:
    """Collects small files, of one connection, and brings them to their places.

    Args:
        get_one: Asks for a file by itself. Called where requests may be sent.
        fail: Told of a file that can't be had: what failed is the disk here, or the bytes are not
            the file's.
        arrived: Told of what is here for good, and is to be removed from the server.

    Attributes:
        singly: Files that did not come, and are to be asked for by themselves. Not from here:
            where they are found, answers are being handed out.
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
        self._whole = WholeFiles()
        self._under_way = 0
        """Files that are asked for."""
        self._files: list[Wanted] = []
        self._directories: list[WantedFiles] = []
        self._directory: bytes | None = None
        """The one that the last file is in."""
        self._in_directory: list[WantedFile] = []
        self._items = self._bytes = self._told = 0

    def takes(self, size: int) -> bool:
        """Whether a file of so many bytes goes with others."""
        return self._is_known and size <= MOST_EACH

    def add(self, wanted: Wanted) -> None:
        """Have a file come with others, soon."""
        source, size = wanted.item.source, wanted.size
        directory, _, name = source.rpartition(b"/")
        if self._items and (
            self._bytes + size > self._size.limit
            or self._items + 2 > MOST_ITEMS
            or self._told + len(source) > MOST_TOLD - _TOLD_EACH * 2
        ):
            self.send()
        if directory != self._directory:
            self._directory = directory
            self._in_directory = []
            self._directories.append(WantedFiles(directory or b"/", self._in_directory))
            self._items += 1
            self._told += len(directory) + _TOLD_EACH
        self._in_directory.append(WantedFile(name, size))
        self._files.append(wanted)
        self._items += 1
        self._told += len(name) + _TOLD_EACH
        self._bytes += size

    @property
    def has_some(self) -> bool:
        """Whether something was collected."""
        return bool(self._files)

    def drop(self) -> None:
        """Forget what was collected."""
        self._files, self._directories, self._directory = [], [], None
        self._items = self._bytes = self._told = 0

    def send(self) -> None:
        """Ask for what was collected."""
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
        connection.poll()  # the server has something to do while the next ones are collected

    def _ended(self, call: GetFilesCall) -> None:
        """The answer is whole, or none comes any more. What came of it as a whole is placed, also
        where the connection was cut: it would have to come again."""
        self._under_way -= len(call.files)
        error = call.error
        if error is None:
            self._size.answered(call.sent_at, len(call.data))
        came = 0
        if error is None or isinstance(error, ConnectionLost):
            came = self._place_all(call)
        for wanted in call.files[came:]:
            if isinstance(error, CommandError) and not isinstance(error, Cancelled):
                self.singly.append(wanted)  # by itself it may be had, or it says why not
                continue
            assert error is not None
            item = wanted.item
            self._transfer.end(item.source, item.shown, wanted.size, error=error)
            if wanted.contents is not None:
                wanted.contents.ended()

    def _place_all(self, call: GetFilesCall) -> int:
        """Place the files whose bytes are here; the count of those that this was about."""
        data = memoryview(call.data)
        results: list[Result] = []
        placed: list[tuple[Wanted, SentFile]] = []
        at = count = 0
        place = _Placing(self._transfer, self._connection, self._whole)
        for wanted, sent in zip(call.files, call.told, strict=False):
            if sent is None:
                if call.error is not None:
                    break  # all that follows is added again
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
                place.forget()  # others hear of it, who may use the same tree
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
    """Brings the files of one answer to their places. Those that follow one another are in the same
    directory mostly: its handle is asked for once."""

    def __init__(self, transfer: Transfer, connection: Connection, whole: WholeFiles) -> None:
        self._transfer = transfer
        self._connection = connection
        self._whole = whole
        self._directory: tuple[LocalTree, Parts] | None = None
        self._above = -1

    def forget(self) -> None:
        """Handles may be closed by now."""
        self._directory = None

    def one(self, wanted: Wanted, sent: SentFile, data: memoryview) -> None:
        """Verify a file, and give it its name. Raises OSError, CommandError: it isn't there."""
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
    """Whether nothing has the name of a file, and an earlier try has left nothing of it: that
    would lie there for ever."""
    tree, parts = item.tree, item.parts
    return tree.stat(parts) is None and not PartialFile.has_part(tree, parts)
