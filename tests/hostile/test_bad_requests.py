"""Requests that are not understood, of a user, in every way of serving: each fails alone."""

from __future__ import annotations

import msgspec

from ftpserver.storage.permissions import Permissions
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import LoggedIn, Put, Sent, Stored, WhoAmI
from tests.hostile.conftest import each_way
from tests.peer import frame

BAD = [
    {"op": "put", "path": b"/bad", "size": 4, "mode": 4096},
    {"op": "put-piece", "key": b"short", "offset": 0, "size": 4},
    {"op": "a-request-of-later"},
]


def put(request_id: int, path: bytes, **options: object) -> bytes:
    return (
        frame(Kind.REQUEST, request_id, Put(path, 4, **options))
        + frame(Kind.DATA, request_id, b"data")
        + frame(Kind.END, request_id, Sent(4, digests.digest(b"data")))
    )


def bad(request_id: int, message: dict[str, object]) -> bytes:
    return (
        frame(Kind.REQUEST, request_id, msgspec.msgpack.encode(message))
        + frame(Kind.DATA, request_id, b"data")
        + frame(Kind.END, request_id, Sent(4))
    )


@each_way
def test_between_uploads_that_are_stored(serve, way):
    site = serve()
    site.server.accounts.change(
        "alice", max_files=4, max_sessions=9, permissions=Permissions.parse("/closed=none")
    )
    peer = site.user()
    assert peer.ask(WhoAmI()) == LoggedIn("alice", 9)
    sent = [
        frame_
        for number, message in enumerate(BAD)
        for frame_ in (put(2 * number + 1, b"/good-%d" % number), bad(2 * number + 2, message))
    ]
    peer.send(*sent, put(7, b"/closed"), put(8, b"/good-4"), put(9, b"/one-too-many"))
    answers = [peer.answer() for _ in range(9)]
    assert [one.request_id for one in answers] == list(range(1, 10))
    codes = [getattr(one.message, "code", None) for one in answers]
    assert codes == [
        *(None, "bad-request", None, "bad-request", None, "unknown-request"),
        *("forbidden", None, "quota"),
    ]
    forbidden, full = answers[6].message, answers[8].message
    assert (forbidden.rule, forbidden.path) == ("/closed=none", b"/closed")
    assert (full.what, full.needed, full.free) == ("files", 1, 0)
    # and what breaks the framing, behind one more that came in whole
    site.server.accounts.change("alice", max_files=50, max_sessions=None)
    peer = site.user()
    peer.send(put(10, b"/good-0"), frame(Kind.REQUEST, 11, b"\xc1"))
    stored, last = peer.read_to_end()
    assert (stored.request_id, stored.message) == (10, Stored(4))
    assert (last.request_id, last.message.code) == (0, "bad-message")
    assert site.is_served(site.user())
