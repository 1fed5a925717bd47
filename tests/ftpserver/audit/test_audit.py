"""The audit log: what is recorded of what happens, and what it survives."""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
import threading
from ipaddress import ip_network
from types import SimpleNamespace

import msgspec
import pytest

from ftpserver.accounts.invitations import Invitations
from ftpserver.audit import administration, allowances, files, writer
from ftpserver.audit.administration import administered
from ftpserver.audit.files import FILE_NAME, open_to_append
from ftpserver.audit.record import Record, line_of, shown, timestamp
from ftpserver.audit.writer import Audit
from ftpserver.serving.exchange import Exchange
from ftpserver.storage import in_place
from ftpserver.storage.home import Home
from ftpwire import digests, messages
from ftpwire.errors import Cancelled, ConnectionLost
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copy,
    Done,
    EndTree,
    Failed,
    Get,
    IssueToken,
    List,
    LoggedIn,
    Login,
    MakeDir,
    MakeLink,
    Move,
    Put,
    Register,
    Remove,
    Removed,
    Sent,
    SetAttributes,
    Space,
    Stat,
    Stored,
)
from tests.peer import eventually, frame


def records(directory) -> list[dict]:
    """What the current file has."""
    return [json.loads(line) for line in (directory / FILE_NAME).read_text().splitlines()]


@pytest.fixture
def audit(tmp_path):
    """Opens audit logs; they are closed in the end."""
    opened = []

    def make(size: int = 2**20, keep: int = 2) -> Audit:
        opened.append(Audit(tmp_path, size=size, keep=keep))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def events(server, start_server):
    """Ends peers and server, and gives what was recorded between its start and its stop."""

    def read(*peers) -> list[dict]:
        for peer in peers:
            peer.close()
        eventually(lambda: not server.service.sessions)
        start_server.finish(server)
        found = records(server.settings.state)
        assert of(found, "start")["details"] == {"address": server.address}
        assert of(found, "stop")["outcome"] == "ok"
        return [record for record in found if record["event"] not in ("start", "stop")]

    return read


def of(found: list[dict], event: str) -> dict:
    (one,) = [record for record in found if record["event"] == event]
    return one


def put(peer, path: bytes, data: bytes = b"data", **options) -> object:
    digest = digests.digest(data)
    peer.send(
        frame(Kind.REQUEST, 77, Put(path, len(data), **options)),
        frame(Kind.DATA, 77, data),
        frame(Kind.END, 77, Sent(len(data), digest)),
    )
    return peer.answer().message


# what is recorded ----------------------------------------------------------------------------


def test_what_was_not_understood_is_recorded_as_what_it_was_to_be(server, dial, events):
    """In the order of a batch, and only what would be recorded if it failed otherwise."""
    peer = dial(server)
    for message in (
        {"op": "put", "path": b"/bad", "mode": 4096},
        {"op": "get", "offset": 5},
        {"op": "stat", "path": 5},
        {"op": "format-disk"},
    ):
        request = Put(b"/before", 0)
        digest = digests.digest(b"")
        peer.send(
            frame(Kind.REQUEST, 1, request),
            frame(Kind.END, 1, Sent(0, digest)),
            frame(Kind.REQUEST, 2, msgspec.msgpack.encode(message)),
            frame(Kind.CANCEL, 2),
            frame(Kind.REQUEST, 3, Put(b"/after", 0)),
            frame(Kind.END, 3, Sent(0, digest)),
        )
        assert [peer.answer().request_id for _ in range(3)] == [1, 2, 3]
    found = [one for one in events(peer) if one["event"] not in ("login", "logout")]
    bad = [one for one in found if one["outcome"] != "ok"]
    assert [(one["event"], one.get("path"), one["code"]) for one in bad] == [
        ("put", "/bad", "bad-request"),
        ("get", None, "bad-request"),
    ]
    assert bad[0]["reason"] == "put: mode must be an integer from 0 to 4095"
    assert [one["path"] for one in found if one["outcome"] == "ok"] == ["/before", "/after"] * 4


