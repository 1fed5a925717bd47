"""Moving real files with `put` and `get`: what arrives is what was sent, under the right name."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import sysconfig
from pathlib import Path

import pytest
from blake3 import blake3

from tests.system import trees
from tests.system.programs import behind, eventually, finish
from tests.system.proxy import Proxy

KIB, MIB, GIB = 2**10, 2**20, 2**30
TIME = 1_700_000_000_123_456_789
SUMMARY = {"summary", "done", "skipped", "failed", "size", "seconds"}


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


def send(user, tree):
    """Put the contents of a local tree into the home, for tests of something else."""
    user.run("put", "-r", f"{tree}/.", "/")


def there_and_back(user, tree, place):
    """Put a tree and get it back: both copies must be the same as the original."""
    user.run("put", "-r", tree, "/tree")
    trees.same(tree, user.on_server / "tree")
    user.run("get", "-r", "/tree", place / "back")
    trees.same(tree, place / "back")


# trees -------------------------------------------------------------------------------------


@pytest.fixture
def library(roomy):
    """Python's own standard library, copied."""
    ignored = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__")
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


NAMES = [
    pytest.param(b"two words", id="space"),
    pytest.param(b" ", id="only-a-space"),
    pytest.param(b"one\ntwo\n", id="newline"),
    pytest.param(b"\ttab\r\x7f\x01", id="control"),
    pytest.param(b"\x1b[31mred\x1b[0m\x1b]0;title\x07", id="terminal-escapes"),
    pytest.param(b"latin-1: \xe9\xff\x80", id="not-utf-8"),
    pytest.param(b"x" * 255, id="255-bytes"),
    pytest.param("ü".encode() * 127, id="254-bytes-of-utf-8"),
    pytest.param(b"-rf", id="leading-dash"),
    pytest.param(b"--help", id="an-option"),
    pytest.param("😀 ﷽ é é".encode(), id="unicode"),
    pytest.param("\u202egpj.exe\u200b".encode(), id="unicode-tricks"),
    pytest.param(b"back\\slash\\n", id="backslash"),
    pytest.param(b"*[a-z]?", id="pattern"),
    pytest.param(b"~root", id="tilde"),
    pytest.param(b":colon", id="colon"),
    pytest.param(b"...", id="three-dots"),
    pytest.param(b"'\"$(id)`;|&", id="shell"),
    pytest.param(b".ftp-0123456789abcdef.part", id="like-a-partial-file"),
    pytest.param(b"lock", id="like-the-lock"),
]


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_name_travels(user, tmp_path, name):
    """As a file, a directory and a link, all in one tree; and by itself."""
    tree = tmp_path / "tree"
    odd = tree / os.fsdecode(name)
    write(odd / os.fsdecode(name), b"inside")
    os.symlink(name, os.fsencode(tree / "link"))
    os.utime(tree / "link", ns=(TIME, TIME), follow_symlinks=False)
    there_and_back(user, settle(tree), tmp_path)

    path = b"/tree/" + name + b"/" + name
    assert user.run("cat", path).out == b"inside"
    assert user.run("ls", "-a0", b"/tree/" + name).out == name + b"\0"
    (shown,) = user.run("ls", "-a", b"/tree/" + name).lines
    assert shown.isprintable()
    user.run("mv", path, b"/tree/moved")
    user.run("put", "--", tree / os.fsdecode(name) / os.fsdecode(name), path)
    user.run("rm", "-r", b"/tree/" + name)
    assert trees.names(user.on_server / "tree") == {b"link", b"moved"}


def test_a_name_that_is_all_bytes(user, tmp_path):
    tree = tmp_path / "tree"
    for byte in set(range(1, 256)) - {ord("/"), ord(".")}:
        write(tree / os.fsdecode(bytes([byte])), bytes([byte]))

    there_and_back(user, settle(tree), tmp_path)


