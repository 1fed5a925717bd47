"""Local files that the protocol cannot carry fail by themselves: all others are stored."""

from __future__ import annotations

import os

import pytest

from ftpclient.transfer.report import Listener, Result
from ftpwire import paths
from ftpwire.errors import CommandError, InvalidPath

LATE = 2**63 + 10**9


class Results(Listener):
    """The end of each file, by its name."""

    def __init__(self) -> None:
        self.by_name: dict[bytes, Result] = {}

    def finished(self, result: Result) -> None:
        self.by_name[os.path.basename(result.source)] = result


@pytest.fixture
def tree(tmp_path):
    """A tree with two files that nothing is the matter with."""
    directory = tmp_path / "tree"
    (directory / "inside").mkdir(parents=True)
    (directory / "good").write_bytes(b"good")
    (directory / "inside" / "good too").write_bytes(b"good, too")
    return directory


def make_late(path) -> None:
    os.utime(path, ns=(0, LATE), follow_symlinks=False)
    if path.lstat().st_mtime_ns != LATE:
        pytest.skip("this file system has no such times")


def stored(client) -> set[bytes]:
    found = client.walk("/tree")
    return {entry.path for _, entries in found for entry in entries if entry.type != "dir"}


@pytest.mark.parametrize("kind", ["file", "link", "large"])
def test_a_time_beyond_2262(client, tree, kind):
    late = tree / "late"
    if kind == "link":
        late.symlink_to("good")
    else:
        late.write_bytes(bytes(5 * 1024 * 1024 if kind == "large" else 5))
    make_late(late)
    results = Results()
    summary = client.put([tree], "/tree", recursive=True, listener=results)
    assert (summary.done, summary.failed, summary.exit_code) == (2, 1, 1)
    error = results.by_name[b"late"].error
    assert isinstance(error, CommandError)
    assert "late: its modification time is out of range" in str(error)
    assert stored(client) == {b"good", b"good too"}
    assert client.connected


def test_a_directory_of_such_a_time_fails_with_what_is_in_it(client, tree):
    make_late(tree / "inside")
    summary = client.put([tree], "/tree", recursive=True)
    assert (summary.done, summary.failed, summary.exit_code) == (1, 1, 1)
    assert stored(client) == {b"good"}
    assert client.connected


def test_a_target_that_is_too_long(client, tree):
    above = "/" + "/".join(["d" * 255] * 15 + ["e" * 10])
    name = "n" * 255
    assert len(f"{above}/{name}") > paths.MAX_PATH > len(f"{above}/inside/good too")
    (tree / name).write_bytes(b"too far down")
    results = Results()
    summary = client.put([tree], above, recursive=True, listener=results)
    assert (summary.done, summary.failed, summary.exit_code) == (2, 1, 1)
    error = results.by_name[name.encode()].error
    assert isinstance(error, InvalidPath)
    assert f"longer than {paths.MAX_PATH} bytes" in str(error)
    assert {entry.path for entry in client.list_dir(above)} == {b"good", b"inside"}
    assert client.connected
