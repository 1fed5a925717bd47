"""Explaining whether an account may do something, and what decides it, without doing it.

Lives here: the questions, and running the server's own checks in the server's order.
Lives elsewhere: the checks (accounts/accounts.py, accounts/bans.py, accounts/limits.py,
storage/ownership.py, storage/permissions.py and workspace/needs.py, storage/batch.py,
storage/home.py, storage/ledger.py), options and printing (cli/explain.py).

Nothing is decided here: the same checks refuse a client, with the same text. What is only in the
memory of a running server is passed in (`Running`). The answer can differ from the server's in what
is not known here: quota that is reserved for an interrupted upload counts as taken, though that
upload may use it, and limits that were given to the server as options are not in its settings file.
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
from ftpserver.accounts.startups import RefusedConnection
from ftpserver.net.addresses import LOCAL
from ftpserver.settings.table import Settings
from ftpserver.storage.batch import Uploads
from ftpserver.storage.commit import target_of
from ftpserver.storage.file_systems import on_one_mount
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.ownership import Ownership, belongs_to, identity
from ftpserver.storage.permissions import Action, Rights, Rule
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
    IsADirectory,
    LoginRefused,
    QuotaExceeded,
    TooMany,
    from_oserror,
)
from ftpwire.messages import Message


@dataclass(frozen=True)
class Verdict:
    """The answer to a question.

    Attributes:
        allowed: True if it is allowed.
        decided_by: ``disabled``, ``expiry``, ``network``, ``owner`` (the home is another server's),
            ``ban``, ``penalty``, ``connections``, ``sessions``, ``permissions``, ``quota``,
            ``files quota``, ``disk`` (it is full), or ``files`` (what is there, or its mode).
        reason: One human-readable line: in general the text that the client gets; about log-ins,
            the text that the administrator gets.
        code: The code of the error that the client gets; None if it is allowed, or if the client
            gets no error.
        rule: The rule that decides about the path, if there is one.
        needed: Bytes that are needed, if this is about quota or disk space.
        free: Bytes that are free; None if unlimited, or if this is not about space.
        advice: The command or setting that changes the decision, if there is one.
        note: A further remark.
        trash_days: Days for which a removed file can be restored; None if the removal is final, or
            nothing is removed.
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
    "penalty": "ftpd unban {address}; trusted-networks, if many clients share this network",
    "connections": "max-startups; trusted-networks, if many clients share this network",
    "sessions": "ftpd sessions and ftpd kick; ftpd user set {user} --max-sessions NUMBER, or the "
    "settings max-user-sessions, max-address-sessions and max-sessions",
    "permissions": "ftpd user set {user} --permit RULE, which replaces all rules (now: {rules})",
    "quota": "ftpd user set {user} --quota SIZE",
    "files quota": "ftpd user set {user} --max-files NUMBER",
    "disk": "free space on the disk of the home",
}
"""For each value of `Verdict.decided_by`: how to change that decision."""


_VERBS = {
    Action.SEE: "look at",
    Action.LIST: "list",
    Action.READ: "read",
    Action.CREATE: "write to",
    Action.REPLACE: "replace",
    Action.DELETE: "remove",
}


class _Closed(LoginRefused):
    """No log-in is allowed, whatever the password. ``by``: see `Verdict.decided_by`."""

    def __init__(self, reason: str, by: str) -> None:
        super().__init__(reason)
        self.by = by


def _check_open(account: Account, host: str) -> None:
    """Raise _Closed if the account allows no log-in from a host."""
    reason = account.closed_to(host)
    if reason is None:
        return
    if account.closed_to(LOCAL) is None:
        raise _Closed(reason, "network")
    raise _Closed(reason, "disabled" if account.disabled else "expiry")


def _check_owner(engine: Engine, root: Path, account: Account) -> None:
    """Raise _Closed if the home belongs to another server."""
    other = Ownership(identity(engine), root).other(account.home)
    if other is not None:
        raise _Closed(belongs_to(other), "owner")


def _check_rights(account: Account, request: Message) -> None:
    """Raise Forbidden if the account's permissions forbid a request.

    If a rule ``none`` for the home forbids it, the text is another than that for the client
    ("closed account"), as the account is not closed: it can log in.
    """
    rights = account.rights
    try:
        needs.require(rights, request)
    except Forbidden as error:
        if error.rule != Rule((), Rights.NONE).text or error.path is None:
            raise
        verb = next(
            _VERBS[need.action]
            for need in needs.NEEDS[type(request)]
            if not rights.allows(need.action, paths.split(getattr(request, need.field)))
        )
        shown = paths.show(error.path)
        text = f"{account.name} may not {verb} {shown} (rule: {error.rule})"
        raise error.with_text(text) from None


class _NotTaken(CommandError):
    """No connection from the address is accepted. ``by``: see `Verdict.decided_by`."""

    def __init__(self, refused: RefusedConnection) -> None:
        super().__init__(refused.reason)
        self.by = refused.by


