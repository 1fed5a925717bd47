"""A server that lies: typed errors, nothing outside of the destination, nothing left behind.

Lives here: downloads from a server whose every word may be wrong.
Lives elsewhere: a network that fails (test_resume.py), replies that are late (test_connection.py).
"""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import msgspec
import pytest

from ftpclient.connection import opening, protocol
from ftpclient.connection.interrupt import Interrupt
from ftpclient.sync.job import Options as SyncOptions
from ftpclient.transfer import listing
from ftpclient.transfer.job import SMALL
from ftpwire import digests, frames, messages
from ftpwire.errors import (
    BadMessage,
    CommandError,
    ConnectFailed,
    ConnectionLost,
    FrameTooBig,
    FtpError,
    Interrupted,
    ProtocolError,
    UnknownKind,
    VerificationFailed,
)
from ftpwire.frames import HEADER, MAX_CONTROL, MAX_DATA, Kind
from ftpwire.messages import (
    Done,
    Entry,
    Failed,
    Found,
    GoingDown,
    Hashed,
    Hello,
    List,
    Listed,
    LoggedIn,
    Login,
    Page,
    Problem,
    Progress,
    Put,
    Ready,
    Sending,
    Sent,
    SpaceInfo,
    Stored,
    WhoAmI,
)
from tests.lying_server import (
    DATA,
    MIB,
    contents,
    dir_entry,
    file_entry,
    link_entry,
    send_file,
)
from tests.lying_server import LyingServer as Server
from tests.pairwise import pairwise
from tests.peer import Frame, Peer


@pytest.fixture
def target(tmp_path, canary) -> Path:
    """Where downloads go; the canary is beside it."""
    directory = tmp_path / "target"
    directory.mkdir()
    return directory


@pytest.fixture
def attempt(fake, connect):
    """Does something as a client of a lying server; gives the error that came of it."""

    def run(server, action) -> FtpError | None:
        client = connect(fake(server), retries=0)
        try:
            summary = action(client)
        except FtpError as error:
            return error
        finally:
            client.close()
        return getattr(summary, "first_error", None) or (
            FtpError("some of it failed") if getattr(summary, "failed", 0) else None
        )

    return run


# names -------------------------------------------------------------------------------------

NAMES = {
    "dotdot": b"..",
    "dot": b".",
    "empty": b"",
    "dotdot-file": b"../evil",
    "canary": b"../canary/evil",
    "secret": b"../canary/secret",
    "absolute": b"/tmp/evil",
    "inside-out": b"a/../../canary/secret",
    "slash": b"a/b",
    "trailing-slash": b"a/",
    "nul": b"a\0b",
    "long": b"x" * 256,
    "reserved": b".ftpd-staging",
}


@pairwise(
    {
        "name": [pytest.param(name, id=why) for why, name in NAMES.items()],
        "kind": ["file", "dir", "link", "other"],
        "verb": ["get", "sync"],
    }
)
def test_names_that_lead_elsewhere(attempt, target, canary, name, kind, verb):
    entry = Entry(name, kind, len(DATA), 0o644, 5, bytes(canary) if kind == "link" else None)
    pages = [
        Page(b"", [dir_entry(b"a"), entry], [], True),
        Page(b"a", [file_entry(b"evil")], [], True),
    ]
    if kind == "dir":
        pages.append(Page(name, [file_entry(b"evil")], [], True))
    error = attempt(Server(pages=pages), download(verb, target))
    assert isinstance(error, FtpError)
    assert contents(target) <= {"tree", "tree/a", "tree/a/evil", "a", "a/evil"}


def download(verb: str, target: Path):
    if verb == "get":
        return lambda client: client.get(["/tree"], str(target) + "/", recursive=True)
    options = SyncOptions(delete=True, force=True)
    return lambda client: client.sync(b":/tree", bytes(target), options)


