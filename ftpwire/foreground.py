"""Local programs that run in the foreground: pagers, editors, shell commands.

Lives here: finding a program of the user's choice, starting one, waiting for it. Lives elsewhere:
what they are for (ftpclient/shell/, ftpclient/cli/commands/, ftpserver/cli/paging.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

PAGERS = ("PAGER",), ("less", "more")
"""The arguments of `find_program` for a pager."""


def find_program(variables: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the command line of a program that the user chose; None if there is none.

    Args:
        variables: The environment variables that may name it, the first one first.
        usual: The programs to look for, perhaps with arguments, if none of these is set.
    """
    for variable in variables:
        if chosen := os.environ.get(variable, "").strip():
            return chosen
    return next((words for words in usual if shutil.which(words.partition(" ")[0])), None)


def run_program(words: Sequence[str], *, with_stdin: bool) -> int:
    """Run a program and return its exit status, 128 plus the number of a signal that ended it.

    Args:
        with_stdin: True if it may read this process's standard input; else that is empty.

    Raises:
        OSError: It could not be started.
    """
    stdin = None if with_stdin else subprocess.DEVNULL
    with _keys_are_its_own():
        return _reported(subprocess.run(words, stdin=stdin, check=False).returncode)


def wait_for_program(program: subprocess.Popen[bytes]) -> int:
    """Wait for a running program and return its exit status, as `run_program`."""
    with _keys_are_its_own():
        return _reported(program.wait())


def _reported(status: int) -> int:
    """Return an exit status as a shell reports it."""
    return 128 - status if status < 0 else status


@contextmanager
def _keys_are_its_own() -> Iterator[None]:
    """Ignore Ctrl-C and Ctrl-\\, which the terminal sends to this process and to the program."""
    # a handler, not SIG_IGN, which the program would inherit
    before = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
