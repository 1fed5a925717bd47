"""Comparing two directory trees: bytes, modes, times, links. Nothing of a name is decoded.

Lives here: what "the same tree" means to the system tests. test_trees.py is its positive control.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

PIECE = 1024 * 1024


def same(left: Path | bytes, right: Path | bytes) -> None:
    """Fails with every difference between two trees, or two files."""
    found = list(differences(left, right))
    assert not found, "\n".join(found[:20])


def differences(left: Path | bytes, right: Path | bytes) -> Iterator[str]:
    """What tells the trees apart: a line for each name and reason."""
    yield from _differences(os.fsencode(left), os.fsencode(right), b".")


def _differences(left: bytes, right: bytes, shown: bytes) -> Iterator[str]:
    ours, theirs = os.lstat(left), os.lstat(right)
    if stat.S_IFMT(ours.st_mode) != stat.S_IFMT(theirs.st_mode):
        yield f"{shown!r}: type {stat.filemode(ours.st_mode)} and {stat.filemode(theirs.st_mode)}"
        return
    if ours.st_mtime_ns != theirs.st_mtime_ns:
        yield f"{shown!r}: mtime {ours.st_mtime_ns} and {theirs.st_mtime_ns}"
    if stat.S_ISLNK(ours.st_mode):
        if os.readlink(left) != os.readlink(right):
            yield f"{shown!r}: links to {os.readlink(left)!r} and {os.readlink(right)!r}"
        return
    if stat.S_IMODE(ours.st_mode) != stat.S_IMODE(theirs.st_mode):
        yield f"{shown!r}: mode {ours.st_mode:o} and {theirs.st_mode:o}"
    if stat.S_ISDIR(ours.st_mode):
        names, others = set(os.listdir(left)), set(os.listdir(right))
        for name in sorted(names ^ others):
            yield f"{shown + b'/' + name!r}: only in the {'left' if name in names else 'right'}"
        for name in sorted(names & others):
            below = shown + b"/" + name
            yield from _differences(left + b"/" + name, right + b"/" + name, below)
    elif stat.S_ISREG(ours.st_mode):
        if ours.st_size != theirs.st_size:
            yield f"{shown!r}: {ours.st_size} and {theirs.st_size} bytes"
        elif not _same_bytes(left, right):
            yield f"{shown!r}: other bytes"


def _same_bytes(left: bytes, right: bytes) -> bool:
    with open(left, "rb") as one, open(right, "rb") as other:
        while True:
            piece = one.read(PIECE)
            if piece != other.read(PIECE):
                return False
            if not piece:
                return True


def names(root: Path | bytes) -> set[bytes]:
    """Every path below a directory, relative to it."""
    top = os.fsencode(root)
    found = set()
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            found.add(os.path.relpath(os.path.join(directory, name), top))
    return found


def remove(root: Path) -> None:
    """Remove a tree with whatever modes it has."""
    for directory, _, _ in os.walk(os.fsencode(root)):
        os.chmod(directory, 0o700)  # top down: walk can then read what is below
    for directory, directories, files in os.walk(os.fsencode(root), topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        for name in directories:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                os.unlink(path)
            else:
                os.rmdir(path)
    os.rmdir(os.fsencode(root))
