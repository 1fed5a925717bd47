"""The books as a session sees them: what it may ask about room, whoever keeps them.

Lives here: the interface, what a lease and a settlement are, and what is the same for all books.
Lives elsewhere: the books in the database (ledger.py), what a session in another process may do
with them (isolation/session_quota_store.py).
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
from ftpserver.interfaces import asked
from ftpwire.errors import DiskFull, Internal, LeaseLost
from ftpwire.messages import Number, OperationKey, OperationName, Room

logger = logging.getLogger("ftpd.ledger")

NOT_NOW = (DiskFull, StateError, Internal)
"""What a settlement raises that is made later. Internal: in another process, which logged it."""
NEARLY_FULL = 0.9
"""The part of a quota from which on users are told that little room is left."""

BYTES_FOR_A_FILE = 4096
"""Of a quota, for each file, directory or link that may be there where nobody has set a number: a
file system needs about so much for its own records of one, which are no bytes of a quota."""
FEWEST_FILES = 1000
"""So many may be there in any case."""


def most_files(quota: int | None, max_files: int | None) -> int | None:
    """How many files, directories and links an account may have; None for any number.

    Args:
        max_files: What was set; None for nothing.
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
    """A reservation of an account's room: bytes, and files (with directories and links)."""

    id: Annotated[str, Meta(max_length=32)]
    account_id: int
    size: Amount
    files: Amount = 0


Leases = Annotated[Sequence[Lease], Meta(max_length=4096)]


@dataclass(frozen=True)
class Resumable:
    """An upload that owns a staging file.

    Attributes:
        staging: That file's name.
        size: Bytes that it holds: all that the file is to have.
        expires: Seconds since 1970: how long it waits for a resume, if it is ``kept``.
        kept: It was interrupted. Else a session is at it.
    """

    staging: bytes
    size: int
    expires: int
    kept: bool


@dataclass(frozen=True)
class GivenUp:
    """An operation that was given up for want of room.

    Attributes:
        freed: Bytes that became free.
        words, key, client: See `ftpwire.messages.TrashedOperation`.
    """

    name: str
    freed: int
    words: str
    key: bytes | None
    client: bytes | None


@dataclass(frozen=True)
class Settled:
    """What a settlement has found.

    Attributes:
        kept: The staging files that are kept for the account.
        used, quota: Of the account, in bytes: what is in its trash is left out of the first; the
            second is None when unlimited.
    """

    kept: list[bytes]
    used: int = 0
    quota: int | None = None

    @property
    def nearly_full(self) -> bool:
        """Whether it is time to tell the user."""
        return self.quota is not None and self.used >= self.quota * NEARLY_FULL


class Freed(Protocol):
    """Told what a removal has changed, before the home's lock is let go of: a recount, which holds
    it alone, finds the books and the disk either both before a change or both after it."""

    def __call__(self, freed: int, files: int, trash: int = 0, trash_files: int = 0) -> None:
        """So many bytes and files became free, and so many are in the trash now that weren't
        before, and stay counted as used. Below 0: so many less are in the trash."""


