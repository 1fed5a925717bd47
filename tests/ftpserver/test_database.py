"""The accounts file: made, opened again, refused."""

from __future__ import annotations

import os
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlalchemy import bindparam, create_engine, insert, select, update

from ftpserver import database
from ftpserver.database import Quick, Writer, durable, open_state, open_to_serve, reading
from ftpserver.errors import StateError
from ftpserver.schema import SCHEMA_VERSION, account, schema
from ftpwire.errors import Forbidden


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
    with pytest.raises(StateError, match=f"state.db: is missing, but {left} exists"):
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


# those who write ----------------------------------------------------------------------------

_ADD = Quick(
    insert(account).values(
        name=bindparam("its_name"),
        password_hash="",
        created=bindparam("at"),
        used=0,
        held=0,
        dirty=False,
    )
)
_NAMES = Quick(select(account.c.name).order_by(account.c.id))


def _names(engine) -> list[str]:
    with Writer.of(engine).begin_quickly(engine) as connection:
        return [name for (name,) in _NAMES(connection)]


def test_a_quick_transaction_is_one(engine):
    writer = Writer.of(engine)
    with writer.begin_quickly(engine) as connection:
        assert _ADD(connection, its_name="a", at=0).rowcount == 1
        assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
    with pytest.raises(KeyError), writer.begin_quickly(engine) as connection:
        _ADD(connection, its_name="b", at=0)
        raise KeyError
    assert _names(engine) == ["a"]
    with reading(engine).connect() as reader:
        assert reader.execute(select(account.c.name)).scalars().all() == ["a"]


def test_a_quick_statement_names_what_has_a_default():
    with pytest.raises(AssertionError, match="name them"):
        Quick(insert(account).values(name=bindparam("its_name")))


def test_writers_take_turns_over_one_connection(engine):
    writer, seen = Writer.of(durable(engine)), []
    assert writer is Writer.of(engine)

    def write(name: str) -> None:
        with writer.begin_quickly(engine) as connection:
            _ADD(connection, its_name=name, at=0)
            seen.append(connection)

    with writer.begin(engine) as first:
        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        first.execute(insert(account).values(name="first", password_hash="", created=0))
    for thread in threads:
        thread.join()
    assert _names(engine)[0] == "first" and sorted(_names(engine)[1:]) == ["a", "b"]
    assert seen[0] is seen[1]


