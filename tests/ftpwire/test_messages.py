"""Messages: all of them there and back, and everything else refused."""

from __future__ import annotations

import tracemalloc
import types
import typing
from typing import Annotated, Literal, Union

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.msgpack import encode as pack

from ftpwire import errors, messages
from ftpwire.decoding import BadReply
from ftpwire.errors import BadMagic, BadMessage, BadRequest, UnknownRequest
from ftpwire.messages import (
    Ending,
    Entry,
    Failed,
    Found,
    Hello,
    List,
    Login,
    Message,
    Notice,
    Page,
    Problem,
    Progress,
    Put,
    Reply,
    Request,
    Sent,
    Stat,
)

# A strategy for each type a field may have ---------------------------------------------------


def strategy_for(hint) -> st.SearchStrategy:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return limited(args[0], args[1])
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(strategy_for, args))
    if origin is tuple:
        return st.tuples(*map(strategy_for, args))
    if origin is list:
        return st.lists(strategy_for(args[0]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs(hint)
    return {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**64 - 1),
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        bytes: st.binary(max_size=20),
    }[hint]


def limited(hint, meta: msgspec.Meta) -> st.SearchStrategy:
    if hint is int:
        return st.integers(meta.ge, meta.le)
    least, most = meta.min_length or 0, meta.max_length
    if hint is bytes:
        return st.binary(min_size=least, max_size=min(most, 40)) | st.just(b"x" * most)
    if typing.get_origin(hint) is list:
        return st.lists(strategy_for(typing.get_args(hint)[0]), max_size=min(3, meta.max_length))
    assert hint is str
    if meta.pattern is not None:
        return st.from_regex(meta.pattern)
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=most)


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: strategy_for(hints[field.name]) for field in msgspec.structs.fields(kind)}
    required = {
        field.name
        for field in msgspec.structs.fields(kind)
        if field.required  # the others are sometimes left at their defaults
    }
    return st.fixed_dictionaries(
        {name: value for name, value in fields.items() if name in required},
        optional={name: value for name, value in fields.items() if name not in required},
    ).map(lambda values: kind(**values))


# The families ------------------------------------------------------------------------------

REFUSED = (BadMessage, BadRequest)
"""What is raised for what is no message of a family."""
DECODERS = {
    "request": (messages.decode_request, typing.get_args(Request)),
    "reply": (messages.decode_reply, typing.get_args(Reply)),
    "ending": (messages.decode_ending, typing.get_args(Ending)),
    "notice": (messages.decode_notice, typing.get_args(Notice)),
    "sent": (messages.decode_sent, (Sent,)),
    "failed": (messages.decode_failed, (Failed,)),
    "hello": (lambda payload: messages.decode_hello(b"FTPW" + bytes(payload)), (Hello,)),
}
BASES = (messages.RequestBase, messages.RequestFor, messages.ChangeFor, messages.StreamFor)
NUMBERED = {
    *(messages.MakeDir, messages.MakeLink, messages.EndTree, messages.Remove, messages.Move),
    *(messages.Copy, messages.Restore, messages.Purge),
}
"""What cannot be asked again without a number: it would find its own work done."""


def kinds_of(base: type) -> list[type]:
    """All kinds of message, without what only types them."""
    found = [kind for one in base.__subclasses__() for kind in (one, *kinds_of(one))]
    return [kind for kind in found if kind not in BASES]


EVERY = kinds_of(Message)
decoders = pytest.mark.parametrize(
    "decode", [pytest.param(decode, id=name) for name, (decode, _) in DECODERS.items()]
)


OPERATION = "17979cfe362a0000-0123abcd"
ITEM = "0123abcd-7"


def tag(kind) -> str:
    return kind.__struct_config__.tag


def least(kind) -> Message:
    """A message of that kind with as little in it as it may have."""
    samples = {
        "path": b"/p",
        "source": b"/s",
        "target": b"/t",
        "digest": bytes(32),
        "key": bytes(16),
        "entry": Entry(b"/p", "file", 1, 0o644, 0),
        "operation": OPERATION,
    } | dict.fromkeys(["user", "password", "code", "message", "token", "old", "new", "id"], "text")
    values = {
        field.name: samples.get(field.name, [] if _is_list(field) else 7)
        for field in msgspec.structs.fields(kind)
        if field.required
    }
    return msgspec.convert({"op": tag(kind)} | values, kind)


