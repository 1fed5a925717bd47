"""Accounts as JSON records: showing, exporting and importing them.

Lives here: the fields of a record, and checking all lines of an import before any is applied.
Lives elsewhere: storing accounts (accounts.py), options and output (cli/users.py).
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, cast

import msgspec
from argon2 import extract_parameters
from argon2.exceptions import InvalidHashError
from msgspec import Meta

from ftpserver.accounts.account import Account, Changes, Network, NewAccount, check_name
from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.passwords import hash_password, random_password
from ftpserver.storage.permissions import Permissions
from ftpwire import paths
from ftpwire.errors import BadAccount, NameTaken
from ftpwire.units import iso

_MAX_MEMORY_KIB = 256 * 1024
_MAX_TIME_COST = 32
"""The most that checking an imported hash may cost, as any client can trigger such a check."""

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


def shown(account: Account) -> dict[str, object]:
    """Return all that is shown of an account; times are ISO 8601."""
    record: dict[str, object] = {
        "name": account.name,
        "home": _text(account.home),
        "total": account.quota,
        "used": account.stored,
        "held": account.held,
        "free": account.free,
        "total_files": account.most_files,
        "used_files": account.stored_files,
        "trash": account.trash_bytes,
        "trash_files": account.trash_files,
        **_settings(account),
        "created": iso(account.created),
    }
    raw = os.fsencode(account.home)
    if paths.plain_text(raw) != os.fsdecode(raw):
        record["home_b64"] = base64.b64encode(raw).decode("ascii")
    return record


def _text(path: Path) -> str:
    return paths.plain_text(os.fsencode(path))


def _settings(account: Account) -> dict[str, object]:
    return {
        "permissions": str(account.permissions).split(),
        "networks": [str(network) for network in account.networks],
        "expires": None if account.expires is None else iso(account.expires),
        "disabled": account.disabled,
        "max_sessions": account.max_sessions,
        "peer_user": account.peer_user,
        "system_user": account.system_user,
        "limit_rate": account.limit_rate,
        "trash_days": account.trash_days,
        "trash_max": account.trash_max,
    }


def exported(account: Account, password_hash: str | None, root: Path) -> dict[str, object]:
    """Return the record that makes the same account on another server.

    A home below the root is written relative to it. The other server counts the used space."""
    record: dict[str, object] = {"name": account.name}
    if password_hash is not None:
        record["password_hash"] = password_hash
    if account.own_home:
        inside = account.home.is_relative_to(root)
        home = account.home.relative_to(root) if inside else account.home
        record["home"] = os.fsdecode(home)  # bytes that aren't UTF-8 are escaped, as \udcNN
    return record | {"quota": account.quota, "max_files": account.max_files} | _settings(account)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of an import. A field that isn't given has the default of a new account, or keeps
    its value."""

    name: str
    password_hash: str | None = None
    home: str | None = None
    quota: _Count | None = None
    max_files: _Count | None = None
    permissions: list[str] = []
    networks: list[str] = []
    expires: str | int | None = None
    disabled: bool = False
    max_sessions: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    limit_rate: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    peer_user: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    system_user: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    trash_days: Annotated[int, Meta(ge=0, le=36_500)] | None = None
    trash_max: Annotated[int, Meta(ge=0, le=100)] | None = None


@dataclass(frozen=True)
class Imported:
    """The result of an import: names of accounts."""

    added: list[str]
    updated: list[str]


def import_lines(accounts: Accounts, lines: Iterable[bytes], *, update: bool) -> Imported:
    """Import the accounts of an export: all of them, or none.

    Args:
        update: True to change existing accounts, which are refused otherwise.

    Raises:
        BadAccount: A line is wrong; the text has its number. Nothing was changed.
    """
    known = {account.name: account for account in accounts}
    new: dict[str, NewAccount] = {}
    changed: dict[str, tuple[Changes, str | None]] = {}
    for number, line in _numbered(lines):
        try:
            record = _parse(line)
            if record.name in changed or record.name in new:
                raise BadAccount(f"{record.name}: occurs twice")
            changes = _changes(record)
            if record.name not in known:
                home = None if record.home is None else _home(accounts.root, record.home)
                hashed = record.password_hash or hash_password(random_password())
                new[record.name] = NewAccount(record.name, hashed, home, changes)
            elif update:
                old = known[record.name]
                if record.home is not None and _home(accounts.root, record.home) != old.home:
                    raise BadAccount(
                        f"{record.name}: its home is {_text(old.home)} and cannot be changed"
                    )
                changed[record.name] = _only(changes, line), record.password_hash
            else:
                raise NameTaken(
                    f"{record.name}: an account of that name exists (--update changes it)"
                )
        except BadAccount as error:
            raise type(error)(f"line {number}: {error}") from None
    accounts.apply(list(new.values()), changed)
    return Imported(list(new), list(changed))


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, line


def _parse(line: bytes) -> _Line:
    try:
        record = msgspec.convert(json.loads(line), _Line)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors too
        raise BadAccount(f"not an account record: {paths.printable(str(error))}") from None
    check_name(record.name)
    if record.password_hash is not None:
        _check_hash(record.password_hash)
    return record


def _check_hash(text: str) -> None:
    try:
        cost = extract_parameters(text)
    except (InvalidHashError, ValueError):
        raise BadAccount("password_hash: not an argon2 hash") from None
    if not text.startswith("$argon2id$"):
        raise BadAccount("password_hash: only argon2id is accepted")
    if cost.memory_cost > _MAX_MEMORY_KIB or cost.time_cost > _MAX_TIME_COST:
        raise BadAccount("password_hash: each log-in would cost too much")


def _home(root: Path, text: str) -> Path:
    """Return the home that a line names; a relative path is below the root."""
    if not text or "\0" in text or (not os.path.isabs(text) and ".." in Path(text).parts):
        raise BadAccount("home: must be an absolute path, or a relative one below the root")
    return root / text


def _changes(record: _Line) -> Changes:
    return {
        "quota": record.quota,
        "max_files": record.max_files,
        "permissions": Permissions.of(record.permissions),
        "networks": tuple(_network(text) for text in record.networks),
        "expires": _moment(record.expires),
        "disabled": record.disabled,
        "max_sessions": record.max_sessions,
        "peer_user": record.peer_user,
        "system_user": record.system_user,
        "limit_rate": record.limit_rate,
        "trash_days": record.trash_days,
        "trash_max": record.trash_max,
    }


def _only(changes: Changes, line: bytes) -> Changes:
    """Return only the settings that the line names, so that the account keeps all others."""
    named = json.loads(line)
    return cast(Changes, {name: value for name, value in changes.items() if name in named})


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadAccount(f"networks: {paths.printable(str(error))}") from None


def _moment(value: str | int | None) -> int | None:
    """Return a date and time as seconds since 1970; a number stays as it is."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            raise BadAccount(f"expires: {paths.show(value)} is not a date") from None
    if value is not None and not 0 <= value < 2**63:
        raise BadAccount("expires: out of range")
    return value
