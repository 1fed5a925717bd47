"""The room that is kept back for the day when the disk is full."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from ftpserver import ballast


@pytest.fixture
def disk(monkeypatch):
    """What the disk says of itself; as much as there can be."""
    figures = SimpleNamespace(
        f_blocks=10**6, f_bavail=10**6, f_frsize=4096, f_files=10**6, f_favail=10**6
    )
    monkeypatch.setattr(os, "statvfs", lambda path: figures)
    return figures


@pytest.mark.parametrize(
    ("figure", "value", "full"),
    [
        ("f_bavail", 10, True),
        ("f_bavail", 1000, False),
        ("f_favail", 7, True),
        ("f_favail", 8, False),
    ],
)
def test_a_disk_is_full_without_bytes_or_without_files(tmp_path, disk, figure, value, full):
    setattr(disk, figure, value)
    assert ballast.is_full(tmp_path) is full


def test_a_file_system_without_a_number_of_files_has_space_for_them(tmp_path, disk):
    disk.f_files = disk.f_favail = 0
    assert not ballast.is_full(tmp_path)
    ballast.keep(tmp_path)
    assert len(os.listdir(tmp_path)) == 9


def test_it_has_files_too_and_is_abandoned_whole(tmp_path, disk):
    ballast.keep(tmp_path)
    assert (tmp_path / ballast.NAME).stat().st_size == ballast.SIZE
    assert len(os.listdir(tmp_path)) == 9
    assert ballast.release(tmp_path)
    assert os.listdir(tmp_path) == []
    assert not ballast.release(tmp_path)


def test_that_of_an_earlier_version_is_added_to(tmp_path, disk):
    (tmp_path / ballast.NAME).write_bytes(bytes(ballast.SIZE))
    ballast.keep(tmp_path)
    assert len(os.listdir(tmp_path)) == 9


@pytest.mark.parametrize("figure", ["f_bavail", "f_favail"])
def test_none_is_kept_where_it_would_fill_the_disk(tmp_path, disk, figure):
    setattr(disk, figure, 20)
    ballast.keep(tmp_path)
    assert not (tmp_path / ballast.NAME).exists()
