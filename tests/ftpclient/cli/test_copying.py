"""`put`, `get` and `cat` as command lines: what travels, where it goes, what is told of it.

Lives elsewhere: the rules of paths for Python's callers (test_client.py), real programs
(tests/system/test_transfers.py).
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from blake3 import blake3

from tests.system import trees

MIB = 2**20
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


def there_and_back(user, tree, place):
    """Put a tree and get it back: both copies must be the same as the original."""
    user.run("put", "-r", tree, "/tree")
    trees.same(tree, user.on_server / "tree")
    user.run("get", "-r", "/tree", place / "back")
    trees.same(tree, place / "back")


# names -------------------------------------------------------------------------------------

ODD = [
    b"one\ntwo\n",
    b"\ttab\r\x7f\x01",
    b"\x1b[31mred\x1b[0m\x1b]0;title\x07",
    b"latin-1: \xe9\xff\x80",
    b"--help",
    b"*[a-z]?",
    b"back\\slash\\n",
]
NAMES = [
    *ODD,
    b"two words",
    b" ",
    b"x" * 255,
    "ü".encode() * 127,
    b"-rf",
    "😀 ﷽ é é".encode(),
    "\u202egpj.exe\u200b".encode(),
    b"~root",
    b":colon",
    b"...",
    b"'\"$(id)`;|&",
    b".ftp-0123456789abcdef.part",
    b"lock",
]


def test_odd_names_travel(user, tmp_path):
    """As files, directories and links, all in one tree."""
    tree = tmp_path / "tree"
    for name in NAMES:
        write(tree / os.fsdecode(name) / os.fsdecode(name), b"inside")
    for byte in set(range(1, 256)) - {ord("/"), ord(".")}:
        write(tree / "bytes" / os.fsdecode(bytes([byte])), bytes([byte]))
    for number, name in enumerate(NAMES):
        os.symlink(name, os.fsencode(tree / f"link{number}"))
        os.utime(tree / f"link{number}", ns=(TIME, TIME), follow_symlinks=False)
    there_and_back(user, settle(tree), tmp_path)


def test_odd_names_can_be_typed(user, tmp_path):
    for name in ODD:
        source = write(tmp_path / "sources" / os.fsdecode(name), name)
        directory = b"/tree/" + name
        path = directory + b"/" + name
        user.run("mkdir", "-p", directory)
        user.run("put", "--", source, path)
        assert user.run("cat", path).out == name
        assert user.run("ls", "-a0", directory).out == name + b"\0"
        (shown,) = user.run("ls", "-a", directory).lines
        assert shown.isprintable()
        user.run("mv", path, b"/tree/moved")
        user.run("rm", "-r", directory)
    assert trees.names(user.on_server / "tree") == {b"moved"}


# links, and what is no file ----------------------------------------------------------------


def test_links_are_followed_when_asked(user, tmp_path):
    outside = write(tmp_path / "outside" / "file", b"outside")
    tree = tmp_path / "tree"
    write(tree / "file", b"inside")
    os.symlink(outside, tree / "to-file")
    os.symlink(outside.parent, tree / "to-directory")
    os.symlink("nowhere", tree / "dangling")

    reported = user.run("put", "-r", "--copy-links", tree, "/tree", status=1)

    assert "dangling" in reported.complaint
    there = user.on_server / "tree"
    assert (there / "to-file").read_bytes() == b"outside" and not (there / "to-file").is_symlink()
    assert (there / "to-directory" / "file").read_bytes() == b"outside"
    assert trees.names(there) == {b"file", b"to-file", b"to-directory", b"to-directory/file"}


def test_links_on_the_server_are_followed_inside_the_home_only(user, tmp_path):
    write(user.on_server / "d" / "file", b"inside")
    write(tmp_path / "secret", b"not yours")
    (user.on_server / "links").mkdir()
    for name, target in {
        "relative": "../d/file",
        "absolute": "/d/file",
        "beyond-the-top": "../../../d/file",
        "outside": str(tmp_path / "secret"),
    }.items():
        os.symlink(target, user.on_server / "links" / name)

    for name in ("relative", "absolute", "beyond-the-top"):
        assert user.run("cat", f"links/{name}").out == b"inside"
    user.run("cat", "links/outside", status=5)
    user.run("put", "-", "links/outside/new", status=None, given=b"x")
    reported = user.run("get", "-rL", "links", tmp_path / "got", status=None)

    assert reported.status != 0 and "outside" in reported.err
    assert trees.names(tmp_path / "got") == {b"relative", b"absolute", b"beyond-the-top"}
    assert (tmp_path / "secret").read_bytes() == b"not yours"


def test_a_download_follows_no_link_below_its_destination(user, tmp_path):
    write(user.on_server / "tree" / "sub" / "file", b"new")
    write(user.on_server / "tree" / "plain", b"new")
    outside = write(tmp_path / "outside" / "file", b"old").parent
    target = tmp_path / "target"
    target.mkdir()
    os.symlink(outside, target / "sub")
    os.symlink(outside / "file", target / "plain")

    reported = user.run("get", "-r", "tree/.", target, status=1)

    assert "sub" in reported.err
    assert (outside / "file").read_bytes() == b"old"
    assert trees.names(outside) == {b"file"}
    assert (target / "plain").read_bytes() == b"new"  # the link itself was replaced
    assert not (target / "plain").is_symlink()


def test_fifos_and_sockets_are_skipped_and_reported(user, tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    write(tree / "file", b"x")
    os.mkfifo(tree / "fifo")
    monkeypatch.chdir(tree)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        reported = user.run("put", "-r", tree, "/tree")
        records = user.run("--json", "put", "-r", tree, "/again").records

    assert "fifo" in reported.err and "socket" in reported.err and "skipped" in reported.err
    assert trees.names(user.on_server / "tree") == {b"file"}
    assert {Path(r["source"]).name: r["status"] for r in records[:-1]} == {
        "file": "done",
        "fifo": "skipped",
        "socket": "skipped",
    }
    assert {r["error"] for r in records[:-1] if r["status"] == "skipped"} == {"not-regular"}


def test_fifos_on_the_server_are_skipped_and_reported(user, tmp_path):
    write(user.on_server / "tree" / "file")
    os.mkfifo(user.on_server / "tree" / "fifo")
    reported = user.run("get", "-r", "tree", tmp_path / "got")
    assert "fifo" in reported.err and "skipped" in reported.err
    assert trees.names(tmp_path / "got") == {b"file"}
    assert "regular" in user.run("cat", "tree/fifo", status=1).complaint


def test_devices_are_not_read(user, tmp_path):
    zeros = tmp_path / "zeros"
    try:
        os.mknod(zeros, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(user.on_server / "zeros", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this user cannot make devices")
    assert user.run("put", zeros, "put", status=None).err
    assert user.run("get", "zeros", tmp_path / "got", status=None).err
    assert not (user.on_server / "put").exists() and not (tmp_path / "got").exists()


def test_setuid_and_its_like_do_not_travel(user, tmp_path):
    user.run("put", write(tmp_path / "tool", b"#!", mode=0o6755))
    assert stat.S_IMODE((user.on_server / "tool").stat().st_mode) == 0o755
    (user.on_server / "tool").chmod(0o4755)
    user.run("get", "--no-resume", "tool", tmp_path / "back")
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o755


# where things go ---------------------------------------------------------------------------

IN_THE_WAY = [
    # what is there, the arguments, what is there afterwards (new or replaced), the status
    pytest.param(["dir/a/"], ["a", "T/dir"], [], 1, id="directory-in-the-way"),
    pytest.param([], ["a", "T/no/such/name"], [], 5, id="file-below-nothing"),
    pytest.param(["dir/"], ["a", "none", "b", "T/dir"], ["dir/a=a", "dir/b=b"], 1, id="one-fails"),
    pytest.param([], ["none", "T/new"], [], 5, id="no-such-source"),
    pytest.param([], ["d", "T/new"], [], 1, id="directory-without-r"),
    pytest.param(["old"], ["-r", "d", "T/old"], [], 1, id="tree-over-a-file"),
    pytest.param(
        ["dir/d/x", "dir/d/z"],
        ["-r", "d", "T/dir"],
        ["dir/d/x=d/x", "dir/d/sub/y=d/sub/y"],
        0,
        id="tree-merged",
    ),
    pytest.param(
        ["dir/d/sub"], ["-r", "d", "T/dir"], ["dir/d/x=d/x"], 1, id="file-in-the-way-of-a-directory"
    ),
]


def files_below(top) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize(("there", "arguments", "arrived", "status"), IN_THE_WAY)
def test_what_is_in_the_way(user, verb, there, arguments, arrived, status):
    """The rest arrives. (Targets where nothing is in the way are in test_client.py.)"""
    local = user.home / "local"
    sources, targets = (local, user.on_server) if verb == "put" else (user.on_server, local)
    for name in ("a", "b", "d/x", "d/sub/y"):
        write(sources / name, name.encode())
    local.mkdir(exist_ok=True)
    target = targets / "T"
    target.mkdir(parents=True)
    for name in there:
        if name.endswith("/"):
            (target / name).mkdir(parents=True)
        else:
            write(target / name, b"old")
    before = files_below(target)

    user.run(verb, *arguments, status=status, cwd=local)

    assert files_below(target) == before | {
        name: source.encode() for name, source in (pair.split("=") for pair in arrived)
    }


def test_the_current_directory_is_the_default_target(user, tmp_path):
    write(tmp_path / "local" / "file", b"there")
    user.run("put", "file", cwd=tmp_path / "local")
    assert (user.on_server / "file").read_bytes() == b"there"
    (tmp_path / "back").mkdir()
    user.run("get", "file", cwd=tmp_path / "back")
    assert (tmp_path / "back" / "file").read_bytes() == b"there"


@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        pytest.param(["-n", "--no-clobber"], {"new"}, id="no-clobber"),
        pytest.param(["-u", "--update"], {"new", "older"}, id="update"),
    ],
)
def test_what_is_replaced_in_a_tree(user, verb, options, replaced):
    local = user.home / "local"
    sources, targets = (local, user.on_server) if verb == "put" else (user.on_server, local)
    for name in ("older", "newer", "same-time", "new"):
        write(sources / "S" / "d" / name, b"source")
    for option in options:
        for name, age in (("older", -1), ("newer", 1), ("same-time", 0)):
            write(targets / "T" / "d" / name, b"target", mtime_ns=TIME + age)
        (targets / "T" / "d" / "new").unlink(missing_ok=True)
        shown = [f"{local}/S/.", "/T"] if verb == "put" else ["/S/.", f"{local}/T"]
        *files, summary = user.run("--json", verb, "-r", option, *shown).records
        found = {p.name for p in (targets / "T" / "d").iterdir() if p.read_bytes() == b"source"}
        assert found == replaced
        statuses = {Path(r["source"]).name: r["status"] for r in files}
        assert {name for name, status in statuses.items() if status == "done"} == replaced
        assert set(statuses.values()) == {"done", "skipped"}
        assert summary["skipped"] == 4 - len(replaced)


def test_patterns(user):
    for name in ("one.txt", "two.txt", ".hidden.txt", "three.md"):
        write(user.on_server / "g" / name, name.encode())
    user.run("get", "/g/*.txt", "got/")
    assert trees.names(user.home / "got") == {b"one.txt", b"two.txt"}
    assert "nothing matches" in user.run("get", "/g/*.none", status=5).complaint
    user.run("rm", "/g/*.none", status=5)
    user.run("rm", "-f", "/g/*.none")
    assert set(user.run("ls", "-d", "/g/*.txt").lines) == {"/g/one.txt", "/g/two.txt"}
    user.run("rm", "/g/*.txt")
    assert trees.names(user.on_server / "g") == {b".hidden.txt", b"three.md"}


# pipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 * MIB + 7])
def test_through_pipes(user, size):
    data = os.urandom(size)
    user.run("put", "-", "/piped", given=data)
    assert (user.on_server / "piped").read_bytes() == data
    assert user.run("get", "/piped", "-").out == data
    assert user.run("cat", "/piped").out == data


def test_cat_writes_one_after_the_other(user):
    for name in ("a", "b", "c"):
        write(user.on_server / name, name.encode() * 3)
    assert user.run("cat", "c", "a", "b").out == b"cccaaabbb"
    reported = user.run("cat", "c", "none", "b", status=1)
    assert reported.out == b"cccbbb" and "none" in reported.complaint


def test_the_password_is_the_first_line_and_the_rest_is_data(user):
    given = user.password.encode() + b"\ndata\n\0more"
    user.password = ""
    user.options = (*user.options, "--password-stdin")
    user.run("put", "-", "/piped", given=given)
    assert (user.on_server / "piped").read_bytes() == b"data\n\0more"


def test_pipes_that_cannot_be(user):
    for arguments, status in (
        (["put", "-", "/"], 1),
        (["put", "-", "/made/"], 1),
        (["get", "/none", "-"], 5),
        (["get", "/", "-"], 1),
    ):
        assert user.run(*arguments, status=status, given=b"data").complaint


# JSON --------------------------------------------------------------------------------------


def test_put_and_get_report_each_file(user, tmp_path):
    write(tmp_path / "tree" / "a", b"aaa")
    write(tmp_path / "tree" / "b", b"b" * MIB)
    os.mkfifo(tmp_path / "tree" / "fifo")
    expected = {
        name: (len(data), blake3(data).hexdigest())
        for name, data in (("a", b"aaa"), ("b", b"b" * MIB))
    }

    put = user.run("--json", "put", "-r", tmp_path / "tree", "/tree")
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

    *files, summary = user.run("--json", "get", "-r", "/tree", tmp_path / "back").records
    for record in files:
        name = Path(record["source"]).name
        assert record["source"] == f"/tree/{name}"
        assert record["destination"] == f"{tmp_path}/back/{name}"
        assert (record["size"], record["digest"], record["status"]) == (*expected[name], "done")
    assert (summary["done"], summary["failed"], summary["size"]) == (2, 0, MIB + 3)


def test_local_paths_are_reported_as_typed(user, tmp_path):
    local = write(tmp_path / "local" / "d" / "file", b"x").parents[1]
    (record, _) = user.run("--json", "put", "./d/../d/file", "there", cwd=local).records
    assert (record["source"], record["destination"]) == ("./d/../d/file", "/there")
    (record, _) = user.run("--json", "get", "there", "d", cwd=local).records
    assert (record["source"], record["destination"]) == ("/there", "d/there")


def test_a_failed_file_is_reported(user, tmp_path):
    write(tmp_path / "a", b"a")
    ended = user.run("--json", "put", tmp_path / "a", tmp_path / "none", "/made/", status=1)
    done, failed, summary = sorted(ended.records, key=lambda record: record.get("source", "~"))
    assert done["status"] == "done"
    assert failed["status"] == "failed" and failed["error"] == "not-found" and failed["message"]
    assert (summary["done"], summary["failed"]) == (1, 1)
