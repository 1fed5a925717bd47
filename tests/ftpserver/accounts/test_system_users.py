"""Accounts and the users of the system."""

from __future__ import annotations

import pytest

from ftpserver.accounts import system_users
from ftpserver.accounts.system_users import first_account_name


@pytest.mark.parametrize(
    ("system", "name"),
    [("alice", "alice"), ("Alice", "alice"), ("ünal", "admin"), ("", "admin"), ("a b", "admin")],
)
def test_the_first_account_is_called_like_the_user(monkeypatch, system, name):
    monkeypatch.setattr(system_users.getpass, "getuser", lambda: system)
    assert first_account_name() == name


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no user")])
def test_a_user_without_a_name_is_admin(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(system_users.getpass, "getuser", fail)
    assert first_account_name() == "admin"
