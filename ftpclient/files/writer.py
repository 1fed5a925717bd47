"""A remote file for writing. It appears at its path, as a whole, when it is closed; or not at all.

Lives here: the file object, and the thread that sends a large file.
Lives elsewhere: reading (reader.py), sending (transfer/memory_upload.py, stream_upload.py), opening
(client.py).

Between the first and the last byte of an upload, no other request can be sent on its connection,
and the user of a writer may take any time. So up to `HELD` bytes stay in memory, and are sent when
the file is closed. A larger file is not kept: it has a connection of its own, and a thread that
sends what it reads from a socket pair, and keeps the upload alive.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.protocol import TooManyTransfers
from ftpclient.errors import public
from ftpclient.transfer.job import Options
from ftpclient.transfer.memory_upload import Outcome
from ftpclient.transfer.report import INPUT_LOST
from ftpclient.transfer.retry import Patience
from ftpclient.transfer.upload import Upload
from ftpwire.errors import ConnectionLost, FtpError, Interrupted
from ftpwire.messages import Overwrite
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

HELD = 4 * 1024 * 1024
"""Most bytes to keep in memory until the file is closed."""
_COPIED = 1024 * 1024
"""Bytes to read at once of a file that is appended to."""


class ExistingContents(Protocol):
    """The existing contents of a file that is appended to."""

    @property
    def size(self) -> int: ...

    def read(self, size: int = ..., /) -> bytes: ...
    def close(self) -> None: ...


class Target(Protocol):
    """The target of a writer's bytes."""

    def before(self) -> ExistingContents | None:
        """Return the existing contents to keep, if the file is appended to."""

    def store(self, data: memoryview) -> None:
        """Store the bytes as the file. Raises the error."""

    def stream(self) -> StreamUpload:
        """Start an upload of the bytes."""

    def check_unchanged(self) -> None:
        """Raise SourceChanged if the existing contents have changed since ``before``."""


class Writer(io.BufferedIOBase):
    """A remote file for writing, from its start to its end.

    ``close()`` stores it, and raises the error if that fails: QuotaExceeded, Forbidden,
    AlreadyExists, ConnectionLost, … An exception that leaves its ``with`` block discards it, and so
    does the garbage collector if it was not closed.

    Args:
        target: Where to store the bytes.
        name: The name that it was opened by.
        mode: ``wb``, ``xb`` or ``ab``.
        position: Offset where writing begins.
        autocommit: False if ``close()`` stores nothing, and ``commit()`` does afterwards.
    """

    _closing = False
    _ended = True
    """True after it was stored or discarded."""
    _stream: StreamUpload | None = None

    def __init__(
        self,
        target: Target,
        name: str | bytes,
        mode: str,
        *,
        position: int = 0,
        autocommit: bool = True,
    ) -> None:
        self.name = name
        self.mode = mode
        self.autocommit = autocommit
        self._target = target
        self._held = bytearray()
        self._position = position
        self._ended = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def write(self, data: ReadableBuffer, /) -> int:
        """Take some bytes. Raises the error if the server has refused earlier ones."""
        self._check_open()
        with memoryview(data) as whole, whole.cast("B") as view:
            count = len(view)
            try:
                self._take(view)
            except BaseException:  # a part of the bytes may have been taken
                self.discard()
                raise
        self._position += count
        return count

    def _take(self, view: memoryview) -> None:
        if self._stream is None and len(self._held) + len(view) > HELD:
            self._begin_stream()
        if self._stream is None:
            self._held += view
        else:
            self._stream.write(view)

    def close(self) -> None:
        """Store the file, unless it was already stored or discarded."""
        if self.closed or self._closing:
            return
        self._closing = True
        try:
            if self.autocommit:
                self.commit()
        finally:
            super().close()

    def commit(self) -> None:
        """Store the file. Nothing can be written afterwards."""
        if self._ended:
            return
        try:
            if self._stream is None:
                self._store()
            else:
                self._target.check_unchanged()
                self._stream.finish()
            self._ended = True
        finally:
            self.discard()

    def discard(self) -> None:
        """Discard the bytes; the file on the server is not changed. Can be called twice."""
        self._ended = True
        self._held = bytearray()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()
        if not self._closing:
            self._closing = True
            super().close()

    def _store(self) -> None:
        before = self._target.before()
        if before is None:
            self._target.store(memoryview(self._held))
            return
        if not self._held:
            before.close()
            return
        if before.size + len(self._held) > HELD:
            self._begin_stream(before)
            assert self._stream is not None
            self._target.check_unchanged()
            self._stream.finish()
            return
        try:
            contents = before.read() + self._held
        finally:
            before.close()
        self._target.check_unchanged()
        self._target.store(memoryview(contents))

    def _begin_stream(self, before: ExistingContents | None = None) -> None:
        before = before or self._target.before()
        try:
            self._stream = self._target.stream()
            while before is not None and (data := before.read(_COPIED)):
                self._stream.write(memoryview(data))
        finally:
            if before is not None:
                before.close()
        held, self._held = self._held, bytearray()
        self._stream.write(memoryview(held))

    def _check_open(self) -> None:
        if self.closed or self._ended:
            raise ValueError("the file is closed")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if not self.closed and not self._ended:
            name = self.name
            self.discard()
            warnings.warn(
                f"{name!r} was opened for writing and not closed: nothing was stored",
                ResourceWarning,
                stacklevel=2,
            )