@pytest.mark.parametrize(
    "directory",
    [b"..", b"../canary", b"/", b"/tmp", b"a/..", b"a/../../canary", b"unheard-of", b"a/b", b"l"],
)
@pytest.mark.parametrize("verb", ["get", "sync"])
def test_directories_that_lead_elsewhere(attempt, target, canary, directory, verb):
    link = link_entry(b"l", bytes(canary))
    pages = [
        Page(b"", [dir_entry(b"a"), link], [], True),
        Page(directory, [file_entry(b"secret"), file_entry(b"evil")], [], True),
    ]
    error = attempt(Server(pages=pages), download(verb, target))
    if verb == "get" or directory not in (b"unheard-of", b"a/b", b"l"):
        assert isinstance(error, ProtocolError)
    assert contents(target) <= {"tree", "tree/a", "tree/l", "a", "l"}


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([link_entry, dir_entry], id="link-then-dir"),
        pytest.param([dir_entry, link_entry], id="dir-then-link"),
        pytest.param([link_entry, file_entry], id="link-then-file"),
        pytest.param([link_entry, link_entry], id="link-then-link"),
    ],
)
@pytest.mark.parametrize("verb", ["get", "sync"])
def test_links_that_a_transfer_made_are_not_followed(attempt, target, canary, entries, verb):
    """Two entries of one name: the second one would be written through the first."""
    made = [
        make(b"name", bytes(canary)) if make is link_entry else make(b"name") for make in entries
    ]
    pages = [
        Page(b"", made, [], True),
        Page(b"name", [file_entry(b"secret"), file_entry(b"evil"), dir_entry(b"d")], [], True),
        Page(b"name/d", [file_entry(b"evil")], [], True),
    ]
    attempt(Server(pages=pages), download(verb, target))


@pytest.mark.parametrize("name", [b"..", b"../../etc/passwd", b"/etc", b"a\0b"])
@pytest.mark.parametrize("verb", ["get", "sync", "list"])
def test_what_failed_elsewhere_is_not_reported(attempt, target, name, verb):
    """Whoever looks at a path that cannot be listed would look where the server likes."""
    reported = []
    pages = [Page(b"", [], [Problem(name, "forbidden", "no")], True)]
    action = (
        (lambda client: list(client.list_dir("/tree", on_problem=reported.append)))
        if verb == "list"
        else download(verb, target)
    )
    assert isinstance(attempt(Server(pages=pages), action), ProtocolError)
    assert not reported


def test_links_that_were_there_are_not_followed_either(attempt, target, canary):
    (target / "tree").mkdir()
    (target / "tree" / "name").symlink_to(canary)
    pages = [
        Page(b"", [dir_entry(b"name"), file_entry(b"good")], [], True),
        Page(b"name", [file_entry(b"secret")], [], True),
    ]
    error = attempt(Server(pages=pages), download("get", target))
    assert isinstance(error, CommandError)
    assert (target / "tree" / "good").read_bytes() == DATA


def test_a_source_that_is_a_link_first_and_a_tree_then(attempt, target, canary):
    """Of two sources with one name, the first makes a link that the second would go through."""
    requested = []

    def root(path: bytes) -> Entry:
        requested.append(path)
        return link_entry(path, bytes(canary)) if path == b"/one/name" else dir_entry(path)

    pages = [Page(b"", [file_entry(b"secret"), file_entry(b"evil")], [], True)]
    error = attempt(
        Server(root=root, pages=pages),
        lambda client: client.get(["/one/name", "/two/name"], str(target) + "/", recursive=True),
    )
    assert isinstance(error, FtpError)
    assert os.readlink(target / "name") == str(canary)


@pairwise(
    {
        "name": [b"x/..", b"../x", b"..", b"x/../..", b"a/b", b"", b"x\0"],
        "pattern": ["*", ".*", "?*", "*/.."],
        "kind": ["file", "dir"],
    }
)
def test_patterns_match_names_only(attempt, target, canary, name, pattern, kind):
    """What a server says is in a directory may not become another place here."""
    (target / "inner").mkdir()
    server = Server(
        root=lambda path: (dir_entry if kind == "dir" else file_entry)(path),
        pages=[Page(b"", [Entry(name, kind, len(DATA), 0o644, 5), file_entry(b"evil")], [], True)],
    )
    attempt(
        server, lambda client: client.get([pattern], str(target / "inner") + "/", recursive=True)
    )
    assert {name for name in contents(target) if not name.startswith("inner")} == set()


