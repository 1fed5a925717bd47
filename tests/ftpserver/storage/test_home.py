"""Homes: looking, listing, removing, moving and counting, without a session."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpserver.storage import listing
from ftpserver.storage.digest_xattr import digest_by_name, fresh_digest, keep_digest
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import Check, Tally
from ftpserver.storage.walk import Usage
from ftpwire import beneath, digests, paths
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    DiskFull,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotFound,
    NotRegular,
)
from ftpwire.messages import Entry, Problem

STAGING = paths.STAGING.decode()
LIST = {"recursive": False, "follow": False, "digest": False}


@pytest.fixture
def alice(home, root) -> Path:
    """Alice's home as the file system has it."""
    return root / "alice"


def write(path: Path, content: bytes = b"content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def remove(home: Home, path: bytes, *, recursive: bool = False) -> Tally:
    return home.remove(path, recursive=recursive, tick=lambda: None)


def listed(home: Home, path: bytes = b"/", **how) -> dict[bytes, Entry | Problem]:
    """What a listing tells, by path."""
    found = {}
    for directory, item in home.list(path, **LIST | how):
        if item is not None:
            found[b"/".join(part for part in (directory, item.path) if part)] = item
    return found


def staged(home: Home) -> set[str]:
    return set(os.listdir(home.staging_fd)) - {"lock"}


def make_deep(directory: Path, levels: int, name: bytes = b"d") -> None:
    """A directory in a directory in a directory…, deeper than any path could say."""
    fd = os.open(directory, os.O_RDONLY)
    for level in range(levels):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        if level % 100 == 99:
            os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.fixture
def mark_dead(tmp_path) -> Iterator[None]:
    """Removes what is too deep for pytest to remove."""
    yield
    home = Home(tmp_path / "root" / "alice", durable=False)
    try:
        for name in os.listdir(home.fd):
            if name != STAGING:
                remove(home, b"/" + os.fsencode(name), recursive=True)
    finally:
        home.close()


# opening -----------------------------------------------------------------------------------


def test_a_home_has_a_private_staging_directory(home, alice):
    assert stat.S_IMODE((alice / STAGING).stat().st_mode) == 0o700
    assert os.listdir(alice / STAGING) == ["lock"]


def test_a_home_opens_again_and_by_others(open_home, alice):
    write(alice / STAGING / "of-another-run")
    first, second = open_home(), open_home()
    assert staged(first) == staged(second) == {"of-another-run"}


@pytest.mark.parametrize("spoil", ["no-home", "file", "staging-link", "staging-file", "lock-dir"])
def test_a_home_that_can_not_be_opened_leaks_nothing(root, canary, spoil):
    """(The descriptors are counted by the fixture that every test has.)"""
    home = root / "alice"
    if spoil == "file":
        write(home)
    elif spoil != "no-home":
        home.mkdir()
    if spoil == "staging-link":
        (home / STAGING).symlink_to(canary)
    elif spoil == "staging-file":
        write(home / STAGING)
    elif spoil == "lock-dir":
        (home / STAGING / "lock").mkdir(parents=True)
    with pytest.raises(OSError):
        Home(home)


# looking -----------------------------------------------------------------------------------


def furnish(alice: Path) -> None:
    write(alice / "file", b"12345").chmod(0o640)
    os.utime(alice / "file", ns=(0, 1234567890123456789))
    (alice / "dir").mkdir(mode=0o750)
    (alice / "link").symlink_to("file")
    (alice / "absolute").symlink_to("/dir")
    (alice / "dangling").symlink_to("nowhere")
    os.mkfifo(alice / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(alice / "socket"))


@pytest.mark.parametrize(
    ("path", "follow", "kind", "target"),
    [
        (b"/", False, "dir", None),
        (b"/file", False, "file", None),
        (b"/dir", False, "dir", None),
        (b"/dir/..", False, "dir", None),
        (b"/link", False, "link", b"file"),
        (b"/link", True, "file", None),
        (b"/absolute", False, "link", b"/dir"),
        (b"/absolute", True, "dir", None),
        (b"/absolute/../file", False, "file", None),
        (b"/dangling", False, "link", b"nowhere"),
        (b"/fifo", False, "other", None),
        (b"/fifo", True, "other", None),
        (b"/socket", False, "other", None),
    ],
)
def test_what_is_reported_about_a_path(home, alice, path, follow, kind, target):
    furnish(alice)
    entry = home.entry(path, follow=follow, digest=False)
    assert (entry.path, entry.type, entry.target, entry.digest) == (path, kind, target, None)


def test_what_is_reported_about_a_file(home, alice):
    furnish(alice)
    for path, follow in ((b"/file", False), (b"/link", True)):
        entry = home.entry(path, follow=follow, digest=True)
        assert (entry.size, entry.mode, entry.mtime_ns) == (5, 0o640, 1234567890123456789)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"/nowhere", FileNotFoundError),
        (b"/dangling", FileNotFoundError),
        (b"/file/below", NotADirectoryError),
        (b"/nowhere/below", FileNotFoundError),
        (b"relative", InvalidPath),
        (b"/nul\0byte", InvalidPath),
        (b"/" + paths.STAGING, InvalidPath),
        (b"/dir/" + paths.STAGING + b"/lock", InvalidPath),
        (b"/" + b"x" * 256, InvalidPath),
        (b"/x" * 256, InvalidPath),
    ],
)
def test_paths_that_name_nothing(home, alice, path, error):
    furnish(alice)
    with pytest.raises(error):
        home.entry(path, follow=True, digest=True)


