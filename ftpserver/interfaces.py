"""Interfaces that another process can be asked by: the interface is the schema.

Lives here: marking methods, the struct that each becomes, stand-ins that ask, dispatchers that
answer.
Lives elsewhere: the ways on which messages travel (processes/rpc.py, daemon/control.py).

A class whose methods are marked is all that two processes need to agree on::

    class Counter(Protocol):
        @asked
        def add(self, count: Annotated[int, Meta(ge=0)]) -> int:
            \"\"\"Returns the sum.\"\"\"

        @told
        def reset(self) -> None: ...

The parameters with their annotated bounds become a struct that is named by the method; the
annotated result is what the answer is decoded as. Whoever asks has a `stand_in`, which is a
``Counter`` like any other; whoever answers hands a ``Counter`` to a `Dispatcher`. Both sides
decode into the annotated types, so a process that has been taken over can't send anything else.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Generic, NamedTuple, NewType, ParamSpec, Protocol, TypeVar

import msgspec

from ftpserver.net.fd_passing import close_all
from ftpserver.settings.table import Networks

TAG = "is"
"""The field of a message that has the method's name."""

Descriptors = NewType("Descriptors", list[int])
"""A method's last parameter, if it has one of this type, are descriptors that go along. The caller
keeps its own; the one who is called takes those that it keeps out of the list, the others are
closed."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_Interface = TypeVar("_Interface")
_Method = TypeVar("_Method", bound=Callable[..., Any])
_WAITS = "_ftpd_waits_for_answer"
_APART = "_ftpd_named_with_interface"


class Carried(NamedTuple, Generic[_Result]):
    """A result with descriptors that come along, which belong to whoever has this. A method whose
    results have some is annotated with it; they are closed once they were sent."""

    message: _Result
    descriptors: list[int]

    def close(self) -> None:
        """Close the descriptors."""
        close_all(self.descriptors)


def asked(method: _Method) -> _Method:
    """Mark a method of an interface: its caller waits for the result.

    Annotated to return a Future, it is asked without waiting, and can be answered later.
    """
    setattr(method, _WAITS, True)
    return method


def told(method: _Method) -> _Method:
    """Mark a method of an interface: its caller doesn't wait, and hears of no error, nor that the
    other end is gone."""
    setattr(method, _WAITS, False)
    return method


def apart(interface: type[_Interface]) -> type[_Interface]:
    """Mark an interface whose methods are named as those of others are: in messages its own name
    stands before theirs."""
    setattr(interface, _APART, True)
    return interface


# the schema ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Request:
    """What a marked method has become.

    Attributes:
        name: Of the method.
        struct: Has its parameters as fields.
        result: The type that its result is decoded as.
        waits: Whether the caller waits for a result.
        in_future: Whether the result comes in a Future, on both sides.
        carries: The parameter that has descriptors; None when no descriptors go along.
        brings: Whether descriptors come along with the result.
        keywords: The parameters that are passed by keyword.
    """

    name: str
    struct: type[msgspec.Struct]
    result: Any
    waits: bool
    in_future: bool
    carries: str | None
    brings: bool
    keywords: tuple[str, ...]

    def message(
        self, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[msgspec.Struct, list[int]]:
        """A call of the method as a message, and the descriptors that go along."""
        if self.carries is None:
            return self.struct(*arguments, **keywords), []
        if self.carries in keywords:
            descriptors = keywords.pop(self.carries)
        else:
            *rest, descriptors = arguments
            arguments = tuple(rest)
        return self.struct(*arguments, **keywords), descriptors

    def call(self, target: object, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Call the method as a message says. Raises what the method raises."""
        values = list(msgspec.structs.astuple(message))
        split = len(values) - len(self.keywords)
        keywords = dict(zip(self.keywords, values[split:], strict=True))
        if self.carries is not None:
            keywords[self.carries] = descriptors
        return getattr(target, self.name)(*values[:split], **keywords)

    @functools.cached_property
    def decode_result(self) -> Callable[[bytes], Any]:
        """Decode msgpack of a result. Made once: for many types that takes a while."""
        return msgspec.msgpack.Decoder(self.result, dec_hook=from_wire).decode


@functools.cache
def requests_of(interface: Any) -> Mapping[str, Request]:
    """The requests that an interface's marked methods are, by their names."""
    found = {}
    before = f"{interface.__name__}." if _APART in vars(interface) else ""
    for name, method in inspect.getmembers(interface, callable):
        if hasattr(method, _WAITS):
            found[name] = _request(name, before + name, method)
    if not found:
        raise TypeError(f"{interface.__name__} has no marked methods")
    return found


def _request(name: str, tag: str, method: Callable[..., Any]) -> Request:
    hints = typing.get_type_hints(method, include_extras=True)
    result, in_future, brings = hints["return"], False, False
    if typing.get_origin(result) is Future:
        (result,), in_future = typing.get_args(result), True
    if typing.get_origin(result) is Carried:
        (result,), brings = typing.get_args(result), True
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    carries, keywords = None, []
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        kind = hints[parameter.name]
        if kind is Descriptors:
            carries = parameter.name
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords.append(parameter.name)
        if parameter.default is parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, parameter.default))
    struct = msgspec.defstruct(
        "".join(part.title() for part in name.split("_")),
        fields,
        tag_field=TAG,
        tag=tag,
        frozen=True,
        namespace={"__repr__": _show},
    )
    waits = getattr(method, _WAITS)
    return Request(name, struct, result, waits, in_future, carries, brings, tuple(keywords))


def _show(message: msgspec.Struct) -> str:
    """Only the name: a message may have a password."""
    return f"{type(message).__name__}(…)"


# asking --------------------------------------------------------------------------------------


