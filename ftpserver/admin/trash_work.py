"""Restoring from the trash of accounts, and emptying it, for an administrator.

Lives here: running a user's verbs for an account, regardless of its permissions.
Lives elsewhere: the verbs themselves (workspace/workspace.py), listing operations (trash.py), the
callers (cli/trash.py, daemon/control_server.py).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import Engine

from ftpserver.accounts.account import Account
from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.trash_policy import policy_of
from ftpserver.admin.trash import all_operations, has_operations, opened_below
from ftpserver.settings.table import Settings
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.ownership import Ownership, identity
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.quota import QuotaStore
from ftpserver.storage.trash.glance import glance
from ftpserver.storage.trash.thinning import Thinning
from ftpserver.workspace.observer import SilentObserver
from ftpserver.workspace.workspace import Workspace
from ftpwire import messages, paths
from ftpwire.errors import (
    Busy,
    Cancelled,
    CommandError,
    Expired,
    Forbidden,
    Internal,
    InvalidPath,
    from_oserror,
)
from ftpwire.messages import Restored
from ftpwire.paths import Parts

_PATIENCE = 30.0
"""Seconds to wait for sessions that have the home locked. The limit is needed because a hostile
session process might never release the lock."""


class Emptied:
    """The result of emptying the trash.

    Attributes:
        operations: The number of operations that were purged.
        size: Bytes that became free.
        files: Files, directories and links that were removed.
        left: Operations that were not purged, and why, one line per operation.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.size = 0
        self.files = 0
        self.left: list[str] = []


