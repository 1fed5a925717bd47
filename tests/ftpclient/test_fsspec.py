"""The file system for fsspec: its own suites, and what they don't look at."""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: ftpd[fsspec]")
abstract = pytest.importorskip("fsspec.tests.abstract", reason="this fsspec has no suites")

from ftpclient import BadAddress, ConnectFailed, ConnectionLost  # noqa: E402
from ftpclient.fsspec import FtpFileSystem  # noqa: E402
from ftpserver.testing import LocalServer, server  # noqa: E402
from tests.conftest import PATIENCE, open_descriptors  # noqa: E402

pytestmark = pytest.mark.system
"""Whole suites of another project, and pandas: they take more than the other tests in process."""

LARGE = 5_000_000


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory, removal) -> Iterator[LocalServer]:
    """One server for all of these tests: they are many. ``removal`` is there longer than it."""
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    place = tmp_path_factory.mktemp("fsspec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(place))
        with server(environ=False) as running:
            yield running
            for one in list(FtpFileSystem._cache.values()):
                one.close()
            FtpFileSystem.clear_instance_cache()
    gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread.name
    left = open_descriptors()
    new = {fd: what for fd, what in left.items() if descriptors.get(fd) != what}
    assert len(left) <= len(descriptors), f"descriptors left open: {new}"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Instead of the one for each test: server and connection stay for the next."""


@pytest.fixture
def options(there) -> dict[str, object]:
    """What a program passes as storage_options."""
    return {"password": there.password, "known_hosts": str(there.known_hosts)}


@pytest.fixture
def fs(there, options) -> FtpFileSystem:
    return fsspec.filesystem("ftpd", server=there.address, **options)


@pytest.fixture
def files(there, fs) -> Path:
    """The account's home, empty at first."""
    for name in os.listdir(there.home):
        if not name.startswith("."):
            fs.rm("/" + name, recursive=True)
    return there.home


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, there, options):
        return fsspec.filesystem("ftpd", server=there.address, **options)

    @pytest.fixture
    def fs_path(self, files):
        return "/suite"


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass


# URLs and options ----------------------------------------------------------------------------


def test_it_is_registered():
    assert fsspec.get_filesystem_class("ftpd") is FtpFileSystem


def test_a_url_names_server_and_path(there, options, fs, files):
    url = f"ftpd://{there.address}/dir/a"
    with fsspec.open(url, "wb", **options) as file:
        file.write(b"abc")
    assert (files / "dir" / "a").read_bytes() == b"abc"
    opened, path = fsspec.url_to_fs(url, **options)
    assert (opened, path) == (fs, "/dir/a")
    assert fs.unstrip_protocol("/dir/a") == fs.unstrip_protocol(url) == url
    assert fs.fsid == f"ftpd://{there.address}"
    assert FtpFileSystem._strip_protocol(["dir/a/", "/", "ftpd://host", url]) == [
        "/dir/a",
        "/",
        "/",
        "/dir/a",
    ]


def test_a_password_in_a_url_is_refused():
    with pytest.raises(BadAddress) as caught:
        fsspec.open("ftpd://alice:secret@files.example.net/a").open()
    assert "secret" not in str(caught.value)


def test_an_option_that_is_none_is_refused():
    with pytest.raises(TypeError, match="pasword"):
        FtpFileSystem("alice@files.example.net", pasword="secret")


def test_a_copy_connects_by_itself(fs, files):
    fs.pipe_file("/a", b"abc")
    with fs.open("/a") as file:
        assert file.size == 3
    fs.close()
    FtpFileSystem.clear_instance_cache()
    copy = pickle.loads(pickle.dumps(fs))
    assert copy is not fs
    assert copy == fs
    assert copy.cat("/a") == b"abc"
    copy.close()


def test_what_keeps_it_from_being_known_is_no_absence(fs, monkeypatch):
    def lost(*_: object, **__: object) -> None:
        raise ConnectionLost("lost")

    for name in ("stat", "find", "exists", "is_dir"):
        monkeypatch.setattr(fs.client, name, lost)
    for ask in (fs.exists, fs.isdir, fs.isfile, fs.lexists, fs.info):
        with pytest.raises(ConnectionLost):
            ask("/a")
    gone = FtpFileSystem("alice@127.0.0.1:1", password="x", skip_instance_cache=True)
    with pytest.raises(ConnectFailed):
        gone.exists("/a")


# looking -------------------------------------------------------------------------------------


