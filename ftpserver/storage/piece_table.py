"""A file that several sessions write in pieces, each in a process of its own or not.

Lives here: the table of its pieces, a file beside the staging file; who writes a piece; the session
that has the upload, which hashes behind them.
Lives elsewhere: pieces that one process puts together (ftpwire/pieces.py), who has the upload
(resumable.py), finding the table by its key (ledger.py).

The table has a fixed size: a header, and a slot for each piece that was begun and isn't complete
without a gap before it. What is written once stays true: the bytes of a slot up to its ``at`` are
there. So it is read without a lock. Each record has a checksum, because it may be read while it is
written.

A lock on one byte of the table each:

- *writing*: shared while one buffer goes into the staging file, alone by who ends the table. Ending
  first sets a flag that is looked at before each buffer, so that writers who take turns can't keep
  the other out. Once it is ended nobody writes any more.
- *beginning*: alone while a slot is taken, and what is complete is merged.
- *owning*: held by the session that has the upload. Without it, nobody hashes any more.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from ftpserver.storage.file_systems import unlink_if_there
from ftpserver.storage.upload_locks import TakenOver, is_range_locked, range_locked, try_range
from ftpwire import digests, holes
from ftpwire.errors import LeaseLost, VerificationFailed
from ftpwire.holes import Hole
from ftpwire.pieces import (
    AHEAD,
    LOOK_SECONDS,
    MOST_UNDER_WAY,
    PIECE,
    Piece,
    hash_behind,
    must_be_missing,
    too_many,
)

KEY_SIZE = 16
_SUFFIX = b".pc"
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_CREATE = _OPEN | os.O_CREAT | os.O_EXCL

_HEAD = struct.Struct(">8s16sQ")
"""Magic, key, size of the file."""
_MAGIC = b"FTPDpc1\n"
_ENDED_AT = 64
_HOLES_AT = 65
_BASE_AT, _HASHED_AT, _FAILURE_AT = 72, 88, 104
_NUMBER = struct.Struct(">QI")
"""A number and its checksum."""
_SLOTS_AT = 128
_SLOT = struct.Struct(">QQQII")
"""Start, end, where the next byte is written, errno of what stopped it, checksum."""
_SIZE = _SLOTS_AT + MOST_UNDER_WAY * _SLOT.size
_WRITING, _BEGINNING, _OWNING = 0, 1, 2
"""The bytes that are locked."""
_TRIES = 1000
"""Looks at a record that is just being written."""
_SOON, _LATER, _QUIET = 0.001, 0.02, 0.2
"""Seconds between two looks: at first, while bytes come, and when none came for a while."""
_QUIET_AFTER = 50
"""Looks without a byte, until they get rarer."""
_ENDED = "its upload has ended"


def table_name(name: bytes) -> bytes:
    """The name of the table beside a staging file."""
    return name + _SUFFIX


def staging_of_table(name: bytes) -> bytes:
    """The staging file whose table has that name; another name as it is."""
    return name.removesuffix(_SUFFIX)


def end_table(directory: int, name: bytes, staging: int, size: int | None) -> None:
    """End the table of a staging file, if there is one. See `PieceTable.end`.

    For who holds the lock of the staging file. Raises Busy when a writer doesn't let go of it.
    """
    try:
        table = PieceTable(os.open(table_name(name), _OPEN, dir_fd=directory))
    except FileNotFoundError:
        return
    try:
        table.end(directory, name, staging, size)
    finally:
        table.close()


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece that was begun. ``at``: where its next byte goes; ``errno``: why it stopped, or 0."""

    start: int
    end: int
    at: int
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """What a table says at one moment, or less of it.

    Attributes:
        base: Bytes that are complete without a gap.
        slots: Pieces behind it, by their numbers.
    """

    ended: bool
    base: int
    hashed: int
    slots: dict[int, Slot]

    def complete(self) -> int:
        """How many bytes whole pieces fill without a gap."""
        ends = {one.start: one.end for one in self.slots.values() if one.at == one.end}
        at = self.base
        while at in ends:
            at = ends[at]
        return at

    def frontier(self) -> int:
        """How many bytes are there without a gap."""
        at = self.complete()
        return max((one.at for one in self.slots.values() if one.start == at), default=at)

    def received(self) -> int:
        """How many bytes there are, wherever they belong."""
        behind = (one for one in self.slots.values() if one.start >= self.base)
        return self.base + sum(one.at - one.start for one in behind)