class Asking(Protocol):
    """A way to whoever answers."""

    def ask(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Wait for the answer, and return it. Raises what was raised where it was answered."""


class AskingLater(Asking, Protocol):
    """One for interfaces whose methods aren't all waited for."""

    def ask_later(
        self, request: Request, message: msgspec.Struct, descriptors: list[int]
    ) -> Future[Any]:
        """Have the answer come into a Future."""

    def tell(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> None:
        """Say what needs no answer."""


def stand_in(interface: type[_Interface], way: Asking, *arguments: Any) -> _Interface:
    """An object of an interface whose marked methods ask on a way; the others are its own.

    Args:
        arguments: For the interface's ``__init__``.
    """
    kind = _stand_in_class(interface)
    made: _Interface = kind.__new__(kind)
    made._way = way  # type: ignore[attr-defined]
    kind.__init__(made, *arguments)
    return made


_stand_in_classes: dict[type, Any] = {}


def _stand_in_class(interface: type) -> Any:
    """Made once: what two threads make at the same time is the same."""
    if interface not in _stand_in_classes:
        methods = {name: _asker(request) for name, request in requests_of(interface).items()}
        made = types.new_class(
            interface.__name__, (interface,), None, lambda it: it.update(methods)
        )
        _stand_in_classes[interface] = made
    return _stand_in_classes[interface]


def _asker(request: Request) -> Callable[..., Any]:
    make = request.message

    if not request.waits:

        def ask(self: Any, *arguments: Any, **keywords: Any) -> Any:
            self._way.tell(request, *make(arguments, keywords))

    elif request.in_future:

        def ask(self: Any, *arguments: Any, **keywords: Any) -> Any:
            return self._way.ask_later(request, *make(arguments, keywords))

    else:

        def ask(self: Any, *arguments: Any, **keywords: Any) -> Any:
            return self._way.ask(request, *make(arguments, keywords))

    ask.__name__ = request.name
    ask._ftpd_request = request  # type: ignore[attr-defined]
    return ask


def later(
    method: Callable[_Parameters, _Result],
) -> Callable[_Parameters, Future[_Result]]:
    """A method of a stand-in that doesn't wait: the result comes into a Future."""
    request, way = _asked_by(method)

    def ask(*arguments: _Parameters.args, **keywords: _Parameters.kwargs) -> Future[_Result]:
        return way.ask_later(request, *request.message(arguments, keywords))

    return ask


def _asked_by(method: Any) -> tuple[Request, AskingLater]:
    return method.__func__._ftpd_request, method.__self__._way


# answering -----------------------------------------------------------------------------------


class Dispatcher:
    """Calls the methods of some objects as messages say.

    Args:
        targets: What is called, by the interface that it is called by: no method that isn't marked
            there can be called, whatever else the object has.
        decoder: For messages, by msgspec: of msgpack or of JSON.
    """

    def __init__(
        self,
        targets: Mapping[type, object],
        decoder: Callable[..., Any] = msgspec.msgpack.Decoder,
    ) -> None:
        self._decoder = decoder
        self._targets: dict[type[msgspec.Struct], tuple[Request, object]] = {}
        for interface, target in targets.items():
            for request in requests_of(interface).values():
                self._targets[request.struct] = request, target
        self.kinds = _union_of(tuple(targets))

    def decode(self, payload: bytes) -> msgspec.Struct:
        """A message out of bytes. Raises msgspec.MsgspecError: it is none of the known ones."""
        message: msgspec.Struct = _decoder_of(self.kinds, self._decoder)(payload)
        return message

    def request_of(self, message: msgspec.Struct) -> Request:
        """What a message asks."""
        return self._targets[type(message)][0]

    def call(self, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Do it, and return the result; raises what that raises."""
        request, target = self._targets[type(message)]
        return request.call(target, message, descriptors)


@functools.cache
def _union_of(interfaces: tuple[Any, ...]) -> Any:
    structs: dict[str, Any] = {}
    for interface in interfaces:
        for name, request in requests_of(interface).items():
            tag = str(request.struct.__struct_config__.tag)
            if tag in structs:
                raise TypeError(f"{interface.__name__}.{name}: another interface has this method")
            structs[tag] = request.struct
    return functools.reduce(lambda some, one: some | one, structs.values())


@functools.cache
def _decoder_of(kinds: Any, decoder: Callable[..., Any]) -> Callable[[bytes], Any]:
    decode: Callable[[bytes], Any] = decoder(kinds, dec_hook=from_wire).decode
    return decode


def make_ready(*, asked: Iterable[type] = (), answered: tuple[type, ...] = ()) -> None:
    """Make now what is made once: for a process that imports nothing later, and for those that are
    forked from this one.

    Args:
        asked: The interfaces of stand-ins.
        answered: Those of a `Dispatcher`, in its order.
    """
    for interface in asked:
        _stand_in_class(interface)
        for request in requests_of(interface).values():
            _ = request.decode_result
    if answered:
        _decoder_of(_union_of(answered), msgspec.msgpack.Decoder)


# values that msgspec doesn't know ---------------------------------------------------------------


def to_wire(value: Any) -> Any:
    """For msgspec's ``enc_hook``. Raises NotImplementedError: it can't be sent."""
    if isinstance(value, Path):
        return os.fsencode(value)
    if isinstance(value, IPv4Network | IPv6Network):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} can't be sent")


def from_wire(kind: type, value: Any) -> Any:
    """For msgspec's ``dec_hook``. Raises ValueError, TypeError: it is none."""
    if kind is Path and isinstance(value, bytes):
        return Path(os.fsdecode(value))
    if kind is Networks:
        return Networks(map(ip_network, value))
    raise TypeError(f"{value!r} is no {kind.__name__}")
