"""The accounts file of an earlier version: what each command does with it, and its upgrade.

Lives here: the file as that version has made it (schema-3.sql and later ones), in use by an older
server. Lives elsewhere: single steps of opening and upgrading (test_database.py).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ftpserver import migration
from ftpserver.database import open_to_look, open_to_serve
from ftpserver.root_lock import RootLock
from ftpserver.schema import SCHEMA_VERSION
from ftpserver.storage.batch import Uploads
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.quota import most_files
from ftpserver.storage.resumable import kept_names
from ftpwire import digests
from ftpwire.messages import Put, PutPiece, Sent, Stored

EARLIER = (3, 5)
"""The versions whose files are here."""


def content_of(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def make(path: Path, version: int = 3) -> None:
    tables = Path(__file__).with_name(f"schema-{version}.sql").read_text()
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(tables)


@pytest.fixture
def state(root) -> Path:
    directory = root / ".ftpd"
    directory.mkdir(mode=0o700)
    for name, content in {"alice": b"old", "bob": b""}.items():
        (root / name).mkdir()
        (root / name / "file").write_bytes(content)
    make(directory / "state.db")
    return directory


class OlderServer:
    """What the older server does meanwhile: it holds the root, and reads and writes its tables."""

    def __init__(self, state: Path) -> None:
        self._lock = RootLock(state)
        self._connection = sqlite3.connect(state / "state.db", isolation_level=None)
        self._count = 0

    def serves(self) -> None:
        """Have a log-in by token, and settle an upload, as that version does both."""
        self._count += 1
        (used,) = self._connection.execute(
            "SELECT account.used FROM token JOIN account ON account.id = token.account_id"
            " WHERE token.hash = x'c1'"
        ).fetchone()
        self._connection.execute("UPDATE account SET used = ? WHERE id = 1", (used + 1,))
        made = (f"t{self._count}", f"{self._count}".encode())
        self._connection.execute("INSERT INTO token VALUES (?, 2, 'x', ?, 1, NULL, NULL)", made)

    def close(self) -> None:
        self._connection.close()
        self._lock.release()


@pytest.fixture
def older_server(state) -> Iterator[OlderServer]:
    with closing(OlderServer(state)) as server:
        yield server


READ = [
    "user list",
    "user show alice",
    "user export",
    "user tokens alice",
    "token list alice",
    "invite --list",
    "why alice login",
    "why alice get /file",
    "why alice put /new 5",
    "why alice mkdir /new",
    "config check",
    "log",
    "scrub",
    "backup {place}/copy",
]
"""Commands that work beside the older server. (Those that ask a server are in test_control.py.)"""
CHANGE = [
    "user add carol --password-stdin",
    "user set alice --quota 5MiB",
    "user set alice --take-home",
    "user passwd alice --password-stdin",
    "user disable alice",
    "user rename alice carol",
    "user remove alice --yes",
    "user import -",
    "token revoke e296570a",
    "invite",
    "recount",
    "check",
]
"""Commands that need the file as it is today."""


def given(ftpd, command: str, place: Path) -> tuple[int, str, str]:
    return ftpd(*command.format(place=place).split(), stdin=b"correct-horse\n")


def raw(state: Path) -> dict[str, bytes]:
    """The accounts file and its log of changes, byte by byte."""
    return {one.name: one.read_bytes() for one in state.glob("state.db*") if "shm" not in one.name}


def test_commands_beside_an_older_server(ftpd, state, older_server, tmp_path):
    """They change nothing, and the older server goes on; what needs another file says so."""
    for command in READ + CHANGE:
        older_server.serves()
        before = raw(state)
        status, out, err = given(ftpd, command, tmp_path)
        assert raw(state) == before, command
        if command in READ:
            assert status == 0, (command, err)
        else:
            assert status == 1, (command, out)
            assert "written by an earlier ftpd" in err and "ftpd start" in err, (command, err)
            assert len(err.splitlines()) == 1, (command, err)
    older_server.serves()


def test_a_copy_is_whole_whatever_the_older_server_does_meanwhile(state, monkeypatch):
    """It may write to the file itself, and begin its log of changes anew, between any two steps."""
    copy = shutil.copyfile
    with closing(sqlite3.connect(state / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.executemany(
            "INSERT INTO token VALUES (?, 1, 'x', ?, 1, NULL, NULL)",
            [(f"{number}", f"{number}") for number in range(500)],
        )
        other.execute("COMMIT")

        def slow_copy(source, target):
            copied = copy(source, target)
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            other.execute("UPDATE token SET used = 1 WHERE id = '7'")
            return copied

        monkeypatch.setattr(shutil, "copyfile", slow_copy)
        engine = open_to_look(state)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            count = connection.exec_driver_sql("SELECT count(*) FROM token").scalar()
        engine.dispose()
    assert count == 501


def test_a_backup_before_the_upgrade(ftpd, state, tmp_path):
    """A copy that the new program makes before its first start is the earlier version's: it is
    whole, and either program starts on it."""
    before = content_of(state / "state.db")
    assert given(ftpd, "backup {place}/copy", tmp_path)[0] == 0
    copy = tmp_path / "copy" / ".ftpd"
    with closing(sqlite3.connect(copy / "state.db")) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchone() == (3,)
        assert connection.execute("SELECT id FROM token").fetchall() == [("e296570a",)]
    status, out, _ = ftpd("check", "--root", str(copy.parent), with_root=False)
    assert status == 0 and "the copy is complete" in out
    upgrade(copy)
    assert content_of(state / "state.db") == before


def test_why_can_be_asked_about_space_of_an_earlier_version(ftpd, state):
    """What tries out a reservation does so in a copy."""
    status, out, _ = ftpd("why", "alice", "put", "/new", "6MiB")
    assert status == 6 and "decided by: quota" in out


# the upgrade -----------------------------------------------------------------------------------


def upgrade(state: Path) -> None:
    open_to_serve(state).engine.dispose()
    migration.upgrade(state, most_files)


def upgrade_killed_before(state: Path, number: int) -> bool:
    """Upgrade in a process of its own, which kills itself before the statement of that number that
    changes something; whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            _kill_before(number)
            upgrade(state)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def _kill_before(number: int) -> None:
    connect = sqlite3.connect
    left = [number]

    def traced(statement: str) -> None:
        if statement.lstrip().split(None, 1)[0] in _CHANGES:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    def connect_traced(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.set_trace_callback(traced)
        return connection

    sqlite3.connect = sqlite3.dbapi2.connect = connect_traced


_CHANGES = frozenset({"ALTER", "CREATE", "UPDATE", "INSERT", "DROP", "DELETE", "COMMIT"})


@pytest.mark.system  # it starts processes, and takes some seconds
@pytest.mark.parametrize("version", EARLIER)
def test_an_upgrade_that_is_killed(tmp_path, version):
    """Before any of its steps: the file is the earlier version's or this one's, and the next start
    finds all that was there."""
    wanted = tmp_path / "wanted"
    wanted.mkdir()
    make(wanted / "state.db", version)
    before = content_of(wanted / "state.db")
    upgrade(wanted)
    after = content_of(wanted / "state.db")
    earlier = rounds = 0
    while True:
        state = tmp_path / f"{rounds}"
        state.mkdir()
        make(state / "state.db", version)
        copy = state / f"state.db.schema-{version}"
        copy.write_bytes(b"half of a copy, of one that was killed earlier")
        if not upgrade_killed_before(state, rounds + 1):
            break
        rounds += 1
        with closing(sqlite3.connect(state / "state.db")) as connection:
            (found,) = connection.execute("SELECT version FROM schema_version").fetchone()
        assert found in (version, SCHEMA_VERSION)
        if found == version:
            earlier += 1
            assert content_of(state / "state.db") == before, "an older server starts on it"
        upgrade(state)
        assert content_of(state / "state.db") == after
        assert content_of(copy) == before
    assert earlier > 3 and rounds > earlier + 5, (earlier, rounds)


def test_the_upgrade_to_the_trash(tmp_path):
    """Counts stay what they are: nothing is in a trash yet. Accounts without a quota get a limit of
    their own, that their trash doesn't fill the disk."""
    make(tmp_path / "state.db", 5)
    upgrade(tmp_path)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        columns = "name, used, files, trash_bytes, trash_files, trash_days, trash_max, dirty"
        assert connection.execute(f"SELECT {columns} FROM account").fetchall() == [
            ("alice", 3, 1, 0, 0, None, None, 0),
            ("bob", 0, 0, 0, 0, None, 10, 0),
        ]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("SELECT count(*) FROM token").fetchone() == (2,)
        assert connection.execute("SELECT seq FROM sqlite_sequence").fetchall() == [(7,)]
        for change in ("trash_bytes = 4", "trash_bytes = -1", "trash_files = 2", "used = -1"):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(f"UPDATE account SET {change} WHERE name = 'alice'")
        connection.execute("UPDATE account SET trash_bytes = 3 WHERE name = 'alice'")


def test_evictions_of_a_version_that_did_not_record_their_size(tmp_path):
    """One that is complete stays as it is; of an interrupted one, the size is not known."""
    make(tmp_path / "state.db", 5)
    upgrade(tmp_path)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.execute("ALTER TABLE operation DROP COLUMN size")
        connection.execute("UPDATE schema_version SET version = 6")
        now = int(time.time())
        for name, freed in (("done", 7), ("interrupted", None)):
            values = (name, 1, now, now, freed, "rm")
            columns = "name, account_id, begun, given_up, freed, words"
            connection.execute(
                f"INSERT INTO operation ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values
            )
        connection.commit()
    engine, _ = open_to_serve(tmp_path)
    ledger = Ledger(engine)
    ledger.end_evictions(1, [])
    assert {one.name: one.freed for one in ledger.evicted(1)} == {"done": 7, "interrupted": 0}
    engine.dispose()


def test_what_an_older_server_keeps_is_gone_on_with_after_the_upgrade(
    ftpd, state, older_server, root
):
    """Only the start adds the column. The checkpoint is as that version has written it."""
    data = random.Random(1).randbytes(5 * 1024 * 1024)
    request = Put(b"/big", len(data), mtime_ns=7, ask=True, pieces=True)
    _, name = kept_names(1, (b"big",), request.size, request.mtime_ns)
    staging, there = root / "alice" / ".ftpd-staging", len(data) - 1000
    staging.mkdir()
    (staging / os.fsdecode(name)).write_bytes(data[:there] + bytes(100))
    record = there.to_bytes(8, "big") + digests.digest(data[:there])
    checkpoint = record + digests.digest(record)[:8]
    (staging / os.fsdecode(name + b".ck")).write_bytes(checkpoint)
    with closing(sqlite3.connect(state / "state.db")) as connection:
        row = ("k", 1, "local", "older", "kept", len(data), name, 9790000000, 1)
        connection.execute("INSERT INTO lease VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute(
            "UPDATE account SET quota = NULL, held = held + ? WHERE id = 1", row[5:6]
        )
        connection.commit()
    assert given(ftpd, "user list", root)[0] == 0 and "pieces" not in lease_columns(state)
    older_server.serves()
    engine, _ = open_to_serve(state)
    assert "pieces" in lease_columns(state)
    with closing(Home(root / "alice", durable=False)) as home:
        uploads = Uploads(home, Ledger(engine), 1, durable=False)
        with uploads.receiving(1, request) as receiving:
            assert receiving.resume(lambda done: None) == (there, digests.digest(data[:there]))
            key = receiving.take_pieces()
            assert key is not None
            with uploads.open_piece(PutPiece(key, there, 1000)) as piece:
                piece.write(memoryview(data)[there:])
            receiving.finish(Sent(len(data), digests.digest(data)))
        assert uploads.commit() == [(1, Stored(len(data)))]
        uploads.abandon()
    engine.dispose()
    assert (root / "alice" / "big").read_bytes() == data
    assert set(os.listdir(staging)) == {"lock"}


def lease_columns(state: Path) -> list[str]:
    with closing(sqlite3.connect(state / "state.db")) as connection:
        return [row[1] for row in connection.execute("PRAGMA table_info(lease)")]
