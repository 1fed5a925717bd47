"""Targets of put and get in the Python API, for threads and for asyncio: into a directory that
exists, as a name, and two sources of one name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpclient.client import Client
from ftpclient.transfer.report import Listener, Result
from ftpwire.errors import AlreadyExists, NotADirectory
from tests.ftpclient.aio.async_support import Blocking


@pytest.fixture(params=[Client, Blocking], ids=["threads", "asyncio"])
def client(request, server, connect):
    """A client of either kind, logged in as alice."""
    return connect(server, kind=request.param)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(params=["put", "get"])
def transfer(request, client, files, here):
    """The verb; and where it takes from, and brings to."""
    sides = (here, files) if request.param == "put" else (files, here)
    return getattr(client, request.param), *sides


def make(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)


def texts(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and ".ftpd-staging" not in path.parts
    }


class _Failures(Listener):
    def __init__(self) -> None:
        self.errors: list[object] = []
        self.remarks: list[str] = []

    def finished(self, result: Result) -> None:
        if result.status == "failed":
            self.errors.append(result.error)

    def remark(self, text: str) -> None:
        self.remarks.append(text)


def test_into_a_directory_that_exists(transfer):
    verb, source, target = transfer
    make(source, "a", "b")
    (target / "d").mkdir()
    assert verb(["a", "b"], "d", into=True).done == 2
    assert texts(target) == {"d/a": "a", "d/b": "b"}


@pytest.mark.parametrize("name", ["none", "none/", "file"])
def test_the_directory_has_to_exist(transfer, name):
    verb, source, target = transfer
    make(source, "a")
    make(target, "file")
    with pytest.raises(NotADirectory):
        verb(["a"], name, into=True)
    assert texts(target) == {"file": "file"}


def test_the_target_is_a_name(transfer):
    verb, source, target = transfer
    make(source, "d/a")
    (target / "e").mkdir()
    for _ in range(2):
        assert verb(["d"], "e", into=False, recursive=True).exit_code == 0
        assert texts(target) == {"e/a": "d/a"}
    assert verb(["d/a"], "e", into=False).failed == 1
    with pytest.raises(NotADirectory):
        verb(["d", "d/a"], "f", into=False, recursive=True)


def test_the_second_source_of_one_name_is_refused(transfer):
    verb, source, target = transfer
    make(source, "A/f", "B/f", "c")
    failures = _Failures()
    summary = verb(["A/f", "B/f", "c"], "all/", listener=failures)
    assert (summary.done, summary.failed, summary.exit_code) == (2, 1, 1)
    (error,) = failures.errors
    assert isinstance(error, AlreadyExists)
    assert "will not overwrite just-created" in str(error)
    assert texts(target / "all") == {"f": "A/f", "c": "c"}


def test_the_same_source_twice_is_done_once(transfer):
    verb, source, target = transfer
    make(source, "a", "b")
    reported = _Failures()
    assert verb(["a", "b", "a"], "all/", listener=reported).done == 2
    assert [text.endswith("a: named more than once") for text in reported.remarks] == [True]
