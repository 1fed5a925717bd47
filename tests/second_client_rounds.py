"""What the second client does with a server, whatever the way of serving.

Lives here: rounds through all requests, each in a directory of its own. Lives elsewhere: the client
(second_client.py), the servers (tests/ftpserver/test_second_client.py in this process,
tests/system/test_second_client.py as real programs).
"""

from __future__ import annotations

import io
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.second_client import (
    CANCEL,
    DATA,
    END,
    KEPT_FROM,
    MIB,
    REQUEST,
    Ended,
    Failed,
    Lost,
    SecondClient,
    digest_of,
    get_in_ranges,
    persistently,
    put_in_pieces,
)

LARGE = random.Random(1).randbytes(9 * MIB + 1)
"""Bytes of a file that is worth resuming."""


@dataclass(frozen=True)
class Door:
    """The way to a server, and somebody with an account there."""

    reach: Callable[[], socket.socket]
    user: str
    password: str

    def knock(self, **hello: Any) -> SecondClient:
        """Connect, and say HELLO."""
        client = SecondClient(self.reach())
        try:
            client.hello(**hello)
        except BaseException:
            client.close()
            raise
        return client

    def enter(self, **hello: Any) -> SecondClient:
        """Connect, and log in."""
        client = self.knock(**hello)
        try:
            client.log_in(self.user, self.password)
        except BaseException:
            client.close()
            raise
        return client


def code_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The code with which something is refused, and the session goes on."""
    with pytest.raises(Failed) as caught:
        call(*arguments, **options)
    assert not isinstance(caught.value, Ended), caught.value
    return caught.value.code


def end_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The code with which the connection ends."""
    with pytest.raises(Ended) as caught:
        call(*arguments, **options)
    return caught.value.code


class Cutting(io.BytesIO):
    """A source that cuts the wire when so many bytes were read."""

    def __init__(self, data: bytes, client: SecondClient, after: int) -> None:
        super().__init__(data)
        self._client, self._after = client, after

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= self._after:
            self._client.cut()
        return super().read(size)


def log_ins(door: Door) -> None:
    with door.knock() as client:
        assert code_of(client.ask, "whoami") == "not-logged-in"
        assert code_of(client.log_in, door.user, "wrong") == "login-refused"
        assert client.log_in(door.user, door.password)["user"] == door.user
        assert code_of(client.log_in, door.user, door.password) == "failed"
        made = client.ask("issue-token", name="a token", seconds=1000)
        with door.knock() as other:
            other.log_in_by_token(door.user, made["token"])
            (reported,) = other.ask("list-tokens")["tokens"]
            assert (reported[0], reported[1], reported[5]) == (made["id"], "a token", True)
            assert other.ask("revoke-token") == {"op": "done"}
            assert code_of(other.ask, "issue-token") == "forbidden"
        with door.knock() as other:
            assert code_of(other.log_in_by_token, door.user, made["token"]) == "login-refused"
            assert code_of(other.log_in_as_peer, "nobody-known") == "login-refused"
        assert client.ask("list-tokens") == {"op": "tokens"}


def small_files(door: Door, count: int = 100) -> None:
    rows = random.Random(2)
    names = [b"file %d\xff\n" % number for number in range(count)]
    files = {b"e/" + name: rows.randbytes(rows.randrange(3000)) for name in names} | {b"e/": b""}
    files[b"empty"] = files.pop(b"e/")
    with door.enter() as client:
        made = client.send("make-dir", path=b"/small/e", parents=True)
        puts = {
            client.send_small(b"/small/" + name, data, mode=0o640, mtime_ns=10**18): len(data)
            for name, data in files.items()
        }
        assert client.answer(made) == {"op": "done"}
        for request_id, size in puts.items():
            assert client.answer(request_id) == {"op": "stored", "size": size}

        found, problems = client.listing(b"/small", recursive=True, digest=True)
        assert not problems
        assert found.pop(b"e")[:2] == [b"e", "dir"]
        for name, data in files.items():
            entry = found.pop(name)
            assert entry[1:6] == ["file", len(data), 0o640, 10**18, None]
            assert entry[6] in (None, digest_of(data))  # where the file system keeps any
        assert not found

        assert "list-prefix" in client.server["features"]
        some, problems = client.listing(b"/small/e", prefix=b"file 1")
        assert not problems
        assert some.keys() == {name for name in names if name.startswith(b"file 1")}
        tree = client.listing(b"/small", prefix=b"e", recursive=True)[0]
        assert tree.keys() == {b"e", *files}
        assert client.listing(b"/small", prefix=b"em")[0].keys() == {b"empty"}
        assert client.listing(b"/small", prefix=b"none") == ({}, {})
        for bad in (b"e/", b"e\0", b"x" * 256):
            assert code_of(client.listing, b"/small", prefix=bad) == "bad-request"

        gets = {client.send("get", path=b"/small/" + name): data for name, data in files.items()}
        for request_id, data in gets.items():
            arrived = bytearray()
            sending, sent = client.receive(request_id, arrived)
            assert arrived == data
            assert (sending["mtime_ns"], sending["mode"]) == (10**18, 0o640)
            assert sent == {"op": "sent", "size": len(data), "digest": digest_of(data)}


