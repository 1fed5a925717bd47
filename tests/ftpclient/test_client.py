"""Client: what a path means, patterns, and the verbs that ask once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpclient import Client
from ftpclient.connection.addresses import ServerAddress
from ftpwire import digests
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    InvalidPath,
    IsADirectory,
    LoginRefused,
    NotADirectory,
    NotEmpty,
    NotFound,
)
from ftpwire.messages import Copied, Hashed, Page, Problem, Removed, SpaceInfo
from tests.ftpclient.aio.async_support import Blocking
from tests.lying_server import LyingServer, dir_entry, file_entry
from tests.pairwise import pairwise


def make(directory: Path, *names: str) -> None:
    """Files with their own name in them; a name that ends with a slash is a directory."""
    for name in names:
        path = directory / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(name))


def tree(directory: Path) -> set[str]:
    """All files and directories below; staging, trash, and what makes tests tidy, left out."""
    found = set()
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if not name.startswith(".ftpd-"):
            found.add(name + "/" * path.is_dir())
    return found


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The local current directory."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


BOTH = [pytest.param(Client, id="threads"), pytest.param(Blocking, id="asyncio")]


@pytest.fixture(params=BOTH)
def client(request, server, connect):
    """A client of either kind, logged in as alice."""
    return connect(server, kind=request.param)


# where things go ---------------------------------------------------------------------------

RULES = [
    # sources, target, what is at the target afterwards; None: it is refused
    pytest.param(["file"], "new", {"new"}, id="file-to-new-name"),
    pytest.param(["file"], "dir", {"dir/file"}, id="file-into-dir"),
    pytest.param(["file"], "dir/", {"dir/file"}, id="file-into-dir-slash"),
    pytest.param(["file"], "dir/new", {"dir/new"}, id="file-to-name-in-dir"),
    pytest.param(["file"], "made/", {"made/", "made/file"}, id="file-into-made-dir"),
    pytest.param(["file"], "made/deep/", {"made/", "made/deep/", "made/deep/file"}, id="made-deep"),
    pytest.param(["file"], "there", {"there"}, id="file-over-file"),
    pytest.param(["file"], "there/", None, id="file-into-file"),
    pytest.param(["file"], "missing/new", None, id="file-to-missing-dir"),
    pytest.param(["file"], ".", {"file"}, id="file-to-dot"),
    pytest.param(["sub/file"], ".", {"file"}, id="name-only"),
    pytest.param(["./sub/../file"], "new", {"new"}, id="file-by-a-detour"),
    pytest.param(["file", "file2"], "dir", {"dir/file", "dir/file2"}, id="several-into-dir"),
    pytest.param(["file", "file2"], "made/", {"made/", "made/file", "made/file2"}, id="several"),
    pytest.param(["file", "file2"], "new", None, id="several-to-one-name"),
    pytest.param(["file", "file2"], "there", None, id="several-to-a-file"),
    pytest.param(["sub"], "new", {"new/", "new/file", "new/deep/", "new/deep/x"}, id="tree-as"),
    pytest.param(
        ["sub"], "dir", {"dir/sub/", "dir/sub/file", "dir/sub/deep/", "dir/sub/deep/x"}, id="into"
    ),
    pytest.param(
        ["sub/"], "dir", {"dir/sub/", "dir/sub/file", "dir/sub/deep/", "dir/sub/deep/x"}, id="slash"
    ),
    pytest.param(["sub/."], "dir", {"dir/file", "dir/deep/", "dir/deep/x"}, id="contents"),
    pytest.param(
        ["sub"],
        "made/",
        {"made/", "made/sub/", "made/sub/file", "made/sub/deep/", "made/sub/deep/x"},
        id="tree-into-made",
    ),
    pytest.param(
        ["sub", "file"],
        "dir",
        {"dir/sub/", "dir/sub/file", "dir/sub/deep/", "dir/sub/deep/x", "dir/file"},
        id="both",
    ),
    pytest.param(["missing"], "dir", None, id="missing"),
]
SOURCES = ["file", "file2", "sub/file", "sub/deep/x"]
TARGETS = ["dir/", "there"]


@pairwise(
    {"client": BOTH, "verb": ["put", "get"], "sources, target, expected": RULES},
    indirect=["client"],
)
def test_where_things_go(client, files, here, verb, sources, target, expected):
    """As with cp -r, in both directions."""
    make(here if verb == "put" else files, *SOURCES)
    there = files if verb == "put" else here
    make(there, *TARGETS)
    before = tree(there)
    try:
        summary = getattr(client, verb)(sources, target, recursive=True)
        failed = bool(summary.failed)
    except (CommandError, OSError):
        failed = True
    if expected is None:
        assert failed
        assert tree(there) - before <= {"made/"}
        assert (there / "there").read_text() == "there"
    else:
        assert not failed
        # the last source may be there under its own name as well
        assert tree(there) - before == {name for name in expected if name not in before}
        assert all((there / name).exists() for name in expected)
        if "there" in expected:
            assert (there / "there").read_text() == "file"


@pytest.mark.parametrize("verb", ["put", "get"])
def test_directories_need_to_be_asked_for(client, files, here, verb):
    make(here if verb == "put" else files, *SOURCES)
    summary = getattr(client, verb)(["sub", "file"], "new/")
    assert (summary.done, summary.failed) == (1, 1)
    assert isinstance(summary.first_error, IsADirectory) or summary.exit_code == 1


@pairwise(
    {
        "client": BOTH,
        "verb": ["put", "get"],
        "overwrite": ["always", "never", "older"],
        "age": ["older", "same", "newer"],
    },
    indirect=["client"],
)
def test_overwriting(client, files, here, verb, overwrite, age):
    source, there = (here, files) if verb == "put" else (files, here)
    make(source, "file")
    (there / "file").write_text("what was there")
    os.utime(source / "file", ns=(0, 10**18))
    os.utime(there / "file", ns=(0, 10**18 + {"older": -1, "same": 0, "newer": 1}[age]))
    summary = getattr(client, verb)(["file"], "file", overwrite=overwrite)
    replaced = overwrite == "always" or (overwrite == "older" and age == "older")
    assert ((there / "file").read_text() == "file") == replaced
    assert (summary.done, summary.skipped, summary.failed) == (replaced, not replaced, 0)
    assert summary.exit_code == 0


def test_streams(client, files, here):
    read, write = os.pipe()
    os.write(write, b"from a pipe")
    os.close(write)
    try:
        summary = client.put_stream(read, "piped")
    finally:
        os.close(read)
    assert (summary.done, summary.size) == (1, 11)
    with (here / "out").open("wb") as out:
        assert client.get_stream("piped", out.fileno()) == (11, digests.digest(b"from a pipe"))
    assert (here / "out").read_bytes() == b"from a pipe"
    client.make_dir("dir")
    with pytest.raises(IsADirectory):
        client.put_stream(0, "dir")
    with pytest.raises(NotFound), (here / "out").open("wb") as out:
        client.get_stream("nowhere", out.fileno())


def test_paths_of_any_type(client, files, here):
    make(here, "a", "b", "c")
    client.put([b"a", "b", here / "c"], b"dir/")
    assert tree(files) == {"dir/", "dir/a", "dir/b", "dir/c"}
    (here / "out").mkdir()
    client.get([b"dir/a", "dir/b"], here / "out")
    assert tree(here / "out") == {"a", "b"}


# remote paths ------------------------------------------------------------------------------


def test_the_current_directory(client, files):
    make(files, "a/b/file", "a/file")
    (files / "link").symlink_to("a/b")
    assert client.cwd == b"/"
    assert client.change_dir("a") == b"/a"
    assert client.resolve("b/../x") == b"/a/x"
    assert client.resolve("/x") == b"/x"
    assert client.resolve("../../..") == b"/"
    assert client.stat("file").type == "file"
    assert client.change_dir("b") == b"/a/b"
    assert client.change_dir("..") == b"/a"
    assert client.change_dir("/link") == b"/link"
    for path, error in (("nowhere", NotFound), ("/a/file", NotADirectory), ("", InvalidPath)):
        with pytest.raises(error):
            client.change_dir(path)
    assert client.cwd == b"/link"


@pytest.mark.parametrize("path", ["", b"", "nul\0byte", "x" * 256, ".ftpd-staging"])
def test_paths_that_can_not_be(client, path):
    with pytest.raises(InvalidPath):
        client.resolve(path)


NAMES = [
    "a.txt",
    "b.txt",
    "c.md",
    ".hidden.txt",
    "[x].txt",
    "star*",
    "q?",
    "new\nline.txt",
    "Ä.txt",
    os.fsdecode(b"\xff.txt"),
    "dir/a.txt",
    "dir2/a.txt",
    "dir2/b.txt",
    ".dot/a.txt",
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["[x].txt", "a.txt", "b.txt", "new\nline.txt", "Ä.txt", "\udcff.txt"]),
        ("?.txt", ["a.txt", "b.txt", "Ä.txt", "\udcff.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("[!ab].txt", ["Ä.txt", "\udcff.txt"]),
        ("[a-c].*", ["a.txt", "b.txt", "c.md"]),
        (".*.txt", [".hidden.txt"]),
        ("dir*/a.txt", ["dir/a.txt", "dir2/a.txt"]),
        ("dir*/*", ["dir/a.txt", "dir2/a.txt", "dir2/b.txt"]),
        ("*/b.txt", ["dir2/b.txt"]),
        (".*/*", [".dot/a.txt"]),
        ("/dir2/*", ["dir2/a.txt", "dir2/b.txt"]),
        ("dir/../dir2/?.txt", ["dir2/a.txt", "dir2/b.txt"]),
        ("[x].txt", ["[x].txt"]),
        ("star*", ["star*"]),
        ("q?", ["q?"]),
        ("a.txt", ["a.txt"]),
        ("nowhere", ["nowhere"]),
        ("dir2", ["dir2"]),
    ],
)
def test_patterns(client, files, pattern, expected):
    make(files, *NAMES)
    assert client.glob(pattern) == sorted(b"/" + os.fsencode(name) for name in expected)


def test_a_pattern_lists_only_what_begins_like_it(server, connect, files, monkeypatch):
    make(files, "ab1", "abc/1", "a*b", "b", "ab2/1")
    client = connect(server)
    requested = []
    list_dir = client.list_dir

    def listed(path, *, prefix):
        requested.append((path, prefix))
        return list_dir(path, prefix=prefix)

    monkeypatch.setattr(client, "list_dir", listed)
    assert client.glob("ab?") == [b"/ab1", b"/ab2", b"/abc"]
    assert client.glob("a*/[0-9]") == [b"/ab2/1", b"/abc/1"]
    assert client.glob("a[*]b*") == [b"/a*b"]
    assert requested[:2] == [(b"/", b"ab"), (b"/", b"a")]
    assert {prefix for path, prefix in requested[2:-1]} == {b""}
    assert requested[-1] == (b"/", b"a")


@pytest.mark.parametrize("pattern", ["*.nothing", "nowhere/*", "a.txt/*", "*/nowhere", "[z]"])
def test_patterns_that_match_nothing(client, files, pattern):
    make(files, *NAMES)
    with pytest.raises(NotFound):
        client.glob(pattern)


def test_getting_by_pattern(client, files, here):
    make(files, *NAMES)
    summary = client.get(["dir*/*.txt", "*.nothing", "c.md"], "out/")
    # the second a.txt is refused: it would replace the first
    assert (summary.done, summary.failed) == (3, 2)
    assert tree(here / "out") == {"a.txt", "b.txt", "c.md"}


# verbs -------------------------------------------------------------------------------------


def test_asking(client, files):
    make(files, "dir/file", "dir/sub/x")
    (files / "link").symlink_to("dir/file")
    assert client.whoami() == "alice"
    assert client.user == "alice"
    assert isinstance(client.space(), SpaceInfo)
    assert client.hash("link") == Hashed(digests.digest(b"dir/file"), 8)
    assert client.stat("link").type == "link"
    assert client.stat("link", follow=True).type == "file"
    listed = {entry.path: entry.type for entry in client.list_dir("/", recursive=True)}
    assert listed == {
        b"dir": "dir",
        b"link": "link",
        b"dir/file": "file",
        b"dir/sub": "dir",
        b"dir/sub/x": "file",
    }
    assert [path for path, _ in client.walk("/")] == [b"", b"dir", b"dir/sub"]
    assert [entry.path for entry in client.list_dir("dir/file")] == [b""]


def test_names_with_a_prefix(client, files):
    make(files, "ab", "abc", "b", "ab-dir/x", "other/ab", "é")

    def names(path: str, **options) -> list[bytes]:
        return sorted(entry.path for entry in client.list_dir(path, **options))

    assert names("/", prefix="ab") == names("/", prefix=b"ab") == [b"ab", b"ab-dir", b"abc"]
    assert names("/", prefix="ab", recursive=True) == [b"ab", b"ab-dir", b"ab-dir/x", b"abc"]
    assert names("/", prefix="é".encode()[:1]) == ["é".encode()]
    assert names("/ab", prefix="x") == [b""]
    assert names("/", prefix="none") == []
    for bad in ("a/", "/", "a\0", "x" * 256):
        with pytest.raises(InvalidPath, match="no name begins with this"):
            names("/", prefix=bad)
    with pytest.raises(TypeError):
        names("/", prefix=5)


@pytest.mark.parametrize("kind", BOTH)
def test_an_older_server_sends_all_names(fake, connect, kind):
    """The client leaves out the others, and what the server says of them."""
    no = [Problem(b"other", "forbidden", "no"), Problem(b"ab-no", "forbidden", "no")]
    pages = [
        Page(b"", [file_entry(b"ab"), file_entry(b"b"), dir_entry(b"ab-dir")], no, True),
        Page(b"ab-dir", [file_entry(b"x")], [Problem(b"y", "forbidden", "no")], True),
        Page(b"b-dir", [file_entry(b"ab")], [Problem(b"", "forbidden", "no")], True),
    ]
    client = connect(fake(LyingServer(pages=pages)), kind=kind)
    reported: list[bytes] = []
    options = {"prefix": "ab", "on_problem": lambda problem: reported.append(problem.path)}
    found = [entry.path for entry in client.list_dir("/", recursive=True, **options)]
    assert found == [b"ab", b"ab-dir", b"ab-dir/x"]
    assert reported == [b"ab-no", b"ab-dir/y"]
    alone = [Page(b"", [file_entry(b"")], [Problem(b"", "failed", "no")], True)]
    client = connect(fake(LyingServer(pages=alone)), kind=kind)
    assert [entry.path for entry in client.list_dir("/file", **options)] == [b""]
    assert reported[2:] == [b""]


def test_problems_of_a_listing(client, files):
    make(files, "dir/file")
    (files / "dir" / "loop").symlink_to("loop")
    heard: list[Problem] = []
    found = list(client.list_dir("/", recursive=True, follow=True, on_problem=heard.append))
    assert [entry.path for entry in found] == [b"dir", b"dir/file"]
    assert [problem.path for problem in heard] == [b"dir/loop"]
    with pytest.raises(CommandError, match="dir/loop"):
        list(client.list_dir("/", recursive=True, follow=True))
    assert client.whoami() == "alice"


def test_links_and_attributes(client, files):
    make(files, "dir/file")
    client.make_link("link", "dir/file")
    assert os.readlink(files / "link") == "dir/file"
    with pytest.raises(AlreadyExists):
        client.make_link("link", b"other")
    client.make_link("link", b"dir", overwrite=True)
    assert os.readlink(files / "link") == "dir"
    for target in ("", "x" * 5000):
        with pytest.raises(InvalidPath):
            client.make_link("another", target)
    client.set_attributes("link/file", mode=0o600, mtime_ns=123_456_789)
    info = (files / "dir" / "file").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o600, 123_456_789)
    client.set_attributes("dir/file", mode=0o640)
    assert (files / "dir" / "file").stat().st_mtime_ns == 123_456_789
    with pytest.raises(NotFound):
        client.set_attributes("nope", mode=0o600)


def test_changing(client, files):
    make(files, "file")
    client.make_dir("a/b", parents=True, mode=0o711)
    assert (files / "a" / "b").stat().st_mode & 0o777 == 0o711
    with pytest.raises(AlreadyExists):
        client.make_dir("a")
    assert client.copy("file", "a/copy") == Copied(1, 0, 4)
    client.move("file", "a/moved")
    with pytest.raises(AlreadyExists):
        client.move("a/copy", "a/moved", overwrite=False)
    with pytest.raises(AlreadyExists):
        client.copy("a/copy", "a/moved", overwrite=False)
    client.change_dir("a")
    client.move("copy", "moved")
    assert client.copy("/a", "/again", recursive=True) == Copied(1, 2, 4)
    with pytest.raises(NotEmpty):
        client.remove("/a")
    assert client.remove("/a", recursive=True, final=True) == Removed(1, 2, 4)
    trashed = client.remove("/again/moved")
    assert trashed == Removed(1, 0, 4, trashed.operation, trashed=True) and trashed.operation
    trashed = client.remove("/again", recursive=True)
    assert trashed == Removed(0, 0, 0, trashed.operation, trashed=True), "a tree isn't counted"
    assert tree(files) == set()


# its connection ----------------------------------------------------------------------------


def test_it_connects_when_it_is_needed(server, connect):
    client = connect(server)
    for _ in range(2):
        client.close()
        client.close()
        assert not client.connected
        assert client.whoami() == "alice"
        assert client.connected
    client.change_dir("/")


def test_as_a_context(server):
    address = ServerAddress("127.0.0.1", server.server_address[1], "alice")
    with Client(address, password="secret", plaintext=True) as client:
        assert client.connected
    assert not client.connected


def test_where_the_password_comes_from(server):
    address = ServerAddress("127.0.0.1", server.server_address[1], "alice")
    requested = []

    def ask() -> str:
        requested.append(1)
        return "secret"

    with Client(str(address), password=ask, plaintext=True) as client:
        client.close()
        assert client.whoami() == "alice"
    assert len(requested) == 1, "it is remembered for a reconnect"
    for password in (None, "wrong", lambda: "wrong"):
        with pytest.raises(LoginRefused):
            Client(address, password=password, plaintext=True).connect()


def test_the_server_that_the_environment_names(server, monkeypatch):
    monkeypatch.setenv("FTP_SERVER", f"alice@127.0.0.1:{server.server_address[1]}")
    with Client(password="secret", plaintext=True) as client:
        assert client.whoami() == "alice"
