"""Interfaces for calls between processes: a class with marked methods is the whole schema.

Lives here: marking methods, the struct that each one becomes, proxies that send requests,
dispatchers that carry them out.
Lives elsewhere: sending the messages (processes/rpc.py, daemon/control.py).

A class whose methods are marked is all that two processes need to agree on::

    class Counter(Protocol):
        @request
        def add(self, count: Annotated[int, Meta(ge=0)]) -> int:
            \"\"\"Return the sum.\"\"\"

The parameters with their annotated bounds become a struct, tagged with the method's name. The reply
is decoded as the annotated result. The calling process makes a proxy (`make_proxy`), which is used
like any other ``Counter``; the called process gives its ``Counter`` to a `Dispatcher`. Both sides
decode into the annotated types, so a process under an attacker's control cannot send anything else.
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
"""The field of a message that holds the method's name."""

Descriptors = NewType("Descriptors", list[int])
"""The type of a method's last parameter if descriptors are sent along. The caller keeps its own.
The called method removes from the list those that it keeps; the others are closed afterwards."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_Interface = TypeVar("_Interface")
_Method = TypeVar("_Method", bound=Callable[..., Any])
_WAITS = "_ftpd_waits_for_answer"
_NAMESPACED = "_ftpd_named_with_interface"


class Carried(NamedTuple, Generic[_Result]):
    """A result with descriptors that are sent along. A method with such results is annotated with
    it. On the sending side they are closed once sent; on the receiving side the caller owns
    them."""

    message: _Result
    descriptors: list[int]

    def close(self) -> None:
        """Close the descriptors."""
        close_all(self.descriptors)


def request(method: _Method) -> _Method:
    """Mark a method of an interface as a request: its caller waits for the result.

    If it is annotated to return a Future, the caller doesn't wait, and the reply can come later.
    """
    setattr(method, _WAITS, True)
    return method


def notification(method: _Method) -> _Method:
    """Mark a method of an interface as a notification: its caller doesn't wait, and isn't notified
    of errors, nor of a closed connection."""
    setattr(method, _WAITS, False)
    return method


def namespaced(interface: type[_Interface]) -> type[_Interface]:
    """Mark an interface whose methods have the same names as those of another: in messages the
    interface's own name precedes theirs."""
    setattr(interface, _NAMESPACED, True)
    return interface


# schema --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Request:
    """The schema of a marked method.

    Attributes:
        name: The method's name.
        struct: The type of the message; its fields are the parameters.
        result: The type that the result is decoded as.
        waits: True if the caller waits for a result.
        in_future: True if the result is a Future, on both sides.
        carries: The parameter for descriptors; None if none are sent along.
        brings: True if descriptors are sent along with the result.
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
        """Return a call of the method as a message, and the descriptors to send along."""
        if self.carries is None:
            return self.struct(*arguments, **keywords), []
        if self.carries in keywords:
            descriptors = keywords.pop(self.carries)
        else:
            *rest, descriptors = arguments
            arguments = tuple(rest)
        return self.struct(*arguments, **keywords), descriptors

    def call(self, target: object, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Call the method with a message's values. Raises what the method raises."""
        values = list(msgspec.structs.astuple(message))
        split = len(values) - len(self.keywords)
        keywords = dict(zip(self.keywords, values[split:], strict=True))
        if self.carries is not None:
            keywords[self.carries] = descriptors
        return getattr(target, self.name)(*values[:split], **keywords)

    @functools.cached_property
    def decode_result(self) -> Callable[[bytes], Any]:
        """The msgpack decoder of the result. Made once, as that is slow for some types."""
        return msgspec.msgpack.Decoder(self.result, dec_hook=from_wire).decode


@functools.cache
def requests_of(interface: Any) -> Mapping[str, Request]:
    """Return the schemas of an interface's marked methods, by method name."""
    found = {}
    before = f"{interface.__name__}." if _NAMESPACED in vars(interface) else ""
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
    """Show only the name: a message may have a password."""
    return f"{type(message).__name__}(…)"


# sending requests ----------------------------------------------------------------------------


