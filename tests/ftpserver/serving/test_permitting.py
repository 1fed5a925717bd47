"""What accounts with rules may ask a server for: each request, links, trees, listings."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import replace

import msgspec
import pytest

from ftpserver.serving.commands import COMMANDS
from ftpserver.storage.permissions import Permissions
from ftpserver.workspace.needs import NEEDS
from ftpwire import beneath, digests, messages
from ftpwire.errors import Forbidden
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copied,
    Copy,
    Done,
    EndTree,
    Failed,
    Found,
    Get,
    Hash,
    Hashed,
    List,
    MakeDir,
    MakeLink,
    Move,
    Put,
    Remove,
    Removed,
    Sent,
    SetAttributes,
    Stat,
    Stored,
)


@pytest.fixture
def restricted(server, dial):
    """A peer of alice, who has these permissions."""

    def log_in(text: str):
        server.accounts.change("alice", permissions=Permissions.parse(text))
        return dial(server)

    return log_in


@pytest.fixture
def stocked(files):
    """Alice's home with the same things in several places."""
    for place in ("pub", "in", "own", "own/deep"):
        (files / place / "dir").mkdir(parents=True)
        (files / place / "file").write_bytes(b"there")
    (files / "file").write_bytes(b"there")
    return files


def put(peer, path: bytes, data: bytes = b"new", **fields):
    request = peer.request(Put(path, len(data), **fields))
    for start in range(0, len(data), 2**18):
        peer.frame(Kind.DATA, request, data[start : start + 2**18])
    peer.frame(Kind.END, request, Sent(len(data), digests.digest(data)))
    return peer.read().message


def refused(answer) -> bool:
    return isinstance(answer, Failed) and answer.code == "forbidden" and "rule: " in answer.message


def pages(peer, path: bytes, **fields):
    """The pages of a listing, and how it ended."""
    peer.request(List(path, **fields))
    found = []
    while (frame := peer.read()).kind == Kind.REPLY:
        found.append(frame.message)
    return found, frame


def listed(peer, path: bytes, closed: bytes | None = None, **fields):
    """The paths of a listing; None when it is refused.

    Args:
        closed: What it tells of as ``forbidden``.
    """
    got, last = pages(peer, path, **fields)
    found, problems = set(), []
    for page in got:
        found |= {b"/".join((page.directory, one.path)).strip(b"/") for one in page.entries}
        problems += [
            (b"/".join((page.directory, one.path)).strip(b"/"), one.code) for one in page.problems
        ]
    assert problems == ([] if closed is None else [(closed, "forbidden")])
    return found if last.kind == Kind.END else None


def got(peer, path: bytes):
    """The bytes of a file, or the refusal."""
    peer.request(Get(path))
    first = peer.read()
    if first.kind == Kind.ERROR:
        return first.message
    data = b""
    while (frame := peer.read()).kind == Kind.DATA:
        data += frame.payload
    return data


def test_every_request_with_a_path_says_what_it_needs():
    elsewhere = {(messages.MakeLink, "target"), (messages.Restore, "target")}
    assert set(NEEDS) == {kind for kind, command in COMMANDS.items() if command.run is not None}
    for kind in COMMANDS:
        named = {need.field for need in NEEDS.get(kind, ())}
        for field in msgspec.structs.fields(kind):
            is_path = field.name in ("path", "source", "target")
            if is_path and (kind, field.name) not in elsewhere:
                assert field.name in named, (kind, field.name)


# what each right permits -------------------------------------------------------------------

