"""Sessions, by a peer that says what no client would."""

from __future__ import annotations

import logging
import os
import random
import threading
from contextlib import suppress

import msgspec
import pytest
from msgspec.msgpack import encode as pack

from ftpserver.accounts.accounts import Accounts
from ftpserver.serving import account_watch, exchange
from ftpserver.serving.commands import COMMANDS
from ftpserver.storage.batch import SMALL
from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.resumable import RESUME_FROM
from ftpwire import digests, messages
from ftpwire.frames import HEADER, MAX_CONTROL, MAX_CONTROL_BEFORE_LOGIN, MAX_DATA, Kind
from ftpwire.messages import (
    BeginTree,
    ChangePassword,
    Copy,
    Done,
    DropKept,
    EndTree,
    Failed,
    Found,
    Get,
    GetFiles,
    GoingDown,
    Hash,
    Hashed,
    Hello,
    IssueToken,
    List,
    Listed,
    ListKept,
    ListTokens,
    ListTrash,
    LoggedIn,
    Login,
    MakeDir,
    MakeLink,
    Move,
    Operation,
    Page,
    Purge,
    Put,
    PutFiles,
    PutPiece,
    Remove,
    Removed,
    Restore,
    RevokeToken,
    Sending,
    Sent,
    SetAttributes,
    Space,
    Stat,
    Stored,
    WhoAmI,
)
from tests.peer import Peer, eventually, frame

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def probe(request, caplog):
    """Whatever happens to a session: the others go on, and the log has no error of ours."""
    caplog.set_level(logging.DEBUG)
    if "server" not in request.fixturenames:
        yield
        return
    server, dial = request.getfixturevalue("server"), request.getfixturevalue("dial")
    connected = dial(server)
    yield
    for peer in (connected, dial(server)):
        assert store(peer, b"/probe", b"still here") == Stored(10)
        assert fetch(peer, b"/probe") == b"still here"
    expected = getattr(request.function, "may_log", ())
    for record in caplog.records:
        if record.levelno >= logging.ERROR:
            assert record.getMessage().endswith(expected) and expected, record.getMessage()
        assert record.getMessage().isprintable(), record.getMessage()


def put(request_id: int, path: bytes, data: bytes = b"data", *, piece: int = MIB, **options):
    """A whole upload, as it is sent in one go."""
    request = Put(path, **{"size": len(data)} | options)
    yield frame(Kind.REQUEST, request_id, request)
    for at in range(0, len(data), piece):
        yield frame(Kind.DATA, request_id, data[at : at + piece])
    yield frame(Kind.END, request_id, Sent(len(data), digests.digest(data)))


def store(peer: Peer, path: bytes, data: bytes, **options):
    peer.send(*put(1000, path, data, **options))
    return peer.answer().message


def fetch(peer: Peer, path: bytes) -> bytes:
    peer.request(Get(path))
    assert isinstance(peer.answer().message, Sending)
    data = b""
    while (found := peer.answer()).kind == Kind.DATA:
        data += found.payload
    assert found.message == Sent(len(data), digests.digest(data))
    return data


def dropped(peer: Peer) -> Failed:
    """The peer is told why, and the connection ends."""
    *before, last = peer.read_to_end()
    assert last.kind == Kind.ERROR and last.request_id == 0, (before, last)
    return last.message


def staged(server) -> list[str]:
    """What is in alice's staging, if she has one yet."""
    directory = server.settings.root / "alice" / ".ftpd-staging"
    found = os.listdir(directory) if directory.exists() else []
    return [name for name in found if name != "lock"]


def sparse(path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


# before log-in -----------------------------------------------------------------------------

SAMPLES = {
    WhoAmI: WhoAmI(),
    Space: Space(),
    ListKept: ListKept(),
    DropKept: DropKept(),
    Stat: Stat(b"/"),
    List: List(b"/"),
    Hash: Hash(b"/file"),
    Get: Get(b"/file"),
    Put: Put(b"/file", 0),
    PutPiece: PutPiece(bytes(16), 0, 1),
    PutFiles: PutFiles([]),
    GetFiles: GetFiles([]),
    MakeDir: MakeDir(b"/dir"),
    Operation: Operation(bytes(8)),
    ListTrash: ListTrash(),
    Restore: Restore("0" * 16 + "-" + "0" * 8),
    Purge: Purge(),
    MakeLink: MakeLink(b"/link", b"target"),
    SetAttributes: SetAttributes(b"/", 0o700),
    BeginTree: BeginTree(b"/tree"),
    EndTree: EndTree(),
    Remove: Remove(b"/file"),
    Move: Move(b"/a", b"/b"),
    Copy: Copy(b"/a", b"/b"),
    ChangePassword: ChangePassword("secret", "another"),
    IssueToken: IssueToken("laptop"),
    ListTokens: ListTokens(),
    RevokeToken: RevokeToken("id"),
}


def test_every_request_has_a_row_and_a_sample_here():
    assert set(COMMANDS) == set(messages.Request.__args__)
    assert {kind for kind, row in COMMANDS.items() if not row.before_login} == set(SAMPLES)


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_every_request_but_login_needs_a_login(server, dial, files, kind):
    peer = dial(server, logged_in=False)
    peer.hello()
    request_id = peer.request(SAMPLES[kind])
    answer = peer.read()
    assert (answer.kind, answer.request_id) == (Kind.ERROR, request_id)
    assert answer.message.code == "not-logged-in"
    if COMMANDS[kind].takes_data:
        assert dropped(peer).code == "bad-message"
        peer = dial(server, logged_in=False)
        peer.hello()
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    assert os.listdir(files) in ([], [".ftpd-staging"])


@pytest.mark.parametrize(
    ("first", "code"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown-kind", id="http"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", "unknown-kind", id="ssh"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "bad-magic", id="tls"),
        pytest.param(b"\x00" * 64, "unknown-kind", id="zeros"),
        pytest.param(frame(Kind.REQUEST, 0, b"FTPX"), "bad-magic", id="magic"),
        pytest.param(frame(Kind.REQUEST, 0, b""), "bad-magic", id="empty"),
        pytest.param(frame(Kind.REQUEST, 0, WhoAmI()), "bad-magic", id="no-hello"),
        pytest.param(frame(Kind.REQUEST, 0, b"FTPW"), "bad-message", id="magic-only"),
        pytest.param(frame(Kind.REQUEST, 0, b"FTPW\xc1"), "bad-message", id="no-msgpack"),
        pytest.param(frame(Kind.REPLY, 0, b"FTPW"), "bad-magic", id="reply"),
        pytest.param(frame(Kind.CANCEL, 0), "bad-magic", id="cancel"),
        pytest.param(frame(Kind.DATA, 0, b"x"), "frame-too-big", id="data"),
        pytest.param(frame(Kind.DATA, 0, b""), "bad-message", id="empty-data"),
        pytest.param(HEADER.pack(2**32 - 1, Kind.REQUEST, 0), "frame-too-big", id="4-gib"),
        pytest.param(
            HEADER.pack(MAX_CONTROL_BEFORE_LOGIN + 1, Kind.REQUEST, 0),
            "frame-too-big",
            id="one-too-many",
        ),
        pytest.param(HEADER.pack(1, 0, 0) + b"x", "unknown-kind", id="kind-0"),
        pytest.param(HEADER.pack(1, 8, 0) + b"x", "unknown-kind", id="kind-8"),
        pytest.param(HEADER.pack(1, 255, 0) + b"x", "unknown-kind", id="kind-255"),
    ],
)
def test_what_is_no_hello_is_answered_and_closed(server, dial, first, code):
    peer = dial(server, logged_in=False)
    peer.send(first)
    assert dropped(peer).code == code