def test_a_session_from_log_in_to_log_out(server, dial, events):
    login, logout = events(dial(server))
    assert login["event"] == "login" and login["outcome"] == "ok"
    assert login["user"] == "alice" and login["address"] == "127.0.0.1"
    assert login["details"] == {"with": "password"}
    assert logout["event"] == "logout" and logout["user"] == "alice"
    assert logout["session"] == login["session"]
    assert logout["seconds"] >= 0
    assert "password" not in login or "secret" not in json.dumps(login)


def test_what_is_done_with_files(server, dial, events):
    peer = dial(server)
    assert put(peer, b"/file", b"12345") == Stored(5)
    peer.request(Get(b"/file"))
    while peer.answer().kind != Kind.END:
        pass
    peer.ask(MakeDir(b"/dir", 0o755))
    peer.ask(MakeLink(b"/link", b"some/where"))
    peer.ask(SetAttributes(b"/dir", mode=0o700))
    peer.ask(Copy(b"/file", b"/copy"))
    peer.ask(Move(b"/copy", b"/moved"))
    peer.ask(Remove(b"/moved"))
    peer.ask(Stat(b"/file"))
    found = events(peer)
    digest = digests.digest(b"12345").hex()
    stored = of(found, "put")
    assert (stored["path"], stored["bytes"], stored["digest"]) == ("/file", 5, digest)
    assert stored["outcome"] == "ok" and stored["seconds"] >= 0 and stored["time"][-1] == "Z"
    fetched = of(found, "get")
    assert (fetched["path"], fetched["bytes"], fetched["digest"]) == ("/file", 5, digest)
    assert of(found, "mkdir")["path"] == "/dir"
    link = of(found, "link")
    assert (link["path"], link["target"]) == ("/link", "some/where")
    assert of(found, "attributes")["details"] == {"mode": "700"}
    copied = of(found, "copy")
    assert (copied["path"], copied["target"], copied["bytes"]) == ("/file", "/copy", 5)
    moved = of(found, "move")
    assert (moved["path"], moved["target"]) == ("/copy", "/moved")
    removed = of(found, "remove")
    assert (removed["path"], removed["bytes"], removed["files"]) == ("/moved", 5, 1)
    assert {record["user"] for record in found} == {"alice"}
    assert "stat" not in {record["event"] for record in found}


def a_tree(files) -> None:
    """/tree with three files of 3, 4 and 5 bytes, and /tree/sub."""
    (files / "tree" / "sub").mkdir(parents=True)
    for name, size in (("one", 3), ("two", 4), ("sub/three", 5)):
        (files / "tree" / name).write_bytes(bytes(size))


def test_a_tree_that_was_removed_is_one_record(server, dial, files, events):
    a_tree(files)
    peer = dial(server)
    assert isinstance(peer.ask(Remove(b"/tree", recursive=True, final=True)), Removed)
    removed = of(events(peer), "remove")
    assert (removed["path"], removed["files"], removed["bytes"]) == ("/tree", 5, 12)
    assert removed["outcome"] == "ok" and "operation" not in removed


def test_how_much_a_tree_in_the_trash_is_comes_later(server, dial, files, events):
    """When it is counted, as for who asks for the room."""
    a_tree(files)
    peer = dial(server)
    operation = peer.ask(Remove(b"/tree", recursive=True)).operation
    peer.ask(Space())
    found = events(peer)
    removed, measured = of(found, "remove"), of(found, "measured")
    assert (removed["path"], removed["operation"]) == ("/tree", operation)
    assert not {"files", "bytes"} & set(removed)
    assert (measured["path"], measured["operation"]) == ("/tree", operation)
    assert (measured["files"], measured["bytes"]) == (5, 12)


def test_what_was_restored_and_purged_is_recorded(server, dial, files, events):
    (files / "file").write_bytes(b"data")
    (files / "gone").write_bytes(b"bytes")
    peer = dial(server)
    for path in (b"/file", b"/gone"):
        assert peer.ask(messages.Operation(path.ljust(8)[:8])) == Done()
        removed = peer.ask(Remove(path))
        if path == b"/file":
            look = messages.Restore(removed.operation, look=True)
            assert peer.ask(look).items == 1
            restored = peer.ask(messages.Restore(removed.operation))
            assert restored.items == 1
            first = removed.operation
    purged = peer.ask(messages.Purge(removed.operation))
    assert (purged.files, purged.size_bytes) == (1, 5)
    found = events(peer)
    restore, purge = of(found, "restore"), of(found, "purge")
    assert (restore["operation"], restore["path"], restore["files"]) == (first, "/file", 1)
    assert restore["details"] == {"by": restored.operation}
    assert (purge["operation"], purge["files"], purge["bytes"]) == (removed.operation, 1, 5)


