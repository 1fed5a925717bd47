"""Somebody who wants what others have in their trash, or to get out of a home through a trash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from ftpserver.schema import operation
from ftpserver.storage.trash.index import Contents, decode
from ftpwire.frames import Kind
from ftpwire.messages import (
    Done,
    Failed,
    Get,
    Hash,
    List,
    ListTrash,
    Message,
    Operation,
    Purge,
    Remove,
    Removed,
    Restore,
    Restored,
    Stat,
)
from tests.hostile.conftest import Site, each_way
from tests.peer import Peer

SECRET = b"what alice has removed"


class Bin:
    """Alice's trash, with a file, and a tree that has one, in one operation.

    Attributes:
        name: Of the operation.
        file, tree: Names of its items.
    """

    def __init__(self, site: Site) -> None:
        self.home: Path = site.server.accounts.get("alice").home
        (self.home / "file").write_bytes(SECRET)
        (self.home / "tree").mkdir()
        (self.home / "tree" / "inner").write_bytes(SECRET)
        self.peer = site.user()
        assert self.peer.ask(Operation(b"by alice")) == Done()
        for number, path in enumerate((b"/file", b"/tree"), 1):
            removed = self.peer.ask(Remove(path, recursive=True, number=number))
            assert isinstance(removed, Removed) and removed.operation is not None, removed
        self.name: str = removed.operation
        index = (self.directory / "index").read_bytes()
        names = {item.path.value: item.name for item in Contents.of(decode(index)).items}
        self.file, self.tree = names[b"/file"], names[b"/tree"]

    @property
    def directory(self) -> Path:
        """The operation's, on the disk."""
        return self.home / ".ftpd-trash" / self.name

    def is_untouched(self) -> bool:
        """Whether all of it is there."""
        there = (self.directory / self.file, self.directory / self.tree / "inner")
        return all(path.read_bytes() == SECRET for path in there)


def mallory(site: Site, **options: Any) -> Peer:
    """Somebody else's session."""
    site.server.accounts.add("mallory", "mallory's own", **options)
    peer = site.knock()
    peer.log_in("mallory", "mallory's own")
    return peer


def ending(peer: Peer, request: Message) -> tuple[Any, bytes]:
    """How a request ends, and all that came."""
    number = peer.request(request)
    came = b""
    while True:
        frame = peer.answer()
        assert frame.request_id == number, frame
        if frame.kind == Kind.DATA:
            came += frame.payload
            continue
        reported = frame.message
        came += repr(reported).encode()
        streams = isinstance(request, List | Get | ListTrash)
        if frame.kind in (Kind.ERROR, Kind.END) or not streams:
            return reported, came


def looks(name: str, item: str, path: bytes) -> list[Message]:
    """All ways of looking at something in a trash."""
    place = (name, item)
    return [
        Stat(path, in_trash=place),
        List(path, in_trash=place),
        List(path, recursive=True, in_trash=place),
        Get(path, in_trash=place),
        Hash(path, in_trash=place),
    ]


@each_way
@pytest.mark.parametrize("shares", [False, True], ids=["own-home", "shared-home"])
def test_nobody_has_anything_of_anothers_trash(serve, way, shares):
    site = serve()
    there = Bin(site)
    peer = mallory(site, **({"home": there.home} if shares else {}))
    requests = [
        *looks(there.name, there.file, b"/"),
        *looks(there.name, there.tree, b"/inner"),
        ListTrash(there.name, items=True),
        ListTrash(items=True),
        Restore(there.name, target=b"/mine"),
        Restore(there.name, items=[there.file], conflict="replace"),
        Restore(there.name, paths=[b"/tree/inner"]),
        Restore(there.name, look=True),
        Purge(there.name),
        Purge(there.name, items=[there.file]),
        Purge(before=2**40),
        Purge(),
    ]
    for request in requests:
        reported, came = ending(peer, request)
        assert SECRET not in came and there.file.encode() not in came, request
        if not isinstance(request, ListTrash | Purge):
            assert isinstance(reported, Failed), (request, reported)
            assert reported.code in ("expired", "not-found"), (request, reported)
    # the same key is another account's operation
    assert peer.ask(Operation(b"by alice")) == Done()
    for number in (1, 2):  # and so are its answers
        reported = peer.ask(Remove(b"/file", recursive=True, number=number, again=True))
        assert isinstance(reported, Failed) and reported.code == "not-found", reported
    if not shares:
        (site.server.accounts.get("mallory").home / "own").write_bytes(b"own")
        removed = peer.ask(Remove(b"/own"))
        assert removed.operation != there.name
    assert there.is_untouched()
    assert isinstance(there.peer.ask(Restore(there.name)), Restored)
    assert (there.home / "tree" / "inner").read_bytes() == SECRET


BAD_NAMES = ["..", ".", "", "index", "../index", "a/b", "\0", "x" * 5000, "0" * 25]
BAD_ITEMS = ["..", ".", "", "index", "../../file", "00000000-1/..", "00000000-\n1", "x" * 5000]


@each_way
def test_names_that_lead_elsewhere_are_no_names(serve, way):
    site = serve()
    there = Bin(site)
    places = [(name, there.file) for name in BAD_NAMES]
    places += [(there.name, item) for item in BAD_ITEMS]
    requests: list[Message] = []
    for name, item in places:
        requests += looks(name, item, b"/")
        requests += [Restore(name, items=[item]), Purge(name, items=[item])]
    requests += [ListTrash(name) for name in BAD_NAMES]
    requests += [Restore(there.name, items=[there.file] * 1001), ListTrash(limit=0)]
    for request in requests:
        reported, came = ending(there.peer, request)
        assert isinstance(reported, Failed) and reported.code == "bad-request", (request, reported)
    assert there.is_untouched() and site.is_served(there.peer)


