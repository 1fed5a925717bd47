"""The verifier: does the ledger agree with the disk, and is everything there whole?

Lives here: what is checked of a root, and what is said about it. Nothing is changed.
Lives elsewhere: single files and their digests (scrub.py), a home's trash (verify_trash.py),
repairing (storage/recount.py), output (cli/check.py).

While no server runs, all of it is checked, and none can start meanwhile. Beside a running
server each home is locked while its files are counted (uploads wait that long), the server's own
leases and what they own in staging are left to it, and files that change meanwhile are passed
over.

What a crash has left is repaired by the next start, and so is no damage yet.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, create_engine, event, inspect, select
from sqlalchemy.exc import DatabaseError, OperationalError

from ftpserver import modes
from ftpserver.accounts.accounts import Accounts, home_of
from ftpserver.admin import verify_trash
from ftpserver.admin.scrub import Examined, Examiner, Verdict
from ftpserver.errors import RootBusy, StateError
from ftpserver.root_lock import RootLock
from ftpserver.schema import SCHEMA_VERSION, account, lease, metadata, schema
from ftpserver.settings.table import DATABASE, Settings, never_started, state_of
from ftpserver.snapshot import open_snapshot
from ftpserver.storage import uncounted
from ftpserver.storage.home_staging import NOT_STAGED, OWNER_NAME, is_of_a_home
from ftpserver.storage.incarnations import KEPT
from ftpserver.storage.open_home import LOCK_NAME
from ftpserver.storage.ownership import Ownership, identity
from ftpserver.storage.put_back import Moved, is_note, read_note
from ftpserver.storage.resumable import staging_of
from ftpserver.storage.walk import Found, Usage, stored, walk
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import NotFound

_MOST_ROWS = 100
"""Findings about the accounts file itself, at most."""


class Weight(Enum):
    """What a finding means for whoever looks after the server."""

    DAMAGE = "damage"
    DOUBT = "doubt"
    """A crash left it so; the next start repairs it."""
    UNCHECKED = "unchecked"
    """It couldn't be looked at."""


@dataclass(frozen=True)
class Finding:
    """One thing that isn't as it should be.

    Attributes:
        kind: What was compared: ``state``, ``schema``, ``mode``, ``home``, ``nested``, ``owner``,
            ``used``, ``files``, ``held``, ``lease``, ``staging``, ``moved``, ``trash``,
            ``partial``, ``attribute``, ``size``, ``digest``, ``unreadable``,
            ``recount``.
        account: Whose; None for the server's own state.
        path: In the home, as the user names it; of staging, below the home too; of a mode, on this
            machine.
    """

    kind: str
    account: str | None
    path: bytes | None
    expected: str | int | None
    found: str | int | None
    weight: Weight = Weight.DAMAGE

    def __str__(self) -> str:
        where = "" if self.path is None else f" {paths.show(self.path)}"
        whose = "" if self.account is None else f" {self.account}:"
        text = f"{self.kind}:{whose}{where}"
        if self.kind == "recount":
            return f"{text} {self.expected}: {self.found}"
        return f"{text} expected {self.expected}, found {paths.printable(str(self.found))}"


class CannotCheck(StateError):
    """There is nothing that can be checked; the text is one line for the administrator."""


