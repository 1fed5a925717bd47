"""Files on the server whose time lies beyond 2262, which no 64 bits of nanoseconds can hold."""

from __future__ import annotations

import os

import pytest

from ftpwire import digests
from ftpwire.messages import Copied

LATE = 2**63 + 10**9
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
    assert (entry.path, entry.size, entry.mtime_ns) == (b"late", len(DATA), LATE)
    assert client.stat("/late", digest=True).mtime_ns == LATE


def test_it_is_hashed(client, late):
    for _ in range(2):  # no digest can be kept
        assert client.hash("/late").digest == digests.digest(DATA)


def test_it_is_got(client, late, tmp_path):
    assert client.get(["/late"], tmp_path / "got").exit_code == 0
    assert (tmp_path / "got").read_bytes() == DATA


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
