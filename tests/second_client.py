"""A second client, written from docs/protocol.md alone.

Lives here: enough of a client to show that the document suffices. It imports nothing of this
product: a socket, msgpack and BLAKE3 are all that it takes, and ssl for a server that wants it.
Lives elsewhere: what is done with it (ftpserver/test_second_client.py).

It keeps few bytes unanswered, so that it may write without reading (see "Read while you write").
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any

from blake3 import blake3
from msgspec import msgpack

HEADER = struct.Struct(">IBI")
REQUEST, REPLY, ERROR, DATA, END, CANCEL, NOTICE = range(1, 8)
MAX_CONTROL = 128 * 1024
MAX_DATA = 4 * 1024 * 1024
PIECE = 256 * 1024
PATIENCE = 60.0

Message = dict[str, Any]


class Failure(Exception):
    """One request failed; the session goes on."""

    def __init__(self, failed: Message) -> None:
        super().__init__(f"{failed['code']}: {failed['message']}")
        self.code: str = failed["code"]
        self.needed: int | None = failed.get("needed")
        self.free: int | None = failed.get("free")


class Ended(Exception):
    """The connection has ended, for the reason that was told, if any."""

    def __init__(self, failed: Message | None = None) -> None:
        super().__init__("closed" if failed is None else f"{failed['code']}: {failed['message']}")
        self.code = None if failed is None else failed["code"]


def digest_of(data: bytes) -> bytes:
    return blake3(data).digest()


class SecondClient:
    """A logged-in session. A context manager; one thread.

    Args:
        context: For TLS: what decides whether the server's key is trusted.

    Attributes:
        server: What the server's HELLO said.
        notices: What came in NOTICE frames, each with the id of its request.
    """

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        password: str,
        *,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.notices: list[tuple[int, Message]] = []
        self._last_id = 0
        self._socket = socket.create_connection((host, port), PATIENCE)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
            self.server = self._say_hello()
            self.user: str = self.ask("login", user=user, password=password)["user"]
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> SecondClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _say_hello(self) -> Message:
        hello = {
            "op": "hello",
            "version": 1,
            "software": "second/1",
            "features": [],
            "max_control": MAX_CONTROL,
            "max_data": MAX_DATA,
            "max_requests": 0,
            "max_unanswered": 0,
        }
        self._send(REQUEST, 0, b"FTPW" + msgpack.encode(hello))
        kind, request_id, payload = self._read()
        assert (kind, request_id, payload[:4]) == (REPLY, 0, b"FTPW")
        server = msgpack.decode(payload[4:])
        assert server["op"] == "hello" and server.get("version", 1) == 1
        return server

    # frames ------------------------------------------------------------------------------

    def _send(self, kind: int, request_id: int, payload: bytes = b"") -> None:
        self._socket.sendall(HEADER.pack(len(payload), kind, request_id) + payload)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise Ended
            data += piece
        return bytes(data)

    def _read(self) -> tuple[int, int, bytes]:
        """The next frame that is no NOTICE."""
        while True:
            size, kind, request_id = HEADER.unpack(self._exactly(HEADER.size))
            assert REQUEST <= kind <= NOTICE
            assert size <= (MAX_DATA if kind == DATA else MAX_CONTROL)
            payload = self._exactly(size)
            if kind == NOTICE:
                self.notices.append((request_id, msgpack.decode(payload)))
            elif kind == ERROR and request_id == 0:
                raise Ended(msgpack.decode(payload))
            else:
                return kind, request_id, payload

    # requests and replies ----------------------------------------------------------------

    def send(self, op: str, **fields: Any) -> int:
        """Send a request without waiting; its id."""
        self._last_id += 1
        self._send(REQUEST, self._last_id, msgpack.encode({"op": op, **fields}))
        return self._last_id

    def cancel(self, request_id: int) -> None:
        """Ask for a request to be stopped, or close a put."""
        self._send(CANCEL, request_id)

    def _next(self, request_id: int) -> tuple[int, Any]:
        """The next frame of a request: answers come in order. Raises Failure."""
        kind, found, payload = self._read()
        assert found == request_id, f"an answer to {found}, not to {request_id}"
        if kind == ERROR:
            raise Failure(msgpack.decode(payload))
        return kind, payload if kind == DATA else msgpack.decode(payload)

    def answer(self, request_id: int) -> Message:
        """The one REPLY to a request."""
        kind, message = self._next(request_id)
        assert kind == REPLY
        return message

    def ask(self, op: str, **fields: Any) -> Message:
        """Send a request and wait for its one REPLY."""
        return self.answer(self.send(op, **fields))

    # uploads -----------------------------------------------------------------------------

    def send_small(self, path: bytes, data: bytes, **fields: Any) -> int:
        """Send a whole upload without waiting; the id of its request."""
        request_id = self.send("put", path=path, size=len(data), **fields)
        if data:
            self._send(DATA, request_id, data)
        self._send_end(request_id, data)
        return request_id

    def _send_end(self, request_id: int, data: bytes) -> None:
        sent = {"op": "sent", "size": len(data), "digest": digest_of(data)}
        self._send(END, request_id, msgpack.encode(sent))

    def put(
        self,
        path: bytes,
        data: bytes,
        *,
        resume: bool = True,
        give_up_at: int | None = None,
        **fields: Any,
    ) -> int:
        """Upload with ``ask``; returns the offset from which on it was sent.

        Args:
            give_up_at: Cancel it before this byte; it raises Failure then.
        """
        request_id = self.send("put", path=path, size=len(data), ask=True, resume=resume, **fields)
        try:
            ready = self.answer(request_id)
        except Failure:
            self.cancel(request_id)  # every put has to be closed
            raise
        offset = ready.get("offset", 0)
        if offset and digest_of(data[:offset]) != ready["digest"]:
            self.cancel(request_id)
            try:
                self.answer(request_id)
            except Failure as failure:
                assert failure.code == "cancelled"
            return self.put(path, data, resume=False, give_up_at=give_up_at, **fields)
        for at in range(offset, len(data), PIECE):
            if give_up_at is not None and at >= give_up_at:
                self.cancel(request_id)
                break
            if self._something_came():  # only a refusal can come now
                try:
                    self.answer(request_id)
                except Failure:
                    self.cancel(request_id)
                    raise
            self._send(DATA, request_id, data[at : at + PIECE])
        else:
            self._send_end(request_id, data)
        assert self.answer(request_id) == {"op": "stored", "size": len(data)}
        return offset

    def _something_came(self) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return bool(select.select([self._socket], [], [], 0)[0])

    # listings and downloads --------------------------------------------------------------

    def list(self, path: bytes, **fields: Any) -> dict[bytes, list[Any]]:
        """The entries at and below a path, by their paths relative to it.

        Raises Failure for the first problem in it, if there is one.
        """
        request_id = self.send("list", path=path, **fields)
        found: dict[bytes, list[Any]] = {}
        problems, complete = [], []
        for page in self._pages(request_id):
            directory = page.get("directory", b"")
            assert directory not in complete
            for name, *entry in page.get("entries", []):
                found[directory + b"/" + name if directory else name] = entry
            problems += page.get("problems", [])
            if page.get("complete"):
                complete.append(directory)
        for _, code, message, *_ in problems:
            raise Failure({"code": code, "message": message})
        return found

    def _pages(self, request_id: int) -> Iterator[Message]:
        while True:
            kind, message = self._next(request_id)
            if kind == END:
                assert message["op"] == "listed"
                return
            assert (kind, message["op"]) == (REPLY, "page")
            yield message

    def get(self, path: bytes, have: bytes = b"", *, cancel: bool = False) -> tuple[bytes, int]:
        """A file's bytes, and the offset from which on they were sent.

        Args:
            have: What is here of it already.
            cancel: Give it up when the first bytes have come; it raises Failure then.
        """
        fields = {"offset": len(have), "prefix": digest_of(have)} if have else {}
        request_id = self.send("get", path=path, **fields)
        sending = self.answer(request_id)
        assert sending["op"] == "sending"
        offset = sending.get("offset", 0)
        data = bytearray(have[:offset])
        while True:
            kind, message = self._next(request_id)
            if kind != DATA:
                break
            data += message
            if cancel:
                self.cancel(request_id)
                cancel = False
        assert (kind, message["op"]) == (END, "sent")
        assert len(data) == message["size"] == sending["size"]
        assert message.get("digest") in (None, digest_of(bytes(data)))
        return bytes(data), offset