class _UntilStop(SilentObserver):
    """Cancels long work when the server stops; the next start removes the rest."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping

    def progress_reporter(self, total: int | None) -> Callable[[int], None]:
        def look(done: int) -> None:
            self.look_for_cancel()

        return look

    def look_for_cancel(self) -> None:
        if self._stopping():
            raise Cancelled("the server is shutting down; its next start removes the rest")


class TrashWork:
    """Works on the trash of a root's accounts.

    Args:
        accounts: The accounts.
        quota_store: Their quota store.
        ownership: Knows which homes belong to other servers.
        settings: A function that returns the present settings.
        alone: True if no server runs, so that there cannot be any session.
        stopping: A function that returns whether to cancel the work.
    """

    def __init__(
        self,
        accounts: Accounts,
        quota_store: QuotaStore,
        ownership: Ownership,
        settings: Callable[[], Settings],
        *,
        alone: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._accounts = accounts
        self._quota_store = quota_store
        self._ownership = ownership
        self._settings = settings
        self._alone = alone
        self._observer = _UntilStop(stopping)

    @classmethod
    def without_server(cls, engine: Engine, settings: Settings) -> TrashWork:
        """Make one for use without a server. The caller holds the root's lock."""
        root = settings.root
        ownership = Ownership(identity(engine), root)
        accounts, ledger = Accounts(engine, root), Ledger(engine)
        return cls(accounts, ledger, ownership, lambda: settings, alone=True)

    def restore(
        self, name: str, operation: str, target: bytes | None = None, *, force: bool = False
    ) -> Restored:
        """Undo an operation. The account's quota applies.

        Args:
            name: The account's name.
            operation: The operation's complete name.
            target: A directory to restore to, instead of the former paths.
            force: True to move files that are in the way to the trash.

        Raises:
            NotFound: There is no such account, or no such operation.
            Expired, Busy, QuotaExceeded, DiskFull: As for a user.
            Forbidden: The home belongs to another server.
        """
        with self._workspace(self._accounts.get(name)) as workspace:
            workspace.begin_operation(messages.Operation(words=f"ftpd trash restore {operation}"))
            request = messages.Restore(
                operation, target=target, conflict="replace" if force else "skip"
            )
            home = workspace.home
            places = _paths_of(home, operation) if target is None else [target]
            whole = target is not None
            missing = {way for path in places for way in _missing(home, path, whole=whole)}
            try:
                return workspace.restore(request)
            finally:
                _give_away(home, sorted(missing))

    def empty(self, name: str | None = None, before: int | None = None) -> Emptied:
        """Purge the trash. Operations that are in use are left.

        Args:
            name: The account's name; None for all accounts, including operations of accounts that
                no longer exist.
            before: Purge only operations that began before this time, in seconds since 1970.

        Raises:
            NotFound: There is no such account.
        """
        done = Emptied()
        there_are = {account.id for account in self._accounts} if name is None else None
        for account in self._accounts if name is None else [self._accounts.get(name)]:
            try:
                self._empty(account, before, there_are, done)
            except (Busy, Forbidden, Internal) as error:
                done.left.append(f"{account.name}: {error}")
            except OSError as error:
                shown = paths.printable(str(account.home))
                done.left.append(f"{account.name}: {from_oserror(error, shown)}")
        return done

    def _empty(
        self, account: Account, before: int | None, there_are: set[int] | None, done: Emptied
    ) -> None:
        chosen = [one for one in all_operations(account) if before is None or one.began < before]
        if not chosen and (there_are is None or not has_operations(account.home)):
            self._remove_directory(account, before)
            return
        with self._workspace(account) as workspace:
            for one in chosen:
                try:
                    removed = workspace.purge(messages.Purge(one.name))
                except Expired:
                    continue  # purged by another process in the meantime
                except Busy as error:
                    done.left.append(f"{account.name}: {one.name}: {error}")
                    continue
                done.operations += bool(one.items)
                done.size += removed.size_bytes
                done.files += removed.files + removed.directories
            if there_are is not None:
                self._empty_left(workspace, before, there_are, done)
        self._remove_directory(account, before)

    def _empty_left(
        self, workspace: Workspace, before: int | None, there_are: set[int], done: Emptied
    ) -> None:
        """Purge operations in the home that belong to accounts that no longer exist."""
        tick = self._observer.look_for_cancel
        thinning = Thinning(workspace.home, self._quota_store, workspace.account.id, tick)
        thinning.expire_left(there_are, 0, before * 10**9 if before else time.time_ns())
        done.operations += len(thinning.operations)
        done.size += thinning.purged.size
        done.files += thinning.purged.files + thinning.purged.directories

    def _remove_directory(self, account: Account, before: int | None) -> None:
        """Remove the empty trash directory, if no server runs: an earlier version of the server
        would show it to users."""
        if not self._alone or before is not None:
            return
        try:
            os.rmdir(account.home / os.fsdecode(paths.TRASH))
        except FileNotFoundError:
            pass  # it has none
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise

    @contextmanager
    def _workspace(self, account: Account) -> Iterator[Workspace]:
        other = self._ownership.claim(account.home, use=False)
        if other is not None:
            raise Forbidden(f"the home of {account.name} belongs to {other}")
        settings = self._settings()
        workspace = Workspace(
            replace(account, permissions=Permissions()),
            self._quota_store,
            durable=settings.durable,
            observer=self._observer,
            policy=lambda: policy_of(account, settings),
            patience=_PATIENCE,
        )
        try:
            yield workspace
        except TimeoutError:
            raise Busy(
                f"a session has kept the home locked for {_PATIENCE:g} seconds: "
                "try again, or end it (ftpd sessions, ftpd kick)"
            ) from None
        finally:
            workspace.close()


def _paths_of(home: Home, operation: str) -> list[bytes]:
    """Return the paths that an operation has changed."""
    with opened_below(home.fd) as trash:
        seen = None if trash is None else glance(trash, operation)
    return [] if seen is None else [item.path.value for item in seen.contents.items]


def _missing(home: Home, path: bytes, *, whole: bool) -> list[Parts]:
    """Return the missing directories above a path, the topmost first.

    Args:
        whole: True to include the path itself.
    """
    try:
        parts = paths.split(path)
    except InvalidPath:
        return []  # nothing is restored there
    ways = [parts[:count] for count in range(1, len(parts) + whole)]
    for number, way in enumerate(ways):
        try:
            home.stat(way, follow=True)
        except FileNotFoundError:
            return ways[number:]
        except (OSError, CommandError):
            return []  # nothing can be restored there
    return []


def _give_away(home: Home, made: Iterable[Parts]) -> None:
    """Give the directories that root has made to the owner of the home. Directories that existed
    before keep their owner: an administrator may have made one that the user must not change."""
    owner = os.fstat(home.fd)
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for way in made:
        try:
            fd = home.tree.open_dir(way)
        except OSError:
            continue  # nothing was restored there
        try:
            if os.fstat(fd).st_uid == 0:
                os.fchown(fd, owner.st_uid, owner.st_gid)
        finally:
            os.close(fd)
