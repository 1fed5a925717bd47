"""Connecting to a host name: its addresses are tried almost at the same time (RFC 8305).

Lives here: looking a name up, which address is tried when, which one is remembered.
Lives elsewhere: Unix sockets, TLS and all that follows (opening.py).

A second address is tried when the first has not answered after 250 ms, or at once when it has
failed. The one that answers first is used; the others are closed. It is remembered for as long
as the process runs, so that further connections, and those after a loss, try it first.
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
"""After which the next address is tried, beside the earlier ones."""
_MOST_NAMES = 64
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)


class _Target(msgspec.Struct, frozen=True):
    """One address of a name, as the socket module has it."""

    family: int
    address: tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.address[0])


_found: dict[tuple[str, int], list[_Target]] = {}
"""The addresses of names that have several; the one that answered comes first."""


class _NoneAnswered(Exception):
    """Every address has failed, each for its reason."""

    def __init__(self, failures: list[tuple[_Target, OSError]]) -> None:
        super().__init__()
        self.failures = failures


def connect(
    host: str, port: int, endpoint: str, *, seconds: float, interrupt: Interrupt | None
) -> socket.socket:
    """A TCP connection to the first address of a host that answers.

    Args:
        endpoint: What the server is called in messages.
        seconds: The most that one address may take.
        interrupt: Ends the wait.

    Raises:
        ConnectFailed: The name is not known, or no address has answered; each is named.
        Interrupted
    """
    name = (host, port)
    targets = _found.get(name) or _look_up(host, port)
    try:
        sock, winner = _first_of(targets, seconds, interrupt)
    except _NoneAnswered as none:
        _found.pop(name, None)  # the name may lead elsewhere by now
        raise ConnectFailed(f"{endpoint}: {_reasons(none.failures)}") from None
    if len(targets) > 1:
        if len(_found) >= _MOST_NAMES:
            _found.clear()
        _found[name] = [winner, *(one for one in targets if one != winner)]
    return sock


def _look_up(host: str, port: int) -> list[_Target]:
    """The addresses of a host, in the order in which to try them; the families take turns."""
    try:
        # as bytes where they say the same: a text takes the tables for names of other alphabets
        name = host.encode() if host.isascii() else host
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        reason = (error.strerror or str(error)).lower()
        raise ConnectFailed(f"{host}: {reason}") from None
    except (OSError, UnicodeError) as error:  # a label that is too long for any name
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
    """Trying all addresses of one host."""

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
        """The first that answers. Raises _NoneAnswered, Interrupted."""
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
        except OSError as error:  # the system doesn't have this family at all
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
        self._next_at = 0.0  # the next address needn't wait any longer

    def close(self) -> None:
        """Close the sockets that are still open, the winner apart."""
        for sock, _ in self._open.values():
            sock.close()
        self._open.clear()


def _reasons(failures: list[tuple[_Target, OSError]]) -> str:
    """Why no address has answered, with the addresses where there are several."""
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