class PieceTable:
    """An open table. It belongs to one session; for its threads.

    Args:
        fd: Belongs to this from now on.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0

    @classmethod
    def create(
        cls, directory: int, name: bytes, new_name: bytes, key: bytes, size: int, base: int
    ) -> PieceTable:
        """Make the table of a staging file that has ``base`` bytes, and own it.

        For who has the upload, in a step of it: no other table is there.
        """
        table = cls(os.open(new_name, _CREATE, 0o600, dir_fd=directory))
        try:
            table.size = size
            os.pwrite(table.fd, bytes(_SIZE), 0)  # its blocks are there before they are needed
            table.write(0, _HEAD.pack(_MAGIC, key, size))
            table.put_base(base)
            table.put_hashed(base)
            if not try_range(table.fd, _OWNING):
                raise AssertionError("a new file is locked")
            os.rename(new_name, table_name(name), src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            table.close()
            unlink_if_there(directory, new_name)
            raise
        return table

    @classmethod
    def open(cls, directory: int, name: bytes, key: bytes) -> PieceTable:
        """Open the table of a staging file. Raises LeaseLost when it isn't the one of the key."""
        try:
            table = cls(os.open(table_name(name), _OPEN, dir_fd=directory))
        except FileNotFoundError:
            raise LeaseLost(_ENDED) from None
        try:
            magic, its_key, table.size = _HEAD.unpack(os.pread(table.fd, _HEAD.size, 0))
            if (magic, its_key) != (_MAGIC, key):
                raise LeaseLost(_ENDED)
        except struct.error:
            table.close()
            raise LeaseLost(_ENDED) from None
        except BaseException:
            table.close()
            raise
        return table

    def close(self) -> None:
        """Give the descriptor back. Can be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    # records -----------------------------------------------------------------------------

    def write(self, at: int, record: bytes) -> None:
        """Write a record, in one call."""
        os.pwrite(self.fd, record, at)

    def put_base(self, base: int) -> None:
        """Write how many bytes are complete without a gap."""
        self.write(_BASE_AT, _number(base))

    def put_hashed(self, at: int) -> None:
        """Write how many bytes are hashed."""
        self.write(_HASHED_AT, _number(at))

    def put_slot(self, number: int, slot: Slot) -> None:
        """Write a slot."""
        body = _SLOT.pack(slot.start, slot.end, slot.at, slot.errno, 0)[:-4]
        self.write(_slot_at(number), body + zlib.crc32(body).to_bytes(4, "big"))

    def note_holes(self) -> None:
        """Say that there are holes. So the staging file may be shorter than what is there."""
        self.write(_HOLES_AT, b"\1")

    def has_holes(self) -> bool:
        """Whether that was said."""
        return os.pread(self.fd, 1, _HOLES_AT) == b"\1"

    def free_slot(self, number: int) -> None:
        """Have a slot be nobody's."""
        self.write(_slot_at(number), bytes(_SLOT.size))

    def _head(self) -> tuple[bool, int, int]:
        """Whether it was ended, errno of what it failed by or 0, and how many bytes are hashed."""
        for _ in range(_TRIES):
            data = os.pread(self.fd, _SLOTS_AT, 0)
            hashed = _number_in(data, _HASHED_AT)
            if hashed is not None:
                return data[_ENDED_AT] != 0, _number_in(data, _FAILURE_AT) or 0, hashed
        raise _damaged()

    def look(self, *, all_slots: bool = False) -> Look:
        """What it says now. Slots that are just being written are left out.

        Args:
            all_slots: Leave out none.
        """
        for _ in range(_TRIES):
            data = os.pread(self.fd, _SIZE, 0)
            if len(data) < _SLOTS_AT:
                break
            base, hashed = _number_in(data, _BASE_AT), _number_in(data, _HASHED_AT)
            slots, whole = _slots_in(data)
            if base is not None and hashed is not None and (whole or not all_slots):
                return Look(data[_ENDED_AT] != 0, base, hashed, slots)
        raise _damaged()

    # steps -------------------------------------------------------------------------------

    def is_owned(self) -> bool:
        """Whether a session still has the upload and this table."""
        return is_range_locked(self.fd, _OWNING)

    def must_go_on(self) -> int:
        """How many bytes are hashed. Raises LeaseLost: it was ended; OSError: by that."""
        ended, failure, hashed = self._head()
        if ended and failure:
            raise OSError(failure, os.strerror(failure))
        if ended:
            raise LeaseLost(_ENDED)
        return hashed

    def begin(self, start: int, size: int) -> int:
        """Take a slot for a piece; returns its number.

        Raises:
            LeaseLost: It was ended, or its owner has died.
            CommandError: It lies beyond the file, or where another one is.
        """
        with range_locked(self.fd, _BEGINNING):
            self.must_go_on()
            if not self.is_owned():
                raise LeaseLost(_ENDED)
            look = self.look(all_slots=True)
            base = look.complete()
            if base != look.base:
                self.put_base(base)  # before the slots: who dies in between has lost none
            for number, one in list(look.slots.items()):
                if one.end <= base:
                    self.free_slot(number)
                    del look.slots[number]
            others = ((one.start, one.end) for one in look.slots.values())
            must_be_missing(start, start + size, base, self.size, others)
            free = next((at for at in range(MOST_UNDER_WAY) if at not in look.slots), None)
            if free is None:
                raise too_many()
            self.put_slot(free, Slot(start, start + size, start))
            return free

    def end(self, directory: int, name: bytes, staging: int, size: int | None = None) -> None:
        """End it, and remove it: nobody writes any more then, and the staging file has no gap.

        Args:
            staging: The staging file.
            size: How many of its bytes count; None: as many as are there without a gap. A table
                that a power cut has left isn't asked: it was never synced.
        """
        self.stop()
        with range_locked(self.fd, _WRITING):
            # before it goes: who dies in between leaves no file whose gaps nobody knows of
            os.ftruncate(staging, self.look().frontier() if size is None else size)
            unlink_if_there(directory, table_name(name))

    def stop(self, failure: int = 0) -> None:
        """Have those who write stop before their next buffer; some may be writing one.

        Args:
            failure: errno of what made it fail, which they are told.
        """
        if failure:
            self.write(_FAILURE_AT, _number(failure))
        self.write(_ENDED_AT, b"\1")


