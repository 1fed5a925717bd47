"""What lies on another file system than the home, or cannot be renamed: mounts and overlay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpserver.admin import verify
from ftpserver.storage import file_systems, in_place
from ftpserver.storage.home import Home
from ftpserver.storage.walk import Usage
from ftpserver.workspace import moving
from ftpwire.errors import InvalidPath, ReadOnly, SourceChanged, VerificationFailed
from ftpwire.frames import Kind
from ftpwire.messages import BeginTree, Failed, Move, Remove, Removed
from tests.ftpserver.storage import mounts as mounting
from tests.ftpserver.storage.mounts import mount  # noqa: F401
from tests.ftpserver.storage.quota_store import held_files
from tests.peer import frame

pytestmark = pytest.mark.system  # it mounts

MIB = 1024 * 1024
SIZES = {"empty": 0, "small": 100, "middle": MIB, "large": 9 * MIB}


@pytest.fixture
def quota_store(server, files):
    """Checks that the ledger says what is stored, that nothing is held and nothing staged."""

    def check() -> None:
        account = server.accounts.get("alice")
        space = server.service.ledger.space(account.id)
        home = Home(account.home)
        try:
            counted = home.count()
        finally:
            home.close()
        trash = Usage(space.trash, space.trash_files)
        assert Usage(space.used, space.used_files) + trash == counted
        assert (space.held, held_files(server.service.engine)) == (0, 0)
        assert [path for path in files.rglob(".ftpd-staging") if path.parent != files] == []
        assert set(os.listdir(files / ".ftpd-staging")) <= {"lock", "owner", "numbers"}

    return check


@pytest.fixture
def recounted(server):
    """Has the ledger say what was there before."""

    def recount() -> None:
        from ftpserver.storage.recount import recount as count_again

        account = server.accounts.get("alice")
        count_again(server.service.ledger, account.id, Home(account.home))

    return recount


@pytest.fixture(params=["tmpfs", "bind", "ext4"])
def mnt(request, mount, files, recounted) -> Path:  # noqa: F811
    """Another file system below alice's home."""
    point = mount(request.param, files / "mnt")
    recounted()
    return point


@pytest.fixture
def source(tmp_path) -> Path:
    """A local tree: files of each way to upload, a link, a directory."""
    tree = tmp_path / "source"
    (tree / "sub").mkdir(parents=True)
    for name, size in SIZES.items():
        (tree / name).write_bytes(os.urandom(size))
    (tree / "sub" / "inner").write_bytes(b"inner")
    (tree / "link").symlink_to("small")
    return tree


def content(tree: Path) -> dict[str, object]:
    """What is in a tree, for comparing two."""
    found: dict[str, object] = {}
    for path in tree.rglob("*"):
        name, info = str(path.relative_to(tree)), path.lstat()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            what = None if path.is_dir() else path.read_bytes()
            found[name] = (info.st_mode, info.st_mtime_ns, what)
    return found


@pytest.fixture
def lower(tmp_path) -> Path:
    """What a container's image holds below a home."""
    image = tmp_path / "lower"
    (image / "tree" / "sub").mkdir(parents=True)
    for name in ("one", "two", "sub/three"):
        (image / "tree" / name).write_bytes(name.encode())
    return image


@pytest.fixture
def image(mount, files, lower, recounted) -> Path:  # noqa: F811
    """Alice's home on overlay, with a tree of a lower layer."""
    server_home = mount("overlay", files, lower)
    recounted()
    return server_home / "tree"


# uploads -----------------------------------------------------------------------------------


def test_uploads_to_a_mount(client, mnt, source, quota_store):
    for _ in range(2):  # new, and replaced
        summary = client.put([source], "/mnt", recursive=True)
        assert not summary.failed
        assert content(mnt / "source") == content(source)
        quota_store()
        os.utime(source / "small")
        (source / "small").write_bytes(b"changed")


