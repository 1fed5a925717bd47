"""Notifications: datagrams that tell local programs when the audit log has grown.

Lives here: the datagram socket in the state directory, the subscribers, and waiting for them.
Lives elsewhere: the log itself (writer.py), reading it (reader.py), `ftpd log` (cli/log.py).

A datagram says that there is something to read, and up to which offset; the events are in the
file. So nothing depends on a datagram: a slow subscriber, whose socket is full, sees a gap in the
numbers, or nothing, and reads the file from its last position. The server never waits for one.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from socketserver import DatagramRequestHandler, UnixDatagramServer
from typing import Any, Protocol

import msgspec

from ftpserver.net.private_socket import PrivateSocket, address_of

logger = logging.getLogger("ftpd.events")

SOCKET = "events.sock"
LAPSE = 30.0
"""Seconds after which a subscription ends unless it is renewed."""
_RENEW = 2.0
"""Seconds after which a follower subscribes again, as the server may have been restarted."""
_MOST = 64
"""The most subscribers; for one more, the one that was renewed the longest time ago is removed."""
_MAX_DATAGRAM = 1024


class _Tagged(msgspec.Struct, frozen=True, tag_field="is"):
    """The base of all datagrams; they are JSON."""


class Subscribe(_Tagged, frozen=True, tag="subscribe"):
    """Notify the sender for `LAPSE` seconds. Reply: `Grown`, with the present state."""


class Wrote(_Tagged, frozen=True, tag="wrote"):
    """Another process has appended to the log: notify all subscribers. There is no reply."""


class Grown(_Tagged, frozen=True, tag="grown"):
    """The log was written to.

    Attributes:
        sequence: Counts from the start of the server. A gap means that datagrams were lost.
        inode: The inode of the current file; it changes with a rotation.
        offset: The size of the current file in bytes; all before it can be read.
    """

    sequence: int
    inode: int
    offset: int


_decode: Callable[[bytes], Subscribe | Wrote] = msgspec.json.Decoder(Subscribe | Wrote).decode
_encode: Callable[[Subscribe | Wrote | Grown], bytes] = msgspec.json.Encoder().encode


class Log(Protocol):
    """The audit log, as far as this module knows it."""

    enabled: bool
    on_written: Callable[[], None]


class Events(PrivateSocket, UnixDatagramServer):
    """Notifies subscribers that the audit log has grown.

    ``_lock`` guards the subscribers and the sequence; nothing is sent while it is held.

    Args:
        path: The path of the log; the socket is in the same directory.

    Raises:
        OSError: The socket cannot be made.
    """

    max_packet_size = _MAX_DATAGRAM
    name = SOCKET

    def __init__(self, path: Path) -> None:
        self._log = path
        self._lock = threading.Lock()
        self._subscribers: dict[Any, float] = {}
        """The end of each subscription by address; the oldest first."""
        self._sequence = 0
        super().__init__(path.parent, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, name="events")
        self._thread.start()

    def subscribe(self, address: Any) -> None:
        """Notify that address for `LAPSE` seconds."""
        with self._lock:
            self._subscribers.pop(address, None)
            self._subscribers[address] = time.monotonic() + LAPSE
            while len(self._subscribers) > _MOST:
                del self._subscribers[next(iter(self._subscribers))]

    def notify(self) -> None:
        """Notify all subscribers. Can be called from any thread; never waits, never raises."""
        with self._lock:
            self._sequence += 1
            now = time.monotonic()
            for address in [one for one, end in self._subscribers.items() if end < now]:
                del self._subscribers[address]
            addresses = list(self._subscribers)
        if addresses:
            datagram = self.state_now()
            for address in addresses:
                self._send(datagram, address)

    def state_now(self) -> bytes:
        """Return the datagram with the present state."""
        try:
            info = os.stat(self._log)
            return _encode(Grown(self._sequence, info.st_ino, info.st_size))
        except OSError:
            return _encode(Grown(self._sequence, 0, 0))  # between a rotation and the next record

    def _send(self, datagram: bytes, address: Any) -> None:
        try:
            self.socket.sendto(datagram, socket.MSG_DONTWAIT, address)
        except BlockingIOError:
            pass  # the subscriber is slow: its next datagram shows the gap
        except OSError:
            with self._lock:  # the subscriber is gone
                self._subscribers.pop(address, None)

    def answer(self, address: Any) -> None:
        """Send the present state to one subscriber."""
        self._send(self.state_now(), address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of one datagram, and go on."""
        logger.exception("a datagram could not be handled")

    def stop(self) -> None:
        """Stop the thread, and remove the socket."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            self._subscribers.clear()
        self._unlink()
        self.server_close()
        os.close(self._directory)


class _Handler(DatagramRequestHandler):
    """Handles a subscription, or a notification from another process."""

    server: Events

    def handle(self) -> None:
        try:
            message = _decode(self.packet)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # from a later version, or malformed
        if isinstance(message, Wrote):
            self.server.notify()
        elif self.client_address:  # without an address, no reply is possible
            self.server.subscribe(self.client_address)
            self.server.answer(self.client_address)

    def finish(self) -> None:
        """Do nothing: the base class would send a reply here, and wait."""


def start_events(path: Path, log: Log) -> Events | None:
    """Notify followers of what is added to the audit log. If that fails, they poll the file.

    Args:
        path: The path of the log.
    """
    if not log.enabled:
        return None
    try:
        started = Events(path)
    except OSError as error:
        logger.warning("no notifications of new audit records: %s", error)
        return None
    log.on_written = started.notify
    return started


def announce(state: Path) -> None:
    """Ask the server of a state directory, if one runs, to notify its subscribers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            _ask(sock, state, Wrote())
        except OSError:
            pass  # no server, so there are no subscribers


def _ask(sock: socket.socket, state: Path, message: Subscribe | Wrote) -> None:
    """Send a datagram to the server. Raises OSError if there is none, or it is too busy."""
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sock.sendto(_encode(message), socket.MSG_DONTWAIT, address_of(directory, state, SOCKET))
    finally:
        os.close(directory)


class Follower:
    """Waits until the audit log may have grown. A context manager.

    While a server sends notifications, it sleeps until one arrives; otherwise the caller polls.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._renew_at = 0.0
        self._subscribed = False
        self._socket.setblocking(False)
        try:
            self._socket.bind("")  # Linux assigns an address that isn't a file
        except OSError:
            logger.debug("no address for notifications", exc_info=True)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self, seconds: float) -> None:
        """Wait for a notification of the server.

        Args:
            seconds: The time to sleep if no server sends notifications.
        """
        now = time.monotonic()
        if now >= self._renew_at:
            self._subscribed = self._subscribe()
            self._renew_at = now + _RENEW
        if not self._subscribed:
            time.sleep(seconds)
        elif select.select([self._socket], [], [], max(0.0, self._renew_at - now))[0]:
            self._drain()

    def _subscribe(self) -> bool:
        """Subscribe, and return True if a server has taken it. Its reply ends the wait at once, so
        that records written just before the subscription aren't missed."""
        if not self._socket.getsockname():
            return False
        try:
            _ask(self._socket, self._state, Subscribe())
        except OSError:
            return False
        return True

    def _drain(self) -> None:
        try:
            while self._socket.recv(_MAX_DATAGRAM):
                pass
        except BlockingIOError:
            pass
