"""With several connections, directories get their modes and times when all files are there."""

from __future__ import annotations

import os
import stat

import pytest

from ftpclient.transfer import upload
from ftpclient.transfer.spool import Spool

COUNT = 50


@pytest.fixture
def spools(monkeypatch):
    """What an upload keeps of its directories, which goes to disk from the first one on."""
    made = []

    class OnDisk(Spool):
        def __init__(self, kind) -> None:
            super().__init__(kind, in_memory=0)
            self.count = 0
            made.append(self)

        def add(self, item) -> None:
            super().add(item)
            self.count += 1

    monkeypatch.setattr(upload, "Spool", OnDisk)
    return made


def test_what_is_kept_of_directories_goes_to_disk(client, files, tmp_path, spools):
    top = tmp_path / os.fsdecode(b"t\xff")
    for number in range(COUNT):
        directory = top / f"d{number}"
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(b"%d" % number)
        directory.chmod(0o500 if number % 2 else 0o755)
        os.utime(directory, ns=(0, 5 + number * 1_000_000_000))
    summary = client.put([top], "/t", recursive=True, parallel=2)
    assert (summary.done, summary.failed) == (COUNT, 0)
    for number in range(COUNT):
        info = (files / "t" / f"d{number}").stat()
        assert info.st_mtime_ns == 5 + number * 1_000_000_000
        assert stat.S_IMODE(info.st_mode) == (0o500 if number % 2 else 0o755)
    assert [one.count for one in spools] == [COUNT + 1]
    assert all(one._file.closed for one in spools)