@pytest.mark.parametrize("link_target", [None, b"", b"nul\0byte", b"x" * 5000])
@pytest.mark.parametrize("verb", ["get", "sync"])
def test_links_that_can_not_be(attempt, target, link_target, verb):
    pages = [Page(b"", [link_entry(b"link", link_target), file_entry(b"good")], [], True)]
    error = attempt(Server(pages=pages), download(verb, target))
    assert isinstance(error, FtpError)
    assert not {name for name in contents(target) if name.endswith("link")}


def test_the_worst_attributes_do_no_harm(attempt, target):
    """No setuid, no crash at times beyond the calendar."""
    entries = [
        file_entry(b"setuid", mode=0o7777),
        file_entry(b"future", mtime_ns=2**63 - 1),
        file_entry(b"past", mtime_ns=-(2**63)),
        Entry(b"dir", "dir", 0, 0o7777, 2**63 - 1),
        link_entry(b"link", b"x"),
    ]
    times = itertools.cycle([2**63 - 1, -(2**63), 2**64 - 1])

    def get(peer: Peer, number: int) -> None:
        send_file(peer, number, mode=2**40 + 0o7777, mtime_ns=next(times))

    pages = [Page(b"", entries, [], True), Page(b"dir", [], [], True)]
    attempt(Server(pages=pages, get=get), download("get", target))
    for path in (target / "tree").rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o7000 == 0, path
    contents(target)


# bytes -------------------------------------------------------------------------------------


def get_one(target: Path, **options):
    return lambda client: client.get(["/file"], str(target) + "/", **options)


def one_file(get, size: int = len(DATA)) -> Server:
    return Server(root=lambda path: file_entry(path, size=size), get=get)


@pytest.mark.parametrize("size", [10, SMALL, SMALL + 10, 6 * MIB])
@pytest.mark.parametrize(
    ("sent", "ending"),
    [
        pytest.param(0, lambda data: Sent(len(data), bytes(32)), id="wrong-digest"),
        pytest.param(-1, lambda data: Sent(len(data), None), id="fewer"),
        pytest.param(-1, lambda data: Sent(len(data) - 1, digests.digest(data[:-1])), id="shorter"),
        pytest.param(1, lambda data: Sent(len(data), None), id="more"),
        pytest.param(1, lambda data: Sent(len(data) + 1, digests.digest(data + b"+")), id="longer"),
        pytest.param(70_000, lambda data: Sent(len(data), None), id="many-more"),
        pytest.param(None, lambda data: Sent(len(data), None), id="nothing"),
    ],
)
def test_bytes_that_are_not_as_announced(attempt, target, size, sent, ending):
    data = bytes(size)
    wire = b"" if sent is None else (data + b"+" * sent if sent > 0 else data[: size + sent])

    def get(peer: Peer, number: int) -> None:
        peer.reply(number, Sending(size, 0o644, 5))
        for at in range(0, len(wire), MIB):
            peer.frame(Kind.DATA, number, wire[at : at + MIB])
        peer.frame(Kind.END, number, ending(data))

    (target / "file").write_bytes(b"old")
    error = attempt(one_file(get, size), get_one(target))
    assert isinstance(error, VerificationFailed | ProtocolError)
    assert error.exit_code in (8, 10)
    assert (target / "file").read_bytes() == b"old"
    assert contents(target) == {"file"}


@pytest.mark.parametrize("announced", [0, 10, SMALL, SMALL + 1, MIB])
@pytest.mark.parametrize("verb", ["get", "get_stream"])
def test_bytes_without_end(attempt, target, tmp_path, announced, verb):
    """No memory and no disk is filled by a server that doesn't stop."""
    sent = []

    def get(peer: Peer, number: int) -> None:
        peer.reply(number, Sending(announced, 0o644, 5))
        for _ in range(2000):
            peer.frame(Kind.DATA, number, bytes(MIB))
            sent.append(1)

    if verb == "get":
        error = attempt(one_file(get, announced), get_one(target))
        assert contents(target) == set()
    else:
        with (tmp_path / "out").open("wb") as out:
            error = attempt(
                one_file(get, announced), lambda client: client.get_stream("/file", out.fileno())
            )
        assert (tmp_path / "out").stat().st_size <= announced + 4 * MIB
    assert isinstance(error, ProtocolError | VerificationFailed)
    assert len(sent) < 100


