"""The small commands that fingers know, run as programs: what they do, print and end with."""

from __future__ import annotations

import os
import stat


def test_modes_times_and_links(user):
    user.run("put", "-", "/prog", given=b"#!/bin/sh\n")
    user.run("chmod", "u+x,go-rwx", "/prog")
    assert stat.S_IMODE((user.on_server / "prog").stat().st_mode) == 0o700
    assert user.run("chmod", "-R", "--json", "750", "/prog").record == {
        "path": "/prog",
        "mode": "0750",
    }
    user.run("touch", "-d", "2020-01-02T03:04:05Z", "/prog", "/empty")
    for name in ("prog", "empty"):
        assert (user.on_server / name).stat().st_mtime == 1577934245
    user.run("ln", "-s", "prog", "/link")
    assert os.readlink(user.on_server / "link") == "prog"
    assert user.run("ln", "-s", "x", "/link", status=1).complaint.startswith("ftp: /link: exists")
    assert "hard links" in user.run("ln", "/prog", "/again", status=2).complaint
    user.run("mkdir", "/d")
    user.run("rmdir", "/d")
    assert "not a directory" in user.run("rmdir", "/prog", status=1).complaint
    assert user.run("ls", "/").lines == ["empty", "link", "prog"]


def test_who_may_only_read_changes_no_mode_time_or_link(server):
    reader = server.add_user("bob")
    reader.run("put", "-", "/file", given=b"some bytes")
    before = (server.home("bob") / "file").stat()
    server.admin.run("user", "set", "bob", "--permit", "read-only")
    for words in (
        ("chmod", "777", "/file"),
        ("chmod", "-R", "700", "/"),
        ("touch", "/file"),
        ("touch", "/new"),
        ("ln", "-s", "file", "/link"),
        ("rmdir", "/"),
    ):
        told = reader.run(*words, status=6).err.splitlines()
        assert told and all("rule: " in line for line in told)
    after = (server.home("bob") / "file").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert reader.run("ls", "/").lines == ["file"]


def test_looking_through_a_tree(user):
    user.run("mkdir", "-p", "/site/css")
    for name in ("index.html", "css/main.css"):
        user.run("put", "-", f"/site/{name}", given=name.encode())
    assert user.run("find", "/site", "-name", "*.css").lines == ["/site/css/main.css"]
    assert user.run("find", "/", "-type", "d", "-0").out.split(b"\0")[-1] == b""
    assert user.run("find", "/site", "-size", "+11", "--json").record["name"] == "main.css"
    assert user.run("tree", "/site").lines == [
        "/site",
        "├── css/",
        "│   └── main.css",
        "└── index.html",
        "",
        "1 directory, 2 files",
    ]
    found = user.start("find", "/", "-0")
    first = found.stdout.read(2)  # whoever reads leaves
    found.stdout.close()
    assert first == b"/\0"
    assert found.wait() in (0, 1)
    assert found.stderr.read() == b""
