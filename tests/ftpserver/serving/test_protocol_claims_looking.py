"""Sentences of docs/protocol.md about paths, links and listings that no other test shows."""

from __future__ import annotations

import errno
import os
import re
import socket
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack

from ftpserver.storage import listing
from ftpwire import digests, growing
from ftpwire.frames import Kind
from ftpwire.messages import (
    Copied,
    Copy,
    Done,
    Failed,
    FilesStored,
    Get,
    GetFiles,
    Hash,
    List,
    Listed,
    Login,
    MakeLink,
    Move,
    NewFile,
    NewFiles,
    Page,
    Put,
    PutFiles,
    Remove,
    Removed,
    Sent,
    SetAttributes,
    Stat,
    Stored,
    WantedFile,
    WantedFiles,
)
from tests.peer import Peer
from tests.protocol_document import rows, section

DATA = b"some bytes"


@pytest.fixture
def peer(server, dial) -> Peer:
    return dial(server)


def put(peer: Peer, path: bytes) -> object:
    number = peer.request(Put(path, len(DATA)))
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA)))
    return peer.answer().message


def got(peer: Peer, path: bytes) -> bytes:
    peer.request(Get(path))
    assert peer.answer().kind == Kind.REPLY
    data = b""
    while (found := peer.answer()).kind == Kind.DATA:
        data += found.payload
    return data


def pages(peer: Peer, path: bytes, **options) -> list[Page]:
    """The pages of a listing that comes to its end."""
    peer.request(List(path, **options))
    found = []
    while (answer := peer.answer()).kind == Kind.REPLY:
        found.append(answer.message)
    assert answer.message == Listed(), answer
    return found


# links -------------------------------------------------------------------------------------


def test_which_links_are_followed(peer, files):
    """Each request of the table, with a link where its path ends."""
    followed, not_followed = zip(*rows(section("Paths")), strict=True)
    named = [
        {word for cell in cells for word in re.findall(r"`([a-z-]+)`", cell)} - {"follow", "links"}
        for cells in (followed, not_followed)
    ]
    assert named == [
        {"get", "hash", "list", "set-attributes", "stat", "copy"},
        {"stat", "put", "make-link", "remove", "move", "copy", "put-files", "get-files"},
    ]
    (files / "dir").mkdir()
    (files / "dir" / "inner").touch()
    (files / "file").write_bytes(DATA * 2)
    file, link = files / "file", files / "link"
    (files / "dirlink").symlink_to("/dir")

    def stays() -> None:
        """Make the link anew, where the request has replaced or moved it."""
        assert file.read_bytes() == DATA * 2
        link.unlink(missing_ok=True)
        link.symlink_to("/file")

    stays()
    assert got(peer, b"/link") == DATA * 2
    assert peer.ask(Hash(b"/link")).size == len(DATA) * 2
    assert [one.path for page in pages(peer, b"/dirlink") for one in page.entries] == [b"inner"]
    assert peer.ask(SetAttributes(b"/link", 0o600)) == Done()
    assert file.stat().st_mode & 0o777 == 0o600
    assert peer.ask(Stat(b"/link", follow=True)).entry.type == "file"
    assert isinstance(peer.ask(Copy(b"/link", b"/copy")), Copied)
    assert not (files / "copy").is_symlink() and (files / "copy").read_bytes() == DATA * 2

    assert peer.ask(Stat(b"/link")).entry.type == "link"
    assert isinstance(peer.ask(Copy(b"/link", b"/copied-link", links=True)), Copied)
    assert (files / "copied-link").is_symlink()
    assert put(peer, b"/link") == Stored(len(DATA))
    assert not link.is_symlink() and link.read_bytes() == DATA
    stays()
    assert peer.ask(MakeLink(b"/link", b"elsewhere")) == Done()
    assert os.readlink(link) == "elsewhere"
    stays()
    assert peer.ask(Remove(b"/link", final=True)) == Removed(1, 0, len("/file"))
    stays()
    assert peer.ask(Move(b"/link", b"/moved")) == Done()
    assert os.readlink(files / "moved") == "/file"
    stays()
    assert peer.ask(Move(b"/copy", b"/link")) == Done()
    assert not link.is_symlink()
    stays()
    assert isinstance(peer.ask(Copy(b"/dir/inner", b"/link")), Copied)
    assert not link.is_symlink() and link.read_bytes() == b""
    stays()
    info = file.stat()
    wanted = [WantedFile(b"link", info.st_size), WantedFile(b"file", info.st_size)]
    peer.request(GetFiles([WantedFiles(b"/", wanted)]))
    reported = peer.answer().message.files
    assert [one is None for one in reported] == [True, False]
    while peer.answer().kind != Kind.END:
        pass
    new = NewFile(b"link", len(DATA), 0o600, 7, digests.digest(DATA))
    number = peer.request(PutFiles([NewFiles(b"/", [new])]))
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA)))
    assert peer.answer().message == FilesStored(2)
    assert not link.is_symlink() and link.read_bytes() == DATA
    stays()
    (files / "other").symlink_to("dir")
    assert peer.ask(Stat(b"/other/inner")).entry.type == "file", "before the last part, always"
    assert peer.ask(Remove(b"/other/inner", final=True)) == Removed(1, 0, 0)


