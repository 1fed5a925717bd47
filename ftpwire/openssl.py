"""Calls of OpenSSL that Python's ssl module does not offer, in the very library it is linked with.

Lives here: the versions of Python in which OpenSSL's pointers can be found; decrypting many TLS
records with one call; sending encrypted bytes from OpenSSL's own buffer.
Lives elsewhere: TLS itself (tls.py), the order of a server's ciphers (ftpserver/net/ciphers.py).

All of this saves time and nothing else: where a call is not available, its callers do without.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import ssl
import sys
from typing import Any

_KNOWN = ((3, 11), (3, 15))
"""The first CPython version, and the one after the last, in which an SSLContext begins with its
SSL_CTX pointer, and the object in an SSLObject has its SSL pointer in second place, according to
their sources."""
SMALLEST_READ = 8 * 1024
"""Smallest space, in bytes, for `RecordReader.read_into`: more than a buffering BIO holds."""

# from bio.h
_SET_SSL = 109  # BIO_C_SET_SSL
_NOCLOSE = 0  # BIO_NOCLOSE
_GET_MEMORY = 115  # BIO_C_GET_BUF_MEM_PTR
_SET_END = 130  # BIO_C_SET_BUF_MEM_EOF_RETURN
_MORE_FOLLOWS, _HAS_ENDED = -1, 0
_LEAST = 1  # bytes for the unused direction of a BIO pair; 0 would mean 17 KiB

_POINTER = ctypes.sizeof(ctypes.c_void_p)
_ANY = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "BIO_ctrl": (ctypes.c_long, _ANY, ctypes.c_int, ctypes.c_long, _ANY),
    "BIO_ctrl_pending": (ctypes.c_size_t, _ANY),
    "BIO_f_buffer": (_ANY,),
    "BIO_f_ssl": (_ANY,),
    "BIO_free": (ctypes.c_int, _ANY),
    "BIO_free_all": (None, _ANY),
    "BIO_new": (_ANY, _ANY),
    "BIO_new_bio_pair": (ctypes.c_int, _ANY, ctypes.c_size_t, _ANY, ctypes.c_size_t),
    "BIO_new_mem_buf": (_ANY, ctypes.c_char_p, ctypes.c_int),
    "BIO_nread": (ctypes.c_int, _ANY, _ANY, ctypes.c_int),
    "BIO_nread0": (ctypes.c_int, _ANY, _ANY),
    "BIO_push": (_ANY, _ANY, _ANY),
    "BIO_read": (ctypes.c_int, _ANY, _ANY, ctypes.c_int),
    "ERR_clear_error": (None,),
    "ERR_peek_error": (ctypes.c_ulong,),
    "ERR_pop_to_mark": (ctypes.c_int,),
    "ERR_reason_error_string": (ctypes.c_char_p, ctypes.c_ulong),
    "ERR_set_mark": (ctypes.c_int,),
    "SSL_get_SSL_CTX": (_ANY, _ANY),
    "SSL_set0_rbio": (None, _ANY, _ANY),
    "SSL_set0_wbio": (None, _ANY, _ANY),
    "SSL_set_quiet_shutdown": (None, _ANY, ctypes.c_int),
}


class NotKnown(Exception):
    """This is not known to work with this Python, or with the OpenSSL that it uses."""


@functools.cache
def path() -> str | None:
    """Return the path of the ssl module's library; None if this Python is not known.

    The OpenSSL in use can only be found through an ssl module that is a shared library of its own.
    """
    if platform.python_implementation() != "CPython":
        return None
    if not _KNOWN[0] <= sys.version_info[:2] < _KNOWN[1]:
        return None
    import _ssl

    return getattr(_ssl, "__file__", None)  # absent if it is built into the interpreter


def context_pointer(context: ssl.SSLContext) -> int | None:
    """Return the SSL_CTX pointer of a context. Only if there is a `path`."""
    return _pointer(context, 0)


def _pointer(owner: object, index: int) -> int | None:
    """Return the pointer at an index of an object's own fields, which follow the common header."""
    at = id(owner) + object.__basicsize__ + index * _POINTER
    return ctypes.c_void_p.from_address(at).value


class _Memory(ctypes.Structure):
    """BUF_MEM of buffer.h: for a read-only memory BIO, the part that has not been read yet."""

    _fields_ = (
        ("length", ctypes.c_size_t),
        ("data", ctypes.c_char_p),
        ("max", ctypes.c_size_t),
        ("flags", ctypes.c_ulong),
    )


