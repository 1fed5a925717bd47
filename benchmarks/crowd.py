"""Many sessions at once: a helper process with thousands of sessions in one thread.

Lives here: sessions that use only the wire code, opening and closing them, sending requests in
turns, fetching a file, further log-ins; and the pipe that controls all of that.
Lives elsewhere: the measurements (engines.py), the servers (processes.py).

It is a separate process, so that its sockets and CPU time do not count for the measuring one. It is
started with a `Spec` in JSON, reads one JSON object per line, ``{"do": NAME, …}``, and replies to
each with another one.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import subprocess
import sys
import time
from collections import deque
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.measure import Failed
from benchmarks.processes import clean_environment
from ftpwire import digests, frames, messages
from ftpwire.channel import Channel
from ftpwire.errors import FtpError
from ftpwire.frames import FrameReader, Kind
from ftpwire.messages import Get, Hello, LoginToken, Stat
from ftpwire.tls import TlsPipe

PATIENCE = 120.0
"""The most seconds for any one reply."""
_PIECE = 512 * 1024


@dataclass(frozen=True)
class Spec:
    """The server and account of the sessions, and the file that they ask about.

    Attributes:
        certificate: The server's own certificate in PEM, which is trusted.
        path: A small file in the user's home.
    """

    port: int
    certificate: str
    user: str
    token: str
    path: str = "/small"


class Member:
    """One session. All methods but ``ask`` and ``answered`` block.

    Raises:
        FtpError: The server refused, or the connection was lost.
    """

    def __init__(self, spec: Spec, context: ssl.SSLContext) -> None:
        self._spec = spec
        self._kind = 0
        self.socket = socket.create_connection(("127.0.0.1", spec.port), PATIENCE)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._channel = Channel(self.socket, TlsPipe(context, server_side=False))
            self._reader = FrameReader(frames.MAX_CONTROL, frames.MAX_DATA)
            self._channel.handshake(self._deadline())
            hello = Hello(max_control=frames.MAX_CONTROL, max_data=frames.MAX_DATA)
            self._request(messages.encode_hello(hello))
            self._answer()
            self._request(messages.encode(LoginToken(spec.user, spec.token)))
            messages.decode_reply(self._answer())
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """Close the session."""
        self._channel.close()

    def ask(self) -> None:
        """Send a small request."""
        self._request(messages.encode(Stat(self._spec.path.encode())))

    def answered(self) -> bool:
        """Return True if the reply has arrived."""
        while True:
            if not self._reader.remaining and (header := self._reader.next_header()) is not None:
                self._kind = header.kind
            if self._reader.remaining and (payload := self._reader.payload()) is not None:
                if self._kind == Kind.ERROR:
                    raise Failed(f"refused: {messages.decode_failed(payload)}")
                messages.decode_reply(payload)
                return True
            if not self._channel.fill(self._reader):
                return False

    def fetch(self, path: str) -> int:
        """Get a file, and compare its digest with the server's. Return its size in bytes."""
        self._request(messages.encode(Get(path.encode())))
        messages.decode_reply(self._answer())
        hasher = digests.new()
        buffer = memoryview(bytearray(_PIECE))
        size = 0
        while (header := self._header()).kind == Kind.DATA:
            size += header.size
            while self._reader.remaining:
                taken = self._reader.take(self._reader.remaining)
                if taken:
                    hasher.update(taken)
                    continue
                count = self._channel.receive_into(buffer[: self._reader.remaining])
                if count:
                    self._reader.bypassed(count)
                    hasher.update(buffer[:count])
                else:
                    self._channel.wait(read=True, deadline=self._deadline())
        sent = messages.decode_sent(self._payload())
        if (sent.size, sent.digest) != (size, hasher.digest()):
            raise Failed(f"{path} arrived as {size} bytes with another digest")
        return size

    def _deadline(self) -> float:
        return time.monotonic() + PATIENCE

    def _request(self, payload: bytes) -> None:
        self._channel.queue(frames.frame(Kind.REQUEST, 1, payload))
        self._channel.flush(self._deadline())

    def _fill(self) -> None:
        while not self._channel.fill(self._reader):
            self._channel.wait(read=True, deadline=self._deadline())

    def _header(self) -> frames.Header:
        while (header := self._reader.next_header()) is None:
            self._fill()
        return header

    def _payload(self) -> memoryview:
        while (payload := self._reader.payload()) is None:
            self._fill()
        return payload

    def _answer(self) -> memoryview:
        header = self._header()
        payload = self._payload()
        if header.kind == Kind.ERROR:
            raise Failed(f"refused: {messages.decode_failed(payload)}")
        return payload


