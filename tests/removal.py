"""Removes what tests have left in their directories, in a process of its own.

The directories of a whole run hold gigabytes, and removing each at the end of its test took a
sixth of the time. A thread would not do, because tests compare the descriptors that are open
before and after them.

Large files are emptied at once, and everything is removed at the end. ext4 doesn't use an inode
again for the next seconds, and looks at all of those whenever a file is made: removing each tree
after its test made each file of the other tests dearer, by a quarter of the time of them all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from os import rename  # what a test may have put in its place is still there
from pathlib import Path
from types import TracebackType
from typing import Self

_REMOVE_ALL = """
import os, shutil, stat, sys


def empty(tree):
    for _, _, names, fd in os.fwalk(tree):
        for name in names:
            about = os.stat(name, dir_fd=fd, follow_symlinks=False)
            large = stat.S_ISREG(about.st_mode) and about.st_blocks > 128
            if large and about.st_nlink == 1:  # else it may be a file from elsewhere, too
                file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.ftruncate(file, 0)
                os.close(file)


trees = []
rest = b""
while data := sys.stdin.buffer.read1():
    *names, rest = (rest + data).split(b"\\0")
    for name in names:
        trees.append(name)
        try:
            empty(name)
        except OSError:
            pass  # it is removed later, or was not to be
for name in trees:
    shutil.rmtree(name, ignore_errors=True)
"""


class Removal:
    """Takes trees, and removes them at its end.

    Args:
        place: An empty directory in the trees' file system.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._taken = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-I", "-S", "-c", _REMOVE_ALL]
        # a session of its own: Ctrl-C is for the tests, and what they have left is still removed
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def take(self, tree: Path) -> None:
        """Take a tree away, to be removed. Raises OSError where it cannot be taken away."""
        assert self._process.stdin is not None
        taken = self._place / str(self._taken)
        self._taken += 1
        rename(tree, taken)
        self._process.stdin.write(os.fsencode(taken) + b"\0")
        self._process.stdin.flush()
