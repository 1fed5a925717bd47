"""The other side of a connection, frame by frame: a client without manners, a server without any.

Lives here: a socket that sends hand-made frames and reads whole ones, and a server whose every
word is a test's own. Lives elsewhere: what the two programs do with them (the tests).
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from ftpclient.connection.addresses import ServerAddress
from ftpwire import frames, messages
from ftpwire.frames import HEADER, HEADER_SIZE, Kind
from ftpwire.messages import Failed, Hello, LoggedIn, Login, Message

PATIENCE = 60.0
"""Seconds after which a test is given up that waits for a frame. No test takes so long."""


class Frame(NamedTuple):
    """One whole frame, as it came."""

    kind: Kind
    request_id: int
    payload: bytes

    @property
    def message(self) -> Any:
        """What its payload means."""
        match self.kind:
            case Kind.REPLY:
                return messages.decode_reply(self.payload)
            case Kind.END:
                return messages.decode_ending(self.payload)
            case Kind.ERROR:
                return messages.decode_failed(self.payload)
            case Kind.NOTICE:
                return messages.decode_notice(self.payload)
            case Kind.REQUEST:
                return messages.decode_request(self.payload)
        return self.payload


class Peer:
    """A connected socket that speaks in frames. Ids of requests count from 1.

    As a context manager it closes the socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.socket = sock
        self._last_id = 0

    @classmethod
    def connect(
        cls,
        address: tuple[str, int],
        *,
        context: ssl.SSLContext | None = None,
        buffers: int | None = None,
    ) -> Peer:
        """Connect. ``buffers``: bytes of the socket's own buffers, each way."""
        sock = socket.socket()
        try:
            if buffers is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            sock.settimeout(PATIENCE)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                sock = context.wrap_socket(sock)
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close. Can be called twice."""
        self.socket.close()

    def reset(self) -> None:
        """Vanish: the other side gets a reset."""
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        self.socket.close()

    # sending -----------------------------------------------------------------------------

    def send(self, *pieces: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(b"".join(pieces))

    def frame(self, kind: int, request_id: int, payload: bytes | Message = b"") -> None:
        """Send one frame."""
        self.send(frame(kind, request_id, payload))

    def request(self, message: Message, *, cancelled: bool = False) -> int:
        """Send a request; returns its id.

        Args:
            cancelled: Send its CANCEL along: the server has both before it can answer.
        """
        self._last_id += 1
        cancel = frame(Kind.CANCEL, self._last_id) if cancelled else b""
        self.send(frame(Kind.REQUEST, self._last_id, message), cancel)
        return self._last_id

    def hello(self, **fields: Any) -> Hello:
        """Say HELLO as a client; returns the server's."""
        self.frame(Kind.REQUEST, 0, messages.encode_hello(Hello(**fields)))
        answer = self.read()
        assert answer.kind == Kind.REPLY, answer
        return messages.decode_hello(answer.payload)

    def log_in(self, user: str = "alice", password: str = "secret") -> None:
        """Say HELLO and log in, as a client."""
        self.hello()
        found = self.ask(Login(user, password))
        assert isinstance(found, LoggedIn) and found.user == user, found

    def greet(self, **fields: Any) -> None:
        """Take a client's HELLO and log-in, as a server."""
        first = self.read()
        messages.decode_hello(first.payload)
        values = {
            "max_control": frames.MAX_CONTROL,
            "max_data": frames.MAX_DATA,
            "max_requests": 100,
            "max_unanswered": 2**20,
        }
        self.frame(Kind.REPLY, 0, messages.encode_hello(Hello(**values | fields)))
        login = self.read()
        self.reply(login, LoggedIn(login.message.user))

    def reply(self, request: Frame | int, message: Message) -> None:
        """Answer a request, as a server."""
        kind = Kind.ERROR if isinstance(message, Failed) else Kind.REPLY
        self.frame(kind, getattr(request, "request_id", request), message)

    # receiving ---------------------------------------------------------------------------

    def receive(self, count: int) -> bytes:
        """Exactly ``count`` bytes. Raises EOFError."""
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError(f"the connection ended after {len(data)} of {count} bytes")
            data += piece
        return bytes(data)

    def read(self) -> Frame:
        """The next frame. Raises EOFError at the end."""
        size, kind, request_id = HEADER.unpack(self.receive(HEADER_SIZE))
        return Frame(Kind(kind), request_id, self.receive(size))

    def answer(self) -> Frame:
        """The next frame that is no NOTICE."""
        while (found := self.read()).kind == Kind.NOTICE:
            pass
        return found

    def ask(self, message: Message) -> Any:
        """Send a request and take its one reply."""
        request_id = self.request(message)
        found = self.answer()
        assert found.request_id == request_id, found
        return found.message

    def read_to_end(self) -> list[Frame]:
        """All frames until the connection ends, by whatever end."""
        found = []
        try:
            while True:
                found.append(self.read())
        except (EOFError, ConnectionError):
            return found

    def is_silent(self) -> bool:
        """Whether nothing is there to be read just now."""
        return not select.select([self.socket], [], [], 0)[0]


def frame(kind: int, request_id: int, payload: bytes | Message = b"") -> bytes:
    """One whole frame, of whatever kind."""
    if isinstance(payload, Message):
        payload = messages.encode(payload)
    return HEADER.pack(len(payload), kind, request_id) + payload


class FakeServer:
    """Listens, and does on each connection what a script says. A context manager.

    What goes wrong in the script fails the test, unless it is that the client has left.
    """

    def __init__(
        self, script: Callable[[Peer], object], *, context: ssl.SSLContext | None = None
    ) -> None:
        self._script = script
        self._context = context
        self._failures: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._peers = ExitStack()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="fake-server")
        self.connections = 0

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def address(self) -> ServerAddress:
        return ServerAddress("127.0.0.1", self.port, "alice")

    def __enter__(self) -> FakeServer:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._peers.close()
        if self._failures:
            raise self._failures[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,), name="fake-session")
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._context is not None:
                sock.settimeout(PATIENCE)
                sock = self._context.wrap_socket(sock, server_side=True)
            with Peer(sock) as peer:
                self._script(peer)
        except (EOFError, ConnectionError):
            pass  # the client has left
        except BaseException as error:
            self._failures.append(error)
        finally:
            sock.close()


def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    """Poll until the condition is true; returns what it gave. Fails after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not (result := condition()):
        assert time.monotonic() < deadline, f"never came about: {what or condition}"
        pause.wait(0.005)
    return result
