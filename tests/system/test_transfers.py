"""Moving real files with `put` and `get`: what arrives is what was sent, under the right name."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from tests import sparse
from tests.system import trees
from tests.system.programs import PATIENCE, eventually, finish
from tests.system.proxy import Proxy

KIB, MIB, GIB = 2**10, 2**20, 2**30
TIME = 1_700_000_000_123_456_789


def write(path, data=b"", *, mode=0o644, mtime_ns=TIME):
    """Make a file, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, ns=(TIME, mtime_ns))
    return path


def settle(root):
    """Give every directory of a tree a time of its own, as the last thing that happens to it."""
    for number, (directory, _, _) in enumerate(os.walk(os.fsencode(root), topdown=False)):
        os.utime(directory, ns=(TIME, TIME - number * 1_000_000_007))
    return root


def there_and_back(user, tree, place):
    """Put a tree and get it back: both copies must be the same as the original."""
    user.run("put", "-r", tree, "/tree")
    trees.same(tree, user.on_server / "tree")
    user.run("get", "-r", "/tree", place / "back")
    trees.same(tree, place / "back")


# trees -------------------------------------------------------------------------------------


@pytest.fixture
def library(roomy):
    """Python's own standard library, copied, without what is large in it."""
    ignored = shutil.ignore_patterns(
        *("site-packages", "dist-packages", "__pycache__", "config-*", "test", "tests"),
        *("idlelib", "lib2to3", "ensurepip", "tkinter", "lib-dynload", "pydoc_data"),
    )
    source = sysconfig.get_path("stdlib")
    return Path(shutil.copytree(source, roomy / "lib", symlinks=True, ignore=ignored))


def test_the_standard_library_put_by_two_users_at_once_and_got_back(start_server, library, roomy):
    server = start_server()
    users = [server.first_user(), server.add_user("bob")]

    for running in [user.start("put", "-r", library, "/lib") for user in users]:
        finish(running)
    for user in users:
        trees.same(library, user.on_server / "lib")
    gets = [user.start("get", "-r", "/lib", roomy / user.name) for user in users]
    for running in gets:
        finish(running)

    for user in users:
        trees.same(library, roomy / user.name)
        trees.remove(roomy / user.name)
        user.run("rm", "-r", "/lib")
        assert user.run("--json", "df").record["used"] == 0


ODD = [
    b" ",
    b"one\ntwo\n",
    b"\x1b[31mred\x1b[0m\x1b]0;title\x07",
    b"latin-1: \xe9\xff\x80",
    b"x" * 255,
    b"--help",
    b"*[a-z]?",
    b"'\"$(id)`;|&",
]


def test_odd_names_travel(user, tmp_path):
    """As files, directories and links; and as words of a command line."""
    tree = tmp_path / "tree"
    for number, name in enumerate(ODD):
        write(tree / os.fsdecode(name) / os.fsdecode(name), b"inside")
        os.symlink(name, os.fsencode(tree / f"link{number}"))
        os.utime(tree / f"link{number}", ns=(TIME, TIME), follow_symlinks=False)
    there_and_back(user, settle(tree), tmp_path)
    for name in (b"one\ntwo\n", b"latin-1: \xe9\xff\x80"):
        assert user.run("cat", b"/tree/" + name + b"/" + name).out == b"inside"
        assert user.run("ls", "-a0", b"/tree/" + name).out == name + b"\0"