@pytest.fixture
def varied(tmp_path, served_as):
    """A tree with one of everything that travels."""
    tree = tmp_path / "varied"
    for mode in (0o400, 0o444, 0o600, 0o644, 0o700, 0o755, 0o777, 0o000):
        # whoever can't read it can't send it, neither here nor back from there
        if mode or (os.geteuid() == 0 and not served_as.bows):
            write(tree / "modes" / f"{mode:o}", f"{mode:o}".encode(), mode=mode)
    for size in (0, 1, 4095, 4096, 4097, 256 * KIB, 256 * KIB + 1, MIB, 5 * MIB + 3):
        write(tree / "sizes" / str(size), os.urandom(size))
    for number, mtime_ns in enumerate([0, 1, 999_999_999, 10**18 + 1, -1, -(10**18)]):
        write(tree / "times" / str(number), b"then", mtime_ns=mtime_ns)
    for name in ("empty", "empty/nested/deep", "closed", "private"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    write(tree / "closed" / "file", b"in a directory that can't be written")
    with open(tree / "sparse", "wb") as sparse:
        for position in (0, 3 * MIB, 9 * MIB + 5):
            sparse.seek(position)
            sparse.write(b"island")
        sparse.truncate(12 * MIB)
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


def test_everything_travels_both_ways(any_user, varied, tmp_path):
    there_and_back(any_user, varied, tmp_path)
    # again, over itself: nothing changes
    any_user.run("put", "-r", f"{varied}/.", "/tree")
    trees.same(varied, any_user.on_server / "tree")
    any_user.run("get", "-r", "/tree/.", tmp_path / "back")
    trees.same(varied, tmp_path / "back")
    any_user.run("rm", "-r", "/tree")
    assert any_user.run("--json", "df").record["used"] == 0


def test_everything_travels_whatever_the_umask(user, varied, tmp_path):
    put = user.start("put", "-r", varied, "/tree", preexec_fn=lambda: os.umask(0o077))
    finish(put)
    get = user.start("get", "-r", "/tree", tmp_path / "back", preexec_fn=lambda: os.umask(0o777))
    finish(get)

    trees.same(varied, tmp_path / "back")


def test_setuid_and_its_like_do_not_travel(user, tmp_path):
    source = write(tmp_path / "tool", b"#!", mode=0o6755)
    user.run("put", source)
    (user.on_server / "tool").chmod(0o4755)

    user.run("get", "--no-resume", "tool", tmp_path / "back")

    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o755


def test_links_are_followed_when_asked(user, tmp_path):
    outside = write(tmp_path / "outside" / "file", b"outside")
    tree = tmp_path / "tree"
    write(tree / "file", b"inside")
    os.symlink(outside, tree / "to-file")
    os.symlink(outside.parent, tree / "to-directory")
    os.symlink("nowhere", tree / "dangling")

    told = user.run("put", "-r", "--copy-links", tree, "/tree", status=1)

    assert "dangling" in told.complaint
    assert (user.on_server / "tree" / "to-file").read_bytes() == b"outside"
    assert not (user.on_server / "tree" / "to-file").is_symlink()
    assert (user.on_server / "tree" / "to-directory" / "file").read_bytes() == b"outside"
    assert trees.names(user.on_server / "tree") == {
        b"file",
        b"to-file",
        b"to-directory",
        b"to-directory/file",
    }


def test_links_on_the_server_are_followed_inside_the_home_only(user, tmp_path):
    write(tmp_path / "seed" / "d" / "file", b"inside")
    send(user, tmp_path / "seed")
    links = {
        "relative": "d/file",
        "absolute": "/d/file",
        "beyond-the-top": "../../../d/file",
        "outside": str(tmp_path / "secret"),
    }
    write(tmp_path / "secret", b"not yours")
    (behind(user.on_server) / "links").mkdir()
    for name, target in links.items():
        os.symlink(target if name != "relative" else "../d/file", user.on_server / "links" / name)

    for name in ("relative", "absolute", "beyond-the-top"):
        assert user.run("cat", f"links/{name}").out == b"inside"
    user.run("cat", "links/outside", status=5)
    user.run("put", "-", "links/outside/new", status=None, given=b"x")
    told = user.run("get", "-rL", "links", tmp_path / "got", status=None)

    assert told.status != 0 and "outside" in told.err
    assert trees.names(tmp_path / "got") == {b"relative", b"absolute", b"beyond-the-top"}
    assert (tmp_path / "secret").read_bytes() == b"not yours"


def test_a_download_follows_no_link_below_its_destination(user, tmp_path):
    write(tmp_path / "seed" / "tree" / "sub" / "file", b"new")
    write(tmp_path / "seed" / "tree" / "plain", b"new")
    send(user, tmp_path / "seed")
    outside = write(tmp_path / "outside" / "file", b"old").parent
    target = tmp_path / "target"
    target.mkdir()
    os.symlink(outside, target / "sub")
    os.symlink(outside / "file", target / "plain")

    told = user.run("get", "-r", "tree/.", target, status=1)

    assert "sub" in told.err
    assert (outside / "file").read_bytes() == b"old"
    assert trees.names(outside) == {b"file"}
    assert (target / "plain").read_bytes() == b"new"  # the link itself was replaced
    assert not (target / "plain").is_symlink()


def test_fifos_and_sockets_are_skipped_and_reported(user, tmp_path):
    tree = tmp_path / "tree"
    write(tree / "file", b"x")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tree / "socket"))

        told = user.run("put", "-r", tree, "/tree")

    assert "fifo" in told.err and "socket" in told.err and "skipped" in told.err
    assert trees.names(user.on_server / "tree") == {b"file"}
    records = user.run("--json", "put", "-r", tree, "/again").records
    assert {Path(r["source"]).name: r["status"] for r in records[:-1]} == {
        "file": "done",
        "fifo": "skipped",
        "socket": "skipped",
    }
    assert {r["error"] for r in records[:-1] if r["status"] == "skipped"} == {"not-regular"}


