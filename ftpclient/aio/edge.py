"""The wrapper around every verb of an AsyncClient: public errors and timeouts.

Lives here: the decorators.
Lives elsewhere: those of `Client` (ftpclient/guard.py).

An AsyncClient needs no turns, since its connection serves any number of tasks; and a task that ends
early cancels its own request (connection.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from ftpclient import errors
from ftpclient.connection.client_id import Operation, in_force, under
from ftpclient.guard import (
    CallbackFailed,
    Explain,
    explainer,
    phraser,
    public_summary,
    raise_plainly,
    timeout_of,
)
from ftpwire import errors as inside

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Edged(Protocol):
    """The parts of an AsyncClient that this module uses."""

    _edge: Edge

    def _resolve(self, path: Any) -> bytes:
        """Return the absolute remote path. Raises internal errors."""

    def _drop(self, reason: str) -> None:
        """End the connection, if there is one. The next verb reconnects."""


_C = TypeVar("_C", bound=Edged)


class Edge:
    """Counts the running verbs of one client."""

    def __init__(self) -> None:
        self._count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one verb while the context is open."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @asynccontextmanager
    async def verb(
        self, client: Edged, timeout: float | None, explain: Explain, *, is_step: bool = False
    ) -> AsyncIterator[None]:
        """Wrap a verb; or one step of a stream, which is counted separately as a whole."""
        limit = asyncio.timeout(timeout)
        try:
            with nullcontext() if is_step else self.counted():
                async with limit:
                    yield
        except CallbackFailed as failed:
            raise_plainly(failed.cause)
        except TimeoutError as error:
            if not limit.expired() or isinstance(error, inside.FtpError):
                raise
            text = f"not done within {timeout:g} seconds"
            if self._count == is_step:  # no other verb is running, which may have more time
                client._drop(text)
            raise_plainly(errors.timed_out(text).with_traceback(error.__traceback__))
        except inside.FtpError as error:
            raise_plainly(errors.public(error, explain(client, error)))


def verb(
    function: Callable[Concatenate[_C, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_C, _P], Coroutine[Any, Any, _T]]:
    """Decorate a verb that is a coroutine."""
    explain, phrase = explainer(function), phraser(function)

    @wraps(function)
    async def edged(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        async with self._edge.verb(self, timeout_of(kwargs), explain(self, *args, **kwargs)):
            if in_force(self) is not None:  # then it is part of that operation
                return public_summary(await function(self, *args, **kwargs))
            with under(Operation(phrase(self, *args, **kwargs)), self):
                return public_summary(await function(self, *args, **kwargs))

    return edged


_END = object()


def stream(
    function: Callable[Concatenate[_C, _P], AsyncGenerator[_T, None]],
) -> Callable[Concatenate[_C, _P], AsyncGenerator[_T, None]]:
    """Decorate a verb that is an asynchronous generator. Its ``timeout`` is for each step."""
    explain = explainer(function)

    @wraps(function)
    async def edged(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> AsyncGenerator[_T, None]:
        timeout, about = timeout_of(kwargs), explain(self, *args, **kwargs)
        with self._edge.counted():
            async with aclosing(function(self, *args, **kwargs)) as items:
                while True:
                    async with self._edge.verb(self, timeout, about, is_step=True):
                        item: Any = await anext(items, _END)
                    if item is _END:
                        return
                    yield item

    return edged


def local(function: Callable[Concatenate[_C, _P], _T]) -> Callable[Concatenate[_C, _P], _T]:
    """Decorate a method that does not use the connection."""
    explain = explainer(function)

    @wraps(function)
    def edged(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(self, *args, **kwargs)
        except inside.FtpError as error:
            raise_plainly(errors.public(error, explain(self, *args, **kwargs)(self, error)))

    return edged
