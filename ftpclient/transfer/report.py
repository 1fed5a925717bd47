"""Reports of a running transfer: the results, and the listener that receives them.

Lives here: the result of each file, the totals, the interface of a listener.
Lives elsewhere: the display (cli/progress.py, cli/render.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ftpwire.errors import FtpError
from ftpwire.messages import FileType, Removed

INPUT_LOST = "nothing was stored, because the input cannot be read again"
"""Why an upload from a pipe or an iterator is not retried after a lost connection."""

MAX_FAILURES = 100
"""Maximum number of failed results that a summary keeps."""

Status = Literal["done", "skipped", "failed", "planned"]


class SyncStep(Protocol):
    """The step of a sync to which a result belongs, as far as the display needs it.

    Its attributes are those of `ftpclient.sync.plan.Step`.
    """

    @property
    def action(self) -> str: ...

    @property
    def path(self) -> bytes: ...

    @property
    def type(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def why(self) -> str: ...

    @property
    def source(self) -> bytes: ...

    @property
    def count(self) -> int: ...


class Result(msgspec.Struct, frozen=True):
    """The result of one file. (A struct, not a data class, because there is one for each file.)

    Attributes:
        source, target: As bytes; the remote one absolute, the local one as typed.
        size: The size in bytes.
        digest: The BLAKE3 digest of a file that is done, 32 bytes.
        status: ``skipped``: on purpose (not newer, exists, not a regular file). ``planned``: of
            a dry run.
        error: Why it failed or was skipped.
        unchanged: True if it is done because it was there already, with the same digest.
        step: The step of a sync, if any.
        remark: A remark about a file that is done, e.g. that it grew meanwhile.
        removed: For a deletion by a sync on a server: whether it is in the trash.
    """

    source: bytes
    target: bytes
    size: int
    status: Status
    digest: bytes | None = None
    error: FtpError | None = None
    unchanged: bool = False
    step: SyncStep | None = None
    remark: str | None = None
    removed: Removed | None = None


State = Literal["same", "differs", "only-here", "only-there", "unreadable"]


class Finding(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The result of a check for one path.

    Attributes:
        path: Relative to the two directories; for two files, the name of the first.
        state: ``only-there``: only on the server.
        type: ``file``, ``dir``, ``link`` or ``other``. If the path is unreadable, its type may be
            unknown, and ``file`` is used.
        why: With ``differs``: ``digest``, ``size``, ``type``, ``mode``, or ``target`` of links.
        error: With ``unreadable``: the error's code.
        message: With ``unreadable``: the error's text, with the whole path.
    """

    path: bytes
    state: State
    type: FileType = "file"
    why: str = ""
    error: str = ""
    message: str = ""


class Summary(msgspec.Struct):
    """The totals of a transfer.

    Attributes:
        unchanged: How many of the ``done`` files were there already.
        size: The number of bytes that were sent.
        first_error: The error of the first file that failed.
        failures: The first `MAX_FAILURES` failed results; ``failed`` counts all.
    """

    done: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    size: int = 0
    seconds: float = 0.0
    exit_code: int = 0
    """0 if nothing failed; the common status of all failures if nothing else was done; else 1."""
    first_error: FtpError | None = None
    failures: list[Result] = []

    def add_stored(self, results: Sequence[Result]) -> None:
        """Count files that are done, and were not there already."""
        self.done += len(results)
        self.size += sum([result.size for result in results])
        if self.exit_code:
            self.exit_code = 1

    def add(self, result: Result) -> None:
        """Count the result of one file."""
        if result.status == "done":
            self.done += 1
            self.unchanged += result.unchanged
            self.size += 0 if result.unchanged else result.size
            if self.exit_code:
                self.exit_code = 1
        elif result.status == "skipped":
            self.skipped += 1
        else:
            self.failed += 1
            assert result.error is not None
            code = result.error.exit_code
            if self.first_error is None:
                self.first_error = result.error
            if len(self.failures) < MAX_FAILURES:
                self.failures.append(result)
            if self.failed == 1 and not self.done:
                self.exit_code = code
            elif self.exit_code != code or self.done:
                self.exit_code = 1


class Listener:
    """Receives the progress of a transfer. This one ignores it; others override what they need.

    Workers call it from their threads, holding the transfer's lock: no two calls overlap.

    Attributes:
        enough: Set it to stop the transfer, by `Stopped`, after the files under way.
        advises: False if an error must not say what the same command would do, because that
            command does more than this transfer, or discards its target.
    """

    enough: bool = False
    advises: bool = True

    wants_totals = False
    """True if all sources should be measured beforehand, for ``totals``."""

    def totals(self, files: int, size: int) -> None:
        """Called with the number of (further) files and bytes to be transferred."""

    def started(self, name: bytes, size: int | None) -> None:
        """Called when a large file begins; its size in bytes is None if unknown."""

    def advanced(self, count: int) -> None:
        """Called when this many more bytes of the files under way are done."""

    def finished(self, result: Result) -> None:
        """Called when a file has ended."""

    def all_stored(self, results: Sequence[Result]) -> None:
        """Called when several files of one request were stored.

        Calls ``finished`` for each, in order. Override it only if doing all at once is faster.
        """
        for result in results:
            self.finished(result)

    def found(self, finding: Finding) -> None:
        """Called when a check has found a difference, in the order of the paths."""

    def remark(self, text: str) -> None:
        """Called with a message for the user, e.g. about a retry."""

    def lost(self, error: FtpError) -> None:
        """Called when the connection is lost and the client is going to reconnect."""
        self.remark(f"{error}; reconnecting")

    def waiting(self, lost: float, left: float) -> None:
        """Called about once per second while there is no connection.

        Args:
            lost: Seconds since the loss of the last connection that made progress.
            left: Seconds until the next try; 0 when it begins now.
        """

    def regained(self) -> None:
        """Called when the connection is back, or the client has stopped trying."""


class Forwarding(Listener):
    """Forwards all calls to another listener by ``notify``, which a subclass may override."""

    def __init__(self, listener: Listener) -> None:
        self.wants_totals = listener.wants_totals
        self.advises = listener.advises
        self._listener = listener

    def notify(self, what: Callable[..., None], *args: Any) -> None:
        """Call a method of the listener."""
        what(*args)

    @property
    def enough(self) -> bool:  # type: ignore[override]
        return self._listener.enough

    def totals(self, files: int, size: int) -> None:
        self.notify(self._listener.totals, files, size)

    def started(self, name: bytes, size: int | None) -> None:
        self.notify(self._listener.started, name, size)

    def advanced(self, count: int) -> None:
        self.notify(self._listener.advanced, count)

    def finished(self, result: Result) -> None:
        self.notify(self._listener.finished, result)

    def found(self, finding: Finding) -> None:
        self.notify(self._listener.found, finding)

    def remark(self, text: str) -> None:
        self.notify(self._listener.remark, text)

    def lost(self, error: FtpError) -> None:
        self.notify(self._listener.lost, error)

    def waiting(self, lost: float, left: float) -> None:
        self.notify(self._listener.waiting, lost, left)

    def regained(self) -> None:
        self.notify(self._listener.regained)


class One(Forwarding):
    """The listener of a transfer of one file. Keeps its result."""

    def __init__(self, listener: Listener | None) -> None:
        super().__init__(listener or Listener())
        self._result: Result | None = None

    def finished(self, result: Result) -> None:
        self._result = result
        super().finished(result)

    def result(self) -> Result:
        """Return the file's result. Raises its error if it failed or was skipped."""
        assert self._result is not None
        if self._result.error is not None:
            raise self._result.error
        return self._result
