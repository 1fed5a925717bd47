"""The three standard streams, and errors of them.

Lives here: opening missing ones, and what happens when output cannot be written.
Lives elsewhere: what is printed (ftpclient, ftpserver).

What a command does must not depend on whether it can print. So code that prints need not expect an
OSError: output that cannot be written is dropped, and the exit status reports that at the end. Only
if the reader of standard output is gone (``| head``), printing raises `ReaderLeft`, once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OUTPUT = "standard output"
"""Name of standard output in error messages."""
READER_LEFT = 141
"""Exit status if the reader of standard output is gone: what a shell reports after SIGPIPE."""


class ReaderLeft(Exception):
    """The reader of standard output is gone. This is no OSError: click, rich and other code would
    handle that as an error of a file."""


class Output(io.FileIO):
    """A standard stream that drops all output after its first error.

    Args:
        raises: True to raise `ReaderLeft` once, when the reader is gone; False to treat that like
            other errors.

    Attributes:
        failure: The first error.
        dropping: True if nothing is written any longer.
    """

    def __init__(self, fd: int, *, raises: bool) -> None:
        super().__init__(fd, "w", closefd=False)
        self.failure: OSError | None = None
        self.dropping = False
        self._raises = raises

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all data, or drop it. Raises ReaderLeft.

        It never writes a part: an unbuffered text stream (python -u) would ignore the rest.
        """
        left = memoryview(data).cast("B")
        while left and not self.dropping:
            try:
                # typeshed doesn't know that it returns None if a non-blocking descriptor is full
                written: int | None = super().write(left)
            except OSError as error:
                self.fail(error)
            else:
                left = left[written or 0 :]
                if written is None:
                    self._wait()
        return memoryview(data).nbytes

    def _wait(self) -> None:
        import select  # here, because it is hardly ever needed

        select.select([], [self], [])

    def fail(self, error: OSError) -> None:
        """Drop all output from now on. Raises ReaderLeft."""
        if self.dropping:
            return
        self.dropping = True
        self.failure = error
        if self._raises and error.errno == errno.EPIPE:
            raise ReaderLeft


_closed: set[int] = set()


def was_closed(fd: int) -> bool:
    """Return True if this process was started without a standard stream, and
    `open_standard_streams` has opened a substitute."""
    return fd in _closed


def open_standard_streams() -> None:
    """Open something at the first three descriptors, so that no socket or file gets one of them.

    A missing standard input is empty; writing results to a missing standard output is an error; a
    missing standard error discards messages. To be called before anything else is opened.
    """
    for wanted, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(wanted)
        except OSError:
            _closed.add(wanted)
            fd = os.open(os.devnull, mode)
            if fd != wanted:
                os.dup2(fd, wanted)
                os.close(fd)
    # Python sets these to None if they were missing
    sys.stdin = sys.stdin or open(0, closefd=False)
    sys.stdout = _dropping(sys.stdout or open(1, "w", closefd=False), 1)
    sys.stderr = _dropping(sys.stderr or open(2, "w", closefd=False), 2)


def _dropping(stream: TextIO, fd: int) -> TextIO:
    """Return the same stream on top of an `Output`; unchanged if it is not the process's own."""
    if not isinstance(stream, io.TextIOWrapper) or _descriptor_of(stream) != fd:
        return stream
    raw = Output(fd, raises=fd == 1)
    unbuffered = isinstance(stream.buffer, io.RawIOBase)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _descriptor_of(stream: TextIO) -> int:
    """Return the descriptor of a stream; -1 for one in memory."""
    try:
        return stream.fileno()
    except OSError:  # io.UnsupportedOperation is one
        return -1


def output() -> Output | None:
    """Return the `Output` below standard output; None if that is not the process's own."""
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, Output) else None


def failure() -> OSError | None:
    """Return the error of standard output; None if there was none."""
    raw = output()
    return None if raw is None else raw.failure


def reader_left() -> bool:
    """Return True if the reader of standard output is gone."""
    found = failure()
    return found is not None and found.errno == errno.EPIPE


def fail(error: OSError) -> None:
    """Report that writing to the descriptor of standard output failed. Raises ReaderLeft; or the
    error, if standard output is not the process's own."""
    raw = output()
    if raw is None:
        raise error
    raw.fail(error)


def flush() -> OSError | None:
    """Write what is buffered, at the end. Return the error of standard output, if any."""
    try:
        sys.stdout.flush()
    except ReaderLeft:
        pass  # `reader_left` reports it
    return failure()


@contextmanager
def output_into(fd: int) -> Iterator[None]:
    """Redirect standard output to a descriptor in a context, also for child processes.

    What was printed before still goes to the old destination. The descriptor is closed at the end
    of the context, so that the reader of a pipe sees the end.

    Raises:
        ReaderLeft: While writing what was printed before.
    """
    before = sys.stdout
    try:
        before.flush()
        saved = os.dup(1)
        os.dup2(fd, 1)
    finally:
        os.close(fd)
    stream = io.TextIOWrapper(
        io.BufferedWriter(Output(1, raises=True)),
        encoding=before.encoding,
        errors=before.errors,
        newline="\n",
        write_through=getattr(before, "write_through", False),
    )
    sys.stdout = stream
    try:
        yield
    finally:
        sys.stdout = before
        try:
            with suppress(ReaderLeft):
                stream.close()
        finally:
            os.dup2(saved, 1)
            os.close(saved)


def do_without() -> None:
    """Ignore all errors of standard output from now on: a server does not depend on it."""
    raw = output()
    if raw is not None:
        raw.dropping = True
        raw.failure = None
