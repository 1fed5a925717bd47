"""Sparse files keep their holes on both disks and on the wire, whatever happens on the way."""

from __future__ import annotations

import os
import threading
from contextlib import closing, contextmanager

import pytest

from ftpclient import AsyncClient
from ftpclient.client import Client
from ftpclient.connection import protocol
from ftpclient.sync.local_reader import LocalReader
from ftpclient.transfer import file_call, rehearsal, retry
from ftpclient.transfer.file_download import FileDownload
from ftpclient.transfer.job import Options
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.report import Listener
from ftpserver.serving import opening
from ftpwire import digests, holes, messages
from ftpwire.errors import BadMessage, Cancelled, ConnectionLost
from ftpwire.frames import Kind
from ftpwire.messages import Get, Hole, Sending, Sent
from ftpwire.paths import RemotePath
from ftpwire.streams import WriteBehind
from tests import sparse
from tests.lying_server import LyingServer, file_entry
from tests.peer import eventually
from tests.sparse import BLOCK
from tests.system.proxy import Proxy

MIB = 1024 * 1024
LAYOUT = [
    (False, 5 * MIB + 100),
    (True, 5 * MIB - 100),
    (False, 3 * MIB),
    (True, 6 * MIB),
    (False, MIB - 7),
    (True, 3 * MIB),
]
DATA = sum(size for hole, size in LAYOUT if not hole)
SIZE = sum(size for _, size in LAYOUT)
OVERHEAD = MIB
SLACK = 16 * BLOCK
"""Borders of blocks, and what the file system takes to know where they are."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Reconnect at once."""
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)


@pytest.fixture(autouse=True)
def small_holes(monkeypatch):
    """Have a hole be told in several parts."""
    monkeypatch.setattr(holes, "MOST", 2 * MIB)


@pytest.fixture
def source(tmp_path):
    """A sparse file, whose bytes are ``CONTENTS``."""
    sparse.need_holes(tmp_path)
    sparse.make(tmp_path / "source", LAYOUT)
    return tmp_path / "source"


CONTENTS = sparse.contents(LAYOUT)


@contextmanager
def through(server, **options):
    """A proxy, and a client that comes through it."""
    with Proxy(server.address) as proxy:
        client = Client(
            f"alice@{proxy.address}",
            password="secret",
            plaintext=server.settings.plaintext,
            accept_new=True,
            **options,
        )
        try:
            yield proxy, client
        finally:
            client.close()
    eventually(lambda: not server.service.sessions)


def is_sparse(path) -> bool:
    """Whether a file has the bytes, and the holes."""
    assert path.read_bytes() == CONTENTS
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return sparse.taken(path) <= DATA + SLACK


# both ways ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("plaintext", [True, False], ids=["plain", "tls"])
def test_there_and_back(start_server, source, tmp_path, plaintext, parallel):
    """With the digest that the server keeps, and with one that it computes."""
    server = start_server(plaintext=plaintext)
    home = server.settings.root / "alice"
    with through(server) as (proxy, client):
        assert client.put([source], "/file", parallel=parallel).done == 1
        assert is_sparse(home / "file")
        assert proxy.passed("up") < DATA + OVERHEAD
        for name in ("kept", "computed"):
            before = proxy.passed("down")
            assert client.get(["/file"], tmp_path / name, parallel=parallel).done == 1
            assert is_sparse(tmp_path / name)
            assert proxy.passed("down") - before < DATA + OVERHEAD
            if name == "kept":
                os.removexattr(home / "file", digests.ATTRIBUTE)
    space = server.service.ledger.space(server.accounts.get("alice").id)
    assert (space.used, space.held) == (SIZE, 0)  # a hole counts as its bytes do


def test_of_an_async_client(server, files, connect, source, tmp_path):
    """Over the connection of the loop as over one of its own."""
    import asyncio

    async def there_and_back() -> None:
        host, port = server.server_address[:2]
        async with AsyncClient(f"alice@{host}:{port}", password="secret", plaintext=True) as client:
            assert (await client.put([source], "/file")).done == 1
            assert (await client.get(["/file"], tmp_path / "got")).done == 1
            assert (await client.get(["/file"], tmp_path / "pieces", parallel=2)).done == 1

    asyncio.run(there_and_back())
    assert is_sparse(files / "file") and is_sparse(tmp_path / "got")
    assert is_sparse(tmp_path / "pieces")


