"""A link with delay, and if need be with a limit for each connection: a TCP proxy on loopback.

Lives here: the delaying line, the proxy around it, and running it as a process of its own.
Lives elsewhere: who is measured over it (suite.py).

Every byte is handed on a fixed time later, in order; with a rate, each connection carries no more
than that each way, as where its window or a policer on the way limits it. A connection is made as
over a real link: the server hears of it after three delays (SYN, SYN-ACK, ACK), and the client's
first bytes come no earlier. What the link lacks: loss, and TCP's slow start. So figures over it
tell the cost of round trips, and what several connections bring, and nothing else.
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
"""Most bytes under way in one direction: enough never to limit the speed, yet not memory."""

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]


class DelayLine:
    """Bytes in at one end, out at the other ``delay`` seconds later, in order.

    Args:
        rate: Bytes a second that go in at most; None for no limit.
        not_before: Nothing counts as put in earlier than this time.
        clock, sleep: Of the event loop; others in tests.
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
        # what a limited line has taken in and not let go of is little: else it were no limit
        self._limit = LIMIT if rate is None else PIECE + int(rate * (2 * delay + 0.1))
        self._clock = clock
        self._sleep = sleep
        self._line: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Put bytes in; ``b""`` is the end. Waits while very much is under way."""
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
        """The next bytes, once they are due."""
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
    """Relay one connection to ``port``, both ways, until both sides have ended."""
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
    """A proxy to ``port`` on a free port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, port, delay, rate)

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def _run(port: int, delay: float, rate: float | None = None) -> None:
    async with await serve(port, delay, rate) as server:
        print(f"relaying on {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


class Link(Server):
    """A proxy in a process of its own, so that it doesn't share our interpreter.

    Attributes:
        port: Connect to this one instead of the server's.
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
