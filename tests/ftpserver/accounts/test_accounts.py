"""Accounts: names, passwords, homes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import argon2
import pytest

from ftpserver.accounts import passwords
from ftpserver.accounts.account import NewAccount, check_name
from ftpserver.accounts.passwords import MAX_PASSWORD, hash_password, random_password
from ftpwire.errors import BadAccount, LoginRefused, NameTaken, NotFound

GOOD_NAMES = ["a", "0", "alice", "a.b-c_d", "0day", "a" * 32, "a..", "x-"]
BAD_NAMES = [
    "",
    ".",
    "..",
    ".ftpd",
    ".hidden",
    "-rf",
    "_x",
    "Alice",
    "alice ",
    " alice",
    "alice\n",
    "al/ice",
    "../alice",
    "al\0ice",
    "a" * 33,
    "älice",
    "alice\u202e",
    "１",
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names(accounts, root, name):
    assert check_name(name) == name
    assert accounts.add(name, "secret").home == root / name
    assert (root / name).stat().st_mode & 0o777 == 0o700
    assert accounts.log_in(name, "secret").name == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(accounts, root, name):
    with pytest.raises(BadAccount):
        accounts.add(name, "secret")
    assert len(accounts) == 0
    assert [entry.name for entry in root.iterdir()] == [".ftpd"]


def test_a_bad_name_is_shown_harmlessly():
    with pytest.raises(BadAccount) as caught:
        check_name("\x1b[31mred\n")
    assert str(caught.value).isprintable()


# passwords ---------------------------------------------------------------------------------


def test_passwords_are_kept_as_argon2id():
    stored = hash_password("secret")
    parameters = argon2.extract_parameters(stored)
    assert parameters.type is argon2.Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (19456, 2, 1)
    assert "secret" not in stored
    assert hash_password("secret") != stored, "a salt of its own"


def test_an_unknown_name_costs_what_a_wrong_password_costs():
    """The dummy hash has to be a real one: one that cannot be parsed would be refused at once."""
    real = argon2.extract_parameters(hash_password("secret"))
    assert argon2.extract_parameters(passwords.DUMMY_HASH) == real
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        argon2.PasswordHasher().verify(passwords.DUMMY_HASH, "secret")


@pytest.mark.parametrize("password", ["wrong", "", "Secret", "secret ", "x" * 2000, "\udcff"])
@pytest.mark.parametrize("name", ["alice", "nobody", "../alice", "\udcff", "x" * 64])
def test_refusals_say_the_same_after_one_hash(accounts, monkeypatch, name, password):
    accounts.add("alice", "secret")
    verified = []
    hasher = passwords._hasher

    class Counting:
        def verify(self, stored, given):
            verified.append(stored)
            return hasher.verify(stored, given)

    monkeypatch.setattr(passwords, "_hasher", Counting())
    with pytest.raises(LoginRefused) as caught:
        accounts.log_in(name, password)
    assert str(caught.value) == "wrong user name or password"
    assert len(verified) == 1
    assert (verified == [passwords.DUMMY_HASH]) == (name != "alice")


@pytest.mark.parametrize(
    "password",
    ["x", "x" * MAX_PASSWORD, "ä" * (MAX_PASSWORD // 2), "with space", "\n", "\0", "\U0001f511"],
)
def test_passwords_that_can_be_used(accounts, password):
    accounts.add("alice", password)
    assert accounts.log_in("alice", password).name == "alice"
    with pytest.raises(LoginRefused):
        accounts.log_in("alice", password + "x")


@pytest.mark.parametrize(
    "password",
    ["", "x" * (MAX_PASSWORD + 1), "ä" * (MAX_PASSWORD // 2 + 1), "no utf-8: \udcff"],
)
def test_passwords_that_can_not_be_used(accounts, root, password):
    with pytest.raises(BadAccount):
        accounts.add("alice", password)
    assert not (root / "alice").exists()
    accounts.add("alice", "secret")
    with pytest.raises(BadAccount):
        accounts.set_password("alice", password)
    assert accounts.log_in("alice", "secret")


def test_a_stored_hash_that_is_damaged_opens_nothing(accounts, engine):
    accounts.add("alice", "secret")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE account SET password_hash = 'secret'")
    with pytest.raises(LoginRefused):
        accounts.log_in("alice", "secret")


def test_no_more_hashes_at_once_than_cores(accounts, monkeypatch):
    """Each takes 19 MiB: a flood of log-ins must not take all memory."""
    accounts.add("alice", "secret")
    most = passwords._hashing._initial_value
    assert most <= (os.cpu_count() or 1)
    running, seen = [], []
    full, go_on = threading.Event(), threading.Event()

    class Slow:
        def verify(self, stored, given):
            running.append(1)
            seen.append(len(running))
            if len(running) == most:
                full.set()
            assert go_on.wait(30)
            running.pop()
            return True

    monkeypatch.setattr(passwords, "_hasher", Slow())
    threads = [
        threading.Thread(target=accounts.log_in, args=("alice", "x")) for _ in range(most * 4)
    ]
    for thread in threads:
        thread.start()
    assert full.wait(30)
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(seen) == most * 4
    assert max(seen) <= most


def test_changing_a_password(accounts):
    accounts.add("alice", "old")
    accounts.set_password("alice", "new")
    assert accounts.log_in("alice", "new")
    with pytest.raises(LoginRefused):
        accounts.log_in("alice", "old")
    with pytest.raises(NotFound):
        accounts.set_password("bob", "new")


def test_random_passwords():
    made = {random_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(one) == 23 and one.isascii() and one == one.lower() for one in made)


# homes and rows ----------------------------------------------------------------------------


def test_what_an_account_has(accounts, root):
    added = accounts.add("alice", "secret", quota=1000)
    assert accounts.get("alice") == added
    assert (added.name, added.home, added.quota) == ("alice", root / "alice", 1000)
    assert (added.used, added.held, added.free) == (0, 0, 1000)
    assert accounts.add("bob", "secret").free is None
    assert [one.name for one in accounts] == ["alice", "bob"]
    assert len(accounts) == 2


def test_a_name_is_given_once(accounts):
    accounts.add("alice", "secret", quota=10)
    for home in (None, accounts.get("alice").home):
        with pytest.raises(NameTaken):
            accounts.add("alice", "other", home=home)
    assert accounts.get("alice").quota == 10
    assert accounts.log_in("alice", "secret")


def test_one_of_many_at_once_gets_the_name(accounts):
    outcomes = []
    together = threading.Barrier(8)

    def add(number: int) -> None:
        together.wait()
        try:
            accounts.add("alice", f"secret {number}")
            outcomes.append(number)
        except NameTaken:
            pass

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert accounts.log_in("alice", f"secret {outcomes[0]}")


def test_a_home_with_contents_is_not_handed_over_by_chance(accounts, root):
    (root / "alice").mkdir()
    (root / "alice" / "diary").write_text("of another alice")
    with pytest.raises(BadAccount, match="isn't empty"):
        accounts.add("alice", "secret")
    assert len(accounts) == 0
    assert accounts.add("alice", "secret", home=root / "alice").home == root / "alice"


def test_an_empty_home_is_taken(accounts, root):
    (root / "alice").mkdir()
    assert accounts.add("alice", "secret").home == root / "alice"


def test_another_home(accounts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    added = accounts.add("alice", "secret", home=tmp_path / "else" / "where")
    assert added.home.is_dir()
    assert accounts.add("bob", "secret", home=added.home.relative_to(tmp_path)).home == added.home
    name = os.fsdecode(b"no \xff utf-8")
    assert accounts.add("carol", "secret", home=tmp_path / name).home == tmp_path / name
    assert accounts.get("carol").home.is_dir()


@pytest.mark.parametrize(
    "home",
    [
        "{root}",
        "{root}/.ftpd",
        "{root}/.ftpd/tls",
        "{root}/../root",
        "{link}/.ftpd",
        "{root}/..",
        "/",
    ],
)
def test_no_home_has_the_servers_own_state(accounts, root, tmp_path, home):
    (tmp_path / "link").symlink_to(root)
    given = Path(home.format(root=root, link=tmp_path / "link"))
    with pytest.raises(BadAccount, match="server keeps its state there"):
        accounts.add("alice", "secret", home=given)
    with pytest.raises(BadAccount, match="server keeps its state there"):
        accounts.apply([NewAccount("alice", "hash", given)], {})
    assert len(accounts) == 0


def test_a_home_in_which_nothing_can_be_made(accounts, tmp_path, plain_user):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(BadAccount, match="cannot be a home: permission denied"):
        accounts.add("alice", "secret", home=tmp_path / "closed")
    assert len(accounts) == 0


def test_who_shares_a_home(accounts, root, tmp_path):
    accounts.add("alice", "secret")
    accounts.add("bob", "secret", home=tmp_path / "team" / "bob")
    (tmp_path / "link").symlink_to(tmp_path / "team")
    assert accounts.accounts_with_home(tmp_path / "team") == ["bob"]
    assert accounts.accounts_with_home(tmp_path / "link" / "bob" / "deeper") == ["bob"]
    assert accounts.accounts_with_home(root / "alice") == ["alice"]
    assert accounts.accounts_with_home(tmp_path / "tea") == []


def test_a_home_that_is_a_file(accounts, root):
    (root / "alice").write_text("")
    with pytest.raises(BadAccount):
        accounts.add("alice", "secret")
    assert len(accounts) == 0


def test_removing_keeps_the_files(accounts, root):
    added = accounts.add("alice", "secret")
    (added.home / "file").write_text("stays")
    assert accounts.remove("alice") == added
    assert (root / "alice" / "file").read_text() == "stays"
    with pytest.raises(LoginRefused):
        accounts.log_in("alice", "secret")
    for verb in (accounts.get, accounts.remove):
        with pytest.raises(NotFound):
            verb("alice")


def test_an_id_is_never_given_out_again(accounts, root):
    first = accounts.add("alice", "secret")
    accounts.remove("alice")
    assert accounts.add("alice", "secret").id > first.id
