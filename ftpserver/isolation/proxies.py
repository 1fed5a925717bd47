"""What a session in a process of its own is given: books, entrance and records that ask the server.

Lives here: the interfaces' implementations that turn each call into a question.
Lives elsewhere: the interfaces (storage/quota.py, accounts/authenticator.py, audit/trail.py), the
answers (handler.py).

Whose account it is goes without saying: the server knows, and doesn't ask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from ftpserver.accounts.account import Account
from ftpserver.accounts.authenticator import Admission, Entrance, NoPlace
from ftpserver.accounts.tokens import Issued
from ftpserver.audit.trail import Recorder
from ftpserver.isolation.messages import (
    Admitted,
    AskDelay,
    AskRoom,
    BeginCommit,
    BeginTransfer,
    ByPassword,
    ByPeer,
    ByToken,
    ChangePassword,
    Delay,
    DropKept,
    EndTransfer,
    Enrol,
    Extend,
    IssueToken,
    Keep,
    Kept,
    Known,
    Leased,
    Lines,
    ListKept,
    ListTokens,
    Logged,
    Reserve,
    ReserveStep,
    RevokeToken,
    RoomLeft,
    Settle,
    SettledUp,
    TakeOver,
    TokenMade,
    TokensKnown,
    TransferBegun,
    TransferIdle,
    account_of,
)
from ftpserver.processes.rpc import Carried, Peer, PeerGone
from ftpserver.storage.quota import Books, Lease, Resumable, Settled
from ftpwire.errors import Busy, LoginRefused, TooMany
from ftpwire.messages import Room, TokenInfo

if TYPE_CHECKING:
    from ftpserver.processes.shared_rate import SharedPaces
    from ftpwire.pacing import Pace

_MOST_LINES = 64 * 1024
"""Bytes of the audit log that are told at once."""
_MOST_TEXT = 16_000


class RemoteEntrance(Entrance):
    """Asks the server to let its client in.

    Args:
        enter: Given an answer that lets it in, with its descriptors: makes this process the
            account's, for good, and returns the account as it is seen from there.
    """

    def __init__(self, peer: Peer, enter: Callable[[Carried], Account]) -> None:
        self._peer = peer
        self._enter = enter

    def by_password(self, host: str, name: str, password: str) -> Admission:
        return self._admit(ByPassword(name, password))

    def by_token(self, host: str, name: str, secret: str) -> Admission:
        return self._admit(ByToken(name, secret))

    def by_peer(self, host: str, name: str, uid: int | None) -> Admission:
        return self._admit(ByPeer(name))

    def register(self, host: str, name: str, password: str, invitation: str | None) -> Admission:
        return self._admit(Enrol(name, password, invitation))

    def _admit(self, question: msgspec.Struct) -> Admission:
        try:
            carried = self._peer.fetch(question, Admitted)
        except TooMany as error:
            raise error.with_text(str(error), NoPlace) from None
        except ValueError:  # too long to be sent: nobody has such a name or password
            raise LoginRefused("wrong user name or password") from None
        try:
            account = self._enter(carried)
        finally:
            carried.close()
        admitted = carried.message
        return Admission(account, admitted.token_id, invitation=admitted.invitation)

    def delay(self, host: str, error: LoginRefused | Busy) -> float:
        return self._peer.ask(AskDelay(error.code), Delay).seconds

    def change_password(self, host: str, account: Account, old: str, new: str) -> Account:
        return account_of(self._peer.ask(ChangePassword(old, new), Known))

    def issue_token(
        self, account: Account, name: str, seconds: int | None, parent: str | None
    ) -> Issued:  # the server knows the session's token, and takes nobody's word for it
        made = self._peer.ask(IssueToken(name, seconds), TokenMade)
        return Issued(made.id, made.secret, made.expires)

    def tokens_of(self, account: Account, current: str | None) -> Sequence[TokenInfo]:
        return self._peer.ask(ListTokens(), TokensKnown).tokens

    def revoke_token(self, account: Account, token_id: str) -> None:
        self._peer.ask(RevokeToken(token_id))


class RemoteBooks(Books):
    """Asks the server for each entry."""

    def __init__(self, peer: Peer, incarnation: str) -> None:
        self._peer = peer
        self.incarnation = incarnation

    def reserve(
        self, account_id: int, size: int, staging: bytes | None = None, *, files: int = 1
    ) -> Lease:
        return self._lease(account_id, Reserve(size, files, staging))

    def reserve_step(self, account_id: int, size: int, files: int = 1) -> Lease:
        return self._lease(account_id, ReserveStep(size, files))

    def _lease(self, account_id: int, question: Reserve | ReserveStep) -> Lease:
        given = self._peer.ask(question, Leased)
        return Lease(given.id, account_id, given.size, given.files)

    def take_over(self, account_id: int, staging: bytes) -> Lease | None:
        given = self._peer.ask(TakeOver(staging), msgspec.Struct)
        if not isinstance(given, Leased):
            return None
        return Lease(given.id, account_id, given.size, given.files)

    def keep(self, held: Lease) -> None:
        self._peer.ask(Keep(held.id))

    def drop_kept(self, account_id: int, staging: bytes) -> None:
        self._peer.ask(DropKept(staging))

    def resumable(self, account_id: int) -> list[Resumable]:
        return self._peer.ask(ListKept(), Kept).uploads

    def extend(self, held: Lease, size: int, files: int = 0) -> None:
        given = self._peer.ask(Extend(held.id, size, files), Leased)
        held.size, held.files = given.size, given.files

    def begin_commit(self, leases: Sequence[Lease]) -> None:
        self._peer.ask(BeginCommit([one.id for one in leases]))

    def settle(self, leases: Sequence[Lease], change: int, files: int = 0) -> Settled:
        question = Settle([one.id for one in leases], change, files)
        found = self._peer.ask(question, SettledUp)
        return Settled(found.kept, found.used, found.quota)

    def room(self, account_id: int) -> Room:
        return self._peer.ask(AskRoom(), RoomLeft).room

    def settle_waiting(self) -> None:
        """The server does it."""


class RemoteAudit(Recorder):
    """Tells the server what was done. The server looks at each line before it keeps it."""

    def __init__(self, peer: Peer, *, enabled: bool) -> None:
        self._peer = peer
        self.enabled = enabled

    def append(self, lines: bytes, count: int, share: str | None = None) -> None:
        try:
            for part in _parts(lines):
                self._peer.tell(Lines(part))
        except PeerGone:
            pass  # nobody is left to write it, and this process is at its end

    def may_tell_failure(
        self, account: Account | None, guess: str | None = None, size: int = 0
    ) -> bool:
        """The server decides."""
        return True


def _parts(lines: bytes) -> list[bytes]:
    """Lines in parts of a size that can be told; a line stays whole."""
    parts = []
    start = 0
    while start < len(lines):
        end = len(lines)
        if end - start > _MOST_LINES:
            end = (
                lines.rfind(b"\n", start, start + _MOST_LINES) + 1 or lines.index(b"\n", start) + 1
            )
        parts.append(lines[start:end])
        start = end
    return parts


class RemoteLog(logging.Handler):
    """Has the server write what this process logs: it holds no log itself."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._peer = peer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)[:_MOST_TEXT]
            self._peer.tell(Logged(min(50, record.levelno), record.name[:64], text))
        except PeerGone:
            pass  # nobody is left to write it


class RemotePresence:
    """The server counts sessions and transfers; what sessions keep together lies in a page that
    they share."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.paces: SharedPaces | None = None

    def enter(
        self, account: Account, host: str, *, at_any_rate: bool = False, had: str | None = None
    ) -> str | None:
        """Counted by the server."""
        return None

    def leave(self, place: str | None) -> None:
        """The same."""

    def begin_transfer(self, account: Account, give_way: Callable[[str], None]) -> str:
        """Counted by the server, which tells this process when it is to give way."""
        return self._peer.ask(BeginTransfer(), TransferBegun).token

    def tell_idle(self, transfer: str, idle: bool) -> None:
        """The same."""
        self._tell(TransferIdle(idle))

    def end_transfer(self, transfer: str) -> None:
        """The same."""
        self._tell(EndTransfer())

    def _tell(self, message: msgspec.Struct) -> None:
        try:
            self._peer.tell(message)
        except PeerGone:
            pass  # this process is at its end

    def pace(self, account: Account) -> Pace | None:
        """The account's, of its sessions in all processes."""
        if account.limit_rate is None or self.paces is None:
            return None
        return self.paces.pace(account.id, account.limit_rate)
