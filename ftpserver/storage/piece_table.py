"""An upload in pieces: one staging file that several sessions write to, also in several processes.

Lives here: the table of the pieces, which is a file beside the staging file; sessions that write
pieces; the session that owns the upload, which hashes the bytes as they become complete.
Lives elsewhere: pieces collected within one process (ftpwire/pieces.py), the ownership of an upload
(resumable.py), finding the table by its key (ledger.py).

The table has a fixed size: a header, and a slot for each piece that was begun and doesn't yet
follow complete bytes without a gap. What was written once stays true: all bytes of a slot up to its
``at`` have arrived. So it is read without a lock. Each record has a checksum, because it may be
read while it is being written.

Three locks, each on one byte of the table:

- *writing*: held shared while one buffer is written to the staging file, and alone to end the
  table. Ending first sets a flag that writers check before each buffer, so that writers who take
  turns cannot keep the lock busy. After the end nothing is written any more.
- *beginning*: held alone while a slot is taken, and complete pieces are merged.
- *owning*: held by the session that owns the upload. If it isn't held, nothing is hashed any more.
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
"""Magic, key, size of the complete file."""
_MAGIC = b"FTPDpc1\n"
_ENDED_AT = 64
_HOLES_AT = 65
_BASE_AT, _HASHED_AT, _FAILURE_AT = 72, 88, 104
_NUMBER = struct.Struct(">QI")
"""A number and its checksum."""
_SLOTS_AT = 128
_SLOT = struct.Struct(">QQQII")
"""Start, end, offset of the next byte, errno of a failure or 0, checksum."""
_SIZE = _SLOTS_AT + MOST_UNDER_WAY * _SLOT.size
_WRITING, _BEGINNING, _OWNING = 0, 1, 2
"""The offsets of the bytes that are locked."""
_TRIES = 1000
"""Attempts to read a record that may be being written."""
_SOON, _LATER, _QUIET = 0.001, 0.02, 0.2
"""Seconds between two looks at the table: at first, while bytes arrive, and when none do."""
_QUIET_AFTER = 50
"""The number of looks without a new byte after which they become rarer."""
_ENDED = "its upload has ended"


def table_name(name: bytes) -> bytes:
    """Return the name of the table beside a staging file."""
    return name + _SUFFIX


def staging_of_table(name: bytes) -> bytes:
    """Return the staging file that a table belongs to; any other name unchanged."""
    return name.removesuffix(_SUFFIX)


def end_table(directory: int, name: bytes, staging: int, size: int | None) -> None:
    """End the table of a staging file, if there is one. See `PieceTable.end`.

    The caller holds the lock of the staging file. Raises Busy if a writer doesn't stop in time.
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
    """A piece that was begun. ``at``: the offset of its next byte; ``errno``: its failure, or 0."""

    start: int
    end: int
    at: int
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """The contents of a table at one moment. Slots being written may be missing.

    Attributes:
        ended: True if the table was ended.
        base: The number of bytes from the start that are complete.
        hashed: The number of bytes from the start that are hashed.
        slots: The pieces behind ``base``, by number.
    """

    ended: bool
    base: int
    hashed: int
    slots: dict[int, Slot]

    def complete(self) -> int:
        """Return how many bytes from the start are covered by complete pieces."""
        ends = {one.start: one.end for one in self.slots.values() if one.at == one.end}
        at = self.base
        while at in ends:
            at = ends[at]
        return at

    def frontier(self) -> int:
        """Return how many bytes from the start have arrived without a gap."""
        at = self.complete()
        return max((one.at for one in self.slots.values() if one.start == at), default=at)

    def received(self) -> int:
        """Return how many bytes have arrived in total."""
        behind = (one for one in self.slots.values() if one.start >= self.base)
        return self.base + sum(one.at - one.start for one in behind)


