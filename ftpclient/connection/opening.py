"""Opening a connection: connecting, TLS and trust, HELLO, logging in.

Lives here: what happens before the first request, for both clients.
Lives elsewhere: names and addresses (dial.py), whom to trust (trust.py), what is used to log in
(credentials.py), the connection then (connection.py, aio/connection.py).

It is done by one thread: looking up names, checking certificates and asking somebody block.
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
from ftpclient.connection.protocol import Asked, ClientProtocol
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
_LONGEST_ASKED = 5
"""Seconds that a server which has too much to do may ask to wait, before each further log-in."""


class Opened(Connection):
    """A connection with a socket of its own, to a server that is trusted.

    Args:
        early: What was asked for together with HELLO: the answer to this credential.

    Attributes:
        user: The account's name, once it is logged in.
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
        early: tuple[Credential, Asked[LoggedIn]] | None = None,
    ) -> None:
        super().__init__(address, channel, protocol, context=context, interrupt=interrupt)
        self._early = early
        self.user = address.login

    @property
    def fingerprint(self) -> str | None:
        return None if self.channel.tls is None else _key_of(self.channel)

    @property
    def trusted(self) -> Trusted:
        """For a further connection to the same server."""
        return Trusted(self.context, session_of(self.channel))

    def log_in(self, credential: Credential | str) -> None:
        """Log in, with a password of the address's user or another credential.

        Raises:
            LoginRefused
            Busy, TooMany: The server is full.
        """
        if isinstance(credential, str):
            credential = Credential(self.address.login, credential)
        for attempt in range(_FIRST_TRIES - 1):
            try:
                return self._log_in(credential)
            except Busy as error:  # many come at once: not every password is looked at yet
                asked = min(max(0, error.retry_after or 0), _LONGEST_ASKED)
                pause(max(0.2 * 2**attempt, asked), self._interrupt)
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
        """Make an account with this name and password, and log in as it.

        Raises:
            RegistrationClosed, NameTaken, BadAccount, Busy
        """
        credential.check()
        if invitation is not None and len(invitation) > messages.MAX_TOKEN:
            raise RegistrationClosed("that is no invitation")
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
    """A connection that is not logged in yet.

    A server that closes before its HELLO is a busy one: it is tried again.

    Args:
        plaintext: Speak without TLS.
        trust: Decides whether it is the server that is meant.
        interrupt: Ends waiting and working when the user wants to stop.
        like: Of an earlier connection to the same server.
        credential: What `Opened.log_in` will be given, if that is known already. It goes out
            together with HELLO, which saves a round trip. Without TLS it waits for the server's
            HELLO: it might go to a server that speaks TLS only, for everybody to read.
        on_remark: Told what the server says for the user to know.

    Raises:
        ConnectFailed, TrustError, ProtocolError
    """
    plaintext |= address.path is not None  # nobody listens in on this machine
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
    raise AssertionError("the last try ends it")


class _TurnedAway(ConnectFailed):
    """Closed before HELLO: the server has too many connections just now."""


class _Opening:
    """One try. When it fails, its socket is closed."""

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
        """Seconds that the last TLS handshake took: a round trip, and what both sides computed."""
        self.protocol = ClientProtocol(address.endpoint)
        forks.follow(self)

    def open(self, plaintext: bool, early: Credential | None) -> Opened:
        """A connection to a server that has said HELLO."""
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
            channel = self._start(self._like.context)  # it decided whom to trust
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
        """Shake hands with a server that an authority vouches for; None when none does."""
        try:
            channel = self._start(self._trust.authority_context())
        except ssl.SSLCertVerificationError as error:
            self._trust.not_verified(endpoint, error)
            return None
        self._trust.verified(endpoint)
        return channel

    def _taken_over(self, endpoint: str) -> Channel | None:
        """A server with another key that an authority vouches for, if the user agrees.

        A check alone replaces no pin: whoever inspects TLS has an authority installed, too.
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
        """Connect, and shake hands with TLS. An earlier try of this opening is closed."""
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
        """What resumes TLS with this server, if this process has talked to it before."""
        if self._like is not None and self._like.session is not None:
            return self._like.session
        return _tickets.get(self._address.endpoint) if _is_pinned(context) else None

    def _check_pin(self, channel: Channel) -> None:
        self._trust.check_key(self._address.endpoint, _key_of(channel))

    # HELLO -------------------------------------------------------------------------------

    def _say_hello(self, channel: Channel, early: Credential | None) -> Opened:
        protocol, endpoint = self.protocol, self._address.endpoint
        asked = time.monotonic()
        deadline = asked + CONNECT_SECONDS
        channel.queue(protocol.hello())
        call = None if early is None else Asked[LoggedIn]()
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
            asks = "and this its port?"
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
        self._channel = None  # from here on it is the connection's
        # a server may hash a password that came with HELLO before it answers either
        opened.round_trip = min(opened.moved_at - asked, self._handshake)
        log.info("%s: connected (%s)", endpoint, _security(channel))
        return opened

    def _after_fork(self) -> None:
        """In a child process: close this copy of the socket, if there is one already."""
        if self._channel is not None:
            self._channel.abort()


def _is_pinned(context: ssl.SSLContext) -> bool:
    """Whether the key is compared with a pin, and no certificate is looked at."""
    return context.verify_mode == ssl.CERT_NONE


def _key_of(channel: Channel) -> str:
    """The fingerprint of the server's key."""
    assert channel.tls is not None
    return fingerprint(channel.tls.peer_certificate())


def session_of(channel: Channel) -> ssl.SSLSession | None:
    """A TLS session to resume; None without TLS, or before the server has sent one."""
    return None if channel.tls is None else channel.tls.object.session


def _security(channel: Channel) -> str:
    """How the connection is protected, for the log."""
    tls = channel.tls
    if tls is None:
        return "no TLS"
    return f"{tls.object.version()}{', resumed' if tls.object.session_reused else ''}"


def _keep_ticket(endpoint: str, channel: Channel, context: ssl.SSLContext | None) -> None:
    tls = channel.tls
    if tls is None or context is None or not _is_pinned(context) or tls.object.session_reused:
        return  # one is kept already, and asking for it again costs more than it saves
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
        if error.errno is None:  # Python's own: it doesn't fit into a struct sockaddr_un
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
"""By ``HOST:PORT``, of pinned servers. The key is compared with the pin all the same."""
_MOST_TICKETS = 64
