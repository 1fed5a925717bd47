"""The accounts file: made, opened again, refused, locked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from sqlalchemy import insert, select, update

from ftpserver import state as module
from ftpserver.state import (
    SCHEMA_VERSION,
    RootBusy,
    RootLock,
    StateError,
    account,
    durable,
    open_state,
    reading,
    schema,
)


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


def test_an_empty_file_is_a_first_start(root):
    (root / ".ftpd").mkdir()
    (root / ".ftpd" / "state.db").touch()
    open_state(root / ".ftpd").dispose()


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
        "import os, sys; from pathlib import Path; from ftpserver.state import RootLock;"
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
