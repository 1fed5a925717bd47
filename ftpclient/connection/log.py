"""The log of the client, for programs: the logger ``ftpclient``.

Lives here: getting it, without the cost where nobody can read it.
Lives elsewhere: what the commands print (cli/).

What is logged: connections, log-ins, losses and reconnects, with the names of servers and accounts;
passwords, tokens and paths never are.
"""

from __future__ import annotations

import sys

NAME = "ftpclient"


def info(text: str, *values: object) -> None:
    """Something that happened to a connection."""
    _log("info", text, values)


def debug(text: str, *values: object) -> None:
    """A detail of it."""
    _log("debug", text, values)


def prepare() -> None:
    """Have the logger be silent unless the program says otherwise."""
    import logging

    logger = logging.getLogger(NAME)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _log(level: str, text: str, values: tuple[object, ...]) -> None:
    logging = sys.modules.get("logging")
    if logging is not None:  # what was never imported has no handlers, and its import takes time
        getattr(logging.getLogger(NAME), level)(text, *values)
