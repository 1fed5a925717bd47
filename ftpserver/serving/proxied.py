"""Connections of proxies, until each has said whose it is.

Lives here: waiting for the header of the PROXY protocol, and what is done without one.
Lives elsewhere: reading the header (net/proxy_protocol.py), whose connections come here
(settings/table.py), what is done with them then (listeners.py).

One thread waits for all of them, in the process that accepts: shares, penalties and bans are looked
at there, and by the address behind the proxy. A connection of anybody else never comes here, so
that nobody can give himself an address.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ftpserver.net.proxy_protocol import HEAD_SIZE, BadProxyHeader, rest_of, source_in
from ftpserver.serving.session import peer_name

logger = logging.getLogger("ftpd.proxy")

HEADER_SECONDS = 5.0
"""That a proxy gets to send its header, which it does at once; less if a log-in gets less."""


@dataclass(eq=False)
class _Waiting:
    """A connection whose header has not come.

    Attributes:
        address: The proxy's.
        on_known: Called with the client's address.
        on_failed: Called when the header is bad, or doesn't come.
    """

    request: socket.socket
    address: Any
    deadline: float
    on_known: Callable[[Any], None]
    on_failed: Callable[[], None]
    header: bytearray = field(default_factory=bytearray)

    def receive(self) -> bool:
        """Receive what is there of the header, and nothing beyond it; whether it is whole.

        Raises:
            BadProxyHeader, OSError
        """
        while (wanted := self._wanted()) > len(self.header):
            try:
                data = self.request.recv(wanted - len(self.header), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if not data:
                raise BadProxyHeader("closed before the end of its PROXY header")
            self.header += data
        return True

    def _wanted(self) -> int:
        if len(self.header) < HEAD_SIZE:
            return HEAD_SIZE
        return HEAD_SIZE + rest_of(bytes(self.header[:HEAD_SIZE]))


class Proxied:
    """Where they wait. ``take``, ``drop`` and ``close`` are for all threads.

    ``_lock`` guards ``_new``, ``_there``, ``_over``, and the beginning of the thread; it is not
    held while anybody is called.

    Args:
        login_grace: Asked for the seconds that a log-in gets.
    """

    def __init__(self, login_grace: Callable[[], float]) -> None:
        self._login_grace = login_grace
        self._lock = threading.Lock()
        self._new: deque[_Waiting] = deque()
        self._there: set[socket.socket] = set()
        self._thread: threading.Thread | None = None
        self._read = self._write = -1
        self._over = False

    def take(
        self,
        request: socket.socket,
        address: Any,
        on_known: Callable[[Any], None],
        on_failed: Callable[[], None],
    ) -> None:
        """Wait for the header of a connection that was accepted.

        Args:
            address: The proxy's.
            on_known: Called with the address that is in the header; with the proxy's own, where
                there is none.
            on_failed: Called instead when the connection is to be closed.

        Raises:
            OSError, RuntimeError: No descriptors, or no more threads.
        """
        seconds = min(HEADER_SECONDS, self._login_grace())
        deadline = time.monotonic() + seconds
        waiting = _Waiting(request, address, deadline, on_known, on_failed)
        with self._lock:
            over = self._over
            if not over:
                self._begin()
                self._new.append(waiting)
                self._there.add(request)
                os.write(self._write, b"\0")
        if over:
            on_failed()

    def _begin(self) -> None:
        """Most servers never need the thread: it is begun with the first connection."""
        if self._thread is not None:
            return
        if self._read < 0:
            self._read, self._write = os.pipe()
        thread = threading.Thread(target=self._run, name="proxied")
        thread.start()
        self._thread = thread

    def drop(self, request: socket.socket) -> bool:
        """End a connection that waits here, to make room for another; False if it doesn't."""
        with self._lock:
            if request not in self._there:
                return False
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has just ended
            return True

    def close(self) -> None:
        """Close all that wait, and take no more. Can be called twice."""
        with self._lock:
            self._over = True
            thread = self._thread
            if thread is not None:
                os.write(self._write, b"\0")
        if thread is not None:
            thread.join()
        with self._lock:
            self._thread = None
            if self._read >= 0:
                os.close(self._read)
                os.close(self._write)
                self._read = self._write = -1

    # its thread --------------------------------------------------------------------------

    def _run(self) -> None:
        waiting: dict[socket.socket, _Waiting] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            while True:
                soon = min((one.deadline for one in waiting.values()), default=None)
                left = None if soon is None else max(0.0, soon - time.monotonic())
                ready = []
                for key, _ in selector.select(left):
                    if key.data is None:
                        os.read(self._read, 4096)
                    else:
                        ready.append(key.data)
                with self._lock:
                    new, self._new = list(self._new), deque()
                    over = self._over
                for one in new:
                    waiting[one.request] = one
                    selector.register(one.request, selectors.EVENT_READ, one)
                    ready.append(one)
                now = time.monotonic()
                late = [one for one in waiting.values() if over or one.deadline <= now]
                for one in dict.fromkeys([*ready, *late]):
                    done = self._look(one, is_late=over or one.deadline <= now)
                    if done is not None:
                        del waiting[one.request]
                        selector.unregister(one.request)
                        with self._lock:
                            self._there.discard(one.request)
                        _call(one, done)
                if over:
                    return

    def _look(self, one: _Waiting, *, is_late: bool) -> Callable[[], None] | None:
        """What is to be done with a connection now; None: it goes on waiting."""
        try:
            if one.receive():
                source = source_in(bytes(one.header)) or one.address
                return lambda: one.on_known(source)
            if not is_late:
                return None
            raise BadProxyHeader("no PROXY header came in time")
        except (BadProxyHeader, OSError) as error:
            if one.header:  # else it closed at once, as a health check does that knows no more
                logger.warning("%s: dropped: %s", peer_name(one.address), error)
            else:
                logger.info("%s: dropped: %s", peer_name(one.address), error)
            return one.on_failed


def _call(one: _Waiting, done: Callable[[], None]) -> None:
    try:
        done()
    except Exception:
        logger.exception("a connection from %s could not be served", peer_name(one.address))
        one.on_failed()
