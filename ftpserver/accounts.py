"""Users: their rows, their passwords, and where their homes are.

Lives here: adding, finding, changing and removing accounts, checking a password.
Lives elsewhere: quotas while files move (ledger.py), the tables (state.py).
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Engine, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ftpserver.state import account, durable, reading
from ftpwire.errors import AlreadyExists, CommandError, LoginRefused, NotFound

MAX_PASSWORD = 1024
"""Longest password, in bytes of UTF-8."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")

# 19 MiB, t=2, p=1: OWASP's first choice for argon2id; about 20 ms
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_hashing = threading.BoundedSemaphore(max(1, os.cpu_count() or 1))
"""Bounds the hashes computed at once, so that a flood of log-ins can't take all memory."""

# an unknown name costs the same time as a wrong password
_DUMMY_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$QUFBQUFBQUFBQUFBQUFBQQ$"
    "l0sYHAaYZRDlAVaISCgBfVXxP7JHAOFXzAFwGMX5Qpc"
)


class BadAccount(CommandError):
    """A name, password or home that no account can have."""

    code = "bad-account"


@dataclass(frozen=True)
class Account:
    """One user.

    Attributes:
        id: Never given out twice.
        home: The directory that is the user's ``/``.
        quota: Bytes; None when unlimited.
        used: Bytes of stored files.
        held: Bytes reserved by uploads under way.
        created: Seconds since 1970.
    """

    id: int
    name: str
    home: Path
    quota: int | None
    used: int
    held: int
    created: int

    @property
    def free(self) -> int | None:
        """Bytes that a new upload may take; None when unlimited."""
        return None if self.quota is None else max(0, self.quota - self.used - self.held)


class Accounts:
    """The accounts of one root. Safe to use from many threads and processes."""

    def __init__(self, engine: Engine, root: Path) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._root = root

    def add(
        self, name: str, password: str, *, quota: int | None = None, home: Path | None = None
    ) -> Account:
        """Make an account and its home.

        Raises:
            BadAccount: The name, password or home can't be used.
            AlreadyExists: There is an account of that name.
        """
        check_name(name)
        hashed = hash_password(password)
        directory = self._make_home(name, home)
        values = {
            "name": name,
            "password_hash": hashed,
            "home": os.fsencode(directory) if home is not None else None,
            "quota": quota,
            "created": int(time.time()),
            "dirty": home is not None,
        }
        try:
            with durable(self._engine).begin() as connection:
                connection.execute(insert(account).values(values))
        except IntegrityError:
            raise AlreadyExists(f"{name}: there is an account of that name") from None
        return self.get(name)

    def _make_home(self, name: str, home: Path | None) -> Path:
        directory = self._root / name if home is None else home.absolute()
        try:
            if home is None and self._find(name) is not None:
                raise AlreadyExists(f"{name}: there is an account of that name")
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if home is None and os.listdir(directory):
                raise BadAccount(
                    f"{directory}: exists and has contents: "
                    f"give --home {directory} to hand them to {name}"
                )
        except OSError as error:
            raise BadAccount(f"{directory}: {(error.strerror or '').lower()}") from error
        return directory

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
        return self._from_row(row)

    def __iter__(self) -> Iterator[Account]:
        """All accounts, by name."""
        with self._reading.connect() as connection:
            rows = connection.execute(select(account).order_by(account.c.name)).all()
        return iter([self._from_row(row) for row in rows])

    def __len__(self) -> int:
        with self._reading.connect() as connection:
            return len(connection.execute(select(account.c.id)).all())

    def set_password(self, name: str, password: str) -> None:
        """Raises NotFound, BadAccount."""
        hashed = hash_password(password)
        with durable(self._engine).begin() as connection:
            changed = connection.execute(
                update(account).where(account.c.name == name).values(password_hash=hashed)
            )
        if not changed.rowcount:
            raise NotFound(f"{name}: no such account")

    def remove(self, name: str) -> Account:
        """Remove the account; its files stay. Returns what it was. Raises NotFound."""
        removed = self.get(name)
        with durable(self._engine).begin() as connection:
            connection.execute(delete(account).where(account.c.id == removed.id))
        return removed

    def log_in(self, name: str, password: str) -> Account:
        """The account, if the password is right.

        Raises:
            LoginRefused: The same, after the same time, whether name or password is wrong.
        """
        row = self._find(name)
        stored = _DUMMY_HASH if row is None else row.password_hash
        right = _verify(stored, password)
        if row is None or not right:
            raise LoginRefused("wrong user name or password")
        return self._from_row(row)

    def _from_row(self, row: Row[tuple[object, ...]]) -> Account:
        home = self._root / row.name if row.home is None else Path(os.fsdecode(row.home))
        return Account(row.id, row.name, home, row.quota, row.used, row.held, row.created)


def check_name(name: str) -> str:
    """Return ``name`` if an account can have it; else raise BadAccount."""
    if not _NAME.fullmatch(name):
        raise BadAccount(
            f"{name!r}: a user name is 1 to 32 of a-z 0-9 . _ - and starts with a letter or digit"
        )
    return name


def hash_password(password: str) -> str:
    """The argon2id hash to store. Raises BadAccount for one that can't be used."""
    if not password:
        raise BadAccount("the password is empty")
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        raise BadAccount("the password is not UTF-8 text") from None
    if size > MAX_PASSWORD:
        raise BadAccount(f"the password is longer than {MAX_PASSWORD} bytes")
    with _hashing:
        return _hasher.hash(password)


def _verify(stored: str, password: str) -> bool:
    given = password.encode("utf-8", "surrogatepass")
    if len(given) > MAX_PASSWORD:
        given = b""
    with _hashing:
        try:
            return _hasher.verify(stored, given)
        except (VerificationError, InvalidHashError):
            return False


def first_account_name() -> str:
    """A name for the account of whoever runs the server first."""
    try:
        name = getpass.getuser().lower()
    except (OSError, KeyError):
        name = ""
    return name if _NAME.fullmatch(name) else "admin"


def random_password() -> str:
    """A password of 100 bits that can be read aloud and typed."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))
