"""Backups of a server's state: accounts, keys, settings.

Lives here: making a backup, and checking one. Lives elsewhere: users' files, which any tool can
copy; options and output (cli/backup.py, cli/check.py).

A backup is a root of its own without users' files: ``BACKUP/.ftpd``. It is made under a temporary
name beside the final one, and renamed when it is complete and durable, so that a partial backup
never has the final name. Its accounts are marked to be counted again, because the files may have
changed when it is restored, and leases aren't copied: a server that is started on it, or on a root
that it was copied to, counts the homes first.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import DatabaseError

from ftpserver.accounts.accounts import home_of
from ftpserver.admin.verify import Finding, Weight, check_state, open_to_read
from ftpserver.errors import StateError
from ftpserver.net import tls
from ftpserver.schema import account
from ftpserver.settings.file import FILE_NAME as SETTINGS
from ftpserver.settings.table import DATABASE, never_started, state_of
from ftpwire import __version__, digests

MANIFEST = "backup.json"
_UNFINISHED = ".unfinished-backup-"
_SERIES = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z(-\d+)?")
"""The names of the backups of a series: their times (UTC)."""
_READ = 1024 * 1024
_OF_ONE_RUN = ("lease", "session", "server", "operation", "answer")
"""Tables whose rows have no meaning without the files, or the running server, that they are
about."""


@dataclass(frozen=True)
class Backup:
    """A backup that was made.

    Attributes:
        place: Its directory.
        accounts: The number of accounts in it.
        files: The names of the files in it.
        left_out: Files that the settings name and that are not in it, because they are elsewhere.
        removed: The older backups of the series that were removed.
    """

    place: Path
    accounts: int
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    removed: tuple[Path, ...] = ()


def back_up(root: Path, place: Path, left_out: tuple[str, ...] = ()) -> Backup:
    """Back up the state of a root, whether a server runs there or not.

    Args:
        root: The root.
        place: The directory to make, or an empty one.
        left_out: See `Backup`.

    Raises:
        StateError: There is no state, it is damaged, or ``place`` isn't empty or cannot be written.
    """
    state = state_of(root)
    if (why := never_started(root)) is not None:
        raise StateError(why)
    place = place.absolute()
    if place.is_dir() and any(place.iterdir()):
        raise StateError(f"{place}: not empty: name a new directory")
    unfinished = place.with_name(f"{_UNFINISHED}{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir(mode=0o700)
        try:
            made = _fill(unfinished, root, state, place, left_out)
            os.rename(unfinished, place)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        _sync(place.parent)
    except sqlite3.DatabaseError as error:
        raise StateError(f"{state / DATABASE}: cannot be copied: {error}") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StateError(f"{place}: the backup cannot be written: {reason}") from error
    return made


def back_up_in_series(
    root: Path, directory: Path, keep: int, left_out: tuple[str, ...] = ()
) -> Backup:
    """Make a backup named after the current time, and remove older ones of the series.

    Args:
        root: The root.
        directory: The directory of the series. Only backups with such names are removed from it,
            and none that has users' files beside it, i.e. that was restored there.
        keep: The number of backups to keep, at least 1. The new one is always kept.
        left_out: See `Backup`.

    Raises:
        StateError: As `back_up`, or an older backup cannot be removed; the new one is there.
    """
    directory = directory.absolute()
    name = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    places = (directory / (name if again == 1 else f"{name}-{again}") for again in count(1))
    made = back_up(root, next(place for place in places if not place.exists()), left_out)
    older = sorted(
        path
        for path in directory.iterdir()
        if path != made.place and _SERIES.fullmatch(path.name) and _is_of_series(path)
    )
    removed = tuple(older[: max(0, len(older) + 1 - keep)])
    for path in removed:
        try:
            # renamed first, so that a partial backup never has the name of a complete one
            doomed = path.with_name(f"{_UNFINISHED}{secrets.token_hex(4)}")
            path.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StateError(
                f"{path}: the old backup cannot be removed: {reason} ({made.place} is complete)"
            ) from error
    return replace(made, removed=removed)


def _is_of_series(path: Path) -> bool:
    return not path.is_symlink() and is_backup(path) and not has_homes(path)


def _fill(
    unfinished: Path, root: Path, state: Path, place: Path, left_out: tuple[str, ...]
) -> Backup:
    target = unfinished / state.name
    target.mkdir(mode=0o700)
    accounts = _copy_database(state / DATABASE, target / DATABASE)
    names = [DATABASE]
    for path in sorted((state / "tls").glob("*.pem")):
        names.append(f"tls/{path.name}")
    names += [SETTINGS] if (state / SETTINGS).is_file() else []
    for name in names[1:]:
        (target / name).parent.mkdir(mode=0o700, exist_ok=True)
        _copy(state / name, target / name)
    manifest = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "root": str(root),
        "software": __version__,
        "accounts": accounts,
        "files": {name: _fingerprint(target / name) for name in names},
    }
    _write(target / MANIFEST, json.dumps(manifest, indent=2).encode())
    for directory, _, _ in os.walk(unfinished, topdown=False):
        _sync(Path(directory))
    problems = [str(one) for one in BackupVerifier(unfinished).findings()]
    if problems:
        raise StateError(f"{root}: the backup would be damaged: {problems[0]}")
    return Backup(place, accounts, tuple(names), left_out)


def _copy_database(source: Path, target: Path) -> int:
    """Copy the accounts file while it is in use. Return the number of accounts."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=30)) as there,
        closing(sqlite3.connect(target)) as here,
    ):
        there.backup(here)
        here.execute("PRAGMA journal_mode=DELETE")  # a single file, without a WAL beside it
        tables = {name for (name,) in here.execute("SELECT name FROM sqlite_master")}
        with here:
            for table in _OF_ONE_RUN:
                if table in tables:
                    here.execute(f"DELETE FROM {table}")  # safe: `table` is one of our constants
            here.execute("UPDATE account SET held = 0, dirty = 1")
            columns = {row[1] for row in here.execute("PRAGMA table_info(account)")}
            if "held_files" in columns:
                here.execute("UPDATE account SET held_files = 0")
        (accounts,) = here.execute("SELECT count(*) FROM account").fetchone()
    _sync(target)
    return int(accounts)


