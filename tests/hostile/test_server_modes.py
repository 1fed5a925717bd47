"""A server that sets modes of directories that the user had.

Lives here: get and sync into a directory that has others in it.
Lives elsewhere: modes of files (test_hostile_server.py), setgid of shared directories.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ftpclient.sync.job import Options as SyncOptions
from ftpclient.transfer.report import Listener
from ftpwire.errors import ConnectionLost
from ftpwire.messages import Entry, Page
from tests.lying_server import LyingServer, file_entry


class Remarks(Listener):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def remark(self, text: str) -> None:
        self.texts.append(text)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wide_open(mode: int = 0o777) -> LyingServer:
    """A server on which all directories have that mode: the root, .ssh, docs and docs/new."""

    def entry(path: bytes) -> Entry:
        return Entry(path, "dir", 0, mode, 5)

    pages = [
        Page(b"", [entry(b".ssh"), entry(b"docs")], [], True),
        Page(b".ssh", [file_entry(b"config")], [], True),
        Page(b"docs", [entry(b"new")], [], True),
        Page(b"docs/new", [file_entry(b"file")], [], True),
    ]
    return LyingServer(root=entry, pages=pages)


@pytest.fixture
def home(tmp_path) -> Path:
    """A user's directory, with modes of the user's own."""
    home = tmp_path / "home"
    for directory, mode in ((home, 0o750), (home / ".ssh", 0o700), (home / "docs", 0o775)):
        directory.mkdir()
        directory.chmod(mode)
    return home


def download(verb: str, client, home: Path, listener: Listener):
    if verb == "get":
        return client.get(["/"], str(home), recursive=True, listener=listener)
    options = SyncOptions(force=True)
    return client.sync(b":/tree", os.fsencode(home), options, listener=listener)


@pytest.mark.parametrize("mode", [0o777, 0o7777], ids=oct)
@pytest.mark.parametrize("verb", ["get", "sync"])
def test_what_was_here_is_not_opened_to_others(fake, connect, home, verb, mode):
    client, listener = connect(fake(wide_open(mode)), retries=0), Remarks()
    summary = download(verb, client, home, listener)
    assert not summary.failed
    assert mode_of(home) == 0o750
    assert mode_of(home / ".ssh") & 0o7022 == 0
    assert mode_of(home / "docs") == 0o775  # group could write, others couldn't
    assert mode_of(home / "docs" / "new") == 0o777  # the control: it was made for this
    assert len([text for text in listener.texts if "existed before" in text]) == 1


@pytest.mark.parametrize("verb", ["get", "sync"])
def test_a_named_directory_that_was_made_gets_its_mode(fake, connect, tmp_path, verb):
    client, listener = connect(fake(wide_open()), retries=0), Remarks()
    assert not download(verb, client, tmp_path / "made", listener).failed
    assert {mode_of(tmp_path / "made" / name) for name in ("", ".ssh", "docs")} == {0o777}
    assert listener.texts == []


@pytest.mark.parametrize("verb", ["get", "sync"])
def test_rights_are_taken_away_as_the_server_says(fake, connect, home, verb):
    client, listener = connect(fake(wide_open(0o500)), retries=0), Remarks()
    assert not download(verb, client, home, listener).failed
    assert (mode_of(home), mode_of(home / "docs")) == (0o750, 0o500)
    assert listener.texts == []
    for directory in (home / "docs", home / "docs" / "new", home / ".ssh"):
        directory.chmod(0o700)


@pytest.mark.parametrize("verb", ["get", "sync"])
@pytest.mark.parametrize("special", [0o1000, 0o2000], ids=oct)
def test_a_closed_directory_keeps_sticky_and_setgid(fake, connect, home, verb, special):
    """It is opened for its owner first, since something is made in it."""
    (home / "docs").chmod(0o577 | special)
    assert not download(verb, connect(fake(wide_open()), retries=0), home, Remarks()).failed
    assert mode_of(home / "docs") == 0o777 | special


def test_sync_finds_nothing_to_do_the_second_time(fake, connect, home):
    client, listener = connect(fake(wide_open()), retries=0), Remarks()
    first = download("sync", client, home, listener)
    before = {path: path.lstat().st_ctime_ns for path in home.rglob("*") if path.is_dir()}
    again = download("sync", client, home, listener)
    assert first.done and not again.done
    assert before == {path: path.lstat().st_ctime_ns for path in before}


def test_a_directory_of_a_get_that_was_cut_has_its_rights(fake, connect, tmp_path, monkeypatch):
    """The next try could not tell it from one that the user has made."""
    seen = {}

    def get(peer, number: int) -> None:
        seen.update({path.name: mode_of(path) for path in tmp_path.rglob("*") if path.is_dir()})
        peer.close()
        raise EOFError

    server = wide_open()
    server.get = get
    client = connect(fake(server), retries=0)
    with pytest.raises(ConnectionLost):
        client.get(["/"], str(tmp_path / "made"), recursive=True)
    assert {seen[name] for name in ("made", ".ssh")} == {0o777}