@pytest.mark.parametrize("name", [b"fifo", b"socket", b"dir"])
def test_only_regular_files_are_read(home, alice, name):
    """And a FIFO doesn't block."""
    furnish(alice)
    with pytest.raises((NotRegular, IsADirectoryError, OSError)):
        home.tree.open_file((name,))


def test_devices_are_not_read(home, alice):
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    try:
        os.mknod(alice / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices can be made here")
    assert home.entry(b"/device", follow=True, digest=True).type == "other"
    with pytest.raises(NotRegular):
        home.tree.open_file((b"device",))


# the digest beside a file ------------------------------------------------------------------


def test_a_kept_digest_is_reported_while_it_is_true(home, alice):
    path = write(alice / "file", b"12345")
    (alice / "link").symlink_to("file")
    digest = digests.digest(b"12345")
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        keep_digest(file.fileno(), digest, info.st_size, info.st_mtime_ns)
        if fresh_digest(file.fileno(), info) is None:
            pytest.skip("this file system keeps no attributes")
    assert home.entry(b"/file", follow=False, digest=True).digest == digest
    assert home.entry(b"/file", follow=False, digest=False).digest is None
    assert home.entry(b"/link", follow=True, digest=True).digest == digest
    assert listed(home, digest=True)[b"file"].digest == digest
    os.utime(path, ns=(0, info.st_mtime_ns + 1))
    assert home.entry(b"/file", follow=False, digest=True).digest is None
    os.utime(path, ns=(0, info.st_mtime_ns))
    path.write_bytes(b"123456")
    os.utime(path, ns=(0, info.st_mtime_ns))
    assert home.entry(b"/link", follow=True, digest=True).digest is None


@pytest.mark.parametrize("value", [b"", b"x", b"\x01" * 65, b"\x02" + bytes(64)])
def test_an_attribute_of_somebody_else_is_no_digest(home, alice, value):
    path = write(alice / "file")
    try:
        os.setxattr(path, digests.ATTRIBUTE, value)
    except OSError:
        pytest.skip("this file system keeps no attributes")
    assert digest_by_name(home.fd, b"file", path.stat()) is None


# listing -----------------------------------------------------------------------------------


def test_a_listing_hides_staging_and_shows_all_else(home, alice):
    furnish(alice)
    found = listed(home)
    assert {path: item.type for path, item in found.items()} == {
        b"file": "file",
        b"dir": "dir",
        b"link": "link",
        b"absolute": "link",
        b"dangling": "link",
        b"fifo": "other",
        b"socket": "other",
    }


def test_names_are_bytes(home, alice):
    names = [b" ", b"-rf", b"new\nline", b"\xff\xfe", b"\x1b[31m", "ü".encode(), b"x" * 255]
    for name in names:
        (Path(os.fsdecode(bytes(alice) + b"/" + name))).touch()
    assert sorted(listed(home)) == sorted(names)
    for name in names:
        assert home.entry(b"/" + name, follow=False, digest=False).type == "file"


def test_each_directory_is_listed_whole_before_those_in_it(home, alice):
    for name in ("a/1", "a/b/2", "c/3", "4", "e/f/g/5"):
        write(alice / name)
    complete: list[bytes] = []
    seen: dict[bytes, str] = {b"": "dir"}
    for directory, item in home.list(b"/", **LIST | {"recursive": True}):
        assert seen[directory] == "dir", "a directory is named before its contents"
        assert directory not in complete
        if item is None:
            complete.append(directory)
            continue
        above = directory.rsplit(b"/", 1)[0] if b"/" in directory else b""
        assert not directory or above in complete
        seen[b"/".join(filter(None, (directory, item.path)))] = item.type
    assert sorted(complete) == [b"", b"a", b"a/b", b"c", b"e", b"e/f", b"e/f/g"]
    assert sorted(path for path, kind in seen.items() if kind == "file") == [
        b"4",
        b"a/1",
        b"a/b/2",
        b"c/3",
        b"e/f/g/5",
    ]


def test_a_large_directory_comes_in_parts(home, alice):
    """What is in one is read together, and never too much of it."""
    wanted = {b"%d" % number for number in range(600)}
    for name in wanted:
        write(alice / "large" / name.decode(), b"")
    write(alice / "large" / "d" / "below")
    parts = list(home.list_parts(b"/", **LIST | {"recursive": True}))
    large = [part for part in parts if part.directory == b"large"]
    assert [part.complete for part in large] == [False] * (len(large) - 1) + [True]
    assert max(len(part.entries) for part in large) <= 256
    assert len(large) == 4, "not one part for each file"
    found = [entry.path for part in large for entry in part.entries]
    assert sorted(found) == sorted([*wanted, b"d"])
    assert [item for part in parts for item in part.items()] == list(
        home.list(b"/", **LIST | {"recursive": True})
    )


def test_names_with_a_prefix(home, alice):
    """Names are bytes: a prefix may end inside a letter."""
    for name in ("ab", "abc", "b", "sub/ab", "ab-dir/x/y", "other/z"):
        write(alice / name)
    write(alice / "é")
    assert listed(home, prefix=b"ab").keys() == {b"ab", b"abc", b"ab-dir"}
    assert listed(home, prefix=b"ab", recursive=True).keys() == {
        *(b"ab", b"abc", b"ab-dir", b"ab-dir/x", b"ab-dir/x/y")
    }
    assert listed(home, prefix=b"").keys() == listed(home).keys()
    assert listed(home, prefix="é".encode()[:1]).keys() == {"é".encode()}
    for nothing in (b"abcd", b".ftpd", b".ftpd-staging"):
        assert listed(home, prefix=nothing) == {}


def test_other_names_cost_no_stat_and_no_memory(home, alice, monkeypatch):
    for number in range(600):
        write(alice / f"{number:03}", b"")
    requested = []

    class Spied:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name = entry.name
            self._entry = entry

        def stat(self, **options: bool) -> os.stat_result:
            requested.append(self.name)
            return self._entry.stat(**options)

    class Os:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        @contextmanager
        def scandir(self, fd: int) -> Iterator[Iterator[Spied]]:
            with os.scandir(fd) as entries:
                yield map(Spied, entries)

    monkeypatch.setattr(listing, "os", Os())
    parts = list(home.list_parts(b"/", **LIST, prefix=b"42"))
    wanted = {f"42{last}" for last in range(10)}
    assert len(requested) == 10 and set(requested) == wanted
    assert {entry.path.decode() for part in parts for entry in part.entries} == wanted
    assert len(parts) == 4, "each part of the directory is handed on, also without an entry"


def test_listing_what_is_no_directory(home, alice):
    furnish(alice)
    assert [item for _, item in home.list(b"/file", **LIST)] == [
        home.entry(b"/file", follow=False, digest=False).__class__(
            b"", "file", 5, 0o640, 1234567890123456789
        ),
        None,
    ]
    with pytest.raises(FileNotFoundError):
        list(home.list(b"/nowhere", **LIST))


def test_links_are_followed_only_when_asked_for(home, alice):
    write(alice / "dir" / "inside")
    (alice / "link").symlink_to("dir")
    assert set(listed(home, recursive=True)) == {b"dir", b"dir/inside", b"link"}
    found = listed(home, recursive=True, follow=True)
    assert set(found) == {b"dir", b"dir/inside", b"link", b"link/inside"}
    assert found[b"link"].type == "dir"


@pytest.mark.parametrize("target", [".", "..", "/", "../../a", "../b", "/a"])
def test_links_into_their_own_parents_end(home, alice, target):
    write(alice / "a" / "b" / "file")
    (alice / "a" / "b" / "loop").symlink_to(target)
    found = listed(home, recursive=True, follow=True)
    problems = {path: item for path, item in found.items() if isinstance(item, Problem)}
    assert problems, "the loop is told"
    assert all("own parents" in problem.message for problem in problems.values())
    assert len(found) < 30


def test_links_that_lead_nowhere_are_problems_when_followed(home, alice):
    furnish(alice)
    (alice / "self").symlink_to("self")
    found = listed(home, follow=True)
    assert {path for path, item in found.items() if isinstance(item, Problem)} <= {
        b"dangling",
        b"self",
    }
    assert isinstance(found[b"self"], Problem)
    assert found[b"file"].type == found[b"link"].type == "file"


def test_what_can_not_be_read_does_not_end_a_listing(home, alice, plain_user):
    write(alice / "closed" / "secret")
    write(alice / "open" / "file")
    (alice / "closed").chmod(0)
    try:
        found = listed(home, recursive=True)
    finally:
        (alice / "closed").chmod(0o700)
    assert found[b"open/file"].type == "file"
    problem = [item for item in found.values() if isinstance(item, Problem)]
    assert [one.code for one in problem] == ["forbidden"]


def test_a_listing_of_any_depth_ends(home, alice, mark_dead):
    """Deeper than Python's stack, and than a path can say: what is too deep is told."""
    make_deep(alice, 1200)
    found = listed(home, recursive=True)
    problems = [item for item in found.values() if isinstance(item, Problem)]
    assert [problem.code for problem in problems] == ["invalid-path"]
    assert len(found) > paths.MAX_DEPTH


def test_paths_in_a_listing_fit_a_frame(home, alice, mark_dead):
    """With the longest names, a deep directory's own path would fill a page."""
    make_deep(alice, 600, b"n" * 255)
    longest = max(len(directory) for directory, _ in home.list(b"/", **LIST | {"recursive": True}))
    assert longest < 64 * 1024


def test_a_listing_that_nobody_finishes_leaves_nothing_open(home, alice):
    for name in ("a/b/c/1", "a/b/c/2"):
        write(alice / name)
    walking = home.list(b"/", **LIST | {"recursive": True})
    for directory, _ in walking:
        if directory == b"a/b/c":
            break
    walking.close()


# removing ----------------------------------------------------------------------------------


def test_removing_reports_what_became_free(home, alice):
    write(alice / "file", b"x" * 100)
    write(alice / "linked", b"x" * 7)
    (alice / "link").symlink_to("linked")
    (alice / "dir").mkdir()
    os.mkfifo(alice / "fifo")
    assert remove(home, b"/file") == Tally(1, 0, 100)
    assert remove(home, b"/link") == Tally(1, 0, len("linked"))
    assert remove(home, b"/fifo") == Tally(1, 0, 0)
    assert remove(home, b"/dir") == Tally(0, 1, 0)
    assert sorted(os.listdir(alice)) == [STAGING, "linked"]
    assert staged(home) == set()


def test_removing_a_tree(home, alice, canary):
    write(alice / "tree" / "a" / "file", b"x" * 100)
    write(alice / "tree" / "b" / "file", b"x" * 10)
    (alice / "tree" / "empty").mkdir()
    (alice / "tree" / "out").symlink_to(canary)
    (alice / "tree" / "up").symlink_to("..")
    os.mkfifo(alice / "tree" / "fifo")
    write(alice / "stays")
    for refused in (b"/tree", b"/tree/a"):
        with pytest.raises(OSError) as caught:
            remove(home, refused)
        assert caught.value.errno == 39
    assert remove(home, b"/tree", recursive=True) == Tally(5, 4, 110 + len(str(canary)) + len(".."))
    assert sorted(os.listdir(alice)) == [STAGING, "stays"]
    assert staged(home) == set()


def test_removing_through_links_stays_inside(home, alice):
    write(alice / "dir" / "file", b"123")
    (alice / "link").symlink_to("dir")
    assert remove(home, b"/link/file").size == 3
    assert remove(home, b"/link", recursive=True) == Tally(1, 0, len("dir"))
    assert (alice / "dir").is_dir()


def test_the_home_itself_stays(home, alice):
    for path in (b"/", b"/.", b"/..", b"/x/.."):
        with pytest.raises(InvalidPath):
            remove(home, path, recursive=True)


def test_removing_nothing(home, alice):
    write(alice / "file")
    for path, error in ((b"/nowhere", FileNotFoundError), (b"/file/x", NotADirectoryError)):
        with pytest.raises(error):
            remove(home, path, recursive=True)


def test_removing_a_tree_of_any_depth(home, alice):
    make_deep(alice, 1200)
    assert remove(home, b"/d", recursive=True) == Tally(12, 1200, 0)
    assert os.listdir(alice) == [STAGING]
    assert staged(home) == set()


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600])
def test_removing_directories_that_forbid_it(home, alice, plain_user, mode):
    """Whoever owns a directory may remove it, whatever mode it was put with."""
    write(alice / "tree" / "closed" / "deeper" / "file", b"123")
    for name in ("tree/closed/deeper", "tree/closed", "tree"):
        (alice / name).chmod(mode)
    assert remove(home, b"/tree", recursive=True) == Tally(1, 3, 3)
    assert os.listdir(alice) == [STAGING]
    assert staged(home) == set()


