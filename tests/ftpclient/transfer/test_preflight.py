"""What cannot fit is refused before its first byte; what fits is not."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from ftpclient.transfer import retry
from ftpwire.errors import ConnectionLost, DiskFull, QuotaExceeded
from tests.ftpclient.transfer.test_resume import MIB, OVERHEAD, content, space, through


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Reconnect at once."""
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)


@pytest.fixture
def server(start_server):
    """With room for 20 MiB."""
    return start_server(quota=20 * MIB, durable=False)


@pytest.fixture
def tree(tmp_path):
    """Four files of 3 MiB each."""
    directory = tmp_path / "tree"
    directory.mkdir()
    for number in range(4):
        (directory / f"f{number}").write_bytes(content(3 * MIB, number))
    return directory


def test_several_files_that_cant_fit_together(server, tmp_path):
    for number in range(3):
        (tmp_path / f"f{number}").write_bytes(bytes(7 * MIB))
    with through(server) as (proxy, client):
        with pytest.raises(
            QuotaExceeded, match="21.0 MiB needed, 20.0 MiB free of a .* 20.0 MiB; nothing was"
        ):
            client.put([tmp_path / f"f{number}" for number in range(3)], "/")
        assert proxy.passed("up") < OVERHEAD
        assert list(client.list_dir("/")) == []
        assert client.put([tmp_path / "f0", tmp_path / "f1"], "/").done == 2
        # again: they need nothing now
        assert client.put([tmp_path / "f0", tmp_path / "f1"], "/").failed == 0


def test_an_atomic_tree_needs_space_beside_the_old_one(server, tree):
    with through(server) as (proxy, client):
        assert client.put([tree], "/www", recursive=True, atomic=True).done == 4
        before = proxy.passed("up")
        with pytest.raises(
            QuotaExceeded, match="12.0 MiB needed, 8.0 MiB free of a .* 20.0 MiB; nothing was"
        ):
            client.put([tree], "/www", recursive=True, atomic=True)
        assert proxy.passed("up") - before < OVERHEAD
        # into it, the same files need nothing
        assert client.put([os.path.join(tree, ".")], "/www", recursive=True).failed == 0


@pytest.mark.parametrize("overwrite", ["always", "older", "never"])
def test_a_tree_that_is_there_in_part(server, tree, overwrite):
    """What is replaced makes room, what is left alone needs none, and the rest counts."""
    with through(server) as (proxy, client):
        assert client.put([tree], "/", recursive=True).done == 4
        for number in range(4):
            (tree / f"f{number}").write_bytes(content(3 * MIB + 1, number))
        (tree / "new").write_bytes(content(9 * MIB))
        before = proxy.passed("up")
        with pytest.raises(QuotaExceeded, match="nothing was sent"):
            client.put([tree], "/", recursive=True, overwrite=overwrite)
        assert proxy.passed("up") - before < OVERHEAD
        os.truncate(tree / "new", 4 * MIB)
        # by one connection: several would reserve at the same time what is replaced in turn
        summary = client.put([tree], "/", recursive=True, overwrite=overwrite, parallel=1)
        assert summary.failed == 0


def test_sizes_that_look_the_same_are_reported_in_bytes(server, tmp_path):
    (tmp_path / "a").write_bytes(bytes(10 * MIB))
    (tmp_path / "b").write_bytes(bytes(10 * MIB + 1))
    with through(server) as (_, client):
        with pytest.raises(QuotaExceeded, match="20971521 bytes needed, 20971520 bytes free"):
            client.put([tmp_path / "a", tmp_path / "b"], "/")


def test_a_sync_goes_on_with_what_an_earlier_one_holds(server, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "file").write_bytes(content(15 * MIB))
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("up", 8 * MIB)
        with pytest.raises(ConnectionLost):
            client.sync(tmp_path / "site", ":/site")
    assert space(server).held == 15 * MIB
    with through(server) as (proxy, client):
        assert client.sync(tmp_path / "site", ":/site").sent == 1
        (tmp_path / "site" / "more").write_bytes(bytes(6 * MIB))
        before = proxy.passed("up")
        with pytest.raises(
            QuotaExceeded, match="6.0 MiB needed, 5.0 MiB free .*; nothing was changed"
        ):
            client.sync(tmp_path / "site", ":/site")
        assert proxy.passed("up") - before < OVERHEAD


def test_the_servers_disk_counts_where_no_quota_does(start_server, tree, monkeypatch):
    monkeypatch.setattr("ftpserver.storage.home.Home.disk_free", lambda home: 10 * MIB)
    with through(start_server(durable=False)) as (proxy, client):
        with pytest.raises(DiskFull, match="12.0 MiB needed, 10.0 MiB free on the server's disk"):
            client.put([tree], "/", recursive=True)
        with pytest.raises(DiskFull, match="nothing was changed"):
            client.sync(tree, ":/tree")
        assert proxy.passed("up") < OVERHEAD
        os.unlink(tree / "f0")
        assert client.put([tree], "/", recursive=True).done == 3


# here ----------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """The disk here, as it tells of itself: with room for 10 MiB."""
    reported = SimpleNamespace(f_bavail=10 * 256, f_blocks=10**6, f_frsize=4096)
    monkeypatch.setattr("ftpclient.transfer.preflight.os.statvfs", lambda path: reported)
    return reported


def nothing_left(directory) -> bool:
    return not directory.exists() or not any(directory.iterdir())


def test_a_download_that_the_disk_here_cant_hold(server, tree, tmp_path, disk):
    with through(server) as (proxy, client):
        client.put([tree], "/", recursive=True)
        target = tmp_path / "deep" / "target"
        target.parent.mkdir()
        summary = client.get(["/tree"], target, recursive=True)
        assert (summary.failed, summary.exit_code) == (1, 7)
        with pytest.raises(DiskFull, match="12.0 MiB needed, 10.0 MiB free in .*deep; nothing was"):
            client.sync(":/tree", target)
        disk.f_bavail = 1
        assert client.get(["/tree/f0"], target).exit_code == 7
        assert proxy.passed("down") < OVERHEAD
        assert nothing_left(target)
        disk.f_blocks = 0  # a file system that doesn't say
        assert client.get(["/tree"], target, recursive=True).done == 4


def test_a_download_needs_no_space_for_what_is_here(server, tree, tmp_path, disk):
    with through(server) as (_, client):
        client.put([tree], "/", recursive=True)
        target = tmp_path / "target"
        disk.f_bavail = 4 * 1024
        assert client.get(["/tree"], target, recursive=True).done == 4
        disk.f_bavail = 0
        assert client.get(["/tree/."], target, recursive=True).failed == 0
        assert client.sync(":/tree", target).failed == 0


def test_a_download_goes_on_with_what_an_earlier_try_has_brought(server, tmp_path, disk):
    big = tmp_path / "big"
    big.mkdir()
    (big / "file").write_bytes(content(15 * MIB))
    disk.f_bavail = 4 * 1024
    with through(server, retries=0) as (proxy, client):
        client.put([big], "/", recursive=True)
        proxy.cut_after("down", 12 * MIB)
        with pytest.raises(ConnectionLost):
            client.sync(":/big", tmp_path / "synced")
    disk.f_bavail = 8 * 256
    with through(server) as (_, client):
        assert client.sync(":/big", tmp_path / "synced").sent == 1
        os.truncate(tmp_path / "synced" / "file", 9 * MIB)
        assert client.get(["/big/file"], tmp_path / "synced").done == 1
