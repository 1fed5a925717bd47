"""Opening below a directory: by the kernel and by the walk, and no way out of either."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire import beneath
from ftpwire.beneath import (
    MOST_OPEN,
    OPEN_ANY,
    OPEN_DIRECTORY,
    Descent,
    Tree,
    Unsupported,
    entry_type,
    exchange,
    open_below,
    regular,
    rename_new,
    sync_file_system,
)
from ftpwire.errors import NotRegular, from_oserror
from tests.few_descriptors import few_descriptors, mark_dead
from tests.pairwise import pairwise
from tests.peer import eventually

linux = pytest.mark.skipif(sys.platform != "linux", reason="what Linux has")
READ = os.O_RDONLY | os.O_NONBLOCK


class Place(NamedTuple):
    """A home, open, and beside it what nobody may reach."""

    home: Path
    outside: Path
    fd: int


def make_place(directory: Path) -> Place:
    home, outside = directory / "home", directory / "outside"
    home.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"SECRET")
    return Place(home, outside, os.open(home, OPEN_DIRECTORY))


@pytest.fixture
def place(tmp_path):
    place = make_place(tmp_path)
    yield place
    os.close(place.fd)
    assert os.listdir(place.outside) == ["secret"]
    assert (place.outside / "secret").read_bytes() == b"SECRET"


FOLLOW = [pytest.param(True, id="following"), pytest.param(False, id="refusing")]
KERNEL = [pytest.param(True, id="kernel"), pytest.param(False, id="walk")]


@pytest.fixture(params=KERNEL)
def kernel(request):
    if request.param and not kernel_can():
        pytest.skip("no openat2 here")
    return request.param


def kernel_can() -> bool:
    fd = os.open("/", OPEN_DIRECTORY)
    try:
        tree = Tree(fd, follow=True)
        os.close(tree.open_dir(()))
        return tree._kernel
    finally:
        os.close(fd)


@pytest.fixture
def following(place, kernel):
    """A tree that resolves links, as the server's do."""
    tree = Tree(place.fd, follow=True, kernel=kernel)
    yield tree
    assert tree._kernel is kernel  # it was the kernel, to the end


@pytest.fixture
def refusing(place, kernel):
    """A tree that refuses links, as the client's do."""
    tree = Tree(place.fd, follow=False, kernel=kernel)
    yield tree
    assert tree._kernel is kernel


def parts_of(path: str) -> tuple[bytes, ...]:
    return tuple(os.fsencode(part) for part in path.split("/") if part)


def read(tree: Tree, path: str) -> bytes:
    fd, info = tree.open_file(parts_of(path))
    with open(fd, "rb") as file:
        assert stat.S_ISREG(info.st_mode)
        return file.read()


def read_or_errno(tree: Tree, path: str) -> bytes | str:
    try:
        return read(tree, path)
    except NotRegular:
        return "NotRegular"
    except OSError as error:
        return errno.errorcode[error.errno]


def furnish(place: Place) -> None:
    """Files, directories, and every kind of link; ``etc/passwd`` inside is where links end."""
    home = place.home
    files = {
        "file": b"inside",
        "dir/inner": b"inner",
        "dir/deep/leaf": b"leaf",
        "etc/passwd": b"decoy",
        "new\nline": b"odd",
        "..dots": b"dots",
    }
    for name, contents in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(contents)
    (home / os.fsdecode(b"caf\xe9")).write_bytes(b"stray")
    (home / ("n" * 255)).write_bytes(b"longest")
    os.mkfifo(home / "fifo")
    links = {
        "to-file": "file",
        "to-dir": "dir",
        "to-dir-slash": "dir/",
        "to-file-slash": "file/",
        "absolute": "/file",
        "absolute-dir": "/dir",
        "many-slashes": "///dir//deep///leaf",
        "to-passwd": "/etc/passwd",
        "climbs-to-passwd": "../../../../../../../../etc/passwd",
        "out": str(place.outside / "secret"),
        "out-dir": str(place.outside),
        "climbs-out": "../outside/secret",
        "climbs-out-dir": "../outside",
        "top": "/",
        "here": ".",
        "above": "..",
        "far-above": "../../..",
        "dir/up": "../file",
        "dir/up-and-down": "../dir/../dir/inner",
        "dir/far-up": "../../../file",
        "dir/deep/up-twice": "../../file",
        "through-link": "to-dir/deep/leaf",
        "self": "self",
        "ping": "pong",
        "pong": "ping",
        "dir/loop": "../dir/loop",
        "grows": "grows/x",
        "dangling": "nowhere",
        "through-file": "file/x",
        "to-fifo": "fifo",
    }
    for name, target in links.items():
        os.symlink(target, home / name)