@pytest.mark.parametrize("target", [b"/dir/file", b"file", b"../dir/file", b"../../../dir/./file"])
def test_a_link_is_stored_as_it_is_and_leads_nowhere_else(peer, files, canary, target):
    (files / "dir").mkdir()
    (files / "dir" / "file").write_bytes(DATA)
    assert peer.ask(MakeLink(b"/dir/link", target)) == Done()
    assert os.readlink(bytes(files / "dir" / "link")) == target
    assert peer.ask(Stat(b"/dir/link")).entry.target == target
    assert got(peer, b"/dir/link") == DATA


def test_a_link_out_of_the_home_leads_to_its_top(peer, files, canary):
    up = b"../" * 40 + bytes(canary).lstrip(b"/") + b"/secret"
    assert peer.ask(MakeLink(b"/link", up)) == Done()
    assert peer.ask(Stat(b"/link", follow=True)).code == "not-found"
    for path in (b"/link", b"/link/x"):
        assert peer.ask(Get(path)).code in ("not-found", "not-a-directory")


def test_forty_links_in_a_row(server, dial, files):
    """As the kernel follows them, and as the server does where there are rules."""
    (files / "0").touch()
    for number in range(41):
        (files / f"{number + 1}").symlink_to(f"{number}")
    for rules in ("all", "/elsewhere=read-only"):
        server.accounts.change("alice", permissions=rules)
        peer = dial(server)
        assert peer.ask(Stat(b"/40", follow=True)).entry.type == "file"
        assert peer.ask(Stat(b"/41", follow=True)).code == "invalid-path"


# what else there is ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_what_is_no_file_directory_or_link(peer, files, monkeypatch, kind):
    monkeypatch.chdir(files)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "fifo":
            os.mkfifo("odd")
        else:
            listener.bind("odd")
    (only,) = pages(peer, b"/")[0].entries
    assert (only.path, only.type) == (b"odd", "other")
    refused = (Get(b"/odd"), Hash(b"/odd"), SetAttributes(b"/odd", 0o600), Copy(b"/odd", b"/x"))
    assert {peer.ask(one).code for one in refused} == {"not-regular"}
    assert peer.ask(Move(b"/odd", b"/moved")) == Done()
    assert isinstance(peer.ask(Remove(b"/moved")), Removed)
    assert set(os.listdir(files)) <= {".ftpd-staging", ".ftpd-trash"}


@pytest.mark.parametrize("time", [1_700_000_000_123_456_789, -1_000_000_007])
def test_times_are_nanoseconds_since_1970(peer, files, time):
    (files / "file").touch()
    os.utime(files / "file", ns=(0, time))
    reported = (files / "file").stat().st_mtime_ns  # as much of it as the file system keeps
    assert abs(reported - time) < 2 * 10**9
    assert peer.ask(Stat(b"/file")).entry.mtime_ns == reported
    assert pages(peer, b"/")[0].entries[0].mtime_ns == reported
    peer.request(Get(b"/file"))
    sending = peer.answer().message
    assert sending.mtime_ns == reported
    assert peer.answer().kind == Kind.END


# listings ----------------------------------------------------------------------------------


def make_tree(files: Path) -> set[str]:
    """Directories with enough in them for several pages of 1 KiB, as their paths."""
    made = {""}
    for top in ("a", "b"):
        for path in (top, f"{top}/1", f"{top}/1/deep", f"{top}/2"):
            (files / path).mkdir()
            made.add(path)
            for number in range(12):
                (files / path / f"{number:0100}").touch()
    return made


