"""The quota store as a session sees it: reserve quota, settle changes, ask what is free.

Lives here: the interfaces, leases and settlements, and behaviour that every implementation shares.
Lives elsewhere: the implementation with the database (ledger.py), the one for sessions in another
process (isolation/session_quota_store.py), leases for which trash is evicted
(trash/evicting_store.py).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

from msgspec import Meta

from ftpserver.errors import StateError
from ftpserver.interfaces import request
from ftpwire.errors import DiskFull, Internal, LeaseLost
from ftpwire.messages import Number, OperationKey, OperationName, SpaceInfo

logger = logging.getLogger("ftpd.ledger")

NOT_NOW = (DiskFull, StateError, Internal)
"""Errors of a settlement that is retried later. Internal: another process failed, and logged it."""
NEARLY_FULL = 0.9
"""The used share of a quota from which on users are warned that little is left."""

BYTES_FOR_A_FILE = 4096
"""Bytes of quota per file, directory or link, where no limit on their number is set. A file system
needs about this much for its own records of one, which the quota doesn't count."""
FEWEST_FILES = 1000
"""The lowest limit on files that a quota implies."""


def most_files(quota: int | None, max_files: int | None) -> int | None:
    """Return how many files, directories and links an account may have; None if unlimited.

    Args:
        max_files: The limit that was set; None if none was.
    """
    if max_files is not None or quota is None:
        return max_files
    return max(FEWEST_FILES, quota // BYTES_FOR_A_FILE)


_Result = TypeVar("_Result")

Amount = Annotated[int, Meta(ge=0, le=2**62)]
Change = Annotated[int, Meta(ge=-(2**62), le=2**62)]
Words = Annotated[str, Meta(max_length=200)]
Answer = Annotated[bytes, Meta(max_length=2**20)]
Answers = Annotated[list[tuple[Number, Answer]], Meta(max_length=4096)]
StagingName = Annotated[bytes, Meta(max_length=255)]
PiecesKey = Annotated[bytes, Meta(max_length=64)]


@dataclass
class Lease:
    """A reservation of an account's quota: bytes, and files (with directories and links)."""

    id: Annotated[str, Meta(max_length=32)]
    account_id: int
    size: Amount
    files: Amount = 0


Leases = Annotated[Sequence[Lease], Meta(max_length=4096)]


@dataclass(frozen=True)
class Resumable:
    """An upload that owns a staging file.

    Attributes:
        staging: The name of the staging file.
        size: Bytes reserved for it: the size of the complete file.
        expires: When a ``kept`` upload expires unless it is resumed, in seconds since 1970.
        kept: True if the upload was interrupted, False while a session receives it.
    """

    staging: bytes
    size: int
    expires: int
    kept: bool


@dataclass(frozen=True)
class EvictedOperation:
    """An operation that was evicted from the trash to free space.

    Attributes:
        freed: Bytes that became free. While it is being removed, and if a crash ended that: the
            bytes that it had; 0 if they are not known.
        words, key, client: See `ftpwire.messages.TrashedOperation`.
        lost: Bytes that have certainly become free. If the operation is in the trash nevertheless,
            it was evicted and made again, by a command that went on.
    """

    name: str
    freed: int
    words: str
    key: bytes | None
    client: bytes | None
    lost: int = 0


@dataclass(frozen=True)
class Settled:
    """The state of the account after a settlement.

    Attributes:
        kept: The staging files of the account's interrupted uploads.
        used: Bytes that the account uses, without its trash.
        quota: The account's quota in bytes; None if unlimited.
    """

    kept: list[bytes]
    used: int = 0
    quota: int | None = None

    @property
    def nearly_full(self) -> bool:
        """True if the user should be warned that little quota is left."""
        return self.quota is not None and self.used >= self.quota * NEARLY_FULL


class Freed(Protocol):
    """Settles what a removal has changed, before the home's lock is released. A recount, which
    holds that lock alone, so finds the store and the disk both before a change or both after it."""

    def __call__(self, freed: int, files: int, trash: int = 0, trash_files: int = 0) -> None:
        """Settle a removal.

        Args:
            freed, files: Bytes and files that became free.
            trash, trash_files: Bytes and files that are newly in the trash, and still count as
                used; negative if the trash has fewer.
        """


class LeaseStore(ABC):
    """Leases of the quota: reserve, settle, release. All that uploads and removals need.

    Methods marked with `request` can be called from another process, with the bounds in their
    annotations.

    Attributes:
        incarnation: The prefix of all names in staging directories that belong to this run.
    """

    incarnation: str

    @request
    @abstractmethod
    def reserve(
        self,
        account_id: int,
        size: Amount,
        staging: StagingName | None = None,
        *,
        files: Amount = 1,
        pieces: PiecesKey | None = None,
    ) -> Lease:
        """Hold exactly ``size`` bytes and ``files``. Durable, so that a crash is noticed later.

        Args:
            staging: The name of the staging file that the lease owns, for uploads that can be kept.
            pieces: The key under which the account's other sessions send pieces of the file.

        Raises:
            QuotaExceeded: Less is free; nothing is held.
        """

    @request
    @abstractmethod
    def take_over(
        self, account_id: int, staging: StagingName, pieces: PiecesKey | None = None
    ) -> Lease | None:
        """Make the lease that owns a staging file this session's; None if there is no such lease.

        The caller holds the file's lock. The previous owner cannot commit under the lease any more.

        Args:
            pieces: As in `reserve`.
        """

    @request
    @abstractmethod
    def find_pieces(self, account_id: int, key: PiecesKey) -> bytes | None:
        """Return the staging file of a running upload that takes pieces under a key, or None."""

    @request
    @abstractmethod
    def keep(self, held: Lease) -> None:
        """Keep the reservation of an interrupted upload, for the session that resumes it."""

    @request
    @abstractmethod
    def drop_kept(self, account_id: int, staging: StagingName) -> bool:
        """Return the reservation of a kept upload, before its staging file is removed.

        Returns:
            False if a session is using the file, which must stay.
        """

    @request
    @abstractmethod
    def resumable(self, account_id: int) -> list[Resumable]:
        """Return the uploads that own a staging file, both running and kept ones."""

    def kept_staging(self, account_id: int) -> list[bytes]:
        """Return the staging files that wait for a resume."""
        return [one.staging for one in self.resumable(account_id) if one.kept]

    @request
    @abstractmethod
    def reserve_step(self, account_id: int, size: Amount, files: Amount = 1) -> Lease:
        """Hold at least this many bytes and files, or whole steps while plenty of quota is free.

        The lease survives a power cut only once the descriptors of `to_sync` were synced, which
        must happen before the first rename under it. Until then it stands only for files in the
        home's staging directory, which each start cleans.
        """

    @request
    @abstractmethod
    def make_durable(self) -> None:
        """Make all leases so far survive a power cut, so that a crash is noticed later.

        Raises:
            OSError: The disk failed. Nothing may be left for a later clean-up under these leases.
        """

    def to_sync(self) -> Sequence[int]:
        """Return descriptors that must be synced for all leases so far to survive a power cut.

        The caller syncs its own files at the same time. A store in another process syncs by
        itself, and returns none.

        Raises:
            OSError: As `make_durable`.
        """
        self.make_durable()
        return ()

    def extend(self, held: Lease, size: int, files: int = 0) -> None:
        """Hold this many more bytes and files, or whole steps while plenty of quota is free.

        Raises:
            QuotaExceeded: Less is free; the lease is unchanged.
            LeaseLost: The lease is gone.
        """
        extended = self.extended(held, size, files)
        held.size, held.files = extended.size, extended.files

    @request
    @abstractmethod
    def extended(self, held: Lease, size: Amount, files: Amount = 0) -> Lease:
        """Do the same as `extend`, but return the new lease and leave ``held`` unchanged."""

    @request
    @abstractmethod
    def begin_commit(self, leases: Leases) -> None:
        """Announce that renames follow. The leases must be durable by then (`to_sync`).

        Raises:
            LeaseLost: One of them is gone or has expired: nothing may be stored under them.
        """

    @request
    @abstractmethod
    def settle(
        self,
        leases: Leases,
        change: Change,
        files: Change = 0,
        trash: Change = 0,
        trash_files: Change = 0,
    ) -> Settled:
        """End leases of one account, and record how many bytes and files are stored now.

        Args:
            change, files: Bytes and files stored in addition; negative if fewer are stored.
            trash, trash_files: Bytes and files newly known to be in the trash, as part of all that
                is stored; negative if fewer are.

        Raises:
            LeaseLost: A lease is gone. What was stored under it may not be acknowledged.
            DiskFull, StateError: The store cannot be written. The settlement is retried later.
        """

    def until_on_disk(self, action: Callable[[], _Result]) -> _Result:
        """Run an action that raises DiskFull if the disk is full. A store that can evict trash
        does so then, and runs it again."""
        return action()

    def settle_waiting(self) -> None:  # noqa: B027
        """Retry settlements that have failed. Only a store with the database has any."""

    def release(self, held: Lease) -> None:
        """End a lease under which nothing was stored. It may be gone already."""
        try:
            self.settle([held], 0, 0)
        except LeaseLost:
            pass  # the session that ended it has returned what it held
        except NOT_NOW as error:
            logger.warning("a reservation is returned later: %s", error)
        except Exception:  # the caller is handling another failure, which must not be hidden
            logger.exception("a reservation is returned later")

    @contextmanager
    def freeing(self, account_id: int) -> Iterator[Freed]:
        """Hold an empty lease while something is removed, so that a crash is noticed later.

        Yields:
            The function that settles the removal. If it isn't called, nothing became free and
            nothing went to the trash.
        """
        try:
            held = self.reserve(account_id, 0, files=0)
        except DiskFull:  # removing frees the disk; a crash meanwhile leaves too much counted
            held = Lease("", account_id, 0)
        settled = False

        def settle(freed: int, files: int, trash: int = 0, trash_files: int = 0) -> None:
            nonlocal settled
            settled = True
            try:
                self.settle([held], -freed, -files, trash, trash_files)
            except NOT_NOW:
                pass  # the removal has happened, and is settled later
            except LeaseLost:
                if held.id:
                    raise
            self.settle_waiting()

        try:
            yield settle
        finally:
            if not settled:
                self.release(held)


class QuotaStore(LeaseStore):
    """The quota of all accounts: their leases, their usage, and the operations of their trash."""

    @request
    @abstractmethod
    def space(self, account_id: int) -> SpaceInfo:
        """Return the account's quota and usage. Raises NotFound if the account is gone."""

    @request
    @abstractmethod
    def reserve_freed(
        self, held: Lease, freed: Amount, freed_files: Amount, size: Amount, files: Amount
    ) -> Lease:
        """Settle what became free, and hold more under a lease, in one step.

        No other session can get what this one has freed.

        Args:
            freed, freed_files: Bytes and files that became free; they no longer count as trash.
            size, files: Bytes and files needed. If less is free, as much as became free is held.

        Returns:
            The new lease; ``held`` is unchanged.

        Raises:
            LeaseLost: The lease is gone; the home is recounted.
            DiskFull, StateError: The store cannot be written; the home is recounted.
        """

    @request
    @abstractmethod
    def operation(self, account_id: int, key: OperationKey | None) -> OperationName:
        """Return the name of an operation in the trash.

        Args:
            key: The client's key for it, the same in all sessions of the account. With None, or if
                the operation is closed, evicted or older than a day, the name is a new one.
        """

    @request
    @abstractmethod
    def close_operation(self, account_id: int, name: OperationName) -> None:
        """Close an operation: nothing is added to it any more."""

    @request
    @abstractmethod
    def begin_eviction(
        self,
        account_id: int,
        name: OperationName,
        size: Amount | None = None,
        words: Words = "",
        client: OperationKey | None = None,
    ) -> None:
        """Record, durably, that an operation is going to be evicted: if it is no longer in the
        trash after a crash, that is the reason. Call it with the home's lock held, and do the
        rename before that is released: a recount drops the records of operations that are still in
        the trash. `forget_operation` completes the record.

        Args:
            size: The bytes that it has. They are reported as freed until `forget_operation` tells
                how many were, and after a crash before that. None: they are not known.
            words, client: The client's description of the operation.
        """

    @request
    @abstractmethod
    def forget_operation(
        self,
        account_id: int,
        name: OperationName,
        freed: Amount | None = None,
        words: Words = "",
        client: OperationKey | None = None,
    ) -> None:
        """Record that an operation is no longer in the trash.

        Args:
            freed: Bytes that became free by its eviction, which is remembered for a day. None: it
                was purged, or it expired.
            words, client: The client's description of an evicted operation.
        """

    @request
    @abstractmethod
    def was_evicted(self, account_id: int, name: OperationName) -> bool:
        """Return whether an operation was evicted from the trash within the last day. If it is
        still in the trash, it wasn't: its eviction has only begun."""

    @request
    @abstractmethod
    def evicted(self, account_id: int) -> list[EvictedOperation]:
        """Return the operations evicted from the trash within the last day, newest first. Those of
        them that are still in the trash were not: their eviction has only begun."""

    @request
    @abstractmethod
    def note_answers(self, account_id: int, key: OperationKey, answers: Answers) -> None:
        """Store replies to numbered requests of an operation for 15 minutes, for a client that
        did not receive them and retries."""

    @request
    @abstractmethod
    def answer(self, account_id: int, key: OperationKey, number: Number) -> bytes | None:
        """Return the stored reply to a request; None if there is none."""

    @request
    @abstractmethod
    def measure_soon(self, account_id: int) -> None:
        """Schedule the measuring of trees in the account's trash that weren't measured yet."""

    @request
    @abstractmethod
    def trash_of_all(self, account_id: int) -> int:
        """Return the bytes in the trash of all accounts on the same disk as this account's home,
        its own included: what the server evicts before that disk is full."""

    @request
    @abstractmethod
    def free_disk_space(self, account_id: int, size: Amount) -> bool:
        """Evict trash of any account until the disk has this many bytes free.

        Waits up to 30 seconds. Returns False if that much cannot be freed.
        """