@pytest.mark.parametrize(
    "get",
    [
        pytest.param(lambda p, n: p.frame(Kind.END, n, Sent(0)), id="end-at-once"),
        pytest.param(lambda p, n: p.frame(Kind.END, n, Listed()), id="listed-at-once"),
        pytest.param(lambda p, n: p.frame(Kind.DATA, n, b"x"), id="data-first"),
        pytest.param(
            lambda p, n: (p.reply(n, Sending(0, 0, 0)), p.frame(Kind.END, n, Listed())),
            id="wrong-ending",
        ),
        pytest.param(
            lambda p, n: (p.reply(n, Sending(MIB, 0, 0)), p.frame(Kind.END, n, Listed())),
            id="wrong-ending-large",
        ),
        pytest.param(lambda p, n: p.reply(n, Stored(3)), id="stored"),
        pytest.param(lambda p, n: p.reply(n, Done()), id="done"),
        pytest.param(lambda p, n: p.reply(n, Page()), id="page"),
        pytest.param(
            lambda p, n: (p.reply(n, Sending(MIB, 0, 0)), p.reply(n, Sending(MIB, 0, 0))),
            id="twice",
        ),
        pytest.param(
            lambda p, n: (
                p.reply(n, Sending(MIB, 0, 0)),
                p.frame(Kind.DATA, n, bytes(1000)),
                p.reply(n, Sending(2 * MIB, 0, 0)),
            ),
            id="twice-in-the-middle",
        ),
        pytest.param(lambda p, n: p.reply(n, Sending(-1, 0o644, 5)), id="negative"),
        pytest.param(
            lambda p, n: (p.reply(n, Sending(-1, 0, 0)), p.frame(Kind.END, n, Sent(0))),
            id="negative-and-end",
        ),
        pytest.param(lambda p, n: send_file(p, n, offset=5), id="from-the-middle"),
        pytest.param(lambda p, n: send_file(p, n, offset=-5), id="from-before"),
        pytest.param(
            lambda p, n: send_file(p, n, bytes(MIB), offset=5), id="from-the-middle-large"
        ),
        pytest.param(
            lambda p, n: (p.reply(n, Sending(2**62, 0, 0)), p.frame(Kind.END, n, Sent(2**62))),
            id="huge",
        ),
        pytest.param(lambda p, n: p.frame(Kind.ERROR, n, b"\xc1"), id="malformed-error"),
        pytest.param(lambda p, n: p.frame(Kind.REPLY, n, b"\xc1"), id="malformed-reply"),
        pytest.param(lambda p, n: p.frame(Kind.END, n, b""), id="malformed-end"),
        pytest.param(lambda p, n: p.frame(Kind.NOTICE, n, b"\xc1"), id="malformed-notice"),
        pytest.param(lambda p, n: p.frame(Kind.REQUEST, n, WhoAmI()), id="a-request"),
        pytest.param(lambda p, n: p.frame(Kind.CANCEL, n), id="a-cancel"),
        pytest.param(lambda p, n: p.frame(77, n), id="unknown-kind"),
        pytest.param(lambda p, n: p.send(HEADER.pack(MAX_CONTROL + 1, Kind.REPLY, n)), id="big"),
        pytest.param(lambda p, n: p.send(HEADER.pack(2**32 - 1, Kind.DATA, n)), id="4-gib"),
        pytest.param(lambda p, n: p.send(HEADER.pack(MAX_DATA + 1, Kind.DATA, n)), id="big-data"),
        pytest.param(lambda p, n: p.reply(n + 1, Sending(3, 0, 0)), id="another-id"),
        pytest.param(lambda p, n: p.frame(Kind.DATA, n + 1, b"x"), id="data-of-another"),
        pytest.param(lambda p, n: p.frame(Kind.DATA, 0, b"x"), id="data-of-nobody"),
        pytest.param(lambda p, n: p.frame(Kind.ERROR, 0, Failed("x", "y")), id="error-of-all"),
        pytest.param(
            lambda p, n: (send_file(p, n), p.frame(Kind.DATA, n, b"more")), id="after-the-end"
        ),
        pytest.param(lambda p, n: (send_file(p, n), send_file(p, n)), id="answered-twice"),
    ],
)
@pytest.mark.parametrize("verb", ["get", "get_stream"])
def test_answers_that_make_no_sense(attempt, target, tmp_path, get, verb):
    """Whatever it is, it is an error of ours that comes of it, and the partial file is gone.

    The server then waits; who waits for it as well would never end.
    """
    if verb == "get":

        def action(client):
            summary = get_one(target)(client)
            client.whoami()
            return summary

        error = attempt(one_file(get), action)
    else:
        with (tmp_path / "out").open("wb") as out:
            error = attempt(
                one_file(get),
                lambda client: (client.get_stream("/file", out.fileno()), client.whoami()),
            )
    assert isinstance(error, FtpError)
    found = contents(target)
    assert found <= {"file"}
    if found:  # what came whole, before the server went wrong
        assert (target / "file").read_bytes() == DATA