def test_a_version_that_is_not_known_is_refused_by_name(server, dial):
    peer = dial(server, logged_in=False)
    peer.frame(Kind.REQUEST, 0, messages.encode_hello(Hello(version=77)))
    failed = dropped(peer)
    assert failed.code == "version"
    assert "77" in failed.message and str(messages.VERSION) in failed.message
    assert failed.versions == [messages.VERSION]


@pytest.mark.parametrize(
    ("spoken", "chosen"),
    [
        pytest.param({"version": 1}, 1, id="an-older-client"),
        pytest.param({}, 1, id="nothing-said"),
        pytest.param({"version": 1, "versions": [1, 2, 3]}, 1, id="newer-ones-too"),
        pytest.param({"version": 2, "versions": [3, 2, 1]}, 1, id="whatever-version-says"),
        pytest.param({"version": 1, "versions": [2, 3]}, None, id="only-newer-ones"),
        pytest.param({"version": 1, "versions": [-(2**63), 2**64 - 1]}, None, id="odd-numbers"),
    ],
)
def test_the_highest_common_version_is_spoken(server, dial, spoken, chosen):
    peer = dial(server, logged_in=False)
    peer.frame(Kind.REQUEST, 0, messages.MAGIC + pack({"op": "hello"} | spoken))
    if chosen is None:
        failed = dropped(peer)
        assert (failed.code, failed.versions) == ("version", [1])
        return
    ours = messages.decode_hello(peer.read().payload)
    assert (ours.version, ours.versions) == (chosen, [1])


def test_hello_reports_how_many_sessions_an_account_may_have(start_server, dial):
    server = start_server(max_user_sessions=7, max_address_sessions=5)
    peer = dial(server, logged_in=False)
    assert peer.hello().max_sessions == 5
    server.accounts.change("alice", max_sessions=3)
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice", 3)
    assert peer.ask(WhoAmI()) == LoggedIn("alice", 3)


def test_what_a_hello_has_beyond_ours_is_ignored(server, dial):
    peer = dial(server, logged_in=False)
    newer = {"op": "hello", "version": 1, "features": ["teleport"], "colour": "green"}
    peer.frame(Kind.REQUEST, 5, messages.MAGIC + msgspec.msgpack.encode(newer))
    answer = peer.read()
    assert answer.request_id == 5
    ours = messages.decode_hello(answer.payload)
    assert (ours.max_control, ours.max_data) == (MAX_CONTROL, MAX_DATA)
    assert ours.max_requests >= 1 and ours.max_unanswered >= MIB


def test_the_small_limit_holds_until_log_in(server, dial):
    peer = dial(server, logged_in=False)
    hello = messages.encode_hello(Hello(software=""))
    fill = MAX_CONTROL_BEFORE_LOGIN - len(hello) - 64
    peer.hello(software="x" * fill)
    login = messages.encode(Login("alice", "secret"))
    peer.frame(Kind.REQUEST, 1, login)
    assert peer.read().message == LoggedIn("alice")
    path = b"/" + b"/".join([b"x" * 200] * 20)
    assert len(path) < 4096
    peer.frame(Kind.REQUEST, 2, MakeLink(path, b"y" * 4000))
    assert peer.read().message.code == "not-found", "larger than 4 KiB, and read"

    unauthenticated_client = dial(server, logged_in=False)
    unauthenticated_client.hello()
    unauthenticated_client.frame(Kind.REQUEST, 1, MakeLink(path, b"y" * 4000))
    assert dropped(unauthenticated_client).code == "frame-too-big"


def test_hello_is_answered_before_a_password_is_looked_at(server, dial, monkeypatch):
    """Though both came together: its delay tells the client how far away the server is."""
    reported, look = threading.Event(), Accounts.log_in

    def looked_at(self, *args):
        assert reported.wait(30)
        return look(self, *args)

    monkeypatch.setattr(Accounts, "log_in", looked_at)
    peer = dial(server, logged_in=False)
    peer.send(
        frame(Kind.REQUEST, 0, messages.encode_hello(Hello())),
        frame(Kind.REQUEST, 1, Login("alice", "secret")),
    )
    assert peer.read().request_id == 0
    reported.set()
    assert peer.read().message == LoggedIn("alice")