def test_an_upload_that_fails_leaves_nothing_on_a_mount(client, mnt, quota_store, server, dial):
    from ftpwire import digests
    from ftpwire.messages import Put, Sent

    peer = dial(server)
    number = peer.request(Put(b"/mnt/f", 3))
    peer.frame(Kind.DATA, number, b"abc")
    peer.frame(Kind.END, number, Sent(3, digests.digest(b"xyz")))
    assert isinstance(peer.answer().message.to_error(), VerificationFailed)
    assert os.listdir(mnt) in ([], ["lost+found"])
    quota_store()


def test_one_large_upload_in_pieces(client, mnt, source, quota_store):
    client.put([source / "large"], "/mnt/large", parallel=3)
    assert (mnt / "large").read_bytes() == (source / "large").read_bytes()
    quota_store()


def test_what_is_interrupted_on_a_mount_is_not_kept(server, dial, mnt, quota_store):
    """Nor does it come in pieces."""
    from ftpwire.frames import Kind
    from ftpwire.messages import Listed, ListKept, Put, Ready

    peer = dial(server)
    number = peer.request(Put(b"/mnt/f", 5 * MIB, mtime_ns=7, ask=True, pieces=True))
    assert peer.answer().message == Ready(0, None, None)
    for _ in range(4):
        peer.frame(Kind.DATA, number, bytes(MIB))
    assert (mnt / ".ftpd-staging").is_dir()  # where its bytes go
    peer.frame(Kind.CANCEL, number)
    assert peer.answer().message.code == "cancelled"
    peer.request(ListKept())
    assert peer.answer().message == Listed()
    quota_store()


def test_a_link_to_a_mount_is_followed(client, files, mnt, source, quota_store):
    (files / "in").symlink_to("mnt")
    client.put([source / "small"], "/in/small")
    assert (mnt / "small").read_bytes() == (source / "small").read_bytes()


def test_a_tree_at_once_is_refused_before_the_first_byte(client, server, dial, mnt):
    answer = dial(server).ask(BeginTree(b"/mnt/site"))
    assert isinstance(answer, Failed) and answer.code == "not-atomic"
    assert "/mnt/site" in answer.message and "/.ftpd-staging" in answer.message
    assert not (mnt / "site").exists()


# removing and moving -----------------------------------------------------------------------


def test_what_is_made_on_a_mount_can_be_removed(client, mnt, source, quota_store):
    client.put([source], "/mnt/tree", recursive=True)
    client.make_dir("/mnt/empty")
    assert client.remove("/mnt/tree/middle").size_bytes == SIZES["middle"]
    client.remove("/mnt/empty")
    removed = client.remove("/mnt/tree", recursive=True)
    assert (removed.files, removed.directories) == (5, 2)
    files = sum(SIZES.values()) - SIZES["middle"] + len("inner")
    assert removed.size_bytes == files + len("small")
    assert os.listdir(mnt) in ([], ["lost+found"])
    quota_store()


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_tree_is_moved_between_file_systems(client, files, mnt, source, quota_store, way):
    here, there = ("/tree", "/mnt/moved") if way == "in" else ("/mnt/tree", "/moved")
    client.put([source], here, recursive=True)
    os.chown(files / here[1:] / "small", -1, 12345)
    before = content(files / here[1:])
    client.move(here, there)
    assert content(files / there[1:]) == before
    assert (files / there[1:] / "small").stat().st_gid == 12345
    assert not (files / here[1:]).exists()
    quota_store()


def test_a_file_is_moved_over_another(client, files, mnt, source, quota_store):
    client.put([source / "small"], "/f")
    client.put([source / "middle"], "/mnt/f")
    client.move("/f", "/mnt/f")
    assert (mnt / "f").read_bytes() == (source / "small").read_bytes()
    assert not (files / "f").exists()
    quota_store()


