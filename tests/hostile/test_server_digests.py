"""A server that sends a whole file without its digest is not believed.

Lives here: each way in which the client takes a whole file, and those that take a part of one.
Lives elsewhere: digests that are there and wrong (test_hostile_server.py).
"""

from __future__ import annotations

import asyncio

import pytest

from ftpclient.aio.client import AsyncClient
from ftpclient.cli.app import App
from ftpclient.cli.main import run
from ftpclient.sync.job import Options as SyncOptions
from ftpwire import digests
from ftpwire.errors import FtpError, VerificationFailed
from ftpwire.frames import Kind
from ftpwire.messages import PIECES, Entry, Get, Hash, Hashed, Page, Sending, Sent
from tests.lying_server import DATA, LyingServer, contents, dir_entry, file_entry
from tests.peer import Frame, Peer

FIRST = b"the bytes"
LARGE = FIRST + bytes(1024 * 1024)


def silent_server(data: bytes = DATA, *, digest: bytes | None = None, hashed: bytes | None = None):
    """A server of one file, which keeps its digest to itself.

    Args:
        digest: What it sends at the file's end.
        hashed: What it answers to who asks for the file's digest.
    """

    def ask(peer: Peer, requested: Frame) -> bool:
        match requested.message:
            case Get(offset=offset, length=length):
                peer.reply(requested, Sending(len(data), 0o644, 5, offset))
                sent = data[offset:] if length is None else data[offset : offset + length]
                if sent:
                    peer.frame(Kind.DATA, requested.request_id, sent)
                peer.frame(Kind.END, requested.request_id, Sent(offset + len(sent), digest))
            case Hash():
                peer.reply(requested, Hashed(hashed or bytes(32), len(data)))
            case _:
                return False
        return True

    def root(path: bytes) -> Entry:
        return dir_entry(path) if path == b"/tree" else file_entry(path, size=len(data))

    pages = [Page(b"", [file_entry(b"file", size=len(data))], [], True)]
    features = {"features": [PIECES]}
    return LyingServer(pages=pages, root=root, ask=ask, greet=lambda peer: peer.greet(**features))


def get(client, target):
    return client.get(["/file"], str(target / "file"))


def get_to_descriptor(client, target):
    with (target.parent / "out").open("wb") as out:
        return client.get_stream("/file", out.fileno())


def sync(client, target):
    return client.sync(b":/tree", bytes(target), SyncOptions(force=True))


def read(client, target):
    return client.read("/file")


def open_and_read(client, target):
    with client.open("/file") as file:
        return file.read()


WHOLE = [get, get_to_descriptor, sync, read, open_and_read]


def outcome(work) -> object:
    """What a verb gives, or the error that it ended with."""
    try:
        found = work()
    except FtpError as error:
        return error
    return getattr(found, "first_error", None) or found


@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("verb", WHOLE)
def test_a_whole_file_without_a_digest_is_refused(fake, connect, tmp_path, verb, data):
    target = tmp_path / "target"
    target.mkdir()
    client = connect(fake(silent_server(data)), retries=0)
    error = outcome(lambda: verb(client, target))
    assert isinstance(error, VerificationFailed) and error.exit_code == 8
    assert contents(target) == set()


@pytest.mark.parametrize("verb", WHOLE)
def test_who_said_so_takes_it(fake, connect, tmp_path, verb):
    target = tmp_path / "target"
    target.mkdir()
    client = connect(fake(silent_server()), retries=0, verify=False)
    assert not isinstance(outcome(lambda: verb(client, target)), FtpError)


@pytest.mark.parametrize("verb", WHOLE)
def test_a_wrong_digest_is_refused_even_then(fake, connect, tmp_path, verb):
    target = tmp_path / "target"
    target.mkdir()
    client = connect(fake(silent_server(digest=bytes(32))), retries=0, verify=False)
    assert isinstance(outcome(lambda: verb(client, target)), VerificationFailed)
    assert contents(target) == set()


@pytest.mark.parametrize("verb", WHOLE)
def test_a_file_with_its_digest_is_taken(fake, connect, tmp_path, verb):
    """The control: the same server, with the right word at the end."""
    target = tmp_path / "target"
    target.mkdir()
    client = connect(fake(silent_server(digest=digests.digest(DATA))), retries=0)
    assert not isinstance(outcome(lambda: verb(client, target)), FtpError)


def test_a_file_in_pieces_has_its_digest_asked_for(fake, connect, tmp_path):
    client = connect(fake(silent_server(LARGE)), retries=0)
    found = outcome(lambda: client.get(["/file"], str(tmp_path / "file"), parallel=2))
    assert isinstance(found, VerificationFailed)
    assert not (tmp_path / "file").exists()


def test_a_part_of_a_file_needs_none(fake, connect):
    client = connect(fake(silent_server(LARGE)), retries=0)
    assert client.read("/file", 5, 4) == LARGE[5:9]
    with client.open("/file") as file:
        file.seek(3)
        assert file.read(4) == LARGE[3:7]


def test_an_opened_file_has_its_digest_asked_for(fake, connect):
    """A server that keeps no digest sends none with a part, and makes it when it is asked."""
    client = connect(fake(silent_server(hashed=digests.digest(DATA))), retries=0)
    assert open_and_read(client, None) == DATA


@pytest.mark.parametrize("verb", ["get", "read", "get_stream"])
def test_an_asyncio_client_refuses_it_too(fake, tmp_path, verb):
    async def main() -> object:
        options = {"password": "secret", "plaintext": True, "retries": 0}
        async with AsyncClient(server.address, **options) as client:
            if verb == "get":
                done = await client.get(["/file"], str(tmp_path / "file"))
                raise done.first_error
            if verb == "read":
                return await client.read("/file")
            return [piece async for piece in await stream_of(client)]

    async def stream_of(client):
        return client.get_stream("/file")

    server = fake(silent_server())
    with pytest.raises(VerificationFailed):
        asyncio.run(main())
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(("words", "status"), [([], 8), (["--no-verify"], 0)])
@pytest.mark.parametrize("verb", ["get", "cat"])
def test_the_command_line(fake, monkeypatch, tmp_path, capfd, verb, words, status):
    monkeypatch.setenv("FTP_PASSWORD", "secret")
    server = fake(silent_server())
    line = ["-s", f"alice@127.0.0.1:{server.port}", "--plaintext", *words, verb, "/file"]
    app = App()
    try:
        assert run(app, line + ([str(tmp_path / "file")] if verb == "get" else [])) == status
    finally:
        app.close()
        app.interrupt.close()
    if verb == "get":
        assert (tmp_path / "file").exists() == (status == 0)
    if status:
        assert "digest" in capfd.readouterr().err
