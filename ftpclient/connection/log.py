"""The log of the client, for programs: the logger ``ftpclient``.

Lives here: using the logger, at no cost if the program does not use logging.
Lives elsewhere: what the commands print (cli/).

Logged are connections, log-ins, losses and reconnects, with the names of servers and accounts; but
never passwords, tokens or paths.
"""

from __future__ import annotations

import sys

NAME = "ftpclient"


def info(text: str, *values: object) -> None:
    """Log an event of a connection."""
    _log("info", text, values)


def debug(text: str, *values: object) -> None:
    """Log a detail of a connection."""
    _log("debug", text, values)


def prepare() -> None:
    """Make the logger silent unless the program configures it."""
    import logging

    logger = logging.getLogger(NAME)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _log(level: str, text: str, values: tuple[object, ...]) -> None:
    logging = sys.modules.get("logging")
    if logging is not None:  # if it was never imported, there are no handlers; importing is slow
        getattr(logging.getLogger(NAME), level)(text, *values)
