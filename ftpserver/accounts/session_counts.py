"""The number of sessions of each account, and the cap for accounts without a limit.

Lives here: the cap, and the counts, in the memory of the server's process.
Lives elsewhere: limits set by an administrator (session_slots.py), when a session counts
(session_limits.py), running transfers (transfer_counts.py).
"""

from __future__ import annotations

import secrets
import threading
from typing import Protocol

from ftpserver.interfaces import namespaced, notification, request
from ftpwire.errors import TooMany

MOST = 100
"""The cap for an account without a limit, so that it cannot use up all descriptors."""


@namespaced
class SessionCounting(Protocol):
    """The counter of the sessions of all accounts."""

    @request
    def enter(self, account_id: int, name: str, *, capped: bool) -> str:
        """Count one more session, and return a token for `leave`. Raises TooMany.

        Args:
            name: The account's name, for the message.
            capped: True to refuse it if there are `MOST` already.
        """

    @notification
    def leave(self, token: str) -> None:
        """Count one session less. Can be called twice."""


class Counts:
    """Counts per account. ``_lock`` guards ``_tokens``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[int, dict[str, int | None]] = {}
        """For each account, its tokens, each with the worker that it is in."""

    def _add(self, account_id: int, worker: int | None) -> str:
        """Count one more. The caller holds the lock."""
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
        """Forget the counts of a worker that has ended."""
        with self._lock:
            for account_id, there in list(self._tokens.items()):
                left = {token: owner for token, owner in there.items() if owner != worker}
                if left:
                    self._tokens[account_id] = left
                else:
                    del self._tokens[account_id]

    def count(self, account_id: int) -> int:
        """Return the count of an account."""
        with self._lock:
            return len(self._tokens.get(account_id, {}))


class SessionCounts(Counts):
    """The session counts of one server."""

    def enter(self, account_id: int, name: str, *, capped: bool, worker: int | None = None) -> str:
        """Count one more session; see `SessionCounting`."""
        with self._lock:
            if capped:
                _check(name, len(self._tokens.get(account_id, {})))
            return self._add(account_id, worker)

    def check(self, account_id: int, name: str) -> None:
        """Raise TooMany if an account without a limit has reached the cap."""
        _check(name, self.count(account_id))


def _check(name: str, count: int) -> None:
    if count >= MOST:
        text = f"too many sessions: {name} has {count}, the limit is {MOST}"
        raise TooMany(text, retry_after=1)
