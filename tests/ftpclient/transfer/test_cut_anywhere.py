"""A connection that ends, or hangs, anywhere in a transfer: the old file or the new one, whole.

Lives elsewhere: going on afterwards (test_resume.py), programs that are killed (tests/system).
"""

from __future__ import annotations

import os
import threading

import pytest

from ftpclient import Client
from ftpclient.connection import protocol
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.known_hosts import KnownHosts
from ftpwire.errors import ConnectFailed, ConnectionLost, FtpError, Interrupted, NotFound
from tests.system import trees
from tests.system.programs import eventually
from tests.system.proxy import Proxy

MIB = 2**20
OLD = b"the old file"
SIZES = {"small": 10_000, "streamed": MIB, "asked": 5 * MIB}
"""One for each way in which a file is sent."""


@pytest.fixture
def through(tmp_path, connect, start_server):
    """A proxy, and clients that come through it."""
    proxies = []
    clients = []

    def make(server, **options) -> tuple[Proxy, Client]:
        proxies.append(Proxy(server.address).__enter__())
        values = {
            "password": "secret",
            "plaintext": server.settings.plaintext,
            "retries": 0,
            "accept_new": True,
            "known_hosts": KnownHosts(tmp_path / "known_hosts"),
        }
        clients.append(Client(f"alice@{proxies[-1].address}", **values | options))
        return proxies[-1], clients[-1]

    def close() -> None:
        for client in clients:
            client.close()
        for proxy in proxies:
            proxy.__exit__(None, None, None)
        clients.clear()
        proxies.clear()

    make.close = close
    yield make
    close()


@pytest.fixture
def home(server):
    directory = server.settings.root / "alice"
    directory.mkdir(exist_ok=True)
    return directory


