"""Advice on what to type, added to errors from a server.

A server's texts say what is wrong, but it does not know which client it talks to. Older servers
name options of our commands themselves.
"""

from __future__ import annotations

from ftpwire.errors import CommandError


def advised(error: CommandError, advice: str) -> CommandError:
    """Return the error with the advice at its end, unless it is there already."""
    text = str(error)
    return error if text.endswith(advice) else error.with_text(text + advice)
