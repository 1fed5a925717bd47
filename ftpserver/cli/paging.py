"""Long output on a terminal, in the user's pager.

Lives here: when a pager is used, and giving it the lines. Lives elsewhere: which program it is, and
waiting for it (ftpwire/foreground.py), the lines (the commands).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from ftpwire.errors import CommandError
from ftpwire.foreground import PAGERS, find_program, wait_for_program
from ftpwire.paths import printable

_NOT_RUN = (126, 127)
"""The exit statuses of a shell for a program that it could not start."""
_LESS = "FRX"
"""Options of less, as git sets them: end if all fits on the screen, keep colours, and leave the
text on the screen."""


class _PagerLeft(Exception):
    """The user has left the pager before the end."""


@contextmanager
def paged(wanted: bool) -> Iterator[Callable[[str], None]]:
    """Return a function that prints a line, in the user's pager if there is one.

    The block ends early, without an error, if the user leaves the pager.

    Args:
        wanted: False to print as usual. So do an empty PAGER, ``cat``, and a terminal that cannot
            move its cursor.

    Raises:
        CommandError: The pager could not be started.
    """
    command = _pager() if wanted else None
    if command is None:
        yield click.echo
        return
    sys.stdout.flush()
    pager = subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=subprocess.PIPE, env={"LESS": _LESS} | os.environ
    )
    assert pager.stdin is not None
    stdin = pager.stdin

    def print_line(line: str) -> None:
        try:
            stdin.write(f"{line}\n".encode(sys.stdout.encoding, "replace"))
        except BrokenPipeError:
            raise _PagerLeft from None

    try:
        yield print_line
    except _PagerLeft:
        pass
    finally:
        try:
            stdin.close()
        except BrokenPipeError:
            pass  # the rest is not wanted
        status = wait_for_program(pager)
    if status in _NOT_RUN:
        raise CommandError(f"{printable(command)}: cannot be run (see the variable PAGER)")


def _pager() -> str | None:
    """Return the command line of the pager; None if none is to be used."""
    if os.environ.get("TERM", "dumb") == "dumb" or os.environ.get("PAGER") in ("", "cat"):
        return None
    return find_program(*PAGERS)
