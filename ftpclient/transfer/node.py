"""Downloads into something other than a regular file: a FIFO, a device, a terminal, a descriptor.

Lives here: opening it, writing the bytes as they arrive, resuming after a lost connection.
Lives elsewhere: which paths are such (named.py), files (download.py).

Written bytes cannot be taken back. So nothing is written twice: after a reconnect the client asks
for the rest, and only if the file still begins with what was written.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable

from ftpclient.connection.connection import Connection
from ftpclient.connection.driver import Driver
from ftpclient.transfer.calls import StreamCall
from ftpclient.transfer.named import Named
from ftpclient.transfer.waiting import Waiting
from ftpwire import digests, paths
from ftpwire.errors import CommandError, SourceChanged, VerificationFailed
from ftpwire.messages import Get, InTrash, Sending, WhoAmI
from ftpwire.paths import RemotePath

_LOOK_SECONDS = 0.1
_OPEN = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Node:
    """A FIFO, device or descriptor to write into. It outlives connections.

    Attributes:
        written: The number of bytes written.
        hasher: The hasher of those bytes.
        ended: True if nothing more will be written.
    """

    def __init__(self, shown: bytes, descriptor: int | None = None) -> None:
        self.shown = shown
        self.written = 0
        self.hasher = digests.new()
        self.ended = False
        self._descriptor = descriptor
        self._fd = -1 if descriptor is None else descriptor
        self._begun: Sending | None = None

    def open(self, named: Named, connection: Connection, remark: Callable[[str], None]) -> None:
        """Open the named file; wait until a FIFO has a reader.

        Raises:
            OSError: It cannot be written to.
            SourceChanged: It was replaced meanwhile.
            ConnectionLost, Interrupted: Raised while waiting.
        """
        if self._fd >= 0:
            return
        text = f"{paths.show(self.shown)}: waiting for a reader"
        waiting = Waiting(lambda: connection.ask(WhoAmI()), remark, text)
        while (fd := self._try_to_open(named)) is None:
            connection.pause(_LOOK_SECONDS)
            waiting.look()
        if not named.is_same(os.fstat(fd)):
            os.close(fd)
            raise SourceChanged(f"{paths.show(self.shown)}: was replaced meanwhile")
        self._fd = fd

    def _try_to_open(self, named: Named) -> int | None:
        try:
            return os.open(named.path, _OPEN)
        except OSError as error:
            if error.errno == errno.ENXIO and stat.S_ISFIFO(named.info.st_mode):
                return None  # it has no reader yet
            raise

    def write(self, data: memoryview, check: Callable[[], None]) -> None:
        """Write all of the data, waiting as long as necessary.

        Args:
            check: Called several times per second meanwhile; may raise.

        Raises:
            OSError: It cannot be written.
        """
        while data:
            try:
                count = os.write(self._fd, data)
            except BlockingIOError:
                self._wait_until_writable()
                check()
                continue
            self.hasher.update(data[:count])
            self.written += count
            data = data[count:]

    def _wait_until_writable(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll(_LOOK_SECONDS * 1000)

    def begin(self, info: Sending) -> None:
        """Accept the properties of the file that the server is going to send.

        Raises:
            VerificationFailed: The file does not continue what was written before.
        """
        before = self._begun
        if self.written and before is not None:
            same = (info.size, info.mtime_ns) == (before.size, before.mtime_ns)
            if not same or info.offset != self.written:
                raise VerificationFailed(
                    f"{paths.show(self.shown)}: the file changed on the server while the "
                    f"connection was lost; {self.written} bytes of the old version were written"
                )
        self._begun = info

    def close(self) -> None:
        """Close it, so that a reader sees the end. Can be called twice."""
        self.ended = True
        if self._fd >= 0 and self._descriptor is None:
            fd, self._fd = self._fd, -1
            os.close(fd)


class _NodeCall(StreamCall):
    """A file being received into a node."""

    def __init__(self, connection: Connection, node: Node, advanced: Callable[[int], None]) -> None:
        super().__init__()
        self.requested_offset = node.written
        self.failure: OSError | CommandError | None = None
        self._connection = connection
        self._node = node
        self._advanced = advanced
        self._left = False

    def begin(self, info: Sending) -> None:
        self._node.begin(info)

    def fail(self, error: OSError | CommandError) -> None:
        self.failure = self.failure or error

    def on_data(self, data: memoryview) -> None:
        if self.failure is not None or self._left:
            return
        self._left = True  # reset below: after any exception nothing more is written
        try:
            self._node.write(data, self._connection.check)
        except OSError as error:
            self.fail(error)
            return
        self._left = False
        self._advanced(len(data))

    def result(self, source: RemotePath, connection: Driver) -> tuple[int, bytes]:
        self.digest = self._node.hasher
        return super().result(source, connection)


def fetch(
    connection: Connection,
    source: RemotePath,
    node: Node,
    advanced: Callable[[int], None] = lambda count: None,
    in_trash: InTrash | None = None,
) -> tuple[int, bytes]:
    """Write a remote file into an open node as it arrives. Return its size and digest.

    After a lost connection, call it again with the new one: it continues.

    Args:
        advanced: Called with the number of bytes written.
        in_trash: See `ftpwire.messages.Get`.

    Raises:
        VerificationFailed: The written bytes are not those of the server's file.
        OSError: Writing failed. BrokenPipeError: the reader is gone.
        ConnectionLost, Interrupted
    """
    call = _NodeCall(connection, node, advanced)
    prefix = node.hasher.digest() if node.written else None
    connection.submit(call, Get(source, node.written, prefix, in_trash=in_trash))
    while not call.done and call.failure is None:
        connection.pump()
    if call.failure is not None:
        if not call.done:
            connection.send_cancel(call)
            connection.wait_for(call)
        raise call.failure
    return call.result(source, connection)
