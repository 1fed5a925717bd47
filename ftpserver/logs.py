"""The server's own log on stderr: human-readable lines, or JSON for programs that collect logs.

Lives here: the two formats. Lives elsewhere: the log of what users do with files
(audit/context.py).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

from ftpwire.paths import printable_lines

LogFormat = Literal["text", "json"]


def log_to_stderr(form: LogFormat, *, verbose: bool) -> None:
    """Send everything that the server logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])


def formatter(form: LogFormat) -> logging.Formatter:
    """Return the formatter for the lines of the log."""
    if form == "json":
        return JsonFormatter()
    return TextFormatter("%(asctime)s %(levelname)s %(message)s")


class TextFormatter(logging.Formatter):
    """Human-readable lines. All lines of a record but the first are indented, and control
    characters are escaped: text from another process, such as a session's, cannot look like a
    record of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class JsonFormatter(logging.Formatter):
    """One object per line: time (ISO 8601, UTC), level, logger, message, and any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)
