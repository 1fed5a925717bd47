"""A full disk, with trash of other accounts on it: that is given up, and the upload goes on."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess

import pytest

from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpwire.messages import Failed, Remove, Stored
from tests.ftpserver.serving.test_after_faults import put
from tests.ftpserver.storage.mounts import limit, mount  # noqa: F401

MIB = 2**20


@pytest.fixture
def serve(mount, start_server, tmp_path):  # noqa: F811
    """Starts a server with accounts bob and carol on a disk of 24 MiB; bob has removed a file of 12
    MiB."""

    def start(dial, **options):
        limit(mount("tmpfs", tmp_path / "root"), "24m")
        server = start_server(trash_reserve=0, **options)
        for name in ("bob", "carol"):
            server.accounts.add(name, "secret")
        bob = server.accounts.get("bob")
        (bob.home / "large").write_bytes(bytes(12 * MIB))
        recount(server.service.ledger, bob.id, Home(bob.home))
        peer = dial(server, logged_in=False)
        peer.log_in("bob")
        assert peer.ask(Remove(b"/large")).trashed
        peer.close()
        return server

    return start


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"isolation": "process"}], ids=str)
def test_what_others_have_removed_makes_space(serve, dial, options):
    server = serve(dial, **options)
    peer = dial(server, logged_in=False)
    peer.log_in("carol")
    assert isinstance(put(peer, b"/new", 12 * MIB), Stored)
    bob, carol = server.accounts.get("bob"), server.accounts.get("carol")
    assert os.listdir(bob.home / ".ftpd-trash") == []
    assert (bob.used, bob.trash_bytes, carol.used) == (0, 0, 12 * MIB)
    assert server.trash.totals()[2] == 1


def test_what_has_no_space_however_much_is_evicted_is_refused(serve, dial):
    server = serve(dial)
    peer = dial(server, logged_in=False)
    peer.log_in("carol")
    answer = put(peer, b"/new", 25 * MIB)
    assert isinstance(answer, Failed) and answer.code == "disk-full"


def test_a_disk_that_can_take_no_more_files(mount, start_server, dial, tmp_path):  # noqa: F811
    disk = mount("tmpfs", tmp_path / "root")
    subprocess.run(["mount", "-o", "remount,nr_inodes=200", str(disk)], check=True)
    server = start_server(trash_reserve=0)
    alice = server.accounts.get("alice")
    (alice.home / "d").mkdir()
    for number in range(20):
        (alice.home / "d" / str(number)).touch()
    recount(server.service.ledger, alice.id, Home(alice.home))
    peer = dial(server)
    assert peer.ask(Remove(b"/d", True)).trashed
    (disk / "filler").mkdir()
    try:
        for number in itertools.count():
            (disk / "filler" / str(number)).touch()
    except OSError as error:
        assert error.errno == errno.ENOSPC
    assert isinstance(put(peer, b"/new", 1), Stored)
    assert (alice.home / "new").read_bytes() == b"\0"