@pairwise(
    {
        "path, found": [
            pytest.param(path, found, id=name)
            for name, path, found in [
                ("file", "file", b"inside"),
                ("deeper", "dir/deep/leaf", b"leaf"),
                ("newline", "new\nline", b"odd"),
                ("stray-byte", os.fsdecode(b"caf\xe9"), b"stray"),
                ("longest-name", "n" * 255, b"longest"),
                ("dots-in-a-name", "..dots", b"dots"),
                ("absent", "absent", "ENOENT"),
                ("absent-directory", "absent/x", "ENOENT"),
                ("file-as-directory", "file/x", "ENOTDIR"),
                ("directory", "dir", "EISDIR"),
                ("name-too-long", "n" * 256, "ENAMETOOLONG"),
                ("fifo", "fifo", "NotRegular"),
                ("root", "", "EISDIR"),
            ]
        ],
        "follow": FOLLOW,
        "kernel": KERNEL,
    },
    indirect=["kernel"],
)
def test_without_links(place, kernel, follow, path, found):
    furnish(place)
    tree = Tree(place.fd, follow=follow, kernel=kernel)
    assert read_or_errno(tree, path) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        pytest.param(path, found, id=path.replace("/", "-then-"))
        for path, found in [
            ("to-file", b"inside"),
            ("to-dir/inner", b"inner"),
            ("to-dir-slash/inner", b"inner"),
            ("to-file-slash", "ENOTDIR"),
            ("absolute", b"inside"),
            ("absolute-dir/deep/leaf", b"leaf"),
            ("many-slashes", b"leaf"),
            ("to-passwd", b"decoy"),
            ("climbs-to-passwd", b"decoy"),
            ("out", "ENOENT"),
            ("out-dir/secret", "ENOENT"),
            ("climbs-out", "ENOENT"),
            ("climbs-out-dir/secret", "ENOENT"),
            ("top/file", b"inside"),
            ("top/top/top/dir/inner", b"inner"),
            ("here/file", b"inside"),
            ("above/file", b"inside"),
            ("above/outside/secret", "ENOENT"),
            ("far-above/etc/passwd", b"decoy"),
            ("dir/up", b"inside"),
            ("dir/up-and-down", b"inner"),
            ("dir/far-up", b"inside"),
            ("dir/deep/up-twice", b"inside"),
            ("to-dir/deep/up-twice", b"inside"),
            ("through-link", b"leaf"),
            ("self", "ELOOP"),
            ("self/x", "ELOOP"),
            ("ping", "ELOOP"),
            ("dir/loop", "ELOOP"),
            ("grows", "ELOOP"),
            ("dangling", "ENOENT"),
            ("through-file", "ENOTDIR"),
            ("to-file/x", "ENOTDIR"),
            ("to-dir", "EISDIR"),
            ("to-fifo", "NotRegular"),
        ]
    ],
)
def test_links(place, kernel, path, found):
    furnish(place)
    assert read_or_errno(Tree(place.fd, follow=True, kernel=kernel), path) == found
    # and who refuses links refuses them all, at the end of a path or on its way
    assert read_or_errno(Tree(place.fd, follow=False, kernel=kernel), path) == "ELOOP"


@pairwise(
    {
        "path": ["to-file", "out", "self", "dangling", "dir/up", "absolute-dir"],
        "follow": FOLLOW,
        "kernel": KERNEL,
    },
    indirect=["kernel"],
)
def test_a_link_itself_can_be_looked_at(place, kernel, follow, path):
    furnish(place)
    tree = Tree(place.fd, follow=follow, kernel=kernel)
    fd = tree.open(parts_of(path), OPEN_ANY | os.O_NOFOLLOW)
    try:
        assert os.path.samestat(os.fstat(fd), os.lstat(place.home / path))
    finally:
        os.close(fd)
    with pytest.raises(OSError) as caught:
        tree.open(parts_of(path), READ | os.O_NOFOLLOW)
    assert caught.value.errno == errno.ELOOP


@pairwise(
    {
        "parts": [
            pytest.param((b"..",), id="up"),
            pytest.param((b"..", b"outside", b"secret"), id="out"),
            pytest.param((b"..",) * 50 + (b"etc", b"passwd"), id="far-out"),
            pytest.param((b"dir", b"..", b"..", b"outside", b"secret"), id="down-up-up"),
            pytest.param((b"..", b"home", b"file"), id="out-and-in-again"),
            pytest.param((b".", b"..", b"."), id="dots"),
            pytest.param((b"dir", b"..", b"file"), id="down-and-up"),
            pytest.param((b"", b"..", b""), id="empty-parts"),
            pytest.param((b"/etc/passwd",), id="an-absolute-part"),
            pytest.param((b"../outside/secret",), id="a-part-with-slashes"),
        ],
        "follow": FOLLOW,
        "kernel": KERNEL,
    },
    indirect=["kernel"],
)
def test_parts_that_no_parser_lets_through(place, kernel, follow, parts):
    """Even these stay inside: the parser is not the only thing that keeps them there."""
    furnish(place)
    tree = Tree(place.fd, follow=follow, kernel=kernel)
    try:
        fd = tree.open(parts, READ)
    except OSError:
        return
    with open(fd, "rb") if not stat.S_ISDIR(os.fstat(fd).st_mode) else closing(fd) as opened:
        info = os.fstat(fd)
        assert info.st_ino in inodes_of(place.home)
        assert stat.S_ISDIR(info.st_mode) or opened.read() in (b"inside", b"decoy")


