"""The client's protocol without a socket: frames go in, and what became of the calls comes out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpclient.connection.interrupt import TimeOver
from ftpclient.connection.protocol import (
    _CANCEL_LISTING_SECONDS,
    _CANCEL_SECONDS,
    Call,
    ClientProtocol,
    TooManyTransfers,
    outcome_unknown,
    seconds_to_end,
)
from ftpwire import errors, frames, messages
from ftpwire.errors import (
    BadMagic,
    BadMessage,
    Busy,
    Cancelled,
    CommandError,
    ConnectionLost,
    FrameTooBig,
    FtpError,
    ProtocolError,
    SessionEnded,
    TooMany,
    UnknownKind,
    UploadTakenOver,
    VersionMismatch,
)
from ftpwire.frames import HEADER, Kind
from ftpwire.messages import (
    Done,
    Entry,
    Failed,
    Found,
    Get,
    GoingDown,
    Hello,
    List,
    Listed,
    LoggedIn,
    MakeDir,
    Page,
    Progress,
    Put,
    Ready,
    Remark,
    Sending,
    Sent,
    Space,
    SpaceInfo,
    Stat,
    Stored,
    WhoAmI,
)

ENTRY = Entry(b"/x", "file", 1, 0o644, 0)


def frame(kind: int, request_id: int, payload: bytes | messages.Message = b"") -> bytes:
    data = payload if isinstance(payload, bytes) else messages.encode(payload)
    return HEADER.pack(len(data), kind, request_id) + data


def hello(**fields) -> bytes:
    values = {"max_data": frames.MAX_DATA, "max_requests": 100, "max_unanswered": 2**20}
    return frame(Kind.REPLY, 0, messages.encode_hello(Hello(**values | fields)))


def feed(protocol: ClientProtocol, wire: bytes, size: int = 2**30) -> None:
    """As a driver does with what a socket brings, ``size`` bytes at once. Takes all of it."""
    while True:
        if protocol.take():
            continue
        sink, reader = protocol.sink, protocol.reader
        if sink is not None and reader.buffered:
            sink.write(reader.take(reader.remaining))
            continue
        if not wire:
            return
        view = (
            reader.writable()[: protocol.limit]
            if sink is None
            else sink.buffer()[: reader.remaining]
        )
        count = min(len(view), len(wire), size)
        view[:count] = wire[:count]
        wire = wire[count:]
        if sink is None:
            reader.received(count)
        else:
            reader.bypassed(count)
            sink.filled(count)


def greeted(**fields) -> ClientProtocol:
    protocol = ClientProtocol("server:2121")
    feed(protocol, hello(**fields))
    return protocol


class Noted(Call):
    """Notes all that it is told."""

    def __init__(self, *, streams: bool = False, sink: Sink | None = None) -> None:
        super().__init__()
        self.streams = streams
        self.large = sink
        self.replies: list = []
        self.notices: list = []
        self.data = bytearray()
        self.ends = 0

    def on_reply(self, reply) -> bool:
        self.replies.append(reply)
        return not self.streams and not isinstance(reply, Ready)

    def on_frame(self, size: int) -> None:
        if not self.streams:
            super().on_frame(size)
        self.sink = self.large

    def on_data(self, data: memoryview) -> None:
        self.data += data

    def on_notice(self, notice) -> None:
        self.notices.append(notice)

    def on_done(self) -> None:
        assert self.done
        self.ends += 1


class Sink:
    """As a file that is written behind: bytes come straight into its buffer."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._space = memoryview(bytearray(1000))

    def buffer(self) -> memoryview:
        return self._space

    def filled(self, count: int) -> None:
        self.data += self._space[:count]

    def write(self, data: memoryview) -> None:
        self.data += data


def ask(protocol: ClientProtocol, request, call: Noted | None = None, cost: int = 10) -> Noted:
    call = call or Noted()
    protocol.prepare(call, request, cost)
    return call


# HELLO ---------------------------------------------------------------------------------------


def test_what_hello_says_holds_from_then_on():
    protocol = ClientProtocol("server:2121")
    [first] = [protocol.hello()]
    assert messages.decode_hello(first[9:]) == Hello(
        max_control=frames.MAX_CONTROL, max_data=frames.MAX_DATA, versions=[1]
    )
    assert not protocol.is_greeted and protocol.server.max_requests == 0
    feed(protocol, hello(max_requests=3, max_unanswered=500, max_data=4096, features=["kept"]))
    assert protocol.is_greeted and protocol.server.features == ["kept"]
    assert (protocol.max_requests, protocol.max_unanswered) == (3, 500)
    assert protocol.data_size == 4096
    assert protocol.reader.max_data == frames.MAX_DATA
    assert protocol.silence is None


