"""Log-ins that fail: how long each kind takes, and many of them at once. A helper process.

Lives here: bare connections with invalid names and passwords, from many addresses of the loopback
network (127.0.0.0/8), so that no address is slowed down or banned.
Lives elsewhere: the measurements (suite.py).

``python -m benchmarks.unauthenticated timing COUNT SPEC`` tries each case of the spec COUNT times,
in turns, and prints the milliseconds as JSON. ``… flood WIDTH SPEC`` fails to log in on WIDTH
connections at once, prints ``ready``, continues until its input ends, and prints the number of
attempts since ``ready``.
"""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ftpwire import frames, messages
from ftpwire.frames import HEADER, HEADER_SIZE, Kind

Spec = dict[str, Any]
PATIENCE = 60.0
_TRIES = 3
"""The server closes a connection after this many failures."""


class UnauthenticatedClient:
    """A connection from a random address that has exchanged HELLO."""

    def __init__(self, spec: Spec) -> None:
        self._sock = socket.socket()
        try:
            self._sock.settimeout(PATIENCE)
            self._sock.bind((f"127.{random.randrange(1, 255)}.{random.randrange(256)}.1", 0))
            self._sock.connect(("127.0.0.1", spec["port"]))
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not spec["plaintext"]:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                self._sock = context.wrap_socket(self._sock)
            self._ask(0, messages.encode_hello(messages.Hello()))
        except BaseException:
            self._sock.close()
            raise

    def log_in(self, name: str, password: str) -> str:
        """Try to log in. Return the code of the refusal."""
        answer = self._ask(1, messages.encode(messages.Login(name, password)))
        return messages.decode_failed(answer).code

    def close(self) -> None:
        self._sock.close()

    def _ask(self, request_id: int, payload: bytes) -> bytes:
        self._sock.sendall(frames.frame(Kind.REQUEST, request_id, payload))
        size, _, _ = HEADER.unpack(self._receive(HEADER_SIZE))
        return self._receive(size)

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._sock.recv(count - len(data))
            if not piece:
                raise ConnectionError("the server closed the connection")
            data += piece
        return data


@contextmanager
def unauthenticated_client(spec: Spec) -> Iterator[UnauthenticatedClient]:
    """Open one connection, and close it afterwards."""
    opened = UnauthenticatedClient(spec)
    try:
        yield opened
    finally:
        opened.close()


def timing(count: int, spec: Spec) -> dict[str, list[float]]:
    """Return the milliseconds from the request to the refusal, for each case of the spec."""
    found: dict[str, list[float]] = {case: [] for case in spec["cases"]}
    for number in range(count + 1):
        cases = list(spec["cases"].items())
        random.shuffle(cases)  # so that periodic disturbances affect all cases alike
        for case, (name, password) in cases:
            with unauthenticated_client(spec) as one:
                began = time.perf_counter()
                code = one.log_in(name, password)
                took = time.perf_counter() - began
            if code != "login-refused":
                raise RuntimeError(f"{case}: {code}")
            if number:
                found[case].append(took * 1000)
    return found


def flood(width: int, spec: Spec) -> int:
    """Fail to log in until standard input ends. Return the number of attempts."""
    os.nice(19)  # as if from another machine: the server and its clients go first
    stop = threading.Event()
    begun = threading.Barrier(width + 1)
    tries = [0] * width

    def go_on(number: int) -> None:
        first = True
        while not stop.is_set():
            try:
                with unauthenticated_client(spec) as one:
                    for _ in range(_TRIES):
                        one.log_in(f"user{random.randrange(10**6)}", "wrong")
                        tries[number] += 1
                        if first:
                            begun.wait()
                            first = False
            except (OSError, ValueError):
                stop.wait(0.05)  # the server refused the connection: retry

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(width)]
    for thread in threads:
        thread.start()
    begun.wait()
    before = sum(tries)
    print("ready", flush=True)
    sys.stdin.read()
    count = sum(tries) - before
    stop.set()
    for thread in threads:
        thread.join()
    return count


def main(arguments: list[str]) -> None:
    """Run the helper process."""
    what, amount, text = arguments
    spec = json.loads(text)
    if what == "timing":
        print(json.dumps(timing(int(amount), spec)))
    else:
        print(flood(int(amount), spec), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
