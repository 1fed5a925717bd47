"""Which server a home belongs to: a restored copy beside it leaves it alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ftpserver.admin.backup import back_up
from ftpserver.admin.verify import check
from ftpserver.database import open_state
from ftpserver.storage import ownership as module
from ftpserver.storage.ownership import Ownership, identify, identity
from ftpwire.messages import Login


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A home outside of all roots."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


# the id ----------------------------------------------------------------------------------------


@pytest.fixture
def started(tmp_path):
    """Starts a server on a state, as far as its id is concerned."""

    def start(state: Path, *, copied: bool = False) -> str:
        engine = open_state(state)
        try:
            found = identify(engine, state, copied=copied)
            assert identity(engine) == found
            return found
        finally:
            engine.dispose()

    return start


def test_an_id_stays(started, tmp_path):
    assert started(tmp_path / "one") == started(tmp_path / "one") != started(tmp_path / "two")


def test_a_copy_draws_another(started, tmp_path):
    first = started(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    second = started(tmp_path / "two")
    assert second not in (first, started(tmp_path / "two", copied=True))
    assert started(tmp_path / "one") == first


@pytest.mark.parametrize(("same_boot", "stays"), [(True, False), (False, True)])
def test_another_device(started, tmp_path, monkeypatch, same_boot, stays):
    """The same inode on another device is a snapshot; but devices may have other numbers after the
    machine has started anew."""
    first = started(tmp_path / "one")
    stat = os.stat

    def elsewhere(path, *args, **kwargs):
        info = stat(path, *args, **kwargs)
        if path != tmp_path / "one":
            return info
        fields = list(info)
        fields[2] += 1
        return os.stat_result(fields)

    monkeypatch.setattr(module.os, "stat", elsewhere)
    if not same_boot:
        monkeypatch.setattr(module, "_boot", lambda: "another")
    assert (started(tmp_path / "one") == first) is stays


def test_a_state_that_was_never_started_has_none(tmp_path):
    engine = open_state(tmp_path)
    assert identity(engine) is None
    engine.dispose()


# the note --------------------------------------------------------------------------------------


def test_the_first_has_it_and_others_keep_off(elsewhere, tmp_path):
    one, two = Ownership("1", tmp_path / "one"), Ownership("2", tmp_path / "two")
    assert one.claim(elsewhere) is None
    for _ in range(2):
        found = two.claim(elsewhere)
        assert found is not None and (found.id, found.root) == ("1", str(tmp_path / "one"))
    assert two.other(elsewhere) == found and one.other(elsewhere) is None
    two.take(elsewhere)
    assert two.claim(elsewhere) is None and str(one.claim(elsewhere)).startswith("server 2 of ")
    assert sorted(os.listdir(elsewhere / ".ftpd-staging")) == ["owner"]


def test_looking_makes_nothing(elsewhere, tmp_path):
    one = Ownership("1", tmp_path / "one")
    assert one.other(elsewhere) is None and one.claim(elsewhere, use=False) is None
    assert os.listdir(elsewhere) == []
    assert Ownership(None, tmp_path).claim(elsewhere) is None
    assert os.listdir(elsewhere) == []


def test_a_home_in_the_root_has_no_note(tmp_path, elsewhere):
    """A copy of the root has its own; but not where the home is a link that leads out of it."""
    root = tmp_path / "root"
    (root / "alice").mkdir(parents=True)
    one, two = Ownership("1", root), Ownership("2", root)
    assert one.claim(root / "alice") is None and two.claim(root / "alice") is None
    assert os.listdir(root / "alice") == []
    (root / "bob").symlink_to(elsewhere)
    assert one.claim(root / "bob") is None and two.claim(root / "bob") is not None


@pytest.mark.parametrize("what", ["link", "fifo", "directory"])
def test_a_note_that_is_none(elsewhere, tmp_path, what):
    """Whoever may write to a home may put anything there: nothing is followed or waited for."""
    (elsewhere / ".ftpd-staging").mkdir()
    note = elsewhere / ".ftpd-staging" / "owner"
    if what == "link":
        note.symlink_to("/etc/hostname")
    elif what == "fifo":
        os.mkfifo(note)
    else:
        note.mkdir()
    one = Ownership("1", tmp_path / "one")
    assert one.other(elsewhere) is None
    assert one.claim(elsewhere) is None


# beside a server -------------------------------------------------------------------------------


@pytest.fixture
def live(start_server, elsewhere):
    """A server with an account whose home lies elsewhere, and with an upload of it under way."""
    server = start_server()
    server.accounts.add("bob", "secret", home=elsewhere)
    return server


def names(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if name not in ("lock", "owner")}


@pytest.fixture
def upload(live, dial, elsewhere):
    """Half of an upload, in staging."""
    from ftpwire.frames import Kind
    from ftpwire.messages import Put, Ready
    from tests.peer import eventually

    peer = dial(live, logged_in=False)
    peer.log_in("bob")
    number = peer.request(Put(b"/large", 10_000_000, 0o644, 5, ask=True))
    assert isinstance(peer.answer().message, Ready)
    peer.frame(Kind.DATA, number, b"x" * 1_000_000)
    eventually(lambda: names(elsewhere / ".ftpd-staging"))
    return peer


def test_a_restored_copy_destroys_no_upload(
    live, upload, start_server, dial, elsewhere, tmp_path, caplog
):
    before = names(elsewhere / ".ftpd-staging")
    back_up(live.settings.root, tmp_path / "copy")
    copy = start_server(root=tmp_path / "copy")
    copy.housekeeping.recount_dirty()
    copy.housekeeping.clean_all()
    assert names(elsewhere / ".ftpd-staging") == before
    assert f"of {live.settings.root}" in caplog.text

    peer = dial(copy, logged_in=False)
    peer.hello()
    refused = peer.ask(Login("bob", "secret"))
    assert refused.code == "login-refused" and "another server" in refused.message
    dial(copy, logged_in=False).log_in("alice")  # whose home was copied, or made anew
    dial(live, logged_in=False).log_in("bob")

    findings = [one for one in check(copy.settings.root) if one.kind == "owner"]
    assert len(findings) == 1
    assert str(live.settings.root) in str(findings[0])
    assert str(copy.settings.root) in str(findings[0])
    assert not [one for one in check(live.settings.root) if one.kind == "owner"]
    assert names(elsewhere / ".ftpd-staging") == before


def test_a_home_that_is_taken_is_the_others(live, start_server, dial, elsewhere, tmp_path):
    dial(live, logged_in=False).log_in("bob")
    back_up(live.settings.root, tmp_path / "copy")
    copy = start_server(root=tmp_path / "copy")
    copy.service.ownership.take(elsewhere)
    dial(copy, logged_in=False).log_in("bob")
    peer = dial(live, logged_in=False)
    peer.hello()
    assert peer.ask(Login("bob", "secret")).code == "login-refused"


def test_the_commands(ftpd, root, accounts, engine, elsewhere):
    identify(engine, root / ".ftpd", copied=False)
    Ownership("other", Path("/srv/other")).claim(elsewhere)
    (elsewhere / ".ftpd-staging" / "u-half").touch()
    accounts.add("carol", "secret", home=elsewhere)
    for command, status in {
        ("recount", "carol"): 1,
        ("user", "remove", "carol", "--delete-home", "--yes"): 1,
        ("check",): 8,
    }.items():
        found = ftpd(*command)
        assert found[0] == status and "/srv/other" in found[1] + found[2], command
        assert names(elsewhere / ".ftpd-staging") == {"u-half"}
    assert ftpd("user", "set", "carol", "--take-home")[0] == 0
    assert names(elsewhere / ".ftpd-staging") == set()
    assert ftpd("recount", "carol")[0] == 0
    assert ftpd("user", "remove", "carol", "--delete-home", "--yes")[0] == 0
    assert not elsewhere.exists()


QUESTIONS = "login", "get /file", "put /new 5", "ls /", "mkdir /new", "rm /file", "mv /file /other"


def test_why_reports_a_home_of_another_server(ftpd, root, accounts, engine, elsewhere):
    """All files of the account are refused, as its log-in is, until the home is taken."""
    (elsewhere / "file").write_bytes(b"there")
    accounts.add("carol", "secret", home=elsewhere)
    identify(engine, root / ".ftpd", copied=False)

    def answers() -> list[tuple[int, str, str]]:
        requested = [question.split() for question in QUESTIONS]
        return [ftpd("why", "carol", action, *details) for action, *details in requested]

    assert {status for status, _, _ in answers()} == {0}
    Ownership("other", Path("/srv/other")).claim(elsewhere)
    for status, out, err in answers():
        assert (status, err) == (6, "")
        assert "refused: the home belongs to server other of /srv/other" in out
        assert "decided by: owner" in out
        assert "ftpd user set carol --take-home" in out
    assert ftpd("user", "set", "carol", "--take-home")[0] == 0
    assert {status for status, _, _ in answers()} == {0}


def test_a_home_of_another_server_is_reported_when_it_is_named(ftpd, root, engine, elsewhere):
    identify(engine, root / ".ftpd", copied=False)
    Ownership("other", Path("/srv/other")).claim(elsewhere)
    given = ("user", "add", "dave", "--home", str(elsewhere), "--password-stdin")
    status, _, err = ftpd(*given, stdin=b"correct-horse\n")
    assert status == 0 and "/srv/other" in err
    assert err.endswith("log-ins are refused until you run: ftpd user set dave --take-home\n")