@pytest.mark.parametrize(
    ("fields", "size"), [({"max_data": 0}, 512 * 1024), ({"max_data": 1}, 1024)]
)
def test_limits_that_make_no_sense(fields, size):
    protocol = greeted(**fields, max_requests=-1, max_unanswered=0)
    assert protocol.data_size == size
    ask(protocol, WhoAmI())
    assert not protocol.has_capacity(1), "one at a time"


def test_signs_of_life_are_promised_from_the_log_in_on():
    protocol = greeted(features=["alive"], stall_ms=1500)
    assert protocol.silence is None
    assert protocol.logged_in(LoggedIn("al\x1b[2Jice")) == "al\\x1b[2Jice"
    assert protocol.silence == 1.5
    other = greeted(stall_ms=1500)
    other.logged_in(LoggedIn("alice"))
    assert other.silence is None
    endless = greeted(features=["alive"], stall_ms=2**63 - 1)
    endless.logged_in(LoggedIn("alice"))
    assert endless.silence == 3600, "nor longer than a wait may be"


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        pytest.param(frame(Kind.REPLY, 0, b"HTTP/1.1"), BadMagic, id="another-protocol"),
        pytest.param(frame(Kind.REPLY, 0, b"FTPW\xc1"), BadMessage, id="no-message"),
        pytest.param(frame(Kind.NOTICE, 0, Progress(1)), BadMagic, id="a-notice-first"),
        pytest.param(HEADER.pack(4097, Kind.REPLY, 0), FrameTooBig, id="too-long"),
        pytest.param(HEADER.pack(1, Kind.DATA, 0), FrameTooBig, id="data-first"),
        pytest.param(b"HTTP/1.1 400 Bad Request", UnknownKind, id="text"),
        pytest.param(frame(Kind.ERROR, 0, Failed("busy", "full")), Busy, id="refused"),
    ],
)
def test_no_hello(wire, error):
    protocol = ClientProtocol("server:2121")
    with pytest.raises(error):
        feed(protocol, wire)
    assert isinstance(protocol.error, error)
    assert not protocol.is_greeted


# ids and windows -----------------------------------------------------------------------------


def test_ids_begin_again_and_are_not_shared_with_those_beside():
    protocol = greeted()
    protocol.ids = itertools.count(2**32 - 3)
    other = protocol.beside()
    calls = [ask(one, WhoAmI()) for one in (protocol, other, protocol, other)]
    assert [call.request_id for call in calls] == [2**32 - 2, 2**32 - 1, 1, 2]
    assert list(protocol.calls) == [2**32 - 2, 1]
    feed(other, frame(Kind.REPLY, 2**32 - 1, LoggedIn("alice")))
    assert calls[1].done and not calls[0].done


@given(
    st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=20),
    st.integers(1, 5),
    st.integers(1, 500),
)
def test_no_more_is_unanswered_than_the_server_wants(steps, most, bytes_at_once):
    protocol = greeted(max_requests=most, max_unanswered=bytes_at_once)
    under_way: list[Noted] = []
    for cost, answer in steps:
        if answer and under_way:
            feed(protocol, frame(Kind.REPLY, under_way.pop(0).request_id, LoggedIn("a")))
        total = sum(call.cost for call in under_way)
        fits = len(under_way) < most and total + cost <= bytes_at_once
        assert protocol.has_capacity(cost) == (fits or not under_way)
        if protocol.has_capacity(cost):
            under_way.append(ask(protocol, WhoAmI(), cost=cost))
        assert list(protocol.calls.values()) == under_way


def test_a_request_that_waits_for_its_turn_is_not_unanswered():
    protocol, first, second = greeted(max_unanswered=25), Noted(), Noted()
    protocol.prepare(first, WhoAmI(), 20, enter=False)
    protocol.prepare(second, WhoAmI(), 5, enter=False)
    assert not protocol.calls and protocol.has_capacity(1000)
    protocol.enter(second)
    assert (
        list(protocol.calls) == [2] and protocol.has_capacity(20) and not protocol.has_capacity(21)
    )
    protocol.enter(first)
    assert list(protocol.calls) == [2, 1] and not protocol.has_capacity(1)


