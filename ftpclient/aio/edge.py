"""What holds for every verb of an AsyncClient: public errors, and its time.

Lives here: the decorators. Lives elsewhere: those of `Client` (ftpclient/guard.py). An AsyncClient
needs no turns, since its connection is for any number of tasks; and a task that ends early cancels
its own request (connection.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from ftpclient import errors
from ftpclient.guard import Explain, explainer, public_summary, raise_plainly, timeout_of
from ftpwire import errors as inside

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Client(Protocol):
    """What an AsyncClient has for this."""

    def _resolve(self, path: Any) -> bytes:
        """The absolute remote path; raises errors of the inside."""


_C = TypeVar("_C", bound=_Client)


@asynccontextmanager
async def _edge(client: _Client, timeout: float | None, explain: Explain) -> AsyncIterator[None]:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired() or isinstance(error, inside.FtpError):
            raise
        late = errors.timed_out(f"not done within {timeout:g} seconds")
        raise_plainly(late.with_traceback(error.__traceback__))
    except inside.FtpError as error:
        raise_plainly(errors.public(error, explain(client, error)))


def verb(
    function: Callable[Concatenate[_C, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_C, _P], Coroutine[Any, Any, _T]]:
    """A verb that is a coroutine."""
    explain = explainer(function)

    @wraps(function)
    async def edged(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        async with _edge(self, timeout_of(kwargs), explain(self, *args, **kwargs)):
            return public_summary(await function(self, *args, **kwargs))

    return edged


def stream(
    function: Callable[Concatenate[_C, _P], AsyncGenerator[_T, None]],
) -> Callable[Concatenate[_C, _P], AsyncGenerator[_T, None]]:
    """A verb that is an asynchronous generator. Its ``timeout`` is for each step."""
    explain = explainer(function)

    @wraps(function)
    async def edged(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> AsyncGenerator[_T, None]:
        timeout, about = timeout_of(kwargs), explain(self, *args, **kwargs)
        async with aclosing(function(self, *args, **kwargs)) as items:
            while True:
                try:
                    async with _edge(self, timeout, about):
                        item = await anext(items)
                except StopAsyncIteration:
                    return
                yield item

    return edged