REQUESTS = {
    "stat-dir": (Stat(b"/in/dir"), Found),
    "stat-file": (Stat(b"/in/file"), Found),
    "hash": (Hash(b"/in/file"), Hashed),
    "make-dir": (MakeDir(b"/in/new"), Done),
    "make-dirs": (MakeDir(b"/in/new/er", parents=True), Done),
    "make-link": (MakeLink(b"/in/new", b"file"), Done),
    "replace-by-link": (MakeLink(b"/in/file", b"other"), Done),
    "set-dir": (SetAttributes(b"/in/dir", 0o750, 10**18), Done),
    "set-file": (SetAttributes(b"/in/file", 0o600), Done),
    "begin-new-tree": (BeginTree(b"/in/new"), Done),
    "begin-tree-over": (BeginTree(b"/in/dir"), Done),
    "remove-file": (Remove(b"/in/file"), Removed),
    "remove-dir": (Remove(b"/in/dir"), Removed),
    "remove-tree": (Remove(b"/in/dir", recursive=True), Removed),
    "remove-more": (Remove(b"/in", recursive=True), Removed),
    "move-out": (Move(b"/in/file", b"/new"), Done),
    "move-in": (Move(b"/file", b"/in/new"), Done),
    "move-over": (Move(b"/file", b"/in/file"), Done),
    "copy-out": (Copy(b"/in/file", b"/new"), Copied),
    "copy-in": (Copy(b"/file", b"/in/new"), Copied),
    "copy-over": (Copy(b"/file", b"/in/file"), Copied),
    "copy-tree-out": (Copy(b"/in", b"/new", recursive=True), Copied),
    "copy-tree-in": (Copy(b"/own", b"/in/new", recursive=True), Copied),
}
LOOKING = {"stat-dir", "stat-file", "hash", "copy-out", "copy-tree-out"}
ADDING = {
    *("make-dir", "make-dirs", "make-link", "set-dir", "begin-new-tree"),
    *("move-in", "copy-in", "copy-tree-in"),
}


@pytest.mark.parametrize(
    ("rights", "permitted"),
    [
        pytest.param("read-only", LOOKING, id="read-only"),
        pytest.param("upload-only", ADDING | {"stat-dir"}, id="upload-only"),
        pytest.param("no-delete", LOOKING | ADDING, id="no-delete"),
        pytest.param("none", set(), id="none"),
    ],
)
def test_what_each_right_refuses(restricted, stocked, rights, permitted):
    peer = restricted(f"/in={rights}")
    for name, (request, _) in REQUESTS.items():
        if name in permitted:
            continue
        found = peer.ask(request)
        if (rights, name) == ("upload-only", "stat-file"):
            assert found.code == "not-found"
        else:
            assert refused(found), (name, found)
    assert sorted(os.listdir(stocked / "in")) == ["dir", "file"]
    assert (stocked / "in" / "file").read_bytes() == b"there"


@pytest.mark.parametrize(
    ("rights", "permitted"),
    [
        pytest.param("read-only", LOOKING, id="read-only"),
        pytest.param("upload-only", ADDING | {"stat-dir"}, id="upload-only"),
        pytest.param("no-delete", LOOKING | ADDING, id="no-delete"),
    ],
)
def test_what_is_permitted_is_done(restricted, stocked, server, dial, rights, permitted):
    restricted(f"/in={rights}").close()
    for name in sorted(permitted):
        request, answer = REQUESTS[name]
        for left in ("new", "in/new"):
            place = stocked / left
            if place.is_symlink() or place.is_file():
                place.unlink()
            elif place.exists():
                os.rename(place, stocked.parent / f"was-{name}-{left.replace('/', '-')}")
        (stocked / "file").write_bytes(b"there")
        peer = dial(server)
        found = peer.ask(request)
        assert isinstance(found, answer), (name, found)
        peer.close()


@pytest.mark.parametrize(
    ("rights", "new", "over"),
    [
        ("all", True, True),
        ("read-only", False, False),
        ("upload-only", True, False),
        ("no-delete", True, False),
        ("none", False, False),
    ],
)
def test_uploads(restricted, stocked, rights, new, over):
    peer = restricted(f"/in={rights}")
    large = bytes(5 * 2**20)
    for data in (b"small", large):
        answer = put(peer, b"/in/new", data)
        assert answer == Stored(len(data)) if new else refused(answer)
        answer = put(peer, b"/in/file", data)
        assert answer == Stored(len(data)) if over else refused(answer)
        (stocked / "in" / "new").unlink(missing_ok=True)
    assert ((stocked / "in" / "file").read_bytes() == b"there") is not over
    requested = peer.ask(Put(b"/in/file", 5 * 2**20, ask=True))
    assert refused(requested) is not over  # before its bytes are sent