def test_what_comes_while_a_tree_is_moved_stays(
    client, files, mnt, source, quota_store, monkeypatch
):
    client.put([source], "/tree", recursive=True)
    remove_in_place = moving.remove_in_place

    def late(*arguments):
        (files / "tree" / "sub" / "late").write_bytes(b"late")
        return remove_in_place(*arguments)

    monkeypatch.setattr(moving, "remove_in_place", late)
    with pytest.raises(SourceChanged, match="/mnt/moved is complete"):
        client.move("/tree", "/mnt/moved")
    assert [str(p.relative_to(files)) for p in (files / "tree").rglob("*")] == [
        "tree/sub",
        "tree/sub/late",
    ]
    assert len(content(mnt / "moved")) == len(content(source))


@pytest.mark.parametrize("sees_proc", [True, False])
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_tree_with_a_mount_in_it_is_not_removed(
    client,
    files,
    mount,  # noqa: F811
    recounted,
    monkeypatch,
    kind,
    sees_proc,
):
    if not sees_proc:
        monkeypatch.setattr(file_systems, "_MOUNTS", "/nowhere")
    (files / "tree").mkdir()
    (files / "tree" / "file").write_bytes(b"x")
    (mount(kind, files / "tree" / "disk") / "precious").write_bytes(b"precious")
    recounted()
    for path in ("/tree", "/tree/disk"):
        with pytest.raises(InvalidPath, match="mounted there"):
            client.remove(path, recursive=True)
    assert (files / "tree" / "disk" / "precious").read_bytes() == b"precious"
    assert (files / "tree" / "file").exists()


def test_what_is_at_the_target_of_a_move_is_named_whole(client, mnt, source, dial, server):
    client.put([source], "/tree", recursive=True)
    client.make_dir("/mnt/there")
    client.put([source / "small"], "/f")
    peer = dial(server)
    for request, code in (
        (Move(b"/tree", b"/mnt/there"), "is-a-directory"),
        (Move(b"/f", b"/mnt/there"), "is-a-directory"),
        (Move(b"/f", b"/mnt/no/such"), "not-found"),
    ):
        answer = peer.ask(request)
        assert (answer.code, answer.path) == (code, request.target)
        assert answer.message.startswith(request.target.decode() + ": ")


def test_a_mount_is_not_moved(client, mnt):
    with pytest.raises(InvalidPath, match="/mnt: a file system is mounted there"):
        client.move("/mnt", "/moved")


def test_a_read_only_medium_below(client, files, mount, recounted, source, quota_store):  # noqa: F811
    medium = mount("tmpfs", files / "medium")
    (medium / "dir").mkdir()
    (medium / "dir" / "file").write_bytes(b"x")
    mounting.remount_read_only(medium)
    client.put([source / "small"], "/small")
    recounted()
    for path, change in {
        "/medium/dir/file": lambda: client.remove("/medium/dir/file"),
        "/medium/dir": lambda: client.remove("/medium/dir", recursive=True),
        "/medium/new": lambda: client.make_dir("/medium/new"),
        "/medium/small": lambda: client.move("/small", "/medium/small"),
        "/medium/copied": lambda: client.copy("/small", "/medium/copied"),
        "/medium": lambda: client.set_attributes("/medium", mode=0o700),
    }.items():
        with pytest.raises(ReadOnly, match=f"{path}: read-only"):
            change()
    for name in ("small", "middle", "large"):
        assert isinstance(client.put([source / name], "/medium/").first_error, ReadOnly)
    # what could be copied, and not removed, isn't begun
    for name in ("dir", "dir/file"):
        with pytest.raises(ReadOnly, match=f"/medium/{name}: read-only"):
            client.move(f"/medium/{name}", "/moved")
    assert not (files / "moved").exists()
    assert client.copy("/medium/dir", "/dir", recursive=True).files == 1
    quota_store()


def test_a_copy_to_a_disk_without_space_names_what_did_not_fit(client, files, mount):  # noqa: F811
    disk = mount("tmpfs", files / "disk")
    mounting.limit(disk, "8m")
    (files / "tree").mkdir()
    (files / "tree" / "large").write_bytes(bytes(9 * MIB))
    (files / "tree" / "small").write_bytes(b"x")
    copied = client.copy("/tree", "/disk/tree", recursive=True)
    assert [one.path for one in copied.problems] == [b"large"]
    assert (disk / "tree" / "small").read_bytes() == b"x"


