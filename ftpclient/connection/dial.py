"""Connecting to a host name: several addresses are tried almost at the same time (RFC 8305).

Lives here: looking a name up, the order of its addresses, remembering the one that worked.
Lives elsewhere: Unix sockets, TLS and everything after it (opening.py).

A second address is tried when the first has not answered after 250 ms, or as soon as it has failed.
The first one that answers is used; the others are closed. It is remembered for the lifetime of the
process, so that further connections, and those after a loss, try it first.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from typing import Any

import msgspec

from ftpclient.connection.interrupt import Interrupt
from ftpwire.errors import ConnectFailed

_NEXT_SECONDS = 0.25
"""Delay before the next address is tried, in addition to the earlier ones."""
_MOST_NAMES = 64
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)


class _Target(msgspec.Struct, frozen=True):
    """One address of a name, in the form of the socket module."""

    family: int
    address: tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.address[0])


_found: dict[tuple[str, int], list[_Target]] = {}
"""The addresses of names that have several; the one that answered last time is first."""


class _NoneAnswered(Exception):
    """All addresses have failed, each for its own reason."""

    def __init__(self, failures: list[tuple[_Target, OSError]]) -> None:
        super().__init__()
        self.failures = failures


def connect(
    host: str, port: int, endpoint: str, *, seconds: float, interrupt: Interrupt | None
) -> socket.socket:
    """Return a TCP connection to the first address of a host that answers.

    Args:
        endpoint: Name of the server in error messages.
        seconds: The most seconds for each address.
        interrupt: Ends the wait when it is set.

    Raises:
        ConnectFailed: The name is unknown, or no address answered; each is named.
        Interrupted
    """
    name = (host, port)
    targets = _found.get(name) or _look_up(host, port)
    try:
        sock, winner = _first_of(targets, seconds, interrupt)
    except _NoneAnswered as none:
        _found.pop(name, None)  # the name may have other addresses by now
        raise ConnectFailed(f"{endpoint}: {_reasons(none.failures)}") from None
    if len(targets) > 1:
        if len(_found) >= _MOST_NAMES:
            _found.clear()
        _found[name] = [winner, *(one for one in targets if one != winner)]
    return sock


def _look_up(host: str, port: int) -> list[_Target]:
    """Return the addresses of a host, in the order in which to try them, alternating families."""
    try:
        # as bytes if it is ASCII: a str would load the tables for non-ASCII names
        name = host.encode() if host.isascii() else host
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        reason = (error.strerror or str(error)).lower()
        raise ConnectFailed(f"{host}: {reason}") from None
    except (OSError, UnicodeError) as error:  # e.g. a label that is too long
        raise ConnectFailed(f"{host}: {_words(error)}") from None
    by_family: dict[int, deque[_Target]] = {}
    for family, _, _, _, address in found:
        target = _Target(family, address)
        queue = by_family.setdefault(family, deque())
        if target not in queue:
            queue.append(target)
    ordered: list[_Target] = []
    while any(by_family.values()):
        ordered += [queue.popleft() for queue in by_family.values() if queue]
    return ordered


def _first_of(
    targets: list[_Target], seconds: float, interrupt: Interrupt | None
) -> tuple[socket.socket, _Target]:
    race = _Race(targets, seconds, interrupt)
    try:
        return race.run()
    finally:
        race.close()


class _Race:
    """Attempts to connect to all addresses of one host."""

    def __init__(self, targets: list[_Target], seconds: float, interrupt: Interrupt | None) -> None:
        self._left = deque(targets)
        self._seconds = seconds
        self._interrupt = interrupt
        self._poll = select.poll()
        if interrupt is not None:
            self._poll.register(interrupt.fileno(), select.POLLIN)
        self._open: dict[int, tuple[socket.socket, _Target]] = {}
        self._failures: list[tuple[_Target, OSError]] = []
        self._next_at = self._ends_at = time.monotonic()

    def run(self) -> tuple[socket.socket, _Target]:
        """Return the first connection. Raises _NoneAnswered, Interrupted."""
        while self._left or self._open:
            now = time.monotonic()
            if self._left and (not self._open or now >= self._next_at):
                self._start(self._left.popleft(), now)
                continue
            if not self._left and now >= self._ends_at:
                break
            until = self._next_at if self._left else self._ends_at
            if (winner := self._wait(max(0.0, until - now))) is not None:
                return winner
        late = [(target, TimeoutError("timed out")) for _, target in self._open.values()]
        raise _NoneAnswered([*self._failures, *late])

    def _start(self, target: _Target, now: float) -> None:
        self._next_at, self._ends_at = now + _NEXT_SECONDS, now + self._seconds
        try:
            sock = socket.socket(target.family, socket.SOCK_STREAM)
        except OSError as error:  # the system does not support this address family
            self._failures.append((target, error))
            return
        self._open[sock.fileno()] = (sock, target)
        sock.setblocking(False)
        number = sock.connect_ex(target.address)
        if number in (0, *_UNDER_WAY):
            self._poll.register(sock.fileno(), select.POLLOUT)
        else:
            self._failed(sock.fileno(), number)

    def _wait(self, seconds: float) -> tuple[socket.socket, _Target] | None:
        for fd, _ in self._poll.poll(seconds * 1000):
            if fd not in self._open:
                assert self._interrupt is not None
                self._interrupt.check()
                continue
            number = self._open[fd][0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not number:
                return self._open.pop(fd)
            self._poll.unregister(fd)
            self._failed(fd, number)
        return None

    def _failed(self, fd: int, number: int) -> None:
        sock, target = self._open.pop(fd)
        sock.close()
        self._failures.append((target, OSError(number, os.strerror(number))))
        self._next_at = 0.0  # try the next address at once

    def close(self) -> None:
        """Close the sockets that are still open, except the winner."""
        for sock, _ in self._open.values():
            sock.close()
        self._open.clear()


def _reasons(failures: list[tuple[_Target, OSError]]) -> str:
    """Return why no address answered, naming the addresses if there are several."""
    words = [_words(error) for _, error in failures]
    names = [str(target) for target, _ in failures]
    if len(set(words)) > 1:
        text = "; ".join(f"{name}: {word}" for name, word in zip(names, words, strict=True))
    elif len(names) > 1:
        text = f"{words[0]} ({', '.join(names)})"
    else:
        text = words[0]
    refused = any(error.errno == errno.ECONNREFUSED for _, error in failures)
    return text + (": is ftpd running there?" if refused else "")


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