def test_the_pages_of_a_directory_come_one_after_another(server, dial, files):
    made = make_tree(files)
    peer = dial(server, logged_in=False)
    peer.hello(max_control=1024)
    assert not isinstance(peer.ask(Login("alice", "secret")), Failed)
    found = pages(peer, b"/", recursive=True)
    runs = [(os.fsdecode(name), list(run)) for name, run in groupby(found, lambda p: p.directory)]
    order = [name for name, _ in runs]
    assert len(order) == len(set(order)) and set(order) == made, "all of one directory at once"
    for name, run in runs:
        assert [page.complete for page in run] == [False] * (len(run) - 1) + [True], name
        assert len(run) > 1 or name == ""
    for at, name in enumerate(order[1:], 1):
        below = [at for at, other in enumerate(order) if other.startswith(f"{name}/")]
        assert below == list(range(at + 1, at + 1 + len(below))), "all that is below follows"


def test_a_listing_of_the_names_with_a_prefix(plain_user, server, dial, files):
    make_tree(files)
    (files / "file").touch()
    for name in ("before", "1-unread"):
        (files / "a" / name).mkdir(mode=0)
    peer = dial(server, logged_in=False)
    peer.hello(max_control=1024)
    assert not isinstance(peer.ask(Login("alice", "secret")), Failed)
    try:
        found = pages(peer, b"/a", prefix=b"0" * 98)
        below = pages(peer, b"/a", prefix=b"1", recursive=True)
    finally:
        for name in ("before", "1-unread"):
            (files / "a" / name).chmod(0o700)
    assert [page.complete for page in found] == [False] * (len(found) - 1) + [True]
    assert len(found) > 1, "it comes in pages, as any other listing"
    names = [entry.path for page in found for entry in page.entries]
    assert sorted(names) == [b"%0100d" % number for number in range(12)]
    assert {page.directory for page in below} == {b"", b"1", b"1/deep", b"1-unread"}
    assert {entry.path for page in below if not page.directory for entry in page.entries} == {
        *(b"1", b"1-unread")
    }
    assert sum(len(page.entries) for page in below if page.directory == b"1/deep") == 12
    assert problems_of(below) == {(b"1-unread", b""): "forbidden"}, "of before nothing is told"
    assert pages(peer, b"/a", prefix=b"nothing") == [Page(complete=True)]
    assert pages(peer, b"/", prefix=b".ftpd") == [Page(complete=True)]
    assert pages(peer, b"/file", prefix=b"x") == pages(peer, b"/file")


@pytest.mark.parametrize(
    ("prefix", "reported"),
    [
        pytest.param(b"a/", "prefix must have no slash and no NUL byte", id="slash"),
        pytest.param(b"/", "prefix must have no slash and no NUL byte", id="slash-alone"),
        pytest.param(b"a\0", "prefix must have no slash and no NUL byte", id="nul"),
        pytest.param(b"a" * 256, "prefix must be bin of at most 255 bytes", id="long"),
        pytest.param("a", "prefix must be bin of at most 255 bytes", id="text"),
        pytest.param(None, "prefix must be bin of at most 255 bytes", id="nil"),
        pytest.param([b"a"], "prefix must be bin of at most 255 bytes", id="array"),
    ],
)
def test_a_prefix_that_no_name_can_begin_with(peer, files, prefix, reported):
    """It is refused before the path is looked at, and alone."""
    (files / "a").mkdir()
    for path in (b"/a", b"/nowhere"):
        message = {"op": "list", "path": path, "prefix": prefix}
        peer.frame(Kind.REQUEST, 7, msgpack.encode(message))
        answer = peer.answer()
        assert (answer.request_id, answer.message.code) == (7, "bad-request")
        assert reported in answer.message.message
    assert pages(peer, b"/a", prefix=b"a" * 255) == [Page(complete=True)]


def problems_of(found: list[Page]) -> dict[tuple[bytes, bytes], str]:
    """The codes of the problems, by the directory of their page, and their path."""
    return {(page.directory, one.path): one.code for page in found for one in page.problems}


def test_which_problems_a_listing_that_follows_links_has(server, dial, files):
    for name in ("dir", "closed", "other"):
        (files / name).mkdir()
    (files / "other" / "inner").touch()
    for name, target in {
        "nowhere": "/missing",
        "round": "round",
        "to-closed": "/closed",
        "to-other": "/other",
        "dir/up": "..",
    }.items():
        (files / name).symlink_to(target)
    peer = dial(server)
    assert problems_of(pages(peer, b"/", recursive=True)) == {}
    found = pages(peer, b"/", recursive=True, follow=True)
    expected = {(b"", b"nowhere"): "not-found", (b"", b"round"): "invalid-path"}
    assert problems_of(found) == expected | {(b"dir/up", b""): "invalid-path"}
    (behind,) = (page for page in found if page.directory == b"to-other")
    assert [one.path for one in behind.entries] == [b"inner"]
    server.accounts.change("alice", permissions="/closed=read-only")
    found = pages(dial(server), b"/", follow=True)
    assert problems_of(found) == expected | {(b"", b"to-closed"): "forbidden"}