class StreamUpload:
    """An upload of a large file, in a thread and on a connection of its own.

    Args:
        connection: A connection that nothing else uses. It is closed at the end.
        interrupt: The interrupt of that connection.
        connect: Function that makes another connection, in the upload's thread.
        patience: Decides how long to wait if the account has too many running transfers.
        mode: Permission bits of the file.
    """

    def __init__(
        self,
        connection: Connection,
        interrupt: Interrupt,
        connect: Callable[[], Connection],
        patience: Patience,
        target: RemotePath,
        *,
        overwrite: Overwrite,
        mode: int,
        parents: bool,
    ) -> None:
        self._interrupt = interrupt
        self._connect = connect
        self._patience = patience
        self._error: BaseException | None = None
        self._pid = os.getpid()
        self._is_closed = False
        # no pipe: a forked child also holds both ends, and closing one here would not end the other
        self._near, self._far = socket.socketpair()
        self._outcome = Outcome()
        self._upload = Upload(connection, Options(overwrite=overwrite, resume=False), self._outcome)
        self._target = target
        self._mode = mode
        self._parents = parents
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()

    def write(self, data: memoryview) -> None:
        """Send some bytes, waiting while the server is slower. Raises the error of the upload."""
        self._check_process()
        try:
            self._near.sendall(data)
        except BrokenPipeError:
            self._join()
            raise AssertionError("the upload ended without an error") from None

    def finish(self) -> None:
        """End the input, and wait until the file is stored. Raises the error of the upload."""
        self._check_process()
        self._near.shutdown(socket.SHUT_WR)
        self._join()

    def abort(self) -> None:
        """Cancel the upload, unless it has ended. Can be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        # a forked child does not have the thread, and at interpreter exit it no longer runs
        if os.getpid() == self._pid and not sys.is_finalizing():
            if self._thread.is_alive():
                self._interrupt.set()
            self._thread.join()
            self._interrupt.close()
        self._near.close()  # not earlier: that would look like the end of the file

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ValueError("the file was opened by the parent process")

    def _join(self) -> None:
        self._thread.join()
        if isinstance(self._error, FtpError):
            raise public(self._error, self._target)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        upload = self._upload
        try:
            self._send()
            self._outcome.check()
        except ConnectionLost as error:
            lost = f"{error}: {INPUT_LOST}" if upload.took_input else str(error)
            self._error = error.with_text(lost)
        except Interrupted as error:
            self._error = error
            upload.connection.cancel_all()
        except BaseException as error:  # of any kind: the owner raises it
            self._error = error
        finally:
            try:
                upload.close()
                upload.connection.close()
            except FtpError as error:
                self._error = self._error or error
            finally:
                self._far.shutdown(socket.SHUT_RDWR)
                self._far.close()

    def _send(self) -> None:
        """Send everything. Wait and retry while the account has too many running transfers."""
        upload = self._upload
        while True:
            try:
                upload.add_stream(
                    self._far.fileno(), self._target, mode=self._mode, parents=self._parents
                )
                upload.finish()
                return
            except TooManyTransfers as error:
                if upload.took_input:
                    raise
                self._patience.lost(error, error.retry_after)
                self._patience.pause()
                upload.go_on_with(self._connect())
