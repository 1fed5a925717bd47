"""Removes what tests have left in their directories, in a process of its own.

The directories of a whole run hold gigabytes, and removing each at the end of its test took a
sixth of the time. A thread would not do, because tests compare the descriptors that are open
before and after them.
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
import shutil, sys
rest = b""
while data := sys.stdin.buffer.read1():
    *names, rest = (rest + data).split(b"\\0")
    for name in names:
        shutil.rmtree(name, ignore_errors=True)
"""


class Removal:
    """Removes trees one after another; at its end all of them are gone.

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
        """Take a tree away, and remove it soon. Raises OSError where it can't be taken away."""
        assert self._process.stdin is not None
        taken = self._place / str(self._taken)
        self._taken += 1
        rename(tree, taken)
        self._process.stdin.write(os.fsencode(taken) + b"\0")
        self._process.stdin.flush()
