"""Removing many things that were found, without a round trip for each.

Lives here: `Removal`, for find -delete. Lives elsewhere: removing what was named (rm in
commands/changing.py), a mirror's deletions (sync/).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from ftpclient.cli.app import App
from ftpclient.cli.changes import Changes
from ftpclient.connection.protocol import Asked
from ftpclient.transfer import spool
from ftpwire import paths
from ftpwire.errors import CommandError, NotFound, SourceChanged
from ftpwire.messages import IF_SAME, Entry, Remove, Removed
from ftpwire.paths import RemotePath


class Removal:
    """What is to be removed, and removing it. Kept on disk once it is long.

    Attributes:
        exit_code: 1 if something could not be removed.
    """

    def __init__(self, app: App) -> None:
        self.exit_code = 0
        self._app = app
        self._changes = Changes(app, "remove")
        self._doomed: spool.Spool[Entry] = spool.Spool(Entry)

    def add(self, path: RemotePath, entry: Entry) -> None:
        """Have something removed later. Never the home, nor the directory that the user is in, or
        one above it: find . -delete empties it, as elsewhere."""
        cwd = self._app.client.cwd
        if path not in (paths.ROOT, cwd) and not cwd.startswith(path + b"/"):
            self._doomed.add(msgspec.structs.replace(entry, path=path))

    def run(self, removed: Callable[[RemotePath, Entry], None] | None) -> None:
        """Remove it: what is in a directory before the directory. What has changed since it was
        found stays.

        Args:
            removed: Told what has gone.

        Raises:
            ConnectionLost, Interrupted: What was not removed yet is still there.
        """
        connection = self._app.client.connection
        waiting: deque[tuple[Entry, Asked[Removed]]] = deque()
        # a path that begins with another one is greater than that
        for entry in spool.sort(self._doomed, lambda one: one.path, reverse=True):
            call: Asked[Removed] = Asked()
            request = Remove(entry.path)
            if entry.type in ("file", "link") and IF_SAME in connection.server.features:
                # what came there since it was found may be nothing that is meant
                request = Remove(entry.path, False, entry.size, entry.mtime_ns)
            connection.submit(call, request)
            waiting.append((entry, call))
            while waiting and waiting[0][1].done:
                self._end(*waiting.popleft(), removed)
        for entry, call in waiting:
            connection.wait_for(call)
            self._end(entry, call, removed)

    def finish(self, status: int) -> None:
        """Print the totals, and end the command with a status."""
        self._changes.finish(status)

    def close(self) -> None:
        """Remove the temporary file."""
        self._doomed.close()

    def _end(
        self,
        entry: Entry,
        call: Asked[Removed],
        removed: Callable[[RemotePath, Entry], None] | None,
    ) -> None:
        error = call.error
        if isinstance(error, SourceChanged):
            error = SourceChanged(f"{paths.show(entry.path)}: changed since it was found: it stays")
        if error is None:
            size = 0 if entry.type == "dir" else entry.size
            self._changes.done(entry.path, deleted=1, size=size, more={"type": entry.type})
            if removed is not None:
                removed(RemotePath(entry.path), entry)
        elif isinstance(error, CommandError):
            if not isinstance(error, NotFound):  # somebody else was quicker
                self._changes.failed(entry.path, error, exit_code=1)
                self.exit_code = 1
        else:
            raise error