@contextmanager
def closing(fd: int):
    try:
        yield fd
    finally:
        os.close(fd)


def inodes_of(directory: Path) -> set[int]:
    found = {os.lstat(directory).st_ino}
    for above, directories, files in os.walk(directory):
        found |= {os.lstat(os.path.join(above, name)).st_ino for name in directories + files}
    return found


@pytest.mark.parametrize(("length", "found"), [(40, b"end"), (41, "ELOOP"), (200, "ELOOP")])
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_chains_of_links(place, following, length, found, absolute):
    (place.home / "0").write_bytes(b"end")
    for number in range(1, length + 1):
        os.symlink(f"{'/' * absolute}{number - 1}", place.home / str(number))
    assert read_or_errno(following, str(length)) == found


def test_links_on_the_way_count_together(place, following):
    """40 for the whole path, not for each component."""
    (place.home / "d").mkdir()
    os.symlink(".", place.home / "d" / "s")
    (place.home / "d" / "f").write_bytes(b"end")
    assert read_or_errno(following, "d/" + "s/" * 40 + "f") == b"end"
    assert read_or_errno(following, "d/" + "s/" * 41 + "f") == "ELOOP"


def test_links_that_multiply(place, following):
    """Each leads twice through the one before: 2**30 steps for who doesn't count."""
    os.symlink("./", place.home / "0")
    for number in range(1, 31):
        os.symlink(f"{number - 1}/{number - 1}", place.home / str(number))
    assert read_or_errno(following, "30") == "ELOOP"


@linux
@pairwise(
    {
        "path": ["cwd", "cwd/secret", "exe", "root/etc", "fd/{fd}", "fd/{fd}/secret", "ns/net"],
        "follow": FOLLOW,
        "kernel": KERNEL,
    },
    indirect=["kernel"],
)
def test_magic_links_lead_nowhere(tmp_path, monkeypatch, kernel, follow, path):
    """Those of /proc jump to what they name, whatever a path may pass; here they never do."""
    (tmp_path / "secret").write_bytes(b"SECRET")
    monkeypatch.chdir(tmp_path)
    fd = os.open("/proc/self", OPEN_DIRECTORY)
    elsewhere = os.open(tmp_path, OPEN_DIRECTORY)
    try:
        parts = parts_of(path.format(fd=elsewhere))
        os.close(os.open(b"/".join(parts), READ, dir_fd=fd))  # as they do for others
        with pytest.raises(OSError) as caught:
            Tree(fd, follow=follow, kernel=kernel).open(parts, READ)
        assert caught.value.errno in (errno.ELOOP, errno.ENOENT)
    finally:
        os.close(elsewhere)
        os.close(fd)


# Opening files -----------------------------------------------------------------------------


@pytest.mark.parametrize("follow", [True, False], ids=["following", "refusing"])
def test_fifos_do_not_block(place, kernel, follow):
    os.mkfifo(place.home / "fifo")
    tree = Tree(place.fd, follow=follow, kernel=kernel)
    with pytest.raises(NotRegular):
        tree.open_file([b"fifo"])


def test_sockets_are_refused(place, following):
    os.mknod(place.home / "socket", stat.S_IFSOCK | 0o600)
    with pytest.raises(OSError) as caught:
        following.open_file([b"socket"])
    assert isinstance(from_oserror(caught.value, ""), NotRegular)


@linux
def test_devices_are_refused(kernel):
    fd = os.open("/dev", OPEN_DIRECTORY)
    try:
        with pytest.raises(NotRegular):
            Tree(fd, follow=False, kernel=kernel).open_file([b"null"])
    finally:
        os.close(fd)


def test_directories_are_refused(place, following):
    (place.home / "d").mkdir()
    with pytest.raises(IsADirectoryError):
        following.open_file([b"d"])