def many_files(door: Door, count: int = 1100) -> None:
    """A tree goes and comes in a few requests, or file by file: it is the same."""
    rows = random.Random(3)
    names = [b"/d%d/file %d\xff\n" % (number % 40, number) for number in range(count)]
    files = {name: rows.randbytes(rows.randrange(2000)) for name in names} | {b"/d0/empty": b""}
    directories = {b"": 0o750} | {b"/d%d" % number: 0o700 for number in range(40)}
    for top, many in ((b"/many", True), (b"/each", False)):
        with door.enter() as client:
            if not many:
                client.server["features"].remove("many-files")
            assert client.takes_many == many
            its = {top + name: data for name, data in files.items()}
            dirs = {top + name: mode for name, mode in directories.items()}
            assert client.put_many(its, dirs, mode=0o640, mtime_ns=10**18) == {}
            listed, problems = client.listing(top, recursive=True, digest=True)
            assert not problems and len(listed) == len(files) + 40
            sizes = {}
            for path, entry in listed.items():
                if entry[1] == "dir":
                    assert entry[3:5] == [0o700, 10**18]
                    continue
                data = its[top + b"/" + path]
                assert entry[1:5] == ["file", len(data), 0o640, 10**18]
                assert entry[6] in (None, digest_of(data))
                sizes[top + b"/" + path] = entry[2]
            assert client.ask("stat", path=top)["entry"][3:5] == [0o750, 10**18]
            assert client.get_many(sizes) == its

            # what fails fails alone
            odd = {top + b"/d1": b"a directory", top + b"/new": b"new", top + b"/none/x": b"x"}
            codes = {top + b"/d1": "is-a-directory", top + b"/none/x": "not-found"}
            assert client.put_many(odd) == codes
            assert client.put_many(odd, overwrite="never")[top + b"/new"] == "exists"
            assert client.put_many({top + b"/none/x": b"x"}, parents=True) == {}
            # what isn't as it was listed comes by itself, or is told
            client.put(top + b"/new", b"larger now")
            got = client.get_many({top + b"/new": 3, top + b"/none/x": 1})
            assert got == {top + b"/new": b"larger now", top + b"/none/x": b"x"}
            assert code_of(client.get_many, {top + b"/missing": 3}) == "not-found"
            assert client.put_many({top + b"/x": bytes(256 * 1024)}) == {}  # the largest
            assert client.get_many({top + b"/x": 256 * 1024}) == {top + b"/x": bytes(256 * 1024)}
            client.ask("remove", path=top, recursive=True)