@dataclass
class Verifier:
    """One check of a root: iterate over ``findings()``.

    Args:
        root: The directory of the homes.
        read: Read all files and compare them with their digests.
        strict: What a crash left in doubt counts as damage.
        user: Check this account only.
        settings: Those that a server of the root is started with; None: its modes aren't checked.

    Attributes:
        beside: How the running server is called, beside which it was checked; None if none ran.
        accounts, files, size: What was checked, in bytes.
    """

    root: Path
    read: bool = False
    strict: bool = False
    user: str | None = None
    settings: Settings | None = None
    beside: str | None = None
    accounts: int = 0
    files: int = 0
    size: int = 0
    _engine: Engine = field(init=False, repr=False)
    _ownership: Ownership = field(init=False, repr=False)
    _accounts: Accounts = field(init=False, repr=False)

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong, as it is found.

        Raises:
            CannotCheck: There is no state, or it is another version's.
            NotFound: There is no such account.
        """
        state = state_of(self.root)
        with ExitStack() as stack:
            try:
                stack.callback(_lock_root(state).release)
            except RootBusy as busy:
                self.beside = str(busy)
            self._engine = open_to_read(state)
            stack.callback(self._engine.dispose)
            for one in self._check():
                yield self._weighed(one)

    def _weighed(self, one: Finding) -> Finding:
        if self.strict and one.weight is Weight.DOUBT:
            return Finding(one.kind, one.account, one.path, one.expected, one.found)
        return one

    def _check(self) -> Iterator[Finding]:
        if self.settings is not None and not self.settings.allow_loose_modes:
            for loose in modes.find(self.settings):
                path = os.fsencode(loose.path)
                yield Finding("mode", None, path, f"{loose.wanted:04o}", f"{loose.mode:04o}")
        wrong = list(check_state(self._engine))
        yield from wrong
        if wrong:
            return  # nothing that it says can be relied upon
        self._ownership = Ownership(identity(self._engine), self.root)
        self._accounts = Accounts(self._engine, self.root)
        names = self._names()
        if self.user is not None and self.user not in names:
            raise NotFound(f"{self.user}: no such account")
        yield from self._check_nests()
        for name in [self.user] if self.user is not None else names:
            yield from self._check_account(name)

    def _check_nests(self) -> Iterator[Finding]:
        """Homes in homes: none can be made any more, but there may be some."""
        for nest in self._accounts.homes().nests():
            if self.user not in (None, nest.outer, nest.inner):
                continue
            remedy = (
                f"the home of {nest.inner}, which is closed to {nest.outer}: move it, then ftpd "
                f"user remove {nest.inner} and ftpd user add {nest.inner} --home DIRECTORY"
            )
            path = paths.join(*nest.parts)
            yield Finding("nested", nest.outer, path, "no home of another account", remedy)

    def _names(self) -> list[str]:
        with self._engine.connect() as connection:
            return list(
                connection.execute(select(account.c.name).order_by(account.c.name)).scalars()
            )

    # one account -------------------------------------------------------------------------

    def _check_account(self, name: str) -> Iterator[Finding]:
        self.accounts += 1
        row, _ = self._rows(name)
        if row is None:
            return  # removed meanwhile
        directory = home_of(self.root, name, row.home)
        try:
            home = os.open(directory, OPEN_DIRECTORY)
        except OSError as error:
            yield _unopened("home", name, None, error)
            return
        try:
            other = self._ownership.other(directory)
            if other is not None:
                path = paths.join(paths.STAGING, OWNER_NAME)
                yield Finding("owner", name, path, str(self._ownership.me), str(other))
                return  # what is there is for that one to check
            yield from self._check_ledger(name, home)
            yield from self._check_trash(name, home)
            yield from self._check_files(name, home)
        finally:
            os.close(home)

    def _rows(self, name: str) -> tuple[Row[Any] | None, Sequence[Row[Any]]]:
        """An account and its leases, as of one moment."""
        with self._engine.connect() as connection:
            row = connection.execute(select(account).where(account.c.name == name)).first()
            if row is None:
                return None, []
            leases = connection.execute(select(lease).where(lease.c.account_id == row.id)).all()
            return row, leases

    def _all_leases(self) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(select(lease)).all()

    def _check_ledger(self, name: str, home: int) -> Iterator[Finding]:
        staging = None
        try:
            staging = os.open(paths.STAGING, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=home)
        except FileNotFoundError:
            pass  # nobody has used it yet
        except OSError as error:
            yield _unopened("staging", name, b"/" + paths.STAGING, error)
            return
        try:
            problems: list[Finding] = []

            def note(path: bytes, error: OSError) -> None:
                problems.append(_unopened("unreadable", name, b"/" + path, error))

            with _alone(staging):
                closed = self._accounts.inner_of(name)
                counted = stored(home, note, on_beside=lambda directory: None, closed=closed)
                row, leases = self._rows(name)
            yield from problems
            if row is None:
                return
            yield from self._check_sums(row, leases, counted if not problems else None)
            if staging is not None:
                yield from self._check_staging(row, leases, staging)
        except OSError as error:
            yield _unopened("staging", name, b"/" + paths.STAGING, error)
        finally:
            if staging is not None:
                os.close(staging)

    def _check_sums(
        self, row: Row[Any], leases: Sequence[Row[Any]], counted: Usage | None
    ) -> Iterator[Finding]:
        dead = [one for one in leases if self._is_dead(one)]
        marked = uncounted.is_marked(state_of(self.root), row.id)
        if row.dirty or dead or marked:
            why = f"{len(dead)} leases of a server that crashed" if dead else "marked as uncertain"
            yield Finding(
                "recount", row.name, None, "will be recounted at next start", why, Weight.DOUBT
            )
            if not self.strict:
                return
        if counted is not None and row.used != counted.size:
            yield Finding("used", row.name, None, f"{counted.size} bytes (on disk)", row.used)
        if counted is not None and row.files != counted.files:
            yield Finding("files", row.name, None, f"{counted.files} files (on disk)", row.files)
        held = sum(one.size for one in leases)
        if row.held != held:
            yield Finding("held", row.name, None, f"{held} bytes (of its leases)", row.held)
        held = sum(one.files for one in leases)
        if row.held_files != held:
            yield Finding("held", row.name, None, f"{held} files (of its leases)", row.held_files)

    def _is_dead(self, one: Row[Any]) -> bool:
        """Whether nobody will end this lease but the next recount.

        A running server ends those that have to be, by a clock of its own.
        """
        if self.beside is not None:
            return False
        return one.state != KEPT or bool(one.expires < time.time())

    def _check_staging(
        self, row: Row[Any], leases: Sequence[Row[Any]], staging: int
    ) -> Iterator[Finding]:
        # the next start cleans all staging, and drops the leases of accounts that it recounts
        orphan = Weight.DOUBT if self.beside is None else Weight.DAMAGE
        doubtful = row.dirty or any(self._is_dead(one) for one in leases)
        weight = Weight.DOUBT if doubtful else Weight.DAMAGE
        names = {os.fsencode(name) for name in os.listdir(staging)} - NOT_STAGED
        if names:
            # what was there before the leases were read is owned by one of them, or is gone
            row_now, leases = self._rows(row.name)
            if row_now is None:
                return
        every = self._all_leases() if names else []  # several accounts may have one home
        runs = {one.incarnation.encode() for one in every if one.state != KEPT}
        owned = {one.staging for one in every if one.staging is not None}
        notes = [_read_note(staging, name) for name in names if is_note(name)]
        aside = {note.aside for note in notes if note is not None}
        for name in sorted(names):
            if is_note(name):
                yield from self._check_moved(row.name, staging, name)
                continue
            if staging_of(name) in owned or name.partition(b"-")[0] in runs or name in aside:
                continue
            if _exists(staging, name):
                path = b"/" + paths.STAGING + b"/" + name
                yield Finding("staging", row.name, path, "a lease that owns it", "none", orphan)
        for one in leases:
            if one.state == KEPT and one.staging is not None and not _exists(staging, one.staging):
                again = self._rows(row.name)[1]
                if not any(other.id == one.id and other.state == KEPT for other in again):
                    continue  # resumed or dropped meanwhile
                path = b"/" + paths.STAGING + b"/" + one.staging
                yield Finding(
                    "lease", row.name, path, "the file that it keeps room for", "none", weight
                )

    def _check_moved(self, name: str, staging: int, note: bytes) -> Iterator[Finding]:
        """What was moved aside to be replaced, and is there still."""
        moved = _read_note(staging, note)
        if moved is None or not _exists(staging, moved.aside):
            return
        yield Finding(
            "moved",
            name,
            paths.join(*moved.target),
            "at its place",
            "moved aside to be replaced; the next start puts it back, or removes it where "
            "the replacement came",
            Weight.DOUBT,
        )

    def _check_trash(self, name: str, home: int) -> Iterator[Finding]:
        """What is in the trash has a line, and the account's sums are those of the indexes."""
        before, _ = self._rows(name)
        looked = verify_trash.look(home)
        row, _ = self._rows(name)
        if row is None or before is None:
            return
        again = None if self.beside is None or not looked.wrong else verify_trash.look(home)
        for one in looked.wrong:
            if again is not None and one.error is None and one not in again.wrong:
                continue  # it was on its way
            path = b"/" + one.path
            if one.error is not None:
                yield _unopened("trash", name, path, one.error)
            else:
                yield Finding("trash", name, path, one.expected, one.found)
        counted = (looked.size[row.id], looked.files[row.id])
        told = (row.trash_bytes, row.trash_files)
        moving = self.beside is not None and told != (before.trash_bytes, before.trash_files)
        if not looked.readable or moving or (row.dirty and not self.strict):
            return
        if counted != told and not (self.beside is not None and self._counts_again(home, row)):
            expected = "{} bytes, {} files (of the indexes)".format(*counted)
            found = "{} bytes, {} files".format(*told)
            yield Finding("trash", name, None, expected, found)

    def _counts_again(self, home: int, row: Row[Any]) -> bool:
        """Whether a second look at a home that is in use finds what it should, or changes."""
        looked = verify_trash.look(home)
        now, _ = self._rows(row.name)
        told = (row.trash_bytes, row.trash_files)
        if now is None or (now.trash_bytes, now.trash_files) != told:
            return True
        return (looked.size[row.id], looked.files[row.id]) == told

    def _check_files(self, name: str, home: int) -> Iterator[Finding]:
        examiner = Examiner(read=self.read)
        closed = self._accounts.inner_of(name)
        for found in walk(home, lambda path, error: None, closed=closed):  # told by the count
            if found.name == paths.STAGING:
                yield from self._check_beside(name, found)
                continue
            if not found.entry.is_file(follow_symlinks=False):
                continue
            examined = examiner.file(found.directory, found.name, found.path)
            self.files += 1
            self.size += examined.size
            finding = _about_file(name, examined)
            if finding is not None:
                yield finding

    def _check_beside(self, name: str, found: Found) -> Iterator[Finding]:
        """The reserved name below the home: uploads go through it where a directory gives another
        group or lies on another file system, and a crash leaves it to the next recount."""
        row, leases = self._rows(name)
        staging = found.entry.is_dir(follow_symlinks=False)
        if row is None or (staging and (self.beside is not None or _is_anothers(found))):
            return
        doubtful = staging and (row.dirty or any(self._is_dead(one) for one in leases))
        weight = Weight.DOUBT if doubtful else Weight.DAMAGE
        path = b"/" + found.path
        yield Finding("partial", name, path, "at the top of the home only", "here", weight)