@pytest.mark.parametrize("verb", ["get", "sync"])
def test_what_was_under_way_is_given_back_when_the_server_goes_wrong(attempt, target, verb):
    """Several files at once, then nonsense: each of them has a partial file and a thread."""
    waiting = []

    def get(peer: Peer, number: int) -> None:
        peer.reply(number, Sending(6 * MIB, 0o644, 5))
        peer.frame(Kind.DATA, number, bytes(MIB))
        waiting.append(number)
        if len(waiting) == 4:
            peer.frame(Kind.REPLY, 4_000_000, Done())

    entries = [file_entry(b"%d" % number, size=6 * MIB) for number in range(4)]
    server = Server(pages=[Page(b"", entries, [], True)], get=get)
    error = attempt(server, download(verb, target))
    assert isinstance(error, ProtocolError)
    assert contents(target) <= {"tree"}


def test_a_wrong_name_gives_back_what_was_under_way(attempt, target):
    def get(peer: Peer, number: int) -> None:
        peer.reply(number, Sending(6 * MIB, 0o644, 5))
        peer.frame(Kind.DATA, number, bytes(MIB))

    entries = [file_entry(b"good", size=6 * MIB), file_entry(b"..")]
    server = Server(pages=[Page(b"", entries, [], True)], get=get)
    error = attempt(server, download("get", target))
    assert isinstance(error, ProtocolError)
    assert contents(target) <= {"tree"}


@pytest.mark.parametrize("at", [0, 5, 1000, 600_000])
def test_a_connection_that_is_cut(attempt, target, at):
    def get(peer: Peer, number: int) -> None:
        peer.reply(number, Sending(MIB, 0o644, 5))
        whole = HEADER.pack(MIB, Kind.DATA, number) + bytes(MIB)
        peer.send(whole[:at])
        peer.close()
        raise EOFError

    (target / "file").write_bytes(b"old")
    error = attempt(one_file(get, MIB), get_one(target))
    assert isinstance(error, ConnectionLost) and error.exit_code == 4
    assert (target / "file").read_bytes() == b"old"
    assert contents(target) == {"file"}


