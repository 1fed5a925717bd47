"""Accounts files of earlier versions: brought up to date, or left as they are."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from ftpserver import database, migration
from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.tokens import Tokens
from ftpserver.database import open_state, open_to_look, open_to_serve, reading
from ftpserver.errors import StateError
from ftpserver.migration import Outdated
from ftpserver.schema import SCHEMA_VERSION, account, schema, token
from ftpserver.storage.quota import most_files

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
    monkeypatch.setattr(migration, "CreateColumn", None)  # in the middle of it
    with pytest.raises(TypeError):
        open_to_serve(tmp_path)
    monkeypatch.undo()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
    open_to_serve(tmp_path).engine.dispose()


def test_a_migration_without_space_for_the_copy_is_one_line(tmp_path):
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.executescript(VERSION_1)
    (tmp_path / "state.db.schema-1").mkdir()
    with pytest.raises(StateError) as caught:
        open_to_serve(tmp_path)
    assert "state.db.schema-1" in str(caught.value) and "\n" not in str(caught.value)


def test_a_locked_file_is_one_clear_error(root, monkeypatch):
    open_state(root / ".ftpd").dispose()
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
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
        bare, count = re.subn(r",\s*CONSTRAINT \w+ CHECK \(.*?\)", "", made)
        assert count == 2 and "used >= 0" in made
        state.executescript(
            f"""
            PRAGMA foreign_keys=OFF; ALTER TABLE account RENAME TO last; {bare};
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
    migration.upgrade(root / ".ftpd", most_files)
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
    migration.upgrade(root / ".ftpd", most_files)
    assert [row[1] for row in columns_of(root, "account")] == ["bob"]


@pytest.mark.parametrize(
    ("quota", "files", "most"),
    [(None, 10**7, None), (10**9, 122_070, 244_140), (10**9, 122_071, 244_142), (1, 500, 1000)],
)
def test_an_upgrade_leaves_space_for_as_many_files_again(root, quota, files, most):
    make_old(root)
    with closing(sqlite3.connect(root / ".ftpd" / "state.db")) as state:
        state.execute("UPDATE account SET quota = ?, files = ?", (quota, files))
        state.commit()
    migration.upgrade(root / ".ftpd", most_files)
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
    with pytest.raises(StateError, match="cannot be upgraded"):
        migration.upgrade(root / ".ftpd", most_files)
    assert columns_of(root, "account") == before