def _is_list(field: msgspec.structs.FieldInfo) -> bool:
    return isinstance(msgspec.inspect.type_info(field.type), msgspec.inspect.ListType)


least_of_each = pytest.mark.parametrize(
    "message", [pytest.param(least(kind), id=tag(kind)) for kind in EVERY]
)


def test_every_message_is_in_a_family():
    in_a_family = [kind for _, kinds in DECODERS.values() for kind in kinds]
    assert set(EVERY) == set(in_a_family)
    assert sorted(set(in_a_family), key=tag) == sorted(EVERY, key=tag)


def test_type_checkers_know_the_answers_that_are_checked():
    """``ask(request: RequestFor[R]) -> R`` holds only if this does."""
    for kind in typing.get_args(Request):
        [base] = kind.__orig_bases__
        changes = typing.get_origin(base) is messages.ChangeFor
        assert changes == (kind in NUMBERED)
        args = [eval(arg, vars(messages)) for arg in typing.get_args(base)]
        kinds = tuple(typing.get_args(arg) or (arg,) for arg in args)
        answers, endings = messages.ANSWERS[kind]
        assert kinds == ((answers, endings) if endings else (answers,)), kind
        if not changes:
            assert typing.get_origin(base) is (
                messages.StreamFor if endings else messages.RequestFor
            )


def test_tags_are_unique():
    assert len({tag(kind) for kind in EVERY}) == len(EVERY)


@pytest.mark.parametrize("kind", EVERY, ids=tag)
def test_every_message_reports_what_it_is_for(kind):
    assert kind.__doc__ and kind.__struct_config__.frozen
    assert kind.__struct_config__.tag_field == "op"


@pytest.mark.parametrize(
    ("decode", "kind"),
    [
        pytest.param(decode, kind, id=f"{name}-{tag(kind)}")
        for name, (decode, kinds) in DECODERS.items()
        for kind in kinds
    ],
)
@pytest.mark.parametrize("form", [bytes, memoryview], ids=["bytes", "memoryview"])
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_round_trip(decode, kind, form, data):
    message = data.draw(structs(kind))
    assert decode(form(messages.encode(message))) == message
    if kind is Hello:
        assert messages.decode_hello(form(messages.encode_hello(message))) == message


@pytest.mark.parametrize(
    "family", [pytest.param(family, id=family) for family in DECODERS if family != "notice"]
)
@least_of_each
def test_other_families_are_refused(family, message):
    decode, kinds = DECODERS[family]
    if isinstance(message, kinds):
        assert decode(messages.encode(message)) == message
    else:
        with pytest.raises(REFUSED):
            decode(messages.encode(message))


@least_of_each
def test_unknown_notices_are_nothing(message):
    """A notice needs no answer: one that is not known here is passed over."""
    known = isinstance(message, Notice)
    assert messages.decode_notice(messages.encode(message)) == (message if known else None)


@least_of_each
def test_defaults_do_not_travel(message):
    """What a message doesn't say is its default, so that fields can be added."""
    travelling = msgspec.msgpack.decode(messages.encode(message))
    fields = msgspec.structs.fields(message)
    required = {field.name for field in fields if field.required}
    if isinstance(message, Hello):  # two versions have different defaults: all of it is said
        required = {field.name for field in fields}
    assert set(travelling) == {"op"} | required


@least_of_each
def test_fields_of_newer_peers_are_ignored(message):
    newer = msgspec.msgpack.decode(messages.encode(message)) | {"field of later": [1, {"x": b"y"}]}
    accepted = [
        decode(pack(newer)) for decode, kinds in DECODERS.values() if type(message) in kinds
    ]
    assert accepted and all(each == message for each in accepted)


def test_entries_of_newer_peers_are_ignored_beyond_what_is_known():
    entry = [b"a", "file", 1, 0o644, 5, None, None, "new"]
    assert messages.decode_reply(pack({"op": "found", "entry": entry})) == Found(
        Entry(b"a", "file", 1, 0o644, 5)
    )


