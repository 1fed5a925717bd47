"""BaseClient: the connection of a client, and its account.

Lives here: connecting when needed and reconnecting after a loss, passwords and tokens.
Lives elsewhere: the verbs about files (client.py), what is done around every verb (guard.py),
opening a connection and logging in (connection/dialer.py), choosing a password or token
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
"""Length of a password, in characters, that is unlikely to be part of a word by chance."""


def make_dialer(
    server: str | ServerAddress | None,
    guard: Guard,
    on_remark: Remark | None,
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
    """Return the object that makes the connections of a client.

    Args:
        guard: Wraps the functions that ask the user.
        on_remark: Function that takes remarks.
        server, …: As in `Client`.
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
    remark = Remarks(on_remark).add
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
    """Return a function that replaces the one that asks for a password in a child process."""

    def refuse_to_ask() -> str:
        text = f"no password for {address}: a forked process does not ask for one"
        raise LoginRefused(text)

    return refuse_to_ask


class BaseClient:
    """Base of all clients: a connection, made when it is needed, and an account.

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
            None if remark is None else self._pass_remark,
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
        """The operation of the running verb."""

    def _pass_remark(self, text: str) -> None:
        if self._remark is not None:
            self._guard.notify(self._remark, text)

    # the connection ----------------------------------------------------------------------

    @verb
    def connect(self, *, timeout: float | None = None) -> None:
        """Connect and log in. Do nothing if the client is connected.

        Raises:
            ConnectFailed, TrustError, LoginRefused, ProtocolError
        """
        if self._connection is not None and not self._connection.broken:
            return
        self._connection = self._first_connection()
        self._connection.channel.pace = self._pace

    def _first_connection(self) -> Connection:
        """Return the connection that ``connection`` is from then on."""
        return self.new_connection()

    def new_connection(self) -> Connection:
        """Return a further connection, logged in, for a transfer that uses several."""
        made = self._dialer.dial(self._interrupt, self._like)
        made.operation = self._operation or in_force(self)
        self.user = made.user
        return made

    @property
    def _like(self) -> Trusted | None:
        """The trust in the server that further connections take over from the first one."""
        return None if self._connection is None else self._connection.trusted

    @verb
    def connection_apart(self, interrupt: Interrupt, words: str) -> Connection:
        """Return a further connection, logged in, that its own interrupt stops.

        Args:
            words: The words of its operation, unless it is part of another one.
        """
        made = self._dialer.dial(interrupt, self._like)
        made.operation = in_force(self) or Operation(words)
        made.channel.pace = self._pace
        return made

    def connection_beside(self, interrupt: Interrupt, like: Trusted) -> Connection:
        """Do the same as ``connection_apart``, for any thread, without waiting for its turn."""
        made = self._dialer.dial(interrupt, like)
        made.channel.pace = self._pace
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        # an implicit user stays implicit: the other process may run as another system user
        address = self.address._replace(user=self.address.login)
        state = (self.cwd, self.limit_rate)
        return _unpickled, (type(self), address, self._arguments, *state)

    @verb
    def log_in(self, credential: Credential, *, timeout: float | None = None) -> None:
        """Connect with this credential and no other. Raises LoginRefused."""
        self._use(self._dialer.log_in(credential, self._interrupt, self._like))

    @verb
    def register(
        self,
        password: str | Callable[[], str],
        invitation: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Create the account that the address names, and log in as it.

        Args:
            password: The password, or a function that asks for it. It is called after the server's
                key was verified.

        Raises:
            RegistrationClosed, NameTaken, BadAccount
        """
        if callable(password):
            password = self._guard.asking(password, refuser(self.address))
        args = (self.user, password, invitation, self._interrupt, self._like)
        self._use(self._dialer.register(*args))

    @property
    def credential(self) -> Credential | None:
        """The credential that the server has accepted; None before the first log-in."""
        return self._dialer.credentials.accepted

    def _use(self, opened: Opened) -> None:
        """Use this connection from now on."""
        self._leave()
        self.user = opened.user
        self._connection = opened
        opened.channel.pace = self._pace

    @property
    def limit_rate(self) -> int | None:
        """The most bytes per second, over all connections together; None for no limit."""
        return None if self._pace is None else self._pace.rate

    @limit_rate.setter
    def limit_rate(self, rate: int | None) -> None:
        self._pace = None if rate is None else Pace(rate)
        if self._connection is not None:
            self._connection.channel.pace = self._pace

    @property
    def pace(self) -> Pace | None:
        """The rate limiter for ``limit_rate``, shared by all connections of a transfer."""
        return self._pace

    @property
    def connection(self) -> Connection:
        """The connection, made first if there is none. For the implementation of verbs."""
        if not self.connected:
            self.connect()
        assert self._connection is not None
        self._connection.operation = self._operation or in_force(self)
        return self._connection

    async def _ask(self, request: RequestFor[R]) -> R:
        """Ask the server, for the verbs that both clients share. Never suspends the coroutine."""
        if isinstance(request, ChangeFor):
            from ftpclient.transfer.retry import changed

            done: R = changed(self, _RemarkListener(self._pass_remark), request)
            return done
        return self.connection.ask(request)

    def _query(self, ask: Callable[[], _Answer]) -> _Answer:
        """Return the result of ``ask``, which must not change anything; retry it after a loss."""
        from ftpclient.transfer.retry import query

        self.connect()  # a first connection is tried only once
        return query(self, _RemarkListener(self._pass_remark), ask)

    @contextmanager
    def operation(self, words: str, *, keep: bool = True) -> Iterator[None]:
        """Make all verbs of a ``with`` block one operation, which ``ftp undo`` undoes as a whole.
        Otherwise each verb is an operation of its own. This applies to calls in this thread. An
        operation inside another one becomes part of it, if that is kept.

        Args:
            words: Description for display; at most 200 characters are kept.
            keep: False to keep nothing that it removes or replaces in the server's trash.
        """
        with grouped(self, words, keep=keep):
            yield

    @property
    def interrupt(self) -> Interrupt | None:
        """The object that stops this client; None before its first verb, if none was given."""
        return self._interrupt

    @property
    def connected(self) -> bool:
        """True if there is a connection that is not known to be broken."""
        return self._connection is not None and not self._connection.broken

    def close(self) -> None:
        """Close the connection. Waits until no other thread is in a verb. Can be called twice.

        This ends open listings. The next verb connects again.
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
        """After Interrupted: cancel what is running, and keep the session if possible."""
        if self._connection is not None:
            self._connection.cancel_all()
            if self._connection.broken:
                self._connection = None
        if self._interrupt is not None:
            self._interrupt.clear()  # it may have been set again meanwhile

    @verb
    def look_up(self) -> None:
        """Notice, between verbs, that the server has closed: then the next verb reconnects."""
        if self._connection is not None:
            self._connection.take_unsolicited()

    def holds_password(self, text: str) -> bool:
        """Return True if the password is part of a text, which then must not be stored anywhere.

        A short password may be part of a word by chance, so it counts only as a whole word.
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
        """Return the absolute remote path for an argument. Raises InvalidPath."""
        return self._resolve(path)

    def _resolve(self, path: AnyPath) -> RemotePath:
        return absolute(self.cwd, path)

    # passwords and tokens ----------------------------------------------------------------

    @property
    def password(self) -> str | None:
        """The accepted password; None if a token was used."""
        accepted = self._dialer.credentials.accepted
        return None if accepted is None or accepted.is_token else accepted.secret

    @verb
    def change_password(self, old: str, new: str, *, timeout: float | None = None) -> None:
        """Set a new password. This revokes all tokens, and closes the other sessions of the
        account.

        Raises:
            LoginRefused: The old password is wrong.
            BadAccount: The new password is not acceptable.
        """
        for one in (old, new):
            Credential(self.user, one).request()  # raises early if it cannot be sent
        run(verbs.change_password(self._ask, old, new))
        self._dialer.credentials.accepted = Credential(self.user, new)

    @verb
    def issue_token(
        self, name: str = "", seconds: int | None = None, *, timeout: float | None = None
    ) -> TokenIssued:
        """Create a token to log in with instead of the password.

        Args:
            name: A name for display, to tell tokens apart.
            seconds: Lifetime of the token; None for the server's default.

        Raises:
            TooMany: The account has too many tokens.
            Forbidden: This session's own token was revoked or has expired.
        """
        return run(verbs.issue_token(self._ask, name, seconds))

    @verb
    def tokens(self, *, timeout: float | None = None) -> Sequence[TokenInfo]:
        """Return the account's tokens, oldest first."""
        return run(verbs.tokens(self._ask))

    @verb
    def revoke_token(self, token_id: str | None = None, *, timeout: float | None = None) -> None:
        """Revoke a token; by default the one that this session logged in with.

        Raises NotFound.
        """
        run(verbs.revoke_token(self._ask, token_id))


class _RemarkListener(Listener):
    """Reports a lost connection as a remark of the client."""

    def __init__(self, on_remark: Callable[[str], None]) -> None:
        self._pass_remark = on_remark

    def remark(self, text: str) -> None:
        self._pass_remark(text)


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