class QuotaStore(ABC):
    """Reserve, settle, release, for any account.

    What is marked can be asked by another process, with the bounds that are written here.

    Attributes:
        incarnation: What names in staging begin with that belong to this run.
    """

    incarnation: str

    @asked
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
            staging: Name of the staging file that the lease owns, for uploads that can be kept.
            pieces: The key by which the account's other sessions bring pieces of it.

        Raises:
            QuotaExceeded: There is less room; nothing is held.
        """

    @asked
    @abstractmethod
    def take_over(
        self, account_id: int, staging: StagingName, pieces: PiecesKey | None = None
    ) -> Lease | None:
        """The lease that owns a staging file, now this session's; None when there is none.

        The caller holds the file. Whoever had the lease before can't commit under it any more.

        Args:
            pieces: As in `reserve`.
        """

    @asked
    @abstractmethod
    def find_pieces(self, account_id: int, key: PiecesKey) -> bytes | None:
        """The staging file of an upload under way that takes pieces by a key; None without one."""

    @asked
    @abstractmethod
    def keep(self, held: Lease) -> None:
        """Keep the room of an upload that was interrupted, for whoever resumes it."""

    @asked
    @abstractmethod
    def drop_kept(self, account_id: int, staging: StagingName) -> bool:
        """Give back the room of a kept upload, before its staging file is removed. False: a session
        is at it, and it must stay."""

    @asked
    @abstractmethod
    def resumable(self, account_id: int) -> list[Resumable]:
        """The uploads that own a staging file: those under way, and those that are kept."""

    def kept_staging(self, account_id: int) -> list[bytes]:
        """The staging files that wait for a resume."""
        return [one.staging for one in self.resumable(account_id) if one.kept]

    @asked
    @abstractmethod
    def reserve_step(self, account_id: int, size: Amount, files: Amount = 1) -> Lease:
        """Hold at least so many bytes and files, and whole steps where there is plenty of room.

        It survives a power cut once what `to_sync` names was synced, which has to be before the
        first rename under it: until then it stands for nothing but files in the home's staging,
        which each start cleans.
        """

    @asked
    @abstractmethod
    def make_durable(self) -> None:
        """Have all leases so far survive a power cut, so that a crash is noticed later.

        Raises:
            OSError: The disk can't. Nothing may be left to a later clean-up under them.
        """

    def to_sync(self) -> Sequence[int]:
        """Descriptors that have to be synced for all leases so far to survive a power cut: the
        caller syncs his files at the same time. Books in another process do it themselves.

        Raises:
            OSError: As `make_durable`.
        """
        self.make_durable()
        return ()

    def extend(self, held: Lease, size: int, files: int = 0) -> None:
        """Hold so many bytes and files more, or whole steps where there is plenty of room.

        Raises:
            QuotaExceeded: There is less room; the lease is as it was.
            LeaseLost: The lease is gone.
        """
        extended = self.extended(held, size, files)
        held.size, held.files = extended.size, extended.files

    @asked
    @abstractmethod
    def extended(self, held: Lease, size: Amount, files: Amount = 0) -> Lease:
        """The same; returns the lease as it is then, and leaves the caller's as it was."""

    @asked
    @abstractmethod
    def begin_commit(self, leases: Leases) -> None:
        """Say that renames follow. The leases survive a power cut by then (`to_sync`).

        Raises:
            LeaseLost: One is gone or lapsed: nothing may be stored under them.
        """

    @asked
    @abstractmethod
    def settle(
        self,
        leases: Leases,
        change: Change,
        files: Change = 0,
        trash: Change = 0,
        trash_files: Change = 0,
    ) -> Settled:
        """End leases of one account: so many bytes and files more (or fewer) are stored now.

        Args:
            trash, trash_files: How many more (or fewer) bytes and files of all that is stored are
                known to be in the trash now.

        Raises:
            LeaseLost: One is gone, and what it stood for may not be acknowledged.
            DiskFull, StateError: The books can't be written. It is tried again.
        """

    @asked
    @abstractmethod
    def room(self, account_id: int) -> Room:
        """The account's room. Raises NotFound when the account is gone."""

    @asked
    @abstractmethod
    def turn_into_room(
        self, held: Lease, freed: Amount, freed_files: Amount, size: Amount, files: Amount
    ) -> Lease:
        """Settle that so much became free, and hold so much more with a lease, at once: no other
        session gets what this one has freed.

        Args:
            freed, freed_files: What became free, which isn't counted as trash any more.
            size, files: What is needed. Where there is less room, as much of it is held as became
                free.

        Returns:
            The lease as it is then; the caller's is as it was.

        Raises:
            LeaseLost: The lease is gone, and the home is counted.
            DiskFull, StateError: The books can't be written; the home is counted.
        """

    @asked
    @abstractmethod
    def operation(self, account_id: int, key: OperationKey | None) -> OperationName:
        """The name in the trash of the operation that a client calls by a key: the same for all
        sessions of the account. None, and a key whose operation is closed, was given up, or is
        older than a day: a new one."""

    @asked
    @abstractmethod
    def close_operation(self, account_id: int, name: OperationName) -> None:
        """Say that nothing is added to an operation any more."""

    @asked
    @abstractmethod
    def forget_operation(
        self,
        account_id: int,
        name: OperationName,
        freed: Amount | None = None,
        words: Words = "",
        client: OperationKey | None = None,
    ) -> None:
        """Say that an operation isn't in the trash any more.

        Args:
            freed: It was given up for want of room, and so many bytes became free, which is known
                for a day. None: it was purged, or too old.
            words, client: Of one that was given up: what its client said of it.
        """

    @asked
    @abstractmethod
    def was_given_up(self, account_id: int, name: OperationName) -> bool:
        """Whether an operation was given up for want of room, within the last day."""

    @asked
    @abstractmethod
    def given_up(self, account_id: int) -> list[GivenUp]:
        """What was given up for want of room within the last day, the newest operation first."""

    @asked
    @abstractmethod
    def note_answers(self, account_id: int, key: OperationKey, answers: Answers) -> None:
        """Keep answers to numbered requests of an operation, for 15 minutes: their client may ask
        again when it didn't get them."""

    @asked
    @abstractmethod
    def answer(self, account_id: int, key: OperationKey, number: Number) -> bytes | None:
        """The answer that was given to a request; None when none is known."""

    @asked
    @abstractmethod
    def measure_soon(self, account_id: int) -> None:
        """Have the trees in the account's trash counted that aren't."""

    @asked
    @abstractmethod
    def trash_of_all(self, account_id: int) -> int:
        """Bytes in the trash of the account, and of all accounts on the same disk: what the server
        would give up before that is full."""

    @asked
    @abstractmethod
    def make_disk_room(self, account_id: int, size: Amount) -> bool:
        """Have the server give up trash of any account, until the disk has room for so many bytes.
        Waits for that, up to 30 seconds. False: there is no such room."""

    def until_on_disk(self, action: Callable[[], _Result]) -> _Result:
        """Do something that raises DiskFull when the disk has no room for it. Books that can make
        some do that, and try again."""
        return action()

    def settle_waiting(self) -> None:  # noqa: B027
        """Settle what has failed to be, unless it still does. Whoever has the database does it."""

    def release(self, held: Lease) -> None:
        """End the lease with nothing stored. Can be called for one that is gone."""
        try:
            self.settle([held], 0, 0)
        except LeaseLost:
            pass  # whoever ended it gave its room back
        except NOT_NOW as error:
            logger.warning("a reservation is given back later: %s", error)
        except Exception:  # as well; and whoever gives back has something else to tell
            logger.exception("a reservation is given back later")

    @contextmanager
    def freeing(self, account_id: int) -> Iterator[Freed]:
        """Hold a lease of nothing while something is removed: so a crash is noticed later.

        Yields what ends it, given the bytes and files that became free, and those that are in the
        trash instead. Not called: nothing did, and none are.
        """
        try:
            held = self.reserve(account_id, 0, files=0)
        except DiskFull:  # removing is what mends it; a crash just now leaves too much counted
            held = Lease("", account_id, 0)
        settled = False

        def settle(freed: int, files: int, trash: int = 0, trash_files: int = 0) -> None:
            nonlocal settled
            settled = True
            try:
                self.settle([held], -freed, -files, trash, trash_files)
            except NOT_NOW:
                pass  # it is removed all the same, and settled later
            except LeaseLost:
                if held.id:
                    raise
            self.settle_waiting()

        try:
            yield settle
        finally:
            if not settled:
                self.release(held)
