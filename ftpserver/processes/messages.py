"""What a server and its workers say to each other.

Lives here: the messages. Lives elsewhere: how they travel (rpc.py), the server's side
(supervisor.py), the worker's side (worker.py).

A worker is no less trusted than the server: it has the accounts file and the key as well.
"""

from __future__ import annotations

import msgspec

from ftpserver.accounts.penalties import Offence
from ftpserver.serving.stats import SessionInfo, Stats

MAX_SIZE = 32 * 1024 * 1024
"""Bytes of one message: a batch of lines for the audit log has a thousand paths, at most."""


class Birth(msgspec.Struct, frozen=True):
    """What a worker is told when it is forked.

    Attributes:
        node, run, incarnation: As in the ledger.
    """

    node: str
    run: str
    incarnation: str


# the server says ---------------------------------------------------------------------------


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """Serve a connection, whose descriptor comes along. Told.

    Attributes:
        number: Of its session.
        address: Where it comes from; None for a Unix socket.
        spared: Somebody has logged in from there lately.
    """

    number: int
    address: tuple[str, int] | None
    spared: bool


class ApplySettings(msgspec.Struct, frozen=True, tag="apply-settings"):
    """Other settings hold from now on. Answer: `Nothing`.

    Attributes:
        settings: Pickled.
    """

    settings: bytes


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """No more connections come: send those away that are idle. Told."""


class Drop(msgspec.Struct, frozen=True, tag="drop"):
    """End a connection that has not logged in, to make room for another. Told."""

    number: int


class GiveWay(msgspec.Struct, frozen=True, tag="give-way"):
    """End the transfer of this token: another one needs its place. Told."""

    token: str


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """No more connections come: end with the last one. Told."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End. Told; again with another grace time.

    Attributes:
        grace: Seconds that running transfers get.
    """

    grace: float


class AskStats(msgspec.Struct, frozen=True, tag="ask-stats"):
    """How much goes on. Answer: `StatsNow`."""


class AskSessions(msgspec.Struct, frozen=True, tag="ask-sessions"):
    """Who is connected. Answer: `SessionsNow`."""


class Kick(msgspec.Struct, frozen=True, tag="kick"):
    """End a session, or all of a user's. Answer: `Kicked`."""

    session: int | None
    user: str | None


ServerSays = (
    Serve | ApplySettings | Drain | Drop | GiveWay | Retire | Stop | AskStats | AskSessions | Kick
)


# the worker answers --------------------------------------------------------------------------


class StatsNow(msgspec.Struct, frozen=True, tag="stats"):
    """How much goes on."""

    stats: Stats


class SessionsNow(msgspec.Struct, frozen=True, tag="sessions"):
    """Who is connected."""

    sessions: list[SessionInfo]


class Kicked(msgspec.Struct, frozen=True, tag="kicked"):
    """The sessions that were ended."""

    sessions: list[int]


WorkerAnswers = StatsNow | SessionsNow | Kicked


# the worker says -----------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """It can serve. Told."""


class LoggedIn(msgspec.Struct, frozen=True, tag="logged-in"):
    """A connection's client has said who it is. Told."""

    number: int
    host: str


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """A connection was closed. Told."""

    number: int


class FoundBanned(msgspec.Struct, frozen=True, tag="found-banned"):
    """An address is banned, until so many seconds since 1970. Told."""

    place: str
    until: int


class Penalized(msgspec.Struct, frozen=True, tag="penalized"):
    """A connection has ended without a log-in, in a way that costs its address something. Told."""

    host: str
    offence: Offence


class Lines(msgspec.Struct, frozen=True, tag="lines"):
    """Lines for the audit log, and how many. Told.

    Attributes:
        share: See `audit.trail.share_of`.
    """

    lines: bytes
    count: int
    share: str | None = None


class Entering(msgspec.Struct, frozen=True, tag="entering"):
    """A session of an account begins. Answer: `Entered`; or ``too-many``.

    Attributes:
        capped: Whether the cap that holds by default is to be kept.
    """

    account_id: int
    name: str
    capped: bool


class Entered(msgspec.Struct, frozen=True, tag="entered"):
    """It is counted. ``token``: to give back."""

    token: str


class Leaving(msgspec.Struct, frozen=True, tag="leaving"):
    """A session that was counted has ended. Told."""

    token: str


class BeginningTransfer(msgspec.Struct, frozen=True, tag="beginning-transfer"):
    """A session begins a transfer. Answer: `Entered`; or ``too-many``."""

    account_id: int
    name: str


class TransferIdle(msgspec.Struct, frozen=True, tag="transfer-idle"):
    """A transfer that was counted has moved no bytes for a while, or does so again. Told."""

    token: str
    idle: bool


class TransferEnded(msgspec.Struct, frozen=True, tag="transfer-ended"):
    """A transfer that was counted runs no more. Told."""

    token: str


class Registering(msgspec.Struct, frozen=True, tag="registering"):
    """Somebody wants to make an account. Answer: `Nothing`; or ``busy``."""

    host: str


class Probing(msgspec.Struct, frozen=True, tag="probing"):
    """Somebody tries a good invitation. Answer: `Nothing`; or ``busy``."""

    invitation_id: str


class Probed(msgspec.Struct, frozen=True, tag="probed"):
    """The try has made an account, and doesn't count. Told."""

    invitation_id: str


class AskTurn(msgspec.Struct, frozen=True, tag="ask-turn"):
    """A password is to be hashed. Answer, when it is its turn: `TurnGiven`; or ``busy``.

    Attributes:
        host: Who it came from.
    """

    host: str


class TurnGiven(msgspec.Struct, frozen=True, tag="turn-given"):
    """It is its turn. ``token``: to give back."""

    token: str


class TurnOver(msgspec.Struct, frozen=True, tag="turn-over"):
    """The password was hashed. Told."""

    token: str


class ChangingPassword(msgspec.Struct, frozen=True, tag="changing-password"):
    """An account's password is to be changed. Answer: `Nothing`; or ``busy``."""

    account_id: int
    name: str


class PasswordChanged(msgspec.Struct, frozen=True, tag="password-changed"):
    """It was changed, or not. Told."""

    account_id: int


class TellFailure(msgspec.Struct, frozen=True, tag="tell-failure"):
    """A failure is to be recorded. Answer: `MayTell`.

    Attributes:
        account_id: Whose; None for a stranger's.
        guess: See `audit.trail.guess_of`.
        size: Bytes of its line.
    """

    account_id: int | None
    guess: str | None
    size: int


class MayTell(msgspec.Struct, frozen=True, tag="may-tell"):
    """Whether it may be."""

    granted: bool


class Bye(msgspec.Struct, frozen=True, tag="bye"):
    """All its sessions have ended, and so does it. Told.

    Attributes:
        stats: The last ones.
    """

    stats: Stats


WorkerSays = (
    Ready
    | LoggedIn
    | Closed
    | FoundBanned
    | Penalized
    | Lines
    | Registering
    | Bye
    | Entering
    | Leaving
    | BeginningTransfer
    | TransferIdle
    | TransferEnded
    | Probing
    | Probed
    | AskTurn
    | TurnOver
    | ChangingPassword
    | PasswordChanged
    | TellFailure
)

ServerAnswers = Entered | TurnGiven | MayTell
