"""What docs/protocol.md says of many files in one request.

Lives here: what no other test shows. checked_sentences.txt tells which test shows which sentence.
Lives elsewhere: that it is the same as its parts (tests/ftpserver/workspace/test_many_files.py),
what is answered in the ordinary case (test_put_files.py, test_get_files.py).
"""

from __future__ import annotations

import os
import re
import stat

import pytest
from msgspec.structs import replace

from ftpserver.serving import exchange
from ftpserver.serving.exchange import Exchange
from ftpserver.storage.permissions import Permissions
from ftpwire import digests, frames, messages
from ftpwire.frames import Kind
from ftpwire.messages import (
    MAX_BYTES,
    MAX_ITEMS,
    MAX_REQUEST_SIZE,
    Done,
    Failed,
    FilesStored,
    Finished,
    Get,
    GetFiles,
    Hole,
    LoggedIn,
    NewFile,
    NewFiles,
    NotStored,
    Put,
    PutFiles,
    SendingFiles,
    Sent,
    Stored,
    WantedFile,
    WantedFiles,
    WhoAmI,
)
from tests.peer import Peer
from tests.protocol_document import section

TIME = 1_700_000_000_000_000_000
DATA = b"some bytes"


def new_file(name: bytes, data: bytes = DATA, mode: int = 0o640) -> NewFile:
    return NewFile(name, len(data), mode, TIME, digests.digest(data))


def answer(peer: Peer, number: int) -> tuple[dict[int, str], object]:
    """The codes of what failed, by index, and the last message."""
    failures: dict[int, str] = {}
    while isinstance((found := peer.answer()).message, NotStored):
        failures |= {one.index: one.code for one in found.message.failures}
    assert found.request_id == number
    return failures, found.message


def put_files(peer: Peer, request: PutFiles, data: bytes, sent: Sent | None = None):
    number = peer.request(request)
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, sent or Sent(len(data)))
    return answer(peer, number)


def put(peer: Peer, path: bytes, data: bytes) -> object:
    number = peer.request(Put(path, len(data)))
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    return peer.answer().message


# limits ------------------------------------------------------------------------------------


def test_the_limits_of_a_request_of_many_files_are_those_of_the_document():
    text = section("Many files")
    reported = [int(one.replace(",", "")) for one in re.findall(r"at\s+most\s+([\d,]+)", text)]
    assert reported == [MAX_ITEMS, MAX_BYTES, MAX_REQUEST_SIZE]


def test_a_request_of_many_files_is_a_control_frame(server, dial, files):
    """No bound is its own: up to the largest control frame all is taken."""
    peer, other = dial(server), dial(server)
    names = [b"%03d" % number + b"n" * 77 for number in range(MAX_ITEMS - 1)]
    request = PutFiles([NewFiles(b"/", [new_file(name, b"") for name in names])])
    assert MAX_REQUEST_SIZE < len(messages.encode(request)) < frames.MAX_CONTROL
    assert put_files(peer, request, b"") == ({}, FilesStored(MAX_ITEMS))
    other.send(frames.HEADER.pack(frames.MAX_CONTROL + 1, Kind.REQUEST, 1))
    assert other.read_to_end()[-1].message.code == "frame-too-big"


# uploads -----------------------------------------------------------------------------------


def test_inside_many_files_holds_what_holds_inside_a_put(server, dial, files):
    peer, other = dial(server), dial(server)
    zeros = bytes(100_000)
    number = peer.request(PutFiles([NewFiles(b"/", [new_file(b"a"), new_file(b"b", zeros)])]))
    peer.frame(Kind.CANCEL, number + 7)  # of another request: ignored
    peer.frame(Kind.DATA, number, b"")
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.NOTICE, number, Hole(len(zeros)))
    peer.frame(Kind.END, number, Sent(len(DATA) + len(zeros)))
    assert answer(peer, number) == ({}, FilesStored(3))
    assert (files / "b").read_bytes() == zeros
    number = other.request(PutFiles([NewFiles(b"/", [new_file(b"c")])]))
    other.frame(Kind.DATA, number + 1, DATA)
    last = other.read_to_end()[-1]
    assert (last.request_id, last.message.code) == (0, "bad-message")
    assert not (files / "c").exists()


@pytest.mark.parametrize("closing", [Kind.END, Kind.CANCEL])
def test_many_files_that_are_refused_are_closed_as_well(server, dial, closing):
    peer = dial(server)
    refused = PutFiles([NewFiles(b"/", [NewFile(b"a", MAX_BYTES + 1, 0o644, 5, bytes(32))])])
    number = peer.request(refused)
    assert peer.answer().message.code == "bad-request"
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(closing, number, messages.encode(Sent(len(DATA))) if closing == Kind.END else b"")
    assert peer.ask(WhoAmI()) == LoggedIn("alice")  # and there is no answer to it
    number = peer.request(refused)
    assert peer.answer().message.code == "bad-request"
    peer.frame(Kind.REQUEST, number + 1, WhoAmI())  # it isn't closed
    assert peer.read_to_end()[-1].message.code == "bad-message"


