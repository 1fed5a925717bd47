"""Owners: which session writes to which staging file, and who else may bring pieces of it.

Lives here: taking a file over from another session, the keys of uploads that come in pieces,
lending pieces to other processes.
Lives elsewhere: the files (staging.py), putting pieces together (ftpwire/pieces.py), asking the
other processes of a server (processes/brokering.py).

A flock decides who has a file, also between processes. A piece that another process writes is
lent to it, with a descriptor that shares the lock: as long as anybody may write to the file,
nobody else gets it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from ftpwire.errors import Busy, LeaseLost
from ftpwire.pieces import Assembly, Piece

_TAKE_OVER_SECONDS = 5.0
LOOK_AGAIN = 0.05
"""Seconds after which a file that nobody known has is tried again."""


class Elsewhere(Protocol):
    """The other processes of the server."""

    def share(self, key: bytes, account_id: int) -> None:
        """Have pieces with a key sent here."""

    def unshare(self, key: bytes) -> None:
        """No more of them."""

    def borrow(self, account_id: int, key: bytes, offset: int, size: int) -> Piece:
        """A piece of an upload that a session of another process owns.

        Raises:
            LeaseLost: No such upload is open.
            CommandError: The piece isn't one that is missing.
        """

    def recall(self, loan: int) -> tuple[int, Exception | None]:
        """Have a borrower stop writing; returns how many bytes it wrote, and what went wrong."""

    def cut(self, device: int, inode: int, seconds: float) -> None:
        """Have a session of another process let go of a file, waiting for it as long as that."""


class Nowhere:
    """There are no other processes."""

    def share(self, key: bytes, account_id: int) -> None:
        """Nobody has to know."""

    def unshare(self, key: bytes) -> None:
        """The same."""

    def borrow(self, account_id: int, key: bytes, offset: int, size: int) -> Piece:
        """There is none to be had."""
        raise LeaseLost("no upload is open that this piece belongs to")

    def recall(self, loan: int) -> tuple[int, Exception | None]:
        """Nothing was lent."""
        return 0, None

    def cut(self, device: int, inode: int, seconds: float) -> None:
        """A process of somebody else has it, or one that is just ending."""
        time.sleep(min(seconds, LOOK_AGAIN))


@dataclass
class _Owner:
    cut: Callable[[], None]
    gone: Future[None] = field(default_factory=Future)


class Owners:
    """Which session of this process writes to which staging file.

    ``_lock`` guards ``_by_file``, ``_by_key`` and ``_lent``; it is not held while another process
    is asked. The flock decides; this only knows whom to ask to let go of it, and who lets other
    sessions of its account bring pieces.
    """

    def __init__(self, elsewhere: Elsewhere | None = None) -> None:
        self._elsewhere: Elsewhere = elsewhere or Nowhere()
        self._lock = threading.Lock()
        self._by_file: dict[tuple[int, int], _Owner] = {}
        self._by_key: dict[bytes, tuple[int, Assembly]] = {}
        self._lent: dict[int, tuple[Assembly, Piece]] = {}

    # pieces ------------------------------------------------------------------------------

    def share(self, account_id: int, assembly: Assembly) -> bytes:
        """Let other sessions of the account bring pieces; returns the key that they need."""
        key = secrets.token_bytes(16)
        with self._lock:
            self._by_key[key] = (account_id, assembly)
        self._elsewhere.share(key, account_id)
        return key

    def unshare(self, key: bytes) -> None:
        """No more pieces are taken with that key."""
        with self._lock:
            del self._by_key[key]
        self._elsewhere.unshare(key)

    def open_piece(self, account_id: int, key: bytes, offset: int, size: int) -> Piece:
        """Begin a piece of what another session of the account uploads.

        Raises:
            LeaseLost: Nothing of that account has this key (any more).
            CommandError: The piece isn't one that is missing.
        """
        with self._lock:
            mine = key in self._by_key
        if not mine:
            return self._elsewhere.borrow(account_id, key, offset, size)
        return self._assembly(account_id, key).open(offset, size)

    def _assembly(self, account_id: int, key: bytes) -> Assembly:
        with self._lock:
            owner, assembly = self._by_key.get(key, (None, None))
        if assembly is None or owner != account_id:
            raise LeaseLost("no upload is open that this piece belongs to")
        return assembly

    # asked by other processes ------------------------------------------------------------

    def lend(self, loan: int, account_id: int, key: bytes, offset: int, size: int) -> int:
        """Lend a piece; returns a descriptor to write it with.

        Args:
            loan: A number to know it by.

        Raises:
            LeaseLost, CommandError: As `open_piece`.
        """
        assembly = self._assembly(account_id, key)
        piece, fd = assembly.lend(offset, size, lambda piece: self._recall(loan, assembly, piece))
        with self._lock:
            self._lent[loan] = (assembly, piece)
        return fd

    def _recall(self, loan: int, assembly: Assembly, piece: Piece) -> None:
        count, error = self._elsewhere.recall(loan)
        try:
            assembly.given_back(piece, count, error)
        except (LeaseLost, OSError):
            pass  # of no interest to whoever has closed it
        with self._lock:
            self._lent.pop(loan, None)

    def given_back(self, loan: int, count: int, error: Exception | None) -> None:
        """A borrower has written so many bytes of its piece, and writes no more.

        Args:
            error: What stopped it.

        Raises:
            LeaseLost: The upload has ended.
            OSError: It has failed.
        """
        with self._lock:
            assembly, piece = self._lent.pop(loan, (None, None))
        if assembly is None or piece is None:
            raise LeaseLost("its upload has ended")
        assembly.given_back(piece, count, error)

    def cut(self, device: int, inode: int) -> Future[None]:
        """Have the session that has a file let go of it; done when it has, or none has it."""
        with self._lock:
            owner = self._by_file.get((device, inode))
        if owner is None:
            nobody: Future[None] = Future()
            nobody.set_result(None)
            return nobody
        owner.cut()
        return owner.gone

    # files -------------------------------------------------------------------------------

    def claim(self, fd: int, cut: Callable[[], None]) -> Callable[[], None]:
        """Take the file for this session; returns what to call when it lets go.

        A session that has it is cut off: a client that lost its connection comes again before
        the server has noticed.

        Raises:
            Busy: It doesn't let go.
        """
        info = os.fstat(fd)
        key = (info.st_dev, info.st_ino)
        mine = _Owner(cut)
        deadline = time.monotonic() + _TAKE_OVER_SECONDS
        while not self._try(fd, key, mine):
            with self._lock:
                owner = self._by_file.get(key)
            left = deadline - time.monotonic()
            if left <= 0:
                raise Busy("another session is uploading the same file")
            if owner is None:
                self._elsewhere.cut(*key, left)
                continue
            owner.cut()
            try:
                owner.gone.result(left)
            except TimeoutError:
                pass  # it is tried for a last time

        def release() -> None:
            with self._lock:
                if self._by_file.get(key) is mine:
                    del self._by_file[key]
            if not mine.gone.done():
                mine.gone.set_result(None)

        return release

    def _try(self, fd: int, key: tuple[int, int], mine: _Owner) -> bool:
        """Lock the file, and say whose it is: no third session sees one without the other."""
        with self._lock:
            if not try_lock(fd):
                return False
            self._by_file[key] = mine
            return True


def try_lock(fd: int) -> bool:
    """Lock an open file, unless somebody else has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