def test_three_wrong_passwords_end_the_connection(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello()
    for user, password in (("alice", "wrong"), ("nobody", "secret"), ("alice", "")):
        assert peer.ask(Login(user, password)) == Failed(
            "login-refused", "wrong user name or password"
        )
    assert peer.read_to_end() == []


def test_guesses_that_are_sent_ahead_are_three_as_well(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello()
    guesses = [Login("alice", f"guess {number}") for number in range(10)]
    guesses.append(Login("alice", "secret"))
    peer.send(*(frame(Kind.REQUEST, number, one) for number, one in enumerate(guesses, 1)))
    assert [one.message.code for one in peer.read_to_end()] == ["login-refused"] * 3


def test_the_third_guess_may_be_right(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello()
    for _ in range(2):
        assert peer.ask(Login("alice", "wrong")).code == "login-refused"
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    failed = peer.ask(Login("alice", "secret"))
    assert "already" in failed.message
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_no_password_is_logged(server, dial, caplog):
    caplog.set_level(logging.DEBUG)
    peer = dial(server, logged_in=False)
    peer.hello()
    assert peer.ask(Login("nobody\n\x1b[31m", "hunter2-hunter2")).code == "login-refused"
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    assert "log-in refused" in caplog.text
    assert "hunter2" not in caplog.text and "secret" not in caplog.text


# after log-in: what breaks the protocol ----------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(Kind.REQUEST, 1, b""), "bad-message", id="empty"),
        pytest.param(frame(Kind.REQUEST, 1, b"\xc1"), "bad-message", id="never-used-byte"),
        pytest.param(frame(Kind.REQUEST, 1, b"\x81\xa2op"), "bad-message", id="cut-short"),
        pytest.param(frame(Kind.REQUEST, 1, b"\xdf\xff\xff\xff\xff"), "bad-message", id="huge-map"),
        pytest.param(frame(Kind.REQUEST, 1, b"\x91" * 5000), "bad-message", id="nested"),
        pytest.param(frame(Kind.REQUEST, 1, pack({"path": b"/"})), "bad-message", id="no-op"),
        pytest.param(frame(Kind.REQUEST, 0, WhoAmI()), "bad-message", id="id-0"),
        pytest.param(frame(Kind.REQUEST, 0, Stat(b"/missing")), "bad-message", id="id-0-refused"),
        pytest.param(frame(Kind.REQUEST, 0, Put(b"/x", 0)), "bad-message", id="id-0-upload"),
        pytest.param(
            frame(Kind.REQUEST, 1, messages.encode(WhoAmI()) + b"x"), "bad-message", id="trailing"
        ),
        pytest.param(frame(Kind.DATA, 1, b"data"), "bad-message", id="data-outside"),
        pytest.param(frame(Kind.DATA, 1, b""), "bad-message", id="empty-data-outside"),
        pytest.param(frame(Kind.END, 1, Sent(0)), "bad-message", id="end-outside"),
        pytest.param(frame(Kind.REPLY, 1, Done()), "bad-message", id="reply"),
        pytest.param(frame(Kind.ERROR, 1, Failed("x", "y")), "bad-message", id="error"),
        pytest.param(frame(Kind.NOTICE, 1, GoingDown()), "bad-message", id="notice"),
        pytest.param(
            HEADER.pack(MAX_CONTROL + 1, Kind.REQUEST, 1), "frame-too-big", id="large-request"
        ),
        pytest.param(HEADER.pack(2**32 - 1, Kind.DATA, 1), "frame-too-big", id="large-data"),
        pytest.param(HEADER.pack(2**32 - 1, Kind.CANCEL, 1), "frame-too-big", id="large-cancel"),
        pytest.param(HEADER.pack(0, 9, 1), "unknown-kind", id="kind-9"),
    ],
)
@pytest.mark.parametrize("inside", ["idle", "pipeline"])
def test_what_breaks_the_protocol_is_reported_and_ends_it(server, dial, sent, code, inside):
    peer = dial(server)
    if inside == "pipeline":
        sent = frame(Kind.REQUEST, 7, WhoAmI()) + sent + frame(Kind.REQUEST, 9, WhoAmI())
    peer.send(sent)
    assert dropped(peer).code == code


@pytest.mark.parametrize("size", [10, SMALL + 10, RESUME_FROM + 10])
@pytest.mark.parametrize(
    ("inside", "code"),
    [
        pytest.param(frame(Kind.REQUEST, 2, WhoAmI()), "bad-message", id="request"),
        pytest.param(frame(Kind.REQUEST, 1, WhoAmI()), "bad-message", id="request-same-id"),
        pytest.param(frame(Kind.DATA, 2, b"x"), "bad-message", id="data-of-another"),
        pytest.param(frame(Kind.END, 2, Sent(1)), "bad-message", id="end-of-another"),
        pytest.param(frame(Kind.END, 1, b"\xc1"), "bad-message", id="malformed-end"),
        pytest.param(frame(Kind.REPLY, 1, Done()), "bad-message", id="reply"),
        pytest.param(HEADER.pack(MAX_DATA + 1, Kind.DATA, 1), "frame-too-big", id="too-big"),
        pytest.param(HEADER.pack(0, 77, 1), "unknown-kind", id="unknown-kind"),
    ],
)
def test_what_breaks_the_protocol_inside_an_upload(server, dial, files, size, inside, code):
    peer = dial(server)
    ask = size > RESUME_FROM
    peer.frame(Kind.REQUEST, 1, Put(b"/file", size, ask=ask))
    peer.frame(Kind.DATA, 1, b"x")
    peer.send(inside)
    assert dropped(peer).code == code
    eventually(lambda: os.listdir(files) == [".ftpd-staging"])
    eventually(lambda: os.listdir(files / ".ftpd-staging") == ["lock"])


def test_what_came_in_whole_before_is_stored_and_answered(server, dial, files):
    """As after a cut: 50 puts, then what breaks the protocol inside the next one."""
    peer = dial(server)
    whole = [b"".join(put(number, b"/%d" % number)) for number in range(1, 51)]
    peer.send(*whole, frame(Kind.REQUEST, 51, Put(b"/51", 4)), frame(Kind.REQUEST, 52, b"\xc1"))
    *answers, last = peer.read_to_end()
    assert (last.kind, last.request_id, last.message.code) == (Kind.ERROR, 0, "bad-message")
    assert [(one.request_id, one.message) for one in answers] == [
        (number, Stored(4)) for number in range(1, 51)
    ]
    assert set(os.listdir(files)) == {".ftpd-staging", *(str(number) for number in range(1, 51))}


# one bad request fails alone ---------------------------------------------------------------

BAD = [
    pytest.param({"op": "format-disk"}, "unknown-request", "format-disk", id="unknown"),
    pytest.param({"op": "logged-in", "user": "a"}, "unknown-request", "logged-in", id="a-reply"),
    pytest.param({"op": "stat", "path": "text"}, "bad-request", "path must be bin", id="text-path"),
    pytest.param({"op": "stat", "path": b""}, "bad-request", "path must be bin of 1", id="no-path"),
    pytest.param({"op": "get"}, "bad-request", "path is missing", id="missing"),
    pytest.param({"op": "put", "path": b"/x", "size": -1}, "bad-request", "size", id="negative"),
    pytest.param({"op": "put", "path": b"/x", "mode": 4096}, "bad-request", "4095", id="mode"),
    pytest.param(
        {"op": "put-piece", "key": b"", "offset": 0, "size": 1}, "bad-request", "key", id="piece"
    ),
    pytest.param(
        {"op": "move", "source": b"/a", "target": b"/b", "overwrite": "older"},
        "bad-request",
        "one of always, never",
        id="unknown-value",
    ),
]


def upload(request_id: int, message: dict[str, object], *, size: int = 3) -> bytes:
    """A request by hand, with its DATA and END."""
    return (
        frame(Kind.REQUEST, request_id, pack(message))
        + frame(Kind.DATA, request_id, b"x" * size)
        + frame(Kind.END, request_id, Sent(size))
    )


@pytest.mark.parametrize(("message", "code", "text"), BAD)
def test_a_bad_request_fails_alone(server, dial, message, code, text):
    """Alone, and between others, with all that follows a request of that name."""
    peer = dial(server)
    takes_data = str(message["op"]).startswith("put")
    bad = upload(2, message) if takes_data else frame(Kind.REQUEST, 2, pack(message))
    peer.send(*put(1, b"/before"), bad, *put(3, b"/after"), frame(Kind.REQUEST, 4, WhoAmI()))
    answers = [peer.answer() for _ in range(4)]
    assert [one.request_id for one in answers] == [1, 2, 3, 4]
    assert answers[1].kind == Kind.ERROR and answers[1].message.code == code
    assert text in answers[1].message.message
    assert [one.message for one in (answers[0], *answers[2:])] == [
        Stored(4),
        Stored(4),
        LoggedIn("alice"),
    ]


def test_what_earlier_clients_send_is_understood(server, dial):
    """They named uploads, which had no effect."""
    peer = dial(server)
    named = {"op": "put", "path": b"/x", "size": 3, "upload_id": bytes(16)}
    peer.send(upload(1, named))
    assert peer.answer().message == Stored(3)


def test_one_of_a_hundred_puts(server, dial, files):
    peer = dial(server)
    bad = upload(51, {"op": "put", "path": b"/51", "size": 3, "mode": 4096})
    peer.send(*(bad if n == 51 else b"".join(put(n, b"/%d" % n)) for n in range(1, 101)))
    answers = [peer.answer() for _ in range(100)]
    assert [one.request_id for one in answers] == list(range(1, 101))
    failed = [one for one in answers if one.message != Stored(4)]
    assert [(one.request_id, one.message.code, one.message.path) for one in failed] == [
        (51, "bad-request", b"/51")
    ]
    assert len(set(os.listdir(files)) - {".ftpd-staging"}) == 99


@pytest.mark.parametrize("op", ["put", "put-piece", "send-with-data-of-later"])
@pytest.mark.parametrize("end", ["end", "cancel", "malformed-value"])
def test_what_follows_a_bad_request_is_discarded(server, dial, op, end):
    """Of an unknown request as of one that is known to have DATA."""
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, pack({"op": op, "mode": -1}))
    assert peer.answer().request_id == 1
    for data in (b"", b"x" * 1000, b"x" * MIB):
        peer.frame(Kind.DATA, 1, data)
    match end:
        case "end":
            peer.frame(Kind.END, 1, Sent(1000 + MIB))
        case "cancel":
            peer.frame(Kind.CANCEL, 1)
        case _:
            peer.frame(Kind.END, 1, pack({"op": "sent", "size": -1}))
    peer.request(WhoAmI())
    found = peer.answer()
    assert found.message == LoggedIn("alice")


