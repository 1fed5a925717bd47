"""The results of restoring from the trash, as text and JSON, and the exit status.

Lives here: the questions and remarks of undo and restore. Lives elsewhere: the commands
(commands/trash.py), displaying an operation (trashed.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ftpclient.cli import proposal, records, trashed
from ftpclient.cli.app import App
from ftpclient.cli.group import raise_for
from ftpclient.connection.client_id import client_id
from ftpclient.transfer.trash import is_undo
from ftpwire import paths
from ftpwire.errors import CommandError, Conflict, Expired
from ftpwire.job_end import CANCELLED
from ftpwire.messages import Failed, Restored, TrashedOperation
from ftpwire.paths import RemotePath

_OLD_SECONDS = 600
"""Seconds after which an operation is not undone without a question."""
_ADDS = ("cp", "edit", "put", "sync")
"""Commands that also add files, which undo doesn't remove."""


class Restoring:
    """The output of a command that restores from the trash.

    Args:
        operation: The operation to restore from; None if there is none.
        known: All operations, if this one is undone as a whole.
        dry_run: True if nothing is changed.
        way_out: The advice if something is in the way.
    """

    def __init__(
        self,
        app: App,
        operation: TrashedOperation | None,
        known: Sequence[TrashedOperation] = (),
        *,
        dry_run: bool = False,
        way_out: str = "",
    ) -> None:
        self._way_out = way_out
        self._app = app
        self._known = trashed.Operations(known)
        self._is_undo = bool(known)
        self._operation = operation
        self._dry_run = dry_run
        self._began = time.monotonic()

    def ask(self, *, yes: bool) -> None:
        """Print what will be undone; ask if the user may not mean it."""
        app, one = self._app, self._operation
        assert one is not None
        app.say(self._known.describe_undo(one))
        is_ours = one.client == client_id() or one.key in app.shell.operations
        is_new = one.time_ns > time.time_ns() - _OLD_SECONDS * 10**9
        if yes or self._dry_run or not app.can_ask or (is_ours and is_new):
            return
        items = [one.item for one in app.client.trash_items(one.name)]
        rows = [(item.path, *trashed.item_texts(item)) for item in items]
        proposal.show(app, rows, max(len(rows), one.items))
        reason = "was made by another client" if not is_ours else "is older than 10 minutes"
        if not app.yes_or_no(f"It {reason}. Undo it (yes/no)? "):
            app.say(CANCELLED)
            raise_for(1)

    def as_it_is(self, path: RemotePath) -> None:
        """Report that the file already has the wanted version."""
        if self._app.as_json:
            self._app.print_json(self._record(path, "same", None))
            self._app.print_json(self._totals(Restored(0, already=1), 0))
        else:
            self._app.say(f"{paths.show(path)}: already has this version")

    def finish(self, restored: Restored) -> None:
        """Print what was restored and what was not, and end the command with its exit status."""
        app = self._app
        errors = [_error(one.code, one.path, one.message) for one in restored.conflicts]
        for path in restored.paths:
            self._report(path)
        for path, error in zip((one.path for one in restored.conflicts), errors, strict=True):
            app.complain(error)
            if app.as_json:
                app.print_json(self._record(path, "failed", error))
        if restored.more_conflicts:
            app.complain(Conflict(trashed.count(restored.more_conflicts, "more conflict")))
        if restored.gone:
            gone = trashed.count(restored.gone, "entry")
            app.complain(Expired(f"{gone} not restored: no longer in the trash"))
        status = _status(restored, errors)
        if app.as_json:
            app.print_json(self._totals(restored, status))
        else:
            self._say(restored)
        raise_for(status)

    def _report(self, path: bytes) -> None:
        app = self._app
        if app.as_json:
            app.print_json(self._record(path, "planned" if self._dry_run else "done", None))
        elif self._dry_run or app.verbose:
            app.print(f"{self._verb():<10} {paths.show(path)}")

    def _verb(self) -> str:
        """Return ``redo`` for reverting an undo, ``undo`` for reverting a restore, else
        ``restore``."""
        one = self._operation
        if one is None or not self._is_undo:
            return "restore"
        if self._known.is_redo(one):
            return "redo"
        return "restore" if one.undoes is None or is_undo(one) else "undo"

    def _say(self, restored: Restored) -> None:
        app, one = self._app, self._operation
        assert one is not None
        count = restored.items
        named = trashed.named_paths(restored.paths, count)
        verb = "is" if count == 1 else "are"
        how = self._verb()
        if self._dry_run:
            app.say(f"dry run: would {how} {trashed.count(count, 'entry')}")
        elif count:
            done = {"redo": f"redone: {named}", "undo": f"undone: {named}"}
            app.say(done.get(how, f"{named} {verb} back"))
        conflicts = sum(problem.code == Conflict.code for problem in restored.conflicts)
        if conflicts and self._way_out:
            app.say(self._way_out)
        if restored.already and not (count or restored.conflicts or restored.gone):
            app.say("already restored")
        elif restored.already:
            app.say(f"already restored: {trashed.count(restored.already, 'entry')}")
        command = one.words.split(" ", 1)[0]
        if command in _ADDS and self._is_undo and not self._dry_run:
            app.say(f"files that {command} adds are never removed by undo")

    def _record(self, path: bytes, status: str, error: CommandError | None) -> dict[str, object]:
        record = records.action_record("restore", path, status=status, error=error)
        return record | {"operation": None if self._operation is None else self._operation.name}

    def _totals(self, restored: Restored, status: int) -> dict[str, object]:
        return records.totals_record(
            done=restored.items,
            unchanged=restored.already,
            failed=len(restored.conflicts) + restored.more_conflicts + restored.gone,
            seconds=time.monotonic() - self._began,
            status=status,
            dry_run=self._dry_run,
        )


def _error(code: str, path: bytes, message: str) -> CommandError:
    """Return the error of something that was not restored."""
    text = message if message.startswith("/") else f"{paths.show(path)}: {message}"
    error = Failed(code, text, path=path).to_error()
    return error if isinstance(error, CommandError) else CommandError(text)


def _status(restored: Restored, errors: Sequence[CommandError]) -> int:
    """Return the exit status: 12 for a conflict; if all failed for another reason, that one's."""
    if not (errors or restored.more_conflicts or restored.gone):
        return 0
    codes = {error.exit_code for error in errors}
    if restored.gone:
        codes.add(Expired.exit_code)
    if restored.more_conflicts or restored.items or len(codes) != 1:
        return Conflict.exit_code
    return codes.pop()