def test_fifos_on_the_server_are_skipped_and_reported(user, tmp_path):
    write(user.on_server / "tree" / "file")
    os.mkfifo(behind(user.on_server) / "tree" / "fifo")

    told = user.run("get", "-r", "tree", tmp_path / "got")

    assert "fifo" in told.err and "skipped" in told.err
    assert trees.names(tmp_path / "got") == {b"file"}
    assert "regular" in user.run("cat", "tree/fifo", status=1).complaint


@pytest.mark.parametrize("verb", ["put", "get"])
def test_devices_are_not_read(user, tmp_path, verb):
    if verb == "put":
        told = user.run("put", "/dev/zero", "zero", status=None)
    else:
        os.symlink("/dev/zero", behind(user.on_server) / "zero")
        told = user.run("get", "-L", "zero", tmp_path / "zero", status=5)

    assert told.err
    assert not (user.on_server / "zero").is_file() and not (tmp_path / "zero").exists()


# sizes -------------------------------------------------------------------------------------


def large_file(path, size):
    """Random at its ends and here and there, and the rest a hole: quick to make, no two alike."""
    with open(path, "wb") as file:
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


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plain"])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(64 * MIB, id="64-MiB"),
        pytest.param(GIB, id="1-GiB", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
        pytest.param(
            4 * GIB + 5, id="above-4-GiB", marks=[pytest.mark.long, pytest.mark.timeout(1200)]
        ),
    ],
)
def test_a_large_file_put_by_two_users_at_once_and_got_back(start_server, roomy, size, plaintext):
    server = start_server(plaintext=plaintext)

    put_and_get_by_two(server, [server.first_user(), server.add_user("bob")], roomy, size)


# where things go ---------------------------------------------------------------------------


def build(root, listed):
    """Make what a table lists: directories end with a slash, files hold their own path."""
    for name in listed:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"old")


SOURCES = ["a", "b", "d/x", "d/sub/y"]

