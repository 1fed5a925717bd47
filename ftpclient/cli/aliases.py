"""Command names of other clients that the shell accepts for its own commands.

Lives here: the names, and the commands that they stand for. They work in the shell only.
Lives elsewhere: hints for names that have no equivalent (foreign.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

ALIASES = {
    "?": "help",
    "quit": "exit",
    "bye": "exit",
    "dir": "ls",
    "more": "less",
    "mget": "get",
    "mput": "put",
    "reget": "get",
    "reput": "put",
    "chdir": "cd",
    "copy": "cp",
    "delete": "rm",
    "rename": "mv",
}


_TARGET = re.compile(r"-[A-Za-z]*[tT]|--target-directory|--no-target-directory")
"""Options that name the target, alone or at the end of a group of letters, e.g. ``-rt``."""


def meant(
    name: str, arguments: list[str], local: Callable[[str], list[str]]
) -> tuple[str, list[str]]:
    """Return the command and the arguments that a line with an alias stands for.

    In ftp and lftp, mget and mput take sources only; in sftp, a target may follow. So the last
    of several words is a target only if it cannot be a source: for mget, a local directory or a
    name that ends with a slash; for mput, a path that doesn't exist locally.

    Args:
        local: A function that returns the local paths that a word expands to.
    """
    if any(_TARGET.match(word) for word in arguments):
        return ALIASES.get(name, name), arguments  # -t or -T names the target
    paths = [word for word in arguments if not word.startswith("-")]
    if len(paths) > 1:
        last = paths[-1]
        if name == "mget" and not (last.endswith("/") or os.path.isdir(os.path.expanduser(last))):
            arguments = [*arguments, "."]
        if name == "mput" and all(os.path.lexists(found) for found in local(last)):
            arguments = [*arguments, "."]
    return ALIASES.get(name, name), arguments
