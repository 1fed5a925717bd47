"""What to type here, behind what a server has said.

A server's texts say what is the matter; it doesn't know which client it talks to. Older ones name
options of ours themselves.
"""

from __future__ import annotations

from ftpwire.errors import CommandError


def advised(error: CommandError, advice: str) -> CommandError:
    """The same error, with advice at its end unless it has that already."""
    text = str(error)
    return error if text.endswith(advice) else error.with_text(text + advice)