def _is_anothers(found: Found) -> bool:
    """Whether a reserved name below a home is the staging of a home that lies there: of another
    server, or of an account that was removed."""
    try:
        staging = os.open(found.name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=found.directory)
    except OSError:
        return False
    try:
        return is_of_a_home(staging)
    finally:
        os.close(staging)


def check(root: Path, *, read: bool = False, strict: bool = False) -> list[Finding]:
    """All findings about a root. Raises CannotCheck."""
    return list(Verifier(root, read=read, strict=strict).findings())


_KINDS = {
    Verdict.ROTTED: "digest",
    Verdict.CUT: "size",
    Verdict.GARBLED: "attribute",
    Verdict.UNREADABLE: "unreadable",
    Verdict.CLOSED: "unreadable",
}


def _about_file(name: str, examined: Examined) -> Finding | None:
    kind = _KINDS.get(examined.verdict)
    if kind is None:
        return None
    weight = Weight.UNCHECKED if examined.verdict is Verdict.CLOSED else Weight.DAMAGE
    return Finding(kind, name, b"/" + examined.path, examined.expected, examined.found, weight)


def _unopened(kind: str, name: str, path: bytes | None, error: OSError) -> Finding:
    closed = error.errno in (errno.EACCES, errno.EPERM)
    weight = Weight.UNCHECKED if closed else Weight.DAMAGE
    reason = (error.strerror or str(error)).lower()
    return Finding(kind, name, path, "to be readable", reason, weight)


