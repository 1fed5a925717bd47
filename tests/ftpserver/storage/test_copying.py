"""Copying trees on the server: giving up in the middle, and what goes wrong on the way."""

from __future__ import annotations

import os

import pytest

from ftpserver.serving import exchange as exchange_module
from ftpserver.workspace import reading
from ftpwire.frames import Kind
from ftpwire.messages import Copied, Copy, Failed, LoggedIn, WhoAmI
from tests.peer import frame


@pytest.fixture
def files(server):
    """Alice's files on the server."""
    return server.settings.root / "alice"


@pytest.fixture
def quota_store(server, files):
    """Checks that the ledger says what is stored, that nothing is held and nothing staged."""

    def check() -> None:
        space = server.service.ledger.space(server.accounts.get("alice").id)
        assert space.held == 0
        assert set(os.listdir(files / ".ftpd-staging")) <= {"lock"}

    return check


@pytest.fixture
def tree(files):
    """A tree of ten small files and a link."""
    (files / "from").mkdir()
    for number in range(10):
        (files / "from" / f"file{number}").write_bytes(b"ten bytes.")
    (files / "from" / "link").symlink_to("file0")
    return files / "from"


def test_cancel_stops_a_recursive_copy(server, dial, files, tree, quota_store, monkeypatch):
    monkeypatch.setattr(exchange_module, "_CANCEL_EVERY", 1)
    peer = dial(server)
    copy = Copy(b"/from", b"/to", recursive=True)
    peer.send(frame(Kind.REQUEST, 7, copy), frame(Kind.CANCEL, 7))
    answer = peer.answer()
    assert (answer.kind, answer.request_id) == (Kind.ERROR, 7)
    assert answer.message.code == "cancelled"
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    assert len(list((files / "to").iterdir())) < 11
    quota_store()


def test_a_cancelled_copy_of_one_file_leaves_nothing(
    server, dial, files, tree, quota_store, monkeypatch
):
    monkeypatch.setattr(exchange_module, "_CANCEL_EVERY", 1)
    peer = dial(server)
    peer.send(frame(Kind.REQUEST, 7, Copy(b"/from/file0", b"/to")), frame(Kind.CANCEL, 7))
    assert peer.answer().message.code == "cancelled"
    assert not (files / "to").exists()
    quota_store()


def test_an_error_of_the_servers_own_fails_that_copy_alone(
    server, dial, files, tree, quota_store, monkeypatch, caplog
):
    """What the copy had staged by then is nobody's, and nobody hears of it."""
    fresh_digest, calls = reading.fresh_digest, []

    def broken(fd, info):
        calls.append(fd)
        if len(calls) == 3:
            raise RuntimeError("of the server's own")
        return fresh_digest(fd, info)

    monkeypatch.setattr(reading, "fresh_digest", broken)
    peer = dial(server)
    first = peer.request(Copy(b"/from", b"/to", recursive=True))
    second = peer.request(WhoAmI())
    answers = [peer.answer(), peer.answer()]
    assert [answer.request_id for answer in answers] == [first, second]
    assert answers[0].message == Failed("internal", "internal error")
    assert answers[1].message == LoggedIn("alice")
    assert list((files / "to").iterdir()) == []
    assert "RuntimeError: of the server's own" in caplog.text
    caplog.clear()  # the traceback holds the listing, which holds its directories open
    quota_store()

    calls.append(None)  # from now on nothing breaks
    reply = peer.ask(Copy(b"/from", b"/to", recursive=True))
    assert reply == Copied(files=11, directories=1, size_bytes=100)
    assert peer.is_silent()
    quota_store()


def test_a_file_that_can_not_be_copied_does_not_stop_the_others(server, dial, tree, quota_store):
    os.mkfifo(tree / "pipe")
    peer = dial(server)
    reply = peer.ask(Copy(b"/from", b"/to", recursive=True))
    assert (reply.files, reply.directories) == (11, 1)
    assert [(problem.path, problem.code) for problem in reply.problems] == [
        (b"pipe", "not-regular")
    ]
    quota_store()