@pytest.mark.parametrize(
    ("rights", "may"),
    [("read-only", True), ("no-delete", True), ("upload-only", False), ("none", False)],
)
def test_reading_and_listing(restricted, stocked, rights, may):
    peer = restricted(f"/in={rights}")
    assert listed(peer, b"/in") == ({b"file", b"dir"} if may else None)
    assert got(peer, b"/in/file") == b"there" if may else refused(got(peer, b"/in/file"))
    below = listed(peer, b"/", None if may else b"in", recursive=True)
    assert (b"in/file" in below) is may
    assert (b"in" in below) is (rights != "none")  # where things can be put is no secret
    assert b"own/deep/file" in below


@pytest.mark.parametrize("rights", ["read-only", "upload-only", "none"])
def test_a_prefix_shows_no_more_than_the_whole_listing(restricted, stocked, rights):
    peer = restricted(f"/in={rights} /own/deep=none")
    for path in (b"/", b"/in", b"/own", b"/nowhere"):
        whole, end = pages(peer, path)
        for prefix in (b"i", b"in", b"d", b".", b"x"):
            some, other_end = pages(peer, path, prefix=prefix)
            assert [one.path for page in some for one in page.entries] == [
                one.path for page in whole for one in page.entries if one.path.startswith(prefix)
            ]
            assert (end.kind, end.message) == (other_end.kind, other_end.message)
    closed = None if rights == "read-only" else b"in"
    below = listed(peer, b"/", closed, recursive=True, prefix=b"in")
    assert (b"in/file" in below) is (rights == "read-only")
    assert listed(peer, b"/own", recursive=True, prefix=b"f") == {b"file"}, "deep is not told of"


def test_a_whole_account_can_be_read_only(restricted, stocked):
    peer = restricted("read-only")
    assert got(peer, b"/pub/file") == b"there"
    assert listed(peer, b"/") == {b"pub", b"in", b"own", b"file"}
    answer = put(peer, b"/x")
    assert answer.message == "read-only account: /x cannot be changed (rule: /=read-only)"


def test_what_is_refused_counts_as_no_transfer(restricted, stocked, server, monkeypatch):
    """Another one would have to give way to it."""
    begun = []
    begin = server.service.limits.begin_transfer
    monkeypatch.setattr(
        server.service.limits,
        "begin_transfer",
        lambda *who: (begun.append(who), begin(*who))[1],
    )
    peer = restricted("read-only")
    assert refused(put(peer, b"/x", bytes(2 * 2**20)))
    assert not begun


def test_only_one_part_can_be_open(restricted, stocked):
    peer = restricted("none /own/deep=all")
    assert listed(peer, b"/") is None
    assert refused(peer.ask(Stat(b"/own")))
    assert listed(peer, b"/own/deep") == {b"file", b"dir"}
    assert put(peer, b"/own/deep/new/er", parents=True) == Stored(3)
    assert refused(put(peer, b"/own/new/er", parents=True))
    assert not (stocked / "own" / "new").exists()


def test_parents_are_made_only_where_they_may_be(restricted, stocked):
    peer = restricted("read-only /own/box/in=upload-only")
    for answer in (
        put(peer, b"/own/box/in/new", parents=True),
        peer.ask(MakeDir(b"/own/box/in/new", parents=True)),
    ):
        assert refused(answer) and "/own/box cannot" in answer.message
    assert not (stocked / "own" / "box").exists()
    (stocked / "own" / "box" / "in").mkdir(parents=True)
    assert put(peer, b"/own/box/in/new/er", parents=True) == Stored(3)


# what protects deeper paths ----------------------------------------------------------------