def _copy(source: Path, target: Path) -> None:
    _write(target, source.read_bytes())


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fingerprint(path: Path) -> dict[str, Any]:
    hasher = digests.new()
    size = 0
    with path.open("rb") as file:
        while data := file.read(_READ):
            hasher.update(data)
            size += len(data)
    return {"size": size, "blake3": hasher.hexdigest()}


# checking a backup ---------------------------------------------------------------------------


def is_backup(root: Path) -> bool:
    """Return whether a root is a backup, which has no users' files to check."""
    return (state_of(root) / MANIFEST).is_file()


def has_homes(root: Path) -> bool:
    """Return whether a backup has homes of its accounts beside it: then it was restored already.

    Homes outside the root don't count: the original server uses them.
    """
    engine = open_to_read(state_of(root))
    try:
        with engine.connect() as connection:
            rows = connection.execute(select(account.c.name, account.c.home)).all()
    except DatabaseError:
        return False  # the check will report what is wrong
    finally:
        engine.dispose()
    homes = (home_of(root, row.name, row.home) for row in rows)
    return any(home.is_dir() for home in homes if home.is_relative_to(root))


def begin_anew(state: Path) -> None:
    """Turn a backup into an ordinary root, because a server starts on it."""
    (state / MANIFEST).unlink(missing_ok=True)


@dataclass
class BackupVerifier:
    """One check of a backup, like `verify.Verifier`: iterate over ``findings()``.

    Attributes:
        root: The backup.
        beside: Always None: no server runs on a backup.
        accounts, files, size: How many accounts, files and bytes were checked.
    """

    root: Path
    beside: str | None = None
    accounts: int = 0
    files: int = 0
    size: int = 0
    _state: Path = field(init=False, repr=False)

    def findings(self) -> Iterator[Finding]:
        """Yield everything that is wrong with it."""
        self._state = state_of(self.root)
        try:
            manifest = json.loads((self._state / MANIFEST).read_bytes())
            files = dict(manifest["files"])
            self.accounts = int(manifest["accounts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield _wrong(MANIFEST, "a list of files", str(error) or type(error).__name__)
            return
        for name, expected in files.items():
            yield from self._check_file(str(name), expected)
        yield from self._check_database()
        if "tls/key.pem" in files:
            try:
                tls.make_context(self._state / "tls/cert.pem", self._state / "tls/key.pem")
            except StateError as error:
                yield _wrong("tls", "a key and its certificate", str(error))

    def _check_file(self, name: str, expected: object) -> Iterator[Finding]:
        try:
            found = _fingerprint(self._state / name)
        except OSError as error:
            yield _wrong(name, "a file", (error.strerror or "").lower())
            return
        self.files += 1
        self.size += found["size"]
        if found != expected:
            yield _wrong(name, str(expected), str(found))

    def _check_database(self) -> Iterator[Finding]:
        engine = open_to_read(self._state)
        try:
            yield from check_state(engine, earlier=True)
        finally:
            engine.dispose()


def _wrong(name: str, expected: str, found: str) -> Finding:
    return Finding("backup", None, name.encode("utf-8", "replace"), expected, found, Weight.DAMAGE)