def test_what_is_reported_about_a_file(fs, files):
    fs.pipe_file("/dir/a", b"abc")
    os.utime(files / "dir" / "a", ns=(0, 1_700_000_000_500_000_000))
    info = fs.info("/dir/a")
    assert info == {
        "name": "/dir/a",
        "size": 3,
        "type": "file",
        "mode": 0o644,
        "mtime": 1_700_000_000.5,
        "islink": False,
    }
    assert fs.ls("/dir") == [info]
    assert fs.ls("/dir/a") == [info]
    assert fs.ls("/", detail=False) == ["/dir"]
    assert fs.ls("/dir/a", detail=False) == ["/dir/a"]
    assert fs.modified("/dir/a") == datetime.fromtimestamp(1_700_000_000.5, UTC)
    assert fs.size("/dir/a") == 3
    assert fs.info("/")["type"] == "directory"
    for path in ("/none", "/dir/a/below"):
        for ask in (fs.info, fs.ls):
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                ask(path)
        assert not fs.exists(path)
        assert not fs.isdir(path)
        assert not fs.isfile(path)


def test_links(fs, files):
    (files / "dir").mkdir()
    (files / "dir" / "a").write_bytes(b"abc")
    (files / "to-file").symlink_to("dir/a")
    (files / "to-dir").symlink_to("dir")
    (files / "to-nothing").symlink_to("nothing")
    (files / "dir" / "loop").symlink_to("..")
    assert fs.info("/to-file")["type"] == "file"
    assert fs.info("/to-file")["destination"] == "dir/a"
    assert fs.info("/to-file")["size"] == 3
    assert fs.info("/to-dir")["type"] == "directory"
    assert fs.info("/to-nothing")["type"] == "link"
    assert fs.isfile("/to-file") and fs.isdir("/to-dir")
    assert fs.lexists("/to-nothing") and not fs.exists("/to-nothing")
    types = {info["name"]: info["type"] for info in fs.ls("/")}
    assert types == {
        "/dir": "directory",
        "/to-file": "file",
        "/to-dir": "link",
        "/to-nothing": "link",
    }
    assert "/to-file" in fs.find("/")
    fs.rm("/to-dir", recursive=True)
    assert (files / "dir" / "a").exists()
    with pytest.raises(FileExistsError):
        fs.open("/to-nothing", "xb")


def test_finding_asks_once(fs, files, monkeypatch):
    for name in ("a", "dir/b", "dir/deep/c"):
        fs.pipe_file("/" + name, b"x")
    fs.mkdir("/empty")
    requested = []
    real = fs.client.list_dir
    monkeypatch.setattr(
        fs.client, "list_dir", lambda *args, **more: requested.append(args) or real(*args, **more)
    )
    assert fs.find("/") == ["/a", "/dir/b", "/dir/deep/c"]
    assert len(requested) == 1
    assert fs.find("/dir", withdirs=True) == ["/dir", "/dir/b", "/dir/deep", "/dir/deep/c"]
    assert fs.find("/dir/b") == ["/dir/b"]
    assert fs.find("/none") == []
    assert fs.find("/", maxdepth=1) == ["/a"]
    found = fs.find("/", detail=True)
    assert found["/dir/b"] == fs.info("/dir/b")
    assert fs.du("/") == 3
    assert fs.glob("/**/c") == ["/dir/deep/c"]


def test_a_pattern_of_names_lists_only_what_begins_like_it(fs, files, monkeypatch):
    for name in ("dir/ab1", "dir/ab2/below", "dir/a[b", "dir/b", "other/ab", "dir/ab-c/ab/d"):
        fs.pipe_file("/" + name, b"x")
    requested = []
    real = fs.client.list_dir

    def listed(path, *, prefix=b"", **more):
        requested.append((path, prefix))
        return real(path, prefix=prefix, **more)

    monkeypatch.setattr(fs.client, "list_dir", listed)
    for pattern, prefix, found in (
        ("/dir/ab*", b"ab", ["/dir/ab-c", "/dir/ab1", "/dir/ab2"]),
        ("ftpd:///dir/ab?", b"ab", ["/dir/ab1", "/dir/ab2"]),
        ("/dir/a[b]1", b"a", ["/dir/ab1"]),
        ("/dir/*2", b"", ["/dir/ab2"]),
        ("/dir/none*", b"none", []),
        ("/dir/" + "x" * 256 + "*", b"", []),
    ):
        assert fs.glob(pattern) == found, pattern
        assert requested == [("/dir", prefix)], pattern
        requested.clear()
    assert fs.glob("/*/ab") == ["/other/ab"]
    assert fs.glob("/dir/ab*/*") == ["/dir/ab-c/ab", "/dir/ab2/below"]
    assert {prefix for _, prefix in requested} == {b""}, "each name of it would be compared"
    requested.clear()
    assert fs.ls("/dir", detail=False, prefix="ab1") == ["/dir/ab1"]
    assert fs.glob("/dir/ab1") == ["/dir/ab1"]


