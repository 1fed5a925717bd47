"""Directories that others share: setgid, groups, default ACLs; as root and as plain users."""

from __future__ import annotations

import errno
import os
import stat
import struct
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftpserver.isolation.sandbox import set_capabilities
from ftpserver.storage import staging_dirs as staging_dirs_module
from ftpserver.storage.batch import Uploads
from ftpserver.storage.file_systems import Beside
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.workspace.workspace import Workspace
from ftpwire import beneath, digests
from ftpwire.errors import Forbidden, NotADirectory
from ftpwire.messages import (
    MakeDir,
    MakeLink,
    NewFile,
    NewFiles,
    Put,
    PutFiles,
    Sent,
    SetAttributes,
)

MIB = 1024 * 1024
GROUP = 33
USER = 65533
SIZES = {"empty": 0, "small": 100, "middle": MIB, "large": 9 * MIB}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files any group")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def shared(files) -> Path:
    """A directory of another group, which it hands down."""
    directory = files / "www"
    directory.mkdir()
    os.chown(directory, -1, GROUP)
    directory.chmod(0o2775)
    return directory


@pytest.fixture
def source(tmp_path) -> Path:
    """A local tree: files of each way to upload, a link, directories in directories."""
    tree = tmp_path / "www"
    (tree / "sub" / "deeper").mkdir(parents=True)
    for name, size in SIZES.items():
        (tree / name).write_bytes(os.urandom(size))
        (tree / "sub" / name).write_bytes(b"")
    (tree / "sub" / "deeper" / "inner").write_bytes(b"inner")
    (tree / "link").symlink_to("small")
    for directory in (tree, tree / "sub", tree / "sub" / "deeper"):
        directory.chmod(0o775)
    return tree


def assert_handed_down(directory: Path) -> None:
    """All that is in a shared directory has its group; directories hand it down."""
    inside = list(directory.rglob("*"))
    assert len(inside) == 12
    assert {path.lstat().st_gid for path in (directory, *inside)} == {GROUP}
    directories = [path for path in (directory, *inside) if path.is_dir()]
    assert [mode(path) for path in directories] == [0o2775] * 3
    assert mode(directory / "small") == 0o644


@needs_root
@pytest.mark.parametrize("parallel", [None, 3])
def test_put_into_a_shared_directory(client, files, shared, source, parallel):
    summary = client.put([source], "/", recursive=True, parallel=parallel)
    assert not summary.failed
    assert_handed_down(shared)
    assert list(files.rglob(".ftpd-staging")) == [files / ".ftpd-staging"]
    assert set(os.listdir(files / ".ftpd-staging")) <= {"lock", "numbers"}
    again = client.put([source], "/", recursive=True)
    assert not again.failed
    assert_handed_down(shared)


@needs_root
@pytest.mark.parametrize("way", ["atomic", "copy", "sync"])
def test_a_tree_below_a_shared_directory(client, files, shared, source, way, tmp_path):
    if way == "atomic":
        client.put([source], "/www/tree", recursive=True, atomic=True)
        client.put([source], "/www/tree", recursive=True, atomic=True)
    elif way == "copy":
        client.put([source], "/plain", recursive=True)
        client.copy("/plain", "/www/tree", recursive=True)
    else:
        client.sync(source, ":/www/tree")
    assert_handed_down(shared / "tree")


@needs_root
def test_a_move_keeps_the_group(client, files, shared):
    (files / "f").write_bytes(b"x")
    client.move("/f", "/www/f")
    assert (shared / "f").stat().st_gid == os.getegid()


@needs_root
def test_an_upload_that_is_resumed_has_the_group(accounts, ledger, open_home, root):
    account = accounts.add("alice", "secret")
    home = open_home()
    directory = root / "alice" / "www"
    directory.mkdir()
    os.chown(directory, -1, GROUP)
    directory.chmod(0o2775)
    data = os.urandom(SIZES["large"])
    sent = Sent(len(data), digests.digest(data))
    request = Put(b"/www/f", len(data), mtime_ns=1, ask=True)
    from ftpwire.errors import ConnectionLost

    for end in (6 * MIB, len(data)):
        uploads = Uploads(home, ledger, account.id, durable=False)
        try:
            with uploads.receiving(1, request) as receiving:
                start, _ = receiving.resume(lambda done: None)
                receiving.expect(end - start)
                receiving.staging.sink.write(memoryview(data)[start:end])
                if end < len(data):
                    raise ConnectionLost("cut")
                assert start > 0
                receiving.finish(sent)
        except ConnectionLost:
            continue
        uploads.commit()
    assert (directory / "f").read_bytes() == data
    assert (directory / "f").stat().st_gid == GROUP


