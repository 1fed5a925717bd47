"""Local programs, run in the foreground from inside the shell.

Lives here: starting one and waiting for it. Lives elsewhere: which one (shell/shell.py, commands/).
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def run_program(words: Sequence[str], *, with_stdin: bool) -> int:
    """Run a program to its end; its exit status, 128 and more when a signal ended it.

    Args:
        with_stdin: It may read ours; else it finds nothing there.

    Raises:
        OSError: It could not be started.
    """
    stdin = None if with_stdin else subprocess.DEVNULL
    with _keys_are_its_own():
        return _reported(subprocess.run(words, stdin=stdin, check=False).returncode)


def wait_for_program(program: subprocess.Popen[bytes]) -> int:
    """Wait for a program that runs already; its exit status, as of `run_program`."""
    with _keys_are_its_own():
        return _reported(program.wait())


def _reported(status: int) -> int:
    """A status as a shell tells it."""
    return 128 - status if status < 0 else status


@contextmanager
def _keys_are_its_own() -> Iterator[None]:
    """The terminal sends Ctrl-C and Ctrl-\\ to both of us: only the program acts on them."""
    # a handler, and not SIG_IGN, which the program would inherit
    before = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
