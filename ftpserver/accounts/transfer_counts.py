"""The number of running transfers of each account.

Lives here: the counts, in the memory of the server's process, and which transfer ends for another.
Lives elsewhere: when a transfer counts (serving/session.py), the cap (settings/table.py), requests
to the server's process from a worker or an isolated session (processes/worker_interfaces.py,
isolation/proxies.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ftpserver.accounts.session_counts import Counts
from ftpwire.errors import TooMany


class TransferCounting(Protocol):
    """The counter of the running transfers of all accounts."""

    def begin(self, account_id: int, name: str, give_way: Callable[[str], None]) -> str:
        """Count one more transfer, and return a token for `leave`. Raises TooMany.

        Args:
            name: The account's name, for the message.
            give_way: Called with the token, from any thread, if the transfer must end because
                another one needs its slot.
        """

    def report_idle(self, token: str, idle: bool) -> None:
        """Report whether a transfer has moved no bytes for a while: such a one can be ended."""

    def leave(self, token: str) -> None:
        """Count one transfer less. Can be called twice."""


class TransferCounts(Counts):
    """The running transfers of one server. ``_lock`` also guards ``_idle`` and ``_give_way``.

    Args:
        most: Returns the cap on the running transfers of an account.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        super().__init__()
        self._most = most
        self._idle: dict[str, None] = {}
        """Tokens of transfers that move no bytes; the one that stopped first comes first."""
        self._give_way: dict[str, Callable[[str], None]] = {}

    def begin(
        self,
        account_id: int,
        name: str,
        give_way: Callable[[str], None],
        *,
        worker: int | None = None,
    ) -> str:
        """Count one more transfer; see `TransferCounting`."""
        most, ends = self._most(), None
        with self._lock:
            there = self._tokens.get(account_id, {})
            if len(there) >= most:
                token = next((one for one in self._idle if one in there), None)
                if token is None:
                    raise TooMany(
                        f"too many transfers: {name} has {len(there)} running, the limit is {most}",
                        retry_after=1,
                    )
                ends = token, self._give_way[token]
                self._forget(token)
                del there[token]
            added = self._add(account_id, worker)
            self._give_way[added] = give_way
        if ends is not None:
            token, end = ends
            # outside the lock: this may send a request to another process
            end(token)
        return added

    def report_idle(self, token: str, idle: bool) -> None:
        """Report whether a transfer has moved no bytes for a while."""
        with self._lock:
            if not idle:
                self._idle.pop(token, None)
            elif token in self._give_way:
                self._idle[token] = None

    def leave(self, token: str) -> None:
        super().leave(token)
        with self._lock:
            self._forget(token)

    def mark_dead(self, worker: int) -> None:
        with self._lock:
            owned = [
                token
                for there in self._tokens.values()
                for token, where in there.items()
                if where == worker
            ]
            for token in owned:
                self._forget(token)
        super().mark_dead(worker)

    def _forget(self, token: str) -> None:
        """Forget a transfer's callback and idleness. The caller holds the lock."""
        self._idle.pop(token, None)
        self._give_way.pop(token, None)
