"""A link with delay, and optionally a rate limit per connection: a TCP proxy on loopback.

Lives here: the delay line, the proxy around it, and running it in a process of its own.
Lives elsewhere: what is measured over it (suite.py).

Every byte is passed on after a fixed time, in order. With a rate, each connection carries no more
than that in each direction, as if limited by its window or by a policer on the way. A connection is
made as over a real link: the server learns of it after three delays (SYN, SYN-ACK, ACK), and the
client's first bytes arrive no earlier. The link has no loss, and no slow start of TCP. So
measurements over it show only the cost of round trips, and the benefit of several connections.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.processes import Server

PIECE = 256 * 1024
LIMIT = 256 * 1024 * 1024
"""Most bytes in one direction at a time: enough not to limit the speed, but not all memory."""

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]


class DelayLine:
    """A line that passes bytes on in order, ``delay`` seconds later.

    Args:
        rate: The most bytes per second to take in; None for no limit.
        not_before: Earliest time that bytes count as taken in.
        clock, sleep: Those of the event loop; replaced in tests.
    """

    def __init__(
        self,
        delay: float,
        *,
        rate: float | None = None,
        not_before: float = 0.0,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._delay = delay
        self._rate = rate
        self._free = not_before
        # with a rate, the line must hold little: otherwise the rate would not limit the sender
        self._limit = LIMIT if rate is None else PIECE + int(rate * (2 * delay + 0.1))
        self._clock = clock
        self._sleep = sleep
        self._line: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Take in bytes; ``b""`` is the end. Waits while the line is full."""
        while self._size > self._limit:
            await self._wait()
        begun = max(self._clock(), self._free)
        if self._rate is not None:
            begun += len(data) / self._rate
            self._free = begun
        self._line.append((begun + self._delay, data))
        self._size += len(data)
        self._changed.set()

    async def get(self) -> bytes:
        """Return the next bytes when they are due."""
        while not self._line:
            await self._wait()
        due, data = self._line[0]
        while (left := due - self._clock()) > 0:
            await self._sleep(left)
        self._line.popleft()
        self._size -= len(data)
        self._changed.set()
        return data

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


async def _fill(line: DelayLine, reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(PIECE):
            await line.put(data)
    await line.put(b"")


async def _drain(line: DelayLine, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # the other side may be gone
        while data := await line.get():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    delay: float,
    rate: float | None = None,
) -> None:
    """Relay one connection to ``port`` in both directions until both sides have ended."""
    established = time.monotonic() + 2 * delay
    up = DelayLine(delay, rate=rate, not_before=established)
    down = DelayLine(delay, rate=rate)
    filling = asyncio.create_task(_fill(up, reader))
    try:
        await asyncio.sleep(3 * delay)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        filling.cancel()
        writer.close()
        return
    try:
        await asyncio.gather(
            filling, _drain(up, server_writer), _fill(down, server_reader), _drain(down, writer)
        )
    finally:
        for end in (writer, server_writer):
            end.close()


async def serve(port: int, delay: float, rate: float | None = None) -> asyncio.Server:
    """Start a proxy to ``port`` on a free port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, port, delay, rate)

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def _run(port: int, delay: float, rate: float | None = None) -> None:
    async with await serve(port, delay, rate) as server:
        print(f"relaying on {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


class Link(Server):
    """A proxy in a process of its own, so that it does not use our interpreter.

    Attributes:
        port: The port to connect to instead of the server's.
    """

    def __init__(self, port: int, delay: float, log: Path, rate: float | None = None) -> None:
        limit = [] if rate is None else [str(rate)]
        super().__init__(
            [sys.executable, "-m", "benchmarks.delay", str(port), str(delay), *limit],
            log,
            cwd=Path(__file__).resolve().parent.parent,
        )
        try:
            self.port = int(self.wait_for_line("relaying on "))
        except BaseException:
            self.stop()
            raise


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), *map(float, sys.argv[2:])))
