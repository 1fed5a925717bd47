"""Files on the server whose time lies beyond 2262, which no 64 bits of nanoseconds can hold."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from ftpserver.cli.main import cli as ftpd
from ftpwire import beneath, digests
from ftpwire.messages import Copied

LATE = 2**63 + 10**9
LATEST = 2**63 - 1
"""What is told instead."""
DATA = b"from a clock that was wrong"


@pytest.fixture
def late(server, client):
    """A file as something else has left it in alice's home."""
    path = server.settings.root / "alice" / "late"
    path.write_bytes(DATA)
    os.utime(path, ns=(0, LATE))
    if path.stat().st_mtime_ns != LATE:
        pytest.skip("this file system has no such times")
    return path


def test_it_is_listed(client, late):
    (entry,) = client.list_dir("/")
    assert (entry.path, entry.size, entry.mtime_ns) == (b"late", len(DATA), LATEST)
    assert client.stat("/late", digest=True).mtime_ns == LATEST


def test_it_is_hashed(client, late):
    for _ in range(2):  # no digest can be kept
        assert client.hash("/late").digest == digests.digest(DATA)


def test_a_scrub_goes_on_after_it(client, late, capsys):
    """It is given no digest, and the files after it are given theirs."""
    for name in ("earlier", "zz later"):
        (late.parent / name).write_bytes(DATA)
    with pytest.raises(SystemExit) as ended:
        ftpd.main(["scrub", "--root", str(late.parent.parent)])
    assert ended.value.code == 0
    assert "2 digests added, 1 without a digest" in capsys.readouterr().out
    assert client.stat("/late", digest=True).digest is None
    for name in ("/earlier", "/zz later"):
        assert client.stat(name, digest=True).digest == digests.digest(DATA)


def test_it_is_got(client, late, tmp_path):
    assert client.get(["/late"], tmp_path / "got").exit_code == 0
    assert (tmp_path / "got").read_bytes() == DATA
    assert (tmp_path / "got").stat().st_mtime_ns == LATEST


def test_times_that_no_message_can_carry_are_reported_as_the_nearest():
    """Some file systems go far beyond what even this test can have on its disk."""
    for time, reported in (
        (2**64, LATEST),
        (LATEST, LATEST),
        (-(2**63), -(2**63)),
        (-(2**64), -(2**63)),
    ):
        assert beneath.clamped_mtime_ns(SimpleNamespace(st_mtime_ns=time)) == reported


@pytest.mark.parametrize("recursive", [False, True])
def test_it_is_copied(client, late, recursive):
    if recursive:
        client.make_dir("/dir")
        client.move("/late", "/dir/late")
        assert client.copy("/dir", "/copy", recursive=True) == Copied(1, 1, len(DATA))
        copy = late.parent / "copy" / "late"
    else:
        assert client.copy("/late", "/copy") == Copied(1, 0, len(DATA))
        copy = late.parent / "copy"
    assert copy.read_bytes() == DATA
    assert client.connected
