"""Connected: a session as those see it who look after sessions, whatever protocol it speaks.

Lives here: the interface, and what of a request is told.
Lives elsewhere: those who have it: a session of this process (session.py), one with a process of
its own (isolation/isolated_session.py). Those who need it: the account watcher (account_watch.py),
the service (service.py), signs of life (keep_alive.py).

A session of another protocol is looked after as soon as it fits this, and is among the sessions of
its service.
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
    """The bytes of a session, and its end."""

    @property
    def bytes_in(self) -> int:
        """Received, as far as it is known."""

    @property
    def bytes_out(self) -> int:
        """Sent."""

    @property
    def ended(self) -> FtpError | None:
        """Why the session is to end; None while it is not."""


class Connected(Protocol):
    """A session. Others look at it and end it from their own threads."""

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
        """Of the client, as ``socket.accept`` gives it."""

    @property
    def host(self) -> str:
        """The client's address without its port, or `addresses.LOCAL`."""

    @property
    def peer(self) -> str:
        """The same for people: HOST:PORT, or ``local``."""

    @property
    def account(self) -> Account | None:
        """Who is logged in; None before."""

    @property
    def token_id(self) -> str | None:
        """Of the token that was logged in with; None: by password."""

    @property
    def token_revoked(self) -> bool:
        """Whether the session itself has revoked that, and goes on."""

    @property
    def renewing(self) -> bool:
        """Whether it changes its own password or token just now, which is no reason to end it."""

    @property
    def leaving(self) -> bool:
        """Whether it is at its end, and tells its client so."""

    @property
    def channel(self) -> Traffic:
        """The bytes that it moves."""

    @property
    def doing(self) -> object:
        """None while it waits for a request. A request that this process knows is a `Message`."""

    @property
    def quiet_since(self) -> float:
        """Since when it waits for a request, on ``time.monotonic()``."""

    def close(self, why: str) -> None:
        """End it, and tell its client why. What can't be interrupted is not."""

    def close_now(self) -> None:
        """End it after `close`, also where it waits for its client to send more."""

    def close_idle(self) -> None:
        """End it as if the server stopped; for a session that does nothing."""

    def abort(self) -> None:
        """End the connection at once."""

    def give_way(self, transfer: str) -> None:
        """End it if that is its running transfer: another one needs the place."""

    def apply_account(self, account: Account) -> None:
        """The account was changed: what is asked for from now on obeys that. Raises NotFound."""

    def say_alive(self) -> None:
        """Send a sign of life if an answer is owed and nothing was sent lately. Must not wait."""

    def warn(self) -> None:
        """The server stops: tell the client that hasn't heard so yet. Must not wait."""


class Doing(NamedTuple):
    """What is told of a request: as the fields of `stats.SessionInfo`."""

    request: str | None = None
    path: bytes | None = None
    target: bytes | None = None


def describe(doing: object) -> Doing:
    """What is told of a request under way; nothing where there is none, or it isn't known."""
    if isinstance(doing, Unusable):
        return Doing(BadRequest.code, doing.path)
    if not isinstance(doing, Message):
        return Doing()
    path = getattr(doing, "path", None) or getattr(doing, "source", None)
    if isinstance(doing, PutFiles | GetFiles) and doing.directories:
        path = doing.directories[0].path
    return Doing(str(type(doing).__struct_config__.tag), path, getattr(doing, "target", None))
