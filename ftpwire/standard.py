"""The three standard streams, where something is wrong with them.

Lives here: having something at their descriptors, and what happens when it can't be written to.
Lives elsewhere: what is printed (ftpclient, ftpserver).

What a command does must not depend on whether it can print. So nothing that prints has to expect
an OSError: what can't be written to standard output is dropped, and the status says so at the
end. Only when its reader has left (``| head``) does printing raise, once, `ReaderLeft`.
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
"""The name under which its errors are reported."""
READER_LEFT = 141
"""Exit status when the reader of standard output has left: what a shell reports after SIGPIPE."""


class ReaderLeft(Exception):
    """Nobody reads standard output any more. It is no OSError: click, rich and whatever handles
    those of files would take it for one of theirs."""


class Output(io.FileIO):
    """A standard stream that drops everything after its first error.

    Args:
        tells: Whether `ReaderLeft` is raised, once. Else it is an error like others.

    Attributes:
        failure: That error.
        dropping: Nothing is written any more.
    """

    def __init__(self, fd: int, *, tells: bool) -> None:
        super().__init__(fd, "w", closefd=False)
        self.failure: OSError | None = None
        self.dropping = False
        self._tells = tells

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it, or drop it. Raises ReaderLeft.

        All of it: a text stream that isn't buffered (python -u) doesn't look at what is left.
        """
        left = memoryview(data).cast("B")
        while left and not self.dropping:
            try:
                # typeshed doesn't know that it is None where the descriptor doesn't block
                written: int | None = super().write(left)
            except OSError as error:
                self.fail(error)
            else:
                left = left[written or 0 :]
                if written is None:
                    self._wait()
        return memoryview(data).nbytes

    def _wait(self) -> None:
        import select  # hardly ever needed

        select.select([], [self], [])

    def fail(self, error: OSError) -> None:
        """Drop what comes from now on. Raises ReaderLeft."""
        if self.dropping:
            return
        self.dropping = True
        self.failure = error
        if self._tells and error.errno == errno.EPIPE:
            raise ReaderLeft


_closed: set[int] = set()


def was_closed(fd: int) -> bool:
    """Whether this process was started with a standard stream closed: what is there was put there
    by `open_standard_streams`."""
    return fd in _closed


def open_standard_streams() -> None:
    """Have something at the first three descriptors, so that no socket or file gets there.

    Where nothing was, reading finds nothing, results can't be written, which is an error, and
    complaints go nowhere. To be called first of all.
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
    # Python has None where there was nothing
    sys.stdin = sys.stdin or open(0, closefd=False)
    sys.stdout = _dropping(sys.stdout or open(1, "w", closefd=False), 1)
    sys.stderr = _dropping(sys.stderr or open(2, "w", closefd=False), 2)


def _dropping(stream: TextIO, fd: int) -> TextIO:
    """The same stream with an `Output` below it; as it is where it isn't the process's own."""
    if not isinstance(stream, io.TextIOWrapper) or _descriptor_of(stream) != fd:
        return stream
    raw = Output(fd, tells=fd == 1)
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
    """Where a stream writes; -1 for one in memory, as a program that runs a command may have."""
    try:
        return stream.fileno()
    except OSError:  # io.UnsupportedOperation is one
        return -1


def output() -> Output | None:
    """What is below standard output; None where that isn't the process's own."""
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, Output) else None


def failure() -> OSError | None:
    """Why standard output could not be written to; None when it could."""
    raw = output()
    return None if raw is None else raw.failure


def reader_left() -> bool:
    """Whether nobody reads standard output any more."""
    found = failure()
    return found is not None and found.errno == errno.EPIPE


def fail(error: OSError) -> None:
    """Say that writing to its descriptor has failed. Raises ReaderLeft, or the error where
    standard output isn't the process's own."""
    raw = output()
    if raw is None:
        raise error
    raw.fail(error)


def flush() -> OSError | None:
    """At the end: write what is left, and say why it can't be written."""
    try:
        sys.stdout.flush()
    except ReaderLeft:
        pass  # `reader_left` tells
    return failure()


@contextmanager
def output_into(fd: int) -> Iterator[None]:
    """While the context is open, standard output is this descriptor: for child processes, too.

    What was printed before goes where it did. Takes the descriptor over: it is closed when the
    context is left, and so a pipe's reader sees the end.

    Raises:
        ReaderLeft: Of what was printed before.
    """
    before = sys.stdout
    try:
        before.flush()
        saved = os.dup(1)
        os.dup2(fd, 1)
    finally:
        os.close(fd)
    stream = io.TextIOWrapper(
        io.BufferedWriter(Output(1, tells=True)),
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
    """Have nothing depend on standard output any more, whatever becomes of it: for a server."""
    raw = output()
    if raw is not None:
        raw.dropping = True
        raw.failure = None
