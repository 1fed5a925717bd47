"""One line at the bottom of what a command prints, drawn again and again, then taken away.

Lives here: drawing it, and printing above it. Lives elsewhere: what it says (bars.py).

How nothing of it is ever left over:

- It never breaks: it is shorter than the terminal is wide, and the terminal is told not to wrap
  meanwhile, in case that it counts columns in another way or has just become narrower.
- The cursor stands at its beginning. Whatever a terminal does with a line when its size changes,
  breaking it into several or joining them, all of it comes behind the cursor, and is erased from
  there. So it doesn't matter which size the line was drawn for, and no signal has to be waited
  for: the size of now is asked for each time.
- What is printed meanwhile erases it before; it comes back at the beginning of a line only.
- Ctrl-Z erases it before it stops the program.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, TextIO

from ftpwire.cells import columns_of

_EVERY_SECONDS = 0.1
_ERASE = "\r \x1b[J\r"
"""Not from the corner of the screen on: tmux takes that for the end of a screen, which it keeps."""
_ERASE_REST = "\x1b[J"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"


class StatusLine:
    """A line on the terminal at standard error. As a context manager it draws it, in a thread of
    its own, and takes it away at the end.

    Args:
        text: Gives the line: at most so many columns, and what colours it.
    """

    def __init__(self, text: Callable[[int], str]) -> None:
        self._text = text
        self._stream: TextIO = sys.stderr
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._drawn: str | None = None
        self._in_a_line = False
        self._is_suspended = False
        self._replaced: list[tuple[str, TextIO]] = []
        self._suspended_by: object = None
        self._thread = threading.Thread(target=self._run, name="status-line", daemon=True)

    def __enter__(self) -> Self:
        self._stream = sys.stderr
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is self._stream or stream.isatty():  # else it appears nowhere near the line
                self._replaced.append((name, stream))
                setattr(sys, name, _Above(self, stream))
        if threading.current_thread() is threading.main_thread():  # others can't handle signals
            self._suspended_by = signal.getsignal(signal.SIGTSTP)
            if self._suspended_by is signal.SIG_DFL:
                signal.signal(signal.SIGTSTP, self._suspend)
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._end.set()
        self._thread.join()
        if self._suspended_by is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        for name, stream in self._replaced:
            setattr(sys, name, stream)
        with self._lock:
            self._erase()

    def draw(self) -> None:
        """Draw it as it is now, for the size that the terminal has now."""
        width = columns_of(self._stream, now=True) - 1
        text = self._text(width)
        with self._lock:
            if self._in_a_line or self._is_suspended or self._is_in_background():
                return
            self._drawn = text
            self._stream.write(f"{_NO_WRAP}\r{text}{_ERASE_REST}{_WRAP}\r")
            self._stream.flush()

    def print(self, stream: TextIO, text: str) -> int:
        """Print above it."""
        with self._lock:
            self._erase()
            if text:
                self._in_a_line = not text.endswith("\n")
            return stream.write(text)

    def _erase(self) -> None:
        if self._drawn is not None:
            self._drawn = None
            self._stream.write(_ERASE)
            self._stream.flush()

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Take it away, and stop as without this handler; go on when the program does."""
        with self._lock:
            self._erase()
            self._is_suspended = True
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._is_suspended = False

    def _is_in_background(self) -> bool:
        """Whether the terminal is another command's now: after Ctrl-Z and bg."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) != os.getpgrp()
        except (OSError, ValueError):
            return False  # it isn't the terminal that this process belongs to

    def _run(self) -> None:
        while not self._end.wait(_EVERY_SECONDS):
            self.draw()


class _Above:
    """A standard stream that prints above the line; in all else it is the stream."""

    def __init__(self, line: StatusLine, stream: TextIO) -> None:
        self._line = line
        self._stream = stream

    def write(self, text: str) -> int:
        return self._line.print(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
