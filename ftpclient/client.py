"""Client: the Python API that every command is written with.

Lives here: the verbs, and the rules about what a path means (as in cp).
Lives elsewhere: moving bytes (transfer/job.py), the connection (connection/connection.py), printing
(cli/render.py).
"""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from msgspec import structs

from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.connection import Connection
from ftpclient.connection.credentials import Credential, Credentials, Password, Remark
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.connection.servers import choose, key_of_environment
from ftpclient.connection.trust import Ask, AskTakeover, Trust, check_fingerprint
from ftpclient.transfer.report import Listener, Summary
from ftpclient.transfer.resume_notes import Unfinished
from ftpclient.transfer.sources import NoTargetDirectory, Sources, check_name, each_once
from ftpwire import messages, paths
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    DiskFull,
    InvalidPath,
    IsADirectory,
    LoginRefused,
    NotADirectory,
    NotFound,
    QuotaExceeded,
    RegistrationClosed,
)
from ftpwire.messages import (
    Copied,
    Entry,
    Hashed,
    KeptDropped,
    KeptUpload,
    Page,
    Problem,
    Removed,
    Room,
    TokenInfo,
    TokenIssued,
)
from ftpwire.pacing import Pace
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from ftpclient.sync.job import Confirm, SyncSummary
    from ftpclient.sync.job import Options as SyncOptions
    from ftpclient.transfer.job import Options

AnyPath = str | bytes

_LONG_PASSWORD = 6
"""Characters that make it unlikely to be part of a word by chance."""

_QUICK_ANSWER = 10.0
"""Seconds that a server waits for a log-in at least."""

_MOST_REMARKS = 20
_LONGEST_REMARK = 500

_MAGIC = re.compile(rb"[*?\[]")
_TAMED = re.compile(rb"\[([*?\[])\]")
"""How a pattern writes one of these as such: what was quoted in the shell comes so."""