def too_many_files(door: Door) -> None:
    """What is refused as a whole is not done, and the session goes on."""
    with door.enter() as client:
        digest = digest_of(b"data")
        file = [b"refused-file", 4, 0o644, 1, digest]
        for directories, data, code in (
            ([[b"/", [file] * 1000]], b"data" * 1000, "bad-request"),
            ([[b"/", [[b"refused-file", 2**63 - 1, 0o644, 1, digest]]]], b"data", "bad-request"),
            ([[b"/", [[b"refused-file", 4, 0o644, 1, b"short"]]]], b"data", "bad-request"),
            ([[b"/", [file]]], b"dat", "verification-failed"),
            ([[b"/", [file]]], b"data!", "verification-failed"),
        ):
            request = {"op": "put-files", "directories": directories}
            refused = client.send_upload(request, data, None)
            assert code_of(client.answer, refused) == code
        request_id = client.send("put-files", directories=[[b"/", [file]]])
        client.write(DATA, request_id, b"data")
        client.cancel(request_id)
        assert code_of(client.answer, request_id) == "cancelled"
        assert code_of(client.ask, "stat", path=b"/refused-file") == "not-found"
        wanted = [[b"/", [[b"a", 256 * 1024], [b"b", 1]]]]
        assert code_of(client.ask, "get-files", directories=wanted) == "bad-request"
        damaged = {"op": "put-files", "directories": [[b"/", [file]]]}
        request_id = client.send_upload(damaged, b"tada", None)
        (part, end) = client.next(request_id), client.answer(request_id)
        assert part["failures"][0][:2] == [1, "verification-failed"]
        assert end == {"op": "files-stored", "done": 1}


def large_files(door: Door) -> None:
    with door.enter() as client:
        assert client.put(b"/large", LARGE, mtime_ns=5) == 0
        assert client.get(b"/large") == LARGE
        assert client.get(b"/large", bytearray(LARGE[: 5 * MIB])) == LARGE
        assert client.get(b"/large", bytearray(b"x" + LARGE[1 : 5 * MIB])) == LARGE
        for offset, length in ((0, 0), (MIB - 1, MIB + 1), (len(LARGE) - 2, 9), (len(LARGE), 9)):
            part, sending = client.get_range(b"/large", offset, length)
            assert part == LARGE[offset : offset + length]
            assert (sending["size"], sending["mtime_ns"]) == (len(LARGE), 5)
        assert client.get_range(b"/large", len(LARGE) + MIB, 9)[0] == b""
        hashed = {"op": "hashed", "digest": digest_of(LARGE), "size": len(LARGE)}
        assert client.ask("hash", path=b"/large") == hashed
        assert client.put(b"/pipe", io.BytesIO(LARGE), mtime_ns=5) == 0  # of unknown size
        assert client.get(b"/pipe") == LARGE
        got = client.send("get", path=b"/large")
        client.cancel(got)  # it may come too late
        try:
            client.receive(got, bytearray())
        except Failed as failed:
            assert failed.code == "cancelled"
        assert client.ask("whoami")["user"] == door.user


def wait_until_kept(client: SecondClient) -> None:
    """Ask until the server keeps what was cut: each question waits for its answer."""
    deadline = time.monotonic() + 60
    while not client.kept():
        assert time.monotonic() < deadline, "the server keeps nothing of what was cut"


def lost_connections(door: Door) -> None:
    """An upload and a download go on where the connection was lost."""
    began, tries = [], iter(range(9))

    def upload(client: SecondClient) -> None:
        source = io.BytesIO(LARGE)
        if not next(tries):
            source = Cutting(LARGE, client, 2 * KEPT_FROM)
        else:  # who takes over at once gets what the server had read until then, maybe nothing
            wait_until_kept(client)
        began.append(client.put(b"/resumed", source, size=len(LARGE), mtime_ns=7))

    persistently(door.enter, upload, pauses=[0])
    assert KEPT_FROM <= began[0] <= 2 * KEPT_FROM
    arrived, reached = bytearray(), []

    def download(client: SecondClient) -> bytearray:
        def cut_once(done: int) -> None:
            reached.append(done)
            if len(reached) == 1:
                client.cut()

        return client.get(b"/resumed", arrived, cut_once)

    assert persistently(door.enter, download, pauses=[0]) == LARGE
    assert 0 < reached[0] < reached[1] <= len(LARGE)  # it went on