def test_who_waits_too_long_for_his_turn_is_informed_that_it_is_locked(root, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    engine = open_state(root / ".ftpd")
    writer, errors = Writer.of(engine), []

    def write() -> None:
        try:
            with writer.begin_quickly(engine):
                pass
        except StateError as error:
            errors.append(str(error))

    try:
        with writer.begin(engine):
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
    finally:
        engine.dispose()
    assert errors == [f"{root / '.ftpd' / 'state.db'}: database is locked"]


# Another process, of any version: it knows SQLite's lock and nothing else.
_WRITES = """
import sqlite3, sys
state = sqlite3.connect(sys.argv[1], isolation_level=None)
state.execute("BEGIN IMMEDIATE")
state.execute("UPDATE schema_version SET version = version")
print("writing", flush=True)
sys.stdin.readline()
state.execute("COMMIT")
print("done", flush=True)
sys.stdin.readline()
"""


@contextmanager
def writing_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a transaction; it ends that at a line of input."""
    command = [sys.executable, "-c", _WRITES, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


@contextmanager
def finding_it_busy(engine, monkeypatch) -> Iterator[tuple[threading.Thread, list[float]]]:
    """A thread that writes quickly, and has found the file busy three times; how long it has
    paused after each of them."""
    paused: list[float] = []
    thrice = threading.Event()

    def sleep(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 3:
            thrice.set()
        real_sleep(seconds)

    def write() -> None:
        with Writer.of(engine).begin_quickly(engine) as connection:
            _ADD(connection, its_name="a", at=0)

    real_sleep = time.sleep
    monkeypatch.setattr(database.time, "sleep", sleep)
    thread = threading.Thread(target=write)
    thread.start()
    assert thrice.wait(30)
    assert thread.is_alive()
    yield thread, paused
    thread.join(30)
    assert not thread.is_alive()


def test_a_quick_transaction_follows_that_of_another_process(engine, root, monkeypatch):
    with writing_process(root / ".ftpd" / "state.db") as other:
        with finding_it_busy(engine, monkeypatch) as (_, paused):
            print(file=other.stdin, flush=True)
            assert other.stdout.readline() == "done\n"
        assert paused == sorted(paused) and max(paused) <= 0.002
    assert _names(engine) == ["a"]


def test_a_quick_transaction_follows_a_process_that_was_killed_in_its_own(
    engine, root, monkeypatch
):
    with writing_process(root / ".ftpd" / "state.db") as other:
        with finding_it_busy(engine, monkeypatch):
            other.send_signal(signal.SIGKILL)
    assert _names(engine) == ["a"]


def test_a_quick_transaction_does_not_wait_for_another_process_for_ever(root, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    engine = open_state(root / ".ftpd")
    try:
        with (
            writing_process(root / ".ftpd" / "state.db"),
            pytest.raises(StateError, match="locked"),
        ):
            _names(engine)
        assert _names(engine) == []
    finally:
        engine.dispose()


def test_a_quick_transaction_waits_for_no_one_by_way_of_the_pool(engine, monkeypatch):
    """To ask the pool for a connection takes longer than the transaction."""
    assert _names(engine) == []
    monkeypatch.setattr(engine.pool, "connect", Mock(side_effect=AssertionError))
    assert _names(engine) == []


def test_a_connection_that_can_not_roll_back_is_abandoned(engine):
    writer = Writer.of(engine)
    with pytest.raises(KeyError), writer.begin_quickly(engine) as connection:
        connection.close()  # as after an error of the disk
        raise KeyError
    with pytest.raises(KeyError), writer.begin_quickly(engine) as another:
        _ADD(another, its_name="a", at=0)
        raise KeyError
    assert another is not connection
    assert _names(engine) == []


def test_a_connection_that_can_not_be_prepared_goes_back(engine, monkeypatch):
    broken = sqlite3.connect(":memory:")
    broken.close()
    pooled = Mock(driver_connection=broken)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "raw_connection", lambda: pooled)
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            _names(engine)
    pooled.close.assert_called_once_with()
    pooled.detach.assert_not_called()
    assert _names(engine) == []


def test_a_database_in_memory_keeps_its_only_connection():
    memory = create_engine("sqlite://")
    try:
        writer = Writer.of(memory)
        for _ in range(2):
            with writer.begin_quickly(memory) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (number)")
                connection.execute("INSERT INTO kept VALUES (1)")
        assert writer._own is None
        with memory.connect() as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM kept").scalar() == 2
    finally:
        memory.dispose()


def test_the_turn_of_the_process_is_abandoned_before_anything_is_waited_for(engine, root):
    """And otherwise not: threads that write would race for Python's lock at each system call."""
    writer, reported = Writer.of(engine), threading.Semaphore(0)
    writer.before_wait = reported.release
    assert _names(engine) == []
    assert not reported.acquire(blocking=False)
    thread = threading.Thread(target=_names, args=(engine,))
    with writer.begin_quickly(engine):
        thread.start()
        assert reported.acquire(timeout=30)  # another thread writes
    thread.join(30)
    with writing_process(root / ".ftpd" / "state.db") as other:
        thread = threading.Thread(target=_names, args=(engine,))
        thread.start()
        assert reported.acquire(timeout=30)  # another process does
        print(file=other.stdin, flush=True)
        thread.join(30)
    assert not reported.acquire(blocking=False)  # once, however often it looks
    with writer.begin(engine):  # of which SQLite may sleep
        assert reported.acquire(blocking=False)


def test_the_log_is_written_back_without_the_turn(engine, root, monkeypatch):
    """That syncs two files, and would stop all who ask for something else meanwhile."""
    writer, requested = Writer.of(engine), []
    writer.before_wait = lambda: requested.append(len(log_of(root)))
    monkeypatch.setattr(database, "_WRITTEN_BACK_EVERY", 40)
    for number in range(200):
        with writer.begin_quickly(engine) as connection:
            _ADD(connection, its_name=f"user{number}", at=0)
    assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    assert len(requested) == 5
    # it is used again from its beginning
    assert len(log_of(root)) == requested[-1] <= requested[0] * 1.5
    _, pages, written_back = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert pages == written_back


def log_of(root: Path) -> bytes:
    return (root / ".ftpd" / "state.db-wal").read_bytes()


def test_a_log_that_can_not_be_written_back_fails_nothing(engine, monkeypatch, caplog):
    monkeypatch.setattr(database, "_WRITTEN_BACK_EVERY", 1)
    writer = Writer.of(engine)
    assert _names(engine) == []
    real, writer._own = writer._own, Mock(wraps=writer._own)

    def execute(statement: str, *arguments: object) -> object:
        if "checkpoint" in statement:
            raise sqlite3.OperationalError("disk I/O error")
        return real.execute(statement, *arguments)

    writer._own.execute = execute
    with writer.begin_quickly(engine) as connection:
        _ADD(connection, its_name="a", at=0)
    writer._own = real
    assert "checkpoint failed: disk I/O error" in caplog.text
    assert _names(engine) == ["a"]


def test_other_transactions_over_the_same_connection_wait_as_ever(engine):
    assert _names(engine) == []
    for options in ({}, {"reading": True}):
        with engine.execution_options(**options).connect() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
        assert _names(engine) == []


def test_what_has_to_be_synced_for_commits_to_last(root):
    engine = open_state(root / ".ftpd")
    log = str(root / ".ftpd" / "state.db-wal")
    try:
        for _ in range(2):
            (fd,) = Writer.of(engine).to_sync()
            assert os.readlink(f"/proc/self/fd/{fd}") == log
        engine.dispose()
        with pytest.raises(OSError):
            os.fstat(fd)
        with engine.connect():
            (fd,) = Writer.of(engine).to_sync()
            assert os.readlink(f"/proc/self/fd/{fd}") == log
    finally:
        engine.dispose()


def test_without_a_log_there_is_nothing_to_sync(root):
    engine = open_state(root / ".ftpd")
    writer = Writer.of(engine)
    engine.dispose()  # the last connection: all of it is in the accounts file
    assert writer.to_sync() == []
    memory = create_engine("sqlite://")
    assert Writer.of(memory).to_sync() == []
    memory.dispose()


@pytest.mark.parametrize("quick", [True, False])
def test_where_nothing_can_be_changed_clients_are_informed_why(root, monkeypatch, quick):
    open_state(root / ".ftpd").dispose()
    refusal = Forbidden("the server's disk is read-only")
    monkeypatch.setattr(database, "open_state", Mock(side_effect=StateError("it cannot")))
    monkeypatch.setattr(database, "_unwritable", lambda directory: refusal)
    engine = open_to_serve(root / ".ftpd").engine
    writer = Writer.of(engine)
    try:
        with pytest.raises(Forbidden, match="read-only"):
            if quick:
                with writer.begin_quickly(engine) as connection:
                    _ADD(connection, its_name="a", at=0)
            else:
                with writer.begin(engine) as made:
                    made.execute(insert(account).values(name="a", password_hash="", created=0))
    finally:
        engine.dispose()


def test_every_table_has_a_version():
    assert SCHEMA_VERSION >= 1
