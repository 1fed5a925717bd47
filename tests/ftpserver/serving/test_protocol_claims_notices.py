"""Sentences of docs/protocol.md about notices and ends of connections that no other test shows."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from ftpserver.serving import endings, exchange, session
from ftpwire import digests, growing
from ftpwire.frames import Kind
from ftpwire.messages import (
    Get,
    GoingDown,
    Progress,
    Put,
    Remark,
    Sent,
    SetAttributes,
    WhoAmI,
)
from tests.peer import eventually, frame

DATA = b"some bytes"


def whole_put(path: bytes) -> bytes:
    return b"".join(
        (
            frame(Kind.REQUEST, 1, Put(path, len(DATA))),
            frame(Kind.DATA, 1, DATA),
            frame(Kind.END, 1, Sent(len(DATA), digests.digest(DATA))),
        )
    )


# ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["going-down", "an-error"])
def test_what_comes_after_the_last_word_is_discarded(start_server, dial, why):
    """The control is the same upload, which another session sends before."""
    server = start_server()
    peer, other = dial(server), dial(server)
    other.send(whole_put(b"/before"))
    assert other.answer().request_id == 1
    if why == "going-down":
        stopping = threading.Thread(target=start_server.finish, args=(server,))
        stopping.start()
        assert peer.read().message == GoingDown()
    else:
        peer.frame(Kind.REPLY, 1, b"")
        assert peer.read().message.code == "bad-message"
    assert peer.read_to_end() == [], "the server ends its own direction"
    peer.send(whole_put(b"/after"))
    peer.close()
    other.close()
    if why == "going-down":
        stopping.join()
    else:
        start_server.finish(server)
    home = server.settings.root / "alice"
    assert (home / "before").exists() and not (home / "after").exists()


def test_a_client_that_stays_after_the_last_word_is_cut(server, dial, monkeypatch):
    assert session.LAST_WORDS == endings.LAST_WORDS == 2.0
    monkeypatch.setattr(session, "LAST_WORDS", 0.05)
    peer = dial(server)
    peer.frame(Kind.REPLY, 1, b"")
    assert [one.message.code for one in peer.read_to_end()] == ["bad-message"]

    def is_cut() -> bool:
        """The kernel answers by a reset once the server has closed."""
        try:
            peer.frame(Kind.CANCEL, 1)
        except ConnectionError:
            return True
        return False

    eventually(is_cut)


# progress ----------------------------------------------------------------------------------


@pytest.mark.parametrize("grows", [True, False])
def test_a_download_of_a_file_that_grows_reports_progress(server, dial, files, monkeypatch, grows):
    """As often as can be, while what was sent is read once more."""
    monkeypatch.setattr(exchange, "_PROGRESS_SECONDS", 0.0)
    path, has_grown = files / "log", growing.has_grown
    path.write_bytes(bytes(2**20))

    def late(*arguments: Any) -> bool:
        if grows:
            os.truncate(path, 2**20 + 1)
        return has_grown(*arguments)

    monkeypatch.setattr(growing, "has_grown", late)
    peer = dial(server)
    number = peer.request(Get(b"/log"))
    found = [peer.read()]
    while found[-1].kind != Kind.END:
        found.append(peer.read())
    assert found[-1].message.grew == grows
    notices = [one for one in found if one.kind == Kind.NOTICE]
    assert bool(notices) == grows
    assert {(one.request_id, type(one.message)) for one in notices} <= {(number, Progress)}


# remarks -----------------------------------------------------------------------------------


def test_a_remark_belongs_to_no_request(server, dial, files):
    (files / "file").touch()
    peer = dial(server)
    number = peer.request(SetAttributes(b"/file", 0o4755))
    remark, answer = peer.read(), peer.read()
    assert (remark.kind, remark.request_id) == (Kind.NOTICE, 0)
    assert isinstance(remark.message, Remark) and answer.request_id == number
    assert peer.ask(WhoAmI()).user == "alice", "it ends nothing"