def test_a_file_in_a_closed_directory_is_not_removed(home, alice, plain_user):
    write(alice / "dir" / "file")
    (alice / "dir").chmod(0o500)
    with pytest.raises(PermissionError):
        remove(home, b"/dir/file")
    (alice / "dir").chmod(0o700)
    assert staged(home) == set()


def test_long_work_ticks(home, alice):
    (alice / "tree").mkdir()
    for number in range(600):
        (alice / "tree" / f"{number}").touch()
    ticks = []
    home.remove(b"/tree", recursive=True, tick=lambda: ticks.append(1))
    assert len(ticks) == 2


def test_a_directory_that_takes_a_file_s_place_is_given_back(home, alice, monkeypatch):
    """Between the look and the removal of a file somebody else puts a directory there."""
    write(alice / "name")
    discard = home.discard

    def too_late(directory: int, name: bytes, check: Check | None) -> int:
        (alice / "name").unlink()
        write(alice / "name" / "inside")
        return discard(directory, name, check)

    monkeypatch.setattr(home, "discard", too_late)
    with pytest.raises(IsADirectory):
        remove(home, b"/name")
    assert (alice / "name" / "inside").read_bytes() == b"content"
    assert staged(home) == set()


# moving ------------------------------------------------------------------------------------


def kinds(alice: Path) -> None:
    """One of each, as ``old-KIND`` and ``new-KIND``."""
    for age in ("old", "new"):
        write(alice / f"{age}-file", f"{age} content".encode())
        (alice / f"{age}-link").symlink_to(f"{age}-target")
        write(alice / f"{age}-dir" / "inside")
        (alice / f"{age}-empty").mkdir()


