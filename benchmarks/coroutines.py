"""A coroutine server on the wire code: a small one, for comparison with threads.

Lives here: TLS, log-in by token, stat, get and small puts, with one asyncio coroutine per session.
Lives elsewhere: the product's server (ftpserver/), which does much more for each request: quotas,
permissions, resuming, limits and bans, the audit log. The comparison (engines.py).

``python -m benchmarks.coroutines ROOT PORT CERTIFICATE KEY`` prints ``listening on …`` when it is
ready.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

from ftpserver.accounts.account import Account
from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.tokens import Tokens
from ftpserver.database import open_state
from ftpserver.net.descriptors import raise_descriptor_limit
from ftpserver.net.tls import make_context
from ftpserver.settings.table import state_of
from ftpserver.storage.home import Home
from ftpwire import digests, frames, messages, paths
from ftpwire.errors import (
    BadMessage,
    CommandError,
    ConnectionLost,
    FtpError,
    VerificationFailed,
    from_oserror,
)
from ftpwire.frames import FrameReader, Header, Kind
from ftpwire.messages import Failed, Found, Get, LoggedIn, LoginToken, Message, Put, Stat, Stored
from ftpwire.tls import PIECE, TlsPipe

DATA_SIZE = 512 * 1024
LARGEST_PUT = 256 * 1024
"""Largest file to put, in bytes: it is received into memory."""


class Stream(asyncio.BufferedProtocol):
    """TLS and frames over an asyncio transport, for the coroutine of one session."""

    _buffer = memoryview(bytearray(PIECE))
    """The buffer that all connections receive into: it is emptied at once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pipe = TlsPipe(service.context, server_side=True)
        self.reader = FrameReader()
        self._came: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost: FtpError | None = None

    # called by the transport -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        task = asyncio.get_running_loop().create_task(self._service.serve(self))
        self._service.tasks.add(task)
        task.add_done_callback(self._service.tasks.discard)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        self._pipe.feed(self._buffer[:count])
        if self._came is None:
            self._transport.pause_reading()  # until the session asks for more
        elif not self._came.done():
            self._came.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = ConnectionLost(str(error or "the peer closed the connection"))
        self._writable.set()
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # called by the session ---------------------------------------------------------------

    async def handshake(self) -> None:
        """Do the TLS handshake. Raises ConnectionLost."""
        while True:
            done = self._pipe.handshake()
            self._transport.write(self._pipe.outgoing())
            if done:
                return
            await self._more()

    async def header(self) -> Header:
        """Return the next frame's header."""
        while (header := self.reader.next_header()) is None:
            await self.fill()
        return header

    async def payload(self) -> memoryview:
        """Return the current frame's whole payload."""
        while (payload := self.reader.payload()) is None:
            await self.fill()
        return payload

    async def fill(self) -> None:
        """Receive something into the reader."""
        while not (count := self._pipe.read_into(self.reader.writable())):
            self.reader.shrink()
            await self._more()
        self.reader.received(count)

    async def _more(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._came = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        try:
            await self._came
        finally:
            self._came = None

    async def send(self, kind: Kind, request_id: int, data: bytes | memoryview) -> None:
        """Send a frame, and wait until the peer has received most of what was sent."""
        self.write(frames.pack_header(len(data), kind, request_id))
        view = memoryview(data)
        while view:
            view = view[self.write(view) :]
            if not self._writable.is_set():
                await self._writable.wait()
            if self._lost is not None:
                raise self._lost

    def write(self, data: bytes | memoryview) -> int:
        count = self._pipe.write(data)
        self._transport.write(self._pipe.outgoing())
        return count

    def close(self) -> None:
        """Close the connection."""
        self._transport.write(self._pipe.close())
        self._transport.close()


@dataclass
class Service:
    """The state that all sessions share."""

    context: SSLContext
    tokens: Tokens
    tasks: set[asyncio.Task[None]]

    async def serve(self, stream: Stream) -> None:
        """Serve one session, from its first byte to its last."""
        session = Session(self, stream)
        try:
            await stream.handshake()
            await session.run()
        except ConnectionLost:
            pass  # the client has disconnected
        except FtpError as error:
            failed = messages.encode(Failed.from_error(error))
            await stream.send(Kind.ERROR, 0, failed)
        finally:
            session.close()
            stream.close()


class Session:
    """The session of one client."""

    def __init__(self, service: Service, stream: Stream) -> None:
        self._service = service
        self._stream = stream
        self._account: Account | None = None
        self._home: Home | None = None
        self._id = 0

    async def run(self) -> None:
        """Reply to requests until the client disconnects. Raises FtpError."""
        header = await self._stream.header()
        messages.decode_hello(await self._stream.payload())
        ours = messages.Hello(max_control=frames.MAX_CONTROL, max_data=frames.MAX_DATA)
        await self._stream.send(Kind.REPLY, header.request_id, messages.encode_hello(ours))
        while True:
            header = await self._stream.header()
            request = messages.decode_request(await self._stream.payload())
            self._id = header.request_id
            try:
                kind, reply = await self._answer(request)
            except CommandError as error:
                kind, reply = Kind.ERROR, Failed.from_error(error)
            except OSError as error:
                kind, reply = Kind.ERROR, Failed.from_error(from_oserror(error, "the file"))
            await self._stream.send(kind, self._id, messages.encode(reply))

    async def _answer(self, request: Message) -> tuple[Kind, Message]:
        match request:
            case LoginToken(user, token):
                self._account, _ = self._service.tokens.log_in(user, token)
                self._stream.reader.allow(frames.MAX_CONTROL, frames.MAX_DATA)
                return Kind.REPLY, LoggedIn(user)
            case Stat(path, follow, digest):
                return Kind.REPLY, Found(self._opened().entry(path, follow=follow, digest=digest))
            case Get(path):
                return Kind.END, await self._get(path)
            case Put(path):
                return Kind.REPLY, await self._put(path)
        raise CommandError(f"{type(request).__name__}: not supported by this small server")

    def _opened(self) -> Home:
        if self._account is None:
            raise BadMessage("log in first")
        if self._home is None:
            self._home = Home(self._account.home)
        return self._home

    async def _get(self, path: bytes) -> messages.Sent:
        """Send a file. A thread reads the next piece while this one is sent."""
        fd, info = self._opened().tree.open_file(paths.split(path))
        hasher = digests.new()
        offset = 0
        reading = _in_thread(_read, fd, offset, hasher)
        try:
            sending = messages.Sending(info.st_size, info.st_mode & 0o7777, info.st_mtime_ns)
            await self._stream.send(Kind.REPLY, self._id, messages.encode(sending))
            while piece := await reading:
                offset += len(piece)
                reading = _in_thread(_read, fd, offset, hasher)
                await self._stream.send(Kind.DATA, self._id, piece)
            return messages.Sent(offset, hasher.digest())
        finally:
            await asyncio.wait([reading])
            os.close(fd)

    async def _put(self, path: bytes) -> Stored:
        data = bytearray()
        while (header := await self._stream.header()).kind == Kind.DATA:
            if len(data) + header.size > LARGEST_PUT:
                raise BadMessage("this small server accepts only small files")
            data += await self._stream.payload()
        sent = messages.decode_sent(await self._stream.payload())
        if digests.digest(data) != sent.digest:
            raise VerificationFailed("the bytes were damaged in transit")
        home = self._opened()
        *directory, name = paths.split(path)
        await _in_thread(_store, home, tuple(directory), name, bytes(data))
        return Stored(len(data))

    def close(self) -> None:
        """Close the home's descriptors."""
        if self._home is not None:
            self._home.close()


def _in_thread(call: Callable[..., bytes], *arguments: object) -> asyncio.Future[bytes]:
    return asyncio.get_running_loop().run_in_executor(None, call, *arguments)


def _read(fd: int, offset: int, hasher: digests.new) -> bytes:
    piece = os.pread(fd, DATA_SIZE, offset)
    hasher.update(piece)
    return piece


def _store(home: Home, directory: tuple[bytes, ...], name: bytes, data: bytes) -> bytes:
    """Store a file under its name, as a whole and durably."""
    staged = home.new_name()
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=home.staging_fd)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    place = home.tree.open_dir(directory)
    try:
        os.rename(staged, name, src_dir_fd=home.staging_fd, dst_dir_fd=place)
        os.fsync(place)
    finally:
        os.close(place)
    return staged


async def main(root: Path, port: int, certificate: Path, key: Path) -> None:
    """Serve until the process is killed."""
    engine = open_state(state_of(root))
    tokens = Tokens(engine, Accounts(engine, root))
    service = Service(make_context(certificate, key), tokens, set())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stream(service), "127.0.0.1", port, backlog=1024)
    async with server:
        host, port = server.sockets[0].getsockname()
        print(f"listening on {host}:{port}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    raise_descriptor_limit()
    root, port, certificate, key = sys.argv[1:]
    asyncio.run(main(Path(root), int(port), Path(certificate), Path(key)))