def kept_uploads(door: Door) -> None:
    """What was cancelled is kept, gone on with where the source is the same, or dropped."""
    with door.enter() as client:

        def interrupt() -> None:
            request_id, _ = client.begin_put(b"/kept", size=len(LARGE), mtime_ns=8)
            client.write(DATA, request_id, LARGE[: 4 * MIB])
            client.write(DATA, request_id, LARGE[4 * MIB : 5 * MIB])
            client.cancel(request_id)
            assert code_of(client.answer, request_id) == "cancelled"

        interrupt()
        (kept,) = client.kept()
        assert kept[0] == b"/kept" and KEPT_FROM <= kept[1] <= 5 * MIB and kept[2] == len(LARGE)
        space = client.ask("space")
        assert (space["held"], space["kept"], space["kept_uploads"]) == (len(LARGE), len(LARGE), 1)
        assert client.put(b"/kept", b"x" + LARGE[1:], mtime_ns=8) == 0  # another source
        assert client.get(b"/kept") == b"x" + LARGE[1:]
        interrupt()
        assert client.put(b"/kept", LARGE, mtime_ns=8) >= KEPT_FROM
        assert client.get(b"/kept") == LARGE
        interrupt()
        dropped = client.ask("drop-kept", upload=b"/kept")
        assert (dropped["count"], dropped["size"]) == (1, len(LARGE))
        assert code_of(client.ask, "drop-kept", upload=b"/kept") == "not-found"
        assert client.ask("space")["held"] == 0 and not client.kept()


def the_trash(door: Door) -> None:
    """What was removed comes back; who lost an answer asks again."""
    with door.enter() as client, door.enter() as other:
        assert "trash" in client.server["features"]
        command = os.urandom(8)
        for one in (client, other):
            one.send("operation", id=command, words="rm /gone /tree", client=b"oneself.")
        client.put(b"/gone", b"data", mtime_ns=1)
        client.put(b"/gone-tree/inner", b"in it", parents=True)
        first = client.ask("remove", path=b"/gone", number=1)
        second = other.ask("remove", path=b"/gone-tree", recursive=True, number=2)
        assert first["trashed"] and first["operation"] == second["operation"]
        assert client.ask("remove", path=b"/gone-tree", recursive=True, number=2, again=True) == (
            second
        )
        assert code_of(client.ask, "remove", path=b"/gone", number=3) == "not-found"
        (reported,) = client.trash(operation=first["operation"])[0]
        assert (reported[0], reported[2], reported[3], reported[6]) == (
            *(first["operation"], "rm /gone /tree", b"oneself.", 2),
        )
        items = {one[2]: one for one in client.trash(operation=reported[0], items=True)[1]}
        assert [items[path][1] for path in (b"/gone", b"/gone-tree")] == ["removed", "tree"]
        where = [reported[0], items[b"/gone-tree"][0]]
        assert client.ask("stat", path=b"/inner", in_trash=where)["entry"][2] == 5
        client.put(b"/gone", b"in the way")
        client.send("operation", id=os.urandom(8), words="undo")
        restored = client.ask("restore", operation=reported[0])
        assert restored["items"] == 1
        assert [(one[0], one[1]) for one in restored["conflicts"]] == [(b"/gone", "conflict")]
        assert client.get(b"/gone-tree/inner") == b"in it"
        purged = client.ask("purge", operation=reported[0])
        assert (purged["files"], purged["size_bytes"]) == (1, 4)
        assert code_of(client.ask, "restore", operation=reported[0]) == "expired"
        client.send("operation", keep=False)
        assert not client.ask("remove", path=b"/gone").get("trashed", False)


def taking_over(door: Door) -> None:
    with door.enter() as earlier, door.enter() as later:
        request_id, _ = earlier.begin_put(b"/taken", size=len(LARGE), mtime_ns=9)
        earlier.write(DATA, request_id, LARGE[: 4 * MIB])
        earlier.write(DATA, request_id, LARGE[4 * MIB : 8 * MIB])
        later.put(b"/taken", LARGE, mtime_ns=9)

        def go_on() -> None:
            earlier.write(DATA, request_id, LARGE[8 * MIB :])
            earlier.finish_put(request_id, len(LARGE), digest_of(LARGE))

        assert end_of(go_on) == "taken-over"
        assert later.get(b"/taken") == LARGE