@pytest.mark.parametrize("kind", ["file", "link", "dir", "empty"])
@pytest.mark.parametrize("replace", [True, False])
def test_moving_to_a_new_name(home, alice, kind, replace):
    kinds(alice)
    before = (alice / f"old-{kind}").lstat().st_ino
    assert home.move(f"/old-{kind}".encode(), b"/old-dir/../moved", replace=replace) == Tally()
    assert (alice / "moved").lstat().st_ino == before
    assert not os.path.lexists(alice / f"old-{kind}")


@pytest.mark.parametrize("target", ["file", "link", "dir", "empty"])
@pytest.mark.parametrize("source", ["file", "link", "dir", "empty"])
@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("kernel_can", [True, False], ids=["exchange", "no-exchange"])
def test_what_replaces_what(home, alice, monkeypatch, source, target, replace, kernel_can):
    if not kernel_can:
        monkeypatch.setattr(beneath, "_renameat2", None)
    kinds(alice)
    moved, there = alice / f"new-{source}", alice / f"old-{target}"
    before, size = moved.lstat().st_ino, there.lstat().st_size
    arguments = (f"/new-{source}".encode(), f"/old-{target}".encode())
    if replace and source in ("file", "link") and target in ("file", "link"):
        freed = home.move(*arguments, replace=replace)
        assert freed == Tally(files=1, size=size)
        assert there.lstat().st_ino == before
        assert not os.path.lexists(moved)
    else:
        with pytest.raises((AlreadyExists, IsADirectory, FileExistsError)) as caught:
            home.move(*arguments, replace=replace)
        assert os.path.lexists(moved) and there.lstat().st_ino != before
        if replace:
            assert isinstance(caught.value, CommandError)
    assert staged(home) == set()