class Requester(Protocol):
    """A connection to the process that carries out the requests."""

    def ask(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Send a request and return its result. Raises what the called method raised."""


class AsyncRequester(Requester, Protocol):
    """A connection that also sends notifications, and requests that aren't waited for."""

    def ask_later(
        self, request: Request, message: msgspec.Struct, descriptors: list[int]
    ) -> Future[Any]:
        """Send a request and return a Future for its result."""

    def notify(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> None:
        """Send a notification, which has no reply."""


def make_proxy(interface: type[_Interface], connection: Requester, *arguments: Any) -> _Interface:
    """Make a proxy: its marked methods send requests, the others run here.

    Args:
        connection: The connection to send on.
        arguments: The arguments of the interface's ``__init__``.
    """
    kind = _proxy_class(interface)
    made: _Interface = kind.__new__(kind)
    made._connection = connection  # type: ignore[attr-defined]
    kind.__init__(made, *arguments)
    return made


_proxy_classes: dict[type, Any] = {}


def _proxy_class(interface: type) -> Any:
    """Return the class of an interface's proxies. Two threads may both make it: either will do."""
    if interface not in _proxy_classes:
        methods = {name: _asker(request) for name, request in requests_of(interface).items()}
        made = types.new_class(
            interface.__name__, (interface,), None, lambda it: it.update(methods)
        )
        _proxy_classes[interface] = made
    return _proxy_classes[interface]


def _asker(request: Request) -> Callable[..., Any]:
    make = request.message

    if not request.waits:

        def ask(self: Any, *arguments: Any, **keywords: Any) -> Any:
            self._connection.notify(request, *make(arguments, keywords))

    elif request.in_future:

        def ask(self: Any, *arguments: Any, **keywords: Any) -> Any:
            return self._connection.ask_later(request, *make(arguments, keywords))

    else:

        def ask(self: Any, *arguments: Any, **keywords: Any) -> Any:
            return self._connection.ask(request, *make(arguments, keywords))

    ask.__name__ = request.name
    ask._ftpd_request = request  # type: ignore[attr-defined]
    return ask


def later(
    method: Callable[_Parameters, _Result],
) -> Callable[_Parameters, Future[_Result]]:
    """Return a proxy's method as a function that doesn't wait, but returns a Future."""
    request, connection = _bound_request(method)

    def ask(*arguments: _Parameters.args, **keywords: _Parameters.kwargs) -> Future[_Result]:
        return connection.ask_later(request, *request.message(arguments, keywords))

    return ask


def _bound_request(method: Any) -> tuple[Request, AsyncRequester]:
    return method.__func__._ftpd_request, method.__self__._connection


# carrying out requests -----------------------------------------------------------------------


class Dispatcher:
    """Calls methods of given objects as messages ask.

    Args:
        targets: The objects by interface. Only methods that are marked in the interface can be
            called, whatever else the object has.
        decoder: The msgspec decoder for messages: of msgpack or of JSON.
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
        """Decode a message. Raises msgspec.MsgspecError if it isn't a known one."""
        message: msgspec.Struct = _decoder_of(self.kinds, self._decoder)(payload)
        return message

    def request_of(self, message: msgspec.Struct) -> Request:
        """Return the schema of a message's method."""
        return self._targets[type(message)][0]

    def call(self, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Call a message's method and return its result. Raises what the method raises."""
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


def make_ready(*, proxies: Iterable[type] = (), targets: tuple[type, ...] = ()) -> None:
    """Make all cached schemas and decoders now, for a process that cannot import later, and for
    processes that are forked from this one.

    Args:
        proxies: The interfaces of proxies.
        targets: The interfaces of a `Dispatcher`, in its order.
    """
    for interface in proxies:
        _proxy_class(interface)
        for request in requests_of(interface).values():
            _ = request.decode_result
    if targets:
        _decoder_of(_union_of(targets), msgspec.msgpack.Decoder)


# types that msgspec doesn't support ----------------------------------------------------------


def to_wire(value: Any) -> Any:
    """Encode a value for msgspec's ``enc_hook``. Raises NotImplementedError for other types."""
    if isinstance(value, Path):
        return os.fsencode(value)
    if isinstance(value, IPv4Network | IPv6Network):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be sent")


def from_wire(kind: type, value: Any) -> Any:
    """Decode a value for msgspec's ``dec_hook``. Raises ValueError or TypeError if it is wrong."""
    if kind is Path and isinstance(value, bytes):
        return Path(os.fsdecode(value))
    if kind is Networks:
        return Networks(map(ip_network, value))
    raise TypeError(f"{value!r} is not a {kind.__name__}")