def pieces(door: Door) -> None:
    with door.enter() as owner, door.enter() as one, door.enter() as other:
        assert put_in_pieces(owner, [one, other], b"/pieces", LARGE, MIB) == 0
        assert get_in_ranges([owner, one, other], b"/pieces", MIB) == LARGE

        request_id, ready = owner.begin_put(b"/gone on", size=len(LARGE), mtime_ns=6, pieces=True)
        piece = {"op": "put-piece", "key": ready["key"], "offset": 0, "size": 5 * MIB}
        sent = one.send_upload(piece, LARGE[: 5 * MIB], None)
        assert one.answer(sent) == {"op": "taken"}
        sent = other.send_upload(piece, LARGE[: 5 * MIB], None)
        assert code_of(other.answer, sent) == "failed"  # it isn't missing
        owner.cancel(request_id)
        assert code_of(owner.answer, request_id) == "cancelled"
        sent = one.send_upload(piece | {"offset": 5 * MIB}, LARGE[: 5 * MIB], None)
        assert code_of(one.answer, sent) == "lease-lost"
        begun = put_in_pieces(owner, [one, other], b"/gone on", LARGE, MIB, mtime_ns=6)
        assert KEPT_FROM <= begun <= 5 * MIB
        assert owner.get(b"/gone on") == LARGE

        request_id, _ = owner.begin_put(b"/gap", size=len(LARGE), pieces=True)
        closed = (owner.finish_put, request_id, len(LARGE), digest_of(LARGE))
        assert code_of(*closed) == "verification-failed"
        request_id, ready = owner.begin_put(b"/few", size=3, pieces=True)
        assert ready.get("key") is None  # too small for pieces
        owner.write(DATA, request_id, b"few")
        assert owner.finish_put(request_id, 3, digest_of(b"few"))["size"] == 3


def changes(door: Door) -> None:
    with door.enter() as client:
        names = [b"/c/file%d" % number for number in range(9)]
        for request_id in [client.send_small(name, b"data", parents=True) for name in names]:
            client.answer(request_id)
        copied = client.ask("copy", source=b"/c", target=b"/d", recursive=True)
        assert (copied["files"], copied["directories"], copied["size_bytes"]) == (9, 1, 36)
        again = client.ask("copy", source=b"/c", target=b"/d", recursive=True, overwrite="never")
        assert (again["files"], again["skipped"], len(again["problems"])) == (0, 9, 9)
        assert {problem[1] for problem in again["problems"]} == {"exists"}
        assert client.ask("move", source=b"/d", target=b"/e") == {"op": "done"}
        assert code_of(client.ask, "move", source=b"/d", target=b"/f") == "not-found"
        client.ask("set-attributes", path=b"/e/file1", mode=0o4600, mtime_ns=7)
        assert [notice["op"] for _, notice in client.notices].count("remark") == 1  # setuid
        entry = client.ask("stat", path=b"/e/file1")["entry"]
        assert entry[:5] == [b"/e/file1", "file", 4, 0o600, 7]
        assert code_of(client.ask, "remove", path=b"/e") == "not-empty"
        removed = client.ask("remove", path=b"/e", recursive=True, final=True)
        assert (removed["files"], removed["directories"], removed["size_bytes"]) == (9, 1, 36)

        client.ask("make-link", path=b"/c/link", target=b"../c")
        assert client.ask("stat", path=b"/c/link")["entry"][1:6:4] == ["link", b"../c"]
        assert client.ask("stat", path=b"/c/link", follow=True)["entry"][1] == "dir"
        client.ask("make-link", path=b"/c/dangling", target=b"nowhere")
        assert client.listing(b"/c/dangling")[0][b""][1] == "link"
        entries, problems = client.listing(b"/c", recursive=True, follow=True)
        assert len(entries) == 10 and problems.keys() == {b"link", b"dangling"}
        assert code_of(client.ask, "make-dir", path=b"/c") == "exists"
        client.ask("make-dir", path=b"/c", parents=True)


def trees(door: Door) -> None:
    """A directory is replaced at once."""
    with door.enter() as client, door.enter() as other:
        client.answer(client.send_small(b"/site/old", b"old", parents=True))
        client.ask("begin-tree", path=b"/site")
        client.ask("set-attributes", path=b"/site", mode=0o750)
        client.answer(client.send_small(b"/site/new", b"new"))
        assert client.listing(b"/site")[0].keys() == other.listing(b"/site")[0].keys() == {b"old"}
        assert client.ask("end-tree") == {"op": "done"}
        assert other.listing(b"/site")[0].keys() == {b"new"}
        assert other.ask("stat", path=b"/site")["entry"][3] == 0o750
        client.ask("begin-tree", path=b"/site")
        client.answer(client.send_small(b"/site/dropped", b"dropped"))
        assert client.ask("end-tree", commit=False) == {"op": "done"}
        assert other.listing(b"/site")[0].keys() == {b"new"}
        assert code_of(client.ask, "end-tree") == "failed"


