"""The accounts file: made, opened again, refused, locked."""

from __future__ import annotations

import os
import re
import sqlite3
import struct
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ftpserver import database as module
from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.tokens import Tokens
from ftpserver.database import (
    SCHEMA_VERSION,
    Outdated,
    RootLock,
    account,
    durable,
    open_state,
    open_to_look,
    open_to_serve,
    reading,
    schema,
    token,
)
from ftpserver.errors import RootBusy, StateError
from ftpserver.storage.quota import most_files


def test_it_is_private_and_opens_again(root):
    directory = root / ".ftpd"
    for _ in range(2):
        engine = open_state(directory)
        with engine.begin() as connection:
            assert connection.execute(select(schema.c.version)).scalars().all() == [SCHEMA_VERSION]
        engine.dispose()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "state.db").stat().st_mode & 0o777 == 0o600


def test_a_newer_schema_is_refused_in_one_line(root):
    engine = open_state(root / ".ftpd")
    with engine.begin() as connection:
        connection.execute(update(schema).values(version=SCHEMA_VERSION + 1))
    engine.dispose()
    with pytest.raises(StateError) as caught:
        open_state(root / ".ftpd")
    assert f"schema {SCHEMA_VERSION + 1}" in str(caught.value)
    assert "newer" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"this is no database, but it is rather long" * 50, id="text"),
        pytest.param(b"\0" * 8192, id="zeros"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 4096, id="damaged"),
    ],
)
def test_a_damaged_file_is_one_clear_error(root, content):
    (root / ".ftpd").mkdir()
    (root / ".ftpd" / "state.db").write_bytes(content)
    with pytest.raises(StateError) as caught:
        open_state(root / ".ftpd")
    assert "state.db" in str(caught.value) and "\n" not in str(caught.value)
    assert (root / ".ftpd" / "state.db").read_bytes() == content, "left for whoever repairs it"


def test_an_empty_file_is_damaged_and_no_first_start(root):
    (root / ".ftpd").mkdir()
    (root / ".ftpd" / "state.db").touch()
    with pytest.raises(StateError, match="state.db: the file is damaged: it is empty"):
        open_state(root / ".ftpd")
    assert (root / ".ftpd" / "state.db").stat().st_size == 0


@pytest.mark.parametrize("left", ["state.db-wal", "audit.jsonl", "first-login"])
def test_a_file_that_is_missing_is_no_first_start(root, left):
    (root / ".ftpd").mkdir()
    (root / ".ftpd" / left).touch()
    with pytest.raises(StateError, match=f"state.db: is missing, though {left} is there"):
        open_state(root / ".ftpd")
    assert os.listdir(root / ".ftpd") == [left]


def test_a_first_start_that_was_killed_leaves_none_by_halves(root, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "rename_new", killed)
        with pytest.raises(KeyboardInterrupt):
            open_state(root / ".ftpd")
    assert os.listdir(root / ".ftpd") == []
    open_state(root / ".ftpd").dispose()


def test_a_new_file_is_written_in_one_go(root):
    """Each transaction of SQLite's own would wait for the disk several times."""
    open_state(root / ".ftpd").dispose()
    header = (root / ".ftpd" / "state.db").read_bytes()[:100]
    (changes,) = struct.unpack_from(">I", header, 24)  # sqlite.org/fileformat.html
    assert changes <= 2, "the tables, and the change to write-ahead logging"


def test_first_starts_at_once_make_one_file(root):
    together = threading.Barrier(6)
    added = []

    def start(number: int) -> None:
        together.wait()
        engine = open_state(root / ".ftpd")
        with engine.begin() as connection:
            connection.execute(
                insert(account).values(name=f"{number}", password_hash="", created=0)
            )
        engine.dispose()
        added.append(str(number))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine = open_state(root / ".ftpd")
    with engine.connect() as connection:
        names = connection.execute(select(account.c.name)).scalars().all()
    engine.dispose()
    assert sorted(names) == sorted(added) and len(names) == 6
    assert [name for name in os.listdir(root / ".ftpd") if name.endswith(".new")] == []