def test_regular(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    with open(tmp_path / "f", "rb") as file:
        assert regular(file.fileno()).st_size == 5


def test_descriptors_are_not_inherited(place, following):
    (place.home / "d").mkdir()
    for fd in (following.open_dir([b"d"]), following.open([], OPEN_ANY)):
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_parent(place, following):
    (place.home / "d").mkdir()
    for parts, directory in [((b"f",), place.home), ((b"d", b"f"), place.home / "d")]:
        fd, name = following.parent(parts)
        assert name == b"f"
        assert os.path.samestat(os.fstat(fd), directory.stat())
        os.close(fd)


def test_the_root_has_no_parent(following):
    with pytest.raises(IndexError):  # and no descriptor is left open
        following.parent(())


@pytest.mark.parametrize("name", [b"\0", b"file\0", b"file\0x"])
def test_a_nul_byte_ends_no_name(place, following, name):
    """C would take the shorter one."""
    furnish(place)
    with pytest.raises(ValueError, match="null"):
        following.open([name], READ)


@pytest.mark.parametrize("follow", [True, False], ids=["following", "refusing"])
def test_creating(place, kernel, follow):
    furnish(place)
    tree = Tree(place.fd, follow=follow, kernel=kernel)
    old = os.umask(0)
    try:
        fd = tree.open([b"dir", b"made"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    finally:
        os.umask(old)
    os.write(fd, b"x")
    os.close(fd)
    assert (place.home / "dir/made").read_bytes() == b"x"
    assert stat.S_IMODE((place.home / "dir/made").stat().st_mode) == 0o640


@pairwise(
    {
        "name": ["file", "dir", "to-file", "dangling", "out", "out-dir", "self"],
        "follow": FOLLOW,
        "kernel": KERNEL,
    },
    indirect=["kernel"],
)
def test_creating_exclusively_follows_no_link(place, kernel, follow, name):
    furnish(place)
    before = sorted(os.listdir(place.home))
    tree = Tree(place.fd, follow=follow, kernel=kernel)
    with pytest.raises(FileExistsError):
        tree.open([name.encode()], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    assert sorted(os.listdir(place.home)) == before


@pytest.mark.parametrize("target", ["{outside}/new", "../outside/new", "/../outside/new"])
def test_creating_through_links_stays_inside(place, kernel, target):
    os.symlink(target.format(outside=place.outside), place.home / "link")
    for follow in (True, False):
        with pytest.raises(OSError):
            Tree(place.fd, follow=follow, kernel=kernel).open(
                [b"link"], os.O_WRONLY | os.O_CREAT, 0o600
            )
    assert os.listdir(place.home) == ["link"]


def test_creating_through_a_link_inside(place, following):
    os.symlink("/new", place.home / "link")
    os.close(following.open([b"link"], os.O_WRONLY | os.O_CREAT, 0o600))
    assert sorted(os.listdir(place.home)) == ["link", "new"]


@linux
@pytest.mark.parametrize(
    "number", [pytest.param(errno.ENOSYS, id="old-kernel"), pytest.param(errno.EPERM, id="filter")]
)
def test_the_walk_takes_over_where_the_call_is_missing(place, monkeypatch, number):
    furnish(place)
    calls = []

    def refuse(*arguments):
        calls.append(arguments)
        beneath.ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(beneath, "_syscall", refuse)
    tree = Tree(place.fd, follow=True)
    assert read(tree, "to-dir/inner") == b"inner"
    assert read_or_errno(tree, "out") == "ENOENT"
    assert len(calls) == 1  # it isn't asked again


@linux
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR], ids=["EAGAIN", "EINTR"])
@pytest.mark.parametrize("times", [1, 10, 10_000], ids=["once", "ten-times", "always"])
def test_a_disturbed_resolution_is_done_again(place, monkeypatch, number, times):
    furnish(place)
    left = itertools.count(times, -1)
    real = beneath._syscall

    def disturbed(*arguments):
        if next(left) > 0:
            beneath.ctypes.set_errno(number)
            return -1
        return real(*arguments)

    monkeypatch.setattr(beneath, "_syscall", disturbed)
    assert read(Tree(place.fd, follow=True), "absolute") == b"inside"


# Both ways agree, on any tree ----------------------------------------------------------------

names = st.sampled_from(["a", "b", "c"])
targets = st.lists(names | st.sampled_from(["..", ".", "", "OUT", "secret"]), max_size=5).map(
    "/".join
)
trees = st.recursive(
    st.just("file") | targets.filter(bool).map(lambda target: ("link", target)),
    lambda inner: st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
).filter(lambda tree: isinstance(tree, dict))


def build(directory: str, tree: dict, outside: Path) -> None:
    for name, node in tree.items():
        path = os.path.join(directory, name)
        if isinstance(node, dict):
            os.mkdir(path)
            build(path, node, outside)
        elif node == "file":
            open(path, "xb").close()
        else:
            os.symlink(node[1].replace("OUT", f"/..{outside}"), path)


def remove(directory: str) -> None:
    for above, directories, files in os.walk(directory, topdown=False):
        for name in files:
            os.unlink(os.path.join(above, name))
        for name in directories:
            path = os.path.join(above, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)


def identity(tree: Tree, parts: tuple[bytes, ...], flags: int) -> tuple[int, int] | str:
    try:
        fd = tree.open(parts, flags)
    except OSError as error:
        return errno.errorcode[error.errno]
    with closing(fd):
        info = os.fstat(fd)
    return info.st_dev, info.st_ino


@pytest.fixture(scope="module")
def lasting_place(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("lasting"))
    yield place
    os.close(place.fd)


@pytest.mark.skipif(not kernel_can(), reason="no openat2 here")
@given(tree=trees, paths=st.lists(st.lists(names, max_size=4), min_size=1, max_size=8))
def test_kernel_and_walk_agree(lasting_place, tree, paths):
    place = lasting_place
    remove(str(place.home))
    build(str(place.home), tree, place.outside)
    inside = inodes_of(place.home)
    for path, follow, flags in itertools.product(
        paths,
        [True, False],
        [READ, OPEN_ANY, OPEN_ANY | os.O_NOFOLLOW, OPEN_DIRECTORY],
    ):
        parts = tuple(map(os.fsencode, path))
        found = identity(Tree(place.fd, follow=follow, kernel=True), parts, flags)
        assert found == identity(Tree(place.fd, follow=follow, kernel=False), parts, flags)
        assert isinstance(found, str) or found[1] in inside


# Races ---------------------------------------------------------------------------------------


class Swapper:
    """Does two moves in turn, as fast as it can, until it is left."""

    def __init__(self, there, back) -> None:
        self._moves = there, back
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            for move in self._moves:
                move()
            self.rounds += 1

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()


def file_swapped_for_a_link(place: Place) -> tuple[Swapper, tuple[bytes, ...]]:
    """A file takes turns with a link to one outside."""
    (place.home / "f").write_bytes(b"inside")
    os.symlink(place.outside / "secret", place.home / "link")

    def swap():
        exchange(place.fd, b"f", place.fd, b"link")

    return Swapper(swap, swap), (b"f",)


def swapped_for_a_link(place: Place) -> tuple[Swapper, tuple[bytes, ...]]:
    """A directory takes turns with a link that leads outside."""
    (place.home / "d").mkdir()
    (place.home / "d" / "secret").write_bytes(b"inside")
    os.symlink(place.outside, place.home / "link")

    def swap():
        exchange(place.fd, b"d", place.fd, b"link")

    return Swapper(swap, swap), (b"d", b"secret")


def moved_outside(place: Place) -> tuple[Swapper, tuple[bytes, ...]]:
    """A directory is moved out of the home and back, while a link in it climbs up from it."""
    (place.home / "d" / "e").mkdir(parents=True)
    (place.home / "secret").write_bytes(b"inside")
    os.symlink("../../secret", place.home / "d" / "e" / "up")
    away = place.outside / "away"
    away.mkdir()
    here, there = os.fspath(place.home / "d" / "e"), os.fspath(away / "e")
    return (
        Swapper(lambda: os.rename(here, there), lambda: os.rename(there, here)),
        (b"d", b"e", b"up"),
    )


def check_then_open(place: Place, parts: tuple[bytes, ...]) -> int:
    """The obvious way, and the wrong one: where does it lead, and then open it."""
    path = os.path.join(os.fsencode(place.home), *parts)
    real = os.path.realpath(path)
    if not real.startswith(os.fsencode(place.home) + b"/"):
        raise PermissionError(errno.EPERM, "it leads out")
    return os.open(path, READ)


def climb_by_descriptor(place: Place, parts: tuple[bytes, ...]) -> int:
    """A walk that believes a directory's own ``..``."""
    fd = os.dup(place.fd)
    try:
        for part in parts[:-1]:
            above, fd = fd, os.open(part, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(above)
        return os.open(os.readlink(parts[-1], dir_fd=fd), READ | os.O_NOFOLLOW, dir_fd=fd)
    finally:
        os.close(fd)


@pytest.fixture
def raced(tmp_path):
    place = make_place(tmp_path)
    yield place
    os.close(place.fd)


def outcomes(opener, rounds: int, until: bytes | None = None) -> set[bytes | str]:
    found: set[bytes | str] = set()
    for _ in range(rounds):
        try:
            fd = opener()
        except OSError as error:
            found.add(errno.errorcode[error.errno])
            continue
        try:
            found.add(os.read(fd, 100))
        finally:
            os.close(fd)
        if until in found:
            break
    return found


ROUNDS = [
    pytest.param(4000, id="short"),
    pytest.param(200_000, id="long", marks=pytest.mark.long),
]
"""How often to open what is moved about meanwhile."""

RACES = [
    pytest.param(file_swapped_for_a_link, check_then_open, id="file-swapped-for-a-link"),
    pytest.param(swapped_for_a_link, check_then_open, id="swapped-for-a-link"),
    pytest.param(moved_outside, climb_by_descriptor, id="moved-outside"),
]


@pytest.mark.parametrize(("start", "wrong"), RACES)
def test_the_race_is_lost_by_who_checks_first(raced, start, wrong):
    """The control of the next test: the same race finds the mistake that it looks for."""
    swapper, parts = start(raced)
    with swapper:
        assert b"SECRET" in outcomes(lambda: wrong(raced, parts), 200_000, until=b"SECRET")


@pytest.mark.parametrize("rounds", ROUNDS)
@pairwise({"start, wrong": RACES, "follow": FOLLOW, "kernel": KERNEL}, indirect=["kernel"])
def test_the_race_is_never_lost(raced, kernel, follow, start, wrong, rounds):
    swapper, parts = start(raced)
    tree = Tree(raced.fd, follow=follow, kernel=kernel)
    to_be_found = {b"inside"} if follow or start is not moved_outside else set()

    def seen_enough() -> bool:
        """How the two take turns depends on the machine: one may see the other's state alone."""
        found.update(outcomes(lambda: tree.open(parts, READ), 100))
        return swapper.rounds >= 100 and to_be_found <= found

    with swapper:
        found = outcomes(lambda: tree.open(parts, READ), rounds)
        eventually(seen_enough, "both sides of the race")
    assert b"SECRET" not in found
    assert found - {b"inside"} <= {"ENOENT", "ELOOP", "ENOTDIR"}


# Renames -------------------------------------------------------------------------------------


@pytest.fixture(params=["renameat2", "fallback"])
def renameat2(request, monkeypatch):
    if request.param == "fallback":
        monkeypatch.setattr(beneath, "_renameat2", None)
    elif beneath._renameat2 is None:
        pytest.skip("no renameat2 here")
    return request.param == "renameat2"


def make(path: Path, kind: str, text: bytes) -> None:
    if kind == "file":
        path.write_bytes(text)
    elif kind == "link":
        os.symlink(text, path)
    else:
        path.mkdir()
        if kind == "full-dir":
            (path / "in").write_bytes(text)


def look(path: Path) -> object:
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        return "link", os.fsencode(os.readlink(path))
    if stat.S_ISDIR(info.st_mode):
        return "dir", {name: look(path / name) for name in os.listdir(path)}
    return "file", path.read_bytes()


KINDS = ["file", "link", "dir", "full-dir"]


@pytest.mark.parametrize("kind", KINDS)
def test_rename_new(place, renameat2, kind):
    make(place.home / "a", kind, b"mine")
    (place.home / "d").mkdir()
    before = look(place.home / "a")
    with closing(os.open(place.home / "d", OPEN_DIRECTORY)) as directory:
        rename_new(place.fd, b"a", directory, b"b\n\xff")
    assert os.listdir(place.home) == ["d"]
    assert os.listdir(os.fsencode(place.home / "d")) == [b"b\n\xff"]
    assert look(place.home / "d" / os.fsdecode(b"b\n\xff")) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", KINDS)
def test_rename_new_never_replaces(place, renameat2, kind, there):
    make(place.home / "a", kind, b"mine")
    make(place.home / "b", there, b"theirs")
    before = look(place.home)
    with pytest.raises(FileExistsError):
        rename_new(place.fd, b"a", place.fd, b"b")
    assert look(place.home) == before


def test_rename_new_of_nothing(place, renameat2):
    with pytest.raises(FileNotFoundError):
        rename_new(place.fd, b"a", place.fd, b"b")


def test_rename_new_into_itself(place, renameat2):
    (place.home / "d").mkdir()
    with closing(os.open(place.home / "d", OPEN_DIRECTORY)) as directory:
        with pytest.raises(OSError) as caught:
            rename_new(place.fd, b"d", directory, b"below")
    assert caught.value.errno == errno.EINVAL
    assert look(place.home) == ("dir", {"d": ("dir", {})})


def test_rename_new_goes_to_exactly_one(place, renameat2):
    """However many want the same name at once, nobody's file is lost."""
    rounds, rivals = 40, 4
    for number in range(rounds):
        for rival in range(rivals):
            (place.home / f"{number}.{rival}").write_bytes(b"%d" % rival)
    start = threading.Barrier(rivals)
    won: list[tuple[int, int]] = []

    def compete(rival: int) -> None:
        for number in range(rounds):
            start.wait()
            try:
                rename_new(place.fd, b"%d.%d" % (number, rival), place.fd, b"%d" % number)
            except FileExistsError:
                continue
            won.append((number, rival))

    threads = [threading.Thread(target=compete, args=(rival,)) for rival in range(rivals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in won) == list(range(rounds))
    assert all((place.home / str(number)).read_bytes() == b"%d" % rival for number, rival in won)
    assert len(os.listdir(place.home)) == rounds * rivals


@linux
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_exchange(place, kind, other):
    make(place.home / "a", kind, b"one")
    make(place.home / "b", other, b"two")
    a, b = look(place.home / "a"), look(place.home / "b")
    exchange(place.fd, b"a", place.fd, b"b")
    assert (look(place.home / "a"), look(place.home / "b")) == (b, a)


@linux
def test_exchange_needs_both(place):
    (place.home / "a").write_bytes(b"one")
    for one, other in [(b"a", b"b"), (b"b", b"a")]:
        with pytest.raises(FileNotFoundError):
            exchange(place.fd, one, place.fd, other)
    assert os.listdir(place.home) == ["a"]


def test_exchange_is_unsupported_where_the_call_is_missing(place, monkeypatch):
    """There is no fallback that swaps at once: the caller has to know."""
    monkeypatch.setattr(beneath, "_renameat2", None)
    make(place.home / "a", "file", b"one")
    make(place.home / "b", "file", b"two")
    before = look(place.home)
    with pytest.raises(Unsupported):
        exchange(place.fd, b"a", place.fd, b"b")
    assert look(place.home) == before


@linux
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP])
def test_file_systems_that_lack_the_flags(place, monkeypatch, number):
    def refuse(*_):
        beneath.ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(beneath, "_renameat2", refuse)
    make(place.home / "a", "file", b"mine")
    make(place.home / "b", "file", b"theirs")
    with pytest.raises(Unsupported):
        exchange(place.fd, b"a", place.fd, b"b")
    with pytest.raises(FileExistsError):
        rename_new(place.fd, b"a", place.fd, b"b")
    rename_new(place.fd, b"a", place.fd, b"c")
    assert look(place.home) == ("dir", {"b": ("file", b"theirs"), "c": ("file", b"mine")})


@pytest.mark.parametrize("names", [(b"a\0", b"b"), (b"a", b"b\0x")], ids=["source", "target"])
def test_a_nul_byte_ends_no_name_of_a_rename(place, renameat2, names):
    make(place.home / "a", "file", b"mine")
    with pytest.raises(ValueError, match="null"):
        rename_new(place.fd, names[0], place.fd, names[1])
    assert os.listdir(place.home) == ["a"]


# The rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [beneath.begin_writing, beneath.wait_until_written])
def test_writing_a_file_back(tmp_path, monkeypatch, call):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, b"data")
        call(fd)
    finally:
        os.close(fd)
    with pytest.raises(OSError):
        call(-1)
    read, write = os.pipe()  # has nothing to be written back
    try:
        call(read)
    finally:
        os.close(read)
        os.close(write)
    monkeypatch.setattr(beneath, "_sync_file_range", None)
    call(-1)


def test_sync_file_system(place, monkeypatch):
    if beneath._syncfs is not None:
        sync_file_system(place.fd)
        with pytest.raises(OSError) as caught:
            sync_file_system(-1)
        assert caught.value.errno == errno.EBADF
    monkeypatch.setattr(beneath, "_syncfs", None)
    with pytest.raises(Unsupported):
        sync_file_system(place.fd)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (stat.S_IFREG | 0o4755, "file"),
        (stat.S_IFDIR | 0o755, "dir"),
        (stat.S_IFLNK | 0o777, "link"),
        (stat.S_IFIFO, "other"),
        (stat.S_IFSOCK, "other"),
        (stat.S_IFCHR, "other"),
        (stat.S_IFBLK, "other"),
    ],
    ids=["file", "dir", "link", "fifo", "socket", "char", "block"],
)
def test_entry_type(mode, name):
    assert entry_type(mode) == name


