"""A proxy, TCP or Unix, that can hold a connection after some bytes, or cut it there.

Lives here: the network between a client and a server, as bad as a test wants it.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
from typing import Literal

Direction = Literal["up", "down"]
"""``up``: from the client to the server."""

_BUFFER = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends a reset
_numbers = itertools.count(1)


class Proxy:
    """Relays connections to ``target``, ``HOST:PORT`` or ``unix:PATH``, all together counted.

    Clients reach it at ``address``, which is of the same kind.

    A context manager. ``_state`` guards the limits, the counts and the list of sockets; it is
    never held across a socket call that can block.
    """

    def __init__(self, target: str) -> None:
        self._family, self._target = _parsed(target)
        self._state = threading.Condition()
        self._passed = {"up": 0, "down": 0}
        self._taken = {"up": 0, "down": 0}
        """Bytes that are relayed or about to be: every byte has a position of its own, however
        many connections there are."""
        self._hold: dict[str, int | None] = {"up": None, "down": None}
        self._hold_each: dict[str, int | None] = {"up": None, "down": None}
        self._passed_from: dict[socket.socket, int] = {}
        self._cut: dict[str, int | None] = {"up": None, "down": None}
        self._flip: dict[str, int | None] = {"up": None, "down": None}
        self._cuts: dict[str, list[int]] = {"up": [], "down": []}
        self._hangs: dict[str, list[int]] = {"up": [], "down": []}
        self._over = False
        self._sockets: list[socket.socket] = []
        self._hung: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._path: str | None = None
        self._listener = socket.socket(self._family)
        if isinstance(self._target, str):
            self._path = f"{self._target}.{next(_numbers)}"
            self._listener.bind(self._path)
            self.address = f"unix:{self._path}"
        else:
            self._listener.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._listener.listen()
        # what is held is held at the sender, and not in some buffer on the way
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def hold(self, direction: Direction, after: int) -> None:
        """Relay nothing beyond the first ``after`` bytes, until ``release``."""
        with self._state:
            self._hold[direction] = after
            self._state.notify_all()  # it may be further on than the last one

    def hold_each(self, direction: Direction, after: int) -> None:
        """Relay nothing beyond the first ``after`` bytes of each connection, until ``release``."""
        with self._state:
            self._hold_each[direction] = after

    def release(self) -> None:
        """Let everything through that was held."""
        with self._state:
            self._hold = {"up": None, "down": None}
            self._hold_each = {"up": None, "down": None}
            self._state.notify_all()

    def cut_after(self, direction: Direction, count: int) -> None:
        """Reset every connection once exactly ``count`` bytes were relayed; accept no more."""
        with self._state:
            self._cut[direction] = count

    def flip(self, direction: Direction, position: int) -> None:
        """Change the byte at ``position`` of what is relayed in that direction."""
        with self._state:
            self._flip[direction] = position

    def cut_at(self, direction: Direction, *counts: int) -> None:
        """Reset the connections whenever so many bytes were relayed in all; go on accepting."""
        with self._state:
            self._cuts[direction] = sorted(counts)

    def hang_at(self, direction: Direction, *counts: int) -> None:
        """Have the connections hang whenever so many bytes were relayed in all: they stay open,
        and nothing more passes through them, in neither direction. Later ones are not concerned."""
        with self._state:
            self._hangs[direction] = sorted(counts)

    def freeze(self) -> None:
        """Let nothing through any more: not on the connections that there are, for good, and not to
        clients that connect, until ``release``."""
        with self._state:
            self._hung.update(self._sockets)
            self._hold["down"] = 0

    def cut_newest(self) -> None:
        """Reset the newest connection alone; go on accepting."""
        with self._state:
            pair = self._sockets[-2:]
        self._end(*pair)

    def passed(self, direction: Direction) -> int:
        """Bytes relayed so far."""
        with self._state:
            return self._passed[direction]

    def cut(self) -> None:
        """Reset every connection now; accept no more."""
        with self._state:
            self._over = True
            sockets = [self._listener, *self._sockets]
            self._state.notify_all()
        for sock in sockets:
            try:
                if sock is not self._listener:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that is blocked on it
            except OSError:
                pass  # closed already

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *exception: object) -> None:
        self.cut()
        while self._threads:
            self._threads.pop().join()
        for sock in (self._listener, *self._sockets):
            sock.close()
        if self._path is not None:
            os.unlink(self._path)

    def _start(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, name="proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(self._family)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            with self._state:
                self._sockets += [client, server]
                if self._over:
                    return
            try:
                server.connect(self._target)
            except OSError:
                client.shutdown(socket.SHUT_RDWR)
                continue
            self._start(self._pump, "up", client, server)
            self._start(self._pump, "down", server, client)

    def _pump(self, direction: str, source: socket.socket, target: socket.socket) -> None:
        try:
            while True:
                space = self._room(direction, source)
                if not space:
                    return
                data = source.recv(space)
                with self._state:
                    if source in self._hung:
                        continue  # what was under way when it began to hang is lost, also an end
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(self._damaged(direction, data))
                with self._state:
                    hangs = self._hangs[direction]
                    if hangs and self._passed[direction] + len(data) >= hangs[0]:
                        hangs.pop(0)
                        self._hung.update(self._sockets)
                    self._passed[direction] += len(data)
                    self._passed_from[source] = self._passed_from.get(source, 0) + len(data)
                    cut = self._cut[direction]
                    if cut is not None and self._passed[direction] >= cut:
                        break
                    cuts = self._cuts[direction]
                    if cuts and self._passed[direction] >= cuts[0]:
                        cuts.pop(0)
                        self._end(*self._sockets)
                        return
        except OSError:
            pass  # one side is gone: so is the other
        self._end(source, target)
        if self._cut[direction] is not None:
            self.cut()

    def _damaged(self, direction: str, data: bytes) -> bytes:
        with self._state:
            position = self._flip[direction]
            at = -1 if position is None else position - self._taken[direction]
            self._taken[direction] += len(data)
        if 0 <= at < len(data):
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data

    def _room(self, direction: str, source: socket.socket) -> int:
        """Bytes that may be relayed now; waits while none may. 0: the proxy is over."""
        with self._state:
            while not self._over:
                if source in self._hung:
                    self._state.wait()
                    continue
                space = 64 * 1024
                hang = self._hangs[direction][0] if self._hangs[direction] else None
                soon = self._cuts[direction][0] if self._cuts[direction] else None
                for limit in (self._hold[direction], self._cut[direction], soon, hang):
                    if limit is not None:
                        space = min(space, limit - self._passed[direction])
                each = self._hold_each[direction]
                if each is not None:
                    space = min(space, each - self._passed_from.get(source, 0))
                if space > 0:
                    return space
                self._state.wait()
            return 0

    @staticmethod
    def _end(*sockets: socket.socket) -> None:
        for sock in sockets:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def _parsed(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if address.startswith("unix:"):
        return socket.AF_UNIX, address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    return socket.AF_INET, (host, int(port))
