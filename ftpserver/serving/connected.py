"""Connected: the interface of a session for the code that looks after sessions, of any protocol.

Lives here: the interface, and how a request is described.
Lives elsewhere: the implementations: a session of this process (session.py), one with a process of
its own (isolation/isolated_session.py); the users: the account watcher (account_watch.py), the
service (service.py), signs of life (keep_alive.py).

A session of another protocol is looked after as soon as it has this interface and is among the
sessions of its service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ftpserver.audit.context import Unusable
from ftpwire.errors import BadRequest, FtpError
from ftpwire.messages import GetFiles, Message, PutFiles

if TYPE_CHECKING:
    import socket

    from ftpserver.accounts.account import Account


class Traffic(Protocol):
    """The bytes of a session, and the reason for its end."""

    @property
    def bytes_in(self) -> int:
        """The bytes received, as far as known."""

    @property
    def bytes_out(self) -> int:
        """The bytes sent."""

    @property
    def ended(self) -> FtpError | None:
        """The reason why the session is to end; None while it goes on."""


class Connected(Protocol):
    """A session. Other threads look at it and end it.

    The methods that end it differ in what they interrupt (docs/architecture.md, "How things end").
    """

    @property
    def id(self) -> int:
        """A number that no other session of this run has."""

    @property
    def since(self) -> float:
        """When it was opened, by the clock of the run (ftpserver/clock.py)."""

    @property
    def request(self) -> socket.socket:
        """The connection."""

    @property
    def client_address(self) -> Any:
        """The client's address, as ``socket.accept`` returns it."""

    @property
    def host(self) -> str:
        """The client's address without its port, or `addresses.LOCAL`."""

    @property
    def peer(self) -> str:
        """The client's address for display: HOST:PORT, or ``local``."""

    @property
    def account(self) -> Account | None:
        """The account that is logged in; None before."""

    @property
    def token_id(self) -> str | None:
        """The id of the token that the client logged in with; None after a password."""

    @property
    def token_revoked(self) -> bool:
        """True if the session itself has revoked that token, and goes on."""

    @property
    def renewing(self) -> bool:
        """True while it changes its own password or token, which is no reason to end it."""

    @property
    def leaving(self) -> bool:
        """True once it is ending and telling its client so."""

    @property
    def channel(self) -> Traffic:
        """The bytes that it moves."""

    @property
    def doing(self) -> object:
        """The request under way; None while it waits for one. One known here is a `Message`."""

    @property
    def quiet_since(self) -> float:
        """When it began to wait for a request, on ``time.monotonic()``."""

    def close(self, why: str) -> None:
        """End it in order, and tell its client why. Doesn't interrupt a wait for the client."""

    def close_now(self) -> None:
        """End it after `close`, even while it waits for its client to send more."""

    def close_idle(self) -> None:
        """End a session that is doing nothing, as if the server stopped."""

    def abort(self) -> None:
        """End the connection at once."""

    def give_way(self, transfer: str) -> None:
        """End it if that is its running transfer, whose slot another transfer needs."""

    def apply_account(self, account: Account) -> None:
        """Use a changed account from the next request on. Raises NotFound."""

    def say_alive(self) -> None:
        """Send a sign of life if a reply is due and nothing was sent lately. Must not wait."""

    def warn(self) -> None:
        """Tell the client, once, that the server stops. Must not wait."""


class Doing(NamedTuple):
    """The description of a request, with the fields of `stats.SessionInfo`."""

    request: str | None = None
    path: bytes | None = None
    target: bytes | None = None


def describe(doing: object) -> Doing:
    """Return the description of a request under way; an empty one if there is none or it isn't
    known."""
    if isinstance(doing, Unusable):
        return Doing(BadRequest.code, doing.path)
    if not isinstance(doing, Message):
        return Doing()
    path = getattr(doing, "path", None) or getattr(doing, "source", None)
    if isinstance(doing, PutFiles | GetFiles) and doing.directories:
        path = doing.directories[0].path
    return Doing(str(type(doing).__struct_config__.tag), path, getattr(doing, "target", None))