ELSEWHERE = [
    *(b"/.ftpd-trash", b"/.ftpd-staging", b"/a/.ftpd-trash/b", b"/a/.ftpd-staging"),
    *(b"/../.ftpd-trash", b"/a/../.ftpd-staging/x"),
]


@each_way
def test_nothing_is_restored_to_reserved_names_or_out_of_the_home(serve, way):
    site = serve()
    there = Bin(site)
    before = sorted(there.home.parent.rglob("*"))
    for target in ELSEWHERE:
        for conflict in ("skip", "replace", "beside"):
            request = Restore(there.name, target=target, conflict=conflict)
            reported, _ = ending(there.peer, request)
            if isinstance(reported, Restored):  # refused one by one
                assert reported.items == 0 and reported.conflicts, (request, reported)
        for request in (
            Restore(there.name, paths=[target]),
            Get(target, in_trash=(there.name, there.tree)),
            List(target, in_trash=(there.name, there.tree)),
            ListTrash(below=target),
        ):
            reported, came = ending(there.peer, request)
            assert not getattr(reported, "items", 0), (request, reported)
            assert SECRET not in came
    assert there.is_untouched()
    after = [path for path in sorted(there.home.parent.rglob("*")) if path not in before]
    assert not [path for path in after if ".ftpd" not in str(path.relative_to(there.home.parent))]


@each_way
def test_links_in_what_was_removed_lead_nowhere(serve, way, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    site = serve()
    home: Path = site.server.accounts.get("alice").home
    tree = home / "tree"
    tree.mkdir()
    (tree / "absolute").symlink_to(outside)
    depth = len(home.parts) + 5
    (tree / "relative").symlink_to("/".join([".."] * depth) + str(outside))
    (tree / "up").symlink_to("../index")
    (home / "single").symlink_to(outside / "secret")
    peer = site.user()
    peer.ask(Operation(b"12345678"))
    peer.ask(Remove(b"/single"))
    name = peer.ask(Remove(b"/tree", recursive=True)).operation
    index = (home / ".ftpd-trash" / name / "index").read_bytes()
    items = {item.path.value: item.name for item in Contents.of(decode(index)).items}
    for path in (b"/absolute/secret", b"/relative/secret", b"/up", b"/absolute", b"/relative"):
        for request in looks(name, items[b"/tree"], path):
            reported, came = ending(peer, request)
            assert SECRET not in came and b"begin" not in came, (request, reported, came)
            is_link = came.count(b"Entry(") == came.count(b"type='link'") == 1
            assert isinstance(reported, Failed) or is_link, (request, reported, came)
    assert (
        ending(peer, Stat(b"/absolute", in_trash=(name, items[b"/tree"])))[0].entry.type == "link"
    )
    for request in looks(name, items[b"/single"], b"/"):
        _, came = ending(peer, request)
        assert SECRET not in came, request
    for path in (b"/tree/absolute/secret", b"/tree/relative/secret"):
        restored = peer.ask(Restore(name, paths=[path]))
        assert isinstance(restored, Restored) and not restored.items, restored
    assert peer.ask(Restore(name)).items == 2
    assert os.readlink(tree / "absolute") == str(outside)
    assert [path.name for path in outside.iterdir()] == ["secret"]


@each_way
def test_a_parent_that_is_a_link_by_now_leads_nowhere(serve, way, tmp_path):
    """What was removed from a directory goes to no place that a link in its stead leads to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    site = serve()
    home: Path = site.server.accounts.get("alice").home
    (home / "d").mkdir()
    (home / "d" / "f").write_bytes(b"f")
    peer = site.user()
    peer.ask(Operation(b"12345678"))
    name = peer.ask(Remove(b"/d/f")).operation
    (home / "d").rmdir()
    (home / "d").symlink_to(outside)
    for conflict in ("skip", "replace", "beside"):
        restored = peer.ask(Restore(name, conflict=conflict))
        assert isinstance(restored, Failed) or not restored.items, restored
        assert not list(outside.iterdir())
    (home / "to").symlink_to(outside)
    restored = peer.ask(Restore(name, target=b"/to/deep"))
    assert isinstance(restored, Failed) or not restored.items, restored
    assert not list(outside.iterdir())


@each_way
def test_operations_that_are_begun_and_never_used_take_nothing(serve, way):
    site = serve()
    home: Path = site.server.accounts.get("alice").home
    peer = site.user()
    for number in range(2000):
        said = Operation(number.to_bytes(8, "big"), "x" * 200, number.to_bytes(8, "little"))
        assert peer.ask(said) == Done()
    assert not (home / ".ftpd-trash").exists()
    ledger = site.server.service.ledger
    with ledger._engine.connect() as connection:
        rows = connection.execute(select(func.count()).select_from(operation)).scalar_one()
    assert rows == 0
    assert site.is_served(peer)


@each_way
def test_a_trash_of_many_operations_is_reported_bit_by_bit(serve, way):
    """Also to somebody who asks for all of it: in pages, of which each is bounded."""
    site = serve()
    home: Path = site.server.accounts.get("alice").home
    peer = site.user()
    for number in range(200):
        (home / "f").write_bytes(b"f")
        peer.ask(Operation(number.to_bytes(8, "big"), "x" * 200))
        assert peer.ask(Remove(b"/f")).trashed
    for request, expected in ((ListTrash(), 200), (ListTrash(limit=7), 7)):
        peer.request(request)
        reported = 0
        while (frame := peer.answer()).kind != Kind.END:
            reported += len(frame.message.operations)
            assert len(frame.payload) < 128 * 1024
        assert reported == expected
