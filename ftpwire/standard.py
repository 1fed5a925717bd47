"""The three standard streams, where something is wrong with them.

Lives here: having something at their descriptors, writing there, and giving that up.
Lives elsewhere: what is printed (ftpclient, ftpserver).
"""

from __future__ import annotations

import os
import sys

_closed: set[int] = set()


def was_closed(fd: int) -> bool:
    """Whether this process was started with a standard stream closed: what is there was put there
    by `open_standard_streams`."""
    return fd in _closed


def open_standard_streams() -> None:
    """Have something at the first three descriptors, so that no socket or file gets there.

    Where nothing was, reading finds nothing, results can't be written, which is an error, and
    complaints go nowhere. To be called first of all.
    """
    for wanted, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(wanted)
        except OSError:
            _closed.add(wanted)
            fd = os.open(os.devnull, mode)
            if fd != wanted:
                os.dup2(fd, wanted)
                os.close(fd)
    # Python has None where there was nothing
    sys.stdin = sys.stdin or open(0, closefd=False)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


OUTPUT = "standard output"
"""What errors of it are told about."""


def write(text: str) -> None:
    """Print. Raises OSError with the name `OUTPUT`, or BrokenPipeError."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from None


def flush() -> None:
    """Write out what was printed. Raises as `write`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from None


def print_no_more() -> None:
    """Drop what is still to be written to standard output: it can't be."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, 1)
    os.close(fd)
