"""The counters that one process keeps for the sessions of all processes.

Lives here: the counters together, so that the limits of the server's own process and the supervisor
of its workers use the same ones.
Lives elsewhere: each counter (session_counts.py, transfer_counts.py, turns.py), when something
counts (limits.py), requests for it from a worker (processes/worker_interfaces.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftpserver.accounts.limits import MAX_WAITING
from ftpserver.accounts.passwords import HASHES_AT_ONCE
from ftpserver.accounts.session_counts import SessionCounts
from ftpserver.accounts.transfer_counts import TransferCounts
from ftpserver.accounts.turns import Changes, Queue


@dataclass(frozen=True)
class Tallies:
    """The counters of one server. Each is safe to use from many threads.

    Attributes:
        sessions: The sessions of each account.
        transfers: The running transfers of each account.
        queue: The passwords that wait for a check.
        changes: The password changes in progress.
    """

    sessions: SessionCounts
    transfers: TransferCounts
    queue: Queue
    changes: Changes

    @classmethod
    def empty(cls, most_transfers: Callable[[], int]) -> Tallies:
        """Make the counters of a server that starts.

        Args:
            most_transfers: Returns the cap on the running transfers of an account.
        """
        return cls(
            SessionCounts(),
            TransferCounts(most_transfers),
            Queue(HASHES_AT_ONCE, MAX_WAITING),
            Changes(),
        )

    def free_turns(self, worker: int) -> None:
        """Release the turns of a worker that has ended, as others wait for them."""
        self.queue.mark_dead(worker)
        self.changes.mark_dead(worker)

    def forget_sessions(self, worker: int) -> None:
        """Stop counting the sessions and transfers of a worker whose process has ended."""
        self.sessions.mark_dead(worker)
        self.transfers.mark_dead(worker)
