"""Other names of commands, which the fingers of people from other clients know.

Lives here: which they are, and what they mean. Inside the shell only.
Lives elsewhere: hints at names that mean nothing here (group.py).
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
"""Options that say what the target is, alone or behind others, as in ``-rt``."""


def meant(
    name: str, arguments: list[str], local: Callable[[str], list[str]]
) -> tuple[str, list[str]]:
    """The command and the arguments that are meant.

    mget and mput take sources only, as in ftp and lftp; or a target at the end, as in sftp. So
    the last word of several is a target where it can't be a source: for mget a local directory,
    or a name with a slash at its end; for mput what isn't there locally.

    Args:
        local: The local paths that a word stands for.
    """
    if any(_TARGET.match(word) for word in arguments):
        return ALIASES.get(name, name), arguments  # -t or -T says it
    paths = [word for word in arguments if not word.startswith("-")]
    if len(paths) > 1:
        last = paths[-1]
        if name == "mget" and not (last.endswith("/") or os.path.isdir(os.path.expanduser(last))):
            arguments = [*arguments, "."]
        if name == "mput" and all(os.path.lexists(found) for found in local(last)):
            arguments = [*arguments, "."]
    return ALIASES.get(name, name), arguments