# uploads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, SMALL + 10, 6 * MIB])
@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([Done()], id="done"),
        pytest.param([LoggedIn("alice")], id="logged-in"),
        pytest.param([Ready(), Ready()], id="ready-twice"),
        pytest.param([Ready(2**62, bytes(32)), Ready(2**62, bytes(32))], id="beyond-the-end"),
        pytest.param([Ready(5, bytes(32))] * 5, id="another-beginning-for-ever"),
        pytest.param([Ready(5, None)] * 5, id="a-beginning-without-digest"),
        pytest.param([b"\xc1"], id="malformed"),
        pytest.param([msgspec.msgpack.encode({"op": "ready", "offset": -5})], id="negative"),
        pytest.param([], id="bytes"),
    ],
)
def test_uploads_to_a_liar(attempt, tmp_path, size, answers):
    left = list(answers)

    def ask(peer: Peer, requested: Frame) -> bool:
        if requested.kind != Kind.REQUEST:
            return True
        if not isinstance(requested.message, Put):
            return False
        if not answers:
            peer.frame(Kind.DATA, requested.request_id, b"bytes")
        if isinstance((left or answers or [None])[0], Ready) and len(answers) != 2:
            peer.reply(requested, left.pop(0) if left else Done())
        else:
            for answer in answers:
                peer.frame(Kind.REPLY, requested.request_id, answer)
        while (found := peer.read()).kind not in (Kind.END, Kind.CANCEL):
            assert found.kind == Kind.DATA
        if found.kind == Kind.CANCEL:
            peer.reply(requested, Failed("cancelled", ""))
        return True

    (tmp_path / "source").write_bytes(bytes(size))
    error = attempt(
        Server(ask=ask), lambda client: client.put([str(tmp_path / "source")], "/target")
    )
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize(
    ("size", "answers"),
    [
        pytest.param(10, [Stored(9)], id="small"),
        pytest.param(2 * MIB, [Stored(2 * MIB + 1)], id="larger"),
        pytest.param(6 * MIB, [Ready(), Stored(6 * MIB)], id="before-its-end"),
        pytest.param(None, [Ready(), Stored(10)], id="before-the-end-of-a-stream"),
    ],
)
def test_what_was_not_sent_is_not_stored(attempt, tmp_path, size, answers):
    """Else a server that has mistaken itself would lose the file, and nobody would know."""

    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, Put):
            return False
        early = len(answers) > 1
        for answer in answers if early else []:
            peer.reply(requested, answer)
        while (found := peer.read()).kind not in (Kind.END, Kind.CANCEL):
            assert found.kind == Kind.DATA
        if not early:
            peer.reply(requested, answers[0])
        return True

    def put(client):
        if size is not None:
            (tmp_path / "source").write_bytes(bytes(size))
            return client.put([tmp_path / "source"], "/target")
        ours, theirs = os.pipe()
        try:
            return client.put_stream(ours, "/target")
        finally:
            os.close(ours)
            os.close(theirs)

    server = Server(ask=ask, root=lambda path: None)
    error = attempt(server, put)
    assert isinstance(error, ProtocolError) and "has stored" in str(error)


# other answers -----------------------------------------------------------------------------

VERBS = {
    "whoami": lambda client: client.whoami(),
    "space": lambda client: client.space(),
    "stat": lambda client: client.stat("/x"),
    "hash": lambda client: client.hash("/x"),
    "list": lambda client: list(client.list_dir("/x")),
    "make_dir": lambda client: client.make_dir("/x"),
    "remove": lambda client: client.remove("/x"),
    "move": lambda client: client.move("/x", "/y"),
    "copy": lambda client: client.copy("/x", "/y"),
}
REPLIES = [
    Hashed(bytes(32), 1),
    Found(dir_entry(b"x")),
    Stored(1),
    Ready(),
    Sending(1, 1, 1),
    SpaceInfo(0, 0),
    LoggedIn("alice"),
    Page(),
    Done(),
]
HONEST = {
    "whoami": LoggedIn,
    "space": SpaceInfo,
    "stat": Found,
    "hash": Hashed,
    "list": Page,
    "make_dir": Done,
    "move": Done,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_the_wrong_kind_of_answer(attempt, verb, reply):
    if isinstance(reply, HONEST.get(verb, type(None))):
        pytest.skip("that one is right")

    def ask(peer: Peer, requested: Frame) -> bool:
        peer.reply(requested, reply)
        if verb == "list":
            peer.frame(Kind.END, requested.request_id, Listed())
        return True

    assert isinstance(attempt(Server(ask=ask), VERBS[verb]), ProtocolError)


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"list"}))
@pytest.mark.parametrize("ending", [Sent(0), Listed()], ids=["sent", "listed"])
def test_an_end_where_a_reply_belongs(attempt, verb, ending):
    def ask(peer: Peer, requested: Frame) -> bool:
        peer.frame(Kind.END, requested.request_id, ending)
        return True

    assert isinstance(attempt(Server(ask=ask), VERBS[verb]), ProtocolError)


@pytest.mark.parametrize("verb", VERBS)
def test_bytes_where_a_reply_belongs(attempt, verb):
    """Without end: whoever passed over them would never come to an end either."""

    def ask(peer: Peer, requested: Frame) -> bool:
        for _ in range(2000):
            peer.frame(Kind.DATA, requested.request_id, bytes(MIB))
        return True

    assert isinstance(attempt(Server(ask=ask), VERBS[verb]), ProtocolError)


