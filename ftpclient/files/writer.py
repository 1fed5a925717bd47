"""A remote file to write to. It appears under its name, whole, when it is closed; or not at all.

Lives here: the file object; the thread that sends a large one.
Lives elsewhere: reading (reader.py), sending (transfer/memory_upload.py, stream_upload.py), what
opens one (client.py).

Between an upload's first byte and its last, nothing else may be asked on its connection, and the
owner of a writer may take as long as it likes. So what is written stays in memory up to `HELD`
bytes, and is sent when the file is closed. Of a larger file nothing is kept: it has a connection of
its own, and a thread that sends what comes out of a socket pair, and keeps the upload alive.
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
from ftpclient.connection.protocol import NoRoom
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
"""Bytes that are kept in memory until the file is closed."""
_COPIED = 1024 * 1024
"""Bytes that are read at once of what is appended to."""


class Before(Protocol):
    """What a file has already that is appended to."""

    @property
    def size(self) -> int: ...

    def read(self, size: int = ..., /) -> bytes: ...
    def close(self) -> None: ...


class Target(Protocol):
    """Where the bytes of a writer go."""

    def before(self) -> Before | None:
        """What is there and stays, if the file is appended to."""

    def store(self, data: memoryview) -> None:
        """Store them as the file. Raises what went wrong."""

    def stream(self) -> StreamUpload:
        """Begin to send them."""

    def check_unchanged(self) -> None:
        """Raises SourceChanged when what was ``before`` isn't any more."""


class Writer(io.BufferedIOBase):
    """A remote file to write to, from its start to its end.

    ``close()`` stores it, and raises what keeps it from being stored: QuotaExceeded, Forbidden,
    AlreadyExists, ConnectionLost, … Leaving a ``with`` block by an exception discards it, and so
    does being forgotten without a ``close()``.

    Args:
        name: What it was opened by.
        mode: ``wb``, ``xb`` or ``ab``.
        position: Where writing begins.
        autocommit: False: ``close()`` stores nothing; ``commit()`` does then.
    """

    _closing = False
    _ended = True
    """It is stored or discarded."""
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
        """Take some bytes. Raises what the server refused the earlier ones with."""
        self._check_open()
        with memoryview(data) as whole, whole.cast("B") as view:
            count = len(view)
            try:
                self._take(view)
            except BaseException:  # it may have been taken in part
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
        """Store the file, unless it was stored or discarded already."""
        if self.closed or self._closing:
            return
        self._closing = True
        try:
            if self.autocommit:
                self.commit()
        finally:
            super().close()

    def commit(self) -> None:
        """Store the file; nothing can be written any more."""
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
        """Give the file up: what is on the server stays as it is. Can be called twice."""
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

    def _begin_stream(self, before: Before | None = None) -> None:
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
                f"{name!r} was opened to write, and not closed: nothing was stored",
                ResourceWarning,
                stacklevel=2,
            )


class StreamUpload:
    """A large file on its way to the server, by a thread and on a connection of its own.

    Args:
        connection: Nobody else's. It is closed at the end.
        interrupt: That connection's.
        connect: Makes another one, in the upload's thread.
        patience: For an account that has too many transfers running.
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
        # no pipe: a child of a fork holds both ends as well, and then closing them ends nothing
        self._near, self._far = socket.socketpair()
        self._outcome = Outcome()
        self._upload = Upload(connection, Options(overwrite=overwrite, resume=False), self._outcome)
        self._target = target
        self._mode = mode
        self._parents = parents
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()

    def write(self, data: memoryview) -> None:
        """Send some bytes; waits while the server is slower. Raises why it was refused."""
        self._check_process()
        try:
            self._near.sendall(data)
        except BrokenPipeError:
            self._join()
            raise AssertionError("the upload ended before its end") from None

    def finish(self) -> None:
        """That was all: wait until the file is stored. Raises why it isn't."""
        self._check_process()
        self._near.shutdown(socket.SHUT_WR)
        self._join()

    def abort(self) -> None:
        """Give it up, unless it has ended. Can be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        # a child of a fork has no thread, and at the end of the program it doesn't run any more
        if os.getpid() == self._pid and not sys.is_finalizing():
            if self._thread.is_alive():
                self._interrupt.set()
            self._thread.join()
            self._interrupt.close()
        self._near.close()  # not earlier: it would be taken for the end of the file

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ValueError("the file was opened by another process, which this one is a fork of")

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
        except BaseException as error:  # whatever it is: the owner waits for it
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
        """Send it all. An account with too many transfers running is waited for, as elsewhere."""
        upload = self._upload
        while True:
            try:
                upload.add_stream(
                    self._far.fileno(), self._target, mode=self._mode, parents=self._parents
                )
                upload.finish()
                return
            except NoRoom as error:
                if upload.took_input:
                    raise
                self._patience.lost(error, error.retry_after)
                self._patience.pause()
                upload.go_on_with(self._connect())
