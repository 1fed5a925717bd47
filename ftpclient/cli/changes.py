"""The changes that a command makes: one JSON object for each with --json, and the totals.

Lives here: counting and printing for commands that request one change after another.
Lives elsewhere: the objects (records.py), transfers and syncs (printer.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftpclient.cli import records
from ftpclient.cli.group import raise_for
from ftpwire.errors import CommandError, FtpError
from ftpwire.messages import Entry, Removed

if TYPE_CHECKING:
    from ftpclient.cli.app import App


class Changes:
    """The changes of one command. Without --json nothing is printed here.

    Args:
        action: The action's name in `records.action_record`.
    """

    def __init__(self, app: App, action: str) -> None:
        self._app = app
        self._action = action
        self._began = time.monotonic()
        self._counts = Counter[str]()
        self._deleted = self._size = 0

    def done(
        self,
        path: bytes,
        target: bytes | None = None,
        *,
        deleted: int = 0,
        size: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Report a change that was made.

        Args:
            deleted: The number of files, directories and links removed.
            size: Bytes copied or freed, if that applies.
            more: Further keys of its object.
        """
        self._deleted += deleted
        if size is not None:
            self._size += size
            more = {"size": size, **(more or {})}
        self._report("done", path, target, None, more)

    def removed(self, path: bytes, answer: Removed, entry: Entry | None = None) -> None:
        """Report that something was removed.

        Args:
            entry: The removed entry, if known. Otherwise the server's count is used, which is
                missing for a tree that was moved to the trash as a whole.
        """
        more: dict[str, Any] = {}
        counted: int | None = answer.files + answer.directories
        size: int | None = answer.size_bytes
        if entry is not None:
            counted, size = 1, entry.size if entry.type == "file" else 0
            more["type"] = entry.type
        elif not counted:
            counted = size = None
        if entry is None:
            files = None if counted is None else answer.files
            directories = None if counted is None else answer.directories
            more = {"count": counted, "files": files, "directories": directories}
        more |= records.removed_record(answer)
        self.done(path, deleted=counted or 1, more={"size": size, **more})
        self._size += size or 0

    def skipped(self, path: bytes, target: bytes | None, error: FtpError) -> None:
        """Report that something was left alone on purpose."""
        self._report("skipped", path, target, error)

    def failed(
        self,
        path: bytes | None,
        error: FtpError,
        target: bytes | None = None,
        *,
        exit_code: int | None = None,
    ) -> None:
        """Report a failure, also as an error message on stderr.

        Args:
            path: The path that failed; None for the one that the error names.
            exit_code: See `App.complain`.
        """
        self._app.complain(error, exit_code)
        if path is None and isinstance(error, CommandError):
            path = error.path
        self._report("failed", path, target, error)

    def finish(self, status: int) -> None:
        """Print the totals and end the command with an exit status."""
        if self._app.as_json:
            totals = records.totals_record(
                done=self._counts["done"],
                skipped=self._counts["skipped"],
                failed=self._counts["failed"],
                deleted=self._deleted,
                size=self._size,
                seconds=time.monotonic() - self._began,
                status=status,
            )
            self._app.print_json(totals)
        raise_for(status)

    def _report(
        self,
        status: str,
        path: bytes | None,
        target: bytes | None,
        error: FtpError | None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._counts[status] += 1
        if self._app.as_json:
            record = records.action_record(self._action, path, target, status=status, error=error)
            self._app.print_json(record | dict(more or {}))