PLACES = [
    # what is there, the arguments, what is there afterwards (new or replaced), the status
    pytest.param([], ["a", "T/new"], ["new=a"], 0, id="file-to-a-new-name"),
    pytest.param(["dir/"], ["a", "T/dir"], ["dir/a=a"], 0, id="file-into-a-directory"),
    pytest.param(["dir/"], ["a", "T/dir/"], ["dir/a=a"], 0, id="file-into-a-directory-slash"),
    pytest.param([], ["a", "T/made/"], ["made/a=a"], 0, id="file-into-a-directory-to-make"),
    pytest.param(["old"], ["a", "T/old"], ["old=a"], 0, id="file-over-a-file"),
    pytest.param(["old"], ["a", "T/old/"], [], 1, id="file-is-no-directory"),
    pytest.param(["dir/a/"], ["a", "T/dir"], [], 1, id="directory-in-the-way"),
    pytest.param([], ["a", "T/no/such/name"], [], 5, id="file-below-nothing"),
    pytest.param(["dir/"], ["a", "b", "T/dir"], ["dir/a=a", "dir/b=b"], 0, id="two-files"),
    pytest.param([], ["a", "b", "T/made/"], ["made/a=a", "made/b=b"], 0, id="two-files-made"),
    pytest.param([], ["a", "b", "T/none"], [], 1, id="two-files-to-one-name"),
    pytest.param(["old"], ["a", "b", "T/old"], [], 1, id="two-files-over-one"),
    pytest.param(["dir/"], ["a", "none", "b", "T/dir"], ["dir/a=a", "dir/b=b"], 1, id="one-fails"),
    pytest.param([], ["none", "T/new"], [], 5, id="no-such-source"),
    pytest.param([], ["d", "T/new"], [], 1, id="directory-without-r"),
    pytest.param(
        [], ["-r", "d", "T/new"], ["new/x=d/x", "new/sub/y=d/sub/y"], 0, id="tree-to-a-new-name"
    ),
    pytest.param(
        ["dir/"],
        ["-r", "d", "T/dir"],
        ["dir/d/x=d/x", "dir/d/sub/y=d/sub/y"],
        0,
        id="tree-into-a-directory",
    ),
    pytest.param(
        [], ["-r", "d", "T/made/"], ["made/d/x=d/x", "made/d/sub/y=d/sub/y"], 0, id="tree-into-made"
    ),
    pytest.param(
        ["dir/d/x", "dir/d/z"],
        ["-r", "d", "T/dir"],
        ["dir/d/x=d/x", "dir/d/sub/y=d/sub/y"],
        0,
        id="tree-merged",
    ),
    pytest.param(
        ["dir/"],
        ["-r", "d/.", "T/dir"],
        ["dir/x=d/x", "dir/sub/y=d/sub/y"],
        0,
        id="contents-of-a-tree",
    ),
    pytest.param(
        ["dir/"],
        ["-r", "d/", "T/dir"],
        ["dir/d/x=d/x", "dir/d/sub/y=d/sub/y"],
        0,
        id="source-with-a-slash",
    ),
    pytest.param(["old"], ["-r", "d", "T/old"], [], 1, id="tree-over-a-file"),
    pytest.param(
        ["dir/d/sub"], ["-r", "d", "T/dir"], ["dir/d/x=d/x"], 1, id="file-in-the-way-of-a-directory"
    ),
    pytest.param(
        ["dir/"], ["-r", "a", "d", "T/dir"], ["dir/a=a", "dir/d/x=d/x", "dir/d/sub/y=d/sub/y"], 0,
        id="file-and-tree",
    ),
]  # fmt: skip


@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize(("there", "arguments", "arrived", "status"), PLACES)
def test_where_things_go(user, tmp_path, verb, there, arguments, arrived, status):
    local, seed = tmp_path / "local", tmp_path / "seed"
    local.mkdir()
    sources, targets = (local, seed) if verb == "put" else (seed, local)
    for name in SOURCES:
        write(sources / name, name.encode())
    (targets / "T").mkdir(parents=True)
    build(targets / "T", there)
    send(user, seed)
    target = (user.on_server if verb == "put" else local) / "T"
    before = {name: (target / os.fsdecode(name)) for name in trees.names(target)}
    expected = {
        name: path.read_bytes() if path.is_file() else None for name, path in before.items()
    }

    user.run(verb, *arguments, status=status, cwd=local)

    for pair in arrived:
        name, source = pair.split("=")
        expected[name.encode()] = source.encode()
        for parent in Path(name).parents:
            if parent != Path():
                expected[bytes(parent)] = None
    found = {
        name: (target / os.fsdecode(name)).read_bytes()
        if (target / os.fsdecode(name)).is_file()
        else None
        for name in trees.names(target)
    }
    if status == 0:
        assert found == expected
    else:  # a directory may have been made on the way; no file may
        assert {k: v for k, v in found.items() if v is not None} == {
            k: v for k, v in expected.items() if v is not None
        }


