"""Brokering: sessions of several processes work on one upload, through the process above them.

Lives here: what is asked about staging files and pieces, passing it on, and a process's hold on
the pieces that it has borrowed.
Lives elsewhere: files and pieces of one process (storage/upload_locks.py), how processes ask
(rpc.py), which ones there are (supervisor.py).

The bytes of a piece are written by whoever receives them, straight to where they belong. The owner
of the upload lends the place and a descriptor, and hears when it is written: two questions for a
piece. It can have it back at any time, and who has a piece then stops, and closes the descriptor.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ftpserver.processes.rpc import Carried, Nothing, Peer, PeerGone
from ftpserver.storage.upload_locks import LOOK_AGAIN, Owners
from ftpwire.errors import Internal, LeaseLost
from ftpwire.pieces import Piece

logger = logging.getLogger("ftpd.brokering")

Size = Annotated[int, Meta(ge=0)]
Key = Annotated[bytes, Meta(max_length=64)]


class Share(msgspec.Struct, frozen=True, tag="share"):
    """Have pieces with a key sent to who says this. Answer: `Nothing`."""

    key: Key
    account_id: int


class Unshare(msgspec.Struct, frozen=True, tag="unshare"):
    """No more of them. Told."""

    key: Key


class Borrow(msgspec.Struct, frozen=True, tag="borrow"):
    """Begin a piece. Answer: `Lent`, with a descriptor to write with; or what `Owners.lend` raises.

    Attributes:
        loan: Chosen by the borrower; nobody else has it.
    """

    loan: int
    account_id: int
    key: Key
    offset: Size
    size: Size


class Lent(msgspec.Struct, frozen=True, tag="lent"):
    """The piece is the borrower's, until it gives it back."""


class GiveBack(msgspec.Struct, frozen=True, tag="give-back"):
    """Nothing more is written. Answer: `Nothing`; or what `Owners.given_back` raises.

    Attributes:
        count: Bytes that were written.
        errno: What writing failed with; 0 when it didn't.
    """

    loan: int
    count: Size
    errno: int = 0


class Recall(msgspec.Struct, frozen=True, tag="recall"):
    """Stop writing a piece. Answer: `GiveBack`, once nothing is written any more."""

    loan: int


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """Have whoever has a file let go of it. Answer: `Nothing`, once it is so, or none has it."""

    device: int
    inode: int


Brokered = Share | Unshare | Borrow | GiveBack | Recall | Cut
"""What processes ask the one above them, and that one passes on."""
BrokeredAnswer = Lent | GiveBack


def _error_of(said: GiveBack) -> OSError | None:
    return OSError(said.errno, os.strerror(said.errno)) if said.errno else None


# the process above them ------------------------------------------------------------------------