@pytest.mark.parametrize(
    ("decode", "form", "known"),
    [
        pytest.param(
            messages.decode_request,
            {"op": "put-files", "directories": [[b"/d", [[b"f", 1, 0o644, 5, bytes(32), 9]], 7, 9]]}
            | {"finished": [[b"/d", 0o755, 5, {"new": 1}]]},
            messages.PutFiles(
                [messages.NewFiles(b"/d", [messages.NewFile(b"f", 1, 0o644, 5, bytes(32))], 7)],
                [messages.Finished(b"/d", 0o755, 5)],
            ),
            id="put-files",
        ),
        pytest.param(
            messages.decode_request,
            {"op": "get-files", "directories": [[b"/d", [[b"f", 1, "new"]], None]]},
            messages.GetFiles([messages.WantedFiles(b"/d", [messages.WantedFile(b"f", 1)])]),
            id="get-files",
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "not-stored", "failures": [[0, "c", "m", None, None, None, None, None, "new"]]},
            messages.NotStored([messages.ItemFailure(0, "c", "m")]),
            id="not-stored",
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "sending-files", "files": [None, [0o644, 5, bytes(32), "new"]]},
            messages.SendingFiles([None, messages.SentFile(0o644, 5, bytes(32))]),
            id="sending-files",
        ),
    ],
)
def test_arrays_of_many_files_may_be_longer(decode, form, known):
    assert decode(pack(form)) == known


# What is refused ---------------------------------------------------------------------------

FORM = {
    "stat": {"op": "stat", "path": b"/p"},
    "get": {"op": "get", "path": b"/p"},
    "put": {"op": "put", "path": b"/p"},
    "put-piece": {"op": "put-piece", "key": bytes(16), "offset": 0, "size": 1},
    "login": {"op": "login", "user": "u", "password": "p"},
    "make-link": {"op": "make-link", "path": b"/p", "target": b"t"},
    "move": {"op": "move", "source": b"/s", "target": b"/t"},
    "copy": {"op": "copy", "source": b"/s", "target": b"/t"},
    "make-dir": {"op": "make-dir", "path": b"/p"},
    "set-attributes": {"op": "set-attributes", "path": b"/p"},
    "remove": {"op": "remove", "path": b"/p"},
    "restore": {"op": "restore", "operation": OPERATION},
    "put-files": {"op": "put-files", "directories": [[b"/p", [[b"f", 1, 0o644, 5, bytes(32)]]]]},
    "get-files": {"op": "get-files", "directories": [[b"/p", [[b"f", 1]]]]},
}
NEW = [b"f", 1, 0o644, 5, bytes(32)]


def new_file(at: int, value: object) -> dict[str, object]:
    """A `put-files` of one file, one of whose elements is another one."""
    return {"directories": [[b"/p", [[*NEW[:at], value, *NEW[at + 1 :]]]]]}


def wanted_file(*elements: object) -> dict[str, object]:
    """A `get-files` of one file."""
    return {"directories": [[b"/p", [list(elements)]]]}


OPTIONAL = {
    "operation": {"op": "operation"},
    "list-trash": {"op": "list-trash"},
    "purge": {"op": "purge"},
}
"""Those of which nothing is required."""


@pytest.mark.parametrize("form", [*FORM.values(), *OPTIONAL.values()], ids=[*FORM, *OPTIONAL])
def test_the_forms_that_are_spoiled_below_are_good(form):
    messages.decode_request(pack(form))


