"""Users: their rows, their passwords, and where their homes are.

Lives here: adding, finding, changing and removing accounts, checking a password.
Lives elsewhere: tokens (tokens.py), quotas while files move (storage/ledger.py), what an account
may do (storage/permissions.py), the tables (database.py).

What ends an account's sessions (another password, disabling) raises its ``epoch``; a session
that was opened in an earlier one is over.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TypedDict, Unpack

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ftpserver.accounts.nesting import Homes
from ftpserver.accounts.passwords import DUMMY_HASH, hash_password, verify_password
from ftpserver.clock import RUN
from ftpserver.database import account, durable, reading, token
from ftpserver.net.addresses import LOCAL, is_in
from ftpserver.settings.table import state_of
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.quota import most_files
from ftpwire import paths
from ftpwire.errors import BadAccount, LoginRefused, NameTaken, NotFound
from ftpwire.paths import Parts
from ftpwire.units import iso

Network = IPv4Network | IPv6Network


REFUSED = "wrong user name or password"
_LOOK_FOR_NESTS = 60.0
"""Seconds after which it is looked again whether homes lie in others."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


@dataclass(frozen=True)
class Account:
    """One user.

    Attributes:
        id: Never given out twice.
        home: The directory that is the user's ``/``.
        own_home: Whether that is another one than ROOT/NAME.
        quota: Bytes; None when unlimited.
        used: Bytes of stored files.
        held: Bytes reserved by uploads under way.
        created: Seconds since 1970.
        max_files: Most files, directories and links; None where nobody has set it.
        files: How many there are.
        permissions: What it may do where.
        networks: Where log-ins may come from; empty for everywhere.
        expires: Seconds since 1970; None for never.
        disabled: Log-ins are refused.
        max_sessions: None for no limit of its own.
        peer_user: The system user that needs no password over a Unix socket; None: nobody.
        system_user: Whom its sessions are to the system, where each has a process; None: whom the
            server is.
        limit_rate: Bytes a second that all its sessions together may move.
        epoch: Sessions and tokens of an earlier one are over.
        inner: Where homes of other accounts lie in this one.
    """

    id: int
    name: str
    home: Path
    own_home: bool
    quota: int | None
    used: int
    held: int
    created: int
    max_files: int | None
    files: int
    permissions: Permissions
    networks: tuple[Network, ...]
    expires: int | None
    disabled: bool
    max_sessions: int | None
    limit_rate: int | None
    peer_user: str | None
    system_user: str | None
    epoch: int
    inner: tuple[Parts, ...] = ()

    @cached_property
    def rights(self) -> Permissions:
        """The permissions that hold: nothing is permitted in homes of others."""
        return self.permissions.without(self.inner) if self.inner else self.permissions

    @property
    def free(self) -> int | None:
        """Bytes that a new upload may take; None when unlimited."""
        return None if self.quota is None else max(0, self.quota - self.used - self.held)

    @property
    def most_files(self) -> int | None:
        """How many files, directories and links it may have; None for any number."""
        return most_files(self.quota, self.max_files)

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= RUN.latest()

    @property
    def ended(self) -> str | None:
        """Why nobody may log in, from anywhere; None for an account that is in use."""
        if self.disabled:
            return "the account is disabled"
        if self.expired:
            return f"the account expired on {iso(self.expires or 0)}"
        return None

    def check_open(self, host: str, refusal: str = REFUSED) -> None:
        """See whether someone who has proved to be its user may log in from an address.

        Args:
            refusal: The text for a wrong address: that of a wrong secret.

        Raises:
            Refused: Not now, which is told; or not from there, which only the log says: the
                networks are there so that a stolen password is worth nothing elsewhere.
        """
        if self.ended is not None:
            raise Refused(self.ended, self.ended)
        if reason := self.closed_to(host):
            raise Refused(refusal, reason)

    def closed_to(self, host: str) -> str | None:
        """Why nobody may log in from an address; None: who knows the password may."""
        if self.ended is not None:
            return self.ended
        if self.networks and not is_in(host, self.networks):
            return f"the account is closed to {host}"
        return None


