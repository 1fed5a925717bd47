"""Tracebacks, for --debug. Lives here: escaping control characters in them."""

from __future__ import annotations

import sys
import traceback

from ftpwire.paths import printable_lines


def print_trace(error: BaseException) -> None:
    """Print the traceback of an error on stderr. Its message may contain text from the server."""
    for text in traceback.format_exception(error):
        print(printable_lines(text.rstrip("\n")), file=sys.stderr)
