"""Decoding of messages, and the errors for payloads that are no valid message.

Lives here: decoding the messages of one family, distinguishing a payload that breaks the protocol
from a message with one wrong value, and the error texts of both.
Lives elsewhere: the messages (messages.py), frames (frames.py), what follows from an error.

A message that has only known keys is decoded by one call of a decoder that refuses unknown keys, so
supporting these costs nothing until there are some. Any other message is decoded key by key.
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
"""Most nested arrays and maps in the value of an unknown key."""
_QUOTED = 64
"""Most characters of a name that an error repeats to its sender."""
_WRONG = (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError)
_PATH = "path"

_FIRST_ONES = 64
"""Number of a family's messages that are decoded one kind at a time. After them it pays to make the
decoder of all kinds."""

Payload = bytes | memoryview
M = TypeVar("M")


class BadReply(BadMessage):
    """The server sent a message that is not allowed there, or has an invalid value. Only the
    request that it replies to has failed."""


class Family(Generic[M]):
    """The messages that may come in frames of one kind.

    Args:
        kinds: The union of their types, or a single type.
        what: What to call such a message in errors: a noun to follow ``a``.
        unknown, bad: Errors to raise for a message with an unknown name, and for one with an
            invalid value.

    Attributes:
        prepare: Make the decoder of all kinds. Happens by itself after some messages.
        decode: Decode one whole message. Raises BadMessage if it is no msgpack map with strings as
            keys, or has no ``op``; otherwise ``unknown`` or ``bad``.
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

        def decode(payload: Payload) -> M:  # a closure, not a method: it runs for every frame
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
        """Decode one of the first messages, by the decoder of its own kind.

        The decoder of all kinds takes milliseconds to make, and a short command gets three
        messages.
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
        """Decode key by key, skipping unknown keys."""
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
    """Return the error, with the kind and the path of the request, as far as they are known."""
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
    """Return the values of a map, still as msgpack. Of a key that occurs twice, the last one.

    Raises:
        ValueError: It is no map, or its keys are no strings.
    """
    try:
        return _map(payload)
    except RecursionError:  # a value is nested more deeply than the decoder can go
        return _values_of_deep(memoryview(payload))
    except msgspec.ValidationError:
        raise ValueError("not a map with string keys") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError("malformed msgpack") from None


def _name(value: Payload | msgspec.Raw | None) -> str:
    if value is None:
        raise ValueError("it has no op")
    try:
        return _str(value)
    except _WRONG:
        raise ValueError("its op is not a string") from None


def _values_of_deep(data: memoryview) -> dict[str, Payload | msgspec.Raw]:
    """Do the same as `_values`, for any depth of nesting."""
    found: dict[str, Payload | msgspec.Raw] = {}
    try:
        kind, count, at = _head(data, 0)
        if kind is not _Kind.MAP:
            raise ValueError("not a map with string keys")
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
"""The first bytes of arrays and maps."""


def _is_deep(value: Payload | msgspec.Raw) -> bool:
    packed = bytes(value)
    if len(packed) - len(packed.translate(None, _CONTAINERS)) <= MAX_DEPTH:
        return False  # each level has at least one of these bytes, and most values have few
    return _measure(memoryview(packed), 0)[1] > MAX_DEPTH


def _measure(data: memoryview, at: int) -> tuple[int, int]:
    """Return the offset where a value ends, and how deep arrays and maps are nested in it.

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
    """The kinds of msgpack values."""

    SCALAR = "scalar"
    ARRAY = "array"
    MAP = "map"


def _head(data: memoryview, at: int) -> tuple[str, int, int]:
    """Return a value's kind, the number of bytes or elements in it, and their offset."""
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
    **{0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17},  # extensions, including their type byte
}
"""Number of bytes after the first byte of a value."""
_U8, _U16, _U32 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I")
_SIZED = {
    **{0xC4: (_Kind.SCALAR, _U8, 0), 0xC5: (_Kind.SCALAR, _U16, 0), 0xC6: (_Kind.SCALAR, _U32, 0)},
    **{0xC7: (_Kind.SCALAR, _U8, 1), 0xC8: (_Kind.SCALAR, _U16, 1), 0xC9: (_Kind.SCALAR, _U32, 1)},
    **{0xD9: (_Kind.SCALAR, _U8, 0), 0xDA: (_Kind.SCALAR, _U16, 0), 0xDB: (_Kind.SCALAR, _U32, 0)},
    **{0xDC: (_Kind.ARRAY, _U16, 0), 0xDD: (_Kind.ARRAY, _U32, 0)},
    **{0xDE: (_Kind.MAP, _U16, 0), 0xDF: (_Kind.MAP, _U32, 0)},
}
"""For values with a length field: their kind, the format of the field, and additional bytes."""


# the fields of a message -------------------------------------------------------------------


class _Field(msgspec.Struct):
    """A key of a message: its decoder, and what its value must be."""

    decode: Callable[[Any], Any]
    required: bool
    words: str


@functools.cache
def _fields(kind: type[Any]) -> dict[str, _Field]:
    """Return the keys of a message. Used only after an error."""
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
    """Return what a value must be, in the words of docs/protocol.md."""
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
    return "an array as the protocol defines it"


def _long(kind: str, low: int | None, high: int | None, unit: str) -> str:
    if high is None:
        return kind
    if low is None:
        return f"{kind} of at most {high} {unit}"
    return f"{kind} of {high if low == high else f'{low} to {high}'} {unit}"
