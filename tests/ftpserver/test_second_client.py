"""What docs/protocol.md says suffices for another client: one that shares no code with ours."""

from __future__ import annotations

import ast
import fcntl
import os
import pwd
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from ftpserver.serving import account_watch
from ftpserver.storage.permissions import Permissions
from tests import second_client, second_client_rounds
from tests.second_client import (
    DATA,
    END,
    MIB,
    Broken,
    Ended,
    Failed,
    Lost,
    SecondClient,
    Untrusted,
    connect_tcp,
    connect_unix,
    digest_of,
)
from tests.second_client_rounds import LARGE, ROUNDS, Door, code_of, end_of

WAYS = {"parked": {}, "thread-each": {"threads": 0}, "tls": {"plaintext": False}, "unix": {}}
"""Ways of serving in this process; tests/system has the others, with all rounds."""

TELLING = {"log_ins", "many_files", "lost_connections", "taking_over", "refusals"}
"""The rounds that are gone through in each of them."""


def test_it_shares_no_code_with_the_product():
    known = {*sys.stdlib_module_names, "blake3", "msgspec", "pytest", "tests.second_client"}
    for module in (second_client, second_client_rounds):
        names = set()
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module)
        assert names - {"collections.abc"} <= known


def way_to(server) -> Door:
    """The way to a server, over TCP."""
    return Door(
        lambda: connect_tcp(server.server_address[:2], server.fingerprint), "alice", "secret"
    )


@pytest.fixture
def door(server) -> Door:
    return way_to(server)


@pytest.fixture
def client(door):
    with door.enter() as connected:
        yield connected


@pytest.mark.parametrize(
    ("way", "round"),
    [
        pytest.param(way, round, id=f"{way}-{round.__name__}")
        for way in WAYS
        for round in ROUNDS
        if way == "parked" or round.__name__ in TELLING
    ],
)
def test_round(start_server, tmp_path, way, round):
    if way == "unix":
        start_server(unix=tmp_path / "socket")
        round(Door(lambda: connect_unix(str(tmp_path / "socket")), "alice", "secret"))
    else:
        round(way_to(start_server(**WAYS[way])))


# opening -----------------------------------------------------------------------------------


def test_the_server_says_all_of_its_hello(client):
    reported = client.server
    assert reported["features"] == [
        *("pieces", "alive", "kept", "alone", "if-same", "holes", "trash", "many-files"),
        "list-prefix",
    ]
    assert (reported["max_control"], reported["max_data"]) == (128 * 1024, 4 * MIB)
    assert (reported["max_requests"], reported["max_unanswered"]) == (4096, 64 * MIB)
    assert (reported["stall_ms"], reported["versions"], reported["max_sessions"]) == (
        60_000,
        [1],
        100,
    )


def test_it_trusts_one_key_only(start_server):
    server = start_server(plaintext=False)
    with pytest.raises(Untrusted):
        connect_tcp(server.server_address[:2], server.fingerprint.swapcase())


def test_both_sides_have_to_know_of_tls(start_server, tmp_path):
    with pytest.raises(ssl.SSLError):
        connect_tcp(start_server().server_address[:2], "SHA256:any")
    address = start_server(plaintext=False, root=tmp_path / "other").server_address[:2]
    with SecondClient(connect_tcp(address, None)) as client:
        assert end_of(client.hello) == "bad-magic"


def test_a_system_user_is_known_at_a_unix_socket(start_server, tmp_path):
    server = start_server(unix=tmp_path / "socket")
    server.accounts.change("alice", peer_user=pwd.getpwuid(os.geteuid()).pw_name)
    with SecondClient(connect_unix(str(tmp_path / "socket"))) as client:
        client.hello()
        assert client.log_in_as_peer("alice")["user"] == "alice"
    with way_to(server).knock() as client:
        assert code_of(client.log_in_as_peer, "alice") == "login-refused"


def test_it_registers(start_server):
    door = way_to(start_server(open_registration=True))
    with door.knock() as client:
        bob = {"user": "bob", "password": "good enough"}
        assert code_of(client.ask, "register", **bob | {"user": "Bob!"}) == "bad-account"
        assert client.ask("register", **bob)["user"] == "bob"
        assert code_of(client.ask, "register", **bob) == "failed"
    with door.knock() as client:
        assert code_of(client.ask, "register", **bob) == "name-taken"


def test_nobody_registers_where_that_is_closed(door):
    with door.knock() as client:
        refused = code_of(client.ask, "register", user="bob", password="good enough")
        assert refused == "registration-closed"


def test_sixteen_frames_come_before_a_log_in(door):
    with door.knock() as client:
        sent = [client.send("whoami") for _ in range(15)]
        assert client.log_in("alice", "secret")["user"] == "alice"
        assert {code_of(client.answer, request_id) for request_id in sent} == {"not-logged-in"}
    with door.knock() as client:
        sent = [client.send("whoami") for _ in range(16)]
        assert end_of(client.log_in, "alice", "secret") == "bad-message"
        assert {code_of(client.answer, request_id) for request_id in sent} == {"not-logged-in"}
    with door.knock() as client:
        sent = [client.send("login", user="alice", password="secret")]
        sent += [client.send("whoami") for _ in range(40)]
        assert {client.answer(request_id)["user"] for request_id in sent} == {"alice"}