def test_the_checksum_is_that_of_the_bytes(fs, files):
    fs.pipe({"/a": b"abc", "/b": b"abc", "/c": b"abd"})
    assert fs.checksum("/a") == fs.checksum("/b") != fs.checksum("/c")
    before = fs.ukey("/a")
    fs.pipe_file("/a", b"abcd")
    assert fs.ukey("/a") != before


# bytes ---------------------------------------------------------------------------------------


def test_parts_of_files(fs, files):
    data = bytes(range(100))
    fs.pipe_file("/a", data)
    for start in (None, 0, 10, 99, 100, 200, -1, -30, -200):
        for end in (None, 0, 10, 50, 100, 200, -1, -30):
            assert fs.cat_file("/a", start, end) == data[start:end], (start, end)
    assert fs.head("/a", 5) == data[:5]
    assert fs.tail("/a", 5) == data[-5:]
    assert fs.cat_ranges(["/a", "/a"], [0, 50], [10, 60]) == [data[:10], data[50:60]]


def test_text_and_compression(fs, files):
    with fs.open("/a.txt", "w", encoding="latin-1") as file:
        file.write("größe\n")
    with fs.open("/a.txt", "a", encoding="latin-1") as file:
        file.write("2\n")
    assert fs.read_text("/a.txt", encoding="latin-1") == "größe\n2\n"
    with fs.open("/a.gz", "wb", compression="infer") as file:
        file.write(bytes(LARGE))
    with fs.open("/a.gz", "rb", compression="infer") as file:
        assert file.read() == bytes(LARGE)
    assert fs.size("/a.gz") < LARGE
    with fs.open("/b.gz", "wt", compression="gzip") as file:
        file.write("größe\n")
    with fs.open("/b.gz", "rt", compression="gzip") as file:
        assert file.read() == "größe\n"
    with pytest.raises(ValueError):
        fs.open("/a.txt", "r+b")


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_transaction_is_all_or_nothing(fs, files, size):
    with fs.transaction:
        for name in ("/a", "/b"):
            with fs.open(name, "wb") as file:
                file.write(bytes(size))
            assert not fs.exists(name)
    assert fs.size("/a") == fs.size("/b") == size
    with pytest.raises(KeyError), fs.transaction:
        with fs.open("/a", "wb") as file:
            file.write(b"x" * size)
        with fs.open("/c", "wb") as file:
            file.write(b"x" * size)
        raise KeyError
    assert fs.cat_file("/a") == bytes(size)
    assert not fs.exists("/c")


@pytest.mark.parametrize("how", [{}, {"compression": "gzip"}], ids=["plain", "packed"])
@pytest.mark.parametrize("mode", ["wb", "wt"])
def test_a_file_goes_at_an_exception(fs, files, mode, how):
    with pytest.raises(KeyError), fs.open("/a", mode, **how) as file:
        file.write(b"abc" if "b" in mode else "abc")
        raise KeyError("of the caller")
    assert file.closed
    assert not fs.exists("/a")
    with fs.transaction, fs.open("/a", mode, **how) as file:
        file.write(b"abc" if "b" in mode else "abc")
    with fs.open("/a", mode.replace("w", "r"), **how) as file:
        assert len(file.read()) == 3


def test_touch(fs, files):
    fs.touch("/dir/a")
    assert fs.cat_file("/dir/a") == b""
    fs.pipe_file("/dir/a", b"abc")
    os.utime(files / "dir" / "a", ns=(0, 10**18))
    fs.touch("/dir/a", truncate=False)
    assert fs.cat_file("/dir/a") == b"abc"
    assert datetime.now(UTC) - fs.modified("/dir/a") < timedelta(hours=1)
    fs.touch("/dir/a")
    assert fs.cat_file("/dir/a") == b""


