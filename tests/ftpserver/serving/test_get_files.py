"""Many small files in one request, from the server: what is sent and left out, what is told."""

from __future__ import annotations

import json
import os

import pytest

from ftpserver.audit.files import FILE_NAME
from ftpserver.serving.opening import FEATURES
from ftpserver.storage.permissions import Permissions
from ftpwire import digests, messages
from ftpwire.digests import StoredDigest
from ftpwire.frames import Kind
from ftpwire.messages import (
    MAX_BYTES,
    MAX_ITEMS,
    Get,
    GetFiles,
    Login,
    SentFile,
    WantedFile,
    WantedFiles,
)
from tests.peer import eventually

TIME = 1_600_000_000_123_456_789


def make(place, data: bytes = b"some bytes", *, mode: int = 0o640):
    place.write_bytes(data)
    place.chmod(mode)
    os.utime(place, ns=(TIME, TIME))
    return place


def wanted(path: bytes, *files: tuple[bytes, int]) -> WantedFiles:
    return WantedFiles(path, [WantedFile(*file) for file in files])


def got(peer, *directories: WantedFiles):
    """What is told of each file, all bytes, and the last message; and the frames' sizes."""
    number = peer.request(GetFiles(list(directories)))
    reported, data, sizes = [], b"", []
    while True:
        frame = peer.read()
        assert frame.request_id == number
        if frame.kind == Kind.REPLY:
            assert not data
            reported += frame.message.files
            sizes.append(len(frame.payload))
        elif frame.kind == Kind.DATA:
            data += frame.payload
        else:
            return reported, data, frame.message, sizes


def sent(data: bytes, mode: int = 0o640) -> SentFile:
    return SentFile(mode, TIME, digests.digest(data))


def test_the_server_names_the_feature():
    assert messages.MANY_FILES in FEATURES


def test_files_of_several_directories_come_in_the_order_asked_for(server, files, dial):
    (files / "a").mkdir()
    make(files / "a" / "one", b"1")
    make(files / "a" / "two", b"22", mode=0o755)
    make(files / "empty", b"")
    peer = dial(server)
    reported, data, end, _ = got(
        peer,
        wanted(b"/a", (b"two", 2), (b"one", 1)),
        wanted(b"/", (b"empty", 0)),
        wanted(b"/a/../a", (b"one", 1)),
    )
    assert reported == [sent(b"22", 0o755), sent(b"1"), sent(b""), sent(b"1")]
    assert data == b"2211"
    assert (end.size, end.digest) == (4, None)


def test_what_is_not_as_it_was_asked_for_does_not_come(server, files, dial):
    (files / "a" / "dir").mkdir(parents=True)
    make(files / "a" / "there", b"there")
    make(files / "a" / "longer", b"12345")
    make(files / "a" / "shorter", b"1")
    os.mkfifo(files / "a" / "fifo")
    (files / "a" / "link").symlink_to("there")
    make(files / "a" / "closed", b"12")
    damaged = make(files / "a" / "damaged", b"damaged")
    os.setxattr(damaged, digests.ATTRIBUTE, StoredDigest(bytes(32), 7, TIME).pack())
    stale = make(files / "a" / "stale", b"stale")
    os.setxattr(stale, digests.ATTRIBUTE, StoredDigest(bytes(32), 7, TIME - 1).pack())
    requested = [
        *((b"dir", 0), (b"longer", 4), (b"shorter", 2), (b"fifo", 0), (b"link", 5)),
        *((b"missing", 0), (b"damaged", 7), (b".ftpd-staging", 0), (b".ftpd-trash", 0)),
        *((b"..", 0), (b".", 0), (b"there/", 5), (b"/", 0), (b"the\0re", 5), (b"dir/..", 0)),
    ]
    reported, data, end, _ = got(
        dial(server),
        wanted(b"/a", *requested, (b"there", 5), (b"stale", 5)),
        wanted(b"/x", (b"y", 1)),
    )
    assert reported == [None] * len(requested) + [sent(b"there"), sent(b"stale"), None]
    assert data == b"therestale" and end.size == 10


@pytest.mark.parametrize(
    "path", [b"/.ftpd-staging", b"/a/.ftpd-trash", b"/missing", b"/file", b"/a\0b", b"relative"]
)
def test_what_is_no_directory_has_no_files(server, files, dial, path):
    make(files / "file")
    (files / "a").mkdir()
    reported, data, _, _ = got(
        dial(server), wanted(path, (b"file", 10)), wanted(b"/", (b"file", 10))
    )
    assert reported == [None, sent(b"some bytes")] and data == b"some bytes"


def test_a_link_to_a_directory_in_the_home_is_followed_and_none_leads_out(
    server, files, dial, tmp_path
):
    (files / "a").mkdir()
    make(files / "a" / "file")
    (files / "inside").symlink_to("a")
    (tmp_path / "outside").mkdir()
    make(tmp_path / "outside" / "file")
    (files / "out").symlink_to(tmp_path / "outside")
    reported, _, _, _ = got(
        dial(server), wanted(b"/inside", (b"file", 10)), wanted(b"/out", (b"file", 10))
    )
    assert reported == [sent(b"some bytes"), None]