@pytest.mark.parametrize("kind", [Kind.END, Kind.CANCEL])
def test_an_unknown_request_may_have_an_end_only(server, dial, kind):
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, pack({"op": "later"}))
    peer.frame(kind, 1, pack({"op": "later-ends"}) if kind == Kind.END else b"")
    peer.frame(Kind.REQUEST, 2, WhoAmI())
    assert [peer.answer().request_id for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("follows", [Kind.DATA, Kind.END])
def test_data_of_an_unknown_request_comes_at_once_or_not_at_all(server, dial, follows):
    """After another frame it has no place: nobody keeps ids of what was refused."""
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, pack({"op": "later"}))
    peer.frame(Kind.REQUEST, 2, WhoAmI())
    peer.frame(follows, 1, b"" if follows == Kind.DATA else Sent(0))
    *answers, last = peer.read_to_end()
    assert [one.request_id for one in answers] == [1, 2]
    assert (last.request_id, last.message.code) == (0, "bad-message")


@pytest.mark.parametrize("op", ["put", "later"])
def test_another_id_inside_what_is_discarded_ends_the_connection(server, dial, op):
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, pack({"op": op, "mode": -1}))
    peer.frame(Kind.DATA, 1, b"x")
    peer.frame(Kind.REQUEST, 2, WhoAmI())
    assert dropped(peer).code == "bad-message"


def test_a_cancel_for_a_bad_request_is_ignored(server, dial):
    peer = dial(server)
    for op in ("stat", "later"):
        peer.frame(Kind.REQUEST, 1, pack({"op": op, "path": 5}))
        peer.frame(Kind.CANCEL, 1)
        assert peer.answer().message.code in ("bad-request", "unknown-request")
    peer.frame(Kind.REQUEST, 2, WhoAmI())
    assert peer.answer().message == LoggedIn("alice")


@pytest.mark.parametrize("size", [10, SMALL + 10, RESUME_FROM + 10])
@pytest.mark.parametrize("end", [{"op": "sent", "size": 1, "digest": b"short"}, {"op": "listed"}])
def test_an_upload_whose_end_is_not_understood_fails_alone(server, dial, files, size, end):
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, Put(b"/file", size, ask=size > RESUME_FROM))
    peer.frame(Kind.DATA, 1, b"x")
    peer.frame(Kind.END, 1, pack(end))
    found = peer.answer()
    if size > RESUME_FROM:  # the first one was `ready`
        found = peer.answer()
    assert (found.kind, found.request_id) == (Kind.ERROR, 1)
    assert found.message.code in ("bad-request", "unknown-request")
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    assert os.listdir(files) == [".ftpd-staging"]


def test_many_bad_requests_do_not_pile_up(server, dial):
    """Those behind an upload of a batch wait for it, but not all of them."""
    peer = dial(server)
    bad = frame(Kind.REQUEST, 2, pack({"op": "later"}))
    peer.send(*put(1, b"/first"), bad * 3000)
    assert peer.answer().message == Stored(4)
    assert {peer.answer().message.code for _ in range(3000)} == {"unknown-request"}


def test_deep_nesting_is_refused_in_words(server, dial):
    peer = dial(server)
    for levels in (33, 5000):
        peer.send(frame(Kind.REQUEST, 1, b"\x82\xa2op\xa6whoami\xa1x" + b"\x91" * levels + b"\xc0"))
        failed = peer.answer().message
        assert (failed.code, failed.message) == (
            "bad-request",
            "whoami: x is nested more than 32 levels deep",
        )


# and before log-in -------------------------------------------------------------------------


def test_an_unauthenticated_client_s_bad_requests_fail_alone_too(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello()
    for message in ({"op": "later"}, {"op": "stat"}, {"op": "login", "user": 5, "password": ""}):
        peer.frame(Kind.REQUEST, 1, pack(message))
        assert peer.answer().message.code in ("unknown-request", "bad-request")
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")


@pytest.mark.parametrize("op", ["put", "put-piece", "later"])
def test_data_of_an_unauthenticated_client_s_bad_request_is_not_passed_over(server, dial, op):
    peer = dial(server, logged_in=False)
    peer.hello()
    peer.frame(Kind.REQUEST, 1, pack({"op": op, "mode": -1}))
    peer.frame(Kind.DATA, 1, b"")
    *answers, last = peer.read_to_end()
    assert [one.request_id for one in answers] == [1]
    assert (last.request_id, last.message.code) == (0, "bad-message")


def test_a_log_in_does_not_end_an_upload(server, dial):
    """(And a refused upload does not hide a request.)"""
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, Put(b"/nowhere/file", 10))
    peer.frame(Kind.REQUEST, 2, Login("alice", "secret"))
    assert dropped(peer).code == "bad-message"


# however the network cuts it ---------------------------------------------------------------