def test_things_are_counted_in_the_order_in_which_they_are_done(server, dial, files):
    (files / "file").write_bytes(b"")
    listed = [new_file(b"a", b""), new_file(b"x\0", b"")]
    request = PutFiles(
        [
            NewFiles(b"/", [new_file(b"b", b"")]),  # 0, 1
            NewFiles(b"/file", listed, 0o755),  # 2, 3, 4: it is a file
            NewFiles(b"/d", listed, 0o755),  # 5, 6, 7
            NewFiles(b"/gone", [new_file(b"a", b"")]),  # 8, 9
        ],
        [Finished(b"/d", 0o700, TIME), Finished(b"/gone", 0o700, TIME)],  # 10, 11
    )
    failed, end = put_files(dial(server), request, b"")
    assert failed == {
        **{2: "not-a-directory", 3: "not-a-directory", 4: "invalid-path", 7: "invalid-path"},
        **{9: "not-found", 11: "not-found"},
    }
    assert end == FilesStored(12 - len(failed))


def test_a_failure_among_many_reports_what_it_would_alone(server, dial, files):
    server.accounts.change("alice", max_files=2, permissions=Permissions.parse("/closed=none"))
    peer = dial(server)
    names = [b"a", b"b", b"closed", b"c", b"x" * 255, b"x\0"]
    number = peer.request(PutFiles([NewFiles(b"/", [new_file(name, b"") for name in names])]))
    peer.frame(Kind.END, number, Sent(0))
    failures = peer.answer().message.failures
    reported = {one.index: one.failed(b"/" + names[one.index - 1]) for one in failures}
    assert peer.answer().message == FilesStored(3)
    assert list(reported) == [3, 4, 5, 6]
    for index, failed in reported.items():
        alone = put(peer, b"/" + names[index - 1], b"")
        assert isinstance(alone, Failed)
        words = {"message": alone.message} if index == 6 else {}  # a name, and no path
        assert replace(failed, **words) == alone
    assert (reported[3].rule, reported[4].what, reported[4].needed) == ("/closed=none", "files", 1)


def test_the_digest_of_the_end_of_many_files_is_not_looked_at(server, dial, files):
    peer = dial(server)
    request = PutFiles([NewFiles(b"/", [new_file(b"a")])])
    assert put_files(peer, request, DATA, Sent(len(DATA), bytes(32))) == ({}, FilesStored(2))


@pytest.mark.parametrize("failing", [False, True], ids=["cancelled", "failed"])
def test_many_files_that_end_early_leave_what_was_there(server, dial, files, failing):
    (files / "file").write_bytes(b"as before")
    peer = dial(server)
    number = peer.request(
        PutFiles(
            [NewFiles(b"/", [new_file(b"file"), new_file(b"other")]), NewFiles(b"/d", [], 0o755)]
        )
    )
    peer.frame(Kind.DATA, number, DATA)
    if failing:
        peer.frame(Kind.END, number, Sent(len(DATA) * 2))
    else:
        peer.frame(Kind.DATA, number, DATA)
        peer.frame(Kind.CANCEL, number)
    assert answer(peer, number)[1].code == ("verification-failed" if failing else "cancelled")
    assert (files / "file").read_bytes() == b"as before"
    assert not (files / "other").exists() and not (files / "d").exists()


def test_what_failed_of_many_files_leaves_the_rest(server, dial, files):
    (files / "dir").mkdir()
    request = PutFiles([NewFiles(b"/", [new_file(name) for name in (b"a", b"dir", b"b")])])
    assert put_files(dial(server), request, DATA * 3) == ({2: "is-a-directory"}, FilesStored(3))
    assert (files / "a").read_bytes() == (files / "b").read_bytes() == DATA


def test_overwriting_and_parents_are_those_of_all_files(server, dial, files):
    (files / "old").write_bytes(b"old")
    os.utime(files / "old", ns=(TIME, TIME))
    peer = dial(server)
    for overwrite, code in (("never", "exists"), ("older", "not-newer")):
        request = PutFiles([NewFiles(b"/", [new_file(b"old")])], overwrite=overwrite)
        assert put_files(peer, request, DATA) == ({1: code}, FilesStored(1))
    assert put_files(peer, request.__class__([NewFiles(b"/", [new_file(b"old")])]), DATA)[0] == {}
    request = PutFiles([NewFiles(b"/d/e", [new_file(b"a", b"")])])
    assert put_files(peer, request, b"")[0] == {1: "not-found"}
    request = PutFiles([NewFiles(b"/d/e", [new_file(b"a", b"")])], parents=True)
    assert put_files(peer, request, b"")[0] == {}
    assert stat.S_IMODE((files / "d" / "e").stat().st_mode) == 0o755


