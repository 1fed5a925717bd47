"""Remote files as file objects: reading with read-ahead, writing whole or not at all."""

from __future__ import annotations

import csv
import gc
import io
import os
import random
import zipfile
from pathlib import Path

import pytest

from ftpclient.files import reader, writer
from ftpclient.files.reader import FIRST, MOST
from ftpclient.files.writer import HELD
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    IsADirectory,
    NotADirectory,
    NotFound,
    QuotaExceeded,
    SourceChanged,
    TooMany,
    VerificationFailed,
)
from tests.ftpserver.storage.quota_store import held_files

LARGE = HELD + 1234


def contents(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def nothing_staged(files: Path) -> bool:
    return set(os.listdir(files / ".ftpd-staging")) <= {"lock"}


@pytest.fixture
def requested(client, monkeypatch) -> list[tuple[int, int]]:
    """What is fetched: offsets and lengths."""
    seen = []
    real = client.fetch_range

    def fetch_range(path, offset, length):
        seen.append((offset, length))
        return real(path, offset, length)

    monkeypatch.setattr(client, "fetch_range", fetch_range)
    return seen


# reading -----------------------------------------------------------------------------------


def test_it_is_a_file_object(client, files):
    (files / "a").write_bytes(b"one\ntwo\n\nfour")
    with client.open("/a") as file:
        assert isinstance(file, io.BufferedReader)
        assert (file.name, file.mode, file.size) == ("/a", "rb", 13)
        assert file.readable() and file.seekable() and not file.writable()
        assert list(file) == [b"one\n", b"two\n", b"\n", b"four"]
        assert file.read() == b""
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
    assert file.closed
    with pytest.raises(ValueError):
        file.read()


@pytest.mark.parametrize("size", [0, 1, FIRST, FIRST + 1, 3 * MOST + 17])
def test_all_of_it_is_read(client, files, size):
    (files / "a").write_bytes(contents(size))
    with client.open(b"/a", "rb") as file:
        assert file.read() == contents(size)
    with client.open(b"/a") as file:
        pieces = list(iter(lambda: file.read(300_000), b""))
    assert b"".join(pieces) == contents(size)


def test_any_place_can_be_read_in_any_order(client, files):
    data = contents(1_000_000)
    (files / "a").write_bytes(data)
    chance = random.Random(5)
    with client.open("/a") as remote, io.BytesIO(data) as local:
        for _ in range(200):
            whence = chance.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
            offset = chance.randrange(-400_000, 1_100_000)
            try:
                expected = local.seek(offset, whence)
            except ValueError:
                with pytest.raises((ValueError, OSError)):
                    remote.seek(offset, whence)
                continue
            if whence != os.SEEK_SET and expected == 0:
                remote.seek(0)  # BytesIO goes to the start for what lies before it
            else:
                assert remote.seek(offset, whence) == expected
            size = chance.choice([0, 1, 100, 70_000, 300_000])
            assert remote.read(size) == local.read(size)
            assert remote.tell() == local.tell()


def test_a_file_in_its_order_is_fetched_in_growing_parts(client, files, requested):
    (files / "a").write_bytes(contents(20 * 1024 * 1024))
    with client.open("/a") as file:
        while file.read(10_000):
            pass
    lengths = [length for _, length in requested]
    assert lengths[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert max(lengths) == MOST
    assert len(lengths) <= 12
    assert [offset for offset, _ in requested] == [sum(lengths[:n]) for n in range(len(lengths))]


def test_a_small_part_of_a_large_file_costs_little(client, files, requested):
    (files / "a").write_bytes(contents(20 * 1024 * 1024))
    with client.open("/a") as file:
        file.seek(-100, os.SEEK_END)
        assert file.read() == contents(20 * 1024 * 1024)[-100:]
        file.seek(5_000_000)
        file.read(10)
        file.read(10)
    assert sum(length for _, length in requested) <= 3 * FIRST


def test_an_archive_is_read_from_the_server(client, files):
    with zipfile.ZipFile(files / "a.zip", "w") as archive:
        archive.writestr("large", contents(2_000_000))
        archive.writestr("small", b"text")
    with client.open("/a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("small") == b"text"
        assert archive.read("large") == contents(2_000_000)


def test_other_verbs_go_on_between_two_reads(client, files):
    data = contents(3_000_000)
    for name in ("a", "b"):
        (files / name).write_bytes(data)
    with client.open("/a") as one, client.open("/b") as other:
        got = [b"", b""]
        while piece := one.read(400_000):
            got[0] += piece
            got[1] += other.read(400_000)
            client.stat("/a")
    assert got == [data, data]


@pytest.mark.parametrize(
    ("path", "error"),
    [("/none", NotFound), ("/dir", IsADirectory), ("/none/a", NotFound), ("/file/a", CommandError)],
)
def test_what_can_not_be_read_is_refused_at_once(client, files, path, error):
    (files / "dir").mkdir()
    (files / "file").write_bytes(b"")
    with pytest.raises(error):
        client.open(path)


def test_a_file_that_changes_while_it_is_open_is_reported(client, files):
    (files / "a").write_bytes(contents(1_000_000))
    with client.open("/a") as file:
        file.read(10)
        (files / "a").write_bytes(b"other" * 200_000)
        with pytest.raises(SourceChanged):
            file.read(500_000)


def test_a_file_that_the_disk_has_damaged_is_reported_at_its_end(client, files):
    client.write("/a", contents(1_000_000))
    info = (files / "a").stat()
    with (files / "a").open("r+b") as damaged:
        damaged.write(b"damage")
    os.utime(files / "a", ns=(info.st_atime_ns, info.st_mtime_ns))
    with client.open("/a") as file:
        with pytest.raises(VerificationFailed):
            while file.read(100_000):
                pass
        with pytest.raises(VerificationFailed):
            file.read(1)


def test_reading_goes_on_after_a_lost_connection(client, files):
    (files / "a").write_bytes(contents(1_000_000))
    with client.open("/a") as file:
        file.read(10)
        client.connection.cut()
        assert file.read() == contents(1_000_000)[10:]


def test_a_server_that_knows_no_lengths_is_stopped(client, files, monkeypatch):
    from ftpclient.transfer import ranges

    came = []
    real = ranges._RangeCall.on_frame
    monkeypatch.setattr(
        ranges._RangeCall, "on_frame", lambda call, size: came.append(size) or real(call, size)
    )
    monkeypatch.setattr(ranges, "PIECES", "no server has that")
    (files / "a").write_bytes(contents(8_000_000))
    assert client.read("/a", 1000, 5000) == contents(8_000_000)[1000:6000]
    assert client.read("/a", 7_999_999, 5000) == contents(8_000_000)[-1:]
    with client.open("/a") as file:
        assert file.read() == contents(8_000_000)
    with (files / "large").open("wb") as large:
        large.truncate(512 * 1024 * 1024)
    came.clear()
    assert client.read("/large", 1000, 5000) == bytes(5000)
    assert sum(came) < 256 * 1024 * 1024
    assert client.whoami() == "alice"


# writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, HELD, LARGE, 3 * HELD])
@pytest.mark.parametrize("mode", ["wb", "xb", "ab"])
def test_what_is_written_is_there_once_it_is_closed(server, client, files, mode, size):
    data = contents(size)
    with client.open("/a", mode) as file:
        assert isinstance(file, io.BufferedIOBase)
        assert (file.name, file.mode) == ("/a", mode)
        assert file.writable() and not file.readable() and not file.seekable()
        for start in range(0, size, 1_000_000):
            assert file.write(data[start : start + 1_000_000]) == len(data[start:][:1_000_000])
        assert file.tell() == size
        assert not (files / "a").exists()
    assert (files / "a").read_bytes() == data
    assert file.closed
    file.close()
    with pytest.raises(ValueError):
        file.write(b"more")
    assert client.hash("/a").size == size
    assert nothing_staged(files)
    assert held_files(server.service.engine) == 0


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("mode", ["wb", "xb", "ab"])
def test_it_goes_at_an_exception(server, client, files, mode, size):
    if mode != "xb":
        (files / "a").write_bytes(b"before")
    with pytest.raises(KeyError), client.open("/a", mode) as file:
        file.write(contents(size))
        raise KeyError("of the caller")
    if mode == "xb":
        assert not (files / "a").exists()
    else:
        assert (files / "a").read_bytes() == b"before"
    client.whoami()
    assert client.space().held == 0
    assert nothing_staged(files)


@pytest.mark.parametrize("size", [10, LARGE])
def test_it_goes_when_it_is_forgotten(client, files, size):
    file = client.open("/a", "wb")
    file.write(contents(size))
    with pytest.warns(ResourceWarning, match="nothing was stored"):
        del file
        gc.collect()
    assert not (files / "a").exists()
    assert nothing_staged(files)


def test_what_is_replaced_keeps_its_mode(client, files):
    for mode in ("wb", "ab"):
        (files / "a").write_bytes(b"secret")
        (files / "a").chmod(0o600)
        with client.open("/a", mode) as file:
            file.write(b"more")
        assert (files / "a").stat().st_mode & 0o777 == 0o600
    client.write("/a", b"another")
    assert (files / "a").stat().st_mode & 0o777 == 0o600
    client.write("/a", b"another", mode=0o640)
    assert (files / "a").stat().st_mode & 0o777 == 0o640
    client.write("/new", b"")
    assert (files / "new").stat().st_mode & 0o777 == 0o644


def test_exclusive_never_replaces(client, files):
    (files / "a").write_bytes(b"there")
    with pytest.raises(AlreadyExists):
        client.open("/a", "xb")
    (files / "link").symlink_to("nowhere")
    with pytest.raises(AlreadyExists):
        client.open("/link", "xb")


@pytest.mark.parametrize("size", [10, LARGE])
def test_exclusive_does_not_replace_what_came_meanwhile(client, files, size):
    file = client.open("/a", "xb")
    (files / "a").write_bytes(b"meanwhile")
    with pytest.raises(AlreadyExists):
        file.write(contents(size))
        file.close()
    assert (files / "a").read_bytes() == b"meanwhile"
    assert nothing_staged(files)


@pytest.mark.parametrize("before", [0, 100, LARGE])
@pytest.mark.parametrize("more", [0, 10, LARGE])
def test_appending_adds_to_what_is_there(client, files, before, more):
    (files / "a").write_bytes(contents(before))
    inode = (files / "a").stat().st_ino
    with client.open("/a", "ab") as file:
        assert file.tell() == before
        file.write(contents(more))
        assert file.tell() == before + more
    assert (files / "a").read_bytes() == contents(before) + contents(more)
    assert more or (files / "a").stat().st_ino == inode, "nothing was written: nothing is stored"


@pytest.mark.parametrize("before", [100, LARGE])
def test_appending_adds_to_what_is_there_at_the_end(client, files, before):
    (files / "a").write_bytes(b"")
    with client.open("/a", "ab") as file:
        file.write(b"mine")
        (files / "a").write_bytes(contents(before))
    assert (files / "a").read_bytes() == contents(before) + b"mine"


@pytest.mark.parametrize("more", [10, LARGE])
def test_what_changes_while_it_is_appended_to_is_kept(client, files, more, monkeypatch):
    (files / "a").write_bytes(b"before")
    file = client.open("/a", "ab")
    file.write(contents(more))
    real = file._target.check_unchanged

    def change_and_check():
        (files / "a").write_bytes(b"somebody else's")
        real()

    monkeypatch.setattr(file._target, "check_unchanged", change_and_check)
    if more == 10:
        (files / "a").write_bytes(b"before, too")
    with pytest.raises(SourceChanged):
        file.close()
    assert (files / "a").read_bytes() == b"somebody else's"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/dir", IsADirectory),
        ("/", IsADirectory),
        ("/new/", IsADirectory),
        ("/no/a", NotFound),
        ("/file/a", NotADirectory),
    ],
)
@pytest.mark.parametrize("mode", ["wb", "xb", "ab"])
def test_what_can_not_be_written_is_refused_at_once(client, files, mode, path, error):
    (files / "dir").mkdir()
    (files / "file").write_bytes(b"")
    is_there = mode == "xb" and path == "/dir"
    with pytest.raises(AlreadyExists if is_there else error):
        client.open(path, mode)


def test_missing_directories_are_made_when_asked_for(client, files):
    for size in (10, LARGE):
        with client.open(f"/some/where/{size}", "wb", parents=True) as file:
            file.write(contents(size))
        assert (files / "some" / "where" / str(size)).stat().st_size == size
    assert client.write("/else/where", b"abc", parents=True) == 3
    with pytest.raises(NotFound):
        client.write("/no/where", b"abc")


def test_a_quota_is_reported_while_it_is_written(start_server, connect):
    client = connect(start_server(quota=HELD + 100_000))
    with pytest.raises(QuotaExceeded), client.open("/a", "wb") as file:
        for _ in range(1000):
            file.write(bytes(1_000_000))
    assert client.find("/a") is None
    with client.open("/b", "wb") as file:  # the room is free again
        file.write(bytes(HELD))
    file = client.open("/c", "wb")
    file.write(bytes(200_000))
    with pytest.raises(QuotaExceeded):
        file.close()
    assert file.closed
    assert client.find("/c") is None


def test_two_large_files_are_written_at_the_same_time(client, files):
    with client.open("/a", "wb") as one, client.open("/b", "wb") as other:
        for _ in range(12):
            one.write(bytes(1_000_000))
            other.write(b"x" * 1_000_000)
            client.whoami()
    assert (files / "a").read_bytes() == bytes(12_000_000)
    assert (files / "b").read_bytes() == b"x" * 12_000_000


def test_one_file_is_copied_into_another(client, files):
    (files / "a").write_bytes(contents(2 * LARGE))
    with client.open("/a") as source, client.open("/b", "wb") as target:
        while piece := source.read(500_000):
            target.write(piece)
    assert (files / "b").read_bytes() == contents(2 * LARGE)


def test_a_large_file_needs_a_session_of_its_own(start_server, connect):
    client = connect(start_server(max_user_sessions=1))
    with client.open("/a", "wb") as file:
        file.write(b"small")
    with pytest.raises(TooMany), client.open("/b", "wb") as file:
        file.write(bytes(LARGE))
    assert client.exists("/a")
    assert not client.exists("/b")


def test_the_connection_of_a_large_file_is_lost(server, client, files):
    others = set(server.service.sessions)
    file = client.open("/a", "wb")
    file.write(bytes(LARGE))
    for session in set(server.service.sessions) - others:
        session.channel.cut()
    with pytest.raises(Exception, match="cannot be read again"):
        file.write(bytes(LARGE))
        file.close()
    assert not (files / "a").exists()
    assert client.whoami() == "alice"


def test_closing_may_be_left_to_commit(client, files):
    for size in (10, LARGE):
        kept, given_up = (
            client.open(f"/{name}{size}", "wb", autocommit=False) for name in ("kept", "gone")
        )
        for file in (kept, given_up):
            file.write(contents(size))
            file.close()
            assert file.closed
        assert not os.listdir(files) or not (files / f"kept{size}").exists()
        kept.commit()
        given_up.discard()
        assert (files / f"kept{size}").read_bytes() == contents(size)
        assert not (files / f"gone{size}").exists()


def test_text_is_written_and_read(client, files):
    rows = [["name", "größe"], ["a", "1"]]
    with io.TextIOWrapper(client.open("/a.csv", "wb"), "utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with io.TextIOWrapper(client.open("/a.csv"), "utf-8", newline="") as file:
        assert list(csv.reader(file)) == rows


def test_an_archive_is_written_to_the_server(client, files):
    with client.open("/a.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("large", contents(LARGE))
    with zipfile.ZipFile(files / "a.zip") as archive:
        assert archive.read("large") == contents(LARGE)


def test_views_of_other_items_count_as_bytes(client, files):
    with client.open("/a", "wb") as file:
        assert file.write(memoryview(b"abcdefgh").cast("I")) == 8
    assert client.write("/b", memoryview(b"abcdefgh").cast("I")) == 8
    assert (files / "a").read_bytes() == (files / "b").read_bytes() == b"abcdefgh"


def test_other_modes_are_refused(client):
    for mode in ("r", "w", "r+b", "wb+", ""):
        with pytest.raises(ValueError, match="mode"):
            client.open("/a", mode)


def test_memory_is_bounded(client, files, monkeypatch):
    """A writer hands on what comes, and a reader forgets what it gave away."""
    held, kept = [], []
    real_take, real_keep = writer.Writer._take, reader.RawReader._keep

    def take(self, view):
        real_take(self, view)
        held.append(len(self._held))

    def keep(self, piece, start):
        real_keep(self, piece, start)
        kept.append(len(self._data))

    monkeypatch.setattr(writer.Writer, "_take", take)
    monkeypatch.setattr(reader.RawReader, "_keep", keep)
    with client.open("/a", "wb") as file:
        for _ in range(32):
            file.write(bytes(1_000_000))
    with client.open("/a") as file:
        while file.read(1_000_000):
            pass
    assert max(held) <= HELD
    assert max(kept) <= MOST
