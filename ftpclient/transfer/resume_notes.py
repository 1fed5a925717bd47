"""Notes about interrupted transfers of a directory, for the next run of the same command.

Lives here: one small file for each running transfer, removed when it is complete.

As with cp, `put -r site /www` makes /www if it does not exist, and else /www/site. After an
interruption /www exists, with half of the files. Without this note, the same command would not
resume but begin another copy in /www/site.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ftpclient.connection import files


class Unfinished:
    """The note about one transfer.

    Args:
        key: The command's identity: direction, server, user, source and target as given.
    """

    def __init__(self, *key: str | bytes) -> None:
        parts = [
            part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
            for part in key
        ]
        name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
        self._path: Path = files.directory() / "unfinished" / name

    def target(self, *, into: bool) -> bool:
        """Return whether a directory goes into its target, as when the command first ran."""
        if into and self.exists():
            return False
        if into:
            self.complete()
        else:
            self.begin()
        return into

    def exists(self) -> bool:
        """Return whether such a transfer was interrupted after it had made its target."""
        return self._path.exists()

    def begin(self) -> None:
        """Note that the target does not exist, and is going to be made."""
        try:
            files.write_private(self._path, "")
        except OSError:
            pass  # no writable settings directory: the same command would begin another copy

    def complete(self) -> None:
        """Remove the note: there is nothing left to resume."""
        self._path.unlink(missing_ok=True)
