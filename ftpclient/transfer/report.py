"""What a transfer tells while it runs: the results, and who listens.

Lives here: the result of each file, the totals, the interface of a listener.
Lives elsewhere: how they are shown (cli/progress.py, cli/render.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ftpwire.errors import FtpError
from ftpwire.messages import FileType, Removed

INPUT_LOST = "0 files were stored: what was read from the input can't be read again"
"""Why a lost connection is not made again for what comes from a pipe or an iterator."""

FAILURES_KEPT = 100
"""Results of failed files that a summary keeps."""

Status = Literal["done", "skipped", "failed", "planned"]


class SyncStep(Protocol):
    """What a sync was doing when something ended: as much of a step as those who show it need.

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
    """One file's end. (A struct, as there is one for each file: a data class takes longer to make.)

    Attributes:
        source, target: As bytes; the remote one absolute, the local one as typed.
        size: Bytes.
        digest: BLAKE3 of a file that is done, 32 bytes.
        status: ``skipped``: on purpose (not newer, exists, not a regular file). ``planned``: of a
            dry run.
        error: Why it failed or was skipped.
        unchanged: It is done because it was there already, with the same digest.
        step: What a sync was doing.
        remark: What is to be known about a file that is done: that it grew meanwhile.
        removed: Of what a sync has deleted on a server: whether it is in the trash.
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
    """What a check has found out about one path.

    Attributes:
        path: Relative to the two directories; of two files, the name of the first.
        state: ``only-there``: only on the server.
        type: ``file``, ``dir``, ``link`` or ``other``; of what is unreadable it may be unknown, and
            ``file`` then.
        why: With ``differs``: ``digest``, ``size``, ``type``, ``mode``, or ``target`` of links.
        error: With ``unreadable``: the error's code.
        message: And in words, with the whole path.
    """

    path: bytes
    state: State
    type: FileType = "file"
    why: str = ""
    error: str = ""
    message: str = ""


class Summary(msgspec.Struct):
    """The totals of a transfer: ``size`` are the bytes that were sent, ``unchanged`` of the files
    that are done were there already.

    Attributes:
        first_error: Of the first file that failed, whatever came before and after it.
        failures: The first `FAILURES_KEPT` results that are failures; ``failed`` counts all.
    """

    done: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    size: int = 0
    seconds: float = 0.0
    exit_code: int = 0
    """0 when nothing failed; the failures' own status when nothing else happened; else 1."""
    first_error: FtpError | None = None
    failures: list[Result] = []

    def add_stored(self, results: Sequence[Result]) -> None:
        """Count files that are done, and were not there already."""
        self.done += len(results)
        self.size += sum([result.size for result in results])
        if self.exit_code:
            self.exit_code = 1

    def add(self, result: Result) -> None:
        """Count one file's end."""
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
            if len(self.failures) < FAILURES_KEPT:
                self.failures.append(result)
            if self.failed == 1 and not self.done:
                self.exit_code = code
            elif self.exit_code != code or self.done:
                self.exit_code = 1


class Listener:
    """Hears of a transfer's progress. This one is deaf; others override what they need.

    Attributes:
        enough: Set it to have the transfer end, by `Stopped`, after the files under way.
    """

    enough: bool = False

    wants_totals = False
    """Whether it is worth a look at all sources beforehand."""

    def totals(self, files: int, size: int) -> None:
        """So much (more) is to be done."""

    def started(self, name: bytes, size: int | None) -> None:
        """A file large enough to be watched begins; size in bytes, None when not known."""

    def advanced(self, count: int) -> None:
        """So many bytes more of the files under way."""

    def finished(self, result: Result) -> None:
        """A file has ended."""

    def all_stored(self, results: Sequence[Result]) -> None:
        """Files that came together have ended, all of them well: as ``finished`` of each, in this
        order. Override it only where all of them together cost less."""
        for result in results:
            self.finished(result)

    def found(self, finding: Finding) -> None:
        """A check has found something; they come in the order of their paths."""

    def remark(self, text: str) -> None:
        """Something that the user may want to know: a lost connection, a retry."""

    def lost(self, error: FtpError) -> None:
        """The connection is lost, and is going to be made again."""
        self.remark(f"{error}; connecting again")

    def waiting(self, lost: float, left: float) -> None:
        """There is no connection; called about once a second.

        Args:
            lost: Seconds since the last connection that brought the transfer further was lost.
            left: Seconds until the next try; 0 when it begins now.
        """

    def regained(self) -> None:
        """There is a connection again."""


class Forwarding(Listener):
    """Hands on what it hears to another one, by ``tell``; others override how."""

    def __init__(self, listener: Listener) -> None:
        self.wants_totals = listener.wants_totals
        self._listener = listener

    def tell(self, what: Callable[..., None], *args: Any) -> None:
        """Call a method of the listener."""
        what(*args)

    @property
    def enough(self) -> bool:  # type: ignore[override]
        return self._listener.enough

    def totals(self, files: int, size: int) -> None:
        self.tell(self._listener.totals, files, size)

    def started(self, name: bytes, size: int | None) -> None:
        self.tell(self._listener.started, name, size)

    def advanced(self, count: int) -> None:
        self.tell(self._listener.advanced, count)

    def finished(self, result: Result) -> None:
        self.tell(self._listener.finished, result)

    def found(self, finding: Finding) -> None:
        self.tell(self._listener.found, finding)

    def remark(self, text: str) -> None:
        self.tell(self._listener.remark, text)

    def lost(self, error: FtpError) -> None:
        self.tell(self._listener.lost, error)

    def waiting(self, lost: float, left: float) -> None:
        self.tell(self._listener.waiting, lost, left)

    def regained(self) -> None:
        self.tell(self._listener.regained)


class One(Forwarding):
    """The listener of a transfer of one file, whose end is all that it comes to."""

    def __init__(self, listener: Listener | None) -> None:
        super().__init__(listener or Listener())
        self._result: Result | None = None

    def finished(self, result: Result) -> None:
        self._result = result
        super().finished(result)

    def result(self) -> Result:
        """What came of the file. Raises why it failed, or was skipped."""
        assert self._result is not None
        if self._result.error is not None:
            raise self._result.error
        return self._result
