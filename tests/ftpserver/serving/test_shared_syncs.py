"""Sessions of one server that each store one file wait for the disk together."""

from __future__ import annotations

import os
import threading

import pytest

from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import Put, Sent, Stat, Stored
from tests.ftpserver.storage.sync_scene import PATIENCE, Disk
from tests.peer import Peer, eventually

DATA = b"content"


def put(peer: Peer, path: bytes) -> None:
    """Send a whole file, and wait for nothing."""
    number = peer.request(Put(path, len(DATA)))
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA)))


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture(params=[{}, {"threads": 0}], ids=["parked", "thread-each"])
def server(start_server, disk, request):
    """Its syncs end when the test says so."""
    started = start_server(durable=True, **request.param)
    syncs = started.service.syncs
    syncs._sync = disk.sync
    waits, will_block = threading.Semaphore(0), syncs.before_wait
    started.waits = waits

    def before_wait() -> None:
        will_block()
        waits.release()

    syncs.before_wait = before_wait
    yield started
    disk.end_all()


def test_one_sync_is_for_all_who_came_meanwhile(server, disk, dial):
    peers = [dial(server) for _ in range(8)]
    put(peers[0], b"/0")
    disk.wait_for(1)
    for number, peer in enumerate(peers[1:], 1):
        put(peer, b"/%d" % number)
        assert server.waits.acquire(timeout=PATIENCE)
    idle = dial(server)
    idle.ask(Stat(b"/"))  # who asks for something else doesn't wait for the disk
    disk.end()
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in disk.wait_for(2)]
    assert sum(".ftpd-staging/" in name for name in names) == 7
    disk.end_all()
    assert [peer.answer().message for peer in peers] == [Stored(len(DATA))] * 8


def test_who_is_cut_off_while_he_waits_has_his_file_and_holds_up_nobody(
    server, disk, dial, tmp_path
):
    first, gone, stays = (dial(server) for _ in range(3))
    put(first, b"/0")
    disk.wait_for(1)
    for peer, path in ((gone, b"/gone"), (stays, b"/stays")):
        put(peer, path)
        assert server.waits.acquire(timeout=PATIENCE)
    gone.reset()
    disk.end_all()
    assert first.answer().message == stays.answer().message == Stored(len(DATA))
    home = tmp_path / "root" / "alice"
    eventually(lambda: (home / "gone").exists())
    assert (home / "gone").read_bytes() == DATA
