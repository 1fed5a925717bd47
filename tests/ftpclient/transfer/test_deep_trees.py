"""Trees of some hundred levels, with hardly any descriptors on either side."""

from __future__ import annotations

import os

import pytest

from ftpclient.transfer import local_tree
from ftpwire.beneath import MOST_OPEN, OPEN_DIRECTORY
from tests.few_descriptors import few_descriptors, mark_dead

DEPTH = 90
MORE = 64
"""For a client and its server in one process."""


def names_below(top) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def test_every_verb_that_walks(client, files, tmp_path):
    source = tmp_path / "tree"
    source.mkdir()
    mark_dead(source, DEPTH)
    names = names_below(source)
    client.get(["/"], tmp_path / "warm", recursive=True)  # what is opened once, and stays
    with few_descriptors(MORE):
        assert client.put([source], "/tree", recursive=True).failed == 0
        assert sum(len(entries) for _, entries in client.walk("/tree")) == len(names)
        assert client.copy("/tree", "/copy", recursive=True).files == DEPTH
        assert client.get(["/copy"], tmp_path / "got", recursive=True).failed == 0
        assert client.remove("/copy", recursive=True, final=True).files == DEPTH
    assert names_below(tmp_path / "got") == names == names_below(files / "tree")
    assert not (files / "copy").exists()


def test_a_local_tree_is_removed_with_few_descriptors(tmp_path):
    """As where a sync to here deletes it."""
    (tmp_path / "top").mkdir()
    mark_dead(tmp_path / "top", 80)
    fd = os.open(tmp_path, OPEN_DIRECTORY)
    try:
        with few_descriptors(MOST_OPEN + 4):
            local_tree._remove_tree(fd, b"top")
    finally:
        os.close(fd)
    assert not (tmp_path / "top").exists()


def test_a_tree_that_is_moved_while_it_is_removed_leads_nowhere(tmp_path, canary, monkeypatch):
    """What comes into its place stays."""
    top = tmp_path / "top"
    top.mkdir()
    mark_dead(top, 60)
    real = os.rmdir

    def rmdir(name, *, dir_fd):
        monkeypatch.setattr(os, "rmdir", real)
        real(name, dir_fd=dir_fd)
        top.joinpath(*["d"] * 30).rename(tmp_path / "low")
        top.joinpath("d").rename(tmp_path / "high")
        top.joinpath("d").symlink_to(canary)

    fd = os.open(tmp_path, OPEN_DIRECTORY)
    monkeypatch.setattr(os, "rmdir", rmdir)
    try:
        with pytest.raises(OSError):
            local_tree._remove_tree(fd, b"top")
    finally:
        os.close(fd)
    assert (top / "d").is_symlink()