class PieceTable:
    """An open table. It belongs to one session, for all of its threads.

    Args:
        fd: The table's descriptor, which this object closes.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0

    @classmethod
    def create(
        cls, directory: int, name: bytes, new_name: bytes, key: bytes, size: int, base: int
    ) -> PieceTable:
        """Make the table of a staging file that has ``base`` bytes, and own it.

        The caller owns the upload, and is in a step of it: so no other table exists.
        """
        table = cls(os.open(new_name, _CREATE, 0o600, dir_fd=directory))
        try:
            table.size = size
            os.pwrite(table.fd, bytes(_SIZE), 0)  # allocates all blocks now
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
        """Open the table of a staging file. Raises LeaseLost if its key is another one."""
        try:
            table = cls(os.open(table_name(name), _OPEN, dir_fd=directory))
        except FileNotFoundError:
            raise LeaseLost(_ENDED) from None
        try:
            magic, found_key, table.size = _HEAD.unpack(os.pread(table.fd, _HEAD.size, 0))
            if (magic, found_key) != (_MAGIC, key):
                raise LeaseLost(_ENDED)
        except struct.error:
            table.close()
            raise LeaseLost(_ENDED) from None
        except BaseException:
            table.close()
            raise
        return table

    def close(self) -> None:
        """Close the descriptor. Can be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    # records -----------------------------------------------------------------------------

    def write(self, at: int, record: bytes) -> None:
        """Write a record, in one call."""
        os.pwrite(self.fd, record, at)

    def put_base(self, base: int) -> None:
        """Write the number of bytes from the start that are complete."""
        self.write(_BASE_AT, _number(base))

    def put_hashed(self, at: int) -> None:
        """Write the number of bytes from the start that are hashed."""
        self.write(_HASHED_AT, _number(at))

    def put_slot(self, number: int, slot: Slot) -> None:
        """Write a slot."""
        body = _SLOT.pack(slot.start, slot.end, slot.at, slot.errno, 0)[:-4]
        self.write(_slot_at(number), body + zlib.crc32(body).to_bytes(4, "big"))

    def note_holes(self) -> None:
        """Record that the file has holes. Then it may be shorter than its pieces say."""
        self.write(_HOLES_AT, b"\1")

    def has_holes(self) -> bool:
        """Return whether the file has holes."""
        return os.pread(self.fd, 1, _HOLES_AT) == b"\1"

    def free_slot(self, number: int) -> None:
        """Mark a slot as free."""
        self.write(_slot_at(number), bytes(_SLOT.size))

    def _head(self) -> tuple[bool, int, int]:
        """Return True if it was ended, the errno of its failure or 0, and its hashed bytes."""
        for _ in range(_TRIES):
            data = os.pread(self.fd, _SLOTS_AT, 0)
            hashed = _number_in(data, _HASHED_AT)
            if hashed is not None:
                return data[_ENDED_AT] != 0, _number_in(data, _FAILURE_AT) or 0, hashed
        raise _damaged()

    def look(self, *, all_slots: bool = False) -> Look:
        """Read the table. Slots that are being written at this moment are left out.

        Args:
            all_slots: True to read again until no slot is left out.
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
        """Return whether a session still owns the upload and this table."""
        return is_range_locked(self.fd, _OWNING)

    def must_go_on(self) -> int:
        """Return the number of hashed bytes. If the table was ended: raise OSError if that was by a
        failure, else LeaseLost."""
        ended, failure, hashed = self._head()
        if ended and failure:
            raise OSError(failure, os.strerror(failure))
        if ended:
            raise LeaseLost(_ENDED)
        return hashed

    def begin(self, start: int, size: int) -> int:
        """Take a slot for a piece; return its number.

        Raises:
            LeaseLost: The table was ended, or its owner has died.
            CommandError: The piece is beyond the end of the file, or overlaps another piece.
        """
        with range_locked(self.fd, _BEGINNING):
            self.must_go_on()
            if not self.is_owned():
                raise LeaseLost(_ENDED)
            look = self.look(all_slots=True)
            base = look.complete()
            if base != look.base:
                # before the slots are freed: a process that dies in between loses no piece
                self.put_base(base)
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
        """End the table and remove it. After that nothing is written, and the file has no gap.

        Args:
            staging: The descriptor of the staging file.
            size: The size to cut it to; None: up to the first gap. It is given where a table may
                have survived a power cut: a table is never synced, so its contents aren't trusted.
        """
        self.stop()
        with range_locked(self.fd, _WRITING):
            # before the table is removed: a crash in between leaves no file with unknown gaps
            os.ftruncate(staging, self.look().frontier() if size is None else size)
            unlink_if_there(directory, table_name(name))

    def stop(self, failure: int = 0) -> None:
        """Make writers stop before their next buffer. Some may be writing one now.

        Args:
            failure: The errno of the failure to report to them; 0 for none.
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
    """Return the valid slots, and True if no other slot was being written."""
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


# sessions that send pieces -------------------------------------------------------------------


