"""AsyncClient: the Python API for asyncio.

Lives here: the verbs as coroutines, and the threads that transfers run in.
Lives elsewhere: the same verbs without asyncio, and the rules of transfers (ftpclient/client.py and
what it uses), the connection (connection.py).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from ftpclient import verbs
from ftpclient.aio import edge
from ftpclient.aio.connection import LoopConnection
from ftpclient.aio.streams import StreamPut, alive
from ftpclient.aio.thread_connection import ThreadConnection
from ftpclient.aio.threads import ThreadClient, in_thread, open_in_thread
from ftpclient.arguments import (
    AnyPath,
    LocalPath,
    Overwrite,
    Replace,
    absolute,
    as_prefix,
    as_typed,
    one_or_several,
    overwriting,
    target_for,
)
from ftpclient.base import make_dialer, refuser
from ftpclient.connection import forks
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.client_id import client_id, grouped, in_force
from ftpclient.connection.credentials import Credential, Password, Remark
from ftpclient.connection.driver import Trusted
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.connection.opening import Opened
from ftpclient.connection.trust import Ask, AskTakeover
from ftpclient.guard import CallbackFailed, Guard
from ftpclient.transfer.job import EmptySource, Options
from ftpclient.transfer.report import INPUT_LOST, Listener, Result, Summary
from ftpclient.transfer.upload import Upload
from ftpclient.verbs import Conflict, beginning, from_the_top, report_problems
from ftpwire import digests, messages, paths
from ftpwire.errors import (
    ConnectionLost,
    Interrupted,
    IsADirectory,
    SessionEnded,
)
from ftpwire.messages import (
    ChangeFor,
    Copied,
    Entry,
    Hashed,
    InTrash,
    KeptDropped,
    KeptUpload,
    Problem,
    R,
    Removed,
    RequestFor,
    Restored,
    Sent,
    SpaceInfo,
    TokenInfo,
    TokenIssued,
    TrashedOperation,
)
from ftpwire.pacing import Pace
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from ftpclient.sync.check import CheckOptions, CheckSummary
    from ftpclient.sync.job import Confirm, SyncSummary
    from ftpclient.sync.job import Options as SyncOptions
    from ftpclient.transfer.trash import Trashed, Version

T = TypeVar("T")

_AT_ONCE = 8
"""Most transfers of a client that run at the same time, and most changes that are retried after a
loss; further ones wait for their turn."""


class AsyncClient:
    """A client with a session on a server, for asyncio. It has the verbs of `Client`.

    Any number of tasks may use it at the same time. They share one connection: requests are sent
    without waiting for earlier replies, and replies come in the order of the requests. A task that
    is cancelled cancels its own request or transfer; the connection and other tasks are not
    affected.

        async with AsyncClient("alice@example.net", password="…") as client:
            await client.put(["report.pdf"], "/inbox/")
            async for entry in client.list_dir("/inbox"):
                print(entry.path, entry.size)

    It belongs to the event loop that it is first used in. The loop drives the socket; each transfer
    of files has a thread for the disk and for hashing. A transfer has connections of its own,
    driven by its threads, if it uses several (``parallel``), if it replaces a tree at once
    (``atomic``, which requests of other tasks must not become part of), and with ``limit_rate``.

    Args:
        server, password, password_tries, plaintext, accept_new, known_hosts, fingerprint, ca,
            ask, ask_takeover, saved_token, verify, remark: As in `Client`. ``password``, ``ask``
            and ``ask_takeover`` are called in another thread, so they may block.
        retry_for, retries: As in `Client`.
    """

    def __init__(
        self,
        server: str | ServerAddress | None = None,
        *,
        password: Password = None,
        password_tries: int = 1,
        plaintext: bool = False,
        accept_new: bool = False,
        known_hosts: KnownHosts | str | os.PathLike[str] | None = None,
        fingerprint: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        ask: Ask | None = None,
        ask_takeover: AskTakeover | None = None,
        retry_for: float = 30.0,
        retries: int | None = None,
        saved_token: bool = True,
        verify: bool = True,
        remark: Remark | None = None,
    ) -> None:
        self.retry_for = retry_for
        self.retries = retries
        self._pace: Pace | None = None
        self._cwd = paths.ROOT
        self._remark = remark
        self._loop: asyncio.AbstractEventLoop | None = None
        self._guard = Guard()
        self._dialer = make_dialer(
            server,
            self._guard,
            None if remark is None else self._pass_remark,
            password=password,
            password_tries=password_tries,
            plaintext=plaintext,
            accept_new=accept_new,
            known_hosts=known_hosts,
            fingerprint=fingerprint,
            ca=ca,
            ask=ask,
            ask_takeover=ask_takeover,
            saved_token=saved_token,
            verify=verify,
        )
        self._user = self.address.login
        self._connection: LoopConnection | None = None
        self._like: LoopConnection | None = None
        """The latest connection, whose TLS session the next one resumes."""
        self._begin()
        forks.follow(self)

    def _begin(self) -> None:
        """Set the state of a client without running verbs."""
        self._edge = edge.Edge()
        self._opening = asyncio.Lock()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._repeating = asyncio.Semaphore(_AT_ONCE)
        self._threads: set[ThreadClient] = set()
        """The clients of the running threads."""

    def _after_fork(self) -> None:
        """Reset in a child process, which may have an event loop of its own."""
        self._connection = None
        self._begin()

    # the connection ----------------------------------------------------------------------

    @property
    def address(self) -> ServerAddress:
        """The server's address."""
        return self._dialer.address

    @property
    def user(self) -> str:
        """The name of the account, or before log-in the name to log in with."""
        return self._user

    @property
    def connected(self) -> bool:
        """True if there is a connection that is not known to be broken."""
        return self._connection is not None and not self._connection.broken

    @property
    def limit_rate(self) -> int | None:
        """The most bytes per second of all files and streams together; None for no limit.

        A transfer that began without a limit continues without one.
        """
        return None if self._pace is None else self._pace.rate

    @limit_rate.setter
    def limit_rate(self, rate: int | None) -> None:
        if rate is None or self._pace is None:
            self._pace = None if rate is None else Pace(rate)
        else:
            self._pace.rate = max(1, rate)

    @edge.verb
    async def connect(self, *, timeout: float | None = None) -> None:
        """Connect and log in. Do nothing if the client is connected. Verbs do this when needed.

        Raises:
            ConnectFailed, TrustError, LoginRefused, ProtocolError
        """
        await self._connected()

    async def _connected(self) -> LoopConnection:
        loop = asyncio.get_running_loop()
        async with self._opening:
            connection = self._connection
            if connection is not None and not connection.broken:
                if connection.loop is not loop:
                    raise RuntimeError("this AsyncClient belongs to another event loop")
                if connection.left_listing:
                    await connection.settle()
                if not connection.broken:
                    return connection
                if self._connection is not connection:
                    raise SessionEnded("the client was closed")
            return await self._open(loop, self._dialer.dial)

    async def _open(
        self,
        loop: asyncio.AbstractEventLoop,
        dial: Callable[[Interrupt, Trusted | None], Opened],
    ) -> LoopConnection:
        """Connect, and use that connection from then on."""
        self._loop = loop
        like = None if self._like is None else self._like.trusted

        def open_one(interrupt: Interrupt) -> Opened:
            client_id()  # it may have to be read from a file: here, not in the loop
            return dial(interrupt, like)

        made = await open_in_thread(loop, open_one)
        self._user = made.user
        self._connection = self._like = LoopConnection(made, loop)
        return self._connection

    def _pass_remark(self, text: str) -> None:
        """Pass a remark on, in the loop's thread. Any thread may call this."""
        assert self._loop is not None and self._remark is not None
        try:
            self._loop.call_soon_threadsafe(self._remark, text)
        except RuntimeError:
            pass  # the loop was closed, so the remark has no receiver

    @edge.verb
    async def register(
        self,
        password: str | Callable[[], str],
        invitation: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Create the account that the address names, and log in as it; see `Client.register`.

        Args:
            password: The password, or a function that asks for it in another thread, where it may
                block.

        Raises:
            RegistrationClosed, NameTaken, BadAccount
        """

        if callable(password):
            password = self._guard.asking(password, refuser(self.address))
        new_password = password

        def register(interrupt: Interrupt, like: Trusted | None) -> Opened:
            return self._dialer.register(self.user, new_password, invitation, interrupt, None)

        async with self._opening:
            await self.close()
            await self._open(asyncio.get_running_loop(), register)

    def _drop(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.end(ConnectionLost(f"{self.address.endpoint}: {reason}"))

    async def close(self) -> None:
        """Close the connection; running requests and transfers fail. Can be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        for one in self._threads:
            one.is_closed = True
            one.stop()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask(self, request: RequestFor[R]) -> R:
        connection, operation = await self._connected(), in_force(self)
        repeats = operation is not None and connection.keeps_trash
        if not repeats or not isinstance(request, ChangeFor):
            return await connection.request(request, operation)
        assert operation is not None
        change = operation.numbered(request)
        try:
            done: R = await connection.request(change, operation)
            return done
        except ConnectionLost as error:
            lost = error
        async with self._repeating:  # a thread waits and reconnects
            return await self._in_thread(lambda client: client.repeat(change, lost), connect=False)

    @contextmanager
    def operation(self, words: str, *, keep: bool = True) -> Iterator[None]:
        """Make all verbs of a ``with`` block one operation; see `Client.operation`. This applies to
        calls in this task, and in tasks that it creates in the block."""
        with grouped(self, words, keep=keep):
            yield

    # the account -------------------------------------------------------------------------

    @property
    def password(self) -> str | None:
        """The accepted password; None if a token was used."""
        accepted = self._dialer.credentials.accepted
        return None if accepted is None or accepted.is_token else accepted.secret

    @edge.verb
    async def change_password(self, old: str, new: str, *, timeout: float | None = None) -> None:
        """Set a new password; see `Client.change_password`. Raises LoginRefused, BadAccount."""
        for one in (old, new):
            Credential(self.user, one).check()  # raises early if it cannot be sent
        await verbs.change_password(self._ask, old, new)
        self._dialer.credentials.accepted = Credential(self.user, new)

    @edge.verb
    async def issue_token(
        self, name: str = "", seconds: int | None = None, *, timeout: float | None = None
    ) -> TokenIssued:
        """Create a token to log in with instead of the password; see `Client.issue_token`."""
        return await verbs.issue_token(self._ask, name, seconds)

    @edge.verb
    async def tokens(self, *, timeout: float | None = None) -> Sequence[TokenInfo]:
        """Return the account's tokens, oldest first."""
        return await verbs.tokens(self._ask)

    @edge.verb
    async def revoke_token(
        self, token_id: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Revoke a token; by default the one that this session used. Raises NotFound."""
        await verbs.revoke_token(self._ask, token_id)

    # paths -------------------------------------------------------------------------------

    @property
    def cwd(self) -> RemotePath:
        """The remote directory that relative paths start from."""
        return self._cwd

    @edge.local
    def resolve(self, path: AnyPath) -> RemotePath:
        """Return the absolute remote path for an argument. Raises InvalidPath."""
        return self._resolve(path)

    def _resolve(self, path: AnyPath) -> RemotePath:
        return absolute(self._cwd, path)

    @edge.local
    def target_for(self, source: bytes, target: AnyPath, *, into: bool) -> RemotePath:
        """Return the target path of ``source``; see `Client.target_for`."""
        return target_for(source, self._resolve(target), into=into)

    @edge.verb
    async def is_directory(self, target: AnyPath, *, timeout: float | None = None) -> bool:
        """Return True if files go into ``target``; see `Client.is_directory`.

        Raises NotADirectory.
        """
        return await verbs.is_directory(self._ask, as_typed(target), self._resolve(target))

    @edge.verb
    async def make_target(
        self,
        target: AnyPath,
        *,
        several: bool,
        into: bool | None = None,
        make: bool = True,
        timeout: float | None = None,
    ) -> bool:
        """Return True if files go into the directory ``target``, which is created if it ends with a
        slash; see `Client.make_target`. Raises NotADirectory."""
        typed, path = as_typed(target), self._resolve(target)
        return await verbs.make_target(
            self._ask, typed, path, several=several, into=into, make=make
        )

    @edge.verb
    async def change_dir(self, path: AnyPath, *, timeout: float | None = None) -> RemotePath:
        """Change the remote directory that relative paths start from. Return its absolute path."""
        self._cwd = await verbs.directory(self._ask, self._resolve(path))
        return self._cwd

    @edge.verb
    async def glob(self, pattern: AnyPath, *, timeout: float | None = None) -> list[RemotePath]:
        """Return the remote paths that match a pattern; see `Client.glob`. Raises NotFound."""
        return await self._in_thread(lambda client: client.glob(pattern))

    def _resolve_in(self, path: AnyPath, in_trash: InTrash | None) -> RemotePath:
        return self._resolve(path) if in_trash is None else absolute(paths.ROOT, path)

    # reading -----------------------------------------------------------------------------

    @edge.verb
    async def whoami(self, *, timeout: float | None = None) -> str:
        """Return the account's name as the server knows it."""
        return await verbs.whoami(self._ask)

    @edge.verb
    async def space(self, *, timeout: float | None = None) -> SpaceInfo:
        """Return the quota, the free space and the usage of the account, in bytes."""
        return await verbs.space(self._ask)

    @edge.verb
    async def kept(self, *, timeout: float | None = None) -> list[KeptUpload]:
        """Return the account's interrupted uploads that the server has kept; see `Client.kept`."""
        return await self._in_thread(lambda client: client.kept())

    @edge.verb
    async def drop_kept(
        self, path: AnyPath | None = None, *, timeout: float | None = None
    ) -> KeptDropped:
        """Discard the interrupted uploads to a path, or all; see `Client.drop_kept`."""
        return await self._in_thread(lambda client: client.drop_kept(path))

    @edge.verb
    async def stat(
        self,
        path: AnyPath,
        *,
        follow: bool = False,
        digest: bool = False,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> Entry:
        """Return the state of a path; see `Client.stat`. Raises NotFound."""
        resolved = self._resolve_in(path, in_trash)
        return await verbs.stat(
            self._ask, resolved, follow=follow, digest=digest, in_trash=in_trash
        )

    @edge.verb
    async def find(
        self, path: AnyPath, *, follow: bool = False, timeout: float | None = None
    ) -> Entry | None:
        """Return the state of a path; None if it does not exist."""
        return await verbs.find(self._ask, self._resolve(path), follow=follow)

    @edge.verb
    async def exists(
        self, path: AnyPath, *, follow: bool = True, timeout: float | None = None
    ) -> bool:
        """Return True if a path exists; see `Client.exists`."""
        return await verbs.exists(self._ask, self._resolve(path), follow=follow)

    @edge.verb
    async def is_dir(self, path: AnyPath, *, timeout: float | None = None) -> bool:
        """Return True if there is a directory at a path, or a link to one."""
        return await verbs.is_dir(self._ask, self._resolve(path))

    @edge.stream
    async def list_dir(
        self,
        path: AnyPath = ".",
        *,
        recursive: bool = False,
        follow: bool = False,
        digest: bool = False,
        on_problem: Callable[[Problem], None] | None = None,
        in_trash: InTrash | None = None,
        prefix: str | bytes = b"",
        timeout: float | None = None,
    ) -> AsyncGenerator[Entry, None]:
        """Yield the entries of a directory, or of the tree below it; see `Client.list_dir`.

        Entries are streamed. While they are not taken, other requests of this client wait: exhaust
        the iterator, close it (``aclose``), or end the task.
        """
        resolved = self._resolve_in(path, in_trash)
        begin = as_prefix(prefix)
        request = messages.List(resolved, recursive, follow, digest, in_trash, begin)
        async with aclosing(self._walk(request, on_problem)) as parts:
            async for directory, entries in parts:
                for entry in from_the_top(directory, entries):
                    yield entry

    @edge.stream
    async def walk(
        self,
        path: AnyPath = ".",
        *,
        follow: bool = False,
        digest: bool = False,
        on_problem: Callable[[Problem], None] | None = None,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[tuple[bytes, list[Entry]], None]:
        """Yield the tree below a directory, part by part; see `Client.walk`."""
        resolved = self._resolve_in(path, in_trash)
        request = messages.List(resolved, True, follow, digest, in_trash)
        async with aclosing(self._walk(request, on_problem)) as parts:
            async for part in parts:
                yield part

    async def _walk(
        self, request: messages.List, on_problem: Callable[[Problem], None] | None
    ) -> AsyncGenerator[tuple[bytes, list[Entry]], None]:
        connection = await self._connected()
        async with aclosing(connection.pages(request)) as pages:
            async for page in pages:
                page = beginning(page, request.prefix)
                report_problems(page, on_problem)
                yield page.directory, page.entries

    @edge.verb
    async def hash(
        self,
        path: AnyPath,
        *,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> Hashed:
        """Return a file's BLAKE3 digest and size."""
        return await verbs.hashed(self._ask, self._resolve_in(path, in_trash), in_trash)

    # changing ----------------------------------------------------------------------------

    @edge.verb
    async def make_dir(
        self,
        path: AnyPath,
        *,
        parents: bool = False,
        mode: int = 0o755,
        timeout: float | None = None,
    ) -> None:
        """Create a directory; with ``parents`` also missing parents, and no error if it exists."""
        await verbs.make_dir(self._ask, self._resolve(path), parents=parents, mode=mode)

    @edge.verb
    async def make_link(
        self,
        path: AnyPath,
        target: AnyPath,
        *,
        overwrite: Replace | bool = "never",
        timeout: float | None = None,
    ) -> None:
        """Create a symbolic link; see `Client.make_link`. Raises AlreadyExists, InvalidPath."""
        await verbs.make_link(self._ask, self._resolve(path), target, overwrite)

    @edge.verb
    async def set_attributes(
        self,
        path: AnyPath,
        *,
        mode: int | None = None,
        mtime_ns: int | None = None,
        setgid: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Set the mode (permission bits), the mtime (nanoseconds since 1970), or both.

        See `Client.set_attributes`.
        """
        await verbs.set_attributes(self._ask, self._resolve(path), mode, mtime_ns, setgid)

    @edge.verb
    async def remove(
        self,
        path: AnyPath,
        *,
        recursive: bool = False,
        final: bool = False,
        file_only: bool = False,
        timeout: float | None = None,
    ) -> Removed:
        """Remove a file, a link, an empty directory, or a whole tree; see `Client.remove`."""
        where = self._resolve(path)
        return await verbs.remove(
            self._ask, where, recursive=recursive, final=final, file_only=file_only
        )

    @edge.verb
    async def move(
        self,
        source: AnyPath,
        target: AnyPath,
        *,
        overwrite: Replace | bool = "always",
        timeout: float | None = None,
    ) -> None:
        """Rename to exactly ``target``."""
        await verbs.move(self._ask, self._resolve(source), self._resolve(target), overwrite)

    @edge.verb
    async def copy(
        self,
        source: AnyPath,
        target: AnyPath,
        *,
        recursive: bool = False,
        overwrite: Replace | bool = "always",
        links: bool = False,
        timeout: float | None = None,
    ) -> Copied:
        """Copy on the server to exactly ``target``; see `Client.copy`."""
        ends = self._resolve(source), self._resolve(target)
        return await verbs.copy(self._ask, *ends, overwrite, recursive=recursive, links=links)

    # the trash ---------------------------------------------------------------------------

    @edge.verb
    async def trash(
        self,
        *,
        below: AnyPath | None = None,
        since: float | None = None,
        timeout: float | None = None,
    ) -> list[TrashedOperation]:
        """Return the operations in the trash, newest first; see `Client.trash`."""
        return await self._in_thread(lambda client: client.trash(below=below, since=since))

    @edge.verb
    async def trash_items(
        self,
        operation: str | None = None,
        *,
        below: AnyPath | None = None,
        timeout: float | None = None,
    ) -> list[Trashed]:
        """Return the items that an operation has changed; see `Client.trash_items`."""
        return await self._in_thread(lambda client: client.trash_items(operation, below=below))

    @edge.verb
    async def versions(self, path: AnyPath, *, timeout: float | None = None) -> list[Version]:
        """Return the earlier versions of a path that can be restored; see `Client.versions`."""
        return await self._in_thread(lambda client: client.versions(path))

    @edge.verb
    async def restore(
        self,
        operation: str,
        paths: AnyPath | Iterable[AnyPath] = (),
        *,
        items: Iterable[str] = (),
        target: AnyPath | None = None,
        conflict: Conflict = "skip",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Restored:
        """Restore what an operation has removed and replaced; see `Client.restore`."""
        return await verbs.restore(
            self._ask,
            operation,
            [self._resolve(path) for path in one_or_several(paths)],
            items=list(items),
            target=None if target is None else self._resolve(target),
            conflict=conflict,
            dry_run=dry_run,
        )

    @edge.verb
    async def undo(
        self,
        operation: str | None = None,
        *,
        conflict: Conflict = "skip",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Restored:
        """Undo an operation, by default the newest one of this client; see `Client.undo`."""
        return await self._in_thread(
            lambda client: client.undo(operation, conflict=conflict, dry_run=dry_run)
        )

    @edge.verb
    async def purge(
        self,
        operation: str | None = None,
        *,
        items: Iterable[str] = (),
        before: float | None = None,
        timeout: float | None = None,
    ) -> Removed:
        """Purge an operation, or all, from the trash; see `Client.purge`."""
        return await verbs.purge(self._ask, operation, list(items), before)

    # transferring files ------------------------------------------------------------------

    @edge.verb
    async def put(
        self,
        sources: LocalPath | Iterable[LocalPath],
        target: AnyPath = ".",
        *,
        into: bool | None = None,
        recursive: bool = False,
        copy_links: bool = False,
        overwrite: Overwrite | bool = "always",
        resume: bool = True,
        atomic: bool = False,
        parallel: int | None = None,
        fail_fast: bool = False,
        links: bool = False,
        no_empty: bool = False,
        exclude: Iterable[str] = (),
        ignore_files: bool = False,
        files_from: Iterable[AnyPath] | None = None,
        remove_source: bool = False,
        dry_run: bool = False,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Summary:
        """Upload files, links and trees into the directory ``target``, or as it; see `Client.put`.

        If the task is cancelled, what was stored is kept, and the same call can resume later.
        """
        return await self._transfer(
            lambda client: client.put(
                sources,
                target,
                into=into,
                recursive=recursive,
                copy_links=copy_links,
                overwrite=overwrite,
                resume=resume,
                atomic=atomic,
                parallel=parallel,
                fail_fast=fail_fast,
                links=links,
                no_empty=no_empty,
                exclude=exclude,
                ignore_files=ignore_files,
                files_from=files_from,
                remove_source=remove_source,
                dry_run=dry_run,
                listener=client.listener,
            ),
            listener,
            own=atomic,
        )

    @edge.verb
    async def get(
        self,
        sources: AnyPath | Iterable[AnyPath],
        target: LocalPath = ".",
        *,
        into: bool | None = None,
        recursive: bool = False,
        copy_links: bool = False,
        overwrite: Overwrite | bool = "always",
        resume: bool = True,
        parallel: int | None = None,
        fail_fast: bool = False,
        links: bool = False,
        exclude: Iterable[str] = (),
        files_from: Iterable[AnyPath] | None = None,
        remove_source: bool = False,
        dry_run: bool = False,
        in_trash: InTrash | None = None,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Summary:
        """Download files, links and trees; sources may be patterns; see `Client.get`."""
        return await self._transfer(
            lambda client: client.get(
                sources,
                target,
                into=into,
                recursive=recursive,
                copy_links=copy_links,
                overwrite=overwrite,
                resume=resume,
                parallel=parallel,
                fail_fast=fail_fast,
                links=links,
                exclude=exclude,
                files_from=files_from,
                remove_source=remove_source,
                dry_run=dry_run,
                in_trash=in_trash,
                listener=client.listener,
            ),
            listener,
        )

    @edge.verb
    async def put_file(
        self,
        source: LocalPath,
        target: AnyPath,
        *,
        overwrite: Overwrite | bool = "always",
        resume: bool = True,
        parallel: int | None = None,
        links: bool = False,
        no_empty: bool = False,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Upload one file as exactly ``target``, or raise the error; see `Client.put_file`."""
        return await self._transfer(
            lambda client: client.put_file(
                source,
                target,
                overwrite=overwrite,
                resume=resume,
                parallel=parallel,
                links=links,
                no_empty=no_empty,
                listener=client.listener,
            ),
            listener,
        )

    @edge.verb
    async def get_file(
        self,
        source: AnyPath,
        target: LocalPath,
        *,
        overwrite: Overwrite | bool = "always",
        resume: bool = True,
        parallel: int | None = None,
        links: bool = False,
        in_trash: InTrash | None = None,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Download one file as exactly ``target``, or raise the error; see `Client.get_file`."""
        return await self._transfer(
            lambda client: client.get_file(
                source,
                target,
                overwrite=overwrite,
                resume=resume,
                parallel=parallel,
                links=links,
                in_trash=in_trash,
                listener=client.listener,
            ),
            listener,
        )

    @edge.verb
    async def sync(
        self,
        source: LocalPath,
        target: LocalPath,
        options: SyncOptions | None = None,
        *,
        listener: Listener | None = None,
        confirm: Confirm | None = None,
        timeout: float | None = None,
    ) -> SyncSummary:
        """Make ``target`` a copy of ``source``; see `Client.sync`.

        Args:
            confirm: Function to call before anything is deleted, in another thread, where it may
                block.
        """
        return await self._transfer(
            lambda client: client.sync(
                source, target, options, listener=client.listener, confirm=confirm
            ),
            listener,
        )

    @edge.verb
    async def check(
        self,
        source: LocalPath,
        target: LocalPath,
        options: CheckOptions | None = None,
        *,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> CheckSummary:
        """Compare ``source`` and ``target``, and change nothing; see `Client.check`."""
        return await self._transfer(
            lambda client: client.check(source, target, options, listener=client.listener),
            listener,
        )

    @edge.verb
    async def read(
        self,
        path: AnyPath,
        offset: int = 0,
        length: int | None = None,
        *,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Return the bytes of a file, or a part of them; see `Client.read`."""
        return await self._transfer(
            lambda client: client.read(path, offset, length, in_trash=in_trash)
        )

    @edge.verb
    async def write(
        self,
        path: AnyPath,
        data: ReadableBuffer,
        *,
        overwrite: Replace | bool = "always",
        mode: int | None = None,
        parents: bool = False,
        timeout: float | None = None,
    ) -> int:
        """Store bytes as a file, whole or not at all. Return their number. See `Client.write`.

        The bytes must not change until this returns.
        """
        return await self._transfer(
            lambda client: client.write(path, data, overwrite=overwrite, mode=mode, parents=parents)
        )

    @edge.verb
    async def put_stream(
        self,
        source: AsyncIterable[bytes],
        target: AnyPath,
        *,
        overwrite: Overwrite | bool = "always",
        no_empty: bool = False,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Summary:
        """Upload everything that an asynchronous iterator yields as the file ``target``.

        No other request of this client is sent meanwhile, so the source must not wait for one, such
        as a ``get_stream`` of the same client. If the source raises, that is raised again, and
        nothing is stored.

        Args:
            no_empty: True if empty input is a failure, and nothing is stored.
        """
        how, typed = overwriting(overwrite), as_typed(target)
        entry = await self.find(typed, follow=True)
        if entry is not None and entry.type == "dir" or typed.endswith(b"/"):
            raise IsADirectory(f"{paths.show(typed)}: a directory: give a file name")
        connection = await self._connected()
        beside = connection.for_thread(None)  # sends nothing: this task sends all frames
        upload = Upload(beside, Options(overwrite=how), listener or Listener())
        call = StreamPut(upload, self._resolve(typed))
        request = messages.Put(self._resolve(typed), None, overwrite=how, ask=True)
        upstream = connection.open_upload(call, request, in_force(self))
        call.on_end = upstream.wake
        try:
            await call.readiness.wait()
            if call.ready is not None:
                upload.started(b"-", None)
                hasher = digests.new()
                stall = beside.protocol.silence
                pieces_of = alive(source, lambda: upstream.send(b""), self._most, stall, call.end)
                async with aclosing(pieces_of) as pieces:
                    async for piece in pieces:
                        hasher.update(piece)
                        call.size += len(piece)
                        await upstream.send(piece)
                        upload.advanced(len(piece))
                        if call.done:
                            break
                        await self._spend(len(piece))
                if no_empty and not call.size and not call.done:
                    call.failure = EmptySource("the stream is empty: not stored")
                    upstream.cancel()
                    await call.end.wait()
                if not call.done:
                    call.digest = hasher.digest()
                    upstream.end(Sent(call.size, call.digest))
                    await call.end.wait()
        except BaseException:
            call.replaced = True
            raise
        finally:
            upstream.cancel()  # closes the upload unless it has ended, also a refused one
            beside.close()
        if isinstance(call.error, ConnectionLost):
            raise call.error.with_text(f"{call.error}: {INPUT_LOST}")
        return upload.close()

    @edge.stream
    async def get_stream(
        self,
        source: AnyPath,
        *,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield a remote file's bytes, in pieces as they arrive.

        While they are not taken, other requests of this client wait, as with ``list_dir``.

        Raises:
            VerificationFailed: After the last byte: the bytes do not match the digest, or the
                server sent none.
        """
        connection = await self._connected()
        resolved = self._resolve_in(source, in_trash)
        async with aclosing(connection.stream(resolved, in_trash)) as pieces:
            async for data in pieces:
                yield data
                await self._spend(len(data))

    def _most(self) -> int:
        """Return the most bytes to send at once."""
        return sys.maxsize if self._pace is None else self._pace.most

    async def _spend(self, count: int) -> None:
        """Report ``count`` transferred bytes of a stream, and wait as long as the limit demands."""
        pace = self._pace
        if pace is not None:
            pace.spend(count)
            await asyncio.sleep(pace.delay())

    # transfers' threads ------------------------------------------------------------------

    async def _transfer(
        self,
        work: Callable[[ThreadClient], T],
        listener: Listener | None = None,
        *,
        own: bool = False,
    ) -> T:
        """Do the same as ``_in_thread`` for a long transfer; only a few of them run at a time.

        Args:
            own: True if it needs a connection without requests of other tasks.
        """
        async with self._turns:
            return await self._in_thread(work, listener, own or self._pace is not None)

    async def _in_thread(
        self,
        work: Callable[[ThreadClient], T],
        listener: Listener | None = None,
        own: bool = False,
        connect: bool = True,
    ) -> T:
        """Run a verb of `Client` in a thread, over this client's connection.

        Args:
            connect: True to connect first, so that an unreachable server is an error at once.
        """
        loop = asyncio.get_running_loop()
        if connect:
            await self._connected()
        client = ThreadClient(
            self._dialer,
            loop,
            self._for_thread,
            own=own,
            pace=self._pace,
            cwd=self._cwd,
            retry_for=self.retry_for,
            retries=self.retries,
            operation=in_force(self),
        )
        if listener is not None:
            client.listen(listener)
        self._threads.add(client)
        try:
            done = await in_thread(lambda: client.run(work), client.stop)
            if client.failure is not None:
                raise CallbackFailed(client.failure)
            return done
        except Interrupted:
            if client.failure is not None:
                raise CallbackFailed(client.failure) from None
            if client.is_closed:
                raise SessionEnded("the client was closed") from None
            raise
        finally:
            self._threads.discard(client)
            client.stopper.close()

    async def _for_thread(self, interrupt: Interrupt) -> ThreadConnection:
        return (await self._connected()).for_thread(interrupt)