@pytest.mark.parametrize("replace", [True, False])
def test_moving_to_itself_changes_nothing(home, alice, replace):
    write(alice / "file")
    os.link(alice / "file", alice / "other")
    (alice / "dir").mkdir()
    assert home.move(b"/file", b"/file", replace=replace) == Tally()
    (alice / "link").symlink_to("/")
    assert home.move(b"/file", b"/link/file", replace=replace) == Tally()
    assert home.move(b"/dir", b"/dir", replace=replace) == Tally()
    assert {"file", "other", "dir"} <= set(os.listdir(alice))


@pytest.mark.parametrize("replace", [True, False])
def test_the_second_link_that_a_crash_left_of_a_move_goes_with_the_same_command(
    home, alice, replace
):
    """As mv(1) has it; rename(2) would leave both."""
    write(alice / "file", b"x" * 10)
    os.link(alice / "file", alice / "other")
    assert home.move(b"/file", b"/other", replace=replace) == Tally(files=1, size=10)
    assert sorted(os.listdir(alice)) == [STAGING, "other"]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (b"/dir", b"/dir/inside"),
        (b"/dir", b"/dir/deeper/inside"),
        (b"/dir", b"/link/inside"),
        (b"/dir", b"/link/deeper/inside"),
    ],
)
def test_a_directory_can_not_be_moved_into_itself(home, alice, source, target):
    (alice / "dir" / "deeper").mkdir(parents=True)
    (alice / "link").symlink_to("dir")
    with pytest.raises((OSError, CommandError)):
        home.move(source, target, replace=True)
    assert (alice / "dir" / "deeper").is_dir()


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        (b"/", b"/x", InvalidPath),
        (b"/file", b"/", InvalidPath),
        (b"/nowhere", b"/x", FileNotFoundError),
        (b"/nowhere", b"/file", FileNotFoundError),
        (b"/file", b"/nowhere/x", NotFound),
        (b"/file", b"/file/x", NotADirectory),
        (b"/file", b"/" + paths.STAGING, InvalidPath),
        (b"/" + paths.STAGING, b"/x", InvalidPath),
        (b"/" + paths.STAGING + b"/lock", b"/x", InvalidPath),
        (b"/file", b"/" + paths.STAGING + b"/x", InvalidPath),
    ],
)
def test_moves_that_make_no_sense(home, alice, source, target, error):
    write(alice / "file")
    with pytest.raises(error):
        home.move(source, target, replace=True)
    assert (alice / "file").read_bytes() == b"content"


