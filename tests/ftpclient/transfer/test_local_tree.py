"""Writing below a destination, and nowhere else."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.placing import checked_parts, partial_name
from ftpwire import beneath
from ftpwire.errors import AlreadyExists, BadMessage, Cancelled, IsADirectory, NotADirectory
from ftpwire.streams import write_all


@pytest.fixture
def below(tmp_path) -> Path:
    directory = tmp_path / "below"
    directory.mkdir()
    return directory


@pytest.fixture
def tree(below):
    opened = LocalTree(bytes(below))
    yield opened
    opened.close()


def store(tree: LocalTree, parts, data: bytes = b"data", *, mode: int = 0o644, **options) -> None:
    partial = PartialFile(tree, parts, **options)
    write_all(partial.fd, data)
    partial.place(mode, 10**18)


# names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"a", b"a/b", b"...", b"-", b" ", b"\xff\n", b"x" * 255])
def test_names_that_may_be(path):
    assert b"/".join(checked_parts(path)) == path


@pytest.mark.parametrize(
    "path",
    [b"", b".", b"..", b"/", b"/a", b"a/", b"a//b", b"a/../b", b"a/.", b"a\0", b"x" * 256],
)
def test_names_that_may_not_be(path):
    with pytest.raises(BadMessage):
        checked_parts(path)


def test_partial_names_are_short_and_differ():
    names = {partial_name((b"dir", b"x" * length)) for length in range(1, 256)}
    assert len(names) == 255
    assert max(map(len, names)) < 64
    assert all(name.startswith(b".") for name in names)


# directories -------------------------------------------------------------------------------


def test_directories(tree, below):
    tree.make_dir((), 0o755)
    tree.make_dir((b"a",), 0o555)
    tree.make_dir((b"a", b"b"), 0o4777)
    assert stat.S_IMODE((below / "a").stat().st_mode) == 0o755, "writable for now"
    store(tree, (b"a", b"b", b"file"))
    tree.finish_dir((b"a", b"b"), 0o4700, 5)
    tree.finish_dir((b"a",), 0o555, 7)
    info = (below / "a" / "b").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o700, 5)
    assert (below / "a").stat().st_mtime_ns == 7
    tree.make_dir((b"a",), 0o555)
    assert stat.S_IMODE((below / "a").stat().st_mode) == 0o755, "again, and writable again"
    store(tree, (b"file",))
    (below / "link").symlink_to("a")
    for name in (b"file", b"link"):
        with pytest.raises(NotADirectory):
            tree.make_dir((name,), 0o755)


def test_many_directories_need_few_descriptors(tree, below):
    for number in range(200):
        tree.make_dir((b"%d" % number,), 0o755)
        store(tree, (b"%d" % number, b"file"))
    assert len(os.listdir("/proc/self/fd")) < 100
    assert len(list(below.glob("*/file"))) == 200


@pytest.mark.parametrize("kernel", [True, False])
def test_no_link_below_is_followed(tree, below, canary, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(beneath, "_is_linux", False)
        tree._tree._kernel = False
    (below / "out").symlink_to(canary)
    (below / "up").symlink_to("..")
    (below / "dir").mkdir()
    (below / "dir" / "out").symlink_to(canary)
    (below / "inside").symlink_to("dir")
    for parts in ((b"out",), (b"up", b"canary"), (b"dir", b"out"), (b"inside",)):
        for deed in (
            lambda parts: store(tree, (*parts, b"secret")),
            lambda parts: tree.make_dir((*parts, b"made"), 0o755),
            lambda parts: tree.make_link((*parts, b"link"), b"x", 5, replace=True),
            lambda parts: tree.finish_dir(parts, 0o700, 5),
            lambda parts: tree.stat((*parts, b"secret")),
            lambda parts: tree.set_attributes((*parts, b"secret"), 0o777, 5),
            lambda parts: tree.remove((*parts, b"secret")),
        ):
            with pytest.raises(OSError):
                deed(parts)


def test_the_last_name_is_not_followed_either(tree, below, canary):
    (below / "link").symlink_to(canary / "secret")
    assert stat.S_ISLNK(tree.stat((b"link",)).st_mode)
    store(tree, (b"link",), b"a file now")
    assert (below / "link").read_bytes() == b"a file now" and not (below / "link").is_symlink()
    (below / "dir-link").symlink_to(canary)
    tree.remove((b"dir-link",))
    assert not os.path.lexists(below / "dir-link")
    (below / "tree").mkdir()
    (below / "tree" / "out").symlink_to(canary)
    tree.remove((b"tree",))
    assert not (below / "tree").exists()


def test_the_destination_itself_may_be_a_link(below, tmp_path):
    """How the user names it is the user's own affair; what a server named is not."""
    (tmp_path / "link").symlink_to(below)
    opened = LocalTree(bytes(tmp_path / "link"))
    store(opened, (b"file",))
    opened.close()
    assert (below / "file").exists()
    for name in (b"link", b"link/"):
        with pytest.raises(OSError):
            LocalTree(bytes(tmp_path) + b"/" + name, follow=False)
    LocalTree(bytes(below) + b"/", follow=False).close()


def test_a_directory_that_is_swapped_for_a_link(tree, below, canary):
    """While files are stored in it, somebody exchanges it: what was opened is what is used."""
    (below / "dir").mkdir()
    (below / "other").symlink_to(canary)
    stop = threading.Event()
    fd = os.open(below, os.O_RDONLY)

    def swap() -> None:
        while not stop.is_set():
            beneath.exchange(fd, b"dir", fd, b"other")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            opened = LocalTree(bytes(below))
            try:
                store(opened, (b"dir", b"secret"))
                opened.make_link((b"dir", b"link"), b"x", 5, replace=True)
            except OSError:
                pass  # it was the link just then
            finally:
                opened.close()
    finally:
        stop.set()
        thread.join()
        os.close(fd)


