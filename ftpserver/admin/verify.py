"""The verifier: checks that the ledger agrees with the disk, and that files are undamaged.

Lives here: the checks of a root, and the findings. Nothing is changed.
Lives elsewhere: single files and their digests (scrub.py), a home's trash (verify_trash.py),
repairing (storage/recount.py), output (cli/check.py).

If no server runs, everything is checked, and no server can start meanwhile. Beside a running
server, each home is locked while its files are counted (uploads wait that long), the server's own
leases and their staging files are not checked, and files that change meanwhile are skipped.

What a crash has left is not damage, because the next start repairs it.
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
"""Most findings about the accounts file itself."""


class Weight(Enum):
    """The severity of a finding."""

    DAMAGE = "damage"
    DOUBT = "doubt"
    """A crash has left this; the next start repairs it."""
    UNCHECKED = "unchecked"
    """It couldn't be checked."""


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        kind: The kind of check: ``state``, ``schema``, ``mode``, ``home``, ``nested``, ``owner``,
            ``used``, ``files``, ``held``, ``lease``, ``staging``, ``moved``, ``trash``,
            ``partial``, ``attribute``, ``size``, ``digest``, ``unreadable``,
            ``recount``.
        account: The account's name; None for the server's own state.
        path: The path in the home, as the user names it; for ``mode``, the path on this machine.
        expected, found: What should be there, and what is.
        weight: The severity.
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
    """The root cannot be checked. The text is one line for the administrator."""


