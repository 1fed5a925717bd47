"""One account runs transfers without end, so that the server has no thread, memory or descriptor
left for others."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from ftpserver.accounts.transfer_counts import TransferCounts
from ftpserver.serving import exchange
from ftpwire.errors import TooMany
from ftpwire.frames import Kind
from ftpwire.messages import Failed, Get, GoingDown, Put, Ready, Sending, Sent, Stored
from tests.descriptors import opened_by
from tests.hostile.conftest import PROCESSES, each_way, ended
from tests.peer import Peer, eventually

FEW = 2
MIB = 1024 * 1024
BIG = 24 * MIB
UP = 5 * MIB


@pytest.fixture
def crowded(serve):
    """A server where alice may run few transfers, and has a big file; she logs in by ``.user``."""

    def started(**options):
        site = serve(max_user_transfers=FEW, **options)
        path = site.server.settings.root / "alice" / "big"
        path.touch()
        os.truncate(path, BIG)
        return site

    return started


def begin(peer: Peer) -> object:
    """Ask for the big file and take nothing but the answer."""
    peer.request(Get(b"/big"))
    return peer.answer().message


def open_upload(peer: Peer) -> tuple[int, object]:
    """Open an upload of unknown size: its number, and the answer."""
    number = peer.request(Put(b"/x", ask=True))
    return number, peer.answer().message


@each_way
def test_an_account_has_a_bounded_number_of_running_transfers(crowded, way):
    site = crowded()
    mine = [site.user() for _ in range(FEW)]
    assert all(isinstance(begin(peer), Sending) for peer in mine)
    late = site.user()
    for refused in (begin(late), open_upload(late)[1]):
        assert isinstance(refused, Failed) and refused.code == TooMany.code
    late = site.user()
    assert site.is_served(late)  # the control: other requests are none of it
    mine.pop().close()
    eventually(lambda: isinstance(begin(site.user()), Sending))


@each_way
def test_the_upload_that_has_no_bytes_for_longest_makes_space(crowded, way):
    site = crowded(stall=2.4)
    moving, silent = site.user(), site.user()
    number, ready = open_upload(silent)
    assert isinstance(ready, Ready)
    other, ready = open_upload(moving)
    assert isinstance(ready, Ready)

    def gets_in() -> bool:
        moving.frame(Kind.DATA, other, b"x")
        silent.frame(Kind.DATA, number)
        late = site.user()
        return isinstance(begin(late), Sending)

    eventually(gets_in)
    assert [type(one) for one in ended(silent)] == [GoingDown]


def test_a_small_upload_counts_once_it_waits_for_its_client(crowded, monkeypatch):
    """The control: one that is there at once doesn't, which costs no question."""
    monkeypatch.setattr(exchange, "SHORT", 0.05)
    site = crowded()
    mine = [site.user() for _ in range(FEW)]
    for peer in mine:
        peer.request(Put(b"/x", 10))
    eventually(lambda: all(one._transfer for one in site.server.service.sessions))
    late = site.user()
    number = late.request(Put(b"/y", 1))
    late.frame(Kind.DATA, number, b"x")
    late.frame(Kind.END, number, Sent(1))
    assert isinstance(late.answer().message, Stored)
    number = late.request(Put(b"/y", 10))
    refused = late.answer().message
    assert isinstance(refused, Failed) and refused.code == TooMany.code
    late.frame(Kind.CANCEL, number)
    assert site.is_served(late)


@pytest.mark.parametrize("bad", [False, True], ids=["refused", "bad"])
def test_what_is_discarded_holds_no_place(crowded, bad):
    """However slowly it comes: it gives way to nobody, and all other transfers would be refused."""
    site = crowded(quota=BIG)
    for _ in range(FEW):
        peer = site.user()
        if bad:  # behind one that counted
            number = peer.request(Put(b"/x", UP - MIB))
            peer.frame(Kind.DATA, number, bytes(UP - MIB))
            peer.frame(Kind.END, number, Sent(UP - MIB))
            peer.frame(Kind.REQUEST, 99, b"\x81\xa2op\xa3put")
            assert isinstance(peer.answer().message, Stored)
        else:
            number = peer.request(Put(b"/x", BIG + UP, ask=True))
        refused = peer.answer()
        assert refused.message.code in ("bad-request", "quota")
        peer.frame(Kind.DATA, refused.request_id, b"x")
    assert isinstance(open_upload(site.user())[1], Ready)


