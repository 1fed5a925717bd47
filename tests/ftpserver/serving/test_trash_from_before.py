"""Homes in which the trash's name was a user's own before: nothing of that is ever given up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpserver.admin import verify
from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpwire.frames import Kind
from ftpwire.messages import (
    Failed,
    ListTrash,
    Message,
    Operation,
    Purge,
    Put,
    Remove,
    Removed,
    Sent,
    Space,
    SpaceInfo,
    Stored,
)
from tests.ftpserver.storage.trash.steps import disagreements
from tests.peer import Peer

KIB = 1024
OLD = 10**9
"""Seconds since 1970, long ago: older than anything is kept."""


def make_own(home: Path) -> Path:
    """A user's directory of that name, with all that could be taken for an operation."""
    own = home / ".ftpd-trash"
    (own / "holiday").mkdir(parents=True)
    (own / "photo").write_bytes(b"photo")
    (own / "holiday" / "letter").write_bytes(b"letter")
    named = own / f"{OLD * 10**9:016x}-0123abcd"
    named.mkdir()
    (named / "0123abcd-0").write_bytes(b"no line tells of this")
    (named / "sub").mkdir()
    (named / "sub" / "file").write_bytes(b"nor of this")
    other = own / f"{OLD * 10**9:016x}-89abcdef"
    other.mkdir()
    (other / "index").write_bytes(b"an index of the user's own\nof two lines\n")
    (other / "text").write_bytes(b"text")
    for path in (*own.rglob("*"), own):
        os.utime(path, (OLD, OLD))
    return own


def own_of(own: Path) -> dict[str, bytes]:
    """The user's files in it. An empty index may have come to one, which was only held."""
    return {
        str(path.relative_to(own)): path.read_bytes()
        for path in own.rglob("*")
        if path.is_file() and path.stat().st_mtime == OLD
    }


def put(peer: Peer, path: bytes, size: int) -> Message:
    request = peer.request(Put(path, size))
    peer.frame(Kind.DATA, request, bytes(size))
    peer.frame(Kind.END, request, Sent(size))
    return peer.answer().message


@pytest.fixture
def home(start_server, tmp_path) -> Path:
    """Alice's, from before the first start."""
    directory = tmp_path / "root" / "alice"
    directory.mkdir(parents=True)
    return directory


def test_a_directory_of_a_users_own_stays(home, start_server, dial):
    own = make_own(home)
    names = set(map(os.fsencode, os.listdir(own)))
    before = own_of(own)
    assert len(before) == 6
    server = start_server(quota=256 * KIB, trash_days=1, trash_items=1, trash_max=1)
    account = server.accounts.get("alice")
    ledger = server.service.ledger
    recount(ledger, account.id, Home(home))
    peer = dial(server)
    for number in range(8):  # more than there is room for
        peer.ask(Operation(number.to_bytes(8, "big")))
        assert isinstance(put(peer, b"/f", 60 * KIB), Stored)
        assert peer.ask(Remove(b"/f")).trashed
    assert isinstance(peer.ask(Purge()), Removed)
    assert isinstance(peer.ask(Purge(before=2**40)), Removed)
    for name in names:
        reported = peer.ask(Purge(name.decode())) if b"-" in name else None
        assert reported is None or isinstance(reported, Failed), (name, reported)
    peer.request(ListTrash(items=True))
    while (frame := peer.answer()).kind != Kind.END:
        assert not frame.message.operations, frame.message
    recount(ledger, account.id, Home(home))
    assert own_of(own) == before
    assert not disagreements(ledger, account.id, home)
    reported = "\n".join(map(str, verify.check(server.settings.root)))
    for name in ("photo", "holiday", "0123abcd-0", "89abcdef/text"):
        assert name in reported, reported


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_stays(home, start_server, dial, kind, tmp_path):
    own = home / ".ftpd-trash"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "file":
        own.write_bytes(b"own")
    else:
        own.symlink_to(elsewhere)
    (home / "f").write_bytes(b"f")
    (home / "tree").mkdir()
    server = start_server(quota=256 * KIB)
    peer = dial(server)
    for path in (b"/f", b"/tree"):  # there is nowhere to keep it, and nothing is lost
        refused = peer.ask(Remove(path, recursive=True))
        assert isinstance(refused, Failed) and "the trash" in refused.message, refused
        removed = peer.ask(Remove(path, recursive=True, final=True))
        assert isinstance(removed, Removed) and not removed.trashed, removed
    assert peer.ask(Purge()) == Removed(0, 0, 0)
    assert isinstance(peer.ask(Space()), SpaceInfo)
    account, ledger = server.accounts.get("alice"), server.service.ledger
    assert put(peer, b"/new", 10 * KIB) == Stored(10 * KIB)
    refused = put(peer, b"/new", 300 * KIB)
    assert isinstance(refused, Failed) and refused.code == "quota"
    peer.close()
    recount(ledger, account.id, Home(home))
    used = 10 * KIB + len(os.fsencode(os.readlink(own)) if kind == "link" else b"own")
    account = server.accounts.get("alice")
    assert (account.used, account.files, account.trash_files) == (used, 2, 0)
    assert not list(elsewhere.iterdir())
    assert own.is_symlink() or own.read_bytes() == b"own"
