"""Uploads of an AsyncClient whose bytes come from a task.

Lives here: the call, cutting the source into pieces of a good size, signs of life meanwhile.
Lives elsewhere: the verb (client.py), sending the bytes (connection.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from typing import Any

from ftpclient.transfer.calls import PutCall
from ftpclient.transfer.upload import Upload
from ftpclient.transfer.waiting import keep_alive_after
from ftpwire.messages import Ready, Stored
from ftpwire.paths import RemotePath


class StreamPut(PutCall):
    """An upload whose bytes come from a task."""

    def __init__(self, upload: Upload, target: RemotePath) -> None:
        super().__init__(upload, b"-", target)
        self.asks = True
        self.readiness = asyncio.Event()
        self.end = asyncio.Event()
        self.on_end: Callable[[], None] = lambda: None

    def on_reply(self, reply: Ready | Stored) -> bool:
        final = super().on_reply(reply)
        self.readiness.set()
        return final

    def on_done(self) -> None:
        super().on_done()
        self.readiness.set()
        self.end.set()
        self.on_end()


async def alive(
    source: AsyncIterable[bytes],
    keep: Callable[[], Any],
    most: Callable[[], int],
    stall: float | None,
    over: asyncio.Event,
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a source, never more than ``most`` at once.

    ``keep`` is awaited from time to time while the source is silent: see `keep_alive_after`. This
    also ends when ``over`` is set, without waiting for a silent source.
    """
    iterator = aiter(source)
    seconds = keep_alive_after(stall)
    ended = asyncio.ensure_future(over.wait())
    try:
        while (piece := await _awaited(iterator, ended, keep, seconds)) is not None:
            for part in _cut(piece, most):
                yield part
    finally:
        ended.cancel()


async def _awaited(
    iterator: AsyncIterator[bytes],
    ended: asyncio.Future[Any],
    keep: Callable[[], Any],
    seconds: float,
) -> bytes | None:
    """Return the next bytes; None at the end of the source, or when ``ended`` is done."""
    step = asyncio.ensure_future(_next(iterator))
    first = asyncio.FIRST_COMPLETED
    try:
        while not (step.done() or ended.done()):
            done, _ = await asyncio.wait({step, ended}, timeout=seconds, return_when=first)
            if not done:
                await keep()
        if step.done():
            return step.result()
    except BaseException:
        await _give_up(step)
        raise
    await _give_up(step)
    return None


async def _give_up(step: asyncio.Future[Any]) -> None:
    step.cancel()
    await asyncio.wait({step})


def _cut(piece: bytes, most: Callable[[], int]) -> Iterator[bytes]:
    """Yield the same bytes, never more than ``most`` at once."""
    at = 0
    while at < len(piece):
        size = most()
        yield piece if size >= len(piece) else piece[at : at + size]
        at += size


async def _next(iterator: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(iterator)
    except StopAsyncIteration:
        return None
