"""What a session in a process of its own is given: an entrance, records and limits that ask the
server.

Lives here: the implementations that ask `ServerForSession`, which doesn't take a session's word for
whose it is and where its client is.
Lives elsewhere: the interfaces (accounts/authenticator.py, audit/context.py, serving/context.py),
the answers (handler.py). The books need nothing of the kind: see `quota.QuotaStore`.
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
"""Bytes of the audit log that are told at once."""
_MOST_TEXT = 16_000


class RemoteAuthenticator(Authenticator):
    """Asks the server to let its client in.

    Args:
        enter: Given an answer that lets it in, with its descriptors: makes this process the
            account's, for good, and returns the account as it is seen from there.
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
        except ValueError:  # too long to be sent: nobody has such a name or password
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
    ) -> Issued:  # the server knows the session's token, and takes nobody's word for it
        return self._server.issue_token(name, seconds)

    def tokens_of(self, account: Account, current: str | None) -> Sequence[TokenInfo]:
        return self._server.list_tokens()

    def revoke_token(self, account: Account, token_id: str) -> None:
        self._server.revoke_token(token_id)


class RemoteAudit(Recorder):
    """Tells the server what was done. The server looks at each line before it keeps it."""

    def __init__(self, server: ServerForSession, *, enabled: bool) -> None:
        self._server = server
        self.enabled = enabled

    def append(self, lines: bytes, count: int, share: str | None = None) -> None:
        for part in _parts(lines):
            self._server.record(part)

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

    def __init__(self, server: ServerForSession) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)[:_MOST_TEXT]
        self._server.log(min(50, record.levelno), record.name[:64], text)


class RemoteSessionLimits:
    """The server counts sessions and transfers; what sessions keep together lies in a page that
    they share."""

    def __init__(self, server: ServerForSession) -> None:
        self._server = server
        self.paces: SharedPaces | None = None

    def enter(
        self, account: Account, host: str, *, at_any_rate: bool = False, had: str | None = None
    ) -> str | None:
        """Counted by the server."""
        return None

    def leave(self, slot: str | None) -> None:
        """The same."""

    def begin_transfer(self, account: Account, give_way: Callable[[str], None]) -> str:
        """Counted by the server, which tells this process when it is to give way."""
        return self._server.begin_transfer()

    def tell_idle(self, transfer: str, idle: bool) -> None:
        """The same."""
        self._server.tell_idle(idle)

    def end_transfer(self, transfer: str) -> None:
        """The same."""
        self._server.end_transfer()

    def pace(self, account: Account) -> Pace | None:
        """The account's, of its sessions in all processes."""
        if account.limit_rate is None or self.paces is None:
            return None
        return self.paces.pace(account.id, account.limit_rate)
