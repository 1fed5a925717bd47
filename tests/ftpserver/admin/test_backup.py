"""Backups: whole or not there, while the server runs, and good to start from."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import closing

import pytest
from sqlalchemy import select

from ftpserver.accounts.accounts import Accounts
from ftpserver.admin import backup as module
from ftpserver.admin.backup import BackupVerifier, back_up, back_up_in_series, is_backup
from ftpserver.database import open_state
from ftpserver.errors import StateError
from ftpserver.net.tls import ensure_key, fingerprint_of
from ftpserver.schema import account, lease


@pytest.fixture
def place(tmp_path):
    return tmp_path / "backups" / "today"


@pytest.fixture
def state(root, accounts):
    """A root with alice, a key and settings."""
    accounts.add("alice", "secret", quota=1000)
    directory = root / ".ftpd"
    ensure_key(directory)
    (directory / "ftpd.toml").write_text("port = 5\n")
    return directory


def findings(place) -> list[str]:
    return [str(one) for one in BackupVerifier(place).findings()]


def test_accounts_keys_and_settings(root, state, place):
    (root / "alice" / "file").write_text("not in it")
    made = back_up(root, place)
    copy = place / ".ftpd"
    assert made.accounts == 1
    assert set(made.files) == {"state.db", "tls/cert.pem", "tls/key.pem", "ftpd.toml"}
    assert sorted(path.name for path in copy.iterdir()) == [
        *("backup.json", "ftpd.toml", "state.db", "tls")
    ]
    assert list(place.iterdir()) == [copy]
    assert fingerprint_of(copy / "tls/cert.pem") == fingerprint_of(state / "tls/cert.pem")
    assert (copy / "tls/key.pem").read_bytes() == (state / "tls/key.pem").read_bytes()
    assert findings(place) == []
    engine = open_state(copy)
    assert Accounts(engine, root).log_in("alice", "secret").quota == 1000
    engine.dispose()


def test_it_is_private(root, state, place):
    before = os.umask(0)
    try:
        back_up(root, place)
    finally:
        os.umask(before)
    for path in (place, *place.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_what_belongs_to_one_run_is_not_in_it(root, state, engine, ledger, place):
    with engine.connect() as connection:
        number = connection.execute(select(account.c.id)).scalar()
    ledger.reserve(number, 100)
    ledger.operation(number, b"12345678")
    ledger.note_answers(number, b"12345678", [(1, b"done")])
    back_up(root, place)
    with closing(sqlite3.connect(place / ".ftpd" / "state.db")) as copy:
        assert copy.execute("SELECT held, dirty FROM account").fetchall() == [(0, 1)]
        for table in ("lease", "operation", "answer"):
            assert copy.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with engine.connect() as connection:
        assert len(connection.execute(select(lease)).all()) == 1, "the source is as it was"


def test_while_accounts_are_changed(root, state, accounts, place):
    """Each copy is one moment's: of two changes made at once it has both or none."""
    done = threading.Event()

    def change() -> None:
        number = 0
        while not done.is_set():
            number += 1
            accounts.change("alice", quota=number, max_files=number)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for number in range(5):
            back_up(root, place / str(number))
    finally:
        done.set()
        thread.join()
    for number in range(5):
        assert findings(place / str(number)) == []
        with closing(sqlite3.connect(place / str(number) / ".ftpd" / "state.db")) as copy:
            ((quota, files),) = copy.execute("SELECT quota, max_files FROM account").fetchall()
            assert files in (quota, None)


def test_a_server_starts_on_it_and_counts_first(start_server, place, tmp_path):
    server = start_server(plaintext=False, quota=1000)
    shown, root = server.fingerprint, server.settings.root
    back_up(root, place)
    start_server.finish(server)
    home = place / "alice"
    home.mkdir(exist_ok=True)
    (home / "file").write_bytes(b"x" * 300)
    again = start_server(plaintext=False, root=place)
    assert again.fingerprint == shown
    again.housekeeping.recount_dirty()
    assert again.accounts.get("alice").used == 300
    assert not is_backup(place), "it is a root like any other now"


@pytest.mark.parametrize("there", ["file", "full"])
def test_a_place_that_is_taken(root, state, place, there):
    place.parent.mkdir()
    if there == "file":
        place.write_text("mine")
    else:
        (place / "deep").mkdir(parents=True)
    with pytest.raises(StateError, match="today"):
        back_up(root, place)
    assert sorted(path.name for path in place.parent.iterdir()) == ["today"]


def test_an_empty_place_is_taken(root, state, place):
    place.mkdir(parents=True)
    back_up(root, place)
    assert findings(place) == []


def test_nothing_to_copy(tmp_path, place):
    with pytest.raises(StateError, match="no server has been started"):
        back_up(tmp_path / "nothing", place)
    assert not place.parent.exists()


@pytest.mark.parametrize("name", ["state.db", "tls/key.pem"])
def test_what_is_damaged_makes_no_backup(root, state, engine, place, name):
    engine.dispose()
    (state / name).write_bytes(b"rubbish " * 1000)
    with pytest.raises(StateError) as caught:
        back_up(root, place)
    assert "\n" not in str(caught.value)
    assert list(place.parent.iterdir()) == []


def test_half_a_backup_is_none(root, state, place, monkeypatch):
    """Whatever ends it: under its name there is nothing before it is whole."""

    def stop(*_: object) -> None:
        assert not place.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        back_up(root, place)
    assert list(place.parent.iterdir()) == []