class Refused(LoginRefused):
    """A log-in that is refused. The client is told less than the log.

    Attributes:
        reason: The true one, for the administrator.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Changes(TypedDict, total=False):
    """What can be set of an account; what isn't named stays."""

    quota: int | None
    max_files: int | None
    permissions: Permissions
    networks: Sequence[Network]
    expires: int | None
    disabled: bool
    max_sessions: int | None
    peer_user: str | None
    system_user: str | None
    limit_rate: int | None


@dataclass(frozen=True)
class NewAccount:
    """An account to be made. ``home``: another directory than ROOT/NAME."""

    name: str
    password_hash: str
    home: Path | None = None
    given: Changes = field(default_factory=Changes)


class Accounts:
    """The accounts of one root. Safe to use from many threads and processes.

    Attributes:
        root: Of the homes.
    """

    def __init__(self, engine: Engine, root: Path) -> None:
        self.root = root
        self._engine = engine
        self._reading = reading(engine)
        self._nests: dict[str, tuple[Parts, ...]] = {}
        self._nests_until = -1.0

    def add(
        self,
        name: str,
        password: str,
        *,
        password_hash: str | None = None,
        home: Path | None = None,
        within: Callable[[Connection], None] | None = None,
        **given: Unpack[Changes],
    ) -> Account:
        """Make an account and its home.

        Args:
            password_hash: Of an account that comes from elsewhere; instead of the password.
            home: Another directory than ROOT/NAME.
            within: Done in the same transaction, before anything else: if it raises, nothing was
                done.

        Raises:
            BadAccount: The name, password or home can't be used.
            NameTaken: There is an account of that name.
        """
        check_name(name)
        hashed = hash_password(password) if password_hash is None else password_hash
        self._check_home(name, home, self.homes())
        values = self._row(NewAccount(name, hashed, home, given))
        try:
            with durable(self._engine).begin() as connection:
                if within is not None:
                    within(connection)
                connection.execute(insert(account).values(values))
                self._make_directory(name, home)  # now that nobody else can get the name
        except IntegrityError:
            raise NameTaken(f"{name}: there is an account of that name") from None
        return self.get(name)

    def apply(
        self, new: Sequence[NewAccount], changed: Mapping[str, tuple[Changes, str | None]]
    ) -> None:
        """Add and change accounts, all of them or none.

        Args:
            changed: By name: what to set, and another password hash, which ends the account's
                sessions and tokens.

        Raises:
            BadAccount: A home can't be used.
            NameTaken, NotFound: Somebody else was quicker.
        """
        made: list[Path] = []
        homes = self.homes()
        try:
            for one in new:
                check_name(one.name)
                directory = self.root / one.name if one.home is None else one.home
                there = directory.exists()
                self._check_home(one.name, one.home, homes)
                homes.add(one.name, directory)
                self._make_directory(one.name, one.home)
                if not there:
                    made.append(directory)
            with durable(self._engine).begin() as connection:
                for one in new:
                    connection.execute(insert(account).values(self._row(one)))
                for name, (changes, hashed) in changed.items():
                    kept = select(account.c.password_hash).where(account.c.name == name)
                    before = connection.execute(kept).scalar()
                    _must_exist(before is not None, name)
                    if hashed is not None and before != hashed:
                        self._set_hash(connection, name, hashed)
                    if changes:
                        mine = update(account).where(account.c.name == name)
                        connection.execute(mine.values(_columns(changes)))
        except BaseException as error:
            _remove_empty(made)
            if isinstance(error, IntegrityError):
                raise NameTaken("an account of that name was added meanwhile") from None
            raise

    def _check_home(self, name: str, home: Path | None, homes: Homes) -> None:
        if home is None and self._find(name) is not None:
            raise NameTaken(f"{name}: there is an account of that name")
        if home is None and self._is_home(self.root / name):
            raise BadAccount(f"{self.root / name}: is the home of another account")
        directory = self.root / name if home is None else home.absolute()
        real, state = directory.resolve(), state_of(self.root).resolve()
        if real.is_relative_to(state) or state.is_relative_to(real):
            raise BadAccount(f"{_shown(directory)}: the server's own state is there: take another")
        if (outer := homes.outer(directory)) is not None:
            raise BadAccount(
                f"{_shown(directory)}: lies in the home of {outer}, who could remove it: take "
                "another, or give both the same"
            )
        if (inner := homes.inner(directory)) is not None:
            raise BadAccount(
                f"{_shown(directory)}: the home of {inner} lies in it, and {name} could remove it: "
                "take another"
            )

    def _make_directory(self, name: str, home: Path | None) -> None:
        directory = self.root / name if home is None else home.absolute()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if home is not None:
                _try_staging(directory)
            if home is None and _has_contents(directory):
                raise BadAccount(
                    f"{_shown(directory)}: exists and has contents: "
                    f"give --home {_shown(directory)} to hand them to {name}"
                )
        except OSError as error:
            why = (error.strerror or "").lower()
            raise BadAccount(f"{_shown(directory)}: can't be a home: {why}") from error

    def sharing(self, home: Path) -> list[str]:
        """Names of the accounts that have a part of their homes in a directory, or around it."""
        real = home.resolve()
        theirs = [(one.name, one.home.resolve()) for one in self]
        return [
            name
            for name, other in theirs
            if other.is_relative_to(real) or real.is_relative_to(other)
        ]

    def _row(self, new: NewAccount) -> dict[str, object]:
        """A new account as the table has it."""
        return {
            "name": new.name,
            "password_hash": new.password_hash,
            "home": None if new.home is None else self._stored_home(new.home),
            "created": int(time.time()),
            "dirty": new.home is not None,
            **_columns(new.given),
        }

    def _stored_home(self, home: Path) -> bytes:
        """A home as the table has it: below the root it goes where the root goes."""
        absolute = home.absolute()
        inside = absolute.is_relative_to(self.root) and ".." not in absolute.parts
        return os.fsencode(absolute.relative_to(self.root) if inside else absolute)

    def _is_home(self, directory: Path) -> bool:
        """Whether an account has the directory, though it isn't called so (any more)."""
        written = {os.fsencode(directory), self._stored_home(directory)}
        taken = select(account.c.id).where(account.c.home.in_(written))
        with self._reading.connect() as connection:
            return connection.execute(taken).first() is not None

    def _find(self, name: str) -> Row[tuple[object, ...]] | None:
        if not _NAME.fullmatch(name):
            return None  # nobody is called so, and some of it is no text that a database takes
        with self._reading.connect() as connection:
            return connection.execute(select(account).where(account.c.name == name)).first()

    def get(self, name: str) -> Account:
        """Raises NotFound when there is no account of that name."""
        row = self._find(name)
        if row is None:
            raise NotFound(f"{name}: no such account")
        return self.from_row(row)

    def by_id(self, account_id: int) -> Account:
        """Raises NotFound when the account is gone."""
        with self._reading.connect() as connection:
            row = connection.execute(select(account).where(account.c.id == account_id)).first()
        if row is None:
            raise NotFound("the account was removed")
        return self.from_row(row)

    def __iter__(self) -> Iterator[Account]:
        """All accounts, by name."""
        with self._reading.connect() as connection:
            rows = connection.execute(select(account).order_by(account.c.name)).all()
        return iter([self.from_row(row) for row in rows])

    def __len__(self) -> int:
        with self._reading.connect() as connection:
            return len(connection.execute(select(account.c.id)).all())

    def set_password(self, name: str, password: str) -> Account:
        """Set the password; the account's sessions and tokens end. Raises NotFound, BadAccount."""
        hashed = hash_password(password)
        with durable(self._engine).begin() as connection:
            self._set_hash(connection, name, hashed)
        return self.get(name)

    @staticmethod
    def _set_hash(connection: Connection, name: str, hashed: str) -> None:
        changed = connection.execute(
            update(account)
            .where(account.c.name == name)
            .values(password_hash=hashed, epoch=account.c.epoch + 1)
        )
        _must_exist(changed.rowcount, name)
        owner = select(account.c.id).where(account.c.name == name).scalar_subquery()
        connection.execute(delete(token).where(token.c.account_id == owner))

    def check_password(self, name: str, password: str) -> bool:
        """Whether that is the account's password; takes as long when there is no account."""
        row = self._find(name)
        return verify_password(DUMMY_HASH if row is None else row.password_hash, password)

    def change(self, name: str, **changes: Unpack[Changes]) -> Account:
        """Set something; returns the account as it is now. Raises NotFound.

        Running sessions follow within a second; a disabled account's end.
        """
        with durable(self._engine).begin() as connection:
            changed = connection.execute(
                update(account).where(account.c.name == name).values(_columns(changes))
            )
            _must_exist(changed.rowcount, name)
        return self.get(name)

    def rename(self, name: str, new: str) -> Account:
        """Give the account another name; a home that was ROOT/NAME stays where it is.

        Its sessions end, because they say who they are by name. Raises NotFound, BadAccount.
        """
        check_name(new)
        old = self.get(name)
        values = {"name": new, "epoch": old.epoch + 1, "home": self._stored_home(old.home)}
        try:
            with durable(self._engine).begin() as connection:
                changed = connection.execute(
                    update(account).where(account.c.name == name).values(values)
                )
                _must_exist(changed.rowcount, name)
        except IntegrityError:
            raise NameTaken(f"{new}: there is an account of that name") from None
        return self.get(new)

    def remove(self, name: str) -> Account:
        """Remove the account, its tokens and sessions; its files stay. Returns what it was.

        Raises NotFound.
        """
        removed = self.get(name)
        with durable(self._engine).begin() as connection:
            connection.execute(delete(account).where(account.c.id == removed.id))
        return removed

    def log_in(self, name: str, password: str, host: str = LOCAL) -> Account:
        """The account, if the password is right and it may log in.

        Args:
            host: The address that it is from.

        Raises:
            Refused: The same, after the same time, whether the name or the password is wrong or
                the address is not permitted. That an account is disabled or has expired is told
                after the right password, and takes as long.
        """
        row = self._find(name)
        right = verify_password(DUMMY_HASH if row is None else row.password_hash, password)
        if row is None:
            raise Refused(REFUSED, "no such account")
        if not right:
            raise Refused(REFUSED, "wrong password")
        found = self.from_row(row)
        found.check_open(host)
        return found

    def log_in_peer(self, name: str, uid: int | None) -> Account:
        """The account, if the system user at the other end of a Unix socket may use it.

        Args:
            uid: As the kernel tells; None when the connection is none of that kind.

        Raises:
            Refused: The same, whatever the reason is.
        """
        row = self._find(name)
        if row is None:
            raise Refused(REFUSED, "no such account")
        found = self.from_row(row)
        if uid is None or found.peer_user is None or uid != _uid_of(found.peer_user):
            raise Refused(REFUSED, f"not the account of the system user {uid}")
        found.check_open(LOCAL)
        return found

    def password_hash(self, name: str) -> str:
        """What is stored of the password, for an export. Raises NotFound."""
        row = self._find(name)
        _must_exist(row is not None, name)
        assert row is not None
        return str(row.password_hash)

    def from_row(self, row: Row[tuple[object, ...]]) -> Account:
        """The account that a row with the table's columns tells of."""
        return Account(
            id=row.id,
            name=row.name,
            home=home_of(self.root, row.name, row.home),
            own_home=row.home is not None,
            quota=row.quota,
            used=row.used,
            held=row.held,
            created=row.created,
            max_files=row.max_files,
            files=row.files,
            permissions=Permissions.parse(row.permissions),
            networks=tuple(ip_network(one) for one in row.networks.split(",") if one),
            expires=row.expires,
            disabled=row.disabled,
            max_sessions=row.max_sessions,
            peer_user=row.peer_user,
            system_user=row.system_user,
            limit_rate=row.limit_rate,
            epoch=row.epoch,
            inner=self.inner_of(row.name),
        )

    def inner_of(self, name: str) -> tuple[Parts, ...]:
        """Where homes of others lie in an account's, links apart. New ones are refused, so that is
        only looked for now and then."""
        if self._nests_until < time.monotonic():
            nests: dict[str, tuple[Parts, ...]] = {}
            for nest in self.homes(resolve=False).nests():
                nests[nest.outer] = (*nests.get(nest.outer, ()), nest.parts)
            self._nests, self._nests_until = nests, time.monotonic() + _LOOK_FOR_NESTS
        return self._nests.get(name, ())

    def homes(self, *, resolve: bool = True) -> Homes:
        """The homes of all accounts."""
        named = select(account.c.name, account.c.home).where(account.c.home.is_not(None))
        with self._reading.connect() as connection:
            rows = connection.execute(named).all()
        found = [(row.name, home_of(self.root, row.name, row.home)) for row in rows]
        return Homes(self.root, self._has_plain_home, found, resolve=resolve)

    def _has_plain_home(self, name: str) -> bool:
        row = self._find(name)
        return row is not None and row.home is None