def conversation() -> list[bytes]:
    """A whole session, from HELLO to the last request."""
    return [
        frame(Kind.REQUEST, 0, messages.encode_hello(Hello())),
        frame(Kind.REQUEST, 1, Login("alice", "secret")),
        frame(Kind.REQUEST, 2, MakeDir(b"/dir")),
        b"".join(put(3, b"/dir/small", b"x" * 300, piece=7)),
        b"".join(put(4, b"/dir/empty", b"")),
        b"".join(put(5, b"/dir/unknown", b"y" * 900, size=None, piece=100)),
        b"".join(put(6, b"/nowhere/refused", b"z" * 500, piece=50)),
        frame(Kind.CANCEL, 6),
        upload(12, {"op": "put", "path": b"/dir/bad", "size": -1}, size=400),
        upload(13, {"op": "of-later"}, size=400),
        frame(Kind.REQUEST, 7, Stat(b"/dir/small")),
        frame(Kind.REQUEST, 8, Get(b"/dir/unknown")),
        frame(Kind.REQUEST, 9, Hash(b"/dir/small")),
        frame(Kind.REQUEST, 10, Remove(b"/dir", recursive=True, final=True)),
        frame(Kind.REQUEST, 11, WhoAmI()),
    ]


@pytest.mark.parametrize("piece", [1, 2, 3, 8, 9, 10, 11, 100, 10**6])
def test_the_same_answers_however_it_is_cut(server, dial, piece):
    peer = dial(server, logged_in=False)
    data = b"".join(conversation())
    for at in range(0, len(data), piece):
        peer.send(data[at : at + piece])
    answers = []
    while not answers or answers[-1].request_id != 11:
        answers.append(peer.answer())
    assert [(one.request_id, one.kind.name) for one in answers] == [
        (0, "REPLY"),
        (1, "REPLY"),
        (2, "REPLY"),
        (3, "REPLY"),
        (4, "REPLY"),
        (5, "REPLY"),
        (6, "ERROR"),
        (12, "ERROR"),
        (13, "ERROR"),
        (7, "REPLY"),
        (8, "REPLY"),
        (8, "DATA"),
        (8, "END"),
        (9, "REPLY"),
        (10, "REPLY"),
        (11, "REPLY"),
    ]
    assert answers[11].payload == b"y" * 900
    assert answers[13].message == Hashed(digests.digest(b"x" * 300), 300)
    assert answers[14].message == Removed(3, 1, 1200)


ROUNDS = [pytest.param(25, id="short"), pytest.param(500, id="long", marks=pytest.mark.long)]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_connection_may_end_anywhere(server, dial, end, rounds):
    """At each of so many places; nothing is left of it, and nobody else minds."""
    data = b"".join(conversation()[:10])
    for at in random.Random(end).sample(range(len(data)), rounds):
        peer = dial(server, logged_in=False)
        peer.send(data[:at])
        getattr(peer, end)()
    eventually(lambda: len(server.service.sessions) == 1, "only the probe's session")
    assert not staged(server)
    space = server.service.ledger.space(server.accounts.get("alice").id)
    assert space.held == 0


# in order ----------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_requests(server, dial):
    peer = dial(server)
    chance = random.Random(7)
    sent, expected = [], []

    def ask(message, *kinds: str) -> None:
        number = len(expected) + 1
        sent.append(frame(Kind.REQUEST, number, message))
        expected.append((number, kinds))

    for number in range(300):
        path = b"/%d" % chance.randrange(20)
        match chance.randrange(8):
            case 0:
                sent.append(b"".join(put(len(expected) + 1, path, b"x" * chance.randrange(999))))
                expected.append((len(expected) + 1, ("Stored", "Failed")))
            case 1:
                sent.append(b"".join(put(len(expected) + 1, b"/no" + path + b"/x")))
                expected.append((len(expected) + 1, ("Failed",)))
            case 2:
                ask(Stat(path), "Found", "Failed")
            case 3:
                ask(MakeDir(b"/dir%d" % number), "Done")
            case 4:
                ask(Remove(path), "Removed", "Failed")
            case 5:
                ask(MakeLink(path, b"target"), "Done")
            case 6:
                ask(SetAttributes(path, 0o640), "Done", "Failed")
            case 7:
                ask(Space(), "SpaceInfo")
    peer.send(*sent)
    for number, kinds in expected:
        answer = peer.answer()
        assert answer.request_id == number
        assert type(answer.message).__name__ in kinds


def test_what_comes_after_a_put_sees_it(server, dial):
    peer = dial(server)
    peer.send(*put(1, b"/file", b"12345"), frame(Kind.REQUEST, 2, Stat(b"/file")))
    assert peer.answer().message == Stored(5)
    found = peer.answer().message
    assert isinstance(found, Found) and found.entry.size == 5
    peer.send(*put(3, b"/file", b"123"), frame(Kind.REQUEST, 4, Get(b"/file")))
    assert peer.answer().message == Stored(3)
    assert peer.answer().message.size == 3


def test_a_lone_put_waits_for_no_timer(server, dial):
    peer = dial(server)
    for number in range(20):
        assert store(peer, b"/file", b"%d" % number) == Stored(len(b"%d" % number))


# uploads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "piece"),
    [
        (0, MIB),
        (10, MIB),
        (SMALL, MIB),
        (SMALL + 10, 9999),
        (SMALL + 10, MIB),
        (RESUME_FROM + 10, MIB),
    ],
)
@pytest.mark.parametrize(
    ("path", "options", "code"),
    [
        pytest.param(b"/nowhere/file", {}, "not-found", id="no-parent"),
        pytest.param(b"/.ftpd-staging/x", {}, "invalid-path", id="reserved"),
        pytest.param(b"/", {}, "is-a-directory", id="root"),
        pytest.param(b"/there", {"overwrite": "never"}, "exists", id="exists"),
        pytest.param(b"/short", {"size": 0}, "verification-failed", id="more-than-announced"),
        pytest.param(b"/long", {"size": 2**25}, "verification-failed", id="fewer"),
    ],
)
def test_a_refused_upload_leaves_the_stream_in_step(
    server, dial, files, size, path, options, code, piece
):
    if path == b"/short" and not size:
        pytest.skip("no bytes are no more than none")
    peer = dial(server)
    store(peer, b"/there", b"old")
    peer.send(*put(1, path, b"x" * size, piece=piece, **options), frame(Kind.REQUEST, 2, WhoAmI()))
    refused, after = peer.answer(), peer.answer()
    assert (refused.request_id, refused.kind) == (1, Kind.ERROR)
    assert refused.message.code == code
    assert (after.request_id, after.message) == (2, LoggedIn("alice"))
    assert (files / "there").read_bytes() == b"old"