def cuts(size: int) -> list[int]:
    """Bytes after which to cut: around each frame of the opening, and in the data."""
    return sorted({1, 9, 80, 150, 240, size // 3, size - 1, size, size + 8, size + 150, size + 300})


def left(directory) -> set[str]:
    """What is there beside whole files: staging, and partial files."""
    staging = directory / ".ftpd-staging"
    found = set(os.listdir(staging)) - {"lock", "numbers"} if staging.exists() else set()
    return found | {name for name in os.listdir(directory) if name.endswith(".part")}


def given_back(server) -> None:
    """Wait until nothing is held, and no session is left."""
    eventually(lambda: not server.service.sessions)
    space = server.service.ledger.space(server.accounts.get("alice").id)
    assert space.held == 0


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_put_that_is_cut_anywhere(start_server, tmp_path, through, size):
    server = start_server(durable=False)
    home = server.settings.root / "alice"
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    for _ in range(2):  # what replaces a file has other answers
        proxy, client = through(server)
        client.put([source], "/file", resume=False)
        up, down = proxy.passed("up"), proxy.passed("down")
    for count in [count for count in cuts(size) if count < up]:
        (home / "file").write_bytes(OLD)
        proxy, client = through(server)
        proxy.cut_after("up", count)
        with pytest.raises((ConnectionLost, ConnectFailed)):
            client.put([source], "/file", resume=False)
        assert (home / "file").read_bytes() == OLD, f"cut after {count} bytes"
    for back in (60, 10, 1):  # in the answer: it may be stored by then, and then it is whole
        proxy, client = through(server)
        proxy.cut_after("down", down - back)
        with pytest.raises(ConnectionLost):
            client.put([source], "/file", resume=False)
        assert (home / "file").read_bytes() in (OLD, source.read_bytes())
    through(server)[1].put([source], "/file")
    trees.same(source, home / "file")
    through.close()
    eventually(lambda: not left(home), "staging is cleaned")
    assert set(os.listdir(home)) == {"file", ".ftpd-staging", ".ftpd-trash"}
    given_back(server)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_get_that_is_cut_anywhere(start_server, tmp_path, through, size):
    server = start_server(durable=False)
    (server.settings.root / "alice" / "file").write_bytes(os.urandom(size))
    target = tmp_path / "target" / "file"
    target.parent.mkdir()
    proxy, client = through(server)
    client.get(["/file"], target)
    total = proxy.passed("down")
    target.write_bytes(OLD)
    for count in [count for count in cuts(size) if count < total]:
        proxy, client = through(server)
        proxy.cut_after("down", count)
        with pytest.raises((ConnectionLost, ConnectFailed)):
            client.get(["/file"], target, resume=False)
        assert target.read_bytes() == OLD, f"cut after {count} bytes"
        if count < 4 * MIB:  # less isn't worth keeping
            assert not left(target.parent), f"cut after {count} bytes"
    through(server)[1].get(["/file"], target)
    trees.same(server.settings.root / "alice" / "file", target)
    assert not left(target.parent)


@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_transfer_through_tls_that_is_cut(start_server, tmp_path, through, verb):
    server = start_server(plaintext=False, durable=False)
    home = server.settings.root / "alice"
    local = tmp_path / "local"
    local.mkdir()
    source, target = (local, home) if verb == "put" else (home, local)
    (source / "new").write_bytes(os.urandom(MIB))
    (target / "file").write_bytes(OLD)
    ends = ([local / "new"], "/file") if verb == "put" else (["/new"], local / "file")
    for count in (1, 400, 1700, 3000, 100_000, MIB):
        proxy, client = through(server)
        proxy.cut_after("up" if verb == "put" else "down", count)
        with pytest.raises(FtpError) as caught:
            getattr(client, verb)(*ends)
        assert caught.value.exit_code == 4
        assert (target / "file").read_bytes() == OLD
    getattr(through(server)[1], verb)(*ends)
    assert (target / "file").read_bytes() == (source / "new").read_bytes()


# a connection that hangs -------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["put", "get", "list"])
def test_ctrl_c_when_the_server_says_nothing_more(
    server, home, tmp_path, through, verb, monkeypatch
):
    """Nothing can be sent, nothing comes. It ends all the same."""
    monkeypatch.setattr(protocol, "_CANCEL_SECONDS", 0.2)
    (tmp_path / "source").write_bytes(bytes(24 * MIB))
    (home / "file").write_bytes(bytes(24 * MIB))
    interrupt = Interrupt()
    proxy, client = through(server, interrupt=interrupt)
    way = "up" if verb == "put" else "down"
    held = 2 * MIB
    if verb == "list":  # short of the end of what comes
        whole, quiet = through(server)
        list(quiet.list_dir("/"))
        quiet.close()
        held = eventually(lambda: whole.passed("down")) - 10
    proxy.hold(way, held)

    def stop() -> None:
        eventually(lambda: proxy.passed(way) >= held, "it hangs")
        interrupt.set()

    stopping = threading.Thread(target=stop)
    stopping.start()
    try:
        with pytest.raises(Interrupted):
            if verb == "put":
                client.put([tmp_path / "source"], "/other", resume=False)
            elif verb == "get":
                client.get(["/file"], tmp_path / "got", resume=False)
            else:
                list(client.list_dir("/"))
        client.settle_interrupt()
    finally:
        stopping.join()
        through.close()
        interrupt.close()
    assert not (tmp_path / "got").exists() and not (home / "other").exists()


# what others do meanwhile ------------------------------------------------------------------


def half_way(proxy, act, put) -> list[FtpError]:
    """Put through a proxy, and have something happen once it holds that up; what put says."""

    def when_held() -> None:
        eventually(lambda: proxy.passed("up") >= 3 * MIB, "half of it is sent")
        try:
            act()
        finally:
            proxy.release()

    acting = threading.Thread(target=when_held)
    acting.start()
    try:
        return [put().first_error]
    except FtpError as error:
        return [error]
    finally:
        acting.join()


def test_a_put_into_a_directory_that_goes_away(server, home, tmp_path, through, connect):
    (tmp_path / "source").write_bytes(bytes(6 * MIB))
    other = connect(server)
    other.make_dir("/d")
    proxy, client = through(server)
    proxy.hold("up", 3 * MIB)

    errors = half_way(
        proxy,
        lambda: other.remove("/d", recursive=True),
        lambda: client.put([tmp_path / "source"], "/d/file"),
    )
    (error,) = errors
    assert isinstance(error, NotFound)
    assert set(os.listdir(home)) == {".ftpd-staging", ".ftpd-trash"}
    other.close()
    through.close()
    given_back(server)


def test_a_source_that_becomes_shorter_while_it_is_sent(server, home, tmp_path, through):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(24 * MIB))
    (home / "file").write_bytes(OLD)
    proxy, client = through(server)
    proxy.hold("up", 3 * MIB)
    errors = half_way(
        proxy, lambda: os.truncate(source, 8 * MIB), lambda: client.put([source], "/file")
    )
    assert errors == [None], "it is sent once more, as it is by then"
    trees.same(source, home / "file")


def test_who_reads_while_others_write_gets_one_or_the_other(server, home, tmp_path, connect):
    sources = [tmp_path / name for name in "ab"]
    for number, source in enumerate(sources):
        source.write_bytes(os.urandom(300_000 + number))
    contents = {source.read_bytes() for source in sources}
    writer, reader = connect(server), connect(server)
    writer.put([sources[0]], "/file")
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            writer.put([sources[number % 2]], "/file")

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for _ in range(20):
            reader.get(["/file"], tmp_path / "got", resume=False)
            assert (tmp_path / "got").read_bytes() in contents
    finally:
        over.set()
        writing.join()
