"""Log-ins one after another, and many idle sessions: a helper process, for one peer at a time.

Lives here: opening a session of each kind, and counting or keeping sessions.
Lives elsewhere: what is needed to open one (`Peer.session`), the servers' memory (processes.py).

It is a separate process, so that its thousands of sockets and its CPU time do not count for the
measuring one. ``python -m benchmarks.sessions log-ins SECONDS SPEC`` prints the number per second;
``… idle COUNT SPEC`` opens sessions, prints ``ready``, and keeps them until its input ends.
"""

from __future__ import annotations

import ftplib
import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Spec = dict[str, Any]
Close = Callable[[], object]
_WARM_UP = 3


def _open_ours(spec: Spec) -> Close:
    from ftpclient.client import Client

    client = Client(
        spec["server"],
        password=spec["password"],
        plaintext=spec["plaintext"],
        accept_new=True,
    )
    client.connect()
    return client.close


def _trusting(certificate: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


def _open_ftp(spec: Spec) -> Close:
    if spec["certificate"] is None:
        plain = ftplib.FTP()
        plain.connect("127.0.0.1", spec["port"])
        plain.login()
        return plain.close
    session = ftplib.FTP_TLS(context=_trusting(spec["certificate"]))
    session.connect("127.0.0.1", spec["port"])
    session.login()
    return session.close


def _open_http(spec: Spec) -> Close:
    """Open a connection and keep it after one request. There is no log-in."""
    connection: http.client.HTTPConnection
    if spec["certificate"] is None:
        connection = http.client.HTTPConnection("127.0.0.1", spec["port"])
    else:
        context = _trusting(spec["certificate"])
        connection = http.client.HTTPSConnection("127.0.0.1", spec["port"], context=context)
    connection.request("GET", "/nothing-there")
    connection.getresponse().read()
    return connection.close


def _open_command(spec: Spec) -> Close:
    """Start a client process, one per session."""
    process = subprocess.Popen(spec["idle"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        process.kill()
        raise OSError("no session")

    def close() -> None:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        process.wait()

    return close


OPEN: dict[str, Callable[[Spec], Close]] = {
    "ours": _open_ours,
    "ftp": _open_ftp,
    "http": _open_http,
    "command": _open_command,
}


def log_in_once(spec: Spec) -> None:
    """Connect, do the handshake, log in, close."""
    if spec["kind"] == "command":
        subprocess.run(spec["login"], check=True, stdin=subprocess.DEVNULL)
    else:
        OPEN[spec["kind"]](spec)()


def log_ins(seconds: float, spec: Spec) -> float:
    """Return the log-ins per second of one client that does nothing else."""
    for _ in range(_WARM_UP):
        log_in_once(spec)
    began = time.monotonic()
    count = 0
    while (passed := time.monotonic() - began) < seconds or count < _WARM_UP:
        log_in_once(spec)
        count += 1
    return count / passed


def idle(count: int, spec: Spec) -> None:
    """Open sessions, print ``ready``, and keep them until standard input ends."""
    closes = [OPEN[spec["kind"]](spec) for _ in range(count)]
    print("ready", flush=True)
    sys.stdin.read()
    for close in closes:
        close()


def main(arguments: list[str]) -> None:
    """Run the helper process."""
    what, amount, text = arguments
    spec = json.loads(text)
    os.environ.update(spec.get("environment", {}))
    if what == "idle":
        idle(int(amount), spec)
    else:
        print(log_ins(float(amount), spec))


if __name__ == "__main__":
    main(sys.argv[1:])