@dataclass
class Verifier:
    """One check of a root: iterate over ``findings()``.

    Args:
        root: The server's root.
        read: True to read all files and compare them with their digests.
        strict: True to report what a crash left in doubt as damage.
        user: The only account to check; None for all.
        settings: The settings of the root's server; None to skip checking file modes.

    Attributes:
        beside: A description of the server that ran meanwhile; None if none ran.
        accounts, files, size: How many accounts, files and bytes were checked.
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
        """Yield all problems, as they are found.

        Raises:
            CannotCheck: There is no state, or it is of another version.
            NotFound: There is no such account.
        """
        state = state_of(self.root)
        with ExitStack() as stack:
            try:
                stack.callback(_lock_root(state).release)
            except RootBusy as busy:
                self.beside = f"the server is running (process {busy.process})"
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
            return  # a damaged database proves nothing about the homes
        self._ownership = Ownership(identity(self._engine), self.root)
        self._accounts = Accounts(self._engine, self.root)
        names = self._names()
        if self.user is not None and self.user not in names:
            raise NotFound(f"{self.user}: no such account")
        yield from self._check_nests()
        for name in [self.user] if self.user is not None else names:
            yield from self._check_account(name)

    def _check_nests(self) -> Iterator[Finding]:
        """Find homes inside other homes. They can no longer be made, but old ones may exist."""
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
                return  # that server checks its own home
            yield from self._check_ledger(name, home)
            yield from self._check_trash(name, home)
            yield from self._check_files(name, home)
        finally:
            os.close(home)

    def _rows(self, name: str) -> tuple[Row[Any] | None, Sequence[Row[Any]]]:
        """Return an account and its leases, read in one transaction."""
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
            pass  # the home was never used
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
                # under the same lock: no commit can settle between the count and this
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
        """Return whether only the next recount will end this lease.

        A running server ends expired leases itself, by a clock of its own.
        """
        if self.beside is not None:
            return False
        return one.state != KEPT or bool(one.expires < time.time())

    def _check_staging(
        self, row: Row[Any], leases: Sequence[Row[Any]], staging: int
    ) -> Iterator[Finding]:
        # the next start cleans all staging, and deletes the leases of accounts that it recounts
        orphan = Weight.DOUBT if self.beside is None else Weight.DAMAGE
        doubtful = row.dirty or any(self._is_dead(one) for one in leases)
        weight = Weight.DOUBT if doubtful else Weight.DAMAGE
        names = {os.fsencode(name) for name in os.listdir(staging)} - NOT_STAGED
        if names:
            # leases are read after the names: each name then belongs to one of them, or is gone
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
                    continue  # resumed or discarded meanwhile
                path = b"/" + paths.STAGING + b"/" + one.staging
                yield Finding(
                    "lease", row.name, path, "the file that quota is reserved for", "none", weight
                )

    def _check_moved(self, name: str, staging: int, note: bytes) -> Iterator[Finding]:
        """Find what was moved aside to be replaced, and is still there."""
        moved = _read_note(staging, note)
        if moved is None or not _exists(staging, moved.aside):
            return
        yield Finding(
            "moved",
            name,
            paths.join(*moved.target),
            "to be there",
            "moved aside to be replaced; the next start puts it back, or removes it if it was "
            "replaced",
            Weight.DOUBT,
        )

    def _check_trash(self, name: str, home: int) -> Iterator[Finding]:
        """Check that all items in the trash have lines, and that the account's sums agree with the
        indexes."""
        before, _ = self._rows(name)
        looked = verify_trash.look(home)
        row, _ = self._rows(name)
        if row is None or before is None:
            return
        again = None if self.beside is None or not looked.wrong else verify_trash.look(home)
        for one in looked.wrong:
            if again is not None and one.error is None and one not in again.wrong:
                continue  # it was just being moved there
            path = b"/" + one.path
            if one.error is not None:
                yield _unopened("trash", name, path, one.error)
            else:
                yield Finding("trash", name, path, one.expected, one.found)
        counted = (looked.size[row.id], looked.files[row.id])
        recorded = (row.trash_bytes, row.trash_files)
        moving = self.beside is not None and recorded != (before.trash_bytes, before.trash_files)
        if not looked.readable or moving or (row.dirty and not self.strict):
            return
        if counted != recorded and not (self.beside is not None and self._counts_again(home, row)):
            expected = "{} bytes, {} files (of the indexes)".format(*counted)
            found = "{} bytes, {} files".format(*recorded)
            yield Finding("trash", name, None, expected, found)

    def _counts_again(self, home: int, row: Row[Any]) -> bool:
        """Return whether a second check of a home in use finds no difference, or new sums."""
        looked = verify_trash.look(home)
        now, _ = self._rows(row.name)
        recorded = (row.trash_bytes, row.trash_files)
        if now is None or (now.trash_bytes, now.trash_files) != recorded:
            return True
        return (looked.size[row.id], looked.files[row.id]) == recorded

    def _check_files(self, name: str, home: int) -> Iterator[Finding]:
        examiner = Examiner(read=self.read)
        closed = self._accounts.inner_of(name)
        # errors are ignored here: counting the home has reported them
        for found in walk(home, lambda path, error: None, closed=closed):
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
        """Check a directory with staging's reserved name below the top of the home. Uploads use one
        if a directory has another group or is on another file system; after a crash, the next
        recount removes it."""
        row, leases = self._rows(name)
        staging = found.entry.is_dir(follow_symlinks=False)
        if row is None or (staging and (self.beside is not None or _is_anothers(found))):
            return
        doubtful = staging and (row.dirty or any(self._is_dead(one) for one in leases))
        weight = Weight.DOUBT if doubtful else Weight.DAMAGE
        path = b"/" + found.path
        yield Finding("partial", name, path, "only at the top of the home", "here", weight)


def _is_anothers(found: Found) -> bool:
    """Return whether a directory with the reserved name is the staging of another home in this one:
    of another server, or of an account that was removed."""
    try:
        staging = os.open(found.name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=found.directory)
    except OSError:
        return False
    try:
        return is_of_a_home(staging)
    finally:
        os.close(staging)


def check(root: Path, *, read: bool = False, strict: bool = False) -> list[Finding]:
    """Return all findings about a root. Raises CannotCheck."""
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
        return None  # it was just carried out and removed


def _exists(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _alone(staging: int | None) -> Iterator[None]:
    """Hold a home's lock exclusively within the context, as a recount does. A home that was never
    used has no lock."""
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
        raise CannotCheck(f"{state}: cannot be used: {(error.strerror or '').lower()}") from error


def open_to_read(state: Path) -> Engine:
    """Open the accounts file of a state directory for reading. It is neither made nor upgraded."""
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
    except OperationalError:  # a WAL needs a second file, which cannot be made on a read-only disk
        if (state / DATABASE).exists() and os.statvfs(state).f_flag & os.ST_RDONLY:
            engine.dispose()
            return open_snapshot(state, lambda: CannotCheck(f"{state}: the disk is read-only"))
    except DatabaseError:
        pass  # the caller's checks will report what is wrong
    return engine


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def check_state(engine: Engine, *, earlier: bool = False) -> Iterator[Finding]:
    """Check the accounts file itself.

    Args:
        engine: The accounts database.
        earlier: True to accept an earlier version, which the next start will upgrade.

    Raises:
        CannotCheck: It is of another version.
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
            f"{SCHEMA_VERSION}): check it with that version, or start the server once, which "
            "upgrades it (ftpd start)"
        )
    if version is not None and version > SCHEMA_VERSION:
        raise CannotCheck(
            f"the accounts file was written by a newer ftpd (schema {version}, this one has "
            f"{SCHEMA_VERSION}): check it with that version"
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