@pytest.mark.parametrize(
    ("op", "changes"),
    [
        pytest.param(op, changes, id=f"{op}-{name}")
        for op, name, changes in [
            ("stat", "path-empty", {"path": b""}),
            ("stat", "path-too-long", {"path": b"/" * 4097}),
            ("stat", "path-text", {"path": "/p"}),
            ("stat", "path-null", {"path": None}),
            ("stat", "path-number", {"path": 1}),
            ("stat", "path-array", {"path": [1, 2]}),
            ("stat", "follow-number", {"follow": 1}),
            ("stat", "follow-null", {"follow": None}),
            ("stat", "op-unknown", {"op": "no-such"}),
            ("stat", "op-empty", {"op": ""}),
            ("stat", "op-number", {"op": 3}),
            ("stat", "op-bytes", {"op": b"stat"}),
            ("stat", "op-null", {"op": None}),
            ("stat", "op-upper-case", {"op": "STAT"}),
            ("get", "offset-negative", {"offset": -1}),
            ("get", "offset-beyond-63-bits", {"offset": 2**63}),
            ("get", "offset-beyond-64-bits", {"offset": 2**64 - 1}),
            ("get", "offset-float", {"offset": 1.5}),
            ("get", "offset-text", {"offset": "1"}),
            ("get", "offset-bool", {"offset": True}),
            ("put", "size-negative", {"size": -1}),
            ("put-piece", "size-0", {"size": 0}),
            ("put", "size-beyond-63-bits", {"size": 2**63}),
            ("put", "mode-with-type-bits", {"mode": 0o100644}),
            ("put", "mode-negative", {"mode": -1}),
            ("put", "mtime-beyond-63-bits", {"mtime_ns": 2**63}),
            ("put", "mtime-float", {"mtime_ns": 0.5}),
            ("put", "overwrite-unknown", {"overwrite": "sometimes"}),
            ("put", "overwrite-null", {"overwrite": None}),
            ("login", "user-too-long", {"user": "u" * 65}),
            ("login", "password-too-long", {"password": "p" * 1025}),
            ("login", "password-bytes", {"password": b"p"}),
            ("login", "user-null", {"user": None}),
            ("make-link", "target-empty", {"target": b""}),
            ("make-link", "target-too-long", {"target": b"t" * 4097}),
            ("move", "overwrite-older", {"overwrite": "older"}),
            ("copy", "overwrite-older", {"overwrite": "older"}),
            ("make-dir", "mode-too-large", {"mode": 0o10000}),
            ("set-attributes", "mode-text", {"mode": "0644"}),
            ("remove", "final-number", {"final": 1}),
            ("remove", "number-negative", {"number": -1}),
            ("remove", "number-beyond-32-bits", {"number": 2**32}),
            ("remove", "again-text", {"again": "yes"}),
            ("operation", "id-short", {"id": bytes(7)}),
            ("operation", "id-long", {"id": bytes(9)}),
            ("operation", "id-text", {"id": "01234567"}),
            ("operation", "words-too-long", {"words": "w" * 201}),
            ("operation", "words-null", {"words": None}),
            ("operation", "client-short", {"client": b""}),
            ("operation", "keep-null", {"keep": None}),
            ("list-trash", "operation-path", {"operation": "../" + OPERATION[3:]}),
            ("list-trash", "operation-upper-case", {"operation": OPERATION.upper()}),
            ("list-trash", "operation-bytes", {"operation": OPERATION.encode()}),
            ("list-trash", "operation-newline", {"operation": OPERATION + "\n"}),
            ("list-trash", "below-empty", {"below": b""}),
            ("list-trash", "limit-0", {"limit": 0}),
            ("restore", "items-text", {"items": ITEM}),
            ("restore", "items-path", {"items": ["../../x"]}),
            ("restore", "items-empty-name", {"items": [""]}),
            ("restore", "items-index", {"items": ["index"]}),
            ("restore", "items-too-many", {"items": [ITEM] * 1001}),
            ("restore", "paths-too-many", {"paths": [b"/p"] * 101}),
            ("restore", "conflict-unknown", {"conflict": "merge"}),
            ("restore", "target-empty", {"target": b""}),
            ("purge", "before-negative", {"before": -1}),
            ("purge", "before-too-late", {"before": 2**40 + 1}),
            ("purge", "items-too-many", {"items": [ITEM] * 1001}),
            ("stat", "in-trash-one", {"in_trash": [OPERATION]}),
            ("stat", "in-trash-three", {"in_trash": [OPERATION, ITEM, "x"]}),
            ("stat", "in-trash-no-item", {"in_trash": [OPERATION, "index"]}),
            ("get", "in-trash-no-operation", {"in_trash": ["..", ITEM]}),
            ("put-files", "directories-map", {"directories": {b"/p": []}}),
            ("put-files", "directories-null", {"directories": None}),
            ("put-files", "directories-too-many", {"directories": [[b"/p"]] * 1001}),
            ("put-files", "directory-text", {"directories": [["/p"]]}),
            ("put-files", "directory-empty", {"directories": [[b""]]}),
            ("put-files", "directory-too-long", {"directories": [[b"/" * 4097]]}),
            ("put-files", "directory-of-nothing", {"directories": [[]]}),
            ("put-files", "directory-a-map", {"directories": [{"path": b"/p"}]}),
            ("put-files", "files-null", {"directories": [[b"/p", None]]}),
            ("put-files", "files-too-many", {"directories": [[b"/p", [NEW] * 1001]]}),
            ("put-files", "make-type-bits", {"directories": [[b"/p", [], 0o40755]]}),
            ("put-files", "make-bool", {"directories": [[b"/p", [], True]]}),
            ("put-files", "name-empty", new_file(0, b"")),
            ("put-files", "name-too-long", new_file(0, b"n" * 256)),
            ("put-files", "name-text", new_file(0, "f")),
            ("put-files", "size-negative", new_file(1, -1)),
            ("put-files", "size-beyond-63-bits", new_file(1, 2**63)),
            ("put-files", "size-null", new_file(1, None)),
            ("put-files", "mode-with-type-bits", new_file(2, 0o100644)),
            ("put-files", "mtime-beyond-63-bits", new_file(3, 2**63)),
            ("put-files", "mtime-null", new_file(3, None)),
            ("put-files", "digest-short", new_file(4, bytes(31))),
            ("put-files", "digest-null", new_file(4, None)),
            ("put-files", "file-cut-short", {"directories": [[b"/p", [NEW[:4]]]]}),
            ("put-files", "finished-too-many", {"finished": [[b"/p", 0o755, 5]] * 1001}),
            ("put-files", "finished-cut-short", {"finished": [[b"/p", 0o755]]}),
            ("put-files", "finished-mode-null", {"finished": [[b"/p", None, 5]]}),
            ("put-files", "overwrite-unknown", {"overwrite": "sometimes"}),
            ("put-files", "parents-number", {"parents": 1}),
            ("get-files", "directories-too-many", {"directories": [[b"/p", []]] * 1001}),
            ("get-files", "files-left-out", {"directories": [[b"/p"]]}),
            ("get-files", "files-too-many", {"directories": [[b"/p", [[b"f", 1]] * 1001]]}),
            ("get-files", "directory-empty", {"directories": [[b"", []]]}),
            ("get-files", "name-empty", wanted_file(b"", 1)),
            ("get-files", "name-too-long", wanted_file(b"n" * 256, 1)),
            ("get-files", "size-negative", wanted_file(b"f", -1)),
            ("get-files", "size-beyond-63-bits", wanted_file(b"f", 2**63)),
            ("get-files", "size-left-out", wanted_file(b"f")),
        ]
    ],
)
def test_spoiled_fields(op, changes):
    with pytest.raises(REFUSED):
        messages.decode_request(pack((FORM | OPTIONAL)[op] | changes))