def test_below_four_mib(client, files, tmp_path):
    """What is sent without asking first."""
    sparse.need_holes(tmp_path)
    data = sparse.make(tmp_path / "s", [(True, MIB), (False, BLOCK), (True, MIB)])
    assert client.put([tmp_path / "s"], "/s").done == 1
    assert client.get(["/s"], tmp_path / "got").done == 1
    for path in (files / "s", tmp_path / "got"):
        assert path.read_bytes() == data and sparse.taken(path) <= 4 * BLOCK


def test_copies_on_the_server(client, files, source):
    assert client.put([source], "/file").done == 1
    client.copy("/file", "/by-the-kernel")
    os.removexattr(files / "file", digests.ATTRIBUTE)
    client.copy("/file", "/by-reading")
    assert is_sparse(files / "by-the-kernel") and is_sparse(files / "by-reading")


def test_what_has_no_holes_stays_as_it_is(client, files, tmp_path):
    """Zeros are no hole."""
    (tmp_path / "zeros").write_bytes(bytes(2 * MIB))
    client.put([tmp_path / "zeros"], "/zeros")
    client.get(["/zeros"], tmp_path / "got")
    assert sparse.taken(files / "zeros") >= 2 * MIB
    assert sparse.taken(tmp_path / "got") >= 2 * MIB


def test_what_is_there_is_overwritten_by_holes(client, files, source, tmp_path):
    for path in (files / "file", tmp_path / "got"):
        path.write_bytes(b"x" * SIZE)
    assert client.put([source], "/file").done == 1
    assert client.get(["/file"], tmp_path / "got").done == 1
    assert is_sparse(files / "file") and is_sparse(tmp_path / "got")


def test_memory_and_descriptors_get_zeros(client, files, source, tmp_path):
    """A hole is told only to who can leave one."""
    client.put([source], "/file")
    assert client.read("/file") == CONTENTS
    assert client.read("/file", 5 * MIB, 6 * MIB) == CONTENTS[5 * MIB : 11 * MIB]
    with client.open("/file") as file:
        file.seek(4 * MIB)
        assert file.read(2 * MIB) == CONTENTS[4 * MIB : 6 * MIB]
    with open(tmp_path / "got", "wb") as got:
        client.get(["/file"], f"/dev/fd/{got.fileno()}")
    assert (tmp_path / "got").read_bytes() == CONTENTS


# who doesn't know holes --------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 3])
def test_an_older_server(server, files, monkeypatch, source, tmp_path, parallel):
    """It gets zeros, and sends them."""
    features = [one for one in opening.FEATURES if one != messages.HOLES]
    monkeypatch.setattr(opening, "FEATURES", features)
    monkeypatch.setattr(messages, "decode_hole", None)  # none comes
    with through(server) as (proxy, client):
        assert client.put([source], "/file", parallel=parallel).done == 1
        eventually(lambda: proxy.passed("up") > SIZE)
        assert client.get(["/file"], tmp_path / "got", parallel=parallel).done == 1
        eventually(lambda: proxy.passed("down") > SIZE)
    assert (files / "file").read_bytes() == (tmp_path / "got").read_bytes() == CONTENTS


def test_an_older_client(server, files, dial, source):
    """It says nothing of holes, and gets none."""
    os.rename(source, files / "file")
    peer = dial(server)
    peer.request(Get(b"/file"))
    assert isinstance(peer.answer().message, Sending)
    came = 0
    while (found := peer.read()).kind == Kind.DATA:
        came += len(found.payload)
    assert found.kind == Kind.END and found.message.size == came == SIZE


def test_what_is_only_compared_is_read_without_its_holes(source, tmp_path, monkeypatch):
    read, preadv = [], os.preadv

    def counted(*arguments):
        read.append(preadv(*arguments))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counted)
    with closing(LocalTree(os.fsencode(tmp_path))) as tree:
        reader = LocalReader(tree, lambda: None, lambda path, error: None)
        assert reader.digest(b"source") == digests.digest(CONTENTS)
        assert 0 < sum(read) <= DATA + SLACK
        read.clear()
        with tree.reading((b"source",)) as fd:
            assert rehearsal._digest_of(fd, SIZE, lambda: None) == digests.digest(CONTENTS)
        assert 0 < sum(read) <= DATA + SLACK


# cuts --------------------------------------------------------------------------------------

CUTS = [5 * MIB + 600, 7 * MIB, 8 * MIB + 700, DATA + 400]
"""In data, at holes and between them; what is sent in all is little more than DATA."""


