"""AsyncClient behind the face of Client, so that tests of verbs can be run with both."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

from ftpclient import AsyncClient
from ftpwire import digests

PLAIN = ("resolve", "target_for")
STREAMS = ("list_dir", "walk")


class Blocking:
    """Runs each verb of an AsyncClient to its end, on an event loop in the test's thread."""

    def __init__(self, *args, **options) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(*args, **options)

    def close(self) -> None:
        """Can be called twice."""
        if not self.loop.is_closed():
            self.run(self.client.close())
            self.run(self.loop.shutdown_asyncgens())
            self.loop.close()

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def __getattr__(self, name: str):
        found = getattr(self.client, name)
        if name in PLAIN or not callable(found):
            return found
        if name in STREAMS:
            return lambda *args, **options: self._each(found(*args, **options))
        return lambda *args, **options: self.run(found(*args, **options))

    def _each(self, items: AsyncIterator) -> Iterator:
        try:
            while True:
                try:
                    yield self.run(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self.run(items.aclose())

    def put_stream(self, fd: int, target, **options):
        async def pieces() -> AsyncIterator[bytes]:
            while data := os.read(fd, 100_000):
                yield data

        return self.run(self.client.put_stream(pieces(), target, **options))

    def get_stream(self, source, fd: int) -> tuple[int, bytes]:
        async def take() -> tuple[int, bytes]:
            hasher, size = digests.new(), 0
            async for data in self.client.get_stream(source):
                os.write(fd, data)
                hasher.update(data)
                size += len(data)
            return size, hasher.digest()

        return self.run(take())
