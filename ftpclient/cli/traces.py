"""Tracebacks, for --debug. Lives here: making them safe to print."""

from __future__ import annotations

import sys
import traceback

from ftpwire.paths import printable_lines


def print_trace(error: BaseException) -> None:
    """Print on stderr where an error comes from. Its message may hold words of the server."""
    for text in traceback.format_exception(error):
        print(printable_lines(text.rstrip("\n")), file=sys.stderr)