def test_what_was_evicted_for_space_is_recorded(start_server, dial):
    server = start_server(quota=100)
    peer = dial(server)
    assert put(peer, b"/old", b"x" * 60) == Stored(60)
    removed = peer.ask(Remove(b"/old"))
    assert removed.trashed
    number = peer.request(Put(b"/new", 60))
    peer.frame(Kind.DATA, number, b"y" * 60)
    peer.frame(Kind.END, number, Sent(60))
    remark, answer = peer.read(), peer.read()
    assert "of the trash were purged to free space" in remark.message.message
    assert answer.message == Stored(60)
    peer.close()
    start_server.finish(server)
    evict = of(records(server.settings.state), "evict")
    assert (evict["user"], evict["bytes"]) == ("alice", 60)
    assert (evict["details"]["operations"], evict["details"]["names"]) == (1, [removed.operation])


@pytest.mark.parametrize("how", ["cancelled", "cut"])
def test_a_removal_that_ends_midway_reports_what_has_gone(
    server, dial, files, events, monkeypatch, how
):
    """Where the tree cannot be moved away at once; whatever else has failed before."""
    monkeypatch.setattr(allowances, "_REFUSALS_BURST", 0)
    monkeypatch.setattr(in_place, "_STEP", 2)
    a_tree(files)

    def elsewhere(*arguments, **options):
        raise OSError(errno.EXDEV, "")

    def ended(exchange) -> None:
        raise Cancelled("cancelled") if how == "cancelled" else ConnectionLost("cut")

    monkeypatch.setattr(Home, "remove", elsewhere)
    monkeypatch.setattr(Exchange, "look_for_cancel", ended)
    peer = dial(server)
    peer.request(Remove(b"/tree", recursive=True))
    if how == "cancelled":
        assert peer.answer().message.code == Cancelled.code
    else:
        peer.read_to_end()
    removed = of(events(peer), "remove")
    left = [path for path in files.rglob("*") if ".ftpd-staging" not in path.parts]
    assert removed["path"] == "/tree" and removed["outcome"] != "ok"
    assert removed["files"] == 5 - len(left) > 0
    assert removed["bytes"] == 12 - sum(one.stat().st_size for one in left if one.is_file())


def test_a_tree_that_was_replaced_at_once_has_its_path(server, dial, events):
    peer = dial(server)
    for commit in (True, False):
        assert peer.ask(BeginTree(b"/site")) == Done()
        assert peer.ask(EndTree(commit)) == Done()
    found = [one for one in events(peer) if one["event"] == "end-tree"]
    assert [(one["path"], one["details"]) for one in found] == [
        ("/site", {"commit": True}),
        ("/site", {"commit": False}),
    ]


def test_a_ban_is_recorded_once(start_server, dial, monkeypatch):
    """And nothing else of strangers uses up its room."""
    monkeypatch.setattr(allowances, "_REFUSALS_BURST", 1)
    monkeypatch.setattr(allowances, "_REFUSALS_RATE", 0.0)
    server = start_server(ban_after=2, ban_time=3600.0)
    server.service.limits._bans.delay = lambda host: 0.0
    server.service.limits.delay = lambda host, error: 0.0
    with dial(server, logged_in=False) as peer:
        peer.hello()
        for _ in range(3):
            peer.ask(MakeDir(b"/x"))
    for _ in range(4):
        with dial(server, logged_in=False) as peer:
            peer.hello()
            assert isinstance(peer.ask(Login("alice", "guess")), Failed)
    start_server.finish(server)
    banned = of(records(server.settings.state), "ban")
    assert (banned["address"], banned["user"], banned["outcome"]) == (
        "127.0.0.1",
        "alice",
        "refused",
    )
    assert banned["reason"] == "2 log-ins failed"
    assert banned["time"] < banned["details"]["until"]