def test_bytes_before_a_log_in_end_the_connection(door):
    with door.knock() as client:
        refused = client.send_small(b"/file", b"data")
        assert code_of(client.answer, refused) == "not-logged-in"
        assert end_of(client.ask, "whoami") == "bad-message"
    with door.knock() as client:
        assert end_of(client.ask, "login", user="alice", password="x" * 4096) == "frame-too-big"


@pytest.mark.system  # the refusal is held back for a second
def test_a_ban_reports_how_long_it_lasts(start_server):
    door = way_to(start_server(ban_after=1, ban_time=100.0))
    with door.knock() as client:
        assert code_of(client.log_in, "alice", "wrong") == "login-refused"
    with door.knock() as client:
        with pytest.raises(Failed, match="banned") as caught:
            client.log_in("alice", "secret")
        assert 0 < caught.value.facts["retry_after"] <= 100
        with pytest.raises(Lost):
            client.ask("whoami")


def test_too_many_sessions_are_refused(start_server):
    door = way_to(start_server(max_sessions=1))
    with door.enter(), door.knock() as other:
        assert code_of(other.log_in, "alice", "secret") == "too-many"
        with pytest.raises(Lost):
            other.ask("whoami")


# what ends a session -----------------------------------------------------------------------


def ended(client: SecondClient) -> str:
    """The code with which the server ends a session, when it has noticed."""
    with pytest.raises(Ended) as caught:
        while True:
            client.ask("whoami")
    return caught.value.code


def test_sessions_end_with_what_they_were_opened_with(door, monkeypatch):
    monkeypatch.setattr(account_watch, "_EVERY", 0.02)
    with door.enter() as client, door.enter() as other, door.knock() as third:
        revoked = client.ask("issue-token", seconds=100)
        third.log_in_by_token("alice", revoked["token"])
        made = third.ask("issue-token")
        assert made["expires"] <= revoked["expires"]
        assert client.ask("list-tokens")["tokens"][1][6] == revoked["id"]  # its parent
        client.ask("revoke-token", id=revoked["id"])
        assert ended(third) == "session-ended"
        assert client.ask("list-tokens") == {"op": "tokens"}  # with all that it made

        change = {"old": "secret", "new": "another one"}
        refused = code_of(client.ask, "change-password", **change | {"old": "wrong"})
        assert refused == "login-refused"
        assert code_of(client.ask, "change-password", **change | {"new": ""}) == "bad-account"
        client.ask("issue-token")
        assert client.ask("change-password", **change) == {"op": "done"}
        assert ended(other) == "session-ended"
        assert client.ask("list-tokens") == {"op": "tokens"}
    with door.knock() as client:
        assert code_of(client.log_in, "alice", "secret") == "login-refused"
        client.log_in("alice", "another one")


def test_a_server_that_stops_says_so(start_server):
    server = start_server()
    with way_to(server).enter() as client:
        stopping = threading.Thread(target=start_server.finish, args=(server,))
        stopping.start()
        with pytest.raises(Lost):
            while True:
                client.pump()
        assert [(number, notice["op"]) for number, notice in client.notices] == [(0, "going-down")]
    stopping.join()


# signs of life -----------------------------------------------------------------------------


