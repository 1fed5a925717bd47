"""The server's own log on stderr: lines for people, or JSON for whatever collects them.

Lives here: the two formats. Lives elsewhere: what happened to whose files (audit/context.py).
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
    """Have everything that the server logs go to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])


def formatter(form: LogFormat) -> logging.Formatter:
    """What makes the lines of the log."""
    if form == "json":
        return JsonFormatter()
    return TextFormatter("%(asctime)s %(levelname)s %(message)s")


class TextFormatter(logging.Formatter):
    """Lines for people. What follows the first line of a record is indented, and control
    characters are escaped: a text of somebody else's, as of the process of a session, can't look
    like a record of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class JsonFormatter(logging.Formatter):
    """One object a line: time (ISO 8601, UTC), level, logger, message, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)
