"""A server that lies about many files that come in one answer.

Lives here: what is wrong with the answer as a whole, and with one file of it.
Lives elsewhere: names and modes that it lists (test_server_listings.py, test_server_modes.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpclient.transfer.report import Listener, Result
from ftpwire import digests, messages
from ftpwire.errors import FtpError
from ftpwire.frames import Kind, pack_header
from ftpwire.messages import MANY_FILES, GetFiles, Page, SendingFiles, Sent, SentFile
from tests.ftpclient.transfer.storing_server import StoringServer
from tests.lying_server import DATA, LyingServer, contents, file_entry
from tests.peer import FakeServer, Frame, Peer

NAMES = [b"one", b"two", b"three"]
GOOD = SentFile(0o644, 5, digests.digest(DATA))


def server(lie, names=NAMES) -> LyingServer:
    """A server of some files of the same bytes.

    Args:
        lie: Answers a `GetFiles`: called with the peer and the request's id.
    """

    def ask(peer: Peer, requested: Frame) -> bool:
        match requested.message:
            case GetFiles():
                lie(peer, requested.request_id)
                return True
        return False

    pages = [Page(b"", [file_entry(name) for name in names], [], True)]
    return LyingServer(pages=pages, ask=ask, greet=lambda peer: peer.greet(features=[MANY_FILES]))


def answer(*reported, data: bytes = DATA * 3, size: int | None = None, digest: bytes | None = None):
    """An answer that is whole, and as it is told."""

    def send(peer: Peer, number: int) -> None:
        for files in reported:
            peer.reply(number, SendingFiles(files))
        if data:
            peer.frame(Kind.DATA, number, data)
        peer.frame(Kind.END, number, Sent(len(data) if size is None else size, digest))

    return send


def data_first(peer: Peer, number: int) -> None:
    peer.reply(number, SendingFiles([GOOD, GOOD]))
    peer.frame(Kind.DATA, number, DATA * 2)
    peer.reply(number, SendingFiles([GOOD]))
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA) * 3))


def end_without_anything(peer: Peer, number: int) -> None:
    peer.frame(Kind.END, number, Sent(0))


def a_lot_announced(peer: Peer, number: int) -> None:
    """Bytes beyond what was asked for are refused before they come."""
    peer.reply(number, SendingFiles([GOOD] * 3))
    peer.send(pack_header(4 * 1024 * 1024, Kind.DATA, number))


def a_hole(peer: Peer, number: int) -> None:
    peer.reply(number, SendingFiles([GOOD] * 3))
    peer.frame(Kind.NOTICE, number, messages.Hole(10))


def no_digest(peer: Peer, number: int) -> None:
    """Not even decoded."""
    peer.reply(number, SendingFiles([SentFile(0o644, 5, b"short")] * 3))


def another_reply(peer: Peer, number: int) -> None:
    peer.reply(number, messages.Sending(5, 0o644, 5))


def another_end(peer: Peer, number: int) -> None:
    peer.reply(number, SendingFiles([GOOD] * 3))
    peer.frame(Kind.DATA, number, DATA * 3)
    peer.frame(Kind.END, number, messages.Listed())


LIES = {
    "too-few": answer([GOOD, GOOD], data=DATA * 2),
    "too-many": answer([GOOD] * 4, data=DATA * 4),
    "twice": answer([GOOD] * 3, [GOOD] * 3),
    "none-and-more": answer([None] * 3, [GOOD], data=DATA),
    "too-many-bytes": answer([GOOD] * 3, data=DATA * 3 + b"x"),
    "too-few-bytes": answer([GOOD] * 3, size=len(DATA) * 3 - 1),
    "bytes-missing": answer([GOOD] * 3, data=DATA * 2),
    "bytes-of-none": answer([GOOD, None, GOOD]),
    "wrong-sum": answer([GOOD] * 3, size=len(DATA) * 3 + 1),
    "data-first": data_first,
    "end-alone": end_without_anything,
    "announced": a_lot_announced,
    "hole": a_hole,
    "no-digest": no_digest,
    "another-reply": another_reply,
    "another-end": another_end,
}


def outcome(work) -> FtpError:
    with pytest.raises(FtpError) as caught:
        work()
    return caught.value


WAYS = {
    "get": lambda client, target: client.get(["/t"], target, recursive=True),
    "sync": lambda client, target: client.sync(":/t", str(target)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_answer_that_is_not_one_ends_the_connection_and_writes_nothing(
    fake, connect, tmp_path, canary, lie, way
):
    client = connect(fake(server(lie)), retries=0)
    error = outcome(lambda: way(client, tmp_path / "t"))
    assert error.exit_code == 10, error
    assert contents(tmp_path / "t") == set()


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_with_a_wrong_digest_is_refused_and_the_others_are_here(
    fake, connect, tmp_path, verify
):
    bad = SentFile(0o644, 5, bytes(32))
    client = connect(fake(server(answer([GOOD, bad, GOOD]))), retries=0, verify=verify)
    summary = client.get(["/t"], tmp_path / "t", recursive=True)
    assert (summary.done, summary.failed, summary.exit_code) == (2, 1, 1)
    assert "two" in str(summary.first_error)
    assert contents(tmp_path / "t") == {"one", "three"}


def test_bytes_of_one_file_in_the_place_of_another(fake, connect, tmp_path):
    """The digests are in the order asked for, and the bytes are not."""
    other = b"x" * len(DATA)
    reported = [GOOD, SentFile(0o644, 5, digests.digest(other)), GOOD]
    client = connect(fake(server(answer(reported, data=other + DATA + DATA))), retries=0)
    summary = client.get(["/t"], tmp_path / "t", recursive=True)
    assert (summary.done, summary.failed) == (1, 2)
    assert contents(tmp_path / "t") == {"three"}


def test_modes_give_no_more_rights_than_those_of_files(fake, connect, tmp_path):
    reported = [SentFile(0o7777, 5, GOOD.digest), SentFile(0, -(2**63), GOOD.digest), GOOD]
    client = connect(fake(server(answer(reported))), retries=0)
    client.get(["/t"], tmp_path / "t", recursive=True)
    assert (tmp_path / "t" / "one").stat().st_mode & 0o7777 == 0o777


def test_the_same_name_listed_twice_is_one_file(fake, connect, tmp_path):
    client = connect(fake(server(answer([GOOD] * 3), [b"same", b"same", b"x"])), retries=0)
    assert client.get(["/t"], tmp_path / "t", recursive=True).exit_code == 0
    assert contents(tmp_path / "t") == {"same", "x"}


def test_who_sends_none_of_them_is_asked_for_each_once(fake, connect, tmp_path):
    requested = []

    def lie(peer: Peer, number: int) -> None:
        requested.append("many")
        answer([None] * 3, data=b"")(peer, number)

    lying = server(lie)
    honest = lying.get
    lying.get = lambda peer, number: (requested.append("one"), honest(peer, number))
    client = connect(fake(lying), retries=0)
    assert client.get(["/t"], tmp_path / "t", recursive=True).done == 3
    assert requested == ["many", "one", "one", "one"]


def test_a_server_that_doesn_t_name_the_feature_is_not_asked(fake, connect, tmp_path):
    lying = server(lambda peer, number: pytest.fail("asked"))
    lying.greet = lambda peer: peer.greet()
    assert connect(fake(lying), retries=0).get(["/t"], tmp_path / "t", recursive=True).done == 3


@pytest.mark.parametrize("came", range(0, len(DATA) * 3 + 1, 7))
def test_a_cut_leaves_what_came_whole_and_nothing_in_part(fake, connect, tmp_path, came):
    def cut(peer: Peer, number: int) -> None:
        peer.reply(number, SendingFiles([GOOD] * 3))
        peer.send(pack_header(len(DATA) * 3, Kind.DATA, number), (DATA * 3)[:came])
        peer.close()
        raise EOFError

    client = connect(fake(server(cut)), retries=0)
    assert outcome(lambda: client.get(["/t"], tmp_path / "t", recursive=True)).exit_code == 4
    whole = came // len(DATA)
    assert contents(tmp_path / "t") == {name.decode() for name in NAMES[:whole]}


# any answer at all -------------------------------------------------------------------------


def _of(kind: Kind, message: messages.Message | bytes) -> tuple[Kind, bytes]:
    return kind, message if isinstance(message, bytes) else messages.encode(message)


OTHER = digests.digest(b"other")
SENT_FILES = st.sampled_from(
    [None, GOOD, GOOD, SentFile(0o7777, -(2**63), GOOD.digest), SentFile(0o600, 5, OTHER)]
)
ANSWERS = st.one_of(
    st.lists(SENT_FILES, max_size=5).map(lambda reported: _of(Kind.REPLY, SendingFiles(reported))),
    st.sampled_from([0, 1, 20, len(DATA), len(DATA) * 2, len(DATA) * 3, len(DATA) * 3 + 1]).map(
        lambda size: _of(Kind.DATA, (DATA * 4)[:size])
    ),
    st.sampled_from([0, 1, 2, 3, 4]).map(lambda n: _of(Kind.END, Sent(len(DATA) * n))),
    st.sampled_from(
        [
            _of(Kind.END, Sent(2**63 - 1)),
            _of(Kind.END, Sent(len(DATA) * 3, bytes(32))),
            _of(Kind.END, messages.Listed()),
            _of(Kind.END, messages.FilesStored(3)),
            _of(Kind.END, b"\x90"),
            _of(Kind.REPLY, messages.Sending(len(DATA), 0o644, 5)),
            _of(Kind.REPLY, messages.NotStored([messages.ItemFailure(0, "quota", "full")])),
            _of(Kind.REPLY, b"\x81\xa2op\xadsending-files"),
            _of(Kind.REPLY, b"\xc1"),
            _of(Kind.NOTICE, messages.Hole(len(DATA))),
            _of(Kind.NOTICE, messages.Progress(1)),
            _of(Kind.NOTICE, messages.GoingDown()),
            _of(Kind.ERROR, messages.Failed("bad-request", "no")),
            _of(Kind.ERROR, messages.Failed("too-many", "no")),
            _of(Kind.ERROR, messages.Failed("a-code-of-later", "no")),
            _of(Kind.CANCEL, b""),
            _of(Kind.REQUEST, GetFiles([])),
        ]
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(ANSWERS, min_size=1, max_size=5), honest=st.sampled_from([True, False]))
def test_any_answer(connect, canary, frames, honest):
    """What is written is whole and has the digest that was told; else the job says what is wrong.

    With ``honest``, the beginning of a right answer comes first.
    """

    def lie(peer: Peer, number: int) -> None:
        if honest:
            peer.reply(number, SendingFiles([GOOD] * 3))
        for kind, payload in frames:
            peer.frame(kind, number, payload)
        peer.close()
        raise EOFError

    with tempfile.TemporaryDirectory() as place, FakeServer(server(lie)) as faked:
        with connect(faked, retries=0) as client:
            target = Path(place, "t")
            try:
                summary = client.get(["/t"], target, recursive=True)
            except FtpError as error:
                assert error.exit_code in (1, 4, 10), repr(error)
            else:
                assert summary.done + summary.failed == 3
            for name in contents(target):
                assert (target / name).read_bytes() == DATA
                assert name.encode() in NAMES


def _not_stored(*indexes: int) -> messages.NotStored:
    return messages.NotStored([messages.ItemFailure(one, "exists", "no") for one in indexes])


PUT_ANSWERS = st.one_of(
    st.lists(st.integers(0, 6), max_size=3).map(lambda found: _not_stored(*found)),
    st.lists(st.integers(0, 4), max_size=2, unique=True).map(
        lambda found: _not_stored(*sorted(found))
    ),
    st.integers(0, 6).map(messages.FilesStored),
    st.integers(3, 5).map(messages.FilesStored),
    st.sampled_from(
        [
            messages.Failed("too-many", "no"),
            messages.Failed("verification-failed", "no"),
            messages.Failed("quota", "no", needed=5, free=1, what="bytes"),
            messages.Failed("cancelled", "no"),
            messages.Stored(3),
            messages.Ready(),
            SendingFiles([GOOD]),
            Sent(5),
            messages.FilesStored(-1),
            messages.FilesStored(2**63),
        ]
    ),
)


def accepted(frames: list, items: int) -> set[int] | None:
    """The indexes that were done by what a server says; None: it never says so rightly."""
    failed: list[int] = []
    for message in frames:
        if isinstance(message, messages.FilesStored):
            return set(range(items)) - set(failed) if message.done == items - len(failed) else None
        if not isinstance(message, messages.NotStored):
            return None
        failed += [one.index for one in message.failures]
        if failed != sorted(set(failed)) or any(one >= items for one in failed):
            return None
    return None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(PUT_ANSWERS, min_size=1, max_size=4))
def test_any_answer_to_an_upload(connect, tmp_path_factory, frames):
    """A file is told as stored only if the server says so rightly."""
    source = tmp_path_factory.mktemp("source") / "t"
    source.mkdir()
    for name in NAMES:
        (source / name.decode()).write_bytes(name)
    asked_for: list[messages.PutFiles] = []

    def lie(peer: Peer, requested: Frame, failures: object, count: int) -> None:
        asked_for.append(requested.message)
        for message in frames:
            if isinstance(message, messages.FilesStored | Sent):
                peer.frame(Kind.END, requested.request_id, message)
            else:
                peer.reply(requested, message)
        peer.close()
        raise EOFError

    reported: list[Result] = []

    class Recording(Listener):
        def finished(self, result: Result) -> None:
            reported.append(result)

    with FakeServer(StoringServer(answer=lie)) as faked, connect(faked, retries=0) as client:
        try:
            summary = client.put(source, "/t", recursive=True, listener=Recording())
        except FtpError as error:
            assert error.exit_code in (1, 4, 7, 10, 130), repr(error)
        else:
            assert summary.done + summary.failed >= 1
    paths = [
        path
        for one in asked_for[0].directories
        for path in (None, *(one.path + b"/" + file.name for file in one.files))
    ]
    items = len(paths) + len(asked_for[0].finished)
    stored = {paths[index] for index in accepted(frames, items) or () if index < len(paths)}
    assert {one.target for one in reported if one.status == "done"} <= stored
    if accepted(frames, items) is not None:
        done = {one.target for one in reported if one.status == "done"}
        assert done == stored - {None}