def test_a_refusal_comes_before_the_bytes(server, dial):
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, Put(b"/nowhere/file", 2**40, ask=True))
    assert peer.answer().message.code == "not-found"
    peer.frame(Kind.CANCEL, 1)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_a_wrong_digest_is_reported(server, dial, files):
    peer = dial(server)
    for number, size in enumerate((10, SMALL + 10), 1):
        peer.frame(Kind.REQUEST, number, Put(b"/file", size))
        peer.frame(Kind.DATA, number, b"x" * size)
        peer.frame(Kind.END, number, Sent(size, bytes(32)))
        assert peer.answer().message.code == "verification-failed"
    assert not (files / "file").exists()


def test_data_may_pause_and_be_empty(server, dial, files):
    peer = dial(server)
    for size in (0, 100, SMALL + 100):
        peer.frame(Kind.REQUEST, 5, Put(b"/file", size))
        peer.frame(Kind.DATA, 5)
        peer.frame(Kind.DATA, 5, b"x" * (size // 2))
        peer.frame(Kind.DATA, 5)
        peer.frame(Kind.DATA, 5, b"x" * (size - size // 2))
        peer.frame(Kind.DATA, 5)
        peer.frame(Kind.END, 5, Sent(size, digests.digest(b"x" * size)))
        assert peer.answer().message == Stored(size)
    assert (files / "file").stat().st_size == SMALL + 100


def test_ids_may_be_anything_but_0(server, dial):
    peer = dial(server)
    for number in (1, 2**32 - 1, 77, 77):
        peer.send(*put(number, b"/file"))
        assert peer.answer().request_id == number


def test_two_upload_one_name_at_once(server, dial, files):
    """One of the two, whole."""
    contents = [b"a" * (RESUME_FROM + 999), b"b" * (SMALL + 5)]
    together = threading.Barrier(2)
    peers = [dial(server), dial(server)]
    outcomes = []

    def upload(number: int) -> None:
        together.wait()
        for _ in range(5):
            outcomes.append(store(peers[number], b"/file", contents[number]))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {type(one) for one in outcomes} == {Stored}
    assert (files / "file").read_bytes() in contents


def test_what_came_whole_is_stored_though_the_client_is_gone(server, dial, files):
    peer = dial(server)
    peer.send(*put(1, b"/whole", b"x" * 100), *list(put(2, b"/cut", b"y" * 100))[:-1])
    peer.close()
    eventually(lambda: (files / "whole").exists())
    eventually(lambda: len(server.service.sessions) == 1)
    assert not (files / "cut").exists()


# cancelling --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, SMALL + 10, RESUME_FROM + 10, None])
@pytest.mark.parametrize("sent", [0, 5])
def test_cancelling_an_upload(server, dial, files, size, sent):
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, Put(b"/file", size))
    if sent:
        peer.frame(Kind.DATA, 1, b"x" * sent)
    peer.frame(Kind.CANCEL, 1)
    answer = peer.answer()
    assert (answer.request_id, answer.message.code) == (1, "cancelled")
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    assert os.listdir(files / ".ftpd-staging") == ["lock"]
    assert not (files / "file").exists()


@pytest.mark.parametrize("size", [10, SMALL + 10])
def test_cancelling_what_was_asked_before_an_upload(server, dial, files, size):
    """Ctrl-C gives up all that is unanswered, oldest first, while a file is being sent."""
    peer = dial(server)
    peer.send(*put(1, b"/one"), *put(2, b"/two"), *list(put(3, b"/three", b"x" * size))[:1])
    peer.frame(Kind.DATA, 3, b"x" * 5)
    for number in (1, 2, 3):
        peer.frame(Kind.CANCEL, number)
    answers = [peer.answer() for _ in range(3)]
    assert [one.request_id for one in answers] == [1, 2, 3]
    assert [type(one.message) for one in answers] == [Stored, Stored, Failed]
    assert answers[2].message.code == "cancelled"
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


@pytest.fixture
def attentive(monkeypatch):
    """Look for a CANCEL often, so that little work is enough to test it."""
    monkeypatch.setattr(exchange, "_CANCEL_EVERY", 1000)


def cancelled(peer: Peer, request, **hello) -> list:
    """Ask, and cancel in the same breath; what came before the refusal."""
    request_id = peer.request(request, cancelled=True)
    before = []
    while (answer := peer.answer()).kind != Kind.ERROR:
        assert answer.request_id == request_id
        before.append(answer)
    assert answer.request_id == request_id
    assert answer.message.code == "cancelled"
    for number in range(3):
        assert peer.ask(WhoAmI()) == LoggedIn("alice"), number
    return before


@pytest.mark.usefixtures("client_is_local")
@pytest.mark.parametrize("digest", [True, False], ids=["digest-kept", "hashed"])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_cancelling_a_download(start_server, dial, tls_client_context, tls, digest):
    server = start_server(plaintext=not tls)
    peer = dial(server, context=tls_client_context if tls else None)
    if digest:
        assert store(peer, b"/file", bytes(40 * MIB)) == Stored(40 * MIB)
    else:
        (server.settings.root / "alice").mkdir(exist_ok=True)
        sparse(server.settings.root / "alice" / "file", 40 * MIB)
    request_id = peer.request(Get(b"/file"))
    assert isinstance(peer.answer().message, Sending)
    peer.frame(Kind.CANCEL, request_id)
    received = 0
    while (answer := peer.answer()).kind == Kind.DATA:
        received += len(answer.payload)
    assert (answer.kind, answer.message.code) == (Kind.ERROR, "cancelled")
    assert received < 40 * MIB
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_cancelling_a_listing(server, dial, files, attentive):
    (files / "dir").mkdir()
    for number in range(500):
        (files / "dir" / f"{number}").touch()
    peer = dial(server, logged_in=False)
    peer.hello(max_control=2000)
    peer.ask(Login("alice", "secret"))
    pages = cancelled(peer, List(b"/dir"))
    assert 0 < sum(len(page.message.entries) for page in pages) < 500


def test_cancelling_a_listing_that_finds_nothing(server, dial, files, attentive):
    """Names that begin otherwise are work, too."""
    (files / "dir").mkdir()
    for number in range(500):
        (files / "dir" / f"{number}").touch()
    assert cancelled(dial(server), List(b"/dir", prefix=b"x")) == []


def test_cancelling_a_digest(server, dial, files, attentive):
    sparse(files / "file", 64 * MIB)
    assert cancelled(dial(server), Hash(b"/file")) == []


@pytest.mark.parametrize("recursive", [True, False])
def test_cancelling_a_copy(server, dial, files, attentive, recursive):
    """What was copied so far of a tree is nobody's request: no answer may tell of it."""
    for number in range(20):
        (files / "dir" / f"{number}").mkdir(parents=True)
        (files / "dir" / f"{number}" / "file").write_bytes(b"x" * 100_000)
    sparse(files / "file", 64 * MIB)
    source = b"/dir" if recursive else b"/file"
    assert cancelled(dial(server), Copy(source, b"/copy", recursive)) == []
    assert os.listdir(files / ".ftpd-staging") == ["lock"]
    account = server.accounts.get("alice")
    assert account.held == 0


def test_cancelling_nothing(server, dial):
    peer = dial(server)
    for number in (0, 1, 2**32 - 1):
        peer.frame(Kind.CANCEL, number)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    peer.frame(Kind.CANCEL, 1, b"with a payload")
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


# downloads and listings --------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 600_000])
@pytest.mark.parametrize("offset", [0, 1, 599_999, 600_000, 2**40])
def test_a_part_of_a_file(server, dial, files, size, offset):
    data = random.Random(1).randbytes(size)
    (files / "file").write_bytes(data)
    peer = dial(server)
    peer.request(Get(b"/file", offset))
    begin = peer.answer().message
    assert begin.size == size
    assert begin.offset == min(offset, size)
    found = b""
    while (answer := peer.answer()).kind == Kind.DATA:
        found += answer.payload
    assert found == data[offset:]
    assert answer.message.size == size
    assert answer.message.digest in (None, digests.digest(data))


@pytest.mark.parametrize("limit", [1, 1024, 5000, 10**9])
def test_data_frames_are_as_small_as_the_client_wants(server, dial, files, limit):
    (files / "file").write_bytes(bytes(2 * MIB))
    peer = dial(server, logged_in=False)
    peer.hello(max_data=limit)
    peer.ask(Login("alice", "secret"))
    peer.request(Get(b"/file"))
    peer.answer()
    largest = 0
    while (answer := peer.answer()).kind == Kind.DATA:
        largest = max(largest, len(answer.payload))
    assert answer.kind == Kind.END
    assert largest <= max(limit, 1024)


@pytest.mark.parametrize("limit", [0, 1024, 4096, 10**9])
def test_pages_fit_the_frames_that_the_client_wants(server, dial, files, limit):
    names = {f"{number}" + "x" * (number % 250) for number in range(400)}
    for name in names:
        (files / name).touch()
    peer = dial(server, logged_in=False)
    peer.hello(max_control=limit)
    peer.ask(Login("alice", "secret"))
    peer.request(List(b"/", digest=True))
    found = []
    while (answer := peer.answer()).kind == Kind.REPLY:
        assert len(answer.payload) <= max(1024, min(limit or 4096, MAX_CONTROL))
        assert isinstance(answer.message, Page)
        found += [os.fsdecode(entry.path) for entry in answer.message.entries]
    assert answer.message == Listed()
    assert sorted(found) == sorted(names)


def test_problems_count_with_all_their_bytes(start_server, dial):
    """In a page, and in the answer to a copy."""
    server = start_server()
    rule = "/" + "é" * 20
    server.accounts.change("alice", permissions=Permissions.parse(f"{rule}=read-only"))
    files = server.settings.root / "alice"
    deep = "/".join(["😀" * 60] * 3)
    (files / deep).mkdir(parents=True)
    for number in range(60):
        (files / deep / f"{number}").symlink_to(rule)
    peer = dial(server, logged_in=False)
    peer.hello(max_control=8000)
    peer.ask(Login("alice", "secret"))
    peer.request(List(b"/" + os.fsencode(deep), follow=True))
    count = 0
    while (answer := peer.answer()).kind == Kind.REPLY:
        assert len(answer.payload) <= 8000
        count += len(answer.message.problems)
    assert count == 60
    source = b"/" + os.fsencode(deep.partition("/")[0])
    assert peer.ask(Copy(source, b"/copy", True)).files == 60
    peer.request(Copy(source, b"/copy", True, "never"))
    answer = peer.answer()
    assert len(answer.payload) <= 8000
    copied = answer.message
    assert copied.problems and len(copied.problems) + copied.more_problems == copied.skipped == 60


def test_an_empty_directory(server, dial, files):
    (files / "dir").mkdir()
    peer = dial(server)
    peer.request(List(b"/dir"))
    pages = []
    while (answer := peer.answer()).kind == Kind.REPLY:
        pages.append(answer.message)
    assert all(not page.entries and not page.problems for page in pages)
    assert answer.message == Listed()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Get(b"/nowhere"), "not-found"),
        (Get(b"/"), "is-a-directory"),
        (Get(b"/fifo"), "not-regular"),
        (Hash(b"/fifo"), "not-regular"),
        (Hash(b"/"), "is-a-directory"),
        (List(b"/nowhere"), "not-found"),
        (Stat(b"/nowhere"), "not-found"),
        (Remove(b"/"), "invalid-path"),
        (Move(b"/a", b"/b"), "not-found"),
        (Copy(b"/a", b"/b"), "not-found"),
        (Copy(b"/fifo", b"/b"), "not-regular"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_refusals_are_typed_and_the_session_goes_on(server, dial, files, request_, code):
    os.mkfifo(files / "fifo")
    peer = dial(server)
    failed = peer.ask(request_)
    assert failed.code == code
    assert str(files) not in failed.message
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


# when the server itself fails --------------------------------------------------------------


def test_an_error_of_our_own_is_reported_in_two_words(server, dial, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("a secret of the server")

    peer = dial(server)
    with monkeypatch.context() as patch:
        patch.setattr(Home, "entry", fail)
        assert peer.ask(Stat(b"/")) == Failed("internal", "internal error")
    assert isinstance(peer.ask(Stat(b"/")), Found)
    assert "a secret of the server" in caplog.text


test_an_error_of_our_own_is_reported_in_two_words.may_log = "Stat failed"


def test_a_home_that_is_gone(server, dial, files):
    peer = dial(server)
    server.accounts.add("bob", "secret")
    (server.settings.root / "bob").rmdir()
    unauthenticated_client = dial(server, logged_in=False)
    unauthenticated_client.log_in("bob")
    for request in (Stat(b"/"), Put(b"/x", 0)):
        number = unauthenticated_client.request(request)
        if isinstance(request, Put):
            unauthenticated_client.frame(Kind.END, number, Sent(0))
        assert unauthenticated_client.answer().message.code == "internal"
    assert unauthenticated_client.ask(WhoAmI()) == LoggedIn("bob")
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


test_a_home_that_is_gone.may_log = "No such file or directory: '{}'"


def test_an_account_that_is_removed(start_server, dial, monkeypatch):
    """What a session is answered until the server has noticed, which looks now and then."""
    monkeypatch.setattr(account_watch, "_EVERY", 3600.0)
    server = start_server()
    server.accounts.add("bob", "secret")
    peer = dial(server, logged_in=False)
    peer.log_in("bob")
    server.accounts.remove("bob")
    assert peer.ask(Space()).code == "not-found"
    assert store(peer, b"/file", b"x").code in ("not-found", "lease-lost")
    assert peer.ask(WhoAmI()) == LoggedIn("bob")


# deadlines ---------------------------------------------------------------------------------


def ends(peer: Peer) -> bool:
    """Whether the connection ends, told or not, while this side stays silent."""
    peer.read_to_end()
    return True


HELLO = frame(Kind.REQUEST, 0, messages.encode_hello(Hello()))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HELLO[:1], id="one-byte"),
        pytest.param(HELLO[:8], id="half-a-header"),
        pytest.param(HELLO[:-1], id="half-a-hello"),
        pytest.param(HELLO, id="no-log-in"),
        pytest.param(HELLO + frame(Kind.REQUEST, 1, WhoAmI())[:5], id="half-a-request"),
    ],
)
def test_who_does_not_log_in_is_dropped(start_server, dial, sent):
    server = start_server(login_grace=0.2, stall=1000)
    peer = dial(server, logged_in=False)
    peer.send(sent)
    assert ends(peer)
    eventually(lambda: not server.service.sessions)


def drip(peer: Peer, pieces, pause: float = 0.01) -> int:
    """Send piece after piece until the connection ends; how many were sent."""
    count = 0
    for piece in pieces:
        threading.Event().wait(pause)
        try:
            if not peer.is_silent() and not peer.socket.recv(65536):
                break
            peer.send(piece)
        except ConnectionError:
            break
        count += 1
    return count


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([bytes([byte]) for byte in HELLO] + [b""] * 2000, id="hello"),
        pytest.param(
            [HELLO, frame(Kind.REQUEST, 1, Put(b"/x"))] + [frame(Kind.DATA, 1)] * 2000, id="put"
        ),
        pytest.param([HELLO] + [frame(Kind.CANCEL, 1)] * 2000, id="cancels"),
        pytest.param([HELLO] + [frame(Kind.REQUEST, 1, WhoAmI())] * 2000, id="requests"),
    ],
)
def test_dripping_buys_no_time_before_log_in(start_server, dial, pieces):
    server = start_server(login_grace=0.3, stall=1000)
    peer = dial(server, logged_in=False)
    assert drip(peer, pieces) < len(pieces)