class Crowd:
    """All sessions of the helper."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._context = ssl.create_default_context(cafile=spec.certificate)
        self._context.check_hostname = False
        self._members: list[Member] = []

    def open(self, count: int) -> dict[str, Any]:
        """Open COUNT more sessions, one after another."""
        began = time.perf_counter()
        for _ in range(count):
            self._members.append(Member(self._spec, self._context))
        return {"seconds": time.perf_counter() - began}

    def ask(self, seconds: float, at_once: int) -> dict[str, Any]:
        """Let the sessions send requests in turns, ``at_once`` of them at the same time."""
        resting = deque(self._members)
        count = 0
        with selectors.DefaultSelector() as selector:
            for _ in range(min(at_once, len(self._members))):
                _ask(resting.popleft(), selector)
            began = time.perf_counter()
            while (passed := time.perf_counter() - began) < seconds:
                for member in _answered(selector):
                    count += 1
                    resting.append(member)
                    _ask(resting.popleft(), selector)
            while selector.get_map():  # receive the outstanding replies
                _answered(selector)
        return {"rate": count / passed}

    def log_in(self, times: int) -> dict[str, Any]:
        """Log in another TIMES times. Return the milliseconds from connecting to the reply."""
        found = []
        for _ in range(times):
            began = time.perf_counter()
            member = Member(self._spec, self._context)
            found.append((time.perf_counter() - began) * 1000)
            member.close()
        return {"ms": found}

    def fetch(self, path: str) -> dict[str, Any]:
        """Get a file in a session of its own."""
        with closing(Member(self._spec, self._context)) as member:
            began = time.perf_counter()
            size = member.fetch(path)
            return {"rate": size / 1e9 / (time.perf_counter() - began)}

    def close(self) -> dict[str, Any]:
        """Close all sessions."""
        while self._members:
            self._members.pop().close()
        return {}


def _ask(member: Member, selector: selectors.BaseSelector) -> None:
    member.ask()
    selector.register(member.socket, selectors.EVENT_READ, member)


def _answered(selector: selectors.BaseSelector) -> list[Member]:
    """Wait for replies. Return the sessions that have one. Raises Failed if none arrives."""
    found = []
    events = selector.select(PATIENCE)
    if not events:
        raise Failed(f"no reply within {PATIENCE:.0f} s")
    for key, _ in events:
        if key.data.answered():
            selector.unregister(key.fd)
            found.append(key.data)
    return found


# the pipe ------------------------------------------------------------------------------------


class Helper:
    """The helper process, controlled by a measurement. A context manager.

    Args:
        module: The module that the process runs.

    Raises:
        Failed: It could not carry out a command.
    """

    def __init__(self, spec: Spec, log: Path, module: str = "benchmarks.crowd") -> None:
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(asdict(spec))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=clean_environment({"PYTHONPATH": str(Path(__file__).parent.parent)}),
                start_new_session=True,
            )

    def do(self, what: str, **arguments: object) -> dict[str, Any]:
        """Send a command, and wait for the reply."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{what}: the helper has ended") from None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "it has ended"}
        if "failed" in answer:
            raise Failed(f"{what}: {answer['failed']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()


def main(arguments: list[str]) -> None:
    """Run the helper process."""
    from ftpserver.net.descriptors import raise_descriptor_limit

    raise_descriptor_limit()
    crowd = Crowd(Spec(**json.loads(arguments[0])))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(crowd, request.pop("do"))(**request)
        except (FtpError, OSError, Failed) as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
