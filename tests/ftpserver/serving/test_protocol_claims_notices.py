"""Sentences of docs/protocol.md about notices and ends of connections that no other test shows."""

from __future__ import annotations

import threading

import pytest

from ftpserver.serving import endings, exchange, session
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copied,
    Copy,
    EndTree,
    Get,
    GoingDown,
    Progress,
    Put,
    Remark,
    Remove,
    Sending,
    Sent,
    SetAttributes,
    WhoAmI,
)
from tests.peer import Peer, eventually, frame

DATA = b"some bytes"


@pytest.fixture
def watchful(monkeypatch):
    """Tell of progress as often as can be."""
    monkeypatch.setattr(exchange, "_CANCEL_EVERY", 1)
    monkeypatch.setattr(exchange, "_PROGRESS_SECONDS", 0.0)


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
    assert peer.rest() == [], "the server ends its own direction"
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
    assert [one.message.code for one in peer.rest()] == ["bad-message"]

    def is_cut() -> bool:
        """The kernel answers by a reset once the server has closed."""
        try:
            peer.frame(Kind.CANCEL, 1)
        except ConnectionError:
            return True
        return False

    eventually(is_cut)


# progress ----------------------------------------------------------------------------------


def told(peer: Peer, number: int) -> tuple[list[Progress], object]:
    """What a request tells of itself, and the end of its answer."""
    found = []
    while True:
        one = peer.read()
        if one.kind == Kind.NOTICE and isinstance(one.message, Progress):
            assert one.request_id == number
            found.append(one.message)
        elif one.kind != Kind.DATA and not isinstance(one.message, Sending):
            return found, one.message


def test_no_bytes_are_told_of_what_goes_by_files(server, dial, files, watchful):
    (files / "dir").mkdir()
    for number in range(300):
        (files / "dir" / f"{number}").touch()
    peer = dial(server)
    progress, copied = told(peer, peer.request(Copy(b"/dir", b"/new", recursive=True)))
    assert isinstance(copied, Copied) and copied.files == 300
    assert progress and {one.done for one in progress} == {0}
    peer.ask(BeginTree(b"/dir"))
    progress, _ = told(peer, peer.request(EndTree()))
    assert {one.done for one in progress} == {0}
    progress, _ = told(peer, peer.request(Remove(b"/new", recursive=True)))
    assert {one.done for one in progress} == {0}


@pytest.mark.parametrize("grows", [True, False])
def test_a_download_of_a_file_that_grows_tells_of_progress(server, dial, files, watchful, grows):
    size = 32 * 2**20  # more than the sockets hold: its end waits for this client
    (files / "log").write_bytes(bytes(size))
    peer = dial(server)
    number = peer.request(Get(b"/log"))
    assert peer.answer().message.size == size
    if grows:
        with open(files / "log", "ab") as log:
            log.write(b"more")
    progress, sent = told(peer, number)
    assert (sent.size, sent.grew) == (size, grows)
    assert bool(progress) == grows


# remarks -----------------------------------------------------------------------------------


def test_a_remark_belongs_to_no_request(server, dial, files):
    (files / "file").touch()
    peer = dial(server)
    number = peer.request(SetAttributes(b"/file", 0o4755))
    remark, answer = peer.read(), peer.read()
    assert (remark.kind, remark.request_id) == (Kind.NOTICE, 0)
    assert isinstance(remark.message, Remark) and answer.request_id == number
    assert peer.ask(WhoAmI()).user == "alice", "it ends nothing"