# overlay -----------------------------------------------------------------------------------


def test_a_lower_tree_is_removed(client, image, quota_store):
    (image / "closed").mkdir(mode=0)
    removed = client.remove("/tree", recursive=True)
    assert (removed.files, removed.directories, removed.size_bytes) == (3, 3, 15)
    assert not image.exists()


def test_a_lower_tree_is_moved(client, files, image, quota_store):
    before = content(image)
    client.move("/tree", "/moved")
    assert content(files / "moved") == before
    assert not image.exists()
    quota_store()


def test_a_lower_tree_is_not_replaced_at_once(client, image, source, server, dial):
    answer = dial(server).ask(BeginTree(b"/tree"))
    assert isinstance(answer, Failed) and answer.code == "not-atomic"
    assert "/tree" in answer.message and "/.ftpd-staging" in answer.message
    assert (image / "one").read_bytes() == b"one"
    assert set(os.listdir(image.parent / ".ftpd-staging")) <= {"lock", "owner", "numbers"}


def test_an_upper_tree_is_replaced_at_once(client, files, image, source, quota_store):
    for _ in range(2):
        client.put([source], "/new", recursive=True, atomic=True)
    assert content(files / "new") == content(source)
    quota_store()


def test_removal_in_place_can_be_cancelled_and_goes_on(
    server, dial, image, quota_store, recounted, monkeypatch
):
    for number in range(40):
        (image / f"file{number}").write_bytes(b"0123456789")
    recounted()
    monkeypatch.setattr(in_place, "_STEP", 10)
    peer = dial(server)
    peer.send(frame(Kind.REQUEST, 7, Remove(b"/tree", recursive=True)), frame(Kind.CANCEL, 7))
    remark, answer = peer.read(), peer.answer()
    assert b"run the same command again" in remark.payload
    assert answer.message.code == "cancelled"
    left = len(list(image.iterdir()))
    assert 0 < left < 43
    quota_store()  # each step is settled
    answer = peer.ask(Remove(b"/tree", recursive=True))
    assert isinstance(answer, Removed)
    assert not image.exists()
    quota_store()


def test_a_directory_that_is_moved_while_it_is_removed_is_spared(client, files, image, monkeypatch):
    """Between two steps others may move what is being emptied."""
    for number in range(40):
        (image / "sub" / f"file{number}").write_bytes(b"x")
    monkeypatch.setattr(in_place, "_STEP", 5)
    step, steps = in_place.RemovalInPlace.step, []

    def moved_after_one(self, settle):
        step(self, settle)
        if not steps:
            (files / "spared").mkdir()
            for path in list((image / "sub").iterdir()):
                path.rename(files / "spared" / path.name)
            (image / "sub").rmdir()
            (image / "sub").symlink_to(files / "spared")
        steps.append(1)

    monkeypatch.setattr(in_place.RemovalInPlace, "step", moved_after_one)
    client.remove("/tree", recursive=True)
    assert not image.exists()
    assert len(list((files / "spared").iterdir())) >= 35


def test_a_home_with_a_lower_tree_is_removed(tmp_path, mount, lower):  # noqa: F811
    from ftpserver.accounts.removal import remove_home

    home = mount("overlay", tmp_path / "over", lower) / "tree"
    remove_home(home)
    assert not home.exists()


# after a crash -----------------------------------------------------------------------------


def test_a_recount_cleans_the_reserved_name_below(root, engine, ledger, accounts):
    account = accounts.add("alice", "secret")
    beside = account.home / "dir" / ".ftpd-staging"
    beside.mkdir(parents=True)
    (beside / "0123-left").write_bytes(b"left by a crash")
    assert [one.kind for one in verify.check(root)] == ["files", "partial"]
    from ftpserver.storage.recount import recount

    assert recount(ledger, account.id, Home(account.home)) == Usage(0, 1)
    assert os.listdir(account.home / "dir") == []
    assert verify.check(root) == []
