"""Where the client keeps its files: known hosts, the shell's history.

Lives here: the directories, and writing a private file whole. XDG_CONFIG_HOME moves them.
"""

from __future__ import annotations

import os
from pathlib import Path


def directory() -> Path:
    """The user's directory for this client's settings; made when written to."""
    import platformdirs  # imported here: most commands of a script need only one small file

    return Path(platformdirs.user_config_dir("ftp-client", appauthor=False))


def write_private(path: Path, text: str) -> None:
    """Write a file that only the user can read, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(temporary, path)
