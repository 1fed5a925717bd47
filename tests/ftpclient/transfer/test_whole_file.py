"""Small files that are placed whole get just the mode that they are to have."""

from __future__ import annotations

import os
import stat

import pytest

from ftpclient.transfer.whole_file import WholeFiles

MODES = (0o644, 0o600, 0o666, 0o444, 0o777, 0o000, 0o644, 0o444, 0o666)


@pytest.fixture(params=[0o022, 0o077, 0o000, 0o700])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_modes_are_those_of_the_server_whatever_the_umask(tmp_path, umask):
    whole = WholeFiles()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        whole.turn_to()
        for number, mode in enumerate(MODES):
            name = b"f%d" % number
            if not whole.place(fd, name, b"contents", mode, 5, durable=False):
                pytest.skip("this file system makes no unnamed files")
            info = os.stat(name, dir_fd=fd)
            assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (mode, 5)
    finally:
        os.close(fd)


def test_another_directory_is_looked_at_anew(tmp_path, umask, monkeypatch):
    whole = WholeFiles()
    looked = []
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda one: looked.append(one) or fstat(one))
    try:
        for number in range(4):
            if number in (0, 2):
                whole.turn_to()
            if not whole.place(fd, b"f%d" % number, b"", 0o600, 5, durable=False):
                pytest.skip("this file system makes no unnamed files")
        assert len(looked) == 2
    finally:
        os.close(fd)
