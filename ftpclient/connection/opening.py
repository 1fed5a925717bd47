"""Opening a connection: connecting, TLS and trust, HELLO, logging in.

Lives here: everything before the first request, for both clients.
Lives elsewhere: names and addresses (dial.py), whom to trust (trust.py), choosing a credential
(credentials.py), the connection itself (connection.py, aio/connection.py).

This always runs in a thread, because looking up names, checking certificates and asking the user
block.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import nullcontext

from ftpclient.connection import dial, forks, log
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.advice import advised
from ftpclient.connection.connection import Connection
from ftpclient.connection.credentials import Credential
from ftpclient.connection.driver import Trusted
from ftpclient.connection.interrupt import Interrupt, pause
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.connection.protocol import ClientProtocol, UnaryCall
from ftpclient.connection.trust import Trust, pinned_context
from ftpwire import frames, messages
from ftpwire.channel import Channel, TimedOut, keep_probing
from ftpwire.errors import (
    BadMagic,
    BadMessage,
    Banned,
    Busy,
    ConnectFailed,
    ConnectionLost,
    FrameTooBig,
    HostKeyChanged,
    LoginRefused,
    RegistrationClosed,
    UnknownKind,
)
from ftpwire.frames import Kind
from ftpwire.messages import LoggedIn
from ftpwire.tls import TlsPipe, fingerprint

CONNECT_SECONDS = 15.0
_FIRST_TRIES = 5
_MAX_RETRY_AFTER = 5
"""Most seconds to wait, at the request of a busy server, before each further log-in."""


class Opened(Connection):
    """A connection with its own socket, to a server that was verified.

    Args:
        early: A credential that was sent together with HELLO, and the call for its reply.

    Attributes:
        user: The account's name, after log-in.
    """

    channel: Channel

    def __init__(
        self,
        address: ServerAddress,
        channel: Channel,
        protocol: ClientProtocol,
        *,
        context: ssl.SSLContext | None,
        interrupt: Interrupt | None,
        early: tuple[Credential, UnaryCall[LoggedIn]] | None = None,
    ) -> None:
        super().__init__(address, channel, protocol, context=context, interrupt=interrupt)
        self._early = early
        self.user = address.login

    @property
    def fingerprint(self) -> str | None:
        return None if self.channel.tls is None else _key_of(self.channel)

    @property
    def trusted(self) -> Trusted:
        """The results of this connection that a further one can reuse."""
        return Trusted(self.context, session_of(self.channel))

    def log_in(self, credential: Credential | str) -> None:
        """Log in with a password for the address's user, or with another credential.

        Raises:
            LoginRefused
            Busy, TooMany: The server is full.
        """
        if isinstance(credential, str):
            credential = Credential(self.address.login, credential)
        for attempt in range(_FIRST_TRIES - 1):
            try:
                return self._log_in(credential)
            except Busy as error:  # many log in at once: the server did not check the password yet
                retry_after = min(max(0, error.retry_after or 0), _MAX_RETRY_AFTER)
                pause(max(0.2 * 2**attempt, retry_after), self._interrupt)
        return self._log_in(credential)

    def _log_in(self, credential: Credential) -> None:
        early, self._early = self._early, None
        try:
            if early is not None and early[0] == credential:
                self._use(self.result(early[1]))
            else:
                self._use(self.ask(credential.request()))
        except LoginRefused as error:
            if credential.is_token and not isinstance(error, Banned):
                raise advised(error, ": log in again with ftp login") from None
            raise

    def register(self, credential: Credential, invitation: str | None) -> None:
        """Create an account with this name and password, and log in as it.

        Raises:
            RegistrationClosed, NameTaken, BadAccount, Busy
        """
        credential.check()
        if invitation is not None and len(invitation) > messages.MAX_TOKEN:
            raise RegistrationClosed("invalid invitation")
        request = messages.Register(credential.user, credential.secret, invitation)
        self._use(self.ask(request))

    def _use(self, reply: LoggedIn) -> None:
        self.user = self.protocol.logged_in(reply)
        log.info("%s: logged in as %s", self.address.endpoint, self.user)


def connect(
    address: ServerAddress,
    *,
    plaintext: bool = False,
    trust: Trust | None = None,
    interrupt: Interrupt | None = None,
    like: Trusted | None = None,
    credential: Credential | None = None,
    on_remark: Callable[[str], None] | None = None,
) -> Opened:
    """Open a connection that is not logged in yet.

    A server that closes the connection before its HELLO is busy: this is retried.

    Args:
        plaintext: True to connect without TLS.
        trust: Decides whether to trust the server.
        interrupt: Stops waits and work when it is set.
        like: The results of an earlier connection to the same server.
        credential: The argument of the following `Opened.log_in`, if it is known already. It is
            sent together with HELLO, which saves a round trip. Without TLS it is sent after the
            server's HELLO: a server that speaks only TLS would otherwise get it unencrypted for
            nothing.
        on_remark: Function to call with texts from the server that the user should see.

    Raises:
        ConnectFailed, TrustError, ProtocolError
    """
    plaintext |= address.path is not None  # no one can eavesdrop on a Unix socket
    trust = trust or Trust(KnownHosts())
    early = None if plaintext else credential
    for attempt in range(_FIRST_TRIES):
        opening = _Opening(address, trust, interrupt, like)
        if on_remark is not None:
            opening.protocol.on_remark = on_remark
        try:
            return opening.open(plaintext, early)
        except _TurnedAway as error:
            log.debug("%s: turned away: %s", address.endpoint, error)
            if attempt + 1 == _FIRST_TRIES:
                raise ConnectFailed(
                    f"{error}, {_FIRST_TRIES} times: perhaps it has too many connections now"
                ) from None
            pause(0.1 * 2**attempt, interrupt)
    raise AssertionError("the last attempt returns or raises")


class _TurnedAway(ConnectFailed):
    """The server closed the connection before HELLO: it has too many connections now."""


class _Opening:
    """One attempt. If it fails, its socket is closed."""

    def __init__(
        self,
        address: ServerAddress,
        trust: Trust,
        interrupt: Interrupt | None,
        like: Trusted | None,
    ) -> None:
        self._address = address
        self._trust = trust
        self._interrupt = interrupt
        self._like = like
        self._context: ssl.SSLContext | None = None
        self._channel: Channel | None = None
        self._handshake = math.inf
        """Seconds of the last TLS handshake: a round trip, and the computations of both sides."""
        self.protocol = ClientProtocol(address.endpoint)
        forks.follow(self)

    def open(self, plaintext: bool, early: Credential | None) -> Opened:
        """Return a connection to a server that has sent its HELLO."""
        try:
            channel = self._trusted_channel(plaintext)
            return self._say_hello(channel, early)
        except BaseException:
            if self._channel is not None:
                self._channel.abort()
            raise

    # TLS and trust -----------------------------------------------------------------------

    def _trusted_channel(self, plaintext: bool) -> Channel:
        endpoint = self._address.endpoint
        if plaintext:
            return self._start(None)
        if self._like is not None and self._like.context is not None:
            channel = self._start(self._like.context)  # this context has verified the server
            if _is_pinned(self._like.context):
                self._check_pin(channel)
            return channel
        if self._trust.wants_authority(endpoint):
            verified = self._verified(endpoint)
            if verified is not None:
                return verified
        channel = self._start(pinned_context())
        try:
            self._check_pin(channel)
        except HostKeyChanged:
            taken_over = self._taken_over(endpoint)
            if taken_over is None:
                raise
            return taken_over
        return channel

    def _verified(self, endpoint: str) -> Channel | None:
        """Do the handshake with a server that an authority vouches for; None if none does."""
        try:
            channel = self._start(self._trust.authority_context())
        except ssl.SSLCertVerificationError as error:
            self._trust.not_verified(endpoint, error)
            return None
        self._trust.verified(endpoint)
        return channel

    def _taken_over(self, endpoint: str) -> Channel | None:
        """Return a channel to a server with a new key that an authority vouches for, if the user
        agrees.

        The authority alone does not replace a pinned key: a proxy that inspects TLS has an
        authority installed, too.
        """
        if self._trust.ask_takeover is None or self._trust.key is not None:
            return None
        try:
            channel = self._start(self._trust.authority_context())
        except ssl.SSLCertVerificationError:
            return None
        assert channel.tls is not None
        certificate = channel.tls.object.getpeercert() or {}
        if self._trust.takes_over(endpoint, _key_of(channel), certificate):
            return channel
        return None

    def _start(self, context: ssl.SSLContext | None) -> Channel:
        """Connect, and do the TLS handshake. An earlier attempt of this object is closed."""
        if self._channel is not None:
            self._channel.abort()
        with self._interrupt.at_once() if self._interrupt is not None else nullcontext():
            sock = _connect(self._address, self._interrupt)
        channel = Channel(
            sock,
            wake_fd=None if self._interrupt is None else self._interrupt.fileno(),
            on_wake=None if self._interrupt is None else self._interrupt.check,
        )
        self._channel = channel
        self._context = context
        if context is None:
            return channel
        channel.tls = TlsPipe(
            context,
            server_side=False,
            server_name=self._address.host,
            session=self._session_to_resume(context),
        )
        endpoint = self._address.endpoint
        began = time.monotonic()
        try:
            channel.handshake(began + CONNECT_SECONDS, hold=True)
            self._handshake = time.monotonic() - began
        except TimedOut:
            raise ConnectFailed(f"{endpoint}: no answer to TLS") from None
        except ConnectionLost as error:
            if error.code == "tls":
                raise ConnectFailed(
                    f"{endpoint}: {error}: is it an ftpd, "
                    "and does it speak TLS (else use --plaintext)?"
                ) from None
            raise _TurnedAway(f"{endpoint}: {error}") from None
        return channel

    def _session_to_resume(self, context: ssl.SSLContext) -> ssl.SSLSession | None:
        """Return a TLS session with the server to resume; None if there is none."""
        if self._like is not None and self._like.session is not None:
            return self._like.session
        return _tickets.get(self._address.endpoint) if _is_pinned(context) else None

    def _check_pin(self, channel: Channel) -> None:
        self._trust.check_key(self._address.endpoint, _key_of(channel))

    # HELLO -------------------------------------------------------------------------------

    def _say_hello(self, channel: Channel, early: Credential | None) -> Opened:
        protocol, endpoint = self.protocol, self._address.endpoint
        began = time.monotonic()
        deadline = began + CONNECT_SECONDS
        channel.queue(protocol.hello())
        call = None if early is None else UnaryCall[LoggedIn]()
        if early is not None and call is not None:
            request = early.request()
            payload = messages.encode(request)
            protocol.prepare(call, request, len(payload))
            channel.queue(frames.frame(Kind.REQUEST, call.request_id, payload))
        try:
            channel.flush(deadline)
            while not protocol.take():
                while not channel.fill(protocol.reader, protocol.limit):
                    channel.wait(read=True, deadline=deadline)
        except TimedOut:
            raise ConnectFailed(f"{endpoint}: no answer") from None
        except ConnectionLost as error:
            raise _TurnedAway(protocol.named(str(error))) from None
        except (BadMagic, BadMessage, FrameTooBig, UnknownKind) as error:
            asks = "and is this its port?"
            if self._context is None and self._address.path is None and isinstance(error, BadMagic):
                asks = "and does it speak without TLS (else leave --plaintext out)?"
            text = f"{endpoint}: {error}: is it an ftpd, {asks}"
            raise type(error)(text) from None
        _keep_ticket(endpoint, channel, self._context)
        opened = Opened(
            self._address,
            channel,
            protocol,
            context=self._context,
            interrupt=self._interrupt,
            early=None if early is None or call is None else (early, call),
        )
        self._channel = None  # from here on the connection closes it
        # a server may hash a password that was sent with HELLO before it replies to either
        opened.round_trip = min(opened.moved_at - began, self._handshake)
        log.info("%s: connected (%s)", endpoint, _security(channel))
        return opened

    def _after_fork(self) -> None:
        """Close this copy of the socket in a child process, if there is one already."""
        if self._channel is not None:
            self._channel.abort()


def _is_pinned(context: ssl.SSLContext) -> bool:
    """Return True if the key is compared with a pinned one, and no certificate is verified."""
    return context.verify_mode == ssl.CERT_NONE


def _key_of(channel: Channel) -> str:
    """Return the fingerprint of the server's key."""
    assert channel.tls is not None
    return fingerprint(channel.tls.peer_certificate())