def test_too_much_is_refused_before_anything_is_read(server, files, dial):
    make(files / "large", bytes(MAX_BYTES))
    peer = dial(server)
    for directories in (
        [wanted(b"/", (b"large", MAX_BYTES), (b"large", 1))],
        [wanted(b"/", (b"large", 2**63 - 1), (b"large", 2**63 - 1))],
        [wanted(b"/", *[(b"x", 0)] * (MAX_ITEMS // 2))] * 2,
    ):
        _, _, end, _ = got(peer, *directories)
        assert end.code == "bad-request"
    reported, data, _, _ = got(peer, wanted(b"/", (b"large", MAX_BYTES)))
    assert reported == [sent(bytes(MAX_BYTES))] and len(data) == MAX_BYTES


def test_each_answer_fits_what_the_client_takes(server, files, dial):
    for number in range(200):
        make(files / f"{number}", b"x" * 30)
    peer = dial(server, logged_in=False)
    peer.hello(max_control=1024, max_data=1024)
    peer.ask(Login("alice", "secret"))
    reported, data, end, sizes = got(
        peer, wanted(b"/", *((f"{number}".encode(), 30) for number in range(200)))
    )
    assert reported == [sent(b"x" * 30)] * 200 and len(data) == end.size == 6000
    assert max(sizes) <= 1024


def test_nothing_asked_for_is_answered_with_nothing(server, dial):
    assert got(dial(server))[:2] == ([], b"")
    assert got(dial(server), wanted(b"/"))[:2] == ([], b"")


@pytest.mark.parametrize("rules", ["all /closed=none", "all /closed=upload-only"])
def test_what_may_not_be_read_does_not_come(server, files, dial, rules):
    server.accounts.change("alice", permissions=Permissions.parse(rules))
    for name in ("open", "closed"):
        (files / name).mkdir()
        make(files / name / "file")
    (files / "closed" / "deeper").mkdir()
    make(files / "closed" / "deeper" / "file")
    (files / "way-in").symlink_to("closed")
    (files / "open" / "way-in").symlink_to("../closed/file")
    (files / "way-to-open").symlink_to("open")
    one = (b"file", 10)
    reported, _, _, _ = got(
        dial(server),
        wanted(b"/open", one, (b"way-in", 10)),
        wanted(b"/closed", one),
        wanted(b"/closed/deeper", one),
        wanted(b"/way-in", one),
        wanted(b"/open/../closed", one),
        wanted(b"/way-to-open", one),
    )
    assert reported == [sent(b"some bytes"), None, None, None, None, None, sent(b"some bytes")]


def test_a_rule_for_one_file_holds(server, files, dial):
    server.accounts.change("alice", permissions=Permissions.parse("all /a/secret=none"))
    (files / "a").mkdir()
    make(files / "a" / "secret")
    make(files / "a" / "file")
    reported, _, _, _ = got(dial(server), wanted(b"/a", (b"secret", 10), (b"file", 10)))
    assert reported == [None, sent(b"some bytes")]


def test_a_tree_that_is_on_its_way_is_not_seen_yet(server, files, dial):
    (files / "t").mkdir()
    make(files / "t" / "file", b"before")
    peer = dial(server)
    peer.ask(messages.BeginTree(b"/t"))
    reported, data, _, _ = got(peer, wanted(b"/t", (b"file", 6)))
    assert reported == [sent(b"before")] and data == b"before"
    assert isinstance(peer.ask(messages.EndTree(commit=False)), messages.Done)


def test_it_can_be_cancelled(server, files, dial):
    make(files / "file")
    peer = dial(server)
    peer.request(GetFiles([wanted(b"/", (b"file", 10))]), cancelled=True)
    frame = peer.answer()
    assert (frame.kind, frame.message.code) == (Kind.ERROR, "cancelled")
    assert got(peer, wanted(b"/", (b"file", 10)))[1] == b"some bytes"


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_the_audit_log_has_the_lines_that_as_many_gets_would_have(
    start_server, dial, isolation, tmp_path
):
    server = start_server(isolation=isolation)
    files = server.settings.root / "alice"
    names = [b"plain", b".hidden", b'quo"te', "\u00e9".encode(), b"no\xffutf8"]
    for name in names:
        (files / os.fsdecode(name)).write_bytes(name)
    peer = dial(server)
    for name in names:
        peer.request(Get(b"/" + name))
        while peer.answer().kind != Kind.END:
            pass
    many = [(b"missing", 0), *((name, len(name)) for name in names)]
    reported, _, _, _ = got(peer, wanted(b"/", *many))
    assert [one is None for one in reported] == [True] + [False] * len(names)
    assert got(peer, wanted(b"/", (b"plain", 2**40)))[2].code == "bad-request"
    peer.close()
    eventually(lambda: not server.service.sessions)
    start_server.finish(server)
    log = (server.settings.state / FILE_NAME).read_text().splitlines()
    found = [one for one in map(json.loads, log) if one["event"] == "get"]
    *lines, refusal = [
        {name: value for name, value in one.items() if name not in ("time", "seconds")}
        for one in found
    ]
    assert len(lines) == 2 * len(names) and lines[: len(names)] == lines[len(names) :]
    assert (refusal["outcome"], refusal["code"], refusal["files"]) == ("failed", "bad-request", 1)


def test_a_transfer_under_way_counts(server, files, dial):
    """A client that takes nothing of it keeps it under way."""
    make(files / "large", os.urandom(MAX_BYTES))
    peer = dial(server, buffers=4096)
    for _ in range(40):
        peer.request(GetFiles([wanted(b"/", (b"large", MAX_BYTES))]))
    eventually(lambda: server.service.stats().transfers == 1)