def test_the_cap_follows_the_settings(crowded):
    from dataclasses import replace

    site = crowded()
    mine = [site.user() for _ in range(FEW)]
    assert all(isinstance(begin(peer), Sending) for peer in mine)
    site.server.service.apply_settings(replace(site.server.settings, max_user_transfers=FEW + 1))
    assert isinstance(begin(site.user()), Sending)


class Recording:
    """Remembers which transfers were told to give way."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def __call__(self, token: str) -> None:
        self.tokens.append(token)


def test_the_transfer_that_idles_for_longest_gives_way_first():
    counts, reported = TransferCounts(lambda: 3), Recording()
    first, second, third = (counts.begin(1, "alice", reported) for _ in range(3))
    with pytest.raises(TooMany, match="alice has 3 running, the limit is 3"):
        counts.begin(1, "alice", reported)
    other = counts.begin(2, "bob", reported)
    for token in (other, second, first, third):
        counts.report_idle(token, True)
    counts.report_idle(second, False)
    counts.begin(1, "alice", reported)
    counts.begin(1, "alice", reported)
    assert reported.tokens == [first, third]
    with pytest.raises(TooMany):
        counts.begin(1, "alice", reported)
    counts.leave(first)  # its place is another's already
    assert (counts.count(1), counts.count(2)) == (3, 1)


def test_transfers_are_given_back_once_and_with_their_worker():
    counts, reported = TransferCounts(lambda: 2), Recording()
    first = counts.begin(1, "alice", reported, worker=1)
    second = counts.begin(1, "alice", reported, worker=2)
    counts.leave(first)
    counts.leave(first)
    counts.report_idle(first, True)
    assert counts.count(1) == 1
    counts.report_idle(second, True)
    counts.mark_dead(2)
    counts.begin(1, "alice", reported, worker=1)
    counts.begin(1, "alice", reported, worker=1)
    with pytest.raises(TooMany):
        counts.begin(1, "alice", reported, worker=1)
    assert reported.tokens == []


# what one stalled transfer holds -------------------------------------------------------------


def open_below(home: Path) -> list[str]:
    """What is open of a home."""
    return [path for path in opened_by(os.getpid()) if path.startswith(str(home))]


WHOLE, PART = Get(b"/big"), Get(b"/big", 1, None, BIG)


@pytest.mark.parametrize(
    ("way", "request_"),
    [("parked", WHOLE), ("thread-each", PART), ("tls", WHOLE), ("tls", PART), ("unix", WHOLE)],
    ids=["parked", "thread-each", "tls", "tls-part", "unix"],
)
def test_a_download_that_nobody_takes_holds_its_file_and_little_else(
    crowded, monkeypatch, way, request_
):
    """No thread but the session's own, no descriptor but the file's, and small buffers."""
    monkeypatch.setattr(exchange, "SHORT", 0.05)
    reads = record_reads(monkeypatch)
    site = crowded()
    peer = site.user()
    assert site.is_served(peer)
    (mine,) = site.server.service.sessions
    eventually(lambda: mine.parked or way == "thread-each")
    threads = threading.active_count()
    home = site.server.settings.root / "alice"
    peer.request(request_)
    assert isinstance(peer.answer().message, Sending)
    eventually(lambda: mine.exchange.workspace._home is None)
    eventually(lambda: open_below(home) == [str(home / "big")])
    assert threading.active_count() <= threads + 1
    assert sum(reads[-1:]) <= 256 * 1024 and sum(reads) < 8 * MIB
    rest = BIG - (request_.offset or 0)
    taken = 0
    while (found := peer.answer()).kind == Kind.DATA:  # the control: it goes on
        taken += len(found.payload)
    assert taken == rest and isinstance(found.message, Sent)
    assert site.is_served(peer)


def record_reads(monkeypatch) -> list[int]:
    """The sizes of the buffers that files are read into from now on."""
    real, sizes = os.preadv, []

    def preadv(fd, buffers, offset, *more):
        sizes.append(sum(len(one) for one in buffers))
        return real(fd, buffers, offset, *more)

    monkeypatch.setattr(os, "preadv", preadv)
    return sizes


def test_a_download_that_is_taken_in_part_gives_back_what_it_had_read_ahead(crowded, monkeypatch):
    """Whoever takes some megabytes first gains nothing by it."""
    monkeypatch.setattr(exchange, "SHORT", 0.05)
    peer = crowded().user()
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    peer.request(Get(b"/big"))
    assert isinstance(peer.answer().message, Sending)
    taken = 0
    while taken < 8 * MIB:
        taken += len(peer.answer().payload)
    eventually(lambda: not working_threads())
    while (found := peer.answer()).kind == Kind.DATA:
        taken += len(found.payload)
    assert taken == BIG


@pytest.mark.parametrize(
    "requested", [Put(b"/x", UP, ask=True), Put(b"/x", UP)], ids=["ask", "put"]
)
def test_an_upload_that_stops_holds_no_thread(crowded, monkeypatch, requested):
    monkeypatch.setattr(exchange, "SHORT", 0.05)
    site = crowded()
    peer = site.user()
    number = peer.request(requested)
    if requested.ask:
        assert isinstance(peer.answer().message, Ready)
    sent = 3 * MIB + 5
    for start in range(0, sent, 512 * 1024):
        peer.frame(Kind.DATA, number, bytes(min(512 * 1024, sent - start)))
    staging = site.server.settings.root / "alice" / ".ftpd-staging"
    eventually(lambda: sent in [path.stat().st_size for path in staging.iterdir()])
    eventually(lambda: not working_threads())
    peer.frame(Kind.DATA, number, bytes(UP - sent - 1))
    peer.frame(Kind.DATA, number, b"x")
    peer.frame(Kind.END, number, Sent(UP))
    assert isinstance(peer.answer().message, Stored)  # the control: it goes on


def test_an_upload_that_was_ended_writes_nothing_more(crowded):
    """Its file is closed, and the number of the descriptor may be another file's."""
    site = crowded()
    peer = site.user()
    number = peer.request(Put(b"/x", UP))
    peer.frame(Kind.DATA, number, b"begun")
    (mine,) = site.server.service.sessions
    eventually(lambda: mine.exchange.on_long_wait)
    site.server.service.kick(mine.id, None)
    ended(peer)
    peer.close()
    eventually(lambda: not site.server.service.sessions)
    assert mine.exchange.on_long_wait is None