def session_of(channel: Channel) -> ssl.SSLSession | None:
    """Return a TLS session to resume; None without TLS, or before the server has sent one."""
    return None if channel.tls is None else channel.tls.object.session


def _security(channel: Channel) -> str:
    """Return how the connection is protected, for the log."""
    tls = channel.tls
    if tls is None:
        return "no TLS"
    return f"{tls.object.version()}{', resumed' if tls.object.session_reused else ''}"


def _keep_ticket(endpoint: str, channel: Channel, context: ssl.SSLContext | None) -> None:
    tls = channel.tls
    if tls is None or context is None or not _is_pinned(context) or tls.object.session_reused:
        return  # a ticket is stored already; getting another costs more than it saves
    if (session := tls.object.session) is not None:
        if len(_tickets) >= _MOST_TICKETS:
            _tickets.clear()
        _tickets[endpoint] = session


def _connect(address: ServerAddress, interrupt: Interrupt | None) -> socket.socket:
    if address.path is not None:
        return _connect_here(address, address.path, interrupt)
    sock = dial.connect(
        address.host,
        address.port,
        address.endpoint,
        seconds=CONNECT_SECONDS,
        interrupt=interrupt,
    )
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_probing(sock)
    return sock


def _connect_here(address: ServerAddress, path: str, interrupt: Interrupt | None) -> socket.socket:
    left = math.inf if interrupt is None else interrupt.until - time.monotonic()
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(min(CONNECT_SECONDS, max(0.001, left)))
        sock.connect(path)
    except OSError as error:
        sock.close()
        if error.errno is None:  # raised by Python itself: too long for a struct sockaddr_un
            raise ConnectFailed(f"{address.endpoint}: longer than a socket's path can be") from None
        raise _not_connected(address, error) from None
    try:
        from ftpclient.connection import peer

        peer.check(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _not_connected(address: ServerAddress, error: OSError) -> ConnectFailed:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, ConnectionRefusedError):
        reason += ": is ftpd running there?"
    return ConnectFailed(f"{address.endpoint}: {reason}")


_tickets: dict[str, ssl.SSLSession] = {}
"""TLS sessions by ``HOST:PORT``, of pinned servers. A resumed session's key is still compared."""
_MOST_TICKETS = 64
