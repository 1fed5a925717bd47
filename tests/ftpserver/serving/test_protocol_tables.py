"""The tables of docs/protocol.md, row by row, against a server."""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack

from ftpclient.connection import driver, opening
from ftpserver.accounts import bans, limits
from ftpserver.accounts.bans import Bans
from ftpserver.serving import endings, exchange, keep_alive
from ftpserver.serving.commands import COMMANDS
from ftpserver.settings.table import Settings
from ftpserver.storage import batch, in_place, upload_locks
from ftpserver.storage.home import Home
from ftpserver.storage.operations import ANSWER_SECONDS
from ftpserver.storage.trash import directory, discarding
from ftpwire import digests, messages
from ftpwire.channel import keep_probing
from ftpwire.errors import Cancelled
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    ChangePassword,
    Copied,
    Copy,
    Done,
    DropKept,
    EndTree,
    Failed,
    Get,
    GetFiles,
    Hash,
    IssueToken,
    List,
    ListKept,
    ListTokens,
    ListTrash,
    LoggedIn,
    MakeDir,
    MakeLink,
    Move,
    NewFile,
    NewFiles,
    Operation,
    Progress,
    Purge,
    Put,
    PutFiles,
    PutPiece,
    Ready,
    Remove,
    Restore,
    RevokeToken,
    Sent,
    SetAttributes,
    Space,
    Stat,
    WantedFile,
    WantedFiles,
    WhoAmI,
)
from tests.peer import Peer, frame
from tests.protocol_document import claims, rows, section

MIB = 1024 * 1024
SMALL, LARGE = b"some bytes", bytes(range(256)) * 4096

# all requests ------------------------------------------------------------------------------

REQUESTS = {row[0].strip("`"): row[1:] for row in rows(section("All requests"))}
KIND_OF = {kind.__struct_config__.tag: kind for kind in COMMANDS}
NO, YES = "no", "yes"

SAMPLES = {
    "whoami": WhoAmI(),
    "change-password": ChangePassword("wrong", "another"),
    "issue-token": IssueToken("laptop"),
    "list-tokens": ListTokens(),
    "revoke-token": RevokeToken("id"),
    "space": Space(),
    "stat": Stat(b"/"),
    "list": List(b"/dir"),
    "hash": Hash(b"/large"),
    "get": Get(b"/large"),
    "put": Put(b"/new", len(SMALL)),
    "put-piece": PutPiece(bytes(16), 0, 1),
    "put-files": PutFiles(
        [NewFiles(b"/", [NewFile(b"new", len(SMALL), 0o644, 7, digests.digest(SMALL))])]
    ),
    "get-files": GetFiles([WantedFiles(b"/dir", [WantedFile(b"0", len(SMALL))])]),
    "list-kept": ListKept(),
    "drop-kept": DropKept(),
    "make-dir": MakeDir(b"/new"),
    "make-link": MakeLink(b"/new", b"target"),
    "set-attributes": SetAttributes(b"/dir", 0o700),
    "begin-tree": BeginTree(b"/new"),
    "end-tree": EndTree(),
    "remove": Remove(b"/dir", recursive=True, final=True),
    "move": Move(b"/dir", b"/new"),
    "copy": Copy(b"/dir", b"/new", recursive=True),
    "operation": Operation(bytes(8), "rm -r dir"),
    "list-trash": ListTrash(),
    "restore": Restore("0" * 16 + "-" + "0" * 8),
    "purge": Purge(),
}
AFTER_LOG_IN = sorted(SAMPLES)


def tag(kind: type) -> str:
    return kind.__struct_config__.tag


TAGS = {tag(kind) for answers in messages.ANSWERS.values() for kinds in answers for kind in kinds}


def named(text: str, among: Collection[str]) -> set[str]:
    """What a text names of some messages."""
    return set(re.findall(r"`([a-z-]+)`", text)) & set(among)