# any order that a server may choose ----------------------------------------------------------


@dataclass
class UnaryCall:
    """A request, what a server sends for it, and what the call has to have then."""

    request: messages.Request
    call: Noted
    answers: list[tuple[Kind, bytes | messages.Message]]
    replies: list = field(default_factory=list)
    data: bytes = b""
    error: type[FtpError] | None = None


@st.composite
def requested(draw) -> UnaryCall:
    kind = draw(st.sampled_from(["stat", "list", "get", "get-into-sink", "put", "put-asking"]))
    fails = draw(st.none() | st.sampled_from(["not-found", "cancelled", "quota", "unheard-of"]))
    error = None if fails is None else errors.BY_CODE.get(fails, errors.CommandError)
    failure = [] if fails is None else [(Kind.ERROR, Failed(fails, "no"))]
    if kind == "stat":
        reply = Found(ENTRY)
        if failure:
            return UnaryCall(Stat(b"/x"), Noted(), failure, error=error)
        return UnaryCall(Stat(b"/x"), Noted(), [(Kind.REPLY, reply)], [reply])
    if kind.startswith("put"):
        ready = Ready(5) if kind == "put-asking" and draw(st.booleans()) else None
        replies = [one for one in (ready, None if failure else Stored(9)) if one is not None]
        answers = [(Kind.REPLY, one) for one in replies] + failure
        return UnaryCall(Put(b"/x", 9), Noted(), answers, replies, error=error)
    if kind == "list":
        pages = [Page(b"%d" % number, [ENTRY]) for number in range(draw(st.integers(0, 4)))]
        answers = [(Kind.REPLY, page) for page in pages]
        answers += failure or [(Kind.END, Listed())]
        return UnaryCall(List(b"/"), Noted(streams=True), answers, pages, error=error)
    pieces = draw(st.lists(st.binary(max_size=1500), max_size=3))
    data = b"".join(pieces)
    sending = Sending(len(data), 0o644, 0)
    answers = [(Kind.REPLY, sending), *((Kind.DATA, piece) for piece in pieces)]
    answers += failure or [(Kind.END, Sent(len(data)))]
    call = Noted(streams=True, sink=Sink() if kind == "get-into-sink" else None)
    return UnaryCall(Get(b"/x"), call, answers, [sending], data, error)


@given(st.lists(requested(), max_size=4), st.data())
def test_every_call_gets_what_is_its_own(all_asked, data):
    protocol = greeted()
    remarks: list[str] = []
    protocol.on_remark = remarks.append
    expected_remarks, progress = [], {}
    for one in all_asked:
        ask(protocol, one.request, one.call)
    cancelled = data.draw(st.sets(st.sampled_from(range(len(all_asked))))) if all_asked else set()
    for index in cancelled:
        call = all_asked[index].call
        assert protocol.cancel(call) == frame(Kind.CANCEL, call.request_id)
        protocol.cancelled(call.request_id)
    order = [one.call for one in all_asked]
    for one in all_asked:
        assert protocol.owes_end is (order[0] if order[0].is_dropped else None)
        wire = b""
        for kind, payload in one.answers:
            noise = data.draw(st.sampled_from(["", "progress", "later", "remark", "unknown"]))
            if noise in ("progress", "later"):  # any call that waits may hear of progress
                call = order[-1] if noise == "later" else one.call
                progress.setdefault(call.request_id, []).append(Progress(3))
                wire += frame(Kind.NOTICE, call.request_id, Progress(3))
            elif noise == "remark":
                expected_remarks.append("full soon")
                wire += frame(Kind.NOTICE, 0, Remark("full soon"))
            elif noise == "unknown":
                wire += frame(Kind.NOTICE, 0, b"\x81\xa2op\xa3new")
            wire += frame(kind, one.call.request_id, payload)
        feed(protocol, wire, data.draw(st.sampled_from([1, 7, 9, 10, 100, 2**20])))
        assert order.pop(0).done
        assert list(protocol.calls.values()) == order
    assert protocol.is_idle and not protocol.dropped
    assert protocol.has_capacity(2**40)
    assert remarks == expected_remarks
    for one in all_asked:
        call = one.call
        assert call.ends == 1 and call.replies == one.replies
        assert call.notices == progress.get(call.request_id, [])
        into = call.large.data if call.large is not None else b""
        assert bytes(call.data) + bytes(into) == one.data
        error = one.error
        if error is Cancelled and not call.is_cancelled:
            error = CommandError
        assert type(call.error) is (error or type(None))
        assert (call.ending is not None) == (call.streams and one.error is None)