def test_the_current_directory_is_the_default_target(user, tmp_path):
    write(tmp_path / "local" / "file", b"there")
    user.run("put", "file", cwd=tmp_path / "local")
    assert (user.on_server / "file").read_bytes() == b"there"

    (tmp_path / "back").mkdir()
    user.run("get", "file", cwd=tmp_path / "back")
    assert (tmp_path / "back" / "file").read_bytes() == b"there"


# what is there already ---------------------------------------------------------------------


def prepare_clash(user, tmp_path, verb):
    """An older, a newer and an absent file at the target, each different from its source."""
    local, seed = tmp_path / "local", tmp_path / "seed"
    sources, targets = (local / "S", seed / "T") if verb == "put" else (seed / "S", local / "T")
    for name in ("older", "newer", "absent", "same-time"):
        write(sources / name, b"source")
    write(targets / "older", b"target", mtime_ns=TIME - 1)
    write(targets / "newer", b"target", mtime_ns=TIME + 1)
    write(targets / "same-time", b"target")
    send(user, seed)
    names = ("older", "newer", "absent", "same-time")
    if verb == "put":
        return [f"{sources}/{name}" for name in names], "/T/", user.on_server / "T"
    return [f"/S/{name}" for name in names], f"{targets}/", targets


@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize(
    ("option", "replaced"),
    [
        pytest.param([], {"older", "newer", "absent", "same-time"}, id="always"),
        pytest.param(["--no-clobber"], {"absent"}, id="no-clobber"),
        pytest.param(["-n"], {"absent"}, id="n"),
        pytest.param(["--update"], {"older", "absent"}, id="update"),
        pytest.param(["-u"], {"older", "absent"}, id="u"),
    ],
)
def test_what_is_replaced(user, tmp_path, verb, option, replaced):
    sources, target, targets = prepare_clash(user, tmp_path, verb)

    records = user.run("--json", verb, *option, *sources, target).records

    found = {path.name for path in targets.iterdir() if path.read_bytes() == b"source"}
    assert found == replaced
    statuses = {Path(r["source"]).name: r["status"] for r in records[:-1]}
    assert {name for name, status in statuses.items() if status == "done"} == replaced
    assert set(statuses.values()) <= {"done", "skipped"}
    assert records[-1]["skipped"] == 4 - len(replaced)


def test_options_that_exclude_each_other(user, tmp_path):
    write(tmp_path / "file")

    user.run("put", "-n", "-u", tmp_path / "file", status=2)


@pytest.mark.parametrize("verb", ["put", "get"])
def test_no_clobber_and_update_reach_into_trees(user, tmp_path, verb):
    local, seed = tmp_path / "local", tmp_path / "seed"
    sources, targets = (local, seed) if verb == "put" else (seed, local)
    write(sources / "tree" / "d" / "older", b"source")
    write(sources / "tree" / "d" / "new", b"source")
    write(targets / "copy" / "d" / "older", b"target", mtime_ns=TIME - 1)
    send(user, seed)
    target = (user.on_server if verb == "put" else local) / "copy"
    shown = [f"{local}/tree/.", "/copy"] if verb == "put" else ["/tree/.", str(target)]

    user.run(verb, "-rn", *shown)
    assert (target / "d" / "older").read_bytes() == b"target"
    assert (target / "d" / "new").read_bytes() == b"source"

    user.run(verb, "-ru", *shown)
    assert (target / "d" / "older").read_bytes() == b"source"


# patterns ----------------------------------------------------------------------------------


