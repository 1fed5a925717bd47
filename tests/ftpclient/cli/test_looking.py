"""`ls`, `stat`, `hash` and `df` as command lines: what is shown, and how safely."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from blake3 import blake3

from ftpclient.cli.render import local_time

TIME = 1_700_000_000_123_456_789
ENTRY = {"name", "path", "type", "size", "mode", "mtime", "digest"}


def write(path, data=b"", *, mtime_ns=TIME):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(TIME, mtime_ns))
    return path


def test_listings_as_json(user, tmp_path):
    write(tmp_path / "file", b"12345", mtime_ns=1_234_567_890_123_456_789).chmod(0o640)
    user.run("put", tmp_path / "file", "/l/")
    (user.on_server / "l" / "dir").mkdir(mode=0o700)
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
        "digest": blake3(b"12345").hexdigest(),
    }
    assert [records[name]["type"] for name in ("dir", "link", "other")] == ["dir", "link", "other"]
    assert records["link"]["target"] == "file"
    assert records["dir"]["digest"] is None
    assert records["\ufffd"]["path"] == "/l/\ufffd"
    assert records["\ufffd"]["path_b64"] == "L2wv/w=="
    assert user.run("--json", "stat", "/l/file").record == records["file"]
    assert user.run("ls", "--json", "/l/file").record == records["file"]


def test_hash_and_df_as_json(user):
    user.run("put", "-", "/file", given=b"12345")
    hashed = user.run("--json", "hash", "/file").record
    space = user.run("--json", "df").record
    digest = blake3(b"12345").hexdigest()
    assert {"path": "/file", "algorithm": "blake3", "digest": digest}.items() <= hashed.items()
    assert (space["total"], space["used"], space["free"]) == (None, 5, None)


def test_digests_are_true_after_a_change_behind_the_server(user):
    user.run("put", "-", "/file", given=b"12345")
    write(user.on_server / "file", b"other")
    digest = blake3(b"other").hexdigest()
    assert user.run("--json", "ls", "/file").record["digest"] is None
    assert user.run("--json", "hash", "/file").record["digest"] == digest
    assert user.run("--json", "ls", "/file").record["digest"] == digest


def test_names_are_shown_escaped_and_are_raw_where_asked(user):
    names = [b"a\nb", b"\x1b[31mred", b"tab\t", b"\xff", b"back\\slash"]
    for name in names:
        write(Path(os.fsdecode(os.fsencode(user.on_server) + b"/n/" + name)))

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


def test_listing_options(user):
    for name, size, mtime in (("b", 1, 3), ("a", 3, 1), ("c", 2, 2), (".h", 0, 0)):
        write(user.on_server / "l" / name, bytes(size), mtime_ns=TIME + mtime)
    write(user.on_server / "l" / "sub" / "deep", b"x")

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


def test_find_prints_paths_as_they_were_given(user):
    (user.on_server / "d").mkdir()
    (user.on_server / "d" / "f").touch()
    for words, shown in (
        ((), [".", "./d", "./d/f"]),
        ((".",), [".", "./d", "./d/f"]),
        (("d", "/d"), ["d", "d/f", "/d", "/d/f"]),
        (("./d",), ["./d", "./d/f"]),
        (("-type", "f", "-delete", "-print"), ["./d/f"]),
    ):
        assert user.run("find", *words).lines == shown
    assert [one["path"] for one in user.run("find", "d", "--json").records] == ["/d"]


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        pytest.param("UTC", "22:13:20.123456789Z", id="utc"),
        pytest.param("WET-00:30", "22:43:20.123456789+00:30", id="east"),
        pytest.param("NST03:30", "18:43:20.123456789-03:30", id="west"),
    ],
)
def test_stat_names_the_zone(monkeypatch, zone, shown):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        reported = local_time(1_700_000_000_123_456_789)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert reported == f"2023-11-14T{shown}"


def test_stat_reports_the_time_as_here_and_now_it_is(user, monkeypatch):
    """`ls -l` has it without its zone: both are of the same one, and JSON is UTC."""
    write(user.on_server / "file")
    monkeypatch.setenv("TZ", "NPT-05:45")
    time.tzset()
    try:
        shown = user.run("stat", "/file").text
        listed = user.run("ls", "-l", "/file").text
    finally:
        monkeypatch.undo()
        time.tzset()
    assert "mtime: 2023-11-15T03:58:20.123456789+05:45\n" in shown
    assert " 2023-11-15 03:58 " in listed
    assert user.run("--json", "stat", "/file").records[0]["mtime"].endswith("T22:13:20.123456789Z")