# a peer that breaks the rules ----------------------------------------------------------------


LATER = msgspec.msgpack.encode({"op": "later"})
BAD_FOUND = msgspec.msgpack.encode({"op": "found", "entry": 5})
BAD_FAILED = msgspec.msgpack.encode({"op": "failed", "code": "x"})


@pytest.mark.parametrize(
    ("request_", "wire", "text"),
    [
        pytest.param(WhoAmI(), frame(Kind.REPLY, 1, Stat(b"/")), "stat", id="a-request"),
        pytest.param(WhoAmI(), frame(Kind.REPLY, 1, LATER), "unknown reply: later", id="unknown"),
        pytest.param(Stat(b"/"), frame(Kind.REPLY, 1, BAD_FOUND), "entry", id="bad-value"),
        pytest.param(WhoAmI(), frame(Kind.ERROR, 1, BAD_FAILED), "message", id="bad-error"),
        pytest.param(List(b"/"), frame(Kind.END, 1, LATER), "closing", id="end-of-a-stream"),
    ],
)
def test_a_last_answer_that_is_not_understood_fails_alone(request_, wire, text):
    protocol = greeted()
    call, next_one = ask(protocol, request_), ask(protocol, WhoAmI())
    call.streams = isinstance(request_, List)
    feed(protocol, wire + frame(Kind.REPLY, 2, LoggedIn("alice")))
    assert isinstance(call.error, BadMessage) and text in str(call.error)
    assert (call.ends, next_one.ends) == (1, 1)
    assert next_one.error is None and next_one.reply == LoggedIn("alice")
    assert protocol.is_idle and protocol.error is None


@pytest.mark.parametrize("request_", [List(b"/"), Put(b"/x", 5)], ids=["list", "put"])
def test_one_that_more_may_follow_ends_the_connection(request_):
    protocol = greeted()
    call = ask(protocol, request_)
    call.streams = isinstance(request_, List)
    with pytest.raises(BadMessage, match="unknown reply: later") as caught:
        feed(protocol, frame(Kind.REPLY, 1, LATER))
    assert protocol.error is caught.value


def test_a_server_goes_on_in_a_version_that_was_offered():
    with pytest.raises(VersionMismatch, match="version 2") as caught:
        feed(ClientProtocol("server:2121"), hello(version=2))
    assert caught.value.versions == (2,)


def test_a_refused_version_reports_those_of_the_server():
    refusal = frame(Kind.ERROR, 0, Failed("version", "no", versions=[2, 3]))
    with pytest.raises(VersionMismatch) as caught:
        feed(ClientProtocol("server:2121"), refusal)
    assert caught.value.versions == (2, 3)


@pytest.mark.parametrize(("own", "most"), [(0, 9), (4, 4)], ids=["of-all", "its-own"])
def test_how_many_sessions_an_account_may_have(own, most):
    protocol = greeted(max_sessions=9)
    assert protocol.max_sessions == 0
    protocol.logged_in(LoggedIn("alice", own))
    assert protocol.max_sessions == protocol.beside().max_sessions == most


@pytest.mark.parametrize(
    ("wire", "error", "text"),
    [
        pytest.param(frame(Kind.REPLY, 9, Done()), BadMessage, "was not sent", id="unasked-reply"),
        pytest.param(frame(Kind.DATA, 9, b"x"), BadMessage, "was not sent", id="unasked-data"),
        pytest.param(frame(Kind.END, 9, Listed()), BadMessage, "was not sent", id="unasked-end"),
        pytest.param(
            frame(Kind.ERROR, 9, Failed("busy", "")), BadMessage, "was not sent", id="error"
        ),
        pytest.param(frame(Kind.REPLY, 1, Done()), BadMessage, "with Done", id="wrong-reply"),
        pytest.param(frame(Kind.END, 1, Listed()), BadMessage, "with Listed", id="wrong-end"),
        pytest.param(frame(Kind.DATA, 1, b"x"), BadMessage, "bytes", id="data-for-a-question"),
        pytest.param(frame(Kind.REPLY, 1, b"\xc1"), BadMessage, "not a reply", id="no-message"),
        pytest.param(frame(Kind.NOTICE, 1, b"\xc1"), BadMessage, "notice", id="no-notice"),
        pytest.param(frame(Kind.REQUEST, 1), BadMessage, "kind 1", id="request"),
        pytest.param(frame(Kind.CANCEL, 1), BadMessage, "kind 6", id="cancel"),
        pytest.param(
            HEADER.pack(2**32 - 1, Kind.REPLY, 1), FrameTooBig, "control", id="endless-reply"
        ),
        pytest.param(HEADER.pack(2**32 - 1, Kind.DATA, 1), FrameTooBig, "DATA", id="endless-data"),
        pytest.param(HEADER.pack(0, 99, 1), UnknownKind, "99", id="unknown-kind"),
    ],
)
def test_what_may_not_come_ends_the_connection(wire, error, text):
    protocol = greeted()
    calls = [ask(protocol, Stat(b"/")), ask(protocol, WhoAmI())]
    with pytest.raises(error, match=text) as caught:
        feed(protocol, wire)
    assert protocol.error is caught.value
    protocol.end(caught.value)
    assert protocol.ended is caught.value
    assert [call.error for call in calls] == [caught.value] * 2
    assert [call.ends for call in calls] == [1, 1]
    assert not protocol.calls