@pytest.mark.parametrize("options", [{}, pytest.param({"workers": 2}, marks=pytest.mark.system)])
def test_bans_reach_the_log_from_wherever(start_server, dial, options):
    server = start_server(ban_after=1, **options)
    with dial(server, logged_in=False) as peer:
        peer.hello()
        assert isinstance(peer.ask(Login("alice", "guess")), Failed)
    start_server.finish(server)
    assert of(records(server.settings.state), "ban")["user"] == "alice"


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"workers": 2}, marks=pytest.mark.system),
        pytest.param({"isolation": "process"}, marks=pytest.mark.system),
    ],
)
def test_a_registration_names_its_invitation(start_server, dial, options):
    server = start_server(open_registration=True, **options)
    invited, code = Invitations(server.service.engine).make(None, 1, None)
    for name, given in (("bob", code), ("carol", None)):
        with dial(server, logged_in=False) as peer:
            peer.hello()
            assert peer.ask(Register(name, "correct-horse", given)) == LoggedIn(name)
    start_server.finish(server)
    found = [one for one in records(server.settings.state) if one["event"] == "register"]
    assert {one["user"]: one["details"] for one in found} == {
        "bob": {"with": "registration", "invitation": invited.id},
        "carol": {"with": "registration"},
    }
    text = (server.settings.state / FILE_NAME).read_text()
    assert code not in text  # with which others could register


def test_a_batch_is_recorded_in_order(server, dial, events):
    peer = dial(server)
    pieces = []
    for number in range(1, 101):
        data = b"x" * number
        pieces += [
            frame(Kind.REQUEST, number, Put(b"/f%d" % number, number)),
            frame(Kind.DATA, number, data),
            frame(Kind.END, number, Sent(number, digests.digest(data))),
        ]
    pieces.append(frame(Kind.REQUEST, 5, Put(b"/no/such/dir", 0)))
    pieces.append(frame(Kind.END, 5, Sent(0, digests.digest(b""))))
    pieces.append(frame(Kind.REQUEST, 5, Remove(b"/f5")))
    peer.send(*pieces)
    for _ in range(102):
        peer.answer()
    found = [record for record in events(peer) if record["event"] in ("put", "remove")]
    assert [record["path"] for record in found[:100]] == [f"/f{n}" for n in range(1, 101)]
    assert [record["bytes"] for record in found[:100]] == list(range(1, 101))
    assert all(record["digest"] for record in found[:100])
    assert (found[100]["outcome"], found[100]["code"]) == ("failed", "not-found")
    assert found[101]["event"] == "remove" and found[101]["path"] == "/f5"
    assert len(found) == 102


@pytest.mark.parametrize(
    ("login", "user", "way"),
    [
        pytest.param(Login("alice", "hunter2"), "alice", "password", id="password"),
        pytest.param(Login("nobody", "hunter2"), "nobody", "password", id="name"),
        pytest.param(messages.LoginToken("alice", "ftpt_x"), "alice", "token", id="token"),
    ],
)
def test_a_log_in_that_is_refused(server, dial, events, login, user, way):
    peer = dial(server, logged_in=False)
    peer.hello()
    assert isinstance(peer.ask(login), Failed)
    (refused,) = events(peer)
    assert (refused["event"], refused["outcome"]) == ("login", "refused")
    assert (refused["user"], refused["code"]) == (user, "login-refused")
    assert refused["reason"] and refused["details"] == {"with": way}
    assert "hunter2" not in json.dumps(refused)


def test_a_token_is_reported_by_its_id(server, dial, events):
    peer = dial(server)
    issued = peer.ask(IssueToken("laptop"))
    other = dial(server, logged_in=False)
    other.hello()
    other.ask(messages.LoginToken("alice", issued.token))
    found = events(peer, other)
    assert of(found, "token-issue")["details"] == {"name": "laptop", "id": issued.id}
    assert found[2]["details"] == {"with": "token", "token": issued.id}
    assert issued.token not in json.dumps(found)


def test_a_refusal_has_its_code_and_its_reason(server, dial, events):
    server.accounts.change("alice", quota=3)
    peer = dial(server)
    refused = put(peer, b"/file", b"12345")
    assert isinstance(refused, Failed)
    record = of(events(peer), "put")
    assert (record["outcome"], record["code"]) == ("refused", "quota")
    assert record["reason"] == refused.message


def test_what_nobody_may_without_a_log_in(server, dial, events):
    peer = dial(server, logged_in=False)
    peer.hello()
    peer.ask(List(b"/"))
    (record,) = events(peer)
    assert (record["event"], record["code"]) == ("list", "not-logged-in")
    assert "user" not in record


