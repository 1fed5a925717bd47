"""Whether an account may do something, and what decides it: asked without doing it.

Lives here: the questions, and putting the server's own checks to them in the server's order.
Lives elsewhere: the checks (accounts/accounts.py, accounts/bans.py, accounts/limits.py,
storage/ownership.py, storage/permissions.py and workspace/needs.py, storage/batch.py,
storage/home.py, storage/ledger.py), options and printing (cli/explain.py).

Nothing is decided here: what answers a question is what refuses a client, with the same text.
What only a running server has in its memory is asked of it, and handed in (`Running`).
What is not known here can differ: the room that is kept for an interrupted upload counts as taken,
though the same upload may have it; limits that a server was given by flags are not in its file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Engine

from ftpserver.accounts.account import Account
from ftpserver.accounts.limits import Limits
from ftpserver.accounts.startups import TurnedAway
from ftpserver.net.addresses import LOCAL
from ftpserver.settings.table import Settings
from ftpserver.storage.batch import Uploads
from ftpserver.storage.commit import target_of
from ftpserver.storage.file_systems import on_one_mount
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.ownership import Ownership, belongs_to, identity
from ftpserver.storage.resumable import RESUME_FROM
from ftpserver.storage.trash.policy import Policy
from ftpserver.workspace import needs
from ftpwire import messages, paths
from ftpwire.errors import (
    FILES,
    Banned,
    CommandError,
    DiskFull,
    Forbidden,
    LoginRefused,
    QuotaExceeded,
    TooMany,
    from_oserror,
)
from ftpwire.messages import Message


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        decided_by: ``disabled``, ``expiry``, ``network``, ``owner`` (the home is another server's),
            ``ban``, ``penalty``, ``connections``, ``sessions``, ``permissions``, ``quota``,
            ``files quota``, ``disk`` (it is full), or ``files`` (what is there, or its mode).
        code: Of the error that a client gets; None when it is allowed, or the client is told
            nothing.
        reason: One line for people: what the client is told, or the administrator of log-ins.
        rule: The rule that decides about the path, where there is one.
        needed: Bytes, where room decides.
        free: Bytes that are free; None when unlimited, or when it isn't about room.
        advice: What changes it, where an administrator's command does.
        note: What else there is to know.
        trash_days: How long what is removed can be restored; None: it is final, or nothing is
            removed.
    """

    allowed: bool
    decided_by: str
    reason: str
    code: str | None = None
    rule: str | None = None
    needed: int | None = None
    free: int | None = None
    advice: str | None = None
    note: str | None = None
    trash_days: int | None = None


_ADVICE = {
    "disabled": "ftpd user enable {user}",
    "expiry": "ftpd user set {user} --expires never",
    "network": "ftpd user set {user} --network NETWORK",
    "owner": "ftpd user set {user} --take-home, once the other server no longer uses the home",
    "ban": "ftpd unban {address}",
    "penalty": "ftpd unban {address}; trusted-networks, where many clients come from there",
    "connections": "max-startups; trusted-networks, where many clients come from there",
    "sessions": "ftpd sessions and ftpd kick; ftpd user set {user} --max-sessions NUMBER, or the "
    "settings max-user-sessions, max-address-sessions and max-sessions",
    "permissions": "ftpd user set {user} --permit RULE",
    "quota": "ftpd user set {user} --quota SIZE",
    "files quota": "ftpd user set {user} --max-files NUMBER",
    "disk": "make room on the disk of the home",
}
"""By what decides: what to do if it is not as it should be."""


class _Closed(LoginRefused):
    """Nobody may log in, whatever the password. ``by``: what decides it."""

    def __init__(self, reason: str, by: str) -> None:
        super().__init__(reason)
        self.by = by


def _check_open(account: Account, host: str) -> None:
    """Raise _Closed when nobody may log in from there."""
    reason = account.closed_to(host)
    if reason is None:
        return
    if account.closed_to(LOCAL) is None:
        raise _Closed(reason, "network")
    raise _Closed(reason, "disabled" if account.disabled else "expiry")