PAYLOADS = st.sampled_from(
    [
        messages.encode(one)
        for one in (
            Done(),
            Found(ENTRY),
            Page(b"", [ENTRY]),
            Sending(10, 0o644, 0),
            Ready(),
            Stored(1),
            SpaceInfo(1, 1),
            Sent(10),
            Listed(),
            Progress(1),
            Remark("x"),
            GoingDown(),
            Failed("not-found", "x"),
            Failed("too-many", "x"),
            Failed("ended", "x"),
        )
    ]
)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 8), st.integers(0, 4), PAYLOADS | st.binary(max_size=20), st.booleans()
        ),
        max_size=12,
    ),
    st.sampled_from([1, 10, 2**20]),
)
def test_whatever_comes_ends_in_a_typed_error(found, size):
    """Each call ends once, whatever a peer makes up, and nothing else than `FtpError` comes out."""
    protocol = greeted()
    calls = [
        ask(protocol, Stat(b"/")),
        ask(protocol, List(b"/"), Noted(streams=True)),
        ask(protocol, Get(b"/"), Noted(streams=True, sink=Sink())),
        ask(protocol, Put(b"/x", 1)),
    ]
    protocol.cancelled(2)
    wire = b""
    for kind, request_id, payload, is_cut in found:
        whole = frame(kind, request_id, payload)
        wire += whole[:-1] if is_cut and len(payload) > 1 else whole
    try:
        feed(protocol, wire, size)
    except FtpError as error:
        assert protocol.error is error
        reported = any(kind == Kind.ERROR and request_id == 0 for kind, request_id, *_ in found)
        assert reported or isinstance(error, (ProtocolError, TooManyTransfers))
    last = protocol.error or ConnectionLost("the peer closed the connection")
    protocol.end(last)
    assert [call.ends for call in calls] == [1] * 4
    assert all(call.done for call in calls)
    assert protocol.owes_end is None
    for call in calls:
        if call.error is None:  # it was answered, by the kind of answer that it may get
            assert all(isinstance(one, call.answers) for one in call.replies)
            assert bool(call.endings) == (call.ending is not None)


# ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SessionEnded, UploadTakenOver])
def test_the_server_s_own_last_word_is_the_error(kind):
    protocol = greeted()
    call = ask(protocol, WhoAmI())
    with pytest.raises(kind, match="^kicked$"):
        feed(protocol, frame(Kind.ERROR, 0, Failed(kind.code, "kicked")))
    assert isinstance(protocol.error, SessionEnded) and protocol.is_over
    assert protocol.lost(protocol.error) is protocol.error
    assert not call.done, "the driver closes first"


@pytest.mark.parametrize("kind", [SessionEnded, UploadTakenOver, ConnectionLost])
def test_the_error_of_one_request_is_no_end_of_the_connection(kind):
    """Whoever waits for a lost connection would wait for the end of one that lives."""
    protocol = greeted()
    call = ask(protocol, Put(b"/x", 1))
    feed(protocol, frame(Kind.ERROR, 1, Failed(kind.code, "says the server")))
    assert type(call.error) is CommandError and str(call.error) == "says the server"
    assert protocol.error is None


