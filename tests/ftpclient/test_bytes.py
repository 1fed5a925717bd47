"""Bytes of remote files as bytes: read, write, and whether something is there."""

from __future__ import annotations

import asyncio
import os

import pytest

from ftpclient import AsyncClient, Client
from ftpclient.transfer import retry
from ftpserver.storage.permissions import Permissions
from ftpwire.errors import (
    AlreadyExists,
    ConnectionLost,
    Forbidden,
    IsADirectory,
    NotFound,
    QuotaExceeded,
    VerificationFailed,
)
from tests.ftpclient.aio.async_support import Blocking
from tests.ftpserver.storage.quota_store import held_files
from tests.peer import eventually

BOTH = [pytest.param(Client, id="threads"), pytest.param(Blocking, id="asyncio")]
SMALL, MEDIUM, LARGE = 1000, 1_000_000, 6_000_000
"""Sent at once; sent without a question; asked for first, as it may be there in part."""


@pytest.fixture(params=BOTH)
def either(request, server, connect):
    """Alice's client, of either kind."""
    return connect(server, kind=request.param)


def contents(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + bytes(size % 256)


@pytest.mark.parametrize("size", [0, 1, SMALL, MEDIUM, LARGE])
def test_what_was_written_is_read(server, either, files, size):
    data = contents(size)
    for kind in (bytes, bytearray, memoryview):
        assert either.write("/a", kind(data)) == size
    assert (files / "a").read_bytes() == data
    assert either.read("/a") == data
    assert either.read(b"/a", 10) == data[10:]
    assert either.read("/a", 0, 500_000) == data[:500_000]
    assert either.read("/a", length=7, offset=size // 2) == data[size // 2 :][:7]
    assert either.read("/a", 10 * size + 1) == b""
    assert either.read("/a", 0, 0) == b""
    assert either.read("/a", 0, 10**30) == data
    assert either.read("/a", 10**30) == b""
    assert held_files(server.service.engine) == 0


@pytest.mark.parametrize("size", [SMALL, MEDIUM, LARGE])
def test_what_is_there_is_replaced_only_if_wanted(either, files, size):
    (files / "a").write_bytes(b"there")
    with pytest.raises(AlreadyExists):
        either.write("/a", contents(size), overwrite="never")
    assert (files / "a").read_bytes() == b"there"
    either.write("/b", contents(size), overwrite="never")
    assert (files / "b").stat().st_size == size


def test_what_can_not_be_done_raises(start_server, connect):
    server = start_server(quota=MEDIUM)
    for kind in (Client, Blocking):
        client = connect(server, kind=kind)
        client.make_dir("/dir", parents=True)
        for part in ((), (3,)):
            with pytest.raises(NotFound):
                client.read("/none", *part)
            with pytest.raises(IsADirectory):
                client.read("/dir", *part)
        with pytest.raises(NotFound):
            client.write("/none/a", b"abc")
        with pytest.raises(IsADirectory):
            client.write("/dir", b"abc")
        for size in (MEDIUM + 1, LARGE):
            with pytest.raises(QuotaExceeded):
                client.write("/a", bytes(size))
        with pytest.raises(ValueError):
            client.read("/none", -1)
        with pytest.raises(ValueError):
            client.read("/none", 0, -1)
        with pytest.raises(ValueError, match="mode"):
            client.write("/a", b"", mode=0o1777)
        with pytest.raises(ValueError, match="overwrite"):
            client.write("/a", b"", overwrite="older")
        with pytest.raises(IsADirectory):
            client.write("/new/", b"")
        assert client.whoami() == "alice"


def test_a_drop_box_takes_bytes(start_server, connect):
    server = start_server()
    (server.settings.root / "alice" / "inbox").mkdir()
    server.accounts.change("alice", permissions=Permissions.parse("all /inbox=upload-only"))
    client = connect(server)
    client.write("/inbox/a", b"abc")
    with client.open("/inbox/b", "wb") as file:
        file.write(b"abc")
    with pytest.raises(Forbidden):
        client.read("/inbox/a")
    with pytest.raises(Forbidden):
        client.open("/inbox/a")


def test_all_bytes_are_verified(either, files):
    either.write("/a", contents(MEDIUM))
    info = (files / "a").stat()
    with (files / "a").open("r+b") as damaged:
        damaged.write(b"damage")
    os.utime(files / "a", ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(VerificationFailed):
        either.read("/a")


def test_whether_something_is_there(either, files):
    (files / "dir").mkdir()
    (files / "file").write_bytes(b"")
    (files / "to-dir").symlink_to("dir")
    (files / "to-nothing").symlink_to("nothing")
    names = ("/", "/dir", "/file", "/to-dir", "/to-nothing", "/none", "/file/below")
    assert [either.exists(name) for name in names] == [True] * 4 + [False] * 3
    assert [either.exists(name, follow=False) for name in names] == [True] * 5 + [False] * 2
    assert [either.is_dir(name) for name in names] == [True, True, False, True] + [False] * 3


def test_names_of_entries(either, files):
    (files / "dir").mkdir()
    (files / "dir" / "file").write_bytes(b"")
    assert [entry.name for entry in either.list_dir("/", recursive=True)] == [b"dir", b"file"]
    assert either.stat("/dir/file").name == b"file"
    assert either.stat("/dir/").name == b"dir"
    assert either.stat("/").name == b""


@pytest.mark.parametrize("size", [SMALL, MEDIUM, LARGE])
def test_writing_goes_on_after_a_lost_connection(client, files, monkeypatch, size):
    """What is in memory can be sent again."""
    from ftpclient.transfer.calls import PutCall

    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    real = PutCall.send
    cuts = iter([True, True])

    def send(call, pieces):
        if next(cuts, False):
            call._transfer.connection.cut()
        return real(call, pieces)

    monkeypatch.setattr(PutCall, "send", send)
    assert client.write("/a", contents(size)) == size
    assert (files / "a").read_bytes() == contents(size)
    assert next(cuts, None) is None


def test_what_came_is_not_sent_again(client, server, files, monkeypatch):
    """The server says how much of it is there, from the try before."""
    from ftpclient.transfer.calls import PutCall

    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    real, sent = PutCall.send, []

    def send(call, pieces):
        [piece] = pieces
        sent.append(len(piece))
        if len(sent) == 1:
            real(call, (piece[:8_000_000],))
            call._transfer.connection.flush()
            (session,) = server.service.sessions  # a reset takes along what it has not read yet
            eventually(lambda: session.channel.bytes_in >= 8_000_000)
            call._transfer.connection.cut()
        return real(call, (piece,))

    monkeypatch.setattr(PutCall, "send", send)
    data = contents(10_000_000)
    assert client.write("/a", data) == len(data)
    assert sent[0] == len(data)
    assert sent[1] < len(data)
    assert (files / "a").read_bytes() == data


def test_what_is_left_of_another_try_is_not_taken(client, files, monkeypatch):
    from ftpclient.transfer.calls import PutCall

    real, sent = PutCall.send, []

    def send(call, pieces):
        [piece] = pieces
        sent.append(len(piece))
        if len(sent) == 1:
            real(call, (piece[:8_000_000],))
            call._transfer.connection.flush()
            call._transfer.connection.cut()
        return real(call, (piece,))

    monkeypatch.setattr(PutCall, "send", send)
    client.retry_for = 0
    with pytest.raises(ConnectionLost):
        client.write("/a", b"x" * 10_000_000)
    data = contents(10_000_000)
    assert client.write("/a", data) == len(data)
    assert (files / "a").read_bytes() == data


def test_many_tasks_read_and_write(server, connect, files):
    async def main() -> None:
        address = f"alice@127.0.0.1:{server.server_address[1]}"
        async with AsyncClient(address, password="secret", plaintext=True) as client:
            names = [f"/{number}" for number in range(20)]
            await asyncio.gather(*(client.write(name, name.encode() * 1000) for name in names))
            found = await asyncio.gather(*(client.read(name) for name in names))
            assert found == [name.encode() * 1000 for name in names]
            await asyncio.gather(*(client.write(name, contents(LARGE)) for name in names[:3]))
            assert await client.read(names[0]) == contents(LARGE)

    asyncio.run(main())
