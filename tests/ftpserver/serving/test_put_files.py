"""Many small files in one request, as frames: what is answered, logged and told of it."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator

import pytest

from ftpserver.audit.files import FILE_NAME
from ftpserver.serving.not_stored import not_stored
from ftpwire import digests, messages, paths
from ftpwire.frames import Kind
from ftpwire.messages import (
    MAX_BYTES,
    MAX_ITEMS,
    Failed,
    FilesStored,
    Finished,
    GetFiles,
    Hole,
    MakeDir,
    NewFile,
    NewFiles,
    NotStored,
    Put,
    PutFiles,
    Sent,
    SetAttributes,
    Stored,
    WantedFile,
    WantedFiles,
    WhoAmI,
)
from tests.peer import Peer, eventually, frame
from tests.test_docs import ROOT

TIME = 1_700_000_000_000_000_000


def new_file(name: bytes, data: bytes = b"data", mode: int = 0o640) -> NewFile:
    return NewFile(name, len(data), mode, TIME, digests.digest(data))


def send(peer: Peer, request: PutFiles, data: bytes, *, piece: int = 100_000) -> int:
    """Ask, and send the bytes."""
    number = peer.request(request)
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    peer.send(
        *(frame(Kind.DATA, number, one) for one in pieces),
        frame(Kind.END, number, Sent(len(data))),
    )
    return number


def answer(peer: Peer, number: int) -> tuple[dict[int, str], FilesStored | Failed]:
    """The codes of what failed, by index; and the end."""
    failures: list[messages.ItemFailure] = []
    while True:
        found = peer.answer()
        assert found.request_id == number, found
        if found.kind != Kind.REPLY:
            break
        assert isinstance(found.message, NotStored) and found.message.failures
        failures += found.message.failures
    indexes = [one.index for one in failures]
    assert indexes == sorted(set(indexes))
    kind = Kind.ERROR if isinstance(found.message, Failed) else Kind.END
    assert found.kind == kind
    return {one.index: one.code for one in failures}, found.message


def put_files(peer: Peer, request: PutFiles, data: bytes) -> tuple[dict[int, str], object]:
    return answer(peer, send(peer, request, data))


WAYS = [
    pytest.param({}, id="parked"),
    pytest.param({"threads": 0}, id="a-thread-each"),
    pytest.param({"workers": 2}, id="workers", marks=pytest.mark.system),
    pytest.param({"isolation": "process"}, id="isolated", marks=pytest.mark.system),
]


@pytest.mark.parametrize("options", WAYS)
def test_a_tree_comes_in_one_request(start_server, dial, options):
    server = start_server(**options)
    peer = dial(server)
    request = PutFiles(
        [
            NewFiles(b"/t", [new_file(b"a", b"1"), new_file(b"b", b"")], 0o755),
            NewFiles(b"/t/sub", [new_file(b"c", b"22")], 0o700),
        ],
        [Finished(b"/t/sub", 0o750, TIME), Finished(b"/t", 0o711, TIME + 1)],
    )
    assert put_files(peer, request, b"122") == ({}, FilesStored(7))
    top = server.settings.root / "alice" / "t"
    assert (top / "a").read_bytes() == b"1" and (top / "b").read_bytes() == b""
    assert (top / "sub" / "c").read_bytes() == b"22"
    reported = {
        name: (stat.S_IMODE(info.st_mode), info.st_mtime_ns)
        for name in ("a", "sub", "sub/c", "")
        for info in [os.stat(top / name)]
    }
    assert reported == {
        "a": (0o640, TIME),
        "sub/c": (0o640, TIME),
        "sub": (0o750, TIME),
        "": (0o711, TIME + 1),
    }
    assert put_files(peer, PutFiles([NewFiles(b"/no", [new_file(b"a")])]), b"data") == (
        {1: "not-found"},
        FilesStored(1),
    )


def test_it_is_named_among_the_features(server, dial):
    peer = dial(server, logged_in=False)
    assert messages.MANY_FILES in peer.hello().features


# refusals ----------------------------------------------------------------------------------

_EMPTY = [new_file(b"%d" % number, b"") for number in range(MAX_ITEMS)]
_LARGE = NewFile(b"a", MAX_BYTES, 0o644, TIME, bytes(32))


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(PutFiles([NewFiles(b"/", _EMPTY)]), id="items"),
        pytest.param(
            PutFiles([NewFiles(b"/", _EMPTY[:998])], [Finished(b"/", 0o700, 1)] * 2), id="finished"
        ),
        pytest.param(PutFiles([NewFiles(b"/", [_LARGE, new_file(b"b")])]), id="bytes"),
        pytest.param(
            PutFiles([NewFiles(b"/", [NewFile(b"a", 2**63 - 1, 0o644, TIME, bytes(32))])]),
            id="huge",
        ),
    ],
)
def test_too_much_in_one_request(server, dial, files, request_):
    peer = dial(server)
    assert put_files(peer, request_, b"x" * 1000)[1].code == "bad-request"
    assert isinstance(peer.ask(WhoAmI()), messages.LoggedIn)
    assert os.listdir(files) in ([], [".ftpd-staging"])


@pytest.mark.parametrize("sent", [b"", b"123", b"12345", b"1" * 100_000])
def test_more_or_fewer_bytes_than_announced(server, dial, files, sent):
    peer = dial(server)
    request = PutFiles([NewFiles(b"/", [new_file(b"a", b"12"), new_file(b"b", b"34")])])
    assert put_files(peer, request, sent)[1].code == "verification-failed"
    assert put_files(peer, request, b"1234") == ({}, FilesStored(3))
    assert (files / "b").read_bytes() == b"34"


def test_another_size_at_the_end_than_came(server, dial, files):
    peer = dial(server)
    number = peer.request(PutFiles([NewFiles(b"/", [new_file(b"a", b"12")])]))
    peer.frame(Kind.DATA, number, b"12")
    peer.frame(Kind.END, number, Sent(3))
    assert answer(peer, number)[1].code == "verification-failed"
    assert not (files / "a").exists()


def test_what_was_damaged_on_the_way_fails_alone(server, dial, files):
    peer = dial(server)
    request = PutFiles([NewFiles(b"/", [new_file(b"a", b"12"), new_file(b"b", b"34")])])
    assert put_files(peer, request, b"1x34") == ({1: "verification-failed"}, FilesStored(2))
    assert not (files / "a").exists() and (files / "b").read_bytes() == b"34"


@pytest.mark.parametrize("end", ["cancel", "cut"])
def test_nothing_is_stored_before_all_bytes_are_there(server, dial, files, end):
    peer, other = dial(server), dial(server)
    request = PutFiles([NewFiles(b"/d", [new_file(b"a", b"12"), new_file(b"b", b"34")], 0o755)])
    number = peer.request(request)
    peer.frame(Kind.DATA, number, b"12")
    if end == "cancel":
        peer.frame(Kind.CANCEL, number)
        assert answer(peer, number) == ({}, Failed("cancelled", "cancelled"))
        assert isinstance(peer.ask(WhoAmI()), messages.LoggedIn)
    else:
        peer.close()
        eventually(lambda: len(server.service.sessions) == 1)
    assert other.ask(messages.List(b"/")) is not None
    assert not (files / "d").exists()


def test_bytes_may_come_as_they_like(server, dial, files):
    """In pieces of any size, and zeros as a hole."""
    peer = dial(server)
    data = [b"12", bytes(5000), b"34"]
    listed = [new_file(b"%d" % number, its) for number, its in enumerate(data)]
    number = peer.request(PutFiles([NewFiles(b"/", listed)]))
    peer.frame(Kind.DATA, number, b"1")
    peer.frame(Kind.DATA, number, b"")
    peer.frame(Kind.DATA, number, b"2" + bytes(10))
    peer.frame(Kind.NOTICE, number, Hole(4980))
    peer.frame(Kind.DATA, number, bytes(10) + b"34")
    peer.frame(Kind.END, number, Sent(5004))
    assert answer(peer, number) == ({}, FilesStored(4))
    assert [(files / str(number)).read_bytes() for number in range(3)] == data


def test_answers_come_in_the_order_of_the_requests(server, dial, files):
    peer = dial(server)
    first = frame(Kind.REQUEST, 7, Put(b"/a", 1)) + frame(Kind.DATA, 7, b"1")
    second = PutFiles([NewFiles(b"/", [new_file(b"a", b"22"), new_file(b"b/", b"")])])
    third = frame(Kind.REQUEST, 9, MakeDir(b"/a"))
    peer.send(
        first,
        frame(Kind.END, 7, Sent(1)),
        frame(Kind.REQUEST, 8, second),
        frame(Kind.DATA, 8, b"22"),
        frame(Kind.END, 8, Sent(2)),
        third,
    )
    found = [peer.answer() for _ in range(4)]
    assert [(one.request_id, one.kind) for one in found] == [
        (7, Kind.REPLY),
        (8, Kind.REPLY),
        (8, Kind.END),
        (9, Kind.ERROR),
    ]
    assert found[0].message == Stored(1) and (files / "a").read_bytes() == b"22"


# telling -----------------------------------------------------------------------------------


def test_failures_come_in_messages_that_the_client_takes(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello(max_control=1024)
    assert isinstance(peer.ask(messages.Login("alice", "secret")), messages.LoggedIn)
    directory = b"/" + b"/".join([b"\xff" * 200] * 15)
    listed = [new_file(b"%d" % number, b"") for number in range(300)]
    request = PutFiles([NewFiles(b"/no", listed), NewFiles(directory, listed)])
    number = send(peer, request, b"")
    count = 0
    while (found := peer.answer()).kind == Kind.REPLY:
        assert len(found.payload) <= 1024
        count += len(found.message.failures)
    assert found.request_id == number and found.message == FilesStored(2) and count == 600


@pytest.mark.parametrize("rule", [None, "/" + "é" * 1000 + "=none"])
def test_a_failure_is_reported_shortened_where_it_takes_a_whole_message(rule):
    failures = {0: Failed("forbidden", "é" * 2000, rule=rule), 1: Failed("quota", "x", free=5)}
    reported = list(not_stored(failures, {}, 1024))
    assert all(len(messages.encode(one)) <= 1024 for one in reported)
    (first, second) = [failure for one in reported for failure in one.failures]
    assert first.message.startswith("éééé") and first.message.endswith("…")
    assert second == messages.ItemFailure(1, "quota", "x", free=5)
    assert messages.decode_reply(messages.encode(reported[0])) == reported[0]


def test_the_path_of_what_failed_is_not_repeated(server, dial):
    """999 failures below a path of 4,000 bytes, of which each byte is shown as four."""
    directory = b"/" + b"/".join([b"\xff" * 199] * 19)
    names = [b"%d" % number for number in range(999)]
    peer = dial(server)
    request = PutFiles([NewFiles(directory, [new_file(name, b"") for name in names])])
    number = send(peer, request, b"")
    size, failures = 0, []
    while (found := peer.answer()).kind == Kind.REPLY:
        size += len(found.payload)
        failures += found.message.failures
    assert found.request_id == number and found.message == FilesStored(1)
    assert [one.index for one in failures] == list(range(1, 1000)) and size < 64 * 1024
    for failure, name in zip(failures, names, strict=True):
        path = paths.child(directory, name)
        assert failure.failed(path).message == f"{paths.show(path)}: no such file or directory"


def test_what_reports_all_failures_is_bounded():
    failures = {
        number: Failed("forbidden", "é" * 4000, rule="/" + "é" * 1000 + "=none")
        for number in range(999)
    }
    failures[999] = Failed("quota", "x", free=5)
    reported = list(not_stored(failures, {}, 64 * 1024))
    assert sum(len(messages.encode(one)) for one in reported) <= 256 * 1024 + 1024
    items = [failure for one in reported for failure in one.failures]
    assert [one.index for one in items] == list(range(1000))
    assert all(one.message.startswith("é" * 80) and one.message[-1] == "…" for one in items[:-1])
    assert items[-1] == messages.ItemFailure(999, "quota", "x", free=5)


@pytest.mark.parametrize("path", [b"/d/x", b"/\xff", b"/a: b", b"/"])
@pytest.mark.parametrize("rest", [": no such file", ":", "", " lies elsewhere", ": /other: no"])
def test_a_message_is_put_together_again(path, rest):
    for message in (paths.show(path) + rest, f"other{rest}"):
        sent = messages.ItemFailure(0, "exists", messages.ItemFailure.behind_path(message, path))
        assert sent.failed(path).message == message


def test_what_a_session_does_is_reported_by_its_first_directory(server, dial):
    peer = dial(server)
    number = peer.request(PutFiles([NewFiles(b"/some/where", [new_file(b"a")])]))
    (info,) = eventually(
        lambda: [one for one in server.service.session_infos() if one.request == "put-files"]
    )
    assert info.path == b"/some/where" and server.service.stats().transfers == 1
    peer.frame(Kind.CANCEL, number)
    assert answer(peer, number)[1].code == "cancelled"


# the audit log -----------------------------------------------------------------------------


@pytest.fixture
def lines(server, start_server, dial):
    """What is recorded of what a session asks for, without what differs each time."""

    def read(ask) -> list[dict]:
        peer = dial(server)
        ask(peer)
        peer.close()
        eventually(lambda: not server.service.sessions)
        start_server.finish(server)
        text = (server.settings.state / FILE_NAME).read_text()
        found = [json.loads(line) for line in text.splitlines()]
        return [
            {name: value for name, value in one.items() if name not in ("time", "seconds")}
            for one in found
            if one["event"] in ("put", "mkdir", "attributes")
        ]

    return read


def test_the_guide_shows_what_is_recorded_of_a_request_that_is_refused_or_cut(
    server, start_server, dial
):
    peer = dial(server)
    listed = [new_file(b"a", b"1"), new_file(b"b", b"2")]
    number = peer.request(PutFiles([NewFiles(b"/d", listed, 0o755)]))
    peer.frame(Kind.DATA, number, b"1")
    peer.frame(Kind.END, number, Sent(1))
    assert peer.answer().message.code == "verification-failed"
    wanted = [WantedFile(b"a", 200_000), WantedFile(b"b", 200_000)]
    refused = peer.ask(GetFiles([WantedFiles(b"/d", wanted)]))
    assert isinstance(refused, Failed) and refused.code == "bad-request"
    number = peer.request(PutFiles([NewFiles(b"/d", listed, 0o755)]))
    peer.frame(Kind.DATA, number, b"1")
    peer.close()
    eventually(lambda: not server.service.sessions)
    start_server.finish(server)
    text = (server.settings.state / FILE_NAME).read_text()
    made = [json.loads(line) for line in text.splitlines()]
    guide = (ROOT / "docs" / "admin.md").read_text()
    shown = [json.loads(line) for line in re.findall(r'^\{.*"files":2.*\}$', guide, re.M)]
    differing = {"time", "address", "session", "seconds"}

    def same_each_time(records: list[dict]) -> list[dict]:
        puts = [one for one in records if one["event"] in ("put", "get")]
        assert all(differing <= set(one) for one in puts)
        return [
            {name: value for name, value in one.items() if name not in differing} for one in puts
        ]

    assert same_each_time(made) == same_each_time(shown), text


NAMES = [b"plain", b".hidden", b"caf\xc3\xa9s", b"no\xff", b'q"uote', b"back\\slash", b"new\nline"]
DIRECTORIES = [b"/", b"/d", b"/d/caf\xc3\xa9", b"/d/.x", b"//d/./e/", b"/d/\xff"]


def _parts(request: PutFiles) -> Iterator[tuple[object, NewFile | None]]:
    for directory in request.directories:
        if directory.make is not None:
            yield MakeDir(directory.path, directory.make, parents=True, fill=True), None
        for file in directory.files:
            path = directory.path.rstrip(b"/") + b"/" + file.name
            yield Put(path, file.size, file.mode, file.mtime_ns), file
    for one in request.finished:
        yield SetAttributes(one.path, one.mode, one.mtime_ns), None


AUDITED = PutFiles(
    [NewFiles(path, [new_file(name) for name in NAMES], 0o755) for path in DIRECTORIES]
    + [NewFiles(b"/missing", [new_file(b"a"), new_file(b"d\xff")])],
    [Finished(b"/d", 0o750, TIME), Finished(b"/none", 0o750, TIME)],
)


@pytest.fixture
def singles_lines(lines):
    def ask(peer: Peer) -> None:
        for part, file in _parts(AUDITED):
            number = peer.request(part)
            if file is not None:
                peer.frame(Kind.DATA, number, b"data")
                peer.frame(Kind.END, number, Sent(4, file.digest))
            peer.answer()

    return lines(ask)


def test_each_thing_has_the_line_that_it_has_alone(singles_lines, tmp_path, start_server, dial):
    server = start_server(root=tmp_path / "another")
    peer = dial(server)
    count = sum(len(one.files) for one in AUDITED.directories)
    failed, end = put_files(peer, AUDITED, b"data" * count)
    assert len(failed) == 3 and isinstance(end, FilesStored)
    peer.close()
    eventually(lambda: not server.service.sessions)
    start_server.finish(server)
    text = (server.settings.state / FILE_NAME).read_text()
    found = [json.loads(line) for line in text.splitlines()]
    reported = [
        {name: value for name, value in one.items() if name not in ("time", "seconds")}
        for one in found
        if one["event"] in ("put", "mkdir", "attributes")
    ]
    order = lambda one: (one["outcome"] != "ok",)  # noqa: E731  # what was done comes first
    assert reported == sorted(singles_lines, key=order)
    assert all(one["seconds"] >= 0 for one in found if one["event"] == "put")


def test_what_is_refused_as_a_whole_has_one_line(lines):
    request = PutFiles([NewFiles(b"/d", [new_file(b"a"), new_file(b"b")], 0o755)])

    def ask(peer: Peer) -> None:
        number = peer.request(request)
        peer.frame(Kind.CANCEL, number)
        assert answer(peer, number)[1].code == "cancelled"
        peer.request(request)

    cancelled, cut = lines(ask)
    assert (cancelled["event"], cancelled["path"], cancelled["files"]) == ("put", "/d", 2)
    assert (cancelled["outcome"], cancelled["code"]) == ("failed", "cancelled")
    assert (cut["outcome"], cut["path"], cut["files"]) == ("cut", "/d", 2)