def test_flooding_buys_no_time_before_log_in(start_server, dial):
    """Input that never dries up must not keep the clock from being looked at."""
    server = start_server(login_grace=0.3, stall=1000)
    peer = dial(server, logged_in=False)
    peer.hello()
    flood = frame(Kind.CANCEL, 1) * 1000
    stop = threading.Event()

    def pour() -> None:
        with suppress(OSError):
            while not stop.is_set():
                peer.send(flood)

    threads = [threading.Thread(target=pour)]
    for thread in threads:
        thread.start()
    try:
        assert ends(peer)
        eventually(lambda: not server.service.sessions)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(Kind.REQUEST, 1, WhoAmI())[:1], id="header"),
        pytest.param(frame(Kind.REQUEST, 1, WhoAmI())[:-1], id="payload"),
        pytest.param(frame(Kind.REQUEST, 1, Put(b"/x", 10)), id="upload"),
        pytest.param(
            frame(Kind.REQUEST, 1, Put(b"/x", 10)) + frame(Kind.DATA, 1, b"12345")[:-1],
            id="data",
        ),
        pytest.param(
            frame(Kind.REQUEST, 1, Put(b"/x", MIB)) + frame(Kind.DATA, 1, b"12345")[:-1],
            id="large-data",
        ),
        pytest.param(
            frame(Kind.REQUEST, 1, Put(b"/no/x", MIB)) + frame(Kind.DATA, 1, b"12345")[:-1],
            id="refused-data",
        ),
    ],
)
def test_who_stops_in_the_middle_is_dropped(start_server, dial, sent):
    server = start_server(stall=0.2)
    peer = dial(server)
    peer.send(sent)
    assert ends(peer)
    eventually(lambda: not server.service.sessions)
    assert not staged(server)