def test_a_listing_goes_512_directories_deep(peer, files, monkeypatch):
    assert listing._MAX_WALK_DEPTH == 512
    monkeypatch.setattr(listing, "_MAX_WALK_DEPTH", 3)
    (files / "1/2/3/4").mkdir(parents=True)
    found = pages(peer, b"/", recursive=True)
    assert [page.directory for page in found] == [b"", b"1", b"1/2", b"1/2/3", b"1/2/3/4"]
    assert problems_of(found) == {(b"1/2/3/4", b""): "invalid-path"}
    assert problems_of(pages(peer, b"/1", recursive=True)) == {}, "counted from what is listed"


def test_a_path_in_a_listing_has_at_most_4096_bytes(peer, files):
    """It comes about by moving one deep directory into another."""
    name = "n" * 255
    for top in ("a", "b"):
        deep = os.open(files, os.O_RDONLY)
        for step in (top, *[name] * 8):
            os.mkdir(step, dir_fd=deep)
            below = os.open(step, os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
        os.close(deep)
    inner = b"/".join([b"/a", *[name.encode()] * 8])
    assert peer.ask(Move(b"/b", inner + b"/" + b"m" * 240)) == Done()
    found = pages(peer, b"/", recursive=True)
    (problem,) = problems_of(found).items()
    assert problem[1] == "invalid-path" and len(problem[0][0]) > 4096 and not problem[0][1]
    assert max(len(page.directory) for page in found if not page.problems) <= 4096
    assert isinstance(peer.ask(Remove(b"/a", recursive=True)), Removed)


def test_what_the_disk_can_t_know_is_a_problem_of_its_name(peer, files, monkeypatch):
    (files / "good").touch()
    (files / "bad").mkdir()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(listing.Walk, "_look", fail)
    (page,) = pages(peer, b"/")
    assert [one.path for one in page.entries] == [b"good"]
    assert problems_of([page]) == {(b"", b"bad"): "disk-failed"}


def test_a_hash_of_a_file_that_changes_again(peer, files, monkeypatch):
    """Once it is read anew; then it is an error."""
    path, has_grown, times = files / "file", growing.has_grown, iter(range(1, 9))
    path.write_bytes(DATA)

    def late(*arguments: Any) -> bool:
        os.utime(path, ns=(0, next(times)))
        return has_grown(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(growing, "has_grown", late)
        assert peer.ask(Hash(b"/file")).code == "source-changed"
    assert next(times) == 3
    assert peer.ask(Hash(b"/file")).digest == digests.digest(DATA)


def test_a_listing_of_what_is_no_directory(peer, files):
    (files / "file").write_bytes(DATA)
    (files / "link").symlink_to("nowhere")
    for path, type in ((b"/file", "file"), (b"/link", "link")):
        (page,) = pages(peer, path)
        (entry,) = page.entries
        assert (entry.path, entry.type, page.directory, page.complete) == (b"", type, b"", True)
    assert peer.ask(List(b"/link", follow=True)).code == "not-found"


def test_entries_and_problems_of_answers(plain_user, server, dial, files):
    """What may not be read is a problem of a listing and of a copy."""
    peer = dial(server)
    (files / "dir" / "closed").mkdir(parents=True)
    (files / "dir" / "unread").touch()
    (files / "dir" / "unread").chmod(0)
    (files / "dir" / "closed").chmod(0)
    found = pages(peer, b"/dir", recursive=True)
    assert peer.ask(List(b"/dir/closed")).code == "forbidden", "of itself it is no problem"
    assert peer.ask(Stat(b"//dir/./unread")).entry.path == b"//dir/./unread"
    copied = peer.ask(Copy(b"/dir", b"/new", recursive=True))
    (files / "dir" / "closed").chmod(0o700)
    assert {one.path for page in found for one in page.entries} == {b"closed", b"unread"}
    assert problems_of(found) == {(b"closed", b""): "forbidden"}
    assert {one.path: one.code for one in copied.problems} == {
        b"closed": "forbidden",
        b"unread": "forbidden",
    }