@pytest.mark.parametrize("follow", [True, False], ids=["following", "refusing"])
def test_no_descriptor_is_left_by_failures(place, kernel, follow):
    """More of them than there may be descriptors open."""
    furnish(place)
    tree = Tree(place.fd, follow=follow, kernel=kernel)
    before = os.dup(place.fd)
    os.close(before)
    for path in ["dir/deep/absent", "dir/deep/leaf/x", "fifo", "self", "out", "dir", "dir/loop"]:
        for _ in range(100):
            assert isinstance(read_or_errno(tree, path), str)
    after = os.dup(place.fd)
    os.close(after)
    assert after == before


# telling where links lead ------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=linux, id="openat2"), False])
@pytest.mark.parametrize(
    ("requested", "found"),
    [
        pytest.param("plain/dir/file", None, id="no-link"),
        pytest.param("", None, id="top"),
        pytest.param("to-dir/file", "plain/dir/file", id="on-the-way"),
        pytest.param("to-file", "plain/dir/file", id="at-the-end"),
        pytest.param("plain/up/plain/dir", "plain/dir", id="and-back"),
        pytest.param("absolute/file", "plain/dir/file", id="absolute"),
        pytest.param("chain/file", "plain/dir/file", id="chain"),
        pytest.param("to-top", "", id="to-the-top"),
        pytest.param("above/plain", "plain", id="above-the-top"),
    ],
)
def test_what_links_lead_to_is_reported(place, kernel, requested, found):
    (place.home / "plain" / "dir").mkdir(parents=True)
    (place.home / "plain" / "dir" / "file").write_bytes(b"")
    for name, target in {
        "to-dir": "plain/dir",
        "to-file": "to-dir/../dir/file",
        "plain/up": "..",
        "absolute": "/plain/./dir",
        "chain": "to-dir/",
        "to-top": "/",
        "above": "../../..",
    }.items():
        (place.home / name).symlink_to(target)
    reported = []
    tree = Tree(place.fd, follow=True, kernel=kernel)
    tree.on_link = lambda requested, found: reported.append((list(requested), list(found)))
    parts = [part.encode() for part in requested.split("/") if part]

    os.close(tree.open(parts, READ))

    expected = None if found is None else [part.encode() for part in found.split("/") if part]
    assert reported == ([] if expected is None else [(parts, expected)])


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=linux, id="openat2"), False])
def test_a_link_can_be_refused(place, kernel):
    (place.home / "dir").mkdir()
    (place.home / "link").symlink_to("dir")
    tree = Tree(place.fd, follow=True, kernel=kernel)

    def refuse(requested, found):
        raise NotRegular("not there")

    tree.on_link = refuse
    with pytest.raises(NotRegular):
        tree.open_dir([b"link"])
    with pytest.raises(NotRegular):
        tree.open_dir([b"link", b"missing"])
    with pytest.raises(FileNotFoundError):
        tree.open_dir([b"dir", b"missing"])
    os.close(tree.open([b"link"], OPEN_ANY | os.O_NOFOLLOW))
    os.close(tree.open_dir([b"dir"]))