def test_a_transfer_that_is_cut_is_reported(server, dial, events):
    """Whoever takes all of a file but its end has taken it all the same."""
    peer = dial(server)
    peer.send(frame(Kind.REQUEST, 1, Put(b"/half", 100)), frame(Kind.DATA, 1, b"x" * 50))
    eventually(lambda: any(session.doing for session in server.service.sessions))
    record = of(events(peer), "put")
    assert (record["outcome"], record["path"], record["bytes"]) == ("cut", "/half", 50)


INTERRUPTED = {
    "small": (Put(b"/f", 200_000), 0),
    "large": (Put(b"/f", 3 * 2**20), 0),
    "unknown size": (Put(b"/f", None), 0),
    "resumed": (Put(b"/f", 8 * 2**20, mtime_ns=1, ask=True, resume=True), 5 * 2**20),
}


@pytest.mark.parametrize(("request_", "before"), INTERRUPTED.values(), ids=INTERRUPTED)
def test_what_had_arrived_of_an_upload_is_in_its_record(server, dial, events, request_, before):
    """With what an earlier attempt has left."""
    if before:
        with dial(server) as peer:
            number = peer.request(request_)
            assert isinstance(peer.answer().message, messages.Ready)
            for _ in range(before // 2**20):
                peer.frame(Kind.DATA, number, bytes(2**20))
        eventually(lambda: not server.service.sessions)
    peer = dial(server)
    number = peer.request(request_)
    if request_.ask:
        assert peer.answer().message.offset == before
    peer.frame(Kind.DATA, number, bytes(100_000))
    peer.frame(Kind.CANCEL, number)
    assert peer.answer().message.code == "cancelled"
    *_, record = (one for one in events(peer) if one["event"] == "put")
    assert (record["outcome"], record["code"]) == ("failed", "cancelled")
    assert record["bytes"] == before + 100_000


def test_an_upload_that_was_refused_at_once_has_its_announced_size(server, dial, events):
    server.accounts.change("alice", quota=1000)
    peer = dial(server)
    peer.request(Put(b"/f", 5_000_000, ask=True))
    assert peer.answer().message.code == "quota"
    record = of(events(peer), "put")
    assert (record["outcome"], record["bytes"]) == ("refused", 5_000_000)


def test_a_name_that_is_no_utf_8(server, dial, events):
    peer = dial(server)
    put(peer, b"/\xff\x1b[31m\n")
    record = of(events(peer), "put")
    assert record["path"] == "/\ufffd\x1b[31m\n"
    assert base64.b64decode(record["path_b64"]) == b"/\xff\x1b[31m\n"


def test_events_without_a_session(audit, tmp_path):
    log = audit()
    log.record("ban", user="alice", address="10.0.0.1", details={"seconds": 60})
    log.close()
    (record,) = records(tmp_path)
    assert (record["event"], record["outcome"], record["address"]) == ("ban", "ok", "10.0.0.1")


def test_none_is_written_where_none_is_wanted(audit, tmp_path):
    log = audit(size=0)
    log.record("start")
    log.close()
    assert not (tmp_path / FILE_NAME).exists()


# lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ['"},{"event":"login"}', "a\nb", "\x1b[2J", "\x9b31m", "\u202etxt.exe", "\x7f", "\udcff", "é"],
)
def test_no_name_breaks_out_of_its_line(name):
    line = line_of(Record("t", "put", "ok", path=name, size=5))
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert line[:-1].decode("ascii").isprintable()
    assert json.loads(line) == {
        "time": "t",
        "event": "put",
        "outcome": "ok",
        "path": name,
        "bytes": 5,
    }


def test_paths_are_reported_as_they_are_meant():
    assert shown(b"/a//b/../c/.") == ("/a/c", None)
    assert shown(b"relative/../x") == ("relative/../x", None)


def test_times_are_utc_with_milliseconds():
    assert timestamp(0.0625) == "1970-01-01T00:00:00.062Z"
    assert timestamp(1_000_000_000.5) == "2001-09-09T01:46:40.500Z"


# files ---------------------------------------------------------------------------------------