@pytest.mark.parametrize("rights", ["read-only", "no-delete", "upload-only", "none"])
@pytest.mark.parametrize(
    "request_",
    [
        Remove(b"/own", recursive=True),
        Move(b"/own", b"/new"),
        Remove(b"/own/deep", recursive=True),
        Move(b"/own/deep", b"/new"),
    ],
    ids=["remove", "move", "remove-itself", "move-itself"],
)
def test_a_tree_with_a_protected_part_stays(restricted, stocked, rights, request_):
    peer = restricted(f"/own/deep={rights}")
    assert refused(peer.ask(request_))
    assert (stocked / "own" / "deep" / "file").read_bytes() == b"there"
    assert isinstance(peer.ask(Remove(b"/own/dir", recursive=True)), Removed)


@pytest.mark.parametrize("rights", ["read-only", "none"])
def test_a_tree_does_not_come_over_a_protected_part(restricted, stocked, rights):
    peer = restricted(f"/new/deep={rights}")
    assert refused(peer.ask(Move(b"/own", b"/new")))
    assert refused(peer.ask(Copy(b"/own", b"/new", recursive=True)))
    assert not (stocked / "new").exists()
    assert refused(peer.ask(Copy(b"/own", b"/new", recursive=True)))


def test_a_tree_with_a_hidden_part_is_not_copied(restricted, stocked):
    peer = restricted("/own/deep=none")
    assert refused(peer.ask(Copy(b"/own", b"/new", recursive=True)))
    assert listed(peer, b"/own", b"deep", recursive=True) == {b"dir", b"file"}


def test_a_recursive_listing_reports_what_it_leaves_out(restricted, stocked):
    """A directory that isn't gone into has a page, as one that cannot be read; what doesn't show is
    a problem of the directory that it is in. A listing of one directory needs neither."""
    peer = restricted("/in=upload-only /own/deep=none /own/file=none /missing=none")
    got, _ = pages(peer, b"/", recursive=True)
    closed = [page for page in got if page.directory == b"in"]
    assert len(closed) == 1 and closed[0].complete and not closed[0].entries
    assert [(one.path, one.code) for one in closed[0].problems] == [(b"", "forbidden")]
    assert closed[0].problems[0].message.endswith("(rule: /in=upload-only)")
    own = [page for page in got if page.directory == b"own"]
    assert {(one.path, one.code) for page in own for one in page.problems} == {
        (b"deep", "forbidden"),
        (b"file", "forbidden"),
    }
    assert {one.path for page in own for one in page.entries} == {b"dir"}
    assert sum(len(page.problems) for page in got) == 3
    assert not any(page.problems for page in pages(peer, b"/own")[0])


def test_an_atomic_tree_does_not_replace_a_protected_part(restricted, stocked):
    peer = restricted("/own/deep=read-only")
    assert refused(peer.ask(BeginTree(b"/own")))
    assert isinstance(peer.ask(BeginTree(b"/pub")), Done)
    assert put(peer, b"/pub/only") == Stored(3)
    assert peer.ask(EndTree()) == Done()
    assert os.listdir(stocked / "pub") == ["only"]


def test_what_an_atomic_tree_would_replace_is_looked_at_when_it_does(restricted, stocked):
    peer = restricted("/own=no-delete")
    assert peer.ask(BeginTree(b"/own/new")) == Done()
    assert put(peer, b"/own/new/file") == Stored(3)
    assert put(peer, b"/own/new/file", b"once more") == Stored(9)
    (stocked / "own" / "new").mkdir()
    assert refused(peer.ask(EndTree()))
    assert os.listdir(stocked / "own" / "new") == []
    assert os.listdir(stocked / ".ftpd-staging") == ["lock"]


def test_an_atomic_tree_keeps_to_rules_for_its_parts(restricted, stocked):
    peer = restricted("/new/deep=read-only")
    assert peer.ask(BeginTree(b"/new")) == Done()
    assert refused(put(peer, b"/new/deep/file", parents=True))
    assert refused(peer.ask(MakeDir(b"/new/deep")))
    assert peer.ask(MakeLink(b"/new/link", b".")) == Done()
    answer = put(peer, b"/new/link/deep/file", parents=True)
    assert isinstance(answer, Failed) and answer.code == "forbidden"
    assert peer.ask(EndTree()) == Done()
    assert os.listdir(stocked / "new") == ["link"]