def refusals(door: Door) -> None:
    """Each fails alone, with what a program wants to know."""
    with door.enter() as client:
        before = client.send_small(b"/refused", b"before")
        bad = [
            client.send("no-such-request"),
            client.send("stat", path="a str"),
            client.send("stat"),
            client.send("stat", path=b""),
            client.send("space", unknown=[1, {"and": "ignored"}], times=[2**64 - 1]),
            client.send_upload({"op": "put", "path": b"/x", "mode": 4096}, b"data", None),
            client.send_upload({"op": "no-such-put", "path": b"/x"}, b"data", None),
            client.send_upload({"op": "put", "path": b"/x", "size": 4}, b"data", b"short"),
        ]
        after = client.send_small(b"/refused", b"after it")
        assert client.answer(before)["size"] == 6
        codes = [code_of(client.answer, request_id) for request_id in bad]
        assert codes == ["unknown-request", *["bad-request"] * 5, "unknown-request", "bad-request"]
        assert client.answer(after)["size"] == 8
        client.cancel(after)  # it is answered already: ignored

        refused = {"op": "put", "path": b"/none/x", "size": 4}
        assert code_of(client.answer, client.send_upload(refused, b"data", None)) == "not-found"
        assert code_of(client.put, b"/none/x", LARGE) == "not-found"  # before the bytes
        assert code_of(client.put, b"/refused", LARGE, overwrite="never") == "exists"
        assert code_of(client.put, b"/refused", b"x", overwrite="older", mtime_ns=1) == "not-newer"
        wrong = {"op": "put", "path": b"/wrong", "size": 4}
        sent = client.send_upload(wrong, b"data", digest_of(b"other"))
        assert code_of(client.answer, sent) == "verification-failed"
        with pytest.raises(Failed) as caught:
            client.ask("stat", path=b"/none/x")
        assert (caught.value.code, caught.value.facts["path"]) == ("not-found", b"/none/x")
        assert code_of(client.ask, "stat", path=b"relative") == "invalid-path"
        assert code_of(client.ask, "stat", path=b"/.ftpd-staging") == "invalid-path"
        assert code_of(client.ask, "hash", path=b"/") == "is-a-directory"
        client.ask("remove", path=b"/refused")


def last_words(client: SecondClient, kind: int, payload: bytes) -> None:
    """Send a frame that ends the connection, and notice that."""
    client.write(kind, 9, payload)
    client.ask("whoami")


def ends(door: Door) -> None:
    """What is no request at all ends the connection; what was before is stored and answered."""
    for kind, payload, code in (
        (END, b"\x81\xa2op\xa4sent", "bad-message"),  # where a request belongs
        (REQUEST, b"\x90", "bad-message"),  # no map
        (REQUEST, b"\x80", "bad-message"),  # no `op`
        (REQUEST, b"\x81\xa2op\xa6whoami\xc0", "bad-message"),  # and more
        (CANCEL + 2, b"", "unknown-kind"),
        (REQUEST, bytes(128 * 1024 + 1), "frame-too-big"),
    ):
        with door.enter() as client:
            stored = client.send_small(b"/stored", b"data")
            assert end_of(last_words, client, kind, payload) == code
            assert client.answer(stored)["size"] == 4
    with door.enter() as client:
        client.send("put", path=b"/open", size=1)  # and another request before its END
        assert end_of(client.ask, "whoami") == "bad-message"
    with pytest.raises(Ended) as caught:
        door.knock(versions=(2, 3))
    assert (caught.value.code, caught.value.facts["versions"]) == ("version", [1])
    with door.knock(versions=(1, 7)) as client:
        assert client.server["version"] == 1
        for _ in range(3):
            assert code_of(client.log_in, door.user, "wrong") == "login-refused"
        with pytest.raises(Lost):
            client.ask("whoami")


ROUNDS = (
    log_ins,
    small_files,
    many_files,
    too_many_files,
    large_files,
    lost_connections,
    kept_uploads,
    the_trash,
    taking_over,
    pieces,
    changes,
    trees,
    refusals,
    ends,
)
