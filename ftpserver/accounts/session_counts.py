"""How many sessions each account has, where nobody has set a limit.

Lives here: the cap that holds by default, and the counts, in the memory of the server's process.
Lives elsewhere: limits that somebody has set (session_slots.py), when a session counts (limits.py),
running transfers (transfer_counts.py).
"""

from __future__ import annotations

import secrets
import threading
from typing import Protocol

from ftpserver.interfaces import apart, asked, told
from ftpwire.errors import TooMany

MOST = 100
"""Sessions of an account for which no limit is set: one account can't use up all descriptors."""


@apart
class SessionCounting(Protocol):
    """Where the sessions of all accounts are counted."""

    @asked
    def enter(self, account_id: int, name: str, *, capped: bool) -> str:
        """Count one more session; returns a token to give back. Raises TooMany.

        Args:
            name: Of the account, for the message.
            capped: Refuse it when there are `MOST`.
        """

    @told
    def leave(self, token: str) -> None:
        """Count one less. Can be called twice."""


class Counts:
    """How many there are of something, for each account. ``_lock`` guards ``_tokens``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[int, dict[str, int | None]] = {}
        """Of each account: a token for each, and the worker that it is in."""

    def _add(self, account_id: int, worker: int | None) -> str:
        """Count one more. With the lock held."""
        token = f"{account_id}.{secrets.token_hex(8)}"
        self._tokens.setdefault(account_id, {})[token] = worker
        return token

    def leave(self, token: str) -> None:
        """Count one less. Can be called twice."""
        account_id = int(token.partition(".")[0])
        with self._lock:
            there = self._tokens.get(account_id, {})
            there.pop(token, None)
            if not there:
                self._tokens.pop(account_id, None)

    def mark_dead(self, worker: int) -> None:
        """Forget those of a worker that has ended."""
        with self._lock:
            for account_id, there in list(self._tokens.items()):
                left = {token: its for token, its in there.items() if its != worker}
                if left:
                    self._tokens[account_id] = left
                else:
                    del self._tokens[account_id]

    def count(self, account_id: int) -> int:
        """Those of an account."""
        with self._lock:
            return len(self._tokens.get(account_id, {}))


class SessionCounts(Counts):
    """The sessions of one server."""

    def enter(self, account_id: int, name: str, *, capped: bool, worker: int | None = None) -> str:
        """Count one more session; see `SessionCounting`."""
        with self._lock:
            if capped:
                _check(name, len(self._tokens.get(account_id, {})))
            return self._add(account_id, worker)

    def check(self, account_id: int, name: str) -> None:
        """Raise TooMany if an account has as many as it may, where nobody has set a limit."""
        _check(name, self.count(account_id))


def _check(name: str, count: int) -> None:
    if count >= MOST:
        text = f"too many sessions: {name} has {count}, and {MOST} are allowed"
        raise TooMany(text, retry_after=1)
