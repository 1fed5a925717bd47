"""Downloads onto disks that take several of the server's names for one: none is replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpclient.transfer import folding
from ftpclient.transfer.report import Listener, Result
from ftpwire.errors import AlreadyExists
from tests.ftpclient.transfer.folding_disk import folding as folding_disk

COMPOSED, APART = "caf\u00e9", "cafe\u0301"
PAIRS = {"case": ("README", "readme"), "form": (COMPOSED, APART), "both": ("Caf\u00e9", APART)}


class _Recording(Listener):
    def __init__(self) -> None:
        self.failed: list[Result] = []

    def finished(self, result: Result) -> None:
        if result.status == "failed":
            self.failed.append(result)


@pytest.fixture
def reported() -> _Recording:
    return _Recording()


@pytest.fixture(params=sorted(PAIRS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def pair(kind) -> tuple[str, str]:
    """Two names that are the same on the disk."""
    return PAIRS[kind]


@pytest.fixture
def here(tmp_path, kind):
    """A directory on such a disk."""
    directory = tmp_path / "disk"
    directory.mkdir()
    with folding_disk(directory, kind):
        yield directory


def fill(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def texts(directory: Path) -> dict[str, str]:
    return {
        os.path.relpath(os.path.join(above, name), directory): Path(above, name).read_text()
        for above, _, names in os.walk(directory)
        for name in names
    }


def is_refused(result: Result) -> bool:
    return isinstance(result.error, AlreadyExists) and "will not overwrite" in str(result.error)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_tree_with_two_such_names(client, files, here, pair, reported, large):
    first, second = ("1" * 300_000, "2" * 300_000) if large else ("1", "2")
    fill(files, {f"d/{pair[0]}": first, f"d/{pair[1]}": second, "d/other": "3"})
    summary = client.get(["/d"], here / "got", recursive=True, listener=reported)
    assert (summary.done, summary.failed, summary.exit_code) == (2, 1, 1)
    assert all(map(is_refused, reported.failed))
    kept = texts(here / "got")
    assert kept.pop("other") == "3"
    assert list(kept.items()) in ([(pair[0], first)], [(pair[1], second)])
    # and the same again changes nothing: what was fetched isn't replaced by the other one
    again = client.get(["/d"], here / "got", recursive=True, into=False, listener=reported)
    assert (again.done, again.failed, again.exit_code) == (2, 1, 1)
    assert texts(here / "got") == {**kept, "other": "3"}


@pytest.mark.parametrize("several", [1, 3])
def test_by_several_connections(client, files, here, pair, monkeypatch, several):
    monkeypatch.setattr("ftpclient.transfer.retry._FAR_LEAST", 0)
    fill(files, {f"d/{pair[0]}": "1", f"d/{pair[1]}": "2", "d/other": "3"})
    summary = client.get(["/d"], here / "got", recursive=True, parallel=several)
    assert (summary.done, summary.failed) == (2, 1)
    assert len(texts(here / "got")) == 2


def test_directories_are_not_merged(client, files, here, pair, reported):
    one, other = pair
    fill(
        files,
        {f"d/{one}/f": "1", f"d/{one}/a": "1", f"d/{other}/f": "2", f"d/{other}/b/c": "2"},
    )
    (files / "d" / one).chmod(0o750)
    (files / "d" / other).chmod(0o700)
    summary = client.get(["/d"], here / "got", recursive=True, listener=reported)
    assert (summary.failed, summary.exit_code) == (1, 1)
    assert all(map(is_refused, reported.failed))
    found = texts(here / "got")
    assert set(found.values()) in ({"1"}, {"2"}), "one of them, whole"
    (got,) = (here / "got").iterdir()
    assert got.stat().st_mode & 0o777 == (0o750 if "1" in found.values() else 0o700)


def test_links(client, files, here, pair):
    (files / "d").mkdir()
    for name in pair:
        (files / "d" / name).symlink_to(f"to-{name}")
    summary = client.get(["/d"], here / "got", recursive=True)
    assert (summary.done, summary.failed) == (1, 1)
    (name,) = os.listdir(here / "got")
    assert os.readlink(here / "got" / name) == f"to-{name}"


def test_two_that_were_named(client, files, here, pair, reported):
    fill(files, {f"a/{pair[0]}": "1", f"b/{pair[1]}": "2", "c": "3"})
    sources = [f"/a/{pair[0]}", f"/b/{pair[1]}", "/c"]
    for _ in range(2):
        summary = client.get(sources, here, listener=reported)
        assert (summary.done, summary.failed, summary.exit_code) == (2, 1, 1)
        assert texts(here) == {pair[0]: "1", "c": "3"}
    assert all(map(is_refused, reported.failed))


def test_two_directories_that_were_named(client, files, here, pair):
    fill(files, {f"a/{pair[0]}/f": "1", f"b/{pair[1]}/g": "2"})
    sources = [f"/a/{pair[0]}", f"/b/{pair[1]}"]
    assert client.get(sources, here, recursive=True).exit_code == 1
    assert texts(here) == {f"{pair[0]}/f": "1"}


def test_what_only_was_here_before_is_replaced(client, files, here, pair):
    """As on every disk: the server has one of the names only."""
    fill(files, {f"d/{pair[1]}": "new"})
    fill(here, {f"d/{pair[0]}": "old"})
    assert client.get(["/d"], here, recursive=True).exit_code == 0
    assert list(texts(here).values()) == ["new"]


def test_of_two_new_names_one_replaces_an_old_one(client, files, tmp_path):
    (tmp_path / "disk").mkdir()
    with folding_disk(tmp_path / "disk", "case"):
        fill(files, {"d/readme": "1", "d/ReadMe": "2"})
        fill(tmp_path / "disk", {"d/README": "old"})
        summary = client.get(["/d"], tmp_path / "disk", recursive=True)
        assert (summary.done, summary.failed) == (1, 1)


def test_no_clobber_skips(client, files, here, pair):
    fill(files, {f"d/{pair[0]}": "1", f"d/{pair[1]}": "2"})
    summary = client.get(["/d"], here, recursive=True, overwrite="never")
    assert (summary.done + summary.skipped, summary.exit_code) == (2, 0)
    assert len(texts(here)) == 1


def test_a_disk_of_other_people_is_tried_once(client, files, tmp_path, monkeypatch):
    tried: list[int] = []
    real = folding._try

    def counted(directory: int) -> bool:
        tried.append(directory)
        return real(directory)

    monkeypatch.setattr(folding, "_try", counted)
    fill(files, {f"d/{a}/{b}": f"{a}{b}" for a in "xyz" for b in ("README", "readme")})
    for expected in (6, 6):
        assert client.get(["/d"], tmp_path / "got", recursive=True, into=False).done == expected
        assert len(tried) == 1
        tried.clear()
    assert sorted(texts(tmp_path / "got").values()) == sorted(
        f"{a}{b}" for a in "xyz" for b in ("README", "readme")
    )


def test_nothing_of_the_trial_stays(tmp_path, kind):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not folding.Folding().folds(fd)
        assert os.listdir(fd) == []
        with folding_disk(tmp_path, kind):
            assert folding.Folding().folds(fd)
        assert os.listdir(fd) == []
    finally:
        os.close(fd)


def test_a_directory_that_can_not_be_written_to(tmp_path, plain_user):
    tmp_path.chmod(0o500)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not folding.Folding().folds(fd)
    finally:
        os.close(fd)


def test_large_directories_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(folding, "_MAX_CACHED", 3)
    for name in "abcd":
        (tmp_path / name).touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        spellings = folding.Spellings()
        assert spellings.find(fd, b"d") == b"d"
        assert spellings._listed is None
    finally:
        os.close(fd)
