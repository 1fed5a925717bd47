"""The examples run, greet, and end: each as a program, as a reader would start it."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ftpwire.frames import HEADER_SIZE, Kind, frame
from tests.system.programs import PATIENCE, Programs, clean_environment, finish

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVERS = [
    "threading_server",
    "forking_server",
    "unix_server",
    "select_server",
    pytest.param(
        "poll_server",
        marks=pytest.mark.skipif(not hasattr(select, "poll"), reason="no poll() here"),
    ),
    pytest.param(
        "epoll_server",
        marks=pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll() here"),
    ),
    "asyncio_server",
]
"""Those that serve several clients at the same time."""


class Example:
    """A running example.

    Attributes:
        where: What client.py takes for it.
    """

    def __init__(self, programs: Programs, name: str, place: Path) -> None:
        self.name = name
        self._place = place
        self.process = programs.start(
            [sys.executable, str(EXAMPLES / f"{name}.py"), "socket" if "unix" in name else "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=place,
            env=clean_environment(place),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("listening on "), self.process.communicate()
        self.where = line.split()[-1]

    def connect(self) -> socket.socket:
        if self.where.isdigit():
            return socket.create_connection(("127.0.0.1", int(self.where)), timeout=PATIENCE)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(str(self._place / self.where))
        return sock

    def end(self) -> str:
        """Press Ctrl-C; gives what it wrote to stderr."""
        self.process.send_signal(signal.SIGINT)
        return finish(self.process).err


@pytest.fixture(autouse=True)
def ctrl_c_counts():
    """Also where the tests run in the background, and have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def programs():
    started = Programs()
    yield started
    started.close()


@pytest.fixture
def start(programs, tmp_path):
    """Starts an example that serves."""
    return lambda name: Example(programs, name, tmp_path)


@pytest.fixture
def run(programs, tmp_path):
    """Runs an example to its end; gives its lines."""

    def lines(name: str, *arguments: str) -> list[str]:
        command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
        return programs.run(command, cwd=tmp_path, env=clean_environment(tmp_path)).lines

    return lines


def greeted(sock: socket.socket, name: bytes, *, slowly: bool = False) -> bytes:
    """The frame that comes back for a name."""
    requested = frame(Kind.REQUEST, 7, name)
    for piece in [requested[i : i + 1] for i in range(len(requested))] if slowly else [requested]:
        sock.sendall(piece)
    expected = HEADER_SIZE + len(b"Hello, !") + len(name)
    answer = b""
    while len(answer) < expected and (piece := sock.recv(expected - len(answer))):
        answer += piece
    return answer


def greeting(name: bytes) -> bytes:
    return frame(Kind.REPLY, 7, b"Hello, %b!" % name)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server(name, start, run, tmp_path):
    server = start(name)
    with server.connect() as idle, server.connect() as slow, server.connect() as rude:
        assert run("client", server.where, "Ada", "Grace", "") == [
            "Hello, Ada!",
            "Hello, Grace!",
            "Hello, !",
        ]
        assert greeted(slow, b"Konrad", slowly=True) == greeting(b"Konrad")
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert rude.recv(100) == b""  # that conversation is over; the others are not
        rude.close()
        long = b"x" * 3000
        assert greeted(slow, long) == greeting(long)
        assert greeted(idle, b"Emmy") == greeting(b"Emmy")
        if name == "forking_server":  # it waits for those that are being served
            idle.close()
            slow.close()
        assert "Traceback" not in server.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("threading_server", marks=pytest.mark.system),
        pytest.param("select_server", marks=pytest.mark.system),
        "asyncio_server",
    ],
)
def test_a_client_that_only_sends_is_not_read_for_ever(name, start):
    server = start(name)
    with server.connect() as sock:
        sock.settimeout(0.5)
        many = frame(Kind.REQUEST, 1, b"") * 10_000
        with pytest.raises(TimeoutError):
            for _ in range(1000):  # 90 MB: no system keeps so much for us
                sock.sendall(many)
        with server.connect() as other:
            assert greeted(other, b"Ada") == greeting(b"Ada")
        server.end()


def test_the_greeting(start, run):
    server = start("greeting_server")
    for name in ("Ada", "Grace"):
        assert run("greeting_client", server.where, name) == [f"Hello, {name}!"]
    server.end()


def test_one_connection_and_no_more(start, run):
    server = start("once_server")
    assert run("client", server.where, "Ada") == ["Hello, Ada!"]
    finish(server.process)  # by itself


def test_datagrams(start, run):
    server = start("udp_server")
    address = ("127.0.0.1", int(server.where))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        for datagram in (b"", b"junk", b"GET / HTTP/1.1", frame(Kind.REQUEST, 7, b"Ada")):
            sock.sendto(datagram, address)
        assert sock.recv(100) == greeting(b"Ada")  # for junk nothing came, not even emptiness
    assert run("udp_client", server.where, "Grace") == ["Hello, Grace!"]
    assert server.end() == ""


def test_datagrams_by_path(start, run, tmp_path):
    server = start("unix_datagram_server")
    place = str(tmp_path / server.where)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
    requested = frame(Kind.REQUEST, 7, b"Ada")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(requested, place)  # there is no way back to it
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(str(tmp_path / "mine"))
        for datagram in (b"junk", requested):
            sock.sendto(datagram, place)
        assert sock.recv(100) == greeting(b"Ada")
    (tmp_path / "mine").unlink()
    assert run("udp_client", server.where, "Grace") == ["Hello, Grace!"]
    assert server.end() == ""
    assert list(tmp_path.iterdir()) == []


def test_nobody_answers_a_datagram(programs, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, str(EXAMPLES / "udp_client.py"), str(port), "Ada"]
    env = clean_environment(tmp_path)
    assert programs.run(command, status=1, cwd=tmp_path, env=env).complaint == "no answer"


def numbers(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", line)]


def test_packets_stick_and_the_cure(run):
    sent, received = map(numbers, run("sticky_packets"))
    assert sum(received) == sum(sent)
    assert received != sent
    assert received[0] > sent[0], "the first two came glued together"
    sent, received = map(numbers, run("framed_packets"))
    assert received == sent


def test_each_example_is_short_and_tested():
    reported = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 40, path.name
        helper = path.stem in ("conversation", "nonblocking")
        assert helper or f'"{path.stem}"' in reported or path.name in reported