class Client:
    """A logged-in user's view of a server.

    Remote paths are ``str`` or ``bytes``, absolute or relative to ``cwd``; local ones are ``str``,
    ``bytes`` or ``os.PathLike``. Errors are those of ``ftpwire.errors``.

        with Client("alice@example.net", password="…") as client:
            client.put(["report.pdf"], "/inbox/")
            for entry in client.list_dir("/inbox"):
                print(entry.path, entry.size)

    Args:
        server: ``[USER@]HOST[:PORT]`` or a saved name; None for FTP_SERVER, else the server that
            was logged in to last, else the local machine.
        password: Or something that asks for it, called when nothing else is there: FTP_PASSWORD,
            the token that `ftp login` saved, netrc; and once the server is trusted.
        password_tries: How often it is called, when the server refuses what it returned.
        plaintext: Speak without TLS.
        saved_token: Use the saved token, if there is one.
        remark: Told what the user should know, once for each text.
        accept_new: Pin the key of a server that was never seen before.
        known_hosts: Where the pins are; None for the user's own file.
        fingerprint: What the key of the server has to be (``SHA256:…``), whatever known hosts say;
            it is pinned. None for FTP_SERVER_KEY if the server is that of FTP_SERVER.
        ca: A file of certificates to trust instead of the system's authorities.
        ask: Asks about a server's key that was never seen before.
        ask_takeover: Asks whether a certificate of an authority replaces the key that is pinned.
        interrupt: Set it to stop what is going on.
        retry_for: Seconds without progress for which `put`, `get` and `sync` make a lost
            connection again and go on; 0 for never. Each byte that is acknowledged or received
            begins them anew. A first connection that fails is not tried again.
        retries: The most losses of the connection that one transfer may meet; None for no bound.
    """

    def __init__(
        self,
        server: str | ServerAddress | None = None,
        *,
        password: Password = None,
        password_tries: int = 1,
        plaintext: bool = False,
        accept_new: bool = False,
        known_hosts: KnownHosts | None = None,
        fingerprint: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        ask: Ask | None = None,
        ask_takeover: AskTakeover | None = None,
        interrupt: Interrupt | None = None,
        retry_for: float = 30.0,
        retries: int | None = None,
        saved_token: bool = True,
        remark: Remark | None = None,
    ) -> None:
        self.retry_for = retry_for
        self.retries = retries
        self._pace: Pace | None = None
        if not isinstance(server, ServerAddress):
            chosen = choose(server)
            server = chosen.address
            plaintext = plaintext or chosen.plaintext
        self.address = server
        self.cwd: RemotePath = paths.ROOT
        self.user = server.login
        self._remark = remark
        self._remarks: set[str] = set()
        self._credentials = Credentials(
            server,
            password,
            plaintext=plaintext,
            saved=saved_token,
            remark=self._remark_once,
            tries=password_tries,
        )
        self._plaintext = plaintext
        named = fingerprint or key_of_environment(server)
        self._trust = Trust(
            known_hosts or KnownHosts(),
            accept_new=accept_new,
            key=None if named is None else check_fingerprint(named),
            pin_key=fingerprint is not None,
            ca=None if ca is None else Path(ca),
            ask=ask,
            ask_takeover=ask_takeover,
            remark=self._remark_once,
        )
        self._interrupt = interrupt
        self._connection: Connection | None = None

    # the connection ----------------------------------------------------------------------

    _connection_class: type[Connection] = Connection

    def connect(self) -> None:
        """Connect and log in; nothing when that is so already.

        Raises:
            ConnectFailed, TrustError, LoginRefused, ProtocolError
        """
        if self._connection is not None and not self._connection.broken:
            return
        self._connection = self._first_connection()
        self._connection.channel.pace = self._pace

    def _first_connection(self) -> Connection:
        """The one that ``connection`` is then."""
        return self.new_connection()

    def new_connection(self) -> Connection:
        """A further connection, logged in, for a transfer that uses several."""
        credential = self._credentials.first()
        connection = self._open(credential)
        refusal: LoginRefused | None = None
        try:
            while True:
                if credential is not None:
                    try:
                        self.user = connection.log_in(credential)
                    except LoginRefused as error:
                        refusal = error
                    else:
                        self._credentials.accepted = credential  # for a reconnect
                        return connection
                asked = time.monotonic()
                credential = self._credentials.after(credential, refusal)
                connection = self._still_good(connection, asked)
        except BaseException:
            connection.close()
            raise

    def _still_good(self, connection: Connection, asked: float) -> Connection:
        """The connection, or a new one when the user took so long that the server gave it up."""
        if time.monotonic() - asked < _QUICK_ANSWER:
            return connection
        connection.close()
        return self._open(None)

    def _open(self, credential: Credential | None) -> Connection:
        """A connection that is not logged in yet."""
        return self._connection_class(
            self.address,
            plaintext=self._plaintext,
            trust=self._trust,
            interrupt=self._interrupt,
            like=self._connection,
            credential=credential,
            on_remark=self._remark_once,
        )

    def _remark_once(self, text: str) -> None:
        text = text[:_LONGEST_REMARK]
        if self._remark is None or text in self._remarks or len(self._remarks) >= _MOST_REMARKS:
            return  # a server that never stops talking fills neither memory nor screen
        self._remarks.add(text)
        self._remark(text)

    def log_in(self, credential: Credential) -> None:
        """Connect with this credential, and no other. Raises LoginRefused."""
        connection = self._open(credential)
        try:
            self._use(connection, connection.log_in(credential), credential)
        except BaseException:
            connection.close()
            raise

    def register(self, password: str | Callable[[], str], invitation: str | None = None) -> None:
        """Make the account that the address names, and log in as its user.

        Args:
            password: Or something that asks for it, called once the server is trusted.

        Raises:
            RegistrationClosed, NameTaken, BadAccount
        """
        connection = self._open(None)
        try:
            if callable(password):
                asked = time.monotonic()
                password = password()
                connection = self._still_good(connection, asked)
            credential = Credential(self.user, password)
            login = credential.request()
            assert isinstance(login, messages.Login)
            if invitation is not None and len(invitation) > messages.MAX_TOKEN:
                raise RegistrationClosed("that is no invitation")
            reply = connection.ask(messages.Register(login.user, login.password, invitation))
            assert isinstance(reply, messages.LoggedIn)
            self._use(connection, connection.opened_for(reply), credential)
        except BaseException:
            connection.close()
            raise

    def _use(self, connection: Connection, user: str, credential: Credential) -> None:
        """From here on this is the connection."""
        self.close()
        self.user = user
        self._credentials.accepted = credential
        self._connection = connection
        connection.channel.pace = self._pace

    @property
    def limit_rate(self) -> int | None:
        """The most bytes a second to move, over all connections together; None for no limit."""
        return None if self._pace is None else self._pace.rate

    @limit_rate.setter
    def limit_rate(self, rate: int | None) -> None:
        self._pace = None if rate is None else Pace(rate)
        if self._connection is not None:
            self._connection.channel.pace = self._pace

    @property
    def pace(self) -> Pace | None:
        """What keeps ``limit_rate``, for all connections of a transfer."""
        return self._pace

    @property
    def connection(self) -> Connection:
        """The connection, made (again) when there is none."""
        self.connect()
        assert self._connection is not None
        return self._connection

    @property
    def interrupt(self) -> Interrupt | None:
        """What stops this client."""
        return self._interrupt

    @property
    def connected(self) -> bool:
        """Whether there is a connection that isn't known to be broken."""
        return self._connection is not None and not self._connection.broken

    def close(self) -> None:
        """Close the connection. Can be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def settle_interrupt(self) -> None:
        """After Interrupted: give up what is under way, and keep the session if possible."""
        if self._connection is not None:
            self._connection.cancel_all()
            if self._connection.broken:
                self._connection = None
        if self._interrupt is not None:
            self._interrupt.clear()  # asked for once more meanwhile

    def look_up(self) -> None:
        """Between two verbs: notice whether the server has left, so that the next reconnects."""
        if self._connection is not None:
            self._connection.take_unasked()

    def holds_password(self, text: str) -> bool:
        """Whether the password is part of a text, which must not be kept anywhere then.

        A short one may be part of any word: then only whole words count.
        """
        accepted = self._credentials.accepted
        secret = "" if accepted is None else accepted.secret
        if not secret:
            return False
        return secret in (text if len(secret) >= _LONG_PASSWORD else text.split())

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # the account's keys ------------------------------------------------------------------

    @property
    def password(self) -> str | None:
        """The password that was accepted, if it was one."""
        accepted = self._credentials.accepted
        return None if accepted is None or accepted.is_token else accepted.secret

    def change_password(self, old: str, new: str) -> None:
        """Set another password: all tokens, and the account's other sessions, end.

        Raises:
            LoginRefused: The old one is wrong.
            BadAccount: The new one can't be used.
        """
        for one in (old, new):
            Credential(self.user, one).request()  # what can't be sent is told before
        self.connection.ask(messages.ChangePassword(old, new))
        self._credentials.accepted = Credential(self.user, new)

    def issue_token(self, name: str = "", seconds: int | None = None) -> TokenIssued:
        """A token to log in with instead of the password.

        Args:
            name: For people, to tell tokens apart.
            seconds: How long it is good for; None for as long as the server gives.
        """
        reply = self.connection.ask(messages.IssueToken(name[: messages.MAX_TOKEN_NAME], seconds))
        assert isinstance(reply, TokenIssued)
        return reply

    def tokens(self) -> Sequence[TokenInfo]:
        """The account's tokens, oldest first."""
        reply = self.connection.ask(messages.ListTokens())
        assert isinstance(reply, messages.Tokens)
        return reply.tokens

    def revoke_token(self, token_id: str | None = None) -> None:
        """Make a token good for nothing; by default the one that logged in here.

        Raises NotFound.
        """
        if token_id is not None and len(token_id) > messages.MAX_TOKEN_NAME:
            raise NotFound(f"{token_id[:20]}…: no such token")
        self.connection.ask(messages.RevokeToken(token_id))

    # paths -------------------------------------------------------------------------------

    def resolve(self, path: AnyPath) -> RemotePath:
        """The absolute remote path for what was given. Raises InvalidPath."""
        typed = paths.from_text(path) if isinstance(path, str) else path
        if not typed:  # a variable that was not set, most likely: never the current directory
            raise InvalidPath("an empty path")
        return paths.resolve(self.cwd, typed)

    def change_dir(self, path: AnyPath) -> RemotePath:
        """Make a remote directory the one that relative paths start at."""
        target = self.resolve(path)
        if self.stat(target, follow=True).type != "dir":
            raise NotADirectory(f"{paths.show(target)}: not a directory")
        self.cwd = target
        return target

    def glob(self, pattern: AnyPath) -> list[RemotePath]:
        """The remote paths that a pattern with ``*``, ``?`` or ``[…]`` matches, sorted.

        A path without these is returned as it is; so is one that exists to the letter.

        Raises:
            NotFound: Nothing matches.
        """
        path = self.resolve(pattern)
        if not _MAGIC.search(path):
            return [path]
        if self.find(path, follow=False) is not None:
            return [path]
        if not _MAGIC.search(_TAMED.sub(b"", path)):
            return [RemotePath(_TAMED.sub(rb"\1", path))]
        found = [paths.ROOT]
        for part in paths.split(path):
            if _MAGIC.search(part):
                found = [match for base in found for match in self._matches(base, part)]
            else:
                found = [paths.child(base, part) for base in found]
        result = [one for one in found if self.find(one, follow=False) is not None]
        if not result:
            raise NotFound(f"{paths.show(path)}: nothing matches")
        return sorted(result)

    def _matches(self, directory: RemotePath, pattern: bytes) -> Iterator[RemotePath]:
        matcher = re.compile(fnmatch.translate(paths.to_text(pattern)))
        hidden = pattern.startswith(b".")
        try:
            for entry in self.list_dir(directory):
                if entry.path.startswith(b".") and not hidden:
                    continue
                if entry.path and matcher.match(paths.to_text(entry.path)):
                    yield paths.child(directory, entry.path)
        except (NotFound, NotADirectory):
            return  # an earlier part matched something that is no directory

    # looking -----------------------------------------------------------------------------

    def whoami(self) -> str:
        """The account's name, as the server knows it."""
        reply = self.connection.ask(messages.WhoAmI())
        assert isinstance(reply, messages.LoggedIn)
        return reply.user

    def space(self) -> Room:
        """Total, used, held and free bytes."""
        reply = self.connection.ask(messages.Space())
        assert isinstance(reply, Room)
        return reply

    def kept(self) -> list[KeptUpload]:
        """The account's uploads that were interrupted, and that the server keeps: ``put`` goes on
        with them.

        Raises:
            ProtocolError: The server is of a version that can't list them.
        """
        from ftpclient.transfer.kept import kept_uploads

        return list(kept_uploads(self.connection))

    def drop_kept(self, path: AnyPath | None = None) -> KeptDropped:
        """Drop the kept uploads to a path, or all of them: the room that they hold is free then.

        Raises:
            NotFound: None is kept for the path.
            Busy: A session is uploading it just now.
            ProtocolError: As `kept`.
        """
        from ftpclient.transfer.kept import drop

        return drop(self.connection, None if path is None else self.resolve(path))

    def stat(self, path: AnyPath, *, follow: bool = False, digest: bool = False) -> Entry:
        """What is at a path. Raises NotFound."""
        reply = self.connection.ask(messages.Stat(self.resolve(path), follow, digest))
        assert isinstance(reply, messages.Found)
        return reply.entry

    def find(self, path: AnyPath, *, follow: bool = False) -> Entry | None:
        """What is at a path; None when nothing is."""
        try:
            return self.stat(path, follow=follow)
        except (NotFound, NotADirectory):
            return None

    def list_dir(
        self,
        path: AnyPath = ".",
        *,
        recursive: bool = False,
        follow: bool = False,
        digest: bool = False,
        on_problem: Callable[[Problem], None] | None = None,
    ) -> Iterator[Entry]:
        """The entries of a directory, or of the tree below it: each directory, then those in it.

        Streams: nothing is kept. Take them all, or none of the client's other verbs meanwhile.
        Their paths are relative to ``path``.

        Args:
            on_problem: Hears of what could not be read; without it the first one is raised.
        """
        walk = self._walk(messages.List(self.resolve(path), recursive, follow, digest), on_problem)
        for directory, entries in walk:
            yield from from_the_top(directory, entries)

    def walk(
        self,
        path: AnyPath = ".",
        *,
        follow: bool = False,
        digest: bool = False,
        on_problem: Callable[[Problem], None] | None = None,
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        """The tree below a directory, a part of one directory at a time.

        Yields the directory, relative to ``path``, and entries by their names in it. All of a
        directory comes before those in it, and these one after another. As ``list_dir``.
        """
        return self._walk(messages.List(self.resolve(path), True, follow, digest), on_problem)

    def _walk(
        self, request: messages.List, on_problem: Callable[[Problem], None] | None
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        from ftpclient.transfer.job import list_pages

        for page in list_pages(self.connection, request):
            tell_problems(page, on_problem)
            yield page.directory, page.entries

    def hash(self, path: AnyPath) -> Hashed:
        """A file's BLAKE3 digest and size."""
        reply = self.connection.ask(messages.Hash(self.resolve(path)))
        assert isinstance(reply, Hashed)
        return reply

    # changing ----------------------------------------------------------------------------

    def make_dir(self, path: AnyPath, *, parents: bool = False, mode: int = 0o755) -> None:
        """Make a directory; with ``parents`` also those above, and it may exist."""
        self.connection.ask(messages.MakeDir(self.resolve(path), mode, parents))

    def make_link(self, path: AnyPath, target: AnyPath, *, overwrite: bool = False) -> None:
        """Make a symbolic link at ``path``; ``target`` is stored as it is given.

        Where it leads is found out when it is used, inside the home only.

        Raises:
            AlreadyExists: Something is there, and may not be replaced.
            InvalidPath: No link can have such a target.
        """
        self.connection.ask(link_request(self.resolve(path), target, overwrite))

    def set_attributes(
        self,
        path: AnyPath,
        *,
        mode: int | None = None,
        mtime_ns: int | None = None,
        setgid: bool | None = None,
    ) -> None:
        """Set the mode of a file or directory, its mtime, or both. A link is followed.

        Args:
            mode: Permission bits, 0 to 0o777; None leaves them.
            mtime_ns: Nanoseconds since 1970; None leaves it.
            setgid: Of a directory: whether what is made in it gets its group; None leaves that.

        Raises:
            NotADirectory: Something else was to have setgid.
        """
        self.connection.ask(
            messages.SetAttributes(self.resolve(path), mode, mtime_ns, True, setgid)
        )

    def remove(self, path: AnyPath, *, recursive: bool = False) -> Removed:
        """Remove a file, a link, an empty directory, or a whole tree."""
        reply = self.connection.ask(messages.Remove(self.resolve(path), recursive))
        assert isinstance(reply, Removed)
        return reply

    def move(self, source: AnyPath, target: AnyPath, *, overwrite: bool = True) -> None:
        """Rename to exactly ``target``."""
        self.connection.ask(
            messages.Move(
                self.resolve(source), self.resolve(target), "always" if overwrite else "never"
            )
        )

    def copy(
        self,
        source: AnyPath,
        target: AnyPath,
        *,
        recursive: bool = False,
        overwrite: bool = True,
        links: bool = False,
    ) -> Copied:
        """Copy on the server to exactly ``target``. A link that is named is followed.

        Args:
            links: Copy ``source`` itself where it is a link.
        """
        reply = self.connection.ask(
            messages.Copy(
                self.resolve(source),
                self.resolve(target),
                recursive,
                "always" if overwrite else "never",
                links,
            )
        )
        assert isinstance(reply, Copied)
        return reply

    def place_for(self, source: bytes, target: AnyPath, *, into: bool) -> RemotePath:
        """Where something named like ``source`` goes when ``target`` was given, as cp has it.

        Args:
            into: ``target`` is known to be a directory.
        """
        path = self.resolve(target)
        name = paths.name_of(source)
        if into and name not in (b"", b".", b".."):
            return paths.child(path, name)
        return path

    def is_directory(self, target: AnyPath) -> bool:
        """Whether things go into ``target``: a directory, or a path that ends with a slash."""
        typed = paths.from_text(target) if isinstance(target, str) else target
        entry = self.find(self.resolve(typed), follow=True)
        if entry is not None:
            if entry.type != "dir" and typed.endswith(b"/"):
                raise NotADirectory(f"{paths.show(typed)}: not a directory")
            return entry.type == "dir"
        return typed.endswith(b"/")

    def make_target(self, target: AnyPath, *, several: bool, into: bool | None = None) -> bool:
        """Whether ``target`` is a directory to put things into; made if it ends with a slash.

        Args:
            into: True: it has to be one that exists; False: it is a name, whatever is there.

        Raises:
            NotADirectory: It has to be one, for several sources or with ``into``, and isn't.
        """
        typed = paths.from_text(target) if isinstance(target, str) else target
        if into is None:
            into = self.is_directory(typed)
        elif into:
            self._check_target(typed)
            return True
        if into and typed.endswith(b"/"):
            self.make_dir(typed, parents=True)
        if several and not into:
            raise NotADirectory(f"{paths.show(typed)}: not a directory (end it with / to make one)")
        return into

    def _check_target(self, typed: bytes) -> None:
        """Raises NoTargetDirectory: there is no directory to put things into."""
        entry = self.find(typed, follow=True)
        if entry is None or entry.type != "dir":
            raise NoTargetDirectory(f"{paths.show(typed)}: no directory on the server")

    # moving bytes ------------------------------------------------------------------------

    def put(
        self,
        sources: Sequence[AnyPath | os.PathLike[str]],
        target: AnyPath = ".",
        *,
        into: bool | None = None,
        recursive: bool = False,
        copy_links: bool = False,
        overwrite: messages.Overwrite = "always",
        resume: bool = True,
        atomic: bool = False,
        parallel: int | None = None,
        fail_fast: bool = False,
        links: bool = False,
        no_empty: bool = False,
        listener: Listener | None = None,
    ) -> Summary:
        """Upload files, links and trees, into ``target`` or as it (the rules of cp).

        A link that is named is followed, unless it is another user's who may have put it there for
        that; links inside trees are stored as links. A FIFO, a device and a descriptor (/dev/fd/3)
        that are named are read to their end.

        Failures of single files are in the summary, and told to the listener. What an earlier
        try has stored, and the server still has, is compared by digest and not sent again.
        With ``atomic`` a directory appears at its target all at once, in the place of what is
        there, once all of it is on the server; or not at all, when any of it failed. Its
        target is that name exactly, unless it ends with a slash. Of two sources with one base
        name, the second is refused: it fails with AlreadyExists, and the others are done.

        Args:
            copy_links: Follow all links: in trees, and another user's.
            into: True: ``target`` has to be a directory that exists, and everything goes into it.
                False: ``target`` is the name of the one source, whatever is there. None: as in cp.
            parallel: Connections for the files of a tree, or the pieces of large files; None
                chooses.
            links: Store a link that is named itself.
            no_empty: A file or stream without a byte fails, and is not stored.

        Raises:
            QuotaExceeded, DiskFull: It can't fit. Nothing was sent.
            ConnectionLost, Interrupted, NotADirectory
        """
        from ftpclient.transfer.job import Options

        options = Options(
            recursive, copy_links, overwrite, resume and not atomic, fail_fast, links, no_empty
        )
        local = [os.fsencode(source) for source in sources]
        try:
            return self._put(local, target, into, options, listener or Listener(), atomic, parallel)
        finally:
            if self._connection is not None:
                self._connection.forget_ahead()

    def _put(
        self,
        local: list[bytes],
        target: AnyPath,
        exists: bool | None,
        options: Options,
        listener: Listener,
        atomic: bool,
        parallel: int | None,
    ) -> Summary:
        from ftpclient.transfer import preflight, retry
        from ftpclient.transfer.job import JobOver
        from ftpclient.transfer.upload import Upload

        recursive = options.recursive
        size = None
        if listener.wants_totals:
            files, size = preflight.measure(local, options)
            listener.totals(files, size)
        elif len(local) == 1 and not recursive:
            _, size = preflight.measure(local, options)
        self.connect()  # for the first time, maybe: that is tried once

        def prepare() -> bool:
            self._ask_ahead(local, target, options)
            return self.make_target(target, several=len(local) > 1, into=exists)

        into = retry.asked(self, listener, prepare)
        if atomic and exists is None:  # what is there is to be replaced, not added to
            into = os.fsencode(target).endswith(b"/")
        note = None
        tree = len(local) == 1 and recursive and os.path.isdir(local[0])
        if tree and exists is None and not atomic:
            absolute = os.path.abspath(local[0])
            note = Unfinished("put", str(self.address), absolute, self.resolve(target))
            into = note.target(into=into)
        if exists is False:
            check_name(os.fsencode(target), all(map(os.path.isdir, local)))
        placed, refused = self._place(local, target, into, options, listener)
        if recursive or len(placed) > 1:  # of a single file the server itself says so at once
            try:
                check = partial(preflight.check_put, self, placed, options, atomic=atomic)
                retry.asked(self, listener, check)
            except (QuotaExceeded, DiskFull):
                if note is not None:
                    note.complete()  # nothing was begun
                raise
        upload = Upload(self.connection, options, listener)
        upload.size = size

        def add_all() -> None:
            for source, path in placed:
                upload.add_named(source, path)
            for source, path, error in refused:
                upload.end(source, path, 0, error=error)

        def replace_all() -> None:
            upload.start_over()
            upload.connection.ask(messages.BeginTree(placed[0][1]))
            try:
                add_all()
                upload.connection.wait_for_all()
                upload.check_over()
            except JobOver:
                upload.connection.cancel_all()
                upload.connection.ask(messages.EndTree(commit=False))
                raise
            complete = not upload.summary.failed
            upload.connection.ask(messages.EndTree(commit=complete))
            if complete:
                upload.tell_held()

        run = retry.Run(self, upload, replace_all if atomic else add_all, note, resumes=not atomic)
        if recursive and not atomic:
            run.share_with(parallel, lambda connection: upload.helper(connection))
        elif not recursive:
            run.split_with(parallel, lambda connection: upload.helper(connection))
        return run.persist()

    def _place(
        self,
        local: list[bytes],
        target: AnyPath,
        into: bool,
        options: Options,
        listener: Listener,
    ) -> tuple[list[tuple[bytes, RemotePath]], list[tuple[bytes, RemotePath, AlreadyExists]]]:
        """Where each source goes; apart from them, those that would replace what others make."""
        placed, refused = [], []
        here = self.resolve(target)
        names = Sources[bytes](lambda above, name: os.path.lexists(os.path.join(above, name)))
        several = len(local) > 1 and options.overwrite != "never"
        for source in each_once(local, listener.remark):
            path = self.place_for(source, target, into=into)
            name = paths.name_of(path) if into and path != here else b""
            try:
                if several:
                    names.check(source, name, path)
            except AlreadyExists as error:
                refused.append((source, path, error))
                continue
            placed.append((source, path))
            if os.path.lexists(source):
                names.add(source, name)
        return placed, refused

    def _ask_ahead(self, local: list[bytes], target: AnyPath, options: Options) -> None:
        """Of a tree that is put: ask at once for all that is going to be asked before it."""
        if len(local) != 1 or not options.recursive:
            return
        path = self.resolve(target)
        inside = self.place_for(local[0], target, into=True)
        self.connection.ask_ahead(
            messages.Stat(path, follow=True),  # is it a directory?
            messages.Space(),  # is there room?
            messages.Stat(inside, digest=True),  # then, was some of it sent before?
            messages.Stat(path, digest=True),  # or, where it isn't a directory
        )

    def put_stream(
        self,
        fd: int,
        target: AnyPath,
        *,
        overwrite: messages.Overwrite = "always",
        no_empty: bool = False,
        listener: Listener | None = None,
    ) -> Summary:
        """Upload what can be read from a descriptor until its end, as the file ``target``.

        Args:
            no_empty: Without a byte it fails, and nothing is stored.

        Raises:
            ConnectionLost: Once it was read from: what was read can't be read again.
        """
        from ftpclient.transfer import retry
        from ftpclient.transfer.job import Options
        from ftpclient.transfer.upload import Upload

        listener = listener or Listener()
        self.connect()  # for the first time, maybe: that is tried once
        if retry.asked(self, listener, partial(self.is_directory, target)):
            raise IsADirectory(f"{paths.show(target)}: a directory: name the file")
        options = Options(overwrite=overwrite, resume=False, no_empty=no_empty)
        upload = Upload(self.connection, options, listener)
        path = self.resolve(target)
        run = retry.Run(self, upload, lambda: upload.add_stream(fd, path), None)
        run.give_up_if(lambda: upload.took_input)
        return run.persist()

    def get(
        self,
        sources: Sequence[AnyPath],
        target: AnyPath | os.PathLike[str] = ".",
        *,
        into: bool | None = None,
        recursive: bool = False,
        copy_links: bool = False,
        overwrite: messages.Overwrite = "always",
        resume: bool = True,
        parallel: int | None = None,
        fail_fast: bool = False,
        links: bool = False,
        listener: Listener | None = None,
    ) -> Summary:
        """Download files, links and trees; sources may be patterns. As ``put``.

        Bytes go into a FIFO, a device or a descriptor (/dev/fd/3) that is named as the target, and
        through a link to a file, which is replaced where it lies. In trees, and where a pattern
        chose the name, nothing is written through links.

        Args:
            copy_links: Follow all links: in trees, and at the target another user's.
            links: Make a link where a link is named.
        """
        from ftpclient.transfer import named, retry
        from ftpclient.transfer.download import Download
        from ftpclient.transfer.job import Options

        options = Options(recursive, copy_links, overwrite, resume, fail_fast, links)
        local = os.fsencode(target)
        found: list[RemotePath] = []
        contents: set[RemotePath] = set()  # typed as DIR/. : what is inside, without its name
        exact: set[RemotePath] = set()  # typed in full: no pattern chose their names
        listener = listener or Listener()
        download = Download(self.connection, options, listener)
        for source in sources:
            try:
                matches = retry.asked(self, listener, partial(self.glob, source))
                found += matches
                typed = paths.from_text(source) if isinstance(source, str) else source
                if paths.name_of(typed) in (b".", b".."):
                    contents.update(matches)
                if not _MAGIC.search(_TAMED.sub(b"", typed)):
                    exact.update(matches)
            except NotFound as error:
                download.end(self.resolve(source), local, 0, error=error)
        if download.connection is not self.connection:  # lost meanwhile, and made again
            download.go_on_with(self.connection)
        exists = into
        into = _make_local_target(local, several=len(found) > 1, into=into)
        several = len(found) > 1 and overwrite != "never"
        found = each_once(found, listener.remark)
        note = None
        if len(found) == 1 and recursive and exists is None:
            absolute = os.path.abspath(local)
            note = Unfinished("get", str(self.address), found[0], absolute)
            into = note.target(into=into)

        def holds(directory: RemotePath, name: bytes) -> bool:
            return self.find(paths.child(directory, name)) is not None

        places: dict[RemotePath, tuple[bytes, bytes]] = {}  # and the name that a server chose
        there = named.Targets(trust=copy_links)
        for path in found:
            name = b"" if path in contents or not into else paths.name_of(path)
            places[path] = os.path.join(local, name) if name else local, name
            there.look(places[path][0], exact=not name or path in exact)

        def add_all() -> None:
            names = Sources[RemotePath](holds)
            for path in found:
                place, name = places[path]
                try:
                    if several:
                        names.check(path, name, place)
                    entry = self._to_get(path, follow=not links)
                    if exists is False:
                        check_name(local, entry.type == "dir")
                except CommandError as error:
                    download.end(path, place, 0, error=error)
                    continue
                names.add(path, name)
                if len(found) == 1 and entry.type == "file":
                    download.size = entry.size
                download.add(path, entry, place, follow=not name, there=there)

        run = retry.Run(self, download, add_all, note)
        if recursive and len(found) == 1:
            run.share_with(parallel, lambda connection: download.helper(connection))
        elif not recursive:
            run.split_with(parallel, lambda connection: download.helper(connection))
        return run.persist()

    def _to_get(self, path: RemotePath, *, follow: bool) -> Entry:
        """What is at a path that is to be fetched. Raises Forbidden where a rule forbids that."""
        try:
            reply = self.connection.ask(_to_fetch(path, follow))
            assert isinstance(reply, messages.Found)
            return reply.entry
        except NotFound:
            self.hash(path)  # of a drop box, stat says nothing; what reads is told the rule
            raise

    def sync(
        self,
        source: AnyPath | os.PathLike[str],
        target: AnyPath | os.PathLike[str],
        options: SyncOptions | None = None,
        *,
        listener: Listener | None = None,
        confirm: Confirm | None = None,
    ) -> SyncSummary:
        """Make ``target`` have what ``source`` has; exactly one of them begins with a colon, and
        is on the server.

        Args:
            confirm: Asked before anything is deleted.

        Raises:
            SafetyLimit: It would delete more than it may. Nothing was changed.
            QuotaExceeded, DiskFull: It can't fit. Nothing was changed.
            ConnectionLost, Interrupted, NotFound, NotADirectory
        """
        from ftpclient.sync.job import Options, Route, Sync
        from ftpclient.transfer import retry

        ends = [os.fsencode(path) for path in (source, target)]
        remote = [path.startswith(b":") for path in ends]
        if remote[0] == remote[1]:
            raise InvalidPath("one path, and not the other, has to begin with a colon")
        local, there = ends if remote[1] else ends[::-1]
        if not local:
            raise InvalidPath("an empty path")
        route = Route(remote[1], local, self.resolve(there[1:]))
        sync = Sync(self.connection, route, options or Options(), listener or Listener(), confirm)
        retry.Run(self, sync, sync.run, None).persist()
        return sync.totals

    def get_stream(self, source: AnyPath, fd: int) -> tuple[int, bytes]:
        """Write a remote file's bytes to a descriptor; returns size and digest.

        After a lost connection they go on where they stopped, if the file is still the same.

        Raises:
            VerificationFailed: After the last byte: it was damaged on the way. Or it changed on the
                server while the connection was lost.
        """
        from ftpclient.transfer import node, retry

        path, into = self.resolve(source), node.Node(b"-", fd)
        self.connect()  # for the first time, maybe: that is tried once
        return retry.asked(self, Listener(), lambda: node.fetch(self.connection, path, into))


def _to_fetch(path: RemotePath, follow: bool) -> messages.Stat:
    return messages.Stat(path, follow, digest=True)


def first_question(path: RemotePath, follow: bool) -> messages.Stat:
    """What `Client.get` asks first about a source, which may be a pattern."""
    return messages.Stat(path) if is_pattern(path) else _to_fetch(path, follow)


def is_pattern(path: bytes) -> bool:
    """Whether a path has ``*``, ``?`` or ``[``."""
    return _MAGIC.search(path) is not None


def matching(pattern: RemotePath, known: Collection[RemotePath]) -> list[RemotePath]:
    """Those of some paths that a pattern matches, sorted, by the rules of `Client.glob`.

    A path without wildcards is returned as it is; so is one that is known to the letter.
    """
    if not is_pattern(pattern) or pattern in known:
        return [pattern]
    if not is_pattern(_TAMED.sub(b"", pattern)):
        return [RemotePath(_TAMED.sub(rb"\1", pattern))]
    parts = paths.split(pattern)
    matchers = [re.compile(fnmatch.translate(paths.to_text(part))) for part in parts]
    hidden = [part.startswith(b".") for part in parts]

    def fits(path: RemotePath) -> bool:
        names = paths.split(path)
        return len(names) == len(parts) and all(
            (show or not name.startswith(b".")) and matcher.match(paths.to_text(name))
            for name, matcher, show in zip(names, matchers, hidden, strict=True)
        )

    return sorted({path for path in known if fits(path)})


def _make_local_target(local: bytes, *, several: bool, into: bool | None) -> bool:
    """As `Client.make_target`, on this side."""
    exists = os.path.isdir(local)
    if into and not exists:
        raise NoTargetDirectory(f"{paths.show(local)}: no directory here")
    if into is None:
        into = exists
        if local.endswith(b"/") and not into:
            if os.path.lexists(local.rstrip(b"/")):
                raise NotADirectory(f"{paths.show(local)}: not a directory")
            os.makedirs(local)
            into = True
    if several and not into:
        raise NotADirectory(f"{paths.show(local)}: not a directory (end it with / to make one)")
    return into


def link_request(path: RemotePath, target: AnyPath, overwrite: bool) -> messages.MakeLink:
    """What asks for a link. Raises InvalidPath when no link can have such a target."""
    text = paths.from_text(target) if isinstance(target, str) else target
    if not 0 < len(text) <= paths.MAX_PATH:
        raise InvalidPath(f"a link's target has 1 to {paths.MAX_PATH} bytes")
    return messages.MakeLink(path, text, overwrite="always" if overwrite else "never")


def tell_problems(page: Page, on_problem: Callable[[Problem], None] | None) -> None:
    """What a page could not list; raises the first of it when nobody listens."""
    for problem in page.problems:
        where = b"/".join(part for part in (page.directory, problem.path) if part)
        if on_problem is None:
            text = f"{paths.show(where)}: {problem.message}"
            raise messages.Failed(problem.code, text).to_error()
        on_problem(Problem(where, problem.code, problem.message))


def from_the_top(directory: bytes, entries: Iterable[Entry]) -> Iterable[Entry]:
    """A directory's entries, with their paths from the directory that is listed on."""
    if not directory:
        return entries
    return (structs.replace(entry, path=directory + b"/" + entry.path) for entry in entries)
