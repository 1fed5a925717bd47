"""What a session's process and its server say to each other.

Lives here: the messages, and what of an account travels.
Lives elsewhere: how they travel (processes/rpc.py), what is answered (handler.py,
session_process.py), what sessions ask each other through the server (processes/brokering.py).

What a session asks never names an account: the server knows whose session it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ftpserver.accounts.account import Account
from ftpserver.accounts.penalties import Offence
from ftpserver.processes.brokering import Borrow, Brokered, BrokeredAnswer, Cut, GiveBack, Recall
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.quota import Resumable
from ftpwire.messages import Room, TokenInfo

_Size = Annotated[int, Meta(ge=0, le=2**62)]
_Change = Annotated[int, Meta(ge=-(2**62), le=2**62)]
_Name = Annotated[str, Meta(max_length=1024)]
_Secret = Annotated[str, Meta(max_length=8192)]
_Staging = Annotated[bytes, Meta(max_length=255)]
_LeaseId = Annotated[str, Meta(max_length=32)]
_Leases = Annotated[list[_LeaseId], Meta(max_length=4096)]


class _Said(msgspec.Struct, frozen=True, tag=True):
    """Base of them: tagged with the name of the class."""


# at birth ------------------------------------------------------------------------------------


class Birth(_Said, frozen=True):
    """What a session's process begins with, beside its descriptors.

    Attributes:
        number: Of the session.
        since: When it was opened, by the clock of the run (ftpserver/clock.py).
        address: Of the client; empty for a Unix socket.
        incarnation: What names in staging begin with.
        stranger: User and group to be before log-in; None: as the server, which isn't root.
    """

    number: int
    since: float
    address: list[str | int]
    incarnation: str
    stranger: tuple[int, int] | None


# asked by a session --------------------------------------------------------------------------


class ByPassword(_Said, frozen=True):
    """Log in. Answer: `Admitted`, with the home's descriptor and that of a page for paces."""

    name: _Name
    password: _Secret

    def __repr__(self) -> str:
        return f"ByPassword({self.name!r}, …)"


class ByToken(_Said, frozen=True):
    """The same, by a token."""

    name: _Name
    secret: _Secret

    def __repr__(self) -> str:
        return f"ByToken({self.name!r}, …)"


class ByPeer(_Said, frozen=True):
    """The same, as the system user at the other end of a Unix socket."""

    name: _Name


class Enrol(_Said, frozen=True):
    """The same, after making an account."""

    name: _Name
    password: _Secret
    invitation: _Name | None

    def __repr__(self) -> str:
        return f"Enrol({self.name!r}, …)"


class AskDelay(_Said, frozen=True):
    """How long to wait before a refusal is told. Answer: `Delay`."""

    code: _Name


class ChangePassword(_Said, frozen=True):
    """Answer: `Known`, the account as it is then."""

    old: _Secret
    new: _Secret

    def __repr__(self) -> str:
        return "ChangePassword(…)"


class IssueToken(_Said, frozen=True):
    """Answer: `TokenMade`."""

    name: _Name
    seconds: int | None


class ListTokens(_Said, frozen=True):
    """Answer: `TokensKnown`."""


class RevokeToken(_Said, frozen=True):
    """Answer: `Nothing`."""

    id: _Name


class Reserve(_Said, frozen=True):
    """As `Books.reserve`. Answer: `Leased`."""

    size: _Size
    files: _Size
    staging: _Staging | None = None


class ReserveStep(_Said, frozen=True):
    """As `Books.reserve_step`. Answer: `Leased`."""

    size: _Size
    files: _Size


class TakeOver(_Said, frozen=True):
    """As `Books.take_over`. Answer: `Leased`, or `Nothing`."""

    staging: _Staging


class Keep(_Said, frozen=True):
    """As `Books.keep`. Answer: `Nothing`."""

    lease: _LeaseId


class DropKept(_Said, frozen=True):
    """As `Books.drop_kept`. Answer: `Nothing`."""

    staging: _Staging


class ListKept(_Said, frozen=True):
    """As `Books.resumable`. Answer: `Kept`."""


class Extend(_Said, frozen=True):
    """As `Books.extend`. Answer: `Leased`, as it is then."""

    lease: _LeaseId
    size: _Size
    files: _Size


class BeginCommit(_Said, frozen=True):
    """As `Books.begin_commit`. Answer: `Nothing`."""

    leases: _Leases


class Settle(_Said, frozen=True):
    """As `Books.settle`. Answer: `SettledUp`."""

    leases: _Leases
    change: _Change
    files: _Change


class AskRoom(_Said, frozen=True):
    """As `Books.room`. Answer: `RoomLeft`."""


class Lines(_Said, frozen=True):
    """Whole lines for the audit log. Told."""

    lines: bytes


class Logged(_Said, frozen=True):
    """A line for the server's own log. Told."""

    level: Annotated[int, Meta(ge=0, le=50)]
    name: Annotated[str, Meta(max_length=64)]
    text: Annotated[str, Meta(max_length=20_000)]


class BeginTransfer(_Said, frozen=True):
    """The session begins a transfer. Answer: `TransferBegun`; or ``too-many``."""


