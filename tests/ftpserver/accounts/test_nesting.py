"""Homes that lie in others: refused; where there are some, the inner one is closed to the outer."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import update

from ftpserver.accounts.account import Account
from ftpserver.accounts.records import import_lines
from ftpserver.schema import account
from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Action, Permissions
from ftpserver.storage.recount import recount
from ftpserver.storage.walk import Usage
from ftpwire.errors import BadAccount
from ftpwire.messages import Failed, List, Remove, Stat
from tests.conftest import state_of_tree


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "place" / "in").mkdir(parents=True)
    return tmp_path / "place"


def test_homes_in_others_are_refused(accounts, root, place):
    accounts.add("outer", "secret", home=place)
    for inside in (place / "in", place / "in" / "deep" / "new"):
        with pytest.raises(BadAccount, match="inside the home of outer"):
            accounts.add("inner", "secret", home=inside)
    assert not (place / "in" / "deep").exists()
    accounts.add("plain", "secret")
    with pytest.raises(BadAccount, match="inside the home of plain"):
        accounts.add("inner", "secret", home=root / "plain" / "in")


def test_homes_around_others_are_refused(accounts, root, place):
    accounts.add("inner", "secret", home=place / "in")
    with pytest.raises(BadAccount, match="the home of inner is inside it"):
        accounts.add("outer", "secret", home=place)
    accounts.add("deep", "secret", home=root / "plain" / "in")
    with pytest.raises(BadAccount, match="the home of deep is inside it"):
        accounts.add("plain", "secret")


def test_links_hide_nothing(accounts, place, tmp_path):
    accounts.add("outer", "secret", home=place)
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(BadAccount, match="inside the home of outer"):
        accounts.add("inner", "secret", home=tmp_path / "link" / "in")


def test_what_is_no_nest(accounts, place):
    accounts.add("one", "secret", home=place / "in")
    accounts.add("two", "secret", home=place / "in")  # both have the same
    accounts.add("three", "secret", home=place / "in-side")
    accounts.add("four", "secret", home=place / "i")
    assert list(accounts.homes().nests()) == []
    assert all(one.rights is one.permissions for one in accounts)


def test_an_import_is_refused_as_a_whole(accounts, place):
    homes = {"outer": place, "inner": place / "in"}
    lines = [json.dumps({"name": one, "home": str(home)}).encode() for one, home in homes.items()]
    for order in (lines, lines[::-1]):
        with pytest.raises(BadAccount, match="home of"):
            import_lines(accounts, order, update=False)
        assert len(accounts) == 0
    assert import_lines(accounts, lines[:1], update=False).added == ["outer"]


# where there are some --------------------------------------------------------------------------


def nest(engine, inner: str, home: Path) -> None:
    """Put a home where an earlier version let it be."""
    with engine.begin() as connection:
        mine = update(account).where(account.c.name == inner)
        connection.execute(mine.values(home=bytes(home)))


def test_the_inner_home_is_closed_to_the_outer_account(start_server, dial, place):
    server = start_server()
    server.accounts.add("outer", "secret", home=place)
    server.accounts.add("inner", "secret")
    (place / "in" / "file").write_text("the inner one's")
    (place / "beside").write_text("the outer one's")
    nest(server.service.engine, "inner", place / "in")
    server.accounts._nests_until = -1.0

    outer = dial(server, logged_in=False)
    outer.log_in("outer")
    for request in (
        Stat(b"/in/file"),
        List(b"/in"),
        Remove(b"/in", recursive=True),
        Remove(b"/in/file"),
    ):
        assert isinstance(answer := outer.ask(request), Failed), request
        assert answer.code == "forbidden", answer
    assert not isinstance(outer.ask(Remove(b"/beside")), Failed)
    inner = dial(server, logged_in=False)
    inner.log_in("inner")
    assert not isinstance(inner.ask(Remove(b"/file")), Failed)
    assert str(server.accounts.get("outer").permissions) == "all"  # as an export has them


def test_check_reports_how_to_part_them(ftpd, engine, accounts, place):
    accounts.add("outer", "secret", home=place)
    accounts.add("inner", "secret")
    assert ftpd("check")[0] == 0
    nest(engine, "inner", place / "in")
    status, out, _ = ftpd("check")
    assert status == 8
    (line,) = [line for line in out.splitlines() if line.startswith("nested: outer: /in ")]
    assert "ftpd user remove inner" in line and "ftpd user add inner --home" in line


def test_rules_below_an_inner_home_do_not_open_it():

    rules = Permissions.of(["read-only", "/in/deep=all", "/in=all", "/other=all"])
    closed = rules.without([(b"in",)])
    assert not closed.allows(Action.READ, (b"in", b"deep", b"x"))
    assert closed.allows(Action.CREATE, (b"other", b"x"))
    assert not closed.allows(Action.CREATE, (b"x",)) and closed.allows(Action.READ, (b"x",))


@pytest.fixture
def nested(accounts, engine, place) -> tuple[Account, Account]:
    """An account, and one whose home lies in that one's, with a file each and an upload."""
    accounts.add("outer", "secret", home=place)
    accounts.add("inner", "secret")
    nest(engine, "inner", place / "in")
    (place / "beside").write_bytes(b"1")
    (place / "in" / "file").write_bytes(b"22")
    with closing(Home(place / "in")):
        (place / "in" / ".ftpd-staging" / "upload").write_bytes(b"333")
    accounts._nests_until = -1.0
    return accounts.get("outer"), accounts.get("inner")


@pytest.mark.parametrize("known", [True, False], ids=["an-account's", "another-server's"])
def test_a_recount_of_the_outer_home_touches_nothing_in_the_inner(ledger, place, nested, known):
    outer = nested[0]
    before = state_of_tree(place / "in")
    assert ".ftpd-staging/lock" in before
    counted = recount(ledger, outer.id, Home(outer.home), outer.inner if known else ())
    assert state_of_tree(place / "in") == before
    assert counted == (Usage(1, 1) if known else Usage(3, 3))


def test_what_the_inner_account_stores_is_no_difference_in_the_outer(ftpd, place, nested):
    assert ftpd("recount")[0] == 0
    (place / "in" / "more").write_bytes(b"4444")
    assert ftpd("recount", "inner")[0] == 0
    _, out, _ = ftpd("check")
    kinds = {line.partition(":")[0] for line in out.splitlines() if ": outer: " in line}
    assert kinds == {"nested"}


def test_check_finds_no_fault_with_a_home_of_an_account_that_was_removed(ftpd, accounts, nested):
    accounts.remove("inner")
    assert ftpd("recount")[0] == 0
    assert ftpd("check")[0] == 0
