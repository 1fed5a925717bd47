"""BaseClient: the connection that a client has, and its account.

Lives here: connecting when it is needed and again after a loss, logging in, passwords and tokens.
Lives elsewhere: the verbs about files (client.py), what holds around every verb (guard.py), one
connection (connection/connection.py), which password or token is used (connection/credentials.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ftpclient.arguments import AnyPath, as_typed
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.connection import Connection
from ftpclient.connection.credentials import Credential, Credentials, Password, Remark
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.connection.servers import choose, key_of_environment
from ftpclient.connection.trust import Ask, AskTakeover, Trust, check_fingerprint
from ftpclient.guard import Guard, local, verb
from ftpwire import messages, paths
from ftpwire.errors import InvalidPath, LoginRefused, NotFound, RegistrationClosed
from ftpwire.messages import TokenInfo, TokenIssued
from ftpwire.pacing import Pace
from ftpwire.paths import RemotePath

_LONG_PASSWORD = 6
"""Characters that make it unlikely to be part of a word by chance."""

_QUICK_ANSWER = 10.0
"""Seconds that a server waits for a log-in at least."""

_MOST_REMARKS = 20
_LONGEST_REMARK = 500


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
        self._arguments: dict[str, Any] = {
            "password": password,
            "password_tries": password_tries,
            "accept_new": accept_new,
            "known_hosts": known_hosts,
            "fingerprint": fingerprint,
            "ca": ca,
            "retry_for": retry_for,
            "retries": retries,
            "saved_token": saved_token,
            "verify": verify,
        }
        self._guard = Guard()
        if callable(password):
            password = self._guard.asking(password, self._refuse_to_ask)
        if ask is not None:
            ask = self._guard.asking(ask, lambda: False)
        if ask_takeover is not None:
            ask_takeover = self._guard.asking(ask_takeover, lambda: False)
        self.retry_for = retry_for
        self.retries = retries
        self._verify = verify
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
        self._plaintext = self._arguments["plaintext"] = plaintext
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

    @verb
    def connection_apart(self, interrupt: Interrupt) -> Connection:
        """A further connection, logged in, which that interrupt stops."""
        connection = self._apart(interrupt).new_connection()
        connection.channel.pace = self._pace
        return connection

    def _apart(self, interrupt: Interrupt) -> Self:
        """A copy for another thread, which that interrupt stops. It has the same connection."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._guard = Guard()
        copied._interrupt = interrupt
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        # the user by name: another process may be another user's
        address = replace(self.address, user=self.address.login)
        state = (self.cwd, self.limit_rate)
        return _unpickled, (type(self), address, self._arguments, *state)

    def _open(self, credential: Credential | None) -> Connection:
        """A connection that is not logged in yet."""
        connection = self._connection_class(
            self.address,
            plaintext=self._plaintext,
            trust=self._trust,
            interrupt=self._interrupt,
            like=self._connection,
            credential=credential,
            on_remark=self._remark_once,
        )
        connection.verify = self._verify
        return connection

    def _remark_once(self, text: str) -> None:
        text = text[:_LONGEST_REMARK]
        if self._remark is None or text in self._remarks or len(self._remarks) >= _MOST_REMARKS:
            return  # a server that never stops talking fills neither memory nor screen
        self._remarks.add(text)
        self._guard.tell(self._remark, text)

    def _refuse_to_ask(self) -> str:
        """What is called in a child process in the place of what asks for a password."""
        raise LoginRefused(
            f"no password for {self.address}: in a forked process nobody is asked for one"
        )

    @verb
    def log_in(self, credential: Credential, *, timeout: float | None = None) -> None:
        """Connect with this credential, and no other. Raises LoginRefused."""
        connection = self._open(credential)
        try:
            self._use(connection, connection.log_in(credential), credential)
        except BaseException:
            connection.close()
            raise

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
        connection = self._open(None)
        try:
            if callable(password):
                asked = time.monotonic()
                password = self._guard.asking(password, self._refuse_to_ask)()
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
        self._leave()
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
        """The connection, made (again) when there is none. For what verbs are made of."""
        if not self.connected:
            self.connect()
        assert self._connection is not None
        return self._connection

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

    # paths -------------------------------------------------------------------------------

    @local
    def resolve(self, path: AnyPath) -> RemotePath:
        """The absolute remote path for what was given. Raises InvalidPath."""
        return self._resolve(path)

    def _resolve(self, path: AnyPath) -> RemotePath:
        typed = as_typed(path)
        if not typed:  # a variable that was not set, most likely: never the current directory
            raise InvalidPath("an empty path")
        return paths.resolve(self.cwd, typed)

    # the account's keys ------------------------------------------------------------------

    @property
    def password(self) -> str | None:
        """The password that was accepted, if it was one."""
        accepted = self._credentials.accepted
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
        self.connection.ask(messages.ChangePassword(old, new))
        self._credentials.accepted = Credential(self.user, new)

    @verb
    def issue_token(
        self, name: str = "", seconds: int | None = None, *, timeout: float | None = None
    ) -> TokenIssued:
        """A token to log in with instead of the password.

        Args:
            name: For people, to tell tokens apart.
            seconds: How long it is good for; None for as long as the server gives.
        """
        reply = self.connection.ask(messages.IssueToken(name[: messages.MAX_TOKEN_NAME], seconds))
        assert isinstance(reply, TokenIssued)
        return reply

    @verb
    def tokens(self, *, timeout: float | None = None) -> Sequence[TokenInfo]:
        """The account's tokens, oldest first."""
        reply = self.connection.ask(messages.ListTokens())
        assert isinstance(reply, messages.Tokens)
        return reply.tokens

    @verb
    def revoke_token(self, token_id: str | None = None, *, timeout: float | None = None) -> None:
        """Make a token good for nothing; by default the one that logged in here.

        Raises NotFound.
        """
        if token_id is not None and len(token_id) > messages.MAX_TOKEN_NAME:
            raise NotFound(f"{token_id[:20]}…: no such token")
        self.connection.ask(messages.RevokeToken(token_id))


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
