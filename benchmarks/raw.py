"""Clients that use little CPU time, which is then available to the server.

Lives here: a helper process with one session, which sends prepared requests, and receives the
replies without decoding them.
Lives elsewhere: controlling it (crowd.Helper), the measurements (several.py).

The length of a reply is found out by one request before. A large file is not even decrypted: the
kernel discards its bytes, which are only counted.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from typing import Any

from benchmarks.crowd import PATIENCE, Spec
from benchmarks.measure import Failed
from ftpwire import digests, frames, messages
from ftpwire.frames import HEADER, HEADER_SIZE, Kind
from ftpwire.messages import Get, Hello, LoginToken, Message, Put, Sent

BATCH = 200
"""Requests that are sent at once. The next batch is sent before the replies to one are received."""
_MUCH = 1024 * 1024


class Session:
    """One session over TLS.

    Raises:
        Failed: The server refused something, or ended the connection.
    """

    def __init__(self, spec: Spec) -> None:
        context = ssl.create_default_context(cafile=spec.certificate)
        context.check_hostname = False
        raw = socket.create_connection(("127.0.0.1", spec.port), PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(raw)
        self._buffer = memoryview(bytearray(_MUCH))
        self.kind = 0
        """The kind of the last frame."""
        hello = Hello(max_control=frames.MAX_CONTROL, max_data=frames.MAX_DATA)
        self.send(frames.frame(Kind.REQUEST, 0, messages.encode_hello(hello)))
        self.frame()
        self.send(request(LoginToken(spec.user, spec.token)))
        self.frame()

    def close(self) -> None:
        """Close the session."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor of its socket."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def frame(self) -> int:
        """Receive one frame. Return its size. Raises Failed for an ERROR."""
        size, kind, _ = HEADER.unpack(self._exactly(HEADER_SIZE))
        payload = self._exactly(size)
        if kind == Kind.ERROR:
            raise Failed(f"refused: {messages.decode_failed(payload)}")
        self.kind = kind
        return HEADER_SIZE + size

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise Failed("the server has closed the connection")
            data += piece
        return bytes(data)

    def answer(self, last: Kind) -> int:
        """Receive frames up to one of a kind. Return the number of bytes of all of them."""
        size = self.frame()
        while self.kind != last:
            size += self.frame()
        return size

    def drain(self, size: int) -> None:
        """Receive and discard SIZE bytes."""
        while size:
            count = self._socket.recv_into(self._buffer[: min(size, _MUCH)])
            if not count:
                raise Failed("the server has closed the connection")
            size -= count

    def discard(self, size: int) -> None:
        """Let the kernel discard SIZE encrypted bytes as they arrive. The session ends."""
        raw = socket.socket(fileno=self._socket.detach())
        raw.settimeout(PATIENCE)
        try:
            while size > 0:
                count = raw.recv_into(self._buffer, _MUCH, socket.MSG_TRUNC)
                if not count:
                    raise Failed("the server has closed the connection")
                size -= count
        finally:
            raw.close()


def request(message: Message) -> bytes:
    """Return a request's frame."""
    return frames.frame(Kind.REQUEST, 1, messages.encode(message))


class Client:
    """The commands of the helper process."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._session = Session(spec)
        self._named = 0
        """Number of names that have been used."""

    def down(self, path: str, seconds: float) -> dict[str, Any]:
        """Get a small file repeatedly."""
        one = request(Get(path.encode()))
        self._session.send(one)
        return self._repeat(one * BATCH, self._session.answer(Kind.END), seconds)

    def up(self, directory: str, size: int, seconds: float) -> dict[str, Any]:
        """Put small files; each batch replaces the files of the one before."""
        data = bytes(size)
        rest = frames.frame(Kind.DATA, 1, data)
        rest += frames.frame(Kind.END, 1, messages.encode(Sent(size, digests.digest(data))))
        names = [f"{directory}/{number}".encode() for number in range(BATCH)]
        puts = [request(Put(name, size, parents=True)) for name in names]
        self._session.send(puts[0] + rest)
        answer = self._session.answer(Kind.REPLY)
        return self._repeat(b"".join(put + rest for put in puts), answer, seconds)

    def one_by_one(self, directory: str, size: int, seconds: float) -> dict[str, Any]:
        """Put small files with new names, each after the reply to the one before."""
        data = bytes(size)
        rest = frames.frame(Kind.DATA, 1, data)
        rest += frames.frame(Kind.END, 1, messages.encode(Sent(size, digests.digest(data))))
        cpu, began = time.process_time(), time.perf_counter()
        count = 0
        while (passed := time.perf_counter() - began) < seconds:
            name = f"{directory}/{self._named}".encode()
            self._session.send(request(Put(name, size, parents=True)) + rest)
            self._session.answer(Kind.REPLY)
            self._named += 1
            count += 1
        return {"rate": count / passed, "cores": (time.process_time() - cpu) / passed}

    def _repeat(self, batch: bytes, answer: int, seconds: float) -> dict[str, Any]:
        cpu, began = time.process_time(), time.perf_counter()
        self._session.send(batch)
        count = 0
        while (passed := time.perf_counter() - began) < seconds:
            self._session.send(batch)
            self._session.drain(answer * BATCH)
            count += BATCH
        cpu = time.process_time() - cpu
        self._session.drain(answer * BATCH)
        return {"rate": count / passed, "cores": cpu / passed}

    def large(self, path: str, size: int, times: int) -> dict[str, Any]:
        """Get a large file TIMES times, each time in a session of its own."""
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(times):
            session = Session(self._spec)
            session.send(request(Get(path.encode())))
            session.discard(size)
        passed = time.perf_counter() - began
        return {
            "rate": times * size / 1e9 / passed,
            "cores": (time.process_time() - cpu) / passed,
        }


def main(arguments: list[str]) -> None:
    """Run the helper process."""
    client = Client(Spec(**json.loads(arguments[0])))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(client, request.pop("do"))(**request)
        except (OSError, Failed) as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