@pytest.mark.parametrize("cut", CUTS)
def test_put_goes_on(server, files, source, cut):
    """A reset takes along what the server has not read yet, so it comes after that."""
    with through(server, retries=0) as (proxy, client):
        client.connect()
        (session,) = eventually(lambda: server.service.sessions)
        proxy.hold("up", cut)
        lost: list[Exception] = []

        def put() -> None:
            try:
                client.put([source], "/file")
            except ConnectionLost as error:
                lost.append(error)

        thread = threading.Thread(target=put)
        thread.start()
        eventually(lambda: session.channel.bytes_in >= cut, "the server to read what has come")
        proxy.cut()
        thread.join()
        assert lost
    eventually(lambda: not server.service.sessions, "the server to keep what has come")
    with through(server) as (proxy, client):
        assert client.put([source], "/file").failed == 0
        assert proxy.passed("up") <= max(0, DATA - cut) + OVERHEAD
    assert is_sparse(files / "file")


@pytest.mark.parametrize(("cut", "parallel"), [*((cut, 1) for cut in CUTS), (CUTS[2], 2)])
def test_get_goes_on(server, files, source, tmp_path, cut, parallel):
    """Behind the first hole, too: a partial file says whether its holes are the file's."""
    os.rename(source, files / "file")
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("down", cut)
        try:
            client.get(["/file"], tmp_path / "got", parallel=parallel)
        except ConnectionLost:
            pass  # or all of it was there by then
    for partial in tmp_path.glob(".ftp-*"):
        has_one = partial.stat().st_size > 6 * MIB
        assert not has_one or partial.stat().st_mode & 0o777 == 0o700  # which is the file's
    with through(server) as (proxy, client):
        assert client.get(["/file"], tmp_path / "got").failed == 0
        again = MIB if parallel == 1 else DATA
        assert proxy.passed("down") <= max(0, DATA - cut) + again
    assert is_sparse(tmp_path / "got")


@pytest.mark.parametrize("way", ["up", "down"])
def test_pieces_go_on_after_a_loss(server, files, source, tmp_path, way):
    with through(server) as (proxy, client):
        if way == "down":
            client.put([source], "/file")
        proxy.cut_at(way, proxy.passed(way) + 6 * MIB)
        if way == "up":
            assert client.put([source], "/file", parallel=3).failed == 0
        assert client.get(["/file"], tmp_path / "got", parallel=3).failed == 0
    assert is_sparse(files / "file") and is_sparse(tmp_path / "got")


def test_the_gaps_of_a_download_in_pieces_are_no_holes(tmp_path):
    """One that was killed goes on before the first, also where it was gapless before."""
    sparse.need_holes(tmp_path)
    tree = LocalTree(os.fsencode(tmp_path))
    partial = PartialFile(tree, (b"file",))
    os.pwrite(partial.fd, b"x" * 8 * MIB, 0)
    os.ftruncate(partial.fd, 20 * MIB)
    partial.mark_gapless()
    partial.leave()
    partial = PartialFile(tree, (b"file",), resume=True)
    assert partial.is_gapless and partial.offset == 20 * MIB
    partial.mark_gaps()
    os.pwrite(partial.fd, b"x" * MIB, 24 * MIB)
    partial.leave()
    partial = PartialFile(tree, (b"file",), resume=True)
    assert not partial.is_gapless and partial.offset == 6 * MIB
    partial.drop()
    tree.close()


def test_a_file_that_changes_meanwhile_is_found_out(server, files, source, tmp_path, monkeypatch):
    """Data where a hole was told to be."""
    os.rename(source, files / "file")
    begun = []
    real = protocol.Call.on_notice

    def on_notice(self, notice) -> None:
        if isinstance(notice, Hole) and not begun:
            begun.append(True)
            with open(files / "file", "r+b") as file:
                file.seek(8 * MIB)
                file.write(b"not a hole")
        real(self, notice)

    monkeypatch.setattr(protocol.Call, "on_notice", on_notice)
    with through(server) as (_, client):
        assert client.get(["/file"], tmp_path / "got").failed == 0
    assert begun
    assert (tmp_path / "got").read_bytes() == (files / "file").read_bytes() != CONTENTS


# a server that lies ------------------------------------------------------------------------

LARGE = 8 * MIB


def raw_hole(size: object) -> bytes:
    return messages.msgspec.msgpack.encode({"op": "hole", "size": size})


