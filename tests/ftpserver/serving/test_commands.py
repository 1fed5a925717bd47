"""What the commands do, asked by a bare peer: reading, copying, moving, removing, room."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from ftpserver.serving import exchange as exchange_module
from ftpserver.storage.batch import SMALL
from ftpserver.storage.home import Home
from ftpserver.storage.quota import most_files
from ftpserver.storage.staging import DROPPED_BITS
from ftpwire import digests, growing
from ftpwire.digests import StoredDigest
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copied,
    Copy,
    Done,
    EndTree,
    Failed,
    Get,
    Hash,
    Hashed,
    List,
    Listed,
    MakeDir,
    Move,
    Put,
    Ready,
    Remark,
    Remove,
    Removed,
    Sending,
    Sent,
    SetAttributes,
    Space,
    SpaceInfo,
    Stat,
    Stored,
)
from tests.ftpserver.storage.quota_store import held_files
from tests.peer import Peer

MIB = 1024 * 1024
LARGE = exchange_module.DATA_SIZE + 1000
"""More than what is read and sent in one piece."""


@pytest.fixture
def peer(server, dial) -> Peer:
    return dial(server)


class QuotaStore:
    """What the ledger doesn't know of: links that a test puts there itself, in bytes."""

    by_hand = 0

    def link(self, path: Path, target: str) -> None:
        """Make a link behind the server's back, which is there until the end."""
        path.symlink_to(target)
        self.by_hand += len(target)


@pytest.fixture(autouse=True)
def quota_store(request):
    """At the end the ledger says what the disk says."""
    server = None
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
    made = QuotaStore()
    yield made
    if server is not None:
        account = server.accounts.get("alice")
        home = Home(account.home)
        try:
            counted = home.count()
            assert account.used == counted.size - made.by_hand
            if "files" not in request.fixturenames:  # whose tests put things there themselves
                assert account.files == counted.files
            assert (account.held, held_files(server.service.engine)) == (0, 0)
            assert os.listdir(home.staging_fd) == ["lock"]
        finally:
            home.close()


def store(peer: Peer, path: bytes, data: bytes = b"data", **options) -> None:
    number = peer.request(Put(path, len(data), **{"parents": True} | options))
    for at in range(0, len(data), MIB):
        peer.frame(Kind.DATA, number, data[at : at + MIB])
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    assert peer.answer().message == Stored(len(data))


def room_of(peer: Peer) -> SpaceInfo:
    """The account's room, without what others do to the disk."""
    return replace(peer.ask(Space()), disk_free=None)


def fetch(peer: Peer, path: bytes, **options) -> tuple[bytes, object]:
    """The bytes of a file, and how it ended."""
    peer.request(Get(path, **options))
    begin = peer.answer().message
    if not isinstance(begin, Sending):
        return b"", begin
    data = b""
    while (answer := peer.answer()).kind == Kind.DATA:
        data += answer.payload
    return data, answer.message