def test_a_server_that_waits_for_its_disk_gives_signs_of_life(start_server):
    server = start_server(stall=0.3)
    with way_to(server).enter() as client:
        client.answer(client.send_small(b"/file", b"data"))
        with open(server.settings.root / "alice/.ftpd-staging/lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # no commit ends meanwhile
            waits = client.send_small(b"/file", b"other")
            while len(client.notices) < 2:
                client.pump()
        assert client.answer(waits)["size"] == 5
    assert {number for number, _ in client.notices} == {waits}
    assert {notice["op"] for _, notice in client.notices} == {"progress"}


def answer(sock: socket.socket, number: int, payload: bytes) -> None:
    """Answer the next request."""
    assert sock.recv(1000)
    sock.sendall(struct.pack(">IBI", len(payload), 2, number) + payload)


def test_it_gives_up_a_server_without_signs_of_life():
    ours, theirs = socket.socketpair()
    hello = {"op": "hello", "version": 1, "features": ["alive"], "stall_ms": 20, "max_data": 1}
    with theirs, SecondClient(ours) as client:
        for number, payload, step in (
            (0, b"FTPW" + msgspec.msgpack.encode(hello), client.hello),
            (
                1,
                msgspec.msgpack.encode({"op": "logged-in", "user": "alice"}),
                lambda: client.log_in("alice", "secret"),
            ),
        ):
            answering = threading.Thread(target=answer, args=(theirs, number, payload))
            answering.start()
            step()
            answering.join()
        with pytest.raises(Lost, match="no sign of life"):
            client.ask("whoami")


# what the client's numbers change ----------------------------------------------------------


def test_the_server_keeps_to_the_numbers_of_the_client(door):
    with door.enter(max_control=1024, max_data=1024) as client:
        for request_id in [client.send_small(b"/%0100d" % number, b"") for number in range(50)]:
            client.answer(request_id)
        listing, pages = client.send("list", path=b"/"), 0
        while client.next(listing)["op"] == "page":
            pages += 1
        assert pages > 5
        assert len(client.listing(b"/")[0]) == 50
        client.put(b"/file", LARGE[:5000])
        request_id = client.send("get", path=b"/file")
        client.next(request_id)
        sizes = [len(client.next(request_id)) for _ in range(5)]
        assert sizes == [1024, 1024, 1024, 1024, 904]
        assert client.answer(request_id)["digest"] == digest_of(LARGE[:5000])


# refusals ----------------------------------------------------------------------------------


def test_a_quota_reports_what_is_missing(start_server):
    server = start_server(quota=10 * MIB)
    with way_to(server).enter() as client:
        space = client.ask("space", times=[1, 10**18])
        assert (space["total"], space["used"], space["held"]) == (10 * MIB, 0, 0)
        assert len(space["kept_times"]) == 2
        for refused in (
            lambda: client.begin_put(b"/file", size=11 * MIB),
            lambda: client.put(b"/file", bytes(11 * MIB)),
            lambda: client.answer(client.send_small(b"/file", bytes(11 * MIB))),
        ):
            with pytest.raises(Failed, match="quota") as caught:
                refused()
            facts = caught.value.facts
            assert (facts["needed"], facts["free"]) == (11 * MIB, 10 * MIB)
            assert (facts["what"], facts["path"]) == ("bytes", b"/file")
        with open("/dev/zero", "rb") as endless:  # of unknown size, and never at its end
            assert code_of(client.put, b"/file", endless) == "quota"
        assert client.ask("space")["held"] == 0


def test_a_rule_that_forbids_is_named(server, client, files):
    (files / "closed").mkdir()
    (files / "closed" / "file").write_bytes(b"data")
    server.accounts.change("alice", permissions=Permissions.parse("/closed=none"))
    with way_to(server).enter() as restricted:
        with pytest.raises(Failed, match="forbidden") as caught:
            restricted.get(b"/closed/file")
        assert "/closed" in caught.value.facts["rule"]
        entries, problems = restricted.listing(b"/", recursive=True)
        assert (entries, problems) == ({}, {b"closed": "forbidden"})


# downloads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["ab", "r+b"], ids=["grows", "changes"])
def test_a_file_that_is_written_to_while_it_is_sent(client, files, mode):
    data = bytes(32 * MIB)  # more than the sockets hold: its end waits for this client
    (files / "log").write_bytes(data)
    request_id = client.send("get", path=b"/log")
    assert client.next(request_id)["size"] == len(data)
    with open(files / "log", mode) as log:
        log.write(b"more")
    if mode == "ab":
        sent = client.answer(request_id)
        assert (sent["size"], sent["grew"]) == (len(data), True)
        assert sent["digest"] == digest_of(data)
    else:
        assert code_of(client.answer, request_id) == "source-changed"


@pytest.mark.parametrize("size", [1000, len(LARGE)], ids=["small", "large"])
def test_a_damaged_file_is_not_taken(client, files, size):
    """Of a small file the server says it, of a large one the client finds out."""
    client.put(b"/file", LARGE[:size], mtime_ns=10**18)
    path = files / "file"
    if not os.listxattr(path):
        pytest.skip("this file system keeps no attributes")
    with open(path, "r+b") as damaged:
        damaged.write(b"x" + LARGE[:1])
    os.utime(path, ns=(10**18, 10**18))
    with pytest.raises((Broken, Failed)) as caught:
        client.get(b"/file")
    assert isinstance(caught.value, Failed) == (size == 1000)
    assert size > 1000 or caught.value.code == "stored-file-damaged"
    assert client.ask("whoami")["user"] == "alice"


# closing messages --------------------------------------------------------------------------


def test_other_pieces_than_those_that_were_reported(client):
    request_id, _ = client.begin_put(b"/file", size=4)
    client.write(DATA, request_id, b"")  # of a slow source
    client.write(DATA, request_id, b"dat")
    assert code_of(client.finish_put, request_id, 3, digest_of(b"dat")) == "verification-failed"
    request_id, _ = client.begin_put(b"/file", size=4)
    client.write(DATA, request_id, b"data")
    client.write(END, request_id, msgspec.msgpack.encode({"op": "sent", "size": "4"}))
    assert code_of(client.answer, request_id) == "bad-request"
    assert not client.listing(b"/")[0]


def test_many_wait_for_answers_at_once(client):
    """Both directions are driven at once: no number of requests fills the buffers for good."""
    sent = [client.send_small(b"/file", LARGE[:100_000]) for _ in range(20)]
    sent += [client.send("stat", path=b"/" + b"./" * 2000 + b"file") for _ in range(1000)]
    got = [client.send("get", path=b"/file") for _ in range(30)]
    for request_id in sent:
        client.answer(request_id)
    for request_id in got:
        arrived = bytearray()
        client.receive(request_id, arrived)
        assert arrived == LARGE[:100_000]