def test_files_go_up_and_down(fs, files, tmp_path):
    (tmp_path / "[a]*").write_bytes(bytes(LARGE))
    fs.put_file(str(tmp_path / "[a]*"), "/dir/b[1]")
    assert (files / "dir" / "b[1]").stat().st_size == LARGE
    with pytest.raises(FileExistsError):
        fs.put_file(str(tmp_path / "[a]*"), "/dir/b[1]", mode="create")
    heard = fsspec.Callback()
    fs.get_file("/dir/b[1]", str(tmp_path / "new" / "c"), callback=heard)
    assert (tmp_path / "new" / "c").stat().st_size == LARGE
    assert (heard.size, heard.value) == (LARGE, LARGE)
    heard = fsspec.Callback()
    fs.put_file(str(tmp_path / "new" / "c"), "/d", callback=heard)
    assert (heard.size, heard.value) == (LARGE, LARGE)
    with (tmp_path / "open").open("wb") as file:
        fs.get_file("/d", file)
    assert (tmp_path / "open").stat().st_size == LARGE
    with pytest.raises(FileNotFoundError):
        fs.get_file("/none", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(FileNotFoundError):
        fs.put_file(str(tmp_path / "none"), "/none")


# changing ------------------------------------------------------------------------------------


def test_directories(fs, files):
    fs.mkdir("/a/b/c")
    assert (files / "a" / "b" / "c").is_dir()
    for make in (fs.mkdir, fs.makedirs):
        for path in ("/a/b", "/"):
            with pytest.raises(FileExistsError):
                make(path)
    fs.makedirs("/a/b", exist_ok=True)
    fs.makedirs("/", exist_ok=True)
    with pytest.raises(FileNotFoundError):
        fs.mkdir("/x/y", create_parents=False)
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("/a")
    fs.rmdir("/a/b/c")
    fs.pipe_file("/a/file", b"")
    with pytest.raises(NotADirectoryError):
        fs.rmdir("/a/file")
    with pytest.raises(IsADirectoryError):
        fs.rm("/a")
    with pytest.raises(FileNotFoundError):
        fs.rm("/none")
    fs.rm("/a", recursive=True)
    assert not fs.exists("/a")


def test_removing_by_patterns(fs, files):
    for name in ("a1", "a2", "b", "deep/a"):
        fs.pipe_file("/" + name, b"")
    fs.rm("/a*")
    removed = fs.client.trash()[0]
    assert (removed.kept, removed.words) == (2, "fsspec rm /a1 /a2"), "it is undone as a whole"
    fs.rm_file("/deep/a")
    assert fs.find("/", withdirs=True) == ["/", "/b", "/deep"]
    fs.pipe_file("/deep/one/two/three", b"")
    fs.rm("/deep", recursive=True, maxdepth=None)
    assert fs.ls("/", detail=False) == ["/b"]


def test_moving_is_done_by_the_server(fs, files):
    fs.pipe_file("/dir/a", b"abc")
    inode = (files / "dir" / "a").stat().st_ino
    fs.mv("/dir/a", "/new/place")
    assert (files / "new" / "place").stat().st_ino == inode
    fs.mv("/new/place", "/dir")
    assert (files / "dir" / "place").stat().st_ino == inode
    with pytest.raises(IsADirectoryError):
        fs.mv("/dir", "/other")
    fs.mv("/dir", "/other", recursive=True)
    assert fs.cat_file("/other/place") == b"abc"
    fs.mv("/other/place", "/other/place")
    fs.mv("/other/place", "/new/")
    assert fs.cat_file("/new/place") == b"abc"
    with pytest.raises(FileNotFoundError):
        fs.mv("/none", "/somewhere/else")
    fs.mv("/new/p*", "/patterns", recursive=True)
    assert fs.find("/patterns") == ["/patterns/place"] or fs.isfile("/patterns")


def test_copying_is_done_by_the_server(fs, files):
    fs.pipe_file("/dir/a", b"abc")
    fs.cp_file("/dir/a", "/new/place")
    assert fs.cat("/new/place") == b"abc"
    with pytest.raises(FileNotFoundError):
        fs.cp_file("/none", "/new/none")


# pandas --------------------------------------------------------------------------------------


def test_pandas_reads_and_writes(there, options, fs, files):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"name": ["a", "größe"], "value": [1.5, -2.0]})
    for name in ("tables/data.csv", "tables/data.csv.gz"):
        url = f"ftpd://{there.address}/{name}"
        frame.to_csv(url, index=False, storage_options=options)
        found = pandas.read_csv(url, storage_options=options)
        pandas.testing.assert_frame_equal(found, frame)
    assert (files / "tables" / "data.csv").read_text() == "name,value\na,1.5\ngröße,-2.0\n"
    with pytest.raises(FileNotFoundError):
        pandas.read_csv(f"ftpd://{there.address}/none.csv", storage_options=options)