class Contributor:
    """A session that sends pieces of a file that another session uploads. For its thread.

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
            # Another file gets this name only after the table was ended: so the file is the right
            # one if the table isn't ended now.
            table.must_go_on()
        except BaseException:
            contributor.close()
            raise
        return contributor

    def close(self) -> None:
        """Close both descriptors. Can be called twice."""
        self._table.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def begin(self, start: int, size: int) -> Piece:
        """Begin a piece. Raises what `PieceTable.begin` raises."""
        number = self._table.begin(start, size)
        return Piece(_SlotWriter(self._table, self._fd, number), start, start + size)


@dataclass(frozen=True)
class _SlotWriter:
    """Writes one piece."""

    table: PieceTable
    fd: int
    number: int

    def write(self, piece: Piece, data: memoryview | Hole) -> None:
        """Write the next bytes of a piece. Waits while hashing is far behind.

        Raises:
            LeaseLost: The upload has ended.
            VerificationFailed: The piece has fewer bytes.
            OSError: Writing failed.
        """
        count = len(data)
        if count > piece.end - piece.at:
            raise VerificationFailed("more bytes were received than the piece has")
        if not count:
            return  # the piece may be complete, and its slot another piece's by now
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
        """Wait, without a lock, while too many complete bytes are not hashed yet."""
        pause = _SOON
        while True:
            hashed = self.table.must_go_on()
            if at - hashed <= AHEAD or self.table.look().frontier() - hashed <= AHEAD:
                return
            if not self.table.is_owned():
                raise LeaseLost(_ENDED)
            time.sleep(pause)
            pause = min(2 * pause, _LATER)


# the session that owns the upload ------------------------------------------------------------


class Collector:
    """The bytes of one file sent by several sessions, as its owning session sees them.

    A thread watches the table, and hashes bytes once they are complete. ``finish`` ends the table.

    ``_wake`` is set to make the thread look immediately. The thread and callers of ``received``
    change ``_frontier`` and ``_received``, which only ever grow, so that they need no lock.

    Args:
        table: The table, which this object closes.
        fd: The descriptor of the staging file.
        offset: Bytes that are there already, and that ``hasher`` has hashed.
        on_step: See `hash_behind`.
        end: Ends the table, as a step of the upload.
        on_end: Called by the thread if another session has ended the table.
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
        self.is_abandoned = False
        self._table = table
        self._fd = fd
        self._hasher = hasher
        self._on_step = on_step
        self._end = end
        self._on_end = on_end
        self._frontier = self._received = self._hashed = self._written_hashed = offset
        self._error: Exception | None = None
        self._closed = False
        """True once the table was ended: its contents are final."""
        self._ending = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="hash-behind", daemon=True)
        self._thread.start()

    @property
    def frontier(self) -> int:
        """The bytes from the start known to have arrived without a gap."""
        return self._frontier

    @property
    def received(self) -> int:
        """The bytes that have arrived in total."""
        self._received = max(self._received, self._table.look().received())
        return self._received

    def finish(self, progress: Callable[[int], None] | None = None) -> bytes:
        """End the table, and hash the bytes up to the first gap: up to ``frontier``.

        Args:
            progress: Called now and then with the number of hashed bytes; may raise.

        Raises:
            LeaseLost, Busy: The table cannot be ended.
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
        """Abandon the upload: stop the thread, and close the table. Can be called twice."""
        self.is_abandoned = self._ending = True
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
            pass  # a writer that continues writes to a file that is discarded

    # the hash that follows ---------------------------------------------------------------

    def _follow(self) -> None:
        try:
            hash_behind(self._fd, self._hashed, self._hasher, self, self._on_step)
        except Exception as error:  # whatever the error is, `finish` raises it
            self._error = error
            self._ending = True
            self._stop_others(error)

    def wait_for_more(self, at: int) -> int:
        """See `ftpwire.pieces.Followed`."""
        pause, quiet = _SOON, 0
        while not self.is_abandoned:
            closed, before = self._closed, self._received
            look = self._look()
            if self._frontier > at:
                return self._frontier
            if closed:
                break
            if look.ended and not self._ending:
                self._on_end()
                raise TakenOver(_ENDED)
            if self._written_hashed < at:
                self._write_hashed(at)
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
        if at - self._written_hashed >= PIECE:
            self._write_hashed(at)

    def has_holes(self) -> bool:
        """See `ftpwire.pieces.Followed`."""
        return self._table.has_holes()

    def _write_hashed(self, at: int) -> None:
        self._written_hashed = at
        self._table.put_hashed(at)