@pytest.fixture
def many(user, tmp_path):
    """Files on the server whose names patterns can tell apart."""
    for name in ("one.txt", "two.txt", "three.md", ".hidden.txt", "d/four.txt", "e/five.txt"):
        write(tmp_path / "seed" / "g" / name, name.encode())
    write(tmp_path / "seed" / "g" / "[x]*", b"literal")
    send(user, tmp_path / "seed")
    return user


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("/g/*.txt", {b"one.txt", b"two.txt"}, id="star"),
        pytest.param("/g/t*", {b"two.txt", b"three.md"}, id="prefix"),
        pytest.param("/g/???.txt", {b"one.txt", b"two.txt"}, id="question-marks"),
        pytest.param("/g/[ot]*.txt", {b"one.txt", b"two.txt"}, id="set"),
        pytest.param("/g/[!o]*.txt", {b"two.txt"}, id="not-in-set"),
        pytest.param("/g/.h*", {b".hidden.txt"}, id="hidden"),
        pytest.param("/g/*/*.txt", {b"four.txt", b"five.txt"}, id="two-levels"),
        pytest.param("/*/one.txt", {b"one.txt"}, id="above"),
        pytest.param("/g/[x]*", {b"[x]*"}, id="exists-to-the-letter"),
        pytest.param("g/*.md", {b"three.md"}, id="relative"),
    ],
)
def test_patterns(many, tmp_path, pattern, expected):
    many.run("get", pattern, f"{tmp_path}/got/")

    assert trees.names(tmp_path / "got") == expected


def test_a_pattern_that_matches_nothing(many, tmp_path):
    assert "nothing matches" in many.run("get", "/g/*.none", tmp_path, status=5).complaint
    many.run("rm", "/g/*.none", status=5)
    many.run("rm", "-f", "/g/*.none")


def test_patterns_elsewhere(many):
    assert set(many.run("ls", "-d", "/g/*.txt").lines) == {"/g/one.txt", "/g/two.txt"}
    many.run("rm", "/g/*.txt")
    assert trees.names(many.on_server / "g") >= {b".hidden.txt", b"three.md"}
    assert not (many.on_server / "g" / "one.txt").exists()


# pipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 * MIB + 7])
def test_through_pipes(any_user, size):
    data = os.urandom(size)

    any_user.run("put", "-", "/piped", given=data)

    assert (any_user.on_server / "piped").read_bytes() == data
    assert any_user.run("get", "/piped", "-").out == data
    assert any_user.run("cat", "/piped").out == data


def test_cat_writes_one_after_the_other(user, tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "seed" / name, name.encode() * 3)
    send(user, tmp_path / "seed")

    assert user.run("cat", "c", "a", "b").out == b"cccaaabbb"
    told = user.run("cat", "c", "none", "b", status=1)
    assert told.out == b"cccbbb" and "none" in told.complaint


def test_a_pipe_is_whole_or_nothing(user):
    """The name appears only when all has come."""
    running = user.start("put", "-", "/piped")
    running.stdin.write(b"x" * 2 * MIB)
    eventually(lambda: os.listdir(user.on_server / ".ftpd-staging") != ["lock"], "staging")
    assert not (user.on_server / "piped").exists()

    finish(running, given=b"y")

    assert (user.on_server / "piped").read_bytes() == b"x" * 2 * MIB + b"y"


def test_the_password_is_the_first_line_and_the_rest_is_data(user):
    options, user.options = user.options, (*user.options, "--password-stdin")
    given = user.password.encode() + b"\ndata\n\0more"

    user.run("put", "-", "/piped", given=given)

    user.options = options
    assert user.run("cat", "/piped").out == b"data\n\0more"


