"""Word of events: datagrams that tell local programs that the audit log has grown.

Lives here: the datagram socket in the state directory, who is told, and waiting to be told.
Lives elsewhere: the log itself (writer.py), reading it (reader.py), `ftpd log` (cli/log.py).

A datagram says that there is something to read, and up to where; what happened is in the file. So
nothing depends on a datagram: who is slow, and whose socket is full, sees a gap in the numbers, or
nothing at all, and reads the file from where it was. Nobody is ever waited for.
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
"""Seconds after which a subscription ends that was not renewed."""
_RENEW = 2.0
"""Seconds after which a follower subscribes again: the server may be another one by then."""
_MOST = 64
"""Subscribers; one more, and the one that has not renewed for the longest time is forgotten."""
_MAX_DATAGRAM = 1024


class _Tagged(msgspec.Struct, frozen=True, tag_field="is"):
    """Base of all datagrams; they are JSON."""


class Subscribe(_Tagged, frozen=True, tag="subscribe"):
    """Tell the sender from now on, for `LAPSE` seconds. Answer: `Grown`, as things are now."""


class Wrote(_Tagged, frozen=True, tag="wrote"):
    """Another process has added to the log: tell all subscribers. There is no answer."""


class Grown(_Tagged, frozen=True, tag="grown"):
    """The log was written to.

    Attributes:
        sequence: Counts from the start of the server. What is missing in between was not told.
        inode: Of the current file; another one than before after a rotation.
        offset: Its size in bytes. What is in front of it is there to read.
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
    """Tells subscribers that the audit log has grown.

    ``_lock`` guards the subscribers and the sequence; nothing is sent while it is held.

    Args:
        path: Of the log; the socket lies beside it.

    Raises:
        OSError: The socket can't be made.
    """

    max_packet_size = _MAX_DATAGRAM
    name = SOCKET

    def __init__(self, path: Path) -> None:
        self._log = path
        self._lock = threading.Lock()
        self._subscribers: dict[Any, float] = {}
        """By the address of each, when its subscription ends; the oldest one first."""
        self._sequence = 0
        super().__init__(path.parent, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, name="events")
        self._thread.start()

    def subscribe(self, address: Any) -> None:
        """Tell that address for a while."""
        with self._lock:
            self._subscribers.pop(address, None)
            self._subscribers[address] = time.monotonic() + LAPSE
            while len(self._subscribers) > _MOST:
                del self._subscribers[next(iter(self._subscribers))]

    def tell(self) -> None:
        """Tell all that the log has grown. Called from any thread; never waits, never raises."""
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
        """The datagram that tells how things are."""
        try:
            info = os.stat(self._log)
            return _encode(Grown(self._sequence, info.st_ino, info.st_size))
        except OSError:
            return _encode(Grown(self._sequence, 0, 0))  # between a rotation and the next record

    def _send(self, datagram: bytes, address: Any) -> None:
        try:
            self.socket.sendto(datagram, socket.MSG_DONTWAIT, address)
        except BlockingIOError:
            pass  # it is slow: the next one that it gets shows the gap
        except OSError:
            with self._lock:  # it is gone
                self._subscribers.pop(address, None)

    def answer(self, address: Any) -> None:
        """Tell one how things are."""
        self._send(self.state_now(), address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A datagram that couldn't be handled: logged, the rest goes on."""
        logger.exception("a datagram could not be handled")

    def stop(self) -> None:
        """Tell nobody any more, and remove the socket."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            self._subscribers.clear()
        self._unlink()
        self.server_close()
        os.close(self._directory)


class _Handler(DatagramRequestHandler):
    """A subscription, or word from another process."""

    server: Events

    def handle(self) -> None:
        try:
            asked = _decode(self.packet)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # of a later version, or a mistake
        if isinstance(asked, Wrote):
            self.server.tell()
        elif self.client_address:  # else there is no way back
            self.server.subscribe(self.client_address)
            self.server.answer(self.client_address)

    def finish(self) -> None:
        """Nothing is left to send: answers never wait, as this would."""


def start_events(path: Path, log: Log) -> Events | None:
    """Tell of what is added to the audit log. Where that is impossible, followers look themselves.

    Args:
        path: Of the log.
    """
    if not log.enabled:
        return None
    try:
        started = Events(path)
    except OSError as error:
        logger.warning("nobody is woken by what is added to the audit log: %s", error)
        return None
    log.on_written = started.tell
    return started


def announce(state: Path) -> None:
    """Have the server that runs on a state directory, if one does, tell of what was added."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            _ask(sock, state, Wrote())
        except OSError:
            pass  # no server: nobody has subscribed


def _ask(sock: socket.socket, state: Path, asked: Subscribe | Wrote) -> None:
    """Send a datagram to the server. Raises OSError when there is none, or it is too busy."""
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sock.sendto(_encode(asked), socket.MSG_DONTWAIT, address_of(directory, state, SOCKET))
    finally:
        os.close(directory)


class Follower:
    """Waits until the audit log may have grown. A context manager.

    While a server tells, it sleeps until then; otherwise the log has to be looked at.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._renew_at = 0.0
        self._told = False
        self._socket.setblocking(False)
        try:
            self._socket.bind("")  # Linux draws an address that is no file
        except OSError:
            logger.debug("no address to be told at", exc_info=True)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self, seconds: float) -> None:
        """Until the server tells of something.

        Args:
            seconds: To wait instead, where no server does.
        """
        now = time.monotonic()
        if now >= self._renew_at:
            self._told = self._subscribe()
            self._renew_at = now + _RENEW
        if not self._told:
            time.sleep(seconds)
        elif select.select([self._socket], [], [], max(0.0, self._renew_at - now))[0]:
            self._drain()

    def _subscribe(self) -> bool:
        """Whether a server tells from now on. Its answer wakes at once: what came just before the
        subscription isn't missed."""
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