@needs_root
def test_another_group_without_setgid_is_as_the_kernel_has_it(client, shared, source):
    """A directory of some group that hands nothing down."""
    shared.chmod(0o775)
    client.put([source], "/", recursive=True)
    assert (shared / "small").stat().st_gid == os.getegid()
    assert mode(shared) == 0o775


def test_sticky_stays(client, files, source):
    (files / "www").mkdir()
    (files / "www").chmod(0o1777)
    client.put([source], "/", recursive=True)
    assert mode(files / "www") == 0o1775


@needs_root
def test_get_keeps_setgid_of_local_directories(client, shared, source, tmp_path):
    (tmp_path / "local" / "www").mkdir(parents=True)
    (tmp_path / "local" / "www").chmod(0o2775)
    os.chown(tmp_path / "local" / "www", -1, GROUP)
    (tmp_path / "local" / "www").chmod(0o2775)
    shared.chmod(0o775)
    client.put([source], "/", recursive=True)
    client.get(["/www"], tmp_path / "local", recursive=True)
    assert_handed_down(tmp_path / "local" / "www")


# default ACLs ------------------------------------------------------------------------------


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as an extended attribute: tags, rights, ids."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)


NOBODY = 0xFFFFFFFF
DEFAULT = acl((1, 7, NOBODY), (4, 5, NOBODY), (8, 7, GROUP), (0x10, 7, NOBODY), (0x20, 0, NOBODY))
"""For the owner all, for the group r-x, for another group all, for others nothing."""
NARROW = acl((1, 7, NOBODY), (4, 5, NOBODY), (8, 7, GROUP), (0x10, 5, NOBODY), (0x20, 1, NOBODY))


@pytest.fixture(params=[DEFAULT, NARROW], ids=["wide", "narrow"])
def listed(request, files) -> Path:
    """A directory with a default ACL."""
    directory = files / "www"
    directory.mkdir()
    try:
        os.setxattr(directory, "system.posix_acl_default", request.param)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")
    return directory


def access(path: Path) -> tuple[int, bytes | None]:
    """Who may do what there."""
    try:
        listed = os.getxattr(path, "system.posix_acl_access")
    except OSError:
        listed = None
    return mode(path), listed


@pytest.mark.parametrize("bits", [0o600, 0o644, 0o664, 0o444, 0o755])
def test_a_file_gets_what_open_would_give(client, listed, source, bits):
    for name in SIZES:
        (source / name).chmod(bits)
        os.close(os.open(listed / f"open-{name}", os.O_CREAT | os.O_WRONLY, bits))
        client.put([source / name], f"/www/{name}")
        assert access(listed / name) == access(listed / f"open-{name}"), name


def test_directories_get_what_mkdir_would_give(client, listed, source):
    os.mkdir(listed / "as-mkdir", 0o775)
    client.put([source], "/www/", recursive=True)
    client.put([source], "/www/atomic", recursive=True, atomic=True)
    client.copy("/www/www", "/www/copied", recursive=True)
    inner = listed / "www" / "sub"
    for path in (listed / "www", inner, listed / "atomic", listed / "atomic" / "sub"):
        assert access(path) == access(listed / "as-mkdir"), path
    for path in (listed / "copied", listed / "copied" / "sub"):
        assert access(path) == access(listed / "as-mkdir"), path
    for path in (listed / "www", inner):
        assert os.getxattr(path, "system.posix_acl_default") == os.getxattr(
            listed, "system.posix_acl_default"
        )
    os.close(os.open(inner / "as-open", os.O_CREAT | os.O_WRONLY, 0o644))
    assert access(inner / "small") == access(inner / "as-open")