def test_damage_that_shows_later_is_one_clear_error(root):
    engine = open_state(root / ".ftpd")
    with engine.connect() as connection:
        named = "SELECT rootpage FROM sqlite_master WHERE name = 'account'"
        page = connection.exec_driver_sql(named).scalar_one()
    engine.dispose()
    path = root / ".ftpd" / "state.db"
    with open(path, "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"Z" * 4096)
    engine = open_state(root / ".ftpd")
    try:
        with pytest.raises(StateError) as caught, engine.connect() as connection:
            connection.execute(select(account)).all()
    finally:
        engine.dispose()
    assert str(caught.value) == f"{path}: database disk image is malformed"


def test_a_file_that_stays_locked_is_one_clear_error(root, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.05)
    engine = open_state(root / ".ftpd")
    try:
        with closing(sqlite3.connect(root / ".ftpd" / "state.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StateError, match="state.db: database is locked"):
                with engine.begin():
                    pass
    finally:
        engine.dispose()


def test_transactions_wait_for_each_other(engine):
    """A writer that had read first would be refused at once; here it waits for its turn."""
    order = []

    def write() -> None:
        with engine.begin() as second:
            second.execute(insert(account).values(name="b", password_hash="", created=0))
            order.append("second")

    with engine.begin() as first:
        first.execute(insert(account).values(name="a", password_hash="", created=0))
        with reading(engine).connect() as reader:
            assert reader.execute(select(account)).all() == [], "readers wait for nobody"
        thread = threading.Thread(target=write)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(("make", "level"), [(durable, 2), (lambda engine: engine, 1)])
def test_what_is_synced(engine, make, level):
    for _ in range(2):
        with make(engine).begin() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


# the lock of a root ------------------------------------------------------------------------


def test_one_server_has_a_root(root):
    lock = RootLock(root)
    with pytest.raises(RootBusy) as caught:
        RootLock(root)
    assert str(os.getpid()) in str(caught.value)
    lock.release()
    RootLock(root).release()


def test_a_dead_server_has_no_root(root):
    """However it ended: the lock ends with its process."""
    code = (
        "import os, sys; from pathlib import Path; from ftpserver.database import RootLock;"
        "lock = RootLock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RootBusy, match=str(process.pid)):
            RootLock(root)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    RootLock(root).release()


def test_the_lock_says_who_has_it_and_no_more(root):
    (root / "lock").write_text("a longer text than a process id\n")
    lock = RootLock(root)
    assert (root / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_lock_that_can_not_be_made(root):
    (root / "lock").mkdir()
    with pytest.raises(StateError):
        RootLock(root)


def test_every_table_has_a_version():
    assert module.SCHEMA_VERSION >= 1


# migration -----------------------------------------------------------------------------------

VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE account (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name VARCHAR(32) NOT NULL UNIQUE,
    password_hash VARCHAR NOT NULL, home BLOB, quota BIGINT, used BIGINT NOT NULL,
    held BIGINT NOT NULL, dirty BOOLEAN NOT NULL, created BIGINT NOT NULL);
CREATE TABLE lease (
    id VARCHAR(32) NOT NULL PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    node VARCHAR NOT NULL, incarnation VARCHAR(32) NOT NULL, state VARCHAR(16) NOT NULL,
    size BIGINT NOT NULL, staging BLOB, expires BIGINT NOT NULL);
CREATE INDEX lease_by_account ON lease (account_id);
INSERT INTO account VALUES (7, 'alice', 'hash', NULL, 1000, 400, 10, 0, 12345);
INSERT INTO lease VALUES ('l', 7, 'local', 'i', 'kept', 10, x'aa', 99999999999);
"""


def test_an_earlier_schema_is_brought_up_to_date_and_kept(tmp_path):
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
    engine = open_to_serve(tmp_path).engine
    try:
        alice = Accounts(engine, tmp_path).get("alice")
        assert (alice.id, alice.quota, alice.used) == (7, 1000, 400)
        assert alice.permissions.unlimited
        assert alice.networks == ()
        assert not alice.disabled
        with reading(engine).connect() as connection:
            row = connection.execute(select(account)).one()
            assert row.dirty  # how many files there are is not known yet
            assert connection.execute(select(schema.c.version)).scalar() == SCHEMA_VERSION
    finally:
        engine.dispose()
    with closing(sqlite3.connect(tmp_path / "state.db.schema-1")) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
        assert connection.execute("SELECT name FROM account").fetchall() == [("alice",)]


def test_what_is_migrated_serves(start_server, dial, tmp_path):
    """A server starts on the files of the first version, and counts what that didn't."""
    state = tmp_path / "root" / ".ftpd"
    state.mkdir(parents=True)
    (tmp_path / "root" / "alice" / "dir").mkdir(parents=True)
    (tmp_path / "root" / "alice" / "dir" / "file").write_bytes(b"x" * 30)
    with closing(sqlite3.connect(state / "state.db")) as connection:
        connection.executescript(VERSION_1)
    server = start_server()
    server.accounts.set_password("alice", "secret")
    server.housekeeping.recount_dirty()
    alice = server.accounts.get("alice")
    assert (alice.used, alice.files) == (30, 2)
    dial(server).close()


VERSION_3 = (
    VERSION_1.replace("VALUES (1)", "VALUES (3)")
    + """
CREATE TABLE token (
    id VARCHAR(16) NOT NULL PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    name VARCHAR(64) NOT NULL, hash BLOB NOT NULL UNIQUE, created BIGINT NOT NULL,
    expires BIGINT, used BIGINT);
INSERT INTO token VALUES ('old', 7, 'laptop', x'00', 1, NULL, NULL);
"""
)


def content_of(path):
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_only_a_start_brings_an_earlier_schema_up_to_date(tmp_path):
    """An older server may be using it, and couldn't be started again."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_3)
    before = content_of(path)

    with pytest.raises(Outdated, match="earlier ftpd.*ftpd start"):
        open_state(tmp_path)
    engine = open_to_look(tmp_path)
    accounts = Accounts(engine, tmp_path)
    assert [one.id for one in Tokens(engine, accounts).of(accounts.get("alice"))] == ["old"]
    with pytest.raises(StateError, match="earlier ftpd"):
        accounts.change("alice", quota=5)
    engine.dispose()
    assert content_of(path) == before
    assert not list(tmp_path.glob("state.db.schema-*"))

    engine = open_to_serve(tmp_path).engine
    accounts = Accounts(engine, tmp_path)
    alice, tokens = accounts.get("alice"), Tokens(engine, accounts)
    made = tokens.issue(alice, "script", parent="old")
    assert [one.parent for one in tokens.of(alice)] == [None, "old"]
    with engine.begin() as connection:
        connection.execute(delete(token).where(token.c.id == "old"))  # as an older ftpd does it
    assert not tokens.is_good(made.id)
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
    monkeypatch.setattr(module, "CreateColumn", None)  # in the middle of it
    with pytest.raises(TypeError):
        open_to_serve(tmp_path)
    monkeypatch.undo()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
    open_to_serve(tmp_path).engine.dispose()


def test_a_migration_without_room_for_the_copy_is_one_line(tmp_path):
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.executescript(VERSION_1)
    (tmp_path / "state.db.schema-1").mkdir()
    with pytest.raises(StateError) as caught:
        open_to_serve(tmp_path)
    assert "state.db.schema-1" in str(caught.value) and "\n" not in str(caught.value)


def test_a_locked_file_is_one_clear_error(root, monkeypatch):
    open_state(root / ".ftpd").dispose()
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(root / ".ftpd" / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateError, match=r"state\.db: database is locked"):
            open_state(root / ".ftpd")
        other.execute("ROLLBACK")
    open_state(root / ".ftpd").dispose()


# an earlier version's -----------------------------------------------------------------------


def make_old(root) -> None:
    """Have the table of accounts as it was without its constraint, in use, and wrong."""
    engine = open_state(root / ".ftpd")
    Accounts(engine, root).add("alice", "correct horse", password_hash="x", quota=10**9)
    Accounts(engine, root).add("gone", "correct horse", password_hash="x")
    Accounts(engine, root).remove("gone")
    engine.dispose()
    with closing(sqlite3.connect(root / ".ftpd" / "state.db")) as state:
        (made,) = state.execute("SELECT sql FROM sqlite_master WHERE name = 'account'").fetchone()
        before, constraint, after = re.split(
            r"(,\s*CONSTRAINT \w+ CHECK \(.*?\))", made, maxsplit=1
        )
        assert "used >= 0" in constraint
        state.executescript(
            f"""
            PRAGMA foreign_keys=OFF; ALTER TABLE account RENAME TO last; {before}{after};
            INSERT INTO account SELECT * FROM last; DROP TABLE last;
            """.replace("ALTER", "PRAGMA legacy_alter_table=ON; ALTER")
        )
        state.execute("UPDATE account SET used = -5, held = -7, files = -1, held_files = 100")
        state.execute(
            "INSERT INTO lease (id, account_id, node, incarnation, state, size, expires, files)"
            " VALUES ('a', 1, 'local', 'x', 'kept', 30, 0, 2)"
        )
        state.execute("UPDATE sqlite_sequence SET seq = 2 WHERE name = 'account'")
        state.commit()


def columns_of(root, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(root / ".ftpd" / "state.db")) as state:
        return state.execute(f"SELECT * FROM {table}").fetchall()


def test_counts_are_never_below_zero(root):
    engine = open_state(root / ".ftpd")
    Accounts(engine, root).add("alice", "correct horse", password_hash="x")
    for name in ("used", "held", "files", "held_files"):
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(update(account).values({name: -1}))
    engine.dispose()


def test_only_a_start_brings_what_an_earlier_version_left_up_to_date(root):
    make_old(root)
    before = columns_of(root, "account"), columns_of(root, "lease")
    engine = open_state(root / ".ftpd")  # as any command does
    assert (columns_of(root, "account"), columns_of(root, "lease")) == before
    module.upgrade(root / ".ftpd", most_files)
    with engine.begin() as connection:  # an older server, which had it open
        row = connection.execute(select(account)).one()
        assert (row.name, row.used, row.held, row.files, row.held_files) == ("alice", 0, 30, 0, 2)
        assert row.dirty, "what it holds is to be counted"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    assert columns_of(root, "lease") == before[1]
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(update(account).values(held=-1))
    assert Accounts(engine, root).add("bob", "correct horse", password_hash="x").id == 3
    Accounts(engine, root).remove("alice")
    assert columns_of(root, "lease") == []
    engine.dispose()
    module.upgrade(root / ".ftpd", most_files)
    assert [row[1] for row in columns_of(root, "account")] == ["bob"]


@pytest.mark.parametrize(
    ("quota", "files", "most"),
    [(None, 10**7, None), (10**9, 122_070, 244_140), (10**9, 122_071, 244_142), (1, 500, 1000)],
)
def test_an_upgrade_leaves_room_for_as_many_files_again(root, quota, files, most):
    make_old(root)
    with closing(sqlite3.connect(root / ".ftpd" / "state.db")) as state:
        state.execute("UPDATE account SET quota = ?, files = ?", (quota, files))
        state.commit()
    module.upgrade(root / ".ftpd", most_files)
    engine = open_state(root / ".ftpd")
    alice = Accounts(engine, root).get("alice")
    engine.dispose()
    assert alice.most_files == most
    assert (alice.max_files is None) == (files < 122_071 or quota is None)


def test_an_upgrade_that_fails_changes_nothing(root):
    make_old(root)
    before = columns_of(root, "account")
    with closing(sqlite3.connect(root / ".ftpd" / "state.db")) as state:
        state.execute("CREATE TABLE account_new (in_the_way)")
    with pytest.raises(StateError, match="can't be upgraded"):
        module.upgrade(root / ".ftpd", most_files)
    assert columns_of(root, "account") == before