def _check_owner(engine: Engine, root: Path, account: Account) -> None:
    """Raise _Closed when the home belongs to another server."""
    other = Ownership(identity(engine), root).other(account.home)
    if other is not None:
        raise _Closed(belongs_to(other), "owner")


class _NotTaken(CommandError):
    """No connection is taken from the address. ``by``: what decides it."""

    def __init__(self, refused: TurnedAway) -> None:
        super().__init__(refused.reason)
        self.by = refused.by


@dataclass(frozen=True)
class Running:
    """What only the memory of the running server has.

    Attributes:
        turned_away: Why it would take no connection from the address.
        too_many: Why the account can have no more sessions.
        note: What else there is to say.
        banned: What it would tell of a ban.
        is_there: It runs, and has said all of this.
    """

    turned_away: TurnedAway | None = None
    too_many: str | None = None
    note: str | None = None
    banned: str | None = None
    is_there: bool = False


def log_in(
    engine: Engine, settings: Settings, account: Account, host: str, running: Running
) -> Verdict:
    """Whether a log-in with the right password succeeds.

    Args:
        settings: Of the server: its limits for sessions, and its bans.
        host: The address that it comes from.
    """
    # no server's rows are its own, and so none are taken for those of a dead run
    limits = Limits(engine, settings, Ledger(engine, node="", incarnation="asking"))

    def check() -> None:
        if running.turned_away is not None:
            raise _NotTaken(running.turned_away)
        if running.banned is not None:
            raise Banned(running.banned)
        ban = None if running.is_there else limits.ban_of(host, account.name)
        if ban is not None:
            raise ban
        _check_open(account, host)
        _check_owner(engine, settings.root, account)
        if running.too_many is not None:
            raise TooMany(running.too_many)
        limits.check_enter(account, host)

    where = "" if host == LOCAL else f" from {host}"
    verdict = _judged(check, f"{account.name} may log in{where}", "account", account, host)
    return verdict if verdict.reason == running.note else replace(verdict, note=running.note)


