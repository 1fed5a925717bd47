"""Proxies in a session's process: the authenticator, audit log and limits, provided by the server.

Lives here: implementations that send requests of `ServerForSession`. The server doesn't rely on
what they say about the account and the client's address.
Lives elsewhere: the interfaces (accounts/authenticator.py, audit/context.py, serving/context.py),
handling the requests (handler.py). The quota store is itself such an interface: `quota.QuotaStore`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ftpserver.accounts.account import Account
from ftpserver.accounts.authenticator import Admission, Authenticator, TooManySessions
from ftpserver.accounts.tokens import Issued
from ftpserver.audit.context import Recorder
from ftpserver.interfaces import Carried
from ftpserver.isolation.interfaces import Admitted, ServerForSession
from ftpwire.errors import Busy, LoginRefused, TooMany
from ftpwire.messages import TokenInfo

if TYPE_CHECKING:
    from ftpserver.processes.shared_rate import SharedPaces
    from ftpwire.pacing import Pace

_MOST_LINES = 64 * 1024
"""The most bytes of audit records in one notification."""
_MOST_TEXT = 16_000


class RemoteAuthenticator(Authenticator):
    """Sends log-ins to the server.

    Args:
        enter: Called with a successful reply and its descriptors. It makes this process the
            account's, for good, and returns the account as seen from there.
    """

    def __init__(
        self, server: ServerForSession, enter: Callable[[Carried[Admitted]], Account]
    ) -> None:
        self._server = server
        self._enter = enter

    def by_password(self, host: str, name: str, password: str) -> Admission:
        return self._admit(lambda: self._server.by_password(name, password))

    def by_token(self, host: str, name: str, secret: str) -> Admission:
        return self._admit(lambda: self._server.by_token(name, secret))

    def by_peer(self, host: str, name: str, uid: int | None) -> Admission:
        return self._admit(lambda: self._server.by_peer(name))

    def register(self, host: str, name: str, password: str, invitation: str | None) -> Admission:
        return self._admit(lambda: self._server.register(name, password, invitation))

    def _admit(self, ask: Callable[[], Carried[Admitted]]) -> Admission:
        try:
            carried = ask()
        except TooMany as error:
            raise error.with_text(str(error), TooManySessions) from None
        except ValueError:  # too long to be sent, so no account has such a name or password
            raise LoginRefused("wrong user name or password") from None
        try:
            account = self._enter(carried)
        finally:
            carried.close()
        admitted = carried.message
        return Admission(account, admitted.token_id, invitation=admitted.invitation)

    def delay(self, host: str, error: LoginRefused | Busy) -> float:
        return self._server.delay(error.code)

    def change_password(self, host: str, account: Account, old: str, new: str) -> Account:
        return self._server.change_password(old, new).account()

    def issue_token(
        self, account: Account, name: str, seconds: int | None, parent: str | None
    ) -> Issued:
        # `parent` isn't sent: the server knows it, and must not rely on this process
        return self._server.issue_token(name, seconds)

    def tokens_of(self, account: Account, current: str | None) -> Sequence[TokenInfo]:
        return self._server.list_tokens()

    def revoke_token(self, account: Account, token_id: str) -> None:
        self._server.revoke_token(token_id)


class RemoteAudit(Recorder):
    """Sends audit records to the server, which checks each line."""

    def __init__(self, server: ServerForSession, *, enabled: bool) -> None:
        self._server = server
        self.enabled = enabled

    def append(self, lines: bytes, count: int, share: str | None = None) -> None:
        for part in _parts(lines):
            self._server.record(part)

    def may_record_failure(
        self, account: Account | None, guess: str | None = None, size: int = 0
    ) -> bool:
        """Return True, as the server decides."""
        return True


def _parts(lines: bytes) -> list[bytes]:
    """Split lines into parts that fit into a notification; a line stays whole."""
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
    """Sends log lines to the server, as this process has no log of its own."""

    def __init__(self, server: ServerForSession) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)[:_MOST_TEXT]
        self._server.log(min(50, record.levelno), record.name[:64], text)


class RemoteSessionLimits:
    """Limits of a session process. The server counts sessions and transfers; the pace of an
    account is in a memory page that its sessions share."""

    def __init__(self, server: ServerForSession) -> None:
        self._server = server
        self.paces: SharedPaces | None = None

    def enter(
        self, account: Account, host: str, *, at_any_rate: bool = False, had: str | None = None
    ) -> str | None:
        """Do nothing: the server counts the session at log-in."""
        return None

    def leave(self, slot: str | None) -> None:
        """Do nothing: the server counts it when the process ends."""

    def begin_transfer(self, account: Account, give_way: Callable[[str], None]) -> str:
        """Count a transfer in the server, which sends `give_way` if it must end for another."""
        return self._server.begin_transfer()

    def report_idle(self, transfer: str, idle: bool) -> None:
        """Report to the server that the transfer is idle, or not."""
        self._server.report_idle(idle)

    def end_transfer(self, transfer: str) -> None:
        """End the transfer in the server."""
        self._server.end_transfer()

    def pace(self, account: Account) -> Pace | None:
        """Return the account's pace, shared by its sessions in all processes."""
        if account.limit_rate is None or self.paces is None:
            return None
        return self.paces.pace(account.id, account.limit_rate)
