"""Uploads of an AsyncClient whose bytes a task brings.

Lives here: the call, what the source gives in pieces of a good size, signs of life meanwhile.
Lives elsewhere: the verb (client.py), the way for the bytes (connection.py).
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
    """An upload whose bytes a task brings."""

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
) -> AsyncGenerator[bytes, None]:
    """What a source gives, never more than ``most`` at once.

    ``keep`` is awaited now and then while it gives nothing: see `keep_alive_after`.
    """
    iterator = aiter(source)
    while True:
        step = asyncio.ensure_future(_next(iterator))
        try:
            while not (await asyncio.wait({step}, timeout=keep_alive_after(stall)))[0]:
                await keep()
        except BaseException:
            step.cancel()
            await asyncio.wait({step})
            raise
        piece = step.result()
        if piece is None:
            return
        for part in _cut(piece, most):
            yield part


def _cut(piece: bytes, most: Callable[[], int]) -> Iterator[bytes]:
    """The same bytes, never more than ``most`` at once."""
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
