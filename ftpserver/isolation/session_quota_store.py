"""The quota store for one session, whose process an attacker may have taken over.

Lives here: checking that a request is about the session's own account and leases.
Lives elsewhere: the quota store itself (storage/ledger.py), other requests (handler.py).

A process names leases only by their ids; their sizes are known here. The bytes that it claims to
have stored cannot be checked: see docs/decisions/0020-isolation.md.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from ftpserver.accounts.account import Account
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.quota import EvictedOperation, Lease, QuotaStore, Resumable, Settled
from ftpwire.errors import Busy, LeaseLost
from ftpwire.messages import SpaceInfo

_MOST_LEASES = 10_000


class SessionQuotaStore(QuotaStore):
    """The quota store for one session. For the thread that reads its process's requests.

    Args:
        ledger: A ledger with an incarnation that only this session has.
        account: Returns the session's account; raises NotLoggedIn.

    Attributes:
        leases: The leases that the session holds, by id.
    """

    def __init__(self, ledger: Ledger, account: Callable[[], Account]) -> None:
        self.incarnation = ledger.incarnation
        self._ledger = ledger
        self._account = account
        self.leases: dict[str, Lease] = {}

    @property
    def holds(self) -> bool:
        """True if the session has leases, or a settlement that waits."""
        return bool(self.leases) or self._ledger.is_waiting

    def reserve(
        self,
        account_id: int,
        size: int,
        staging: bytes | None = None,
        *,
        files: int = 1,
        pieces: bytes | None = None,
    ) -> Lease:
        own = self._account_for_lease(account_id)
        return self._note(self._ledger.reserve(own, size, staging, files=files, pieces=pieces))

    def reserve_step(self, account_id: int, size: int, files: int = 1) -> Lease:
        own = self._account_for_lease(account_id)
        return self._note(self._ledger.reserve_step(own, size, files))

    def make_durable(self) -> None:
        self._account()
        self._ledger.make_durable()

    def take_over(
        self, account_id: int, staging: bytes, pieces: bytes | None = None
    ) -> Lease | None:
        taken = self._ledger.take_over(self._account_for_lease(account_id), staging, pieces)
        return None if taken is None else self._note(taken)

    def find_pieces(self, account_id: int, key: bytes) -> bytes | None:
        return self._ledger.find_pieces(self._own(account_id), key)

    def keep(self, held: Lease) -> None:
        self._ledger.keep(self._held(held))
        del self.leases[held.id]

    def drop_kept(self, account_id: int, staging: bytes) -> bool:
        return self._ledger.drop_kept(self._own(account_id), staging)

    def resumable(self, account_id: int) -> list[Resumable]:
        return self._ledger.resumable(self._own(account_id))

    def extended(self, held: Lease, size: int, files: int = 0) -> Lease:
        known = self._held(held)
        self._ledger.extend(known, size, files)
        return known

    def begin_commit(self, leases: Sequence[Lease]) -> None:
        self._account()
        self._ledger.begin_commit([self._held(one) for one in leases])

    def settle(
        self,
        leases: Sequence[Lease],
        change: int,
        files: int = 0,
        trash: int = 0,
        trash_files: int = 0,
    ) -> Settled:
        # an unknown id becomes an empty lease: the settlement is made, and reported as lost
        own = self._account().id
        known = [self.leases.pop(one.id, Lease("", own, 0)) for one in leases]
        if not known:
            raise LeaseLost("nothing can be settled without a reservation")
        return self._ledger.settle(known, change, files, trash, trash_files)

    def space(self, account_id: int) -> SpaceInfo:
        return self._ledger.space(self._own(account_id))

    def reserve_freed(
        self, held: Lease, freed: int, freed_files: int, size: int, files: int
    ) -> Lease:
        known = self._held(held)
        grown = self._ledger.reserve_freed(known, freed, freed_files, size, files)
        known.size, known.files = grown.size, grown.files
        return known

    def operation(self, account_id: int, key: bytes | None) -> str:
        return self._ledger.operation(self._own(account_id), key)

    def close_operation(self, account_id: int, name: str) -> None:
        self._ledger.close_operation(self._own(account_id), name)

    def begin_eviction(
        self,
        account_id: int,
        name: str,
        size: int | None = None,
        words: str = "",
        client: bytes | None = None,
    ) -> None:
        self._ledger.begin_eviction(self._own(account_id), name, size, words, client)

    def forget_operation(
        self,
        account_id: int,
        name: str,
        freed: int | None = None,
        words: str = "",
        client: bytes | None = None,
    ) -> None:
        self._ledger.forget_operation(self._own(account_id), name, freed, words, client)

    def evicted(self, account_id: int) -> list[EvictedOperation]:
        return self._ledger.evicted(self._own(account_id))

    def was_evicted(self, account_id: int, name: str) -> bool:
        return self._ledger.was_evicted(self._own(account_id), name)

    def note_answers(self, account_id: int, key: bytes, answers: list[tuple[int, bytes]]) -> None:
        self._ledger.note_answers(self._own(account_id), key, answers)

    def answer(self, account_id: int, key: bytes, number: int) -> bytes | None:
        return self._ledger.answer(self._own(account_id), key, number)

    def measure_soon(self, account_id: int) -> None:
        self._ledger.measure_soon(self._own(account_id))

    def trash_of_all(self, account_id: int) -> int:
        return self._ledger.trash_of_all(self._own(account_id))

    def free_disk_space(self, account_id: int, size: int) -> bool:
        return self._ledger.free_disk_space(self._own(account_id), size)

    # checks ------------------------------------------------------------------------------

    def _own(self, account_id: int) -> int:
        """Return the session's account. Raises NotLoggedIn; PermissionError for another account."""
        own = self._account().id
        if account_id != own:
            raise PermissionError(errno.EPERM, "not this session's account")
        return own

    def _account_for_lease(self, account_id: int) -> int:
        """Return the session's account if it may have one more lease. Raises Busy, too."""
        if len(self.leases) >= _MOST_LEASES:
            raise Busy("too many reservations")
        return self._own(account_id)

    def _note(self, lease: Lease) -> Lease:
        self.leases[lease.id] = lease
        return lease

    def _held(self, lease: Lease) -> Lease:
        """Return the session's own lease of that id. Raises NotLoggedIn, LeaseLost."""
        self._account()
        held = self.leases.get(lease.id)
        if held is None:
            raise LeaseLost("the reservation was lost")
        return held