def home_of(root: Path, name: str, stored: bytes | None) -> Path:
    """Where the home of an account is, by what the table has: one below the root is relative."""
    return root / (name if stored is None else os.fsdecode(stored))


def _try_staging(directory: Path) -> None:
    """Raise OSError when sessions couldn't make what they need in a home."""
    staging = directory / os.fsdecode(paths.STAGING)
    try:
        staging.mkdir(mode=0o700)
    except FileExistsError:
        return
    staging.rmdir()


def _shown(directory: Path) -> str:
    return paths.show(os.fsencode(directory))


def _has_contents(directory: Path) -> bool:
    """Whether there is more than a session leaves that stored nothing."""
    from ftpserver.storage.home_staging import NOT_STAGED

    found = os.listdir(os.fsencode(directory))
    if found == [paths.STAGING]:
        found = os.listdir(os.fsencode(directory) + b"/" + paths.STAGING)
        return bool(set(found) - NOT_STAGED)
    return bool(found)


def _remove_empty(directories: Iterable[Path]) -> None:
    """Take back homes that were made just now for accounts that weren't."""
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:
            pass  # somebody has put something into it: it stays


def _columns(changes: Changes) -> dict[str, object]:
    """Changes as the table has them."""
    values: dict[str, object] = dict(changes)
    if "permissions" in changes:
        values["permissions"] = str(changes["permissions"])
    if "networks" in changes:
        values["networks"] = ",".join(str(one) for one in changes["networks"])
    return values


def _must_exist(found: object, name: str) -> None:
    if not found:
        raise NotFound(f"{name}: no such account")


_NOBODY = 65534
"""The overflow uid: whoever the kernel can't tell, as users of another namespace (proc(5))."""


def _uid_of(system_user: str) -> int | None:
    try:
        uid = pwd.getpwnam(system_user).pw_uid
    except KeyError:
        return None
    return None if uid == _NOBODY else uid


def can_be_peer(system_user: str) -> bool:
    """Whether the kernel can ever tell that it is this user who connects to a Unix socket."""
    return _uid_of(system_user) is not None


def check_name(name: str) -> str:
    """Return ``name`` if an account can have it; else raise BadAccount."""
    if not _NAME.fullmatch(name):
        raise BadAccount(
            f"{name!r}: a user name is 1 to 32 of a-z 0-9 . _ - and starts with a letter or digit"
        )
    return name


def first_account_name() -> str:
    """A name for the account of whoever runs the server first."""
    try:
        name = getpass.getuser().lower()
    except (OSError, KeyError):
        name = ""
    return name if _NAME.fullmatch(name) else "admin"