def _read_note(staging: int, name: bytes) -> Moved | None:
    try:
        return read_note(staging, name)
    except FileNotFoundError:
        return None  # it was acted on just now


def _exists(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _alone(staging: int | None) -> Iterator[None]:
    """Hold a home's lock alone, as a recount does; nothing when it was never used."""
    if staging is None:
        yield
        return
    try:
        fd = os.open(LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=staging)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# the accounts file -------------------------------------------------------------------------


def _lock_root(state: Path) -> RootLock:
    if (why := never_started(state.parent)) is not None:
        raise CannotCheck(why)
    try:
        return RootLock(state)
    except OSError as error:
        raise CannotCheck(f"{state}: can't be used: {(error.strerror or '').lower()}") from error


def open_to_read(state: Path) -> Engine:
    """The accounts file of a state directory, as it is: neither made nor brought up to date."""
    uri = f"{(state / DATABASE).absolute().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False)
        connection.isolation_level = None
        return connection

    engine = create_engine("sqlite://", creator=connect)
    event.listen(engine, "begin", _begin)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    except OperationalError:  # a WAL needs a file beside it, which a read-only disk can't take
        if (state / DATABASE).exists() and os.statvfs(state).f_flag & os.ST_RDONLY:
            engine.dispose()
            return open_snapshot(state, lambda: CannotCheck(f"{state}: the disk is read-only"))
    except DatabaseError:
        pass  # what is wrong with it is found, and named, by whoever asked
    return engine


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def check_state(engine: Engine, *, earlier: bool = False) -> Iterator[Finding]:
    """The accounts file itself.

    Args:
        earlier: It may be an earlier version's, which a start is going to bring up to date.

    Raises:
        CannotCheck: It is another version's.
    """
    try:
        with engine.connect() as connection:
            yield from _check_integrity(connection)
            tables = inspect(connection)
            there = {
                table: {column["name"] for column in tables.get_columns(table)}
                for table in tables.get_table_names()
            }
            version = (
                connection.execute(select(schema.c.version)).scalar()
                if "version" in there.get(schema.name, ())
                else None
            )
    except DatabaseError as error:
        yield Finding("state", None, None, "a sound database", str(error.orig))
        return
    if version is not None and version < SCHEMA_VERSION:
        if earlier:
            return
        raise CannotCheck(
            f"the accounts file was written by an earlier ftpd (schema {version}, this one has "
            f"{SCHEMA_VERSION}): check it with that one, or start this one's server, which brings "
            "it up to date (ftpd start)"
        )
    if version is not None and version > SCHEMA_VERSION:
        raise CannotCheck(
            f"the accounts file was written by a newer ftpd (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): check it with that one"
        )
    for table in metadata.sorted_tables:
        missing = {column.name for column in table.columns} - there.get(table.name, set())
        if missing:
            columns = ", ".join(sorted(missing))
            yield Finding("schema", None, None, f"{table.name} with {columns}", "none")


def _check_integrity(connection: Connection) -> Iterator[Finding]:
    rows = connection.exec_driver_sql(f"PRAGMA integrity_check({_MOST_ROWS})").scalars().all()
    for text in rows:
        if text != "ok":
            yield Finding("state", None, None, "a sound database", str(text))
    for row in connection.exec_driver_sql("PRAGMA foreign_key_check").all()[:_MOST_ROWS]:
        yield Finding(
            "state", None, None, f"a {row[2]} for each {row[0]}", f"row {row[1]} has none"
        )