def test_a_mode_that_is_asked_for_is_set(client, listed, source):
    client.put([source / "small"], "/www/f")
    client.set_attributes("/www/f", mode=0o666)
    assert mode(listed / "f") == 0o666


# what is asked for -------------------------------------------------------------------------


def test_setgid_is_for_directories(client, files):
    (files / "d").mkdir(mode=0o755)
    (files / "f").write_bytes(b"")
    (files / "f").chmod(0o644)
    client.set_attributes("/d", setgid=True)
    assert mode(files / "d") == 0o2755
    client.set_attributes("/d", mode=0o700)
    assert mode(files / "d") == 0o2700
    client.set_attributes("/d", mode=0o4750, setgid=False)
    assert mode(files / "d") == 0o750
    with pytest.raises(NotADirectory, match="setgid"):
        client.set_attributes("/f", setgid=True)
    client.set_attributes("/f", mode=0o6755)
    assert mode(files / "f") == 0o755


# plain users -------------------------------------------------------------------------------


class Child:
    """A session's uploads in a process of a plain user."""

    def __init__(self, root: Path, account_id: int) -> None:
        from ftpserver.database import open_state

        self.engine = open_state(root / ".ftpd")
        self.home = Home(root / "alice", durable=False)
        self.uploads = Uploads(self.home, Ledger(self.engine), account_id, durable=False)

    def change(self, *changes) -> list[str]:
        for number, change in enumerate(changes):
            self.uploads.add_change(number, change)
        return [getattr(outcome, "message", "") for _, outcome in self.uploads.commit()]

    def put(self, path: bytes, bits: int = 0o644) -> None:
        sent = Sent(3, digests.digest(b"abc"))
        self.uploads.stage_small(1, Put(path, 3, bits), b"abc", sent)
        ((_, outcome),) = self.uploads.commit()
        assert type(outcome).__name__ == "Stored", outcome


@pytest.fixture
def as_user(root, accounts) -> Callable[..., None]:
    """Runs a function with a `Child` in a process of a plain user with these groups."""
    if os.geteuid() != 0:
        pytest.skip("only root can become others")
    account = accounts.add("alice", "secret")
    (root / "alice").mkdir(exist_ok=True)

    def run(act: Callable[[Child], None], *groups: int) -> None:
        for path in (root, *root.rglob("*")):
            if "www" not in path.parts:
                os.chown(path, USER, USER)
        for above in root.parents:
            if above.is_relative_to("/tmp") and above != Path("/tmp"):
                os.chmod(above, above.stat().st_mode | 0o011)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setgroups(groups)
                os.setgid(USER)
                os.setuid(USER)
                act(Child(root, account.id))
            except BaseException:
                os.write(write, traceback.format_exc()[-60_000:].encode())
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as said:
            text = said.read().decode()
        os.waitpid(child, 0)
        assert not text, text

    return run


@pytest.fixture
def theirs(root) -> Callable[..., Path]:
    """Makes a shared directory in alice's home that belongs to somebody."""

    def make(owner: int, bits: int = 0o2775) -> Path:
        directory = root / "alice" / "www"
        directory.mkdir(parents=True)
        os.chown(directory, owner, GROUP)
        directory.chmod(bits)
        return directory

    return make


def test_an_owner_out_of_the_group(as_user, theirs):
    """A chmod by such an owner would clear setgid, and the kernel says nothing about it."""
    directory = theirs(USER)

    def act(child: Child) -> None:
        assert child.change(MakeDir(b"/www/sub", 0o775)) == [""]
        child.put(b"/www/f")
        child.put(b"/www/sub/f")
        assert child.change(MakeLink(b"/www/link", b"f")) == [""]
        assert child.change(SetAttributes(b"/www", 0o755, 10**18)) == [""]
        assert child.uploads.remarks == {
            "directories of another owner or group keep their mode and times"
        }
        (said,) = child.change(SetAttributes(b"/www", 0o755, exact=True))
        assert "the server is not in its group (33)" in said

    as_user(act)
    assert mode(directory) == 0o2775
    assert mode(directory / "sub") & 0o2700 == 0o2700
    names = ("f", "sub", "sub/f", "link")
    assert {(directory / name).lstat().st_gid for name in names} == {GROUP}