def test_a_listing_that_ends_like_a_file(attempt):
    def ask(peer: Peer, requested: Frame) -> bool:
        peer.frame(Kind.END, requested.request_id, Sent(0))
        return True

    assert isinstance(attempt(Server(ask=ask), VERBS["list"]), ProtocolError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("quota", CommandError),
        ("no such code", CommandError),
        ("", CommandError),
        ("interrupted", FtpError),
        ("connection-lost", FtpError),
        ("bad-message", ProtocolError),
    ],
)
@pytest.mark.parametrize("number", ["own", "zero"])
def test_any_code_of_an_error_is_an_error(attempt, code, kind, number):
    def ask(peer: Peer, requested: Frame) -> bool:
        failed = Failed(code, "text\n\x1b[31m" + "x" * 1000)
        peer.frame(Kind.ERROR, requested.request_id if number == "own" else 0, failed)
        return True

    assert isinstance(attempt(Server(ask=ask), VERBS["stat"]), kind)


def test_a_word_before_leaving(attempt):
    def ask(peer: Peer, requested: Frame) -> bool:
        peer.frame(Kind.NOTICE, 0, GoingDown("for tea\n\x1b[31m"))
        peer.close()
        raise EOFError

    error = attempt(Server(ask=ask), VERBS["stat"])
    assert isinstance(error, ConnectionLost)
    assert "for tea" in str(error)


def test_notices_of_any_kind_are_no_harm(fake, connect):
    def ask(peer: Peer, requested: Frame) -> bool:
        for notice in (
            messages.encode(Progress(5)),
            messages.encode(Progress(-5, -7)),
            msgspec.msgpack.encode({"op": "weather", "sunny": True}),
        ):
            peer.frame(Kind.NOTICE, requested.request_id, notice)
            peer.frame(Kind.NOTICE, 0, notice)
            peer.frame(Kind.NOTICE, 77, notice)
        return False

    client = connect(fake(Server(ask=ask)))
    assert client.whoami() == "alice"


# opening -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", ProtocolError, id="http"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", ProtocolError, id="ssh"),
        pytest.param(b"220 ftp.example.net ready\r\n", ProtocolError, id="ftp"),
        pytest.param(HEADER.pack(2**32 - 1, Kind.REPLY, 0), FrameTooBig, id="4-gib"),
        pytest.param(HEADER.pack(4097, Kind.REPLY, 0), FrameTooBig, id="too-big"),
        pytest.param(HEADER.pack(0, 99, 0), UnknownKind, id="unknown-kind"),
        pytest.param(frames.frame(Kind.REPLY, 0, b"FTPX"), ProtocolError, id="magic"),
        pytest.param(frames.frame(Kind.REPLY, 0, b""), ProtocolError, id="empty"),
        pytest.param(frames.frame(Kind.REPLY, 0, b"FTPW\xc1"), BadMessage, id="malformed"),
        pytest.param(frames.frame(Kind.DATA, 0, b""), ProtocolError, id="data"),
        pytest.param(frames.frame(Kind.ERROR, 0, b"\xc1"), BadMessage, id="malformed-error"),
        pytest.param(
            frames.frame(Kind.ERROR, 0, messages.encode(Failed("version", "77 and 1"))),
            ProtocolError,
            id="version",
        ),
    ],
)
def test_what_is_no_server(fake, connect, sent, error):
    def script(peer: Peer) -> None:
        peer.read()
        peer.send(sent)
        peer.read_to_end()

    with pytest.raises(error):
        connect(fake(script))