@functools.cache
def prepare() -> tuple[ctypes.PyDLL, ctypes.CDLL] | None:
    """Load the functions, for a process that cannot load anything later.

    Returns:
        OpenSSL with the interpreter's lock held, for short calls, and with the lock released. None
        if one of the functions is missing, or does not do what is expected.
    """
    where = path()
    if where is None:
        return None
    held, released = ctypes.PyDLL(where), ctypes.CDLL(where)
    try:
        for library in (held, released):
            for name, (result, *arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
    except AttributeError:
        return None
    return (held, released) if _reads_as_expected(held) else None


def _reads_as_expected(held: ctypes.PyDLL) -> bool:
    """Return whether a memory BIO reads the bytes at the address that was written into it."""
    source, memory = _new_source(held)
    into = ctypes.create_string_buffer(8)
    memory.data, memory.length = b"abcde", 5
    count = held.BIO_read(source, into, 2)
    well = count == 2 and into.raw[:2] == b"ab" and memory.length == 3
    well = well and held.BIO_read(source, into, 8) == 3 and into.raw[:3] == b"cde"
    well = well and held.BIO_read(source, into, 8) == _MORE_FOLLOWS
    held.BIO_free(source)
    return well


def _new_source(held: ctypes.PyDLL) -> tuple[int, _Memory]:
    """Make a memory BIO that has nothing to read yet. Return it, and its description."""
    source = held.BIO_new_mem_buf(b"", 0)
    if not source:
        raise MemoryError
    held.BIO_ctrl(source, _SET_END, _MORE_FOLLOWS, None)
    memory = ctypes.POINTER(_Memory)()
    held.BIO_ctrl(source, _GET_MEMORY, 0, ctypes.byref(memory))
    return source, memory.contents


def _find(tls: ssl.SSLObject) -> tuple[ctypes.PyDLL, ctypes.CDLL, int]:
    """Return the functions, and the SSL pointer of a connection. Raises NotKnown."""
    found = prepare()
    if found is None:
        raise NotKnown
    pointer = _pointer(tls._sslobj, 1)  # type: ignore[attr-defined]
    # what was taken for the pointer has to lead back to the connection's context
    if not pointer or found[0].SSL_get_SSL_CTX(pointer) != context_pointer(tls.context):
        raise NotKnown
    return *found, pointer


class RecordReader:
    """Replaces the incoming MemoryBIO of a connection that receives much data.

    Decrypts as many TLS records as there are with one call, directly from the buffer in which they
    arrived.

    ``SSLObject.read`` decrypts one record of at most 16 KiB, and releases the interpreter's lock
    for it: a thread that receives beside another busy one waits for the lock 64 times in a MiB.
    BIO_f_buffer(3) above BIO_f_ssl(3) repeats SSL_read(3) in C. Besides, a MemoryBIO clears the
    space for what is written to it and then copies it; a read-only BIO_s_mem(3) has just its
    address.

    Args:
        tls: The connection, after its handshake. Its incoming BIO is empty.

    Raises:
        NotKnown: This is not possible here.
    """

    def __init__(self, tls: ssl.SSLObject) -> None:
        self._bio: int | None = None
        self._held, released, self._pointer = _find(tls)
        self._read = released.BIO_read
        self._tls = tls  # what the pointer points to belongs to it
        self._data = b""
        self.failure: ssl.SSLError | None = None
        """Why nothing more can be read: a record is damaged, or not allowed here."""
        held = self._held
        self._source, self._memory = _new_source(held)
        outer, inner = held.BIO_new(held.BIO_f_buffer()), held.BIO_new(held.BIO_f_ssl())
        if not outer or not inner:
            for bio in (outer, inner, self._source):
                held.BIO_free(bio)
            raise MemoryError
        held.SSL_set0_rbio(self._pointer, self._source)  # which frees it at the end
        # BIO_f_ssl keeps what the connection reads from at this moment
        held.BIO_ctrl(inner, _SET_SSL, _NOCLOSE, self._pointer)
        self._bio = held.BIO_push(outer, inner)

    def write(self, data: bytes) -> None:
        """Take encrypted bytes. They are not copied if all earlier ones have been read."""
        memory = self._memory
        left = memory.length
        if left:
            data = self._data[-left:] + data
        # kept: OpenSSL has only its address, and reads there until `pending` is 0
        self._data = data
        memory.data = data  # ctypes keeps it, too
        memory.length = memory.max = len(data)

    def write_eof(self) -> None:
        """Report the end of the connection."""
        self._held.BIO_ctrl(self._source, _SET_END, _HAS_ENDED, None)

    @property
    def pending(self) -> int:
        """The number of encrypted bytes that OpenSSL has not read yet."""
        count: int = self._memory.length
        return count

    def release(self) -> None:
        """Free the memory of what arrived, if all was read: an idle connection needs none."""
        if self._data and not self._memory.length:
            self._data = self._memory.data = b""

    def read_into(self, view: memoryview) -> int:
        """Decrypt into ``view``, at least `SMALLEST_READ` bytes.

        Returns:
            The number of bytes; 0 if there are none. `failure`, or else ``SSLObject.read``, then
            gives the reason.
        """
        into = ctypes.byref(ctypes.c_char.from_buffer(view))
        # An error that stays in this thread's queue would be taken for one of the next session.
        self._held.ERR_clear_error()
        count: int = self._read(self._bio, into, len(view))
        if count == len(view):
            return count
        code = self._held.ERR_peek_error()
        if code:
            text = self._held.ERR_reason_error_string(code) or b"unknown error"
            self._held.ERR_clear_error()
            self.failure = _error(text.decode("ascii", "replace").upper().replace(" ", "_"))
        return max(0, count)

    def __del__(self) -> None:
        if self._bio is not None:
            # Freeing the BIO calls SSL_shutdown, which is not to send or report anything. The
            # garbage collector may do this where another session is about to look at its errors.
            self._held.ERR_set_mark()
            self._held.SSL_set_quiet_shutdown(self._pointer, 1)
            self._held.BIO_free_all(self._bio)
            self._held.ERR_pop_to_mark()


class OutputRing:
    """Replaces the outgoing MemoryBIO of a connection that sends much data.

    Encrypted bytes are sent from the buffer of OpenSSL, without a copy.
    A MemoryBIO clears the space for what is written to it, and reading from it makes a copy. One
    direction of a BIO pair (BIO_s_bio(3)) does neither.

    Args:
        tls: The connection, after its handshake. It has nothing to send.
        size: The capacity in bytes.

    Raises:
        NotKnown: This is not possible here.
    """

    def __init__(self, tls: ssl.SSLObject, size: int) -> None:
        self._reader: int | None = None
        self._held, _, pointer = _find(tls)
        self._tls = tls  # owns the half that is written to, and with it the memory
        self._size = size
        self._at = ctypes.c_void_p()
        self._start: int | None = None
        self._memory = memoryview(b"")
        self._shown = 0
        writer, reader = ctypes.c_void_p(), ctypes.c_void_p()
        ends = ctypes.byref(writer), size, ctypes.byref(reader), _LEAST
        if not self._held.BIO_new_bio_pair(*ends):
            raise MemoryError
        self._reader = reader.value
        self._held.SSL_set0_wbio(pointer, writer)

    @property
    def pending(self) -> int:
        """The number of bytes that were not read yet."""
        count: int = self._held.BIO_ctrl_pending(self._reader)
        return count - self._shown

    def read(self) -> memoryview | bytes:
        """Return all bytes to send. They stay as they are until `release`."""
        self.release()
        count: int = self._held.BIO_nread0(self._reader, ctypes.byref(self._at))
        if count <= 0:
            return b""
        assert self._at.value is not None
        if self._start is None:  # nothing was read before: this is where the memory begins
            self._start = self._at.value
            whole = (ctypes.c_char * self._size).from_address(self._start)
            whole.owner = self._tls  # type: ignore[attr-defined]  # views keep it, and the memory
            self._memory = memoryview(whole).cast("B")
        begin = self._at.value - self._start
        if begin + count == self._size and self.pending > count:
            return self._copy(self.pending)  # the rest is at the beginning of the memory
        self._shown = count
        return self._memory[begin : begin + count]

    def _copy(self, count: int) -> bytes:
        copy = ctypes.create_string_buffer(count)
        self._held.BIO_read(self._reader, copy, count)
        return copy.raw

    def release(self) -> None:
        """Free the space of the bytes that were read: they have been sent."""
        if self._shown:
            self._held.BIO_nread(self._reader, ctypes.byref(self._at), self._shown)
            self._shown = 0

    def __del__(self) -> None:
        if self._reader is not None:
            self._held.BIO_free(self._reader)


def _error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, reason)
    error.reason = reason
    return error