@needs_root
def test_new_directories_of_a_group_that_the_server_is_not_in_are_open_to_it(
    client, shared, source, monkeypatch
):
    """No chmod can follow there, so they get their modes when they are made."""
    monkeypatch.setattr(beneath, "in_group", lambda gid: False)
    client.put([source], "/www/put", recursive=True)
    client.put([source], "/www/atomic", recursive=True, atomic=True)
    client.sync(source, ":/www/synced")
    client.copy("/www/put", "/www/copied", recursive=True)
    for name in ("put", "atomic", "synced", "copied"):
        inside = [path for path in (shared / name).rglob("*") if path.is_dir()]
        # as mkdir gives, with the usual umask
        assert {mode(path) for path in (shared / name, *inside)} == {0o2755}, name


@needs_root
@pytest.mark.parametrize("has_the_right", [True, False])
def test_roots_rights_decide_over_setgid(tmp_path, has_the_right):
    """Sessions in processes of their own may be root's, without a right of root's."""
    directory = tmp_path / "www"
    directory.mkdir()
    os.chown(directory, -1, GROUP)
    directory.chmod(0o2775)
    child = os.fork()
    if not child:
        status = 1
        try:
            if not has_the_right:
                set_capabilities(())
            may = beneath.in_group(GROUP)
            os.chmod(directory, 0o2770)
            status = 0 if may is has_the_right else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mode(directory) == (0o2770 if has_the_right else 0o770)  # it is as the kernel has it


def test_a_member_who_is_not_the_owner(as_user, theirs):
    directory = theirs(0)

    def act(child: Child) -> None:
        child.put(b"/www/f")
        assert child.change(
            MakeDir(b"/www", 0o755, parents=True),
            MakeDir(b"/www/sub", 0o775),
            SetAttributes(b"/www/sub", 0o700, 10**18),
            SetAttributes(b"/www", 0o755, 10**18),
        ) == ["", "", "", ""]
        assert child.uploads.remarks
        (said,) = child.change(SetAttributes(b"/www", None, 10**18))
        assert "not permitted" in said or "permission denied" in said

    as_user(act, GROUP)
    assert mode(directory) == 0o2775
    assert mode(directory / "sub") == 0o2700
    assert {(directory / name).stat().st_gid for name in ("f", "sub")} == {GROUP}


def test_who_may_not_write_there(as_user, theirs):
    theirs(0)

    def act(child: Child) -> None:
        sent = Sent(3, digests.digest(b"abc"))
        child.uploads.stage_small(1, Put(b"/www/f", 3), b"abc", sent)
        ((_, outcome),) = child.uploads.commit()
        assert outcome.code == Forbidden.code

    as_user(act)


def test_an_unauthenticated_clients_reserved_name_is_not_used_in_a_sticky_directory(
    as_user, theirs
):
    """Whoever owns it could exchange what is staged there."""
    directory = theirs(0, 0o3777)
    (directory / ".ftpd-staging").mkdir()
    os.chown(directory / ".ftpd-staging", 65532, GROUP)
    (directory / ".ftpd-staging").chmod(0o777)

    def act(child: Child) -> None:
        with pytest.raises(Forbidden, match="belongs to another user"):
            child.put(b"/www/f")

    as_user(act)


@needs_root
def test_a_batch_for_many_shared_directories_keeps_few_of_them_open(ledger, accounts, root):
    account = accounts.add("alice", "correct-horse")
    with ExitStack() as stack:
        workspace = Workspace(account, ledger, durable=False)
        stack.callback(workspace.close)
        home = Path(workspace.account.home)
        os.listdir(workspace.home.fd)
        names = [b"%d" % number for number in range(100)]
        for name in names:
            directory = home / os.fsdecode(name)
            directory.mkdir()
            os.chown(directory, -1, GROUP)
            directory.chmod(0o2775)
        file = NewFile(b"a", 1, 0o644, 0, digests.digest(b"x"))
        directories = [NewFiles(b"/" + name, [file]) for name in [*names, names[0]]]
        workspace.stage_files(PutFiles(directories[:1]), b"x")
        workspace.commit()  # the books are open from now on
        before = len(os.listdir("/proc/self/fd"))
        workspace.stage_files(PutFiles(directories), b"x" * len(directories))
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * staging_dirs_module._MOST_BESIDE
        ((_, outcome),) = workspace.commit()
        assert not outcome.failures
        assert len(os.listdir("/proc/self/fd")) == before
        for name in names:
            assert os.listdir(home / os.fsdecode(name)) == ["a"]
            assert (home / os.fsdecode(name) / "a").stat().st_gid == GROUP


