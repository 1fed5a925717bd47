"""The replies to `ftpd trash`, from a running server and without one.

Lives here: converting results to replies of the control socket. Lives elsewhere: the work
(admin/trash_work.py), the classes of the replies (control.py).
"""

from __future__ import annotations

from ftpserver.admin.trash_work import TrashWork
from ftpserver.daemon.control import TrashConflict, TrashEmptied, TrashRestored


class TrashAnswers:
    """Implements `control.TrashControl` in this process."""

    def __init__(self, work: TrashWork) -> None:
        self._work = work

    def restore_trash(
        self, account: str, operation: str, target: bytes | None = None, force: bool = False
    ) -> TrashRestored:
        """See `TrashControl`."""
        done = self._work.restore(account, operation, target, force=force)
        conflicts = [TrashConflict(one.path, one.code, one.message) for one in done.conflicts]
        return TrashRestored(
            operation, done.items, done.already, done.gone, conflicts, done.more_conflicts
        )

    def empty_trash(self, account: str | None = None, before: int | None = None) -> TrashEmptied:
        """See `TrashControl`."""
        done = self._work.empty(account, before)
        return TrashEmptied(done.operations, done.size, done.files, done.left)