@pytest.mark.parametrize("ask", ["move", "check_move"])
def test_a_move_says_which_of_its_paths_is_not_there(home, alice, ask):
    write(alice / "file")
    with pytest.raises(NotFound) as caught:
        getattr(home, ask)(b"/file", b"/nowhere/x", replace=True)
    assert str(caught.value) == "/nowhere/x: no such file or directory"


# the lock ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("shared", "shared", True),
        ("shared", "alone", False),
        ("alone", "shared", False),
        ("alone", "alone", False),
    ],
)
def test_who_waits_for_whom(open_home, first, second, together):
    one, two = open_home(), open_home()
    entered, go_on = threading.Event(), threading.Event()
    order = []

    def enter() -> None:
        with getattr(two, second)():
            order.append("second in")
            entered.set()
            assert go_on.wait(30)

    thread = threading.Thread(target=enter)
    with getattr(one, first)():
        thread.start()
        if together:
            assert entered.wait(30)
        else:
            assert not entered.wait(0.05)
        order.append("first out")
    assert entered.wait(30)
    go_on.set()
    thread.join()
    assert order == (["second in", "first out"] if together else ["first out", "second in"])


# counting ----------------------------------------------------------------------------------


def test_what_counts(home, alice):
    write(alice / "a", b"x" * 100)
    write(alice / "dir" / "b", b"x" * 20)
    os.link(alice / "a", alice / "dir" / "hard-link")
    (alice / "link").symlink_to("a")
    os.mkfifo(alice / "fifo")
    write(alice / STAGING / "staged", b"x" * 10_000)
    with (alice / "sparse").open("wb") as file:
        file.truncate(2**32)
    assert home.count() == Usage(100 + 20 + 100 + len("a") + 2**32, 7)


