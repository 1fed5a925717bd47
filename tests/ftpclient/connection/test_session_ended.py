"""A session that the server has ended on purpose: final, and told, whatever was under way."""

from __future__ import annotations

import os
import socket
import time

import pytest

from ftpwire.errors import SessionEnded
from ftpwire.frames import Kind
from ftpwire.messages import (
    Done,
    Entry,
    Failed,
    Found,
    Get,
    LoggedIn,
    MakeDir,
    Message,
    Put,
    Ready,
    Sending,
    WhoAmI,
)
from tests.peer import Frame, Peer, eventually

WHY = "the account is disabled"
LAST_WORD = Failed(SessionEnded.code, WHY)


def end(peer: Peer) -> None:
    """Say why, and pass over what still comes, as the server does."""
    peer.frame(Kind.ERROR, 0, LAST_WORD)
    peer.read_to_end()


def requested(peer: Peer, kind: type[Message]) -> Frame:
    """The first request of a kind; until then everything is a file, except the root."""
    while not isinstance((frame := peer.read()).message, kind):
        if isinstance(frame.message, MakeDir):
            peer.reply(frame, Done())
            continue
        path = frame.message.path
        what = "dir" if path == b"/" else "file"
        peer.reply(frame, Found(Entry(path, what, 2**20, 0o644, time.time_ns())))
    return frame


def in_an_answer(peer: Peer) -> None:
    peer.greet()
    peer.read()
    end(peer)


def in_an_upload(peer: Peer) -> None:
    peer.greet()
    put = requested(peer, Put)
    peer.reply(put, Ready(0))
    assert peer.read().kind == Kind.DATA
    end(peer)


def in_an_upload_and_gone(peer: Peer) -> None:
    """The client notices first that nobody takes what it sends."""
    peer.greet()
    put = requested(peer, Put)
    peer.reply(put, Ready(0))
    assert peer.read().kind == Kind.DATA
    peer.frame(Kind.ERROR, 0, LAST_WORD)
    peer.socket.shutdown(socket.SHUT_RDWR)


def in_a_download(peer: Peer) -> None:
    peer.greet()
    get = requested(peer, Get)
    peer.reply(get, Sending(2**20, 0o644, time.time_ns()))
    peer.frame(Kind.DATA, get.request_id, bytes(1000))
    end(peer)


@pytest.mark.parametrize(
    ("script", "verb"),
    [
        pytest.param(in_an_answer, lambda client, at: list(client.list_dir("/")), id="listing"),
        pytest.param(in_an_upload, lambda client, at: client.put([at / "large"], "/"), id="put"),
        pytest.param(
            in_an_upload_and_gone, lambda client, at: client.put([at / "large"], "/"), id="gone"
        ),
        pytest.param(in_a_download, lambda client, at: client.get(["/a"], at), id="get"),
    ],
)
def test_it_is_final(fake, connect, tmp_path, script, verb):
    (tmp_path / "large").write_bytes(os.urandom(16 * 2**20))
    server = fake(script)
    client = connect(server, retries=5)
    with pytest.raises(SessionEnded, match=WHY) as raised:
        verb(client, tmp_path)
    assert raised.value.exit_code == 4
    assert server.connections == 1
    assert not client.connected


def test_while_nothing_is_asked_it_is_reported_and_the_next_verb_connects_again(fake, connect):
    def script(peer: Peer) -> None:
        peer.greet()
        if server.connections == 1:
            end(peer)
        else:
            peer.reply(peer.read(), LoggedIn("alice"))

    remarks: list[str] = []
    server = fake(script)
    client = connect(server, remark=remarks.append)
    eventually(lambda: client.look_up() or remarks)
    assert remarks == [WHY]
    reply = client.connection.ask(WhoAmI())
    assert reply == LoggedIn("alice")
