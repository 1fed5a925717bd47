"""A remote file's bytes into what is no file here: a FIFO, a device, a terminal, a descriptor.

Lives here: opening it, writing what comes, going on after a lost connection.
Lives elsewhere: which paths are such (named.py), files (download.py).

What was written can't be taken back. So nothing is written a second time: after a reconnect the
server is asked for the rest, and only if the file still begins with what went out.
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
    """Where bytes go that can't be taken back. It outlives connections.

    Attributes:
        written: Bytes that went out.
        hasher: Of these.
        ended: Nothing more goes into it.
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
        """Open what was named; a FIFO when somebody reads from it.

        Raises:
            OSError: It can't be written to.
            SourceChanged: It is something else by now.
            ConnectionLost, Interrupted: While waiting.
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
                return None  # not open for reading
            raise

    def write(self, data: memoryview, check: Callable[[], None]) -> None:
        """Write all of it, waiting for as long as that takes.

        Args:
            check: Called several times a second meanwhile; may raise.

        Raises:
            OSError: It can't be written.
        """
        while data:
            try:
                count = os.write(self._fd, data)
            except BlockingIOError:
                self._wait_for_room()
                check()
                continue
            self.hasher.update(data[:count])
            self.written += count
            data = data[count:]

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll(_LOOK_SECONDS * 1000)

    def begin(self, info: Sending) -> None:
        """The server is going to send this.

        Raises:
            VerificationFailed: It doesn't go on with what went out before.
        """
        before = self._begun
        if self.written and before is not None:
            same = (info.size, info.mtime_ns) == (before.size, before.mtime_ns)
            if not same or info.offset != self.written:
                raise VerificationFailed(
                    f"{paths.show(self.shown)}: the file changed on the server while the "
                    f"connection was lost: {self.written} bytes of the earlier one went out"
                )
        self._begun = info

    def close(self) -> None:
        """Nothing more goes into it: a reader sees the end. Can be called twice."""
        self.ended = True
        if self._fd >= 0 and self._descriptor is None:
            fd, self._fd = self._fd, -1
            os.close(fd)


class _NodeCall(StreamCall):
    """A file on its way into a node."""

    def __init__(self, connection: Connection, node: Node, advanced: Callable[[int], None]) -> None:
        super().__init__()
        self.asked_offset = node.written
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
        self._left = True  # whatever is raised: nothing more goes out then
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
    """Write a remote file's bytes into an open node as they come; returns size and digest.

    After a lost connection, the same on another one goes on.

    Args:
        advanced: Told of the bytes that went out.
        in_trash: See `ftpwire.messages.Get`.

    Raises:
        VerificationFailed: What was written is not what the server has.
        OSError: It can't be written. BrokenPipeError: its reader is gone.
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