class Asking:
    """What one account may do with its files, asked of its home as it is now.

    Args:
        root: The server's directory of homes.
        trash: What the account's trash keeps.
    """

    def __init__(self, engine: Engine, root: Path, account: Account, trash: Policy) -> None:
        self._engine = engine
        self._root = root
        self._account = account
        self._trash = trash
        self._ledger = Ledger(engine)

    def put(self, path: bytes, size: int | None) -> Verdict:
        """Store a file of some bytes, replacing what is there."""
        request = messages.Put(path, size)

        def check(home: Home) -> None:
            uploads = Uploads(home, self._ledger, self._account.id, durable=False)
            if size is not None and size > RESUME_FROM:  # clients ask first then
                uploads.check(request)
            self._ledger.check_room(self._account.id, size or 0)
            home.check_disk(size or 0)
            uploads.check(request)

        return self._ask(request, check, path, room=size)

    def get(self, path: bytes, *, follow: bool) -> Verdict:
        """Fetch a file, or a link as such; with ``follow`` what it leads to."""

        def check(home: Home) -> None:
            if not follow and stat.S_ISLNK(home.stat(target_of(path), follow=False).st_mode):
                return
            fd, _ = home.tree.open_file(paths.split(path))
            os.close(fd)

        return self._ask(messages.Get(path), check, path)

    def list(self, path: bytes) -> Verdict:
        """List a directory."""

        def check(home: Home) -> None:
            deque(home.list(path, recursive=False, follow=False, digest=False), maxlen=0)

        return self._ask(messages.List(path), check, path)

    def make_dir(self, path: bytes) -> Verdict:
        """Make a directory."""

        def check(home: Home) -> None:
            parts = target_of(path)
            os.close(home.tree.open_dir(parts[:-1]))
            if _is_there(home, parts):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._ledger.check_room(self._account.id, 0)

        return self._ask(messages.MakeDir(path), check, path)

    def remove(self, path: bytes, *, recursive: bool) -> Verdict:
        """Remove a file, an empty directory, or a tree."""
        final = self._why_final()

        def check(home: Home) -> None:
            nonlocal final
            info = home.stat(target_of(path), follow=False)
            if stat.S_ISDIR(info.st_mode) and not recursive:
                fd = home.tree.open_dir(paths.split(path))
                try:
                    if os.listdir(fd):
                        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
                finally:
                    os.close(fd)
            if final is None and not _on_one_mount_with_home(home, path):
                final = "it lies on another file system than the home's trash"

        verdict = self._ask(messages.Remove(path, recursive), check, path)
        if not verdict.allowed:
            return verdict
        if final is not None:
            return replace(verdict, reason=f"it is final: {final}")
        days = self._trash.days
        reason = f"it goes to the trash for {days} day{'' if days == 1 else 's'}"
        return replace(verdict, reason=reason, trash_days=days)

    def _why_final(self) -> str | None:
        """Why nothing that the account removes goes to the trash; None: it does."""
        if self._trash.on:
            return None
        if self._account.trash_days == 0:
            name = self._account.name
            return f"the account keeps no trash (ftpd user set {name} --trash-days default)"
        return "the server keeps no trash (trash-days)"

    def move(self, source: bytes, target: bytes) -> Verdict:
        """Rename something to exactly another path."""

        def check(home: Home) -> None:
            home.check_move(source, target, replace=True)

        return self._ask(messages.Move(source, target), check, source)

    def _ask(
        self,
        request: Message,
        check: Callable[[Home], None],
        path: bytes,
        room: int | None = None,
    ) -> Verdict:
        account = self._account

        def check_all() -> None:
            _check_open(account, LOCAL)
            _check_owner(self._engine, self._root, account)
            needs.require(account.rights, request)
            try:
                with _looking_at(account) as home:
                    check(home)
            except OSError as error:
                raise from_oserror(error, paths.show(path)) from None

        rule = account.rights.rule_for(paths.split(path)).text
        return _judged(
            check_all,
            "nothing forbids it",
            "permissions",
            account,
            rule=rule,
            needed=room,
            free=None if room is None else account.free,
        )


@contextmanager
def _looking_at(account: Account) -> Iterator[Home]:
    home = Home(account.home, changing=False)
    try:
        home.set_permissions(account.rights)
        yield home
    finally:
        home.close()


def _on_one_mount_with_home(home: Home, path: bytes) -> bool:
    """Whether something could be renamed to the top of its home."""
    fd = home.tree.open_dir(paths.split(path)[:-1])
    try:
        return on_one_mount(fd, home.fd)
    finally:
        os.close(fd)


def _is_there(home: Home, parts: tuple[bytes, ...]) -> bool:
    try:
        home.stat(parts, follow=False)
    except FileNotFoundError:
        return False
    return True


def _judged(
    check: Callable[[], None],
    allowed: str,
    decided_by: str,
    account: Account,
    host: str = LOCAL,
    *,
    rule: str | None = None,
    needed: int | None = None,
    free: int | None = None,
) -> Verdict:
    try:
        check()
    except CommandError as error:
        by = _decider(error)
        if isinstance(error, QuotaExceeded):
            counts_bytes = error.what != FILES
            needed, free = (error.needed, error.free) if counts_bytes else (None, None)
        advice = _ADVICE.get(by)
        if advice is not None:
            advice = advice.format(user=account.name, address=host)
        code = None if isinstance(error, _NotTaken) else error.code  # nothing is said
        return Verdict(False, by, str(error), code, rule, needed, free, advice)
    return Verdict(True, decided_by, allowed, rule=rule, needed=needed, free=free)


def _decider(error: CommandError) -> str:
    match error:
        case _Closed() | _NotTaken():
            return error.by
        case Banned():
            return "ban"
        case TooMany():
            return "sessions"
        case QuotaExceeded():
            return "files quota" if error.what == FILES else "quota"
        case DiskFull():
            return "disk"
        case Forbidden() if error.rule is not None:
            return "permissions"
    return "files"