@pytest.mark.parametrize(
    ("reported", "size"),
    [
        pytest.param([raw_hole(0)], LARGE, id="of-nothing"),
        pytest.param([raw_hole(64 * MIB + 1)], LARGE, id="too-large"),
        pytest.param([raw_hole(2**64 - 1)], LARGE, id="of-16-eib"),
        pytest.param([raw_hole(-1)], LARGE, id="negative"),
        pytest.param([raw_hole("1")], LARGE, id="no-number"),
        pytest.param([Hole(LARGE), Hole(1)], LARGE, id="beyond-the-end"),
        pytest.param([Hole(1000)], 1000, id="in-a-small-file"),
        pytest.param([None], LARGE, id="before-it-begins"),
    ],
)
def test_holes_that_can_not_be(fake, connect, tmp_path, reported, size):
    entry = file_entry(b"", size=size)

    def get(peer, request_id) -> None:
        if reported == [None]:
            peer.frame(Kind.NOTICE, request_id, Hole(5))
        peer.reply(request_id, Sending(size, 0o644, 5))
        for hole in reported:
            peer.frame(Kind.NOTICE, request_id, hole or b"")

    server = LyingServer(
        root=lambda path: entry, get=get, greet=lambda peer: peer.greet(features=["holes"])
    )
    client = connect(fake(server), retries=0)
    with pytest.raises(BadMessage, match="hole|more bytes|began in|had not begun"):
        client.get(["/file"], tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_a_hole_that_nobody_asked_for(fake, connect, tmp_path):
    """Bytes for memory: a few on the wire would be gigabytes there."""

    def get(peer, request_id) -> None:
        peer.reply(request_id, Sending(LARGE, 0o644, 5))
        peer.frame(Kind.NOTICE, request_id, Hole(LARGE))
        peer.frame(Kind.END, request_id, Sent(LARGE, digests.digest(bytes(LARGE))))

    entry = file_entry(b"", size=LARGE)
    server = LyingServer(
        root=lambda path: entry, get=get, greet=lambda peer: peer.greet(features=["holes"])
    )
    client = connect(fake(server), retries=0)
    with pytest.raises(BadMessage, match="not requested"):
        client.read("/file")


def test_a_hole_that_is_a_lie_is_found_out(fake, connect, tmp_path):
    """The digest tells, as with any bytes."""

    def get(peer, request_id) -> None:
        peer.reply(request_id, Sending(LARGE, 0o644, 5))
        peer.frame(Kind.NOTICE, request_id, Hole(LARGE))
        peer.frame(Kind.END, request_id, Sent(LARGE, digests.digest(b"x" * LARGE)))

    entry = file_entry(b"", size=LARGE)
    server = LyingServer(
        root=lambda path: entry, get=get, greet=lambda peer: peer.greet(features=["holes"])
    )
    client = connect(fake(server), retries=0)
    assert client.get(["/file"], tmp_path / "got").exit_code == 8
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("late", [False, True], ids=["in-time", "too-late"])
def test_holes_behind_a_cancel_are_passed_over(client, files, tmp_path, monkeypatch, late):
    """They fit into a socket's buffer, and would be hashed for minutes before its end is read.
    What came before them is kept, also if the server has sent all of it meanwhile."""
    monkeypatch.setattr(file_call, "RESUME_FROM", BLOCK)
    data = sparse.make(files / "a", [(False, 5 * MIB), (True, MIB), (False, MIB), (True, 2 * MIB)])
    connection, ended = client.connection, []
    with closing(LocalTree(os.fsencode(tmp_path))) as tree:
        transfer = FileDownload(connection, Options(), Listener())
        item = file_call.Item(RemotePath(b"/a"), b"a", tree, (b"a",))
        call = file_call.FileCall(transfer, item, True, lambda call, digest: ended.append(digest))
        connection.submit(call, Get(b"/a", holes=True))
        hole = call.on_hole

        def cancelled_first(size):
            if late:
                call.is_cancelled = True
            elif not call.is_cancelled:
                connection.send_cancel(call)
            monkeypatch.setattr(WriteBehind, "hole", None)
            hole(size)

        call.on_hole = cancelled_first
        connection.wait_for(call)
    assert ended == [None] and isinstance(call.error, Cancelled) and call.failure is None
    (part,) = tmp_path.glob(".ftp-*.part")
    assert part.read_bytes() == data[: 5 * MIB]
