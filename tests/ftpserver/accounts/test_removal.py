"""Which homes may be removed with their account, and that nothing else goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import update

from ftpserver.accounts.removal import check_removable, measure, remove_home
from ftpserver.schema import account
from ftpwire.errors import BadAccount


def is_removable(accounts, root, name: str) -> bool:
    gone = accounts.get(name)
    try:
        check_removable(gone, [one for one in accounts if one.name != name], root)
    except BadAccount:
        return False
    return True


@pytest.mark.parametrize(
    "home",
    [
        pytest.param("/", id="everything"),
        pytest.param("{root}", id="root"),
        pytest.param("{root}/..", id="above-root"),
        pytest.param("{root}/.", id="root-otherwise"),
        pytest.param("{root}/.ftpd", id="state"),
        pytest.param("{root}/.ftpd/below", id="below-state"),
        pytest.param("{root}/bob", id="another-home"),
        pytest.param("{root}/bob/below", id="below-another-home"),
        pytest.param("{outside}/x/../../root/bob", id="another-home-otherwise"),
        pytest.param("{outside}/to-bob/below", id="another-home-by-a-link"),
        pytest.param("{outside}/to-x", id="a-link"),
        pytest.param("/proc", id="a-mount"),
    ],
)
def test_what_is_more_than_a_home_stays(accounts, engine, root, tmp_path, home):
    outside = tmp_path / "outside"
    (outside / "x").mkdir(parents=True)
    accounts.add("bob", "secret")
    (root / "bob" / "below").mkdir()
    (root / ".ftpd" / "below").mkdir()
    (outside / "to-bob").symlink_to(root / "bob")
    (outside / "to-x").symlink_to(outside / "x")
    given = Path(home.format(root=root, outside=outside))
    accounts.add("alice", "secret")
    with engine.begin() as connection:  # what no account can get any more, some may have
        mine = update(account).where(account.c.name == "alice")
        connection.execute(mine.values(home=os.fsencode(given)))
    assert not is_removable(accounts, root, "alice")


def test_what_is_a_home_alone_may_go(accounts, root, tmp_path):
    accounts.add("alice", "secret")
    accounts.add("alice2", "secret")  # a name that begins with the other's
    accounts.add("carol", "secret", home=tmp_path / "outside" / "carol")
    for name in ("alice", "alice2", "carol"):
        assert is_removable(accounts, root, name)


def test_a_shared_home_stays_until_the_last(accounts, root, tmp_path):
    accounts.add("alice", "secret", home=tmp_path / "shared")
    accounts.add("bob", "secret", home=tmp_path / "shared")
    assert not is_removable(accounts, root, "alice")
    accounts.remove("bob")
    assert is_removable(accounts, root, "alice")


def test_a_home_that_is_not_there_is_no_obstacle(accounts, root):
    accounts.add("alice", "secret")
    (root / "alice").rmdir()
    assert is_removable(accounts, root, "alice")
    assert measure(root / "alice").files == 0
    remove_home(root / "alice")


def test_all_of_a_home_goes_and_nothing_that_links_lead_to(accounts, root, canary):
    accounts.add("alice", "secret")
    home = root / "alice"
    (home / "dir" / "closed").mkdir(parents=True)
    (home / "dir" / "closed" / "file").write_bytes(bytes(1000))
    (home / "dir" / "closed").chmod(0)
    (home / "to-canary").symlink_to(canary)
    (home / "dir" / "to-secret").symlink_to(canary / "secret")
    os.mkfifo(home / "fifo")
    os.mkdir(os.fsencode(home) + b"/\xff \n")
    (home / ".ftpd-staging").mkdir()
    (home / ".ftpd-staging" / "u-left").write_bytes(b"left")
    found = measure(home)
    assert found.directories == 3 and found.size >= 1000

    remove_home(home)

    assert not home.exists()
    assert canary.exists()


def test_a_very_deep_home_goes(accounts, root):
    accounts.add("alice", "secret")
    here = os.open(root / "alice", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_home(root / "alice")
    assert not (root / "alice").exists()


def test_a_link_put_in_the_place_of_a_home_is_not_followed(accounts, root, canary):
    accounts.add("alice", "secret")
    (root / "alice").rmdir()
    (root / "alice").symlink_to(canary)
    assert not is_removable(accounts, root, "alice")
