"""The accounts of a root: their rows, their passwords, and where their homes are.

Lives here: adding, finding, changing and removing accounts, checking a password.
Lives elsewhere: an account as a value (account.py), the directory of a new one (new_home.py),
tokens (tokens.py), quotas while files move (storage/ledger.py), the tables (schema.py).

A change that ends an account's sessions (a new password, disabling) raises its ``epoch``; sessions
opened in an earlier epoch are no longer valid.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Unpack

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ftpserver.accounts.account import (
    NAME,
    REFUSED,
    Account,
    Changes,
    NewAccount,
    Refused,
    check_name,
)
from ftpserver.accounts.nesting import Homes
from ftpserver.accounts.new_home import check_home, make_home, remove_empty
from ftpserver.accounts.passwords import DUMMY_HASH, hash_password, verify_password
from ftpserver.accounts.system_users import uid_of
from ftpserver.database import durable, reading
from ftpserver.net.addresses import LOCAL
from ftpserver.schema import account, token
from ftpserver.storage.permissions import Permissions
from ftpwire.errors import BadAccount, NameTaken, NotFound
from ftpwire.paths import Parts

_LOOK_FOR_NESTS = 60.0
"""Seconds between two checks for homes inside other homes."""


class Accounts:
    """The accounts of one root. Safe to use from many threads and processes.

    Attributes:
        root: The directory that contains the homes.
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
            password_hash: The hash of an account that comes from elsewhere, instead of a password.
            home: Another directory than ROOT/NAME.
            within: Called first in the same transaction: if it raises, nothing is done.

        Raises:
            BadAccount: The name, password or home cannot be used.
            NameTaken: An account has that name.
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
                self._make_home(name, home)  # after the insert: no one else can get the name now
        except IntegrityError:
            raise NameTaken(f"{name}: an account of that name exists") from None
        return self.get(name)

    def apply(
        self, new: Sequence[NewAccount], changed: Mapping[str, tuple[Changes, str | None]]
    ) -> None:
        """Add and change accounts, all of them or none.

        Args:
            changed: By name: the settings to change, and a new password hash or None. A new hash
                ends the account's sessions and tokens.

        Raises:
            BadAccount: A home cannot be used.
            NameTaken, NotFound: Another process added or removed an account meanwhile.
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
                self._make_home(one.name, one.home)
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
            remove_empty(made)
            if isinstance(error, IntegrityError):
                raise NameTaken("an account of that name was added meanwhile") from None
            raise

    def _check_home(self, name: str, home: Path | None, homes: Homes) -> None:
        if home is None and self._find(name) is not None:
            raise NameTaken(f"{name}: an account of that name exists")
        if home is None and self._is_home(self.root / name):
            raise BadAccount(f"{self.root / name}: this is the home of another account")
        check_home(self._directory(name, home), name, self.root, homes)

    def _make_home(self, name: str, home: Path | None) -> None:
        make_home(self._directory(name, home), name, given=home is not None)

    def _directory(self, name: str, home: Path | None) -> Path:
        return self.root / name if home is None else home.absolute()

    def accounts_with_home(self, home: Path) -> list[str]:
        """Return the accounts whose homes are inside a directory, or contain it."""
        real = home.resolve()
        theirs = [(one.name, one.home.resolve()) for one in self]
        return [
            name
            for name, other in theirs
            if other.is_relative_to(real) or real.is_relative_to(other)
        ]

    def _row(self, new: NewAccount) -> dict[str, object]:
        """Return a new account as a row of the table."""
        return {
            "name": new.name,
            "password_hash": new.password_hash,
            "home": None if new.home is None else self._stored_home(new.home),
            "created": int(time.time()),
            "dirty": new.home is not None,
            **_columns(new.given),
        }

    def _stored_home(self, home: Path) -> bytes:
        """Return a home as in the table: relative below the root, so that the root can be moved."""
        absolute = home.absolute()
        inside = absolute.is_relative_to(self.root) and ".." not in absolute.parts
        return os.fsencode(absolute.relative_to(self.root) if inside else absolute)

    def _is_home(self, directory: Path) -> bool:
        """Return True if the directory is the home of an account, even of another name."""
        written = {os.fsencode(directory), self._stored_home(directory)}
        taken = select(account.c.id).where(account.c.home.in_(written))
        with self._reading.connect() as connection:
            return connection.execute(taken).first() is not None

    def _find(self, name: str) -> Row[tuple[object, ...]] | None:
        if not NAME.fullmatch(name):
            return None  # no account has it, and it may be text that a database cannot take
        with self._reading.connect() as connection:
            return connection.execute(select(account).where(account.c.name == name)).first()

    def get(self, name: str) -> Account:
        """Return the account of that name. Raises NotFound if there is none."""
        row = self._find(name)
        if row is None:
            raise NotFound(f"{name}: no such account")
        return self.from_row(row)

    def by_id(self, account_id: int) -> Account:
        """Return the account with that id. Raises NotFound if it was removed."""
        with self._reading.connect() as connection:
            row = connection.execute(select(account).where(account.c.id == account_id)).first()
        if row is None:
            raise NotFound("the account was removed")
        return self.from_row(row)

    def __iter__(self) -> Iterator[Account]:
        """Iterate over all accounts, by name."""
        with self._reading.connect() as connection:
            rows = connection.execute(select(account).order_by(account.c.name)).all()
        return iter([self.from_row(row) for row in rows])

    def __len__(self) -> int:
        with self._reading.connect() as connection:
            return len(connection.execute(select(account.c.id)).all())

    def set_password(self, name: str, password: str) -> Account:
        """Set the password and end all sessions and tokens. Raises NotFound, BadAccount."""
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
        """Return True if the password is right. Takes as long if there is no such account."""
        row = self._find(name)
        return verify_password(DUMMY_HASH if row is None else row.password_hash, password)

    def change(self, name: str, **changes: Unpack[Changes]) -> Account:
        """Change settings and return the changed account. Raises NotFound.

        Running sessions apply them within a second; those of a disabled account are closed.
        """
        with durable(self._engine).begin() as connection:
            changed = connection.execute(
                update(account).where(account.c.name == name).values(_columns(changes))
            )
            _must_exist(changed.rowcount, name)
        return self.get(name)

    def rename(self, name: str, new: str) -> Account:
        """Rename an account; a home that was ROOT/NAME stays where it is.

        Its sessions end, because they know their account by name. Raises NotFound, BadAccount.
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
            raise NameTaken(f"{new}: an account of that name exists") from None
        return self.get(new)

    def remove(self, name: str) -> Account:
        """Remove the account, its tokens and sessions, but not its files. Return it.

        Raises NotFound.
        """
        removed = self.get(name)
        with durable(self._engine).begin() as connection:
            connection.execute(delete(account).where(account.c.id == removed.id))
        return removed

    def log_in(self, name: str, password: str, host: str = LOCAL) -> Account:
        """Return the account if the password is right and a log-in is allowed.

        Args:
            host: The address that the log-in comes from.

        Raises:
            Refused: The same error, after the same time, for a wrong name, a wrong password and an
                address that isn't allowed. That an account is disabled or has expired is reported
                only after the right password, and takes as long.
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
        """Return the account if the system user at the other end of a Unix socket may use it.

        Args:
            uid: The system user that the kernel names; None if it isn't a Unix socket.

        Raises:
            Refused: The same error for every reason.
        """
        row = self._find(name)
        if row is None:
            raise Refused(REFUSED, "no such account")
        found = self.from_row(row)
        if uid is None or found.peer_user is None or uid != uid_of(found.peer_user):
            raise Refused(REFUSED, f"not the account of the system user {uid}")
        found.check_open(LOCAL)
        return found

    def password_hash(self, name: str) -> str:
        """Return the stored hash of the password, for an export. Raises NotFound."""
        row = self._find(name)
        _must_exist(row is not None, name)
        assert row is not None
        return str(row.password_hash)

    def from_row(self, row: Row[tuple[object, ...]]) -> Account:
        """Make an account of a row with the table's columns."""
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
            trash_bytes=row.trash_bytes,
            trash_files=row.trash_files,
            trash_days=row.trash_days,
            trash_max=row.trash_max,
        )

    def inner_of(self, name: str) -> tuple[Parts, ...]:
        """Return the paths of other accounts' homes inside this one's, without resolving links.

        New homes are checked when they are added, so this looks only once a minute."""
        if self._nests_until < time.monotonic():
            nests: dict[str, tuple[Parts, ...]] = {}
            for nest in self.homes(resolve=False).nests():
                nests[nest.outer] = (*nests.get(nest.outer, ()), nest.parts)
            self._nests, self._nests_until = nests, time.monotonic() + _LOOK_FOR_NESTS
        return self._nests.get(name, ())

    def homes(self, *, resolve: bool = True) -> Homes:
        """Return the homes of all accounts."""
        named = select(account.c.name, account.c.home).where(account.c.home.is_not(None))
        with self._reading.connect() as connection:
            rows = connection.execute(named).all()
        found = [(row.name, home_of(self.root, row.name, row.home)) for row in rows]
        return Homes(self.root, self._has_plain_home, found, resolve=resolve)

    def _has_plain_home(self, name: str) -> bool:
        row = self._find(name)
        return row is not None and row.home is None


def home_of(root: Path, name: str, stored: bytes | None) -> Path:
    """Return the path of a home as stored in the table, where one below the root is relative."""
    return root / (name if stored is None else os.fsdecode(stored))


def _columns(changes: Changes) -> dict[str, object]:
    """Return changed settings as columns of the table."""
    values: dict[str, object] = dict(changes)
    if "permissions" in changes:
        values["permissions"] = str(changes["permissions"])
    if "networks" in changes:
        values["networks"] = ",".join(str(one) for one in changes["networks"])
    return values


def _must_exist(found: object, name: str) -> None:
    if not found:
        raise NotFound(f"{name}: no such account")