@pytest.mark.parametrize("op", sorted(KIND_OF))
def test_the_replies_that_a_request_s_section_names(op):
    answers, ending = messages.ANSWERS[KIND_OF[op]]
    [reply] = [claim for claim in claims(op) if re.search(r"\bRepl(y|ies): ", claim)]
    assert named(re.split(r"\bRepl(?:y|ies): ", reply)[1], TAGS) == set(
        map(tag, (*answers, *ending))
    )


@pytest.mark.parametrize("answer", sorted(TAGS - {"page", "listed", "sent"}))
def test_the_requests_that_an_answer_s_section_names(answer):
    found = re.search(r"(?i)\banswer to (.*?)(?:[.:]\s|$)", " ".join(section(answer).split()))
    assert found is not None
    requested = {
        op for op, kind in KIND_OF.items() if answer in map(tag, sum(messages.ANSWERS[kind], ()))
    }
    assert named(found[1], KIND_OF) == requested


@pytest.fixture
def watchful(monkeypatch):
    """Look for a CANCEL, and tell of progress, as often as can be."""
    monkeypatch.setattr(exchange, "_CANCEL_EVERY", 1)
    monkeypatch.setattr(exchange, "_PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(discarding, "_PART_SECONDS", 0.0)


@pytest.fixture
def stocked(files):
    (files / "dir").mkdir()
    for number in range(3):
        (files / "dir" / f"{number}").write_bytes(SMALL)
    (files / "large").write_bytes(LARGE)
    return files


@pytest.fixture
def far_apart(monkeypatch):
    """No directory can be moved at once, as between two file systems."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "")

    monkeypatch.setattr(Home, "move", refuse)
    monkeypatch.setattr(Home, "remove", refuse)


def test_every_request_has_a_row():
    assert set(REQUESTS) == set(KIND_OF)
    assert {op for op, row in REQUESTS.items() if row[5] == NO} == set(SAMPLES)


@pytest.mark.parametrize("op", sorted(KIND_OF))
def test_what_a_row_says_of_the_answers(op):
    before, last, batch, _, _, before_login = REQUESTS[op]
    command = COMMANDS[KIND_OF[op]]
    answers, ending = messages.ANSWERS[KIND_OF[op]]
    named = re.findall(r"(?:REPLY|END) `([a-z-]+)`", f"{before} {last}")
    assert sorted(named) == sorted(map(tag, (*answers, *ending)))
    assert last.startswith("END" if ending else "REPLY")
    assert command.ending == (bool(ending) and not command.batched)  # else the batch answers
    assert (batch != NO) == command.batched
    assert (before_login == YES) == command.before_login


def converse(peer: Peer, op: str, request: Any, *, cancelled: bool) -> tuple[Any, bool]:
    """Ask, with all that belongs to it; the final answer, and whether progress was told."""
    number = peer.request(request, cancelled=cancelled)
    if not cancelled and COMMANDS[KIND_OF[op]].takes_data and not getattr(request, "ask", False):
        peer.frame(Kind.DATA, number, SMALL)
        peer.frame(Kind.END, number, Sent(len(SMALL)))
    ending, reported = bool(messages.ANSWERS[KIND_OF[op]][1]), False
    while True:
        found = peer.read()
        if found.kind == Kind.NOTICE:
            reported = (
                reported or isinstance(found.message, Progress) and found.request_id == number
            )
        elif found.kind == Kind.REPLY and isinstance(found.message, Ready):
            peer.frame(Kind.DATA, number, LARGE)
            peer.frame(Kind.END, number, Sent(len(LARGE), digests.digest(LARGE)))
        elif found.kind in (Kind.ERROR, Kind.END) or found.kind == Kind.REPLY and not ending:
            assert found.request_id == number
            return found.message, reported


def is_cancelled(message: Any) -> bool:
    return isinstance(message, Failed) and message.code == "cancelled"


def begin(peer: Peer, op: str, files: Path) -> Any:
    """Make what a request needs to get far enough for a CANCEL or a notice; returns it."""
    if op in ("remove", "end-tree", "purge"):
        for number in range(300):
            (files / "dir" / f"more{number}").touch()
    if op in ("list-trash", "restore", "purge"):
        removed = peer.ask(Remove(b"/dir", recursive=True))
        assert removed.trashed
        return Restore(removed.operation) if op == "restore" else SAMPLES[op]
    if op == "end-tree":
        assert peer.ask(BeginTree(b"/dir")) == Done()
    return SAMPLES[op]


def keep_an_upload(server, dial) -> None:
    """Leave an upload behind that is kept."""
    with dial(server) as peer:
        number = peer.request(Put(b"/kept", 8 * MIB, mtime_ns=7, ask=True))
        assert isinstance(peer.answer().message, Ready)
        for _ in range(5):
            peer.frame(Kind.DATA, number, bytes(MIB))
        peer.frame(Kind.CANCEL, number)
        assert is_cancelled(peer.answer().message)


@pytest.mark.parametrize("op", AFTER_LOG_IN)
def test_what_a_row_says_of_cancel(server, dial, stocked, watchful, op):
    if op == "list-kept":
        keep_an_upload(server, dial)
    peer = dial(server)
    sample = begin(peer, op, stocked)
    if op == "put-piece":
        owner = dial(server)
        owner.request(Put(b"/new", 8 * MIB, mtime_ns=7, ask=True, pieces=True))
        ready = owner.answer().message
        found, _ = converse(peer, op, PutPiece(ready.key, 0, MIB), cancelled=True)
    else:
        found, _ = converse(peer, op, sample, cancelled=True)
    assert is_cancelled(found) == (REQUESTS[op][3] == YES)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


@pytest.mark.parametrize("op", ["remove", "move"])
def test_cancel_where_it_is_not_done_at_once(server, dial, stocked, watchful, far_apart, op):
    assert REQUESTS[op][3] == {"remove": "file by file", "move": "by copying"}[op]
    found, _ = converse(dial(server), op, SAMPLES[op], cancelled=True)
    assert is_cancelled(found)


@pytest.mark.parametrize("op", AFTER_LOG_IN)
def test_what_a_row_says_of_progress(server, dial, stocked, watchful, op):
    peer = dial(server)
    sample = begin(peer, op, stocked)
    _, reported = converse(peer, op, sample, cancelled=False)
    always = (YES, "of a tree, with `final`")
    assert reported == (REQUESTS[op][4] in always)


def fill_a_tree(peer: Peer) -> None:
    """Have a hidden tree with something in it."""
    assert peer.ask(BeginTree(b"/dir")) == Done()
    for number in range(300):
        assert peer.ask(MakeLink(b"/dir/%d" % number, b"target")) == Done()


@pytest.mark.parametrize(
    ("op", "request_", "condition"),
    [
        ("get", Get(b"/large", 10, digests.digest(LARGE[:10])), "with `prefix`"),
        ("remove", Remove(b"/large", final=True), "of a tree, with `final`"),
        ("remove", Remove(b"/dir", recursive=True), "of a tree, with `final`"),
        ("end-tree", EndTree(commit=False), "of what is purged"),
        ("move", Move(b"/dir", b"/new"), "by copying"),
        ("put", Put(b"/kept", 8 * MIB, mtime_ns=7, ask=True), "with `ask`"),
    ],
)
def test_progress_on_a_condition(server, dial, stocked, watchful, request, op, request_, condition):
    assert REQUESTS[op][4] == condition
    if op == "put":
        keep_an_upload(server, dial)
    if op == "move":
        request.getfixturevalue("far_apart")
    peer = dial(server)
    if op == "end-tree":
        fill_a_tree(peer)
    _, reported = converse(peer, op, request_, cancelled=False)
    assert reported == (op != "remove")


# sizes and digests of downloads ------------------------------------------------------------

DOWNLOADS = rows(section("Sizes and digests"))
OFFSETS = [1, 600_000, len(LARGE) - 1, len(LARGE), 2**40]
MISSING = b"\x01" * 32


def download(peer: Peer, request: Get) -> tuple[Any, bytes, Any]:
    number = peer.request(request)
    sending, data = peer.answer(), b""
    while (found := peer.answer()).kind == Kind.DATA:
        data += found.payload
    assert (sending.request_id, found.kind) == (number, Kind.END), found
    return sending.message, data, found.message


def test_downloads_have_a_row_for_each_way():
    ways = {(row[0], row[1]) for row in DOWNLOADS}
    assert len(ways) == len(DOWNLOADS) == 14


@pytest.mark.usefixtures("client_is_local")
@pytest.mark.parametrize("row", DOWNLOADS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_sizes_and_digests_of_downloads(server, dial, files, row):
    way, stored, offset_cell, count_cell, size_cell, digest_cell = row
    peer = dial(server)
    (files / "large").write_bytes(LARGE)
    whole = digests.digest(LARGE)
    if stored == YES:
        assert peer.ask(Hash(b"/large")).digest == whole
    try:
        os.getxattr(files / "large", digests.ATTRIBUTE)
    except OSError as error:
        if stored == YES and error.errno == errno.ENOTSUP:
            pytest.skip("this file system keeps no attributes")
        assert stored == NO
    offsets = OFFSETS if "offset" in way else [0]
    if "agrees" in way:
        offsets = [offset for offset in offsets if offset <= len(LARGE)]
    lengths = [0, 7, 2**40] if "length" in way else [None]
    for offset, length in itertools.product(offsets, lengths):
        prefix = None
        if "prefix" in way:
            prefix = digests.digest(LARGE[:offset]) if "agrees" in way else MISSING
        sending, data, sent = download(peer, Get(b"/large", offset, prefix, length))
        reported = {"0": 0, "`offset`": offset, "`offset`, at most S": min(offset, sending.size)}
        assert sending.size == len(LARGE)
        assert sending.offset == reported[offset_cell]
        rest = sending.size - sending.offset
        counts = {"S": sending.size, "S − `sending.offset`": rest, "S − `offset`": rest}
        if count_cell == "at most `length`":
            assert len(data) == min(length, rest)
        else:
            assert len(data) == counts[count_cell] == rest
        assert data == LARGE[sending.offset : sending.offset + len(data)]
        assert size_cell == "S" and sent.size == sending.size
        assert sent.digest == (None if digest_cell == "nil" else whole)


# what is left ------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch):
    """Small batches, and a look for a CANCEL after each file: little work has several steps."""
    monkeypatch.setattr(batch, "BATCH_FILES", 4)
    monkeypatch.setattr(in_place, "_STEP", 4)


def is_cancelled_after(monkeypatch, looks: int) -> None:
    """The server finds a CANCEL when it has looked so often."""
    count = itertools.count()

    def look(self: exchange.Exchange) -> None:
        if next(count) == looks:
            raise Cancelled("cancelled")

    monkeypatch.setattr(exchange, "_CANCEL_EVERY", 1)
    monkeypatch.setattr(exchange.Exchange, "look_for_cancel", look)


def make_tree(files: Path) -> None:
    for number in range(10):
        directory = files / "from" / f"dir{number}"
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(LARGE)
        directory.chmod(0o750)
        os.utime(directory, (1, 1))


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_cancelled_copy_of_a_tree_leaves_whole_files(server, dial, files, monkeypatch, steps):
    make_tree(files)
    peer, request = dial(server), Copy(b"/from", b"/to", recursive=True)
    with monkeypatch.context() as patch:
        is_cancelled_after(patch, 20)
        assert is_cancelled(peer.ask(request))
    left = files_in(files / "to")
    assert 0 < len(left) < 10
    assert all(path.read_bytes() == LARGE for path in left)
    made = [path for path in (files / "to").iterdir()]
    assert made and all(path.stat().st_mtime != 1 for path in made), "not yet what it is to be"
    assert all(path.stat().st_mode & 0o700 == 0o700 for path in made)
    assert server.accounts.get("alice").held == 0
    again = peer.ask(request)
    assert isinstance(again, Copied) and (again.files, again.problems) == (10, [])
    assert all((path.stat().st_mtime, path.stat().st_mode & 0o777) == (1, 0o750) for path in made)


def test_a_copy_that_ends_for_want_of_space_leaves_what_was_copied(start_server, dial, steps):
    server = start_server(quota=4 * MIB + MIB // 2)
    files = server.settings.root / "alice"
    make_tree(files)
    peer = dial(server)
    answer = peer.ask(Copy(b"/from", b"/to", recursive=True))
    assert answer.code == "quota"
    left = files_in(files / "to")
    assert 0 < len(left) <= 4 and all(path.read_bytes() == LARGE for path in left)
    for path in (files / "to").iterdir():
        assert (path.stat().st_mtime, path.stat().st_mode & 0o777) == (1, 0o750)


def test_a_cancelled_removal_leaves_the_rest(server, dial, files, monkeypatch, far_apart, steps):
    make_tree(files)
    peer, request = dial(server), Remove(b"/from", recursive=True)
    with monkeypatch.context() as patch:
        is_cancelled_after(patch, 3)
        number = peer.request(request)
        remark, answer = peer.read(), peer.read()
    assert (answer.request_id, is_cancelled(answer.message)) == (number, True)
    assert "run the same command again" in remark.message.message
    left = files_in(files / "from")
    assert 0 < len(left) < 10 and all(path.read_bytes() == LARGE for path in left)
    assert peer.ask(request).files == len(left)
    assert not (files / "from").exists()


def test_a_cancelled_move_leaves_the_source(server, dial, files, monkeypatch, steps):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "")

    make_tree(files)
    peer = dial(server)
    with monkeypatch.context() as patch:
        patch.setattr(Home, "move", refuse)
        is_cancelled_after(patch, 6)
        assert is_cancelled(peer.ask(Move(b"/from", b"/to")))
    assert len(files_in(files / "from")) == 10
    assert not (files / "to").exists()


def test_a_removal_at_once_is_not_cancelled(server, dial, files, watchful):
    make_tree(files)
    request = Remove(b"/from", recursive=True, final=True)
    found, _ = converse(dial(server), "remove", request, cancelled=True)
    assert (found.files, found.directories) == (10, 11)
    assert not (files / "from").exists()


@pytest.mark.parametrize("failing", [False, True], ids=["cancelled", "failed"])
def test_an_upload_that_ends_early_leaves_what_was_there(server, dial, files, failing):
    (files / "file").write_bytes(b"as before")
    peer = dial(server)
    number = peer.request(Put(b"/file", len(SMALL)))
    peer.frame(Kind.DATA, number, SMALL)
    if failing:
        peer.frame(Kind.END, number, Sent(len(SMALL), MISSING))
    else:
        peer.frame(Kind.CANCEL, number)
    code = "verification-failed" if failing else "cancelled"
    assert peer.answer().message.code == code
    assert (files / "file").read_bytes() == b"as before"


# values ------------------------------------------------------------------------------------

PUT = {"op": "put", "path": b"/file", "size": len(SMALL)}


def bad(value: object = None, *, packed: bytes | None = None) -> bytes:
    return frame(Kind.REQUEST, 5, packed or msgpack.encode(value))


def test_integers_have_64_bits(server, dial, files):
    peer = dial(server)
    assert peer.ask(MakeDir(b"/dir")) == Done()
    for time in (2**53 + 1, 1_700_000_000_123_456_789):
        assert peer.ask(SetAttributes(b"/dir", mtime_ns=time)) == Done()
        assert peer.ask(Stat(b"/dir")).entry.mtime_ns == time
    peer.send(bad({"op": "set-attributes", "path": b"/dir", "mtime_ns": 1.7e18}))
    assert peer.answer().message.code == "bad-request"


@pytest.mark.parametrize("character", ["x", "é", "𝄞", "e\u0301"[1]])
def test_characters_are_code_points(server, dial, character):
    peer = dial(server)
    assert isinstance(peer.ask(IssueToken(character * 64)), messages.TokenIssued)
    assert peer.ask(messages.ListTokens()).tokens[-1].name == character * 64
    peer.send(bad({"op": "issue-token", "name": character * 65}))
    assert peer.answer().message.code == "bad-request"


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(b"\x82\xa2op\xa6whoami\xa2\xff\xfe\x01", id="a-key-that-is-no-utf-8"),
        pytest.param(b"\x82\xa2op\xa6whoami\x01\x02", id="a-key-that-is-a-number"),
        pytest.param(b"\x82\xa2op\xa6whoami\xc4\x01x\x02", id="a-key-that-is-bin"),
        pytest.param(b"\x81\xa2op\xa6whoami\xc0", id="something-behind"),
    ],
)
def test_what_is_no_map_of_strings_ends_the_connection(server, dial, packed):
    peer = dial(server)
    peer.send(bad(packed=packed))
    last = peer.read_to_end()[-1]
    assert (last.kind, last.request_id, last.message.code) == (Kind.ERROR, 0, "bad-message")


def test_a_value_that_is_no_utf_8_fails_alone(server, dial):
    peer = dial(server)
    peer.send(bad(packed=b"\x82\xa2op\xabissue-token\xa4name\xa2\xff\xfe"))
    assert peer.answer().message.code == "bad-request"
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_of_a_key_twice_the_last_counts(server, dial, files):
    (files / "b").touch()
    peer = dial(server)
    peer.send(bad(packed=b"\x83\xa2op\xa4stat\xa4path\xc4\x02/a\xa4path\xc4\x02/b"))
    assert peer.answer().message.entry.path == b"/b"


@pytest.mark.parametrize("levels", [1, 32, 33, 1000])
def test_unknown_keys_may_be_nested_32_levels_deep(server, dial, levels):
    assert "at most 32 levels deep" in " ".join(section("Payloads").split())
    peer = dial(server)
    packed = b"\x82\xa2op\xa6whoami\xa3new" + b"\x91" * (levels - 1) + b"\x90"
    peer.send(bad(packed=packed))
    found = peer.answer().message
    if levels <= 32:
        assert found == LoggedIn("alice")
    else:
        assert found.code == "bad-request"
        assert peer.ask(WhoAmI()) == LoggedIn("alice")


# paths, and an odd HELLO -------------------------------------------------------------------


def code_of(peer: Peer, path: bytes) -> str | None:
    """The error that a path gets; None: it is found."""
    peer.send(bad({"op": "stat", "path": path}))
    return getattr(peer.answer().message, "code", None)


def test_paths_are_as_the_text_says(server, dial, files):
    (files / "a").mkdir()
    (files / "a" / "b").touch()
    (files / "b").touch()
    (files / "link").symlink_to("/a")
    peer = dial(server)
    for path in (b"//a/./b/", b"/a/../b", b"/link/../b", b"/missing/../b", b"/../b", b"/link/b"):
        assert code_of(peer, path) is None, path
    for path in (b"/" + b"n" * 255, b"/n" * 255, b"/" * 4095 + b"n"):
        assert code_of(peer, path) == "not-found", path
    staging = [b"/.ftpd-staging", b"/a/.ftpd-staging/b"]
    for path in (b"/" + b"n" * 256, b"/n" * 256, b"b", b"./b", b"/b\0", *staging):
        assert code_of(peer, path) == "invalid-path", path
    for path in (b"", b"/" * 4097):
        assert code_of(peer, path) == "bad-request", path


def test_a_hello_with_another_id_is_answered_with_it(server, dial):
    peer = dial(server, logged_in=False)
    peer.frame(Kind.REQUEST, 7, messages.encode_hello(messages.Hello()))
    answer = peer.read()
    assert (answer.kind, answer.request_id) == (Kind.REPLY, 7)


@pytest.mark.parametrize(("requested", "largest"), [(1, 1024), (1023, 1024), (0, 512 * 1024)])
def test_small_numbers_in_hello_count_as_more(start_server, dial, requested, largest):
    server = start_server()
    home = server.settings.root / "alice"
    home.mkdir(exist_ok=True)
    (home / "large").write_bytes(bytes(4 * MIB if largest > MIB // 4 else 4096))
    peer = dial(server, logged_in=False)
    peer.hello(max_data=requested)
    assert peer.ask(messages.Login("alice", "secret")) == LoggedIn("alice")
    peer.request(Get(b"/large"))
    peer.answer()
    sizes = []
    while (found := peer.answer()).kind == Kind.DATA:
        sizes.append(len(found.payload))
    assert max(sizes) == largest


# deadlines ---------------------------------------------------------------------------------


DEFAULTS = Settings(root=Path("/"))

DEADLINES = {
    "from the TCP connection": [DEFAULTS.login_grace],
    "the rest of a frame": [DEFAULTS.stall],
    "the rest of a TLS record": [],
    "inside an upload: the next frame": [DEFAULTS.stall],
    "after a `ready`": [1, DEFAULTS.stall],
    "inside a DATA frame": [DEFAULTS.stall],
    "after a refused upload": [DEFAULTS.stall],
    "inside an upload: empty DATA": [],
    "a client that does not read": [
        DEFAULTS.stall,
        1,
        exchange._ZEROS_A_SECOND / 2**20,
        exchange._HASHES_SECONDS,
    ],
    "between requests": [],
    "from an ERROR": [endings.LAST_WORDS],
    "running requests": [DEFAULTS.grace],
    "TCP connection, TLS": [opening.CONNECT_SECONDS],
    "nothing at all": [DEFAULTS.stall, driver.STALL_SECONDS],
    "two signs of life": [keep_alive.PROGRESS_SECONDS],
    "two `progress`": [exchange._PROGRESS_SECONDS],
    "an interrupted upload": [DEFAULTS.staging_seconds, DEFAULTS.staging_seconds / 86400],
    "an upload that is taken over": [upload_locks.PATIENCE],
    "an answer to a numbered request": [ANSWER_SECONDS, ANSWER_SECONDS / 60],
    "what is in the trash": [DEFAULTS.trash_days * 86400, DEFAULTS.trash_days],
    "an operation of the trash": [directory.PATIENCE],
    "the answer to a refused": [0, 0, 0.25, 0.5, 1, 2, 4, bans._LONGEST_DELAY],
    "the answer `banned`": [limits.BANNED_DELAY, limits.BUSY_DELAY],
    "a peer without traffic": [30, 3, 10],
}
"""The numbers of each row. That they hold is shown where the deadlines are tested."""


def test_the_deadlines_have_the_numbers_that_hold(engine):
    reported = {
        row[0]: [float(n) for n in re.findall(r"[0-9.]*[0-9]", row[1])]
        for row in rows(section("Deadlines"))
    }
    assert len(reported) == len(DEADLINES)
    for what, numbers in DEADLINES.items():
        [found] = [cell for start, cell in reported.items() if start.startswith(what)]
        assert found == numbers, what
    kept = Bans(engine, 1000, 600)
    delays = []
    for _ in range(9):
        kept.failed("192.0.2.1", "alice")
        delays.append(kept.delay("192.0.2.1"))
    numbers = DEADLINES["the answer to a refused"]
    assert delays == [*numbers, numbers[-1]]


def test_the_probes_of_tcp_are_those_of_the_document(server, dial):
    """Of the client's side, which is set up by the same function."""
    peer = dial(server)
    keep_probing(peer.socket)
    options = ("TCP_KEEPIDLE", "TCP_KEEPCNT", "TCP_KEEPINTVL")
    numbers = [
        peer.socket.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in options
    ]
    assert numbers == DEADLINES["a peer without traffic"]