@pytest.mark.parametrize("cancelled", [True, False])
def test_what_nobody_has_cancelled_has_failed(cancelled):
    """A cancelled request isn't told of; this one is."""
    protocol = greeted()
    call = ask(protocol, Put(b"/x", 1))
    if cancelled:
        protocol.cancel(call)
    feed(protocol, frame(Kind.ERROR, 1, Failed(Cancelled.code, "so be it", path=b"/x")))
    assert type(call.error) is (Cancelled if cancelled else CommandError)
    assert (str(call.error), call.error.path) == ("so be it", b"/x")


def test_a_server_that_stops_says_why_the_connection_is_lost():
    protocol = greeted()
    assert str(protocol.lost(ConnectionLost("gone"))) == "server:2121: gone"
    assert str(protocol.lost(ConnectionLost("server:2121: gone"))) == "server:2121: gone"
    feed(protocol, frame(Kind.NOTICE, 0, GoingDown("until noon")))
    assert str(protocol.lost(ConnectionLost("gone"))) == "server:2121: until noon"


@pytest.mark.parametrize("is_lost", [True, False])
def test_an_account_with_too_many_transfers(is_lost):
    """For one transfer this is a server that is away; where others share it, it is its own."""
    protocol = greeted()
    protocol.full_is_lost = is_lost
    transfer, question = ask(protocol, Get(b"/x"), Noted(streams=True)), ask(protocol, WhoAmI())
    wire = frame(Kind.ERROR, 1, Failed(TooMany.code, "32 run"))
    if is_lost:
        with pytest.raises(TooManyTransfers, match="^server:2121: 32 run$"):
            feed(protocol, wire)
        assert isinstance(protocol.error, TooManyTransfers)
    else:
        feed(protocol, wire)
        assert isinstance(transfer.error, TooMany) and transfer.ends == 1
        assert not question.done


def test_too_many_of_something_else_is_the_request_s_own_error():
    protocol = greeted()
    call = ask(protocol, messages.IssueToken())
    feed(protocol, frame(Kind.ERROR, 1, Failed(TooMany.code, "100 tokens")))
    assert isinstance(call.error, TooMany) and protocol.error is None


def test_what_one_call_does_at_its_end_keeps_no_other_from_it():
    class Raises(Noted):
        def on_done(self) -> None:
            super().on_done()
            raise KeyboardInterrupt

    protocol = greeted()
    calls = [ask(protocol, WhoAmI(), kind()) for kind in (Noted, Raises, Noted, Raises)]
    with pytest.raises(KeyboardInterrupt):
        protocol.end(Cancelled("given up"))
    assert [call.ends for call in calls] == [1] * 4


def test_in_a_child_process_calls_end_without_a_word():
    protocol = greeted()
    call = ask(protocol, WhoAmI())
    protocol.forget(ConnectionLost("the parent's"))
    assert call.done and isinstance(call.error, ConnectionLost) and not call.ends


# cancelling ----------------------------------------------------------------------------------


def test_only_the_first_in_line_owes_its_end():
    protocol = greeted()
    calls = [ask(protocol, Stat(b"/%d" % number)) for number in range(3)]
    assert protocol.owes_end is None
    protocol.cancelled(calls[1].request_id)
    assert protocol.owes_end is None, "the one before it has its turn"
    feed(protocol, frame(Kind.NOTICE, 2, Progress(1)))
    assert protocol.signs == 1
    feed(protocol, frame(Kind.REPLY, 1, Found(ENTRY)))
    assert protocol.owes_end is calls[1]
    feed(protocol, frame(Kind.ERROR, 2, Failed("cancelled", "")))
    assert protocol.owes_end is None and not protocol.dropped
    protocol.cancelled(2)
    assert not protocol.dropped, "it has ended"


def test_a_listing_is_not_waited_for_as_long_as_an_upload():
    upload, listing = Call(), Call()
    listing.reads_only = True
    assert seconds_to_end([upload, listing]) == _CANCEL_SECONDS
    assert seconds_to_end([listing]) == _CANCEL_LISTING_SECONDS


@pytest.mark.parametrize("error", [ConnectionLost("lost"), TimeOver("not done")])
def test_an_answer_that_did_not_come(error):
    assert outcome_unknown(Space(), error) is error
    assert outcome_unknown(MakeDir(b"/a", parents=True), error) is error
    changed = outcome_unknown(MakeDir(b"/a"), error)
    assert type(changed) is type(error) and str(changed) == f"{error}; it may have been done"
    assert outcome_unknown(MakeDir(b"/a"), changed) is changed