@pytest.mark.parametrize("op", FORM)
def test_missing_fields(op):
    for field in FORM[op]:
        with pytest.raises(REFUSED):
            messages.decode_request(
                pack({name: value for name, value in FORM[op].items() if name != field})
            )


@pytest.mark.parametrize(
    ("decode", "form"),
    [
        pytest.param(messages.decode_ending, {"op": "sent", "size": -1}, id="sent-size-negative"),
        pytest.param(messages.decode_sent, {"op": "sent", "size": 2**63}, id="sent-size-too-large"),
        pytest.param(
            messages.decode_sent, {"op": "sent", "size": 1, "digest": bytes(31)}, id="digest-short"
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "hashed", "digest": bytes(33), "size": 1},
            id="digest-long",
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "found", "entry": [b"a", "socket", 1, 2, 3]},
            id="entry-of-unknown-type",
        ),
        pytest.param(
            messages.decode_reply, {"op": "found", "entry": [b"a", "file"]}, id="entry-cut-short"
        ),
        pytest.param(
            messages.decode_reply, {"op": "page", "entries": {"a": 1}}, id="entries-not-a-list"
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "page", "problems": [["a", "b", "c"]]},
            id="problem-text-path",
        ),
        pytest.param(messages.decode_failed, {"op": "failed", "code": 5}, id="failed-code-number"),
        pytest.param(
            messages.decode_reply,
            {"op": "not-stored", "failures": [[-1, "quota", "full"]]},
            id="index-negative",
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "not-stored", "failures": [[1000, "quota", "full"]]},
            id="index-too-large",
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "not-stored", "failures": [[0, "quota"]]},
            id="item-failure-cut-short",
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "not-stored", "failures": [[0, "quota", "full"]] * 1001},
            id="failures-too-many",
        ),
        pytest.param(messages.decode_reply, {"op": "not-stored"}, id="failures-left-out"),
        pytest.param(
            messages.decode_reply,
            {"op": "sending-files", "files": [[0o100644, 5, bytes(32)]]},
            id="sent-file-with-type-bits",
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "sending-files", "files": [[0o644, 5, None]]},
            id="sent-file-without-a-digest",
        ),
        pytest.param(
            messages.decode_reply,
            {"op": "sending-files", "files": [None] * 1001},
            id="sent-files-too-many",
        ),
        pytest.param(messages.decode_ending, {"op": "files-stored"}, id="done-left-out"),
        pytest.param(messages.decode_failed, {"op": "failed", "code": "x"}, id="failed-no-message"),
    ],
)
def test_spoiled_answers(decode, form):
    with pytest.raises(REFUSED):
        decode(pack(form))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="a-byte-that-msgpack-never-uses"),
        pytest.param(b"\xc0", id="null"),
        pytest.param(b"\x90", id="array"),
        pytest.param(b"\x81\xa2op\xa0", id="op-empty"),
        pytest.param(b"\x81\xa2op", id="value-missing"),
        pytest.param(b"\x81\xa2op\xa4st", id="value-cut-short"),
        pytest.param(b"\x81\xa2op\xa4\xff\xfe\xfd\xfc", id="op-not-utf-8"),
        pytest.param(b"\x82\xa2op\xa5login\xa4user\xa2\xff\xfe", id="field-not-utf-8"),
        pytest.param(b"\x82\xa2op\xa4stat\xa2\xff\xfe\xc0", id="key-not-utf-8"),
        pytest.param(b"\xdf\xff\xff\xff\xff\xa2op", id="map-of-4-billion"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="array-of-4-billion"),
        pytest.param(b"\x82\xa2op\xa4stat\xa4path\xc6\xff\xff\xff\xff", id="bytes-of-4-gib"),
        pytest.param(b"\x82\xa2op\xa5login\xa4user\xdb\xff\xff\xff\xff", id="text-of-4-gib"),
        pytest.param(
            b"\x82\xa2op\xa4stat\xa4path\xc9\xff\xff\xff\xff\x05", id="extension-of-4-gib"
        ),
        pytest.param(b"\x82\xa2op\xa4stat\xa4path\xd6\xff\0\0\0\0", id="a-time-for-a-path"),
        pytest.param(pack(FORM["stat"]) + b"\xc0", id="trailing-byte"),
        pytest.param(pack(FORM["stat"]) * 2, id="two-messages"),
        pytest.param(b"{" + b'"op":"stat"}', id="json"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
    ],
)
@decoders
def test_malformed(decode, payload):
    if decode is messages.decode_notice:
        try:
            assert decode(payload) is None
        except REFUSED:
            pass
        return
    with pytest.raises(REFUSED) as caught:
        decode(payload)
    assert type(caught.value) in (BadMessage, BadReply, BadRequest, UnknownRequest)
    assert str(caught.value).isprintable()


