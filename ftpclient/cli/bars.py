"""The progress of a transfer on a terminal, in one line.

Lives here: counting bytes and files. Lives elsewhere: the line's text for each width (headway.py),
drawing it (status_line.py), deciding whether there is one (progress.py).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from ftpclient.cli.app import App
from ftpclient.cli.headway import Headway, line
from ftpclient.cli.printer import Printer
from ftpclient.cli.render import waiting_line
from ftpclient.cli.status_line import StatusLine
from ftpclient.transfer.report import Result
from ftpwire import paths
from ftpwire.cells import may_color
from ftpwire.errors import FtpError

_STALLED_FROM = 5.0
"""Seconds without bytes after which the line says ``stalled``."""
_OVER_SECONDS = 10.0
"""The rate is averaged over this many seconds."""
_SAMPLE_SECONDS = 0.2


def _shown(name: bytes) -> str:
    return "input" if name == b"-" else paths.show(paths.name_of(name) or name)


@dataclass
class _File:
    """A large file being transferred.

    Attributes:
        counted: Bytes of it that are counted as done.
        has_begun: True once bytes were reported; the first report includes what an earlier
            attempt left.
    """

    name: str
    size: int | None
    counted: int = 0
    has_begun: bool = False

    @property
    def left(self) -> float:
        """Bytes still to come; any further ones on the same connection belong to small files."""
        return math.inf if self.size is None else self.size - self.counted


class Counting(Printer):
    """Counts everything being transferred.

    ``_lock`` guards all counters: several threads transfer files, and another one shows them. It
    is never held while they are shown.

    Args:
        clock: A monotonic clock, in seconds.
        action: See `Printer`.
    """

    wants_totals = True

    def __init__(
        self, app: App, clock: Callable[[], float] = time.monotonic, *, action: str = ""
    ) -> None:
        super().__init__(app, action)
        self._clock = clock
        self._lock = threading.Lock()
        self._files: dict[bytes, _File] = {}
        self._lanes: dict[int, _File] = {}  # the current large file of each thread
        self._last = b""
        self._done = 0
        self._left_earlier = 0
        self._count = 0
        self._failed = 0
        self._expected = 0
        self._size = 0
        self._waiting: tuple[str, str] | None = None
        self._moved = clock()
        self._samples: deque[tuple[float, int]] = deque()

    def totals(self, files: int, size: int) -> None:
        with self._lock:
            self._expected += files
            self._size += size
            all_of_it = self._size
        self._note(all_of_it)

    def lost(self, error: FtpError) -> None:
        """Show nothing: `waiting` follows at once, and shows for how long."""

    def waiting(self, lost: float, left: float) -> None:
        with self._lock:
            self._waiting = waiting_line(lost, left), f"offline {int(lost)} s"

    def regained(self) -> None:
        with self._lock:
            self._waiting = None
            self._start_anew()

    def _start_anew(self) -> None:
        """Forget the rate measured so far."""
        self._moved = self._clock()
        self._samples.clear()

    def started(self, name: bytes, size: int | None) -> None:
        super().started(name, size)
        with self._lock:
            self._moved = self._clock()
            before = self._files.pop(name, None)
            if before is not None:  # restarted on a new connection: it is counted again
                self._done -= before.counted
                self._samples.clear()
            self._files[name] = self._lanes[threading.get_ident()] = _File(_shown(name), size)

    def advanced(self, count: int) -> None:
        with self._lock:
            # each thread has one connection, and its bytes come in order
            file = self._lanes.get(threading.get_ident())
            if file is not None:
                file.counted += int(min(count, file.left))
                if not file.has_begun:  # left by an earlier attempt: must not count for the rate
                    file.has_begun = True
                    self._left_earlier += count
            self._done += count
            self._moved = self._clock()

    def finished(self, result: Result) -> None:
        with self._lock:
            if result.step is None or result.step.action in ("put", "get"):
                self._count += 1
                self._last = result.source
            self._failed += result.status == "failed"
            file = self._files.pop(result.source, None)
            if file is not None:
                self._lanes = {key: one for key, one in self._lanes.items() if one is not file}
        super().finished(result)

    def headway(self) -> Headway:
        """Return the current progress."""
        with self._lock:
            now = self._clock()
            several = self._expected > 1 or self._count + len(self._files) > 1
            known = 0 < self._expected >= self._count
            size = self._size if known else None
            if size is None and not several:
                size = next((one.size for one in self._files.values()), None)
            expected = str(self._expected) if known else ""
            files = f"{self._count:>{len(expected)}}{f'/{expected}' * known} files"
            return Headway(
                self._done,
                size,
                files if several else "",
                self._name(),
                self._rate(now),
                self._stalled(now, size),
                self._waiting,
                self._count,
                self._failed,
            )

    def _name(self) -> str:
        """Return the name of the file that began last and has bytes to come, or of the last one."""
        for file in reversed(self._files.values()):
            if file.left or len(self._files) == 1:
                return file.name
        return _shown(self._last)

    def _rate(self, now: float) -> float | None:
        samples, moved = self._samples, self._done - self._left_earlier
        if not samples or now - samples[-1][0] >= _SAMPLE_SECONDS:
            samples.append((now, moved))
            while now - samples[0][0] > _OVER_SECONDS:
                samples.popleft()
        began, before = samples[0]
        if now - began < _SAMPLE_SECONDS:
            return None
        return max(0, moved - before) / (now - began)

    def _stalled(self, now: float, size: int | None) -> int | None:
        """Return the seconds without bytes; None if few, or if only the reply is missing."""
        silent = now - self._moved
        if silent < _STALLED_FROM or (size is not None and self._done >= size):
            return None
        return int(silent)


class Bars(Counting):
    """A progress line for everything being transferred.

    As a context manager it draws the line, and erases it at the end.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, app: App, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(app, clock)
        self._line = StatusLine(self._text)
        self._has_colors = app.shell.settings["color"] != "never" and may_color()

    def __enter__(self) -> Self:
        self._line.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._app.flush()
        self._line.__exit__(*details)

    def _text(self, width: int) -> str:
        return line(self.headway(), width, colored=self._has_colors)