def test_a_reader_that_leaves_early(user):
    user.run("put", "-", "large", given=b"x" * 8 * MIB)
    running = user.start("cat", "large")
    assert running.stdout.read(5) == b"xxxxx"
    running.stdout.close()

    status = running.wait(60)

    assert status in (1, 141)
    assert running.stderr.read() == b""


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        pytest.param(["put", "-"], 2, id="put-without-a-name"),
        pytest.param(["put", "-", "/"], 1, id="put-over-the-home"),
        pytest.param(["put", "-", "/made/"], 1, id="put-as-a-directory"),
        pytest.param(["get", "/none", "-"], 5, id="get-nothing"),
        pytest.param(["get", "/", "-"], 1, id="get-a-directory"),
        pytest.param(["--json", "get", "/none", "-"], 2, id="json-and-bytes"),
    ],
)
def test_pipes_that_cannot_be(user, arguments, status):
    assert user.run(*arguments, status=status, given=b"data").complaint


# JSON --------------------------------------------------------------------------------------


def blake(data):
    return blake3(data).hexdigest()


def test_put_and_get_tell_each_file(any_user, tmp_path):
    write(tmp_path / "tree" / "a", b"aaa")
    write(tmp_path / "tree" / "b", b"b" * MIB)
    os.mkfifo(tmp_path / "tree" / "fifo")
    expected = {"a": (3, blake(b"aaa")), "b": (MIB, blake(b"b" * MIB))}

    put = any_user.run("--json", "put", "-r", tmp_path / "tree", "/tree")
    *files, summary = put.records
    assert put.err == ""
    for record in files:
        name = Path(record["source"]).name
        assert record["source"] == f"{tmp_path}/tree/{name}"
        assert record["destination"] == f"/tree/{name}"
        if name == "fifo":
            assert record["status"] == "skipped" and record["digest"] is None
            assert record["error"] == "not-regular" and record["message"]
        else:
            assert (record["size"], record["digest"], record["status"]) == (*expected[name], "done")
    assert SUMMARY <= set(summary)
    assert summary["summary"] is True
    assert (summary["done"], summary["skipped"], summary["failed"]) == (2, 1, 0)
    assert summary["size"] == MIB + 3 and summary["seconds"] >= 0

    *files, summary = any_user.run("--json", "get", "-r", "/tree", tmp_path / "back").records
    for record in files:
        name = Path(record["source"]).name
        assert record["source"] == f"/tree/{name}"
        assert record["destination"] == f"{tmp_path}/back/{name}"
        assert (record["size"], record["digest"], record["status"]) == (*expected[name], "done")
    assert (summary["done"], summary["failed"], summary["size"]) == (2, 0, MIB + 3)


def test_local_paths_are_told_as_typed(user, tmp_path):
    write(tmp_path / "local" / "d" / "file", b"x")
    (record, _) = user.run(
        "--json", "put", "./d/../d/file", "there", cwd=tmp_path / "local"
    ).records

    assert (record["source"], record["destination"]) == ("./d/../d/file", "/there")

    (record, _) = user.run("--json", "get", "there", "d", cwd=tmp_path / "local").records
    assert (record["source"], record["destination"]) == ("/there", "d/there")


def test_a_failed_file_is_told(user, tmp_path):
    write(tmp_path / "a", b"a")

    ended = user.run("--json", "put", tmp_path / "a", tmp_path / "none", "/made/", status=1)

    done, failed, summary = sorted(ended.records, key=lambda record: record.get("source", "~"))
    assert done["status"] == "done"
    assert failed["status"] == "failed" and failed["error"] == "not-found" and failed["message"]
    assert (summary["done"], summary["failed"]) == (1, 1)


def test_each_file_is_told_when_it_is_acknowledged(user, tmp_path):
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


ENTRY = {"name", "path", "type", "size", "mode", "mtime", "digest"}


