"""Messages from payloads, and what is wrong with a payload that is none.

Lives here: decoding the messages of one family, telling a payload that breaks the framing from a
message with one wrong value, and the words for both.
Lives elsewhere: the messages (messages.py), frames (frames.py), what follows from an error.

The usual message, without keys that are unknown here, is one call of the decoder: it refuses
unknown keys, so these cost nothing until there are some. Everything else is looked at key by key.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, get_args

import msgspec
from msgspec import inspect

from ftpwire.errors import BadMessage, BadRequest, FtpError
from ftpwire.paths import printable

MAX_DEPTH = 32
"""Most levels of arrays and maps in the value of a key that is unknown here."""
_QUOTED = 64
"""Characters of a name that are repeated to who has sent it."""
_WRONG = (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError)
_PATH = "path"

_FIRST_ONES = 64
"""So many messages of a family are decoded before it is worth to be ready for all of its kinds."""

Payload = bytes | memoryview
M = TypeVar("M")


class BadReply(BadMessage):
    """What the server has sent is a message, but not one that may come there, or has a value that
    it can't have: what it answers has failed, and nothing else."""


class Family(Generic[M]):
    """The messages that may come in frames of one kind.

    Args:
        kinds: Their union, or the one that it is.
        what: What each of them is, for errors: a noun that ``a`` can stand before.
        unknown, bad: What is raised for a message of another name, and for one with a wrong value.

    Attributes:
        prepare: Be ready for all kinds. It is done by itself when many messages have come.
        decode: One whole message. Raises BadMessage where it is no msgpack, no map with strings as
            keys, or has no ``op``; else ``unknown`` or ``bad``.
    """

    def __init__(
        self,
        kinds: Any,
        what: str,
        *,
        unknown: type[FtpError] = BadMessage,
        bad: type[FtpError] = BadMessage,
    ) -> None:
        members = get_args(kinds) or (kinds,)
        self._kinds = {str(one.__struct_config__.tag): one for one in members}
        self._what = what
        self._unknown = unknown
        self._bad = bad
        self._own: dict[str, Callable[[Payload], M]] = {}
        self._first_ones = 0
        usual: Callable[[Payload], M] = self._first

        def decode(payload: Payload) -> M:  # no method: it is called for every frame
            try:
                return usual(payload)
            except _WRONG:
                pass
            return self._look_closely(payload)

        def prepare() -> None:
            nonlocal usual
            usual = msgspec.msgpack.Decoder(kinds).decode

        self.decode = decode
        self.prepare = prepare

    def _first(self, payload: Payload) -> M:
        """One of the first messages, by the decoder of its own kind.

        That of all kinds takes milliseconds to make, and a short command sees three of them.
        """
        self._first_ones += 1
        if self._first_ones > _FIRST_ONES:
            self.prepare()
        name = _op(payload).op
        own = self._own.get(name)
        if own is None:
            if name not in self._kinds:
                raise msgspec.ValidationError(name)
            own = self._own[name] = msgspec.msgpack.Decoder(self._kinds[name]).decode
        return own(payload)

    def _look_closely(self, payload: Payload) -> M:
        """The same, key by key: without those that are unknown here."""
        try:
            values = _values(payload)
            name = _name(values.get("op"))
        except ValueError as error:
            raise BadMessage(f"not a {self._what}: {error}") from None
        kind = self._kinds.get(name)
        if kind is None:
            shown = printable(name[:_QUOTED])
            raise _of_request(self._unknown(f"unknown {self._what}: {shown}"), None) from None
        fields, found = _fields(kind), {}
        problem = None
        for key, value in values.items():
            if key in fields:
                try:
                    found[key] = fields[key].decode(value)
                except _WRONG:
                    problem = problem or f"{key} must be {fields[key].words}"
            elif key != "op" and _is_deep(value):
                shown = printable(key[:_QUOTED])
                problem = problem or f"{shown} is nested more than {MAX_DEPTH} levels deep"
        missing = [key for key, field in fields.items() if field.required and key not in values]
        if missing and not problem:
            problem = f"{missing[0]} is missing"
        if problem:
            raise _of_request(self._bad(f"{name}: {problem}"), kind, found.get(_PATH)) from None
        return kind(**found)  # type: ignore[no-any-return]


def _of_request(error: FtpError, kind: type[Any] | None, path: bytes | None = None) -> FtpError:
    """The error, which tells also what was asked for, as far as that is known."""
    if isinstance(error, BadRequest):
        error.request = kind
        error.path = path
    return error


# the values of a message -------------------------------------------------------------------

_map: Callable[[Payload], dict[str, msgspec.Raw]] = msgspec.msgpack.Decoder(
    dict[str, msgspec.Raw]
).decode


class _Op(msgspec.Struct):
    op: str


_op: Callable[[Payload], _Op] = msgspec.msgpack.Decoder(_Op).decode
_str: Callable[[Payload], str] = msgspec.msgpack.Decoder(str).decode


def _values(payload: Payload) -> Mapping[str, Payload | msgspec.Raw]:
    """The values of a map, each still as msgpack. Of a key that is there twice, the last one.

    Raises:
        ValueError: It is none, or its keys aren't strings.
    """
    try:
        return _map(payload)
    except RecursionError:  # one of them is nested more deeply than the decoder may go
        return _values_of_deep(memoryview(payload))
    except msgspec.ValidationError:
        raise ValueError("no map with strings as keys") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError("malformed msgpack") from None


def _name(value: Payload | msgspec.Raw | None) -> str:
    if value is None:
        raise ValueError("it has no op")
    try:
        return _str(value)
    except _WRONG:
        raise ValueError("its op is no string") from None