DEEP = 100_000


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x91" * DEEP, id="arrays"),
        pytest.param(b"\x81\xa1a" * DEEP, id="maps"),
        pytest.param(b"\x81" * DEEP, id="maps-as-keys"),
        pytest.param(b"\x83\xa2op\xa4stat\xa1x" + b"\x91" * DEEP, id="in-an-unknown-field"),
        pytest.param(
            b"\x83\xa2op\xa4stat\xa1x" + b"\x91" * DEEP + b"\xc0\xa4path\xa1/",
            id="and-then-well-formed",
        ),
        pytest.param(b"\x82\xa2op\xa4page\xa7entries" + b"\x91" * DEEP, id="in-a-list"),
        pytest.param(b"\x82\xa2op\xa8progress\xa4done" + b"\x91" * DEEP, id="in-a-number"),
    ],
)
@decoders
def test_deep_nesting(decode, payload):
    try:
        assert decode(payload) is None and decode is messages.decode_notice
    except REFUSED:
        pass


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        pytest.param(decode, least(kind), id=f"{name}-{tag(kind)}")
        for name, (decode, kinds) in DECODERS.items()
        for kind in kinds
    ],
)
def test_every_cut_is_refused(decode, message):
    whole = messages.encode(message)
    for end in range(len(whole)):
        with pytest.raises(REFUSED):
            decode(whole[:end])


@decoders
@given(payload=st.binary(max_size=200))
@example(payload=b"\x80")
def test_noise(decode, payload):
    """Nothing else ever comes out."""
    try:
        assert decode(payload) in (None, Hello())  # an empty map: after the magic it says enough
    except REFUSED as error:
        assert str(error).isprintable()


