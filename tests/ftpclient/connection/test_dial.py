"""A host with several addresses: which is tried when, which is remembered, what a failure says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ftpclient import AsyncClient, Client
from ftpclient.connection import dial
from ftpclient.connection.interrupt import Interrupt
from ftpwire.errors import ConnectFailed, Interrupted
from tests.ftpclient.aio.async_support import Blocking

NAME = "files.test"


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch) -> None:
    monkeypatch.setattr(dial, "_found", {})


@pytest.fixture
def resolves(monkeypatch):
    """Has a name lead to addresses; gives a list that grows with each look-up."""
    requested: list[str] = []

    def to(*hosts: str) -> list[str]:
        def look_up(host, port, *, type=0, **_):
            requested.append(host.decode())  # as bytes: no tables of other alphabets are needed
            return [(_family(one), type, 6, "", _address(one, port)) for one in hosts]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return requested

    return to


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _address(host: str, port: int) -> tuple:
    return (host, port, 0, 0) if ":" in host else (host, port)


@contextlib.contextmanager
def listening(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    with socket.create_server((host, port)) as listener:
        yield listener


@contextlib.contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """An address that answers nothing: its queue is full, so the kernel drops what comes."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield


def reach(port: int, seconds: float = 5.0, interrupt=None) -> socket.socket:
    return dial.connect(NAME, port, f"{NAME}:{port}", seconds=seconds, interrupt=interrupt)


def peer_of(sock: socket.socket) -> str:
    with sock:
        return str(sock.getpeername()[0])


def test_the_second_is_tried_when_the_first_is_silent(resolves):
    resolves("127.0.0.2", "127.0.0.1")
    with listening() as listener:
        port = listener.getsockname()[1]
        with silent("127.0.0.2", port):
            began = time.monotonic()
            assert peer_of(reach(port)) == "127.0.0.1"
            assert time.monotonic() - began >= 0.25


def test_the_first_is_preferred_while_it_answers(resolves):
    resolves("127.0.0.2", "127.0.0.1")
    with listening("127.0.0.2") as listener:
        port = listener.getsockname()[1]
        with listening("127.0.0.1", port):
            assert peer_of(reach(port)) == "127.0.0.2"


def test_a_first_one_that_is_refused_is_not_waited_for(resolves, monkeypatch):
    monkeypatch.setattr(dial, "_NEXT_SECONDS", 60.0)
    resolves("127.0.0.2", "127.0.0.3", "127.0.0.1")
    with listening() as listener:
        assert peer_of(reach(listener.getsockname()[1])) == "127.0.0.1"


def test_what_answered_is_remembered_and_not_looked_up_again(resolves):
    requested = resolves("127.0.0.2", "127.0.0.1")
    with listening() as listener:
        port = listener.getsockname()[1]
        with silent("127.0.0.2", port):
            reach(port).close()
            began = time.monotonic()
            for _ in range(3):
                assert peer_of(reach(port)) == "127.0.0.1"
            assert time.monotonic() - began < 0.25
    assert requested == [NAME]


def test_after_all_have_failed_the_name_is_looked_up_again(resolves):
    requested = resolves("127.0.0.2", "127.0.0.1")
    with listening() as listener:
        port = listener.getsockname()[1]
        reach(port).close()
    with pytest.raises(ConnectFailed):
        reach(port)
    with pytest.raises(ConnectFailed):
        reach(port)
    assert requested == [NAME, NAME]


def test_the_remembered_one_that_fails_leaves_the_others(resolves):
    resolves("127.0.0.2", "127.0.0.1")
    with listening("127.0.0.2") as listener:
        port = listener.getsockname()[1]
        reach(port).close()
    with listening("127.0.0.1", port):
        assert peer_of(reach(port)) == "127.0.0.1"


def test_the_families_take_turns(resolves):
    resolves("::1", "::2", "::3", "127.0.0.1", "127.0.0.2")
    order = [str(one) for one in dial._look_up(NAME, 1)]
    assert order == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]


def test_an_error_names_each_address(resolves):
    resolves("127.0.0.2", "127.0.0.1")
    with listening() as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        reach(port)
    assert str(caught.value) == (
        f"{NAME}:{port}: connection refused (127.0.0.2, 127.0.0.1): is ftpd running there?"
    )
    with silent("127.0.0.2", port), pytest.raises(ConnectFailed) as caught:
        reach(port, 0.3)
    assert str(caught.value) == (
        f"{NAME}:{port}: 127.0.0.1: connection refused; 127.0.0.2: timed out: "
        "is ftpd running there?"
    )


def test_one_address_is_reported_as_before(resolves):
    resolves("127.0.0.1")
    with listening() as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        reach(port)
    assert str(caught.value) == f"{NAME}:{port}: connection refused: is ftpd running there?"


def test_a_family_that_the_system_does_not_have(resolves, monkeypatch):
    resolves("::1", "127.0.0.1")
    real = socket.socket

    def only_four(family=socket.AF_INET, *args, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args, **options)

    with listening() as listener:
        monkeypatch.setattr(socket, "socket", only_four)
        assert peer_of(reach(listener.getsockname()[1])) == "127.0.0.1"


def test_an_interrupt_ends_it(resolves):
    resolves("127.0.0.2")
    interrupt = Interrupt()
    with listening() as listener:
        port = listener.getsockname()[1]
        with silent("127.0.0.2", port):
            timer = threading.Timer(0.1, interrupt.set)
            timer.start()
            with pytest.raises(Interrupted):
                reach(port, 60.0, interrupt)
            timer.join()
    interrupt.close()


@pytest.mark.parametrize("kind", [Client, Blocking], ids=["blocking", "asyncio"])
def test_clients_and_their_further_connections_use_what_answered(server, resolves, tmp_path, kind):
    """Each of them would be refused by the first address otherwise, and wait for it."""
    port = server.server_address[1]
    requested = resolves("127.0.0.2", "127.0.0.1")
    (tmp_path / "tree").mkdir()
    for number in range(5):
        (tmp_path / "tree" / str(number)).write_bytes(b"x")
    with silent("127.0.0.2", port):
        client = kind(f"alice@{NAME}:{port}", password="secret", plaintext=True)
        try:
            summary = client.put([tmp_path / "tree"], "/", recursive=True, parallel=3)
            assert summary.done == 5
        finally:
            client.close()
    assert requested == [NAME]


def test_cancelling_does_not_wait_for_a_silent_address(resolves):
    resolves("127.0.0.2")

    async def main(port: int) -> None:
        client = AsyncClient(f"alice@{NAME}:{port}", password="secret", plaintext=True)
        task = asyncio.create_task(client.connect())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with listening() as listener:
        port = listener.getsockname()[1]
        with silent("127.0.0.2", port):
            asyncio.run(main(port))