def test_counting_any_depth(home, alice, mark_dead):
    """Nobody's directories may keep an account from being recounted."""
    make_deep(alice, 1200)
    write(alice / "d" / "file", b"x" * 33)
    assert home.count() == Usage(33, 1200 + 12 + 1)


def test_counting_what_is_closed(home, alice, plain_user):
    write(alice / "closed" / "file", b"x" * 33)
    write(alice / "open" / "file", b"x" * 4)
    (alice / "closed").chmod(0)
    try:
        assert home.count() == Usage(37, 4)
        assert stat.S_IMODE((alice / "closed").stat().st_mode) == 0
    finally:
        (alice / "closed").chmod(0o700)


def test_counting_while_a_name_in_staging_goes(home, alice, monkeypatch):
    write(alice / "file")
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda place: [*real(place), "gone-just-now"])
    assert home.count() == Usage(7, 1)


def test_cleaning_staging(home, alice):
    for name in ("dead-1", "live-1", "dead-2"):
        write(alice / STAGING / name)
    write(alice / STAGING / "dead-tree" / "a" / "file")
    (alice / STAGING / "dead-link").symlink_to("../a")
    write(alice / "a")
    home.clean_staging(lambda name: name.startswith(b"live"))
    assert staged(home) == {"live-1"}
    assert (alice / "a").exists() and (alice / STAGING / "lock").exists()


@pytest.mark.parametrize("name", [".ftpd-staging", "lock"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_home_that_is_new_on_a_full_disk_can_be_looked_at(root, monkeypatch, name, number):
    (root / "alice").mkdir()
    (root / "alice" / "book").write_bytes(b"text")
    mkdir, opened = os.mkdir, os.open

    def full_mkdir(path, *arguments, **options):
        if name == os.fsdecode(path):
            raise OSError(number, os.strerror(number))
        mkdir(path, *arguments, **options)

    def full_open(path, flags, *arguments, **options):
        if path == os.fsencode(name) and flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", full_mkdir)
    monkeypatch.setattr(os, "open", full_open)
    home = Home(root / "alice")
    try:
        assert home.entry(b"/book", follow=False, digest=False).size == 4
        with pytest.raises(DiskFull), home.shared():
            pass
        with pytest.raises(DiskFull):
            home.remove(b"/book", recursive=False, tick=lambda: None)
    finally:
        home.close()