def _values_of_deep(data: memoryview) -> dict[str, Payload | msgspec.Raw]:
    """The same, however deep they are nested."""
    found: dict[str, Payload | msgspec.Raw] = {}
    try:
        kind, count, at = _head(data, 0)
        if kind is not _Kind.MAP:
            raise ValueError("no map with strings as keys")
        for _ in range(count // 2):
            start, at = at, _measure(data, at)[0]
            key, start, at = _str(data[start:at]), at, _measure(data, at)[0]
            found[key] = data[start:at]
    except (IndexError, struct.error, *_WRONG):
        raise ValueError("malformed msgpack") from None
    if at != len(data):
        raise ValueError("malformed msgpack")
    return found


_CONTAINERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""The bytes that arrays and maps begin with."""


def _is_deep(value: Payload | msgspec.Raw) -> bool:
    packed = bytes(value)
    if len(packed) - len(packed.translate(None, _CONTAINERS)) <= MAX_DEPTH:
        return False  # a level has one of these bytes at least, and most values have few
    return _measure(memoryview(packed), 0)[1] > MAX_DEPTH


def _measure(data: memoryview, at: int) -> tuple[int, int]:
    """Where a value ends, and how many arrays and maps are within each other in it.

    Raises:
        ValueError, IndexError, struct.error: It is no msgpack.
    """
    open_ones, deepest = [1], 0
    while open_ones:
        if not open_ones[-1]:
            open_ones.pop()
            continue
        open_ones[-1] -= 1
        kind, count, at = _head(data, at)
        if kind is _Kind.SCALAR:
            at += count
        else:
            open_ones.append(count)
            deepest = max(deepest, len(open_ones) - 1)
    if at > len(data):
        raise IndexError("it ends within a value")
    return at, deepest


class _Kind:
    """What a value of msgpack is made of."""

    SCALAR = "scalar"
    ARRAY = "array"
    MAP = "map"


def _head(data: memoryview, at: int) -> tuple[str, int, int]:
    """What begins there, how many bytes or elements follow, and where these begin."""
    first = data[at]
    at += 1
    if first <= 0x7F or first >= 0xE0:
        return _Kind.SCALAR, 0, at
    if first <= 0x8F:
        return _Kind.MAP, 2 * (first & 0x0F), at
    if first <= 0x9F:
        return _Kind.ARRAY, first & 0x0F, at
    if first <= 0xBF:
        return _Kind.SCALAR, first & 0x1F, at
    if first in _FIXED:
        return _Kind.SCALAR, _FIXED[first], at
    if first not in _SIZED:
        raise ValueError("malformed msgpack")
    kind, length, more = _SIZED[first]
    (count,) = length.unpack_from(data, at)
    return kind, count * (2 if kind is _Kind.MAP else 1) + more, at + length.size


_FIXED = {
    **{0xC0: 0, 0xC2: 0, 0xC3: 0},  # nil, false, true
    **{0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8},
    **{0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17},  # extensions, with their type
}
"""Bytes that follow the first one of a value."""
_U8, _U16, _U32 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I")
_SIZED = {
    **{0xC4: (_Kind.SCALAR, _U8, 0), 0xC5: (_Kind.SCALAR, _U16, 0), 0xC6: (_Kind.SCALAR, _U32, 0)},
    **{0xC7: (_Kind.SCALAR, _U8, 1), 0xC8: (_Kind.SCALAR, _U16, 1), 0xC9: (_Kind.SCALAR, _U32, 1)},
    **{0xD9: (_Kind.SCALAR, _U8, 0), 0xDA: (_Kind.SCALAR, _U16, 0), 0xDB: (_Kind.SCALAR, _U32, 0)},
    **{0xDC: (_Kind.ARRAY, _U16, 0), 0xDD: (_Kind.ARRAY, _U32, 0)},
    **{0xDE: (_Kind.MAP, _U16, 0), 0xDF: (_Kind.MAP, _U32, 0)},
}
"""Of values that say themselves how long they are: what they are, how, and what comes besides."""


# the fields of a message -------------------------------------------------------------------


class _Field(msgspec.Struct):
    """What a key of a message may have."""

    decode: Callable[[Any], Any]
    required: bool
    words: str


@functools.cache
def _fields(kind: type[Any]) -> dict[str, _Field]:
    """The keys of a message. Looked up only where something is wrong."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    types = {one.name: one.type for one in msgspec.structs.fields(kind)}
    return {
        field.encode_name: _Field(
            msgspec.msgpack.Decoder(types[field.name]).decode, field.required, _words(field.type)
        )
        for field in info.fields
    }


def _words(kind: inspect.Type) -> str:
    """What a value must be, as docs/protocol.md says it."""
    match kind:
        case inspect.UnionType(types=types):
            named = [_words(one) for one in types if not isinstance(one, inspect.NoneType)]
            return " or ".join([*named, *(["nil"] if len(named) < len(types) else [])])
        case inspect.IntType(ge=None, le=None):
            return "an integer"
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low} to {high}"
        case inspect.BoolType():
            return "true or false"
        case inspect.BytesType(min_length=low, max_length=high):
            return _long("bin", low, high, "bytes")
        case inspect.StrType(min_length=low, max_length=high):
            return _long("str", low, high, "characters")
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(sorted(map(str, values)))
        case inspect.ListType(item_type=item, max_length=most):
            many = "" if most is None else f" of at most {most}"
            return f"an array{many}, each {_words(item)}"
    return "an array as the protocol has it"


def _long(kind: str, low: int | None, high: int | None, unit: str) -> str:
    if high is None:
        return kind
    if low is None:
        return f"{kind} of at most {high} {unit}"
    return f"{kind} of {high if low == high else f'{low} to {high}'} {unit}"