@pytest.mark.system
@pytest.mark.parametrize("way", PROCESSES)
def test_a_download_that_stalls_goes_on_in_other_processes(crowded, way):
    """Also what is asked afterwards: the home is opened again."""
    site = crowded()
    peer = site.user()

    def has_home_open() -> bool:
        server = site.server
        pids = server.supervisor.workers or [one.pid for one in _isolated(server)]
        return any(
            opened.endswith(".ftpd-staging/lock") for pid in pids for opened in opened_by(pid)
        )

    assert isinstance(begin(peer), Sending)
    eventually(has_home_open)
    eventually(lambda: not has_home_open())
    while (found := peer.answer()).kind == Kind.DATA:
        pass
    assert isinstance(found.message, Sent)
    number = peer.request(Put(b"/y", 1))
    peer.frame(Kind.DATA, number, b"x")
    peer.frame(Kind.END, number, Sent(1))
    assert isinstance(peer.answer().message, Stored)


def _isolated(server):
    return server.supervisor.sessions()


def working_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("write-behind", "read-ahead")]


@pytest.mark.system
def test_a_transfer_is_given_back_where_the_place_of_its_session_is_not(
    start_server, dial, monkeypatch
):
    server = start_server(isolation="process", max_user_transfers=1)
    path = server.settings.root / "alice" / "big"
    path.touch()
    os.truncate(path, BIG)
    peer = dial(server)
    assert isinstance(begin(peer), Sending)
    alice = server.accounts.get("alice").id
    assert server.service.limits._transfers.count(alice) == 1  # the control
    tried = threading.Event()

    def fails(place: object) -> None:
        tried.set()
        raise OSError("the disk has failed")

    monkeypatch.setattr(server.service.limits, "leave", fails)
    (session,) = server.service.sessions
    eventually(lambda: session.pid)
    os.kill(session.pid, signal.SIGKILL)  # otherwise it says so itself
    assert tried.wait(30)
    eventually(lambda: server.service.limits._transfers.count(alice) == 0)
