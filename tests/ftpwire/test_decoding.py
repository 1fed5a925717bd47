"""What is wrong with a payload: the framing, or one value of one message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import decode as unpack
from msgspec.msgpack import encode as pack

from ftpwire import messages
from ftpwire.decoding import MAX_DEPTH, BadReply, _measure, _values_of_deep
from ftpwire.errors import BadMessage, BadRequest, UnknownRequest
from ftpwire.messages import Get, Login, Put, Stat, Stored, WhoAmI

PUT = {"op": "put", "path": b"/p"}


def nested(levels: int, key: bytes = b"x", *, inside: bytes = b"\x91") -> bytes:
    """A request with an unknown key, whose value is nested so deep; another key follows."""
    rest = b"\xa1" + key + inside * levels + b"\xc0"
    return b"\x84\xa2op\xa4stat" + rest + b"\xa4path\xc4\x01/" + b"\xa6follow\xc3"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (PUT | {"mode": 4096}, "put: mode must be an integer from 0 to 4095"),
        (PUT | {"mode": "0644"}, "put: mode must be an integer from 0 to 4095"),
        (PUT | {"size": -1}, f"put: size must be an integer from 0 to {2**63 - 1} or nil"),
        (PUT | {"ask": 1}, "put: ask must be true or false"),
        (PUT | {"overwrite": "maybe"}, "put: overwrite must be one of always, never, older"),
        ({"op": "put"}, "put: path is missing"),
        ({"op": "stat", "path": b""}, "stat: path must be bin of 1 to 4096 bytes"),
        ({"op": "stat", "path": "/"}, "stat: path must be bin of 1 to 4096 bytes"),
        (
            {"op": "put-piece", "key": b"k", "offset": 0, "size": 1},
            "put-piece: key must be bin of 16 bytes",
        ),
        (
            {"op": "login", "user": "u" * 65, "password": ""},
            "login: user must be str of at most 64 characters",
        ),
        (
            {"op": "space", "times": [0.5]},
            "space: times must be an array of at most 1000, each an integer from "
            f"{-(2**63)} to {2**63 - 1}",
        ),
        ({"op": "move", "source": b"/a", "target": b"/b", "overwrite": "older"}, "always, never"),
    ],
)
def test_a_wrong_value_is_named_with_its_bound(message, text):
    with pytest.raises(BadRequest, match=text.replace("-", r"\-")) as caught:
        messages.decode_request(pack(message))
    assert caught.value.code == "bad-request"
    assert "$" not in str(caught.value) and "`" not in str(caught.value)
    assert caught.value.request.__struct_config__.tag == message["op"]


def test_it_reports_what_was_asked_for():
    with pytest.raises(BadRequest) as caught:
        messages.decode_request(pack(PUT | {"mode": -1}))
    assert (caught.value.request, caught.value.path) == (Put, b"/p")
    with pytest.raises(UnknownRequest, match="unknown request: fly") as unknown:
        messages.decode_request(pack({"op": "fly", "path": b"/p"}))
    assert (unknown.value.request, unknown.value.code) == (None, "unknown-request")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="never-used-byte"),
        pytest.param(pack([1]), id="array"),
        pytest.param(pack({"path": b"/"}), id="no-op"),
        pytest.param(pack({"op": 5}), id="op-number"),
        pytest.param(pack({1: 2}), id="key-number"),
        pytest.param(pack(PUT) + b"\xc0", id="trailing"),
        pytest.param(pack(PUT)[:-1], id="cut"),
        pytest.param(nested(5000)[:-1], id="deep-and-cut"),
        pytest.param(nested(5000) + b"\xc0", id="deep-and-trailing"),
        pytest.param(nested(5000).replace(b"\x91\xc0", b"\x91\xc1"), id="deep-and-never-used-byte"),
        pytest.param(b"\x91" * 5000 + b"\xc0", id="deep-array"),
    ],
)
def test_what_is_no_message_ends_the_connection(payload):
    with pytest.raises(BadMessage):
        messages.decode_request(payload)


# unknown keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [b"\x91", b"\x81\x01"], ids=["arrays", "maps"])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 500, 5000, 50_000])
def test_deeper_than_the_limit_is_refused(levels, inside):
    with pytest.raises(BadRequest, match="stat: x is nested more than 32 levels deep") as caught:
        messages.decode_request(nested(levels, inside=inside))
    assert (caught.value.request, caught.value.path) == (Stat, b"/")


@pytest.mark.parametrize("inside", [b"\x91", b"\x81\x01"], ids=["arrays", "maps"])
def test_as_deep_as_the_limit_is_ignored(inside):
    """The control."""
    found = messages.decode_request(nested(MAX_DEPTH, inside=inside))
    assert found == Stat(b"/", follow=True)


def test_the_other_side_has_the_same_limit():
    reply = pack({"op": "stored", "size": 1, "new": [[]]})
    assert messages.decode_reply(reply) == Stored(1)
    deep = reply.replace(b"\x91\x90", b"\x91" * MAX_DEPTH + b"\x90")
    with pytest.raises(BadReply, match="nested"):
        messages.decode_reply(deep)


@pytest.mark.parametrize(
    "value",
    [None, True, 2**64 - 1, -5, 1.5, "x" * 40, "x" * 300, b"x" * 70_000, [1] * 20, {1: {2: [3]}}],
)
def test_the_value_of_an_unknown_key_does_not_matter(value):
    assert messages.decode_request(pack(PUT | {"new": value})) == Put(b"/p")


def test_of_a_key_that_is_there_twice_the_last_one_counts():
    twice = b"\x83\xa2op\xa4stat\xa4path\xc4\x02/a\xa4path\xc4\x02/b"
    assert messages.decode_request(twice) == Stat(b"/b")
    assert messages.decode_request(b"\x84" + twice[1:] + b"\xa1x\x01") == Stat(b"/b")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.integers(0, 99), inner),
    )
)
def test_values_are_measured_as_they_are(value):
    packed = pack({"op": value, "b": 1})
    found = _values_of_deep(memoryview(packed))
    assert bytes(found["op"]) == pack(value)
    assert unpack(bytes(found["b"])) == 1
    assert _measure(memoryview(packed), 0)[0] == len(packed)


@pytest.mark.parametrize(
    ("wire", "depth"),
    [
        (b"\xc0", 0),
        (b"\x90", 1),
        (b"\x91\x90", 2),
        (b"\xdc\x00\x02\x90\x91\x01", 2),
        (b"\xde\x00\x01\x01\x80", 2),
        (b"\xd8" + bytes(17), 0),
        (b"\xc7\x02\x05ab", 0),
        (b"\xd9\x03abc", 0),
        (b"\xca" + bytes(4), 0),
    ],
)
def test_depth(wire, depth):
    assert _measure(memoryview(wire), 0) == (len(wire), depth)


# what is usual costs nothing ---------------------------------------------------------------


@pytest.mark.parametrize(
    "request_", [WhoAmI(), Put(b"/a", 5, 0o600, 7), Get(b"/a", 5), Login("a", "b")], ids=repr
)
def test_a_message_of_this_version_is_one_call_of_the_decoder(request_, monkeypatch):
    """Also one whose defaults are spelled out: nothing is looked at twice."""
    monkeypatch.setattr(messages.Family, "_look_closely", None)
    assert messages.decode_request(messages.encode(request_)) == request_
    spelled = {"op": request_.__struct_config__.tag}
    spelled |= {name: getattr(request_, name) for name in request_.__struct_fields__}
    assert messages.decode_request(pack(spelled)) == request_
