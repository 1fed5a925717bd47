"""Sparse files: making them, and telling where their holes are.

Lives here: layouts, as data and holes by turns. Lives elsewhere: what is to be kept of them (the
tests), and the code that looks for holes (ftpwire/holes.py).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

KIB = 1024
BLOCK = 4 * KIB
Layout = list[tuple[bool, int]]
"""Whether it is a hole, and how many bytes."""


def contents(layout: Layout, seed: int = 5) -> bytes:
    """The bytes of a file with that layout."""
    noise = random.Random(seed)
    return b"".join(bytes(size) if hole else noise.randbytes(size) for hole, size in layout)


def make(path: Path, layout: Layout, seed: int = 5) -> bytes:
    """Make a file with that layout; returns its bytes."""
    data = contents(layout, seed)
    with open(path, "wb") as file:
        at = 0
        for hole, size in layout:
            if not hole:
                file.seek(at)
                file.write(data[at : at + size])
            at += size
        file.truncate(at)
        os.fsync(file.fileno())  # its blocks are counted from here on
    return data


def make_solid(path: Path, size: int) -> Path:
    """A file of zeros that has no hole, at once."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


def holes_of(path: Path, least: int = 1) -> list[tuple[int, int]]:
    """Where the holes of a file begin and end, of those that have so many bytes."""
    return [run for run in _holes_of(path) if run[1] - run[0] >= least]


def _holes_of(path: Path) -> Iterator[tuple[int, int]]:
    with open(path, "rb") as file:
        fd, size, at = file.fileno(), os.stat(path).st_size, 0
        while at < size:
            start = os.lseek(fd, at, os.SEEK_HOLE)
            if start >= size:
                return
            try:
                at = os.lseek(fd, start, os.SEEK_DATA)
            except OSError:
                at = size
            yield start, at


def taken(path: Path) -> int:
    """Bytes that a file takes on its disk."""
    return os.stat(path).st_blocks * 512


def need_holes(directory: Path) -> None:
    """Skip the test where the file system knows no holes."""
    probe = directory / "probe-of-holes"
    make(probe, [(False, BLOCK), (True, 1024 * KIB)])
    found = holes_of(probe)
    probe.unlink()
    if not found:
        pytest.skip("no holes in this file system")


def layouts(*, largest: int, most: int = 6) -> st.SearchStrategy[Layout]:
    """Layouts with runs of some bytes up to ``largest``, on and off the borders of blocks."""
    size = st.one_of(
        st.integers(1, largest // BLOCK).map(lambda blocks: blocks * BLOCK),
        st.integers(1, largest),
    )
    return st.lists(st.tuples(st.booleans(), size), min_size=1, max_size=most)
