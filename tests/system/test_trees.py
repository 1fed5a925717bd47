"""The positive control of trees.py: each kind of difference is noticed, and equal trees pass."""

from __future__ import annotations

import os

import pytest

from tests.system import trees

TIME = 1_700_000_000_123_456_789


def make(root):
    root.mkdir()
    (root / "empty").mkdir()
    (root / "file").write_bytes(b"some bytes")
    os.symlink("file", root / "link")
    os.utime(root / "link", ns=(TIME, TIME), follow_symlinks=False)
    for name in ("file", "empty", "."):
        os.utime(root / name, ns=(TIME, TIME))
    return root


def keeping_times(root, change):
    change(root)
    for name in ("file", "empty", "."):
        if (root / name).exists():
            os.utime(root / name, ns=(TIME, TIME))
    if (root / "link").is_symlink():
        os.utime(root / "link", ns=(TIME, TIME), follow_symlinks=False)


def relink(root, target):
    (root / "link").unlink()
    os.symlink(target, root / "link")


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        pytest.param(lambda r: (r / "file").write_bytes(b"some bytEs"), "other bytes", id="byte"),
        pytest.param(lambda r: (r / "file").write_bytes(b"some"), "and 4 bytes", id="size"),
        pytest.param(lambda r: (r / "file").chmod(0o600), "mode", id="mode"),
        pytest.param(lambda r: (r / "empty").chmod(0o500), "mode", id="directory-mode"),
        pytest.param(lambda r: relink(r, "./file"), "links to", id="link-target"),
        pytest.param(lambda r: (r / "file").unlink(), "only in the left", id="missing"),
        pytest.param(lambda r: (r / "new").write_bytes(b""), "only in the right", id="extra"),
        pytest.param(lambda r: (r / "empty" / "n").mkdir(), "only in the right", id="extra-below"),
        pytest.param(
            lambda r: ((r / "link").unlink(), (r / "link").write_bytes(b"some bytes")),
            "type",
            id="link-became-file",
        ),
    ],
)
def test_a_difference_is_reported(tmp_path, change, reported):
    left, right = make(tmp_path / "left"), make(tmp_path / "right")
    keeping_times(right, change)

    found = list(trees.differences(left, right))

    assert len(found) == 1 and reported in found[0]
    with pytest.raises(AssertionError, match=reported):
        trees.same(left, right)


@pytest.mark.parametrize("name", ["file", "empty", "link", "."])
def test_a_nanosecond_is_reported(tmp_path, name):
    left, right = make(tmp_path / "left"), make(tmp_path / "right")
    os.utime(right / name, ns=(TIME, TIME + 1), follow_symlinks=False)

    assert [line for line in trees.differences(left, right) if "mtime" in line]


def test_equal_trees_are_the_same(tmp_path):
    trees.same(make(tmp_path / "left"), make(tmp_path / "right"))


def test_names_are_bytes(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / os.fsdecode(b"\xff")).write_bytes(b"")

    assert trees.names(tmp_path) == {b"d", b"d/\xff"}


def test_remove_takes_what_is_closed(tmp_path):
    root = make(tmp_path / "root")
    (root / "empty").chmod(0o000)
    root.chmod(0o555)

    trees.remove(root)

    assert not root.exists()