@pytest.fixture
def varied(tmp_path, served_as):
    """A tree with one of everything that travels."""
    tree = tmp_path / "varied"
    for mode in (0o400, 0o444, 0o600, 0o644, 0o700, 0o755, 0o777, 0o000):
        # whoever cannot read it cannot send it, neither here nor back from there
        if mode or (os.geteuid() == 0 and not served_as.bows):
            write(tree / "modes" / f"{mode:o}", f"{mode:o}".encode(), mode=mode)
    for size in (0, 1, 4095, 4096, 4097, 256 * KIB, 256 * KIB + 1, MIB, 5 * MIB + 3):
        write(tree / "sizes" / str(size), os.urandom(size))
    for number, mtime_ns in enumerate([0, 1, 999_999_999, 10**18 + 1, -1, -(10**18)]):
        write(tree / "times" / str(number), b"then", mtime_ns=mtime_ns)
    for name in ("empty", "empty/nested/deep", "closed", "private"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    write(tree / "closed" / "file", b"in a directory that cannot be written")
    with open(tree / "sparse", "wb") as file:
        for position in (0, 3 * MIB, 9 * MIB + 5):
            file.seek(position)
            file.write(b"island")
        file.truncate(12 * MIB)
    for name, target in {
        "to-file": "modes/644",
        "to-directory": "empty",
        "dangling": "no/such/file",
        "absolute": "/etc/passwd",
        "outside": "../../../../canary/secret",
        "itself": "itself",
        "up": "..",
        "long": "x/" * 2000,
    }.items():
        (tree / "links").mkdir(exist_ok=True)
        os.symlink(target, tree / "links" / name)
        os.utime(tree / "links" / name, ns=(TIME, TIME + 1), follow_symlinks=False)
    settle(tree)
    (tree / "closed").chmod(0o555)
    (tree / "private").chmod(0o700)
    yield tree
    (tree / "closed").chmod(0o755)


def test_everything_travels_both_ways(user, varied, tmp_path):
    there_and_back(user, varied, tmp_path)
    for tree in (user.on_server / "tree", tmp_path / "back"):
        assert sparse.taken(tree / "sparse") <= sparse.taken(varied / "sparse") + 64 * KIB
    # again, over itself: nothing changes
    user.run("put", "-r", f"{varied}/.", "/tree")
    trees.same(varied, user.on_server / "tree")
    user.run("get", "-r", "/tree/.", tmp_path / "back")
    trees.same(varied, tmp_path / "back")
    user.run("rm", "-r", "/tree")
    assert user.run("--json", "df").record["used"] == 0


def test_everything_travels_whatever_the_umask(user, varied, tmp_path):
    put = user.start("put", "-r", varied, "/tree", preexec_fn=lambda: os.umask(0o077))
    finish(put)
    get = user.start("get", "-r", "/tree", tmp_path / "back", preexec_fn=lambda: os.umask(0o777))
    finish(get)

    trees.same(varied, tmp_path / "back")


# sizes -------------------------------------------------------------------------------------


def large_file(path, size):
    """Random at its ends and here and there, the rest zeros: quick to make, no two alike."""
    with open(sparse.make_solid(path, size), "r+b") as file:
        for position in {0, size // 3, size // 2 + 1, size - 64 * KIB}:
            file.seek(position)
            file.write(os.urandom(64 * KIB))
    os.utime(path, ns=(TIME, TIME))
    return path


def put_and_get_by_two(server, users, roomy, size):
    sources = {user.name: large_file(roomy / f"{user.name}-source", size) for user in users}
    puts = [user.start("put", sources[user.name], "/large") for user in users]
    for running in puts:
        finish(running)
    gets = [user.start("get", "/large", roomy / f"{user.name}-back") for user in users]
    for running in gets:
        finish(running)
    for user in users:
        trees.same(sources[user.name], user.on_server / "large")
        trees.same(sources[user.name], roomy / f"{user.name}-back")
        user.run("rm", "/large")


LONG = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("size", "plaintext"),
    [
        pytest.param(64 * MIB, False, id="64-MiB-tls"),
        pytest.param(GIB, True, id="1-GiB-plain", marks=LONG),
        pytest.param(4 * GIB + 5, False, id="above-4-GiB-tls", marks=LONG),
        pytest.param(4 * GIB + 5, True, id="above-4-GiB-plain", marks=LONG),
    ],
)
def test_a_large_file_put_by_two_users_at_once_and_got_back(start_server, roomy, size, plaintext):
    server = start_server(plaintext=plaintext)

    put_and_get_by_two(server, [server.first_user(), server.add_user("bob")], roomy, size)


# pipes -------------------------------------------------------------------------------------


def test_a_pipe_is_whole_or_nothing(user):
    """The name appears only when all has come."""
    running = user.start("put", "-", "/piped")
    running.stdin.write(b"x" * 2 * MIB)
    eventually(lambda: os.listdir(user.on_server / ".ftpd-staging") != ["lock"], "staging")
    assert not (user.on_server / "piped").exists()

    finish(running, given=b"y")

    assert (user.on_server / "piped").read_bytes() == b"x" * 2 * MIB + b"y"


def test_a_reader_that_leaves_early(user):
    user.run("put", "-", "large", given=b"x" * 8 * MIB)
    running = user.start("cat", "large")
    assert running.stdout.read(5) == b"xxxxx"
    running.stdout.close()

    status = running.wait(PATIENCE)

    assert status in (1, 141)
    assert running.stderr.read() == b""


# JSON --------------------------------------------------------------------------------------


def test_each_file_is_reported_when_it_is_acknowledged(user, tmp_path):
    """The first one, while the second is still on its way."""
    write(tmp_path / "first", os.urandom(5 * MIB))
    write(tmp_path / "second", os.urandom(9 * MIB))
    with Proxy(user.server) as proxy:
        proxy.hold("up", 10 * MIB)
        running = user.at(proxy.address).start("--json", "put", tmp_path / "first",
                                            tmp_path / "second", "/made/")  # fmt: skip
        record = json.loads(running.stdout.readline())
        assert record["destination"] == "/made/first" and record["status"] == "done"
        assert (user.on_server / "made" / "first").stat().st_size == 5 * MIB
        assert running.poll() is None
        proxy.release()
        second, summary = finish(running).records
    assert second["destination"] == "/made/second" and summary["done"] == 2