def write(log: Audit, tmp_path, count: int) -> None:
    """Have so many records written, in batches of their own."""
    path = tmp_path / FILE_NAME

    def is_written(text: str) -> bool:
        try:
            return text in path.read_text()
        except FileNotFoundError:  # not yet, or just rotated away: there is a next one soon
            return False

    for number in range(count):
        reason = f"{'x' * 100} {number}"
        log.record("note", reason=reason)
        eventually(lambda text=reason: is_written(f'{text}"'))


def test_the_file_is_private(audit, tmp_path):
    before = os.umask(0)
    try:
        log = audit()
        log.record("start")
        log.close()
    finally:
        os.umask(before)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_files_are_rotated_by_size(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_GATHER_SECONDS", 0)
    write(audit(size=300, keep=2), tmp_path, 10)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [FILE_NAME, f"{FILE_NAME}.1", f"{FILE_NAME}.2"]
    assert all((tmp_path / name).stat().st_size <= 300 for name in names)
    reported = [
        json.loads(line)["reason"].split()[-1]
        for name in reversed(names)
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert reported == [str(number) for number in range(10)][-len(reported) :]


def test_fewer_are_kept_than_before(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_GATHER_SECONDS", 0)
    for number in range(1, 6):
        (tmp_path / f"{FILE_NAME}.{number}").write_text("{}\n")
    write(audit(size=300, keep=1), tmp_path, 5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [FILE_NAME, f"{FILE_NAME}.1"]


def test_no_earlier_file_is_kept_if_none_is_wanted(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_GATHER_SECONDS", 0)
    write(audit(size=300, keep=0), tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_file_that_was_moved_away_is_made_again(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_GATHER_SECONDS", 0)
    log = audit()
    write(log, tmp_path, 1)
    (tmp_path / FILE_NAME).rename(tmp_path / "taken")
    write(log, tmp_path, 1)
    assert len(records(tmp_path)) == 1


def test_a_line_that_was_cut_is_ended_first(tmp_path):
    (tmp_path / FILE_NAME).write_text('{"event":"cut sh')
    administered(tmp_path, "user-add", user="alice")
    cut, whole = (tmp_path / FILE_NAME).read_text().splitlines()
    assert json.loads(whole)["event"] == "user-add" and cut == '{"event":"cut sh'


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        open_to_append(tmp_path / FILE_NAME)
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_stops_nothing(server, dial, events, monkeypatch, caplog):
    full = threading.Event()
    full.set()
    whole = files.write_whole

    def write_whole(fd, data):
        if full.is_set():
            raise OSError(errno.ENOSPC, "no space")
        whole(fd, data)

    monkeypatch.setattr(writer, "_GATHER_SECONDS", 0)
    monkeypatch.setattr(writer, "_DROPPED_SECONDS", 0.05)
    monkeypatch.setattr(files, "write_whole", write_whole)
    peer = dial(server)
    for number in range(5):
        assert put(peer, b"/%d" % number) == Stored(4)
        eventually(lambda: server.service.audit._dropped)
    full.clear()
    assert put(peer, b"/after") == Stored(4)
    server.service.audit.close()
    reported = [record.levelno for record in caplog.records if record.name == "ftpd.audit"]
    assert reported == [logging.ERROR, logging.WARNING], "once that it is full, once that it isn't"
    found = records(server.settings.state)
    dropped = [record for record in found if record["event"] == "dropped"]
    assert sum(record["count"] for record in dropped) >= 5
    assert "/after" in [record.get("path") for record in found]


def test_what_comes_too_fast_is_counted(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "MAX_QUEUED", 1000)
    monkeypatch.setattr(writer, "_GATHER_SECONDS", 3600)  # nothing is written before the end
    log = audit()
    for number in range(100):
        log.record("note", reason=str(number))
    log.close()
    *written, dropped = records(tmp_path)
    assert 5 < len(written) < 20
    assert [record["reason"] for record in written] == [str(n) for n in range(len(written))]
    assert (dropped["event"], dropped["count"]) == ("dropped", 100 - len(written))


def test_who_only_fails_can_not_fill_the_files(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(allowances, "_REFUSALS_RATE", 0.0)
    log = audit()
    for _ in range(2000):
        log.record("login", outcome="refused", address="10.0.0.1")
    log.record("put", path=b"/file")
    log.close()
    found = records(tmp_path)
    assert sum(record["event"] == "login" for record in found) == allowances._REFUSALS_BURST
    assert of(found, "put")["path"] == "/file", "what succeeds is told"
    assert of(found, "dropped")["count"] == 2000 - allowances._REFUSALS_BURST


def test_a_user_who_fails_does_not_silence_others(server, dial, events, monkeypatch):
    monkeypatch.setattr(allowances, "_REFUSALS_RATE", 0.0)
    monkeypatch.setattr(allowances, "_REFUSALS_BURST", 3)
    server.accounts.add("bob", "secret")
    alice, bob = dial(server), dial(server, logged_in=False)
    bob.log_in("bob")
    for _ in range(5):
        alice.ask(Remove(b"/missing"))
    bob.ask(Remove(b"/missing"))
    found = events(alice, bob)
    removed = [record for record in found if record["event"] == "remove"]
    assert [record["user"] for record in removed] == ["alice"] * 3 + ["bob"]
    assert sum(record["count"] for record in found if record["event"] == "dropped") == 2


# administration --------------------------------------------------------------------------------


def test_administration_is_recorded_beside_a_running_server(server, events):
    for number in range(20):
        administered(server.settings.state, "user-set", user=f"u{number}", details={"quota": 1})
    found = events()
    assert [record["user"] for record in found] == [f"u{number}" for number in range(20)]
    assert found[0]["by"] and found[0]["details"] == {"quota": 1}


@pytest.mark.parametrize(
    ("sudo_user", "login_uid", "reported"),
    [
        pytest.param(None, None, {}, id="by-itself"),
        pytest.param("alice", None, {"sudo_user": "alice"}, id="sudo"),
        pytest.param(None, "0\n", {"login_user": "root"}, id="su"),
        pytest.param("alice", "0\n", {"sudo_user": "alice", "login_user": "root"}, id="both"),
        pytest.param("me", "12345\n", {}, id="the-same"),
        pytest.param(None, "54321\n", {"login_user": "54321"}, id="an-uid-without-a-name"),
        pytest.param("", f"{2**32 - 1}\n", {}, id="a-service"),
        pytest.param(None, "?", {}, id="a-kernel-without-it"),
        pytest.param("x" * 5000, None, {"sudo_user": "x" * 256}, id="long"),
    ],
)
def test_who_gave_a_command(tmp_path, monkeypatch, sudo_user, login_uid, reported):
    names = {0: "root", 12345: "me"}

    def known(uid: int) -> SimpleNamespace:
        return SimpleNamespace(pw_name=names[uid])

    monkeypatch.setattr(administration.pwd, "getpwuid", known)
    monkeypatch.setattr(administration.os, "getuid", lambda: 12345)
    monkeypatch.setattr(administration, "_LOGIN_UID", tmp_path / "loginuid")
    if login_uid is not None:
        (tmp_path / "loginuid").write_text(login_uid)
    monkeypatch.delenv("SUDO_USER", raising=False)
    if sudo_user is not None:
        monkeypatch.setenv("SUDO_USER", sudo_user)
    administered(tmp_path, "user-set", user="bob")
    (record,) = records(tmp_path)
    assert record["by"] == "me"
    assert {
        name: record[name] for name in ("sudo_user", "login_user") if name in record
    } == reported


def test_administration_that_can_not_be_recorded_is_reported(tmp_path, caplog):
    (tmp_path / FILE_NAME).mkdir()
    administered(tmp_path, "user-set", user="alice")
    (record,) = caplog.records
    assert "audit.jsonl" in record.getMessage()


def test_a_session_that_is_ended_says_why(server, dial, events):
    peer = dial(server)
    (session,) = server.service.sessions
    eventually(lambda: session.doing is None)
    session.close("kicked by the administrator")
    peer.read_to_end()
    assert of(events(peer), "logout")["reason"] == "kicked by the administrator"


def test_the_true_reason_is_reported_here_only(server, dial, events):
    server.accounts.change("alice", networks=[ip_network("192.0.2.0/24")])
    peer = dial(server, logged_in=False)
    peer.hello()
    reported = peer.ask(Login("alice", "secret"))
    (record,) = events(peer)
    assert "closed to 127.0.0.1" in record["reason"] and "closed" not in reported.message