# deep ways with few descriptors ----------------------------------------------------------------


@pytest.fixture
def deep(place):
    mark_dead(place.home, 120)
    return place


def test_a_long_way_through_links_holds_few_descriptors(deep):
    """Step by step, down and up again, as where the kernel doesn't do it."""
    down = b"/".join([b"d"] * 120)
    up = b"/".join([b".."] * 70)
    os.symlink(down + b"/" + up + b"/other", os.fsencode(deep.home) + b"/link")
    tree = Tree(deep.fd, follow=True, kernel=False)
    with few_descriptors(MOST_OPEN + 4):
        fd = tree.open_dir([b"link"])
    try:
        assert os.path.samestat(os.fstat(fd), os.stat(deep.home.joinpath(*["d"] * 50, "other")))
    finally:
        os.close(fd)


def go_down(way: Descent, depth: int) -> None:
    for _ in range(depth):
        way.go_down(os.open(b"d", OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=way.fd))


def never() -> int:
    raise AssertionError("it is found by ..")


def test_the_way_up_is_that_of_the_directories(deep):
    """Also where they were moved: they are found by ``..`` as long as they are in each other."""
    way = Descent(deep.fd)
    with few_descriptors(MOST_OPEN + 2):
        go_down(way, 120)
        (deep.home / "d").rename(deep.home / "moved")
        for depth in range(119, -1, -1):
            way.go_up(never)
            assert len(way) == depth
    assert way.fd == deep.fd
    way.close()