# links -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "target"),
    [
        pytest.param("own/link", "../in", id="relative"),
        pytest.param("own/link", "/in", id="absolute"),
        pytest.param("own/link", "../own/../in/.", id="roundabout"),
    ],
)
@pytest.mark.parametrize("rights", ["read-only", "upload-only", "no-delete", "none"])
def test_no_link_leads_to_other_rights(restricted, stocked, link, target, rights):
    (stocked / link).symlink_to(target)
    peer = restricted(f"/in={rights}")
    for request in (
        Stat(b"/own/link", follow=True),
        Stat(b"/own/link/file"),
        Hash(b"/own/link/file"),
        MakeDir(b"/own/link/new"),
        MakeLink(b"/own/link/new", b"x"),
        SetAttributes(b"/own/link", 0o700),
        SetAttributes(b"/own/link/file", 0o700),
        BeginTree(b"/own/link/new"),
        Remove(b"/own/link/file"),
        Remove(b"/own/link/dir", recursive=True),
        Move(b"/own/link/file", b"/new"),
        Move(b"/file", b"/own/link/new"),
        Copy(b"/own/link/file", b"/new"),
        Copy(b"/own/link/dir", b"/new", recursive=True),
        Copy(b"/file", b"/own/link/new"),
    ):
        assert refused(peer.ask(request)), request
    assert refused(put(peer, b"/own/link/new"))
    assert refused(got(peer, b"/own/link/file"))
    assert listed(peer, b"/own/link") is None
    assert sorted(os.listdir(stocked / "in")) == ["dir", "file"]
    assert isinstance(peer.ask(Stat(b"/own/link")), Found)
    assert isinstance(peer.ask(Remove(b"/own/link")), Removed)


@pytest.mark.parametrize("walk", ["kernel", "by-hand"])
def test_no_link_leads_to_where_a_deeper_rule_is(restricted, stocked, walk, monkeypatch):
    from ftpwire import beneath

    if walk == "by-hand":
        monkeypatch.setattr(beneath, "_is_linux", False)
    (stocked / "up").symlink_to(".")
    (stocked / "to-file").symlink_to("own/deep/file")
    peer = restricted("/own/deep=read-only")
    assert refused(peer.ask(Remove(b"/up/own", recursive=True)))
    assert refused(peer.ask(Move(b"/up/own", b"/new")))
    assert refused(peer.ask(SetAttributes(b"/to-file", 0o600)))
    assert refused(got(peer, b"/to-file"))
    assert put(peer, b"/own/new") == Stored(3)


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "by-hand"])
def test_a_link_that_changes_meanwhile_leads_nowhere_else(open_home, root, kernel):
    home = open_home()
    for place in ("own", "own/dir", "in"):
        (root / "alice" / place).mkdir()
    home.set_permissions(Permissions.parse("/in=upload-only"))
    home.tree._kernel = kernel
    hidden = (root / "alice" / "in").stat().st_ino
    link, other = root / "alice" / "own" / "link", root / "alice" / "own" / "other"
    link.symlink_to("dir")
    other.symlink_to("../in")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            beneath.exchange(home.fd, b"own/link", home.fd, b"own/other")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        met = Counter()
        for tries in range(1_000_000):
            if tries >= 2000 and len(met) == 2:
                break
            try:
                fd = home.tree.open_dir((b"own", b"link"))
            except Forbidden:
                met["refused"] += 1
                continue
            assert os.fstat(fd).st_ino != hidden
            met["opened"] += 1
            os.close(fd)
    finally:
        done.set()
        swapping.join()
    assert met["refused"] and met["opened"], met