def _slot_at(number: int) -> int:
    return _SLOTS_AT + number * _SLOT.size


def _number(value: int) -> bytes:
    body = value.to_bytes(8, "big")
    return _NUMBER.pack(value, zlib.crc32(body))


def _number_in(data: bytes, at: int) -> int | None:
    if len(data) < at + _NUMBER.size:
        return None
    value, seal = _NUMBER.unpack_from(data, at)
    return int(value) if zlib.crc32(data[at : at + 8]) == seal else None


def _slots_in(data: bytes) -> tuple[dict[int, Slot], bool]:
    """The slots, and whether none of them was just being written."""
    slots, whole = {}, True
    used = len(data.rstrip(b"\0"))
    for number in range(max(0, -(-(used - _SLOTS_AT) // _SLOT.size))):
        at = _slot_at(number)
        record = data[at : at + _SLOT.size].ljust(_SLOT.size, b"\0")
        start, end, here, failure, seal = _SLOT.unpack(record)
        if zlib.crc32(record[:-4]) == seal and start <= here <= end and start < end:
            slots[number] = Slot(start, end, here, failure)
        elif record.strip(b"\0"):
            whole = False
    return slots, whole


def _damaged() -> OSError:
    return OSError(errno.EIO, "the table of an upload's pieces is damaged")


# who brings pieces ---------------------------------------------------------------------------


class Contributor:
    """A session that brings pieces of what another one uploads. For its thread.

    Raises (by ``open``):
        LeaseLost: That upload has ended.
    """

    def __init__(self, key: bytes, table: PieceTable, fd: int) -> None:
        self.key = key
        self._table = table
        self._fd = fd

    @classmethod
    def open(cls, directory: int, name: bytes, key: bytes) -> Contributor:
        """Open the staging file and its table."""
        table = PieceTable.open(directory, name, key)
        try:
            try:
                fd = os.open(name, _OPEN, dir_fd=directory)
            except FileNotFoundError:
                raise LeaseLost(_ENDED) from None
            contributor = cls(key, table, fd)
        except BaseException:
            table.close()
            raise
        try:
            # the name leads to another file only after the table was ended: so it's the right one
            table.must_go_on()
        except BaseException:
            contributor.close()
            raise
        return contributor

    def close(self) -> None:
        """Give everything back. Can be called twice."""
        self._table.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def begin(self, start: int, size: int) -> Piece:
        """Begin a piece. Raises as `PieceTable.begin`."""
        number = self._table.begin(start, size)
        return Piece(_SlotWriter(self._table, self._fd, number), start, start + size)


@dataclass(frozen=True)
class _SlotWriter:
    """Writes one piece."""

    table: PieceTable
    fd: int
    number: int

    def write(self, piece: Piece, data: memoryview | Hole) -> None:
        """Write what comes next in a piece. Waits while hashing is far behind.

        Raises:
            LeaseLost: The upload has ended.
            VerificationFailed: It is more than the piece has.
            OSError: Writing failed.
        """
        count = len(data)
        if count > piece.end - piece.at:
            raise VerificationFailed("more bytes came than the piece has")
        if not count:
            return  # the slot may be another piece's by now
        self._wait_for_hash(piece.at)
        with range_locked(self.table.fd, _WRITING, shared=True):
            self.table.must_go_on()
            written, failure = 0, 0
            try:
                if isinstance(data, Hole):
                    self.table.note_holes()
                    holes.leave(self.fd, piece.at, piece.at + count)
                    written = count
                else:
                    while written < count:
                        written += os.pwrite(self.fd, data[written:], piece.at + written)
            except OSError as error:
                failure = error.errno or errno.EIO
                raise
            finally:
                piece.at += written
                self.table.put_slot(self.number, Slot(piece.start, piece.end, piece.at, failure))

    def _wait_for_hash(self, at: int) -> None:
        """Wait, without any lock, while much is there without a gap that isn't hashed."""
        pause = _SOON
        while True:
            hashed = self.table.must_go_on()
            if at - hashed <= AHEAD or self.table.look().frontier() - hashed <= AHEAD:
                return
            if not self.table.is_owned():
                raise LeaseLost(_ENDED)
            time.sleep(pause)
            pause = min(2 * pause, _LATER)


# who has the upload --------------------------------------------------------------------------


class Collector:
    """The bytes of one file that others bring, as the session has them that has the upload.

    A thread looks at the table, and hashes what is there without a gap. ``finish`` ends the table.

    ``_wake`` is set once the thread has to look at once; ``_frontier`` and ``_received`` are
    changed by whoever looks, and only ever grow.

    Args:
        table: Belongs to this from now on.
        fd: Of the staging file.
        offset: Bytes that are there already; ``hasher`` has hashed them.
        on_step: See `hash_behind`.
        end: Ends the table, as a step of the upload.
        on_end: Called once somebody else has ended the table; by the thread.
    """

    def __init__(
        self,
        table: PieceTable,
        fd: int,
        offset: int,
        hasher: digests.new,
        on_step: Callable[[int, bytes], None],
        end: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.given_up = False
        self._table = table
        self._fd = fd
        self._hasher = hasher
        self._on_step = on_step
        self._end = end
        self._on_end = on_end
        self._frontier = self._received = self._hashed = self._told = offset
        self._error: Exception | None = None
        self._closed = False
        """The table was ended: what it says is the last word."""
        self._ending = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="hash-behind", daemon=True)
        self._thread.start()

    @property
    def frontier(self) -> int:
        """How many bytes are there without a gap, as far as it was looked."""
        return self._frontier

    @property
    def received(self) -> int:
        """Bytes that came, wherever they belong."""
        self._received = max(self._received, self._table.look().received())
        return self._received

    def finish(self, progress: Callable[[int], None] | None = None) -> bytes:
        """End the table, and hash what is there without a gap: up to ``frontier``.

        Args:
            progress: Told the bytes hashed so far, now and then; may raise.

        Raises:
            LeaseLost, Busy: It can't be ended.
            OSError: Writing, reading, or ``on_step`` failed.
        """
        if not self._closed:
            self._ending = True
            try:
                self._end()
            except BaseException:
                self.stop()
                raise
            self._closed = True
            self._wake.set()
        while self._thread.is_alive():
            self._thread.join(LOOK_SECONDS)
            if progress is not None:
                progress(self._hashed)
        if self._error is not None:
            raise self._error
        return self._hasher.digest()

    def stop(self) -> None:
        """Give it up: end the thread, and give the table back. Can be called twice."""
        self.given_up = self._ending = True
        self._wake.set()
        self._thread.join()
        if self._table.fd >= 0 and not self._closed:
            self._stop_others()
        self._table.close()

    def _stop_others(self, error: Exception | None = None) -> None:
        failure = error.errno if isinstance(error, OSError) else None
        try:
            self._table.stop(failure or 0)
        except OSError:
            pass  # who goes on writes to what is dropped

    # the hash that follows ---------------------------------------------------------------

    def _follow(self) -> None:
        try:
            hash_behind(self._fd, self._hashed, self._hasher, self, self._on_step)
        except Exception as error:  # whatever it is: who waits for the digest hears of it
            self._error = error
            self._ending = True
            self._stop_others(error)

    def wait_for_more(self, at: int) -> int:
        """See `ftpwire.pieces.Followed`."""
        pause, quiet = _SOON, 0
        while not self.given_up:
            closed, before = self._closed, self._received
            look = self._look()
            if self._frontier > at:
                return self._frontier
            if closed:
                break
            if look.ended and not self._ending:
                self._on_end()
                raise TakenOver(_ENDED)
            if self._told < at:
                self._tell(at)
            quiet = 0 if self._received != before else quiet + 1
            self._wake.wait(pause)
            pause = min(2 * pause, _LATER if quiet < _QUIET_AFTER else _QUIET)
        return at

    def _look(self) -> Look:
        look = self._table.look()
        self._frontier = max(self._frontier, look.frontier())
        self._received = max(self._received, look.received())
        for one in look.slots.values():
            if one.errno:
                raise OSError(one.errno, os.strerror(one.errno))
        return look

    def note_hashed(self, at: int) -> None:
        """See `ftpwire.pieces.Followed`."""
        self._hashed = at
        if at - self._told >= PIECE:
            self._tell(at)

    def has_holes(self) -> bool:
        """See `ftpwire.pieces.Followed`."""
        return self._table.has_holes()

    def _tell(self, at: int) -> None:
        self._told = at
        self._table.put_hashed(at)