class TransferIdle(_Said, frozen=True):
    """It has moved no bytes for a while, or does so again. Told."""

    idle: bool


class EndTransfer(_Said, frozen=True):
    """The transfer is over. Told."""


class Penalized(_Said, frozen=True):
    """The session ends without a log-in, in a way that costs its address something. Told."""

    offence: Offence


class Answered(_Said, frozen=True):
    """The first record of the client is answered: the process waits for more. Told."""


class Over(_Said, frozen=True):
    """The session has ended, having moved so many bytes. Told."""

    bytes_in: _Size
    bytes_out: _Size


# answered by the server ----------------------------------------------------------------------


class Known(_Said, frozen=True):
    """What a session has to know of its account.

    Attributes:
        home: As its process sees it.
    """

    id: int
    name: str
    home: bytes
    permissions: str
    limit_rate: int | None
    epoch: int
    max_sessions: int | None


class Admitted(_Said, frozen=True):
    """The client is let in.

    Attributes:
        token_id: Of the token that was shown.
        identity: User, group and groups to become, with the home as the root; None: neither.
        invitation: That the account was just made with.
    """

    account: Known
    token_id: str | None
    identity: tuple[int, int, list[int]] | None
    invitation: str | None = None


class Delay(_Said, frozen=True):
    seconds: float


class TokenMade(_Said, frozen=True):
    id: str
    secret: str
    expires: int | None


class TokensKnown(_Said, frozen=True):
    tokens: list[TokenInfo]


class Leased(_Said, frozen=True):
    """A lease as it is now."""

    id: str
    size: int
    files: int


class Kept(_Said, frozen=True):
    uploads: list[Resumable]


class SettledUp(_Said, frozen=True):
    kept: list[bytes]
    used: int
    quota: int | None


class TransferBegun(_Said, frozen=True):
    token: str


class RoomLeft(_Said, frozen=True):
    room: Room


# asked by the server -------------------------------------------------------------------------


class Look(_Said, frozen=True):
    """What goes on? Answer: `Seen`. ``speed``: it is measured, for a moment."""

    speed: bool = False


class Seen(_Said, frozen=True):
    """What a session does. As `stats.SessionInfo`."""

    request: _Name | None
    path: Annotated[bytes, Meta(max_length=8192)] | None
    target: Annotated[bytes, Meta(max_length=8192)] | None
    quiet: Annotated[float, Meta(ge=0)]
    bytes_in: _Size
    bytes_out: _Size
    speed: Annotated[float, Meta(ge=0)]


class End(_Said, frozen=True):
    """As `Session.end`. Told."""

    why: str


class Hasten(_Said, frozen=True):
    """As `Session.hasten`. Told."""


class Dismiss(_Said, frozen=True):
    """As `Session.dismiss`. Told."""


class GiveWay(_Said, frozen=True):
    """As `Session.give_way`. Told."""

    token: str


class Follow(_Said, frozen=True):
    """The account was changed. Told."""

    account: Known


class ApplySettings(_Said, frozen=True):
    """Settings that were changed, as they are now. Told."""

    stall: float
    idle_timeout: float
    limit_rate: int | None


AskedBySession = (
    ByPassword
    | ByToken
    | ByPeer
    | Enrol
    | AskDelay
    | ChangePassword
    | IssueToken
    | ListTokens
    | RevokeToken
    | Reserve
    | ReserveStep
    | TakeOver
    | Keep
    | DropKept
    | ListKept
    | Extend
    | BeginCommit
    | Settle
    | AskRoom
    | Lines
    | Logged
    | BeginTransfer
    | TransferIdle
    | EndTransfer
    | Penalized
    | Answered
    | Over
    | Brokered
)
AnsweredByServer = (
    Admitted
    | Known
    | Delay
    | TokenMade
    | TokensKnown
    | Leased
    | Kept
    | SettledUp
    | RoomLeft
    | TransferBegun
    | BrokeredAnswer
)
AskedByServer = (
    Look
    | End
    | Hasten
    | Dismiss
    | GiveWay
    | Follow
    | ApplySettings
    | Borrow
    | GiveBack
    | Recall
    | Cut
)
AnsweredBySession = Seen | BrokeredAnswer


def known(account: Account, home: Path) -> Known:
    """What a session has to know of an account."""
    return Known(
        account.id,
        account.name,
        bytes(home),
        str(account.rights),
        account.limit_rate,
        account.epoch,
        account.max_sessions,
    )


def account_of(told: Known) -> Account:
    """The account as its session has it: what it doesn't need to know is left out."""
    return Account(
        id=told.id,
        name=told.name,
        home=Path(told.home.decode("utf-8", "surrogateescape")),
        own_home=False,
        quota=None,
        used=0,
        held=0,
        created=0,
        max_files=None,
        files=0,
        permissions=Permissions.parse(told.permissions),
        networks=(),
        expires=None,
        disabled=False,
        max_sessions=told.max_sessions,
        limit_rate=told.limit_rate,
        peer_user=None,
        system_user=None,
        epoch=told.epoch,
    )
