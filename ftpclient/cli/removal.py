"""Removing many entries without a round trip for each.

Lives here: `Removal`, for find -delete. Lives elsewhere: rm (commands/changing.py), deletions of
a sync (sync/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from ftpclient.cli.app import App
from ftpclient.cli.changes import Changes
from ftpclient.cli.operations import TrashRemark
from ftpclient.cli.printer import Printer
from ftpclient.connection.protocol import UnaryCall
from ftpclient.transfer import spool
from ftpclient.transfer.retry import all_changed
from ftpwire import paths
from ftpwire.errors import CommandError, NotFound, SourceChanged
from ftpwire.messages import IF_SAME, Entry, Remove, Removed
from ftpwire.paths import RemotePath


class Removal:
    """A list of entries to remove, which is kept on disk if it is long.

    Attributes:
        exit_code: 1 if something could not be removed.
    """

    def __init__(self, app: App) -> None:
        self.exit_code = 0
        self._app = app
        self._changes = Changes(app, "remove")
        self._trash = TrashRemark(app)
        self._doomed: spool.Spool[Entry] = spool.Spool(Entry)

    def add(self, path: RemotePath, entry: Entry) -> None:
        """Add an entry to remove.

        The home, the current directory and those above it are ignored, so that find . -delete
        empties a directory without removing it, as in GNU find.
        """
        cwd = self._app.client.cwd
        if path not in (paths.ROOT, cwd) and not cwd.startswith(path + b"/"):
            self._doomed.add(msgspec.structs.replace(entry, path=path))

    def run(self, removed: Callable[[RemotePath, Entry], None] | None) -> None:
        """Remove the entries, contents before their directory.

        Files that changed since they were found are kept.

        Args:
            removed: A function to call for each removed entry.

        Raises:
            ConnectionLost, Interrupted: The remaining entries were not removed.
        """
        all_changed(
            self._app.client,
            Printer(self._app),
            self._requests(),
            lambda entry, call: self._end(entry, call, removed),
        )

    def _requests(self) -> Iterator[tuple[Entry, Remove]]:
        only_same = IF_SAME in self._app.client.connection.server.features
        # a path below another one sorts after it
        for entry in spool.sort(self._doomed, lambda one: one.path, reverse=True):
            if entry.type in ("file", "link") and only_same:
                # a file that replaced the found one may not match the tests
                yield entry, Remove(entry.path, False, entry.size, entry.mtime_ns)
            else:
                yield entry, Remove(entry.path)

    def finish(self, status: int) -> None:
        """Print the totals and end the command with an exit status."""
        self._trash.finish()
        self._changes.finish(status)

    def close(self) -> None:
        """Remove the temporary file."""
        self._doomed.close()

    def _end(
        self,
        entry: Entry,
        call: UnaryCall[Removed],
        removed: Callable[[RemotePath, Entry], None] | None,
    ) -> None:
        error = call.error
        if isinstance(error, SourceChanged):
            error = SourceChanged(
                f"{paths.show(entry.path)}: changed since it was found; not removed"
            )
        if error is None:
            self._trash.removed(call.reply)
            self._changes.removed(entry.path, call.reply, entry)
            if removed is not None:
                removed(RemotePath(entry.path), entry)
        elif not isinstance(error, CommandError):
            raise error
        elif not isinstance(error, NotFound):  # else another client removed it first
            self._changes.failed(entry.path, error, exit_code=1)
            self.exit_code = 1
