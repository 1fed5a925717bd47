"""Allowances: how many failures are recorded, so that they cannot displace the records of others.

Lives elsewhere: what is recorded when (context.py), counting what isn't (writer.py).
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from ftpserver.audit.files import lines_in
from ftpserver.interfaces import namespaced, request

_REFUSALS_BURST = 500
_REFUSALS_RATE = 5.0
"""Failures recorded per second, for each account, and for unauthenticated connections together."""
_MAX_ALLOWANCES = 1024


@namespaced
class FailureLimiting(Protocol):
    """The limit for recorded failures."""

    @request
    def take(self, account_id: int | None, guess: str | None, size: int) -> bool:
        """Count a failure of that account, or of an unauthenticated connection, if allowed.

        Args:
            account_id: None for an unauthenticated connection.
            guess: The kind of secret that was guessed at; see `context.guess_of`.
            size: The size of its line in bytes.

        Returns:
            True if the failure may be recorded.
        """


class Allowance:
    """A token bucket.

    Args:
        burst: The most that can be taken at once.
        rate: How much is added per second.
    """

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = time.monotonic()

    def take(self, count: int = 1) -> bool:
        """Take that many; return False if there aren't as many. More than ``burst`` take all."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        count = max(1, min(count, self._burst))
        if self._left < count:
            return False
        self._left -= count
        return True


class FailureAllowances:
    """The allowances of each account and of unauthenticated connections. ``_lock`` guards all.

    Unauthenticated failures are counted by the kind of secret that was guessed at, so that failures
    that cost the client nothing cannot use up the allowance of others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[int, Allowance] = {}
        self._unauthenticated: dict[str | None, Allowance] = {}

    def take(self, account_id: int | None, guess: str | None, size: int) -> bool:
        """Return True if another failure may be recorded; see `FailureLimiting`."""
        with self._lock:
            return self._allowance(account_id, guess).take(lines_in(size))

    def _allowance(self, account_id: int | None, guess: str | None) -> Allowance:
        new = Allowance(_REFUSALS_BURST, _REFUSALS_RATE)
        if account_id is None:
            return self._unauthenticated.setdefault(guess, new)
        if account_id not in self._accounts and len(self._accounts) >= _MAX_ALLOWANCES:
            self._accounts.clear()
        return self._accounts.setdefault(account_id, new)