class Broker:
    """Passes on what processes ask each other. Nothing here waits for anybody.

    ``_lock`` guards everything.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: dict[int, Peer] = {}
        self._keys: dict[bytes, tuple[int, int]] = {}
        """Of uploads that come in pieces: the process that owns it, and the account."""
        self._loans: dict[int, tuple[int, int]] = {}
        """Of pieces: the process that owns it, and the one that has it."""

    def join(self, number: int, peer: Peer) -> None:
        """There is another process, with a number of its own."""
        with self._lock:
            self._peers[number] = peer

    def leave(self, number: int) -> None:
        """A process has ended: what it has borrowed comes back, what it has lent is recalled."""
        with self._lock:
            self._peers.pop(number, None)
            self._keys = {key: one for key, one in self._keys.items() if one[0] != number}
            loans = [(loan, *ends) for loan, ends in self._loans.items() if number in ends]
            for loan, _, _ in loans:
                del self._loans[loan]
            asked = [
                (self._peers.get(borrower), Recall(loan))
                if owner == number
                else (self._peers.get(owner), GiveBack(loan, 0))
                for loan, owner, borrower in loans
            ]
        for peer, question in asked:
            if peer is not None:
                peer.ask_later(question).add_done_callback(_forget)

    def handle(self, number: int, question: Any) -> Future[Carried] | None:
        """Answer what a process asks: a Future that is done when another one has answered."""
        match question:
            case Share(key, account_id):
                with self._lock:
                    self._keys[key] = (number, account_id)
            case Unshare(key):
                with self._lock:
                    if self._keys.get(key, (None,))[0] == number:
                        del self._keys[key]
            case Borrow():
                return self._borrow(number, question)
            case GiveBack(loan):
                with self._lock:
                    owner, borrower = self._loans.get(loan, (None, None))
                    if borrower == number:
                        del self._loans[loan]
                if borrower != number or owner is None:
                    raise LeaseLost("its upload has ended")
                return self._ask(owner, question)
            case Recall(loan):
                with self._lock:
                    owner, borrower = self._loans.get(loan, (None, None))
                if owner != number or borrower is None:
                    return _answered(GiveBack(loan, 0))  # it has come back meanwhile
                return self._ask(borrower, question)
            case Cut():
                with self._lock:
                    others = [peer for one, peer in self._peers.items() if one != number]
                return _all_of([peer.ask_later(question) for peer in others])
            case _:
                raise TypeError(f"{type(question).__name__} is not for a broker")
        return None

    def _borrow(self, number: int, question: Borrow) -> Future[Carried]:
        with self._lock:
            owner, account_id = self._keys.get(question.key, (None, None))
            if owner is None or account_id != question.account_id or question.loan in self._loans:
                raise LeaseLost("no upload is open that this piece belongs to")
            peer = self._peers.get(owner)
            if peer is None:
                raise LeaseLost("its upload has ended")
            self._loans[question.loan] = (owner, number)
        lent = peer.ask_later(question)
        lent.add_done_callback(lambda done: self._lent(question.loan, done))
        return lent

    def _lent(self, loan: int, done: Future[Carried]) -> None:
        if done.exception() is not None:
            with self._lock:
                self._loans.pop(loan, None)

    def _ask(self, number: int, question: Brokered) -> Future[Carried]:
        with self._lock:
            peer = self._peers.get(number)
        if peer is None:
            raise LeaseLost("its upload has ended")
        return peer.ask_later(question)


def _forget(done: Future[Carried]) -> None:
    if done.exception() is None:
        done.result().close()


def _answered(answer: msgspec.Struct) -> Future[Carried]:
    future: Future[Carried] = Future()
    future.set_result(Carried(answer, []))
    return future


def _all_of(futures: Iterable[Future[Carried]]) -> Future[Carried] | None:
    """Done when all are, however they end."""
    waiting = list(futures)
    if not waiting:
        return None
    whole: Future[Carried] = Future()
    left = itertools.count(len(waiting) - 1, -1)

    def one_done(done: Future[Carried]) -> None:
        _forget(done)
        if not next(left):
            whole.set_result(Carried(Nothing(), []))

    for future in waiting:
        future.add_done_callback(one_done)
    return whole


# a process below ---------------------------------------------------------------------------------


class Colleagues:
    """The other processes, as one of them sees them (see owners.Elsewhere). For many threads.

    ``_lock`` guards ``_borrowed``.

    Args:
        number: Of this process, that none of its colleagues has.
        peer: The process above.
    """

    def __init__(self, number: int, peer: Peer) -> None:
        self.owners = Owners(self)
        self._peer = peer
        self._lock = threading.Lock()
        self._loans = itertools.count(number << 32)
        self._borrowed: dict[int, _Loan] = {}

    # asking ------------------------------------------------------------------------------

    def share(self, key: bytes, account_id: int) -> None:
        """Have pieces with a key sent here. Raises PeerGone."""
        self._peer.ask(Share(key, account_id))

    def unshare(self, key: bytes) -> None:
        """No more of them."""
        try:
            self._peer.tell(Unshare(key))
        except PeerGone:
            pass  # and this process is at its end

    def borrow(self, account_id: int, key: bytes, offset: int, size: int) -> Piece:
        """A piece of an upload that another process owns. Raises LeaseLost, CommandError."""
        number = next(self._loans)
        loan = _Loan(number, self._peer, self._return)
        with self._lock:
            self._borrowed[number] = loan
        try:
            question = Borrow(number, account_id, key, offset, size)
            carried = self._peer.fetch(question, Lent)
            try:
                loan.begin(carried.descriptors)
            finally:
                carried.close()
        except Internal as error:  # its process has ended just now
            self._return(loan)
            raise LeaseLost("its upload has ended") from error
        except BaseException:
            self._return(loan)
            raise
        return _BorrowedPiece(loan, offset, offset + size)

    def _return(self, loan: _Loan) -> None:
        with self._lock:
            self._borrowed.pop(loan.number, None)

    def recall(self, loan: int) -> tuple[int, Exception | None]:
        """Have a borrower stop writing."""
        try:
            back = self._peer.ask(Recall(loan), GiveBack)
        except Internal:  # the borrower has ended
            return 0, None
        return back.count, _error_of(back)

    def cut(self, device: int, inode: int, seconds: float) -> None:
        """Have a session of another process let go of a file."""
        try:
            self._peer.ask(Cut(device, inode), timeout=seconds)
        except TimeoutError:
            pass  # it is tried for a last time
        time.sleep(min(seconds, LOOK_AGAIN))  # a process that is just ending is asked no more

    # asked -------------------------------------------------------------------------------

    def handle(self, question: Any) -> Any:
        """Answer what a colleague asks. May wait."""
        match question:
            case Borrow(loan, account_id, key, offset, size):
                return Carried(Lent(), [self.owners.lend(loan, account_id, key, offset, size)])
            case GiveBack(loan, count):
                self.owners.given_back(loan, count, _error_of(question))
            case Recall(number):
                with self._lock:
                    borrowed = self._borrowed.pop(number, None)
                return GiveBack(number, 0) if borrowed is None else borrowed.end()
            case Cut(device, inode):
                return self.owners.cut(device, inode)
            case _:
                raise TypeError(f"{type(question).__name__} is not for a colleague")
        return None


class _Loan:
    """A piece that this process writes for another one. ``_lock`` guards all that changes."""

    def __init__(self, number: int, peer: Peer, on_return: Callable[[_Loan], None]) -> None:
        self.number = number
        self._peer = peer
        self._on_return = on_return
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._fd = -1
        self._writing = False
        self._over = False
        self._told = False
        self._count = 0
        self._errno = 0

    def begin(self, descriptors: list[int]) -> None:
        """Write with a descriptor from now on. Raises LeaseLost: it was recalled already."""
        with self._lock:
            if self._over:
                raise LeaseLost("its upload has ended")
            self._fd = descriptors.pop()

    def write(self, piece: Piece, data: memoryview) -> None:
        """Write what comes next. Raises LeaseLost, OSError."""
        with self._lock:
            if self._over:
                raise LeaseLost("its upload has ended")
            self._writing = True
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], piece.at + written)
        except OSError as error:
            self._errno = error.errno or 0
            raise
        finally:
            piece.at += written
            with self._lock:
                self._count += written
                self._writing = False
                self._idle.notify_all()

    def end(self) -> GiveBack:
        """Have nothing written any more, and close the descriptor. Can be called twice."""
        with self._lock:
            self._over = True
            while self._writing:
                self._idle.wait()
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        return GiveBack(self.number, self._count, self._errno)

    def give_back(self) -> None:
        """Tell the owner what was written. Only the first time. Raises LeaseLost, OSError."""
        with self._lock:
            told, self._told = self._told, True
        if not told:
            said = self.end()
            self._on_return(self)
            try:
                self._peer.ask(said)
            except Internal as error:
                raise LeaseLost("its upload has ended") from error


class _BorrowedPiece(Piece):
    """A piece that goes into another process's file."""

    def __init__(self, loan: _Loan, start: int, end: int) -> None:
        super().__init__(loan, start, end)
        self._loan = loan

    def finish(self) -> None:
        super().finish()
        self._loan.give_back()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._loan.give_back()
        except (LeaseLost, OSError):
            pass  # that it didn't come whole is known already
