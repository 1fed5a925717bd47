"""Accounts with permissions, on the real programs: drop boxes, keepsakes, things to read."""

from __future__ import annotations

import os

import pytest

from tests.system import trees

MIB = 1024 * 1024


@pytest.fixture
def tree(tmp_path):
    """A small tree with what trees have."""
    top = tmp_path / "tree"
    (top / "dir" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    for number in range(20):
        (top / "dir" / f"file {number}").write_bytes(os.urandom(number * 100))
    (top / "dir" / "deep" / "large").write_bytes(os.urandom(5 * MIB))
    (top / "link").symlink_to("dir/deep")
    return top


def stored(server, *path: str):
    return server.home("bob").joinpath(*path)


def test_a_drop_box_takes_files_and_trees(server, tree):
    bob = server.add_user("bob")
    bob.run("mkdir", "/in")
    server.admin.run("user", "set", "bob", "--permit", "none", "--permit", "/in=upload-only")

    bob.run("put", tree / "dir" / "file 3", "/in/")
    bob.run("put", tree / "dir" / "file 3", "/in/as")
    bob.run("put", "-r", tree, "/in/")
    bob.run("put", "-r", "-P", "3", tree, "/in/parallel")
    bob.run("put", "-r", "--atomic", tree, "/in/atomic")
    bob.run("put", "-", "/in/pipe", given=b"piped")

    for name in ("tree", "parallel", "atomic"):
        trees.same(tree, stored(server, "in", name))
    assert stored(server, "in", "as").read_bytes() == (tree / "dir" / "file 3").read_bytes()
    for arguments in (("ls", "/in"), ("cat", "/in/pipe"), ("rm", "/in/pipe"), ("ls", "/")):
        assert "rule: " in bob.run(*arguments, status=6).complaint
    again = bob.run("put", "-", "/in/pipe", given=b"other", status=6)
    assert "upload-only below /in: /in/pipe cannot be replaced" in again.err
    assert stored(server, "in", "pipe").read_bytes() == b"piped"
