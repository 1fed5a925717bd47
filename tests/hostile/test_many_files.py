"""Requests about many files that no honest client sends, of a user.

Lives here: requests drawn at random with frames in any order behind them, cuts at every byte, what
one request may be about, and the memory that it takes.
Lives elsewhere: what an honest client sends (tests/ftpserver/serving/test_put_files.py,
test_get_files.py), values that aren't even decoded (tests/ftpwire/test_messages.py), servers that
lie about such requests (test_server_many_files.py, tests/ftpclient/transfer/test_put_files.py).
"""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpserver.storage.home_staging import NOT_STAGED
from ftpwire import digests, frames, messages, paths
from ftpwire.frames import Kind
from ftpwire.messages import (
    MAX_BYTES,
    MAX_ITEMS,
    Failed,
    FilesStored,
    Finished,
    GetFiles,
    Hole,
    LoggedIn,
    NewFile,
    NewFiles,
    NotStored,
    PutFiles,
    SendingFiles,
    Sent,
    SentFile,
    WantedFile,
    WantedFiles,
    WhoAmI,
)
from tests.hostile.conftest import each_way
from tests.peer import Frame, Peer, eventually, frame

TIME = 1_700_000_000_000_000_000
LAST = 2**32 - 1
"""The id of the request that is asked behind all others."""
MIB = 1024 * 1024


def bytes_of(name: bytes, size: int) -> bytes:
    """What the files of these tests have in them, whatever else came."""
    return (name * (size + 1))[:size]


def staged(home: Path) -> set[bytes]:
    """What lies in staging, but for what always does."""
    place = home / ".ftpd-staging"
    return set(map(os.fsencode, os.listdir(place))) - NOT_STAGED if place.exists() else set()


# any request, any frames -------------------------------------------------------------------

NAMES = st.sampled_from(
    [b"a", b"b", b"d", b"link", b"out", b"nein\xff", b"new\nline", b"x" * 255]
    + [b".", b"..", b"a/b", b"/", b"../../canary/x", b"nul\0", b".ftpd-staging", b".ftpd-trash"]
)
PATHS = st.sampled_from(
    [
        b"/",
        b"/d",
        b"/d/e",
        b"//d/./e/..",
        b"/link",
        b"/out",
        b"/new",
        b"/a",
        b"/../..",
        b"/d/../../x",
    ]
    + [b"relative", b"", b"/nul\0", b"/.ftpd-trash", b"/d/.ftpd-staging/x", b"/" + b"x" * 256]
    + [b"/" + b"d/" * 300, b"/" + b"x/" * 2047, b"/" * 4096]
)
SIZES = st.sampled_from([0, 1, 7, 100, 1000])
ODD_SIZES = st.sampled_from([MAX_BYTES, MAX_BYTES + 1, 2**62, 2**63 - 1])
MODES = st.sampled_from([0, 0o400, 0o644, 0o777, 0o7777])
TIMES = st.sampled_from([-(2**63), 0, TIME, 2**63 - 1])


@st.composite
def new_files(draw: st.DrawFn) -> tuple[NewFile, bytes]:
    """A file and the bytes that belong to it."""
    name, size = draw(NAMES), draw(SIZES)
    data = bytes_of(name, size)
    digest = draw(st.sampled_from([digests.digest(data)] * 5 + [bytes(32)]))
    reported = draw(st.sampled_from([size] * 9 + [draw(ODD_SIZES)]))
    return NewFile(name, reported, draw(MODES), draw(TIMES), digest), data


@st.composite
def uploads(draw: st.DrawFn) -> tuple[PutFiles, bytes]:
    """A request, and the bytes that its files have."""
    directories, data = [], b""
    for path in draw(st.lists(PATHS, max_size=5)):
        files = draw(st.lists(new_files(), max_size=5))
        make = draw(st.sampled_from([None, None, 0o755, 0, 0o7777]))
        times = draw(st.sampled_from([1] * 20 + [2, 1000]))
        one = NewFiles(path, [file for file, _ in files], make)
        directories += [one] * times
        data += b"".join(its for _, its in files) * times
    finished = draw(st.lists(st.builds(Finished, PATHS, MODES, TIMES), max_size=3))
    overwrite = draw(st.sampled_from(["always", "never", "older"]))
    return PutFiles(directories, finished, overwrite, draw(st.booleans())), data