# files -------------------------------------------------------------------------------------


def partials(below: Path) -> list[str]:
    return [name for name in os.listdir(below) if name.endswith(".part")]


def test_a_file_appears_whole(tree, below):
    partial = PartialFile(tree, (b"x" * 255,))
    write_all(partial.fd, b"half")
    assert not (below / ("x" * 255)).exists()
    assert len(partials(below)) == 1
    write_all(partial.fd, b" and half")
    partial.place(0o4751, 1234567890123456789)
    partial.drop()
    found = below / ("x" * 255)
    assert found.read_bytes() == b"half and half"
    assert stat.S_IMODE(found.stat().st_mode) == 0o751
    assert found.stat().st_mtime_ns == 1234567890123456789
    assert partials(below) == []


def test_partial_files_are_private(tree, below):
    before = os.umask(0)
    try:
        partial = PartialFile(tree, (b"file",))
    finally:
        os.umask(before)
    assert stat.S_IMODE((below / partials(below)[0]).stat().st_mode) == 0o600
    partial.drop()
    partial.drop()
    assert os.listdir(below) == []


def test_a_partial_name_that_leads_elsewhere(tree, below, canary):
    """Somebody has put a link where the partial file will be."""
    (below / os.fsdecode(partial_name((b"file",)))).symlink_to(canary / "secret")
    try:
        store(tree, (b"file",), b"mine")
    except OSError:
        return
    assert (below / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("there", ["file", "link", "dangling", "dir"])
def test_never_over_something(tree, below, there):
    target = below / "name"
    if there == "file":
        target.write_text("old")
    elif there == "dir":
        target.mkdir()
    else:
        target.symlink_to("nowhere" if there == "dangling" else ".")
    before = target.lstat().st_ino
    with pytest.raises((AlreadyExists, IsADirectory)):
        store(tree, (b"name",), replace=False)
    with pytest.raises((AlreadyExists, IsADirectory)):
        tree.make_link((b"name",), b"x", 5, replace=False)
    assert target.lstat().st_ino == before
    assert partials(below) == []
    if there != "dir":
        store(tree, (b"name",))
        assert target.read_bytes() == b"data"
    else:
        for deed in (
            lambda: store(tree, (b"name",)),
            lambda: tree.make_link((b"name",), b"x", 5, replace=True),
        ):
            with pytest.raises(IsADirectory):
                deed()
        assert partials(below) == []


def test_only_one_of_many_gets_a_new_name(below):
    """Without clobbering: looking first and renaming then would let several win."""
    together = threading.Barrier(8)
    outcomes = []

    def compete(number: int) -> None:
        opened = LocalTree(bytes(below))
        try:
            partial = PartialFile(opened, (b"name",), replace=False)
            write_all(partial.fd, b"%d" % number)
            together.wait()
            try:
                partial.place(0o644, 5)
                outcomes.append(number)
            except AlreadyExists:
                pass
        finally:
            opened.close()

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert (below / "name").read_bytes() == b"%d" % outcomes[0]
    assert partials(below) == []


def test_two_that_write_the_same_name_never_mix(tree, below):
    """One of the two, whole, at any moment."""
    first, second = PartialFile(tree, (b"name",)), PartialFile(tree, (b"name",))
    write_all(first.fd, b"first")
    write_all(second.fd, b"sec")
    first.place(0o644, 5)
    assert (below / "name").read_bytes() == b"first"
    write_all(second.fd, b"ond")
    second.place(0o644, 5)
    assert (below / "name").read_bytes() == b"second"
    assert partials(below) == []


def test_links(tree, below):
    for target in (b"nowhere", b"/etc/passwd", b"../..", b"\xff\n"):
        tree.make_link((b"link",), target, 1234567890123456789, replace=True)
        assert os.readlink(bytes(below) + b"/link") == target
        assert (below / "link").lstat().st_mtime_ns == 1234567890123456789
    assert os.listdir(below) == ["link"]


def test_late_arrivals_write_nothing(below):
    """The transfer was given up, and its tree is closed; some bytes were still on their way."""
    opened = LocalTree(bytes(below))
    opened.make_dir((b"dir",), 0o755)
    partial = PartialFile(opened, (b"dir", b"file"))
    opened.close()
    for deed in (
        lambda: PartialFile(opened, (b"x",)),
        lambda: opened.make_dir((b"x",), 0o755),
        lambda: opened.make_link((b"x",), b"y", 5, replace=True),
        lambda: opened.finish_dir((b"dir",), 0o700, 5),
    ):
        with pytest.raises(Cancelled):
            deed()
    partial.drop()
    assert list(below.rglob("*")) == [below / "dir"]


def test_a_place_that_can_not_be_written_leaks_nothing(tree, below, plain_user):
    (below / "closed").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        PartialFile(tree, (b"closed", b"file"))
    with pytest.raises(FileNotFoundError):
        PartialFile(tree, (b"missing", b"file"))


def test_a_directory_that_becomes_a_link_is_not_followed(tree, below, tmp_path, monkeypatch):
    """Whoever else writes there swaps it between two calls."""
    other = tmp_path / "another's"
    other.mkdir(mode=0o500)
    (below / "closed").mkdir(mode=0o500)
    real = os.stat

    def stat_and_swap(name, **options):
        found = real(name, **options)
        if name == b"closed":
            (below / "closed").rmdir()
            (below / "closed").symlink_to(other)
        return found

    monkeypatch.setattr(os, "stat", stat_and_swap)
    with pytest.raises(OSError):
        tree.make_dir((b"closed",), 0o755)
    monkeypatch.undo()
    assert other.stat().st_mode & 0o777 == 0o500
