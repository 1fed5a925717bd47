"""Tracebacks, for --debug. Lives here: making them safe to print."""

from __future__ import annotations

import sys
import traceback

from ftpwire.paths import printable


def print_trace(error: BaseException) -> None:
    """Print on stderr where an error comes from.

    Its message may hold words of the server: control characters are escaped, and lines after the
    first are indented, so that none of them looks like a line of this program's.
    """
    for text in traceback.format_exception(error):
        first, *others = text.rstrip("\n").split("\n")
        print(printable(first), file=sys.stderr)
        for line in others:
            print("    " + printable(line), file=sys.stderr)
