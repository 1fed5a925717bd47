"""`remove` with a size and an mtime: nothing goes that came there meanwhile."""

from __future__ import annotations

import fcntl
import os

import pytest

from ftpserver.serving import opening
from ftpserver.storage.home_staging import StagingHome
from ftpserver.storage.open_home import LOCK_NAME
from ftpserver.workspace.workspace import Workspace
from ftpwire import paths
from ftpwire.errors import IsADirectory, SourceChanged
from ftpwire.messages import IF_SAME, Remove

TIME = 1_600_000_000_123_456_789


@pytest.fixture
def there(files):
    path = files / "a"
    path.write_bytes(b"1234")
    os.utime(path, ns=(TIME, TIME))
    return path


@pytest.mark.parametrize(
    "reported", [{"size": 5}, {"mtime_ns": TIME + 1}, {"size": 4, "mtime_ns": TIME - 1}]
)
def test_only_what_still_is_the_same_is_removed(client, there, reported):
    ask = client.connection.ask
    with pytest.raises(SourceChanged):
        ask(Remove(b"/a", **reported))
    assert there.read_bytes() == b"1234"
    assert ask(Remove(b"/a", size=4, mtime_ns=TIME)).size_bytes == 4
    assert not there.exists()


def test_a_link_is_looked_at_itself(client, there, files):
    link = files / "link"
    link.symlink_to("a")
    with pytest.raises(SourceChanged):
        client.connection.ask(Remove(b"/link", mtime_ns=TIME))
    info = link.lstat()
    client.connection.ask(Remove(b"/link", size=info.st_size, mtime_ns=info.st_mtime_ns))
    assert there.exists() and not link.is_symlink()


@pytest.mark.parametrize("recursive", [False, True])
def test_a_directory_is_never_the_same(client, files, recursive):
    (files / "d").mkdir()
    info = (files / "d").stat()
    with pytest.raises(IsADirectory):
        client.connection.ask(Remove(b"/d", recursive, info.st_size, info.st_mtime_ns))
    assert (files / "d").is_dir()


def test_file_only_refuses_a_directory(client, there, files):
    (files / "d").mkdir()
    for recursive in (False, True):
        with pytest.raises(IsADirectory):
            client.connection.ask(Remove(b"/d", recursive, file_only=True))
    (files / "link").symlink_to("d")
    for path in (b"/a", b"/link"):
        client.connection.ask(Remove(path, file_only=True))
    assert not there.exists() and (files / "d").is_dir() and not (files / "link").is_symlink()


def test_what_comes_just_before_it_goes_is_given_back(client, there, files, monkeypatch):
    """Between the look and the removal: it is looked at once more where nobody reaches it."""
    take = StagingHome._discard_through

    def replaced_first(home, staging, directory, name, check):
        (files / "new").write_bytes(b"newer bytes")
        os.replace(files / "new", there)
        return take(home, staging, directory, name, check)

    monkeypatch.setattr(StagingHome, "_discard_through", replaced_first)
    with pytest.raises(SourceChanged):
        client.connection.ask(Remove(b"/a", size=4, mtime_ns=TIME, final=True))
    assert there.read_bytes() == b"newer bytes"
    assert client.space().used == 0  # nothing was taken for freed: it never counted


@pytest.mark.parametrize("later", [True, False], ids=["batch", "at-once"])
def test_no_other_session_replaces_what_is_looked_at(client, there, files, monkeypatch, later):
    """From the look on, until it is gone: a crash in between has nothing of theirs to lose."""
    client.write("/b", b"")  # the lock is there then
    lock = os.open(files / os.fsdecode(paths.STAGING) / os.fsdecode(LOCK_NAME), os.O_RDWR)
    steps = []
    discard, take = StagingHome.discard, StagingHome._discard_through

    def others_wait():
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(lock, fcntl.LOCK_UN)
        return False

    def looked_at(home, directory, name, check):
        steps.append(others_wait())
        return discard(home, directory, name, check)

    def taken(home, staging, directory, name, check):
        steps.append(others_wait())
        return take(home, staging, directory, name, check)

    monkeypatch.setattr(StagingHome, "discard", looked_at)
    monkeypatch.setattr(StagingHome, "_discard_through", taken)
    if not later:
        monkeypatch.setattr(Workspace, "remove_later", lambda *args, **named: False)
    try:
        client.connection.ask(Remove(b"/a", size=4, mtime_ns=TIME, final=True))
        assert not there.exists() and steps == [True, True]
        there.write_bytes(b"1")
        client.connection.ask(Remove(b"/a", final=True))
        assert steps[2:] == [False, False]  # what isn't looked at keeps nobody waiting
    finally:
        os.close(lock)


def test_a_server_says_that_it_can():
    assert IF_SAME in opening.FEATURES