def test_a_directory_is_made_for_many_files_as_by_make_dir(server, dial, files):
    (files / "closed").mkdir(0o500)
    peer = dial(server)
    request = PutFiles(
        [
            NewFiles(b"/closed", [new_file(b"a", b"")], 0o500),  # as with ``fill``
            NewFiles(b"/x/y", [new_file(b"a", b"", 0o6755)], 0o710),  # as with ``parents``
            NewFiles(b"/closed", [new_file(b"b", b"")]),
        ],
        [Finished(b"/closed", 0o500, TIME)],
    )
    number = peer.request(request)
    peer.frame(Kind.END, number, Sent(0))
    notice = peer.read()  # that setuid and setgid are dropped
    assert (notice.kind, notice.request_id) == (Kind.NOTICE, 0)
    assert "setuid" in notice.message.message
    assert peer.answer().message == FilesStored(7)
    modes = {"closed": 0o500, "x": 0o755, "x/y": 0o710, "x/y/a": 0o755}
    assert {name: stat.S_IMODE((files / name).stat().st_mode) for name in modes} == modes
    assert (files / "closed").stat().st_mtime_ns == TIME


def test_a_file_of_many_that_is_there_already_is_no_replacing(server, dial, files):
    server.accounts.change("alice", permissions=Permissions.parse("no-delete"))
    peer = dial(server)
    for _ in range(2):
        assert put_files(peer, PutFiles([NewFiles(b"/", [new_file(b"a")])]), DATA)[0] == {}
    other = PutFiles([NewFiles(b"/", [new_file(b"a", DATA[::-1])])])
    assert put_files(peer, other, DATA[::-1])[0] == {1: "forbidden"}
    assert (files / "a").read_bytes() == DATA


def test_what_many_files_replace_goes_to_the_trash(server, dial, files):
    peer = dial(server)
    assert put(peer, b"/a", b"old") == Stored(3)
    assert put_files(peer, PutFiles([NewFiles(b"/", [new_file(b"a")])]), DATA)[0] == {}
    number = peer.request(messages.ListTrash(items=True))
    (item,) = peer.answer().message.items
    assert (item.what, item.path, item.size) == ("replaced", b"/a", 3)
    assert peer.answer().request_id == number


def test_many_files_go_to_the_tree_that_is_under_way(server, dial, files):
    peer = dial(server)
    assert peer.ask(messages.BeginTree(b"/site")) == Done()
    request = PutFiles([NewFiles(b"/site/d", [new_file(b"a")], 0o755)])
    assert put_files(peer, request, DATA) == ({}, FilesStored(2))
    assert not (files / "site").exists()
    assert peer.ask(messages.EndTree()) == Done()
    assert (files / "site" / "d" / "a").read_bytes() == DATA


def test_many_files_that_wait_for_their_bytes_are_a_transfer(start_server, dial, monkeypatch):
    monkeypatch.setattr(exchange, "SHORT", 0.05)
    server = start_server(max_user_transfers=1, idle_timeout=0)
    first, second = dial(server), dial(server)
    number = first.request(Put(b"/large", 2**21, ask=True))
    assert isinstance(first.answer().message, messages.Ready)
    late = second.request(PutFiles([NewFiles(b"/", [new_file(b"a")])]))
    assert answer(second, late)[1].code == "too-many"
    second.frame(Kind.CANCEL, late)
    first.frame(Kind.CANCEL, number)
    assert first.answer().message.code == "cancelled"
    assert put_files(second, PutFiles([NewFiles(b"/", [new_file(b"a")])]), DATA)[0] == {}


# downloads ---------------------------------------------------------------------------------


def test_what_does_not_come_among_many_files_is_reported_by_get(server, dial, files):
    (files / "dir").mkdir()
    (files / "a").write_bytes(DATA)
    peer = dial(server)
    names = [(b"missing", 1), (b"dir", 1), (b"a", 1)]
    peer.request(GetFiles([WantedFiles(b"/", [WantedFile(*one) for one in names])]))
    assert peer.answer().message.files == [None] * 3
    assert peer.answer().message == Sent(0)
    for name, code in ((b"missing", "not-found"), (b"dir", "is-a-directory")):
        assert peer.ask(Get(b"/" + name)).code == code
    peer.request(Get(b"/a"))
    assert peer.answer().message.size == len(DATA)
    assert peer.answer().payload == DATA


def test_a_cancel_is_looked_for_about_every_64_files(server, dial, files, monkeypatch):
    looks = []
    look = Exchange.look_for_cancel
    monkeypatch.setattr(Exchange, "look_for_cancel", lambda one: (looks.append(1), look(one)))
    for name in ("a", "b"):
        (files / name).mkdir()
    peer = dial(server)
    directories = [
        WantedFiles(path, [WantedFile(b"%d" % number, 0) for number in range(count)])
        for path, count in ((b"/a", 64), (b"/b", 129), (b"/a", 1))
    ]
    peer.request(GetFiles(directories))
    reported = []
    while isinstance((found := peer.answer().message), SendingFiles):
        reported += found.files
    assert (reported, found) == ([None] * 194, Sent(0))
    assert len(looks) == 4  # before the first of each directory's first 64, and in the middle
