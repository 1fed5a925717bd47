"""Where an interrupted transfer of a directory was going, for the same command again.

Lives here: one small file for each transfer that runs, removed when it is complete.

As in cp, `put -r site /www` makes /www when it is absent, and /www/site when it is there. After
an interruption it is there, half of it: without this note, the same command again would not go
on with it but begin another copy inside.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ftpclient.connection import files


class Unfinished:
    """The note about one transfer.

    Args:
        key: What identifies the command: direction, server, user, source and target as given.
    """

    def __init__(self, *key: str | bytes) -> None:
        parts = [
            part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
            for part in key
        ]
        name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
        self._path: Path = files.directory() / "unfinished" / name

    def target(self, *, into: bool) -> bool:
        """Whether a directory goes into its target, or is it: as when the command was begun."""
        if into and self.exists():
            return False
        if into:
            self.complete()
        else:
            self.begin()
        return into

    def exists(self) -> bool:
        """Whether such a transfer was interrupted after it had made its target."""
        return self._path.exists()

    def begin(self) -> None:
        """The target doesn't exist, and is going to be made."""
        try:
            files.write_private(self._path, "")
        except OSError:
            pass  # no place for settings: the same command then begins another copy

    def complete(self) -> None:
        """Nothing is left to go on with."""
        self._path.unlink(missing_ok=True)