def test_a_header_that_drips_in_has_one_deadline(start_server, dial):
    server = start_server(stall=0.3)
    peer = dial(server)
    request = frame(Kind.REQUEST, 1, MakeLink(b"/x", b"y" * 3000))
    assert drip(peer, [bytes([byte]) for byte in request]) < len(request)


def test_who_takes_nothing_is_dropped(start_server, dial):
    server = start_server(stall=0.3)
    peer = dial(server, buffers=4096)
    (server.settings.root / "alice").mkdir(exist_ok=True)
    sparse(server.settings.root / "alice" / "file", 64 * MIB)
    peer.request(Get(b"/file"))
    eventually(lambda: not server.service.sessions)


def test_an_idle_session_is_left_alone(start_server, dial):
    server = start_server(stall=0.05, login_grace=0.3)
    idle = dial(server)
    assert ends(dial(server, logged_in=False)), "which takes as long as the grace"
    assert idle.ask(WhoAmI()) == LoggedIn("alice")


# stopping ----------------------------------------------------------------------------------


def test_idle_clients_are_informed(start_server, dial):
    server = start_server()
    peers = [dial(server) for _ in range(3)]
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    for peer in peers:
        goodbye = peer.read()
        assert (goodbye.kind, goodbye.request_id) == (Kind.NOTICE, 0)
        assert isinstance(goodbye.message, GoingDown)
        assert peer.read_to_end() == []
        peer.close()
    stopping.join()


def test_what_was_asked_before_is_answered(start_server, dial):
    server = start_server()
    peer = dial(server)
    peer.send(*put(1, b"/file", b"x" * 100, piece=10))
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    found = peer.read_to_end()
    peer.close()
    stopping.join()
    kinds = [one.kind for one in found]
    assert sorted(kinds) in ([Kind.REPLY, Kind.NOTICE], [Kind.NOTICE])
    stored = (server.settings.root / "alice" / "file").exists()
    assert stored == (Kind.REPLY in kinds)


def test_a_running_upload_may_finish(start_server, dial):
    server = start_server()
    peer = dial(server)
    pieces = list(put(1, b"/file", b"x" * (SMALL + 100), piece=1000))
    peer.send(*pieces[:50])
    eventually(lambda: staged(server))
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    eventually(lambda: server.service.stopping)
    peer.send(*pieces[50:])
    reported = {peer.read().message, peer.read().message}  # whichever comes first
    assert reported == {Stored(SMALL + 100), GoingDown()}
    peer.close()
    stopping.join()


def test_unauthenticated_clients_are_dropped_at_once(start_server, dial):
    server = start_server(login_grace=1000, grace=1000)
    silent, greeted = (dial(server, logged_in=False) for _ in range(2))
    greeted.hello()
    eventually(lambda: len(server.service.sessions) == 2)
    server.stop()
    assert silent.read_to_end() == []
    assert [one.kind for one in greeted.read_to_end()] in ([], [Kind.NOTICE])


def test_who_does_not_finish_is_cut_after_the_grace(start_server, dial):
    server = start_server(grace=0.1)
    peer = dial(server)
    peer.send(*list(put(1, b"/file", b"x" * 100, piece=10))[:3])
    eventually(lambda: len(server.service.sessions) == 1)
    server.stop()
    peer.read_to_end()
    assert not server.service.sessions
    assert not (server.settings.root / "alice" / "file").exists()
