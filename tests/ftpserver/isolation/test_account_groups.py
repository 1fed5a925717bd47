"""What the sessions of an account share, each in a process of its own."""

from __future__ import annotations

import os

from ftpserver.isolation.account_groups import AccountGroups


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_a_page_is_that_of_one_account_until_its_last_session_has_ended():
    groups = AccountGroups()
    first, second, other = (
        groups.join(1, 10),
        groups.join(1, 11),
        groups.join(2, 20),
    )
    assert first == second != other
    groups.leave(1, 10)
    assert is_open(first)
    groups.leave(1, 11)
    assert not is_open(first) and is_open(other)
    groups.leave(2, 20)
    assert not is_open(other)


def test_one_that_could_not_join_takes_nothing_from_the_others():
    groups = AccountGroups()
    groups.leave(1, 9)
    page = groups.join(1, 10)
    groups.leave(1, 9)
    assert is_open(page)
    groups.leave(1, 10)
    groups.leave(1, 10)
    assert not is_open(page)