def test_a_link_does_not_reveal_what_is_hidden(restricted, stocked):
    peer = restricted("/in=none")
    answers = []
    for number, target in enumerate((b"/in/file", b"/in/missing", b"/in/missing/x", b"/in/file/x")):
        link = b"/own/link%d" % number
        assert peer.ask(MakeLink(link, target)) == Done()
        answers.append(peer.ask(Stat(link, follow=True)))
    assert all(refused(answer) for answer in answers)
    assert len({answer.message.replace(str(n), "", 1) for n, answer in enumerate(answers)}) == 1


def test_links_among_the_same_rights_are_followed(restricted, stocked):
    (stocked / "pub" / "link").symlink_to("dir")
    (stocked / "own" / "link").symlink_to("../pub")
    (stocked / "pub" / "dir" / "file").write_bytes(b"behind")
    peer = restricted("/pub=read-only /own=read-only /in=none")
    assert got(peer, b"/pub/link/file") == b"behind"
    assert got(peer, b"/own/link/dir/file") == b"behind"
    assert listed(peer, b"/pub/link") == {b"file"}


def test_a_listing_follows_no_link_to_other_rights(restricted, stocked):
    (stocked / "pub" / "link").symlink_to("../in")
    peer = restricted("/in=none")
    peer.request(List(b"/pub", recursive=True, follow=True))
    page = peer.read().message
    assert {one.path for one in page.entries} == {b"dir", b"file"}
    assert [(one.path, one.code) for one in page.problems] == [(b"link", "forbidden")]


# drop boxes --------------------------------------------------------------------------------


def test_a_drop_box_cannot_be_closed_by_who_uploads(restricted, stocked):
    peer = restricted("/in=upload-only")
    assert peer.ask(SetAttributes(b"/in/dir", 0o000, 10**18)) == Done()
    info = (stocked / "in" / "dir").stat()
    assert (info.st_mode & 0o777, info.st_mtime_ns) == (0o700, 10**18)


def test_the_same_upload_once_more_is_no_replacing(restricted, stocked):
    peer = restricted("/in=upload-only")
    for _ in range(2):
        assert put(peer, b"/in/new", b"same", mtime_ns=10**18) == Stored(4)
        assert peer.ask(MakeLink(b"/in/link", b"new", 10**18)) == Done()
    assert refused(put(peer, b"/in/new", b"diff", mtime_ns=10**18))
    assert refused(put(peer, b"/in/new", b"same", mtime_ns=10**18 + 1))
    assert refused(peer.ask(MakeLink(b"/in/link", b"old", 10**18)))
    assert (stocked / "in" / "new").read_bytes() == b"same"
    assert os.listdir(stocked / ".ftpd-staging") == ["lock"]


def test_a_drop_box_hides_what_is_there(restricted, stocked):
    peer = restricted("/in=upload-only")
    there, missing = peer.ask(Stat(b"/in/file")), peer.ask(Stat(b"/in/nothing"))
    assert there.code == missing.code == "not-found"
    assert there.message.replace("file", "nothing") == missing.message
    for kind in (Hash, Get):
        there, missing = peer.ask(kind(b"/in/file")), peer.ask(kind(b"/in/nothing"))
        assert there.code == missing.code == "forbidden"


# while a session runs ----------------------------------------------------------------------


def test_permissions_hold_from_the_next_request_on(server, stocked, dial):
    peer = dial(server)
    assert put(peer, b"/in/new") == Stored(3)
    (session,) = server.service.sessions
    session.exchange.workspace.account = replace(
        session.account, permissions=Permissions.parse("read-only")
    )
    assert refused(put(peer, b"/in/newer"))
    assert refused(peer.ask(Remove(b"/in/new")))
    (stocked / "own" / "link").symlink_to("../in")
    session.exchange.workspace.account = replace(
        session.account, permissions=Permissions.parse("/in=none")
    )
    assert refused(peer.ask(Stat(b"/own/link/file")))
    session.exchange.workspace.account = replace(session.account, permissions=Permissions())
    assert isinstance(peer.ask(Stat(b"/own/link/file")), Found)
    assert put(peer, b"/in/newer") == Stored(3)
