"""Many small files, and the directories around them, in one request.

Lives here: what is collected for a `PutFiles`, when it goes, and what its answers mean for each of
them. Lives elsewhere: reading the files (file_upload.py), walking trees (upload.py), how many bytes
go at once (run_size.py).

The order in which things were added is the order in which the server does them: whatever doesn't
travel in such a request is sent after what was collected before it (``flush``). A request of one
thing would win nothing: that goes as the request that it would have been without all this.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.transfer.calls import PutCall
from ftpclient.transfer.job import Transfer
from ftpclient.transfer.report import Result
from ftpclient.transfer.run_size import MOST_EACH, RunSize
from ftpwire.errors import BadMessage, FtpError
from ftpwire.messages import (
    MANY_FILES,
    MOST_ITEMS,
    MOST_TOLD,
    FilesStored,
    Finished,
    ItemFailure,
    MakeDir,
    NewFile,
    NewFiles,
    NotStored,
    Put,
    PutFiles,
    RequestBase,
    Sent,
    SetAttributes,
)
from ftpwire.paths import MAX_NAME

_TOLD_EACH = MOST_TOLD // MOST_ITEMS + 1
"""Bytes of a request for each file and directory besides its name or path, at most. It is so many
that who keeps to `MOST_TOLD` keeps to `MOST_ITEMS` as well."""
_MOST_UNANSWERED = 8192
"""Files and directories whose ends may be awaited: what is known of each takes some memory."""

Then = Callable[[], None]


class _File(msgspec.Struct):
    """A file of a request.

    Attributes:
        told: What is told once it is stored.
        then: Called after that.
    """

    new: NewFile
    told: Result
    then: Then | None


class _Directory(msgspec.Struct):
    """A directory of a request: it is made, or gets its attributes.

    Attributes:
        call: Hears what came of it; None: it is only where files go.
        request: The same as a request of its own.
    """

    path: bytes
    call: Call | None = None
    request: MakeDir | SetAttributes | None = None


class FileRuns:
    """Collects small files and directories, and sends many of them in one request. For a transfer
    on one connection.

    Attributes:
        parents: Have missing directories above the files made.
    """

    def __init__(self, transfer: Transfer) -> None:
        self.parents = False
        self._transfer = transfer
        self._connection: Connection = transfer.connection
        self._size = RunSize(self._connection.channel.pace)
        self._may_collect = MANY_FILES in self._connection.server.features
        self._unanswered = 0
        """Things in requests that were sent."""
        self.drop()

    def drop(self) -> None:
        """Forget what was collected: nothing of it is done."""
        self._directories: list[NewFiles] = []
        self._here: bytes | None = None
        """Where the next file goes, if it is the last of these."""
        self._files: list[NewFile] = []
        """Those of the last of these."""
        self._finished: list[Finished] = []
        self._closed: set[bytes] = set()
        """The paths of ``_finished``."""
        self._items: list[_File | _Directory] = []
        self._ends: list[_Directory] = []
        """As `PutFiles` counts them: all of ``_items``, then all of ``_ends``."""
        self._data: list[bytes] = []
        self._bytes = 0
        self._told = 0
        """Bytes of the request itself, at most."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._items and not self._ends

    # collecting --------------------------------------------------------------------------

    def add(self, new: NewFile, told: Result, data: bytes, then: Then | None = None) -> None:
        """Store a file, whole.

        Args:
            told: What is told once it is stored; its target is where it goes.
            data: Its bytes.
            then: Called after that was told.

        Raises:
            ConnectionLost, Interrupted
        """
        size, length = new.size, len(new.name)
        # a name that no server takes must not be the end of a whole request
        if size > MOST_EACH or not self._may_collect or not 0 < length <= MAX_NAME:
            self.flush()
            self._send_file(_File(new, told, then), data)
            return
        if (
            self._bytes + size > self._size.limit
            or self._told + len(told.target) + 2 * _TOLD_EACH > MOST_TOLD
        ):
            self.flush()
        above = told.target[: -length - 1] or b"/"
        if above != self._here:
            self._begin(_Directory(above), None)
        self._files.append(new)
        self._items.append(_File(new, told, then))
        self._data.append(data)
        self._bytes += size
        self._told += length + _TOLD_EACH

    def change(self, call: Call, request: RequestBase) -> None:
        """Send a request about a directory, which may go with others.

        Args:
            call: Hears its end; it has no more than an ``error`` then.

        Raises:
            ConnectionLost, Interrupted
        """
        if self._may_collect and isinstance(request, MakeDir) and request.parents and request.fill:
            self._make_room(request.path)
            self._begin(_Directory(request.path, call, request), request.mode)
        elif (
            self._may_collect
            and isinstance(request, SetAttributes)
            and request.mode is not None
            and request.mtime_ns is not None
            and not request.exact
            and request.setgid is None
        ):
            self._make_room(request.path)
            self._finished.append(Finished(request.path, request.mode, request.mtime_ns))
            self._ends.append(_Directory(request.path, call, request))
            self._closed.add(request.path)
            self._told += len(request.path) + _TOLD_EACH
        else:
            self.flush()
            self._connection.submit(call, request)

    def _make_room(self, path: bytes) -> None:
        self._connection.check()  # many of them may come before something is sent
        if self._told + len(path) + _TOLD_EACH > MOST_TOLD:
            self.flush()

    def _begin(self, directory: _Directory, make: int | None) -> None:
        """What comes next goes there."""
        if directory.path in self._closed:
            self.flush()  # in one request it would get its attributes after this, not before
        self._here = directory.path
        self._files = []
        self._directories.append(NewFiles(directory.path, self._files, make))
        self._items.append(directory)
        self._told += len(directory.path) + _TOLD_EACH

    # sending -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what was collected.

        Raises:
            ConnectionLost, Interrupted: Nothing is told of what was not sent.
        """
        items = [*self._items, *self._ends]
        if not items:
            return
        request = PutFiles(
            self._directories, self._finished, self._transfer.options.overwrite, self.parents
        )
        data = b"".join(self._data)
        self.drop()
        if len(items) <= 2 and self._is_sent_alone(items, data):
            return
        while self._unanswered > _MOST_UNANSWERED:
            self._connection.pump()
        call = _RunCall(self._transfer, items, self._answered)
        self._unanswered += len(items)
        self._connection.submit(call, request, len(data))
        if data:
            self._connection.send_data(call, data)
        call.is_closed = True
        call.size = len(data)
        call.sent_at = self._size.sent()
        self._connection.send_end(call, Sent(len(data)))
        if data:
            self._transfer.advanced(len(data))
        # answers are heard when they come: what is stored is told, and what they took is measured
        self._connection.poll()

    def _answered(self, call: _RunCall) -> None:
        self._unanswered -= len(call.items)
        if call.error is None:
            self._size.answered(call.sent_at, call.size)

    def _is_sent_alone(self, items: list[_File | _Directory], data: bytes) -> bool:
        """Send one thing as the request that it would be by itself; False: these are several."""
        first, last = items[0], items[-1]
        if isinstance(last, _Directory):
            if len(items) > 1 or last.call is None or last.request is None:
                return False
            self._connection.submit(last.call, last.request)
            return True
        if isinstance(first, _Directory) and first.call is not None:
            return False
        self._send_file(last, data)
        return True

    def _send_file(self, file: _File, data: bytes) -> None:
        new, told = file.new, file.told
        call = _FileCall(self._transfer, told.source, told.target, self._size)
        call.size = len(data)
        call.digest = new.digest
        call.remark = told.remark
        call.then = file.then
        request = Put(
            told.target,
            new.size,
            new.mode,
            new.mtime_ns,
            self._transfer.options.overwrite,
            parents=self.parents,
        )
        self._connection.submit(call, request, len(data))
        if data:
            self._connection.send_data(call, data)
        call.sent_at = self._size.sent()
        self._connection.send_end(call, Sent(len(data), new.digest))
        self._transfer.advanced(len(data))


class _FileCall(PutCall):
    """A small file on its way by itself. Where that takes long, no more go at once."""

    def __init__(self, transfer: Transfer, source: bytes, target: bytes, size: RunSize) -> None:
        super().__init__(transfer, source, target)
        self._run_size = size
        self.sent_at = 0.0

    def on_done(self) -> None:
        if self.error is None:
            self._run_size.answered(self.sent_at, self.size)
        super().on_done()


class _RunCall(Call):
    """Many files and directories on their way.

    Attributes:
        items: What it is about, as `PutFiles` counts it.
        is_closed: All of it was sent: from here on the server may say what came of it.
        sent_at: When that was.
        size: Bytes of its files.
    """

    streams = True

    def __init__(
        self,
        transfer: Transfer,
        items: list[_File | _Directory],
        answered: Callable[[_RunCall], None],
    ) -> None:
        super().__init__()
        self.items = items
        self.is_closed = False
        self.size = 0
        self.sent_at = 0.0
        self._transfer = transfer
        self._answered = answered
        self._failures: dict[int, FtpError] = {}
        """By their places in ``items``."""
        self._last = -1

    def on_reply(self, reply: NotStored) -> bool:
        if not self.is_closed:
            raise BadMessage("the server has stored files before they were sent")
        for failure in reply.failures:
            if not self._last < failure.index < len(self.items):
                raise BadMessage("the server told twice of a file, or of one that it wasn't sent")
            self._last = failure.index
            self._failures[failure.index] = self._failure_of(failure)
        return False

    def _failure_of(self, failure: ItemFailure) -> FtpError:
        item = self.items[failure.index]
        if isinstance(item, _File):
            return self._error_of(failure.failed(item.told.target))
        if item.call is None:
            raise BadMessage("the server did not make a directory that nobody asked for")
        return self._error_of(failure.failed(item.path))

    def on_ending(self) -> None:
        assert isinstance(self.ending, FilesStored)
        if not self.is_closed or self.ending.done != len(self.items) - len(self._failures):
            raise BadMessage("the server has stored other files than it was sent")

    def on_done(self) -> None:
        transfer, items, failures = self._transfer, self.items, self._failures
        self._answered(self)
        if self.error is None and not failures:
            transfer.end_stored([item.told for item in items if isinstance(item, _File)])
        # in their order: what happened to a directory explains what happened in it
        for index, item in enumerate(items):
            error = self.error or failures.get(index)
            if isinstance(item, _Directory):
                if item.call is not None:
                    item.call.end_by(error)
                    item.call.on_done()
                continue
            told = item.told
            if error is not None:
                transfer.end(told.source, told.target, told.size, digest=told.digest, error=error)
                continue
            if failures:
                transfer.end_stored([told])
            if item.then is not None:
                item.then()
