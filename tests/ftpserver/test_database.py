"""The accounts file: made, opened again, refused."""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
from contextlib import closing

import pytest
from sqlalchemy import insert, select, update

from ftpserver import database
from ftpserver.database import durable, open_state, reading
from ftpserver.errors import StateError
from ftpserver.schema import SCHEMA_VERSION, account, schema


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
        patch.setattr(database, "rename_new", killed)
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


def test_a_first_start_that_finds_another_ones_file_half_way_uses_it(root, monkeypatch):
    begin_new = database._begin_new
    held = []

    def after_another(path):
        monkeypatch.setattr(database, "_begin_new", begin_new)
        held.append(open_state(path.parent).connect())  # so that state.db-wal is there
        begin_new(path)

    monkeypatch.setattr(database, "_begin_new", after_another)
    open_state(root / ".ftpd").dispose()
    assert (root / ".ftpd" / "state.db-wal").exists()
    held[0].close()
    held[0].engine.dispose()


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
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
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


def test_every_table_has_a_version():
    assert SCHEMA_VERSION >= 1