def damage(path) -> None:
    """Change a bit behind the server's back, as a disk does: size and time stay."""
    info = path.stat()
    with path.open("r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def keeps_digests(path) -> bool:
    try:
        return bool(os.getxattr(path, digests.ATTRIBUTE))
    except OSError:
        return False


# reading -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("client_is_local")
@pytest.mark.parametrize("size", [1, 1000, LARGE])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_a_file_that_rotted_is_never_passed_off_as_good(
    start_server, dial, tls_client_context, tls, size
):
    server = start_server(plaintext=not tls)
    peer = dial(server, context=tls_client_context if tls else None)
    data = random.Random(size).randbytes(size)
    store(peer, b"/file", data)
    path = server.settings.root / "alice" / "file"
    if not keeps_digests(path):
        pytest.skip("this file system keeps no attributes")
    assert fetch(peer, b"/file") == (data, Sent(size, digests.digest(data)))
    damage(path)
    found, ending = fetch(peer, b"/file")
    assert isinstance(ending, Sent) == (size == LARGE)
    if isinstance(ending, Sent):  # a large file isn't hashed again: the receiver finds out
        assert ending.digest == digests.digest(data) != digests.digest(found)
    else:
        assert ending.code == "stored-file-damaged"
        assert "disk" in ending.message and "/file" in ending.message
    assert peer.ask(Space()).used == size, "the session goes on"


def test_what_was_changed_on_purpose_is_no_damage(peer, files):
    store(peer, b"/file", b"old content")
    (files / "file").write_bytes(b"new content")
    os.utime(files / "file", ns=(0, 5))
    assert fetch(peer, b"/file") == (b"new content", Sent(11, digests.digest(b"new content")))
    assert peer.ask(Hash(b"/file")) == Hashed(digests.digest(b"new content"), 11)


@pytest.mark.parametrize("size", [0, 10, LARGE])
@pytest.mark.parametrize("touched", [False, True], ids=["grows", "changes"])
def test_a_file_that_changes_while_it_is_read(server, dial, files, monkeypatch, size, touched):
    path = files / "file"
    path.write_bytes(bytes(size))
    has_grown = growing.has_grown

    def late(*arguments):
        if touched:
            os.utime(path, ns=(0, 5))
        else:
            with path.open("ab") as file:
                file.write(b"more")
        return has_grown(*arguments)

    monkeypatch.setattr(growing, "has_grown", late)
    data, ending = fetch(dial(server), b"/file")
    if touched:
        assert ending.code == "source-changed"
    else:
        assert (data, ending) == (bytes(size), Sent(size, digests.digest(bytes(size)), True))
    path.unlink()


def test_a_range_of_a_file_that_grows_has_no_digest_to_compare(server, dial, files, monkeypatch):
    path = files / "file"
    path.write_bytes(bytes(LARGE))
    has_grown = growing.has_grown

    def late(*arguments):
        os.truncate(path, LARGE + 1)
        return has_grown(*arguments)

    monkeypatch.setattr(growing, "has_grown", late)
    _, ending = fetch(dial(server), b"/file", offset=10)
    assert ending.code == "source-changed"
    path.unlink()


def test_a_digest_is_kept_once_it_was_computed(peer, files, monkeypatch):
    from ftpserver.workspace.reading import OpenFile

    (files / "file").write_bytes(b"content")
    expected = Hashed(digests.digest(b"content"), 7)
    assert peer.ask(Hash(b"/file")) == expected
    if keeps_digests(files / "file"):
        monkeypatch.setattr(OpenFile, "_read_all", None)
        assert peer.ask(Hash(b"/file")) == expected
        found = peer.ask(Stat(b"/file", digest=True)).entry
        assert found.digest == expected.digest
    (files / "file").unlink()


@pytest.mark.usefixtures("client_is_local")
def test_a_part_is_sent_only_of_the_same_file(peer):
    data = random.Random(5).randbytes(LARGE)
    store(peer, b"/file", data)
    half = LARGE // 2
    for prefix, start in ((digests.digest(data[:half]), half), (bytes(32), 0)):
        number = peer.request(Get(b"/file", half, prefix))
        begin = peer.answer().message
        assert (begin.offset, begin.size) == (start, LARGE)
        found = b""
        while (answer := peer.answer()).kind == Kind.DATA:
            found += answer.payload
        assert answer.request_id == number
        assert found == data[start:]
        assert answer.message == Sent(LARGE, digests.digest(data))


# copying -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, SMALL + 10, 5 * MIB])
def test_copying_a_file(peer, files, size):
    data = random.Random(size).randbytes(size)
    store(peer, b"/file", data, mode=0o750, mtime_ns=1234567890123456789)
    assert peer.ask(Copy(b"/file", b"/copy")) == Copied(1, 0, size)
    copy = files / "copy"
    assert copy.read_bytes() == data
    assert copy.stat().st_mode & 0o7777 == 0o750
    assert copy.stat().st_mtime_ns == 1234567890123456789
    assert copy.stat().st_ino != (files / "file").stat().st_ino
    if keeps_digests(copy):
        stored = StoredDigest.unpack(os.getxattr(copy, digests.ATTRIBUTE))
        assert stored.digest == digests.digest(data)
    assert peer.ask(Space()).used == 2 * size


@pytest.mark.parametrize("overwrite", ["always", "never"])
def test_copying_over_something(peer, files, overwrite):
    store(peer, b"/file", b"new content")
    store(peer, b"/there", b"old")
    answer = peer.ask(Copy(b"/file", b"/there", overwrite=overwrite))
    if overwrite == "always":
        assert answer == Copied(1, 0, 11)
        assert (files / "there").read_bytes() == b"new content"
    else:
        assert answer.code == "exists"
        assert (files / "there").read_bytes() == b"old"


def test_copying_a_file_to_itself(peer, files):
    store(peer, b"/file", b"content")
    answer = peer.ask(Copy(b"/file", b"/file"))
    assert isinstance(answer, Copied | Failed)
    assert (files / "file").read_bytes() == b"content"


def test_copying_links(peer, files, quota_store):
    """The source itself is followed, unless ``links`` says otherwise; those below it are copied."""
    store(peer, b"/dir/file", b"content")
    quota_store.link(files / "link", "dir/file")
    quota_store.link(files / "dir" / "inner", "/somewhere")
    assert peer.ask(Copy(b"/link", b"/followed")) == Copied(1, 0, 7)
    assert (files / "followed").read_bytes() == b"content"
    assert not (files / "followed").is_symlink()
    for recursive in (False, True):
        assert peer.ask(Copy(b"/link", b"/kept", recursive, links=True)) == Copied(1, 0, 0)
        assert os.readlink(files / "kept") == "dir/file"
    assert peer.ask(Copy(b"/dir", b"/copy", recursive=True)) == Copied(2, 1, 7)
    assert os.readlink(files / "copy" / "inner") == "/somewhere"
    quota_store.link(files / "to-dir", "dir")
    assert peer.ask(Copy(b"/to-dir", b"/of-link", recursive=True)) == Copied(2, 1, 7)
    assert (files / "of-link" / "file").read_bytes() == b"content"
    assert not (files / "of-link").is_symlink()
    answer = peer.ask(Copy(b"/to-dir", b"/dir/in-itself", recursive=True))
    assert answer.code == "invalid-path"


def test_copying_a_tree_with_all_that_belongs_to_it(peer, files):
    store(peer, b"/tree/a/file", b"1", mode=0o600, mtime_ns=10**18)
    store(peer, b"/tree/b/file", b"22", mode=0o444, mtime_ns=2 * 10**18)
    (files / "tree" / "empty").mkdir()
    os.utime(files / "tree" / "a", ns=(0, 5))
    (files / "tree" / "b").chmod(0o555)
    (files / "tree").chmod(0o711)
    os.utime(files / "tree", ns=(0, 7))
    assert peer.ask(Copy(b"/tree", b"/copy", recursive=True)) == Copied(2, 4, 3)
    for path in (files / "tree").rglob("*"):
        there = files / "copy" / path.relative_to(files / "tree")
        assert there.stat().st_mode == path.stat().st_mode, path
        if path.name != "empty":
            assert there.stat().st_mtime_ns == path.stat().st_mtime_ns, path
    assert (files / "copy").stat().st_mtime_ns == 7
    assert (files / "copy").stat().st_mode & 0o7777 == 0o711
    for name in ("tree", "copy"):
        (files / name / "b").chmod(0o755)


def test_copying_into_what_is_there(peer, files):
    store(peer, b"/tree/file", b"new")
    store(peer, b"/tree/dir/more", b"more")
    store(peer, b"/there/file", b"old content")
    store(peer, b"/there/dir/other", b"other")
    answer = peer.ask(Copy(b"/tree", b"/there", recursive=True, overwrite="never"))
    assert [(problem.path, problem.code) for problem in answer.problems] == [(b"file", "exists")]
    assert replace(answer, problems=[]) == Copied(1, 2, 4, skipped=1)
    assert (files / "there" / "file").read_bytes() == b"old content"
    assert (files / "there" / "dir" / "more").read_bytes() == b"more"
    answer = peer.ask(Copy(b"/tree", b"/there", recursive=True))
    assert answer.problems == []
    assert (files / "there" / "file").read_bytes() == b"new"
    assert (files / "there" / "dir" / "other").read_bytes() == b"other"


@pytest.mark.parametrize(
    ("source", "target", "recursive", "code"),
    [
        (b"/nowhere", b"/x", False, "not-found"),
        (b"/nowhere", b"/x", True, "not-found"),
        (b"/dir", b"/x", False, "is-a-directory"),
        (b"/file", b"/dir", False, "is-a-directory"),
        (b"/file", b"/nowhere/x", False, "not-found"),
        (b"/file", b"/file/x", False, "not-a-directory"),
        (b"/dir", b"/file", True, "not-a-directory"),
        (b"/", b"/dir/all", True, "invalid-path"),
        (b"/dir", b"/dir", True, "invalid-path"),
        (b"/dir", b"/dir/x", True, "invalid-path"),
        (b"/dir", b"/dir/deep/x", True, "invalid-path"),
        (b"/dir", b"/to-dir/x", True, "invalid-path"),
        (b"/dir", b"/to-dir/deep/x", True, "invalid-path"),
        (b"/dir", b"/dir/deep/to-root/dir/x", True, "invalid-path"),
        (b"/to-dir/deep", b"/dir/deep/x", True, "invalid-path"),
        (b"/dir", b"/to-dir", True, "invalid-path"),
    ],
)
def test_copies_that_make_no_sense(peer, files, source, target, recursive, code, quota_store):
    """A tree that is copied into itself would grow without end, by whatever path."""
    store(peer, b"/file", b"content")
    store(peer, b"/dir/deep/file", b"content")
    quota_store.link(files / "to-dir", "dir")
    quota_store.link(files / "dir" / "deep" / "to-root", "/")
    answer = peer.ask(Copy(source, target, recursive))
    assert isinstance(answer, Failed) and answer.code == code
    assert peer.ask(Space()).used == 14


@pytest.mark.parametrize("target", [b"/dir/x", b"/dir/deep/x", b"/to-dir/deep/x"])
def test_a_directory_is_not_moved_into_itself(peer, files, target, quota_store):
    store(peer, b"/dir/deep/file", b"content")
    quota_store.link(files / "to-dir", "dir")
    answer = peer.ask(Move(b"/dir", target))
    assert isinstance(answer, Failed) and answer.code == "invalid-path"
    assert answer.message == "/dir: cannot be moved into itself"
    assert (files / "dir" / "deep" / "file").read_bytes() == b"content"


def test_beside_itself_is_not_into_itself(peer, files, quota_store):
    store(peer, b"/dir/file", b"content")
    quota_store.link(files / "to-root", "/")
    for target in (b"/dir2", b"/to-root/dir3", b"/dir/../dir4"):
        assert peer.ask(Copy(b"/dir", target, recursive=True)) == Copied(1, 1, 7)
    assert peer.ask(Copy(b"/dir", b"/dir2/dir", recursive=True)) == Copied(1, 1, 7)


def test_a_copy_counts_in_the_quota(start_server, dial):
    server = start_server(quota=1000)
    peer = dial(server)
    store(peer, b"/tree/a", b"x" * 300)
    store(peer, b"/tree/b", b"x" * 300)
    failed = peer.ask(Copy(b"/tree/a", b"/tree/c"))
    assert isinstance(failed, Copied)
    failed = peer.ask(Copy(b"/tree/a", b"/x"))
    assert (failed.code, failed.needed, failed.free) == ("quota", 300, 100)
    failed = peer.ask(Copy(b"/tree", b"/copy", recursive=True))
    assert (failed.code, failed.needed) == ("quota", 300)
    assert failed.message.startswith("/copy/"), "the first small one without room is the end"
    assert room_of(peer) == SpaceInfo(900, 0, 1000, 100, 1000, 5)


def test_copying_what_is_deeper_than_a_path(peer, files):
    """What cannot be reached is told; the rest is copied."""
    deepen(peer, 3)
    copied = peer.ask(Copy(b"/d", b"/copy", recursive=True))
    assert isinstance(copied, Copied)
    assert copied.problems and {one.code for one in copied.problems} <= {
        "invalid-path",
        "not-found",
    }
    for name in (b"/copy", b"/d"):
        assert isinstance(peer.ask(Remove(name, recursive=True)), Removed)


# moving and removing -----------------------------------------------------------------------


def deepen(peer: Peer, times: int) -> None:
    """A tree of some 200 levels more each time: moved below what no path could name else."""
    for _ in range(times):
        assert peer.ask(MakeDir(b"/new" + b"/d" * 200, parents=True)) == Done()
        if isinstance(peer.ask(Stat(b"/d")), Failed):
            assert peer.ask(Move(b"/new", b"/d")) == Done()
            continue
        assert peer.ask(Move(b"/d", b"/new" + b"/d" * 200 + b"/d")) == Done()
        assert peer.ask(Move(b"/new", b"/d")) == Done()


def test_trees_that_grew_by_moves_are_listed_and_removed(peer, files):
    """However deep: nobody's stack, descriptors or frames run out."""
    deepen(peer, 6)
    peer.request(List(b"/", recursive=True))
    problems = []
    while (answer := peer.answer()).kind == Kind.REPLY:
        problems += answer.message.problems
    assert answer.message == Listed()
    assert [problem.code for problem in problems] == ["invalid-path"]
    removed = peer.ask(Remove(b"/d", recursive=True, final=True))
    assert removed.directories > 1200


def test_what_a_move_replaces_gives_its_space_back(peer, files):
    store(peer, b"/new", b"x" * 10)
    store(peer, b"/old", b"x" * 1000)
    assert peer.ask(Move(b"/new", b"/old", "never")).code == "exists"
    assert peer.ask(Space()).used == 1010
    assert peer.ask(Move(b"/new", b"/old")) == Done()
    assert peer.ask(Space()).used == 10
    assert (files / "old").read_bytes() == b"x" * 10


def test_what_a_removal_frees(peer):
    store(peer, b"/tree/a", b"x" * 100)
    store(peer, b"/tree/dir/b", b"x" * 20)
    assert peer.ask(Remove(b"/tree")).code == "not-empty"
    assert peer.ask(Remove(b"/tree/a", final=True)) == Removed(1, 0, 100)
    assert peer.ask(Space()).used == 20
    assert peer.ask(Remove(b"/tree", recursive=True, final=True)) == Removed(1, 2, 20)
    assert peer.ask(Space()).used == 0


def test_who_is_over_the_quota_can_remove_and_move(start_server, dial):
    server = start_server(quota=1000)
    home = server.settings.root / "alice"
    (home / "file").write_bytes(b"x" * 5000)
    (home / "other").write_bytes(b"x" * 10)
    alice = server.accounts.get("alice")
    server.service.ledger.recounted(alice.id, 5010, 2)
    peer = dial(server)
    assert room_of(peer) == SpaceInfo(5010, 0, 1000, 0, 1000, 2)
    assert peer.ask(Move(b"/other", b"/moved")) == Done()
    number = peer.request(Put(b"/new", 1))
    peer.frame(Kind.DATA, number, b"x")
    peer.frame(Kind.END, number, Sent(1))
    assert peer.answer().message.code == "quota"
    assert peer.ask(Remove(b"/file", final=True)) == Removed(1, 0, 5000)
    assert room_of(peer) == SpaceInfo(10, 0, 1000, 990, 1000, 1)


# room --------------------------------------------------------------------------------------


@pytest.mark.parametrize("quota", [None, 0, 10**15])
def test_space(start_server, dial, quota):
    server = start_server(quota=quota)
    peer = dial(server)
    space = room_of(peer)
    most = most_files(quota, None)
    assert space == SpaceInfo(0, 0, quota, quota, most, 0)
    if quota:
        number = peer.request(Put(b"/file", 10 * MIB, ask=True))
        assert peer.answer().request_id == number
        assert room_of(dial(server)) == SpaceInfo(0, 10 * MIB, quota, quota - 10 * MIB, most, 0)
        peer.frame(Kind.CANCEL, number)
        assert peer.answer().message.code == "cancelled"
        assert room_of(peer) == space


def test_space_on_the_disk(peer, files):
    disk = os.statvfs(files)
    reported = peer.ask(Space()).disk_free
    assert reported is not None and 0 < reported <= disk.f_blocks * disk.f_frsize


# little room is left -------------------------------------------------------------------------


def put(peer: Peer, path: bytes, size: int) -> list[object]:
    """Store a small file; all that comes for it."""
    number = peer.request(Put(path, size))
    peer.frame(Kind.DATA, number, bytes(size))
    peer.frame(Kind.END, number, Sent(size, digests.digest(bytes(size))))
    found = []
    while True:
        answer = peer.read()
        found.append(answer.message)
        if answer.request_id == number:
            return found


def test_the_user_is_warned_once_when_nine_tenths_are_used(start_server, dial):
    peer = dial(start_server(quota=1000))
    assert put(peer, b"/a", 890) == [Stored(890)]
    assert put(peer, b"/b", 10) == [Remark("900 B of 1000 B are used"), Stored(10)]
    assert put(peer, b"/c", 1) == [Stored(1)]
    assert peer.ask(Remove(b"/b", final=True)) == Removed(1, 0, 10)
    assert put(peer, b"/d", 50) == [Remark("941 B of 1000 B are used"), Stored(50)]


# modes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0o4000, 0o2000, 0o1000, 0o7000, 0])
def test_no_special_bit_is_dropped_in_silence(peer, files, bits):
    """A remark comes before the answer; that a directory keeps what it has is no loss."""
    dropped = [DROPPED_BITS] if bits else []

    def requested(message) -> list[str]:
        """What the user is told before the answer to a request."""
        number = peer.request(message)
        if isinstance(message, Put):
            if message.ask:
                assert isinstance(peer.read().message, Ready)
            data = bytes(message.size)
            peer.frame(Kind.DATA, number, data)
            peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
        remarks = []
        while isinstance(reported := (found := peer.read()).message, Remark):
            assert (found.kind, found.request_id) == (Kind.NOTICE, 0)
            remarks.append(reported.message)
        assert isinstance(reported, (Stored, Done)), reported
        return remarks

    assert requested(Put(b"/small", 3, bits | 0o644)) == dropped
    assert requested(Put(b"/larger", SMALL + 1, bits | 0o644)) == dropped
    assert requested(Put(b"/asked", 3, bits | 0o644, ask=True)) == dropped
    assert requested(MakeDir(b"/dir", bits | 0o755)) == dropped
    assert requested(SetAttributes(b"/small", bits | 0o640)) == dropped
    assert requested(SetAttributes(b"/small", bits | 0o640)) == dropped  # nothing is to be changed
    assert requested(SetAttributes(b"/dir", bits | 0o700, exact=True)) == dropped
    assert requested(BeginTree(b"/tree", bits | 0o755)) == dropped
    assert requested(EndTree()) == []
    for name in ("small", "larger", "asked", "dir", "tree"):
        assert (files / name).stat().st_mode & 0o7000 == 0
    shared = files / "dir"
    shared.chmod(0o3755)
    assert requested(SetAttributes(b"/dir", bits & 0o3000 | 0o700)) == []
    assert shared.stat().st_mode & 0o7777 == 0o3700
