"""Accounts with permissions, on the real programs: drop boxes, keepsakes, things to read."""

from __future__ import annotations

import os

import pytest

from tests.system import trees
from tests.system.programs import eventually, finish
from tests.system.proxy import Proxy

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
    assert "upload-only below /in: /in/pipe can't be replaced" in again.err
    assert stored(server, "in", "pipe").read_bytes() == b"piped"


def test_the_same_tree_can_be_put_into_a_drop_box_again(server, tree):
    bob = server.add_user("bob", "--permit", "upload-only")

    bob.run("put", "-r", tree, "/")
    (tree / "new").write_bytes(b"came later")
    bob.run("put", "-r", tree, "/")
    trees.same(tree, stored(server, "tree"))

    (tree / "new").write_bytes(b"has changed")
    told = bob.run("put", "-r", tree, "/", status=1)
    assert told.err.count("can't be replaced") == 1
    assert stored(server, "tree", "new").read_bytes() == b"came later"


def test_an_upload_into_a_drop_box_is_resumed(server, roomy):
    bob = server.add_user("bob", "--permit", "upload-only")
    source = roomy / "source"
    source.write_bytes(os.urandom(40 * MIB))
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 30 * MIB)
        putting = bob.at(proxy.address).start("put", "--retries", "0", source, "/file")
        eventually(lambda: proxy.passed("up") >= 30 * MIB)
        proxy.cut()
        finish(putting, status=4)
    assert not stored(server, "file").exists()

    with Proxy(server.reached) as proxy:
        bob.at(proxy.address).run("put", source, "/file")
        assert proxy.passed("up") < 30 * MIB
    trees.same(source, stored(server, "file"))


def test_what_may_not_be_deleted_is_added_to(server, tree):
    bob = server.add_user("bob", "--permit", "no-delete")

    bob.run("sync", f"{tree}/", ":/kept/")
    (tree / "new").write_bytes(b"came later")
    bob.run("sync", f"{tree}/", ":/kept/")
    trees.same(tree, stored(server, "kept"))

    (tree / "new").unlink()
    bob.run("sync", f"{tree}/", ":/kept/")
    assert stored(server, "kept", "new").read_bytes() == b"came later"
    assert bob.run("rm", "/kept/new", status=6)
    assert bob.run("mv", "/kept/new", "/new", status=6)
    assert bob.run("sync", "--delete", f"{tree}/", ":/kept/", status=6)
    assert stored(server, "kept", "new").read_bytes() == b"came later"


def test_what_is_read_only_is_read(server, tree, tmp_path):
    bob = server.add_user("bob")
    bob.run("put", "-r", tree, "/")
    server.admin.run("user", "set", "bob", "--permit", "read-only")

    bob.run("get", "-r", "/tree", tmp_path / "got")
    trees.same(tree, tmp_path / "got")
    bob.run("sync", ":/tree/", f"{tmp_path}/synced/")
    trees.same(tree, tmp_path / "synced")
    assert (
        bob.run("put", "-", "/x", given=b"x", status=6)
        .err.strip()
        .endswith("read-only account: /x can't be changed (rule: /=read-only)")
    )


def test_who_asks_for_what_is_in_a_drop_box_is_told_the_rule(server, tmp_path):
    bob = server.add_user("bob", "--permit", "all", "--permit", "/in=upload-only")
    bob.run("mkdir", "/in")
    bob.run("put", "-", "/in/file", given=b"x")
    for verb in ("get", "cat"):
        told = bob.run(verb, "/in/file", status=6).complaint
        assert told.endswith(
            "upload-only below /in: /in/file can't be read (rule: /in=upload-only)"
        )
    missing = bob.run("get", "/in/nothing", status=6).complaint
    assert missing == told.replace("/in/file", "/in/nothing"), "whether it is there is not told"
