"""A listing without end: it fills no disk, and Ctrl-C ends it soon.

Lives here: temporary files of listings, giving a listing up.
Lives elsewhere: listings without end in memory (test_hostile_server.py).
"""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace

import pytest

from ftpclient.connection import connection as connection_module
from ftpclient.connection.interrupt import Interrupt
from ftpclient.sync.job import Options as SyncOptions
from ftpclient.transfer import remote_index, spool
from ftpwire.errors import FtpError, Interrupted
from ftpwire.messages import List, Page
from tests.lying_server import LyingServer, dir_entry, file_entry
from tests.peer import Frame, Peer


def endless_server(served: list[int]) -> LyingServer:
    """It goes on listing one directory, whatever the client says; ``served`` counts pages."""

    def ask(peer: Peer, asked: Frame) -> bool:
        if not isinstance(asked.message, List):
            return False
        for number in itertools.count():
            names = [b"%09d-%d" % (number, one) for one in range(100)]
            peer.reply(asked, Page(b"", [file_entry(name, digest=bytes(32)) for name in names]))
            served.append(number)
        return True

    return LyingServer(root=dir_entry, ask=ask)


@pytest.fixture
def room(monkeypatch, tmp_path):
    """The room of a disk, which can be set; listings go there soon, and look at it often."""
    room = SimpleNamespace(f_blocks=1000, f_bavail=500, looks=0)

    class Os:
        def __getattr__(self, name: str):
            return getattr(os, name)

        def statvfs(self, path: object) -> SimpleNamespace:
            room.looks += 1
            if room.looks > 20:
                room.f_bavail = 99
            return room

    monkeypatch.setattr(spool, "os", Os())
    monkeypatch.setattr(spool, "_IN_MEMORY", 1000)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"in_memory": 1000})
    monkeypatch.setattr(spool, "_LOOK_EACH", 5000)
    monkeypatch.setattr(spool, "_RUN", 500)
    monkeypatch.setattr(remote_index, "_LOOK_EACH", 500)
    monkeypatch.setattr(connection_module, "_CANCEL_SECONDS", 0.05)
    return room


def get(client, tmp_path):
    return client.get(["/tree"], str(tmp_path / "target"), recursive=True)


def sync(client, tmp_path):
    (tmp_path / "target").mkdir(exist_ok=True)
    return client.sync(b":/tree", os.fsencode(tmp_path / "target"), SyncOptions(force=True))


def ls(client, tmp_path):
    return list(spool.sort(client.list_dir("/tree"), lambda entry: entry.path))


def put(client, tmp_path):
    (tmp_path / "source").mkdir()
    return client.put([str(tmp_path / "source")], "/tree", recursive=True)


def wide_server() -> LyingServer:
    """It lists more directories than the disk has room for."""
    names = [b"%03d" % number for number in range(200)]
    pages = [Page(b"", [dir_entry(name) for name in names], [], True)]
    inside = [file_entry(b"%d" % one) for one in range(100)]
    return LyingServer(pages=pages + [Page(name, inside, [], True) for name in names])


@pytest.mark.parametrize("verb", [get, sync, ls, put])
def test_it_ends_when_the_disk_gets_full(fake, connect, tmp_path, room, verb):
    # one directory at a time is compared in memory: what a sync keeps is its plan
    client = connect(fake(wide_server() if verb is sync else endless_server([])), retries=0)
    with pytest.raises(FtpError) as caught:
        verb(client, tmp_path)
    assert caught.value.exit_code == 7
    assert "TMPDIR" in str(caught.value)
    assert 20 < room.looks < 30


def test_a_listing_with_an_end_is_taken(fake, connect, tmp_path, room):
    """The control: the same disk, and not as many pages."""
    pages = [
        Page(b"", [file_entry(b"%d-%d" % (page, one)) for one in range(30)], [], page == 9)
        for page in range(10)
    ]
    assert get(connect(fake(LyingServer(pages=pages)), retries=0), tmp_path).done == 300
    assert 0 < room.looks <= 20


def test_writing_that_fails_for_want_of_room(monkeypatch):
    one = spool.Spool(Page)

    def full(data: bytes) -> int:
        raise OSError(spool.errno.ENOSPC, "full")

    monkeypatch.setattr(one._file, "write", full)
    with pytest.raises(spool.SpoolFull) as caught:
        one.add(Page())
    assert caught.value.exit_code == 7
    one.close()


@pytest.mark.parametrize("verb", [get, sync])
def test_ctrl_c_waits_for_no_listing(fake, connect, tmp_path, monkeypatch, verb):
    """A server that goes on listing isn't waited for as one that ends an upload is."""
    waited = []
    cancel = connection_module.Connection._cancel_calls

    def note(self, calls, seconds: float) -> None:
        if calls:
            waited.append(seconds)
        cancel(self, calls, 0.05)

    monkeypatch.setattr(connection_module.Connection, "_cancel_calls", note)
    interrupt, served = Interrupt(), []

    class Served(list):
        def append(self, number: int) -> None:
            served.append(number)
            if number == 20:
                interrupt.set()

    try:
        client = connect(fake(endless_server(Served())), retries=0, interrupt=interrupt)
        with pytest.raises(Interrupted):
            verb(client, tmp_path)
        client.settle_interrupt()
        client.close()
    finally:
        interrupt.close()
    assert waited and max(waited) <= 0.5


def test_an_upload_is_waited_for_as_before():
    """The control: its end tells the server to keep what it got."""
    upload = connection_module.Call()
    assert connection_module._seconds_to_end([upload]) == connection_module._CANCEL_SECONDS