@needs_root
def test_a_want_of_descriptors_gives_no_other_group(home, root, monkeypatch):
    """A directory that cannot be looked at just now is not taken for one like staging."""
    (root / "alice" / "www").mkdir()
    places = staging_dirs_module.StagingDirs(home)

    def none_left(parts):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(home.tree, "open_dir_here", none_left)
        with pytest.raises(OSError, match="[Tt]oo many"):
            places.of((b"www",))
    os.chown(root / "alice" / "www", -1, GROUP)
    assert places.of((b"www",)).beside is not None
    places.close()


# several sessions in one directory -----------------------------------------------------------


@pytest.fixture
def beside(files) -> Callable[[], Beside]:
    """Opens the reserved name in a directory; closed at the end."""
    with ExitStack() as stack:
        (files / "www").mkdir()
        directory = os.open(files / "www", os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, directory)

        def opened() -> Beside:
            one = Beside(directory)
            stack.callback(one.close)
            return one

        yield opened


def test_another_session_may_remove_the_reserved_name_before_it_is_used(beside, files):
    one = beside()
    os.rmdir(files / "www" / ".ftpd-staging")  # as another one does that is done
    one.make(lambda fd: os.mkdir("made", dir_fd=fd))
    os.rmdir("made", dir_fd=one.fd)
    with pytest.raises(FileNotFoundError):
        one.make(lambda fd: os.rmdir("missing", dir_fd=fd))


def test_a_disk_that_gives_no_times_back_undoes_nothing(beside, files, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "utime", full)
    beside()  # as it is made, and at the end as it goes


def test_another_session_may_remove_the_reserved_name_while_it_is_opened(
    beside, files, monkeypatch
):
    mkdir, made = os.mkdir, []

    def removed_just_now(*arguments, **options):
        mkdir(*arguments, **options)
        made.append(arguments)
        if len(made) == 1:
            os.rmdir(files / "www" / ".ftpd-staging")

    monkeypatch.setattr(os, "mkdir", removed_just_now)
    beside()
    assert len(made) == 2


@needs_root
@pytest.mark.parametrize("options", [{}, {"atomic": True}, {"parallel": 2}])
def test_directories_keep_their_times(client, shared, source, options):
    """The reserved name in them comes and goes."""
    for version in (b"1", b"2"):
        for path in source.rglob("small"):
            path.write_bytes(version)
        for path in (source / "sub" / "deeper", source / "sub", source):
            os.utime(path, (0, 10**9))
        summary = client.put([source], "/www/", recursive=True, **options)
        assert not summary.failed
        tree = shared / "www"
        for path in (tree, tree / "sub", tree / "sub" / "deeper"):
            assert path.stat().st_mtime == 10**9, (path, version)


@needs_root
def test_a_batch_into_many_shared_directories_syncs_their_disk_once(
    accounts, ledger, open_home, root, monkeypatch
):
    account = accounts.add("alice", "secret")
    home = open_home(durable=True)
    for number in range(12):
        directory = root / "alice" / str(number)
        directory.mkdir()
        os.chown(directory, -1, GROUP)
        directory.chmod(0o2775)
    synced = []
    monkeypatch.setattr(beneath, "sync_file_system", synced.append)
    uploads = Uploads(home, ledger, account.id, durable=True)
    for number in range(12):
        sent = Sent(3, digests.digest(b"abc"))
        uploads.stage_small(number, Put(b"/%d/f" % number, 3), b"abc", sent)
    assert [type(outcome).__name__ for _, outcome in uploads.commit()] == ["Stored"] * 12
    assert synced == [home.staging_fd, home.fd]  # the files, then the directories