@decoders
@given(data=st.data())
def test_damaged_messages(decode, data):
    """Every byte of a good message may be another one: a message or a refusal, nothing else."""
    kinds = next(kinds for each, kinds in DECODERS.values() if each is decode)
    wire = bytearray(messages.encode(data.draw(structs(data.draw(st.sampled_from(kinds))))))
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(wire))
    except REFUSED as error:
        assert str(error).isprintable()
    else:
        assert found is None or isinstance(found, kinds)


@pytest.mark.parametrize(
    ("decode", "start"),
    [
        pytest.param(messages.decode_reply, b"\x82\xa2op\xa4page\xa7entries", id="page-entries"),
        pytest.param(messages.decode_reply, b"\x82\xa2op\xa4page\xa8problems", id="page-problems"),
        pytest.param(DECODERS["hello"][0], b"\x82\xa2op\xa5hello\xa8features", id="hello-features"),
    ],
)
def test_a_claimed_length_allocates_nothing(decode, start):
    tracemalloc.start()
    try:
        for claimed in (2**20, 2**28, 2**32 - 1):
            with pytest.raises(REFUSED):
                decode(start + b"\xdd" + claimed.to_bytes(4, "big"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\x1b[2J\r\nfake log line", id="control-characters"),
        pytest.param("\u202e", id="right-to-left-override"),
        pytest.param("x" * 100_000, id="long"),
        pytest.param("\0" * 100_000, id="long-once-escaped"),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda value: {"op": value}, id="op"),
        pytest.param(lambda value: FORM["put"] | {"overwrite": value}, id="field"),
    ],
)
def test_the_text_quotes_the_peer_safely(form, value):
    """It goes into logs: printable, on one line, and of bounded length."""
    with pytest.raises(REFUSED) as caught:
        messages.decode_request(pack(form(value)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


# HELLO -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"F", id="one-byte"),
        pytest.param(b"FTP", id="three-bytes"),
        pytest.param(b"ftpw" + pack({"op": "hello"}), id="lower-case"),
        pytest.param(pack({"op": "hello"}), id="without-magic"),
        pytest.param(b" FTPW" + pack({"op": "hello"}), id="shifted"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http-get"),
        pytest.param(b"POST / HTTP/1.0\r\n\r\n", id="http-post"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="ssh"),
        pytest.param(b"USER anonymous\r\n", id="old-ftp"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="tls"),
        pytest.param(bytes(100), id="zeros"),
    ],
)
@pytest.mark.parametrize("form", [bytes, memoryview], ids=["bytes", "memoryview"])
def test_other_protocols_lack_the_magic(form, payload):
    with pytest.raises(BadMagic):
        messages.decode_hello(form(payload))


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(pack({"op": "hello", "version": "1"}), id="version-text"),
        pytest.param(pack({"op": "hello", "features": "abc"}), id="features-text"),
        pytest.param(pack({"op": "hello", "features": [1]}), id="features-numbers"),
        pytest.param(pack({"op": "stat", "path": b"/"}), id="another-message"),
        pytest.param(pack({"op": "hello"}) + b"\0", id="trailing-byte"),
        pytest.param(b"\x91" * DEEP, id="deep"),
    ],
)
def test_after_the_magic_a_hello(rest):
    with pytest.raises(REFUSED):
        messages.decode_hello(b"FTPW" + rest)


def test_hello_of_an_unknown_version_is_read():
    """So that the refusal can name both versions."""
    hello = messages.decode_hello(b"FTPW" + pack({"op": "hello", "version": 99, "features": ["x"]}))
    assert (hello.version, hello.features) == (99, ["x"])


def test_lists_of_defaults_are_not_shared():
    Hello().features.append("x")
    Page().entries.append(Problem(b"x", "y", "z"))
    assert Hello().features == [] and Page().entries == []


# Secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{0!r}".format, lambda m: repr([m])])
def test_repr_of_login_hides_the_password(show):
    text = show(Login("somebody", "hunter2"))
    assert "somebody" in text and "hunter2" not in text


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"password": "hunter2" * 200}, id="password-too-long"),
        pytest.param({"user": 1}, id="user-number"),
        pytest.param({"op": "no-such"}, id="unknown-op"),
        pytest.param({"password": ["hunter2"]}, id="password-list"),
        pytest.param({"password": b"hunter2"}, id="password-bytes"),
    ],
)
def test_the_error_about_a_bad_login_hides_the_password(changes):
    login = {"op": "login", "user": "somebody", "password": "hunter2"} | changes
    with pytest.raises(REFUSED) as caught:
        messages.decode_request(pack(login))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__  # nor does a traceback go on to the decoder's own


# Failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=errors.BY_CODE)
def test_failures_come_back_as_the_errors_they_were(kind):
    sent = Failed.from_error(kind("the text"))
    failed = messages.decode_failed(messages.encode(sent))
    found = failed.to_error(ends=True)
    if issubclass(kind, errors.FOUND_HERE):
        kind = errors.CommandError
    assert type(found) is kind
    assert str(found) == "the text"
    assert (found.code, found.exit_code) == (kind.code, kind.exit_code)
    if issubclass(kind, errors.ConnectionLost):  # no answer to a request is the connection's end
        kind = errors.CommandError
    assert type(failed.to_error()) is kind


@pytest.mark.parametrize("kind", errors.FOUND_HERE)
def test_nobody_learns_from_a_peer_what_only_this_side_can_find_out(kind):
    found = Failed(kind.code, "the text").to_error(ends=True)
    assert (type(found), str(found)) == (errors.CommandError, "the text")


def test_failures_keep_what_was_missing():
    sent = Failed.from_error(errors.QuotaExceeded("full", needed=2**40, free=0, what="files"))
    found = messages.decode_failed(messages.encode(sent)).to_error()
    assert isinstance(found, errors.QuotaExceeded)
    assert (found.needed, found.free, found.what) == (2**40, 0, "files")


def test_failures_keep_all_facts():
    facts = dict.fromkeys(errors.FACTS, None) | {
        "needed": 1,
        "free": 2,
        "what": "bytes",
        "retry_after": 3,
        "path": b"/p",
        "rule": "/=none",
    }
    assert set(facts) == set(errors.FACTS)
    sent = Failed.from_error(errors.Forbidden("no", **facts))
    found = messages.decode_failed(messages.encode(sent)).to_error()
    assert {name: getattr(found, name) for name in errors.FACTS} == facts
    again = found.with_text("other words")
    assert (type(again), str(again)) == (errors.Forbidden, "other words")
    assert {name: getattr(again, name) for name in errors.FACTS} == facts


def test_a_failure_says_what_it_is_about_unless_the_error_does():
    assert Failed.from_error(errors.NotFound("x"), b"/p").path == b"/p"
    assert Failed.from_error(errors.NotFound("x", path=b"/q"), b"/p").path == b"/q"


def test_a_path_that_is_none_is_not_taken_from_a_server():
    assert Failed("not-found", "x", path=b"../etc").to_error().path is None


def test_a_refused_version_reports_those_that_are_spoken():
    sent = Failed.from_error(errors.VersionMismatch("no", (1, 2)))
    assert messages.decode_failed(messages.encode(sent)).to_error().versions == (1, 2)


def test_an_unknown_code_is_an_ordinary_failure():
    found = Failed("from-the-future", "text", needed=5).to_error()
    assert type(found) is errors.CommandError
    assert (str(found), found.needed, found.exit_code) == ("text", 5, 1)


# The shape that other clients rely on --------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        pytest.param(Stat(b"/a"), {"op": "stat", "path": b"/a"}, id="stat"),
        pytest.param(
            List(b"/", recursive=True), {"op": "list", "path": b"/", "recursive": True}, id="list"
        ),
        pytest.param(
            List(b"/", prefix=b"a\xff"),
            {"op": "list", "path": b"/", "prefix": b"a\xff"},
            id="list-of-a-prefix",
        ),
        pytest.param(
            Put(b"/a", 3, mode=0o600, overwrite="older"),
            {"op": "put", "path": b"/a", "size": 3, "mode": 0o600, "overwrite": "older"},
            id="put",
        ),
        pytest.param(
            Found(Entry(b"/a", "link", 1, 0o777, -5, b"t")),
            {"op": "found", "entry": [b"/a", "link", 1, 0o777, -5, b"t", None]},
            id="found",
        ),
        pytest.param(Progress(1, 2), {"op": "progress", "done": 1, "total": 2}, id="progress"),
    ],
)
def test_on_the_wire(message, wire):
    assert msgspec.msgpack.decode(messages.encode(message)) == wire
