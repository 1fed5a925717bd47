"""A status line below a command's output, which is redrawn regularly and erased at the end.

Lives here: drawing it, and printing above it. Lives elsewhere: its text (bars.py).

Nothing of it is ever left on the screen:

- It never wraps: it is shorter than the terminal is wide, and wrapping is turned off while it is
  written, in case the terminal counts columns differently or has just become narrower.
- The cursor stays at its beginning. If a terminal rewraps the line when its size changes, all of
  it stays after the cursor, and is erased from there. So the size that the line was drawn for
  doesn't matter, and no signal is needed: the size is read before each drawing.
- Other output first erases it; it is drawn again only when the cursor is at the start of a line.
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
"""The blank moves the cursor from the screen's corner: tmux treats erasing from there as clearing
the screen, and would keep the line in its history."""
_ERASE_REST = "\x1b[J"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"


class StatusLine:
    """A status line on the terminal at standard error.

    As a context manager it draws the line in a thread, and erases it at the end. ``_lock`` guards
    what is on the screen: it is held during each write, so that the drawing thread never writes
    into other output. It is reentrant, as the handler of Ctrl-Z may interrupt a holder.

    Args:
        text: A function that returns the line for a number of columns; it may be coloured.
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
            if stream is self._stream or stream.isatty():  # else it doesn't print there
                self._replaced.append((name, stream))
                setattr(sys, name, _Above(self, stream))
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
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
        """Draw the current line for the current size of the terminal."""
        width = columns_of(self._stream, now=True) - 1
        text = self._text(width)
        with self._lock:
            if self._in_a_line or self._is_suspended or self._is_in_background():
                return
            self._drawn = text
            self._stream.write(f"{_NO_WRAP}\r{text}{_ERASE_REST}{_WRAP}\r")
            self._stream.flush()

    def print(self, stream: TextIO, text: str) -> int:
        """Print text above the line."""
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
        """Erase the line and stop the process as without this handler; go on after SIGCONT."""
        with self._lock:
            self._erase()
            self._is_suspended = True
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._is_suspended = False

    def _is_in_background(self) -> bool:
        """Return whether the process is in the background, after Ctrl-Z and bg."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) != os.getpgrp()
        except (OSError, ValueError):
            return False  # not the controlling terminal

    def _run(self) -> None:
        while not self._end.wait(_EVERY_SECONDS):
            self.draw()


class _Above:
    """A standard stream that prints above the line, and otherwise behaves as the original."""

    def __init__(self, line: StatusLine, stream: TextIO) -> None:
        self._line = line
        self._stream = stream

    def write(self, text: str) -> int:
        return self._line.print(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
