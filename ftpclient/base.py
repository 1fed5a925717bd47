"""BaseClient: the connection that a client has, and its account.

Lives here: connecting when it is needed and again after a loss, passwords and tokens.
Lives elsewhere: the verbs about files (client.py), what holds around every verb (guard.py), opening
a connection and logging in (connection/dialer.py), which password or token is used
(connection/credentials.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ftpclient import verbs
from ftpclient.arguments import AnyPath, absolute
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.client_id import Operation, grouped, in_force
from ftpclient.connection.connection import Connection
from ftpclient.connection.credentials import Credential, Credentials, Password, Remark
from ftpclient.connection.dialer import Dialer, Remarks
from ftpclient.connection.driver import Trusted
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.connection.opening import Opened
from ftpclient.connection.servers import choose, key_of_environment
from ftpclient.connection.trust import Ask, AskTakeover, Trust, check_fingerprint
from ftpclient.guard import Guard, local, verb
from ftpclient.transfer.report import Listener
from ftpclient.verbs import run
from ftpwire import paths
from ftpwire.errors import LoginRefused
from ftpwire.messages import ChangeFor, R, RequestFor, TokenInfo, TokenIssued
from ftpwire.pacing import Pace
from ftpwire.paths import RemotePath

_Answer = TypeVar("_Answer")

_LONG_PASSWORD = 6
"""Characters that make it unlikely to be part of a word by chance."""


def make_dialer(
    server: str | ServerAddress | None,
    guard: Guard,
    tell: Remark | None,
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
    saved_token: bool = True,
    verify: bool = True,
) -> Dialer:
    """What makes the connections of a client.

    Args:
        guard: Around what asks the user.
        tell: Takes remarks.
        server, …: As of `Client`.
    """
    if not isinstance(server, ServerAddress):
        chosen = choose(server)
        server = chosen.address
        plaintext = plaintext or chosen.plaintext

    if callable(password):
        password = guard.asking(password, refuser(server))
    if ask is not None:
        ask = guard.asking(ask, lambda: False)
    if ask_takeover is not None:
        ask_takeover = guard.asking(ask_takeover, lambda: False)
    if known_hosts is not None and not isinstance(known_hosts, KnownHosts):
        known_hosts = KnownHosts(Path(known_hosts))
    remark = Remarks(tell).add
    credentials = Credentials(
        server,
        password,
        plaintext=plaintext,
        saved=saved_token,
        remark=remark,
        tries=password_tries,
    )
    named = fingerprint or key_of_environment(server)
    trust = Trust(
        known_hosts or KnownHosts(),
        accept_new=accept_new,
        key=None if named is None else check_fingerprint(named),
        pin_key=fingerprint is not None,
        ca=None if ca is None else Path(ca),
        ask=ask,
        ask_takeover=ask_takeover,
        remark=remark,
    )
    return Dialer(server, credentials, trust, plaintext=plaintext, verify=verify, remark=remark)


def refuser(address: ServerAddress) -> Callable[[], str]:
    """What is called in a child process in the place of what asks for a password."""

    def refuse_to_ask() -> str:
        text = f"no password for {address}: in a forked process nobody is asked for one"
        raise LoginRefused(text)

    return refuse_to_ask


class BaseClient:
    """What every client has: a connection, made when it is needed, and an account.

    The arguments are those of `Client`.
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
        interrupt: Interrupt | None = None,
        retry_for: float = 30.0,
        retries: int | None = None,
        saved_token: bool = True,
        verify: bool = True,
        remark: Remark | None = None,
    ) -> None:
        if known_hosts is not None and not isinstance(known_hosts, KnownHosts):
            known_hosts = KnownHosts(Path(known_hosts))
        arguments: dict[str, Any] = {
            "password": password,
            "password_tries": password_tries,
            "accept_new": accept_new,
            "known_hosts": known_hosts,
            "fingerprint": fingerprint,
            "ca": ca,
            "saved_token": saved_token,
            "verify": verify,
        }
        self._guard = Guard()
        self._remark = remark
        self._dialer = make_dialer(
            server,
            self._guard,
            None if remark is None else self._tell,
            plaintext=plaintext,
            ask=ask,
            ask_takeover=ask_takeover,
            **arguments,
        )
        self._arguments = {
            **arguments,
            "plaintext": self._dialer.plaintext,
            "retry_for": retry_for,
            "retries": retries,
        }
        self.retry_for = retry_for
        self.retries = retries
        self._pace: Pace | None = None
        self.address = self._dialer.address
        self.cwd: RemotePath = paths.ROOT
        self.user = self.address.login
        self._interrupt = interrupt
        self._connection: Connection | None = None
        self._operation: Operation | None = None
        """Of the verb that is under way."""

    def _tell(self, text: str) -> None:
        if self._remark is not None:
            self._guard.tell(self._remark, text)

    # the connection ----------------------------------------------------------------------

    @verb
    def connect(self, *, timeout: float | None = None) -> None:
        """Connect and log in; nothing when that is so already.

        Raises:
            ConnectFailed, TrustError, LoginRefused, ProtocolError
        """
        if self._connection is not None and not self._connection.broken:
            return
        self._connection = self._first_connection()
        self._connection.channel.pace = self._pace

    def _first_connection(self) -> Connection:
        """The one that ``connection`` is from then on."""
        return self.new_connection()

    def new_connection(self) -> Connection:
        """A further connection, logged in, for a transfer that uses several."""
        made = self._dialer.dial(self._interrupt, self._like)
        made.operation = self._operation or in_force(self)
        self.user = made.user
        return made

    @property
    def _like(self) -> Trusted | None:
        """What further connections take over."""
        return None if self._connection is None else self._connection.trusted

    @verb
    def connection_apart(self, interrupt: Interrupt, words: str) -> Connection:
        """A further connection, logged in, which that interrupt stops.

        Args:
            words: What it is for: that is an operation, unless it is part of one.
        """
        made = self._dialer.dial(interrupt, self._like)
        made.operation = in_force(self) or Operation(words)
        made.channel.pace = self._pace
        return made

    def connection_beside(self, interrupt: Interrupt, like: Trusted) -> Connection:
        """As ``connection_apart``, for any thread: it doesn't wait until no verb is under way."""
        made = self._dialer.dial(interrupt, like)
        made.channel.pace = self._pace
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        # the user by name: another process may be another user's
        address = self.address._replace(user=self.address.login)
        state = (self.cwd, self.limit_rate)
        return _unpickled, (type(self), address, self._arguments, *state)

    @verb
    def log_in(self, credential: Credential, *, timeout: float | None = None) -> None:
        """Connect with this credential, and no other. Raises LoginRefused."""
        self._use(self._dialer.log_in(credential, self._interrupt, self._like))

    @verb
    def register(
        self,
        password: str | Callable[[], str],
        invitation: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Make the account that the address names, and log in as its user.

        Args:
            password: Or something that asks for it, called once the server is trusted.

        Raises:
            RegistrationClosed, NameTaken, BadAccount
        """
        if callable(password):
            password = self._guard.asking(password, refuser(self.address))
        args = (self.user, password, invitation, self._interrupt, self._like)
        self._use(self._dialer.register(*args))

    def _use(self, opened: Opened) -> None:
        """From here on this is the connection."""
        self._leave()
        self.user = opened.user
        self._connection = opened
        opened.channel.pace = self._pace

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
        """The connection, made (again) when there is none. For what verbs are made of."""
        if not self.connected:
            self.connect()
        assert self._connection is not None
        self._connection.operation = self._operation or in_force(self)
        return self._connection

    async def _ask(self, request: RequestFor[R]) -> R:
        """For verbs that are written once for both clients: never waits as asyncio has it."""
        if isinstance(request, ChangeFor):
            from ftpclient.transfer.retry import changed

            done: R = changed(self, _Telling(self._tell), request)
            return done
        return self.connection.ask(request)

    def _asked(self, ask: Callable[[], _Answer]) -> _Answer:
        """What ``ask`` returns, which only asks the server; again after a lost connection."""
        from ftpclient.transfer.retry import asked

        self.connect()  # for the first time, maybe: that is tried once
        return asked(self, _Telling(self._tell), ask)

    @contextmanager
    def operation(self, words: str, *, keep: bool = True) -> Iterator[None]:
        """Have all verbs of a ``with`` block be one operation, which ``ftp undo`` takes back as a
        whole. Without, each verb is one. It holds for the calls of this thread. One in another is
        part of that, if it is kept.

        Args:
            words: What it is, for people: 200 characters at most are kept.
            keep: False: nothing that it removes or replaces is kept in the server's trash.
        """
        with grouped(self, words, keep=keep):
            yield

    @property
    def interrupt(self) -> Interrupt | None:
        """What stops this client; None before its first verb, if none was given."""
        return self._interrupt

    @property
    def connected(self) -> bool:
        """Whether there is a connection that isn't known to be broken."""
        return self._connection is not None and not self._connection.broken

    def close(self) -> None:
        """Close the connection, when no other thread is in a verb. Can be called twice.

        Open listings end. The next verb connects again.
        """
        with self._guard.verb(self, closing=True):
            self._leave()
            self._guard.close(self)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @verb
    def settle_interrupt(self) -> None:
        """After Interrupted: give up what is under way, and keep the session if possible."""
        if self._connection is not None:
            self._connection.cancel_all()
            if self._connection.broken:
                self._connection = None
        if self._interrupt is not None:
            self._interrupt.clear()  # asked for once more meanwhile

    @verb
    def look_up(self) -> None:
        """Between two verbs: notice whether the server has left, so that the next reconnects."""
        if self._connection is not None:
            self._connection.take_unasked()

    def holds_password(self, text: str) -> bool:
        """Whether the password is part of a text, which must not be kept anywhere then.

        A short one may be part of any word: then only whole words count.
        """
        accepted = self._dialer.credentials.accepted
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

    # paths -------------------------------------------------------------------------------

    @local
    def resolve(self, path: AnyPath) -> RemotePath:
        """The absolute remote path for what was given. Raises InvalidPath."""
        return self._resolve(path)

    def _resolve(self, path: AnyPath) -> RemotePath:
        return absolute(self.cwd, path)

    # the account's keys ------------------------------------------------------------------

    @property
    def password(self) -> str | None:
        """The password that was accepted, if it was one."""
        accepted = self._dialer.credentials.accepted
        return None if accepted is None or accepted.is_token else accepted.secret

    @verb
    def change_password(self, old: str, new: str, *, timeout: float | None = None) -> None:
        """Set another password: all tokens, and the account's other sessions, end.

        Raises:
            LoginRefused: The old one is wrong.
            BadAccount: The new one can't be used.
        """
        for one in (old, new):
            Credential(self.user, one).request()  # what can't be sent is told before
        run(verbs.change_password(self._ask, old, new))
        self._dialer.credentials.accepted = Credential(self.user, new)

    @verb
    def issue_token(
        self, name: str = "", seconds: int | None = None, *, timeout: float | None = None
    ) -> TokenIssued:
        """A token to log in with instead of the password.

        Args:
            name: For people, to tell tokens apart.
            seconds: How long it is good for; None for as long as the server gives.
        """
        return run(verbs.issue_token(self._ask, name, seconds))

    @verb
    def tokens(self, *, timeout: float | None = None) -> Sequence[TokenInfo]:
        """The account's tokens, oldest first."""
        return run(verbs.tokens(self._ask))

    @verb
    def revoke_token(self, token_id: str | None = None, *, timeout: float | None = None) -> None:
        """Make a token good for nothing; by default the one that logged in here.

        Raises NotFound.
        """
        run(verbs.revoke_token(self._ask, token_id))


class _Telling(Listener):
    """Tells of a lost connection as clients tell of anything else."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def remark(self, text: str) -> None:
        self._tell(text)


def _unpickled(
    kind: type[BaseClient],
    address: ServerAddress,
    arguments: dict[str, Any],
    cwd: RemotePath,
    limit_rate: int | None,
) -> BaseClient:
    client = kind(address, **arguments)
    client.cwd = cwd
    client.limit_rate = limit_rate
    return client