def test_a_directory_that_took_the_place_is_not_gone_into(deep):
    """By whatever way it is opened again."""
    way = Descent(deep.fd)
    go_down(way, 100)
    deep.home.joinpath(*["d"] * 60).rename(deep.home / "low")
    names = [b"d"] * 59
    (deep.home / "d").rename(deep.home / "high")
    mark_dead(deep.home, 70)
    for _ in range(40):
        way.go_up(lambda: open_below(deep.fd, names))
    with pytest.raises(OSError) as caught:
        way.go_up(lambda: open_below(deep.fd, names))
    assert (caught.value.errno, way.fd, len(way)) == (errno.ESTALE, -1, 59)
    (deep.home / "d").rename(deep.home / "other")
    (deep.home / "d").symlink_to(deep.outside)
    with pytest.raises(OSError):  # no link is followed
        way.go_up(lambda: open_below(deep.fd, names[:58]))
    (deep.home / "d").unlink()
    (deep.home / "high").rename(deep.home / "d")
    way.go_up(lambda: open_below(deep.fd, names[:57]))  # the control: it is back
    assert os.path.samestat(os.fstat(way.fd), os.stat(deep.home.joinpath(*["d"] * 57)))
    way.close()


def test_a_descent_that_is_closed_leaves_the_first_open(deep):
    way = Descent(deep.fd)
    go_down(way, 30)
    way.close()
    way.close()
    assert (way.fd, len(way)) == (deep.fd, 0)
    os.fstat(deep.fd)
