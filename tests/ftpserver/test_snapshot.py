"""The copy of the accounts file that is read where nothing can be written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import DatabaseError, OperationalError

from ftpserver import snapshot
from ftpserver.accounts.accounts import Accounts
from ftpserver.database import open_state
from ftpserver.errors import StateError
from ftpserver.schema import account
from ftpserver.snapshot import open_snapshot
from tests.descriptors import opened_by
from tests.system.test_unwritable import can_mount, read_only


@pytest.fixture
def state(tmp_path) -> Path:
    place = tmp_path / "state"
    engine = open_state(place)
    Accounts(engine, place).add("alice", "correct-horse")
    engine.dispose()
    return place


def names(engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(select(account.c.name)).scalars())


_HOLDS_ONE = """
import sys
from pathlib import Path
from ftpserver.snapshot import open_snapshot
engine = open_snapshot(Path(sys.argv[1]), lambda: PermissionError("it is a copy"))
with engine.connect() as connection:
    print(connection.exec_driver_sql("SELECT name FROM account").scalar(), flush=True)
    sys.stdin.read()
"""


def test_nothing_is_left_of_a_process_that_is_killed(state, tmp_path):
    place = tmp_path / "temporary"
    place.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS_ONE, str(state)],
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "alice\n"
        opened = list(opened_by(process.pid))
    finally:
        process.kill()
        process.communicate()
    # what others leave in memory, who run beside this test, is not looked at
    assert not [one for one in opened if one.startswith(("/dev/shm", str(place), str(state)))]
    assert list(place.iterdir()) == []


def test_what_earlier_versions_have_left_is_removed(state, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "_LEFT", tmp_path)

    def leave(name: str, *files: str, mode: int = 0o700) -> Path:
        place = tmp_path / name
        place.mkdir()
        for one in files:
            (place / one).write_bytes(b"hashes")
        place.chmod(mode)
        return place

    left = leave("ftpd-abcdefg1", "state.db", "state.db-wal")
    leave("ftpd-abcdefg2", "state.db", "something")
    leave("ftpd-abcdefg3", "state.db", mode=0o755)
    leave("ftpd-abcdefg4")
    used = leave("ftpd-abcdefg5", "state.db")
    (tmp_path / "ftpd-abcdefg6").symlink_to(left)
    holding = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", holding, str(used / "state.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        open_snapshot(state, None).dispose()
        there = {one.name for one in tmp_path.iterdir()}
        assert there == {"state", *(f"ftpd-abcdefg{number}" for number in (2, 3, 4, 5, 6))}
    finally:
        holder.communicate()
    snapshot.remove_left()
    assert not used.exists()


def test_a_copy_is_as_of_now_and_nobody_else_sees_what_is_changed_in_it(state):
    engine = open_state(state)  # a server may have it open, and its WAL holds the newest
    Accounts(engine, state).add("bob", "correct-horse")
    copy, other = open_snapshot(state, None), open_snapshot(state, None)
    assert names(copy) == ["alice", "bob"]
    with copy.begin() as connection:
        connection.execute(update(account).values(quota=5))
    with copy.connect() as one, copy.connect() as two:  # several connections have the same copy
        quotas = select(account.c.quota)
        assert set(one.execute(quotas).scalars()) == set(two.execute(quotas).scalars()) == {5}
    for unchanged in (engine, other):
        with unchanged.connect() as connection:
            assert set(connection.execute(select(account.c.quota)).scalars()) == {None}
    for one in (engine, copy, other):
        one.dispose()


def test_nothing_is_changed_in_a_copy_to_be_read(state):
    copy = open_snapshot(state, lambda: StateError("it is a copy"))
    with pytest.raises(StateError, match="it is a copy"), copy.begin() as connection:
        connection.execute(update(account).values(quota=5))
    copy.dispose()


def test_a_copy_is_made_before_somebody_changes_it(state):
    def prepare(engine, path):
        assert path == state / "state.db"
        with engine.begin() as connection:
            connection.execute(update(account).values(name="carol"))

    copy = open_snapshot(state, lambda: StateError("it is a copy"), prepare)
    assert names(copy) == ["carol"]
    copy.dispose()


@can_mount
@pytest.mark.parametrize("with_log", [True, False])
def test_a_read_only_disk(tmp_path, with_log):
    """The last changes are in the WAL, or all are in the file, and there is no WAL."""
    place = tmp_path / "disk"
    engine = open_state(place)
    Accounts(engine, place).add("alice", "correct-horse")
    with closing(sqlite3.connect(place / "state.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        Accounts(engine, place).add("bob", "correct-horse")
        if not with_log:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("state.db", "state.db-wal"):
        (elsewhere / name).write_bytes((place / name).read_bytes())
    engine.dispose()
    assert ((elsewhere / "state.db-wal").stat().st_size > 0) == with_log
    with read_only(elsewhere):
        copy = open_snapshot(elsewhere, lambda: StateError("it is a copy"))
        assert names(copy) == ["alice", "bob"]
        copy.dispose()
    assert not (elsewhere / "state.db-shm").exists()


@pytest.mark.parametrize("content", [None, b"", b"no database" * 1000])
def test_what_is_no_accounts_file_can_t_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "state.db").write_bytes(content)
    with pytest.raises((StateError, OperationalError)):
        names(open_snapshot(tmp_path, None))


def test_a_damaged_page_is_copied_as_it_is(state):
    """`ftpd check` says then what is wrong with it."""
    with closing(sqlite3.connect(state / "state.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    with open(state / "state.db", "r+b") as file:
        file.seek(size * (pages - 1))
        file.write(os.urandom(size))
    copy = open_snapshot(state, None)
    with pytest.raises(DatabaseError, match="malformed"), copy.connect() as connection:
        connection.exec_driver_sql("PRAGMA integrity_check").fetchall()
    copy.dispose()