def test_a_full_disk_is_one_line(root, state, place, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(StateError, match="no space left on device"):
        back_up(root, place)
    assert list(place.parent.iterdir()) == []


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda copy: flip(copy / "state.db"), id="bit"),
        pytest.param(lambda copy: (copy / "tls/key.pem").unlink(), id="missing"),
        pytest.param(lambda copy: (copy / "state.db").write_bytes(b"x" * 5000), id="database"),
        pytest.param(lambda copy: (copy / "ftpd.toml").write_text("port = 6"), id="settings"),
        pytest.param(lambda copy: (copy / "backup.json").write_text("{}"), id="manifest"),
        pytest.param(lambda copy: (copy / "backup.json").write_text("[1]"), id="list"),
    ],
)
def test_what_is_wrong_with_a_copy_is_found(root, state, place, spoil):
    back_up(root, place)
    spoil(place / ".ftpd")
    found = findings(place)
    assert found and all(one.isprintable() for one in found)


def test_the_manifest_says_what_it_is(root, state, place):
    back_up(root, place)
    manifest = json.loads((place / ".ftpd" / "backup.json").read_text())
    assert manifest["root"] == str(root) and manifest["accounts"] == 1
    assert manifest["made"].endswith("Z")


def test_a_copy_says_that_it_holds_no_files_of_users(root, state, place, ftpd):
    back_up(root, place)
    status, out, err = ftpd("check", "--root", str(place), with_root=False)
    assert (status, out) == (0, "checked 1 account, 4 files: the copy is complete\n")
    assert "users' files were not checked" in err


def test_a_copy_that_was_put_back_is_checked_with_its_homes(root, state, place, ftpd):
    back_up(root, place)
    (place / "alice").mkdir()
    (place / "alice" / "file").write_text("of yesterday")
    status, out, err = ftpd("check", "--root", str(place), "--strict", with_root=False)
    assert status == 8, "the accounts don't know of that file"
    assert "damage" in out and err == ""
    (place / "alice" / "file").unlink()
    status, out, err = ftpd("check", "--root", str(place), with_root=False)
    assert (status, err) == (0, "") and "will be recounted at next start" in out
    (place / ".ftpd" / "tls" / "key.pem").write_text("not a key")
    assert ftpd("check", "--root", str(place), with_root=False)[0] == 8


# a series ----------------------------------------------------------------------------------


@pytest.fixture
def at(monkeypatch):
    """Sets the hour of the next backups."""

    def set_hour(hour: int) -> None:
        moment = (2030, 1, 31, hour, 0, 0, 3, 31, 0)
        monkeypatch.setattr(module.time, "gmtime", lambda *_: moment)

    return set_hour


def test_a_series_keeps_the_last_ones(root, state, at, tmp_path):
    directory = tmp_path / "backups"
    removed = []
    for hour in range(5):
        at(hour)
        made = back_up_in_series(root, directory, 3)
        assert made.place == directory / f"2030-01-31T0{hour}0000Z" and findings(made.place) == []
        removed += [path.name for path in made.removed]
    assert removed == ["2030-01-31T000000Z", "2030-01-31T010000Z"]
    assert sorted(path.name for path in directory.iterdir()) == [
        *("2030-01-31T020000Z", "2030-01-31T030000Z", "2030-01-31T040000Z")
    ]


def test_two_of_a_series_in_one_second(root, state, at, tmp_path):
    at(7)
    first, second = (back_up_in_series(root, tmp_path / "backups", 2) for _ in range(2))
    assert first.place.exists() and second.place.name == "2030-01-31T070000Z-2"


def test_the_new_one_is_kept_though_the_clock_was_set_back(root, state, at, tmp_path):
    for hour in (8, 9, 1):
        at(hour)
        made = back_up_in_series(root, tmp_path / "backups", 2)
    assert made.place.exists() and [path.name for path in made.removed] == ["2030-01-31T080000Z"]


def test_a_series_removes_nothing_but_its_own_backups(root, state, at, tmp_path):
    """Neither backups with other names, nor what only looks like one, nor one that is in use."""
    directory = tmp_path / "backups"
    at(2)
    restored = back_up_in_series(root, directory, 1).place
    (restored / "alice").mkdir()
    back_up(root, directory / "before-upgrade")
    (directory / "2030-01-31T000000Z").mkdir()
    (directory / "2030-01-31T000001Z").symlink_to(directory / "before-upgrade")
    (directory / "2030-01-31T000002Z").write_text("a file")
    before = sorted(directory.iterdir())
    at(3)
    made = back_up_in_series(root, directory, 1)
    assert made.removed == ()
    assert sorted(directory.iterdir()) == [*before[:-1], made.place, before[-1]]


def test_an_old_one_that_cant_be_removed_is_named(root, state, at, tmp_path, monkeypatch):
    at(1)
    first = back_up_in_series(root, tmp_path / "backups", 1).place

    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.shutil, "rmtree", refuse)
    at(2)
    with pytest.raises(StateError, match="cannot be removed: operation not permitted") as error:
        back_up_in_series(root, tmp_path / "backups", 1)
    new = tmp_path / "backups" / "2030-01-31T020000Z"
    assert str(first) in str(error.value) and f"({new} is complete)" in str(error.value)
    assert findings(new) == []
