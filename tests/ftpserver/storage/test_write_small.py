"""Small files get just the mode that they are to have, also where making them gives another one."""

from __future__ import annotations

import os
import stat

import pytest

from ftpserver.storage.staging import write_small
from ftpserver.storage.staging_dirs import StagingDir
from ftpwire import digests

MODES = (0o644, 0o600, 0o666, 0o444, 0o777, 0o4644, 0o000, 0o644, 0o444, 0o666)


@pytest.fixture(params=[0o022, 0o077, 0o000, 0o700])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def directory(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def write(staging_dir: StagingDir, name: bytes, mode: int) -> os.stat_result:
    data = b"contents"
    fd = write_small(staging_dir, name, data, digests.digest(data), mode, 5)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("limits", [0o777, 0o750])
def test_modes_are_those_that_were_asked_for(directory, umask, limits):
    staging_dir = StagingDir(directory, limits=limits)
    for number, mode in enumerate(MODES):
        info = write(staging_dir, b"f%d" % number, mode)
        assert stat.S_IMODE(info.st_mode) == mode & 0o777 & limits
        assert (info.st_size, info.st_mtime_ns) == (8, 5)


def test_what_is_right_from_the_start_is_not_set_again(directory, umask, monkeypatch):
    staging_dir, changed = StagingDir(directory), []
    write(staging_dir, b"first", 0o600)
    monkeypatch.setattr(os, "chmod", lambda fd, mode: changed.append(mode))
    write(staging_dir, b"second", 0o600)
    assert changed == ([0o600] if umask & 0o600 else [])