@st.composite
def behind_upload(draw: st.DrawFn, number: int, data: bytes) -> list[bytes]:
    """Frames behind a request: those that belong there, or others among them."""
    pieces = draw(st.sampled_from([1, 2, 7]))
    step = max(1, -(-len(data) // pieces))
    found = [frame(Kind.DATA, number, data[at : at + step]) for at in range(0, len(data), step)]
    found.append(frame(Kind.END, number, Sent(len(data), draw(st.sampled_from([None, bytes(32)])))))
    odd = st.sampled_from(
        [
            frame(Kind.DATA, number),
            frame(Kind.DATA, number, b"more"),
            frame(Kind.DATA, number + 1, b"of another"),
            frame(Kind.NOTICE, number, Hole(1)),
            frame(Kind.NOTICE, number, Hole(64 * MIB)),
            frame(Kind.NOTICE, number, b"\x81\xa2op\xa4hole"),
            frame(Kind.NOTICE, number, messages.Progress(1)),
            frame(Kind.CANCEL, number),
            frame(Kind.CANCEL, number + 1),
            frame(Kind.END, number, Sent(len(data) + 1)),
            frame(Kind.END, number, Sent(2**63 - 1)),
            frame(Kind.END, number, b"\x90"),
            frame(Kind.END, number, FilesStored(3)),
            frame(Kind.END, number + 1, Sent(len(data))),
            frame(Kind.REPLY, number, FilesStored(3)),
            frame(Kind.REQUEST, number, PutFiles([])),
            frame(Kind.REQUEST, number + 1, WhoAmI()),
        ]
    )
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        found.insert(draw(st.integers(0, len(found))), draw(odd))
    if draw(st.sampled_from([False] * 5 + [True])):
        del found[draw(st.integers(0, len(found) - 1))]
    return found


def until_the_last(peer: Peer) -> tuple[list[Frame], bool]:
    """What is said until the last request is answered, or the connection ends; and whether it was
    answered."""
    found: list[Frame] = []
    try:
        while True:
            found.append(peer.read())
            if found[-1].request_id == LAST:
                return found[:-1], True
    except (EOFError, ConnectionError):
        return found, False


FUZZ = settings(
    max_examples=settings().max_examples * 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def stocked(files, canary) -> Path:
    """A home with links inside and out of it."""
    (files / "d").mkdir(parents=True)
    (files / "b").write_bytes(bytes_of(b"b", 7))
    os.utime(files / "b", ns=(TIME, TIME))
    (files / "link").symlink_to("d")
    (files / "out").symlink_to(canary)
    return files


@FUZZ
@given(data=st.data())
def test_any_upload_of_many_files(server, dial, stocked, canary, data):
    """The session stays in step or is told why not; nothing is half, and nothing is outside."""
    request, its = data.draw(uploads())
    number = data.draw(st.sampled_from([1, 2**31]))
    behind = data.draw(behind_upload(number, its))
    with Peer.connect(server.server_address[:2]) as peer:
        peer.log_in()
        payload = messages.encode(request)
        if len(payload) > frames.MAX_CONTROL:
            return
        sent = [frame(Kind.REQUEST, number, payload), *behind, frame(Kind.REQUEST, LAST, WhoAmI())]
        try:
            peer.send(*sent)
        except ConnectionError:
            pass  # it was ended in the middle; what was said is there to be read
        said, in_step = until_the_last(peer)
    mine = [one for one in said if one.request_id == number and one.kind != Kind.NOTICE]
    if not in_step:
        assert said and said[-1].request_id == 0, said
        assert said[-1].message.code in ("bad-message", "frame-too-big"), said
    else:
        assert mine, said
    failed = [
        failure
        for one in mine
        if isinstance(one.message, NotStored)
        for failure in one.message.failures
    ]
    for one in mine:
        if isinstance(one.message, FilesStored) and one.message.done:
            items = len(request.finished) + sum(1 + len(each.files) for each in request.directories)
            assert one.message.done + len(failed) == items
            assert [each.index for each in failed] == sorted({each.index for each in failed})
    eventually(lambda: not server.service.sessions)
    assert not staged(stocked) and not server.accounts.get("alice").held
    for directory, names, found in os.walk(os.fsencode(stocked)):
        names[:] = [name for name in names if name not in paths.RESERVED]
        for name in found:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                content = Path(os.fsdecode(path)).read_bytes()
                assert content == bytes_of(name, len(content)), path


@st.composite
def downloads(draw: st.DrawFn) -> GetFiles:
    directories = []
    for path in draw(st.lists(PATHS.filter(len), max_size=5)):
        files = st.builds(WantedFile, NAMES, SIZES | st.sampled_from([7, 7, 7]) | ODD_SIZES)
        one = WantedFiles(path, draw(st.lists(files, max_size=6)))
        directories += [one] * draw(st.sampled_from([1] * 20 + [2, 1000]))
    return GetFiles(directories)


@FUZZ
@given(data=st.data())
def test_any_download_of_many_files(server, dial, stocked, canary, data):
    """Each file that is asked for is told of, and what comes are its bytes; nothing is told that is
    not in the home."""
    request = data.draw(downloads())
    behind = data.draw(
        st.lists(
            st.sampled_from(
                [frame(Kind.CANCEL, 1), frame(Kind.CANCEL, 2), frame(Kind.REQUEST, 3, request)]
            ),
            max_size=2,
        )
    )
    payload = messages.encode(request)
    if len(payload) > frames.MAX_CONTROL:
        return
    with Peer.connect(server.server_address[:2]) as peer:
        peer.log_in()
        peer.send(frame(Kind.REQUEST, 1, payload), *behind, frame(Kind.REQUEST, LAST, WhoAmI()))
        said, in_step = until_the_last(peer)
    assert in_step, said
    reported: list[SentFile | None] = []
    content = b""
    for one in said:
        if one.request_id != 1:
            continue
        assert one.kind != Kind.NOTICE
        if one.kind == Kind.DATA:
            content += one.payload
        elif isinstance(one.message, SendingFiles):
            assert not content
            reported += one.message.files
        else:
            end = one.message
    if isinstance(end, Failed):
        assert end.code in ("bad-request", "cancelled") and not content
        return
    requested = [file for one in request.directories for file in one.files]
    assert end == Sent(len(content)) and len(reported) == len(requested)
    at = 0
    for file, its in zip(requested, reported, strict=True):
        if its is not None:
            part = content[at : at + file.size]
            at += file.size
            assert part == bytes_of(b"b", 7) and its.digest == digests.digest(part)
    assert at == len(content)


# cuts and cancels --------------------------------------------------------------------------

_CUT = PutFiles(
    [NewFiles(b"/t", [NewFile(b"a", 3, 0o644, TIME, digests.digest(b"aaa"))], 0o755)],
    [Finished(b"/t", 0o750, TIME)],
)
_WHOLE = [
    frame(Kind.REQUEST, 1, _CUT),
    frame(Kind.DATA, 1, b"a"),
    frame(Kind.DATA, 1, b"aa"),
    frame(Kind.END, 1, Sent(3)),
]


def test_a_connection_that_is_cut_at_any_byte(server, stocked):
    whole = b"".join(_WHOLE)
    for count in range(len(whole)):
        with Peer.connect(server.server_address[:2]) as peer:
            peer.log_in()
            peer.send(whole[:count])
        eventually(lambda: not server.service.sessions)
        assert not (stocked / "t").exists() and not staged(stocked), count
    with Peer.connect(server.server_address[:2]) as peer:  # the control
        peer.log_in()
        peer.send(whole)
    eventually(lambda: (stocked / "t").exists() and not server.service.sessions)
    assert (stocked / "t" / "a").read_bytes() == b"aaa"
    assert (stocked / "t").stat().st_mode & 0o777 == 0o750


@each_way
@pytest.mark.parametrize("before", range(1, len(_WHOLE)))
def test_a_cancel_in_the_place_of_each_frame(serve, way, before):
    site = serve()
    peer = site.user()
    peer.send(*_WHOLE[:before], frame(Kind.CANCEL, 1))
    found = peer.answer()
    assert (found.request_id, found.message.code) == (1, "cancelled")
    assert not (site.server.settings.root / "alice" / "t").exists()
    peer.send(*_WHOLE, frame(Kind.CANCEL, 1))  # too late
    assert peer.answer().message == FilesStored(3)
    assert site.is_served(peer)


@each_way
def test_the_same_directory_a_thousand_times(serve, way):
    """And one that leads into itself as deep as a path can: that is done, or each fails."""
    site = serve()
    peer = site.user()
    top = site.server.settings.root / "alice"
    number = peer.request(PutFiles([NewFiles(b"/t", [], 0o755)] * MAX_ITEMS))
    peer.frame(Kind.END, number, Sent(0))
    assert peer.answer().message == FilesStored(MAX_ITEMS)
    assert os.listdir(top / "t") == []
    nested = [NewFiles(b"/t" + b"/d" * count, [], 0o755) for count in range(300)]
    number = peer.request(PutFiles(nested))
    peer.frame(Kind.END, number, Sent(0))
    failures = []
    while isinstance((found := peer.answer().message), NotStored):
        failures += found.failures
    assert found == FilesStored(255)  # as many parts as a path has
    assert [one.index for one in failures] == list(range(255, 300))
    assert {one.code for one in failures} == {"invalid-path"}
    peer.request(GetFiles([WantedFiles(b"/t", [])] * MAX_ITEMS))
    assert peer.answer().message == Sent(0)
    assert site.is_served(peer)


def test_huge_sums_of_sizes_take_no_memory(server, dial):
    peer = dial(server)
    huge = [NewFile(b"%d" % number, 2**63 - 1, 0o644, TIME, bytes(32)) for number in range(900)]
    wanted = [WantedFile(one.name, one.size) for one in huge]
    peer.ask(WhoAmI())
    tracemalloc.start()
    try:
        number = peer.request(PutFiles([NewFiles(b"/", huge)]))
        assert peer.answer().message.code == "bad-request"
        peer.frame(Kind.CANCEL, number)
        assert peer.ask(GetFiles([WantedFiles(b"/", wanted)])).code == "bad-request"
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


# memory ------------------------------------------------------------------------------------

MOST_MEMORY = 6 * MIB
"""Bytes that the largest request may take in the server: its message, decoded and not, the bytes of
its files, what is known of each, and what is told of it."""


def the_largest(top: bytes) -> tuple[PutFiles, bytes]:
    """As many things, bytes and letters as one request may have."""
    size = MAX_BYTES // (MAX_ITEMS - 1)
    files, data = [], []
    for number in range(MAX_ITEMS - 1):
        its = b"%04d" % number * (size // 4)
        data.append(its)
        name = b"%04d" % number + b"n" * 60
        files.append(NewFile(name, len(its), 0o600, TIME, digests.digest(its)))
    return PutFiles([NewFiles(top, files)]), b"".join(data)


def test_the_largest_request_takes_little_memory(server, dial):
    """While its bytes come, while it is stored, and while the same comes back; as often as it is
    sent without waiting."""
    peer = dial(server)
    request, data = the_largest(b"/")
    payload = messages.encode(request)
    assert len(payload) > frames.MAX_CONTROL - 16 * 1024
    size = request.directories[0].files[0].size
    wanted = messages.encode(
        GetFiles(
            [WantedFiles(b"/", [WantedFile(f.name, size) for f in request.directories[0].files])]
        )
    )
    whole = [
        frame(Kind.REQUEST, 1, payload),
        frame(Kind.DATA, 1, data),
        frame(Kind.END, 1, Sent(len(data))),
    ]
    requested = frame(Kind.REQUEST, 2, wanted)
    peer.ask(WhoAmI())
    tracemalloc.start()
    try:
        peer.send(*whole)
        assert peer.answer().message == FilesStored(MAX_ITEMS)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        tracemalloc.reset_peak()
        for _ in range(3):
            peer.send(*whole)
        for _ in range(3):
            assert peer.answer().message == FilesStored(MAX_ITEMS)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        tracemalloc.reset_peak()
        peer.send(requested)
        count = 0
        while not isinstance((found := peer.answer()).message, Sent):
            count += len(found.payload) if found.kind == Kind.DATA else 0
        assert count == len(data)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        kept = tracemalloc.get_traced_memory()[0]
        assert kept < MIB, "an idle session holds none of it"
    finally:
        tracemalloc.stop()


def test_an_answer_about_a_thousand_failures_takes_little_memory(server, dial):
    """Each of them with a path that is as long as paths are."""
    peer = dial(server)
    top = b"/" + b"/".join([b"d" * 250] * 10)
    files = [NewFile(b"%d" % number, 0, 0o600, TIME, bytes(32)) for number in range(999)]
    request = frame(Kind.REQUEST, 1, PutFiles([NewFiles(top, files)]))
    peer.ask(WhoAmI())
    tracemalloc.start()
    try:
        peer.send(request, frame(Kind.END, 1, Sent(0)))
        count = 0
        while isinstance((found := peer.answer().message), NotStored):
            count += len(found.failures)
        assert (count, found) == (999, FilesStored(1))
        assert tracemalloc.get_traced_memory()[1] < 3 * MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_a_request_of_no_files_at_all(server, dial):
    peer = dial(server)
    number = peer.request(PutFiles([]))
    peer.frame(Kind.END, number, Sent(0))
    assert peer.answer().message == FilesStored(0)
    number = peer.request(PutFiles([]))
    peer.frame(Kind.END, number, Sent(1))
    assert peer.answer().message.code == "verification-failed"


def test_an_end_twice_ends_the_connection_after_the_answer(server, dial, files):
    peer = dial(server)
    peer.send(*_WHOLE, _WHOLE[-1])
    stored, last = (one for one in peer.read_to_end() if one.kind != Kind.NOTICE)
    assert stored.message == FilesStored(3)
    assert (last.request_id, last.message.code) == (0, "bad-message")
    assert (files / "t" / "a").exists()


@pytest.mark.parametrize("op", ["put-files", "get-files"])
def test_a_value_that_cannot_be_fails_alone(server, dial, op):
    """With the bytes that follow it."""
    peer = dial(server)
    reported = {
        "op": op,
        "directories": [
            [b"/", [[b"a", -1, 0o644, 5, bytes(32)][: None if op == "put-files" else 2]]]
        ],
    }
    peer.send(frame(Kind.REQUEST, 1, msgspec.msgpack.encode(reported)))
    if op == "put-files":
        peer.send(frame(Kind.DATA, 1, b"data"), frame(Kind.END, 1, Sent(4)))
    found = peer.answer().message
    assert found.code == "bad-request" and "directories" in found.message
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
