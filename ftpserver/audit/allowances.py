"""How many failures are recorded: who only fails can't push what others did out of the files.

Lives elsewhere: what is recorded when (context.py), counting what isn't (writer.py).
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from ftpserver.audit.files import lines_in
from ftpserver.interfaces import apart, asked

_REFUSALS_BURST = 500
_REFUSALS_RATE = 5.0
"""Records a second about what failed, for each account, and for all strangers together."""
_MAX_ALLOWANCES = 1024


@apart
class FailureRoom(Protocol):
    """Who says how many failures are recorded."""

    @asked
    def take(self, account_id: int | None, guess: str | None, size: int) -> bool:
        """Whether another one of that account, or of a stranger, may be. Counts it if so.

        Args:
            guess: See `context.guess_of`.
            size: Bytes of its line.
        """


class Allowance:
    """A bucket that fills with time: how much of something may be told.

    Args:
        burst: At once.
        rate: More of it, a second.
    """

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = time.monotonic()

    def take(self, count: int = 1) -> bool:
        """Whether there is as much. What is more than there ever is at once takes all of it."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        count = max(1, min(count, self._burst))
        if self._left < count:
            return False
        self._left -= count
        return True


class FailureAllowances:
    """How many failures of each account, and of strangers, may be recorded. ``_lock`` guards all.

    Those of strangers count by what they guessed at: what costs one nothing can't use up the
    others'.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[int, Allowance] = {}
        self._unauthenticated: dict[str | None, Allowance] = {}

    def take(self, account_id: int | None, guess: str | None, size: int) -> bool:
        """Whether another one may be recorded; see `FailureRoom`."""
        with self._lock:
            return self._allowance(account_id, guess).take(lines_in(size))

    def _allowance(self, account_id: int | None, guess: str | None) -> Allowance:
        new = Allowance(_REFUSALS_BURST, _REFUSALS_RATE)
        if account_id is None:
            return self._unauthenticated.setdefault(guess, new)
        if account_id not in self._accounts and len(self._accounts) >= _MAX_ALLOWANCES:
            self._accounts.clear()
        return self._accounts.setdefault(account_id, new)