@dataclass(frozen=True)
class Running:
    """Facts that are only in the memory of the running server.

    Attributes:
        turned_away: The reason why a connection from the address would be refused, if it would be.
        too_many: The reason why the account cannot have another session, if it cannot.
        note: A further remark about the address.
        banned: The text of the error that a ban would cause.
        is_there: True if a server runs, and these facts are its answer.
    """

    turned_away: RefusedConnection | None = None
    too_many: str | None = None
    note: str | None = None
    banned: str | None = None
    is_there: bool = False


def log_in(
    engine: Engine, settings: Settings, account: Account, host: str, running: Running
) -> Verdict:
    """Explain whether a log-in with the right password succeeds.

    Args:
        engine: The accounts database.
        settings: The server's settings, with its limits for sessions and bans.
        account: The account.
        host: The client's address.
        running: The facts from the running server.
    """
    # with an empty node, no server's rows look like those of a dead run of this one
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


class Explainer:
    """Explains what one account may do with its files, by the present contents of its home.

    Args:
        engine: The accounts database.
        root: The server's root.
        account: The account.
        trash: The policy of the account's trash.
    """

    def __init__(self, engine: Engine, root: Path, account: Account, trash: Policy) -> None:
        self._engine = engine
        self._root = root
        self._account = account
        self._trash = trash
        self._ledger = Ledger(engine)

    def put(self, path: bytes, size: int | None) -> Verdict:
        """Explain whether it may store a file of some size, replacing what is there."""
        request = messages.Put(path, size)

        def check(home: Home) -> None:
            uploads = Uploads(home, self._ledger, self._account.id, durable=False)
            # for a file this large, clients ask first, so this check comes before that of the quota
            if size is not None and size > RESUME_FROM:
                uploads.check(request)
            self._ledger.check_space(self._account.id, size or 0)
            home.check_disk(size or 0)
            uploads.check(request)

        return self._ask(request, check, path, needed=size)

    def get(self, path: bytes, *, follow: bool) -> Verdict:
        """Explain whether it may fetch a file or a link; with ``follow``, the link's target."""

        def check(home: Home) -> None:
            if not follow and stat.S_ISLNK(home.stat(target_of(path), follow=False).st_mode):
                return
            fd, _ = home.tree.open_file(paths.split(path))
            os.close(fd)

        return self._ask(messages.Get(path), check, path)

    def list(self, path: bytes) -> Verdict:
        """Explain whether it may list a directory."""

        def check(home: Home) -> None:
            deque(home.list(path, recursive=False, follow=False, digest=False), maxlen=0)

        return self._ask(messages.List(path), check, path)

    def make_dir(self, path: bytes) -> Verdict:
        """Explain whether it may make a directory."""

        def check(home: Home) -> None:
            parts = target_of(path)
            os.close(home.tree.open_dir(parts[:-1]))
            if _is_there(home, parts):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._ledger.check_space(self._account.id, 0)

        return self._ask(messages.MakeDir(path), check, path)

    def remove(self, path: bytes, *, recursive: bool) -> Verdict:
        """Explain whether it may remove a file, an empty directory, or a tree."""
        final = self._why_final()

        def check(home: Home) -> None:
            nonlocal final
            info = home.stat(target_of(path), follow=False)
            if stat.S_ISDIR(info.st_mode) and not recursive:
                raise IsADirectory(f"{paths.show(path)}: is a directory")
            if final is None and not _on_one_mount_with_home(home, path):
                final = "it is on another file system than the home's trash"

        verdict = self._ask(messages.Remove(path, recursive), check, path)
        if not verdict.allowed:
            return verdict
        if final is not None:
            return replace(verdict, reason=f"the removal is final: {final}")
        days = self._trash.days
        reason = f"it goes to the trash for {days} day{'' if days == 1 else 's'}"
        return replace(verdict, reason=reason, trash_days=days)

    def _why_final(self) -> str | None:
        """Return why the account has no trash; None if it has one."""
        if self._trash.on:
            return None
        if self._account.trash_days == 0:
            name = self._account.name
            return f"the account keeps no trash (ftpd user set {name} --trash-days default)"
        return "the server keeps no trash (trash-days)"

    def move(self, source: bytes, target: bytes) -> Verdict:
        """Explain whether it may rename something to another path."""

        def check(home: Home) -> None:
            home.check_move(source, target, replace=True)

        return self._ask(messages.Move(source, target), check, source)

    def _ask(
        self,
        request: Message,
        check: Callable[[Home], None],
        path: bytes,
        needed: int | None = None,
    ) -> Verdict:
        account = self._account

        def check_all() -> None:
            _check_open(account, LOCAL)
            _check_owner(self._engine, self._root, account)
            _check_rights(account, request)
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
            needed=needed,
            free=None if needed is None else account.free,
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
    """Return whether something could be renamed to the top of its home."""
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
            advice = advice.format(user=account.name, address=host, rules=account.permissions)
        # a connection that isn't accepted is closed without an error
        code = None if isinstance(error, _NotTaken) else error.code
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