def test_a_server_that_hangs_up_is_tried_again(fake, connect, monkeypatch):
    monkeypatch.setattr(opening, "pause", lambda seconds, interrupt: None)
    turned = []

    def script(peer: Peer) -> None:
        turned.append(1)
        if len(turned) > 3:
            Server()(peer)

    assert connect(fake(script)).whoami() == "alice"
    assert len(turned) == 4

    server = fake(lambda peer: None)
    with pytest.raises(ConnectFailed) as caught:
        connect(server)
    assert caught.value.exit_code == 4
    assert server.connections == opening._FIRST_TRIES == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"max_data": 1},
        {"max_data": -1},
        {"max_data": 2**62},
        {"max_requests": 0, "max_unanswered": 0},
        {"max_requests": -1, "max_unanswered": -1},
        {"max_requests": 2**62, "max_unanswered": 2**62},
        {"max_control": -1},
        {"features": ["x"] * 100, "software": "\x1b[31m\n"},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_limits_of_any_size(fake, connect, fields, tmp_path):
    """A server may want very little at a time; that is slow, and works."""
    received = []

    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, Put):
            return False
        size = 0
        while (found := peer.read()).kind == Kind.DATA:
            received.append(len(found.payload))
            size += len(found.payload)
        peer.reply(requested, Stored(size))
        return True

    server = Server(ask=ask, greet=lambda peer: peer.greet(**fields))
    client = connect(fake(server), retries=0)
    for number in range(5):
        (tmp_path / f"{number}").write_bytes(bytes(3000))
    summary = client.put([str(tmp_path / f"{number}") for number in range(5)], "/x")
    assert (summary.done, summary.failed) == (5, 0)
    assert sum(received) == 5 * 3000
    assert max(received) <= max(1024, fields.get("max_data", 10**6))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda peer, requested: peer.reply(requested, Done()), id="done"),
        pytest.param(lambda peer, requested: peer.reply(requested, Page()), id="page"),
        pytest.param(lambda peer, requested: peer.frame(Kind.END, 1, Listed()), id="end"),
        pytest.param(lambda peer, requested: peer.frame(Kind.DATA, 1, b"x"), id="data"),
        pytest.param(lambda peer, requested: peer.reply(99, LoggedIn("alice")), id="other-id"),
        pytest.param(lambda peer, requested: peer.reply(requested, Failed("x", "y")), id="failed"),
        pytest.param(lambda peer, requested: peer.socket.shutdown(2), id="closed"),
    ],
)
def test_log_ins_that_go_wrong(fake, connect, answer):
    def script(peer: Peer) -> None:
        peer.read()
        hello = Hello(max_control=MAX_CONTROL, max_data=MAX_DATA, max_requests=9)
        peer.frame(Kind.REPLY, 0, messages.encode_hello(hello))
        requested = peer.read()
        assert isinstance(requested.message, Login)
        answer(peer, requested)
        peer.read_to_end()

    with pytest.raises(FtpError):
        connect(fake(script))


# without end -------------------------------------------------------------------------------


def endless(peer: Peer, requested: Frame) -> bool:
    if not isinstance(requested.message, List):
        return False
    for number in itertools.count():
        entries = [file_entry(b"%d-%d" % (number, one)) for one in range(100)]
        peer.reply(requested, Page(b"", entries, [Problem(b"x", "failed", "no")]))
    return True


def test_pages_without_end_are_handed_out_as_they_come(fake, connect):
    """A listing is a stream: whoever has enough stops, and memory stays flat."""
    client = connect(fake(Server(ask=endless)), retries=0)
    entries = client.list_dir("/", on_problem=lambda problem: None)
    first = list(itertools.islice(entries, 5000))
    assert len(first) == 5000
    entries.close()
    client.close()


def test_pages_without_end_can_be_interrupted(fake, connect, target, monkeypatch):
    monkeypatch.setattr(protocol, "_CANCEL_SECONDS", 0.1)
    interrupt = Interrupt()
    try:
        client = connect(fake(Server(ask=endless)), retries=0, interrupt=interrupt)
        timer = threading.Timer(0.3, interrupt.set)
        timer.start()
        with pytest.raises(Interrupted):
            client.get(["/tree"], str(target) + "/", recursive=True)
        timer.join()
        client.settle_interrupt()
        client.close()
    finally:
        interrupt.close()
    assert contents(target) <= {"tree"}


def test_pages_wait_for_nobody_in_memory(fake, connect, monkeypatch):
    """A server that is faster than whoever reads must not fill the memory."""
    client = connect(fake(Server(ask=endless)), retries=0)
    come = []
    take = listing._ListCall.on_reply
    monkeypatch.setattr(
        listing._ListCall, "on_reply", lambda call, page: come.append(1) or take(call, page)
    )
    entries = client.list_dir("/", on_problem=lambda problem: None)
    for _ in itertools.islice(entries, 2000):
        pass
    assert len(come) < 200
    entries.close()
    client.close()