def test_listings_as_json(user, tmp_path):
    write(tmp_path / "file", b"12345", mode=0o640, mtime_ns=1_234_567_890_123_456_789)
    user.run("put", tmp_path / "file", "/l/")
    (behind(user.on_server) / "l" / "dir").mkdir(mode=0o700)
    os.symlink("file", user.on_server / "l" / "link")
    os.mkfifo(user.on_server / "l" / "other")
    write(user.on_server / "l" / "\udcff", b"")

    records = {record["name"]: record for record in user.run("--json", "ls", "/l").records}

    assert set(records) == {"file", "dir", "link", "other", "\ufffd"}
    assert all(ENTRY <= set(record) for record in records.values())
    assert records["file"] == {
        "name": "file",
        "path": "/l/file",
        "type": "file",
        "size": 5,
        "mode": "0640",
        "mtime": "2009-02-13T23:31:30.123456789Z",
        "digest": blake(b"12345"),
    }
    assert [records[name]["type"] for name in ("dir", "link", "other")] == ["dir", "link", "other"]
    assert records["link"]["target"] == "file"
    assert records["dir"]["digest"] is None
    assert records["\ufffd"]["path"] == "/l/\ufffd"
    assert records["\ufffd"]["path_b64"] == "L2wv/w=="
    assert user.run("--json", "stat", "/l/file").record == records["file"]
    assert user.run("ls", "--json", "/l/file").record == records["file"]


def test_hash_and_df_as_json(user, tmp_path):
    user.run("put", "-", "/file", given=b"12345")

    hashed = user.run("--json", "hash", "/file").record
    room = user.run("--json", "df").record

    assert {"path": "/file", "algorithm": "blake3", "digest": blake(b"12345")}.items() <= (
        hashed.items()
    )
    assert (room["total"], room["used"], room["free"]) == (None, 5, None)


def test_digests_tell_the_truth_after_a_change_behind_the_server(user):
    user.run("put", "-", "/file", given=b"12345")
    write(user.on_server / "file", b"other")

    assert user.run("--json", "ls", "/file").record["digest"] is None
    assert user.run("--json", "hash", "/file").record["digest"] == blake(b"other")
    assert user.run("--json", "ls", "/file").record["digest"] == blake(b"other")


def test_names_are_shown_escaped_and_are_raw_where_asked(user):
    names = [b"a\nb", b"\x1b[31mred", b"tab\t", b"\xff", b"back\\slash"]
    home = os.fsencode(behind(user.on_server))
    for name in names:
        write(Path(os.fsdecode(home + b"/n/" + name)))

    lines = user.run("ls", "/n").lines
    assert sorted(lines) == sorted(["a\\nb", "\\x1b[31mred", "tab\\t", "\\xff", "back\\\\slash"])
    for shown in ("-l", "-R", "--digest", "-1"):
        text = user.run("ls", shown, "/n").text
        assert all(line.isprintable() for line in text.splitlines())
        assert len(text.splitlines()) >= len(names)
    raw = user.run("ls", "-0", "/n").out
    assert sorted(raw.split(b"\0")) == sorted([*names, b""])
    for verb in ("stat", "hash", "du"):
        for line in user.run(verb, b"/n/\x1b[31mred").text.splitlines():
            assert line.isprintable()
    assert re.search(r"\\x1b", user.run("cat", b"/n/\x1b[0m", status=5).complaint)


def test_listing_options(user, tmp_path):
    for name, size, mtime in (("b", 1, 3), ("a", 3, 1), ("c", 2, 2), (".h", 0, 0)):
        write(tmp_path / "seed" / "l" / name, bytes(size), mtime_ns=TIME + mtime)
    write(tmp_path / "seed" / "l" / "sub" / "deep", b"x")
    send(user, tmp_path / "seed")

    assert user.run("ls", "/l").lines == ["a", "b", "c", "sub/"]
    assert user.run("ls", "-a", "/l").lines == [".h", "a", "b", "c", "sub/"]
    assert user.run("ls", "-r", "/l").lines == ["sub/", "c", "b", "a"]
    files = [line for line in user.run("ls", "-t", "/l").lines if line != "sub/"]
    assert files == ["b", "c", "a"]
    files = [line for line in user.run("ls", "-S", "/l").lines if line != "sub/"]
    assert files == ["a", "c", "b"]
    assert "deep" in user.run("ls", "-R", "/l").lines
    assert user.run("ls", "-d", "/l").lines == ["/l"]
    first = user.run("ls", "-l", "/l").lines[0]
    assert first.startswith("-rw-r--r--") and first.endswith(" a") and " 3 " in first
