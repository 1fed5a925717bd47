"""Uploads of many small files, and the directories around them, in one request.

Lives here: collecting files for a `PutFiles`, when it is sent, and what its reply means for each
file.
Lives elsewhere: reading the files (file_upload.py), walking trees (upload.py), how many bytes to
send at once (run_size.py).

The server processes everything in the order in which it was added. So a request of any other kind
has to be sent after what was collected before it (``flush``). A run of a single file or directory
would gain nothing: it is sent as the ordinary request instead.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.transfer.calls import PutCall
from ftpclient.transfer.job import Transfer
from ftpclient.transfer.report import Result
from ftpclient.transfer.run_size import MOST_EACH, RunBudget, RunSize
from ftpwire.errors import BadMessage, FtpError
from ftpwire.messages import (
    MANY_FILES,
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

_OVERHEAD = 64
"""Maximum size of a file or directory in a request in bytes, without its name or path."""
_MOST_UNANSWERED = 8192
"""Maximum number of unanswered files and directories: each one takes some memory."""

Then = Callable[[], None]


class _File(msgspec.Struct):
    """A file of a request.

    Attributes:
        result: Reported once it is stored.
        then: Called after that.
    """

    new: NewFile
    result: Result
    then: Then | None


class _Directory(msgspec.Struct):
    """A directory of a request: it is made, gets its attributes, or only contains files.

    Attributes:
        call: Gets the outcome; None for a directory that only contains files.
        request: The equivalent single request.
    """

    path: bytes
    call: Call | None = None
    request: MakeDir | SetAttributes | None = None


class FileRuns:
    """Collects small files and directories, and sends many of them in one request.

    Belongs to one transfer on one connection.

    Attributes:
        parents: True to make missing directories above the files.
    """

    def __init__(self, transfer: Transfer) -> None:
        self.parents = False
        self._transfer = transfer
        self._connection: Connection = transfer.connection
        self._size = RunSize(self._connection.channel.pace)
        self._budget = RunBudget(self._size, _OVERHEAD)
        self._may_collect = MANY_FILES in self._connection.server.features
        self._unanswered = 0
        """Number of files and directories in requests without a reply."""
        self.drop()

    def drop(self) -> None:
        """Discard what was collected."""
        self._directories: list[NewFiles] = []
        self._here: bytes | None = None
        """The path of the last of ``_directories``, if files can be added to it."""
        self._files: list[NewFile] = []
        """The files of the last of ``_directories``."""
        self._finished: list[Finished] = []
        self._closed: set[bytes] = set()
        """The paths in ``_finished``."""
        self._items: list[_File | _Directory] = []
        self._ends: list[_Directory] = []
        """The request's items in the order of `PutFiles`: first ``_items``, then ``_ends``."""
        self._data: list[bytes] = []
        self._budget.clear()

    @property
    def is_empty(self) -> bool:
        """True if nothing waits to be sent."""
        return not self._items and not self._ends

    # collecting --------------------------------------------------------------------------

    def add(self, new: NewFile, result: Result, data: bytes, then: Then | None = None) -> None:
        """Store a small file.

        Args:
            result: Reported once it is stored; its target is the file's path.
            data: The file's bytes.
            then: Called after the result was reported.

        Raises:
            ConnectionLost, Interrupted
        """
        size, length = new.size, len(new.name)
        # an invalid name must not make the whole request fail
        if size > MOST_EACH or not self._may_collect or not 0 < length <= MAX_NAME:
            self.flush()
            self._send_file(_File(new, result, then), data)
            return
        if not self._budget.fits(2, len(result.target), size):  # it may need its directory, too
            self.flush()
        above = result.target[: -length - 1] or b"/"
        if above != self._here:
            self._begin(_Directory(above), None)
        self._files.append(new)
        self._items.append(_File(new, result, then))
        self._data.append(data)
        self._budget.add(length, size)

    def change(self, call: Call, request: RequestBase) -> None:
        """Send a request about a directory, if possible together with others.

        Args:
            call: Notified of the end; only its ``error`` is set then.

        Raises:
            ConnectionLost, Interrupted
        """
        if self._may_collect and isinstance(request, MakeDir) and request.parents and request.fill:
            self._flush_if_full(request.path)
            self._begin(_Directory(request.path, call, request), request.mode)
        elif (
            self._may_collect
            and isinstance(request, SetAttributes)
            and request.mode is not None
            and request.mtime_ns is not None
            and not request.exact
            and request.setgid is None
        ):
            self._flush_if_full(request.path)
            self._finished.append(Finished(request.path, request.mode, request.mtime_ns))
            self._ends.append(_Directory(request.path, call, request))
            self._closed.add(request.path)
            self._budget.add(len(request.path))
        else:
            self.flush()
            self._connection.submit(call, request)

    def _flush_if_full(self, path: bytes) -> None:
        self._connection.check()  # many directories may be collected before anything is sent
        if not self._budget.fits(1, len(path)):
            self.flush()

    def _begin(self, directory: _Directory, make: int | None) -> None:
        """Begin a directory, to which the next files are added."""
        if directory.path in self._closed:
            self.flush()  # one request would set its attributes after these files, not before
        self._here = directory.path
        self._files = []
        self._directories.append(NewFiles(directory.path, self._files, make))
        self._items.append(directory)
        self._budget.add(len(directory.path))

    # sending -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what was collected.

        Raises:
            ConnectionLost, Interrupted: What was not sent is not reported.
        """
        items = [*self._items, *self._ends]
        if not items:
            return
        request = PutFiles(
            self._directories, self._finished, self._transfer.options.overwrite, self.parents
        )
        data = b"".join(self._data)
        self.drop()
        if len(items) <= 2 and self._try_send_alone(items, data):
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
        # process replies now, so that results are reported and round trips are measured on time
        self._connection.poll()

    def _answered(self, call: _RunCall) -> None:
        self._unanswered -= len(call.items)
        if call.error is None:
            self._size.answered(call.sent_at, call.size)

    def _try_send_alone(self, items: list[_File | _Directory], data: bytes) -> bool:
        """Send a single file or directory as an ordinary request. Return False for several."""
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
        new, result = file.new, file.result
        call = _FileCall(self._transfer, result.source, result.target, self._size)
        call.size = len(data)
        call.digest = new.digest
        call.remark = result.remark
        call.then = file.then
        request = Put(
            result.target,
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
    """A small file being sent by itself. Its duration limits the size of the next runs."""

    def __init__(self, transfer: Transfer, source: bytes, target: bytes, size: RunSize) -> None:
        super().__init__(transfer, source, target)
        self._run_size = size
        self.sent_at = 0.0

    def on_done(self) -> None:
        if self.error is None:
            self._run_size.answered(self.sent_at, self.size)
        super().on_done()


class _RunCall(Call):
    """A run of files and directories being sent.

    Attributes:
        items: Its files and directories, in the order of `PutFiles`.
        is_closed: True after everything was sent: only then the server may reply.
        sent_at: When that was.
        size: The size of its files in bytes.
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
        """The errors, by their index in ``items``."""
        self._last = -1

    def on_reply(self, reply: NotStored) -> bool:
        if not self.is_closed:
            raise BadMessage("the server has stored files before they were sent")
        for failure in reply.failures:
            if not self._last < failure.index < len(self.items):
                raise BadMessage("the server sent an unknown or repeated index of a file")
            self._last = failure.index
            self._failures[failure.index] = self._failure_of(failure)
        return False

    def _failure_of(self, failure: ItemFailure) -> FtpError:
        item = self.items[failure.index]
        if isinstance(item, _File):
            return self._error_of(failure.failed(item.result.target))
        if item.call is None:
            raise BadMessage("the server reported an error for a directory without a request")
        return self._error_of(failure.failed(item.path))

    def on_ending(self) -> None:
        assert isinstance(self.ending, FilesStored)
        if not self.is_closed or self.ending.done != len(self.items) - len(self._failures):
            raise BadMessage("the server reported a wrong number of stored files")

    def on_done(self) -> None:
        transfer, items, failures = self._transfer, self.items, self._failures
        self._answered(self)
        if self.error is None and not failures:
            transfer.end_stored([item.result for item in items if isinstance(item, _File)])
        # in this order, because the failure of a directory explains those of its files
        for index, item in enumerate(items):
            error = self.error or failures.get(index)
            if isinstance(item, _Directory):
                if item.call is not None:
                    item.call.end_by(error)
                    item.call.on_done()
                continue
            result = item.result
            if error is not None:
                transfer.end(
                    result.source, result.target, result.size, digest=result.digest, error=error
                )
                continue
            if failures:
                transfer.end_stored([result])
            if item.then is not None:
                item.then()
