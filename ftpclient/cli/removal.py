"""Removing many things that were found, without a round trip for each.

Lives here: `Removal`, for find -delete. Lives elsewhere: removing what was named (rm in
commands/changing.py), a mirror's deletions (sync/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from ftpclient.cli.app import App
from ftpclient.cli.changes import Changes
from ftpclient.cli.operations import Kept
from ftpclient.cli.printer import Printer
from ftpclient.connection.protocol import Asked
from ftpclient.transfer import spool
from ftpclient.transfer.retry import all_changed
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
        self._trash = Kept(app)
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
        all_changed(
            self._app.client,
            Printer(self._app),
            self._requests(),
            lambda entry, call: self._end(entry, call, removed),
        )

    def _requests(self) -> Iterator[tuple[Entry, Remove]]:
        only_same = IF_SAME in self._app.client.connection.server.features
        # a path that begins with another one is greater than that
        for entry in spool.sort(self._doomed, lambda one: one.path, reverse=True):
            if entry.type in ("file", "link") and only_same:
                # what came there since it was found may be nothing that is meant
                yield entry, Remove(entry.path, False, entry.size, entry.mtime_ns)
            else:
                yield entry, Remove(entry.path)

    def finish(self, status: int) -> None:
        """Print the totals, and end the command with a status."""
        self._trash.finish()
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
            self._trash.removed(call.reply)
            self._changes.removed(entry.path, call.reply, entry)
            if removed is not None:
                removed(RemotePath(entry.path), entry)
        elif not isinstance(error, CommandError):
            raise error
        elif not isinstance(error, NotFound):  # somebody else was quicker
            self._changes.failed(entry.path, error, exit_code=1)
            self.exit_code = 1
